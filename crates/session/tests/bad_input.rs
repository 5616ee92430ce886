//! What a server must survive: octets in, replies out, whole and cut at every octet.

mod support;

use ringpost_protocol::address::Mailbox;
use ringpost_session::server::ServerConfig;
use support::{STRANGER, Server, TRUSTED};

const ENVELOPE: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";
const NOOP_NOOP: &str = "NOOP\r\nNOOP\r\n";

/// What is left after the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Closed,
}

/// How the input may be cut without changing its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Anywhere,
    /// What counts is that the octets come in one read.
    Nowhere,
}

#[derive(Debug)]
struct Row {
    name: &'static str,
    segments: Vec<Vec<u8>>,
    replies: Vec<&'static str>,
    queued: usize,
    end: End,
    cut: Cut,
}

impl Row {
    fn new(
        name: &'static str,
        input: &(impl AsRef<[u8]> + ?Sized),
        replies: &[&'static str],
    ) -> Self {
        Self {
            name,
            segments: vec![input.as_ref().to_vec()],
            replies: replies.to_vec(),
            queued: 0,
            end: End::Open,
            cut: Cut::Anywhere,
        }
    }

    /// An envelope and DATA, then `content` in a segment of its own.
    fn content(
        name: &'static str,
        content: &(impl AsRef<[u8]> + ?Sized),
        replies: &[&'static str],
    ) -> Self {
        let mut row =
            Self::new(name, &format!("{ENVELOPE}DATA\r\n"), &["250 2.1.0", "250 2.1.5", "354"]);
        row.segments.push(content.as_ref().to_vec());
        row.replies.extend(replies);
        row
    }

    fn closed(mut self) -> Self {
        self.end = End::Closed;
        self
    }

    fn queued(mut self, count: usize) -> Self {
        self.queued = count;
        self
    }

    fn uncut(mut self) -> Self {
        self.cut = Cut::Nowhere;
        self
    }
}

fn lines() -> Vec<Row> {
    let over_long = format!("NOOP {}\r\n", "a".repeat(2042));
    let fits = format!("NOOP {}\r\n", "a".repeat(2041));
    vec![
        Row::new("L1 command ended by bare LF", "NOOP\nNOOP\r\n", &["500 5.5.2"]).closed(),
        Row::new(
            "L2 bare CR in a command",
            "MAIL FROM:<a@a.test>\rRCPT TO:<b@b.test>\r\n",
            &["500 5.5.2"],
        )
        .closed(),
        Row::new("L3 CR CR LF", "NOOP\r\r\nNOOP\r\n", &["500 5.5.2"]).closed(),
        Row::new("L4 NUL in a command", "NOOP\0\r\nMAIL FROM:<a\0@a.test>\r\n", &["501 5.5.2"; 2]),
        Row::new(
            "L5 control octets",
            "NOOP \x01\r\nEHLO a\x1fb.test\r\nNOOP \x7f\r\n",
            &["501 5.5.2"; 3],
        ),
        Row::new("L6 line at the limit", &fits, &["250"]),
        Row::new("L6 line over the limit", &format!("{over_long}NOOP\r\n"), &["500 5.5.6", "250"]),
        Row::new("L6 three lines over the limit", &over_long.repeat(4), &["500 5.5.6"; 3]).closed(),
        Row::new("L7 no CRLF", &"a".repeat(200_000), &["500 5.5.6"]).closed(),
        Row::new("L8 empty line", "\r\n", &["500 5.5.2"]),
        Row::new("L9 blanks before the verb", "  \r\n\tNOOP\r\n NOOP\r\n", &["500 5.5.2"; 3]),
        Row::new("L10 8-bit verb", b"\xc3\xbc\r\n\xff\xfe\r\n", &["500 5.5.2"; 2]),
        Row::new("L11 TLS", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n\r\n", &["500 5.5.2"]).closed(),
        Row::new("L12 GET", "GET / HTTP/1.1\r\nHost: mx.test\r\n\r\n", &["421 4.7.0"]).closed(),
        Row::new("L12 POST", "POST / HTTP/1.1\r\nNOOP\r\n", &["421 4.7.0"]).closed(),
        Row::new("L12 header", "Subject: hello\r\nNOOP\r\n", &["421 4.7.0"]).closed(),
        Row::new("L14 many commands", &"NOOP\r\n".repeat(90), &["250"; 90]),
    ]
}

fn content() -> Vec<Row> {
    let smuggled = "MAIL FROM:<s@s.test>\r\nRCPT TO:<t@t.test>\r\nDATA\r\n";
    let unsafe_end = |name, end: &str| {
        Row::content(name, &format!("a: b\r\n\r\ntext{end}{smuggled}"), &["550 5.5.2"]).closed()
    };
    let long_line = format!("a: b\r\n\r\n{}\r\n.\r\n", "x".repeat(999));
    let lines = |count: usize| format!("a: b\r\n\r\n{}.\r\n", "0123456789\r\n".repeat(count));
    let hops = |count: usize| format!("{}\r\ntext\r\n.\r\n", "Received: x\r\n".repeat(count));
    vec![
        unsafe_end("D1 LF . LF", "\n.\n"),
        unsafe_end("D2 LF . CR LF", "\n.\r\n"),
        unsafe_end("D3 CR LF . LF", "\r\n.\n"),
        unsafe_end("D4 CR . CR", "\r.\r"),
        unsafe_end("D4 CR LF . CR", "\r\n.\r"),
        unsafe_end("D4 CR . LF", "\r.\n"),
        unsafe_end("D4 LF . CR", "\n.\r"),
        unsafe_end("D5 CR LF . CR CR LF", "\r\n.\r\r\n"),
        Row::content(
            "D6 CR LF . NUL CR LF",
            "a: b\r\n\r\n.\0\r\n.\r\nNOOP\r\n",
            &["550 5.6.0", "250"],
        ),
        Row::content(
            "D7 commands behind the end",
            &format!("text\r\n.\r\n{NOOP_NOOP}"),
            &["250 2.0.0", "250", "250"],
        )
        .queued(1),
        Row::new(
            "D8 content before 354",
            &format!("{ENVELOPE}DATA\r\ntext\r\n.\r\n"),
            &["250", "250", "554 5.5.0"],
        )
        .closed()
        .uncut(),
        Row::content("D9 dots", "..\r\n...\r\n.x\r\n.\r\n", &["250 2.0.0"]).queued(1),
        Row::content("D10 empty content", ".\r\n", &["250 2.0.0"]).queued(1),
        Row::content("D11 long line", &long_line, &["550 5.6.0 Line 3 "]),
        Row::content("D12 NUL", "a\0b\r\n.\r\n", &["550 5.6.0"]),
        Row::content("D13 bare CR", "a\rb\r\n.\r\n", &["550 5.5.2"]).closed(),
        Row::content("D13 bare LF", "a\nb\r\n.\r\n", &["550 5.5.2"]).closed(),
        Row::content("D14 8-bit content", b"\xc3\xbc\r\n.\r\n", &["250 2.0.0"]).queued(1),
        Row::content(
            "D15 header section too large",
            &format!("{}.\r\n", format!("a: {}\r\n", "b".repeat(900)).repeat(80)),
            &["552 5.3.4"],
        ),
        Row::content(
            "D15 too many fields",
            &format!("{}\r\n.\r\n", "a: b\r\n".repeat(1001)),
            &["552 5.3.4"],
        ),
        Row::content("D15 no blank line", "a: b\r\nc: d\r\n.\r\n", &["250 2.0.0"]).queued(1),
        Row::content("D15 first line begins with space", " a: b\r\n\r\n.\r\n", &["550 5.6.0"]),
        Row::content("D16 50 hops", &hops(50), &["250 2.0.0"]).queued(1),
        Row::content("D16 51 hops", &hops(51), &["554 5.4.6"]),
        Row::content(
            "D17 deep nesting",
            &format!("{}.\r\n", "--=_boundary\r\n".repeat(200)),
            &["250 2.0.0"],
        )
        .queued(1),
        // The limit is 2,000 octets here.
        Row::content("D19 at the limit", &lines(166), &["250 2.0.0"]).queued(1),
        Row::content(
            "D19 undeclared, over the limit",
            &format!("{}NOOP\r\n", lines(200)),
            &["552 5.3.4", "250"],
        ),
        Row::content("D19 over twice the limit", &lines(400), &["552 5.3.4"]).closed(),
        Row::new(
            "D19 declared, over the limit",
            "MAIL FROM:<a@a.test> SIZE=2001\r\n",
            &["552 5.3.4"],
        ),
    ]
}

fn commands() -> Vec<Row> {
    let recipients = |count: usize| {
        let rcpt: Vec<String> = (0..count).map(|n| format!("RCPT TO:<u{n}@b.test>\r\n")).collect();
        format!("MAIL FROM:<a@a.test>\r\n{}", rcpt.concat())
    };
    let mut row_c12 =
        Row::new("C12 pipelining", &format!("{}DATA\r\n", recipients(100)), &["250"; 101]);
    row_c12.replies.push("354");
    row_c12.segments.push(b".\r\n".to_vec());
    row_c12.replies.push("250 2.0.0 Ok: queued as q1");
    let mut row_c13 = Row::new("C13 unknown commands", &"FOO\r\n".repeat(25), &["500 5.5.2"; 19]);
    row_c13.replies.push("421 4.7.0");
    // EHLO is the first of the hundred.
    let mut row_c14 = Row::new("C14 junk commands", &"NOOP\r\n".repeat(101), &["250"; 99]);
    row_c14.replies.push("421 4.7.0");
    let mut row_c15 = Row::new("C15 many recipients", &recipients(1002), &["250"; 1001]);
    row_c15.replies.extend(["452 4.5.3"; 2]);
    vec![
        Row::new("C2 RCPT before MAIL", "RCPT TO:<b@b.test>\r\n", &["503 5.5.1"]),
        Row::new(
            "C2 DATA before MAIL and RCPT",
            "DATA\r\nMAIL FROM:<a@a.test>\r\nDATA\r\n",
            &["503 5.5.1", "250", "503 5.5.1"],
        ),
        Row::new(
            "C2 DATA with no valid recipient",
            "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@[192.0.2.9]>\r\nDATA\r\nNOOP\r\n",
            &["250", "550", "554 5.5.1", "250"],
        ),
        Row::new(
            "C3 second MAIL",
            "MAIL FROM:<a@a.test>\r\nMAIL FROM:<x@a.test>\r\nRCPT TO:<b@b.test>\r\n",
            &["250", "503 5.5.1", "250"],
        ),
        Row::new(
            "C5 RSET",
            &format!("{ENVELOPE}RSET\r\nDATA\r\nRSET x\r\n"),
            &["250", "250", "250 2.0.0", "503", "501 5.5.4"],
        ),
        Row::new("C6 EHLO without a name", "EHLO\r\nEHLO \r\n", &["501 5.5.4"; 2]),
        Row::new(
            "C6 EHLO with a bad name",
            &format!("EHLO [999.1.1.1]\r\nEHLO {}\r\n", "a".repeat(300)),
            &["501 5.5.4"; 2],
        ),
        Row::new("C6 EHLO with a literal", "EHLO [192.0.2.1]\r\n", &["250"]),
        Row::new("C6 EHLO with an IPv6 literal", "EHLO [IPv6:2001:db8::1]\r\n", &["250"]),
        Row::new(
            "C7 the small commands",
            "NOOP x\r\nHELP\r\nHELP MAIL\r\nVRFY a\r\nEXPN a\r\n",
            &["250", "214 2.0.0", "214 2.0.0", "252 2.5.2", "502 5.5.1"],
        ),
        Row::new(
            "C8 commands that are not offered",
            "VERB\r\nDEBUG\r\nWIZ\r\nTURN\r\nETRN x\r\nSEND\r\nSOML\r\nSAML\r\nBURL\r\nAUTH PLAIN\r\nSTARTTLS\r\nBDAT 1 LAST\r\n",
            &["502 5.5.1"; 12],
        ),
        Row::new("C8 XCLIENT", "XCLIENT ADDR=192.0.2.9\r\nXFORWARD NAME=x\r\n", &["550 5.7.0"; 2]),
        Row::new(
            "C9 DATA with an argument",
            &format!("{ENVELOPE}DATA x\r\n"),
            &["250", "250", "501 5.5.4"],
        ),
        Row::new("C9 QUIT with an argument", "QUIT x\r\n", &["221 2.0.0"]).closed(),
        Row::new(
            "C10 QUIT in a transaction",
            &format!("{ENVELOPE}QUIT\r\nNOOP\r\n"),
            &["250", "250", "221 2.0.0"],
        )
        .closed(),
        Row::new(
            "C11 commands behind EHLO",
            "EHLO client.test\r\nMAIL FROM:<a@a.test>\r\n",
            &["554 5.5.0"],
        )
        .closed()
        .uncut(),
        Row::new("C11 commands behind HELO", "HELO client.test\r\nNOOP\r\n", &["554 5.5.0"])
            .closed()
            .uncut(),
        Row::new(
            "C11 commands behind DATA",
            &format!("{ENVELOPE}DATA\r\nNOOP\r\n"),
            &["250", "250", "554 5.5.0"],
        )
        .closed()
        .uncut(),
        row_c12.queued(1),
        row_c13.closed(),
        row_c14.closed(),
        row_c15,
    ]
}

fn addresses() -> Vec<Row> {
    let mail = |name, argument: &str, reply: &'static str| {
        Row::new(name, &format!("MAIL FROM:{argument}\r\n"), &[reply])
    };
    let rcpt = |name, argument: &str, reply: &'static str| {
        Row::new(name, &format!("MAIL FROM:<>\r\nRCPT TO:{argument}\r\n"), &["250 2.1.0", reply])
    };
    let long = |count: usize| "a".repeat(count);
    vec![
        mail("A1 no brackets", "a@a.test", "501 5.5.4"),
        mail("A1 space after the colon", " <a@a.test>", "501 5.5.4"),
        mail("A1 space at the end", "<a@a.test> ", "501 5.5.4"),
        mail("A2 no closing bracket", "<a@a.test", "501 5.1.7"),
        mail("A2 text behind the bracket", "<a@a.test>x", "501 5.1.7"),
        Row::new("A3 any case", "mAiL fRoM:<a@a.test>\r\nrcpt to:<b@b.test>\r\n", &["250", "250"]),
        mail("A4 unknown parameter", "<a@a.test> FOO=bar", "555 5.5.4"),
        rcpt("A4 unknown parameter", "<b@b.test> FOO=bar", "555 5.5.4"),
        mail("A5 parameter twice", "<a@a.test> SIZE=1 SIZE=2", "501 5.5.4"),
        mail("A6 negative SIZE", "<a@a.test> SIZE=-1", "501"),
        mail("A6 SIZE that is no number", "<a@a.test> SIZE=x", "501"),
        mail("A6 SIZE of 26 digits", "<a@a.test> SIZE=99999999999999999999999999", "552 5.3.4"),
        mail("A6 small SIZE", "<a@a.test> SIZE=1", "250"),
        mail("A7 unknown BODY", "<a@a.test> BODY=FOO", "501 5.5.4"),
        mail("A7 BODY that is not offered", "<a@a.test> BODY=BINARYMIME", "555 5.5.4"),
        mail("A7 REQUIRETLS", "<a@a.test> REQUIRETLS", "555 5.5.4"),
        mail("A7 8BITMIME", "<a@a.test> BODY=8BITMIME", "250"),
        mail("A10 null reverse-path", "<>", "250"),
        rcpt("A11 null forward-path", "<>", "501 5.1.3"),
        rcpt("A12 postmaster", "<PostMaster>", "550 5.1.1"),
        rcpt("A13 no domain", "<bob>", "501 5.1.3"),
        rcpt("A14 source route", "<@x,@y:b@b.test>", "501 5.1.3"),
        rcpt("A16 quoted space", "<\"a b\"@b.test>", "250"),
        rcpt("A16 quoted quote", "<\"a\\\"b\"@b.test>", "250"),
        rcpt("A16 empty quotes", "<\"\"@b.test>", "250"),
        rcpt("A17 literal", "<b@[10.0.0.1]>", "550 5.1.2"),
        rcpt("A17 bad literal", "<b@[999.1.1.1]>", "501 5.1.3"),
        rcpt("A17 IPv6 literal", "<b@[IPv6:::1]>", "550 5.1.2"),
        rcpt("A17 bare address", "<b@10.1.1.1>", "501 5.1.3"),
        rcpt("A18 two at signs", "<a@b@b.test>", "501 5.1.3"),
        rcpt("A18 leading dot", "<.a@b.test>", "501 5.1.3"),
        rcpt("A18 trailing dot", "<a.@b.test>", "501 5.1.3"),
        rcpt("A18 dots in a row", "<a..b@b.test>", "501 5.1.3"),
        rcpt("A19 local-part of 64", &format!("<{}@b.test>", long(64)), "250"),
        rcpt("A19 local-part of 65", &format!("<{}@b.test>", long(65)), "501 5.1.3"),
        rcpt("A19 label of 64", &format!("<a@{}.test>", long(64)), "501 5.1.3"),
        rcpt("A19 domain of 256", &format!("<a@{}test>", "abcdefgh.".repeat(28)), "501 5.1.3"),
        rcpt("A20 underscore", "<a@b_c.test>", "501 5.1.3"),
        rcpt("A20 trailing dot", "<a@b.test.>", "501 5.1.3"),
        rcpt("A20 empty label", "<a@b..test>", "501 5.1.3"),
        rcpt("A20 hyphen at an end", "<a@-b.test>", "501 5.1.3"),
        mail("A21 UTF-8", "<\u{fc}@a.test>", "553 5.6.7"),
        rcpt("A21 UTF-8", "<a@\u{fc}.test>", "553 5.6.7"),
        mail("A23 shell text", "<;for i in x;do true;done;@a>", "501 5.1.7"),
        Row::new(
            "A24 header in an address",
            "MAIL FROM:<a>\r\nBcc: <x@y.test>\r\n",
            &["501 5.1.7", "421 4.7.0"],
        )
        .closed(),
    ]
}

fn config() -> ServerConfig {
    ServerConfig { size_max: 2000, ..ServerConfig::default() }
}

fn run(row: &Row, pieces: &[&[u8]], manner: &str) -> Server {
    let mut config = config();
    // The header limits are beyond the small size used for D19.
    if row.name.starts_with("D1") && !row.name.starts_with("D19") {
        config.size_max = 1 << 20;
    }
    let mut server = Server::introduced(config, TRUSTED);
    for piece in pieces {
        if server.closed.is_none() {
            server.send(piece);
        }
    }
    let name = row.name;
    let replies = server.replies();
    let fits = replies.len() == row.replies.len()
        && replies.iter().zip(&row.replies).all(|(reply, start)| reply.starts_with(start));
    assert!(fits, "{name}, {manner}: {replies:#?} instead of {:#?}", row.replies);
    assert_eq!(server.queued.len(), row.queued, "{name}, {manner}");
    let closed = if row.end == End::Closed { End::Closed } else { End::Open };
    assert_eq!(server.closed.is_some(), closed == End::Closed, "{name}, {manner}");
    if row.end == End::Open && !name.starts_with("C14") {
        server.said.clear();
        server.send(b"NOOP\r\n");
        assert!(server.replies() == ["250 2.0.0 Ok"], "{name}, {manner}: NOOP afterwards");
    }
    server
}

fn run_all(rows: &[Row]) {
    for row in rows {
        let whole: Vec<&[u8]> = row.segments.iter().map(Vec::as_slice).collect();
        let server = run(row, &whole, "whole");
        if row.cut == Cut::Nowhere {
            continue;
        }
        let octets = |size: usize| {
            row.segments.iter().flat_map(|segment| segment.chunks(size)).collect::<Vec<_>>()
        };
        for size in [1, 2, 1000] {
            let split = run(row, &octets(size), "in pieces");
            assert_eq!(split.queued, server.queued, "{}", row.name);
        }
        for (index, segment) in row.segments.iter().enumerate() {
            if segment.len() > 400 {
                continue;
            }
            for at in 1..segment.len() {
                let (before, after) = segment.split_at(at);
                let mut pieces = whole.clone();
                pieces.splice(index..=index, [before, after]);
                let split = run(row, &pieces, &format!("segment {index} cut at {at}"));
                assert_eq!(split.queued, server.queued, "{}", row.name);
            }
        }
    }
}

#[test]
fn lines_and_octets() {
    run_all(&lines());
}

#[test]
fn ends_of_data() {
    run_all(&content());
}

#[test]
fn commands_and_states() {
    run_all(&commands());
}

#[test]
fn addresses_and_parameters() {
    run_all(&addresses());
}

#[test]
fn c1_mail_before_ehlo() {
    let mut server = Server::new(config(), TRUSTED);
    server.flush();
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    server.send(b"HELO client.test\r\n");
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    let replies = server.replies();
    let starts = ["220 localhost ESMTP", "503 5.5.1", "250 localhost", "250 2.1.0"];
    assert!(
        replies.iter().zip(starts).all(|(reply, start)| reply.starts_with(start)),
        "{replies:?}"
    );
    assert_eq!((server.session.helo(), server.session.protocol()), (Some("client.test"), "SMTP"));
}

#[test]
fn c4_ehlo_resets() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(ENVELOPE.as_bytes());
    server.send(b"EHLO other.test\r\n");
    server.send(b"RCPT TO:<b@b.test>\r\n");
    assert!(server.replies().last().unwrap().starts_with("503"));
    assert_eq!((server.session.helo(), server.session.protocol()), (Some("other.test"), "ESMTP"));
}

