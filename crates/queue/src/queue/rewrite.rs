//! Rewriting: live records of the oldest segment are copied to the tail, so that it can go.

use std::io;

use super::{Queue, append::place, is_chunk};
use crate::commit::BatchNumber;
use crate::error::Corruption;
use crate::index::{Entry, Piece, RecipientEntry};
use crate::read::ReadPlan;
use crate::record::{self, Record, RecordError};
use crate::segment::SegmentSequence;

/// Batches to wait until a segment that could not be emptied is tried again.
const RETRY_BATCHES: u64 = 1024;

/// How far the rewriting of the oldest segment has come.
#[derive(Debug, Default)]
pub(crate) struct Rewrite {
    run: Option<Run>,
    outstanding: Option<ReadPlan>,
    /// The segment of the last run, and the batch before which it is not tried again.
    done: Option<(SegmentSequence, BatchNumber)>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    segment: SegmentSequence,
    next: usize,
}

impl Queue {
    /// The next record to be moved out of the oldest segment, if it is worth it: when less than half
    /// of the sealed log is live. So the log is never much longer than twice what lives in it, and a
    /// record is moved at most once for each octet freed. When segments cannot be created, records
    /// are moved only while enough room is left for outcomes.
    ///
    /// Read it at low priority, and tell [`Queue::handle_rewrite`].
    pub fn poll_rewrite(&mut self) -> Option<ReadPlan> {
        if self.poison.is_some()
            || self.rewrite.outstanding.is_some()
            || self.pending_bytes >= self.config.batch_size_max
        {
            return None;
        }
        // What is left of a run that is done is being settled, or damaged. Go on with the next segment
        // at once, unless this one still has to be freed.
        let before = self.rewrite.run;
        let plan = self.go_on().or_else(|| self.go_on())?;
        if !self.can_be_written(plan.len, self.outcome_reserve() / 2) {
            // It is taken up again when there is room.
            self.rewrite.run = before;
            return None;
        }
        self.rewrite.outstanding = Some(plan);
        Some(plan)
    }

    /// The next record of this run, or of a new one; ends a run that has none.
    fn go_on(&mut self) -> Option<ReadPlan> {
        let mut run = match self.rewrite.run {
            Some(run) => run,
            None => self.begin_run()?,
        };
        let oldest = self.segments.oldest_sealed().filter(|oldest| oldest.sequence == run.segment);
        let mut plan = None;
        while plan.is_none()
            && let Some((id, piece)) = oldest.and_then(|oldest| oldest.record(run.next))
        {
            run.next += 1;
            let location = self.index.movable_piece(id, piece);
            let here = location.filter(|location| location.segment == run.segment);
            plan = here.map(|location| ReadPlan::new(id, piece, location));
        }
        self.rewrite.run = plan.map(|_| run);
        if plan.is_none() {
            let again = BatchNumber(self.gathering().0 + RETRY_BATCHES);
            self.rewrite.done = Some((run.segment, again));
        }
        plan
    }

    fn begin_run(&self) -> Option<Run> {
        let oldest = self.segments.oldest_sealed().filter(|oldest| oldest.pins > 0)?;
        let (count, size, live) = self.segments.sealed();
        let pressed = count >= self.config.rewrite_segments_min
            || self.segments_left() < 2
            || self.creation.is_failing()
            || self.space_is_short;
        // A segment that was just emptied is freed by the next commit, which is waited for.
        let waited = self
            .rewrite
            .done
            .is_none_or(|(segment, again)| segment != oldest.sequence || self.gathering() >= again);
        (pressed && waited && live * 2 < size).then_some(Run { segment: oldest.sequence, next: 0 })
    }

    /// Takes what was read for [`Queue::poll_rewrite`], and appends it again.
    ///
    /// # Errors
    ///
    /// [`Corruption`]: the record is damaged. It stays where it is, and its segment with it.
    pub fn handle_rewrite(
        &mut self,
        plan: &ReadPlan,
        read: io::Result<Vec<u8>>,
    ) -> Result<(), Corruption> {
        if self.rewrite.outstanding.take_if(|outstanding| outstanding == plan).is_none() {
            return Ok(());
        }
        let Ok(bytes) = read else {
            // It stays; the next run tries again.
            return Ok(());
        };
        let movable = self.index.movable_piece(plan.id, plan.piece) == Some(plan.location());
        if self.poison.is_some() || !movable {
            return Ok(());
        }
        let record = match plan.decode(&bytes) {
            Ok(record) => record,
            Err(corruption) => return Err(self.note_corruption(corruption)),
        };
        self.copy(plan, &record)
    }

    fn copy(&mut self, plan: &ReadPlan, record: &Record<'_>) -> Result<(), Corruption> {
        let mut bytes = Vec::new();
        match record {
            Record::Chunk(chunk) if is_chunk(plan.piece) => {
                record::encode_chunk(&mut bytes, chunk);
            }
            Record::Message(message) if plan.piece == Piece::Message => {
                // With the states of now: what changed them may be in the segment that goes.
                let states = self.index.entries.get(plan.id).map(Entry::recipients);
                let states = states.unwrap_or_default();
                if states.len() != message.recipients.len() {
                    let corruption = plan.corruption(RecordError::Field);
                    return Err(self.note_corruption(corruption));
                }
                let paths = message.recipients.iter().map(|(path, _)| *path);
                record::encode_message(
                    &mut bytes,
                    &message.head,
                    message.body,
                    &message.reverse_path,
                    paths
                        .collect::<Vec<_>>()
                        .into_iter()
                        .zip(states.iter().map(RecipientEntry::state)),
                    record::Extras { dsn: message.dsn, options: message.options },
                    message.content,
                );
            }
            _ => return Err(self.note_corruption(plan.corruption(RecordError::Field))),
        }
        if is_chunk(plan.piece)
            && let Some(streaming) = self.index.streaming.get_mut(&plan.id)
        {
            streaming.copies += 1;
        }
        self.append_group(|batch| {
            place(batch, plan.id, plan.piece, |out| out.extend_from_slice(&bytes));
        });
        self.stats.rewritten_records_total += 1;
        Ok(())
    }
}
