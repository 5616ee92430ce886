//! Threads beside an executor, for calls that may wait in the kernel.
//!
//! Batches have threads of their own, so that none stands behind the zeros of a segment or the removal of
//! another.

use std::{io, thread};

use crossbeam_channel::{Receiver, Sender, unbounded};
use tokio::sync::oneshot;

use super::storage::threads_gone;

/// Threads that write batches: shards that share a core need not wait for each other.
const WRITERS: usize = 2;

/// Threads for everything else.
const OTHERS: usize = 2;

type Call = Box<dyn FnOnce() + Send>;

/// The threads of one executor; they end when it is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    writes: Sender<Call>,
    others: Sender<Call>,
}

impl Threads {
    /// Starts them, as threads of `name`.
    pub(super) fn start(name: &str) -> io::Result<Self> {
        let (writes, to_write) = unbounded();
        let (others, to_do) = unbounded();
        for _ in 0..WRITERS {
            start(format!("{name}-log"), to_write.clone())?;
        }
        for _ in 0..OTHERS {
            start(format!("{name}-file"), to_do.clone())?;
        }
        Ok(Self { writes, others })
    }

    /// Has a batch written; `None` when that panicked.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        run(&self.writes, call).await
    }

    /// Has something else done with files.
    pub(super) async fn other<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        run(&self.others, call).await.unwrap_or_else(|| Err(threads_gone()))
    }
}

async fn run<T: Send + 'static>(
    to: &Sender<Call>,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    let call = Box::new(move || {
        // Nobody waits any more: the call is done all the same.
        let _ = answer.send(call());
    });
    to.send(call).ok()?;
    answered.await.ok()
}

fn start(name: String, calls: Receiver<Call>) -> io::Result<()> {
    thread::Builder::new().name(name).spawn(move || {
        for call in calls {
            call();
        }
    })?;
    Ok(())
}
