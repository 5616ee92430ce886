//! The real server on a simulated host: started, crashed, restarted, told things.
//!
//! What `bootstrap` and the control threads do around the shards is done here, on virtual time: the
//! inboxes, the event log, the look at the disk's room. Each shard has a runtime of its own, as if on a
//! core of its own; all that belongs to one start is one life.

mod events;
mod look;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, unbounded};
use ringpost::{
    auth::PasswordChecker,
    config::{self, ConfigSnapshot, SystemFacts},
    control::{
        AdminRequest, EventSender, HealthReport, HealthState, admin::PurgeRequest, event_channel,
    },
    runtime::{Containment, DeadlineTable, Runtime, os::FileSystem},
    shard::{ListeningShards, ShardHandle, ShardOptions, ShardReport, run_all, shard_inbox},
};
use ringpost_metrics::{Exposition, MetricsRecorder};
use ringpost_queue::{
    LogIdentity, Purge, Purged, ShardId,
    layout::{QueueMeta, shard_directory},
    storage::memory::Survival,
};
use tokio::sync::oneshot;

use self::events::EventLog;
pub use self::{
    events::{EventLine, EventLogFaults, EventObserver},
    look::{Look, QueuedMessage},
};
use crate::{
    disk::Disk,
    executor::Group,
    runtime::SimRuntime,
    world::{World, scan},
};

/// Batches of event records that may wait for the writer.
const EVENT_BATCHES_MAX: usize = 256;

/// How often the room of the disk is looked at.
const ROOM_PERIOD: Duration = Duration::from_millis(200);

/// Inbound sessions of each shard.
const SESSIONS_MAX: usize = 10_000;

/// A server, over all its lives. A clone is the same one.
#[derive(Clone)]
pub struct Server {
    inner: Rc<Inner>,
}

struct Inner {
    world: World,
    addresses: Vec<IpAddr>,
    disk: Disk,
    meta: QueueMeta,
    config: RefCell<String>,
    lives: Cell<u32>,
    life: RefCell<Option<Life>>,
    events: Rc<EventLog>,
    /// Damaged shards of any life, with what was said.
    damaged: RefCell<Vec<(u32, u16)>>,
    /// What the counters of the lives that are over came to.
    counted: RefCell<BTreeMap<String, f64>>,
}

