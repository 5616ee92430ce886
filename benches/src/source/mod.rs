//! `ringpost-load source`: sends generated messages and remembers which were acknowledged.
//!
//! Closed loop: a session sends its next message when the last one is answered, or, with a rate,
//! when the next one is due. All sessions of all cores draw sequence numbers from one counter, so
//! that a run sends exactly what was asked for whatever the cores' shares are.
//!
//! A message whose final dot was not sent, or was refused for now, is tried again; a message whose
//! final dot was sent and never answered is not, because nobody knows whether it was taken.

mod connection;
mod reply;
mod session;

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use ringpost::runtime::{Containment, Runtime};
use ringpost::runtime::{
    Executor, ExecutorOptions,
    glommio::{self, GlommioRuntime},
};

use crate::account::Ledger;
use crate::cli::SourceArguments;
use crate::message::Template;
use crate::report::{Latencies, SourceReport};
use crate::signals;

/// How many different failures a core describes.
const FAILURES_MAX: usize = 5;

/// What a source is to send, and how.
#[derive(Debug, Clone)]
pub(crate) struct SourceOptions {
    /// Where to; sessions take turns among the addresses.
    pub(crate) to: Vec<SocketAddr>,
    /// Parallel sessions, over all cores.
    pub(crate) sessions: usize,
    /// Messages to send.
    pub(crate) messages: u32,
    /// Octets of each message's content.
    pub(crate) size: usize,
    /// Messages a second, over all sessions; as fast as it goes without.
    pub(crate) rate: Option<f64>,
    /// Sends many messages over a connection.
    pub(crate) keep: bool,
    /// Sends MAIL, RCPT and DATA in one write when the server offers it.
    pub(crate) pipeline: bool,
    /// Recipients of each message, at most [`crate::account::RECIPIENTS_MAX`].
    pub(crate) recipients: usize,
    /// The recipients' domains, taken in turns.
    pub(crate) domains: Vec<String>,
    /// Reverse-path of all messages.
    pub(crate) reverse_path: String,
    /// Argument of EHLO.
    pub(crate) helo_name: String,
    /// How often a message is tried that was not taken for a reason that may pass.
    pub(crate) attempts: u32,
    /// Limit of each connect, write and wait for a reply.
    pub(crate) timeout: Duration,
    /// File that gets a line for each acknowledged message.
    pub(crate) acked: Option<PathBuf>,
    /// One executor for each, pinned to a CPU or not.
    pub(crate) cpus: Vec<Option<usize>>,
}

/// A running source.
#[derive(Debug)]
pub(crate) struct Source {
    shared: Arc<Shared>,
    started: Instant,
    cores: Vec<Arc<Mutex<CoreResult>>>,
    executors: Vec<Executor>,
}

/// What all cores work from.
#[derive(Debug)]
struct Shared {
    options: SourceOptions,
    template: Template,
    next: AtomicU32,
    is_stopped: AtomicBool,
    accepted: AtomicU64,
    started: Instant,
    acked: Option<File>,
}

/// What one core has done; locked once a message, by that core alone until the end.
#[derive(Debug)]
pub(crate) struct CoreResult {
    counts: Counts,
    latencies: Latencies,
    ledger: Ledger,
    failures: Vec<String>,
    finished: Option<Instant>,
}

/// What is counted beside the acknowledged messages.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    /// Messages acknowledged by a 250 after the final dot.
    pub(crate) accepted: u64,
    /// Messages refused for good.
    pub(crate) refused: u64,
    /// Messages given up after all attempts.
    pub(crate) given_up: u64,
    /// Messages whose final dot was sent and not answered.
    pub(crate) unknown: u64,
    /// Attempts that were repeated.
    pub(crate) retried: u64,
    /// Recipients refused while others of their message were taken.
    pub(crate) recipients_refused: u64,
    /// Connections made.
    pub(crate) connections: u64,
}

