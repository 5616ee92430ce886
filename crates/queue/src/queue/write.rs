//! Commits and segments: what is written where, and what it means that it is durable.

use std::io;

use super::{Queue, SPARE_BUFFERS, check_written};
use crate::checkpoint::Begin;
use crate::commit::{Batch, BatchNumber, Note};
use crate::frame::{self, BLOCK_SIZE, FrameHeader};
use crate::id::MessageId;
use crate::index::{Location, Phase, Piece};
use crate::segment::{FORMAT_VERSION, SegmentSequence, SegmentTask};

/// A batch to be written and synced: one commit.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// The segment.
    pub segment: SegmentSequence,
    /// Where in it, in octets; a multiple of 4096.
    pub offset: u64,
    /// What; a multiple of 4096 octets.
    pub bytes: Vec<u8>,
}

/// The segment that is written to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    segment: SegmentSequence,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) number: BatchNumber,
    records: u32,
    events: u32,
    notes: Vec<Note>,
    purged: Vec<MessageId>,
    payload_len: usize,
    offset: u64,
    pub(super) len: usize,
    checksum: u32,
    head: SegmentSequence,
    message_sequence: u64,
}

impl Queue {
    /// The next batch to write, if there is one, none is in progress, and a segment is ready for it.
    ///
    /// Write it, sync, and tell [`Queue::handle_write`].
    pub fn poll_write(&mut self) -> Option<Write> {
        if self.poison.is_some() || self.in_flight.is_some() {
            return None;
        }
        self.limit_events();
        let first = self.pending.front()?;
        if first.is_empty() && !self.frame_due {
            return None;
        }
        let tail = self.tail_for(frame::frame_size(first.payload_len()))?;
        let mut batch = self.pending.pop_front()?;
        if self.pending.is_empty() {
            let buffer = self.buffers.pop().unwrap_or_default();
            self.pending.push_back(Batch::new(BatchNumber(batch.number.0 + 1), buffer));
        }
        let payload_len = batch.payload_len();
        self.add_event_mark(&mut batch);
        let head = self.segments.advance().unwrap_or(tail.segment);
        let header = FrameHeader {
            version: FORMAT_VERSION,
            identity: self.identity,
            segment: tail.segment,
            lsn: self.next_lsn,
            head,
            message_sequence: self.next_message_sequence,
            previous_segment: self.previous_segment,
            payload_len: 0,
            records: batch.records,
            previous: self.previous,
            payload_checksum: 0,
        };
        let mut bytes = batch.frame;
        let checksum = frame::seal(&mut bytes, header);
        assert!(tail.offset + bytes.len() as u64 <= tail.size, "a frame stays in its segment");
        self.frame_due = false;
        self.in_flight = Some(Flight {
            number: batch.number,
            records: batch.records,
            events: batch.events,
            notes: batch.notes,
            purged: batch.purged,
            payload_len,
            offset: tail.offset,
            len: bytes.len(),
            checksum,
            head,
            message_sequence: self.next_message_sequence,
        });
        Some(Write { segment: tail.segment, offset: tail.offset, bytes })
    }

    /// Where a frame of this size goes; begins the next segment if it has to.
    fn tail_for(&mut self, size: u64) -> Option<Tail> {
        if let Some(tail) = self.tail
            && tail.offset + size <= tail.size
        {
            return Some(tail);
        }
        let (segment, segment_size) = self.ready.pop_front()?;
        let tail = Tail { segment, offset: BLOCK_SIZE, size: segment_size };
        assert!(tail.offset + size <= tail.size, "a frame fits a new segment");
        self.segments.open(segment, segment_size);
        self.tail = Some(tail);
        Some(tail)
    }

