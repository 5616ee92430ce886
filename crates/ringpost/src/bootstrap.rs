//! From a command line to a running server, and from a signal to its end.

mod check;
pub(crate) mod directory;

use std::{
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use crossbeam_channel::{Receiver, Sender, at, never, select, unbounded};
use ringpost_metrics::ControlMetrics;
use ringpost_queue::ShardId;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    auth::PasswordChecker,
    cli::EXIT_CONFIG,
    config::{self, Backend, ConfigSnapshot, Scheduling, SystemFacts},
    control::{
        self, AdminOptions, ControlHandle, ControlOptions, EventSender, HealthState,
        admin::SOCKET_FILE, event_channel,
    },
    runtime::{Executor, ExecutorOptions, glommio, uring},
    shard::{self, ListeningShards, ShardHandle, ShardOptions, ShardReport, shard_inbox},
};
use directory::QueueDirectory;

/// Batches of event records that may wait for the writer.
const EVENT_BATCHES_MAX: usize = 256;

/// How long the shards may take until they listen.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// What the main thread waits for.
enum Happening {
    Signal(i32),
    Shard(ShardReport),
    ExecutorEnded(usize, std::io::Result<()>),
}

/// Checks a configuration file and says what is wrong with it, or what it comes to.
///
/// # Errors
///
/// What is wrong, a line for each problem.
pub fn check_config(path: &Path) -> anyhow::Result<String> {
    Ok(config::load_with_files(path, &SystemFacts::read())?.summary())
}

