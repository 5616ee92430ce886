//! `ringpost queue export`: the mail of a stopped queue as files that anybody can read.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use futures_lite::future::block_on;
use ringpost_queue::{
    MessageId, ShardId,
    offline::{ReadOnly, Reader},
    salvage::survey,
};

use super::{
    StoppedQueue, Verdict, envelope::Sheet, report::Losses, storage::sync_directory, with_queue,
};

/// Messages of which the names are made durable together.
const BATCH: usize = 64;

/// Writes the messages of one shard, or all, to a directory: `ID.eml` and `ID.json` each. Changes
/// nothing in the queue.
pub fn export(config: &Path, to: &Path, shard: Option<u16>, id: Option<MessageId>) -> ExitCode {
    with_queue(config, |queue, out| run(queue, to, shard, id, out))
}

pub(super) fn run(
    queue: &StoppedQueue,
    to: &Path,
    shard: Option<u16>,
    id: Option<MessageId>,
    out: &mut dyn Write,
) -> Result<Verdict> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(to)
        .with_context(|| format!("cannot make {}", to.display()))?;
    let mut verdict = Verdict::Well;
    let mut exported = 0;
    for shard in queue.shards(shard)? {
        exported += one(queue, shard, to, id, &mut verdict, out)
            .with_context(|| format!("shard {shard}"))?;
    }
    if let Some(id) = id
        && exported == 0
    {
        writeln!(out, "message {id} is not in the queue")?;
        verdict = Verdict::Damaged;
    }
    writeln!(out, "{exported} message(s) exported to {}", to.display())?;
    Ok(verdict)
}

fn one(
    queue: &StoppedQueue,
    shard: ShardId,
    to: &Path,
    id: Option<MessageId>,
    verdict: &mut Verdict,
    out: &mut dyn Write,
) -> Result<u64> {
    let storage = queue.storage(shard);
    let log = ReadOnly::without_checkpoints(&storage);
    let found = block_on(survey(&log, queue.identity(shard)))?;
    if !found.damages.is_empty() {
        *verdict = Verdict::Damaged;
        writeln!(out, "shard {shard} is damaged; what is whole is exported, not so:")?;
        Losses::from(&found).write(out)?;
    }
    let mut reader = Reader::new(&log);
    let mut batch = Vec::new();
    let mut exported = 0;
    for view in found.messages().filter(|view| id.is_none_or(|id| id == view.id)) {
        let plans = found.plan_read(view.id).unwrap_or_default();
        let stored = match block_on(reader.message(&plans, view.size))? {
            Ok(stored) => stored,
            Err(error) => {
                *verdict = Verdict::Damaged;
                writeln!(out, "message {} is not exported: {error}", view.id)?;
                continue;
            }
        };
        let name = view.id.to_string();
        let sheet = serde_json::to_vec_pretty(&Sheet::new(&view, &stored.envelope))?;
        let content: Vec<&[u8]> = stored.content.iter().map(Vec::as_slice).collect();
        let written = write_file(&to.join(format!("{name}.eml.tmp")), &content)
            .and_then(|()| write_file(&to.join(format!("{name}.json.tmp")), &[&sheet, b"\n"]));
        written.with_context(|| format!("cannot write to {}", to.display()))?;
        batch.push(name);
        exported += 1;
        if batch.len() >= BATCH {
            name_files(to, &mut batch)?;
        }
    }
    name_files(to, &mut batch)?;
    Ok(exported)
}

fn write_file(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let mut file: File =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    for part in parts {
        file.write_all(part)?;
    }
    file.sync_all()
}

/// Gives files that are complete their names. What has an envelope has its content.
fn name_files(to: &Path, batch: &mut Vec<String>) -> io::Result<()> {
    for extension in ["eml", "json"] {
        for name in &*batch {
            let path = to.join(format!("{name}.{extension}"));
            fs::rename(to.join(format!("{name}.{extension}.tmp")), path)?;
        }
        sync_directory(to)?;
    }
    batch.clear();
    Ok(())
}
