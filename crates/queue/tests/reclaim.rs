//! Reclaim: a log that is used for long stays short, and what is old in it stays whole.

#![expect(clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use std::collections::VecDeque;

use ringpost_queue::storage::memory::MemoryStorage;
use ringpost_queue::{
    AppendError, Disposition, EventRecords, MessageId, NewMessage, Piece, QueueConfig,
    RecipientIndex,
};
use support::{Driver, content, envelope, small_config};

/// Lets mail flow through, a few messages in the queue at a time.
fn flow(driver: &mut Driver, messages: usize) {
    let mut queued: VecDeque<MessageId> = VecDeque::new();
    for _ in 0..messages {
        queued.push_back(driver.inject(1, 2000).unwrap().id());
        driver.pump();
        while queued.len() > 5 {
            let _ = driver.settle(queued.pop_front().unwrap(), Disposition::Delivered);
        }
        driver.rewrite();
        driver.pump();
    }
    for id in queued {
        let _ = driver.settle(id, Disposition::Delivered);
    }
    driver.pump();
}

#[test]
fn a_flow_without_old_messages_goes_round_in_few_segments() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    flow(&mut driver, 400);
    // More than forty segments were filled.
    assert!(driver.queue.stats().batch_bytes_total > 40 * (64 << 10));
    assert!(storage.names().len() <= 8, "{:?}", storage.names());
    assert_eq!(driver.queue.stats().messages, 0);
}

#[test]
fn an_old_message_is_moved_along_with_its_states_and_chunks() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let id = driver.queue.next_id();
    let whole = content(id, 10_000);
    driver.queue.append_chunk(id, &whole[..4000]).unwrap();
    driver.pump();
    driver.queue.append_chunk(id, &whole[4000..8000]).unwrap();
    let envelope = envelope(3);
    let message = NewMessage {
        id,
        received_unix_ms: 10,
        due_unix_ms: 10,
        expiry_unix_ms: 20,
        envelope: &envelope,
        content: &whole[8000..],
        size: 10_000,
    };
    driver.queue.append_message(message, EventRecords::NONE).unwrap().batch();
    driver.pump();
    let outcome = ringpost_queue::Outcome {
        id,
        recipients: vec![
            (RecipientIndex(0), Disposition::Delivered),
            (
                RecipientIndex(1),
                Disposition::Deferred { attempts: 3, due_unix_ms: 777, warned: true },
            ),
        ],
    };
    driver.queue.append_outcome(&outcome, None, EventRecords::NONE).unwrap().batch();
    let before = driver.messages()[0].recipients.clone();
    let places = driver.queue.plan_read(id).unwrap();
    flow(&mut driver, 200);
    assert!(storage.names().len() <= 10, "{:?}", storage.names());
    let moved = driver.queue.plan_read(id).unwrap();
    assert!(moved.iter().zip(&places).all(|(new, old)| new.segment > old.segment));
    assert!(places.iter().all(|plan| !driver.queue.is_current(plan)));
    assert!(driver.queue.stats().rewritten_records_total >= 3);
    assert_eq!(driver.read_message(id).unwrap().content.concat(), whole);
    // The outcome itself went with its segment long ago; the copy has what it said.
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(recovered.messages, 1);
    let found = &driver.messages()[0];
    assert_eq!((found.id, &found.recipients, &found.envelope), (id, &before, &envelope));
    assert_eq!((found.received_unix_ms, found.expiry_unix_ms, found.size), (10, 20, 10_000));
    assert_eq!(driver.read_message(id).unwrap().content.concat(), whole);
}

/// A message that comes in slowly does not hold the log behind its first chunk.
#[test]
fn the_chunks_of_a_slow_upload_are_moved_along() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let id = driver.queue.next_id();
    let whole = content(id, 12_000);
    for piece in whole[..10_000].chunks(2500) {
        driver.queue.append_chunk(id, piece).unwrap();
        flow(&mut driver, 150);
        assert!(storage.names().len() <= 10, "{:?}", storage.names());
    }
    assert!(driver.queue.stats().rewritten_records_total > 4);
    // One chunk is moved while the commit record is appended, and one after that.
    let envelope = envelope(1);
    let message = NewMessage {
        id,
        received_unix_ms: 10,
        due_unix_ms: 10,
        expiry_unix_ms: 20,
        envelope: &envelope,
        content: &whole[10_000..],
        size: 12_000,
    };
    driver.queue.append_message(message, EventRecords::NONE).unwrap().batch();
    flow(&mut driver, 150);
    assert!(storage.names().len() <= 10, "{:?}", storage.names());
    assert_eq!(driver.queue.stats().messages, 1);
    assert_eq!(driver.read_message(id).unwrap().content.concat(), whole);
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(recovered.messages, 1);
    assert_eq!(driver.read_message(id).unwrap().content.concat(), whole);
}

