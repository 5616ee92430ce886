//! Storage that breaks its word: no ticket is redeemed any more, and what was redeemed is there.

#![expect(clippy::panic, clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use std::cell::Cell;
use std::io;

use futures_lite::future::block_on;
use ringpost_queue::segment::run_task;
use ringpost_queue::storage::Storage;
use ringpost_queue::storage::memory::{Faults, MemoryStorage, Survival};
use ringpost_queue::{
    Admission, AppendError, Disposition, MessageId, Poison, QueueConfig, Redeemed, SegmentTask,
};
use support::{Driver, World, small_config};

/// The last write or sync that fails; more by hand: `RINGPOST_FAULTS=500`.
fn faults_max() -> u64 {
    std::env::var("RINGPOST_FAULTS").map_or(60, |faults| faults.parse().unwrap())
}

/// Runs with a fault that strikes the write or sync of this number, restarts the process, and then
/// cuts the power soon after.
fn survives(number: u64, count: fn(&MemoryStorage) -> u64, faults: Faults) -> World {
    let storage = MemoryStorage::new();
    storage.set_faults(faults);
    let mut world = World::create(&storage, small_config(), number);
    world.run(300);
    // Until it has struck, however late that is.
    for _ in 0..number {
        if count(&storage) >= number {
            break;
        }
        world.run(10);
    }
    world.redeem();
    assert!(count(&storage) >= number, "{faults:?} has not struck");
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
    for write in 1..=faults_max() {
        let faults = Faults { fail_write: Some(write), ..Faults::default() };
        survives(write, MemoryStorage::writes, faults);
    }
}

#[test]
fn a_failed_sync_poisons_and_loses_nothing_whichever_it_is() {
    for sync in 1..=faults_max() {
        let faults = Faults { fail_sync: Some(sync), ..Faults::default() };
        survives(sync, MemoryStorage::syncs, faults);
    }
}

#[test]
fn a_short_write_poisons_and_loses_nothing_however_short() {
    for write in 1..=faults_max() {
        let len = (write as usize * 517) % 4096;
        let faults = Faults { short_write: Some((write, len)), ..Faults::default() };
        survives(write, MemoryStorage::writes, faults);
    }
}

