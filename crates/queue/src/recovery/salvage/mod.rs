//! What is left of a damaged log, and a new log made of it.
//!
//! [`survey`] reads all that a log still needs, and goes on where recovery stops: behind a damaged frame
//! the next one is looked for, and of a damaged frame the intact records count, each of which has a
//! checksum of its own. Their sum is what the queue was, as far as can be shown. [`rebuild`] writes it to an
//! empty directory.
//!
//! A message counts only with its message record and all of its chunks, so none is ever made up or
//! delivered in part. States of recipients may be older than they were, for what made them newer
//! may be what is damaged; they are never newer.

use thiserror::Error;

use super::open_all;
use super::scan::SegmentScan;
use crate::error::{CorruptReason, Corruption, RecoveryError};
use crate::frame::FRAME_HEADER_SIZE;
use crate::hosts::HostId;
use crate::id::MessageId;
use crate::index::{Index, Location, MessageView};
use crate::read::ReadPlan;
use crate::record;
use crate::segment::{LogIdentity, SegmentSequence};
use crate::storage::Storage;

mod frames;
mod ledger;
mod rebuild;
mod records;

use frames::Spot;
use ledger::Ledger;
pub use rebuild::{RebuildError, Rebuilt, rebuild};

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, within the directory of the shard.
    pub file: String,
    /// Where, in octets from its start.
    pub offset: u64,
    /// What is wrong.
    pub reason: DamageReason,
}

/// What is wrong with a part of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DamageReason {
    /// The log is broken there.
    #[error(transparent)]
    Log(#[from] CorruptReason),
    /// A record of a message in the queue is not what was written.
    #[error("message {} cannot be read back", .0.id)]
    Message(#[source] Corruption),
    /// The blocks of a checkpoint are not what was written. All that it says is in the log too.
    #[error("the checkpoint is damaged")]
    Checkpoint,
    /// What a checkpoint says is not what the log says.
    #[error("the checkpoint contradicts the log")]
    CheckpointDiffers,
}

impl Damage {
    pub(super) fn log(segment: SegmentSequence, offset: u64, reason: CorruptReason) -> Self {
        Self { file: segment.file_name(), offset, reason: reason.into() }
    }
}

/// A message that was in the queue, or may have been, and cannot be saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Its name. If the record that says so is damaged itself, it may be wrong.
    pub id: MessageId,
    /// Why.
    pub reason: LostReason,
    /// When it was received, in milliseconds of Unix time, if that is known.
    pub received_unix_ms: Option<u64>,
    /// Octets of content, if that is known.
    pub size: Option<u64>,
    /// Recipients that were not settled, as far as is known.
    pub recipients: u64,
}

/// Why a message cannot be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LostReason {
    /// Its record is damaged.
    #[error("its record in segment {segment} at {offset} is damaged")]
    Record {
        /// The segment.
        segment: SegmentSequence,
        /// Where the record begins, in octets from the start of the segment.
        offset: u64,
    },
    /// A chunk of its content is damaged or missing.
    #[error("chunk {0} of its content is damaged or missing")]
    Chunk(u32),
    /// Its content is not as long as its record says.
    #[error("its content is incomplete")]
    Content,
    /// It was put off to be tried again, and its record is missing.
    #[error("it waited for another attempt, and its record is missing")]
    Unrecorded,
    /// There are chunks of it, and no record. It may have been still coming in; then nobody was told
    /// that it had been taken.
    #[error("only chunks of it are there; perhaps it was still coming in")]
    Unfinished,
    /// It could not be read a second time.
    #[error("it could not be read again")]
    Unreadable,
}

