//! Destinations: the domains (or address literals) that queued recipients are at.

use std::rc::Rc;
use std::time::Instant;

use ringpost_protocol::address::Host;

use crate::random::{Random, SeededMap, SeededState};
use crate::site::SiteId;
use crate::table::Table;
use crate::work::{DestinationId, Work};

/// What is known about where a destination's mail goes.
#[derive(Debug)]
pub(crate) enum DestinationState {
    /// Nothing, or too long ago.
    Unknown,
    /// The MX lookup is under way; this work waits for it.
    Resolving { waiting: Vec<Work> },
    /// To this site, until the answer expires (`None`: never).
    Site { site: SiteId, until: Option<Instant> },
}

#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) host: Host,
    /// Text form of `host`, as routes and the resolver want it.
    pub(crate) name: Rc<str>,
    pub(crate) state: DestinationState,
    /// Recipients in the engine that are here.
    pub(crate) recipients: usize,
}

/// All destinations with recipients, each once.
#[derive(Debug)]
pub(crate) struct Destinations {
    table: Table<Destination>,
    by_name: SeededMap<Rc<str>, DestinationId>,
}

impl Destinations {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self { table: Table::new(), by_name: SeededMap::with_hasher(SeededState::new(random)) }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Returns the destination of `host`, and counts one recipient there.
    pub(crate) fn add_recipient(&mut self, host: &Host) -> DestinationId {
        let known = match host {
            // The common case, without making the text first.
            Host::Domain(domain) => self.by_name.get(domain.as_str()),
            Host::Literal(_) => self.by_name.get(host.to_string().as_str()),
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
            name: Rc::clone(&name),
            state: DestinationState::Unknown,
            recipients: 1,
        }));
        self.by_name.insert(name, id);
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

    pub(crate) fn by_name(&self, name: &str) -> Option<DestinationId> {
        self.by_name.get(name).copied()
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
            self.by_name.remove(&destination.name);
            if let DestinationState::Site { site, .. } = destination.state {
                sites.push(site);
            }
        }
        sites
    }
}
