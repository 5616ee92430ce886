//! The admin socket: what an operator may ask of the shards, and order them to do.
//!
//! A Unix socket in the queue directory that only the owner of the queue can open. A request goes to
//! every shard through its inbox and is answered at its next tick; a shard that does not answer in
//! time is reported as such.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{Response, StatusCode};
use axum::routing::{get, post};
use ringpost_metrics::label::ClosedLabel;
use ringpost_protocol::address::Host;
use ringpost_queue::{Purge, Purged};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::oneshot;

use super::connection::PeerUser;
use super::flush::{FlushRequest, serve_flush};
use super::health::HealthState;
use super::http::respond;
use crate::shard::{RequestRefusal, ShardHandle};

/// Name of the socket in the queue directory.
pub const SOCKET_FILE: &str = "control.sock";

/// How long a shard may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What the shards are asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum AdminRequest {
    /// What is in the queue.
    Summary(oneshot::Sender<ShardQueue>),
    /// To remove mail from the queue.
    Purge(PurgeRequest),
    /// To try mail now.
    Flush(FlushRequest),
}

/// An order to remove mail from the queue.
#[derive(Debug)]
pub struct PurgeRequest {
    /// What to remove.
    pub purge: Purge,
    /// Who ordered it, by number, if the system told.
    pub user: Option<u32>,
    /// Where the answer goes, when it is durable.
    pub reply: oneshot::Sender<PurgeReply>,
}

/// How much was removed, durably; or why nothing, or not durably.
pub type PurgeReply = Result<Purged, String>;

/// The body of `POST /queue/purge`. What matches all that is given is removed; `all` must be true
/// when nothing is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PurgeOrder {
    /// Everything.
    pub all: bool,
    /// Recipients at this domain or address literal.
    pub domain: Option<String>,
    /// Messages received before this time, in milliseconds of Unix time.
    pub received_before_unix_ms: Option<u64>,
}

impl PurgeOrder {
    /// Reads the body of a request, and what is to be removed by it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line: it is no JSON object of these members, it names nothing, or a
    /// domain that is none.
    pub fn parse(body: &[u8]) -> Result<Purge, String> {
        read_order::<Self>(body)?.read()
    }

    fn read(&self) -> Result<Purge, String> {
        let is_empty = self.domain.is_none() && self.received_before_unix_ms.is_none();
        if self.all != is_empty {
            return Err("say what to remove: all, or a domain or an age".to_owned());
        }
        let host = self.domain.as_deref().map(Host::parse).transpose();
        Ok(Purge {
            host: host.map_err(|error| format!("not a domain: {error}"))?,
            received_before_unix_ms: self.received_before_unix_ms.unwrap_or(u64::MAX),
        })
    }
}

/// Reads an order: a JSON object of its members.
pub(super) fn read_order<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    // What is quoted of the body may be anything.
    let plain = |error: serde_json::Error| error.to_string().replace(char::is_control, "?");
    // A list of values would do for a struct, and say nothing of what they mean.
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(body).map_err(plain)?;
    serde_json::from_value(members.into()).map_err(plain)
}

/// What was removed from one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPurge {
    /// Its number.
    pub shard: usize,
    /// Recipients removed.
    pub recipients: u64,
    /// Messages that left the queue with them.
    pub messages: u64,
    /// Why it did not do it, or may not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The answer to `POST /queue/purge`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeSummary {
    /// All shards.
    pub shards: Vec<ShardPurge>,
}

/// What is in the queue of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardQueue {
    /// Messages with at least one recipient that is not settled.
    pub messages: u64,
    /// Recipients that are not settled.
    pub recipients: u64,
    /// Segments of the log that hold records.
    pub segments: u64,
    /// Octets of the log's files.
    pub bytes: u64,
    /// Octets that the log may have.
    pub bytes_max: u64,
    /// Octets of the log that queued messages take.
    pub live_bytes: u64,
}

/// One shard in a [`QueueSummary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSummary {
    /// Its number.
    pub shard: usize,
    /// What it can do, in the words of `ringpost_queue_state`.
    pub state: String,
    /// Why its storage cannot be used, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is in it; absent when it did not answer in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<ShardQueue>,
}

