//! Records: the entries of the log, each with a checksum of its own.
//!
//! ```text
//! offset  size  every record
//!      0     1  kind: 1 chunk, 2 message, 3 outcome, 4 purge, 5 events, 6 event mark
//!      1     3  zero
//!      4     4  length of the body
//!      8     4  checksum (CRC-32C) of bytes 0 to 8 and of the body
//!     12        body
//!
//! offset  size  body of a chunk: a piece of the content of a message that is not committed yet
//!      0     8  message id
//!      8     4  index of the chunk within the message, from 0
//!     12        content, to the end of the body
//!
//! offset  size  body of a message: its commit record, or a copy of it with newer states
//!      0     8  message id
//!      8     8  received, in milliseconds of Unix time
//!     16     8  expiry, in milliseconds of Unix time
//!     24     8  octets of content, chunks included
//!     32     4  number of chunks
//!     36     2  number of recipients
//!     38     2  length of the reverse-path
//!     40     1  length of the body type; 128 more if the message has DSN parameters, 64 more if it
//!               has options
//!     41        body type as its keyword, reverse-path in wire form;
//!               then for each recipient:
//!               8 due, in milliseconds of Unix time; 2 attempts;
//!               1 status: 0 queued, 1 delivered, 2 bounced, 3 expired, 4 removed; 128 more if
//!               the originator has been told of the delay;
//!               2 length of the forward-path; forward-path in wire form;
//!               then, if the message has DSN parameters, 4 length of them; the parameters;
//!               then, if it has options, 1 length of them; the options;
//!               then the content that is in no chunk, to the end of the body
//!
//! offset  size  DSN parameters (RFC 3461)
//!      0     1  RET: 0 none, 1 FULL, 2 HDRS
//!      1     1  length of the ENVID, 0 if there is none
//!      2        ENVID in xtext;
//!               then for each recipient of whom anything was said:
//!               2 recipient index;
//!               1 NOTIFY: 0 none, otherwise 128 and of 1 SUCCESS, 2 FAILURE, 4 DELAY those it has;
//!               2 length of the ORCPT, 0 if there is none; ORCPT as it came
//!
//! offset  size  options, in the order of their numbers
//!      0     1  number
//!      1     1  length of the value
//!      2        value, by number:
//!               1 SMTPUTF8 (RFC 6531): 1 whether the header section has octets above 127, 0 or 1
//!               2 priority (RFC 6710): 1 signed, −9 to 9, not 0
//!               4 REQUIRETLS (RFC 8689): nothing
//!               8 tenant: its name
//!               9 campaign: its name
//!              10 TLS-Required: No (RFC 8689): nothing
//!              11 DELIVERBY (RFC 2852): 8 by when, in milliseconds of Unix time; 1 bits: 1 returned
//!                 then, 2 traced, 4 the originator was told before the message came
//!
//! offset  size  body of an outcome
//!      0     8  message id
//!      8     2  number of recipients; then for each:
//!               2 recipient index; 1 disposition: 1 delivered, 2 bounced, 3 expired, 4 deferred,
//!               5 deferred and reported to the originator; 2 attempts; 8 due (both zero unless
//!               deferred)
//!
//! offset  size  body of a purge: removes recipients of the messages before it in the log
//!      0     8  received before, in milliseconds of Unix time
//!      8        host as text, to the end of the body; empty for all
//!
//! offset  size  body of events: what is to be told of the message or the outcome beside them
//!      0     4  number of event records
//!      4        event records, to the end of the body
//!
//! offset  size  body of an event mark: all event records up to this frame have been told
//!      0     8  LSN of the frame
//! ```
//!
//! All numbers are little-endian. The checksum of a record makes a message verifiable on its own
//! when it is read back, without its frame.

use std::fmt::Display;
use std::io::Write as _;

use ringpost_protocol::address::Host;
use ringpost_protocol::deliver_by::DeliverBy;
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::priority::Priority;
use thiserror::Error;

use crate::codec::{Fields, checksum_of_both, put};
use crate::events::EventRecords;
use crate::frame::Lsn;
use crate::id::MessageId;
use crate::message::{
    Disposition, Outcome, Purge, RecipientIndex, RecipientState, RecipientStatus,
};

