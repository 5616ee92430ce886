//! What is known of a message before it is one.

use std::collections::BTreeMap;
use std::time::Instant;

use ringpost_protocol::deliver_by::ByValue;
use ringpost_protocol::envelope::Envelope;
use ringpost_protocol::hold::Hold;
use ringpost_protocol::reply::FixedReply;

use super::content::Content;
use super::event::CloseReason;
use super::header::HeaderEdits;
use super::replies;
use super::session::ServerSession;
use super::stats::TransactionRefusal;
use crate::timer::Timer;

/// From MAIL to the end of the content.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) envelope: Envelope,
    pub(super) declared_size: Option<u64>,
    /// Whether MAIL has said a priority.
    pub(super) has_priority: bool,
    /// How long MAIL wants it held.
    pub(super) hold: Option<Hold>,
    /// In what time MAIL wants it delivered, and when it said so.
    pub(super) by: Option<(ByValue, Instant)>,
    /// Until when its header wants it held.
    pub(super) not_before: Option<Hold>,
    /// Octets of what RCPT commands ask for by the DSN extension.
    pub(super) dsn_size: usize,
    /// RCPT commands that were taken, repeated recipients included.
    pub(super) accepted: usize,
    /// Why recipients were refused, if any were; relaying stands out.
    pub(super) refused: Option<TransactionRefusal>,
    /// The content so far, from the first BDAT to the last.
    pub(super) chunks: Option<Box<Content>>,
    /// What was changed in the header section of content that is complete.
    pub(super) edits: Option<Box<HeaderEdits>>,
}

impl Transaction {
    /// Gets ready for content, or says why there cannot be any.
    pub(super) fn make_ready(&mut self) -> Result<(), FixedReply> {
        if self.accepted == 0 {
            let is_refused = self.refused.is_some();
            return Err(if is_refused { replies::NO_VALID_RECIPIENTS } else { replies::NEED_RCPT });
        }
        if self.chunks.is_none() {
            remove_repeated(&mut self.envelope);
        }
        Ok(())
    }
}

impl ServerSession {
    /// Drops the envelope of a transaction that comes to no message, and counts why; `closing` when
    /// the session ends with it.
    pub(super) fn drop_transaction(&mut self, closing: Option<CloseReason>) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
        if transaction.chunks.is_some() {
            // Content that the driver has not yet been told of needs no word about its end.
            self.aborted = self.event.take().is_none();
            self.timers.stop(Timer::ContentRate);
        }
        let refusal = match (transaction.refused, closing) {
            (Some(refusal), _) if transaction.accepted == 0 => refusal,
            // The client has changed its mind.
            (_, None | Some(CloseReason::Quit)) => return,
            (_, Some(CloseReason::ShuttingDown)) => TransactionRefusal::Shutdown,
            (_, Some(_)) => TransactionRefusal::Aborted,
        };
        self.stats.count_refusal(refusal);
    }
}

/// Keeps the first of recipients that are the same, with what was said of any of them; the order stays.
fn remove_repeated(envelope: &mut Envelope) {
    let forward_paths = &mut envelope.forward_paths;
    if forward_paths.len() < 2 {
        return;
    }
    let mut first = BTreeMap::new();
    let mut places = Vec::with_capacity(forward_paths.len());
    for path in &*forward_paths {
        let next = first.len();
        places.push(*first.entry(path).or_insert(next));
    }
    if first.len() == forward_paths.len() {
        return;
    }
    drop(first);
    envelope.dsn.merge_recipients(&places);
    let mut next = 0;
    let mut places = places.into_iter();
    forward_paths.retain(|_| {
        let is_first = places.next() == Some(next);
        next += usize::from(is_first);
        is_first
    });
}