/// Runs the server until it is told to stop; what the process is to exit with.
pub fn run(path: &Path) -> ExitCode {
    let config = match config::load_with_files(path, &SystemFacts::read()) {
        Ok(config) => config,
        Err(error) => {
            // Nothing is configured yet that could log.
            let _ =
                std::io::Write::write_all(&mut std::io::stderr(), format!("{error}\n").as_bytes());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    match serve(path, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(path: &Path, config: Arc<ConfigSnapshot>) -> anyhow::Result<()> {
    control::log::init(&config.config().log)?;
    // Before any thread is started, so that no other gets a signal meant for us.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot handle signals")?;
    let sessions_max = check::machine(&config)?;
    let directory = QueueDirectory::open(&config)?;
    let shards = directory.meta().shards;

    let exposition = ringpost_metrics::install().context("cannot set up the metrics")?;
    let health = Arc::new(HealthState::new(usize::from(shards), Instant::now()));
    let (events, event_log) = match config.config().events.file() {
        Some(file) => {
            let (sender, receiver) = event_channel(EVENT_BATCHES_MAX);
            (sender, Some((file.clone(), receiver)))
        }
        None => (EventSender::off(), None),
    };
    let metrics = ControlMetrics::register();
    health.watermarks().configure(config.thresholds());
    control::watch(config.config().queue.directory.clone(), health.watermarks(), &metrics)?;
    let (handles, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| shard_inbox()).unzip();
    let handles: Arc<[ShardHandle]> = handles.into();
    let admin = AdminOptions {
        socket: config.config().queue.directory.join(SOCKET_FILE),
        shards: Arc::clone(&handles),
    };
    let listen = config.config().control.listen;
    let options = ControlOptions { listen, admin: Some(admin), events: event_log };
    let control = control::start(options, exposition, Arc::clone(&health), metrics)?;
    tracing::info!(address = %control.address(), "serving /metrics and /health");

    let (happen, happenings) = unbounded();
    let signal_happenings = happen.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in &mut signals {
            if signal_happenings.send(Happening::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    let passwords = PasswordChecker::start(config.config().auth.password_queue_max)
        .context("cannot start the thread for passwords")?;
    let (report, reports) = unbounded();
    let listening = Arc::new(ListeningShards::new(usize::from(shards)));
    let shard_options = inboxes.into_iter().zip(0_u16..).map(|(inbox, number)| ShardOptions {
        number,
        identity: directory.meta().identity(ShardId(number)),
        directory: directory.shard(ShardId(number)),
        config: Arc::clone(&config),
        config_path: path.to_owned(),
        listening: Arc::clone(&listening),
        sessions_max,
        health: Arc::clone(&health),
        passwords: passwords.clone(),
        events: events.for_shard(),
        inbox,
        shards: Arc::clone(&handles),
        reports: report.clone(),
    });
    start_executors(&config, shard_options.collect(), &happen)?;
    drop((events, passwords));

    let mut server = Server {
        path,
        config,
        shards,
        handles,
        health,
        control,
        happenings,
        reports,
        _report: report,
        held: None,
        damaged: 0,
    };
    if server.await_start()? == Start::Interrupted {
        return Ok(());
    }
    server.run()
}

/// Starts an executor on each core that has a shard: shard `i` runs on core `i` mod `n`.
fn start_executors(
    config: &ConfigSnapshot,
    shards: Vec<ShardOptions>,
    happen: &Sender<Happening>,
) -> anyhow::Result<()> {
    let cores = config.cores();
    if shards.len() < cores.len() {
        tracing::warn!(
            "the queue directory was made for {} shard(s): {} of {} cores stay idle",
            shards.len(),
            cores.len() - shards.len(),
            cores.len(),
        );
    }
    let mut by_core: Vec<(usize, Vec<ShardOptions>)> =
        cores.iter().map(|core| (*core, Vec::new())).collect();
    let cores = by_core.len();
    for (number, options) in shards.into_iter().enumerate() {
        if let Some((_, shards)) = by_core.get_mut(number % cores) {
            shards.push(options);
        }
    }
    for (core, shards) in by_core.into_iter().filter(|(_, shards)| !shards.is_empty()) {
        let options = ExecutorOptions {
            cpu: Some(core),
            name: format!("mail-{core}"),
            batch: config.config().server.scheduling == Scheduling::Batch,
        };
        let started = match config.config().server.runtime {
            Backend::Uring => uring::start(&options, |runtime| shard::run_all(runtime, shards)),
            Backend::Glommio => glommio::start(&options, |runtime| shard::run_all(runtime, shards)),
        };
        let executor =
            started.with_context(|| format!("cannot start the executor of core {core}"))?;
        watch(core, executor, happen.clone())?;
    }
    Ok(())
}

/// Says when an executor has ended, however it did.
fn watch(core: usize, executor: Executor, happen: Sender<Happening>) -> anyhow::Result<()> {
    thread::Builder::new().name(format!("watch-{core}")).spawn(move || {
        let _ = happen.send(Happening::ExecutorEnded(core, executor.join()));
    })?;
    Ok(())
}

/// How the start went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Every shard listens.
    Complete,
    /// A signal said to stop.
    Interrupted,
}

/// The running server, as the main thread sees it.
struct Server<'a> {
    path: &'a Path,
    config: Arc<ConfigSnapshot>,
    shards: u16,
    handles: Arc<[ShardHandle]>,
    health: Arc<HealthState>,
    control: ControlHandle,
    happenings: Receiver<Happening>,
    reports: Receiver<ShardReport>,
    /// Keeps that channel open when all shards are gone.
    _report: Sender<ShardReport>,
    /// What has happened, and is looked at when no report is left.
    held: Option<Happening>,
    /// Shards whose logs could not be opened.
    damaged: u16,
}

impl Server<'_> {
    /// What happens next; `None` if that is nothing before `deadline`.
    ///
    /// What a shard has said comes before the end of its executor, which it may be the reason for.
    fn next(&mut self, deadline: Option<Instant>) -> Option<Happening> {
        let timeout = deadline.map_or_else(never, at);
        loop {
            if let Ok(report) = self.reports.try_recv() {
                return Some(Happening::Shard(report));
            }
            if let Some(happening) = self.held.take() {
                return Some(happening);
            }
            select! {
                recv(self.reports) -> report => return report.ok().map(Happening::Shard),
                recv(self.happenings) -> happening => self.held = Some(happening.ok()?),
                recv(timeout) -> _ => return None,
            }
        }
    }

    /// Waits until every shard listens, or a signal says not to.
    fn await_start(&mut self) -> anyhow::Result<Start> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut started = 0;
        while started < self.shards {
            match self.next(Some(deadline)) {
                Some(Happening::Shard(ShardReport::Started(_))) => started += 1,
                Some(Happening::Shard(ShardReport::Failed(shard, error))) => {
                    return Err(anyhow::Error::new(error).context(format!("shard {shard}")));
                }
                Some(Happening::ExecutorEnded(core, result)) => {
                    result.with_context(|| format!("the executor of core {core} failed"))?;
                    bail!("the executor of core {core} ended too early");
                }
                Some(Happening::Shard(report)) => self.handle_report(&report)?,
                // The file is read already; a change of it is for the next HUP.
                Some(Happening::Signal(SIGHUP)) => {}
                Some(Happening::Signal(signal)) => {
                    tracing::info!(signal, "stopping before every shard listens");
                    return Ok(Start::Interrupted);
                }
                None => bail!("the shards did not start in time"),
            }
        }
        tracing::info!("{}", self.config.summary());
        Ok(Start::Complete)
    }

    /// Serves until a signal says to stop.
    fn run(mut self) -> anyhow::Result<()> {
        loop {
            let Some(happening) = self.next(None) else { bail!("nothing can happen any more") };
            match happening {
                Happening::Signal(SIGHUP) => self.reload(),
                Happening::Signal(signal) => {
                    tracing::info!(signal, "stopping");
                    self.stop();
                    return Ok(());
                }
                Happening::ExecutorEnded(core, result) => {
                    // A server that runs on with a dead core would lose sight of its mail.
                    result.with_context(|| format!("the executor of core {core} failed"))?;
                    bail!("the executor of core {core} ended by itself");
                }
                Happening::Shard(report) => self.handle_report(&report)?,
            }
        }
    }

    /// Goes on without a shard whose log is damaged, but not without any.
    fn handle_report(&mut self, report: &ShardReport) -> anyhow::Result<()> {
        match report {
            ShardReport::Opened(shard) => tracing::debug!(shard, "the log is open"),
            ShardReport::Damaged(_) => {
                self.damaged += 1;
                if self.damaged >= self.shards {
                    bail!("no shard has a log that can be opened: there is nothing to serve");
                }
            }
            report => tracing::warn!(?report, "a shard ended by itself"),
        }
        Ok(())
    }

    /// Takes a new configuration, whole or not at all.
    fn reload(&mut self) {
        self.control.reopen_events();
        match config::load_with_files(self.path, &SystemFacts::read()) {
            Ok(mut config) => {
                Arc::make_mut(&mut config).adopt(&self.config);
                for key in check::restart_keys(&self.config, &config) {
                    tracing::warn!("{key} has changed: this takes effect at the next start");
                }
                for shard in &*self.handles {
                    shard.reload(Arc::clone(&config));
                }
                self.health.watermarks().configure(config.thresholds());
                tracing::info!("configuration reloaded: {}", config.summary());
                self.config = config;
            }
            Err(error) => {
                tracing::error!("the configuration is not reloaded, the old one stays:\n{error}");
            }
        }
    }

    /// Lets the shards finish what they have begun, and ends.
    fn stop(mut self) {
        let deadline = Instant::now() + self.config.config().server.shutdown_timeout;
        self.health.set_stopping();
        for shard in &*self.handles {
            shard.stop();
        }
        let mut running = self.shards;
        while running > 0 {
            match self.next(Some(deadline)) {
                Some(Happening::Shard(ShardReport::Stopped(_))) => running -= 1,
                Some(Happening::ExecutorEnded(core, Err(error))) => {
                    tracing::error!(core, %error, "an executor failed while stopping");
                }
                Some(_) => {}
                None => {
                    // Nothing is lost by that: what is acknowledged is on disk.
                    tracing::warn!("{running} shard(s) did not stop in time");
                    break;
                }
            }
        }
        self.control.stop();
        tracing::info!("stopped");
    }
}
