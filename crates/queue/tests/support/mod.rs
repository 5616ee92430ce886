//! A driver over memory, a random workload, and the model that its results are held against.

#![allow(dead_code, reason = "each test uses its part of it, so that no expectation holds for all")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may be blunt")]

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use futures_lite::future::{block_on, zip};
use ringpost_protocol::address::Host;
use ringpost_protocol::deliver_by::{ByMode, DeliverBy};
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::priority::Priority;
use ringpost_queue::checkpoint::{CHECKPOINT_FILES, write_piece};
use ringpost_queue::segment::run_task;
use ringpost_queue::storage::Storage;
use ringpost_queue::storage::memory::{MemoryFile, MemoryStorage, Survival};
use ringpost_queue::{
    AppendError, BatchNumber, Disposition, EventRecords, LogIdentity, MessageId, NewMessage,
    Outcome, Piece, Purge, Queue, QueueConfig, ReadPlan, RecipientEntry, RecipientIndex,
    RecipientState, RecipientStatus, Recovered, RecoveryError, Redeemed, SegmentSequence,
    SegmentTask, ShardId, StoredMessage, Ticket, Write, recover,
};

mod told;

use told::Told;

pub(crate) const IDENTITY: LogIdentity =
    LogIdentity { log_id: 0x5EED_0F17_0123_4567, shard: ShardId(3) };

/// Segments as small as they may be, so that a short run uses and reuses many.
pub(crate) fn small_config() -> QueueConfig {
    QueueConfig {
        segment_size: 64 << 10,
        disk_size_max: 64 * (64 << 10),
        batch_size_max: 8 << 10,
        chunk_size: 4 << 10,
        pending_size_max: 1 << 20,
        segments_ready: 1,
        segments_free_max: 2,
        checkpoint_interval: 100 << 10,
        // So that mail flows between the blocks of even a small checkpoint.
        checkpoint_block_size: 700,
        rewrite_segments_min: 2,
        event_segments_max: 12,
    }
}

/// A deterministic source of choices (`xorshift64*`).
#[derive(Debug, Clone)]
pub(crate) struct Choices(u64);

impl Choices {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }
}

pub(crate) fn envelope(recipients: usize) -> Envelope {
    let path =
        |index| ForwardPath::parse(&format!("<user{index}@host{}.test>", index % 3)).unwrap();
    let mut envelope = Envelope::new(
        ReversePath::parse("<sender@example.test>").unwrap(),
        (0..recipients).map(path).collect(),
        BodyType::SevenBit,
    );
    // 0 for one, and then this and that.
    let level = (recipients.saturating_sub(1) * 4 + 9) % 19;
    envelope.priority = Priority::new(level as i8 - 9).unwrap();
    envelope.tls_optional = recipients == 3;
    // Of one recipient and of several.
    envelope.deliver_by = recipients.is_multiple_of(4).then_some(DeliverBy {
        by_unix_ms: 1_700_000_000_123 + recipients as u64,
        mode: if recipients == 4 { ByMode::Return } else { ByMode::Notify },
        trace: recipients == 8,
        is_told: recipients > 8,
    });
    envelope
}

pub(crate) fn content(id: MessageId, len: usize) -> Vec<u8> {
    let mut choices = Choices::new(id.to_u64());
    (0..len).map(|_| choices.number() as u8).collect()
}

/// A message as the index and the log have it, together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) id: MessageId,
    pub(crate) received_unix_ms: u64,
    pub(crate) expiry_unix_ms: u64,
    pub(crate) size: u64,
    pub(crate) envelope: Envelope,
    pub(crate) recipients: Vec<RecipientState>,
}

/// A queue with its storage, and the loop that does what the queue asks for.
pub(crate) struct Driver {
    pub(crate) storage: MemoryStorage,
    pub(crate) queue: Queue,
    files: BTreeMap<SegmentSequence, MemoryFile>,
    /// Event records that recovery found to be told.
    pub(crate) readable: BTreeSet<u64>,
}

