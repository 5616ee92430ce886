//! `ringpost queue import`: exported mail goes into a stopped queue.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};
use futures_lite::future::block_on;
use ringpost_protocol::envelope::Envelope;
use ringpost_queue::{
    Admission, AppendError, MessageId, NewMessage, Queue, RecipientState, offline::drain, recover,
};

use super::{
    StoppedQueue, Verdict,
    envelope::{ENVELOPE_SIZE_MAX, Sheet},
    storage::{FileStorage, sync_directory},
    with_queue,
};

/// Messages, and octets of content, that are made durable together.
const BATCH: usize = 64;
const BATCH_SIZE: usize = 16 << 20;

/// Where a pair of files goes that has been imported.
const IMPORTED: &str = "imported";

/// Takes the messages of a directory into the queue, over all shards, under new ids.
pub fn import(config: &Path, from: &Path) -> ExitCode {
    with_queue(config, |queue, out| run(queue, from, out))
}

/// A shard that takes mail.
struct Target {
    queue: Queue,
    storage: FileStorage,
}

/// A message that is appended.
struct Appended {
    /// Its files, without extension.
    name: String,
    /// What it is called now; `None` if nothing of it was left to deliver.
    id: Option<MessageId>,
}

/// A message that was read.
struct Pair {
    sheet: Sheet,
    content: Vec<u8>,
    /// What is left of it to deliver.
    waiting: Option<(Envelope, Vec<RecipientState>)>,
}

pub(super) fn run(queue: &StoppedQueue, from: &Path, out: &mut dyn Write) -> Result<Verdict> {
    let names = names(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut targets = open(queue)?;
    let listeners = || queue.config.config().listener.values();
    let size_max = listeners().map(|one| one.message_size_max).max().unwrap_or(0);
    let recipients_max = listeners().map(|one| one.recipients_max).max().unwrap_or(0);
    let (mut batch, mut batch_size) = (Vec::new(), 0);
    let (mut imported, mut refused) = (0_usize, 0_usize);
    for name in names {
        let appended = read(from, &name, size_max, recipients_max).and_then(|pair| {
            batch_size += pair.content.len();
            let at = imported % targets.len().max(1);
            let target = targets.get_mut(at).context("the queue has no shard")?;
            target.append(&pair)
        });
        match appended {
            Ok(id) => {
                imported += 1;
                batch.push(Appended { name, id });
            }
            Err(error) if error.is::<Stop>() => {
                commit(&mut targets, from, &mut batch, out)?;
                return Err(error);
            }
            Err(error) => {
                refused += 1;
                writeln!(out, "{name}: not imported: {error:#}")?;
            }
        }
        if batch.len() >= BATCH || batch_size >= BATCH_SIZE {
            commit(&mut targets, from, &mut batch, out)?;
            batch_size = 0;
        }
    }
    commit(&mut targets, from, &mut batch, out)?;
    writeln!(out, "{imported} message(s) imported, {refused} refused")?;
    Ok(if refused == 0 { Verdict::Well } else { Verdict::Damaged })
}

/// The queue takes no more; what is left stays where it is.
#[derive(Debug, thiserror::Error)]
#[error("the queue takes no more mail: {0}")]
struct Stop(&'static str);

/// Opens the logs of all shards.
fn open(queue: &StoppedQueue) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for shard in queue.shards(None)? {
        let storage = queue.storage(shard);
        let opened = block_on(recover(&storage, queue.queue_config(), queue.identity(shard)));
        let (queue, _) = opened.with_context(|| {
            format!("shard {shard} cannot be opened; see `ringpost queue check` and `repair`")
        })?;
        targets.push(Target { queue, storage });
    }
    Ok(targets)
}

/// The names of the envelopes, without extension, in order. Ends the move of pairs that was interrupted.
fn names(from: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(stem) = path.file_stem().and_then(OsStr::to_str) else { continue };
        match path.extension().and_then(OsStr::to_str) {
            Some("json") => names.push(stem.to_owned()),
            Some("eml") if !file(from, stem, "json").exists() => {
                let imported = from.join(IMPORTED);
                if file(&imported, stem, "json").exists() {
                    fs::rename(&path, file(&imported, stem, "eml"))?;
                }
            }
            _ => {}
        }
    }
    names.sort();
    Ok(names)
}

fn file(directory: &Path, name: &str, extension: &str) -> PathBuf {
    directory.join(format!("{name}.{extension}"))
}

