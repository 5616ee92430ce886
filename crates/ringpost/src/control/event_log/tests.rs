use std::sync::Mutex;

use super::*;

/// What a file has, and has room for.
type Content = (Vec<u8>, usize);

/// Files by the order of opening.
#[derive(Clone, Default)]
struct Disk {
    files: Arc<Mutex<Vec<Content>>>,
    /// Syncs that are still to fail.
    failing_syncs: Arc<Mutex<u32>>,
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

impl EventFile for FakeFile {
    fn sync(&mut self) -> io::Result<()> {
        let failing = &mut *self.disk.failing_syncs.lock().unwrap();
        if *failing > 0 {
            *failing -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

fn batch(lines: &[u8]) -> Batch {
    let report = Report { progress: Arc::default(), through: Lsn(1), failures: 0 };
    Batch { lines: lines.to_vec(), report, is_urgent: false }
}

fn send(sender: &EventSender, lines: &[u8]) -> Result<(), Vec<u8>> {
    sender.send(lines.to_vec(), Lsn(1), 0)
}

fn writer(disk: &Disk, room: usize) -> Writer<FakeFile> {
    let again = disk.clone();
    Writer {
        open: Box::new(move || Ok(again.create(usize::MAX))),
        file: disk.create(room),
        pending: Vec::new(),
        written: 0,
        gathered: Vec::new(),
        unsynced: Vec::new(),
        is_urgent: false,
        synced_at: None,
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
    writer.gather(batch(b"one\ntwo\nthree\n"), &receiver.batches);
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
    writer.gather(batch(b"one\ntwo\nthree\n"), &receiver.batches);
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
    send(&sender, b"b\n").unwrap();
    send(&sender, b"c\n").unwrap();
    writer.gather(batch(b"a\n"), &receiver.batches);
    assert_eq!(writer.pending, b"a\nb\nc\n");
}

#[test]
fn a_full_or_closed_channel_gives_the_lines_back() {
    let (sender, receiver) = event_channel(1);
    send(&sender, b"a\nb\n").unwrap();
    assert_eq!(send(&sender, b"c\nd\n"), Err(b"c\nd\n".to_vec()));
    drop(receiver);
    assert_eq!(send(&sender, b"f\n"), Err(b"f\n".to_vec()));
    send(&EventSender::off(), b"g\n").unwrap();
    assert!(sender.is_on() && !EventSender::off().is_on());
}

#[test]
fn shards_are_told_what_is_synced_and_not_before() {
    let disk = Disk::default();
    let mut writer = writer(&disk, 4);
    let (sender, receiver) = event_channel(4);
    let (first, second) = (sender.for_shard(), sender.for_shard());
    first.send(b"one\n".to_vec(), Lsn(5), 0).unwrap();
    second.send(b"two\n".to_vec(), Lsn(7), 0).unwrap();
    let batch = receiver.batches.recv().unwrap();
    writer.gather(batch, &receiver.batches);
    writer.write();
    assert!(writer.until_sync().is_none(), "half of it is not written");
    disk.make_room(0);
    writer.write();
    assert_eq!(writer.until_sync(), Some(Duration::ZERO));
    assert_eq!((first.progress(), second.progress()), ((0, Lsn(0)), (0, Lsn(0))));
    writer.sync();
    assert_eq!((first.progress(), second.progress()), ((0, Lsn(5)), (0, Lsn(7))));
    // The next one waits its time, unless somebody waits for it.
    first.send(b"three\n".to_vec(), Lsn(9), 0).unwrap();
    let batch = receiver.batches.recv().unwrap();
    writer.gather(batch, &receiver.batches);
    writer.write();
    assert!(writer.until_sync().is_some_and(|rest| !rest.is_zero()));
    first.flush();
    let batch = receiver.batches.recv().unwrap();
    writer.gather(batch, &receiver.batches);
    assert_eq!(writer.until_sync(), Some(Duration::ZERO));
}

#[test]
fn after_a_failed_sync_nothing_is_believed_before_it_has_been_sent_again() {
    let disk = Disk::default();
    let mut writer = writer(&disk, usize::MAX);
    let (sender, receiver) = event_channel(4);
    let go = |writer: &mut Writer<FakeFile>| {
        let batch = receiver.batches.recv().unwrap();
        writer.gather(batch, &receiver.batches);
        writer.write();
        writer.sync();
    };
    *disk.failing_syncs.lock().unwrap() = 1;
    sender.send(b"one\n".to_vec(), Lsn(1), 0).unwrap();
    go(&mut writer);
    assert_eq!(sender.progress(), (1, Lsn(0)));
    // Sent before the shard knew of it: the line before is still missing.
    sender.send(b"two\n".to_vec(), Lsn(2), 0).unwrap();
    go(&mut writer);
    assert_eq!(sender.progress(), (1, Lsn(0)));
    sender.send(b"one\ntwo\n".to_vec(), Lsn(2), 1).unwrap();
    go(&mut writer);
    assert_eq!(sender.progress(), (1, Lsn(2)));
    assert_eq!(disk.text(0), "one\ntwo\none\ntwo\n");
}

#[test]
fn a_line_that_was_cut_short_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events.jsonl");
    let append = || open(&path).unwrap().write_all(b"whole\n").unwrap();
    append();
    append();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\nwhole\n");
    std::fs::write(&path, "whole\n{\"tim").unwrap();
    append();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\n{\"tim\nwhole\n");
}

#[test]
fn stopping_writes_what_waits() {
    let disk = Disk::default();
    let writer = writer(&disk, usize::MAX);
    let (sender, receiver) = event_channel(2);
    let (orders, received) = crossbeam_channel::bounded(1);
    send(&sender, b"a\n").unwrap();
    send(&sender, b"b\n").unwrap();
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
    send(&sender, b"a\n").unwrap();
    drop((sender, orders));
    writer.run(&receiver.batches, &received);
    assert_eq!(disk.text(0), "a\n");
}

#[test]
fn another_writer_answers_for_what_it_takes() {
    let (sender, receiver) = event_channel(4);
    sender.send(b"one\n".to_vec(), Lsn(5), 0).unwrap();
    sender.flush();
    let batch = receiver.try_take().unwrap();
    assert_eq!(batch.lines(), b"one\n");
    batch.synced();
    receiver.try_take().unwrap().lost();
    assert_eq!(sender.progress(), (0, Lsn(5)), "the wish for a sync has no lines to lose");
    assert!(receiver.try_take().is_none());
    sender.send(b"two\n".to_vec(), Lsn(6), 0).unwrap();
    receiver.try_take().unwrap().lost();
    assert_eq!(sender.progress(), (1, Lsn(5)));
    // Sent before the shard knew of the loss.
    sender.send(b"three\n".to_vec(), Lsn(7), 0).unwrap();
    receiver.try_take().unwrap().synced();
    assert_eq!(sender.progress(), (1, Lsn(5)));
}
