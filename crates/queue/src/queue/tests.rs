use std::io;

use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};

use super::*;
use crate::error::AppendError;
use crate::events::EventRecords;
use crate::frame::{BLOCK_SIZE, FrameHeader};
use crate::id::ShardId;
use crate::message::{Disposition, NewMessage, Outcome, RecipientIndex};

const IDENTITY: LogIdentity = LogIdentity { log_id: 42, shard: ShardId(7) };

fn envelope(recipients: usize) -> Envelope {
    let path = |index| ForwardPath::parse(&format!("<u{index}@example.test>")).unwrap();
    let forward_paths = (0..recipients).map(path).collect();
    Envelope::new(ReversePath::Null, forward_paths, BodyType::SevenBit)
}

fn queue(config: QueueConfig) -> Queue {
    let mut queue = Queue::create(config, IDENTITY).unwrap();
    prepare(&mut queue);
    queue
}

/// Does all segment tasks, as if they were quick.
fn prepare(queue: &mut Queue) {
    while let Some(task) = queue.poll_segment() {
        queue.handle_segment(task, Ok(()));
    }
}

fn append(queue: &mut Queue, content: &[u8]) -> Result<Ticket, AppendError> {
    let id = queue.next_id();
    append_as(queue, id, content, content.len() as u64)
}

fn append_as(
    queue: &mut Queue,
    id: MessageId,
    content: &[u8],
    size: u64,
) -> Result<Ticket, AppendError> {
    queue.append_message(
        NewMessage {
            id,
            received_unix_ms: 1,
            due_unix_ms: 1,
            expiry_unix_ms: 2,
            envelope: &envelope(1),
            content,
            size,
        },
        EventRecords::NONE,
    )
}

fn write(queue: &mut Queue) -> Option<Vec<u8>> {
    let write = queue.poll_write()?;
    let bytes = write.bytes.clone();
    queue.handle_write(Ok(write.bytes.len()), write.bytes);
    prepare(queue);
    Some(bytes)
}

fn delivered(id: MessageId) -> Outcome {
    Outcome { id, recipients: vec![(RecipientIndex(0), Disposition::Delivered)] }
}

#[test]
fn a_ticket_is_good_only_when_the_write_has_come_back() {
    let mut queue = queue(QueueConfig::default());
    let ticket = append(&mut queue, b"one").unwrap();
    assert_eq!(queue.redeem(ticket), Redeemed::Pending);
    assert!(queue.message(ticket.id()).is_none());
    let first = queue.poll_write().unwrap();
    assert_eq!((first.offset, first.bytes.len()), (4096, 4096));
    // The next batch gathers while this one is on its way, and has to wait for it.
    let next = append(&mut queue, b"two").unwrap();
    assert!(next.batch() > ticket.batch());
    assert!(queue.poll_write().is_none());
    assert_eq!(queue.redeem(ticket), Redeemed::Pending);
    queue.handle_write(Ok(4096), first.bytes);
    assert!(matches!(queue.redeem(ticket), Redeemed::Durable(proof) if proof.id() == ticket.id()));
    assert_eq!(queue.redeem(next), Redeemed::Pending);
    assert_eq!(queue.message(ticket.id()).unwrap().size, 3);
    assert_eq!(queue.durable_through(), ticket.batch());
    let second = queue.poll_write().unwrap();
    assert_eq!(second.offset, 8192);
}

#[test]
fn nothing_is_written_before_a_segment_is_ready() {
    let mut queue = Queue::create(QueueConfig::default(), IDENTITY).unwrap();
    append(&mut queue, b"one").unwrap().batch();
    assert!(queue.poll_write().is_none());
    let task = queue.poll_segment().unwrap();
    assert!(matches!(task, SegmentTask::Create { .. }));
    // One at a time.
    assert!(queue.poll_segment().is_none());
    queue.handle_segment(task, Ok(()));
    assert!(queue.poll_write().is_some());
}

