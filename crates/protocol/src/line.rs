//! Framing of command lines: only CR LF ends a line.

use std::mem;

use crate::error::LineError;
use crate::limits::{COMMAND_LINE_MAX, ENDLESS_LINE_MAX};

/// One line that has been put together, without its CRLF.
#[derive(Debug)]
pub enum Line<'a> {
    /// It lay in the input as a whole.
    Borrowed(&'a [u8]),
    /// It came in pieces.
    Owned(Vec<u8>),
}

impl Line<'_> {
    /// The octets of the line, without its CRLF.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(line) => line,
            Self::Owned(line) => line,
        }
    }
}

/// Cuts command lines out of octets that come in any pieces.
///
/// A line that came whole is borrowed from the input; only a line in pieces is copied. No more than
/// [`COMMAND_LINE_MAX`] octets are held, or what [`decode_within`](Self::decode_within) is told, and none
/// between lines.
#[derive(Debug, Default)]
pub struct LineDecoder {
    /// The start of a line whose end has not come; empty once the line is over-long.
    partial: Vec<u8>,
    /// Octets of the line that came with earlier pieces, without a CR at their end.
    length: usize,
    /// The last octet taken was a CR, and LF has to follow.
    carriage_return: bool,
}

impl LineDecoder {
    /// Makes a decoder that waits for the first octet of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a part of a line has come.
    pub fn is_inside_line(&self) -> bool {
        self.length > 0 || self.carriage_return
    }

    /// Takes octets up to the end of one line; returns how many, and the line once it is whole.
    ///
    /// Without a line or an error all of `input` has been taken. After
    /// [`LineError::TooLong`] the next line can be read; after another error nothing can.
    pub fn decode<'a>(&mut self, input: &'a [u8]) -> (usize, Option<Result<Line<'a>, LineError>>) {
        self.decode_within(input, COMMAND_LINE_MAX)
    }

    /// As [`decode`](Self::decode), for lines of up to `size_max` octets with their CRLF. The limit has to
    /// be the same for all pieces of a line, and less than [`ENDLESS_LINE_MAX`].
    pub fn decode_within<'a>(
        &mut self,
        input: &'a [u8],
        size_max: usize,
    ) -> (usize, Option<Result<Line<'a>, LineError>>) {
        if self.carriage_return {
            return match input.first() {
                None => (0, None),
                Some(b'\n') => (1, Some(self.finish(&[], size_max))),
                Some(_) => (0, Some(Err(LineError::BareCarriageReturn))),
            };
        }
        let at = memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len());
        let (piece, rest) = input.split_at(at);
        match rest {
            [b'\r', b'\n', ..] => (at + 2, Some(self.finish(piece, size_max))),
            [] | [b'\r'] => {
                self.carriage_return = !rest.is_empty();
                let kept = self.keep(piece, size_max);
                (input.len(), kept.err().map(Err))
            }
            [b'\n', ..] => (at, Some(Err(self.broken(piece, LineError::BareLineFeed)))),
            [_, ..] => (at, Some(Err(self.broken(piece, LineError::BareCarriageReturn)))),
        }
    }

    /// Keeps the piece of a line, or gives the line up when it is over-long.
    fn keep(&mut self, piece: &[u8], size_max: usize) -> Result<(), LineError> {
        self.length = self.length.saturating_add(piece.len());
        if self.length + 2 <= size_max {
            self.partial.extend_from_slice(piece);
        } else {
            self.partial = Vec::new();
        }
        if self.length > ENDLESS_LINE_MAX { Err(LineError::Endless) } else { Ok(()) }
    }

    fn finish<'a>(&mut self, piece: &'a [u8], size_max: usize) -> Result<Line<'a>, LineError> {
        let Self { mut partial, length, .. } = mem::take(self);
        let length = length.saturating_add(piece.len());
        if length > ENDLESS_LINE_MAX {
            return Err(LineError::Endless);
        }
        if length + 2 > size_max {
            return Err(LineError::TooLong);
        }
        if partial.is_empty() {
            return Ok(Line::Borrowed(piece));
        }
        partial.extend_from_slice(piece);
        Ok(Line::Owned(partial))
    }

    /// A line that had no end in bounds is that first of all, wherever its pieces were cut.
    fn broken(&self, piece: &[u8], error: LineError) -> LineError {
        let endless = self.length.saturating_add(piece.len()) > ENDLESS_LINE_MAX;
        if endless { LineError::Endless } else { error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Decoded = Vec<Result<Vec<u8>, LineError>>;

    /// Decodes pieces up to the first error after which nothing can be read.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
        let mut decoder = LineDecoder::new();
        let mut lines = Decoded::new();
        for mut piece in pieces {
            while !piece.is_empty() {
                let (consumed, line) = decoder.decode(piece);
                piece = &piece[consumed..];
                let Some(line) = line else {
                    assert!(piece.is_empty(), "all taken when there is no line");
                    continue;
                };
                lines.push(line.map(|line| line.as_bytes().to_vec()));
                if matches!(lines.last(), Some(Err(error)) if *error != LineError::TooLong) {
                    return lines;
                }
            }
        }
        lines
    }

    fn check(input: &[u8], expected: &Decoded) {
        let shown = String::from_utf8_lossy(&input[..input.len().min(40)]);
        assert_eq!(&decode([input]), expected, "{shown:?}");
        assert_eq!(&decode(input.chunks(1)), expected, "{shown:?} octet by octet");
    }

    #[test]
    fn only_crlf_ends_a_line() {
        check(
            b"NOOP\r\nQUIT\r\n\r\n",
            &vec![Ok(b"NOOP".to_vec()), Ok(b"QUIT".to_vec()), Ok(vec![])],
        );
        check(b"NOOP\nQUIT\r\n", &vec![Err(LineError::BareLineFeed)]);
        check(b"NO\rOP\r\n", &vec![Err(LineError::BareCarriageReturn)]);
        check(b"NOOP\r\r\n", &vec![Err(LineError::BareCarriageReturn)]);
        check(b"NOOP\r", &vec![]);
    }

    #[test]
    fn over_long_lines_are_skipped_once() {
        let mut fits = vec![b'a'; COMMAND_LINE_MAX - 2];
        let line = fits.clone();
        fits.extend_from_slice(b"\r\n");
        check(&fits, &vec![Ok(line)]);

        let mut over = vec![b'a'; COMMAND_LINE_MAX - 1];
        over.extend_from_slice(b"\r\nNOOP\r\n");
        check(&over, &vec![Err(LineError::TooLong), Ok(b"NOOP".to_vec())]);

        let mut over = vec![b'a'; 5000];
        over.extend_from_slice(b"\nNOOP\r\n");
        assert_eq!(decode(over.chunks(1)), vec![Err(LineError::BareLineFeed)]);
    }

    #[test]
    fn endless_lines_end() {
        let endless = vec![b'a'; 200_000];
        check(&endless, &vec![Err(LineError::Endless)]);
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            input in prop::collection::vec(prop::sample::select(b"ab\r\n\0".to_vec()), 0..60),
            size in 1usize..7,
        ) {
            let whole = decode([&input[..]]);
            prop_assert_eq!(decode(input.chunks(size)), whole);
        }
    }
}
