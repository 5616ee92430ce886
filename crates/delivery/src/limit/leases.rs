//! All limits of one shard: its leases, and the ledgers of those that it owns.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::lease::SlotLease;
use super::ledger::SlotLedger;
use super::{LeaseMessage, LimitKey, ShardNumber, SlotDemand, SlotGrant};
use crate::random::{Random, SeededMap, SeededState};
use crate::site::SiteId;
use crate::table::Table;

/// Index of a lease in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(u32);

/// Counters of leases since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseStats {
    /// Times that a site lacked a slot for a connection that it could use.
    pub waits: u64,
    /// Slots that the shard was given by owners.
    pub granted: u64,
    /// Times that it was told to give back slots in use.
    pub recalled: u64,
    /// Messages to other shards.
    pub messages: u64,
    /// Sites that lack slots, now.
    pub waiting: usize,
    /// Slots given out of the limits that the shard owns, now.
    pub out: u64,
    /// Limits that the shard owns and somebody uses, now.
    pub limits: usize,
}

/// Both sides of the limits of one shard.
#[derive(Debug)]
pub(crate) struct Leases {
    own: ShardNumber,
    shards: u16,
    /// The limit on the connections to each site.
    max: u64,
    table: Table<SlotLease>,
    by_key: SeededMap<LimitKey, LeaseId>,
    ledgers: BTreeMap<LimitKey, SlotLedger>,
    /// Turns that end, by time.
    timers: BTreeSet<(Instant, LimitKey)>,
    /// Leases to see to.
    changed: BTreeSet<LeaseId>,
    /// Ledgers to see to.
    unsettled: BTreeSet<LimitKey>,
    /// Sites that may have what they waited for, or are to close what is idle.
    roused: VecDeque<SiteId>,
    outbox: VecDeque<(ShardNumber, LeaseMessage)>,
    epoch: u64,
    is_halted: bool,
    stats: LeaseStats,
}

impl Leases {
    /// Those of the only shard.
    pub(crate) fn new(max: usize, random: &mut Random) -> Self {
        Self {
            own: 0,
            shards: 1,
            max: max.max(1) as u64,
            table: Table::new(),
            by_key: SeededMap::with_hasher(SeededState::new(random)),
            ledgers: BTreeMap::new(),
            timers: BTreeSet::new(),
            changed: BTreeSet::new(),
            unsettled: BTreeSet::new(),
            roused: VecDeque::new(),
            outbox: VecDeque::new(),
            epoch: 0,
            is_halted: false,
            stats: LeaseStats::default(),
        }
    }

    /// Those of one of several shards. To be called before anything else.
    pub(crate) fn among(&mut self, own: ShardNumber, shards: u16) {
        self.own = own;
        self.shards = shards.max(1);
    }

    /// Has another limit hold from now on.
    pub(crate) fn reconfigure(&mut self, max: usize) {
        self.max = max.max(1) as u64;
        self.unsettled.extend(self.ledgers.keys().cloned());
    }

    /// Gives all back that is not used, and takes nothing any more.
    pub(crate) fn halt(&mut self) {
        self.is_halted = true;
        self.changed.extend(self.table.indices().into_iter().map(LeaseId));
    }

    /// The lease from which a site takes its slots. To be given up by [`leave`](Self::leave).
    pub(crate) fn join(&mut self, key: LimitKey, site: SiteId) -> LeaseId {
        let id = if let Some(id) = self.by_key.get(&key) {
            *id
        } else {
            self.epoch += 1;
            let owner = key.owner(self.shards);
            let lease = SlotLease::new(key.clone(), owner, self.epoch);
            let id = LeaseId(self.table.insert(lease));
            self.by_key.insert(key, id);
            id
        };
        if let Some(lease) = self.table.get_mut(id.0) {
            lease.sites.push(site);
        }
        // Slots to spare come while the addresses are looked up.
        self.changed.insert(id);
        id
    }

    /// Ends what a site has to do with a lease. It has no connections.
    pub(crate) fn leave(&mut self, now: Instant, id: LeaseId, site: SiteId) {
        let Some(lease) = self.table.get_mut(id.0) else { return };
        lease.wait(site, 0);
        lease.sites.retain(|other| *other != site);
        self.changed.insert(id);
        if lease.sites.is_empty()
            && let Some(lease) = self.table.remove(id.0)
        {
            self.changed.remove(&id);
            self.by_key.remove(&lease.key);
            self.send_demand(now, lease.owner, lease.last_demand());
        }
    }

    /// Tells whether a site may have a slot. If not, it waits for as many as it lacks, and
    /// is [roused](Self::poll_roused) when there is one.
    pub(crate) fn has_slot(&mut self, now: Instant, id: LeaseId, site: SiteId, lacks: u64) -> bool {
        let Some(lease) = self.table.get_mut(id.0) else { return false };
        if lease.free() > 0 {
            return true;
        }
        if lease.wait(site, lacks.max(1)) {
            self.stats.waits += 1;
            self.changed.insert(id);
            // What it owns itself, it can have at once.
            if lease.owner == self.own {
                self.exchange(now);
            }
        }
        self.table.get(id.0).is_some_and(|lease| lease.free() > 0)
    }

    /// Notes that a site needs no slots but those that it has.
    pub(crate) fn has_enough(&mut self, id: LeaseId, site: SiteId) {
        if self.table.get_mut(id.0).is_some_and(|lease| lease.wait(site, 0)) {
            self.changed.insert(id);
        }
    }

    /// Takes a slot for a connection: a free one, or that of a connection that has just ended.
    pub(crate) fn take(&mut self, id: LeaseId) {
        if let Some(lease) = self.table.get_mut(id.0) {
            lease.take();
            debug_assert!(lease.used() <= lease.held(), "{lease:?}");
            self.changed.insert(id);
        }
    }

