//! The DSN extension (RFC 3461) at both ends.

#![expect(clippy::panic, reason = "tests may be blunt")]

mod support;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::notify::{DsnParameters, EnvelopeId, Notify, RecipientDsn, Return};
use ringpost_session::client::ClientConfig;
use ringpost_session::server::{Peer, ServerConfig, ServerLimit};
use support::{Client, Message, STRANGER, Server, TRUSTED, aliases, postmaster};

fn config() -> ServerConfig {
    ServerConfig { hostname: "mx.test".into(), ..ServerConfig::default() }
}

#[test]
fn it_is_offered_after_ehlo_unless_switched_off() {
    for (peer, dsn, greeting, offered) in [
        (TRUSTED, true, "EHLO", true),
        (STRANGER, true, "EHLO", true),
        (TRUSTED, true, "HELO", false),
        (TRUSTED, false, "EHLO", false),
    ] {
        let peer: Peer = peer;
        let all = ExtensionSet::ALL;
        let extensions = if dsn { all } else { all.without(Extension::Dsn) };
        let mut server = Server::new(ServerConfig { extensions, ..config() }, peer);
        server.flush();
        server.said.clear();
        server.send(format!("{greeting} client.test\r\n").as_bytes());
        let said = String::from_utf8(std::mem::take(&mut server.said)).unwrap();
        assert_eq!(said.contains("250-DSN\r\n"), offered, "{said}");
        for parameter in ["RET=FULL", "ENVID=x"] {
            server.said.clear();
            server.send(format!("MAIL FROM:<a@a.test> {parameter}\r\nRSET\r\n").as_bytes());
            let expected = if offered { "250 2.1.0" } else { "555 5.5.4" };
            assert!(server.replies()[0].starts_with(expected), "{:?}", server.replies());
        }
        if peer == STRANGER {
            continue;
        }
        for parameter in ["NOTIFY=NEVER", "ORCPT=rfc822;x@x.test"] {
            server.said.clear();
            let rcpt = format!("RCPT TO:<b@b.test> {parameter}\r\nRSET\r\n");
            server.send(format!("MAIL FROM:<a@a.test>\r\n{rcpt}").as_bytes());
            let expected = if offered { "250 2.1.5" } else { "555 5.5.4" };
            assert!(server.replies()[1].starts_with(expected), "{:?}", server.replies());
        }
    }
}

/// The parameters of a message that was sent with these commands, in words.
fn taken(config: ServerConfig, commands: &[&str]) -> (Vec<String>, String) {
    let mut server = Server::introduced(config, TRUSTED);
    for command in commands {
        server.send(format!("{command}\r\n").as_bytes());
    }
    server.send(b"DATA\r\n");
    server.send(b"a: b\r\n\r\ntext\r\n.\r\n");
    let [queued] = &server.queued[..] else { panic!("{:?}", server.replies()) };
    let dsn = &queued.envelope.dsn;
    let mut words = vec![];
    words.extend(dsn.ret().map(|ret| ret.to_string()));
    words.extend(dsn.envelope_id().map(EnvelopeId::decoded));
    words.extend(dsn.recipients().map(|(at, one)| {
        let notify = one.notify.map(|notify| format!(" {notify}")).unwrap_or_default();
        let original = one.original.as_ref().map(|one| format!(" {one}")).unwrap_or_default();
        format!("{at}{notify}{original}")
    }));
    let paths: Vec<String> =
        queued.envelope.forward_paths.iter().map(ToString::to_string).collect();
    (words, paths.join(" "))
}

#[test]
fn parameters_stay_with_their_message_and_recipient() {
    let (words, _) = taken(
        config(),
        &[
            "MAIL FROM:<a@a.test> ENVID=QQ+2B1 RET=HDRS",
            "RCPT TO:<b@b.test>",
            "RCPT TO:<c@b.test> NOTIFY=NEVER",
            "RCPT TO:<d@b.test> ORCPT=rfc822;D@b.test NOTIFY=DELAY,SUCCESS",
        ],
    );
    assert_eq!(words, ["HDRS", "QQ+1", "1 NEVER", "2 SUCCESS,DELAY rfc822;D@b.test"]);
    let (words, _) = taken(config(), &["MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>"]);
    assert_eq!(words, [""; 0]);
}

#[test]
fn parameters_of_another_transaction_are_forgotten() {
    let (words, _) = taken(
        config(),
        &[
            "MAIL FROM:<a@a.test> ENVID=1 RET=FULL",
            "RCPT TO:<b@b.test> NOTIFY=NEVER",
            "RSET",
            "MAIL FROM:<a@a.test>",
            "RCPT TO:<b@b.test>",
        ],
    );
    assert_eq!(words, [""; 0]);
}

