//! Messages that are to be sent later: by MAIL (RFC 4865), or by a field of their header.

use ringpost_protocol::command::CommandError;
use ringpost_protocol::data::field::TakenField;
use ringpost_protocol::extension::Extension;
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
        let transaction = self.transaction.as_ref()?;
        let holds = [transaction.hold, transaction.not_before].into_iter().flatten();
        let until = holds.map(|hold| hold.release_unix_ms(received_unix_ms)).max()?;
        (until > received_unix_ms).then_some(until)
    }

    /// What the reply to EHLO says about messages that are to be held. RFC 4865 is for submission:
    /// those that may not relay are offered nothing.
    pub(super) fn hold_offer(&self) -> Option<HoldOffer> {
        let is_extended = matches!(self.helo, Some(Helo { extended: true, .. }))
            && self.config.extensions.contains(Extension::FutureRelease);
        let max = self.config.future_release_max;
        let offer = HoldOffer::new(max, self.unix_ms);
        offer.filter(|_| is_extended && self.may_relay())
    }

    /// Says why a message cannot be held so long.
    pub(super) fn check_hold(&mut self, hold: Hold) -> Result<(), FixedReply> {
        if self.hold_offer().is_none() {
            return Err(CommandError::UnknownParameter.reply());
        }
        if self.is_held_so_long(hold) { Ok(()) } else { Err(replies::HOLD_TOO_LONG) }
    }

    /// Whether messages are held so long here; counts it if not.
    fn is_held_so_long(&mut self, hold: Hold) -> bool {
        let is_within = hold.is_within(self.config.future_release_max, self.unix_ms);
        if !is_within {
            self.stats.count_limit(ServerLimit::FutureRelease);
            self.stats.count_refusal(TransactionRefusal::Hold);
        }
        is_within
    }

    /// Takes the time that the header has, or says why not.
    pub(super) fn hold_by_field(&mut self, field: TakenField<'_>) -> Result<(), &'static str> {
        let until = match field {
            TakenField::Absent => return Ok(()),
            TakenField::Value(value) => Hold::parse_field(value),
            TakenField::TooLong => None,
            TakenField::Repeated => {
                self.stats.count_refusal(TransactionRefusal::Hold);
                return Err("there can be only one such field");
            }
        };
        let Some(until) = until else {
            self.stats.count_refusal(TransactionRefusal::Hold);
            return Err("not a date of RFC 5322 or RFC 3339, nor seconds of Unix time");
        };
        if !self.is_held_so_long(until) {
            return Err("messages are not held for so long here");
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.not_before = Some(until);
        }
        Ok(())
    }
}
