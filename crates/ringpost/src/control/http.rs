//! The HTTP listener: `/metrics` and `/health`, read-only. Its thread serves the admin socket too.

use std::net::TcpListener as StdListener;
use std::os::unix::net::UnixListener as UnixSocket;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Response, StatusCode, header};
use axum::routing::get;
use ringpost_metrics::{ControlMetrics, Exposition};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use super::admin::{self, AdminState};
use super::connection::{Limited, PeerUser};
use super::health::HealthState;
use super::{ControlError, Worker};

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
    admin: Option<(UnixSocket, AdminState)>,
) -> Result<HttpHandle, ControlError> {
    let failed = |source| ControlError::Thread { thread: "control", source };
    listener.set_nonblocking(true).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed)?;
    // Registers with the runtime's reactor.
    let guard = runtime.enter();
    let listener = TcpListener::from_std(listener).map_err(failed)?;
    let admin = match admin {
        Some((socket, state)) => {
            socket.set_nonblocking(true).map_err(failed)?;
            let socket = UnixListener::from_std(socket).map_err(failed)?;
            Some((socket, admin::router(state)))
        }
        None => None,
    };
    drop(guard);
    let (stop, stopped) = oneshot::channel();
    let router = router(Arc::new(Shared { exposition, health, metrics }));
    let worker = Worker::spawn("control", move || {
        runtime.block_on(async {
            let serve = async {
                if let Err(error) = axum::serve(Limited::new(listener), router).await {
                    tracing::error!("the control listener ended: {error}");
                }
            };
            if let Some((listener, router)) = admin {
                tokio::spawn(async move {
                    let service = router.into_make_service_with_connect_info::<PeerUser>();
                    if let Err(error) = axum::serve(Limited::new(listener), service).await {
                        tracing::error!("the control socket ended: {error}");
                    }
                });
            }
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

pub(super) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: Body,
) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}
