//! The format: what was written by each version can be read, and the drawing says how it looks.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may be blunt")]

mod support;

use std::path::PathBuf;

use ringpost_protocol::address::Host;
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::notify::{EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Return};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_queue::checkpoint::CHECKPOINT_FILES;
use ringpost_queue::segment::{FORMAT_VERSION, FORMAT_VERSION_MIN};
use ringpost_queue::storage::memory::MemoryStorage;
use ringpost_queue::{
    Disposition, EventRecords, Lsn, MessageId, NewMessage, Outcome, Purge, QueueConfig,
    RecipientIndex, SegmentSequence, ShardId,
};
use support::{Driver, IDENTITY, content, small_config};

const BLOCK: usize = 4096;
/// Blocks of each fixture; the rest of the segment is zeros.
const BLOCKS: [usize; 3] = [6, 7, 7];
/// Blocks of the log that a checkpoint belongs to.
const LOG_BLOCKS: usize = 9;
/// An event record as the server writes it, but shorter.
const EVENT: EventRecords<'_> = EventRecords { count: 1, octets: b"{\"type\":\"received\"}\n" };

fn envelope(recipients: usize) -> Envelope {
    let path = |index| ForwardPath::parse(&format!("<user{index}@example.test>")).unwrap();
    Envelope::new(
        ReversePath::parse("<sender@example.test>").unwrap(),
        (0..recipients).map(path).collect(),
        BodyType::SevenBit,
    )
}

/// The envelope of the first message as a format has it.
fn first_envelope(version: u16) -> Envelope {
    let mut envelope = envelope(2);
    if version > 2 {
        let dsn = &mut envelope.dsn;
        dsn.set_message(Some(Return::Full), EnvelopeId::parse("QQ+2B314159"));
        let original = OriginalRecipient::parse("rfc822;User1@origin.test");
        dsn.set_recipient(1, RecipientDsn::new(Notify::parse("SUCCESS,FAILURE"), original));
    }
    envelope
}

fn config() -> QueueConfig {
    QueueConfig { checkpoint_interval: 1, checkpoint_block_size: 64 << 10, ..small_config() }
}

