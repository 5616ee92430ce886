//! BDAT and BINARYMIME (RFC 3030): octets in, replies out, whole and cut at every octet.

mod support;

use std::time::Duration;

use ringpost_protocol::envelope::BodyType;
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::server::{CloseReason, ServerConfig, ServerLimit, TransactionRefusal};
use support::{STRANGER, Server, TRUSTED};

const ENVELOPE: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";
const BINARY: &str = "MAIL FROM:<a@a.test> BODY=BINARYMIME\r\nRCPT TO:<b@b.test>\r\n";

const SIZE_MAX: u64 = 2000;

#[derive(Debug)]
struct Row {
    name: &'static str,
    input: Vec<u8>,
    replies: Vec<&'static str>,
    queued: Vec<Vec<u8>>,
    closed: Option<CloseReason>,
}

impl Row {
    fn new(name: &'static str, input: impl AsRef<[u8]>, replies: &[&'static str]) -> Self {
        let (input, replies) = (input.as_ref().to_vec(), replies.to_vec());
        Self { name, input, replies, queued: Vec::new(), closed: None }
    }

    /// Input behind an envelope, which has been taken.
    fn chunks(name: &'static str, input: impl AsRef<[u8]>, replies: &[&'static str]) -> Self {
        let input = [ENVELOPE.as_bytes(), input.as_ref()].concat();
        Self::new(name, input, &[&["250 2.1.0", "250 2.1.5"], replies].concat())
    }

    /// As [`chunks`](Self::chunks), declared as binary.
    fn binary(name: &'static str, input: impl AsRef<[u8]>, replies: &[&'static str]) -> Self {
        let input = [BINARY.as_bytes(), input.as_ref()].concat();
        Self::new(name, input, &[&["250 2.1.0", "250 2.1.5"], replies].concat())
    }

    fn queued(mut self, content: impl AsRef<[u8]>) -> Self {
        self.queued.push(content.as_ref().to_vec());
        self
    }

    fn closed(mut self, reason: CloseReason) -> Self {
        self.closed = Some(reason);
        self
    }
}

/// A BDAT command and its octets.
fn bdat(content: &str, is_last: bool) -> String {
    format!("BDAT {}{}\r\n{content}", content.len(), if is_last { " LAST" } else { "" })
}

fn config() -> ServerConfig {
    ServerConfig { size_max: SIZE_MAX, binary_mime: true, ..ServerConfig::default() }
}

fn run(row: &Row, size: usize, manner: &str) -> Server {
    run_pieces(row, &row.input.chunks(size).collect::<Vec<_>>(), manner)
}

fn run_pieces(row: &Row, pieces: &[&[u8]], manner: &str) -> Server {
    let mut server = Server::introduced(config(), TRUSTED);
    for piece in pieces {
        if server.closed.is_none() {
            server.send(piece);
        }
    }
    let (name, replies) = (row.name, server.replies());
    let fits = replies.len() == row.replies.len()
        && replies.iter().zip(&row.replies).all(|(reply, start)| reply.starts_with(start));
    assert!(fits, "{name}, {manner}: {replies:#?} instead of {:#?}", row.replies);
    let queued: Vec<_> = server.queued.iter().map(|queued| queued.content.clone()).collect();
    assert_eq!(queued, row.queued, "{name}, {manner}");
    assert_eq!(server.closed, row.closed, "{name}, {manner}");
    if row.closed.is_none() {
        server.said.clear();
        server.send(b"NOOP\r\n");
        assert!(server.replies() == ["250 2.0.0 Ok"], "{name}, {manner}: NOOP afterwards");
    }
    server
}

/// Whole, in pieces of several sizes, and cut in two at every octet.
fn run_all(rows: &[Row]) {
    for row in rows {
        let whole = run(row, usize::MAX, "whole");
        for size in [1, 2, 7] {
            let split = run(row, size, "in pieces");
            assert_eq!(split.queued, whole.queued, "{}", row.name);
            assert_eq!(split.session.stats(), whole.session.stats(), "{}", row.name);
        }
        for at in 1..row.input.len().min(600) {
            let (head, tail) = row.input.split_at(at);
            run_pieces(row, &[head, tail], &format!("cut at {at}"));
        }
    }
}

