//! How fast the log commits: appends of parallel writers, beside bare writes of the same size.
//!
//! One core, one log, nothing else: each writer appends a message, waits until it is durable, settles
//! it, and goes on. In turns with it the same storage writes blocks of the mean size of the batches, one
//! after the other, into a file that is there already: what the disk gives to a single writer at best.

mod log;
mod raw;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use ringpost::runtime::Runtime;
use ringpost::runtime::{ExecutorOptions, glommio::start};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use self::log::Log;
use self::raw::Bare;
use crate::cli::CommitArguments;
use crate::report::{self, Report, note};

/// Parts that each case is measured in: what the disk has to give changes from second to second.
const ROUNDS: u32 = 5;

/// Parts that do not count before them, at most.
const WARM_UPS_MAX: u32 = 20;

/// What is measured.
#[derive(Debug, Clone)]
pub(crate) struct CommitOptions {
    /// Where the log is written; on the disk to be measured.
    pub(crate) directory: PathBuf,
    /// Numbers of parallel writers.
    pub(crate) writers: Vec<usize>,
    /// Octets of each message.
    pub(crate) sizes: Vec<usize>,
    /// How long each case runs.
    pub(crate) duration: Duration,
    /// Whether fio is to write blocks of the same size as well.
    pub(crate) fio: bool,
}

/// What one case came to.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommitCase {
    pub(crate) writers: usize,
    pub(crate) size: usize,
    pub(crate) appends_per_second: f64,
    pub(crate) appends_per_batch: f64,
    pub(crate) batch_bytes: u64,
    pub(crate) batches_per_second: f64,
    pub(crate) latency_p50: Duration,
    pub(crate) latency_p99: Duration,
    pub(crate) cpu_per_append: Duration,
    /// That of the middle one of the rounds.
    pub(crate) bare_writes_per_second: f64,
    /// Octets a second that the log wrote, as a share of what bare writes of that size reached just
    /// after; that of the middle one of the rounds.
    pub(crate) ratio: f64,
    pub(crate) fio_writes_per_second: Option<f64>,
}

/// All cases, as a report.
#[derive(Debug)]
struct CommitReport(Vec<CommitCase>);

impl Report for CommitReport {
    fn text(&self) -> String {
        let mut text = String::from(
            "writers  KiB  appends/s  per batch  batch KiB  p50 ms  p99 ms  CPU us   fio/s  bare/s  ratio\n",
        );
        for case in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{:7}  {:3}  {:9.0}  {:9.1}  {:9.1}  {:6.2}  {:6.2}  {:6.1}  {:>6}  {:6.0}  {:5.2}",
                case.writers,
                case.size / 1024,
                case.appends_per_second,
                case.appends_per_batch,
                case.batch_bytes as f64 / 1024.0,
                case.latency_p50.as_secs_f64() * 1e3,
                case.latency_p99.as_secs_f64() * 1e3,
                case.cpu_per_append.as_secs_f64() * 1e6,
                case.fio_writes_per_second.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
                case.bare_writes_per_second,
                case.ratio,
            );
        }
        text
    }

    fn json(&self) -> Value {
        let case = |case: &CommitCase| {
            json!({
                "writers": case.writers,
                "size": case.size,
                "appends_per_second": case.appends_per_second,
                "appends_per_batch": case.appends_per_batch,
                "batch_bytes": case.batch_bytes,
                "batches_per_second": case.batches_per_second,
                "latency_p50_us": case.latency_p50.as_micros() as u64,
                "latency_p99_us": case.latency_p99.as_micros() as u64,
                "cpu_per_append_us": case.cpu_per_append.as_secs_f64() * 1e6,
                "fio_writes_per_second": case.fio_writes_per_second,
                "bare_writes_per_second": case.bare_writes_per_second,
                "ratio": case.ratio,
            })
        };
        self.0.iter().map(case).collect()
    }
}

/// Runs the tool.
///
/// # Errors
///
/// When the directory cannot be used, or a write fails.
pub(crate) fn run(arguments: &CommitArguments) -> anyhow::Result<bool> {
    let options = arguments.options()?;
    let mut cases = Vec::new();
    for &size in &options.sizes {
        for &writers in &options.writers {
            note(&format!("{writers} writers of {size} octets"));
            cases.push(measure_case(&options, writers, size)?);
        }
    }
    report::print(&CommitReport(cases), arguments.json)?;
    Ok(true)
}

