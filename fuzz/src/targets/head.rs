//! The header section: the field that is taken out, those that are added, dates that others wrote, and the
//! trace field.
//!
//! The first octet chooses what is done, the second into which pieces content is cut. Then come texts,
//! ended by NUL. In content a LF stands for CR LF.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use ringpost_protocol::data::edit::{HeaderEditor, Origin};
use ringpost_protocol::data::field::TakenField;
use ringpost_protocol::data::{ContentDecoder, ContentLimits, ContentProgress, Framing};
use ringpost_protocol::hold::Hold;
use ringpost_protocol::limits::{HEADER_SIZE_MAX, TAKEN_FIELD_SIZE_MAX, TEXT_LINE_MAX};
use ringpost_protocol::path::ForwardPath;
use ringpost_protocol::time::{parse_rfc3339, parse_rfc5322, write_rfc3339, write_rfc5322};
use ringpost_protocol::trace::Received;

use super::{is_plain, is_text, seed};
use crate::input::{Input, expanded, pieces};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "head",
    check,
    seeds,
    words: &[
        "X-Later:",
        "x-later :",
        "X-Later",
        "\n ",
        "\n\t",
        "\n\n",
        "Subject: a\n",
        "1700000000",
        "Tue, 14 Nov 2023 22:13:20 +0000",
        "2023-11-14T22:13:20.5Z",
        "+02:00",
        " GMT",
        "(",
        ")",
        "\\",
        "<a@b.test>",
        "[IPv6:",
    ],
    size_max: 600,
    cost: 1,
};

/// The field that is taken out.
const NAME: &str = "X-Later";

/// What is added.
const ORIGIN: Origin<'_> = Origin { unix_seconds: 0, id: "00a1", host: "mx.test" };
const DATE: &[u8] = b"Date: Thu, 01 Jan 1970 00:00:00 +0000\r\n";
const MESSAGE_ID: &[u8] = b"Message-ID: <00a1.0@mx.test>\r\n";

/// What has been done to content: what was passed on, what the field says, octets taken and added.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passed {
    out: Vec<u8>,
    field: Field,
    removed: u64,
    added: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Absent,
    Value(Vec<u8>),
    TooLong,
    Repeated,
}

/// Content, whether fields are to be added, and how it is cut.
type Pass = fn(&[u8], bool, u8) -> Passed;

fn seeds() -> Vec<Vec<u8>> {
    let heads = [
        "Subject: a\nX-Later: 1\n 2\nFrom: b\n\nX-Later: 3\n",
        "x-LATER \t: 1\nX-Later: 2\n\n",
        "X-Later\nX-Later: 1\n\n",
        "X-Later:\n\n",
        "X-Lat: a\n X-Later: b\n\nbody",
        "X-Later: 1\x1a\x1f\n\n",
        "X-Later\x1a\x09: 1\n\n",
        ": a\nX-Later: 1\n",
        "Date: a\nA: b\n\ntext",
        "message-ID : a\n Date: b\n\nMessage-ID: c",
        "Date:\nX-Later: 1\nMessage-ID:\ntext",
    ];
    let dates = [
        "1700000000",
        "Tue, 14 Nov 2023 22:13:20 +0000",
        "14 nov 2023 22:13 EST (c (d) \\))",
        "2023-11-14T22:13:20.123456Z",
        "2016-12-31T23:59:60-23:59",
        "31 Feb 2023 00:00:00 +0000",
    ];
    let traces = ["c.test\0<a@b.test>\0ab", "[192.0.2.1]\0<\"a b\"@[IPv6:::1]>\0", "c\0\0"];
    let ways = |text: &&str| {
        [(0, 0), (0, 1), (0, 6), (3, 0), (3, 1)].map(|(what, way)| seed(&[what, way], text))
    };
    let mut seeds: Vec<_> = heads.iter().flat_map(ways).collect();
    seeds.extend(dates.iter().map(|text| seed(&[1, 0], text)));
    seeds.extend(traces.iter().map(|text| seed(&[2, 0], text)));
    seeds
}

/// Says whether the header section is read and written as it must be.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, pass)
}

fn check_with(octets: &[u8], pass: Pass) -> Verdict {
    let mut input = Input::new(octets);
    let (what, way) = (input.octet(), input.octet());
    match what % 3 {
        0 => check_editor(&expanded(input.rest()), what % 2 == 1, way, pass),
        1 => check_date(input.rest()),
        _ => check_received(&mut input),
    }
}

