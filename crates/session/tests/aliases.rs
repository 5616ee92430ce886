//! Aliases: what stands in their place, for whom, and EXPN.

#![expect(clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use std::sync::Arc;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::server::{ServerConfig, ServerLimit};
use support::{STRANGER, Server, TRUSTED, aliases};

fn config() -> ServerConfig {
    let aliases = aliases(&[
        ("postmaster@relay.test", &["p@b.test", "q@b.test"]),
        ("ops@relay.test", &["o@b.test"]),
        ("info@a.test", &["i@b.test", "p@b.test"]),
    ]);
    ServerConfig { aliases, expn: true, vrfy: true, ..ServerConfig::default() }
}

/// What recipients come to, by the replies to RCPT and the envelope.
fn envelope(
    config: ServerConfig,
    peer: ringpost_session::server::Peer,
    rcpt: &[&str],
) -> (Vec<String>, Vec<String>) {
    let mut server = Server::introduced(config, peer);
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    server.said.clear();
    for path in rcpt {
        server.send(format!("RCPT TO:{path}\r\n").as_bytes());
    }
    let replies = server.replies();
    server.send(b"DATA\r\n");
    if server.session.envelope().is_some() && replies.iter().any(|reply| reply.starts_with("250")) {
        server.send(b".\r\n");
    }
    let paths = server.queued.first().map_or_else(Vec::new, |queued| {
        queued.envelope.forward_paths.iter().map(ToString::to_string).collect()
    });
    (replies, paths)
}

#[test]
fn members_stand_in_the_place_of_an_alias_each_once() {
    let rcpt = ["<x@b.test>", "<INFO@A.test>", "<ops@relay.test>", "<Postmaster>", "<i@b.test>"];
    let (replies, paths) = envelope(config(), TRUSTED, &rcpt);
    assert_eq!(replies, ["250 2.1.5 Ok"; 5]);
    let expected = ["<x@b.test>", "<i@b.test>", "<p@b.test>", "<o@b.test>", "<q@b.test>"];
    assert_eq!(paths, expected);
    // The twin: without the table these are addresses as others are.
    let without = ServerConfig { aliases: Arc::default(), ..config() };
    let (replies, paths) = envelope(without, TRUSTED, &rcpt);
    assert!(replies[3].starts_with("550 5.1.1"), "{replies:?}");
    assert_eq!(paths[1], "<INFO@a.test>");
}

/// RFC 5321 §4.5.1: the postmaster is for everybody, by his name with and without a domain. Nobody else is.
#[test]
fn strangers_write_to_the_postmaster_only() {
    for path in ["<postmaster>", "<PostMaster@Relay.test>"] {
        let (replies, paths) = envelope(config(), STRANGER, &[path]);
        assert_eq!(replies, ["250 2.1.5 Ok"], "{path}");
        assert_eq!(paths, ["<p@b.test>", "<q@b.test>"]);
    }
    for path in ["<ops@relay.test>", "<info@a.test>", "<postmaster@a.test>", "<p@b.test>"] {
        let (replies, paths) = envelope(config(), STRANGER, &[path]);
        assert!(replies[0].starts_with("550 5.7.1"), "{path}: {replies:?}");
        assert!(paths.is_empty());
    }
}

/// An alias comes as a whole: one that has no room in this transaction has it in the next.
#[test]
fn an_alias_counts_as_many_recipients_as_it_stands_for() {
    let config = ServerConfig { recipients_max: 3, ..config() };
    let rcpt = ["<x@b.test>", "<y@b.test>", "<postmaster>", "<z@b.test>"];
    let mut server = Server::introduced(config.clone(), TRUSTED);
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    server.said.clear();
    for path in rcpt {
        server.send(format!("RCPT TO:{path}\r\n").as_bytes());
    }
    let codes: Vec<String> = server.replies().iter().map(|reply| reply[..3].to_owned()).collect();
    assert_eq!(codes, ["250", "250", "452", "250"]);
    assert_eq!(server.session.stats().limit_hits(ServerLimit::Recipients), 1);
    assert_eq!(server.session.stats().aliases_expanded, 0);
    let (replies, paths) = envelope(config, TRUSTED, &["<postmaster>", "<x@b.test>"]);
    assert_eq!((replies.len(), paths.len()), (2, 3));
}

