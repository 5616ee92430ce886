//! Asks the name servers: merges, times, retries and checks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hickory_proto::rr::Name;

use super::cache::Cache;
use super::message::{self, Match, Reading};
use super::{Answer, DnsConfig, DnsFailure, LookupResult, Question};
use crate::random::{Random, SeededMap, SeededSet, SeededState};

/// Names one query over TCP; answers to an older one are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueryToken(u64);

/// What the driver must send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsAction {
    /// Send `bytes` to `server` from a UDP socket with an unpredictable port.
    SendDatagram {
        /// The name server.
        server: SocketAddr,
        /// The encoded query.
        bytes: Vec<u8>,
    },
    /// Send `bytes` over a TCP connection and return the one answer with `token`. The driver
    /// adds and strips the two octets of length (RFC 1035 §4.2.2).
    QueryTcp {
        /// Names the query in [`Resolver::handle_tcp`].
        token: QueryToken,
        /// The name server.
        server: SocketAddr,
        /// The encoded query, without the length.
        bytes: Vec<u8>,
    },
}

/// Counters of the resolver since it was made, and two current values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DnsStats {
    /// Lookups asked of the resolver.
    pub lookups: u64,
    /// Lookups answered from the cache.
    pub cache_hits: u64,
    /// Lookups that joined one already under way.
    pub merged: u64,
    /// Queries sent over UDP, repeats included.
    pub datagrams_sent: u64,
    /// Queries sent over TCP.
    pub tcp_queries: u64,
    /// Queries that got no answer in time.
    pub timeouts: u64,
    /// Lookups that ended without an answer.
    pub failures: u64,
    /// Datagrams ignored because they answer nothing we asked.
    pub foreign_datagrams: u64,
    /// Lookups under way now.
    pub in_flight: usize,
    /// Answers cached now.
    pub cached: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

#[derive(Debug)]
struct Pending {
    question: Question,
    /// The name asked now: the question's, or what it is an alias of.
    name: Name,
    aliases: u8,
    ttl: Option<u32>,
    transport: Transport,
    with_edns: bool,
    id: u16,
    server: SocketAddr,
    server_index: usize,
    tries: u8,
    mismatches: u8,
    deadline: Instant,
    failure: DnsFailure,
    /// When it was first sent.
    started: Instant,
    /// Whether all servers were silent when it was last sent.
    in_silence: bool,
}

/// A query whose answers do not fit is asked over TCP after this many.
const MISMATCHES_MAX: u8 = 3;

/// A sans-IO stub resolver.
///
/// - A: [`stats`](Self::stats), [`is_silent`](Self::is_silent).
/// - B: [`handle_datagram`](Self::handle_datagram), [`handle_tcp`](Self::handle_tcp),
///   [`handle_timeout`](Self::handle_timeout) bring what the network and the clock did.
/// - C: [`lookup`](Self::lookup) asks; [`reconfigure`](Self::reconfigure).
/// - D: [`poll_action`](Self::poll_action), [`poll_answer`](Self::poll_answer) and
///   [`poll_timeout`](Self::poll_timeout), each until `None`, after every call of B or C.
///
/// One question is in flight once, however many ask it. Time is monotonic.
#[derive(Debug)]
pub struct Resolver {
    config: DnsConfig,
    random: Random,
    cache: Cache,
    /// By a key that changes with each send, so late events of an earlier send find nothing.
    pending: BTreeMap<u64, Pending>,
    by_id: SeededMap<u16, u64>,
    deadlines: BTreeSet<(Instant, u64)>,
    asked: SeededSet<Question>,
    waiting: VecDeque<Question>,
    actions: VecDeque<DnsAction>,
    answers: VecDeque<(Question, LookupResult, Instant)>,
    next_key: u64,
    /// The server asked first; moves on when it does not answer.
    preferred: usize,
    /// When any server last answered anything.
    answered: Option<Instant>,
    /// Whether a lookup has failed of late, during which no server answered anything.
    is_silent: bool,
    stats: DnsStats,
}

impl Resolver {
    /// Makes a resolver with an empty cache.
    pub fn new(config: DnsConfig, rng_seed: u64) -> Self {
        let mut random = Random::new(rng_seed);
        let state = SeededState::new(&mut random);
        Self {
            cache: Cache::new(state.clone(), config.cache_entries_max),
            pending: BTreeMap::new(),
            by_id: SeededMap::with_hasher(state.clone()),
            deadlines: BTreeSet::new(),
            asked: SeededSet::with_hasher(state),
            waiting: VecDeque::new(),
            actions: VecDeque::new(),
            answers: VecDeque::new(),
            next_key: 0,
            preferred: 0,
            answered: None,
            is_silent: false,
            stats: DnsStats::default(),
            random,
            config,
        }
    }

    /// Returns the counters.
    pub fn stats(&self) -> DnsStats {
        DnsStats { in_flight: self.asked.len(), cached: self.cache.len(), ..self.stats }
    }

