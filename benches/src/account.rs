//! Who is missing, who came twice: message ids compared as sets.
//!
//! The unit is one recipient of one message, because a relay may deliver the recipients of a
//! message in several transactions, and none of these is a duplicate. A [`Ledger`] holds one bit
//! for each; the source keeps one of what was acknowledged, the sink one of what arrived intact,
//! and [`audit`] compares them.

use std::collections::BTreeMap;

use crate::message::{MessageId, SEQUENCE_MAX};

/// The most recipients a generated message may have.
pub(crate) const RECIPIENTS_MAX: usize = 64;

/// Bit `n` stands for recipient `load-<n>@…` of a message.
pub(crate) type RecipientSet = u64;

/// A set of (message, recipient); 8 octets for each message up to the highest of a run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Ledger {
    runs: BTreeMap<u32, Vec<RecipientSet>>,
}

impl Ledger {
    /// Adds recipients of a message; the number of them that were in the set already.
    pub(crate) fn insert(&mut self, id: MessageId, recipients: RecipientSet) -> u64 {
        let run = self.runs.entry(id.run).or_default();
        // An id that was read cannot exceed this, and one that was made by hand must not either.
        let index = id.sequence.min(SEQUENCE_MAX) as usize;
        if index >= run.len() {
            run.resize(index + 1, 0);
        }
        let repeated = run[index] & recipients;
        run[index] |= recipients;
        u64::from(repeated.count_ones())
    }

    /// Adds everything of `other`; the number of recipients that both had.
    pub(crate) fn merge(&mut self, other: &Self) -> u64 {
        let mut repeated = 0;
        for (id, recipients) in other.iter() {
            repeated += self.insert(id, recipients);
        }
        repeated
    }

    /// All messages with a recipient in the set, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MessageId, RecipientSet)> + '_ {
        self.runs.iter().flat_map(|(&run, recipients)| {
            recipients
                .iter()
                .enumerate()
                .filter(|(_, set)| **set != 0)
                .map(move |(sequence, &set)| (MessageId { run, sequence: sequence as u32 }, set))
        })
    }

    /// Recipients in the set.
    pub(crate) fn count(&self) -> u64 {
        self.runs.values().flatten().map(|set| u64::from(set.count_ones())).sum()
    }

    fn contains_of(&self, id: MessageId) -> RecipientSet {
        self.runs
            .get(&id.run)
            .and_then(|run| run.get(id.sequence as usize))
            .copied()
            .unwrap_or_default()
    }
}

/// What two ledgers say about what lies between them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Recipients whose message was acknowledged.
    pub(crate) acknowledged: u64,
    /// Acknowledged recipients whose message arrived intact.
    pub(crate) arrived: u64,
    /// Acknowledged recipients whose message did not.
    pub(crate) lost: u64,
    /// Recipients whose message arrived though no acknowledgement was seen: legitimate only when
    /// connections broke between the final dot and its reply. RFC 1047.
    pub(crate) unacknowledged: u64,
    /// The first few lost messages.
    pub(crate) lost_ids: Vec<MessageId>,
}

/// How many lost messages an [`Audit`] names.
const LOST_IDS_MAX: usize = 10;

