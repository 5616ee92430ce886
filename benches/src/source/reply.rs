//! Reads SMTP replies out of a buffer, as little as a load source needs.

use memchr::memchr;

/// The longest reply, all its lines together.
pub(crate) const REPLY_LENGTH_MAX: usize = 16 * 1024;

/// What stands at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Not a whole reply yet.
    Incomplete,
    /// A reply of that code and that many octets, all lines included.
    Reply {
        /// Its code, 200 to 599.
        code: u16,
        /// Octets to consume.
        length: usize,
    },
    /// No reply, and it will not become one.
    Malformed,
}

/// Parses the reply at the front of `input`. RFC 5321 §4.2.
pub(crate) fn parse(input: &[u8]) -> Parsed {
    let mut start = 0;
    while let Some(offset) = memchr(b'\n', &input[start..]) {
        let line = &input[start..start + offset];
        start += offset + 1;
        let Some((code, is_last)) = line.strip_suffix(b"\r").and_then(parse_line) else {
            return Parsed::Malformed;
        };
        if is_last {
            return Parsed::Reply { code, length: start };
        }
    }
    if input.len() > REPLY_LENGTH_MAX { Parsed::Malformed } else { Parsed::Incomplete }
}

/// The code of a line, and whether the reply ends with it.
fn parse_line(line: &[u8]) -> Option<(u16, bool)> {
    let (code, rest) = line.split_at_checked(3)?;
    if !code.iter().all(u8::is_ascii_digit) || !(b'2'..=b'5').contains(&code[0]) {
        return None;
    }
    let code = code.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
    match rest.first() {
        None | Some(b' ') => Some((code, true)),
        Some(b'-') => Some((code, false)),
        Some(_) => None,
    }
}

/// Whether a reply to EHLO offers `keyword`.
pub(crate) fn offers(reply: &[u8], keyword: &str) -> bool {
    reply.split(|octet| *octet == b'\n').skip(1).any(|line| {
        let text = line.get(4..).unwrap_or_default().trim_ascii_end();
        let word = text.split(|octet| *octet == b' ').next().unwrap_or_default();
        word.eq_ignore_ascii_case(keyword.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_parsed() {
        let rows: [(&str, Parsed); 12] = [
            ("", Parsed::Incomplete),
            ("250 Ok", Parsed::Incomplete),
            ("250 Ok\r\n", Parsed::Reply { code: 250, length: 8 }),
            ("250\r\n", Parsed::Reply { code: 250, length: 5 }),
            ("354 go\r\n250 Ok\r\n", Parsed::Reply { code: 354, length: 8 }),
            ("250-a\r\n250-b\r\n", Parsed::Incomplete),
            ("250-a\r\n250 b\r\n", Parsed::Reply { code: 250, length: 14 }),
            ("250 Ok\n", Parsed::Malformed),
            ("25 Ok\r\n", Parsed::Malformed),
            ("650 Ok\r\n", Parsed::Malformed),
            ("150 Ok\r\n", Parsed::Malformed),
            ("250_Ok\r\n", Parsed::Malformed),
        ];
        for (input, expected) in rows {
            assert_eq!(parse(input.as_bytes()), expected, "{input:?}");
        }
        assert_eq!(parse(&vec![b'2'; REPLY_LENGTH_MAX + 1]), Parsed::Malformed);
    }

    #[test]
    fn keywords_are_found_after_the_first_line() {
        let reply = b"250-pipelining.example\r\n250-SIZE 1000\r\n250 Pipelining\r\n";
        assert!(offers(reply, "PIPELINING"));
        assert!(offers(reply, "SIZE"));
        assert!(!offers(reply, "8BITMIME"));
        assert!(!offers(b"250 PIPELINING\r\n", "PIPELINING"));
    }

    proptest! {
        #[test]
        fn arbitrary_octets_do_no_harm(octets in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Parsed::Reply { length, .. } = parse(&octets) {
                prop_assert!(length <= octets.len());
            }
        }
    }
}