impl Driver {
    pub(crate) fn create(storage: &MemoryStorage, config: QueueConfig) -> Self {
        let queue = Queue::create(config, IDENTITY).unwrap();
        Self::over(storage, queue)
    }

    pub(crate) fn recover(
        storage: &MemoryStorage,
        config: QueueConfig,
    ) -> Result<(Self, Recovered), RecoveryError> {
        // A checkpoint spares reading, and changes nothing else.
        let whole = storage.restarted(Survival::ProcessOnly);
        for name in CHECKPOINT_FILES {
            whole.delete(name);
        }
        let again = storage.restarted(Survival::ProcessOnly);
        let (queue, recovered) = block_on(recover(storage, config.clone(), IDENTITY))?;
        let mut first = Self::over(storage, queue);
        let (queue, without) = block_on(recover(&whole, config.clone(), IDENTITY))?;
        let mut second = Self::over(&whole, queue);
        assert_eq!(without.checkpoint_messages, None);
        assert_eq!(first.messages(), second.messages(), "with a checkpoint, and without");
        let stats = |driver: &Self| {
            let stats = driver.queue.stats();
            (stats.messages, stats.recipients, stats.live_bytes, stats.hosts, stats.segments)
        };
        assert_eq!(stats(&first), stats(&second));
        assert_eq!((recovered.messages, recovered.next_id), (without.messages, without.next_id));
        first.readable = second.read_events();
        if recovered.checkpoint_messages.is_some() {
            let (queue, _) = block_on(recover(&again, config, IDENTITY))?;
            let readable = Self::over(&again, queue).read_events();
            // Without a checkpoint older ones may be found again.
            assert!(readable.is_subset(&first.readable), "event records");
            first.readable = readable;
        }
        Ok((first, recovered))
    }

    fn over(storage: &MemoryStorage, queue: Queue) -> Self {
        let (files, readable) = (BTreeMap::new(), BTreeSet::new());
        Self { storage: storage.clone(), queue, files, readable }
    }

    /// Reads back all event records that are to be told.
    pub(crate) fn read_events(&mut self) -> BTreeSet<u64> {
        self.pump();
        let mut found = BTreeSet::new();
        while let Some(read) = self.queue.poll_events() {
            let bytes = self.read_octets(read.segment, read.offset, read.len);
            let events = self.queue.handle_events(&read, bytes).unwrap();
            found.extend(told::numbers(&events.octets));
        }
        assert!(!self.queue.has_events_to_read());
        found
    }

    pub(crate) fn read_octets(
        &mut self,
        segment: SegmentSequence,
        offset: u64,
        len: usize,
    ) -> io::Result<Vec<u8>> {
        let file = self.file(segment)?;
        block_on(self.storage.read(&file, offset, len))
    }

    /// All messages, each read back from the log.
    pub(crate) fn messages(&mut self) -> Vec<Found> {
        let ids: Vec<_> = self.message_ids();
        ids.into_iter()
            .map(|id| {
                let stored = self.read_message(id).unwrap();
                let view = self.queue.message(id).unwrap();
                assert_eq!(view.priority, stored.envelope.priority, "{id}");
                assert_eq!(view.tls_optional, stored.envelope.tls_optional, "{id}");
                assert_eq!(view.deliver_by, stored.envelope.deliver_by, "{id}");
                for (path, recipient) in stored.envelope.forward_paths.iter().zip(view.recipients) {
                    assert_eq!(self.queue.host(recipient.host), path.host());
                }
                Found {
                    id,
                    received_unix_ms: view.received_unix_ms,
                    expiry_unix_ms: view.expiry_unix_ms,
                    size: view.size,
                    envelope: stored.envelope,
                    recipients: view.recipients.iter().map(RecipientEntry::state).collect(),
                }
            })
            .collect()
    }

    pub(crate) fn message_ids(&self) -> Vec<MessageId> {
        self.queue.messages_from(MessageId::from_u64(0)).map(|view| view.id).collect()
    }

