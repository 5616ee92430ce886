//! Tools for a queue that no server uses: they hold its lock while they work.
//!
//! Exit status: 0 when all is well, 1 when something is damaged or had to be left behind, 2 when it could
//! not be done, 78 when the configuration is refused.

mod check;
pub mod envelope;
mod export;
mod import;
mod repair;
mod report;
mod storage;
pub(crate) mod swap;
#[cfg(test)]
mod testing;

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use ringpost_queue::{LogIdentity, QueueConfig, ShardId};

use crate::{
    bootstrap::directory::QueueDirectory,
    cli::EXIT_CONFIG,
    config::{self, ConfigSnapshot, SystemFacts},
};
pub use check::check;
pub use export::export;
pub use import::import;
pub use repair::repair;
use storage::FileStorage;
pub(crate) use storage::sync_directory;

/// Exit status when something is damaged, or had to be left behind.
const EXIT_DAMAGED: u8 = 1;

/// Exit status when a tool could not do what it is for.
const EXIT_FAILED: u8 = 2;

/// How a tool ended that could do what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// All is well.
    Well,
    /// Something is damaged, or had to be left behind. It has been reported.
    Damaged,
}

/// A stopped queue, locked.
struct StoppedQueue {
    config: Arc<ConfigSnapshot>,
    directory: QueueDirectory,
}

impl StoppedQueue {
    fn open(config: Arc<ConfigSnapshot>) -> Result<Self> {
        let directory = QueueDirectory::open_existing(&config.config().queue.directory)
            .context("this needs the queue to itself: stop the server first")?;
        Ok(Self { config, directory })
    }

    /// The shards that were asked for: one, or all.
    fn shards(&self, one: Option<u16>) -> Result<Vec<ShardId>> {
        let all = self.directory.meta().shards;
        match one {
            Some(number) if number >= all => {
                bail!("there is no shard {number}: the queue has {all}")
            }
            Some(number) => Ok(vec![ShardId(number)]),
            None => Ok((0..all).map(ShardId).collect()),
        }
    }

    fn storage(&self, shard: ShardId) -> FileStorage {
        FileStorage::new(&swap::current(self.directory.path(), shard))
    }

    fn identity(&self, shard: ShardId) -> LogIdentity {
        self.directory.meta().identity(shard)
    }

    fn queue_config(&self) -> QueueConfig {
        self.config.queue_config()
    }
}

/// Reads the configuration, locks the queue, and runs a tool on it.
fn with_queue(
    config: &Path,
    tool: impl FnOnce(&StoppedQueue, &mut dyn Write) -> Result<Verdict>,
) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let config = match config::load(config, &SystemFacts::read()) {
        Ok(config) => config,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let done = StoppedQueue::open(config).and_then(|queue| tool(&queue, &mut out));
    let done = done.and_then(|verdict| {
        out.flush().context("cannot write the report")?;
        Ok(verdict)
    });
    match done {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::Damaged) => ExitCode::from(EXIT_DAMAGED),
        Err(error) => {
            let _ = out.flush();
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}
