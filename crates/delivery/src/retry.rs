//! When a deferred recipient is tried again.

use std::time::Duration;

use crate::clock::Stamp;

/// How long to wait after each failed attempt.
///
/// Each delay is spread by up to `jitter_percent` either way, so that mail that was deferred
/// together does not come back together.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrySchedule {
    /// The delays before the spread.
    pub delays: RetryDelays,
    /// Spread of each delay in percent, at most 100. Default: 10.
    pub jitter_percent: u8,
}

/// The delays of a [`RetrySchedule`], in the order of the attempts.
#[derive(Debug, Clone, PartialEq)]
pub enum RetryDelays {
    /// The first one follows the first attempt; the last one repeats until the message expires. An
    /// empty list means one minute each time. Default: 5, 10, 20, 40 minutes, then 1, 2, 4 hours.
    List(Vec<Duration>),
    /// Each is a multiple of the one before.
    Exponential {
        /// The delay after the first attempt.
        first: Duration,
        /// What each further one is multiplied by; below 1 counts as 1.
        factor: f64,
        /// The longest delay.
        max: Duration,
    },
}

impl Default for RetrySchedule {
    fn default() -> Self {
        let minutes = [5, 10, 20, 40, 60, 120, 240];
        Self {
            delays: RetryDelays::List(minutes.into_iter().map(Duration::from_mins).collect()),
            jitter_percent: 10,
        }
    }
}

/// Delay when the schedule is empty.
const DELAY_FALLBACK: Duration = Duration::from_mins(1);

impl RetryDelays {
    /// Returns the delay after `attempts` attempts (1 after the first), before the spread.
    pub fn delay(&self, attempts: u16) -> Duration {
        let place = attempts.saturating_sub(1);
        match self {
            Self::List(delays) => {
                let delay = delays.get(usize::from(place)).or(delays.last());
                delay.copied().unwrap_or(DELAY_FALLBACK)
            }
            Self::Exponential { first, factor, max } => {
                // A factor that is no number counts as 1, and what no duration can hold as the longest.
                let seconds = first.as_secs_f64() * factor.max(1.0).powi(i32::from(place));
                Duration::try_from_secs_f64(seconds).unwrap_or(*max).min(*max)
            }
        }
    }
}

impl RetrySchedule {
    /// Returns the delay after `attempts` attempts (1 after the first), spread by `random`.
    pub fn delay(&self, attempts: u16, random: u64) -> Duration {
        let base = self.delays.delay(attempts).as_millis();
        let spread = self.spread(base);
        let offset = u128::from(random) % (2 * spread + 1);
        Duration::from_millis(u64::try_from(base - spread + offset).unwrap_or(u64::MAX))
    }

    /// Returns the longest that [`delay`](Self::delay) may give after `attempts` attempts.
    pub fn delay_max(&self, attempts: u16) -> Duration {
        let base = self.delays.delay(attempts).as_millis();
        Duration::from_millis(u64::try_from(base + self.spread(base)).unwrap_or(u64::MAX))
    }

    fn spread(&self, base_ms: u128) -> u128 {
        base_ms * u128::from(self.jitter_percent.min(100)) / 100
    }

    /// As [`due`](Self::due), or after another delay, with the same spread.
    pub(crate) fn due_or_after(
        &self,
        delay: Option<Duration>,
        attempts: u16,
        now: Stamp,
        expiry: Stamp,
        random: u64,
    ) -> Option<Stamp> {
        let Some(delay) = delay else { return self.due(attempts, now, expiry, random) };
        let delays = RetryDelays::List(vec![delay]);
        Self { delays, jitter_percent: self.jitter_percent }.due(1, now, expiry, random)
    }

    /// Returns when to try again, or `None` when the message has expired.
    ///
    /// The last try falls on the expiry itself, so no message gives up with time left, and
    /// none is kept past it.
    pub(crate) fn due(
        &self,
        attempts: u16,
        now: Stamp,
        expiry: Stamp,
        random: u64,
    ) -> Option<Stamp> {
        if now >= expiry {
            return None;
        }
        // At least one millisecond ahead: a zero delay must not turn into a busy loop.
        let delay = self.delay(attempts, random).max(Duration::from_millis(1));
        Some(now.after(delay).min(expiry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(seconds: &[u64], jitter_percent: u8) -> RetrySchedule {
        let delays = seconds.iter().copied().map(Duration::from_secs).collect();
        RetrySchedule { delays: RetryDelays::List(delays), jitter_percent }
    }

    fn exponential(first: u64, factor: f64, max: u64) -> RetrySchedule {
        let (first, max) = (Duration::from_secs(first), Duration::from_secs(max));
        RetrySchedule { delays: RetryDelays::Exponential { first, factor, max }, jitter_percent: 0 }
    }

    fn seconds(schedule: &RetrySchedule, attempts: std::ops::Range<u16>) -> Vec<u64> {
        attempts.map(|n| schedule.delay(n, 99).as_secs()).collect()
    }

    #[test]
    fn delays_follow_the_list_and_the_last_one_repeats() {
        assert_eq!(seconds(&schedule(&[1, 2, 4], 0), 0..6), [1, 1, 2, 4, 4, 4]);
    }

    #[test]
    fn delays_grow_by_the_factor_up_to_the_longest() {
        assert_eq!(seconds(&exponential(10, 2.0, 60), 0..6), [10, 10, 20, 40, 60, 60]);
        assert_eq!(seconds(&exponential(4, 1.5, 60), 1..6), [4, 6, 9, 13, 20]);
        for factor in [1.0, 0.5, -3.0, f64::NAN] {
            assert_eq!(seconds(&exponential(7, factor, 60), 1..4), [7, 7, 7], "{factor}");
        }
        for factor in [1e300, f64::INFINITY] {
            assert_eq!(seconds(&exponential(7, factor, 60), 1..3), [7, 60], "{factor}");
        }
        assert_eq!(exponential(7, 2.0, 60).delay(u16::MAX, 0), Duration::from_mins(1));
    }

    #[test]
    fn an_empty_schedule_waits_a_minute() {
        assert_eq!(schedule(&[], 0).delay(3, 0), DELAY_FALLBACK);
    }

    #[test]
    fn the_last_try_falls_on_the_expiry() {
        let schedule = schedule(&[100], 0);
        let due = |now| schedule.due(1, Stamp(now), Stamp(500_000), 0);
        assert_eq!(due(1_000), Some(Stamp(101_000)));
        assert_eq!(due(450_000), Some(Stamp(500_000)));
        assert_eq!(due(500_000), None);
    }

    proptest! {
        #[test]
        fn jitter_stays_in_its_bounds(attempts: u16, random: u64, jitter in 0_u8..=100) {
            let plain = schedule(&[10, 1000, 7], 0).delay(attempts, random).as_millis();
            let spread = schedule(&[10, 1000, 7], jitter);
            let delay = spread.delay(attempts, random).as_millis();
            prop_assert!(delay.abs_diff(plain) <= plain * u128::from(jitter) / 100);
            prop_assert!(delay <= spread.delay_max(attempts).as_millis());
        }

        #[test]
        fn due_is_ahead_of_now_and_not_past_the_expiry(
            attempts: u16, random: u64, now in 0_u64..1 << 50, left in 1_u64..1 << 40,
        ) {
            let expiry = Stamp(now + left);
            let due = RetrySchedule::default().due(attempts, Stamp(now), expiry, random);
            prop_assert!(due.is_some_and(|due| due > Stamp(now) && due <= expiry));
        }
    }
}
