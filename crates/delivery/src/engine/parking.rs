//! Work that must wait where it is: for a site that is down, or for a domain that the DNS does not
//! tell about.
//!
//! It costs nothing while it waits. It is neither tried nor deferred piece by piece, because what is
//! wrong with the place is no fault of the message: only the piece that came first is deferred with
//! each round that failed, which makes the failure known. The others wait in order, and all go when
//! a round succeeds. Meanwhile a clock watches over them: at the times at which a message expires,
//! or its originator is to be told of the delay, the work is looked through, a bounded step at a time.

use std::rc::Rc;
use std::time::{Duration, Instant};

use ringpost_queue::BlockQueue;

use super::settle::Fate;
use super::{Action, Engine, SiteChange};
use crate::attempt::Attempt;
use crate::clock::Stamp;
use crate::destination::{Destination, DestinationState, Destinations};
use crate::outcome::{self, Meaning};
use crate::route::{Policy, Routes};
use crate::site::{LastFailure, Site, SiteId, SiteState, backoff};
use crate::waiting::Waiting;
use crate::work::{DestinationId, Recipient, Work};

/// Where work waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Site(SiteId),
    Destination(DestinationId),
}

/// What is to be seen to when a time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A connection may be opened.
    Open(SiteId),
    /// A destination may be looked up again.
    Resolve(DestinationId),
    /// Parked work may have expired, or be late.
    Look(Place),
    /// The name servers may answer again.
    Silence,
}

/// Shortest time between two looks through the same queue.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Works that are settled without a transaction and wait for the driver, from which on no further
/// ones are looked for.
const UNSETTLED_MAX: usize = 1024;

impl Engine {
    pub(super) fn policy(&self, recipient: Recipient) -> &Policy {
        policy_of(&self.destinations, &self.routes, recipient)
    }

    fn waiting_mut(&mut self, place: Place) -> Option<&mut Waiting> {
        match place {
            Place::Site(id) => self.sites.get_mut(id.0).map(|site| &mut site.ready),
            Place::Destination(id) => self.destinations.get_mut(id).map(|one| &mut one.waiting),
        }
    }

    /// Adds work at the end of what waits in a place.
    pub(super) fn park(&mut self, place: Place, work: Work) {
        let mark = mark(&self.destinations, &self.routes, &work);
        let recipients_max = self.config.recipients_per_transaction_max;
        if let Some(waiting) = self.waiting_mut(place) {
            waiting.push(work, mark, recipients_max);
            self.watch(place);
        }
    }

