//! A wake-up between two tasks of one core.

use std::{
    cell::Cell,
    fmt,
    future::poll_fn,
    task::{Poll, Waker},
};

/// Set by any task, awaited by one.
///
/// A signal that is set while nobody waits is kept, so no wake-up is lost; several sets before
/// the wait count as one.
#[derive(Default)]
pub(crate) struct Signal {
    set: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Signal {
    /// Wakes the waiting task, or lets the next wait end at once.
    pub(crate) fn set(&self) {
        self.set.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until the signal is set, and clears it.
    ///
    /// # Cancel safety
    ///
    /// Safe: a signal is cleared only when the wait ends.
    pub(crate) async fn wait(&self) {
        poll_fn(|context| {
            if self.set.replace(false) {
                return Poll::Ready(());
            }
            self.waker.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signal").field("set", &self.set.get()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, or};

    #[test]
    fn a_signal_set_before_the_wait_is_not_lost() {
        let signal = Signal::default();
        signal.set();
        signal.set();
        block_on(signal.wait());
        // Cleared: the next wait does not end by itself.
        let again = block_on(or(
            async {
                signal.wait().await;
                true
            },
            async { false },
        ));
        assert!(!again);
    }
}
