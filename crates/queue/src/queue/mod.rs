//! The queue of one shard: the log, its index and its commits as one state machine.

use std::collections::VecDeque;
use std::io;

use ringpost_protocol::address::Host;

use crate::admission::{Admission, Poison, QueueStats};
use crate::commit::{Batch, BatchNumber, Committed, Note, Redeemed, Ticket};
use crate::config::{ConfigError, QueueConfig};
use crate::error::{Corruption, ReadError};
use crate::events::Events;
use crate::frame::Lsn;
use crate::hosts::HostId;
use crate::id::MessageId;
use crate::index::{Index, MessageView, Phase, Piece};
use crate::message::StoredMessage;
use crate::read::{ReadPlan, assemble};
use crate::reclaim::{FreeSegment, Segments};
use crate::segment::{LogIdentity, SegmentSequence, SegmentTask};

mod append;
mod checkpoint;
mod events;
mod purge;
mod restore;
mod retry;
mod rewrite;
mod room;
mod write;

#[cfg(test)]
mod tests;

pub use checkpoint::CheckpointWrite;
pub(crate) use checkpoint::Checkpoints;
use retry::Retry;
pub(crate) use rewrite::Rewrite;
pub use write::Write;
use write::{Flight, Tail};

/// Message numbers that may be given out without any of them being durable. A restart skips as many,
/// so that an id which was part of anything durable never comes again.
pub(crate) const SEQUENCE_GAP: u64 = 1 << 20;

/// Buffers kept for reuse: one is being filled while another is written.
const SPARE_BUFFERS: usize = 2;

/// The queue of one shard.
///
/// A pure state machine: it decides what is written where, and the caller does it.
///
/// ```text
///  append_* -> batch gathers -> poll_write -> (write + sync) -> handle_write -> redeem: Durable
///                                                    |
///                                               failed or short -> poisoned, redeem: Lost
/// ```
///
/// One write is in progress at a time, and the next batch gathers meanwhile: there is no delay by
/// design, an idle queue commits a lone message at once, a busy one shares each sync among many.
///
/// Contract:
///
/// - A, getters: [`admission`](Self::admission), [`stats`](Self::stats),
///   [`message`](Self::message), [`redeem`](Self::redeem), [`plan_read`](Self::plan_read),
///   [`decode_message`](Self::decode_message), … change nothing.
/// - B, facts: [`handle_write`](Self::handle_write), [`handle_segment`](Self::handle_segment),
///   [`handle_rewrite`](Self::handle_rewrite), [`handle_checkpoint`](Self::handle_checkpoint),
///   [`handle_events`](Self::handle_events). Each answers what a poll gave.
/// - C, commands: [`next_id`](Self::next_id), [`append_chunk`](Self::append_chunk),
///   [`append_message`](Self::append_message), [`abandon`](Self::abandon),
///   [`append_outcome`](Self::append_outcome), [`append_purge`](Self::append_purge),
///   [`remove_purged`](Self::remove_purged), [`retry_segments`](Self::retry_segments),
///   [`set_space_short`](Self::set_space_short),
///   [`request_checkpoint`](Self::request_checkpoint), [`mark_events`](Self::mark_events),
///   [`request_event_mark`](Self::request_event_mark),
///   [`read_events_after`](Self::read_events_after). After them poll.
/// - D, polls: [`poll_write`](Self::poll_write), [`poll_segment`](Self::poll_segment),
///   [`poll_rewrite`](Self::poll_rewrite), [`poll_checkpoint`](Self::poll_checkpoint),
///   [`poll_events`](Self::poll_events), each with at most one thing in progress. After each B or C
///   poll the first two; the others are work for idle times.
#[derive(Debug)]
pub struct Queue {
    config: QueueConfig,
    identity: LogIdentity,
    index: Index,
    segments: Segments,
    rewrite: Rewrite,
    checkpoints: Checkpoints,
    events: Events,
    /// Messages to be taken out of the index: their removal is durable.
    purged: Vec<MessageId>,

