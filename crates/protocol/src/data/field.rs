//! Takes one field out of the header section of content that streams by.

use super::ContentLimits;
use super::header::HeaderScan;
use crate::limits::TAKEN_FIELD_SIZE_MAX;

/// Blanks between the name of a field and its colon; a line with more is no such field.
const BLANKS_MAX: usize = 64;

/// What has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenField<'a> {
    /// There was no such field.
    Absent,
    /// There was one, with this value: folded as it came, without white space around it.
    Value(&'a [u8]),
    /// There was one with more than [`TAKEN_FIELD_SIZE_MAX`] octets behind its colon.
    TooLong,
    /// There were several.
    Repeated,
}

/// What becomes of the line that is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So far it may be the field.
    Open,
    Passed,
    Taken,
}

/// How a line begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// With white space.
    Continuation,
    /// With the name and the colon; the value begins there.
    Value(usize),
    /// With a part of the name, or blanks behind it.
    Open,
    Other,
}

/// Takes each field of a given name out of the header section.
///
/// Takes the content of [`ContentDecoder`](super::ContentDecoder) in any pieces, and has passed all of
/// it on, but for the field, when its last CRLF has come. Of a line that may become the field it holds
/// back no more than the name and some blanks. After the header section it copies.
#[derive(Debug)]
pub struct FieldTaker {
    name: Box<str>,
    header: HeaderScan,
    line: Line,
    /// Whether the line before this one was taken.
    continues: bool,
    /// The beginning of an open line.
    held: Vec<u8>,
    value: Vec<u8>,
    value_size: usize,
    fields: usize,
    /// Octets that have been taken.
    size: u64,
}

impl FieldTaker {
    /// Makes a taker that stands before the content. The name is looked for in any case; it has to be
    /// one that [`is_field_name`] lets pass.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            header: HeaderScan::default(),
            line: Line::Open,
            continues: false,
            held: Vec::new(),
            value: Vec::new(),
            value_size: 0,
            fields: 0,
            size: 0,
        }
    }

    /// Whether the header section is over, and all that follows is passed on as it is.
    pub fn is_done(&self) -> bool {
        !self.header.is_open()
    }

    /// Octets that have been taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What has been taken so far.
    pub fn field(&self) -> TakenField<'_> {
        match self.fields {
            0 => TakenField::Absent,
            1 if self.value_size > TAKEN_FIELD_SIZE_MAX => TakenField::TooLong,
            1 => TakenField::Value(self.value.trim_ascii()),
            _ => TakenField::Repeated,
        }
    }

    /// Takes a piece of the content, and appends what is not the field to `out`.
    pub fn pass(&mut self, mut content: &[u8], out: &mut Vec<u8>) {
        while !content.is_empty() && !self.is_done() {
            let end = memchr::memchr(b'\n', content).map(|at| at + 1);
            let (piece, rest) = content.split_at(end.unwrap_or(content.len()));
            content = rest;
            // A CR only stands in front of an LF.
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.header.scan(line.strip_suffix(b"\r").unwrap_or(line));
            self.pass_piece(piece, end.is_some(), out);
            if end.is_some() {
                self.end_line();
            }
        }
        out.extend_from_slice(content);
    }

    fn pass_piece(&mut self, piece: &[u8], is_end: bool, out: &mut Vec<u8>) {
        match self.line {
            Line::Passed => out.extend_from_slice(piece),
            Line::Taken => self.take(piece),
            Line::Open if self.held.is_empty() => self.decide(piece, is_end, out),
            Line::Open => {
                let mut line = std::mem::take(&mut self.held);
                line.extend_from_slice(piece);
                self.decide(&line, is_end, out);
            }
        }
    }

    /// Finds out what the line is that begins so.
    fn decide(&mut self, line: &[u8], is_end: bool, out: &mut Vec<u8>) {
        self.line = match self.value_start(line) {
            Start::Continuation if self.continues => {
                self.take(line);
                Line::Taken
            }
            Start::Value(at) => {
                self.fields += 1;
                self.value.clear();
                self.value_size = 0;
                let (name, value) = line.split_at_checked(at).unwrap_or((line, b""));
                self.size += name.len() as u64;
                self.take(value);
                Line::Taken
            }
            Start::Open if !is_end => {
                self.held.extend_from_slice(line);
                Line::Open
            }
            Start::Continuation | Start::Open | Start::Other => {
                out.extend_from_slice(line);
                Line::Passed
            }
        };
    }

    fn value_start(&self, line: &[u8]) -> Start {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Start::Continuation;
        }
        let name = self.name.as_bytes();
        let (found, behind) = line.split_at(name.len().min(line.len()));
        let expected = name.get(..found.len()).unwrap_or_default();
        if !found.eq_ignore_ascii_case(expected) {
            return Start::Other;
        }
        let blanks = behind.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        match behind.get(blanks) {
            _ if blanks > BLANKS_MAX => Start::Other,
            Some(b':') => Start::Value(found.len() + blanks + 1),
            Some(_) => Start::Other,
            None => Start::Open,
        }
    }

    fn take(&mut self, piece: &[u8]) {
        self.size += piece.len() as u64;
        self.value_size = self.value_size.saturating_add(piece.len());
        let room = TAKEN_FIELD_SIZE_MAX.saturating_sub(self.value.len());
        self.value.extend(piece.iter().take(room));
    }

    fn end_line(&mut self) {
        // Size and number of fields are the decoder's business.
        let limits = ContentLimits {
            header_size_max: usize::MAX,
            header_fields_max: usize::MAX,
            ..ContentLimits::default()
        };
        let _ = self.header.end_line(0, &limits);
        self.continues = self.line == Line::Taken;
        self.line = Line::Open;
    }
}