/// The answer to `GET /queue/summary`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSummary {
    /// All shards.
    pub shards: Vec<ShardSummary>,
    /// What is wrong, in the words of `/health`.
    pub reasons: Vec<String>,
}

/// Where the socket is, and whom it asks.
#[derive(Debug, Clone)]
pub struct AdminOptions {
    /// The path of the socket.
    pub socket: PathBuf,
    /// What leads to the shards, by their numbers.
    pub shards: Arc<[ShardHandle]>,
}

/// What the handlers share.
#[derive(Debug, Clone)]
pub(super) struct AdminState {
    pub(super) shards: Arc<[ShardHandle]>,
    pub(super) health: Arc<HealthState>,
}

/// Makes the socket, in place of one that an earlier process left behind.
///
/// The caller holds the lock of the queue directory: nobody else uses it.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(super) fn router(state: AdminState) -> Router {
    Router::new()
        .route("/queue/summary", get(serve_summary))
        .route("/queue/purge", post(serve_purge))
        .route("/queue/flush", post(serve_flush))
        .with_state(state)
}

async fn serve_purge(
    State(state): State<AdminState>,
    ConnectInfo(user): ConnectInfo<PeerUser>,
    body: Bytes,
) -> Response<Body> {
    let purge = match PurgeOrder::parse(&body) {
        Ok(purge) => purge,
        Err(error) => {
            return respond(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n").into());
        }
    };
    let order =
        |reply| AdminRequest::Purge(PurgeRequest { purge: purge.clone(), user: user.0, reply });
    let replies = state.ask(order).await;
    let shards = replies.into_iter().enumerate().map(|(shard, reply)| {
        let reply = reply.unwrap_or_else(|error| Err(error.to_string()));
        let (purged, error) = match reply {
            Ok(purged) => (purged, None),
            Err(error) => (Purged::default(), Some(error)),
        };
        ShardPurge { shard, recipients: purged.recipients, messages: purged.messages, error }
    });
    answer(&PurgeSummary { shards: shards.collect() })
}

async fn serve_summary(
    State(state): State<AdminState>,
    ConnectInfo(user): ConnectInfo<PeerUser>,
) -> Response<Body> {
    tracing::debug!(user = user.0, "summary of the queue");
    let queues = state.ask(AdminRequest::Summary).await;
    let report = state.health.report(Instant::now());
    let shards = queues.into_iter().enumerate().map(|(shard, queue)| ShardSummary {
        shard,
        state: report.shards.get(shard).map_or("unknown", |state| state.value()).to_owned(),
        reason: state.health.shard(shard).and_then(|health| health.reason().map(str::to_owned)),
        queue: queue.ok(),
    });
    answer(&QueueSummary { shards: shards.collect(), reasons: report.reasons.clone() })
}

/// Why there is no answer of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum NoAnswer {
    /// It was not asked.
    #[error(transparent)]
    Refused(RequestRefusal),
    /// None came while it was waited for.
    #[error("it did not answer in time; it may do it yet")]
    Late,
}

impl AdminState {
    /// Asks every shard.
    pub(super) async fn ask<T>(
        &self,
        request: impl Fn(oneshot::Sender<T>) -> AdminRequest,
    ) -> Vec<Result<T, NoAnswer>> {
        let asked = self.shards.iter().map(|shard| {
            let (reply, answer) = oneshot::channel();
            shard.ask(request(reply)).map(|()| answer)
        });
        // All are asked before the first answer is waited for.
        let asked: Vec<_> = asked.collect();
        let deadline = tokio::time::Instant::now() + ANSWER_TIMEOUT;
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(match answer {
                Ok(answer) => match tokio::time::timeout_at(deadline, answer).await {
                    Ok(Ok(answer)) => Ok(answer),
                    // It ended before it looked at it, or while it was about it.
                    Ok(Err(_)) | Err(_) => Err(NoAnswer::Late),
                },
                Err(refusal) => Err(NoAnswer::Refused(refusal)),
            });
        }
        answers
    }
}

pub(super) fn answer(value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(mut body) => {
            body.push(b'\n');
            respond(StatusCode::OK, "application/json", body.into())
        }
        Err(error) => {
            let text = format!("cannot write the answer: {error}\n");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text.into())
        }
    }
}
