//! Event records: durable with what they tell of, kept until they have been told, and not for ever.

#![expect(clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use ringpost_queue::storage::memory::{MemoryStorage, Survival};
use ringpost_queue::{
    Disposition, EventRecords, Lsn, MessageId, NewMessage, Outcome, QueueConfig, RecipientIndex,
    Ticket,
};
use support::{Driver, World, content, envelope, small_config};

fn config() -> QueueConfig {
    QueueConfig { event_segments_max: 4, ..small_config() }
}

fn records(octets: &[u8]) -> EventRecords<'_> {
    EventRecords { count: octets.len() as u32 / 8, octets }
}

/// Appends a message of so many octets with an event record of this number.
fn inject(driver: &mut Driver, number: u64, len: usize) -> Ticket {
    let id = driver.queue.next_id();
    let message = NewMessage {
        id,
        received_unix_ms: 1000,
        due_unix_ms: 1000,
        expiry_unix_ms: 2000,
        envelope: &envelope(1),
        content: &content(id, len),
        size: len as u64,
    };
    driver.queue.append_message(message, records(&number.to_le_bytes())).unwrap()
}

fn settle(driver: &mut Driver, id: MessageId, number: u64) {
    let recipients = vec![(RecipientIndex(0), Disposition::Delivered)];
    let outcome = Outcome { id, recipients };
    let octets = number.to_le_bytes();
    driver.queue.append_outcome(&outcome, None, records(&octets)).unwrap().batch();
}

/// Lets `count` messages through, with the event records `2 * number` and `2 * number + 1`.
fn flow(driver: &mut Driver, first: u64, count: u64, len: usize) {
    for number in first..first + count {
        let id = inject(driver, 2 * number, len).id();
        driver.pump();
        settle(driver, id, 2 * number + 1);
        driver.pump();
    }
}

fn restart(driver: &Driver, survival: Survival) -> Driver {
    let storage = driver.storage.restarted(survival);
    Driver::recover(&storage, config()).unwrap().0
}

#[test]
fn a_restart_finds_what_has_not_been_told() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    flow(&mut driver, 0, 5, 100);
    assert!(!driver.queue.has_events_to_read(), "the caller has them in its hands");
    let mut driver = restart(&driver, Survival::Nothing);
    assert!(driver.queue.has_events_to_read());
    assert_eq!(driver.read_events(), (0..10).collect());
    // What comes from now on is not read back.
    flow(&mut driver, 5, 1, 100);
    assert!(!driver.queue.has_events_to_read() && driver.queue.poll_events().is_none());
}

#[test]
fn what_becomes_durable_while_the_rest_is_read_back_comes_in_its_turn() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    flow(&mut driver, 0, 5, 100);
    let mut driver = restart(&driver, Survival::Nothing);
    // With the last frame of the run before, which has to be written again.
    inject(&mut driver, 10, 100).batch();
    let read = driver.queue.poll_events().unwrap();
    driver.pump();
    let bytes = driver.read_octets(read.segment, read.offset, read.len);
    driver.queue.handle_events(&read, bytes).unwrap();
    assert!(driver.queue.has_events_to_read());
    inject(&mut driver, 11, 100).batch();
    let found = driver.read_events();
    assert!(found.contains(&10) && found.contains(&11), "{found:?}");
    assert!(!found.contains(&0), "once is enough");
}

#[test]
fn a_mark_that_is_durable_spares_the_reading() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    flow(&mut driver, 0, 5, 100);
    let told = driver.queue.durable_lsn();
    driver.queue.mark_events(told);
    assert!(driver.queue.poll_write().is_none(), "nothing is written for the mark alone");
    // It rides with the next commit.
    inject(&mut driver, 10, 100).batch();
    driver.pump();
    let mut driver = restart(&driver, Survival::Nothing);
    assert_eq!(driver.read_events(), [10].into());
    let told = driver.queue.durable_lsn();
    driver.queue.mark_events(told);
    driver.queue.request_event_mark();
    driver.pump();
    let mut driver = restart(&driver, Survival::Nothing);
    assert!(!driver.queue.has_events_to_read());
    assert!(driver.read_events().is_empty());
}

#[test]
fn a_mark_is_not_believed_beyond_what_is_durable() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    driver.pump();
    inject(&mut driver, 0, 100).batch();
    driver.queue.mark_events(Lsn(u64::MAX));
    driver.pump();
    driver.queue.request_event_mark();
    driver.pump();
    assert_eq!(restart(&driver, Survival::Nothing).read_events(), [0].into());
}

