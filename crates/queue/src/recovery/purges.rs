//! Purges that a replay has met, applied all together at its end: one pass over the index, however
//! many they are.

use std::collections::HashMap;

use crate::hosts::{HostId, Hosts};
use crate::id::{IdMap, MessageId};
use crate::index::Entry;
use crate::message::Purge;

/// The purges so far, in the order of the log.
///
/// A purge is for the messages that are before it in the log.
#[derive(Debug, Default)]
pub(super) struct Purges {
    seen: Vec<Purge>,
    /// How many came before the first record of a message; 0 for those that are not here.
    before: IdMap<MessageId, usize>,
}

/// The purges of one host, or of all: the number of each, and the latest "received before" of it and
/// those behind it.
type Cutoffs = Vec<(usize, u64)>;

impl Purges {
    pub(super) fn push(&mut self, purge: Purge) {
        self.seen.push(purge);
    }

    /// Notes that a message comes behind the purges so far.
    pub(super) fn begin(&mut self, id: MessageId) {
        if !self.seen.is_empty() {
            self.before.insert(id, self.seen.len());
        }
    }

    /// Removes recipients; gives the messages that have no other left to deliver.
    pub(super) fn apply<'a>(
        self,
        entries: impl Iterator<Item = (MessageId, &'a mut Entry)>,
        hosts: &Hosts,
    ) -> Vec<MessageId> {
        if self.seen.is_empty() {
            return Vec::new();
        }
        let mut by_host: HashMap<Option<HostId>, Cutoffs> = HashMap::new();
        for (number, purge) in self.seen.iter().enumerate().rev() {
            let host = purge.host.as_ref().map(|host| hosts.find(host));
            // Nothing that is left is at a host that is not known.
            if host == Some(None) {
                continue;
            }
            let cutoffs = by_host.entry(host.flatten()).or_default();
            let behind = cutoffs.last().map_or(0, |(_, latest)| *latest);
            cutoffs.push((number, purge.received_before_unix_ms.max(behind)));
        }
        // From the last purge to the first: those of a number or more come first.
        let cutoff = |host: Option<HostId>, from: usize| {
            let cutoffs = by_host.get(&host)?;
            let end = cutoffs.partition_point(|(number, _)| *number >= from);
            Some(cutoffs.get(end.checked_sub(1)?)?.1)
        };
        let mut gone = Vec::new();
        for (id, entry) in entries {
            let from = self.before.get(&id).copied().unwrap_or(0);
            let of_all = cutoff(None, from).unwrap_or(0);
            let mut has_removed = false;
            for at in 0..entry.recipients().len() {
                let Some(host) = entry.recipients().get(at).map(|recipient| recipient.host) else {
                    break;
                };
                let latest = cutoff(Some(host), from).map_or(of_all, |latest| latest.max(of_all));
                has_removed |= entry.remove_received_before(latest, Some(host));
            }
            if has_removed && entry.queued() == 0 {
                gone.push(id);
            }
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use ringpost_protocol::address::Host;
    use ringpost_protocol::priority::Priority;

    use super::*;
    use crate::index::{Location, Phase, RecipientEntry};
    use crate::message::RecipientState;
    use crate::record::MessageHead;

    /// Numbers from 0 to `below`, the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self, below: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % below
        }
    }

    fn host(number: u64) -> Option<Host> {
        (number < 3).then(|| Host::parse(&format!("host{number}.test")).unwrap())
    }

    #[test]
    fn one_pass_removes_what_each_purge_would_have_removed_in_its_turn() {
        let mut numbers = Numbers(1);
        let (mut removed, mut kept) = (0, 0);
        for _ in 0..300 {
            let (mut hosts, mut purges) = (Hosts::default(), Purges::default());
            let (mut eager, mut lazy): (Vec<(MessageId, Entry)>, Vec<_>) = Default::default();
            for number in 0..30 {
                if numbers.next(4) == 0 {
                    // Also of hosts that are known later, or never; 3 is all hosts, or none.
                    let host = host(numbers.next(4));
                    let purge = Purge { host, received_before_unix_ms: numbers.next(100) };
                    let known = purge.host.as_ref().map(|host| hosts.find(host));
                    for (_, entry) in &mut eager {
                        if known != Some(None) {
                            entry.remove_recipients(&purge, known.flatten());
                        }
                    }
                    purges.push(purge);
                } else {
                    let id = MessageId::from_u64(number);
                    let head = MessageHead {
                        id,
                        received_unix_ms: numbers.next(100),
                        expiry_unix_ms: 1,
                        size: 1,
                        chunks: 0,
                        priority: Priority::NORMAL,
                        tls_optional: false,
                        deliver_by: None,
                    };
                    let recipients = (0..=numbers.next(3)).map(|_| {
                        let host = host(numbers.next(4));
                        RecipientEntry::new(hosts.acquire(host.as_ref()), RecipientState::default())
                    });
                    let recipients = recipients.collect();
                    let entry = Entry::new(&head, recipients, Location::default(), Phase::Durable);
                    purges.begin(id);
                    eager.push((id, entry.clone()));
                    lazy.push((id, entry));
                }
            }
            let gone = purges.apply(lazy.iter_mut().map(|(id, entry)| (*id, entry)), &hosts);
            assert_eq!(lazy, eager);
            let left = eager.iter().filter(|(_, entry)| entry.queued() > 0).count();
            assert_eq!(gone.len(), eager.len() - left);
            removed += gone.len();
            kept += left;
        }
        assert!(removed > 500 && kept > 500, "{removed} {kept}");
    }
}
