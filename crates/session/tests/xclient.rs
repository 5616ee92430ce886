//! XCLIENT: a gateway says for whom it speaks, and the session begins anew.

mod support;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::server::{CloseReason, ServerConfig};
use support::{CROWDED, STRANGER, Server, TRUSTED};

const ENVELOPE: &[u8] = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";

/// A gateway, which may not relay itself.
fn gateway(config: ServerConfig) -> Server {
    let mut server = Server::new(config, STRANGER);
    server.session.set_names_clients(true);
    server.flush();
    server.send(b"EHLO gateway.test\r\n");
    server
}

/// The starts of the replies to what is sent.
fn replies(server: &mut Server, input: &[u8]) -> Vec<String> {
    server.said.clear();
    server.send(input);
    server.replies().iter().map(|reply| reply.chars().take(9).collect()).collect()
}

#[test]
fn it_is_offered_to_those_that_may_name_clients() {
    let offers = |mut server: Server| {
        server.send(b"EHLO c.test\r\n");
        String::from_utf8(server.said.clone()).unwrap().contains("XCLIENT NAME ADDR PORT PROTO")
    };
    assert!(offers(gateway(ServerConfig::default())));
    let without = ExtensionSet::ALL.without(Extension::XClient);
    let off = ServerConfig { extensions: without, ..ServerConfig::default() };
    let mut server = gateway(off.clone());
    assert_eq!(replies(&mut server, b"XCLIENT ADDR=192.0.2.1\r\n"), ["550 5.7.0"]);
    assert!(!offers(gateway(off)));
    let mut stranger = Server::introduced(ServerConfig::default(), TRUSTED);
    assert_eq!(replies(&mut stranger, b"XCLIENT ADDR=192.0.2.1\r\n"), ["550 5.7.0"]);
    assert_eq!(replies(&mut stranger, b"HELP XCLIENT\r\n"), ["504 5.5.4"]);
    assert!(!offers(stranger));
}

#[test]
fn the_named_client_counts_and_the_session_begins_anew() {
    let mut server = gateway(ServerConfig::default());
    let mut expect = |input: &[u8], expected: &[&str]| {
        assert_eq!(replies(&mut server, input), expected, "{}", input.escape_ascii());
    };
    expect(ENVELOPE, &["250 2.1.0", "550 5.7.1"]);
    expect(b"RSET\r\n", &["250 2.0.0"]);
    expect(b"XCLIENT ADDR=192.0.2.1 NAME=c.test LOGIN=x+20y\r\n", &["220 local"]);
    // What was said before is forgotten.
    expect(ENVELOPE, &["503 5.5.1", "503 5.5.1"]);
    expect(b"EHLO c.test\r\n", &["250 local"]);
    expect(ENVELOPE, &["250 2.1.0", "250 2.1.5"]);
    expect(b"XCLIENT ADDR=192.0.2.9\r\n", &["503 5.5.1"]);
    expect(b"DATA\r\n", &["354 End d"]);
    expect(b"\r\n.\r\n", &["250 2.0.0"]);
    // Whoever was named, it is the gateway that speaks; what is not said anew stays.
    expect(b"XCLIENT ADDR=IPV6:2001:db8::1 NAME=[UNAVAILABLE]\r\n", &["220 local"]);
    expect(b"HELO c.test\r\n", &["250 local"]);
    expect(ENVELOPE, &["250 2.1.0", "550 5.7.1"]);
    let named = server.session.named_client().unwrap();
    assert_eq!((named.name.as_ref(), named.login.as_deref()), (None, Some("x y")));
    assert_eq!(server.session.peer().ip, "2001:db8::1".parse::<std::net::IpAddr>().unwrap());
}

/// The twin of the test above: what another client may is of no use to the one that is named.
#[test]
fn a_gateway_that_may_relay_lends_nothing_to_its_clients() {
    let mut server = Server::new(ServerConfig::default(), TRUSTED);
    server.session.set_names_clients(true);
    server.flush();
    server.send(b"EHLO g.test\r\n");
    for address in ["192.0.2.77", "[UNAVAILABLE]", "[TEMPUNAVAIL]"] {
        let name = format!("XCLIENT ADDR={address} HELO=c.test\r\n");
        assert_eq!(replies(&mut server, name.as_bytes()), ["220 local"]);
        assert_eq!(replies(&mut server, ENVELOPE), ["250 2.1.0", "550 5.7.1"], "{address}");
        assert_eq!(replies(&mut server, b"RSET\r\n"), ["250 2.0.0"]);
    }
}

#[test]
fn the_name_and_protocol_of_the_client_are_taken() {
    for (proto, protocol) in [
        ("", "ESMTP"),
        (" PROTO=SMTP", "SMTP"),
        (" PROTO=ESMTP", "ESMTP"),
        (" PROTO=[UNAVAILABLE]", "SMTP"),
    ] {
        let mut server = gateway(ServerConfig::default());
        let name = format!("XCLIENT HELO=other.test{proto}\r\n");
        assert_eq!(replies(&mut server, name.as_bytes()), ["220 local"]);
        let session = &server.session;
        assert_eq!((session.helo(), session.protocol()), (Some("other.test"), protocol), "{proto}");
        // Its address was not said, and stays.
        assert_eq!(session.peer().ip, STRANGER.ip);
    }
}

#[test]
fn what_cannot_be_said_is_refused_and_nothing_changes() {
    let mut server = gateway(ServerConfig::default());
    for arguments in ["", "ADDR", "ADDR=x", "ADDR=192.0.2.1 ADDR=192.0.2.1", "COLOUR=red"] {
        let command = format!("XCLIENT {arguments}\r\n");
        assert_eq!(replies(&mut server, command.as_bytes()), ["501 5.5.4"], "{arguments}");
    }
    assert_eq!((server.session.peer(), server.session.helo()), (STRANGER, Some("gateway.test")));
    assert_eq!(server.session.named_client(), None);
    // Nothing can be sent ahead of the greeting.
    assert_eq!(replies(&mut server, b"XCLIENT ADDR=192.0.2.1\r\nNOOP\r\n"), ["554 5.5.0"]);
    assert_eq!(server.closed, Some(CloseReason::EarlyInput));
}

#[test]
fn a_client_with_too_many_sessions_is_turned_away() {
    let mut server = gateway(ServerConfig::default());
    let name = format!("XCLIENT ADDR={CROWDED}\r\n");
    assert_eq!(replies(&mut server, name.as_bytes()), ["421 4.7.0"]);
    assert_eq!(server.closed, Some(CloseReason::TooManyConnections));
}

#[test]
fn it_may_be_cut_at_every_octet() {
    let line = b"XCLIENT ADDR=192.0.2.1 HELO=c.test\r\n";
    for at in 1..line.len() {
        let mut server = gateway(ServerConfig::default());
        server.send(&line[..at]);
        assert_eq!(replies(&mut server, &line[at..]), ["220 local"]);
        assert_eq!(replies(&mut server, ENVELOPE), ["250 2.1.0", "250 2.1.5"]);
    }
}