/// Reads a pair of files, and checks everything in it.
fn read(from: &Path, name: &str, size_max: u64, recipients_max: usize) -> Result<Pair> {
    let bytes = read_file(&file(from, name, "json"), ENVELOPE_SIZE_MAX)
        .with_context(|| format!("{name}.json"))?;
    let sheet = Sheet::read(&bytes).with_context(|| format!("{name}.json"))?;
    let content =
        read_file(&file(from, name, "eml"), size_max).with_context(|| format!("{name}.eml"))?;
    let waiting = sheet.to_queue(&content, recipients_max)?;
    Ok(Pair { sheet, content, waiting })
}

fn read_file(path: &Path, size_max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(size_max.saturating_add(1)).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= size_max, "it is longer than {size_max} octets");
    Ok(bytes)
}

impl Target {
    fn drain(&mut self) -> Result<()> {
        Ok(block_on(drain(&mut self.queue, &self.storage))?)
    }

    /// Appends a message; gives its new id.
    fn append(&mut self, pair: &Pair) -> Result<Option<MessageId>> {
        let Some((envelope, states)) = &pair.waiting else { return Ok(None) };
        if self.queue.admission() != Admission::Open {
            return Err(Stop("its log is full (queue.size_max)").into());
        }
        let id = self.queue.next_id();
        match self.append_as(id, pair, envelope, states) {
            Ok(()) => Ok(Some(id)),
            Err(error) => {
                self.queue.abandon(id);
                Err(error)
            }
        }
    }

    fn append_as(
        &mut self,
        id: MessageId,
        pair: &Pair,
        envelope: &Envelope,
        states: &[RecipientState],
    ) -> Result<()> {
        let chunk_size = self.queue.config().chunk_size.max(1);
        let mut rest = pair.content.as_slice();
        while let Some((chunk, others)) = rest.split_at_checked(chunk_size) {
            self.queue.append_chunk(id, chunk).map_err(explain)?;
            rest = others;
            if self.queue.stats().pending_bytes >= self.queue.config().batch_size_max as u64 {
                self.drain().context(Stop("it cannot be written"))?;
            }
        }
        let message = NewMessage {
            id,
            received_unix_ms: pair.sheet.received_unix_ms,
            expiry_unix_ms: pair.sheet.expiry_unix_ms,
            due_unix_ms: pair.sheet.due_unix_ms,
            envelope,
            content: rest,
            size: pair.content.len() as u64,
        };
        let _ = self.queue.append_restored(message, states).map_err(explain)?;
        Ok(())
    }
}

fn explain(error: AppendError) -> anyhow::Error {
    match error {
        AppendError::Full => Stop("its log is full (queue.size_max)").into(),
        error => error.into(),
    }
}