/// Whether a text can be the name of a header field: 1 to 64 printable octets without a colon
/// (RFC 5322 §2.2; its length is our limit).
pub fn is_field_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is passed on, what is taken and how much, for content in these pieces.
    fn pass<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<Vec<u8>>, u64, bool) {
        let mut taker = FieldTaker::new("X-Later");
        let mut out = Vec::new();
        for piece in pieces {
            taker.pass(piece, &mut out);
        }
        let value = match taker.field() {
            TakenField::Absent => None,
            TakenField::Value(value) => Some(value.to_vec()),
            TakenField::TooLong => Some(b"(too long)".to_vec()),
            TakenField::Repeated => Some(b"(repeated)".to_vec()),
        };
        (out, value, taker.size(), taker.is_done())
    }

    #[test]
    fn the_field_is_taken_wherever_it_stands() {
        let long = format!("X-Later:{}\r\n\r\n", "1".repeat(255));
        let fits = format!("X-Later:{}\r\n\r\n", "1".repeat(254));
        let table: [(&str, &str, Option<&str>); 24] = [
            ("", "", None),
            ("\r\n", "\r\n", None),
            ("X-Later: 1\r\n", "", Some("1")),
            ("X-Later: 1\r\n\r\ntext\r\n", "\r\ntext\r\n", Some("1")),
            ("A: b\r\nx-LATER:1 \r\nC: d\r\n\r\n", "A: b\r\nC: d\r\n\r\n", Some("1")),
            ("A: b\r\nX-Later \t : 1\r\n\r\n", "A: b\r\n\r\n", Some("1")),
            (
                "A: b\r\n c\r\nX-Later:\r\n 1\r\n\t2\r\nD: e\r\n f\r\n\r\n",
                "A: b\r\n c\r\nD: e\r\n f\r\n\r\n",
                Some("1\r\n\t2"),
            ),
            // A line of blanks continues a field; only the empty one ends the header section.
            ("X-Later: 1\r\n \r\nA: b\r\n\r\n", "A: b\r\n\r\n", Some("1")),
            ("A: b\r\n \r\nX-Later: 1\r\n\r\n", "A: b\r\n \r\n\r\n", Some("1")),
            ("X-Later: 1\r\nX-Later: 1\r\n\r\n", "\r\n", Some("(repeated)")),
            ("X-Later:\r\n\r\n", "\r\n", Some("")),
            (&fits, "\r\n", Some(&fits[8..262])),
            (&long, "\r\n", Some("(too long)")),
            // Names that are others.
            ("X-Later2: 1\r\n\r\n", "X-Later2: 1\r\n\r\n", None),
            ("X-Late: 1\r\n\r\n", "X-Late: 1\r\n\r\n", None),
            ("XX-Later: 1\r\n\r\n", "XX-Later: 1\r\n\r\n", None),
            ("A: X-Later: 1\r\n X-Later: 1\r\n\r\n", "A: X-Later: 1\r\n X-Later: 1\r\n\r\n", None),
            // Behind the header section it is text.
            ("A: b\r\n\r\nX-Later: 1\r\n", "A: b\r\n\r\nX-Later: 1\r\n", None),
            ("no field\r\nX-Later: 1\r\n", "no field\r\nX-Later: 1\r\n", None),
            ("X-Later\r\nX-Later: 1\r\n", "X-Later\r\nX-Later: 1\r\n", None),
            ("X-Later x: 1\r\nX-Later: 1\r\n", "X-Later x: 1\r\nX-Later: 1\r\n", None),
            ("X-La\r\nX-Later: 1\r\n", "X-La\r\nX-Later: 1\r\n", None),
            (": a\r\nX-Later: 1\r\n", ": a\r\nX-Later: 1\r\n", None),
            ("X-Later: 1\r\ntext\r\nX-Later: 2\r\n", "text\r\nX-Later: 2\r\n", Some("1")),
        ];
        for (input, passed, value) in table {
            let expected = pass(std::iter::once(input.as_bytes()));
            assert_eq!(String::from_utf8_lossy(&expected.0), passed, "{input:?}");
            assert_eq!(expected.1.as_deref(), value.map(str::as_bytes), "{input:?}");
            assert_eq!(expected.2, (input.len() - passed.len()) as u64, "{input:?}");
            assert_eq!(pass(input.as_bytes().chunks(1)), expected, "{input:?}");
            for at in 0..=input.len() {
                let (head, tail) = input.as_bytes().split_at(at);
                assert_eq!(pass([head, tail].into_iter()), expected, "{input:?} cut at {at}");
            }
        }
    }

    #[test]
    fn no_more_than_a_name_and_some_blanks_is_held_back() {
        let mut taker = FieldTaker::new("X-Later");
        let mut out = Vec::new();
        taker.pass(b"X-Later", &mut out);
        for _ in 0..1000 {
            taker.pass(b" ", &mut out);
        }
        assert!(taker.held.capacity() <= 256);
        assert_eq!(out.len(), 1007);
    }

    #[test]
    fn names_of_fields() {
        for (text, expected) in [
            ("X-Not-Before", true),
            ("a", true),
            ("", false),
            ("a b", false),
            ("a:", false),
            ("a\r\nb", false),
            ("\u{fc}", false),
        ] {
            assert_eq!(is_field_name(text), expected, "{text:?}");
        }
        assert!(is_field_name(&"a".repeat(64)) && !is_field_name(&"a".repeat(65)));
    }

    proptest! {
        /// Nothing but the field is taken, and nothing is passed out of order, however it is cut.
        #[test]
        fn what_is_passed_does_not_depend_on_the_pieces(
            lines in prop::collection::vec("(X-Later|x-later|X-La|A|)[ :]{0,2}[ab\\t ]{0,3}", 0..8),
            sizes in prop::collection::vec(1..9_usize, 1..99),
        ) {
            let lines_of = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]);
            let content: String = lines_of.collect();
            let expected = pass(std::iter::once(content.as_bytes()));
            let mut rest = content.as_bytes();
            let pieces = sizes.iter().map(|size| {
                let (piece, behind) = rest.split_at((*size).min(rest.len()));
                rest = behind;
                piece
            });
            let mut pieces: Vec<_> = pieces.collect();
            pieces.push(rest);
            prop_assert_eq!(pass(pieces.into_iter()), expected.clone());
            prop_assert_eq!(expected.0.len() as u64 + expected.2, content.len() as u64);
        }

        /// The header section ends where the decoder thinks it does.
        #[test]
        fn the_end_of_the_header_section_is_that_of_the_decoder(
            lines in prop::collection::vec("[A: \\t\\x01\u{e9}]{0,5}", 0..8),
        ) {
            let mut scan = HeaderScan::default();
            let lines_of = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]);
            let content: String = lines_of.collect();
            for line in &lines {
                if scan.is_open() {
                    scan.scan(line.as_bytes());
                    let _ = scan.end_line(line.len(), &ContentLimits::default());
                }
            }
            prop_assert_eq!(pass(content.as_bytes().chunks(1)).3, !scan.is_open());
        }
    }
}
