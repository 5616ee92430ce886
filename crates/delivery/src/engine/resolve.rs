//! From destinations to sites, and from sites to addresses.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_session::client::Dialect;

use super::Engine;
use super::parking::{Place, Timer};
use super::settle::Fate;
use crate::attempt::Attempt;
use crate::config::Smarthost;
use crate::destination::DestinationState;
use crate::dns::{Answer, LookupResult, Question, RecordKind, special_addresses};
use crate::limit::LimitKey;
use crate::login::LoginProfile;
use crate::mx::{self, RankedHost, Selection};
use crate::outcome::{self, Meaning, Unroutable, Verdict};
use crate::route::NextHop;
use crate::site::{
    Addresses, LastFailure, Lookups, Site, SiteHost, SiteId, SiteKey, SiteKind, SiteState, backoff,
};
use crate::tls::TlsPolicy;
use crate::work::DestinationId;

/// Longest wait before a destination is looked up again after the DNS gave no answer.
const LOOKUP_BACKOFF_MAX: Duration = Duration::from_mins(1);

impl Engine {
    /// Finds the site of a destination; what waits for it goes there, now or with the answer.
    pub(super) fn resolve_destination(&mut self, id: DestinationId) {
        let Some(destination) = self.destinations.get_mut(id) else { return };
        let name = Rc::clone(&destination.name);
        let next_hop = self.routes.next_hop(destination.route, &destination.host);
        let policy = self.routes.policy(destination.route);
        let (tls, login) = (policy.tls(destination.tls_optional), policy.login);
        let dialect = policy.dialect;
        let before = std::mem::replace(&mut destination.state, DestinationState::Resolving);
        if let DestinationState::Site { site, .. } = before {
            self.release_site(site);
        }
        match next_hop {
            NextHop::Smarthost(smarthost) => {
                let site = self.smarthost_site(&smarthost, tls, login, dialect);
                self.lead_to(id, site, None);
            }
            NextHop::Literal(ip) => {
                let config = &self.config;
                if config.address_policy.admits(ip) && config.address_family.admits(ip) {
                    let (port, kind, login) = (config.port, SiteKind::Mx, None);
                    let key = SiteKey { name, port, kind, tls, login, dialect };
                    let site = self.site(key, |key| Site::with_address(key, ip));
                    self.lead_to(id, site, None);
                } else {
                    self.doom_destination(id, outcome::unroutable(Unroutable::AddressRefused));
                }
            }
            NextHop::Mx => {
                let question = Question { name, kind: RecordKind::Mx };
                if let Some((result, expires)) = self.resolver.lookup(self.now.monotonic, &question)
                {
                    self.handle_mx(id, &result, expires);
                }
            }
        }
    }

    /// Takes the answers that the resolver has.
    pub(super) fn drain_answers(&mut self) {
        self.heed_answers();
        while let Some((question, result, expires)) = self.resolver.poll_answer() {
            if question.kind == RecordKind::Mx {
                for id in self.destinations.by_name(&question.name) {
                    self.handle_mx(id, &result, expires);
                }
                continue;
            }
            // Both lookups of a name have the same waiters: they leave with the last answer.
            let waiters = self.address_waiters.get(&question.name).cloned().unwrap_or_default();
            for &site in &waiters {
                self.apply_addresses(site, &question, &result, expires);
            }
            self.forget_waiters(&question.name);
            for site in waiters {
                self.dispatch(site);
            }
        }
    }

    fn handle_mx(&mut self, id: DestinationId, result: &LookupResult, expires: Instant) {
        let Some(destination) = self.destinations.get(id) else { return };
        if !matches!(destination.state, DestinationState::Resolving) {
            return;
        }
        let name = Rc::clone(&destination.name);
        let policy = self.routes.policy(destination.route);
        let (tls, dialect) = (policy.tls(destination.tls_optional), policy.dialect);
        let hosts = match result.as_deref() {
            Ok(Answer::Mx(records)) => match mx::select(records, &self.config.hostname) {
                Selection::Hosts(hosts) => Ok(hosts),
                Selection::NullMx => Err(Unroutable::NullMx),
                Selection::Loop => Err(Unroutable::Loop),
                Selection::NoUsableHost => Err(Unroutable::NoUsableHost),
            },
            // RFC 5321 §5.1: without MX records the domain itself is the host.
            Ok(Answer::NoData | Answer::Addresses(_)) if *name == *self.config.hostname => {
                Err(Unroutable::Loop)
            }
            Ok(Answer::NoData | Answer::Addresses(_)) => Ok(vec![RankedHost { rank: 0, name }]),
            Ok(Answer::NoName) => Err(Unroutable::NoName),
            Err(failure) => {
                self.doom_destination(id, outcome::dns_failure(*failure));
                return self.note_silence(Place::Destination(id), *failure);
            }
        };
        match hosts {
            Ok(hosts) => {
                let key = SiteKey {
                    name: mx::site_name(&hosts),
                    port: self.config.port,
                    kind: SiteKind::Mx,
                    tls,
                    login: None,
                    dialect,
                };
                let site = self.site(key, |key| Site::new(key, hosts));
                self.lead_to(id, site, Some(expires));
            }
            Err(why) => self.doom_destination(id, outcome::unroutable(why)),
        }
    }

