//! Work of one priority in a row.

use ringpost_queue::BlockQueue;

use crate::clock::Stamp;
use crate::work::Work;

/// Work that waits, first in first out; each entry is one transaction. All is of one priority.
///
/// The mark of a work is when something is to be done about it though it waits: it expires, or its
/// originator is to be told of the delay.
#[derive(Debug)]
pub(crate) struct Lane {
    works: BlockQueue<Work>,
    recipients: usize,
    /// Not above the least mark.
    mark: u64,
    /// A look through the queue that is under way.
    pass: Option<Pass>,
}

#[derive(Debug, Clone, Copy)]
struct Pass {
    /// The next block.
    next: i64,
    /// Not above the least mark of what it has passed.
    mark: u64,
}

/// Blocks whose marks are looked at in one step.
const BLOCKS_PER_STEP: usize = 1024;

/// Blocks whose works are looked at in one step: some 256 works.
const SIFTED_PER_STEP: usize = 4;

/// Works up to which it is better to move one by one than by the block.
const SHORT: usize = 64;

impl Default for Lane {
    fn default() -> Self {
        Self { works: BlockQueue::new(), recipients: 0, mark: u64::MAX, pass: None }
    }
}

impl Lane {
    pub(crate) fn len(&self) -> usize {
        self.works.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Recipients of all work.
    pub(crate) fn recipients(&self) -> usize {
        self.recipients
    }

    /// When something may be to be done about one of the works.
    pub(crate) fn mark(&self) -> Option<Stamp> {
        (self.mark != u64::MAX).then_some(Stamp(self.mark))
    }

    fn note(&mut self, mark: u64) {
        self.mark = self.mark.min(mark);
        if let Some(pass) = &mut self.pass {
            pass.mark = pass.mark.min(mark);
        }
    }

    /// Adds work at the end. Recipients of the message that came last join its transaction, as
    /// far as `recipients_max` allows.
    pub(crate) fn push(&mut self, mut work: Work, mark: Stamp, recipients_max: usize) {
        let recipients_max = recipients_max.max(1);
        self.recipients += work.recipients.len();
        self.note(mark.0);
        if let Some((last, last_mark)) = self.works.back_mut()
            && last.message == work.message
            && last.returns == work.returns
            && last.recipients.len() < recipients_max
        {
            let mut joined = std::mem::take(&mut last.recipients).into_vec();
            let mut joining = work.recipients.into_vec();
            let room = recipients_max.saturating_sub(joined.len()).min(joining.len());
            joined.extend(joining.drain(..room));
            last.recipients = joined.into();
            work.recipients = joining.into();
            *last_mark = mark.0.min(*last_mark);
        }
        if work.recipients.len() > recipients_max {
            let all = std::mem::take(&mut work.recipients).into_vec();
            for part in all.chunks(recipients_max) {
                self.works.push_back(work.with(part.to_vec()), mark.0);
            }
        } else if !work.recipients.is_empty() {
            self.works.push_back(work, mark.0);
        }
    }

    /// Puts work back where it was taken.
    pub(crate) fn push_front(&mut self, work: Work, mark: Stamp) {
        if !work.recipients.is_empty() {
            self.recipients += work.recipients.len();
            self.note(mark.0);
            self.works.push_front(work, mark.0);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Work> {
        let work = self.works.pop_front()?;
        self.recipients = self.recipients.saturating_sub(work.recipients.len());
        if self.is_empty() {
            self.mark = u64::MAX;
        }
        Some(work)
    }

    /// Adds all of `other` at the end, by the block when it is long. `mark` tells the marks of its
    /// works, which are only needed when it is short.
    pub(crate) fn append(
        &mut self,
        mut other: Self,
        recipients_max: usize,
        mark: impl Fn(&Work) -> Stamp,
    ) {
        if other.len() <= SHORT {
            while let Some(work) = other.pop() {
                let mark = mark(&work);
                self.push(work, mark, recipients_max);
            }
            return;
        }
        self.note(other.mark);
        self.recipients += other.recipients;
        self.works.append(other.works);
    }

    /// Takes everything.
    pub(crate) fn take(&mut self) -> BlockQueue<Work> {
        self.recipients = 0;
        self.mark = u64::MAX;
        self.pass = None;
        std::mem::take(&mut self.works)
    }

    /// The numbers of its blocks, for [`retain`](Self::retain).
    pub(crate) fn blocks(&self) -> std::ops::Range<i64> {
        self.works.blocks()
    }

    /// Shows the works of a block to `keep`, which may take recipients away: what has none left
    /// goes. Gives how many recipients it was shown.
    pub(crate) fn retain(&mut self, block: i64, mut keep: impl FnMut(&mut Work)) -> usize {
        let (mut before, mut after) = (0, 0);
        self.works.retain(block, |work| {
            before += work.recipients.len();
            keep(work);
            after += work.recipients.len();
            !work.recipients.is_empty()
        });
        self.recipients = self.recipients.saturating_sub(before - after);
        if self.is_empty() {
            self.mark = u64::MAX;
        }
        before
    }

    /// Goes on to look for work whose mark is not after `now`, a bounded step at a time: `keep` gives
    /// back what stays, with its new mark. Returns whether the end was reached.
    pub(crate) fn look(
        &mut self,
        now: Stamp,
        mut keep: impl FnMut(Work) -> Option<(Work, Stamp)>,
    ) -> bool {
        let blocks = self.works.blocks();
        let mut pass = self.pass.unwrap_or(Pass { next: blocks.start, mark: u64::MAX });
        pass.next = pass.next.max(blocks.start);
        let (mut seen, mut sifted) = (0, 0);
        let mut recipients = self.recipients;
        while pass.next < blocks.end && seen < BLOCKS_PER_STEP && sifted < SIFTED_PER_STEP {
            if self.works.mark(pass.next) <= now.0 {
                sifted += 1;
                self.works.sift(pass.next, |work| {
                    let before = work.recipients.len();
                    let kept = keep(work);
                    let after = kept.as_ref().map_or(0, |(work, _)| work.recipients.len());
                    recipients = recipients.saturating_sub(before - after);
                    kept.map(|(work, mark)| (work, mark.0))
                });
            }
            pass.mark = pass.mark.min(self.works.mark(pass.next));
            pass.next += 1;
            seen += 1;
        }
        self.recipients = recipients;
        let is_done = pass.next >= blocks.end;
        if is_done {
            self.mark = if self.is_empty() { u64::MAX } else { pass.mark };
            self.pass = None;
        } else {
            self.pass = Some(pass);
        }
        is_done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringpost_protocol::priority::Priority;
    use ringpost_queue::{MessageId, RecipientIndex};

    use super::*;
    use crate::work::{DestinationId, Recipient, Recipients};

    const LATE: Stamp = Stamp(1000);

    fn work(message: u64, indices: std::ops::Range<u16>, destinations: u32) -> Work {
        let recipients: Vec<Recipient> = indices
            .map(|index| {
                let destination = DestinationId(u32::from(index) % destinations);
                Recipient::new(RecipientIndex(index), 0, destination, false)
            })
            .collect();
        Work {
            message: MessageId::from_u64(message),
            since: Stamp(0),
            expiry: LATE,
            recipients: recipients.into(),
            returns: 0,
            priority: Priority::NORMAL,
            by: crate::work::ByTime::NONE,
        }
    }

    fn sizes(queue: &mut Lane) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| queue.pop())
            .map(|work| (work.message.to_u64(), work.recipients.len()))
            .collect()
    }

    #[test]
    fn recipients_of_one_message_join_up_to_the_limit() {
        let mut queue = Lane::default();
        queue.push(work(1, 0..3, 1), LATE, 5);
        queue.push(work(1, 3..7, 1), LATE, 5);
        queue.push(work(2, 0..1, 1), LATE, 5);
        queue.push(work(1, 7..8, 1), LATE, 5);
        queue.push(work(3, 0..12, 1), LATE, 5);
        queue.push(work(4, 0..0, 1), LATE, 5);
        assert_eq!(queue.recipients(), 21);
        assert_eq!(sizes(&mut queue), [(1, 5), (1, 2), (2, 1), (1, 1), (3, 5), (3, 5), (3, 2)]);
        assert_eq!((queue.recipients(), queue.mark()), (0, None));
    }

    #[test]
    fn work_that_came_back_is_not_joined() {
        let mut queue = Lane::default();
        queue.push_front(Work { returns: 1, ..work(1, 0..1, 1) }, LATE);
        queue.push(work(1, 1..2, 1), LATE, 5);
        assert_eq!(sizes(&mut queue), [(1, 1), (1, 1)]);
    }

    #[test]
    fn a_look_takes_many_small_steps() {
        let mut queue = Lane::default();
        for message in 0..10_000 {
            queue.push(work(message, 0..1, 1), Stamp(message), 5);
        }
        let mut taken = 0_usize;
        let mut steps = 0;
        loop {
            let mut seen = 0;
            let is_done = queue.look(Stamp(4999), |work| {
                seen += 1;
                let mark = Stamp(work.message.to_u64());
                (mark.0 > 4999).then_some((work, mark))
            });
            assert!(seen <= 256, "{seen} works in one step");
            taken += seen;
            steps += 1;
            if is_done {
                break;
            }
        }
        // No block is touched that has nothing to give, and those that have are not all taken at once.
        assert!((5000..5100).contains(&taken), "{taken}");
        assert!(steps > 15, "{steps}");
        assert_eq!((queue.len(), queue.recipients()), (5000, 5000));
        assert_eq!(queue.mark(), Some(Stamp(5000)));
    }

    proptest! {
        #[test]
        fn nobody_is_lost_or_doubled(
            counts in proptest::collection::vec((0..30_u16, any::<bool>()), 0..10),
            limit in 0..9_usize,
            destinations in 1..5_u32,
        ) {
            let mut queue = Lane::default();
            let mut next = 0;
            for (count, apart) in counts {
                let mut other = Lane::default();
                work(1, next..next + count, destinations).by_destination(|part| {
                    let first = part.recipients.as_slice()[0].destination();
                    assert!(part.recipients.as_slice().iter().all(|r| r.destination() == first));
                    if apart { other.push(part, LATE, limit) } else { queue.push(part, LATE, limit) }
                });
                queue.append(other, limit, |_| LATE);
                next += count;
            }
            prop_assert_eq!(queue.recipients(), usize::from(next));
            let mut seen = Vec::new();
            while let Some(work) = queue.pop() {
                prop_assert!((1..=limit.max(1)).contains(&work.recipients.len()));
                seen.extend(work.recipients.as_slice().iter().map(|one| one.index.0));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..next).collect::<Vec<_>>());
        }

        /// Whatever happens between the steps of a look, a mark is never forgotten.
        #[test]
        fn no_mark_is_overlooked(
            steps in proptest::collection::vec((0..5_u8, 0..200_u64), 1..400),
        ) {
            let mut queue = Lane::default();
            let mut number = 0;
            let mut marks = std::collections::BTreeMap::new();
            for (step, value) in steps {
                match step {
                    0 | 1 => {
                        for _ in 0..=value / 4 {
                            number += 1;
                            marks.insert(number, value);
                            let of_one = work(number, 0..1, 1);
                            if step == 0 {
                                queue.push(of_one, Stamp(value), 5);
                            } else {
                                queue.push_front(of_one, Stamp(value));
                            }
                        }
                    }
                    2 => {
                        if let Some(work) = queue.pop() {
                            marks.remove(&work.message.to_u64());
                        }
                    }
                    3 => {
                        for block in queue.blocks() {
                            queue.retain(block, |work| {
                                if marks[&work.message.to_u64()] % 7 == value % 7 {
                                    marks.remove(&work.message.to_u64());
                                    work.recipients = Recipients::default();
                                }
                            });
                        }
                    }
                    _ => {
                        queue.look(Stamp(value), |work| {
                            let mark = marks[&work.message.to_u64()];
                            if mark <= value {
                                marks.remove(&work.message.to_u64());
                                return None;
                            }
                            Some((work, Stamp(mark)))
                        });
                    }
                }
                let least = marks.values().min().copied();
                prop_assert!(least.is_none_or(|least| queue.mark().unwrap().0 <= least));
                prop_assert_eq!((queue.len(), queue.recipients()), (marks.len(), marks.len()));
            }
            // The first pass may have begun before.
            for _ in 0..2 {
                while !queue.look(LATE, |_| None) {}
            }
            prop_assert!(queue.works.is_empty());
        }
    }
}
