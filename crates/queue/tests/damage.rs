//! Damage: what a crash cannot have done is found, and what it can have done is cut off.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may be blunt")]

mod support;

use futures_lite::future::block_on;
use ringpost_queue::frame::BLOCK_SIZE;
use ringpost_queue::storage::Storage;
use ringpost_queue::storage::memory::{MemoryStorage, Survival};
use ringpost_queue::{
    CorruptReason, Disposition, LogIdentity, MessageId, Queue, QueueConfig, RecoveryError,
    SegmentSequence, recover,
};
use support::{Driver, IDENTITY, small_config};

const BLOCK: usize = BLOCK_SIZE as usize;

fn first_segment() -> String {
    SegmentSequence(1).file_name()
}

/// A log of three frames in one segment, each with one message.
fn small_log() -> (MemoryStorage, Vec<MessageId>) {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    driver.pump();
    let mut ids = Vec::new();
    for len in [100, 5000, 700] {
        ids.push(driver.inject(1, len).unwrap().id());
        driver.pump();
    }
    let spare = storage.names().into_iter().filter(|name| *name != first_segment());
    for name in spare.collect::<Vec<_>>() {
        storage.delete(&name);
    }
    (storage, ids)
}

fn recovered_ids(storage: &MemoryStorage) -> Result<(Vec<MessageId>, u64), RecoveryError> {
    let (mut driver, recovered) = Driver::recover(storage, small_config())?;
    let messages = driver.messages();
    assert_eq!(messages.len() as u64, recovered.messages);
    Ok((messages.into_iter().map(|message| message.id).collect(), recovered.tail_truncated_bytes))
}

