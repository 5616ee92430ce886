//! SIGKILL under load, and an account of every message.
//!
//! A SIGKILL leaves the page cache alone, so it cannot find a missing sync: that is the business
//! of the crash tests of the queue, which lose what was not synced. What it does find is an
//! acknowledgement before the write, a log that does not recover, a completed recipient that is
//! sent to again, and state that was only in memory.

mod aim;

use std::collections::HashSet;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::{Account, Outage};
use ringpost_e2e::events::{self, Ledger, Tail};
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::metrics;
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::queue_files;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use self::aim::{Aim, Moments, Score};
use crate::{NONE, scale};

/// How long the sink thinks at each final dot: the width of the window in which a kill makes a
/// duplicate legal.
const AT_DOT: Duration = Duration::from_millis(20);

fn slow_sink() -> Result<Sink> {
    Sink::scripted(|step| match step {
        Step::Content(_) => Answer::Delay(AT_DOT),
        _ => Answer::Accept,
    })
}

/// The event log, read as it grows.
struct Log {
    tail: Tail,
    ledger: Ledger,
}

impl Log {
    fn of(server: &Server) -> Self {
        let tail = Tail::new(&server.directory().join("events.jsonl"));
        Self { tail, ledger: Ledger::default() }
    }

    fn read(&mut self) -> Result<HashSet<String>> {
        let events = self.tail.read_new()?;
        self.ledger.add(&events);
        Ok(events::delivered_test_ids(&events))
    }