#[test]
fn chunks_make_a_message() {
    let message = "Subject: x\r\n\r\nhello\r\n";
    run_all(&[
        Row::chunks("B1 one chunk", bdat("hello", true), &["250 2.0.0 Ok: queued as q1"])
            .queued("hello\r\n"),
        Row::chunks("B1 with its CRLF", bdat(message, true), &["250 2.0.0 Ok: queued"])
            .queued(message),
        Row::chunks("B2 an empty message", bdat("", true), &["250 2.0.0 Ok: queued"]).queued(""),
        Row::chunks(
            "B2 an empty chunk, then the empty last one",
            bdat("", false) + &bdat("", true),
            &["250 2.0.0 0 octets received", "250 2.0.0 Ok: queued"],
        )
        .queued(""),
        Row::chunks(
            "B2 the last one empty",
            bdat(message, false) + &bdat("", true),
            &["250 2.0.0 21 octets received", "250 2.0.0 Ok: queued"],
        )
        .queued(message),
        Row::chunks(
            "B2 the last one empty, the line open",
            bdat("A: b", false) + &bdat("", true),
            &["250 2.0.0 4 octets", "250 2.0.0 Ok"],
        )
        .queued("A: b\r\n"),
        Row::chunks(
            "B11 coalesced",
            "BDAT 3\r\nabcBDAT 2 LAST\r\nde",
            &["250 2.0.0 3 octets received", "250 2.0.0 Ok"],
        )
        .queued("abcde\r\n"),
        Row::chunks(
            "B12 the terminator is content",
            bdat("a\r\n.\r\nMAIL FROM:<smuggled@b.test>\r\n..\r\n", true) + "NOOP\r\n",
            &["250 2.0.0 Ok: queued", "250 2.0.0 Ok"],
        )
        .queued("a\r\n.\r\nMAIL FROM:<smuggled@b.test>\r\n..\r\n"),
        Row::chunks(
            "B12 as the first octets, and over two chunks",
            bdat(".\r\nx\r\n.", false) + &bdat("\r\n", true),
            &["250 2.0.0 7", "250 2.0.0 Ok"],
        )
        .queued(".\r\nx\r\n.\r\n"),
        Row::chunks(
            "B13 between CR and LF",
            bdat("a\r", false) + &bdat("\nb\r", false) + &bdat("\n", true),
            &["250 2.0.0 2", "250 2.0.0 3", "250 2.0.0 Ok"],
        )
        .queued("a\r\nb\r\n"),
        Row::new(
            "two messages, one by each command's way",
            format!("{ENVELOPE}{}{ENVELOPE}{}", bdat("a\r\n", true), bdat("b\r\n", true)),
            &["250", "250", "250 2.0.0 Ok: queued as q1", "250", "250", "250 2.0.0 Ok: queued"],
        )
        .queued("a\r\n")
        .queued("b\r\n"),
        Row::chunks(
            "commands between chunks",
            bdat("a\r\n", false) + "NOOP\r\nVRFY a\r\nbogus\r\n" + &bdat("b\r\n", true),
            &["250 2.0.0 3", "250 2.0.0 Ok", "252", "500", "250 2.0.0 Ok: queued"],
        )
        .queued("a\r\nb\r\n"),
        Row::chunks("small letters", "bdat 1 last\r\na", &["250 2.0.0 Ok"]).queued("a\r\n"),
    ]);
}

#[test]
fn sizes_that_are_none_end_the_session() {
    for argument in [
        "",
        " ",
        " -1",
        " x",
        " 4 FOO",
        " 4 LAST x",
        " +4",
        " 04",
        " 4294967296 LAST",
        " 9223372036854775808",
        " 18446744073709551616 LAST",
        " 99999999999999999999999",
        "\t4",
    ] {
        let input = format!("BDAT{argument}\r\nMAIL FROM:<smuggled@b.test>\r\n");
        let closed = CloseReason::BadLine;
        run_all(&[
            Row::chunks("B3, B4", &input, &["501 5.5.4"]).closed(closed),
            Row::new("B3, B4 without a transaction", &input, &["501 5.5.4"]).closed(closed),
            Row::chunks(
                "B3, B4 behind a chunk",
                bdat("a\r\n", false) + &input,
                &["250 2.0.0 3", "501 5.5.4"],
            )
            .closed(closed),
        ]);
    }
}

