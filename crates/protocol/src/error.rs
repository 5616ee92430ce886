//! Errors of parsing, by what the peer got wrong.

use thiserror::Error;

/// Why a text is not an address, or not a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is nothing where an address, or a part of it, has to be.
    #[error("empty address")]
    Empty,
    /// There is no `@` with a domain behind it.
    #[error("address without a domain")]
    NoDomain,
    /// The local-part is neither a dot-string nor a quoted string.
    #[error("bad syntax in the local-part")]
    LocalPartSyntax,
    /// The local-part has more than 64 octets.
    #[error("local-part too long")]
    LocalPartTooLong,
    /// The domain has a character, or an order of characters, that no domain has.
    #[error("bad syntax in the domain")]
    DomainSyntax,
    /// The domain has more than 255 octets or a label of more than 63.
    #[error("domain too long")]
    DomainTooLong,
    /// What stands in square brackets is not an IP address.
    #[error("bad address literal")]
    LiteralSyntax,
    /// The address has octets above 127, which need SMTPUTF8.
    #[error("address is not ASCII")]
    NonAscii,
    /// The address has octets above 127 that are not UTF-8.
    #[error("address is not UTF-8")]
    NotUtf8,
    /// The path has a source route (RFC 5321 appendix C).
    #[error("source route in a path")]
    SourceRoute,
    /// The path as a whole has more than 256 octets.
    #[error("path too long")]
    PathTooLong,
    /// The angle brackets of the path are missing or not paired.
    #[error("bad angle brackets around a path")]
    Brackets,
}

/// A text is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[error("not an enhanced status code")]
pub struct StatusError;

/// Why octets from a server are not an SMTP reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ReplyError {
    /// A line does not begin with a reply code and a space, a hyphen or the line's end.
    #[error("line without a reply code")]
    Code,
    /// The lines of one reply have different codes.
    #[error("different codes in one reply")]
    MixedCodes,
    /// A CR is not followed by LF.
    #[error("bare carriage return in a reply")]
    BareCarriageReturn,
    /// A line has more than [`crate::limits::REPLY_LINE_MAX`] octets.
    #[error("reply line too long")]
    LineTooLong,
    /// The reply has too many lines or too many octets.
    #[error("reply too long")]
    TooLong,
}

/// Why the framing of a command line is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum LineError {
    /// A CR is not followed by LF. What comes after cannot be trusted.
    #[error("bare carriage return in a command")]
    BareCarriageReturn,
    /// An LF does not follow a CR. What comes after cannot be trusted.
    #[error("bare line feed in a command")]
    BareLineFeed,
    /// The line was over-long; it has been skipped, the next one can be read.
    #[error("command line too long")]
    TooLong,
    /// The line has no end within [`crate::limits::ENDLESS_LINE_MAX`].
    #[error("command line without an end")]
    Endless,
}
