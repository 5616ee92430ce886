//! What is kept in memory about each message: where it is, and how its recipients stand.

use crate::id::{IdMap, MessageId};
use crate::message::RecipientState;
use crate::record::MessageHead;
use crate::segment::SegmentSequence;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Location {
    pub(crate) segment: SegmentSequence,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// A record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// The message record: envelope, states, and the content that is in no chunk.
    Message,
    /// The chunk of this index.
    Chunk(u32),
}

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its commit record is appended, but not durable.
    Appended,
    /// It is in the queue.
    Durable,
    /// The outcome of its last recipient is appended, but not durable.
    Settling,
}

/// The states of the recipients, without an allocation for the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recipients {
    One(RecipientState),
    Many(Box<[RecipientState]>),
}

impl Recipients {
    pub(crate) fn new(states: &[RecipientState]) -> Self {
        match states {
            [one] => Self::One(*one),
            many => Self::Many(many.into()),
        }
    }

    /// Makes so many recipients with the same state.
    pub(crate) fn repeat(state: RecipientState, count: usize) -> Self {
        if count == 1 { Self::One(state) } else { Self::Many(vec![state; count].into()) }
    }

    pub(crate) fn as_slice(&self) -> &[RecipientState] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [RecipientState] {
        match self {
            Self::One(one) => std::slice::from_mut(one),
            Self::Many(many) => many,
        }
    }

    pub(crate) fn queued(&self) -> u64 {
        self.as_slice().iter().filter(|state| !state.status.is_settled()).count() as u64
    }
}

/// Where the chunks of a large message are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks(pub(crate) Box<[Location]>);

/// A message in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) received_unix_ms: u64,
    pub(crate) expiry_unix_ms: u64,
    pub(crate) size: u64,
    pub(crate) location: Location,
    pub(crate) recipients: Recipients,
    /// `None` unless it came in more than one piece, to keep the usual entry small.
    pub(crate) chunks: Option<Box<Chunks>>,
    pub(crate) phase: Phase,
}

impl Entry {
    pub(crate) fn chunks(&self) -> &[Location] {
        self.chunks.as_ref().map_or(&[], |chunks| &chunks.0)
    }

    pub(crate) fn set_chunks(&mut self, chunks: Vec<Location>) {
        self.chunks = (!chunks.is_empty()).then(|| Box::new(Chunks(chunks.into())));
    }

    pub(crate) fn chunk_mut(&mut self, index: u32) -> Option<&mut Location> {
        self.chunks.as_mut()?.0.get_mut(index as usize)
    }

    /// All records, in the order in which they are read: the message record first.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Piece, Location)> {
        let chunks = (0..).map(Piece::Chunk).zip(self.chunks().iter().copied());
        std::iter::once((Piece::Message, self.location)).chain(chunks)
    }

    pub(crate) fn piece(&self, piece: Piece) -> Option<Location> {
        match piece {
            Piece::Message => Some(self.location),
            Piece::Chunk(index) => self.chunks().get(index as usize).copied(),
        }
    }

    pub(crate) fn head(&self, id: MessageId) -> MessageHead {
        MessageHead {
            id,
            received_unix_ms: self.received_unix_ms,
            expiry_unix_ms: self.expiry_unix_ms,
            size: self.size,
            chunks: self.chunks().len() as u32,
        }
    }
}

/// A message of which only chunks have been appended so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streaming {
    /// The chunks that are durable, in order: frames become durable in the order of appends.
    pub(crate) chunks: Vec<Location>,
    pub(crate) appended: u32,
    pub(crate) durable: u32,
    /// Copies of chunks that are appended, but not durable.
    pub(crate) copies: u32,
    pub(crate) size: u64,
    /// Given up; it is remembered until its last chunk is written, so that none of them is taken for
    /// a chunk of something else.
    pub(crate) abandoned: bool,
}

impl Streaming {
    /// Whether nothing of it is on its way to the disk.
    pub(crate) fn is_written(&self) -> bool {
        self.durable == self.appended && self.copies == 0
    }
}

/// Everything in the queue.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: IdMap<MessageId, Entry>,
    pub(crate) streaming: IdMap<MessageId, Streaming>,
    /// Durable messages, those settling included.
    pub(crate) messages: u64,
    /// Recipients of them that are not settled.
    pub(crate) recipients: u64,
}

impl Index {
    /// Where a durable record of a message is, be the message in the queue or still coming in.
    pub(crate) fn piece(&self, id: MessageId, piece: Piece) -> Option<Location> {
        match self.entries.get(&id) {
            Some(entry) if entry.phase != Phase::Appended => entry.piece(piece),
            // Until its commit record is durable.
            _ => {
                let Piece::Chunk(index) = piece else { return None };
                self.streaming.get(&id)?.chunks.get(index as usize).copied()
            }
        }
    }

    /// The same, unless the record is about to be released anyway.
    pub(crate) fn movable_piece(&self, id: MessageId, piece: Piece) -> Option<Location> {
        let settling = self.entries.get(&id).is_some_and(|entry| entry.phase == Phase::Settling);
        if settling { None } else { self.piece(id, piece) }
    }
}

/// A message in the queue, as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// Its name.
    pub id: MessageId,
    /// When it was received, in milliseconds of Unix time.
    pub received_unix_ms: u64,
    /// When it is given up, in milliseconds of Unix time.
    pub expiry_unix_ms: u64,
    /// Octets of content.
    pub size: u64,
    /// The states of its recipients, in the order of the forward-paths.
    pub recipients: &'a [RecipientState],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        // A table is at least 7/16 full, and has one octet of its own for each slot: 204 octets for
        // a message of one recipient at worst, 102 at best.
        assert!(size_of::<(MessageId, Entry)>() <= 88, "{}", size_of::<(MessageId, Entry)>());
        assert_eq!(size_of::<RecipientState>(), 16);
    }

    #[test]
    fn one_recipient_and_many_look_alike() {
        for count in [1, 2, 50] {
            let mut recipients = Recipients::repeat(RecipientState::default(), count);
            assert_eq!((recipients.as_slice().len(), recipients.queued()), (count, count as u64));
            recipients.as_mut_slice()[count - 1].apply(crate::Disposition::Bounced);
            assert_eq!(recipients.queued(), count as u64 - 1);
        }
    }
}
