//! Reads dates that others wrote.

use super::{DAYS, MONTHS, UNIX_SECONDS_MAX};

/// A date and time of day as it is written, with its distance from UTC.
#[derive(Debug, Clone, Copy)]
struct Written {
    year: u32,
    /// 1 to 12.
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
    milliseconds: u32,
    /// Minutes by which the local time is ahead of UTC.
    ahead: i32,
}

impl Written {
    /// Milliseconds since 1970, 0 for all that was before; `None` when there is no such date.
    fn unix_millis(self) -> Option<u64> {
        let leap = self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days_of_month = match self.month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 => 28 + u32::from(leap),
            _ => return None,
        };
        let is_date = (1..=days_of_month).contains(&self.day);
        // A leap second is the first second of the next minute.
        if !is_date || self.hour > 23 || self.minute > 59 || self.second > 60 {
            return None;
        }
        // Years begin on 1 March, as in `Civil`; one calendar of 400 years more keeps them positive.
        let year = i64::from(self.year) + 400 - i64::from(self.month < 3);
        let month_from_march = i64::from((self.month + 9) % 12);
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468 - 146_097;
        let minutes = i64::from(self.hour) * 60 + i64::from(self.minute) - i64::from(self.ahead);
        let seconds = (days * 24 * 60 + minutes) * 60 + i64::from(self.second);
        let Ok(seconds) = u64::try_from(seconds) else { return Some(0) };
        Some(seconds.min(UNIX_SECONDS_MAX) * 1000 + u64::from(self.milliseconds))
    }
}

/// Reads a `date-time` of RFC 3339 §5.6, such as `2026-07-01T08:00:00+02:00`, and nothing else.
///
/// Gives milliseconds since 1970; fractions of one are rounded up, and times before 1970 are 0.
pub fn parse_rfc3339(text: &str) -> Option<u64> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    literal(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    literal(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    literal(&mut rest, b"Tt")?;
    let hour = digits(&mut rest, 2)?;
    literal(&mut rest, b":")?;
    let minute = digits(&mut rest, 2)?;
    literal(&mut rest, b":")?;
    let second = digits(&mut rest, 2)?;
    let mut milliseconds = 0;
    if literal(&mut rest, b".").is_some() {
        let length = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        let (fraction, behind) = rest.split_at(length);
        if fraction.is_empty() {
            return None;
        }
        rest = behind;
        let digit = |at: usize| fraction.get(at).map_or(0, |b| u32::from(b - b'0'));
        milliseconds = digit(0) * 100 + digit(1) * 10 + digit(2);
        let finer = fraction.iter().skip(3).any(|b| *b != b'0');
        milliseconds += u32::from(finer);
    }
    let ahead = match literal(&mut rest, b"Zz+-")? {
        b'Z' | b'z' => 0,
        sign => {
            let hours = digits(&mut rest, 2)?;
            literal(&mut rest, b":")?;
            offset(sign, hours, digits(&mut rest, 2)?)?
        }
    };
    if !rest.is_empty() {
        return None;
    }
    Written { year, month, day, hour, minute, second, milliseconds, ahead }.unix_millis()
}

/// Reads a `date-time` of RFC 5322 §3.3, such as `Wed, 1 Jul 2026 08:00:00 +0200 (CEST)`.
///
/// The day of the week may be missing, and need not be right. Comments are skipped. Of the obsolete
/// forms only the names of zones are read. Gives milliseconds since 1970; times before 1970 are 0.
pub fn parse_rfc5322(text: &str) -> Option<u64> {
    let text = without_comments(text)?;
    let text = match text.split_once(',') {
        Some((day, rest)) if is_one_of(day.trim_ascii(), &DAYS) => rest,
        Some(_) => return None,
        None => &text,
    };
    let mut words = text.split_ascii_whitespace();
    let mut word = || words.next();
    let day = number(word()?, 1..=2)?;
    let name = word()?;
    let month = MONTHS.iter().zip(1..).find(|(month, _)| month.eq_ignore_ascii_case(name))?.1;
    let year = number(word()?, 4..=4)?;
    let mut time = word()?.split(':');
    let hour = number(time.next()?, 2..=2)?;
    let minute = number(time.next()?, 2..=2)?;
    let second = time.next().map_or(Some(0), |second| number(second, 2..=2))?;
    if time.next().is_some() {
        return None;
    }
    let ahead = zone(word()?)?;
    if word().is_some() {
        return None;
    }
    Written { year, month, day, hour, minute, second, milliseconds: 0, ahead }.unix_millis()
}

/// Takes the comments out (RFC 5322 §3.2.2); `None` when one does not end.
fn without_comments(text: &str) -> Option<String> {
    let mut depth = 0_u32;
    let mut outside = String::with_capacity(text.len());
    let mut quoted = false;
    for c in text.chars() {
        match c {
            _ if quoted => quoted = false,
            '\\' if depth > 0 => quoted = true,
            '(' => depth += 1,
            ')' if depth > 0 => {
                depth -= 1;
                outside.push(' ');
            }
            _ if depth > 0 => {}
            c => outside.push(c),
        }
    }
    (depth == 0).then_some(outside)
}

fn zone(text: &str) -> Option<i32> {
    if let Some((sign @ ("+" | "-"), digits)) = text.split_at_checked(1) {
        let number = number(digits, 4..=4)?;
        return offset(*sign.as_bytes().first()?, number / 100, number % 100);
    }
    // RFC 5322 §4.3.
    let names = [
        ("UT", 0),
        ("GMT", 0),
        ("Z", 0),
        ("EDT", -4),
        ("EST", -5),
        ("CDT", -5),
        ("CST", -6),
        ("MDT", -6),
        ("MST", -7),
        ("PDT", -7),
        ("PST", -8),
    ];
    let found = names.iter().find(|(name, _)| name.eq_ignore_ascii_case(text))?;
    Some(found.1 * 60)
}

fn offset(sign: u8, hours: u32, minutes: u32) -> Option<i32> {
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = i32::try_from(hours * 60 + minutes).ok()?;
    Some(if sign == b'-' { -ahead } else { ahead })
}

fn is_one_of(text: &str, names: &[&str]) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(text))
}

