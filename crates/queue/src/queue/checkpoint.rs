//! When the index is written down, and how, beside the mail.

use std::io;

use super::Queue;
use crate::checkpoint::{Begin, BlockWriter, CHECKPOINT_FILES, CheckpointHeader};
use crate::commit::{Batch, BatchNumber};
use crate::frame::{BLOCK_SIZE, Lsn};
use crate::id::MessageId;
use crate::index::Phase;
use crate::segment::FORMAT_VERSION;

/// Octets of log for each octet of checkpoint at least, so that checkpoints add at most a fifth to what
/// is written.
const LOG_PER_CHECKPOINT: u64 = 4;

/// Octets that a message takes in a checkpoint, about.
const MESSAGE_SIZE: u64 = 80;

/// A piece of a checkpoint to be written and synced.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckpointWrite {
    /// The file; one of [`CHECKPOINT_FILES`]. It is made when it is not there.
    pub file: &'static str,
    /// Where in it, in octets; a multiple of 4096. It may be the end of the file, never beyond it.
    pub offset: u64,
    /// What; a multiple of 4096 octets.
    pub bytes: Vec<u8>,
}

/// The checkpoints of a log.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    /// The highest number used.
    pub(crate) number: u64,
    /// Place among the files, and octets, of the newest one that is whole.
    pub(crate) newest: Option<(usize, u64)>,
    /// Octets of each file, whatever is in it.
    pub(crate) file_sizes: [u64; CHECKPOINT_FILES.len()],
    /// Octets of frames since the newest one was begun.
    pub(crate) replay_bytes: u64,
    /// Until there are so many, none is begun after a failure.
    retry_bytes: u64,
    /// The last durable frame of this run: a checkpoint begins with it if it can, as recovery needs the
    /// last frame in any case.
    pub(super) last_frame: Option<Begin>,
    /// Until a later batch than this one is durable, none is begun.
    pub(super) not_before: BatchNumber,
    is_requested: bool,
    run: Option<Run>,
}

/// A checkpoint being written.
#[derive(Debug)]
struct Run {
    slot: usize,
    number: u64,
    begin: Begin,
    /// What [`Checkpoints::replay_bytes`] was then.
    begin_bytes: u64,
    stage: Stage,
    /// Octets of the file that are written.
    offset: u64,
    messages: u64,
    /// Length of the write in progress.
    outstanding: Option<usize>,
}

/// Where a checkpoint may begin.
#[derive(Debug, Clone, Copy)]
struct Start {
    begin: Begin,
    /// The batch that became this frame; 0 for one of an earlier run.
    batch: BatchNumber,
    /// Octets of frames behind it.
    bytes_behind: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The header that was there is made blank.
    Erase,
    /// The messages from this id on are written down.
    Messages(MessageId),
    /// What was written down has to become durable in the log.
    Await(BatchNumber),
    /// The header is written.
    Header,
}

impl Queue {
    /// Asks for a checkpoint soon, as before a stop, if a restart would have much to read without.
    pub fn request_checkpoint(&mut self) {
        self.checkpoints.is_requested = true;
    }

    /// Whether a checkpoint is being written, or should be.
    pub fn has_checkpoint_work(&self) -> bool {
        self.poison.is_none() && (self.checkpoints.run.is_some() || self.is_checkpoint_due())
    }

    /// The next piece of a checkpoint to write, if one is due and none is being written.
    ///
    /// Write it at low priority beside the commits, and tell [`Queue::handle_checkpoint`]. Between the
    /// pieces mail flows on; at the end `None` may come until what was written down is durable in
    /// the log as well: poll again after commits.
    pub fn poll_checkpoint(&mut self) -> Option<CheckpointWrite> {
        if self.poison.is_some() {
            self.checkpoints.run = None;
            return None;
        }
        if self.checkpoints.run.is_none() && self.is_checkpoint_due() {
            self.begin_checkpoint();
        }
        let mut run = self.checkpoints.run.take()?;
        let write = if run.outstanding.is_some() { None } else { self.next_piece(&mut run) };
        if let Some(write) = &write {
            run.outstanding = Some(write.bytes.len());
        }
        self.checkpoints.run = Some(run);
        write
    }

    /// Takes what became of the piece that [`Queue::poll_checkpoint`] gave.
    ///
    /// A failure costs nothing but this checkpoint: what it says is in the log.
    pub fn handle_checkpoint(&mut self, written: io::Result<usize>) {
        let Some(mut run) = self.checkpoints.run.take() else { return };
        let Some(len) = run.outstanding.take() else {
            self.checkpoints.run = Some(run);
            return;
        };
        let end = len as u64
            + match run.stage {
                Stage::Erase | Stage::Header => 0,
                Stage::Messages(_) | Stage::Await(_) => run.offset,
            };
        // A write that failed may have made it longer all the same.
        if let Some(size) = self.checkpoints.file_sizes.get_mut(run.slot) {
            *size = end.max(*size);
        }
        if !written.is_ok_and(|written| written == len) {
            self.stats.checkpoint_failures_total += 1;
            let checkpoints = &mut self.checkpoints;
            let pause = self.config.checkpoint_interval / 4;
            checkpoints.retry_bytes = checkpoints.replay_bytes + pause.max(1);
            checkpoints.is_requested = false;
            return;
        }
        match run.stage {
            Stage::Erase => {
                run.offset = BLOCK_SIZE;
                run.stage = Stage::Messages(MessageId::from_u64(0));
            }
            Stage::Messages(_) | Stage::Await(_) => run.offset += len as u64,
            Stage::Header => {
                let checkpoints = &mut self.checkpoints;
                checkpoints.newest = Some((run.slot, run.offset));
                checkpoints.replay_bytes -= run.begin_bytes;
                checkpoints.retry_bytes = 0;
                checkpoints.is_requested = false;
                self.stats.checkpoints_total += 1;
                return;
            }
        }
        self.checkpoints.run = Some(run);
    }

