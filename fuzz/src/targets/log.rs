//! The log: recovery, inspection and salvage of what a disk has made of it.
//!
//! The first octet chooses the log that was written, and what is done with it; the rest are edits of its
//! files: an octet for the kind, one for the file, two for the place. Without edits that make checksums
//! fit, what is found must have been there. Instead of a log it can be the `meta` file.

mod base;
mod edit;

use std::sync::LazyLock;

use futures_lite::future::block_on;
use ringpost_queue::checkpoint::CHECKPOINT_FILES;
use ringpost_queue::layout::QueueMeta;
use ringpost_queue::offline::{Reader, drain};
use ringpost_queue::salvage::{rebuild, survey};
use ringpost_queue::storage::memory::MemoryStorage;
use ringpost_queue::{
    EventRecords, MessageId, Queue, ReadPlan, RecoveryError, Redeemed, StoredMessage, inspect,
    recover,
};

use super::seed;
use crate::input::Input;
use crate::{Target, Verdict, must};
use base::{Base, IDENTITY, State, config};
use edit::{Edited, Files};

/// The target.
pub const TARGET: Target = Target {
    name: "log",
    check,
    seeds,
    words: &[
        "RPFR",
        "RINGPOST",
        "RINGCKPT",
        "ringpost queue\n",
        "format 2\n",
        "shards 4\n",
        "log-id ",
        "checksum ",
    ],
    size_max: 200,
    cost: 20,
};

const LONG: u8 = 1;
const INSPECTS: u8 = 2;
const META: u8 = 4;
const GOES_ON: u8 = 8;

static BASES: LazyLock<[Option<Base>; 2]> = LazyLock::new(|| [base::make(false), base::make(true)]);

/// What was found of a log.
struct Found {
    state: State,
    contents: Vec<(MessageId, StoredMessage)>,
    queue: Queue,
}

fn seeds() -> Vec<Vec<u8>> {
    let flip = |at: u16, bit: u8| [0, 0, at.to_le_bytes()[0], at.to_le_bytes()[1], bit];
    let edits: [&[u8]; 12] = [
        b"",
        &flip(4096, 3),
        &flip(9000, 0),
        &flip(0, 0),
        // A block of zeros, one of another place, a file that is cut, one that is gone.
        &[3, 0, 0, 0x20, 0],
        &[4, 0, 0, 0x30, 1, 2],
        &[5, 0, 0, 0x50, 0],
        &[6, 0, 0, 0],
        &[7, 0, 0, 0, 5],
        // Numbers in headers and records that are sealed again.
        &[12, 0, 24, 0x10, 2, 8, 0, 0, 0x10, 0],
        &[12, 0, 32, 0, 2, 9, 0, 0, 0, 0],
        &[12, 0, 100, 0x10, 1, 11, 0, 80, 0x10, 0, 8, 0, 0, 0x10, 0],
    ];
    let modes = [0, LONG, INSPECTS, LONG | INSPECTS, GOES_ON, LONG | GOES_ON];
    let mut seeds: Vec<_> =
        edits.iter().flat_map(|edit| modes.map(|mode| seed(&[mode], edit))).collect();
    let meta = QueueMeta { shards: 4, log_id: 0x9F86_D081_884C_7D65 }.encode();
    let text = String::from_utf8_lossy(&meta).into_owned();
    seeds.push(seed(&[META], &meta));
    seeds.push(seed(&[META | INSPECTS], text.split("checksum").next().unwrap_or_default()));
    seeds
}

/// Says whether what is found in the log is what was written.
pub fn check(octets: &[u8]) -> Verdict {
    let mut input = Input::new(octets);
    let mode = input.octet();
    if mode & META != 0 {
        return check_meta(input.rest(), mode & INSPECTS != 0);
    }
    let base = BASES[usize::from(mode & LONG)].as_ref().ok_or("there is no log to damage")?;
    let mut files = base.files.clone();
    let edited = edit::edit(&mut files, &mut input);
    let found = match open(&files) {
        Ok(found) => Some(found),
        Err(OpenError::Refused) => None,
        Err(OpenError::Other(wrong)) => return Err(wrong),
    };
    must!(edited.count > 0 || found.is_some(), "a log that was not touched is refused");
    if let Some(found) = found {
        judge(&found, base, edited)?;
        if mode & GOES_ON != 0 {
            go_on(found, &files, edited)?;
        }
    }
    if mode & INSPECTS != 0 {
        check_inspection(&files, base, edited, is_stopped(&files))?;
    }
    Ok(())
}

