//! Answers kept until their time is up, within a fixed number of entries.

use std::time::Instant;

use super::{LookupResult, Question};
use crate::random::{SeededMap, SeededState};

#[derive(Debug, Clone)]
struct Entry {
    result: LookupResult,
    expires: Instant,
}

/// A cache of two generations.
///
/// New and used entries go to the young one. When it holds half of the limit it becomes the
/// old one, and the former old one is dropped: what was not used for a whole generation goes,
/// in constant time and without a list to keep in order.
#[derive(Debug)]
pub(super) struct Cache {
    young: SeededMap<Question, Entry>,
    old: SeededMap<Question, Entry>,
    state: SeededState,
    entries_max: usize,
}

impl Cache {
    pub(super) fn new(state: SeededState, entries_max: usize) -> Self {
        Self {
            young: SeededMap::with_hasher(state.clone()),
            old: SeededMap::with_hasher(state.clone()),
            state,
            entries_max,
        }
    }

    /// Number of entries held, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(super) fn set_entries_max(&mut self, entries_max: usize) {
        self.entries_max = entries_max;
    }

    /// Returns the answer and when it expires, unless it has.
    pub(super) fn get(
        &mut self,
        now: Instant,
        question: &Question,
    ) -> Option<(LookupResult, Instant)> {
        if let Some(entry) = self.young.get(question) {
            return (entry.expires > now).then(|| (entry.result.clone(), entry.expires));
        }
        let entry = self.old.remove(question)?;
        if entry.expires <= now {
            return None;
        }
        let found = (entry.result.clone(), entry.expires);
        self.put(question.clone(), entry);
        Some(found)
    }

    pub(super) fn insert(&mut self, question: Question, result: LookupResult, expires: Instant) {
        self.old.remove(&question);
        self.put(question, Entry { result, expires });
    }

    /// Forgets that there was no answer, if there was none.
    pub(super) fn forget_failure(&mut self, question: &Question) {
        for generation in [&mut self.young, &mut self.old] {
            if generation.get(question).is_some_and(|entry| entry.result.is_err()) {
                generation.remove(question);
            }
        }
    }

    fn put(&mut self, question: Question, entry: Entry) {
        if self.young.len() >= (self.entries_max / 2).max(1) {
            let empty = SeededMap::with_hasher(self.state.clone());
            self.old = std::mem::replace(&mut self.young, empty);
        }
        self.young.insert(question, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, RecordKind};
    use super::*;
    use crate::random::Random;
    use std::rc::Rc;
    use std::time::Duration;

    fn question(n: usize) -> Question {
        Question { name: format!("{n}.example").into(), kind: RecordKind::Mx }
    }

    #[test]
    fn entries_expire() {
        let now = Instant::now();
        let mut cache = Cache::new(SeededState::new(&mut Random::new(1)), 10);
        let expires = now + Duration::from_secs(5);
        cache.insert(question(1), Ok(Rc::new(Answer::NoData)), expires);
        assert!(cache.get(now, &question(1)).is_some());
        assert!(cache.get(expires, &question(1)).is_none());
    }

    #[test]
    fn the_limit_holds_and_used_entries_survive() {
        let now = Instant::now();
        let expires = now + Duration::from_secs(500);
        let mut cache = Cache::new(SeededState::new(&mut Random::new(1)), 10);
        for n in 0..1000 {
            cache.insert(question(n), Ok(Rc::new(Answer::NoData)), expires);
            assert!(cache.get(now, &question(0)).is_some(), "entry 0 lost after {n}");
            assert!(cache.len() <= 10, "{} entries", cache.len());
        }
        assert!(cache.get(now, &question(1)).is_none());
    }
}
