//! Recovery: what a log says when nobody knows how its last writer ended.
//!
//! Every segment that is still needed is read in order, every checksum verified, and every frame held
//! against the one before it. A frame that was being written when the end came is cut off and
//! counted; anything else that is not as it was written stops recovery, with the place and the reason,
//! and without having changed a byte. [`verdict`] is the table of these decisions.
//!
//! A log that goes on after recovery begins a new segment with a copy of its last frame, under the
//! same LSN. So the frames of a segment count only below the LSN at which a later segment begins; the
//! one or two that stand at or above it (the copied frame, and one that reached the disk after it had
//! been looked for) are superseded.

use crate::checkpoint::Begin;
use crate::commit::BatchNumber;
use crate::config::QueueConfig;
use crate::error::{CorruptReason, RecoveryError};
use crate::events::Events;
use crate::frame::{BLOCK_SIZE, FRAME_HEADER_SIZE, FrameHeader, Lsn};
use crate::id::MessageId;
use crate::queue::{Checkpoints, Continuation, LastFrame, Queue, SEQUENCE_GAP};
use crate::reclaim::Segments;
use crate::segment::{LogIdentity, SegmentSequence};
use crate::storage::Storage;

mod inspect;
mod purges;
mod replay;
mod restore;
pub mod salvage;
mod scan;
mod verdict;

pub use inspect::{CheckpointState, Inspection, inspect};
use replay::Replay;
pub(crate) use replay::each_record;
use restore::{Restore, restore};
use scan::{Found, SegmentScan};
use verdict::{Beyond, Later, Place, Verdict, decide};

/// Frames at or above the LSN at which a later segment begins: the copied one, and one in flight.
const SUPERSEDED_MAX: u64 = 2;

/// What recovery found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovered {
    /// Messages in the queue: those before `next_id` that
    /// [`Queue::messages_from`](crate::Queue::messages_from) gives.
    pub messages: u64,
    /// The first id that a message of this run may have; `None` for a new log.
    pub next_id: Option<MessageId>,
    /// Segments of the log that are needed.
    pub segments: u64,
    /// Messages that the newest checkpoint had; `None` if the log was read without one.
    pub checkpoint_messages: Option<u64>,
    /// Checkpoints that were not what had been written. All that they say is in the log too.
    pub checkpoints_damaged: u64,
    /// Frames replayed: those since the checkpoint, or all. 0: the log is new.
    pub frames: u64,
    /// Octets of these frames.
    pub frames_bytes: u64,
    /// Records replayed.
    pub records: u64,
    /// Octets of a last, unfinished write that were cut off. They were never acknowledged, unless the
    /// medium itself has failed.
    pub tail_truncated_bytes: u64,
}

/// Where the log stands while it is read.
struct Walk {
    replay: Replay,
    /// The oldest needed segment.
    head: SegmentSequence,
    /// LSN and quoted checksum of the next frame, once the first was seen.
    expected: Option<(Lsn, u32)>,
    /// The same for a frame that follows a superseded one.
    branch: Option<(Lsn, u32)>,
    /// The last frame that counts: number of its segment in the list, offset, header.
    last: Option<(usize, u64, FrameHeader)>,
    events: Events,
    frames: u64,
    frames_bytes: u64,
    tail_truncated_bytes: u64,
}