    /// Writes one piece of a checkpoint, if the queue wants to.
    pub(crate) fn checkpoint(&mut self) -> bool {
        let Some(piece) = self.queue.poll_checkpoint() else { return false };
        let written = block_on(write_piece(&self.storage, &mut None, piece));
        self.queue.handle_checkpoint(written);
        true
    }

    /// Writes whole checkpoints, until none is due.
    pub(crate) fn checkpoints(&mut self) {
        while self.checkpoint() || (self.queue.has_checkpoint_work() && self.step()) {}
    }

    fn file(&mut self, segment: SegmentSequence) -> io::Result<MemoryFile> {
        if let Some(file) = self.files.get(&segment) {
            return Ok(*file);
        }
        let file = block_on(self.storage.open(&segment.file_name()))?;
        self.files.insert(segment, file);
        Ok(file)
    }

    /// Does one write and one segment task, side by side; says whether there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        let write = self.queue.poll_write();
        let task = self.queue.poll_segment();
        let has_more = self.queue.remove_purged();
        if write.is_none() && task.is_none() {
            return has_more;
        }
        if let Some(SegmentTask::Recycle { old, .. } | SegmentTask::Remove { sequence: old }) = task
        {
            self.files.remove(&old);
        }
        let file = write.as_ref().map(|write| self.file(write.segment));
        let storage = self.storage.clone();
        let write = async {
            let Write { offset, bytes, .. } = write?;
            Some(match file? {
                Ok(file) => storage.write(&file, offset, bytes).await,
                Err(error) => (Err(error), bytes),
            })
        };
        let run = async { Some(run_task(&storage, task.as_ref()?).await) };
        let (written, done) = block_on(zip(write, run));
        if let Some((written, bytes)) = written {
            self.queue.handle_write(written, bytes);
        }
        if let (Some(task), Some(done)) = (task, done) {
            if let (
                Ok(Some(file)),
                SegmentTask::Create { sequence, .. } | SegmentTask::Recycle { new: sequence, .. },
            ) = (&done, task)
            {
                self.files.insert(sequence, *file);
            }
            self.queue.handle_segment(task, done.map(|_| ()));
        }
        true
    }

    /// Does all that the queue asks for.
    pub(crate) fn pump(&mut self) {
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the queue never comes to rest");
    }

    /// Does all that the queue asks for, but lets the tasks fail that `fails` picks.
    pub(crate) fn pump_but(&mut self, mut fails: impl FnMut(&SegmentTask) -> bool) {
        loop {
            if let Some(task) = self.queue.poll_segment() {
                let done = if fails(&task) {
                    Err(io::Error::other("injected failure of a task"))
                } else {
                    block_on(run_task(&self.storage, &task)).map(|_| ())
                };
                self.queue.handle_segment(task, done);
                self.files.clear();
            } else if let Some(write) = self.queue.poll_write() {
                let (written, bytes) = match self.file(write.segment) {
                    Ok(file) => block_on(self.storage.write(&file, write.offset, write.bytes)),
                    Err(error) => (Err(error), write.bytes),
                };
                self.queue.handle_write(written, bytes);
            } else {
                return;
            }
        }
    }

    pub(crate) fn settle_oldest(&mut self, ids: &mut Vec<MessageId>) -> Option<Ticket> {
        let id = *ids.first()?;
        self.queue.message(id)?;
        ids.remove(0);
        Some(self.settle(id, Disposition::Delivered))
    }

    pub(crate) fn read(&mut self, plan: &ReadPlan) -> io::Result<Vec<u8>> {
        let file = self.file(plan.segment)?;
        block_on(self.storage.read(&file, plan.offset, plan.len))
    }

    pub(crate) fn read_message(&mut self, id: MessageId) -> Option<StoredMessage> {
        let plans = self.queue.plan_read(id)?;
        let parts = plans.iter().map(|plan| self.read(plan).unwrap()).collect();
        Some(self.queue.decode_message(id, &plans, parts).unwrap())
    }

    /// Moves one record, if the queue wants to.
    pub(crate) fn rewrite(&mut self) -> bool {
        let Some(plan) = self.queue.poll_rewrite() else { return false };
        let read = self.read(&plan);
        self.queue.handle_rewrite(&plan, read).unwrap();
        true
    }

    /// Appends a message in one piece.
    pub(crate) fn inject(&mut self, recipients: usize, len: usize) -> Result<Ticket, AppendError> {
        let id = self.queue.next_id();
        let content = content(id, len);
        self.queue.append_message(
            NewMessage {
                id,
                received_unix_ms: 1000,
                due_unix_ms: 1000,
                expiry_unix_ms: 2000,
                envelope: &envelope(recipients),
                content: &content,
                size: len as u64,
            },
            EventRecords::NONE,
        )
    }

    pub(crate) fn settle(&mut self, id: MessageId, disposition: Disposition) -> Ticket {
        let count = self.queue.message(id).unwrap().recipients.len() as u16;
        let recipients = (0..count).map(|index| (RecipientIndex(index), disposition)).collect();
        self.queue.append_outcome(&Outcome { id, recipients }, None, EventRecords::NONE).unwrap()
    }
}

