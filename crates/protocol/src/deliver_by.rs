//! By when a message is to be delivered (DELIVERBY, RFC 2852).

use std::fmt;

use crate::limits::BY_SECONDS_MAX;

/// What is to become of a message that was not delivered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ByMode {
    /// `R`: it is returned, and not delivered any more.
    Return,
    /// `N`: its originator is told that it is late, and it is delivered all the same.
    Notify,
}

impl ByMode {
    /// A word for it: `return` or `notify`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Return => "return",
            Self::Notify => "notify",
        }
    }
}

/// The value of `BY=`: what a client says, and what the next hop is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByValue {
    /// Seconds that are left, ±[`BY_SECONDS_MAX`]; above 0 with [`ByMode::Return`]. Below 0 the time was
    /// over before, and the originator was told of it.
    pub seconds: i32,
    /// What then.
    pub mode: ByMode,
    /// `T`: the originator is told of each host that takes the message on its way.
    pub trace: bool,
}

impl ByValue {
    /// Reads the value of `BY=` (RFC 2852 §4): a sign if need be, one to nine digits, a semicolon, `R` or
    /// `N`, and `T` or nothing; letters in any case. `None` also for a time that `R` cannot have.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, mode) = text.split_once(';')?;
        let (sign, digits) = match time.strip_prefix('-') {
            Some(digits) => (-1, digits),
            None => (1, time.strip_prefix('+').unwrap_or(time)),
        };
        let well_formed =
            (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        let seconds: i32 = digits.parse().ok().filter(|_| well_formed)?;
        let (mode, trace) = match mode.as_bytes() {
            [mode] => (mode, false),
            [mode, b'T' | b't'] => (mode, true),
            _ => return None,
        };
        let mode = match mode {
            b'R' | b'r' => ByMode::Return,
            b'N' | b'n' => ByMode::Notify,
            _ => return None,
        };
        let value = Self { seconds: sign * seconds, mode, trace };
        (mode == ByMode::Notify || value.seconds > 0).then_some(value)
    }

    /// Whether there is no time left in which the message may be delivered.
    pub fn is_over(self) -> bool {
        self.mode == ByMode::Return && self.seconds <= 0
    }

    /// What is kept of it for a message of which MAIL came at `mail_unix_ms`, in milliseconds of Unix
    /// time.
    pub fn kept(self, mail_unix_ms: u64) -> DeliverBy {
        DeliverBy {
            by_unix_ms: mail_unix_ms.saturating_add_signed(i64::from(self.seconds) * 1000),
            mode: self.mode,
            trace: self.trace,
            is_told: self.seconds < 0,
        }
    }
}

/// As it stands after `BY=`.
impl fmt::Display for ByValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            ByMode::Return => 'R',
            ByMode::Notify => 'N',
        };
        write!(f, "{};{mode}{}", self.seconds, if self.trace { "T" } else { "" })
    }
}

/// By when a message in the queue is to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeliverBy {
    /// The time, in milliseconds of Unix time.
    pub by_unix_ms: u64,
    /// What is to become of it then.
    pub mode: ByMode,
    /// Whether the originator is told of each host that takes the message.
    pub trace: bool,
    /// Whether the time was over when the message came, so that another host has told the originator.
    /// Not to be seen from the times: a message may have taken longer to come in than it had.
    pub is_told: bool,
}

