//! Frames: what one commit writes, header and checksum over everything in it.
//!
//! ```text
//! offset  size  frame
//!      0     4  magic "RPFR"
//!      4     2  format version
//!      6     2  shard
//!      8     8  log id, drawn at random when the queue was created
//!     16     8  sequence of the segment
//!     24     8  LSN: number of the frame in the log, from 1
//!     32     8  head: sequence of the oldest segment that is still needed
//!     40     8  message sequence: no id from here on had been given out
//!     48     8  sequence of the segment that the previous frame is in, 0 for the first
//!     56     4  length of the payload
//!     60     4  number of records in the payload
//!     64     4  checksum of the header of the previous frame, 0 for the first
//!     68     4  checksum of all that follows the header, padding included
//!     72     4  checksum of bytes 0 to 72
//!     76     4  zero
//!     80        payload: records, one after the other
//!               zeros up to the next multiple of 4096
//! ```
//!
//! Frames begin at multiples of 4096, so that no sector that holds acknowledged data is ever
//! written again, and so that the log may be written with `O_DIRECT`.

use crate::codec::{Fields, checksum, put};
use crate::id::ShardId;
use crate::segment::{FORMAT_VERSION, LogIdentity, NUMBER_MAX, SegmentSequence};

/// Everything in a segment begins at a multiple of this, in octets.
pub const BLOCK_SIZE: u64 = 4096;

/// Octets in front of the payload of a frame.
pub const FRAME_HEADER_SIZE: usize = 80;

/// Where in the header its own checksum is.
const CHECKSUM_AT: usize = 72;

const MAGIC: [u8; 4] = *b"RPFR";

/// The number of a frame in its log: 1 for the first, then one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// What the header of a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) version: u16,
    pub(crate) identity: LogIdentity,
    pub(crate) segment: SegmentSequence,
    pub(crate) lsn: Lsn,
    pub(crate) head: SegmentSequence,
    pub(crate) message_sequence: u64,
    pub(crate) previous_segment: SegmentSequence,
    pub(crate) payload_len: u32,
    pub(crate) records: u32,
    pub(crate) previous: u32,
    pub(crate) payload_checksum: u32,
}

/// Whether all octets are zero, as in a block that was never written.
pub(crate) fn is_blank(octets: &[u8]) -> bool {
    // By pieces that the compiler looks at as a whole; most blocks that are not blank begin with something.
    octets.chunks(256).all(|piece| piece.iter().fold(0, |all, octet| all | octet) == 0)
}

/// Octets that a frame with this much payload takes in its segment.
pub(crate) fn frame_size(payload_len: usize) -> u64 {
    ((FRAME_HEADER_SIZE + payload_len) as u64).next_multiple_of(BLOCK_SIZE)
}

impl FrameHeader {
    pub(crate) fn frame_size(&self) -> u64 {
        frame_size(self.payload_len as usize)
    }

    /// The checksum that the next frame quotes.
    pub(crate) fn checksum(&self) -> u32 {
        checksum(&self.encode()[..CHECKSUM_AT])
    }