/// What may be in the log about one message.
#[derive(Debug, Clone)]
struct ModelMessage {
    received_unix_ms: u64,
    envelope: Envelope,
    content: Vec<u8>,
    acknowledged: bool,
    /// For each recipient all states since the last durable one, that one first.
    states: Vec<Vec<RecipientState>>,
    /// The message and recipient that this reports on.
    report_on: Option<(MessageId, usize)>,
}

impl ModelMessage {
    fn may_be_gone(&self) -> bool {
        !self.acknowledged || self.states.iter().all(|states| is_settled(states.last()))
    }

    fn must_be_gone(&self) -> bool {
        self.states.iter().all(|states| is_settled(states.first()))
    }
}

fn is_settled(state: Option<&RecipientState>) -> bool {
    state.is_some_and(|state| state.status.is_settled())
}

/// What happens when a ticket is redeemed.
#[derive(Debug, Clone)]
enum Promise {
    Message,
    /// These recipients have at least the state of this number.
    Outcome(Vec<(usize, usize)>),
}

/// A random workload on a queue, and its model.
pub(crate) struct World {
    pub(crate) driver: Driver,
    pub(crate) choices: Choices,
    model: BTreeMap<MessageId, ModelMessage>,
    tickets: Vec<(Ticket, MessageId, Promise)>,
    /// Messages that are streaming in: id and content so far.
    streams: Vec<(MessageId, Vec<u8>)>,
    config: QueueConfig,
    /// What recovery found, until the first commit of this life proves that it stays: how many states
    /// of each recipient came before the one that was found.
    unconfirmed: Vec<(MessageId, Vec<usize>)>,
    pub(crate) told: Told,
}

impl World {
    pub(crate) fn create(storage: &MemoryStorage, config: QueueConfig, seed: u64) -> Self {
        Self {
            driver: Driver::create(storage, config.clone()),
            choices: Choices::new(seed),
            model: BTreeMap::new(),
            tickets: Vec::new(),
            streams: Vec::new(),
            config,
            unconfirmed: Vec::new(),
            told: Told::new(seed),
        }
    }

    /// The same model, to be restarted on another storage.
    pub(crate) fn twin(&self, storage: &MemoryStorage) -> Self {
        let mut told = self.told.clone();
        told.look_for_given_up(&self.driver);
        Self {
            driver: Driver::create(storage, self.config.clone()),
            choices: self.choices.clone(),
            model: self.model.clone(),
            tickets: Vec::new(),
            streams: Vec::new(),
            config: self.config.clone(),
            unconfirmed: self.unconfirmed.clone(),
            told,
        }
    }