    /// Takes what became of the write that [`Queue::poll_write`] gave, with its buffer for reuse.
    ///
    /// `Ok` must be the length that the write and all of the sync after it returned. Anything but the
    /// whole length poisons the queue for good: after a failed sync a second one may succeed although
    /// the data is gone, so that nothing can be proved any more.
    pub fn handle_write(&mut self, written: io::Result<usize>, bytes: Vec<u8>) {
        let Some(flight) = self.in_flight.take() else { return };
        self.pending_bytes = self.pending_bytes.saturating_sub(flight.payload_len);
        if let Err(poison) = check_written(written, flight.len) {
            self.set_poison(poison);
            return;
        }
        let Some(tail) = &mut self.tail else { return };
        let segment = tail.segment;
        tail.offset += flight.len as u64;
        let (end, segment_size) = (tail.offset, tail.size);
        let begin = Begin {
            lsn: self.next_lsn,
            segment,
            offset: flight.offset,
            previous_segment: self.previous_segment,
            previous: self.previous,
        };
        self.checkpoints.last_frame = Some(begin);
        self.events.frame(begin, flight.number, flight.len as u64, flight.events, segment_size);
        self.segments.note_frame(segment, end, begin.lsn, flight.events.into());
        self.next_lsn.0 += 1;
        self.previous = flight.checksum;
        self.previous_segment = segment;
        self.durable_through = flight.number;
        self.durable_head = flight.head;
        self.durable_message_sequence = flight.message_sequence;
        self.checkpoints.replay_bytes += flight.len as u64;
        self.stats.batches_total += 1;
        self.stats.batch_bytes_total += flight.len as u64;
        self.stats.records_total += u64::from(flight.records);
        for note in flight.notes {
            match note {
                Note::Placed { id, piece, offset, len } => {
                    let offset = flight.offset as u32 + offset;
                    self.record_is_durable(id, piece, Location { segment, offset, len });
                }
                Note::Settled { id } => self.settlement_is_durable(id),
            }
        }
        self.purged.extend(flight.purged);
        self.look_for_free_segments();
        if self.buffers.len() < SPARE_BUFFERS && bytes.capacity() <= 2 * self.config.batch_size_max
        {
            self.buffers.push(bytes);
        }
    }

    /// Segments that have become free may be reused when a frame says so: sees to it that one comes,
    /// for none else may.
    pub(super) fn look_for_free_segments(&mut self) {
        if self.segments.advance().is_some_and(|head| head > self.durable_head) {
            self.frame_due = true;
        }
    }

    fn record_is_durable(&mut self, id: MessageId, piece: Piece, location: Location) {
        let Some(entry) = self.index.entries.get_mut(id) else {
            // No commit record yet: a chunk that is coming in, or one that was abandoned.
            self.chunk_is_durable(id, piece, location);
            return;
        };
        match (entry.phase, piece) {
            (Phase::Appended, Piece::Chunk(_)) => {
                self.chunk_is_durable(id, piece, location);
                return;
            }
            (Phase::Appended, Piece::Message) => {
                // Its chunks are in this frame or in earlier ones: all of them are known by now.
                let streaming = self.index.streaming.remove(&id).unwrap_or_default();
                assert!(streaming.chunks.len() == entry.chunk_count(), "no chunk is missing");
                entry.set_chunks(&streaming.chunks);
                // It may have been purged meanwhile, by a record that follows.
                let is_purged = entry.queued() == 0;
                entry.phase = if is_purged { Phase::Settling } else { Phase::Durable };
                entry.set_location(location);
                self.index.messages += 1;
                self.index.recipients += entry.queued();
                self.segments.pin(id, piece, location);
                return;
            }
            (Phase::Durable | Phase::Settling, _) => {}
        }
        // A copy: it is the one that counts from now on.
        let old = match piece {
            Piece::Message => Some(entry.set_location(location)),
            Piece::Chunk(index) => entry.set_chunk(index, location),
        };
        if let Some(old) = old {
            self.segments.unpin(old);
            self.segments.pin(id, piece, location);
        }
    }

    fn chunk_is_durable(&mut self, id: MessageId, piece: Piece, location: Location) {
        let (Some(streaming), Piece::Chunk(index)) = (self.index.streaming.get_mut(&id), piece)
        else {
            return;
        };
        // Chunks become durable in order, and are copied only after that.
        let copied = index < streaming.durable;
        if copied {
            streaming.copies = streaming.copies.saturating_sub(1);
        } else {
            streaming.durable += 1;
        }
        if streaming.abandoned {
            if streaming.is_written() {
                self.index.streaming.remove(&id);
            }
            return;
        }
        match streaming.chunks.get_mut(index as usize).filter(|_| copied) {
            Some(place) => self.segments.unpin(std::mem::replace(place, location)),
            None => streaming.chunks.push(location),
        }
        self.segments.pin(id, piece, location);
    }

