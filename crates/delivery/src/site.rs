//! A site: a set of hosts that share one queue, one pool of connections and one fate.
//!
//! A site is known by its MX set, so that thousands of domains at one provider are one site.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_session::client::Dialect;

use crate::attempt::Attempt;
use crate::config::DeliveryConfig;
use crate::dns::DnsFailure;
use crate::limit::leases::LeaseId;
use crate::login::LoginProfile;
use crate::mx::RankedHost;
use crate::outcome::Verdict;
use crate::pool::{ConnectionId, Walk};
use crate::random::Random;
use crate::rules::BackOff;
use crate::tls::TlsPolicy;
use crate::waiting::Waiting;

/// Index of a site in the engine's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SiteId(pub(crate) u32);

/// How the hosts of a site were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SiteKind {
    /// By DNS, or given as an address by the recipient.
    Mx,
    /// By configuration.
    Smarthost,
}

/// What makes two sites the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SiteKey {
    pub(crate) name: Rc<str>,
    pub(crate) port: u16,
    pub(crate) kind: SiteKind,
    pub(crate) tls: Arc<TlsPolicy>,
    pub(crate) login: Option<LoginProfile>,
    pub(crate) dialect: Dialect,
}

/// Whether connections to a site are opened.
///
/// ```text
///            every host failed                  its time came, work is there
/// Ready ───────────────────────▶ Throttled ─────────────────────────────▶ Probing
///   ▲                                ▲        every host failed               │
///   │                                └────────────────────────────────────────┤
///   └─────────────────────────────────────────────────────────────────────────┘
///                       a transaction was answered
/// ```
///
/// An answered transaction leads from every state to `Ready`; a greeting alone does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiteState {
    /// Connections are opened as work asks for them.
    Ready,
    /// Every host failed: work is parked, nothing is opened.
    Throttled {
        /// When one connection may try again.
        until: Instant,
    },
    /// One connection is trying.
    Probing,
}

/// What is known about a site's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Nothing yet, or too long ago.
    Unknown,
    /// Lookups are under way.
    Resolving,
    /// All that can be; `None` means for ever.
    Known { until: Option<Instant> },
}

/// One IP address of a host.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) ip: IpAddr,
    pub(crate) failures: u32,
    pub(crate) skip_until: Option<Instant>,
    /// Whether DNS, or the configuration, still names it.
    pub(crate) is_listed: bool,
    /// Sessions to it in which it has answered a transaction.
    pub(crate) proven: usize,
}

/// What the lookups of one host's addresses said.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lookups {
    /// Whether the answer about IPv4 addresses is still to come.
    pub(crate) awaits_a: bool,
    /// Whether the answer about IPv6 addresses is still to come.
    pub(crate) awaits_aaaa: bool,
    /// A failure, which makes the absence of addresses temporary.
    pub(crate) failure: Option<DnsFailure>,
    /// Addresses were left out by policy.
    pub(crate) refused: bool,
}

impl Lookups {
    /// Tells whether any answer is still to come.
    pub(crate) fn is_outstanding(self) -> bool {
        self.awaits_a || self.awaits_aaaa
    }
}

/// One host of a site.
#[derive(Debug)]
pub(crate) struct SiteHost {
    pub(crate) rank: u8,
    pub(crate) name: Rc<str>,
    pub(crate) addresses: Vec<Address>,
    /// Addresses found by the lookups under way; they replace `addresses` when all are in.
    pub(crate) found: Vec<IpAddr>,
    pub(crate) lookups: Lookups,
}

/// Most addresses kept of one host.
const ADDRESSES_MAX: usize = 20;

impl SiteHost {
    fn new(host: RankedHost) -> Self {
        Self {
            rank: host.rank,
            name: host.name,
            addresses: Vec::new(),
            found: Vec::new(),
            lookups: Lookups::default(),
        }
    }

