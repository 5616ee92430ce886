//! Messages that are to be sent later (RFC 4865).

mod support;

use std::time::Duration;

use ringpost_session::server::{Peer, ServerConfig, TransactionRefusal};
use support::{STRANGER, Server, TRUSTED, UNIX_MS, postmaster};

fn config() -> ServerConfig {
    ServerConfig {
        hostname: "mx.test".into(),
        future_release_max: Duration::from_hours(1),
        ..ServerConfig::default()
    }
}

/// A server that has heard the greeting command.
fn greeted(config: ServerConfig, peer: Peer, greeting: &str) -> Server {
    let mut server = Server::new(config, peer);
    server.flush();
    server.said.clear();
    server.send(format!("{greeting} client.test\r\n").as_bytes());
    server
}

#[test]
fn it_is_offered_to_those_that_may_relay() {
    let offer = "250-FUTURERELEASE 3600 2023-11-14T23:13:20Z\r\n";
    for (peer, max, greeting, offered) in [
        (TRUSTED, 3600, "EHLO", true),
        (TRUSTED, 3600, "HELO", false),
        (STRANGER, 3600, "EHLO", false),
        (TRUSTED, 0, "EHLO", false),
    ] {
        let future_release_max = Duration::from_secs(max);
        let config = ServerConfig { future_release_max, ..config() };
        let mut server = greeted(config, peer, greeting);
        let said = String::from_utf8(std::mem::take(&mut server.said)).unwrap();
        assert_eq!(said.contains(offer), offered, "{said}");
        assert_eq!(said.contains("FUTURE"), offered, "{said}");
        server.send(b"MAIL FROM:<a@a.test> HOLDFOR=1\r\n");
        let expected = if offered { "250 2.1.0" } else { "555 5.5.4" };
        assert!(server.replies()[0].starts_with(expected), "{:?}", server.replies());
    }
}

#[test]
fn holds_up_to_the_limit_are_taken() {
    let table = [
        ("HOLDFOR=1", Ok(Some(UNIX_MS + 1000))),
        ("HOLDFOR=3600", Ok(Some(UNIX_MS + 3_600_000))),
        ("HOLDFOR=3601", Err("501 5.5.4")),
        ("HOLDFOR=999999999", Err("501 5.5.4")),
        ("SIZE=10 holduntil=2023-11-14T23:13:20Z BODY=7BIT", Ok(Some(UNIX_MS + 3_600_000))),
        ("HOLDUNTIL=2023-11-15T00:13:20+01:00", Ok(Some(UNIX_MS + 3_600_000))),
        ("HOLDUNTIL=2023-11-14T23:13:20.001Z", Err("501 5.5.4")),
        ("HOLDUNTIL=2023-11-14T22:13:20.001Z", Ok(Some(UNIX_MS + 1))),
        // What is past holds nothing.
        ("HOLDUNTIL=2023-11-14T22:13:20Z", Ok(None)),
        ("HOLDUNTIL=1969-01-01T00:00:00Z", Ok(None)),
        ("HOLDUNTIL=9999-12-31T23:59:59Z", Err("501 5.5.4")),
        ("HOLDFOR=10 HOLDUNTIL=2023-11-14T23:13:20Z", Err("501 5.5.4")),
        ("HOLDFOR=10 HOLDFOR=10", Err("501 5.5.4")),
        ("HOLDFOR=0", Err("501 5.5.4")),
        ("HOLDUNTIL=tomorrow", Err("501 5.5.4")),
        ("BODY=7BIT", Ok(None)),
    ];
    for (parameters, expected) in table {
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(format!("MAIL FROM:<a@a.test> {parameters}\r\n").as_bytes());
        match expected {
            Ok(hold_until) => {
                server.send(b"RCPT TO:<b@b.test>\r\nDATA\r\n");
                server.send(b"a: b\r\n\r\ntext\r\n.\r\n");
                assert_eq!(server.queued[0].hold_until, hold_until, "{parameters}");
            }
            Err(reply) => {
                assert!(server.replies()[0].starts_with(reply), "{:?}", server.replies());
                server.send(b"RCPT TO:<b@b.test>\r\n");
                assert!(server.replies()[1].starts_with("503"), "no transaction: {parameters}");
            }
        }
    }
}

