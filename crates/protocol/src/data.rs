//! Mail data: the content that follows DATA, and its dots (RFC 5321 §4.5.2), or BDAT (RFC 3030).

use crate::limits::{HEADER_FIELDS_MAX, HEADER_SIZE_MAX, MESSAGE_SIZE_MAX, TEXT_LINE_MAX};

#[cfg(test)]
mod chunk_tests;
pub mod edit;
#[cfg(test)]
mod edit_tests;
pub mod field;
mod header;
mod known;
pub mod stuff;
#[cfg(test)]
mod tests;
mod violation;

use header::{HeaderScan, LineKind};
pub use violation::{ContentViolation, ViolationPlace};

/// What the decoder lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentLimits {
    /// Octets of content; twice as many end the session.
    pub size_max: u64,
    /// Octets in a line without its CRLF.
    pub line_size_max: usize,
    /// Octets in the header section.
    pub header_size_max: usize,
    /// Fields in the header section.
    pub header_fields_max: usize,
}

impl Default for ContentLimits {
    fn default() -> Self {
        Self {
            size_max: MESSAGE_SIZE_MAX,
            line_size_max: TEXT_LINE_MAX,
            header_size_max: HEADER_SIZE_MAX,
            header_fields_max: HEADER_FIELDS_MAX,
        }
    }
}

/// How far the content has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentProgress {
    /// It goes on; all of the input has been taken.
    More,
    /// The terminator has been taken, and the content is good.
    End,
    /// The content is refused. Unless [`ContentViolation::closes_session`], the terminator has been
    /// taken.
    Violation(ContentViolation),
}

/// Where in the line the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    LineStart,
    /// Behind a dot at the start of a line, which has not been copied.
    Dot,
    /// Behind that dot and a CR.
    DotCarriageReturn,
    Middle,
    /// Behind a CR, which has been copied.
    CarriageReturn,
    /// In the body of binary content, where lines mean nothing.
    Raw,
}

/// How the content comes, and what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// By DATA: lines, dots stuffed, and a terminator.
    Dots,
    /// By BDAT: lines, as they are.
    Chunks,
    /// By BDAT, declared as BINARYMIME: up to its first empty line it is lines, and then any octets.
    /// The header section has to be text, because we look into it, and repeat it in reports.
    BinaryChunks,
}

/// Takes the dots off mail data, and refuses data that is unsafe to pass on.
///
/// Only CR LF . CR LF ends the content, and a CR or LF outside of a CR LF pair is an error that
/// closes the session: servers that disagree about the end of a message can be made to see commands in
/// it. Other violations are reported after the terminator, so that the session can go on.
///
/// A message needs no header section: content without one is accepted as it is, since load tools
/// and scripts send such. A line that is neither a field nor a continuation ends the header section
/// just as the empty line does.
///
/// Content that comes by BDAT is decoded by the same rules, but for the dots: its chunks are handed
/// in as pieces of one input, and behind the last one [`finish`](Self::finish) is called.
///
/// This is the hottest loop of the server. Lines are found by `memchr`, and whole runs of them are
/// copied; only the header section is looked at octet by octet, up to each colon.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
pub struct ContentDecoder {
    limits: ContentLimits,
    framing: Framing,
    position: Position,
    violation: Option<ContentViolation>,
    /// Where it is, the octets of that line, and whether it is one of the header section.
    violation_line: u64,
    violation_size: usize,
    violation_in_header: bool,
    header: HeaderScan,
    eight_bit: bool,
    /// An octet above 127 in the header section, and in the line that is walked.
    header_eight_bit: bool,
    line_eight_bit: bool,
    /// Octets of content so far.
    size: u64,
    /// Lines that have ended so far.
    lines: u64,
    /// Octets of the current line that earlier inputs had, without dots that were taken off.
    line_size: usize,
}

impl ContentDecoder {
    /// Makes a decoder that stands behind the CRLF of DATA, or of the first BDAT.
    pub fn new(limits: ContentLimits, framing: Framing) -> Self {
        Self {
            limits,
            framing,
            position: Position::LineStart,
            violation: None,
            violation_line: 0,
            violation_size: 0,
            violation_in_header: false,
            header: HeaderScan::default(),
            eight_bit: false,
            header_eight_bit: false,
            line_eight_bit: false,
            size: 0,
            lines: 0,
            line_size: 0,
        }
    }