    /// Puts the addresses found in place; what is known about an address stays with it.
    pub(crate) fn replace_addresses(&mut self) {
        let found = std::mem::take(&mut self.found);
        if found.is_empty() && self.lookups.failure.is_some() {
            // The name server is in trouble: what it said before is the best guess.
            return;
        }
        // Connections outlive DNS answers: those to addresses that went away are still counted.
        self.addresses.retain_mut(|address| {
            address.is_listed = false;
            address.proven > 0 || found.contains(&address.ip)
        });
        for ip in found.into_iter().take(ADDRESSES_MAX) {
            match self.addresses.iter_mut().find(|address| address.ip == ip) {
                Some(known) => known.is_listed = true,
                None => self.addresses.push(Address::new(ip)),
            }
        }
    }

    fn listed(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().filter(|address| address.is_listed)
    }
}

impl Address {
    pub(crate) fn new(ip: IpAddr) -> Self {
        Self { ip, failures: 0, skip_until: None, is_listed: true, proven: 0 }
    }

    fn is_skipped(&self, now: Instant) -> bool {
        self.skip_until.is_some_and(|until| until > now)
    }
}

/// A place to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) mx_host: Rc<str>,
    pub(crate) address: SocketAddr,
}

/// How many connections are in which phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connecting, or waiting for greeting and EHLO reply.
    pub opening: usize,
    /// Ready, and about to ask for a job.
    pub asking: usize,
    /// Ready, without work.
    pub idle: usize,
    /// Idle ones that were woken and will ask.
    pub woken: usize,
    /// In a transaction.
    pub busy: usize,
    /// On their way out.
    pub closing: usize,
}

impl Counts {
    /// Connections with a ready session.
    pub fn established(&self) -> usize {
        self.asking + self.idle + self.woken + self.busy
    }

    /// All slots in use.
    pub fn total(&self) -> usize {
        self.opening + self.established() + self.closing
    }

    /// Connections that will each take one job without further ado.
    pub(crate) fn expecting(&self) -> usize {
        self.opening + self.asking + self.woken
    }
}

/// Why nothing could be sent to a place.
#[derive(Debug, Clone)]
pub(crate) struct LastFailure {
    pub(crate) attempt: Attempt,
    pub(crate) verdict: Verdict,
}

#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) key: SiteKey,
    /// From where the slots of its connections come; sites of one name share them.
    pub(crate) lease: Option<LeaseId>,
    pub(crate) hosts: Vec<SiteHost>,
    pub(crate) addresses: Addresses,
    /// Earliest expiry of the answers collected so far.
    pub(crate) addresses_expire: Option<Instant>,
    pub(crate) state: SiteState,
    /// Times in a row that every host failed.
    pub(crate) failures: u32,
    /// Why the last attempt to reach it failed, while it is down.
    pub(crate) last_failure: Option<LastFailure>,
    /// Work that may start, or is parked here while no connection is to be had.
    pub(crate) ready: Waiting,
    /// Idle connections; the one used last is woken first, so that surplus ones go.
    pub(crate) idle: Vec<ConnectionId>,
    pub(crate) counts: Counts,
    /// Connections that the site has been seen to bear.
    window: usize,
    /// How it is spared at the moment, until when, and for how many more messages.
    slow: Option<(BackOff, Instant)>,
    /// Messages taken since the window last changed.
    successes: usize,
    /// Refusals since the site last bore more connections than before; growth slows with them.
    refusals: u32,
    /// Destinations that lead here.
    pub(crate) destinations: usize,
}

/// Connections opened at once to a site with no ready session.
const OPENING_FIRST_MAX: usize = 2;

/// Growth of a window slows down to 2^this windowfuls of messages.
const REFUSALS_COUNTED_MAX: u32 = 8;

impl Site {
    pub(crate) fn new(key: SiteKey, hosts: Vec<RankedHost>) -> Self {
        Self {
            key,
            lease: None,
            hosts: hosts.into_iter().map(SiteHost::new).collect(),
            addresses: Addresses::Unknown,
            addresses_expire: None,
            state: SiteState::Ready,
            failures: 0,
            last_failure: None,
            ready: Waiting::default(),
            idle: Vec::new(),
            counts: Counts::default(),
            window: usize::MAX,
            slow: None,
            successes: 0,
            refusals: 0,
            destinations: 0,
        }
    }

