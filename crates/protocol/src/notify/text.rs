//! Texts in the parameters of RFC 3461: `xtext` (§4), envelope ids and original recipients.

use std::borrow::Cow;
use std::fmt;

use super::utf8::{self, Form};
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
    decode_octets(text).filter(|decoded| decoded.is_ascii())
}

/// As [`decode_xtext`], with UTF-8 beyond ASCII.
fn decode_octets(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        let octet = if octet == b'+' {
            digit(octets.next()?)? << 4 | digit(octets.next()?)?
        } else if is_xchar(octet) {
            octet
        } else {
            return None;
        };
        if !matches!(octet, b' '..=b'~' | 0x80..) {
            return None;
        }
        decoded.push(octet);
    }
    String::from_utf8(decoded).ok().filter(|text| utf8::is_text(text))
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
/// The type of an address, `;`, and the address: in `xtext`, or for the type `utf-8` in either form of
/// RFC 6533 §3. At most [`ORIGINAL_RECIPIENT_MAX`] octets.
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
            && decode(kind, address).is_some();
        is_one.then(|| Self(text.into()))
    }

    /// The one that RCPT named.
    pub fn of(path: &ForwardPath) -> Self {
        let bare = path.bare().to_string();
        if path.is_ascii() {
            let mut text = String::from("rfc822;");
            encode_xtext(&bare, &mut text);
            return Self(text.into());
        }
        let mut text = String::from("utf-8;");
        utf8::encode(&bare, Form::Unitext, &mut text);
        Self(text.into())
    }

    /// As it came, the address encoded.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it can be sent without SMTPUTF8 (RFC 6531).
    pub fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// The same in ASCII (RFC 6533 §3); `None` when it has too many octets then.
    pub fn to_ascii(&self) -> Option<Cow<'_, Self>> {
        if self.is_ascii() {
            return Some(Cow::Borrowed(self));
        }
        let text = format!("{};{}", self.address_type(), self.ascii_address());
        (text.len() <= ORIGINAL_RECIPIENT_MAX).then(|| Cow::Owned(Self(text.into())))
    }

    /// The address as reports in ASCII have it: what it stands for, or for one that is not ASCII the form
    /// with `\x{HEX}` (RFC 6533 §3).
    pub fn ascii_address(&self) -> String {
        let address = self.address();
        if address.is_ascii() && !is_utf8(self.address_type()) {
            return address;
        }
        let mut text = String::new();
        utf8::encode(&address, Form::Xtext, &mut text);
        text
    }

    /// The type of the address; `rfc822`, or `utf-8` (RFC 6533), for what mail has.
    pub fn address_type(&self) -> &str {
        self.0.split_once(';').map_or("", |(kind, _)| kind)
    }

    /// The type of the address as reports have it: `utf-8` for what is not ASCII, whatever came.
    pub fn report_type(&self) -> &str {
        if self.address().is_ascii() { self.address_type() } else { "utf-8" }
    }

    /// The address that it stands for: printable ASCII, spaces, and UTF-8 without control characters.
    pub fn address(&self) -> String {
        let (kind, address) = self.0.split_once(';').unwrap_or_default();
        decode(kind, address).unwrap_or_default()
    }
}

fn is_utf8(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("utf-8")
}

/// Addresses that are not ASCII have the type `utf-8` and forms of their own (RFC 6533 §3). Postfix 3.7
/// puts them in `xtext` all the same, with the type `rfc822`.
fn decode(kind: &str, address: &str) -> Option<String> {
    if is_utf8(kind) { utf8::decode(address) } else { decode_octets(address) }
}

/// As it came.
impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
