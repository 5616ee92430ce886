//! Answers of name servers: [`Resolver`] and whatever comes back.
//!
//! The first octet chooses what is asked. Then come events: an octet that says of which kind, one for the
//! length, and so many octets.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ringpost_delivery::dns::{
    Answer, DnsAction, DnsConfig, LookupResult, QueryToken, Question, RECORDS_MAX, RecordKind,
    Resolver,
};
use ringpost_delivery::mx::{HOSTS_MAX, Selection, select};

use super::is_plain;
use crate::input::Input;
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "dns",
    check,
    seeds,
    words: &[
        "\u{1}a\u{4}test",
        "\u{2}mx\u{1}a\u{4}test",
        "\0\u{f}\0\u{1}",
        "\0\u{1}\0\u{1}",
        "\0\u{5}\0\u{1}",
        "\0\u{1c}\0\u{1}",
        "\0\u{6}\0\u{1}",
    ],
    size_max: 600,
    cost: 1,
};

/// Queries that one question may take: three tries, each by UDP and TCP, with and without EDNS, for each
/// of nine names.
const QUERIES_MAX: usize = 3 * 2 * 2 * 9;

/// What happens to the query that is under way.
const ANSWERED: u8 = 0;
const ANSWERED_RAW: u8 = 1;
const FORGED: u8 = 2;
const LATE: u8 = 3;
const STRANGER: u8 = 4;
const BROKEN: u8 = 5;

/// What came of a question.
#[derive(Debug, Clone, Default)]
struct Trace {
    results: Vec<LookupResult>,
    /// Octets that came from where they should, with the id that they should have.
    heard: Vec<u8>,
    queries: usize,
    in_flight: usize,
}

/// An answer section: `name` points at the question.
fn record(kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0xC0, 0x0C];
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&(data.len() as u16).to_be_bytes());
    out.extend_from_slice(data);
    out
}

/// An event: a response with these flags and so many records in answer and authority.
fn answer(flags: [u8; 2], counts: [u8; 2], records: &[Vec<u8>]) -> Vec<u8> {
    let body = [&flags[..], &counts[..], &records.concat()].concat();
    [&[ANSWERED, body.len() as u8][..], &body].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    const OK: [u8; 2] = [0x81, 0x80];
    let mx = |preference: u8, host: &[u8]| record(15, 60, &[&[0, preference], host].concat());
    let hosts = [mx(10, b"\x02MX\xc0\x0c"), mx(20, b"\x03mx2\x01b\x04test\0")];
    let alias = record(5, 300, b"\x01c\xc0\x0c");
    let soa = record(
        6,
        60,
        b"\x02ns\xc0\x0c\x04root\xc0\x0c\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05",
    );
    let events = [
        (0, answer(OK, [2, 0], &hosts)),
        (0, answer(OK, [1, 0], &[mx(0, b"\0")])),
        (0, answer(OK, [1, 0], std::slice::from_ref(&alias))),
        (0, answer(OK, [1, 1], &[alias, soa.clone()])),
        (0, answer([0x81, 0x83], [0, 1], &[soa])),
        (0, answer([0x83, 0x80], [0, 0], &[])),
        (0, answer([0x81, 0x82], [0, 0], &[]).repeat(3)),
        (0, [answer([0x81, 0x81], [0, 0], &[]), answer(OK, [2, 0], &hosts)].concat()),
        (1, answer(OK, [1, 0], &[record(1, 9, &[192, 0, 2, 1])])),
        (2, answer(OK, [1, 0], &[record(28, u32::MAX, &[7; 16])])),
        (0, [&[ANSWERED_RAW, 4][..], b"junk", &[FORGED, 3], b"abc", &[STRANGER, 1], b"x"].concat()),
        (0, [LATE, 0, LATE, 0, BROKEN, 0].to_vec()),
    ];
    events.into_iter().map(|(kind, events)| [&[kind], &events[..]].concat()).collect()
}

/// Says whether the lookup ends, with an answer only if there was one.
pub fn check(octets: &[u8]) -> Verdict {
    let mut input = Input::new(octets);
    let kind = match input.octet() % 3 {
        0 => RecordKind::Mx,
        1 => RecordKind::A,
        _ => RecordKind::Aaaa,
    };
    judge(&run(kind, &mut input), kind)
}

fn servers() -> [SocketAddr; 2] {
    [53, 54].map(|last| SocketAddr::from(([192, 0, 2, last], 53)))
}