#[test]
fn a_hold_belongs_to_its_message_only() {
    let mut server = Server::introduced(config(), TRUSTED);
    let rest = b"RCPT TO:<b@b.test>\r\nDATA\r\n";
    server.send(b"MAIL FROM:<a@a.test> HOLDFOR=5\r\nRSET\r\nMAIL FROM:<a@a.test>\r\n");
    server.send(rest);
    server.send(b"one\r\n.\r\nMAIL FROM:<a@a.test> HOLDFOR=5\r\n");
    server.send(rest);
    server.send(b"two\r\n.\r\nMAIL FROM:<a@a.test>\r\n");
    server.send(rest);
    server.send(b"three\r\n.\r\n");
    let holds: Vec<_> = server.queued.iter().map(|queued| queued.hold_until).collect();
    assert_eq!(holds, [None, Some(UNIX_MS + 5000), None]);
}

/// The clock of the limit is that of the last input, not that of the connection.
#[test]
fn the_limit_moves_with_the_clock() {
    let mut server = Server::introduced(config(), TRUSTED);
    let mail = b"MAIL FROM:<a@a.test> HOLDUNTIL=2023-11-14T23:13:21Z\r\n";
    server.send(mail);
    server.session.set_unix_ms(UNIX_MS + 1000);
    server.send(mail);
    let replies = server.replies();
    assert!(replies[0].starts_with("501") && replies[1].starts_with("250"), "{replies:?}");
}

/// However the octets come, the dialogue is the same.
#[test]
fn splits_do_not_matter() {
    let dialogue: [&[u8]; 3] = [
        b"EHLO client.test\r\n",
        b"MAIL FROM:<a@a.test> HOLDUNTIL=2023-11-14T23:13:19.5Z SIZE=9\r\nRCPT TO:<b@b.test>\r\nDATA\r\n",
        b"a: b\r\n\r\ntext\r\n.\r\nMAIL FROM:<a@a.test> HOLDFOR=9999\r\nMAIL FROM:<> HOLDFOR=7\r\nRSET\r\nNOOP\r\n",
    ];
    let whole = {
        let mut server = Server::new(config(), TRUSTED);
        server.flush();
        for segment in dialogue {
            server.send(segment);
        }
        (server.replies(), server.queued)
    };
    assert_eq!(whole.1[0].hold_until, Some(UNIX_MS + 3_599_500));
    assert_eq!(whole.0.len(), 10);
    for (index, segment) in dialogue.iter().enumerate() {
        for at in 1..segment.len() {
            let mut server = Server::new(config(), TRUSTED);
            server.flush();
            for (other, segment) in dialogue.iter().enumerate() {
                let (head, tail) = segment.split_at(if other == index { at } else { 0 });
                if !head.is_empty() {
                    server.send(head);
                }
                server.send(tail);
            }
            assert_eq!((server.replies(), &server.queued), (whole.0.clone(), &whole.1), "{at}");
        }
    }
}

fn with_header() -> ServerConfig {
    ServerConfig { not_before_header: Some("X-Later".into()), ..config() }
}

/// Sends content in pieces.
fn send_content<'a>(server: &mut Server, mail: &str, pieces: impl Iterator<Item = &'a [u8]>) {
    let envelope = format!("MAIL FROM:<a@a.test>{mail}\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
    server.send(envelope.as_bytes());
    for piece in pieces {
        server.send(piece);
    }
}

/// For how long it is held and what is queued, or why it is refused.
type Outcome<'a> = Result<(u64, &'a str), &'a str>;