/// Compares what was acknowledged with what arrived.
pub(crate) fn audit(acknowledged: &Ledger, arrived: &Ledger) -> Audit {
    let mut audit = Audit { acknowledged: acknowledged.count(), ..Audit::default() };
    for (id, recipients) in acknowledged.iter() {
        let missing = recipients & !arrived.contains_of(id);
        if missing != 0 {
            audit.lost += u64::from(missing.count_ones());
            if audit.lost_ids.len() < LOST_IDS_MAX {
                audit.lost_ids.push(id);
            }
        }
    }
    audit.arrived = audit.acknowledged - audit.lost;
    for (id, recipients) in arrived.iter() {
        let unknown = recipients & !acknowledged.contains_of(id);
        audit.unacknowledged += u64::from(unknown.count_ones());
    }
    audit
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(run: u32, sequence: u32) -> MessageId {
        MessageId { run, sequence }
    }

    #[test]
    fn a_second_copy_is_a_duplicate() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.insert(id(1, 5), 0b1), 0);
        assert_eq!(ledger.insert(id(1, 5), 0b1), 1);
        assert_eq!(ledger.insert(id(2, 5), 0b1), 0, "another run");
        assert_eq!(ledger.insert(id(1, 6), 0b1), 0, "another message");
        assert_eq!(ledger.count(), 3);
    }

    #[test]
    fn recipients_of_a_message_may_come_apart() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.insert(id(1, 0), 0b0011), 0);
        assert_eq!(ledger.insert(id(1, 0), 0b1100), 0);
        assert_eq!(ledger.insert(id(1, 0), 0b0110), 2);
        assert_eq!(ledger.count(), 4);
    }

    #[test]
    fn merge_finds_copies_that_went_to_different_cores() {
        let (mut a, mut b) = (Ledger::default(), Ledger::default());
        a.insert(id(1, 0), 1);
        a.insert(id(1, 1), 1);
        b.insert(id(1, 1), 1);
        b.insert(id(1, 9), 1);
        assert_eq!(a.merge(&b), 1);
        assert_eq!(a.count(), 3);
    }

    #[test]
    fn audit_names_what_is_lost() {
        let (mut acknowledged, mut arrived) = (Ledger::default(), Ledger::default());
        for sequence in 0..20 {
            acknowledged.insert(id(1, sequence), 0b11);
        }
        for sequence in 0..19 {
            arrived.insert(id(1, sequence), 0b11);
        }
        arrived.insert(id(1, 19), 0b01);
        arrived.insert(id(1, 30), 0b01);
        let audit = audit(&acknowledged, &arrived);
        assert_eq!(audit.acknowledged, 40);
        assert_eq!((audit.arrived, audit.lost, audit.unacknowledged), (39, 1, 1));
        assert_eq!(audit.lost_ids, [id(1, 19)]);
    }

    #[test]
    fn audit_of_an_empty_sink_loses_all() {
        let mut acknowledged = Ledger::default();
        for sequence in 0..20 {
            acknowledged.insert(id(1, sequence), 1);
        }
        let audit = audit(&acknowledged, &Ledger::default());
        assert_eq!((audit.arrived, audit.lost), (0, 20));
        assert_eq!(audit.lost_ids.len(), LOST_IDS_MAX);
    }

    fn pairs() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        prop::collection::vec((0..3_u32, 0..40_u32, 0..64_u32), 0..200)
    }

    proptest! {
        #[test]
        fn ledger_is_a_set(a in pairs(), b in pairs()) {
            let mut ledgers = [Ledger::default(), Ledger::default()];
            let mut models = [BTreeSet::new(), BTreeSet::new()];
            for (pairs, (ledger, model)) in [&a, &b].into_iter().zip(ledgers.iter_mut().zip(&mut models)) {
                for &(run, sequence, recipient) in pairs {
                    let repeated = ledger.insert(id(run, sequence), 1 << recipient);
                    prop_assert_eq!(repeated == 0, model.insert((run, sequence, recipient)));
                }
            }
            let audit = audit(&ledgers[0], &ledgers[1]);
            prop_assert_eq!(audit.acknowledged, models[0].len() as u64);
            prop_assert_eq!(audit.arrived, models[0].intersection(&models[1]).count() as u64);
            prop_assert_eq!(audit.lost, models[0].difference(&models[1]).count() as u64);
            prop_assert_eq!(audit.unacknowledged, models[1].difference(&models[0]).count() as u64);
            let [mut first, second] = ledgers;
            prop_assert_eq!(first.merge(&second), models[0].intersection(&models[1]).count() as u64);
            prop_assert_eq!(first.count(), models[0].union(&models[1]).count() as u64);
        }
    }
}
