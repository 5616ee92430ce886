//! The rows of misbehaving DNS, as octets in and answers out.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, SOA};
use hickory_proto::rr::{Name, RData, Record};
use proptest::prelude::*;

use super::*;

const SERVER: &str = "192.0.2.53:53";
const OTHER: &str = "192.0.2.54:53";

fn server(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn config() -> DnsConfig {
    DnsConfig { servers: vec![server(SERVER), server(OTHER)], ..DnsConfig::default() }
}

fn question(name: &str, kind: RecordKind) -> Question {
    Question { name: name.into(), kind }
}

fn dns_name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn record(name: &str, ttl: u32, data: RData) -> Record {
    Record::from_rdata(dns_name(name), ttl, data)
}

fn mx(name: &str, ttl: u32, preference: u16, exchange: &str) -> Record {
    record(name, ttl, RData::MX(MX::new(preference, dns_name(exchange))))
}

fn alias(name: &str, target: &str) -> Record {
    record(name, 300, RData::CNAME(CNAME(dns_name(target))))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let data = SOA::new(dns_name("ns.test"), dns_name("root.test"), 1, 2, 3, 4, minimum);
    record("test", ttl, RData::SOA(data))
}

/// A resolver with a clock, and a hand on its wire.
struct Wire {
    resolver: Resolver,
    now: Instant,
}

impl Wire {
    fn new(config: DnsConfig) -> Self {
        Self { resolver: Resolver::new(config, 7), now: Instant::now() }
    }

    fn ask(&mut self, name: &str, kind: RecordKind) -> Option<LookupResult> {
        self.resolver.lookup(self.now, &question(name, kind)).map(|(result, _)| result)
    }

    fn sent(&mut self) -> (SocketAddr, Message) {
        match self.resolver.poll_action() {
            Some(DnsAction::SendDatagram { server, bytes }) => {
                (server, Message::from_vec(&bytes).unwrap())
            }
            other => panic!("expected a datagram, not {other:?}"),
        }
    }

    fn sent_tcp(&mut self) -> (QueryToken, Message) {
        match self.resolver.poll_action() {
            Some(DnsAction::QueryTcp { token, bytes, .. }) => {
                (token, Message::from_vec(&bytes).unwrap())
            }
            other => panic!("expected a query over TCP, not {other:?}"),
        }
    }

    fn is_quiet(&mut self) -> bool {
        self.resolver.poll_action().is_none()
    }

    fn receive(&mut self, from: SocketAddr, message: &Message) {
        self.resolver.handle_datagram(self.now, from, &message.to_vec().unwrap());
    }

    fn answered(&mut self) -> Option<LookupResult> {
        self.resolver.poll_answer().map(|(_, result, _)| result)
    }

    /// Answers the next query with what `change` makes of an empty response.
    fn respond(&mut self, change: impl FnOnce(&mut Message)) -> Option<LookupResult> {
        let (from, query) = self.sent();
        self.receive(from, &response_to(&query, change));
        self.answered()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.resolver.handle_timeout(self.now);
    }
}

fn response_to(query: &Message, change: impl FnOnce(&mut Message)) -> Message {
    let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    response.add_queries(query.queries.iter().cloned());
    change(&mut response);
    response
}

#[expect(clippy::unnecessary_wraps, reason = "compared with results")]
fn mx_answer(list: &[(u16, &str)]) -> LookupResult {
    let records = list.iter().map(|(preference, exchange)| MxRecord {
        preference: *preference,
        exchange: (*exchange).into(),
    });
    Ok(Rc::new(Answer::Mx(records.collect())))
}

#[test]
fn single_responses() {
    type Change = fn(&mut Message);
    let aliases: Change = |m| {
        m.add_answer(alias("a.test", "b.test"));
        m.add_answer(alias("b.test", "c.test"));
        m.add_answer(mx("c.test", 60, 10, "MX.test"));
    };
    let rows: &[(&str, Change, LookupResult)] = &[
        (
            "records of other names and kinds do not count",
            |m| {
                m.add_answer(mx("A.TEST", 60, 10, "MX1.Test"));
                m.add_answer(mx("other.test", 60, 1, "evil.test"));
                m.add_answer(record("a.test", 60, RData::A(A::new(192, 0, 2, 1))));
                m.add_answer(mx("a.test", 60, 20, "mx2.test"));
            },
            mx_answer(&[(10, "mx1.test"), (20, "mx2.test")]),
        ),
        ("aliases in the answer", aliases, mx_answer(&[(10, "mx.test")])),
        (
            "null MX",
            |m| {
                m.add_answer(mx("a.test", 60, 0, "."));
            },
            mx_answer(&[(0, "")]),
        ),
        (
            "N1 no such name",
            |m| m.metadata.response_code = ResponseCode::NXDomain,
            Ok(Rc::new(Answer::NoName)),
        ),
        ("N2 no data", |_| {}, Ok(Rc::new(Answer::NoData))),
        (
            "alias of a name without data",
            |m| {
                m.add_answer(alias("a.test", "b.test"));
                m.add_authority(soa(60, 60));
            },
            Ok(Rc::new(Answer::NoData)),
        ),
        (
            "alias loop",
            |m| {
                m.add_answer(alias("a.test", "b.test"));
                m.add_answer(alias("b.test", "a.test"));
            },
            Err(DnsFailure::AliasLoop),
        ),
        (
            "long alias chain",
            |m| {
                m.add_answer(alias("a.test", "n0.test"));
                for n in 0..8 {
                    m.add_answer(alias(&format!("n{n}.test"), &format!("n{}.test", n + 1)));
                }
                m.add_answer(mx("n8.test", 60, 1, "mx.test"));
            },
            Err(DnsFailure::AliasLoop),
        ),
    ];
    for (label, change, expected) in rows {
        let mut wire = Wire::new(config());
        assert_eq!(wire.ask("a.test", RecordKind::Mx), None, "{label}");
        assert_eq!(wire.respond(change).as_ref(), Some(expected), "{label}");
        assert_eq!(wire.ask("a.test", RecordKind::Mx).as_ref(), Some(expected), "{label}: cached");
        assert!(wire.is_quiet(), "{label}");
    }
}

#[test]
fn every_failure_is_tried_at_each_server_and_is_temporary() {
    let rows = [
        (ResponseCode::ServFail, DnsFailure::ServerFailure),
        (ResponseCode::Refused, DnsFailure::Refused),
        (ResponseCode::YXDomain, DnsFailure::ErrorCode(6)),
    ];
    for (code, expected) in rows {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        for n in 0..2 {
            let answer = wire.respond(|m| m.metadata.response_code = code);
            assert_eq!(answer, None, "{code} {n}");
        }
        let answer = wire.respond(|m| m.metadata.response_code = code);
        assert_eq!(answer, Some(Err(expected)), "{code}");
    }
}

#[test]
fn servers_take_turns() {
    let mut wire = Wire::new(config());
    wire.ask("a.test", RecordKind::Mx);
    let mut ids = std::collections::BTreeSet::new();
    for expected in [SERVER, OTHER, SERVER] {
        let (to, query) = wire.sent();
        assert_eq!(to, server(expected));
        ids.insert(query.metadata.id);
        wire.pass(Duration::from_secs(5));
    }
    assert_eq!(ids.len(), 3, "each try has its own id");
    assert_eq!(wire.answered(), Some(Err(DnsFailure::TimedOut)));
    assert_eq!(wire.resolver.poll_timeout(), None);
}

#[test]
fn a_server_that_answers_becomes_the_first_choice() {
    let mut wire = Wire::new(config());
    wire.ask("a.test", RecordKind::Mx);
    assert_eq!(wire.sent().0, server(SERVER));
    wire.pass(Duration::from_secs(5));
    assert_eq!(wire.sent().0, server(OTHER));
    wire.ask("b.test", RecordKind::Mx);
    assert_eq!(wire.sent().0, server(OTHER));
}

#[test]
fn without_servers_lookups_fail() {
    let mut wire = Wire::new(DnsConfig::default());
    assert_eq!(wire.ask("a.test", RecordKind::Mx), None);
    assert_eq!(wire.answered(), Some(Err(DnsFailure::NoServer)));
}

#[test]
fn answers_from_elsewhere_or_to_something_else_are_ignored() {
    type Forge = fn(&mut Message);
    let rows: &[(&str, Forge, SocketAddr)] = &[
        ("wrong id", |m| m.metadata.id ^= 1, server(SERVER)),
        ("wrong server", |_| {}, server(OTHER)),
        ("wrong port", |_| {}, server("192.0.2.53:5353")),
        ("wrong name", |m| m.queries[0].name = dns_name("b.test"), server(SERVER)),
        (
            "wrong kind",
            |m| m.queries[0].query_type = hickory_proto::rr::RecordType::A,
            server(SERVER),
        ),
        ("no question", |m| m.queries.clear(), server(SERVER)),
        ("a query", |m| m.metadata.message_type = MessageType::Query, server(SERVER)),
    ];
    for (label, forge, from) in rows {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        let (_, query) = wire.sent();
        let forged = response_to(&query, |m| {
            m.metadata.response_code = ResponseCode::NXDomain;
            forge(m);
        });
        wire.receive(*from, &forged);
        assert_eq!(wire.answered(), None, "{label}");
        assert_eq!(wire.resolver.stats().foreign_datagrams, 1, "{label}");
        let honest = response_to(&query, |m| {
            m.add_answer(mx("a.test", 60, 1, "mx.test"));
        });
        wire.receive(server(SERVER), &honest);
        assert_eq!(wire.answered(), Some(mx_answer(&[(1, "mx.test")])), "{label}");
        wire.receive(server(SERVER), &honest);
        assert_eq!(wire.answered(), None, "{label}: a late copy");
    }
}

#[test]
fn after_three_mismatches_the_question_goes_over_tcp() {
    let mut wire = Wire::new(config());
    wire.ask("a.test", RecordKind::Mx);
    let (from, query) = wire.sent();
    let forged = response_to(&query, |m| m.queries[0].name = dns_name("b.test"));
    for _ in 0..3 {
        assert!(wire.is_quiet());
        wire.receive(from, &forged);
    }
    wire.sent_tcp();
}

#[test]
fn truncated_and_malformed_answers_are_asked_for_over_tcp() {
    for malformed in [false, true] {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        let (from, query) = wire.sent();
        let mut bytes = response_to(&query, |m| m.metadata.truncation = true).to_vec().unwrap();
        if malformed {
            bytes.truncate(13);
        }
        wire.resolver.handle_datagram(wire.now, from, &bytes);
        let (token, query) = wire.sent_tcp();
        let response = response_to(&query, |m| {
            m.add_answers((0..300).map(|n| mx("a.test", 60, n, &format!("mx{n}.test"))));
        });
        let bytes = response.to_vec().unwrap();
        wire.resolver.handle_tcp(wire.now, token, Ok(&bytes));
        let Some(Ok(answer)) = wire.answered() else { panic!("no answer") };
        let Answer::Mx(records) = &*answer else { panic!("{answer:?}") };
        assert_eq!(records.len(), RECORDS_MAX);
        wire.resolver.handle_tcp(wire.now, token, Ok(&bytes));
        assert_eq!(wire.answered(), None, "a token counts once");
    }
}

#[test]
fn tcp_that_fails_is_a_failed_try() {
    let rows: [(&str, Option<Vec<u8>>, DnsFailure); 3] = [
        ("refused", None, DnsFailure::TcpFailed),
        ("empty", Some(Vec::new()), DnsFailure::Malformed),
        ("garbage", Some(vec![0xff; 40]), DnsFailure::Malformed),
    ];
    for (label, bytes, expected) in rows {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        for _ in 0..3 {
            wire.respond(|m| m.metadata.truncation = true);
            let (token, _) = wire.sent_tcp();
            wire.resolver.handle_tcp(wire.now, token, bytes.as_deref().ok_or(()));
        }
        assert_eq!(wire.answered(), Some(Err(expected)), "{label}");
    }
}

#[test]
fn a_server_that_dislikes_edns_is_asked_without() {
    let mut wire = Wire::new(config());
    wire.ask("a.test", RecordKind::Mx);
    let (from, query) = wire.sent();
    assert_eq!(query.edns.as_ref().map(hickory_proto::op::Edns::max_payload), Some(1232));
    assert!(query.metadata.recursion_desired);
    wire.receive(from, &response_to(&query, |m| m.metadata.response_code = ResponseCode::FormErr));
    let (again, query) = wire.sent();
    assert_eq!((again, query.edns.is_none()), (from, true));
    wire.receive(from, &response_to(&query, |m| m.metadata.response_code = ResponseCode::FormErr));
    assert_eq!(wire.sent().0, server(OTHER), "the second refusal is a failure");
}

#[test]
fn an_alias_without_records_is_followed_and_a_loop_of_them_ends() {
    let mut wire = Wire::new(config());
    wire.ask("a.test", RecordKind::Mx);
    assert_eq!(
        wire.respond(|m| {
            m.add_answer(alias("a.test", "b.test"));
        }),
        None
    );
    let answer = wire.respond(|m| {
        assert_eq!(m.queries[0].name, dns_name("b.test"));
        m.add_answer(mx("b.test", 60, 5, "mx.test"));
    });
    assert_eq!(answer, Some(mx_answer(&[(5, "mx.test")])));

    wire.ask("x.test", RecordKind::Mx);
    let mut answer = None;
    for n in 0..=ALIASES_MAX {
        assert_eq!(answer, None, "{n}");
        let (one, other) = if n % 2 == 0 { ("x.test", "y.test") } else { ("y.test", "x.test") };
        answer = wire.respond(|m| {
            m.add_answer(alias(one, other));
        });
    }
    assert_eq!(answer, Some(Err(DnsFailure::AliasLoop)));
}

#[test]
fn time_to_live_is_clamped() {
    type Change = fn(&mut Message);
    // (label, response, seconds that it is cached)
    let rows: &[(&str, Change, u64)] = &[
        (
            "least of all",
            |m| {
                m.add_answer(mx("a.test", 300, 1, "m"));
                m.add_answer(mx("a.test", 60, 2, "n"));
            },
            60,
        ),
        (
            "zero",
            |m| {
                m.add_answer(mx("a.test", 0, 1, "m"));
            },
            5,
        ),
        (
            "2^31",
            |m| {
                m.add_answer(mx("a.test", 1 << 31, 1, "m"));
            },
            5,
        ),
        (
            "a year",
            |m| {
                m.add_answer(mx("a.test", 31_536_000, 1, "m"));
            },
            86_400,
        ),
        (
            "negative",
            |m| {
                m.add_authority(soa(3600, 30));
            },
            30,
        ),
        (
            "long negative",
            |m| {
                m.add_authority(soa(3600, 3600));
            },
            60,
        ),
        ("negative without SOA", |_| {}, 5),
    ];
    for (label, change, seconds) in rows {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        assert!(wire.respond(change).is_some(), "{label}");
        wire.now += Duration::from_millis(seconds * 1000 - 1);
        assert!(wire.ask("a.test", RecordKind::Mx).is_some(), "{label}: too short");
        wire.now += Duration::from_millis(1);
        assert!(wire.ask("a.test", RecordKind::Mx).is_none(), "{label}: too long");
    }
}

#[test]
fn addresses_of_both_kinds_are_read() {
    let mut wire = Wire::new(config());
    wire.ask("h.test", RecordKind::A);
    let answer = wire.respond(|m| {
        m.add_answer(alias("h.test", "i.test"));
        m.add_answer(record("i.test", 9, RData::A(A::new(192, 0, 2, 9))));
    });
    let expected = Answer::Addresses(vec!["192.0.2.9".parse().unwrap()]);
    assert_eq!(answer, Some(Ok(Rc::new(expected))));
    wire.ask("h.test", RecordKind::Aaaa);
    let answer = wire.respond(|m| {
        m.add_answer(record("h.test", 9, RData::AAAA(AAAA::new(1, 2, 3, 4, 5, 6, 7, 8))));
    });
    let expected = Answer::Addresses(vec!["1:2:3:4:5:6:7:8".parse().unwrap()]);
    assert_eq!(answer, Some(Ok(Rc::new(expected))));
}

#[test]
fn one_question_is_in_flight_once_and_queries_have_a_limit() {
    let mut wire = Wire::new(DnsConfig { in_flight_max: 3, ..config() });
    for _ in 0..10 {
        for n in 0..10 {
            assert_eq!(wire.ask(&format!("{n}.test"), RecordKind::Mx), None);
        }
    }
    let mut answered = 0;
    while answered < 10 {
        let mut sent = Vec::new();
        while let Some(action) = wire.resolver.poll_action() {
            let DnsAction::SendDatagram { server, bytes } = action else { panic!("{action:?}") };
            sent.push((server, Message::from_vec(&bytes).unwrap()));
        }
        assert!((1..=3).contains(&sent.len()), "{} at once", sent.len());
        for (from, query) in sent {
            wire.receive(from, &response_to(&query, |_| {}));
            assert!(wire.answered().is_some());
            answered += 1;
        }
    }
    let stats = wire.resolver.stats();
    assert_eq!((stats.datagrams_sent, stats.merged, stats.in_flight), (10, 90, 0));
}

#[test]
fn names_that_cannot_be_asked_fail_at_once() {
    let mut wire = Wire::new(config());
    assert_eq!(wire.ask(&"a".repeat(64), RecordKind::Mx), None);
    assert_eq!(wire.answered(), Some(Err(DnsFailure::BadName)));
}

#[test]
fn localhost_is_known_without_asking() {
    assert!(special_addresses("localhost").is_some());
    assert!(special_addresses("a.localhost").is_some());
    assert!(special_addresses("notlocalhost").is_none());
}

proptest! {
    /// Whatever comes back: no panic, and the lookup ends, without an answer that was not given.
    #[test]
    fn arbitrary_octets_never_answer(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..20),
        keep_id: bool,
    ) {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        for mut bytes in pieces {
            let action = wire.resolver.poll_action();
            let (query, token) = match action {
                Some(DnsAction::SendDatagram { bytes, .. }) => (bytes, None),
                Some(DnsAction::QueryTcp { bytes, token, .. }) => (bytes, Some(token)),
                None => (Vec::new(), None),
            };
            if keep_id && bytes.len() > 2 && query.len() > 2 {
                bytes[..2].copy_from_slice(&query[..2]);
            }
            match token {
                Some(token) => wire.resolver.handle_tcp(wire.now, token, Ok(&bytes)),
                None => wire.resolver.handle_datagram(wire.now, server(SERVER), &bytes),
            }
        }
        for _ in 0..10 {
            wire.pass(Duration::from_secs(5));
        }
        prop_assert!(matches!(wire.answered(), Some(Err(_))));
        prop_assert_eq!(wire.resolver.poll_timeout(), None);
    }

    /// A response with some octets changed is either still understood or a failure.
    #[test]
    fn damaged_responses_never_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut wire = Wire::new(config());
        wire.ask("a.test", RecordKind::Mx);
        let (from, query) = wire.sent();
        let mut bytes = response_to(&query, |m| {
            m.add_answer(alias("a.test", "b.test"));
            m.add_answer(mx("b.test", 60, 1, "mx.b.test"));
            m.add_authority(soa(60, 60));
        }).to_vec().unwrap();
        for (index, octet) in changes {
            let index = index.index(bytes.len() - 2) + 2;
            bytes[index] = octet;
        }
        wire.resolver.handle_datagram(wire.now, from, &bytes);
        for _ in 0..10 {
            wire.pass(Duration::from_secs(5));
        }
        prop_assert!(wire.answered().is_some());
    }

    /// A query asks for just what was asked, or is not made.
    #[test]
    fn any_name_is_asked_for_or_refused(name in "[a-zA-Z0-9._\\\\-]{0,80}", odd in any::<String>()) {
        for name in [name, odd] {
            let mut wire = Wire::new(config());
            if wire.ask(&name, RecordKind::Aaaa).is_some() {
                continue;
            }
            let Some(DnsAction::SendDatagram { bytes, .. }) = wire.resolver.poll_action() else {
                prop_assert!(matches!(wire.answered(), Some(Err(DnsFailure::BadName))));
                continue;
            };
            let message = Message::from_vec(&bytes).unwrap();
            prop_assert!(bytes.len() <= 512 && message.queries.len() == 1);
            prop_assert!(message.queries[0].name().eq_ignore_root(&dns_name(&name)));
        }
    }
}
