use proptest::prelude::*;

use super::*;

fn v1(line: &str) -> Result<Option<ProxyHeader>, ProxyError> {
    read_header(format!("PROXY {line}\r\n").as_bytes())
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &length, body].concat()
}

fn ends_of(header: Result<Option<ProxyHeader>, ProxyError>) -> Option<(String, String)> {
    let ends = header.unwrap().unwrap().ends?;
    Some((ends.source.to_string(), ends.destination.to_string()))
}

/// The two ends in words.
fn both(source: &str, destination: &str) -> (String, String) {
    (source.to_owned(), destination.to_owned())
}

#[test]
fn lines_of_version_1_are_read() {
    for (line, expected) in [
        ("TCP4 192.0.2.1 198.51.100.2 4321 25", Some(both("192.0.2.1:4321", "198.51.100.2:25"))),
        ("TCP4 255.255.255.255 0.0.0.0 65535 0", Some(both("255.255.255.255:65535", "0.0.0.0:0"))),
        ("TCP6 2001:db8::1 ::1 1 2", Some(both("[2001:db8::1]:1", "[::1]:2"))),
        ("UNKNOWN", None),
        ("UNKNOWN ffff::1 what ever\n this is", None),
    ] {
        assert_eq!(ends_of(v1(line)), expected, "{line}");
        assert_eq!(v1(line).unwrap().unwrap().size, line.len() + 8);
    }
}

#[test]
fn lines_that_are_not_as_they_should_be_are_refused() {
    for line in [
        "",
        "TCP4",
        "TCP4 192.0.2.1 198.51.100.2 4321",
        "TCP4 192.0.2.1 198.51.100.2 4321 25 ",
        "TCP4 192.0.2.1 198.51.100.2 4321 25 1",
        "TCP4  192.0.2.1 198.51.100.2 4321 25",
        "TCP4 192.0.2.1 198.51.100.2 65536 25",
        "TCP4 192.0.2.1 198.51.100.2 +1 25",
        "TCP4 192.0.2.1 198.51.100.2 01 25",
        "TCP4 192.0.2.1 198.51.100.2 1 ",
        "TCP4 192.0.2.01 198.51.100.2 1 25",
        "TCP4 192.0.2 198.51.100.2 1 25",
        "TCP4 2001:db8::1 ::1 1 2",
        "TCP6 192.0.2.1 198.51.100.2 1 2",
        "TCP6 fe80::1%lo ::1 1 2",
        "tcp4 192.0.2.1 198.51.100.2 1 2",
        "UDP4 192.0.2.1 198.51.100.2 1 2",
        "UNKNOWNS",
        "TCP4 192.0.2.1 198.51.100.2 1 2\n",
        "TCP4 192.0.2.1 198.51.100.2 1 \u{661}",
    ] {
        assert_eq!(v1(line), Err(ProxyError::Malformed), "{line:?}");
    }
    assert_eq!(read_header(b"PROXY TCP4 \xff\r\n"), Err(ProxyError::Malformed));
}

/// The longest line that the specification knows has 107 octets; with one more it is refused.
#[test]
fn the_line_has_its_limit() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(PROXY_LINE_MAX - 16));
    assert_eq!(longest.len(), PROXY_LINE_MAX);
    assert_eq!(read_header(longest.as_bytes()).unwrap().unwrap().size, PROXY_LINE_MAX);
    let longer = longest.replace("UNKNOWN ", "UNKNOWN  ");
    assert_eq!(read_header(longer.as_bytes()), Err(ProxyError::TooLong));
    assert_eq!(read_header(&longer.as_bytes()[..PROXY_LINE_MAX]), Err(ProxyError::TooLong));
    assert_eq!(read_header(&longer.as_bytes()[..PROXY_LINE_MAX - 1]), Ok(None));
}

#[test]
fn headers_of_version_2_are_read() {
    let four = [192, 0, 2, 1, 198, 51, 100, 2, 0x10, 0xE1, 0, 25];
    let mut six = [0; 36];
    (six[0], six[15], six[31], six[33], six[35]) = (0xFE, 1, 2, 3, 4);
    let expected_four = Some(both("192.0.2.1:4321", "198.51.100.2:25"));
    // Types and values behind the addresses, whole or not.
    let with_values = [&four[..], &[0x20, 0, 5, 1, 0, 0, 0, 0, 0x30, 0xFF]].concat();
    for (command, family, body, expected) in [
        (0x21, 0x11, &four[..], expected_four.clone()),
        (0x21, 0x11, &with_values, expected_four),
        (0x21, 0x21, &six, Some(both("[fe00::1]:3", "[::2]:4"))),
        (0x21, 0x00, &[], None),
        (0x21, 0x00, &[1, 2, 3], None),
        (0x20, 0x00, &[], None),
        // The proxy's own: what it says of addresses means nothing.
        (0x20, 0x11, &four, None),
        (0x20, 0x11, &[1], None),
        (0x20, 0x31, &[1], None),
    ] {
        let header = v2(command, family, body);
        assert_eq!(ends_of(read_header(&header)), expected, "{command:x} {family:x} {body:?}");
        let followed = [&header[..], b"EHLO c.test\r\n"].concat();
        assert_eq!(read_header(&followed).unwrap().unwrap().size, header.len());
    }
}

