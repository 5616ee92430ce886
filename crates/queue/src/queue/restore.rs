//! Messages that were in a queue before: they come in with the states that their recipients had.

use super::{Continuation, Queue};
use crate::commit::Ticket;
use crate::config::{ConfigError, QueueConfig};
use crate::error::AppendError;
use crate::events::{EventRecords, Events};
use crate::frame::Lsn;
use crate::index::Index;
use crate::message::{NewMessage, RecipientState};
use crate::reclaim::Segments;
use crate::segment::{LogIdentity, SegmentSequence};

use super::Checkpoints;

impl Queue {
    /// Makes an empty queue for a directory that is empty, but gives out no segment and no message
    /// number below these. A frame that says so is written even when nothing else is.
    pub(crate) fn renewed(
        config: QueueConfig,
        identity: LogIdentity,
        next_segment: SegmentSequence,
        next_message_sequence: u64,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let continuation = Continuation {
            index: Index::default(),
            segments: Segments::default(),
            next_segment,
            next_lsn: Lsn(1),
            previous: 0,
            previous_segment: SegmentSequence(0),
            next_message_sequence,
            last_frame: None,
            checkpoints: Checkpoints::default(),
            events: Events::default(),
            tail_truncated_bytes: 0,
        };
        Ok(Self { frame_due: true, ..Self::resume(config, identity, continuation) })
    }

    /// Appends a message as [`Queue::append_message`] does, but with a state for each of its
    /// recipients, of whom at least one is not settled. `message.due_unix_ms` is not looked at.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was appended. [`AppendError::Envelope`] also when the number of states
    /// is not that of the recipients, or all are settled.
    pub fn append_restored(
        &mut self,
        message: NewMessage<'_>,
        states: &[RecipientState],
    ) -> Result<Ticket, AppendError> {
        let settled = states.iter().all(|state| state.status.is_settled());
        if settled || states.len() != message.envelope.forward_paths.len() {
            return Err(AppendError::Envelope(message.id));
        }
        self.append_with(&message, EventRecords::NONE, |at| {
            states.get(at).copied().unwrap_or_default()
        })
    }
}
