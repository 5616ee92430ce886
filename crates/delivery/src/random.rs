//! A deterministic source of randomness, seeded by the caller.

use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// Produces pseudo-random numbers from a seed and a counter.
///
/// Each number is a keyed hash of the counter, so a peer that sees some of them (a DNS id, a
/// retry delay) cannot work out the others. The same seed gives the same sequence.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    seed: u64,
    counter: u64,
}

impl Random {
    /// Starts the sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, counter: 0 }
    }

    /// Returns the next number.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write_u64(self.counter);
        hasher.finish()
    }

    /// Returns a number below `bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        // The bias of the remainder is far below what any caller could notice.
        (self.next_u64() % bound as u64) as usize
    }

    /// Returns a fresh DNS message id.
    pub(crate) fn next_u16(&mut self) -> u16 {
        (self.next_u64() >> 48) as u16
    }

    /// Splits off an independent sequence.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }
}

/// Builds hashers keyed by a seed: tables with keys that strangers choose stay fast, and the
/// order of their entries is the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct SeededState(u64);

impl SeededState {
    /// Keys the hashers with `random`'s next number.
    pub(crate) fn new(random: &mut Random) -> Self {
        Self(random.next_u64())
    }
}

impl BuildHasher for SeededState {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

/// A hash map with seeded hashing.
pub(crate) type SeededMap<K, V> = std::collections::HashMap<K, V, SeededState>;
/// A hash set with seeded hashing.
pub(crate) type SeededSet<K> = std::collections::HashSet<K, SeededState>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn below_stays_below() {
        let mut random = Random::new(3);
        assert_eq!(random.below(0), 0);
        assert!((0..1000).all(|_| random.below(7) < 7));
    }
}
