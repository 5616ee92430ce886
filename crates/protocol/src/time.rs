//! Dates as texts. All times are UTC.

mod read;

pub use read::{parse_rfc3339, parse_rfc5322};

/// Days of the week, from the one of 1970-01-01.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const SECONDS_PER_DAY: u64 = 86_400;

/// The last second of the year 9999, which has the last four-digit year.
pub(crate) const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

/// A date and time of day in UTC.
struct Civil {
    year: u64,
    /// 1 to 12.
    month: u64,
    /// 1 to 31.
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    weekday: &'static str,
    month_name: &'static str,
}

impl Civil {
    fn from_unix_seconds(seconds: u64) -> Self {
        let seconds = seconds.min(UNIX_SECONDS_MAX);
        let days = seconds / SECONDS_PER_DAY;
        let of_day = seconds % SECONDS_PER_DAY;
        // The calendar repeats every 400 years of 146,097 days. Counting years from 1 March puts the
        // leap day at the end, and the lengths of the months then follow (153 m + 2) / 5.
        let since_march_0000 = days + 719_468;
        let era = since_march_0000 / 146_097;
        let day_of_era = since_march_0000 % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = era * 400 + year_of_era + u64::from(month <= 2);
        Self {
            year,
            month,
            day,
            hour: of_day / 3600,
            minute: of_day / 60 % 60,
            second: of_day % 60,
            weekday: DAYS.get((days % 7) as usize).copied().unwrap_or_default(),
            month_name: MONTHS.get((month - 1) as usize).copied().unwrap_or_default(),
        }
    }
}

/// Appends the date of RFC 5322 §3.3, as in `Thu, 01 Jan 1970 00:00:00 +0000`.
///
/// Times after the year 9999 are written as its last second.
pub fn write_rfc5322(unix_seconds: u64, out: &mut Vec<u8>) {
    let civil = Civil::from_unix_seconds(unix_seconds);
    out.extend_from_slice(civil.weekday.as_bytes());
    out.extend_from_slice(b", ");
    write_padded(civil.day, 2, out);
    out.push(b' ');
    out.extend_from_slice(civil.month_name.as_bytes());
    out.push(b' ');
    write_padded(civil.year, 4, out);
    out.push(b' ');
    write_time_of_day(&civil, out);
    out.extend_from_slice(b" +0000");
}

/// Appends the timestamp of RFC 3339, as in `1970-01-01T00:00:00.000Z`.
///
/// Times after the year 9999 are written as its last second.
pub fn write_rfc3339(unix_millis: u64, out: &mut Vec<u8>) {
    write_rfc3339_up_to_seconds(unix_millis / 1000, out);
    out.push(b'.');
    write_padded(unix_millis % 1000, 3, out);
    out.push(b'Z');
}

/// Appends the timestamp of RFC 3339 in whole seconds, as in `1970-01-01T00:00:00Z`.
///
/// Times after the year 9999 are written as its last second.
pub fn write_rfc3339_seconds(unix_seconds: u64, out: &mut Vec<u8>) {
    write_rfc3339_up_to_seconds(unix_seconds, out);
    out.push(b'Z');
}

fn write_rfc3339_up_to_seconds(unix_seconds: u64, out: &mut Vec<u8>) {
    let civil = Civil::from_unix_seconds(unix_seconds);
    write_padded(civil.year, 4, out);
    out.push(b'-');
    write_padded(civil.month, 2, out);
    out.push(b'-');
    write_padded(civil.day, 2, out);
    out.push(b'T');
    write_time_of_day(&civil, out);
}

fn write_time_of_day(civil: &Civil, out: &mut Vec<u8>) {
    write_padded(civil.hour, 2, out);
    out.push(b':');
    write_padded(civil.minute, 2, out);
    out.push(b':');
    write_padded(civil.second, 2, out);
}

fn write_padded(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let digits = decimal(value, &mut digits);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

/// Writes a number into `buffer` in decimal, without zeros in front, and returns the digits.
pub fn decimal(mut value: u64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut start = buffer.len();
    for (index, digit) in buffer.iter_mut().enumerate().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
        start = index;
        if value == 0 {
            break;
        }
    }
    buffer.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rfc5322(seconds: u64) -> String {
        let mut out = Vec::new();
        write_rfc5322(seconds, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn rfc3339(millis: u64) -> String {
        let mut out = Vec::new();
        write_rfc3339(millis, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_dates() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 +0000"),
            (1_700_000_000, "Tue, 14 Nov 2023 22:13:20 +0000"),
            (2_147_483_648, "Tue, 19 Jan 2038 03:14:08 +0000"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 +0000"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 +0000"),
        ] {
            assert_eq!(rfc5322(seconds), text);
        }
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_045), "2023-11-14T22:13:20.045Z");
    }

    #[test]
    fn numbers_are_written() {
        for value in [0, 7, 10, 99, 1000, u64::MAX] {
            assert_eq!(decimal(value, &mut [0; 20]), value.to_string().as_bytes());
        }
    }

    proptest! {
        /// RFC 3339 texts sort as their times do.
        #[test]
        fn texts_are_ordered(a in 0..UNIX_SECONDS_MAX * 1000, b in 0..UNIX_SECONDS_MAX * 1000) {
            prop_assert_eq!(a.cmp(&b), rfc3339(a).cmp(&rfc3339(b)));
        }
    }
}
