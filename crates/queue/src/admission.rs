//! Whether new mail may come in, and the plain counters of a queue.

use std::io;

/// Whether a queue takes new messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admission {
    /// It does.
    Open,
    /// Not yet: the log is still being read. Nothing is taken, neither messages nor outcomes.
    Recovering,
    /// It does not until space is free: answer `452 4.3.1`. Outcomes are still taken.
    Full,
    /// Its storage broke its word. Nothing is taken any more, nothing not yet durable will become so,
    /// and no delivery may start: answer `451 4.3.0`. Only a restart with recovery helps.
    Poisoned,
}

/// What poisoned a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poison {
    /// A write or its sync failed.
    Failed(io::ErrorKind),
    /// A write was short.
    Short {
        /// Octets written.
        written: usize,
        /// Octets that were to be written.
        len: usize,
    },
}

/// Counters and gauges of a queue, to be published now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Messages in the queue.
    pub messages: u64,
    /// Recipients still to be delivered.
    pub recipients: u64,
    /// Hosts at which these are.
    pub hosts: u64,
    /// Messages of which chunks, but no commit record, have been appended.
    pub streaming: u64,
    /// Segments that are still needed, the one written to included.
    pub segments: u64,
    /// Segments prepared.
    pub segments_ready: u64,
    /// Segments that wait to be recycled or deleted, or are.
    pub segments_free: u64,
    /// Octets of the files of all segments, needed, prepared and free, and of checkpoints.
    pub disk_bytes: u64,
    /// Octets of log that live records take.
    pub live_bytes: u64,
    /// Octets gathered but not durable.
    pub pending_bytes: u64,
    /// Octets of log that a restart would have to read.
    pub replay_bytes: u64,
    /// Octets of the newest checkpoint; 0 if there is none.
    pub checkpoint_bytes: u64,
    /// Checkpoints completed.
    pub checkpoints_total: u64,
    /// Checkpoints given up because of a failed write.
    pub checkpoint_failures_total: u64,
    /// Batches that became durable: as many writes, and as many syncs.
    pub batches_total: u64,
    /// Octets of the batches that became durable, padding included.
    pub batch_bytes_total: u64,
    /// Records that became durable.
    pub records_total: u64,
    /// Records moved out of the oldest segment.
    pub rewritten_records_total: u64,
    /// Records that could not be read back as they were written.
    pub corrupt_records_total: u64,
    /// Segments that could not be created, recycled or deleted.
    pub segment_failures_total: u64,
    /// Event records that were given up before they had been told, at most: some of them may have been.
    pub event_records_given_up_total: u64,
    /// Octets that recovery cut off the tail of the log.
    pub tail_truncated_bytes: u64,
}