    /// Batches to be written, the last of which gathers. Never empty.
    pending: VecDeque<Batch>,
    pending_bytes: usize,
    /// It stands in for a queue of which the log is still being read.
    is_recovering: bool,
    in_flight: Option<Flight>,
    durable_through: BatchNumber,
    /// The batch that begins with the last frame of the run before; 0 if there is none.
    resumed_through: BatchNumber,
    poison: Option<Poison>,
    buffers: Vec<Vec<u8>>,
    /// Whether a frame is wanted even with nothing to put into it.
    frame_due: bool,

    /// Where the next frame goes; `None` before the first segment of this run.
    tail: Option<Tail>,
    next_lsn: Lsn,
    previous: u32,
    previous_segment: SegmentSequence,
    next_message_sequence: u64,
    /// The message sequence that the last durable frame recorded.
    durable_message_sequence: u64,
    /// The oldest needed segment that the last durable frame of this run recorded. Only what is older
    /// may be reused: until then recovery would still look for it.
    durable_head: SegmentSequence,

    next_segment: SegmentSequence,
    ready: VecDeque<(SegmentSequence, u64)>,
    task: Option<SegmentTask>,
    /// Creating segments. It fails until a segment is ready again, not only until the next try.
    creation: Retry,
    /// The free segment that is being recycled or deleted, until it is.
    reusing: Option<FreeSegment>,
    /// What is left to be done about it after a failure. Until then no later one is touched.
    cleanup: VecDeque<SegmentTask>,
    /// Recycling and deleting segments.
    reuse: Retry,
    /// Whether the file system is short of space.
    space_is_short: bool,

    stats: QueueStats,
}

/// Where a log goes on, as recovery found it.
#[derive(Debug)]
pub(crate) struct Continuation {
    pub(crate) index: Index,
    pub(crate) segments: Segments,
    pub(crate) next_segment: SegmentSequence,
    /// The LSN of the next frame, and what it says about the one before it.
    pub(crate) next_lsn: Lsn,
    pub(crate) previous: u32,
    pub(crate) previous_segment: SegmentSequence,
    pub(crate) next_message_sequence: u64,
    /// The records of the last frame, to be written again.
    pub(crate) last_frame: Option<LastFrame>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) events: Events,
    pub(crate) tail_truncated_bytes: u64,
}

/// The records of the last frame of a log.
#[derive(Debug)]
pub(crate) struct LastFrame {
    pub(crate) payload: Vec<u8>,
    pub(crate) records: u32,
    /// Event records among them, each counted.
    pub(crate) events: u32,
    /// Where they are in the payload, with offsets that count from its start.
    pub(crate) notes: Vec<Note>,
}