    /// Octets of content so far, dots taken off, refused octets included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether an octet above 127 has been seen.
    pub fn is_eight_bit(&self) -> bool {
        self.eight_bit
    }

    /// Whether an octet above 127 has been seen in the header section.
    pub fn is_header_eight_bit(&self) -> bool {
        self.header_eight_bit
    }

    /// `Received` fields in the header section.
    pub fn received_fields(&self) -> usize {
        self.header.received_fields()
    }

    /// Whether the header section has one `TLS-Required` field, and that says `No` (RFC 8689 §3). To be
    /// asked at the end of the content.
    pub fn is_tls_optional(&self) -> bool {
        self.header.is_tls_optional()
    }

    /// What is wrong with the content so far, though it could go on.
    pub fn violation(&self) -> Option<ContentViolation> {
        self.violation
    }

    /// Where the violation is which was last reported.
    pub fn violation_place(&self) -> ViolationPlace {
        ViolationPlace {
            line: self.violation_line,
            line_size: self.violation_size as u64,
            is_in_header: self.violation_in_header,
            limits: self.limits,
        }
    }

    /// Takes octets up to the terminator, appends content, and returns how many were taken. Content
    /// in chunks has no terminator, and no end here.
    ///
    /// After the end or a violation the decoder must not be used again. With a violation what was
    /// appended is worthless.
    pub fn decode(&mut self, input: &[u8], content: &mut Vec<u8>) -> (usize, ContentProgress) {
        let lines_before = self.lines;
        let (mut consumed, ended) = match self.scan(input, content) {
            Ok(step) => step,
            Err(violation) => {
                (self.violation_line, self.violation_in_header) = (self.lines + 1, false);
                // In smaller pieces it would have been too much before this was seen.
                let is_far = self.is_far_too_large();
                let violation = if is_far { ContentViolation::FarTooLarge } else { violation };
                return (input.len(), ContentProgress::Violation(violation));
            }
        };
        let taken = input.get(..consumed).unwrap_or_default();
        self.eight_bit = self.eight_bit || !taken.is_ascii();
        if let Some(at) = memchr::memchr(0, taken) {
            self.note_nul(lines_before, taken, at);
        }
        if self.position == Position::Raw {
            let raw = input.get(consumed..).unwrap_or_default();
            self.eight_bit = self.eight_bit || !raw.is_ascii();
            self.copy(raw, 0, raw.len(), content);
            consumed = input.len();
        }
        if self.size > self.limits.size_max {
            self.note(ContentViolation::TooLarge);
            if self.is_far_too_large() {
                return (consumed, ContentProgress::Violation(ContentViolation::FarTooLarge));
            }
        }
        let progress = match (ended, self.violation) {
            (false, _) => ContentProgress::More,
            (true, None) => ContentProgress::End,
            (true, Some(violation)) => ContentProgress::Violation(violation),
        };
        (consumed, progress)
    }

    fn is_far_too_large(&self) -> bool {
        self.size / 2 > self.limits.size_max
    }

    /// Takes the end of content that came in chunks. A last line without CRLF gets one, for whatever
    /// carries the message on needs it; but nothing is added to a binary body.
    ///
    /// # Errors
    ///
    /// What is wrong with the content; what was appended is worthless then.
    pub fn finish(&mut self, content: &mut Vec<u8>) -> Result<(), ContentViolation> {
        match self.position {
            Position::CarriageReturn => {
                (self.violation_line, self.violation_in_header) = (self.lines + 1, false);
                return Err(ContentViolation::BareCarriageReturn);
            }
            Position::Middle => {
                self.copy(b"\r\n", 0, 2, content);
                self.end_line();
                if self.size > self.limits.size_max {
                    self.note(ContentViolation::TooLarge);
                }
            }
            _ => {}
        }
        self.violation.map_or(Ok(()), Err)
    }