/// Where a chunk is moved between, and what happens to its message meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    /// Abandoned before the copy is appended.
    AbandonedWhileRead,
    /// Abandoned when the copy is appended, but not written; the id is used again when it may be.
    AbandonedWhileWritten,
    /// Its commit record is appended before the copy.
    CommittedWhileRead,
    /// And after the copy, into the same batch.
    CommittedWhileWritten,
    /// And after the copy, which is written by then.
    CommittedLater,
}

#[test]
fn what_happens_to_a_slow_upload_while_it_is_moved() {
    use Meanwhile::*;
    for meanwhile in [
        AbandonedWhileRead,
        AbandonedWhileWritten,
        CommittedWhileRead,
        CommittedWhileWritten,
        CommittedLater,
    ] {
        moved_chunk(meanwhile);
    }
}

fn moved_chunk(meanwhile: Meanwhile) {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let id = driver.queue.next_id();
    driver.queue.append_chunk(id, b"first ").unwrap();
    driver.queue.append_chunk(id, b"second ").unwrap();
    driver.pump();
    for _ in 0..60 {
        let id = driver.inject(1, 3000).unwrap().id();
        driver.pump();
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    let commit = |driver: &mut Driver| {
        let envelope = envelope(1);
        let message = NewMessage {
            id,
            received_unix_ms: 1,
            due_unix_ms: 1,
            expiry_unix_ms: 2,
            envelope: &envelope,
            content: b"third",
            size: 18,
        };
        driver.queue.append_message(message, EventRecords::NONE).unwrap().batch();
    };
    let plan = driver.queue.poll_rewrite().unwrap();
    assert_eq!((plan.id, plan.piece), (id, Piece::Chunk(0)));
    let bytes = driver.read(&plan).unwrap();
    match meanwhile {
        Meanwhile::AbandonedWhileRead => driver.queue.abandon(id),
        Meanwhile::CommittedWhileRead => commit(&mut driver),
        _ => {}
    }
    driver.queue.handle_rewrite(&plan, Ok(bytes)).unwrap();
    match meanwhile {
        Meanwhile::AbandonedWhileWritten => {
            driver.queue.abandon(id);
            // The copy must not be taken for a chunk of something else.
            let refused = driver.queue.append_chunk(id, b"other").unwrap_err();
            assert_eq!(refused, AppendError::UnknownMessage(id));
        }
        Meanwhile::CommittedWhileWritten => commit(&mut driver),
        _ => {}
    }
    driver.pump();
    if meanwhile == Meanwhile::CommittedLater {
        assert!(!driver.queue.is_current(&plan));
        commit(&mut driver);
        driver.pump();
    }
    let abandoned =
        matches!(meanwhile, Meanwhile::AbandonedWhileRead | Meanwhile::AbandonedWhileWritten);
    assert_eq!(driver.queue.stats().streaming, 0, "{meanwhile:?}");
    if abandoned {
        assert_eq!(driver.queue.stats().live_bytes, 0, "{meanwhile:?}");
    } else {
        assert!(!driver.queue.is_current(&plan), "{meanwhile:?}");
        let text = driver.read_message(id).unwrap().content.concat();
        assert_eq!(text, b"first second third", "{meanwhile:?}");
        // What is left of it goes the usual way, and the segments with it.
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
        assert_eq!(driver.queue.stats().live_bytes, 0, "{meanwhile:?}");
    }
    let (_, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(recovered.messages, 0, "{meanwhile:?}");
}

/// The twin: without rewriting one old message holds the whole log.
#[test]
fn without_rewriting_an_old_message_keeps_all_segments() {
    let storage = MemoryStorage::new();
    let config =
        QueueConfig { rewrite_segments_min: 1 << 20, disk_size_max: 1 << 30, ..small_config() };
    let mut driver = Driver::create(&storage, config);
    driver.inject(1, 10).unwrap().batch();
    driver.pump();
    flow(&mut driver, 200);
    assert!(storage.names().len() > 12, "{:?}", storage.names());
}

#[test]
fn a_damaged_record_stays_where_it_is_and_is_counted() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let id = driver.inject(1, 1000).unwrap().id();
    driver.pump();
    for _ in 0..60 {
        let id = driver.inject(1, 3000).unwrap().id();
        driver.pump();
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    let plan = driver.queue.poll_rewrite().unwrap();
    assert_eq!(plan.id, id);
    let mut bytes = driver.read(&plan).unwrap();
    bytes[50] ^= 1;
    let corruption = driver.queue.handle_rewrite(&plan, Ok(bytes)).unwrap_err();
    assert_eq!((corruption.id, corruption.offset), (id, plan.offset));
    assert_eq!(driver.queue.stats().corrupt_records_total, 1);
    // It is not tried again and again, nor given up.
    assert!(driver.queue.poll_rewrite().is_none());
    assert!(driver.queue.is_current(&plan));
    // Nor is one that could not be read.
    let (mut driver, _) = Driver::recover(&storage, small_config()).unwrap();
    driver.pump();
    let plan = driver.queue.poll_rewrite().unwrap();
    driver.queue.handle_rewrite(&plan, Err(std::io::ErrorKind::Other.into())).unwrap();
    assert!(driver.queue.poll_rewrite().is_none());
    assert!(driver.queue.is_current(&plan));
}

#[test]
fn what_is_settled_while_it_is_moved_does_not_come_back() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let old = driver.inject(1, 1000).unwrap().id();
    driver.pump();
    for _ in 0..60 {
        let id = driver.inject(1, 3000).unwrap().id();
        driver.pump();
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    let plan = driver.queue.poll_rewrite().unwrap();
    assert_eq!(plan.id, old);
    let bytes = driver.read(&plan).unwrap();
    // One order, and the other.
    for settle_first in [true, false] {
        let storage = storage.restarted(ringpost_queue::storage::memory::Survival::All);
        let (mut driver, _) = Driver::recover(&storage, small_config()).unwrap();
        driver.pump();
        let plan = driver.queue.poll_rewrite().unwrap();
        if settle_first {
            let _ = driver.settle(old, Disposition::Bounced);
        }
        driver.queue.handle_rewrite(&plan, Ok(bytes.clone())).unwrap();
        if !settle_first {
            let _ = driver.settle(old, Disposition::Bounced);
        }
        driver.pump();
        assert_eq!(driver.queue.stats().live_bytes, 0);
        let (_, recovered) = Driver::recover(&storage, small_config()).unwrap();
        assert_eq!(recovered.messages, 0);
    }
}

#[test]
fn an_id_that_is_used_again_after_all_does_not_harm_the_log() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let id = driver.queue.next_id();
    for piece in [&b"old first"[..], b"old second"] {
        driver.queue.append_chunk(id, piece).unwrap();
    }
    driver.pump();
    driver.queue.abandon(id);
    driver.queue.append_chunk(id, b"new ").unwrap();
    let message = NewMessage {
        id,
        received_unix_ms: 1,
        due_unix_ms: 1,
        expiry_unix_ms: 2,
        envelope: &envelope(1),
        content: b"content",
        size: 11,
    };
    driver.queue.append_message(message, EventRecords::NONE).unwrap().batch();
    driver.pump();
    assert_eq!(driver.read_message(id).unwrap().content.concat(), b"new content");
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(recovered.messages, 1);
    assert_eq!(driver.read_message(id).unwrap().content.concat(), b"new content");
}

/// What lies idle in the log is given back when the file system is short of space.
#[test]
fn nothing_is_kept_for_later_when_space_is_short() {
    let storage = MemoryStorage::new();
    let config =
        QueueConfig { rewrite_segments_min: 1 << 20, segments_free_max: 10, ..small_config() };
    let mut driver = Driver::create(&storage, QueueConfig { disk_size_max: 1 << 30, ..config });
    let mut ids: Vec<MessageId> = Vec::new();
    for _ in 0..200 {
        ids.push(driver.inject(1, 2000).unwrap().id());
        driver.pump();
    }
    // The oldest holds the log; all others are dead.
    let old = ids.remove(0);
    for id in ids {
        let _ = driver.settle(id, Disposition::Delivered);
        driver.pump();
    }
    let settle_down = |driver: &mut Driver| {
        for _ in 0..20 {
            driver.pump();
            driver.rewrite();
        }
        driver.pump();
    };
    settle_down(&mut driver);
    let before = storage.names().len();
    assert!(before > 6, "{before} files: neither rewritten nor deleted without need");
    driver.queue.set_space_short(true);
    settle_down(&mut driver);
    let after = storage.names().len();
    assert!(after <= 3, "{:?}", storage.names());
    assert_eq!(driver.read_message(old).unwrap().content.concat(), content(old, 2000));
    // With space again they are kept again.
    driver.queue.set_space_short(false);
    flow(&mut driver, 400);
    assert!(storage.names().len() > after, "{:?}", storage.names());
}