#[test]
fn octets_that_are_not_wanted_are_taken_all_the_same() {
    let smuggled = "MAIL FROM:<smuggled@b.test>\r\n";
    run_all(&[
        Row::new("B6 before MAIL", bdat(smuggled, true), &["503 5.5.1 Need MAIL"]),
        Row::new("B6 nothing, before MAIL", bdat("", true), &["503 5.5.1 Need MAIL"]),
        Row::new(
            "B6 without RCPT",
            format!(
                "MAIL FROM:<>\r\n{}RCPT TO:<b@b.test>\r\n{}",
                bdat(smuggled, false),
                bdat("", true)
            ),
            &["250", "503 5.5.1 Need RCPT", "250 2.1.5", "250 2.0.0 Ok"],
        )
        .queued(""),
        Row::new(
            "B6 no valid recipient",
            format!("MAIL FROM:<>\r\nRCPT TO:<x>\r\n{}NOOP\r\n", bdat(smuggled, true)),
            &["250", "501 5.1.3", "554 5.5.1 No valid", "250 2.0.0 Ok"],
        ),
        Row::chunks(
            "B7 BDAT then DATA",
            bdat("a\r\n", false) + "DATA\r\n" + &bdat(smuggled, true),
            &["250 2.0.0 3", "503 5.5.1 DATA after BDAT", "503 5.5.1 Need MAIL"],
        ),
        Row::chunks(
            "B8 BDAT then MAIL or RCPT",
            bdat("a\r\n", false) + "MAIL FROM:<>\r\nRCPT TO:<c@c.test>\r\n" + &bdat("b\r\n", true),
            &["250 2.0.0 3", "503 5.5.1 Nested", "503 5.5.1 RCPT", "250 2.0.0 Ok"],
        )
        .queued("a\r\nb\r\n"),
        Row::chunks(
            "B9 RSET forgets the chunks",
            format!("{}RSET\r\n{}", bdat("a\r\n", false), bdat(smuggled, true)),
            &["250 2.0.0 3", "250 2.0.0 Ok", "503 5.5.1 Need MAIL"],
        ),
        Row::chunks(
            "B9 and the next message is another",
            format!("{}RSET\r\n{ENVELOPE}{}", bdat("a", false), bdat("b", true)),
            &["250 2.0.0 1", "250 2.0.0 Ok", "250", "250", "250 2.0.0 Ok: queued"],
        )
        .queued("b\r\n"),
        Row::chunks(
            "after the last one",
            bdat("a\r\n", true) + &bdat(smuggled, true),
            &["250 2.0.0 Ok: queued", "503 5.5.1 Need MAIL"],
        )
        .queued("a\r\n"),
        Row::chunks(
            "B10 an error in the first chunk",
            format!(
                "{}{}{}{}NOOP\r\n",
                bdat("a\0b\r\n", false),
                bdat(smuggled, false),
                bdat("", false),
                bdat(smuggled, true),
            ),
            &[
                "550 5.6.0 NUL",
                "503 5.5.1 The message has failed",
                "503 5.5.1 The message has failed",
                "503 5.5.1 The message has failed",
                "250 2.0.0 Ok",
            ],
        ),
        Row::chunks(
            "B10 and the next message",
            format!("{}{ENVELOPE}{}", bdat("a\nb", false), bdat("c", true)),
            &["550 5.5.2", "250", "250", "250 2.0.0 Ok: queued"],
        )
        .queued("c\r\n"),
    ]);
}

#[test]
fn text_is_held_to_its_rules() {
    let field = "Received: a\r\n".repeat(51);
    let too_long = format!("a\r\n{}\r\n", "x".repeat(999));
    run_all(&[
        Row::chunks("B16 a bare LF", bdat("a\n.\nb\r\n", true), &["550 5.5.2 Bare <LF>"]),
        Row::chunks("B16 a bare CR", bdat("a\rb\r\n", true), &["550 5.5.2 Bare <CR>"]),
        Row::chunks("B16 a CR at the end", bdat("a\r", true), &["550 5.5.2 Bare <CR>"]),
        Row::chunks(
            "B16 a CR at the end, the last one empty",
            bdat("a\r", false) + &bdat("", true),
            &["250 2.0.0 2", "550 5.5.2 Bare <CR>"],
        ),
        Row::chunks(
            "B16 a CR, then something else",
            bdat("a\r", false) + &bdat("b\r\n", true),
            &["250 2.0.0 2", "550 5.5.2 Bare <CR>"],
        ),
        Row::chunks("D12 NUL", bdat("\0", true), &["550 5.6.0 NUL"]),
        Row::chunks("D11 a long line", bdat(&too_long, true), &["550 5.6.0 Line 2"]),
        Row::chunks("D15 white space first", bdat(" a\r\n", true), &["550 5.6.0 Line 1 of"]),
        Row::chunks("D16 a loop", bdat(&field, true), &["554 5.4.6"]),
    ]);
}

