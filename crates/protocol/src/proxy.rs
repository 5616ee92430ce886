//! The PROXY protocol, versions 1 and 2: what a load balancer says of a connection before its first octet.
//!
//! The header is believed from named peers only, and is then the first thing that has to come. What it
//! says of the client stands in the place of what the socket says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

use crate::limits::{PROXY_HEADER_SIZE_MAX, PROXY_LINE_MAX};

#[cfg(test)]
mod tests;

/// How a header of version 1 begins.
const V1_START: &[u8] = b"PROXY ";

/// How a header of version 2 begins: no line of any text protocol does.
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Octets of version 2 in front of the addresses.
const V2_FIXED_SIZE: usize = 16;

/// The two ends of a connection, as a proxy has seen them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client and the address that it has connected to; `None` when the proxy speaks for itself (a
    /// health check) or does not know: then the ends of its own connection count.
    pub ends: Option<ProxyEnds>,
    /// Octets of the header; what follows is the client's. From 15 to
    /// [`PROXY_HEADER_SIZE_MAX`].
    pub size: usize,
}

/// The client, and the address that it has connected to. Both are of the same family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyEnds {
    /// The client.
    pub source: SocketAddr,
    /// Where it has connected to.
    pub destination: SocketAddr,
}

/// Why octets are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// They begin otherwise: the peer does not speak the protocol.
    #[error("no PROXY protocol header")]
    Absent,
    /// It is longer than [`PROXY_LINE_MAX`] (version 1) or [`PROXY_HEADER_SIZE_MAX`] (version 2).
    #[error("PROXY protocol header too long")]
    TooLong,
    /// It is no header of its version, or of a version or command that does not exist.
    #[error("malformed PROXY protocol header")]
    Malformed,
    /// It tells of something that is no TCP connection.
    #[error("the PROXY protocol header is not about TCP over IP")]
    NotTcp,
}

/// Reads the header at the front of `input`; `None` while it is not complete.
///
/// Whatever follows the header is not looked at. An error stays the same however much follows.
///
/// # Errors
///
/// [`ProxyError`], as soon as it is certain. The protocol wants the connection to be closed then.
pub fn read_header(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    if begins(input, V2_START)? {
        return read_v2(input);
    }
    if begins(input, V1_START)? {
        return read_v1(input);
    }
    match input.first() {
        None => Ok(None),
        Some(first) if V1_START.first() == Some(first) || V2_START.first() == Some(first) => {
            Ok(None)
        }
        Some(_) => Err(ProxyError::Absent),
    }
}

/// Whether all of `start` is there; an error if `input` shares a beginning with it and then differs.
fn begins(input: &[u8], start: &[u8]) -> Result<bool, ProxyError> {
    let shared = input.len().min(start.len());
    if input.first() != start.first() {
        return Ok(false);
    }
    if input.get(..shared) != start.get(..shared) {
        return Err(ProxyError::Absent);
    }
    Ok(shared == start.len())
}

fn read_v1(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let window = input.get(..PROXY_LINE_MAX).unwrap_or(input);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        let is_full = window.len() == PROXY_LINE_MAX;
        return if is_full { Err(ProxyError::TooLong) } else { Ok(None) };
    };
    let line = window.get(V1_START.len()..end).unwrap_or_default();
    let size = end + 2;
    // What stands behind that word means nothing.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Some(ProxyHeader { ends: None, size }));
    }
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::Malformed)?;
    let mut words = line.split(' ');
    let mut word = || words.next().ok_or(ProxyError::Malformed);
    let family = word()?;
    let (source, destination) = (word()?, word()?);
    let (source_port, destination_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(ProxyError::Malformed);
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(Into::into),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(Into::into),
            _ => None,
        }
    };
    let (Some(source), Some(destination)) = (address(source), address(destination)) else {
        return Err(ProxyError::Malformed);
    };
    let ends = ProxyEnds {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    };
    Ok(Some(ProxyHeader { ends: Some(ends), size }))
}

/// A port in decimal digits, without zeros in front.
fn port(text: &str) -> Result<u16, ProxyError> {
    let is_plain =
        text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| is_plain).ok_or(ProxyError::Malformed)
}

fn read_v2(input: &[u8]) -> Result<Option<ProxyHeader>, ProxyError> {
    let Some(&[version_and_command, family, length_high, length_low]) =
        input.get(V2_START.len()..).and_then(|rest| rest.first_chunk())
    else {
        return Ok(None);
    };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(ProxyError::Malformed),
    };
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let size = V2_FIXED_SIZE + length;
    if size > PROXY_HEADER_SIZE_MAX {
        return Err(ProxyError::TooLong);
    }
    let Some(body) = input.get(V2_FIXED_SIZE..size) else { return Ok(None) };
    if is_local {
        return Ok(Some(ProxyHeader { ends: None, size }));
    }
    // Behind the addresses come values by type, which say nothing that is needed here.
    let ends = match family {
        0x11 => Some(ends(body, |address: [u8; 4]| Ipv4Addr::from(address).into())?),
        0x21 => Some(ends(body, |address: [u8; 16]| Ipv6Addr::from(address).into())?),
        // Datagrams, and sockets of the proxy's own machine.
        0x12 | 0x22 | 0x31 | 0x32 => return Err(ProxyError::NotTcp),
        0x00 => None,
        _ => return Err(ProxyError::Malformed),
    };
    Ok(Some(ProxyHeader { ends, size }))
}

/// Reads two addresses and then two ports.
fn ends<const N: usize>(body: &[u8], ip: fn([u8; N]) -> IpAddr) -> Result<ProxyEnds, ProxyError> {
    let (source, rest) = body.split_first_chunk::<N>().ok_or(ProxyError::Malformed)?;
    let (destination, rest) = rest.split_first_chunk::<N>().ok_or(ProxyError::Malformed)?;
    let (source_port, rest) = rest.split_first_chunk().ok_or(ProxyError::Malformed)?;
    let destination_port = rest.first_chunk().ok_or(ProxyError::Malformed)?;
    Ok(ProxyEnds {
        source: SocketAddr::new(ip(*source), u16::from_be_bytes(*source_port)),
        destination: SocketAddr::new(ip(*destination), u16::from_be_bytes(*destination_port)),
    })
}
