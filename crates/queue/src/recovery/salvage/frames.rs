//! Finding the frames of a damaged log, and which of them count.

use super::super::scan::{Found, SegmentScan};
use super::super::verdict::Place;
use super::Damage;
use crate::error::{CorruptReason, RecoveryError};
use crate::frame::{self, BLOCK_SIZE, FrameHeader, Lsn};
use crate::segment::SegmentSequence;
use crate::storage::Storage;

/// A place where a frame is, or may have been.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot {
    /// Number of the segment in the list.
    pub(super) at: usize,
    pub(super) offset: u64,
    /// Where the next one is, or the end of the file.
    pub(super) end: u64,
    /// The header, if that is whole.
    pub(super) header: Option<FrameHeader>,
    /// Whether all of it is.
    pub(super) is_whole: bool,
}

impl Spot {
    fn lsn(&self) -> Option<Lsn> {
        self.header.map(|header| header.lsn)
    }
}

/// Everything in a segment that is a frame of this life, or looks like the remains of one. Where the
/// header of a frame cannot be read, the next one is looked for at each multiple of 4096.
pub(super) async fn spots<S: Storage>(
    scan: &mut SegmentScan<'_, S>,
    identity: crate::LogIdentity,
    at: usize,
) -> Result<Vec<Spot>, RecoveryError> {
    let recycled = scan.header.is_none_or(|header| header.recycled);
    let sequence = scan.sequence;
    let mut spots: Vec<Spot> = Vec::new();
    let mut offset = BLOCK_SIZE;
    // Whether a frame would begin here.
    let mut is_begin = true;
    loop {
        let (header, is_whole) = match scan.frame_at(offset, None).await? {
            Found::Frame(header) => (Some(header), true),
            Found::Nothing(Place::End) => break,
            Found::Nothing(_) => {
                let block = scan.bytes(offset, BLOCK_SIZE as usize).await?;
                let header = FrameHeader::decode(block)
                    .filter(|header| header.identity == identity && header.segment == sequence);
                let is_ours = header.is_some()
                    || frame::resembles(block, identity, sequence, Lsn(0))
                    || (!recycled && !frame::is_blank(block));
                if !is_ours || (header.is_none() && !is_begin) {
                    is_begin = false;
                    offset += BLOCK_SIZE;
                    continue;
                }
                (header, false)
            }
        };
        if let Some(before) = spots.last_mut().filter(|before| before.header.is_none()) {
            before.end = offset;
        }
        let len = header.map_or(BLOCK_SIZE, |header| header.frame_size());
        let end = if header.is_some() { offset.saturating_add(len) } else { scan.size };
        spots.push(Spot { at, offset, end: end.min(scan.size), header, is_whole });
        is_begin = header.is_some();
        offset = offset.saturating_add(len);
    }
    scan.close();
    Ok(spots)
}

/// The frames that make up a log, as far as they are there.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// In the order of the log. Those that are not whole were durable once.
    pub(super) frames: Vec<Spot>,
    pub(super) damages: Vec<Damage>,
    /// Frames that are known to have been there, and of which not even the header is.
    pub(super) missing: u64,
    /// Octets at the end that look like a frame that was never finished.
    pub(super) tail_bytes: u64,
}

