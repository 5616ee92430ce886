//! Jobs for ready connections, and what came of them.

use std::rc::Rc;
use std::time::Instant;

use ringpost_queue::RecipientIndex;
use ringpost_session::client::{SessionFailure, TransactionReport};

use super::{Engine, Job, Next};
use crate::attempt::{Attempt, Now, Settlement};
use crate::outcome::{self, Meaning, Verdict};
use crate::pool::{Connection, ConnectionId, Phase};
use crate::site::SiteId;
use crate::work::{Recipient, Work};

/// Times that work goes back untried before the failure counts as an attempt.
const RETURNS_MAX: u8 = 2;

impl Engine {
    /// Says what a ready connection does next. To be asked after
    /// [`handle_ready`](Self::handle_ready), after each
    /// [`handle_report`](Self::handle_report) with a usable session, when woken, and when an
    /// idle connection's time is over.
    pub fn next_job(&mut self, now: Now, id: ConnectionId) -> Next {
        self.now = now;
        let Some(connection) = self.connections.get(&id) else { return Next::Close };
        let site_id = connection.site;
        let is_spent = connection.is_spent;
        let used_up = is_spent
            || connection.transactions >= self.config.transactions_per_connection_max.max(1);
        let idle_until = match connection.phase {
            Phase::Asking => now.monotonic + self.config.idle_timeout,
            Phase::Idle { until } | Phase::Woken { until } => until,
            Phase::Opening(_) | Phase::Busy { .. } | Phase::Closing => return Next::Close,
        };
        let was_idle = matches!(connection.phase, Phase::Idle { .. });
        let Some(site) = self.sites.get_mut(site_id.0) else { return Next::Close };
        if was_idle {
            site.idle.retain(|idle| *idle != id);
        }
        site.end_slow_mode(now.monotonic);
        let used_up = used_up || site.must_shed();
        let surplus = site.counts.total() > site.window(&self.config);
        let is_recalled = site.lease.is_some_and(|lease| self.leases.excess(lease) > 0)
            && self.is_in_excess(site_id);
        let work = if used_up || is_recalled { None } else { self.next_work(site_id) };
        let Some(connection) = self.connections.get(&id) else { return Next::Close };
        let Some(site) = self.sites.get_mut(site_id.0) else { return Next::Close };
        if let Some(work) = work {
            let job = Job {
                id: work.message,
                recipients: work
                    .recipients
                    .as_slice()
                    .iter()
                    .map(|recipient| recipient.index)
                    .collect(),
                site: Rc::clone(&site.key.name),
                mx_host: Rc::clone(&connection.mx_host),
                address: connection.address,
            };
            self.set_phase(id, Phase::Busy { work, started: now.monotonic });
            self.stats.jobs += 1;
            return Next::Deliver(job);
        }
        let is_missed = site.lease.is_some_and(|lease| self.leases.is_pressed(lease, site_id));
        if used_up || surplus || is_recalled || is_missed || idle_until <= now.monotonic {
            self.set_phase(id, Phase::Closing);
            self.dispatch(site_id);
            return Next::Close;
        }
        site.idle.push(id);
        self.set_phase(id, Phase::Idle { until: idle_until });
        Next::Idle { until: idle_until }
    }

    /// Takes the next work that may still be tried; what is before it and may not is given up.
    fn next_work(&mut self, id: SiteId) -> Option<Work> {
        let now = self.stamp();
        loop {
            let site = self.sites.get_mut(id.0)?;
            let work = site.ready.pop()?;
            if !work.is_over(now) {
                return Some(work);
            }
            let name = Rc::clone(&site.key.name);
            self.doom_over(name, work);
        }
    }

    /// Takes the report of a transaction.
    ///
    /// Returns the outcomes to commit; `None` when none of its recipients is settled: the
    /// connection was found dead, and the work goes to another one.
    pub fn handle_report(
        &mut self,
        now: Now,
        id: ConnectionId,
        report: &TransactionReport,
    ) -> Option<Settlement> {
        self.now = now;
        let (work, started) = self.take_work(id, report.session_usable)?;
        let connection = self.connections.get_mut(&id)?;
        let was_used = connection.transactions > 0;
        connection.transactions += 1;
        let site_id = connection.site;
        if report.is_answered {
            self.prove(id);
        }
        let attempt = self.attempt_of(id, started)?;
        let attempt = Attempt {
            reports: report.dsn_offered,
            sees_to_time: report.deliver_by_offered,
            tls: report.tls,
            ..attempt
        };
        let settlement = self.settle_report(id, site_id, work, attempt, report, was_used);
        self.dispatch(site_id);
        settlement
    }

    /// Takes that the driver could not make the transaction for a reason of our own, such as a
    /// message that cannot be read. The job is deferred; the connection asks again.
    pub fn handle_job_failed(&mut self, now: Now, id: ConnectionId) -> Option<Settlement> {
        self.now = now;
        let (work, started) = self.take_work(id, true)?;
        let attempt = self.attempt_of(id, started)?;
        self.settle_all(&work, attempt, &outcome::job_failure())
    }