#[test]
fn many_share_a_frame_and_each_frame_quotes_the_one_before() {
    let mut queue = queue(QueueConfig::default());
    let tickets: Vec<_> = (0..100).map(|_| append(&mut queue, &[b'x'; 500]).unwrap()).collect();
    let first = FrameHeader::decode(&write(&mut queue).unwrap()).unwrap();
    assert_eq!((first.records, first.lsn, first.previous), (100, Lsn(1), 0));
    assert!(tickets.iter().all(|ticket| matches!(queue.redeem(*ticket), Redeemed::Durable(_))));
    assert!(write(&mut queue).is_none());
    append(&mut queue, b"").unwrap().batch();
    let second = FrameHeader::decode(&write(&mut queue).unwrap()).unwrap();
    assert_eq!((second.lsn, second.previous), (Lsn(2), first.checksum()));
    assert_eq!(queue.stats().batches_total, 2);
    assert_eq!((queue.stats().messages, queue.stats().pending_bytes), (101, 0));
}

#[test]
fn a_batch_that_is_full_is_closed_and_groups_stay_whole() {
    let config = QueueConfig { batch_size_max: 10_000, ..QueueConfig::default() };
    let mut queue = queue(config);
    let live = append(&mut queue, b"live").unwrap().id();
    write(&mut queue).unwrap();
    let front = append(&mut queue, &[b'a'; 6000]).unwrap();
    let dsn_id = queue.next_id();
    let dsn = NewMessage {
        id: dsn_id,
        received_unix_ms: 1,
        due_unix_ms: 1,
        expiry_unix_ms: 2,
        envelope: &envelope(1),
        content: &[b'd'; 6000],
        size: 6000,
    };
    let both = queue.append_outcome(&delivered(live), Some(dsn), EventRecords::NONE).unwrap();
    assert_eq!(both.batch().0, front.batch().0 + 1);
    let first = FrameHeader::decode(&write(&mut queue).unwrap()).unwrap();
    assert_eq!(first.records, 1);
    // Neither half is there before the other.
    assert!(queue.message(dsn_id).is_none());
    let second = FrameHeader::decode(&write(&mut queue).unwrap()).unwrap();
    assert_eq!(second.records, 2);
    assert!(queue.message(dsn_id).is_some());
    // What was moved to the next batch is where the index says.
    let frame_start = 2 * BLOCK_SIZE + BLOCK_SIZE * 2;
    let plan = queue.plan_read(dsn_id).unwrap()[0];
    assert_eq!(plan.offset, frame_start + crate::frame::FRAME_HEADER_SIZE as u64);
}

#[test]
fn chunks_count_only_with_their_commit_record() {
    let mut queue = queue(QueueConfig::default());
    let id = queue.next_id();
    let batch = queue.append_chunk(id, b"front ").unwrap();
    write(&mut queue).unwrap();
    assert_eq!(queue.durable_through(), batch);
    assert!(queue.message(id).is_none() && queue.plan_read(id).is_none());
    queue.append_chunk(id, b"middle ").unwrap();
    let wrong = append_as(&mut queue, id, b"end", 3);
    assert_eq!(wrong, Err(AppendError::SizeMismatch { id, appended: 16, size: 3 }));
    append_as(&mut queue, id, b"end", 16).unwrap().batch();
    // Too late for more, or for another one.
    assert_eq!(queue.append_chunk(id, b"x"), Err(AppendError::UnknownMessage(id)));
    assert_eq!(append_as(&mut queue, id, b"", 0), Err(AppendError::UnknownMessage(id)));
    queue.abandon(id);
    write(&mut queue).unwrap();
    assert_eq!(queue.message(id).unwrap().size, 16);
    assert_eq!((queue.plan_read(id).unwrap().len(), queue.stats().streaming), (3, 0));
}

#[test]
fn abandoned_chunks_hold_nothing_back() {
    let mut queue = queue(QueueConfig::default());
    let (early, late) = (queue.next_id(), queue.next_id());
    queue.append_chunk(early, b"durable before").unwrap();
    write(&mut queue).unwrap();
    assert!(queue.stats().live_bytes > 0);
    queue.append_chunk(late, b"durable after").unwrap();
    queue.abandon(early);
    queue.abandon(late);
    // One chunk is still to be written: it must not become part of something else.
    assert_eq!(queue.append_chunk(late, b"again"), Err(AppendError::UnknownMessage(late)));
    assert_eq!(append_as(&mut queue, late, b"", 0), Err(AppendError::UnknownMessage(late)));
    write(&mut queue).unwrap();
    assert_eq!((queue.stats().live_bytes, queue.stats().streaming), (0, 0));
}

