//! Starts, signals, kills and reaps a server.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tempfile::TempDir;

use crate::config::Config;
use crate::events::{self, Event};
use crate::injector::Client;
use crate::metrics::{self, Metrics};
use crate::ports;
use crate::wait;

/// Names the binary under test. `scripts/test` sets it.
pub const BINARY: &str = "RINGPOST_BIN";

/// The binary under test: what [`BINARY`] names, or what cargo built beside this test.
///
/// # Errors
///
/// Fails when it is not there.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY} names {}, which is not there", path.display());
        return Ok(path);
    }
    // target/PROFILE/deps/e2e-HASH beside target/PROFILE/ringpost.
    let own = env::current_exe()?;
    let path = own.ancestors().nth(2).context("no target directory")?.join("ringpost");
    ensure!(
        path.is_file(),
        "{} is not there: cargo build -p ringpost, or set {BINARY}",
        path.display()
    );
    Ok(path)
}

/// A server under test, with a directory of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    directory: TempDir,
    /// What the next start or reload reads, once [`Server::write_config`] has written it.
    pub config: Config,
    smtp: SocketAddr,
    control: SocketAddr,
    child: Option<Child>,
}

impl Server {
    /// Prepares a server on free loopback ports. It is not started.
    ///
    /// # Errors
    ///
    /// Fails when there is no directory or no port for it.
    pub fn prepare() -> Result<Self> {
        Self::prepare_at(ports::reserve()?, ports::reserve()?)
    }

