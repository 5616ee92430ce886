//! A watchdog that wakes an executor which has parked although it has work.
//!
//! The library takes "no task ran" for "no task is runnable". When its preemption timer fires before
//! the first task of a round has run (the thread lost its CPU for that long), it parks with
//! runnable tasks and nothing left to wake it, for ever: the ticker is among them. A wake-up from
//! another thread goes through an eventfd, and always gets through. So each executor counts its
//! ticks, and a thread of its own wakes it when the count stands still.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    thread,
    time::Duration,
};

/// How long the ticks may stand still; more than one tick long.
const PERIOD: Duration = Duration::from_millis(100);

/// What the executor and its watchdog share.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    ticks: AtomicU64,
    waker: Mutex<Option<Waker>>,
}

impl Pulse {
    /// Says that the executor runs. Its cache line is read by the watchdog ten times a second.
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// Registers with the executor what the watchdog wakes; never ends.
    pub(super) async fn answer(&self) {
        poll_fn(|context| -> Poll<()> {
            let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            *waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Wakes the executor if it has not ticked since `seen`; returns the count to compare with next.
    fn check(&self, seen: u64) -> u64 {
        let ticks = self.ticks.load(Ordering::Relaxed);
        if ticks == seen {
            let waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(waker) = waker {
                tracing::debug!(ticks, "an executor stands still: waking it");
                waker.wake();
            }
        }
        ticks
    }
}

/// Watches an executor until it ends.
pub(super) fn watch(name: &str, pulse: &Arc<Pulse>) -> io::Result<()> {
    let pulse: Weak<Pulse> = Arc::downgrade(pulse);
    thread::Builder::new().name(format!("{name}-pulse")).spawn(move || {
        let mut seen = 0;
        while let Some(pulse) = pulse.upgrade() {
            seen = pulse.check(seen);
            drop(pulse);
            thread::sleep(PERIOD);
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, or};
    use std::{sync::atomic::AtomicUsize, task::Wake};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_executor_that_stands_still_is_woken_and_one_that_ticks_is_not() {
        let pulse = Pulse::default();
        let woken = Arc::new(Woken::default());
        *pulse.waker.lock().unwrap() = Some(Waker::from(Arc::clone(&woken)));
        pulse.tick();
        let seen = pulse.check(0);
        assert_eq!((seen, woken.0.load(Ordering::Relaxed)), (1, 0));
        let seen = pulse.check(seen);
        assert_eq!((seen, woken.0.load(Ordering::Relaxed)), (1, 1));
        pulse.tick();
        pulse.check(seen);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn answering_leaves_a_waker_behind() {
        let pulse = Pulse::default();
        block_on(or(pulse.answer(), async {}));
        assert!(pulse.waker.lock().unwrap().is_some());
    }
}
