//! The header of the PROXY protocol: [`read_header`], against a slow reader that has all of it.

use std::net::{IpAddr, SocketAddr};

use ringpost_protocol::proxy::{ProxyEnds, ProxyError, ProxyHeader, read_header};

use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "proxy",
    check,
    seeds,
    words: &[
        "PROXY ",
        "TCP4 ",
        "TCP6 ",
        "UNKNOWN",
        "192.0.2.1 ",
        "2001:db8::1 ",
        "::ffff:192.0.2.1 ",
        " 65535 25\r\n",
        "\r\n\r\n\0\r\nQUIT\n",
        "\x20\0\0\0",
        "\x21\x11\0\x0C",
        "\x21\x21\0\x24",
        "EHLO a\r\n",
    ],
    size_max: 300,
    cost: 1,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

type Read = fn(&[u8]) -> Result<Option<ProxyHeader>, ProxyError>;

fn seeds() -> Vec<Vec<u8>> {
    let v2 = |rest: &[u8]| [SIGNATURE, rest].concat();
    vec![
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4321 25\r\nEHLO a\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n\x16\x03".to_vec(),
        b"PROXY UNKNOWN ffff:: ::1 x\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4321 025\r\n".to_vec(),
        [b"PROXY TCP4 ", &[b'1'; 100][..], b"\r\n"].concat(),
        v2(b"\x20\0\0\0"),
        v2(b"\x20\x11\0\x03abcEHLO"),
        v2(b"\x21\x11\0\x0C\xC0\0\x02\x01\xC6\x33\x64\x02\x10\xE1\0\x19"),
        v2(b"\x21\x11\0\x10\xC0\0\x02\x01\xC6\x33\x64\x02\x10\xE1\0\x19\x04\0\x01\0EHLO a\r\n"),
        v2(b"\x21\x11\0\x0B\xC0\0\x02\x01\xC6\x33\x64\x02\x10\xE1\0"),
        v2(&[b"\x21\x21\0\x24", &[7; 36][..]].concat()),
        v2(&[b"\x21\x31\0\xD8", &[b'/'; 216][..]].concat()),
        v2(b"\x21\0\0\0"),
        v2(b"\x21\x11\xFF\xFF"),
        b"EHLO a\r\n".to_vec(),
    ]
}

/// Says whether the header is read as it must be, whole and octet by octet.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, read_header)
}

fn check_with(octets: &[u8], read: Read) -> Verdict {
    let found = read(octets);
    let expected = slow(octets);
    must!(found.ok().flatten() == expected, "{found:?} instead of {expected:?}");
    // What is said first of a part is what is said of the whole.
    let first = (0..=octets.len()).find_map(|end| read(octets.get(..end)?).transpose());
    must!(first.transpose() == found, "{first:?} octet by octet, {found:?} at once");
    must!(found != Ok(None) || may_become_one(octets), "more than these octets is waited for");
    let Ok(Some(header)) = found else { return Ok(()) };
    let Some(ends) = header.ends else { return Ok(()) };
    for header in [line_of(&ends), block_of(&ends)] {
        let again = read(&header);
        let size = header.len();
        must!(again == Ok(Some(ProxyHeader { ends: Some(ends), size })), "{again:?} for {ends:?}");
    }
    Ok(())
}

/// The header that stands at the front of `octets`, if one does.
fn slow(octets: &[u8]) -> Option<ProxyHeader> {
    if octets.starts_with(SIGNATURE) {
        return slow_block(octets);
    }
    let size = (2..=octets.len().min(107)).find(|end| octets[..*end].ends_with(b"\r\n"))?;
    let line = octets[..size - 2].strip_prefix(b"PROXY ")?;
    let words: Vec<&[u8]> = line.split(|octet| *octet == b' ').collect();
    if words[0] == b"UNKNOWN" {
        return Some(ProxyHeader { ends: None, size });
    }
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let end = |ip: &[u8], port: &[u8]| {
        let (ip, port) = (std::str::from_utf8(ip).ok()?, std::str::from_utf8(port).ok()?);
        let ip: IpAddr = ip.parse().ok()?;
        let number: u16 = port.parse().ok()?;
        let is_family = family == if ip.is_ipv4() { b"TCP4" } else { b"TCP6" };
        (is_family && number.to_string() == port).then(|| SocketAddr::new(ip, number))
    };
    let ends = ProxyEnds {
        source: end(source, source_port)?,
        destination: end(destination, destination_port)?,
    };
    Some(ProxyHeader { ends: Some(ends), size })
}

