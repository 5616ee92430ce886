//! The lean backend: one pinned executor a core, on `io_uring` alone.
//!
//! A round of tasks ends in one system call, which hands over what they asked of the ring, and waits.
//! Sockets are read and written by calls that do not wait; the ring says when one is worth while. Files
//! are the business of threads beside the executor. Wakes that come from this thread cost no system call.

mod datagram;
mod executor;
mod listener;
mod ring;
mod storage;
mod stream;
mod threads;
mod timers;

use std::{
    fmt,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    path::Path,
    rc::Rc,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use futures_lite::FutureExt;

pub use self::{
    datagram::UringDatagram, listener::UringListener, storage::UringStorage, stream::UringStream,
};
use self::{executor::Core, threads::Threads};
use super::{Containment, Executor, ExecutorOptions, Runtime, os, system_unix_ms};

/// Starts an executor on a thread of its own, and on it the task that `main` makes.
///
/// # Errors
///
/// When the thread or the ring cannot be made, or the thread not be pinned.
pub fn start<M, F>(options: &ExecutorOptions, main: M) -> io::Result<Executor>
where
    M: FnOnce(UringRuntime) -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let (begun, beginning) = mpsc::channel();
    let options = options.clone();
    let thread = thread::Builder::new().name(options.name.clone()).spawn(move || {
        let runtime = UringRuntime::new(&options);
        let _ = begun.send(
            runtime
                .as_ref()
                .map(drop)
                .map_err(|error| io::Error::new(error.kind(), error.to_string())),
        );
        let Ok(runtime) = runtime else { return Ok(()) };
        let core = Rc::clone(&runtime.core);
        core.run(main(runtime))
    })?;
    match beginning.recv() {
        Ok(Ok(())) => Ok(Executor::new(move || match thread.join() {
            Ok(ended) => ended,
            Err(_) => Err(io::Error::other("the executor panicked")),
        })),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the executor ended before it began")),
    }
}

/// The runtime of one executor.
#[derive(Clone)]
pub struct UringRuntime {
    core: Rc<Core>,
    threads: Rc<Threads>,
}

impl UringRuntime {
    fn new(options: &ExecutorOptions) -> io::Result<Self> {
        // Before this one is bound to its CPU and its class, which threads inherit.
        let threads = Threads::start(&options.name)?;
        if let Some(cpu) = options.cpu {
            os::pin_to_cpu(cpu)?;
        }
        if options.batch {
            os::schedule_as_batch();
        }
        Ok(Self { core: Rc::new(Core::new()?), threads: Rc::new(threads) })
    }
}

impl fmt::Debug for UringRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UringRuntime").finish_non_exhaustive()
    }
}

impl Runtime for UringRuntime {
    type Listener = UringListener;
    type Stream = UringStream;
    type Datagram = UringDatagram;
    type Storage = UringStorage;

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
        self.core.spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_ok() {
                return;
            }
            if containment == Containment::Process {
                // The panic's own message is already on stderr; recovery takes it from here.
                runtime.end_process("task that all mail on this core depends on");
            }
            let count = &runtime.core.panics_contained;
            count.set(count.get() + 1);
        });
    }

    async fn sleep(&self, duration: Duration) {
        self.core.timers.sleep(duration).await;
    }

    async fn turn(&self) {
        self.core.pass().await;
    }

    fn listen(&self, address: SocketAddr) -> io::Result<UringListener> {
        UringListener::bind(address, &self.core)
    }

    async fn connect(
        &self,
        address: SocketAddr,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> io::Result<UringStream> {
        stream::connect(&self.core, address, source, timeout).await
    }

    fn bind_datagram(&self, family_of: SocketAddr) -> io::Result<UringDatagram> {
        UringDatagram::bind(&self.core, family_of)
    }

    fn storage(&self, directory: &Path) -> UringStorage {
        UringStorage::new(directory, &self.threads)
    }

    fn notify_streams(&self) {
        self.core.deadlines.notify_all();
    }

    fn panics_contained(&self) -> u64 {
        self.core.panics_contained.get()
    }

    fn end_process(&self, part: &'static str) {
        tracing::error!(part, "internal error: ending the process to recover");
        std::process::abort();
    }
}