fn pass(content: &[u8], adds: bool, way: u8) -> Passed {
    let (mut editor, mut out) = (HeaderEditor::new([NAME], HEADER_SIZE_MAX), Vec::new());
    if adds {
        editor.add_missing();
        editor.set_origin(&ORIGIN, &mut out);
    }
    for piece in pieces(content, way) {
        editor.pass(piece, &mut out);
    }
    editor.finish(&mut out);
    let field = match editor.field(0) {
        TakenField::Absent => Field::Absent,
        TakenField::Value(value) => Field::Value(value.to_vec()),
        TakenField::TooLong => Field::TooLong,
        TakenField::Repeated => Field::Repeated,
    };
    Passed { out, field, removed: editor.removed(), added: editor.added() }
}

fn check_editor(text: &[u8], adds: bool, way: u8, pass: Pass) -> Verdict {
    let mut content = Vec::new();
    for line in text.split(|&b| b == b'\n') {
        content.extend(line.iter().filter(|&&b| b != b'\r'));
        content.extend_from_slice(b"\r\n");
    }
    // The decoder refuses content that begins with white space, and what is held back has a limit.
    if matches!(content.first(), Some(b' ' | b'\t')) || content.len() > HEADER_SIZE_MAX {
        return Ok(());
    }
    let (found, expected) = (pass(&content, adds, way), reference(&content, adds));
    must!(found == expected, "passed: {found:?}, not {expected:?}");
    if let Field::Value(value) = &found.field
        && let Some(Hold::Until { unix_ms }) = Hold::parse_field(value)
    {
        must!(Hold::Until { unix_ms }.release_unix_ms(5) >= 5, "released before it was there");
        let whole = Duration::from_millis(unix_ms);
        must!(Hold::Until { unix_ms }.is_within(whole, 0), "later than itself");
    }
    Ok(())
}

/// The same, line by line: RFC 5322 §2.2.
fn reference(content: &[u8], adds: bool) -> Passed {
    let (mut out, mut values, mut removed) = (Vec::new(), Vec::<Vec<u8>>::new(), 0);
    let (mut is_open, mut is_taken, mut fields) = (true, false, 0);
    let (mut missing, mut added) = (vec![("date", DATE), ("message-id", MESSAGE_ID)], Vec::new());
    missing.retain(|_| adds);
    for line in content.split_inclusive(|&b| b == b'\n') {
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        if is_open {
            let is_folded = matches!(text.first(), Some(b' ' | b'\t'));
            let name = field_name(text);
            if !is_folded {
                let word = name.unwrap_or_default().trim_ascii_end();
                is_taken = word.eq_ignore_ascii_case(NAME.as_bytes());
                missing.retain(|(name, _)| !word.eq_ignore_ascii_case(name.as_bytes()));
            }
            is_open = if is_folded { fields > 0 } else { name.is_some() };
            fields += usize::from(name.is_some() && !is_folded);
            if is_taken && is_open {
                removed += line.len() as u64;
                if is_folded {
                    values.last_mut().into_iter().for_each(|value| value.extend_from_slice(line));
                } else {
                    let colon = name.map_or(0, <[u8]>::len) + 1;
                    values.push(line[colon..].to_vec());
                }
                continue;
            }
            if !is_open {
                added = missing.iter().map(|(_, field)| *field).collect::<Vec<_>>().concat();
                if !added.is_empty() && !text.is_empty() {
                    added.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(&added);
            }
        }
        out.extend_from_slice(line);
    }
    if is_open {
        added = missing.iter().map(|(_, field)| *field).collect::<Vec<_>>().concat();
        out.extend_from_slice(&added);
    }
    let field = match &values[..] {
        [] => Field::Absent,
        [value] if value.len() > TAKEN_FIELD_SIZE_MAX => Field::TooLong,
        [value] => Field::Value(value.trim_ascii().to_vec()),
        _ => Field::Repeated,
    };
    Passed { out, field, removed, added: added.len() as u64 }
}

/// The name of the field that a line begins, with the blanks in front of the colon.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = &line[..line.iter().position(|&b| b == b':')?];
    let word = name.trim_ascii_end();
    let is_blank = |b: &u8| *b == b' ' || *b == b'\t';
    let is_name = !word.is_empty() && word.iter().all(u8::is_ascii_graphic);
    (is_name && name[word.len()..].iter().all(is_blank)).then_some(name)
}