    /// Takes that recipients of the job have left the queue, as `stays` tells; returns those that are
    /// left. The engine forgets the others. When none is left the connection asks again.
    pub fn narrow_job(
        &mut self,
        now: Now,
        id: ConnectionId,
        mut stays: impl FnMut(RecipientIndex) -> bool,
    ) -> Vec<RecipientIndex> {
        self.now = now;
        let Some((work, started)) = self.take_work(id, true) else { return Vec::new() };
        let mut kept = Vec::new();
        for recipient in work.recipients.as_slice() {
            if stays(recipient.index) {
                kept.push(*recipient);
            } else {
                self.destinations.remove_recipient(recipient.destination());
            }
        }
        let left: Vec<_> = kept.iter().map(|recipient| recipient.index).collect();
        if !kept.is_empty() {
            let work = work.with(kept);
            self.set_phase(id, Phase::Busy { work, started });
        }
        left
    }

    fn take_work(&mut self, id: ConnectionId, usable: bool) -> Option<(Work, Instant)> {
        if !matches!(self.connections.get(&id)?.phase, Phase::Busy { .. }) {
            return None;
        }
        let phase = if usable { Phase::Asking } else { Phase::Closing };
        match self.set_phase(id, phase) {
            Some(Phase::Busy { work, started }) => Some((work, started)),
            _ => None,
        }
    }

    fn attempt_of(&self, id: ConnectionId, started: Instant) -> Option<Attempt> {
        let connection = self.connections.get(&id)?;
        let site = self.sites.get(connection.site.0)?;
        let name = Rc::clone(&site.key.name);
        Some(self.attempt_over(&connection.mx_host, connection.address, name, started))
    }

    fn settle_report(
        &mut self,
        id: ConnectionId,
        site: SiteId,
        mut work: Work,
        attempt: Attempt,
        report: &TransactionReport,
        session_was_used: bool,
    ) -> Option<Settlement> {
        let recipients = std::mem::take(&mut work.recipients).into_vec();
        let mut verdicts = outcome::transaction(report, recipients.len());
        let any_delivered = verdicts.iter().any(|one| one.meaning == Meaning::Delivered);
        let may_return = work.returns < RETURNS_MAX;
        let ruling = self.rule_on(&attempt, &recipients, report, any_delivered, &mut verdicts);
        let mut put_off: Vec<Recipient> = Vec::new();
        let mut untried: Vec<Recipient> = Vec::new();
        let mut settled: Vec<(Recipient, Verdict)> = Vec::with_capacity(recipients.len());
        for (place, (recipient, verdict)) in recipients.into_iter().zip(verdicts).enumerate() {
            let moves_on = session_was_used && ruling.moves_on(place);
            let goes_back = may_return
                && (moves_on
                    || report.recipients.get(place).is_some_and(|of_one| {
                        outcome::may_go_back(report, of_one, session_was_used)
                    }));
            if goes_back {
                untried.push(recipient);
            } else if report.recipients.get(place).is_some_and(outcome::is_put_off) {
                // Each round names as many as the remote takes, so the rounds end.
                put_off.push(recipient);
            } else if any_delivered && verdict.is_recipient_limit() {
                // RFC 5321 §4.5.3.1.10: recipients beyond the remote's limit go in a further
                // transaction at once. Each round delivers to somebody, so the rounds end.
                put_off.push(recipient);
            } else {
                settled.push((recipient, verdict));
            }
        }
        if !untried.is_empty() {
            self.stats.jobs_returned += 1;
            let untried = work.with(untried);
            self.give_back(site, Work { returns: work.returns + 1, ..untried });
        }
        self.give_back(site, work.with(put_off));
        self.carry_out(&ruling, id);
        if any_delivered && let Some(site) = self.sites.get_mut(site.0) {
            site.note_success(&self.config);
        }
        self.settle(&work, attempt, settled)
    }

    fn settle_all(
        &mut self,
        work: &Work,
        attempt: Attempt,
        verdict: &Verdict,
    ) -> Option<Settlement> {
        let recipients = work.recipients.as_slice().iter();
        let verdicts: Vec<_> = recipients.map(|one| (*one, verdict.clone())).collect();
        self.settle(work, attempt, verdicts)
    }

    /// Decides about the work of a connection that broke before it reported.
    pub(super) fn settle_broken(
        &mut self,
        connection: &Connection,
        work: Work,
        started: Instant,
        failure: Option<&SessionFailure>,
    ) -> Option<Settlement> {
        let untried = match failure {
            None | Some(SessionFailure::Aborted { .. }) => failure.is_none_or(outcome::is_untried),
            Some(failure) => connection.transactions > 0 && outcome::is_untried(failure),
        };
        if untried && work.returns < RETURNS_MAX {
            self.stats.jobs_returned += 1;
            self.give_back(connection.site, Work { returns: work.returns + 1, ..work });
            return None;
        }
        let name = Rc::clone(&self.sites.get(connection.site.0)?.key.name);
        let attempt = self.attempt_over(&connection.mx_host, connection.address, name, started);
        let verdict = failure.map_or_else(outcome::job_failure, outcome::session_failure);
        self.settle_all(&work, attempt, &verdict)
    }
}
