//! Work that waits for a connection or for the DNS: the urgent first, and nothing for ever.

use std::collections::BTreeMap;
use std::ops::Range;

use ringpost_protocol::priority::Priority;
use ringpost_queue::BlockQueue;

use crate::clock::Stamp;
use crate::lane::Lane;
use crate::work::Work;

/// Of so many works that leave while work of several priorities waits, one is not of the highest.
const TURN: u64 = 8;

/// Work that waits, in a lane for each priority; each entry is one transaction.
///
/// The highest priority goes first. Each [`TURN`]th time another one does, in turn the one that has
/// waited longest for that, so that mail of no priority waits for ever behind urgent mail.
///
/// The mark of a work is when something is to be done about it though it waits: it expires, or its
/// originator is to be told of the delay.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// That of priority 0, which is nearly all there is.
    normal: Lane,
    /// Those of other priorities; none unless there is, or lately was, such work.
    others: Option<Box<Others>>,
    /// When a look is due; for the owner of the queue.
    pub(crate) look_at: Option<std::time::Instant>,
}

#[derive(Debug, Default)]
struct Others {
    lanes: BTreeMap<Priority, Lane>,
    /// Works that have left while there was a choice.
    choices: u64,
    /// At which of these each priority had its last turn.
    turns: BTreeMap<Priority, u64>,
    /// The lane that a look has come to.
    looking: Option<Priority>,
}

/// A place in what waits, for [`Waiting::retain_some`]. The default is before everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cursor {
    lane: Option<Priority>,
    /// The blocks of the lane that are still to be seen, once that is known.
    left: Option<Range<i64>>,
}

