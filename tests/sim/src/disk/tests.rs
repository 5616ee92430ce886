use std::{cell::RefCell, rc::Rc};

use futures_lite::future::{block_on, poll_once};
use ringpost_queue::storage::Storage as _;

use super::*;
use crate::executor::{Executor, Group, RunEnd};

const PATH: &str = "/queue/shard-000";

struct Machine {
    executor: Executor,
    disk: Disk,
}

impl Machine {
    fn new(seed: u64) -> Self {
        let (clock, trace) = (Clock::new(), Trace::default());
        let random = Random::new(seed);
        let executor = Executor::new(clock.clone(), trace.clone(), random.fork("executor"));
        Self { executor, disk: Disk::new(clock, trace, random.fork("disk")) }
    }

    fn open(&self) -> SimStorage {
        self.disk.open(Path::new(PATH))
    }

    /// Runs something to its end.
    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let given = Rc::clone(&result);
        self.executor.spawn(Group::WORLD, async move {
            let value = future.await;
            *given.borrow_mut() = Some(value);
        });
        assert_eq!(self.executor.run(u64::MAX, || false), RunEnd::Idle);
        result.take().unwrap()
    }

    /// A file of so many octets of this value.
    fn file(&self, name: &'static str, octet: u8, len: usize) -> SimFile {
        let storage = self.open();
        self.run(async move {
            let file = storage.create(name, len as u64).await.unwrap();
            assert_eq!(storage.write(&file, 0, vec![octet; len]).await.0.unwrap(), len);
            file
        })
    }

    /// What a power cut leaves of a file.
    fn left(&self, name: &str, survival: Survival) -> Option<Vec<u8>> {
        self.disk.image(Path::new(PATH), survival).contents(name)
    }
}

/// Begins an operation and leaves it at that.
fn begin<T>(future: impl Future<Output = T>) {
    assert!(block_on(poll_once(std::pin::pin!(future))).is_none());
}

#[test]
fn a_write_takes_time_and_is_durable_when_it_is_done() {
    let machine = Machine::new(1);
    let file = machine.file("a", 1, 8192);
    let storage = machine.open();
    begin(storage.write(&file, 4096, vec![2; 4096]));
    let with = |octet| [vec![1; 4096], vec![octet; 4096]].concat();
    assert_eq!(storage.contents("a").unwrap(), with(2), "it can be read at once");
    assert_eq!(machine.left("a", Survival::Nothing).unwrap(), with(1));
    assert_eq!(machine.left("a", Survival::All).unwrap(), with(2));
    assert_eq!(machine.left("a", Survival::Prefix(700)).unwrap()[4795..4797], [2, 1]);
    let torn = (0..20).map(|seed| machine.left("a", Survival::Subset(seed)).unwrap());
    let torn = torn.map(|content| content[4096..].to_vec()).collect::<Vec<_>>();
    assert!(torn.iter().any(|half| half.contains(&1) && half.contains(&2)));
    machine.run(async move { storage.write(&file, 4096, vec![3; 4096]).await.0.unwrap() });
    assert_eq!(machine.left("a", Survival::Nothing).unwrap(), with(3));
}

#[test]
fn names_are_durable_when_the_directory_is_synced() {
    let machine = Machine::new(2);
    machine.file("a", 1, 4096);
    let storage = machine.open();
    machine.run({
        let storage = storage.clone();
        async move { storage.rename("a", "b").await.unwrap() }
    });
    assert_eq!(storage.names(), ["b"]);
    assert!(machine.left("b", Survival::Nothing).is_none());
    assert!(machine.left("a", Survival::Nothing).is_some());
    machine.run({
        let storage = storage.clone();
        async move { storage.sync_directory().await.unwrap() }
    });
    assert!(machine.left("b", Survival::Nothing).is_some());
}

#[test]
fn a_crash_leaves_what_its_image_had_and_the_end_of_the_process_everything() {
    let machine = Machine::new(3);
    let file = machine.file("a", 1, 4096);
    begin(machine.open().write(&file, 0, vec![2; 4096]));
    machine.disk.crash(Survival::ProcessOnly);
    assert_eq!(machine.open().contents("a").unwrap(), [2; 4096]);
    // What was not synced then is not durable now.
    machine.disk.crash(Survival::Nothing);
    assert_eq!(machine.open().contents("a").unwrap(), [1; 4096]);
}

