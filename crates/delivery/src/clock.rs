//! The engine's own time: wall-clock times on their way in and out, the monotonic clock in between.

use std::time::{Duration, Instant};

use crate::attempt::Now;

/// A point in the engine's time, in milliseconds.
///
/// When the engine was made it was the Unix time; since then only the monotonic clock moves it. So
/// a step of the wall clock brings nothing forward and puts nothing off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Stamp(pub(crate) u64);

impl Stamp {
    pub(crate) fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(milliseconds(wait)))
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// No wait is longer: far beyond every lifetime, far from overflow.
const WAIT_MAX: Duration = Duration::from_hours(100 * 366 * 24);

/// Makes stamps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Now,
}

impl Clock {
    pub(crate) fn new(now: Now) -> Self {
        Self { started: now }
    }

    /// The stamp of a moment.
    pub(crate) fn stamp(&self, at: Instant) -> Stamp {
        Stamp(self.started.unix_ms).after(at.saturating_duration_since(self.started.monotonic))
    }

    /// The moment of a stamp, for time-outs; `now` if it has passed.
    pub(crate) fn instant(&self, now: Instant, stamp: Stamp) -> Instant {
        let wait = Duration::from_millis(stamp.0.saturating_sub(self.stamp(now).0));
        now + wait.min(WAIT_MAX)
    }

    /// Takes a time of the wall clock as it is set now.
    pub(crate) fn take(&self, now: Now, unix_ms: u64) -> Stamp {
        let stamp = self.stamp(now.monotonic).0;
        Stamp(if unix_ms >= now.unix_ms {
            stamp.saturating_add(unix_ms - now.unix_ms)
        } else {
            stamp.saturating_sub(now.unix_ms - unix_ms)
        })
    }

    /// Gives a time of the wall clock as it is set now.
    pub(crate) fn tell(&self, now: Now, stamp: Stamp) -> u64 {
        let current = self.stamp(now.monotonic);
        if stamp >= current {
            now.unix_ms.saturating_add(stamp.0 - current.0)
        } else {
            now.unix_ms.saturating_sub(current.0 - stamp.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const YEAR_2040_MS: u64 = 2_208_988_800_000;

    #[test]
    fn a_step_of_the_wall_clock_moves_nothing() {
        let start = Now { monotonic: Instant::now(), unix_ms: YEAR_2040_MS };
        let clock = Clock::new(start);
        let due = clock.take(start, start.unix_ms + 5000);
        for stepped in [start.unix_ms - 86_400_000, start.unix_ms + 86_400_000] {
            let later = Now {
                monotonic: start.monotonic + Duration::from_secs(2),
                unix_ms: stepped + 2000,
            };
            let at = clock.instant(later.monotonic, due);
            assert_eq!(at - start.monotonic, Duration::from_secs(5));
            // What is stored from now on is in the new time.
            assert_eq!(clock.tell(later, due), stepped + 5000);
        }
    }

    proptest! {
        #[test]
        fn times_come_out_as_they_went_in(start: u64, now: u64, passed in 0..1_u64 << 40, time: u64) {
            let start = Now { monotonic: Instant::now(), unix_ms: start >> 20 };
            let clock = Clock::new(start);
            let monotonic = start.monotonic + Duration::from_millis(passed);
            let now = Now { monotonic, unix_ms: now >> 20 };
            let time = time >> 20;
            let stamp = clock.take(now, time);
            // Exact, unless it lies before the beginning of time.
            if stamp.0 > 0 {
                prop_assert_eq!(clock.tell(now, stamp), time);
            }
            prop_assert!(clock.instant(monotonic, Stamp(u64::MAX)) > monotonic);
        }
    }
}
