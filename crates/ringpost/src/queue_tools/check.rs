//! `ringpost queue check`: is everything in the queue as it was written?

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use futures_lite::future::block_on;
use ringpost_queue::{ShardId, inspect};
use serde::Serialize;

use super::{StoppedQueue, Verdict, report::ShardReport, with_queue};

#[derive(Debug, Serialize)]
struct Report {
    intact: bool,
    shards: Vec<ShardReport>,
}

/// Looks at one shard, or all, and prints what it finds. Changes nothing.
pub fn check(config: &Path, shard: Option<u16>, json: bool) -> ExitCode {
    with_queue(config, |queue, out| run(queue, shard, json, out))
}

fn run(
    queue: &StoppedQueue,
    shard: Option<u16>,
    json: bool,
    out: &mut dyn Write,
) -> Result<Verdict> {
    let mut report = Report { intact: true, shards: Vec::new() };
    for shard in queue.shards(shard)? {
        let shard = look(queue, shard)?;
        report.intact &= shard.is_intact();
        if !json {
            shard.write(out)?;
        }
        report.shards.push(shard);
    }
    if json {
        serde_json::to_writer_pretty(&mut *out, &report)?;
        writeln!(out)?;
    }
    Ok(if report.intact { Verdict::Well } else { Verdict::Damaged })
}

fn look(queue: &StoppedQueue, shard: ShardId) -> Result<ShardReport> {
    let storage = queue.storage(shard);
    let found = block_on(inspect(&storage, &queue.queue_config(), queue.identity(shard)))
        .with_context(|| format!("shard {shard}"))?;
    Ok(ShardReport::new(shard.0, &found))
}
