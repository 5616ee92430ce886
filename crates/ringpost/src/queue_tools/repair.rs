//! `ringpost queue repair`: what is whole of a damaged shard goes into a new log.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use futures_lite::future::block_on;
use ringpost_queue::{
    Inspection, ShardId,
    checkpoint::CHECKPOINT_FILES,
    inspect,
    salvage::{Rebuilt, rebuild},
};

use super::{
    StoppedQueue, Verdict,
    report::{LostReport, ShardReport},
    storage::{FileStorage, sync_directory},
    swap, with_queue,
};
use crate::runtime::system_unix_ms;

/// Repairs one shard, or all that are damaged, and prints what became of them. `dry_run`: only says what
/// would become of them.
pub fn repair(config: &Path, shard: Option<u16>, dry_run: bool) -> ExitCode {
    with_queue(config, |queue, out| {
        let mut verdict = Verdict::Well;
        for shard in queue.shards(shard)? {
            if !dry_run && swap::finish(queue.directory.path(), shard)? {
                writeln!(
                    out,
                    "shard {shard}: an earlier repair was interrupted; it is complete now"
                )?;
            }
            let name = || format!("shard {shard}");
            if !one(queue, shard, dry_run, out, &mut || Ok(())).with_context(name)? && dry_run {
                verdict = Verdict::Damaged;
            }
        }
        Ok(verdict)
    })
}

/// Repairs a shard; whether it was intact.
fn one(
    queue: &StoppedQueue,
    shard: ShardId,
    dry_run: bool,
    out: &mut dyn Write,
    step: &mut dyn FnMut() -> io::Result<()>,
) -> Result<bool> {
    let storage = queue.storage(shard);
    let found = block_on(inspect(&storage, &queue.queue_config(), queue.identity(shard)))?;
    let report = ShardReport::new(shard.0, &found);
    if report.is_intact() {
        writeln!(out, "shard {shard}: intact, nothing to repair")?;
        return Ok(true);
    }
    report.write(out)?;
    if dry_run {
        writeln!(
            out,
            "shard {shard}: {} message(s) for {} recipient(s) would be kept, {} would be lost; nothing \
             was changed",
            report.messages,
            report.recipients,
            report.losses.lost.len()
        )?;
        return Ok(false);
    }
    if !found.is_log_damaged() && is_only_checkpoint(&found) {
        // All that a checkpoint says is in the log.
        remove_checkpoints(&swap::current(queue.directory.path(), shard))?;
        writeln!(out, "shard {shard}: the checkpoints are removed; the log is intact")?;
        return Ok(false);
    }
    let (rebuilt, aside) = replace(queue, shard, &storage, &found, step)?;
    for lost in &rebuilt.lost {
        LostReport::from(lost).write(out)?;
    }
    writeln!(
        out,
        "shard {shard}: repaired: {} message(s) for {} recipient(s) are kept, {} are lost; the old log is \
         in {aside}",
        rebuilt.messages,
        rebuilt.recipients,
        report.losses.lost.len() + rebuilt.lost.len(),
    )?;
    Ok(false)
}

fn is_only_checkpoint(found: &Inspection) -> bool {
    found.damages.iter().all(|damage| CHECKPOINT_FILES.contains(&damage.file.as_str()))
}

