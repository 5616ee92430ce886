//! Reverse-paths and forward-paths (RFC 5321 §4.1.2).

use std::fmt;
use std::str::FromStr;

use crate::address::{Domain, Host, Mailbox, Syntax};
use crate::error::AddressError;
use crate::limits::PATH_MAX;

/// The argument of MAIL: where reports of failure go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReversePath {
    /// `<>`: nobody. Messages from it are never answered by a report (RFC 5321 §4.5.5).
    Null,
    /// A mailbox.
    Mailbox(Mailbox),
}

impl ReversePath {
    /// Reads the wire form, angle brackets included, such as [`Display`](fmt::Display) writes it.
    ///
    /// Takes what [`Syntax::Lenient`] takes, for it has to read back what any listener accepted.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is not a reverse-path.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::from_inner(inner(text)?, Syntax::Lenient)
    }

    /// Reads what stands between the angle brackets.
    pub(crate) fn from_inner(inner: &str, syntax: Syntax) -> Result<Self, AddressError> {
        if inner.is_empty() {
            return Ok(Self::Null);
        }
        mailbox(inner, syntax).map(Self::Mailbox)
    }

    /// Whether it is `<>`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Whether it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
    }

    /// The mailbox, unless it is `<>`.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Null => None,
            Self::Mailbox(mailbox) => Some(mailbox),
        }
    }

    /// Displays the path without its brackets, for logs; nothing at all for `<>`.
    pub fn bare(&self) -> Bare<'_> {
        Bare(self.mailbox().map_or(BareText::Nothing, BareText::Mailbox))
    }
}

impl fmt::Display for ReversePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.bare())
    }
}

impl FromStr for ReversePath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// The argument of RCPT: to whom the message goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardPath {
    /// A mailbox.
    Mailbox(Mailbox),
    /// `<Postmaster>` without a domain, which every server has to know (RFC 5321 §4.5.1).
    Postmaster,
}

impl ForwardPath {
    /// Reads the wire form, angle brackets included, such as [`Display`](fmt::Display) writes it.
    ///
    /// Takes what [`Syntax::Lenient`] takes, for it has to read back what any listener accepted.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is not a forward-path; `<>` is not.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::from_inner(inner(text)?, Syntax::Lenient)
    }

    /// Reads what stands between the angle brackets.
    pub(crate) fn from_inner(inner: &str, syntax: Syntax) -> Result<Self, AddressError> {
        if inner.eq_ignore_ascii_case("postmaster") {
            return Ok(Self::Postmaster);
        }
        mailbox(inner, syntax).map(Self::Mailbox)
    }

    /// Whether it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.mailbox().is_none_or(Mailbox::is_ascii)
    }

    /// The mailbox, unless it is the postmaster without a domain.
    pub fn mailbox(&self) -> Option<&Mailbox> {
        match self {
            Self::Mailbox(mailbox) => Some(mailbox),
            Self::Postmaster => None,
        }
    }

    /// What stands to the right of the `@`; a domain outside of ASCII by its A-labels.
    pub fn host(&self) -> Option<&Host> {
        self.mailbox().map(Mailbox::host)
    }

    /// The domain name to the right of the `@`, if it is one.
    pub fn domain(&self) -> Option<&Domain> {
        self.mailbox().and_then(Mailbox::domain)
    }

    /// Displays the path without its brackets, for logs and reports.
    pub fn bare(&self) -> Bare<'_> {
        Bare(self.mailbox().map_or(BareText::Postmaster, BareText::Mailbox))
    }
}

impl fmt::Display for ForwardPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.bare())
    }
}

impl FromStr for ForwardPath {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl From<Mailbox> for ReversePath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

impl From<Mailbox> for ForwardPath {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}

/// A path without its angle brackets, to be displayed.
#[derive(Debug, Clone, Copy)]
pub struct Bare<'a>(BareText<'a>);

#[derive(Debug, Clone, Copy)]
enum BareText<'a> {
    Nothing,
    Postmaster,
    Mailbox(&'a Mailbox),
}

impl fmt::Display for Bare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BareText::Nothing => Ok(()),
            BareText::Postmaster => f.write_str("Postmaster"),
            BareText::Mailbox(mailbox) => mailbox.fmt(f),
        }
    }
}

fn inner(text: &str) -> Result<&str, AddressError> {
    text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).ok_or(AddressError::Brackets)
}

/// Reads a mailbox with an optional source route in front.
fn mailbox(inner: &str, syntax: Syntax) -> Result<Mailbox, AddressError> {
    if inner.len() + 2 > PATH_MAX {
        return Err(AddressError::PathTooLong);
    }
    if !inner.starts_with('@') {
        return Mailbox::parse_with(inner, syntax);
    }
    // RFC 5321 appendix C: a route may be ignored, and need not be accepted.
    match (syntax, inner.split_once(':')) {
        (Syntax::Lenient, Some((_, mailbox))) => Mailbox::parse_with(mailbox, syntax),
        _ => Err(AddressError::SourceRoute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_forms_round_trip() {
        for text in
            ["<>", "<a@b.test>", "<\"a b>\"@b.test>", "<a..b@under_score.test>", "<a@[192.0.2.1]>"]
        {
            assert_eq!(ReversePath::parse(text).unwrap().to_string(), text);
        }
        for text in ["<a@b.test>", "<Postmaster>", "<a@[IPv6:2001:db8::1]>"] {
            assert_eq!(ForwardPath::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(ForwardPath::parse("<pOSTmaster>"), Ok(ForwardPath::Postmaster));
    }

    #[test]
    fn null_is_a_reverse_path_only() {
        assert!(ReversePath::parse("<>").unwrap().is_null());
        assert_eq!(ForwardPath::parse("<>"), Err(AddressError::Empty));
        assert_eq!(ReversePath::parse(""), Err(AddressError::Brackets));
        assert_eq!(ReversePath::Null.bare().to_string(), "");
        assert_eq!(ForwardPath::Postmaster.bare().to_string(), "Postmaster");
    }

    #[test]
    fn a_path_has_at_most_256_octets() {
        let local_part = "a".repeat(60);
        let label = "b".repeat(60);
        let text = format!("<{local_part}@{label}.{label}.{label}.c123456789>");
        let filler = 256 - text.len();
        let fits =
            format!("<{local_part}@{label}.{label}.{label}.c123456789{}>", "d".repeat(filler));
        assert_eq!(fits.len(), 256);
        assert!(ForwardPath::parse(&fits).is_ok());
        let over =
            format!("<{local_part}@{label}.{label}.{label}.c123456789{}>", "d".repeat(filler + 1));
        assert_eq!(ForwardPath::parse(&over), Err(AddressError::PathTooLong));
    }
}
