//! What a client does with content that has to go by BDAT (RFC 3030).

mod support;

use std::time::Duration;

use ringpost_session::client::{ClientConfig, LocalRefusal, Stage, Verdict};
use support::{Client, Message};

const ALL: &str =
    "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-CHUNKING\r\n250 BINARYMIME\r\n";
const COMMANDS: &str =
    "MAIL FROM:<a@a.test> SIZE=9 BODY=BINARYMIME\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<c@b.test>\r\n";
const BDAT: &str = "BDAT 9 LAST\r\n\r\n\n.\n\0\r.\r";

fn message() -> Message {
    Message::new("<a@a.test>", &["<b@b.test>", "<c@b.test>"], b"\r\n\n.\n\0\r.\r").binary()
}

fn ready(ehlo_reply: &str) -> Client {
    let mut client = Client::new(ClientConfig::default());
    client.hear(b"220 mx.test\r\n");
    client.hear(ehlo_reply.as_bytes());
    client.said.clear();
    client
}

#[test]
fn the_content_goes_as_it_is_once_a_recipient_is_taken() {
    let mut client = ready(ALL);
    client.start(&message());
    assert_eq!(client.take_said(), COMMANDS);
    client.hear(b"250 ok\r\n550 no\r\n");
    assert_eq!(client.take_said(), "", "the server may yet refuse all");
    client.hear(b"250 ok\r\n");
    assert_eq!(client.take_said(), BDAT);
    assert_eq!(client.session.stage(), Stage::FinalReply);
    client.hear(b"250 9 octets received\r\n");
    assert_eq!(client.last_report(), ["rcpt 550", "final reply 250"]);
    // No RSET is needed, and text goes by DATA as ever.
    client.start(&Message::new("<>", &["<b@b.test>"], b"text\r\n"));
    assert_eq!(client.take_said(), "MAIL FROM:<> SIZE=6\r\nRCPT TO:<b@b.test>\r\nDATA\r\n");
}

#[test]
fn without_pipelining_one_command_follows_the_other() {
    let mut client = ready("250-mx.test\r\n250-BINARYMIME\r\n250 CHUNKING\r\n");
    client.start(&message());
    for command in COMMANDS.replace(" SIZE=9", "").split_inclusive('\n') {
        assert_eq!(client.take_said(), command);
        client.hear(b"250 ok\r\n");
    }
    assert_eq!(client.take_said(), BDAT);
    client.hear(b"250 ok\r\n");
    assert_eq!(client.last_report(), ["final reply 250"; 2]);
}

#[test]
fn nothing_is_sent_that_nobody_wants() {
    for ehlo in [ALL, "250-mx.test\r\n250-BINARYMIME\r\n250 CHUNKING\r\n"] {
        let mut client = ready(ehlo);
        client.start(&message());
        client.hear(b"250 ok\r\n");
        client.hear(b"550 no\r\n");
        client.hear(b"450 not now\r\n");
        assert_eq!(client.last_report(), ["rcpt 550", "rcpt 450"]);
        assert_eq!(client.contents_sent, 0);
        client.said.clear();
        assert!(client.session.is_ready());
        client.start(&message());
        assert!(client.take_said().starts_with("RSET\r\n"));
    }
    let mut client = ready(ALL);
    client.start(&message());
    client.hear(b"452 later\r\n503 MAIL first\r\n503 MAIL first\r\n");
    assert_eq!((client.last_report(), client.contents_sent), (vec!["mail 452".to_owned(); 2], 0));
}

#[test]
fn servers_that_lack_one_of_the_two_are_offered_nothing() {
    for offer in ["CHUNKING", "BINARYMIME", "8BITMIME", "SMTPUTF8"] {
        let mut client = ready(&format!("250-mx.test\r\n250 {offer}\r\n"));
        client.start(&message());
        assert_eq!(client.take_said(), "", "{offer}");
        let report = client.reports.pop().unwrap();
        assert_eq!(report.recipients[0].verdict, Verdict::Refused(LocalRefusal::NeedsBinaryMime));
        assert_eq!(LocalRefusal::NeedsBinaryMime.status().to_string(), "5.6.3");
        assert!(report.session_usable && !report.is_answered);
    }
}

#[test]
fn the_reply_to_the_chunk_decides() {
    for (reply, verdict) in [("552 5.3.4 no\r\n", "552"), ("451 later\r\n", "451")] {
        let mut client = ready(ALL);
        client.start(&message());
        client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n");
        client.hear(reply.as_bytes());
        assert_eq!(client.last_report(), vec![format!("final reply {verdict}"); 2]);
        client.said.clear();
        client.start(&message());
        assert!(client.take_said().starts_with("RSET\r\n"));
    }
    // While the content is on its way: no is no, yes is nonsense.
    for (reply, verdict) in [("552 no\r\n", "content 552"), ("250 ok\r\n", "content violation")] {
        let mut client = ready(ALL);
        client.sends_content = false;
        client.start(&message());
        client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n");
        client.hear(reply.as_bytes());
        assert_eq!(client.last_report(), [verdict; 2]);
        assert!(client.closed.is_some());
    }
}

#[test]
fn a_session_that_ends_early_delivers_nothing() {
    let started = || {
        let mut client = ready(ALL);
        client.sends_content = false;
        client.start(&message());
        client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n");
        assert_eq!(client.session.stage(), Stage::Content);
        client
    };
    let mut client = started();
    client.wait(Duration::from_mins(3));
    assert_eq!(client.last_report(), ["content timed out"; 2]);
    let mut client = started();
    client.eof();
    assert_eq!(client.last_report(), ["content closed"; 2]);
    let mut client = started();
    client.send_chunk();
    client.eof();
    assert_eq!(client.last_report(), ["final reply closed"; 2]);
    let mut client = started();
    client.send_chunk();
    client.wait(Duration::from_mins(10));
    assert_eq!(client.last_report(), ["final reply timed out"; 2]);
}
