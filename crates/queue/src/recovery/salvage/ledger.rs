//! Applying what is left of a log, without stopping at what is not.

use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasherDefault;

use super::super::replay::Replay;
use super::{Lost, LostReason};
use crate::error::CorruptReason;
use crate::id::{IdHasher, IdMap, MessageId};
use crate::index::{Entry, Index, Location};
use crate::message::{Disposition, Outcome, RecipientIndex};
use crate::record::{MessageRecord, Record};

type IdSet = HashSet<MessageId, BuildHasherDefault<IdHasher>>;

/// What the intact records of a log say.
///
/// What is settled stays so, wherever in the log the record of the message turns up.
#[derive(Default)]
pub(super) struct Ledger {
    replay: Replay,
    /// Messages of which nothing is left to deliver.
    settled: IdSet,
    /// Outcomes of messages of which no record has been seen.
    early: IdMap<MessageId, BTreeMap<RecipientIndex, Disposition>>,
    /// Messages with a damaged record.
    suspects: BTreeMap<MessageId, LostReason>,
    pub(super) records: u64,
}

impl Ledger {
    /// Applies an intact record.
    pub(super) fn apply(
        &mut self,
        record: &Record<'_>,
        location: Location,
    ) -> Result<(), CorruptReason> {
        self.records += 1;
        match record {
            Record::Chunk(chunk) => {
                // One that no record of its message knows is from a stream that was given up.
                let _ = self.replay.chunk(chunk, location);
                Ok(())
            }
            Record::Message(message) => self.message(message, location),
            Record::Outcome(outcome) => {
                self.outcome(outcome);
                Ok(())
            }
            Record::Purge(purge) => {
                let gone = self.replay.purge(purge);
                self.settled.extend(gone);
                Ok(())
            }
            // They say nothing about the queue.
            Record::Events(_) | Record::EventMark(_) => Ok(()),
        }
    }

    fn message(
        &mut self,
        message: &MessageRecord<'_>,
        location: Location,
    ) -> Result<(), CorruptReason> {
        let id = message.head.id;
        if self.settled.contains(&id) {
            return Ok(());
        }
        self.replay.message(message, location)?;
        // What was settled before this copy was made is settled in it, unless it is out of its place.
        if let Some(early) = self.early.remove(&id) {
            let is_final =
                |disposition: &Disposition| !matches!(disposition, Disposition::Deferred { .. });
            let recipients = early.into_iter().filter(|(_, disposition)| is_final(disposition));
            self.outcome(&Outcome { id, recipients: recipients.collect() });
        }
        if message.recipients.iter().all(|(_, state)| state.status.is_settled()) {
            self.replay.forget(id);
            self.settled.insert(id);
        }
        Ok(())
    }

    fn outcome(&mut self, outcome: &Outcome) {
        let id = outcome.id;
        if self.replay.index.entries.contains(id) {
            self.replay.outcome(outcome);
            if !self.replay.index.entries.contains(id) {
                self.settled.insert(id);
            }
        } else if !self.settled.contains(&id) {
            let early = self.early.entry(id).or_default();
            for (index, disposition) in &outcome.recipients {
                let known = early.entry(*index).or_insert(*disposition);
                if matches!(known, Disposition::Deferred { .. }) {
                    *known = *disposition;
                }
            }
        }
    }

    /// Notes that a record of a message cannot be read.
    pub(super) fn suspect(&mut self, id: MessageId, reason: LostReason) {
        self.suspects.entry(id).or_insert(reason);
    }

    /// Ends: gives the messages of which all pieces are intact, those that are not in the queue any more
    /// though nothing says that they were settled, and the highest message number seen.
    ///
    /// `is_damaged`: whether anything of the log is missing.
    pub(super) fn finish(mut self, is_damaged: bool) -> (Index, Vec<Lost>, u64) {
        let mut lost: BTreeMap<MessageId, Lost> = BTreeMap::new();
        let broken: Vec<(MessageId, Lost)> = self
            .replay
            .index
            .entries
            .iter()
            .filter(|(id, entry)| !self.replay.is_complete(*id, entry))
            .map(|(id, entry)| (id, of_entry(id, entry)))
            .collect();
        for (id, broken) in broken {
            self.replay.forget(id);
            lost.insert(id, broken);
        }
        if is_damaged {
            for (id, early) in &self.early {
                let waits =
                    |disposition: &Disposition| matches!(disposition, Disposition::Deferred { .. });
                if early.values().any(waits) {
                    self.suspects.entry(*id).or_insert(LostReason::Unrecorded);
                }
            }
            for id in self.replay.chunks.keys() {
                self.suspects.entry(*id).or_insert(LostReason::Unfinished);
            }
        }
        for (id, reason) in self.suspects {
            if !self.settled.contains(&id) && !self.replay.index.entries.contains(id) {
                let unknown =
                    Lost { id, reason, received_unix_ms: None, size: None, recipients: 0 };
                lost.entry(id).or_insert(unknown);
            }
        }
        let mut index = self.replay.index;
        let counts = index.entries.iter().map(|(_, entry)| entry.queued());
        (index.messages, index.recipients) =
            counts.fold((0, 0), |(messages, all), one| (messages + 1, all + one));
        (index, lost.into_values().collect(), self.replay.sequence_max)
    }
}

fn of_entry(id: MessageId, entry: &Entry) -> Lost {
    let missing = entry.chunks().position(|chunk| chunk.len == 0);
    Lost {
        id,
        reason: missing.map_or(LostReason::Content, |at| LostReason::Chunk(at as u32)),
        received_unix_ms: Some(entry.received_unix_ms),
        size: Some(entry.size),
        recipients: entry.queued(),
    }
}
