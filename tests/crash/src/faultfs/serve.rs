//! Answers the kernel: each request is held against the faults, and then done on the image.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::fault::{Effect, Operation};
use super::image::{Body, Image, Node};
use super::{Shared, State};

/// Nothing is cached by the kernel: a cut changes everything behind its back.
const NO_CACHE: Duration = Duration::ZERO;
/// Unit of the sizes that `statfs` reports.
const BLOCK: u32 = 4096;

/// One mount. After a cut it is fenced off, and the next one carries on with the image.
pub(super) struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) epoch: u64,
}

/// What a request is done with.
struct Call {
    /// The fault that strikes, if it is one that the work must see to: [`Effect::Short`] and
    /// [`Effect::Lie`].
    effect: Option<Effect>,
    /// The last change that was made before the request came.
    through: u64,
}

impl Call {
    fn sync(&self, image: &mut Image, node: Node) -> Result<(), Errno> {
        if self.effect == Some(Effect::Lie) { Ok(()) } else { image.sync(node, self.through) }
    }
}

/// A reply that can be refused with an error.
trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}
refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite
);

impl Server {
    /// Does `work` on the image, unless a fault or a cut forbids it.
    fn serve<R: Refuse>(
        &self,
        operation: Operation,
        node: Node,
        reply: R,
        work: impl FnOnce(&mut Image, Call, R) + Send + 'static,
    ) {
        let mut state = self.shared.lock();
        if state.is_fenced(self.epoch) {
            drop(state);
            return reply.refuse(Errno::EIO);
        }
        let path = state.image.inode(node).map_or_else(|_| String::new(), |one| one.path.clone());
        state.counts.note(operation);
        match state.strike(operation, &path) {
            Some(Effect::Fail(errno)) => {
                if matches!(operation, Operation::Sync | Operation::SyncDirectory) {
                    state.image.forget_unsynced(node);
                }
                drop(state);
                reply.refuse(errno);
            }
            Some(Effect::Hang) => {
                state.parked.push(Box::new(move |errno| reply.refuse(errno)));
                self.shared.changed.notify_all();
            }
            Some(Effect::Delay(pause)) => {
                let through = state.image.changes();
                drop(state);
                let (shared, epoch) = (Arc::clone(&self.shared), self.epoch);
                thread::spawn(move || {
                    thread::sleep(pause);
                    let mut state = shared.lock();
                    if state.is_fenced(epoch) {
                        drop(state);
                        return reply.refuse(Errno::EIO);
                    }
                    work(&mut state.image, Call { effect: None, through }, reply);
                });
            }
            Some(Effect::Cut(survival)) if operation != Operation::Write => {
                state.cut(survival);
                self.shared.changed.notify_all();
                drop(state);
                reply.refuse(Errno::EIO);
            }
            effect => {
                let through = state.image.changes();
                work(&mut state.image, Call { effect, through }, reply);
                if let Some(Effect::Cut(survival)) = effect {
                    state.cut(survival);
                    self.shared.changed.notify_all();
                }
            }
        }
    }
}

/// Answers with `value`, or with the error.
fn answer<R: Refuse, T>(reply: R, value: Result<T, Errno>, give: impl FnOnce(R, T)) {
    match value {
        Ok(value) => give(reply, value),
        Err(errno) => reply.refuse(errno),
    }
}

