//! What the operator's books know a message by: on whose behalf it is sent, and as part of what.

use std::fmt;

use crate::limits::{LABEL_FIELD_MAX, LABEL_TEXT_MAX};

/// The name of a tenant or a campaign: 1 to [`LABEL_TEXT_MAX`] octets without white space and control
/// characters. Names are compared to the letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LabelText(Box<str>);

impl LabelText {
    /// Takes a text that an operator has written; `None` for one that is none.
    pub fn new(text: &str) -> Option<Self> {
        let is_good = (1..=LABEL_TEXT_MAX).contains(&text.len())
            && !text.chars().any(|c| c.is_control() || c.is_whitespace());
        is_good.then(|| Self(text.into()))
    }

    /// Takes a text that a client has sent: of at most [`LABEL_FIELD_MAX`] letters and digits of ASCII, and of
    /// `.`, `_`, `-`, `+`, `:`, `/` and `@`, so that it needs no quotes anywhere. `None` for any other.
    pub fn parse_field(value: &[u8]) -> Option<Self> {
        let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-+:/@".contains(b);
        let is_good = value.len() <= LABEL_FIELD_MAX && value.iter().all(is_plain);
        Self::new(std::str::from_utf8(value).ok().filter(|_| is_good)?)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LabelText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a message is known by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels {
    /// On whose behalf it is sent.
    pub tenant: Option<LabelText>,
    /// What it is part of.
    pub campaign: Option<LabelText>,
}

impl Labels {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.tenant.is_none() && self.campaign.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_operators_and_of_clients() {
        let long = "a".repeat(64);
        let longer = "a".repeat(65);
        let longest = "a".repeat(128);
        let too_long = "a".repeat(129);
        for (text, by_operator, by_client) in [
            ("acme", true, true),
            ("2024-05/news.letter+b:1_x@y", true, true),
            (&long, true, true),
            (&longer, true, false),
            (&longest, true, false),
            (&too_long, false, false),
            ("", false, false),
            ("a b", false, false),
            ("a\tb", false, false),
            ("a\r\n b", false, false),
            ("a\0", false, false),
            ("\u{fc}", true, false),
            ("a\u{a0}b", false, false),
            ("a\"b", true, false),
            ("a,b", true, false),
        ] {
            assert_eq!(LabelText::new(text).is_some(), by_operator, "{text:?}");
            let parsed = LabelText::parse_field(text.as_bytes());
            assert_eq!(parsed.is_some(), by_client, "{text:?}");
            if let Some(parsed) = parsed {
                assert_eq!(parsed.to_string(), text);
            }
        }
        assert_eq!(LabelText::parse_field(b"a\xff"), None);
    }
}
