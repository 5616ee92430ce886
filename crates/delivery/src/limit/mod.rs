//! Limits that hold for the whole server, though every shard decides for itself.
//!
//! A limit is a number of *slots*, one for each connection. Each has one owner among the shards, known by
//! its key alone, whose [`ledger`] says how many slots each shard has been given. A shard takes the slots of
//! its connections from what it was given, its [`lease`]. What goes between them are [`LeaseMessage`]s,
//! a few for each site and tick however much mail there is; [`leases`] has all of one shard, both sides.
//!
//! - Slots that are out never exceed the limit: one that a shard gives back is out until its owner
//!   has heard so, and only the owner makes new ones of it.
//! - Messages tell totals, not changes: a newer one says all that an older one did, so the one that
//!   was not read yet can be replaced, and none can be counted twice.
//! - While there are enough, each shard has a few slots to spare, so that no connection waits for a
//!   message. When a shard lacks one, the others give back what they do not use, close what is idle, and
//!   then what they have more of, so that those who want more than there is come to the same number.
//!   Where there are fewer slots than shards that want one, they take turns.

pub(crate) mod lease;
pub(crate) mod leases;
pub(crate) mod ledger;
#[cfg(test)]
mod tests;

use std::sync::Arc;

/// The place of a shard among the shards of the server, from 0.
pub type ShardNumber = u16;

/// What is limited: the connections to one site, by its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LimitKey(Arc<str>);

impl LimitKey {
    /// The key of the connections to the site of this name.
    pub fn site(name: &str) -> Self {
        Self(name.into())
    }

    /// The shard that owns it, of so many. All shards come to the same.
    pub fn owner(&self, shards: u16) -> ShardNumber {
        // FNV-1a. Whoever aims names at one shard gives it some messages more.
        let hash = self.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| {
            (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        });
        ((hash ^ (hash >> 32)) % u64::from(shards.max(1))) as ShardNumber
    }
}

/// What shards tell each other about a limit. A newer one of the same [`topic`](Self::topic) replaces
/// an older one that was not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseMessage {
    /// To the owner: what is wanted, and what is given back.
    Demand(SlotDemand),
    /// From the owner: what is given, and what is to be given back.
    Grant(SlotGrant),
}

impl LeaseMessage {
    /// What it is about: whether it comes from the owner, and the key.
    pub fn topic(&self) -> (bool, LimitKey) {
        match self {
            Self::Demand(demand) => (false, demand.key.clone()),
            Self::Grant(grant) => (true, grant.key.clone()),
        }
    }
}

/// What a shard wants of a limit. Totals count from the beginning of the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotDemand {
    /// The limit.
    pub key: LimitKey,
    /// Which lease it is; a higher number is a later one, and voids the earlier.
    pub epoch: u64,
    /// Slots that it needs to have been given in total.
    pub wanted: u64,
    /// Slots that it would like to have been given in total while there are plenty; no fewer than `wanted`.
    pub wished: u64,
    /// Slots that it has given back in total.
    pub returned: u64,
    /// Whether the lease is over. All is given back then, what is on its way too.
    pub is_last: bool,
}

/// What an owner gives a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotGrant {
    /// The limit.
    pub key: LimitKey,
    /// Which lease it is for.
    pub epoch: u64,
    /// Slots given in total.
    pub granted: u64,
    /// Slots that it may keep; `u32::MAX`: all.
    pub keep: u32,
    /// Whether another shard lacks slots: what is not used is to be given back.
    pub is_pressed: bool,
}
