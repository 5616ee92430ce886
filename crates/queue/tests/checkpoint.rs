//! Checkpoints: they spare reading, and nothing depends on them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may be blunt")]

mod support;

use ringpost_protocol::address::Host;
use ringpost_queue::checkpoint::CHECKPOINT_FILES;
use ringpost_queue::storage::memory::{Faults, MemoryStorage};
use ringpost_queue::{
    Admission, CorruptReason, Disposition, MessageId, Purge, QueueConfig, RecipientStatus,
    RecoveryError, Redeemed, SegmentSequence,
};
use support::{Driver, World, small_config};

fn eager() -> QueueConfig {
    QueueConfig { checkpoint_interval: 1, checkpoint_block_size: 64 << 10, ..small_config() }
}

/// A log with a backlog, a whole checkpoint, and a few frames behind it.
fn log_with_checkpoint() -> (MemoryStorage, Driver, Vec<MessageId>) {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, eager());
    driver.pump();
    let mut ids = Vec::new();
    for number in 0..60 {
        ids.push(driver.inject(1 + number % 3, 2000).unwrap().id());
        driver.pump();
    }
    driver.checkpoints();
    assert_eq!(driver.queue.stats().checkpoints_total, 1);
    for _ in 0..3 {
        ids.push(driver.inject(1, 500).unwrap().id());
        driver.pump();
    }
    (storage, driver, ids)
}

#[test]
fn only_what_came_after_a_checkpoint_is_read() {
    let (storage, _, ids) = log_with_checkpoint();
    let (driver, recovered) = Driver::recover(&storage, eager()).unwrap();
    assert_eq!((recovered.messages, recovered.checkpoint_messages), (63, Some(60)));
    // The frame that was the last one then, and those behind it.
    assert_eq!((recovered.frames, recovered.checkpoints_damaged), (4, 0));
    assert_eq!(recovered.frames_bytes, 4 * 4096);
    assert_eq!(driver.message_ids(), ids);
}

#[test]
fn the_files_count_as_space_that_the_queue_takes() {
    let size = |storage: &MemoryStorage| -> u64 {
        let names = storage.names();
        names.iter().map(|name| storage.contents(name).unwrap().len() as u64).sum()
    };
    let (storage, mut driver, _) = log_with_checkpoint();
    assert!(storage.names().iter().any(|name| name == CHECKPOINT_FILES[0]));
    assert_eq!(driver.queue.stats().disk_bytes, size(&storage));
    for _ in 0..200 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    driver.checkpoints();
    assert_eq!(driver.queue.stats().checkpoints_total, 2);
    assert_eq!(driver.queue.stats().disk_bytes, size(&storage));
    // Also after a restart, and when it cannot be read.
    let mut broken = storage.contents(CHECKPOINT_FILES[0]).unwrap();
    broken[0] ^= 1;
    storage.replace(CHECKPOINT_FILES[0], broken);
    let (mut driver, _) = Driver::recover(&storage, eager()).unwrap();
    driver.pump();
    assert_eq!(driver.queue.stats().disk_bytes, size(&storage));
}

#[test]
fn large_checkpoints_leave_less_room_for_the_log() {
    let config = QueueConfig { disk_size_max: 40 * (64 << 10), ..eager() };
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config.clone());
    driver.pump();
    let fill = |driver: &mut Driver| {
        while driver.queue.admission() == Admission::Open {
            for _ in 0..20 {
                let _ = driver.inject(30, 10);
            }
            driver.pump();
            driver.checkpoints();
        }
        driver.queue.stats()
    };
    let stats = fill(&mut driver);
    let beside = (stats.disk_bytes - stats.segments_free * (64 << 10)) / (64 << 10);
    assert!(stats.checkpoint_bytes > 64 << 10, "{stats:?}");
    assert!(stats.segments < 38 && beside <= 40, "{stats:?}");
    // Without them there is room for more.
    let config = QueueConfig { checkpoint_interval: u64::MAX, ..config };
    let mut driver = Driver::create(&MemoryStorage::new(), config);
    driver.pump();
    assert_eq!(fill(&mut driver).segments, 39);
}

