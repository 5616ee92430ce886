//! Applying records in order: what they say, all together, is the queue.

use super::purges::Purges;
use crate::checkpoint::Item;
use crate::commit::Note;
use crate::error::CorruptReason;
use crate::frame::{FrameHeader, Lsn};
use crate::id::{IdMap, MessageId};
use crate::index::{Entry, Index, Location, Phase, Piece, RecipientEntry};
use crate::message::{Outcome, Purge};
use crate::reclaim::Segments;
use crate::record::{self, CHUNK_OVERHEAD, ChunkRecord, MessageRecord, Record};
use crate::segment::SegmentSequence;

/// What the records read so far say.
///
/// Applying a record twice gives what applying it once gives, if all that came after it the first time
/// comes again: so a replay may begin with an index that is newer than its first frame.
#[derive(Default)]
pub(super) struct Replay {
    pub(super) index: Index,
    /// Octets of content in the message record, for messages that have chunks as well.
    content_lens: IdMap<MessageId, u64>,
    /// What is to be removed in the end.
    purges: Purges,
    /// Chunks of messages of which no commit record has been seen.
    pub(super) chunks: IdMap<MessageId, Vec<(u32, Location)>>,
    pub(super) records: u64,
    pub(super) sequence_max: u64,
    /// Event records in the last frame.
    pub(super) frame_events: u32,
    /// The event records up to this frame have been told.
    pub(super) events_marked: Lsn,
}

/// Says what is wrong, and where in the payload.
pub(crate) type ReplayError = (CorruptReason, usize);

