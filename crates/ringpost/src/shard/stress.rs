//! Whether a shard is short of something, and of what.
//!
//! Looked at once a tick from what is there anyway. A cause is entered at one level and left below a lower
//! one, and not before it has been below for a while, so that the state does not flutter.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use ringpost_metrics::label::{ClosedLabel as _, StressCause};

use super::Shard;
use crate::{
    config::schema::StressSection,
    control::{Level, SharedRoom},
    runtime::Runtime,
};

/// How long a cause has to be below the level at which it is left.
const CALM: Duration = Duration::from_secs(5);

/// Percent of the memory at which the shard is under stress, as it is for intake to be slowed down.
const MEMORY_ENTER_PERCENT: u64 = 70;

/// Percent of the memory below which it is not any more.
const MEMORY_LEAVE_PERCENT: u64 = 60;

/// How much of one thing is used, and when that is too much; all in the same unit.
#[derive(Debug, Clone, Copy)]
struct Usage {
    used: u64,
    enter: u64,
    leave: u64,
}

/// What a shard is short of.
#[derive(Debug, Default)]
pub(super) struct Stress {
    /// For each cause when it was last seen above the level at which it is left; `None` in calm.
    seen: [Cell<Option<Instant>>; StressCause::ALL.len()],
    /// Whether one of them is about room for clients.
    is_crowded: Cell<bool>,
}

impl Stress {
    /// Whether it is short of room for clients: of connections, descriptors or memory. Sessions have lower
    /// limits then, and new connections of clients that may not relay are refused: the rest is for
    /// those that may. For a disk that is slow or nearly full none of this would help.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_crowded.get()
    }

    /// Whether it is short of something for this reason.
    pub(super) fn has(&self, cause: StressCause) -> bool {
        self.seen.get(cause as usize).is_some_and(|seen| seen.get().is_some())
    }

    /// Takes how much is used; tells whether the state of the cause has changed.
    fn look(&self, now: Instant, cause: StressCause, usage: Usage) -> bool {
        let Some(seen) = self.seen.get(cause as usize) else { return false };
        let before = seen.get();
        let is_high = usage.used >= if before.is_some() { usage.leave } else { usage.enter };
        if is_high {
            seen.set(Some(now));
        } else if before.is_some_and(|last| now >= last + CALM) {
            seen.set(None);
        }
        let of_room = [StressCause::Connections, StressCause::Descriptors, StressCause::Memory];
        self.is_crowded.set(of_room.into_iter().any(|cause| self.has(cause)));
        before.is_some() != seen.get().is_some()
    }
}

impl<R: Runtime> Shard<R> {
    /// Looks at what the shard is short of; tells the sessions when that begins.
    pub(super) fn look_at_stress(&self, now: Instant) {
        let section = self.config().config().stress;
        let was_crowded = self.stress.is_crowded();
        for &cause in StressCause::ALL {
            if !self.stress.look(now, cause, self.usage(now, cause, &section)) {
                continue;
            }
            let (is_on, name) = (self.stress.has(cause), cause.value());
            self.metrics.stress.with(cause).set(if is_on { 1.0 } else { 0.0 });
            if is_on {
                self.metrics.stress_entered.increment(cause);
                tracing::warn!(shard = self.number, cause = name, "under stress");
            } else {
                tracing::info!(shard = self.number, cause = name, "no longer under stress");
            }
        }
        let is_crowded = self.stress.is_crowded();
        if is_crowded != was_crowded {
            for listener in &*self.listeners.borrow() {
                listener.set_crowded(is_crowded);
            }
            if is_crowded {
                self.runtime.notify_streams();
            }
        }
    }

    fn usage(&self, now: Instant, cause: StressCause, section: &StressSection) -> Usage {
        let of = |used: usize, max: usize| Usage {
            used: used as u64 * 100,
            enter: max as u64 * u64::from(section.enter_percent),
            leave: max as u64 * u64::from(section.leave_percent),
        };
        match cause {
            StressCause::Connections => {
                let listeners = self.listeners.borrow();
                let usages = listeners.iter().map(|listener| listener.connections());
                // Of the listener that is fullest.
                let fullest = usages.max_by_key(|(open, max)| open * 1000 / (*max).max(1));
                fullest.map_or(of(0, 1), |(open, max)| of(open, max))
            }
            StressCause::Descriptors => of(self.sessions_open.get(), self.sessions_max),
            StressCause::Memory => Usage {
                used: self.watermarks.memory_percent().into(),
                enter: MEMORY_ENTER_PERCENT,
                leave: MEMORY_LEAVE_PERCENT,
            },
            StressCause::Disk => {
                let rooms = [SharedRoom::Space, SharedRoom::Inodes];
                let is_short =
                    rooms.into_iter().any(|room| self.watermarks.level(room) != Level::Fine);
                Usage { used: is_short.into(), enter: 1, leave: 1 }
            }
            StressCause::CommitLatency => {
                let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                let enter = millis(section.commit_latency);
                let used = millis(self.commits.latency(now));
                Usage { used, enter, leave: enter / 2 }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_entered_high_and_left_low_after_a_while() {
        let stress = Stress::default();
        let start = Instant::now();
        let cause = StressCause::Memory;
        let look = |seconds, used| {
            let usage = Usage { used, enter: 80, leave: 60 };
            let has_changed = stress.look(start + Duration::from_secs(seconds), cause, usage);
            (has_changed, stress.has(cause))
        };
        // Seconds, percent, and whether there is stress then; it fell below 60 at 20 s and 24 s.
        let table = [
            (0, 79, false),
            (1, 80, true),
            (2, 60, true),
            (19, 61, true),
            (20, 59, true),
            (23, 60, true),
            (24, 59, true),
            (27, 0, true),
            (28, 59, false),
            (29, 79, false),
            (30, 80, true),
        ];
        let mut before = false;
        for (seconds, used, expected) in table {
            assert_eq!(look(seconds, used), (before != expected, expected), "{seconds}: {used}");
            before = expected;
        }
        assert!(stress.is_crowded());
    }

    #[test]
    fn a_disk_that_is_short_is_no_crowd() {
        for &cause in StressCause::ALL {
            let stress = Stress::default();
            assert!(!stress.is_crowded());
            stress.look(Instant::now(), cause, Usage { used: 1, enter: 1, leave: 1 });
            let is_of_writing = matches!(cause, StressCause::Disk | StressCause::CommitLatency);
            assert_eq!(stress.is_crowded(), !is_of_writing, "{cause:?}");
            assert!(stress.has(cause));
        }
    }
}
