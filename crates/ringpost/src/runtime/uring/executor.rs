//! Tasks of one thread: those that were woken run, round by round, and between two rounds the ring and
//! the timers have their turn.
//!
//! Wakers may be called from any thread. Those of the own thread go to a queue that no other sees; only
//! the others take a lock, and write to a descriptor when the executor sleeps.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    fs::File,
    future::Future,
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd,
    pin::pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering, fence},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use async_task::Runnable;

use super::{
    super::{DeadlineTable, deadline, os},
    ring::{Interest, Ring, Side},
    timers::Timers,
};

thread_local! {
    /// Tasks of this thread that were woken.
    static READY: RefCell<VecDeque<Runnable>> = const { RefCell::new(VecDeque::new()) };
}

/// A number of the calling thread that no other living one has; `None` when it is at its end.
fn this_thread() -> Option<usize> {
    READY.try_with(|ready| std::ptr::from_ref(ready).addr()).ok()
}

/// How other threads get at an executor.
struct Remote {
    thread: Option<usize>,
    /// Tasks that they have woken.
    woken: Mutex<Vec<Runnable>>,
    has_woken: AtomicBool,
    /// Whether the executor waits for the kernel, or is about to.
    sleeps: AtomicBool,
    /// An event counter of the kernel, which the executor's ring watches.
    bell: File,
}

impl Remote {
    fn schedule(&self, task: Runnable) {
        if this_thread() == self.thread {
            READY.with(|ready| ready.borrow_mut().push_back(task));
            return;
        }
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        self.has_woken.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Ends the wait of the executor. Whoever calls it has left something for it to see.
    fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeps.swap(false, Ordering::SeqCst) {
            // It fails when the counter is full only, and then it has rung.
            let _ = (&self.bell).write(&1_u64.to_ne_bytes());
        }
    }
}

/// Wakes the main task.
struct MainWaker {
    remote: Arc<Remote>,
    is_woken: AtomicBool,
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::SeqCst);
        if this_thread() != self.remote.thread {
            self.remote.ring();
        }
    }
}

/// What all parts of an executor's runtime share.
pub(super) struct Core {
    pub(super) ring: Rc<Ring>,
    pub(super) timers: Rc<Timers>,
    pub(super) deadlines: DeadlineTable,
    pub(super) panics_contained: Cell<u64>,
    remote: Arc<Remote>,
    /// Who waits for the next pass through the ring.
    after_pass: RefCell<Vec<Waker>>,
    passes: Cell<u64>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("passes", &self.passes.get()).finish_non_exhaustive()
    }
}

impl Core {
    /// Makes the core of an executor on the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        let remote = Remote {
            thread: this_thread(),
            woken: Mutex::default(),
            has_woken: AtomicBool::new(false),
            sleeps: AtomicBool::new(false),
            bell: os::event_counter()?,
        };
        Ok(Self {
            ring: Rc::new(Ring::new()?),
            timers: Rc::default(),
            deadlines: DeadlineTable::default(),
            panics_contained: Cell::new(0),
            remote: Arc::new(remote),
            after_pass: RefCell::default(),
            passes: Cell::new(0),
        })
    }

    /// Runs `future` as a task of this thread until it ends.
    pub(super) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let remote = Arc::clone(&self.remote);
        let (task, handle) = async_task::spawn_local(future, move |task| remote.schedule(task));
        handle.detach();
        task.schedule();
    }

    /// Ends after the next pass through the ring.
    pub(super) async fn pass(&self) {
        let seen = self.passes.get();
        std::future::poll_fn(|context| {
            if self.passes.get() != seen {
                return Poll::Ready(());
            }
            self.after_pass.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Runs tasks until `main` has ended.
    pub(super) fn run(&self, main: impl Future<Output = ()>) -> io::Result<()> {
        let mut main = pin!(main);
        let woken = Arc::new(MainWaker {
            remote: Arc::clone(&self.remote),
            is_woken: AtomicBool::new(true),
        });
        let waker = Waker::from(Arc::clone(&woken));
        let bell = Interest::new(&self.ring);
        let mut scan_at = Instant::now() + deadline::SCAN_PERIOD;
        loop {
            if woken.is_woken.swap(false, Ordering::SeqCst)
                && main.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            {
                return Ok(());
            }
            run_round();
            let now = Instant::now();
            self.timers.wake(now);
            if now >= scan_at {
                scan_at = now + deadline::SCAN_PERIOD;
                self.deadlines.scan(now);
            }
            self.hear(&bell)?;
            // Said before the last look at what others may have woken: who comes later rings.
            self.remote.sleeps.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let has_work = self.take_remote()
                || READY.with(|ready| !ready.borrow().is_empty())
                || !self.after_pass.borrow().is_empty()
                || woken.is_woken.load(Ordering::SeqCst);
            let timeout = if has_work {
                self.remote.sleeps.store(false, Ordering::Relaxed);
                None
            } else {
                let until_scan = scan_at.saturating_duration_since(now);
                Some(self.timers.idle_for(now).map_or(until_scan, |idle| idle.min(until_scan)))
            };
            self.ring.pass(timeout)?;
            self.remote.sleeps.store(false, Ordering::Relaxed);
            self.passes.set(self.passes.get() + 1);
            for waiting in self.after_pass.take() {
                waiting.wake();
            }
        }
    }

    /// Takes over what other threads have woken; whether there was anything.
    fn take_remote(&self) -> bool {
        if !self.remote.has_woken.swap(false, Ordering::SeqCst) {
            return false;
        }
        let mut woken = self.remote.woken.lock().unwrap_or_else(PoisonError::into_inner);
        READY.with(|ready| ready.borrow_mut().extend(woken.drain(..)));
        true
    }

    /// Has the bell watched, and stops it.
    fn hear(&self, bell: &Interest) -> io::Result<()> {
        if !bell.is_ready(Side::Read) {
            return Ok(());
        }
        match (&self.remote.bell).read(&mut [0; 8]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        bell.exhaust(Side::Read);
        bell.wait(self.remote.bell.as_raw_fd(), Side::Read, Waker::noop())
    }
}

/// Runs each task that is woken now, once.
fn run_round() {
    let round = READY.with(|ready| ready.borrow().len());
    for _ in 0..round {
        let Some(task) = READY.with(|ready| ready.borrow_mut().pop_front()) else { return };
        task.run();
    }
}

/// A sleep that a connection under way is raced against.
pub(super) async fn timed_out(core: &Core, after: Duration) -> io::Error {
    core.timers.sleep(after).await;
    io::ErrorKind::TimedOut.into()
}
