//! Reading messages back: which octets to read, and whether they are what was written.

use ringpost_protocol::envelope::Envelope;

use crate::error::Corruption;
use crate::id::MessageId;
use crate::index::{Location, Piece};
use crate::message::StoredMessage;
use crate::record::{self, Record, RecordError};
use crate::segment::SegmentSequence;

/// One record to be read from a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadPlan {
    /// The message it belongs to.
    pub id: MessageId,
    /// Which of its records.
    pub piece: Piece,
    /// The segment.
    pub segment: SegmentSequence,
    /// Where the record begins, in octets from the start of the segment.
    pub offset: u64,
    /// Its length in octets.
    pub len: usize,
}

impl ReadPlan {
    pub(crate) fn new(id: MessageId, piece: Piece, location: Location) -> Self {
        Self {
            id,
            piece,
            segment: location.segment,
            offset: u64::from(location.offset),
            len: location.len as usize,
        }
    }

    pub(crate) fn location(&self) -> Location {
        Location { segment: self.segment, offset: self.offset as u32, len: self.len as u32 }
    }

    pub(crate) fn corruption(&self, reason: RecordError) -> Corruption {
        Corruption { id: self.id, segment: self.segment, offset: self.offset, reason }
    }

    /// Verifies what was read, and reads the record.
    pub(crate) fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Record<'a>, Corruption> {
        let (record, len) = record::decode(bytes).map_err(|reason| self.corruption(reason))?;
        // Intact, but is it the one that should be there? A misdirected read or write gives another.
        let expected = match &record {
            Record::Chunk(chunk) => chunk.id == self.id && Piece::Chunk(chunk.index) == self.piece,
            Record::Message(message) => message.head.id == self.id && self.piece == Piece::Message,
            Record::Outcome(_) | Record::Purge(_) | Record::Events(_) | Record::EventMark(_) => {
                false
            }
        };
        if expected && len == self.len {
            Ok(record)
        } else {
            Err(self.corruption(RecordError::Field))
        }
    }
}

/// One record of a message, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredPiece {
    /// The message record.
    Message {
        /// Who gets it.
        envelope: Envelope,
        /// The content that is in no chunk: the end of it, or all of it.
        content: Vec<u8>,
    },
    /// A chunk.
    Chunk(Vec<u8>),
}

/// Verifies what was read for a plan, and takes it apart; the buffer is reused for the content.
///
/// # Errors
///
/// [`Corruption`]: what was read is not what was written. If
/// [`Queue::is_current`](crate::Queue::is_current) denies the plan, the record was moved meanwhile,
/// and is not damaged.
pub fn decode_piece(plan: &ReadPlan, mut bytes: Vec<u8>) -> Result<StoredPiece, Corruption> {
    let (envelope, content_len) = match plan.decode(&bytes)? {
        Record::Message(message) => {
            let envelope = message.envelope().map_err(|reason| plan.corruption(reason))?;
            (Some(envelope), message.content.len())
        }
        Record::Chunk(chunk) => (None, chunk.content.len()),
        Record::Outcome(_) | Record::Purge(_) | Record::Events(_) | Record::EventMark(_) => {
            return Err(plan.corruption(RecordError::Field));
        }
    };
    // The content is the end of the record.
    bytes.truncate(plan.len);
    bytes.drain(..plan.len - content_len);
    Ok(match envelope {
        Some(envelope) => StoredPiece::Message { envelope, content: bytes },
        None => StoredPiece::Chunk(bytes),
    })
}

/// Puts a message together from what was read for all of its plans: the message record first, then
/// the chunks in order. Its content must have `size` octets.
pub(crate) fn assemble(
    plans: &[ReadPlan],
    parts: Vec<Vec<u8>>,
    size: u64,
) -> Result<StoredMessage, Corruption> {
    let nothing = ReadPlan::new(MessageId::from_u64(0), Piece::Message, Location::default());
    let damaged = plans.first().unwrap_or(&nothing).corruption(RecordError::Field);
    let mut found = None;
    let mut content = Vec::with_capacity(parts.len());
    for (plan, bytes) in plans.iter().zip(parts) {
        match decode_piece(plan, bytes)? {
            StoredPiece::Message { envelope, content: last } => found = Some((envelope, last)),
            StoredPiece::Chunk(chunk) => content.push(chunk),
        }
    }
    let (envelope, last) = found.ok_or(damaged)?;
    content.push(last);
    if content.iter().map(|piece| piece.len() as u64).sum::<u64>() != size {
        return Err(damaged);
    }
    Ok(StoredMessage { envelope, content })
}
