//! Segments: the files of a log, their headers, names and births.
//!
//! ```text
//! offset  size  header of a segment
//!      0     8  magic "RINGPOST"
//!      8     2  format version
//!     10     2  shard
//!     12     4  flags: bit 0, the file was recycled and is full of old bytes
//!     16     8  log id
//!     24     8  sequence of the segment
//!     32     8  size of the segment in octets
//!     40        zeros
//!   4092     4  checksum (CRC-32C) of bytes 0 to 4092
//!   4096        frames
//! ```

use std::fmt;
use std::io;

use crate::codec::{Fields, checksum, put};
use crate::frame::BLOCK_SIZE;
use crate::id::ShardId;
use crate::storage::Storage;

/// Version of everything this crate writes to disk.
pub const FORMAT_VERSION: u16 = 3;
/// The oldest version that it still reads.
pub const FORMAT_VERSION_MIN: u16 = 1;

/// Whether this crate reads what was written by a version.
pub(crate) fn is_readable(version: u16) -> bool {
    (FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version)
}

const MAGIC: [u8; 8] = *b"RINGPOST";
const FLAG_RECYCLED: u32 = 1;
const CHECKSUM_AT: usize = 4092;
const NAME_PREFIX: &str = "segment-";

/// The highest number that anything is given: no log comes that far, and what is counted on from it does
/// not overflow.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// The number of a segment: later ones have higher numbers, none is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentSequence(pub u64);

impl SegmentSequence {
    /// The name of its file within the directory of its shard.
    pub fn file_name(self) -> String {
        format!("{NAME_PREFIX}{:016x}", self.0)
    }

    /// Reads the name of a file; `None` if it is no segment.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(NAME_PREFIX)?;
        let sequence = Self(u64::from_str_radix(digits, 16).ok()?);
        // Only the one spelling that we write: no sign, no other length, no upper case.
        (sequence.file_name() == name && sequence.0 <= NUMBER_MAX).then_some(sequence)
    }

    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SegmentSequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Which log something belongs to. Bytes of another one never pass for ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogIdentity {
    /// A number drawn at random when the queue was created. Nobody outside knows it, so that the
    /// content of a message cannot pretend to be a frame.
    pub log_id: u64,
    /// The shard within the queue.
    pub shard: ShardId,
}

/// What the header of a segment says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u16,
    pub(crate) identity: LogIdentity,
    pub(crate) recycled: bool,
    pub(crate) sequence: SegmentSequence,
    pub(crate) size: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_SIZE as usize];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, self.version.to_le_bytes());
        put(&mut bytes, 10, self.identity.shard.0.to_le_bytes());
        put(&mut bytes, 12, (if self.recycled { FLAG_RECYCLED } else { 0 }).to_le_bytes());
        put(&mut bytes, 16, self.identity.log_id.to_le_bytes());
        put(&mut bytes, 24, self.sequence.0.to_le_bytes());
        put(&mut bytes, 32, self.size.to_le_bytes());
        let sum = checksum(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, sum.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if it is none, or damaged.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let sum = u32::from_le_bytes(block.get(CHECKSUM_AT..)?.get(..4)?.try_into().ok()?);
        let block = block.get(..CHECKSUM_AT)?;
        let mut fields = Fields::new(block);
        if fields.bytes(8)? != MAGIC || checksum(block) != sum {
            return None;
        }
        let version = fields.u16()?;
        let shard = ShardId(fields.u16()?);
        let recycled = fields.u32()? & FLAG_RECYCLED != 0;
        let identity = LogIdentity { log_id: fields.u64()?, shard };
        let sequence = SegmentSequence(fields.u64()?);
        Some(Self { version, identity, recycled, sequence, size: fields.u64()? })
    }
}

/// Something to be done with a segment file, away from the path of the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentTask {
    /// Make a new, zero-filled segment.
    Create {
        /// Its sequence.
        sequence: SegmentSequence,
        /// Its size in octets.
        size: u64,
        /// The log it is for.
        identity: LogIdentity,
    },
    /// Turn a segment that nothing needs any more into a new one.
    Recycle {
        /// The sequence it had.
        old: SegmentSequence,
        /// The sequence it gets.
        new: SegmentSequence,
        /// Its size in octets, which does not change.
        size: u64,
        /// The log it is for.
        identity: LogIdentity,
    },
    /// Delete a segment that nothing needs any more.
    Remove {
        /// Its sequence.
        sequence: SegmentSequence,
    },
}

