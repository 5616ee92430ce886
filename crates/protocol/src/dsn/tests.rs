use super::*;
use crate::reply::ReplyCode;
use proptest::prelude::*;

const GOLDEN: &str = include_str!("golden.eml");

fn reply(text: &str) -> Reply {
    Reply::new(ReplyCode::new(550).unwrap(), Some(EnhancedStatusCode::new(5, 1, 1)), text)
}

fn report(recipients: &[DsnRecipient<'_>], original_header: &[u8]) -> String {
    let report = DeliveryReport {
        reporting_mta: "mx.test",
        queue_id: "00a1",
        report_id: "00a2",
        unix_seconds: 1_700_000_000,
        arrival_unix_seconds: 1_699_990_000,
        deliver_by_unix_seconds: None,
        reverse_path: &ReversePath::parse("<sender@origin.test>").unwrap(),
        envelope_id: None,
        recipients,
        returned: Returned::Header(original_header),
        smtputf8: false,
    };
    let mut out = Vec::new();
    report.write(&mut out);
    String::from_utf8(out).unwrap()
}

fn check_lines(text: &str) {
    assert!(text.ends_with("\r\n"));
    for line in text.split("\r\n") {
        assert!(line.len() <= TEXT_LINE_MAX && !line.contains(['\r', '\n', '\0']), "{line:?}");
    }
}

#[test]
fn a_report_is_as_the_golden_file() {
    let [first, second] =
        ["<bob@b.test>", "<\"c d\"@c.test>"].map(|p| ForwardPath::parse(p).unwrap());
    let said =
        reply("No such mailbox here.\nAsk the postmaster of b.test, who knows all about mailboxes");
    let recipients = [
        DsnRecipient {
            forward_path: &first,
            original: None,
            action: Action::Failed,
            status: EnhancedStatusCode::new(5, 1, 1),
            remote_mta: Some("mx.b.test"),
            diagnostic: Some(&said),
            reason: "refused",
            last_attempt_unix_seconds: Some(1_699_999_000),
            will_retry_until_unix_seconds: None,
        },
        DsnRecipient {
            forward_path: &second,
            original: None,
            action: Action::Failed,
            status: EnhancedStatusCode::new(5, 1, 2),
            remote_mta: None,
            diagnostic: None,
            reason: "the domain c.test does not exist",
            last_attempt_unix_seconds: None,
            will_retry_until_unix_seconds: None,
        },
    ];
    let original =
        b"From: <sender@origin.test>\r\nSubject: a\r\n folded one\r\n\r\nThe body stays out.\r\n";
    let text = report(&recipients, original);
    check_lines(&text);
    assert_eq!(text.replace("\r\n", "\n"), GOLDEN);

    let status = DeliveryStatus::parse(text.as_bytes()).unwrap();
    assert_eq!(status.reporting_mta.as_deref(), Some("mx.test"));
    assert_eq!(status.recipients.len(), 2);
    let read = &status.recipients[0];
    assert_eq!((read.final_recipient.as_str(), read.action.as_str()), ("bob@b.test", "failed"));
    assert_eq!(read.status, Some(EnhancedStatusCode::new(5, 1, 1)));
    assert_eq!(read.remote_mta.as_deref(), Some("mx.b.test"));
    assert_eq!(read.diagnostic_code.as_deref(), Some(said.to_string().as_str()));
    assert_eq!(status.recipients[1].final_recipient, "\"c d\"@c.test");
}

#[test]
fn a_report_tells_of_delays() {
    let [first, second] = ["<bob@b.test>", "<eve@c.test>"].map(|p| ForwardPath::parse(p).unwrap());
    let late = DsnRecipient {
        forward_path: &first,
        original: None,
        action: Action::Delayed,
        status: EnhancedStatusCode::new(4, 4, 1),
        remote_mta: Some("mx.b.test"),
        diagnostic: None,
        reason: "connection refused",
        last_attempt_unix_seconds: Some(1_699_999_000),
        will_retry_until_unix_seconds: Some(1_700_422_000),
    };
    let text = report(&[late], b"Subject: a\r\n\r\n");
    check_lines(&text);
    for words in [
        "\r\nSubject: Delayed Mail",
        "could not yet be delivered",
        "\r\n<bob@b.test>\r\n    connection refused\r\n",
        "\r\nAction: delayed\r\nStatus: 4.4.1\r\n",
        "\r\nWill-Retry-Until: Sun, 19 Nov 2023 19:26:40 +0000\r\n",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let failed = DsnRecipient {
        forward_path: &second,
        action: Action::Failed,
        status: EnhancedStatusCode::new(5, 4, 7),
        will_retry_until_unix_seconds: None,
        ..late
    };
    let text = report(&[late, failed], b"Subject: a\r\n\r\n");
    assert!(text.contains("Subject: Undelivered Mail"), "{text}");
    let status = DeliveryStatus::parse(text.as_bytes()).unwrap();
    let read: Vec<(&str, bool)> = status
        .recipients
        .iter()
        .map(|one| (one.action.as_str(), one.will_retry_until.is_some()))
        .collect();
    assert_eq!(read, [("delayed", true), ("failed", false)]);
}

#[test]
fn a_report_tells_of_what_was_handed_over_and_names_what_the_client_named() {
    let path = ForwardPath::parse("<bob@b.test>").unwrap();
    let original = OriginalRecipient::parse("rfc822;\"al+20i\"@a.test").unwrap();
    let envelope_id = EnvelopeId::parse("QQ+2B314 159".replace(' ', "+20").as_str()).unwrap();
    let relayed = DsnRecipient {
        forward_path: &path,
        original: Some(&original),
        action: Action::Relayed,
        status: EnhancedStatusCode::new(2, 1, 5),
        remote_mta: Some("mx.b.test"),
        diagnostic: None,
        reason: "taken",
        last_attempt_unix_seconds: None,
        will_retry_until_unix_seconds: None,
    };
    let content = b"Subject: \xfc\r\n\r\n--=_00a2_1700000000_0=\r\nThe body.\r\n";
    let mut out = Vec::new();
    DeliveryReport {
        reporting_mta: "mx.test",
        queue_id: "00a1",
        report_id: "00a2",
        unix_seconds: 1_700_000_000,
        arrival_unix_seconds: 1_699_990_000,
        deliver_by_unix_seconds: None,
        reverse_path: &ReversePath::parse("<sender@origin.test>").unwrap(),
        envelope_id: Some(&envelope_id),
        recipients: &[relayed],
        returned: Returned::Message(content),
        smtputf8: false,
    }
    .write(&mut out);
    let at = memmem::find(&out, b"Content-Type: message/rfc822\r\n\r\n").unwrap();
    let rest = &out[at + 32..];
    assert!(rest.starts_with(content) && rest[content.len()..].starts_with(b"\r\n--=_00a2_"));
    let text = String::from_utf8_lossy(&out);
    for words in [
        "\r\nSubject: Mail Relayed\r\n",
        "\r\nOriginal-Envelope-Id: QQ+314 159\r\nReporting-MTA: ",
        "\r\n\r\nOriginal-Recipient: rfc822; \"al i\"@a.test\r\nFinal-Recipient: rfc822; bob@b.test\r\n\
         Action: relayed\r\nStatus: 2.1.5\r\n",
        "\r\nContent-Transfer-Encoding: 8bit\r\nContent-Type: message/rfc822\r\n",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
    let status = DeliveryStatus::parse(&out).unwrap();
    assert_eq!(status.original_envelope_id.as_deref(), Some("QQ+314 159"));
    let [one] = &*status.recipients else { panic!("{status:?}") };
    assert_eq!(
        (&*one.action, one.original_recipient.as_deref()),
        ("relayed", Some("\"al i\"@a.test"))
    );
}

/// RFC 6533: reports of messages that are not all in ASCII.
#[test]
fn a_report_has_utf8_where_it_is_taken() {
    let ascii = ("<b@b.test>", "<a@a.test>");
    let utf8_to = ("<ü@bücher.test>", "<a@a.test>");
    let utf8_from = ("<b@b.test>", "<ä@a.test>");
    let subject = "Subject: ü\r\n";
    let table = [
        (ascii, true, "Subject: u\r\n", "message/delivery-status", "text/rfc822-headers"),
        (ascii, true, subject, "message/delivery-status", "message/global-headers"),
        (ascii, false, subject, "message/delivery-status", "text/rfc822-headers"),
        (utf8_to, true, subject, "message/global-delivery-status", "message/global-headers"),
        (utf8_to, true, "a: b\r\n", "message/global-delivery-status", "text/rfc822-headers"),
        (utf8_from, true, "a: b\r\n", "message/global-delivery-status", "text/rfc822-headers"),
    ];
    for ((to, from), smtputf8, header, status_type, original_type) in table {
        let path = ForwardPath::parse(to).unwrap();
        let original = OriginalRecipient::parse("utf-8;\\x{FC}@old.test").unwrap();
        let recipient = DsnRecipient {
            forward_path: &path,
            original: Some(&original),
            action: Action::Failed,
            status: EnhancedStatusCode::new(5, 6, 7),
            remote_mta: None,
            diagnostic: None,
            reason: "no",
            last_attempt_unix_seconds: None,
            will_retry_until_unix_seconds: None,
        };
        for is_whole in [false, true] {
            let whole = format!("{header}\r\nbody\r\n");
            let mut out = Vec::new();
            DeliveryReport {
                reporting_mta: "mx.test",
                queue_id: "00a1",
                report_id: "00a2",
                unix_seconds: 1_700_000_000,
                arrival_unix_seconds: 1_699_990_000,
                deliver_by_unix_seconds: None,
                reverse_path: &ReversePath::parse(from).unwrap(),
                envelope_id: None,
                recipients: &[recipient],
                returned: if is_whole {
                    Returned::Message(whole.as_bytes())
                } else {
                    Returned::Header(header.as_bytes())
                },
                smtputf8,
            }
            .write(&mut out);
            let text = String::from_utf8(out).unwrap();
            check_lines(&text);
            let original_type = match (original_type, is_whole) {
                ("text/rfc822-headers", true) => "message/rfc822",
                (_, true) => "message/global",
                (other, false) => other,
            };
            assert!(text.contains(&format!("\r\nContent-Type: {status_type}\r\n\r\n")), "{text}");
            assert!(text.contains(&format!("\r\nContent-Type: {original_type}\r\n\r\n")), "{text}");
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            assert_eq!(head.is_ascii(), from.is_ascii(), "{head}");
            assert_eq!(head.contains("Encoding: 8bit"), !text.is_ascii(), "{head}");
            // Each part that is not ASCII says so.
            for part in text.split("\r\n--=_").skip(1) {
                assert!(part.contains("Encoding: 8bit") || part.is_ascii(), "{part}");
            }
            let status = DeliveryStatus::parse(text.as_bytes()).unwrap();
            let one = &status.recipients[0];
            assert_eq!(format!("<{}>", one.final_recipient), to);
            let is_global = status_type.contains("global");
            let named = if is_global { "ü@old.test" } else { "\\x{FC}@old.test" };
            assert_eq!(one.original_recipient.as_deref(), Some(named));
            let kind = if to.is_ascii() { "rfc822" } else { "utf-8" };
            assert!(text.contains(&format!("\r\nFinal-Recipient: {kind}; ")), "{text}");
        }
    }
}

#[test]
fn a_message_cannot_end_a_part_of_the_report() {
    let path = ForwardPath::Postmaster;
    let recipient = DsnRecipient {
        forward_path: &path,
        original: None,
        action: Action::Failed,
        status: EnhancedStatusCode::new(5, 0, 0),
        remote_mta: None,
        diagnostic: None,
        reason: "refused",
        last_attempt_unix_seconds: None,
        will_retry_until_unix_seconds: None,
    };
    for (known, expected) in [(0, 0), (1, 1), (100, 100)] {
        let guess = |n| format!("--=_00a2_1700000000_{n}=: x\r\nX: =_00a2_1700000000_{n}=--\r\n");
        let header: String = (0..known).map(guess).chain(["Subject: a\r\n".to_owned()]).collect();
        let text = report(&[recipient], header.as_bytes());
        let boundary = format!("=_00a2_1700000000_{expected}=");
        assert!(text.contains(&header) && text.ends_with(&format!("--{boundary}--\r\n")));
        assert_eq!(text.matches(&boundary).count(), 5, "one field, and four delimiters");
    }
    for text in ["", "_", "_=", "_x=", "7=", "_7", "_-7=", "_77777777777777777777777777="] {
        assert_eq!(number_behind(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn what_is_not_a_report_is_not_read() {
    assert_eq!(DeliveryStatus::parse(b"Subject: hello\r\n\r\nbody\r\n"), None);
    assert_eq!(DeliveryStatus::parse(b""), None);
}

#[test]
fn the_original_header_is_whole_fields() {
    let long = format!("a: b\r\n{}", format!("x: {}\r\n", "y".repeat(994)).repeat(60));
    let kept = original_header(long.as_bytes());
    assert!(kept.len() <= DSN_HEADER_SIZE_MAX && kept.len() > DSN_HEADER_SIZE_MAX - 1000);
    assert!(kept.ends_with(b"y\r\n"));
    let table: [(&[u8], &[u8]); 7] = [
        (b"", b""),
        (b"no header\r\n", b""),
        (b"a: b\r\n\r\nc: d\r\n", b"a: b\r\n"),
        (b"a: b\r\nbody\r\n", b"a: b\r\n"),
        (b"a: b\r\nc: cut", b"a: b\r\n"),
        (b"a: b\r\nc: d\r\n cut", b"a: b\r\n"),
        (b"a: b\r\nc: d\r\n", b"a: b\r\nc: d\r\n"),
    ];
    for (content, header) in table {
        assert_eq!(original_header(content), header, "{}", String::from_utf8_lossy(content));
    }
}

proptest! {
    /// Whatever a peer says, the report keeps its shape and tells it back.
    #[test]
    fn peers_cannot_break_a_report(said in any::<String>(), reason in any::<String>(), host in any::<String>()) {
        let said = reply(&said);
        let forward_path = ForwardPath::Postmaster;
        let with = DsnRecipient {
            forward_path: &forward_path,
            original: None,
            action: Action::Failed,
            status: EnhancedStatusCode::new(5, 0, 0),
            remote_mta: Some(&host),
            diagnostic: Some(&said),
            reason: &reason,
            last_attempt_unix_seconds: None,
            will_retry_until_unix_seconds: None,
        };
        let without = DsnRecipient { diagnostic: None, action: Action::Delayed, ..with };
        let text = report(&[with, without], b"a: b\r\n\r\n");
        check_lines(&text);
        prop_assert!(text.is_ascii());
        let status = DeliveryStatus::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(status.recipients.len(), 2);
        prop_assert_eq!(status.recipients[0].action.as_str(), "failed");
        prop_assert_eq!(status.recipients[1].action.as_str(), "delayed");
        prop_assert!(text.ends_with("--=_00a2_1700000000_0=--\r\n"));
    }

    #[test]
    fn long_words_are_folded(text in "[!-~]{0,3000}") {
        for part in fold(&text) {
            prop_assert!(part.len() <= FOLD_MAX && !part.is_empty());
        }
        prop_assert_eq!(fold(&text).collect::<String>(), text);
    }
}