/// What is left of a log.
#[derive(Debug)]
pub struct Survey {
    /// All that is wrong, in the order of the log.
    pub damages: Vec<Damage>,
    /// Messages that cannot be saved, in the order of ids.
    pub lost: Vec<Lost>,
    /// Records of outcomes or purges that are damaged. What they said is forgotten: recipients
    /// that had the message may get it again.
    pub outcomes_lost: u64,
    /// Frames of which nothing is left. They may have held messages, and outcomes.
    pub frames_missing: u64,
    /// Frames that are whole.
    pub frames: u64,
    /// Octets of these.
    pub frames_bytes: u64,
    /// Records that count.
    pub records: u64,
    /// Segments that are needed.
    pub segments: u64,
    /// Octets at the end of the log that look like a write that was never finished, as far as they
    /// have a header.
    pub tail_bytes: u64,
    index: Index,
    segment_size_max: u64,
    next_segment: SegmentSequence,
    /// No message has this number or a higher one, as far as can be seen.
    message_sequence: u64,
}

impl Survey {
    /// Messages of which all pieces are intact, and that are not settled as far as can be seen.
    pub fn messages(&self) -> impl Iterator<Item = MessageView<'_>> {
        self.index.entries.iter().map(|(id, entry)| MessageView::new(id, entry))
    }

    /// How many these are.
    pub fn message_count(&self) -> u64 {
        self.index.messages
    }

    /// Recipients of these that are not settled.
    pub fn recipient_count(&self) -> u64 {
        self.index.recipients
    }

    /// Octets of log that the records of these take.
    pub fn live_bytes(&self) -> u64 {
        let entries = self.index.entries.iter();
        let pieces = entries.flat_map(|(_, entry)| entry.pieces().collect::<Vec<_>>());
        pieces.map(|(_, location)| u64::from(location.len)).sum()
    }

    /// The host of a recipient; `None` for a mailbox without one.
    pub fn host(&self, id: HostId) -> Option<&ringpost_protocol::address::Host> {
        self.index.hosts.get(id)
    }

    /// What to read for a message: its message record first, then its chunks in order. `None` if it
    /// is not among [`Survey::messages`].
    pub fn plan_read(&self, id: MessageId) -> Option<Vec<ReadPlan>> {
        let entry = self.index.entries.get(id)?;
        Some(entry.pieces().map(|(piece, place)| ReadPlan::new(id, piece, place)).collect())
    }
}

