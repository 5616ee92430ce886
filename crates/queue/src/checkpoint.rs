//! Checkpoints: the index as it was, so that a restart need not read the whole log.
//!
//! ```text
//! offset  size  header of a checkpoint
//!      0     8  magic "RINGCKPT"
//!      8     2  format version
//!     10     2  shard
//!     12     4  zero
//!     16     8  log id
//!     24     8  number of the checkpoint, from 1
//!     32     8  begin: LSN of the first frame that has to be replayed
//!     40     8  segment in which it is
//!     48     8  offset at which it is there
//!     56     8  sequence of the segment that the frame before it is in, 0 for none
//!     64     4  checksum of the header of the frame before it, 0 for none
//!     68     4  zero
//!     72     8  end: LSN of a frame that was durable before this header was written
//!     80     8  octets of blocks
//!     88     8  messages in them
//!     96        zeros
//!   4092     4  checksum (CRC-32C) of bytes 0 to 4092
//!   4096        blocks, one after the other
//!
//! offset  size  block of a checkpoint
//!      0     4  length of the items
//!      4     4  checksum of the number of the checkpoint (8 octets) and of the items
//!      8        items, one after the other
//!               zeros up to the next multiple of 4096
//!
//! offset  size  item: a host, before the first recipient in the block that is there
//!      0     1  1
//!      1     4  number of the host within the block
//!      5     2  length of the text
//!      7        host as text
//!
//! offset  size  item: a message
//!      0     1  2
//!      1     8  message id
//!      9     8  received, in milliseconds of Unix time
//!     17     8  expiry, in milliseconds of Unix time
//!     25     8  octets of content
//!     33     4  number of chunks
//!     37     4  number of recipients
//!     41    16  place of the message record: 8 segment, 4 offset, 4 length;
//!               then for each recipient:
//!               8 due, in milliseconds of Unix time; 2 attempts; 1 status, as in a message record;
//!               4 number of the host, 2³²−1 for none;
//!               then the place of each chunk
//!
//! offset  size  item: options of the message behind it, if it has some that the index knows
//!      0     1  4
//!      1     1  length of the options
//!      2        options, as in a message record
//!
//! offset  size  item: a message that was coming in
//!      0     1  3
//!      1     8  message id
//!      9     4  number of chunks; then the place of each
//! ```
//!
//! The index changes while it is written down, a piece at a time. So a checkpoint is not what the index
//! was at any moment: it holds each message as it was at some time between begin and end. Replaying all
//! frames from begin on makes it whole, for applying a record twice gives what applying it once gives.
//! What it says may not have been durable when it was written down: so it counts only once the frames
//! up to end are, which is when its header is written.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;
use std::io;

use ringpost_protocol::address::Host;

use crate::codec::{Fields, checksum, checksum_of_both, put};
use crate::frame::{BLOCK_SIZE, Lsn};
use crate::hosts::{HostId, Hosts};
use crate::id::{IdHasher, IdMap, MessageId, ShardId};
use crate::index::{Entry, Location, Phase, RecipientEntry, Streaming};
use crate::message::RecipientState;
use crate::queue::CheckpointWrite;
use crate::record::{
    IndexOptions, MessageHead, RecordError, decode_index_options, decode_status, encode_status,
};
use crate::segment::{FORMAT_VERSION, LogIdentity, NUMBER_MAX, SegmentSequence};
use crate::storage::Storage;

/// The files that checkpoints are written to by turns.
pub const CHECKPOINT_FILES: [&str; 2] = ["checkpoint-0", "checkpoint-1"];

/// Octets in front of the items of a block.
pub(crate) const BLOCK_HEADER_SIZE: usize = 8;

const MAGIC: [u8; 8] = *b"RINGCKPT";
const CHECKSUM_AT: usize = 4092;

const ITEM_HOST: u8 = 1;
const ITEM_MESSAGE: u8 = 2;
const ITEM_STREAMING: u8 = 3;
const ITEM_OPTIONS: u8 = 4;

/// Where the replay begins: with the frame that was the last durable one when the checkpoint was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begin {
    pub(crate) lsn: Lsn,
    pub(crate) segment: SegmentSequence,
    pub(crate) offset: u64,
    /// About the frame before it.
    pub(crate) previous_segment: SegmentSequence,
    pub(crate) previous: u32,
}