/// The originator is told all that was asked for of a recipient; those of others stay theirs.
#[test]
fn a_recipient_named_twice_keeps_what_was_said_of_both() {
    let (words, paths) = taken(
        config(),
        &[
            "MAIL FROM:<a@a.test>",
            "RCPT TO:<b@b.test> NOTIFY=NEVER",
            "RCPT TO:<b@b.test> NOTIFY=SUCCESS",
            "RCPT TO:<c@b.test>",
            "RCPT TO:<c@b.test> NOTIFY=SUCCESS",
            "RCPT TO:<d@b.test> NOTIFY=DELAY",
            "RCPT TO:<e@b.test> NOTIFY=NEVER",
            "RCPT TO:<e@b.test>",
            "RCPT TO:<f@b.test> NOTIFY=NEVER ORCPT=rfc822;x",
            "RCPT TO:<f@b.test> NOTIFY=NEVER ORCPT=rfc822;y",
            "RCPT TO:<c@b.test>",
        ],
    );
    assert_eq!(paths, "<b@b.test> <c@b.test> <d@b.test> <e@b.test> <f@b.test>");
    // Failures and delays are told of where nothing is said.
    let expected = ["0 SUCCESS", "1 SUCCESS,FAILURE,DELAY", "2 DELAY", "4 NEVER rfc822;x"];
    assert_eq!(words, expected);
}

/// Whoever is named, and is a member of an alias that is named, counts as both.
#[test]
fn a_member_of_an_alias_that_is_named_itself_keeps_what_was_said_of_both() {
    let of_list = aliases(&[("list@relay.test", &["c@b.test", "d@b.test"])]);
    let config = ServerConfig { aliases: of_list, ..config() };
    let list = "RCPT TO:<list@relay.test> NOTIFY=NEVER";
    let member = "RCPT TO:<d@b.test> NOTIFY=SUCCESS,FAILURE";
    let mail = "MAIL FROM:<a@a.test>";
    for rcpts in [[list, member], [member, list]] {
        let (words, paths) = taken(config.clone(), &[mail, rcpts[0], rcpts[1]]);
        let at = paths.split(' ').position(|path| path == "<d@b.test>").unwrap();
        assert!(
            words.iter().any(|word| word.starts_with(&format!("{at} SUCCESS,FAILURE"))),
            "{words:?}"
        );
        assert!(
            words.iter().any(|word| word.starts_with(&format!("{} NEVER", 1 - at))),
            "{words:?}"
        );
    }
}

#[test]
fn a_recipient_that_is_refused_leaves_nothing() {
    let (words, paths) = taken(
        config(),
        &[
            "MAIL FROM:<a@a.test>",
            "RCPT TO:<b@[127.0.0.1]> NOTIFY=NEVER",
            "RCPT TO:<c@b.test>",
            "RCPT TO:<d@b.test> NOTIFY=DELAY",
        ],
    );
    assert_eq!(paths, "<c@b.test> <d@b.test>");
    assert_eq!(words, ["1 DELAY"]);
}

/// RFC 3461 §5.2.1 d: what stands in ORCPT is what the client has written to.
#[test]
fn the_postmaster_is_told_of_as_it_was_named() {
    let config = ServerConfig { aliases: postmaster("real@b.test"), ..config() };
    let mail = "MAIL FROM:<a@a.test>";
    let table = [
        ("RCPT TO:<Postmaster> NOTIFY=FAILURE", vec!["0 FAILURE rfc822;Postmaster"]),
        ("RCPT TO:<Postmaster> NOTIFY=NEVER ORCPT=rfc822;x", vec!["0 NEVER rfc822;x"]),
        ("RCPT TO:<Postmaster>", vec![]),
    ];
    for (rcpt, expected) in table {
        assert_eq!(taken(config.clone(), &[mail, rcpt]).0, expected, "{rcpt}");
    }
}

/// RFC 3461 §5.2.7: what was asked for goes on with whoever stands in the place of an alias, under the name
/// that the client has used; and nothing is made of nothing.
#[test]
fn what_an_alias_stands_for_has_its_parameters() {
    let of_list = aliases(&[("list@relay.test", &["c@b.test", "d@b.test"])]);
    let config = ServerConfig { aliases: of_list, ..config() };
    let mail = "MAIL FROM:<a@a.test>";
    let before = "RCPT TO:<b@b.test> NOTIFY=DELAY";
    let table: [(&str, &[&str]); 3] = [
        ("NOTIFY=NEVER", &["1 NEVER rfc822;List@relay.test", "2 NEVER rfc822;List@relay.test"]),
        ("NOTIFY=SUCCESS ORCPT=rfc822;x", &["1 SUCCESS rfc822;x", "2 SUCCESS rfc822;x"]),
        ("", &[]),
    ];
    for (parameters, expected) in table {
        let rcpt = format!("RCPT TO:<List@Relay.test> {parameters}");
        let (words, paths) = taken(config.clone(), &[mail, before, rcpt.trim_end()]);
        assert_eq!(paths, "<b@b.test> <c@b.test> <d@b.test>");
        assert_eq!(words[0], "0 DELAY");
        assert_eq!(words[1..], *expected, "{parameters}");
    }
}

