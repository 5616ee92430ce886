//! Load, a server on a disk that loses its power, a sink, and the account of every message.

use std::collections::HashSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::{Account, Outage};
use ringpost_e2e::events::{self, Tail};
use ringpost_e2e::injector::Sent;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};
use tempfile::TempDir;

use crate::disk::{Disk, Layer};
use crate::faultfs::{Cut, Operation, Survival};
use crate::place;
use crate::rng::Rng;
use crate::watchdog::Watchdog;

/// How long the sink thinks at each final dot: the width of the window in which a cut makes a
/// duplicate legal.
pub const AT_DOT: Duration = Duration::from_millis(20);

/// Size of the disks.
pub const DISK_SIZE: u64 = 512 << 20;

/// A server whose queue is on a disk of ours, and a sink that it sends everything to.
#[derive(Debug)]
pub struct Bench {
    // In this order: the server has files open on the disk.
    /// The server.
    pub server: Server,
    /// The sink.
    pub sink: Sink,
    /// The disk.
    pub disk: Disk,
    /// Choices.
    pub rng: Rng,
    /// The stops so far.
    pub outages: Vec<Outage>,
    /// How long each start took, until the server was healthy.
    pub starts: Vec<Duration>,
    events: Tail,
    delivered: HashSet<String>,
    _directory: TempDir,
    // The last to go: all before may hang.
    _watchdog: Watchdog,
}

impl Bench {
    /// Prepares everything. The server is not started.
    ///
    /// # Errors
    ///
    /// Fails when something cannot be made or mounted.
    pub fn new(layer: Layer, disk_size: u64, seed: u64) -> Result<Self> {
        let watchdog = Watchdog::new();
        let directory = place::directory()?;
        let disk = Disk::new(directory.path(), layer, disk_size)?;
        disk.faults.seed(seed);
        let sink = Sink::start()?;
        take_slowly(&sink);
        let mut server = Server::prepare()?;
        server.config.route("*", sink.address()).set("delivery", "retry", "[\"3s\"]");
        let queue = disk.path().join("queue");
        server.config.set("queue", "directory", &format!("\"{}\"", queue.display()));
        // Shards x this, and the segments made ahead, must fit the disk.
        server.config.set("queue", "size_max", &format!("\"{}MiB\"", disk_size / (3 << 20)));
        // The event log is not on the faulty disk, so that it can bear witness.
        let events = Tail::new(&server.directory().join("events.jsonl"));
        Ok(Self {
            server,
            sink,
            disk,
            rng: Rng::new(seed),
            outages: Vec::new(),
            starts: Vec::new(),
            events,
            delivered: HashSet::new(),
            _directory: directory,
            _watchdog: watchdog,
        })
    }

    /// Starts the server, and notes how long that took.
    ///
    /// # Errors
    ///
    /// Fails when it does not become healthy.
    pub fn start(&mut self) -> Result<()> {
        let began = Instant::now();
        self.server.start()?;
        self.starts.push(began.elapsed());
        Ok(())
    }

    /// Lets the load run for a random time within these milliseconds.
    pub fn let_run(&mut self, milliseconds: std::ops::Range<u64>) {
        thread::sleep(Duration::from_millis(self.rng.within(milliseconds)));
    }

    /// Cuts the power: of the disk, and then of the process. Nothing is started again.
    ///
    /// # Errors
    ///
    /// Fails when the server or its connections do not go away.
    pub fn cut(&mut self, survival: Survival) -> Result<Cut> {
        let cut = self.disk.faults.cut(survival);
        self.kill()?;
        Ok(cut)
    }

    /// Aims a cut at one of the next writes or syncs of the disk, and waits for it.
    ///
    /// So it comes where something is under way; a random moment mostly finds the disk idle.
    pub fn cut_at_work(&mut self, survival: Survival) {
        let operation = if self.rng.one_in(2) { Operation::Write } else { Operation::Sync };
        let nth = self.rng.within(1..20);
        self.disk.faults.cut_at(operation, nth, survival);
        self.disk.faults.wait_cut(SOON, survival);
    }

