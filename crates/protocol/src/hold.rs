//! Messages that are to be sent later (RFC 4865).

use std::time::Duration;

use crate::limits::HOLD_SECONDS_MAX;
use crate::time::{UNIX_SECONDS_MAX, parse_rfc3339, parse_rfc5322};

/// Until when a message is to be held, as MAIL says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hold {
    /// `HOLDFOR=`: for so long from the time that it is received. Whole seconds, 1 to
    /// [`HOLD_SECONDS_MAX`].
    For(Duration),
    /// `HOLDUNTIL=`: until then, in milliseconds of Unix time. May be past, which holds nothing.
    Until {
        /// The time.
        unix_ms: u64,
    },
}

impl Hold {
    /// Reads the value of `HOLDFOR=`: one to nine digits, the first of them not 0.
    pub fn parse_for(text: &str) -> Option<Self> {
        let well_formed = (1..=9).contains(&text.len())
            && !text.starts_with('0')
            && text.bytes().all(|b| b.is_ascii_digit());
        let seconds = well_formed.then(|| text.parse().ok()).flatten()?;
        Some(Self::For(Duration::from_secs(seconds)))
    }

    /// Reads the value of `HOLDUNTIL=`: a `date-time` of RFC 3339 §5.6.
    pub fn parse_until(text: &str) -> Option<Self> {
        parse_rfc3339(text).map(|unix_ms| Self::Until { unix_ms })
    }

    /// Reads what applications write into a header field: a date of RFC 5322 §3.3, a `date-time` of
    /// RFC 3339 §5.6, or seconds of Unix time. The text may be folded.
    pub fn parse_field(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?.trim_ascii();
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let unix_ms = if is_number {
            let seconds: u64 = text.parse().ok().filter(|seconds| *seconds <= UNIX_SECONDS_MAX)?;
            seconds * 1000
        } else {
            parse_rfc3339(text).or_else(|| parse_rfc5322(text))?
        };
        Some(Self::Until { unix_ms })
    }

    /// When a message received at `received_unix_ms` may be sent, in milliseconds of Unix time: never
    /// before it is received.
    pub fn release_unix_ms(self, received_unix_ms: u64) -> u64 {
        match self {
            Self::For(time) => received_unix_ms.saturating_add(millis(time)),
            Self::Until { unix_ms } => unix_ms.max(received_unix_ms),
        }
    }

    /// Whether this is no longer than `max` from `now_unix_ms` on.
    pub fn is_within(self, max: Duration, now_unix_ms: u64) -> bool {
        match self {
            Self::For(time) => time <= max,
            Self::Until { unix_ms } => unix_ms <= now_unix_ms.saturating_add(millis(max)),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How far ahead a server lets messages be scheduled, as it says in its reply to EHLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HoldOffer {
    /// The longest time in whole seconds, 1 to [`HOLD_SECONDS_MAX`].
    pub seconds_max: u32,
    /// The latest time in seconds of Unix time.
    pub until_unix_seconds: u64,
}

impl HoldOffer {
    /// The offer of a server that holds messages for at most `max`, of which it takes whole seconds;
    /// `None` when that is less than one.
    pub fn new(max: Duration, now_unix_ms: u64) -> Option<Self> {
        let seconds_max = u32::try_from(max.as_secs()).unwrap_or(u32::MAX).min(HOLD_SECONDS_MAX);
        let until_unix_ms = now_unix_ms.saturating_add(u64::from(seconds_max) * 1000);
        (seconds_max > 0).then_some(Self { seconds_max, until_unix_seconds: until_unix_ms / 1000 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn intervals_are_read() {
        for (text, seconds) in [
            ("1", Some(1)),
            ("60", Some(60)),
            ("604800", Some(604_800)),
            ("999999999", Some(u64::from(HOLD_SECONDS_MAX))),
            ("", None),
            ("0", None),
            ("01", None),
            ("1000000000", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("1h", None),
            (" 1", None),
        ] {
            let expected = seconds.map(|seconds| Hold::For(Duration::from_secs(seconds)));
            assert_eq!(Hold::parse_for(text), expected, "{text:?}");
        }
    }

    #[test]
    fn fields_of_applications_are_read() {
        for (text, unix_ms) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("0", Some(0)),
            ("253402300799", Some(253_402_300_799_000)),
            (" Tue, 14 Nov 2023 22:13:20 +0000\r\n", Some(1_700_000_000_000)),
            ("Tue, 14 Nov 2023\r\n\t22:13:20 +0000 (UTC)", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20.5Z", Some(1_700_000_000_500)),
            ("", None),
            // Milliseconds, most likely.
            ("1700000000000", None),
            ("99999999999999999999999", None),
            ("-1700000000", None),
            ("1700000000.5", None),
            ("17000\r\n 00000", None),
            ("in an hour", None),
            ("2023-11-14", None),
        ] {
            let expected = unix_ms.map(|unix_ms| Hold::Until { unix_ms });
            assert_eq!(Hold::parse_field(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(Hold::parse_field(b"\xff"), None);
    }

    #[test]
    fn a_release_is_never_before_the_receipt() {
        assert_eq!(Hold::For(Duration::from_secs(2)).release_unix_ms(5_500), 7_500);
        assert_eq!(Hold::Until { unix_ms: 5_501 }.release_unix_ms(5_500), 5_501);
        assert_eq!(Hold::Until { unix_ms: 5_499 }.release_unix_ms(5_500), 5_500);
        assert_eq!(Hold::For(Duration::from_secs(2)).release_unix_ms(u64::MAX), u64::MAX);
    }

    proptest! {
        /// What is offered can be asked for, and not a second more.
        #[test]
        fn an_offer_is_kept(seconds in 1..=HOLD_SECONDS_MAX, now in 0..4_000_000_000_000_u64) {
            let max = Duration::from_secs(seconds.into());
            let offer = HoldOffer::new(max, now).unwrap();
            prop_assert_eq!(offer.seconds_max, seconds);
            for (more, within) in [(0, true), (1, false)] {
                let hold = Hold::For(Duration::from_secs(u64::from(seconds) + more));
                prop_assert_eq!(hold.is_within(max, now), within);
                let unix_ms = (offer.until_unix_seconds + more) * 1000;
                prop_assert_eq!(Hold::Until { unix_ms }.is_within(max, now), within);
            }
        }
    }

    #[test]
    fn less_than_a_second_is_not_offered() {
        assert_eq!(HoldOffer::new(Duration::ZERO, 1), None);
        assert_eq!(HoldOffer::new(Duration::from_millis(999), 1), None);
        let offer = HoldOffer::new(Duration::MAX, 0).unwrap();
        assert_eq!(offer.seconds_max, HOLD_SECONDS_MAX);
    }
}
