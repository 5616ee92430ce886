//! What is kept in memory about each message: where it is, and how its recipients stand.

use ringpost_protocol::deliver_by::DeliverBy;
use ringpost_protocol::priority::Priority;

use crate::hosts::{HostId, Hosts};
use crate::id::{IdMap, MessageId};
use crate::message::{Disposition, Purge, RecipientState, RecipientStatus};
use crate::pages::PageMap;
use crate::record::{IndexOptions, MessageHead};
use crate::segment::SegmentSequence;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Location {
    pub(crate) segment: SegmentSequence,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

/// A [`Location`] in 12 octets: 37 bits of segment, 30 of offset, 29 of length.
///
/// A segment has at most 1 GiB, a record a quarter of that; and a log that has written 2³⁷ of even
/// the smallest segments has written 9 EB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PackedLocation([u32; 3]);

const OFFSET_BITS: u32 = 30;
const LEN_BITS: u32 = 29;

impl From<Location> for PackedLocation {
    fn from(location: Location) -> Self {
        let Location { segment, offset, len } = location;
        let packed = u128::from(segment.0) << (OFFSET_BITS + LEN_BITS)
            | u128::from(offset) << LEN_BITS
            | u128::from(len);
        Self([(packed >> 64) as u32, (packed >> 32) as u32, packed as u32])
    }
}

impl From<PackedLocation> for Location {
    fn from(PackedLocation([high, middle, low]): PackedLocation) -> Self {
        let packed = u128::from(high) << 64 | u128::from(middle) << 32 | u128::from(low);
        Self {
            segment: SegmentSequence((packed >> (OFFSET_BITS + LEN_BITS)) as u64),
            offset: (packed >> LEN_BITS) as u32 & ((1 << OFFSET_BITS) - 1),
            len: packed as u32 & ((1 << LEN_BITS) - 1),
        }
    }
}

/// A record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    /// The message record: envelope, states, and the content that is in no chunk.
    Message,
    /// The chunk of this index.
    Chunk(u32),
}

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its commit record is appended, but not durable.
    Appended,
    /// It is in the queue.
    Durable,
    /// What settled its last recipient is appended, but not durable.
    Settling,
}

/// A recipient as the index has it: its state, and where its mailbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecipientEntry {
    /// When its next attempt is due, in milliseconds of Unix time.
    pub due_unix_ms: u64,
    /// Where its mailbox is. See [`Queue::host`](crate::Queue::host).
    pub host: HostId,
    /// Attempts made so far.
    pub attempts: u16,
    /// Whether, and how, it is settled.
    pub status: RecipientStatus,
    /// Whether the originator has been told that delivery is delayed.
    pub warned: bool,
}

impl RecipientEntry {
    pub(crate) fn new(host: HostId, state: RecipientState) -> Self {
        let RecipientState { due_unix_ms, attempts, status, warned } = state;
        Self { due_unix_ms, host, attempts, status, warned }
    }

    /// Its state, as a record has it.
    pub fn state(&self) -> RecipientState {
        let Self { due_unix_ms, attempts, status, warned, .. } = *self;
        RecipientState { due_unix_ms, attempts, status, warned }
    }

    pub(crate) fn set_state(&mut self, state: RecipientState) {
        *self = Self::new(self.host, state);
    }

    pub(crate) fn apply(&mut self, disposition: Disposition) {
        let mut state = self.state();
        state.apply(disposition);
        self.set_state(state);
    }
}

/// What an entry has room for only elsewhere: it is usual to have one recipient, no chunks, and any
/// time to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct More {
    /// All recipients, or none if there is only one.
    recipients: Box<[RecipientEntry]>,
    /// Where the chunks of a large message are.
    chunks: Box<[PackedLocation]>,
    /// By when the message is to be delivered.
    deliver_by: Option<Box<DeliverBy>>,
}

/// A message in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) received_unix_ms: u64,
    pub(crate) expiry_unix_ms: u64,
    pub(crate) size: u64,
    only: RecipientEntry,
    more: Option<Box<More>>,
    location: PackedLocation,
    pub(crate) phase: Phase,
    pub(crate) priority: Priority,
    pub(crate) tls_optional: bool,
}

