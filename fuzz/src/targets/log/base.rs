//! The logs that are damaged: what they are made of, and what they said at each moment.

use std::collections::BTreeMap;
use std::io;

use futures_lite::future::block_on;
use ringpost_protocol::address::Host;
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_queue::checkpoint::write_piece;
use ringpost_queue::offline::drain;
use ringpost_queue::storage::memory::MemoryStorage;
use ringpost_queue::{
    Disposition, EventRecords, LogIdentity, MessageId, NewMessage, Outcome, Purge, Queue,
    QueueConfig, RecipientEntry, RecipientIndex, RecipientState, ShardId,
};

pub(super) const IDENTITY: LogIdentity =
    LogIdentity { log_id: 0x5EED_0F17_0123_4567, shard: ShardId(3) };

/// How the recipients of each message stand.
pub(super) type State = BTreeMap<MessageId, Vec<RecipientState>>;

/// A whole log.
#[derive(Debug, Default)]
pub(super) struct Base {
    /// Its files, by name.
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// What it said after each frame, the last one last.
    pub(super) states: Vec<State>,
    /// Every message that it ever had.
    pub(super) messages: BTreeMap<MessageId, (Envelope, Vec<u8>)>,
}

/// Segments as small as they may be.
pub(super) fn config() -> QueueConfig {
    QueueConfig {
        segment_size: 64 << 10,
        disk_size_max: 64 * (64 << 10),
        batch_size_max: 8 << 10,
        chunk_size: 4 << 10,
        pending_size_max: 1 << 20,
        segments_ready: 1,
        segments_free_max: 1,
        checkpoint_interval: 40 << 10,
        checkpoint_block_size: 700,
        rewrite_segments_min: 2,
        event_segments_max: 2,
    }
}

pub(super) fn state(queue: &Queue) -> State {
    let all = queue.messages_from(MessageId::from_u64(0));
    all.map(|view| (view.id, view.recipients.iter().map(RecipientEntry::state).collect())).collect()
}

pub(super) fn envelope(recipients: usize) -> Option<Envelope> {
    let path = |n| ForwardPath::parse(&format!("<user{n}@host{}.test>", n % 3)).ok();
    let paths = (0..recipients).map(path).collect::<Option<Vec<_>>>()?;
    Some(Envelope::new(ReversePath::parse("<a@b.test>").ok()?, paths, BodyType::SevenBit))
}

pub(super) fn message<'a>(
    id: MessageId,
    envelope: &'a Envelope,
    content: &'a [u8],
) -> NewMessage<'a> {
    NewMessage {
        id,
        received_unix_ms: 1000,
        expiry_unix_ms: 9000,
        due_unix_ms: 1000,
        envelope,
        content,
        size: content.len() as u64,
    }
}

/// Makes a log: in one segment without a checkpoint, or in several with two.
///
/// `None`: the queue did not do what it always does, which the tests of the queue find out sooner.
pub(super) fn make(is_long: bool) -> Option<Base> {
    let storage = MemoryStorage::new();
    let interval = if is_long { 40 << 10 } else { u64::MAX };
    let config = QueueConfig { checkpoint_interval: interval, ..config() };
    let mut log = Log {
        queue: Queue::create(config, IDENTITY).ok()?,
        storage,
        base: Base { states: vec![State::new()], ..Base::default() },
    };
    log.receive(1, 100, false)?;
    let second = log.receive(3, 5000, true)?;
    log.settle(second, &[(0, Disposition::Delivered)])?;
    let late = Disposition::Deferred { attempts: 2, due_unix_ms: 5000, warned: true };
    log.settle(second, &[(1, late), (2, Disposition::Bounced)])?;
    log.receive(2, 700, false)?;
    let host = Host::parse("host1.test").ok()?;
    let _ = log
        .queue
        .append_purge(&Purge { host: Some(host), received_before_unix_ms: 2000 }, |_| Vec::new())
        .ok()?;
    log.step()?;
    let events = EventRecords { count: 2, octets: b"{}\n{}\n" };
    let id = log.append(1, 300, events)?;
    log.queue.mark_events(log.queue.durable_lsn());
    log.queue.request_event_mark();
    log.step()?;
    for round in 0..if is_long { 60 } else { 2 } {
        let next = log.receive(1 + round % 2, 2000 + 50 * round, round % 9 == 8)?;
        if round % 8 != 3 {
            log.settle(next, &[(0, Disposition::Delivered)])?;
        }
    }
    log.settle(id, &[(0, Disposition::Expired)])?;
    let names = log.storage.names();
    log.base.files =
        names.iter().filter_map(|name| Some((name.clone(), log.storage.contents(name)?))).collect();
    Some(log.base)
}

struct Log {
    queue: Queue,
    storage: MemoryStorage,
    base: Base,
}

impl Log {
    fn receive(&mut self, recipients: usize, len: usize, in_chunks: bool) -> Option<MessageId> {
        let id = self.queue.next_id();
        let (envelope, content) = (envelope(recipients)?, content(id, len));
        let mut rest = &content[..];
        while in_chunks && rest.len() > 1500 {
            let (chunk, behind) = rest.split_at(1500);
            self.queue.append_chunk(id, chunk).ok()?;
            self.step()?;
            rest = behind;
        }
        let mut new = message(id, &envelope, rest);
        new.size = content.len() as u64;
        let _ = self.queue.append_message(new, EventRecords::NONE).ok()?;
        self.base.messages.insert(id, (envelope, content));
        self.step()?;
        Some(id)
    }

    fn append(
        &mut self,
        recipients: usize,
        len: usize,
        events: EventRecords<'_>,
    ) -> Option<MessageId> {
        let id = self.queue.next_id();
        let (envelope, content) = (envelope(recipients)?, content(id, len));
        let _ = self.queue.append_message(message(id, &envelope, &content), events).ok()?;
        self.base.messages.insert(id, (envelope, content));
        self.step()?;
        Some(id)
    }

    fn settle(&mut self, id: MessageId, recipients: &[(u16, Disposition)]) -> Option<()> {
        let recipients = recipients.iter().map(|(n, what)| (RecipientIndex(*n), *what)).collect();
        let _ = self
            .queue
            .append_outcome(&Outcome { id, recipients }, None, EventRecords::NONE)
            .ok()?;
        self.step()
    }

    /// Makes durable what was appended, and does all else that the queue wants.
    fn step(&mut self) -> Option<()> {
        block_on(drain(&mut self.queue, &self.storage)).ok()?;
        self.base.states.push(state(&self.queue));
        while let Some(plan) = self.queue.poll_rewrite() {
            let read = block_on(self.read(&plan));
            self.queue.handle_rewrite(&plan, read).ok()?;
        }
        while self.queue.has_checkpoint_work() {
            if let Some(piece) = self.queue.poll_checkpoint() {
                let written = block_on(write_piece(&self.storage, &mut None, piece));
                self.queue.handle_checkpoint(written);
            }
            block_on(drain(&mut self.queue, &self.storage)).ok()?;
        }
        self.queue.remove_purged();
        block_on(drain(&mut self.queue, &self.storage)).ok()
    }

    async fn read(&self, plan: &ringpost_queue::ReadPlan) -> io::Result<Vec<u8>> {
        ringpost_queue::offline::Reader::new(&self.storage).read(plan).await
    }
}

/// Content that tells of which message it is.
fn content(id: MessageId, len: usize) -> Vec<u8> {
    format!("{id} ").bytes().cycle().take(len).collect()
}
