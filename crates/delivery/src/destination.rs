//! Destinations: the domains (or address literals) that queued recipients are at.
//!
//! Mail that may go on without TLS has destinations of its own, because it may go to another site.

use std::rc::Rc;
use std::time::Instant;

use ringpost_protocol::address::Host;

use crate::random::{Random, SeededMap, SeededState};
use crate::route::{RouteId, Routes};
use crate::site::{LastFailure, SiteId};
use crate::table::Table;
use crate::waiting::Waiting;
use crate::work::DestinationId;

/// What is known about where a destination's mail goes.
#[derive(Debug)]
pub(crate) enum DestinationState {
    /// Nothing, or too long ago.
    Unknown,
    /// The MX lookup is under way.
    Resolving,
    /// The MX lookup failed, and is made again later.
    Parked { until: Instant },
    /// To this site, until the answer expires (`None`: never).
    Site { site: SiteId, until: Option<Instant> },
}

#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) host: Host,
    /// Text form of `host`, as routes and the resolver want it.
    pub(crate) name: Rc<str>,
    /// Whether it is for messages that go on without TLS rather than not at all.
    pub(crate) tls_optional: bool,
    pub(crate) route: RouteId,
    pub(crate) state: DestinationState,
    /// Work that waits for the MX lookup, or for its next try.
    pub(crate) waiting: Waiting,
    /// MX lookups in a row that failed.
    pub(crate) failures: u32,
    pub(crate) last_failure: Option<LastFailure>,
    /// Recipients in the engine that are here.
    pub(crate) recipients: usize,
}

impl Destination {
    /// Where its mail goes, if that is known.
    pub(crate) fn site(&self) -> Option<SiteId> {
        match self.state {
            DestinationState::Site { site, .. } => Some(site),
            DestinationState::Unknown
            | DestinationState::Resolving
            | DestinationState::Parked { .. } => None,
        }
    }

    /// Tells whether work waits here because the DNS did not tell the way.
    pub(crate) fn is_parking(&self) -> bool {
        matches!(self.state, DestinationState::Parked { .. })
    }
}

/// All destinations with recipients, each once.
#[derive(Debug)]
pub(crate) struct Destinations {
    table: Table<Destination>,
    /// Those for all mail, and those for mail that may go on without TLS.
    by_name: [SeededMap<Rc<str>, DestinationId>; 2],
}

impl Destinations {
    pub(crate) fn new(random: &mut Random) -> Self {
        let state = SeededState::new(random);
        let by_name = [(); 2].map(|()| SeededMap::with_hasher(state.clone()));
        Self { table: Table::new(), by_name }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the destination of `host`, and counts one recipient there.
    pub(crate) fn add_recipient(
        &mut self,
        host: &Host,
        tls_optional: bool,
        routes: &Routes,
    ) -> DestinationId {
        let [strict, optional] = &mut self.by_name;
        let by_name = if tls_optional { optional } else { strict };
        let known = match host {
            // The common case, without making the text first.
            Host::Domain(domain) => by_name.get(domain.as_str()),
            Host::Literal(_) => by_name.get(host.to_string().as_str()),
        };
        if let Some(id) = known.copied() {
            if let Some(destination) = self.table.get_mut(id.0) {
                destination.recipients += 1;
            }
            return id;
        }
        let name: Rc<str> = host.to_string().into();
        let id = DestinationId(self.table.insert(Destination {
            host: host.clone(),
            tls_optional,
            route: routes.find(&name),
            name: Rc::clone(&name),
            state: DestinationState::Unknown,
            waiting: Waiting::default(),
            failures: 0,
            last_failure: None,
            recipients: 1,
        }));
        by_name.insert(name, id);
        id
    }

    /// Uncounts a settled recipient.
    pub(crate) fn remove_recipient(&mut self, id: DestinationId) {
        if let Some(destination) = self.table.get_mut(id.0) {
            destination.recipients = destination.recipients.saturating_sub(1);
        }
    }

    pub(crate) fn get(&self, id: DestinationId) -> Option<&Destination> {
        self.table.get(id.0)
    }

    pub(crate) fn get_mut(&mut self, id: DestinationId) -> Option<&mut Destination> {
        self.table.get_mut(id.0)
    }

    /// Those with this name.
    pub(crate) fn by_name(&self, name: &str) -> impl Iterator<Item = DestinationId> + use<> {
        self.by_name.each_ref().map(|ids| ids.get(name).copied()).into_iter().flatten()
    }

    /// All destinations.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Destination> {
        self.table.iter().map(|(_, destination)| destination)
    }

    /// Ids are below this.
    pub(crate) fn bound(&self) -> u32 {
        self.table.bound()
    }

    pub(crate) fn ids(&self) -> Vec<DestinationId> {
        self.table.indices().into_iter().map(DestinationId).collect()
    }

    /// Forgets the destinations without recipients; returns the sites that they led to.
    pub(crate) fn sweep(&mut self) -> Vec<SiteId> {
        let unused: Vec<u32> = self
            .table
            .iter()
            .filter(|(_, destination)| destination.recipients == 0)
            .map(|(index, _)| index)
            .collect();
        let mut sites = Vec::new();
        for index in unused {
            let Some(destination) = self.table.remove(index) else { continue };
            let [strict, optional] = &mut self.by_name;
            let by_name = if destination.tls_optional { optional } else { strict };
            by_name.remove(&destination.name);
            if let DestinationState::Site { site, .. } = destination.state {
                sites.push(site);
            }
        }
        sites
    }
}
