//! Group commit: batches that gather records, and the proof that one is durable.

use crate::frame::FRAME_HEADER_SIZE;
use crate::id::MessageId;
use crate::index::Piece;

/// The number of a batch within this run of the process, in the order of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BatchNumber(pub u64);

/// A claim on the durability of a message or an outcome, to be redeemed when its batch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use = "nothing may be acknowledged before its ticket has been redeemed"]
pub struct Ticket {
    pub(crate) batch: BatchNumber,
    pub(crate) id: MessageId,
}

impl Ticket {
    /// The batch that the records are in. It is durable when
    /// [`Queue::durable_through`](crate::Queue::durable_through) has reached it.
    pub fn batch(&self) -> BatchNumber {
        self.batch
    }

    /// The message that was appended, or that the outcome is about.
    pub fn id(&self) -> MessageId {
        self.id
    }
}

/// Proof that a message, or an outcome, is on stable storage.
///
/// Only [`Queue::redeem`](crate::Queue::redeem) makes one, and what answers `250` takes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed {
    id: MessageId,
}

impl Committed {
    pub(crate) fn new(id: MessageId) -> Self {
        Self { id }
    }

    /// The message that is durable, or whose outcome is.
    pub fn id(&self) -> MessageId {
        self.id
    }
}

/// What a ticket is worth.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Redeemed {
    /// The batch is not written yet.
    Pending,
    /// It is durable.
    Durable(Committed),
    /// The storage failed before it was durable, and it must not be acknowledged. It may or may not
    /// be there after the next start.
    Lost,
}

/// What changes in the index when a record has become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// A record of a message is at this place in the frame.
    Placed { id: MessageId, piece: Piece, offset: u32, len: u32 },
    /// Nothing of the message is needed any more.
    Settled { id: MessageId },
}

/// Records that will be written together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) number: BatchNumber,
    /// The frame to be: room for the header, then the records.
    pub(crate) frame: Vec<u8>,
    pub(crate) records: u32,
    /// Event records among them, each counted.
    pub(crate) events: u32,
    pub(crate) notes: Vec<Note>,
    /// Messages of which nothing is needed any more, by a purge.
    pub(crate) purged: Vec<MessageId>,
}

impl Batch {
    /// Begins a batch in a buffer, the content of which is dropped.
    pub(crate) fn new(number: BatchNumber, mut frame: Vec<u8>) -> Self {
        frame.clear();
        frame.resize(FRAME_HEADER_SIZE, 0);
        Self { number, frame, records: 0, events: 0, notes: Vec::new(), purged: Vec::new() }
    }

    pub(crate) fn payload_len(&self) -> usize {
        self.frame.len() - FRAME_HEADER_SIZE
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }
}
