//! Opening connections, as many as work asks for and the site bears.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ringpost_session::client::SessionFailure;

use super::parking::{Place, Timer};
use super::{Action, Engine, SiteChange};
use crate::attempt::{Now, Settlement};
use crate::config::SessionRefusal;
use crate::outcome::{self, Meaning, Verdict};
use crate::pool::{ConnectFailure, Connection, ConnectionId, OpenFailure, Phase, Walk};
use crate::site::{Addresses, Candidate, LastFailure, SiteId, SiteState, backoff};
use crate::tls::TlsPolicy;

/// What came of the wish for one more connection.
enum Opening {
    Begun,
    /// A slot is asked for, and the site will be roused by that or by its addresses.
    LacksSlot,
    /// It has to wait for something else, or cannot be.
    Waits,
}

impl Engine {
    /// Takes that a connection could not be made; it is over.
    pub fn handle_connect_failed(&mut self, now: Now, id: ConnectionId, failure: ConnectFailure) {
        self.now = now;
        let Some(connection) = self.remove_connection(id) else { return };
        self.stats.connect_failures += 1;
        let site = connection.site;
        self.opening_failed(connection, outcome::connect_failure(failure));
        self.dispatch(site);
    }

    /// Takes that greeting and EHLO went well: the connection will ask for its first job.
    pub fn handle_ready(&mut self, now: Now, id: ConnectionId) {
        self.now = now;
        let Some(connection) = self.connections.get(&id) else { return };
        if !matches!(connection.phase, Phase::Opening(_)) {
            return;
        }
        let site_id = connection.site;
        self.set_phase(id, Phase::Asking);
        self.stats.sessions_ready += 1;
        self.dispatch(site_id);
    }

    /// Notes that a host has answered a transaction: only now is it known to serve us. A greeting
    /// is cheap, and a host that lets everybody in and out again would be called upon for ever.
    pub(super) fn prove(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if std::mem::replace(&mut connection.is_proven, true) {
            return;
        }
        let ip = connection.address.ip();
        if let Some(site) = self.sites.get_mut(connection.site.0) {
            for address in site.addresses_of(ip) {
                address.failures = 0;
                address.skip_until = None;
                address.proven += 1;
            }
            site.failures = 0;
            site.state = SiteState::Ready;
            if site.last_failure.take().is_some() {
                self.actions.push_back(Action::SiteChanged(SiteChange {
                    site: Rc::clone(&site.key.name),
                    reason: None,
                    recipients: site.ready.recipients(),
                }));
            }
        }
    }

    /// Takes that a connection is gone. A job in its hands is settled, or goes back to be tried
    /// over another one; then there is no settlement.
    ///
    /// `failure` is why, or `None` when we closed it: after [`Next::Close`](super::Next), or
    /// because we stop. A job then goes back untried, unless that has happened to it twice: then
    /// it is deferred, so that a message that brings its connection down does not do so for ever.
    pub fn handle_closed(
        &mut self,
        now: Now,
        id: ConnectionId,
        failure: Option<&SessionFailure>,
    ) -> Option<Settlement> {
        self.now = now;
        let connection = self.remove_connection(id)?;
        let site = connection.site;
        let settlement = match (connection.phase, failure) {
            (Phase::Opening(walk), Some(failure))
                if failure.is_on_the_way_to_tls() && connection.tls.may_fall_back() =>
            {
                self.fall_back(connection.site, connection.mx_host, connection.address, walk);
                None
            }
            (Phase::Opening(walk), failure) => {
                self.stats.connect_failures += 1;
                let failure = failure.map_or_else(outcome::local_failure, outcome::opening_failure);
                let phase = Phase::Opening(walk);
                self.opening_failed(Connection { phase, ..connection }, failure);
                None
            }
            // Let in, and shut out before the first transaction: no better than a refusal.
            (Phase::Asking, Some(failure)) if connection.transactions == 0 => {
                let failure = outcome::opening_failure(failure);
                let tried = vec![connection.address.ip()];
                let walk = Walk { tried, all_refused: false, ..Walk::new() };
                let phase = Phase::Opening(walk);
                self.opening_failed(Connection { phase, ..connection }, failure);
                None
            }
            (Phase::Busy { work, started }, failure) => {
                let phase = Phase::Closing;
                let connection = Connection { phase, ..connection };
                self.settle_broken(&connection, work, started, failure)
            }
            _ => None,
        };
        self.dispatch(site);
        settlement
    }