fn measure_case(
    options: &CommitOptions,
    writers: usize,
    size: usize,
) -> anyhow::Result<CommitCase> {
    std::fs::create_dir_all(&options.directory)
        .with_context(|| format!("cannot make {}", options.directory.display()))?;
    let directory = tempfile::tempdir_in(&options.directory)?;
    let path = directory.path().to_owned();
    let duration = options.duration;
    let (sender, receiver) = mpsc::channel();
    let executor = ExecutorOptions { cpu: None, name: "commits".to_owned(), batch: false };
    let executor = start(&executor, move |runtime| async move {
        let case = run_case(&runtime, &path, writers, size, duration).await;
        let _ = sender.send(case);
    })?;
    executor.join()?;
    let mut case = receiver.recv().context("the measurement ended early")??;
    if options.fio {
        let rate = raw::fio(directory.path(), case.batch_bytes, duration / 2)?;
        case.fio_writes_per_second = Some(rate);
    }
    Ok(case)
}

async fn run_case<R: Runtime>(
    runtime: &R,
    directory: &Path,
    writers: usize,
    size: usize,
    duration: Duration,
) -> anyhow::Result<CommitCase> {
    let log = Log::open(runtime, directory).await?;
    let storage = runtime.storage(directory);
    let mut bare = Bare::create(&storage).await?;
    // What does not count brings the segments into being, until they are only recycled.
    for _ in 0..WARM_UPS_MAX {
        let before = log.created();
        log.run(writers, size, duration / 4).await?;
        if log.created() == before {
            break;
        }
    }
    log.take_latencies();
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3)?;
    let (mut took, mut cpu, mut batches, mut bytes) = (Duration::ZERO, Duration::ZERO, 0, 0);
    let (mut bare_rates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, cpu_before) = (log.stats(), thread_cpu());
        let round_took = log.run(writers, size, duration / ROUNDS).await?;
        cpu += thread_cpu().saturating_sub(cpu_before);
        took += round_took;
        latencies.add(log.take_latencies())?;
        let after = log.stats();
        let round_batches = after.batches_total - before.batches_total;
        ensure!(round_batches > 0, "no batch became durable in time");
        let round_bytes = after.batch_bytes_total - before.batch_bytes_total;
        batches += round_batches;
        bytes += round_bytes;
        let rate = bare.run(round_bytes / round_batches, duration / ROUNDS).await?;
        bare_rates.push(rate);
        ratios.push(round_batches as f64 / round_took.as_secs_f64() / rate);
    }
    drop(bare);
    log.close().await;
    let appends = latencies.len() as f64;
    let micros = |quantile| Duration::from_micros(latencies.value_at_quantile(quantile));
    Ok(CommitCase {
        writers,
        size,
        appends_per_second: appends / took.as_secs_f64(),
        appends_per_batch: appends / batches as f64,
        batch_bytes: bytes / batches,
        batches_per_second: batches as f64 / took.as_secs_f64(),
        latency_p50: micros(0.5),
        latency_p99: micros(0.99),
        cpu_per_append: cpu.div_f64(appends),
        bare_writes_per_second: middle(bare_rates),
        ratio: middle(ratios),
        fio_writes_per_second: None,
    })
}

/// The median of an odd number of values; 0 of none.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// CPU time of this thread.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_measured_beside_bare_writes() {
        let options = CommitOptions {
            // Not /tmp, which may be a file system without direct I/O.
            directory: PathBuf::from("/var/tmp"),
            writers: vec![8],
            sizes: vec![1024],
            duration: Duration::from_millis(200),
            fio: false,
        };
        let case = measure_case(&options, 8, 1024).unwrap();
        assert!(case.appends_per_second > 0.0 && case.bare_writes_per_second > 0.0, "{case:?}");
        // Each append waited for a batch, and no batch holds two of one writer.
        assert!((1.0..=8.0).contains(&case.appends_per_batch), "{case:?}");
        assert!(case.batch_bytes >= 4096, "{case:?}");
        assert!(case.ratio > 0.0 && case.latency_p50 <= case.latency_p99, "{case:?}");
        let text = CommitReport(vec![case]).text();
        let columns = |line: &str| line.split_whitespace().count();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), columns(lines[1])), (2, 11), "{text}");
    }

    #[test]
    fn the_middle_of_the_rounds_counts() {
        assert!((middle(vec![9.0, 1.0, 2.0, 100.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(middle(Vec::new()).abs() < 1e-9);
    }
}
