//! Applying records in order: what they say, all together, is the queue.

use ringpost_protocol::envelope::Envelope;

use super::RecoveredMessage;
use crate::commit::Note;
use crate::error::CorruptReason;
use crate::frame::FrameHeader;
use crate::id::{IdMap, MessageId};
use crate::index::{Entry, Index, Location, Phase, Piece, Recipients};
use crate::message::{Outcome, RecipientState};
use crate::reclaim::Segments;
use crate::record::{self, CHUNK_OVERHEAD, ChunkRecord, MessageRecord, Record};
use crate::segment::SegmentSequence;

/// A message as far as it is known.
struct Replayed {
    entry: Entry,
    envelope: Envelope,
    /// Octets of content in the message record.
    content_len: u64,
}

/// What the records read so far say.
#[derive(Default)]
pub(super) struct Replay {
    messages: IdMap<MessageId, Replayed>,
    /// Chunks of messages of which no commit record has been seen.
    chunks: IdMap<MessageId, Vec<(u32, Location)>>,
    pub(super) records: u64,
    pub(super) sequence_max: u64,
}

/// Says what is wrong, and where in the payload.
pub(super) type ReplayError = (CorruptReason, usize);

/// Reads the records of a frame one after the other.
fn each_record(
    header: &FrameHeader,
    payload: &[u8],
    mut take: impl FnMut(Record<'_>, usize, usize) -> Result<(), CorruptReason>,
) -> Result<(), ReplayError> {
    let mut at = 0;
    let mut count = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        let (record, len) =
            record::decode(rest).map_err(|error| (CorruptReason::Record(error), at))?;
        take(record, at, len).map_err(|reason| (reason, at))?;
        at += len;
        count += 1;
    }
    if count == header.records { Ok(()) } else { Err((CorruptReason::RecordCount, at)) }
}

/// Where the records of messages are in a payload.
pub(super) fn notes(header: &FrameHeader, payload: &[u8]) -> Result<Vec<Note>, ReplayError> {
    let mut notes = Vec::new();
    each_record(header, payload, |record, at, len| {
        let (id, piece) = match record {
            Record::Chunk(chunk) => (chunk.id, Piece::Chunk(chunk.index)),
            Record::Message(message) => (message.head.id, Piece::Message),
            Record::Outcome(_) => return Ok(()),
        };
        notes.push(Note::Placed { id, piece, offset: at as u32, len: len as u32 });
        Ok(())
    })?;
    Ok(notes)
}

impl Replay {
    /// Applies a frame, the payload of which begins at `base` in its segment.
    pub(super) fn apply(
        &mut self,
        segment: SegmentSequence,
        base: u64,
        header: &FrameHeader,
        payload: &[u8],
    ) -> Result<(), ReplayError> {
        each_record(header, payload, |record, at, len| {
            let location = Location { segment, offset: base as u32 + at as u32, len: len as u32 };
            self.records += 1;
            match record {
                Record::Chunk(chunk) => self.chunk(&chunk, location),
                Record::Message(message) => self.message(&message, location),
                Record::Outcome(outcome) => {
                    self.outcome(&outcome);
                    Ok(())
                }
            }
        })
    }

    fn chunk(&mut self, chunk: &ChunkRecord<'_>, location: Location) -> Result<(), CorruptReason> {
        self.sequence_max = self.sequence_max.max(chunk.id.sequence());
        if let Some(message) = self.messages.get_mut(&chunk.id) {
            let place = message.entry.chunk_mut(chunk.index);
            *place.ok_or(CorruptReason::Message(chunk.id))? = location;
        } else {
            self.chunks.entry(chunk.id).or_default().push((chunk.index, location));
        }
        Ok(())
    }

