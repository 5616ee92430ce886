//! Reads the files of a queue as `docs/QUEUE.md` draws them, to see what a kill has cut short.
//!
//! Nothing here verifies a checksum: it says where the server was, not whether all is well.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;

/// Where frames begin, and what they are multiples of.
const BLOCK: usize = 4096;
const FRAME_HEADER: usize = 80;
const RECORD_HEADER: usize = 12;
const KIND_MESSAGE: u8 = 2;

/// The directories of the shards. None before there is a queue.
///
/// # Errors
///
/// Fails when the directory cannot be read.
pub fn shards(queue: &Path) -> Result<Vec<PathBuf>> {
    Ok(list(queue, "shard-")?.into_iter().map(|(path, _)| path).collect())
}

/// The segments of all shards, by path.
///
/// # Errors
///
/// Fails when a directory cannot be read.
pub fn segments(queue: &Path) -> Result<HashSet<PathBuf>> {
    let mut found = HashSet::new();
    for shard in shards(queue)? {
        found.extend(list(&shard, "segment-")?.into_iter().map(|(path, _)| path));
    }
    Ok(found)
}

/// A file, and when it was written to last: another one after every write.
pub type Written = (PathBuf, SystemTime);

/// The segments that were being made: too short, or without a header of their own.
///
/// # Errors
///
/// Fails when a file cannot be read.
pub fn unfinished_segments(queue: &Path) -> Result<HashSet<Written>> {
    let mut unfinished = HashSet::new();
    for shard in shards(queue)? {
        for (path, sequence) in list(&shard, "segment-")? {
            let header = front(&path, 40)?;
            let own = header.starts_with(b"RINGPOST") && number(&header, 24, 8) == Some(sequence);
            // It may be gone meanwhile.
            let Ok(about) = fs::metadata(&path) else { continue };
            if !own || number(&header, 32, 8) != Some(about.len()) {
                unfinished.insert((path, about.modified()?));
            }
        }
    }
    Ok(unfinished)
}

/// The checkpoints that are being written: there, and with a header that is blank.
///
/// # Errors
///
/// Fails when a file cannot be read.
pub fn unfinished_checkpoints(queue: &Path) -> Result<HashSet<Written>> {
    let mut unfinished = HashSet::new();
    for shard in shards(queue)? {
        for (path, _) in list(&shard, "checkpoint-")? {
            if !front(&path, 8)?.starts_with(b"RINGCKPT") {
                let modified = fs::metadata(&path)?.modified()?;
                unfinished.insert((path, modified));
            }
        }
    }
    Ok(unfinished)
}

/// The messages that are in the oldest segment which a log needs, and in a later one as well: that
/// segment was being emptied.
///
/// # Errors
///
/// Fails when a file cannot be read.
pub fn half_moved(queue: &Path) -> Result<usize> {
    let mut moved = 0;
    for shard in shards(queue)? {
        let mut frames = Vec::new();
        for (path, sequence) in list(&shard, "segment-")? {
            frames.extend(read_frames(&path, sequence)?);
        }
        let Some(last) = frames.iter().max_by_key(|frame| frame.lsn) else { continue };
        let head = last.head;
        let mut old: HashMap<u64, u64> = HashMap::new();
        for frame in frames.iter().filter(|frame| frame.segment == head) {
            old.extend(frame.messages.iter().map(|id| (*id, frame.lsn)));
        }
        // The last frame of a life is written again in the next one: that is no move.
        let later = frames.iter().filter(|frame| frame.segment > head);
        let copies: HashSet<u64> = later
            .flat_map(|frame| frame.messages.iter().map(|id| (*id, frame.lsn)))
            .filter(|(id, lsn)| old.get(id).is_some_and(|before| before < lsn))
            .map(|(id, _)| id)
            .collect();
        moved += copies.len();
    }
    Ok(moved)
}

/// The newest segment of a shard that has `messages` or more of those which no other segment has.
///
/// # Errors
///
/// Fails when a file cannot be read.
pub fn newest_with(messages: usize, shard: &Path) -> Result<Option<PathBuf>> {
    let mut held: HashMap<u64, HashSet<u64>> = HashMap::new();
    let mut paths = BTreeMap::new();
    for (path, sequence) in list(shard, "segment-")? {
        for id in read_frames(&path, sequence)?.into_iter().flat_map(|frame| frame.messages) {
            held.entry(id).or_default().insert(sequence);
        }
        paths.insert(sequence, path);
    }
    Ok(paths.into_iter().rev().find_map(|(sequence, path)| {
        let alone = held.values().filter(|by| by.len() == 1 && by.contains(&sequence)).count();
        (alone >= messages).then_some(path)
    }))
}

/// What is of interest in a frame.
struct Frame {
    segment: u64,
    lsn: u64,
    head: u64,
    /// The ids of its message records.
    messages: Vec<u64>,
}

fn read_frames(path: &Path, sequence: u64) -> Result<Vec<Frame>> {
    let bytes = front(path, usize::MAX)?;
    let mut frames = Vec::new();
    let mut at = BLOCK;
    while let Some(frame) = bytes.get(at..) {
        let (Some(lsn), Some(head), Some(len)) =
            (number(frame, 24, 8), number(frame, 32, 8), number(frame, 56, 4))
        else {
            break;
        };
        // Old bytes of a recycled file are frames of another segment.
        if !frame.starts_with(b"RPFR") || number(frame, 16, 8) != Some(sequence) {
            break;
        }
        let end = FRAME_HEADER + usize::try_from(len)?;
        let Some(payload) = frame.get(FRAME_HEADER..end) else { break };
        frames.push(Frame { segment: sequence, lsn, head, messages: messages(payload)? });
        at += end.next_multiple_of(BLOCK);
    }
    Ok(frames)
}

