//! Runs seeds of the simulator.

use std::num::NonZero;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use ringpost_sim::scenario::{self, Plan, Report};

/// Runs the whole server in a simulated world, a run for each seed.
#[derive(Debug, Parser)]
struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Go on with further seeds for so many hours instead.
    #[arg(long)]
    hours: Option<f64>,
    /// Messages of each run.
    #[arg(long, default_value_t = 1000)]
    messages: u64,
    /// Runs at the same time. Default: one for each core.
    #[arg(long)]
    jobs: Option<NonZero<usize>>,
    /// Ends after so many runs with violations.
    #[arg(long, default_value_t = 20)]
    failures: u64,
    /// Makes the first run that fails as short and simple as it can, by so many further runs at most, and says
    /// what is left of its plan.
    #[arg(long, value_name = "RUNS")]
    shrink: Option<u32>,
    /// Runs in which nothing goes wrong.
    #[arg(long)]
    quiet: bool,
    /// Says what is drawn, and what is done to the server.
    #[arg(long)]
    verbose: bool,
    /// Says what the server logs.
    #[arg(long)]
    log: Option<String>,
}

impl Options {
    fn plan(&self, seed: u64) -> Plan {
        let draw = if self.quiet { Plan::quiet } else { Plan::draw };
        draw(seed, self.messages)
    }
}

#[expect(clippy::print_stdout, reason = "the report is for whoever has called this")]
fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(filter) = &options.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        let format = tracing_subscriber::fmt().with_env_filter(filter).without_time();
        format.with_writer(std::io::stderr).init();
    }
    let began = Instant::now();
    let budget = options.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
    let next = AtomicU64::new(options.seed);
    let end = options.seed.saturating_add(options.seeds);
    let is_over = AtomicBool::new(false);
    let jobs = options.jobs.or_else(|| thread::available_parallelism().ok());
    let (sender, reports) = mpsc::channel::<Report>();
    let mut totals = Totals::default();
    println!("from seed {}, {} messages each", options.seed, options.messages);
    thread::scope(|scope| {
        for _ in 0..jobs.map_or(1, NonZero::get) {
            let sender = sender.clone();
            let (options, next, is_over) = (&options, &next, &is_over);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let has_time = match budget {
                        Some(budget) => began.elapsed() < budget,
                        None => seed < end,
                    };
                    if !has_time || is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let draw = if options.quiet { Plan::quiet } else { Plan::draw };
                    let plan = draw(seed, options.messages);
                    if options.verbose {
                        println!("{plan:#?}");
                    }
                    if sender.send(scenario::run(&plan)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for report in reports {
            totals.add(&report);
            if !report.is_sound() || options.verbose {
                println!("{report}");
                for (at, act) in report.acts.iter().filter(|_| options.verbose) {
                    println!("  [{:.3} s] {act}", at.as_secs_f64());
                }
            }
            if totals.failed >= options.failures {
                is_over.store(true, Ordering::Relaxed);
            }
        }
    });
    if let (Some(runs), Some(seed)) = (options.shrink, totals.failed_seed)
        && let Some((plan, report, runs)) = scenario::shrink(&options.plan(seed), runs)
    {
        println!("after {runs} runs this is left: {plan:#?}\n{report}");
        for (at, act) in &report.acts {
            println!("  [{:.3} s] {act}", at.as_secs_f64());
        }
    }
    let real = began.elapsed().as_secs_f64();
    let simulated = totals.simulated.as_secs_f64();
    println!(
        "{} runs, {} with violations; {} messages sent, {} acknowledged, {} taken, {} TLS \
         handshakes, {} lives of the server, {} looks at its disk, {} flipped bits; {simulated:.0} s simulated in {real:.1} s: {:.0} times as \
         fast, {:.0} messages/s",
        totals.runs,
        totals.failed,
        totals.sent,
        totals.acked,
        totals.taken,
        totals.handshakes,
        totals.lives,
        totals.looks,
        totals.flips,
        simulated / real,
        totals.sent as f64 / real
    );
    if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Debug, Default)]
struct Totals {
    runs: u64,
    failed: u64,
    /// The first that failed.
    failed_seed: Option<u64>,
    sent: u64,
    acked: u64,
    taken: u64,
    handshakes: u64,
    lives: u64,
    looks: u64,
    flips: u64,
    simulated: Duration,
}

impl Totals {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        if !report.is_sound() {
            self.failed += 1;
            self.failed_seed.get_or_insert(report.seed);
        }
        self.sent += report.figures.sent;
        self.acked += report.figures.acked;
        self.taken += report.figures.taken;
        self.handshakes += report.figures.handshakes;
        self.lives += report.figures.lives;
        self.looks += report.figures.looks;
        self.flips += report.figures.flips;
        self.simulated += report.simulated;
    }
}
