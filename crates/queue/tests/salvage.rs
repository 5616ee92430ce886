//! Inspection and salvage: all damage is found, all that is intact is saved, and nothing is made up.

#![expect(clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use std::collections::BTreeMap;

use futures_lite::future::block_on;
use ringpost_queue::frame::BLOCK_SIZE;
use ringpost_queue::offline::Reader;
use ringpost_queue::salvage::{LostReason, Rebuilt, Survey, rebuild, survey};
use ringpost_queue::storage::memory::{MemoryStorage, Survival};
use ringpost_queue::{
    CheckpointState, Disposition, EventRecords, Inspection, MessageId, NewMessage, Outcome,
    QueueConfig, RecipientEntry, RecipientIndex, RecipientStatus, SegmentSequence, inspect,
};
use support::{Choices, Driver, Found, IDENTITY, World, content, envelope, small_config};

const BLOCK: usize = BLOCK_SIZE as usize;

fn first_segment() -> String {
    SegmentSequence(1).file_name()
}

fn look(storage: &MemoryStorage) -> Inspection {
    block_on(inspect(storage, &small_config(), IDENTITY)).unwrap()
}

/// A new log of what is left, opened.
fn salvage(storage: &MemoryStorage) -> (MemoryStorage, Survey, Rebuilt) {
    let survey = block_on(survey(storage, IDENTITY)).unwrap();
    let new = MemoryStorage::new();
    let rebuilt = block_on(rebuild(&survey, storage, &new, &small_config(), IDENTITY)).unwrap();
    (new, survey, rebuilt)
}

/// The messages that can be saved, each read back, with the content that it was given.
fn saved(storage: &MemoryStorage, survey: &Survey) -> BTreeMap<MessageId, Found> {
    let mut reader = Reader::new(storage);
    let mut all = BTreeMap::new();
    for view in survey.messages() {
        let plans = survey.plan_read(view.id).unwrap();
        let stored = block_on(reader.message(&plans, view.size)).unwrap().unwrap();
        assert!(stored.content.concat() == content(view.id, view.size as usize), "{}", view.id);
        let found = Found {
            id: view.id,
            received_unix_ms: view.received_unix_ms,
            expiry_unix_ms: view.expiry_unix_ms,
            size: view.size,
            envelope: stored.envelope,
            recipients: view.recipients.iter().map(RecipientEntry::state).collect(),
        };
        all.insert(view.id, found);
    }
    all
}

fn open(storage: &MemoryStorage) -> Driver {
    Driver::recover(storage, small_config()).unwrap().0
}

/// What a small log had, and where.
struct Small {
    storage: MemoryStorage,
    messages: BTreeMap<MessageId, Found>,
    /// Where the pieces of each message are that is in the queue.
    places: BTreeMap<MessageId, Vec<(usize, usize)>>,
    /// The frames that hold outcomes.
    outcomes: std::ops::Range<usize>,
    /// The last frame.
    last: std::ops::Range<usize>,
    settled: MessageId,
    half_settled: MessageId,
}

/// Six frames: one of many messages, one large message, outcomes, and others behind.
fn small_log() -> Small {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    driver.pump();
    let settled = driver.inject(1, 100).unwrap().id();
    let half_settled = driver.inject(3, 200).unwrap().id();
    let streamed = driver.queue.next_id();
    let bytes = content(streamed, 900);
    driver.queue.append_chunk(streamed, &bytes[..300]).unwrap();
    driver.queue.append_chunk(streamed, &bytes[300..600]).unwrap();
    let message = NewMessage {
        id: streamed,
        received_unix_ms: 1000,
        due_unix_ms: 1000,
        expiry_unix_ms: 2000,
        envelope: &envelope(2),
        content: &bytes[600..],
        size: 900,
    };
    let _ = driver.queue.append_message(message, EventRecords::NONE).unwrap();
    let _ = driver.inject(1, 50).unwrap();
    driver.pump();
    let large = driver.inject(1, 5000).unwrap().id();
    driver.pump();
    let outcomes = driver.queue.stats().batch_bytes_total as usize + BLOCK;
    let _ = driver.settle(settled, Disposition::Delivered);
    let recipients = vec![(RecipientIndex(1), Disposition::Bounced)];
    let _ = driver
        .queue
        .append_outcome(&Outcome { id: half_settled, recipients }, None, EventRecords::NONE)
        .unwrap();
    driver.pump();
    let put_off = Disposition::Deferred { attempts: 2, due_unix_ms: 9000, warned: true };
    let _ = driver.settle(large, put_off);
    driver.pump();
    let outcomes = outcomes..driver.queue.stats().batch_bytes_total as usize + BLOCK;
    driver.inject(1, 700).unwrap().id();
    driver.pump();
    let last = driver.queue.stats().batch_bytes_total as usize + BLOCK;
    driver.inject(1, 70).unwrap().id();
    driver.pump();
    let last = last..driver.queue.stats().batch_bytes_total as usize + BLOCK;
    let mut places = BTreeMap::new();
    for id in driver.message_ids() {
        let plans = driver.queue.plan_read(id).unwrap();
        assert!(plans.iter().all(|plan| plan.segment == SegmentSequence(1)));
        let all = plans.iter().map(|plan| (plan.offset as usize, plan.len));
        places.insert(id, all.collect());
    }
    let messages = driver.messages().into_iter().map(|found| (found.id, found)).collect();
    for name in storage.names().into_iter().filter(|name| *name != first_segment()) {
        storage.delete(&name);
    }
    Small { storage, messages, places, outcomes, last, settled, half_settled }
}

