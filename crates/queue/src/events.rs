//! Event records: what is to be told of a change, committed with it and kept until it has been told.
//!
//! The queue knows no more of them than their number. Whoever tells them says how far that has come
//! ([`Queue::mark_events`](crate::Queue::mark_events)); a *mark* in the log repeats it for the next
//! start. Until then the segments they are in are kept, and they can be read back from there.

use std::collections::VecDeque;

use crate::checkpoint::Begin;
use crate::commit::BatchNumber;
use crate::frame::{BLOCK_SIZE, Lsn};
use crate::segment::SegmentSequence;

/// Places in a segment that are remembered: reading begins at one of them.
const PLACES_PER_SEGMENT: u64 = 64;

/// Octets of log that are read at once, unless a single frame is larger.
const READ_SIZE: usize = 1 << 20;

/// Event records that are appended with a message or an outcome; the default is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventRecords<'a> {
    /// How many there are. 0: nothing is appended.
    pub count: u32,
    /// The records, one after the other. Their form is the caller's business.
    pub octets: &'a [u8],
}

impl EventRecords<'_> {
    /// No records.
    pub const NONE: Self = Self { count: 0, octets: &[] };
}

/// What to read to have event records back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRead {
    /// The segment.
    pub segment: SegmentSequence,
    /// Where in it, in octets; a multiple of 4096.
    pub offset: u64,
    /// How much, in octets; a multiple of 4096.
    pub len: usize,
}

/// Event records that have been read back.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventsRead {
    /// How many there are.
    pub count: u64,
    /// The records, one after the other.
    pub octets: Vec<u8>,
    /// The frame up to which these are all.
    pub through: Lsn,
}

/// A frame before which all event records have been told once those of `before` have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) begin: Begin,
    pub(crate) batch: BatchNumber,
    /// What [`Events::passed_bytes`] was behind it.
    pub(crate) passed_bytes: u64,
    /// The last frame before it that has event records.
    before: Lsn,
}

/// How far the reading back has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor {
    pub(crate) segment: SegmentSequence,
    pub(crate) offset: u64,
    /// Frames before this one are passed over.
    pub(crate) lsn: Lsn,
    /// Octets to read at least.
    pub(crate) len: usize,
}

impl Cursor {
    pub(crate) fn new(segment: SegmentSequence, offset: u64, lsn: Lsn) -> Self {
        Self { segment, offset, lsn, len: READ_SIZE }
    }

    /// Goes on with another segment.
    pub(crate) fn enter(&mut self, segment: SegmentSequence) {
        *self = Self::new(segment, BLOCK_SIZE, self.lsn);
    }
}

/// The event records of a log.
#[derive(Debug, Default)]
pub(crate) struct Events {
    /// Those up to this frame have been told, or given up.
    pub(crate) marked: Lsn,
    /// The mark that the log has.
    pub(crate) recorded: Lsn,
    /// The last frame that has any.
    last: Lsn,
    /// Octets of frames so far.
    pub(crate) passed_bytes: u64,
    /// Where those that have not been told may begin, and some later places; empty if all have been.
    places: VecDeque<Place>,
    /// Where they are read back, while that is wanted.
    pub(crate) cursor: Option<Cursor>,
    pub(crate) outstanding: Option<EventRead>,
}

impl Events {
    /// Takes a frame with `count` event records that is `len` octets long.
    pub(crate) fn frame(
        &mut self,
        begin: Begin,
        batch: BatchNumber,
        len: u64,
        count: u32,
        segment_size: u64,
    ) {
        let mut before = self.last;
        // The first frame of a run takes the place of the last one of the run before.
        while let Some(place) = self.places.back().filter(|place| place.begin.lsn >= begin.lsn) {
            before = place.before;
            self.places.pop_back();
        }
        before.0 = before.0.min(begin.lsn.0 - 1);
        self.passed_bytes += len;
        if count > 0 {
            self.last = begin.lsn;
        }
        if self.last <= self.marked {
            self.places.clear();
            return;
        }
        let distance = segment_size / PLACES_PER_SEGMENT;
        let is_wanted = self.places.back().is_none_or(|last| {
            last.begin.segment != begin.segment || begin.offset - last.begin.offset >= distance
        });
        if is_wanted {
            let passed_bytes = self.passed_bytes;
            self.places.push_back(Place { begin, batch, passed_bytes, before });
        }
    }

