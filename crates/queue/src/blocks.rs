//! A queue for very many small things, in blocks.

use std::collections::VecDeque;

/// Things in one block.
const BLOCK_LEN: usize = 64;

/// A queue in blocks of a few dozen things.
///
/// It never moves what it holds to a larger place: adding to a queue of millions costs as little as
/// adding to a short one, and what is taken out frees memory at once. Each thing has a *mark*, some
/// number of the caller's such as a deadline, of which a block keeps the least. So a long queue is
/// looked through for small marks without a look at each thing.
///
/// Contract:
///
/// - A, getters: [`len`](Self::len), [`is_empty`](Self::is_empty), [`blocks`](Self::blocks),
///   [`mark`](Self::mark).
/// - C, commands: all others.
#[derive(Debug, Clone)]
pub struct BlockQueue<T> {
    blocks: VecDeque<Block<T>>,
    len: usize,
    /// Number of the first block. Blocks keep their numbers.
    first: i64,
}

#[derive(Debug, Clone)]
struct Block<T> {
    /// Not above the mark of anything in it.
    mark: u64,
    items: VecDeque<T>,
}

impl<T> Block<T> {
    fn of_one(item: T, mark: u64) -> Self {
        // Most queues of a wheel hold one thing.
        let mut items = VecDeque::with_capacity(1);
        items.push_back(item);
        Self { mark, items }
    }

    fn has_room(&self) -> bool {
        self.items.len() < BLOCK_LEN
    }
}

impl<T> Default for BlockQueue<T> {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), len: 0, first: 0 }
    }
}

impl<T> BlockQueue<T> {
    /// Makes an empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of things in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds something at the end.
    pub fn push_back(&mut self, item: T, mark: u64) {
        self.len += 1;
        match self.blocks.back_mut() {
            Some(last) if last.has_room() => {
                last.mark = last.mark.min(mark);
                last.items.push_back(item);
            }
            _ => self.blocks.push_back(Block::of_one(item, mark)),
        }
    }

    /// Adds something at the front.
    pub fn push_front(&mut self, item: T, mark: u64) {
        self.len += 1;
        match self.blocks.front_mut() {
            Some(first) if first.has_room() => {
                first.mark = first.mark.min(mark);
                first.items.push_front(item);
            }
            _ => {
                self.first -= 1;
                self.blocks.push_front(Block::of_one(item, mark));
            }
        }
    }

    /// Takes the first thing out.
    pub fn pop_front(&mut self) -> Option<T> {
        let item = self.blocks.front_mut()?.items.pop_front();
        self.len -= usize::from(item.is_some());
        self.trim_front();
        item
    }

    /// Drops empty blocks at the front, so that the first one has something.
    fn trim_front(&mut self) {
        while self.blocks.front().is_some_and(|block| block.items.is_empty()) {
            self.blocks.pop_front();
            self.first += 1;
        }
    }

    /// The last thing, to be changed, together with its block's mark.
    pub fn back_mut(&mut self) -> Option<(&mut T, &mut u64)> {
        let block = self.blocks.back_mut()?;
        Some((block.items.back_mut()?, &mut block.mark))
    }

    /// Adds all of `other` at the end, by the block.
    pub fn append(&mut self, mut other: Self) {
        self.len += other.len;
        // A few things are better off in the last block than in one of their own.
        if let Some(last) = self.blocks.back_mut()
            && let Some(head) = other.blocks.front_mut()
            && last.items.len() + head.items.len() <= BLOCK_LEN
        {
            last.mark = last.mark.min(head.mark);
            last.items.append(&mut head.items);
            other.blocks.pop_front();
        }
        self.blocks.append(&mut other.blocks);
    }

    /// The numbers of its blocks, from the first to the one after the last. A block keeps its number
    /// when others come and go at either end.
    pub fn blocks(&self) -> std::ops::Range<i64> {
        self.first..self.first.saturating_add_unsigned(self.blocks.len() as u64)
    }

    /// The least mark in a block, or less; `u64::MAX` when there is no such block.
    pub fn mark(&self, block: i64) -> u64 {
        self.place(block).and_then(|place| self.blocks.get(place)).map_or(u64::MAX, |b| b.mark)
    }

    /// Offers everything in a block to `keep`, in order: what it gives back stays, with a new mark.
    pub fn sift(&mut self, block: i64, mut keep: impl FnMut(T) -> Option<(T, u64)>) {
        let Some(place) = self.place(block) else { return };
        let Some(block) = self.blocks.get_mut(place) else { return };
        let items = std::mem::take(&mut block.items);
        self.len -= items.len();
        block.mark = u64::MAX;
        block.items.reserve_exact(items.len());
        for (item, mark) in items.into_iter().filter_map(&mut keep) {
            block.mark = block.mark.min(mark);
            block.items.push_back(item);
        }
        self.len += block.items.len();
        self.trim();
    }

