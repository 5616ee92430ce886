//! Power cuts under load, and an account of every message.
//!
//! A cut takes what was not synced, which a SIGKILL never does: this is where a missing sync is
//! found. The twins at the end let the disk lie about its syncs, and must find mail lost.

use std::time::Instant;

use anyhow::{Result, ensure};
use ringpost_crash::bench::{AT_DOT, Bench, DISK_SIZE, hold_back, take_slowly};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::{Effect, Fault, Operation, Survival};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::Load;
use ringpost_e2e::peers;

use crate::{none, scale, sound};

/// What one run of cuts is.
struct Run {
    name: &'static str,
    layer: Layer,
    cuts: u64,
    survivals: &'static [Survival],
    /// Messages in a second; `None`: as many as the server takes.
    per_second: Option<u32>,
}

impl Run {
    /// Runs it, and expects nothing lost, damaged, invented, or sent again without need.
    fn check(&self) -> Result<()> {
        if let Some(reason) = self.layer.missing() {
            return peers::skip(reason);
        }
        let seed = scale("RINGPOST_SEED", 20_261_123);
        let cuts = self.cuts * scale("RINGPOST_CUTS", 25) / 25;
        let began = Instant::now();
        let mut bench = Bench::new(self.layer, DISK_SIZE, seed)?;
        bench.start()?;
        hold_back(&bench.sink);
        let mut load = Load::new(bench.server.smtp(), self.name, 8, None);
        load.per_second = self.per_second;
        let load = load.start();
        let (mut pending, mut survived) = (0, 0);
        for number in 0..cuts {
            let pause = scale("RINGPOST_CUT_MS", 1_000);
            bench.let_run(pause * 2 / 5..pause * 8 / 5 + 1);
            let survival = self.survivals[number as usize % self.survivals.len()];
            if number % 3 != 0 {
                bench.cut_at_work(survival);
            }
            let cut = bench.power_cycle(survival)?;
            pending += cut.pending;
            survived += cut.survived;
        }
        load.stop();
        let book = load.finish()?;
        take_slowly(&bench.sink);
        let account = bench.account(&book)?;
        // A clean stop waits until the event log has everything.
        bench.server.terminate()?;
        let unrecorded = bench.unrecorded(&account)?;
        let (mean, longest) = bench.start_times();
        let acked = account.acked();
        peers::tell(&format!(
            "{}: {cuts} cuts (seed {seed}), {AT_DOT:?} at each dot, {:.1} s: {account}, \
             extra copies a cut {:.1}, without an event record {unrecorded}, changes not synced at \
             the cuts {pending} of which survived {survived}, restarts {mean} ms (longest \
             {longest}), {:.0} acked a second",
            self.name,
            began.elapsed().as_secs_f64(),
            account.extra_copies() as f64 / cuts.max(1) as f64,
            acked as f64 / began.elapsed().as_secs_f64(),
        ));
        ensure!(acked > 100 * usize::try_from(cuts)?, "too little load to say anything: {account}");
        sound(&account)?;
        ensure!(unrecorded == 0, "delivered, and the event log does not say so: {account}");
        none("sent again without need", &account.unexplained(&bench.outages), &account)
    }
}

#[test]
fn block_device() -> Result<()> {
    let survivals = &[Survival::Nothing, Survival::Prefix, Survival::Sectors];
    let layer = Layer::Block;
    Run { name: "cut-block", layer, cuts: 8, survivals, per_second: Some(500) }.check()
}

#[test]
fn files() -> Result<()> {
    let survivals = &Survival::ALL;
    let layer = Layer::File;
    Run { name: "cut-file", layer, cuts: 10, survivals, per_second: Some(500) }.check()
}

#[test]
fn files_under_all_the_load_there_is() -> Result<()> {
    let survivals = &Survival::ALL;
    let layer = Layer::File;
    Run { name: "cut-full-load", layer, cuts: 7, survivals, per_second: None }.check()
}

/// Cuts the power of a disk that says it has synced and has not.
fn with_a_lying_disk(name: &str, layer: Layer) -> Result<Option<Account>> {
    if let Some(reason) = layer.missing() {
        peers::skip(reason)?;
        return Ok(None);
    }
    let began = Instant::now();
    let mut bench = Bench::new(layer, DISK_SIZE, 1)?;
    bench.start()?;
    for operation in [Operation::Sync, Operation::SyncDirectory] {
        bench.disk.faults.fault(Fault::every(operation, Effect::Lie));
    }
    hold_back(&bench.sink);
    let mut load = Load::new(bench.server.smtp(), name, 8, None);
    load.per_second = Some(500);
    let load = load.start();
    bench.let_run(1_000..1_500);
    bench.power_cycle(Survival::Nothing)?;
    load.stop();
    let book = load.finish()?;
    take_slowly(&bench.sink);
    let account = bench.account(&book)?;
    let took = began.elapsed().as_secs_f64();
    peers::tell(&format!("{name}: a lying disk, 1 cut, {took:.1} s: {account}"));
    none("damaged", account.damaged(), &account)?;
    none("invented", &account.invented(), &account)?;
    Ok(Some(account))
}

#[test]
fn a_lying_disk_loses_mail_and_the_account_says_so() -> Result<()> {
    // The twins that must fail: were nothing reported here, nothing above would mean anything.
    for (name, layer) in [("liar-file", Layer::File), ("liar-block", Layer::Block)] {
        if let Some(account) = with_a_lying_disk(name, layer)? {
            ensure!(!account.lost().is_empty(), "a loss was not noticed: {account}");
        }
    }
    Ok(())
}
