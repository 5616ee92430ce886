//! How long and how often mail is tried, what its author hears meanwhile, and clocks that jump.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

fn send(server: &Server, from: &str, to: &str, id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message(from, &[to], &message::build(id, 1_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

/// Takes everything but what is for `never@`.
fn receiver() -> Result<Sink> {
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    Sink::with(ports::reserve()?, options, |step| match step {
        Step::Rcpt(to) if to.contains("never@") => Answer::reply("450 4.2.0 not today"),
        _ => Answer::Accept,
    })
}

fn of_kind<'a>(events: &'a [Event], kind: &str, path: &str) -> Vec<&'a Event> {
    let wanted = |event: &&Event| event.kind == kind && event.forward_path.as_deref() == Some(path);
    events.iter().filter(wanted).collect()
}

/// Milliseconds within the day, of a time such as `2026-11-22T12:00:00.000Z`.
fn of_day(event: &Event, field: &str) -> Result<i64> {
    let text = event.fields[field].as_str().with_context(|| format!("no {field}"))?;
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let number = |from: usize, to: usize| -> Result<i64> {
        Ok(digits.get(from..to).context("too short")?.parse()?)
    };
    let seconds = number(8, 10)? * 3600 + number(10, 12)? * 60 + number(12, 14)?;
    Ok(seconds * 1000 + number(14, 17)?)
}

#[test]
fn the_author_is_told_once_that_mail_is_late() -> Result<()> {
    let sink = receiver()?;
    let down = ports::reserve()?;
    let mut server = Server::prepare()?;
    server.config.route("down.test", down).route("*", sink.address()).set(
        "queue",
        "delay_warning",
        "\"2s\"",
    );
    server.start()?;
    // One is refused again and again, the others wait for a site that is down.
    send(&server, "<author@a.test>", "<never@b.test>", "refused")?;
    for number in 0..5 {
        send(&server, "<author@a.test>", &format!("<r{number}@down.test>"), "parked")?;
    }
    // Nobody is told about reports.
    send(&server, "<>", "<never@c.test>", "report")?;
    wait_until("the warnings", SOON, || Ok(sink.accepted_count() == 6))?;
    let first = sink.accepted();
    let texts: Vec<String> =
        first.iter().map(|one| String::from_utf8_lossy(&one.content).into_owned()).collect();
    for text in &texts {
        for words in ["Action: delayed", "Status: 4.", "Will-Retry-Until: ", "Subject: Delayed"] {
            assert!(text.contains(words), "{words} in\n{text}");
        }
    }
    assert!(texts.iter().any(|text| text.contains("450 4.2.0 not today")));
    assert!(first.iter().all(|one| one.forward_paths == ["<author@a.test>"]));
    // It goes on to be tried, and nobody is told again, not even after a restart.
    let attempts = |events: &[Event]| of_kind(events, "deferred", "never@b.test").len();
    let before = attempts(&server.events()?);
    wait_until("further attempts", SOON, || Ok(attempts(&server.events()?) > before + 2))?;
    server.terminate()?;
    server.start()?;
    let before = attempts(&server.events()?);
    wait_until("further attempts", SOON, || Ok(attempts(&server.events()?) > before + 2))?;
    assert_eq!(sink.accepted_count(), 6);
    let events = server.events()?;
    let delayed: Vec<_> = events.iter().filter(|event| event.kind == "delayed").collect();
    assert_eq!(delayed.len(), 6, "{delayed:?}");
    assert!(delayed.iter().all(|event| event.fields["dsn_id"].is_string()));
    server.wait_queued(7)
}

#[test]
fn a_route_has_a_lifetime_of_its_own() -> Result<()> {
    let sink = receiver()?;
    let mut server = Server::prepare()?;
    server.config.append(&format!(
        "[[route]]\ndomain = \"brief.test\"\nsmarthost = \"{0}\"\nlifetime = \"3s\"\n\
         [[route]]\ndomain = \"*\"\nsmarthost = \"{0}\"\n",
        sink.address()
    ));
    server.start()?;
    send(&server, "<author@a.test>", "<never@brief.test>", "brief")?;
    send(&server, "<author@a.test>", "<never@long.test>", "long")?;
    let events = server.wait_events("expired", 1)?;
    assert_eq!(of_kind(&events, "expired", "never@brief.test").len(), 1);
    assert!(!of_kind(&events, "deferred", "never@brief.test").is_empty());
    wait_until("the DSN", SOON, || Ok(sink.accepted_count() == 1))?;
    let attempts = |events: &[Event]| of_kind(events, "deferred", "never@long.test").len();
    let before = attempts(&server.events()?);
    wait_until("further attempts", SOON, || Ok(attempts(&server.events()?) > before + 1))?;
    assert!(of_kind(&server.events()?, "expired", "never@long.test").is_empty());
    server.wait_queued(1)
}

#[test]
fn parked_mail_expires_though_nobody_tries_it() -> Result<()> {
    let sink = receiver()?;
    let down = ports::reserve()?;
    let mut server = Server::prepare()?;
    server.config.route("down.test", down).route("*", sink.address());
    server.config.set("queue", "lifetime", "\"4s\"");
    server.start()?;
    for number in 0..50 {
        send(&server, "<author@a.test>", &format!("<r{number}@down.test>"), "parked")?;
    }
    let events = server.wait_events("expired", 50)?;
    let expired: Vec<_> = events.iter().filter(|event| event.kind == "expired").collect();
    assert!(expired.iter().all(|event| {
        event.fields["reply"]["text"].as_str().is_some_and(|text| text.contains("refused"))
    }));
    wait_until("the DSNs", SOON, || Ok(sink.accepted_count() == 50))?;
    server.wait_drained(SOON)
}

#[test]
fn delays_grow_by_the_factor_of_the_schedule() -> Result<()> {
    let sink = receiver()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server.config.set("delivery", "retry", "{ first = \"1s\", factor = 2.0, max = \"3s\" }");
    server.config.set("delivery", "retry_jitter_percent", "0");
    server.start()?;
    send(&server, "<author@a.test>", "<never@b.test>", "grows")?;
    wait_until("four attempts", SOON, || {
        Ok(of_kind(&server.events()?, "deferred", "never@b.test").len() >= 4)
    })?;
    let events = server.events()?;
    for (event, expected) in
        of_kind(&events, "deferred", "never@b.test").iter().zip([1000, 2000, 3000, 3000])
    {
        // The record is written when the outcome is: both times are of one moment but for that.
        let day = 86_400_000;
        let delay = (of_day(event, "due")? - of_day(event, "time")?).rem_euclid(day);
        assert!((expected - 500..=expected + 200).contains(&delay), "{delay} for {expected}");
    }
    Ok(())
}

/// The library that makes a program see another time.
const FAKE_TIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// Sets the wall clock of the server, and of nothing else.
fn set_clock(file: &Path, offset: &str) -> Result<()> {
    // At once, so that nobody reads half of it.
    let next = file.with_extension("next");
    fs::write(&next, format!("{offset}\n"))?;
    Ok(fs::rename(next, file)?)
}

#[test]
fn a_jump_of_the_clock_neither_sends_nor_expires_nor_delays_mail() -> Result<()> {
    if !Path::new(FAKE_TIME).is_file() {
        return peers::skip("libfaketime is not installed");
    }
    for jump in ["+1h", "-1h", "+1d", "-1d"] {
        let sink = receiver()?;
        let mut server = Server::prepare()?;
        let clock = server.directory().join("clock");
        set_clock(&clock, "+0")?;
        server.config.route("*", sink.address()).set("queue", "lifetime", "\"20m\"");
        server.config.set("delivery", "retry", "[\"4s\", \"2s\", \"30s\"]");
        server.config.set("delivery", "retry_jitter_percent", "0");
        server.spawn(&[
            "env",
            &format!("LD_PRELOAD={FAKE_TIME}"),
            &format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
            "FAKETIME_NO_CACHE=1",
            "DONT_FAKE_MONOTONIC=1",
        ])?;
        server.wait_healthy()?;
        send(&server, "<author@a.test>", "<never@b.test>", "jump")?;
        server.wait_events("deferred", 1)?;
        set_clock(&clock, jump)?;
        // The times of new records tell that the server sees the new time.
        send(&server, "<author@a.test>", "<r@b.test>", "seen")?;
        wait_until("the next attempts", SOON, || {
            Ok(of_kind(&server.events()?, "deferred", "never@b.test").len() == 3)
        })?;
        let events = server.events()?;
        let deferred = of_kind(&events, "deferred", "never@b.test");
        let days: Vec<&str> = deferred
            .iter()
            .filter_map(|event| event.fields["time"].as_str()?.split(':').next())
            .collect();
        assert_ne!(days[0], days[1], "{jump}: the clock has not jumped");
        let between = of_day(deferred[2], "time")? - of_day(deferred[1], "time")?;
        // Not at once: the second delay was kept, but for what lies between an outcome and its record.
        assert!(between.rem_euclid(86_400_000) >= 1500, "{jump}: {between} ms");
        assert!(events.iter().all(|event| event.kind != "expired"), "{jump}");
        server.wait_queued(1)?;
        ensure!(server.log().lines().all(|line| !line.contains("ERROR")), "{}", server.log());
    }
    Ok(())
}

#[test]
fn a_wait_for_mail_is_never_longer_than_its_schedule_whatever_the_clock_says_at_start() -> Result<()>
{
    if !Path::new(FAKE_TIME).is_file() {
        return peers::skip("libfaketime is not installed");
    }
    // The clock is a day ahead, then set right while the server is down; and the other way round.
    for (before, after) in [("+1d", "+0"), ("+0", "+1d")] {
        let sink = receiver()?;
        let mut server = Server::prepare()?;
        let clock = server.directory().join("clock");
        let preload = format!("LD_PRELOAD={FAKE_TIME}");
        let file = format!("FAKETIME_TIMESTAMP_FILE={}", clock.display());
        let faked = ["env", &preload, &file, "FAKETIME_NO_CACHE=1", "DONT_FAKE_MONOTONIC=1"];
        set_clock(&clock, before)?;
        server.config.route("*", sink.address()).set("queue", "lifetime", "\"20m\"");
        server.spawn(&faked)?;
        server.wait_healthy()?;
        send(&server, "<author@a.test>", "<never@b.test>", "jump")?;
        server.wait_events("deferred", 1)?;
        server.terminate()?;
        let attempts = |events: &[Event]| of_kind(events, "deferred", "never@b.test").len();
        let made = attempts(&server.events()?);
        set_clock(&clock, after)?;
        server.spawn(&faked)?;
        server.wait_healthy()?;
        if after == "+0" {
            wait_until("a retry", Duration::from_secs(20), || {
                Ok(attempts(&server.events()?) > made)
            })?;
            assert!(server.events()?.iter().all(|event| event.kind != "expired"));
        } else {
            // Its time seems to be over: it has one more attempt.
            server.wait_events("expired", 1)?;
            let events = server.events()?;
            let expired = of_kind(&events, "expired", "never@b.test");
            assert_eq!(expired[0].fields["attempts"], made + 1);
        }
    }
    Ok(())
}
