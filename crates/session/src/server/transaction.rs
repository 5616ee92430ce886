//! What is known of a message before it is one.

use ringpost_protocol::envelope::Envelope;
use ringpost_protocol::hold::Hold;

use super::event::CloseReason;
use super::session::ServerSession;
use super::stats::TransactionRefusal;

/// From MAIL to the end of the content.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) envelope: Envelope,
    pub(super) declared_size: Option<u64>,
    /// How long MAIL wants it held.
    pub(super) hold: Option<Hold>,
    /// Until when its header wants it held.
    pub(super) not_before: Option<Hold>,
    /// Octets of what RCPT commands ask for by the DSN extension.
    pub(super) dsn_size: usize,
    /// RCPT commands that were taken, repeated recipients included.
    pub(super) accepted: usize,
    /// Why recipients were refused, if any were; relaying stands out.
    pub(super) refused: Option<TransactionRefusal>,
}

impl ServerSession {
    /// Drops the envelope of a transaction that comes to no message, and counts why; `closing` when
    /// the session ends with it.
    pub(super) fn drop_transaction(&mut self, closing: Option<CloseReason>) {
        let Some(transaction) = self.transaction.take() else {
            return;
        };
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
