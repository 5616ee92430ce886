//! The glommio backend: one pinned executor a core, readiness-based sockets, direct-I/O files.
//!
//! What the library makes easy to get wrong is settled here once, so that no driver has to know:
//! every executor has a ticker and a watchdog (it may park while tasks are runnable), the library's
//! own stream timeouts are not used (a dropped read spoils the next one's), sockets are made by
//! `socket2` (backlog, `SO_REUSEPORT` where it belongs and only there), a panic in a session is
//! contained (it would end the executor), and datagram reads are never cancelled.

mod datagram;
mod listener;
mod pulse;
mod storage;
mod stream;

use std::{
    cell::Cell,
    fmt,
    future::Future,
    io::{self, PipeReader, PipeWriter},
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ::glommio::{LocalExecutorBuilder, Placement, PoolPlacement, io::PollableFd};
use futures_lite::{FutureExt, future};

use self::pulse::Pulse;
pub use self::{
    datagram::GlommioDatagram, listener::GlommioListener, storage::GlommioStorage,
    stream::GlommioStream,
};
use super::{
    Containment, DeadlineTable, Executor, ExecutorOptions, Runtime, deadline, os, system_unix_ms,
};

/// Period of each executor's ticker: bounds how long a lost wake-up inside the library can last.
pub const TICK: Duration = Duration::from_millis(50);

/// After how long a round of tasks is interrupted for I/O. Long, because a round that is interrupted
/// before it begins makes the executor park with work to do (see [`pulse`]); our rounds are short.
const PREEMPT_TIMER: Duration = Duration::from_millis(100);

/// Threads beside each executor, for what may wait in the kernel: the write of a batch does not stand
/// behind the removal of a segment.
const FILE_THREADS: usize = 2;

/// Starts an executor on a thread of its own, and on it the task that `main` makes.
///
/// # Errors
///
/// When the thread or the ring cannot be made; the text says which limit to raise.
pub fn start<M, F>(options: &ExecutorOptions, main: M) -> io::Result<Executor>
where
    M: FnOnce(GlommioRuntime) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let placement = options.cpu.map_or(Placement::Unbound, Placement::Fixed);
    let batch = options.batch;
    let pipe = io::pipe()?;
    let pulse = Arc::new(Pulse::default());
    pulse::watch(&options.name, &pulse)?;
    let handle = LocalExecutorBuilder::new(placement)
        .name(&options.name)
        .preempt_timer(PREEMPT_TIMER)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(FILE_THREADS))
        .spawn(move || async move {
            if batch {
                os::schedule_as_batch();
            }
            let runtime = GlommioRuntime::new(pipe);
            runtime.start_ticker(pulse);
            main(runtime).await;
        })
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Executor::new(|| handle.join().map_err(|error| io::Error::other(error.to_string()))))
}

/// The runtime of one executor.
#[derive(Clone)]
pub struct GlommioRuntime {
    shared: Rc<Shared>,
}

struct Shared {
    deadlines: DeadlineTable,
    panics_contained: Cell<u64>,
    /// A pipe that nobody writes to: there is room in it at any time.
    pipe: (PipeReader, Rc<PipeWriter>),
}

impl GlommioRuntime {
    fn new((reader, writer): (PipeReader, PipeWriter)) -> Self {
        Self {
            shared: Rc::new(Shared {
                deadlines: DeadlineTable::default(),
                panics_contained: Cell::new(0),
                pipe: (reader, Rc::new(writer)),
            }),
        }
    }

    fn start_ticker(&self, pulse: Arc<Pulse>) {
        let answering = Arc::clone(&pulse);
        ::glommio::spawn_local(async move { answering.answer().await }).detach();
        let shared = Rc::clone(&self.shared);
        ::glommio::spawn_local(async move {
            let mut scanned = Instant::now();
            loop {
                ::glommio::timer::sleep(TICK).await;
                pulse.tick();
                let now = Instant::now();
                if now.duration_since(scanned) >= deadline::SCAN_PERIOD {
                    scanned = now;
                    shared.deadlines.scan(now);
                }
            }
        })
        .detach();
    }
}

impl fmt::Debug for GlommioRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioRuntime").finish_non_exhaustive()
    }
}

impl Runtime for GlommioRuntime {
    type Listener = GlommioListener;
    type Stream = GlommioStream;
    type Datagram = GlommioDatagram;
    type Storage = GlommioStorage;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn unix_ms(&self) -> u64 {
        system_unix_ms()
    }

    fn random_seed(&self) -> u64 {
        os::random_seed()
    }

    fn spawn(&self, containment: Containment, future: impl Future<Output = ()> + 'static) {
        let runtime = self.clone();
        ::glommio::spawn_local(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_ok() {
                return;
            }
            let shared = &runtime.shared;
            if containment == Containment::Process {
                // The panic's own message is already on stderr; recovery takes it from here.
                runtime.end_process("task that all mail on this core depends on");
            }
            shared.panics_contained.set(shared.panics_contained.get() + 1);
        })
        .detach();
    }

    async fn sleep(&self, duration: Duration) {
        ::glommio::timer::sleep(duration).await;
    }

    async fn turn(&self) {
        // The library looks after its rings when no task can run. So wait for what is ready as soon as
        // the kernel sees the question: it is last in the ring of the files, behind all asked before.
        let asked = match PollableFd::new(Rc::clone(&self.shared.pipe.1)) {
            Ok(room) => room.writable().await.is_ok(),
            Err(_) => false,
        };
        if !asked {
            // Others of the core have their turn at least.
            future::yield_now().await;
        }
    }

    fn listen(&self, address: SocketAddr) -> io::Result<GlommioListener> {
        GlommioListener::bind(address, Rc::clone(&self.shared))
    }

    async fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> io::Result<GlommioStream> {
        stream::connect(&self.shared.deadlines, address, source, timeout).await
    }

    fn bind_datagram(&self, family_of: SocketAddr) -> io::Result<GlommioDatagram> {
        GlommioDatagram::bind(family_of)
    }

    fn storage(&self, directory: &Path) -> GlommioStorage {
        GlommioStorage::open(directory)
    }

    fn notify_streams(&self) {
        self.shared.deadlines.notify_all();
    }

    fn panics_contained(&self) -> u64 {
        self.shared.panics_contained.get()
    }

    fn end_process(&self, part: &'static str) {
        tracing::error!(part, "internal error: ending the process to recover");
        std::process::abort();
    }
}

/// The library's error as the standard one, keeping the kernel's number where there is one.
fn io_error<T: fmt::Debug>(error: ::glommio::GlommioError<T>) -> io::Error {
    io::Error::from(error)
}
