//! A JSON writer that appends to a buffer and allocates nothing of its own.

use std::fmt::{self, Display, Write as _};

/// Writes one JSON object, member by member, to the end of a buffer.
///
/// The caller picks the keys, which are written as they are; values are escaped. Dropping the writer
/// without [`JsonObject::close`] leaves the object open.
#[derive(Debug)]
pub struct JsonObject<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> JsonObject<'a> {
    /// Opens an object.
    pub fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Adds a string member from anything that can be displayed.
    pub fn string(&mut self, key: &str, value: &dyn Display) -> &mut Self {
        self.key(key);
        write_string(self.out, value);
        self
    }

    /// Adds a number member.
    pub fn number(&mut self, key: &str, value: u64) -> &mut Self {
        self.key(key);
        write_number(self.out, value);
        self
    }

    /// Adds a member that is true or false.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
        self
    }

    /// Adds a member that is a number with a sign.
    pub fn signed(&mut self, key: &str, value: i64) -> &mut Self {
        self.key(key);
        if value < 0 {
            self.out.push(b'-');
        }
        write_number(self.out, value.unsigned_abs());
        self
    }

    /// Adds a member that is an object; `write` fills it in.
    pub fn object(&mut self, key: &str, write: impl FnOnce(&mut JsonObject<'_>)) -> &mut Self {
        self.key(key);
        let mut inner = JsonObject::open(self.out);
        write(&mut inner);
        inner.close();
        self
    }

    /// Adds a member that is an array of strings.
    pub fn strings<'s>(
        &mut self,
        key: &str,
        values: impl IntoIterator<Item = &'s str>,
    ) -> &mut Self {
        self.key(key);
        self.out.push(b'[');
        for (index, value) in values.into_iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            write_string(self.out, &value);
        }
        self.out.push(b']');
        self
    }

    /// Adds a member with the time as RFC 3339 text in UTC with milliseconds.
    ///
    /// Times after the year 9999 are written as the last millisecond of that year.
    pub fn time(&mut self, key: &str, unix_ms: u64) -> &mut Self {
        self.key(key);
        self.out.push(b'"');
        write_rfc3339(self.out, unix_ms);
        self.out.push(b'"');
        self
    }

    /// Closes the object.
    pub fn close(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
}

/// Writes a quoted JSON string.
///
/// Escaped are quotes, backslashes and every control character, C1 and DEL too: a reply chosen by a peer
/// must not be able to drive the terminal of whoever reads the log.
fn write_string(out: &mut Vec<u8>, value: &dyn Display) {
    out.push(b'"');
    // The writer below never fails; a Display that does ends the text early, and the string is
    // closed all the same.
    let _ = write!(Escaped { out }, "{value}");
    out.push(b'"');
}

struct Escaped<'a> {
    out: &'a mut Vec<u8>,
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(position) = rest.find(needs_escape) {
            let (plain, special) = rest.split_at(position);
            self.out.extend_from_slice(plain.as_bytes());
            let mut characters = special.chars();
            if let Some(character) = characters.next() {
                escape(self.out, character);
            }
            rest = characters.as_str();
        }
        self.out.extend_from_slice(rest.as_bytes());
        Ok(())
    }
}

fn needs_escape(character: char) -> bool {
    character == '"' || character == '\\' || character.is_control()
}

fn escape(out: &mut Vec<u8>, character: char) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match character {
        '"' => out.extend_from_slice(b"\\\""),
        '\\' => out.extend_from_slice(b"\\\\"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        control => {
            // Control characters are all below U+00A0.
            let code = control as usize;
            out.extend_from_slice(b"\\u00");
            out.push(HEX[(code >> 4) & 0xf]);
            out.push(HEX[code & 0xf]);
        }
    }
}

fn write_number(out: &mut Vec<u8>, mut value: u64) {
    // 20 digits hold u64::MAX.
    let mut digits = [0_u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// The last millisecond of the year 9999.
const RFC3339_UNIX_MS_MAX: u64 = 253_402_300_799_999;

/// Writes `2026-01-31T23:59:59.999Z`.
fn write_rfc3339(out: &mut Vec<u8>, unix_ms: u64) {
    let unix_ms = unix_ms.min(RFC3339_UNIX_MS_MAX);
    let seconds = unix_ms / 1000;
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let second_of_day = seconds % 86_400;
    padded(out, year, 4);
    out.push(b'-');
    padded(out, month, 2);
    out.push(b'-');
    padded(out, day, 2);
    out.push(b'T');
    padded(out, second_of_day / 3600, 2);
    out.push(b':');
    padded(out, second_of_day / 60 % 60, 2);
    out.push(b':');
    padded(out, second_of_day % 60, 2);
    out.push(b'.');
    padded(out, unix_ms % 1000, 3);
    out.push(b'Z');
}

fn padded(out: &mut Vec<u8>, value: u64, width: u32) {
    for position in (0..width).rev() {
        out.push(b'0' + (value / 10_u64.pow(position) % 10) as u8);
    }
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// Counts in eras of 400 years that begin on 1 March, so that the leap day is the last of its year.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097;
    // 0000-03-01 is 719468 days before 1970-01-01.
    let shifted = days + 719_468;
    let era = shifted / DAYS_PER_ERA;
    let day_of_era = shifted % DAYS_PER_ERA;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc3339(unix_ms: u64) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, unix_ms);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_rfc3339_with_milliseconds() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_000_000_000_001, "2001-09-09T01:46:40.001Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (RFC3339_UNIX_MS_MAX, "9999-12-31T23:59:59.999Z"),
            (u64::MAX, "9999-12-31T23:59:59.999Z"),
        ];
        for (unix_ms, expected) in table {
            assert_eq!(rfc3339(unix_ms), expected, "{unix_ms}");
        }
    }

    #[test]
    fn every_control_character_is_escaped() {
        let all: String = (0_u32..0x100).filter_map(char::from_u32).collect();
        let mut out = Vec::new();
        JsonObject::open(&mut out).string("text", &all);
        out.push(b'}');
        let text = std::str::from_utf8(&out).unwrap();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        let parsed: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(parsed["text"], all);
    }

    #[test]
    fn numbers_keep_every_digit() {
        for value in [0, 1, 9, 10, 99, 100, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            write_number(&mut out, value);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }

    #[test]
    fn an_empty_object_and_nested_ones_are_valid() {
        let mut out = Vec::new();
        let mut object = JsonObject::open(&mut out);
        object.object("inner", |_| {}).strings("list", ["a", "\"b"]).strings("none", []);
        object.close();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"inner":{},"list":["a","\"b"],"none":[]}"#);
    }
}