fn run(kind: RecordKind, input: &mut Input<'_>) -> Trace {
    static START: OnceLock<Instant> = OnceLock::new();
    let mut now = *START.get_or_init(Instant::now);
    let config = DnsConfig { servers: servers().to_vec(), ..DnsConfig::default() };
    let mut resolver = Resolver::new(config, 7);
    let question = Question { name: Rc::from("a.test"), kind };
    let mut trace = Trace::default();
    if resolver.lookup(now, &question).is_some() {
        return trace;
    }
    let mut last = None;
    for _ in 0..QUERIES_MAX * 2 {
        while let Some(action) = resolver.poll_action() {
            trace.queries += 1;
            last = Some(Sent::new(action));
        }
        trace
            .results
            .extend(std::iter::from_fn(|| resolver.poll_answer()).map(|(_, result, _)| result));
        let Some(sent) = last.as_ref().filter(|_| resolver.poll_timeout().is_some()) else { break };
        let what = if input.is_empty() { LATE } else { input.octet() % 6 };
        let len = usize::from(input.octet());
        let octets = input.take(len);
        now += Duration::from_millis(1);
        match what {
            LATE => {
                now = resolver.poll_timeout().unwrap_or(now).max(now);
                resolver.handle_timeout(now);
            }
            STRANGER => resolver.handle_datagram(
                now,
                SocketAddr::from(([9; 4], 53)),
                &sent.response(octets),
            ),
            BROKEN => sent.hand_in(&mut resolver, now, Err(())),
            FORGED => {
                let mut octets = sent.response(octets);
                octets[0] ^= 0x55;
                sent.hand_in(&mut resolver, now, Ok(&octets));
            }
            ANSWERED_RAW => {
                let octets = [&sent.query[..2], octets].concat();
                trace.heard.extend_from_slice(&octets);
                sent.hand_in(&mut resolver, now, Ok(&octets));
            }
            _ => {
                let octets = sent.response(octets);
                trace.heard.extend_from_slice(&octets);
                sent.hand_in(&mut resolver, now, Ok(&octets));
            }
        }
    }
    trace.in_flight = resolver.stats().in_flight;
    trace
}

/// The query that is under way.
struct Sent {
    server: SocketAddr,
    query: Vec<u8>,
    token: Option<QueryToken>,
}

impl Sent {
    fn new(action: DnsAction) -> Self {
        match action {
            DnsAction::SendDatagram { server, bytes } => Self { server, query: bytes, token: None },
            DnsAction::QueryTcp { token, server, bytes } => {
                Self { server, query: bytes, token: Some(token) }
            }
        }
    }

    /// A response to the query: two octets of flags, two of counts, and records.
    fn response(&self, octets: &[u8]) -> Vec<u8> {
        let mut input = Input::new(octets);
        let (flags, counts) = ([input.octet(), input.octet()], [input.octet(), input.octet()]);
        // The question ends with a root label, and two octets each for type and class.
        let name = self.query[12..].iter().position(|&b| b == 0).unwrap_or(0);
        let question = &self.query[12..12 + name + 5];
        let counts = [0, 1, 0, counts[0], 0, counts[1], 0, 0];
        [&self.query[..2], &flags, &counts, question, input.rest()].concat()
    }

    fn hand_in(&self, resolver: &mut Resolver, now: Instant, octets: Result<&[u8], ()>) {
        match (self.token, octets) {
            (Some(token), octets) => resolver.handle_tcp(now, token, octets),
            (None, Ok(octets)) => resolver.handle_datagram(now, self.server, octets),
            (None, Err(())) => {}
        }
    }
}

