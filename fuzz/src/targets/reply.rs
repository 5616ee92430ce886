//! Replies: [`ReplyDecoder`], held against a slow reader.
//!
//! The first octet chooses into which pieces the rest is cut, in which runs are expanded.

use ringpost_protocol::extension::Extensions;
use ringpost_protocol::limits::{REPLY_LINE_MAX, REPLY_LINES_MAX, REPLY_SIZE_MAX, REPLY_TEXT_MAX};
use ringpost_protocol::reply::{Reply, ReplyDecoder};
use ringpost_protocol::status::EnhancedStatusCode;

use super::seed;
use crate::input::{Input, expanded, pieces};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "reply",
    check,
    seeds,
    words: &[
        "250 ",
        "250-",
        "\r\n",
        "\n",
        "550 5.1.1 ",
        "5.7.1",
        "4.2.2 ",
        "421 ",
        "354 ",
        "220 mx.test ESMTP",
        "PIPELINING",
        "SIZE 1000",
        "8BITMIME",
        "ENHANCEDSTATUSCODES",
    ],
    size_max: 400,
    cost: 1,
};

/// Replies, and whether what follows them is no reply.
type Decoded = (Vec<Reply>, bool);
type Decode = fn(&[u8], u8) -> Decoded;

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "220 mx.test ESMTP\r\n",
        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n250 2.1.0 ok\r\n354 go\r\n",
        "550-5.1.1 no such\r\n550 5.1.1 mailbox\r\n",
        "550 4.1.1 not of its class\n",
        "250\r\n421\n",
        "250 \r\n",
        "250-a\r\n251 b\r\n",
        "199 x\r\n",
        "600 x\r\n",
        "25 x\r\n",
        "250:x\r\n",
        "250 a\rb\r\n",
        "250 \u{fc}\u{7f}\u{9b}\u{1b}[2J\u{202e}\r\n",
        "hello\r\n",
    ];
    // Lines of 2,046 octets and of one more, CRLF not included.
    let long = ["250 aaaaaaaaa\x1a\x7fa\x1a\x7f\r\n", "250 aaaaaaaaaa\x1a\x7fa\x1a\x7f\r\n"];
    let many = format!("{}250 b\r\n", "250-a\r\n".repeat(40));
    let texts = texts.into_iter().chain(long).chain([&many[..]]);
    let broken: &[u8] = b"250 \xff\xfe\x80 \xc3\r\n";
    let ways = |text: &[u8]| [0, 1, 7].map(|way| seed(&[way], text));
    texts.map(str::as_bytes).chain([broken]).flat_map(ways).collect()
}

/// Says whether the replies are read as they must be.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, decode)
}

fn check_with(octets: &[u8], decode: Decode) -> Verdict {
    let mut input = Input::new(octets);
    let (way, wire) = (input.octet(), &expanded(input.rest())[..]);
    let (replies, is_over) = decode(wire, way);
    let expected = reference(wire);
    must!(replies.len() == expected.codes.len(), "{replies:?} are not {expected:?}");
    must!(is_over == expected.is_over, "over: {is_over}, not {}", expected.is_over);
    for (reply, code) in replies.iter().zip(expected.codes) {
        must!(reply.code.as_u16() == code, "{reply:?} is a {code}");
        check_reply(reply, decode)?;
    }
    Ok(())
}

fn decode(wire: &[u8], way: u8) -> Decoded {
    let (mut decoder, mut replies) = (ReplyDecoder::new(), Vec::new());
    for mut piece in pieces(wire, way) {
        while !piece.is_empty() {
            let Ok((taken, reply)) = decoder.decode(piece) else { return (replies, true) };
            replies.extend(reply);
            piece = &piece[taken..];
        }
    }
    (replies, false)
}

/// What has no reply's form, and what has.
#[derive(Debug)]
struct Reference {
    codes: Vec<u16>,
    /// What follows is no reply.
    is_over: bool,
    /// A reply has begun and not ended.
    is_open: bool,
}

/// Whether octets end within a reply.
pub(super) fn is_open(wire: &[u8]) -> bool {
    reference(wire).is_open
}

/// The code of the first reply, if it is whole.
pub(super) fn first_code(wire: &[u8]) -> Option<u16> {
    reference(wire).codes.first().copied()
}

