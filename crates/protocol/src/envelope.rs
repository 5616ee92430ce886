//! The envelope of a message: its paths and how its body is encoded.

use std::fmt;

use crate::deliver_by::{ByMode, DeliverBy};
use crate::label::Labels;
use crate::notify::DsnParameters;
use crate::path::{ForwardPath, ReversePath};
use crate::priority::Priority;

/// What the BODY parameter of MAIL declares (RFC 6152, RFC 3030 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum BodyType {
    /// `7BIT`: no octet above 127. The default.
    #[default]
    SevenBit,
    /// `8BITMIME`: there may be octets above 127.
    EightBitMime,
    /// `BINARYMIME`: the body may be any octets, with CR and LF where they like. It can only be sent
    /// by BDAT.
    BinaryMime,
}

impl BodyType {
    /// The value as it stands after `BODY=`.
    pub fn keyword(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }

    /// Reads the value of `BODY=`, in any case; `None` for a type that we do not know.
    pub fn from_keyword(text: &str) -> Option<Self> {
        [Self::SevenBit, Self::EightBitMime, Self::BinaryMime]
            .into_iter()
            .find(|body| body.keyword().eq_ignore_ascii_case(text))
    }
}

impl fmt::Display for BodyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.keyword())
    }
}

/// What is known of UTF-8 in a message outside of its body (RFC 6531).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Utf8 {
    /// Nobody has said that there may be some. The default.
    #[default]
    Unmarked,
    /// MAIL had `SMTPUTF8`, but the header section is in ASCII.
    Marked,
    /// MAIL had `SMTPUTF8`, and the header section has octets above 127.
    Header,
}

impl Utf8 {
    /// Whether MAIL had `SMTPUTF8`.
    pub fn is_marked(self) -> bool {
        self != Self::Unmarked
    }
}

/// What the commands MAIL and RCPT have said about a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Envelope {
    /// Where reports of failure go.
    pub reverse_path: ReversePath,
    /// The recipients, each once, in the order they were given.
    pub forward_paths: Vec<ForwardPath>,
    /// How the content is encoded, as declared or as found in it.
    pub body: BodyType,
    /// What the client wants to be told of it (RFC 3461); nothing by default.
    pub dsn: DsnParameters,
    /// Whether it came by SMTPUTF8, and what for; not by default.
    pub utf8: Utf8,
    /// How urgent it is (RFC 6710); 0 by default.
    pub priority: Priority,
    /// Whether it may only travel under TLS, to hosts that see to that too (REQUIRETLS, RFC 8689); not
    /// by default.
    pub require_tls: bool,
    /// Whether its sender asks that it goes on without TLS rather than not at all (`TLS-Required: No`,
    /// RFC 8689 §3); not by default, and never together with `require_tls`.
    pub tls_optional: bool,
    /// By when it is to be delivered (RFC 2852); at any time by default.
    pub deliver_by: Option<DeliverBy>,
    /// On whose behalf it is sent, and as part of what; not known by default.
    pub labels: Labels,
}

impl Envelope {
    /// Makes an envelope without parameters of other extensions.
    pub fn new(reverse_path: ReversePath, forward_paths: Vec<ForwardPath>, body: BodyType) -> Self {
        let (dsn, utf8, labels) = Default::default();
        let priority = Priority::NORMAL;
        Self {
            reverse_path,
            forward_paths,
            body,
            dsn,
            utf8,
            priority,
            require_tls: false,
            tls_optional: false,
            deliver_by: None,
            labels,
        }
    }

    /// When it is returned if it was not delivered, in milliseconds of Unix time; `u64::MAX` when the client
    /// has said no such time (RFC 2852 §4).
    pub fn returned_unix_ms(&self) -> u64 {
        let by = self.deliver_by.filter(|by| by.mode == ByMode::Return);
        by.map_or(u64::MAX, |by| by.by_unix_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_types_round_trip() {
        for body in [BodyType::SevenBit, BodyType::EightBitMime, BodyType::BinaryMime] {
            assert_eq!(BodyType::from_keyword(body.keyword()), Some(body));
            assert_eq!(BodyType::from_keyword(&body.keyword().to_lowercase()), Some(body));
        }
        assert_eq!(BodyType::from_keyword("9BIT"), None);
    }
}
