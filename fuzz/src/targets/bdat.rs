//! Content by BDAT, held against the same content by DATA: [`ServerSession`] twice.
//!
//! The first octet chooses how the sessions are set up, the second into which pieces all is cut that the
//! client sends, the third into which chunks the content is cut. The rest is the content, in which runs
//! are expanded.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use memchr::memmem;
use ringpost_protocol::data::stuff::{StuffState, stuff_into, terminator};
use ringpost_protocol::envelope::BodyType;
use ringpost_session::server::{CloseReason, Peer, ServerConfig, ServerEvent, ServerSession};

use super::seed;
use crate::input::{Input, expanded, pieces};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "bdat",
    check,
    seeds,
    words: &[
        "\r\n",
        "\r\n\r\n",
        "\r\n.\r\n",
        "\n.\n",
        "A: b\r\n",
        "Received: a\r\n",
        "X-Not-Before: 1700000001\r\n",
        "BDAT 5 LAST\r\n",
        "MAIL FROM:<>\r\n",
        "\r",
        "\n",
        ".",
        "\0",
    ],
    size_max: 600,
    cost: 2,
};

/// What the wall clock shows: 2023-11-14T22:13:20Z.
const UNIX_MS: u64 = 1_700_000_000_000;

const SMALL: u8 = 1;
const BINARY: u8 = 2;
const NOT_BEFORE: u8 = 4;
/// Nothing is left for the last chunk.
const EMPTY_END: u8 = 8;
/// Missing fields are added.
const ADD: u8 = 16;

/// All that came of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Trace {
    said: Vec<u8>,
    /// The message, if it was taken.
    message: Option<Message>,
    closed: Option<CloseReason>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    content: Vec<u8>,
    body: BodyType,
    hold_until: Option<u64>,
}

type Run = fn(flags: u8, way: u8, wire: &[u8]) -> Result<Trace, String>;

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "",
        "hello",
        "hello\r\n",
        "A: b\r\n\r\n.\r\n..\r\n...\r\ntext",
        ".\r\n",
        "X-Not-Before: 1700000060\r\nA: b\r\n\r\ntext\r\n",
        "Date: a\r\nX-Not-Before: 1700000060\r\n\r\ntext\r\n",
        "Received: a\r\nReceived: b\r\nReceived: c\r\n\r\n",
        "A: b\r\n\r\n\u{fc}\r\n",
        "a\nb\r\n",
        "a\rb\r\n",
        "a\r",
        "A: b\r\n\r\n\0\n\r.\r\n.\r\n\n",
        "a\0b\r\n",
        " a\r\n",
        "xxxxxx\x1a\x7c\r\nxxxxxxx\x1a\x7c\r\n",
        "12345678901234567890123456789\r\n12345678901234567890123456789\r\n",
    ];
    let choices = [
        [0, 0, 0],
        [EMPTY_END, 1, 5],
        [SMALL, 7, 1],
        [BINARY, 0, 3],
        [NOT_BEFORE, 3, 9],
        [BINARY | NOT_BEFORE | EMPTY_END, 200, 2],
        [ADD, 7, 3],
        [ADD | EMPTY_END, 1, 0],
        [ADD | BINARY | NOT_BEFORE, 0, 4],
    ];
    texts.iter().flat_map(|text| choices.map(|choice| seed(&choice, text))).collect()
}

/// Says whether BDAT brings what DATA brings, and leaves the session where it should be.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, run)
}

fn check_with(octets: &[u8], run: Run) -> Verdict {
    let mut input = Input::new(octets);
    let (flags, way, cut) = (input.octet(), input.octet(), input.octet());
    let content = &expanded(input.rest())[..];
    let (wire, chunks) = by_bdat(flags, cut, content);
    let trace = run(flags, way, &wire)?;
    if trace.closed == Some(CloseReason::TooLarge) {
        must!(flags & SMALL != 0 && content.len() > 120, "{} octets are too many", content.len());
        must!(trace.message.is_none(), "taken and not taken");
        return Ok(());
    }
    must!(trace.closed == Some(CloseReason::Quit), "ends by {:?}", trace.closed);
    let codes = codes(&trace.said);
    // The greeting, EHLO, MAIL, RCPT, each chunk, NOOP and QUIT.
    must!(codes.len() == 6 + chunks, "{} replies to {chunks} chunks: {codes:?}", codes.len());
    must!(codes.ends_with(&[250, 221]), "what is behind the chunks is lost: {codes:?}");
    let taken = codes[4..4 + chunks].iter().all(|code| *code == 250);
    must!(taken == trace.message.is_some(), "{codes:?}, and {:?}", trace.message);
    if flags & BINARY != 0 {
        return check_binary(flags, content, &trace);
    }
    // What ends with CR is not the same by DATA, where a whole line end has to follow.
    if content.ends_with(b"\r") {
        must!(!taken, "a CR stands alone, and is taken");
        return Ok(());
    }
    let other = run(flags, 0, &by_data(content))?;
    must!(trace.message == other.message, "{:?}, by DATA {:?}", trace.message, other.message);
    Ok(())
}

