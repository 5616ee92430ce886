//! 8-bit content made into 7-bit content (RFC 6152 §3): its parts are encoded as RFC 2045 §6 has it.
//!
//! The content is walked twice, each time in any pieces. A [`Survey`] finds the parts that have octets
//! above 127, and whether all of them may be encoded; its [`Plan`] is what a [`Converter`] works by. All
//! other parts, and all fields but `Content-Transfer-Encoding`, stay as they are.
//!
//! What is left of a message may not be changed: header sections outside of ASCII, parts that are
//! signed (RFC 1847 §2.1), messages within messages (RFC 2046 §5.2.1), parts that are encoded already,
//! and what stands around the parts of a multipart.

use thiserror::Error;

mod encode;
mod head;
#[cfg(test)]
mod tests;
mod walk;

use encode::{Base64, quoted_printable};
use head::Head;
use walk::{Visitor, Walker};

/// How a part is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Encoding {
    /// Not at all.
    #[default]
    Kept,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    fn keyword(self) -> &'static str {
        match self {
            Self::Kept => "7bit",
            Self::QuotedPrintable => "quoted-printable",
            Self::Base64 => "base64",
        }
    }
}

/// Why content cannot be made into 7-bit content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Inconvertible {
    /// A header section has octets above 127.
    #[error("a header section is not in ASCII")]
    Header,
    /// A part that is signed or encrypted has.
    #[error("a signed part is not in ASCII")]
    Signed,
    /// A message within the message has.
    #[error("a message within the message is not in ASCII")]
    Message,
    /// A part that says that it is encoded has.
    #[error("an encoded part is not in ASCII")]
    Encoded,
    /// What is around the parts of a multipart has, or its boundary cannot be read.
    #[error("what is around parts is not in ASCII")]
    Around,
    /// Multiparts are nested too deep: more than [`MIME_DEPTH_MAX`](crate::limits::MIME_DEPTH_MAX).
    #[error("parts are nested too deep")]
    TooDeep,
    /// There are more parts than [`MIME_PARTS_MAX`](crate::limits::MIME_PARTS_MAX).
    #[error("there are too many parts")]
    TooManyParts,
    /// A line is longer than [`MIME_LINE_MAX`](crate::limits::MIME_LINE_MAX), or a header section than twice
    /// [`HEADER_SIZE_MAX`](crate::limits::HEADER_SIZE_MAX).
    #[error("a line or a header section is too long")]
    TooLong,
}

/// What is to be encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By the place of each part, in the order in which they begin.
    encodings: Vec<Encoding>,
}

/// The first walk: what is to be encoded, and whether that can be.
///
/// # Contract
///
/// - The caller hands in the whole content by [`feed`](Self::feed), and then asks [`finish`](Self::finish).
#[derive(Debug, Default)]
pub struct Survey {
    walker: Walker,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    /// Octets above 127 and all octets, by the place of each part.
    parts: Vec<(u64, u64)>,
}

impl Survey {
    /// Makes one that stands before the content.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a piece of the content.
    pub fn feed(&mut self, piece: &[u8]) {
        self.walker.feed(piece, &mut self.counts);
    }

    /// What is to be encoded.
    ///
    /// # Errors
    ///
    /// [`Inconvertible`]: the content cannot be made into 7-bit content.
    pub fn finish(mut self) -> Result<Plan, Inconvertible> {
        self.walker.finish(&mut self.counts)?;
        let encoding = |&(eight_bit, size): &(u64, u64)| match eight_bit {
            0 => Encoding::Kept,
            // An octet takes three as quoted-printable, and four thirds as base64.
            _ if eight_bit > size / 6 => Encoding::Base64,
            _ => Encoding::QuotedPrintable,
        };
        Ok(Plan { encodings: self.counts.parts.iter().map(encoding).collect() })
    }
}

impl Visitor for Counts {
    fn head(&mut self, _head: &Head, _raw: &[u8], _has_end: bool) {
        self.parts.push((0, 0));
    }

