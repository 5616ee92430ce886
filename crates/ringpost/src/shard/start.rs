//! From a directory and a configuration to a running shard.
//!
//! A shard listens at once, and reads its log behind that; until it is open, MAIL waits. A log that
//! cannot be opened stops its own shard only.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::Sender;
use futures_lite::future;
use ringpost_delivery::{Engine, Now, QueuedMessage, QueuedRecipient};
use ringpost_metrics::{ListenerMetrics, ShardMetrics};
use ringpost_queue::{
    ConfigError, LogIdentity, MessageId, Queue, RecipientIndex, Recovered, RecoveryError, recover,
};
use thiserror::Error;

use super::{
    Activity, ContentCache, Events, Intake, ListenerContext, ListeningShards, Resolver, Shard,
    ShardHandle, ShardInbox, Signal, checkpoint, commit, events, listener, resolver, segments,
    settle, stress::Stress, tick, turns,
};
use crate::{
    auth::PasswordChecker,
    config::ConfigSnapshot,
    control::{EventSender, HealthState},
    runtime::{Containment, Listener as _, Runtime},
};

/// Recovered messages after which other tasks get a turn.
const SCHEDULED_PER_TURN: usize = 256;

/// How long a shard waits for its first segment before it takes mail.
const FIRST_SEGMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a shard is given by the process.
#[derive(Debug)]
pub struct ShardOptions {
    /// Its number, from 0.
    pub number: u16,
    /// Which log it is for.
    pub identity: LogIdentity,
    /// The directory of its segments; it exists.
    pub directory: PathBuf,
    /// The configuration.
    pub config: Arc<ConfigSnapshot>,
    /// Where it was read from, to name it in advice.
    pub config_path: PathBuf,
    /// How many shards listen; shared by all of them.
    pub listening: Arc<ListeningShards>,
    /// Inbound sessions that its share of descriptors allows, over all listeners.
    pub sessions_max: usize,
    /// Where it says how it is.
    pub health: Arc<HealthState>,
    /// Whom it asks about passwords.
    pub passwords: PasswordChecker,
    /// Where its event records go.
    pub events: EventSender,
    /// What it is told while it runs.
    pub inbox: ShardInbox,
    /// How it tells the shards something, itself included, by their numbers.
    pub shards: Arc<[ShardHandle]>,
    /// Whom it tells that it runs, or that it does not.
    pub reports: Sender<ShardReport>,
}

/// What a shard tells the process.
#[derive(Debug)]
pub enum ShardReport {
    /// It listens. Its log is still to be opened.
    Started(u16),
    /// Its log is open: it takes mail.
    Opened(u16),
    /// Its log cannot be opened; it has said so, and stays stopped until the next start.
    Damaged(u16),
    /// It could not start; for the operator to mend.
    Failed(u16, ShardError),
    /// It has stopped as it was told.
    Stopped(u16),
}

