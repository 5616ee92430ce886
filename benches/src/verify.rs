//! Checks one received message against the id and checksum it carries.

use memchr::{memchr, memchr2_iter};

use crate::message::{BodySum, ID_FIELD, MessageId, SUM_FIELD};

/// What a received message turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It carries no id: not one of ours, nothing to compare with.
    Foreign,
    /// The body is octet for octet what the source made under this id.
    Intact(MessageId),
    /// Ours, and not as it was sent.
    Damaged(Option<MessageId>, Damage),
}

/// Why a message is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A CR or LF that is not part of a CRLF, in header or body. RFC 5321 §2.3.8.
    BareLineEnd,
    /// The id field is there and cannot be read.
    Id,
    /// The id is there, and the checksum field is missing or cannot be read.
    Sum,
    /// The body is shorter or longer than the checksum says.
    Length,
    /// The body has the length, and other octets.
    Checksum,
}

impl Damage {
    /// One word for records and reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BareLineEnd => "bare-line-end",
            Self::Id => "id",
            Self::Sum => "sum",
            Self::Length => "length",
            Self::Checksum => "checksum",
        }
    }
}

/// Checks `wire`: the content as it was received, dot-stuffed, without the final dot line.
pub(crate) fn verify(wire: &[u8]) -> Verdict {
    let header = read_header(wire);
    let id = match header.id {
        Field::Absent => {
            return if header.sum == Field::Absent {
                Verdict::Foreign
            } else {
                damaged(None, Damage::Id)
            };
        }
        Field::Malformed => return damaged(None, Damage::Id),
        Field::Read(id) => id,
    };
    if header.is_bare {
        return damaged(Some(id), Damage::BareLineEnd);
    }
    let Field::Read(expected) = header.sum else {
        return damaged(Some(id), Damage::Sum);
    };
    match sum_body(&wire[header.length..]) {
        None => damaged(Some(id), Damage::BareLineEnd),
        Some(found) if found == expected => Verdict::Intact(id),
        Some(found) if found.length == expected.length => damaged(Some(id), Damage::Checksum),
        Some(_) => damaged(Some(id), Damage::Length),
    }
}

fn damaged(id: Option<MessageId>, damage: Damage) -> Verdict {
    Verdict::Damaged(id, damage)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field<T> {
    Absent,
    Malformed,
    Read(T),
}

struct Header {
    id: Field<MessageId>,
    sum: Field<BodySum>,
    is_bare: bool,
    /// Octets up to and including the empty line, or all there are.
    length: usize,
}

fn read_header(wire: &[u8]) -> Header {
    let mut header =
        Header { id: Field::Absent, sum: Field::Absent, is_bare: false, length: wire.len() };
    let mut start = 0;
    while let Some(offset) = memchr(b'\n', &wire[start..]) {
        let end = start + offset;
        let line = &wire[start..end];
        start = end + 1;
        let Some(line) = line.strip_suffix(b"\r").filter(|line| memchr(b'\r', line).is_none())
        else {
            header.is_bare = true;
            continue;
        };
        if line.is_empty() {
            header.length = start;
            break;
        }
        // A second field of the same name would be the work of whoever relayed it: malformed.
        if let Some(value) = field_value(line, ID_FIELD) {
            header.id = read_once(&header.id, MessageId::parse(value));
        } else if let Some(value) = field_value(line, SUM_FIELD) {
            header.sum = read_once(&header.sum, BodySum::parse(value));
        }
    }
    header
}

fn read_once<T>(before: &Field<T>, read: Option<T>) -> Field<T> {
    match (before, read) {
        (Field::Absent, Some(value)) => Field::Read(value),
        _ => Field::Malformed,
    }
}

/// The value of a header field named `name`, trimmed; `None` when the line is another field.
fn field_value<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    if !start.eq_ignore_ascii_case(name.as_bytes()) {
        return None;
    }
    rest.strip_prefix(b":").map(<[u8]>::trim_ascii)
}

/// Length and checksum of a dot-stuffed body; `None` for a bare CR or LF.
fn sum_body(wire: &[u8]) -> Option<BodySum> {
    let mut sum = BodySum { length: 0, crc: 0 };
    let mut run = usize::from(wire.first() == Some(&b'.'));
    let mut line_ends = memchr2_iter(b'\r', b'\n', wire);
    while let Some(at) = line_ends.next() {
        if wire[at] != b'\r' || line_ends.next() != Some(at + 1) || wire[at + 1] != b'\n' {
            return None;
        }
        let next = at + 2;
        if wire.get(next) == Some(&b'.') {
            add(&mut sum, &wire[run..next]);
            run = next + 1;
        }
    }
    add(&mut sum, &wire[run..]);
    Some(sum)
}

fn add(sum: &mut BodySum, octets: &[u8]) {
    sum.length = sum.length.saturating_add(octets.len() as u32);
    sum.crc = crc32c::crc32c_append(sum.crc, octets);
}