/// Decides which frames count.
///
/// A frame that is not whole counts only if a later one shows that it had been durable. Of two with the
/// same LSN the whole one counts, then the later one: a restart begins with a copy of the last frame.
/// What stands in the place of frames of a later segment was never acknowledged, and does not count.
pub(super) fn line(spots: Vec<Spot>, sequences: &[SegmentSequence], head: SegmentSequence) -> Line {
    let mut line = Line::default();
    let damage = |at: usize, offset, reason| Damage::log(sequences[at], offset, reason);
    // The LSN with which the frames of later segments begin.
    let mut limits = vec![Lsn(u64::MAX); sequences.len()];
    for spot in spots.iter().filter(|spot| spot.header.is_some()).rev() {
        if let (Some(lsn), Some(limit)) = (spot.lsn(), limits.get_mut(spot.at)) {
            *limit = lsn;
        }
    }
    let mut limit = Lsn(u64::MAX);
    for first in limits.iter_mut().rev() {
        limit = limit.min(std::mem::replace(first, limit));
    }
    let mut frames: Vec<Spot> = spots
        .iter()
        .filter(|spot| spot.lsn().is_some_and(|lsn| lsn <= limits[spot.at]))
        .copied()
        .collect();
    frames.sort_by_key(|spot| (spot.lsn(), !spot.is_whole, std::cmp::Reverse(spot.at)));
    frames.dedup_by_key(|spot| spot.lsn());
    let whole = frames.iter().rposition(|spot| spot.is_whole).map_or(0, |last| last + 1);
    line.tail_bytes = frames.drain(whole..).map(|spot| spot.end - spot.offset).sum();

    let remains: Vec<Spot> = spots.into_iter().filter(|spot| spot.header.is_none()).collect();
    let place = |spot: &Spot| (spot.at, spot.offset);
    let mut before: Option<Spot> = None;
    for spot in frames {
        let Some(header) = spot.header else { continue };
        let gap = match before.as_ref().and_then(|before| before.header) {
            Some(before) => header.lsn.0.saturating_sub(before.lsn.0 + 1),
            // The first frame of the log follows one that is not needed any more. It need not stand in the head: there
            // may be nothing but what is left of the write in which a life ended.
            None if header.lsn == Lsn(1) => 0,
            None => u64::from(sequences.first() != Some(&head) || header.previous_segment >= head),
        };
        if gap > 0 {
            let begin = before.map_or((0, BLOCK_SIZE), |before| (before.at, before.end));
            let reason = if begin.0 == spot.at {
                CorruptReason::Frame
            } else {
                CorruptReason::Chain { found: header.lsn }
            };
            if sequences.first().is_some_and(|first| *first == head) || before.is_some() {
                line.damages.push(damage(begin.0, begin.1, reason));
            }
            let previous = header.previous_segment;
            if previous >= head && !sequences.contains(&previous) {
                line.damages.push(Damage::log(previous, 0, CorruptReason::MissingSegment));
            }
            let mut found = 0;
            for remains in &remains {
                if begin <= place(remains) && place(remains) < place(&spot) {
                    found += 1;
                    line.frames.push(*remains);
                    if place(remains) != begin {
                        let (at, offset) = place(remains);
                        line.damages.push(damage(at, offset, CorruptReason::Frame));
                    }
                }
            }
            line.missing += gap.max(found);
        }
        if !spot.is_whole {
            line.damages.push(damage(spot.at, spot.offset, CorruptReason::Frame));
        }
        line.frames.push(spot);
        before = Some(spot);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardId;

    fn spot(at: usize, offset: u64, lsn: u64, previous_segment: u64, head: u64) -> Spot {
        let header = FrameHeader {
            version: 1,
            identity: crate::LogIdentity { shard: ShardId(0), log_id: 1 },
            segment: SegmentSequence(0),
            lsn: Lsn(lsn),
            head: SegmentSequence(head),
            message_sequence: 0,
            previous_segment: SegmentSequence(previous_segment),
            payload_len: 0,
            records: 0,
            previous: 0,
            payload_checksum: 0,
        };
        let end = offset + header.frame_size();
        Spot { at, offset, end, header: Some(header), is_whole: true }
    }

    #[test]
    fn a_log_may_begin_behind_what_is_left_of_a_write() {
        let remains =
            Spot { at: 0, offset: BLOCK_SIZE, end: 1 << 20, header: None, is_whole: false };
        let sequences = [SegmentSequence(6), SegmentSequence(7)];
        let found = |previous_segment| {
            let spots = vec![
                remains,
                spot(1, BLOCK_SIZE, 9, previous_segment, 6),
                spot(1, 2 * BLOCK_SIZE, 10, 7, 6),
            ];
            line(spots, &sequences, SegmentSequence(6))
        };
        let intact = found(4);
        assert_eq!((intact.damages, intact.missing, intact.frames.len()), (vec![], 0, 2));
        // Here it follows a frame that was there.
        let damaged = found(6);
        let reason = CorruptReason::Chain { found: Lsn(9) };
        assert_eq!(damaged.damages, [Damage::log(SegmentSequence(6), BLOCK_SIZE, reason)]);
        assert_eq!(damaged.missing, 1);
    }
}