/// Octets in front of the body of each record.
pub const RECORD_HEADER_SIZE: usize = 12;
/// Octets in front of the content of a chunk, its record header included.
pub const CHUNK_OVERHEAD: usize = RECORD_HEADER_SIZE + 12;

mod dsn;
mod options;

pub(crate) use dsn::encode as encode_dsn;
pub(crate) use options::{
    IndexOptions, decode_index as decode_index_options, encode as encode_options,
};

pub(crate) const KIND_CHUNK: u8 = 1;
pub(crate) const KIND_MESSAGE: u8 = 2;
const KIND_OUTCOME: u8 = 3;
pub(crate) const KIND_PURGE: u8 = 4;
pub(crate) const KIND_EVENTS: u8 = 5;
pub(crate) const KIND_EVENT_MARK: u8 = 6;
/// The highest kind there is.
pub(crate) const KIND_MAX: u8 = KIND_EVENT_MARK;
/// Octets of an event mark.
pub(crate) const EVENT_MARK_SIZE: usize = RECORD_HEADER_SIZE + 8;
/// Set in the status of a recipient whose originator has been told of the delay.
const STATUS_WARNED: u8 = 0x80;
/// Set in the length of the body type of a message that has DSN parameters.
const BODY_HAS_DSN: u8 = 0x80;

/// Set in the length of the body type of a message that has options.
const BODY_HAS_OPTIONS: u8 = 0x40;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// It ends before its header says.
    #[error("the record is cut short")]
    Short,
    /// Its checksum does not match.
    #[error("the checksum of the record does not match")]
    Checksum,
    /// Its kind is none that this version knows.
    #[error("unknown kind of record")]
    Kind,
    /// A field has a value that it cannot have.
    #[error("a field of the record has an impossible value")]
    Field,
    /// A path, the body type, a DSN parameter or an option cannot be read.
    #[error("the envelope in the record cannot be read")]
    Envelope,
}

/// One entry of the log, borrowed from the bytes it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record<'a> {
    /// A piece of content.
    Chunk(ChunkRecord<'a>),
    /// A message.
    Message(MessageRecord<'a>),
    /// What became of recipients.
    Outcome(Outcome),
    /// Recipients are removed.
    Purge(Purge),
    /// Event records, which change nothing in the queue.
    Events(EventRecords<'a>),
    /// The event records of all frames up to this one have been told.
    EventMark(Lsn),
}

/// A piece of the content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRecord<'a> {
    /// The message it belongs to.
    pub id: MessageId,
    /// Its place among the chunks, from 0.
    pub index: u32,
    /// The piece.
    pub content: &'a [u8],
}

/// The numbers of a message record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHead {
    /// The message.
    pub id: MessageId,
    /// When it was received, in milliseconds of Unix time.
    pub received_unix_ms: u64,
    /// When it is given up, in milliseconds of Unix time.
    pub expiry_unix_ms: u64,
    /// Octets of content, chunks included.
    pub size: u64,
    /// How many chunk records hold the front of the content.
    pub chunks: u32,
    /// How urgent it is: what its options say.
    pub priority: Priority,
    /// Whether it goes on without TLS rather than not at all: what its options say.
    pub tls_optional: bool,
    /// By when it is to be delivered: what its options say.
    pub deliver_by: Option<DeliverBy>,
}

/// A message with the states its recipients had when the record was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRecord<'a> {
    /// The numbers.
    pub head: MessageHead,
    /// The keyword of the body type.
    pub body: &'a str,
    /// The reverse-path in wire form.
    pub reverse_path: &'a str,
    /// The forward-paths in wire form, each with its state.
    pub recipients: Vec<(&'a str, RecipientState)>,
    /// The DSN parameters as they are stored; empty for nearly all messages.
    pub dsn: &'a [u8],
    /// The options as they are stored; empty for most messages.
    pub options: &'a [u8],
    /// The content that is in no chunk.
    pub content: &'a [u8],
}

