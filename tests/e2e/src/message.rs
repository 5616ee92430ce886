//! Messages that prove on arrival that they are whole.
//!
//! A test message begins with one marker field: an id and a checksum of all that follows it. What
//! relays put in front of it (trace fields) does not matter; whatever is changed, lost, added or
//! mixed in behind it is found.

use std::hash::Hasher;

const FIELD: &str = "X-Ringpost-Test";

/// What a received message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mark {
    /// Marked, and every octet behind the marker is as it was sent.
    Intact(String),
    /// Marked, but something behind the marker differs.
    Damaged(String),
    /// Not one of ours: a DSN, or a message of another program.
    Absent,
}

impl Mark {
    /// The id, if there is one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Intact(id) | Self::Damaged(id) => Some(id),
            Self::Absent => None,
        }
    }
}

/// Builds a message of about `size` octets, with `id` in its marker.
///
/// The content is in CRLF form and not dot-stuffed. It differs from message to message, and has
/// lines that begin with dots, 8-bit-free text, an empty line and a long line.
pub fn build(id: &str, size: usize) -> Vec<u8> {
    let mut rest = Vec::with_capacity(size + 256);
    rest.extend_from_slice(
        format!(
            "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nFrom: <source@source.test>\r\nTo: <sink@sink.test>\r\n\
             Message-ID: <{id}@source.test>\r\nSubject: test {id}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=us-ascii\r\n\r\n\
             .\r\n..\r\n.a line that begins with a dot\r\n\r\n"
        )
        .as_bytes(),
    );
    let mut line = 0_u64;
    while rest.len() < size {
        let mut hasher = std::hash::DefaultHasher::new();
        hasher.write(id.as_bytes());
        hasher.write_u64(line);
        let word = hasher.finish();
        rest.extend_from_slice(format!("{line:06} {word:016x} ").as_bytes());
        let filler = if line == 3 { 900 } else { 40 };
        rest.extend((0..filler).map(|at| b'a' + ((word >> (at % 48)) % 26) as u8));
        rest.extend_from_slice(b"\r\n");
        line += 1;
    }
    let mut content = format!("{FIELD}: {id} {:016x}\r\n", sum(&rest)).into_bytes();
    content.append(&mut rest);
    content
}

/// Looks for the marker in a received message and checks what follows it.
pub fn verify(content: &[u8]) -> Mark {
    let mut at = 0;
    while let Some(length) = content[at..].windows(2).position(|pair| pair == b"\r\n") {
        let line = &content[at..at + length];
        let rest = &content[at + length + 2..];
        if line.is_empty() {
            return Mark::Absent;
        }
        if let Some((id, sent)) = parse(line) {
            return if sent == sum(rest) { Mark::Intact(id) } else { Mark::Damaged(id) };
        }
        at += length + 2;
    }
    Mark::Absent
}

fn parse(line: &[u8]) -> Option<(String, u64)> {
    let value = std::str::from_utf8(line).ok()?.strip_prefix(FIELD)?.strip_prefix(": ")?;
    let (id, sum) = value.split_once(' ')?;
    Some((id.to_owned(), u64::from_str_radix(sum, 16).ok()?))
}

fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Puts `content` into the form that follows a 354 reply: dots doubled, terminator added.
pub fn stuff(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    let mut at_line_start = true;
    for &octet in content {
        if at_line_start && octet == b'.' {
            out.push(b'.');
        }
        out.push(octet);
        at_line_start = octet == b'\n';
    }
    if !at_line_start {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_intact_behind_trace_fields() {
        let message = build("run-7", 5_120);
        assert!(message.len() >= 5_120 && message.len() < 7_000);
        assert_eq!(verify(&message), Mark::Intact("run-7".into()));
        let traced = [b"Received: from a\r\n\tby b; now\r\n".as_slice(), &message].concat();
        assert_eq!(verify(&traced), Mark::Intact("run-7".into()));
    }

    #[test]
    fn every_changed_octet_is_found() {
        let message = build("x", 400);
        for at in 0..message.len() {
            let mut changed = message.clone();
            changed[at] ^= 1;
            assert_ne!(verify(&changed), Mark::Intact("x".into()), "octet {at}");
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let message = build("x", 400);
        for length in 0..message.len() {
            assert_ne!(verify(&message[..length]), Mark::Intact("x".into()), "length {length}");
        }
    }

    #[test]
    fn a_message_of_others_is_absent() {
        assert_eq!(verify(b"Subject: x\r\n\r\nX-Ringpost-Test: a 0\r\n"), Mark::Absent);
        assert_eq!(verify(b""), Mark::Absent);
    }

    #[test]
    fn stuffing_doubles_dots_at_line_starts_only() {
        assert_eq!(stuff(b".a\r\nb.\r\n..\r\n"), b"..a\r\nb.\r\n...\r\n.\r\n");
        assert_eq!(stuff(b"a"), b"a\r\n.\r\n");
        assert_eq!(stuff(b""), b".\r\n");
    }
}
