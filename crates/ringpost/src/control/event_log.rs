//! The event log: batches of lines from the shards, appended to one file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, after, never, select_biased};
use ringpost_metrics::ControlMetrics;

use super::{ControlError, Worker};

/// Bytes gathered for one write, unless a single batch is larger.
const WRITE_SIZE_MAX: usize = 1 << 20;
/// How long to wait before a failed write or open is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// For the user and the group: records hold addresses of people.
const FILE_MODE: u32 = 0o640;

/// The shards' end of the channel to the event log.
#[derive(Debug, Clone)]
pub struct EventSender {
    batches: Option<Sender<Vec<u8>>>,
}

/// The writer's end of the channel.
#[derive(Debug)]
pub struct EventReceiver {
    batches: Receiver<Vec<u8>>,
}

/// A channel that holds at most `batches_max` batches.
pub fn event_channel(batches_max: usize) -> (EventSender, EventReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(batches_max);
    (EventSender { batches: Some(sender) }, EventReceiver { batches: receiver })
}

impl EventSender {
    /// A sender for when there is no event log: takes everything and does nothing.
    pub fn off() -> Self {
        Self { batches: None }
    }

    /// Tells whether records are worth encoding.
    pub fn is_on(&self) -> bool {
        self.batches.is_some()
    }

    /// Hands over a batch of whole lines, without waiting. Returns how many records were dropped because
    /// the channel is full or the writer gone: 0, or all of the batch.
    pub fn send(&self, batch: Vec<u8>) -> u64 {
        let Some(batches) = &self.batches else { return 0 };
        match batches.try_send(batch) {
            Ok(()) => 0,
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => lines(&batch),
        }
    }
}

fn lines(batch: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', batch).count() as u64
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
        failing: false,
        reopen_failed: false,
        metrics,
    };
    let worker = Worker::spawn("events", move || writer.run(&receiver.batches, &received))?;
    Ok(WriterHandle { orders, worker })
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

/// Writes what comes in; `F` is the file, or a faulty one in tests.
struct Writer<F> {
    open: Box<dyn FnMut() -> io::Result<F> + Send>,
    file: F,
    /// Whole lines, of which the first `written` bytes are in the file.
    pending: Vec<u8>,
    written: usize,
    /// Whether the last write failed.
    failing: bool,
    /// Whether the last reopening failed.
    reopen_failed: bool,
    metrics: ControlMetrics,
}

impl<F: Write> Writer<F> {
    /// Until the order to stop comes, or the shards are gone.
    fn run(mut self, batches: &Receiver<Vec<u8>>, orders: &Receiver<Order>) {
        let mut orders = orders.clone();
        let nothing = never();
        let mut troubled = false;
        loop {
            // While the file fails no batch is taken, so that the channel's bound holds.
            let source = if self.pending.is_empty() { batches } else { &nothing };
            let retry = if troubled { after(RETRY_DELAY) } else { never() };
            select_biased! {
                recv(orders) -> order => match order {
                    Ok(Order::Reopen) => self.reopen(),
                    Ok(Order::Stop) => break,
                    // The handle is gone: no more orders, but mail goes on.
                    Err(_) => orders = never(),
                },
                recv(retry) -> _ => {}
                recv(source) -> batch => match batch {
                    Ok(batch) => self.gather(batch, batches),
                    Err(_) => break,
                },
            }
            if self.reopen_failed {
                self.reopen();
            }
            self.write();
            troubled = self.reopen_failed || !self.pending.is_empty();
        }
        self.finish(batches);
    }