impl MessageRecord<'_> {
    /// Reads the envelope.
    ///
    /// # Errors
    ///
    /// [`RecordError::Envelope`] when a path, the body type, a DSN parameter or an option is none.
    pub fn envelope(&self) -> Result<Envelope, RecordError> {
        let forward_paths = self.recipients.iter().map(|(path, _)| ForwardPath::parse(path));
        let mut envelope = Envelope::new(
            ReversePath::parse(self.reverse_path).map_err(|_| RecordError::Envelope)?,
            forward_paths.collect::<Result<_, _>>().map_err(|_| RecordError::Envelope)?,
            BodyType::from_keyword(self.body).ok_or(RecordError::Envelope)?,
        );
        envelope.dsn = dsn::decode(self.dsn, self.recipients.len()).ok_or(RecordError::Envelope)?;
        options::decode(self.options, &mut envelope).ok_or(RecordError::Envelope)?;
        Ok(envelope)
    }
}

/// The parts of a message record that most messages do not have, each empty then.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extras<'a> {
    /// What [`encode_dsn`] gave.
    pub(crate) dsn: &'a [u8],
    /// What [`encode_options`] gave.
    pub(crate) options: &'a [u8],
}

/// Appends a chunk record to `out`.
pub(crate) fn encode_chunk(out: &mut Vec<u8>, chunk: &ChunkRecord<'_>) {
    let start = begin(out, KIND_CHUNK);
    out.extend_from_slice(&chunk.id.to_u64().to_le_bytes());
    out.extend_from_slice(&chunk.index.to_le_bytes());
    out.extend_from_slice(chunk.content);
    finish(out, start);
}

/// Appends a message record to `out`.
///
/// Lengths that do not fit their field come out wrong here, and are caught by the caller, which
/// reads back what it is about to commit.
pub(crate) fn encode_message<P: Display>(
    out: &mut Vec<u8>,
    head: &MessageHead,
    body: &str,
    reverse_path: &dyn Display,
    recipients: impl ExactSizeIterator<Item = (P, RecipientState)>,
    extras: Extras<'_>,
    content: &[u8],
) {
    let start = begin(out, KIND_MESSAGE);
    for field in [head.id.to_u64(), head.received_unix_ms, head.expiry_unix_ms, head.size] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&head.chunks.to_le_bytes());
    out.extend_from_slice(&(recipients.len() as u16).to_le_bytes());
    let length_at = out.len();
    let Extras { dsn, options } = extras;
    let has_dsn = if dsn.is_empty() { 0 } else { BODY_HAS_DSN };
    let has_options = if options.is_empty() { 0 } else { BODY_HAS_OPTIONS };
    out.extend_from_slice(&[0, 0, body.len() as u8 | has_dsn | has_options]);
    out.extend_from_slice(body.as_bytes());
    encode_text(out, length_at, reverse_path);
    for (path, state) in recipients {
        out.extend_from_slice(&state.due_unix_ms.to_le_bytes());
        out.extend_from_slice(&state.attempts.to_le_bytes());
        out.push(encode_status(state));
        let length_at = out.len();
        out.extend_from_slice(&[0, 0]);
        encode_text(out, length_at, &path);
    }
    if !dsn.is_empty() {
        out.extend_from_slice(&(dsn.len() as u32).to_le_bytes());
        out.extend_from_slice(dsn);
    }
    if !options.is_empty() {
        out.push(options.len() as u8);
        out.extend_from_slice(options);
    }
    out.extend_from_slice(content);
    finish(out, start);
}

/// The octet that stands for how a recipient stands.
pub(crate) fn encode_status(state: RecipientState) -> u8 {
    state.status as u8 | if state.warned { STATUS_WARNED } else { 0 }
}

/// The status that an octet stands for, and whether the originator has been told of the delay.
pub(crate) fn decode_status(octet: u8) -> Option<(RecipientStatus, bool)> {
    Some((RecipientStatus::from_u8(octet & !STATUS_WARNED)?, octet & STATUS_WARNED != 0))
}

