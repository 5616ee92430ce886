//! How many messages a user may send, in what time.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::units::parse_duration;

/// So many messages in such a time: as many at once, and then one for each part of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Messages, at least 1.
    pub messages: u32,
    /// In which time, at least a second.
    pub period: Duration,
}

impl FromStr for Rate {
    type Err = &'static str;

    /// Reads `1000/1h`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (messages, period) = text.split_once('/').ok_or("not a rate, such as \"1000/1h\"")?;
        let messages: u32 = messages.parse().map_err(|_| "not a number of messages")?;
        let period = parse_duration(period).map_err(|_| "not a duration, such as \"1h\"")?;
        if messages == 0 || period < Duration::from_secs(1) {
            return Err("at least one message, and at least one second");
        }
        Ok(Self { messages, period })
    }
}

impl Rate {
    /// Microseconds that one message stands for, rounded up.
    fn step_us(&self) -> u64 {
        let period = u64::try_from(self.period.as_micros()).unwrap_or(u64::MAX);
        period.div_ceil(u64::from(self.messages))
    }

    /// Microseconds by which the meter may be ahead of the clock when a message comes.
    fn lead_us(&self) -> u64 {
        self.step_us().saturating_mul(u64::from(self.messages) - 1)
    }
}

/// How much of its rate a user has used; shared by all cores, so that the limit is exact.
///
/// It is a point in time: each message moves it on by its share of the period, from now if it lies in the
/// past. One atomic operation a message, and only for users with a rate.
#[derive(Debug, Default)]
pub struct RateMeter(AtomicU64);

impl RateMeter {
    /// Whether one more message may be sent now; counts nothing.
    pub fn has_room(&self, rate: &Rate, unix_ms: u64) -> bool {
        let now = unix_ms.saturating_mul(1000);
        self.0.load(Ordering::Relaxed) <= now.saturating_add(rate.lead_us())
    }

    /// Counts a message, if it may be sent.
    pub fn take(&self, rate: &Rate, unix_ms: u64) -> bool {
        let now = unix_ms.saturating_mul(1000);
        let next = |used: u64| {
            let is_within = used <= now.saturating_add(rate.lead_us());
            is_within.then(|| used.max(now).saturating_add(rate.step_us()))
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let rate = |messages, period| Ok(Rate { messages, period });
        assert_eq!("1000/1h".parse(), rate(1000, Duration::from_hours(1)));
        assert_eq!("1/1s".parse(), rate(1, Duration::from_secs(1)));
        for bad in ["", "1000", "/1h", "1000/", "0/1h", "1/10ms", "-1/1h", "1/1h/1h", "1/h"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn so_many_at_once_and_then_one_by_one() {
        let rate: Rate = "3/30s".parse().unwrap();
        let meter = RateMeter::default();
        let start = 1_700_000_000_000;
        for _ in 0..3 {
            assert!(meter.has_room(&rate, start) && meter.take(&rate, start));
        }
        assert!(!meter.has_room(&rate, start) && !meter.take(&rate, start));
        assert!(!meter.take(&rate, start + 9_999));
        assert!(meter.has_room(&rate, start + 10_000) && meter.take(&rate, start + 10_000));
        assert!(!meter.take(&rate, start + 10_000));
        // After a pause as many at once as in the beginning, and no more.
        let later = start + 3_600_000;
        let taken = (0..10).filter(|_| meter.take(&rate, later)).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn cores_share_the_limit() {
        let rate: Rate = "100/1h".parse().unwrap();
        let meter = RateMeter::default();
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..80).filter(|_| meter.take(&rate, 1_000_000)).count();
            let threads = [(); 4].map(|()| scope.spawn(take));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 100);
    }
}