/// A binary body is what was sent, or the header section was none.
fn check_binary(flags: u8, content: &[u8], trace: &Trace) -> Verdict {
    let end = if content.starts_with(b"\r\n") { Some(2) } else { None };
    let end = end.or_else(|| memmem::find(content, b"\r\n\r\n").map(|at| at + 4));
    let (header, body) = content.split_at(end.unwrap_or(content.len()));
    let Some(message) = &trace.message else {
        let lines: Vec<&[u8]> = header.split_inclusive(|&b| b == b'\n').collect();
        let open = lines.iter().any(|line| {
            let text = line.strip_suffix(b"\r\n").unwrap_or(line);
            text.iter().any(|b| b"\r\n\0".contains(b)) || text.len() > 998
        });
        let is_small = flags & SMALL != 0 && content.len() > 50;
        let is_refused = open
            || is_small
            || header.len() > 60_000
            || header.starts_with(b" ")
            || header.starts_with(b"\t")
            || memmem::find(&header.to_ascii_lowercase(), b"received").is_some()
            || flags & NOT_BEFORE != 0;
        must!(is_refused, "{content:?} is refused");
        return Ok(());
    };
    must!(message.body == BodyType::BinaryMime, "{:?}", message.body);
    must!(message.content.ends_with(body), "another body: {:?}", message.content);
    if flags & (NOT_BEFORE | ADD) == 0 {
        let is_open = end.is_none() && !header.is_empty() && !header.ends_with(b"\r\n");
        let expected = [content, if is_open { b"\r\n" } else { b"" }].concat();
        must!(message.content == expected, "other content: {:?}", message.content);
    }
    Ok(())
}

fn envelope(flags: u8) -> &'static [u8] {
    if flags & BINARY != 0 {
        b"EHLO c.test\r\nMAIL FROM:<a@a.test> BODY=BINARYMIME\r\nRCPT TO:<b@b.test>\r\n"
    } else {
        b"EHLO c.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n"
    }
}