/// What the header of a checkpoint says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointHeader {
    pub(crate) version: u16,
    pub(crate) identity: LogIdentity,
    pub(crate) number: u64,
    pub(crate) begin: Begin,
    pub(crate) end: Lsn,
    pub(crate) blocks_len: u64,
    pub(crate) messages: u64,
}

impl CheckpointHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_SIZE as usize];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, 8, FORMAT_VERSION.to_le_bytes());
        put(&mut bytes, 10, self.identity.shard.0.to_le_bytes());
        put(&mut bytes, 16, self.identity.log_id.to_le_bytes());
        put(&mut bytes, 24, self.number.to_le_bytes());
        put(&mut bytes, 32, self.begin.lsn.0.to_le_bytes());
        put(&mut bytes, 40, self.begin.segment.0.to_le_bytes());
        put(&mut bytes, 48, self.begin.offset.to_le_bytes());
        put(&mut bytes, 56, self.begin.previous_segment.0.to_le_bytes());
        put(&mut bytes, 64, self.begin.previous.to_le_bytes());
        put(&mut bytes, 72, self.end.0.to_le_bytes());
        put(&mut bytes, 80, self.blocks_len.to_le_bytes());
        put(&mut bytes, 88, self.messages.to_le_bytes());
        let sum = checksum(&bytes[..CHECKSUM_AT]);
        put(&mut bytes, CHECKSUM_AT, sum.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if it is none, or damaged.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let sum = u32::from_le_bytes(block.get(CHECKSUM_AT..)?.get(..4)?.try_into().ok()?);
        let block = block.get(..CHECKSUM_AT)?;
        let mut fields = Fields::new(block);
        if fields.bytes(8)? != MAGIC || checksum(block) != sum {
            return None;
        }
        let version = fields.u16()?;
        let shard = ShardId(fields.u16()?);
        fields.u32()?;
        let identity = LogIdentity { log_id: fields.u64()?, shard };
        let number = fields.u64()?;
        let lsn = Lsn(fields.u64()?);
        let segment = SegmentSequence(fields.u64()?);
        let offset = fields.u64()?;
        let previous_segment = SegmentSequence(fields.u64()?);
        let previous = fields.u32()?;
        fields.u32()?;
        let begin = Begin { lsn, segment, offset, previous_segment, previous };
        let (end, blocks_len, messages) = (Lsn(fields.u64()?), fields.u64()?, fields.u64()?);
        let numbers = [number, lsn.0, segment.0, offset, previous_segment.0, end.0, blocks_len];
        let is_possible = lsn.0 > 0 && numbers.into_iter().all(|number| number <= NUMBER_MAX);
        is_possible.then_some(Self { version, identity, number, begin, end, blocks_len, messages })
    }
}

/// Writes items into a block.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    bytes: Vec<u8>,
    /// The hosts that the block has said already.
    said: HashSet<u32, BuildHasherDefault<IdHasher>>,
}

impl BlockWriter {
    /// Begins a block in a buffer, the content of which is dropped.
    pub(crate) fn new(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.resize(BLOCK_HEADER_SIZE, 0);
        Self { bytes, said: HashSet::default() }
    }

