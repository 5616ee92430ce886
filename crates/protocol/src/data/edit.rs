//! Changes the header section of content that streams by: fields are taken out, missing ones added.

use super::ContentLimits;
use super::field::{TakenField, Taking};
use super::header::{HeaderScan, LineKind};
use crate::time::write_rfc5322;

/// The fields that a message has to have (RFC 5322 §3.6), or should, and that can be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MissingFields {
    /// There is no `Date`.
    pub date: bool,
    /// There is no `Message-ID`.
    pub message_id: bool,
}

impl MissingFields {
    /// Whether there is one that is missing.
    pub fn any(self) -> bool {
        self.date || self.message_id
    }
}

/// What the fields say that are added.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// When the message was received, in seconds of Unix time.
    pub unix_seconds: u64,
    /// The queue id: printable ASCII without specials. With the time in front of the `@` of
    /// `Message-ID`, so that a queue that is made anew repeats nothing.
    pub id: &'a str,
    /// Our host name, behind that `@`.
    pub host: &'a str,
}

/// Where the added fields stand among the octets that are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    /// In front of the empty line, or at the end of content that is a header section only.
    End,
    /// In front of a line that is none of a header section: the empty line is added too.
    Text,
}

/// What is added, and what is known of it.
#[derive(Debug)]
struct Additions {
    missing: MissingFields,
    fields: Vec<u8>,
    /// The content was over before they were known.
    is_owed: bool,
    /// Octets that have been added.
    size: u64,
}

/// The name that the line gets with which mailbox files begin a message.
const MAILBOX_LINE: &[u8] = b"X-Mailbox-Line: ";

/// What becomes of the line that is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// It is held back until it is known.
    Open,
    Passed,
    /// The taken field with this number has it.
    Taken(usize),
}

/// Takes fields of given names out of the header section, and adds `Date` and `Message-ID` to its end
/// if they are missing.
///
/// Takes the content of [`ContentDecoder`](super::ContentDecoder) in any pieces, and by
/// [`finish`](Self::finish) its end. No octet that stays is changed or moved, and the body is copied.
/// Where the header section ends with a line that is none of a header section, as in content without
/// one, added fields stand in front of that line, with an empty line behind them. When no field is missing
/// nothing is added.
///
/// Where missing fields are added, a first line as in mailbox files, `From ` or `>From ` and more, does not end
/// the header section: it becomes the field `X-Mailbox-Line`, so that the fields behind it stay fields.
///
/// Of a line that may be a field it holds back the name, up to its colon; a line with more octets than a
/// header section may have is none.
///
/// # Contract
///
/// - Getters: [`is_done`](Self::is_done), [`field`](Self::field), [`missing`](Self::missing),
///   [`removed`](Self::removed), [`added`](Self::added).
/// - The driver reports facts: [`pass`](Self::pass), [`finish`](Self::finish).
/// - The driver gives orders: [`add_missing`](Self::add_missing) before the first piece,
///   [`set_origin`](Self::set_origin).
/// - There is nothing to poll.
#[derive(Debug)]
pub struct HeaderEditor {
    takings: Box<[Taking]>,
    additions: Option<Additions>,
    header: HeaderScan,
    line: Line,
    /// Whether that is the first one.
    is_first: bool,
    /// The taken field that the line before belongs to.
    taking: Option<usize>,
    /// The beginning of an open line.
    held: Vec<u8>,
    held_max: usize,
    /// Octets that have been taken out.
    removed: u64,
}

