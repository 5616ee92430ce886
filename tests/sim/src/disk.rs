//! Disks that are slow, fail, fill up and lose what was not synced.
//!
//! A disk belongs to a machine and outlives its server. Files are kept as blocks that are shared until
//! they are written, so that an image of a disk costs little. What is live (what a read gives) and what
//! is durable (what a power cut leaves) are told apart; a write is durable when it has returned, and
//! until then it may be there or not, sector by sector.

mod file;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    future::pending,
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use ringpost_queue::storage::{Storage, memory::Survival};

use self::file::{Content, Node};
use crate::{executor::Trace, random::Random, time::Clock};

/// What a torn write tears into, in octets.
pub const SECTOR_SIZE: usize = 512;

/// What a disk does to those who use it. May be changed at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskFaults {
    /// Shortest and longest time of an operation that makes something durable.
    pub latency: (Duration, Duration),
    /// Operations that take `slow` longer, in a million.
    pub slow_ppm: u32,
    /// How much longer those take.
    pub slow: Duration,
    /// Writes that fail with EIO, in a million; some of their sectors may be written.
    pub write_error_ppm: u32,
    /// Writes that end early and say so, in a million.
    pub short_write_ppm: u32,
    /// Writes whose sync fails, in a million; a later sync does not make up for it.
    pub sync_error_ppm: u32,
    /// Reads that fail with EIO, in a million.
    pub read_error_ppm: u32,
    /// Creations, renames, removals and syncs of the directory that fail, in a million.
    pub name_error_ppm: u32,
    /// Operations that never end, in a million.
    pub hang_ppm: u32,
    /// Octets that all files of a directory together may have; `None` is no limit.
    pub capacity: Option<u64>,
    /// Syncs do nothing and succeed: with this, loss has to be found.
    pub ignores_syncs: bool,
}

impl Default for DiskFaults {
    /// A quick disk that never fails.
    fn default() -> Self {
        Self {
            latency: (Duration::from_micros(50), Duration::from_micros(500)),
            slow_ppm: 0,
            slow: Duration::ZERO,
            write_error_ppm: 0,
            short_write_ppm: 0,
            sync_error_ppm: 0,
            read_error_ppm: 0,
            name_error_ppm: 0,
            hang_ppm: 0,
            capacity: None,
            ignores_syncs: false,
        }
    }
}

/// What a disk has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// Writes of files, the zeros of new ones not counted.
    pub writes: u64,
    /// Octets of them.
    pub bytes: u64,
    /// Operations that were made to fail.
    pub failures: u64,
    /// Operations that never end.
    pub hung: u64,
    /// Files that were made.
    pub created: u64,
}

/// What is told of octets that have become durable.
pub type DurableObserver = Box<dyn FnMut(&[u8])>;

/// The disk of one machine. A clone is the same disk.
#[derive(Clone)]
pub struct Disk {
    inner: Rc<Inner>,
}

struct Inner {
    clock: Clock,
    trace: Trace,
    random: RefCell<Random>,
    faults: Cell<DiskFaults>,
    directories: RefCell<BTreeMap<PathBuf, Rc<RefCell<Directory>>>>,
    stats: Cell<DiskStats>,
    /// Gives each write its place in the order of all of them.
    order: Cell<u64>,
    observer: RefCell<Option<DurableObserver>>,
}

/// The directory of one shard.
#[derive(Debug, Default)]
struct Directory {
    names: BTreeMap<String, Rc<RefCell<Node>>>,
    durable_names: BTreeMap<String, Rc<RefCell<Node>>>,
    /// Changes of names that are not durable.
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(String, Rc<RefCell<Node>>),
    Unlink(String),
    Move(String, String),
}