    /// Octets of items so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - BLOCK_HEADER_SIZE
    }

    fn location(&mut self, location: Location) {
        self.bytes.extend_from_slice(&location.segment.0.to_le_bytes());
        self.bytes.extend_from_slice(&location.offset.to_le_bytes());
        self.bytes.extend_from_slice(&location.len.to_le_bytes());
    }

    fn host(&mut self, id: HostId, hosts: &Hosts) {
        let Some(host) = hosts.get(id) else { return };
        if self.said.insert(id.0) {
            let text = host.to_string();
            self.bytes.push(ITEM_HOST);
            self.bytes.extend_from_slice(&id.0.to_le_bytes());
            self.bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
            self.bytes.extend_from_slice(text.as_bytes());
        }
    }

    pub(crate) fn message(&mut self, id: MessageId, entry: &Entry, hosts: &Hosts) {
        for recipient in entry.recipients() {
            self.host(recipient.host, hosts);
        }
        self.options(entry);
        self.bytes.push(ITEM_MESSAGE);
        for field in [id.to_u64(), entry.received_unix_ms, entry.expiry_unix_ms, entry.size] {
            self.bytes.extend_from_slice(&field.to_le_bytes());
        }
        self.bytes.extend_from_slice(&(entry.chunk_count() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&(entry.recipients().len() as u32).to_le_bytes());
        self.location(entry.location());
        for recipient in entry.recipients() {
            self.bytes.extend_from_slice(&recipient.due_unix_ms.to_le_bytes());
            self.bytes.extend_from_slice(&recipient.attempts.to_le_bytes());
            self.bytes.push(encode_status(recipient.state()));
            self.bytes.extend_from_slice(&recipient.host.0.to_le_bytes());
        }
        for chunk in entry.chunks() {
            self.location(chunk);
        }
    }

    /// Most messages have none.
    fn options(&mut self, entry: &Entry) {
        if entry.options() != IndexOptions::default() {
            let mut options = Vec::new();
            entry.options().encode(&mut options);
            self.bytes.extend_from_slice(&[ITEM_OPTIONS, options.len() as u8]);
            self.bytes.extend_from_slice(&options);
        }
    }

    pub(crate) fn streaming(&mut self, id: MessageId, streaming: &Streaming) {
        self.bytes.push(ITEM_STREAMING);
        self.bytes.extend_from_slice(&id.to_u64().to_le_bytes());
        self.bytes.extend_from_slice(&(streaming.chunks.len() as u32).to_le_bytes());
        for chunk in &streaming.chunks {
            self.location(*chunk);
        }
    }

    /// Completes the block of the checkpoint of this number.
    pub(crate) fn seal(mut self, number: u64) -> Vec<u8> {
        let (header, items) = self.bytes.split_at(BLOCK_HEADER_SIZE);
        debug_assert!(header.iter().all(|octet| *octet == 0));
        let (len, sum) = (items.len() as u32, block_checksum(number, items));
        put(&mut self.bytes, 0, len.to_le_bytes());
        put(&mut self.bytes, 4, sum.to_le_bytes());
        let len = self.bytes.len().next_multiple_of(BLOCK_SIZE as usize);
        self.bytes.resize(len, 0);
        self.bytes
    }
}

fn block_checksum(number: u64, items: &[u8]) -> u32 {
    checksum_of_both(&number.to_le_bytes(), items)
}

/// The whole size of a block in octets, by its first eight; `None` if they cannot be those of one.
pub(crate) fn block_size(header: &[u8]) -> Option<u64> {
    let len = u64::from(Fields::new(header).u32()?);
    Some((len + BLOCK_HEADER_SIZE as u64).next_multiple_of(BLOCK_SIZE))
}

/// Something that a block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    Message { id: MessageId, entry: Entry },
    Streaming { id: MessageId, chunks: Vec<Location> },
}

/// Verifies a block and reads its items; recipients are counted in at `hosts`.
pub(crate) fn read_block(
    number: u64,
    block: &[u8],
    hosts: &mut Hosts,
    mut take: impl FnMut(Item),
) -> Result<(), RecordError> {
    let mut fields = Fields::new(block);
    let (Some(len), Some(sum)) = (fields.u32(), fields.u32()) else {
        return Err(RecordError::Short);
    };
    let items = fields.bytes(len as usize).ok_or(RecordError::Short)?;
    if block_checksum(number, items) != sum {
        return Err(RecordError::Checksum);
    }
    let mut fields = Fields::new(items);
    let mut known: IdMap<u32, HostId> = IdMap::default();
    let mut options = IndexOptions::default();
    while !fields.rest().is_empty() {
        match fields.u8() {
            Some(ITEM_OPTIONS) => {
                let len = fields.u8().map(usize::from).ok_or(RecordError::Field)?;
                let octets = fields.bytes(len).ok_or(RecordError::Field)?;
                options = decode_index_options(octets).ok_or(RecordError::Field)?;
            }
            Some(ITEM_HOST) => {
                let (host, id) = read_host(&mut fields).ok_or(RecordError::Field)?;
                known.insert(host, hosts.acquire(Some(&id)));
            }
            Some(ITEM_MESSAGE) => {
                let options = std::mem::take(&mut options);
                let message = read_message(&mut fields, &known, hosts, options);
                take(message.ok_or(RecordError::Field)?);
            }
            Some(ITEM_STREAMING) => {
                let id = fields.u64().ok_or(RecordError::Field)?;
                let count = fields.u32().ok_or(RecordError::Field)?;
                let chunks = read_locations(&mut fields, count).ok_or(RecordError::Field)?;
                take(Item::Streaming { id: MessageId::from_u64(id), chunks });
            }
            _ => return Err(RecordError::Kind),
        }
    }
    // Only recipients count.
    for host in known.into_values() {
        hosts.release(host);
    }
    Ok(())
}

