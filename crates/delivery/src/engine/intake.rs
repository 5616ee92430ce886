//! How messages come into the engine, fresh ones and those of an earlier life.

use std::time::Duration;

use ringpost_protocol::deliver_by::{ByMode, DeliverBy};

use super::{Engine, QueuedMessage, QueuedRecipient, SWEEP_INTERVAL};
use crate::attempt::Now;
use crate::clock::Stamp;
use crate::work::{ByTime, Recipient, Recipients, Work};

impl Engine {
    /// Takes a message: recipients that are due go on their way, the others wait.
    ///
    /// Stored times are held against the wall clock as it is now, and believed as far as they can be
    /// true: no retry is further away than the schedule's delay, no expiry further than the message's
    /// lifetime, no first attempt further than the message was to be held. A message past its expiry gets one more attempt, because it may be the clock that is
    /// wrong.
    pub fn handle_message(&mut self, now: Now, message: &QueuedMessage) {
        self.now = now;
        let lifetime_ms = message.expiry_unix_ms.saturating_sub(message.received_unix_ms);
        let longest = self.stamp().after(Duration::from_millis(lifetime_ms));
        let head = Work {
            message: message.id,
            since: self.clock.take(now, message.received_unix_ms).min(self.stamp()),
            expiry: self.clock.take(now, message.expiry_unix_ms).min(longest),
            recipients: Recipients::default(),
            returns: 0,
            priority: message.priority,
            by: ByTime::NONE,
        };
        if let [only] = &*message.recipients {
            // The usual case, of which there may be millions.
            let (due, since, recipient) = self.take_in(only, message, head.since);
            let by = self.by_time(message, since);
            self.begin(due, Work { since, by, recipients: Recipients::One(recipient), ..head });
        } else {
            let queued = message.recipients.iter();
            let mut recipients: Vec<(Option<Stamp>, Stamp, Recipient)> =
                queued.map(|queued| self.take_in(queued, message, head.since)).collect();
            let key = |(due, since, recipient): &(Option<Stamp>, Stamp, Recipient)| {
                (*due, *since, recipient.destination())
            };
            recipients.sort_by_key(key);
            for group in recipients.chunk_by(|one, next| key(one) == key(next)) {
                let Some(&(due, since, _)) = group.first() else { continue };
                let work = head.with(group.iter().map(|(_, _, one)| *one).collect());
                let by = self.by_time(message, since);
                self.begin(due, Work { since, by, ..work });
            }
        }
        self.sweep_at.get_or_insert(now.monotonic + SWEEP_INTERVAL);
        self.drain_answers();
    }

    /// What the time means in which the message is to be delivered, for work of which the time counts from
    /// `since`.
    fn by_time(&self, message: &QueuedMessage, since: Stamp) -> ByTime {
        match message.deliver_by {
            None => ByTime::NONE,
            Some(DeliverBy { mode: ByMode::Return, .. }) => ByTime::RETURN,
            Some(DeliverBy { by_unix_ms, .. }) => {
                ByTime::notify(since, self.clock.take(self.now, by_unix_ms))
            }
        }
    }

    /// Returns the recipient, when it is due if that is not now, and from when its time counts: mail
    /// that was held back has all of it from when it was to be let go.
    fn take_in(
        &mut self,
        queued: &QueuedRecipient,
        message: &QueuedMessage,
        received: Stamp,
    ) -> (Option<Stamp>, Stamp, Recipient) {
        let &QueuedRecipient { index, ref host, attempts, due_unix_ms, warned } = queued;
        let destination = self.destinations.add_recipient(host, message.tls_optional, &self.routes);
        let is_told = message.deliver_by.is_some_and(|by| by.is_told);
        let recipient = Recipient::new(index, attempts, destination, warned || is_told);
        let Some(due) = due_unix_ms.map(|due| self.clock.take(self.now, due)) else {
            return (None, received, recipient);
        };
        let now = self.stamp();
        if attempts == 0 {
            // Received by a clock that was ahead, it may be due at once nevertheless. Of what was held
            // nobody was told yet that it is late; else its due time is when somebody was.
            let held = due_unix_ms.unwrap_or_default().saturating_sub(message.received_unix_ms);
            let held = if warned { 0 } else { held };
            let due = due.min(now.after(Duration::from_millis(held)));
            return ((due > now).then_some(due), due.max(received), recipient);
        }
        let due = due.min(now.after(self.policy(recipient).retry.delay_max(attempts)));
        ((due > now).then_some(due), received, recipient)
    }

    fn begin(&mut self, due: Option<Stamp>, work: Work) {
        match due {
            Some(due) => self.wait(due, work),
            None => self.route(work),
        }
    }
}