fn path(below: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn first_segment() -> String {
    SegmentSequence(1).file_name()
}

/// A log with a record of each kind.
fn write_log(storage: &MemoryStorage) -> Driver {
    let mut driver = Driver::create(storage, config());
    driver.pump();
    let id = driver.queue.next_id();
    let whole = content(id, 5000);
    driver.queue.append_chunk(id, &whole[..3000]).unwrap();
    let message = NewMessage {
        id,
        received_unix_ms: 1_700_000_000_000,
        due_unix_ms: 1_700_000_000_000,
        expiry_unix_ms: 1_700_432_000_000,
        envelope: &first_envelope(FORMAT_VERSION),
        content: &whole[3000..],
        size: 5000,
    };
    driver.queue.append_message(message, EVENT).unwrap().batch();
    driver.pump();
    let recipients = vec![
        (RecipientIndex(0), Disposition::Delivered),
        (
            RecipientIndex(1),
            Disposition::Deferred { attempts: 2, due_unix_ms: 1_700_000_900_000, warned: true },
        ),
    ];
    driver
        .queue
        .append_outcome(&Outcome { id, recipients }, None, EventRecords::NONE)
        .unwrap()
        .batch();
    driver.pump();
    let second = driver.queue.next_id();
    let message = NewMessage {
        id: second,
        received_unix_ms: 1000,
        expiry_unix_ms: 2000,
        due_unix_ms: 1000,
        envelope: &envelope(1),
        content: &content(second, 700),
        size: 700,
    };
    driver.queue.append_message(message, EventRecords::NONE).unwrap().batch();
    driver.pump();
    let _ = driver.settle(second, Disposition::Expired);
    driver.pump();
    let host = Some(Host::parse("elsewhere.test").unwrap());
    let purge = Purge { host, received_before_unix_ms: 1_700_000_000_000 };
    driver.queue.mark_events(Lsn(1));
    driver.queue.append_purge(&purge, |_| Vec::new()).unwrap().0.batch();
    driver.pump();
    driver
}

/// The same, and a frame behind the purge, and a checkpoint.
fn write_checkpoint(storage: &MemoryStorage) {
    let mut driver = write_log(storage);
    let id = driver.inject(1, 10).unwrap().id();
    driver.pump();
    let _ = driver.settle(id, Disposition::Bounced);
    driver.pump();
    driver.checkpoints();
    assert_eq!(driver.queue.stats().checkpoints_total, 1);
}

fn fixture(version: u16) -> Vec<u8> {
    let name = format!("tests/fixtures/format-{version}.segment");
    let mut file = std::fs::read(path(&name)).unwrap();
    assert_eq!(file.len(), BLOCKS[usize::from(version) - 1] * BLOCK);
    file.resize(64 << 10, 0);
    file
}

#[test]
#[ignore = "writes the fixture of a new format version"]
fn write_fixture() {
    let storage = MemoryStorage::new();
    write_log(&storage);
    let mut file = storage.contents(&first_segment()).unwrap();
    let len = BLOCKS[usize::from(FORMAT_VERSION) - 1] * BLOCK;
    assert!(file[len..].iter().all(|byte| *byte == 0));
    file.truncate(len);
    let name = |kind| path(&format!("tests/fixtures/format-{FORMAT_VERSION}.{kind}"));
    std::fs::write(name("segment"), file).unwrap();
    let storage = MemoryStorage::new();
    write_checkpoint(&storage);
    let file = storage.contents(CHECKPOINT_FILES[0]).unwrap();
    std::fs::write(name("checkpoint"), file).unwrap();
    let mut file = storage.contents(&first_segment()).unwrap();
    assert!(file[LOG_BLOCKS * BLOCK..].iter().all(|byte| *byte == 0));
    file.truncate(LOG_BLOCKS * BLOCK);
    std::fs::write(name("log"), file).unwrap();
}

#[test]
fn what_is_written_today_is_what_the_fixture_has() {
    let storage = MemoryStorage::new();
    write_log(&storage);
    let file = storage.contents(&first_segment()).unwrap();
    assert!(file == fixture(FORMAT_VERSION), "the format has changed: it needs a new version");
    let storage = MemoryStorage::new();
    write_checkpoint(&storage);
    let file = storage.contents(CHECKPOINT_FILES[0]).unwrap();
    assert!(file == checkpoint(FORMAT_VERSION), "the format has changed: it needs a new version");
}

fn checkpoint(version: u16) -> Vec<u8> {
    std::fs::read(path(&format!("tests/fixtures/format-{version}.checkpoint"))).unwrap()
}

#[test]
fn the_checkpoint_of_each_format_is_read() {
    for version in 2..=FORMAT_VERSION {
        let storage = MemoryStorage::new();
        let mut log = std::fs::read(path(&format!("tests/fixtures/format-{version}.log"))).unwrap();
        assert_eq!(log.len(), LOG_BLOCKS * BLOCK);
        log.resize(64 << 10, 0);
        storage.replace(&first_segment(), log);
        storage.replace(CHECKPOINT_FILES[0], checkpoint(version));
        let (mut driver, recovered) = Driver::recover(&storage, config()).unwrap();
        assert_eq!(recovered.checkpoint_messages, Some(1));
        // The last frame is read in any case.
        assert_eq!((recovered.frames, recovered.messages), (1, 1));
        assert_eq!(driver.message_ids(), [MessageId::new(ShardId(3), 1)]);
        assert_eq!(driver.messages()[0].envelope, first_envelope(version));
    }
}

#[test]
fn each_format_is_read() {
    for version in FORMAT_VERSION_MIN..=FORMAT_VERSION {
        is_read(version);
    }
}

fn is_read(version: u16) {
    let storage = MemoryStorage::new();
    storage.replace(&first_segment(), fixture(version));
    let (mut driver, recovered) = Driver::recover(&storage, small_config()).unwrap();
    assert_eq!(
        (recovered.frames, recovered.records),
        [(4, 5), (5, 8), (5, 8)][usize::from(version) - 1]
    );
    assert_eq!(recovered.tail_truncated_bytes, 0);
    let id = MessageId::new(ShardId(3), 1);
    let messages = driver.messages();
    let [message] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((message.id, message.size, &message.envelope), (id, 5000, &first_envelope(version)));
    assert!(message.recipients[0].status.is_settled());
    assert_eq!(message.recipients[1].attempts, 2);
    // Format 1 could not say it.
    assert_eq!(message.recipients[1].warned, version > 1);
    assert_eq!(driver.read_message(id).unwrap().content.concat(), content(id, 5000));
}

/// The rows `offset size text` of the drawing in docs/QUEUE.md that has this headline.
fn drawing(headline: &str) -> Vec<(usize, Option<usize>, String)> {
    let docs = std::fs::read_to_string(path("../../docs/QUEUE.md")).unwrap();
    let start = docs.find(&format!("offset  size  {headline}\n")).unwrap();
    let rows = docs[start..].lines().skip(1).take_while(|line| !line.starts_with("```"));
    rows.filter_map(|line| {
        let offset = line.get(..6)?.trim().parse().ok()?;
        Some((offset, line.get(6..12)?.trim().parse().ok(), line.get(14..)?.to_owned()))
    })
    .collect()
}

fn field(file: &[u8], base: usize, headline: &str, starts_with: &str) -> u64 {
    let rows = drawing(headline);
    let row = rows.iter().find(|(_, _, text)| text.starts_with(starts_with));
    let (offset, size, _) = row.unwrap_or_else(|| panic!("{headline}: {starts_with}"));
    let mut number = [0; 8];
    let size = size.unwrap();
    number[..size].copy_from_slice(&file[base + offset..base + offset + size]);
    u64::from_le_bytes(number)
}

#[test]
fn the_drawings_are_true() {
    let file = fixture(FORMAT_VERSION);
    let segment = |name| field(&file, 0, "header of a segment", name);
    assert_eq!(segment("magic"), u64::from_le_bytes(*b"RINGPOST"));
    assert_eq!((segment("format version"), segment("shard"), segment("flags")), (3, 3, 0));
    assert_eq!((segment("log id"), segment("sequence")), (IDENTITY.log_id, 1));
    assert_eq!(segment("size of the segment"), 64 << 10);
    assert_eq!(segment("checksum"), u64::from(crc32c::crc32c(&file[..4092])));

    let file_of_checkpoint = checkpoint(FORMAT_VERSION);
    let header = |name| field(&file_of_checkpoint, 0, "header of a checkpoint", name);
    assert_eq!(header("magic"), u64::from_le_bytes(*b"RINGCKPT"));
    assert_eq!(
        (header("format version"), header("shard"), header("log id")),
        (3, 3, IDENTITY.log_id)
    );
    assert_eq!((header("number"), header("begin"), header("end")), (1, 7, 7));
    assert_eq!((header("segment in"), header("offset at")), (1, 8 * BLOCK as u64));
    assert_eq!((header("octets of blocks"), header("messages")), (BLOCK as u64, 1));
    let sum = crc32c::crc32c(&file_of_checkpoint[..4092]);
    assert_eq!(header("checksum of bytes"), u64::from(sum));

    // The first frame takes two blocks, the second is behind it.
    let second = 3 * BLOCK;
    let frame = |name| field(&file, second, "frame", name);
    assert_eq!(frame("magic"), u64::from(u32::from_le_bytes(*b"RPFR")));
    assert_eq!((frame("format version"), frame("shard"), frame("log id")), (3, 3, IDENTITY.log_id));
    assert_eq!((frame("sequence of the segment"), frame("LSN"), frame("head")), (1, 2, 1));
    assert_eq!((frame("message sequence"), frame("sequence of the segment that")), (2, 1));
    assert_eq!((frame("length of the payload"), frame("number of records")), (12 + 10 + 26, 1));
    let first_header = crc32c::crc32c(&file[BLOCK..BLOCK + 72]);
    assert_eq!(frame("checksum of the header of the previous"), u64::from(first_header));
    let rest = crc32c::crc32c(&file[second + 80..second + BLOCK]);
    assert_eq!(frame("checksum of all that follows"), u64::from(rest));
    let header = crc32c::crc32c(&file[second..second + 72]);
    assert_eq!(frame("checksum of bytes 0 to 72"), u64::from(header));
    let rows = drawing("frame");
    let payload = rows.iter().find(|(_, _, text)| text.starts_with("payload")).unwrap().0;
    assert_eq!(payload, ringpost_queue::frame::FRAME_HEADER_SIZE);

    let record = |name| field(&file, second + payload, "every record", name);
    assert_eq!((record("kind"), record("length of the body")), (3, 10 + 26));
    let rows = drawing("every record");
    let body = rows.iter().find(|(_, _, text)| text.starts_with("body")).unwrap().0;
    assert_eq!(body, ringpost_queue::record::RECORD_HEADER_SIZE);
}
