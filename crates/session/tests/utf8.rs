//! The SMTPUTF8 extension (RFC 6531) at both ends.

#![expect(clippy::panic, reason = "tests may be blunt")]

mod support;

use ringpost_protocol::envelope::{BodyType, Utf8};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::notify::{Notify, OriginalRecipient, RecipientDsn};
use ringpost_session::client::{ClientConfig, LocalRefusal};
use ringpost_session::server::ServerConfig;
use support::{Client, Message, Queued, Server, TRUSTED};

fn config() -> ServerConfig {
    ServerConfig { hostname: "mx.test".into(), ..ServerConfig::default() }
}

#[test]
fn it_is_offered_after_ehlo_unless_it_or_8bitmime_is_switched_off() {
    let all = ExtensionSet::ALL;
    for (extensions, greeting, offered) in [
        (all, "EHLO", true),
        (all, "HELO", false),
        (all.without(Extension::SmtpUtf8), "EHLO", false),
        // RFC 6531 §3.1: the one is announced with the other.
        (all.without(Extension::EightBitMime), "EHLO", false),
    ] {
        let mut server = Server::new(ServerConfig { extensions, ..config() }, TRUSTED);
        server.flush();
        server.said.clear();
        server.send(format!("{greeting} client.test\r\n").as_bytes());
        let said = String::from_utf8(std::mem::take(&mut server.said)).unwrap();
        assert_eq!(said.contains("250-SMTPUTF8\r\n"), offered, "{said}");
        server.send("MAIL FROM:<ä@a.test> SMTPUTF8\r\n".as_bytes());
        server.send("MAIL FROM:<ä@a.test>\r\nRSET\r\nMAIL FROM:<>\r\n".as_bytes());
        server.send("RCPT TO:<ü@b.test>\r\n".as_bytes());
        let expected = [if offered { "250 2.1.0" } else { "555 5.5.4" }, "550 5.6.7"];
        let replies = server.replies();
        let mut pairs = replies.iter().zip(expected);
        assert!(pairs.all(|(reply, start)| reply.starts_with(start)), "{replies:?}");
        assert!(replies[4].starts_with("553 5.6.7"), "{replies:?}");
    }
}

fn taken(mail: &str, rcpt: &str, content: &str) -> (Queued, String) {
    let mut server = Server::introduced(config(), TRUSTED);
    let mut protocol = "";
    for command in [mail, rcpt, "DATA"] {
        server.send(format!("{command}\r\n").as_bytes());
        protocol = server.session.protocol();
    }
    server.send(content.as_bytes());
    server.send(b".\r\n");
    let [queued] = &server.queued[..] else { panic!("{:?}", server.replies()) };
    assert_eq!(server.session.protocol(), "ESMTP", "the mark goes with its message");
    (queued.clone(), protocol.to_owned())
}

#[test]
fn the_mark_and_what_it_is_for_go_with_the_message() {
    let (plain, marked) = ("MAIL FROM:<a@a.test>", "MAIL FROM:<a@a.test> SMTPUTF8");
    let rcpt = "RCPT TO:<b@b.test>";
    for (mail, content, utf8, protocol) in [
        (plain, "a: b\r\n\r\nü\r\n", Utf8::Unmarked, "ESMTP"),
        (plain, "a: ü\r\n\r\nb\r\n", Utf8::Unmarked, "ESMTP"),
        (marked, "a: b\r\n\r\nü\r\n", Utf8::Marked, "UTF8SMTP"),
        (marked, "a: b\r\nü is no field\r\n", Utf8::Marked, "UTF8SMTP"),
        (marked, "a: ü\r\n\r\nb\r\n", Utf8::Header, "UTF8SMTP"),
        (marked, "a: b\r\n\tü\r\n\r\nb\r\n", Utf8::Header, "UTF8SMTP"),
    ] {
        let (queued, with) = taken(mail, rcpt, content);
        assert_eq!((queued.envelope.utf8, &*with), (utf8, protocol), "{mail} {content}");
        // In pieces it is the same.
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(format!("{mail}\r\n{rcpt}\r\nDATA\r\n").as_bytes());
        for octet in format!("{content}.\r\n").as_bytes().chunks(1) {
            server.send(octet);
        }
        assert_eq!(server.queued[0].envelope.utf8, utf8, "{mail} {content} in pieces");
    }
    let (queued, _) = taken(
        "MAIL FROM:<ä@ä.test> SMTPUTF8 BODY=8BITMIME",
        "RCPT TO:<ü@b.test> ORCPT=utf-8;ü\\x{20}@b.test",
        "a: b\r\n",
    );
    assert_eq!(queued.envelope.reverse_path.to_string(), "<ä@ä.test>");
    assert_eq!(queued.envelope.forward_paths[0].to_string(), "<ü@b.test>");
    let one = queued.envelope.dsn.recipient(0).unwrap();
    assert_eq!(one.original.as_ref().unwrap().address(), "ü @b.test");
}

