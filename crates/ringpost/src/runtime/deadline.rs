//! Deadlines and notifications of the streams on one core.
//!
//! A timer per read would cost more than the read's own bookkeeping, and racing a read against a
//! timer has traps of its own. Instead every stream holds a [`Watch`]: setting a deadline is a
//! store, and one scan a tick finds the few that have passed. The scan's period bounds how late
//! a deadline fires; SMTP's are minutes.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::{Rc, Weak},
    task::Waker,
    time::{Duration, Instant},
};

/// How often a core looks for deadlines that have passed; a deadline fires at most this late.
pub const SCAN_PERIOD: Duration = Duration::from_millis(250);

/// One stream's deadline, its notification flag, and the task to wake for either.
#[derive(Default)]
pub struct Watch {
    deadline: Cell<Option<Instant>>,
    expired: Cell<bool>,
    notified: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Watch {
    /// Sets or lifts the deadline; one that had expired counts no more.
    pub fn set_deadline(&self, deadline: Option<Instant>) {
        self.deadline.set(deadline);
        self.expired.set(false);
    }

    /// Interrupts the stream's current or next read with `Read::Notified`.
    pub fn notify(&self) {
        self.notified.set(true);
        self.wake();
    }

    /// Takes the notification, if there is one. For a backend's streams.
    pub fn take_notified(&self) -> bool {
        self.notified.replace(false)
    }

    /// Whether the deadline has passed at the last scan. For a backend's streams.
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    /// Remembers whom to wake, without cloning a waker that is already there. For a backend's
    /// streams.
    pub fn register(&self, waker: &Waker) {
        let current = self.waker.take();
        self.waker.set(match current {
            Some(current) if current.will_wake(waker) => Some(current),
            _ => Some(waker.clone()),
        });
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn expire_if_due(&self, now: Instant) {
        if self.deadline.get().is_some_and(|deadline| deadline <= now) {
            self.deadline.set(None);
            self.expired.set(true);
            self.wake();
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("deadline", &self.deadline.get())
            .field("expired", &self.expired.get())
            .field("notified", &self.notified.get())
            .finish_non_exhaustive()
    }
}

/// All watches of one core.
#[derive(Debug, Default)]
pub struct DeadlineTable {
    watches: RefCell<Vec<Weak<Watch>>>,
    due: RefCell<Vec<Rc<Watch>>>,
}

impl DeadlineTable {
    /// Adds a watch that lives as long as its holder keeps it.
    pub fn watch(&self) -> Rc<Watch> {
        let watch = Rc::new(Watch::default());
        self.watches.borrow_mut().push(Rc::downgrade(&watch));
        watch
    }

    /// Interrupts every stream.
    pub fn notify_all(&self) {
        let watches: Vec<Rc<Watch>> =
            self.watches.borrow().iter().filter_map(Weak::upgrade).collect();
        for watch in watches {
            watch.notify();
        }
    }

    /// Wakes every stream whose deadline is at or before `now`, and forgets closed ones.
    pub fn scan(&self, now: Instant) {
        let mut due = self.due.borrow_mut();
        self.watches.borrow_mut().retain(|watch| match watch.upgrade() {
            Some(watch) => {
                if watch.deadline.get().is_some_and(|deadline| deadline <= now) {
                    due.push(watch);
                }
                true
            }
            None => false,
        });
        // Woken outside the borrow: a waker may run code that opens a stream.
        for watch in due.drain(..) {
            watch.expire_if_due(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_deadline_expires_once_and_wakes_the_reader() {
        let table = DeadlineTable::default();
        let watch = table.watch();
        let woken = Arc::new(Count::default());
        let start = Instant::now();
        watch.set_deadline(Some(start + Duration::from_secs(1)));
        watch.register(&Waker::from(Arc::clone(&woken)));
        table.scan(start);
        assert!(!watch.is_expired());
        table.scan(start + Duration::from_secs(1));
        table.scan(start + Duration::from_secs(2));
        assert!(watch.is_expired());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_lifted_deadline_never_expires() {
        let table = DeadlineTable::default();
        let watch = table.watch();
        let start = Instant::now();
        watch.set_deadline(Some(start));
        watch.set_deadline(None);
        table.scan(start + Duration::from_secs(9));
        assert!(!watch.is_expired());
    }

    #[test]
    fn a_notification_is_kept_until_it_is_taken() {
        let watch = Watch::default();
        watch.notify();
        assert!(watch.take_notified());
        assert!(!watch.take_notified());
    }

    #[test]
    fn closed_streams_leave_the_table() {
        let table = DeadlineTable::default();
        drop(table.watch());
        let kept = table.watch();
        table.scan(Instant::now());
        assert_eq!(table.watches.borrow().len(), 1);
        drop(kept);
    }
}