#[test]
fn their_dsn_parameters_count_for_each_member() {
    let rcpt = "<postmaster> NOTIFY=NEVER ORCPT=rfc822;12345";
    for (max, code) in [(33, "452"), (34, "250")] {
        let config = ServerConfig { dsn_parameters_size_max: max, ..config() };
        let mut server = Server::introduced(config, TRUSTED);
        server.send(b"MAIL FROM:<a@a.test>\r\n");
        server.said.clear();
        server.send(format!("RCPT TO:{rcpt}\r\n").as_bytes());
        assert!(server.replies()[0].starts_with(code), "{max}: {:?}", server.replies());
    }
}

fn expn(config: &ServerConfig, peer: ringpost_session::server::Peer, text: &str) -> String {
    let mut server = Server::introduced(config.clone(), peer);
    server.send(format!("EXPN {text}\r\n").as_bytes());
    String::from_utf8(server.said).unwrap()
}

#[test]
fn expn_says_for_whom_they_stand() {
    for (text, expected) in [
        ("postmaster", "250-2.1.5 <p@b.test>\r\n250 2.1.5 <q@b.test>\r\n"),
        ("<Postmaster>", "250-2.1.5 <p@b.test>\r\n250 2.1.5 <q@b.test>\r\n"),
        ("OPS", "250 2.1.5 <o@b.test>\r\n"),
        ("ops SMTPUTF8", "250 2.1.5 <o@b.test>\r\n"),
        ("info@a.test", "250-2.1.5 <i@b.test>\r\n250 2.1.5 <p@b.test>\r\n"),
        ("<info@A.test>", "250-2.1.5 <i@b.test>\r\n250 2.1.5 <p@b.test>\r\n"),
        ("info", "550 5.1.1 Not a list of ours\r\n"),
        ("x@b.test", "550 5.1.1 Not a list of ours\r\n"),
        ("x..y@b.test", "553 5.1.3 Not a mailbox\r\n"),
    ] {
        assert_eq!(expn(&config(), TRUSTED, text), expected, "{text}");
    }
}

/// The twin: there is no such command for strangers, and for nobody where it is off.
#[test]
fn expn_is_there_for_those_that_may_ask_only() {
    let off = ServerConfig { expn: false, ..config() };
    let extensions = ExtensionSet::ALL.without(Extension::Expn);
    let not_offered = ServerConfig { extensions, ..config() };
    for (config, peer, is_there) in [
        (config(), TRUSTED, true),
        (config(), STRANGER, false),
        (off, TRUSTED, false),
        (not_offered, TRUSTED, false),
    ] {
        let code = if is_there { "250" } else { "502 5.5.1" };
        assert!(expn(&config, peer, "postmaster").starts_with(code));
        let mut server = Server::new(config, peer);
        server.flush();
        server.send(b"EHLO client.test\r\n");
        let said = String::from_utf8(server.said.clone()).unwrap();
        assert_eq!(said.contains("EXPN\r\n"), is_there, "{said}");
        server.said.clear();
        server.send(b"HELP EXPN\r\n");
        assert_eq!(server.replies()[0].starts_with("214"), is_there);
    }
}

#[test]
fn expn_counts_as_a_command_without_a_message() {
    let config = ServerConfig { junk_commands_max: 2, ..config() };
    let mut server = Server::introduced(config, TRUSTED);
    server.send(b"EXPN ops\r\n");
    server.send(b"EXPN ops\r\n");
    assert!(server.replies()[1].starts_with("421 4.7.0"), "{:?}", server.replies());
}

#[test]
fn vrfy_knows_them() {
    for (text, expected) in [
        ("ops", "250 2.1.5 <o@b.test>"),
        ("Ops@relay.test", "250 2.1.5 <o@b.test>"),
        ("postmaster", "252 2.1.5 <Postmaster> is a list"),
        ("info@a.test", "252 2.1.5 <info@a.test> is a list"),
        ("nobody", "550 5.1.1 No such mailbox here"),
    ] {
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(format!("VRFY {text}\r\n").as_bytes());
        assert_eq!(server.replies(), [expected], "{text}");
    }
}