    fn encode(&self) -> [u8; FRAME_HEADER_SIZE] {
        let mut bytes = [0; FRAME_HEADER_SIZE];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 4, self.version.to_le_bytes());
        put(&mut bytes, 6, self.identity.shard.0.to_le_bytes());
        put(&mut bytes, 8, self.identity.log_id.to_le_bytes());
        put(&mut bytes, 16, self.segment.0.to_le_bytes());
        put(&mut bytes, 24, self.lsn.0.to_le_bytes());
        put(&mut bytes, 32, self.head.0.to_le_bytes());
        put(&mut bytes, 40, self.message_sequence.to_le_bytes());
        put(&mut bytes, 48, self.previous_segment.0.to_le_bytes());
        put(&mut bytes, 56, self.payload_len.to_le_bytes());
        put(&mut bytes, 60, self.records.to_le_bytes());
        put(&mut bytes, 64, self.previous.to_le_bytes());
        put(&mut bytes, 68, self.payload_checksum.to_le_bytes());
        let sum = checksum(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, sum.to_le_bytes());
        bytes
    }

    /// Reads a header, whatever log and life of a segment it is from; `None` if it is none.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..FRAME_HEADER_SIZE)?;
        let mut fields = Fields::new(bytes);
        if fields.bytes(4)? != MAGIC {
            return None;
        }
        let version = fields.u16()?;
        let shard = ShardId(fields.u16()?);
        let header = Self {
            version,
            identity: LogIdentity { log_id: fields.u64()?, shard },
            segment: SegmentSequence(fields.u64()?),
            lsn: Lsn(fields.u64()?),
            head: SegmentSequence(fields.u64()?),
            message_sequence: fields.u64()?,
            previous_segment: SegmentSequence(fields.u64()?),
            payload_len: fields.u32()?,
            records: fields.u32()?,
            previous: fields.u32()?,
            payload_checksum: fields.u32()?,
        };
        let intact = fields.u32()? == checksum(bytes.get(..CHECKSUM_AT)?) && fields.u32()? == 0;
        (intact && header.is_possible()).then_some(header)
    }

    /// Whether a log can have come so far.
    fn is_possible(&self) -> bool {
        let numbers = [
            self.lsn.0,
            self.head.0,
            self.previous_segment.0,
            self.message_sequence,
            self.segment.0,
        ];
        self.lsn.0 > 0 && numbers.into_iter().all(|number| number <= NUMBER_MAX)
    }

    /// Whether everything behind the header of this whole frame is as it was written.
    pub(crate) fn holds(&self, frame: &[u8]) -> bool {
        frame.len() as u64 == self.frame_size()
            && frame.get(FRAME_HEADER_SIZE..).is_some_and(|rest| {
                // What is padding counts as well: a changed bit in it shows that the medium fails.
                checksum(rest) == self.payload_checksum
            })
    }
}

/// Completes a frame: pads it, and fills in the header that its first octets were left free for.
///
/// Returns the checksum that the next frame has to quote.
pub(crate) fn seal(frame: &mut Vec<u8>, mut header: FrameHeader) -> u32 {
    header.payload_len = (frame.len() - FRAME_HEADER_SIZE) as u32;
    frame.resize(header.frame_size() as usize, 0);
    header.version = FORMAT_VERSION;
    header.payload_checksum = checksum(frame.get(FRAME_HEADER_SIZE..).unwrap_or_default());
    put(frame, 0, header.encode());
    header.checksum()
}

