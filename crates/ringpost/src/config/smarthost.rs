//! A smarthost as it is written in the file.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ringpost_protocol::address::Domain;
use serde::Deserialize;
use serde::de::Deserializer;

use super::units::Parsed;

/// A text that names no smarthost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a smarthost: write \"host:port\", \"192.0.2.1:port\" or \"[2001:db8::1]:port\"")]
pub struct SmarthostError;

/// Host and port of a configured next hop. The port is never 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SmarthostAddress {
    /// Lower-case domain name, or an IP address without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

impl SmarthostAddress {
    /// The IP address, when the host is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl FromStr for SmarthostAddress {
    type Err = SmarthostError;

    fn from_str(text: &str) -> Result<Self, SmarthostError> {
        let (host, port) = text.rsplit_once(':').ok_or(SmarthostError)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or(SmarthostError)?;
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let host = if let Some(inside) = bracketed {
            inside.parse::<Ipv6Addr>().map_err(|_| SmarthostError)?.to_string()
        } else if let Ok(IpAddr::V4(address)) = host.parse() {
            address.to_string()
        } else {
            Domain::parse(host).map_err(|_| SmarthostError)?.as_str().to_owned()
        };
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for SmarthostAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip() {
            Some(IpAddr::V6(address)) => write!(formatter, "[{address}]:{}", self.port),
            _ => write!(formatter, "{}:{}", self.host, self.port),
        }
    }
}

impl<'de> Deserialize<'de> for SmarthostAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expecting: "a smarthost", parse: str::parse })
    }
}