#[test]
fn it_is_written_when_there_is_enough_to_be_spared_and_not_again_before_there_is_more() {
    let (_, mut driver, _) = log_with_checkpoint();
    assert!(driver.queue.stats().replay_bytes < 5 * 4096);
    assert!(!driver.queue.has_checkpoint_work(), "for a backlog of 63 that is not worth it");
    for _ in 0..20 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    assert!(driver.queue.has_checkpoint_work());
    // What an empty queue has to replay is what is between head and tail: next to nothing.
    for id in driver.message_ids() {
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    while driver.queue.stats().segments > 1 {
        let id = driver.inject(1, 9000).unwrap().id();
        driver.pump();
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    assert!(driver.queue.stats().replay_bytes <= 64 << 10);
}

#[test]
fn one_that_was_asked_for_is_written_sooner() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    driver.pump();
    for _ in 0..5 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    assert!(!driver.queue.has_checkpoint_work());
    driver.queue.request_checkpoint();
    driver.checkpoints();
    assert_eq!(driver.queue.stats().checkpoints_total, 1);
    let (_, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!((recovered.frames, recovered.checkpoint_messages), (1, Some(5)));
}

#[test]
fn damage_to_a_checkpoint_costs_time_and_nothing_else() {
    let (storage, mut driver, _) = log_with_checkpoint();
    // A second one, in the other file.
    for _ in 0..40 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    driver.checkpoints();
    assert_eq!(driver.queue.stats().checkpoints_total, 2);
    let ids = driver.message_ids();
    let good = CHECKPOINT_FILES.map(|name| storage.contents(name).unwrap());
    let newest = |storage: &MemoryStorage| {
        let (driver, recovered) = Driver::recover(storage, eager()).unwrap();
        assert_eq!(driver.message_ids(), ids);
        (recovered.checkpoint_messages, recovered.checkpoints_damaged)
    };
    assert_eq!(newest(&storage), (Some(103), 0));
    let written = good[1].iter().rposition(|octet| *octet != 0).unwrap();
    for at in (0..=written).step_by(61) {
        let mut bad = good[1].clone();
        bad[at] ^= 1 << (at % 8);
        storage.replace(CHECKPOINT_FILES[1], bad);
        assert_eq!(newest(&storage), (Some(60), 1), "octet {at}");
    }
    // Cut, emptied, exchanged, both.
    storage.replace(CHECKPOINT_FILES[1], good[1][..4096].to_vec());
    assert_eq!(newest(&storage), (Some(60), 1));
    storage.replace(CHECKPOINT_FILES[1], Vec::new());
    assert_eq!(newest(&storage), (Some(60), 0));
    storage.replace(CHECKPOINT_FILES[0], vec![0; 4096]);
    assert_eq!(newest(&storage), (None, 0));
    storage.replace(CHECKPOINT_FILES[0], vec![7; 8192]);
    assert_eq!(newest(&storage), (None, 1));
    storage.replace(CHECKPOINT_FILES[0], good[1].clone());
    assert_eq!(newest(&storage), (Some(103), 0));
}

/// Zeros the last frame of a log.
fn zero_last_frame(storage: &MemoryStorage) {
    let is_segment = |name: &String| SegmentSequence::from_file_name(name).is_some();
    for name in storage.names().into_iter().filter(is_segment).rev() {
        let mut file = storage.contents(&name).unwrap();
        let is_begin = |block: &[u8]| block.starts_with(b"RPFR");
        let Some(last) = file[4096..].chunks(4096).rposition(is_begin) else { continue };
        file[4096 + last * 4096..].fill(0);
        return storage.replace(&name, file);
    }
    panic!("no frame");
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_damaged() {
    let (storage, mut driver, _) = log_with_checkpoint();
    // Without a checkpoint that could be a write that a crash has prevented.
    zero_last_frame(&storage);
    assert!(Driver::recover(&storage, eager()).is_ok());
    for _ in 0..40 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    driver.checkpoints();
    assert_eq!(driver.queue.stats().checkpoints_total, 2);
    zero_last_frame(&storage);
    match Driver::recover(&storage, eager()) {
        Err(RecoveryError::Corrupt { reason: CorruptReason::Shortened { .. }, .. }) => {}
        Err(error) => panic!("{error:?}"),
        Ok((_, recovered)) => panic!("{recovered:?}"),
    }
}

#[test]
fn a_segment_that_is_needed_and_gone_is_noticed_though_it_is_not_read() {
    let (storage, _, _) = log_with_checkpoint();
    storage.delete(&SegmentSequence(2).file_name());
    // It is neither the head nor behind the checkpoint.
    match Driver::recover(&storage, eager()) {
        Err(RecoveryError::Corrupt { segment, reason: CorruptReason::MissingSegment, .. }) => {
            assert_eq!(segment, SegmentSequence(2));
        }
        Err(error) => panic!("{error:?}"),
        Ok((_, recovered)) => panic!("{recovered:?}"),
    }
}

#[test]
fn a_failed_write_of_one_poisons_nothing() {
    for fault in 1..4 {
        let (storage, mut driver, _) = log_with_checkpoint();
        for _ in 0..10 {
            driver.inject(1, 3000).unwrap().batch();
            driver.pump();
        }
        let fail_write = Some(storage.writes() + fault);
        storage.set_faults(Faults { fail_write, ..Faults::default() });
        driver.checkpoints();
        let stats = driver.queue.stats();
        assert_eq!((stats.checkpoints_total, stats.checkpoint_failures_total), (1, 1));
        assert_eq!(driver.queue.admission(), Admission::Open);
        let ids = driver.message_ids();
        let (again, recovered) = Driver::recover(&storage, eager()).unwrap();
        assert_eq!((again.message_ids(), recovered.checkpoint_messages), (ids, Some(60)));
        // It is tried again when the log has grown.
        for _ in 0..10 {
            driver.inject(1, 3000).unwrap().batch();
            driver.pump();
        }
        driver.checkpoints();
        assert_eq!(driver.queue.stats().checkpoints_total, 2);
    }
}

#[test]
fn a_purge_is_never_applied_to_what_came_after_it() {
    // The purge is in the log, but not durable, when the checkpoint could be begun: were it replayed on
    // that, it would take a message with it that came in later.
    let (storage, mut driver, _) = log_with_checkpoint();
    for _ in 0..10 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    let piece = driver.queue.poll_checkpoint().unwrap();
    let host = Some(Host::parse("host0.test").unwrap());
    let purge = Purge { host, received_before_unix_ms: u64::MAX };
    let (_, purged) = driver.queue.append_purge(&purge, |_| Vec::new()).unwrap();
    assert_eq!(purged.recipients, 60 + 3 + 10);
    driver.queue.handle_checkpoint(Ok(piece.bytes.len()));
    driver.checkpoints();
    let later = driver.inject(1, 3000).unwrap().id();
    driver.pump();
    driver.checkpoints();
    for _ in 0..10 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    driver.checkpoints();
    assert!(driver.queue.stats().checkpoints_total >= 2);
    let (driver, _) = Driver::recover(&storage, eager()).unwrap();
    assert!(driver.message_ids().contains(&later));
}

#[test]
fn a_purge_in_the_last_frame_is_not_applied_to_what_joins_that_frame_later() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, eager());
    driver.pump();
    driver.inject(1, 2000).unwrap().batch();
    driver.pump();
    let host = Some(Host::parse("host0.test").unwrap());
    let purge = Purge { host, received_before_unix_ms: u64::MAX };
    driver.queue.append_purge(&purge, |_| Vec::new()).unwrap().0.batch();
    driver.step();
    // The frame with the purge is written again after a restart, with what comes in then.
    let (mut driver, _) = Driver::recover(&storage, eager()).unwrap();
    let ticket = driver.inject(3, 3000).unwrap();
    while driver.queue.redeem(ticket) == Redeemed::Pending {
        driver.step();
    }
    driver.checkpoints();
    let (driver, _) = Driver::recover(&storage, eager()).unwrap();
    let message = driver.queue.message(ticket.id()).unwrap();
    assert!(message.recipients.iter().all(|one| one.status == RecipientStatus::Queued));
}

#[test]
fn a_poisoned_queue_has_no_checkpoint_to_write() {
    let (storage, mut driver, _) = log_with_checkpoint();
    for _ in 0..10 {
        driver.inject(1, 3000).unwrap().batch();
        driver.pump();
    }
    driver.queue.request_checkpoint();
    assert!(driver.queue.has_checkpoint_work());
    let fail_write = Some(storage.writes() + 1);
    storage.set_faults(Faults { fail_write, ..Faults::default() });
    driver.inject(1, 3000).unwrap().batch();
    driver.step();
    assert_eq!(driver.queue.admission(), Admission::Poisoned);
    assert!(driver.queue.poll_checkpoint().is_none() && !driver.queue.has_checkpoint_work());
}

#[test]
fn checkpoints_are_a_fifth_of_what_is_written_at_most() {
    let storage = MemoryStorage::new();
    let config = QueueConfig {
        segment_size: 1 << 20,
        disk_size_max: 1 << 30,
        checkpoint_interval: 100 << 10,
        checkpoint_block_size: 64 << 10,
        ..small_config()
    };
    let mut driver = Driver::create(&storage, config);
    driver.pump();
    // What a checkpoint has of a message is mostly its recipients.
    for _ in 0..40 {
        driver.inject(500, 100).unwrap().batch();
        driver.pump();
    }
    let mut written = 0;
    for _ in 0..1500 {
        let id = driver.inject(1, 3000).unwrap().id();
        driver.pump();
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
        let before = driver.queue.stats().checkpoints_total;
        driver.checkpoints();
        let stats = driver.queue.stats();
        written += (stats.checkpoints_total - before) * stats.checkpoint_bytes;
    }
    let stats = driver.queue.stats();
    assert!(stats.checkpoints_total > 2);
    // The first one could not know how large it would be.
    let allowed = stats.batch_bytes_total / 4 + stats.checkpoint_bytes;
    assert!(written <= allowed, "{written} of {}", stats.batch_bytes_total);
}

#[test]
fn a_purge_of_very_many_is_one_record() {
    let storage = MemoryStorage::new();
    let config = QueueConfig { disk_size_max: 1 << 30, segment_size: 1 << 20, ..eager() };
    let mut driver = Driver::create(&storage, config.clone());
    driver.pump();
    for _ in 0..100 {
        for _ in 0..100 {
            driver.inject(1, 10).unwrap().batch();
        }
        driver.pump();
    }
    let written = driver.queue.stats().batch_bytes_total;
    let purge = Purge { host: None, received_before_unix_ms: u64::MAX };
    let (ticket, purged) = driver.queue.append_purge(&purge, |_| Vec::new()).unwrap();
    assert_eq!((purged.messages, purged.recipients), (10_000, 10_000));
    assert_eq!((driver.message_ids().len(), driver.queue.stats().recipients), (0, 0));
    driver.pump();
    assert!(matches!(driver.queue.redeem(ticket), Redeemed::Durable(_)));
    assert!(driver.queue.stats().batch_bytes_total - written <= 3 * 4096);
    let stats = driver.queue.stats();
    assert_eq!((stats.messages, stats.hosts, stats.live_bytes, stats.segments), (0, 0, 0, 1));
    let (_, recovered) = Driver::recover(&storage, config).unwrap();
    assert_eq!(recovered.messages, 0);
}

#[test]
fn long_random_runs_with_restarts_keep_the_model() {
    // More by hand: `RINGPOST_SEEDS=5000 cargo test --release -p ringpost-queue --test checkpoint`.
    let seeds = std::env::var("RINGPOST_SEEDS").map_or(60, |seeds| seeds.parse().unwrap());
    for seed in 0..seeds {
        let mut storage = MemoryStorage::new();
        let mut world = World::create(&storage, small_config(), 9000 + seed);
        for _ in 0..4 {
            world.run(700);
            storage = storage.restarted(ringpost_queue::storage::memory::Survival::ProcessOnly);
            let (next, _) = world.restart(&storage).unwrap();
            world = next;
        }
        assert!(world.acknowledged() > 100);
    }
}
