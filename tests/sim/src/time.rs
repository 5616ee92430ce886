//! Virtual time: a monotonic clock that jumps to the next deadline, and a wall clock that can be set.
//!
//! Nothing takes any time here but what sleeps. The instants that the product sees lie far behind the
//! real ones, so that what it subtracts does not depend on how long the machine has been up.

use std::{
    cell::{Cell, RefCell},
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    fmt,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// The wall clock at the start of a run, in milliseconds since the Unix epoch: some day of 2040.
pub const START_UNIX_MS: u64 = 2_222_222_222_000;

/// How far the virtual clock lies ahead of the real one.
const AHEAD: Duration = Duration::from_hours(24 * 365);

/// The time of one world. A clone is the same clock.
#[derive(Clone)]
pub struct Clock {
    inner: Rc<Inner>,
}

struct Inner {
    base: Instant,
    nanos: Cell<u64>,
    /// What the wall clock was set forward (or back) by, in milliseconds.
    step_ms: Cell<i64>,
    timers: RefCell<BinaryHeap<Reverse<Timer>>>,
    order: Cell<u64>,
}

/// Somebody to wake at a time.
struct Timer {
    nanos: u64,
    order: u64,
    slot: Slot,
}

enum Slot {
    /// Wakes this one, whatever it does by then.
    Wake(Waker),
    /// Wakes a sleeper, unless it has gone.
    Sleeper(Rc<Sleeper>),
}

#[derive(Default)]
struct Sleeper {
    is_over: Cell<bool>,
    is_gone: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        (self.nanos, self.order) == (other.nanos, other.order)
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.nanos, self.order).cmp(&(other.nanos, other.order))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// A clock at the start of a run.
    pub fn new() -> Self {
        Self {
            inner: Rc::new(Inner {
                // Only differences are ever looked at.
                base: Instant::now() + AHEAD,
                nanos: Cell::new(0),
                step_ms: Cell::new(0),
                timers: RefCell::default(),
                order: Cell::new(0),
            }),
        }
    }

    /// The monotonic clock.
    pub fn now(&self) -> Instant {
        self.inner.base + self.elapsed()
    }

    /// Time since the start of the run.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.inner.nanos.get())
    }

    /// The same in nanoseconds.
    pub fn nanos(&self) -> u64 {
        self.inner.nanos.get()
    }

    /// The wall clock, in milliseconds since the Unix epoch.
    pub fn unix_ms(&self) -> u64 {
        let elapsed = START_UNIX_MS + self.inner.nanos.get() / 1_000_000;
        elapsed.saturating_add_signed(self.inner.step_ms.get())
    }

    /// Sets the wall clock forward, or back; the monotonic clock does not notice.
    pub fn step_wall_clock(&self, ms: i64) {
        self.inner.step_ms.set(self.inner.step_ms.get().saturating_add(ms));
    }

    /// How far the wall clock has been set forward in all, in milliseconds.
    pub fn wall_clock_step_ms(&self) -> i64 {
        self.inner.step_ms.get()
    }

    /// Ends after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sleep_until(self.nanos().saturating_add(nanos))
    }

    /// Ends at a time, given in nanoseconds since the start of the run.
    pub fn sleep_until(&self, nanos: u64) -> Sleep {
        Sleep { clock: self.clone(), nanos, sleeper: None }
    }

    /// Wakes a task at a time, given in nanoseconds since the start of the run. Cannot be taken back.
    pub fn wake_at(&self, nanos: u64, waker: Waker) {
        if nanos <= self.nanos() {
            return waker.wake();
        }
        self.push(nanos, Slot::Wake(waker));
    }

    fn push(&self, nanos: u64, slot: Slot) {
        let order = self.inner.order.get();
        self.inner.order.set(order + 1);
        self.inner.timers.borrow_mut().push(Reverse(Timer { nanos, order, slot }));
    }

    /// When the next one is to be woken, in nanoseconds since the start of the run.
    pub fn next(&self) -> Option<u64> {
        let mut timers = self.inner.timers.borrow_mut();
        while let Some(Reverse(timer)) = timers.peek() {
            match &timer.slot {
                Slot::Sleeper(sleeper) if sleeper.is_gone.get() => drop(timers.pop()),
                _ => return Some(timer.nanos),
            }
        }
        None
    }

    /// Jumps to a time that is not in the past, and wakes all whose time has come.
    pub fn jump_to(&self, nanos: u64) {
        self.inner.nanos.set(self.inner.nanos.get().max(nanos));
        let now = self.inner.nanos.get();
        loop {
            let due = {
                let mut timers = self.inner.timers.borrow_mut();
                match timers.peek() {
                    Some(Reverse(timer)) if timer.nanos <= now => timers.pop(),
                    _ => None,
                }
            };
            // Woken outside the borrow.
            match due.map(|Reverse(timer)| timer.slot) {
                Some(Slot::Wake(waker)) => waker.wake(),
                Some(Slot::Sleeper(sleeper)) => {
                    sleeper.is_over.set(true);
                    if let Some(waker) = sleeper.waker.take() {
                        waker.wake();
                    }
                }
                None => return,
            }
        }
    }
}

/// A pause in virtual time. Dropping it takes it back.
pub struct Sleep {
    clock: Clock,
    nanos: u64,
    sleeper: Option<Rc<Sleeper>>,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("nanos", &self.nanos).finish_non_exhaustive()
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Some(sleeper) = &self.sleeper {
            if sleeper.is_over.get() {
                return Poll::Ready(());
            }
            sleeper.waker.set(Some(context.waker().clone()));
            return Poll::Pending;
        }
        if self.nanos <= self.clock.nanos() {
            return Poll::Ready(());
        }
        let sleeper = Rc::new(Sleeper::default());
        sleeper.waker.set(Some(context.waker().clone()));
        self.clock.push(self.nanos, Slot::Sleeper(Rc::clone(&sleeper)));
        self.sleeper = Some(sleeper);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(sleeper) = &self.sleeper {
            sleeper.is_gone.set(true);
            sleeper.waker.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn poll(sleep: &mut Sleep) -> bool {
        Pin::new(sleep).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_clock_jumps_from_deadline_to_deadline() {
        let clock = Clock::new();
        let began = clock.now();
        let mut long = clock.sleep(Duration::from_hours(1));
        let mut short = clock.sleep(Duration::from_secs(1));
        assert!(!poll(&mut long) && !poll(&mut short));
        assert_eq!(clock.next(), Some(1_000_000_000));
        clock.jump_to(1_000_000_000);
        assert!(!poll(&mut long) && poll(&mut short));
        assert_eq!(clock.now() - began, Duration::from_secs(1));
        drop(long);
        assert_eq!(clock.next(), None, "who has gone is not waited for");
    }

    #[test]
    fn the_wall_clock_can_be_set_and_the_other_cannot() {
        let clock = Clock::new();
        let now = clock.now();
        clock.step_wall_clock(-5000);
        assert_eq!((clock.unix_ms(), clock.now()), (START_UNIX_MS - 5000, now));
        clock.jump_to(7_000_000_000);
        assert_eq!(clock.unix_ms(), START_UNIX_MS + 2000);
    }

    #[test]
    fn no_time_is_no_pause() {
        let clock = Clock::new();
        assert!(poll(&mut clock.sleep(Duration::ZERO)));
        assert_eq!(clock.next(), None);
    }
}
