//! The crash-safe queue of one shard: a log, its index, and its commits.
//!
//! What has been acknowledged is on stable storage, and leaves only when what became of it is too.
//!
//! - **The log** is a row of [segments](segment), preallocated files of fixed size. A batch of
//!   [records](record) is written as one [frame] with one sync: group commit. No sector that holds
//!   acknowledged data is ever written again.
//! - **The [`Queue`]** is a pure state machine over it. Commands append records to the gathering
//!   batch and give a [`Ticket`]; polls say what to write where; a ticket of a batch that is durable is
//!   redeemed for a [`Committed`], which is what a `250` needs.
//! - **The index** keeps about 80 octets for a message of one recipient in memory: where its records
//!   are, where its recipients are, and how they stand. Envelopes and content are read back by [`ReadPlan`]s.
//! - **Reclaim**: the log is first in, first out. Only its oldest segment is freed, when nothing in it
//!   is live; live records that hold it back are copied to the tail.
//! - **[Events](EventRecords)** of a change are committed with it, and kept until the caller says that it
//!   has told them.
//! - **[Recovery](recover)** reads the log from the oldest needed segment on, and is the only way to
//!   open it.
//! - **[Inspection](inspect)** looks at a stopped log and says all that is wrong, and **[salvage]** makes a
//!   new log of what is left of a damaged one; both on a stopped queue, see [`offline`].
//! - **[`Storage`](storage::Storage)** is the seam to the file system; the only asynchronous code here
//!   is what uses it: recovery, and [the birth of segments](segment::run_task).
//!
//! A failed or short write poisons the queue for good; see [`Admission::Poisoned`].
//!
//! `docs/QUEUE.md` has the format, the commit protocol, and what is assumed of the medium.

#![forbid(unsafe_code)]

mod admission;
pub mod blocks;
pub mod checkpoint;
mod codec;
mod commit;
mod config;
pub mod due;
mod error;
mod events;
pub mod frame;
mod hosts;
mod id;
mod index;
pub mod layout;
mod message;
pub mod offline;
mod pages;
mod queue;
mod read;
mod reclaim;
pub mod record;
mod recovery;
pub mod segment;
pub mod storage;

pub use admission::{Admission, Poison, QueueStats};
pub use blocks::BlockQueue;
pub use commit::{BatchNumber, Committed, Redeemed, Ticket};
pub use config::{ConfigError, QueueConfig};
pub use due::DueWheel;
pub use error::{AppendError, CorruptReason, Corruption, ReadError, RecoveryError};
pub use events::{EventRead, EventRecords, EventsRead};
pub use frame::Lsn;
pub use hosts::HostId;
pub use id::{
    IdHasher, IdMap, MESSAGE_ID_TEXT_LEN, MessageId, ParseMessageIdError, SEQUENCE_BITS, ShardId,
};
pub use index::{MessageView, Piece, RecipientEntry};
pub use message::{
    Disposition, NewMessage, Outcome, Purge, Purged, RecipientIndex, RecipientState,
    RecipientStatus, StoredMessage,
};
pub use queue::{CheckpointWrite, Queue, Write};
pub use read::{ReadPlan, StoredPiece, decode_piece};
pub use recovery::{CheckpointState, Inspection, Recovered, inspect, recover, salvage};
pub use segment::{LogIdentity, SegmentSequence, SegmentTask};