    /// Keeps what is appended now out of what a checkpoint would have to replay.
    ///
    /// A purge is for what was there before it. With the messages that came in while a checkpoint was
    /// written that cannot be told afterwards, so a purge is never replayed on a checkpoint: one that
    /// is being written is given up, and the next is begun behind it.
    pub(super) fn keep_from_checkpoint(&mut self) {
        self.checkpoints.run = None;
        self.checkpoints.not_before = self.gathering();
    }

    /// Octets of the files of all checkpoints.
    pub(super) fn checkpoint_files_bytes(&self) -> u64 {
        self.checkpoints.file_sizes.iter().sum()
    }

    /// Octets of log that a restart would read now.
    pub(super) fn replay_bytes(&self) -> u64 {
        self.checkpoints.replay_bytes.min(self.segments.used_bytes())
    }

    fn is_checkpoint_due(&self) -> bool {
        let checkpoints = &self.checkpoints;
        let Some(start) = self.checkpoint_start() else { return false };
        if checkpoints.replay_bytes < checkpoints.retry_bytes
            || start.batch <= checkpoints.not_before
        {
            return false;
        }
        let replay = self.replay_bytes().saturating_sub(start.bytes_behind);
        let interval = self.config.checkpoint_interval;
        // What is asked for may cost more, but not to save a moment.
        let asked = self.checkpoints.is_requested && replay > interval / 16;
        // Recipients, chunks and names are in the last one, if it is not too old to tell.
        let last = checkpoints.newest.map_or(0, |(_, len)| len);
        let size = last.max(self.index.messages * MESSAGE_SIZE);
        asked || replay > interval.max(size.saturating_mul(LOG_PER_CHECKPOINT))
    }

    /// The frame that a checkpoint would begin with: the last one, but none behind event records that
    /// have not been told, for a restart has to find these.
    fn checkpoint_start(&self) -> Option<Start> {
        let last = self.checkpoints.last_frame?;
        Some(match self.events.first_place() {
            None => Start { begin: last, batch: self.durable_through, bytes_behind: 0 },
            Some(place) => Start {
                begin: place.begin,
                batch: place.batch,
                bytes_behind: self.events.passed_bytes - place.passed_bytes,
            },
        })
    }

    fn begin_checkpoint(&mut self) {
        let Some(start) = self.checkpoint_start() else { return };
        let checkpoints = &mut self.checkpoints;
        checkpoints.number += 1;
        let slot = checkpoints.newest.map_or(0, |(slot, _)| (slot + 1) % CHECKPOINT_FILES.len());
        checkpoints.run = Some(Run {
            slot,
            number: checkpoints.number,
            begin: start.begin,
            begin_bytes: checkpoints.replay_bytes.saturating_sub(start.bytes_behind),
            stage: Stage::Erase,
            offset: 0,
            messages: 0,
            outstanding: None,
        });
    }

    fn next_piece(&mut self, run: &mut Run) -> Option<CheckpointWrite> {
        let bytes = match run.stage {
            Stage::Erase => vec![0; BLOCK_SIZE as usize],
            Stage::Messages(next) => self.write_down(run, next),
            Stage::Await(batch) => {
                if self.durable_through < batch {
                    return None;
                }
                run.stage = Stage::Header;
                let header = CheckpointHeader {
                    version: FORMAT_VERSION,
                    identity: self.identity,
                    number: run.number,
                    begin: run.begin,
                    end: Lsn(self.next_lsn.0 - 1),
                    blocks_len: run.offset - BLOCK_SIZE,
                    messages: run.messages,
                };
                header.encode()
            }
            Stage::Header => return None,
        };
        let offset = match run.stage {
            Stage::Erase | Stage::Header => 0,
            Stage::Messages(_) | Stage::Await(_) => run.offset,
        };
        Some(CheckpointWrite { file: CHECKPOINT_FILES[run.slot], offset, bytes })
    }

    /// Writes down a block of messages from `next` on, and before the first one what is coming in.
    fn write_down(&self, run: &mut Run, next: MessageId) -> Vec<u8> {
        let mut block = BlockWriter::new(Vec::new());
        if next == MessageId::from_u64(0) {
            for (id, streaming) in &self.index.streaming {
                if !streaming.abandoned {
                    block.streaming(*id, streaming);
                }
            }
        }
        // What is about to enter the queue or to leave it is in frames that will be replayed.
        let entries = self.index.entries.iter_from(next);
        let mut durable = entries.filter(|(_, entry)| entry.phase == Phase::Durable);
        run.stage = loop {
            let Some((id, entry)) = durable.next() else {
                break Stage::Await(self.last_batch());
            };
            if block.len() >= self.config.checkpoint_block_size {
                break Stage::Messages(id);
            }
            block.message(id, entry, &self.index.hosts);
            run.messages += 1;
        };
        block.seal(run.number)
    }

    /// The last batch that holds anything.
    fn last_batch(&self) -> BatchNumber {
        let pending = self.pending.iter().rev().find(|batch: &&Batch| !batch.is_empty());
        let in_flight = self.in_flight.as_ref().map(|flight| flight.number);
        pending.map(|batch| batch.number).or(in_flight).unwrap_or(self.durable_through)
    }
}
