//! `ringpost-load sink`: takes mail as fast as it comes and keeps account of it.
//!
//! One executor a core, each with its own listening sockets on the same addresses. A turn is one
//! read, all complete commands in it, one write. A message is checked and recorded before its
//! reply goes out, so what a sender saw acknowledged is always in the account.

mod session;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use ringpost::runtime::{Containment, Listener, Read, Runtime, Stream};
use ringpost::runtime::{
    Executor, ExecutorOptions,
    glommio::{self, GlommioRuntime},
};

pub(crate) use self::session::Behaviour;
use self::session::{SinkSession, Step};
use crate::account::{Ledger, RecipientSet};
use crate::cli::SinkArguments;
use crate::report::SinkReport;
use crate::signals;
use crate::verify::{Verdict, verify};

/// Octets a session's buffer starts with; it grows to hold the longest message whole.
const BUFFER_SIZE: usize = 16 * 1024;
/// How long a connection may be silent. Senders keep connections open between messages.
const IDLE_TIMEOUT: Duration = Duration::from_mins(10);
/// Pause after an accept that failed: out of descriptors, it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long an executor may take to bind its listeners.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// What a sink is to be.
#[derive(Debug, Clone)]
pub(crate) struct SinkOptions {
    /// Addresses to listen on; port 0 lets the system choose.
    pub(crate) listen: Vec<SocketAddr>,
    /// One executor for each, pinned to a CPU or not.
    pub(crate) cpus: Vec<Option<usize>>,
    /// Wait before the reply to a final dot.
    pub(crate) delay: Duration,
    /// Refusals and limits.
    pub(crate) behaviour: Behaviour,
    /// File that gets a line for each message before its reply.
    pub(crate) record: Option<PathBuf>,
}

/// A running sink. Its executors end with the process.
#[derive(Debug)]
pub(crate) struct Sink {
    addresses: Vec<SocketAddr>,
    tallies: Vec<Arc<Tally>>,
    started: Instant,
    executors: Vec<Executor>,
}

/// What one core has counted; written by that core, read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    connections: AtomicU64,
    messages: AtomicU64,
    octets: AtomicU64,
    intact: AtomicU64,
    damaged: AtomicU64,
    foreign: AtomicU64,
    closed_after_dot: AtomicU64,
    recipients_4xx: AtomicU64,
    recipients_5xx: AtomicU64,
    errors: AtomicU64,
    /// Wall clock of the first and the last message, in microseconds since the sink's start.
    first_us: AtomicU64,
    last_us: AtomicU64,
    seen: Mutex<Seen>,
}

/// The part of a core's count that is more than a number.
#[derive(Debug, Default)]
struct Seen {
    ledger: Ledger,
    duplicates: u64,
    damages: Vec<String>,
}

/// How many damaged messages a core describes.
const DAMAGES_MAX: usize = 10;

impl Tally {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic elsewhere leaves numbers that are still worth reporting.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Sink {
    /// Starts the executors, and returns when all listen. With a `target` of so many messages, its
    /// channel gets [`Wake::Complete`] when they have been taken and answered.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound, the record file cannot be opened, or an executor cannot
    /// be started.
    pub(crate) fn start(
        options: &SinkOptions,
        target: Option<(u64, Sender<Wake>)>,
    ) -> anyhow::Result<Self> {
        let record = match &options.record {
            Some(path) => Some(Arc::new(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("cannot open {}", path.display()))?,
            )),
            None => None,
        };
        let target = target.map(|(messages, wake)| {
            Arc::new(Target { messages, taken: AtomicU64::new(0), wake: Mutex::new(wake) })
        });
        let mut sink = Self {
            addresses: options.listen.clone(),
            tallies: Vec::new(),
            started: Instant::now(),
            executors: Vec::new(),
        };
        for (core, &cpu) in options.cpus.iter().enumerate() {
            let tally = Arc::new(Tally::default());
            sink.tallies.push(Arc::clone(&tally));
            let worker = Worker {
                addresses: sink.addresses.clone(),
                behaviour: options.behaviour.clone(),
                delay: options.delay,
                started: sink.started,
                record: record.clone(),
                target: target.clone(),
                tally,
            };
            let (bound, is_bound) = mpsc::channel();
            let executor = glommio::start(
                &ExecutorOptions { cpu, name: format!("sink-{core}"), batch: true },
                move |runtime| worker.run(runtime, bound),
            )?;
            sink.addresses = is_bound
                .recv_timeout(START_TIMEOUT)
                .map_err(|_| anyhow!("the sink's executor {core} did not start"))?
                .context("cannot listen")?;
            sink.executors.push(executor);
        }
        Ok(sink)
    }

    /// The addresses it listens on, with the ports the system chose.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Messages taken so far, copies included.
    pub(crate) fn messages(&self) -> u64 {
        self.tallies.iter().map(|tally| value(&tally.messages)).sum()
    }

