//! How long a batch gathers before it is written.
//!
//! A lone sender waits for its own write and for nothing else. On a crowded shard a batch waits for those
//! who are about to join: a write costs the same CPU for one message as for twenty, and there is other
//! work to do meanwhile. Measured at 50 sessions: a third of the writes at the same rate of mail.

use std::time::{Duration, Instant};

/// Sessions with something to say from which on a shard is crowded.
const CROWD: usize = 6;

/// How far apart a crowded shard begins its batches.
const CROWDED_PACE: Duration = Duration::from_millis(8);

/// How long such a batch gathers at least, from its first message on: after a large batch all its
/// senders come back at about the same time, and the first of them is not to go alone.
const CROWDED_GATHER: Duration = Duration::from_millis(3);

/// What the length of the pause depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gathering {
    /// Sessions that were heard from lately.
    pub(super) active: usize,
    /// Transactions between MAIL and the reply to their content.
    pub(super) open: usize,
    /// Those of them that wait for the batch.
    pub(super) waiting: usize,
    /// Since when the first of them waits; `None` when nobody does.
    pub(super) since: Option<Instant>,
    /// When the batch before it began to be written.
    pub(super) last_began: Option<Instant>,
}

impl Gathering {
    /// How long the batch is to gather yet; `None` when it is to be written now.
    pub(super) fn pause(self, now: Instant) -> Option<Duration> {
        let has_all = self.waiting >= self.open;
        let has_most = 3 * self.waiting >= 2 * self.active;
        if self.active < CROWD || (has_all && has_most) {
            return None;
        }
        let gathered = self.since? + CROWDED_GATHER;
        let paced = self.last_began.map(|began| began + CROWDED_PACE);
        let until = paced.map_or(gathered, |paced| paced.max(gathered));
        let pause = until.saturating_duration_since(now);
        (!pause.is_zero()).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses() {
        let base = Instant::now();
        let at = |ms: u64| base + Duration::from_millis(ms);
        let crowded = Gathering {
            active: 20,
            open: 12,
            waiting: 2,
            since: Some(at(100)),
            last_began: Some(at(98)),
        };
        let lone = Gathering { active: 1, open: 1, waiting: 1, ..crowded };
        // What gathers, when it is asked, and how many milliseconds it gathers yet.
        let table = [
            ("a lone sender waits for nothing", lone, 100, 0),
            ("nor do five", Gathering { active: 5, open: 5, ..crowded }, 100, 0),
            ("six keep the pace", Gathering { active: 6, open: 6, ..crowded }, 100, 6),
            ("a crowd keeps the pace", crowded, 100, 6),
            ("up to its end", crowded, 106, 0),
            (
                "the first does not go alone",
                Gathering { last_began: Some(at(50)), ..crowded },
                100,
                3,
            ),
            ("nor after a start", Gathering { last_began: None, ..crowded }, 101, 2),
            ("all are there", Gathering { open: 14, waiting: 14, ..crowded }, 100, 0),
            ("all, but few of the active", Gathering { open: 2, ..crowded }, 100, 6),
            ("most, but not all", Gathering { open: 15, waiting: 14, ..crowded }, 100, 6),
            ("nobody waits", Gathering { waiting: 0, since: None, ..crowded }, 100, 0),
        ];
        for (name, gathering, now, expected) in table {
            let pause = gathering.pause(at(now)).unwrap_or_default();
            assert_eq!(pause, Duration::from_millis(expected), "{name}");
        }
    }
}
