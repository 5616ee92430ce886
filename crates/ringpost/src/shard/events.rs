//! Event records on their way from a shard to the writer.
//!
//! A record is encoded once, and goes into the log of the queue together with what it tells of. A copy
//! waits here until that is durable, then joins the buffer that the ticker hands to the writer's
//! channel. That never waits: when the channel is full, the copies are dropped, and the records are
//! read back from the log when there is room again, as they are after a restart. When the writer has
//! synced them, the queue may forget them.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
    time::Duration,
};

use futures_lite::future::yield_now;
use ringpost_metrics::{
    event::{EventLabels, EventRecord},
    label::Limit,
};
use ringpost_protocol::{
    envelope::Envelope,
    label::{LabelText, Labels},
};
use ringpost_queue::{
    Admission, BatchNumber, EventRead, EventRecords, Lsn, Queue, Ticket, storage::Storage,
};

use super::{Shard, signal::Signal};
use crate::{control::EventSender, runtime::Runtime};

/// Bytes at which records are handed over without waiting for the tick.
const HAND_OVER_SIZE: usize = 256 * 1024;

/// Pause while the channel is full, or while what is to be read back is not durable yet.
const PAUSE: Duration = Duration::from_millis(20);

/// Pause after the log could not be read.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Encoded records that are about to be appended to the log.
#[derive(Debug)]
pub(super) struct Lines {
    is_on: bool,
    count: u32,
    octets: Vec<u8>,
}

impl Lines {
    pub(super) fn push(&mut self, record: &EventRecord<'_>) {
        if self.is_on {
            record.encode(&mut self.octets);
            self.count += 1;
        }
    }

    /// For the queue.
    pub(super) fn records(&self) -> EventRecords<'_> {
        EventRecords { count: self.count, octets: &self.octets }
    }
}

/// One shard's event records.
#[derive(Debug)]
pub(super) struct Events {
    sender: EventSender,
    /// Records whose batch is not durable yet.
    pending: RefCell<VecDeque<(BatchNumber, Vec<u8>)>>,
    /// Durable ones, to be handed over.
    ready: RefCell<Vec<u8>>,
    /// The frame up to which those are all.
    ready_through: Cell<Lsn>,
    /// The frame up to which all have been handed over.
    handed_through: Cell<Lsn>,
    /// How often the writer has lost what it had written.
    failures: Cell<u64>,
    /// How often the reading back has begun.
    rewinds: Cell<u64>,
    /// There is something to read back.
    work: Signal,
}

impl Events {
    pub(super) fn new(sender: EventSender) -> Self {
        Self {
            sender,
            pending: RefCell::default(),
            ready: RefCell::default(),
            ready_through: Cell::default(),
            handed_through: Cell::default(),
            failures: Cell::default(),
            rewinds: Cell::default(),
            work: Signal::default(),
        }
    }

    /// Room for records; what is put in is dropped if there is no event log.
    pub(super) fn lines(&self) -> Lines {
        Lines { is_on: self.sender.is_on(), count: 0, octets: Vec::new() }
    }

    /// Keeps records that have been appended with what `ticket` stands for.
    pub(super) fn keep(&self, ticket: &Ticket, lines: Lines) {
        if lines.count == 0 {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        match pending.back_mut() {
            Some((batch, octets)) if *batch == ticket.batch() => {
                octets.extend_from_slice(&lines.octets);
            }
            _ => pending.push_back((ticket.batch(), lines.octets)),
        }
    }

    /// Takes it that batches have become durable; to be called before anything else happens to the queue.
    pub(super) fn release(&self, queue: &Queue) {
        // While others are read back, these come in their turn.
        let is_behind = queue.has_events_to_read();
        let mut pending = self.pending.borrow_mut();
        let mut ready = self.ready.borrow_mut();
        while pending.front().is_some_and(|(batch, _)| *batch <= queue.durable_through()) {
            if let Some((_, lines)) = pending.pop_front()
                && !is_behind
            {
                ready.extend_from_slice(&lines);
            }
        }
        self.ready_through.set(queue.durable_lsn());
    }

    fn wants_hand_over(&self) -> bool {
        self.ready.borrow().len() >= HAND_OVER_SIZE
    }

    /// Hands the waiting records to the writer; `false` if it cannot take them.
    fn hand_over(&self) -> bool {
        let lines = std::mem::take(&mut *self.ready.borrow_mut());
        if lines.is_empty() {
            return true;
        }
        let through = self.ready_through.get();
        let is_taken = self.sender.send(lines, through, self.failures.get()).is_ok();
        if is_taken {
            self.handed_through.set(through);
        }
        is_taken
    }

    /// Has all records behind a frame read back.
    fn rewind(&self, queue: &mut Queue, after: Lsn) {
        self.ready.borrow_mut().clear();
        self.handed_through.set(after);
        self.rewinds.set(self.rewinds.get() + 1);
        queue.read_events_after(after);
        self.work.set();
    }
}

/// What records say that a message is known by.
pub(super) fn event_labels(envelope: &Envelope) -> EventLabels<'_> {
    let Labels { tenant, campaign } = &envelope.labels;
    EventLabels {
        tenant: tenant.as_ref().map(LabelText::as_str),
        campaign: campaign.as_ref().map(LabelText::as_str),
    }
}

