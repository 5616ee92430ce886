//! By when messages are to be delivered (DELIVERBY, RFC 2852).

mod support;

use std::time::Duration;

use ringpost_protocol::deliver_by::{ByMode, ByValue};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::client::{ClientConfig, LocalRefusal, Verdict};
use ringpost_session::server::ServerConfig;
use support::{Client, Message, STRANGER, Server, TRUSTED, UNIX_MS};

fn config(deliver_by_min: Option<u32>) -> ServerConfig {
    ServerConfig { hostname: "mx.test".into(), deliver_by_min, ..ServerConfig::default() }
}

#[test]
fn it_is_offered_where_it_is_switched_on() {
    let all = ExtensionSet::ALL;
    for (min, extensions, greeting, offer) in [
        (Some(0), all, "EHLO", Some("DELIVERBY\r\n")),
        (Some(240), all, "EHLO", Some("DELIVERBY 240\r\n")),
        (Some(240), all, "HELO", None),
        (Some(240), all.without(Extension::DeliverBy), "EHLO", None),
        (None, all, "EHLO", None),
    ] {
        for peer in [TRUSTED, STRANGER] {
            let mut server = Server::new(ServerConfig { extensions, ..config(min) }, peer);
            server.flush();
            server.send(format!("{greeting} client.test\r\n").as_bytes());
            let said = String::from_utf8(std::mem::take(&mut server.said)).unwrap();
            assert_eq!(said.contains("DELIVERBY"), offer.is_some(), "{said}");
            assert!(offer.is_none_or(|offer| said.contains(offer)), "{said}");
            server.send(b"MAIL FROM:<a@a.test> BY=300;R\r\n");
            let expected = if offer.is_some() { "250 2.1.0" } else { "555 5.5.4" };
            assert!(server.replies()[0].starts_with(expected), "{:?}", server.replies());
        }
    }
}

/// RFC 2852 §4: what is malformed is a syntax error, what is below the minimum is not taken.
#[test]
fn times_are_taken_from_the_minimum_on() {
    for (parameters, expected) in [
        ("BY=60;R", "250"),
        ("BY=59;R", "555 5.5.4"),
        ("BY=1;N", "250"),
        ("BY=-1;NT", "250"),
        ("BY=0;R", "501 5.5.4"),
        ("BY=-1;R", "501 5.5.4"),
        ("BY=60", "501 5.5.4"),
        ("BY=60;R BY=60;R", "501 5.5.4"),
        // It would come back before it is let go.
        ("BY=60;R HOLDFOR=60", "501 5.5.4"),
        ("BY=60;R HOLDFOR=59", "250"),
        ("BY=60;N HOLDFOR=600", "250"),
    ] {
        let mut server = Server::introduced(config(Some(60)), TRUSTED);
        server.send(format!("MAIL FROM:<a@a.test> {parameters}\r\n").as_bytes());
        let replies = server.replies();
        assert!(replies[0].starts_with(expected), "{parameters}: {replies:?}");
    }
}

/// Time runs from MAIL on, however long the rest takes; and that the time is over says nothing about whether
/// the originator was told.
#[test]
fn time_runs_from_mail_on() {
    let mut server = Server::introduced(config(Some(0)), TRUSTED);
    assert_eq!(server.session.deliver_by(server.now, UNIX_MS), None);
    for (parameter, by_unix_ms, is_told) in
        [("BY=10;N", UNIX_MS - 20_000, false), ("BY=-1;N", UNIX_MS - 31_000, true)]
    {
        server.send(format!("MAIL FROM:<a@a.test> {parameter}\r\n").as_bytes());
        let later = server.now + Duration::from_secs(30);
        let by = server.session.deliver_by(later, UNIX_MS).unwrap();
        assert_eq!((by.by_unix_ms, by.mode, by.is_told), (by_unix_ms, ByMode::Notify, is_told));
        server.send(b"RSET\r\nMAIL FROM:<a@a.test>\r\n");
        assert_eq!(server.session.deliver_by(later, UNIX_MS), None, "it was of another message");
        server.send(b"RSET\r\n");
    }
}

/// RFC 2852 §4.1.4.
#[test]
fn what_is_left_goes_on_to_those_that_see_to_it() {
    let (none, min) = (None, Some(LocalRefusal::TimeOver));
    let needs = Some(LocalRefusal::NeedsDeliverBy);
    for (by, offer, said, refusal) in [
        (None, "DELIVERBY", "", none),
        (Some("30;R"), "DELIVERBY", " BY=30;R", none),
        (Some("30;RT"), "DELIVERBY 30", " BY=30;RT", none),
        (Some("30;R"), "DELIVERBY 31", "", min),
        (Some("30;N"), "DELIVERBY 31", " BY=30;N", none),
        (Some("-3;N"), "DELIVERBY 31", " BY=-3;N", none),
        (Some("30;R"), "8BITMIME", "", needs),
        (Some("30;N"), "8BITMIME", "", none),
    ] {
        let by = by.map(|text| ByValue::parse(text).unwrap());
        let mut client = Client::new(ClientConfig::default());
        client.hear(b"220 mx.test\r\n");
        client.hear(format!("250-mx.test\r\n250 {offer}\r\n").as_bytes());
        client.take_said();
        let message = Message::new("<a@a.test>", &["<b@b.test>"], b"x\r\n");
        client.start(&Message { by, ..message });
        let mail = client.take_said();
        let expected = if refusal.is_none() {
            format!("MAIL FROM:<a@a.test>{said}\r\n")
        } else {
            String::new()
        };
        assert_eq!(mail, expected);
        if let Some(refusal) = refusal {
            assert_eq!(client.reports[0].recipients[0].verdict, Verdict::Refused(refusal));
            assert!(client.reports[0].session_usable);
        }
    }
    let over = ByValue { seconds: 0, mode: ByMode::Return, trace: false };
    assert!(over.is_over());
    assert_eq!(LocalRefusal::TimeOver.status().to_string(), "5.4.7");
    assert_eq!(LocalRefusal::NeedsDeliverBy.status().to_string(), "5.3.3");
}
