//! What the file system holds: for every file and directory what programs see (*live*) and what
//! would survive a power cut now (*durable*), with the changes between the two in their order.
//!
//! A sync of a file makes its data durable, a sync of a directory the names in it; neither does the
//! other's work. Modes and owners are not part of the game and are durable at once.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};

use fuser::Errno;

use super::cut::Survival;
use crate::rng::Rng;

/// A file or directory; never used for another one.
pub type Node = u64;

/// The root directory, as FUSE wants it.
pub const ROOT: Node = 1;

/// Octets that a disk writes whole or not at all.
pub const SECTOR: usize = 512;

type Result<T> = std::result::Result<T, Errno>;

/// What a node is.
#[derive(Debug, Clone)]
pub enum Body {
    /// A file: its octets.
    File {
        /// As programs see it.
        live: Vec<u8>,
        /// As it would be after a cut.
        durable: Vec<u8>,
    },
    /// A directory: its names.
    Directory {
        /// As programs see it.
        live: BTreeMap<OsString, Node>,
        /// As it would be after a cut.
        durable: BTreeMap<OsString, Node>,
    },
}

/// A file or directory.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its content.
    pub body: Body,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Where it was last named, from the root, without a leading slash.
    pub path: String,
    /// Whether programs see a name of it.
    named: bool,
}

/// Something that was done and not yet synced.
#[derive(Debug, Clone)]
enum Change {
    Write { node: Node, offset: usize, bytes: Box<[u8]> },
    Size { node: Node, size: usize },
    Name { directory: Node, name: OsString, node: Node },
    Unname { directory: Node, name: OsString },
    Rename { directory: Node, from: OsString, to: OsString, node: Node },
}

impl Change {
    /// The node whose sync makes it durable.
    fn owner(&self) -> Node {
        match self {
            Self::Write { node, .. } | Self::Size { node, .. } => *node,
            Self::Name { directory, .. }
            | Self::Unname { directory, .. }
            | Self::Rename { directory, .. } => *directory,
        }
    }
}

/// The whole file system. A clone is a snapshot.
#[derive(Debug, Clone)]
pub struct Image {
    nodes: BTreeMap<Node, Inode>,
    next: Node,
    /// With the number of each.
    pending: Vec<(u64, Change)>,
    changes: u64,
    /// How often each node is open.
    open: BTreeMap<Node, u32>,
    /// Octets that all files together may have.
    capacity: u64,
}

impl Image {
    /// An empty file system for files of `capacity` octets together.
    pub fn new(capacity: u64) -> Self {
        let root = Inode {
            body: Body::Directory { live: BTreeMap::new(), durable: BTreeMap::new() },
            mode: 0o755,
            uid: 0,
            gid: 0,
            path: String::new(),
            named: true,
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            pending: Vec::new(),
            changes: 0,
            open: BTreeMap::new(),
            capacity,
        }
    }

