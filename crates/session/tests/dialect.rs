//! What is left out towards a server, and the limits that it has told of.

mod support;

use std::time::Duration;

use ringpost_protocol::envelope::{BodyType, Utf8};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::priority::Priority;
use ringpost_session::client::{ClientConfig, Dialect, LocalRefusal, TransactionRequest, Verdict};
use support::{Client, Message};

const ALL: &[u8] = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 12\r\n250-8BITMIME\r\n\
    250-CHUNKING\r\n250-BINARYMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 LIMITS RCPTMAX=2 MAILMAX=3\r\n";

fn ready(dialect: Dialect, ehlo_reply: &[u8]) -> Client {
    let config = ClientConfig { helo_name: "client.test".into(), ..ClientConfig::default() };
    let mut client = Client::new(config).with_dialect(dialect);
    client.hear(b"220 mx.test\r\n");
    client.hear(ehlo_reply);
    assert_eq!(client.take_said(), "EHLO client.test\r\n");
    assert!(client.session.is_ready());
    client
}

fn without(off: &[Extension]) -> Dialect {
    let extensions = off.iter().fold(ExtensionSet::ALL, |used, off| used.without(*off));
    Dialect { extensions, ..Dialect::default() }
}

fn message(to: &[&str], content: &[u8]) -> Message {
    Message::new("<a@a.test>", to, content)
}

#[test]
fn each_extension_can_be_left_out() {
    let one = ["<b@b.test>"];
    // What is left out, of what message, what is said with and without it first.
    let table: [(Extension, Message, &str, &str); 2] = [
        (
            Extension::Pipelining,
            message(&one, b"x\r\n"),
            "MAIL FROM:<a@a.test> SIZE=3\r\nRCPT TO:<b@b.test>\r\nDATA\r\n",
            "MAIL FROM:<a@a.test> SIZE=3\r\n",
        ),
        (
            Extension::Size,
            message(&one, b"x\r\n"),
            "MAIL FROM:<a@a.test> SIZE=3\r\nRCPT TO:<b@b.test>\r\nDATA\r\n",
            "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n",
        ),
    ];
    for (off, message, with, without_it) in table {
        let mut client = ready(Dialect::default(), ALL);
        client.start(&message);
        assert_eq!(client.take_said(), with, "with {off:?}");
        let mut client = ready(without(&[off]), ALL);
        client.start(&message);
        assert_eq!(client.take_said(), without_it, "without {off:?}");
    }
    // What needs it is not offered then.
    let refused = |off: &[Extension], message: &Message| {
        let mut client = ready(without(off), ALL);
        client.start(message);
        match client.reports.first().map(|report| &report.recipients[0].verdict) {
            Some(Verdict::Refused(refusal)) => Some(*refusal),
            _ => None,
        }
    };
    let large = message(&one, b"larger than 12\r\n");
    assert_eq!(refused(&[], &large), Some(LocalRefusal::TooLarge));
    assert_eq!(refused(&[Extension::Size], &large), None, "its limit is not heeded");
    let eight_bit = message(&one, "\u{fc}\r\n".as_bytes());
    assert_eq!(refused(&[], &eight_bit), None);
    let needs = Some(LocalRefusal::NeedsEightBitMime);
    assert_eq!(refused(&[Extension::EightBitMime], &eight_bit), needs);
    let utf8 = message(&["<\u{fc}@b.test>"], b"x\r\n");
    assert_eq!(refused(&[], &utf8), None);
    let needs = Some(LocalRefusal::NeedsUtf8Address);
    assert_eq!(refused(&[Extension::SmtpUtf8], &utf8), needs);
    for off in [Extension::Chunking, Extension::BinaryMime] {
        let binary = message(&one, b"x\0\r\n").binary();
        assert_eq!(refused(&[], &binary), None);
        assert_eq!(refused(&[off], &binary), Some(LocalRefusal::NeedsBinaryMime), "{off:?}");
    }
}

#[test]
fn no_more_recipients_are_named_than_the_server_takes() {
    let to = ["<b@b.test>", "<\u{fc}@b.test>", "<c@b.test>", "<d@b.test>"];
    let mut client = ready(without(&[Extension::SmtpUtf8]), ALL);
    client.start(&message(&to, b"x\r\n"));
    assert_eq!(
        client.take_said(),
        "MAIL FROM:<a@a.test> SIZE=3\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n",
        "one that cannot be named anyway takes no place"
    );
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    client.hear(b"250 done\r\n");
    let verdicts: Vec<_> =
        client.reports[0].recipients.iter().map(|one| (one.is_delivered(), &one.verdict)).collect();
    assert!(verdicts[0].0 && verdicts[2].0);
    assert_eq!(verdicts[1].1, &Verdict::Refused(LocalRefusal::NeedsUtf8Address));
    assert_eq!(verdicts[3].1, &Verdict::Refused(LocalRefusal::TooManyRecipients));
    // Without LIMITS the server says itself what is too much.
    let mut client = ready(without(&[Extension::Limits]), ALL);
    client.start(&message(&to, b"x\r\n"));
    assert_eq!(client.take_said().matches("RCPT TO").count(), 4);
}

#[test]
fn a_session_ends_with_the_last_transaction_that_the_server_takes() {
    for (dialect, sessions_end) in
        [(Dialect::default(), true), (without(&[Extension::Limits]), false)]
    {
        let mut client = ready(dialect, ALL);
        for number in 1..=3 {
            client.start(&message(&["<b@b.test>"], b"x\r\n"));
            client.hear(b"250 ok\r\n250 ok\r\n354 go\r\n");
            client.take_said();
            client.hear(b"250 done\r\n");
            let report = client.reports.last().unwrap();
            assert!(report.recipients[0].is_delivered());
            assert_eq!(report.session_usable, !(sessions_end && number == 3), "{number}");
        }
        assert_eq!(client.take_said(), if sessions_end { "QUIT\r\n" } else { "" });
        assert_eq!(client.session.is_ready(), !sessions_end);
        if sessions_end {
            client.hear(b"221 bye\r\n");
            assert_eq!(client.closed, Some(None), "in good order");
        }
    }
    // What was not offered to the server does not count for it.
    let mut client = ready(Dialect::default(), ALL);
    for _ in 0..5 {
        client.start(&message(&["<b@b.test>"], b"larger than 12\r\n"));
    }
    assert!(client.session.is_ready() && client.reports.iter().all(|one| one.session_usable));
}

#[test]
fn one_transaction_at_a_time() {
    let mut client = ready(support::pipelining(false), ALL);
    let mail = message(&["<b@b.test>"], b"x\r\n");
    client.start(&mail);
    client.wait(Duration::from_secs(1));
    let request = TransactionRequest {
        by: None,
        reverse_path: &mail.reverse_path,
        forward_paths: &[],
        size: 0,
        body: BodyType::SevenBit,
        utf8: Utf8::Unmarked,
        priority: Priority::NORMAL,
        require_tls: false,
        dsn: None,
    };
    assert!(client.session.start_transaction(client.now, &request).is_err());
}
