//! The scheduler of one shard: takes messages and events, gives jobs, outcomes and actions.

mod connect;
mod flush;
mod forget;
mod intake;
mod leases;
mod parking;
mod resolve;
mod rules;
mod settle;
mod silence;
mod stats;
mod transaction;

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_protocol::address::Host;
use ringpost_protocol::deliver_by::DeliverBy;
use ringpost_protocol::priority::Priority;
use ringpost_queue::due::DueWheel;
use ringpost_queue::{BlockQueue, MessageId, RecipientIndex};
use ringpost_session::client::Dialect;

pub use self::flush::{Flush, FlushScope};
use self::forget::Pass;
use self::parking::{Place, Timer};
use self::settle::Doomed;
use self::silence::Silence;
pub use self::stats::{EngineStats, SiteView};
use crate::attempt::{Now, Reason};
use crate::clock::{Clock, Stamp};
use crate::config::DeliveryConfig;
use crate::destination::{DestinationState, Destinations};
use crate::dns::{DnsAction, QueryToken, Resolver};
use crate::limit::leases::Leases;
use crate::limit::{LeaseMessage, ShardNumber};
use crate::login::LoginProfile;
use crate::pool::{Connection, ConnectionId};
use crate::random::{Random, SeededMap, SeededState};
use crate::route::Routes;
use crate::site::{Site, SiteId, SiteKey};
use crate::table::Table;
use crate::tls::{BrokenTls, TlsPolicy};
use crate::work::{DestinationId, Work};

/// A message with recipients to deliver to.
#[derive(Debug, Clone)]
pub struct QueuedMessage {
    /// Its id in the queue.
    pub id: MessageId,
    /// When it was received; milliseconds since 1970.
    pub received_unix_ms: u64,
    /// When to give up.
    pub expiry_unix_ms: u64,
    /// How urgent it is: at one place the highest go first.
    pub priority: Priority,
    /// Whether its sender asks that it goes on without TLS rather than not at all (RFC 8689 §3).
    pub tls_optional: bool,
    /// By when it is to be delivered, if its client has said that (RFC 2852). With mode `R` the expiry is not
    /// after that.
    pub deliver_by: Option<DeliverBy>,
    /// The recipients that are not settled, each once.
    pub recipients: Vec<QueuedRecipient>,
}

/// A recipient of a [`QueuedMessage`].
#[derive(Debug, Clone)]
pub struct QueuedRecipient {
    /// Its place in the envelope.
    pub index: RecipientIndex,
    /// Where its mailbox is. For `<Postmaster>` without a domain: our own host name.
    pub host: Host,
    /// Attempts made so far, in earlier lives of the server included.
    pub attempts: u16,
    /// When it is due; `None` means now. Before the first attempt that is when the message was asked
    /// to be let go.
    pub due_unix_ms: Option<u64>,
    /// Whether the originator was told of the delay.
    pub warned: bool,
}

/// One transaction to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The message to send.
    pub id: MessageId,
    /// Its recipients in this transaction, in the order of the RCPT commands; the report must
    /// have the same order.
    pub recipients: Vec<RecipientIndex>,
    /// The site's name.
    pub site: Rc<str>,
    /// The host that the connection is to.
    pub mx_host: Rc<str>,
    /// Its address.
    pub address: SocketAddr,
}

/// What a ready connection does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Make this transaction, then call [`Engine::handle_report`].
    Deliver(Job),
    /// Nothing to do: ask again when woken by [`Action::Wake`], and at `until` at the latest.
    Idle {
        /// When the connection has been idle for long enough.
        until: Instant,
    },
    /// Send QUIT, close, and call [`Engine::handle_closed`].
    Close,
}