/// One run of the server.
struct Life {
    number: u32,
    group: Group,
    shards: Arc<[ShardHandle]>,
    reports: Receiver<ShardReport>,
    health: Arc<HealthState>,
    config: Arc<ConfigSnapshot>,
    exposition: Exposition,
    started: Cell<u16>,
    opened: Cell<u16>,
    stopped: Cell<u16>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Server");
        debug.field("lives", &self.lives()).field("is_up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Server {
    /// Starts a server with an empty queue on a host of its own, at these addresses. Mail can be sent to
    /// it at once, and waits until the log is open.
    ///
    /// `config` is the text of a configuration file; the directory of the queue need not exist.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration.
    pub fn start(
        world: &World,
        addresses: &[IpAddr],
        config: &str,
        shards: u16,
    ) -> anyhow::Result<Self> {
        let log_id = world.random("server").next_u64();
        let server = Self {
            inner: Rc::new(Inner {
                world: world.clone(),
                addresses: addresses.to_vec(),
                disk: world.disk("server"),
                meta: QueueMeta { shards, log_id },
                config: RefCell::new(config.to_owned()),
                lives: Cell::new(0),
                life: RefCell::default(),
                events: Rc::new(EventLog::new(world)),
                damaged: RefCell::default(),
                counted: RefCell::default(),
            }),
        };
        server.begin_life()?;
        Ok(server)
    }

    /// Starts it again, after a crash or a stop.
    ///
    /// # Errors
    ///
    /// When it runs, or its configuration cannot be used.
    pub fn restart(&self) -> anyhow::Result<()> {
        if self.is_up() {
            bail!("the server is up");
        }
        self.begin_life()
    }

    /// Ends it at once, and leaves on the disk what survives that. Connections are closed or reset by the
    /// kernel when only the process dies; a machine without power says nothing.
    pub fn crash(&self, survival: Survival) {
        let Some(life) = self.inner.life.take() else { return };
        self.collect_reports(&life);
        let world = &self.inner.world;
        world.trace().note(0xC4A5_0000 + u64::from(life.number));
        if survival != Survival::ProcessOnly {
            for &address in &self.inner.addresses {
                world.net().cut_power(address);
            }
        }
        world.executor().end(life.group);
        self.inner.disk.crash(survival);
        self.inner.events.crash(survival);
        self.keep_counts(&life);
    }

    /// Stops it as a signal does, and waits until it has stopped; whether every shard did in time.
    pub async fn stop(&self) -> bool {
        let timeout = {
            let life = self.inner.life.borrow();
            let Some(life) = &*life else { return true };
            life.health.set_stopping();
            for shard in &*life.shards {
                shard.stop();
            }
            life.config.config().server.shutdown_timeout
        };
        let clock = self.inner.world.clock().clone();
        let deadline = clock.now() + timeout;
        let is_complete = loop {
            {
                let life = self.inner.life.borrow();
                let Some(life) = &*life else { return false };
                self.collect_reports(life);
                if life.stopped.get() >= self.inner.meta.shards {
                    break true;
                }
            }
            if clock.now() >= deadline {
                break false;
            }
            clock.sleep(Duration::from_millis(5)).await;
        };
        let Some(life) = self.inner.life.take() else { return false };
        // The writer ends last.
        self.inner.events.finish();
        self.inner.world.executor().end(life.group);
        self.keep_counts(&life);
        is_complete
    }

    /// Gives it a new configuration while it runs, and for later starts.
    ///
    /// # Errors
    ///
    /// What is wrong with it; the old one stays then.
    pub fn reload(&self, config: &str) -> anyhow::Result<()> {
        let snapshot = self.read(config)?;
        config.clone_into(&mut self.inner.config.borrow_mut());
        if let Some(life) = &mut *self.inner.life.borrow_mut() {
            life.health.watermarks().configure(snapshot.thresholds());
            for shard in &*life.shards {
                shard.reload(Arc::clone(&snapshot));
            }
            life.config = snapshot;
        }
        Ok(())
    }

    /// Asks a shard something; whether it can be asked.
    pub fn ask_shard(&self, shard: u16, request: AdminRequest) -> bool {
        let life = self.inner.life.borrow();
        let shard = life.as_ref().and_then(|life| life.shards.get(usize::from(shard)));
        shard.is_some_and(|shard| shard.ask(request).is_ok())
    }

    /// Removes mail from all shards, as an operator does. Gives what each shard answers; nothing from those
    /// that do not.
    pub async fn purge(&self, purge: &Purge) -> Vec<Result<Purged, String>> {
        let mut answers = Vec::new();
        for shard in 0..self.shards() {
            let (reply, answer) = oneshot::channel();
            let request = PurgeRequest { purge: purge.clone(), user: None, reply };
            if self.ask_shard(shard, AdminRequest::Purge(request)) {
                answers.push(answer);
            }
        }
        let mut given = Vec::new();
        for answer in answers {
            // A shard that has died drops its end.
            if let Ok(answer) = answer.await {
                given.push(answer);
            }
        }
        given
    }

    /// Shards that it has.
    pub fn shards(&self) -> u16 {
        self.inner.meta.shards
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.inner.addresses
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// The directory of a shard.
    pub fn directory(&self, shard: u16) -> PathBuf {
        Path::new("/queue").join(shard_directory(ShardId(shard)))
    }

    /// Whose log a shard has.
    pub fn identity(&self, shard: u16) -> LogIdentity {
        self.inner.meta.identity(ShardId(shard))
    }

    /// Whether it runs.
    pub fn is_up(&self) -> bool {
        self.inner.life.borrow().is_some()
    }

    /// How often it was started.
    pub fn lives(&self) -> u32 {
        self.inner.lives.get()
    }

    /// Shards whose log is open in this life.
    pub fn opened(&self) -> u16 {
        self.inner.life.borrow().as_ref().map_or(0, |life| {
            self.collect_reports(life);
            life.opened.get()
        })
    }

    /// Whether every shard takes mail.
    pub fn is_open(&self) -> bool {
        self.opened() == self.shards()
    }

    /// Lives and shards whose log could not be opened.
    pub fn damaged(&self) -> Vec<(u32, u16)> {
        if let Some(life) = &*self.inner.life.borrow() {
            self.collect_reports(life);
        }
        self.inner.damaged.borrow().clone()
    }

    /// What `/health` would say; `None` while it is down.
    pub fn health(&self) -> Option<HealthReport> {
        let life = self.inner.life.borrow();
        life.as_ref().map(|life| life.health.report(self.inner.world.clock().now()))
    }

    /// The configuration that it runs with, or would.
    pub fn config(&self) -> String {
        self.inner.config.borrow().clone()
    }

    /// All lines that the event log holds, in order. After a crash some may come twice, and the last ones
    /// of a life may be missing until the next one has read them back.
    pub fn events(&self) -> Vec<EventLine> {
        self.inner.events.lines()
    }

    /// Tells `observer` of each line from now on when the event log's writer takes it.
    pub fn observe_events(&self, observer: EventObserver) {
        self.inner.events.observe(observer);
    }

    /// Lets the event log fail, or not.
    pub fn set_event_log_faults(&self, faults: EventLogFaults) {
        self.inner.events.set_faults(faults);
    }

    /// The metrics of this life by name and labels, as in `name{core="0"}`. Empty while it is down.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let life = self.inner.life.borrow();
        life.as_ref().map(|life| read_metrics(&life.exposition)).unwrap_or_default()
    }

    /// A counter by the start of its name and labels, summed over shards and over all lives.
    #[expect(clippy::cast_sign_loss, reason = "counters are whole and never negative")]
    pub fn counter(&self, prefix: &str) -> u64 {
        let sum = |metrics: &BTreeMap<String, f64>| -> f64 {
            let from = metrics.range(prefix.to_owned()..);
            from.take_while(|(name, _)| name.starts_with(prefix)).map(|(_, value)| value).sum()
        };
        let all = sum(&self.inner.counted.borrow()) + sum(&self.metrics());
        all as u64
    }

    fn read(&self, config: &str) -> anyhow::Result<Arc<ConfigSnapshot>> {
        let facts = SystemFacts {
            hostname: "mta.sim".into(),
            cores: (0..usize::from(self.inner.meta.shards)).collect(),
            name_servers: Vec::new(),
            memory: None,
        };
        let snapshot = config::parse_with_files(config, &facts).map_err(|problems| {
            let lines =
                problems.iter().map(|problem| format!("{}: {}", problem.line, problem.reason));
            anyhow::Error::msg(lines.collect::<Vec<_>>().join("; "))
        });
        snapshot.map(Arc::new).context("the configuration cannot be used")
    }

    fn begin_life(&self) -> anyhow::Result<()> {
        let inner = &self.inner;
        let (world, shards) = (&inner.world, inner.meta.shards);
        let config = self.read(&inner.config.borrow())?;
        let number = inner.lives.get() + 1;
        inner.lives.set(number);
        let group = world.executor().new_group();
        let (recorder, exposition) = MetricsRecorder::new();
        let recorder = Rc::new(recorder);
        let health = Arc::new(HealthState::new(usize::from(shards), world.clock().now()));
        health.watermarks().configure(config.thresholds());
        let (reporter, reports) = unbounded();
        let listening = Arc::new(ListeningShards::new(usize::from(shards)));
        let events = if config.config().events.file().is_some() {
            let (sender, receiver) = event_channel(EVENT_BATCHES_MAX);
            inner.events.begin_life(number, receiver, group);
            sender
        } else {
            EventSender::off()
        };
        let (handles, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| shard_inbox()).unzip();
        let handles: Arc<[ShardHandle]> = handles.into();
        for (shard, inbox) in (0..shards).zip(inboxes) {
            let deadlines = Rc::<DeadlineTable>::default();
            scan(world, group, Rc::clone(&deadlines));
            let label = format!("server {number}/{shard}");
            let runtime = SimRuntime::new(
                world,
                &inner.addresses,
                inner.disk.clone(),
                group,
                deadlines,
                &label,
                Some(Rc::clone(&recorder)),
            );
            let options = ShardOptions {
                number: shard,
                identity: self.identity(shard),
                directory: self.directory(shard),
                config: Arc::clone(&config),
                config_path: "/etc/ringpost.toml".into(),
                listening: Arc::clone(&listening),
                sessions_max: SESSIONS_MAX,
                health: Arc::clone(&health),
                passwords: PasswordChecker::inline(),
                events: events.for_shard(),
                inbox,
                shards: Arc::clone(&handles),
                reports: reporter.clone(),
            };
            runtime.spawn(Containment::Process, run_all(runtime.clone(), vec![options]));
        }
        self.watch_room(group, &health);
        let (started, opened, stopped) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let life = Life {
            number,
            group,
            shards: handles,
            reports,
            health,
            config,
            exposition,
            started,
            opened,
            stopped,
        };
        *inner.life.borrow_mut() = Some(life);
        Ok(())
    }

    /// Looks at the room of the disk, as a thread of the process does.
    fn watch_room(&self, group: Group, health: &Arc<HealthState>) {
        let (clock, disk) = (self.inner.world.clock().clone(), self.inner.disk.clone());
        let health = Arc::clone(health);
        self.inner.world.executor().spawn(group, async move {
            loop {
                if let Some(size) = disk.faults().capacity {
                    let directories = disk.directories();
                    let used = directories.iter().map(|directory| disk.used(directory)).max();
                    let free = size.saturating_sub(used.unwrap_or(0));
                    let system = FileSystem { size, free, inodes: 0, inodes_free: 0 };
                    health.watermarks().note_disk(&system);
                }
                clock.sleep(ROOM_PERIOD).await;
            }
        });
    }

    fn collect_reports(&self, life: &Life) {
        for report in life.reports.try_iter() {
            match report {
                ShardReport::Started(_) => life.started.set(life.started.get() + 1),
                ShardReport::Opened(_) => life.opened.set(life.opened.get() + 1),
                ShardReport::Stopped(_) => life.stopped.set(life.stopped.get() + 1),
                ShardReport::Damaged(shard) => {
                    self.inner.damaged.borrow_mut().push((life.number, shard));
                }
                ShardReport::Failed(shard, error) => {
                    self.inner.world.violate(format!("shard {shard} cannot start: {error}"));
                }
            }
        }
    }

    /// Adds the counters of a life that is over to the sum.
    fn keep_counts(&self, life: &Life) {
        let mut counted = self.inner.counted.borrow_mut();
        for (name, value) in read_metrics(&life.exposition) {
            let bare = name.split('{').next().unwrap_or_default();
            if bare.ends_with("_total") {
                *counted.entry(name).or_default() += value;
            }
        }
    }
}

fn read_metrics(exposition: &Exposition) -> BTreeMap<String, f64> {
    let page = exposition.render();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let read = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.filter_map(read).collect()
}

#[cfg(test)]
mod tests;