#[test]
fn a_disk_may_be_full_at_every_byte_of_a_frame() {
    // The last message before it is acknowledged, the one that does not fit is not.
    let good = {
        let storage = MemoryStorage::new();
        let mut driver = Driver::create(&storage, small_config());
        driver.pump();
        let id = driver.inject(2, 3000).unwrap().id();
        driver.pump();
        (storage, id)
    };
    for len in 0..=4096 {
        let (storage, first) = (good.0.restarted(Survival::ProcessOnly), good.1);
        let (mut driver, _) = Driver::recover(&storage, small_config()).unwrap();
        driver.pump();
        let short_write = Some((storage.writes() + 1, len));
        storage.set_faults(Faults { short_write, ..Faults::default() });
        let ticket = driver.inject(1, 1000).unwrap();
        driver.pump();
        let redeemed = driver.queue.redeem(ticket);
        if len == 4096 {
            assert!(matches!(redeemed, Redeemed::Durable(_)));
        } else {
            assert_eq!(redeemed, Redeemed::Lost, "{len}");
            assert_eq!(driver.queue.poison(), Some(Poison::Short { written: len, len: 4096 }));
        }
        let survival = if len % 2 == 0 { Survival::Nothing } else { Survival::All };
        let (driver, recovered) =
            Driver::recover(&storage.restarted(survival), small_config()).unwrap();
        assert!(driver.message_ids().contains(&first), "{len}");
        // What is behind the records is zeros, written or not.
        let is_there = len > 1000;
        assert!(recovered.messages == 1 || is_there, "{len}");
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
    ids.push(opens_within_a_second(&mut driver));
    let (driver, _) = Driver::recover(&storage, small_config()).unwrap();
    let found = driver.message_ids();
    assert_eq!(found, ids);
}

/// Calls of `retry_segments` that the server makes in a second.
const RETRIES_PER_SECOND: usize = 5;

fn opens_within_a_second(driver: &mut Driver) -> MessageId {
    for _ in 0..RETRIES_PER_SECOND {
        driver.queue.retry_segments();
        driver.pump();
    }
    assert_eq!(driver.queue.admission(), Admission::Open);
    let ticket = driver.inject(1, 3000).unwrap();
    driver.pump();
    assert!(matches!(driver.queue.redeem(ticket), Redeemed::Durable(_)));
    ticket.id()
}

/// Nobody may wait for a commit that cannot come: what the queue takes while the disk is full is
/// durable at once, and what finds no room is refused.
#[test]
fn on_a_full_disk_nothing_is_taken_that_cannot_be_written() {
    for retries in [0, 1, 3] {
        for len in [10, 3000, 14_000] {
            nothing_is_left_waiting(retries, len, false);
            nothing_is_left_waiting(retries, len, true);
        }
    }
}

fn nothing_is_left_waiting(retries: usize, len: usize, chunks: bool) {
    let context = format!("{retries} retries, {len} octets, chunks: {chunks}");
    let storage = MemoryStorage::new();
    storage.set_faults(Faults { capacity: Some(160 << 10), ..Faults::default() });
    let mut driver = Driver::create(&storage, small_config());
    let mut ids = Vec::new();
    let mut refused = 0;
    let mut was_full = false;
    for _ in 0..400 {
        // A session that began when the queue was open goes on.
        let taken = if chunks {
            let id = driver.queue.next_id();
            driver.queue.append_chunk(id, &vec![7; len])
        } else {
            driver.inject(1, len).map(|ticket| {
                ids.push(ticket.id());
                ticket.batch()
            })
        };
        driver.pump();
        match taken {
            Ok(batch) => assert!(driver.queue.durable_through() >= batch, "{context}: it waits"),
            Err(error) => {
                assert_eq!(error, AppendError::Full, "{context}");
                refused += 1;
            }
        }
        for _ in 0..retries {
            driver.queue.retry_segments();
            // Trying again is no reason to open the door.
            was_full |= driver.queue.admission() == Admission::Full;
            assert!(!was_full || driver.queue.admission() == Admission::Full, "{context}");
            driver.pump();
        }
        was_full |= driver.queue.admission() == Admission::Full;
    }
    assert!(refused > 0 && was_full, "{context}");
    // What is there can still be settled, each in a commit of its own.
    for id in ids.drain(..ids.len().min(3)) {
        let ticket = driver.settle(id, Disposition::Delivered);
        driver.pump();
        assert!(matches!(driver.queue.redeem(ticket), Redeemed::Durable(_)), "{context}");
    }
    storage.set_faults(Faults::default());
    opens_within_a_second(&mut driver);
}

/// A batch that waits for a segment can be told from one that is being written.
#[test]
fn what_waits_for_a_segment_is_known() {
    let mut driver = Driver::create(&MemoryStorage::new(), small_config());
    assert!(!driver.queue.is_starved());
    driver.inject(1, 10).unwrap().batch();
    assert!(driver.queue.is_starved());
    driver.pump();
    assert!(!driver.queue.is_starved());
    driver.inject(1, 10).unwrap().batch();
    assert!(!driver.queue.is_starved());
    let write = driver.queue.poll_write().unwrap();
    driver.inject(1, 10).unwrap().batch();
    assert!(!driver.queue.is_starved());
    driver.queue.handle_write(Ok(write.bytes.len()), write.bytes);
}

/// What is live in the oldest segment is moved although no segment can be created, so that the
/// segment can be used again; room for outcomes is left all the same.
#[test]
fn a_full_disk_is_emptied_by_moving_what_is_old() {
    let storage = MemoryStorage::new();
    storage.set_faults(Faults { capacity: Some(160 << 10), ..Faults::default() });
    // Two segments are no reason to move anything, unless there is no third one.
    let config = QueueConfig { rewrite_segments_min: 8, ..small_config() };
    let mut driver = Driver::create(&storage, config);
    let mut ids = Vec::new();
    while driver.queue.admission() == Admission::Open {
        ids.push(driver.inject(1, 3000).unwrap().id());
        driver.pump();
    }
    for id in ids.split_off(3) {
        if driver.queue.message(id).is_some() {
            let _ = driver.settle(id, Disposition::Delivered);
        }
    }
    driver.pump();
    assert_eq!(driver.queue.admission(), Admission::Full);
    while driver.rewrite() {
        driver.pump();
    }
    assert_eq!(driver.queue.admission(), Admission::Open);
    assert_eq!(driver.queue.stats().rewritten_records_total, 3);
    assert!(driver.inject(1, 3000).is_ok());
}

/// Moving takes no room that outcomes need.
#[test]
fn on_a_full_disk_moving_leaves_room_for_outcomes() {
    let storage = MemoryStorage::new();
    storage.set_faults(Faults { capacity: Some(160 << 10), ..Faults::default() });
    let mut driver = Driver::create(&storage, small_config());
    let mut old = Vec::new();
    for _ in 0..4 {
        old.push(driver.inject(1, 6500).unwrap().id());
        driver.pump();
    }
    // Up to the reserve for outcomes.
    let mut ids = Vec::new();
    while let Ok(ticket) = driver.inject(1, 1000) {
        ids.push(ticket.id());
        driver.pump();
    }
    // One commit for all, so that the reserve is still there.
    for id in ids {
        let _ = driver.settle(id, Disposition::Delivered);
    }
    driver.pump();
    while driver.rewrite() {
        driver.pump();
    }
    assert!(old.iter().all(|id| driver.queue.message(*id).is_some()));
    for id in old.drain(..2) {
        let ticket = driver.settle(id, Disposition::Bounced);
        driver.pump();
        assert!(matches!(driver.queue.redeem(ticket), Redeemed::Durable(_)));
    }
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

/// How far a task that reuses a segment comes before it fails.
#[derive(Debug, Clone, Copy)]
enum Progress {
    Nothing,
    Renamed,
    Done,
}

/// Fails the first task of the kind, and then, if asked for, the next one.
fn fail_reuse(
    storage: &MemoryStorage,
    progress: Progress,
    recycling: bool,
    mut times: u32,
) -> impl FnMut(&SegmentTask) -> bool + use<> {
    let storage = storage.clone();
    move |task| {
        let picked = match task {
            SegmentTask::Create { .. } => false,
            SegmentTask::Recycle { .. } => recycling,
            // After a failure to recycle, what is done about it fails as well.
            SegmentTask::Remove { .. } => !recycling || times == 1,
        };
        if times == 0 || !picked {
            return false;
        }
        times -= 1;
        match (progress, task) {
            (Progress::Renamed, SegmentTask::Recycle { old, new, .. }) => {
                let _ = block_on(storage.rename(&old.file_name(), &new.file_name()));
            }
            (Progress::Renamed, SegmentTask::Remove { sequence }) => {
                let _ = block_on(storage.remove(&sequence.file_name()));
            }
            (Progress::Done, task) => {
                let _ = block_on(run_task(&storage, task));
            }
            _ => {}
        }
        true
    }
}

const REUSE_FAILURES: [(Progress, bool, u32); 8] = [
    (Progress::Nothing, true, 1),
    (Progress::Renamed, true, 1),
    (Progress::Done, true, 1),
    (Progress::Renamed, true, 2),
    (Progress::Done, true, 2),
    (Progress::Nothing, false, 1),
    (Progress::Renamed, false, 1),
    (Progress::Done, false, 2),
];

#[test]
fn segments_are_reused_again_after_an_error() {
    for (progress, recycling, times) in REUSE_FAILURES {
        let context = format!("{progress:?} {recycling} {times}");
        let storage = MemoryStorage::new();
        // None is kept, so that some are deleted.
        let config = QueueConfig { segments_free_max: 0, ..small_config() };
        let mut world = World::create(&storage, config, 1);
        world.flow_but(120, fail_reuse(&storage, progress, recycling, times));
        let stats = world.driver.queue.stats();
        assert_eq!(stats.segment_failures_total, u64::from(times), "{context}");
        assert!(storage.names().len() <= 10, "{context}: {:?}", storage.names());
        let size: u64 =
            storage.names().iter().map(|name| storage.contents(name).unwrap().len() as u64).sum();
        assert_eq!(stats.disk_bytes, size, "{context}");
        let storage = storage.restarted(Survival::Nothing);
        world.restart(&storage).unwrap_or_else(|error| panic!("{context}: {error}"));
    }
}

/// Crashes at each step from the failure on, until long after it has been dealt with.
#[test]
fn reuse_after_an_error_survives_whenever_the_power_goes() {
    for (progress, recycling, times) in REUSE_FAILURES {
        let failed_at = Cell::new(0);
        let run_to = |step| {
            let storage = MemoryStorage::new();
            storage.crash_at(step);
            let config = QueueConfig { segments_free_max: 0, ..small_config() };
            let mut world = World::create(&storage, config, 1);
            let mut fail = fail_reuse(&storage, progress, recycling, times);
            world.flow_but(32, |task| {
                let before = storage.steps();
                let failed = fail(task);
                if failed && failed_at.get() == 0 {
                    failed_at.set(before);
                }
                failed
            });
            (storage, world)
        };
        let (_, world) = run_to(u64::MAX);
        assert_eq!(world.driver.queue.stats().segment_failures_total, u64::from(times));
        for step in failed_at.get()..failed_at.get() + 40 {
            let (storage, world) = run_to(step);
            assert!(storage.is_crashed());
            for survival in [Survival::ProcessOnly, Survival::Nothing, Survival::Subset(step)] {
                let context = format!("{progress:?} {recycling} {times} step {step} {survival:?}");
                let storage = storage.restarted(survival);
                let (mut world, _) = world
                    .twin(&storage)
                    .restart(&storage)
                    .unwrap_or_else(|error| panic!("{context}: {error}"));
                world.flow_but(8, |_| false);
                let storage = storage.restarted(Survival::Nothing);
                world.restart(&storage).unwrap_or_else(|error| panic!("{context}, later: {error}"));
            }
        }
    }
}

/// Segments that cannot be reused take space like any other.
#[test]
fn segments_that_cannot_be_reused_count_against_the_limit() {
    let storage = MemoryStorage::new();
    let config = QueueConfig { disk_size_max: 8 * (64 << 10), ..small_config() };
    let mut driver = Driver::create(&storage, config);
    let mut was_full = false;
    for _ in 0..200 {
        // Nobody sends while the queue is full.
        if driver.queue.admission() == Admission::Open
            && let Ok(ticket) = driver.inject(1, 6000)
        {
            driver.pump_but(|task| !matches!(task, SegmentTask::Create { .. }));
            let _ = driver.settle(ticket.id(), Disposition::Delivered);
        }
        driver.queue.retry_segments();
        driver.pump_but(|task| !matches!(task, SegmentTask::Create { .. }));
        was_full |= driver.queue.admission() == Admission::Full;
    }
    assert!(was_full);
    assert!(storage.names().len() <= 8, "{:?}", storage.names());
    assert_eq!(driver.queue.stats().disk_bytes, storage.names().len() as u64 * (64 << 10));
    opens_within_a_second(&mut driver);
    assert!(storage.names().len() <= 8, "{:?}", storage.names());
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
    let (mut driver, _) = Driver::recover(&storage, small_config()).unwrap();
    let found = driver.message_ids();
    assert_eq!(found, ids);
    // The next start takes them up again.
    let before = storage.names().len();
    driver.pump();
    driver.inject(1, 10).unwrap().batch();
    driver.pump();
    assert!(storage.names().len() < before);
}