    /// Octets that all files together may have.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Changes the capacity. What is there stays, even if it is more.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity;
    }

    /// Octets of all files, as programs see them: of those that are named or open.
    pub fn used(&self) -> u64 {
        self.nodes
            .iter()
            .filter(|(node, inode)| inode.named || self.open.contains_key(*node))
            .map(|(_, inode)| match &inode.body {
                Body::File { live, .. } => live.len() as u64,
                Body::Directory { .. } => 0,
            })
            .sum()
    }

    /// Number of changes that a cut could take back.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Number of changes so far: what a sync that begins now makes durable.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn note(&mut self, change: Change) {
        self.changes += 1;
        self.pending.push((self.changes, change));
    }

    /// A node.
    pub fn inode(&self, node: Node) -> Result<&Inode> {
        self.nodes.get(&node).ok_or(Errno::ESTALE)
    }

    /// A node, to change its mode or owner.
    pub fn inode_mut(&mut self, node: Node) -> Result<&mut Inode> {
        self.nodes.get_mut(&node).ok_or(Errno::ESTALE)
    }

    /// All files, by path, as programs see them.
    pub fn files(&self) -> Vec<(String, Node)> {
        let mut found = Vec::new();
        let mut open = vec![(String::new(), ROOT)];
        while let Some((path, node)) = open.pop() {
            match self.nodes.get(&node).map(|inode| &inode.body) {
                Some(Body::Directory { live, .. }) => {
                    for (name, node) in live {
                        open.push((join(&path, name), *node));
                    }
                }
                Some(Body::File { .. }) => found.push((path, node)),
                None => {}
            }
        }
        found.sort();
        found
    }

    fn names(&mut self, directory: Node) -> Result<&mut BTreeMap<OsString, Node>> {
        match &mut self.inode_mut(directory)?.body {
            Body::Directory { live, .. } => Ok(live),
            Body::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    /// The names in a directory, as programs see them.
    pub fn list(&self, directory: Node) -> Result<Vec<(OsString, Node)>> {
        match &self.inode(directory)?.body {
            Body::Directory { live, .. } => {
                Ok(live.iter().map(|(name, node)| (name.clone(), *node)).collect())
            }
            Body::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    /// Finds a name.
    pub fn lookup(&self, directory: Node, name: &OsStr) -> Result<Node> {
        match &self.inode(directory)?.body {
            Body::Directory { live, .. } => live.get(name).copied().ok_or(Errno::ENOENT),
            Body::File { .. } => Err(Errno::ENOTDIR),
        }
    }

    /// Makes a file or a directory.
    pub fn make(&mut self, directory: Node, name: &OsStr, is_directory: bool) -> Result<Node> {
        if self.lookup(directory, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let body = if is_directory {
            Body::Directory { live: BTreeMap::new(), durable: BTreeMap::new() }
        } else {
            Body::File { live: Vec::new(), durable: Vec::new() }
        };
        let path = join(&self.inode(directory)?.path, name);
        let mode = if is_directory { 0o755 } else { 0o644 };
        let node = self.next;
        self.names(directory)?.insert(name.to_owned(), node);
        self.next += 1;
        self.nodes.insert(node, Inode { body, mode, uid: 0, gid: 0, path, named: true });
        self.note(Change::Name { directory, name: name.to_owned(), node });
        Ok(node)
    }

    /// Removes a file or an empty directory.
    pub fn remove(&mut self, directory: Node, name: &OsStr, is_directory: bool) -> Result<()> {
        let node = self.lookup(directory, name)?;
        match (&self.inode(node)?.body, is_directory) {
            (Body::Directory { live, .. }, true) if !live.is_empty() => {
                return Err(Errno::ENOTEMPTY);
            }
            (Body::Directory { .. }, false) => return Err(Errno::EISDIR),
            (Body::File { .. }, true) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        self.names(directory)?.remove(name);
        self.inode_mut(node)?.named = false;
        self.note(Change::Unname { directory, name: name.to_owned() });
        Ok(())
    }

    /// Renames within one directory; a file of the new name is replaced.
    pub fn rename(&mut self, directory: Node, from: &OsStr, to: &OsStr) -> Result<()> {
        let node = self.lookup(directory, from)?;
        let path = join(&self.inode(directory)?.path, to);
        let names = self.names(directory)?;
        names.remove(from);
        if let Some(replaced) = names.insert(to.to_owned(), node) {
            self.inode_mut(replaced)?.named = false;
        }
        let inode = self.inode_mut(node)?;
        (inode.path, inode.named) = (path, true);
        let (from, to) = (from.to_owned(), to.to_owned());
        self.note(Change::Rename { directory, from, to, node });
        Ok(())
    }

    fn live(&self, node: Node) -> Result<&Vec<u8>> {
        match &self.inode(node)?.body {
            Body::File { live, .. } => Ok(live),
            Body::Directory { .. } => Err(Errno::EISDIR),
        }
    }

    fn live_mut(&mut self, node: Node) -> Result<&mut Vec<u8>> {
        match &mut self.inode_mut(node)?.body {
            Body::File { live, .. } => Ok(live),
            Body::Directory { .. } => Err(Errno::EISDIR),
        }
    }

    /// Notes that a node is open once more; it is kept then even when nothing names it.
    pub fn open(&mut self, node: Node) {
        *self.open.entry(node).or_default() += 1;
    }

    /// Notes that a node is open once less.
    pub fn close(&mut self, node: Node) {
        if let Some(count) = self.open.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&node);
            }
        }
    }

    /// Size of a file; 0 for a directory.
    pub fn size(&self, node: Node) -> Result<u64> {
        Ok(self.live(node).map_or(0, |live| live.len() as u64))
    }

    /// Reads a piece of a file; shorter at its end.
    pub fn read(&self, node: Node, offset: u64, len: usize) -> Result<&[u8]> {
        let live = self.live(node)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(live.len());
        Ok(&live[start..live.len().min(start.saturating_add(len))])
    }

    /// Writes to a file; says how much of it found room.
    pub fn write(&mut self, node: Node, offset: u64, mut bytes: Box<[u8]>) -> Result<usize> {
        let room = self.capacity.saturating_sub(self.used());
        let offset = usize::try_from(offset).map_err(|_| Errno::EFBIG)?;
        let live = self.live_mut(node)?;
        let most = live.len() as u64 + room;
        let room = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(offset);
        if bytes.len() > room {
            if room == 0 {
                return Err(Errno::ENOSPC);
            }
            bytes = bytes[..room].into();
        }
        put(live, offset, &bytes);
        let written = bytes.len();
        self.note(Change::Write { node, offset, bytes });
        Ok(written)
    }

    /// Cuts a file or extends it with zeros.
    pub fn set_size(&mut self, node: Node, size: u64) -> Result<()> {
        let room = self.capacity.saturating_sub(self.used());
        let live = self.live_mut(node)?;
        if size > live.len() as u64 + room {
            return Err(Errno::ENOSPC);
        }
        let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
        live.resize(size, 0);
        self.note(Change::Size { node, size });
        Ok(())
    }

    /// Makes durable what was done to a file's data, or to the names in a directory, up to change
    /// number `through`.
    pub fn sync(&mut self, node: Node, through: u64) -> Result<()> {
        self.inode(node)?;
        let (done, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|(number, change)| change.owner() == node && *number <= through);
        self.pending = left;
        for (_, change) in &done {
            self.apply(change);
        }
        self.collect();
        Ok(())
    }

    /// Makes everything durable.
    pub fn sync_all(&mut self) {
        for (_, change) in std::mem::take(&mut self.pending) {
            self.apply(&change);
        }
        self.collect();
    }

    /// What a failed sync does on Linux: the data stays readable, is taken for clean, and is never
    /// written.
    pub fn forget_unsynced(&mut self, node: Node) {
        self.pending.retain(|(_, change)| change.owner() != node);
    }

    /// Cuts the power: live becomes durable plus what `survival` leaves of the rest.
    ///
    /// Returns how many changes were pending, and how many of them were kept at least in part.
    pub fn cut(&mut self, survival: Survival, rng: &mut Rng) -> (usize, usize) {
        let pending = std::mem::take(&mut self.pending);
        self.open.clear();
        let kept = survival.choose(pending.len(), rng);
        let mut survivors = 0;
        for ((_, change), kept) in pending.iter().zip(kept) {
            if !kept {
                continue;
            }
            survivors += 1;
            match (change, survival) {
                (Change::Write { node, offset, bytes }, Survival::Sectors | Survival::Damaged) => {
                    self.tear(*node, *offset, bytes, survival, rng);
                }
                _ => self.apply(change),
            }
        }
        for inode in self.nodes.values_mut() {
            match &mut inode.body {
                Body::File { live, durable } => live.clone_from(durable),
                Body::Directory { live, durable } => live.clone_from(durable),
            }
        }
        let mut named = HashSet::from([ROOT]);
        for inode in self.nodes.values() {
            if let Body::Directory { live, .. } = &inode.body {
                named.extend(live.values());
            }
        }
        for (node, inode) in &mut self.nodes {
            inode.named = named.contains(node);
        }
        self.collect();
        (pending.len(), survivors)
    }

    /// Applies each sector of a write, or not, or as noise.
    fn tear(&mut self, node: Node, offset: usize, bytes: &[u8], how: Survival, rng: &mut Rng) {
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + SECTOR - (offset + at) % SECTOR);
            if rng.one_in(2) {
                let mut sector: Box<[u8]> = bytes[at..end].into();
                if how == Survival::Damaged && rng.one_in(4) {
                    sector.fill_with(|| rng.next_u64() as u8);
                }
                self.apply(&Change::Write { node, offset: offset + at, bytes: sector });
            }
            at = end;
        }
    }

    fn apply(&mut self, change: &Change) {
        let Some(inode) = self.nodes.get_mut(&change.owner()) else { return };
        match (change, &mut inode.body) {
            (Change::Write { offset, bytes, .. }, Body::File { durable, .. }) => {
                put(durable, *offset, bytes);
            }
            (Change::Size { size, .. }, Body::File { durable, .. }) => durable.resize(*size, 0),
            (Change::Name { name, node, .. }, Body::Directory { durable, .. }) => {
                durable.insert(name.clone(), *node);
            }
            (Change::Unname { name, .. }, Body::Directory { durable, .. }) => {
                durable.remove(name);
            }
            (Change::Rename { from, to, node, .. }, Body::Directory { durable, .. }) => {
                if durable.get(from) == Some(node) {
                    durable.remove(from);
                }
                durable.insert(to.clone(), *node);
            }
            _ => {}
        }
    }

    /// Drops nodes that nothing names, now or after a cut, and nobody has open.
    fn collect(&mut self) {
        let mut named: HashSet<Node> = self.open.keys().copied().collect();
        named.insert(ROOT);
        for inode in self.nodes.values() {
            if let Body::Directory { live, durable } = &inode.body {
                named.extend(live.values().chain(durable.values()));
            }
        }
        named.extend(self.pending.iter().filter_map(|(_, change)| match change {
            Change::Name { node, .. } | Change::Rename { node, .. } => Some(*node),
            _ => None,
        }));
        self.nodes.retain(|node, _| named.contains(node));
    }

    /// Changes the octets of a file where they are kept: a fault of the medium.
    pub fn damage(&mut self, node: Node, change: &mut dyn FnMut(&mut Vec<u8>)) -> Result<()> {
        let Body::File { live, durable } = &mut self.inode_mut(node)?.body else {
            return Err(Errno::EISDIR);
        };
        change(live);
        durable.clone_from(live);
        Ok(())
    }
}

fn join(path: &str, name: &OsStr) -> String {
    let name = name.to_string_lossy();
    if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}
