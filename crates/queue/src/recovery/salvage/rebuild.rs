//! Writing what is left of a log to a new one.

use std::io;

use thiserror::Error;

use super::{Lost, LostReason, Survey};
use crate::config::{ConfigError, QueueConfig};
use crate::error::AppendError;
use crate::id::{MessageId, SEQUENCE_BITS};
use crate::index::RecipientEntry;
use crate::message::{NewMessage, RecipientState, StoredMessage};
use crate::offline::{Reader, drain};
use crate::queue::Queue;
use crate::segment::LogIdentity;
use crate::storage::Storage;

/// Message numbers that a new log skips: what was lost may have used up some.
const SEQUENCE_SKIP: u64 = 1 << 32;

/// What a new log has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Messages.
    pub messages: u64,
    /// Recipients of them that are not settled.
    pub recipients: u64,
    /// Messages that could be read before, but not again.
    pub lost: Vec<Lost>,
}

/// A new log could not be written. What there is of it is of no use.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The limits cannot be kept.
    #[error("the limits of the queue cannot be kept")]
    Config(#[from] ConfigError),
    /// The old log cannot be read.
    #[error("cannot read the log")]
    Read(#[source] io::Error),
    /// The new log cannot be written.
    #[error("cannot write the new log")]
    Write(#[source] io::Error),
    /// A message does not fit the new log.
    #[error("cannot append message {id} to the new log")]
    Append {
        /// The message.
        id: MessageId,
        /// Why.
        #[source]
        error: AppendError,
    },
}

/// Writes all messages of a survey to an empty directory, under their ids, each recipient with its state.
///
/// All of it is durable when this returns. The log that is made never gives out an id of before. `config`
/// is taken as it is, but for room: segments are as large as the largest of the old log, and there may
/// be as many as it takes.
///
/// # Errors
///
/// [`RebuildError`]; the directory is to be emptied before another try.
///
/// # Cancel safety
///
/// May be dropped at any time; what was written is of no use then.
pub async fn rebuild<S: Storage, T: Storage>(
    survey: &Survey,
    old: &S,
    new: &T,
    config: &QueueConfig,
    identity: LogIdentity,
) -> Result<Rebuilt, RebuildError> {
    let config = QueueConfig {
        segment_size: config.segment_size.max(survey.segment_size_max),
        disk_size_max: u64::MAX,
        ..config.clone()
    };
    let mut rebuilt = Rebuilt::default();
    let next = survey.message_sequence.saturating_add(SEQUENCE_SKIP).min((1 << SEQUENCE_BITS) - 1);
    let mut queue = Queue::renewed(config, identity, survey.next_segment, next)?;
    drain(&mut queue, new).await.map_err(RebuildError::Write)?;
    let mut reader = Reader::new(old);
    for view in survey.messages() {
        let id = view.id;
        let plans = survey.plan_read(id).unwrap_or_default();
        let read = reader.message(&plans, view.size).await.map_err(RebuildError::Read)?;
        let Ok(stored) = read else {
            rebuilt.lost.push(Lost {
                id,
                reason: LostReason::Unreadable,
                received_unix_ms: Some(view.received_unix_ms),
                size: Some(view.size),
                recipients: view.recipients.len() as u64,
            });
            continue;
        };
        let StoredMessage { envelope, content } = stored;
        let append = |error| RebuildError::Append { id, error };
        let (last, chunks) = content
            .split_last()
            .map_or((&[][..], &[][..]), |(last, chunks)| (last.as_slice(), chunks));
        for chunk in chunks {
            queue.append_chunk(id, chunk).map_err(append)?;
            make_room(&mut queue, new).await?;
        }
        let states: Vec<RecipientState> =
            view.recipients.iter().map(RecipientEntry::state).collect();
        let message = NewMessage {
            id,
            received_unix_ms: view.received_unix_ms,
            expiry_unix_ms: view.expiry_unix_ms,
            due_unix_ms: 0,
            envelope: &envelope,
            content: last,
            size: view.size,
        };
        let _ = queue.append_restored(message, &states).map_err(append)?;
        rebuilt.messages += 1;
        let waiting = states.iter().filter(|state| !state.status.is_settled());
        rebuilt.recipients += waiting.count() as u64;
        make_room(&mut queue, new).await?;
    }
    drain(&mut queue, new).await.map_err(RebuildError::Write)?;
    Ok(rebuilt)
}

/// Writes when enough has gathered.
async fn make_room<T: Storage>(queue: &mut Queue, storage: &T) -> Result<(), RebuildError> {
    let stats = queue.stats();
    if stats.pending_bytes >= queue.config().batch_size_max as u64 {
        drain(queue, storage).await.map_err(RebuildError::Write)?;
    }
    Ok(())
}
