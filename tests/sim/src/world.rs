//! One simulated world: its clock, its tasks, its network, its seed, and what is found wrong in it.

use std::{cell::RefCell, fmt, net::IpAddr, rc::Rc, time::Duration};

use ringpost::runtime::{DeadlineTable, SCAN_PERIOD};

use crate::{
    disk::Disk,
    executor::{Executor, Group, RunEnd, Trace},
    net::Network,
    random::Random,
    runtime::SimRuntime,
    time::Clock,
};

/// Violations that are kept; the first one says the most.
const VIOLATIONS_MAX: usize = 100;

/// Something that must never happen, and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, since the start of the run.
    pub at: Duration,
    /// What.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.6} s: {}", self.at.as_secs_f64(), self.text)
    }
}

/// A world. A clone is the same world.
#[derive(Debug, Clone)]
pub struct World {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    seed: u64,
    random: Random,
    clock: Clock,
    trace: Trace,
    executor: Executor,
    net: Network,
    /// Deadlines of all streams that are not the server's.
    deadlines: Rc<DeadlineTable>,
    violations: RefCell<Vec<Violation>>,
}

impl World {
    /// An empty world of a seed.
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        let (clock, trace) = (Clock::new(), Trace::default());
        let executor = Executor::new(clock.clone(), trace.clone(), random.fork("executor"));
        let net = Network::new(clock.clone(), trace.clone(), random.fork("net"));
        let deadlines = Rc::<DeadlineTable>::default();
        let world = Self {
            inner: Rc::new(Inner {
                seed,
                random,
                clock,
                trace,
                executor,
                net,
                deadlines: Rc::clone(&deadlines),
                violations: RefCell::default(),
            }),
        };
        scan(&world, Group::WORLD, deadlines);
        world
    }

    /// The number that it is made from.
    pub fn seed(&self) -> u64 {
        self.inner.seed
    }

    /// A generator for one part of the world, by its label.
    pub fn random(&self, label: &str) -> Random {
        self.inner.random.fork(label)
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// The tasks.
    pub fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    /// The network.
    pub fn net(&self) -> &Network {
        &self.inner.net
    }

    /// The hash of all that has happened so far.
    pub fn trace(&self) -> &Trace {
        &self.inner.trace
    }

    /// A disk of its own, by its label.
    pub fn disk(&self, label: &str) -> Disk {
        let random = self.inner.random.fork("disk").fork(label);
        Disk::new(self.inner.clock.clone(), self.inner.trace.clone(), random)
    }

    /// A host with these addresses that lives as long as the world, with an empty disk.
    pub fn host(&self, addresses: &[IpAddr]) -> SimRuntime {
        let label = addresses.first().map(ToString::to_string).unwrap_or_default();
        let disk = self.disk(&label);
        let deadlines = Rc::clone(&self.inner.deadlines);
        SimRuntime::new(self, addresses, disk, Group::WORLD, deadlines, &label, None)
    }

    /// Notes that something has happened that must not.
    pub fn violate(&self, text: impl Into<String>) {
        let mut violations = self.inner.violations.borrow_mut();
        if violations.len() < VIOLATIONS_MAX {
            violations.push(Violation { at: self.inner.clock.elapsed(), text: text.into() });
        }
    }

    /// What has happened that must not, in order.
    pub fn violations(&self) -> Vec<Violation> {
        self.inner.violations.borrow().clone()
    }

    /// Whether nothing has happened that must not.
    pub fn is_sound(&self) -> bool {
        self.inner.violations.borrow().is_empty()
    }

    /// Runs for a time, or until `done`, or until something is wrong. Something that spins is wrong.
    pub fn run_for(&self, time: Duration, mut done: impl FnMut() -> bool) -> RunEnd {
        let until = (self.inner.clock.elapsed() + time).as_nanos();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        let end = self.inner.executor.run(until, || done() || !self.is_sound());
        if let RunEnd::Spins(names) = &end {
            self.violate(format!(
                "tasks wake themselves for ever, among them {}",
                names.join(", ")
            ));
        }
        end
    }
}

/// Looks for deadlines that have passed, as long as a group lives.
pub(crate) fn scan(world: &World, group: Group, deadlines: Rc<DeadlineTable>) {
    let clock = world.clock().clone();
    world.executor().spawn(group, async move {
        loop {
            clock.sleep(SCAN_PERIOD).await;
            deadlines.scan(clock.now());
        }
    });
}
