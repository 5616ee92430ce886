//! What a kill is aimed at, and what it has hit.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt as _;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringpost_e2e::account::Outage;
use ringpost_e2e::process::{Server, Signal};
use ringpost_e2e::queue_files::{self as files, Written};
use ringpost_e2e::wait::watch;

const SHARDS: usize = 2;

/// How long is waited for what is aimed at. If it does not come, the kill comes at that moment.
const PATIENCE: Duration = Duration::from_secs(20);

/// The moments of the kills, by a small generator of numbers.
pub(super) struct Moments {
    /// The state of the generator, at first the seed, which is printed.
    state: u64,
    /// What earlier kills have left unfinished.
    left: HashSet<Written>,
}

impl Moments {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed, left: HashSet::new() }
    }

    fn next(&mut self, range: Range<u64>) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        range.start + (self.state >> 33) % (range.end - range.start)
    }

    fn pause_us(&mut self, range: Range<u64>) {
        thread::sleep(Duration::from_micros(self.next(range)));
    }
}

/// What the server shall be doing when it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Aim {
    /// Anything.
    Load,
    /// Reading its logs after the kill before, or what comes right after that.
    Recovery,
    /// Making the next segment, which it does when the log goes on to a new one.
    SegmentChange,
    /// Writing a checkpoint.
    Checkpoint,
    /// Copying what lives in the oldest segment to the end of the log, so that it can be used again.
    Reclaim,
    /// Stopping, as it was told by SIGTERM.
    Shutdown,
}

impl Aim {
    pub(super) const ALL: [Self; 6] = [
        Self::Load,
        Self::Recovery,
        Self::SegmentChange,
        Self::Checkpoint,
        Self::Reclaim,
        Self::Shutdown,
    ];

    /// Sets the server up so that all of it goes on all the time: with small segments and frequent
    /// checkpoints.
    pub(super) fn prepare(server: &mut Server) {
        for (key, value) in [
            ("segment_size", "\"1MiB\""),
            ("checkpoint_interval", "\"256KiB\""),
            ("size_max", "\"256MiB\""),
        ] {
            server.config.set("queue", key, value);
        }
        server.config.set("queue", "shards", &SHARDS.to_string());
        server.config.set("listener.main", "recipients_max", "100");
        server.config.set("listener.main", "message_size_max", "\"1MiB\"");
    }

    /// Lets the load run until the moment has come, and kills. Says what was cut short, by what is on
    /// the disk and in the log after it. For [`Aim::Recovery`] the server must not run before.
    pub(super) fn kill(self, server: &mut Server, moments: &mut Moments) -> Result<Vec<Self>> {
        let queue = server.queue();
        let logged = server.log_len();
        match self {
            Self::Load => moments.pause_us(10_000..800_000),
            Self::Recovery => {
                server.spawn(&[])?;
                watch(PATIENCE, || Ok(server.log_from(logged).contains("listening shard")))?;
                moments.pause_us(0..20_000);
            }
            Self::SegmentChange => {
                moments.pause_us(10_000..200_000);
                let before = files::segments(&queue)?;
                watch(PATIENCE, || Ok(!files::segments(&queue)?.is_subset(&before)))?;
                moments.pause_us(0..2_000);
            }
            Self::Checkpoint => {
                moments.pause_us(10_000..200_000);
                let before = files::unfinished_checkpoints(&queue)?;
                watch(PATIENCE, || Ok(!files::unfinished_checkpoints(&queue)?.is_subset(&before)))?;
                moments.pause_us(0..2_000);
            }
            Self::Reclaim => {
                moments.pause_us(10_000..200_000);
                let rewrites = || Ok::<_, anyhow::Error>(server.metrics()?.count(REWRITES));
                let before = rewrites()?;
                watch(PATIENCE, || Ok(rewrites()? > before))?;
            }
            Self::Shutdown => {
                moments.pause_us(50_000..400_000);
                server.signal(Signal::TERM)?;
                watch(PATIENCE, || Ok(server.log_from(logged).contains("stopping")))?;
                moments.pause_us(0..100_000);
            }
        }
        let status = server.kill()?;
        let said = server.log_from(logged);
        let opened = said.matches("log opened").count();
        let segments = files::unfinished_segments(&queue)?;
        let checkpoints = files::unfinished_checkpoints(&queue)?;
        let is_new = |found: &HashSet<Written>| !found.is_subset(&moments.left);
        let (segment, checkpoint) = (is_new(&segments), is_new(&checkpoints));
        moments.left = segments.into_iter().chain(checkpoints).collect();
        // What the kill before this one has left is found again while nothing is moved.
        let reclaim = self != Self::Recovery && files::half_moved(&queue)? > 0;
        let shutdown = said.contains("stopping") && status.signal() == Some(9);
        let hits = [
            (Self::Recovery, self == Self::Recovery && opened < SHARDS),
            (Self::SegmentChange, segment),
            (Self::Checkpoint, checkpoint),
            (Self::Reclaim, reclaim),
            (Self::Shutdown, shutdown),
        ];
        Ok(hits.into_iter().filter(|(_, is_hit)| *is_hit).map(|(aim, _)| aim).collect())
    }
}

/// Messages moved so far.
pub(super) const REWRITES: &str = "ringpost_queue_rewrites_total";

/// How often what was hit.
#[derive(Debug, Default)]
pub(super) struct Score {
    tries: BTreeMap<Aim, usize>,
    hits: BTreeMap<Aim, usize>,
    pub(super) outages: Vec<Outage>,
}

impl Score {
    pub(super) fn note(&mut self, aim: Aim, hits: &[Aim], outage: Outage) {
        *self.tries.entry(aim).or_default() += 1;
        for aim in hits {
            *self.hits.entry(*aim).or_default() += 1;
        }
        self.outages.push(outage);
    }

    fn hits(&self, aim: Aim) -> usize {
        self.hits.get(&aim).copied().unwrap_or_default()
    }

    /// Expects that whatever was aimed at ten times or more was hit.
    pub(super) fn check(&self) -> Result<()> {
        for (aim, tries) in &self.tries {
            let hits = self.hits(*aim);
            ensure!(*aim == Aim::Load || *tries < 10 || hits > 0, "{tries} kills miss {aim:?}");
        }
        Ok(())
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (aim, tries)) in self.tries.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{tries} at {aim:?}")?;
            if *aim != Aim::Load {
                write!(f, " (hit by {})", self.hits(*aim))?;
            }
        }
        Ok(())
    }
}

#[test]
fn an_aim_that_is_never_hit_is_an_error() {
    let outage = || Outage { at: std::time::Instant::now(), delivered: HashSet::new() };
    let mut score = Score::default();
    for _ in 0..10 {
        score.check().unwrap();
        score.note(Aim::Checkpoint, &[Aim::Reclaim], outage());
    }
    assert!(score.check().unwrap_err().to_string().contains("Checkpoint"));
    score.note(Aim::Checkpoint, &[Aim::Checkpoint], outage());
    score.check().unwrap();
    assert_eq!(score.to_string(), "11 at Checkpoint (hit by 1)");
}
