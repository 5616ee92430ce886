//! Values with units: durations, sizes, networks.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Unexpected, Visitor};

/// A value that could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// Not a number followed by a unit of time.
    #[error("not a duration: write numbers with units, such as \"90s\", \"5m\" or \"1h30m\"")]
    Duration,
    /// Not a number followed by a unit of size.
    #[error("not a size: write a number with a unit, such as \"512B\", \"64KiB\" or \"1GiB\"")]
    Size,
    /// Too large to count with.
    #[error("the value is too large")]
    TooLarge,
    /// Not an address with a prefix length.
    #[error("not a network: write an address and a prefix length, such as \"192.0.2.0/24\"")]
    Network,
    /// Bits are set behind the prefix.
    #[error("the network has bits set behind its prefix length")]
    HostBits,
    /// Not an IP address with an optional port.
    #[error("not a name server: write an IP address, with a port if it is not 53")]
    NameServer,
}

/// The longest duration: 10,000 days. Keeps every sum of times far from overflow.
const DURATION_MAX: Duration = Duration::from_hours(10_000 * 24);

/// Reads a duration: one or more numbers with the unit `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
///
/// [`UnitError`] when there is no unit, an unknown one, or more than 10,000 days.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    loop {
        let (number, unit, behind) = split_number(rest).ok_or(UnitError::Duration)?;
        let milliseconds: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(UnitError::Duration),
        };
        total = number
            .checked_mul(milliseconds)
            .and_then(|part| total.checked_add(Duration::from_millis(part)))
            .filter(|sum| *sum <= DURATION_MAX)
            .ok_or(UnitError::TooLarge)?;
        if behind.is_empty() {
            return Ok(total);
        }
        rest = behind;
    }
}

/// Reads a size in bytes: a number with the unit `B`, `KiB`, `MiB`, `GiB` or `TiB`.
///
/// # Errors
///
/// [`UnitError`] when there is no unit, an unknown one, or more than `u64` holds.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit, behind) = split_number(text).ok_or(UnitError::Size)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(UnitError::Size),
    };
    if !behind.is_empty() {
        return Err(UnitError::Size);
    }
    number.checked_mul(1 << shift).ok_or(UnitError::TooLarge)
}

/// Splits `12min…` into 12, `min` and the rest.
fn split_number(text: &str) -> Option<(u64, &str, &str)> {
    let unit_start = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(unit_start);
    let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(unit_end);
    Some((number.parse().ok()?, unit, behind))
}

/// Writes a size with the largest unit that leaves no rest.
pub fn display_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    units
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes}B"), |(shift, unit)| format!("{}{unit}", bytes >> shift))
}

/// A network in CIDR notation; a bare address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Tells whether an address is inside. IPv4 addresses mapped into IPv6 count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() == address.to_bits() & mask
            }
            _ => false,
        }
    }

    /// Tells whether every address of its family is inside.
    pub fn is_everything(&self) -> bool {
        self.prefix == 0
    }
}

impl FromStr for Network {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| UnitError::Network)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = match prefix {
            Some(digits) => digits.parse().map_err(|_| UnitError::Network)?,
            None => width,
        };
        if prefix > width {
            return Err(UnitError::Network);
        }
        let network = Self { address, prefix };
        if !network.contains(address) {
            return Err(UnitError::HostBits);
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed { expecting: "a network", parse: str::parse })
    }
}

/// Reads a duration key.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Parsed {
        expecting: "a duration with a unit, such as \"5m\"",
        parse: parse_duration,
    })
}

/// Reads a duration key without a default.
pub(super) fn optional_duration<'de, D>(deserializer: D) -> Result<Option<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    duration(deserializer).map(Some)
}

/// Reads a size key.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_str(Parsed {
        expecting: "a size with a unit, such as \"64MiB\"",
        parse: parse_size,
    })
}

/// Reads a size key that has no default.
pub(super) fn optional_size<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

/// Reads a size key that is below 4 GiB.
pub(super) fn small_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_str(Parsed {
        expecting: "a size with a unit, such as \"64KiB\"",
        parse: |text: &str| {
            parse_size(text).and_then(|size| u32::try_from(size).map_err(|_| UnitError::TooLarge))
        },
    })
}

/// Reads a key with a list of durations.
pub(super) fn durations<'de, D>(deserializer: D) -> Result<Vec<Duration>, D::Error>
where
    D: Deserializer<'de>,
{
    struct List;

    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Element(#[serde(deserialize_with = "duration")] Duration);

    impl<'de> Visitor<'de> for List {
        type Value = Vec<Duration>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list of durations with units, such as [\"5m\", \"1h\"]")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut durations = Vec::new();
            while let Some(Element(duration)) = list.next_element()? {
                durations.push(duration);
            }
            Ok(durations)
        }
    }

    deserializer.deserialize_seq(List)
}

/// A string that is parsed, with a reason when it cannot be.
pub(super) struct Parsed<T, E> {
    pub(super) expecting: &'static str,
    pub(super) parse: fn(&str) -> Result<T, E>,
}

impl<T, E: fmt::Display> Visitor<'_> for Parsed<T, E> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expecting)
    }

    fn visit_str<F: serde::de::Error>(self, text: &str) -> Result<T, F> {
        (self.parse)(text).map_err(|error| F::custom(format_args!("{text:?}: {error}")))
    }

    fn visit_i64<F: serde::de::Error>(self, value: i64) -> Result<T, F> {
        Err(F::invalid_type(Unexpected::Signed(value), &self))
    }
}

/// The loopback networks of both families.
pub(super) fn loopback() -> Vec<Network> {
    vec![
        Network { address: IpAddr::from([127, 0, 0, 0]), prefix: 8 },
        Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    ]
}

/// Reads a key with a list of name servers, with or without ports.
pub(super) fn name_servers<'de, D>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error>
where
    D: Deserializer<'de>,
{
    struct Server(SocketAddr);

    impl<'de> Deserialize<'de> for Server {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer
                .deserialize_str(Parsed {
                    expecting: "an address, such as \"192.0.2.53\" or \"127.0.0.1:5353\"",
                    parse: parse_name_server,
                })
                .map(Self)
        }
    }

    let servers = Vec::<Server>::deserialize(deserializer)?;
    Ok(servers.into_iter().map(|Server(address)| address).collect())
}

/// Reads the address of a name server; port 53 when none is given.
///
/// # Errors
///
/// [`UnitError::NameServer`] when the text is not an IP address with an optional port.
pub fn parse_name_server(text: &str) -> Result<SocketAddr, UnitError> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 53));
    }
    text.parse().map_err(|_| UnitError::NameServer)
}