#[test]
fn whatever_octet_is_flipped_only_what_it_belongs_to_is_lost() {
    let small = small_log();
    assert_eq!((small.messages.len(), small.messages.contains_key(&small.settled)), (6, false));
    let good = small.storage.contents(&first_segment()).unwrap();
    let mut revived = 0;
    for at in 0..small.last.end {
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        let storage = MemoryStorage::new();
        storage.replace(&first_segment(), bad);
        let survey = block_on(survey(&storage, IDENTITY)).unwrap();
        let found = saved(&storage, &survey);
        if at % 37 == 0 {
            // And so it stands in the new log.
            let (new, _, rebuilt) = salvage(&storage);
            assert_eq!(rebuilt.lost, [], "octet {at}");
            let mut driver = open(&new);
            let messages = driver.messages().into_iter().map(|message| (message.id, message));
            assert_eq!(messages.collect::<BTreeMap<_, _>>(), found, "octet {at}");
            // Nobody is given a name twice.
            let next = driver.queue.next_id();
            assert!(small.messages.keys().all(|id| *id < next) && small.settled < next);
        }
        // The last frame is cut off, as recovery does it.
        let is_last = small.last.contains(&at);
        let is_damaged = !survey.damages.is_empty();
        assert_eq!(is_damaged, !is_last, "octet {at}: {:?}", survey.damages);
        for (id, places) in &small.places {
            let in_last = places.iter().any(|(start, _)| small.last.contains(start));
            let hit = places.iter().any(|(start, len)| (*start..start + len).contains(&at));
            let expected = !(hit || in_last && is_last);
            assert_eq!(found.contains_key(id), expected, "octet {at}: {id}");
            let lost = survey.lost.iter().any(|lost| lost.id == *id);
            if hit && !is_last && small.messages[id].recipients.len() > 1 {
                // Named, unless its name is what is damaged.
                let name = places.iter().any(|(start, _)| (start + 12..start + 20).contains(&at));
                let kind = places.iter().any(|(start, _)| *start == at);
                assert!(lost || name || kind, "octet {at}: {:?}", survey.lost);
            }
        }
        let may_forget = small.outcomes.contains(&at);
        for (id, message) in found {
            if id == small.settled {
                assert!(may_forget, "octet {at}: it was settled");
                revived += 1;
                continue;
            }
            // What is known of it, all of it, but for outcomes that are lost.
            let known = &small.messages[&id];
            if may_forget {
                assert_eq!(message.envelope, known.envelope);
            } else {
                assert_eq!(&message, known, "octet {at}");
            }
        }
    }
    assert!(revived > 0, "an outcome that is lost is forgotten: the test would see it");
}

#[test]
fn an_inspection_names_the_place_at_which_a_server_stops_and_changes_nothing() {
    let small = small_log();
    let whole = look(&small.storage);
    assert_eq!(whole.damages, []);
    assert_eq!(whole.recovered.as_ref().map(|found| found.messages), Some(6));
    assert_eq!(whole.checkpoints, [CheckpointState::Absent; 2]);
    let good = small.storage.contents(&first_segment()).unwrap();
    for at in (0..small.last.start).step_by(61) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        let storage = MemoryStorage::new();
        storage.replace(&first_segment(), bad.clone());
        let found = look(&storage);
        let error = Driver::recover(&storage, small_config()).err().unwrap();
        let ringpost_queue::RecoveryError::Corrupt { segment, offset, reason } = error else {
            unreachable!("octet {at}")
        };
        let first = &found.damages[0];
        assert_eq!((&first.file, first.offset), (&segment.file_name(), offset));
        assert_eq!(first.reason, reason.into());
        assert!(found.is_log_damaged());
        assert_eq!(storage.names(), [first_segment()]);
        assert_eq!(storage.contents(&first_segment()).unwrap(), bad);
    }
}

