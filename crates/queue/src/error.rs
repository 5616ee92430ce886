//! Why the queue could not do what it was asked.

use std::io;

use thiserror::Error;

use crate::config::ConfigError;
use crate::frame::Lsn;
use crate::id::MessageId;
use crate::message::RecipientIndex;
use crate::record::RecordError;
use crate::segment::SegmentSequence;

/// An append was refused; nothing of it is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The storage of the shard failed. See [`Admission::Poisoned`](crate::Admission::Poisoned).
    #[error("the storage of the shard has failed")]
    Poisoned,
    /// The log is still being read. See [`Admission::Recovering`](crate::Admission::Recovering).
    #[error("the log is still being read")]
    Recovering,
    /// No space is left for messages.
    #[error("the log is full")]
    Full,
    /// Too much waits to be written; try again after the next write.
    #[error("too much is waiting to be written")]
    Busy,
    /// The records do not fit a quarter of a segment.
    #[error("{size} octets of records are too many to be written together")]
    TooLarge {
        /// Octets that were to be appended together.
        size: usize,
    },
    /// The queue has no such message, it is not durable yet, or the id is not one that this queue
    /// gave out for a new message.
    #[error("no such message: {0}")]
    UnknownMessage(MessageId),
    /// The message has no such recipient, or it is settled already.
    #[error("message {id} has no recipient {} to settle", .index.0)]
    UnknownRecipient {
        /// The message.
        id: MessageId,
        /// The recipient.
        index: RecipientIndex,
    },
    /// The content appended is not as long as the message says.
    #[error("message {id} has {appended} octets of content, not {size}")]
    SizeMismatch {
        /// The message.
        id: MessageId,
        /// Octets that were appended.
        appended: u64,
        /// Octets that it should have.
        size: u64,
    },
    /// The envelope cannot be stored so that it reads back as it is: no recipient, more than
    /// 65,535, or a path that is none.
    #[error("the envelope of message {0} cannot be stored")]
    Envelope(MessageId),
}

impl AppendError {
    /// Whether trying again later can help without anything else being done.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Recovering | Self::Full | Self::Busy)
    }
}

/// A record could not be read back as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("message {id} is damaged in segment {segment} at {offset}")]
pub struct Corruption {
    /// The message.
    pub id: MessageId,
    /// The segment.
    pub segment: SegmentSequence,
    /// Where the record begins, in octets from the start of the segment.
    pub offset: u64,
    /// What is wrong.
    #[source]
    pub reason: RecordError,
}

/// A message could not be read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It was moved or settled while it was being read: plan again.
    #[error("message {0} was moved or settled while it was being read")]
    Moved(MessageId),
    /// It is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corruption),
}

/// What is broken in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CorruptReason {
    /// A segment that the log needs is not there.
    #[error("the segment is missing")]
    MissingSegment,
    /// The header of a segment that has frames is damaged.
    #[error("the header of the segment is damaged")]
    SegmentHeader,
    /// The file belongs to another log, or another segment.
    #[error("the file belongs to another log or segment")]
    Foreign,
    /// The file is shorter or longer than its header says.
    #[error("the file has another size than its header says")]
    SegmentSize,
    /// A frame is damaged, and frames that were written after it are there.
    #[error("a frame is damaged, and later ones follow")]
    Frame,
    /// A frame does not continue the one before it.
    #[error("frame {} does not continue the log", .found.0)]
    Chain {
        /// The LSN found.
        found: Lsn,
    },
    /// A checkpoint says that the log was longer.
    #[error("the log ends before frame {}, which was durable", .end.0)]
    Shortened {
        /// The LSN of a frame that is missing.
        end: Lsn,
    },
    /// A record in an intact frame cannot be read.
    #[error("a record cannot be read")]
    Record(#[source] RecordError),
    /// The number of records in a frame is not what its header says.
    #[error("the number of records is wrong")]
    RecordCount,
    /// A live message lacks a chunk, or its records contradict each other.
    #[error("message {0} is incomplete")]
    Message(MessageId),
}

/// A log could not be opened. It is left as it is.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecoveryError {
    /// The limits cannot be kept.
    #[error("the limits of the queue cannot be kept")]
    Config(#[from] ConfigError),
    /// The storage failed.
    #[error("cannot read the log")]
    Storage(#[from] io::Error),
    /// The log was written by a version with another format.
    #[error("segment {segment} has format {found}, which this version does not know")]
    Format {
        /// The segment.
        segment: SegmentSequence,
        /// The format it has.
        found: u16,
    },
    /// The log is damaged: it is neither repaired nor taken for new.
    #[error("segment {segment} is damaged at {offset}")]
    Corrupt {
        /// The segment.
        segment: SegmentSequence,
        /// Where, in octets from the start of the segment.
        offset: u64,
        /// What is broken.
        #[source]
        reason: CorruptReason,
    },
}
