//! Messages that go on without TLS rather than not at all (`TLS-Required: No`, RFC 8689 §3).

mod support;

use ringpost_protocol::label::LabelText;
use ringpost_session::server::{ServerConfig, TlsInfo, TlsPolicy, TlsVersion};
use support::{STRANGER, Server, TRUSTED, postmaster};

const ENVELOPE: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<Postmaster>\r\n";
const CONTENT: &str = "Subject: x\r\nTLS-Required: No\r\n\r\nx\r\n";

fn config() -> ServerConfig {
    ServerConfig {
        hostname: "mx.test".into(),
        tls: TlsPolicy::Optional,
        aliases: postmaster("p@b.test"),
        ..ServerConfig::default()
    }
}

fn send_by_data(server: &mut Server, content: &str) {
    server.send(format!("{ENVELOPE}DATA\r\n").as_bytes());
    server.send(format!("{content}.\r\n").as_bytes());
}

fn send_by_bdat(server: &mut Server, content: &str) {
    let (first, rest) = content.split_at(content.len() / 2);
    let (one, two) = (first.len(), rest.len());
    server.send(format!("{ENVELOPE}BDAT {one}\r\n{first}BDAT {two} LAST\r\n{rest}").as_bytes());
}

#[test]
fn it_counts_whoever_sends_it_and_stays_in_the_message() {
    for peer in [TRUSTED, STRANGER] {
        for send in [send_by_data, send_by_bdat] {
            let mut server = Server::introduced(config(), peer);
            send(&mut server, CONTENT);
            let [queued] = &*server.queued else { panic!("{:?}", server.replies()) };
            assert!(queued.envelope.tls_optional);
            assert_eq!(String::from_utf8_lossy(&queued.content), CONTENT);
        }
    }
}

#[test]
fn it_holds_for_its_message_alone() {
    let mut server = Server::introduced(config(), TRUSTED);
    for content in [CONTENT, "Subject: y\r\n\r\nTLS-Required: No\r\n", CONTENT] {
        send_by_data(&mut server, content);
    }
    let found: Vec<bool> = server.queued.iter().map(|one| one.envelope.tls_optional).collect();
    assert_eq!(found, [true, false, true]);
}

#[test]
fn it_can_be_switched_off() {
    let config = ServerConfig { tls_required_field: false, ..config() };
    let mut server = Server::introduced(config, TRUSTED);
    send_by_data(&mut server, CONTENT);
    assert!(!server.queued[0].envelope.tls_optional);
    assert_eq!(String::from_utf8_lossy(&server.queued[0].content), CONTENT);
}

#[test]
fn requiretls_counts_before_it() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(b"STARTTLS\r\n");
    assert!(std::mem::take(&mut server.starts_tls));
    let info = TlsInfo { version: TlsVersion::V1_3, cipher: "TLS_X", server_name: None };
    server.session.handle_tls(server.now, info);
    server.flush();
    server.send(b"EHLO c.test\r\n");
    server.send(ENVELOPE.replacen("\r\n", " REQUIRETLS\r\n", 1).as_bytes());
    server.send(b"DATA\r\n");
    server.send(format!("{CONTENT}.\r\n").as_bytes());
    send_by_data(&mut server, CONTENT);
    let found =
        server.queued.iter().map(|one| (one.envelope.require_tls, one.envelope.tls_optional));
    assert_eq!(found.collect::<Vec<_>>(), [(true, false), (false, true)]);
}

/// The section is edited at the same time.
#[test]
fn it_counts_beside_fields_that_are_taken_out_and_added() {
    let config = ServerConfig {
        add_missing_fields: true,
        tenant_header: Some("X-Tenant".into()),
        ..config()
    };
    let mut server = Server::introduced(config, TRUSTED);
    send_by_data(&mut server, &format!("X-Tenant: acme\r\n{CONTENT}"));
    let envelope = &server.queued[0].envelope;
    assert_eq!(envelope.labels.tenant.as_ref().map(LabelText::as_str), Some("acme"));
    assert!(envelope.tls_optional);
}
