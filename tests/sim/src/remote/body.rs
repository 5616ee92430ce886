//! What content may consist of, and what 8-bit content was before it was made 7-bit.

use std::borrow::Cow;

/// What MAIL says of the content (RFC 6152, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Body {
    /// Lines in ASCII.
    #[default]
    SevenBit,
    /// Lines.
    EightBit,
    /// Any octets.
    Binary,
}

/// Fields that say how a body is encoded. No content of an application has them.
const ENCODING_FIELDS: [&str; 3] = ["MIME-Version:", "Content-Type:", "Content-Transfer-Encoding:"];

impl Body {
    /// Reads MAIL.
    pub(super) fn read(mail: &str) -> Self {
        let has = |parameter| mail.split(' ').any(|word| word == parameter);
        match () {
            () if has("BODY=8BITMIME") => Self::EightBit,
            () if has("BODY=BINARYMIME") => Self::Binary,
            () => Self::SevenBit,
        }
    }
}

/// Content as it was before its one part was encoded; `None` if it is not encoded.
pub(super) fn decoded(content: &str) -> Option<Vec<u8>> {
    let (header, body) = content.split_once("\r\n\r\n")?;
    let mut plain = Vec::with_capacity(content.len());
    let mut encoding = None;
    let mut is_left_out = false;
    for line in header.split("\r\n") {
        if !line.starts_with([' ', '\t']) {
            is_left_out = ENCODING_FIELDS.iter().any(|field| line.starts_with(field));
        }
        if let Some(named) = line.strip_prefix("Content-Transfer-Encoding:") {
            encoding = Some(named.trim());
        }
        if !is_left_out {
            plain.extend_from_slice(line.as_bytes());
            plain.extend_from_slice(b"\r\n");
        }
    }
    plain.extend_from_slice(b"\r\n");
    let body = match encoding? {
        "quoted-printable" => quoted_printable(body)?,
        "base64" => base64(body)?,
        _ => return None,
    };
    plain.extend_from_slice(&body);
    Some(plain)
}

/// RFC 2045 section 6.7, strictly.
fn quoted_printable(body: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(body.len());
    let mut lines = body.split("\r\n").peekable();
    while let Some(line) = lines.next() {
        if line.len() > 76 || line.ends_with([' ', '\t']) {
            return None;
        }
        let (line, is_soft) = line.strip_suffix('=').map_or((line, false), |line| (line, true));
        let mut parts = line.split('=');
        plain.extend_from_slice(parts.next()?.as_bytes());
        for part in parts {
            let (digits, rest) = part.split_at_checked(2)?;
            plain.push(u8::from_str_radix(digits, 16).ok()?);
            plain.extend_from_slice(rest.as_bytes());
        }
        if !is_soft && lines.peek().is_some() {
            plain.extend_from_slice(b"\r\n");
        }
    }
    Some(plain)
}

/// RFC 2045 section 6.8, strictly.
fn base64(body: &str) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(body.len());
    let mut word = 0_u32;
    let mut digits = 0;
    let mut padding = 0;
    for line in body.split("\r\n") {
        if line.len() > 76 {
            return None;
        }
        for octet in line.bytes() {
            let value = match octet {
                b'A'..=b'Z' => octet - b'A',
                b'a'..=b'z' => octet - b'a' + 26,
                b'0'..=b'9' => octet - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                b'=' => {
                    padding += 1;
                    0
                }
                _ => return None,
            };
            word = (word << 6) | u32::from(value);
            digits += 1;
            if digits == 4 {
                let [_, octets @ ..] = word.to_be_bytes();
                plain.extend_from_slice(octets.get(..3_usize.checked_sub(padding)?)?);
                (word, digits) = (0, 0);
            }
        }
    }
    (digits == 0).then_some(plain)
}

/// Octets as text, where a text is to be searched.
pub(super) fn text(content: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_says_what_comes() {
        assert_eq!(Body::read("MAIL FROM:<a@b.test> BODY=8BITMIME"), Body::EightBit);
        assert_eq!(Body::read("MAIL FROM:<a@b.test> BODY=BINARYMIME SIZE=1"), Body::Binary);
        assert_eq!(Body::read("MAIL FROM:<a@b.test> SIZE=1"), Body::SevenBit);
    }

    #[test]
    fn what_was_encoded_is_read() {
        let content = "Received: x\r\n\ty\r\nSubject: s\r\nMIME-Version: 1.0\r\nContent-Type: text/plain;\r\n \
             charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ngr=C3=BC=C3=9F=\r\ne\r\n";
        let plain = "Received: x\r\n\ty\r\nSubject: s\r\n\r\ngrüße\r\n";
        assert_eq!(decoded(content).unwrap(), plain.as_bytes());
        let content = "S: s\r\nContent-Transfer-Encoding: base64\r\n\r\nZ3LDvMOfZQ0K\r\nYQ==\r\n";
        assert_eq!(decoded(content).unwrap(), "S: s\r\n\r\ngrüße\r\na".as_bytes());
        for body in ["a=C\r\n", "a=XX\r\n", "trailing \r\n", &"x".repeat(77)] {
            assert_eq!(quoted_printable(body), None, "{body}");
        }
        for body in ["Zg", "Z g=", "====", "Zm9v*"] {
            assert_eq!(base64(body), None, "{body}");
        }
        assert_eq!(decoded("Subject: s\r\n\r\nplain\r\n"), None);
    }
}