#[test]
fn sizes_are_limited() {
    let full = "x\r\n".repeat(666) + "\r\n";
    assert_eq!(full.len() as u64, SIZE_MAX);
    let (head, tail) = full.split_at(999);
    let twice = "y".repeat(4002);
    run_all(&[
        Row::chunks("B5 as much as allowed", bdat(&full, true), &["250 2.0.0 Ok"]).queued(&full),
        Row::chunks(
            "B5 in two",
            bdat(head, false) + &bdat(tail, true),
            &["250 2.0.0 999", "250 2.0.0 Ok"],
        )
        .queued(&full),
        Row::chunks("B5 one more", bdat(&format!("{full}x"), true), &["552 5.3.4"]),
        Row::chunks(
            "B5 one more, in two",
            bdat(head, false) + &bdat(&format!("{tail}x"), false) + &bdat("x", true),
            &["250 2.0.0 999", "552 5.3.4", "503 5.5.1 The message has failed"],
        ),
        Row::chunks(
            "B5 for the CRLF that is added",
            bdat(&full.replace("\r\n\r\n", "\r\nab"), true),
            &["552 5.3.4"],
        ),
        Row::chunks("B5 more than twice as much", bdat(&twice, true), &["552 5.3.4"])
            .closed(CloseReason::TooLarge),
        Row::chunks(
            "B5 more than twice as much, declared",
            format!("BDAT 4000000000 LAST\r\n{twice}"),
            &["552 5.3.4"],
        )
        .closed(CloseReason::TooLarge),
        Row::new(
            "B5, B6 nobody may send more than that for nothing",
            bdat(&twice[..3000], false) + &bdat(&twice[..3000], true),
            &["503 5.5.1", "552 5.3.4"],
        )
        .closed(CloseReason::TooLarge),
    ]);
}

#[test]
fn a_message_too_large_is_counted_once() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(ENVELOPE.as_bytes());
    server.send(bdat(&"y".repeat(3000), false).as_bytes());
    server.send(bdat(&"y".repeat(3000), true).as_bytes());
    let stats = server.session.stats();
    assert_eq!(stats.transactions_refused(TransactionRefusal::Size), 1);
    assert_eq!(stats.limit_hits(ServerLimit::MessageSize), 2, "once it is too large, once far too");
    assert_eq!(server.closed, Some(CloseReason::TooLarge));
    assert_eq!(server.aborted, 0, "the driver was never told of it");
}

#[test]
fn small_chunks_are_junk() {
    let mut server = Server::introduced(ServerConfig { errors_max: 1000, ..config() }, TRUSTED);
    server.send(ENVELOPE.as_bytes());
    let mut sent = 0;
    while server.closed.is_none() && sent < 1_000_000 {
        server.send(b"BDAT 1\r\nx");
        sent += 1;
    }
    // B15. EHLO was one, too.
    assert_eq!((sent, server.closed), (100, Some(CloseReason::TooManyJunkCommands)));
    assert_eq!((server.aborted, server.queued.len()), (1, 0));

    // Those of a use are not, nor is the last one.
    let config = ServerConfig { size_max: 1 << 20, junk_commands_max: 1, ..config() };
    let mut server = Server::introduced(config, TRUSTED);
    for _ in 0..10 {
        server.send(ENVELOPE.as_bytes());
        for _ in 0..100 {
            server.send(bdat(&("x".repeat(510) + "\r\n"), false).as_bytes());
        }
        server.send(bdat("", true).as_bytes());
    }
    assert_eq!((server.queued.len(), server.closed), (10, None));
}

/// A pipeline of any length behind a chunk that has failed is heard to its end.
#[test]
fn chunks_in_the_pipeline_are_no_errors() {
    let mut server = Server::introduced(config(), TRUSTED);
    let chunk = bdat(&"x".repeat(512), false);
    server.send(format!("{ENVELOPE}BDAT 1\r\n\0{}QUIT\r\n", chunk.repeat(7)).as_bytes());
    let replies = server.replies();
    assert_eq!(replies.iter().filter(|reply| reply.starts_with("503")).count(), 7, "{replies:?}");
    assert_eq!(server.closed, Some(CloseReason::Quit));
    let mut server = Server::introduced(ServerConfig { errors_max: 3, ..config() }, TRUSTED);
    server.send(format!("{ENVELOPE}BDAT 1\r\n\0{}", chunk.repeat(7)).as_bytes());
    assert_eq!(server.closed, None, "they are not held against the client");
    server.said.clear();
    server.send(b"RSET\r\nBDAT 0 LAST\r\nBDAT 0 LAST\r\n");
    assert_eq!(server.closed, Some(CloseReason::TooManyErrors), "others are");
}