/// Appends an outcome record to `out`.
pub(crate) fn encode_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    let start = begin(out, KIND_OUTCOME);
    out.extend_from_slice(&outcome.id.to_u64().to_le_bytes());
    out.extend_from_slice(&(outcome.recipients.len() as u16).to_le_bytes());
    for (index, disposition) in &outcome.recipients {
        let (number, attempts, due) = match *disposition {
            Disposition::Delivered => (1u8, 0u16, 0u64),
            Disposition::Bounced => (2, 0, 0),
            Disposition::Expired => (3, 0, 0),
            Disposition::Deferred { attempts, due_unix_ms, warned } => {
                (4 + u8::from(warned), attempts, due_unix_ms)
            }
        };
        out.extend_from_slice(&index.0.to_le_bytes());
        out.push(number);
        out.extend_from_slice(&attempts.to_le_bytes());
        out.extend_from_slice(&due.to_le_bytes());
    }
    finish(out, start);
}

/// Appends a purge record to `out`.
pub(crate) fn encode_purge(out: &mut Vec<u8>, purge: &Purge) {
    let start = begin(out, KIND_PURGE);
    out.extend_from_slice(&purge.received_before_unix_ms.to_le_bytes());
    if let Some(host) = &purge.host {
        out.extend_from_slice(host.to_string().as_bytes());
    }
    finish(out, start);
}

/// Appends event records to `out`.
pub(crate) fn encode_events(out: &mut Vec<u8>, events: EventRecords<'_>) {
    let start = begin(out, KIND_EVENTS);
    out.extend_from_slice(&events.count.to_le_bytes());
    out.extend_from_slice(events.octets);
    finish(out, start);
}

/// Appends an event mark to `out`.
pub(crate) fn encode_event_mark(out: &mut Vec<u8>, marked: Lsn) {
    let start = begin(out, KIND_EVENT_MARK);
    out.extend_from_slice(&marked.0.to_le_bytes());
    finish(out, start);
}

fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    start
}

fn finish(out: &mut [u8], start: usize) {
    let length = (out.len() - start - RECORD_HEADER_SIZE) as u32;
    put(out, start + 4, length.to_le_bytes());
    if let Some((header, body)) = out[start..].split_at_checked(RECORD_HEADER_SIZE) {
        let sum = record_checksum(header, body);
        put(out, start + 8, sum.to_le_bytes());
    }
}

fn record_checksum(header: &[u8], body: &[u8]) -> u32 {
    checksum_of_both(header.get(..8).unwrap_or_default(), body)
}

fn encode_text(out: &mut Vec<u8>, length_at: usize, text: &dyn Display) {
    let start = out.len();
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{text}");
    let length = (out.len() - start) as u16;
    put(out, length_at, length.to_le_bytes());
}

/// Reads the record at the front of `bytes`, and how many bytes it takes.
///
/// # Errors
///
/// [`RecordError`]: what was read is not what was written.
pub fn decode(bytes: &[u8]) -> Result<(Record<'_>, usize), RecordError> {
    let (header, rest) = bytes.split_at_checked(RECORD_HEADER_SIZE).ok_or(RecordError::Short)?;
    let mut fields = Fields::new(header);
    let (Some(kind), Some(zero), Some(length), Some(sum)) =
        (fields.u8(), fields.bytes(3), fields.u32(), fields.u32())
    else {
        return Err(RecordError::Short);
    };
    let body = rest.get(..length as usize).ok_or(RecordError::Short)?;
    if sum != record_checksum(header, body) {
        return Err(RecordError::Checksum);
    }
    if zero != [0; 3] {
        return Err(RecordError::Field);
    }
    let record = decode_body(kind, body)?;
    Ok((record, RECORD_HEADER_SIZE + body.len()))
}

/// Reads the body of a record whose checksum has been verified, or has only just been computed.
pub(crate) fn decode_body(kind: u8, body: &[u8]) -> Result<Record<'_>, RecordError> {
    match kind {
        KIND_CHUNK => decode_chunk(body).map(Record::Chunk),
        KIND_MESSAGE => decode_message(body).map(Record::Message),
        KIND_OUTCOME => decode_outcome(body).map(Record::Outcome),
        KIND_PURGE => decode_purge(body).map(Record::Purge),
        KIND_EVENTS => decode_events(body).map(Record::Events),
        KIND_EVENT_MARK => decode_event_mark(body).map(Record::EventMark),
        _ => return Err(RecordError::Kind),
    }
    .ok_or(RecordError::Field)
}

