//! Slots of connections: what this shard and the others say to each other about them.

use super::{Engine, LeaseMessage, Now, ShardNumber};
use crate::site::SiteId;

impl Engine {
    /// Makes it the engine of one of `shards` shards, each with another number below that, which share
    /// their limits. To be called before anything else; without it, it is the only one.
    #[must_use]
    pub fn among(mut self, own: ShardNumber, shards: u16) -> Self {
        self.leases.among(own, shards);
        self
    }

    /// Takes what another shard says about a limit.
    pub fn handle_lease_message(&mut self, now: Now, from: ShardNumber, message: LeaseMessage) {
        self.now = now;
        self.leases.handle_message(now.monotonic, from, message);
    }

    /// Returns what is to be said to another shard, and to which. What waits unread there is replaced by a
    /// newer message of the same sender and [topic](LeaseMessage::topic).
    pub fn poll_lease_message(&mut self) -> Option<(ShardNumber, LeaseMessage)> {
        self.settle_leases();
        self.leases.poll_message()
    }

    /// Opens no connection from now on, and leaves the slots of those that end to the other shards.
    pub fn halt(&mut self, now: Now) {
        self.now = now;
        if !std::mem::replace(&mut self.is_halted, true) {
            self.leases.halt();
        }
    }

    /// Says what is to be said about limits, and goes on with what waited for an answer.
    pub(super) fn settle_leases(&mut self) {
        while !self.leases.is_settled() {
            self.leases.exchange(self.now.monotonic);
            while let Some(site) = self.leases.poll_roused() {
                self.shed_idle(site);
                self.dispatch(site);
            }
        }
    }

    /// Wakes idle connections whose slots others lack: they will find that they are to be closed.
    fn shed_idle(&mut self, id: SiteId) {
        let Some(site) = self.sites.get(id.0) else { return };
        let Some(lease) = site.lease else { return };
        if self.leases.is_pressed(lease, id) || self.leases.excess(lease) > 0 {
            for connection in site.idle.clone() {
                self.wake(connection);
            }
            if let Some(site) = self.sites.get_mut(id.0) {
                site.idle.clear();
            }
        }
    }

    /// Tells whether a connection of a site has to go for its slot, beside those that are going.
    pub(super) fn is_in_excess(&self, id: SiteId) -> bool {
        let Some(lease) = self.sites.get(id.0).and_then(|site| site.lease) else { return false };
        let sites = self.leases.sites(lease).iter();
        let closing =
            sites.filter_map(|site| self.sites.get(site.0)).map(|site| site.counts.closing);
        self.leases.excess(lease) > closing.sum::<usize>() as u64
    }
}
