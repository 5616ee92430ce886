//! The log that is measured: its writers, and the task that writes their batches.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_lite::future;
use hdrhistogram::Histogram;
use ringpost::runtime::{Containment, Runtime};
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_queue::segment::run_task;
use ringpost_queue::storage::Storage;
use ringpost_queue::{
    BatchNumber, Disposition, EventRecords, LogIdentity, NewMessage, Outcome, Queue, QueueConfig,
    QueueStats, RecipientIndex, Redeemed, SegmentSequence, SegmentTask, ShardId, Ticket,
};

/// Octets of a batch whose writing takes so long that it is worth two: less costs as much as any sync.
const LARGE: usize = 256 << 10;

/// The log, and who waits for it.
pub(super) struct Log<R: Runtime> {
    runtime: R,
    storage: R::Storage,
    queue: RefCell<Queue>,
    files: RefCell<HashMap<SegmentSequence, <R::Storage as Storage>::File>>,
    waiting: RefCell<Vec<(BatchNumber, Waker)>>,
    writer: Cell<Option<Waker>>,
    is_over: Cell<bool>,
    /// Tasks that have not ended.
    tasks: Cell<u32>,
    /// Segments made, and not recycled.
    created: Cell<u64>,
    /// Writers at work, and when the last of them ended.
    running: Cell<usize>,
    ended: Cell<Instant>,
    latencies: RefCell<Histogram<u64>>,
}

impl<R: Runtime> Log<R> {
    /// Makes a log in a directory, and begins to write what is appended to it.
    ///
    /// # Errors
    ///
    /// When no segment can be made.
    pub(super) async fn open(runtime: &R, directory: &Path) -> anyhow::Result<Rc<Self>> {
        let identity = LogIdentity { log_id: runtime.random_seed(), shard: ShardId(0) };
        let log = Rc::new(Self {
            runtime: runtime.clone(),
            storage: runtime.storage(directory),
            queue: RefCell::new(Queue::create(QueueConfig::default(), identity)?),
            files: RefCell::default(),
            waiting: RefCell::default(),
            writer: Cell::new(None),
            is_over: Cell::new(false),
            tasks: Cell::new(0),
            created: Cell::new(0),
            running: Cell::new(0),
            ended: Cell::new(Instant::now()),
            latencies: RefCell::new(Histogram::new_with_bounds(1, 600_000_000, 3)?),
        });
        log.keep_segments().await?;
        log.tasks.set(2);
        let writing = Rc::clone(&log);
        runtime.spawn(Containment::Process, async move {
            writing.write_batches().await;
            writing.tasks.set(writing.tasks.get() - 1);
        });
        let tending = Rc::clone(&log);
        runtime.spawn(Containment::Process, async move {
            while !tending.is_over.get() && tending.keep_segments().await.is_ok() {
                tending.wake_writer();
                tending.runtime.sleep(Duration::from_millis(5)).await;
            }
            tending.tasks.set(tending.tasks.get() - 1);
        });
        Ok(log)
    }

    /// Lets so many writers append messages of one size for so long; gives how long it took until the
    /// last of them had its own.
    ///
    /// # Errors
    ///
    /// When a write failed.
    pub(super) async fn run(
        self: &Rc<Self>,
        writers: usize,
        size: usize,
        duration: Duration,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.running.set(writers);
        for _ in 0..writers {
            let log = Rc::clone(self);
            self.runtime.spawn(Containment::Process, async move {
                log.write_messages(size, began + duration).await;
                log.running.set(log.running.get() - 1);
                log.ended.set(Instant::now());
            });
        }
        self.runtime.sleep(duration).await;
        while self.running.get() > 0 {
            self.runtime.sleep(Duration::from_millis(1)).await;
        }
        ensure!(self.queue.borrow().poison().is_none(), "a write to the log failed");
        Ok(self.ended.get() - began)
    }

    /// Counters of the log.
    pub(super) fn stats(&self) -> QueueStats {
        self.queue.borrow().stats()
    }

    /// Segments made so far, and not recycled.
    pub(super) fn created(&self) -> u64 {
        self.created.get()
    }

    /// How long appends took since this was called last, in microseconds.
    pub(super) fn take_latencies(&self) -> Histogram<u64> {
        let mut latencies = self.latencies.borrow_mut();
        let taken = latencies.clone();
        latencies.reset();
        taken
    }

    /// Ends what [`Log::open`] began, and closes the files: their space is free again when they are
    /// removed.
    pub(super) async fn close(&self) {
        self.is_over.set(true);
        while self.tasks.get() > 0 {
            self.wake_writer();
            self.runtime.sleep(Duration::from_millis(1)).await;
        }
        self.files.borrow_mut().clear();
        self.runtime.turn().await;
    }

