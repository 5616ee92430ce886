//! Mail data: [`ContentDecoder`], held against a slow reader, and the stuffing of dots.
//!
//! The first octet chooses the limits, the second into which pieces the rest is cut, in which runs are
//! expanded.

use ringpost_protocol::data::stuff::{StuffState, needs_stuffing, stuff_into, terminator};
use ringpost_protocol::data::{
    ContentDecoder, ContentLimits, ContentProgress, ContentViolation, Framing,
};

use super::seed;
use crate::input::{Input, expanded, pieces};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "data",
    check,
    seeds,
    words: &[
        "\r\n.\r\n",
        "\r\n..",
        "\r\n",
        ".\r\n",
        ".",
        "\n.\n",
        "\r.\r",
        "Received:",
        "rEcEiVeD ",
        "A: b\r\n",
        " \t",
    ],
    size_max: 600,
    cost: 1,
};

/// Everything that is known when a decoder has stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    progress: ContentProgress,
    consumed: usize,
    content: Vec<u8>,
    size: u64,
    is_eight_bit: bool,
    received_fields: usize,
}

type Decode = fn(ContentLimits, &[u8], u8) -> Outcome;

fn seeds() -> Vec<Vec<u8>> {
    let header = "Received: from a\r\n\tby b; c\r\nreceived : x\r\nSubject: s\r\n\r\n";
    let texts = [
        ".\r\n".to_owned(),
        "hello\r\n.\r\nQUIT\r\n".to_owned(),
        format!("{header}..\r\n.a\r\n...\r\n\r\n.\r\n"),
        "a\n.\r\n.\r\n".to_owned(),
        "a\r.\r\n".to_owned(),
        "a\r\n.\rb".to_owned(),
        "a\0b\r\n.\r\n".to_owned(),
        " a\r\n.\r\n".to_owned(),
        "\u{fc}\r\n.\r\n".to_owned(),
        "xxxxxx\x1a\x7c\r\nxxxxxxx\x1a\x7c\r\n.\r\n".to_owned(),
        "A: b\r\nA: \x1a\x70\r\n \x1a\x70\r\n\r\n.\r\n".to_owned(),
        format!("{}\r\n.\r\n", "A: b\r\n".repeat(10)),
        format!("{}\r\n.\r\n", "text of some length\r\n".repeat(25)),
    ];
    let ways = |text: &String| [(0, 0), (0, 1), (1, 5), (2, 9)].map(|(a, b)| seed(&[a, b], text));
    texts.iter().flat_map(ways).collect()
}

fn limits(choice: u8) -> ContentLimits {
    match choice % 3 {
        0 => ContentLimits::default(),
        1 => ContentLimits {
            size_max: 60,
            line_size_max: 20,
            header_size_max: 50,
            header_fields_max: 3,
        },
        _ => {
            ContentLimits { size_max: 1000, line_size_max: usize::MAX, ..ContentLimits::default() }
        }
    }
}

/// Says whether the data is decoded as it must be, and whether what comes out can be sent again.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, decode)
}

fn check_with(octets: &[u8], decode: Decode) -> Verdict {
    let mut input = Input::new(octets);
    let (limits, way) = (limits(input.octet()), input.octet());
    let data = &expanded(input.rest())[..];
    let found = decode(limits, data, way);
    check_outcome(&found, &Reference::read(data), data, &limits)?;
    if found.progress == ContentProgress::End {
        check_stuffing(&found.content, way, decode)?;
    }
    Ok(())
}

fn decode(limits: ContentLimits, data: &[u8], way: u8) -> Outcome {
    let mut decoder = ContentDecoder::new(limits, Framing::Dots);
    let (mut content, mut consumed) = (Vec::new(), 0);
    let mut progress = ContentProgress::More;
    for piece in pieces(data, way) {
        let (taken, next) = decoder.decode(piece, &mut content);
        (consumed, progress) = (consumed + taken, next);
        if progress != ContentProgress::More {
            break;
        }
    }
    Outcome {
        progress,
        consumed,
        content,
        size: decoder.size(),
        is_eight_bit: decoder.is_eight_bit(),
        received_fields: decoder.received_fields(),
    }
}