fn attributes(image: &Image, node: Node) -> Result<FileAttr, Errno> {
    let inode = image.inode(node)?;
    let size = image.size(node)?;
    let kind = match inode.body {
        Body::File { .. } => FileType::RegularFile,
        Body::Directory { .. } => FileType::Directory,
    };
    Ok(FileAttr {
        ino: INodeNo(node),
        size,
        blocks: size.div_ceil(512),
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind,
        perm: inode.mode,
        nlink: 1,
        uid: inode.uid,
        gid: inode.gid,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

fn entry(reply: ReplyEntry, image: &Image, node: Result<Node, Errno>) {
    let found = node.and_then(|node| attributes(image, node));
    answer(reply, found, |reply, attr| reply.entry(&NO_CACHE, &attr, Generation(0)));
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = name.to_owned();
        self.serve(Operation::Look, parent.0, reply, move |image, _, reply| {
            entry(reply, image, image.lookup(parent.0, &name));
        });
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.serve(Operation::Look, node.0, reply, move |image, _, reply| {
            answer(reply, attributes(image, node.0), |reply, attr| reply.attr(&NO_CACHE, &attr));
        });
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let operation = if size.is_some() { Operation::Change } else { Operation::Look };
        self.serve(operation, node.0, reply, move |image, _, reply| {
            let changed = size.map_or(Ok(()), |size| image.set_size(node.0, size)).and_then(|()| {
                let inode = image.inode_mut(node.0)?;
                inode.mode = mode.map_or(inode.mode, |mode| mode as u16 & 0o7777);
                inode.uid = uid.unwrap_or(inode.uid);
                inode.gid = gid.unwrap_or(inode.gid);
                attributes(image, node.0)
            });
            answer(reply, changed, |reply, attr| reply.attr(&NO_CACHE, &attr));
        });
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let name = name.to_owned();
        self.serve(Operation::Change, parent.0, reply, move |image, _, reply| {
            let made = image.make(parent.0, &name, true).and_then(|node| {
                image.inode_mut(node)?.mode = (mode & !umask) as u16 & 0o7777;
                Ok(node)
            });
            entry(reply, image, made);
        });
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(Operation::Change, parent.0, reply, move |image, _, reply| {
            answer(reply, image.remove(parent.0, &name, false), |reply, ()| reply.ok());
        });
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        self.serve(Operation::Change, parent.0, reply, move |image, _, reply| {
            answer(reply, image.remove(parent.0, &name, true), |reply, ()| reply.ok());
        });
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if parent != newparent {
            return reply.error(Errno::EXDEV);
        }
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (name, newname) = (name.to_owned(), newname.to_owned());
        self.serve(Operation::Change, parent.0, reply, move |image, _, reply| {
            answer(reply, image.rename(parent.0, &name, &newname), |reply, ()| reply.ok());
        });
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.serve(Operation::Look, node.0, reply, move |image, _, reply| {
            image.open(node.0);
            reply.opened(FileHandle(0), FopenFlags::empty());
        });
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let name = name.to_owned();
        let exclusive = flags & O_EXCL != 0;
        self.serve(Operation::Change, parent.0, reply, move |image, _, reply| {
            let node = match image.lookup(parent.0, &name) {
                Ok(_) if exclusive => Err(Errno::EEXIST),
                Ok(node) => Ok(node),
                Err(_) => image.make(parent.0, &name, false).and_then(|node| {
                    image.inode_mut(node)?.mode = (mode & !umask) as u16 & 0o7777;
                    Ok(node)
                }),
            };
            let made = node.and_then(|node| attributes(image, node));
            answer(reply, made, |reply, attr| {
                image.open(attr.ino.0);
                let (generation, flags) = (Generation(0), FopenFlags::empty());
                reply.created(&NO_CACHE, &attr, generation, FileHandle(0), flags);
            });
        });
    }

    fn release(
        &self,
        _: &Request,
        node: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // Never refused or held up: the kernel asks for nothing here.
        let mut state = self.shared.lock();
        if !state.is_fenced(self.epoch) {
            state.image.close(node.0);
        }
        drop(state);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.serve(Operation::Read, node.0, reply, move |image, _, reply| {
            answer(reply, image.read(node.0, offset, size as usize), ReplyData::data);
        });
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data: Box<[u8]> = data.into();
        self.serve(Operation::Write, node.0, reply, move |image, call, reply| {
            let written = match call.effect {
                Some(Effect::Lie) => Ok(data.len()),
                Some(Effect::Short(len)) => {
                    image.write(node.0, offset, data[..len.min(data.len())].into())
                }
                _ => image.write(node.0, offset, data),
            };
            answer(reply, written, |reply, len| {
                reply.written(u32::try_from(len).unwrap_or(u32::MAX));
            });
        });
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(Operation::Sync, node.0, reply, move |image, call, reply| {
            answer(reply, call.sync(image, node.0), |reply, ()| reply.ok());
        });
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.serve(Operation::SyncDirectory, node.0, reply, move |image, call, reply| {
            answer(reply, call.sync(image, node.0), |reply, ()| reply.ok());
        });
    }

    fn readdir(
        &self,
        _: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.serve(Operation::Look, node.0, reply, move |image, _, mut reply| {
            let names = match image.list(node.0) {
                Ok(names) => names,
                Err(errno) => return reply.error(errno),
            };
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            for (at, (name, child)) in names.iter().enumerate().skip(start) {
                let kind = match image.inode(*child).map(|inode| &inode.body) {
                    Ok(Body::Directory { .. }) => FileType::Directory,
                    _ => FileType::RegularFile,
                };
                if reply.add(INodeNo(*child), at as u64 + 1, kind, Path::new(name)) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, node: INodeNo, reply: ReplyStatfs) {
        self.serve(Operation::Look, node.0, reply, move |image, _, reply| {
            let block = u64::from(BLOCK);
            let free = image.capacity().saturating_sub(image.used()) / block;
            let (blocks, files) = (image.capacity() / block, 1 << 20);
            reply.statfs(blocks, free, free, files, files - 1, BLOCK, 255, BLOCK);
        });
    }
}

/// The same on all Linux platforms that we know.
const O_EXCL: i32 = 0o200;

impl State {
    /// The effect of the first fault that strikes here.
    fn strike(&mut self, operation: Operation, path: &str) -> Option<Effect> {
        let mut effect = None;
        for fault in &mut self.faults {
            // Each fault counts, also behind one that strikes.
            if fault.strikes(operation, path) && effect.is_none() {
                effect = Some(fault.effect);
            }
        }
        if effect.is_some() {
            self.counts.struck += 1;
        }
        effect
    }
}