#[cfg(test)]
mod tests {
    use memchr::memmem;
    use proptest::prelude::*;

    use super::*;
    use crate::message::Template;

    const RUN: u32 = 7;

    fn id(sequence: u32) -> MessageId {
        MessageId { run: RUN, sequence }
    }

    fn wire(size: usize, sequence: u32) -> Vec<u8> {
        let mut out = Vec::new();
        Template::new(RUN, size, "load@example.com", "today").write(sequence, &mut out);
        out.truncate(out.len() - 3);
        out
    }

    fn replaced(wire: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = memmem::find(wire, from).unwrap();
        [&wire[..at], to, &wire[at + from.len()..]].concat()
    }

    #[test]
    fn own_messages_are_intact() {
        for size in [0, 400, 401, 402, 5120, 200_000] {
            for sequence in 0..10 {
                assert_eq!(verify(&wire(size, sequence)), Verdict::Intact(id(sequence)));
            }
        }
    }

    #[test]
    fn relays_may_prepend_fields() {
        let relayed = [b"Received: from a\r\n\tby b; today\r\n", &wire(5120, 3)[..]].concat();
        assert_eq!(verify(&relayed), Verdict::Intact(id(3)));
    }

    #[test]
    fn messages_of_others_are_foreign() {
        for text in ["", "\r\n", "Subject: x\r\n\r\nHello\r\n", "no header\r\n", "bare\n\nlf\n"] {
            assert_eq!(verify(text.as_bytes()), Verdict::Foreign, "{text:?}");
        }
    }

    #[test]
    fn damage_is_named() {
        let good = wire(5120, 5);
        let body = memmem::find(&good, b"\r\n\r\n").unwrap() + 4;
        let mut flipped = good.clone();
        flipped[body + 100] ^= 1;
        let id_field = format!("{ID_FIELD}: {}\r\n", id(5));
        let rows: [(&str, Vec<u8>, Option<MessageId>, Damage); 11] = [
            ("flipped bit", flipped, Some(id(5)), Damage::Checksum),
            ("cut body", good[..good.len() - 74].to_vec(), Some(id(5)), Damage::Length),
            ("no body", good[..body].to_vec(), Some(id(5)), Damage::Length),
            ("added line", [&good[..], b"x\r\n"].concat(), Some(id(5)), Damage::Length),
            ("stuffed twice", replaced(&good, b"\r\n..", b"\r\n..."), Some(id(5)), Damage::Length),
            ("not stuffed", replaced(&good, b"\r\n..", b"\r\n."), Some(id(5)), Damage::Length),
            ("bare LF", [&good[..], b"x\n"].concat(), Some(id(5)), Damage::BareLineEnd),
            ("bare CR", [&good[..], b"x\ry\r\n"].concat(), Some(id(5)), Damage::BareLineEnd),
            (
                "bare LF in header",
                [b"A: b\n", &good[..]].concat(),
                Some(id(5)),
                Damage::BareLineEnd,
            ),
            ("no id", replaced(&good, id_field.as_bytes(), b""), None, Damage::Id),
            ("no sum", replaced(&good, b"-Load-Sum:", b"-Load-Sun:"), Some(id(5)), Damage::Sum),
        ];
        for (name, wire, id, damage) in rows {
            assert_eq!(verify(&wire), Verdict::Damaged(id, damage), "{name}");
        }
    }

    #[test]
    fn unreadable_and_repeated_ids_are_damage() {
        let good = wire(5120, 5);
        let unreadable = replaced(&good, b"-Load-Id: 0", b"-Load-Id: x");
        assert_eq!(verify(&unreadable), Verdict::Damaged(None, Damage::Id));
        let field = format!("{ID_FIELD}: {}\r\n", id(5));
        let repeated = [field.as_bytes(), &good].concat();
        assert_eq!(verify(&repeated), Verdict::Damaged(None, Damage::Id));
    }

    #[test]
    fn exchanged_bodies_are_damage() {
        let (a, b) = (wire(5120, 0), wire(5120, 8));
        let body = memmem::find(&a, b"\r\n\r\n").unwrap() + 4;
        let mixed = [&a[..body], &b[body..]].concat();
        assert_eq!(verify(&mixed), Verdict::Damaged(Some(id(0)), Damage::Checksum));
    }

    proptest! {
        #[test]
        fn any_change_of_the_body_is_seen(
            size in 500..8000_usize,
            at in any::<prop::sample::Index>(),
            flip in 1..=255_u8,
        ) {
            let mut wire = wire(size, 1);
            let body = memmem::find(&wire, b"\r\n\r\n").unwrap() + 4;
            let at = body + at.index(wire.len() - body);
            // A changed first dot of a stuffed line is still removed as the transparency dot only
            // when it stays a dot, and it does not.
            wire[at] ^= flip;
            prop_assert!(matches!(verify(&wire), Verdict::Damaged(Some(_), _)));
        }

        #[test]
        fn arbitrary_octets_do_no_harm(octets in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = verify(&octets);
        }
    }
}
