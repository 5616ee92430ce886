//! Name servers of the simulated world.
//!
//! They answer from one [`Zone`], as recursive servers do: with the aliases on the way and the proof
//! that something is not there. The zone may change at any time. The packets are written here and not by
//! the library that the product reads them with. [`DnsHabits`] says how often a server misbehaves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ringpost::runtime::{Containment, Datagram, Listener, Runtime};

use crate::ledger::SharedLedger;
use crate::random::Random;
use crate::wire::Wire;

/// Longest chain of aliases that a server follows.
const ALIASES_MAX: usize = 12;

/// Longest query that is read.
const QUERY_SIZE_MAX: usize = 1500;

/// How long a client over TCP may be silent.
const TCP_PATIENCE: Duration = Duration::from_secs(30);

/// Type numbers (RFC 1035 §3.2.2, RFC 3596 §2.1).
mod kind {
    pub(super) const A: u16 = 1;
    pub(super) const CNAME: u16 = 5;
    pub(super) const SOA: u16 = 6;
    pub(super) const MX: u16 = 15;
    pub(super) const AAAA: u16 = 28;
}

/// Response codes (RFC 1035 §4.1.1).
mod rcode {
    pub(super) const FORMAT: u8 = 1;
    pub(super) const FAILURE: u8 = 2;
    pub(super) const NO_NAME: u8 = 3;
    pub(super) const REFUSED: u8 = 5;
}

/// What a name has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An exchanger with its preference; an empty name is the root (null MX).
    Mx(u16, String),
    /// An address.
    Address(IpAddr),
    /// Another name for it.
    Alias(String),
}

/// All names that there are, in lower case and without the final dot.
#[derive(Debug, Default)]
pub struct Zone {
    names: BTreeMap<String, Vec<Data>>,
    ttl: u32,
}

/// A zone that several servers answer from.
pub type SharedZone = Rc<RefCell<Zone>>;

impl Zone {
    /// An empty zone whose records hold for so many seconds.
    pub fn shared(ttl: u32) -> SharedZone {
        Rc::new(RefCell::new(Self { names: BTreeMap::new(), ttl }))
    }

    /// Replaces all that a name has.
    pub fn set(&mut self, name: &str, data: Vec<Data>) {
        self.names.insert(name.to_owned(), data);
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// What a name has; `None` if there is no such name.
    pub fn get(&self, name: &str) -> Option<&[Data]> {
        self.names.get(name).map(Vec::as_slice)
    }
}

/// How a name server misbehaves, in percent of the queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DnsHabits {
    /// Says nothing.
    pub silent: u8,
    /// SERVFAIL.
    pub failure: u8,
    /// REFUSED.
    pub refused: u8,
    /// The answer does not fit; over TCP it does.
    pub truncated: u8,
    /// An answer with another id, and the right one after it.
    pub wrong_id: u8,
    /// An answer to another question, and the right one after it.
    pub wrong_question: u8,
    /// Octets that are no answer.
    pub malformed: u8,
    /// FORMERR to a query with EDNS.
    pub no_edns: u8,
    /// An answer after some seconds.
    pub slow: u8,
    /// A connection over TCP that is closed without an answer.
    pub tcp_closed: u8,
}

/// What all name servers share.
#[derive(Debug)]
pub struct DnsWorld {
    /// What is true.
    pub zone: SharedZone,
    /// Who writes down what was said.
    pub ledger: SharedLedger,
    /// Whether servers behave.
    pub calm: Rc<Cell<bool>>,
}

/// One name server: answers for as long as its tasks live.
///
/// `socket` and `listener` are bound to its address.
pub fn serve<R: Runtime>(
    runtime: &R,
    socket: R::Datagram,
    listener: R::Listener,
    world: &Rc<DnsWorld>,
    habits: DnsHabits,
    random: &Random,
) {
    let server = Server { world: Rc::clone(world), habits, random: random.fork("udp") };
    runtime.spawn(Containment::Process, answer_datagrams(runtime.clone(), socket, server));
    let server = Server { world: Rc::clone(world), habits, random: random.fork("tcp") };
    runtime.spawn(Containment::Process, answer_connections(runtime.clone(), listener, server));
}

struct Server {
    world: Rc<DnsWorld>,
    habits: DnsHabits,
    random: Random,
}

/// A datagram to be sent, and when.
type Reply = (Duration, Vec<u8>);