impl Entry {
    /// An entry with these recipients, at least one, and so many chunks at places to be filled in.
    pub(crate) fn new(
        head: &MessageHead,
        recipients: Vec<RecipientEntry>,
        location: Location,
        phase: Phase,
    ) -> Self {
        let absent = RecipientEntry::new(HostId::NONE, RecipientState::default());
        let only = recipients.first().copied().unwrap_or(absent);
        let recipients = if recipients.len() == 1 { Vec::new() } else { recipients };
        let mut entry = Self {
            received_unix_ms: head.received_unix_ms,
            expiry_unix_ms: head.expiry_unix_ms,
            size: head.size,
            only,
            more: None,
            location: location.into(),
            phase,
            priority: head.priority,
            tls_optional: head.tls_optional,
        };
        if !recipients.is_empty() || head.chunks > 0 || head.deliver_by.is_some() {
            let chunks = vec![PackedLocation::default(); head.chunks as usize];
            let deliver_by = head.deliver_by.map(Box::new);
            let more = More { recipients: recipients.into(), chunks: chunks.into(), deliver_by };
            entry.more = Some(Box::new(more));
        }
        entry
    }

    pub(crate) fn recipients(&self) -> &[RecipientEntry] {
        match &self.more {
            Some(more) if !more.recipients.is_empty() => &more.recipients,
            _ => std::slice::from_ref(&self.only),
        }
    }

    pub(crate) fn recipients_mut(&mut self) -> &mut [RecipientEntry] {
        match &mut self.more {
            Some(more) if !more.recipients.is_empty() => &mut more.recipients,
            _ => std::slice::from_mut(&mut self.only),
        }
    }

    /// Recipients that are not settled.
    pub(crate) fn queued(&self) -> u64 {
        let settled = |recipient: &&RecipientEntry| recipient.status.is_settled();
        let recipients = self.recipients();
        (recipients.len() - recipients.iter().filter(settled).count()) as u64
    }

    /// Notes what became of recipients; those that are settled stay so.
    pub(crate) fn apply(&mut self, outcome: &crate::Outcome) {
        let recipients = self.recipients_mut();
        for (index, disposition) in &outcome.recipients {
            if let Some(recipient) = recipients.get_mut(usize::from(index.0)) {
                recipient.apply(*disposition);
            }
        }
    }

    /// Removes the recipients that a purge is for, of which `host` is the host, if it has one;
    /// whether there were any.
    pub(crate) fn remove_recipients(&mut self, purge: &Purge, host: Option<HostId>) -> bool {
        self.remove_received_before(purge.received_before_unix_ms, host)
    }

    /// Removes the recipients at `host`, or all, if the message was received before a time; whether
    /// there were any.
    pub(crate) fn remove_received_before(&mut self, unix_ms: u64, host: Option<HostId>) -> bool {
        if self.received_unix_ms >= unix_ms {
            return false;
        }
        let mut has_removed = false;
        for recipient in self.recipients_mut() {
            if !recipient.status.is_settled() && host.is_none_or(|host| host == recipient.host) {
                recipient.status = RecipientStatus::Removed;
                has_removed = true;
            }
        }
        has_removed
    }

    pub(crate) fn location(&self) -> Location {
        self.location.into()
    }

    /// Moves the message record; gives the place where it was.
    pub(crate) fn set_location(&mut self, location: Location) -> Location {
        std::mem::replace(&mut self.location, location.into()).into()
    }

    fn packed_chunks(&self) -> &[PackedLocation] {
        self.more.as_ref().map_or(&[], |more| &more.chunks)
    }