    /// What arrived intact so far, all cores together, and how many copies were repeated.
    pub(crate) fn ledger(&self) -> (Ledger, u64) {
        let mut all = Ledger::default();
        let mut duplicates = 0;
        for tally in &self.tallies {
            let seen = tally.seen();
            duplicates += seen.duplicates + all.merge(&seen.ledger);
        }
        (all, duplicates)
    }

    /// The account so far.
    pub(crate) fn report(&self) -> SinkReport {
        let sum = |counter: fn(&Tally) -> &AtomicU64| {
            self.tallies.iter().map(|tally| value(counter(tally))).sum::<u64>()
        };
        let (ledger, duplicates) = self.ledger();
        let first = self.tallies.iter().map(|tally| value(&tally.first_us)).filter(|us| *us != 0);
        let last = self.tallies.iter().map(|tally| value(&tally.last_us)).max().unwrap_or(0);
        SinkReport {
            connections: sum(|tally| &tally.connections),
            messages: sum(|tally| &tally.messages),
            octets: sum(|tally| &tally.octets),
            intact: sum(|tally| &tally.intact),
            recipients: ledger.count(),
            duplicates,
            damaged: sum(|tally| &tally.damaged),
            foreign: sum(|tally| &tally.foreign),
            closed_after_dot: sum(|tally| &tally.closed_after_dot),
            recipients_4xx: sum(|tally| &tally.recipients_4xx),
            recipients_5xx: sum(|tally| &tally.recipients_5xx),
            errors: sum(|tally| &tally.errors),
            seconds: Duration::from_micros(last.saturating_sub(first.min().unwrap_or(last)))
                .as_secs_f64(),
            damages: self.tallies.iter().flat_map(|tally| tally.seen().damages.clone()).collect(),
        }
    }
}

/// Why the main thread of a tool wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// TERM or INT.
    Signal,
    /// As many messages as were waited for have come.
    Complete,
}

#[derive(Debug)]
struct Target {
    messages: u64,
    taken: AtomicU64,
    wake: Mutex<Sender<Wake>>,
}

impl Target {
    fn count(&self, messages: u64) {
        let before = self.taken.fetch_add(messages, Ordering::Relaxed);
        if before < self.messages && before + messages >= self.messages {
            let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody listens any more when the tool is ending anyway.
            let _ = wake.send(Wake::Complete);
        }
    }
}

/// What one core works with.
#[derive(Debug)]
struct Worker {
    addresses: Vec<SocketAddr>,
    behaviour: Behaviour,
    delay: Duration,
    started: Instant,
    record: Option<Arc<File>>,
    target: Option<Arc<Target>>,
    tally: Arc<Tally>,
}

impl Worker {
    async fn run(self, runtime: GlommioRuntime, bound: Sender<io::Result<Vec<SocketAddr>>>) {
        let listeners: io::Result<Vec<_>> =
            self.addresses.iter().map(|address| runtime.listen(*address)).collect();
        let listeners = match listeners {
            Ok(listeners) => listeners,
            Err(error) => {
                let _ = bound.send(Err(error));
                return;
            }
        };
        let addresses = listeners.iter().map(Listener::local_address).collect();
        if bound.send(addresses).is_err() {
            return;
        }
        let worker = Rc::new(self);
        for listener in listeners {
            let worker = Rc::clone(&worker);
            let accepting = runtime.clone();
            runtime.spawn(Containment::Process, worker.accept(accepting, listener));
        }
        // The executor lives as long as the process; ending it would only leak its sessions.
        std::future::pending::<()>().await;
    }

