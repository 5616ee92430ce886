//! The REQUIRETLS extension (RFC 8689) at both ends.

mod support;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::client::{ClientConfig, ClientTls, ClientTlsInfo};
use ringpost_session::server::{ServerConfig, TlsInfo, TlsPolicy, TlsVersion};
use support::{Client, Message, Server, TRUSTED};

const MAIL: &str = "MAIL FROM:<a@a.test> REQUIRETLS\r\n";

fn server(extensions: ExtensionSet) -> Server {
    let config = ServerConfig {
        hostname: "mx.test".into(),
        tls: TlsPolicy::Optional,
        extensions,
        ..ServerConfig::default()
    };
    Server::introduced(config, TRUSTED)
}

fn under_tls(server: &mut Server) {
    server.send(b"STARTTLS\r\n");
    assert!(std::mem::take(&mut server.starts_tls));
    let info = TlsInfo { version: TlsVersion::V1_3, cipher: "TLS_X", server_name: None };
    server.session.handle_tls(server.now, info);
    server.flush();
    server.said.clear();
}

fn said(server: &mut Server, octets: &str) -> String {
    server.said.clear();
    server.send(octets.as_bytes());
    String::from_utf8_lossy(&std::mem::take(&mut server.said)).into_owned()
}

#[test]
fn it_is_offered_and_taken_under_tls_only() {
    let mut server = server(ExtensionSet::ALL);
    assert!(!said(&mut server, "EHLO c.test\r\n").contains("REQUIRETLS"));
    assert!(said(&mut server, MAIL).starts_with("555 5.5.4"));
    under_tls(&mut server);
    assert!(said(&mut server, "EHLO c.test\r\n").contains("250-REQUIRETLS\r\n"));
    assert!(said(&mut server, MAIL).starts_with("250 "));
    server.send(b"RCPT TO:<b@b.test>\r\nDATA\r\n");
    server.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    server.send(b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
    server.send(b"Subject: y\r\n\r\ny\r\n.\r\n");
    let required: Vec<bool> =
        server.queued.iter().map(|queued| queued.envelope.require_tls).collect();
    assert_eq!(required, [true, false], "what was asked of one message holds for that alone");
    // After HELO there are no extensions.
    assert!(said(&mut server, "HELO c.test\r\n").starts_with("250 "));
    assert!(said(&mut server, MAIL).starts_with("555 5.5.4"));
}

#[test]
fn it_can_be_switched_off() {
    let mut server = server(ExtensionSet::ALL.without(Extension::RequireTls));
    under_tls(&mut server);
    assert!(!said(&mut server, "EHLO c.test\r\n").contains("REQUIRETLS"));
    assert!(said(&mut server, MAIL).starts_with("555 5.5.4"));
}

/// A client that is ready, with TLS or not, at a server that says this to EHLO.
fn ready(verified: Option<bool>, ehlo: &[u8]) -> Client {
    let config = ClientConfig { helo_name: "c.test".into(), ..ClientConfig::default() };
    let mut client = Client::with_tls(config, ClientTls::Opportunistic);
    client.hear(b"220 mx.test\r\n");
    if let Some(verified) = verified {
        client.hear(b"250-mx.test\r\n250 STARTTLS\r\n");
        client.hear(b"220 go\r\n");
        let info = ClientTlsInfo { version: TlsVersion::V1_3, cipher: "TLS_X", verified };
        client.session.handle_tls(client.now, info);
        client.drive();
    }
    client.hear(ehlo);
    client.take_said();
    client
}

#[test]
fn it_goes_over_verified_tls_to_hosts_that_offer_it_and_nowhere_else() {
    let with: &[u8] = b"250-mx.test\r\n250 REQUIRETLS\r\n";
    let without: &[u8] = b"250 mx.test\r\n";
    for (verified, ehlo, expected) in [
        (Some(true), with, None),
        (Some(true), without, Some("idle 5.7.30")),
        (Some(false), with, Some("idle 4.7.10")),
        (Some(false), without, Some("idle 4.7.10")),
        // What is said in plain text may be anybody's word.
        (None, with, Some("idle 4.7.10")),
        (None, without, Some("idle 4.7.10")),
    ] {
        let mut client = ready(verified, ehlo);
        let mut message = Message::new("<a@a.test>", &["<b@b.test>"], b"x\r\n");
        message.require_tls = true;
        client.start(&message);
        let said = client.take_said();
        if let Some(expected) = expected {
            assert_eq!((client.last_report(), said.as_str()), (vec![expected.to_owned()], ""));
            // The session is as good as before, for other mail.
            message.require_tls = false;
            client.start(&message);
            assert_eq!(client.take_said(), "MAIL FROM:<a@a.test>\r\n");
        } else {
            assert_eq!(said, "MAIL FROM:<a@a.test> REQUIRETLS\r\n");
        }
    }
    // Mail without the demand does not get it.
    let mut client = ready(Some(true), with);
    client.start(&Message::new("<a@a.test>", &["<b@b.test>"], b"x\r\n"));
    assert_eq!(client.take_said(), "MAIL FROM:<a@a.test>\r\n");
}
