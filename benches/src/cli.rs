//! The command line of `ringpost-load`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::{Args, Parser, Subcommand};

use crate::account::RECIPIENTS_MAX;
use crate::commits::CommitOptions;
use crate::message::{SEQUENCE_MAX, SIZE_MAX};
use crate::sink::{Behaviour, SinkOptions};
use crate::source::SourceOptions;

/// Load tools for mail servers: a source and a sink that keep account of every message.
#[derive(Debug, Parser)]
#[command(name = "ringpost-load", version, about)]
pub(crate) struct Cli {
    /// The tool to run.
    #[command(subcommand)]
    pub(crate) tool: Tool,
}

/// The tools.
#[derive(Debug, Subcommand)]
pub(crate) enum Tool {
    /// Send generated messages and report rate and latency.
    Source(SourceArguments),
    /// Take messages, check them, and report what came.
    Sink(SinkArguments),
    /// Start a server, send mail through it, and account for every message.
    Demo(DemoArguments),
    /// Measure how fast the log makes messages durable, beside bare writes.
    Commits(CommitArguments),
}

/// Where a tool's executors run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Placement {
    /// Threads, each with an executor of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    cores: u16,
    /// Pin one thread to each of these CPUs, instead of --cores.
    #[arg(long, value_name = "CPU,…", value_delimiter = ',', conflicts_with = "cores")]
    cpus: Vec<usize>,
}

impl Placement {
    /// One entry for each executor.
    pub(crate) fn executors(&self) -> Vec<Option<usize>> {
        if self.cpus.is_empty() {
            vec![None; usize::from(self.cores)]
        } else {
            self.cpus.iter().copied().map(Some).collect()
        }
    }
}

/// Arguments of `ringpost-load commits`.
#[derive(Debug, Args)]
pub(crate) struct CommitArguments {
    /// Directory on the disk to be measured; what is written there is removed again.
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    directory: PathBuf,
    /// Numbers of parallel writers.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,8,64,512")]
    writers: Vec<usize>,
    /// Sizes of a message in KiB, at most 4096.
    #[arg(long, value_name = "KIB,…", value_delimiter = ',', default_value = "1,8,64")]
    sizes: Vec<usize>,
    /// Seconds that each case runs.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Let fio, if it is installed, write blocks of the same size as well.
    #[arg(long)]
    fio: bool,
    /// Report as one JSON array.
    #[arg(long)]
    pub(crate) json: bool,
}

impl CommitArguments {
    /// The options they stand for.
    ///
    /// # Errors
    ///
    /// When a value is out of its bounds.
    pub(crate) fn options(&self) -> anyhow::Result<CommitOptions> {
        ensure!(self.sizes.iter().all(|size| (1..=4096).contains(size)), "--sizes are 1 to 4096");
        let is_number = |writers: &usize| (1..=100_000).contains(writers);
        ensure!(self.writers.iter().all(is_number), "--writers are 1 to 100000");
        Ok(CommitOptions {
            directory: self.directory.clone(),
            writers: self.writers.clone(),
            sizes: self.sizes.iter().map(|size| size * 1024).collect(),
            duration: Duration::from_secs(self.seconds),
            fio: self.fio,
        })
    }
}

/// Arguments of `ringpost-load source`.
#[derive(Debug, Args)]
pub(crate) struct SourceArguments {
    /// Server to send to; sessions take turns among several.
    #[arg(long, value_name = "ADDR:PORT,…", value_delimiter = ',', required = true)]
    to: Vec<SocketAddr>,
    /// Parallel sessions.
    #[arg(long, value_name = "N", default_value_t = 50)]
    sessions: usize,
    /// Messages to send, at most 100 million.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    messages: u32,
    /// Octets of each message's content, header included.
    #[arg(long, value_name = "BYTES", default_value_t = 5120)]
    size: usize,
    /// Messages a second over all sessions; as fast as it goes without.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Send many messages over a connection.
    #[arg(long)]
    keep: bool,
    /// Send MAIL, RCPT and DATA in one write when the server offers PIPELINING.
    #[arg(long)]
    pipeline: bool,
    /// Recipients of each message, at most 64.
    #[arg(long, value_name = "K", default_value_t = 1)]
    recipients: usize,
    /// Domains of the recipients, taken in turns.
    #[arg(long, value_name = "DOMAIN,…", value_delimiter = ',', default_value = "example.net")]
    domains: Vec<String>,
    /// Reverse-path of the messages; may be empty.
    #[arg(long, value_name = "ADDRESS", default_value = "load@example.com")]
    reverse_path: String,
    /// Name to greet with.
    #[arg(long, value_name = "NAME", default_value = "source.example.com")]
    helo: String,
    /// How often to try a message that is refused for now.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// Seconds each connect, write and reply may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// File to append the id of each acknowledged message to.
    #[arg(long, value_name = "FILE")]
    acked: Option<PathBuf>,
    /// Report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    placement: Placement,
}