/// What the driver must do.
#[derive(Debug)]
pub enum Action {
    /// Send a DNS query over UDP.
    SendDatagram {
        /// The name server.
        server: SocketAddr,
        /// The encoded query.
        bytes: Vec<u8>,
    },
    /// Make a DNS query over TCP, within [`DnsConfig::timeout`](crate::dns::DnsConfig).
    QueryTcp {
        /// Goes into [`Engine::handle_dns_tcp`].
        token: QueryToken,
        /// The name server.
        server: SocketAddr,
        /// The encoded query, without the two octets of length.
        bytes: Vec<u8>,
    },
    /// Open a connection and an SMTP session. Ends in [`Engine::handle_ready`] after the EHLO
    /// reply, or the login behind it, [`Engine::handle_connect_failed`] or [`Engine::handle_closed`].
    Connect {
        /// Names the connection from now on.
        connection: ConnectionId,
        /// Where to.
        address: SocketAddr,
        /// The host's name, for logs.
        mx_host: Rc<str>,
        /// The site's name, for logs.
        site: Rc<str>,
        /// The address to come from; `None` lets the system choose.
        source: Option<IpAddr>,
        /// What TLS is asked for.
        tls: Arc<TlsPolicy>,
        /// With what to log in before the session is ready.
        login: Option<LoginProfile>,
        /// What is spoken there.
        dialect: Dialect,
    },
    /// Work is there for an idle connection: call [`Engine::next_job`].
    Wake(ConnectionId),
    /// The message will wait, nobody knows how long, because its site is down: its content need not
    /// be kept at hand.
    Parked(MessageId),
    /// A site went down, or came up again; for logs.
    SiteChanged(SiteChange),
}

/// A change that an operator may want to know of.
#[derive(Debug, Clone)]
pub struct SiteChange {
    /// The site's name.
    pub site: Rc<str>,
    /// Why it went down; `None` when it came up.
    pub reason: Option<Rc<Reason>>,
    /// Recipients that wait there.
    pub recipients: usize,
}

/// The delivery scheduler of one shard, as a sans-IO state machine.
///
/// It decides where, when, over which connection, and what came of it; the driver does sockets.
///
/// - A, getters: [`stats`](Self::stats), [`site_views`](Self::site_views).
/// - B, what happened: [`handle_message`](Self::handle_message),
///   [`handle_datagram`](Self::handle_datagram), [`handle_dns_tcp`](Self::handle_dns_tcp),
///   [`handle_connect_failed`](Self::handle_connect_failed),
///   [`handle_ready`](Self::handle_ready), [`handle_report`](Self::handle_report),
///   [`handle_job_failed`](Self::handle_job_failed), [`handle_closed`](Self::handle_closed),
///   [`handle_timeout`](Self::handle_timeout),
///   [`handle_lease_message`](Self::handle_lease_message).
/// - C, commands: [`next_job`](Self::next_job), [`narrow_job`](Self::narrow_job),
///   [`begin_forgetting`](Self::begin_forgetting), [`forget_some`](Self::forget_some),
///   [`flush_some`](Self::flush_some),
///   [`reconfigure`](Self::reconfigure), [`halt`](Self::halt).
/// - D, what to do: [`poll_action`](Self::poll_action) until `None`, then
///   [`poll_lease_message`](Self::poll_lease_message) until `None`, then
///   [`poll_timeout`](Self::poll_timeout), after each call of B or C. And, whenever there is time for
///   it, [`poll_settlement`](Self::poll_settlement): outcomes without a transaction, of which there may
///   be very many, wait here until the driver can commit them.
///
/// A connection's life, with the calls that lead on:
///
/// ```text
/// Connect ─▶ opening ─ready─▶ asking ─next_job─▶ busy ─report─▶ asking …
///               │                │ ▲                │
///               │                ▼ │ woken          │ closed: the job is settled or goes back
///               │               idle                │
///               └─ connect_failed / closed ─▶ gone ◀┘
/// ```
///
/// The engine keeps the job of a busy connection, so that its recipients cannot get lost with
/// the driver's task: whatever ends a connection must call `handle_closed` or
/// `handle_connect_failed`, once; further calls for it do nothing.
///
/// Time is monotonic and given in each call. The wall clock, given with it, is for what is stored and
/// told, and may jump: what waits here keeps its distance on the monotonic clock. No call does more
/// than a bounded amount of work, however much waits.
#[derive(Debug)]
pub struct Engine {
    config: Arc<DeliveryConfig>,
    routes: Routes,
    random: Random,
    /// The time of the last call, for what is done on polling.
    now: Now,
    clock: Clock,
    resolver: Resolver,
    destinations: Destinations,
    sites: Table<Site>,
    site_by_key: SeededMap<SiteKey, SiteId>,
    leases: Leases,
    /// Whether nothing is opened any more.
    is_halted: bool,
    /// Sites that wait for addresses of a host.
    address_waiters: SeededMap<Rc<str>, Vec<SiteId>>,
    /// When to see to places with work that must wait.
    timers: BTreeSet<(Instant, Timer)>,
    connections: SeededMap<ConnectionId, Connection>,
    next_connection: u64,
    due: DueWheel<Work>,
    deferred: usize,
    /// Work whose way is to be found anew, after a change of the configuration.
    astray: BlockQueue<Work>,
    doomed: VecDeque<Doomed>,
    /// Works in `doomed`.
    unsettled: usize,
    silence: Silence,
    broken_tls: BrokenTls,
    /// For connections to hosts that fail at TLS.
    plain: Arc<TlsPolicy>,
    /// A pass over all work for what has left the queue.
    forgetting: Option<Pass>,
    actions: VecDeque<Action>,
    sweep_at: Option<Instant>,
    stats: EngineStats,
}

