//! Names and the `meta` file of a queue directory.
//!
//! ```text
//! queue/
//!   meta            what the queue is: format, number of shards, log id
//!   lock            held by the process that uses the queue
//!   shard-000/      one directory for each shard
//!     segment-0000000000000001
//!     …
//! ```
//!
//! The `meta` file is text, so that an operator can read it:
//!
//! ```text
//! ringpost queue
//! format 3
//! shards 4
//! log-id 9f86d081884c7d65
//! checksum 1b2c3d4e
//! ```
//!
//! It is written once, as the last step of creating a queue, and never changed.

use std::fmt::Write as _;

use thiserror::Error;

use crate::codec::checksum;
use crate::id::ShardId;
use crate::segment::{FORMAT_VERSION, LogIdentity, is_readable};

/// Name of the file that says what a queue directory is.
pub const META_FILE: &str = "meta";
/// Name under which the `meta` file is written before it is renamed.
pub const META_FILE_NEW: &str = "meta.new";
/// Name of the file that the process which uses the queue holds a lock on.
pub const LOCK_FILE: &str = "lock";
/// Most shards that a queue may have.
pub const SHARDS_MAX: u16 = 1024;

const FIRST_LINE: &str = "ringpost queue";

/// The name of the directory of a shard: `shard-000`.
pub fn shard_directory(shard: ShardId) -> String {
    format!("shard-{:03}", shard.0)
}

/// What a queue directory is; fixed when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueMeta {
    /// Number of shards, 1 to [`SHARDS_MAX`].
    pub shards: u16,
    /// A number drawn at random.
    pub log_id: u64,
}

/// The `meta` file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MetaError {
    /// It was written by a version with another format.
    #[error("the queue has format {found}, this version knows format {FORMAT_VERSION}")]
    Format {
        /// The format it has.
        found: u16,
    },
    /// It is damaged, or not ours.
    #[error("the meta file of the queue is damaged")]
    Damaged,
}

impl QueueMeta {
    /// The identity of the log of a shard.
    pub fn identity(&self, shard: ShardId) -> LogIdentity {
        LogIdentity { log_id: self.log_id, shard }
    }

    /// The content of the `meta` file.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "{FIRST_LINE}\nformat {FORMAT_VERSION}\nshards {}\nlog-id {:016x}\n",
            self.shards, self.log_id
        );
        let sum = checksum(text.as_bytes());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "checksum {sum:08x}");
        text.into_bytes()
    }

    /// Reads the `meta` file.
    ///
    /// # Errors
    ///
    /// [`MetaError`]. A damaged file is never taken for a queue that is still to be created.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let text = std::str::from_utf8(bytes).map_err(|_| MetaError::Damaged)?;
        let (front, sum) = text.split_once("checksum ").ok_or(MetaError::Damaged)?;
        if sum != format!("{:08x}\n", checksum(front.as_bytes())) {
            return Err(MetaError::Damaged);
        }
        let mut lines = front.lines();
        let first = lines.next();
        let mut field = |name: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '))
        };
        if first != Some(FIRST_LINE) {
            return Err(MetaError::Damaged);
        }
        let found = field("format").and_then(|text| text.parse().ok()).ok_or(MetaError::Damaged)?;
        if !is_readable(found) {
            return Err(MetaError::Format { found });
        }
        let shards: Option<u16> = field("shards").and_then(|text| text.parse().ok());
        let log_id = field("log-id").and_then(|text| u64::from_str_radix(text, 16).ok());
        match (shards, log_id) {
            (Some(shards @ 1..=SHARDS_MAX), Some(log_id)) => Ok(Self { shards, log_id }),
            _ => Err(MetaError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const META: QueueMeta = QueueMeta { shards: 4, log_id: 0x9f86_d081_884c_7d65 };

    #[test]
    fn meta_round_trips() {
        assert_eq!(QueueMeta::decode(&META.encode()), Ok(META));
        assert!(META.encode().starts_with(b"ringpost queue\nformat 3\nshards 4\nlog-id 9f86"));
    }

    #[test]
    fn every_changed_bit_and_every_cut_of_meta_is_noticed() {
        let good = META.encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(QueueMeta::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert_eq!(QueueMeta::decode(&good[..len]), Err(MetaError::Damaged));
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut text = "ringpost queue\nformat 4\nwhatever\n".to_owned();
        let sum = checksum(text.as_bytes());
        writeln!(text, "checksum {sum:08x}").unwrap();
        assert_eq!(QueueMeta::decode(text.as_bytes()), Err(MetaError::Format { found: 4 }));
    }

    #[test]
    fn directories_sort_by_shard() {
        assert_eq!(shard_directory(ShardId(0)), "shard-000");
        assert_eq!(shard_directory(ShardId(17)), "shard-017");
    }

    proptest! {
        #[test]
        fn any_meta_round_trips(shards in 1..=SHARDS_MAX, log_id in any::<u64>(), noise in ".{0,80}") {
            let meta = QueueMeta { shards, log_id };
            prop_assert_eq!(QueueMeta::decode(&meta.encode()), Ok(meta));
            prop_assert_eq!(QueueMeta::decode(noise.as_bytes()), Err(MetaError::Damaged));
        }
    }
}