/// Reads records back from the log, for as long as the process lives.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    // What the last run has left.
    let events = &shard.events;
    events.work.set();
    loop {
        events.work.wait().await;
        if !events.sender.is_on() {
            return;
        }
        while shard.queue.borrow().has_events_to_read() {
            let read = shard.queue.borrow_mut().poll_events();
            match read {
                Some(read) => shard.read_events_back(&read).await,
                None if shard.queue.borrow().has_events_to_read() => {
                    shard.runtime.sleep(PAUSE).await;
                }
                None => {}
            }
            yield_now().await;
        }
    }
}

impl<R: Runtime> Shard<R> {
    async fn read_events_back(&self, read: &EventRead) {
        let events = &self.events;
        let rewinds = events.rewinds.get();
        let bytes = self.read_log(read).await;
        let found = self.with_queue_lazily(|queue| queue.handle_events(read, bytes));
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(shard = self.number, %error, "cannot read event records back yet");
                return self.runtime.sleep(READ_PAUSE).await;
            }
        };
        self.metrics.event_records_read_back.increment(found.count);
        let mut lines = found.octets;
        // Begun anew meanwhile: these come again.
        while !lines.is_empty() && events.rewinds.get() == rewinds {
            match events.sender.send(lines, found.through, events.failures.get()) {
                Ok(()) => return events.handed_through.set(found.through),
                Err(refused) => lines = refused,
            }
            self.runtime.sleep(PAUSE).await;
        }
    }

    async fn read_log(&self, read: &EventRead) -> io::Result<Vec<u8>> {
        let known = self.segments.borrow().get(&read.segment).cloned();
        let file = match known {
            Some(file) => file,
            None => self.storage.open(&read.segment.file_name()).await?,
        };
        self.storage.read(&file, read.offset, read.len).await
    }

    /// Lets go of the records of what has become durable.
    pub(super) fn release_events(&self) {
        self.events.release(&self.queue.borrow());
        if self.events.wants_hand_over() {
            self.hand_over_events();
        }
    }

    /// Hands over what waits. What the writer cannot take is read back later.
    fn hand_over_events(&self) {
        if !self.events.hand_over() {
            self.metrics.limit_hits.increment(Limit::EventChannel);
            let after = self.events.handed_through.get();
            self.with_queue_lazily(|queue| self.events.rewind(queue, after));
        }
    }

    /// Hands over what waits, and tells the queue how far the writer has come.
    pub(super) fn look_at_events(&self) {
        if !self.events.sender.is_on() {
            // What an earlier run has left is for nobody.
            return self.with_queue_lazily(|queue| queue.mark_events(queue.durable_lsn()));
        }
        self.hand_over_events();
        let (failures, synced) = self.events.sender.progress();
        if self.events.failures.replace(failures) != failures {
            let marked = self.queue.borrow().marked_events();
            self.with_queue_lazily(|queue| self.events.rewind(queue, marked));
        }
        if synced > self.queue.borrow().marked_events() {
            self.with_queue_lazily(|queue| queue.mark_events(synced));
        }
    }

    /// Before the end: sees to it that the next start has no records to read back. Whether it has none.
    pub(super) fn finish_events(&self) -> bool {
        self.look_at_events();
        let is_done = self.with_queue_lazily(|queue| {
            queue.request_event_mark();
            queue.is_done_with_events() || queue.admission() == Admission::Poisoned
        });
        if !is_done {
            self.events.sender.flush();
            self.commits.look();
        }
        is_done
    }
}
