//! Appends: records that go into the gathering batch.

use super::{Queue, SEQUENCE_GAP};
use crate::admission::Admission;
use crate::commit::{Batch, BatchNumber, Note, Ticket};
use crate::error::AppendError;
use crate::events::EventRecords;
use crate::frame::FRAME_HEADER_SIZE;
use crate::id::MessageId;
use crate::index::{Entry, Location, Phase, Piece, RecipientEntry};
use crate::message::{NewMessage, Outcome, RecipientState};
use crate::record::{self, CHUNK_OVERHEAD, ChunkRecord, MessageHead, Record};

impl Queue {
    /// Gives out an id that no message had before.
    pub fn next_id(&mut self) -> MessageId {
        let id = MessageId::new(self.identity.shard, self.next_message_sequence);
        self.next_message_sequence += 1;
        // Far more ids than commits: let a frame record how far we are.
        if self.next_message_sequence - self.durable_message_sequence > SEQUENCE_GAP / 2 {
            self.frame_due = true;
        }
        id
    }

    /// Appends a piece of the content of a message that is still coming in.
    ///
    /// Gives the batch that it is in, for a caller that wants to wait until its memory is free again.
    /// Nothing can be acknowledged with it: the message exists only with its commit record.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was appended.
    pub fn append_chunk(
        &mut self,
        id: MessageId,
        content: &[u8],
    ) -> Result<BatchNumber, AppendError> {
        let size = CHUNK_OVERHEAD + content.len();
        self.check_room()?;
        self.check_new(id)?;
        self.check_group(size)?;
        if !self.can_be_written(size, self.outcome_reserve()) {
            return Err(AppendError::Full);
        }
        if content.is_empty() {
            return Ok(self.gathering());
        }
        let streaming = self.index.streaming.entry(id).or_default();
        let index = streaming.appended;
        streaming.appended += 1;
        streaming.size += content.len() as u64;
        self.append_group(|batch| {
            place(batch, id, Piece::Chunk(index), |out| {
                record::encode_chunk(out, &ChunkRecord { id, index, content });
            });
        });
        Ok(self.gathering())
    }

    /// Appends a message with what is left of its content: its commit record. The event records
    /// become durable with it.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was appended, and the chunks, if any, are still there: try again, or
    /// [`Queue::abandon`] them.
    pub fn append_message(
        &mut self,
        message: NewMessage<'_>,
        events: EventRecords<'_>,
    ) -> Result<Ticket, AppendError> {
        let state = first_state(&message);
        self.append_with(&message, events, |_| state)
    }

    /// Appends a message of which recipient number `n` has the state `state(n)`.
    pub(super) fn append_with(
        &mut self,
        message: &NewMessage<'_>,
        events: EventRecords<'_>,
        state: impl Fn(usize) -> RecipientState,
    ) -> Result<Ticket, AppendError> {
        self.check_room()?;
        let head = self.check_message(message)?;
        let start = self.begin_group();
        let mut encoded = self.encode_message(message, &head, &state);
        self.encode_events(events);
        // The group is in the last batch; a frame more is for the case that it gets its own.
        if encoded.is_ok() && !self.can_be_written(0, self.outcome_reserve()) {
            encoded = Err(AppendError::Full);
        }
        if let Err(error) = encoded {
            self.roll_back(start);
            return Err(error);
        }
        self.end_group(start)?;
        self.add_entry(message, &head, &state);
        Ok(Ticket { batch: self.gathering(), id: message.id })
    }

    /// Forgets the chunks of a message that will not be committed; its id is not to be used again.
    /// Does nothing after its commit record was appended.
    pub fn abandon(&mut self, id: MessageId) {
        if self.index.entries.contains(id) {
            return;
        }
        let Some(streaming) = self.index.streaming.get_mut(&id) else { return };
        streaming.abandoned = true;
        for location in std::mem::take(&mut streaming.chunks) {
            self.segments.unpin(location);
        }
        if streaming.is_written() {
            self.index.streaming.remove(&id);
        }
    }

