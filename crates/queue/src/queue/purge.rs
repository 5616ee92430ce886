//! Purges: one record that removes any number of recipients.

use super::Queue;
use crate::commit::Ticket;
use crate::error::AppendError;
use crate::events::EventRecords;
use crate::id::MessageId;
use crate::index::Phase;
use crate::message::{Purge, Purged};
use crate::record;

/// Entries taken out of the index at a time.
const REMOVED_AT_ONCE: usize = 4096;

impl Queue {
    /// Removes all recipients in the queue that a purge is for, and the messages that have no other
    /// left to deliver: one record in the log, however many they are. Messages that are still coming
    /// in are not affected. Taken even when the log is full.
    ///
    /// `describe` gives the octets of one event record about it, or none; they become durable with it.
    ///
    /// From now on they are not in the queue; after a crash before the ticket can be redeemed they may
    /// be there again. Their space is given back by [`Queue::remove_purged`].
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was appended.
    pub fn append_purge(
        &mut self,
        purge: &Purge,
        describe: impl FnOnce(&Purged) -> Vec<u8>,
    ) -> Result<(Ticket, Purged), AppendError> {
        self.check_usable()?;
        let start = self.begin_group();
        if let Some(batch) = self.pending.back_mut() {
            record::encode_purge(&mut batch.frame, purge);
            batch.records += 1;
        }
        let host = purge.host.as_ref().map(|host| self.index.hosts.find(host));
        let mut purged = Purged::default();
        let mut gone = Vec::new();
        // No recipient is at a host that is not known.
        if host != Some(None) {
            let host = host.flatten();
            for (id, entry) in self.index.entries.iter_mut() {
                let before = entry.queued();
                if entry.phase == Phase::Settling || !entry.remove_recipients(purge, host) {
                    continue;
                }
                let after = entry.queued();
                purged.recipients += before - after;
                if entry.phase == Phase::Durable {
                    self.index.recipients -= before - after;
                }
                if after == 0 {
                    purged.messages += 1;
                    gone.push(id);
                    if entry.phase == Phase::Durable {
                        entry.phase = Phase::Settling;
                    }
                }
            }
        }
        let octets = describe(&purged);
        self.encode_events(EventRecords { count: u32::from(!octets.is_empty()), octets: &octets });
        self.split_batch(start);
        self.keep_from_checkpoint();
        if let Some(batch) = self.pending.back_mut() {
            batch.purged.extend(gone);
        }
        // The id says nothing here.
        let id = MessageId::new(self.identity.shard, 0);
        Ok((Ticket { batch: self.gathering(), id }, purged))
    }

    /// Takes some of what was purged out of the index; whether there is more. Work for idle times.
    pub fn remove_purged(&mut self) -> bool {
        if self.purged.is_empty() {
            return false;
        }
        for _ in 0..REMOVED_AT_ONCE {
            let Some(id) = self.purged.pop() else { break };
            self.settlement_is_durable(id);
        }
        self.look_for_free_segments();
        !self.purged.is_empty()
    }
}
