//! A table of named deadlines.

use std::time::Instant;

/// What a session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timer {
    /// When a whole command has to have come. Server.
    Command,
    /// When a whole reply has to have come. Client.
    Reply,
    /// When the next piece of content has to have moved. Both.
    ContentBlock,
    /// When content has to have come to keep up the lowest rate allowed. Server.
    ContentRate,
    /// When the peer has to have taken what was sent. Server.
    Output,
}

const TIMERS: [Timer; 5] =
    [Timer::Command, Timer::Reply, Timer::ContentBlock, Timer::ContentRate, Timer::Output];

/// The deadlines of one session; each is set or stopped by name.
#[derive(Debug, Default)]
pub(crate) struct TimerTable {
    deadlines: [Option<Instant>; TIMERS.len()],
}

impl TimerTable {
    pub(crate) fn set(&mut self, timer: Timer, deadline: Instant) {
        *self.slot(timer) = Some(deadline);
    }

    /// Sets a timer unless it runs already.
    pub(crate) fn start(&mut self, timer: Timer, deadline: Instant) {
        self.slot(timer).get_or_insert(deadline);
    }

    /// Moves the deadline of a timer that runs to an earlier time.
    pub(crate) fn shorten(&mut self, timer: Timer, latest: Instant) {
        if let Some(deadline) = self.slot(timer) {
            *deadline = latest.min(*deadline);
        }
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        *self.slot(timer) = None;
    }

    pub(crate) fn stop_all(&mut self) {
        self.deadlines = Default::default();
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// A timer whose deadline has come; it is stopped.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let is_due = |deadline: &Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let (timer, deadline) =
            TIMERS.into_iter().zip(&mut self.deadlines).find(|(_, deadline)| is_due(deadline))?;
        *deadline = None;
        Some(timer)
    }

    fn slot(&mut self, timer: Timer) -> &mut Option<Instant> {
        let [command, reply, content_block, content_rate, output] = &mut self.deadlines;
        match timer {
            Timer::Command => command,
            Timer::Reply => reply,
            Timer::ContentBlock => content_block,
            Timer::ContentRate => content_rate,
            Timer::Output => output,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_deadline_comes_first() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = TimerTable::default();
        assert_eq!((timers.next(), timers.expire(at(100))), (None, None));
        for (index, timer) in TIMERS.into_iter().enumerate() {
            timers.set(timer, at(10 - index as u64));
        }
        timers.start(Timer::Output, at(50));
        for (index, timer) in TIMERS.into_iter().enumerate().rev() {
            let deadline = at(10 - index as u64);
            assert_eq!(timers.next(), Some(deadline));
            assert_eq!(timers.expire(at(9 - index as u64)), None);
            assert_eq!(timers.expire(deadline), Some(timer));
        }
        timers.shorten(Timer::Reply, at(1));
        assert_eq!(timers.next(), None, "what does not run is not shortened");
        timers.start(Timer::Reply, at(5));
        timers.shorten(Timer::Reply, at(7));
        assert_eq!(timers.next(), Some(at(5)));
        timers.shorten(Timer::Reply, at(3));
        assert_eq!(timers.next(), Some(at(3)));
        timers.stop(Timer::Reply);
        timers.start(Timer::Command, at(1));
        timers.stop_all();
        assert_eq!(timers.next(), None);
    }
}