fn judge(trace: &Trace, kind: RecordKind) -> Verdict {
    let [result] = &trace.results[..] else {
        return Err(format!("{} results for one question", trace.results.len()));
    };
    must!(trace.queries <= QUERIES_MAX, "{} queries for one question", trace.queries);
    must!(trace.in_flight == 0, "{} questions are still asked", trace.in_flight);
    let Ok(answer) = result else { return Ok(()) };
    must!(!trace.heard.is_empty(), "an answer that nobody gave: {answer:?}");
    let was_heard = |octets: &[u8]| {
        trace.heard.windows(octets.len()).any(|part| part.eq_ignore_ascii_case(octets))
    };
    match &**answer {
        Answer::Mx(records) => {
            must!(kind == RecordKind::Mx, "MX records were not asked for");
            must!((1..=RECORDS_MAX).contains(&records.len()), "{} records", records.len());
            for record in records {
                let host = &*record.exchange;
                must!(is_plain(host) && host == host.to_ascii_lowercase(), "{host:?}");
                must!(was_heard(&record.preference.to_be_bytes()), "{record:?} is made up");
                let label = host.split('.').next().unwrap_or_default();
                let is_escaped = host.contains('\\');
                must!(
                    label.is_empty() || is_escaped || was_heard(label.as_bytes()),
                    "{record:?} is made up"
                );
            }
            if let Selection::Hosts(hosts) = select(records, "mx.test") {
                must!((1..=HOSTS_MAX).contains(&hosts.len()), "{} hosts", hosts.len());
                for host in &hosts {
                    let is_sane = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
                    must!(host.name.bytes().all(is_sane) && &*host.name != "mx.test", "{host:?}");
                }
            }
        }
        Answer::Addresses(addresses) => {
            must!((1..=RECORDS_MAX).contains(&addresses.len()), "{} addresses", addresses.len());
            for address in addresses {
                let is_asked = match address {
                    IpAddr::V4(ip) => kind == RecordKind::A && was_heard(&ip.octets()),
                    IpAddr::V6(ip) => kind == RecordKind::Aaaa && was_heard(&ip.octets()),
                };
                must!(is_asked, "{address} is made up");
            }
        }
        Answer::NoData | Answer::NoName => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringpost_delivery::dns::{DnsFailure, MxRecord};

    #[test]
    fn the_seeds_are_understood() {
        let results = seeds().into_iter().map(|seed| {
            let mut input = Input::new(&seed[1..]);
            let kind = [RecordKind::Mx, RecordKind::A, RecordKind::Aaaa][usize::from(seed[0])];
            run(kind, &mut input).results.remove(0)
        });
        let answers: Vec<_> =
            results.map(|result| result.map(|answer| (*answer).clone())).collect();
        let is_mx = |n: usize| matches!(&answers[n], Ok(Answer::Mx(records)) if records.len() == 2);
        assert!(is_mx(0) && is_mx(7), "{answers:?}");
        assert!(matches!(&answers[1], Ok(Answer::Mx(records)) if records[0].exchange.is_empty()));
        assert!(matches!(&answers[3], Ok(Answer::NoData)), "{answers:?}");
        assert!(matches!(&answers[4], Ok(Answer::NoName)), "{answers:?}");
        assert!(matches!(&answers[6], Err(DnsFailure::ServerFailure)), "{answers:?}");
        assert!(matches!(
            (&answers[8], &answers[9]),
            (Ok(Answer::Addresses(_)), Ok(Answer::Addresses(_)))
        ));
        assert!(matches!(
            (&answers[10], &answers[11]),
            (Err(_), Err(DnsFailure::TcpFailed | DnsFailure::TimedOut))
        ));
    }

    #[test]
    fn wrong_traces_are_found() {
        let seed = &seeds()[0];
        let good = run(RecordKind::Mx, &mut Input::new(&seed[1..]));
        assert_eq!(judge(&good, RecordKind::Mx), Ok(()));
        let is_found = |change: fn(&mut Trace)| {
            let mut bad = good.clone();
            change(&mut bad);
            judge(&bad, RecordKind::Mx).is_err()
        };
        assert!(is_found(|bad| bad.results.clear()));
        assert!(is_found(|bad| bad.results.push(Err(DnsFailure::TimedOut))));
        assert!(is_found(|bad| bad.queries = 1000));
        assert!(is_found(|bad| bad.in_flight = 1));
        assert!(is_found(|bad| bad.heard.clear()));
        assert!(is_found(|bad| bad.results = vec![Ok(Rc::new(Answer::Mx(Vec::new())))]));
        assert!(is_found(
            |bad| bad.results = vec![Ok(Rc::new(Answer::Addresses(vec![[1, 2, 3, 4].into()])))]
        ));
        for (preference, exchange) in
            [(10, "evil.test"), (99, "mx.a.test"), (10, "MX.a.test"), (10, "mx\n")]
        {
            let mut bad = good.clone();
            let record = MxRecord { preference, exchange: exchange.into() };
            bad.results = vec![Ok(Rc::new(Answer::Mx(vec![record])))];
            assert!(judge(&bad, RecordKind::Mx).is_err(), "{exchange:?}");
        }
        assert!(judge(&good, RecordKind::A).is_err());
    }
}
