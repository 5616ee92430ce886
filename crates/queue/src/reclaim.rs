//! Which segments are still needed.
//!
//! The log is a queue of segments: only the oldest can go, when no live record is left in it. So a
//! record that settles something always outlives the record of what it settles, and replaying what
//! is left, from any segment on, never brings anything back.

use std::collections::VecDeque;

use crate::frame::{BLOCK_SIZE, Lsn};
use crate::id::MessageId;
use crate::index::{Location, Piece};
use crate::segment::SegmentSequence;

/// A segment that is, or may be, needed.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) sequence: SegmentSequence,
    pub(crate) size: u64,
    /// Live records in it.
    pub(crate) pins: u64,
    /// Octets that these take.
    pub(crate) live_bytes: u64,
    /// Where its frames end, as far as they are durable.
    pub(crate) end: u64,
    /// Event records in it, until all have been told.
    events: u64,
    /// The last frame that has any.
    events_through: Lsn,
    /// Every message record that was put here, live or not.
    messages: Vec<MessageId>,
    /// The same for chunks.
    chunks: Vec<(MessageId, u32)>,
}

impl Segment {
    /// Record number `at` of those that were put here, live or not.
    pub(crate) fn record(&self, at: usize) -> Option<(MessageId, Piece)> {
        if let Some((id, index)) = self.chunks.get(at) {
            return Some((*id, Piece::Chunk(*index)));
        }
        let id = self.messages.get(at - self.chunks.len())?;
        Some((*id, Piece::Message))
    }
}

/// About the oldest segment with event records that have not been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OldestEvents {
    /// How many such segments there are.
    pub(crate) segments: usize,
    /// Event records in the oldest.
    pub(crate) count: u64,
    /// The last frame in it that has any.
    pub(crate) through: Lsn,
    /// Whether the log could be shortened but for them.
    pub(crate) blocks: bool,
}

/// A segment that is not needed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FreeSegment {
    pub(crate) sequence: SegmentSequence,
    pub(crate) size: u64,
}

/// All segments with frames, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    used: VecDeque<Segment>,
    free: VecDeque<FreeSegment>,
    /// Whether the newest one is written to; else all are sealed.
    open: bool,
    live_bytes: u64,
}

impl Segments {
    /// Adds a segment; the ones before it are sealed.
    pub(crate) fn open(&mut self, sequence: SegmentSequence, size: u64) {
        self.add_sealed(sequence, size);
        self.open = true;
    }

    /// Adds a segment that nothing more is written to.
    pub(crate) fn add_sealed(&mut self, sequence: SegmentSequence, size: u64) {
        self.open = false;
        if let Some(sealed) = self.used.back_mut() {
            sealed.messages.shrink_to_fit();
            sealed.chunks.shrink_to_fit();
        }
        self.used.push_back(Segment {
            sequence,
            size,
            pins: 0,
            live_bytes: 0,
            end: BLOCK_SIZE,
            events: 0,
            events_through: Lsn(0),
            messages: Vec::new(),
            chunks: Vec::new(),
        });
    }

    /// Adds a segment that is known to be dead, as found by recovery.
    pub(crate) fn add_free(&mut self, sequence: SegmentSequence, size: u64) {
        self.free.push_back(FreeSegment { sequence, size });
    }

