//! Questions to a recursive name server, their answers and their failures.
//!
//! The resolver is a stub: it asks the operator's recursive servers, and trusts only answers
//! that come from the server asked, with the id and the question sent. What the domain's owner
//! says (a record, no record, no such name) is an [`Answer`]; everything else is a [`DnsFailure`]
//! and is always temporary: broken DNS defers mail and never bounces it.

mod cache;
mod message;
mod resolver;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

pub use self::resolver::{DnsAction, DnsStats, QueryToken, Resolver};

/// The kinds of record that delivery asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordKind {
    /// Mail exchangers of a domain.
    Mx,
    /// IPv4 addresses of a host.
    A,
    /// IPv6 addresses of a host.
    Aaaa,
}

/// What is asked: a name and a kind of record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Question {
    /// Lower-case name without the final dot.
    pub name: Rc<str>,
    /// The kind of record wanted.
    pub kind: RecordKind,
}

/// One MX record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MxRecord {
    /// Lower is tried first.
    pub preference: u16,
    /// Lower-case host name without the final dot; empty for the root (null MX, RFC 7505).
    pub exchange: Rc<str>,
}

/// What the owner of the name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// MX records, at least one, in the order received.
    Mx(Vec<MxRecord>),
    /// Addresses, at least one, in the order received.
    Addresses(Vec<IpAddr>),
    /// The name exists and has no record of this kind.
    NoData,
    /// The name does not exist (NXDOMAIN).
    NoName,
}

/// Why there is no answer. Every kind is temporary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DnsFailure {
    /// No server answered in time.
    #[error("name servers did not answer in time")]
    TimedOut,
    /// The server could not find out (SERVFAIL).
    #[error("name server failure (SERVFAIL)")]
    ServerFailure,
    /// The server does not serve us (REFUSED).
    #[error("name server refused the query")]
    Refused,
    /// Another error code.
    #[error("name server returned error code {0}")]
    ErrorCode(u16),
    /// The answer could not be understood.
    #[error("name server sent a malformed answer")]
    Malformed,
    /// The answer was cut short, and asking over TCP failed.
    #[error("truncated answer, and TCP to the name server failed")]
    TcpFailed,
    /// More aliases in a row than the limit.
    #[error("CNAME chain is longer than {} or loops", ALIASES_MAX)]
    AliasLoop,
    /// The name cannot be put into a query.
    #[error("name cannot be looked up")]
    BadName,
    /// No name server is configured.
    #[error("no name server is configured")]
    NoServer,
}

/// An answer or why there is none.
pub type LookupResult = Result<Rc<Answer>, DnsFailure>;

/// Longest chain of CNAME records that is followed.
pub const ALIASES_MAX: u8 = 8;

/// Most MX records or addresses kept of one answer, before [`crate::mx`] chooses among them.
pub const RECORDS_MAX: usize = 100;

/// Returns the addresses that a name has without asking anybody: `localhost` and names under
/// it are the loopback (RFC 6761 §6.3).
pub fn special_addresses(name: &str) -> Option<[IpAddr; 2]> {
    let local = name == "localhost" || name.ends_with(".localhost");
    local.then_some([
        IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    ])
}

/// Which name servers to ask, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Recursive name servers, preferred ones first. Default: none; every lookup then fails.
    pub servers: Vec<SocketAddr>,
    /// How long to wait for one answer. Default: 5 s.
    pub timeout: std::time::Duration,
    /// How often to ask, going round the servers. Default: 3; at least 1 is made.
    pub attempts: u8,
    /// Least time an answer is cached. Default: 5 s.
    pub ttl_min: std::time::Duration,
    /// Most time an answer is cached. Default: 1 day.
    pub ttl_max: std::time::Duration,
    /// Most time "no such name", "no such record" is cached. Default: 60 s.
    pub negative_ttl_max: std::time::Duration,
    /// How long a failure is cached, so that a broken name server is not asked the same thing
    /// again and again. Default: 5 s.
    pub failure_ttl: std::time::Duration,
    /// Queries in flight at once; further ones wait their turn. Default: 500, at most 10,000.
    pub in_flight_max: usize,
    /// Answers cached, some 200 octets each. Default: 50,000.
    pub cache_entries_max: usize,
}

impl Default for DnsConfig {
    fn default() -> Self {
        use std::time::Duration;
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 3,
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_hours(24),
            negative_ttl_max: Duration::from_mins(1),
            failure_ttl: Duration::from_secs(5),
            in_flight_max: 500,
            cache_entries_max: 50_000,
        }
    }
}
