//! What content must not be, and what its sender is told.

use super::ContentLimits;
use crate::time::decimal;

/// Why content is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ContentViolation {
    /// A CR is not followed by LF: where the content ends is in doubt.
    BareCarriageReturn,
    /// An LF does not follow a CR: where the content ends is in doubt.
    BareLineFeed,
    /// There is a NUL.
    Nul,
    /// A line is too long.
    LineTooLong {
        /// Its number, the first line being 1.
        line: u64,
    },
    /// The header section has too many octets.
    HeaderTooLarge,
    /// The header section has too many fields.
    TooManyFields,
    /// The first line begins with white space: it continues nothing.
    HeaderSyntax,
    /// The content is larger than the limit.
    TooLarge,
    /// The content is larger than twice the limit.
    FarTooLarge,
}

/// Where content breaks a rule, and what it was held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViolationPlace {
    /// The number of the line, the first one being 1; 0 when there is none.
    pub line: u64,
    /// Octets of a line that is too long, without its CRLF; of one that has not ended, those so far.
    pub line_size: u64,
    /// Whether a line that is too long belongs to the header section.
    pub is_in_header: bool,
    /// What was allowed.
    pub limits: ContentLimits,
}

impl ViolationPlace {
    /// No place in particular.
    pub fn unknown(limits: ContentLimits) -> Self {
        Self { line: 0, line_size: 0, is_in_header: false, limits }
    }
}

impl ContentViolation {
    /// Whether the session has to be closed at once, the rest of the content unread. Of content that
    /// comes in chunks the end is known, and only [`FarTooLarge`](Self::FarTooLarge) is as bad.
    pub fn closes_session(self) -> bool {
        matches!(self, Self::BareCarriageReturn | Self::BareLineFeed | Self::FarTooLarge)
    }

    /// The larger is reported when there are several.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::HeaderSyntax => 0,
            Self::LineTooLong { .. } => 1,
            Self::HeaderTooLarge | Self::TooManyFields => 2,
            Self::Nul => 3,
            Self::TooLarge => 4,
            Self::BareCarriageReturn | Self::BareLineFeed | Self::FarTooLarge => 5,
        }
    }

    /// Appends the reply to send: what is wrong, in which line, and what the limit is.
    pub fn write_reply(self, place: &ViolationPlace, out: &mut Vec<u8>) {
        use Part::{Number, Text};

        let ViolationPlace { line, line_size, is_in_header, limits } = *place;
        let line = Number(line);
        let parts: &[Part] = match self {
            Self::BareCarriageReturn => {
                &[Text("550 5.5.2 Bare <CR> in line "), line, Text(" of the content")]
            }
            Self::BareLineFeed => {
                &[Text("550 5.5.2 Bare <LF> in line "), line, Text(" of the content")]
            }
            Self::Nul => &[Text("550 5.6.0 NUL in line "), line, Text(" of the content")],
            Self::LineTooLong { .. } => &[
                Text("550 5.6.0 Line "),
                line,
                Text(if is_in_header { " of the header section" } else { " of the content" }),
                Text(" is too long: "),
                Number(line_size),
                Text(" octets, the limit is "),
                Number(limits.line_size_max as u64),
            ],
            Self::HeaderTooLarge => &[
                Text("552 5.3.4 Header section too large at line "),
                line,
                Text(": the limit is "),
                Number(limits.header_size_max as u64),
                Text(" octets"),
            ],
            Self::TooManyFields => &[
                Text("552 5.3.4 Header section too large at line "),
                line,
                Text(": the limit is "),
                Number(limits.header_fields_max as u64),
                Text(" fields"),
            ],
            Self::HeaderSyntax => {
                &[Text("550 5.6.0 Line "), line, Text(" of the content begins with white space")]
            }
            Self::TooLarge | Self::FarTooLarge => &[
                Text("552 5.3.4 Message too large: the limit is "),
                Number(limits.size_max),
                Text(" octets"),
            ],
        };
        for part in parts {
            match part {
                Text(text) => out.extend_from_slice(text.as_bytes()),
                Number(number) => out.extend_from_slice(decimal(*number, &mut [0; 20])),
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// A piece of a reply.
#[derive(Debug, Clone, Copy)]
enum Part {
    Text(&'static str),
    Number(u64),
}
