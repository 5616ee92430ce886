//! The generated message: unique id, checksum, exact size.
//!
//! Every message carries two header fields, `X-Ringpost-Load-Id: <run>-<sequence>` and
//! `X-Ringpost-Load-Sum: <length>-<crc32c>`. The sum is taken over the body, that is everything
//! after the empty line, as it was before dot-stuffing. The first line of the body repeats the id,
//! so a body that ends up under another message's header does not pass.
//!
//! The filler is generated once in a few variants; writing a message copies it and sums it up. It
//! has lines that start with a dot, and lines that are only a dot, so that dot-stuffing is tried in
//! every message that is long enough.

use std::fmt;
use std::io::Write as _;

use memchr::memmem;

/// Name of the header field with the id.
pub(crate) const ID_FIELD: &str = "X-Ringpost-Load-Id";
/// Name of the header field with the checksum.
pub(crate) const SUM_FIELD: &str = "X-Ringpost-Load-Sum";
/// The highest sequence number: the id has a fixed width of eight digits.
pub(crate) const SEQUENCE_MAX: u32 = 99_999_999;
/// The most octets a generated message may have; the length in the checksum field is 32 bits wide.
pub(crate) const SIZE_MAX: usize = 1 << 30;

/// Octets of a filler line with its CRLF.
const LINE_LENGTH: usize = 74;
/// How many different fillers a run uses.
const VARIANTS: usize = 8;

/// Names one message of one run; written as eight hex digits, `-`, eight decimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId {
    /// The run of the source, drawn at its start.
    pub(crate) run: u32,
    /// The number of the message in its run, from 0 to [`SEQUENCE_MAX`].
    pub(crate) sequence: u32,
}

impl MessageId {
    /// Octets of the written form.
    const LENGTH: usize = 17;

    /// Reads the written form; `None` for anything that [`fmt::Display`] would not have written.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != Self::LENGTH || text[8] != b'-' {
            return None;
        }
        let run = parse_hex(&text[..8])?;
        let digits = &text[9..];
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let sequence = digits.iter().fold(0, |n, digit| n * 10 + u32::from(digit - b'0'));
        Some(Self { run, sequence })
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08}", self.run, self.sequence)
    }
}

/// Length and CRC-32C of a body; written as eight hex digits, `-`, eight hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodySum {
    /// Octets of the body.
    pub(crate) length: u32,
    /// CRC-32C of the body.
    pub(crate) crc: u32,
}

impl BodySum {
    /// Reads the written form.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() != 17 || text[8] != b'-' {
            return None;
        }
        Some(Self { length: parse_hex(&text[..8])?, crc: parse_hex(&text[9..])? })
    }
}

impl fmt::Display for BodySum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:08x}", self.length, self.crc)
    }
}

/// Lower-case hex of exactly eight digits.
fn parse_hex(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0_u32, |n, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        n.checked_mul(16)?.checked_add(u32::from(digit))
    })
}

/// Writes the messages of one run.
#[derive(Debug)]
pub(crate) struct Template {
    run: u32,
    /// The header fields that are the same in all messages, with their line ends.
    head: Vec<u8>,
    variants: Vec<Filler>,
}

#[derive(Debug)]
struct Filler {
    plain: Vec<u8>,
    stuffed: Vec<u8>,
}

impl Template {
    /// Prepares messages whose content (header and body, before dot-stuffing) has `size` octets.
    ///
    /// A size too small for the header is raised to what the header needs; one size just above
    /// that cannot be met, as a line has at least its two end octets, and is raised by one. Sizes
    /// above [`SIZE_MAX`] are lowered to it. `date` is the value of the Date field.
    pub(crate) fn new(run: u32, size: usize, reverse_path: &str, date: &str) -> Self {
        let head = format!(
            "From: <{reverse_path}>\r\nTo: undisclosed-recipients:;\r\nDate: {date}\r\n\
             Subject: ringpost-load\r\n"
        )
        .into_bytes();
        let mut template = Self { run, head, variants: vec![Filler::new(0, 0)] };
        let mut smallest = Vec::new();
        template.write(0, &mut smallest);
        let left = match size.min(SIZE_MAX).saturating_sub(smallest.len() - b".\r\n".len()) {
            1 => 2,
            left => left,
        };
        template.variants =
            (0..VARIANTS).map(|variant| Filler::new(left, variant as u64 + 1)).collect();
        template
    }