fn decode_chunk(body: &[u8]) -> Option<ChunkRecord<'_>> {
    let mut fields = Fields::new(body);
    let id = MessageId::from_u64(fields.u64()?);
    Some(ChunkRecord { id, index: fields.u32()?, content: fields.rest() })
}

fn decode_message(body: &[u8]) -> Option<MessageRecord<'_>> {
    let mut fields = Fields::new(body);
    let mut head = MessageHead {
        id: MessageId::from_u64(fields.u64()?),
        received_unix_ms: fields.u64()?,
        expiry_unix_ms: fields.u64()?,
        size: fields.u64()?,
        chunks: fields.u32()?,
        priority: Priority::NORMAL,
        tls_optional: false,
        deliver_by: None,
    };
    let count = usize::from(fields.u16()?);
    let reverse_path_len = usize::from(fields.u16()?);
    let body_len = fields.u8()?;
    let body = fields.text(usize::from(body_len & !(BODY_HAS_DSN | BODY_HAS_OPTIONS)))?;
    let reverse_path = fields.text(reverse_path_len)?;
    let mut recipients = Vec::with_capacity(count);
    for _ in 0..count {
        let (due_unix_ms, attempts) = (fields.u64()?, fields.u16()?);
        let (status, warned) = decode_status(fields.u8()?)?;
        let state = RecipientState { due_unix_ms, attempts, status, warned };
        let len = usize::from(fields.u16()?);
        recipients.push((fields.text(len)?, state));
    }
    let mut dsn: &[u8] = &[];
    if body_len & BODY_HAS_DSN != 0 {
        let len = fields.u32()?;
        dsn = fields.bytes(len as usize)?;
    }
    let mut options: &[u8] = &[];
    if body_len & BODY_HAS_OPTIONS != 0 {
        let len = fields.u8()?;
        options = fields.bytes(usize::from(len))?;
        let IndexOptions { priority, tls_optional, deliver_by } = options::decode_index(options)?;
        (head.priority, head.tls_optional) = (priority, tls_optional);
        head.deliver_by = deliver_by;
    }
    let content = fields.rest();
    Some(MessageRecord { head, body, reverse_path, recipients, dsn, options, content })
}

fn decode_outcome(body: &[u8]) -> Option<Outcome> {
    let mut fields = Fields::new(body);
    let id = MessageId::from_u64(fields.u64()?);
    let count = fields.u16()?;
    let mut recipients = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let index = RecipientIndex(fields.u16()?);
        let number = fields.u8()?;
        let (attempts, due_unix_ms) = (fields.u16()?, fields.u64()?);
        let disposition = match number {
            1 => Disposition::Delivered,
            2 => Disposition::Bounced,
            3 => Disposition::Expired,
            4 | 5 => Disposition::Deferred { attempts, due_unix_ms, warned: number == 5 },
            _ => return None,
        };
        recipients.push((index, disposition));
    }
    fields.rest().is_empty().then_some(Outcome { id, recipients })
}

fn decode_events(body: &[u8]) -> Option<EventRecords<'_>> {
    let mut fields = Fields::new(body);
    Some(EventRecords { count: fields.u32()?, octets: fields.rest() })
}

fn decode_event_mark(body: &[u8]) -> Option<Lsn> {
    let mut fields = Fields::new(body);
    let marked = Lsn(fields.u64()?);
    fields.rest().is_empty().then_some(marked)
}

fn decode_purge(body: &[u8]) -> Option<Purge> {
    let mut fields = Fields::new(body);
    let received_before_unix_ms = fields.u64()?;
    let host = match fields.text(fields.rest().len())? {
        "" => None,
        text => Some(Host::parse(text).ok()?),
    };
    Some(Purge { host, received_before_unix_ms })
}

#[cfg(test)]
mod tests;