    pub(super) fn settlement_is_durable(&mut self, id: MessageId) {
        let Some(entry) = self.index.remove(id) else { return };
        self.index.messages -= 1;
        for (_, location) in entry.pieces() {
            self.segments.unpin(location);
        }
    }

    /// The next thing to be done with a segment file, if none is in progress.
    ///
    /// Do it with [`run_task`](crate::segment::run_task), beside the commits, and tell
    /// [`Queue::handle_segment`].
    pub fn poll_segment(&mut self) -> Option<SegmentTask> {
        if self.poison.is_some() || self.is_recovering || self.task.is_some() {
            return None;
        }
        if self.reuse.is_due()
            && let Some(task) = self.cleanup.front()
        {
            self.task = Some(*task);
            return self.task;
        }
        let size = self.config.segment_size;
        let identity = self.identity;
        // Only what a durable frame of this run has given up.
        let free = self.segments.oldest_free();
        let free = free.filter(|free| self.cleanup.is_empty() && free.sequence < self.durable_head);
        let wanted = self.ready.len() < self.config.segments_ready;
        let files = self.segments.len() + self.segments.free_len() + self.ready.len();
        let kept = if self.space_is_short { 0 } else { self.config.segments_free_max };
        let surplus = self.segments.free_len() > kept || files > self.config.segments_max();
        let task = match free {
            // The size was changed in the configuration, or the segment was never finished.
            Some(free) if free.size != size => SegmentTask::Remove { sequence: free.sequence },
            Some(free) if wanted => {
                SegmentTask::Recycle { old: free.sequence, new: self.next_segment, size, identity }
            }
            Some(free) if surplus => SegmentTask::Remove { sequence: free.sequence },
            None if wanted && self.creation.is_due() => {
                SegmentTask::Create { sequence: self.next_segment, size, identity }
            }
            _ => return None,
        };
        if free.is_some() {
            self.segments.take_free();
            self.reusing = free;
        }
        if !matches!(task, SegmentTask::Remove { .. }) {
            // Whatever becomes of it, no other file gets this number.
            self.next_segment = self.next_segment.next();
        }
        self.task = Some(task);
        Some(task)
    }

    /// Takes what became of the task that [`Queue::poll_segment`] gave.
    pub fn handle_segment(&mut self, task: SegmentTask, result: io::Result<()>) {
        if self.task != Some(task) {
            return;
        }
        self.task = None;
        if result.is_err() {
            self.stats.segment_failures_total += 1;
        }
        match (task, result) {
            (SegmentTask::Create { sequence, size, .. }, Ok(())) => {
                self.ready.push_back((sequence, size));
                self.creation.succeed();
            }
            (SegmentTask::Recycle { new, size, .. }, Ok(())) => {
                self.ready.push_back((new, size));
                self.creation.succeed();
                self.reuse_is_done();
            }
            (SegmentTask::Create { .. }, Err(_)) => {
                self.creation.fail();
                self.limit_events();
            }
            (SegmentTask::Recycle { old, new, .. }, Err(_)) => {
                // The file is under one of the names. It is not tried to finish the work: another
                // sync of the directory would prove nothing about the new name, and a later segment
                // may have been begun. Deleting it twice, or not for good, does no harm.
                self.cleanup.extend([new, old].map(|sequence| SegmentTask::Remove { sequence }));
                self.reuse.fail();
            }
            (SegmentTask::Remove { .. }, Err(_)) => {
                if self.cleanup.is_empty() {
                    self.cleanup.push_back(task);
                }
                self.reuse.fail();
            }
            (SegmentTask::Remove { .. }, Ok(())) => {
                self.cleanup.pop_front();
                if self.cleanup.is_empty() {
                    self.reuse_is_done();
                }
            }
        }
    }

    fn reuse_is_done(&mut self) {
        self.reusing = None;
        self.reuse.succeed();
    }

    /// Takes whether the file system is short of space: until it is not, no free segments are kept for
    /// later, and a log of which less than half is live is rewritten however short it is. Otherwise
    /// mail that is put off for want of space would have to wait for space that lies idle here.
    pub fn set_space_short(&mut self, is_short: bool) {
        self.space_is_short = is_short;
    }

    /// Lets what failed with segments be tried again; to be called about five times a second.
    ///
    /// The first failure is tried again after one call, later ones after 2, 4, and then every 5.
    pub fn retry_segments(&mut self) {
        self.creation.call();
        self.reuse.call();
    }
}