/// Reads a number of so many digits.
fn number(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let well_formed = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| text.parse().ok()).flatten()
}

/// Takes a number of just so many digits off the front.
fn digits(rest: &mut &[u8], count: usize) -> Option<u32> {
    let (taken, behind) = rest.split_at_checked(count)?;
    let value = number(std::str::from_utf8(taken).ok()?, count..=count)?;
    *rest = behind;
    Some(value)
}

/// Takes one octet off the front, if it is one of these.
fn literal(rest: &mut &[u8], allowed: &[u8]) -> Option<u8> {
    let (first, behind) = rest.split_first()?;
    allowed.contains(first).then(|| *rest = behind)?;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{write_rfc3339, write_rfc3339_seconds, write_rfc5322};
    use proptest::prelude::*;

    #[test]
    fn rfc3339() {
        let table = [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01t00:00:01z", Some(1000)),
            ("2000-02-29T23:59:59Z", Some(951_868_799_000)),
            ("2038-01-19T03:14:08Z", Some(2_147_483_648_000)),
            ("2023-11-14T22:13:20.045Z", Some(1_700_000_000_045)),
            ("2023-11-14T22:13:20.0450Z", Some(1_700_000_000_045)),
            // Not before: what is left of a millisecond counts as a whole one.
            ("2023-11-14T22:13:20.0450000001Z", Some(1_700_000_000_046)),
            ("2023-11-14T22:13:20.9999Z", Some(1_700_000_001_000)),
            ("2023-11-14T22:13:20.9Z", Some(1_700_000_000_900)),
            ("2023-11-15T00:13:20+02:00", Some(1_700_000_000_000)),
            ("2023-11-14T17:43:20-04:30", Some(1_700_000_000_000)),
            ("2023-11-14T22:13:20-00:00", Some(1_700_000_000_000)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_800_000)),
            ("1969-12-31T23:59:59Z", Some(0)),
            ("0000-01-01T00:00:00Z", Some(0)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("9999-12-31T23:59:59-23:59", Some(253_402_300_799_000)),
            ("", None),
            ("2023-11-14", None),
            ("2023-11-14T22:13:20", None),
            ("2023-11-14 22:13:20Z", None),
            ("2023-11-14T22:13Z", None),
            ("2023-11-14T22:13:20.Z", None),
            ("2023-11-14T22:13:20,5Z", None),
            ("2023-11-14T22:13:20Z ", None),
            (" 2023-11-14T22:13:20Z", None),
            ("2023-11-14T22:13:20+0200", None),
            ("2023-11-14T22:13:20+24:00", None),
            ("2023-11-14T22:13:20+02:60", None),
            ("2023-11-14T24:00:00Z", None),
            ("2023-11-14T22:60:00Z", None),
            ("2023-11-14T22:13:61Z", None),
            ("2023-02-29T00:00:00Z", None),
            ("2100-02-29T00:00:00Z", None),
            ("2023-04-31T00:00:00Z", None),
            ("2023-00-14T22:13:20Z", None),
            ("2023-13-14T22:13:20Z", None),
            ("2023-11-00T22:13:20Z", None),
            ("+023-11-14T22:13:20Z", None),
            ("2023-11-14T22:13:2\u{0660}Z", None),
        ];
        for (text, millis) in table {
            assert_eq!(parse_rfc3339(text), millis, "{text:?}");
        }
    }

    #[test]
    fn rfc5322() {
        let table = [
            ("Thu, 01 Jan 1970 00:00:00 +0000", Some(0)),
            ("Tue, 14 Nov 2023 22:13:20 +0000", Some(1_700_000_000_000)),
            ("15 Nov 2023 00:13:20 +0200", Some(1_700_000_000_000)),
            ("  wed,15 nov 2023\t00:13:20\r\n +0200 (EET)", Some(1_700_000_000_000)),
            ("Tue (a (b\\)) c), 14 Nov 2023 22:13:20 GMT", Some(1_700_000_000_000)),
            ("14 Nov 2023 17:13:20 EST", Some(1_700_000_000_000)),
            ("14 Nov 2023 22:13 +0000", Some(1_699_999_980_000)),
            ("1 Jan 1960 00:00:00 +0000", Some(0)),
            ("", None),
            ("tomorrow", None),
            ("Day, 14 Nov 2023 22:13:20 +0000", None),
            ("14 Nov 23 22:13:20 +0000", None),
            ("14 November 2023 22:13:20 +0000", None),
            ("31 Nov 2023 22:13:20 +0000", None),
            ("14 Nov 2023 22:13:20", None),
            ("14 Nov 2023 22:13:20 +00", None),
            ("14 Nov 2023 22:13:20 +00000", None),
            ("14 Nov 2023 22:13:20 LMT", None),
            ("14 Nov 2023 22:13:20 +2400", None),
            ("14 Nov 2023 22:13:20:00 +0000", None),
            ("14 Nov 2023 2:13:20 +0000", None),
            ("14 Nov 2023 22:13:20 +0000 more", None),
            ("14 Nov 2023 22:13:20 +0000 (open", None),
            ("14 Nov 2023 22:13:20 \u{e9}", None),
        ];
        for (text, millis) in table {
            assert_eq!(parse_rfc5322(text), millis, "{text:?}");
        }
    }

    proptest! {
        /// What one wrote the other reads.
        #[test]
        fn what_we_write_can_be_read(millis in 0..=UNIX_SECONDS_MAX * 1000 + 999) {
            let mut text = Vec::new();
            write_rfc3339(millis, &mut text);
            prop_assert_eq!(parse_rfc3339(std::str::from_utf8(&text).unwrap()), Some(millis));
            text.clear();
            write_rfc3339_seconds(millis / 1000, &mut text);
            let seconds = millis / 1000 * 1000;
            prop_assert_eq!(parse_rfc3339(std::str::from_utf8(&text).unwrap()), Some(seconds));
            text.clear();
            write_rfc5322(millis / 1000, &mut text);
            prop_assert_eq!(parse_rfc5322(std::str::from_utf8(&text).unwrap()), Some(seconds));
        }

        #[test]
        fn any_text_is_read_or_not(text in ".{0,40}", date in "[-0-9TZ:.+ ]{0,30}") {
            for text in [text, date] {
                for read in [parse_rfc3339(&text), parse_rfc5322(&text)] {
                    prop_assert!(read.is_none_or(|millis| millis <= UNIX_SECONDS_MAX * 1000 + 1000));
                }
            }
        }

        /// A zone only moves the clock.
        #[test]
        fn zones_are_taken_off(minutes in 1439..26_000_000_u64, shift in 0..=2878_u64) {
            let mut text = Vec::new();
            write_rfc3339_seconds((minutes + shift - 1439) * 60, &mut text);
            text.pop();
            let text = String::from_utf8(text).unwrap();
            let (sign, ahead) = if shift < 1439 { ('-', 1439 - shift) } else { ('+', shift - 1439) };
            let zoned = format!("{text}{sign}{:02}:{:02}", ahead / 60, ahead % 60);
            prop_assert_eq!(parse_rfc3339(&zoned), Some(minutes * 60_000));
        }
    }
}