    /// Appends what became of recipients, the report about it, and the event records of both as one:
    /// all are durable, or none. Taken even when the log is full.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was appended.
    pub fn append_outcome(
        &mut self,
        outcome: &Outcome,
        dsn: Option<NewMessage<'_>>,
        events: EventRecords<'_>,
    ) -> Result<Ticket, AppendError> {
        self.check_usable()?;
        let id = outcome.id;
        self.check_outcome(outcome)?;
        let dsn = match dsn {
            Some(message) => Some((message, self.check_message(&message)?)),
            None => None,
        };
        let start = self.begin_group();
        if let Some((message, head)) = &dsn
            && let Err(error) = self.encode_message(message, head, &|_| first_state(message))
        {
            self.roll_back(start);
            return Err(error);
        }
        if let Some(batch) = self.pending.back_mut() {
            record::encode_outcome(&mut batch.frame, outcome);
            batch.records += 1;
        }
        self.encode_events(events);
        self.end_group(start)?;
        // From here on nothing fails.
        if let Some((message, head)) = dsn {
            self.add_entry(&message, &head, &|_| first_state(&message));
        }
        if let Some(entry) = self.index.entries.get_mut(id) {
            let before = entry.queued();
            entry.apply(outcome);
            let after = entry.queued();
            self.index.recipients -= before - after;
            if after == 0 {
                entry.phase = Phase::Settling;
                if let Some(batch) = self.pending.back_mut() {
                    batch.notes.push(Note::Settled { id });
                }
            }
        }
        Ok(Ticket { batch: self.gathering(), id })
    }

    fn check_room(&self) -> Result<(), AppendError> {
        self.check_usable()?;
        // What was admitted before the log was full still finds room, up to the last segment.
        if self.admission() == Admission::Full && self.segments_left() == 0 {
            return Err(AppendError::Full);
        }
        if self.pending_bytes >= self.config.pending_size_max {
            return Err(AppendError::Busy);
        }
        Ok(())
    }

    pub(super) fn check_usable(&self) -> Result<(), AppendError> {
        if self.poison.is_some() {
            return Err(AppendError::Poisoned);
        }
        if self.is_recovering {
            return Err(AppendError::Recovering);
        }
        Ok(())
    }

    /// Checks that the id was given out, and has no commit record yet.
    fn check_new(&self, id: MessageId) -> Result<(), AppendError> {
        let ours = id.shard() == self.identity.shard && id.sequence() < self.next_message_sequence;
        let abandoned = self.index.streaming.get(&id).is_some_and(|streaming| streaming.abandoned);
        if !ours || abandoned || self.index.entries.contains(id) {
            return Err(AppendError::UnknownMessage(id));
        }
        Ok(())
    }

    /// Checks a message, and makes the numbers of its record.
    fn check_message(&self, message: &NewMessage<'_>) -> Result<MessageHead, AppendError> {
        let id = message.id;
        self.check_new(id)?;
        let recipients = message.envelope.forward_paths.len();
        if recipients == 0 || recipients > usize::from(u16::MAX) {
            return Err(AppendError::Envelope(id));
        }
        let (chunks, streamed) = self
            .index
            .streaming
            .get(&id)
            .map_or((0, 0), |streaming| (streaming.appended, streaming.size));
        let appended = streamed + message.content.len() as u64;
        if appended != message.size {
            return Err(AppendError::SizeMismatch { id, appended, size: message.size });
        }
        Ok(MessageHead {
            id,
            received_unix_ms: message.received_unix_ms,
            expiry_unix_ms: message.expiry_unix_ms,
            size: message.size,
            chunks,
            priority: message.envelope.priority,
            tls_optional: message.envelope.tls_optional,
            deliver_by: message.envelope.deliver_by,
        })
    }

    /// Notes a message of which the commit record has been appended. Its places are filled in when
    /// that is durable.
    fn add_entry(
        &mut self,
        message: &NewMessage<'_>,
        head: &MessageHead,
        state: &impl Fn(usize) -> RecipientState,
    ) {
        let hosts = &mut self.index.hosts;
        let paths = message.envelope.forward_paths.iter().enumerate();
        let recipients = paths
            .map(|(at, path)| RecipientEntry::new(hosts.acquire(path.host()), state(at)))
            .collect();
        let entry = Entry::new(head, recipients, Location::default(), Phase::Appended);
        self.index.entries.insert(message.id, entry);
    }

    fn check_outcome(&self, outcome: &Outcome) -> Result<(), AppendError> {
        let entry = self.index.entries.get(outcome.id);
        // One that is not durable yet cannot have been delivered.
        let entry = entry
            .filter(|entry| entry.phase == Phase::Durable)
            .ok_or(AppendError::UnknownMessage(outcome.id))?;
        for (index, _) in &outcome.recipients {
            let state = entry.recipients().get(usize::from(index.0));
            if state.is_none_or(|state| state.status.is_settled()) {
                return Err(AppendError::UnknownRecipient { id: outcome.id, index: *index });
            }
        }
        Ok(())
    }

    fn check_group(&self, size: usize) -> Result<(), AppendError> {
        if size > self.config.group_size_max() {
            return Err(AppendError::TooLarge { size });
        }
        Ok(())
    }