/// Whether a server would stop for a log, with its checkpoints or, for want of them, without.
fn is_stopped(files: &Files) -> bool {
    let mut bare = files.clone();
    bare.retain(|(name, _)| !CHECKPOINT_FILES.contains(&&**name));
    [files, &bare].into_iter().any(|files| {
        let opened = block_on(recover(&storage(files), config(), IDENTITY));
        matches!(opened, Err(RecoveryError::Corrupt { .. }))
    })
}

fn storage(files: &Files) -> MemoryStorage {
    let storage = MemoryStorage::new();
    for (name, contents) in files {
        storage.replace(name, contents.clone());
    }
    storage
}

enum OpenError {
    Refused,
    Other(String),
}

fn open(files: &Files) -> Result<Found, OpenError> {
    let storage = storage(files);
    let opened = block_on(recover(&storage, config(), IDENTITY)).map_err(|_| OpenError::Refused)?;
    let (queue, recovered) = opened;
    let state = base::state(&queue);
    let mut contents = Vec::new();
    for (id, plans, size) in plans(&queue) {
        let read = block_on(Reader::new(&storage).message(&plans, size));
        // A record that was not replayed can be damaged; it is found out when it is read.
        if let Ok(Ok(stored)) = read {
            contents.push((id, stored));
        }
    }
    if recovered.messages == state.len() as u64 {
        Ok(Found { state, contents, queue })
    } else {
        Err(OpenError::Other(format!("{} messages, and {}", recovered.messages, state.len())))
    }
}

fn plans(queue: &Queue) -> Vec<(MessageId, Vec<ReadPlan>, u64)> {
    let all = queue.messages_from(MessageId::from_u64(0));
    all.filter_map(|view| Some((view.id, queue.plan_read(view.id)?, view.size))).collect()
}

/// Nothing is found but what was there at some moment.
fn judge(found: &Found, base: &Base, edited: Edited) -> Verdict {
    if edited.is_sealed {
        return Ok(());
    }
    must!(base.states.contains(&found.state), "it was never so: {:?}", found.state);
    let last = base.states.last() == Some(&found.state);
    must!(edited.count > 0 || last, "a log that was not touched is another");
    for (id, stored) in &found.contents {
        check_content(*id, stored, base)?;
    }
    must!(edited.count > 0 || found.contents.len() == found.state.len(), "content is missing");
    Ok(())
}

fn check_content(id: MessageId, stored: &StoredMessage, base: &Base) -> Verdict {
    let (envelope, content) = base.messages.get(&id).ok_or("a message out of nothing")?;
    must!(stored.envelope == *envelope, "{id} has another envelope");
    must!(stored.content.concat() == *content, "{id} has other content");
    Ok(())
}

/// A log that was opened can be gone on with: what was there and what comes is there after a restart.
fn go_on(found: Found, files: &Files, edited: Edited) -> Verdict {
    let Found { mut state, mut queue, .. } = found;
    let storage = storage(files);
    // As far as the queue knows, the storage is the one that it was read from.
    let id = queue.next_id();
    let (Some(envelope), content) = (base::envelope(1), b"more\r\n") else { return Ok(()) };
    let appended = queue.append_message(base::message(id, &envelope, content), EventRecords::NONE);
    let drained = block_on(drain(&mut queue, &storage));
    let durable = appended.is_ok_and(|ticket| matches!(queue.redeem(ticket), Redeemed::Durable(_)));
    must!(drained.is_ok() || !durable, "durable, and not written");
    if edited.is_sealed || !durable {
        return Ok(());
    }
    state = base::state(&queue).into_iter().chain(state).collect();
    let again = block_on(recover(&storage, config(), IDENTITY));
    let (again, _) = again.map_err(|error| format!("not to be opened again: {error}"))?;
    must!(base::state(&again) == state, "after a restart it is another");
    must!(state.contains_key(&id), "what is durable is gone");
    Ok(())
}

