//! The seam between what decides and the machine: sockets, files, time, tasks.
//!
//! Everything that does I/O is generic over one [`Runtime`]; a backend is one directory below
//! this one, and the only place where `unsafe` code and the name of an I/O library may stand.
//! The trait is as narrow as the mail path allows, because a backend should be a few hundred
//! lines: streams with a deadline and a notification, listeners, datagrams, files, sleep, spawn.
//!
//! Nothing here is `Send`: a runtime lives on one core and is cloned freely there.

mod deadline;
mod direct;
pub mod glommio;
pub mod os;
mod sockets;
pub mod uring;

use std::{
    fmt,
    future::Future,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    path::Path,
    rc::Rc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_lite::future;
use ringpost_queue::storage::Storage;

pub use self::deadline::{DeadlineTable, SCAN_PERIOD, Watch};

/// How one executor's thread is set up.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "what there is to choose")]
pub struct ExecutorOptions {
    /// The CPU it is pinned to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
    /// The thread's name, at most 15 bytes.
    pub name: String,
    /// Runs the thread under `SCHED_BATCH`: fewer preemptions, a quarter less CPU on a busy box.
    pub batch: bool,
}

/// A running executor.
pub struct Executor(Box<dyn FnOnce() -> io::Result<()> + Send>);

impl Executor {
    /// Wraps what a backend does to wait for the end.
    fn new(join: impl FnOnce() -> io::Result<()> + Send + 'static) -> Self {
        Self(Box::new(join))
    }

    /// Waits for the executor's main task to end.
    ///
    /// # Errors
    ///
    /// When the executor failed, or ended by a panic.
    pub fn join(self) -> io::Result<()> {
        (self.0)()
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Executor")
    }
}

/// One core's access to the outside world.
pub trait Runtime: Clone + 'static {
    /// A bound TCP socket that yields connections.
    type Listener: Listener<Stream = Self::Stream>;
    /// A TCP connection, inbound or outbound.
    type Stream: Stream;
    /// A bound UDP socket.
    type Datagram: Datagram;
    /// A directory of log segments.
    type Storage: Storage;

    /// The monotonic clock.
    fn now(&self) -> Instant;

    /// The wall clock, as milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;

    /// A number nobody can guess, for seeding a generator.
    fn random_seed(&self) -> u64;

    /// Runs `future` on this core until it ends.
    ///
    /// `Containment::Session` catches a panic, counts it and ends that task only;
    /// `Containment::Process` lets it end the process, because state that all mail on this core
    /// depends on may be half changed.
    fn spawn(&self, containment: Containment, future: impl Future<Output = ()> + 'static);

    /// Ends after `duration`, not much later; for pauses that no [`Watch`] covers.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Lets the backend have a turn: what was asked of the kernel before is on its way then, and those
    /// that waited for what the kernel has answered meanwhile are woken.
    ///
    /// A backend may leave both until no task can run any more, or until many milliseconds have passed.
    /// So whoever computes for long takes a turn now and then, where to yield would let other tasks of
    /// the core run and nothing else; and whoever is about to make others compute, with a write of its
    /// own just begun, lets the disk begin first. A turn costs some system calls.
    fn turn(&self) -> impl Future<Output = ()> {
        future::yield_now()
    }

    /// Binds a listener of this core's own; every core may bind the same address.
    fn listen(&self, address: SocketAddr) -> io::Result<Self::Listener>;

    /// Opens a connection, from `source` where one is given.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the half-open connection.
    fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> impl Future<Output = io::Result<Self::Stream>>;

    /// Binds a UDP socket to a random port that no other socket shares.
    fn bind_datagram(&self, family_of: SocketAddr) -> io::Result<Self::Datagram>;

    /// The directory that holds one shard's segments; it must exist.
    fn storage(&self, directory: &Path) -> Self::Storage;

    /// Interrupts every stream of this core with `Read::Notified`.
    fn notify_streams(&self);

    /// Tasks that ended by a contained panic since the start.
    fn panics_contained(&self) -> u64;

    /// Ends the process at once, as after a panic in `part` that may have left state half changed on
    /// which all mail depends: the next start reads what is true from the log.
    ///
    /// A runtime whose process is not a real one may return; then nothing of it may run any more but
    /// what unwinds.
    fn end_process(&self, part: &'static str);
}

/// What a panic inside a task may take down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containment {
    /// The task alone: one SMTP session or one outbound connection.
    Session,
    /// The process: commit, queue and scheduling code.
    Process,
}

/// A bound TCP socket that yields connections.
pub trait Listener: 'static {
    /// The connections it yields.
    type Stream: Stream;

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// Whatever `accept(2)` says; out of descriptors it fails at once and again, so the caller
    /// pauses before the next call.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>>;

    /// The address it is bound to, with the port that was chosen for port 0.
    fn local_address(&self) -> io::Result<SocketAddr>;

    /// What ends the listening from another task of the core.
    fn closer(&self) -> Closer;
}