    /// Tells whether all name servers are silent: a lookup has failed while none of them answered
    /// anything at all, and none has since.
    pub fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// Uses `config` for new queries; those in flight go on.
    pub fn reconfigure(&mut self, config: DnsConfig) {
        self.cache.set_entries_max(config.cache_entries_max);
        self.preferred = 0;
        self.config = config;
    }

    /// Looks `question` up.
    ///
    /// Returns the cached answer and when it expires; otherwise `None`, and the answer comes
    /// from [`poll_answer`](Self::poll_answer), once for all who asked meanwhile.
    pub fn lookup(&mut self, now: Instant, question: &Question) -> Option<(LookupResult, Instant)> {
        self.stats.lookups += 1;
        let cached = self.cache.get(now, question);
        if let Some(cached) = cached.filter(|(result, expires)| !self.is_over(result, *expires)) {
            self.stats.cache_hits += 1;
            return Some(cached);
        }
        if !self.asked.insert(question.clone()) {
            self.stats.merged += 1;
            return None;
        }
        self.waiting.push_back(question.clone());
        self.start_waiting(now);
        None
    }

    /// Forgets that a question has found no answer: it is asked anew when it is looked up.
    pub fn forget_failure(&mut self, question: &Question) {
        self.cache.forget_failure(question);
    }

    /// Tells whether a cached result is that no server answered, and one has since.
    fn is_over(&self, result: &LookupResult, expires: Instant) -> bool {
        let since = self.answered.map(|answered| answered + self.config.failure_ttl);
        matches!(result, Err(DnsFailure::TimedOut)) && since.is_some_and(|since| expires <= since)
    }