/// What data says, read line by line.
#[derive(Debug)]
struct Reference<'a> {
    lines: Vec<&'a [u8]>,
    /// Octets up to the terminator, it included; `None`: it has not come.
    end: Option<usize>,
    /// A CR or LF that stands alone before the terminator, and where.
    alone: Option<(usize, ContentViolation)>,
}

impl<'a> Reference<'a> {
    fn read(data: &'a [u8]) -> Self {
        let (mut lines, mut start, mut at) = (Vec::new(), 0, 0);
        while let Some(b) = data.get(at) {
            match (b, data.get(at + 1)) {
                (b'\r', Some(b'\n')) => {
                    let line = &data[start..at];
                    (at, start) = (at + 2, at + 2);
                    if line == b"." {
                        return Self { lines, end: Some(at), alone: None };
                    }
                    lines.push(line.strip_prefix(b".").unwrap_or(line));
                }
                (b'\r', None) => break,
                (b'\r', Some(_)) => {
                    let alone = Some((at, ContentViolation::BareCarriageReturn));
                    return Self { lines, end: None, alone };
                }
                (b'\n', _) => {
                    let alone = Some((at, ContentViolation::BareLineFeed));
                    return Self { lines, end: None, alone };
                }
                _ => at += 1,
            }
        }
        Self { lines, end: None, alone: None }
    }

    fn content(&self) -> Vec<u8> {
        self.lines.iter().flat_map(|line| [line, &b"\r\n"[..]]).flatten().copied().collect()
    }

    /// All that is wrong with the lines that have ended.
    fn violations(&self, limits: &ContentLimits) -> Vec<ContentViolation> {
        let mut found = Vec::new();
        for (line, number) in self.lines.iter().zip(1..) {
            if line.len() > limits.line_size_max {
                found.push(ContentViolation::LineTooLong { line: number });
            }
            if line.contains(&0) {
                found.push(ContentViolation::Nul);
            }
        }
        let size = self.lines.iter().map(|line| line.len() as u64 + 2).sum::<u64>();
        if size > limits.size_max {
            found.push(ContentViolation::TooLarge);
        }
        found.extend(self.header(limits).1);
        found
    }

    /// `Received` fields, and what is wrong with the header section.
    fn header(&self, limits: &ContentLimits) -> (usize, Option<ContentViolation>) {
        let (mut fields, mut received, mut size) = (0, 0, 0);
        for line in &self.lines {
            if matches!(line.first(), Some(b' ' | b'\t')) {
                if fields == 0 {
                    return (received, Some(ContentViolation::HeaderSyntax));
                }
            } else {
                let Some(colon) = line.iter().position(|&b| b == b':') else { break };
                let name = line[..colon].trim_ascii_end();
                let is_name = !name.is_empty()
                    && name.iter().all(|&b| b.is_ascii_graphic())
                    && line[name.len()..colon].iter().all(|&b| b == b' ' || b == b'\t');
                if !is_name {
                    break;
                }
                fields += 1;
                received += usize::from(name.eq_ignore_ascii_case(b"received"));
            }
            size += line.len() + 2;
            if size > limits.header_size_max {
                return (received, Some(ContentViolation::HeaderTooLarge));
            }
            if fields > limits.header_fields_max {
                return (received, Some(ContentViolation::TooManyFields));
            }
        }
        (received, None)
    }
}

