//! The event log of the simulated server: what the writer's thread does, on virtual time.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    time::Duration,
};

use ringpost::control::{EventBatch, EventReceiver};
use ringpost_queue::storage::memory::Survival;

use crate::{executor::Group, random::Random, world::World};

/// How often the writer looks for batches.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// How long at least from one sync to the next.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// A line of the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLine {
    /// The life of the server that has written it.
    pub life: u32,
    /// A JSON object, without a line feed.
    pub text: String,
}

/// What is told of each line when the writer takes it, whether it gets into the file or not.
pub type EventObserver = Box<dyn FnMut(&str)>;

/// How the event log fails. It does not by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EventLogFaults {
    /// Syncs that fail, in percent: what was written since the last one is gone.
    pub sync_error_percent: u8,
    /// Nothing is written at all.
    pub is_stuck: bool,
}

/// The file, and what a writer has not made durable.
pub(super) struct EventLog {
    world: World,
    random: RefCell<Random>,
    faults: Cell<EventLogFaults>,
    synced: RefCell<Vec<EventLine>>,
    written: RefCell<Vec<EventLine>>,
    unsynced: RefCell<Vec<EventBatch>>,
    life: RefCell<Option<(u32, EventReceiver)>>,
    observer: RefCell<Option<EventObserver>>,
    synced_at: Cell<u64>,
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl EventLog {
    pub(super) fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            random: RefCell::new(world.random("event log")),
            faults: Cell::default(),
            synced: RefCell::default(),
            written: RefCell::default(),
            unsynced: RefCell::default(),
            life: RefCell::default(),
            observer: RefCell::default(),
            synced_at: Cell::new(0),
        }
    }

    pub(super) fn set_faults(&self, faults: EventLogFaults) {
        self.faults.set(faults);
    }

    pub(super) fn observe(&self, observer: EventObserver) {
        *self.observer.borrow_mut() = Some(observer);
    }

    pub(super) fn lines(&self) -> Vec<EventLine> {
        let mut lines = self.synced.borrow().clone();
        lines.extend_from_slice(&self.written.borrow());
        lines
    }

    /// Takes batches for as long as a life lasts.
    pub(super) fn begin_life(self: &Rc<Self>, number: u32, receiver: EventReceiver, group: Group) {
        *self.life.borrow_mut() = Some((number, receiver));
        let (log, clock) = (Rc::clone(self), self.world.clock().clone());
        self.world.executor().spawn(group, async move {
            loop {
                clock.sleep(LOOK_PERIOD).await;
                if !log.faults.get().is_stuck {
                    log.look();
                }
            }
        });
    }

    /// Writes what there is; syncs if it is time, or a shard waits for it.
    fn look(&self) {
        let is_urgent = self.take();
        let since = self.world.clock().nanos() - self.synced_at.get();
        if is_urgent || u128::from(since) >= SYNC_PERIOD.as_nanos() {
            self.sync();
        }
    }

    /// Whether a shard asks for a sync.
    fn take(&self) -> bool {
        let mut is_urgent = false;
        let life = self.life.borrow();
        let Some((number, receiver)) = &*life else { return false };
        while let Some(batch) = receiver.try_take() {
            is_urgent |= batch.lines().is_empty();
            let text = String::from_utf8_lossy(batch.lines());
            if let Some(observer) = &mut *self.observer.borrow_mut() {
                text.lines().for_each(observer);
            }
            let lines = text.lines().map(|line| EventLine { life: *number, text: line.to_owned() });
            self.written.borrow_mut().extend(lines);
            self.unsynced.borrow_mut().push(batch);
        }
        is_urgent
    }

    fn sync(&self) {
        self.synced_at.set(self.world.clock().nanos());
        let batches = self.unsynced.take();
        if batches.is_empty() {
            return;
        }
        let fails = self.random.borrow_mut().percent(self.faults.get().sync_error_percent);
        let mut written = self.written.take();
        if fails {
            // As much of it as may be is there all the same.
            written.truncate(self.random.borrow_mut().index(written.len() + 1));
        }
        self.synced.borrow_mut().append(&mut written);
        for batch in batches {
            if fails {
                batch.lost();
            } else {
                batch.synced();
            }
        }
    }

    /// The end of a life in good order: all that was sent is written.
    pub(super) fn finish(&self) {
        if !self.faults.get().is_stuck {
            self.take();
            self.sync();
        }
        self.life.take();
        self.unsynced.take();
    }

    /// The end of a life by a crash.
    pub(super) fn crash(&self, survival: Survival) {
        self.life.take();
        self.unsynced.take();
        let mut written = self.written.take();
        match survival {
            Survival::ProcessOnly | Survival::All => {}
            Survival::Nothing => written.clear(),
            Survival::Prefix(_) | Survival::Subset(_) => {
                written.truncate(self.random.borrow_mut().index(written.len() + 1));
            }
        }
        self.synced.borrow_mut().append(&mut written);
    }
}
