//! AUTH by means of TLS: what is offered on which channel.

mod support;

use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use ringpost_session::server::{
    AuthPolicy, AuthQuestion, CertificateRights, ServerConfig, TlsInfo, TlsPolicy, TlsVersion,
};
use support::{STRANGER, Server};

fn config() -> ServerConfig {
    let mechanisms = MechanismSet::from_iter(Mechanism::ALL);
    let auth = AuthPolicy { mechanisms, without_tls: true, ..AuthPolicy::default() };
    let tls = TlsPolicy::Optional;
    ServerConfig { hostname: "mx.test".into(), auth, tls, ..ServerConfig::default() }
}

fn start_tls(server: &mut Server, version: TlsVersion) {
    server.send(b"STARTTLS\r\n");
    assert!(std::mem::take(&mut server.starts_tls), "no handshake was asked for");
    let info = TlsInfo { version, cipher: "TLS_AES_256_GCM_SHA384", server_name: None };
    server.session.handle_tls(server.now, info);
    server.flush();
}

/// The mechanisms in the reply to EHLO.
fn offered(server: &mut Server) -> String {
    server.said.clear();
    server.send(b"EHLO c.test\r\n");
    let said = String::from_utf8_lossy(&server.said).into_owned();
    said.lines().find_map(|line| line.split_once("AUTH ")).map_or("", |(_, list)| list).to_owned()
}

fn replies(server: &mut Server, lines: &str) -> Vec<String> {
    server.said.clear();
    server.send(format!("{}\r\n", lines.replace('|', "\r\n")).as_bytes());
    server.replies().iter().map(|reply| reply.chars().take(9).collect()).collect()
}

#[test]
fn binding_is_offered_where_the_channel_is_unique() {
    let mut server = Server::introduced(config(), STRANGER);
    assert_eq!(offered(&mut server), "SCRAM-SHA-256 PLAIN LOGIN");
    assert_eq!(replies(&mut server, "AUTH SCRAM-SHA-256-PLUS Zmlyc3Q="), ["504 5.5.4"]);
    for (version, expected) in [
        (TlsVersion::V1_2, "SCRAM-SHA-256 PLAIN LOGIN"),
        (TlsVersion::V1_3, "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"),
    ] {
        let mut server = Server::introduced(config(), STRANGER);
        start_tls(&mut server, version);
        assert_eq!(offered(&mut server), expected);
        // `first`, `last`, and an empty response to the server's proof.
        let said = replies(&mut server, "AUTH SCRAM-SHA-256-PLUS Zmlyc3Q=");
        assert_eq!(said[0].starts_with("334 "), version == TlsVersion::V1_3, "{said:?}");
        if version == TlsVersion::V1_3 {
            assert!(replies(&mut server, "bGFzdA==")[0].starts_with("334 "));
            assert_eq!(replies(&mut server, ""), ["235 2.7.0"]);
            assert!(server.session.user().is_some());
            assert_eq!(offered(&mut server), "", "once is enough");
        }
    }
}

/// Who has to find out whether the client was misled knows what it was offered.
#[test]
fn a_question_says_whether_binding_was_offered() {
    for (version, without, expected) in [
        (Some(TlsVersion::V1_3), None, true),
        (Some(TlsVersion::V1_3), Some(Mechanism::ScramSha256Plus), false),
        (Some(TlsVersion::V1_2), None, false),
        (None, None, false),
    ] {
        let mut config = config();
        if let Some(mechanism) = without {
            config.auth.mechanisms = config.auth.mechanisms.without(mechanism);
        }
        let mut server = Server::introduced(config, STRANGER);
        if let Some(version) = version {
            start_tls(&mut server, version);
        }
        for line in ["EHLO c.test", "AUTH SCRAM-SHA-256 Zmlyc3Q=", "bGFzdA=="] {
            server.send(format!("{line}\r\n").as_bytes());
        }
        let found: Vec<bool> = server
            .questions
            .iter()
            .map(|question| matches!(question, AuthQuestion::Response { offers_binding: true, .. }))
            .collect();
        assert_eq!(found, [expected; 2], "{version:?} {without:?}");
    }
}

#[test]
fn a_binding_that_does_not_fit_is_a_failure() {
    let mut server = Server::introduced(config(), STRANGER);
    start_tls(&mut server, TlsVersion::V1_3);
    server.send(b"EHLO c.test\r\n");
    for _ in 0..2 {
        let said = replies(&mut server, "AUTH SCRAM-SHA-256-PLUS Zmlyc3Q=|Ym91bmQ=");
        assert!(said[0].starts_with("334 ") && said[1] == "535 5.7.8", "{said:?}");
    }
    let said = replies(&mut server, "AUTH SCRAM-SHA-256-PLUS Zmlyc3Q=|Ym91bmQ=");
    assert_eq!(said.last().map(String::as_str), Some("421 4.7.0"));
    assert!(server.session.user().is_none() && server.closed.is_some());
}

