//! The one source of randomness.
//!
//! Everything that a run draws comes from its seed. A part of the world gets a generator of its own by a
//! label, so that one more draw in one part does not shift what the others draw.

use std::{ops::RangeInclusive, time::Duration};

/// A seeded generator (`SplitMix64`: one addition and a mix for each number). A clone repeats it.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Starts the sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed ^ 0x5851_F42D_4C95_7F2D) }
    }

    /// An independent sequence, named by a label; the same label gives the same one. Draws nothing.
    #[must_use]
    pub fn fork(&self, label: &str) -> Self {
        let name = label.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01B3)
        });
        Self { state: mix(self.state.rotate_left(17) ^ mix(name)) }
    }

    /// An independent sequence, named by a label and a number. Draws nothing.
    #[must_use]
    pub fn fork_number(&self, label: &str, number: u64) -> Self {
        let named = self.fork(label);
        Self { state: mix(named.state ^ mix(number.wrapping_add(1))) }
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: no division, and no bias that anybody could notice.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index into `len` things; 0 when there are none.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// A number of a range.
    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = range.into_inner();
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True in so many of 100 cases.
    pub fn percent(&mut self, percent: u8) -> bool {
        percent > 0 && self.below(100) < u64::from(percent)
    }

    /// True in so many of 1,000,000 cases.
    pub fn ppm(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// True in half of the cases.
    pub fn coin(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// A time of a range, both ends included.
    pub fn duration(&mut self, low: Duration, high: Duration) -> Duration {
        if low >= high {
            return low;
        }
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.within(nanos(low)..=nanos(high)))
    }

    /// One of these; `None` when there are none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.index(of.len()))
    }
}

/// Spreads every bit of a number over all of them, one to one.
pub(crate) fn mix(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_a_label_is_another() {
        let draw = |mut random: Random| -> Vec<u64> { (0..8).map(|_| random.next_u64()).collect() };
        let root = Random::new(7);
        assert_eq!(draw(root.clone()), draw(Random::new(7)));
        let sequences = [
            draw(root.clone()),
            draw(Random::new(8)),
            draw(root.fork("net")),
            draw(root.fork("disk")),
            draw(root.fork_number("net", 0)),
            draw(root.fork_number("net", 1)),
        ];
        for (at, one) in sequences.iter().enumerate() {
            assert!(sequences.iter().skip(at + 1).all(|other| one != other), "{at}");
        }
    }

    #[test]
    fn a_fork_does_not_depend_on_what_others_draw() {
        let root = Random::new(1);
        let mut busy = root.fork("a");
        let before = root.fork("b").next_u64();
        (0..100).for_each(|_| _ = busy.next_u64());
        assert_eq!(root.fork("b").next_u64(), before);
    }

    #[test]
    fn bounds_hold_and_all_of_a_range_comes() {
        let mut random = Random::new(3);
        let mut seen = [0; 6];
        for _ in 0..6000 {
            seen[random.within(0..=5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (800..1200).contains(count)), "{seen:?}");
        assert_eq!((random.below(0), random.index(0), random.within(4..=4)), (0, 0, 4));
        assert!(!random.percent(0) && random.percent(100));
        let hits = (0..100_000).filter(|_| random.ppm(10_000)).count();
        assert!((800..1200).contains(&hits), "{hits}");
        let (low, high) = (Duration::from_millis(2), Duration::from_millis(3));
        assert!((0..100).all(|_| (low..=high).contains(&random.duration(low, high))));
    }
}
