//! Mail that is to be sent later is sent then: not before, and whatever happens in between.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::message::{self, Mark};
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

/// Sends a message from `<a@a.test>` with these parameters of MAIL.
fn send(server: &Server, parameters: &str, id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reverse_path = format!("<a@a.test> {parameters}");
    let to = format!("<{id}@b.test>");
    let reply = client.message(reverse_path.trim(), &[&to], &message::build(id, 2_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

/// The times of RFC 3339 in records, which sort as texts: until when the message to this recipient
/// was to be held, and when it was delivered.
fn hold_and_delivery(events: &[Event], id: &str) -> Result<(Option<String>, String)> {
    let path = format!("{id}@b.test");
    let delivered = events
        .iter()
        .find(|event| event.kind == "delivered" && event.forward_path.as_ref() == Some(&path))
        .with_context(|| format!("{id} was not delivered: {events:?}"))?;
    let received = events
        .iter()
        .find(|event| event.kind == "received" && event.id == delivered.id)
        .with_context(|| format!("{id} was not received: {events:?}"))?;
    let time = delivered.fields["time"].as_str().context("no time")?.to_owned();
    Ok((received.fields["hold_until"].as_str().map(str::to_owned), time))
}

#[test]
fn a_held_message_waits_and_others_do_not() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    send(&server, "HOLDFOR=4", "held")?;
    send(&server, "", "free")?;
    let events = server.wait_events("delivered", 2)?;
    let (hold_until, delivered) = hold_and_delivery(&events, "held")?;
    let hold_until = hold_until.context("the record does not say until when")?;
    assert!(delivered >= hold_until, "held until {hold_until}, delivered {delivered}");
    let (no_hold, delivered) = hold_and_delivery(&events, "free")?;
    assert_eq!(no_hold, None);
    assert!(delivered < hold_until, "the twin, with nothing to hold it, had gone: {delivered}");
    let order: Vec<_> = sink.accepted().iter().map(|one| one.mark.clone()).collect();
    assert_eq!(order, [Mark::Intact("free".into()), Mark::Intact("held".into())]);
    let metrics = server.metrics()?;
    assert_eq!(metrics.count("ringpost_messages_held_total"), 1);
    assert_eq!(metrics.count("ringpost_recipients_held_total"), 1);
    assert_eq!(metrics.count("ringpost_messages_received_total"), 2);
    // Nothing of it was in memory meanwhile.
    wait_until("the counts of the cache", SOON, || {
        let metrics = server.metrics()?;
        let hits = metrics.count("ringpost_content_cache_hits_total");
        Ok((hits, metrics.count("ringpost_content_cache_misses_total")) == (1, 1))
    })
}

#[test]
fn a_hold_survives_a_restart() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::relaying_to(sink.address())?;
    send(&server, "HOLDFOR=5", "short")?;
    send(&server, "HOLDFOR=3600", "long")?;
    // Records that are not written yet would be lost.
    server.wait_events("received", 2)?;
    server.kill()?;
    server.start()?;
    let events = server.wait_events("delivered", 1)?;
    let (hold_until, delivered) = hold_and_delivery(&events, "short")?;
    let hold_until = hold_until.context("the record does not say until when")?;
    assert!(delivered >= hold_until, "held until {hold_until}, delivered {delivered}");
    // The other one waits still, also after an orderly stop, and has never been tried.
    server.terminate()?;
    server.start()?;
    wait_until("the recipient that waits", SOON, || {
        Ok(server.metrics()?.count("ringpost_recipients_waiting") == 1)
    })?;
    assert_eq!(server.metrics()?.count("ringpost_attempts_total"), 0);
    server.wait_queued(1)?;
    assert_eq!(sink.accepted_count(), 1);
    Ok(())
}

#[test]
fn the_lifetime_counts_from_the_release() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("never@") => Answer::reply("450 4.2.0 not today"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("queue", "lifetime", "\"5s\"");
    server.start()?;
    send(&server, "HOLDFOR=6", "never")?;
    let events = server.wait_events("expired", 1)?;
    // Counted from the receipt it would be over at the first attempt.
    let deferred = events.iter().filter(|event| event.kind == "deferred").count();
    assert!(deferred > 0, "{events:?}");
    Ok(())
}

#[test]
fn large_held_messages_are_read_from_the_log() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    let content = message::build("large", 3_000_000);
    let reply = client.message("<a@a.test> HOLDFOR=2", &["<large@b.test>"], &content)?;
    ensure!(reply.code == 250, "{reply:?}");
    wait_until("the gauge of the cache", SOON, || {
        Ok(server.metrics()?.count("ringpost_content_cache_bytes") == 0)
    })?;
    let events = server.wait_events("delivered", 1)?;
    let (hold_until, delivered) = hold_and_delivery(&events, "large")?;
    assert!(hold_until.is_some_and(|until| delivered >= until));
    assert_eq!(sink.accepted()[0].mark, Mark::Intact("large".into()));
    Ok(())
}

