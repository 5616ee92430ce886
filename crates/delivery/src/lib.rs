//! Decides where mail goes, when, over how many connections, and what the answers meant.
//!
//! Everything here is pure: events and the time go in, jobs, actions and outcomes come out. One
//! [`engine::Engine`] runs on each shard; the driver around it does the sockets.
//!
//! # The way of a recipient
//!
//! ```text
//! message ─▶ destination ─▶ MX lookup ─▶ site ─▶ ready queue ─▶ connection ─▶ outcome
//!   ▲         (domain)       (dns, mx)   (MX set)  (work)         (pool)         │
//!   └──────────────────────────── due wheel ◀───────── deferred ─────────────────┘
//! ```
//!
//! - A *destination* is the domain of a recipient. Its route is a smarthost, an address, or
//!   its MX records ([`route`], [`mx`], [`dns`]).
//! - A *site* is a set of hosts. All domains with the same MX set share its queue, its
//!   connections and its fate ([`engine::SiteView`]).
//! - A *connection* takes one job after the other; recipients of one message at one site share
//!   a transaction.
//! - [`outcome`] is the only place that says what a reply or failure means; [`retry`] says when
//!   a deferred recipient is tried again; [`bounce`] tells the originator.
//!
//! # Invariants
//!
//! - A recipient is in one place at a time: it is moved from owner to owner, never copied. So
//!   each attempt settles it once, and it cannot be in two transactions.
//! - A connection slot is taken when the connection is asked for and given back when it is
//!   reported gone, each in one place.
//! - Work that must wait is put away once, and taken up by what it waits for: the clock, a DNS
//!   answer, a free connection. Nothing is asked again and again.
//! - No envelope text and no content is kept here, only numbers.

#![forbid(unsafe_code)]

pub mod attempt;
pub mod bounce;
mod clock;
pub mod config;
mod destination;
pub mod dns;
pub mod engine;
mod lane;
mod limit;
mod login;
pub mod mx;
pub mod outcome;
mod pool;
mod random;
pub mod retry;
pub mod route;
pub mod rules;
mod site;
mod table;
mod tls;
mod waiting;
mod work;

pub use attempt::{Attempt, Now, Reason, Settled, Settlement};
pub use config::{
    AddressFamily, AddressPolicy, DeliveryConfig, Route, RoutePattern, SessionRefusal, Smarthost,
};
pub use engine::{
    Action, Engine, EngineStats, Flush, FlushScope, Job, Next, QueuedMessage, QueuedRecipient,
    SiteChange, SiteView,
};
pub use limit::leases::LeaseStats;
pub use limit::{LeaseMessage, LimitKey, ShardNumber, SlotDemand, SlotGrant};
pub use login::LoginProfile;
pub use pool::{ConnectFailure, ConnectionId};
pub use retry::{RetryDelays, RetrySchedule};
pub use site::{Counts, SiteKind, SiteState};
pub use tls::{TlsLevel, TlsPolicy, TlsProfile};
