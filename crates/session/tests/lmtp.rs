//! LMTP (RFC 2033): how a server is greeted, and a reply for each recipient behind the final dot.

mod support;

use std::time::Duration;

use ringpost_session::client::{
    ClientConfig, ClientProtocol, Dialect, ProtocolViolation, SessionFailure, Stage,
};
use support::{Client, Message};

const GREETING: &[u8] = b"220 mx.test LMTP\r\n";
const OFFERS: &[u8] =
    b"250-mx.test\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250 8BITMIME\r\n";
const PLAIN: &[u8] = b"250-mx.test\r\n250 8BITMIME\r\n";

fn greeted() -> Client {
    let config = ClientConfig { helo_name: "client.test".into(), ..ClientConfig::default() };
    let dialect = Dialect { protocol: ClientProtocol::Lmtp, ..Dialect::default() };
    let mut client = Client::new(config).with_dialect(dialect);
    client.hear(GREETING);
    assert_eq!(client.take_said(), "LHLO client.test\r\n");
    client
}

fn message() -> Message {
    Message::new("<a@a.test>", &["<b@b.test>", "<c@b.test>", "<d@b.test>"], b"x\r\n")
}

/// One that has sent a message for the first and the third recipient.
fn behind_the_dot(offers: &[u8]) -> Client {
    let mut client = greeted();
    client.hear(offers);
    client.start(&message());
    for reply in [&b"250 ok\r\n"[..], b"250 ok\r\n", b"550 no\r\n", b"250 ok\r\n", b"354 go\r\n"] {
        client.hear(reply);
    }
    assert!(client.take_said().ends_with("DATA\r\nx\r\n.\r\n"));
    assert_eq!(client.session.stage(), Stage::FinalReply);
    client
}

#[test]
fn each_recipient_has_its_own_reply() {
    for offers in [OFFERS, PLAIN] {
        let mut client = behind_the_dot(offers);
        client.hear(b"250 2.0.0 stored\r\n");
        assert!(client.reports.is_empty(), "another reply is to come");
        assert_eq!(client.session.stage(), Stage::FinalReply);
        client.hear(b"452 4.2.2 full\r\n");
        assert_eq!(client.last_report(), ["final reply 250", "rcpt 550", "final reply 452"]);
        let report = &client.reports[0];
        assert!(report.session_usable && report.is_answered);
        assert_eq!(client.take_said(), "", "nothing is said before it is asked for");
        // The next transaction begins as usual.
        client.start(&message());
        assert!(client.take_said().starts_with("MAIL FROM:<a@a.test>"));
    }
}

#[test]
fn what_is_lost_between_the_replies_leaves_only_the_rest_unknown() {
    let mut client = behind_the_dot(OFFERS);
    client.hear(b"250 2.0.0 stored\r\n");
    client.eof();
    assert_eq!(client.last_report(), ["final reply 250", "rcpt 550", "final reply closed"]);
    let mut client = behind_the_dot(OFFERS);
    client.hear(b"250 2.0.0 stored\r\n");
    client.wait(Duration::from_secs(599));
    assert!(client.closed.is_none(), "each reply has its time");
    client.wait(Duration::from_secs(2));
    assert_eq!(client.last_report(), ["final reply 250", "rcpt 550", "final reply timed out"]);
    // What ends the session is the reply for one of them.
    let mut client = behind_the_dot(OFFERS);
    client.hear(b"421 4.3.2 closing\r\n");
    assert_eq!(
        client.last_report(),
        ["final reply ended by 421", "rcpt 550", "final reply closed"]
    );
}

#[test]
fn without_recipients_no_dot_is_sent() {
    let mut client = greeted();
    client.hear(OFFERS);
    client.start(&message());
    client.hear(b"250 ok\r\n550 no\r\n550 no\r\n550 no\r\n503 no recipients\r\n");
    assert_eq!(client.last_report(), ["rcpt 550"; 3]);
    assert!(client.reports[0].session_usable);
    // RFC 2033 §4.2: a server that goes on all the same would be waited for in vain.
    let mut client = greeted();
    client.hear(OFFERS);
    client.start(&message());
    client.hear(b"250 ok\r\n550 no\r\n550 no\r\n550 no\r\n354 go\r\n");
    assert_eq!(client.last_report(), ["rcpt 550"; 3]);
    assert!(!client.reports[0].session_usable);
}

#[test]
fn a_refusal_of_lhlo_is_no_refusal_of_mail() {
    let mut client = greeted();
    client.hear(b"500 5.5.1 unknown command\r\n");
    assert_eq!(client.take_said(), "", "no HELO: that would be another protocol");
    match &client.closed {
        Some(Some(SessionFailure::Protocol { stage: Stage::Ehlo, violation })) => {
            assert!(matches!(violation, ProtocolViolation::UnexpectedCode(_)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_said_while_content_is_sent_is_about_one_of_them() {
    let mut client = greeted();
    client.hear(OFFERS);
    client.sends_content = false;
    client.start(&message());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    client.hear(b"552 5.2.2 full\r\n");
    assert!(client.reports[0].recipients.iter().all(|one| one.stage == Stage::Content));
    assert!(client.last_report().iter().all(|verdict| !verdict.contains("552")));
}

#[test]
fn by_bdat_each_recipient_has_its_own_reply_too() {
    let mut client = greeted();
    client.hear(OFFERS);
    client.start(&message().binary());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n550 no\r\n");
    assert!(client.take_said().ends_with("BDAT 3 LAST\r\nx\r\n"));
    client.hear(b"250 stored\r\n250 stored\r\n");
    assert_eq!(client.last_report(), ["final reply 250", "final reply 250", "rcpt 550"]);
}