/// A date that is read can be written, and is read as the same again.
fn check_date(text: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(text) else { return Ok(()) };
    for unix_ms in [parse_rfc3339(text), parse_rfc5322(text)].into_iter().flatten() {
        let (mut iso, mut mail) = (Vec::new(), Vec::new());
        write_rfc3339(unix_ms, &mut iso);
        write_rfc5322(unix_ms / 1000, &mut mail);
        let (iso, mail) = (String::from_utf8_lossy(&iso), String::from_utf8_lossy(&mail));
        must!(is_plain(&iso) && iso.len() == 24, "{text:?} is written as {iso:?}");
        // Beyond the year 9999 there is only its last second.
        let whole = unix_ms.min(253_402_300_799_999);
        must!(parse_rfc3339(&iso) == Some(whole), "{text:?} becomes {iso:?}");
        must!(parse_rfc5322(&mail) == Some(whole / 1000 * 1000), "{text:?} becomes {mail:?}");
    }
    Ok(())
}

/// The field that we add is one field, whatever the client calls itself.
fn check_received(input: &mut Input<'_>) -> Verdict {
    let (helo, path) = (input.text(), input.text());
    let line = format!("EHLO {helo}");
    // Only what the parser lets pass comes that far.
    let Ok(ringpost_protocol::command::Command::Ehlo(helo)) =
        ringpost_protocol::command::Command::parse(line.as_bytes())
    else {
        return Ok(());
    };
    let path = ForwardPath::parse(&path).ok().map(|path| path.to_string());
    let mut address = [0; 16];
    for octet in &mut address {
        *octet = input.octet();
    }
    let mut field = Vec::new();
    Received {
        peer_name: None,
        from_helo: helo,
        peer: IpAddr::V6(Ipv6Addr::from(address)),
        by: "mx.test",
        protocol: "ESMTP",
        id: "00a1",
        recipient: path.as_deref(),
        tls_cipher: None,
        priority: None,
        unix_seconds: input.number().into(),
    }
    .write(&mut field);
    let text = String::from_utf8_lossy(&field);
    let mut lines = text.strip_suffix("\r\n").ok_or("the field has no end")?.split("\r\n");
    must!(lines.next().is_some_and(|first| first.starts_with("Received: from ")), "{text:?}");
    must!(lines.clone().all(|line| line.starts_with('\t')), "{text:?} is not one field");
    let is_line = |line: &str| line.len() <= TEXT_LINE_MAX && is_text(&line.replace('\t', ""));
    must!(text.trim_end().split("\r\n").all(is_line), "{text:?} has a line that is none");
    let mut decoder = ContentDecoder::new(ContentLimits::default(), Framing::Dots);
    let whole = [&field[..], b"\r\n.\r\n"].concat();
    let (_, progress) = decoder.decode(&whole, &mut Vec::new());
    must!(progress == ContentProgress::End, "{text:?}: {progress:?}");
    must!(decoder.received_fields() == 1, "{text:?} counts {}", decoder.received_fields());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Pass) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    #[test]
    fn wrong_editors_are_found() {
        assert!(!is_found(pass));
        // Takes the field from the text as well.
        assert!(is_found(|content, adds, way| {
            let text = String::from_utf8_lossy(content).replace("\r\n\r\n", "\r\n");
            pass(text.as_bytes(), adds, way)
        }));
        // Forgets what is folded.
        assert!(is_found(|content, adds, way| {
            let text = String::from_utf8_lossy(content).replace("\r\n ", " ");
            pass(text.as_bytes(), adds, way)
        }));
        // Forgets to add, and adds what is there.
        assert!(is_found(|content, _, way| pass(content, false, way)));
        assert!(is_found(|content, _, way| pass(content, true, way)));
        assert!(is_found(|content, adds, way| Passed { removed: 0, ..pass(content, adds, way) }));
        assert!(is_found(|content, adds, way| Passed { added: 0, ..pass(content, adds, way) }));
        assert!(is_found(|content, adds, way| match pass(content, adds, way) {
            Passed { field: Field::Repeated, out, removed, added } => {
                Passed { field: Field::Value(b"2".to_vec()), out, removed, added }
            }
            other => other,
        }));
    }
}