#[test]
fn a_survey_of_an_intact_log_finds_what_recovery_finds() {
    for seed in 0..60 {
        let storage = MemoryStorage::new();
        let mut world = World::create(&storage, small_config(), seed);
        for _ in 0..3 {
            world.run(150);
            let stopped = world.driver.storage.restarted(Survival::Subset(seed));
            let before = stopped.names();
            let mut looked = look(&stopped);
            assert_eq!(looked.damages, [], "seed {seed}");
            assert_eq!(stopped.names(), before, "seed {seed}: unused segments stay");
            let mut driver = open(&stopped.restarted(Survival::ProcessOnly));
            let known: BTreeMap<_, _> =
                driver.messages().into_iter().map(|found| (found.id, found)).collect();
            assert_eq!(looked.survey.message_count(), known.len() as u64, "seed {seed}");
            assert_eq!(looked.survey.lost, []);
            for view in looked.survey.messages() {
                let states: Vec<_> = view.recipients.iter().map(RecipientEntry::state).collect();
                assert_eq!(states, known[&view.id].recipients, "seed {seed}: {}", view.id);
                assert_eq!(looked.survey.plan_read(view.id), driver.queue.plan_read(view.id));
            }
            assert_eq!(looked.survey.live_bytes(), driver.queue.stats().live_bytes);
            let (new, ..) = salvage(&stopped);
            assert!(open(&new).messages().into_iter().eq(known.into_values()), "seed {seed}");
            looked.damages.clear();
            world = world.restart(&stopped).unwrap().0;
        }
    }
}

/// Damages a random place, in one of several ways.
fn damage(storage: &MemoryStorage, choices: &mut Choices) {
    let names: Vec<_> =
        storage.names().into_iter().filter(|name| name.starts_with("segment-")).collect();
    if names.is_empty() {
        return;
    }
    let name = &names[choices.below(names.len())];
    let mut file = storage.contents(name).unwrap();
    if file.len() < 2 * BLOCK {
        return;
    }
    // Mostly where something is.
    let used = file.iter().rposition(|octet| *octet != 0).unwrap_or(0).max(BLOCK) + 1;
    let at = choices.below(used.min(file.len() / BLOCK * BLOCK));
    let block = at / BLOCK * BLOCK;
    match choices.below(8) {
        0 => return storage.delete(name),
        1 => file[block..block + BLOCK].fill(0),
        2 => {
            let other = choices.below(file.len() / BLOCK) * BLOCK;
            file.copy_within(other..other + BLOCK, block);
        }
        3 => file.truncate(at),
        4 => file[at..(at + 512).min(used)].fill(0xA5),
        _ => file[at] ^= 1 << choices.below(8),
    }
    storage.replace(name, file);
}

#[test]
fn nothing_is_made_up_whatever_the_damage() {
    let (mut saved, mut damaged) = (0, 0);
    for seed in 0..150 {
        let mut choices = Choices::new(seed + 1000);
        let storage = MemoryStorage::new();
        let mut world = World::create(&storage, small_config(), seed);
        world.run(300);
        world.driver.pump();
        world.redeem();
        for _ in 0..4 {
            let storage = world.driver.storage.restarted(Survival::ProcessOnly);
            for _ in 0..=choices.below(3) {
                damage(&storage, &mut choices);
            }
            let found = look(&storage);
            damaged += usize::from(found.is_log_damaged());
            let (new, ..) = salvage(&storage);
            saved += world.check_salvaged(&mut open(&new)).unwrap();
        }
    }
    assert!(damaged > 300 && saved > 3000, "{damaged} damaged logs, {saved} messages saved");
}

#[test]
fn a_missing_segment_takes_only_its_own_messages_with_it() {
    let storage = MemoryStorage::new();
    let mut driver = Driver::create(&storage, small_config());
    let mut places = BTreeMap::new();
    for _ in 0..60 {
        let id = driver.inject(1, 3000).unwrap().id();
        driver.pump();
        places.insert(id, driver.queue.plan_read(id).unwrap()[0].segment);
    }
    for gone in 1..=3 {
        let gone = SegmentSequence(gone);
        let storage = storage.restarted(Survival::ProcessOnly);
        storage.delete(&gone.file_name());
        let found = look(&storage);
        assert!(found.survey.frames_missing > 0 && found.is_log_damaged());
        assert!(found.damages.iter().any(|damage| damage.file == gone.file_name()), "{found:?}");
        let (new, ..) = salvage(&storage);
        let expected: Vec<_> =
            places.iter().filter(|(_, at)| **at != gone).map(|(id, _)| *id).collect();
        assert_eq!(open(&new).message_ids(), expected);
    }
}

