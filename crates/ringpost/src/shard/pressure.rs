//! How close a shard is to the limits of its intake, and which of them is the closest.

use ringpost_metrics::label::{Limit, StressCause};
use ringpost_queue::{Admission as QueueAdmission, QueueStats};

use super::Shard;
use crate::{
    config::schema::QueueSection,
    control::{Level, SharedRoom},
    runtime::Runtime,
};

/// Percent of a limit on what is queued from which on intake is slowed down.
const SLOW_PERCENT: u64 = 90;

/// A level, and the limit that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) level: Level,
    pub(super) limit: Limit,
}

impl Default for Pressure {
    fn default() -> Self {
        Self { level: Level::Fine, limit: Limit::QueueSize }
    }
}

/// The pressure of what is queued.
pub(super) fn of_queue(stats: &QueueStats, section: &QueueSection) -> Pressure {
    let level = |count: u64, max: u64| {
        if count >= max {
            Level::Stop
        } else if count >= max / 100 * SLOW_PERCENT + max % 100 * SLOW_PERCENT / 100 {
            Level::Slow
        } else {
            Level::Fine
        }
    };
    let messages = Pressure {
        level: level(stats.messages, section.messages_per_core_max),
        limit: Limit::QueuedMessages,
    };
    let recipients = Pressure {
        level: level(stats.recipients, section.recipients_per_core_max),
        limit: Limit::QueuedRecipients,
    };
    if recipients.level > messages.level { recipients } else { messages }
}

impl<R: Runtime> Shard<R> {
    /// The highest pressure of all limits that MAIL is held against.
    pub(super) fn pressure(&self) -> Pressure {
        if self.admission() == QueueAdmission::Full {
            return Pressure { level: Level::Stop, limit: Limit::QueueSize };
        }
        let mut highest = self.queue_pressure.get();
        if self.stress.has(StressCause::CommitLatency) {
            let slow = Pressure { level: Level::Slow, limit: Limit::SlowIntake };
            highest = if highest.level < Level::Slow { slow } else { highest };
        }
        for room in SharedRoom::ALL {
            let level = self.watermarks.level(room);
            if level > highest.level {
                let limit = match room {
                    SharedRoom::Space => Limit::FreeSpace,
                    SharedRoom::Inodes => Limit::FreeInodes,
                    SharedRoom::Memory => Limit::Memory,
                };
                highest = Pressure { level, limit };
            }
        }
        highest
    }

    /// Looks at what is queued, and tells the queue whether space is short.
    pub(super) fn look_at_queue(&self) {
        let is_short = self.watermarks.level(SharedRoom::Space) == Level::Stop;
        self.queue.borrow_mut().set_space_short(is_short);
        let stats = self.queue.borrow().stats();
        self.queue_pressure.set(of_queue(&stats, &self.config().config().queue));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_recipients_have_limits_of_their_own() {
        let section = QueueSection {
            messages_per_core_max: 10,
            recipients_per_core_max: 1000,
            ..QueueSection::default()
        };
        let table = [
            (8, 0, Level::Fine, Limit::QueuedMessages),
            (9, 0, Level::Slow, Limit::QueuedMessages),
            (10, 0, Level::Stop, Limit::QueuedMessages),
            (0, 899, Level::Fine, Limit::QueuedMessages),
            (0, 900, Level::Slow, Limit::QueuedRecipients),
            (9, 1000, Level::Stop, Limit::QueuedRecipients),
            (11, 2000, Level::Stop, Limit::QueuedMessages),
        ];
        for (messages, recipients, level, limit) in table {
            let stats = QueueStats { messages, recipients, ..QueueStats::default() };
            assert_eq!(of_queue(&stats, &section), Pressure { level, limit }, "{stats:?}");
        }
    }
}