impl SourceArguments {
    /// The options they stand for.
    ///
    /// # Errors
    ///
    /// When a value is out of its bounds.
    pub(crate) fn options(&self) -> anyhow::Result<SourceOptions> {
        ensure!(self.messages <= SEQUENCE_MAX, "--messages is at most {SEQUENCE_MAX}");
        ensure!(self.size <= SIZE_MAX, "--size is at most {SIZE_MAX}");
        ensure!(self.sessions > 0, "--sessions is at least 1");
        ensure!(
            (1..=RECIPIENTS_MAX).contains(&self.recipients),
            "--recipients is 1 to {RECIPIENTS_MAX}"
        );
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            bail!("--rate is more than 0");
        }
        for text in self.domains.iter().chain([&self.reverse_path, &self.helo]) {
            ensure!(
                text.bytes().all(|octet| octet.is_ascii_graphic() && !b"<>".contains(&octet)),
                "{text:?} cannot stand in an SMTP command"
            );
        }
        ensure!(self.domains.iter().all(|domain| !domain.is_empty()), "a domain is empty");
        Ok(SourceOptions {
            to: self.to.clone(),
            sessions: self.sessions,
            messages: self.messages,
            size: self.size,
            rate: self.rate,
            keep: self.keep,
            pipeline: self.pipeline,
            recipients: self.recipients,
            domains: self.domains.clone(),
            reverse_path: self.reverse_path.clone(),
            helo_name: self.helo.clone(),
            attempts: self.attempts,
            timeout: Duration::from_secs(self.timeout),
            acked: self.acked.clone(),
            cpus: self.placement.executors(),
        })
    }
}

/// Arguments of `ringpost-load sink`.
#[derive(Debug, Args)]
pub(crate) struct SinkArguments {
    /// Addresses to listen on; port 0 lets the system choose.
    #[arg(long, value_name = "ADDR:PORT,…", value_delimiter = ',', required = true)]
    listen: Vec<SocketAddr>,
    /// End after so many messages, instead of at TERM or INT.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) messages: Option<u64>,
    /// Milliseconds to wait before the reply to a final dot.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
    /// Recipients to refuse with a 450, of a thousand.
    #[arg(long, value_name = "PERMILLE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    rcpt_4xx: u32,
    /// Recipients to refuse with a 550, of a thousand.
    #[arg(long, value_name = "PERMILLE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    rcpt_5xx: u32,
    /// Final dots to answer by closing the connection, of a thousand.
    #[arg(long, value_name = "PERMILLE", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    close_after_dot: u32,
    /// Answer MAIL with a 421 after so many messages on a connection.
    #[arg(long, value_name = "N")]
    messages_per_connection: Option<u32>,
    /// Octets of content to take.
    #[arg(long, value_name = "BYTES", default_value_t = Behaviour::default().size_max)]
    size_max: usize,
    /// File to append a line to for each message: id, milliseconds since 1970, ok or what is
    /// wrong, recipients as a hexadecimal bit set.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Report as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    placement: Placement,
}

impl SinkArguments {
    /// The options they stand for.
    pub(crate) fn options(&self) -> SinkOptions {
        SinkOptions {
            listen: self.listen.clone(),
            cpus: self.placement.executors(),
            delay: Duration::from_millis(self.delay_ms),
            behaviour: Behaviour {
                rcpt_4xx_permille: self.rcpt_4xx,
                rcpt_5xx_permille: self.rcpt_5xx,
                close_after_dot_permille: self.close_after_dot,
                messages_per_connection: self.messages_per_connection,
                size_max: self.size_max,
            },
            record: self.record.clone(),
        }
    }
}

/// Arguments of `ringpost-load demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Messages to send.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(SEQUENCE_MAX)))]
    pub(crate) messages: u32,
    /// Parallel sessions of the source.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) sessions: u16,
    /// Octets of each message's content.
    #[arg(long, value_name = "BYTES", default_value_t = 5120, value_parser = clap::value_parser!(u32).range(..=SIZE_MAX as i64))]
    pub(crate) size: u32,
    /// Send many messages over a connection, pipelined.
    #[arg(long)]
    pub(crate) keep: bool,
    /// The server's binary [default: `ringpost` beside this one].
    #[arg(long, value_name = "PATH")]
    pub(crate) ringpost: Option<PathBuf>,
    /// Seconds without progress after which to give up.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) patience: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn source(arguments: &[&str]) -> anyhow::Result<SourceOptions> {
        let start = ["ringpost-load", "source", "--to", "127.0.0.1:25"];
        match Cli::try_parse_from(start.iter().chain(arguments))?.tool {
            Tool::Source(arguments) => arguments.options(),
            tool => bail!("{tool:?}"),
        }
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        assert!(source(&[]).is_ok());
        let rows: [&[&str]; 9] = [
            &["--messages", "100000000"],
            &["--sessions", "0"],
            &["--recipients", "0"],
            &["--recipients", "65"],
            &["--rate", "0"],
            &["--rate", "NaN"],
            &["--domains", "a.example,"],
            &["--reverse-path", "a b@c"],
            &["--helo", "x\r\nQUIT"],
        ];
        for arguments in rows {
            assert!(source(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn executors_are_pinned_only_when_asked() {
        assert_eq!(source(&["--cores", "2"]).unwrap().cpus, [None, None]);
        assert_eq!(source(&["--cpus", "0,3"]).unwrap().cpus, [Some(0), Some(3)]);
        assert!(source(&["--cpus", "0", "--cores", "2"]).is_err());
    }

    #[test]
    fn sink_defaults_to_good_behaviour() {
        let cli = Cli::try_parse_from(["ringpost-load", "sink", "--listen", "127.0.0.1:0"]);
        let Tool::Sink(arguments) = cli.unwrap().tool else { panic!("another tool") };
        let behaviour = arguments.options().behaviour;
        assert_eq!(behaviour.rcpt_4xx_permille + behaviour.rcpt_5xx_permille, 0);
        assert_eq!(behaviour.close_after_dot_permille, 0);
    }
}