/// Ends the listening of a [`Listener`] that another task accepts from.
///
/// A call of `accept` that waits fails then, and so does every later one. The kernel has no more
/// connections for the listener; those that it has not handed out yet are reset.
pub struct Closer(Box<dyn FnOnce()>);

impl Closer {
    /// Wraps what a backend does to close.
    pub fn new(close: impl FnOnce() + 'static) -> Self {
        Self(Box::new(close))
    }

    /// Ends the listening.
    pub fn close(self) {
        (self.0)();
    }
}

impl fmt::Debug for Closer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Closer")
    }
}

/// What a read on a [`Stream`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// That many bytes are at the front of the buffer; never 0.
    Data(usize),
    /// The peer has closed its side.
    End,
    /// The stream's deadline passed.
    TimedOut,
    /// Somebody called [`Watch::notify`] on this stream's watch.
    Notified,
}

/// A TCP connection.
pub trait Stream: 'static {
    /// Waits for bytes, the end, the deadline or a notification.
    ///
    /// # Cancel safety
    ///
    /// Safe to drop: no byte is taken from the socket before the future is ready.
    fn read(&mut self, buffer: &mut [u8]) -> impl Future<Output = io::Result<Read>>;

    /// Writes all of `bytes`; `ErrorKind::TimedOut` when the deadline passes first.
    ///
    /// # Cancel safety
    ///
    /// Not safe: what was written when it is dropped is unknown, so close the stream.
    fn write_all(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;

    /// Writes all of `parts`, in as few system calls as the socket takes.
    ///
    /// # Cancel safety
    ///
    /// As [`Stream::write_all`].
    fn write_all_vectored(
        &mut self,
        parts: &mut [IoSlice<'_>],
    ) -> impl Future<Output = io::Result<()>>;

    /// The stream's deadline and notification, to be kept by whoever must interrupt it.
    fn watch(&self) -> &Rc<Watch>;

    /// The other end; fails when the connection is already reset.
    fn peer_address(&self) -> io::Result<SocketAddr>;

    /// Closes our sending side.
    fn shut_down_write(&mut self) -> impl Future<Output = io::Result<()>>;
}

/// A bound UDP socket.
pub trait Datagram: 'static {
    /// Sends one datagram.
    fn send_to(&self, bytes: &[u8], to: SocketAddr) -> impl Future<Output = io::Result<()>>;

    /// Waits for one datagram.
    ///
    /// # Cancel safety
    ///
    /// Not safe: a dropped call may swallow the next datagram. One reader task owns the socket.
    fn receive(&self, buffer: &mut [u8]) -> impl Future<Output = io::Result<(usize, SocketAddr)>>;
}

/// Milliseconds since the Unix epoch by the system's wall clock; 0 before it.
#[must_use]
pub fn system_unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