#[test]
fn a_message_without_a_chunk_is_reported_and_not_delivered_in_part() {
    let small = small_log();
    let (id, places) = small.places.iter().find(|(_, places)| places.len() == 3).unwrap();
    let mut bad = small.storage.contents(&first_segment()).unwrap();
    // The second chunk.
    bad[places[2].0 + 100] ^= 1;
    small.storage.replace(&first_segment(), bad);
    let (new, survey, _) = salvage(&small.storage);
    let lost = survey.lost.iter().find(|lost| lost.id == *id).unwrap();
    assert_eq!((lost.reason, lost.size, lost.recipients), (LostReason::Chunk(1), Some(900), 2));
    assert_eq!(survey.lost.len(), 1);
    assert!(!open(&new).message_ids().contains(id));
}

#[test]
fn what_is_salvaged_is_durable_when_it_is_said_to_be() {
    let small = small_log();
    let (new, ..) = salvage(&small.storage);
    let mut driver = open(&new.restarted(Survival::Nothing));
    assert_eq!(driver.messages().len(), 6);
    // The half that was settled stays settled.
    let half = driver.queue.message(small.half_settled).unwrap().recipients.to_vec();
    assert_eq!(half[1].status, RecipientStatus::Bounced);
    assert_eq!(half.iter().filter(|one| one.status.is_settled()).count(), 1);
    // The twin: without syncs it is not.
    let survey = block_on(survey(&small.storage, IDENTITY)).unwrap();
    let lying = MemoryStorage::new();
    lying.ignore_syncs();
    block_on(rebuild(&survey, &small.storage, &lying, &small_config(), IDENTITY)).unwrap();
    let left = Driver::recover(&lying.restarted(Survival::Nothing), small_config());
    assert!(left.is_err() || left.is_ok_and(|(driver, _)| driver.message_ids().is_empty()));
}

#[test]
fn a_failure_of_the_storage_ends_it() {
    let small = small_log();
    let survey = block_on(survey(&small.storage, IDENTITY)).unwrap();
    let steps = {
        let new = MemoryStorage::new();
        block_on(rebuild(&survey, &small.storage, &new, &small_config(), IDENTITY)).unwrap();
        new.steps()
    };
    for step in 1..=steps {
        let new = MemoryStorage::new();
        new.crash_at(step);
        let rebuilt = block_on(rebuild(&survey, &small.storage, &new, &small_config(), IDENTITY));
        assert!(rebuilt.is_err(), "step {step} of {steps}");
    }
}

#[test]
fn checkpoints_are_looked_at_too() {
    let storage = MemoryStorage::new();
    let config = QueueConfig {
        checkpoint_interval: 4096,
        checkpoint_block_size: 64 << 10,
        ..small_config()
    };
    let mut driver = Driver::create(&storage, config);
    for _ in 0..30 {
        driver.inject(2, 500).unwrap().batch();
        driver.pump();
        driver.checkpoints();
    }
    let found = look(&storage);
    assert_eq!(found.damages, []);
    let whole = |state: &CheckpointState| matches!(state, CheckpointState::Whole { .. });
    assert!(found.checkpoints.iter().all(whole), "{:?}", found.checkpoints);
    for name in ringpost_queue::checkpoint::CHECKPOINT_FILES {
        let good = storage.contents(name).unwrap();
        for (at, state) in [(100, CheckpointState::Unfinished), (5000, CheckpointState::Damaged)] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            storage.replace(name, bad);
            let found = look(&storage);
            assert!(found.checkpoints.contains(&state), "{:?}", found.checkpoints);
            assert_eq!(found.damages.is_empty(), state == CheckpointState::Unfinished);
            assert!(!found.is_log_damaged());
        }
        storage.replace(name, good);
    }
    // The log loses its end, and the checkpoint knows.
    let names = storage.names();
    let segments: Vec<_> = names.iter().filter(|name| name.starts_with("segment-")).collect();
    let last = segments.iter().rev().find(|name| {
        let file = storage.contents(name).unwrap();
        file[BLOCK..].iter().any(|octet| *octet != 0)
    });
    let last = (*last.unwrap()).clone();
    let mut file = storage.contents(&last).unwrap();
    let used = file.iter().rposition(|octet| *octet != 0).unwrap() / BLOCK;
    file[(used - 1) * BLOCK..].fill(0);
    storage.replace(&last, file);
    let found = look(&storage);
    assert!(found.is_log_damaged(), "{found:?}");
    let (new, ..) = salvage(&storage);
    assert!(open(&new).message_ids().len() >= 26);
}