/// Makes what was appended durable, and only then puts the files aside, the envelope first: without it a pair
/// is not imported.
fn commit(
    targets: &mut [Target],
    from: &Path,
    batch: &mut Vec<Appended>,
    out: &mut dyn Write,
) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    for target in targets {
        target.drain().context("cannot write to the queue")?;
    }
    let imported = from.join(IMPORTED);
    match DirBuilder::new().mode(0o700).create(&imported) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            bail!("cannot make {}: {error}", imported.display())
        }
        _ => {}
    }
    for extension in ["json", "eml"] {
        for appended in &*batch {
            let name = &appended.name;
            fs::rename(file(from, name, extension), file(&imported, name, extension))
                .with_context(|| format!("cannot move {name}.{extension} to {IMPORTED}"))?;
        }
        sync_directory(&imported)?;
        sync_directory(from)?;
    }
    for Appended { name, id } in batch.drain(..) {
        match id {
            Some(id) => writeln!(out, "{name}: imported as {id}")?,
            None => writeln!(out, "{name}: nothing of it is left to deliver")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{export, testing};
    use super::*;

    /// Files for messages with one waiting recipient each, and one that is done with.
    fn write(directory: &Path, messages: usize) {
        for number in 0..messages {
            let content = format!("Subject: {number}\r\n\r\n{}\r\n", "x".repeat(number * 20_000));
            let sheet = serde_json::json!({
                "version": 1, "id": format!("{number}"), "reverse_path": "<>", "body": "8BITMIME",
                "size": content.len(), "received_unix_ms": 10 + number, "expiry_unix_ms": 99,
                "due_unix_ms": 15,
                "recipients": [
                    {"forward_path": "<done@one.test>", "state": "bounced"},
                    {"forward_path": format!("<u{number}@one.test>"), "state": "queued",
                     "attempts": number, "due_unix_ms": 17, "warned": number % 2 == 0},
                    {"forward_path": "<Postmaster>", "state": "queued"},
                ],
            });
            fs::write(file(directory, &format!("m{number}"), "eml"), content).unwrap();
            fs::write(file(directory, &format!("m{number}"), "json"), sheet.to_string()).unwrap();
        }
    }

    /// What is in a directory of exported mail, by content.
    fn exported(directory: &Path) -> BTreeMap<Vec<u8>, Sheet> {
        let mut all = BTreeMap::new();
        for name in names(directory).unwrap() {
            let sheet = Sheet::read(&fs::read(file(directory, &name, "json")).unwrap()).unwrap();
            assert_eq!(sheet.id, name);
            let content = fs::read(file(directory, &name, "eml")).unwrap();
            all.insert(content, Sheet { id: String::new(), ..sheet });
        }
        all
    }

    fn import_all(queue: &StoppedQueue, from: &Path) -> String {
        let mut said = Vec::new();
        let verdict = run(queue, from, &mut said).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(verdict, Verdict::Well, "{said}");
        said
    }

    fn export_all(queue: &StoppedQueue, to: &Path) {
        let verdict = export::run(queue, to, None, None, &mut Vec::new()).unwrap();
        assert_eq!(verdict, Verdict::Well);
    }

    #[test]
    fn what_is_exported_can_be_imported_elsewhere_and_is_the_same() {
        let files = tempfile::tempdir().unwrap();
        write(files.path(), 20);
        let (_first_directory, first) = testing::queue(2);
        let said = import_all(&first, files.path());
        assert!(said.contains("20 message(s) imported, 0 refused"), "{said}");
        // Once more: they are out of the way.
        assert!(import_all(&first, files.path()).contains("0 message(s) imported"));
        let one = tempfile::tempdir().unwrap();
        export_all(&first, one.path());
        let before = exported(one.path());
        assert_eq!(before.len(), 20);
        let sheet = before.values().find(|sheet| sheet.received_unix_ms == 13).unwrap();
        assert_eq!((sheet.due_unix_ms, sheet.recipients.len()), (15, 2));
        let recipient = &sheet.recipients[0];
        assert_eq!((recipient.attempts, recipient.due_unix_ms), (3, Some(17)));
        let (_second_directory, second) = testing::queue(3);
        import_all(&second, one.path());
        let two = tempfile::tempdir().unwrap();
        export_all(&second, two.path());
        assert_eq!(exported(two.path()), before);
        for shard in second.shards(None).unwrap() {
            let log = second.storage(shard);
            let (queue, found) =
                block_on(recover(&log, second.queue_config(), second.identity(shard))).unwrap();
            assert!((6..=7).contains(&found.messages), "{}", found.messages);
            drop(queue);
        }
    }

    #[test]
    fn what_is_wrong_stays_and_is_named() {
        let files = tempfile::tempdir().unwrap();
        write(files.path(), 4);
        fs::write(file(files.path(), "m1", "eml"), "short\r\n").unwrap();
        fs::remove_file(file(files.path(), "m2", "eml")).unwrap();
        fs::write(file(files.path(), "m3", "eml"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let (_directory, queue) = testing::queue(1);
        let mut said = Vec::new();
        assert_eq!(run(&queue, files.path(), &mut said).unwrap(), Verdict::Damaged);
        let said = String::from_utf8(said).unwrap();
        for part in [
            "m0: imported as 000",
            "m1: not imported: the content has 7 octets",
            "m2: not imported: m2.eml: No such file",
            "m3: not imported: m3.eml: it is longer than 1048576 octets",
            "1 message(s) imported, 3 refused",
        ] {
            assert!(said.contains(part), "{part:?} in: {said}");
        }
        assert_eq!(names(files.path()).unwrap(), ["m1", "m2", "m3"]);
    }

    #[test]
    fn a_move_that_was_interrupted_is_ended_and_not_imported_again() {
        let files = tempfile::tempdir().unwrap();
        write(files.path(), 1);
        let imported = files.path().join(IMPORTED);
        fs::create_dir(&imported).unwrap();
        fs::rename(file(files.path(), "m0", "json"), file(&imported, "m0", "json")).unwrap();
        let (_directory, queue) = testing::queue(1);
        assert!(import_all(&queue, files.path()).contains("0 message(s) imported"));
        assert!(file(&imported, "m0", "eml").exists());
    }
}
