//! Reading one segment: its header, its frames, and what stands where they end.

use std::io;

use super::verdict::{Beyond, Place};
use crate::error::{CorruptReason, RecoveryError};
use crate::frame::{self, BLOCK_SIZE, FRAME_HEADER_SIZE, FrameHeader, Lsn};
use crate::segment::{LogIdentity, SegmentHeader, SegmentSequence, is_readable};
use crate::storage::Storage;

/// Octets read at once. A frame that is longer is held in memory whole.
const READ_SIZE: usize = 1 << 20;

/// Octets read at once to learn how a segment begins: its header and, as a rule, its first frame.
const FIRST_READ_SIZE: usize = 64 << 10;

/// A segment file being read.
pub(super) struct SegmentScan<'s, S: Storage> {
    storage: &'s S,
    file: S::File,
    identity: LogIdentity,
    pub(super) sequence: SegmentSequence,
    /// Size of the file in octets.
    pub(super) size: u64,
    /// The header, if it is whole and of this life.
    pub(super) header: Option<SegmentHeader>,
    /// What is wrong with it, if the segment is still needed.
    pub(super) fault: Option<CorruptReason>,
    /// The header of its first frame, if that is whole.
    pub(super) first: Option<FrameHeader>,
    /// Whether something that is not a whole frame stands where its frames end.
    pub(super) torn: bool,
    /// Where the frames end that count.
    pub(super) end: u64,
    /// Event records in these, and the last frame that has any.
    pub(super) events: (u64, Lsn),
    window: Vec<u8>,
    window_start: u64,
    read_size: usize,
}

/// What stands where a frame may begin.
pub(super) enum Found {
    Frame(FrameHeader),
    Nothing(Place),
}

impl<'s, S: Storage> SegmentScan<'s, S> {
    /// Opens a segment, and reads its header and its first frame.
    pub(super) async fn open(
        storage: &'s S,
        identity: LogIdentity,
        sequence: SegmentSequence,
        size: u64,
    ) -> Result<Self, RecoveryError> {
        let file = storage.open(&sequence.file_name()).await?;
        let mut scan = Self {
            storage,
            file,
            identity,
            sequence,
            size,
            header: None,
            fault: None,
            first: None,
            torn: false,
            end: BLOCK_SIZE,
            events: (0, Lsn(0)),
            window: Vec::new(),
            window_start: 0,
            read_size: FIRST_READ_SIZE,
        };
        scan.read_header().await?;
        if let Found::Frame(first) = scan.frame_at(BLOCK_SIZE, None).await? {
            scan.first = Some(first);
            if scan.header.is_none() {
                scan.fault.get_or_insert(CorruptReason::SegmentHeader);
            }
        }
        scan.window = Vec::new();
        scan.read_size = READ_SIZE;
        Ok(scan)
    }

    async fn read_header(&mut self) -> Result<(), RecoveryError> {
        if self.size < BLOCK_SIZE {
            return Ok(());
        }
        let Some(header) = SegmentHeader::decode(self.bytes(0, BLOCK_SIZE as usize).await?) else {
            return Ok(());
        };
        if !is_readable(header.version) {
            let found = header.version;
            return Err(RecoveryError::Format { segment: self.sequence, found });
        }
        if header.identity != self.identity || header.sequence > self.sequence {
            self.fault = Some(CorruptReason::Foreign);
        } else if header.sequence < self.sequence {
            // Recycled, and the crash came between the new name and the new header.
        } else if header.size != self.size {
            // The header is written when the file has its size, which never changes.
            self.fault = Some(CorruptReason::SegmentSize);
        } else {
            self.header = Some(header);
        }
        Ok(())
    }

    /// The octets from `offset` on, which must be within the file.
    pub(super) async fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset + len as u64;
        let window_end = self.window_start + self.window.len() as u64;
        if offset < self.window_start || end > window_end {
            self.window.clear();
            self.window_start = offset;
            let rest = self.size.saturating_sub(offset);
            let wanted = (len.max(self.read_size) as u64).min(rest) as usize;
            while self.window.len() < wanted {
                let at = offset + self.window.len() as u64;
                let piece = (wanted - self.window.len()).min(READ_SIZE);
                let read = self.storage.read(&self.file, at, piece).await?;
                if read.is_empty() {
                    break;
                }
                if self.window.is_empty() {
                    self.window = read;
                } else {
                    self.window.extend_from_slice(&read);
                }
            }
        }
        let start = (offset - self.window_start) as usize;
        self.window.get(start..start + len).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Says what stands at `offset`; `expected` is the LSN that a frame there would have.
    pub(super) async fn frame_at(
        &mut self,
        offset: u64,
        expected: Option<Lsn>,
    ) -> Result<Found, RecoveryError> {
        if offset + BLOCK_SIZE > self.size {
            return Ok(Found::Nothing(Place::End));
        }
        let (identity, sequence) = (self.identity, self.sequence);
        let recycled = self.header.is_none_or(|header| header.recycled);
        let block = self.bytes(offset, BLOCK_SIZE as usize).await?;
        let Some(header) = FrameHeader::decode(block) else {
            let expected = expected.unwrap_or_default();
            let ours = frame::resembles(block, identity, sequence, expected);
            // Old bytes of a recycled file may be anything; a new file has none.
            let torn = ours || (!recycled && !frame::is_blank(block));
            return Ok(Found::Nothing(if torn { Place::Torn } else { Place::Unwritten }));
        };
        if header.identity != identity || header.segment != sequence {
            return Ok(Found::Nothing(Place::Unwritten));
        }
        if !is_readable(header.version) {
            return Err(RecoveryError::Format { segment: sequence, found: header.version });
        }
        let size = header.frame_size();
        let whole =
            offset + size <= self.size && header.holds(self.bytes(offset, size as usize).await?);
        Ok(if whole { Found::Frame(header) } else { Found::Nothing(Place::Torn) })
    }

    /// Looks through all that follows the last frame: says whether there are frames of this life, and
    /// how many octets may have been cut off.
    pub(super) async fn beyond(&mut self, offset: u64) -> Result<(Beyond, u64), RecoveryError> {
        let recycled = self.header.is_none_or(|header| header.recycled);
        let (identity, sequence) = (self.identity, self.sequence);
        let mut written_to = offset;
        let mut at = offset;
        while at + BLOCK_SIZE <= self.size {
            let block = self.bytes(at, BLOCK_SIZE as usize).await?;
            if !frame::is_blank(block) {
                let header = FrameHeader::decode(block)
                    .filter(|header| header.identity == identity && header.segment == sequence);
                match header {
                    // The torn frame itself.
                    Some(header) if at == offset => {
                        written_to = written_to.max((at + header.frame_size()).min(self.size));
                    }
                    Some(_) => return Ok((Beyond::Frames, 0)),
                    None if at == offset || !recycled => written_to = at + BLOCK_SIZE,
                    None => {}
                }
            }
            at += BLOCK_SIZE;
        }
        Ok((Beyond::Nothing, written_to - offset))
    }

    pub(super) async fn payload(&mut self, offset: u64, header: &FrameHeader) -> io::Result<&[u8]> {
        self.bytes(offset + FRAME_HEADER_SIZE as u64, header.payload_len as usize).await
    }

    /// Drops the buffer, for a segment that is done with.
    pub(super) fn close(&mut self) {
        self.window = Vec::new();
    }
}