    /// Notes the outage of a server that is gone, when the sink has read all that it had written.
    fn outage(&mut self, sink: &Sink) -> Result<Outage> {
        wait_until("the last octets at the sink", SOON, || Ok(sink.open_connections() == 0))?;
        let delivered = self.read()?;
        Ok(Outage { at: Instant::now(), delivered })
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_completed_is_repeated() -> Result<()> {
    let kills = usize::try_from(scale("RINGPOST_KILLS", 30))?;
    let seed = scale("RINGPOST_SEED", 20_261_122);
    let mut moments = Moments::new(seed);
    let sink = slow_sink()?;
    // One message in twenty is for a host that is down, so that there is always old mail, which holds
    // segments back until it is moved.
    let down = ports::reserve()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).route("down.test", down);
    Aim::prepare(&mut server);
    let began = Instant::now();
    let mut load = Load::new(server.smtp(), "kill", 8, None);
    load.domains = vec!["example.test".to_owned(); 20];
    load.domains[0] = "down.test".to_owned();
    let load = load.start();
    let mut log = Log::of(&server);
    let mut score = Score::default();
    // However fast the machine is: there is old mail, and it is being moved.
    server.start()?;
    wait_until("a log that is reclaimed", Duration::from_mins(3), || {
        Ok(server.metrics()?.count(aim::REWRITES) > 0)
    })?;
    while score.outages.len() < kills {
        let number = score.outages.len();
        let aim = Aim::ALL[number % Aim::ALL.len()];
        if aim != Aim::Recovery && number > 0 {
            server.start().with_context(|| format!("before kill {number}, seed {seed}"))?;
        }
        let hits = aim.kill(&mut server, &mut moments)?;
        score.note(aim, &hits, log.outage(&sink)?);
    }
    load.stop();
    let book = load.finish()?;
    let killed = began.elapsed();
    let ending = Instant::now();
    // The host that was down comes up.
    let late = Sink::with(down, SinkOptions::default(), |_| Answer::Accept)?;
    server.start()?;
    server.wait_drained(Duration::from_mins(3))?;
    let accepted = [sink.accepted(), late.accepted()].concat();
    let account = Account::of(&book, &accepted);
    // A clean stop waits until the event log has everything.
    server.terminate()?;
    log.read()?;
    let ledger = &log.ledger;
    let unrecorded: Vec<_> = account.arrived().filter(|id| !ledger.has_delivered(id)).collect();
    peers::tell(&format!(
        "kill: {} kills (seed {seed}) in {:.0} s and {:.0} s: {score}; {AT_DOT:?} at each dot: {account}, \
         without an event record {}, event records {} of which repeats {}",
        score.outages.len(),
        killed.as_secs_f64(),
        ending.elapsed().as_secs_f64(),
        unrecorded.len(),
        ledger.read,
        ledger.repeats(),
    ));
    assert!(account.acked() > 100, "too little load to say anything: {account}");
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(account.invented(), NONE, "{account}");
    assert_eq!(account.unexplained(&score.outages), NONE, "{account}");
    assert_eq!(sink.violations(), NONE);
    assert_eq!(unrecorded, NONE, "delivered, and the event log does not say so");
    assert_eq!(ledger.misnamed(), NONE);
    score.check()
}

/// The twin that must fail: what was written last is gone after the kill, as if a disk had lied.
#[test]
fn whatever_a_kill_was_aimed_at_a_robbed_queue_is_noticed() -> Result<()> {
    // So many clients, of which each may not have been told yet that its last message was taken.
    const UNTOLD_MAX: usize = 4;
    for aim in Aim::ALL {
        let sink = Sink::deferring()?;
        let mut server = Server::prepare()?;
        server.config.route("*", sink.address());
        Aim::prepare(&mut server);
        server.start()?;
        let load = Load::new(server.smtp(), "robbed", UNTOLD_MAX, None).start();
        wait_until("mail", SOON, || Ok(load.acked() > 500))?;
        if aim == Aim::Recovery {
            server.kill()?;
        }
        aim.kill(&mut server, &mut Moments::new(1))?;
        load.stop();
        let mut robbed = 0;
        for shard in queue_files::shards(&server.queue())? {
            let Some(segment) = queue_files::newest_with(UNTOLD_MAX + 1, &shard)? else {
                continue;
            };
            let size = fs::metadata(&segment)?.len();
            File::create(&segment)?.set_len(size)?;
            robbed += 1;
        }
        ensure!(robbed > 0, "{aim:?}: nothing to rob");
        let book = load.finish()?;
        sink.accept_all();
        server.spawn(&[])?;
        let mut is_noticed = false;
        wait_until("a start", SOON, || {
            // Where every shard is damaged, the server ends.
            let has_ended = server.wait_exit(Duration::ZERO).is_ok();
            let (status, health) = metrics::fetch(server.control(), "/health").unwrap_or_default();
            is_noticed = has_ended || health.contains("damaged");
            Ok(status == 200 || is_noticed)
        })?;
        if is_noticed {
            let log = server.log();
            ensure!(log.contains("ringpost queue repair --config"), "{aim:?}: {log}");
            continue;
        }
        server.wait_drained(SOON)?;
        let account = Account::of(&book, &sink.accepted());
        assert!(!account.lost().is_empty(), "{aim:?}: a loss was not noticed: {account}");
    }
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
    sink.accept_all();
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
        Step::Content(_) => Answer::Delay(Duration::from_secs(3)),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    let book = Load::new(server.smtp(), "gap", 1, Some(1)).run()?;
    wait_until("the final dot", SOON, || Ok(sink.accepted_count() == 1))?;
    server.kill()?;
    let outage = Log::of(&server).outage(&sink)?;
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
    let sink = Sink::deferring()?;
    let mut server = Server::relaying_to(sink.address())?;
    let book = Load::new(server.smtp(), "wiped", 4, Some(100)).run()?;
    server.kill()?;
    let outage = Log::of(&server).outage(&sink)?;
    sink.accept_all();
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
    let sink = Sink::deferring()?;
    let mut server = Server::relaying_to(sink.address())?;
    for number in 0..5 {
        let mut client = Client::connect(server.smtp())?;
        let content = message::build(&format!("at-once-{number}"), 200_000);
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &content)?;
        server.kill()?;
        ensure!(reply.code == 250, "{reply:?}");
        server.start()?;
    }
    sink.accept_all();
    server.wait_drained(SOON)?;
    let mut ids: Vec<_> = sink.accepted().into_iter().map(|one| one.mark).collect();
    ids.sort_by_key(|mark| mark.id().map(str::to_owned));
    let expected: Vec<_> =
        (0..5).map(|number| message::Mark::Intact(format!("at-once-{number}"))).collect();
    assert_eq!(ids, expected);
    Ok(())
}