async fn answer_datagrams<R: Runtime>(runtime: R, socket: R::Datagram, mut server: Server) {
    let socket = Rc::new(socket);
    let mut block = vec![0; QUERY_SIZE_MAX];
    loop {
        let Ok((len, from)) = socket.receive(&mut block).await else {
            runtime.sleep(Duration::from_millis(10)).await;
            continue;
        };
        let replies = server.replies(block.get(..len).unwrap_or_default());
        for (delay, reply) in replies {
            if delay.is_zero() {
                let _ = socket.send_to(&reply, from).await;
            } else {
                send_later(&runtime, &socket, delay, reply, from);
            }
        }
    }
}

fn send_later<R: Runtime>(
    runtime: &R,
    socket: &Rc<R::Datagram>,
    delay: Duration,
    reply: Vec<u8>,
    to: SocketAddr,
) {
    let (sleeper, socket) = (runtime.clone(), Rc::clone(socket));
    runtime.spawn(Containment::Session, async move {
        sleeper.sleep(delay).await;
        let _ = socket.send_to(&reply, to).await;
    });
}

async fn answer_connections<R: Runtime>(runtime: R, mut listener: R::Listener, mut server: Server) {
    loop {
        let Ok(stream) = listener.accept().await else {
            runtime.sleep(Duration::from_millis(10)).await;
            continue;
        };
        let mut wire = Wire::new(runtime.clone(), stream, TCP_PATIENCE);
        if server.draws(|habits| habits.tcp_closed) {
            continue;
        }
        let (world, habits) = (Rc::clone(&server.world), DnsHabits::default());
        let mut server = Server { world, habits, random: server.random.fork("one") };
        runtime.spawn(Containment::Session, async move {
            loop {
                while wire.pending().len() < 2 {
                    if wire.more().await.is_err() {
                        return;
                    }
                }
                let len = wire.take(2).iter().fold(0, |len, octet| len << 8 | usize::from(*octet));
                while wire.pending().len() < len {
                    if wire.more().await.is_err() {
                        return;
                    }
                }
                let query = wire.take(len);
                for (_, reply) in server.replies(&query) {
                    let len = u16::try_from(reply.len()).unwrap_or(u16::MAX);
                    let mut framed = len.to_be_bytes().to_vec();
                    framed.extend_from_slice(&reply);
                    if wire.write(&framed).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

impl Server {
    /// Whether a habit shows, of which `percent` tells the share.
    fn draws(&mut self, percent: impl Fn(&DnsHabits) -> u8) -> bool {
        let percent = percent(&self.habits);
        percent > 0 && !self.world.calm.get() && self.random.percent(percent)
    }

    /// What is sent for a query, in order.
    fn replies(&mut self, query: &[u8]) -> Vec<Reply> {
        let Some(query) = Query::read(query) else { return Vec::new() };
        let now = Duration::ZERO;
        if self.draws(|habits| habits.silent) {
            return Vec::new();
        }
        if self.draws(|habits| habits.failure) {
            return vec![(now, query.reply(rcode::FAILURE, false, &[]))];
        }
        if self.draws(|habits| habits.refused) {
            return vec![(now, query.reply(rcode::REFUSED, false, &[]))];
        }
        if query.has_edns && self.draws(|habits| habits.no_edns) {
            return vec![(now, query.reply(rcode::FORMAT, false, &[]))];
        }
        if self.draws(|habits| habits.truncated) {
            return vec![(now, query.reply(0, true, &[]))];
        }
        if self.draws(|habits| habits.malformed) {
            let mut reply = query.reply(0, false, &[]);
            reply.truncate(5 + self.random.index(10));
            return vec![(now, reply)];
        }
        let mut replies = Vec::new();
        if self.draws(|habits| habits.wrong_id) {
            let other = Query { id: query.id.wrapping_add(1), ..query.clone() };
            replies.push((now, other.reply(rcode::NO_NAME, false, &[])));
        }
        if self.draws(|habits| habits.wrong_question) {
            let other = Query { name: format!("x{}", query.name), ..query.clone() };
            replies.push((now, other.reply(rcode::NO_NAME, false, &[])));
        }
        let delay = if self.draws(|habits| habits.slow) {
            self.random.duration(Duration::from_millis(200), Duration::from_secs(12))
        } else {
            now
        };
        let answer = self.answer(&query);
        replies.push((delay, answer));
        replies
    }

    /// The true answer; what it says of mail is written down.
    fn answer(&mut self, query: &Query) -> Vec<u8> {
        let zone = self.world.zone.borrow();
        let ttl = zone.ttl;
        let mut ledger = self.world.ledger.borrow_mut();
        let causes = ledger.causes();
        let mut records = Vec::new();
        let mut name = query.name.clone();
        for _ in 0..ALIASES_MAX {
            let Some(data) = zone.get(&name) else {
                causes.no_way(&query.name);
                return query.reply(
                    rcode::NO_NAME,
                    false,
                    &[&records[..], &[soa(&name, ttl)]].concat(),
                );
            };
            let alias = data.iter().find_map(|data| match data {
                Data::Alias(target) => Some(target.clone()),
                _ => None,
            });
            if let Some(target) = alias {
                records.push(Record { name, ttl, data: RecordData::Alias(target.clone()) });
                name = target;
                continue;
            }
            let before = records.len();
            for data in data {
                let data = match (query.kind, data) {
                    (kind::MX, Data::Mx(preference, host)) => {
                        causes
                            .exchangers
                            .entry(query.name.clone())
                            .or_default()
                            .insert(host.clone());
                        RecordData::Mx(*preference, host.clone())
                    }
                    (kind::A, Data::Address(address @ IpAddr::V4(_)))
                    | (kind::AAAA, Data::Address(address @ IpAddr::V6(_))) => {
                        if address.is_loopback() || address.is_unspecified() {
                            causes.no_way(&query.name);
                        }
                        RecordData::Address(*address)
                    }
                    _ => continue,
                };
                records.push(Record { name: name.clone(), ttl, data });
            }
            if records.len() == before {
                // Without exchangers the name itself is one; without any address it is none.
                let has_address = data.iter().any(|data| matches!(data, Data::Address(_)));
                if query.kind != kind::MX && !has_address {
                    causes.no_way(&query.name);
                }
                records.push(soa(&name, ttl));
            }
            return query.reply(0, false, &records);
        }
        query.reply(rcode::FAILURE, false, &[])
    }
}

#[derive(Debug, Clone)]
struct Record {
    name: String,
    ttl: u32,
    data: RecordData,
}

#[derive(Debug, Clone)]
enum RecordData {
    Mx(u16, String),
    Address(IpAddr),
    Alias(String),
    Nothing,
}

/// The proof that there is nothing (RFC 2308 §2).
fn soa(name: &str, ttl: u32) -> Record {
    Record { name: name.to_owned(), ttl, data: RecordData::Nothing }
}

/// A question as it came.
#[derive(Debug, Clone)]
struct Query {
    id: u16,
    /// In lower case and without the final dot.
    name: String,
    kind: u16,
    has_edns: bool,
}

impl Query {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (header, mut rest) = bytes.split_first_chunk::<12>()?;
        let mut labels: Vec<String> = Vec::new();
        loop {
            let (&len, after) = rest.split_first()?;
            rest = after;
            if len == 0 {
                break;
            }
            let label = rest.get(..usize::from(len))?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            rest = rest.get(usize::from(len)..)?;
        }
        let kind = u16::from_be_bytes(*rest.first_chunk::<2>()?);
        let id = u16::from_be_bytes([header[0], header[1]]);
        let has_edns = header[10..12] != [0, 0];
        Some(Self { id, name: labels.join("."), kind, has_edns })
    }

    /// A response: a truncated one has no records.
    fn reply(&self, rcode: u8, is_truncated: bool, records: &[Record]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.id.to_be_bytes());
        // Response, recursion desired and available (RFC 1035 §4.1.1).
        out.extend_from_slice(&[0x81 | (u8::from(is_truncated) << 1), 0x80 | rcode]);
        let proofs = records.iter().filter(|record| matches!(record.data, RecordData::Nothing));
        let authorities = u16::try_from(proofs.count()).unwrap_or(u16::MAX);
        let answers = u16::try_from(records.len()).unwrap_or(u16::MAX) - authorities;
        for count in [1, answers, authorities, 0] {
            out.extend_from_slice(&count.to_be_bytes());
        }
        write_name(&self.name, &mut out);
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&1_u16.to_be_bytes());
        // The proof is the last record, as its section is.
        for record in records {
            record.write(&mut out);
        }
        out
    }
}

impl Record {
    fn write(&self, out: &mut Vec<u8>) {
        let mut data = Vec::new();
        let kind = match &self.data {
            RecordData::Mx(preference, host) => {
                data.extend_from_slice(&preference.to_be_bytes());
                write_name(host, &mut data);
                kind::MX
            }
            RecordData::Address(IpAddr::V4(address)) => {
                data.extend_from_slice(&address.octets());
                kind::A
            }
            RecordData::Address(IpAddr::V6(address)) => {
                data.extend_from_slice(&address.octets());
                kind::AAAA
            }
            RecordData::Alias(target) => {
                write_name(target, &mut data);
                kind::CNAME
            }
            RecordData::Nothing => {
                write_name("ns.test", &mut data);
                write_name("hostmaster.test", &mut data);
                for number in [1, 3600, 600, 86_400, self.ttl] {
                    data.extend_from_slice(&number.to_be_bytes());
                }
                kind::SOA
            }
        };
        write_name(&self.name, out);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&1_u16.to_be_bytes());
        out.extend_from_slice(&self.ttl.to_be_bytes());
        out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(&data);
    }
}

fn write_name(name: &str, out: &mut Vec<u8>) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap_or(63));
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::RData;

    use super::*;
    use crate::ledger::Ledger;

    fn server(habits: DnsHabits) -> Server {
        let zone = Zone::shared(60);
        zone.borrow_mut().set(
            "a.test",
            vec![Data::Mx(10, "mx.a.test".into()), Data::Mx(20, "mx2.a.test".into())],
        );
        zone.borrow_mut().set("mx.a.test", vec![Data::Address("192.0.2.1".parse().unwrap())]);
        zone.borrow_mut().set("alias.test", vec![Data::Alias("a.test".into())]);
        zone.borrow_mut().set("none.test", vec![Data::Mx(0, String::new())]);
        let ledger = Ledger::shared(Instant::now());
        let world = DnsWorld { zone, ledger, calm: Rc::default() };
        Server { world: Rc::new(world), habits, random: Random::new(1) }
    }

    fn query(name: &str, kind: u16) -> Query {
        Query { id: 77, name: name.into(), kind, has_edns: false }
    }

    fn ask(server: &mut Server, name: &str, kind: u16) -> Message {
        Message::from_vec(&server.answer(&query(name, kind))).unwrap()
    }

    #[test]
    fn answers_are_what_another_library_reads() {
        let mut server = server(DnsHabits::default());
        let mx = ask(&mut server, "a.test", kind::MX);
        assert_eq!(mx.metadata.id, 77);
        assert_eq!(mx.answers.len(), 2);
        let RData::MX(first) = &mx.answers[0].data else { panic!("{mx:?}") };
        assert_eq!((first.preference, first.exchange.to_ascii()), (10, "mx.a.test.".to_owned()));
        let a = ask(&mut server, "mx.a.test", kind::A);
        let RData::A(address) = &a.answers[0].data else { panic!("{a:?}") };
        assert_eq!(address.0.to_string(), "192.0.2.1");
        let alias = ask(&mut server, "alias.test", kind::MX);
        assert_eq!(alias.answers.len(), 3);
        assert!(matches!(alias.answers[0].data, RData::CNAME(_)));
    }

    #[test]
    fn what_is_not_there_is_proved_and_written_down() {
        let mut server = server(DnsHabits::default());
        let absent = ask(&mut server, "absent.test", kind::MX);
        assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
        assert!(matches!(absent.authorities[0].data, RData::SOA(_)));
        assert_eq!(ask(&mut server, "mx.a.test", kind::MX).answers.len(), 0);
        assert_eq!(ask(&mut server, "mx.a.test", kind::AAAA).authorities.len(), 1);
        ask(&mut server, "a.test", kind::MX);
        ask(&mut server, "none.test", kind::MX);
        let mut ledger = server.world.ledger.borrow_mut();
        let causes = ledger.causes();
        assert!(causes.has_no_way("absent.test"));
        assert!(causes.has_no_way("none.test"), "null MX");
        assert!(!causes.has_no_way("a.test"), "that a host has no IPv6 address is no harm");
    }

    #[test]
    fn a_query_is_read_as_it_was_written() {
        let mut bytes = vec![0, 77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        write_name("A.Test", &mut bytes);
        bytes.extend_from_slice(&[0, 15, 0, 1]);
        let query = Query::read(&bytes).unwrap();
        assert_eq!((query.id, query.name.as_str(), query.kind), (77, "a.test", kind::MX));
        assert!(query.has_edns);
        assert!((0..bytes.len() - 4).all(|len| Query::read(&bytes[..len]).is_none()));
    }
}
