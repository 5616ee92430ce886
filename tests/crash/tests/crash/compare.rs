//! Postfix in the same bench, for comparison. Nothing here judges it.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ringpost_crash::bench::{AT_DOT, DISK_SIZE, take_slowly};
use ringpost_crash::disk::{Disk, Layer};
use ringpost_crash::faultfs::Survival;
use ringpost_crash::place;
use ringpost_crash::rng::Rng;
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::Load;
use ringpost_e2e::peers::{self, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::scale;

#[test]
#[ignore = "a comparison, not a test: tests/run-full does it"]
fn postfix() -> Result<()> {
    if let Some(reason) = Postfix::missing().or(Layer::Block.missing()) {
        return peers::skip(reason);
    }
    let cuts = scale("RINGPOST_CUTS", 25) * 8 / 25;
    let seed = scale("RINGPOST_SEED", 20_261_123);
    let pause = scale("RINGPOST_CUT_MS", 1_000);
    let survivals = [Survival::Nothing, Survival::Prefix, Survival::Sectors];
    let mut rng = Rng::new(seed);
    let began = Instant::now();
    let place = place::directory()?;
    // Its daemons are not root, and have to come by.
    peers::run(Command::new("chmod").arg("755").arg(place.path()))?;
    let mut disk = Disk::new(place.path(), Layer::Block, DISK_SIZE)?;
    disk.faults.seed(seed);
    let sink = Sink::start()?;
    take_slowly(&sink);
    let listen = ports::reserve()?;
    let directory = disk.path().join("postfix");
    let settings = format!(
        "relayhost = [{}]:{}\nqueue_run_delay = 3s\nminimal_backoff_time = 3s\n\
         maximal_backoff_time = 3s",
        sink.address().ip(),
        sink.address().port()
    );
    let mut server = Postfix::start(&directory, listen, &settings)?;
    // An installed queue directory is old: it is not what is looked at.
    peers::run(Command::new("sync").arg("--file-system").arg(disk.path()))?;
    let mut load = Load::new(listen, "postfix", 8, None);
    load.per_second = Some(500);
    let load = load.start();
    for number in 0..cuts {
        thread::sleep(Duration::from_millis(rng.within(pause * 2 / 5..pause * 8 / 5 + 1)));
        disk.faults.cut(survivals[number as usize % survivals.len()]);
        server.kill()?;
        wait_until("the last octets at the sink", SOON, || Ok(sink.open_connections() == 0))?;
        disk.power_up()?;
        server = Postfix::start(&directory, listen, &settings)?;
    }
    load.stop();
    let book = load.finish()?;
    let drained = wait_until("the rest of the mail", Duration::from_mins(3), || {
        Ok(Account::of(&book, &sink.accepted()).lost().is_empty())
    });
    let account = Account::of(&book, &sink.accepted());
    let took = began.elapsed().as_secs_f64();
    peers::tell(&format!(
        "postfix: {cuts} cuts (seed {seed}), {AT_DOT:?} at each dot, {took:.1} s: {account}, extra \
         copies a cut {:.1}, {:.0} acked a second{}",
        account.extra_copies() as f64 / cuts.max(1) as f64,
        account.acked() as f64 / took,
        if drained.is_err() { ", not drained" } else { "" }
    ));
    Ok(())
}