    pub(crate) fn chunk_count(&self) -> usize {
        self.packed_chunks().len()
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = Location> {
        self.packed_chunks().iter().map(|chunk| (*chunk).into())
    }

    /// Moves a chunk; gives the place where it was. `None` if there is no such chunk.
    pub(crate) fn set_chunk(&mut self, index: u32, location: Location) -> Option<Location> {
        let chunk = self.more.as_mut()?.chunks.get_mut(index as usize)?;
        Some(std::mem::replace(chunk, location.into()).into())
    }

    /// Fills in the places of all chunks.
    pub(crate) fn set_chunks(&mut self, chunks: &[Location]) {
        for (index, location) in (0..).zip(chunks) {
            self.set_chunk(index, *location);
        }
    }

    /// All records, in the order in which they are read: the message record first.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Piece, Location)> {
        let chunks = (0..).map(Piece::Chunk).zip(self.chunks());
        std::iter::once((Piece::Message, self.location())).chain(chunks)
    }

    pub(crate) fn piece(&self, piece: Piece) -> Option<Location> {
        match piece {
            Piece::Message => Some(self.location()),
            Piece::Chunk(index) => self.packed_chunks().get(index as usize).map(|at| (*at).into()),
        }
    }

    /// By when the message is to be delivered.
    pub(crate) fn deliver_by(&self) -> Option<DeliverBy> {
        self.more.as_ref()?.deliver_by.as_deref().copied()
    }

    /// What it has of the options of the message.
    pub(crate) fn options(&self) -> IndexOptions {
        let (priority, tls_optional) = (self.priority, self.tls_optional);
        IndexOptions { priority, tls_optional, deliver_by: self.deliver_by() }
    }

    pub(crate) fn head(&self, id: MessageId) -> MessageHead {
        MessageHead {
            id,
            received_unix_ms: self.received_unix_ms,
            expiry_unix_ms: self.expiry_unix_ms,
            size: self.size,
            chunks: self.chunk_count() as u32,
            priority: self.priority,
            tls_optional: self.tls_optional,
            deliver_by: self.deliver_by(),
        }
    }
}

/// A message of which only chunks have been appended so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streaming {
    /// The chunks that are durable, in order: frames become durable in the order of appends.
    pub(crate) chunks: Vec<Location>,
    pub(crate) appended: u32,
    pub(crate) durable: u32,
    /// Copies of chunks that are appended, but not durable.
    pub(crate) copies: u32,
    pub(crate) size: u64,
    /// Given up; it is remembered until its last chunk is written, so that none of them is taken for
    /// a chunk of something else.
    pub(crate) abandoned: bool,
}

impl Streaming {
    /// Whether nothing of it is on its way to the disk.
    pub(crate) fn is_written(&self) -> bool {
        self.durable == self.appended && self.copies == 0
    }
}

/// Everything in the queue.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) entries: PageMap<Entry>,
    pub(crate) hosts: Hosts,
    pub(crate) streaming: IdMap<MessageId, Streaming>,
    /// Durable messages, those settling included.
    pub(crate) messages: u64,
    /// Recipients of them that are not settled.
    pub(crate) recipients: u64,
}

impl Index {
    /// Takes an entry out, and its recipients off their hosts. Counts are the caller's.
    pub(crate) fn remove(&mut self, id: MessageId) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        for recipient in entry.recipients() {
            self.hosts.release(recipient.host);
        }
        Some(entry)
    }

    /// Where a durable record of a message is, be the message in the queue or still coming in.
    pub(crate) fn piece(&self, id: MessageId, piece: Piece) -> Option<Location> {
        match self.entries.get(id) {
            Some(entry) if entry.phase != Phase::Appended => entry.piece(piece),
            // Until its commit record is durable.
            _ => {
                let Piece::Chunk(index) = piece else { return None };
                self.streaming.get(&id)?.chunks.get(index as usize).copied()
            }
        }
    }

    /// The same, unless the record is about to be released anyway.
    pub(crate) fn movable_piece(&self, id: MessageId, piece: Piece) -> Option<Location> {
        let settling = self.entries.get(id).is_some_and(|entry| entry.phase == Phase::Settling);
        if settling { None } else { self.piece(id, piece) }
    }
}

/// A message in the queue, as others may see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// Its name.
    pub id: MessageId,
    /// When it was received, in milliseconds of Unix time.
    pub received_unix_ms: u64,
    /// When it is given up, in milliseconds of Unix time.
    pub expiry_unix_ms: u64,
    /// Octets of content.
    pub size: u64,
    /// How urgent it is.
    pub priority: Priority,
    /// Whether it goes on without TLS rather than not at all.
    pub tls_optional: bool,
    /// By when it is to be delivered, if its client has said that (RFC 2852).
    pub deliver_by: Option<DeliverBy>,
    /// Its recipients, in the order of the forward-paths.
    pub recipients: &'a [RecipientEntry],
}