/// Does a task, in the order that a crash at any point allows; returns the new segment, if any.
///
/// A new segment may be written to when this has returned, and not before: its zeros, its name in
/// the directory and its header are durable then.
///
/// # Errors
///
/// That of the storage. What was created is removed again as far as possible; tell
/// [`Queue::handle_segment`](crate::Queue::handle_segment), which never uses this file, and has what
/// is left of a recycled one deleted.
///
/// # Cancel safety
///
/// Not to be dropped before it is done: the task would count as in progress for ever.
pub async fn run_task<S: Storage>(storage: &S, task: &SegmentTask) -> io::Result<Option<S::File>> {
    match *task {
        SegmentTask::Create { sequence, size, identity } => {
            let name = sequence.file_name();
            let born: io::Result<S::File> = async {
                let file = storage.create(&name, size).await?;
                let header = SegmentHeader {
                    version: FORMAT_VERSION,
                    identity,
                    recycled: false,
                    sequence,
                    size,
                };
                write_header(storage, &file, &header).await?;
                Ok(file)
            }
            .await;
            match born {
                Ok(file) => Ok(Some(file)),
                // Somebody else's file: not ours to delete.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
                Err(error) => {
                    // Most likely the disk is full: do not leave half a segment on it. Whether this
                    // works does not matter, recovery knows such files.
                    let _ = storage.remove(&name).await;
                    Err(error)
                }
            }
        }
        SegmentTask::Recycle { old, new, size, identity } => {
            // Nothing may be written to it before the name is durable: a power cut would give the
            // frames the name of a segment that is not needed any more.
            storage.rename(&old.file_name(), &new.file_name()).await?;
            storage.sync_directory().await?;
            let file = storage.open(&new.file_name()).await?;
            let header = SegmentHeader {
                version: FORMAT_VERSION,
                identity,
                recycled: true,
                sequence: new,
                size,
            };
            write_header(storage, &file, &header).await?;
            Ok(Some(file))
        }
        SegmentTask::Remove { sequence } => {
            match storage.remove(&sequence.file_name()).await {
                // Done by an earlier try, or never there: it may have had another name.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
            storage.sync_directory().await?;
            Ok(None)
        }
    }
}

async fn write_header<S: Storage>(
    storage: &S,
    file: &S::File,
    header: &SegmentHeader,
) -> io::Result<()> {
    let bytes = header.encode();
    let len = bytes.len();
    match storage.write(file, 0, bytes).await.0? {
        written if written == len => Ok(()),
        _ => Err(io::Error::from(io::ErrorKind::WriteZero)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            version: FORMAT_VERSION,
            identity: LogIdentity { log_id: 77, shard: ShardId(3) },
            recycled: true,
            sequence: SegmentSequence(0x1234),
            size: 1 << 20,
        }
    }

    #[test]
    fn names_round_trip_and_others_are_no_segments() {
        for number in [0, 1, 0xABCD, NUMBER_MAX] {
            let sequence = SegmentSequence(number);
            assert_eq!(SegmentSequence::from_file_name(&sequence.file_name()), Some(sequence));
        }
        for name in [
            "",
            "segment-",
            "segment-1",
            "segment-000000000000000G",
            "segment-00000000000000AB",
            "segment-+00000000000000a",
            "lost+found",
            "segment-00000000000000001",
            "segment-ffffffffffffffff",
        ] {
            assert_eq!(SegmentSequence::from_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn headers_round_trip_and_every_changed_bit_is_noticed() {
        let good = header().encode();
        assert_eq!(SegmentHeader::decode(&good), Some(header()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), None, "bit {bit}");
        }
        for len in [0, 8, 4091, 4095] {
            assert_eq!(SegmentHeader::decode(&good[..len]), None);
        }
    }

    proptest! {
        #[test]
        fn headers_of_any_numbers_round_trip(numbers in any::<[u64; 3]>(), shard in any::<u16>(), recycled: bool) {
            let given = SegmentHeader {
                version: FORMAT_VERSION,
                identity: LogIdentity { log_id: numbers[0], shard: ShardId(shard) },
                recycled,
                sequence: SegmentSequence(numbers[1]),
                size: numbers[2],
            };
            prop_assert_eq!(SegmentHeader::decode(&given.encode()), Some(given));
        }
    }
}
