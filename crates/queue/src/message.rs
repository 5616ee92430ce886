//! What goes into the log and comes out of it: messages, recipients, outcomes.

use ringpost_protocol::address::Host;
use ringpost_protocol::envelope::Envelope;

use crate::id::MessageId;

/// The place of a recipient among the forward-paths of its message, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecipientIndex(pub u16);

/// A message about to be committed.
#[derive(Debug, Clone, Copy)]
pub struct NewMessage<'a> {
    /// Its name, from [`Queue::next_id`](crate::Queue::next_id).
    pub id: MessageId,
    /// When it was received, in milliseconds of Unix time.
    pub received_unix_ms: u64,
    /// When it is given up, in milliseconds of Unix time.
    pub expiry_unix_ms: u64,
    /// When the first attempt is due, in milliseconds of Unix time; not later than now for at once.
    pub due_unix_ms: u64,
    /// Who gets it. 1 to 65,535 recipients.
    pub envelope: &'a Envelope,
    /// The whole content, or what follows the chunks that were appended before.
    pub content: &'a [u8],
    /// Octets of content, those of the chunks included. Checked against what was appended, so that
    /// a message with a piece missing can never be committed.
    pub size: u64,
}

/// What an attempt, or the passing of time, meant for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The next hop took it. Final.
    Delivered,
    /// It was refused for good. Final.
    Bounced,
    /// It was not delivered before its expiry. Final.
    Expired,
    /// It is tried again later.
    Deferred {
        /// Attempts made so far.
        attempts: u16,
        /// When the next one is due, in milliseconds of Unix time.
        due_unix_ms: u64,
        /// The originator is told of the delay by the report in the same commit.
        warned: bool,
    },
}

/// What became of some recipients of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The message.
    pub id: MessageId,
    /// The recipients that changed. Of one that is named twice, the first final disposition counts.
    pub recipients: Vec<(RecipientIndex, Disposition)>,
}

/// Which recipients an operator removes from the queue: those to which all of this applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purge {
    /// Their mailbox is at this host. `None`: at any, or at none.
    pub host: Option<Host>,
    /// Their message was received before this time, in milliseconds of Unix time. `u64::MAX`: at any.
    pub received_before_unix_ms: u64,
}

/// How much a purge has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Purged {
    /// Recipients removed.
    pub recipients: u64,
    /// Messages that left the queue with them.
    pub messages: u64,
}

/// Whether a recipient is still to be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RecipientStatus {
    /// Waiting for its first or next attempt.
    #[default]
    Queued = 0,
    /// Delivered.
    Delivered = 1,
    /// Bounced.
    Bounced = 2,
    /// Expired.
    Expired = 3,
    /// Removed by an operator.
    Removed = 4,
}

impl RecipientStatus {
    pub(crate) fn from_u8(number: u8) -> Option<Self> {
        [Self::Queued, Self::Delivered, Self::Bounced, Self::Expired, Self::Removed]
            .into_iter()
            .find(|status| *status as u8 == number)
    }

    /// Whether nothing is left to do.
    pub fn is_settled(self) -> bool {
        self != Self::Queued
    }
}

/// What the queue keeps about one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecipientState {
    /// When its next attempt is due, in milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// Attempts made so far.
    pub attempts: u16,
    /// Whether, and how, it is settled.
    pub status: RecipientStatus,
    /// Whether the originator has been told that delivery is delayed.
    pub warned: bool,
}

impl RecipientState {
    pub(crate) fn apply(&mut self, disposition: Disposition) {
        // What is settled stays so, or its recipient would get the message again.
        if self.status.is_settled() {
            return;
        }
        match disposition {
            Disposition::Delivered => self.status = RecipientStatus::Delivered,
            Disposition::Bounced => self.status = RecipientStatus::Bounced,
            Disposition::Expired => self.status = RecipientStatus::Expired,
            Disposition::Deferred { attempts, due_unix_ms, warned } => {
                self.attempts = attempts;
                self.due_unix_ms = due_unix_ms;
                self.warned |= warned;
            }
        }
    }
}

/// A message as it is read back from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Who gets it.
    pub envelope: Envelope,
    /// The content, in pieces as it was appended.
    pub content: Vec<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_settled_stays_settled() {
        let deferred = Disposition::Deferred { attempts: 2, due_unix_ms: 9, warned: false };
        let warned = Disposition::Deferred { attempts: 1, due_unix_ms: 8, warned: true };
        let mut state = RecipientState::default();
        state.apply(warned);
        state.apply(deferred);
        assert_eq!((state.attempts, state.due_unix_ms, state.warned), (2, 9, true));
        assert!(!state.status.is_settled());
        state.apply(Disposition::Delivered);
        state.apply(deferred);
        state.apply(Disposition::Bounced);
        assert_eq!(state.status, RecipientStatus::Delivered);
    }

    #[test]
    fn status_numbers_round_trip() {
        for number in 0..=255 {
            if let Some(status) = RecipientStatus::from_u8(number) {
                assert_eq!(status as u8, number);
            } else {
                assert!(number > 4);
            }
        }
    }
}
