//! `ringpost-load demo`: a real server between a source and a sink, and the account of a run.

mod scrape;
mod server;

use std::env;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use self::scrape::Page;
use self::server::Server;
use crate::account::{Audit, audit};
use crate::cli::DemoArguments;
use crate::report::{Report as _, SinkReport, SourceReport, note, per_second};
use crate::signals;
use crate::sink::{Behaviour, Sink, SinkOptions};
use crate::source::{Source, SourceOptions};

/// Period of the progress line.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);

/// Why the main thread wakes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Signal,
    SourceFinished,
}

/// Runs the demo; whether every message was accepted, arrived, and arrived undamaged.
///
/// # Errors
///
/// When the server cannot be started or stopped, or nothing moves any more.
pub(crate) fn run(arguments: &DemoArguments) -> anyhow::Result<bool> {
    let binary = match &arguments.ringpost {
        Some(path) => path.clone(),
        None => binary_beside_this()?,
    };
    let (wake, woken) = mpsc::channel();
    signals::forward(wake.clone(), || Wake::Signal)?;
    let sink = Sink::start(&sink_options(), None)?;
    let mut is_interrupted = || woken.try_recv() == Ok(Wake::Signal);
    let mut server = Server::start(&binary, sink.addresses()[0], &mut is_interrupted)?;
    note(&format!(
        "demo: {} messages of {} octets over {} sessions, through {} (process {})\n\
         demo: queue in {}, metrics at http://{}/metrics",
        arguments.messages,
        arguments.size,
        arguments.sessions,
        binary.display(),
        server.id(),
        server.directory().display(),
        server.control(),
    ));
    let options = source_options(arguments, server.listen());
    let source = Source::start(&options, crate::draw_run(), &crate::date_now(), &wake, || {
        Wake::SourceFinished
    })?;
    let run = Run { source, sink, started: Instant::now() };
    let end = run.follow(&mut server, &woken, Duration::from_secs(arguments.patience));
    let seconds = run.started.elapsed().as_secs_f64();
    let metrics = settled_page(server.control());
    let log = server.log_tail();
    let stopping = Instant::now();
    let status = server.stop()?;
    let account = run.account(end, seconds);
    let mut text = account.text();
    text.push_str(&metrics_text(metrics));
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "server: stopped by TERM in {:.2} s, {status}",
        stopping.elapsed().as_secs_f64()
    );
    if !account.is_good() || !status.success() {
        let _ = writeln!(text, "the server's log ends with:\n{log}");
    }
    crate::report::print_text(&text)?;
    Ok(account.is_good() && status.success())
}

/// A source, a sink, and what is between them.
struct Run {
    source: Source,
    sink: Sink,
    started: Instant,
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything acknowledged has arrived.
    Complete,
    /// Nothing moved for too long.
    Stalled,
    /// TERM or INT.
    Interrupted,
    /// The server ended by itself.
    ServerEnded,
}

impl Run {
    /// Shows progress until the run ends in one way or another.
    fn follow(&self, server: &mut Server, woken: &Receiver<Wake>, patience: Duration) -> End {
        let mut shown = (0, 0);
        let mut moved = Instant::now();
        let mut next = self.started + PROGRESS_PERIOD;
        loop {
            if self.is_complete() {
                return End::Complete;
            }
            if server.ended().is_some() {
                self.source.stop();
                return End::ServerEnded;
            }
            match woken.recv_timeout(self.pause(next)) {
                Ok(Wake::Signal) => {
                    self.source.stop();
                    return End::Interrupted;
                }
                Ok(Wake::SourceFinished) | Err(RecvTimeoutError::Timeout) => {}
                // The source's own sender lives as long as it runs.
                Err(RecvTimeoutError::Disconnected) => return End::Stalled,
            }
            if Instant::now() < next {
                continue;
            }
            next += PROGRESS_PERIOD;
            let now = (self.source.accepted(), self.sink.messages());
            note(&format!(
                "{:4.0} s: accepted {} (+{}), delivered {} (+{})",
                self.started.elapsed().as_secs_f64(),
                now.0,
                now.0 - shown.0,
                now.1,
                now.1 - shown.1
            ));
            if now != shown {
                moved = Instant::now();
            } else if moved.elapsed() >= patience {
                self.source.stop();
                return End::Stalled;
            }
            shown = now;
        }
    }

    /// How long to wait: to the next progress line, or, near the end, not long.
    fn pause(&self, next: Instant) -> Duration {
        let left = next.saturating_duration_since(Instant::now());
        if self.source.is_finished() { left.min(Duration::from_millis(5)) } else { left }
    }

    fn is_complete(&self) -> bool {
        // The sets are compared only when the numbers allow it.
        self.source.is_finished()
            && self.sink.messages() >= self.source.accepted()
            && audit(&self.source.ledger(), &self.sink.ledger().0).lost == 0
    }

    fn account(&self, end: End, seconds: f64) -> Account {
        Account {
            end,
            seconds,
            audit: audit(&self.source.ledger(), &self.sink.ledger().0),
            source: self.source.report(),
            sink: self.sink.report(),
        }
    }
}