/// A flipped bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flip {
    /// The directory.
    pub directory: PathBuf,
    /// The file in it.
    pub file: String,
    /// The octet.
    pub offset: usize,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Disk {
    /// An empty disk without faults.
    pub fn new(clock: Clock, trace: Trace, random: Random) -> Self {
        Self {
            inner: Rc::new(Inner {
                clock,
                trace,
                random: RefCell::new(random),
                faults: Cell::default(),
                directories: RefCell::default(),
                stats: Cell::default(),
                order: Cell::new(0),
                observer: RefCell::default(),
            }),
        }
    }

    /// What it does to those who use it.
    pub fn faults(&self) -> DiskFaults {
        self.inner.faults.get()
    }

    /// Changes what it does to those who use it, from the next operation on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.inner.faults.set(faults);
    }

    /// What it has done so far.
    pub fn stats(&self) -> DiskStats {
        self.inner.stats.get()
    }

    /// Tells `observer` of all octets that become durable from now on, each write as a whole.
    pub fn observe(&self, observer: DurableObserver) {
        *self.inner.observer.borrow_mut() = Some(observer);
    }

    /// Directories that were opened, in order.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.inner.directories.borrow().keys().cloned().collect()
    }

    /// Octets of all files of a directory.
    pub fn used(&self, directory: &Path) -> u64 {
        let directories = self.inner.directories.borrow();
        directories.get(directory).map_or(0, |directory| directory.borrow().used())
    }

    /// A directory of the disk; made if there is none.
    pub fn open(&self, directory: &Path) -> SimStorage {
        let mut directories = self.inner.directories.borrow_mut();
        let directory = directories.entry(directory.to_owned()).or_default();
        SimStorage { disk: Some(self.clone()), directory: Rc::clone(directory) }
    }

    /// A copy of a directory as a crash would leave it now: without faults, and in no time.
    pub fn image(&self, directory: &Path, survival: Survival) -> SimStorage {
        let directories = self.inner.directories.borrow();
        let image = directories.get(directory).map(|directory| directory.borrow().image(survival));
        SimStorage { disk: None, directory: Rc::new(RefCell::new(image.unwrap_or_default())) }
    }

    /// What a crash leaves: of the death of the process everything, of a power cut what is durable and as
    /// much of the rest as `survival` says. For `Subset`, each directory gets a seed of its own.
    ///
    /// To be called when the tasks that use the disk have been dropped.
    pub fn crash(&self, survival: Survival) {
        if survival == Survival::ProcessOnly {
            return;
        }
        let mut number = 0;
        for directory in self.inner.directories.borrow_mut().values_mut() {
            number += 1;
            let survival = match survival {
                Survival::Subset(seed) => Survival::Subset(seed.wrapping_add(number)),
                survival => survival,
            };
            let image = directory.borrow().image(survival);
            *directory = Rc::new(RefCell::new(image));
        }
    }

    /// Flips a bit of a file that the disk holds durably: of a block that was ever written.
    pub fn flip(&self, random: &mut Random) -> Option<Flip> {
        let directories = self.inner.directories.borrow();
        let (path, directory) = {
            let all: Vec<_> = directories.iter().collect();
            let (path, directory) = random.pick(&all)?;
            ((*path).clone(), Rc::clone(directory))
        };
        let (file, offset) = directory.borrow().flip(random)?;
        Some(Flip { directory: path, file, offset })
    }
}

impl Inner {
    fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    fn count(&self, change: impl FnOnce(&mut DiskStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// Whether to fail, by a chance in a million.
    fn fails(&self, ppm: u32) -> bool {
        let fails = self.draw(|random| random.ppm(ppm));
        if fails {
            self.count(|stats| stats.failures += 1);
        }
        fails
    }

    /// The time that an operation takes; some take for ever.
    async fn delay(&self) {
        let faults = self.faults.get();
        if self.draw(|random| random.ppm(faults.hang_ppm)) {
            self.count(|stats| stats.hung += 1);
            pending::<()>().await;
        }
        let mut delay = self.draw(|random| random.duration(faults.latency.0, faults.latency.1));
        if self.draw(|random| random.ppm(faults.slow_ppm)) {
            delay += faults.slow;
        }
        self.clock.sleep(delay).await;
    }

    fn observe(&self, octets: &[u8]) {
        if let Some(observer) = &mut *self.observer.borrow_mut() {
            observer(octets);
        }
    }
}

impl Directory {
    fn flip(&self, random: &mut Random) -> Option<(String, usize)> {
        let files: Vec<_> = self.names.iter().collect();
        let (name, node) = random.pick(&files)?;
        let offset = node.borrow_mut().flip(random)?;
        Some(((*name).clone(), offset))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|node| node.borrow().live.len() as u64).sum()
    }

    fn node(&self, name: &str) -> io::Result<Rc<RefCell<Node>>> {
        self.names.get(name).map(Rc::clone).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            apply(&mut self.durable_names, &change);
        }
    }

