//! What the operating system is asked outside any runtime: limits, scheduling, io_uring's state.

#![expect(
    unsafe_code,
    reason = "limits and scheduling have no safe interface in the standard library"
)]

use std::{
    ffi::CString,
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// The soft and hard value of a resource limit; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    /// The value in force.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Resource limits that a mail server depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Memory that may be locked, in bytes: rings need some.
    LockedMemory,
    /// Open file descriptors.
    OpenFiles,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Self::LockedMemory => libc::RLIMIT_MEMLOCK,
            Self::OpenFiles => libc::RLIMIT_NOFILE,
        }
    }

    /// The limit in force.
    ///
    /// # Errors
    ///
    /// What `getrlimit(2)` says.
    pub fn limit(self) -> io::Result<ResourceLimit> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a live, writable rlimit for the length of the call.
        let status = unsafe { libc::getrlimit(self.number(), &raw mut limit) };
        if status == 0 {
            Ok(ResourceLimit { soft: limit.rlim_cur, hard: limit.rlim_max })
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Raises the soft limit to the hard one.
    ///
    /// # Errors
    ///
    /// What `setrlimit(2)` says.
    pub fn raise_to_hard(self) -> io::Result<ResourceLimit> {
        let limit = self.limit()?;
        let raised = libc::rlimit { rlim_cur: limit.hard, rlim_max: limit.hard };
        // SAFETY: `raised` is a live rlimit for the length of the call.
        let status = unsafe { libc::setrlimit(self.number(), &raw const raised) };
        if status == 0 {
            Ok(ResourceLimit { soft: limit.hard, hard: limit.hard })
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// Puts the calling thread under `SCHED_BATCH`; whether that worked.
///
/// The kernel then lets a thread that was just woken finish its slice before another preempts it,
/// so that work gathers into batches.
pub fn schedule_as_batch() -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` lives through the call; pid 0 names the calling thread.
    let status = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    status == 0
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
///
/// What `sched_setaffinity(2)` says: above all, that there is no such CPU for this process.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    // SAFETY: all zeros are a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` lives through the call; pid 0 names the calling thread.
    let status = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A counter that can be waited for, as a file that never blocks: a write of eight octets adds to it,
/// and a read takes what there is.
///
/// # Errors
///
/// What `eventfd(2)` says: above all, that there are too many descriptors.
pub fn event_counter() -> io::Result<File> {
    // SAFETY: the call takes no pointer.
    let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened a moment ago, and nobody else knows of it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// Another descriptor of the same open file.
///
/// # Errors
///
/// What `fcntl(2)` says: above all, that there are too many.
pub fn duplicate(file: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: `file` owns the descriptor and is borrowed through the call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) };
    descriptor.try_clone_to_owned().map(File::from)
}

/// Makes a write beyond `RLIMIT_FSIZE` an error instead of a signal that ends the process.
pub fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// The file system that something is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    /// Octets of all of it.
    pub size: u64,
    /// Octets that a process without privileges may still use.
    pub free: u64,
    /// Inodes of all of it; 0 when it makes them as it needs them.
    pub inodes: u64,
    /// Inodes that a process without privileges may still use.
    pub inodes_free: u64,
}

/// Looks at the file system that `path` is on. Hangs when its disk does.
///
/// # Errors
///
/// What `statvfs(3)` says.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: `path` ends in a zero octet, `found` is writable, and both live through the call.
    let status = unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeros are a valid value, and the call has filled it in.
    let found = unsafe { found.assume_init() };
    Ok(FileSystem {
        size: found.f_blocks.saturating_mul(found.f_frsize),
        free: found.f_bavail.saturating_mul(found.f_frsize),
        inodes: found.f_files,
        inodes_free: found.f_favail,
    })
}

/// Octets of memory that the process has in use; `None` when the system does not tell.
pub fn resident_memory() -> Option<u64> {
    let pages = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = pages.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: the call takes no pointer.
    let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.checked_mul(u64::try_from(page_size).ok()?)
}

/// A number that nobody can guess.
pub fn random_seed() -> u64 {
    // The standard library seeds its hashers from the system's random source.
    RandomState::new().build_hasher().finish()
}

/// Why io_uring cannot be used, by the kernel's own switch; `None` when it is not forbidden.
pub fn io_uring_disabled() -> Option<&'static str> {
    match fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim() {
        "1" => Some("kernel.io_uring_disabled is 1: only privileged processes may use io_uring"),
        "2" => Some("kernel.io_uring_disabled is 2: io_uring is forbidden on this machine"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_can_be_read() {
        let files = Resource::OpenFiles.limit().unwrap();
        assert!(files.soft <= files.hard && files.soft > 0);
    }

    #[test]
    fn the_file_system_and_the_memory_can_be_looked_at() {
        let system = file_system(Path::new("/")).unwrap();
        assert!(system.size > 0 && system.free <= system.size, "{system:?}");
        file_system(Path::new("/no/such/place")).unwrap_err();
        // More than this test's own code, and less than anybody has.
        assert!((1 << 16..1 << 50).contains(&resident_memory().unwrap()));
    }

    #[test]
    fn a_thread_can_go_under_batch_scheduling() {
        assert!(std::thread::spawn(schedule_as_batch).join().unwrap());
    }
}