/// Reads what a log still needs, whatever is damaged in it, and changes nothing.
///
/// Memory: the index, and about 100 octets for each frame and each settled message in the log.
///
/// # Errors
///
/// [`RecoveryError::Storage`] when it cannot be read at all, and [`RecoveryError::Format`] when it is from
/// another version.
///
/// # Cancel safety
///
/// May be dropped at any time, and done again.
pub async fn survey<S: Storage>(
    storage: &S,
    identity: LogIdentity,
) -> Result<Survey, RecoveryError> {
    let mut scans = open_all(storage, identity).await?;
    let next_segment = scans.last().map_or(SegmentSequence(1), |scan| scan.sequence.next());
    let sizes = scans.iter().filter_map(|scan| scan.header.map(|header| header.size));
    let segment_size_max = sizes.max().unwrap_or(0);
    let mut all = Vec::new();
    for (at, scan) in scans.iter_mut().enumerate() {
        all.extend(frames::spots(scan, identity, at).await?);
    }
    // What the last frame has given up is not looked at.
    let newest = all.iter().filter(|spot| spot.is_whole).filter_map(|spot| spot.header);
    let newest = newest.max_by_key(|header| (header.lsn, header.segment));
    let head = newest.map_or(SegmentSequence::default(), |header| header.head);
    let message_sequence =
        all.iter().filter_map(|spot| spot.header).map(|header| header.message_sequence).max();
    let dead = scans.partition_point(|scan| scan.sequence < head);
    scans.drain(..dead);
    all.retain(|spot| spot.at >= dead);
    for spot in &mut all {
        spot.at -= dead;
    }
    let sequences: Vec<_> = scans.iter().map(|scan| scan.sequence).collect();
    let line = frames::line(all, &sequences, head);

    let mut survey = Survey {
        damages: Vec::new(),
        lost: Vec::new(),
        outcomes_lost: 0,
        frames_missing: line.missing,
        frames: 0,
        frames_bytes: 0,
        records: 0,
        segments: scans.len() as u64,
        tail_bytes: line.tail_bytes,
        index: Index::default(),
        segment_size_max,
        next_segment,
        message_sequence: message_sequence.unwrap_or(0),
    };
    if newest.is_some() && sequences.first() != Some(&head) {
        survey.damages.push(Damage::log(head, 0, CorruptReason::MissingSegment));
    }
    for scan in &scans {
        let fault = scan.fault.map(|reason| Damage::log(scan.sequence, 0, reason));
        survey.damages.extend(fault);
    }
    survey.damages.extend(line.damages);
    let mut ledger = Ledger::default();
    let mut open: Option<usize> = None;
    for spot in line.frames {
        if open.is_some_and(|open| open != spot.at)
            && let Some(scan) = open.and_then(|open| scans.get_mut(open))
        {
            scan.close();
        }
        open = Some(spot.at);
        if let Some(scan) = scans.get_mut(spot.at) {
            survey.frame(scan, &spot, &mut ledger).await?;
        }
    }
    survey.damages.sort_by(|one, other| (&one.file, one.offset).cmp(&(&other.file, other.offset)));
    survey.damages.dedup();
    survey.records = ledger.records;
    let is_damaged = !survey.damages.is_empty();
    let (index, lost, highest) = ledger.finish(is_damaged);
    for lost in lost.iter().filter(|_| !is_damaged) {
        // Cannot be, unless records contradict each other.
        let damage = Damage::log(
            newest.map_or(head, |newest| newest.segment),
            0,
            CorruptReason::Message(lost.id),
        );
        survey.damages.push(damage);
    }
    (survey.index, survey.lost) = (index, lost);
    survey.message_sequence = survey.message_sequence.max(highest + 1);
    Ok(survey)
}

impl Survey {
    /// Applies what can be read of a frame.
    async fn frame<S: Storage>(
        &mut self,
        scan: &mut SegmentScan<'_, S>,
        spot: &Spot,
        ledger: &mut Ledger,
    ) -> Result<(), RecoveryError> {
        let base = spot.offset + FRAME_HEADER_SIZE as u64;
        let len = spot.header.map_or(spot.end.saturating_sub(base), |header| {
            u64::from(header.payload_len).min(scan.size.saturating_sub(base))
        });
        let sequence = scan.sequence;
        let payload = scan.bytes(base, len as usize).await?;
        let found = records::find(payload, spot.header.map(|header| header.records));
        if spot.is_whole {
            self.frames += 1;
            self.frames_bytes += spot.end - spot.offset;
        }
        for (at, len) in found.intact {
            let Some(Ok((record, _))) = payload.get(at..).map(record::decode) else { continue };
            let offset = base + at as u64;
            let location = Location { segment: sequence, offset: offset as u32, len: len as u32 };
            if let Err(reason) = ledger.apply(&record, location) {
                self.damages.push(Damage::log(sequence, offset, reason));
                if let CorruptReason::Message(id) = reason {
                    ledger.suspect(id, LostReason::Record { segment: sequence, offset });
                }
            }
        }
        for bad in found.bad {
            let offset = base + bad.at as u64;
            // A frame without header may be anything, and is reported as a whole.
            if spot.header.is_some() {
                let reason = CorruptReason::Record(bad.error);
                self.damages.push(Damage::log(sequence, offset, reason));
            }
            match bad.id {
                Some(id) if bad.is_message => {
                    ledger.suspect(id, LostReason::Record { segment: sequence, offset });
                }
                Some(_) if bad.is_chunk => {}
                _ => self.outcomes_lost += 1,
            }
        }
        self.frames_missing += u64::from(found.lost > 0);
        Ok(())
    }
}