/// Works taken up in one call of [`Engine::handle_timeout`]: of those due, and of those astray.
const BATCH_MAX: usize = 256;

/// Places seen to in one call of [`Engine::handle_timeout`].
const TIMERS_MAX: usize = 64;

/// How often unused destinations and sites are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

impl Engine {
    /// Makes an engine without work. The same seed and events give the same decisions.
    pub fn new(config: Arc<DeliveryConfig>, rng_seed: u64, now: Now) -> Self {
        let mut random = Random::new(rng_seed);
        let resolver = Resolver::new(config.dns.clone(), random.fork().next_u64());
        let state = SeededState::new(&mut random);
        let broken_tls = BrokenTls::new(&mut random);
        let leases = Leases::new(config.connections_per_site_max, &mut random);
        Self {
            routes: Routes::new(&config),
            destinations: Destinations::new(&mut random),
            random,
            now,
            clock: Clock::new(now),
            resolver,
            sites: Table::new(),
            leases,
            is_halted: false,
            site_by_key: SeededMap::with_hasher(state.clone()),
            address_waiters: SeededMap::with_hasher(state.clone()),
            timers: BTreeSet::new(),
            connections: SeededMap::with_hasher(state),
            next_connection: 0,
            due: DueWheel::new(),
            deferred: 0,
            astray: BlockQueue::new(),
            doomed: VecDeque::new(),
            unsettled: 0,
            silence: Silence::default(),
            broken_tls,
            plain: Arc::new(TlsPolicy::plain()),
            forgetting: None,
            actions: VecDeque::new(),
            sweep_at: None,
            stats: EngineStats::default(),
            config,
        }
    }

    /// Takes a datagram that came from a name server.
    pub fn handle_datagram(&mut self, now: Now, from: SocketAddr, bytes: &[u8]) {
        self.now = now;
        self.resolver.handle_datagram(now.monotonic, from, bytes);
        self.drain_answers();
    }

    /// Takes the answer to an [`Action::QueryTcp`], or that there is none.
    pub fn handle_dns_tcp(&mut self, now: Now, token: QueryToken, answer: Result<&[u8], ()>) {
        self.now = now;
        self.resolver.handle_tcp(now.monotonic, token, answer);
        self.drain_answers();
    }

