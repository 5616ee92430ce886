//! A control group (version 1) that bounds the memory of one process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::peers;
use crate::wait;

/// Where the memory controller is mounted, by custom.
const CONTROLLER: &str = "/sys/fs/cgroup/memory";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A group of our own; dropping it removes it, once its process is gone.
#[derive(Debug)]
pub struct MemoryGroup {
    path: PathBuf,
}

impl MemoryGroup {
    /// Why there can be no group here, if so.
    pub fn missing() -> Option<&'static str> {
        if !peers::is_root() {
            return Some("control groups need root");
        }
        let limit = Path::new(CONTROLLER).join("memory.limit_in_bytes");
        if !limit.exists() {
            return Some("there is no memory controller of control groups version 1");
        }
        let writable = fs::create_dir(Path::new(CONTROLLER).join(probe_name()))
            .and_then(|()| fs::remove_dir(Path::new(CONTROLLER).join(probe_name())));
        writable.is_err().then_some("the control groups cannot be written")
    }

    /// Makes a group without a limit.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does.
    pub fn create() -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringpost-e2e-{}-{number}", process::id());
        let path = Path::new(CONTROLLER).join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// What to put in front of a command so that it runs in the group, under its own process id.
    pub fn prefix(&self) -> [String; 3] {
        let procs = self.path.join("cgroup.procs");
        let script = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
        ["sh".to_owned(), "-c".to_owned(), script]
    }

    /// Bytes in use.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not tell.
    pub fn usage(&self) -> Result<u64> {
        Ok(fs::read_to_string(self.path.join("memory.usage_in_bytes"))?.trim().parse()?)
    }

    /// Sets the limit, which has to be above what is in use.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not take it.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        Ok(fs::write(self.path.join("memory.limit_in_bytes"), bytes.to_string())?)
    }

    /// Processes of the group that the kernel has killed for want of memory.
    ///
    /// # Errors
    ///
    /// Fails when the kernel does not tell.
    pub fn kills(&self) -> Result<u64> {
        let text = fs::read_to_string(self.path.join("memory.oom_control"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        Ok(line.context("the kernel does not count kills")?.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // The kernel takes a moment to let go of a process that was reaped.
        let removed = wait::wait_until("an empty control group", wait::SOON, || {
            Ok(fs::remove_dir(&self.path).is_ok() || !self.path.exists())
        });
        if removed.is_err() {
            peers::tell(&format!("{} is left behind", self.path.display()));
        }
    }
}

fn probe_name() -> String {
    format!("ringpost-e2e-{}-probe", process::id())
}