/// Reads the records of a frame one after the other.
pub(crate) fn each_record(
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

/// Where the records of messages are in a payload, and how many event records it has.
pub(super) fn notes(header: &FrameHeader, payload: &[u8]) -> Result<(Vec<Note>, u32), ReplayError> {
    let mut notes = Vec::new();
    let mut events = 0_u32;
    each_record(header, payload, |record, at, len| {
        let (id, piece) = match record {
            Record::Chunk(chunk) => (chunk.id, Piece::Chunk(chunk.index)),
            Record::Message(message) => (message.head.id, Piece::Message),
            Record::Events(found) => {
                events = events.saturating_add(found.count);
                return Ok(());
            }
            Record::Outcome(_) | Record::Purge(_) | Record::EventMark(_) => return Ok(()),
        };
        notes.push(Note::Placed { id, piece, offset: at as u32, len: len as u32 });
        Ok(())
    })?;
    Ok((notes, events))
}

/// Octets of content in the chunks at these places; `None` if one cannot be a chunk.
fn content_of_chunks(entry: &Entry) -> Option<u64> {
    entry.chunks().map(|chunk| u64::from(chunk.len).checked_sub(CHUNK_OVERHEAD as u64)).sum()
}

impl Replay {
    /// Takes what a checkpoint says, before any frame. `false` if it cannot be so.
    pub(super) fn restore(&mut self, item: Item) -> bool {
        match item {
            Item::Message { id, entry } => {
                if entry.chunk_count() > 0 {
                    let in_chunks = content_of_chunks(&entry);
                    let Some(rest) = in_chunks.and_then(|len| entry.size.checked_sub(len)) else {
                        return false;
                    };
                    self.content_lens.insert(id, rest);
                }
                self.sequence_max = self.sequence_max.max(id.sequence());
                self.index.entries.insert(id, entry).is_none()
            }
            Item::Streaming { id, chunks } => {
                self.sequence_max = self.sequence_max.max(id.sequence());
                let chunks = (0..).zip(chunks).collect();
                self.chunks.insert(id, chunks).is_none()
            }
        }
    }

    /// Applies a frame, the payload of which begins at `base` in its segment.
    pub(super) fn apply(
        &mut self,
        segment: SegmentSequence,
        base: u64,
        header: &FrameHeader,
        payload: &[u8],
    ) -> Result<(), ReplayError> {
        self.frame_events = 0;
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
                Record::Purge(purge) => {
                    self.purges.push(purge);
                    Ok(())
                }
                Record::Events(events) => {
                    self.frame_events = self.frame_events.saturating_add(events.count);
                    Ok(())
                }
                Record::EventMark(marked) => {
                    self.events_marked = self.events_marked.max(marked);
                    Ok(())
                }
            }
        })
    }

    pub(super) fn chunk(
        &mut self,
        chunk: &ChunkRecord<'_>,
        location: Location,
    ) -> Result<(), CorruptReason> {
        self.sequence_max = self.sequence_max.max(chunk.id.sequence());
        if let Some(entry) = self.index.entries.get_mut(chunk.id) {
            let old = entry.set_chunk(chunk.index, location);
            old.map(drop).ok_or(CorruptReason::Message(chunk.id))
        } else {
            self.chunks.entry(chunk.id).or_default().push((chunk.index, location));
            Ok(())
        }
    }

    pub(super) fn message(
        &mut self,
        message: &MessageRecord<'_>,
        location: Location,
    ) -> Result<(), CorruptReason> {
        let head = &message.head;
        let id = head.id;
        self.sequence_max = self.sequence_max.max(id.sequence());
        let content_len = message.content.len() as u64;
        let content_known = if head.chunks == 0 {
            head.size
        } else {
            *self.content_lens.get(&id).unwrap_or(&content_len)
        };
        // No chunk is empty.
        if content_len != content_known || u64::from(head.chunks) > head.size {
            return Err(CorruptReason::Message(id));
        }
        if let Some(known) = self.index.entries.get_mut(id) {
            return replace(known, message, location);
        }
        let chunks = self.chunks.remove(&id).unwrap_or_default();
        let envelope = message.envelope().map_err(CorruptReason::Record)?;
        if message.recipients.iter().all(|(_, state)| state.status.is_settled()) {
            return Ok(());
        }
        let hosts = &mut self.index.hosts;
        let paths = envelope.forward_paths.iter().zip(&message.recipients);
        let recipients = paths
            .map(|(path, (_, state))| RecipientEntry::new(hosts.acquire(path.host()), *state))
            .collect();
        let mut entry = Entry::new(head, recipients, location, Phase::Durable);
        for (index, place) in chunks {
            // One beyond the last is from a stream under this id that was abandoned.
            entry.set_chunk(index, place);
        }
        if head.chunks > 0 {
            self.content_lens.insert(id, content_len);
        }
        self.purges.begin(id);
        self.index.entries.insert(id, entry);
        Ok(())
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        // The message may be gone with its segment: then all of it was settled.
        let Some(entry) = self.index.entries.get_mut(outcome.id) else { return };
        entry.apply(outcome);
        if entry.queued() == 0 {
            self.forget(outcome.id);
        }
    }

    /// Removes recipients at once, and gives the messages that left the queue with them.
    pub(super) fn purge(&mut self, purge: &Purge) -> Vec<MessageId> {
        let host = purge.host.as_ref().map(|host| self.index.hosts.find(host));
        if host == Some(None) {
            return Vec::new();
        }
        let host = host.flatten();
        let gone: Vec<MessageId> = self
            .index
            .entries
            .iter_mut()
            .filter_map(|(id, entry)| {
                (entry.remove_recipients(purge, host) && entry.queued() == 0).then_some(id)
            })
            .collect();
        for id in &gone {
            self.forget(*id);
        }
        gone
    }

    /// Takes a message out.
    pub(super) fn forget(&mut self, id: MessageId) {
        self.index.remove(id);
        self.content_lens.remove(&id);
    }

    /// Whether all pieces of a message are there, and are as long as it says.
    pub(super) fn is_complete(&self, id: MessageId, entry: &Entry) -> bool {
        let rest = match entry.chunk_count() {
            0 => Some(&entry.size),
            _ => self.content_lens.get(&id),
        };
        let in_chunks = content_of_chunks(entry);
        let size = rest.zip(in_chunks).and_then(|(rest, len)| rest.checked_add(len));
        size == Some(entry.size)
    }

    /// Forgets what a checkpoint has of segments before the head of the log: it was settled since, or
    /// moved, and then the copy in the log is newer, and what came before that may be gone. Its chunks may
    /// have been moved before, and the copy of the message record alone since.
    pub(super) fn forget_before(&mut self, head: SegmentSequence) {
        let entries = self.index.entries.iter();
        let gone = entries.filter(|(_, entry)| entry.location().segment < head);
        for id in gone.map(|(id, _)| id).collect::<Vec<_>>() {
            self.content_lens.remove(&id);
            if let Some(entry) = self.index.remove(id)
                && entry.chunk_count() > 0
            {
                self.chunks.insert(id, (0..).zip(entry.chunks()).collect());
            }
        }
    }

    /// Ends the replay: checks that each message is complete, and gives what is in the queue.
    pub(super) fn finish(
        mut self,
        segments: &mut Segments,
    ) -> Result<Index, (CorruptReason, Location)> {
        let purges = std::mem::take(&mut self.purges);
        for id in purges.apply(self.index.entries.iter_mut(), &self.index.hosts) {
            self.forget(id);
        }
        let (mut messages, mut recipients) = (0, 0);
        for (id, entry) in self.index.entries.iter() {
            if !self.is_complete(id, entry) {
                return Err((CorruptReason::Message(id), entry.location()));
            }
            for (piece, location) in entry.pieces() {
                if !segments.pin(id, piece, location) {
                    return Err((CorruptReason::MissingSegment, location));
                }
            }
            messages += 1;
            recipients += entry.queued();
        }
        (self.index.messages, self.index.recipients) = (messages, recipients);
        Ok(self.index)
    }
}

/// Takes a later copy of a message record, which is the one that counts.
fn replace(
    known: &mut Entry,
    message: &MessageRecord<'_>,
    location: Location,
) -> Result<(), CorruptReason> {
    let id = message.head.id;
    let recipients = known.recipients_mut();
    if recipients.len() != message.recipients.len() {
        return Err(CorruptReason::Message(id));
    }
    for (known, (_, state)) in recipients.iter_mut().zip(&message.recipients) {
        // What is settled stays so, whatever a copy says.
        if !known.status.is_settled() {
            known.set_state(*state);
        }
    }
    if message.head != known.head(id) {
        return Err(CorruptReason::Message(id));
    }
    known.set_location(location);
    Ok(())
}