    /// Takes a datagram that arrived from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        let key = message::id(bytes).and_then(|id| self.by_id.get(&id).copied());
        let expected = key.filter(|key| {
            self.pending
                .get(key)
                .is_some_and(|query| query.server == from && query.transport == Transport::Udp)
        });
        match expected {
            Some(key) => self.handle_response(now, key, bytes),
            None => self.stats.foreign_datagrams += 1,
        }
        self.start_waiting(now);
    }

    /// Takes the answer to a [`DnsAction::QueryTcp`], or that there is none.
    pub fn handle_tcp(&mut self, now: Instant, token: QueryToken, answer: Result<&[u8], ()>) {
        let Some(query) = self.pending.get(&token.0) else { return };
        match answer {
            Ok(bytes) if message::id(bytes) == Some(query.id) => {
                self.handle_response(now, token.0, bytes);
            }
            Ok(_) => self.fail_try(now, token.0, DnsFailure::Malformed),
            Err(()) => self.fail_try(now, token.0, DnsFailure::TcpFailed),
        }
        self.start_waiting(now);
    }

    /// Repeats or gives up queries whose answer is overdue.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(deadline, key)) = self.deadlines.first() {
            if deadline > now {
                break;
            }
            self.stats.timeouts += 1;
            if let Some(query) = self.pending.get(&key)
                && query.server_index == self.preferred
            {
                self.preferred = self.preferred.wrapping_add(1);
            }
            self.fail_try(now, key, DnsFailure::TimedOut);
        }
        self.start_waiting(now);
    }

    /// Returns the next thing to send.
    pub fn poll_action(&mut self) -> Option<DnsAction> {
        self.actions.pop_front()
    }

    /// Returns the next finished lookup and when its answer expires.
    pub fn poll_answer(&mut self) -> Option<(Question, LookupResult, Instant)> {
        self.answers.pop_front()
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    fn start_waiting(&mut self, now: Instant) {
        // Ids are 16 bits: far fewer in flight keeps them quick to draw and hard to guess.
        let in_flight_max = self.config.in_flight_max.clamp(1, 10_000);
        while self.pending.len() < in_flight_max {
            let Some(question) = self.waiting.pop_front() else { break };
            match message::name(&question.name) {
                Ok(name) => self.send(now, Pending::new(question, name, self.preferred, now)),
                Err(failure) => self.finish(now, question, Err(failure), None),
            }
        }
    }

    fn send(&mut self, now: Instant, mut query: Pending) {
        let servers = &self.config.servers;
        if servers.is_empty() {
            self.finish(now, query.question, Err(DnsFailure::NoServer), None);
            return;
        }
        query.server = servers[query.server_index % servers.len()];
        query.id = self.random.next_u16();
        while self.by_id.contains_key(&query.id) {
            query.id = self.random.next_u16();
        }
        let encoded = message::encode(query.id, &query.name, query.question.kind, query.with_edns);
        let bytes = match encoded {
            Ok(bytes) => bytes,
            Err(failure) => return self.finish(now, query.question, Err(failure), None),
        };
        self.next_key += 1;
        let key = self.next_key;
        let server = query.server;
        self.actions.push_back(match query.transport {
            Transport::Udp => {
                self.stats.datagrams_sent += 1;
                DnsAction::SendDatagram { server, bytes }
            }
            Transport::Tcp => {
                self.stats.tcp_queries += 1;
                DnsAction::QueryTcp { token: QueryToken(key), server, bytes }
            }
        });
        query.deadline = now + self.config.timeout;
        query.in_silence = self.is_silent;
        self.deadlines.insert((query.deadline, key));
        self.by_id.insert(query.id, key);
        self.pending.insert(key, query);
    }

    fn take(&mut self, key: u64) -> Option<Pending> {
        let query = self.pending.remove(&key)?;
        self.by_id.remove(&query.id);
        self.deadlines.remove(&(query.deadline, key));
        Some(query)
    }

    fn handle_response(&mut self, now: Instant, key: u64, bytes: &[u8]) {
        let Some(query) = self.pending.get_mut(&key) else { return };
        let kind = query.question.kind;
        let reading = match message::read(bytes, &query.name, kind, query.with_edns, query.aliases)
        {
            Match::Ours(reading) => reading,
            Match::Foreign | Match::Malformed if query.transport == Transport::Tcp => {
                return self.fail_try(now, key, DnsFailure::Malformed);
            }
            // Perhaps a forgery: keep waiting for the true answer, and after a few go where
            // forging is hard.
            Match::Foreign => {
                self.stats.foreign_datagrams += 1;
                query.mismatches += 1;
                if query.mismatches < MISMATCHES_MAX {
                    return;
                }
                Reading::Truncated
            }
            Match::Malformed => Reading::Truncated,
        };
        self.answered = Some(now);
        self.is_silent = false;
        match reading {
            Reading::Truncated => match query.transport {
                Transport::Udp => self.resend(now, key, |query| query.transport = Transport::Tcp),
                Transport::Tcp => self.fail_try(now, key, DnsFailure::Malformed),
            },
            Reading::PlainWanted => self.resend(now, key, |query| query.with_edns = false),
            Reading::Failure(DnsFailure::AliasLoop) => {
                let Some(query) = self.take(key) else { return };
                self.finish(now, query.question, Err(DnsFailure::AliasLoop), None);
            }
            Reading::Failure(failure) => self.fail_try(now, key, failure),
            Reading::Alias { target, ttl, aliases } => self.resend(now, key, |query| {
                query.name = target;
                query.aliases = aliases;
                query.ttl = Some(query.ttl.map_or(ttl, |before| before.min(ttl)));
                query.transport = Transport::Udp;
            }),
            Reading::Answer { answer, ttl, .. } => {
                let Some(query) = self.take(key) else { return };
                let ttl = match (ttl, query.ttl) {
                    (Some(ttl), Some(before)) => Some(ttl.min(before)),
                    (ttl, before) => ttl.or(before),
                };
                self.finish(now, query.question, Ok(Rc::new(answer)), ttl);
            }
        }
    }

    fn resend(&mut self, now: Instant, key: u64, change: impl FnOnce(&mut Pending)) {
        if let Some(mut query) = self.take(key) {
            change(&mut query);
            self.send(now, query);
        }
    }

    /// Counts a try that failed; asks the next server, or gives up.
    fn fail_try(&mut self, now: Instant, key: u64, failure: DnsFailure) {
        let Some(mut query) = self.take(key) else { return };
        query.tries += 1;
        // A server that answered badly says more than one that did not answer.
        if failure != DnsFailure::TimedOut || query.tries == 1 {
            query.failure = failure;
        }
        // What was sent just before the servers came back says nothing: it is sent once more.
        let is_void = failure == DnsFailure::TimedOut && query.in_silence && !self.is_silent;
        if query.tries >= self.config.attempts.max(1) && !is_void {
            let is_silent = self.answered.is_none_or(|answered| answered < query.started);
            self.is_silent |= is_silent && query.failure == DnsFailure::TimedOut;
            self.finish(now, query.question, Err(query.failure), None);
            return;
        }
        query.server_index = query.server_index.wrapping_add(1);
        query.transport = Transport::Udp;
        query.mismatches = 0;
        self.send(now, query);
    }

    fn finish(&mut self, now: Instant, question: Question, result: LookupResult, ttl: Option<u32>) {
        let config = &self.config;
        let ttl = Duration::from_secs(u64::from(ttl.unwrap_or(0)));
        let lifetime = match result.as_deref() {
            Ok(Answer::Mx(_) | Answer::Addresses(_)) => ttl.min(config.ttl_max).max(config.ttl_min),
            Ok(Answer::NoData | Answer::NoName) => {
                ttl.min(config.negative_ttl_max).max(config.ttl_min)
            }
            Err(_) => config.failure_ttl,
        };
        if result.is_err() {
            self.stats.failures += 1;
        }
        let expires = now + lifetime;
        self.asked.remove(&question);
        self.cache.insert(question.clone(), result.clone(), expires);
        self.answers.push_back((question, result, expires));
    }
}

impl Pending {
    fn new(question: Question, name: Name, server_index: usize, now: Instant) -> Self {
        Self {
            question,
            name,
            aliases: 0,
            ttl: None,
            transport: Transport::Udp,
            with_edns: true,
            id: 0,
            server: SocketAddr::from(([0, 0, 0, 0], 0)),
            server_index,
            tries: 0,
            mismatches: 0,
            deadline: now,
            failure: DnsFailure::TimedOut,
            started: now,
            in_silence: false,
        }
    }
}