/// The result of a run.
#[derive(Debug)]
struct Account {
    end: End,
    seconds: f64,
    audit: Audit,
    source: SourceReport,
    sink: SinkReport,
}

impl Account {
    /// Whether every message was acknowledged and arrived as it was sent, and nothing else came.
    fn is_good(&self) -> bool {
        self.end == End::Complete
            && self.source.accepted == self.source.asked
            && self.audit.lost == 0
            && self.sink.damaged == 0
            && self.sink.foreign == 0
    }

    fn text(&self) -> String {
        let mut text = match self.end {
            End::Complete => "",
            End::Stalled => "nothing moved any more: given up\n",
            End::Interrupted => "interrupted: what is missing was still in the queue\n",
            End::ServerEnded => "the server ended by itself\n",
        }
        .to_owned();
        text.push_str(&self.source.text());
        text.push_str(&self.sink.text());
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "account: accepted {}, delivered {}, duplicates {}, damaged {}, lost {}\n\
             \x20 end to end: {:.0} messages/s over {:.2} s",
            self.audit.acknowledged,
            self.audit.arrived,
            self.sink.duplicates,
            self.sink.damaged,
            self.audit.lost,
            per_second(self.audit.arrived, self.seconds),
            self.seconds,
        );
        if self.audit.unacknowledged > 0 {
            let _ = writeln!(text, "  arrived, not acknowledged: {}", self.audit.unacknowledged);
        }
        if self.sink.foreign > 0 {
            let _ = writeln!(text, "  not from the source (DSNs?): {}", self.sink.foreign);
        }
        for id in &self.audit.lost_ids {
            let _ = writeln!(text, "  lost: {id}");
        }
        text
    }
}

/// The page of metrics once the queue is empty; after a while, as it is then.
///
/// The sink counts a message when it answers. The server settles it a moment later, and publishes
/// its gauges a moment after that.
fn settled_page(control: SocketAddr) -> anyhow::Result<Page> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let page = Page::fetch(control)?;
        if page.sum("ringpost_queue_messages", "") == Some(0.0) || Instant::now() >= deadline {
            return Ok(page);
        }
        thread::sleep(SETTLE_POLL);
    }
}

/// What the server's own numbers say about the run.
fn metrics_text(page: anyhow::Result<Page>) -> String {
    let page = match page {
        Ok(page) => page,
        Err(error) => return format!("metrics: {error:#}\n"),
    };
    let mut text = "metrics, all cores:\n".to_owned();
    for (name, label) in METRICS {
        let shown = if label.is_empty() { name.to_owned() } else { format!("{name}{{{label}}}") };
        // Writing to a string does not fail.
        let _ = match page.sum(name, label) {
            Some(value) => writeln!(text, "  {shown} {value}"),
            None => writeln!(text, "  {shown} absent"),
        };
    }
    let received = page.sum("ringpost_messages_received_total", "");
    let syncs = page.sum("ringpost_commit_syncs_total", "");
    if let (Some(received), Some(syncs)) = (received, syncs.filter(|syncs| *syncs > 0.0)) {
        let _ = writeln!(text, "  messages per sync: {:.1}", received / syncs);
    }
    text
}

/// How long the server may take to settle what it has delivered.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the metrics are looked at meanwhile.
const SETTLE_POLL: Duration = Duration::from_millis(50);

/// The series shown at the end: name and label.
const METRICS: [(&str, &str); 7] = [
    ("ringpost_messages_received_total", ""),
    ("ringpost_outcomes_total", "outcome=\"delivered\""),
    ("ringpost_outcomes_total", "outcome=\"deferred\""),
    ("ringpost_commit_batches_total", ""),
    ("ringpost_commit_syncs_total", ""),
    ("ringpost_commit_bytes_total", ""),
    ("ringpost_queue_messages", ""),
];

fn sink_options() -> SinkOptions {
    SinkOptions {
        listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
        cpus: vec![None],
        delay: Duration::ZERO,
        behaviour: Behaviour::default(),
        record: None,
    }
}

fn source_options(arguments: &DemoArguments, to: SocketAddr) -> SourceOptions {
    SourceOptions {
        to: vec![to],
        sessions: usize::from(arguments.sessions),
        messages: arguments.messages,
        size: arguments.size as usize,
        rate: None,
        keep: arguments.keep,
        pipeline: arguments.keep,
        recipients: 1,
        domains: vec!["example.net".to_owned()],
        reverse_path: "load@example.com".to_owned(),
        helo_name: "source.example.com".to_owned(),
        attempts: 20,
        timeout: Duration::from_secs(arguments.patience),
        acked: None,
        cpus: vec![None],
    }
}

/// `ringpost` in the directory of the running binary.
fn binary_beside_this() -> anyhow::Result<PathBuf> {
    let path = env::current_exe().context("cannot find this binary")?.with_file_name("ringpost");
    if !path.is_file() {
        bail!("{} does not exist: build it, or say where it is with --ringpost", path.display());
    }
    Ok(path)
}
