//! The single-threaded executor: the next task is drawn among those that are ready.
//!
//! A wake only puts a task into the list of ready ones; nothing ever runs inside a wake. When nobody is
//! ready the clock jumps to the next deadline. Tasks of one server life are a group, and end together
//! when the server crashes. How often tasks are polled at one instant has a bound: beyond it, somebody
//! wakes himself for ever, and that is a bug.
//!
//! Every poll goes into the hash of the trace, so that two runs of one seed can be told to be one run.

use std::{
    any::type_name,
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::{
    random::{Random, mix},
    time::Clock,
};

/// Polls at one instant of virtual time, over all tasks, beyond which something spins.
pub const POLLS_PER_INSTANT_MAX: u64 = 2_000_000;

/// Tasks that end together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(u32);

impl Group {
    /// The group that lives as long as the world: what is not the server's.
    pub const WORLD: Self = Self(0);
}

/// The hash of all that has happened. A clone is the same one.
#[derive(Debug, Clone, Default)]
pub struct Trace(Rc<Cell<u64>>);

impl Trace {
    /// Adds that something has happened.
    pub fn note(&self, what: u64) {
        self.0.set(mix(self.0.get().rotate_left(7) ^ what).wrapping_add(what));
    }

    /// Adds octets.
    pub fn note_octets(&self, octets: &[u8]) {
        let mut hash = octets.len() as u64;
        let (words, rest) = octets.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(23) ^ u64::from_le_bytes(*word))
                .wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        for octet in rest {
            hash = (hash.rotate_left(23) ^ u64::from(*octet)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        }
        self.note(hash);
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.0.get()
    }
}

/// How a stretch of running ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEnd {
    /// The condition holds.
    Done,
    /// Nothing is ready, and nobody waits for a time.
    Idle,
    /// The time is up.
    Limit,
    /// Something was polled too often at one instant: the names of what is ready now.
    Spins(Vec<&'static str>),
}

/// The executor of one world. A clone is the same one.
#[derive(Clone)]
pub struct Executor {
    inner: Rc<Inner>,
}

struct Inner {
    clock: Clock,
    trace: Trace,
    random: RefCell<Random>,
    tasks: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    ready: Arc<Mutex<Vec<TaskId>>>,
    /// Groups that have been ended, in order.
    ended: RefCell<Vec<Group>>,
    groups: Cell<u32>,
    polls: Cell<u64>,
    polls_at_instant: Cell<u64>,
}

/// A place for a task, and how often it was used.
#[derive(Default)]
struct Slot {
    generation: u32,
    task: Option<Task>,
    /// Its future is being polled.
    is_polled: bool,
}

struct Task {
    group: Group,
    name: &'static str,
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Arc<TaskWaker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TaskId {
    index: u32,
    generation: u32,
}

struct TaskWaker {
    id: TaskId,
    is_ready: AtomicBool,
    ready: Arc<Mutex<Vec<TaskId>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_ready.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("polls", &self.polls()).finish_non_exhaustive()
    }
}

impl Executor {
    /// An executor without tasks.
    pub fn new(clock: Clock, trace: Trace, random: Random) -> Self {
        Self {
            inner: Rc::new(Inner {
                clock,
                trace,
                random: RefCell::new(random),
                tasks: RefCell::default(),
                free: RefCell::default(),
                ready: Arc::default(),
                ended: RefCell::default(),
                groups: Cell::new(1),
                polls: Cell::new(0),
                polls_at_instant: Cell::new(0),
            }),
        }
    }

    /// A new group of tasks.
    pub fn new_group(&self) -> Group {
        let group = self.inner.groups.get();
        self.inner.groups.set(group + 1);
        Group(group)
    }

    /// Polls so far.
    pub fn polls(&self) -> u64 {
        self.inner.polls.get()
    }

    /// Tasks of a group that have not ended.
    pub fn tasks(&self, group: Group) -> usize {
        let tasks = self.inner.tasks.borrow();
        tasks
            .iter()
            .filter(|slot| slot.task.as_ref().is_some_and(|task| task.group == group))
            .count()
    }

    /// Whether a group has been ended.
    pub fn is_ended(&self, group: Group) -> bool {
        self.inner.ended.borrow().contains(&group)
    }

    /// Adds a task; it runs for the first time when it is drawn. In a group that has ended, nothing
    /// is added.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, group: Group, future: F) {
        self.spawn_named(group, type_name::<F>(), future);
    }

    fn spawn_named<F: Future<Output = ()> + 'static>(
        &self,
        group: Group,
        name: &'static str,
        future: F,
    ) {
        if self.is_ended(group) {
            return;
        }
        let inner = &self.inner;
        let index = inner.free.borrow_mut().pop();
        let mut tasks = inner.tasks.borrow_mut();
        let index = index.unwrap_or_else(|| {
            tasks.push(Slot::default());
            tasks.len() as u32 - 1
        });
        let slot = &mut tasks[index as usize];
        let id = TaskId { index, generation: slot.generation };
        let waker = Arc::new(TaskWaker {
            id,
            is_ready: AtomicBool::new(false),
            ready: Arc::clone(&inner.ready),
        });
        waker.wake_by_ref();
        slot.task = Some(Task { group, name, future: Some(Box::pin(future)), waker });
    }

    /// Ends all tasks of a group at once, as a crash does: nothing of them runs any more but their drops.
    pub fn end(&self, group: Group) {
        let inner = &self.inner;
        inner.ended.borrow_mut().push(group);
        let mut ended = Vec::new();
        for (index, slot) in (0_u32..).zip(inner.tasks.borrow_mut().iter_mut()) {
            // One that is being polled ends itself when it comes back.
            if slot.task.as_ref().is_some_and(|task| task.group == group) && !slot.is_polled {
                ended.push(slot.task.take());
                slot.generation = slot.generation.wrapping_add(1);
                inner.free.borrow_mut().push(index);
            }
        }
        // Outside the borrow: a drop may wake, or try to spawn. A process that dies drops nothing, so what a
        // drop stumbles over, mostly the panic before, is not looked at.
        for task in ended {
            let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(task)));
        }
    }

    /// Runs until `done`, which is asked between polls; or until nothing can happen any more, or
    /// `until` (nanoseconds since the start of the run) has come.
    pub fn run(&self, until: u64, mut done: impl FnMut() -> bool) -> RunEnd {
        loop {
            if done() {
                return RunEnd::Done;
            }
            if self.poll_one() {
                if self.inner.polls_at_instant.get() > POLLS_PER_INSTANT_MAX {
                    return RunEnd::Spins(self.ready_names());
                }
                continue;
            }
            let Some(next) = self.inner.clock.next() else { return RunEnd::Idle };
            if next > until {
                self.inner.clock.jump_to(until);
                return RunEnd::Limit;
            }
            self.inner.polls_at_instant.set(0);
            self.inner.clock.jump_to(next);
        }
    }

    fn ready_names(&self) -> Vec<&'static str> {
        let ready = self.inner.ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tasks = self.inner.tasks.borrow();
        let name = |id: &TaskId| tasks.get(id.index as usize)?.task.as_ref().map(|task| task.name);
        ready.iter().filter_map(name).take(10).collect()
    }

    /// Draws a ready task and polls it; `false` when none is ready.
    fn poll_one(&self) -> bool {
        let inner = &self.inner;
        let id = {
            let mut ready = inner.ready.lock().unwrap_or_else(PoisonError::into_inner);
            let drawn = match ready.len() {
                0 => return false,
                1 => 0,
                len => inner.random.borrow_mut().index(len),
            };
            ready.swap_remove(drawn)
        };
        let (mut future, waker) = {
            let mut tasks = inner.tasks.borrow_mut();
            let Some(slot) = tasks.get_mut(id.index as usize) else { return true };
            if slot.generation != id.generation {
                return true;
            }
            let Some(task) = &mut slot.task else { return true };
            task.waker.is_ready.store(false, Ordering::Relaxed);
            let Some(future) = task.future.take() else { return true };
            let waker = Arc::clone(&task.waker);
            slot.is_polled = true;
            (future, Waker::from(waker))
        };
        inner.polls.set(inner.polls.get() + 1);
        inner.polls_at_instant.set(inner.polls_at_instant.get() + 1);
        inner
            .trace
            .note(inner.clock.nanos() ^ (u64::from(id.index) << 40) ^ u64::from(id.generation));
        let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
        let ended = {
            let mut tasks = inner.tasks.borrow_mut();
            let slot = &mut tasks[id.index as usize];
            slot.is_polled = false;
            let group = slot.task.as_ref().map(|task| task.group);
            if poll == Poll::Pending && group.is_some_and(|group| !self.is_ended(group)) {
                if let Some(task) = &mut slot.task {
                    task.future = Some(future);
                }
                return true;
            }
            slot.generation = slot.generation.wrapping_add(1);
            inner.free.borrow_mut().push(id.index);
            slot.task.take()
        };
        drop(future);
        drop(ended);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::yield_now;
    use std::time::Duration;

    fn executor(seed: u64) -> (Executor, Clock, Trace) {
        let (clock, trace) = (Clock::new(), Trace::default());
        (Executor::new(clock.clone(), trace.clone(), Random::new(seed)), clock, trace)
    }

    /// Ten tasks that note their numbers three times each.
    fn order(seed: u64) -> (Vec<u32>, u64) {
        let (executor, _, trace) = executor(seed);
        let seen = Rc::new(RefCell::new(Vec::new()));
        for number in 0..10 {
            let seen = Rc::clone(&seen);
            executor.spawn(Group::WORLD, async move {
                for _ in 0..3 {
                    seen.borrow_mut().push(number);
                    yield_now().await;
                }
            });
        }
        assert_eq!(executor.run(u64::MAX, || false), RunEnd::Idle);
        assert_eq!(executor.tasks(Group::WORLD), 0);
        (seen.take(), trace.hash())
    }

    #[test]
    fn a_seed_is_one_order_and_another_is_another() {
        assert_eq!(order(1), order(1));
        assert_ne!(order(1).0, order(2).0);
        assert_ne!(order(1).1, order(2).1);
        let mut all = order(3).0;
        all.sort_unstable();
        assert_eq!(all, (0..10).flat_map(|number| [number; 3]).collect::<Vec<_>>());
    }

    #[test]
    fn a_task_that_wakes_itself_for_ever_is_found() {
        let (executor, _, _) = executor(1);
        executor.spawn(Group::WORLD, async {
            loop {
                yield_now().await;
            }
        });
        let end = executor.run(u64::MAX, || false);
        let RunEnd::Spins(names) = end else { panic!("{end:?}") };
        assert!(names.iter().any(|name| name.contains("a_task_that_wakes_itself")), "{names:?}");
    }

    #[test]
    fn a_group_ends_as_a_whole_and_takes_no_more() {
        let (executor, clock, _) = executor(1);
        let life = executor.new_group();
        let alive = Rc::new(Cell::new(0));
        for group in [life, life, Group::WORLD] {
            let (alive, clock) = (Rc::clone(&alive), clock.clone());
            executor.spawn(group, async move {
                clock.sleep(Duration::from_secs(5)).await;
                alive.set(alive.get() + 1);
            });
        }
        assert_eq!(executor.run(1_000_000_000, || false), RunEnd::Limit);
        assert_eq!(executor.tasks(life), 2);
        executor.end(life);
        executor.spawn(life, async { panic!("must not run") });
        assert_eq!(executor.run(u64::MAX, || false), RunEnd::Idle);
        assert_eq!((alive.get(), executor.tasks(life)), (1, 0));
    }

    #[test]
    fn a_task_may_end_its_own_group() {
        let (executor, clock, _) = executor(1);
        let life = executor.new_group();
        let (ending, reached) = (executor.clone(), Rc::new(Cell::new(false)));
        let behind = Rc::clone(&reached);
        executor.spawn(life, async move {
            ending.end(life);
            clock.sleep(Duration::from_secs(1)).await;
            behind.set(true);
        });
        assert_eq!(executor.run(u64::MAX, || false), RunEnd::Idle);
        assert!(!reached.get());
    }

    #[test]
    fn a_late_wake_of_a_task_that_has_ended_wakes_nobody_else() {
        let (executor, _, _) = executor(1);
        let kept = Rc::new(RefCell::new(None));
        let keeping = Rc::clone(&kept);
        executor.spawn(
            Group::WORLD,
            std::future::poll_fn(move |context| {
                *keeping.borrow_mut() = Some(context.waker().clone());
                Poll::Ready(())
            }),
        );
        executor.run(u64::MAX, || false);
        let polls = Rc::new(Cell::new(0));
        let counting = Rc::clone(&polls);
        executor.spawn(
            Group::WORLD,
            std::future::poll_fn(move |_| {
                counting.set(counting.get() + 1);
                Poll::<()>::Pending
            }),
        );
        executor.run(u64::MAX, || false);
        kept.borrow().as_ref().unwrap().wake_by_ref();
        executor.run(u64::MAX, || false);
        assert_eq!(polls.get(), 1);
    }
}