/// Reads the log of a shard, and makes the queue that goes on with it.
///
/// What the log holds is not changed; only segments that were prepared and never used are deleted.
/// With a checkpoint, only the frames since its begin are read. An empty directory gives an empty
/// queue ([`Recovered::frames`] is 0). Memory: the index, and about 1 MiB, or one frame if that is more.
///
/// # Errors
///
/// [`RecoveryError`]. A damaged log is never taken for an empty one, nor opened in part.
///
/// # Cancel safety
///
/// May be dropped at any time, and done again.
pub async fn recover<S: Storage>(
    storage: &S,
    mut config: QueueConfig,
    identity: LogIdentity,
) -> Result<(Queue, Recovered), RecoveryError> {
    config.check()?;
    let mut scans = open_all(storage, identity).await?;
    let next_segment = scans.last().map_or(SegmentSequence(1), |scan| scan.sequence.next());
    let largest = scans.iter().filter_map(|scan| scan.header.map(|header| header.size)).max();
    // A record that is there must fit a segment when it is moved.
    config.segment_size = config.segment_size.max(largest.unwrap_or(0));

    let head = match scans.iter_mut().rev().find(|scan| scan.first.is_some()) {
        Some(newest) => newest.last_head().await?,
        None => SegmentSequence::default(),
    };
    let mut segments = Segments::default();
    // What the last frames have given up is not even looked at.
    let dead = scans.partition_point(|scan| scan.sequence < head);
    for scan in scans.drain(..dead) {
        segments.add_free(scan.sequence, scan.size);
    }
    check_head(&scans, head)?;

    let Restore { newest, damaged, number_max, file_sizes } = restore(storage, identity).await?;
    let mut checkpoints = Checkpoints::default();
    checkpoints.number = number_max;
    checkpoints.file_sizes = file_sizes;
    let mut walk = Walk::new(head);
    let (mut start, mut offset) = (0, BLOCK_SIZE);
    let mut end = None;
    let mut checkpoint_messages = None;
    if let Some(restored) = newest {
        end = Some((restored.end(), restored.begin()));
        checkpoint_messages = Some(restored.header.messages);
        checkpoints.newest = Some((restored.slot, restored.header.blocks_len));
        (start, offset) = walk.begin_at(&scans, restored.begin())?;
        walk.replay = restored.replay;
        walk.replay.forget_before(head);
    }
    for at in start..scans.len() {
        walk.segment(&mut scans, at, offset).await?;
        offset = BLOCK_SIZE;
    }
    let Walk { replay, last, frames, frames_bytes, expected, tail_truncated_bytes, .. } = walk;
    let events = walk.events.resume();
    check_end(end, expected)?;
    checkpoints.replay_bytes = frames_bytes;

    let mut unused = Vec::new();
    for (at, scan) in scans.iter().enumerate() {
        let behind = last.is_none_or(|(last, ..)| at > last);
        if behind && scan.first.is_none() && !scan.torn {
            unused.push(scan.sequence);
        } else {
            segments.add_sealed(scan.sequence, scan.size);
            let last = last.filter(|(last, ..)| *last == at);
            scan.note_events(&mut segments, last.map(|(_, offset, _)| offset));
        }
    }
    segments.mark_events(events.marked);

    let (records, sequence_max) = (replay.records, replay.sequence_max);
    let index = replay.finish(&mut segments).map_err(|(reason, location)| {
        let offset = u64::from(location.offset);
        RecoveryError::Corrupt { segment: location.segment, offset, reason }
    })?;
    let mut recovered = Recovered {
        messages: index.messages,
        next_id: None,
        segments: scans.len() as u64,
        checkpoint_messages,
        checkpoints_damaged: damaged,
        frames,
        frames_bytes,
        records,
        tail_truncated_bytes,
    };
    let mut continuation = Continuation {
        index,
        segments,
        next_segment,
        next_lsn: Lsn(1),
        previous: 0,
        previous_segment: SegmentSequence(0),
        next_message_sequence: sequence_max + 1,
        last_frame: None,
        checkpoints,
        events,
        tail_truncated_bytes,
    };
    if let (Some((at, offset, header)), Some(_)) = (last, expected) {
        let scan = &mut scans[at];
        let payload = scan.payload(offset, &header).await?.to_vec();
        let (notes, events) =
            replay::notes(&header, &payload).map_err(|(reason, _)| scan.corrupt(offset, reason))?;
        continuation.next_lsn = header.lsn;
        continuation.previous = header.previous;
        continuation.previous_segment = header.previous_segment;
        continuation.next_message_sequence =
            (sequence_max + 1).max(header.message_sequence) + SEQUENCE_GAP;
        let next = continuation.next_message_sequence;
        recovered.next_id = Some(MessageId::new(identity.shard, next));
        let records = header.records;
        continuation.last_frame = Some(LastFrame { payload, records, events, notes });
    }
    remove_unused(storage, &unused).await?;
    Ok((Queue::resume(config, identity, continuation), recovered))
}

async fn open_all<S: Storage>(
    storage: &S,
    identity: LogIdentity,
) -> Result<Vec<SegmentScan<'_, S>>, RecoveryError> {
    let mut files: Vec<(SegmentSequence, u64)> = Vec::new();
    for (name, size) in storage.list().await? {
        files.extend(SegmentSequence::from_file_name(&name).map(|sequence| (sequence, size)));
    }
    files.sort_unstable();
    let mut scans = Vec::with_capacity(files.len());
    for (sequence, size) in files {
        scans.push(SegmentScan::open(storage, identity, sequence, size).await?);
    }
    Ok(scans)
}

