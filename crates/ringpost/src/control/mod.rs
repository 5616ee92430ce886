//! The control side of the process: HTTP and the admin socket for operators, and the event log.
//!
//! Ordinary threads that the mail path never waits for. `control` serves `/metrics`, `/health`
//! and the admin socket;
//! `events` writes the event log, apart from the first because a write may wait for a disk. Shards reach
//! them through atomics and a bounded channel only: both may stall or die, and mail goes on.

pub mod admin;
mod connection;
mod event_log;
pub mod flush;
mod health;
mod http;
pub mod log;
mod watermarks;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ringpost_metrics::{ControlMetrics, Exposition};

use admin::AdminState;
pub use admin::{AdminOptions, AdminRequest};
pub use event_log::{EventBatch, EventReceiver, EventSender, event_channel};
pub use health::{HealthReport, HealthState, ShardHealth};
pub use watermarks::{Level, SharedRoom, Thresholds, Watermarks, watch};

/// How long [`ControlHandle::stop`] waits for each thread.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Why the control side could not start. All are for the operator to mend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The HTTP address cannot be used.
    #[error("cannot listen on {address} (control.listen)")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The event log cannot be opened.
    #[error("cannot open the event log {} (events.path)", path.display())]
    EventLog {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The system has no room for a thread or its descriptors.
    #[error("cannot start the {thread} thread")]
    Thread {
        /// Its name.
        thread: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What the control side is to do.
#[derive(Debug)]
pub struct ControlOptions {
    /// Address of the HTTP listener; port 0 picks a free one.
    pub listen: SocketAddr,
    /// The admin socket; `None` makes none.
    pub admin: Option<AdminOptions>,
    /// The event log and the channel that fills it; `None` writes none.
    pub events: Option<(PathBuf, EventReceiver)>,
}

/// The running control side. Dropping it leaves the threads running.
#[derive(Debug)]
pub struct ControlHandle {
    address: SocketAddr,
    http: http::HttpHandle,
    events: Option<event_log::WriterHandle>,
}

/// Starts the threads. The address is bound and the event log open when this returns.
///
/// # Errors
///
/// [`ControlError`]; nothing is left running.
pub fn start(
    options: ControlOptions,
    exposition: Exposition,
    health: Arc<HealthState>,
    metrics: ControlMetrics,
) -> Result<ControlHandle, ControlError> {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    metrics.start_time.set(since_1970.as_secs_f64());
    let listener = TcpListener::bind(options.listen)
        .map_err(|source| ControlError::Listen { address: options.listen, source })?;
    let address = listener
        .local_addr()
        .map_err(|source| ControlError::Listen { address: options.listen, source })?;
    let events = match options.events {
        Some((path, receiver)) => Some(event_log::spawn(path, receiver, metrics.clone())?),
        None => None,
    };
    let admin = options.admin.and_then(|admin| open_admin(admin, &health));
    match http::spawn(listener, exposition, health, metrics, admin) {
        Ok(http) => Ok(ControlHandle { address, http, events }),
        Err(error) => {
            if let Some(events) = events {
                events.stop();
            }
            Err(error)
        }
    }
}

/// Opens the admin socket. A server without it still does all of its work.
fn open_admin(
    options: AdminOptions,
    health: &Arc<HealthState>,
) -> Option<(UnixListener, AdminState)> {
    match admin::bind(&options.socket) {
        Ok(listener) => {
            let (shards, health) = (options.shards, Arc::clone(health));
            Some((listener, AdminState { shards, health }))
        }
        Err(error) => {
            let socket = options.socket.display();
            tracing::error!("cannot open {socket}, `ringpost queue` will not work: {error}");
            None
        }
    }
}

impl ControlHandle {
    /// The address that HTTP is served on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the event log and opens it again by its name, after a rotation. Does not wait.
    pub fn reopen_events(&self) {
        if let Some(events) = &self.events {
            events.reopen();
        }
    }

    /// Writes the event records that wait in the channel, then ends both threads.
    ///
    /// To be called when the shards have ended. Waits 5 s for each thread at most.
    pub fn stop(self) {
        if let Some(events) = self.events {
            events.stop();
        }
        self.http.stop();
    }
}

/// A thread that says when it is done, so that waiting for it can have a deadline.
#[derive(Debug)]
struct Worker {
    name: &'static str,
    /// Nothing is ever sent; the other end is dropped when the thread ends, even by a panic.
    done: Receiver<()>,
}

impl Worker {
    fn spawn(
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<Self, ControlError> {
        let (running, done) = crossbeam_channel::bounded::<()>(0);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                body();
                drop(running);
            })
            .map_err(|source| ControlError::Thread { thread: name, source })?;
        Ok(Self { name, done })
    }

    fn wait(&self) {
        if self.done.recv_timeout(STOP_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the {} thread does not end; leaving it behind", self.name);
        }
    }
}

#[cfg(test)]
mod tests;
