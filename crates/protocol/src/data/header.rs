//! A walk over the header section that counts its fields.

use super::{ContentLimits, ContentViolation};

const RECEIVED: &[u8] = b"received";

/// Where in a line of the header section the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// In a field name of which so many octets are those of `Received`; `None` when one was not.
    Name(Option<usize>),
    /// Behind a field name and white space.
    AfterName {
        is_received: bool,
    },
    /// Behind the colon of a field.
    Body,
    /// In a line that continues a field.
    Continuation,
    /// In a line that is no field.
    Other,
}

/// What is known of a line of the header section, from the octets of it that have been walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineKind {
    /// It may become a field, or be the empty line.
    Open,
    /// It begins a field; its name and colon have been walked.
    Field,
    /// It continues a field.
    Continuation,
    /// It is no line of a header section.
    Other,
}

/// Counts fields until the header section ends. Takes lines in any pieces.
#[derive(Debug)]
pub(super) struct HeaderScan {
    open: bool,
    place: Place,
    size: usize,
    fields: usize,
    received_fields: usize,
}

impl Default for HeaderScan {
    fn default() -> Self {
        Self { open: true, place: Place::Start, size: 0, fields: 0, received_fields: 0 }
    }
}

impl HeaderScan {
    /// Whether the header section goes on.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Takes it as over.
    pub(super) fn close(&mut self) {
        self.open = false;
    }

    pub(super) fn received_fields(&self) -> usize {
        self.received_fields
    }

    /// What the line is that is walked. To be asked before its end is taken.
    pub(super) fn line_kind(&self) -> LineKind {
        match self.place {
            Place::Start | Place::Name(_) | Place::AfterName { .. } => LineKind::Open,
            Place::Body => LineKind::Field,
            Place::Continuation => LineKind::Continuation,
            Place::Other => LineKind::Other,
        }
    }

    /// Takes a piece of a line, without its CRLF.
    pub(super) fn scan(&mut self, piece: &[u8]) {
        for &b in piece {
            self.place = match (self.place, b) {
                (Place::Body | Place::Continuation | Place::Other, _) => return,
                (Place::Start, b' ' | b'\t') => Place::Continuation,
                (Place::Start, b':') => Place::Other,
                (Place::Name(matched), b':') => self.field(matched == Some(RECEIVED.len())),
                (Place::AfterName { is_received }, b':') => self.field(is_received),
                (Place::Start, b'!'..=b'~') => Place::Name(advance(Some(0), b)),
                (Place::Name(matched), b'!'..=b'~') => Place::Name(advance(matched, b)),
                // RFC 5322 §4.5: white space before the colon is obsolete, and has to be read.
                (Place::Name(matched), b' ' | b'\t') => {
                    Place::AfterName { is_received: matched == Some(RECEIVED.len()) }
                }
                (Place::AfterName { .. }, b' ' | b'\t') => self.place,
                (Place::Start | Place::Name(_) | Place::AfterName { .. }, _) => Place::Other,
            };
        }
    }

    fn field(&mut self, is_received: bool) -> Place {
        self.fields += 1;
        self.received_fields += usize::from(is_received);
        Place::Body
    }

    /// Takes the line that is walked for a field.
    pub(super) fn take_for_field(&mut self) {
        self.place = self.field(false);
    }

    /// Takes the end of a line of so many octets.
    pub(super) fn end_line(
        &mut self,
        line_size: usize,
        limits: &ContentLimits,
    ) -> Result<(), ContentViolation> {
        let place = std::mem::replace(&mut self.place, Place::Start);
        match place {
            // The empty line, or one that is no field: the body begins.
            Place::Start | Place::Name(_) | Place::AfterName { .. } | Place::Other => {
                self.open = false;
                return Ok(());
            }
            Place::Continuation if self.fields == 0 => {
                self.open = false;
                return Err(ContentViolation::HeaderSyntax);
            }
            Place::Body | Place::Continuation => {}
        }
        self.size += line_size + 2;
        if self.size > limits.header_size_max {
            self.open = false;
            return Err(ContentViolation::HeaderTooLarge);
        }
        if self.fields > limits.header_fields_max {
            self.open = false;
            return Err(ContentViolation::TooManyFields);
        }
        Ok(())
    }
}

/// Follows the name `Received`, in any case.
fn advance(matched: Option<usize>, b: u8) -> Option<usize> {
    let matched = matched?;
    (RECEIVED.get(matched) == Some(&b.to_ascii_lowercase())).then_some(matched + 1)
}