fn slow_block(octets: &[u8]) -> Option<ProxyHeader> {
    let fixed = octets.get(12..16)?;
    let size = 16 + usize::from(fixed[2]) * 256 + usize::from(fixed[3]);
    let body = octets.get(16..size).filter(|_| size <= 4096)?;
    let width = match (fixed[0], fixed[1]) {
        (0x20, _) | (0x21, 0) => return Some(ProxyHeader { ends: None, size }),
        (0x21, 0x11) => 4,
        (0x21, 0x21) => 16,
        _ => return None,
    };
    let ip = |at: usize| -> Option<IpAddr> {
        let octets = body.get(at..at + width)?;
        let four = || <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
        <[u8; 16]>::try_from(octets).ok().map(IpAddr::from).or_else(four)
    };
    let port = |at: usize| Some(u16::from(*body.get(at)?) * 256 + u16::from(*body.get(at + 1)?));
    let ends = ProxyEnds {
        source: SocketAddr::new(ip(0)?, port(2 * width)?),
        destination: SocketAddr::new(ip(width)?, port(2 * width + 2)?),
    };
    Some(ProxyHeader { ends: Some(ends), size })
}

/// Whether octets behind these could make a header of them.
fn may_become_one(octets: &[u8]) -> bool {
    if b"PROXY ".starts_with(octets) || SIGNATURE.starts_with(octets) {
        return true;
    }
    let has_line = || octets.windows(2).any(|pair| pair == b"\r\n");
    let is_block = || match octets.get(12..16) {
        None => true,
        Some(fixed) => {
            let size = 16 + usize::from(fixed[2]) * 256 + usize::from(fixed[3]);
            size <= 4096 && octets.len() < size
        }
    };
    (octets.starts_with(b"PROXY ") && octets.len() < 107 && !has_line())
        || (octets.starts_with(SIGNATURE) && is_block())
}

/// As version 1 writes it.
fn line_of(ends: &ProxyEnds) -> Vec<u8> {
    let ProxyEnds { source, destination } = ends;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let ips = format!("PROXY {family} {} {}", source.ip(), destination.ip());
    format!("{ips} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// As version 2 writes it, with a value of a type that nobody knows.
fn block_of(ends: &ProxyEnds) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut body = [octets(ends.source.ip()), octets(ends.destination.ip())].concat();
    body.extend(ends.source.port().to_be_bytes());
    body.extend(ends.destination.port().to_be_bytes());
    body.extend(b"\xE0\0\x01x");
    let family = if ends.source.is_ipv4() { 0x11 } else { 0x21 };
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    [SIGNATURE, &[0x21, family, 0, length], &body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Read) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    #[test]
    fn wrong_readers_are_found() {
        assert!(!is_found(read_header));
        let read =
            seeds().iter().filter(|octets| matches!(read_header(octets), Ok(Some(_)))).count();
        assert_eq!(read, 10);
        // Takes the proxy for the client.
        assert!(is_found(|octets| {
            read_header(octets)
                .map(|header| header.map(|header| ProxyHeader { ends: None, ..header }))
        }));
        // Leaves something of the header to be taken for what the client says.
        assert!(is_found(|octets| {
            let header = read_header(octets)?;
            Ok(header.map(|header| ProxyHeader { size: header.size - 1, ..header }))
        }));
        // Judges before it has seen all.
        assert!(is_found(|octets| match read_header(octets) {
            Ok(None) if octets.len() == 5 => Err(ProxyError::Absent),
            read => read,
        }));
        // Lets anything pass for a header.
        assert!(is_found(|octets| {
            read_header(octets).or(Ok(Some(ProxyHeader { ends: None, size: 15 })))
        }));
        // Waits for ever.
        assert!(is_found(|octets| read_header(octets).or(Ok(None))));
    }
}