/// Why a shard could not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The limits of its log cannot be kept.
    #[error("the limits of the queue cannot be kept")]
    Config(#[from] ConfigError),
    /// An address of a listener cannot be bound.
    #[error("cannot listen on {address} (listener.{listener}.addresses)")]
    Listen {
        /// The listener's name.
        listener: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Runs the shards of one executor until all of them have stopped.
pub async fn run_all<R: Runtime>(runtime: R, shards: Vec<ShardOptions>) {
    let running = Rc::new(Cell::new(shards.len()));
    let ended = Rc::new(Signal::default());
    for options in shards {
        let (running, ended) = (Rc::clone(&running), Rc::clone(&ended));
        let shard = run(runtime.clone(), options);
        runtime.spawn(Containment::Process, async move {
            shard.await;
            running.set(running.get() - 1);
            ended.set();
        });
    }
    while running.get() > 0 {
        ended.wait().await;
    }
}

/// Starts a shard and runs it until it has stopped.
async fn run<R: Runtime>(runtime: R, options: ShardOptions) {
    let (number, reports) = (options.number, options.reports.clone());
    let (identity, config_path) = (options.identity, options.config_path.clone());
    let directory = options.directory.clone();
    // Nobody listens any more only when the process is ending already.
    match start(runtime, options) {
        Ok((shard, inbox)) => {
            let _ = reports.send(ShardReport::Started(number));
            let (opening, opened) = (Rc::clone(&shard), reports.clone());
            shard.runtime.spawn(Containment::Process, async move {
                match opening.open_log(identity).await {
                    Ok(recovered) => {
                        let _ = opened.send(ShardReport::Opened(number));
                        opening.schedule(recovered).await;
                        opening.intake.set_scheduled();
                    }
                    Err(error) => {
                        opening.give_up(error, &directory, &config_path);
                        let _ = opened.send(ShardReport::Damaged(number));
                    }
                }
            });
            tick::run(shard, inbox).await;
            let _ = reports.send(ShardReport::Stopped(number));
        }
        Err(error) => {
            let _ = reports.send(ShardReport::Failed(number, error));
        }
    }
}

/// Makes a shard that listens, and the tasks that do not need its log.
fn start<R: Runtime>(
    runtime: R,
    options: ShardOptions,
) -> Result<(Rc<Shard<R>>, ShardInbox), ShardError> {
    let ShardOptions { number, config, directory, sessions_max, health, .. } = options;
    let metrics = ShardMetrics::register(usize::from(number));
    let storage = runtime.storage(&directory);
    let queue = Queue::opening(config.queue_config(), options.identity)?;

    let now = Now { monotonic: runtime.now(), unix_ms: runtime.unix_ms() };
    let delivery_config = Arc::new(config.delivery_config());
    let shards = u16::try_from(options.shards.len()).unwrap_or(u16::MAX);
    let engine = Engine::new(delivery_config, runtime.random_seed(), now).among(number, shards);
    let cache_size = config.config().queue.content_cache_size_max;
    let cache = ContentCache::new(usize::try_from(cache_size).unwrap_or(usize::MAX));
    let shard = Rc::new(Shard {
        resolver: Resolver::new(runtime.random_seed()),
        runtime,
        number,
        listeners: RefCell::default(),
        queue: RefCell::new(queue),
        storage,
        segments: RefCell::new(HashMap::new()),
        commits: commit::Commits::default(),
        segment_work: Signal::default(),
        checkpoint_work: Signal::default(),
        segment_done: Signal::default(),
        engine: RefCell::new(engine),
        connections: RefCell::default(),
        settlements: settle::Settlements::default(),
        connectors: RefCell::new(config.connectors()),
        client_config: RefCell::new(Arc::new(config.client_config())),
        cache: RefCell::new(cache),
        events: Events::new(options.events),
        events_given_up: Cell::default(),
        tls_overflows: Cell::default(),
        slot_waits: Cell::default(),
        metrics,
        watermarks: Arc::clone(health.watermarks()),
        queue_pressure: Cell::default(),
        health: health.shard(usize::from(number)),
        own_host: RefCell::new(super::own_host(&config)),
        config: RefCell::new(config),
        intake: Intake::new(options.listening),
        has_purged: Cell::new(false),
        draining: Cell::new(false),
        sessions_open: Rc::default(),
        stress: Stress::default(),
        sessions_max,
        transactions_open: Rc::default(),
        activity: Activity::default(),
        outbound_open: Rc::default(),
        turns: turns::Turns::default(),
        passwords: options.passwords,
        passwords_waiting: Rc::default(),
        shards: options.shards,
        flushes: Rc::default(),
        flushes_ordered: Rc::default(),
    });
    let bound = shard.bind_listeners()?;
    shard.runtime.spawn(Containment::Process, settle::run(Rc::clone(&shard)));
    shard.runtime.spawn(Containment::Process, turns::run(Rc::clone(&shard)));
    shard.runtime.spawn(Containment::Process, resolver::run(Rc::clone(&shard)));
    for (context, listener) in bound {
        shard.intake.add_listener(listener.closer());
        let accept = listener::accept(Rc::clone(&shard), context, listener);
        shard.runtime.spawn(Containment::Process, accept);
    }
    Ok((shard, options.inbox))
}

/// What an operator can do about a log that cannot be opened.
fn advice(error: &RecoveryError, config_path: &Path) -> String {
    let config = config_path.display();
    match error {
        RecoveryError::Corrupt { .. } => format!(
            "Stop the server, look at the damage with `ringpost queue check --config {config}`, and \
             save what is whole with `ringpost queue repair --config {config}`"
        ),
        RecoveryError::Format { .. } => "Start the version that wrote it".to_owned(),
        _ => "Mend what the system complains of, and restart the server".to_owned(),
    }
}

/// A listener of the configuration, bound to one of its addresses.
type Bound<R> = (Rc<ListenerContext>, <R as Runtime>::Listener);

impl<R: Runtime> Shard<R> {
    fn bind_listeners(&self) -> Result<Vec<Bound<R>>, ShardError> {
        let mut bound = Vec::new();
        let config = self.config();
        for (name, section) in &config.config().listener {
            let server_config = Arc::new(config.server_config(section));
            let metrics = ListenerMetrics::register(usize::from(self.number), name);
            let context = ListenerContext::new(name, metrics, section.clone(), server_config);
            let context = Rc::new(context);
            context.set_acceptor(config.acceptor(name).cloned());
            for &address in &section.addresses {
                let listener = self.runtime.listen(address).map_err(|source| {
                    ShardError::Listen { listener: name.clone(), address, source }
                })?;
                let address = listener.local_address().unwrap_or(address);
                tracing::info!(shard = self.number, listener = %name, %address, "listening");
                bound.push((Rc::clone(&context), listener));
            }
            self.listeners.borrow_mut().push(context);
        }
        Ok(bound)
    }

    /// Reads the log, and takes mail from then on.
    async fn open_log(self: &Rc<Self>, identity: LogIdentity) -> Result<Recovered, RecoveryError> {
        let began = self.runtime.now();
        let config = self.queue.borrow().config().clone();
        let (queue, recovered) = recover(&self.storage, config, identity).await?;
        *self.queue.borrow_mut() = queue;
        let took = self.runtime.now() - began;
        let metrics = &self.metrics;
        metrics.recovery_duration.set(took.as_secs_f64());
        metrics.messages_recovered.increment(recovered.messages);
        metrics.checkpoints_damaged.increment(recovered.checkpoints_damaged);
        metrics.log_tail_truncated_bytes.increment(recovered.tail_truncated_bytes);
        tracing::info!(
            shard = self.number,
            messages = recovered.messages,
            segments = recovered.segments,
            from_checkpoint = recovered.checkpoint_messages,
            bytes_read = recovered.frames_bytes,
            tail_truncated_bytes = recovered.tail_truncated_bytes,
            milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            "log opened"
        );
        self.runtime.spawn(Containment::Process, commit::run(Rc::clone(self)));
        self.runtime.spawn(Containment::Process, segments::run(Rc::clone(self)));
        self.runtime.spawn(Containment::Process, checkpoint::run(Rc::clone(self)));
        self.runtime.spawn(Containment::Process, events::run(Rc::clone(self)));
        self.segment_work.set();
        self.commits.look();
        // The first senders need not wait for a segment to be filled with zeros. If it cannot be
        // made, they are told so.
        let patience = self.runtime.sleep(FIRST_SEGMENT_TIMEOUT);
        future::or(self.segment_done.wait(), patience).await;
        self.intake.open();
        self.publish();
        Ok(recovered)
    }

    /// Stops the shard, because its log cannot be opened, and says what to do about it.
    fn give_up(&self, error: RecoveryError, directory: &Path, config_path: &Path) {
        let advice = advice(&error, config_path);
        let reason = format!("{:#}", anyhow::Error::new(error));
        tracing::error!(
            shard = self.number,
            "cannot open the log in {}: {reason}. This shard stays stopped, its mail waits. {advice}",
            directory.display()
        );
        self.lose_storage(&reason);
    }

    /// Tells the engine of what was queued when the last run ended.
    async fn schedule(self: &Rc<Self>, recovered: Recovered) {
        // What came in since is scheduled by its commit.
        let Some(end) = recovered.next_id else { return };
        let mut next = MessageId::from_u64(0);
        loop {
            let messages = self.queued_messages(next, end);
            let Some(last) = messages.last() else { return };
            next = MessageId::from_u64(last.id.to_u64() + 1);
            for message in &messages {
                self.with_engine(|engine, now| engine.handle_message(now, message));
            }
            self.runtime.turn().await;
        }
    }

    /// The next messages of the index as the engine takes them.
    fn queued_messages(&self, first: MessageId, end: MessageId) -> Vec<QueuedMessage> {
        let queue = self.queue.borrow();
        let own_host = self.own_host.borrow();
        let messages = queue.messages_from(first).take_while(|message| message.id < end);
        messages
            .take(SCHEDULED_PER_TURN)
            .map(|message| QueuedMessage {
                id: message.id,
                received_unix_ms: message.received_unix_ms,
                expiry_unix_ms: message.expiry_unix_ms,
                priority: message.priority,
                tls_optional: message.tls_optional,
                deliver_by: message.deliver_by,
                recipients: (0..)
                    .zip(message.recipients)
                    .filter(|(_, recipient)| !recipient.status.is_settled())
                    .map(|(index, recipient)| QueuedRecipient {
                        index: RecipientIndex(index),
                        host: queue.host(recipient.host).unwrap_or(&own_host).clone(),
                        attempts: recipient.attempts,
                        due_unix_ms: Some(recipient.due_unix_ms),
                        warned: recipient.warned,
                    })
                    .collect(),
            })
            .collect()
    }
}
