//! A shard's side of a limit: the slots that it was given, and what it does with them.

use super::{LimitKey, ShardNumber, SlotDemand, SlotGrant};
use crate::site::SiteId;

/// Slots that a shard keeps beside those that it uses, while there are plenty.
const SPARE: u64 = 2;

/// The slots of one limit in one shard.
#[derive(Debug)]
pub(crate) struct SlotLease {
    pub(super) key: LimitKey,
    pub(super) owner: ShardNumber,
    epoch: u64,
    granted: u64,
    returned: u64,
    used: u64,
    keep: u32,
    is_pressed: bool,
    /// Sites that lack slots, and how many, in the order in which they came.
    waiting: Vec<(SiteId, u64)>,
    /// Sites that take their slots here.
    pub(super) sites: Vec<SiteId>,
    /// What the owner was told last.
    told: Option<SlotDemand>,
}

impl SlotLease {
    pub(super) fn new(key: LimitKey, owner: ShardNumber, epoch: u64) -> Self {
        Self {
            key,
            owner,
            epoch,
            granted: 0,
            returned: 0,
            used: 0,
            keep: u32::MAX,
            is_pressed: false,
            waiting: Vec::new(),
            sites: Vec::new(),
            told: None,
        }
    }

    /// Slots that the shard has.
    pub(crate) fn held(&self) -> u64 {
        self.granted.saturating_sub(self.returned)
    }

    /// Slots that connections have.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Slots that sites lack.
    pub(crate) fn lacking(&self) -> u64 {
        self.waiting.iter().map(|(_, count)| count).sum()
    }

    /// Slots that a connection could have now.
    pub(super) fn free(&self) -> u64 {
        self.held().min(u64::from(self.keep)).saturating_sub(self.used)
    }

    pub(super) fn take(&mut self) {
        self.used += 1;
    }

    pub(super) fn release(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    /// Connections that have to go.
    pub(super) fn excess(&self) -> u64 {
        self.used.saturating_sub(self.keep.into())
    }

    /// Whether somebody lacks the slots that are not made use of.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// Notes that a site lacks so many slots; none: that it does not wait any more. Whether that is new.
    pub(super) fn wait(&mut self, site: SiteId, count: u64) -> bool {
        let known = self.waiting.iter().position(|(waiting, _)| *waiting == site);
        match (known, count) {
            (None, 0) => return false,
            (Some(place), 0) => drop(self.waiting.remove(place)),
            (Some(place), _) if self.waiting[place].1 == count => return false,
            (Some(place), _) => self.waiting[place].1 = count,
            (None, _) => self.waiting.push((site, count)),
        }
        true
    }

    /// The sites that lack slots.
    pub(super) fn waiting(&self) -> impl Iterator<Item = SiteId> {
        self.waiting.iter().map(|(site, _)| *site)
    }

    /// Takes what the owner says; whether anything of it is new.
    pub(super) fn handle_grant(&mut self, grant: &SlotGrant) -> bool {
        if grant.epoch != self.epoch {
            return false;
        }
        let before = (self.granted, self.keep, self.is_pressed);
        self.granted = self.granted.max(grant.granted);
        self.keep = grant.keep;
        self.is_pressed = grant.is_pressed;
        before != (self.granted, self.keep, self.is_pressed)
    }

    /// Gives back what is not needed, and says what is; `None` when the owner knows. `is_halted` says that
    /// nothing is opened any more.
    pub(super) fn demand(&mut self, is_halted: bool) -> Option<SlotDemand> {
        let lacking = if is_halted { 0 } else { self.lacking() };
        let spare = if self.is_pressed || is_halted { 0 } else { SPARE };
        let unused = self.held().saturating_sub(self.used);
        let recalled = self.held().saturating_sub(self.keep.into());
        let unneeded = unused.saturating_sub(lacking + spare);
        self.returned += recalled.min(unused).max(unneeded);
        let unused = self.held().saturating_sub(self.used);
        let wanted = self.granted + lacking.saturating_sub(unused);
        let demand = SlotDemand {
            key: self.key.clone(),
            epoch: self.epoch,
            wanted,
            wished: wanted.max(self.granted + (lacking + spare).saturating_sub(unused)),
            returned: self.returned,
            is_last: false,
        };
        if self.told.as_ref() == Some(&demand) {
            return None;
        }
        self.told = Some(demand.clone());
        Some(demand)
    }

    /// Ends the lease.
    pub(super) fn last_demand(&self) -> SlotDemand {
        SlotDemand {
            key: self.key.clone(),
            epoch: self.epoch,
            wanted: 0,
            wished: 0,
            returned: self.granted,
            is_last: true,
        }
    }
}
