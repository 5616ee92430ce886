//! From a seed to a whole run and its report.
//!
//! A [`Plan`] is drawn from the seed; the world is built by it; then applications send mail while things
//! happen, until they have sent all. After that nothing goes wrong any more, and the queue has to drain in a
//! time that the plan bounds. At the end the account has to be complete.

mod build;
mod drive;
mod limits;
mod plan;
mod shrink;
mod tls;

use std::fmt;
use std::time::Duration;

use self::drive::Drive;
pub use self::plan::{Act, DomainKind, Plan, Settings};
pub use self::shrink::shrink;
pub use self::tls::OutboundTls;

/// Violations that a report shows: the first ones say the most.
const VIOLATIONS_SHOWN: usize = 5;

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it was drawn from.
    pub seed: u64,
    /// What was found wrong, in order; nothing if all is well.
    pub violations: Vec<String>,
    /// A hash of all that happened: the same seed gives the same one.
    pub trace: u64,
    /// Virtual time that passed.
    pub simulated: Duration,
    /// What happened, in numbers.
    pub figures: Figures,
    /// What was done to the server, and when.
    pub acts: Vec<(Duration, String)>,
}

/// A run in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// Messages whose final dot was sent.
    pub sent: u64,
    /// Messages that were acknowledged.
    pub acked: u64,
    /// Messages that remote hosts took, repeats included.
    pub taken: u64,
    /// Event records, each counted once: delivered, deferred, bounced, expired.
    pub outcomes: [u64; 4],
    /// Recipients that operators removed.
    pub removed: u64,
    /// Reports.
    pub reports: u64,
    /// Lives of the server.
    pub lives: u64,
    /// Times that the disk was held against what had been acknowledged.
    pub looks: u64,
    /// Bits that were flipped in a copy of a log.
    pub flips: u64,
    /// TLS handshakes that the server counted as good.
    pub handshakes: u64,
    /// TLS handshakes with remote hosts that it counted as good.
    pub remote_handshakes: u64,
    /// Polls of tasks.
    pub polls: u64,
}

impl Report {
    /// Whether nothing was found wrong.
    pub fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = &self.figures;
        let [delivered, deferred, bounced, expired] = figures.outcomes;
        write!(
            f,
            "seed {}: {} sent, {} acked, {} taken, {delivered} delivered, {deferred} deferred, \
             {bounced} bounced, {expired} expired, {} removed, {} reports, {} lives, {} looks, {} flips, \
             {} handshakes, {} with remote hosts, {} polls, {:.1} s simulated, trace {:016x}",
            self.seed,
            figures.sent,
            figures.acked,
            figures.taken,
            figures.removed,
            figures.reports,
            figures.lives,
            figures.looks,
            figures.flips,
            figures.handshakes,
            figures.remote_handshakes,
            figures.polls,
            self.simulated.as_secs_f64(),
            self.trace
        )?;
        for violation in self.violations.iter().take(VIOLATIONS_SHOWN) {
            write!(f, "\n  VIOLATION {violation}")?;
        }
        Ok(())
    }
}

/// Runs a plan to its end, or to the first violation.
pub fn run(plan: &Plan) -> Report {
    match Drive::new(plan) {
        Ok(drive) => drive.run(),
        Err(error) => Report {
            seed: plan.seed,
            violations: vec![format!("the plan cannot be run: {error:#}")],
            trace: 0,
            simulated: Duration::ZERO,
            figures: Figures::default(),
            acts: Vec::new(),
        },
    }
}