impl Source {
    /// Starts sending. `finished` gets a message from each core when it is done.
    ///
    /// # Errors
    ///
    /// When the file of acknowledged messages cannot be opened or an executor cannot be started.
    pub(crate) fn start<T: Send + 'static>(
        options: &SourceOptions,
        run: u32,
        date: &str,
        finished: &Sender<T>,
        event: impl Fn() -> T + Clone + Send + 'static,
    ) -> anyhow::Result<Self> {
        let acked = match &options.acked {
            Some(path) => Some(
                File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("cannot open {}", path.display()))?,
            ),
            None => None,
        };
        let started = Instant::now();
        let shared = Arc::new(Shared {
            template: Template::new(run, options.size, &options.reverse_path, date),
            options: options.clone(),
            next: AtomicU32::new(0),
            is_stopped: AtomicBool::new(false),
            accepted: AtomicU64::new(0),
            started,
            acked,
        });
        let mut source = Self { shared, started, cores: Vec::new(), executors: Vec::new() };
        let cores = options.cpus.len();
        for (core, &cpu) in options.cpus.iter().enumerate() {
            let result = Arc::new(Mutex::new(CoreResult::new()));
            source.cores.push(Arc::clone(&result));
            let shared = Arc::clone(&source.shared);
            let sessions = options.sessions / cores + usize::from(core < options.sessions % cores);
            let (finished, event) = (finished.clone(), event.clone());
            let executor = glommio::start(
                &ExecutorOptions { cpu, name: format!("source-{core}"), batch: true },
                move |runtime| async move {
                    run_core(runtime, shared, Arc::clone(&result), sessions).await;
                    lock(&result).finished = Some(Instant::now());
                    // The main thread may have given up waiting.
                    let _ = finished.send(event());
                },
            )?;
            source.executors.push(executor);
        }
        Ok(source)
    }

    /// Messages acknowledged so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Octets of each message's content.
    pub(crate) fn message_size(&self) -> usize {
        self.shared.template.size()
    }

    /// Lets the sessions end after the message each is at.
    pub(crate) fn stop(&self) {
        self.shared.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Whether all cores are done.
    pub(crate) fn is_finished(&self) -> bool {
        self.cores.iter().all(|core| lock(core).finished.is_some())
    }

    /// All acknowledged messages so far.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut all = Ledger::default();
        for core in &self.cores {
            all.merge(&lock(core).ledger);
        }
        all
    }

    /// The account so far.
    pub(crate) fn report(&self) -> SourceReport {
        let mut report = SourceReport {
            asked: u64::from(self.shared.options.messages),
            message_size: self.message_size() as u64,
            sessions: self.shared.options.sessions as u64,
            ..SourceReport::default()
        };
        let mut finished = self.started;
        for core in &self.cores {
            let core = lock(core);
            report.add(&core.counts, &core.latencies, core.ledger.count());
            for failure in &core.failures {
                if report.failures.len() < FAILURES_MAX && !report.failures.contains(failure) {
                    report.failures.push(failure.clone());
                }
            }
            finished = finished.max(core.finished.unwrap_or_else(Instant::now));
        }
        report.seconds = finished.duration_since(self.started).as_secs_f64();
        report
    }
}

impl CoreResult {
    fn new() -> Self {
        Self {
            counts: Counts::default(),
            latencies: Latencies::default(),
            ledger: Ledger::default(),
            failures: Vec::new(),
            finished: None,
        }
    }

    fn describe(&mut self, failure: String) {
        if self.failures.len() < FAILURES_MAX && !self.failures.contains(&failure) {
            self.failures.push(failure);
        }
    }
}

fn lock(result: &Mutex<CoreResult>) -> MutexGuard<'_, CoreResult> {
    // A session that panicked leaves counts that are still worth reporting.
    result.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The next message and when it is due; `None` when all are taken or the source is stopped.
    fn next(&self) -> Option<(u32, Option<Instant>)> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return None;
        }
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        if sequence >= self.options.messages {
            // Sessions ask once more each; the counter stays far from its end.
            return None;
        }
        let due = self
            .options
            .rate
            .map(|rate| self.started + Duration::from_secs_f64(f64::from(sequence) / rate));
        Some((sequence, due))
    }
}

async fn run_core(
    runtime: GlommioRuntime,
    shared: Arc<Shared>,
    result: Arc<Mutex<CoreResult>>,
    sessions: usize,
) {
    let running = Rc::new(Running::default());
    for number in 0..sessions {
        let to = shared.options.to[number % shared.options.to.len()];
        let session =
            session::Session::new(runtime.clone(), Arc::clone(&shared), Arc::clone(&result), to);
        let guard = Running::enter(&running);
        runtime.spawn(Containment::Session, async move {
            session.run().await;
            drop(guard);
        });
    }
    running.until_none().await;
}

/// Counts running tasks and wakes who waits for the last.
#[derive(Debug, Default)]
struct Running {
    count: Cell<usize>,
    waker: RefCell<Option<Waker>>,
}

/// One running task; also leaves when the task panics.
#[derive(Debug)]
struct RunningGuard(Rc<Running>);

impl Running {
    fn enter(running: &Rc<Self>) -> RunningGuard {
        running.count.set(running.count.get() + 1);
        RunningGuard(Rc::clone(running))
    }

    async fn until_none(&self) {
        poll_fn(|context| {
            if self.count.get() == 0 {
                return Poll::Ready(());
            }
            self.waker.replace(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0
            && let Some(waker) = self.0.waker.take()
        {
            waker.wake();
        }
    }
}

/// Why the main thread of the tool wakes up.
enum Wake {
    Signal,
    Finished,
}

/// Runs the tool; whether all messages were acknowledged.
///
/// # Errors
///
/// See [`Source::start`].
pub(crate) fn run(arguments: &SourceArguments) -> anyhow::Result<bool> {
    let (wake, woken) = mpsc::channel();
    signals::forward(wake.clone(), || Wake::Signal)?;
    let options = arguments.options()?;
    let source =
        Source::start(&options, crate::draw_run(), &crate::date_now(), &wake, || Wake::Finished)?;
    let mut is_told_to_stop = false;
    while !source.is_finished() {
        match woken.recv() {
            Ok(Wake::Finished) => {}
            Ok(Wake::Signal) if !is_told_to_stop => {
                is_told_to_stop = true;
                source.stop();
            }
            // A second signal: report at once what there is.
            Ok(Wake::Signal) => break,
            Err(_) => return Err(anyhow!("the source's executors are gone")),
        }
    }
    let report = source.report();
    crate::report::print(&report, arguments.json)?;
    Ok(report.accepted == report.asked)
}