#[test]
fn what_has_not_been_told_keeps_its_segment_but_not_for_ever() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    // About four of them fill a segment.
    flow(&mut driver, 0, 12, 10_000);
    let stats = driver.queue.stats();
    assert!((3..=5).contains(&stats.segments), "{stats:?}");
    assert_eq!((stats.live_bytes, stats.event_records_given_up_total), (0, 0));
    assert_eq!(restart(&driver, Survival::Nothing).read_events().len(), 24);
    // Nobody ever tells them.
    flow(&mut driver, 12, 60, 10_000);
    let stats = driver.queue.stats();
    assert!(stats.segments <= 6, "{stats:?}");
    let readable = restart(&driver, Survival::Nothing).read_events();
    assert!(readable.contains(&143) && !readable.contains(&0));
    assert!(stats.event_records_given_up_total >= 144 - readable.len() as u64, "each is counted");
    let told = driver.queue.durable_lsn();
    driver.queue.mark_events(told);
    driver.pump();
    assert_eq!(driver.queue.stats().segments, 1, "nothing holds them any more");
}

#[test]
fn a_log_without_room_gives_up_event_records_before_mail() {
    let config = QueueConfig {
        disk_size_max: 4 * (64 << 10),
        event_segments_max: 1000,
        segments_free_max: 1,
        ..small_config()
    };
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config);
    flow(&mut driver, 0, 60, 10_000);
    let stats = driver.queue.stats();
    assert!(stats.event_records_given_up_total > 0 && stats.segments <= 4, "{stats:?}");
}

#[test]
fn damage_loses_what_is_behind_it_in_its_segment_and_no_more() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    flow(&mut driver, 0, 12, 10_000);
    driver.queue.read_events_after(Lsn(0));
    let mut found = Vec::new();
    let mut damaged = false;
    while let Some(read) = driver.queue.poll_events() {
        let mut bytes = driver.read_octets(read.segment, read.offset, read.len).unwrap();
        if !std::mem::replace(&mut damaged, true) {
            bytes[20_000] ^= 1;
        }
        found.push(driver.queue.handle_events(&read, Ok(bytes)).unwrap());
    }
    let count: u64 = found.iter().map(|found| found.count).sum();
    assert!((12..24).contains(&count), "{count}");
    assert_eq!(driver.queue.stats().corrupt_records_total, 1);
    assert_eq!(found.last().unwrap().through, driver.queue.durable_lsn());
}

#[test]
fn a_read_that_fails_is_done_again() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config());
    flow(&mut driver, 0, 2, 100);
    driver.queue.read_events_after(Lsn(1));
    let read = driver.queue.poll_events().unwrap();
    assert!(driver.queue.poll_events().is_none());
    assert!(driver.queue.handle_events(&read, Err(std::io::ErrorKind::TimedOut.into())).is_err());
    assert_eq!(driver.read_events(), [1, 2, 3].into());
}

#[test]
fn a_checkpoint_begins_before_what_has_not_been_told() {
    let config = QueueConfig { checkpoint_interval: 16 << 10, ..config() };
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, config.clone());
    flow(&mut driver, 0, 4, 10_000);
    let told = driver.queue.durable_lsn();
    driver.queue.mark_events(told);
    flow(&mut driver, 4, 4, 10_000);
    driver.checkpoints();
    assert!(driver.queue.stats().checkpoints_total > 0);
    let storage = driver.storage.restarted(Survival::Nothing);
    let (mut driver, recovered) = Driver::recover(&storage, config).unwrap();
    assert!(recovered.checkpoint_messages.is_some());
    assert!((8..16).all(|number| driver.readable.contains(&number)), "{:?}", driver.readable);
    driver.pump();
}

/// What the crash tests would say of a writer that reports what it has not written.
#[test]
fn a_mark_without_a_record_in_the_file_is_found() {
    let is_found = |is_lying: bool| {
        (0..10).any(|seed| {
            let mut world = World::create(&MemoryStorage::new(), small_config(), seed);
            world.told.is_lying = is_lying;
            world.run(600);
            world.redeem();
            assert!(is_lying || world.told.in_file() > 20, "too little to say anything");
            let storage = world.driver.storage.restarted(Survival::Nothing);
            world.restart(&storage).is_err_and(|error| error.contains("event record"))
        })
    };
    assert!(is_found(true));
    assert!(!is_found(false));
}