fn check_outcome(
    found: &Outcome,
    reference: &Reference<'_>,
    data: &[u8],
    limits: &ContentLimits,
) -> Verdict {
    let content = reference.content();
    must!(found.consumed <= data.len(), "more taken than there was");
    let room = limits.size_max.saturating_mul(2).saturating_add(data.len() as u64);
    must!(found.content.len() as u64 <= room, "{} octets kept", found.content.len());
    let wrong = reference.violations(limits);
    match found.progress {
        ContentProgress::More => {
            must!(reference.end.is_none(), "the terminator was not seen");
            must!(reference.alone.is_none(), "let pass: {:?}", reference.alone);
            must!(found.consumed == data.len(), "octets were left");
        }
        ContentProgress::End => {
            must!(reference.end == Some(found.consumed), "ends elsewhere: {:?}", reference.end);
            must!(wrong.is_empty(), "let pass: {wrong:?}");
            must!(found.content == content, "other content: {:?}", found.content);
            must!(found.size == content.len() as u64, "size {}", found.size);
            must!(found.is_eight_bit != content.is_ascii(), "8-bit: {}", found.is_eight_bit);
            let received = reference.header(limits).0;
            must!(found.received_fields == received, "{} Received fields", found.received_fields);
        }
        ContentProgress::Violation(ContentViolation::FarTooLarge) => {
            must!(found.size / 2 > limits.size_max, "{} octets are not so many", found.size);
        }
        ContentProgress::Violation(violation) if violation.closes_session() => {
            must!(
                reference.alone.map(|(_, alone)| alone) == Some(violation),
                "{violation:?} is not so"
            );
        }
        ContentProgress::Violation(violation) => {
            must!(reference.end == Some(found.consumed), "ends elsewhere: {:?}", reference.end);
            // The line that is named need not be the first, but it has to be too long.
            must!(wrong.contains(&violation), "{violation:?} is not so: {wrong:?}");
        }
    }
    Ok(())
}

/// What is stuffed comes out again, and nothing in it ends it early.
fn check_stuffing(content: &[u8], way: u8, decode: Decode) -> Verdict {
    let (mut wire, mut state) = (Vec::new(), StuffState::default());
    for piece in pieces(content, way) {
        if needs_stuffing(piece, state) {
            stuff_into(piece, &mut state, &mut wire);
        } else {
            wire.extend_from_slice(piece);
            state = state.after(piece);
        }
    }
    wire.extend_from_slice(terminator(state));
    let limits = ContentLimits { line_size_max: usize::MAX, ..ContentLimits::default() };
    let again = decode(limits, &wire, way.wrapping_add(1));
    must!(again.progress == ContentProgress::End, "stuffed, it is {:?}", again.progress);
    must!(again.consumed == wire.len(), "stuffed, it ends early");
    must!(again.content == content, "stuffed, it is other content");
    let ends = [b"\r\n", &wire[..]].concat().windows(5).filter(|five| five == b"\r\n.\r\n").count();
    must!(ends == 1, "stuffed, it has {ends} ends");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Decode) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    /// Replaces octets before they are decoded.
    fn changed(data: &[u8], from: &str, to: &str) -> Vec<u8> {
        String::from_utf8_lossy(data).replace(from, to).into_bytes()
    }

    #[test]
    fn wrong_decoders_are_found() {
        assert!(!is_found(decode));
        assert!(is_found(|limits, data, way| decode(
            limits,
            &changed(data, "\n.\r\n", "\r\n.\r\n"),
            way
        )));
        assert!(is_found(|limits, data, way| decode(limits, &changed(data, "\r.", ".\r\n."), way)));
        assert!(is_found(|limits, data, way| decode(limits, &changed(data, "\0", " "), way)));
        assert!(is_found(|_, data, way| decode(limits(2), data, way)));
        // Forgets the state of a line between two pieces.
        assert!(is_found(|limits, data, way| {
            let first = pieces(data, way).next().map_or(0, <[u8]>::len);
            match decode(limits, &data[first..], way) {
                outcome if way == 1 => outcome,
                _ => decode(limits, data, way),
            }
        }));
        assert!(is_found(|limits, data, way| Outcome {
            received_fields: 1,
            ..decode(limits, data, way)
        }));
        assert!(is_found(|limits, data, way| {
            let mut outcome = decode(limits, data, way);
            if outcome.progress == ContentProgress::End {
                outcome.content.retain(|&b| b != b'.');
            }
            outcome
        }));
    }
}