#[test]
fn holds_are_limited_and_for_clients_that_may_relay() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("listener.main", "future_release_max", "\"1h\"")
        .set("aliases", "postmaster", "[\"p@b.test\"]");
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO c.test", 250)?;
    assert!(hello.text.contains("FUTURERELEASE 3600 2"), "{hello:?}");
    client.expect("MAIL FROM:<a@a.test> HOLDFOR=3601", 501)?;
    client.expect("MAIL FROM:<a@a.test> HOLDFOR=3600 HOLDUNTIL=2038-01-19T03:14:08Z", 501)?;
    client.expect("MAIL FROM:<a@a.test> HOLDUNTIL=9999-12-31T23:59:59Z", 501)?;
    client.expect("MAIL FROM:<a@a.test> HOLDFOR=3600", 250)?;
    client.expect("RSET", 250)?;
    // The latest time that is offered is taken as it stands.
    let until = hello.text.split_whitespace().skip_while(|word| *word != "3600").nth(1);
    client.expect(&format!("MAIL FROM:<a@a.test> HOLDUNTIL={}", until.context("none")?), 250)?;
    wait_until("the counts", SOON, || {
        let metrics = server.metrics()?;
        let hits = metrics.count_where("ringpost_limit_hits_total", "limit=\"future_release_max\"");
        let refused = metrics.count_where("ringpost_messages_refused_total", "reason=\"hold\"");
        Ok((hits, refused) == (2, 2))
    })?;
    server.config.set("listener.main", "relay_networks", "[\"192.0.2.0/24\"]");
    server.terminate()?;
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO c.test", 250)?;
    assert!(!hello.text.contains("FUTURERELEASE"), "{hello:?}");
    client.expect("MAIL FROM:<a@a.test> HOLDFOR=1", 555)?;
    Ok(())
}