fn read_host(fields: &mut Fields<'_>) -> Option<(u32, Host)> {
    let number = fields.u32()?;
    let len = fields.u16()?;
    Some((number, Host::parse(fields.text(usize::from(len))?).ok()?))
}

fn read_location(fields: &mut Fields<'_>) -> Option<Location> {
    let segment = SegmentSequence(fields.u64()?);
    Some(Location { segment, offset: fields.u32()?, len: fields.u32()? })
}

fn read_locations(fields: &mut Fields<'_>, count: u32) -> Option<Vec<Location>> {
    (0..count).map(|_| read_location(fields)).collect()
}

fn read_message(
    fields: &mut Fields<'_>,
    known: &IdMap<u32, HostId>,
    hosts: &mut Hosts,
    options: IndexOptions,
) -> Option<Item> {
    let id = MessageId::from_u64(fields.u64()?);
    let (received_unix_ms, expiry_unix_ms, size) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (chunks, count) = (fields.u32()?, fields.u32()?);
    let location = read_location(fields)?;
    let mut recipients = Vec::new();
    for _ in 0..count {
        let (due_unix_ms, attempts) = (fields.u64()?, fields.u16()?);
        let (status, warned) = decode_status(fields.u8()?)?;
        let host = match HostId(fields.u32()?) {
            HostId::NONE => HostId::NONE,
            HostId(number) => *known.get(&number)?,
        };
        hosts.add(host);
        let state = RecipientState { due_unix_ms, attempts, status, warned };
        recipients.push(RecipientEntry::new(host, state));
    }
    if recipients.is_empty() {
        return None;
    }
    // Read before room is made for them: so many octets are really there.
    let places = read_locations(fields, chunks)?;
    let IndexOptions { priority, tls_optional, deliver_by } = options;
    let head = MessageHead {
        id,
        received_unix_ms,
        expiry_unix_ms,
        size,
        chunks,
        priority,
        tls_optional,
        deliver_by,
    };
    let mut entry = Entry::new(&head, recipients, location, Phase::Durable);
    entry.set_chunks(&places);
    Some(Item::Message { id, entry })
}

