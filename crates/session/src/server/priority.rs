//! How urgent a message is: the MT-PRIORITY extension (RFC 6710).

use ringpost_protocol::extension::Extension;
use ringpost_protocol::priority::Priority;

use super::replies;
use super::session::{Helo, ServerSession};
use super::stats::ServerLimit;

impl ServerSession {
    /// The priority that the message has got, if MAIL has said one.
    pub fn priority_given(&self) -> Option<Priority> {
        let transaction = self.transaction.as_ref()?;
        transaction.has_priority.then_some(transaction.envelope.priority)
    }

    /// Whether the parameter may be given in this session.
    pub(super) fn offers_priority(&self) -> bool {
        self.config.priority_max.is_some()
            && self.config.extensions.contains(Extension::MtPriority)
            && matches!(self.helo, Some(Helo { extended: true, .. }))
    }

    /// The priority that a message gets for which this one is asked. Those that may not relay are
    /// strangers, and nobody knows whether their mail is urgent.
    pub(super) fn grant_priority(&mut self, wanted: Priority) -> Priority {
        let max = self.config.priority_max.unwrap_or_default();
        let max = if self.may_relay() { max } else { max.min(Priority::NORMAL) };
        if wanted > max {
            self.stats.count_limit(ServerLimit::MtPriority);
        }
        wanted.min(max)
    }

    /// Replies that MAIL has begun a transaction.
    pub(super) fn reply_to_mail(&mut self, wanted: Option<Priority>) {
        let granted = self.priority_given();
        let Some(granted) = granted.filter(|_| granted != wanted) else {
            return self.push(replies::MAIL_OK);
        };
        // RFC 6710: the new one stands first in the text.
        let text = format!("250 2.3.6 {granted} is the priority that the message gets\r\n");
        self.output().extend_from_slice(text.as_bytes());
    }
}