    async fn write_messages(&self, size: usize, end: Instant) {
        let envelope = envelope();
        let content = vec![b'x'; size];
        loop {
            let began = Instant::now();
            let appended = {
                let mut queue = self.queue.borrow_mut();
                let id = queue.next_id();
                let message = NewMessage {
                    id,
                    received_unix_ms: 0,
                    expiry_unix_ms: u64::MAX,
                    due_unix_ms: 0,
                    envelope: &envelope,
                    content: &content,
                    size: size as u64,
                };
                queue.append_message(message, EventRecords::NONE)
            };
            let Ok(ticket) = appended else {
                if began >= end || self.queue.borrow().poison().is_some() {
                    return;
                }
                self.runtime.sleep(Duration::from_millis(1)).await;
                continue;
            };
            self.commit(ticket).await;
            let now = Instant::now();
            let waited = u64::try_from((now - began).as_micros()).unwrap_or(u64::MAX);
            self.latencies.borrow_mut().saturating_record(waited);
            let recipients = vec![(RecipientIndex(0), Disposition::Delivered)];
            let outcome = Outcome { id: ticket.id(), recipients };
            // Nobody waits for it: it is written with the next batch.
            let _ = self
                .queue
                .borrow_mut()
                .append_outcome(&outcome, None, EventRecords::NONE)
                .map(|ticket| ticket.id());
            if now >= end || self.queue.borrow().poison().is_some() {
                return;
            }
        }
    }

    /// Waits until a ticket can be redeemed.
    async fn commit(&self, ticket: Ticket) {
        self.wake_writer();
        while self.queue.borrow().redeem(ticket) == Redeemed::Pending {
            self.wait_for(ticket.batch()).await;
        }
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Writes batches for as long as it is measured.
    async fn write_batches(&self) {
        let (mut woken, mut last_len) = (BatchNumber(0), 0);
        while !self.is_over.get() {
            let write = self.queue.borrow_mut().poll_write();
            let Some(write) = write else {
                // When all wait at once for a large batch, half of them go first: the disk has theirs
                // while the others append.
                let waiting = self.waiting.borrow().len();
                let is_large = last_len >= LARGE && waiting > 1;
                let count = self.wake(woken, if is_large { waiting / 2 } else { usize::MAX });
                if is_large && count > 0 {
                    future::yield_now().await;
                } else {
                    self.wait_for_work().await;
                }
                continue;
            };
            let Some(file) = self.files.borrow().get(&write.segment).cloned() else { return };
            last_len = write.bytes.len();
            let mut writing = pin!(self.storage.write(&file, write.offset, write.bytes));
            let mut done = None;
            if self.waiting.borrow().iter().any(|(batch, _)| *batch <= woken) {
                // On its way to the disk before those are woken that waited for the last one.
                done = future::poll_once(writing.as_mut()).await;
                self.runtime.turn().await;
                self.wake(woken, usize::MAX);
            }
            let (written, bytes) = match done {
                Some(done) => done,
                None => writing.await,
            };
            self.queue.borrow_mut().handle_write(written, bytes);
            woken = self.queue.borrow().durable_through();
        }
    }

    /// Wakes who waits for what is durable, so many at most; gives how many.
    fn wake(&self, durable: BatchNumber, most: usize) -> usize {
        let mut count = 0;
        self.waiting.borrow_mut().retain(|(batch, waker)| {
            if *batch > durable || count == most {
                return true;
            }
            count += 1;
            waker.wake_by_ref();
            false
        });
        count
    }

    async fn wait_for_work(&self) {
        let mut has_waited = false;
        poll_fn(|context| {
            if has_waited {
                return Poll::Ready(());
            }
            has_waited = true;
            self.writer.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    async fn wait_for(&self, batch: BatchNumber) {
        let mut has_waited = false;
        poll_fn(|context| {
            if has_waited {
                return Poll::Ready(());
            }
            has_waited = true;
            self.waiting.borrow_mut().push((batch, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Does what the queue wants done with segments.
    async fn keep_segments(&self) -> anyhow::Result<()> {
        loop {
            let Some(task) = self.queue.borrow_mut().poll_segment() else { return Ok(()) };
            if let SegmentTask::Recycle { old, .. } | SegmentTask::Remove { sequence: old } = task {
                self.files.borrow_mut().remove(&old);
            }
            let is_new = matches!(task, SegmentTask::Create { .. });
            self.created.set(self.created.get() + u64::from(is_new));
            let file = run_task(&self.storage, &task).await;
            let done = match (file, task) {
                (
                    Ok(Some(file)),
                    SegmentTask::Create { sequence, .. }
                    | SegmentTask::Recycle { new: sequence, .. },
                ) => {
                    self.files.borrow_mut().insert(sequence, file);
                    Ok(())
                }
                (file, _) => file.map(drop),
            };
            let failed = done.as_ref().err().map(ToString::to_string);
            self.queue.borrow_mut().handle_segment(task, done);
            if let Some(failed) = failed {
                anyhow::bail!("cannot prepare a segment: {failed}");
            }
        }
    }
}

fn envelope() -> Envelope {
    let path = ForwardPath::parse("<recipient@example.net>");
    Envelope::new(ReversePath::Null, path.into_iter().collect(), BodyType::SevenBit)
}