fn messages(mut payload: &[u8]) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    while let Some(len) = number(payload, 4, 4) {
        if payload[0] == KIND_MESSAGE {
            found.extend(number(payload, RECORD_HEADER, 8));
        }
        let Some(rest) = payload.get(RECORD_HEADER + usize::try_from(len)?..) else { break };
        payload = rest;
    }
    Ok(found)
}

/// The files in `directory` with a number in base 16, or 10 where that is the same, behind `prefix`;
/// ascending. A running server may remove any of them at any time.
fn list(directory: &Path, prefix: &str) -> Result<Vec<(PathBuf, u64)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(prefix));
        if let Some(number) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            found.push((directory.join(name), number));
        }
    }
    found.sort_by_key(|(_, number)| *number);
    Ok(found)
}

/// The first octets of a file, fewer where it is shorter; none when it is gone.
fn front(path: &Path, len: usize) -> Result<Vec<u8>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(len as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The little-endian number of `len` octets at `at`.
fn number(bytes: &[u8], at: usize, len: usize) -> Option<u64> {
    let field = bytes.get(at..at + len)?;
    Some(field.iter().rev().fold(0, |number, octet| number << 8 | u64::from(*octet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 5 * BLOCK;

    /// A segment with a header and frames, each of (LSN, head, ids of messages).
    fn segment(sequence: u64, frames: &[(u64, u64, &[u64])]) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[..8].copy_from_slice(b"RINGPOST");
        bytes[24..32].copy_from_slice(&sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&(SIZE as u64).to_le_bytes());
        for (number, (lsn, head, ids)) in frames.iter().enumerate() {
            let frame = &mut bytes[(number + 1) * BLOCK..];
            frame[..4].copy_from_slice(b"RPFR");
            frame[16..24].copy_from_slice(&sequence.to_le_bytes());
            frame[24..32].copy_from_slice(&lsn.to_le_bytes());
            frame[32..40].copy_from_slice(&head.to_le_bytes());
            frame[56..60].copy_from_slice(&(20 * ids.len() as u32).to_le_bytes());
            for (at, id) in ids.iter().enumerate() {
                let record = &mut frame[FRAME_HEADER + at * 20..];
                record[0] = KIND_MESSAGE;
                record[4..8].copy_from_slice(&8_u32.to_le_bytes());
                record[12..20].copy_from_slice(&id.to_le_bytes());
            }
        }
        bytes
    }

    fn write(shard: &Path, sequence: u64, bytes: &[u8]) {
        fs::write(shard.join(format!("segment-{sequence:016x}")), bytes).unwrap();
    }

    #[test]
    fn what_was_cut_short_is_found_and_what_is_whole_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path();
        assert!(segments(&queue.join("not there")).unwrap().is_empty());
        let shard = queue.join("shard-000");
        fs::create_dir(&shard).unwrap();
        write(&shard, 10, &segment(10, &[(1, 10, &[7, 8])]));
        // Written again after a restart, under its old LSN.
        write(&shard, 11, &segment(11, &[(1, 10, &[7, 8]), (2, 10, &[9])]));
        assert_eq!(segments(queue).unwrap().len(), 2);
        assert!(unfinished_segments(queue).unwrap().is_empty());
        assert_eq!(half_moved(queue).unwrap(), 0);
        // A copy behind it; the old frames of a recycled file count for nothing.
        let mut recycled = segment(12, &[(3, 10, &[8])]);
        recycled[2 * BLOCK..3 * BLOCK]
            .copy_from_slice(&segment(5, &[(1, 5, &[7])])[BLOCK..][..BLOCK]);
        write(&shard, 12, &recycled);
        assert_eq!(half_moved(queue).unwrap(), 1);
        let newest_with = |messages| newest_with(messages, &shard).unwrap();
        assert_eq!(newest_with(0), Some(shard.join("segment-000000000000000c")));
        assert_eq!(
            newest_with(1),
            Some(shard.join("segment-000000000000000b")),
            "9 is there alone"
        );
        assert_eq!(newest_with(2), None);
        // Renamed, and its header not written yet; and one that is not filled yet.
        write(&shard, 13, &segment(9, &[]));
        write(&shard, 14, &segment(14, &[])[..BLOCK]);
        assert_eq!(unfinished_segments(queue).unwrap().len(), 2);
        // The head has moved on.
        write(&shard, 15, &segment(15, &[(4, 11, &[])]));
        assert_eq!(half_moved(queue).unwrap(), 1, "id 8 is in 11 and in 12");
        write(&shard, 15, &segment(15, &[(4, 12, &[])]));
        assert_eq!(half_moved(queue).unwrap(), 0);
        assert!(unfinished_checkpoints(queue).unwrap().is_empty());
        fs::write(shard.join("checkpoint-0"), b"RINGCKPT...").unwrap();
        fs::write(shard.join("checkpoint-1"), [0; BLOCK]).unwrap();
        let unfinished = unfinished_checkpoints(queue).unwrap();
        let unfinished: Vec<_> = unfinished.into_iter().map(|(path, _)| path).collect();
        assert_eq!(unfinished, [shard.join("checkpoint-1")]);
    }
}