#[test]
fn binary_content_comes_by_bdat_only() {
    let any: String = (0..=127_u8).map(char::from).collect();
    let message = format!("MIME-Version: 1.0\r\n\r\n{any}\r");
    run_all(&[
        Row::binary("binary", bdat(&message, true), &["250 2.0.0 Ok"]).queued(&message),
        Row::binary(
            "binary, the body in the second chunk",
            bdat(&message[..21], false) + &bdat(&message[21..], true),
            &["250 2.0.0 21", "250 2.0.0 Ok"],
        )
        .queued(&message),
        Row::binary(
            "DATA, and then rightly",
            format!("DATA\r\n{}", bdat(&message, true)),
            &["503 5.5.1 BODY=BINARYMIME", "250 2.0.0 Ok"],
        )
        .queued(&message),
        Row::binary("a header that is no text", bdat("A: b\n\r\n\r\n", true), &["550 5.5.2"]),
        Row::binary("D16 a loop", bdat(&"Received: a\r\n".repeat(51), true), &["554 5.4.6"]),
    ]);
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(format!("{BINARY}{}", bdat("\r\nplain text\r\n", true)).as_bytes());
    assert_eq!(server.queued[0].envelope.body, BodyType::BinaryMime, "as MAIL has said");
    server.send(format!("{ENVELOPE}{}", bdat("\r\nt\u{e9}xt\r\n", true)).as_bytes());
    assert_eq!(server.queued[1].envelope.body, BodyType::EightBitMime, "as it is");
}

#[test]
fn extensions_can_be_switched_off() {
    for (chunking, binary_mime, offers) in
        [(true, true, 2), (true, false, 1), (false, true, 0), (false, false, 0)]
    {
        let extensions = ExtensionSet::ALL;
        let extensions =
            if chunking { extensions } else { extensions.without(Extension::Chunking) };
        let config = ServerConfig { extensions, binary_mime, ..config() };
        let mut server = Server::new(config, TRUSTED);
        server.flush();
        server.said.clear();
        server.send(b"EHLO client.test\r\n");
        let ehlo = server.replies().concat();
        let found = ["CHUNKING", "BINARYMIME"].iter().filter(|word| ehlo.contains(**word));
        assert_eq!(found.count(), offers, "{ehlo}");
        server.said.clear();
        server.send(BINARY.as_bytes());
        let taken = server.replies()[0].starts_with("250");
        assert_eq!(taken, chunking && binary_mime);
        server.send(b"RSET\r\n");
        server.said.clear();
        // Content is never taken for commands.
        server.send(format!("{ENVELOPE}BDAT 6 LAST\r\nQUIT\r\n").as_bytes());
        let expected = if chunking { (None, 1) } else { (Some(CloseReason::BadLine), 0) };
        assert_eq!((server.closed, server.queued.len()), expected);
        let last = server.replies().last().cloned().unwrap_or_default();
        assert!(last.starts_with(if chunking { "250 2.0.0" } else { "502 5.5.1" }), "{last}");
    }
}

#[test]
fn strangers_get_no_further_than_by_data() {
    let mut server = Server::introduced(config(), STRANGER);
    server.send(format!("{ENVELOPE}{}NOOP\r\n", bdat("x\r\n", true)).as_bytes());
    let replies = server.replies();
    let starts = ["250", "550 5.7.1", "554 5.5.1", "250 2.0.0 Ok"];
    assert!(
        replies.iter().zip(starts).all(|(reply, start)| reply.starts_with(start)),
        "{replies:?}"
    );
    assert_eq!((replies.len(), server.queued.len()), (4, 0));
}