    fn smarthost_site(
        &mut self,
        smarthost: &Smarthost,
        tls: Arc<TlsPolicy>,
        login: Option<LoginProfile>,
        dialect: Dialect,
    ) -> SiteId {
        let ip: Option<IpAddr> = smarthost.host.parse().ok();
        let name = match ip {
            Some(IpAddr::V6(_)) => format!("[{}]:{}", smarthost.host, smarthost.port),
            _ => format!("{}:{}", smarthost.host, smarthost.port),
        };
        let (name, port) = (name.into(), smarthost.port);
        let key = SiteKey { name, port, kind: SiteKind::Smarthost, tls, login, dialect };
        self.site(key, |key| match ip {
            Some(ip) => Site::with_address(key, ip),
            None => Site::new(key, vec![RankedHost { rank: 0, name: (*smarthost.host).into() }]),
        })
    }

    fn site(&mut self, key: SiteKey, make: impl FnOnce(SiteKey) -> Site) -> SiteId {
        if let Some(id) = self.site_by_key.get(&key) {
            return *id;
        }
        let id = SiteId(self.sites.insert(make(key.clone())));
        let lease = self.leases.join(LimitKey::site(&key.name), id);
        if let Some(site) = self.sites.get_mut(id.0) {
            site.lease = Some(lease);
        }
        self.site_by_key.insert(key, id);
        id
    }

    /// Makes `site` the one of a destination, and sends what waited there.
    fn lead_to(&mut self, id: DestinationId, site: SiteId, until: Option<Instant>) {
        let Some(destination) = self.destinations.get_mut(id) else { return };
        destination.state = DestinationState::Site { site, until };
        destination.failures = 0;
        destination.last_failure = None;
        if let Some(site) = self.sites.get_mut(site.0) {
            site.destinations += 1;
        }
        self.move_to_site(id, site);
    }

    /// Decides about a destination to which there is no way: for good, and all that waits bounces; or
    /// for now, and it waits on.
    fn doom_destination(&mut self, id: DestinationId, verdict: Verdict) {
        let now = self.now.monotonic;
        let Some(destination) = self.destinations.get_mut(id) else { return };
        let failure =
            LastFailure { attempt: Attempt::unmade(Rc::clone(&destination.name), now), verdict };
        if failure.verdict.meaning == Meaning::Bounced {
            destination.state = DestinationState::Unknown;
            let works = destination.waiting.take();
            return self.doom(failure, Fate::Attempted, works);
        }
        destination.failures += 1;
        let wait = backoff(&self.config, destination.failures, &mut self.random);
        let until = now + wait.min(LOOKUP_BACKOFF_MAX);
        destination.state = DestinationState::Parked { until };
        destination.last_failure = Some(failure.clone());
        self.timers.insert((until, Timer::Resolve(id)));
        let first = destination.waiting.pop_least();
        self.doom_first(failure, first);
        self.watch(Place::Destination(id));
    }