    /// Gives waiting work to idle connections, and opens further ones.
    pub(super) fn dispatch(&mut self, id: SiteId) {
        // Each round wakes or opens one connection, of which there is a limited number.
        while let Some(site) = self.sites.get_mut(id.0) {
            if site.ready.len() <= site.counts.expecting() {
                break;
            }
            if let Some(connection) = site.idle.pop() {
                self.wake(connection);
                continue;
            }
            match self.open(id) {
                Opening::Begun => {}
                // It goes on when there is a slot.
                Opening::LacksSlot => return,
                Opening::Waits => break,
            }
        }
        if let Some(lease) = self.sites.get(id.0).and_then(|site| site.lease) {
            self.leases.has_enough(lease, id);
        }
    }

    pub(super) fn wake(&mut self, id: ConnectionId) {
        if let Some(Connection { phase: Phase::Idle { until }, .. }) = self.connections.get(&id) {
            let until = *until;
            self.set_phase(id, Phase::Woken { until });
            self.actions.push_back(Action::Wake(id));
        }
    }

    /// Opens a connection to a site, if that can be now.
    fn open(&mut self, id: SiteId) -> Opening {
        let now = self.now.monotonic;
        if self.is_halted {
            return Opening::Waits;
        }
        let Some(site) = self.sites.get_mut(id.0) else { return Opening::Waits };
        if let SiteState::Throttled { until } = site.state {
            if until > now {
                self.timers.insert((until, Timer::Open(id)));
                return Opening::Waits;
            }
            site.state = SiteState::Probing;
        }
        site.end_slow_mode(now);
        let room = site.room(&self.config);
        if room == 0 {
            return Opening::Waits;
        }
        let lacks = room.min(site.ready.len().saturating_sub(site.counts.expecting())) as u64;
        let Some(lease) = site.lease else { return Opening::Waits };
        if site.needs_addresses(now) {
            self.resolve_addresses(id);
        }
        let Some(site) = self.sites.get_mut(id.0) else { return Opening::Waits };
        if site.addresses == Addresses::Resolving && !site.may_choose() {
            // Asked for at once: a slot is on its way while the addresses are looked up.
            self.leases.has_slot(now, lease, id, lacks);
            return Opening::LacksSlot;
        }
        let mut walk = Walk::new();
        let first = site.next_candidate(now, &self.config, &mut self.random, &mut walk);
        let in_use = site.counts.established() + site.counts.opening > 0;
        match first {
            // Asked for last: what cannot be used now would be given back, and the answer to that would rouse the site.
            Some(_) if !self.leases.has_slot(now, lease, id, lacks) => Opening::LacksSlot,
            Some(first) => {
                self.start_opening(id, first, walk);
                Opening::Begun
            }
            None if in_use => Opening::Waits,
            None => {
                // Nothing is up, and what there is failed a moment ago: wait for the first.
                match site.skipped_until() {
                    Some(until) if until > now => {
                        site.state = SiteState::Throttled { until };
                        self.timers.insert((until, Timer::Open(id)));
                        self.watch(Place::Site(id));
                    }
                    _ => self.fail_without_address(id),
                }
                Opening::Waits
            }
        }
    }

    /// Opens a connection to a host once more, and in plain text: nothing that was asked for is lost by
    /// that, as it could have been in plain text from the first.
    fn fall_back(&mut self, site: SiteId, mx_host: Rc<str>, address: SocketAddr, walk: Walk) {
        let (time, max) = (self.config.tls_broken_time, self.config.tls_broken_max);
        let Some(one) = self.sites.get(site.0) else { return };
        let with = one.key.tls.profile;
        self.broken_tls.note((address, with), self.now.monotonic, time, max);
        if !one.is_wanted() {
            return;
        }
        self.stats.tls_fallbacks += 1;
        let plain = Arc::clone(&self.plain);
        self.connect(site, Candidate { mx_host, address }, walk, plain);
    }

    fn start_opening(&mut self, site_id: SiteId, to: Candidate, mut walk: Walk) {
        walk.tried.push(to.address.ip());
        let Some(site) = self.sites.get(site_id.0) else { return };
        let mut tls = Arc::clone(&site.key.tls);
        let with = (to.address, tls.profile);
        if tls.may_fall_back() && self.broken_tls.knows(with, self.now.monotonic) {
            self.stats.tls_passed_over += 1;
            tls = Arc::clone(&self.plain);
        }
        self.connect(site_id, to, walk, tls);
    }

