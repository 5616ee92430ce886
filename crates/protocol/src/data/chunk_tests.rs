//! Content that comes by BDAT.

use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Decoded {
    content: Vec<u8>,
    eight_bit: bool,
    received_fields: usize,
}

/// Decodes pieces to their end; the first thing that is wrong with them.
fn decode<'a>(
    framing: Framing,
    limits: ContentLimits,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Result<Decoded, ContentViolation> {
    let mut decoder = ContentDecoder::new(limits, framing);
    let mut content = Vec::new();
    for piece in pieces {
        match decoder.decode(piece, &mut content) {
            (taken, ContentProgress::More) => assert_eq!(taken, piece.len()),
            (_, ContentProgress::Violation(violation)) => return Err(violation),
            (_, ContentProgress::End) => panic!("{piece:?} ended the content"),
        }
    }
    decoder.finish(&mut content)?;
    assert_eq!(decoder.size(), content.len() as u64);
    let received_fields = decoder.received_fields();
    Ok(Decoded { content, eight_bit: decoder.is_eight_bit(), received_fields })
}

/// Decodes whole, octet by octet, and cut in two at every place: it must come to the same.
fn decode_all_ways(framing: Framing, input: &[u8]) -> Result<Vec<u8>, ContentViolation> {
    let limits = ContentLimits::default();
    let whole = decode(framing, limits, std::iter::once(input));
    assert_eq!(decode(framing, limits, input.chunks(1)), whole, "{input:?} octet by octet");
    for at in 0..=input.len() {
        let (head, tail) = input.split_at(at);
        assert_eq!(decode(framing, limits, [head, tail].into_iter()), whole, "{input:?} at {at}");
    }
    whole.map(|decoded| decoded.content)
}

#[test]
fn dots_mean_nothing_in_chunks() {
    for content in [
        &b""[..],
        b".\r\n",
        b"a\r\n.\r\nMAIL FROM:<smuggled@b.test>\r\n",
        b"..\r\n...\r\n",
        b"A: b\r\n\r\n.\r\n\r\n",
    ] {
        for framing in [Framing::Chunks, Framing::BinaryChunks] {
            assert_eq!(decode_all_ways(framing, content).as_deref(), Ok(content));
        }
    }
}

#[test]
fn the_last_line_of_text_is_completed() {
    let text = |input: &[u8]| decode_all_ways(Framing::Chunks, input).unwrap();
    assert_eq!(text(b"A: b\r\n\r\ntext"), b"A: b\r\n\r\ntext\r\n");
    assert_eq!(text(b"A: b"), b"A: b\r\n");
    let binary = |input: &[u8]| decode_all_ways(Framing::BinaryChunks, input).unwrap();
    assert_eq!(binary(b"A: b\r\n\r\ntext"), b"A: b\r\n\r\ntext");
    // A header section is text.
    assert_eq!(binary(b"A: b"), b"A: b\r\n");
}

#[test]
fn lines_are_held_to_the_rules_of_text() {
    use ContentViolation::{BareCarriageReturn, BareLineFeed, HeaderSyntax, LineTooLong, Nul};

    let long = [b"A: b\r\n\r\n", &[b'x'; 999][..]].concat();
    let table: [(&[u8], ContentViolation); 8] = [
        (b"a\nb\r\n", BareLineFeed),
        (b"\n", BareLineFeed),
        (b"a\rb\r\n", BareCarriageReturn),
        (b"a\r\r\n", BareCarriageReturn),
        (b"A: b\r\n\r\ntext\r", BareCarriageReturn),
        (b"a\0b\r\n", Nul),
        (b" a\r\n", HeaderSyntax),
        (&long, LineTooLong { line: 3 }),
    ];
    for (input, violation) in table {
        assert_eq!(decode_all_ways(Framing::Chunks, input), Err(violation), "{input:?}");
    }
}

#[test]
fn a_binary_body_is_any_octets() {
    let octets: Vec<u8> = (0..=255).chain([b'\n', b'\r']).collect();
    for header in [&b"\r\n"[..], b"A: b\r\nReceived: c\r\n\r\n", b"no field\r\n\r\n"] {
        let input = [header, &octets, &[b'x'; 2000]].concat();
        assert_eq!(decode_all_ways(Framing::BinaryChunks, &input).as_deref(), Ok(&input[..]));
    }
    for (input, violation) in [
        (&b"a\nb\r\n\r\n"[..], ContentViolation::BareLineFeed),
        (b"A: b\rc\r\n\r\n", ContentViolation::BareCarriageReturn),
        (b"A: \0\r\n\r\n", ContentViolation::Nul),
        (b"A: b\r", ContentViolation::BareCarriageReturn),
        // The line that ends the header section is none of the body.
        (b"A: b\r\nx y: z\r\n\0\r\n\r\n", ContentViolation::Nul),
    ] {
        assert_eq!(decode_all_ways(Framing::BinaryChunks, input), Err(violation), "{input:?}");
    }
}

#[test]
fn sizes_are_limited_with_what_is_added() {
    use ContentViolation::{FarTooLarge, TooLarge};

    let limits = ContentLimits { size_max: 10, ..ContentLimits::default() };
    let run = |framing, input: &[u8]| {
        decode(framing, limits, std::iter::once(input)).map(|decoded| decoded.content.len())
    };
    assert_eq!(run(Framing::Chunks, b"12345678"), Ok(10));
    assert_eq!(run(Framing::Chunks, b"123456789"), Err(TooLarge));
    for framing in [Framing::Chunks, Framing::BinaryChunks] {
        assert_eq!(run(framing, b"\r\n345678\r\n"), Ok(10));
        assert_eq!(run(framing, b"\r\n345678\r\n1\r\n"), Err(TooLarge));
        assert_eq!(run(framing, &[b"\r\n", &[b'x'; 20][..]].concat()), Err(FarTooLarge));
    }
}

proptest! {
    /// Text is the same by DATA and by BDAT, in chunks of whatever size.
    #[test]
    fn text_is_the_same_as_by_data(
        lines in prop::collection::vec("(Received: |A:|\\.{0,2}| )[ab\\x00\u{fc}]{0,12}", 0..8),
        sizes in prop::collection::vec(1..9_usize, 1..99),
    ) {
        let content: String = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect();
        let (mut wire, mut state) = (Vec::new(), stuff::StuffState::default());
        stuff::stuff_into(content.as_bytes(), &mut state, &mut wire);
        wire.extend_from_slice(stuff::terminator(state));
        let limits = ContentLimits {
            size_max: 60,
            line_size_max: 12,
            header_size_max: 50,
            header_fields_max: 4,
        };
        let mut decoder = ContentDecoder::new(limits, Framing::Dots);
        let mut by_data = Vec::new();
        let by_data = match decoder.decode(&wire, &mut by_data).1 {
            ContentProgress::End => Ok(Decoded {
                content: by_data,
                eight_bit: decoder.is_eight_bit(),
                received_fields: decoder.received_fields(),
            }),
            ContentProgress::Violation(violation) => Err(violation),
            ContentProgress::More => panic!("no end"),
        };
        let mut rest = content.as_bytes();
        let pieces = sizes.iter().map(|size| {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            rest = behind;
            piece
        });
        let mut pieces: Vec<_> = pieces.collect();
        pieces.push(rest);
        prop_assert_eq!(decode(Framing::Chunks, limits, pieces.into_iter()), by_data);
    }
}
