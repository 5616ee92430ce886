//! A walk over a message and its parts, line by line (RFC 2046 §5.1).

use super::Inconvertible;
use super::head::{Content, Head};
use crate::limits::{HEADER_SIZE_MAX, MIME_DEPTH_MAX, MIME_LINE_MAX, MIME_PARTS_MAX};

/// What is done with what the walk comes by. Lines have their CRLF, but for the last one of all.
pub(super) trait Visitor {
    /// A header section: of the message first, then of each part. `has_end` when an empty line ends it.
    fn head(&mut self, head: &Head, raw: &[u8], has_end: bool);

    /// A line of the content of the last section, which may be encoded.
    fn body(&mut self, line: &[u8]);

    /// A line that stays as it is.
    fn kept(&mut self, line: &[u8], is_delimiter: bool);
}

/// A multipart that the walk is in.
#[derive(Debug)]
struct Level {
    /// Two hyphens and the boundary.
    delimiter: Vec<u8>,
    is_sealed: bool,
    is_digest: bool,
}

/// Where the next line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    #[default]
    Header,
    /// In content that may be encoded.
    Body,
    /// In content that has to stay as it is, and why.
    Sealed(Inconvertible),
}

/// Walks over content that comes in any pieces.
#[derive(Debug, Default)]
pub(super) struct Walker {
    /// The beginning of a line.
    line: Vec<u8>,
    place: Place,
    /// The header section so far.
    header: Vec<u8>,
    levels: Vec<Level>,
    parts: usize,
    failed: Option<Inconvertible>,
}

impl Walker {
    /// Takes a piece.
    pub(super) fn feed(&mut self, mut piece: &[u8], visitor: &mut impl Visitor) {
        while !piece.is_empty() && self.failed.is_none() {
            let end = memchr::memchr(b'\n', piece).map(|at| at + 1);
            let (part, rest) = piece.split_at(end.unwrap_or(piece.len()));
            piece = rest;
            if self.line.len() + part.len() > MIME_LINE_MAX {
                return self.fail(Inconvertible::TooLong);
            }
            if end.is_none() {
                self.line.extend_from_slice(part);
            } else if self.line.is_empty() {
                self.take(part, visitor);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(part);
                self.take(&line, visitor);
                // Its memory is used again.
                line.clear();
                self.line = line;
            }
        }
    }

    /// Takes the end of the content, and says whether all of it may be made 7-bit.
    pub(super) fn finish(&mut self, visitor: &mut impl Visitor) -> Result<(), Inconvertible> {
        let line = std::mem::take(&mut self.line);
        if !line.is_empty() && self.failed.is_none() {
            self.take(&line, visitor);
        }
        if self.place == Place::Header && self.failed.is_none() {
            self.end_header(false, visitor);
        }
        self.failed.map_or(Ok(()), Err)
    }

    fn fail(&mut self, why: Inconvertible) {
        self.failed.get_or_insert(why);
    }

    fn take(&mut self, line: &[u8], visitor: &mut impl Visitor) {
        if self.take_delimiter(line, visitor) {
            return;
        }
        if self.place == Place::Header {
            match line.strip_suffix(b"\r\n").unwrap_or(line) {
                [] => return self.end_header(true, visitor),
                text if is_field(text) || (is_continuation(text) && !self.header.is_empty()) => {
                    if !line.is_ascii() {
                        self.fail(Inconvertible::Header);
                    } else if self.header.len() + line.len() > HEADER_SIZE_MAX * 2 {
                        self.fail(Inconvertible::TooLong);
                    }
                    return self.header.extend_from_slice(line);
                }
                // A line that is no field begins the body.
                _ => self.end_header(false, visitor),
            }
        }
        match self.place {
            Place::Sealed(why) => {
                if !line.is_ascii() {
                    self.fail(why);
                }
                visitor.kept(line, false);
            }
            Place::Body | Place::Header => visitor.body(line),
        }
    }

    /// Takes a line that separates parts: the innermost multipart that it fits counts, and ends those
    /// within.
    fn take_delimiter(&mut self, line: &[u8], visitor: &mut impl Visitor) -> bool {
        if !line.starts_with(b"--") {
            return false;
        }
        let text = line.trim_ascii_end();
        let fit = |level: &Level| {
            let tail = text.strip_prefix(&*level.delimiter)?;
            match tail {
                b"" => Some(false),
                b"--" => Some(true),
                _ => None,
            }
        };
        let mut levels = self.levels.iter().enumerate().rev();
        let Some((at, is_last)) = levels.find_map(|(at, level)| Some((at, fit(level)?))) else {
            return false;
        };
        if self.place == Place::Header {
            self.end_header(false, visitor);
        }
        self.levels.truncate(at + usize::from(!is_last));
        visitor.kept(line, true);
        self.place = if is_last { Place::Sealed(Inconvertible::Around) } else { Place::Header };
        true
    }

    /// The header section is over: finds out what follows it.
    fn end_header(&mut self, has_end: bool, visitor: &mut impl Visitor) {
        let raw = std::mem::take(&mut self.header);
        let (is_digest, is_sealed) =
            self.levels.last().map_or((false, false), |level| (level.is_digest, level.is_sealed));
        let head = Head::read(&raw, is_digest, is_sealed);
        self.parts += 1;
        if self.parts > MIME_PARTS_MAX {
            return self.fail(Inconvertible::TooManyParts);
        }
        visitor.head(&head, &raw, has_end);
        self.place = match &head.content {
            Content::Multipart { boundary, is_signed, is_digest } => {
                if self.levels.len() >= MIME_DEPTH_MAX {
                    return self.fail(Inconvertible::TooDeep);
                }
                self.levels.push(Level {
                    delimiter: [b"--", &**boundary].concat(),
                    is_sealed: is_sealed || *is_signed,
                    is_digest: *is_digest,
                });
                Place::Sealed(Inconvertible::Around)
            }
            Content::Unbounded => Place::Sealed(Inconvertible::Around),
            Content::Message => Place::Sealed(Inconvertible::Message),
            Content::Leaf if is_sealed => Place::Sealed(Inconvertible::Signed),
            Content::Leaf if head.is_encoded() => Place::Sealed(Inconvertible::Encoded),
            Content::Leaf => Place::Body,
        };
    }
}

fn is_continuation(text: &[u8]) -> bool {
    matches!(text.first(), Some(b' ' | b'\t'))
}

/// Whether a line begins a field: a name, blanks, and a colon.
fn is_field(text: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', text) else { return false };
    let name = text.get(..colon).unwrap_or_default().trim_ascii_end();
    !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
}
