//! VRFY: what RCPT would say, to those that may ask.

mod support;

use std::sync::Arc;

use ringpost_session::server::ServerConfig;
use support::{STRANGER, Server, TRUSTED, postmaster};

fn replies(config: &ServerConfig, texts: &[&str]) -> Vec<String> {
    let mut server = Server::introduced(config.clone(), TRUSTED);
    for text in texts {
        server.send(format!("VRFY {text}\r\n").as_bytes());
    }
    server.replies()
}

#[test]
fn it_says_what_rcpt_would() {
    let config =
        ServerConfig { vrfy: true, aliases: postmaster("root@a.test"), ..ServerConfig::default() };
    for (text, expected) in [
        ("b@B.test", "252 2.1.5 <b@b.test> would be sent there"),
        ("<b@b.test>", "252 2.1.5 <b@b.test> would be sent there"),
        ("\"a b\"@b.test", "252 2.1.5 <\"a b\"@b.test> would be sent there"),
        ("Postmaster", "250 2.1.5 <root@a.test>"),
        ("<postmaster>", "250 2.1.5 <root@a.test>"),
        ("someone", "550 5.1.1 No such mailbox here"),
        ("a..b@c.test", "553 5.1.3 Not a mailbox"),
        ("b@[192.0.2.1]", "550 5.1.2 Address literals are not accepted"),
    ] {
        assert_eq!(replies(&config, &[text]), [expected], "{text}");
    }
    let without = ServerConfig { aliases: Arc::default(), address_literals: true, ..config };
    let said = replies(&without, &["postmaster", "b@[192.0.2.1]"]);
    assert!(said[0].starts_with("550 5.1.1") && said[1].starts_with("252 2.1.5"), "{said:?}");
}

/// The twin: nothing is told to strangers, and to nobody where it is off.
#[test]
fn it_tells_nothing_to_others() {
    let on = ServerConfig { vrfy: true, ..ServerConfig::default() };
    for (config, peer) in [(on, STRANGER), (ServerConfig::default(), TRUSTED)] {
        let mut server = Server::introduced(config, peer);
        for text in ["b@b.test", "a..b@c.test", "someone", "postmaster"] {
            server.said.clear();
            server.send(format!("VRFY {text}\r\n").as_bytes());
            assert!(server.replies()[0].starts_with("252 2.5.2"), "{text}");
        }
    }
}

/// Whoever asks for many addresses is cut off, as by other commands that help no message along.
#[test]
fn it_counts_as_a_command_without_a_message() {
    let config = ServerConfig { vrfy: true, junk_commands_max: 3, ..ServerConfig::default() };
    let said = replies(&config, &["a@b.test", "b@b.test"]);
    assert!(said.iter().all(|reply| reply.starts_with("252")), "{said:?}");
    let said = replies(&config, &["a@b.test", "b@b.test", "c@b.test"]);
    assert!(said[2].starts_with("421 4.7.0"), "{said:?}");
}
