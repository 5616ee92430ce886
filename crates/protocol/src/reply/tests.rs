use super::*;
use proptest::prelude::*;

fn decode_all(input: &[u8]) -> Result<(Vec<Reply>, usize), ReplyError> {
    let mut decoder = ReplyDecoder::new();
    let mut replies = Vec::new();
    let mut offset = 0;
    while offset < input.len() {
        let (consumed, reply) = decoder.decode(&input[offset..])?;
        offset += consumed;
        replies.extend(reply);
    }
    Ok((replies, decoder.partial.len()))
}

fn decode_bytewise(input: &[u8]) -> Result<Vec<Reply>, ReplyError> {
    let mut decoder = ReplyDecoder::new();
    let mut replies = Vec::new();
    for &b in input {
        replies.extend(decoder.decode(&[b])?.1);
    }
    Ok(replies)
}

#[test]
fn replies_are_decoded() {
    // (octets, code, enhanced, text)
    let table: [(&[u8], u16, Option<&str>, &str); 12] = [
        (b"250 ok\r\n", 250, None, "ok"),
        (b"250\r\n", 250, None, ""),
        (b"250 \r\n", 250, None, ""),
        (b"250-\r\n250\r\n", 250, None, "\n"),
        (b"250 2.1.0 Ok\r\n", 250, Some("2.1.0"), "Ok"),
        (b"250 2.1.0\r\n", 250, Some("2.1.0"), ""),
        (b"550 2.1.0 no\r\n", 550, None, "2.1.0 no"),
        (b"550-5.7.1 one\r\n550 5.7.1 two\r\n", 550, Some("5.7.1"), "one\ntwo"),
        (b"220 a\n", 220, None, "a"),
        (b"220-a\n220 b\r\n", 220, None, "a\nb"),
        (b"554 a\x1b[1mb\0\r\n", 554, None, "a\\x1b[1mb\\x00"),
        (b"554 \xff\xc3\xbc\r\n", 554, None, "\u{fffd}\u{fc}"),
    ];
    for (input, code, enhanced, text) in table {
        let shown = String::from_utf8_lossy(input);
        let enhanced = enhanced.map(|text| EnhancedStatusCode::parse(text).unwrap());
        let expected =
            Reply { code: ReplyCode::new(code).unwrap(), enhanced, text: text.to_owned() };
        assert_eq!(decode_all(input), Ok((vec![expected.clone()], 0)), "{shown}");
        assert_eq!(decode_bytewise(input), Ok(vec![expected]), "{shown}, octet by octet");
    }
}

#[test]
fn garbage_is_an_error() {
    let table: [(&[u8], ReplyError); 12] = [
        (b"\r\n", ReplyError::Code),
        (b"25\r\n", ReplyError::Code),
        (b"25x ok\r\n", ReplyError::Code),
        (b"250_ok\r\n", ReplyError::Code),
        (b"2500 ok\r\n", ReplyError::Code),
        (b"150 ok\r\n", ReplyError::Code),
        (b"600 ok\r\n", ReplyError::Code),
        (b"hello\r\n", ReplyError::Code),
        (b"\x16\x03\x01\n", ReplyError::Code),
        (b"250-a\r\n251 b\r\n", ReplyError::MixedCodes),
        (b"250 a\rb\r\n", ReplyError::BareCarriageReturn),
        (b"250 a\r\r\n", ReplyError::BareCarriageReturn),
    ];
    for (input, error) in table {
        let shown = String::from_utf8_lossy(input);
        assert_eq!(decode_all(input), Err(error), "{shown}");
        assert_eq!(decode_bytewise(input), Err(error), "{shown}, octet by octet");
    }
}

#[test]
fn limits_hold_with_and_without_line_ends() {
    let fits = format!("250 {}\r\n", "a".repeat(REPLY_LINE_MAX - 6));
    assert_eq!(fits.len(), REPLY_LINE_MAX);
    assert_eq!(decode_all(fits.as_bytes()).unwrap().0.len(), 1);
    assert_eq!(decode_bytewise(fits.as_bytes()).unwrap().len(), 1);

    let over = format!("250 {}\r\n", "a".repeat(REPLY_LINE_MAX - 5));
    assert_eq!(decode_all(over.as_bytes()), Err(ReplyError::LineTooLong));
    assert_eq!(decode_bytewise(over.as_bytes()), Err(ReplyError::LineTooLong));
    assert_eq!(decode_all(&vec![b'2'; 1 << 20]), Err(ReplyError::LineTooLong));

    let lines = |n: usize| format!("{}250 end\r\n", "250-x\r\n".repeat(n - 1));
    assert_eq!(decode_all(lines(REPLY_LINES_MAX).as_bytes()).unwrap().0.len(), 1);
    assert_eq!(decode_all(lines(REPLY_LINES_MAX + 1).as_bytes()), Err(ReplyError::TooLong));

    let line = format!("250-{}\r\n", "a".repeat(1000));
    assert_eq!(decode_all(line.repeat(66).as_bytes()), Err(ReplyError::TooLong));
}

#[test]
fn the_text_is_cut() {
    let line = format!("554-{}\r\n", "\u{fc}".repeat(900));
    let input = format!("{line}{line}{line}554 end\r\n");
    let (replies, _) = decode_all(input.as_bytes()).unwrap();
    let length = replies[0].text.len();
    assert!((REPLY_TEXT_MAX - 4..=REPLY_TEXT_MAX).contains(&length), "{length}");
}

#[test]
fn one_reply_at_a_time() {
    let mut decoder = ReplyDecoder::new();
    let input = b"250 a\r\n354 b\r\n";
    let (consumed, reply) = decoder.decode(input).unwrap();
    assert_eq!((consumed, reply.unwrap().to_string().as_str()), (7, "250 a"));
    assert!(!decoder.is_inside_reply());
    assert_eq!(decoder.decode(b"250-").unwrap(), (4, None));
    assert!(decoder.is_inside_reply());
}

#[test]
fn display_is_one_line() {
    let (replies, _) = decode_all(b"550-5.7.1 one\r\n550-5.7.1\r\n550 5.7.1 two\r\n").unwrap();
    assert_eq!(replies[0].to_string(), "550 5.7.1 one two");
    let made = Reply::new(ReplyCode::new(450).unwrap(), None, "a\r\nb");
    assert_eq!(made.to_string(), "450 a\\x0d b");
}

proptest! {
    #[test]
    fn splits_do_not_matter(
        input in prop::collection::vec(
            prop_oneof![4 => prop::sample::select(b"2345 -\r\n0".to_vec()), 1 => any::<u8>()], 0..80),
    ) {
        let whole = decode_all(&input).map(|(replies, _)| replies);
        prop_assert_eq!(decode_bytewise(&input), whole);
    }

    #[test]
    fn written_replies_are_read_back(
        code in 200u16..600,
        lines in prop::collection::vec("[!-~][ -~]{0,60}", 1..5),
    ) {
        let mut wire = String::new();
        for (index, line) in lines.iter().enumerate() {
            let mark = if index + 1 == lines.len() { ' ' } else { '-' };
            wire.extend([format!("{code}{mark}x {line}\r\n")]);
        }
        let (replies, _) = decode_all(wire.as_bytes()).unwrap();
        let text: Vec<String> = lines.iter().map(|line| format!("x {line}")).collect();
        prop_assert_eq!(&replies[0].text, &text.join("\n"));
        prop_assert_eq!(replies[0].code.as_u16(), code);
    }
}