    async fn accept<R: Runtime>(self: Rc<Self>, runtime: R, mut listener: R::Listener) {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    add(&self.tally.connections, 1);
                    let worker = Rc::clone(&self);
                    let serving = runtime.clone();
                    runtime.spawn(Containment::Session, async move {
                        // A sender that goes away is the sender's affair; what it left
                        // unfinished was never counted.
                        let _ = worker.serve(&serving, stream).await;
                    });
                }
                Err(_) => runtime.sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn serve<R: Runtime>(&self, runtime: &R, mut stream: R::Stream) -> io::Result<()> {
        let mut out = Vec::with_capacity(512);
        let mut lines = Vec::new();
        let seed = value(&self.tally.connections) ^ runtime.random_seed();
        let mut session = SinkSession::new(seed, &mut out);
        let mut buffer = vec![0; BUFFER_SIZE];
        let (mut start, mut end) = (0, 0);
        let mut unanswered = 0;
        let result = loop {
            let (consumed, step) =
                session.handle_input(&self.behaviour, &buffer[start..end], &mut out);
            match step {
                Step::Message { start: from, end: to, recipients, closes } => {
                    if closes {
                        add(&self.tally.closed_after_dot, 1);
                        break Ok(());
                    }
                    self.take(runtime, &buffer[start + from..start + to], recipients, &mut lines);
                    if !self.delay.is_zero() {
                        if let Err(error) = self.flush(&mut stream, &mut lines, &mut out).await {
                            break Err(error);
                        }
                        runtime.sleep(self.delay).await;
                    }
                    session.accept_message(&mut out);
                    start += consumed;
                    unanswered += 1;
                    continue;
                }
                Step::Close => {
                    break self.flush(&mut stream, &mut lines, &mut out).await;
                }
                Step::NeedsInput => start += consumed,
            }
            if let Err(error) = self.flush(&mut stream, &mut lines, &mut out).await {
                break Err(error);
            }
            // Only now: reaching the target may end the process.
            if let Some(target) = self.target.as_deref().filter(|_| unanswered > 0) {
                target.count(unanswered);
            }
            unanswered = 0;
            make_room(&mut buffer, &mut start, &mut end);
            stream.watch().set_deadline(Some(runtime.now() + IDLE_TIMEOUT));
            match stream.read(&mut buffer[end..]).await {
                Ok(Read::Data(count)) => end += count,
                Ok(Read::End | Read::TimedOut | Read::Notified) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let refusals = session.refusals();
        add(&self.tally.recipients_4xx, refusals.recipients_4xx);
        add(&self.tally.recipients_5xx, refusals.recipients_5xx);
        add(&self.tally.errors, refusals.errors);
        result
    }

    /// Checks and counts one message.
    fn take<R: Runtime>(
        &self,
        runtime: &R,
        wire: &[u8],
        recipients: RecipientSet,
        lines: &mut Vec<u8>,
    ) {
        let tally = &self.tally;
        let verdict = verify(wire);
        let (id, word) = match verdict {
            Verdict::Foreign => {
                add(&tally.foreign, 1);
                (None, "foreign")
            }
            Verdict::Intact(id) => {
                let mut seen = tally.seen();
                seen.duplicates += seen.ledger.insert(id, recipients);
                add(&tally.intact, 1);
                (Some(id), "ok")
            }
            Verdict::Damaged(id, damage) => {
                add(&tally.damaged, 1);
                let mut seen = tally.seen();
                if seen.damages.len() < DAMAGES_MAX {
                    let id = id.map_or_else(|| "without id".to_owned(), |id| id.to_string());
                    seen.damages.push(format!("{id}: {}", damage.name()));
                }
                (id, damage.name())
            }
        };
        if self.record.is_some() {
            // Writing to a vector does not fail.
            let _ = match id {
                Some(id) => writeln!(lines, "{id} {} {word} {recipients:x}", runtime.unix_ms()),
                None => writeln!(lines, "- {} {word} {recipients:x}", runtime.unix_ms()),
            };
        }
        let since_start = runtime.now().saturating_duration_since(self.started);
        let us = since_start.as_micros() as u64;
        if value(&tally.first_us) == 0 {
            tally.first_us.store(us.max(1), Ordering::Relaxed);
        }
        tally.last_us.store(us, Ordering::Relaxed);
        add(&tally.octets, wire.len() as u64);
        add(&tally.messages, 1);
    }

    /// Writes what there is: the record first, then the replies it belongs to.
    async fn flush<S: Stream>(
        &self,
        stream: &mut S,
        lines: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        if let Some(record) = self.record.as_deref().filter(|_| !lines.is_empty()) {
            // Some dozens of octets into the page cache; a failure leaves the messages unanswered.
            let mut record = record;
            record.write_all(lines)?;
            lines.clear();
        }
        if !out.is_empty() {
            stream.write_all(out).await?;
            out.clear();
        }
        Ok(())
    }
}

/// Moves what is unread to the front, and grows a buffer that is full of one message.
fn make_room(buffer: &mut Vec<u8>, start: &mut usize, end: &mut usize) {
    if *start > 0 {
        buffer.copy_within(*start..*end, 0);
        *end -= *start;
        *start = 0;
    }
    if *end == buffer.len() {
        buffer.resize(buffer.len() * 2, 0);
    }
}

/// Runs the tool until enough messages came or it is told to stop; whether all were intact.
///
/// # Errors
///
/// See [`Sink::start`].
pub(crate) fn run(arguments: &SinkArguments) -> anyhow::Result<bool> {
    let (wake, woken) = mpsc::channel();
    signals::forward(wake.clone(), || Wake::Signal)?;
    let target = arguments.messages.map(|messages| (messages, wake.clone()));
    let sink = Sink::start(&arguments.options(), target)?;
    for address in sink.addresses() {
        crate::report::note(&format!("listening on {address}"));
    }
    loop {
        match woken.recv_timeout(Duration::from_hours(1)) {
            Ok(_) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    let report = sink.report();
    crate::report::print(&report, arguments.json)?;
    Ok(report.damaged == 0)
}
