//! A disk that does not answer, or only after a while.
//!
//! On a block device: a file system that runs in a process, as FUSE does, makes the kernel wait inside
//! the system call that begins a read, and the whole thread of the server with it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ringpost_crash::bench::{Bench, DISK_SIZE, take_nothing, take_slowly};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::{Effect, Fault, Operation, Survival};
use ringpost_crash::senders::Senders;
use ringpost_e2e::injector::Load;
use ringpost_e2e::metrics;
use ringpost_e2e::peers;
use ringpost_e2e::process::Signal;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{none, sound};

#[test]
fn a_disk_that_hangs_keeps_nobody_waiting() -> Result<()> {
    if let Some(reason) = Layer::Block.missing() {
        return peers::skip(reason);
    }
    let mut bench = Bench::new(Layer::Block, DISK_SIZE, 1)?;
    bench.server.config.set("queue", "shards", "2");
    take_nothing(&bench.sink);
    bench.start()?;
    let mut senders = Senders::new(bench.server.smtp(), "hang", 4, 3_000);
    senders.meet_all_shards(2)?;
    senders.round()?;
    let crowd: Vec<_> = (0..12)
        .map(|number| {
            let mut one = Senders::new(bench.server.smtp(), &format!("hang-{number}"), 1, 3_000);
            ensure!(one.round()?[0].code() == 250, "not taken");
            Ok(one)
        })
        .collect::<Result<_>>()?;
    // Everything hangs, not only writes: whoever so much as looks at the disk waits.
    bench.disk.faults.fault(Fault::anything(Effect::Hang));
    // A file system that wants to write its journal waits as well, and then everybody who changes so
    // much as the time of a file that the journal has on hand, from within the system call.
    wait_until("a journal that waits", SOON, || bench.disk.journal_waits())?;
    // All at once: one after the other they would not all wait.
    let waiting: Vec<_> = crowd
        .into_iter()
        .map(|mut one| {
            let began = Instant::now();
            thread::spawn(move || one.round().map(|answered| (answered, one, began.elapsed())))
        })
        .collect();
    let mut books = Vec::new();
    let mut longest = Duration::ZERO;
    for thread in waiting {
        let joined = thread.join().map_err(|_| anyhow::anyhow!("a sender has panicked"))?;
        let (answered, senders, took) = joined?;
        let stacks = || bench.server.kernel_stacks();
        ensure!(answered[0].code() == 451, "{answered:?} after {took:?}\n{}", stacks());
        longest = longest.max(took);
        books.extend(senders.book().to_vec());
    }
    let mut health = String::new();
    wait_until("a red /health", SOON, || {
        let (status, body) = metrics::fetch(bench.server.control(), "/health")?;
        health = body;
        Ok(status != 200)
    })?;
    // New mail is refused at once now.
    let again = Instant::now();
    for answered in senders.round()? {
        ensure!(answered.code() == 451, "{answered:?}");
    }
    peers::tell(&format!(
        "hang: 451 after {:.1} s, then after {:.3} s; /health: {}",
        longest.as_secs_f64(),
        again.elapsed().as_secs_f64(),
        health.trim()
    ));
    // It is killed as it hangs. The kernel lets a request that is under way come back first.
    bench.server.signal(Signal::KILL)?;
    bench.cut(Survival::Nothing)?;
    bench.disk.power_up()?;
    bench.start()?;
    take_slowly(&bench.sink);
    books.extend(senders.book().to_vec());
    let account = bench.account(&books)?;
    ensure!(account.acked() >= 6, "{account}");
    sound(&account)?;
    none("sent again without need", &account.unexplained(&bench.outages), &account)
}

#[test]
fn a_disk_that_hangs_for_a_while_is_used_again() -> Result<()> {
    if let Some(reason) = Layer::Block.missing() {
        return peers::skip(reason);
    }
    let mut bench = Bench::new(Layer::Block, DISK_SIZE, 1)?;
    bench.start()?;
    let mut senders = Senders::new(bench.server.smtp(), "pause", 4, 3_000);
    let pause = Duration::from_secs(2);
    for operation in [Operation::Write, Operation::Sync] {
        bench.disk.faults.fault(Fault::nth(operation, 3, Effect::Delay(pause)));
        for _ in 0..5 {
            for answered in senders.round()? {
                ensure!(answered.code() == 250, "{answered:?}");
            }
        }
        ensure!(bench.disk.faults.counts().struck > 0, "nothing was held up");
    }
    let account = bench.account(senders.book())?;
    sound(&account)?;
    ensure!(account.extra_copies() == 0, "{account}");
    ensure!(peers::is_healthy(bench.server.control()), "not healthy");
    Ok(())
}

#[test]
fn a_slow_disk_makes_batches_grow() -> Result<()> {
    if let Some(reason) = Layer::Block.missing() {
        return peers::skip(reason);
    }
    let mut bench = Bench::new(Layer::Block, DISK_SIZE, 1)?;
    bench.start()?;
    let delay = Duration::from_millis(200);
    bench.disk.faults.fault(Fault::every(Operation::Sync, Effect::Delay(delay)));
    let before = bench.server.metrics()?.count("ringpost_commit_batches_total");
    let messages = 300;
    let book = Load::new(bench.server.smtp(), "slow", 32, Some(messages)).run()?;
    let batches = bench.server.metrics()?.count("ringpost_commit_batches_total") - before;
    let account = bench.account(&book)?;
    peers::tell(&format!("slow: {delay:?} a sync: {account}; {batches} batches"));
    ensure!(account.acked() as u64 == messages, "{account}");
    ensure!(batches * 4 < messages, "{batches} batches for {messages} messages");
    ensure!(account.extra_copies() == 0, "{account}");
    sound(&account)
}