#[test]
fn a_header_field_can_hold_a_message_and_is_taken_out() {
    let long = format!("X-Later: 1{}\r\n\r\n.\r\n", " ".repeat(300));
    let table: [(&str, Outcome<'_>); 14] = [
        ("A: b\r\n\r\ntext\r\n.\r\n", Ok((0, "A: b\r\n\r\ntext\r\n"))),
        ("X-Later: 1700000100\r\n\r\ntext\r\n.\r\n", Ok((100_000, "\r\ntext\r\n"))),
        (
            "A: b\r\nx-later:\r\n Tue, 14 Nov 2023 22:13:30 +0000\r\n (UTC)\r\nC: d\r\n\r\n..\r\n.\r\n",
            Ok((10_000, "A: b\r\nC: d\r\n\r\n.\r\n")),
        ),
        ("X-Later: 2023-11-14T23:13:20Z\r\n\r\n.\r\n", Ok((3_600_000, "\r\n"))),
        ("X-Later: 2023-11-14T23:13:20.001Z\r\n\r\n.\r\n", Err("X-Later: messages are not held")),
        ("X-Later: 2038-01-19T03:14:08Z\r\n\r\n.\r\n", Err("X-Later: messages are not held")),
        ("X-Later: 1000000000\r\n\r\n.\r\n", Ok((0, "\r\n"))),
        ("X-Later: tomorrow\r\n\r\n.\r\n", Err("X-Later: not a date")),
        ("X-Later:\r\n\r\n.\r\n", Err("X-Later: not a date")),
        ("X-Later: \u{fc}\r\n\r\n.\r\n", Err("X-Later: not a date")),
        (&long, Err("X-Later: not a date")),
        (
            "X-Later: 1700000100\r\nX-Later: 1700000100\r\n\r\n.\r\n",
            Err("X-Later: there can be only"),
        ),
        ("A: b\r\n\r\nX-Later: tomorrow\r\n.\r\n", Ok((0, "A: b\r\n\r\nX-Later: tomorrow\r\n"))),
        ("text\r\nX-Later: tomorrow\r\n.\r\n", Ok((0, "text\r\nX-Later: tomorrow\r\n"))),
    ];
    for (content, expected) in table {
        for size in [1, 2, 7, content.len()] {
            let mut server = Server::introduced(with_header(), TRUSTED);
            send_content(&mut server, "", content.as_bytes().chunks(size));
            match expected {
                Ok((held, passed)) => {
                    let queued = &server.queued[0];
                    assert_eq!(String::from_utf8_lossy(&queued.content), passed, "{content:?}");
                    let hold_until = (held > 0).then_some(UNIX_MS + held);
                    assert_eq!(queued.hold_until, hold_until, "{content:?}");
                }
                Err(reason) => {
                    let reply = &server.replies()[3];
                    assert!(reply.starts_with(&format!("550 5.6.0 {reason}")), "{reply}");
                    assert_eq!((server.queued.len(), server.aborted), (0, 1));
                    let refused = server.session.stats();
                    assert_eq!(refused.transactions_refused(TransactionRefusal::Hold), 1);
                    // The session goes on.
                    send_content(&mut server, "", [&b"text\r\n.\r\n"[..]].into_iter());
                    assert_eq!(server.queued.len(), 1);
                }
            }
        }
    }
}

#[test]
fn the_later_of_two_times_counts() {
    for (mail, field, held) in [
        (" HOLDFOR=100", "1700000050", 100_000),
        (" HOLDFOR=100", "1700000150", 150_000),
        (" HOLDFOR=100", "1600000000", 100_000),
        ("", "1700000050", 50_000),
    ] {
        let mut server = Server::introduced(with_header(), TRUSTED);
        let content = format!("X-Later: {field}\r\n\r\n.\r\n");
        send_content(&mut server, mail, [content.as_bytes()].into_iter());
        assert_eq!(server.queued[0].hold_until, Some(UNIX_MS + held), "{mail} {field}");
    }
}

/// Whoever may not relay sends text, and so does everybody where no field is looked for.
#[test]
fn the_field_is_left_alone_elsewhere() {
    let content = b"X-Later: tomorrow\r\n\r\n.\r\n";
    for (config, peer) in [(with_header(), STRANGER), (config(), TRUSTED)] {
        let config = ServerConfig { aliases: postmaster("p@b.test"), ..config };
        let mut server = Server::introduced(config, peer);
        server.send(b"MAIL FROM:<a@a.test>\r\nRCPT TO:<Postmaster>\r\nDATA\r\n");
        server.send(content);
        assert_eq!(server.queued[0].content, b"X-Later: tomorrow\r\n\r\n");
        assert_eq!(server.queued[0].hold_until, None);
    }
}
