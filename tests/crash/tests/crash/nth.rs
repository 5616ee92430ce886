//! The Nth write, the Nth sync, fails: that shard never acknowledges again, the others go on, and a
//! restart has everything that was acknowledged.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringpost_crash::bench::{Bench, DISK_SIZE};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::{Effect, Errno, Fault, Operation, Survival};
use ringpost_crash::senders::Senders;
use ringpost_e2e::metrics;
use ringpost_e2e::peers;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{none, scale, sound};

/// The shard that is struck, by its number and by its directory.
const STRUCK: (u16, &str) = (0, "shard-000");
/// Messages that each client sends after the failure.
const ROUNDS_AFTER: usize = 3;
/// Rounds in which the fault must have struck, of several messages each.
const ROUNDS_MAX: u64 = 4_000;

/// Switches on what shall fail, the `nth` time from now.
type Arm = fn(&Bench, u64);

fn check(name: &str, arm: Arm) -> Result<()> {
    if let Some(reason) = Layer::File.missing() {
        return peers::skip(reason);
    }
    let points = scale("RINGPOST_FAULTS", 20);
    let mut bench = Bench::new(Layer::File, DISK_SIZE, scale("RINGPOST_SEED", 7))?;
    bench.server.config.set("queue", "shards", "2").set("queue", "segment_size", "\"4MiB\"");
    bench.start()?;
    let mut senders = Senders::new(bench.server.smtp(), name, 4, 3_000);
    let (mut poisoned, mut refused_starts) = (0, 0);
    for nth in 1..=points {
        if nth % 4 == 0 {
            // In the start that follows: it comes through or not, but it loses nothing.
            bench.kill()?;
            arm(&bench, nth / 4);
            bench.server.spawn(&[])?;
            let came_up = comes_up(&mut bench)?;
            refused_starts += u64::from(!came_up);
            bench.disk.faults.clear_faults();
            if came_up {
                bench.kill()?;
            } else {
                bench.note_outage()?;
            }
            bench.start()?;
            senders.hang_up();
        }
        senders.meet_all_shards(2)?;
        poisoned += u64::from(strike(&bench, &mut senders, arm, nth)?);
        if nth % 2 == 0 {
            bench.power_cycle(Survival::Nothing)?;
        } else {
            bench.kill()?;
            bench.disk.faults.clear_faults();
            bench.start()?;
        }
        senders.hang_up();
    }
    let account = bench.account(senders.book())?;
    peers::tell(&format!(
        "{name}: N = 1..{points}: {account}; poisoned the shard {poisoned} times, stopped \
         {refused_starts} starts"
    ));
    ensure!(poisoned * 2 >= points, "the fault hardly ever struck the log itself");
    sound(&account)?;
    none("sent again without need", &account.unexplained(&bench.outages), &account)
}

/// Lets the fault strike under load. Says whether it has poisoned the shard.
fn strike(bench: &Bench, senders: &mut Senders, arm: Arm, nth: u64) -> Result<bool> {
    let before = bench.disk.faults.counts().struck;
    arm(bench, nth);
    let (mut rounds, mut refused) = (0, 0);
    while bench.disk.faults.counts().struck == before {
        // Mostly where it matters, to get there soon.
        let met = if rounds % 8 == 0 { senders.round()? } else { senders.round_at(STRUCK.0)? };
        ensure!(!met.is_empty(), "nobody is connected to the shard to be struck");
        refused += met.iter().filter(|one| one.code() != 250).count();
        rounds += 1;
        ensure!(rounds < ROUNDS_MAX, "N = {nth} has not come in {rounds} rounds");
    }
    // It may have struck a commit that was under way, or the making of a segment. The shard's gauges
    // are published now and then.
    let mut health = String::new();
    let failures = || -> Result<u64> {
        let metrics = bench.server.metrics()?;
        Ok(metrics.count("ringpost_commit_failures_total")
            + metrics.count("ringpost_queue_segment_failures_total"))
    };
    wait_until("the failure to be counted", SOON, || Ok(failures()? > 0))?;
    let is_poisoned = bench.server.metrics()?.count("ringpost_commit_failures_total") > 0;
    if is_poisoned {
        wait_until("a red /health", SOON, || {
            let (status, body) = metrics::fetch(bench.server.control(), "/health")?;
            health = body;
            Ok(status != 200)
        })?;
        ensure!(health.contains("shard 0 is poisoned"), "{health}");
    }
    let (mut others, arrived) = (Vec::new(), bench.sink.deliveries_count());
    for _ in 0..ROUNDS_AFTER {
        for answered in senders.round()? {
            match (answered.code(), answered.shard) {
                (250, Some(shard)) if shard == STRUCK.0 => {
                    ensure!(!is_poisoned, "acknowledged after the failure: {answered:?}");
                }
                (250, _) => others.push(answered.id),
                // In the middle of a message; between two; or the connection is gone already.
                (451 | 421 | 0, _) if is_poisoned => refused += 1,
                _ => ensure!(!is_poisoned, "{answered:?}"),
            }
        }
    }
    ensure!(!is_poisoned || refused > 0, "nobody met the poisoned shard");
    ensure!(!others.is_empty(), "the other shard has acknowledged nothing: {health}");
    wait_until("mail from the other shard", SOON, || {
        let taken = bench.sink.accepted_ids(arrived);
        Ok(others.iter().all(|id| taken.contains(id)))
    })?;
    Ok(is_poisoned)
}

/// Waits until the server has started, if need be with a poisoned shard, or has ended.
fn comes_up(bench: &mut Bench) -> Result<bool> {
    let mut is_up = false;
    let mut last = String::new();
    let waited = wait_until("a start or its end", SOON, || {
        if let Ok((status, health)) = metrics::fetch(bench.server.control(), "/health") {
            is_up = status == 200 || health.contains("poisoned") || health.contains("damaged");
            last = health;
        }
        Ok(is_up || bench.server.wait_exit(Duration::ZERO).is_ok())
    });
    waited.with_context(|| format!("{last}{}", bench.server.log()))?;
    Ok(is_up)
}

fn failing(operation: Operation) -> Fault {
    Fault::nth(operation, 1, Effect::Fail(Errno::EIO)).at(STRUCK.1)
}

#[test]
fn write_fails() -> Result<()> {
    check("nth-write", |bench, nth| {
        bench.disk.faults.fault(failing(Operation::Write).from(nth));
    })
}

#[test]
fn sync_fails() -> Result<()> {
    check("nth-sync", |bench, nth| {
        bench.disk.faults.fault(failing(Operation::Sync).from(nth));
    })
}

#[test]
fn write_is_short() -> Result<()> {
    check("nth-short", |bench, nth| {
        // The kernel tries the rest again, and has to be refused for the server to see it.
        let octets = 512 * (nth as usize % 8) + nth as usize % 512;
        let short = Effect::Short(octets.max(1));
        let rest = Fault::nth(Operation::Write, nth + 1, Effect::Fail(Errno::ENOSPC));
        bench.disk.faults.fault(Fault::nth(Operation::Write, nth, short).at(STRUCK.1));
        bench.disk.faults.fault(rest.at(STRUCK.1));
    })
}
