//! A timer wheel for very many things that wait for minutes to hours.

use std::collections::BTreeMap;

use crate::blocks::BlockQueue;

/// Milliseconds that one bucket spans.
pub const DUE_STEP_MS: u64 = 1000;

/// Things waiting for their time, in buckets of one second. A bucket is a queue in blocks, so that
/// millions of things in one bucket are never moved.
///
/// Nothing comes out before its time, and each thing comes out at the first poll of the second after
/// it: up to [`DUE_STEP_MS`] late. Things of one bucket come out in the order they went in. The clock
/// is whatever the caller counts in milliseconds; it may be Unix time.
///
/// Contract:
///
/// - A, getters: [`len`](Self::len), [`is_empty`](Self::is_empty), [`next_due`](Self::next_due).
/// - C, commands: [`insert`](Self::insert), [`retain_some`](Self::retain_some),
///   [`clear`](Self::clear).
/// - D, polls: [`poll`](Self::poll), until it gives nothing.
#[derive(Debug, Clone)]
pub struct DueWheel<T> {
    buckets: BTreeMap<u64, BlockQueue<T>>,
    len: usize,
}

/// A place in a wheel, for [`DueWheel::retain_some`]. The default is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueCursor {
    bucket: u64,
    block: i64,
}

impl Default for DueCursor {
    fn default() -> Self {
        Self { bucket: 0, block: i64::MIN }
    }
}

impl<T> Default for DueWheel<T> {
    fn default() -> Self {
        Self { buckets: BTreeMap::new(), len: 0 }
    }
}

impl<T> DueWheel<T> {
    /// Makes an empty wheel.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The earliest time in milliseconds at which [`DueWheel::poll`] gives something.
    pub fn next_due(&self) -> Option<u64> {
        self.buckets.keys().next().map(|bucket| bucket.saturating_mul(DUE_STEP_MS))
    }

    /// Adds something that is due at `due_ms`.
    pub fn insert(&mut self, due_ms: u64, item: T) {
        // Rounded up, so that nothing is early.
        self.buckets.entry(due_ms.div_ceil(DUE_STEP_MS)).or_default().push_back(item, 0);
        self.len += 1;
    }

    /// Takes out one thing that is due at `now_ms`, those of the earliest bucket first.
    pub fn poll(&mut self, now_ms: u64) -> Option<T> {
        let mut first = self.buckets.first_entry()?;
        if *first.key() > now_ms / DUE_STEP_MS {
            return None;
        }
        let item = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Shows some of what is behind `cursor` to `keep`, a few dozen things at most: what it refuses
    /// goes. Gives how many things it was shown, or `None` at the end.
    ///
    /// What comes in at an earlier time while a cursor moves on is not shown.
    pub fn retain_some(
        &mut self,
        cursor: &mut DueCursor,
        keep: impl FnMut(&mut T) -> bool,
    ) -> Option<usize> {
        let (&bucket, queue) = self.buckets.range_mut(cursor.bucket..).next()?;
        let blocks = queue.blocks();
        let first = if bucket == cursor.bucket { cursor.block } else { i64::MIN };
        let block = first.max(blocks.start);
        if block >= blocks.end {
            *cursor = DueCursor { bucket: bucket.checked_add(1)?, block: i64::MIN };
            return Some(0);
        }
        let before = queue.len();
        let seen = queue.retain(block, keep);
        self.len -= before - queue.len();
        if queue.is_empty() {
            self.buckets.remove(&bucket);
        }
        *cursor = DueCursor { bucket, block: block + 1 };
        Some(seen)
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.buckets.clear();
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_is_early_and_little_is_late() {
        let mut wheel = DueWheel::new();
        wheel.insert(1500, "b");
        wheel.insert(1000, "a");
        wheel.insert(1501, "c");
        assert_eq!(wheel.next_due(), Some(1000));
        assert_eq!(wheel.poll(999), None);
        assert_eq!(wheel.poll(1000), Some("a"));
        assert_eq!(wheel.poll(1999), None);
        assert_eq!(wheel.next_due(), Some(2000));
        assert_eq!((wheel.poll(2000), wheel.poll(2000)), (Some("b"), Some("c")));
        assert_eq!((wheel.poll(9000), wheel.len()), (None, 0));
    }

    #[test]
    fn everything_is_shown_once_in_small_steps() {
        let mut wheel = DueWheel::new();
        for number in 0..10_000_u64 {
            // Some buckets have many, and many have one.
            wheel.insert(if number % 2 == 0 { 5000 } else { number * 1000 }, number);
        }
        let (mut cursor, mut shown) = (DueCursor::default(), Vec::new());
        while let Some(seen) = wheel.retain_some(&mut cursor, |number| {
            shown.push(*number);
            *number % 3 == 0
        }) {
            assert!(seen <= 64, "{seen} in one step");
        }
        shown.sort_unstable();
        assert_eq!(shown, (0..10_000).collect::<Vec<_>>());
        assert_eq!(wheel.len(), 3334);
        let mut left: Vec<_> = std::iter::from_fn(|| wheel.poll(u64::MAX)).collect();
        left.sort_unstable();
        assert_eq!(left, (0..10_000).step_by(3).collect::<Vec<_>>());
        assert!(wheel.is_empty() && wheel.next_due().is_none());
    }

    proptest! {
        #[test]
        fn behaves_like_a_sorted_list(
            steps in prop::collection::vec((any::<bool>(), 0u64..20_000), 0..200),
        ) {
            let mut wheel = DueWheel::new();
            // The model: everything that waits, as (due, number), in order of insertion.
            let mut waiting: Vec<(u64, usize)> = Vec::new();
            for (number, (insert, time)) in steps.into_iter().enumerate() {
                if insert {
                    wheel.insert(time, (time, number));
                    waiting.push((time, number));
                } else {
                    let mut out = Vec::new();
                    while let Some((due, number)) = wheel.poll(time) {
                        prop_assert!(due <= time, "{due} came out at {time}");
                        out.push((due, number));
                    }
                    let bucket = |due: u64| due.div_ceil(1000);
                    let mut want: Vec<_> = waiting.clone();
                    want.retain(|(due, _)| bucket(*due) * 1000 <= time);
                    waiting.retain(|(due, _)| bucket(*due) * 1000 > time);
                    want.sort_by_key(|(due, number)| (bucket(*due), *number));
                    prop_assert_eq!(out, want);
                }
                prop_assert_eq!(wheel.len(), waiting.len());
                let next = waiting.iter().map(|(due, _)| due.div_ceil(1000) * 1000).min();
                prop_assert_eq!(wheel.next_due(), next);
            }
        }
    }
}
