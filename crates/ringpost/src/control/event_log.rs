//! The event log: batches of lines from the shards, appended to one file.
//!
//! Each shard is told up to where its records are synced, so that it need not keep them any longer. The
//! file is synced about once a second while there is something to sync, and at once when there was
//! nothing for a second. A line that a crash has cut short stays as it is: the next start ends it with a
//! line feed, and its record comes again, whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, after, never, select_biased};
use ringpost_metrics::ControlMetrics;
use ringpost_queue::Lsn;

use super::{ControlError, Worker};

/// Bytes gathered for one write, unless a single batch is larger.
const WRITE_SIZE_MAX: usize = 1 << 20;
/// How long to wait before a failed write or open is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long at least from one sync to the next.
const SYNC_PERIOD: Duration = Duration::from_secs(1);
/// For the user and the group: records hold addresses of people.
const FILE_MODE: u32 = 0o640;

/// How far the writer has come with the records of one shard.
#[derive(Debug, Default)]
struct Progress {
    /// The frame of its log up to which all are synced.
    synced: AtomicU64,
    /// How often a sync has failed, so that what had been written may be gone.
    failures: AtomicU64,
}

/// Lines of one shard.
#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    report: Report,
    /// The shard waits for the sync.
    is_urgent: bool,
}

/// What a shard is told when its lines are synced.
#[derive(Debug, Clone)]
struct Report {
    progress: Arc<Progress>,
    through: Lsn,
    /// The failures that the shard knew of. After one that it did not know of, lines before these may be
    /// missing.
    failures: u64,
}

/// A shard's end of the channel to the event log.
#[derive(Debug)]
pub struct EventSender {
    batches: Option<Sender<Batch>>,
    progress: Arc<Progress>,
}

/// The writer's end of the channel.
#[derive(Debug)]
pub struct EventReceiver {
    batches: Receiver<Batch>,
}

/// Lines of one shard that a writer has taken, and has to answer for.
#[derive(Debug)]
pub struct EventBatch(Batch);

impl EventReceiver {
    /// The next batch, if there is one. The event log's own thread takes them otherwise.
    pub fn try_take(&self) -> Option<EventBatch> {
        self.batches.try_recv().ok().map(EventBatch)
    }
}

impl EventBatch {
    /// Whole lines, or none when a shard only asks for a sync.
    pub fn lines(&self) -> &[u8] {
        &self.0.lines
    }

    /// Tells the shard that the lines are on stable storage, with all that it sent before.
    pub fn synced(self) {
        self.0.report.synced();
    }

    /// Tells the shard that the lines, and others before them, may be lost: it sends them again.
    pub fn lost(self) {
        if !self.0.is_urgent {
            self.0.report.lost();
        }
    }
}

/// A channel that holds at most `batches_max` batches.
pub fn event_channel(batches_max: usize) -> (EventSender, EventReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(batches_max);
    (
        EventSender { batches: Some(sender), progress: Arc::default() },
        EventReceiver { batches: receiver },
    )
}

impl EventSender {
    /// A sender for when there is no event log: takes everything and does nothing.
    pub fn off() -> Self {
        Self { batches: None, progress: Arc::default() }
    }

    /// A sender into the same channel with a progress of its own.
    #[must_use]
    pub fn for_shard(&self) -> Self {
        Self { batches: self.batches.clone(), progress: Arc::default() }
    }

    /// Tells whether records are worth encoding.
    pub fn is_on(&self) -> bool {
        self.batches.is_some()
    }

    /// Hands over whole lines, without waiting: all records up to the frame `through` that have not been
    /// handed over before. `failures` is how many failures of the writer the shard has made up for.
    ///
    /// # Errors
    ///
    /// The lines, if the channel is full or the writer gone.
    pub fn send(&self, lines: Vec<u8>, through: Lsn, failures: u64) -> Result<(), Vec<u8>> {
        let Some(batches) = &self.batches else { return Ok(()) };
        let report = Report { progress: Arc::clone(&self.progress), through, failures };
        let sent = batches.try_send(Batch { lines, report, is_urgent: false });
        sent.map_err(|error| match error {
            TrySendError::Full(batch) | TrySendError::Disconnected(batch) => batch.lines,
        })
    }

    /// Asks for a sync of what was sent before, without waiting.
    pub fn flush(&self) {
        if let Some(batches) = &self.batches {
            let progress = Arc::clone(&self.progress);
            let report = Report { progress, through: Lsn(0), failures: 0 };
            // A full channel is being written out; it is asked again.
            let _ = batches.try_send(Batch { lines: Vec::new(), report, is_urgent: true });
        }
    }

