//! ETRN: mail that waits is tried now, for those that may ask.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may be blunt")]

mod support;

use ringpost_protocol::etrn::Node;
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::server::{CloseReason, FlushOutcome, ServerConfig, ServerEvent};
use support::{Server, TRUSTED};

fn allowed(config: ServerConfig) -> Server {
    let mut server = Server::new(config, TRUSTED);
    server.session.set_may_flush(true);
    server.flush();
    server.send(b"EHLO client.test\r\n");
    server
}

/// Says a line, and lets the driver answer, if it is asked; for whom it was asked.
fn etrn(server: &mut Server, line: &str, outcome: FlushOutcome) -> (Option<String>, String) {
    server.said.clear();
    let line = format!("{line}\r\n");
    let mut content = Vec::new();
    let taken = server.session.handle_input(server.now, line.as_bytes(), &mut content);
    assert_eq!(taken, line.len());
    let mut asked = None;
    while let Some(event) = server.session.poll_event() {
        match event {
            ServerEvent::Flush => {
                // Nothing is taken until it is known, however long that takes.
                assert_eq!(server.session.handle_input(server.now, b"NOOP\r\n", &mut content), 0);
                assert!(server.session.transmit().is_empty());
                asked = server.session.flush_node().map(Node::to_string);
                server.session.handle_flush(server.now, outcome);
                assert!(server.session.flush_node().is_none());
            }
            ServerEvent::Closed(reason) => server.closed = Some(reason),
            other => panic!("{other:?}"),
        }
    }
    server.flush();
    (asked, String::from_utf8(server.said.clone()).unwrap())
}

/// RFC 1985 §5.3.
#[test]
fn each_outcome_has_its_reply() {
    let mut server = allowed(ServerConfig::default());
    for (line, outcome, asked, reply) in [
        (
            "ETRN B.test",
            FlushOutcome::Done { recipients: 7 },
            "b.test",
            "253 2.0.0 OK, 7 pending messages for node b.test started",
        ),
        (
            "etrn @b.test",
            FlushOutcome::Done { recipients: 0 },
            "@b.test",
            "251 2.0.0 OK, no messages waiting for node @b.test",
        ),
        (
            "ETRN [192.0.2.1]",
            FlushOutcome::Begun { found: true },
            "[192.0.2.1]",
            "252 2.0.0 OK, pending messages for node [192.0.2.1] started",
        ),
        (
            "ETRN b.test",
            FlushOutcome::Begun { found: false },
            "b.test",
            "250 2.0.0 OK, queuing for node b.test started",
        ),
        (
            "ETRN b.test",
            FlushOutcome::Unavailable,
            "b.test",
            "458 4.3.0 Unable to queue messages for node b.test",
        ),
    ] {
        let (node, said) = etrn(&mut server, line, outcome);
        assert_eq!((node.as_deref(), said.trim_end()), (Some(asked), reply));
    }
    assert_eq!(server.session.stats().command_errors, 1);
}

#[test]
fn what_cannot_be_asked_is_not_asked_of_the_driver() {
    let mut server = allowed(ServerConfig::default());
    for (line, reply) in [
        ("ETRN", "501 5.5.4"),
        ("ETRN a b", "501 5.5.4"),
        ("ETRN @", "501 5.5.4"),
        ("ETRN b..test", "501 5.5.4"),
        ("ETRN #night", "459 4.5.4 Node #night not allowed: "),
    ] {
        let (node, said) = etrn(&mut server, line, FlushOutcome::Unavailable);
        assert!(node.is_none() && said.starts_with(reply), "{line}: {said}");
    }
    // RFC 1985 §5: not within a transaction, which goes on.
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    let (node, said) = etrn(&mut server, "ETRN b.test", FlushOutcome::Unavailable);
    assert!(node.is_none() && said.starts_with("503 5.5.1"), "{said}");
    server.said.clear();
    server.send(b"RCPT TO:<b@b.test>\r\n");
    assert!(server.replies()[0].starts_with("250"));
}

/// The twin: there is no such command for others, nor where it is switched off.
#[test]
fn it_is_there_for_those_that_may_ask_only() {
    let extensions = ExtensionSet::ALL.without(Extension::Etrn);
    let off = ServerConfig { extensions, ..ServerConfig::default() };
    for (config, may_flush, is_there) in [
        (ServerConfig::default(), true, true),
        (ServerConfig::default(), false, false),
        (off, true, false),
    ] {
        let mut server = Server::new(config, TRUSTED);
        server.session.set_may_flush(may_flush);
        server.flush();
        server.send(b"EHLO client.test\r\n");
        let said = String::from_utf8(server.said.clone()).unwrap();
        assert_eq!(said.contains("ETRN\r\n"), is_there, "{said}");
        let (node, said) = etrn(&mut server, "ETRN b.test", FlushOutcome::Done { recipients: 1 });
        assert_eq!(node.is_some(), is_there);
        assert!(said.starts_with(if is_there { "253" } else { "502 5.5.1" }), "{said}");
        let (_, said) = etrn(&mut server, "HELP ETRN", FlushOutcome::Unavailable);
        assert_eq!(said.starts_with("214"), is_there);
    }
}

#[test]
fn it_counts_as_a_command_without_a_message() {
    let mut server = allowed(ServerConfig { junk_commands_max: 3, ..ServerConfig::default() });
    for _ in 0..2 {
        etrn(&mut server, "ETRN b.test", FlushOutcome::Done { recipients: 0 });
    }
    let (node, said) = etrn(&mut server, "ETRN b.test", FlushOutcome::Done { recipients: 0 });
    assert!(node.is_none() && said.starts_with("421 4.7.0"), "{said}");
    assert_eq!(server.closed, Some(CloseReason::TooManyJunkCommands));
}
