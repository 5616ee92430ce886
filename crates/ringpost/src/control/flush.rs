//! Orders to try mail now, by operators through the admin socket, and by clients through ETRN.

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{Response, StatusCode};
use ringpost_delivery::FlushScope;
use ringpost_protocol::address::{Domain, Host};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::admin::{AdminRequest, AdminState, answer, read_order};
use super::connection::PeerUser;
use super::http::respond;

/// An order to try mail now.
#[derive(Debug)]
pub struct FlushRequest {
    /// Whose mail.
    pub scope: FlushScope,
    /// Where the answer goes, when all of it is on its way.
    pub reply: oneshot::Sender<FlushReply>,
}

/// How many recipients were brought forward, or why none.
pub type FlushReply = Result<u64, FlushRefusal>;

/// Why a shard does not try mail now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlushRefusal {
    /// It is about so many orders already as it may.
    #[error("it is about too many of them already")]
    Busy,
    /// It does not know all of its mail yet: its log is being read.
    #[error("it is still reading its queue: say it again in a moment")]
    Beginning,
    /// Its log cannot be used, or the server stops.
    #[error("its queue cannot be used now")]
    Unavailable,
}

/// The body of `POST /queue/flush`: one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlushOrder {
    /// All mail.
    pub all: bool,
    /// That for this domain or address literal.
    pub domain: Option<String>,
    /// That for the domains below it, too.
    pub subdomains: bool,
}

impl FlushOrder {
    /// Reads the body of a request, and what is to be tried by it.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in one line: it is no JSON object of these members, it names nothing or too
    /// much, or a domain that is none.
    pub fn parse(body: &[u8]) -> Result<FlushScope, String> {
        read_order::<Self>(body)?.read()
    }

    fn read(&self) -> Result<FlushScope, String> {
        let bad = |error| format!("not a domain: {error}");
        match (self.all, self.domain.as_deref(), self.subdomains) {
            (true, None, false) => Ok(FlushScope::All),
            (false, Some(domain), true) => {
                Domain::parse(domain).map(FlushScope::Subdomains).map_err(bad)
            }
            (false, Some(domain), false) => Host::parse(domain).map(FlushScope::Host).map_err(bad),
            _ => Err("say what to try: all, or a domain".to_owned()),
        }
    }
}

/// What one shard has brought forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardFlush {
    /// Its number.
    pub shard: usize,
    /// Recipients that are tried now.
    pub recipients: u64,
    /// Why it did not do it, or may not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The answer to `POST /queue/flush`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushSummary {
    /// All shards.
    pub shards: Vec<ShardFlush>,
}

pub(super) async fn serve_flush(
    State(state): State<AdminState>,
    ConnectInfo(user): ConnectInfo<PeerUser>,
    body: Bytes,
) -> Response<Body> {
    let scope = match FlushOrder::parse(&body) {
        Ok(scope) => scope,
        Err(error) => {
            return respond(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n").into());
        }
    };
    tracing::info!(user = user.0, ?scope, "an operator has mail tried now");
    let order = |reply| AdminRequest::Flush(FlushRequest { scope: scope.clone(), reply });
    let replies = state.ask(order).await;
    let shards = replies.into_iter().enumerate().map(|(shard, reply)| {
        let (recipients, error) = match reply {
            Ok(Ok(recipients)) => (recipients, None),
            Ok(Err(refusal)) => (0, Some(refusal.to_string())),
            Err(error) => (0, Some(error.to_string())),
        };
        ShardFlush { shard, recipients, error }
    });
    answer(&FlushSummary { shards: shards.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_one_thing() {
        let parse = |text: &str| FlushOrder::parse(text.as_bytes());
        assert_eq!(parse("{\"all\":true}"), Ok(FlushScope::All));
        let host = Host::parse("a.test").unwrap();
        assert_eq!(parse("{\"domain\":\"A.test\"}"), Ok(FlushScope::Host(host)));
        let domain = Domain::parse("a.test").unwrap();
        let below = parse("{\"domain\":\"a.test\",\"subdomains\":true}");
        assert_eq!(below, Ok(FlushScope::Subdomains(domain)));
        for text in [
            "",
            "{}",
            "[true]",
            "{\"all\":true,\"domain\":\"a.test\"}",
            "{\"all\":true,\"subdomains\":true}",
            "{\"subdomains\":true}",
            "{\"domain\":\"a b\"}",
            "{\"domain\":\"[192.0.2.1]\",\"subdomains\":true}",
            "{\"most\":true}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