    /// Walks over the lines; returns the octets taken, and whether the terminator was among them.
    fn scan(
        &mut self,
        input: &[u8],
        content: &mut Vec<u8>,
    ) -> Result<(usize, bool), ContentViolation> {
        // `run` is where the octets begin that are still to be copied, `at` where the walk stands.
        let (mut run, mut at) = (0, 0);
        while let Some(&b) = input.get(at) {
            match self.position {
                Position::LineStart if b == b'.' && self.framing == Framing::Dots => {
                    self.copy(input, run, at, content);
                    at += 1;
                    run = at;
                    self.position = Position::Dot;
                }
                Position::Dot if b == b'\r' => {
                    at += 1;
                    self.position = Position::DotCarriageReturn;
                }
                Position::DotCarriageReturn => {
                    return match b {
                        b'\n' => Ok((at + 1, true)),
                        _ => Err(ContentViolation::BareCarriageReturn),
                    };
                }
                Position::CarriageReturn => {
                    if b != b'\n' {
                        return Err(ContentViolation::BareCarriageReturn);
                    }
                    at += 1;
                    self.end_line();
                }
                Position::LineStart | Position::Dot | Position::Middle => {
                    at = match self.walk_line(input, at) {
                        Ok(at) => at,
                        Err((at, violation)) => {
                            self.size = self.size.saturating_add((at - run) as u64);
                            return Err(violation);
                        }
                    };
                }
                Position::Raw => {
                    self.copy(input, run, at, content);
                    return Ok((at, false));
                }
            }
        }
        if self.position != Position::DotCarriageReturn {
            self.copy(input, run, input.len(), content);
        }
        Ok((input.len(), false))
    }

    /// Walks to the end of the line, or of the input; returns where the walk stands then, or where the
    /// octet is that must not be there.
    fn walk_line(
        &mut self,
        input: &[u8],
        start: usize,
    ) -> Result<usize, (usize, ContentViolation)> {
        let rest = input.get(start..).unwrap_or_default();
        let length = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        let (line, end) = rest.split_at(length);
        if self.header.is_open() {
            self.header.scan(line);
            self.line_eight_bit = self.line_eight_bit || !line.is_ascii();
        }
        self.line_size += length;
        match end {
            [b'\r', b'\n', ..] => {
                self.end_line();
                Ok(start + length + 2)
            }
            [b'\r'] => {
                self.position = Position::CarriageReturn;
                Ok(input.len())
            }
            [] => {
                self.position = Position::Middle;
                self.check_line();
                Ok(input.len())
            }
            [b'\n', ..] => Err((start + length, ContentViolation::BareLineFeed)),
            [_, ..] => Err((start + length + 1, ContentViolation::BareCarriageReturn)),
        }
    }

    /// Remembers a violation; which of several is reported does not depend on how the input was cut.
    #[cold]
    fn note(&mut self, violation: ContentViolation) {
        self.note_at(violation, self.lines + 1);
    }

    fn note_at(&mut self, violation: ContentViolation, line: u64) {
        if self.violation.is_none_or(|noted| noted.rank() < violation.rank()) {
            self.violation = Some(violation);
            (self.violation_line, self.violation_in_header) = (line, false);
        }
    }

    /// Remembers the first NUL of a piece, whose lines are counted only now.
    #[cold]
    fn note_nul(&mut self, lines_before: u64, taken: &[u8], at: usize) {
        let before = taken.get(..at).unwrap_or_default();
        let lines = memchr::memchr_iter(b'\n', before).count() as u64;
        self.note_at(ContentViolation::Nul, lines_before + lines + 1);
    }

    #[inline]
    fn check_line(&mut self) {
        if self.line_size > self.limits.line_size_max {
            let line = self.lines + 1;
            self.note(ContentViolation::LineTooLong { line });
            if self.violation == Some(ContentViolation::LineTooLong { line }) {
                self.violation_size = self.line_size;
                let kind = self.header.line_kind();
                self.violation_in_header = self.header.is_open()
                    && matches!(kind, LineKind::Field | LineKind::Continuation);
            }
        }
    }

    #[inline]
    fn end_line(&mut self) {
        self.check_line();
        if self.header.is_open() {
            if let Err(violation) = self.header.end_line(self.line_size, &self.limits) {
                self.note(violation);
            }
            // The line that ends the section may be one of the body.
            let in_header = std::mem::take(&mut self.line_eight_bit) && self.header.is_open();
            self.header_eight_bit = self.header_eight_bit || in_header;
        }
        let begins_body = self.line_size == 0 && self.framing == Framing::BinaryChunks;
        self.lines += 1;
        self.line_size = 0;
        self.position = if begins_body { Position::Raw } else { Position::LineStart };
    }

    /// Counts a run of content, and copies it unless it is refused already.
    fn copy(&mut self, input: &[u8], start: usize, end: usize, content: &mut Vec<u8>) {
        let run = input.get(start..end).unwrap_or_default();
        self.size = self.size.saturating_add(run.len() as u64);
        if self.violation.is_none() {
            content.extend_from_slice(run);
        }
    }
}