    /// Prepares a server that listens on `smtp` and `control`. It is not started.
    ///
    /// # Errors
    ///
    /// Fails when there is no directory for it.
    pub fn prepare_at(smtp: SocketAddr, control: SocketAddr) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ringpost-e2e-").tempdir()?;
        let config = Config::new(directory.path(), smtp, control);
        Ok(Self { directory, config, smtp, control, child: None })
    }

    /// A running server that sends all mail to `smarthost`.
    ///
    /// # Errors
    ///
    /// Fails when it does not start.
    pub fn relaying_to(smarthost: SocketAddr) -> Result<Self> {
        let mut server = Self::prepare()?;
        server.config.route("*", smarthost);
        server.start()?;
        Ok(server)
    }

    /// A server that sends all mail to `smarthost`, with a queue of so many shards. It is not started.
    ///
    /// # Errors
    ///
    /// As [`Server::prepare`].
    pub fn with_shards(shards: u16, smarthost: SocketAddr) -> Result<Self> {
        let mut server = Self::prepare()?;
        server.config.route("*", smarthost).set("queue", "shards", &shards.to_string());
        Ok(server)
    }

    /// Runs `ringpost queue` with its configuration: a command, and what follows it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be run; whether it succeeded is in its status.
    pub fn queue_command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command.arg("queue").args(arguments).arg("--config").arg(self.config_path());
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Where it takes mail.
    pub fn smtp(&self) -> SocketAddr {
        self.smtp
    }

    /// Where it serves `/metrics` and `/health`.
    pub fn control(&self) -> SocketAddr {
        self.control
    }

    /// Its directory: the configuration, the log, the event log and the queue are here.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The queue directory.
    pub fn queue(&self) -> PathBuf {
        self.directory().join("queue")
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory().join("ringpost.toml")
    }

    /// Writes the configuration file.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be written.
    pub fn write_config(&self) -> Result<()> {
        Ok(fs::write(self.config_path(), self.config.render())?)
    }

    /// Starts it and waits until it is healthy.
    ///
    /// # Errors
    ///
    /// Fails when it ends, or is not healthy in time, with its log.
    pub fn start(&mut self) -> Result<()> {
        self.spawn(&[])?;
        self.wait_healthy()
    }

    /// Starts it, behind `prefix` (a program that executes its arguments), and does not wait.
    ///
    /// # Errors
    ///
    /// Fails when there is no such program.
    pub fn spawn(&mut self, prefix: &[&str]) -> Result<()> {
        ensure!(self.child.is_none(), "already started");
        self.write_config()?;
        let log =
            OpenOptions::new().create(true).append(true).open(self.directory().join("log"))?;
        let binary = binary()?;
        let mut command = match prefix {
            [] => Command::new(&binary),
            [program, rest @ ..] => {
                let mut command = Command::new(program);
                command.args(rest).arg(&binary);
                command
            }
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until `/health` says that all is well and the listener answers.
    ///
    /// # Errors
    ///
    /// Fails when it ends first, or is not healthy in time, with its log.
    pub fn wait_healthy(&mut self) -> Result<()> {
        let control = self.control;
        let child = self.child.as_mut().context("not started")?;
        let result = wait::wait_until("a healthy server", wait::SOON, || {
            if let Some(status) = child.try_wait()? {
                bail!("the server has ended: {status}");
            }
            Ok(metrics::fetch(control, "/health").is_ok_and(|(status, _)| status == 200))
        });
        result.with_context(|| format!("the log says:\n{}", self.log()))?;
        wait::wait_until("a greeting", wait::SOON, || Ok(Client::connect(self.smtp).is_ok()))
    }

    /// The process id.
    ///
    /// # Errors
    ///
    /// Fails when it is not started.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("not started")?.id())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// Fails when it is not started.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it, by SIGKILL, and reaps it. The status tells whether it had ended before.
    ///
    /// # Errors
    ///
    /// Fails when it is not started.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let mut child = self.child.take().context("not started")?;
        child.kill()?;
        wait::wait_for("the end of a killed server", wait::SOON, || Ok(child.try_wait()?))
            .with_context(|| format!("its threads are at:\n{}", kernel_stacks(child.id())))
    }

    /// Waits for its end and reaps it.
    ///
    /// # Errors
    ///
    /// Fails when it does not end by `deadline`; it still runs then.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("not started")?;
        let status = wait::wait_for("the end of the server", deadline, || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(status)
    }

    /// Ends it with SIGTERM, and expects exit status 0.
    ///
    /// # Errors
    ///
    /// Fails on any other status, or when it does not end in time.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait_exit(wait::SOON)?;
        ensure!(status.success(), "exit status {status} after SIGTERM; the log:\n{}", self.log());
        Ok(())
    }

    /// What it has logged so far, over all its starts.
    pub fn log(&self) -> String {
        self.log_from(0)
    }

    /// Octets that it has logged so far.
    pub fn log_len(&self) -> u64 {
        fs::metadata(self.directory().join("log")).map_or(0, |it| it.len())
    }

    /// What it has logged behind the first `offset` octets.
    pub fn log_from(&self, offset: u64) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(self.directory().join("log")) {
            // Less of it is seen on an error, and the test says what it misses.
            drop(file.seek(SeekFrom::Start(offset)));
            drop(file.read_to_end(&mut bytes));
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// All event records so far.
    ///
    /// # Errors
    ///
    /// Fails when one of them is malformed.
    pub fn events(&self) -> Result<Vec<Event>> {
        events::read(&self.directory().join("events.jsonl"))
    }

    /// Looks at `/metrics`.
    ///
    /// # Errors
    ///
    /// Fails when there is no such page.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::read(self.control)
    }

    /// Waits until the queue holds just so many messages, by its gauge.
    ///
    /// # Errors
    ///
    /// Fails when it does not in time.
    pub fn wait_queued(&self, messages: u64) -> Result<()> {
        wait::wait_until(&format!("{messages} queued messages"), wait::SOON, || {
            Ok(self.metrics()?.count("ringpost_queue_messages") == messages)
        })
    }

    /// Waits until nothing is left in the queue.
    ///
    /// Gauges are up to half a second old: the queue must be empty at a look, and
    /// again after every shard has published once more.
    ///
    /// # Errors
    ///
    /// Fails when something is left after `deadline`.
    pub fn wait_drained(&self, deadline: Duration) -> Result<()> {
        const TICKS: &str = "ringpost_tick_lag_seconds_count";
        // A shard publishes its gauges at least this often, in ticks.
        const TICKS_PER_LOOK: f64 = 25.0;
        let mut empty_since: Option<Metrics> = None;
        wait::wait_until("an empty queue", deadline, || {
            let metrics = self.metrics()?;
            for name in ["ringpost_queue_messages", "ringpost_queue_recipients", TICKS] {
                ensure!(metrics.has(name), "there is no {name}");
            }
            if metrics.count("ringpost_queue_messages") > 0
                || metrics.count("ringpost_queue_recipients") > 0
            {
                empty_since = None;
                return Ok(false);
            }
            let earlier = empty_since.get_or_insert_with(|| metrics.clone()).each(TICKS);
            let now = metrics.each(TICKS);
            Ok(now.iter().all(|(shard, ticks)| {
                earlier.get(shard).is_some_and(|then| *ticks >= then + TICKS_PER_LOOK)
            }))
        })
        .with_context(|| format!("the log says:\n{}", self.log()))
    }

    /// Where in the kernel its threads are, as root may see. Empty when it does not run.
    pub fn kernel_stacks(&self) -> String {
        self.child.as_ref().map_or_else(String::new, |child| kernel_stacks(child.id()))
    }

    /// Waits until the event log holds `count` different (id, recipient) records of `kind`.
    ///
    /// # Errors
    ///
    /// Fails when it does not in time.
    pub fn wait_events(&self, kind: &str, count: usize) -> Result<Vec<Event>> {
        wait::wait_for(&format!("{count} {kind} events"), wait::SOON, || {
            let events = self.events()?;
            Ok((events::distinct(&events, kind) >= count).then_some(events))
        })
        .with_context(|| format!("the log says:\n{}", self.log()))
    }
}

/// Where in the kernel the threads of a process are, as root may see.
fn kernel_stacks(process: u32) -> String {
    let mut text = String::new();
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return text };
    for thread in threads.flatten() {
        for file in ["comm", "stack"] {
            text += &fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        }
    }
    text
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(error) = self.kill()
        {
            crate::peers::tell(&format!("{error:#}"));
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            crate::peers::tell("the last lines of the server's log:");
            for line in tail.iter().rev() {
                crate::peers::tell(line);
            }
        }
    }
}
