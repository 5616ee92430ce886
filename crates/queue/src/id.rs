//! Names of shards and messages.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::str::FromStr;

use thiserror::Error;

/// Bits of a [`MessageId`] that count the messages of one shard.
pub const SEQUENCE_BITS: u32 = 48;
/// Length of the text form of a [`MessageId`].
pub const MESSAGE_ID_TEXT_LEN: usize = 13;

/// Crockford's base 32: no letter that is read as a digit, and text order is number order.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The number of a shard: one log with one index, owned by one core at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a message, unique over all shards of a queue and all its restarts.
///
/// 16 bits of shard and 48 bits of sequence. Its text, always 13 characters of upper-case base 32,
/// is the queue id that clients, logs and events show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u64);

impl MessageId {
    /// Makes the id of message number `sequence` of a shard; only its low 48 bits count.
    pub const fn new(shard: ShardId, sequence: u64) -> Self {
        Self(((shard.0 as u64) << SEQUENCE_BITS) | (sequence & ((1 << SEQUENCE_BITS) - 1)))
    }

    /// Makes the id that [`MessageId::to_u64`] gave.
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The id as one number.
    pub const fn to_u64(self) -> u64 {
        self.0
    }

    /// The shard that took the message.
    pub const fn shard(self) -> ShardId {
        ShardId((self.0 >> SEQUENCE_BITS) as u16)
    }

    /// The number of the message within its shard.
    pub const fn sequence(self) -> u64 {
        self.0 & ((1 << SEQUENCE_BITS) - 1)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [b'0'; MESSAGE_ID_TEXT_LEN];
        for (place, letter) in text.iter_mut().rev().enumerate() {
            *letter = ALPHABET[(self.0 >> (place * 5) & 31) as usize];
        }
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({self})")
    }
}

/// The text is not a [`MessageId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a queue id: 13 characters of base 32 expected")]
pub struct ParseMessageIdError;

impl FromStr for MessageId {
    type Err = ParseMessageIdError;

    /// Reads the text form, in upper or lower case.
    fn from_str(text: &str) -> Result<Self, ParseMessageIdError> {
        if text.len() != MESSAGE_ID_TEXT_LEN {
            return Err(ParseMessageIdError);
        }
        let mut number: u64 = 0;
        for letter in text.bytes() {
            let value = ALPHABET
                .iter()
                .position(|known| *known == letter.to_ascii_uppercase())
                .ok_or(ParseMessageIdError)?;
            // 13 letters hold 65 bits: the first letter may only be 0 to F.
            if number >> 59 != 0 {
                return Err(ParseMessageIdError);
            }
            number = number << 5 | value as u64;
        }
        Ok(Self(number))
    }
}

/// Hashes ids, which are unique integers already, by one multiplication.
///
/// Deterministic, so that a run can be repeated. A peer cannot choose an id, so it needs no key.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The table takes its bucket from the low bits and its tag from the high ones: mix both.
        let mixed = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A map from [`MessageId`], or any other integer that names something once.
pub type IdMap<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<IdHasher>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_sorts_like_the_number() {
        let ids = [0, 1, 31, 32, 0xFFFF_FFFF, 1 << 48, u64::MAX].map(MessageId::from_u64);
        let texts = ids.map(|id| id.to_string());
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!(text.len(), MESSAGE_ID_TEXT_LEN);
            assert_eq!(text.parse(), Ok(*id));
            assert_eq!(text.to_lowercase().parse(), Ok(*id));
        }
        assert!(texts.is_sorted());
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["", "0", "000000000000", "00000000000000", "G000000000000", "000000000000U"] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseMessageIdError), "{text}");
        }
    }

    #[test]
    fn shard_and_sequence_are_kept_apart() {
        let id = MessageId::new(ShardId(0xABCD), (1 << 48) - 1);
        assert_eq!(id.shard(), ShardId(0xABCD));
        assert_eq!(id.sequence(), (1 << 48) - 1);
        assert_eq!(MessageId::from_u64(id.to_u64()), id);
    }

    #[test]
    fn neighbouring_ids_do_not_collide_in_the_bits_that_tables_use() {
        let mut low = std::collections::BTreeSet::new();
        for sequence in 0..1024u64 {
            let mut hasher = IdHasher::default();
            hasher.write_u64(MessageId::new(ShardId(3), sequence).to_u64());
            low.insert(hasher.finish() & 0xFFFF);
        }
        assert!(low.len() > 1000, "{} distinct buckets", low.len());
    }
}