impl HeaderEditor {
    /// Makes an editor that stands before the content, and takes out the fields of these names. They are
    /// looked for in any case, and have to be such that [`is_field_name`](super::field::is_field_name)
    /// lets pass. `header_size_max` is the limit of the decoder.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, header_size_max: usize) -> Self {
        Self {
            takings: names.into_iter().map(Taking::new).collect(),
            additions: None,
            header: HeaderScan::default(),
            line: Line::Open,
            is_first: true,
            taking: None,
            held: Vec::new(),
            held_max: header_size_max,
            removed: 0,
        }
    }

    /// Has it add missing fields. What they say is to be told by [`set_origin`](Self::set_origin).
    pub fn add_missing(&mut self) {
        let missing = MissingFields { date: true, message_id: true };
        self.additions = Some(Additions { missing, fields: Vec::new(), is_owed: false, size: 0 });
    }

    /// Whether the header section is over, and all that follows is passed on as it is.
    pub fn is_done(&self) -> bool {
        !self.header.is_open()
    }

    /// What has been taken so far of the field with this number among the names.
    pub fn field(&self, number: usize) -> TakenField<'_> {
        self.takings.get(number).map_or(TakenField::Absent, Taking::field)
    }

    /// The fields that have not been seen so far; none where none is to be added.
    pub fn missing(&self) -> MissingFields {
        self.additions.as_ref().map_or(MissingFields::default(), |additions| additions.missing)
    }

    /// Octets that have been taken out so far.
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Octets that have been added so far.
    pub fn added(&self) -> u64 {
        self.additions.as_ref().map_or(0, |additions| additions.size)
    }

    /// Tells it what added fields say. If the content had its end before, they are appended to `out`.
    pub fn set_origin(&mut self, origin: &Origin<'_>, out: &mut Vec<u8>) {
        let Some(additions) = &mut self.additions else { return };
        additions.set(origin);
        if std::mem::take(&mut additions.is_owed) {
            additions.write(Spot::End, out);
        }
    }

    /// Takes a piece of the content, and appends to `out` what is to be passed on.
    pub fn pass(&mut self, mut content: &[u8], out: &mut Vec<u8>) {
        while !content.is_empty() && !self.is_done() {
            let end = memchr::memchr(b'\n', content).map(|at| at + 1);
            let (piece, rest) = content.split_at(end.unwrap_or(content.len()));
            content = rest;
            // A CR only stands in front of an LF.
            let line = piece.strip_suffix(b"\n").unwrap_or(piece);
            self.header.scan(line.strip_suffix(b"\r").unwrap_or(line));
            self.pass_piece(piece, end.is_some(), out);
            if end.is_some() && !self.is_done() {
                self.end_line();
            }
        }
        out.extend_from_slice(content);
    }

    /// Takes the end of the content, and appends to `out` what is still to be passed on.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.is_done() {
            self.end_header(Spot::End, out);
            out.append(&mut self.held);
            if let Some(additions) = &mut self.additions {
                additions.is_owed = additions.fields.is_empty();
            }
        }
    }

    fn pass_piece(&mut self, piece: &[u8], is_end: bool, out: &mut Vec<u8>) {
        match self.line {
            Line::Passed => out.extend_from_slice(piece),
            Line::Taken(number) => self.take(number, piece),
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
        match self.header.line_kind() {
            LineKind::Open if !is_end && line.len() <= self.held_max => {
                self.held.extend_from_slice(line);
            }
            LineKind::Open | LineKind::Other if self.is_mailbox_line(line) => {
                self.header.take_for_field();
                if let Some(additions) = &mut self.additions {
                    additions.size += MAILBOX_LINE.len() as u64;
                }
                out.extend_from_slice(MAILBOX_LINE);
                self.pass_line(line, out);
            }
            LineKind::Open | LineKind::Other => {
                let is_empty = line == b"\r\n";
                self.end_header(if is_empty { Spot::End } else { Spot::Text }, out);
                out.extend_from_slice(line);
            }
            LineKind::Continuation => match self.taking {
                Some(number) => {
                    self.line = Line::Taken(number);
                    self.take(number, line);
                }
                None => self.pass_line(line, out),
            },
            LineKind::Field => self.begin_field(line, out),
        }
    }

    /// Whether a line is one that is in front of the fields of a message in a mailbox file, and to be mended.
    fn is_mailbox_line(&self, line: &[u8]) -> bool {
        let line = line.strip_prefix(b">").unwrap_or(line);
        self.is_first && self.additions.is_some() && line.starts_with(b"From ")
    }

    fn begin_field(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, rest) = line.split_at(colon);
        let name = name.trim_ascii_end();
        if let Some(number) = self.takings.iter().position(|taking| taking.is_named(name)) {
            self.line = Line::Taken(number);
            self.removed += colon as u64 + 1;
            if let Some(taking) = self.takings.get_mut(number) {
                taking.begin();
            }
            return self.take(number, rest.get(1..).unwrap_or_default());
        }
        if let Some(additions) = &mut self.additions {
            additions.note(name);
        }
        self.pass_line(line, out);
    }

    fn pass_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        self.line = Line::Passed;
        out.extend_from_slice(line);
    }

    fn take(&mut self, number: usize, piece: &[u8]) {
        self.removed += piece.len() as u64;
        if let Some(taking) = self.takings.get_mut(number) {
            taking.take(piece);
        }
    }

    fn end_line(&mut self) {
        // Size and number of fields are the decoder's business.
        let limits = ContentLimits {
            header_size_max: usize::MAX,
            header_fields_max: usize::MAX,
            ..ContentLimits::default()
        };
        let _ = self.header.end_line(0, &limits);
        self.taking = match self.line {
            Line::Taken(number) => Some(number),
            _ => None,
        };
        self.line = Line::Open;
        self.is_first = false;
    }

    fn end_header(&mut self, spot: Spot, out: &mut Vec<u8>) {
        self.header.close();
        if let Some(additions) = &mut self.additions {
            additions.write(spot, out);
        }
    }
}

impl Additions {
    /// Takes the name of a field that is there.
    fn note(&mut self, name: &[u8]) {
        self.missing.date &= !name.eq_ignore_ascii_case(b"Date");
        self.missing.message_id &= !name.eq_ignore_ascii_case(b"Message-ID");
    }

    fn set(&mut self, origin: &Origin<'_>) {
        let out = &mut self.fields;
        out.clear();
        let mut digits = [0; 20];
        let seconds = crate::time::decimal(origin.unix_seconds, &mut digits);
        for part in [b"Message-ID: <", origin.id.as_bytes(), b".", seconds, b"@"] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(origin.host.as_bytes());
        out.extend_from_slice(b">\r\nDate: ");
        write_rfc5322(origin.unix_seconds, out);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the fields that are missing.
    fn write(&mut self, spot: Spot, out: &mut Vec<u8>) {
        if self.fields.is_empty() || !self.missing.any() {
            return;
        }
        let start = out.len();
        let first = memchr::memchr(b'\n', &self.fields).map_or(0, |at| at + 1);
        let (message_id, date) = self.fields.split_at(first);
        if self.missing.date {
            out.extend_from_slice(date);
        }
        if self.missing.message_id {
            out.extend_from_slice(message_id);
        }
        if spot == Spot::Text {
            out.extend_from_slice(b"\r\n");
        }
        self.size += (out.len() - start) as u64;
    }
}