    /// How often the writer has failed to keep what was sent, and the frame up to which all is safe.
    pub fn progress(&self) -> (u64, Lsn) {
        let failures = self.progress.failures.load(Ordering::Acquire);
        (failures, Lsn(self.progress.synced.load(Ordering::Acquire)))
    }
}

impl Report {
    /// Whether lines before these may be missing.
    fn is_void(&self) -> bool {
        self.failures != self.progress.failures.load(Ordering::Acquire)
    }

    fn synced(&self) {
        if !self.is_void() {
            self.progress.synced.fetch_max(self.through.0, Ordering::AcqRel);
        }
    }

    fn lost(&self) {
        self.progress.failures.fetch_add(1, Ordering::AcqRel);
    }
}

fn lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
}

/// What is written to: a file, or a faulty one in tests.
trait EventFile: Write {
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

impl EventFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Reopen,
    Stop,
}

/// The running thread.
#[derive(Debug)]
pub(super) struct WriterHandle {
    orders: Sender<Order>,
    worker: Worker,
}

impl WriterHandle {
    pub(super) fn reopen(&self) {
        // A full channel holds a reopening that has not been done yet, which will serve.
        let _ = self.orders.try_send(Order::Reopen);
    }

    pub(super) fn stop(self) {
        let _ = self.orders.send_timeout(Order::Stop, super::STOP_WAIT);
        self.worker.wait();
    }
}

/// Opens the file and starts the thread.
pub(super) fn spawn(
    path: PathBuf,
    receiver: EventReceiver,
    metrics: ControlMetrics,
) -> Result<WriterHandle, ControlError> {
    let file =
        open(&path).map_err(|source| ControlError::EventLog { path: path.clone(), source })?;
    let (orders, received) = crossbeam_channel::bounded(1);
    let writer = Writer {
        open: Box::new(move || open(&path)),
        file,
        pending: Vec::new(),
        written: 0,
        gathered: Vec::new(),
        unsynced: Vec::new(),
        is_urgent: false,
        synced_at: None,
        failing: false,
        reopen_failed: false,
        metrics,
    };
    let worker = Worker::spawn("events", move || writer.run(&receiver.batches, &received))?;
    Ok(WriterHandle { orders, worker })
}

/// Opens the file, and ends a line that was cut short.
fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).append(true).create(true).mode(FILE_MODE).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(file);
    }
    match metadata.len().checked_sub(1) {
        // It may be new. Not every file system can sync a directory; those that cannot need no sync.
        None => {
            if let Some(Ok(directory)) = path.parent().map(File::open) {
                let _ = directory.sync_all();
            }
        }
        Some(last) => {
            let mut end = [0];
            file.read_exact_at(&mut end, last)?;
            if end != *b"\n" {
                (&file).write_all(b"\n")?;
            }
        }
    }
    Ok(file)
}

/// Writes what comes in; `F` is the file, or a faulty one in tests.
struct Writer<F> {
    open: Box<dyn FnMut() -> io::Result<F> + Send>,
    file: F,
    /// Whole lines, of which the first `written` bytes are in the file.
    pending: Vec<u8>,
    written: usize,
    /// Whom to tell of what is pending, and of what is written and not synced.
    gathered: Vec<Report>,
    unsynced: Vec<Report>,
    /// Somebody waits for the sync.
    is_urgent: bool,
    synced_at: Option<Instant>,
    /// Whether the last write failed.
    failing: bool,
    /// Whether the last reopening failed.
    reopen_failed: bool,
    metrics: ControlMetrics,
}

impl<F: EventFile> Writer<F> {
    /// Until the order to stop comes, or the shards are gone.
    fn run(mut self, batches: &Receiver<Batch>, orders: &Receiver<Order>) {
        let mut orders = orders.clone();
        let nothing = never();
        let mut troubled = false;
        loop {
            // While the file fails no batch is taken, so that the channel's bound holds.
            let source = if self.pending.is_empty() { batches } else { &nothing };
            let retry = if troubled { after(RETRY_DELAY) } else { never() };
            let sync = self.until_sync().map_or_else(never, after);
            select_biased! {
                recv(orders) -> order => match order {
                    Ok(Order::Reopen) => self.reopen(),
                    Ok(Order::Stop) => break,
                    // The handle is gone: no more orders, but mail goes on.
                    Err(_) => orders = never(),
                },
                recv(retry) -> _ => {}
                recv(sync) -> _ => {}
                recv(source) -> batch => match batch {
                    Ok(batch) => self.gather(batch, batches),
                    Err(_) => break,
                },
            }
            if self.reopen_failed {
                self.reopen();
            }
            self.write();
            if self.until_sync().is_some_and(|rest| rest.is_zero()) {
                self.sync();
            }
            troubled = self.reopen_failed || !self.pending.is_empty();
        }
        self.finish(batches);
    }