/// What the client says, and how many chunks it has.
fn by_bdat(flags: u8, cut: u8, content: &[u8]) -> (Vec<u8>, usize) {
    let mut chunks: Vec<&[u8]> = pieces(content, cut).collect();
    if flags & EMPTY_END != 0 || chunks.is_empty() {
        chunks.push(b"");
    }
    let mut wire = envelope(flags).to_vec();
    for (number, chunk) in chunks.iter().enumerate() {
        let last = if number + 1 == chunks.len() { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire.extend_from_slice(b"NOOP\r\nQUIT\r\n");
    (wire, chunks.len())
}

fn by_data(content: &[u8]) -> Vec<u8> {
    let mut wire = [envelope(0), b"DATA\r\n"].concat();
    let mut state = StuffState::default();
    stuff_into(content, &mut state, &mut wire);
    wire.extend_from_slice(terminator(state));
    wire.extend_from_slice(b"QUIT\r\n");
    wire
}

/// Plays the client and the driver.
fn run(flags: u8, way: u8, wire: &[u8]) -> Result<Trace, String> {
    static START: OnceLock<Instant> = OnceLock::new();
    let now = *START.get_or_init(Instant::now);
    let mut config = ServerConfig {
        hostname: "mx.test".into(),
        // The whole dialogue comes in one piece, or in any others.
        lenient: true,
        binary_mime: true,
        errors_max: u32::MAX,
        junk_commands_max: u32::MAX,
        ..ServerConfig::default()
    };
    if flags & SMALL != 0 {
        config.size_max = 60;
        config.received_fields_max = 2;
    }
    if flags & NOT_BEFORE != 0 {
        config.not_before_header = Some("X-Not-Before".into());
    }
    config.add_missing_fields = flags & ADD != 0;
    let peer = Peer { ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), may_relay: true };
    let mut session = ServerSession::new(now, Arc::new(config), peer);
    session.set_unix_ms(UNIX_MS);
    let (mut trace, mut content, mut in_content) = (Trace::default(), Vec::new(), false);
    for mut piece in pieces(wire, way) {
        loop {
            let output = session.transmit().to_vec();
            trace.said.extend_from_slice(&output);
            session.transmitted(output.len());
            if trace.closed.is_some() || piece.is_empty() {
                break;
            }
            let taken = session.handle_input(now, piece, &mut content);
            piece = &piece[taken..];
            let mut any = taken > 0;
            while let Some(event) = session.poll_event() {
                any = true;
                match event {
                    ServerEvent::DataStarted => {
                        must!(!std::mem::replace(&mut in_content, true), "content within content");
                        content.clear();
                        session.set_origin(UNIX_MS / 1000, "00a1", &mut content);
                    }
                    ServerEvent::TransactionAborted => {
                        must!(std::mem::take(&mut in_content), "nothing to abort");
                    }
                    ServerEvent::MessageReceived { size, eight_bit, .. } => {
                        must!(std::mem::take(&mut in_content), "a message without content");
                        must!(size == content.len() as u64, "size {size}");
                        must!(eight_bit != content.is_ascii(), "8-bit: {eight_bit}");
                        let hold_until = session.hold_until(UNIX_MS);
                        let envelope = session.take_envelope().ok_or("no envelope")?;
                        let (content, body) = (std::mem::take(&mut content), envelope.body);
                        trace.message = Some(Message { content, body, hold_until });
                        session.message_accepted(now, "q");
                    }
                    ServerEvent::Flush => return Err("it may not flush".into()),
                    ServerEvent::ClientNamed { .. } => return Err("it may name no client".into()),
                    ServerEvent::StartTls | ServerEvent::Authenticate => {
                        return Err("TLS or AUTH that is not offered".into());
                    }
                    ServerEvent::Closed(reason) => trace.closed = Some(reason),
                }
            }
            must!(any, "{} octets are never taken", piece.len());
        }
    }
    must!(!in_content || trace.closed.is_none(), "content without an end");
    Ok(trace)
}

/// The codes of replies, one for each.
fn codes(said: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(said);
    let last = text.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
    last.filter_map(|line| line.get(..3)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Run) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    /// Replaces a text in what the client says.
    fn changed(wire: &[u8], from: &str, to: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = wire;
        while let Some(at) = memmem::find(rest, from.as_bytes()) {
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(to.as_bytes());
            rest = &rest[at + from.len()..];
        }
        out.extend_from_slice(rest);
        out
    }

    fn changes_message(flags: u8, way: u8, wire: &[u8], change: fn(&mut Message)) -> Trace {
        let mut trace = run(flags, way, wire).unwrap();
        let is_bdat = memmem::find(wire, b"BDAT").is_some();
        if let Some(message) = trace.message.as_mut().filter(|_| is_bdat) {
            change(message);
        }
        trace
    }

    #[test]
    fn wrong_servers_are_found() {
        assert!(!is_found(run));
        // A chunk that is counted wrong.
        assert!(is_found(|flags, way, wire| run(flags, way, &changed(wire, "BDAT 5", "BDAT 4"))));
        // The terminator of DATA, seen within a chunk.
        assert!(is_found(|flags, way, wire| Ok(changes_message(flags, way, wire, |message| {
            if let Some(at) = memmem::find(&message.content, b"\r\n.\r\n") {
                message.content.truncate(at);
            }
        }))));
        // Dots that are taken off though none were put there.
        assert!(is_found(|flags, way, wire| Ok(changes_message(flags, way, wire, |message| {
            message.content = changed(&message.content, "\n.", "\n");
        }))));
        // Lines that are completed in binary content.
        assert!(is_found(|flags, way, wire| Ok(changes_message(flags, way, wire, |message| {
            message.content.extend_from_slice(b"\r\n");
        }))));
        assert!(is_found(|flags, way, wire| Ok(changes_message(flags, way, wire, |message| {
            message.hold_until = None;
        }))));
        assert!(is_found(|flags, way, wire| Ok(changes_message(flags, way, wire, |message| {
            message.body = BodyType::SevenBit;
        }))));
        // Bare line feeds that are mended.
        assert!(is_found(|flags, way, wire| run(flags, way, &changed(wire, "a\nb", "ab\n")).map(
            |trace| Trace {
                message: trace.message.or(Some(Message {
                    content: Vec::new(),
                    body: BodyType::SevenBit,
                    hold_until: None,
                })),
                ..trace
            }
        )));
    }
}