/// The segment that the last frame names as the oldest needed one must be there.
fn check_head<S: Storage>(
    scans: &[SegmentScan<'_, S>],
    head: SegmentSequence,
) -> Result<(), RecoveryError> {
    if let Some((scan, reason)) =
        scans.iter().find_map(|scan| scan.fault.map(|reason| (scan, reason)))
    {
        return Err(scan.corrupt(0, reason));
    }
    let framed = scans.iter().any(|scan| scan.first.is_some());
    if framed && scans.first().is_some_and(|scan| scan.sequence != head) {
        return Err(RecoveryError::Corrupt {
            segment: head,
            offset: 0,
            reason: CorruptReason::MissingSegment,
        });
    }
    Ok(())
}

/// The log must go as far as it is known to have gone when the checkpoint was completed.
fn check_end(end: Option<(Lsn, Begin)>, expected: Option<(Lsn, u32)>) -> Result<(), RecoveryError> {
    match end {
        Some((end, begin)) if expected.is_none_or(|(next, _)| next <= end) => {
            Err(RecoveryError::Corrupt {
                segment: begin.segment,
                offset: begin.offset,
                reason: CorruptReason::Shortened { end },
            })
        }
        _ => Ok(()),
    }
}

/// Deletes what was prepared for frames that never came. Their numbers are not used again, and their
/// files are not written to: a write of a process that is dying may still be under way.
async fn remove_unused<S: Storage>(
    storage: &S,
    unused: &[SegmentSequence],
) -> Result<(), RecoveryError> {
    for sequence in unused {
        storage.remove(&sequence.file_name()).await?;
    }
    if !unused.is_empty() {
        storage.sync_directory().await?;
    }
    Ok(())
}

impl Walk {
    fn new(head: SegmentSequence) -> Self {
        Self {
            head,
            replay: Replay::default(),
            expected: None,
            branch: None,
            last: None,
            events: Events::default(),
            frames: 0,
            frames_bytes: 0,
            tail_truncated_bytes: 0,
        }
    }

    /// Where to begin with a checkpoint: number of the segment in the list, and offset in it.
    fn begin_at<S: Storage>(
        &mut self,
        scans: &[SegmentScan<'_, S>],
        begin: Begin,
    ) -> Result<(usize, u64), RecoveryError> {
        if begin.segment < self.head {
            // Nothing in that segment counts any more: the log begins with its head.
            return Ok((0, BLOCK_SIZE));
        }
        self.expected = Some((begin.lsn, begin.previous));
        let at = scans.iter().position(|scan| scan.sequence == begin.segment);
        at.map(|at| (at, begin.offset)).ok_or(RecoveryError::Corrupt {
            segment: begin.segment,
            offset: begin.offset,
            reason: CorruptReason::MissingSegment,
        })
    }

    /// Reads the frames of segment number `at` from `offset` on, and judges its end.
    async fn segment<S: Storage>(
        &mut self,
        scans: &mut [SegmentScan<'_, S>],
        at: usize,
        mut offset: u64,
    ) -> Result<(), RecoveryError> {
        let (before, rest) = scans.split_at_mut(at + 1);
        let Some(scan) = before.last_mut() else { return Ok(()) };
        let later: Vec<FrameHeader> = rest.iter().filter_map(|scan| scan.first).collect();
        let limit = later.iter().map(|first| first.lsn).min();
        let place = loop {
            let expected = self.branch.or(self.expected).map(|(lsn, _)| lsn);
            let header = match scan.frame_at(offset, expected).await? {
                Found::Frame(header) => header,
                Found::Nothing(place) => break place,
            };
            if limit.is_some_and(|limit| header.lsn >= limit) {
                let beyond = limit.map_or(0, |limit| header.lsn.0 - limit.0);
                self.superseded(scan, offset, &header, beyond)?;
            } else {
                self.frame(scan, offset, &header, at).await?;
            }
            offset += header.frame_size();
        };
        let (beyond, torn_len) = scan.beyond(offset).await?;
        // A new file that has anything but zeros there was being written to.
        let recycled = scan.header.is_none_or(|header| header.recycled);
        let place = match place {
            Place::Unwritten if torn_len > 0 && !recycled => Place::Torn,
            place => place,
        };
        scan.torn = place == Place::Torn;
        match decide(place, beyond, self.later(later.first())) {
            Verdict::GoesOn | Verdict::Ends => {}
            Verdict::CutTail => self.tail_truncated_bytes += torn_len,
            Verdict::Corrupt if beyond == Beyond::Frames => {
                return Err(scan.corrupt(offset, CorruptReason::Frame));
            }
            Verdict::Corrupt => {
                let found = later.first().map_or(Lsn(0), |first| first.lsn);
                return Err(scan.corrupt(offset, CorruptReason::Chain { found }));
            }
        }
        scan.close();
        Ok(())
    }

    /// What is expected of the first frame of all, if this may be it: nothing that is needed may be
    /// missing before it.
    fn beginning(&self, header: &FrameHeader) -> Option<(Lsn, u32)> {
        let first = header.lsn == Lsn(1) && header.previous == 0;
        (first || header.previous_segment < self.head).then_some((header.lsn, header.previous))
    }

    /// Whether the next segment with frames goes on from here.
    fn later(&self, first: Option<&FrameHeader>) -> Later {
        let Some(first) = first else { return Later::Nothing };
        let link = Some((first.lsn, first.previous));
        let expected = self.expected.or_else(|| self.beginning(first));
        if link == expected || link == self.branch { Later::Continues } else { Later::Breaks }
    }

    async fn frame<S: Storage>(
        &mut self,
        scan: &mut SegmentScan<'_, S>,
        offset: u64,
        header: &FrameHeader,
        at: usize,
    ) -> Result<(), RecoveryError> {
        let expected = self.expected.or_else(|| self.beginning(header));
        if expected != Some((header.lsn, header.previous)) {
            return Err(scan.corrupt(offset, CorruptReason::Chain { found: header.lsn }));
        }
        let segment = scan.sequence;
        let base = offset + FRAME_HEADER_SIZE as u64;
        let payload = scan.payload(offset, header).await?;
        self.replay.apply(segment, base, header, payload).map_err(|(reason, inside)| {
            RecoveryError::Corrupt { segment, offset: base + inside as u64, reason }
        })?;
        self.note_events(scan, offset, header);
        self.expected = Some((Lsn(header.lsn.0 + 1), header.checksum()));
        self.branch = None;
        self.last = Some((at, offset, *header));
        self.frames += 1;
        self.frames_bytes += header.frame_size();
        Ok(())
    }

    /// Takes note of where a frame that counts ends, and of its event records.
    fn note_events<S: Storage>(
        &mut self,
        scan: &mut SegmentScan<'_, S>,
        offset: u64,
        header: &FrameHeader,
    ) {
        let count = self.replay.frame_events;
        scan.end = offset + header.frame_size();
        if count > 0 {
            scan.events = (scan.events.0 + u64::from(count), header.lsn);
        }
        let begin = Begin {
            lsn: header.lsn,
            segment: scan.sequence,
            offset,
            previous_segment: header.previous_segment,
            previous: header.previous,
        };
        self.events.frame(begin, BatchNumber(0), header.frame_size(), count, scan.size);
        self.events.mark(self.replay.events_marked);
    }

    /// Takes a frame in the place of which a later segment has another one.
    fn superseded<S: Storage>(
        &mut self,
        scan: &SegmentScan<'_, S>,
        offset: u64,
        header: &FrameHeader,
        beyond: u64,
    ) -> Result<(), RecoveryError> {
        let link = Some((header.lsn, header.previous));
        self.expected = self.expected.or_else(|| self.beginning(header));
        if beyond >= SUPERSEDED_MAX || (link != self.expected && link != self.branch) {
            return Err(scan.corrupt(offset, CorruptReason::Chain { found: header.lsn }));
        }
        self.branch = Some((Lsn(header.lsn.0 + 1), header.checksum()));
        Ok(())
    }
}

impl<S: Storage> SegmentScan<'_, S> {
    /// The oldest needed segment that the last whole frame names. An earlier frame will not do: what
    /// it still needed may have been reused since.
    async fn last_head(&mut self) -> Result<SegmentSequence, RecoveryError> {
        let mut offset = BLOCK_SIZE;
        let mut head = SegmentSequence::default();
        while let Found::Frame(header) = self.frame_at(offset, None).await? {
            head = header.head;
            offset += header.frame_size();
        }
        self.close();
        Ok(head)
    }

    /// Passes on where the frames end that count, and their event records. `last`: where the last frame
    /// of the log is; it is read back where it is written again.
    fn note_events(&self, segments: &mut Segments, last: Option<u64>) {
        let (count, through) = self.events;
        segments.note_frame(self.sequence, last.unwrap_or(self.end), through, count);
    }

    fn corrupt(&self, offset: u64, reason: CorruptReason) -> RecoveryError {
        RecoveryError::Corrupt { segment: self.sequence, offset, reason }
    }
}
