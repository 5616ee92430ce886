//! What the disk gives without a log: bare writes by the same storage, and fio.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use ringpost_queue::storage::Storage;
use serde_json::Value;

/// The file that is written to.
const FILE: &str = "bare";
const FILE_SIZE: u64 = 64 << 20;

/// A file of which all blocks have been written before.
pub(super) struct Bare<'a, S: Storage> {
    storage: &'a S,
    file: S::File,
    offset: u64,
}

impl<'a, S: Storage> Bare<'a, S> {
    /// Makes the file.
    ///
    /// # Errors
    ///
    /// That of the storage.
    pub(super) async fn create(storage: &'a S) -> anyhow::Result<Self> {
        Ok(Self { storage, file: storage.create(FILE, FILE_SIZE).await?, offset: 0 })
    }

    /// Writes blocks of one size, one after the other, and says how many a second.
    ///
    /// # Errors
    ///
    /// That of the storage.
    pub(super) async fn run(&mut self, size: u64, duration: Duration) -> anyhow::Result<f64> {
        let len = size.next_multiple_of(4096);
        let mut bytes = vec![0x5A; usize::try_from(len)?];
        let mut count = 0_u32;
        let began = Instant::now();
        while began.elapsed() < duration {
            if self.offset + len > FILE_SIZE {
                self.offset = 0;
            }
            let (written, back) = self.storage.write(&self.file, self.offset, bytes).await;
            ensure!(written? as u64 == len, "a short write");
            bytes = back;
            self.offset += len;
            count += 1;
        }
        Ok(f64::from(count) / began.elapsed().as_secs_f64())
    }
}

/// Lets fio write blocks of one size into the same file, each durable before the next; gives how many
/// a second.
///
/// # Errors
///
/// When fio cannot be started, fails, or says something else than expected.
pub(super) fn fio(directory: &Path, size: u64, duration: Duration) -> anyhow::Result<f64> {
    let output = Command::new("fio")
        .args(["--name=raw", "--rw=write", "--ioengine=psync", "--direct=1", "--sync=dsync"])
        .args(["--overwrite=1", "--time_based", "--output-format=json"])
        .arg(format!("--filename={}", directory.join(FILE).display()))
        .arg(format!("--size={FILE_SIZE}"))
        .arg(format!("--bs={}", size.next_multiple_of(4096)))
        .arg(format!("--runtime={}ms", duration.as_millis()))
        .output()
        .context("cannot start fio")?;
    ensure!(output.status.success(), "fio: {}", String::from_utf8_lossy(&output.stderr));
    writes_per_second(&output.stdout).context("fio reports no writes")
}

fn writes_per_second(report: &[u8]) -> Option<f64> {
    let report: Value = serde_json::from_slice(report).ok()?;
    report.pointer("/jobs/0/write/iops")?.as_f64().filter(|rate| *rate > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_read_from_the_report_of_fio() {
        let report = br#"{"jobs": [{"read": {"iops": 0.0}, "write": {"iops": 4321.5}}]}"#;
        assert_eq!(writes_per_second(report), Some(4321.5));
        for other in [&b"fio: failed"[..], b"{}", br#"{"jobs": [{"write": {"iops": 0.0}}]}"#] {
            assert_eq!(writes_per_second(other), None);
        }
    }
}
