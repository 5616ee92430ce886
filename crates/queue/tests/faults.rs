//! Storage that breaks its word: no ticket is redeemed any more, and what was redeemed is there.

#![expect(clippy::panic, reason = "tests may be blunt")]

mod support;

use std::io;

use ringpost_queue::storage::memory::{Faults, MemoryStorage, Survival};
use ringpost_queue::{
    Admission, AppendError, Disposition, Poison, QueueConfig, Redeemed, SegmentTask,
};
use support::{Driver, World, small_config};

/// Runs with a fault, restarts the process, and then cuts the power soon after.
fn survives(seed: u64, faults: Faults) -> World {
    let storage = MemoryStorage::new();
    storage.set_faults(faults);
    let mut world = World::create(&storage, small_config(), seed);
    world.run(300);
    world.redeem();
    let poisoned = world.driver.queue.admission() == Admission::Poisoned;
    if poisoned {
        // Nothing helps, not even that all writes succeed again.
        let before = world.acknowledged();
        storage.set_faults(Faults::default());
        world.run(50);
        world.driver.queue.retry_segments();
        world.driver.pump();
        world.redeem();
        assert_eq!(world.acknowledged(), before, "{faults:?}");
        assert!(world.driver.queue.poll_write().is_none());
        assert!(world.driver.queue.poll_segment().is_none());
        assert_eq!(world.driver.inject(1, 1), Err(AppendError::Poisoned));
    }
    // The next process reads from the page cache what may never reach the disk.
    let storage = storage.restarted(Survival::ProcessOnly);
    let (mut world, _) =
        world.restart(&storage).unwrap_or_else(|error| panic!("{faults:?}: {error}"));
    world.run(30);
    world.redeem();
    let storage = storage.restarted(Survival::Nothing);
    let (world, _) = world.restart(&storage).unwrap_or_else(|error| panic!("{faults:?}: {error}"));
    world
}

#[test]
fn a_failed_write_poisons_and_loses_nothing_whichever_it_is() {
    for write in 1..60 {
        survives(write, Faults { fail_write: Some(write), ..Faults::default() });
    }
}

#[test]
fn a_failed_sync_poisons_and_loses_nothing_whichever_it_is() {
    for sync in 1..60 {
        survives(sync, Faults { fail_sync: Some(sync), ..Faults::default() });
    }
}

#[test]
fn a_short_write_poisons_and_loses_nothing_however_short() {
    for write in 1..40 {
        let len = (write as usize * 517) % 4096;
        survives(write, Faults { short_write: Some((write, len)), ..Faults::default() });
    }
}

#[test]
fn tickets_are_lost_from_the_failed_batch_on() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    driver.pump();
    let good = driver.inject(1, 100).unwrap();
    driver.pump();
    storage.set_faults(Faults { fail_sync: Some(storage.syncs() + 1), ..Faults::default() });
    let bad = driver.inject(1, 100).unwrap();
    let write = driver.queue.poll_write().unwrap();
    let next = driver.inject(1, 100).unwrap();
    assert_eq!(driver.queue.redeem(bad), Redeemed::Pending);
    driver.queue.handle_write(Err(io::ErrorKind::Other.into()), write.bytes);
    assert_eq!(driver.queue.poison(), Some(Poison::Failed(io::ErrorKind::Other)));
    assert!(matches!(driver.queue.redeem(good), Redeemed::Durable(_)));
    assert_eq!(driver.queue.redeem(bad), Redeemed::Lost);
    assert_eq!(driver.queue.redeem(next), Redeemed::Lost);
    assert!(driver.queue.message(bad.id()).is_none());
}

#[test]
fn a_write_that_claims_another_length_poisons() {
    for claimed in [0, 1, 4095, 8192] {
        let mut driver = Driver::create(&MemoryStorage::new(), small_config());
        driver.pump();
        let ticket = driver.inject(1, 100).unwrap();
        let write = driver.queue.poll_write().unwrap();
        assert_eq!(write.bytes.len(), 4096);
        driver.queue.handle_write(Ok(claimed), write.bytes);
        let poison = Poison::Short { written: claimed, len: 4096 };
        assert_eq!(driver.queue.poison(), Some(poison));
        assert_eq!(driver.queue.redeem(ticket), Redeemed::Lost);
    }
}

