//! Room for what is appended, while no segment can be had.

use std::iter::once;

use super::Queue;
use crate::frame::{self, BLOCK_SIZE};

impl Queue {
    /// Whether a batch waits because no segment is ready for it.
    ///
    /// Usually for a moment. If segments cannot be created it lasts until space is free: who waits
    /// for such a batch should not be kept waiting for long.
    pub fn is_starved(&self) -> bool {
        let Some(first) = self.pending.front().filter(|first| !first.is_empty()) else {
            return false;
        };
        self.poison.is_none()
            && self.in_flight.is_none()
            && self.ready.is_empty()
            && self.tail_left() < frame::frame_size(first.payload_len())
    }

    /// Octets of frames that messages leave free when segments cannot be created: a quarter of a
    /// segment. What settles messages needs them, for nothing else makes segments free.
    pub(super) fn outcome_reserve(&self) -> u64 {
        self.config.group_size_max() as u64
    }

    /// Whether `len` octets of records, and all that is pending, can be written with `reserve`
    /// octets left. Always, while nothing says that segments cannot be created.
    pub(super) fn can_be_written(&self, len: usize, reserve: u64) -> bool {
        if !self.creation.is_failing() {
            return true;
        }
        let pending = self.pending.iter().filter(|batch| !batch.is_empty());
        let frames = pending
            .map(|batch| frame::frame_size(batch.payload_len()))
            .chain([frame::frame_size(len), reserve]);
        let ready = self.ready.iter().map(|(_, size)| size - BLOCK_SIZE);
        let mut segments = once(self.tail_left()).chain(ready);
        let mut left = 0;
        for frame in frames {
            // What does not fit the rest of a segment goes to the next one.
            while left < frame {
                let Some(next) = segments.next() else { return false };
                left = next;
            }
            left -= frame;
        }
        true
    }

    /// Octets of frames that still fit the segment that is written to.
    fn tail_left(&self) -> u64 {
        let in_flight = self.in_flight.as_ref().map_or(0, |flight| flight.len as u64);
        self.tail.map_or(0, |tail| tail.size - tail.offset - in_flight)
    }
}