#[test]
fn a_mark_does_not_outlive_its_transaction() {
    for end in ["RSET", "EHLO client.test", "DATA"] {
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(b"MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<b@b.test>\r\n");
        server.send(format!("{end}\r\n").as_bytes());
        if end == "DATA" {
            server.send(b".\r\n");
        }
        server.said.clear();
        server.send("MAIL FROM:<>\r\nRCPT TO:<ü@b.test>\r\n".as_bytes());
        assert!(server.replies()[1].starts_with("553 5.6.7"), "{end}: {:?}", server.replies());
    }
}

/// RFC 6531 §3.7.4.2: no reply has UTF-8 but to a client that has said that it takes it.
#[test]
fn vrfy_says_an_address_outside_of_ascii_only_to_who_takes_it() {
    let config = ServerConfig { vrfy: true, ..config() };
    for (line, expected) in [
        ("VRFY <ü@b.test>", "553 5.6.7"),
        ("VRFY ü@b.test smtputf8", "252 2.1.5 <ü@b.test>"),
        ("VRFY <ü@b.test> SMTPUTF8", "252 2.1.5 <ü@b.test>"),
        ("VRFY a@b.test SMTPUTF8", "252 2.1.5 <a@b.test>"),
        ("VRFY a@b.test", "252 2.1.5 <a@b.test>"),
    ] {
        let mut server = Server::introduced(config.clone(), TRUSTED);
        server.send(format!("{line}\r\n").as_bytes());
        let said = String::from_utf8(server.said.clone()).unwrap();
        assert!(said.starts_with(expected), "{line}: {said}");
    }
}

const OFFERS: &str = "250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n";
const OFFERS_NOT: &str = "250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n";

fn ready(offer: &str) -> Client {
    let mut client = Client::new(ClientConfig::default());
    client.hear(b"220 mx.test\r\n");
    client.hear(offer.as_bytes());
    client.take_said();
    client
}

fn message(from: &str, to: &[&str], content: &str, utf8: Utf8) -> Message {
    Message { utf8, ..Message::new(from, to, content.as_bytes()) }
}

/// RFC 6531 §3.4, §3.5: what needs it, as its addresses and its header are.
#[test]
fn what_needs_it_goes_with_it_or_not_at_all() {
    let (ascii, text, eight) = ("a: b\r\n", "a: ü\r\n", "a: b\r\n\r\nü\r\n");
    let b = &["<b@b.test>"][..];
    let needs_address = Some(LocalRefusal::NeedsUtf8Address);
    let needs_header = Some(LocalRefusal::NeedsUtf8Header);
    for (message, with, without) in [
        (message("<a@a.test>", b, ascii, Utf8::Unmarked), false, None),
        (message("<a@a.test>", b, text, Utf8::Unmarked), false, None),
        (message("<a@a.test>", b, ascii, Utf8::Marked), false, None),
        (message("<a@a.test>", b, eight, Utf8::Marked), true, None),
        (message("<a@a.test>", b, text, Utf8::Header), true, needs_header),
        (message("<ä@a.test>", b, ascii, Utf8::Marked), true, needs_address),
        (message("<a@ä.test>", b, ascii, Utf8::Marked), true, needs_address),
        (message("<>", &["<ü@b.test>"], ascii, Utf8::Marked), true, needs_address),
        (message("<>", &["<b@ü.test>"], ascii, Utf8::Unmarked), true, needs_address),
    ] {
        let mut client = ready(OFFERS);
        client.start(&message);
        let said = client.take_said();
        let (mail, rest) = said.split_once("\r\n").unwrap();
        assert_eq!(mail.ends_with(" SMTPUTF8"), with, "{mail}");
        assert!(rest.contains(&message.forward_paths[0].to_string()), "{rest}");

        let mut client = ready(OFFERS_NOT);
        client.start(&message);
        let said = client.take_said();
        assert!(!said.contains("SMTPUTF8"), "{said}");
        match without {
            None => assert!(said.starts_with("MAIL FROM:<"), "{said}"),
            Some(refusal) => {
                assert_eq!(said, "", "nothing is begun");
                let report = &client.reports[0];
                assert!(report.session_usable && client.session.is_ready());
                let verdict = &report.recipients[0].verdict;
                assert_eq!(*verdict, ringpost_session::client::Verdict::Refused(refusal));
            }
        }
    }
    assert_eq!(LocalRefusal::NeedsUtf8Address.status().to_string(), "5.6.7");
    assert_eq!(LocalRefusal::NeedsUtf8Header.status().to_string(), "5.6.9");
}