    /// Shows everything in a block to `keep`, in order: what it refuses goes. Gives how many things it
    /// was shown. The mark of the block stays, as what is left is not below it.
    pub fn retain(&mut self, block: i64, mut keep: impl FnMut(&mut T) -> bool) -> usize {
        let Some(place) = self.place(block) else { return 0 };
        let Some(block) = self.blocks.get_mut(place) else { return 0 };
        let before = block.items.len();
        block.items.retain_mut(&mut keep);
        let after = block.items.len();
        self.len -= before - after;
        if after < before {
            // One left of each block must not hold the memory of all.
            block.items.shrink_to_fit();
        }
        if after == 0 {
            block.mark = u64::MAX;
            self.trim();
        }
        before
    }

    /// Drops empty blocks at both ends. One in the middle would change the numbers of others: it goes
    /// when it is at an end.
    fn trim(&mut self) {
        self.trim_front();
        while self.blocks.back().is_some_and(|block| block.items.is_empty()) {
            self.blocks.pop_back();
        }
    }

    fn place(&self, block: i64) -> Option<usize> {
        usize::try_from(block - self.first).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Back(u64),
        Front(u64),
        Pop(usize),
        Append(Vec<u64>),
        Sift(u64),
        Retain(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..50_u64).prop_map(Step::Back),
            2 => (0..50_u64).prop_map(Step::Front),
            3 => (0..80_usize).prop_map(Step::Pop),
            2 => prop::collection::vec(0..50_u64, 0..200).prop_map(Step::Append),
            1 => (0..50_u64).prop_map(Step::Sift),
            1 => (0..50_u64).prop_map(Step::Retain),
        ]
    }

    /// The queue, emptied, and the marks held against what is in the blocks.
    fn contents(queue: &mut BlockQueue<u64>) -> Vec<u64> {
        for block in queue.blocks() {
            let mark = queue.mark(block);
            queue.sift(block, |item| {
                assert!(mark <= item, "a mark of {mark} above {item}");
                Some((item, item))
            });
        }
        std::iter::from_fn(|| queue.pop_front()).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_queue(steps in prop::collection::vec(step(), 0..120)) {
            let mut queue = BlockQueue::new();
            let mut model: VecDeque<u64> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Back(item) => {
                        queue.push_back(item, item);
                        model.push_back(item);
                    }
                    Step::Front(item) => {
                        queue.push_front(item, item);
                        model.push_front(item);
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            prop_assert_eq!(queue.pop_front(), model.pop_front());
                        }
                    }
                    Step::Append(items) => {
                        let mut other = BlockQueue::new();
                        for item in &items {
                            other.push_back(*item, *item);
                        }
                        queue.append(other);
                        model.extend(items);
                    }
                    Step::Sift(limit) => {
                        // Whatever is at or below the limit is found by the marks alone.
                        for block in queue.blocks() {
                            if queue.mark(block) <= limit {
                                queue.sift(block, |item| (item > limit).then_some((item, item)));
                            }
                        }
                        model.retain(|item| *item > limit);
                    }
                    Step::Retain(limit) => {
                        for block in queue.blocks() {
                            queue.retain(block, |item| *item <= limit);
                        }
                        model.retain(|item| *item <= limit);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert_eq!(queue.is_empty(), model.is_empty());
            }
            prop_assert_eq!(contents(&mut queue), Vec::from(model));
        }
    }

    #[test]
    fn what_is_dropped_from_the_middle_frees_its_memory() {
        let mut queue = BlockQueue::new();
        for item in 0..100 * BLOCK_LEN as u64 {
            queue.push_back(item, item);
        }
        for block in queue.blocks() {
            let seen = queue.retain(block, |item| item.is_multiple_of(BLOCK_LEN as u64));
            assert_eq!(seen, BLOCK_LEN);
        }
        assert_eq!((queue.len(), queue.blocks()), (100, 0..100));
        let capacity: usize = queue.blocks.iter().map(|block| block.items.capacity()).sum();
        assert!(capacity <= 400, "{capacity}");
    }

    #[test]
    fn blocks_keep_their_numbers() {
        let mut queue = BlockQueue::new();
        for item in 0..4 * BLOCK_LEN as u64 {
            queue.push_back(item, item);
        }
        let third = queue.blocks().start + 2;
        let mark = queue.mark(third);
        assert_eq!(mark, 2 * BLOCK_LEN as u64);
        for item in 0..BLOCK_LEN as u64 {
            assert_eq!(queue.pop_front(), Some(item));
        }
        assert_eq!(queue.mark(third), mark);
        queue.push_front(7, 7);
        assert_eq!((queue.mark(third), queue.mark(third - 9)), (mark, u64::MAX));
        // One that was emptied in the middle, too.
        queue.sift(third, |_| None);
        assert_eq!((queue.mark(third), queue.mark(third + 1)), (u64::MAX, 3 * BLOCK_LEN as u64));
        assert_eq!(queue.len(), 2 * BLOCK_LEN + 1);
        assert_eq!(contents(&mut queue).len(), 2 * BLOCK_LEN + 1);
    }
}