#[test]
fn a_full_disk_closes_the_door_and_opens_it_again() {
    let storage = MemoryStorage::new();
    // Room for two segments and a half.
    storage.set_faults(Faults { capacity: Some(160 << 10), ..Faults::default() });
    let mut driver = Driver::create(&storage, small_config());
    let mut ids = Vec::new();
    while driver.queue.admission() == Admission::Open {
        ids.push(driver.inject(1, 3000).unwrap().id());
        driver.pump();
        assert!(ids.len() < 100, "the disk is never full");
    }
    assert_eq!(driver.queue.admission(), Admission::Full);
    assert!(driver.queue.stats().segment_failures_total > 0);
    assert_eq!(storage.names().len(), 2, "no part of a segment is left");
    // No endless attempts.
    assert!(driver.queue.poll_segment().is_none());
    // What is there can be settled, and everything was kept.
    for id in ids.drain(..3) {
        let ticket = driver.settle(id, Disposition::Delivered);
        driver.pump();
        assert!(matches!(driver.queue.redeem(ticket), Redeemed::Durable(_)));
    }
    // A retry while the disk is still full changes nothing.
    driver.queue.retry_segments();
    driver.pump();
    assert_eq!(driver.queue.admission(), Admission::Full);
    storage.set_faults(Faults::default());
    driver.queue.retry_segments();
    driver.pump();
    assert_eq!(driver.queue.admission(), Admission::Open);
    let (_, recovered) = Driver::recover(&storage, small_config()).unwrap();
    let found: Vec<_> = recovered.messages.iter().map(|message| message.id).collect();
    assert_eq!(found, ids);
}

#[test]
fn the_limit_of_the_log_closes_the_door_and_outcomes_open_it_again() {
    let config =
        QueueConfig { disk_size_max: 5 * (64 << 10), rewrite_segments_min: 100, ..small_config() };
    let mut driver = Driver::create(&MemoryStorage::new(), config);
    let mut ids = Vec::new();
    while driver.queue.admission() == Admission::Open {
        ids.push(driver.inject(1, 3000).unwrap().id());
        driver.pump();
        assert!(ids.len() < 200, "the log is never full");
    }
    assert_eq!(driver.queue.stats().segments, 4);
    // Those whose content is on its way still find room, but not for ever.
    let refused = (0..100).find_map(|_| {
        let refused = driver.inject(1, 3000).err();
        driver.pump();
        refused
    });
    assert_eq!(refused, Some(AppendError::Full));
    for id in ids {
        let _ = driver.settle(id, Disposition::Bounced);
        driver.pump();
    }
    // The few that came last hold the segments behind them back, until they are moved.
    while driver.rewrite() {
        driver.pump();
    }
    assert_eq!(driver.queue.admission(), Admission::Open);
    assert!(driver.inject(1, 3000).is_ok());
}

/// A storage in which one rename fails, though nothing else does.
#[test]
fn a_segment_that_cannot_be_reused_is_left_alone() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let mut failed = None;
    let mut ids = Vec::new();
    for round in 0..120 {
        ids.push(driver.inject(1, 6000).unwrap().id());
        if round % 3 == 0 {
            let _ = driver.settle_oldest(&mut ids);
        } else {
            while ids.len() > 4 {
                let _ = driver.settle_oldest(&mut ids);
            }
        }
        // Fails the first task that reuses a segment; does all others.
        driver.pump_but(|task| {
            let reuses = !matches!(task, SegmentTask::Create { .. });
            if reuses && failed.is_none() {
                failed = Some(*task);
                return true;
            }
            assert!(!(reuses && failed.is_some()), "nothing later may go while this one is there");
            false
        });
    }
    assert!(failed.is_some());
    assert_eq!(driver.queue.stats().segment_failures_total, 1);
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    let found: Vec<_> = recovered.messages.iter().map(|message| message.id).collect();
    assert_eq!(found, ids);
    // The next start takes them up again.
    let before = storage.names().len();
    driver.pump();
    driver.inject(1, 10).unwrap().batch();
    driver.pump();
    assert!(storage.names().len() < before);
}
