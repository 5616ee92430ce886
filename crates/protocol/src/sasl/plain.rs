//! The one message of PLAIN (RFC 4616 §2).

use crate::limits::{AUTH_NAME_MAX, AUTH_PASSWORD_MAX};

/// What a client says by PLAIN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PlainMessage<'a> {
    /// As whom it wants to act; empty for the user itself.
    pub authorization: &'a str,
    /// Whose password follows. 1 to [`AUTH_NAME_MAX`] octets.
    pub name: &'a str,
    /// The password. 1 to [`AUTH_PASSWORD_MAX`] octets.
    pub password: &'a str,
}

impl std::fmt::Debug for PlainMessage<'_> {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlainMessage").finish_non_exhaustive()
    }
}

impl<'a> PlainMessage<'a> {
    /// Reads a message; `None` if it is malformed.
    pub fn parse(message: &'a [u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(message).ok()?.split('\0');
        let (authorization, name, password) = (parts.next()?, parts.next()?, parts.next()?);
        let is_good = parts.next().is_none()
            && authorization.len() <= AUTH_NAME_MAX
            && (1..=AUTH_NAME_MAX).contains(&name.len())
            && (1..=AUTH_PASSWORD_MAX).contains(&password.len());
        is_good.then_some(Self { authorization, name, password })
    }

    /// Appends the message.
    pub fn write(&self, out: &mut Vec<u8>) {
        // At once, so that no half of it is left behind elsewhere.
        out.reserve(self.authorization.len() + self.name.len() + self.password.len() + 2);
        out.extend_from_slice(self.authorization.as_bytes());
        for part in [self.name, self.password] {
            out.push(0);
            out.extend_from_slice(part.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 4616 §4, and what the grammar does not let pass.
    #[test]
    fn messages_are_read_to_the_letter() {
        let read = |text: &str| {
            PlainMessage::parse(text.as_bytes()).map(|message| {
                format!("{}|{}|{}", message.authorization, message.name, message.password)
            })
        };
        assert_eq!(read("\0tim\0tanstaaftanstaaf").as_deref(), Some("|tim|tanstaaftanstaaf"));
        assert_eq!(read("Ursel\0Kurt\0xipj3plmq").as_deref(), Some("Ursel|Kurt|xipj3plmq"));
        let (name, password) = ("n".repeat(AUTH_NAME_MAX), "p".repeat(AUTH_PASSWORD_MAX));
        assert!(read(&format!("\0{name}\0{password}")).is_some());
        for bad in [
            "",
            "tim",
            "\0tim",
            "\0tim\0",
            "\0\0secret",
            "\0tim\0secret\0",
            &format!("\0{name}n\0p"),
            &format!("{name}n\0n\0p"),
            &format!("\0n\0{password}p"),
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert!(PlainMessage::parse(b"\0tim\0\xff").is_none());
        for text in [&b"\0tim\0tanstaaftanstaaf"[..], b"Ursel\0Kurt\0xipj3plmq"] {
            let mut written = Vec::new();
            PlainMessage::parse(text).unwrap().write(&mut written);
            assert_eq!(written, text);
        }
    }
}
