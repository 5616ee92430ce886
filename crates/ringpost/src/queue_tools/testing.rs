//! Queues for the tests of the tools.

use std::path::Path;

use tempfile::TempDir;

use super::StoppedQueue;
use crate::{
    bootstrap::directory::QueueDirectory,
    config::{self, SystemFacts},
};

fn snapshot(directory: &Path, shards: u16) -> std::sync::Arc<config::ConfigSnapshot> {
    let facts = SystemFacts {
        hostname: "mail.example.org".into(),
        cores: vec![0],
        name_servers: vec!["127.0.0.1:53".parse().unwrap()],
        memory: None,
    };
    let queue = directory.join("queue");
    let text = format!(
        "[listener.a]\naddresses = [\"127.0.0.1:2525\"]\nrecipients_max = 100\nmessage_size_max = \"1MiB\"\n\
         [queue]\ndirectory = {queue:?}\n\
         shards = {shards}\nsegment_size = \"1MiB\"\nsize_max = \"16MiB\"\n\
         checkpoint_interval = \"256KiB\"\n"
    );
    std::sync::Arc::new(config::parse(&text, &facts).unwrap())
}

/// A new queue, stopped.
pub(super) fn queue(shards: u16) -> (TempDir, StoppedQueue) {
    let directory = tempfile::tempdir().unwrap();
    let config = snapshot(directory.path(), shards);
    drop(QueueDirectory::open(&config).unwrap());
    let queue = StoppedQueue::open(config).unwrap();
    (directory, queue)
}

/// The same queue once more.
pub(super) fn open(directory: &Path) -> StoppedQueue {
    // What it was made with counts.
    StoppedQueue::open(snapshot(directory, 1)).unwrap()
}