impl Waiting {
    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        let others = self.others.iter().flat_map(|others| others.lanes.values());
        std::iter::once(&self.normal).chain(others)
    }

    fn lane(&self, priority: Priority) -> Option<&Lane> {
        if priority.is_normal() {
            return Some(&self.normal);
        }
        self.others.as_ref()?.lanes.get(&priority)
    }

    fn lane_mut(&mut self, priority: Priority) -> Option<&mut Lane> {
        if priority.is_normal() {
            return Some(&mut self.normal);
        }
        self.others.as_mut()?.lanes.get_mut(&priority)
    }

    fn make_lane(&mut self, priority: Priority) -> &mut Lane {
        if priority.is_normal() {
            return &mut self.normal;
        }
        self.others.get_or_insert_default().lanes.entry(priority).or_default()
    }

    /// The highest priority that has a lane, below another one if there is one given.
    fn next_lane(&self, below: Option<Priority>) -> Option<Priority> {
        let is_next = |priority: &Priority| below.is_none_or(|below| *priority < below);
        let others = self.others.iter().flat_map(|others| others.lanes.keys().copied());
        others.chain([Priority::NORMAL]).filter(is_next).max()
    }

    /// The priorities of which work waits, the highest first.
    fn priorities(&self) -> impl Iterator<Item = Priority> {
        let next = |below: &Priority| self.next_lane(Some(*below));
        std::iter::successors(self.next_lane(None), next)
            .filter(|priority| self.lane(*priority).is_some_and(|lane| !lane.is_empty()))
    }

    /// Forgets whose turn it was when nothing waits any more.
    fn tidy(&mut self) {
        if self.others.is_some() && self.is_empty() {
            self.others = None;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes().map(Lane::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lanes().all(Lane::is_empty)
    }

    /// Recipients of all work.
    pub(crate) fn recipients(&self) -> usize {
        self.lanes().map(Lane::recipients).sum()
    }

    /// When something may be to be done about one of the works.
    pub(crate) fn mark(&self) -> Option<Stamp> {
        self.lanes().filter_map(Lane::mark).min()
    }

    /// Adds work at the end of its lane. Recipients of the message that came last join its
    /// transaction, as far as `recipients_max` allows.
    pub(crate) fn push(&mut self, work: Work, mark: Stamp, recipients_max: usize) {
        self.make_lane(work.priority).push(work, mark, recipients_max);
    }

    /// Puts work back where it was taken.
    pub(crate) fn push_front(&mut self, work: Work, mark: Stamp) {
        if !work.recipients.is_empty() {
            self.make_lane(work.priority).push_front(work, mark);
        }
    }

    /// Takes the work whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Work> {
        if self.others.is_none() {
            return self.normal.pop();
        }
        let priority = self.choose()?;
        let work = self.lane_mut(priority)?.pop();
        self.tidy();
        work
    }

    fn choose(&mut self) -> Option<Priority> {
        let mut waiting = self.priorities();
        let highest = waiting.next()?;
        let rest: Vec<Priority> = waiting.collect();
        let Some(others) = self.others.as_mut().filter(|_| !rest.is_empty()) else {
            return Some(highest);
        };
        others.choices += 1;
        if !others.choices.is_multiple_of(TURN) {
            return Some(highest);
        }
        let last_turn = |priority: &Priority| others.turns.get(priority).copied().unwrap_or(0);
        // Of several that have not had one yet the highest.
        let chosen = rest.into_iter().min_by_key(last_turn)?;
        others.turns.insert(chosen, others.choices);
        Some(chosen)
    }

    /// Takes work of the lowest priority, the one that came first.
    pub(crate) fn pop_least(&mut self) -> Option<Work> {
        let priority = self.priorities().last()?;
        let work = self.lane_mut(priority)?.pop();
        self.tidy();
        work
    }

    /// Adds all of `other` at the ends of the lanes, by the block when it is long. `mark` tells the
    /// marks of its works, which are only needed when it is short.
    pub(crate) fn append(
        &mut self,
        other: Self,
        recipients_max: usize,
        mark: impl Fn(&Work) -> Stamp,
    ) {
        self.normal.append(other.normal, recipients_max, &mark);
        for (priority, lane) in other.others.into_iter().flat_map(|others| others.lanes) {
            if !lane.is_empty() {
                self.make_lane(priority).append(lane, recipients_max, &mark);
            }
        }
    }

    /// Takes everything, the highest priority first.
    pub(crate) fn take(&mut self) -> BlockQueue<Work> {
        if self.others.is_none() {
            return self.normal.take();
        }
        let mut works = BlockQueue::new();
        let mut next = self.next_lane(None);
        while let Some(priority) = next {
            if let Some(lane) = self.lane_mut(priority) {
                works.append(lane.take());
            }
            next = self.next_lane(Some(priority));
        }
        self.tidy();
        works
    }

    /// Shows the works of a block behind `cursor` to `keep`, which may take recipients away: what has
    /// none left goes. Gives how many recipients it was shown, or `None` at the end. What comes in
    /// while a cursor moves on need not be shown.
    pub(crate) fn retain_some(
        &mut self,
        cursor: &mut Cursor,
        mut keep: impl FnMut(&mut Work),
    ) -> Option<usize> {
        loop {
            let priority = match cursor.lane {
                Some(priority) => priority,
                None => self.next_lane(None)?,
            };
            cursor.lane = Some(priority);
            let lane = self.lane_mut(priority);
            let next = lane.as_ref().and_then(|lane| next_block(&mut cursor.left, &lane.blocks()));
            if let (Some(lane), Some(block)) = (lane, next) {
                let seen = lane.retain(block, &mut keep);
                self.tidy();
                return Some(seen);
            }
            *cursor = Cursor { lane: Some(self.next_lane(Some(priority))?), left: None };
        }
    }

    /// Goes on to look for work whose mark is not after `now`, a bounded step at a time: `keep` gives
    /// back what stays, with its new mark. Returns whether the end was reached.
    pub(crate) fn look(
        &mut self,
        now: Stamp,
        mut keep: impl FnMut(Work) -> Option<(Work, Stamp)>,
    ) -> bool {
        let Some(others) = &mut self.others else { return self.normal.look(now, keep) };
        let mut next = others.looking.take().or_else(|| self.next_lane(None));
        while let Some(priority) = next {
            let following = self.next_lane(Some(priority));
            let lane = self.lane_mut(priority);
            if let Some(lane) = lane.filter(|lane| lane.mark().is_some_and(|mark| mark <= now)) {
                // A step in one lane is a step.
                let unfinished = if lane.look(now, &mut keep) { following } else { Some(priority) };
                if let Some(others) = &mut self.others {
                    others.looking = unfinished;
                }
                self.tidy();
                return unfinished.is_none();
            }
            next = following;
        }
        true
    }
}

