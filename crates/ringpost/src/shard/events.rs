//! Event records on their way from a shard to the writer.
//!
//! A record about something that is being committed is kept until its batch is durable, then joins the
//! buffer that the ticker hands to the writer's channel. That never waits: when the channel is
//! full, the records are dropped and counted.

use std::{cell::RefCell, collections::VecDeque};

use ringpost_metrics::{ShardMetrics, event::EventRecord, label::Limit};
use ringpost_queue::{BatchNumber, Ticket};

use crate::control::EventSender;

/// Bytes at which records are handed over without waiting for the tick.
const HAND_OVER_SIZE: usize = 256 * 1024;

/// One shard's event records.
#[derive(Debug)]
pub(super) struct Events {
    sender: EventSender,
    /// Records whose batch is not durable yet.
    pending: RefCell<VecDeque<(BatchNumber, Vec<u8>)>>,
    ready: RefCell<Vec<u8>>,
    metrics: ShardMetrics,
}

impl Events {
    pub(super) fn new(sender: EventSender, metrics: ShardMetrics) -> Self {
        Self { sender, pending: RefCell::default(), ready: RefCell::default(), metrics }
    }

    /// Emits a record about something that is durable already.
    pub(super) fn emit(&self, record: &EventRecord<'_>) {
        if self.sender.is_on() {
            record.encode(&mut self.ready.borrow_mut());
            self.check_size();
        }
    }

    /// Emits a record when the batch of `ticket` is durable.
    pub(super) fn emit_after(&self, ticket: &Ticket, record: &EventRecord<'_>) {
        if !self.sender.is_on() {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        match pending.back_mut() {
            Some((batch, lines)) if *batch == ticket.batch() => record.encode(lines),
            _ => {
                let mut lines = Vec::new();
                record.encode(&mut lines);
                pending.push_back((ticket.batch(), lines));
            }
        }
    }

    /// Lets go of records whose batch is durable.
    pub(super) fn release(&self, durable: BatchNumber) {
        let mut pending = self.pending.borrow_mut();
        while pending.front().is_some_and(|(batch, _)| *batch <= durable) {
            if let Some((_, lines)) = pending.pop_front() {
                self.ready.borrow_mut().extend_from_slice(&lines);
            }
        }
        self.check_size();
    }

    fn check_size(&self) {
        if self.ready.borrow().len() >= HAND_OVER_SIZE {
            self.hand_over();
        }
    }

    /// Hands the waiting records to the writer.
    pub(super) fn hand_over(&self) {
        let lines = std::mem::take(&mut *self.ready.borrow_mut());
        if lines.is_empty() {
            return;
        }
        let dropped = self.sender.send(lines);
        if dropped > 0 {
            self.metrics.event_records_dropped.increment(dropped);
            self.metrics.limit_hits.increment(Limit::EventChannel);
        }
    }
}
