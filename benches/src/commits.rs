//! How fast the log commits: appends of parallel writers, beside bare writes of the same size.
//!
//! One core, one log, nothing else: each writer appends a message, waits until it is durable, settles
//! it, and goes on. Beside it the same storage writes blocks of the mean size of the batches, one after
//! the other, into a file that is there already: what the disk gives to a single writer at best.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_lite::future;
use hdrhistogram::Histogram;
use ringpost::runtime::glommio::{ExecutorOptions, start};
use ringpost::runtime::{Containment, Runtime};
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_queue::segment::run_task;
use ringpost_queue::storage::Storage;
use ringpost_queue::{
    BatchNumber, Disposition, EventRecords, LogIdentity, NewMessage, Outcome, Queue, QueueConfig,
    RecipientIndex, Redeemed, SegmentSequence, SegmentTask, ShardId, Ticket,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::cli::CommitArguments;
use crate::report::{self, Report, note};

/// Octets of a batch whose writing takes so long that it is worth two: less costs as much as any sync.
const LARGE: usize = 256 << 10;

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct CommitOptions {
    /// Where the log is written; on the disk to be measured.
    pub(crate) directory: PathBuf,
    /// Numbers of parallel writers.
    pub(crate) writers: Vec<usize>,
    /// Octets of each message.
    pub(crate) sizes: Vec<usize>,
    /// How long each case runs.
    pub(crate) duration: Duration,
}

/// What one case came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommitCase {
    pub(crate) writers: usize,
    pub(crate) size: usize,
    pub(crate) appends_per_second: f64,
    pub(crate) appends_per_batch: f64,
    pub(crate) batch_bytes: u64,
    pub(crate) batches_per_second: f64,
    pub(crate) latency_p50: Duration,
    pub(crate) latency_p99: Duration,
    pub(crate) cpu_per_append: Duration,
    pub(crate) bare_writes_per_second: f64,
}

impl CommitCase {
    /// Octets a second that the log wrote, as a share of what bare writes of that size reach.
    pub(crate) fn ratio(&self) -> f64 {
        self.batches_per_second / self.bare_writes_per_second
    }
}

/// All cases, as a report.
#[derive(Debug)]
struct CommitReport(Vec<CommitCase>);

impl Report for CommitReport {
    fn text(&self) -> String {
        let mut text = String::from(
            "writers  KiB  appends/s  per batch  batch KiB  p50 ms  p99 ms  CPU us  bare/s  ratio\n",
        );
        for case in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:7}  {:3}  {:9.0}  {:9.1}  {:9.1}  {:6.2}  {:6.2}  {:6.1}  {:6.0}  {:5.2}",
                case.writers,
                case.size / 1024,
                case.appends_per_second,
                case.appends_per_batch,
                case.batch_bytes as f64 / 1024.0,
                case.latency_p50.as_secs_f64() * 1e3,
                case.latency_p99.as_secs_f64() * 1e3,
                case.cpu_per_append.as_secs_f64() * 1e6,
                case.bare_writes_per_second,
                case.ratio(),
            );
        }
        text
    }

    fn json(&self) -> Value {
        let case = |case: &CommitCase| {
            json!({
                "writers": case.writers,
                "size": case.size,
                "appends_per_second": case.appends_per_second,
                "appends_per_batch": case.appends_per_batch,
                "batch_bytes": case.batch_bytes,
                "batches_per_second": case.batches_per_second,
                "latency_p50_us": case.latency_p50.as_micros() as u64,
                "latency_p99_us": case.latency_p99.as_micros() as u64,
                "cpu_per_append_us": case.cpu_per_append.as_secs_f64() * 1e6,
                "bare_writes_per_second": case.bare_writes_per_second,
                "ratio": case.ratio(),
            })
        };
        self.0.iter().map(case).collect()
    }
}

/// Runs the tool.
///
/// # Errors
///
/// When the directory cannot be used, or a write fails.
pub(crate) fn run(arguments: &CommitArguments) -> anyhow::Result<bool> {
    let options = arguments.options()?;
    let mut cases = Vec::new();
    for &size in &options.sizes {
        for &writers in &options.writers {
            note(&format!("{writers} writers of {size} octets"));
            cases.push(measure_case(&options, writers, size)?);
        }
    }
    report::print(&CommitReport(cases), arguments.json)?;
    Ok(true)
}

fn measure_case(
    options: &CommitOptions,
    writers: usize,
    size: usize,
) -> anyhow::Result<CommitCase> {
    std::fs::create_dir_all(&options.directory)
        .with_context(|| format!("cannot make {}", options.directory.display()))?;
    let directory = tempfile::tempdir_in(&options.directory)?;
    let path = directory.path().to_owned();
    let duration = options.duration;
    let (sender, receiver) = mpsc::channel();
    let executor = ExecutorOptions { cpu: None, name: "commits".to_owned(), batch: false };
    let executor = start(&executor, move |runtime| async move {
        let case = run_case(&runtime, &path, writers, size, duration).await;
        let _ = sender.send(case);
    })?;
    executor.join()?;
    receiver.recv().context("the measurement ended early")?
}

