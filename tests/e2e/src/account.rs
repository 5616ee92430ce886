//! Holds what was promised against what arrived.
//!
//! Two books are compared: the injector's, with the fate of every message it sent, and the
//! sink's, with every message it took and a verdict about its content. The ids in the messages
//! join them. Nothing of the server's own bookkeeping is believed, but for one rule about
//! duplicates: a message that the event log calls delivered may not be sent again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Instant;

use crate::injector::{Fate, Sent};
use crate::message::Mark;
use crate::sink::Delivery;

/// One stop of the server, of whichever kind.
#[derive(Debug, Clone)]
pub struct Outage {
    /// A moment at which the old process was gone, everything it had written to the sink had
    /// been read, and the new process was not there yet.
    pub at: Instant,
    /// The ids that the event log has called delivered since the outage before.
    pub delivered: HashSet<String>,
}

/// The comparison of the two books.
#[derive(Debug, Clone, Default)]
pub struct Account {
    sent: BTreeSet<String>,
    acked: BTreeSet<String>,
    copies: BTreeMap<String, Vec<Instant>>,
    damaged: Vec<String>,
}

impl Account {
    /// Compares an injector's book with what a sink accepted.
    pub fn of(book: &[Sent], accepted: &[Delivery]) -> Self {
        let mut account = Self::default();
        for sent in book {
            account.sent.insert(sent.id.clone());
            if sent.fate == Fate::Acked {
                account.acked.insert(sent.id.clone());
            }
        }
        for delivery in accepted {
            match &delivery.mark {
                Mark::Intact(id) => {
                    account.copies.entry(id.clone()).or_default().push(delivery.dot_at);
                }
                Mark::Damaged(id) => account.damaged.push(id.clone()),
                Mark::Absent => account.damaged.push("(without a marker)".to_owned()),
            }
        }
        for copies in account.copies.values_mut() {
            copies.sort();
        }
        account
    }

    /// Number of acknowledged messages.
    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// The ids that arrived whole, at least once.
    pub fn arrived(&self) -> impl Iterator<Item = &str> {
        self.copies.keys().map(String::as_str)
    }

    /// The ids acknowledged and never arrived.
    pub fn lost(&self) -> Vec<&str> {
        self.acked.iter().filter(|id| !self.copies.contains_key(*id)).map(String::as_str).collect()
    }

    /// The ids of messages that arrived otherwise than they were sent.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// The ids that arrived and that nobody sent.
    pub fn invented(&self) -> Vec<&str> {
        self.copies.keys().filter(|id| !self.sent.contains(*id)).map(String::as_str).collect()
    }

    /// The ids that arrived more than once.
    pub fn repeated(&self) -> Vec<&str> {
        self.copies
            .iter()
            .filter(|(_, copies)| copies.len() > 1)
            .map(|(id, _)| id.as_str())
            .collect()
    }

    /// The number of arrivals beyond the first, over all messages.
    pub fn extra_copies(&self) -> usize {
        self.copies.values().map(|copies| copies.len() - 1).sum()
    }

    /// The ids that arrived without having been acknowledged. Legal.
    pub fn unacknowledged(&self) -> usize {
        self.copies.keys().filter(|id| !self.acked.contains(*id)).count()
    }

    /// The repeated ids that no outage explains.
    ///
    /// A further copy is legal only when an outage lies between it and the one before, and the
    /// event log did not call the message delivered at that outage: then its final dot was out
    /// and its completion was not yet durable, or known to anybody.
    pub fn unexplained(&self, outages: &[Outage]) -> Vec<&str> {
        // The first outage at which each was called so.
        let mut delivered: HashMap<&str, usize> = HashMap::new();
        for (number, outage) in outages.iter().enumerate() {
            for id in &outage.delivered {
                delivered.entry(id).or_insert(number);
            }
        }
        let explained = |id: &str, pair: &[Instant]| {
            let known_from = delivered.get(id).copied().unwrap_or(usize::MAX);
            outages
                .iter()
                .take(known_from)
                .any(|outage| pair[0] <= outage.at && outage.at <= pair[1])
        };
        self.copies
            .iter()
            .filter(|(id, copies)| !copies.windows(2).all(|pair| explained(id, pair)))
            .map(|(id, _)| id.as_str())
            .collect()
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {}, acked {}, arrived {}, lost {}, damaged {}, invented {}, extra copies {}, \
             arrived but not acked {}",
            self.sent.len(),
            self.acked.len(),
            self.copies.len(),
            self.lost().len(),
            self.damaged.len(),
            self.invented().len(),
            self.extra_copies(),
            self.unacknowledged()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sent(id: &str, fate: Fate) -> Sent {
        Sent { id: id.to_owned(), fate, at: Instant::now() }
    }

    fn arrived(mark: Mark, at: Instant) -> Delivery {
        Delivery {
            mark,
            reverse_path: String::new(),
            forward_paths: Vec::new(),
            dot_at: at,
            connection: 0,
            accepted: true,
            content: Vec::new(),
        }
    }

    #[test]
    fn every_kind_of_wrong_is_seen() {
        let now = Instant::now();
        let book = [
            sent("fine", Fate::Acked),
            sent("lost", Fate::Acked),
            sent("broken", Fate::Acked),
            sent("open", Fate::Unknown),
        ];
        let taken = [
            arrived(Mark::Intact("fine".into()), now),
            arrived(Mark::Damaged("broken".into()), now),
            arrived(Mark::Intact("open".into()), now),
            arrived(Mark::Intact("stranger".into()), now),
        ];
        let account = Account::of(&book, &taken);
        assert_eq!(account.acked(), 3);
        assert_eq!(account.lost(), ["broken", "lost"]);
        assert_eq!(account.damaged(), ["broken"]);
        assert_eq!(account.invented(), ["stranger"]);
        assert_eq!(account.unacknowledged(), 2);
        assert_eq!(account.extra_copies(), 0);
    }

    #[test]
    fn a_copy_is_explained_by_an_outage_between_only() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let account = Account::of(
            &[sent("a", Fate::Acked)],
            &[arrived(Mark::Intact("a".into()), at(5)), arrived(Mark::Intact("a".into()), at(1))],
        );
        assert_eq!(account.extra_copies(), 1);
        assert_eq!(account.repeated(), ["a"]);
        let outage = |seconds, delivered: &[&str]| Outage {
            at: at(seconds),
            delivered: delivered.iter().map(|id| (*id).to_owned()).collect(),
        };
        assert_eq!(account.unexplained(&[outage(3, &[])]), Vec::<&str>::new());
        assert_eq!(account.unexplained(&[]), ["a"], "no outage at all");
        assert_eq!(account.unexplained(&[outage(0, &[]), outage(6, &[])]), ["a"], "not between");
        assert_eq!(account.unexplained(&[outage(3, &["a"])]), ["a"], "completed before");
    }
}
