//! The MT-PRIORITY extension (RFC 6710) at both ends.

#![expect(clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::priority::Priority;
use ringpost_session::client::ClientConfig;
use ringpost_session::server::{Peer, ServerConfig};
use support::{Client, Message, STRANGER, Server, TRUSTED};

fn config(max: i8) -> ServerConfig {
    ServerConfig {
        hostname: "mx.test".into(),
        priority_max: Priority::new(max),
        ..ServerConfig::default()
    }
}

#[test]
fn it_is_offered_after_ehlo_where_it_is_switched_on() {
    let without = ExtensionSet::ALL.without(Extension::MtPriority);
    for (config, greeting, offered) in [
        (config(9), "EHLO", true),
        (config(9), "HELO", false),
        (ServerConfig { priority_max: None, ..config(9) }, "EHLO", false),
        (ServerConfig { extensions: without, ..config(9) }, "EHLO", false),
    ] {
        for peer in [TRUSTED, STRANGER] {
            let mut server = Server::new(config.clone(), peer);
            server.flush();
            server.said.clear();
            server.send(format!("{greeting} client.test\r\n").as_bytes());
            let said = String::from_utf8(std::mem::take(&mut server.said)).unwrap();
            assert_eq!(said.contains("250-MT-PRIORITY\r\n"), offered, "{said}");
            server.send(b"MAIL FROM:<a@a.test> MT-PRIORITY=-1\r\n");
            let expected = if offered { "250 2.1.0" } else { "555 5.5.4" };
            assert!(server.replies()[0].starts_with(expected), "{:?}", server.replies());
        }
    }
}

/// What a MAIL is answered, and the priority that its message gets.
fn asked(config: ServerConfig, peer: Peer, parameters: &str) -> (String, Option<(i8, Option<i8>)>) {
    let mut server = Server::introduced(config, peer);
    server.send(format!("MAIL FROM:<a@a.test>{parameters}\r\n").as_bytes());
    let reply = server.replies()[0].clone();
    let given = server.session.priority_given().map(Priority::level);
    let envelope = server.session.envelope();
    (reply, envelope.map(|envelope| (envelope.priority.level(), given)))
}

#[test]
fn a_priority_is_taken_up_to_the_highest_that_the_client_may_have() {
    const OK: &str = "250 2.1.0 Ok";
    for (max, peer, parameters, reply, taken) in [
        (9, TRUSTED, "", OK, Some((0, None))),
        (9, TRUSTED, " MT-PRIORITY=0", OK, Some((0, Some(0)))),
        (9, TRUSTED, " mt-priority=9 BODY=7BIT", OK, Some((9, Some(9)))),
        (9, TRUSTED, " MT-PRIORITY=-9", OK, Some((-9, Some(-9)))),
        (3, TRUSTED, " MT-PRIORITY=3", OK, Some((3, Some(3)))),
        (3, TRUSTED, " MT-PRIORITY=4", "250 2.3.6 3 is", Some((3, Some(3)))),
        (-2, TRUSTED, " MT-PRIORITY=0", "250 2.3.6 -2 is", Some((-2, Some(-2)))),
        (9, STRANGER, " MT-PRIORITY=1", "250 2.3.6 0 is", Some((0, Some(0)))),
        (9, STRANGER, " MT-PRIORITY=-1", OK, Some((-1, Some(-1)))),
        (-2, STRANGER, " MT-PRIORITY=9", "250 2.3.6 -2 is", Some((-2, Some(-2)))),
        (9, TRUSTED, " MT-PRIORITY=10", "501 5.5.4", None),
        (9, TRUSTED, " MT-PRIORITY=-10", "501 5.5.4", None),
        (9, TRUSTED, " MT-PRIORITY=+1", "501 5.5.4", None),
        (9, TRUSTED, " MT-PRIORITY=", "501 5.5.4", None),
        (9, TRUSTED, " MT-PRIORITY", "501 5.5.4", None),
        (9, TRUSTED, " MT-PRIORITY=1 MT-PRIORITY=1", "501 5.5.4", None),
    ] {
        let (said, got) = asked(config(max), peer, parameters);
        assert!(said.starts_with(reply), "{parameters}: {said}");
        assert_eq!(got, taken, "{max} {parameters}");
    }
}

/// What a client says of a message of this priority to a server with these extensions.
fn mail(extensions: &str, level: i8) -> String {
    let mut client = Client::new(ClientConfig::default());
    client.hear(b"220 mx.test\r\n");
    client.hear(format!("250-mx.test\r\n{extensions}250 PIPELINING\r\n").as_bytes());
    client.take_said();
    let message = Message::new("<a@a.test>", &["<b@b.test>"], b"a: b\r\n");
    client.start(&Message { priority: Priority::new(level).unwrap(), ..message });
    client.take_said().lines().next().unwrap().to_owned()
}

#[test]
fn it_is_passed_on_to_servers_that_offer_it() {
    assert_eq!(mail("250-MT-PRIORITY\r\n", 5), "MAIL FROM:<a@a.test> MT-PRIORITY=5");
    assert_eq!(mail("250-mt-priority MIXER\r\n", -9), "MAIL FROM:<a@a.test> MT-PRIORITY=-9");
    assert_eq!(mail("250-MT-PRIORITY\r\n", 0), "MAIL FROM:<a@a.test>");
    assert_eq!(mail("", 5), "MAIL FROM:<a@a.test>");
}