fn remove_checkpoints(directory: &Path) -> io::Result<()> {
    for name in CHECKPOINT_FILES {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    sync_directory(directory)
}

/// Writes the new log and puts it in the place of the old one; gives the name of that.
fn replace(
    queue: &StoppedQueue,
    shard: ShardId,
    storage: &FileStorage,
    found: &Inspection,
    step: &mut dyn FnMut() -> io::Result<()>,
) -> Result<(Rebuilt, String)> {
    let directory = queue.directory.path();
    let new = swap::repaired(directory, shard);
    // What an earlier repair left that did not come to its end.
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        removed => removed.with_context(|| format!("cannot remove {}", new.display()))?,
    }
    step()?;
    DirBuilder::new()
        .mode(0o700)
        .create(&new)
        .with_context(|| format!("cannot make {}", new.display()))?;
    step()?;
    let target = FileStorage::new(&new);
    let config = queue.queue_config();
    let identity = queue.identity(shard);
    let rebuilt = block_on(rebuild(&found.survey, storage, &target, &config, identity))?;
    step()?;
    sync_directory(&new)?;
    // It must hold what it is to hold before the old one goes.
    let again = block_on(inspect(&target, &config, identity))?;
    anyhow::ensure!(
        again.damages.is_empty() && again.survey.message_count() == rebuilt.messages,
        "the new log is not what was written: {:?}",
        again.damages
    );
    let aside = swap::swap(directory, shard, system_unix_ms(), step)?;
    Ok((rebuilt, aside))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ringpost_protocol::{
        envelope::{BodyType, Envelope},
        path::{ForwardPath, ReversePath},
    };
    use ringpost_queue::{
        EventRecords, MessageId, NewMessage, Queue, SegmentSequence, checkpoint::write_piece,
        offline::drain, recover,
    };

    use super::super::testing;
    use super::*;

    /// A queue of one shard with messages in several frames, of which the second is damaged.
    fn damaged() -> (tempfile::TempDir, Vec<MessageId>) {
        let (directory, queue) = testing::queue(1);
        let storage = queue.storage(ShardId(0));
        let opened = recover(&storage, queue.queue_config(), queue.identity(ShardId(0)));
        let (mut log, _) = block_on(opened).unwrap();
        let mut ids: Vec<_> = (0..5).map(|number| append(&mut log, &storage, number)).collect();
        let file = directory.path().join("queue/shard-000").join(SegmentSequence(1).file_name());
        let mut bytes = fs::read(&file).unwrap();
        bytes[2 * 4096 + 120] ^= 1;
        fs::write(&file, bytes).unwrap();
        ids.remove(1);
        (directory, ids)
    }

    fn append(log: &mut Queue, storage: &FileStorage, number: usize) -> MessageId {
        let id = log.next_id();
        let envelope = Envelope::new(
            ReversePath::Null,
            vec![ForwardPath::parse(&format!("<user{number}@one.test>")).unwrap()],
            BodyType::SevenBit,
        );
        let content = b"Subject: one\r\n\r\none\r\n";
        let message = NewMessage {
            id,
            received_unix_ms: 1,
            expiry_unix_ms: 2,
            due_unix_ms: 1,
            envelope: &envelope,
            content,
            size: content.len() as u64,
        };
        let _ = log.append_message(message, EventRecords::NONE).unwrap();
        block_on(drain(log, storage)).unwrap();
        id
    }

    fn look(queue: &StoppedQueue) -> Inspection {
        let storage = queue.storage(ShardId(0));
        block_on(inspect(&storage, &queue.queue_config(), queue.identity(ShardId(0)))).unwrap()
    }

    fn kept(found: &Inspection) -> Vec<MessageId> {
        found.survey.messages().map(|view| view.id).collect()
    }

    fn names(directory: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_repair_that_is_cut_off_anywhere_leaves_the_old_log_or_the_new_one() {
        let mut ends = Vec::new();
        for last in 0..100 {
            let (directory, ids) = damaged();
            let queue = testing::open(directory.path());
            let mut steps = 0;
            let done = one(&queue, ShardId(0), false, &mut Vec::new(), &mut || {
                steps += 1;
                if steps > last { Err(io::Error::other("cut off")) } else { Ok(()) }
            });
            drop(queue);
            let queue = testing::open(directory.path());
            swap::finish(queue.directory.path(), ShardId(0)).unwrap();
            let found = look(&queue);
            // Nothing but the damage is lost, whichever of them it is.
            assert_eq!(kept(&found), ids, "after step {last}");
            ends.push(found.damages.is_empty());
            // And another one comes to its end.
            one(&queue, ShardId(0), false, &mut Vec::new(), &mut || Ok(())).unwrap();
            let found = look(&queue);
            assert_eq!((found.damages.len(), kept(&found)), (0, ids), "after step {last}");
            assert!(!swap::repaired(queue.directory.path(), ShardId(0)).exists());
            if done.is_ok() {
                break;
            }
        }
        let changes = ends.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(
            (ends.first(), ends.last(), changes),
            (Some(&false), Some(&true), 1),
            "{ends:?}"
        );
    }

    #[test]
    fn a_dry_run_says_what_would_be_and_changes_nothing() {
        let (directory, ids) = damaged();
        let queue = testing::open(directory.path());
        let before = names(&directory.path().join("queue"));
        let mut said = Vec::new();
        assert!(!one(&queue, ShardId(0), true, &mut said, &mut || unreachable!()).unwrap());
        let said = String::from_utf8(said).unwrap();
        for part in [
            "shard 0: DAMAGED: 4 message(s) for 4 recipient(s)",
            "segment-0000000000000001 at 8192: a frame is damaged",
            "message 0000000000002 is lost: its record in segment 0000000000000001 at 8272",
            "4 message(s) for 4 recipient(s) would be kept, 1 would be lost",
        ] {
            assert!(said.contains(part), "{part:?} in: {said}");
        }
        assert_eq!(names(&directory.path().join("queue")), before);
        assert_eq!(kept(&look(&queue)), ids);
        let _ = one(&queue, ShardId(0), false, &mut Vec::new(), &mut || Ok(())).unwrap();
        let mut said = Vec::new();
        assert!(one(&queue, ShardId(0), false, &mut said, &mut || Ok(())).unwrap());
        assert_eq!(said, b"shard 0: intact, nothing to repair\n");
        assert_ne!(names(&directory.path().join("queue")), before);
    }

    #[test]
    fn a_damaged_checkpoint_alone_is_removed() {
        let (directory, queue) = testing::queue(1);
        let storage = queue.storage(ShardId(0));
        let opened = recover(&storage, queue.queue_config(), queue.identity(ShardId(0)));
        let (mut log, _) = block_on(opened).unwrap();
        let ids: Vec<_> = (0..8).map(|number| append(&mut log, &storage, number)).collect();
        log.request_checkpoint();
        let mut open = None;
        while let Some(piece) = log.poll_checkpoint() {
            let written = block_on(write_piece(&storage, &mut open, piece));
            log.handle_checkpoint(written);
        }
        let file = directory.path().join("queue/shard-000").join(CHECKPOINT_FILES[0]);
        let mut bytes = fs::read(&file).unwrap();
        assert!(look(&queue).damages.is_empty());
        bytes[4096 + 20] ^= 1;
        fs::write(&file, bytes).unwrap();
        let mut said = Vec::new();
        assert!(!one(&queue, ShardId(0), false, &mut said, &mut || Ok(())).unwrap());
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("checkpoint-0 at 0: the checkpoint is damaged"), "{said}");
        assert!(said.contains("the checkpoints are removed; the log is intact"), "{said}");
        assert!(!file.exists());
        let found = look(&queue);
        assert_eq!((found.damages.len(), ids), (0, kept(&found)));
    }
}