    /// Kills the server, and notes the outage when the sink has read all that it had written.
    ///
    /// # Errors
    ///
    /// Fails when the server or its connections do not go away.
    pub fn kill(&mut self) -> Result<()> {
        self.server.kill()?;
        self.note_outage()
    }

    /// Notes an outage of a server that is gone.
    ///
    /// # Errors
    ///
    /// Fails when its connections do not go away.
    pub fn note_outage(&mut self) -> Result<()> {
        let sink = &self.sink;
        wait_until("the last octets at the sink", SOON, || Ok(sink.open_connections() == 0))?;
        let delivered = events::delivered_test_ids(&self.events.read_new()?);
        self.delivered.extend(delivered.iter().cloned());
        self.outages.push(Outage { at: Instant::now(), delivered });
        Ok(())
    }

    /// Cuts the power, brings the machine back, and starts the server.
    ///
    /// # Errors
    ///
    /// Fails when any of that does.
    pub fn power_cycle(&mut self, survival: Survival) -> Result<Cut> {
        let cut = self.cut(survival)?;
        self.disk.power_up()?;
        self.start().with_context(|| {
            format!("start after cut {}, of which {survival} survived", self.outages.len())
        })?;
        Ok(cut)
    }

    /// Waits until the queue is empty and holds the injector's book against the sink's.
    ///
    /// # Errors
    ///
    /// Fails when the queue does not become empty.
    pub fn account(&mut self, book: &[Sent]) -> Result<Account> {
        self.server.wait_drained(Duration::from_mins(3))?;
        ensure!(self.sink.violations().is_empty(), "{:?}", self.sink.violations());
        Ok(Account::of(book, &self.sink.accepted()))
    }

    /// The acknowledged ids of which the event log says nothing, though they have arrived.
    ///
    /// # Errors
    ///
    /// Fails when the event log cannot be read.
    pub fn unrecorded(&mut self, account: &Account) -> Result<usize> {
        self.delivered.extend(events::delivered_test_ids(&self.events.read_new()?));
        Ok(account.arrived().filter(|id| !self.delivered.contains(*id)).count())
    }

    /// The mean and the longest time of a start, but for the first, in milliseconds.
    pub fn start_times(&self) -> (u128, u128) {
        let restarts = self.starts.get(1..).unwrap_or_default();
        let sum: Duration = restarts.iter().sum();
        let mean = sum.as_millis() / restarts.len().max(1) as u128;
        (mean, restarts.iter().max().map_or(0, Duration::as_millis))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // The server goes before its disk, and a process that waits for a disk cannot even be killed.
        self.disk.faults.clear_faults();
    }
}

/// The sink takes everything, and thinks at each final dot.
pub fn take_slowly(sink: &Sink) {
    sink.set_script(|step| match step {
        Step::Content(_) => Answer::Delay(AT_DOT),
        _ => Answer::Accept,
    });
}

/// The sink thinks at each final dot, and does not take one message in twenty for now.
///
/// Those stay in the queue over all cuts, so that a log which is lost as a whole cannot go unnoticed
/// because everything in it had been delivered.
pub fn hold_back(sink: &Sink) {
    sink.set_script(|step| match step {
        Step::Rcpt(path) if is_held(path) => Answer::reply("451 4.3.0 not yet"),
        Step::Content(_) => Answer::Delay(AT_DOT),
        _ => Answer::Accept,
    });
}

/// Whether the number at the end of an id, as in `<r0.RUN-NUMBER@domain>`, is one of those.
fn is_held(path: &str) -> bool {
    path.split_once('@')
        .and_then(|(local_part, _)| local_part.rsplit_once('-')?.1.parse::<u64>().ok())
        .is_some_and(|number| number % 20 == 0)
}

/// The sink takes nothing for now.
pub fn take_nothing(sink: &Sink) {
    sink.set_script(|step| match step {
        Step::Mail(_) => Answer::reply("451 4.3.0 not yet"),
        _ => Answer::Accept,
    });
}
