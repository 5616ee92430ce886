//! What wakes tasks at a time. No timer of the kernel is set: the time of the next one ends the wait
//! for answers.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// All sleeping tasks of an executor.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// By time, and then by the order in which they began to sleep.
    sleeping: RefCell<BTreeMap<(Instant, u64), Waker>>,
    count: Cell<u64>,
}

impl Timers {
    /// Sleeps for `duration` from now on.
    pub(super) fn sleep(self: &Rc<Self>, duration: Duration) -> Sleep {
        self.count.set(self.count.get() + 1);
        let until = Instant::now() + duration;
        Sleep { timers: Rc::clone(self), place: (until, self.count.get()) }
    }

    /// How long nobody is to be woken; `None` when nobody sleeps.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let sleeping = self.sleeping.borrow();
        sleeping.first_key_value().map(|((until, _), _)| until.saturating_duration_since(now))
    }

    /// Wakes those whose time has come.
    pub(super) fn wake(&self, now: Instant) {
        loop {
            let mut sleeping = self.sleeping.borrow_mut();
            let Some(first) = sleeping.first_entry().filter(|first| first.key().0 <= now) else {
                return;
            };
            let waker = first.remove();
            drop(sleeping);
            waker.wake();
        }
    }
}

/// Ends when its time has come.
#[derive(Debug)]
pub(super) struct Sleep {
    timers: Rc<Timers>,
    place: (Instant, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut sleeping = self.timers.sleeping.borrow_mut();
        if self.place.0 <= Instant::now() {
            sleeping.remove(&self.place);
            return Poll::Ready(());
        }
        sleeping.insert(self.place, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = self.timers.sleeping.borrow_mut().remove(&self.place);
        // Outside the borrow: the last waker of a task may drop what sleeps.
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn who_sleeps_is_woken_in_order_and_who_is_dropped_is_not_waited_for() {
        let timers = Rc::<Timers>::default();
        let now = Instant::now();
        assert_eq!(timers.idle_for(now), None);
        let mut long = Box::pin(timers.sleep(Duration::from_secs(20)));
        let mut short = Box::pin(timers.sleep(Duration::from_secs(10)));
        assert!(block_on(poll_once(&mut long)).is_none());
        assert!(block_on(poll_once(&mut short)).is_none());
        let idle = timers.idle_for(now).unwrap();
        assert!(idle <= Duration::from_secs(11), "{idle:?}");
        drop(short);
        let idle = timers.idle_for(now).unwrap();
        assert!(idle > Duration::from_secs(15), "{idle:?}");
        timers.wake(now + Duration::from_secs(15));
        assert_eq!(timers.sleeping.borrow().len(), 1);
        timers.wake(now + Duration::from_secs(30));
        assert!(timers.sleeping.borrow().is_empty());
    }
}
