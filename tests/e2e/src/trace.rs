//! Counts the durable writes of a process as the kernel sees them.
//!
//! A server on io_uring may write and sync through the ring, where `strace` sees nothing. The
//! kernel's own trace points do: the submission of a ring operation, with its opcode, and the
//! system calls of the sync family and of positional writes. A private trace instance counts both for
//! the threads of one process.
//!
//! A segment opened with `O_DSYNC` makes every write to it a sync, so writes are counted like
//! syncs. That is too many rather than too few: the zeros of a segment's birth are among them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result};

const MOUNT: &str = "/sys/kernel/tracing";
const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// `IORING_OP_WRITEV`, `_FSYNC` (which is fsync and fdatasync), `_WRITE_FIXED`, and `_WRITE` but
/// for those that nobody waits for: they wake another executor through its eventfd.
const FILTER: &str =
    "opcode == 2 || opcode == 3 || opcode == 5 || (opcode == 23 && user_data != 0)";
const CALLS: [&str; 6] = ["fsync", "fdatasync", "sync_file_range", "syncfs", "msync", "pwrite64"];

/// A count under way; dropping it removes the instance.
#[derive(Debug)]
pub struct SyncTrace {
    instance: PathBuf,
}

impl SyncTrace {
    /// Why nothing can be traced here, if so.
    ///
    /// A machine that has booted without anybody looking at its traces may not have mounted them
    /// yet, so this mounts them where they belong, as root can.
    pub fn missing() -> Option<&'static str> {
        let ready = || Path::new(MOUNT).join("events/io_uring/io_uring_submit_req").is_dir();
        if ready() {
            return None;
        }
        // Another test may do the same at this moment, so only what is there afterwards counts.
        let mount = Command::new("mount").args(["-t", "tracefs", "tracefs", MOUNT]).output();
        let failed = !mount.is_ok_and(|output| output.status.success());
        match (ready(), failed) {
            (true, _) => None,
            (false, true) => Some("the kernel's trace points cannot be mounted (root, tracefs)"),
            (false, false) => Some("this kernel has no trace points for io_uring"),
        }
    }

    /// Counts from now on for all threads that `pid` has now, and those they start.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses.
    pub fn start(pid: u32) -> Result<Self> {
        let instance = Path::new(INSTANCES).join(format!("ringpost-e2e-{}-{pid}", process::id()));
        fs::create_dir(&instance).context("no trace instance")?;
        let trace = Self { instance };
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect::<Vec<_>>();
        trace.write("set_event_pid", &threads.join(" "))?;
        trace.write("options/event-fork", "1")?;
        let submit = "events/io_uring/io_uring_submit_req";
        trace.write(&format!("{submit}/filter"), FILTER)?;
        trace.write(&format!("{submit}/enable"), "1")?;
        for call in CALLS {
            trace.write(&format!("events/syscalls/sys_enter_{call}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// Number of writes through the ring and of syncs so far.
    ///
    /// # Errors
    ///
    /// Fails when the instance is gone.
    pub fn count(&self) -> Result<u64> {
        let mut sum = 0;
        for processor in fs::read_dir(self.instance.join("per_cpu"))? {
            let stats = fs::read_to_string(processor?.path().join("stats"))?;
            for line in stats.lines() {
                if let Some((name, value)) = line.split_once(':')
                    && ["entries", "overrun"].contains(&name)
                {
                    sum += value.trim().parse::<u64>()?;
                }
            }
        }
        Ok(sum)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.instance.join(file), text).with_context(|| format!("cannot set {file}"))
    }
}

impl Drop for SyncTrace {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.instance));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[test]
    fn plain_syncs_are_counted() {
        if let Some(reason) = SyncTrace::missing() {
            return crate::peers::skip(reason).unwrap();
        }
        let directory = tempfile::tempdir().unwrap();
        let mut file = File::create(directory.path().join("file")).unwrap();
        let trace = SyncTrace::start(process::id()).unwrap();
        for _ in 0..7 {
            file.write_all(b"x").unwrap();
            file.sync_data().unwrap();
        }
        assert!(trace.count().unwrap() >= 7);
    }
}