    /// Does what has become due.
    ///
    /// One call does a bounded amount of work; if more is due, [`poll_timeout`](Self::poll_timeout)
    /// says so at once.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        self.resolver.handle_timeout(now.monotonic);
        self.leases.handle_timeout(now.monotonic);
        self.drain_answers();
        for _ in 0..TIMERS_MAX {
            let Some(&(at, timer)) = self.timers.first() else { break };
            if at > now.monotonic {
                break;
            }
            self.timers.pop_first();
            self.see_to(at, timer);
        }
        let stamp = self.stamp();
        for _ in 0..BATCH_MAX {
            let Some(work) = self.due.poll(stamp.0) else { break };
            self.deferred = self.deferred.saturating_sub(work.recipients.len());
            work.by_destination(|part| self.route(part));
        }
        self.lead_back();
        self.drain_answers();
        if self.sweep_at.is_some_and(|at| at <= now.monotonic) {
            self.sweep();
        }
    }

    /// Decides from now on by `config`. Connections and jobs go on as they are; waiting work is
    /// routed anew, bit by bit.
    pub fn reconfigure(&mut self, now: Now, config: Arc<DeliveryConfig>) {
        self.now = now;
        self.routes = Routes::new(&config);
        self.resolver.reconfigure(config.dns.clone());
        self.leases.reconfigure(config.connections_per_site_max);
        self.config = config;
        self.forget_again();
        self.end_silence();
        for id in self.destinations.ids() {
            let Some(destination) = self.destinations.get_mut(id) else { continue };
            destination.route = self.routes.find(&destination.name);
            let state = std::mem::replace(&mut destination.state, DestinationState::Unknown);
            self.astray.append(destination.waiting.take());
            match state {
                DestinationState::Site { site, .. } => self.release_site(site),
                DestinationState::Parked { until } => {
                    self.timers.remove(&(until, Timer::Resolve(id)));
                }
                DestinationState::Unknown | DestinationState::Resolving => {}
            }
        }
        for index in self.sites.indices() {
            if let Some(site) = self.sites.get_mut(index) {
                self.astray.append(site.ready.take());
            }
        }
        self.lead_back();
        self.drain_answers();
    }

    /// Finds the way anew for some of the work that is astray.
    fn lead_back(&mut self) {
        for _ in 0..BATCH_MAX {
            let Some(work) = self.astray.pop_front() else { break };
            work.by_destination(|part| self.route(part));
        }
    }

    /// Returns the next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.settle_leases();
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        self.resolver.poll_action().map(|action| match action {
            DnsAction::SendDatagram { server, bytes } => Action::SendDatagram { server, bytes },
            DnsAction::QueryTcp { token, server, bytes } => {
                Action::QueryTcp { token, server, bytes }
            }
        })
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Instant> {
        let now = self.now.monotonic;
        let due = self.due.next_due().map(|due| self.clock.instant(now, Stamp(due)));
        let timer = self.timers.first().map(|(at, _)| *at);
        let astray = (!self.astray.is_empty()).then_some(now);
        let resolver = self.resolver.poll_timeout();
        let leases = self.leases.poll_timeout();
        [resolver, due, timer, astray, leases, self.sweep_at].into_iter().flatten().min()
    }

    /// The engine's time.
    fn stamp(&self) -> Stamp {
        self.clock.stamp(self.now.monotonic)
    }

    fn wait(&mut self, due: Stamp, work: Work) {
        self.deferred += work.recipients.len();
        self.due.insert(due.0, work);
    }

    /// Sends work of one destination on its way.
    fn route(&mut self, work: Work) {
        let Some(first) = work.recipients.as_slice().first() else { return };
        let id: DestinationId = first.destination();
        if work.is_over(self.stamp()) {
            let Some(destination) = self.destinations.get(id) else { return };
            let name = Rc::clone(&destination.name);
            return self.doom_over(name, work);
        }
        let now = self.now.monotonic;
        let Some(destination) = self.destinations.get(id) else { return };
        match destination.state {
            DestinationState::Resolving | DestinationState::Parked { .. } => {
                self.park(Place::Destination(id), work);
            }
            DestinationState::Site { site, until } if until.is_none_or(|until| until > now) => {
                self.enqueue(site, work);
            }
            DestinationState::Site { .. } | DestinationState::Unknown => {
                self.park(Place::Destination(id), work);
                self.resolve_destination(id);
            }
        }
    }

    fn enqueue(&mut self, id: SiteId, work: Work) {
        let (message, attempts) =
            (work.message, work.recipients.as_slice().first().map_or(0, |first| first.attempts));
        self.park(Place::Site(id), work);
        // Only the content of fresh mail is at hand anywhere.
        if attempts == 0 && self.sites.get(id.0).is_some_and(Site::is_parking) {
            self.actions.push_back(Action::Parked(message));
        }
        self.dispatch(id);
    }

    /// Forgets destinations without recipients, and sites without use.
    fn sweep(&mut self) {
        for site in self.destinations.sweep() {
            self.release_site(site);
        }
        let now = self.now.monotonic;
        for index in self.sites.indices() {
            if self.sites.get(index).is_some_and(|site| site.is_unused(now))
                && let Some(site) = self.sites.remove(index)
            {
                self.site_by_key.remove(&site.key);
                if let Some(lease) = site.lease {
                    self.leases.leave(now, lease, SiteId(index));
                }
            }
        }
        self.broken_tls.forget_old(now);
        let anything =
            self.destinations.len() > 0 || self.sites.len() > 0 || self.broken_tls.len() > 0;
        self.sweep_at = anything.then(|| now + SWEEP_INTERVAL);
    }

    fn release_site(&mut self, id: SiteId) {
        if let Some(site) = self.sites.get_mut(id.0) {
            site.destinations = site.destinations.saturating_sub(1);
        }
    }
}