    /// After the log has been read: what has not been told is to be read back.
    pub(crate) fn resume(mut self) -> Self {
        self.recorded = self.marked;
        self.read_after(self.marked);
        self
    }

    /// Takes it that all up to this frame have been told.
    pub(crate) fn mark(&mut self, through: Lsn) {
        self.marked = self.marked.max(through);
        if self.last <= self.marked {
            self.places.clear();
        }
        while self.places.get(1).is_some_and(|next| next.before <= self.marked) {
            self.places.pop_front();
        }
    }

    /// Where those that have not been told begin, or earlier; `None` if all have been.
    pub(crate) fn first_place(&self) -> Option<&Place> {
        self.places.front()
    }

    /// Has those behind `after` read back.
    pub(crate) fn read_after(&mut self, after: Lsn) {
        self.outstanding = None;
        let lsn = Lsn(after.max(self.marked).0 + 1);
        let place = self.places.front().filter(|_| self.last >= lsn);
        self.cursor = place.map(|place| Cursor::new(place.begin.segment, place.begin.offset, lsn));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 * 4096;

    fn begin(lsn: u64, segment: u64, block: u64) -> Begin {
        Begin {
            lsn: Lsn(lsn),
            segment: SegmentSequence(segment),
            offset: block * BLOCK_SIZE,
            previous_segment: SegmentSequence(segment),
            previous: 0,
        }
    }

    fn first(events: &Events) -> Option<u64> {
        events.first_place().map(|place| place.begin.lsn.0)
    }

    #[test]
    fn what_has_been_told_is_forgotten_and_what_has_not_is_found() {
        let mut events = Events::default();
        for lsn in 1..=10 {
            let count = u32::from(lsn % 3 == 0);
            events.frame(begin(lsn, 1, lsn), BatchNumber(lsn), 4096, count, SIZE);
        }
        // 1 and 2 have none.
        assert_eq!(first(&events), Some(3));
        events.mark(Lsn(2));
        assert_eq!(first(&events), Some(3));
        events.mark(Lsn(4));
        // 4 and 5 have none, but nobody needs to know.
        assert!((4..=6).contains(&first(&events).unwrap()));
        events.read_after(Lsn(0));
        assert_eq!(events.cursor.map(|cursor| cursor.lsn), Some(Lsn(5)));
        events.mark(Lsn(9));
        assert_eq!(first(&events), None);
        events.read_after(Lsn(0));
        assert!(events.cursor.is_none());
        events.frame(begin(11, 1, 11), BatchNumber(11), 4096, 1, SIZE);
        assert_eq!(first(&events), Some(11));
    }

    #[test]
    fn few_places_are_remembered() {
        let mut events = Events::default();
        for lsn in 1..=1000 {
            events.frame(begin(lsn, 1, lsn), BatchNumber(lsn), 4096, 1, 1000 * BLOCK_SIZE);
        }
        assert!(events.places.len() <= 70, "{}", events.places.len());
        for marked in 1..1000 {
            events.mark(Lsn(marked));
            assert!(first(&events).is_some_and(|lsn| lsn <= marked + 1 && lsn + 17 > marked));
        }
    }

    #[test]
    fn a_frame_that_is_written_again_counts_where_it_is_then() {
        let mut events = Events::default();
        events.frame(begin(1, 1, 1), BatchNumber(0), 4096, 1, SIZE);
        events.frame(begin(2, 1, 2), BatchNumber(0), 4096, 1, SIZE);
        events.mark(Lsn(1));
        events.frame(begin(2, 2, 1), BatchNumber(1), 4096, 2, SIZE);
        let place = events.first_place().unwrap();
        assert_eq!((place.begin.lsn, place.begin.segment), (Lsn(2), SegmentSequence(2)));
        assert_eq!(place.before, Lsn(1));
    }
}