/// RFC 5321 §4.2, with LF as the end of a line, and with our limits.
fn reference(wire: &[u8]) -> Reference {
    let mut codes = Vec::new();
    let mut lines: Vec<&[u8]> = wire.split(|&b| b == b'\n').collect();
    let partial = lines.pop().unwrap_or_default();
    let (mut open, mut count, mut size) = (None, 0, 0);
    for line in lines {
        (count, size) = (count + 1, size + line.len() + 1);
        let is_long =
            line.len() >= REPLY_LINE_MAX || count > REPLY_LINES_MAX || size > REPLY_SIZE_MAX;
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        let code = text
            .get(..3)
            .filter(|code| (b'2'..=b'5').contains(&code[0]) && code.iter().all(u8::is_ascii_digit));
        let is_line = matches!(text.get(3), None | Some(b' ' | b'-'));
        let Some(code) = code.filter(|_| is_line && !is_long && !text.contains(&b'\r')) else {
            return Reference { codes, is_over: true, is_open: false };
        };
        if open.is_some_and(|open| open != code) {
            return Reference { codes, is_over: true, is_open: false };
        }
        if text.get(3) == Some(&b'-') {
            open = Some(code);
        } else {
            codes.push(code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')));
            (open, count, size) = (None, 0, 0);
        }
    }
    // Of a line that has not ended only what cannot become one is refused.
    let before_last = partial.split_last().map_or(&[][..], |(_, before)| before);
    let is_over = partial.len() >= REPLY_LINE_MAX || before_last.contains(&b'\r');
    Reference { codes, is_over, is_open: open.is_some() || !partial.is_empty() }
}

/// What is kept of a reply can go anywhere, and comes back from a wire as the same.
fn check_reply(reply: &Reply, decode: Decode) -> Verdict {
    let text = &reply.text;
    must!(text.len() <= REPLY_TEXT_MAX, "{} octets of text", text.len());
    must!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?} has a control character");
    must!(!reply.to_string().contains('\n'), "{reply:?} is displayed on two lines");
    let class = reply.enhanced.map(EnhancedStatusCode::class);
    must!(class.is_none_or(|class| class == reply.code.class()), "{reply:?} has two classes");
    let extensions = Extensions::from_ehlo_reply(reply);
    let is_said = text.to_ascii_uppercase().contains("PIPELINING");
    must!(is_said || !extensions.pipelining, "PIPELINING was not offered in {text:?}");

    let mut wire = Vec::new();
    let mut lines = text.split('\n').peekable();
    while let Some(line) = lines.next() {
        let separator = if lines.peek().is_some() { '-' } else { ' ' };
        let code = reply.enhanced.map(|code| format!("{code} ")).unwrap_or_default();
        wire.extend_from_slice(format!("{}{separator}{code}{line}\r\n", reply.code).as_bytes());
    }
    // Only the first line says whether there is a code; without it, one that is text would be taken for it.
    let is_code = |line: &str| {
        let word = line.split(' ').next().unwrap_or_default();
        EnhancedStatusCode::parse(word).is_ok()
    };
    let is_ambiguous = reply.enhanced.is_none() && text.split('\n').any(is_code);
    if !is_ambiguous && text.len() < REPLY_LINE_MAX - 100 {
        let (again, is_over) = decode(&wire, 0);
        must!(again == [reply.clone()] && !is_over, "{reply:?} comes back as {again:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Decode) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    #[test]
    fn wrong_decoders_are_found() {
        assert!(!is_found(decode));
        // Takes every line for a reply.
        assert!(is_found(|wire, way| {
            decode(String::from_utf8_lossy(wire).replace('-', " ").as_bytes(), way)
        }));
        // Lets a CR pass.
        assert!(is_found(|wire, way| {
            decode(String::from_utf8_lossy(wire).replace("a\rb", "ab").as_bytes(), way)
        }));
        // Loses what an earlier piece brought.
        assert!(is_found(|wire, way| {
            let last = pieces(wire, way).last().unwrap_or_default();
            decode(last, 0)
        }));
        // Keeps what would drive a terminal.
        assert!(is_found(|wire, way| {
            let (mut replies, is_over) = decode(wire, way);
            for reply in &mut replies {
                reply.text = reply.text.replace("\\x1b", "\u{1b}");
            }
            (replies, is_over)
        }));
    }
}