#[test]
fn only_what_is_in_the_queue_can_be_settled_and_only_once() {
    let mut queue = queue(QueueConfig::default());
    let id = append(&mut queue, b"x").unwrap().id();
    let unknown = Err(AppendError::UnknownMessage(id));
    assert_eq!(queue.append_outcome(&delivered(id), None, EventRecords::NONE), unknown);
    write(&mut queue).unwrap();
    let other = Outcome { id, recipients: vec![(RecipientIndex(1), Disposition::Delivered)] };
    let error = AppendError::UnknownRecipient { id, index: RecipientIndex(1) };
    assert_eq!(queue.append_outcome(&other, None, EventRecords::NONE), Err(error));
    queue.append_outcome(&delivered(id), None, EventRecords::NONE).unwrap().batch();
    assert_eq!(queue.append_outcome(&delivered(id), None, EventRecords::NONE), unknown);
    // It is not offered any more, but what it holds is released only when that is durable.
    assert!(
        queue.message(id).is_none() && queue.messages_from(MessageId::from_u64(0)).next().is_none()
    );
    assert!(queue.stats().live_bytes > 0);
    write(&mut queue).unwrap();
    let stats = queue.stats();
    assert_eq!((stats.live_bytes, stats.messages, stats.recipients), (0, 0, 0));
    assert_eq!(queue.append_outcome(&delivered(id), None, EventRecords::NONE), unknown);
}

#[test]
fn a_refused_append_leaves_nothing_behind() {
    let config = QueueConfig {
        segment_size: 64 << 10,
        batch_size_max: 8192,
        chunk_size: 4096,
        ..QueueConfig::default()
    };
    let mut queue = queue(config);
    let live = append(&mut queue, b"live").unwrap().id();
    write(&mut queue).unwrap();
    let id = queue.next_id();
    let too_large = vec![b'x'; 20_000];
    assert!(matches!(
        append_as(&mut queue, id, &too_large, 20_000),
        Err(AppendError::TooLarge { .. })
    ));
    assert!(matches!(queue.append_chunk(id, &too_large), Err(AppendError::TooLarge { .. })));
    let dsn = NewMessage {
        id,
        received_unix_ms: 1,
        due_unix_ms: 1,
        expiry_unix_ms: 2,
        envelope: &envelope(1),
        content: &too_large,
        size: 20_000,
    };
    assert!(queue.append_outcome(&delivered(live), Some(dsn), EventRecords::NONE).is_err());
    let nobody = NewMessage { envelope: &envelope(0), content: b"", size: 0, ..dsn };
    assert_eq!(queue.append_message(nobody, EventRecords::NONE), Err(AppendError::Envelope(id)));
    assert!(write(&mut queue).is_none());
    assert_eq!((queue.stats().pending_bytes, queue.stats().records_total), (0, 1));
    assert!(queue.message(live).is_some());
}

#[test]
fn ids_that_were_not_given_out_are_refused() {
    let mut queue = queue(QueueConfig::default());
    let ours = queue.next_id();
    let foreign = MessageId::new(ShardId(8), ours.sequence());
    let future = MessageId::new(IDENTITY.shard, ours.sequence() + 1);
    for id in [foreign, future] {
        assert_eq!(append_as(&mut queue, id, b"", 0), Err(AppendError::UnknownMessage(id)));
    }
}

#[test]
fn too_much_at_once_is_put_off_but_outcomes_are_not() {
    let config = QueueConfig { pending_size_max: 10_000, ..QueueConfig::default() };
    let mut queue = queue(config);
    let live = append(&mut queue, b"live").unwrap().id();
    write(&mut queue).unwrap();
    append(&mut queue, &[b'x'; 10_000]).unwrap().batch();
    assert_eq!(append(&mut queue, b"one more"), Err(AppendError::Busy));
    assert!(AppendError::Busy.is_transient());
    assert!(queue.append_outcome(&delivered(live), None, EventRecords::NONE).is_ok());
    write(&mut queue).unwrap();
    assert!(append(&mut queue, b"one more").is_ok());
}

