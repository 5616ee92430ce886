//! Mailboxes and their parts (RFC 5321 §4.1.2, §4.1.3).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::error::AddressError;
use crate::limits::{DOMAIN_MAX, LABEL_MAX, LOCAL_PART_MAX};
use crate::notify::utf8::is_text;

mod idn;
#[cfg(test)]
mod tests;

/// How closely a text has to keep to the grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Syntax {
    /// RFC 5321 to the letter.
    #[default]
    Strict,
    /// Also what injectors in the field send: dots at the ends of a local-part or in a row,
    /// underscores in a domain, spaces around a path, paths without brackets, source routes (which
    /// are dropped).
    Lenient,
}

/// A domain name in ASCII and lower case, without a trailing dot.
///
/// Labels are letters, digits and hyphens, 1 to 63 octets, no hyphen at either end; the whole is at
/// most 255 octets; the last label is not a number, so that `10.1.1.1` is no domain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(Box<str>);

impl Domain {
    /// Reads a domain name, in any case.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is not a domain name.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_with(text, Syntax::Strict)
    }

    /// Reads a domain name; with [`Syntax::Lenient`] labels may have underscores too.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is not a domain name.
    pub fn parse_with(text: &str, syntax: Syntax) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::NoDomain);
        }
        if text.len() > DOMAIN_MAX {
            return Err(AddressError::DomainTooLong);
        }
        let mut last_is_number = false;
        for label in text.as_bytes().split(|&b| b == b'.') {
            check_label(label, syntax)?;
            last_is_number = label.iter().all(u8::is_ascii_digit);
        }
        if last_is_number {
            return Err(AddressError::DomainSyntax);
        }
        Ok(Self(text.to_ascii_lowercase().into_boxed_str()))
    }

    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check_label(label: &[u8], syntax: Syntax) -> Result<(), AddressError> {
    if label.len() > LABEL_MAX {
        return Err(AddressError::DomainTooLong);
    }
    let underscore = syntax == Syntax::Lenient;
    for &b in label {
        if !b.is_ascii() {
            return Err(AddressError::NonAscii);
        }
        if !(b.is_ascii_alphanumeric() || b == b'-' || (underscore && b == b'_')) {
            return Err(AddressError::DomainSyntax);
        }
    }
    match (label.first(), label.last()) {
        (None | Some(b'-'), _) | (_, None | Some(b'-')) => Err(AddressError::DomainSyntax),
        _ => Ok(()),
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl AsRef<str> for Domain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// An IP address in square brackets, as in `[192.0.2.1]` and `[IPv6:2001:db8::1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressLiteral {
    /// IPv4.
    V4(Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr),
}

impl AddressLiteral {
    /// Reads a literal with its brackets. General literals of other kinds are not known.
    ///
    /// # Errors
    ///
    /// [`AddressError::LiteralSyntax`].
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .ok_or(AddressError::LiteralSyntax)?;
        let tagged = inner.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        if tagged {
            let address = inner.get(5..).unwrap_or_default();
            return address.parse().map(Self::V6).map_err(|_| AddressError::LiteralSyntax);
        }
        inner.parse().map(Self::V4).map_err(|_| AddressError::LiteralSyntax)
    }

    /// The address itself.
    pub fn ip(self) -> IpAddr {
        match self {
            Self::V4(ip) => IpAddr::V4(ip),
            Self::V6(ip) => IpAddr::V6(ip),
        }
    }
}

impl From<IpAddr> for AddressLiteral {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => Self::V6(ip),
        }
    }
}

impl fmt::Display for AddressLiteral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(ip) => write!(f, "[{ip}]"),
            Self::V6(ip) => write!(f, "[IPv6:{ip}]"),
        }
    }
}

/// What stands to the right of the `@`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A domain name.
    Domain(Domain),
    /// An IP address in brackets.
    Literal(AddressLiteral),
}

impl Host {
    /// Reads a domain name or an address literal.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is neither.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_with(text, Syntax::Strict)
    }

    /// Reads a domain name or an address literal, see [`Domain::parse_with`].
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is neither.
    pub fn parse_with(text: &str, syntax: Syntax) -> Result<Self, AddressError> {
        if text.starts_with('[') {
            AddressLiteral::parse(text).map(Self::Literal)
        } else {
            Domain::parse_with(text, syntax).map(Self::Domain)
        }
    }

    /// The domain name, if it is one.
    pub fn domain(&self) -> Option<&Domain> {
        match self {
            Self::Domain(domain) => Some(domain),
            Self::Literal(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(domain) => domain.fmt(f),
            Self::Literal(literal) => literal.fmt(f),
        }
    }
}

