//! When a deferred recipient is tried again.

use std::time::Duration;

/// How long to wait after each failed attempt.
///
/// The first delay follows the first attempt; the last one repeats until the message expires.
/// Each delay is spread by up to `jitter_percent` either way, so that mail that was deferred
/// together does not come back together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySchedule {
    /// Delays in the order of the attempts. Default: 5, 10, 20, 40 minutes, then 1, 2, 4 hours.
    /// An empty list means one minute each time.
    pub delays: Vec<Duration>,
    /// Spread of each delay in percent, at most 100. Default: 10.
    pub jitter_percent: u8,
}

impl Default for RetrySchedule {
    fn default() -> Self {
        let minutes = [5, 10, 20, 40, 60, 120, 240];
        Self {
            delays: minutes.into_iter().map(|n| Duration::from_secs(n * 60)).collect(),
            jitter_percent: 10,
        }
    }
}

/// Delay when the schedule is empty.
const DELAY_FALLBACK: Duration = Duration::from_mins(1);

impl RetrySchedule {
    /// Returns the delay after `attempts` attempts (1 after the first), spread by `random`.
    pub fn delay(&self, attempts: u16, random: u64) -> Duration {
        let index = usize::from(attempts.saturating_sub(1));
        let delay = self.delays.get(index).or(self.delays.last());
        let base = delay.map_or(DELAY_FALLBACK.as_millis(), Duration::as_millis);
        let spread = base * u128::from(self.jitter_percent.min(100)) / 100;
        let offset = u128::from(random) % (2 * spread + 1);
        Duration::from_millis(u64::try_from(base - spread + offset).unwrap_or(u64::MAX))
    }

    /// Returns when to try again, or `None` when the message has expired.
    ///
    /// The last try falls on the expiry itself, so no message gives up with time left, and
    /// none is kept past it.
    pub fn due_unix_ms(
        &self,
        attempts: u16,
        now_unix_ms: u64,
        expiry_unix_ms: u64,
        random: u64,
    ) -> Option<u64> {
        if now_unix_ms >= expiry_unix_ms {
            return None;
        }
        let delay = u64::try_from(self.delay(attempts, random).as_millis()).unwrap_or(u64::MAX);
        // At least one millisecond ahead: a zero delay must not turn into a busy loop.
        Some(now_unix_ms.saturating_add(delay.max(1)).min(expiry_unix_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn schedule(seconds: &[u64], jitter_percent: u8) -> RetrySchedule {
        let delays = seconds.iter().copied().map(Duration::from_secs).collect();
        RetrySchedule { delays, jitter_percent }
    }

    #[test]
    fn delays_follow_the_list_and_the_last_one_repeats() {
        let schedule = schedule(&[1, 2, 4], 0);
        let delays: Vec<u64> = (0..6).map(|n| schedule.delay(n, 99).as_secs()).collect();
        assert_eq!(delays, [1, 1, 2, 4, 4, 4]);
    }

    #[test]
    fn an_empty_schedule_waits_a_minute() {
        assert_eq!(schedule(&[], 0).delay(3, 0), DELAY_FALLBACK);
    }

    #[test]
    fn the_last_try_falls_on_the_expiry() {
        let schedule = schedule(&[100], 0);
        assert_eq!(schedule.due_unix_ms(1, 1_000, 500_000, 0), Some(101_000));
        assert_eq!(schedule.due_unix_ms(1, 450_000, 500_000, 0), Some(500_000));
        assert_eq!(schedule.due_unix_ms(1, 500_000, 500_000, 0), None);
    }

    proptest! {
        #[test]
        fn jitter_stays_in_its_bounds(attempts: u16, random: u64, jitter in 0_u8..=100) {
            let plain = schedule(&[10, 1000, 7], 0).delay(attempts, random).as_millis();
            let spread = schedule(&[10, 1000, 7], jitter).delay(attempts, random).as_millis();
            prop_assert!(spread.abs_diff(plain) <= plain * u128::from(jitter) / 100);
        }

        #[test]
        fn due_is_ahead_of_now_and_not_past_the_expiry(
            attempts: u16, random: u64, now in 0_u64..1 << 50, left in 1_u64..1 << 40,
        ) {
            let due = RetrySchedule::default().due_unix_ms(attempts, now, now + left, random);
            prop_assert!(due.is_some_and(|due| due > now && due <= now + left));
        }
    }
}