    /// Puts work back to the front of its site's queue. What leads elsewhere by now finds its way anew: the
    /// configuration may have changed while it was out, and the site may have a weaker policy.
    pub(super) fn give_back(&mut self, id: SiteId, mut work: Work) {
        let leads_here = |one: &Recipient| {
            let destination = self.destinations.get(one.destination());
            destination.is_some_and(|destination| destination.site() == Some(id))
        };
        if !work.recipients.as_slice().iter().all(leads_here) {
            let all = std::mem::take(&mut work.recipients).into_vec();
            let (here, elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(leads_here);
            self.astray.push_back(work.with(elsewhere), 0);
            work.recipients = here.into();
        }
        let mark = mark(&self.destinations, &self.routes, &work);
        if let Some(site) = self.sites.get_mut(id.0) {
            site.ready.push_front(work, mark);
            self.watch(Place::Site(id));
        }
    }

    /// Moves what waited for a destination to its site.
    pub(super) fn move_to_site(&mut self, from: DestinationId, to: SiteId) {
        let Some(destination) = self.destinations.get_mut(from) else { return };
        let waiting = std::mem::take(&mut destination.waiting);
        if let Some(at) = waiting.look_at {
            self.timers.remove(&(at, Timer::Look(Place::Destination(from))));
        }
        let Some(site) = self.sites.get_mut(to.0) else { return };
        let (destinations, routes) = (&self.destinations, &self.routes);
        let recipients_max = self.config.recipients_per_transaction_max;
        site.ready.append(waiting, recipients_max, |work| mark(destinations, routes, work));
        self.watch(Place::Site(to));
        self.dispatch(to);
    }

    /// Makes sure that work that is parked in a place is looked at in time.
    pub(super) fn watch(&mut self, place: Place) {
        let now = self.now.monotonic;
        let is_parking = match place {
            Place::Site(id) => self.sites.get(id.0).is_some_and(Site::is_parking),
            Place::Destination(id) => {
                self.destinations.get(id).is_some_and(Destination::is_parking)
            }
        };
        let clock = self.clock;
        let Some(waiting) = self.waiting_mut(place) else { return };
        let wanted = waiting.mark().filter(|_| is_parking);
        let Some(at) = wanted.map(|mark| clock.instant(now, mark).max(now + LOOK_INTERVAL)) else {
            return;
        };
        if waiting.look_at.is_none_or(|before| at < before) {
            let before = waiting.look_at.replace(at);
            if let Some(before) = before {
                self.timers.remove(&(before, Timer::Look(place)));
            }
            self.timers.insert((at, Timer::Look(place)));
        }
    }

    /// Does what the time has come for.
    pub(super) fn see_to(&mut self, at: Instant, timer: Timer) {
        match timer {
            Timer::Open(site) => self.dispatch(site),
            Timer::Silence => self.see_to_silence(),
            Timer::Resolve(id) => {
                let now = self.now.monotonic;
                if let Some(destination) = self.destinations.get(id)
                    && let DestinationState::Parked { until } = destination.state
                    && until <= now
                {
                    self.resolve_destination(id);
                }
            }
            Timer::Look(place) => {
                let Some(waiting) = self.waiting_mut(place) else { return };
                if waiting.look_at == Some(at) {
                    waiting.look_at = None;
                    self.look(place);
                }
            }
        }
    }

    /// Looks through some of the work that is parked in a place.
    fn look(&mut self, place: Place) {
        let (last_failure, name) = match place {
            Place::Site(id) => match self.sites.get(id.0) {
                Some(site) if site.is_parking() => (site.last_failure.clone(), &site.key.name),
                _ => return,
            },
            Place::Destination(id) => match self.destinations.get(id) {
                Some(one) if one.is_parking() => (one.last_failure.clone(), &one.name),
                _ => return,
            },
        };
        // Without one we could not even try: that says nothing about the place.
        let failure = last_failure.unwrap_or_else(|| LastFailure {
            attempt: Attempt::unmade(Rc::clone(name), self.now.monotonic),
            verdict: outcome::job_failure(),
        });
        let now = self.stamp();
        let mut is_done = true;
        if self.unsettled < UNSETTLED_MAX
            && let Some(waiting) = self.waiting_mut(place)
        {
            let mut waiting = std::mem::take(waiting);
            let mut found = Found::default();
            is_done = waiting
                .look(now, |work| found.examine(&self.destinations, &self.routes, now, work));
            if let Some(place) = self.waiting_mut(place) {
                *place = waiting;
            }
            self.doom(failure.clone(), Fate::Expired, found.expired);
            self.doom(failure, Fate::Warned, found.late);
        }
        if is_done {
            self.watch(place);
            return;
        }
        let at = self.now.monotonic;
        if let Some(waiting) = self.waiting_mut(place) {
            waiting.look_at = Some(at);
            self.timers.insert((at, Timer::Look(place)));
        }
    }

    /// Decides about a site that cannot be reached: for good, and all that waits bounces; or for
    /// now, and it waits on until the site is probed.
    pub(super) fn site_failed(&mut self, id: SiteId, failure: LastFailure) {
        let Some(site) = self.sites.get_mut(id.0) else { return };
        let was_up = site.last_failure.is_none();
        site.failures += 1;
        let wait = backoff(&self.config, site.failures, &mut self.random);
        let until = self.now.monotonic + failure.verdict.retry_after.unwrap_or(wait);
        site.state = SiteState::Throttled { until };
        self.timers.insert((until, Timer::Open(id)));
        site.last_failure = Some(failure.clone());
        self.stats.sites_failed += 1;
        if was_up {
            self.actions.push_back(Action::SiteChanged(SiteChange {
                site: Rc::clone(&site.key.name),
                reason: Some(Rc::clone(&failure.verdict.reason)),
                recipients: site.ready.recipients(),
            }));
        }
        if failure.verdict.meaning == Meaning::Bounced {
            let works = site.ready.take();
            return self.doom(failure, Fate::Attempted, works);
        }
        // What is urgent does not wait for its next attempt when the site may be back in seconds.
        let first = site.ready.pop_least();
        self.doom_first(failure, first);
        self.watch(Place::Site(id));
    }

    /// Lets one piece of work pay for a round that failed, so that the failure is told.
    pub(super) fn doom_first(&mut self, failure: LastFailure, first: Option<Work>) {
        let mut works = BlockQueue::new();
        if let Some(first) = first {
            works.push_back(first, 0);
        }
        self.doom(failure, Fate::Attempted, works);
    }
}

/// What a look has found.
#[derive(Debug, Default)]
struct Found {
    expired: BlockQueue<Work>,
    /// These stay where they are; only what is to be told of them is taken along.
    late: BlockQueue<Work>,
}

impl Found {
    /// Takes the recipients out whose time is over, and notes those that are late.
    fn examine(
        &mut self,
        destinations: &Destinations,
        routes: &Routes,
        now: Stamp,
        mut work: Work,
    ) -> Option<(Work, Stamp)> {
        if mark(destinations, routes, &work) > now {
            let mark = mark(destinations, routes, &work);
            return Some((work, mark));
        }
        let recipients = std::mem::take(&mut work.recipients).into_vec();
        let (mut kept, mut expired, mut late) = (Vec::new(), Vec::new(), Vec::new());
        for recipient in recipients {
            let policy = policy_of(destinations, routes, recipient);
            if policy.expiry(&work) <= now {
                expired.push(recipient);
            } else if policy.warns_at(&work, recipient).is_some_and(|at| at <= now) {
                late.push(recipient);
                kept.push(recipient.with(recipient.attempts, true));
            } else {
                kept.push(recipient);
            }
        }
        if !late.is_empty() {
            self.late.push_back(work.with(late), 0);
        }
        if !expired.is_empty() {
            self.expired.push_back(work.with(expired), 0);
        }
        if kept.is_empty() {
            return None;
        }
        work.recipients = kept.into();
        let mark = mark(destinations, routes, &work);
        Some((work, mark))
    }
}

fn policy_of<'a>(
    destinations: &Destinations,
    routes: &'a Routes,
    recipient: Recipient,
) -> &'a Policy {
    let destination = destinations.get(recipient.destination());
    routes.policy(destination.map_or_else(Default::default, |one| one.route))
}

/// When something is to be done about work though it waits.
fn mark(destinations: &Destinations, routes: &Routes, work: &Work) -> Stamp {
    let of_one = |recipient: &Recipient| {
        let policy = policy_of(destinations, routes, *recipient);
        let expiry = policy.expiry(work);
        policy.warns_at(work, *recipient).map_or(expiry, |warning| warning.min(expiry))
    };
    work.recipients.as_slice().iter().map(of_one).min().unwrap_or(Stamp(u64::MAX))
}