fn reason(storage: &MemoryStorage) -> CorruptReason {
    match recovered_ids(storage) {
        Err(RecoveryError::Corrupt { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flipped_byte_is_found_or_was_never_written_to() {
    let (storage, ids) = small_log();
    let good = storage.contents(&first_segment()).unwrap();
    // Header, then frames of 1, 2 and 1 blocks.
    let (last, end) = (4 * BLOCK, 5 * BLOCK);
    assert!(good[last..end].iter().any(|byte| *byte != 0));
    assert!(good[end..].iter().all(|byte| *byte == 0));
    let behind = (end..good.len()).step_by(997);
    for at in (0..end).chain(behind) {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let storage = MemoryStorage::new();
        storage.replace(&first_segment(), bad);
        match recovered_ids(&storage) {
            Err(RecoveryError::Corrupt { .. }) => assert!(at < last, "octet {at}"),
            Err(error) => panic!("octet {at}: {error}"),
            // The last frame cannot be told from one that was being written.
            Ok((found, cut)) if at >= last => {
                assert!(cut > 0, "octet {at}");
                assert_eq!(found, ids[..if at < end { 2 } else { 3 }], "octet {at}");
            }
            Ok(_) => panic!("octet {at} was changed and nobody noticed"),
        }
    }
}

#[test]
fn the_last_batch_may_be_cut_at_every_byte() {
    let (storage, ids) = small_log();
    let good = storage.contents(&first_segment()).unwrap();
    let (last, end) = (4 * BLOCK, 5 * BLOCK);
    let written = end - good[last..end].iter().rev().take_while(|byte| **byte == 0).count();
    for cut in last..=end {
        let mut torn = good.clone();
        torn[cut..].fill(0);
        let storage = MemoryStorage::new();
        storage.replace(&first_segment(), torn);
        let (found, bytes) = recovered_ids(&storage).unwrap();
        if cut >= written {
            assert_eq!((found.as_slice(), bytes), (&ids[..], 0));
        } else {
            assert_eq!((found.as_slice(), bytes > 0), (&ids[..2], cut > last), "cut at {cut}");
        }
    }
}

#[test]
fn zeroed_and_exchanged_blocks_are_found() {
    let (storage, _) = small_log();
    let good = storage.contents(&first_segment()).unwrap();
    for block in 0..4 {
        let mut bad = good.clone();
        bad[block * BLOCK..(block + 1) * BLOCK].fill(0);
        storage.replace(&first_segment(), bad);
        let found = reason(&storage);
        let header = block == 0;
        assert_eq!(found == CorruptReason::SegmentHeader, header, "block {block}: {found:?}");
        assert_eq!(found == CorruptReason::Frame, !header, "block {block}: {found:?}");
    }
    // A frame that is intact, but not where it was written.
    let mut bad = good.clone();
    bad.copy_within(BLOCK..2 * BLOCK, 4 * BLOCK);
    storage.replace(&first_segment(), bad);
    assert!(matches!(reason(&storage), CorruptReason::Chain { .. }));
}

#[test]
fn a_file_of_another_size_or_log_is_refused() {
    let (storage, _) = small_log();
    let good = storage.contents(&first_segment()).unwrap();
    for len in [good.len() - 1, good.len() - BLOCK, 5 * BLOCK, good.len() + BLOCK] {
        let mut bad = good.clone();
        bad.resize(len, 0);
        storage.replace(&first_segment(), bad);
        assert_eq!(reason(&storage), CorruptReason::SegmentSize, "{len}");
    }
    storage.replace(&first_segment(), good.clone());
    for identity in [
        LogIdentity { log_id: 1, ..IDENTITY },
        LogIdentity { shard: ringpost_queue::ShardId(4), ..IDENTITY },
    ] {
        let other = block_on(recover(&storage, small_config(), identity));
        let foreign = CorruptReason::Foreign;
        assert!(matches!(other, Err(RecoveryError::Corrupt { reason, .. }) if reason == foreign));
    }
    // Under the name of an earlier segment.
    storage.delete(&first_segment());
    storage.replace(&SegmentSequence(0).file_name(), good);
    assert_eq!(reason(&storage), CorruptReason::Foreign);
}

/// A log over several segments that are all needed; gives the driver and all ids.
fn long_log(storage: &MemoryStorage, messages: usize) -> (Driver, Vec<MessageId>) {
    let mut driver = Driver::create(storage, small_config());
    let mut ids = Vec::new();
    for _ in 0..messages {
        ids.push(driver.inject(1, 3000).unwrap().id());
        driver.pump();
    }
    (driver, ids)
}

#[test]
fn a_missing_segment_is_found_wherever_it_was() {
    let storage = MemoryStorage::new();
    let (_, ids) = long_log(&storage, 60);
    let names = storage.names();
    assert!(names.len() >= 5, "{names:?}");
    assert_eq!(recovered_ids(&storage).unwrap().0, ids);
    // The last one is the spare one, the one before it the newest with frames: that this is gone
    // nothing can tell, but the chain tells of all others.
    for name in &names[..names.len() - 2] {
        let storage = storage.restarted(Survival::ProcessOnly);
        storage.delete(name);
        let found = reason(&storage);
        let expected = matches!(found, CorruptReason::MissingSegment | CorruptReason::Chain { .. });
        assert!(expected, "{name}: {found:?}");
        // Nor does it help that there is something else in its place.
        storage.replace(name, vec![0; 64 << 10]);
        assert!(matches!(reason(&storage), CorruptReason::Chain { .. }), "{name}");
    }
}

#[test]
fn a_damaged_log_is_left_as_it_is() {
    let storage = MemoryStorage::new();
    long_log(&storage, 60);
    let name = first_segment();
    let mut bad = storage.contents(&name).unwrap();
    bad[2 * BLOCK + 100] ^= 1;
    storage.replace(&name, bad);
    let before: Vec<_> = storage.names().iter().map(|name| storage.contents(name)).collect();
    assert_eq!(reason(&storage), CorruptReason::Frame);
    let after: Vec<_> = storage.names().iter().map(|name| storage.contents(name)).collect();
    assert!(before == after);
}

#[test]
fn damage_in_segments_that_nothing_needs_does_not_matter() {
    let storage = MemoryStorage::new();
    let config = QueueConfig { segments_free_max: 100, segments_ready: 3, ..small_config() };
    let mut driver = Driver::create(&storage, config);
    driver.pump();
    let mut ids = Vec::new();
    // The three segments that are ready are used up before the first is settled, so that a new one
    // has been made by the time that the first is free.
    for _ in 0..30 {
        ids.push(driver.inject(1, 3000).unwrap().id());
        driver.pump();
    }
    for id in ids.drain(..20) {
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    assert!(driver.queue.stats().segments_free > 0);
    assert!(storage.names().contains(&first_segment()));
    storage.replace(&first_segment(), vec![0xA5; 64 << 10]);
    assert_eq!(recovered_ids(&storage).unwrap().0, ids);
}

/// Fills segments and settles everything, until they have been recycled.
fn recycled_log(storage: &MemoryStorage) -> Driver {
    let mut driver = Driver::create(storage, small_config());
    for _ in 0..80 {
        let id = driver.inject(1, 6000).unwrap().id();
        driver.pump();
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    driver
}

#[test]
fn old_frames_of_a_recycled_segment_do_not_count() {
    let storage = MemoryStorage::new();
    let mut driver = recycled_log(&storage);
    let id = driver.inject(1, 10).unwrap().id();
    driver.pump();
    let newest = driver.queue.stats().segments;
    assert!(newest <= 2, "{newest} segments in use");
    let names = storage.names();
    assert!(names.len() < 8, "recycled: {names:?}");
    let stale = names.iter().filter(|name| {
        let file = storage.contents(name).unwrap();
        // Old bytes behind the zeros of the last frame would be there to be found.
        file[file.len() - BLOCK..].iter().any(|byte| *byte != 0)
    });
    assert!(stale.count() > 0);
    let (found, cut) = recovered_ids(&storage).unwrap();
    assert_eq!((found, cut), (vec![id], 0));
}

/// The twin: the same bytes in a life of which they are count.
#[test]
fn frames_of_this_life_behind_the_end_do_count() {
    let (storage, _) = small_log();
    let mut file = storage.contents(&first_segment()).unwrap();
    // Leave a gap of a block, as if the frame in it had been zeroed.
    file.copy_within(4 * BLOCK..5 * BLOCK, 5 * BLOCK);
    file[4 * BLOCK..5 * BLOCK].fill(0);
    storage.replace(&first_segment(), file);
    assert_eq!(reason(&storage), CorruptReason::Frame);
}

#[test]
fn a_frame_that_lands_after_recovery_has_looked_is_superseded() {
    // A run that is cut while it writes its last frame, once before and once after it got through.
    let storage = MemoryStorage::new();
    let (mut driver, mut ids) = long_log(&storage, 20);
    let last = driver.inject(1, 50).unwrap().id();
    storage.crash_at(storage.steps() + 2);
    driver.pump();
    assert!(storage.is_crashed());
    let late = storage.restarted(Survival::All);
    let storage = storage.restarted(Survival::Nothing);
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(recovered.messages as usize, ids.len());
    driver.pump();
    ids.push(driver.inject(1, 60).unwrap().id());
    driver.pump();
    // The frame that was under way comes through at last, in its old segment.
    let mut landed = 0;
    for name in late.names() {
        if let (Some(old), Some(now)) = (late.contents(&name), storage.contents(&name))
            && old != now
            && !now.is_empty()
        {
            storage.replace(&name, old);
            landed += 1;
        }
    }
    assert_eq!(landed, 1);
    let (found, _) = recovered_ids(&storage).unwrap();
    assert_eq!(found, ids);
    assert!(!found.contains(&last));
}

#[test]
fn ids_do_not_come_again_after_a_restart() {
    let (storage, ids) = small_log();
    let (mut driver, _) = Driver::recover(&storage, small_config()).unwrap();
    let next = driver.queue.next_id();
    assert!(ids.iter().all(|id| *id < next));
    // Not even those that were given out, but not used.
    let (mut again, _) = Driver::recover(&storage, small_config()).unwrap();
    driver.pump();
    for _ in 0..100 {
        driver.queue.next_id();
    }
    let used = driver.inject(1, 1).unwrap().id();
    driver.pump();
    again.queue.next_id();
    let (mut third, _) = Driver::recover(&storage, small_config()).unwrap();
    assert!(third.queue.next_id() > used);
}

#[test]
fn ids_do_not_come_again_when_their_records_are_gone() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let id = driver.inject(1, 10).unwrap().id();
    driver.pump();
    // Outcomes fill the segments behind it, and do not say which ids were given out.
    for attempts in 0..40 {
        let _ =
            driver.settle(id, Disposition::Deferred { attempts, due_unix_ms: 5, warned: false });
        driver.pump();
    }
    let _ = driver.settle(id, Disposition::Expired);
    driver.pump();
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    // The newest one and a prepared one; the message record is in none of them.
    assert_eq!((recovered.messages, recovered.segments), (0, 2));
    assert!(driver.queue.next_id() > id);
}

#[test]
fn a_segment_with_a_torn_first_frame_is_kept_for_those_who_ask() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    driver.pump();
    driver.inject(1, 6000).unwrap().batch();
    storage.crash_at(storage.steps() + 2);
    driver.pump();
    // One block of two.
    let storage = storage.restarted(Survival::Prefix(4096));
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!((recovered.messages, recovered.tail_truncated_bytes), (0, 8192));
    assert_eq!(driver.queue.stats().tail_truncated_bytes, 8192);
    assert_eq!(storage.names(), [first_segment()]);
    // And it is in nobody's way.
    let id = driver.inject(1, 10).unwrap().id();
    driver.pump();
    assert_eq!(recovered_ids(&storage).unwrap(), (vec![id], 0));
}

#[test]
fn an_empty_directory_is_a_new_log_and_so_is_one_that_was_never_written_to() {
    let storage = MemoryStorage::new();
    storage.replace("lost+found", Vec::new());
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!((recovered.frames, recovered.segments), (0, 0));
    // Only a segment is prepared.
    driver.pump();
    assert_eq!(storage.names().len(), 2);
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!((recovered.frames, recovered.segments), (0, 1));
    assert_eq!(storage.names(), ["lost+found"]);
    let id = driver.inject(1, 10).unwrap().id();
    driver.pump();
    assert!(driver.queue.message(id).is_some());
    assert_eq!(recovered_ids(&storage).unwrap().0, [id]);
}

#[test]
fn recovery_is_the_same_with_other_limits() {
    let storage = MemoryStorage::new();
    let (_, ids) = long_log(&storage, 40);
    let larger = QueueConfig {
        segment_size: 256 << 10,
        disk_size_max: 64 << 20,
        batch_size_max: 60 << 10,
        ..small_config()
    };
    let (mut grown, recovered) = Driver::recover(&storage, larger).unwrap();
    assert_eq!(recovered.messages as usize, ids.len());
    let more = grown.inject(1, 40_000).unwrap().id();
    grown.pump();
    // Smaller ones are not taken: the large message could not be moved any more.
    let (mut shrunk, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(shrunk.queue.config().segment_size, 256 << 10);
    assert_eq!(recovered.messages as usize, ids.len() + 1);
    shrunk.pump();
    assert_eq!(shrunk.read_message(more).unwrap().content.concat().len(), 40_000);
    assert!(Queue::create(QueueConfig { segment_size: 1, ..small_config() }, IDENTITY).is_err());
}

/// How many random damages are tried; more by hand: `RINGPOST_FLIPS=10000`.
fn flips() -> u64 {
    std::env::var("RINGPOST_FLIPS").map_or(1000, |flips| flips.parse().unwrap())
}

/// A log of several segments in which every octet that was ever written still counts.
fn deferred_log(checkpoint_interval: u64) -> (MemoryStorage, Driver) {
    let storage = MemoryStorage::new();
    let config = QueueConfig { checkpoint_interval, ..small_config() };
    let mut driver = Driver::create(&storage, config);
    driver.pump();
    for number in 0..120 {
        let id = driver.inject(1 + number % 3, number * 131 % 9000).unwrap().id();
        driver.pump();
        driver.checkpoints();
        if number % 2 == 0 {
            let due_unix_ms = number as u64;
            let deferred = Disposition::Deferred { attempts: 1, due_unix_ms, warned: false };
            let _ = driver.settle(id, deferred);
        }
    }
    driver.pump();
    (storage, driver)
}

/// The segments of a log, each with the octets that were written to it.
fn written(storage: &MemoryStorage) -> Vec<(String, Vec<u8>, usize)> {
    let names = storage.names().into_iter();
    let segments = names.filter(|name| SegmentSequence::from_file_name(name).is_some());
    segments
        .map(|name| {
            let file = storage.contents(&name).unwrap();
            let end = file.iter().rposition(|octet| *octet != 0).unwrap() + 1;
            (name, file, end.next_multiple_of(BLOCK))
        })
        .filter(|(_, _, end)| *end > BLOCK)
        .collect()
}

#[test]
fn random_flips_are_all_found() {
    let (storage, _) = deferred_log(u64::MAX);
    let segments = written(&storage);
    assert!(segments.len() > 4, "{}", segments.len());
    let mut choices = support::Choices::new(77);
    let (mut corrupt, mut cut) = (0, 0);
    for number in 0..flips() {
        let (name, file, end) = &segments[choices.below(segments.len())];
        let at = choices.below(*end);
        let mut bad = file.clone();
        bad[at] ^= 1 << choices.below(8);
        storage.replace(name, bad);
        match block_on(recover(&storage, small_config(), IDENTITY)) {
            Err(RecoveryError::Corrupt { .. }) => corrupt += 1,
            Err(RecoveryError::Format { .. }) => panic!("flip {number}: {name} at {at}"),
            Err(error) => panic!("flip {number}: {error}"),
            Ok((_, recovered)) => {
                // Only the last frame may be taken for a write that a crash interrupted.
                assert!(recovered.tail_truncated_bytes > 0, "flip {number}: {name} at {at}");
                assert_eq!(name, &segments[segments.len() - 1].0);
                cut += 1;
            }
        }
        storage.replace(name, file.clone());
    }
    assert!(corrupt > cut * 10, "{corrupt} found, {cut} cut off");
}

#[test]
fn random_flips_behind_a_checkpoint_never_give_another_message() {
    let (storage, mut driver) = deferred_log(200 << 10);
    assert!(driver.queue.stats().checkpoints_total > 0);
    let messages = driver.messages();
    let contents: Vec<_> =
        messages.iter().map(|found| driver.read_message(found.id).unwrap()).collect();
    let segments = written(&storage);
    let mut choices = support::Choices::new(78);
    let mut found_late = 0;
    for number in 0..flips() / 4 {
        let (name, file, end) = &segments[choices.below(segments.len())];
        let at = choices.below(*end);
        let mut bad = file.clone();
        bad[at] ^= 1 << choices.below(8);
        storage.replace(name, bad);
        if let Ok((queue, recovered)) = block_on(recover(&storage, small_config(), IDENTITY)) {
            // Only the last frame may be taken for a write that a crash interrupted.
            let cut = u64::from(recovered.tail_truncated_bytes > 0);
            assert_eq!(recovered.messages + cut, messages.len() as u64, "flip {number}");
            for (found, content) in messages.iter().zip(&contents) {
                let Some(plans) = queue.plan_read(found.id) else { continue };
                let read = |plan: &ringpost_queue::ReadPlan| {
                    let file = block_on(storage.open(&plan.segment.file_name())).unwrap();
                    block_on(storage.read(&file, plan.offset, plan.len)).unwrap()
                };
                let parts = plans.iter().map(read).collect();
                match queue.decode_message(found.id, &plans, parts) {
                    Ok(stored) => assert!(stored == *content, "flip {number}: {name} at {at}"),
                    Err(_) => found_late += 1,
                }
            }
        }
        storage.replace(name, file.clone());
    }
    assert!(found_late > 0, "what is not read at the start is verified when it is used");
}