const RIGHTS: CertificateRights = CertificateRights { is_user: true, may_relay: false };

/// A session over TLS whose client has shown a certificate.
fn shown(rights: CertificateRights) -> Server {
    let mut server = Server::introduced(config(), STRANGER);
    start_tls(&mut server, TlsVersion::V1_2);
    server.session.set_certificate_rights(rights);
    server.send(b"EHLO c.test\r\n");
    server
}

#[test]
fn external_is_offered_to_users_with_a_certificate_alone() {
    let mut server = shown(RIGHTS);
    assert_eq!(offered(&mut server), "EXTERNAL SCRAM-SHA-256 PLAIN LOGIN");
    for (line, expected) in [
        // As whom is not said; as `user`; as `boss`.
        ("AUTH EXTERNAL =", "235 2.7.0"),
        ("AUTH EXTERNAL|", "334|235 2.7.0"),
        ("AUTH EXTERNAL dXNlcg==", "235 2.7.0"),
        ("AUTH EXTERNAL|dXNlcg==", "334|235 2.7.0"),
        ("AUTH EXTERNAL Ym9zcw==", "535 5.7.8"),
        // Not UTF-8, NUL in it, not base64, cancelled.
        ("AUTH EXTERNAL //8=", "501 5.5.2"),
        ("AUTH EXTERNAL dXMAcg==", "501 5.5.2"),
        ("AUTH EXTERNAL dXNlcg", "501 5.5.2"),
        ("AUTH EXTERNAL|*", "334|501 5.7.0"),
    ] {
        let mut server = shown(RIGHTS);
        let said = replies(&mut server, line).join("|");
        assert_eq!(said, expected, "{line}");
        assert_eq!(server.session.user().is_some(), said.ends_with("235 2.7.0"), "{line}");
    }
    // Without a certificate, with one that is nobody's, and without TLS.
    let mut without = shown(CertificateRights::default());
    let mut plain = Server::introduced(config(), STRANGER);
    plain.session.set_certificate_rights(RIGHTS);
    for server in [&mut without, &mut plain] {
        assert_eq!(offered(server), "SCRAM-SHA-256 PLAIN LOGIN");
        assert_eq!(replies(server, "AUTH EXTERNAL ="), ["504 5.5.4"]);
        assert!(server.questions.is_empty());
    }
}

#[test]
fn a_certificate_may_relay_and_vouches_for_nobody_else() {
    const MAIL: &str = "MAIL FROM:<a@a.test>|RCPT TO:<b@b.test>";

    let trusted = CertificateRights { is_user: true, may_relay: true };
    let mut server = shown(trusted);
    assert_eq!(replies(&mut server, MAIL), ["250 2.1.0", "250 2.1.5"]);
    let mut server = shown(RIGHTS);
    assert_eq!(replies(&mut server, MAIL)[1], "550 5.7.1", "to be a user is to say so");
    // A gateway with a certificate speaks for somebody who has none.
    let mut server = shown(trusted);
    server.session.set_names_clients(true);
    replies(&mut server, "XCLIENT ADDR=192.0.2.77");
    assert_eq!(offered(&mut server), "SCRAM-SHA-256 PLAIN LOGIN");
    assert_eq!(replies(&mut server, MAIL)[1], "550 5.7.1");
    // And so when it shows the certificate after it has named that client.
    let mut server = Server::introduced(config(), STRANGER);
    server.session.set_names_clients(true);
    replies(&mut server, "XCLIENT ADDR=192.0.2.77");
    server.send(b"EHLO c.test\r\n");
    start_tls(&mut server, TlsVersion::V1_3);
    server.session.set_certificate_rights(trusted);
    server.send(b"EHLO c.test\r\n");
    assert_eq!(replies(&mut server, MAIL)[1], "550 5.7.1");
}

/// A user that is one no more leaves nothing behind but the certificate, which may be shown again.
#[test]
fn a_user_that_is_gone_may_send_no_more() {
    let mut config = config();
    config.auth.required = true;
    let mut server = Server::introduced(config, STRANGER);
    start_tls(&mut server, TlsVersion::V1_3);
    server.session.set_certificate_rights(RIGHTS);
    server.send(b"EHLO c.test\r\n");
    server.session.change_user(None);
    assert_eq!(replies(&mut server, "AUTH EXTERNAL ="), ["235 2.7.0"]);
    // Within a transaction it has to wait.
    assert_eq!(replies(&mut server, "MAIL FROM:<a@a.test>"), ["250 2.1.0"]);
    server.session.change_user(None);
    assert!(server.session.user().is_some());
    assert_eq!(replies(&mut server, "RSET"), ["250 2.0.0"]);
    server.session.change_user(None);
    assert!(server.session.user().is_none());
    assert_eq!(replies(&mut server, "MAIL FROM:<a@a.test>"), ["530 5.7.0"]);
    assert!(offered(&mut server).starts_with("EXTERNAL "));
    assert_eq!(replies(&mut server, "AUTH EXTERNAL ="), ["235 2.7.0"]);
}