/// An address `local-part@host`.
///
/// The local-part is kept octet by octet as it came, its quotes included, because only the host to
/// the right may give it a meaning (RFC 5321 §2.3.11). It may have any UTF-8 (RFC 6531 §3.3) but
/// control characters and the separators of lines and paragraphs. A domain outside of ASCII is looked
/// up, routed and compared by its A-labels (RFC 5890), and written as it came; nothing is normalised.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mailbox {
    local_part: Box<str>,
    host: Host,
    /// The domain as it came, unless that was in ASCII.
    spelling: Option<Box<str>>,
}

impl Mailbox {
    /// Reads `local-part@host`, without angle brackets.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is not a mailbox.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        Self::parse_with(text, Syntax::Strict)
    }

    /// Reads `local-part@host`, without angle brackets, as strictly as told.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when the text is not a mailbox.
    pub fn parse_with(text: &str, syntax: Syntax) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let end = local_part_len(text.as_bytes(), syntax)?;
        let (local_part, rest) = text.split_at_checked(end).ok_or(AddressError::LocalPartSyntax)?;
        if local_part.len() > LOCAL_PART_MAX {
            return Err(AddressError::LocalPartTooLong);
        }
        // The grammar has those characters that are outside of ASCII; no address has them.
        if !local_part.is_ascii() && !is_text(local_part) {
            return Err(AddressError::LocalPartSyntax);
        }
        let (host, spelling) = match rest.strip_prefix('@') {
            Some(host) if host.is_ascii() => (Host::parse_with(host, syntax)?, None),
            Some(host) => {
                let ascii = idn::to_ascii(host)?;
                (Host::Domain(Domain::parse_with(&ascii, syntax)?), Some(host.into()))
            }
            None if rest.is_empty() => return Err(AddressError::NoDomain),
            None => return Err(AddressError::LocalPartSyntax),
        };
        Ok(Self { local_part: local_part.into(), host, spelling })
    }

    /// Whether it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.spelling.is_none() && self.local_part.is_ascii()
    }

    /// The local-part as it goes on the wire, quotes included.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }

    /// What stands to the right of the `@`; a domain outside of ASCII by its A-labels.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The domain name to the right of the `@`, if it is one; by its A-labels.
    pub fn domain(&self) -> Option<&Domain> {
        self.host.domain()
    }
}

impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spelling {
            None => write!(f, "{}@{}", self.local_part, self.host),
            Some(spelling) => write!(f, "{}@{spelling}", self.local_part),
        }
    }
}

impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// Finds where the local-part ends: at the `@`, or at the end of the text.
fn local_part_len(text: &[u8], syntax: Syntax) -> Result<usize, AddressError> {
    if text.first() == Some(&b'"') {
        return quoted_string_len(text).ok_or(AddressError::LocalPartSyntax);
    }
    let end = text.iter().position(|&b| b == b'@').unwrap_or(text.len());
    let local_part = text.get(..end).unwrap_or_default();
    if local_part.is_empty() || !local_part.iter().all(|&b| is_atext(b) || b == b'.') {
        return Err(AddressError::LocalPartSyntax);
    }
    let dots = local_part.starts_with(b".")
        || local_part.ends_with(b".")
        || local_part.windows(2).any(|pair| pair == b"..");
    if dots && syntax == Syntax::Strict {
        return Err(AddressError::LocalPartSyntax);
    }
    Ok(end)
}

/// The length of the quoted string at the start of `text`, both quotes included.
pub(crate) fn quoted_string_len(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (index, &b) in text.iter().enumerate().skip(1) {
        // RFC 6531 §3.3: what is quoted by a backslash is in ASCII.
        if !(b' '..=b'~').contains(&b) && (b.is_ascii() || escaped) {
            return None;
        }
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// RFC 5322 §3.2.3, and RFC 6531 §3.3.
fn is_atext(b: u8) -> bool {
    b.is_ascii_alphanumeric() || !b.is_ascii() || b"!#$%&'*+-/=?^_`{|}~".contains(&b)
}
