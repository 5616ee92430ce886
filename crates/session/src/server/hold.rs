//! Messages that are to be sent later (RFC 4865).

use ringpost_protocol::command::CommandError;
use ringpost_protocol::hold::{Hold, HoldOffer};
use ringpost_protocol::reply::FixedReply;

use super::replies;
use super::session::{Helo, ServerSession};
use super::stats::{ServerLimit, TransactionRefusal};

impl ServerSession {
    /// Takes what the wall clock shows, in milliseconds of Unix time; 0 before the first call.
    ///
    /// Used for what is said about `HOLDUNTIL=` only, so that it may be a few seconds old.
    pub fn set_unix_ms(&mut self, unix_ms: u64) {
        self.unix_ms = unix_ms;
    }

    /// When the message may be sent at the earliest, in milliseconds of Unix time, if the client wants
    /// it held beyond `received_unix_ms`, the time at which it was received. To be asked before
    /// [`take_envelope`](Self::take_envelope).
    pub fn hold_until(&self, received_unix_ms: u64) -> Option<u64> {
        let hold = self.transaction.as_ref()?.hold?;
        Some(hold.release_unix_ms(received_unix_ms)).filter(|until| *until > received_unix_ms)
    }

    /// What the reply to EHLO says about messages that are to be held. RFC 4865 is for submission:
    /// those that may not relay are offered nothing.
    pub(super) fn hold_offer(&self) -> Option<HoldOffer> {
        let is_extended = matches!(self.helo, Some(Helo { extended: true, .. }));
        let max = self.config.future_release_max;
        let offer = HoldOffer::new(max, self.unix_ms);
        offer.filter(|_| is_extended && self.peer.may_relay)
    }

    /// Says why a message cannot be held so long.
    pub(super) fn check_hold(&mut self, hold: Hold) -> Result<(), FixedReply> {
        if self.hold_offer().is_none() {
            return Err(CommandError::UnknownParameter.reply());
        }
        if hold.is_within(self.config.future_release_max, self.unix_ms) {
            return Ok(());
        }
        self.stats.count_limit(ServerLimit::FutureRelease);
        self.stats.count_refusal(TransactionRefusal::Hold);
        Err(replies::HOLD_TOO_LONG)
    }
}
