//! Encodes a query, and reads what a response says about it.

use std::net::IpAddr;
use std::rc::Rc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::{ALIASES_MAX, Answer, DnsFailure, MxRecord, RECORDS_MAX, RecordKind};

/// Largest UDP answer we ask for: fits one IPv6 packet on any path (DNS flag day 2020).
const UDP_PAYLOAD_MAX: u16 = 1232;

/// What a response that belongs to the query says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// An answer, and how long it holds in seconds (unclamped; `None` when nothing said so).
    Answer { answer: Answer, ttl: Option<u32>, aliases: u8 },
    /// The name is an alias of `target`, about which the server said nothing.
    Alias { target: Name, ttl: u32, aliases: u8 },
    /// The answer did not fit.
    Truncated,
    /// The server does not like EDNS.
    PlainWanted,
    /// No answer.
    Failure(DnsFailure),
}

/// How a datagram relates to the query it claims to answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// Id and question are those sent.
    Ours(Reading),
    /// Not a response, or to another question.
    Foreign,
    /// Cannot be parsed.
    Malformed,
}

impl RecordKind {
    fn record_type(self) -> RecordType {
        match self {
            Self::Mx => RecordType::MX,
            Self::A => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
        }
    }
}

/// Makes an absolute DNS name.
pub(super) fn name(text: &str) -> Result<Name, DnsFailure> {
    let mut name = Name::from_ascii(text).map_err(|_| DnsFailure::BadName)?;
    name.set_fqdn(true);
    Ok(name)
}

/// Encodes a recursive query.
pub(super) fn encode(
    id: u16,
    name: &Name,
    kind: RecordKind,
    with_edns: bool,
) -> Result<Vec<u8>, DnsFailure> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind.record_type()));
    if with_edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD_MAX);
        message.set_edns(edns);
    }
    message.to_vec().map_err(|_| DnsFailure::BadName)
}

/// Returns the id of a datagram.
pub(super) fn id(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))
}

/// Reads a response to the query (`name`, `kind`); the id has been compared already.
///
/// `aliases` says how many aliases led to `name`.
pub(super) fn read(
    bytes: &[u8],
    name: &Name,
    kind: RecordKind,
    with_edns: bool,
    aliases: u8,
) -> Match {
    let Ok(message) = Message::from_vec(bytes) else { return Match::Malformed };
    let metadata = &message.metadata;
    let is_response =
        metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    let [query] = message.queries.as_slice() else { return Match::Foreign };
    let asked = query.query_type() == kind.record_type()
        && query.query_class() == DNSClass::IN
        && query.name().eq_ignore_root(name);
    if !is_response || !asked {
        return Match::Foreign;
    }
    if metadata.truncation {
        return Match::Ours(Reading::Truncated);
    }
    Match::Ours(match metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => {
            answer(&message, name.clone(), kind, aliases)
        }
        ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS if with_edns => {
            Reading::PlainWanted
        }
        ResponseCode::ServFail => Reading::Failure(DnsFailure::ServerFailure),
        ResponseCode::Refused => Reading::Failure(DnsFailure::Refused),
        other => Reading::Failure(DnsFailure::ErrorCode(u16::from(other))),
    })
}

/// Follows the aliases in the answer section, and collects the records at their end.
fn answer(message: &Message, mut name: Name, kind: RecordKind, mut aliases: u8) -> Reading {
    let mut ttl: Option<u32> = None;
    let start = aliases;
    while let Some((target, alias_ttl)) = alias_of(&message.answers, &name) {
        aliases += 1;
        if aliases > ALIASES_MAX {
            return Reading::Failure(DnsFailure::AliasLoop);
        }
        ttl = Some(ttl.map_or(alias_ttl, |ttl| ttl.min(alias_ttl)));
        name = target;
    }
    if message.metadata.response_code == ResponseCode::NXDomain {
        let ttl = least(ttl, negative_ttl(&message.authorities));
        return Reading::Answer { answer: Answer::NoName, ttl, aliases };
    }
    let records = message.answers.iter().filter(|record| {
        record.record_type() == kind.record_type() && record.name.eq_ignore_root(&name)
    });
    let mut exchangers = Vec::new();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for record in records.take(RECORDS_MAX) {
        match &record.data {
            RData::MX(mx) => exchangers
                .push(MxRecord { preference: mx.preference, exchange: host_text(&mx.exchange) }),
            RData::A(address) => addresses.push(IpAddr::V4(address.0)),
            RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
            _ => continue,
        }
        ttl = least(ttl, Some(sane_ttl(record.ttl)));
    }
    let found = if !exchangers.is_empty() {
        Answer::Mx(exchangers)
    } else if !addresses.is_empty() {
        Answer::Addresses(addresses)
    } else {
        let negative = negative_ttl(&message.authorities);
        return match (aliases > start, negative, ttl) {
            // The server gave the alias and neither records nor the proof that there are none.
            (true, None, Some(ttl)) => Reading::Alias { target: name, ttl, aliases },
            _ => Reading::Answer { answer: Answer::NoData, ttl: least(ttl, negative), aliases },
        };
    };
    Reading::Answer { answer: found, ttl, aliases }
}

fn alias_of(answers: &[Record], name: &Name) -> Option<(Name, u32)> {
    answers.iter().find_map(|record| match &record.data {
        RData::CNAME(target) if record.name.eq_ignore_root(name) => {
            Some((target.0.clone(), sane_ttl(record.ttl)))
        }
        _ => None,
    })
}

/// RFC 2308 §5: a negative answer holds for the lesser of the SOA's TTL and its minimum.
fn negative_ttl(authorities: &[Record]) -> Option<u32> {
    authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(sane_ttl(record.ttl).min(sane_ttl(soa.minimum))),
        _ => None,
    })
}

fn least(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// RFC 2181 §8: a TTL with the top bit set counts as zero.
fn sane_ttl(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// Lower-case text of a host name without the final dot.
fn host_text(name: &Name) -> Rc<str> {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    text.strip_suffix('.').unwrap_or(&text).into()
}