/// Inspection says the same as recovery, and what is saved was there.
fn check_inspection(files: &Files, base: &Base, edited: Edited, is_stopped: bool) -> Verdict {
    let storage = storage(files);
    let Ok(inspection) = block_on(inspect(&storage, &config(), IDENTITY)) else { return Ok(()) };
    must!(
        inspection.is_log_damaged() == is_stopped,
        "a server stops: {is_stopped}, and inspection says otherwise: {:?}",
        inspection.damages
    );
    must!(!is_stopped || !inspection.damages.is_empty(), "a server stops, and nothing is wrong");
    must!(edited.count > 0 || inspection.damages.is_empty(), "damages: {:?}", inspection.damages);
    let Ok(survey) = block_on(survey(&storage, IDENTITY)) else { return Ok(()) };
    let new = MemoryStorage::new();
    let Ok(rebuilt) = block_on(rebuild(&survey, &storage, &new, &config(), IDENTITY)) else {
        return if edited.is_sealed { Ok(()) } else { Err("it cannot be rebuilt".to_owned()) };
    };
    let opened = block_on(recover(&new, config(), IDENTITY));
    let (queue, recovered) = opened.map_err(|error| format!("rebuilt, and not open: {error}"))?;
    must!(recovered.messages == rebuilt.messages, "{} messages rebuilt", rebuilt.messages);
    for (id, plans, size) in plans(&queue) {
        let read = block_on(Reader::new(&new).message(&plans, size));
        let stored = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        must!(edited.is_sealed || check_content(id, &stored, base).is_ok(), "{id} is made up");
    }
    Ok(())
}

/// A `meta` file says what was written, or nothing.
fn check_meta(text: &[u8], is_summed: bool) -> Verdict {
    let mut text = text.to_vec();
    if is_summed {
        let sum = crc32c::crc32c(&text);
        text.extend_from_slice(format!("checksum {sum:08x}\n").as_bytes());
    }
    if let Ok(meta) = QueueMeta::decode(&text) {
        must!(QueueMeta::decode(&meta.encode()) == Ok(meta), "{meta:?} is another when written");
        must!((1..=1024).contains(&meta.shards), "{} shards", meta.shards);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logs_have_all_there_is() {
        for (base, is_long) in BASES.iter().zip([false, true]) {
            let base = base.as_ref().unwrap();
            let has = |name: &str| base.files.iter().any(|(file, _)| file.starts_with(name));
            assert!(has("segment-"));
            assert_eq!((has("checkpoint-0"), has("checkpoint-1")), (is_long, is_long));
            let first = base.files.iter().any(|(file, _)| file == "segment-0000000000000001");
            assert_eq!(first, !is_long, "the head has moved on");
            assert!(base.states.last().unwrap().len() > 2);
        }
    }

    #[test]
    fn wrong_findings_are_found() {
        let base = BASES[0].as_ref().unwrap();
        let found = || open(&base.files).ok().unwrap();
        let touched = Edited { count: 1, is_sealed: false };
        let sealed = Edited { count: 1, is_sealed: true };
        let judged = |change: fn(&mut Found), edited| {
            let mut found = found();
            change(&mut found);
            judge(&found, base, edited).is_ok()
        };
        assert!(judged(|_| {}, touched) && judged(|_| {}, Edited::default()));
        // A message is lost, or made up, or settled again.
        let lose: fn(&mut Found) = |found| drop(found.state.pop_first());
        assert!(!judged(lose, touched) && judged(lose, sealed));
        assert!(!judged(
            |found| drop(found.state.insert(MessageId::from_u64(9), Vec::new())),
            touched
        ));
        assert!(!judged(
            |found| found
                .state
                .values_mut()
                .for_each(|all| all.iter_mut().for_each(|one| one.attempts += 1)),
            touched
        ));
        assert!(!judged(|found| found.contents[0].1.content[0][0] ^= 1, touched));
        assert!(!judged(|found| found.contents[0].0 = MessageId::from_u64(9), touched));
        // A frame that is cut off is no reason to object, unless nobody has touched the log.
        let older: fn(&mut Found) = |found| {
            let base = BASES[0].as_ref().unwrap();
            found.state.clone_from(&base.states[base.states.len() - 2]);
        };
        assert!(judged(older, touched) && !judged(older, Edited::default()));
    }

    #[test]
    fn an_inspection_that_differs_is_found() {
        let base = BASES[1].as_ref().unwrap();
        let untouched = Edited::default();
        assert_eq!(check_inspection(&base.files, base, untouched, false), Ok(()));
        assert!(check_inspection(&base.files, base, untouched, true).is_err());
        let is_needed = |number: &usize| {
            let mut files = base.files.clone();
            files[*number].1[5000] ^= 1;
            let touched = Edited { count: 1, is_sealed: false };
            let is_stopped = is_stopped(&files);
            assert_eq!(check_inspection(&files, base, touched, is_stopped), Ok(()));
            is_stopped && check_inspection(&files, base, touched, false).is_err()
        };
        assert!((0..base.files.len()).filter(is_needed).count() > 2);
    }
}