    /// Appends the record of a message to the gathering batch, within a group.
    fn encode_message(
        &mut self,
        message: &NewMessage<'_>,
        head: &MessageHead,
        state: &impl Fn(usize) -> RecipientState,
    ) -> Result<(), AppendError> {
        let Some(batch) = self.pending.back_mut() else {
            return Err(AppendError::Poisoned);
        };
        let envelope = message.envelope;
        // What cannot be encoded is found when the record is read back.
        let dsn = record::encode_dsn(&envelope.dsn).unwrap_or_default();
        let options = record::encode_options(envelope);
        let extras = record::Extras { dsn: &dsn, options: &options };
        let start = batch.frame.len();
        place(batch, message.id, Piece::Message, |out| {
            record::encode_message(
                out,
                head,
                envelope.body.keyword(),
                &envelope.reverse_path,
                envelope.forward_paths.iter().enumerate().map(|(at, path)| (path, state(at))),
                extras,
                message.content,
            );
        });
        // Read back before it is too late: what could not be read after a restart must never be
        // acknowledged.
        let body = batch.frame.get(start + record::RECORD_HEADER_SIZE..).unwrap_or_default();
        match record::decode_body(record::KIND_MESSAGE, body) {
            Ok(Record::Message(read))
                if read.envelope().as_ref() == Ok(envelope)
                    && read.content.len() == message.content.len() =>
            {
                Ok(())
            }
            _ => Err(AppendError::Envelope(message.id)),
        }
    }

    /// Appends event records to the gathering batch, within a group.
    pub(super) fn encode_events(&mut self, events: EventRecords<'_>) {
        if events.count > 0
            && let Some(batch) = self.pending.back_mut()
        {
            record::encode_events(&mut batch.frame, events);
            batch.records += 1;
            batch.events += events.count;
        }
    }

    /// The batch that gathers.
    pub(super) fn gathering(&self) -> BatchNumber {
        self.pending.back().map_or(self.durable_through, |batch| batch.number)
    }

    /// Appends records of which the size was checked before.
    pub(super) fn append_group(&mut self, encode: impl FnOnce(&mut Batch)) {
        let start = self.begin_group();
        if let Some(batch) = self.pending.back_mut() {
            encode(batch);
        }
        self.split_batch(start);
    }

    pub(super) fn begin_group(&self) -> GroupStart {
        self.pending.back().map_or(GroupStart::default(), |batch| GroupStart {
            len: batch.frame.len(),
            records: batch.records,
            events: batch.events,
            notes: batch.notes.len(),
        })
    }

    fn roll_back(&mut self, start: GroupStart) {
        if let Some(batch) = self.pending.back_mut() {
            batch.frame.truncate(start.len);
            batch.notes.truncate(start.notes);
            batch.records = start.records;
            batch.events = start.events;
        }
    }

    fn end_group(&mut self, start: GroupStart) -> Result<(), AppendError> {
        let size = self.pending.back().map_or(0, |batch| batch.frame.len() - start.len);
        if let Err(error) = self.check_group(size) {
            self.roll_back(start);
            return Err(error);
        }
        self.split_batch(start);
        Ok(())
    }

    /// Moves the group just appended to a batch of its own if the batch has become too large: a group
    /// is never split over two.
    pub(super) fn split_batch(&mut self, start: GroupStart) {
        let buffer = self.buffers.pop().unwrap_or_default();
        let Some(batch) = self.pending.back_mut() else { return };
        self.pending_bytes += batch.frame.len() - start.len;
        if batch.payload_len() <= self.config.batch_size_max || start.records == 0 {
            self.buffers.push(buffer);
            return;
        }
        let mut next = Batch::new(BatchNumber(batch.number.0 + 1), buffer);
        next.frame.extend_from_slice(batch.frame.get(start.len..).unwrap_or_default());
        next.records = batch.records - start.records;
        next.events = batch.events - start.events;
        next.notes = batch.notes.split_off(start.notes);
        let moved_by = start.len - FRAME_HEADER_SIZE;
        for note in &mut next.notes {
            if let Note::Placed { offset, .. } = note {
                *offset -= moved_by as u32;
            }
        }
        batch.frame.truncate(start.len);
        batch.records = start.records;
        batch.events = start.events;
        self.pending.push_back(next);
    }
}

/// Where a batch stood before a group of records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct GroupStart {
    len: usize,
    records: u32,
    events: u32,
    notes: usize,
}

/// Appends one record of a message, and notes where it is.
pub(super) fn place(
    batch: &mut Batch,
    id: MessageId,
    piece: Piece,
    encode: impl FnOnce(&mut Vec<u8>),
) {
    let offset = batch.frame.len();
    encode(&mut batch.frame);
    let len = (batch.frame.len() - offset) as u32;
    batch.notes.push(Note::Placed { id, piece, offset: offset as u32, len });
    batch.records += 1;
}

/// The state of a recipient that has not been tried.
fn first_state(message: &NewMessage<'_>) -> RecipientState {
    RecipientState { due_unix_ms: message.due_unix_ms, ..RecipientState::default() }
}
