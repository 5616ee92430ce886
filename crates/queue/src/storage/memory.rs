//! A directory in memory that can crash: what is live and what is durable are told apart.
//!
//! Each write is two steps, the write and the sync, and a step can be the last one before a crash
//! ([`MemoryStorage::crash_at`]), or fail. [`MemoryStorage::restarted`] then gives the directory as
//! the next start finds it: after the death of the process with everything live, after a power cut
//! with what was synced and as much of the rest as [`Survival`] says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;

use super::Storage;

/// What a torn write tears into, in octets.
pub const SECTOR_SIZE: usize = 512;

/// What outlives a crash, besides all that was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// The process died, the system did not: everything is there, durable or not.
    ProcessOnly,
    /// Power cut: everything that was not synced happens to be there.
    All,
    /// Power cut: nothing that was not synced is there.
    Nothing,
    /// Power cut: the first so many unsynced octets, in the order they were written, are there.
    Prefix(u64),
    /// Power cut: each unsynced sector and name is there or not, by this seed.
    Subset(u64),
}

/// Faults that a [`MemoryStorage`] can have. None by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// Power fails in the middle of this step, counted from 1; it and all later ones fail.
    pub crash_at: Option<u64>,
    /// This write, counted from 1, fails and writes nothing.
    pub fail_write: Option<u64>,
    /// This write, counted from 1, stops after so many octets and says so.
    pub short_write: Option<(u64, usize)>,
    /// This sync of a file, counted from 1, fails; as on Linux, what it should have made durable
    /// can still be read, but is never made durable by another sync.
    pub fail_sync: Option<u64>,
    /// Octets that all files together may have; creating more fails, and leaves part of the file.
    pub capacity: Option<u64>,
    /// Syncs of files do nothing and succeed: the disk that lies, or the sync that was forgotten.
    pub ignore_syncs: bool,
}

/// One write that has not been synced.
#[derive(Debug, Clone)]
struct Pending {
    order: u64,
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

/// A change of names that has not been synced.
#[derive(Debug, Clone)]
enum Rename {
    Link(String, usize),
    Unlink(String),
    Move(String, String),
}

#[derive(Debug, Clone, Default)]
struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    renames: Vec<Rename>,
    faults: Faults,
    steps: u64,
    writes: u64,
    syncs: u64,
    order: u64,
    crashed: bool,
}

/// An open file of a [`MemoryStorage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryFile(usize);

/// A directory in memory. A clone is the same directory.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    disk: Rc<RefCell<Disk>>,
}

impl MemoryStorage {
    /// Makes an empty directory without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the faults from now on; the counts go on.
    pub fn set_faults(&self, faults: Faults) {
        self.disk.borrow_mut().faults = faults;
    }

    /// Crashes in the middle of step number `step`, counted from 1.
    pub fn crash_at(&self, step: u64) {
        self.disk.borrow_mut().faults.crash_at = Some(step);
    }

    /// Lets syncs of files do nothing from now on: with this, loss has to be found.
    pub fn ignore_syncs(&self) {
        self.disk.borrow_mut().faults.ignore_syncs = true;
    }

    /// Steps so far at which a crash makes a difference.
    pub fn steps(&self) -> u64 {
        self.disk.borrow().steps
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.disk.borrow().writes
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u64 {
        self.disk.borrow().syncs
    }

    /// Whether the crash has come.
    pub fn is_crashed(&self) -> bool {
        self.disk.borrow().crashed
    }

    /// The directory as the next start finds it, without faults and with counts from 0.
    #[must_use]
    pub fn restarted(&self, survival: Survival) -> Self {
        let mut disk = self.disk.borrow().clone();
        match survival {
            Survival::ProcessOnly => {}
            Survival::All => disk.cut(u64::MAX, None),
            Survival::Nothing => disk.cut(0, None),
            Survival::Prefix(octets) => disk.cut(octets, None),
            Survival::Subset(seed) => disk.cut(0, Some(Random(seed))),
        }
        disk.faults = Faults::default();
        (disk.steps, disk.writes, disk.syncs, disk.crashed) = (0, 0, 0, false);
        Self { disk: Rc::new(RefCell::new(disk)) }
    }

    /// A copy of a file; `None` if there is none.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk.borrow();
        disk.names.get(name).map(|node| disk.nodes[*node].live.clone())
    }