#[test]
fn python_schedules_mail() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    // What we are told is not for the next hop.
    let sink = Sink::scripted(|step| match step {
        Step::Mail(argument) if argument.contains("HOLD") => Answer::reply("555 5.5.4 what?"),
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("message");
    fs::write(&file, message::build("python", 3_000))?;
    let script = "\
import datetime, smtplib, sys
port, content = int(sys.argv[1]), open(sys.argv[2], 'rb').read()
with smtplib.SMTP('127.0.0.1', port, local_hostname='python.test', timeout=60) as client:
    client.ehlo()
    assert client.has_extn('futurerelease'), client.esmtp_features
    seconds, latest = client.esmtp_features['futurerelease'].split()
    assert seconds == '604800', seconds
    latest = datetime.datetime.fromisoformat(latest)
    until = latest - datetime.timedelta(seconds=int(seconds) - 8)
    for name, option in (('for', 'HOLDFOR=3'), ('until', 'HOLDUNTIL=' + until.isoformat())):
        client.sendmail('a@a.test', [name + '@b.test'], content, ['BODY=8BITMIME', option])
    try:
        client.sendmail('a@a.test', ['c@b.test'], content, ['HOLDFOR=604801'])
        raise SystemExit('taken')
    except smtplib.SMTPSenderRefused as error:
        assert error.smtp_code == 501, error
";
    peers::run(
        Command::new(python).args(["-c", script, &server.smtp().port().to_string()]).arg(&file),
    )?;
    let events = server.wait_events("delivered", 2)?;
    for id in ["for", "until"] {
        let (hold_until, delivered) = hold_and_delivery(&events, id)?;
        let hold_until = hold_until.with_context(|| format!("{id} was not held"))?;
        assert!(delivered >= hold_until, "held until {hold_until}, delivered {delivered}");
    }
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

/// A server whose clients can schedule mail by a header field.
fn relay_by_field(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set(
        "listener.main",
        "not_before_header",
        "\"X-Not-Before\"",
    );
    server.start()?;
    Ok(server)
}

fn keeping() -> Result<Sink> {
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    Sink::with(ports::reserve()?, options, |_| Answer::Accept)
}

fn unix_seconds() -> Result<u64> {
    Ok(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())
}

#[test]
fn swaks_schedules_mail_by_a_field() -> Result<()> {
    let Some(swaks) = peers::program("swaks") else {
        return peers::skip("swaks is not installed");
    };
    let sink = keeping()?;
    let mut server = relay_by_field(&sink)?;
    let send = |server: &Server, value: &str, status: bool| -> Result<String> {
        let output = Command::new(&swaks)
            .args(["--server", "127.0.0.1", "--port", &server.smtp().port().to_string()])
            .args(["--from", "a@a.test", "--to", "later@b.test", "--ehlo", "swaks.test"])
            .args(["--header", &format!("X-Not-Before: {value}"), "--body", "text"])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success() == status, "{text}");
        Ok(text)
    };
    let refused = send(&server, "next week", false)?;
    assert!(refused.contains("550 5.6.0 X-Not-Before: not a date"), "{refused}");
    let too_far = send(&server, "2038-01-19T03:14:08Z", false)?;
    assert!(too_far.contains("550 5.6.0 X-Not-Before: messages are not held"), "{too_far}");
    send(&server, &(unix_seconds()? + 8).to_string(), true)?;
    server.wait_events("received", 1)?;
    server.kill()?;
    server.start()?;
    let events = server.wait_events("delivered", 1)?;
    let (hold_until, delivered) = hold_and_delivery(&events, "later")?;
    let hold_until = hold_until.context("it was not held")?;
    assert!(delivered >= hold_until, "held until {hold_until}, delivered {delivered}");
    let content = String::from_utf8(sink.accepted()[0].content.clone())?;
    assert!(!content.contains("Not-Before"), "{content}");
    assert!(content.contains("\r\nSubject: ") && content.contains("\r\n\r\ntext"), "{content}");
    Ok(())
}

/// With the field looked for, messages come through as they were, small, large and without a header.
#[test]
fn the_field_alone_is_taken_out() -> Result<()> {
    let sink = keeping()?;
    let server = relay_by_field(&sink)?;
    let mut client = Client::connect(server.smtp())?;
    for (id, size) in [("small", 500), ("large", 3_000_000)] {
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &message::build(id, size))?;
        ensure!(reply.code == 250, "{reply:?}");
    }
    let with_field = [b"X-Not-Before: 1\r\n", &*message::build("field", 300_000)].concat();
    let reply = client.message("<a@a.test>", &["<b@b.test>"], &with_field)?;
    ensure!(reply.code == 250, "{reply:?}");
    server.wait_drained(SOON)?;
    let mut marks: Vec<_> = sink.accepted().iter().map(|one| format!("{:?}", one.mark)).collect();
    marks.sort();
    let expected = ["field", "large", "small"].map(|id| format!("{:?}", Mark::Intact(id.into())));
    assert_eq!(marks, expected);
    Ok(())
}
