//! The connections of a shard: which site each is for, and what it is doing.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::attempt::Reason;
use crate::site::{Counts, SiteId};
use crate::tls::TlsPolicy;
use crate::work::Work;

/// Names a connection, from the request to open it to its end. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

/// One opening on its way through the addresses of a site.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Addresses tried, the current one included.
    pub(crate) tried: Vec<IpAddr>,
    /// Whether addresses were left out: failed a short while ago, not looked up yet, too many.
    pub(crate) is_partial: bool,
    /// Whether all tried so far refused the session for good.
    pub(crate) all_refused: bool,
}

impl Walk {
    pub(crate) fn new() -> Self {
        Self { tried: Vec::new(), is_partial: false, all_refused: true }
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    Opening(Walk),
    Asking,
    Idle { until: Instant },
    Woken { until: Instant },
    Busy { work: Work, started: Instant },
    Closing,
}

impl Phase {
    /// Returns the counter of connections in this phase.
    pub(crate) fn count<'a>(&self, counts: &'a mut Counts) -> &'a mut usize {
        match self {
            Self::Opening(_) => &mut counts.opening,
            Self::Asking => &mut counts.asking,
            Self::Idle { .. } => &mut counts.idle,
            Self::Woken { .. } => &mut counts.woken,
            Self::Busy { .. } => &mut counts.busy,
            Self::Closing => &mut counts.closing,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) site: SiteId,
    pub(crate) mx_host: Rc<str>,
    pub(crate) address: SocketAddr,
    /// What it was opened with: the site's policy, or none where that has failed.
    pub(crate) tls: Arc<TlsPolicy>,
    pub(crate) phase: Phase,
    /// Transactions reported.
    pub(crate) transactions: u32,
    /// Whether the host has answered one of them.
    pub(crate) is_proven: bool,
    /// Whether it is to take no further job.
    pub(crate) is_spent: bool,
}

/// Why a connection could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// No answer in time.
    TimedOut,
    /// Nobody listens.
    Refused,
    /// No way to the network or host.
    Unreachable,
    /// Another failure of the network or the remote.
    Failed,
    /// We lack something: descriptors, ports, memory. Says nothing about the remote.
    LocalResource,
}

/// The last failure of a site, kept for work that shares it.
#[derive(Debug, Clone)]
pub(crate) struct OpenFailure {
    pub(crate) reason: Rc<Reason>,
    /// Whether the remote refused the session with 5xx.
    pub(crate) refused: bool,
    /// Whether it says nothing about the remote.
    pub(crate) local: bool,
}
