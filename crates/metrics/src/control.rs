//! What the process counts outside its shards.

use metrics::{Counter, Gauge, Label};

use crate::catalog::Scope;
use crate::table::metric_table;

metric_table! {
    /// The handles of the control thread and of the event writer, without a `core` label.
    pub struct ControlMetrics, CONTROL_ROWS, Scope::Process;

    start_time: Gauge = "ringpost_start_time_seconds", Seconds,
        "When the process started, in seconds since 1970.";
    event_records_written: Counter = "ringpost_event_records_written_total", Count,
        "Event records written to the event log.";
    event_bytes_written: Counter = "ringpost_event_bytes_written_total", Bytes,
        "Bytes written to the event log.";
    event_write_failures: Counter = "ringpost_event_write_failures_total", Count,
        "Failed writes, syncs and reopens of the event log; each is tried again.";
    event_syncs: Counter = "ringpost_event_syncs_total", Count,
        "Syncs of the event log, at most about one a second.";
    control_requests: Counter = "ringpost_control_requests_total", Count,
        "HTTP requests answered by the control thread.";
    disk_free_bytes: Gauge = "ringpost_disk_free_bytes", Bytes,
        "Free space of the queue directory's file system.";
    disk_free_inodes: Gauge = "ringpost_disk_free_inodes", Count,
        "Free inodes of the queue directory's file system.";
    memory_bytes: Gauge = "ringpost_memory_bytes", Bytes,
        "Memory that the process has in use.";
    memory_bytes_max: Gauge = "ringpost_memory_bytes_max", Bytes,
        "Memory that the process may use; new connections are refused at four fifths of it.";
}

impl ControlMetrics {
    /// Registers the handles with the current recorder. To be called once.
    pub fn register() -> Self {
        Self::register_with(&[] as &[Label])
    }
}