impl<'a> MessageView<'a> {
    pub(crate) fn new(id: MessageId, entry: &'a Entry) -> Self {
        Self {
            id,
            received_unix_ms: entry.received_unix_ms,
            expiry_unix_ms: entry.expiry_unix_ms,
            size: entry.size,
            priority: entry.priority,
            tls_optional: entry.tls_optional,
            deliver_by: entry.deliver_by(),
            recipients: entry.recipients(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ringpost_protocol::deliver_by::ByMode;

    use super::*;

    fn head(chunks: u32) -> MessageHead {
        head_with(chunks, None)
    }

    fn head_with(chunks: u32, deliver_by: Option<DeliverBy>) -> MessageHead {
        let id = MessageId::from_u64(1);
        let priority = Priority::MIN;
        MessageHead {
            id,
            received_unix_ms: 1,
            expiry_unix_ms: 2,
            size: 3,
            chunks,
            priority,
            tls_optional: true,
            deliver_by,
        }
    }

    fn recipient(attempts: u16) -> RecipientEntry {
        let state = RecipientState { attempts, ..RecipientState::default() };
        RecipientEntry::new(HostId::NONE, state)
    }

    fn at(segment: u64) -> Location {
        Location { segment: SegmentSequence(segment), offset: 4096, len: 9 }
    }

    #[test]
    fn an_entry_is_small() {
        // With its part of the page, and of the list of its segment, a message of one recipient
        // takes less than 80 octets when its neighbours are in the queue as well.
        assert_eq!(size_of::<Entry>(), 64);
        assert_eq!(size_of::<RecipientEntry>(), 16);
        assert_eq!(size_of::<PackedLocation>(), 12);
    }

    #[test]
    fn one_recipient_and_many_look_alike() {
        let mode = ByMode::Return;
        let by = DeliverBy { by_unix_ms: 9, mode, trace: false, is_told: false };
        let shapes = [(1, 0), (2, 0), (50, 0), (1, 3), (50, 3)];
        let shapes = shapes.into_iter().flat_map(|one| [(one, None), (one, Some(by))]);
        for ((count, chunks), deliver_by) in shapes {
            let recipients: Vec<_> = (0..count).map(recipient).collect();
            let whole = head_with(chunks, deliver_by);
            let mut entry = Entry::new(&whole, recipients.clone(), at(7), Phase::Durable);
            assert_eq!(
                (entry.more.is_some(), entry.deliver_by()),
                (count > 1 || chunks > 0 || deliver_by.is_some(), deliver_by)
            );
            assert_eq!((entry.recipients(), entry.queued()), (&recipients[..], u64::from(count)));
            entry.recipients_mut()[usize::from(count) - 1].apply(Disposition::Bounced);
            assert_eq!(entry.queued(), u64::from(count) - 1);
            assert_eq!((entry.chunk_count(), entry.head(head(0).id)), (chunks as usize, whole));
            assert_eq!(entry.set_location(at(8)), at(7));
            assert_eq!(entry.set_chunk(chunks, at(9)), None);
            entry.set_chunks(&vec![at(9); chunks as usize]);
            let pieces: Vec<_> = entry.pieces().collect();
            assert_eq!(pieces.len(), chunks as usize + 1);
            assert!(pieces.iter().all(|(piece, at)| entry.piece(*piece) == Some(*at)));
            assert_eq!((pieces[0].1, entry.chunks().all(|chunk| chunk == at(9))), (at(8), true));
        }
    }

    proptest! {
        #[test]
        fn locations_round_trip(
            segment in 0u64..1 << 37, offset in 0u32..1 << 30, len in 0u32..1 << 29,
        ) {
            let location = Location { segment: SegmentSequence(segment), offset, len };
            prop_assert_eq!(Location::from(PackedLocation::from(location)), location);
        }
    }
}