#[test]
fn a_field_of_the_header_is_taken_out_of_chunks() {
    let config = ServerConfig { not_before_header: Some("X-Later".into()), ..config() };
    for pieces in [
        vec!["X-Later: 1700000060\r\nA: b\r\n\r\nx"],
        vec!["X-Lat", "er: 17000000", "60\r", "\nA: b\r\n\r\nx", ""],
        vec!["A: b\r\n", "\r\nx"],
    ] {
        let mut server = Server::introduced(config.clone(), TRUSTED);
        server.send(ENVELOPE.as_bytes());
        for (index, piece) in pieces.iter().enumerate() {
            server.send(bdat(piece, index + 1 == pieces.len()).as_bytes());
        }
        assert_eq!(server.queued[0].content, b"A: b\r\n\r\nx\r\n", "{pieces:?}");
        let is_held = server.queued[0].hold_until == Some(1_700_000_060_000);
        assert_eq!(is_held, pieces.len() != 2, "{pieces:?}");
    }
    // What may become the field is not lost, when it is all there is.
    let mut server = Server::introduced(config, TRUSTED);
    server.send(format!("{ENVELOPE}{}", bdat("X-La", true)).as_bytes());
    assert_eq!(server.queued[0].content, b"X-La\r\n");
}

/// The connection ends within a chunk, or between two: nothing is queued, and the driver knows.
#[test]
fn what_is_cut_off_is_no_message() {
    let input = format!("{}{}", bdat("abc\r\n", false), bdat("def\r\n", true));
    for at in 1..input.len() {
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(ENVELOPE.as_bytes());
        server.send(&input.as_bytes()[..at]);
        server.eof();
        // B14: whatever came behind this would be parsed by nobody.
        assert_eq!(server.closed, Some(CloseReason::PeerClosed), "cut at {at}");
        assert_eq!(server.queued.len(), 0, "cut at {at}");
        let has_begun = at >= "BDAT 5\r\n".len();
        assert_eq!(server.aborted, usize::from(has_begun), "cut at {at}");
        let aborted = server.session.stats().transactions_refused(TransactionRefusal::Aborted);
        assert_eq!(aborted, 1, "cut at {at}");
    }
}

#[test]
fn slow_chunks_are_cut_off() {
    let minute = Duration::from_mins(1);
    let late = |server: &Server, limit| {
        assert_eq!(server.closed, Some(CloseReason::TimedOut));
        assert!(server.replies().last().is_some_and(|reply| reply.starts_with("421 4.4.2")));
        assert_eq!(server.session.stats().limit_hits(limit), 1, "{limit:?}");
    };
    let begin = |input: &str| {
        let mut server = Server::introduced(ServerConfig { data_rate_min: 0, ..config() }, TRUSTED);
        server.send(format!("{ENVELOPE}{input}").as_bytes());
        server
    };
    // Within a chunk, also one that is thrown away.
    for input in ["BDAT 10\r\nabc", "RSET\r\nBDAT 10\r\nabc"] {
        let mut server = begin(input);
        server.wait(minute * 2);
        server.send(b"d");
        server.wait(minute * 2);
        assert_eq!(server.closed, None);
        server.wait(minute * 2);
        late(&server, ServerLimit::DataBlockTimeout);
    }
    // Between chunks it is a command that is waited for.
    let mut server = begin("BDAT 3\r\nabc");
    server.wait(minute * 4);
    assert_eq!(server.closed, None);
    server.wait(minute * 2);
    late(&server, ServerLimit::CommandTimeout);
    assert_eq!(server.aborted, 1);

    // The lowest rate counts from the first chunk, and pauses between chunks are none for it.
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(format!("{ENVELOPE}BDAT 3\r\nabc").as_bytes());
    server.wait(minute / 2);
    server.send(b"BDAT 3\r\nab");
    server.wait(minute);
    late(&server, ServerLimit::DataRate);
    // Whoever is through with the message has nothing to fear.
    for end in ["BDAT 0 LAST\r\n", "RSET\r\n", "EHLO c.test\r\n", "BDAT 1 LAST\r\n\0"] {
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(format!("{ENVELOPE}BDAT 3\r\nabc").as_bytes());
        server.send(end.as_bytes());
        server.wait(minute * 4);
        assert_eq!(server.closed, None, "{end:?}");
    }
}

#[test]
fn a_verdict_that_is_slow_is_waited_for() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.answers = false;
    server.send(ENVELOPE.as_bytes());
    server.send(bdat("x", true).as_bytes());
    server.said.clear();
    server.wait(Duration::from_hours(1));
    assert_eq!((server.closed, server.session.state_name()), (None, "verdict"));
    server.answer(0);
    server.flush();
    assert_eq!(server.replies(), ["250 2.0.0 Ok: queued as q1"]);
}
