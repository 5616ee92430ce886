//! What is done to the files of a log.

use crc32c::crc32c;
use ringpost_queue::SegmentSequence;
use ringpost_queue::checkpoint::CHECKPOINT_FILES;

use crate::input::Input;

const BLOCK: usize = 4096;

/// Blocks that a file may get.
const BLOCKS_MAX: usize = 32;

/// The files of a log, by name.
pub(super) type Files = Vec<(String, Vec<u8>)>;

/// How a log was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Edited {
    /// Edits that were made.
    pub(super) count: usize,
    /// Checksums were made to fit: nobody can tell that this is not what was written.
    pub(super) is_sealed: bool,
}

/// Makes the edits that an input says: for each an octet that says what, one for the file, and two for
/// the place, and then what it needs.
pub(super) fn edit(files: &mut Files, input: &mut Input<'_>) -> Edited {
    let mut edited = Edited::default();
    while !input.is_empty() && edited.count < 16 && !files.is_empty() {
        let (what, which) = (input.octet() % 13, usize::from(input.octet()) % files.len());
        let place = usize::from(u16::from_le_bytes([input.octet(), input.octet()]));
        edited.count += 1;
        edited.is_sealed |= (8..=11).contains(&what);
        match what {
            6 => drop(files.remove(which)),
            7 => {
                let copy = (name(input.octet()), files[which].1.clone());
                files.retain(|(name, _)| *name != copy.0);
                files.push(copy);
            }
            4 => {
                let from = files[usize::from(input.octet()) % files.len()].1.clone();
                let block = usize::from(input.octet());
                let copy = from.get(block * BLOCK..(block + 1) * BLOCK).unwrap_or_default();
                write(&mut files[which].1, place / BLOCK * BLOCK, copy);
            }
            _ => edit_file(&mut files[which].1, what, place, input),
        }
    }
    edited
}

/// File names that mean something to a queue.
fn name(octet: u8) -> String {
    match octet {
        0 | 1 => CHECKPOINT_FILES[usize::from(octet)].to_owned(),
        2 => "meta".to_owned(),
        // The highest that there can be.
        250.. => SegmentSequence(u64::MAX - u64::from(255 - octet)).file_name(),
        _ => SegmentSequence(u64::from(octet) - 2).file_name(),
    }
}

fn edit_file(file: &mut Vec<u8>, what: u8, place: usize, input: &mut Input<'_>) {
    let value = input.octet();
    match what {
        0 => {
            if let Some(octet) = file.get_mut(place) {
                *octet ^= 1 << (value % 8);
            }
        }
        1 => write(file, place, &[value]),
        2 => write(file, place, input.take(usize::from(value))),
        3 => write(file, place / BLOCK * BLOCK, &[0; BLOCK]),
        5 => {
            let odd = if value < 128 { 0 } else { usize::from(value) };
            file.resize(place / BLOCK % BLOCKS_MAX * BLOCK + odd, 0);
        }
        // A frame: the checksum of all behind its header, and that of the header.
        8 => {
            let start = place / BLOCK * BLOCK;
            let field =
                |at: usize| Some(u32::from_le_bytes(*file.get(start + at..)?.first_chunk()?));
            let len = field(56).unwrap_or(0) as usize;
            let end = (start + 80).saturating_add(len).next_multiple_of(BLOCK);
            if let Some(sum) = file.get(start + 80..end).map(crc32c) {
                write(file, start + 68, &sum.to_le_bytes());
            }
            seal(file, start, 72);
        }
        // The header of a segment or a checkpoint.
        9 | 10 => seal(file, 0, 4092),
        // A record, and where it begins. `value` has the next one sealed as well.
        11 => {
            let mut at = place;
            for _ in 0..=value % 4 {
                let Some(len) = record_len(file, at) else { break };
                let sum = crc32c(&file[at..at + 8]);
                let sum = crc32c::crc32c_append(sum, &file[at + 12..at + 12 + len]);
                write(file, at + 8, &sum.to_le_bytes());
                at += 12 + len;
            }
        }
        _ => {
            let numbers =
                [0, 1, u64::MAX, u64::MAX - 1, 1 << 32, 1 << 48, u64::from(u32::MAX), 1 << 62];
            let number = numbers[usize::from(value) % numbers.len()].to_le_bytes();
            let len = if value < 128 { 8 } else { 4 };
            write(file, place, &number[..len]);
        }
    }
}

fn record_len(file: &[u8], at: usize) -> Option<usize> {
    let len = u32::from_le_bytes(*file.get(at + 4..)?.first_chunk()?) as usize;
    file.get(at + 12..)?.get(..len).map(<[u8]>::len)
}

/// Writes the checksum of the `len` octets from `start` on behind them.
fn seal(file: &mut [u8], start: usize, len: usize) {
    if let Some(sum) = file.get(start..start + len).map(crc32c) {
        write(file, start + len, &sum.to_le_bytes());
    }
}

/// Overwrites what is there of a place.
fn write(file: &mut [u8], at: usize, octets: &[u8]) {
    for (place, octet) in file.iter_mut().skip(at).zip(octets) {
        *place = *octet;
    }
}