#[test]
fn many_ids_without_a_commit_cause_a_frame() {
    let mut queue = queue(QueueConfig::default());
    for _ in 0..SEQUENCE_GAP / 2 {
        queue.next_id();
    }
    assert!(queue.poll_write().is_none());
    let id = queue.next_id();
    let header = FrameHeader::decode(&write(&mut queue).unwrap()).unwrap();
    assert_eq!((header.records, header.message_sequence), (0, id.sequence() + 1));
    assert!(write(&mut queue).is_none());
}

#[test]
fn a_segment_is_reused_only_when_a_durable_frame_has_given_it_up() {
    let config = QueueConfig {
        segment_size: 64 << 10,
        batch_size_max: 8192,
        chunk_size: 4096,
        segments_ready: 1,
        ..QueueConfig::default()
    };
    let mut queue = Queue::create(config, IDENTITY).unwrap();
    let first = queue.poll_segment().unwrap();
    queue.handle_segment(first, Ok(()));
    let second = queue.poll_segment();
    assert!(second.is_none(), "one is enough");
    let mut ids = Vec::new();
    for _ in 0..16 {
        ids.push(append(&mut queue, b"x").unwrap().id());
        let Some(write) = queue.poll_write() else { break };
        queue.handle_write(Ok(write.bytes.len()), write.bytes);
    }
    // The first segment is full: a second one is wanted, and nothing is free yet.
    let task = queue.poll_segment().unwrap();
    assert!(matches!(task, SegmentTask::Create { .. }));
    queue.handle_segment(task, Ok(()));
    let write = queue.poll_write().unwrap();
    queue.handle_write(Ok(write.bytes.len()), write.bytes);
    for id in ids {
        queue.append_outcome(&delivered(id), None, EventRecords::NONE).unwrap().batch();
    }
    let write = queue.poll_write().unwrap();
    let header = FrameHeader::decode(&write.bytes).unwrap();
    assert_eq!(header.head, SegmentSequence(1));
    queue.handle_write(Ok(write.bytes.len()), write.bytes);
    // All is settled and the first segment is free, but the log still says that it begins there.
    let stats = queue.stats();
    assert_eq!((stats.segments_free, stats.live_bytes), (1, 0));
    let task = queue.poll_segment().unwrap();
    assert!(matches!(task, SegmentTask::Create { .. }), "{task:?}");
    queue.handle_segment(task, Err(io::ErrorKind::StorageFull.into()));
    // A frame comes by itself to say otherwise.
    let write = queue.poll_write().unwrap();
    let header = FrameHeader::decode(&write.bytes).unwrap();
    assert_eq!((header.head, header.records), (SegmentSequence(2), 0));
    queue.retry_segments();
    assert!(matches!(queue.poll_segment(), Some(SegmentTask::Create { .. })));
    queue.handle_write(Ok(write.bytes.len()), write.bytes);
    assert!(queue.poll_write().is_none());
}

#[test]
fn a_plan_of_something_that_has_moved_is_not_believed() {
    let mut queue = queue(QueueConfig::default());
    let ticket = append(&mut queue, b"content").unwrap();
    let bytes = write(&mut queue).unwrap();
    let id = ticket.id();
    let plans = queue.plan_read(id).unwrap();
    let start = (plans[0].offset - BLOCK_SIZE) as usize;
    let part = bytes[start..start + plans[0].len].to_vec();
    let stored = queue.decode_message(id, &plans, vec![part.clone()]).unwrap();
    assert_eq!((stored.content, stored.envelope), (vec![b"content".to_vec()], envelope(1)));
    let mut damaged = part.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(
        queue.decode_message(id, &plans, vec![damaged]),
        Err(ReadError::Corrupt(corruption)) if corruption.id == id
    ));
    let mut old = plans.clone();
    old[0].offset += 1;
    assert_eq!(queue.decode_message(id, &old, vec![part.clone()]), Err(ReadError::Moved(id)));
    queue.append_outcome(&delivered(id), None, EventRecords::NONE).unwrap().batch();
    write(&mut queue).unwrap();
    assert_eq!(queue.decode_message(id, &plans, vec![part]), Err(ReadError::Moved(id)));
}