    /// The octets of each message's content before dot-stuffing.
    pub(crate) fn size(&self) -> usize {
        let mut message = Vec::new();
        self.write(0, &mut message);
        let filler = &self.variants[0];
        message.len() - b".\r\n".len() - (filler.stuffed.len() - filler.plain.len())
    }

    /// The id of message `sequence` of this run.
    pub(crate) fn id(&self, sequence: u32) -> MessageId {
        MessageId { run: self.run, sequence }
    }

    /// Appends message `sequence` as it goes over the wire: dot-stuffed, with the final dot.
    pub(crate) fn write(&self, sequence: u32, out: &mut Vec<u8>) {
        let id = self.id(sequence);
        let filler = &self.variants[sequence as usize % self.variants.len()];
        let mut first = [0_u8; 64];
        let first = {
            let room = first.len();
            let mut rest = &mut first[..];
            // Writing to a slice fails only when it is full, and the line has a fixed length.
            let _ = write!(rest, "This is load message {id}.\r\n");
            let used = room - rest.len();
            &first[..used]
        };
        let sum = BodySum {
            length: (first.len() + filler.plain.len()) as u32,
            crc: crc32c::crc32c_append(crc32c::crc32c(first), &filler.plain),
        };
        out.reserve(self.head.len() + 256 + filler.stuffed.len());
        out.extend_from_slice(&self.head);
        // Writing to a vector does not fail.
        let _ = write!(
            out,
            "Message-ID: <{id}@load.invalid>\r\n{ID_FIELD}: {id}\r\n{SUM_FIELD}: {sum}\r\n\r\n"
        );
        out.extend_from_slice(first);
        out.extend_from_slice(&filler.stuffed);
        out.extend_from_slice(b".\r\n");
    }
}

impl Filler {
    /// `length` octets of text lines, which is 0 or at least 2.
    fn new(length: usize, seed: u64) -> Self {
        let mut plain = Vec::with_capacity(length);
        let mut state = seed;
        let mut line_number = seed as usize;
        while plain.len() < length {
            let left = length - plain.len();
            // One octet alone cannot be a line, so the line before it gives one up.
            let line = match left {
                0..=LINE_LENGTH => left,
                n if n == LINE_LENGTH + 1 => LINE_LENGTH - 1,
                _ => LINE_LENGTH,
            };
            let start = plain.len();
            match line_number % 24 {
                7 if left > LINE_LENGTH => plain.extend_from_slice(b".\r\n"),
                number => {
                    plain.extend((0..line - 2).map(|_| text_octet(&mut state)));
                    if number % 12 == 3 && line > 2 {
                        plain[start] = b'.';
                    }
                    plain.extend_from_slice(b"\r\n");
                }
            }
            if plain.len() + 1 == length {
                // The short dot line may have left one octet over.
                plain.truncate(start);
                plain.extend_from_slice(b"..\r\n");
            }
            line_number += 1;
        }
        let stuffed = stuff(&plain);
        Self { plain, stuffed }
    }
}

/// Dot-stuffs whole lines. RFC 5321 §4.5.2.
fn stuff(plain: &[u8]) -> Vec<u8> {
    let mut stuffed = Vec::with_capacity(plain.len() + plain.len() / 64);
    if plain.first() == Some(&b'.') {
        stuffed.push(b'.');
    }
    let mut copied = 0;
    for at in memmem::find_iter(plain, b"\r\n.") {
        stuffed.extend_from_slice(&plain[copied..at + 2]);
        stuffed.push(b'.');
        copied = at + 2;
    }
    stuffed.extend_from_slice(&plain[copied..]);
    stuffed
}