    fn body(&mut self, line: &[u8]) {
        if let Some((eight_bit, size)) = self.parts.last_mut() {
            *eight_bit += line.iter().filter(|b| !b.is_ascii()).count() as u64;
            *size += line.len() as u64;
        }
    }

    fn kept(&mut self, _line: &[u8], _is_delimiter: bool) {}
}

/// The second walk: writes 7-bit content.
///
/// # Contract
///
/// - The caller hands in the content that the plan was made for by [`feed`](Self::feed), in any pieces,
///   then calls [`finish`](Self::finish). What both append is the converted content.
#[derive(Debug)]
pub struct Converter {
    walker: Walker,
    writer: Writer,
}

#[derive(Debug)]
struct Writer {
    plan: Plan,
    /// The place of the part that is written, counted from 1.
    parts: usize,
    encoding: Encoding,
    base64: Base64,
    out: Vec<u8>,
}

impl Converter {
    /// Makes one that stands before the content.
    pub fn new(plan: Plan) -> Self {
        let writer = Writer {
            plan,
            parts: 0,
            encoding: Encoding::Kept,
            base64: Base64::default(),
            out: Vec::new(),
        };
        Self { walker: Walker::default(), writer }
    }

    /// Takes a piece of the content, and appends what follows from it.
    pub fn feed(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        self.walker.feed(piece, &mut self.writer);
        out.append(&mut self.writer.out);
    }

    /// Takes the end of the content, and appends what is left.
    ///
    /// # Errors
    ///
    /// [`Inconvertible`] when the plan was made for other content; what was appended is worthless.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), Inconvertible> {
        self.walker.finish(&mut self.writer)?;
        self.writer.end_part(false);
        out.append(&mut self.writer.out);
        if self.writer.parts == self.writer.plan.encodings.len() {
            Ok(())
        } else {
            Err(Inconvertible::TooManyParts)
        }
    }
}

impl Writer {
    /// Ends a part that was encoded.
    fn end_part(&mut self, is_delimited: bool) {
        if self.encoding == Encoding::Base64 {
            self.base64.finish(is_delimited, &mut self.out);
        }
        self.encoding = Encoding::Kept;
    }
}

impl Visitor for Writer {
    fn head(&mut self, head: &Head, raw: &[u8], has_end: bool) {
        self.end_part(false);
        let is_message = self.parts == 0;
        self.encoding = self.plan.encodings.get(self.parts).copied().unwrap_or_default();
        self.parts += 1;
        let is_written_anew =
            self.encoding != Encoding::Kept || (head.is_open_multipart() && head.is_eight_bit());
        if !is_written_anew {
            self.out.extend_from_slice(raw);
            if has_end {
                self.out.extend_from_slice(b"\r\n");
            }
            return;
        }
        head.write_without_encoding(raw, &mut self.out);
        let mut add = |parts: &[&str]| {
            for part in parts {
                self.out.extend_from_slice(part.as_bytes());
            }
            self.out.extend_from_slice(b"\r\n");
        };
        if is_message && !head.has_version() {
            add(&["MIME-Version: 1.0"]);
        }
        if !head.has_type() {
            // RFC 1428 §3: nobody has said which it is.
            add(&["Content-Type: text/plain; charset=unknown-8bit"]);
        }
        add(&["Content-Transfer-Encoding: ", self.encoding.keyword()]);
        // A section without its empty line was ended by the first line of the body.
        add(&[]);
    }

    fn body(&mut self, line: &[u8]) {
        match self.encoding {
            Encoding::Kept => self.out.extend_from_slice(line),
            Encoding::QuotedPrintable => quoted_printable(line, &mut self.out),
            Encoding::Base64 => self.base64.write_line(line, &mut self.out),
        }
    }

    fn kept(&mut self, line: &[u8], is_delimiter: bool) {
        self.end_part(is_delimiter);
        self.out.extend_from_slice(line);
    }
}