#[test]
fn an_older_write_never_comes_back_over_a_newer_one() {
    let machine = Machine::new(9);
    let file = machine.file("a", 1, 3 * 4096);
    // Its process dies before it is done.
    begin(machine.open().write(&file, 0, vec![2; 3 * 4096]));
    machine.disk.crash(Survival::ProcessOnly);
    let storage = machine.open();
    machine.run(async move {
        let file = storage.open("a").await.unwrap();
        storage.write(&file, 4096, vec![3; 4096]).await.0.unwrap()
    });
    let blocks = |survival| {
        let content = machine.left("a", survival).unwrap();
        [content[0], content[4096], content[2 * 4096]]
    };
    assert_eq!(blocks(Survival::ProcessOnly), [2, 3, 2]);
    assert_eq!(blocks(Survival::Nothing), [1, 3, 1]);
    assert_eq!(blocks(Survival::All), [2, 3, 2]);
    assert!((0..20).all(|seed| blocks(Survival::Subset(seed))[1] == 3));
}

#[test]
fn failures_come_as_often_as_asked_and_a_failed_sync_is_not_made_up_for() {
    let machine = Machine::new(4);
    let file = machine.file("a", 1, 4096);
    let write = |octet| {
        let (storage, file) = (machine.open(), file.clone());
        machine.run(async move { storage.write(&file, 0, vec![octet; 4096]).await.0 })
    };
    machine.disk.set_faults(DiskFaults { sync_error_ppm: 1_000_000, ..DiskFaults::default() });
    write(2).unwrap_err();
    machine.disk.set_faults(DiskFaults { short_write_ppm: 1_000_000, ..DiskFaults::default() });
    assert!(write(3).unwrap() < 4096);
    machine.disk.set_faults(DiskFaults { write_error_ppm: 1_000_000, ..DiskFaults::default() });
    write(4).unwrap_err();
    assert_eq!(machine.disk.stats().failures, 3);
    let left = machine.left("a", Survival::Nothing).unwrap();
    assert!(!left.contains(&2) && !left.contains(&4), "neither was durable");
    machine.disk.set_faults(DiskFaults { read_error_ppm: 1_000_000, ..DiskFaults::default() });
    let storage = machine.open();
    machine.run(async move { storage.read(&file, 0, 10).await.unwrap_err() });
}

#[test]
fn a_full_disk_makes_no_file() {
    let machine = Machine::new(5);
    machine.file("a", 1, 8192);
    machine.disk.set_faults(DiskFaults { capacity: Some(12_000), ..DiskFaults::default() });
    let storage = machine.open();
    let error = machine.run(async move { storage.create("b", 8192).await.unwrap_err() });
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn an_operation_may_hang_for_ever() {
    let machine = Machine::new(6);
    let file = machine.file("a", 1, 4096);
    machine.disk.set_faults(DiskFaults { hang_ppm: 1_000_000, ..DiskFaults::default() });
    let storage = machine.open();
    machine.executor.spawn(Group::WORLD, async move {
        let _ = storage.write(&file, 0, vec![2; 4096]).await;
    });
    assert_eq!(machine.executor.run(u64::MAX, || false), RunEnd::Idle);
    assert_eq!((machine.executor.tasks(Group::WORLD), machine.disk.stats().hung), (1, 1));
}

#[test]
fn observers_see_what_becomes_durable_and_nothing_else() {
    let machine = Machine::new(7);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let all = Rc::clone(&seen);
    machine.disk.observe(Box::new(move |octets| all.borrow_mut().push(octets.to_vec())));
    let file = machine.file("a", 1, 4096);
    machine.disk.set_faults(DiskFaults { ignores_syncs: true, ..DiskFaults::default() });
    let storage = machine.open();
    machine.run(async move { storage.write(&file, 0, vec![2; 4096]).await.0.unwrap() });
    assert_eq!(*seen.borrow(), [vec![1; 4096]]);
}

#[test]
fn a_flip_changes_one_bit_for_good() {
    let machine = Machine::new(8);
    machine.file("a", 0, 4096);
    let flip = machine.disk.flip(&mut Random::new(1)).unwrap();
    assert_eq!((flip.file.as_str(), flip.directory.as_path()), ("a", Path::new(PATH)));
    let left = machine.left("a", Survival::Nothing).unwrap();
    let ones: u32 = left.iter().map(|octet| octet.count_ones()).sum();
    assert!(ones == 1 && left[flip.offset] != 0);
    assert_eq!(machine.open().contents("a").unwrap(), left);
}