    /// The directory as a crash leaves it; nothing of it is shared with this one.
    fn image(&self, survival: Survival) -> Self {
        if survival == Survival::ProcessOnly {
            let copy = |(name, node): (&String, &Rc<RefCell<Node>>)| {
                (name.clone(), Rc::new(RefCell::new(Node::new(node.borrow().live.clone()))))
            };
            let names: BTreeMap<_, _> = self.names.iter().map(copy).collect();
            return Self { durable_names: names.clone(), names, changes: Vec::new() };
        }
        let mut random = match survival {
            Survival::Subset(seed) => Some(Random::new(seed)),
            _ => None,
        };
        let mut names = self.durable_names.clone();
        let mut octets = match survival {
            Survival::Prefix(octets) => octets,
            Survival::Nothing | Survival::Subset(_) => 0,
            _ => u64::MAX,
        };
        for change in &self.changes {
            if random.as_mut().map_or(octets > 0, Random::coin) {
                apply(&mut names, change);
            }
        }
        // Writes survive in the order in which they were made, over all files.
        let mut order: Vec<(u64, &String, usize)> = Vec::new();
        for (name, node) in &names {
            let node = node.borrow();
            order
                .extend(node.pending.iter().enumerate().map(|(at, write)| (write.order, name, at)));
        }
        order.sort_unstable();
        let mut contents: BTreeMap<String, Content> = names
            .iter()
            .map(|(name, node)| (name.clone(), node.borrow().durable.clone()))
            .collect();
        for (_, name, at) in order {
            let (Some(node), Some(content)) = (names.get(name), contents.get_mut(name)) else {
                continue;
            };
            let node = node.borrow();
            let write = &node.pending[at];
            if let Some(random) = &mut random {
                for (sector, octets) in write.octets.chunks(SECTOR_SIZE).enumerate() {
                    if random.coin() {
                        content.write(write.offset + sector * SECTOR_SIZE, octets);
                    }
                }
                // A file may have grown without its octets.
                content.grow(write.offset + write.octets.len(), random.coin());
            } else {
                let len = octets.min(write.octets.len() as u64);
                content.write(write.offset, &write.octets[..len as usize]);
                octets -= len;
            }
        }
        let names: BTreeMap<_, _> = contents
            .into_iter()
            .map(|(name, content)| (name, Rc::new(RefCell::new(Node::new(content)))))
            .collect();
        Self { durable_names: names.clone(), names, changes: Vec::new() }
    }
}