impl DeliverBy {
    /// What the next hop is told at a time, in milliseconds of Unix time: whole seconds that are left,
    /// rounded down so that no hop adds to them. It may be [over](ByValue::is_over): it is too late to hand
    /// the message on then.
    ///
    /// Less than 0 would say that the originator was told that it is late. Unless that `is_told` by now, the
    /// next hop has to do so.
    pub fn value(&self, now_unix_ms: u64, is_told: bool) -> ByValue {
        let left_ms = i128::from(self.by_unix_ms) - i128::from(now_unix_ms);
        let max = i128::from(BY_SECONDS_MAX);
        let min = if is_told || self.is_told { -max } else { 0 };
        let seconds = match self.mode {
            ByMode::Notify => left_ms.div_euclid(1000).clamp(min, max) as i32,
            ByMode::Return => left_ms.div_euclid(1000).clamp(0, max) as i32,
        };
        ByValue { seconds, mode: self.mode, trace: self.trace }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(seconds: i32, mode: ByMode, trace: bool) -> ByValue {
        ByValue { seconds, mode, trace }
    }

    #[test]
    fn values_are_read() {
        for (text, expected) in [
            ("120;R", Some(value(120, ByMode::Return, false))),
            ("+1;rt", Some(value(1, ByMode::Return, true))),
            ("999999999;N", Some(value(BY_SECONDS_MAX, ByMode::Notify, false))),
            ("-999999999;NT", Some(value(-BY_SECONDS_MAX, ByMode::Notify, true))),
            ("0;N", Some(value(0, ByMode::Notify, false))),
            ("007;n", Some(value(7, ByMode::Notify, false))),
            // RFC 2852 §4: not with R.
            ("0;R", None),
            ("-1;R", None),
            ("-0;R", None),
            ("", None),
            (";R", None),
            ("1", None),
            ("1;", None),
            ("1;T", None),
            ("1;RN", None),
            ("1;RTT", None),
            ("1; R", None),
            ("+-1;N", None),
            ("1.5;N", None),
            ("1000000000;N", None),
            ("0000000001;N", None),
            ("1;é", None),
        ] {
            assert_eq!(ByValue::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn time_runs_from_mail_on_and_is_passed_on_as_what_is_left() {
        let kept = value(10, ByMode::Return, true).kept(5_000);
        let expected =
            DeliverBy { by_unix_ms: 15_000, mode: ByMode::Return, trace: true, is_told: false };
        assert_eq!(kept, expected);
        let left = |now| {
            let value = kept.value(now, false);
            (!value.is_over()).then(|| value.to_string())
        };
        assert_eq!(left(5_000).as_deref(), Some("10;RT"));
        assert_eq!(left(5_001).as_deref(), Some("9;RT"));
        assert_eq!(left(14_000).as_deref(), Some("1;RT"));
        // Less than a second cannot be said.
        assert_eq!((left(14_001), left(15_000), left(u64::MAX)), (None, None, None));
        let late = value(-3, ByMode::Notify, false).kept(5_000);
        assert_eq!((late.by_unix_ms, late.is_told), (2_000, true));
        assert_eq!(late.value(7_500, false).to_string(), "-6;N");
        assert_eq!(late.value(u64::MAX, false).seconds, -BY_SECONDS_MAX);
        // What nobody was told of is left to the next hop to tell.
        let untold = value(0, ByMode::Notify, false).kept(5_000);
        assert!(!untold.is_told);
        assert_eq!(untold.value(9_000, false).seconds, 0);
        assert_eq!(untold.value(9_000, true).seconds, -4);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            seconds in -BY_SECONDS_MAX..=BY_SECONDS_MAX, returns: bool, trace: bool,
        ) {
            let mode = if returns { ByMode::Return } else { ByMode::Notify };
            let value = ByValue { seconds, mode, trace };
            let expected = (!returns || seconds > 0).then_some(value);
            prop_assert_eq!(ByValue::parse(&value.to_string()), expected);
        }

        /// However often it is handed on, nobody gets more time than there was.
        #[test]
        fn no_hop_adds_time(seconds in 1..100_000, hops in proptest::collection::vec(0..5000_u64, 1..20)) {
            let first = value(seconds, ByMode::Notify, false).kept(1_000_000_000);
            let (mut by, mut now) = (first, 1_000_000_000);
            for passed in hops {
                now += passed;
                by = by.value(now, true).kept(now);
                prop_assert!(by.by_unix_ms <= first.by_unix_ms);
            }
        }
    }
}
