use super::stuff::{StuffState, needs_stuffing, stuff_into, terminator};
use super::*;
use proptest::prelude::*;

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    consumed: usize,
    progress: ContentProgress,
    content: Vec<u8>,
    eight_bit: bool,
    received_fields: usize,
    size: u64,
}

fn decode_with<'a>(limits: ContentLimits, pieces: impl Iterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = ContentDecoder::new(limits, Framing::Dots);
    let mut content = Vec::new();
    let mut consumed = 0;
    let mut progress = ContentProgress::More;
    for piece in pieces {
        let (n, next) = decoder.decode(piece, &mut content);
        consumed += n;
        progress = next;
        if progress != ContentProgress::More {
            break;
        }
        assert_eq!(n, piece.len());
    }
    Decoded {
        consumed,
        progress,
        content,
        eight_bit: decoder.is_eight_bit(),
        received_fields: decoder.received_fields(),
        size: decoder.size(),
    }
}

fn decode(input: &[u8]) -> Decoded {
    decode_with(ContentLimits::default(), std::iter::once(input))
}

fn decode_bytewise(input: &[u8]) -> Decoded {
    decode_with(ContentLimits::default(), input.chunks(1))
}

#[test]
fn dots_are_taken_off() {
    let table: [(&[u8], &[u8]); 9] = [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".x\r\n.\r\n", b"x\r\n"),
        (b"a\r\n..b\r\nc.\r\n.\r\n", b"a\r\n.b\r\nc.\r\n"),
        (b"a: b\r\n\r\n..\r\n\r\n.\r\n", b"a: b\r\n\r\n.\r\n\r\n"),
        (b"a.\r\n. \r\n.\r\n", b"a.\r\n \r\n"),
    ];
    for (input, content) in table {
        let shown = String::from_utf8_lossy(input);
        let mut with_more = input.to_vec();
        with_more.extend_from_slice(b"QUIT\r\n");
        for (name, decoded) in
            [("whole", decode(&with_more)), ("split", decode_bytewise(&with_more))]
        {
            assert_eq!(decoded.progress, ContentProgress::End, "{shown:?} {name}");
            assert_eq!(decoded.content, content, "{shown:?} {name}");
            assert_eq!(decoded.consumed, input.len(), "{shown:?} {name}");
            assert_eq!(decoded.size, content.len() as u64, "{shown:?} {name}");
        }
    }
}

/// All pairs of octets in front of a dot, and all behind it.
#[test]
fn all_neighbours_of_the_dot() {
    let ends = |input: &[u8]| decode(input).progress == ContentProgress::End;
    let pairs = (0..=u16::MAX).map(u16::to_be_bytes);
    let before = pairs.clone().filter(|pair| ends(&[b"x", &pair[..], b".\r\n"].concat()));
    let behind = pairs.filter(|pair| ends(&[b"x\r\n.", &pair[..]].concat()));
    assert_eq!(before.collect::<Vec<_>>(), [*b"\r\n"]);
    assert_eq!(behind.collect::<Vec<_>>(), [*b"\r\n"]);
}