    /// Number of segments that are needed, the open one included.
    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }

    pub(crate) fn free_len(&self) -> usize {
        self.free.len()
    }

    /// Octets of the files of those that are needed.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used.iter().map(|segment| segment.size).sum()
    }

    /// Octets of the files of all segments here.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.used_bytes() + self.free.iter().map(|segment| segment.size).sum::<u64>()
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn find(&mut self, sequence: SegmentSequence) -> Option<&mut Segment> {
        let at = self.used.binary_search_by_key(&sequence, |segment| segment.sequence).ok()?;
        self.used.get_mut(at)
    }

    /// Notes that a live record is here; `false` if there is no such segment.
    pub(crate) fn pin(&mut self, id: MessageId, piece: Piece, location: Location) -> bool {
        let len = u64::from(location.len);
        let Some(segment) = self.find(location.segment) else { return false };
        segment.pins += 1;
        segment.live_bytes += len;
        match piece {
            Piece::Message => segment.messages.push(id),
            Piece::Chunk(index) => segment.chunks.push((id, index)),
        }
        self.live_bytes += len;
        true
    }

    /// Notes that a record that was pinned is not live any more.
    pub(crate) fn unpin(&mut self, location: Location) {
        let len = u64::from(location.len);
        if let Some(segment) = self.find(location.segment) {
            assert!(segment.pins > 0, "a record is released once");
            segment.pins -= 1;
            segment.live_bytes -= len;
            self.live_bytes -= len;
        }
    }

    /// Notes that a frame with so many event records is durable, and where it ends.
    pub(crate) fn note_frame(&mut self, sequence: SegmentSequence, end: u64, lsn: Lsn, count: u64) {
        let Some(segment) = self.find(sequence) else { return };
        segment.end = end;
        if count > 0 {
            segment.events += count;
            segment.events_through = lsn;
        }
    }

    /// Notes that the event records up to this frame have been told.
    pub(crate) fn mark_events(&mut self, through: Lsn) {
        for segment in &mut self.used {
            if segment.events_through <= through {
                segment.events = 0;
            }
        }
    }

    /// The oldest sealed segment with event records that have not been told, if there is one.
    pub(crate) fn oldest_events(&self) -> Option<OldestEvents> {
        let sealed = self.used.len() - usize::from(self.open);
        let mut with = self.used.iter().take(sealed).filter(|segment| segment.events > 0);
        let oldest = with.next()?;
        let is_first = self.used.front().is_some_and(|first| first.sequence == oldest.sequence);
        Some(OldestEvents {
            segments: with.count() + 1,
            count: oldest.events,
            through: oldest.events_through,
            blocks: is_first && oldest.pins == 0,
        })
    }

    /// The segment of this sequence, or the next one that is needed.
    pub(crate) fn from(&self, sequence: SegmentSequence) -> Option<&Segment> {
        self.used.get(self.used.partition_point(|segment| segment.sequence < sequence))
    }

    /// Frees the oldest segments that nothing needs, and names the oldest that is left.
    pub(crate) fn advance(&mut self) -> Option<SegmentSequence> {
        while let Some(oldest) = self.oldest_sealed()
            && oldest.pins == 0
            && oldest.events == 0
        {
            let (sequence, size) = (oldest.sequence, oldest.size);
            self.used.pop_front();
            self.free.push_back(FreeSegment { sequence, size });
        }
        self.used.front().map(|segment| segment.sequence)
    }

    /// The oldest free segment. They are used up in this order: were a later one gone while an
    /// earlier one is there, recovery would find records without those that settle them.
    pub(crate) fn oldest_free(&self) -> Option<FreeSegment> {
        self.free.front().copied()
    }

    pub(crate) fn take_free(&mut self) {
        self.free.pop_front();
    }

    /// The oldest segment, unless it is the one that is written to.
    pub(crate) fn oldest_sealed(&self) -> Option<&Segment> {
        let sealed = self.used.len() - usize::from(self.open);
        self.used.front().filter(|_| sealed > 0)
    }

    /// Number of sealed segments, their octets, and those of them that are live.
    pub(crate) fn sealed(&self) -> (usize, u64, u64) {
        let count = self.used.len() - usize::from(self.open);
        let open = self.used.back().filter(|_| self.open);
        let size: u64 = self.used.iter().take(count).map(|segment| segment.size).sum();
        let live = self.live_bytes - open.map_or(0, |segment| segment.live_bytes);
        (count, size, live)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(segment: u64, len: u32) -> Location {
        Location { segment: SegmentSequence(segment), offset: 4096, len }
    }

    const ID: MessageId = MessageId::from_u64(1);

    #[test]
    fn only_the_oldest_segments_are_freed() {
        let mut segments = Segments::default();
        segments.open(SegmentSequence(1), 100);
        segments.pin(ID, Piece::Message, at(1, 10));
        segments.open(SegmentSequence(2), 100);
        segments.open(SegmentSequence(4), 100);
        assert_eq!(segments.sealed(), (2, 200, 10));
        // Segment 2 is empty, but 1 is not.
        assert_eq!(segments.advance(), Some(SegmentSequence(1)));
        assert_eq!(segments.oldest_free(), None);
        segments.unpin(at(1, 10));
        // 4 is empty too, but written to.
        assert_eq!(segments.advance(), Some(SegmentSequence(4)));
        assert_eq!((segments.free_len(), segments.len(), segments.live_bytes()), (2, 1, 0));
        assert_eq!(segments.oldest_free().map(|free| free.sequence), Some(SegmentSequence(1)));
    }

    #[test]
    fn records_are_listed_live_or_not() {
        let mut segments = Segments::default();
        segments.open(SegmentSequence(1), 100);
        assert!(segments.pin(ID, Piece::Message, at(1, 10)));
        assert!(segments.pin(ID, Piece::Chunk(4), at(1, 10)));
        assert!(!segments.pin(ID, Piece::Chunk(5), at(2, 10)));
        segments.unpin(at(1, 10));
        segments.open(SegmentSequence(2), 100);
        let oldest = segments.oldest_sealed().unwrap();
        let records: Vec<_> = (0..).map_while(|at| oldest.record(at)).collect();
        assert_eq!(records, [(ID, Piece::Chunk(4)), (ID, Piece::Message)]);
    }

    #[test]
    fn after_recovery_all_segments_are_sealed() {
        let mut segments = Segments::default();
        segments.add_sealed(SegmentSequence(1), 100);
        segments.add_sealed(SegmentSequence(2), 100);
        assert_eq!(segments.sealed(), (2, 200, 0));
        assert_eq!(segments.advance(), None);
        assert_eq!(segments.free_len(), 2);
    }
}
