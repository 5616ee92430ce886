//! Where messages go, and what becomes of them when a receiver says no.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Delivery, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

fn send(server: &Server, from: &str, to: &[&str], id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message(from, to, &message::build(id, 1_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

fn keeping() -> SinkOptions {
    SinkOptions { keep_content: true, ..SinkOptions::default() }
}

/// The one DSN that the sink has, as text.
fn only_dsn(sink: &Sink) -> Result<(Delivery, String)> {
    let mut found = sink.accepted().into_iter().filter(|one| one.mark.id().is_none());
    let delivery = found.next().context("no DSN")?;
    ensure!(found.next().is_none(), "more than one DSN");
    let text = String::from_utf8(delivery.content.clone())?;
    Ok((delivery, text))
}

fn of_kind<'a>(events: &'a [Event], kind: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.kind == kind).collect()
}

#[test]
fn each_domain_goes_to_its_smarthost() -> Result<()> {
    let (special, rest) = (Sink::start()?, Sink::start()?);
    let mut server = Server::prepare()?;
    server.config.route("special.test", special.address()).route("*", rest.address());
    server.start()?;
    for number in 0..10 {
        send(&server, "<a@a.test>", &["<r@special.test>"], &format!("special-{number}"))?;
        send(&server, "<a@a.test>", &["<r@other.test>"], &format!("rest-{number}"))?;
    }
    server.wait_drained(SOON)?;
    for (sink, name) in [(&special, "special-"), (&rest, "rest-")] {
        let ids: Vec<_> =
            sink.accepted().iter().filter_map(|one| one.mark.id().map(str::to_owned)).collect();
        assert_eq!(ids.len(), 10);
        assert!(ids.iter().all(|id| id.starts_with(name)), "{ids:?}");
    }
    // One message to both: each gets its own recipient.
    send(&server, "<a@a.test>", &["<x@special.test>", "<y@other.test>"], "both")?;
    server.wait_drained(SOON)?;
    for (sink, path) in [(&special, "<x@special.test>"), (&rest, "<y@other.test>")] {
        let last = sink.accepted().pop().context("nothing")?;
        assert_eq!(last.mark.id(), Some("both"));
        assert_eq!(last.forward_paths, [path]);
    }
    Ok(())
}

#[test]
fn many_recipients_of_one_site_are_stored_and_sent_once() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let paths: Vec<_> = (0..50).map(|number| format!("<r{number}@example.test>")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let body = message::build("many", 1_000_000);
    let before = server.metrics()?.count("ringpost_commit_bytes_total");
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<a@a.test>", &paths, &body)?;
    assert_eq!(reply.code, 250, "{reply:?}");
    server.wait_drained(SOON)?;
    let accepted = sink.accepted();
    assert_eq!(accepted.len(), 1, "one transaction");
    assert_eq!(accepted[0].mark, message::Mark::Intact("many".into()));
    let mut taken = accepted[0].forward_paths.clone();
    taken.sort();
    let mut given: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
    given.sort();
    assert_eq!(taken, given);
    let written = server.metrics()?.count("ringpost_commit_bytes_total") - before;
    let ratio = written as f64 / body.len() as f64;
    assert!((1.0..1.5).contains(&ratio), "{written} octets of log for one body ({ratio:.2})");
    Ok(())
}

#[test]
fn a_temporary_refusal_is_tried_again() -> Result<()> {
    let seen: Mutex<HashMap<String, u32>> = Mutex::default();
    let sink = Sink::scripted(move |step| {
        let Step::Rcpt(to) = step else { return Answer::Accept };
        let Ok(mut seen) = seen.lock() else { return Answer::Close };
        let times = seen.entry((*to).to_owned()).or_insert(0);
        *times += 1;
        if *times <= 2 { Answer::reply("450 4.2.1 not now") } else { Answer::Accept }
    })?;
    let server = Server::relaying_to(sink.address())?;
    send(&server, "<a@a.test>", &["<b@b.test>"], "again")?;
    let events = server.wait_events("delivered", 1)?;
    let deferred = of_kind(&events, "deferred");
    assert_eq!(deferred.len(), 2, "{events:?}");
    for event in deferred {
        assert_eq!(event.forward_path.as_deref(), Some("b@b.test"));
        assert_eq!(event.fields["reply"]["code"], 450);
        assert_eq!(event.fields["reply"]["enhanced"], "4.2.1");
        assert!(event.fields["due"].is_string(), "{:?}", event.fields);
    }
    assert_eq!(of_kind(&events, "delivered")[0].fields["attempts"], 3);
    assert_eq!(sink.accepted_count(), 1);
    Ok(())
}

#[test]
fn each_recipient_has_its_own_outcome() -> Result<()> {
    let seen: Mutex<bool> = Mutex::new(false);
    let sink = Sink::with(ports::reserve()?, keeping(), move |step| match step {
        Step::Rcpt(to) if to.contains("never@") => Answer::reply("550 5.1.1 no such mailbox"),
        Step::Rcpt(to) if to.contains("later@") => {
            let Ok(mut seen) = seen.lock() else { return Answer::Close };
            if std::mem::replace(&mut *seen, true) {
                Answer::Accept
            } else {
                Answer::reply("451 4.7.1 greylisted")
            }
        }
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    send(&server, "<a@a.test>", &["<now@b.test>", "<later@b.test>", "<never@b.test>"], "mixed")?;
    server.wait_drained(SOON)?;
    let accepted = sink.accepted();
    let paths = |id: Option<&str>| -> Vec<Vec<String>> {
        accepted
            .iter()
            .filter(|one| one.mark.id() == id)
            .map(|one| one.forward_paths.clone())
            .collect()
    };
    assert_eq!(
        paths(Some("mixed")),
        [vec!["<now@b.test>".to_owned()], vec!["<later@b.test>".to_owned()]],
        "what is delivered is not sent again"
    );
    assert_eq!(paths(None), [vec!["<a@a.test>".to_owned()]], "one DSN, to the reverse-path");
    let (_, dsn) = only_dsn(&sink)?;
    assert!(dsn.contains("never@b.test"), "{dsn}");
    assert!(!dsn.contains("later@b.test") && !dsn.contains("now@b.test"), "{dsn}");
    Ok(())
}

#[test]
fn a_permanent_refusal_is_reported_to_the_reverse_path() -> Result<()> {
    let sink = Sink::with(ports::reserve()?, keeping(), |step| match step {
        Step::Rcpt(to) if to.contains("gone@") => Answer::reply("550 5.1.1 no such mailbox here"),
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    send(&server, "<author@a.test>", &["<gone@b.test>"], "bounced")?;
    let events = server.wait_events("delivered", 1)?;
    let (delivery, dsn) = only_dsn(&sink)?;
    assert_eq!(delivery.reverse_path.split(' ').next(), Some("<>"));
    assert_eq!(delivery.forward_paths, ["<author@a.test>"]);
    for needle in [
        "multipart/report",
        "message/delivery-status",
        "Final-Recipient: rfc822;",
        "gone@b.test",
        "Action: failed",
        "Status: 5.1.1",
        "550",
        "no such mailbox here",
        "Reporting-MTA: dns;",
        "relay.test",
        "X-Ringpost-Test: bounced",
        "Auto-Submitted: auto-",
    ] {
        assert!(dsn.contains(needle), "{needle:?} in:\n{dsn}");
    }
    let bounced = of_kind(&events, "bounced");
    assert_eq!(bounced.len(), 1);
    assert_eq!(bounced[0].fields["reply"]["code"], 550);
    let dsn_id = bounced[0].fields["dsn_id"].as_str().context("no id of the DSN")?;
    assert!(
        of_kind(&events, "delivered").iter().any(|event| event.id == dsn_id),
        "the DSN has a life of its own"
    );
    assert_eq!(sink.violations(), [""; 0]);
    Ok(())
}

#[test]
fn a_bounce_is_never_bounced() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(_) => Answer::reply("550 5.1.1 nobody here"),
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    // With a null reverse-path there is nobody to tell; with another one, the DSN itself bounces.
    send(&server, "<>", &["<b@b.test>"], "null")?;
    send(&server, "<a@a.test>", &["<b@b.test>"], "author")?;
    let events = server.wait_events("bounced", 3)?;
    server.wait_drained(SOON)?;
    assert_eq!(of_kind(&events, "bounced").len(), 3, "two messages and one DSN");
    assert_eq!(server.metrics()?.count("ringpost_dsns_total"), 1);
    Ok(())
}

#[test]
fn a_receiver_that_hangs_up_is_tried_again() -> Result<()> {
    // Each message is met with another kind of end, once.
    let table: [(&str, Answer); 6] = [
        ("greeting", Answer::reply("421 4.3.2 busy")),
        ("greeting-close", Answer::Close),
        ("mail", Answer::ReplyAndClose("421 4.3.2 going down".into())),
        ("rcpt-close", Answer::Close),
        ("dot", Answer::reply("451 4.3.0 later")),
        ("dot-close", Answer::Close),
    ];
    for (name, answer) in table {
        let used = Mutex::new(false);
        let sink = Sink::scripted(move |step| {
            let mine = match step {
                Step::Greeting => name.starts_with("greeting"),
                Step::Mail(_) => name == "mail",
                Step::Rcpt(_) => name == "rcpt-close",
                Step::Content(_) => name.starts_with("dot"),
                _ => false,
            };
            let Ok(mut used) = used.lock() else { return Answer::Close };
            if mine && !std::mem::replace(&mut *used, true) {
                answer.clone()
            } else {
                Answer::Accept
            }
        })?;
        let server = Server::relaying_to(sink.address())?;
        send(&server, "<a@a.test>", &["<b@b.test>"], name)?;
        server.wait_events("delivered", 1).with_context(|| name.to_owned())?;
        assert_eq!(sink.accepted_count(), 1, "{name}");
        let metrics = server.metrics()?;
        let unknown = metrics.count("ringpost_outcomes_unknown_total");
        assert_eq!(unknown, u64::from(name == "dot-close"), "{name}");
        assert_eq!(metrics.count_where("ringpost_outcomes_total", "outcome=\"bounced\""), 0);
    }
    Ok(())
}

#[test]
fn a_receiver_that_quits_in_the_breath_of_its_greeting_is_given_no_job() -> Result<()> {
    let is_busy = Arc::new(AtomicBool::new(true));
    let busy = Arc::clone(&is_busy);
    let sink = Sink::scripted(move |step| match step {
        // Two replies in one segment: the session is ready, and over.
        Step::Ehlo(_) if busy.load(Ordering::Relaxed) => {
            Answer::ReplyAndClose("250 hello\r\n421 4.3.2 too busy".into())
        }
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    for number in 0..30 {
        send(&server, "<a@a.test>", &["<b@b.test>"], &format!("busy-{number}"))?;
    }
    let events = server.wait_events("deferred", 1)?;
    for event in of_kind(&events, "deferred") {
        assert_eq!(event.fields["reply"]["code"], 421, "{}", event.fields);
    }
    is_busy.store(false, Ordering::Relaxed);
    server.wait_drained(SOON)?;
    assert_eq!(sink.accepted_count(), 30);
    assert!(!server.log().contains("ERROR"), "{}", server.log());
    Ok(())
}

#[test]
fn a_refusal_in_the_middle_of_the_content_is_heard() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Data => Answer::ReplyAndClose("354 go on\r\n552 5.3.4 too much".into()),
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    // More than the socket's buffers take, so that our write fails.
    let reply = client.message("<>", &["<b@b.test>"], &message::build("large", 20_000_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    let events = server.wait_events("bounced", 1)?;
    let bounced = of_kind(&events, "bounced");
    assert_eq!(bounced[0].fields["reply"]["code"], 552, "{}", bounced[0].fields);
    assert!(of_kind(&events, "deferred").is_empty());
    server.wait_drained(SOON)
}

#[test]
fn a_site_that_is_down_holds_up_nobody() -> Result<()> {
    let up = Sink::start()?;
    let down = ports::reserve()?;
    let mut server = Server::prepare()?;
    server.config.route("down.test", down).route("*", up.address());
    server.start()?;
    for number in 0..100 {
        send(&server, "<a@a.test>", &["<r@down.test>"], &format!("down-{number}"))?;
        send(&server, "<a@a.test>", &["<r@up.test>"], &format!("up-{number}"))?;
    }
    wait_until("the mail for the site that is up", SOON, || Ok(up.accepted_count() == 100))?;
    let events = server.wait_events("deferred", 1)?;
    // One message pays for each round in vain; the others wait, and are not even read.
    let deferred = of_kind(&events, "deferred");
    assert!(deferred.len() < 20, "{} deferred", deferred.len());
    assert!(deferred.iter().all(|event| event.fields["stage"] == "connect"));
    server.wait_queued(100)?;
    wait_until("parked mail", SOON, || {
        Ok(server.metrics()?.count("ringpost_recipients_parked") > 80)
    })?;
    let late = Sink::with(down, SinkOptions::default(), |_| Answer::Accept)?;
    server.wait_drained(SOON)?;
    assert_eq!(late.accepted_count(), 100);
    assert_eq!(up.accepted_count(), 100);
    assert_eq!(server.metrics()?.count("ringpost_recipients_parked"), 0);
    // Once down and once up again on each core, with the reason.
    let log = server.log();
    assert!((1..=2).contains(&log.matches("a site is down").count()), "{log}");
    assert!(log.contains("connection refused") && log.contains("a site is up again"), "{log}");
    Ok(())
}

#[test]
fn mail_that_outlives_its_lifetime_expires() -> Result<()> {
    let sink = Sink::with(ports::reserve()?, keeping(), |step| match step {
        Step::Rcpt(to) if to.contains("never@") => Answer::reply("450 4.2.0 not today"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("queue", "lifetime", "\"3s\"");
    server.start()?;
    send(&server, "<author@a.test>", &["<never@b.test>"], "expired")?;
    let events = server.wait_events("expired", 1)?;
    assert!(!of_kind(&events, "deferred").is_empty());
    wait_until("the DSN", SOON, || Ok(sink.accepted_count() == 1))?;
    let (delivery, dsn) = only_dsn(&sink)?;
    assert_eq!(delivery.forward_paths, ["<author@a.test>"]);
    assert!(dsn.contains("never@b.test") && dsn.contains("Action: failed"), "{dsn}");
    Ok(())
}