    /// Replaces a file, durably and without counting: damage, or a file from elsewhere.
    pub fn replace(&self, name: &str, contents: Vec<u8>) {
        let mut disk = self.disk.borrow_mut();
        let node = disk.nodes.len();
        disk.nodes.push(Node { live: contents.clone(), durable: contents, pending: Vec::new() });
        disk.names.insert(name.to_owned(), node);
        disk.durable_names.insert(name.to_owned(), node);
    }

    /// Deletes a file, durably and without counting.
    pub fn delete(&self, name: &str) {
        let mut disk = self.disk.borrow_mut();
        disk.names.remove(name);
        disk.durable_names.remove(name);
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        self.disk.borrow().names.keys().cloned().collect()
    }

    fn step(&self) -> io::Result<()> {
        let mut disk = self.disk.borrow_mut();
        if disk.crashed {
            return Err(io::Error::other("the power is off"));
        }
        disk.steps += 1;
        if disk.faults.crash_at == Some(disk.steps) {
            disk.crashed = true;
        }
        Ok(())
    }

    fn check_power(&self) -> io::Result<()> {
        if self.is_crashed() { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Writes without sync; the crash comes when the write has begun to reach the disk.
    fn write_step(&self, node: usize, offset: usize, bytes: &[u8]) -> io::Result<usize> {
        self.step()?;
        let mut disk = self.disk.borrow_mut();
        disk.writes += 1;
        if disk.faults.fail_write == Some(disk.writes) {
            return Err(io::Error::other("injected failure of a write"));
        }
        let bytes = match disk.faults.short_write {
            Some((write, len)) if write == disk.writes => bytes.get(..len).unwrap_or(bytes),
            _ => bytes,
        };
        disk.order += 1;
        let order = disk.order;
        let node = &mut disk.nodes[node];
        write_at(&mut node.live, offset, bytes);
        node.pending.push(Pending { order, offset, bytes: bytes.to_vec() });
        drop(disk);
        self.check_power()?;
        Ok(bytes.len())
    }

    /// Syncs a file; the crash comes before anything has been made durable by it.
    fn sync_step(&self, node: usize) -> io::Result<()> {
        self.step()?;
        self.check_power()?;
        let mut disk = self.disk.borrow_mut();
        disk.syncs += 1;
        let failed = disk.faults.fail_sync == Some(disk.syncs);
        if disk.faults.ignore_syncs && !failed {
            return Ok(());
        }
        let node = &mut disk.nodes[node];
        let pending = std::mem::take(&mut node.pending);
        if failed {
            return Err(io::Error::other("injected failure of a sync"));
        }
        for write in pending {
            write_at(&mut node.durable, write.offset, &write.bytes);
        }
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        self.step()?;
        self.check_power()?;
        let mut disk = self.disk.borrow_mut();
        for change in std::mem::take(&mut disk.renames) {
            apply(&mut disk.durable_names, &change);
        }
        Ok(())
    }

    fn rename_step(&self, change: Rename) -> io::Result<()> {
        self.step()?;
        let mut disk = self.disk.borrow_mut();
        apply(&mut disk.names, &change);
        disk.renames.push(change);
        drop(disk);
        self.check_power()
    }

    fn node(&self, name: &str) -> io::Result<usize> {
        self.disk.borrow().names.get(name).copied().ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk {
    /// Cuts the power: from now on only what was durable is there, and what of the rest survives.
    fn cut(&mut self, mut octets: u64, mut random: Option<Random>) {
        for change in std::mem::take(&mut self.renames) {
            let survives = match &mut random {
                Some(random) => random.coin(),
                None => octets > 0,
            };
            if survives {
                apply(&mut self.durable_names, &change);
            }
        }
        self.names.clone_from(&self.durable_names);
        let mut writes: Vec<(usize, Pending)> = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            writes.extend(node.pending.drain(..).map(|write| (index, write)));
        }
        writes.sort_by_key(|(_, write)| write.order);
        for (index, write) in writes {
            let durable = &mut self.nodes[index].durable;
            if let Some(random) = &mut random {
                for (sector, bytes) in write.bytes.chunks(SECTOR_SIZE).enumerate() {
                    if random.coin() {
                        write_at(durable, write.offset + sector * SECTOR_SIZE, bytes);
                    }
                }
            } else {
                let len = octets.min(write.bytes.len() as u64);
                write_at(durable, write.offset, &write.bytes[..len as usize]);
                octets -= len;
            }
        }
        for node in &mut self.nodes {
            node.live.clone_from(&node.durable);
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|node| self.nodes[*node].live.len() as u64).sum()
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Rename) {
    match change {
        Rename::Link(name, node) => {
            names.insert(name.clone(), *node);
        }
        Rename::Unlink(name) => {
            names.remove(name);
        }
        Rename::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
    }
}

fn write_at(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

/// Lets another future run between two steps, so that tests find what may come in between.
async fn pause() {
    let mut paused = false;
    poll_fn(|context| {
        if paused {
            return Poll::Ready(());
        }
        paused = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl Storage for MemoryStorage {
    type File = MemoryFile;

    async fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.check_power()?;
        let disk = self.disk.borrow();
        let size = |node: &usize| disk.nodes[*node].live.len() as u64;
        Ok(disk.names.iter().map(|(name, node)| (name.clone(), size(node))).collect())
    }

    async fn create(&self, name: &str, size: u64) -> io::Result<MemoryFile> {
        self.check_power()?;
        if self.node(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let (node, room) = {
            let mut disk = self.disk.borrow_mut();
            disk.nodes.push(Node::default());
            let room = disk.faults.capacity.map_or(u64::MAX, |all| all.saturating_sub(disk.used()));
            (disk.nodes.len() - 1, room)
        };
        self.rename_step(Rename::Link(name.to_owned(), node))?;
        pause().await;
        let zeros = size.min(room) as usize;
        let written = self.write_step(node, 0, &vec![0; zeros])?;
        if room < size || written < zeros {
            return Err(io::ErrorKind::StorageFull.into());
        }
        pause().await;
        self.sync_step(node)?;
        self.sync_directory().await?;
        Ok(MemoryFile(node))
    }

    async fn open(&self, name: &str) -> io::Result<MemoryFile> {
        self.check_power()?;
        self.node(name).map(MemoryFile)
    }

    async fn write(
        &self,
        file: &MemoryFile,
        offset: u64,
        bytes: Vec<u8>,
    ) -> (io::Result<usize>, Vec<u8>) {
        let written = self.write_step(file.0, offset as usize, &bytes);
        pause().await;
        let result = written.and_then(|len| self.sync_step(file.0).map(|()| len));
        (result, bytes)
    }

    async fn read(&self, file: &MemoryFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        self.check_power()?;
        let disk = self.disk.borrow();
        let live = &disk.nodes[file.0].live;
        let start = (offset as usize).min(live.len());
        let end = (start + len).min(live.len());
        Ok(live[start..end].to_vec())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.node(from)?;
        self.rename_step(Rename::Move(from.to_owned(), to.to_owned()))?;
        pause().await;
        Ok(())
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.node(name)?;
        self.rename_step(Rename::Unlink(name.to_owned()))?;
        pause().await;
        Ok(())
    }

    async fn sync_directory(&self) -> io::Result<()> {
        self.sync_names()?;
        pause().await;
        Ok(())
    }
}

/// A small deterministic source of coin flips (`SplitMix64`).
#[derive(Debug, Clone, Copy)]
struct Random(u64);

impl Random {
    fn coin(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;

    fn storage_with(contents: &[u8]) -> (MemoryStorage, MemoryFile) {
        let storage = MemoryStorage::new();
        let file = block_on(storage.create("file", contents.len() as u64)).unwrap();
        assert_eq!(block_on(storage.write(&file, 0, contents.to_vec())).0.unwrap(), contents.len());
        (storage, file)
    }

    #[test]
    fn what_was_synced_survives_and_the_rest_as_asked() {
        let (storage, file) = storage_with(&[1; 2048]);
        storage.crash_at(storage.steps() + 2);
        let (result, bytes) = block_on(storage.write(&file, 0, vec![2; 2048]));
        assert!(result.is_err() && storage.is_crashed());
        assert_eq!(bytes.len(), 2048);
        let after = |survival| storage.restarted(survival).contents("file").unwrap();
        assert_eq!(after(Survival::Nothing), [1; 2048]);
        assert_eq!(after(Survival::All), [2; 2048]);
        assert_eq!(after(Survival::ProcessOnly), [2; 2048]);
        assert_eq!(after(Survival::Prefix(700))[699..701], [2, 1]);
        let mixed = (0..20).map(|seed| after(Survival::Subset(seed)));
        assert!(mixed.into_iter().any(|file| file.contains(&1) && file.contains(&2)));
    }

    #[test]
    fn names_are_durable_only_after_a_sync_of_the_directory() {
        let (storage, _) = storage_with(&[1; 512]);
        block_on(storage.rename("file", "other")).unwrap();
        assert_eq!(storage.names(), ["other"]);
        assert_eq!(storage.restarted(Survival::Nothing).names(), ["file"]);
        assert_eq!(storage.restarted(Survival::All).names(), ["other"]);
        block_on(storage.sync_directory()).unwrap();
        assert_eq!(storage.restarted(Survival::Nothing).names(), ["other"]);
        block_on(storage.remove("other")).unwrap();
        assert_eq!(storage.restarted(Survival::Nothing).names(), ["other"]);
    }

    #[test]
    fn after_a_failed_sync_the_next_one_succeeds_and_proves_nothing() {
        let (storage, file) = storage_with(&[1; 512]);
        storage.set_faults(Faults { fail_sync: Some(storage.syncs() + 1), ..Faults::default() });
        assert!(block_on(storage.write(&file, 0, vec![2; 512])).0.is_err());
        assert!(storage.sync_step(file.0).is_ok());
        assert_eq!(storage.contents("file").unwrap(), [2; 512]);
        assert_eq!(storage.restarted(Survival::All).contents("file").unwrap(), [1; 512]);
    }

    #[test]
    fn writes_can_fail_be_short_or_find_the_disk_full() {
        let (storage, file) = storage_with(&[1; 1024]);
        let next = storage.writes() + 1;
        storage.set_faults(Faults {
            fail_write: Some(next),
            short_write: Some((next + 1, 100)),
            capacity: Some(1500),
            ..Faults::default()
        });
        assert!(block_on(storage.write(&file, 0, vec![2; 1024])).0.is_err());
        assert_eq!(storage.contents("file").unwrap(), [1; 1024]);
        assert_eq!(block_on(storage.write(&file, 0, vec![2; 1024])).0.unwrap(), 100);
        assert_eq!(storage.contents("file").unwrap()[99..101], [2, 1]);
        let full = block_on(storage.create("more", 1024)).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(storage.contents("more").unwrap().len(), 476);
    }

    #[test]
    fn a_lying_disk_loses_what_it_said_was_synced() {
        let (storage, file) = storage_with(&[1; 512]);
        storage.ignore_syncs();
        assert!(block_on(storage.write(&file, 0, vec![2; 512])).0.is_ok());
        assert_eq!(storage.restarted(Survival::Nothing).contents("file").unwrap(), [1; 512]);
    }
}
