//! Purges: mail that an operator removes from the queue.
//!
//! The queue forgets it with one record. The engine still knows of it, and so may connections: a job
//! is held against the queue before it is begun, and an outcome before it is stored. So what was being
//! sent when it was purged may arrive, and nothing else. What only waits in the engine is forgotten, a
//! little at a time beside the live mail.

use std::rc::Rc;

use ringpost_delivery::Settlement;
use ringpost_metrics::event::{Event, EventRecord, Removal};
use ringpost_queue::{Disposition, MessageId, Purge, Purged, RecipientIndex};

use super::Shard;
use crate::{
    control::admin::{PurgeReply, PurgeRequest},
    runtime::{Containment, Runtime},
};

impl<R: Runtime> Shard<R> {
    /// Carries a purge out, and answers when it is durable.
    pub(super) async fn purge(self: Rc<Self>, request: PurgeRequest) {
        let PurgeRequest { purge, user, reply } = request;
        let answer = self.purge_durably(&purge, user).await;
        if let Ok(purged) = &answer {
            self.note_purge(&purge, user, *purged);
        }
        // Who asked may have gone; it is done all the same.
        let _: Result<(), PurgeReply> = reply.send(answer);
    }

    async fn purge_durably(self: &Rc<Self>, purge: &Purge, user: Option<u32>) -> PurgeReply {
        // From here on jobs and outcomes are held against the queue.
        self.has_purged.set(true);
        let mut lines = self.events.lines();
        let appended = self.with_queue(|queue| {
            // A number of its own, so that a reader can tell a second purge from a repeat.
            let id = queue.next_id();
            queue.append_purge(purge, |purged| {
                let before = purge.received_before_unix_ms;
                let event = Event::Purged(Removal {
                    id: &id,
                    user,
                    host: purge.host.as_ref().map(|host| host as _),
                    received_before_unix_ms: (before != u64::MAX).then_some(before),
                    recipients: purged.recipients,
                    messages: purged.messages,
                });
                lines.push(&EventRecord { time_unix_ms: self.runtime.unix_ms(), event });
                lines.records().octets.to_vec()
            })
        });
        let (ticket, purged) = appended.map_err(|error| error.to_string())?;
        self.events.keep(&ticket, lines);
        self.segment_work.set();
        self.forget_purged();
        match self.committed(ticket).await {
            Ok(_) => Ok(purged),
            Err(_) => Err("the storage of the shard has failed, or does not answer".to_owned()),
        }
    }

    /// Lets the engine forget what is not in the queue any more.
    fn forget_purged(self: &Rc<Self>) {
        if self.engine.borrow_mut().begin_forgetting() {
            let shard = Rc::clone(self);
            self.runtime.spawn(Containment::Process, async move {
                let is_queued = |id, index| shard.is_queued(id, index);
                while shard.with_engine(|engine, _| engine.forget_some(is_queued)) {
                    shard.runtime.turn().await;
                }
                shard.publish();
            });
        }
    }

    fn note_purge(&self, purge: &Purge, user: Option<u32>, purged: Purged) {
        self.metrics.recipients_purged.increment(purged.recipients);
        let host = purge.host.as_ref();
        tracing::warn!(
            shard = self.number,
            user,
            host = host.map(tracing::field::display),
            recipients = purged.recipients,
            messages = purged.messages,
            "removed from the queue by an operator"
        );
    }

    /// Tells whether a recipient is still in the queue, to be delivered.
    pub(super) fn is_queued(&self, id: MessageId, index: RecipientIndex) -> bool {
        self.queue.borrow().message(id).is_some_and(|message| {
            let state = message.recipients.get(usize::from(index.0));
            state.is_some_and(|state| !state.status.is_settled())
        })
    }

    /// What of a settlement is about recipients that are still in the queue; `None` when all of it
    /// is, which it is unless something was purged.
    pub(super) fn without_purged(self: &Rc<Self>, settlement: &Settlement) -> Option<Settlement> {
        if !self.has_purged.get() {
            return None;
        }
        let is_queued = |index| self.is_queued(settlement.id, index);
        if settlement.recipients.iter().all(|settled| is_queued(settled.index)) {
            return None;
        }
        let is_deferred = |disposition| matches!(disposition, Disposition::Deferred { .. });
        let mut left = settlement.clone();
        let mut is_kept = false;
        left.recipients.retain(|settled| {
            let stays = is_queued(settled.index);
            is_kept |= !stays && settlement.is_attempt && is_deferred(settled.disposition);
            stays
        });
        if is_kept {
            // It was out when the engine forgot the others, and waits there again.
            self.forget_purged();
        }
        Some(left)
    }
}