    /// Holds what was saved from a damaged log against the model: nothing is made up, and nothing is in
    /// parts. What has become of recipients since may be forgotten.
    pub(crate) fn check_salvaged(&self, salvaged: &mut Driver) -> Result<usize, String> {
        let found = salvaged.messages();
        for message in &found {
            let id = message.id;
            let model = self.model.get(&id).ok_or(format!("{id} was invented"))?;
            let content = salvaged.read_message(id).ok_or("cannot be planned")?.content.concat();
            if message.envelope != model.envelope || content != model.content {
                return Err(format!("{id} is another message"));
            }
            if message.received_unix_ms != model.received_unix_ms {
                return Err(format!("{id} has other times"));
            }
            for (states, state) in model.states.iter().zip(&message.recipients) {
                // What is known now, or anything older; never anything newer.
                let last = states.last().unwrap();
                if state.attempts > last.attempts || (state.warned && !last.warned) {
                    return Err(format!("{id}: {state:?} is newer than {last:?}"));
                }
            }
        }
        Ok(found.len())
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.model.values().filter(|message| message.acknowledged).count()
    }

    /// Does so many random things, or fewer if the power goes.
    pub(crate) fn run(&mut self, operations: usize) {
        for _ in 0..operations {
            if self.driver.storage.is_crashed() {
                return;
            }
            self.operation();
        }
    }

    fn operation(&mut self) {
        let kind = self.choices.below(89);
        let crowded = self.driver.queue.stats().messages > 60;
        match kind / 4 {
            _ if kind == 88 => self.purge(),
            20..=21 => {
                self.driver.checkpoint();
            }
            0..=7 if crowded => self.outcome(),
            0..=3 => self.message(),
            4 => self.begin_stream(),
            5..=6 => self.go_on_with_stream(),
            7 => self.end_stream(),
            8 => self.abandon_stream(),
            9..=12 => self.outcome(),
            13 => {
                self.driver.rewrite();
            }
            14 => self.read_one(),
            15..=17 => {
                self.driver.step();
                self.redeem();
            }
            _ => {
                self.driver.pump();
                self.redeem();
            }
        }
    }

    /// Lets mail flow past a message that comes in slowly, and is committed at last, so that its
    /// chunks are moved; gives the number of chunks that were moved before that.
    pub(crate) fn slow_upload(&mut self, rounds: usize) -> u64 {
        self.begin_stream();
        let mut moved = 0;
        for round in 0..2 * rounds {
            if self.driver.storage.is_crashed() {
                break;
            }
            let id = self.driver.queue.next_id();
            self.append(id, content(id, 14_000), 0);
            self.driver.step();
            if self.driver.queue.message(id).is_some() {
                self.settle_all(id);
            }
            if round % 8 == 3 {
                self.go_on_with_stream();
            }
            if round == rounds {
                self.end_stream();
            }
            // Rewriting is under way while other things are written.
            if let Some(plan) = self.driver.queue.poll_rewrite() {
                moved += u64::from(plan.piece != Piece::Message && round <= rounds);
                let read = self.driver.read(&plan);
                self.driver.queue.handle_rewrite(&plan, read).unwrap();
            }
            self.driver.step();
            self.redeem();
            self.read_one();
        }
        moved
    }

    /// Lets mail flow through, while the tasks fail that `fails` picks, and are tried again.
    pub(crate) fn flow_but(&mut self, rounds: usize, mut fails: impl FnMut(&SegmentTask) -> bool) {
        for round in 0..rounds {
            if self.driver.storage.is_crashed() {
                return;
            }
            let id = self.driver.queue.next_id();
            self.append(id, content(id, 9000), 0);
            self.driver.pump_but(&mut fails);
            // A few stay, and are moved along.
            if round % 8 != 0 && self.driver.queue.message(id).is_some() {
                self.settle_all(id);
            }
            if round % 16 == 9
                && let Some(old) = self.driver.message_ids().first().copied()
            {
                self.settle_all(old);
            }
            self.driver.rewrite();
            self.driver.queue.retry_segments();
            self.driver.pump_but(&mut fails);
            self.redeem();
        }
    }

    fn settle_all(&mut self, id: MessageId) {
        let count = self.model[&id].states.len() as u16;
        let recipients =
            (0..count).map(|index| (RecipientIndex(index), Disposition::Delivered)).collect();
        self.append_outcome(&Outcome { id, recipients }, None);
    }

