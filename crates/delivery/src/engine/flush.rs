//! Mail that is to be tried now, though it would wait: because somebody knows that its place is there
//! again.
//!
//! It is brought forward and nothing else: it takes its way as mail that has become due does, so limits on
//! connections hold, and a place that is down is probed by one connection. Mail that was never tried waits
//! because its sender wants it to, and goes on waiting.
//!
//! A pass goes over places first and over deferred work then, a little at a time beside the live mail, so
//! that what it brings forward is not met again. What is deferred anew while it is under way may be.

use std::collections::BTreeSet;

use ringpost_protocol::address::{Domain, Host};
use ringpost_queue::due::DueCursor;

use super::Engine;
use super::parking::Place;
use crate::attempt::Now;
use crate::destination::{Destination, DestinationState, Destinations};
use crate::site::{SiteId, SiteState};
use crate::waiting::Cursor;
use crate::work::{DestinationId, Recipient, Work};

/// Whose mail is to be tried now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "what there is to choose from")]
pub enum FlushScope {
    /// All mail.
    All,
    /// That of one domain without its subdomains, or of one address literal.
    Host(Host),
    /// That of a domain and all below it.
    Subdomains(Domain),
}

impl FlushScope {
    /// Whether the mail of a host is meant.
    pub fn has(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::Host(one), host) => one == host,
            (Self::Subdomains(_), Host::Literal(_)) => false,
            (Self::Subdomains(above), Host::Domain(domain)) => domain
                .as_str()
                .strip_suffix(above.as_str())
                .is_some_and(|below| below.is_empty() || below.ends_with('.')),
        }
    }
}

/// A pass that brings mail forward, for [`Engine::flush_some`].
#[derive(Debug)]
pub struct Flush {
    scope: FlushScope,
    at: At,
    /// Sites that were woken, whose work is counted.
    woken: BTreeSet<SiteId>,
    recipients: u64,
}

#[derive(Debug)]
enum At {
    Destination(DestinationId),
    /// How far the work of the first of the woken sites has been counted.
    Site(Cursor),
    Due(DueCursor),
}

/// Recipients and places looked at in one step; up to a block of work more.
const SEEN_PER_STEP: usize = 256;

impl Flush {
    /// Begins a pass.
    pub fn new(scope: FlushScope) -> Self {
        let at = At::Destination(DestinationId(0));
        Self { scope, at, woken: BTreeSet::new(), recipients: 0 }
    }

    /// Recipients that were brought forward so far.
    pub fn recipients(&self) -> u64 {
        self.recipients
    }

    fn is_meant(&self, destinations: &Destinations, recipient: Recipient) -> bool {
        let destination = destinations.get(recipient.destination());
        destination.is_some_and(|destination| self.scope.has(&destination.host))
    }

    /// Takes the recipients out of deferred work that are meant and have been tried.
    fn take(&mut self, destinations: &Destinations, work: &mut Work) -> Option<Work> {
        let is_taken = |one: &Recipient| one.attempts > 0 && self.is_meant(destinations, *one);
        if !work.recipients.as_slice().iter().any(is_taken) {
            return None;
        }
        let all = std::mem::take(&mut work.recipients).into_vec();
        let (taken, left): (Vec<_>, Vec<_>) = all.into_iter().partition(is_taken);
        work.recipients = left.into();
        self.recipients += taken.len() as u64;
        Some(work.with(taken))
    }
}

impl Engine {
    /// Goes on with a pass, a bounded step at a time. Returns whether there is more to do; what was brought
    /// forward is on its way then, or goes with the next [`handle_timeout`](Self::handle_timeout).
    pub fn flush_some(&mut self, now: Now, flush: &mut Flush) -> bool {
        self.now = now;
        let mut seen = 0;
        while seen < SEEN_PER_STEP {
            let Some(more) = self.flush_at(flush) else {
                self.drain_answers();
                return false;
            };
            seen += more.max(1);
        }
        self.drain_answers();
        true
    }

    /// Looks at one place, or one block of work; how many recipients it has seen, `None` at the end.
    fn flush_at(&mut self, flush: &mut Flush) -> Option<usize> {
        match &mut flush.at {
            At::Destination(id) => {
                let id = *id;
                if id.0 >= self.destinations.bound() {
                    flush.at = At::Site(Cursor::default());
                    return Some(0);
                }
                flush.at = At::Destination(DestinationId(id.0 + 1));
                self.flush_destination(id, flush);
                Some(0)
            }
            At::Site(cursor) => {
                let Some(id) = flush.woken.first().copied() else {
                    flush.at = At::Due(DueCursor::default());
                    return Some(0);
                };
                let (mut seen, mut meant) = (None, 0);
                if let Some(site) = self.sites.get_mut(id.0) {
                    let (destinations, scope) = (&self.destinations, &flush.scope);
                    seen = site.ready.retain_some(cursor, |work| {
                        let is_meant = |one: &&Recipient| {
                            destinations
                                .get(one.destination())
                                .is_some_and(|destination| scope.has(&destination.host))
                        };
                        meant += work.recipients.as_slice().iter().filter(is_meant).count();
                    });
                }
                flush.recipients += meant as u64;
                if seen.is_none() {
                    flush.woken.pop_first();
                    flush.at = At::Site(Cursor::default());
                    // Not before it is counted: what is in the hands of connections is not seen.
                    self.wake_place(Place::Site(id));
                }
                Some(seen.unwrap_or_default())
            }
            At::Due(cursor) => {
                let mut cursor = *cursor;
                let (destinations, astray) = (&self.destinations, &mut self.astray);
                let mut taken = 0;
                let mut shown = 0;
                let seen = self.due.retain_some(&mut cursor, |work| {
                    shown += work.recipients.len();
                    if let Some(part) = flush.take(destinations, work) {
                        taken += part.recipients.len();
                        // It finds its way some at a time, as after a change of the configuration.
                        astray.push_back(part, 0);
                    }
                    !work.recipients.is_empty()
                });
                self.deferred = self.deferred.saturating_sub(taken);
                flush.at = At::Due(cursor);
                seen.map(|_| shown)
            }
        }
    }

    /// Has a domain looked up again whose lookup has failed, and notes the site of one that is down.
    fn flush_destination(&mut self, id: DestinationId, flush: &mut Flush) {
        let Some(destination) = self.destinations.get(id) else { return };
        if !flush.scope.has(&destination.host) {
            return;
        }
        let Destination { state, waiting, .. } = destination;
        match *state {
            DestinationState::Parked { .. } => {
                flush.recipients += waiting.recipients() as u64;
                self.wake_place(Place::Destination(id));
            }
            DestinationState::Site { site, .. }
                if self
                    .sites
                    .get(site.0)
                    .is_some_and(|site| matches!(site.state, SiteState::Throttled { .. })) =>
            {
                flush.woken.insert(site);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_whole_labels() {
        let host = |text: &str| Host::parse(text).unwrap();
        let below = FlushScope::Subdomains(Domain::parse("b.test").unwrap());
        let one = FlushScope::Host(host("B.test"));
        let literal = FlushScope::Host(host("[192.0.2.1]"));
        for (text, expected) in [
            ("b.test", [true, true, true, false]),
            ("a.b.test", [true, true, false, false]),
            ("ab.test", [true, false, false, false]),
            ("test", [true, false, false, false]),
            ("[192.0.2.1]", [true, false, false, true]),
        ] {
            let has =
                [&FlushScope::All, &below, &one, &literal].map(|scope| scope.has(&host(text)));
            assert_eq!(has, expected, "{text}");
        }
    }
}
