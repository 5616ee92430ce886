//! Authentication: the AUTH command, its mechanisms and its lines (RFC 4954, RFC 4422).
//!
//! Nothing here knows users or passwords. What a client says is read, what a server says is written; who
//! is right is found out elsewhere.

mod plain;
mod scram;
mod scram_server;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::command::CommandError;

pub use plain::PlainMessage;
pub use scram::{ScramBinding, ScramClientFinal, ScramClientFirst, write_sasl_name};
pub use scram_server::{ScramServerFinal, ScramServerFirst};

/// A mechanism that a server can offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mechanism {
    /// EXTERNAL (RFC 4422 appendix A): who the client is was shown by TLS.
    External,
    /// SCRAM-SHA-256-PLUS: the same as the next, bound to the TLS that it goes over, so that nobody can be in between.
    ScramSha256Plus,
    /// SCRAM-SHA-256 (RFC 7677): the password is shown to be known, and not sent.
    ScramSha256,
    /// PLAIN (RFC 4616): name and password in one message.
    Plain,
    /// LOGIN: name and password in two. It is in no RFC, and many clients speak nothing better.
    Login,
}

impl Mechanism {
    /// Every mechanism, in the order of the reply to EHLO: the best first, as some clients take the
    /// first that they know.
    pub const ALL: [Self; 5] =
        [Self::External, Self::ScramSha256Plus, Self::ScramSha256, Self::Plain, Self::Login];

    /// The registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "EXTERNAL",
            Self::ScramSha256Plus => "SCRAM-SHA-256-PLUS",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
        }
    }

    /// The mechanism of a name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name))
    }
}

/// A set of mechanisms. Shape: one octet. Default: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MechanismSet(u8);

impl MechanismSet {
    /// No mechanism.
    pub const NONE: Self = Self(0);

    /// Whether there is none in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a mechanism is in the set.
    pub fn contains(self, mechanism: Mechanism) -> bool {
        self.0 & (1 << mechanism as u8) != 0
    }

    /// The set with a mechanism.
    #[must_use]
    pub fn with(self, mechanism: Mechanism) -> Self {
        Self(self.0 | (1 << mechanism as u8))
    }

    /// The set without a mechanism.
    #[must_use]
    pub fn without(self, mechanism: Mechanism) -> Self {
        Self(self.0 & !(1 << mechanism as u8))
    }

    /// The mechanisms that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The mechanisms in it, in the order of [`Mechanism::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Mechanism> {
        Mechanism::ALL.into_iter().filter(move |mechanism| self.contains(*mechanism))
    }
}

impl FromIterator<Mechanism> for MechanismSet {
    fn from_iter<I: IntoIterator<Item = Mechanism>>(mechanisms: I) -> Self {
        mechanisms.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The argument of AUTH.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuthCommand<'a> {
    /// What is to be used; `None` for one that we do not know.
    pub mechanism: Option<Mechanism>,
    /// The initial response as it was sent, if it was; `=` stands for an empty one.
    pub initial_response: Option<&'a str>,
}

impl std::fmt::Debug for AuthCommand<'_> {
    /// Without the response: there can be a password in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthCommand").field("mechanism", &self.mechanism).finish_non_exhaustive()
    }
}

impl<'a> AuthCommand<'a> {
    /// Reads what stands behind `AUTH `.
    pub(crate) fn parse(rest: &'a [u8]) -> Result<Self, CommandError> {
        let text = std::str::from_utf8(rest).map_err(|_| CommandError::Argument)?;
        let mut words = text.trim_end_matches(' ').split(' ');
        let name = words.next().unwrap_or_default();
        let initial_response = words.next();
        // RFC 4422 §3.1.
        let is_name = (1..=20).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        if !is_name || initial_response == Some("") || words.next().is_some() {
            return Err(CommandError::Argument);
        }
        Ok(Self { mechanism: Mechanism::from_name(name), initial_response })
    }
}