#[test]
fn c12_the_transaction_arrives_as_it_was_sent() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(b"MAIL FROM:<a@a.test> SIZE=10 BODY=8BITMIME\r\n");
    assert_eq!(server.session.declared_size(), Some(10));
    server.send(b"RCPT TO:<b@b.test>\r\nRCPT TO:<\"c d\"@c.test>\r\nDATA\r\n");
    server.send(b"Received: x\r\n\r\n..dots\r\n.\r\n");
    let queued = &server.queued[0];
    assert_eq!(queued.content, b"Received: x\r\n\r\n.dots\r\n");
    assert_eq!(queued.received_fields, 1);
    assert_eq!(queued.envelope.reverse_path.to_string(), "<a@a.test>");
    let paths: Vec<String> =
        queued.envelope.forward_paths.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["<b@b.test>", "<\"c d\"@c.test>"]);
    assert_eq!(queued.envelope.body.keyword(), "7BIT", "the content is 7-bit after all");
}

#[test]
fn c16_repeated_recipients_are_kept_once() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(b"MAIL FROM:<>\r\nRCPT TO:<z@b.test>\r\n");
    server.send("RCPT TO:<b@B.test>\r\nRCPT TO:<B@b.test>\r\n".repeat(499).as_bytes());
    server.send(b"DATA\r\n");
    server.send(b".\r\n");
    let paths = &server.queued[0].envelope.forward_paths;
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["<z@b.test>", "<b@b.test>", "<B@b.test>"], "a local-part has its case");
}

