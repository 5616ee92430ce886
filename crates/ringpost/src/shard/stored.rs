//! Messages read back from the log, whole or in part.

use std::{io, rc::Rc};

use ringpost_queue::{MessageId, ReadError, StoredPiece, decode_piece};
use thiserror::Error;

use super::{Shard, cache::CachedMessage};
use crate::runtime::Runtime;

/// How often a message that is moved while it is being read is looked for again.
const READS_MAX: usize = 5;

/// A message could not be had.
#[derive(Debug, Error)]
pub(super) enum MessageError {
    #[error("the log could not be read")]
    Io(#[from] io::Error),
    #[error("the stored message cannot be used")]
    Stored(#[from] ReadError),
    #[error("the message is not in the queue")]
    Unknown,
}

/// How much of a message is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Who it is from and for.
    Envelope,
    /// The start of the content, too.
    Header,
}

impl<R: Runtime> Shard<R> {
    /// The message as far as it is needed, from memory or from the log.
    pub(super) async fn message_part(
        &self,
        id: MessageId,
        part: Part,
    ) -> Result<Rc<CachedMessage>, MessageError> {
        if let Some(message) = self.cache.borrow().get(id) {
            return Ok(message);
        }
        'plan: for _ in 0..READS_MAX {
            let plans = self.queue.borrow().plan_read(id).ok_or(MessageError::Unknown)?;
            // The message record comes first, then the chunks. Without chunks the content is in the
            // message record.
            let needed = if part == Part::Header { 2 } else { 1 };
            let mut envelope = None;
            let mut content = Vec::new();
            for plan in plans.iter().take(needed) {
                let bytes = self.read(plan).await;
                if !self.queue.borrow().is_current(plan) {
                    continue 'plan;
                }
                match decode_piece(plan, bytes?).map_err(ReadError::Corrupt)? {
                    StoredPiece::Message { envelope: found, content: last } => {
                        envelope = Some(found);
                        content = last;
                    }
                    StoredPiece::Chunk(first) => content = first,
                }
            }
            let envelope = envelope.ok_or(MessageError::Unknown)?;
            return Ok(Rc::new(CachedMessage { envelope, content: vec![content] }));
        }
        Err(MessageError::Unknown)
    }

    /// The message, from memory or from the log.
    pub(super) async fn message(&self, id: MessageId) -> Result<Rc<CachedMessage>, MessageError> {
        if let Some(message) = self.cache.borrow().get(id) {
            self.metrics.content_cache_hits.increment(1);
            return Ok(message);
        }
        self.metrics.content_cache_misses.increment(1);
        'plan: for _ in 0..READS_MAX {
            let plans = self.queue.borrow().plan_read(id).ok_or(MessageError::Unknown)?;
            let mut parts = Vec::with_capacity(plans.len());
            for plan in &plans {
                match self.read(plan).await {
                    Ok(part) => parts.push(part),
                    // Moved meanwhile, and its old segment is gone.
                    Err(_) if !self.queue.borrow().is_current(plan) => continue 'plan,
                    Err(error) => return Err(error.into()),
                }
            }
            match self.queue.borrow().decode_message(id, &plans, parts) {
                Ok(stored) => {
                    let (envelope, content) = (stored.envelope, stored.content);
                    return Ok(Rc::new(CachedMessage { envelope, content }));
                }
                Err(ReadError::Moved(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MessageError::Unknown)
    }
}
