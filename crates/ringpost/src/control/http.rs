//! The HTTP listener: `/metrics` and `/health`, read-only.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode, header};
use axum::routing::get;
use ringpost_metrics::{ControlMetrics, Exposition};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Sleep;

use super::health::HealthState;
use super::{ControlError, Worker};

/// Open connections; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 100;
/// A connection is closed when for so long no part of a response could be sent: no request came, it came
/// too slowly, or the response is not read.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The running thread.
#[derive(Debug)]
pub(super) struct HttpHandle {
    stop: oneshot::Sender<()>,
    worker: Worker,
}

impl HttpHandle {
    pub(super) fn stop(self) {
        // Fails only when the thread has ended already.
        let _ = self.stop.send(());
        self.worker.wait();
    }
}

#[derive(Debug)]
struct Shared {
    exposition: Exposition,
    health: Arc<HealthState>,
    metrics: ControlMetrics,
}

/// Starts the thread on a bound listener.
pub(super) fn spawn(
    listener: StdListener,
    exposition: Exposition,
    health: Arc<HealthState>,
    metrics: ControlMetrics,
) -> Result<HttpHandle, ControlError> {
    let failed = |source| ControlError::Thread { thread: "control", source };
    listener.set_nonblocking(true).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed)?;
    let listener = {
        // Registers with the runtime's reactor.
        let _guard = runtime.enter();
        TcpListener::from_std(listener).map_err(failed)?
    };
    let (stop, stopped) = oneshot::channel();
    let router = router(Arc::new(Shared { exposition, health, metrics }));
    let worker = Worker::spawn("control", move || {
        runtime.block_on(async {
            let listener = Limited { listener, free: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
            let serve = async {
                if let Err(error) = axum::serve(listener, router).await {
                    tracing::error!("the control listener ended: {error}");
                }
            };
            // A dropped handle is no wish to stop.
            let stopped = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            futures_lite::future::or(stopped, serve).await;
        });
    })?;
    Ok(HttpHandle { stop, worker })
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/health", get(serve_health))
        .with_state(shared)
}

async fn serve_metrics(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.metrics.control_requests.increment(1);
    let page = shared.exposition.render();
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page.into())
}

async fn serve_health(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.metrics.control_requests.increment(1);
    let report = shared.health.report(Instant::now());
    let status = if report.is_healthy() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, "application/json", report.to_json().into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// A listener with at most [`CONNECTIONS_MAX`] connections, each with a deadline.
struct Limited {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

impl axum::serve::Listener for Limited {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // The semaphore is never closed; if it were, no connection would be the right answer.
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept().await {
                Ok((stream, address)) => return (Connection::new(stream, permit), address),
                Err(error) => {
                    tracing::warn!("the control listener cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when it makes no progress.
struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit) -> Self {
        let deadline = Box::pin(tokio::time::sleep(PROGRESS_TIMEOUT));
        Self { stream, deadline, _permit: permit }
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_deadline(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_deadline(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        let deadline = tokio::time::Instant::now() + PROGRESS_TIMEOUT;
        self.deadline.as_mut().reset(deadline);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