    /// Starts the lookups of a site's hosts. Cached answers are in place on return.
    pub(super) fn resolve_addresses(&mut self, id: SiteId) {
        let family = self.config.address_family;
        let kinds: Vec<RecordKind> = [
            (RecordKind::A, IpAddr::from([0, 0, 0, 0])),
            (RecordKind::Aaaa, IpAddr::from([0_u16; 8])),
        ]
        .into_iter()
        .filter(|(_, example)| family.admits(*example))
        .map(|(kind, _)| kind)
        .collect();
        let Some(site) = self.sites.get_mut(id.0) else { return };
        site.addresses = Addresses::Resolving;
        site.addresses_expire = None;
        let mut names = Vec::new();
        for host in &mut site.hosts {
            host.found.clear();
            host.lookups = Lookups {
                awaits_a: kinds.contains(&RecordKind::A),
                awaits_aaaa: kinds.contains(&RecordKind::Aaaa),
                ..Lookups::default()
            };
            names.push(Rc::clone(&host.name));
        }
        for name in names {
            for &kind in &kinds {
                let question = Question { name: Rc::clone(&name), kind };
                let answered = match special_addresses(&name) {
                    Some(addresses) => {
                        let fits = |ip: &IpAddr| ip.is_ipv4() == (kind == RecordKind::A);
                        let addresses = addresses.into_iter().filter(fits).collect();
                        let expires = self.now.monotonic + self.config.dns.ttl_max;
                        Some((Ok(Rc::new(Answer::Addresses(addresses))), expires))
                    }
                    None => self.resolver.lookup(self.now.monotonic, &question),
                };
                if let Some((result, expires)) = answered {
                    self.apply_addresses(id, &question, &result, expires);
                } else {
                    let waiters = self.address_waiters.entry(Rc::clone(&name)).or_default();
                    if !waiters.contains(&id) {
                        waiters.push(id);
                    }
                }
            }
        }
    }

    fn apply_addresses(
        &mut self,
        id: SiteId,
        question: &Question,
        result: &LookupResult,
        expires: Instant,
    ) {
        let config = &self.config;
        let Some(site) = self.sites.get_mut(id.0) else { return };
        let kind = site.key.kind;
        let named = |host: &&mut SiteHost| host.name == question.name;
        let Some(host) = site.hosts.iter_mut().find(named) else { return };
        let awaits = match question.kind {
            RecordKind::A => &mut host.lookups.awaits_a,
            RecordKind::Aaaa => &mut host.lookups.awaits_aaaa,
            RecordKind::Mx => return,
        };
        if !std::mem::take(awaits) {
            return;
        }
        match result.as_deref() {
            Ok(Answer::Addresses(addresses)) => {
                for &ip in addresses {
                    if kind == SiteKind::Smarthost || config.address_policy.admits(ip) {
                        host.found.push(ip);
                    } else {
                        host.lookups.refused = true;
                    }
                }
            }
            Ok(Answer::NoData | Answer::NoName | Answer::Mx(_)) => {}
            Err(failure) => host.lookups.failure = Some(*failure),
        }
        if !host.lookups.is_outstanding() {
            host.replace_addresses();
        }
        let until = site.addresses_expire.map_or(expires, |before| before.min(expires));
        site.addresses_expire = Some(until);
        if !site.hosts.iter().any(|host| host.lookups.is_outstanding()) {
            site.addresses = Addresses::Known { until: Some(until) };
        }
    }

    fn forget_waiters(&mut self, name: &str) {
        let sites = &self.sites;
        if let Some(waiters) = self.address_waiters.get_mut(name) {
            waiters.retain(|id| {
                sites.get(id.0).is_some_and(|site| {
                    site.hosts
                        .iter()
                        .any(|host| &*host.name == name && host.lookups.is_outstanding())
                })
            });
            if waiters.is_empty() {
                self.address_waiters.remove(name);
            }
        }
    }

    /// Decides about a site's work when none of its hosts has an address.
    pub(super) fn fail_without_address(&mut self, id: SiteId) {
        let Some(site) = self.sites.get_mut(id.0) else { return };
        let cause = site.hosts.iter().find_map(|host| host.lookups.failure);
        let refused = site.hosts.iter().any(|host| host.lookups.refused);
        let verdict = match (cause, site.key.kind) {
            (Some(failure), _) => outcome::dns_failure(failure),
            (None, SiteKind::Smarthost) => outcome::unroutable(Unroutable::SmarthostUnknown),
            (None, SiteKind::Mx) if refused => outcome::unroutable(Unroutable::AddressRefused),
            (None, SiteKind::Mx) => outcome::unroutable(Unroutable::NoAddress),
        };
        let attempt = Attempt::unmade(Rc::clone(&site.key.name), self.now.monotonic);
        let failure = LastFailure { attempt, verdict };
        if failure.verdict.meaning == Meaning::Bounced {
            // The DNS has told, and may tell something else next time: no reason to wait.
            site.state = SiteState::Ready;
            let works = site.ready.take();
            return self.doom(failure, Fate::Attempted, works);
        }
        self.site_failed(id, failure);
        if let Some(cause) = cause {
            self.note_silence(Place::Site(id), cause);
        }
    }
}
