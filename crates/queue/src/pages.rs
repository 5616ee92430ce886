//! A map for ids that are given out in order.

use std::collections::BTreeMap;

use crate::id::MessageId;

/// Ids of one page: as many as there are bits in [`Page::present`].
const PAGE_SIZE: u64 = 32;
/// Items of the smallest page that is not shrunk any more.
const CAPACITY_MIN: usize = 4;

/// A map from [`MessageId`] to `T`, in the order of ids.
///
/// Ids are given out in order, so neighbours are put into one page of at most 32 items, without room
/// for those that are not there. An item costs its size and about two octets when all its neighbours
/// are there, and about a hundred octets more when none is. Nothing is ever moved but within a page: to
/// grow costs the same with a million items as with ten.
#[derive(Debug)]
pub(crate) struct PageMap<T> {
    pages: BTreeMap<u64, Page<T>>,
}

/// Items of neighbouring ids.
#[derive(Debug)]
struct Page<T> {
    /// Bit `n` is set if the item of the `n`th id is there.
    present: u32,
    /// Those that are there, in order.
    items: Vec<T>,
}

/// The page of an id, and its place in it.
fn place(id: MessageId) -> (u64, u32) {
    (id.to_u64() / PAGE_SIZE, (id.to_u64() % PAGE_SIZE) as u32)
}

impl<T> Default for PageMap<T> {
    fn default() -> Self {
        Self { pages: BTreeMap::new() }
    }
}

impl<T> Page<T> {
    /// Where the item of a place is, or would be.
    fn rank(&self, slot: u32) -> usize {
        (self.present & ((1 << slot) - 1)).count_ones() as usize
    }

    fn has(&self, slot: u32) -> bool {
        self.present & (1 << slot) != 0
    }

    fn ids(&self, page: u64) -> impl Iterator<Item = MessageId> + use<T> {
        let present = self.present;
        (0..PAGE_SIZE)
            .filter(move |slot| present & (1 << slot) != 0)
            .map(move |slot| MessageId::from_u64(page * PAGE_SIZE + slot))
    }
}

impl<T> PageMap<T> {
    pub(crate) fn contains(&self, id: MessageId) -> bool {
        self.get(id).is_some()
    }

    pub(crate) fn get(&self, id: MessageId) -> Option<&T> {
        let (page, slot) = place(id);
        let page = self.pages.get(&page).filter(|page| page.has(slot))?;
        page.items.get(page.rank(slot))
    }

    pub(crate) fn get_mut(&mut self, id: MessageId) -> Option<&mut T> {
        let (page, slot) = place(id);
        let page = self.pages.get_mut(&page).filter(|page| page.has(slot))?;
        let rank = page.rank(slot);
        page.items.get_mut(rank)
    }

    /// Puts an item in; gives the one that was there.
    pub(crate) fn insert(&mut self, id: MessageId, item: T) -> Option<T> {
        let (page, slot) = place(id);
        let page = self.pages.entry(page).or_insert_with(|| Page { present: 0, items: Vec::new() });
        let rank = page.rank(slot);
        if page.has(slot) {
            return page.items.get_mut(rank).map(|known| std::mem::replace(known, item));
        }
        page.present |= 1 << slot;
        page.items.insert(rank, item);
        None
    }

    pub(crate) fn remove(&mut self, id: MessageId) -> Option<T> {
        let (number, slot) = place(id);
        let page = self.pages.get_mut(&number).filter(|page| page.has(slot))?;
        let rank = page.rank(slot);
        page.present &= !(1 << slot);
        let item = page.items.remove(rank);
        if page.items.is_empty() {
            self.pages.remove(&number);
        } else if page.items.capacity() > CAPACITY_MIN.max(page.items.len() * 4) {
            page.items.shrink_to(page.items.len() * 2);
        }
        Some(item)
    }

    /// All items from an id on, in order.
    pub(crate) fn iter_from(&self, first: MessageId) -> impl Iterator<Item = (MessageId, &T)> {
        let (page, _) = place(first);
        let pages = self.pages.range(page..);
        pages
            .flat_map(|(number, page)| page.ids(*number).zip(&page.items))
            .skip_while(move |(id, _)| *id < first)
    }

    /// All items, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MessageId, &T)> {
        self.iter_from(MessageId::from_u64(0))
    }

    /// All items, in order, to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (MessageId, &mut T)> {
        self.pages
            .iter_mut()
            .flat_map(|(number, page)| page.ids(*number).zip(page.items.iter_mut()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, u32),
        Remove(u64),
        Change(u64, u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Close together, on the borders of pages, and far apart.
        let id = || prop_oneof![0u64..100, Just(u64::MAX), (0u64..4).prop_map(|n| n << 48)];
        let step = prop_oneof![
            (id(), any::<u32>()).prop_map(|(id, item)| Step::Insert(id, item)),
            id().prop_map(Step::Remove),
            (id(), any::<u32>()).prop_map(|(id, item)| Step::Change(id, item)),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn behaves_like_a_tree(steps in steps(), from in 0u64..110) {
            let mut map = PageMap::default();
            let mut model = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Insert(id, item) => {
                        let id = MessageId::from_u64(id);
                        prop_assert_eq!(map.insert(id, item), model.insert(id, item));
                    }
                    Step::Remove(id) => {
                        let id = MessageId::from_u64(id);
                        prop_assert_eq!(map.remove(id), model.remove(&id));
                    }
                    Step::Change(id, item) => {
                        let id = MessageId::from_u64(id);
                        prop_assert_eq!(map.get(id), model.get(&id));
                        if let (Some(one), Some(other)) = (map.get_mut(id), model.get_mut(&id)) {
                            (*one, *other) = (item, item);
                        }
                    }
                }
            }
            let from = MessageId::from_u64(from);
            let listed: Vec<_> = map.iter_from(from).map(|(id, item)| (id, *item)).collect();
            let wanted: Vec<_> = model.range(from..).map(|(id, item)| (*id, *item)).collect();
            prop_assert_eq!(listed, wanted);
            map.iter_mut().for_each(|(_, item)| *item ^= 1);
            prop_assert!(map.iter().map(|(_, item)| item ^ 1).eq(model.values().copied()));
        }
    }

    #[test]
    fn pages_have_no_room_to_spare_when_they_are_full_and_little_when_they_are_not() {
        let mut map = PageMap::default();
        for number in 0..3200 {
            map.insert(MessageId::from_u64(number), number);
        }
        assert_eq!(map.pages.len(), 100);
        assert!(map.pages.values().all(|page| page.items.capacity() == 32));
        for number in (0..3200).filter(|number| number % 32 != 7) {
            map.remove(MessageId::from_u64(number));
        }
        assert!(map.pages.values().all(|page| page.items.capacity() <= 4));
        assert_eq!(map.iter().map(|(_, item)| *item).next(), Some(7));
        for number in 0..3200 {
            map.remove(MessageId::from_u64(number));
        }
        assert!(map.pages.is_empty());
    }
}
