//! The group commit: one durable write at a time, and what may happen after it.
//!
//! While a batch is being written the next one gathers. A message begins a batch at once, unless the
//! shard is crowded: then batches keep a small distance, as long as somebody is about to join, and
//! share a write among more messages. An outcome, for which nobody waits, rides in the batch of the
//! next message, or in one of its own at the next tick.
//!
//! What waits for a batch is kept here by its number and let go when the batch is durable: sessions
//! that owe a `250`, event records, and messages that may then be scheduled. A message is scheduled
//! from here and not by its session, so that it is delivered even if the session fails in between.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    pin::pin,
    rc::Rc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_lite::future;
use ringpost_delivery::QueuedMessage;
use ringpost_queue::{
    Admission, BatchNumber, Committed, Queue, Redeemed, Ticket, storage::Storage,
};

use super::{Shard, pace::Gathering, signal::Signal};
use crate::runtime::Runtime;

/// How long a write may take before its senders are told to try again later.
pub(super) const STALL: Duration = Duration::from_secs(25);

/// The storage failed before the batch was durable, or does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StorageLost;

/// What waits for batches of one shard.
#[derive(Debug, Default)]
pub(super) struct Commits {
    /// There is something to write.
    work: Signal,
    /// Somebody wants it written; what nobody wants rides along.
    is_due: Cell<bool>,
    /// When the last write began.
    began: Cell<Option<Instant>>,
    waiters: RefCell<Vec<(BatchNumber, Waker)>>,
    /// Who need not wait any more, and is woken when the next write is on its way.
    released: RefCell<Vec<Waker>>,
    /// The last batch whose messages have been let go.
    released_through: Cell<BatchNumber>,
    /// Since when somebody waits for the batch that gathers.
    gathering_since: Cell<Option<Instant>>,
    /// Whether a write is under way.
    is_writing: Cell<bool>,
    /// How long the last write took; nothing when nothing was written since the last tick.
    last_took: Cell<Duration>,
    /// When it began, or since when there is nothing to write to.
    writing_since: Cell<Option<Instant>>,
    /// The write under way takes so long that nobody is kept waiting for it.
    is_stalled: Cell<bool>,
    /// Messages to schedule, in the order of their batches.
    to_schedule: RefCell<VecDeque<(BatchNumber, QueuedMessage)>>,
}

impl Commits {
    /// Lets the commit task write what there is.
    pub(super) fn look(&self) {
        self.is_due.set(true);
        self.work.set();
    }

    /// Whether a batch is wanted: also when somebody waits for the rest of what did not fit the last.
    fn has_work(&self) -> bool {
        self.is_due.get() || !self.waiters.borrow().is_empty()
    }

    /// Lets the commit task write what nobody waits for, if there was no batch to ride in lately.
    pub(super) fn look_after(&self, now: Instant, period: Duration) {
        if self.began.get().is_none_or(|began| now - began >= period) {
            self.look();
        }
    }

    /// Keeps a message until its batch is durable.
    pub(super) fn schedule_after(&self, ticket: &Ticket, message: QueuedMessage) {
        self.to_schedule.borrow_mut().push_back((ticket.batch(), message));
    }

    /// Whether the disk has not answered for [`STALL`].
    pub(super) fn is_stalled(&self) -> bool {
        self.is_stalled.get()
    }

    /// How long the write under way has taken so far, or the last one took.
    pub(super) fn latency(&self, now: Instant) -> Duration {
        let under_way = self.writing_since.get().map(|began| now.saturating_duration_since(began));
        under_way.unwrap_or_default().max(self.last_took.get())
    }

    /// Forgets how long writes took that have been looked at.
    pub(super) fn forget_latency(&self) {
        self.last_took.set(Duration::ZERO);
    }

