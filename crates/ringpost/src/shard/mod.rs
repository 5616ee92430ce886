//! A shard: one core's listeners, sessions, log, engine and connections.
//!
//! Everything here is driven by tasks of one executor and shared between them by `Rc`; no borrow is
//! held across an `await`. The state machines decide, and each file here drives one of them.

mod activity;
mod admin;
mod arrivals;
mod cache;
mod checkpoint;
mod commit;
mod events;
mod fit;
mod flush;
mod inbound;
mod inbox;
mod intake;
mod listener;
mod outbound;
mod pace;
mod pressure;
mod purge;
mod report;
mod resolver;
mod scheduler;
mod segments;
mod settle;
mod signal;
mod start;
mod stored;
mod stress;
mod tick;
mod turns;

use std::{
    cell::{Cell, Ref, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ringpost_delivery::{ConnectionId, Engine, Now, TlsProfile};
use ringpost_metrics::ShardMetrics;
use ringpost_protocol::{
    address::{Domain, Host},
    envelope::Envelope,
};
use ringpost_queue::{Admission, Queue, SegmentSequence, storage::Storage};

use self::{
    activity::Activity, cache::ContentCache, commit::Commits, events::Events, intake::Intake,
    listener::ListenerContext, pressure::Pressure, resolver::Resolver, settle::Settlements,
    signal::Signal, stress::Stress, turns::Turns,
};
use crate::{
    auth::PasswordChecker,
    config::ConfigSnapshot,
    control::{ShardHealth, Watermarks},
    runtime::{Runtime, Watch},
    tls::Connector,
};

pub use self::{
    inbox::{RequestRefusal, ShardHandle, ShardInbox, ShardOrders, shard_inbox},
    intake::{LOG_PATIENCE, ListeningShards},
    start::{ShardError, ShardOptions, ShardReport, run_all},
};

/// One core's part of the server.
pub(crate) struct Shard<R: Runtime> {
    runtime: R,
    /// Its number, which labels its metrics.
    number: u16,
    config: RefCell<Arc<ConfigSnapshot>>,
    listeners: RefCell<Vec<Rc<ListenerContext>>>,

    queue: RefCell<Queue>,
    storage: R::Storage,
    /// Open segments, by sequence.
    segments: RefCell<HashMap<SegmentSequence, <R::Storage as Storage>::File>>,
    commits: Commits,
    segment_work: Signal,
    checkpoint_work: Signal,
    /// Set when something was done with a segment, well or not.
    segment_done: Signal,

    engine: RefCell<Engine>,
    resolver: Resolver<R>,
    /// Whom to notify when the engine has work for an idle connection.
    connections: RefCell<HashMap<ConnectionId, Rc<Watch>>>,
    settlements: Settlements,
    client_config: RefCell<Arc<ringpost_session::client::ClientConfig>>,
    /// What shakes hands with next hops, by profile.
    connectors: RefCell<HashMap<TlsProfile, Connector>>,

    cache: RefCell<ContentCache>,
    events: Events,
    /// Event records that the queue had given up at the last look.
    events_given_up: Cell<u64>,
    /// Addresses that fail at TLS and found no room, at the last look.
    tls_overflows: Cell<u64>,
    /// Times that a site lacked a slot, at the last look.
    slot_waits: Cell<u64>,
    metrics: ShardMetrics,
    health: Option<Arc<ShardHealth>>,
    /// Where mail for `<Postmaster>` without a domain belongs (RFC 5321 §4.5.1).
    own_host: RefCell<Host>,

    intake: Intake,
    /// Whether anything was ever purged: then what the engine knows is held against the queue.
    has_purged: Cell<bool>,
    /// Room that the process shares with others.
    watermarks: Arc<Watermarks>,
    /// How close what is queued is to its limits, at the last tick.
    queue_pressure: Cell<Pressure>,
    /// What the shard is short of.
    stress: Stress,
    draining: Cell<bool>,
    sessions_open: Rc<Cell<usize>>,
    /// Inbound sessions that the shard's share of descriptors allows.
    sessions_max: usize,
    /// Inbound transactions between MAIL and the reply to their content.
    transactions_open: Rc<Cell<usize>>,
    activity: Activity,
    outbound_open: Rc<Cell<usize>>,
    turns: Turns,
    /// Whom to ask about passwords.
    passwords: PasswordChecker,
    /// Sessions that wait for that.
    passwords_waiting: Rc<Cell<usize>>,
    /// What leads to all shards, itself included, by their numbers.
    shards: Arc<[ShardHandle]>,
    /// Orders to try mail now that it is about.
    flushes: Rc<Cell<usize>>,
    /// Such orders that its sessions have given to all shards, and wait for.
    flushes_ordered: Rc<Cell<usize>>,
}

impl<R: Runtime> Shard<R> {
    fn now(&self) -> Now {
        Now { monotonic: self.runtime.now(), unix_ms: self.runtime.unix_ms() }
    }

    fn config(&self) -> Ref<'_, Arc<ConfigSnapshot>> {
        self.config.borrow()
    }

    /// Runs `change` on the queue, then lets the commit task write what it has appended.
    fn with_queue<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let result = self.with_queue_lazily(change);
        self.commits.look();
        result
    }

    /// Runs `change` on the queue; what it appends is written with the next batch, or at the next
    /// tick.
    ///
    /// A panic in it ends the process: what the log would hold from then on cannot be known.
    fn with_queue_lazily<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let _bomb = EndOnPanic(&self.runtime, "queue");
        change(&mut self.queue.borrow_mut())
    }

    /// Runs `change` on the engine, then carries its actions out.
    ///
    /// A panic in it ends the process: mail could be stuck until the next start, unseen.
    fn with_engine<T>(self: &Rc<Self>, change: impl FnOnce(&mut Engine, Now) -> T) -> T {
        let _bomb = EndOnPanic(&self.runtime, "delivery engine");
        let now = self.now();
        let result = change(&mut self.engine.borrow_mut(), now);
        self.carry_out_actions();
        result
    }

    fn admission(&self) -> Admission {
        self.queue.borrow().admission()
    }

    /// How long a message may stay in the queue, in milliseconds; `listener` is what its listener says.
    fn lifetime_ms(&self, envelope: &Envelope, listener: Option<Duration>) -> u64 {
        let config = self.config();
        let queue = &config.config().queue;
        let lifetime = if envelope.reverse_path.is_null() {
            queue.bounce_lifetime
        } else {
            listener.unwrap_or(queue.lifetime)
        };
        u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the shard takes no new work because the server stops.
    fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether new deliveries may start: not while stopping, and not when outcomes could not be kept.
    fn may_deliver(&self) -> bool {
        !self.is_draining() && !self.is_poisoned()
    }

    /// Whether the log can take nothing any more.
    fn is_poisoned(&self) -> bool {
        self.admission() == Admission::Poisoned
    }

    /// Stops taking mail for good, because the log cannot be used; new connections go to the other
    /// shards, if there are any that listen.
    fn lose_storage(&self, reason: &str) {
        if let Some(health) = &self.health {
            health.set_reason(reason);
        }
        if self.intake.lose() {
            tracing::warn!(shard = self.number, "listening no more: other shards take the mail");
            // Whoever is connected is led there as well.
            self.runtime.notify_streams();
        }
        self.publish();
    }
}

/// Ends the process when it is dropped by a panic.
struct EndOnPanic<'a, R: Runtime>(&'a R, &'static str);

impl<R: Runtime> Drop for EndOnPanic<'_, R> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.end_process(self.1);
        }
    }
}

/// Counts something open for as long as it lives.
struct OpenCount(Rc<Cell<usize>>);

impl OpenCount {
    fn new(count: &Rc<Cell<usize>>) -> Self {
        count.set(count.get() + 1);
        Self(Rc::clone(count))
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Our host name as the host part of an address.
fn own_host(config: &ConfigSnapshot) -> Host {
    // The checks have read the name already.
    let literal = std::net::IpAddr::from([127, 0, 0, 1]);
    Domain::parse(config.hostname()).map_or_else(|_| Host::Literal(literal.into()), Host::Domain)
}
