//! Reads DER (X.690), as much of it as certificates need.

/// Tags that certificates are made of.
pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// What is left to read of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// Takes the next value; its tag and its octets. `None` at the end, and where there is none.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        // A tag of more than one octet, which certificates do not have.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (size, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let size = octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
                (size, rest)
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(size)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// Takes the next value, which is to have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, value)| value)
    }

    /// Takes the next value, which is to be made of others.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(Self)
    }

    /// Takes the next value if it has this tag.
    pub(super) fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.0.first() == Some(&tag) { self.expect(tag) } else { None }
    }
}

/// Reads a `UTCTime` or `GeneralizedTime` as RFC 5280 §4.1.2.5 wants it; seconds since 1970.
pub(super) fn unix_seconds(tag: u8, value: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|octet| octet.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let year: i64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        (GENERALIZED_TIME, 14) => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    let is_good = (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_good = is_good && hour < 24 && minute < 60 && second <= 60;
    let seconds = (hour * 60 + minute) * 60 + second;
    is_good.then(|| days_since_1970(year, month, day) * 86_400 + seconds)
}

/// Days of the Gregorian calendar; the year begins with March, so that the leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_with_their_sizes() {
        let long = [&[SEQUENCE, 0x82, 0x01, 0x00][..], &[7; 256], &[INTEGER, 1, 9]].concat();
        let mut der = Der(&long);
        assert_eq!(der.optional(INTEGER), None);
        assert_eq!(der.enter(SEQUENCE), Some(Der(&[7; 256])));
        assert_eq!(der.optional(INTEGER), Some(&[9][..]));
        assert_eq!(der.next(), None);
        for bad in [
            &[SEQUENCE][..],
            &[SEQUENCE, 2, 0],
            &[SEQUENCE, 0x80, 0, 0],
            &[SEQUENCE, 0x81],
            &[SEQUENCE, 0x84, 0, 0, 0, 0],
            &[SEQUENCE, 0x83, 0xff, 0xff, 0xff, 0],
            &[0x1f, 0x01, 0],
        ] {
            assert_eq!(Der(bad).next(), None, "{bad:?}");
        }
    }

    #[test]
    fn times_are_read() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "240229120000Z", Some(1_709_208_000)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "20500101000000Z", None),
            (UTC_TIME, "2402291200Z", None),
            (UTC_TIME, "241301000000Z", None),
            (UTC_TIME, "240101240000Z", None),
            (UTC_TIME, "240101000000+0000", None),
            (UTC_TIME, "24010100000éZ", None),
            (INTEGER, "240101000000Z", None),
        ] {
            assert_eq!(unix_seconds(tag, text.as_bytes()), expected, "{text}");
        }
    }
}