/// The log, and who waits for it.
struct Log<R: Runtime> {
    runtime: R,
    storage: R::Storage,
    queue: RefCell<Queue>,
    files: RefCell<HashMap<SegmentSequence, <R::Storage as Storage>::File>>,
    waiting: RefCell<Vec<(BatchNumber, Waker)>>,
    writer: Cell<Option<Waker>>,
    is_over: Cell<bool>,
}

async fn run_case<R: Runtime>(
    runtime: &R,
    directory: &Path,
    writers: usize,
    size: usize,
    duration: Duration,
) -> anyhow::Result<CommitCase> {
    let identity = LogIdentity { log_id: runtime.random_seed(), shard: ShardId(0) };
    let storage = runtime.storage(directory);
    let log = Rc::new(Log {
        runtime: runtime.clone(),
        queue: RefCell::new(Queue::create(QueueConfig::default(), identity)?),
        files: RefCell::default(),
        waiting: RefCell::default(),
        writer: Cell::new(None),
        is_over: Cell::new(false),
        storage,
    });
    // Enough segments that all of them are recycled ones while it is measured.
    log.keep_segments().await?;
    let writing = Rc::clone(&log);
    runtime.spawn(Containment::Process, async move { writing.write_batches().await });
    let tending = Rc::clone(&log);
    runtime.spawn(Containment::Process, async move {
        while !tending.is_over.get() {
            if tending.keep_segments().await.is_err() {
                return;
            }
            tending.wake_writer();
            tending.runtime.sleep(Duration::from_millis(1)).await;
        }
    });
    let latencies = Rc::new(RefCell::new(Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?));
    let running = Rc::new(Cell::new(writers));
    // A first part that does not count brings the segments into being.
    let begin = Instant::now() + duration / 4;
    let end = begin + duration;
    for _ in 0..writers {
        let (log, latencies, running) =
            (Rc::clone(&log), Rc::clone(&latencies), Rc::clone(&running));
        runtime.spawn(Containment::Process, async move {
            log.write_messages(size, begin, end, &latencies).await;
            running.set(running.get() - 1);
        });
    }
    runtime.sleep(begin - Instant::now()).await;
    let (stats, cpu, began) = (log.queue.borrow().stats(), thread_cpu(), Instant::now());
    while running.get() > 0 {
        runtime.sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed().as_secs_f64();
    let cpu = thread_cpu().saturating_sub(cpu);
    let after = log.queue.borrow().stats();
    log.is_over.set(true);
    log.wake_writer();
    ensure!(log.queue.borrow().poison().is_none(), "a write to the log failed");

    let latencies = latencies.borrow().clone();
    let appends = latencies.len() as f64;
    ensure!(appends > 0.0, "no append became durable in time");
    let batches = after.batches_total - stats.batches_total;
    ensure!(batches > 0, "no batch became durable in time");
    let batch_bytes = (after.batch_bytes_total - stats.batch_bytes_total) / batches;
    let bare_writes_per_second = bare_writes(&log.storage, batch_bytes, duration).await?;
    let micros = |quantile| Duration::from_micros(latencies.value_at_quantile(quantile));
    Ok(CommitCase {
        writers,
        size,
        appends_per_second: appends / took,
        appends_per_batch: appends / batches as f64,
        batch_bytes,
        batches_per_second: batches as f64 / took,
        latency_p50: micros(0.5),
        latency_p99: micros(0.99),
        cpu_per_append: cpu.div_f64(appends),
        bare_writes_per_second,
    })
}

/// Writes blocks of one size, one after the other, and says how many a second.
async fn bare_writes<S: Storage>(
    storage: &S,
    size: u64,
    duration: Duration,
) -> anyhow::Result<f64> {
    const FILE_SIZE: u64 = 64 << 20;
    let len = usize::try_from(size.next_multiple_of(4096))?;
    let file = storage.create("bare", FILE_SIZE).await?;
    let mut bytes = vec![0x5A; len];
    let (mut offset, mut count) = (0, 0_u32);
    let began = Instant::now();
    while began.elapsed() < duration {
        if offset + len as u64 > FILE_SIZE {
            offset = 0;
        }
        let (written, back) = storage.write(&file, offset, bytes).await;
        ensure!(written? == len, "a short write");
        bytes = back;
        offset += len as u64;
        count += 1;
    }
    Ok(f64::from(count) / began.elapsed().as_secs_f64())
}

impl<R: Runtime> Log<R> {
    async fn write_messages(
        &self,
        size: usize,
        begin: Instant,
        end: Instant,
        latencies: &RefCell<Histogram<u64>>,
    ) {
        let envelope = envelope();
        let content = vec![b'x'; size];
        loop {
            let began = Instant::now();
            if began >= end || self.queue.borrow().poison().is_some() {
                return;
            }
            let appended = {
                let mut queue = self.queue.borrow_mut();
                let id = queue.next_id();
                let message = NewMessage {
                    id,
                    received_unix_ms: 0,
                    expiry_unix_ms: u64::MAX,
                    due_unix_ms: 0,
                    envelope: &envelope,
                    content: &content,
                    size: size as u64,
                };
                queue.append_message(message, EventRecords::NONE)
            };
            let Ok(ticket) = appended else {
                self.runtime.sleep(Duration::from_millis(1)).await;
                continue;
            };
            self.commit(ticket).await;
            if began >= begin {
                let waited = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                latencies.borrow_mut().saturating_record(waited);
            }
            let recipients = vec![(RecipientIndex(0), Disposition::Delivered)];
            let outcome = Outcome { id: ticket.id(), recipients };
            // Nobody waits for it: it is written with the next batch.
            let _ = self
                .queue
                .borrow_mut()
                .append_outcome(&outcome, None, EventRecords::NONE)
                .map(|ticket| ticket.id());
        }
    }

    /// Waits until a ticket can be redeemed.
    async fn commit(&self, ticket: Ticket) {
        self.wake_writer();
        while self.queue.borrow().redeem(ticket) == Redeemed::Pending {
            self.wait_for(ticket.batch()).await;
        }
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Writes batches for as long as it is measured.
    async fn write_batches(&self) {
        let (mut woken, mut last_len) = (BatchNumber(0), 0);
        while !self.is_over.get() {
            let write = self.queue.borrow_mut().poll_write();
            let Some(write) = write else {
                // When all wait at once for a large batch, half of them go first: the disk has theirs
                // while the others append.
                let waiting = self.waiting.borrow().len();
                let is_large = last_len >= LARGE && waiting > 1;
                let count = self.wake(woken, if is_large { waiting / 2 } else { usize::MAX });
                if is_large && count > 0 {
                    future::yield_now().await;
                } else {
                    self.wait_for_work().await;
                }
                continue;
            };
            let Some(file) = self.files.borrow().get(&write.segment).cloned() else { return };
            last_len = write.bytes.len();
            let mut writing = pin!(self.storage.write(&file, write.offset, write.bytes));
            let mut done = future::poll_once(writing.as_mut()).await;
            // On its way to the disk before those are woken that waited for the last one.
            self.runtime.flush().await;
            self.wake(woken, usize::MAX);
            if done.is_none() {
                done = Some(writing.await);
            }
            let Some((written, bytes)) = done else { return };
            self.queue.borrow_mut().handle_write(written, bytes);
            woken = self.queue.borrow().durable_through();
        }
    }

    /// Wakes who waits for what is durable, so many at most; gives how many.
    fn wake(&self, durable: BatchNumber, most: usize) -> usize {
        let mut count = 0;
        self.waiting.borrow_mut().retain(|(batch, waker)| {
            if *batch > durable || count == most {
                return true;
            }
            count += 1;
            waker.wake_by_ref();
            false
        });
        count
    }

    async fn wait_for_work(&self) {
        let mut has_waited = false;
        poll_fn(|context| {
            if has_waited {
                return Poll::Ready(());
            }
            has_waited = true;
            self.writer.set(Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    async fn wait_for(&self, batch: BatchNumber) {
        let mut has_waited = false;
        poll_fn(|context| {
            if has_waited {
                return Poll::Ready(());
            }
            has_waited = true;
            self.waiting.borrow_mut().push((batch, context.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Does what the queue wants done with segments.
    async fn keep_segments(&self) -> anyhow::Result<()> {
        loop {
            let Some(task) = self.queue.borrow_mut().poll_segment() else { return Ok(()) };
            if let SegmentTask::Recycle { old, .. } | SegmentTask::Remove { sequence: old } = task {
                self.files.borrow_mut().remove(&old);
            }
            let file = run_task(&self.storage, &task).await;
            let done = match (file, task) {
                (
                    Ok(Some(file)),
                    SegmentTask::Create { sequence, .. }
                    | SegmentTask::Recycle { new: sequence, .. },
                ) => {
                    self.files.borrow_mut().insert(sequence, file);
                    Ok(())
                }
                (file, _) => file.map(drop),
            };
            let failed = done.as_ref().err().map(ToString::to_string);
            self.queue.borrow_mut().handle_segment(task, done);
            if let Some(failed) = failed {
                anyhow::bail!("cannot prepare a segment: {failed}");
            }
        }
    }
}

fn envelope() -> Envelope {
    let path = ForwardPath::parse("<recipient@example.net>");
    Envelope::new(ReversePath::Null, path.into_iter().collect(), BodyType::SevenBit)
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
