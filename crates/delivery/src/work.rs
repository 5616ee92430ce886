//! Recipients of one message on their way to one place, and the queue they wait in.

use std::collections::VecDeque;

use ringpost_queue::{MessageId, RecipientIndex};

/// Index of a destination in the engine's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DestinationId(pub(crate) u32);

/// A recipient that is not settled yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recipient {
    pub(crate) index: RecipientIndex,
    /// Attempts made so far.
    pub(crate) attempts: u16,
    pub(crate) destination: DestinationId,
}

/// Recipients of one message that travel together.
///
/// Work is moved, never copied: it is in the due wheel, waits for DNS, waits at a site, is in
/// the hands of a connection, or is being settled. So each recipient is in one place, and each
/// attempt is settled once.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) message: MessageId,
    pub(crate) expiry_unix_ms: u64,
    /// How often a connection died under it before it was tried.
    pub(crate) returns: u8,
    pub(crate) recipients: Vec<Recipient>,
}

impl Work {
    /// Splits into parts of one destination each.
    pub(crate) fn by_destination(mut self) -> Vec<Self> {
        let single = self
            .recipients
            .first()
            .is_none_or(|first| self.recipients.iter().all(|r| r.destination == first.destination));
        if single {
            return vec![self];
        }
        self.recipients.sort_by_key(|recipient| recipient.destination);
        self.recipients
            .chunk_by(|one, next| one.destination == next.destination)
            .map(|recipients| Self { recipients: recipients.to_vec(), ..self.without_recipients() })
            .collect()
    }

    fn without_recipients(&self) -> Self {
        Self {
            message: self.message,
            expiry_unix_ms: self.expiry_unix_ms,
            returns: self.returns,
            recipients: Vec::new(),
        }
    }
}

/// Work that may start, first in first out; each entry is one transaction.
#[derive(Debug, Default)]
pub(crate) struct ReadyQueue {
    works: VecDeque<Work>,
}

impl ReadyQueue {
    pub(crate) fn len(&self) -> usize {
        self.works.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Adds work at the end. Recipients of the message that came last join its transaction, as
    /// far as `recipients_max` allows.
    pub(crate) fn push(&mut self, mut work: Work, recipients_max: usize) {
        let recipients_max = recipients_max.max(1);
        if let Some(last) = self.works.back_mut()
            && last.message == work.message
            && last.returns == work.returns
        {
            let room = recipients_max.saturating_sub(last.recipients.len());
            let joining = room.min(work.recipients.len());
            last.recipients.extend(work.recipients.drain(..joining));
        }
        while work.recipients.len() > recipients_max {
            let rest = work.recipients.split_off(recipients_max);
            let next = Work { recipients: rest, ..work.without_recipients() };
            self.works.push_back(std::mem::replace(&mut work, next));
        }
        if !work.recipients.is_empty() {
            self.works.push_back(work);
        }
    }

    /// Puts work back where it was taken.
    pub(crate) fn push_front(&mut self, work: Work) {
        if !work.recipients.is_empty() {
            self.works.push_front(work);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Work> {
        self.works.pop_front()
    }

    /// Takes everything.
    pub(crate) fn take(&mut self) -> VecDeque<Work> {
        std::mem::take(&mut self.works)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn work(message: u64, indices: std::ops::Range<u16>, destinations: u32) -> Work {
        let recipients = indices
            .map(|index| Recipient {
                index: RecipientIndex(index),
                attempts: 0,
                destination: DestinationId(u32::from(index) % destinations),
            })
            .collect();
        Work { message: MessageId::from_u64(message), expiry_unix_ms: 9, returns: 0, recipients }
    }

    fn sizes(queue: &mut ReadyQueue) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| queue.pop())
            .map(|work| (work.message.to_u64(), work.recipients.len()))
            .collect()
    }

    #[test]
    fn recipients_of_one_message_join_up_to_the_limit() {
        let mut queue = ReadyQueue::default();
        queue.push(work(1, 0..3, 1), 5);
        queue.push(work(1, 3..7, 1), 5);
        queue.push(work(2, 0..1, 1), 5);
        queue.push(work(1, 7..8, 1), 5);
        queue.push(work(3, 0..12, 1), 5);
        queue.push(work(4, 0..0, 1), 5);
        assert_eq!(sizes(&mut queue), [(1, 5), (1, 2), (2, 1), (1, 1), (3, 5), (3, 5), (3, 2)]);
    }

    #[test]
    fn work_that_came_back_is_not_joined() {
        let mut queue = ReadyQueue::default();
        queue.push_front(Work { returns: 1, ..work(1, 0..1, 1) });
        queue.push(work(1, 1..2, 1), 5);
        assert_eq!(sizes(&mut queue), [(1, 1), (1, 1)]);
    }

    proptest! {
        #[test]
        fn nobody_is_lost_or_doubled(
            counts in proptest::collection::vec(0..30_u16, 0..10),
            limit in 0..9_usize,
            destinations in 1..5_u32,
        ) {
            let mut queue = ReadyQueue::default();
            let mut next = 0;
            for count in counts {
                for part in work(1, next..next + count, destinations).by_destination() {
                    let first = part.recipients.first().map(|one| one.destination);
                    prop_assert!(part.recipients.iter().all(|one| Some(one.destination) == first));
                    queue.push(part, limit);
                }
                next += count;
            }
            let mut seen = Vec::new();
            while let Some(work) = queue.pop() {
                prop_assert!((1..=limit.max(1)).contains(&work.recipients.len()));
                seen.extend(work.recipients.iter().map(|one| one.index.0));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..next).collect::<Vec<_>>());
        }
    }
}
