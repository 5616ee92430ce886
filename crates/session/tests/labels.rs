//! Fields of the header by which applications say whose a message is, and what it is part of.

mod support;

use std::sync::Arc;

use ringpost_protocol::label::Labels;
use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use ringpost_session::server::{AuthPolicy, ReversePaths, ServerConfig, TransactionRefusal, User};
use support::{STRANGER, Server, TRUSTED, postmaster};

fn config() -> ServerConfig {
    ServerConfig {
        hostname: "mx.test".into(),
        tenant_header: Some("X-Tenant".into()),
        campaign_header: Some("X-Campaign".into()),
        aliases: postmaster("p@b.test"),
        ..ServerConfig::default()
    }
}

fn known(labels: &Labels) -> (Option<&str>, Option<&str>) {
    let text = |label: &'_ Option<ringpost_protocol::label::LabelText>| {
        label.as_ref().map(|label| label.as_str().to_owned().leak() as &'static str)
    };
    (text(&labels.tenant), text(&labels.campaign))
}

/// The tenant, the campaign and the content that are queued, or why nothing is.
type Outcome<'a> = Result<(Option<&'a str>, Option<&'a str>, &'a str), String>;

const ENVELOPE: &[u8] = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<Postmaster>\r\n";

#[test]
fn fields_are_taken_out_and_kept_with_the_envelope() {
    let long = format!("X-Tenant: {}\r\n\r\n", "a".repeat(65));
    let bad = "not 1 to 64 letters";
    let table: [(&str, Outcome<'_>); 14] = [
        ("A: b\r\n\r\ntext\r\n", Ok((None, None, "A: b\r\n\r\ntext\r\n"))),
        ("X-Tenant: acme\r\n\r\ntext\r\n", Ok((Some("acme"), None, "\r\ntext\r\n"))),
        ("x-campaign : may/1\r\nA: b\r\n\r\n", Ok((None, Some("may/1"), "A: b\r\n\r\n"))),
        (
            "A: b\r\nX-Campaign:\r\n may\r\nC: d\r\nX-TENANT:acme\r\n\r\n",
            Ok((Some("acme"), Some("may"), "A: b\r\nC: d\r\n\r\n")),
        ),
        ("A: b\r\n\r\nX-Tenant: acme\r\n", Ok((None, None, "A: b\r\n\r\nX-Tenant: acme\r\n"))),
        ("X-Tenants: acme\r\n\r\n", Ok((None, None, "X-Tenants: acme\r\n\r\n"))),
        ("X-Tenant:\r\n\r\n", Err(format!("X-Tenant: {bad}"))),
        ("X-Tenant: a b\r\n\r\n", Err(format!("X-Tenant: {bad}"))),
        ("X-Tenant: a\r\n b\r\n\r\n", Err(format!("X-Tenant: {bad}"))),
        ("X-Tenant: \u{fc}\r\n\r\n", Err(format!("X-Tenant: {bad}"))),
        ("X-Campaign: \"a\"\r\n\r\n", Err(format!("X-Campaign: {bad}"))),
        ("X-Campaign: a,b\r\n\r\n", Err(format!("X-Campaign: {bad}"))),
        (&long, Err(format!("X-Tenant: {bad}"))),
        (
            "X-Tenant: acme\r\nX-Tenant: acme\r\n\r\n",
            Err("X-Tenant: there can be only one such field".to_owned()),
        ),
    ];
    for (content, expected) in table {
        let data = format!("{content}.\r\n");
        for size in 1..=data.len() {
            let mut server = Server::introduced(config(), TRUSTED);
            server.send(ENVELOPE);
            server.send(b"DATA\r\n");
            data.as_bytes().chunks(size).for_each(|piece| server.send(piece));
            match &expected {
                Ok((tenant, campaign, passed)) => {
                    let queued = &server.queued[0];
                    assert_eq!(String::from_utf8_lossy(&queued.content), *passed);
                    let labels = known(&queued.envelope.labels);
                    assert_eq!(labels, (*tenant, *campaign), "{content:?}");
                }
                Err(reason) => {
                    let reply = server.replies().pop().unwrap();
                    assert!(reply.starts_with(&format!("550 5.6.0 {reason}")), "{reply}");
                    assert_eq!((server.queued.len(), server.aborted), (0, 1));
                    let stats = server.session.stats();
                    assert_eq!(stats.transactions_refused(TransactionRefusal::Label), 1);
                }
            }
        }
    }
}

/// Each message has its own, also in chunks, and after one that was refused.
#[test]
fn labels_belong_to_one_message() {
    let mut server = Server::introduced(config(), TRUSTED);
    for content in
        ["X-Tenant: a\r\n\r\n", "X-Tenant: ?\r\n\r\n", "A: b\r\n\r\n", "X-Campaign: c\r\n\r\n"]
    {
        server.send(ENVELOPE);
        for chunk in content.as_bytes().chunks(3) {
            server.send(format!("BDAT {}\r\n", chunk.len()).as_bytes());
            server.send(chunk);
        }
        server.send(b"BDAT 0 LAST\r\n");
    }
    let labels: Vec<_> = server.queued.iter().map(|one| known(&one.envelope.labels)).collect();
    assert_eq!(labels, [(Some("a"), None), (None, None), (None, Some("c"))]);
}

/// The tenant of a user is not for the client to choose.
#[test]
fn the_tenant_of_a_user_counts_before_that_of_a_field() {
    let mechanisms = MechanismSet::from_iter(Mechanism::ALL);
    let auth = AuthPolicy { mechanisms, without_tls: true, ..AuthPolicy::default() };
    for (own, field, expected) in [
        (Some("own"), "X-Tenant: other\r\n", Some("own")),
        (Some("own"), "", Some("own")),
        (None, "X-Tenant: other\r\n", Some("other")),
        (None, "", None),
    ] {
        let mut server = Server::introduced(ServerConfig { auth, ..config() }, STRANGER);
        server.answers_auth = false;
        server.send(b"AUTH PLAIN AHVzZXIAc2VjcmV0\r\n");
        let user = User {
            name: "user".into(),
            tenant: own.map(Into::into),
            reverse_paths: ReversePaths::Any,
        };
        server.session.auth_accepted(server.now, Arc::new(user));
        server.flush();
        server.send(ENVELOPE);
        server.send(b"DATA\r\n");
        server.send(format!("{field}X-Campaign: c\r\n\r\n.\r\n").as_bytes());
        let queued = &server.queued[0];
        assert_eq!(known(&queued.envelope.labels), (expected, Some("c")), "{own:?} {field:?}");
        assert_eq!(queued.content, b"\r\n");
    }
}

/// The field of a stranger is text, and so is that of everybody where no field is looked for.
#[test]
fn elsewhere_the_fields_are_text() {
    let off = ServerConfig { tenant_header: None, campaign_header: None, ..config() };
    for (config, peer) in [(off, TRUSTED), (config(), STRANGER)] {
        let mut server = Server::introduced(config, peer);
        server.send(ENVELOPE);
        server.send(b"DATA\r\n");
        server.send(b"X-Tenant: ?\r\nX-Campaign: c\r\n\r\n.\r\n");
        let queued = &server.queued[0];
        assert_eq!(queued.content, b"X-Tenant: ?\r\nX-Campaign: c\r\n\r\n");
        assert_eq!(known(&queued.envelope.labels), (None, None));
    }
}