    /// Takes a batch, and those that wait behind it, up to [`WRITE_SIZE_MAX`].
    fn gather(&mut self, batch: Vec<u8>, batches: &Receiver<Vec<u8>>) {
        if self.pending.is_empty() {
            self.pending = batch;
        } else {
            self.pending.extend_from_slice(&batch);
        }
        while self.pending.len() < WRITE_SIZE_MAX {
            let Ok(next) = batches.try_recv() else { break };
            self.pending.extend_from_slice(&next);
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

    /// Writes what waits in the channel, and counts what cannot be written.
    fn finish(mut self, batches: &Receiver<Vec<u8>>) {
        for batch in batches.try_iter() {
            self.pending.extend_from_slice(&batch);
            if self.pending.len() >= WRITE_SIZE_MAX && !self.failing {
                self.write();
            }
        }
        self.write();
        let lost = lines(self.pending.get(self.written..).unwrap_or_default());
        if lost > 0 {
            tracing::error!("{lost} event record(s) could not be written");
            self.metrics.event_records_lost.increment(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a file has, and has room for.
    type Content = (Vec<u8>, usize);

    /// Files by the order of opening.
    #[derive(Clone, Default)]
    struct Disk {
        files: Arc<Mutex<Vec<Content>>>,
    }

    struct FakeFile {
        disk: Disk,
        index: usize,
    }

    impl Disk {
        fn create(&self, room: usize) -> FakeFile {
            let mut files = self.files.lock().unwrap();
            files.push((Vec::new(), room));
            FakeFile { disk: self.clone(), index: files.len() - 1 }
        }

        fn make_room(&self, index: usize) {
            self.files.lock().unwrap()[index].1 = usize::MAX;
        }

        fn text(&self, index: usize) -> String {
            String::from_utf8(self.files.lock().unwrap()[index].0.clone()).unwrap()
        }
    }

    impl Write for FakeFile {
        /// Three bytes at a time, so that lines are always cut.
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut self.disk.files.lock().unwrap()[self.index];
            let count = bytes.len().min(3).min(*room - written.len());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn writer(disk: &Disk, room: usize) -> Writer<FakeFile> {
        let again = disk.clone();
        Writer {
            open: Box::new(move || Ok(again.create(usize::MAX))),
            file: disk.create(room),
            pending: Vec::new(),
            written: 0,
            failing: false,
            reopen_failed: false,
            metrics: ControlMetrics::noop(),
        }
    }

    #[test]
    fn a_failed_write_goes_on_where_it_stopped() {
        let disk = Disk::default();
        let mut writer = writer(&disk, 7);
        let (_sender, receiver) = event_channel(1);
        writer.gather(b"one\ntwo\nthree\n".to_vec(), &receiver.batches);
        writer.write();
        assert!(writer.failing);
        assert_eq!(disk.text(0), "one\ntwo");
        disk.make_room(0);
        writer.write();
        assert!(!writer.failing && writer.pending.is_empty());
        assert_eq!(disk.text(0), "one\ntwo\nthree\n");
    }

    #[test]
    fn reopening_never_splits_a_line_over_two_files() {
        let disk = Disk::default();
        let mut writer = writer(&disk, 6);
        let (_sender, receiver) = event_channel(1);
        writer.gather(b"one\ntwo\nthree\n".to_vec(), &receiver.batches);
        writer.write();
        writer.reopen();
        writer.write();
        assert_eq!(disk.text(0), "one\ntw");
        assert_eq!(disk.text(1), "two\nthree\n");
    }

    #[test]
    fn waiting_batches_share_a_write() {
        let disk = Disk::default();
        let mut writer = writer(&disk, usize::MAX);
        let (sender, receiver) = event_channel(4);
        assert_eq!(sender.send(b"b\n".to_vec()) + sender.send(b"c\n".to_vec()), 0);
        writer.gather(b"a\n".to_vec(), &receiver.batches);
        assert_eq!(writer.pending, b"a\nb\nc\n");
    }

    #[test]
    fn a_full_or_closed_channel_drops_and_counts() {
        let (sender, receiver) = event_channel(1);
        assert_eq!(sender.send(b"a\nb\n".to_vec()), 0);
        assert_eq!(sender.send(b"c\nd\ne\n".to_vec()), 3);
        drop(receiver);
        assert_eq!(sender.send(b"f\n".to_vec()), 1);
        assert_eq!(EventSender::off().send(b"g\n".to_vec()), 0);
        assert!(sender.is_on() && !EventSender::off().is_on());
    }

    #[test]
    fn stopping_writes_what_waits() {
        let disk = Disk::default();
        let writer = writer(&disk, usize::MAX);
        let (sender, receiver) = event_channel(2);
        let (orders, received) = crossbeam_channel::bounded(1);
        sender.send(b"a\n".to_vec());
        sender.send(b"b\n".to_vec());
        orders.send(Order::Stop).unwrap();
        writer.run(&receiver.batches, &received);
        assert_eq!(disk.text(0), "a\nb\n");
    }

    #[test]
    fn the_writer_ends_when_the_shards_are_gone() {
        let disk = Disk::default();
        let writer = writer(&disk, usize::MAX);
        let (sender, receiver) = event_channel(2);
        let (orders, received) = crossbeam_channel::bounded::<Order>(1);
        sender.send(b"a\n".to_vec());
        drop((sender, orders));
        writer.run(&receiver.batches, &received);
        assert_eq!(disk.text(0), "a\n");
    }
}
