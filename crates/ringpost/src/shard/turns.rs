//! How intake and deliveries share a core.
//!
//! Tasks that can run do so in turns, one step each. With hundreds of clients at work and the twenty
//! connections to a site, deliveries would have a small part of the core, and the queue would grow. So
//! sessions take a bounded number of steps; then what deliveries have been waiting for is looked at, and
//! they have their turn, before the sessions have their next.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use ringpost_metrics::label::Limit;

use super::{Shard, signal::Signal};
use crate::runtime::Runtime;

/// Steps of sessions between two turns of deliveries. A step takes a few dozen microseconds, so that
/// deliveries wait for a millisecond or two.
const STEPS_MAX: usize = 32;

/// What of the steps is left, and who waits for more.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Cell<usize>,
    waiters: RefCell<VecDeque<Waker>>,
    work: Signal,
}

impl Turns {
    /// Begins a new turn: who has waited longest has the first steps.
    fn begin(&self) {
        let mut waiters = self.waiters.borrow_mut();
        let count = waiters.len().min(STEPS_MAX);
        self.taken.set(count);
        for waker in waiters.drain(..count) {
            waker.wake();
        }
    }

    /// Takes a step, if one is left.
    fn take(&self) -> bool {
        let taken = self.taken.get();
        let is_left = taken < STEPS_MAX;
        self.taken.set(taken + usize::from(is_left));
        is_left
    }
}

impl<R: Runtime> Shard<R> {
    /// Waits until a session may have its next step; not at all while nothing is to be delivered.
    pub(super) async fn intake_turn(&self) {
        if self.outbound_open.get() == 0 || self.turns.take() {
            return;
        }
        self.metrics.limit_hits.increment(Limit::IntakeTurns);
        let mut is_waiting = false;
        poll_fn(|context| {
            // Woken by `begin`; for any other reason it would be no harm.
            if std::mem::replace(&mut is_waiting, true) {
                return Poll::Ready(());
            }
            self.turns.waiters.borrow_mut().push_back(context.waker().clone());
            self.turns.work.set();
            Poll::Pending
        })
        .await;
    }
}

/// Begins a new turn whenever sessions wait for one, and deliveries have had theirs.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    loop {
        shard.turns.work.wait().await;
        while !shard.turns.waiters.borrow().is_empty() {
            shard.runtime.turn().await;
            shard.turns.begin();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn steps_are_bounded_and_who_waits_comes_first() {
        let turns = Turns::default();
        let steps = |turns: &Turns| (0..1000).filter(|_| turns.take()).count();
        assert_eq!(steps(&turns), STEPS_MAX);
        turns.begin();
        assert_eq!(steps(&turns), STEPS_MAX);
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let wait = |count| {
            let waker = Waker::from(Arc::clone(&woken));
            turns.waiters.borrow_mut().extend((0..count).map(|_| waker.clone()));
        };
        wait(STEPS_MAX + 3);
        turns.begin();
        assert_eq!(woken.0.load(Ordering::Relaxed), STEPS_MAX);
        assert_eq!(steps(&turns), 0, "nobody comes before those who wait");
        turns.begin();
        assert_eq!(woken.0.load(Ordering::Relaxed), STEPS_MAX + 3);
        assert_eq!(steps(&turns), STEPS_MAX - 3);
    }
}