    /// Takes a batch, and those that wait behind it, up to [`WRITE_SIZE_MAX`].
    fn gather(&mut self, batch: Batch, batches: &Receiver<Batch>) {
        self.take(batch);
        while self.pending.len() < WRITE_SIZE_MAX {
            let Ok(next) = batches.try_recv() else { break };
            self.take(next);
        }
    }

    fn take(&mut self, batch: Batch) {
        if batch.is_urgent {
            self.is_urgent = true;
            return;
        }
        if self.pending.is_empty() {
            self.pending = batch.lines;
        } else {
            self.pending.extend_from_slice(&batch.lines);
        }
        note(&mut self.gathered, batch.report);
    }

    /// How long until a sync is due, if there is anything to sync.
    fn until_sync(&self) -> Option<Duration> {
        if self.unsynced.is_empty() {
            return None;
        }
        let since = self.synced_at.filter(|_| !self.is_urgent);
        Some(since.map_or(Duration::ZERO, |at| SYNC_PERIOD.saturating_sub(at.elapsed())))
    }

    /// Makes what was written durable, and tells the shards. What was written before a failure may be
    /// gone, whatever a second sync says: the shards have to send it again.
    fn sync(&mut self) {
        self.is_urgent = false;
        self.synced_at = Some(Instant::now());
        match self.file.sync() {
            Ok(()) => {
                self.metrics.event_syncs.increment(1);
                for report in self.unsynced.drain(..) {
                    report.synced();
                }
            }
            Err(error) => {
                self.metrics.event_write_failures.increment(1);
                tracing::error!("cannot sync the event log, will write again: {error}");
                // Also those of which a part has been written.
                let parts = self.gathered.iter().filter(|_| self.written > 0).cloned();
                for report in parts.collect::<Vec<_>>() {
                    note(&mut self.unsynced, report);
                }
                for report in self.unsynced.drain(..) {
                    report.lost();
                }
            }
        }
    }

    /// Writes what is pending. After a failure the rest stays, for the next call.
    fn write(&mut self) {
        let start = self.written;
        let outcome = loop {
            let rest = self.pending.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(());
            }
            match self.file.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let new = self.pending.get(start..self.written).unwrap_or_default();
        self.metrics.event_records_written.increment(lines(new));
        self.metrics.event_bytes_written.increment(new.len() as u64);
        self.report(outcome);
        if self.written >= self.pending.len() {
            self.pending.clear();
            self.written = 0;
            for report in self.gathered.drain(..) {
                note(&mut self.unsynced, report);
            }
        }
    }

    /// Counts a failure, and logs when writing begins or ceases to fail.
    fn report(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) if self.failing => {
                tracing::info!("the event log can be written again");
                self.failing = false;
            }
            Ok(()) => {}
            Err(error) => {
                self.metrics.event_write_failures.increment(1);
                if !self.failing {
                    tracing::error!("cannot write the event log, will try again: {error}");
                }
                self.failing = true;
            }
        }
    }

    /// Opens the file by its name. After a failure the old one stays in use.
    fn reopen(&mut self) {
        match (self.open)() {
            Ok(file) => {
                // Nobody will do it later.
                if self.written > 0 || !self.unsynced.is_empty() {
                    self.sync();
                }
                self.file = file;
                self.reopen_failed = false;
                // A line that is partly in the old file is written whole to the new one.
                let before = self.pending.get(..self.written).unwrap_or_default();
                self.written = memchr::memrchr(b'\n', before).map_or(0, |position| position + 1);
            }
            Err(error) => {
                self.metrics.event_write_failures.increment(1);
                if !self.reopen_failed {
                    tracing::error!("cannot reopen the event log, will try again: {error}");
                }
                self.reopen_failed = true;
            }
        }
    }

    /// Writes what waits in the channel. What cannot be written stays in the logs of the shards.
    fn finish(mut self, batches: &Receiver<Batch>) {
        for batch in batches.try_iter() {
            self.take(batch);
            if self.pending.len() >= WRITE_SIZE_MAX && !self.failing {
                self.write();
            }
        }
        self.write();
        if !self.unsynced.is_empty() {
            self.sync();
        }
        let left = lines(self.pending.get(self.written..).unwrap_or_default());
        if left > 0 {
            tracing::warn!("{left} event record(s) will be written after the next start");
        }
    }
}

/// Adds a report to a list that has at most one for each shard.
fn note(list: &mut Vec<Report>, report: Report) {
    match list.iter_mut().find(|known| Arc::ptr_eq(&known.progress, &report.progress)) {
        Some(known) => *known = report,
        None => list.push(report),
    }
}

#[cfg(test)]
mod tests;