/// The next block to be seen of a lane. What came in after the cursor had come to it has been seen, or
/// is new.
fn next_block(left: &mut Option<Range<i64>>, now: &Range<i64>) -> Option<i64> {
    let left = left.get_or_insert_with(|| now.clone());
    let next = left.start.max(now.start);
    left.start = next + 1;
    (next < left.end.min(now.end)).then_some(next)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use ringpost_queue::{MessageId, RecipientIndex};

    use super::*;
    use crate::work::{DestinationId, Recipient, Recipients};

    fn work(message: u64, level: i8) -> Work {
        let recipient = Recipient::new(RecipientIndex(0), 0, DestinationId(0), false);
        Work {
            message: MessageId::from_u64(message),
            since: Stamp(0),
            expiry: Stamp(1000),
            recipients: Recipients::One(recipient),
            returns: 0,
            priority: Priority::new(level).unwrap(),
            by: crate::work::ByTime::NONE,
        }
    }

    fn push(waiting: &mut Waiting, message: u64, level: i8) {
        waiting.push(work(message, level), Stamp(message), 5);
    }

    fn order(waiting: &mut Waiting) -> Vec<u64> {
        std::iter::from_fn(|| waiting.pop()).map(|work| work.message.to_u64()).collect()
    }

    #[test]
    fn the_highest_goes_first_and_equals_as_they_came() {
        let mut waiting = Waiting::default();
        for (message, level) in [(1, 0), (2, -3), (3, 9), (4, 0), (5, 9)] {
            push(&mut waiting, message, level);
        }
        assert_eq!((waiting.len(), waiting.recipients()), (5, 5));
        assert_eq!(waiting.mark(), Some(Stamp(1)));
        assert_eq!(order(&mut waiting), [3, 5, 1, 4, 2]);
        assert!(waiting.others.is_none() && waiting.is_empty() && waiting.mark().is_none());
    }

    #[test]
    fn what_came_back_is_the_next_of_its_kind() {
        let mut waiting = Waiting::default();
        push(&mut waiting, 1, 0);
        push(&mut waiting, 2, 4);
        push(&mut waiting, 3, 4);
        let first = waiting.pop().unwrap();
        waiting.push_front(first, Stamp(2));
        assert_eq!(order(&mut waiting), [2, 3, 1]);
    }

    #[test]
    fn the_lowest_pays_for_what_fails() {
        let mut waiting = Waiting::default();
        for (message, level) in [(1, 5), (2, 0), (3, 0)] {
            push(&mut waiting, message, level);
        }
        let paid: Vec<_> = std::iter::from_fn(|| waiting.pop_least()).collect();
        let paid: Vec<_> = paid.iter().map(|work| work.message.to_u64()).collect();
        assert_eq!(paid, [2, 3, 1]);
    }

    /// Urgent mail comes for ever, one piece for each that goes; all the others go nevertheless.
    #[test]
    fn nothing_waits_for_ever() {
        let mut waiting = Waiting::default();
        let levels = [-9, -1, 0, 3];
        for (level, message) in levels.into_iter().zip(1..) {
            push(&mut waiting, message, level);
        }
        let mut left = Vec::new();
        for message in 100..100 + TURN * 4 {
            push(&mut waiting, message, 9);
            let gone = waiting.pop().unwrap().message.to_u64();
            if gone < 100 {
                left.push(gone);
            }
        }
        assert_eq!(left, [4, 3, 2, 1]);
        // Without turns they would all be there still.
        assert!(order(&mut waiting).into_iter().all(|message| message >= 100));
    }

    /// Of two that are both passed over neither gets all the turns.
    #[test]
    fn turns_go_round() {
        let mut waiting = Waiting::default();
        for message in 0..100 {
            push(&mut waiting, message, i8::try_from(message % 3).unwrap());
        }
        let gone: Vec<u64> =
            (0..TURN * 4).map(|_| waiting.pop().unwrap().message.to_u64() % 3).collect();
        let turns: Vec<u64> = gone.into_iter().filter(|level| *level != 2).collect();
        assert_eq!(turns, [1, 0, 1, 0]);
    }

    #[test]
    fn a_look_and_a_pass_see_all_lanes() {
        let mut waiting = Waiting::default();
        for message in 0..3000 {
            push(&mut waiting, message, i8::try_from(message % 5).unwrap() - 2);
        }
        let mut seen = 0;
        let mut steps = 0;
        let mut keep = |work: Work| {
            seen += 1;
            let mark = Stamp(work.message.to_u64());
            (mark.0 > 999).then_some((work, mark))
        };
        while !waiting.look(Stamp(999), &mut keep) {
            steps += 1;
        }
        assert!(steps >= 4 && (1000..1500).contains(&seen), "{steps} {seen}");
        assert_eq!((waiting.len(), waiting.mark()), (2000, Some(Stamp(1000))));

        let (mut cursor, mut shown) = (Cursor::default(), 0);
        while let Some(count) = waiting.retain_some(&mut cursor, |work| {
            if work.message.to_u64() % 2 == 0 {
                work.recipients = Recipients::default();
            }
        }) {
            assert!(count <= 64);
            shown += count;
        }
        assert_eq!((shown, waiting.len(), waiting.recipients()), (2000, 1000, 1000));
        assert_eq!(waiting.take().len(), 1000);
        assert!(waiting.is_empty() && waiting.others.is_none());
    }

    proptest! {
        /// Against a model with a plain queue for each priority.
        #[test]
        fn nothing_is_lost_and_the_order_is_the_rule(
            steps in prop::collection::vec((0..6_u8, -9..=9_i8), 1..200),
        ) {
            let mut waiting = Waiting::default();
            let mut model: BTreeMap<i8, VecDeque<u64>> = BTreeMap::new();
            let mut since_other = 0;
            for ((step, level), message) in steps.into_iter().zip(0..) {
                match step {
                    0..=2 => {
                        push(&mut waiting, message, level);
                        model.entry(level).or_default().push_back(message);
                    }
                    3 => {
                        let mut other = Waiting::default();
                        push(&mut other, message, level);
                        waiting.append(other, 5, |_| Stamp(0));
                        model.entry(level).or_default().push_back(message);
                    }
                    _ => {
                        model.retain(|_, queue| !queue.is_empty());
                        let highest = model.keys().next_back().copied();
                        let Some(work) = waiting.pop() else {
                            prop_assert!(model.is_empty());
                            continue;
                        };
                        let level = work.priority.level();
                        if Some(level) == highest {
                            since_other += u64::from(model.len() > 1);
                        } else {
                            prop_assert!(since_other >= TURN - 1, "{since_other}");
                            since_other = 0;
                        }
                        prop_assert!(since_other < TURN);
                        let expected = model.get_mut(&level).and_then(VecDeque::pop_front);
                        prop_assert_eq!(expected, Some(work.message.to_u64()));
                        if model.values().all(VecDeque::is_empty) {
                            since_other = 0;
                        }
                    }
                }
                let count: usize = model.values().map(VecDeque::len).sum();
                prop_assert_eq!((waiting.len(), waiting.is_empty()), (count, count == 0));
            }
        }
    }
}
