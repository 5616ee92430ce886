//! Enhanced status codes (RFC 3463).

use std::fmt;
use std::str::FromStr;

use crate::error::StatusError;

/// A code `class.subject.detail`, as in `5.1.1`.
///
/// The class is 2 (success), 4 (persistent transient failure) or 5 (permanent failure); subject and
/// detail are 0 to 999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedStatusCode {
    class: u8,
    subject: u16,
    detail: u16,
}

impl EnhancedStatusCode {
    /// Makes a code from its parts; a class other than 2, 4 or 5 becomes 5, and numbers above 999
    /// become 999.
    #[must_use]
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        let class = if class == 2 || class == 4 { class } else { 5 };
        let subject = if subject > 999 { 999 } else { subject };
        let detail = if detail > 999 { 999 } else { detail };
        Self { class, subject, detail }
    }

    /// Reads `class.subject.detail` and nothing else. RFC 3463 §2.
    ///
    /// # Errors
    ///
    /// [`StatusError`] when the text is anything else.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        let mut parts = text.split('.');
        let (Some(class), Some(subject), Some(detail), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(StatusError);
        };
        let class = match class {
            "2" => 2,
            "4" => 4,
            "5" => 5,
            _ => return Err(StatusError),
        };
        Ok(Self { class, subject: number(subject)?, detail: number(detail)? })
    }

    /// 2, 4 or 5.
    pub const fn class(self) -> u8 {
        self.class
    }

    /// What the code is about: 1 address, 2 mailbox, 3 mail system, 4 network, 5 protocol,
    /// 6 content, 7 policy.
    pub const fn subject(self) -> u16 {
        self.subject
    }

    /// The exact condition within the subject.
    pub const fn detail(self) -> u16 {
        self.detail
    }
}

impl fmt::Display for EnhancedStatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl FromStr for EnhancedStatusCode {
    type Err = StatusError;

    fn from_str(text: &str) -> Result<Self, StatusError> {
        Self::parse(text)
    }
}

/// One to three digits; a leading zero only for zero itself.
fn number(text: &str) -> Result<u16, StatusError> {
    let digits = (1..=3).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !digits || (text.len() > 1 && text.starts_with('0')) {
        return Err(StatusError);
    }
    text.parse().map_err(|_| StatusError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_are_read_and_written() {
        for text in ["2.0.0", "4.4.2", "5.1.10", "5.999.999"] {
            assert_eq!(EnhancedStatusCode::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.x", "5..1", "5.1.1000", "5.01.1", "5.1.1 ",
            "+5.1.1", "5.+1.1",
        ] {
            assert_eq!(EnhancedStatusCode::parse(text), Err(StatusError), "{text:?}");
        }
    }

    #[test]
    fn parts_out_of_range_are_bounded() {
        assert_eq!(EnhancedStatusCode::new(9, 1000, 5000).to_string(), "5.999.999");
    }

    proptest! {
        #[test]
        fn any_code_round_trips(class in any::<u8>(), parts in any::<[u16; 2]>(), text in "[0-9.+ ]{0,12}") {
            let code = EnhancedStatusCode::new(class, parts[0], parts[1]);
            prop_assert_eq!(EnhancedStatusCode::parse(&code.to_string()), Ok(code));
            if let Ok(code) = EnhancedStatusCode::parse(&text) {
                prop_assert_eq!(code.to_string(), text);
            }
        }
    }
}
