//! Crashes at every write and at every sync: nothing acknowledged is lost, nothing settled comes back,
//! nothing is invented.

mod support;

use ringpost_queue::storage::memory::{MemoryStorage, Survival};
use support::{World, small_config};

/// Operations of a run.
const OPERATIONS: usize = 240;

/// How many runs are gone through; more by hand, as in `CRASH_SEEDS=100 cargo test --release`.
fn seeds() -> u64 {
    std::env::var("CRASH_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Runs until the power goes at `step`, or to the end.
fn run_to(seed: u64, step: u64, prepare: impl Fn(&MemoryStorage)) -> World {
    let storage = MemoryStorage::new();
    prepare(&storage);
    storage.crash_at(step);
    let mut world = World::create(&storage, small_config(), seed);
    world.run(OPERATIONS);
    world.redeem();
    world
}

fn survivals(seed: u64) -> Vec<Survival> {
    vec![
        Survival::ProcessOnly,
        Survival::All,
        Survival::Nothing,
        Survival::Prefix(seed % 9000),
        Survival::Prefix(512 * (seed % 17)),
        Survival::Subset(seed),
        Survival::Subset(seed + 1),
    ]
}

/// Crashes at each step of a run, with all that may survive, and then goes through some more lives.
fn crash_everywhere(seed: u64) -> Result<u64, String> {
    let mut step = 1;
    loop {
        let at_end = !run_to(seed, step, |_| {}).driver.storage.is_crashed();
        for survival in survivals(seed * 1000 + step) {
            let mut world = run_to(seed, step, |_| {});
            let mut survival = survival;
            for life in 0..4u64 {
                let context =
                    |error| format!("seed {seed} step {step} life {life} {survival:?}: {error}");
                let storage = world.driver.storage.restarted(survival);
                world = world.restart(&storage).map_err(context)?.0;
                // The next lives are short, and end at any step, even before they have written.
                let steps = 1 + world.choices.below(if life == 0 { 12 } else { 40 }) as u64;
                storage.crash_at(steps);
                world.driver.pump();
                world.run(60);
                world.redeem();
                let again = survivals(world.choices.number() % 100_000);
                survival = again[world.choices.below(again.len())];
            }
        }
        if at_end {
            return Ok(step);
        }
        step += 1;
    }
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_power_goes() {
    for seed in 1..=seeds() {
        match crash_everywhere(seed) {
            Ok(steps) => assert!(steps > 90, "only {steps} steps"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Crashes at each step while the chunks of a message that comes in slowly are moved.
#[test]
fn a_slow_upload_that_is_moved_survives_whenever_the_power_goes() {
    const ROUNDS: usize = 20;
    let run_to = |step| {
        let storage = MemoryStorage::new();
        storage.crash_at(step);
        let mut world = World::create(&storage, small_config(), 7);
        let moved = world.slow_upload(ROUNDS);
        (world, moved)
    };
    let mut step = 1;
    loop {
        let (world, moved) = run_to(step);
        let at_end = !world.driver.storage.is_crashed();
        if at_end {
            assert!(moved >= 2, "only {moved} chunks were moved");
            assert_eq!(world.driver.queue.stats().streaming, 0);
        }
        for survival in [
            Survival::ProcessOnly,
            Survival::Nothing,
            Survival::Prefix(512 * (step % 33)),
            Survival::Subset(step),
        ] {
            let storage = world.driver.storage.restarted(survival);
            let (mut world, _) = world
                .twin(&storage)
                .restart(&storage)
                .unwrap_or_else(|error| panic!("step {step} {survival:?}: {error}"));
            // The log goes on, and what was moved is still whole then.
            world.slow_upload(2);
            let storage = storage.restarted(Survival::Nothing);
            if let Err(error) = world.restart(&storage) {
                panic!("step {step} {survival:?}, later: {error}");
            }
        }
        if at_end {
            assert!(step > 100, "only {step} steps");
            return;
        }
        step += 1;
    }
}

#[test]
fn long_runs_with_recycling_and_rewriting_survive_many_lives() {
    let mut recycled = 0;
    let mut rewritten = 0;
    for seed in 100..100 + 15 * seeds() {
        let storage = MemoryStorage::new();
        let mut world = World::create(&storage, small_config(), seed);
        for life in 0..6 {
            let steps = 50 + world.choices.below(600) as u64;
            world.driver.storage.crash_at(steps);
            world.run(1500);
            world.redeem();
            recycled += world.driver.queue.stats().segments_free;
            rewritten += world.driver.queue.stats().rewritten_records_total;
            let again = survivals(world.choices.number() % 100_000);
            let survival = again[world.choices.below(again.len())];
            let storage = world.driver.storage.restarted(survival);
            world = match world.restart(&storage) {
                Ok((world, _)) => world,
                Err(error) => panic!("seed {seed} life {life} {survival:?}: {error}"),
            };
        }
    }
    assert!(recycled > 0 && rewritten > 100, "{recycled} freed, {rewritten} rewritten");
}

/// The twin: were a sync forgotten, these very checks would find the loss.
#[test]
fn loss_is_found_when_syncs_do_nothing() {
    let mut lost = 0;
    for step in [60, 75, 90] {
        let world = run_to(1, step, MemoryStorage::ignore_syncs);
        assert!(world.driver.storage.is_crashed() && world.acknowledged() > 0);
        let storage = world.driver.storage.restarted(Survival::Nothing);
        lost += usize::from(world.restart(&storage).is_err());
    }
    assert_eq!(lost, 3);
}
