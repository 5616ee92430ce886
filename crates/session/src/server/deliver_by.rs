//! By when a message is to be delivered: the DELIVERBY extension (RFC 2852).

use std::time::Instant;

use ringpost_protocol::deliver_by::{ByMode, ByValue, DeliverBy};
use ringpost_protocol::extension::Extension;
use ringpost_protocol::hold::Hold;
use ringpost_protocol::reply::FixedReply;

use super::replies;
use super::session::{Helo, ServerSession};
use super::stats::{ServerLimit, TransactionRefusal};

impl ServerSession {
    /// By when the message is to be delivered, if MAIL has said so; `now` is `unix_ms`, in milliseconds of
    /// Unix time. To be asked before [`take_envelope`](Self::take_envelope).
    ///
    /// Time runs from MAIL on, so the envelope cannot know it before the driver has told the time.
    pub fn deliver_by(&self, now: Instant, unix_ms: u64) -> Option<DeliverBy> {
        let (by, said) = self.transaction.as_ref()?.by?;
        let passed = now.saturating_duration_since(said).as_millis();
        Some(by.kept(unix_ms.saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX))))
    }

    /// The minimum in the reply to EHLO, 0 for none; `None` when nothing is offered in this session.
    pub(super) fn deliver_by_min(&self) -> Option<u32> {
        let is_extended = matches!(self.helo, Some(Helo { extended: true, .. }))
            && self.config.extensions.contains(Extension::DeliverBy);
        self.config.deliver_by_min.filter(|_| is_extended)
    }

    /// Says why a message cannot be taken with this time for its delivery.
    pub(super) fn check_by(&mut self, by: ByValue, hold: Option<Hold>) -> Result<(), FixedReply> {
        if by.mode == ByMode::Notify {
            return Ok(());
        }
        // RFC 2852 §4: the minimum is for this mode alone.
        let min = self.deliver_by_min().unwrap_or(0);
        if u32::try_from(by.seconds).unwrap_or(0) < min {
            self.stats.count_limit(ServerLimit::DeliverBy);
            self.stats.count_refusal(TransactionRefusal::DeliverBy);
            return Err(replies::BY_TOO_SHORT);
        }
        let until = by.kept(self.unix_ms).by_unix_ms;
        if hold.is_some_and(|hold| hold.release_unix_ms(self.unix_ms) >= until) {
            self.stats.count_refusal(TransactionRefusal::DeliverBy);
            return Err(replies::BY_WHILE_HELD);
        }
        Ok(())
    }
}