#[test]
fn headers_of_version_2_that_cannot_be_are_refused() {
    let body = [0; 36];
    for (command, family, size, error) in [
        (0x11, 0x11, 12, ProxyError::Malformed),
        (0x31, 0x11, 12, ProxyError::Malformed),
        (0x22, 0x11, 12, ProxyError::Malformed),
        (0x2F, 0x11, 12, ProxyError::Malformed),
        (0x21, 0x11, 11, ProxyError::Malformed),
        (0x21, 0x21, 35, ProxyError::Malformed),
        (0x21, 0x13, 36, ProxyError::Malformed),
        (0x21, 0x41, 36, ProxyError::Malformed),
        (0x21, 0x01, 36, ProxyError::Malformed),
        (0x21, 0x10, 36, ProxyError::Malformed),
        (0x21, 0x12, 12, ProxyError::NotTcp),
        (0x21, 0x22, 36, ProxyError::NotTcp),
        (0x21, 0x31, 0, ProxyError::NotTcp),
        (0x21, 0x32, 0, ProxyError::NotTcp),
    ] {
        let header = v2(command, family, &body[..size]);
        assert_eq!(read_header(&header), Err(error), "{command:x} {family:x} {size}");
    }
}

#[test]
fn the_length_of_version_2_has_its_limit() {
    let longest = v2(0x21, 0x00, &vec![7; PROXY_HEADER_SIZE_MAX - V2_FIXED_SIZE]);
    assert_eq!(read_header(&longest).unwrap().unwrap().size, PROXY_HEADER_SIZE_MAX);
    let longer = v2(0x21, 0x00, &vec![7; PROXY_HEADER_SIZE_MAX - V2_FIXED_SIZE + 1]);
    // Refused by its length, before any of it is waited for.
    assert_eq!(read_header(&longer[..V2_FIXED_SIZE]), Err(ProxyError::TooLong));
    assert_eq!(read_header(&v2(0x20, 0, &vec![0; 0xFFFF])), Err(ProxyError::TooLong));
}

#[test]
fn what_begins_otherwise_is_no_header() {
    for input in [
        &b"EHLO c.test\r\n"[..],
        b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        b"PROXYS",
        b"PROXY\r\n",
        b"\r\nEHLO c.test\r\n",
        b"\r\n\r\n\0\r\nQUIT\r\n",
        b"\x16\x03\x01",
        b" PROXY",
        b"\0",
    ] {
        assert_eq!(read_header(input), Err(ProxyError::Absent), "{input:?}");
    }
    for input in [&b""[..], b"P", b"PROXY", b"\r", &V2_START[..11], V2_START] {
        assert_eq!(read_header(input), Ok(None), "{input:?}");
    }
}

/// What is certain of a part is what is said of the whole.
fn is_the_same_octet_by_octet(input: &[u8]) {
    let whole = read_header(input);
    let first = (0..=input.len()).find_map(|end| read_header(&input[..end]).transpose());
    assert_eq!(first.transpose(), whole, "{input:?}");
    if let Ok(Some(header)) = whole {
        assert!((15..=PROXY_HEADER_SIZE_MAX).contains(&header.size) && header.size <= input.len());
        assert_eq!(read_header(&input[..header.size - 1]), Ok(None));
    }
}

#[test]
fn headers_may_be_cut_anywhere() {
    for input in [
        &b"PROXY TCP4 192.0.2.1 198.51.100.2 4321 25\r\nEHLO c.test\r\n"[..],
        b"PROXY UNKNOWN\r\n\r\n",
        b"PROXY TCP5 1 2 3 4\r\n",
        &[b'P'; 200],
        &[b"PROXY ", &[b'x'; 200][..]].concat(),
        &v2(0x21, 0x11, &[9; 40]),
        &v2(0x21, 0x11, &[9; 3]),
        &v2(0x20, 0x00, &[]),
        b"\r\n\r\n\0\r\nQUIT\r\n",
    ] {
        is_the_same_octet_by_octet(input);
    }
}

proptest! {
    #[test]
    fn anything_may_be_cut_anywhere(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", V2_START, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"]),
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        is_the_same_octet_by_octet(&[start, &rest].concat());
    }

    #[test]
    fn what_a_proxy_writes_is_read(source in any::<IpAddr>(), port in any::<u16>(), other in any::<u16>()) {
        let ends = ProxyEnds {
            source: SocketAddr::new(source, port),
            destination: SocketAddr::new(source, other),
        };
        let (family, word, address) = match source {
            IpAddr::V4(ip) => (0x11, "TCP4", ip.octets().to_vec()),
            IpAddr::V6(ip) => (0x21, "TCP6", ip.octets().to_vec()),
        };
        let body = [&address[..], &address, &port.to_be_bytes(), &other.to_be_bytes()].concat();
        for header in [
            format!("PROXY {word} {source} {source} {port} {other}\r\n").into_bytes(),
            v2(0x21, family, &body),
        ] {
            let expected = ProxyHeader { ends: Some(ends), size: header.len() };
            prop_assert_eq!(read_header(&header), Ok(Some(expected)));
        }
    }
}
