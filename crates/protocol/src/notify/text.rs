//! Texts in the parameters of RFC 3461: `xtext` (§4), envelope ids and original recipients.

use std::fmt;

use crate::limits::{ENVELOPE_ID_MAX, ORIGINAL_RECIPIENT_MAX};
use crate::path::ForwardPath;

/// Appends a text as `xtext`: what is not printable ASCII, a space, `+` and `=` become `+` and two
/// hexadecimal digits.
pub fn encode_xtext(text: &str, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for octet in text.bytes() {
        if is_xchar(octet) {
            out.push(char::from(octet));
        } else {
            out.push('+');
            for digit in [octet >> 4, octet & 15] {
                out.push(char::from(DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0')));
            }
        }
    }
}

/// Reads an `xtext`: `None` unless it is one, and stands for printable ASCII and spaces, which is all
/// that the parameters may stand for (RFC 3461 §4.2, §4.4).
///
/// Hexadecimal digits are in upper case, as the grammar has them.
pub fn decode_xtext(text: &str) -> Option<String> {
    let mut decoded = String::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let octet = if octet == b'+' {
            digit(octets.next()?)? << 4 | digit(octets.next()?)?
        } else if is_xchar(octet) {
            octet
        } else {
            return None;
        };
        if !matches!(octet, b' '..=b'~') {
            return None;
        }
        decoded.push(char::from(octet));
    }
    Some(decoded)
}

fn is_xchar(octet: u8) -> bool {
    matches!(octet, b'!'..=b'~') && octet != b'+' && octet != b'='
}

fn digit(octet: u8) -> Option<u8> {
    match octet {
        b'0'..=b'9' => Some(octet - b'0'),
        b'A'..=b'F' => Some(octet - b'A' + 10),
        _ => None,
    }
}

/// What the client calls the message: the value of `ENVID=`, as it came.
///
/// From 1 to [`ENVELOPE_ID_MAX`] octets of `xtext`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnvelopeId(Box<str>);

impl EnvelopeId {
    /// Reads the value of `ENVID=`; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let is_one = (1..=ENVELOPE_ID_MAX).contains(&text.len()) && decode_xtext(text).is_some();
        is_one.then(|| Self(text.into()))
    }

    /// As it came, in `xtext`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it stands for: printable ASCII and spaces.
    pub fn decoded(&self) -> String {
        decode_xtext(&self.0).unwrap_or_default()
    }
}

/// As it came.
impl fmt::Display for EnvelopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whom the originator has written to: the value of `ORCPT=`, as it came.
///
/// The type of an address, `;`, and the address in `xtext`; at most [`ORIGINAL_RECIPIENT_MAX`] octets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OriginalRecipient(Box<str>);

impl OriginalRecipient {
    /// Reads the value of `ORCPT=`; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.split_once(';')?;
        // The atom of RFC 822, without what no value of a parameter can have.
        let is_atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/?^_`{|}~".contains(&b);
        let is_one = text.len() <= ORIGINAL_RECIPIENT_MAX
            && !kind.is_empty()
            && kind.bytes().all(is_atom)
            && !address.is_empty()
            && decode_xtext(address).is_some();
        is_one.then(|| Self(text.into()))
    }

    /// The one that RCPT named.
    pub fn of(path: &ForwardPath) -> Self {
        let mut text = String::from("rfc822;");
        encode_xtext(&path.bare().to_string(), &mut text);
        Self(text.into())
    }

    /// As it came, the address in `xtext`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type of the address; `rfc822` for what mail has.
    pub fn address_type(&self) -> &str {
        self.0.split_once(';').map_or("", |(kind, _)| kind)
    }

    /// The address that it stands for: printable ASCII and spaces.
    pub fn address(&self) -> String {
        let address = self.0.split_once(';').map_or("", |(_, address)| address);
        decode_xtext(address).unwrap_or_default()
    }
}

/// As it came.
impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
