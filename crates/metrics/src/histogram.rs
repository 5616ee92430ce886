//! A histogram with fixed buckets and fixed memory.

use std::sync::atomic::{AtomicU64, Ordering};

use metrics::HistogramFn;

/// Counts of observations at or below each bound, and their sum.
///
/// Shape: `bounds.len() + 1` counters; the last counts what is above every bound. Only one core
/// records, so no cache line is contended; the control thread reads. A reader may see an observation in
/// its bucket and not yet in the sum, which is what every exposition of live counters has.
#[derive(Debug)]
pub(crate) struct FixedHistogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    /// The sum's bits.
    sum: AtomicU64,
}

impl FixedHistogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0.0_f64.to_bits()),
        }
    }

    pub(crate) fn bounds(&self) -> &'static [f64] {
        self.bounds
    }

    /// Observations in each bucket, not accumulated; the last is the one above every bound.
    pub(crate) fn counts(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed))
    }

    pub(crate) fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

impl HistogramFn for FixedHistogram {
    fn record(&self, value: f64) {
        self.record_many(value, 1);
    }

    fn record_many(&self, value: f64, count: usize) {
        // A NaN would make the sum useless for ever.
        if value.is_nan() {
            return;
        }
        let bucket = self.bounds.iter().take_while(|bound| value > **bound).count();
        if let Some(counter) = self.counts.get(bucket) {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
        let added = value * count as f64;
        let _ = self.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
            Some((f64::from_bits(bits) + added).to_bits())
        });
    }
}