    /// Gives back the slot of a connection that has ended.
    pub(crate) fn release(&mut self, id: LeaseId) {
        if let Some(lease) = self.table.get_mut(id.0) {
            lease.release();
            self.roused.extend(lease.waiting());
            self.changed.insert(id);
        }
    }

    /// Connections that have to go because their slots are called back, those that are on their way included.
    pub(crate) fn excess(&self, id: LeaseId) -> u64 {
        self.table.get(id.0).map_or(0, SlotLease::excess)
    }

    /// Whether another shard, or another site, lacks the slots of connections that are idle.
    pub(crate) fn is_pressed(&self, id: LeaseId, site: SiteId) -> bool {
        self.table.get(id.0).is_some_and(|lease| {
            lease.is_pressed() || lease.waiting().any(|waiting| waiting != site)
        })
    }

    /// The sites of a lease.
    pub(crate) fn sites(&self, id: LeaseId) -> &[SiteId] {
        self.table.get(id.0).map_or(&[], |lease| &lease.sites)
    }

    /// The slots that the shard has, and those that it uses.
    pub(crate) fn held_and_used(&self, id: LeaseId) -> (u64, u64) {
        self.table.get(id.0).map_or((0, 0), |lease| (lease.held(), lease.used()))
    }

    /// Takes what another shard says.
    pub(crate) fn handle_message(
        &mut self,
        now: Instant,
        from: ShardNumber,
        message: LeaseMessage,
    ) {
        match message {
            LeaseMessage::Demand(demand) => self.handle_demand(now, from, &demand),
            LeaseMessage::Grant(grant) => self.handle_grant(&grant),
        }
    }

    fn handle_demand(&mut self, now: Instant, from: ShardNumber, demand: &SlotDemand) {
        let key = &demand.key;
        if demand.is_last && !self.ledgers.contains_key(key) {
            return;
        }
        let ledger =
            self.ledgers.entry(key.clone()).or_insert_with(|| SlotLedger::new(key.clone()));
        ledger.handle_demand(now, from, demand);
        self.unsettled.insert(key.clone());
    }

    fn handle_grant(&mut self, grant: &SlotGrant) {
        let Some(&id) = self.by_key.get(&grant.key) else { return };
        let Some(lease) = self.table.get_mut(id.0) else { return };
        let held = lease.held();
        if !lease.handle_grant(grant) {
            return;
        }
        self.stats.granted += lease.held() - held;
        self.changed.insert(id);
        if lease.excess() > 0 {
            self.stats.recalled += 1;
        }
        if lease.excess() > 0 || lease.is_pressed() {
            self.roused.extend(&lease.sites);
        } else {
            self.roused.extend(lease.waiting());
        }
    }

    /// Ends the turns whose time is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
            && let Some((_, key)) = self.timers.pop_first()
        {
            self.unsettled.insert(key);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Tells whether there is anything to see to.
    pub(crate) fn is_settled(&self) -> bool {
        self.changed.is_empty() && self.unsettled.is_empty() && self.roused.is_empty()
    }

    /// Says to owners what is wanted, and to shards what they get; at once where that is the shard itself.
    pub(crate) fn exchange(&mut self, now: Instant) {
        loop {
            if let Some(id) = self.changed.pop_first() {
                let is_halted = self.is_halted;
                let lease = self.table.get_mut(id.0);
                if let Some((owner, demand)) =
                    lease.and_then(|lease| Some((lease.owner, lease.demand(is_halted)?)))
                {
                    self.send_demand(now, owner, demand);
                }
            } else if let Some(key) = self.unsettled.pop_first() {
                self.settle(now, &key);
            } else {
                return;
            }
        }
    }

    fn settle(&mut self, now: Instant, key: &LimitKey) {
        let Some(ledger) = self.ledgers.get_mut(key) else { return };
        let before = ledger.poll_timeout();
        ledger.settle(now, self.max);
        let after = ledger.poll_timeout();
        let mut grants = Vec::new();
        while let Some(grant) = ledger.poll_grant() {
            grants.push(grant);
        }
        if ledger.is_unused() {
            self.ledgers.remove(key);
        }
        if before != after {
            if let Some(at) = before {
                self.timers.remove(&(at, key.clone()));
            }
            if let Some(at) = after {
                self.timers.insert((at, key.clone()));
            }
        }
        for (to, grant) in grants {
            if to == self.own {
                self.handle_grant(&grant);
            } else {
                self.send(to, LeaseMessage::Grant(grant));
            }
        }
    }

    fn send_demand(&mut self, now: Instant, owner: ShardNumber, demand: SlotDemand) {
        if owner == self.own {
            self.handle_demand(now, owner, &demand);
        } else {
            self.send(owner, LeaseMessage::Demand(demand));
        }
    }

    fn send(&mut self, to: ShardNumber, message: LeaseMessage) {
        self.stats.messages += 1;
        self.outbox.push_back((to, message));
    }

    /// The next site that may have what it waited for, or is to close what is idle.
    pub(crate) fn poll_roused(&mut self) -> Option<SiteId> {
        self.roused.pop_front()
    }

    /// The next message to another shard.
    pub(crate) fn poll_message(&mut self) -> Option<(ShardNumber, LeaseMessage)> {
        self.outbox.pop_front()
    }

    pub(crate) fn stats(&self) -> LeaseStats {
        LeaseStats {
            waiting: self.table.iter().map(|(_, lease)| lease.waiting().count()).sum(),
            out: self.ledgers.values().map(SlotLedger::out).sum(),
            limits: self.ledgers.len(),
            ..self.stats
        }
    }
}
