//! Limits of a shard's log.

use thiserror::Error;

use crate::frame::BLOCK_SIZE;

/// Limits and sizes of the log of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueConfig {
    /// Octets of a segment file. Default 64 MiB; a multiple of 4096 from 64 KiB to 1 GiB. Larger ones
    /// are created less often, and hold dead messages longer. Segments that exist keep their size.
    pub segment_size: u64,
    /// Octets of log that the shard may use. Default 16 GiB; at least 4 segments. When fewer than 2
    /// segments are left the shard is full: no new mail, but outcomes still find room.
    pub disk_size_max: u64,
    /// Octets from which on a batch is closed and the next one begun. Default 1 MiB; at most a
    /// quarter of a segment. Larger ones share a sync among more messages, smaller ones are faster.
    pub batch_size_max: usize,
    /// Octets of content after which a chunk is appended while a message streams in. Default
    /// 128 KiB; less than a quarter of a segment.
    pub chunk_size: usize,
    /// Octets gathered but not durable from which on appends of messages are put off
    /// ([`AppendError::Busy`](crate::AppendError::Busy)). Default 32 MiB. Outcomes are not counted.
    pub pending_size_max: usize,
    /// Segments prepared ahead of need. Default 1; at least 1.
    pub segments_ready: usize,
    /// Segments that nothing needs kept for recycling before they are deleted. Default 4; fewer
    /// are kept when the log is near its limit.
    pub segments_free_max: usize,
    /// Octets of log that a restart may have to read before a checkpoint is written. Default 256 MiB;
    /// more when the queue is so large that checkpoints would be a fifth of all that is written.
    pub checkpoint_interval: u64,
    /// Octets after which a block of a checkpoint is closed: as much is written down and synced at a
    /// time. Default 256 KiB.
    pub checkpoint_block_size: usize,
    /// Sealed segments from which on the live messages of the oldest are rewritten when less than
    /// half of the sealed log is live. Default 8. Below that, waiting is cheaper: most messages are
    /// delivered within seconds.
    pub rewrite_segments_min: usize,
    /// Sealed segments with event records that have not been told from which on the oldest of these
    /// are given up. Default 4; one more while they are read back. They are given up earlier when
    /// the log has no room left.
    pub event_segments_max: usize,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            segment_size: 64 << 20,
            disk_size_max: 16 << 30,
            batch_size_max: 1 << 20,
            chunk_size: 128 << 10,
            pending_size_max: 32 << 20,
            segments_ready: 1,
            segments_free_max: 4,
            checkpoint_interval: 256 << 20,
            checkpoint_block_size: 256 << 10,
            rewrite_segments_min: 8,
            event_segments_max: 4,
        }
    }
}

/// A limit that cannot be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// `segment_size` is out of bounds.
    #[error("the segment size must be a multiple of 4096 from 64 KiB to 1 GiB")]
    SegmentSize,
    /// `disk_size_max` is too small.
    #[error("the log must have room for at least 4 segments")]
    DiskSize,
    /// `batch_size_max` is out of bounds.
    #[error("the batch size must be at least 4096 and at most a quarter of a segment")]
    BatchSize,
    /// `chunk_size` is out of bounds.
    #[error("the chunk size must be at least 1024 and less than a quarter of a segment")]
    ChunkSize,
    /// `segments_ready` is 0.
    #[error("at least one segment must be prepared ahead")]
    SegmentsReady,
}

impl QueueConfig {
    /// Checks the limits against each other.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the first one that cannot be kept.
    pub fn check(&self) -> Result<(), ConfigError> {
        let size = self.segment_size;
        if !(64 << 10..=1 << 30).contains(&size) || !size.is_multiple_of(BLOCK_SIZE) {
            return Err(ConfigError::SegmentSize);
        }
        if self.disk_size_max / size < 4 {
            return Err(ConfigError::DiskSize);
        }
        if !(4096..=self.group_size_max()).contains(&self.batch_size_max) {
            return Err(ConfigError::BatchSize);
        }
        // The rest of the group is for the record's own fields.
        if !(1024..self.group_size_max() - 4096).contains(&self.chunk_size) {
            return Err(ConfigError::ChunkSize);
        }
        if self.segments_ready == 0 {
            return Err(ConfigError::SegmentsReady);
        }
        Ok(())
    }

    /// Octets of records that are appended together at most: a quarter of a segment.
    pub fn group_size_max(&self) -> usize {
        (self.segment_size / 4) as usize
    }

    /// Segments that the shard may use.
    pub fn segments_max(&self) -> usize {
        (self.disk_size_max / self.segment_size) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_bounds() {
        assert_eq!(QueueConfig::default().check(), Ok(()));
    }

    #[test]
    fn limits_out_of_bounds_are_named() {
        let base = QueueConfig::default;
        let table = [
            (QueueConfig { segment_size: 4097, ..base() }, ConfigError::SegmentSize),
            (QueueConfig { segment_size: 4 << 30, ..base() }, ConfigError::SegmentSize),
            (QueueConfig { disk_size_max: 3 * (64 << 20), ..base() }, ConfigError::DiskSize),
            (QueueConfig { batch_size_max: 17 << 20, ..base() }, ConfigError::BatchSize),
            (QueueConfig { batch_size_max: 100, ..base() }, ConfigError::BatchSize),
            (QueueConfig { chunk_size: 16 << 20, ..base() }, ConfigError::ChunkSize),
            (QueueConfig { chunk_size: 0, ..base() }, ConfigError::ChunkSize),
            (QueueConfig { segments_ready: 0, ..base() }, ConfigError::SegmentsReady),
        ];
        for (config, error) in table {
            assert_eq!(config.check(), Err(error), "{config:?}");
        }
    }
}