    /// Makes a site of one fixed address.
    pub(crate) fn with_address(key: SiteKey, ip: IpAddr) -> Self {
        let name = Rc::from(ip.to_string());
        let mut site = Self::new(key, vec![RankedHost { rank: 0, name }]);
        site.hosts[0].addresses.push(Address::new(ip));
        site.addresses = Addresses::Known { until: None };
        site
    }

    /// Tells whether work waits here because the site is down.
    pub(crate) fn is_parking(&self) -> bool {
        self.state != SiteState::Ready
    }

    /// Tells whether mail goes here, or may. To a site that the configuration or the DNS has left nothing
    /// does, whatever its connections are still about.
    pub(crate) fn is_wanted(&self) -> bool {
        self.destinations > 0 || !self.ready.is_empty()
    }

    /// Tells whether the addresses must be looked up before a connection is opened.
    pub(crate) fn needs_addresses(&self, now: Instant) -> bool {
        match self.addresses {
            Addresses::Unknown => true,
            Addresses::Resolving => false,
            Addresses::Known { until } => until.is_some_and(|until| until <= now),
        }
    }

    /// Tells whether enough answers are in to choose a host: those of the best rank that has an
    /// address and of all before it, or all. A slow name server of a lesser host delays nobody.
    pub(crate) fn may_choose(&self) -> bool {
        let mut found_rank = None;
        for host in &self.hosts {
            if found_rank.is_some_and(|rank| rank < host.rank) {
                return true;
            }
            if host.lookups.is_outstanding() {
                return false;
            }
            if host.listed().next().is_some() {
                found_rank = Some(host.rank);
            }
        }
        true
    }

    /// Tells whether a host may yet turn up that has no address so far.
    pub(crate) fn awaits_hosts(&self) -> bool {
        let unknown =
            |host: &SiteHost| host.lookups.is_outstanding() && host.listed().next().is_none();
        self.hosts.iter().any(unknown)
    }

    /// Returns the room for further connections now.
    pub(crate) fn room(&self, config: &DeliveryConfig) -> usize {
        let limit = self.window(config);
        let free = limit.saturating_sub(self.counts.total());
        // Growth by doubling: as many may be opening as have been let in. A site that does not
        // answer holds few slots, and one that does gets all it can use in a few round trips.
        let opening_max = match self.state {
            SiteState::Ready => self.counts.established().max(OPENING_FIRST_MAX),
            SiteState::Throttled { .. } => 0,
            // One at a time, until one has proved itself.
            SiteState::Probing => 1_usize.saturating_sub(self.counts.established()),
        };
        free.min(opening_max.saturating_sub(self.counts.opening))
    }

    /// Chooses where to connect next, in the order of RFC 5321 §5.1: by rank, equal hosts in
    /// random order. Addresses that failed a short while ago are left out, but not when probing.
    ///
    /// Notes in `walk` whether an address was left out that it has not tried.
    pub(crate) fn next_candidate(
        &self,
        now: Instant,
        config: &DeliveryConfig,
        random: &mut Random,
        walk: &mut Walk,
    ) -> Option<Candidate> {
        walk.is_partial = self.awaits_hosts();
        for rank in self.hosts.chunk_by(|one, next| one.rank == next.rank) {
            let mut open: Vec<(&SiteHost, &Address)> = Vec::new();
            for host in rank {
                for address in host.listed().filter(|known| !walk.tried.contains(&known.ip)) {
                    if self.state != SiteState::Probing && address.is_skipped(now) {
                        walk.is_partial = true;
                    } else {
                        open.push((host, address));
                    }
                }
            }
            // A host is drawn first, so that one with many addresses gets no more than its share.
            open.dedup_by(|next, one| {
                std::ptr::eq(next.0, one.0) && {
                    if random.below(2) == 0 {
                        *one = *next;
                    }
                    true
                }
            });
            let Some((host, address)) = open.get(random.below(open.len())) else { continue };
            if walk.tried.len() >= config.addresses_tried_max.max(1) {
                walk.is_partial = true;
                return None;
            }
            return Some(Candidate {
                mx_host: Rc::clone(&host.name),
                address: SocketAddr::new(address.ip, self.key.port),
            });
        }
        None
    }