#[test]
fn what_they_take_is_bounded() {
    let config = ServerConfig { dsn_parameters_size_max: 1500, ..config() };
    let mut server = Server::introduced(config, TRUSTED);
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    let original = "x".repeat(490);
    for number in 0..5 {
        server.send(format!("RCPT TO:<b{number}@b.test> ORCPT=rfc822;{original}\r\n").as_bytes());
    }
    server.send(b"RCPT TO:<c@b.test>\r\n");
    let replies = server.replies();
    let said: Vec<&str> = replies[replies.len() - 6..].iter().map(|reply| &reply[..9]).collect();
    assert_eq!(
        said,
        ["250 2.1.5", "250 2.1.5", "452 4.5.3", "452 4.5.3", "452 4.5.3", "250 2.1.5"]
    );
    assert_eq!(server.session.stats().limit_hits(ServerLimit::DsnParameters), 3);
}

const OFFERS: &[u8] = b"250-mx.test\r\n250-PIPELINING\r\n250 DSN\r\n";
const OFFERS_NOT: &[u8] = b"250-mx.test\r\n250 PIPELINING\r\n";

fn said(offer: &[u8], message: &Message, places: Option<Vec<usize>>) -> String {
    let mut client = Client::new(ClientConfig::default());
    client.hear(b"220 mx.test\r\n");
    client.hear(offer);
    client.take_said();
    client.places = places;
    client.start(message);
    client.take_said()
}

#[test]
fn all_parameters_are_passed_on_to_who_offers_it() {
    let mut message =
        Message::new("<a@a.test>", &["<b@b.test>", "<c+d@b.test>", "<e@b.test>"], b"text\r\n");
    message.dsn.set_message(Some(Return::Full), EnvelopeId::parse("QQ+2B1"));
    message.dsn.set_recipient(1, RecipientDsn::new(Some(Notify::NEVER), None));
    let original = ringpost_protocol::notify::OriginalRecipient::parse("x-y;E+20e");
    let notify = Notify::parse("SUCCESS,DELAY");
    message.dsn.set_recipient(2, RecipientDsn::new(notify, original));
    assert_eq!(
        said(OFFERS, &message, None),
        "MAIL FROM:<a@a.test> RET=FULL ENVID=QQ+2B1\r\n\
         RCPT TO:<b@b.test>\r\n\
         RCPT TO:<c+d@b.test> NOTIFY=NEVER ORCPT=rfc822;c+2Bd@b.test\r\n\
         RCPT TO:<e@b.test> NOTIFY=SUCCESS,DELAY ORCPT=x-y;E+20e\r\nDATA\r\n"
    );
    let plain = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<c+d@b.test>\r\n\
                 RCPT TO:<e@b.test>\r\nDATA\r\n";
    assert_eq!(said(OFFERS_NOT, &message, None), plain);
    message.dsn = DsnParameters::default();
    assert_eq!(said(OFFERS, &message, None), plain);
}

/// A transaction for some recipients passes on what was said of those.
#[test]
fn parameters_follow_their_recipient_into_any_transaction() {
    let mut message = Message::new("<>", &["<c@b.test>"], b"text\r\n");
    let never = RecipientDsn::new(Some(Notify::NEVER), None);
    message.dsn.set_recipient(2, never);
    assert!(said(OFFERS, &message, Some(vec![2])).contains("<c@b.test> NOTIFY=NEVER"));
    assert!(!said(OFFERS, &message, Some(vec![1])).contains("NOTIFY"));
}

#[test]
fn the_report_says_who_reports_from_here_on() {
    for (offer, expected) in [(OFFERS, true), (OFFERS_NOT, false)] {
        let mut client = Client::new(ClientConfig::default());
        client.hear(b"220 mx.test\r\n");
        client.hear(offer);
        client.start(&Message::new("<a@a.test>", &["<b@b.test>"], b"text\r\n"));
        client.hear(b"250 ok\r\n250 ok\r\n354 go\r\n");
        client.hear(b"250 ok\r\n");
        assert_eq!(client.reports[0].dsn_offered, expected);
        client.start(&Message::new("<a@a.test>", &["<b@b.test>"], b"text\r\n"));
        client.eof();
        assert_eq!(client.reports[1].dsn_offered, expected);
    }
}