/// Reads the base64 of a line: to the letter of RFC 4648 §4, with its padding and nothing besides.
pub fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Reads an initial response, where `=` stands for an empty one (RFC 4954 §4).
pub fn decode_initial_response(text: &str) -> Option<Vec<u8>> {
    if text == "=" { Some(Vec::new()) } else { decode_base64(text.as_bytes()) }
}

/// Writes what a client sends, in base64; without the end of the line.
pub fn write_response(response: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let size = base64::encoded_len(response.len(), true).unwrap_or(0);
    out.resize(start + size, 0);
    // In place, so that no copy of a password is left anywhere.
    let room = out.get_mut(start..).unwrap_or_default();
    let written = STANDARD.encode_slice(response, room).unwrap_or(0);
    out.truncate(start + written);
}

/// Writes a 334 with a challenge in base64.
pub fn write_challenge(challenge: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"334 ");
    out.extend_from_slice(STANDARD.encode(challenge).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        let mut set = MechanismSet::NONE;
        for mechanism in Mechanism::ALL {
            let name = mechanism.name().to_ascii_lowercase();
            assert_eq!(Mechanism::from_name(&name), Some(mechanism));
            assert!(!set.contains(mechanism));
            set = set.with(mechanism);
            assert!(set.contains(mechanism) && !set.without(mechanism).contains(mechanism));
        }
        assert!(set.iter().eq(Mechanism::ALL));
        assert_eq!(Mechanism::from_name("CRAM-MD5"), None);
    }

    #[test]
    fn the_argument_is_a_name_and_a_response() {
        type Read<'a> = (Option<Mechanism>, Option<&'a str>);

        let table: [(&str, Option<Read<'_>>); 12] = [
            ("PLAIN", Some((Some(Mechanism::Plain), None))),
            ("login  ", Some((Some(Mechanism::Login), None))),
            ("PLAIN =", Some((Some(Mechanism::Plain), Some("=")))),
            ("PLAIN AGEAYg==", Some((Some(Mechanism::Plain), Some("AGEAYg==")))),
            ("X-OTHER_1 a", Some((None, Some("a")))),
            ("A2345678901234567890", Some((None, None))),
            ("A23456789012345678901", None),
            ("", None),
            (" PLAIN", None),
            ("PLAIN a b", None),
            ("PLAIN  a", None),
            ("PL/AIN", None),
        ];
        for (text, expected) in table {
            let read = AuthCommand::parse(text.as_bytes()).ok();
            let read = read.map(|command| (command.mechanism, command.initial_response));
            assert_eq!(read, expected, "{text:?}");
        }
        assert_eq!(AuthCommand::parse(b"PLAIN \xff"), Err(CommandError::Argument));
    }

    #[test]
    fn a_response_is_not_shown() {
        let command = AuthCommand::parse(b"PLAIN AGEAc2VjcmV0").unwrap();
        assert!(!format!("{command:?}").contains("AGEAc2VjcmV0"));
    }

    #[test]
    fn base64_is_read_to_the_letter() {
        assert_eq!(decode_base64(b""), Some(vec![]));
        assert_eq!(decode_base64(b"AGEAYg=="), Some(b"\0a\0b".to_vec()));
        // No padding, too much of it, white space, another alphabet, bits that stand for nothing.
        let bad = [
            "AGEAYg",
            "AGEAYg=",
            "AGEAYg===",
            "AGE AYg==",
            "AGEAYg==\t",
            "_-==",
            "AGEAYh==",
            "=",
            "*",
        ];
        for text in bad {
            assert_eq!(decode_base64(text.as_bytes()), None, "{text}");
        }
        assert_eq!(decode_initial_response("="), Some(vec![]));
        let mut out = Vec::new();
        write_challenge(b"Username:", &mut out);
        write_challenge(b"", &mut out);
        assert_eq!(out, b"334 VXNlcm5hbWU6\r\n334 \r\n");
        out.clear();
        for response in [&b"\0a\0b"[..], b"", b"user"] {
            write_response(response, &mut out);
            out.push(b' ');
        }
        assert_eq!(out, b"AGEAYg==  dXNlcg== ");
    }
}