/// Does a write that [`Queue::poll_checkpoint`](crate::Queue::poll_checkpoint) gave.
///
/// `open` keeps the file open from one piece to the next.
///
/// # Errors
///
/// That of the storage.
pub async fn write_piece<S: Storage>(
    storage: &S,
    open: &mut Option<(&'static str, S::File)>,
    piece: CheckpointWrite,
) -> io::Result<usize> {
    let CheckpointWrite { file: name, offset, bytes } = piece;
    let known = open.take().filter(|(open, _)| *open == name);
    let file = match known {
        Some((_, file)) => file,
        None => match storage.open(name).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                storage.create(name, BLOCK_SIZE).await?
            }
            opened => opened?,
        },
    };
    let written = storage.write(&file, offset, bytes).await.0;
    *open = Some((name, file));
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use ringpost_protocol::deliver_by::{ByMode, DeliverBy};
    use ringpost_protocol::priority::Priority;

    fn header() -> CheckpointHeader {
        CheckpointHeader {
            version: FORMAT_VERSION,
            identity: LogIdentity { log_id: 77, shard: ShardId(3) },
            number: 9,
            begin: Begin {
                lsn: Lsn(100),
                segment: SegmentSequence(4),
                offset: 8192,
                previous_segment: SegmentSequence(3),
                previous: 0xABCD,
            },
            end: Lsn(120),
            blocks_len: 4096,
            messages: 2,
        }
    }

    fn at(offset: u32) -> Location {
        Location { segment: SegmentSequence(5), offset, len: 40 }
    }

    fn items(hosts: &mut Hosts) -> Vec<Item> {
        let host = Host::parse("one.test").unwrap();
        let literal = Host::parse("[192.0.2.1]").unwrap();
        [vec![Some(&host)], vec![None, Some(&host), Some(&literal)]]
            .into_iter()
            .zip(0..)
            .map(|(hosts_of_one, number)| {
                let id = MessageId::from_u64(number);
                let head = MessageHead {
                    id,
                    received_unix_ms: 1,
                    expiry_unix_ms: 2,
                    size: 3,
                    chunks: number as u32 * 2,
                    priority: Priority::new(number as i8 * 9).unwrap(),
                    tls_optional: number > 0,
                    deliver_by: (number > 0).then_some(DeliverBy {
                        by_unix_ms: 77,
                        mode: ByMode::Notify,
                        trace: true,
                        is_told: true,
                    }),
                };
                let state = RecipientState { attempts: 3, warned: true, ..Default::default() };
                let recipients = hosts_of_one
                    .into_iter()
                    .map(|host| RecipientEntry::new(hosts.acquire(host), state))
                    .collect();
                let mut entry = Entry::new(&head, recipients, at(1), Phase::Durable);
                entry.set_chunks(&vec![at(7); number as usize * 2]);
                Item::Message { id, entry }
            })
            .chain([Item::Streaming { id: MessageId::from_u64(8), chunks: vec![at(2), at(3)] }])
            .collect()
    }

    fn block(items: &[Item], hosts: &Hosts) -> Vec<u8> {
        let mut writer = BlockWriter::new(vec![1, 2, 3]);
        for item in items {
            match item {
                Item::Message { id, entry } => writer.message(*id, entry, hosts),
                Item::Streaming { id, chunks } => {
                    let streaming = Streaming { chunks: chunks.clone(), ..Streaming::default() };
                    writer.streaming(*id, &streaming);
                }
            }
        }
        writer.seal(9)
    }

    #[test]
    fn blocks_round_trip_with_their_hosts() {
        let mut hosts = Hosts::default();
        let items = items(&mut hosts);
        let bytes = block(&items, &hosts);
        assert_eq!(block_size(&bytes), Some(bytes.len() as u64));
        let (mut read, mut found) = (Vec::new(), Hosts::default());
        read_block(9, &bytes, &mut found, |item| read.push(item)).unwrap();
        // The same hosts in the same order have the same numbers.
        assert_eq!(read, items);
        assert_eq!(found.len(), 2);
        for item in read {
            let Item::Message { entry, .. } = item else { continue };
            entry.recipients().iter().for_each(|recipient| found.release(recipient.host));
        }
        assert_eq!(found.len(), 0, "each recipient is counted once");
    }

    #[test]
    fn a_changed_bit_a_cut_or_another_number_is_noticed() {
        let mut hosts = Hosts::default();
        let items = items(&mut hosts);
        let good = block(&items, &hosts);
        let len = u32::from_le_bytes(good[..4].try_into().unwrap()) as usize + BLOCK_HEADER_SIZE;
        let is_refused = |number, bytes: &[u8]| {
            read_block(number, bytes, &mut Hosts::default(), |_| ()).is_err()
        };
        assert!(!is_refused(9, &good));
        assert!(is_refused(8, &good), "a block of an older checkpoint");
        for bit in 0..len * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(is_refused(9, &bad), "bit {bit}");
        }
        for len in 0..len {
            assert!(is_refused(9, &good[..len]), "cut at {len}");
        }
    }

    #[test]
    fn headers_round_trip_and_every_changed_bit_is_noticed() {
        let good = header().encode();
        assert_eq!(CheckpointHeader::decode(&good), Some(header()));
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(CheckpointHeader::decode(&bad), None, "bit {bit}");
        }
        assert_eq!(CheckpointHeader::decode(&[0; 4096]), None);
        assert_eq!(CheckpointHeader::decode(&good[..4095]), None);
    }

    proptest! {
        #[test]
        fn headers_of_any_numbers_round_trip(
            numbers in prop::array::uniform7(1..=NUMBER_MAX), messages in any::<u64>(), previous in any::<u32>(),
        ) {
            let given = CheckpointHeader {
                number: numbers[0],
                begin: Begin {
                    lsn: Lsn(numbers[1]),
                    segment: SegmentSequence(numbers[2]),
                    offset: numbers[3],
                    previous_segment: SegmentSequence(numbers[4]),
                    previous,
                },
                end: Lsn(numbers[5]),
                blocks_len: numbers[6],
                messages,
                ..header()
            };
            prop_assert_eq!(CheckpointHeader::decode(&given.encode()), Some(given));
        }

        /// Behind a right checksum items may be read or not, but must not harm.
        #[test]
        fn arbitrary_items_never_panic(
            mut items in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..300),
        ) {
            let sum = block_checksum(9, &items);
            let mut block = (items.len() as u32).to_le_bytes().to_vec();
            block.extend_from_slice(&sum.to_le_bytes());
            block.append(&mut items);
            let mut found = 0;
            let read = read_block(9, &block, &mut Hosts::default(), |_| found += 1);
            prop_assert!(read != Err(RecordError::Checksum) && found < 20);
        }
    }
}
