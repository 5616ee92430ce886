//! What rules on replies do to connections, hosts and sites.

use std::rc::Rc;
use std::sync::Arc;

use ringpost_session::client::{RecipientReport, TransactionReport, Verdict as Said};

use super::Engine;
use super::parking::{Place, Timer};
use crate::attempt::Attempt;
use crate::outcome::{self, Verdict};
use crate::pool::{Connection, ConnectionId, OpenFailure};
use crate::rules::{BackOff, RuleAction, RuleFate, Seen};
use crate::site::{LastFailure, SiteId, SiteState};
use crate::work::Recipient;

/// What the rules have said of the recipients of a transaction.
#[derive(Debug, Default)]
pub(super) struct Ruling {
    /// By place: whether the recipient goes on over another connection.
    moves_on: Vec<bool>,
    /// The actions, each rule once.
    actions: Vec<(RuleAction, LastFailure)>,
}

impl Ruling {
    /// Whether the rule about a recipient has ended the session.
    pub(super) fn moves_on(&self, place: usize) -> bool {
        self.moves_on.get(place).copied().unwrap_or(false)
    }
}

impl Engine {
    /// Shows what was not delivered in a transaction to the rules.
    pub(super) fn rule_on(
        &mut self,
        attempt: &Attempt,
        recipients: &[Recipient],
        report: &TransactionReport,
        any_delivered: bool,
        verdicts: &mut [Verdict],
    ) -> Ruling {
        let mut ruling = Ruling::default();
        let rules = Arc::clone(&self.config.rules);
        if rules.is_empty() {
            return ruling;
        }
        let mx_host = attempt.mx_host.as_deref().unwrap_or_default();
        let mut names: Vec<Arc<str>> = Vec::new();
        for (place, (recipient, verdict)) in recipients.iter().zip(verdicts).enumerate() {
            // What we did not offer nobody has refused.
            if !report.recipients.get(place).is_some_and(is_their_word) {
                continue;
            }
            // These go in a further transaction at once.
            if any_delivered && verdict.is_recipient_limit() {
                continue;
            }
            let destination = self.destinations.get(recipient.destination());
            let seen = Seen { mx_host, domain: destination.map(|one| &*one.name) };
            let Some(rule) = outcome::apply_rules(&rules, &seen, verdict) else { continue };
            if rule.action.fate == Some(RuleFate::EndSession) {
                ruling.moves_on.resize(recipients.len(), false);
                if let Some(moves_on) = ruling.moves_on.get_mut(place) {
                    *moves_on = true;
                }
            }
            if !names.contains(&rule.name) {
                names.push(Arc::clone(&rule.name));
                let failure = LastFailure { attempt: attempt.clone(), verdict: verdict.clone() };
                ruling.actions.push((rule.action.clone(), failure));
            }
        }
        ruling
    }

    /// Does to the connection, the host and the site what the rules have said.
    pub(super) fn carry_out(&mut self, ruling: &Ruling, id: ConnectionId) {
        for (action, failure) in &ruling.actions {
            self.stats.rules.note(action);
            let Some(connection) = self.connections.get_mut(&id) else { return };
            let (site, ip) = (connection.site, connection.address.ip());
            if action.fate == Some(RuleFate::EndSession) || action.skip_host.is_some() {
                connection.is_spent = true;
            }
            if let Some(time) = action.skip_host
                && let Some(site) = self.sites.get_mut(site.0)
            {
                let until = self.now.monotonic + time;
                for address in site.addresses_of(ip) {
                    address.skip_until = address.skip_until.max(Some(until));
                }
            }
            if let Some(back_off) = action.back_off {
                self.spare(site, back_off, failure);
            }
        }
    }

    /// Shows why a session did not come to be ready to the rules, and does what they say.
    pub(super) fn rule_on_opening(
        &mut self,
        connection: &Connection,
        failure: OpenFailure,
    ) -> (OpenFailure, RuleAction) {
        let rules = Arc::clone(&self.config.rules);
        if rules.is_empty() || failure.local {
            return (failure, RuleAction::default());
        }
        let seen = Seen { mx_host: &connection.mx_host, domain: None };
        let Some(rule) = rules.find(&seen, &failure.reason) else {
            return (failure, RuleAction::default());
        };
        self.stats.rules.note(&rule.action);
        let refused = match rule.action.fate {
            Some(RuleFate::Bounce) => true,
            Some(RuleFate::Defer) => false,
            Some(RuleFate::EndSession) | None => failure.refused,
        };
        let reason = outcome::with_rule(&failure.reason, &rule.name);
        (OpenFailure { reason, refused, ..failure }, rule.action.clone())
    }

    /// Spares a site for a while.
    pub(super) fn spare(&mut self, id: SiteId, back_off: BackOff, failure: &LastFailure) {
        let until = self.now.monotonic + back_off.time;
        let Some(site) = self.sites.get_mut(id.0) else { return };
        site.end_slow_mode(self.now.monotonic);
        if !site.slow_down(back_off, until) {
            return;
        }
        self.timers.insert((until, Timer::Open(id)));
        if back_off.connections_max > 0 {
            return;
        }
        // Nothing goes there: its mail waits as for a site that is down, and is watched over.
        if site.state == SiteState::Ready {
            site.state = SiteState::Throttled { until };
        }
        if site.last_failure.is_none() {
            site.last_failure = Some(failure.clone());
            self.actions.push_back(super::Action::SiteChanged(super::SiteChange {
                site: Rc::clone(&site.key.name),
                reason: Some(Rc::clone(&failure.verdict.reason)),
                recipients: site.ready.recipients(),
            }));
        }
        self.watch(Place::Site(id));
    }
}

/// Whether a remote has brought it about.
fn is_their_word(of_one: &RecipientReport) -> bool {
    use ringpost_session::client::SessionFailure::Aborted;

    !matches!(&of_one.verdict, Said::Refused(_) | Said::Failed(Aborted { .. }))
}