/// Recipients that the host can take get the message; it never hears of the others.
#[test]
fn recipients_are_left_out_one_by_one() {
    let paths = ["<ü@b.test>", "<a@b.test>", "<ö@b.test>", "<c@b.test>", "<ä@b.test>"];
    let message = message("<>", &paths, "a: b\r\n", Utf8::Marked);
    for pipelining in [true, false] {
        let offer = if pipelining { OFFERS_NOT } else { "250-mx.test\r\n250 8BITMIME\r\n" };
        for (replies, expected) in [
            (
                ["250 ok", "250 ok", "250 ok", "354 go", "250 ok"],
                ["idle 5.6.7", "final reply 250", "idle 5.6.7", "final reply 250", "idle 5.6.7"],
            ),
            (
                ["250 ok", "550 no", "250 ok", "354 go", "250 ok"],
                ["idle 5.6.7", "rcpt 550", "idle 5.6.7", "final reply 250", "idle 5.6.7"],
            ),
            (
                ["250 ok", "550 no", "550 no", "554 no", ""],
                ["idle 5.6.7", "rcpt 550", "idle 5.6.7", "rcpt 550", "idle 5.6.7"],
            ),
            (
                ["550 no", "503 no", "503 no", "503 no", ""],
                ["idle 5.6.7", "mail 550", "idle 5.6.7", "mail 550", "idle 5.6.7"],
            ),
        ] {
            let mut client = ready(offer);
            client.start(&message);
            let mut said = client.take_said();
            for reply in replies {
                if client.reports.is_empty() && !reply.is_empty() {
                    client.hear(format!("{reply}\r\n").as_bytes());
                    said += &client.take_said();
                }
            }
            assert!(!said.contains('ü') && !said.contains('ö') && !said.contains('ä'), "{said}");
            let report = client.last_report();
            assert_eq!(report, expected, "{pipelining} {replies:?}");
        }
    }
}

/// RFC 6533 §3: ORCPT has UTF-8 only where the transaction has.
#[test]
fn orcpt_is_in_the_form_that_is_taken() {
    let original = OriginalRecipient::parse("utf-8;ü@old.test");
    for (offer, to, utf8, expected) in [
        (
            OFFERS,
            "<ü@b.test>",
            Utf8::Marked,
            "RCPT TO:<ü@b.test> NOTIFY=DELAY ORCPT=utf-8;ü@b.test",
        ),
        (
            OFFERS,
            "<b@b.test>",
            Utf8::Marked,
            "RCPT TO:<b@b.test> NOTIFY=DELAY ORCPT=rfc822;b@b.test",
        ),
    ] {
        let mut message = message("<>", &[to], "a: b\r\n", utf8);
        message.dsn.set_recipient(0, RecipientDsn::new(Notify::parse("DELAY"), None));
        let mut client = ready(offer);
        client.start(&message);
        assert!(client.take_said().contains(expected), "{expected}");
    }
    for (offer, utf8, content, expected) in [
        (OFFERS_NOT, Utf8::Marked, "a: b\r\n", " ORCPT=utf-8;\\x{FC}@old.test\r\n"),
        (OFFERS, Utf8::Marked, "a: b\r\n", " ORCPT=utf-8;\\x{FC}@old.test\r\n"),
        (OFFERS, Utf8::Header, "a: ü\r\n", " ORCPT=utf-8;ü@old.test\r\n"),
    ] {
        let mut message = message("<>", &["<b@b.test>"], content, utf8);
        message.body = Some(BodyType::SevenBit);
        message.dsn.set_recipient(0, RecipientDsn::new(None, original.clone()));
        let mut client = ready(offer);
        client.start(&message);
        let said = client.take_said();
        assert!(said.contains(expected), "{said}");
    }
}
