//! Places that wait because all name servers were silent.
//!
//! Each of them waits longer from time to time, up to minutes. But when any name server answers, the
//! others need not wait for their own time: they are taken up again, some at a time. And until then
//! somebody asks every few seconds, for nobody else may.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Engine;
use super::parking::{Place, Timer};
use crate::destination::DestinationState;
use crate::dns::{DnsFailure, Question, RecordKind};
use crate::site::{Addresses, SiteState};

/// What waits for the name servers.
#[derive(Debug, Default)]
pub(super) struct Silence {
    places: BTreeSet<Place>,
    /// When they are seen to.
    at: Option<Instant>,
    /// The place that was last asked about.
    asked: Option<Place>,
}

/// How often a question is asked while all name servers are silent.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Places that are taken up again at once.
const WOKEN_MAX: usize = 256;

/// Time until the next ones are.
const WAKE_INTERVAL: Duration = Duration::from_millis(20);

impl Engine {
    /// Notes a place that must wait after a failure of the DNS, if all name servers are silent.
    pub(super) fn note_silence(&mut self, place: Place, failure: DnsFailure) {
        if failure != DnsFailure::TimedOut || !self.resolver.is_silent() {
            return;
        }
        self.silence.places.insert(place);
        if self.silence.at.is_none() {
            self.see_to_silence_at(self.now.monotonic + ASK_INTERVAL);
        }
    }

    /// Nothing waits for the name servers any more.
    pub(super) fn end_silence(&mut self) {
        let at = std::mem::take(&mut self.silence).at;
        if let Some(at) = at {
            self.timers.remove(&(at, Timer::Silence));
        }
    }

    /// Takes up again what waits, if a name server has answered.
    pub(super) fn heed_answers(&mut self) {
        let now = self.now.monotonic;
        let later = self.silence.at.filter(|at| *at > now + WAKE_INTERVAL);
        if later.is_some() && !self.resolver.is_silent() {
            self.see_to_silence_at(now);
        }
    }

    fn see_to_silence_at(&mut self, at: Instant) {
        if let Some(before) = self.silence.at.replace(at) {
            self.timers.remove(&(before, Timer::Silence));
        }
        self.timers.insert((at, Timer::Silence));
    }

    /// Takes up some of the places again, or has a question asked.
    pub(super) fn see_to_silence(&mut self) {
        self.silence.at = None;
        let now = self.now.monotonic;
        if self.resolver.is_silent() {
            if self.ask_about_one() {
                self.see_to_silence_at(now + ASK_INTERVAL);
            }
            return;
        }
        for _ in 0..WOKEN_MAX {
            let Some(place) = self.silence.places.pop_first() else { return };
            self.wake_place(place);
        }
        if !self.silence.places.is_empty() {
            self.see_to_silence_at(now + WAKE_INTERVAL);
        }
    }

    /// Asks about the places in turn. Only whether there is an answer counts: nothing is decided about
    /// mail. Returns whether there is a place at all.
    fn ask_about_one(&mut self) -> bool {
        let places = &self.silence.places;
        let after =
            |last| places.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded));
        let next = self.silence.asked.and_then(|last| after(last).next());
        let Some(place) = next.or_else(|| places.first()).copied() else { return false };
        self.silence.asked = Some(place);
        let question = match place {
            Place::Destination(id) => self
                .destinations
                .get(id)
                .map(|one| Question { name: Rc::clone(&one.name), kind: RecordKind::Mx }),
            Place::Site(id) => self
                .sites
                .get(id.0)
                .and_then(|site| site.hosts.first())
                .map(|host| Question { name: Rc::clone(&host.name), kind: RecordKind::A }),
        };
        match question {
            // The answer finds nobody waiting for it.
            Some(question) => drop(self.resolver.lookup(self.now.monotonic, &question)),
            // It has been forgotten.
            None => drop(self.silence.places.remove(&place)),
        }
        true
    }

    /// Takes a place up again that waits. What the DNS did not tell a moment ago is asked anew: somebody has
    /// a reason to think that it does now.
    pub(super) fn wake_place(&mut self, place: Place) {
        match place {
            Place::Destination(id) => {
                if let Some(one) = self.destinations.get(id)
                    && let DestinationState::Parked { until } = one.state
                {
                    let question = Question { name: Rc::clone(&one.name), kind: RecordKind::Mx };
                    self.resolver.forget_failure(&question);
                    self.timers.remove(&(until, Timer::Resolve(id)));
                    self.resolve_destination(id);
                }
            }
            Place::Site(id) => {
                let until = self.now.monotonic;
                if let Some(site) = self.sites.get_mut(id.0)
                    && matches!(site.state, SiteState::Throttled { .. })
                {
                    site.state = SiteState::Throttled { until };
                    for host in site.hosts.iter().filter(|host| host.lookups.failure.is_some()) {
                        for kind in [RecordKind::A, RecordKind::Aaaa] {
                            let question = Question { name: Rc::clone(&host.name), kind };
                            self.resolver.forget_failure(&question);
                        }
                    }
                    if matches!(site.addresses, Addresses::Known { until: Some(_) }) {
                        site.addresses = Addresses::Unknown;
                    }
                    self.dispatch(id);
                }
            }
        }
    }
}
