//! Whether a shard takes mail: not before its log is open, and not after its storage has failed.
//!
//! Connections are taken from the start. A MAIL that comes while the log is being read waits for it,
//! so that a short recovery is not seen by any client. When the log cannot be used the shard stops
//! listening, and the kernel leads new connections to the shards that still do.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use futures_lite::future;
use ringpost_metrics::label::Limit;
use ringpost_queue::Admission as QueueAdmission;
use ringpost_session::server::Admission;

use super::Shard;
use crate::{
    control::Level,
    runtime::{Closer, Runtime},
};

/// How long a MAIL waits for the log to be open, before its client is told to try again later.
pub const LOG_PATIENCE: Duration = Duration::from_secs(25);

/// How far a shard is with its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    /// It is being read.
    #[default]
    Opening,
    /// It is open.
    Open,
    /// It cannot be opened, or has failed since.
    Lost,
}

/// How many shards listen: the last one goes on, to tell clients why nothing is taken.
#[derive(Debug)]
pub struct ListeningShards(AtomicUsize);

impl ListeningShards {
    /// So many shards, all of which are about to listen.
    pub fn new(shards: usize) -> Self {
        Self(AtomicUsize::new(shards))
    }

    /// Lets one shard stop listening; whether it may, which the last one may not.
    fn leave(&self) -> bool {
        let one_less = |count: usize| count.checked_sub(1).filter(|left| *left > 0);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

/// What a shard knows about its taking mail.
pub(super) struct Intake {
    phase: Cell<Phase>,
    /// Whether the engine knows of all mail that was in the log.
    is_scheduled: Cell<bool>,
    waiters: RefCell<Vec<Waker>>,
    closers: RefCell<Vec<Closer>>,
    listening: Arc<ListeningShards>,
    /// Whether other shards listen in its place.
    has_left: Cell<bool>,
}

impl Intake {
    pub(super) fn new(listening: Arc<ListeningShards>) -> Self {
        let (waiters, closers) = (RefCell::default(), RefCell::default());
        let (phase, has_left, is_scheduled) = (Cell::default(), Cell::default(), Cell::default());
        Self { phase, is_scheduled, waiters, closers, listening, has_left }
    }

    /// Keeps what closes a listener.
    pub(super) fn add_listener(&self, closer: Closer) {
        self.closers.borrow_mut().push(closer);
    }

    /// Whether the log could not be opened, or has failed.
    pub(super) fn is_lost(&self) -> bool {
        self.phase.get() == Phase::Lost
    }

    /// Whether it listens no more, and other shards do.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.get()
    }

    /// Whether mail that is queued may be unknown to the engine still, because the log is being read.
    pub(super) fn is_beginning(&self) -> bool {
        !self.is_lost() && !self.is_scheduled.get()
    }

    /// The engine knows of all mail that was in the log.
    pub(super) fn set_scheduled(&self) {
        self.is_scheduled.set(true);
    }

    /// Whether the log is open, and has not failed since.
    pub(super) fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    /// The log is open.
    pub(super) fn open(&self) {
        if self.phase.get() == Phase::Opening {
            self.phase.set(Phase::Open);
        }
        self.wake();
    }

    /// The log cannot be used: ends the listening, if another shard goes on with it. Whether it did.
    pub(super) fn lose(&self) -> bool {
        let is_first = self.phase.replace(Phase::Lost) != Phase::Lost;
        self.wake();
        if !is_first || !self.listening.leave() {
            return false;
        }
        self.has_left.set(true);
        for closer in self.closers.take() {
            closer.close();
        }
        true
    }

    /// Lets go of who waits for the log, to look again.
    pub(super) fn wake(&self) {
        for waker in self.waiters.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("phase", &self.phase.get()).finish_non_exhaustive()
    }
}

impl<R: Runtime> Shard<R> {
    /// What a session is to say to MAIL; `Pending` when that is not known at once, or not to be said
    /// at once.
    pub(super) fn session_admission(&self) -> Admission {
        match self.known_admission() {
            Admission::Open if self.pressure().level == Level::Slow => Admission::Pending,
            admission => admission,
        }
    }

    /// What is known about a MAIL now; `Pending` while the log is being read.
    fn known_admission(&self) -> Admission {
        match self.admission() {
            _ if self.is_draining() => Admission::ShuttingDown,
            _ if self.intake.has_left() => Admission::Elsewhere,
            _ if self.intake.is_lost() || self.commits.is_stalled() => Admission::Unavailable,
            _ if !self.intake.is_open() => Admission::Pending,
            QueueAdmission::Open if self.pressure().level == Level::Stop => Admission::Full,
            QueueAdmission::Open => Admission::Open,
            QueueAdmission::Full => Admission::Full,
            QueueAdmission::Recovering | QueueAdmission::Poisoned => Admission::Unavailable,
        }
    }

    /// Waits until it is known what to say to a MAIL, but not for ever; then a little longer, when
    /// intake is to be slow.
    pub(super) async fn decide_admission(&self) -> Admission {
        let known = poll_fn(|context| match self.known_admission() {
            Admission::Pending => {
                self.intake.waiters.borrow_mut().push(context.waker().clone());
                Poll::Pending
            }
            admission => Poll::Ready(admission),
        });
        let late = async {
            self.runtime.sleep(LOG_PATIENCE).await;
            Admission::Recovering
        };
        let admission = future::or(known, late).await;
        let pressure = self.pressure();
        let delay = self.config().config().queue.slow_delay;
        if admission != Admission::Open || pressure.level != Level::Slow || delay.is_zero() {
            return admission;
        }
        self.metrics.limit_hits.increment(Limit::SlowIntake);
        self.runtime.sleep(delay).await;
        match self.known_admission() {
            // Nothing goes back to that.
            Admission::Pending => Admission::Unavailable,
            admission => admission,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    fn intake(listening: &Arc<ListeningShards>) -> (Intake, Rc<Cell<bool>>) {
        let (intake, closed) = (Intake::new(Arc::clone(listening)), Rc::new(Cell::new(false)));
        let seen = Rc::clone(&closed);
        intake.add_listener(Closer::new(move || seen.set(true)));
        (intake, closed)
    }

    #[test]
    fn the_last_shard_goes_on_listening() {
        let listening = Arc::new(ListeningShards::new(2));
        let (one, one_closed) = intake(&listening);
        let (two, two_closed) = intake(&listening);
        assert!(one.lose() && one_closed.get() && one.has_left());
        assert!(!two.lose() && !two_closed.get() && !two.has_left());
        assert!(one.is_lost() && two.is_lost());
    }

    #[test]
    fn a_shard_is_lost_once_and_for_good() {
        let listening = Arc::new(ListeningShards::new(3));
        let (one, _) = intake(&listening);
        one.open();
        assert!(one.is_open());
        assert!(one.lose());
        assert!(!one.lose(), "counted once");
        one.open();
        assert!(one.is_lost());
        let (two, closed) = intake(&listening);
        assert!(two.lose() && closed.get());
    }
}