    /// Returns when the first of the addresses left out may be tried again.
    pub(crate) fn skipped_until(&self) -> Option<Instant> {
        self.hosts.iter().flat_map(SiteHost::listed).filter_map(|a| a.skip_until).min()
    }

    /// Returns the addresses `ip` of all hosts; a shared address is one machine.
    pub(crate) fn addresses_of(&mut self, ip: IpAddr) -> impl Iterator<Item = &mut Address> {
        self.hosts
            .iter_mut()
            .flat_map(|host| &mut host.addresses)
            .filter(move |address| address.ip == ip)
    }

    /// Notes a message taken. A window that was shrunk grows by one for each windowful of them,
    /// or for more when growing has failed before.
    pub(crate) fn note_success(&mut self, config: &DeliveryConfig) {
        if let Some((back_off, until)) = &mut self.slow {
            if let Some(left) = &mut back_off.deliveries {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    let now = *until;
                    self.end_slow_mode(now);
                }
            }
            return;
        }
        if self.window >= config.connections_per_site_max.max(1) {
            self.window = usize::MAX;
            return;
        }
        self.successes += 1;
        if self.successes >= self.window << self.refusals.min(REFUSALS_COUNTED_MAX) {
            self.successes = 0;
            self.window += 1;
        }
    }

    /// Notes that a further connection was refused while others are served: what is there is
    /// what the site bears.
    pub(crate) fn shrink_window(&mut self) {
        let borne = self.counts.established().max(1);
        self.refusals = if borne > self.window { 0 } else { self.refusals.saturating_add(1) };
        self.window = borne;
        self.successes = 0;
    }

    /// Tells whether the site may be forgotten.
    pub(crate) fn is_unused(&self, now: Instant) -> bool {
        let must_be_remembered = match self.state {
            SiteState::Throttled { until } => until > now,
            SiteState::Ready | SiteState::Probing => false,
        };
        self.destinations == 0
            && self.counts.total() == 0
            && self.ready.is_empty()
            && self.addresses != Addresses::Resolving
            && !must_be_remembered
    }

    /// Returns the current limit on connections.
    pub(crate) fn window(&self, config: &DeliveryConfig) -> usize {
        let window = self.window.min(config.connections_per_site_max.max(1));
        self.slow.map_or(window, |(back_off, _)| window.min(back_off.connections_max))
    }

    /// Spares the site until a time; tells whether it was not spared as much already. What is said again
    /// meanwhile makes it no longer: a host that says it with each transaction is asked again at the end.
    pub(crate) fn slow_down(&mut self, back_off: BackOff, until: Instant) -> bool {
        let spares_more =
            |(now, _): (BackOff, Instant)| back_off.connections_max < now.connections_max;
        let is_new = self.slow.is_none_or(spares_more);
        if is_new {
            self.slow = Some((back_off, until));
        }
        is_new
    }

    /// Ends that when its time is over. What was borne meanwhile is where growth begins again.
    pub(crate) fn end_slow_mode(&mut self, now: Instant) {
        if let Some((back_off, until)) = self.slow
            && until <= now
        {
            self.slow = None;
            self.window = self.window.min(back_off.connections_max.max(1));
            self.successes = 0;
            self.refusals = 0;
        }
    }

    /// Tells whether there are more connections than there may be while the site is spared, so that one that
    /// asks for work is to be closed.
    pub(crate) fn must_shed(&self) -> bool {
        self.slow.is_some_and(|(back_off, _)| self.counts.established() > back_off.connections_max)
    }
}

/// Returns the wait after `failures` failures in a row: doubling, spread by a tenth.
pub(crate) fn backoff(config: &DeliveryConfig, failures: u32, random: &mut Random) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let wait = config.backoff_min.saturating_mul(1 << doublings).min(config.backoff_max);
    let spread = u64::try_from(wait.as_millis() / 10).unwrap_or(u64::MAX);
    wait + Duration::from_millis(random.next_u64() % (spread + 1))
}