impl Queue {
    /// Makes a new, empty queue. Its directory must be empty.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the limits cannot be kept.
    pub fn create(config: QueueConfig, identity: LogIdentity) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::resume(
            config,
            identity,
            Continuation {
                index: Index::default(),
                segments: Segments::default(),
                next_segment: SegmentSequence(1),
                next_lsn: Lsn(1),
                previous: 0,
                previous_segment: SegmentSequence(0),
                next_message_sequence: 1,
                last_frame: None,
                checkpoints: Checkpoints::default(),
                events: Events::default(),
                tail_truncated_bytes: 0,
            },
        ))
    }

    /// Makes a queue that stands in for another one while [`recover`](crate::recover) reads its log.
    ///
    /// It is empty, takes nothing ([`Admission::Recovering`]) and wants nothing written. What
    /// recovery gives takes its place.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the limits cannot be kept.
    pub fn opening(config: QueueConfig, identity: LogIdentity) -> Result<Self, ConfigError> {
        Ok(Self { is_recovering: true, ..Self::create(config, identity)? })
    }

    /// Makes the queue that goes on where a log ended.
    ///
    /// The last frame is written once more, to the first segment of this run, under its old LSN.
    /// What the old one holds may have been read from the page cache only: its sync may never have
    /// happened, or have failed. Frames that follow must not depend on it.
    pub(crate) fn resume(
        config: QueueConfig,
        identity: LogIdentity,
        continuation: Continuation,
    ) -> Self {
        let mut batch = Batch::new(BatchNumber(1), Vec::new());
        let mut frame_due = false;
        let resumed_through = BatchNumber(u64::from(continuation.last_frame.is_some()));
        let mut checkpoints = continuation.checkpoints;
        if let Some(last) = continuation.last_frame {
            // There may be a purge in it.
            checkpoints.not_before = batch.number;
            let base = batch.frame.len() as u32;
            batch.frame.extend_from_slice(&last.payload);
            batch.records = last.records;
            batch.events = last.events;
            batch.notes = last.notes;
            for note in &mut batch.notes {
                if let Note::Placed { offset, .. } = note {
                    *offset += base;
                }
            }
            frame_due = true;
        }
        Self {
            config,
            identity,
            index: continuation.index,
            segments: continuation.segments,
            rewrite: Rewrite::default(),
            checkpoints,
            events: continuation.events,
            purged: Vec::new(),
            pending_bytes: batch.payload_len(),
            pending: VecDeque::from([batch]),
            is_recovering: false,
            in_flight: None,
            durable_through: BatchNumber(0),
            resumed_through,
            poison: None,
            buffers: Vec::new(),
            frame_due,
            tail: None,
            next_lsn: continuation.next_lsn,
            previous: continuation.previous,
            previous_segment: continuation.previous_segment,
            next_message_sequence: continuation.next_message_sequence,
            durable_message_sequence: continuation.next_message_sequence,
            durable_head: SegmentSequence(0),
            next_segment: continuation.next_segment,
            ready: VecDeque::new(),
            task: None,
            creation: Retry::default(),
            reusing: None,
            cleanup: VecDeque::new(),
            reuse: Retry::default(),
            space_is_short: false,
            stats: QueueStats {
                tail_truncated_bytes: continuation.tail_truncated_bytes,
                ..QueueStats::default()
            },
        }
    }

    /// The limits.
    pub fn config(&self) -> &QueueConfig {
        &self.config
    }

    /// Which log this is.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// Whether new mail may come in.
    pub fn admission(&self) -> Admission {
        if self.poison.is_some() {
            Admission::Poisoned
        } else if self.is_recovering {
            Admission::Recovering
        } else if self.segments_left() < 2 || (self.creation.is_failing() && self.ready.is_empty())
        {
            // Two segments are kept for what settles messages, and for moving live ones.
            Admission::Full
        } else {
            Admission::Open
        }
    }

    /// What poisoned the queue, if anything did.
    pub fn poison(&self) -> Option<Poison> {
        self.poison
    }

    fn segments_left(&self) -> usize {
        // Free segments are as good as space that is not used, unless they cannot be had.
        let blocked = if self.reuse.is_failing() { self.segments.free_len() + 1 } else { 0 };
        // As many as checkpoints take the place of.
        let beside = self.checkpoint_files_bytes() / self.config.segment_size;
        let taken = self.segments.len() + blocked + usize::try_from(beside).unwrap_or(usize::MAX);
        self.config.segments_max().saturating_sub(taken)
    }

    /// Counters and gauges.
    pub fn stats(&self) -> QueueStats {
        QueueStats {
            messages: self.index.messages,
            recipients: self.index.recipients,
            hosts: self.index.hosts.len() as u64,
            streaming: self.index.streaming.len() as u64,
            segments: self.segments.len() as u64,
            segments_ready: self.ready.len() as u64,
            segments_free: (self.segments.free_len() + usize::from(self.reusing.is_some())) as u64,
            disk_bytes: self.segments.disk_bytes()
                + self.ready.iter().map(|(_, size)| size).sum::<u64>()
                + self.reusing.map_or(0, |free| free.size)
                + self.checkpoint_files_bytes(),
            live_bytes: self.segments.live_bytes(),
            pending_bytes: self.pending_bytes as u64,
            replay_bytes: self.replay_bytes(),
            checkpoint_bytes: self.checkpoints.newest.map_or(0, |(_, len)| len),
            ..self.stats
        }
    }

    /// The message of this id, if it is durable and not settled.
    pub fn message(&self, id: MessageId) -> Option<MessageView<'_>> {
        let entry = self.index.entries.get(id).filter(|entry| entry.phase == Phase::Durable)?;
        Some(MessageView::new(id, entry))
    }

    /// All messages from an id on that are durable and not settled, in the order of ids.
    pub fn messages_from(&self, first: MessageId) -> impl Iterator<Item = MessageView<'_>> {
        let entries = self.index.entries.iter_from(first);
        let durable = entries.filter(|(_, entry)| entry.phase == Phase::Durable);
        durable.map(|(id, entry)| MessageView::new(id, entry))
    }

    /// The host of a recipient; `None` for a mailbox without one, as in `<Postmaster>`.
    pub fn host(&self, id: HostId) -> Option<&Host> {
        self.index.hosts.get(id)
    }

    /// The last batch that is durable; tickets of it and of all before it can be redeemed.
    pub fn durable_through(&self) -> BatchNumber {
        self.durable_through
    }

    /// What a ticket is worth now.
    pub fn redeem(&self, ticket: Ticket) -> Redeemed {
        if ticket.batch <= self.durable_through {
            Redeemed::Durable(Committed::new(ticket.id))
        } else if self.poison.is_some() {
            Redeemed::Lost
        } else {
            Redeemed::Pending
        }
    }

    /// What to read for a message: its message record first, then its chunks in order. `None` if it
    /// is not in the queue.
    pub fn plan_read(&self, id: MessageId) -> Option<Vec<ReadPlan>> {
        let entry = self.index.entries.get(id).filter(|entry| entry.phase == Phase::Durable)?;
        let plans = entry.pieces().map(|(piece, location)| ReadPlan::new(id, piece, location));
        Some(plans.collect())
    }

    /// Whether a plan still says where the record is. If not, its segment may hold something else by
    /// now.
    pub fn is_current(&self, plan: &ReadPlan) -> bool {
        self.index.piece(plan.id, plan.piece) == Some(plan.location())
    }

    /// Puts a message together from what was read for [`Queue::plan_read`].
    ///
    /// # Errors
    ///
    /// [`ReadError::Moved`]: plan again. [`ReadError::Corrupt`]: a record is not what was written.
    pub fn decode_message(
        &self,
        id: MessageId,
        plans: &[ReadPlan],
        parts: Vec<Vec<u8>>,
    ) -> Result<StoredMessage, ReadError> {
        let entry = self.index.entries.get(id).ok_or(ReadError::Moved(id))?;
        let count = entry.chunk_count() + 1;
        let complete = plans.len() == count && parts.len() == count;
        if !complete || !plans.iter().all(|plan| plan.id == id && self.is_current(plan)) {
            return Err(ReadError::Moved(id));
        }
        Ok(assemble(plans, parts, entry.size)?)
    }

    /// Notes that the storage broke its word, for good.
    fn set_poison(&mut self, poison: Poison) {
        self.poison.get_or_insert(poison);
        // Nothing of it will be written.
        self.pending.truncate(1);
        for batch in &mut self.pending {
            *batch = Batch::new(batch.number, Vec::new());
        }
        self.pending_bytes = 0;
    }

    fn note_corruption(&mut self, corruption: Corruption) -> Corruption {
        self.stats.corrupt_records_total += 1;
        corruption
    }
}

/// Whether a piece stands for content that is moved as it is.
fn is_chunk(piece: Piece) -> bool {
    matches!(piece, Piece::Chunk(_))
}

/// What a failed write means, or `Ok` if all of it is durable.
fn check_written(written: io::Result<usize>, len: usize) -> Result<(), Poison> {
    match written {
        Ok(written) if written == len => Ok(()),
        Ok(written) => Err(Poison::Short { written, len }),
        Err(error) => Err(Poison::Failed(error.kind())),
    }
}