#[test]
fn l13_input_before_the_greeting() {
    let mut server = Server::new(config(), TRUSTED);
    server.send(b"EHLO client.test\r\n");
    assert!(server.replies()[0].starts_with("554 5.5.0") && server.closed.is_some());

    let lenient = ServerConfig { lenient: true, ..config() };
    let mut server = Server::new(lenient, TRUSTED);
    server.send(b"EHLO client.test\r\nNOOP\r\n");
    assert_eq!((server.replies().len(), server.closed), (3, None));
}

#[test]
fn a12_postmaster_has_a_route() {
    let postmaster = Mailbox::parse("root@a.test").unwrap();
    let config = ServerConfig { postmaster: Some(postmaster), ..config() };
    let mut server = Server::introduced(config, STRANGER);
    server.send(b"MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nDATA\r\n");
    server.send(b".\r\n");
    assert_eq!(server.queued[0].envelope.forward_paths[0].to_string(), "<root@a.test>");
}

/// A15: however an address is dressed up, a stranger relays to nobody.
#[test]
fn a15_strangers_cannot_relay() {
    for path in [
        "b@b.test",
        "b%c.test@ours.test",
        "c.test!b@ours.test",
        "\"b@c.test\"@ours.test",
        "\"b%c.test\"@ours.test",
        "b@[127.0.0.1]",
        "b@localhost",
        "@ours.test:b@c.test",
        "b@c.test@ours.test",
        "postmaster",
        "postmaster@b.test",
    ] {
        for lenient in [false, true] {
            let mut server = Server::introduced(ServerConfig { lenient, ..config() }, STRANGER);
            server.send(format!("MAIL FROM:<a@a.test>\r\nRCPT TO:<{path}>\r\nDATA\r\n").as_bytes());
            let replies = server.replies();
            assert!(
                replies[1].starts_with('5') && replies[2].starts_with("55"),
                "{path}: {replies:?}"
            );
        }
    }
    let mut server = Server::introduced(config(), STRANGER);
    server.send(b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n");
    assert!(server.replies()[1].starts_with("550 5.7.1"));
}

#[test]
fn lenient_listeners_take_sloppy_mail() {
    let lenient = ServerConfig { lenient: true, ..ServerConfig::default() };
    let mut server = Server::introduced(lenient, TRUSTED);
    let content = format!("{}\r\n.\r\n", "x".repeat(5000));
    server.send(b"MAIL FROM: a@a.test\r\nRCPT TO:<@x:a..b@b_c.test> \r\nDATA\r\n");
    server.send(content.as_bytes());
    assert_eq!(server.queued.len(), 1, "{:?}", server.replies());
    let mut server = Server::introduced(ServerConfig { lenient: true, ..config() }, TRUSTED);
    server.send(format!("{ENVELOPE}DATA\r\na\nb\r\n.\r\n").as_bytes());
    assert!(server.closed.is_some() && server.queued.is_empty(), "bare LF is refused all the same");
}