    fn connect(&mut self, site_id: SiteId, to: Candidate, walk: Walk, tls: Arc<TlsPolicy>) {
        let Some(site) = self.sites.get_mut(site_id.0) else { return };
        self.next_connection += 1;
        let id = ConnectionId(self.next_connection);
        site.counts.opening += 1;
        if let Some(lease) = site.lease {
            self.leases.take(lease);
        }
        self.stats.connects += 1;
        self.actions.push_back(Action::Connect {
            connection: id,
            address: to.address,
            mx_host: Rc::clone(&to.mx_host),
            site: Rc::clone(&site.key.name),
            source: None,
            tls: Arc::clone(&tls),
            login: site.key.login,
            dialect: site.key.dialect,
        });
        self.connections.insert(
            id,
            Connection {
                site: site_id,
                mx_host: to.mx_host,
                address: to.address,
                tls,
                phase: Phase::Opening(walk),
                transactions: 0,
                is_proven: false,
                is_spent: false,
            },
        );
    }

    /// Goes on to the next address, or decides what the failure of all means.
    fn opening_failed(&mut self, connection: Connection, failure: OpenFailure) {
        let (failure, rule) = self.rule_on_opening(&connection, failure);
        let now = self.now.monotonic;
        let Phase::Opening(mut walk) = connection.phase else { return };
        let id = connection.site;
        let ip = connection.address.ip();
        let config = &self.config;
        let random = &mut self.random;
        let Some(site) = self.sites.get_mut(id.0) else { return };
        if failure.local {
            // We cannot connect to anybody: nothing is learned about the site. Its work waits.
            if site.counts.established() + site.counts.opening == 0 {
                let until = now + backoff(config, 1, random);
                site.state = SiteState::Throttled { until };
                self.timers.insert((until, Timer::Open(id)));
                self.watch(Place::Site(id));
            }
            return;
        }
        walk.all_refused &= failure.refused;
        let skip_host = rule.skip_host.unwrap_or_default();
        let mut is_served = false;
        for address in site.addresses_of(ip) {
            is_served |= address.proven > 0;
            if address.proven == 0 {
                address.failures += 1;
                let wait = backoff(config, address.failures, random).max(skip_host);
                address.skip_until = Some(now + wait);
            }
        }
        if is_served {
            // The host serves us over other connections: it wants no more of them.
            site.shrink_window();
            return;
        }
        if !site.is_wanted() {
            return;
        }
        if let Some(next) = site.next_candidate(now, config, random, &mut walk) {
            self.start_opening(id, next, walk);
            return;
        }
        if site.counts.established() > 0 {
            site.shrink_window();
            return;
        }
        if site.counts.opening > 0 || site.awaits_hosts() {
            // Others are still trying, or hosts are still to be found.
            return;
        }
        let refused = walk.all_refused && !walk.is_partial;
        let meaning = match config.session_refusal {
            SessionRefusal::Bounce if refused => Meaning::Bounced,
            _ => Meaning::Deferred,
        };
        let name = Rc::clone(&site.key.name);
        let reason = outcome::with_class_of(meaning, &failure.reason);
        let attempt = self.attempt_over(&connection.mx_host, connection.address, name, now);
        let retry_after = rule.retry_after.filter(|_| meaning == Meaning::Deferred);
        let verdict = Verdict { meaning, reason, retry_after };
        let failure = LastFailure { attempt, verdict };
        self.site_failed(id, failure.clone());
        if let Some(back_off) = rule.back_off {
            self.spare(id, back_off, &failure);
        }
    }

    /// Changes the phase of a connection and the counts of its site.
    pub(super) fn set_phase(&mut self, id: ConnectionId, phase: Phase) -> Option<Phase> {
        let connection = self.connections.get_mut(&id)?;
        if let Some(site) = self.sites.get_mut(connection.site.0) {
            *connection.phase.count(&mut site.counts) -= 1;
            *phase.count(&mut site.counts) += 1;
        }
        Some(std::mem::replace(&mut connection.phase, phase))
    }

    /// Takes a connection out, and gives its slot back: here and nowhere else.
    fn remove_connection(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        if let Some(site) = self.sites.get_mut(connection.site.0) {
            *connection.phase.count(&mut site.counts) -= 1;
            if let Some(lease) = site.lease {
                self.leases.release(lease);
            }
            if let Phase::Idle { .. } = connection.phase {
                site.idle.retain(|idle| *idle != id);
            }
            if connection.is_proven {
                for address in site.addresses_of(connection.address.ip()) {
                    address.proven = address.proven.saturating_sub(1);
                }
            }
        }
        Some(connection)
    }

    pub(super) fn attempt_over(
        &self,
        mx_host: &Rc<str>,
        address: SocketAddr,
        site: Rc<str>,
        started: Instant,
    ) -> crate::attempt::Attempt {
        crate::attempt::Attempt {
            site,
            mx_host: Some(Rc::clone(mx_host)),
            address: Some(address),
            started,
            finished: self.now.monotonic,
            reports: false,
            sees_to_time: false,
            tls: None,
        }
    }
}