    /// Lets go of who waits for a write that takes too long.
    ///
    /// What they wait for is neither acknowledged nor lost: it may still become durable, and is
    /// delivered then.
    ///
    /// `is_starved`: nothing can be written at all, because there is no segment to write to.
    pub(super) fn check_stall(&self, now: Instant, is_starved: bool) {
        if is_starved {
            self.writing_since.set(self.writing_since.get().or(Some(now)));
        } else if !self.is_writing.get() {
            self.writing_since.set(None);
            self.is_stalled.set(false);
        }
        let is_late = self.writing_since.get().is_some_and(|began| now - began >= STALL);
        if is_late && !self.is_stalled.replace(true) {
            tracing::error!("nothing could be written to the log for {} s", STALL.as_secs());
            for (_, waker) in self.waiters.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    fn next_to_schedule(&self, durable: BatchNumber) -> Option<QueuedMessage> {
        let mut waiting = self.to_schedule.borrow_mut();
        if waiting.front().is_some_and(|(batch, _)| *batch <= durable) {
            return waiting.pop_front().map(|(_, message)| message);
        }
        None
    }

    fn wake_released(&self) {
        for waker in self.released.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Notes that nobody need wait for a batch up to `durable`, or for any when the storage failed.
    fn release(&self, durable: BatchNumber, is_poisoned: bool) {
        let mut released = self.released.borrow_mut();
        self.waiters.borrow_mut().retain(|(batch, waker)| {
            let is_over = is_poisoned || *batch <= durable;
            if is_over {
                released.push(waker.clone());
            }
            !is_over
        });
    }
}

impl<R: Runtime> Shard<R> {
    /// Waits until what `ticket` stands for is on stable storage.
    ///
    /// # Cancel safety
    ///
    /// Safe: the message is committed and scheduled all the same.
    pub(super) async fn committed(&self, ticket: Ticket) -> Result<Committed, StorageLost> {
        poll_fn(|context| match self.queue.borrow().redeem(ticket) {
            Redeemed::Durable(committed) => Poll::Ready(Ok(committed)),
            Redeemed::Lost => Poll::Ready(Err(StorageLost)),
            Redeemed::Pending if self.commits.is_stalled() => Poll::Ready(Err(StorageLost)),
            Redeemed::Pending => {
                let commits = &self.commits;
                if commits.gathering_since.get().is_none() {
                    commits.gathering_since.set(Some(self.runtime.now()));
                }
                let waiter = (ticket.batch(), context.waker().clone());
                commits.waiters.borrow_mut().push(waiter);
                Poll::Pending
            }
        })
        .await
    }

    /// Waits until a batch is written, so that the memory of a streamed chunk is free again.
    pub(super) async fn written(&self, batch: BatchNumber) -> Result<(), StorageLost> {
        poll_fn(|context| {
            let queue = self.queue.borrow();
            if queue.durable_through() >= batch {
                Poll::Ready(Ok(()))
            } else if queue.admission() == Admission::Poisoned || self.commits.is_stalled() {
                Poll::Ready(Err(StorageLost))
            } else {
                self.commits.waiters.borrow_mut().push((batch, context.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

/// What the commit task does next.
enum Next {
    /// Write this batch.
    Write(ringpost_queue::Write),
    /// Wait for something to be appended, for so long at most.
    Wait(Option<Duration>),
}

/// Writes batches for as long as the process lives.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    loop {
        let write = match shard.next() {
            Next::Write(write) => write,
            Next::Wait(pause) => {
                shard.let_go();
                let appended = shard.commits.work.wait();
                match pause {
                    Some(pause) => future::or(appended, shard.runtime.sleep(pause)).await,
                    None => appended.await,
                }
                continue;
            }
        };
        let began = shard.runtime.now();
        shard.commits.began.set(Some(began));
        shard.commits.gathering_since.set(None);
        let Some(file) = shard.segments.borrow().get(&write.segment).cloned() else {
            // The queue only writes to segments that a segment task has made.
            tracing::error!(segment = write.segment.0, "a segment to write to is not open");
            return shard.runtime.end_process("group commit");
        };
        let records = shard.queue.borrow().stats().records_total;
        let size = write.bytes.len();
        shard.commits.is_writing.set(true);
        shard.commits.writing_since.set(Some(began));
        let mut writing = pin!(shard.storage.write(&file, write.offset, write.bytes));
        let mut done = None;
        if shard.has_to_let_go() {
            // The disk gets its next work before those are woken who waited for the last: what they do
            // now takes longer than to hand it over.
            done = future::poll_once(writing.as_mut()).await;
            shard.let_go();
        }
        let (written, bytes) = match done {
            Some(done) => done,
            None => writing.await,
        };
        let took = shard.runtime.now() - began;
        shard.commits.last_took.set(took.max(shard.commits.last_took.get()));
        shard.metrics.commit_duration.record(took);
        shard.commits.is_writing.set(false);
        shard.commits.writing_since.set(None);
        shard.commits.is_stalled.set(false);
        shard.handle_written(written, bytes, size);
        let durable = shard.queue.borrow().stats().records_total;
        shard.metrics.commit_records.record((durable - records) as f64);
    }
}

impl<R: Runtime> Shard<R> {
    fn gathering(&self) -> Gathering {
        Gathering {
            active: self.activity.sessions().min(self.sessions_open.get()),
            open: self.transactions_open.get(),
            waiting: self.commits.waiters.borrow().len(),
            since: self.commits.gathering_since.get(),
            last_began: self.commits.began.get(),
        }
    }

    fn next(&self) -> Next {
        if !self.commits.has_work() {
            return Next::Wait(None);
        }
        if let Some(pause) = self.gathering().pause(self.runtime.now()) {
            return Next::Wait(Some(pause));
        }
        self.commits.is_due.set(false);
        let (write, given_up) = {
            let mut queue = self.queue.borrow_mut();
            (queue.poll_write(), queue.stats().event_records_given_up_total)
        };
        self.tell_given_up(given_up);
        write.map_or(Next::Wait(None), Next::Write)
    }

    /// Whether something waits for a batch that is durable.
    fn has_to_let_go(&self) -> bool {
        !self.commits.released.borrow().is_empty()
            || self.commits.released_through.get() < self.queue.borrow().durable_through()
    }

    /// Lets go of all that waited for what is durable.
    fn let_go(self: &Rc<Self>) {
        self.commits.wake_released();
        let durable = self.queue.borrow().durable_through();
        self.commits.released_through.set(durable);
        self.segment_work.set();
        while let Some(message) = self.commits.next_to_schedule(durable) {
            self.with_engine(|engine, now| engine.handle_message(now, &message));
        }
    }

    fn handle_written(
        self: &Rc<Self>,
        written: std::io::Result<usize>,
        bytes: Vec<u8>,
        size: usize,
    ) {
        let failure = match &written {
            Ok(len) if *len == size => None,
            Ok(len) => Some(format!("a write to the log ended after {len} of {size} octets")),
            Err(error) => Some(format!("cannot write to the log: {error}")),
        };
        let (durable, is_poisoned) = {
            let mut queue = self.queue.borrow_mut();
            queue.handle_write(written, bytes);
            (queue.durable_through(), queue.admission() == Admission::Poisoned)
        };
        self.metrics.commit_syncs.increment(1);
        if let Some(failure) = failure {
            tracing::error!(
                shard = self.number,
                "{failure}: no mail is taken or sent on this shard until a restart"
            );
            self.lose_storage(&failure);
        }
        if is_poisoned {
            self.metrics.commit_failures.increment(1);
        } else {
            self.metrics.commit_batches.increment(1);
            self.metrics.commit_bytes.increment(size as u64);
        }
        self.commits.release(durable, is_poisoned);
        self.release_events();
    }
}

/// The recipients of a fresh message, for the engine.
pub(super) fn fresh_message(
    id: ringpost_queue::MessageId,
    received_unix_ms: u64,
    expiry_unix_ms: u64,
    envelope: &ringpost_protocol::envelope::Envelope,
    own_host: &ringpost_protocol::address::Host,
) -> QueuedMessage {
    let recipients = envelope
        .forward_paths
        .iter()
        .zip(0_u16..)
        .map(|(path, index)| ringpost_delivery::QueuedRecipient {
            index: ringpost_queue::RecipientIndex(index),
            host: path.host().unwrap_or(own_host).clone(),
            attempts: 0,
            due_unix_ms: None,
            warned: false,
        })
        .collect();
    let ringpost_protocol::envelope::Envelope { priority, tls_optional, deliver_by, .. } =
        *envelope;
    QueuedMessage {
        id,
        received_unix_ms,
        expiry_unix_ms,
        priority,
        tls_optional,
        deliver_by,
        recipients,
    }
}

/// Whether the queue wants nothing written any more.
pub(super) fn is_quiet(queue: &Queue) -> bool {
    queue.stats().pending_bytes == 0 || queue.admission() == Admission::Poisoned
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn with_waiter(batch: u64) -> (Commits, Arc<Woken>) {
        let (commits, woken) = (Commits::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        commits.waiters.borrow_mut().push((BatchNumber(batch), waker));
        (commits, woken)
    }

    #[test]
    fn who_waits_is_woken_by_its_own_batch_or_by_failure() {
        let (commits, woken) = with_waiter(2);
        commits.release(BatchNumber(1), false);
        commits.wake_released();
        assert_eq!((woken.0.load(Ordering::Relaxed), commits.has_work()), (0, true));
        commits.release(BatchNumber(2), false);
        assert_eq!((woken.0.load(Ordering::Relaxed), commits.has_work()), (0, false));
        commits.wake_released();
        assert_eq!((woken.0.load(Ordering::Relaxed), commits.has_work()), (1, false));
        let (commits, woken) = with_waiter(2);
        commits.release(BatchNumber(1), true);
        commits.wake_released();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nobody_waits_for_a_write_that_does_not_end() {
        let (commits, woken) = with_waiter(1);
        let began = Instant::now();
        commits.is_writing.set(true);
        commits.writing_since.set(Some(began));
        commits.check_stall(began + STALL / 2, false);
        assert!(!commits.is_stalled());
        commits.check_stall(began + STALL, false);
        assert!(commits.is_stalled());
        assert_eq!((woken.0.load(Ordering::Relaxed), commits.has_work()), (1, false));
    }

    #[test]
    fn nor_for_a_segment_that_cannot_be_made() {
        let (commits, woken) = with_waiter(1);
        let since = Instant::now();
        commits.check_stall(since, true);
        // There was one for a moment: the time begins anew.
        commits.check_stall(since + STALL / 2, false);
        commits.check_stall(since + STALL / 2, true);
        commits.check_stall(since + STALL, true);
        assert!(!commits.is_stalled());
        commits.check_stall(since + STALL / 2 + STALL, true);
        assert!(commits.is_stalled());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        // Space was freed.
        commits.check_stall(since + 2 * STALL, false);
        assert!(!commits.is_stalled());
    }
}