/// Whether damaged bytes look like the header of a frame of this life of this segment.
///
/// A recycled segment is full of old bytes, so that "not a header" alone says nothing. Two of these
/// fields that agree cannot be chance: the log id is random, and old frames, of which a whole header
/// was looked for before, differ in sequence and LSN.
pub(crate) fn resembles(
    bytes: &[u8],
    identity: LogIdentity,
    segment: SegmentSequence,
    lsn: Lsn,
) -> bool {
    let field = |at: usize, want: &[u8]| bytes.get(at..at + want.len()) == Some(want);
    let agreeing = [
        field(0, &MAGIC),
        field(8, &identity.log_id.to_le_bytes()),
        field(16, &segment.0.to_le_bytes()),
        field(24, &lsn.0.to_le_bytes()),
    ];
    agreeing.into_iter().filter(|agrees| *agrees).count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> FrameHeader {
        FrameHeader {
            version: FORMAT_VERSION,
            identity: LogIdentity { log_id: 0x0102_0304_0506_0708, shard: ShardId(9) },
            segment: SegmentSequence(10),
            lsn: Lsn(11),
            head: SegmentSequence(12),
            message_sequence: 13,
            previous_segment: SegmentSequence(10),
            payload_len: 0,
            records: 14,
            previous: 15,
            payload_checksum: 0,
        }
    }

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; FRAME_HEADER_SIZE];
        frame.extend_from_slice(payload);
        seal(&mut frame, header());
        frame
    }

    #[test]
    fn a_block_is_blank_when_no_octet_is_set() {
        let mut block = [0; BLOCK_SIZE as usize];
        assert!(is_blank(&block) && is_blank(&block[..300]) && is_blank(&[]));
        for at in [0, 255, 256, 4095] {
            block[at] = 1;
            assert!(!is_blank(&block), "{at}");
            block[at] = 0;
        }
    }

    #[test]
    fn frames_round_trip() {
        for len in [0, 1, 4015, 4016, 4017, 10_000] {
            let bytes = frame(&vec![7; len]);
            assert_eq!(bytes.len() % 4096, 0);
            let read = FrameHeader::decode(&bytes).unwrap();
            assert_eq!(read.payload_len as usize, len);
            assert_eq!(read.frame_size(), bytes.len() as u64);
            assert!(read.holds(&bytes));
            assert_eq!((read.lsn, read.head, read.records), (Lsn(11), SegmentSequence(12), 14));
        }
    }

    #[test]
    fn every_changed_bit_is_noticed_even_in_the_padding() {
        let good = frame(b"payload");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let intact = FrameHeader::decode(&bad).is_some_and(|header| header.holds(&bad));
            assert!(!intact, "bit {bit}");
        }
    }

    #[test]
    fn numbers_that_no_log_comes_to_make_no_header() {
        let first = FrameHeader { lsn: Lsn(0), ..header() };
        assert_eq!(FrameHeader::decode(&first.encode()), None, "the first frame is number 1");
        for (number, is_one) in [(NUMBER_MAX, true), (NUMBER_MAX + 1, false), (u64::MAX, false)] {
            let with = |change: fn(&mut FrameHeader, u64)| {
                let mut header = header();
                change(&mut header, number);
                FrameHeader::decode(&header.encode()).is_some()
            };
            assert_eq!(with(|header, number| header.lsn = Lsn(number)), is_one);
            assert_eq!(with(|header, number| header.head = SegmentSequence(number)), is_one);
            assert_eq!(with(|header, number| header.segment = SegmentSequence(number)), is_one);
            assert_eq!(with(|header, number| header.message_sequence = number), is_one);
        }
    }

    #[test]
    fn a_damaged_header_is_still_recognised_as_ours() {
        let good = frame(b"payload");
        let of_this_life =
            |bytes: &[u8]| resembles(bytes, header().identity, SegmentSequence(10), Lsn(11));
        for byte in 0..72 {
            let mut bad = good.clone();
            bad[byte] ^= 0xFF;
            assert!(FrameHeader::decode(&bad).is_none());
            assert!(of_this_life(&bad), "byte {byte}");
        }
        assert!(!of_this_life(&[0; 4096]));
        assert!(!of_this_life(b"Subject: anything at all, long enough to hold a header\r\n"));
        assert!(!of_this_life(b""));
    }

    proptest! {
        #[test]
        fn frames_of_any_content_round_trip(
            numbers in prop::array::uniform4(1..=NUMBER_MAX), log_id in any::<u64>(), shard in any::<u16>(),
            payload in prop::collection::vec(any::<u8>(), 0..9000), records in any::<u32>(), previous in any::<u32>(),
        ) {
            let given = FrameHeader {
                identity: LogIdentity { log_id, shard: ShardId(shard) },
                segment: SegmentSequence(numbers[0]),
                lsn: Lsn(numbers[1]),
                head: SegmentSequence(numbers[2]),
                message_sequence: numbers[3],
                records,
                previous,
                ..header()
            };
            let mut frame = vec![0; FRAME_HEADER_SIZE];
            frame.extend_from_slice(&payload);
            let sum = seal(&mut frame, given);
            let read = FrameHeader::decode(&frame).unwrap();
            let expected = FrameHeader {
                payload_len: payload.len() as u32,
                payload_checksum: read.payload_checksum,
                ..given
            };
            prop_assert_eq!(read, expected);
            prop_assert!(read.holds(&frame) && read.checksum() == sum);
            prop_assert_eq!(&frame[FRAME_HEADER_SIZE..][..payload.len()], &payload[..]);
        }

        #[test]
        fn arbitrary_bytes_are_no_frame(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(FrameHeader::decode(&bytes), None);
        }
    }
}
