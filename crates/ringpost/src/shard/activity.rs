//! How many sessions have something to say, as opposed to how many are open.

use std::cell::Cell;

/// Counts the sessions that were heard from in a tick, each once.
#[derive(Debug, Default)]
pub(super) struct Activity {
    tick: Cell<u64>,
    now: Cell<usize>,
    last: Cell<usize>,
}

/// When a session was last heard from.
#[derive(Debug, Default)]
pub(super) struct Heard(Option<u64>);

impl Activity {
    /// Takes that a session was heard from.
    pub(super) fn note(&self, heard: &mut Heard) {
        let tick = Some(self.tick.get());
        if heard.0 != tick {
            heard.0 = tick;
            self.now.set(self.now.get() + 1);
        }
    }

    /// Begins the next tick.
    pub(super) fn tick(&self) {
        self.tick.set(self.tick.get() + 1);
        self.last.set(self.now.replace(0));
    }

    /// Sessions heard from in this tick or the last one, whichever were more.
    pub(super) fn sessions(&self) -> usize {
        self.now.get().max(self.last.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_once_a_tick_and_not_when_it_is_silent() {
        let activity = Activity::default();
        let (mut one, mut two) = (Heard::default(), Heard::default());
        activity.note(&mut one);
        activity.note(&mut one);
        activity.note(&mut two);
        assert_eq!(activity.sessions(), 2);
        activity.tick();
        activity.note(&mut one);
        assert_eq!(activity.sessions(), 2);
        activity.tick();
        assert_eq!(activity.sessions(), 1);
        activity.tick();
        assert_eq!(activity.sessions(), 0);
    }
}
