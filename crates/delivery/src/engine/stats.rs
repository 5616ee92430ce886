//! What the engine counts, and what it can tell about its sites.

use std::rc::Rc;

use super::Engine;
use crate::attempt::Reason;
use crate::dns::DnsStats;
use crate::limit::leases::LeaseStats;
use crate::rules::RuleStats;
use crate::site::{Counts, Site, SiteState};
use crate::tls::TlsLevel;

/// Counters since the engine was made, and current values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineStats {
    /// Connections asked for.
    pub connects: u64,
    /// Connections that came to no ready session.
    pub connect_failures: u64,
    /// Sessions that became ready.
    pub sessions_ready: u64,
    /// Times that all hosts of a site failed.
    pub sites_failed: u64,
    /// Jobs handed out.
    pub jobs: u64,
    /// Jobs that went back untried because their connection was gone.
    pub jobs_returned: u64,
    /// Recipients delivered.
    pub delivered: u64,
    /// Recipients deferred.
    pub deferred: u64,
    /// Recipients bounced.
    pub bounced: u64,
    /// Recipients expired.
    pub expired: u64,
    /// Recipients deferred though the remote may have taken the message.
    pub outcome_unknown: u64,
    /// What rules on replies have come to.
    pub rules: RuleStats,
    /// Connections that were made again in plain text because opportunistic TLS had failed.
    pub tls_fallbacks: u64,
    /// Connections made in plain text because opportunistic TLS had failed at the address before.
    pub tls_passed_over: u64,
    /// Addresses at which it has failed that were not noted, because there were too many.
    pub tls_broken_overflows: u64,
    /// Addresses of which it is known, now.
    pub tls_broken: usize,
    /// Connections by phase, now.
    pub connections: Counts,
    /// Transactions that could start, now.
    pub ready: usize,
    /// Recipients that wait for their due time, now.
    pub waiting: usize,
    /// Recipients that wait for a site that is down, or for the DNS after a failure, now.
    pub parked: usize,
    /// Works whose outcome waits for [`Engine::poll_settlement`], now.
    pub unsettled: usize,
    /// Destinations known, now.
    pub destinations: usize,
    /// Sites known, now.
    pub sites: usize,
    /// Sites with work that must wait because every host failed, now.
    pub sites_throttled: usize,
    /// Destinations with work that must wait because the DNS gave no answer, now.
    pub destinations_parked: usize,
    /// The resolver's counters.
    pub dns: DnsStats,
    /// What became of limits.
    pub leases: LeaseStats,
}

/// One site as an operator sees it.
#[derive(Debug, Clone)]
pub struct SiteView {
    /// Its name.
    pub name: Rc<str>,
    /// TCP port.
    pub port: u16,
    /// How much TLS its mail asks for.
    pub tls: TlsLevel,
    /// Whether connections are opened.
    pub state: SiteState,
    /// Transactions that could start, or wait for the site to come up.
    pub ready: usize,
    /// Their recipients.
    pub recipients: usize,
    /// Rounds in a row in which every host failed.
    pub failures: u32,
    /// Why the last one did; `None` while the site is up.
    pub last_failure: Option<Rc<Reason>>,
    /// Connections by phase.
    pub connections: Counts,
    /// Connections that it may have now, if its slots of the limit allow.
    pub connections_max: usize,
    /// Slots of its limit that the shard has.
    pub slots_held: u64,
    /// Slots that connections of the shard have.
    pub slots_used: u64,
    /// Destinations that lead to it.
    pub destinations: usize,
}

impl Engine {
    /// Returns the counters. Costs a walk over sites and destinations.
    pub fn stats(&self) -> EngineStats {
        let mut stats = EngineStats {
            waiting: self.deferred,
            ready: self.astray.len(),
            unsettled: self.unsettled,
            destinations: self.destinations.len(),
            sites: self.sites.len(),
            dns: self.resolver.stats(),
            leases: self.leases.stats(),
            tls_broken: self.broken_tls.len(),
            tls_broken_overflows: self.broken_tls.overflows(),
            ..self.stats
        };
        for (_, site) in self.sites.iter() {
            let counts = &mut stats.connections;
            counts.opening += site.counts.opening;
            counts.asking += site.counts.asking;
            counts.idle += site.counts.idle;
            counts.woken += site.counts.woken;
            counts.busy += site.counts.busy;
            counts.closing += site.counts.closing;
            if !site.is_parking() {
                stats.ready += site.ready.len();
            } else if !site.ready.is_empty() {
                stats.sites_throttled += 1;
                stats.parked += site.ready.recipients();
            }
        }
        for destination in self.destinations.iter() {
            if destination.is_parking() && !destination.waiting.is_empty() {
                stats.destinations_parked += 1;
                stats.parked += destination.waiting.recipients();
            }
        }
        stats
    }

    /// Returns all sites.
    pub fn site_views(&self) -> impl Iterator<Item = SiteView> {
        let slots =
            |site: &Site| site.lease.map_or((0, 0), |lease| self.leases.held_and_used(lease));
        self.sites.iter().map(move |(_, site)| SiteView {
            name: Rc::clone(&site.key.name),
            port: site.key.port,
            tls: site.key.tls.level,
            state: site.state,
            ready: site.ready.len(),
            recipients: site.ready.recipients(),
            failures: site.failures,
            last_failure: site.last_failure.as_ref().map(|one| Rc::clone(&one.verdict.reason)),
            connections: site.counts,
            connections_max: site.window(&self.config),
            slots_held: slots(site).0,
            slots_used: slots(site).1,
            destinations: site.destinations,
        })
    }
}
