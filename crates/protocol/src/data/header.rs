//! A walk over the header section that counts its fields.

use super::known::{Known, Prefix, TlsRequired};
use super::{ContentLimits, ContentViolation};

/// Where in a line of the header section the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// In a field name, which may become a known one.
    Name(Option<Prefix>),
    /// Behind a field name and white space.
    AfterName(Option<Known>),
    /// Behind the colon of a field.
    Body,
    /// Behind that of `TLS-Required`.
    TlsRequired,
    /// In a line that continues a field.
    Continuation,
    /// In one that continues `TLS-Required`.
    TlsRequiredMore,
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
    tls_required: TlsRequired,
    /// The field before is `TLS-Required`: what continues it is a part of it.
    in_tls_required: bool,
}

impl Default for HeaderScan {
    fn default() -> Self {
        Self {
            open: true,
            place: Place::Start,
            size: 0,
            fields: 0,
            received_fields: 0,
            tls_required: TlsRequired::default(),
            in_tls_required: false,
        }
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

    pub(super) fn is_tls_optional(&self) -> bool {
        self.tls_required.is_no()
    }

    /// What the line is that is walked. To be asked before its end is taken.
    pub(super) fn line_kind(&self) -> LineKind {
        match self.place {
            Place::Start | Place::Name(_) | Place::AfterName(_) => LineKind::Open,
            Place::Body | Place::TlsRequired => LineKind::Field,
            Place::Continuation | Place::TlsRequiredMore => LineKind::Continuation,
            Place::Other => LineKind::Other,
        }
    }

    /// Takes a piece of a line, without its CRLF.
    pub(super) fn scan(&mut self, piece: &[u8]) {
        for &b in piece {
            self.place = match (self.place, b) {
                (Place::Body | Place::Continuation | Place::Other, _) => return,
                (Place::TlsRequired | Place::TlsRequiredMore, _) => {
                    self.tls_required.take(b);
                    self.place
                }
                (Place::Start, b' ' | b'\t') if self.in_tls_required => {
                    self.tls_required.take(b);
                    Place::TlsRequiredMore
                }
                (Place::Start, b' ' | b'\t') => Place::Continuation,
                (Place::Start, b':') => Place::Other,
                (Place::Name(name), b':') => self.field(name.and_then(Prefix::whole)),
                (Place::AfterName(known), b':') => self.field(known),
                (Place::Start, b'!'..=b'~') => Place::Name(Prefix::begin(b)),
                (Place::Name(name), b'!'..=b'~') => {
                    Place::Name(name.and_then(|name| name.advance(b)))
                }
                // RFC 5322 §4.5: white space before the colon is obsolete, and has to be read.
                (Place::Name(name), b' ' | b'\t') => Place::AfterName(name.and_then(Prefix::whole)),
                (Place::AfterName(_), b' ' | b'\t') => self.place,
                (Place::Start | Place::Name(_) | Place::AfterName(_), _) => Place::Other,
            };
        }
    }

    fn field(&mut self, known: Option<Known>) -> Place {
        self.fields += 1;
        self.in_tls_required = false;
        match known {
            None => Place::Body,
            Some(Known::Received) => {
                self.received_fields += 1;
                Place::Body
            }
            Some(Known::TlsRequired) => {
                self.tls_required.begin();
                self.in_tls_required = true;
                Place::TlsRequired
            }
        }
    }

    /// Takes the line that is walked for a field.
    pub(super) fn take_for_field(&mut self) {
        self.place = self.field(None);
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
            Place::Start | Place::Name(_) | Place::AfterName(_) | Place::Other => {
                self.open = false;
                return Ok(());
            }
            Place::Continuation if self.fields == 0 => {
                self.open = false;
                return Err(ContentViolation::HeaderSyntax);
            }
            Place::Body | Place::TlsRequired | Place::Continuation | Place::TlsRequiredMore => {}
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
