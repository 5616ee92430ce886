//! SIGKILL under load, and an account of every message.
//!
//! A SIGKILL leaves the page cache alone, so it cannot find a missing sync: that is the business
//! of the crash tests of the queue, which lose what was not synced. What it does find is an
//! acknowledgement before the write, a log that does not recover, a completed recipient that is
//! sent to again, and state that was only in memory.

use std::collections::HashSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::{Account, Outage};
use ringpost_e2e::events::{self, Tail};
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{NONE, scale};

/// How long the sink thinks at each final dot: the width of the window in which a kill makes a
/// duplicate legal.
const AT_DOT: Duration = Duration::from_millis(20);

/// A small generator of numbers, for the moments of the kills; the seed is printed.
struct Moments(u64);

impl Moments {
    fn next(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        range.start + (self.0 >> 33) % (range.end - range.start)
    }
}

fn slow_sink() -> Result<Sink> {
    Sink::scripted(|step| match step {
        Step::Content(_) => Answer::Delay(AT_DOT),
        _ => Answer::Accept,
    })
}

/// Kills the server and waits until the sink has read all that it had written.
fn kill(server: &mut Server, sink: &Sink, log: &mut Tail) -> Result<Outage> {
    server.kill()?;
    wait_until("the last octets at the sink", SOON, || Ok(sink.open_connections() == 0))?;
    let delivered = events::delivered_test_ids(&log.read_new()?);
    Ok(Outage { at: Instant::now(), delivered })
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_completed_is_repeated() -> Result<()> {
    let kills = scale("RINGPOST_KILLS", 30);
    let seed = scale("RINGPOST_SEED", 20_261_122);
    let mut moments = Moments(seed);
    let sink = slow_sink()?;
    let mut server = Server::relaying_to(sink.address())?;
    let load = Load::new(server.smtp(), "kill", 8, None).start();
    let mut outages = Vec::new();
    let mut log = Tail::new(&server.directory().join("events.jsonl"));
    for number in 0..kills {
        thread::sleep(Duration::from_millis(moments.next(10..1_500)));
        outages.push(kill(&mut server, &sink, &mut log)?);
        if number % 5 == 4 {
            // A kill in the middle of recovery.
            server.spawn(&[])?;
            thread::sleep(Duration::from_millis(moments.next(1..60)));
            outages.push(kill(&mut server, &sink, &mut log)?);
        }
        server.start().with_context(|| format!("start {number}, seed {seed}"))?;
    }
    load.stop();
    let book = load.finish()?;
    server.wait_drained(Duration::from_mins(3))?;
    let account = Account::of(&book, &sink.accepted());
    // A clean stop waits until the event log has everything.
    server.terminate()?;
    let records = server.events()?;
    let recorded = events::delivered_test_ids(&records);
    let unrecorded: Vec<_> = account.arrived().filter(|id| !recorded.contains(*id)).collect();
    let names: HashSet<_> = records.iter().map(|one| &one.record).collect();
    let repeats = records.len() - names.len();
    peers::tell(&format!(
        "kill: {} kills (seed {seed}), {AT_DOT:?} at each dot: {account}, without an event record \
         {}, event records {} of which repeats {repeats}",
        outages.len(),
        unrecorded.len(),
        records.len(),
    ));
    assert!(account.acked() > 100, "too little load to say anything: {account}");
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(account.invented(), NONE, "{account}");
    assert_eq!(account.unexplained(&outages), NONE, "{account}");
    assert_eq!(sink.violations(), NONE);
    assert_eq!(unrecorded, NONE, "delivered, and the event log does not say so");
    assert_eq!(events::misnamed(&records), NONE);
    Ok(())
}

#[test]
fn recipients_that_are_done_stay_done() -> Result<()> {
    // Of fifty recipients every other one is taken at once, and the rest only after the kill.
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if is_odd(to) => Answer::reply("451 4.3.0 later"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    let paths: Vec<_> = (0..50).map(|number| format!("<r{number}@example.test>")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<a@a.test>", &paths, &message::build("partial", 3_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    server.wait_events("delivered", 25)?;
    server.wait_events("deferred", 25)?;
    server.kill()?;
    sink.set_script(|_| Answer::Accept);
    server.start()?;
    server.wait_drained(SOON)?;
    let mut taken: Vec<_> = sink.accepted().into_iter().flat_map(|one| one.forward_paths).collect();
    taken.sort();
    let mut given: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
    given.sort();
    assert_eq!(taken, given, "each recipient once");
    Ok(())
}

fn is_odd(path: &str) -> bool {
    path.split_once('@')
        .and_then(|(local_part, _)| local_part.chars().last()?.to_digit(10))
        .is_some_and(|digit| digit % 2 == 1)
}

#[test]
fn a_kill_between_dot_and_reply_makes_one_copy_and_no_more() -> Result<()> {
    // The gap of RFC 1047, held open: the sink has the message, the server does not know.
    let sink = Sink::scripted(|step| match step {
        Step::Content(_) => Answer::Delay(Duration::from_millis(500)),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    let book = Load::new(server.smtp(), "gap", 1, Some(1)).run()?;
    wait_until("the final dot", SOON, || Ok(sink.accepted_count() == 1))?;
    let mut log = Tail::new(&server.directory().join("events.jsonl"));
    let outage = kill(&mut server, &sink, &mut log)?;
    server.start()?;
    server.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.extra_copies(), 1, "{account}");
    assert_eq!(account.unexplained(&[outage]), NONE, "{account}");
    assert_eq!(account.unexplained(&[]), ["gap-0"], "without the kill it would be a fault");
    Ok(())
}

#[test]
fn a_lost_queue_is_reported_as_loss() -> Result<()> {
    // The twin that must fail: it shows that the account above can see a loss at all. Nothing is
    // delivered before the kill, and the queue is destroyed after it.
    let sink = Sink::scripted(|step| match step {
        Step::Mail(_) => Answer::reply("451 4.3.0 not yet"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    let book = Load::new(server.smtp(), "wiped", 4, Some(100)).run()?;
    let mut log = Tail::new(&server.directory().join("events.jsonl"));
    let outage = kill(&mut server, &sink, &mut log)?;
    sink.set_script(|_| Answer::Accept);
    fs::remove_dir_all(server.queue())?;
    server.start()?;
    server.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    assert_eq!(account.acked(), 100, "{account}");
    assert_eq!(account.lost().len(), 100, "{account}");
    assert_eq!(account.unexplained(&[outage]), NONE);
    Ok(())
}

#[test]
fn an_acknowledged_message_survives_a_kill_at_once() -> Result<()> {
    // The kill follows the 250 as closely as it can.
    let sink = Sink::scripted(|step| match step {
        Step::Mail(_) => Answer::reply("451 4.3.0 not yet"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    for number in 0..5 {
        let mut client = Client::connect(server.smtp())?;
        let content = message::build(&format!("at-once-{number}"), 200_000);
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &content)?;
        server.kill()?;
        ensure!(reply.code == 250, "{reply:?}");
        server.start()?;
    }
    sink.set_script(|_| Answer::Accept);
    server.wait_drained(SOON)?;
    let mut ids: Vec<_> = sink.accepted().into_iter().map(|one| one.mark).collect();
    ids.sort_by_key(|mark| mark.id().map(str::to_owned));
    let expected: Vec<_> =
        (0..5).map(|number| message::Mark::Intact(format!("at-once-{number}"))).collect();
    assert_eq!(ids, expected);
    Ok(())
}