/// The next octet of a text that compresses badly: letters, digits and a few spaces.
fn text_octet(state: &mut u64) -> u8 {
    const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789";
    ALPHABET[(next_random(state) >> 58) as usize]
}

/// Steele, Lea and Flood's split-mix generator: spreads tool decisions evenly and repeatably. Not for secrets.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATE: &str = "Sun, 22 Nov 2026 22:00:00 +0000";

    fn template(size: usize) -> Template {
        Template::new(0x1234_abcd, size, "load@example.com", DATE)
    }

    fn wire(size: usize, sequence: u32) -> Vec<u8> {
        let mut out = Vec::new();
        template(size).write(sequence, &mut out);
        out
    }

    /// Slow reference: line by line.
    fn unstuffed(wire: &[u8]) -> Vec<u8> {
        let text = wire.strip_suffix(b".\r\n").unwrap();
        let text = std::str::from_utf8(text).unwrap();
        text.split_inclusive("\r\n")
            .map(|line| line.strip_prefix('.').unwrap_or(line))
            .collect::<String>()
            .into_bytes()
    }

    #[test]
    fn id_is_read_back() {
        let id = MessageId { run: 0x00ab_cdef, sequence: 42 };
        assert_eq!(id.to_string(), "00abcdef-00000042");
        assert_eq!(MessageId::parse(b"00abcdef-00000042"), Some(id));
    }

    #[test]
    fn malformed_ids_are_refused() {
        for text in [
            "",
            "00abcdef-0000004",
            "00abcdef-000000042",
            "00abcdef_00000042",
            "00ABCDEF-00000042",
            "00abcdeg-00000042",
            "00abcdef-0000004x",
        ] {
            assert_eq!(MessageId::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn sum_is_read_back() {
        let sum = BodySum { length: 5000, crc: u32::MAX };
        assert_eq!(BodySum::parse(sum.to_string().as_bytes()), Some(sum));
        assert_eq!(BodySum::parse(b"00001388-fffffff"), None);
    }

    #[test]
    fn crc_is_the_castagnoli_one() {
        // The check value of CRC-32C.
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn content_has_the_size_asked_for() {
        for size in (400..900).chain([5120, 100 * 1024]) {
            for sequence in 0..VARIANTS as u32 {
                assert_eq!(unstuffed(&wire(size, sequence)).len(), size, "variant {sequence}");
            }
            assert_eq!(template(size).size(), size);
        }
    }

    #[test]
    fn small_sizes_are_raised() {
        let smallest = template(0).size();
        assert!(smallest > 200);
        assert_eq!(template(smallest).size(), smallest);
        assert_eq!(template(smallest + 1).size(), smallest + 2);
        assert_eq!(template(smallest + 2).size(), smallest + 2);
    }

    #[test]
    fn messages_try_dot_stuffing() {
        let wire = wire(5120, 0);
        assert!(memmem::find(&wire, b"\r\n..\r\n").is_some());
        assert!(memmem::find_iter(&wire, b"\r\n..").count() > 2);
    }

    #[test]
    fn bodies_of_a_run_differ() {
        let (a, b) = (wire(5120, 0), wire(5120, VARIANTS as u32));
        assert_eq!(a.len(), b.len());
        assert_ne!(a, b);
    }

    proptest! {
        #[test]
        fn wire_form_is_lines_with_one_end(size in 0..20_000_usize, sequence in 0..=SEQUENCE_MAX) {
            let wire = wire(size, sequence);
            let ends: Vec<usize> = memmem::find_iter(&wire, b"\r\n.\r\n").collect();
            prop_assert_eq!(ends, vec![wire.len() - 5]);
            let crs = memchr::memchr_iter(b'\r', &wire).count();
            let lfs = memchr::memchr_iter(b'\n', &wire).count();
            let ends = memmem::find_iter(&wire, b"\r\n").count();
            prop_assert_eq!((crs, lfs), (ends, ends));
        }
    }
}