fn apply(names: &mut BTreeMap<String, Rc<RefCell<Node>>>, change: &Change) {
    match change {
        Change::Link(name, node) => {
            names.insert(name.clone(), Rc::clone(node));
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
        Change::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

/// A directory of a disk, or of an image of one.
#[derive(Debug, Clone)]
pub struct SimStorage {
    /// `None`: an image.
    disk: Option<Disk>,
    directory: Rc<RefCell<Directory>>,
}

/// An open file.
#[derive(Debug, Clone)]
pub struct SimFile {
    node: Rc<RefCell<Node>>,
}

impl SimStorage {
    /// Flips a bit of a block that was ever written; the file, and the octet in it. `None` if there is no
    /// such block in the file that was drawn.
    pub fn flip(&self, random: &mut Random) -> Option<(String, usize)> {
        self.directory.borrow().flip(random)
    }

    /// The octets of a file as they can be read now; `None` if there is none.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let node = self.directory.borrow().node(name).ok()?;
        let node = node.borrow();
        Some(node.live.read(0, node.live.len()))
    }

    /// The names of all files, in order.
    pub fn names(&self) -> Vec<String> {
        self.directory.borrow().names.keys().cloned().collect()
    }

    fn inner(&self) -> Option<&Inner> {
        self.disk.as_ref().map(|disk| &*disk.inner)
    }

    async fn delay(&self) {
        if let Some(inner) = self.inner() {
            inner.delay().await;
        }
    }

    /// Fails by a chance in a million, as a broken disk does.
    fn fail(&self, ppm: impl FnOnce(&DiskFaults) -> u32) -> io::Result<()> {
        match self.inner() {
            Some(inner) if inner.fails(ppm(&inner.faults.get())) => Err(failure()),
            _ => Ok(()),
        }
    }

    /// Changes a name, which takes its time.
    async fn rename_with(
        &self,
        change: impl FnOnce(&Directory) -> io::Result<Change>,
    ) -> io::Result<()> {
        self.fail(|faults| faults.name_error_ppm)?;
        let change = change(&self.directory.borrow())?;
        self.directory.borrow_mut().change(change);
        self.delay().await;
        Ok(())
    }
}

/// The error of a broken disk.
fn failure() -> io::Error {
    io::Error::other("the disk has failed (EIO)")
}

impl Storage for SimStorage {
    type File = SimFile;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let directory = self.directory.borrow();
        let size = |node: &Rc<RefCell<Node>>| node.borrow().live.len() as u64;
        Ok(directory.names.iter().map(|(name, node)| (name.clone(), size(node))).collect())
    }

    async fn create(&self, name: &str, size: u64) -> io::Result<SimFile> {
        if self.directory.borrow().node(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.fail(|faults| faults.name_error_ppm)?;
        let capacity = self.inner().and_then(|inner| inner.faults.get().capacity);
        let used = self.directory.borrow().used();
        let room = capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(used));
        let node = Rc::new(RefCell::new(Node::default()));
        self.directory.borrow_mut().change(Change::Link(name.to_owned(), Rc::clone(&node)));
        node.borrow_mut().live.grow(size.min(room) as usize, true);
        self.delay().await;
        if room < size {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.fail(|faults| faults.sync_error_ppm)?;
        node.borrow_mut().durable.grow(size as usize, true);
        if let Some(inner) = self.inner() {
            inner.count(|stats| stats.created += 1);
        }
        self.sync_directory().await?;
        Ok(SimFile { node })
    }

    async fn open(&self, name: &str) -> io::Result<SimFile> {
        self.directory.borrow().node(name).map(|node| SimFile { node })
    }

    async fn write(
        &self,
        file: &SimFile,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let Some(inner) = self.inner() else {
            file.node.borrow_mut().write_through(offset as usize, &bytes);
            return (Ok(bytes.len()), bytes);
        };
        let faults = inner.faults.get();
        inner.trace.note(offset ^ bytes.len() as u64);
        inner.count(|stats| {
            stats.writes += 1;
            stats.bytes += bytes.len() as u64;
        });
        let is_failed = inner.fails(faults.write_error_ppm);
        let is_short = !is_failed && inner.fails(faults.short_write_ppm);
        let len = if is_failed || is_short {
            // On a boundary of sectors, as it may be none or nearly all.
            let sectors = bytes.len() / SECTOR_SIZE;
            inner.draw(|random| random.index(sectors)) * SECTOR_SIZE
        } else {
            bytes.len()
        };
        let order = inner.order.get();
        inner.order.set(order + 1);
        file.node.borrow_mut().begin_write(order, offset as usize, &bytes[..len]);
        inner.delay().await;
        if is_failed {
            return (Err(failure()), bytes);
        }
        if inner.fails(faults.sync_error_ppm) {
            // What was to be durable may be so or not, and no later sync changes that.
            return (Err(failure()), bytes);
        }
        if !faults.ignores_syncs {
            file.node.borrow_mut().end_write(order);
            inner.observe(&bytes[..len]);
        }
        (Ok(len), bytes)
    }

    async fn read(&self, file: &SimFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.fail(|faults| faults.read_error_ppm)?;
        self.delay().await;
        Ok(file.node.borrow().live.read(offset as usize, len))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename_with(|directory| {
            directory.node(from)?;
            Ok(Change::Move(from.to_owned(), to.to_owned()))
        })
        .await
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.rename_with(|directory| {
            directory.node(name)?;
            Ok(Change::Unlink(name.to_owned()))
        })
        .await
    }

    async fn sync_directory(&self) -> io::Result<()> {
        self.fail(|faults| faults.name_error_ppm)?;
        self.delay().await;
        self.directory.borrow_mut().sync();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