/// Longer surroundings of a dot, of the octets that matter: only CR LF . CR LF ends the content.
#[test]
fn only_one_sequence_ends_the_content() {
    let octets: [&[u8]; 6] = [b"\r", b"\n", b"\0", b"x", b".", b""];
    let mut ends = 0;
    for a in octets {
        for b in octets {
            for c in octets {
                for d in octets {
                    let mut input = b"a".to_vec();
                    for part in [a, b, b".", c, d] {
                        input.extend_from_slice(part);
                    }
                    let end = input.len();
                    input.extend_from_slice(b"MAIL FROM:<smuggled@b.test>\r\n");
                    for decoded in [decode(&input), decode_bytewise(&input)] {
                        if decoded.progress == ContentProgress::End {
                            assert_eq!(&input[1..end], b"\r\n.\r\n");
                            assert_eq!(decoded.consumed, end);
                            ends += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(ends, 2);
}

#[test]
fn content_that_is_unsafe_is_refused() {
    use ContentViolation as V;
    let long = [&[b'a'; 999][..], b"\r\n.\r\n"].concat();
    let long_second = [b"x\r\n", &[b'a'; 5000][..], b"\r\n.\r\n"].concat();
    let table: [(&[u8], V); 17] = [
        (b"a\n.\n", V::BareLineFeed),
        (b"a\n.\r\n", V::BareLineFeed),
        (b"a\r\n.\n", V::BareLineFeed),
        (b"a\r.\r", V::BareCarriageReturn),
        (b"a\r\n.\rx", V::BareCarriageReturn),
        (b"a\r.\n", V::BareCarriageReturn),
        (b"a\n.\r", V::BareLineFeed),
        (b"a\r\n.\r\r\n", V::BareCarriageReturn),
        (b"a\r\r\n.\r\n", V::BareCarriageReturn),
        (b"\n", V::BareLineFeed),
        (b"\rx", V::BareCarriageReturn),
        (b"a\0b\r\n.\r\n", V::Nul),
        (b"a\r\n.\0\r\n.\r\n", V::Nul),
        (b" a: b\r\n\r\n.\r\n", V::HeaderSyntax),
        (b"\tx\r\n.\r\n", V::HeaderSyntax),
        (&long, V::LineTooLong { line: 1 }),
        (&long_second, V::LineTooLong { line: 2 }),
    ];
    for (input, violation) in table {
        let shown = String::from_utf8_lossy(&input[..input.len().min(30)]);
        let expected = ContentProgress::Violation(violation);
        assert_eq!(decode(input).progress, expected, "{shown:?}");
        assert_eq!(decode_bytewise(input).progress, expected, "{shown:?} octet by octet");
        if !violation.closes_session() {
            assert_eq!(decode(input).consumed, input.len());
        }
        let mut reply = Vec::new();
        let place = ViolationPlace::unknown(ContentLimits::default());
        violation.write_reply(&place, &mut reply);
        assert!(reply.starts_with(b"55") && reply.ends_with(b"\r\n"));
    }
}

/// However the input is cut, the reply names the line, what is wrong with it, and the limit.
#[test]
fn refusals_name_the_line_and_the_limit() {
    let long = [b"a: b\r\n\r\n".as_slice(), &[b'x'; 999], b"\r\nc\r\n.\r\n"].concat();
    let fields = [b"a: b\r\n".repeat(1001).as_slice(), b"\r\nc\r\n.\r\n"].concat();
    let field = [b"a: b\r\nc: ".as_slice(), &[b'x'; 1197], b"\r\n\r\n.\r\n"].concat();
    let folded = [b"a: b\r\n ".as_slice(), &[b'x'; 998], b"\r\n\r\n.\r\n"].concat();
    let name = [&[b'x'; 1000], b": b\r\n\r\n.\r\n".as_slice()].concat();
    let text = [&[b'x'; 1000], b"\r\n\r\n.\r\n".as_slice()].concat();
    // The larger violation is told, whatever comes first.
    let both = [&long[..long.len() - 3], b"\0\r\n.\r\n"].concat();
    let lines = [b"a: b\r\n".as_slice(), &b" 567890\r\n".repeat(8_000), b"\r\n.\r\n"].concat();
    let table: [(&[u8], &str); 15] = [
        (b"a: b\r\n\r\nc\n", "550 5.5.2 Bare <LF> in line 3 of the content"),
        (b"a: b\r\n\r\n..\r\nc\rd", "550 5.5.2 Bare <CR> in line 4 of the content"),
        (b"a: b\r\n.\n", "550 5.5.2 Bare <LF> in line 2 of the content"),
        (b"a: b\r\n.\rx", "550 5.5.2 Bare <CR> in line 2 of the content"),
        (b"a: b\r\n\r\nc\0\r\n\0\r\n.\r\n", "550 5.6.0 NUL in line 3 of the content"),
        (b"\0\r\n.\r\n", "550 5.6.0 NUL in line 1 of the content"),
        (b" a\r\nb\r\n.\r\n", "550 5.6.0 Line 1 of the content begins with white space"),
        (&long, "550 5.6.0 Line 3 of the content is too long: 999 octets, the limit is 998"),
        (
            &field,
            "550 5.6.0 Line 2 of the header section is too long: 1200 octets, the limit is 998",
        ),
        (
            &folded,
            "550 5.6.0 Line 2 of the header section is too long: 999 octets, the limit is 998",
        ),
        (
            &name,
            "550 5.6.0 Line 1 of the header section is too long: 1003 octets, the limit is 998",
        ),
        (&text, "550 5.6.0 Line 1 of the content is too long: 1000 octets, the limit is 998"),
        (&both, "550 5.6.0 NUL in line 5 of the content"),
        (&fields, "552 5.3.4 Header section too large at line 1001: the limit is 1000 fields"),
        (&lines, "552 5.3.4 Header section too large at line 7283: the limit is 65536 octets"),
    ];
    for (input, expected) in table {
        for size in [usize::MAX, 1, 3, 7] {
            let mut decoder = ContentDecoder::new(ContentLimits::default(), Framing::Dots);
            let mut content = Vec::new();
            let pieces = input.chunks(size.min(input.len()));
            let progress = pieces.map(|piece| decoder.decode(piece, &mut content).1).last();
            let Some(ContentProgress::Violation(violation)) = progress else {
                panic!("{expected}: {progress:?}")
            };
            let mut reply = Vec::new();
            violation.write_reply(&decoder.violation_place(), &mut reply);
            assert_eq!(String::from_utf8_lossy(&reply), format!("{expected}\r\n"), "{size}");
        }
    }
    let limits = ContentLimits { size_max: 100, ..ContentLimits::default() };
    let mut reply = Vec::new();
    ContentViolation::TooLarge.write_reply(&ViolationPlace::unknown(limits), &mut reply);
    assert_eq!(reply, b"552 5.3.4 Message too large: the limit is 100 octets\r\n");
}

#[test]
fn a_line_at_the_limit_is_accepted() {
    let mut input = vec![b'.'];
    input.extend_from_slice(&[b'.'; 998]);
    input.extend_from_slice(b"\r\n.\r\n");
    assert_eq!(decode(&input).progress, ContentProgress::End, "the dot taken off does not count");
    assert_eq!(decode_bytewise(&input).content.len(), 1000);
}

#[test]
fn the_header_section_is_counted() {
    let table: [(&str, usize); 8] = [
        ("Received: a\r\nrEcEiVeD: b\r\n\r\nReceived: c\r\n", 2),
        ("Received : a\r\n\tReceived: b\r\n\r\n", 1),
        ("X-Received: a\r\nReceive: a\r\nReceivedx: a\r\n\r\n", 0),
        ("Subject: Received: x\r\n\r\n", 0),
        ("hello\r\nReceived: a\r\n", 0),
        ("hello world: x\r\nReceived: a\r\n", 0),
        (":x\r\nReceived: a\r\n", 0),
        ("a: b\r\nno field\r\nReceived: a\r\n", 0),
    ];
    for (text, count) in table {
        let input = format!("{text}.\r\n");
        let decoded = decode(input.as_bytes());
        assert_eq!(decoded.progress, ContentProgress::End, "{text:?}");
        assert_eq!(decoded.received_fields, count, "{text:?}");
        assert_eq!(decode_bytewise(input.as_bytes()).received_fields, count, "{text:?}");
    }
}

#[test]
fn large_header_sections_are_refused() {
    let expected = ContentProgress::Violation(ContentViolation::TooManyFields);
    let fields = |n: usize| format!("{}\r\n.\r\n", "a: b\r\n".repeat(n));
    assert_eq!(decode(fields(1000).as_bytes()).progress, ContentProgress::End);
    assert_eq!(decode(fields(1001).as_bytes()).progress, expected);
    assert_eq!(decode_bytewise(fields(1001).as_bytes()).progress, expected);
    let expected = ContentProgress::Violation(ContentViolation::HeaderTooLarge);
    let line = format!(" {}\r\n", "a".repeat(900));
    let folded = |n: usize| format!("a: b\r\n{}\r\n.\r\n", line.repeat(n));
    assert_eq!(decode(folded(70).as_bytes()).progress, ContentProgress::End);
    assert_eq!(decode(folded(75).as_bytes()).progress, expected);
    let body = format!("a: b\r\n\r\n{}.\r\n", line.repeat(200));
    assert_eq!(decode(body.as_bytes()).progress, ContentProgress::End, "a body may be larger");
}

#[test]
fn large_content_is_dropped_and_then_cut() {
    let limits = ContentLimits { size_max: 10, ..ContentLimits::default() };
    let run = |input: &[u8], size: usize| {
        let decoded = decode_with(limits, input.chunks(size));
        assert!(decoded.content.len() <= 10 + size, "no more than one piece above the limit");
        decoded.progress
    };
    for size in [1, 3, 100] {
        assert_eq!(run(b"12345678\r\n.\r\n", size), ContentProgress::End);
        let over = ContentProgress::Violation(ContentViolation::TooLarge);
        assert_eq!(run(b"123456789\r\n.\r\n", size), over);
        assert_eq!(run(b"12345678\r\n12345678\r\n.\r\n", size), over);
        let far = ContentProgress::Violation(ContentViolation::FarTooLarge);
        assert_eq!(run(b"12345678\r\n1234567890\r\n.\r\n", size), far);
    }
    let far = ContentProgress::Violation(ContentViolation::FarTooLarge);
    // What comes first counts, whatever the pieces are: 22 octets are far too many.
    let bare_lf = ContentProgress::Violation(ContentViolation::BareLineFeed);
    let bare_cr = ContentProgress::Violation(ContentViolation::BareCarriageReturn);
    for size in [1, 3, 100] {
        assert_eq!(run(b"12345678\r\n1234567890\r\n\n", size), far);
        assert_eq!(run(b"12345678\r\n123456789012\n", size), far);
        assert_eq!(run(b"12345678\r\n12345678901\n", size), bare_lf);
        assert_eq!(run(b"12345678\r\n12345678901\rx", size), far);
        assert_eq!(run(b"12345678\r\n1234567890\rx", size), bare_cr);
        assert_eq!(run(b"12345678\r\n12345678\r\n.\rx", size), bare_cr);
    }
    assert_eq!(run(b"12345678\r\n12345678\r\n12345678", 1), far);
    assert_eq!(run(b"12345678\r\n12345678\r\n12345678", 100), far);
}

#[test]
fn eight_bit_content_is_noticed() {
    assert!(decode(b"\xc3\xbc\r\n.\r\n").eight_bit);
    assert!(!decode(b"u\r\n.\r\n\xc3\xbc").eight_bit, "what follows the terminator is not content");
}

fn stuff_pieces(content: &[u8], size: usize) -> Vec<u8> {
    let mut state = StuffState::default();
    let mut out = Vec::new();
    for piece in content.chunks(size) {
        if needs_stuffing(piece, state) {
            stuff_into(piece, &mut state, &mut out);
        } else {
            out.extend_from_slice(piece);
            state = state.after(piece);
        }
    }
    out.extend_from_slice(terminator(state));
    out
}

/// Lines of text, which is all that content ever is.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let octet = prop_oneof![3 => Just(b'.'), 3 => Just(b'a'), 1 => 0x80u8.., 1 => Just(b':')];
    let line = prop::collection::vec(octet, 0..6);
    prop::collection::vec(line, 0..8).prop_map(|lines| {
        lines.iter().flat_map(|line| line.iter().copied().chain(*b"\r\n")).collect()
    })
}

proptest! {
    #[test]
    fn what_is_stuffed_is_unstuffed(
        content in content(),
        size in 1usize..20,
        read in 1usize..20,
    ) {
        let wire = stuff_pieces(&content, size);
        prop_assert_eq!(&wire, &stuff_pieces(&content, usize::MAX));
        let decoded = decode_with(ContentLimits::default(), wire.chunks(read));
        prop_assert_eq!(decoded.progress, ContentProgress::End);
        prop_assert_eq!(decoded.consumed, wire.len());
        prop_assert_eq!(decoded.eight_bit, !content.is_ascii());
        prop_assert_eq!(decoded.content, content);
    }

    /// RFC 5321 §4.1.1.4: content without a CRLF at its end gets one, and nothing else changes.
    #[test]
    fn an_open_line_is_ended(content in "[.a\r\n]{0,3}[.a]", size in 1usize..5) {
        let safe = content.replace(['\r', '\n'], "");
        let wire = stuff_pieces(safe.as_bytes(), size);
        prop_assert_eq!(decode(&wire).content, format!("{safe}\r\n").into_bytes());
    }

    #[test]
    fn splits_do_not_matter(
        input in prop::collection::vec(prop::sample::select(b"\r\n..a: \0\xff".to_vec()), 0..40),
        size in 1usize..10,
    ) {
        let input = [&input[..], b"\r\n.\r\n"].concat();
        let whole = decode(&input);
        let split = decode_with(ContentLimits::default(), input.chunks(size));
        prop_assert_eq!(&whole.progress, &split.progress);
        if whole.progress == ContentProgress::End {
            prop_assert_eq!(whole, split);
        }
    }
}
