//! Whether MAIL may begin a transaction, which the driver may have to find out first.

use std::time::Instant;

use ringpost_protocol::parameter::MailParameters;
use ringpost_protocol::path::ReversePath;

use super::event::{Admission, CloseReason};
use super::replies;
use super::session::{ServerSession, State};
use super::stats::TransactionRefusal;
use crate::timer::Timer;

/// A MAIL command that waits for its admission.
#[derive(Debug)]
pub(super) struct HeldMail {
    path: ReversePath,
    parameters: MailParameters,
}

impl ServerSession {
    /// Whether a MAIL waits until the driver has found out if it may go on.
    ///
    /// Nothing is taken from the client meanwhile. The driver sets another admission than
    /// [`Admission::Pending`] and calls [`resume`](Self::resume).
    pub fn awaits_admission(&self) -> bool {
        matches!(self.state, State::AwaitingAdmission(_))
    }

    /// Goes on with a MAIL that waits, by the admission that has been set. It goes on waiting while
    /// that is [`Admission::Pending`].
    pub fn resume(&mut self, now: Instant) {
        if self.admission == Admission::Pending || !self.awaits_admission() {
            return;
        }
        let State::AwaitingAdmission(held) = std::mem::replace(&mut self.state, State::Command)
        else {
            return;
        };
        let replies_start = self.output().len();
        self.timers.set(Timer::Command, now + self.command_timeout());
        self.admit_mail(now, held.path, held.parameters);
        self.count_reply(replies_start, &[]);
        self.start_output_timer(now);
    }

    /// Keeps a MAIL until the driver has found out. The client cannot be late meanwhile.
    pub(super) fn hold_mail(&mut self, path: ReversePath, parameters: MailParameters) {
        self.timers.stop(Timer::Command);
        self.state = State::AwaitingAdmission(Box::new(HeldMail { path, parameters }));
    }

    /// Whether the driver lets new transactions in; replies if not.
    pub(super) fn is_admitted(&mut self, now: Instant) -> bool {
        let (refusal, reply) = match self.admission {
            Admission::Open => return true,
            Admission::Full => (TransactionRefusal::QueueFull, replies::FULL),
            // A MAIL that is pending is held, and does not come here.
            Admission::Pending | Admission::Unavailable => {
                (TransactionRefusal::Unavailable, replies::UNAVAILABLE)
            }
            Admission::Recovering => (TransactionRefusal::Unavailable, replies::RECOVERING),
            Admission::ShuttingDown => {
                self.stats.count_refusal(TransactionRefusal::Shutdown);
                self.close_with(now, replies::SHUTTING_DOWN, CloseReason::ShuttingDown);
                return false;
            }
            Admission::Elsewhere => {
                self.stats.count_refusal(TransactionRefusal::Unavailable);
                self.close_with(now, replies::ELSEWHERE, CloseReason::Elsewhere);
                return false;
            }
        };
        self.stats.count_refusal(refusal);
        self.push(reply);
        false
    }
}