    fn message(
        &mut self,
        message: &MessageRecord<'_>,
        location: Location,
    ) -> Result<(), CorruptReason> {
        let id = message.head.id;
        self.sequence_max = self.sequence_max.max(id.sequence());
        let states: Vec<RecipientState> =
            message.recipients.iter().map(|(_, state)| *state).collect();
        if let Some(known) = self.messages.get_mut(&id) {
            return known.replace(message, &states, location);
        }
        let mut entry = Entry {
            received_unix_ms: message.head.received_unix_ms,
            expiry_unix_ms: message.head.expiry_unix_ms,
            size: message.head.size,
            location,
            recipients: Recipients::new(&states),
            chunks: None,
            phase: Phase::Durable,
        };
        // No chunk is empty.
        if u64::from(message.head.chunks) > message.head.size {
            return Err(CorruptReason::Message(id));
        }
        let mut chunks = vec![Location::default(); message.head.chunks as usize];
        for (index, place) in self.chunks.remove(&id).unwrap_or_default() {
            // One beyond the last is from a stream under this id that was abandoned.
            if let Some(chunk) = chunks.get_mut(index as usize) {
                *chunk = place;
            }
        }
        entry.set_chunks(chunks);
        let envelope = message.envelope().map_err(CorruptReason::Record)?;
        if entry.recipients.queued() > 0 {
            let content_len = message.content.len() as u64;
            self.messages.insert(id, Replayed { entry, envelope, content_len });
        }
        Ok(())
    }

    fn outcome(&mut self, outcome: &Outcome) {
        // The message may be gone with its segment: then all of it was settled.
        let Some(message) = self.messages.get_mut(&outcome.id) else { return };
        let states = message.entry.recipients.as_mut_slice();
        for (index, disposition) in &outcome.recipients {
            if let Some(state) = states.get_mut(usize::from(index.0)) {
                state.apply(*disposition);
            }
        }
        if message.entry.recipients.queued() == 0 {
            self.messages.remove(&outcome.id);
        }
    }

    /// Ends the replay: checks that each message is complete, and tells what is in the queue, in the
    /// order of ids.
    pub(super) fn finish(
        self,
        segments: &mut Segments,
    ) -> Result<(Index, Vec<RecoveredMessage>), (CorruptReason, Location)> {
        let mut messages: Vec<_> = self.messages.into_iter().collect();
        messages.sort_unstable_by_key(|(id, _)| *id);
        let mut index = Index::default();
        let mut recovered = Vec::with_capacity(messages.len());
        index.entries.reserve(messages.len());
        for (id, Replayed { entry, envelope, content_len }) in messages {
            let chunk_len =
                |chunk: &Location| u64::from(chunk.len).checked_sub(CHUNK_OVERHEAD as u64);
            let chunks: Option<u64> = entry.chunks().iter().map(chunk_len).sum();
            if chunks.and_then(|len| len.checked_add(content_len)) != Some(entry.size) {
                return Err((CorruptReason::Message(id), entry.location));
            }
            for (piece, location) in entry.pieces() {
                segments.pin(id, piece, location);
            }
            index.messages += 1;
            index.recipients += entry.recipients.queued();
            recovered.push(RecoveredMessage {
                id,
                received_unix_ms: entry.received_unix_ms,
                expiry_unix_ms: entry.expiry_unix_ms,
                size: entry.size,
                envelope,
                recipients: entry.recipients.as_slice().to_vec(),
            });
            index.entries.insert(id, entry);
        }
        Ok((index, recovered))
    }
}

impl Replayed {
    /// Takes a later copy of the message record, which is the one that counts.
    fn replace(
        &mut self,
        message: &MessageRecord<'_>,
        states: &[RecipientState],
        location: Location,
    ) -> Result<(), CorruptReason> {
        let id = message.head.id;
        let known = self.entry.recipients.as_mut_slice();
        let content_len = message.content.len() as u64;
        if known.len() != states.len() || content_len != self.content_len {
            return Err(CorruptReason::Message(id));
        }
        for (known, state) in known.iter_mut().zip(states) {
            // What is settled stays so, whatever a copy says.
            if !known.status.is_settled() {
                *known = *state;
            }
        }
        if message.head != self.entry.head(id) {
            return Err(CorruptReason::Message(id));
        }
        self.entry.location = location;
        Ok(())
    }
}