    fn append(&mut self, id: MessageId, content: Vec<u8>, streamed: usize) {
        let envelope = envelope(1 + self.choices.below(3));
        let received = self.choices.number() % 1000;
        let message = NewMessage {
            id,
            received_unix_ms: received,
            due_unix_ms: received,
            expiry_unix_ms: 5000,
            envelope: &envelope,
            content: &content[streamed..],
            size: content.len() as u64,
        };
        let (numbers, octets) = self.told.some(1);
        match self.driver.queue.append_message(message, told::records(&numbers, &octets)) {
            Ok(ticket) => {
                self.told.appended(ticket, numbers);
                self.tickets.push((ticket, id, Promise::Message));
                let added = model_message(envelope, content, received, None);
                self.model.insert(id, added);
            }
            Err(AppendError::Poisoned | AppendError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn message(&mut self) {
        let id = self.driver.queue.next_id();
        assert!(!self.model.contains_key(&id), "{id} was given out twice");
        let len = self.choices.below(2500);
        self.append(id, content(id, len), 0);
    }

    fn begin_stream(&mut self) {
        if self.streams.len() < 3 {
            self.streams.push((self.driver.queue.next_id(), Vec::new()));
            self.go_on_with_stream();
        }
    }

    fn go_on_with_stream(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let at = self.choices.below(self.streams.len());
        let len = 1 + self.choices.below(4000);
        let (id, sent) = &mut self.streams[at];
        let piece = content(*id, sent.len() + len).split_off(sent.len());
        match self.driver.queue.append_chunk(*id, &piece) {
            Ok(_) => sent.extend_from_slice(&piece),
            Err(AppendError::Poisoned | AppendError::Full) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn end_stream(&mut self) {
        if let Some((id, sent)) = self.streams.pop() {
            let streamed = sent.len();
            let len = streamed + self.choices.below(1000);
            self.append(id, content(id, len), streamed);
        }
    }

    fn abandon_stream(&mut self) {
        if !self.streams.is_empty() {
            let at = self.choices.below(self.streams.len());
            let (id, _) = self.streams.remove(at);
            self.driver.queue.abandon(id);
        }
    }

    fn some_message(&mut self) -> Option<MessageId> {
        let mut ids = self.driver.message_ids();
        ids.sort_unstable();
        // Mostly the newer ones, so that some old ones hold segments back.
        let newest = ids.len().min(6);
        let from = if self.choices.below(8) == 0 { 0 } else { ids.len() - newest };
        (!ids.is_empty()).then(|| ids[from + self.choices.below(ids.len() - from)])
    }

    fn outcome(&mut self) {
        let Some(id) = self.some_message() else { return };
        let states = self.driver.queue.message(id).unwrap().recipients.to_vec();
        let mut recipients = Vec::new();
        for (index, state) in states.iter().enumerate() {
            if state.status.is_settled() || self.choices.below(4) == 0 {
                continue;
            }
            let disposition = match self.choices.below(5) {
                0..=1 => Disposition::Delivered,
                2 => Disposition::Bounced,
                3 => Disposition::Expired,
                _ => Disposition::Deferred {
                    attempts: state.attempts + 1,
                    due_unix_ms: self.choices.number(),
                    warned: self.choices.below(4) == 0,
                },
            };
            recipients.push((RecipientIndex(index as u16), disposition));
        }
        if recipients.is_empty() {
            return;
        }
        let bounced = recipients
            .iter()
            .find(|(_, disposition)| *disposition == Disposition::Bounced)
            .map(|(index, _)| usize::from(index.0));
        self.append_outcome(&Outcome { id, recipients }, bounced);
    }

    fn append_outcome(&mut self, outcome: &Outcome, bounced: Option<usize>) {
        let report = bounced.map(|index| {
            let id = self.driver.queue.next_id();
            (id, index, envelope(1), content(id, 300))
        });
        let dsn = report.as_ref().map(|(id, _, envelope, content)| NewMessage {
            id: *id,
            received_unix_ms: 7,
            due_unix_ms: 7,
            expiry_unix_ms: 5000,
            envelope,
            content,
            size: content.len() as u64,
        });
        let (numbers, octets) = self.told.some(outcome.recipients.len());
        let events = told::records(&numbers, &octets);
        let ticket = match self.driver.queue.append_outcome(outcome, dsn, events) {
            Ok(ticket) => ticket,
            Err(AppendError::Poisoned) => return,
            Err(error) => panic!("{error}"),
        };
        self.told.appended(ticket, numbers);
        if let Some((id, index, envelope, content)) = report {
            self.tickets.push((ticket, id, Promise::Message));
            let added = model_message(envelope, content, 7, Some((outcome.id, index)));
            self.model.insert(id, added);
        }
        let message = self.model.get_mut(&outcome.id).unwrap();
        let mut reached = Vec::new();
        for (index, disposition) in &outcome.recipients {
            let states = &mut message.states[usize::from(index.0)];
            let mut state = *states.last().unwrap();
            match *disposition {
                Disposition::Delivered => state.status = RecipientStatus::Delivered,
                Disposition::Bounced => state.status = RecipientStatus::Bounced,
                Disposition::Expired => state.status = RecipientStatus::Expired,
                Disposition::Deferred { attempts, due_unix_ms, warned } => {
                    (state.attempts, state.due_unix_ms) = (attempts, due_unix_ms);
                    state.warned |= warned;
                }
            }
            states.push(state);
            // Counted from the end of the test, so that redeeming in order keeps them right.
            reached.push((usize::from(index.0), 1));
        }
        self.tickets.push((ticket, outcome.id, Promise::Outcome(reached)));
    }

    fn purge(&mut self) {
        let host = self.choices.below(4);
        let host = (host < 3).then(|| Host::parse(&format!("host{host}.test")).unwrap());
        let received_before_unix_ms = self.choices.number() % 1500;
        let purge = Purge { host, received_before_unix_ms };
        let (ticket, purged) = match self.driver.queue.append_purge(&purge, |_| Vec::new()) {
            Ok(appended) => appended,
            Err(AppendError::Poisoned) => return,
            Err(error) => panic!("{error}"),
        };
        let mut recipients = 0;
        for (id, message) in &mut self.model {
            let received = message.received_unix_ms;
            if received >= received_before_unix_ms {
                continue;
            }
            let mut reached = Vec::new();
            let paths = message.envelope.forward_paths.iter();
            for (index, (states, path)) in message.states.iter_mut().zip(paths).enumerate() {
                let state = *states.last().unwrap();
                let is_meant = purge.host.is_none() || path.host() == purge.host.as_ref();
                if is_meant && !state.status.is_settled() {
                    states.push(RecipientState { status: RecipientStatus::Removed, ..state });
                    reached.push((index, 1));
                }
            }
            if !reached.is_empty() {
                recipients += reached.len() as u64;
                self.tickets.push((ticket, *id, Promise::Outcome(reached)));
            }
        }
        assert_eq!(purged.recipients, recipients);
    }

    fn read_one(&mut self) {
        if let Some(id) = self.some_message()
            && !self.driver.storage.is_crashed()
        {
            let stored = self.driver.read_message(id).unwrap();
            let model = &self.model[&id];
            assert_eq!(stored.envelope, model.envelope);
            assert!(stored.content.concat() == model.content, "the content of {id}");
        }
    }

    /// Redeems what can be: from then on it may not be lost.
    pub(crate) fn redeem(&mut self) {
        self.told.work(&mut self.driver);
        if self.driver.queue.durable_through() > BatchNumber(0) {
            for (id, passed) in std::mem::take(&mut self.unconfirmed) {
                let message = self.model.get_mut(&id).unwrap();
                message.acknowledged = true;
                for (states, count) in message.states.iter_mut().zip(passed) {
                    states.drain(..count);
                }
            }
        }
        for (ticket, id, promise) in std::mem::take(&mut self.tickets) {
            match self.driver.queue.redeem(ticket) {
                Redeemed::Pending => self.tickets.push((ticket, id, promise)),
                Redeemed::Lost => {}
                Redeemed::Durable(committed) => {
                    assert_eq!(committed.id(), ticket.id());
                    let message = self.model.get_mut(&id).unwrap();
                    match promise {
                        Promise::Message => message.acknowledged = true,
                        Promise::Outcome(reached) => {
                            for (index, count) in reached {
                                message.states[index].drain(..count);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Starts again on what is left of the storage, and holds what recovery finds against the model.
    pub(crate) fn restart(mut self, storage: &MemoryStorage) -> Result<(Self, Recovered), String> {
        let (driver, recovered) = Driver::recover(storage, self.config.clone())
            .map_err(|error| format!("recovery failed: {error:?}"))?;
        self.told.look_for_given_up(&self.driver);
        self.driver = driver;
        self.told.restart(&self.driver.readable)?;
        self.tickets.clear();
        self.streams.clear();
        let found = self.driver.messages();
        self.check(&found)?;
        // What was not found will never come, what was found stays once it is written again.
        let found: BTreeMap<_, _> = found.iter().map(|message| (message.id, message)).collect();
        self.unconfirmed.clear();
        self.model.retain(|id, model| model.acknowledged || found.contains_key(id));
        for (id, model) in &mut self.model {
            let mut passed = Vec::new();
            for (index, states) in model.states.iter_mut().enumerate() {
                if let Some(found) = found.get(id) {
                    let state = found.recipients[index];
                    let at = states.iter().position(|known| *known == state).unwrap();
                    states.truncate(at + 1);
                }
                passed.push(states.len() - 1);
            }
            self.unconfirmed.push((*id, passed));
        }
        Ok((self, recovered))
    }

    fn check(&mut self, found: &[Found]) -> Result<(), String> {
        let found: BTreeMap<_, _> = found.iter().map(|message| (message.id, message)).collect();
        for (id, model) in &self.model {
            let Some(message) = found.get(id) else {
                if model.may_be_gone() {
                    continue;
                }
                return Err(format!("{id} was acknowledged and is lost"));
            };
            if model.must_be_gone() {
                return Err(format!("{id} was settled and came back"));
            }
            if message.envelope != model.envelope {
                return Err(format!("{id} has another envelope"));
            }
            for (states, state) in model.states.iter().zip(&message.recipients) {
                if !states.contains(state) {
                    return Err(format!("{id}: {state:?} is none of {states:?}"));
                }
            }
        }
        for (id, model) in &self.model {
            // A report and the outcome that caused it are there together, or not at all.
            let Some((subject, index)) = model.report_on else { continue };
            let settled = found
                .get(&subject)
                .is_none_or(|message| message.recipients[index].status.is_settled());
            if settled != found.contains_key(id) && !model.may_be_gone_by_itself(settled) {
                return Err(format!("{id} reports on {subject}, which is settled: {settled}"));
            }
        }
        for (id, message) in found {
            let Some(model) = self.model.get(&id) else {
                return Err(format!("{id} was invented"));
            };
            if message.size != model.content.len() as u64 {
                return Err(format!("{id} has another size"));
            }
            let content = model.content.clone();
            let stored = self.driver.read_message(id).ok_or("cannot be planned")?;
            if stored.content.concat() != content {
                return Err(format!("{id} has another content"));
            }
        }
        Ok(())
    }
}

impl ModelMessage {
    /// Whether a report may be missing although its cause is there.
    fn may_be_gone_by_itself(&self, subject_settled: bool) -> bool {
        // It was delivered itself, or its subject had never been there.
        subject_settled
            && (!self.acknowledged || self.states.iter().all(|states| is_settled(states.last())))
    }
}

fn model_message(
    envelope: Envelope,
    content: Vec<u8>,
    received: u64,
    report_on: Option<(MessageId, usize)>,
) -> ModelMessage {
    let state = RecipientState { due_unix_ms: received, ..RecipientState::default() };
    let states = vec![vec![state]; envelope.forward_paths.len()];
    let received_unix_ms = received;
    ModelMessage { received_unix_ms, envelope, content, acknowledged: false, states, report_on }
}
