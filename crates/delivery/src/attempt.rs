//! What came of an attempt: for whom, where, and why.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use ringpost_protocol::reply::Reply;
use ringpost_protocol::status::EnhancedStatusCode;
use ringpost_queue::{Disposition, MessageId, RecipientIndex};
use ringpost_session::client::{ClientTlsInfo, Stage};

/// The current time, twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// For time-outs and pauses.
    pub monotonic: Instant,
    /// What the wall clock shows, for times that are stored or told: milliseconds since 1970. It may
    /// jump.
    pub unix_ms: u64,
}

/// Why a recipient came out as it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The remote's enhanced status code, or ours when it gave none. For deliveries 2.x.x.
    pub status: EnhancedStatusCode,
    /// Where in the session it happened; `None` when there was no session.
    pub stage: Option<Stage>,
    /// The remote's reply, if one decided.
    pub reply: Option<Reply>,
    /// Our words; empty when a reply says it all.
    pub text: Cow<'static, str>,
    /// Whether the remote may have taken the message all the same: the connection failed between
    /// the final dot and its reply (RFC 1047).
    pub outcome_unknown: bool,
    /// The rule that has decided, if one has.
    pub rule: Option<Arc<str>>,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reply {
            Some(reply) if self.text.is_empty() => reply.fmt(f),
            Some(reply) => write!(f, "{}: {reply}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Where and when an attempt was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The site's name; the destination's when no site was found.
    pub site: Rc<str>,
    /// The host spoken to; `None` when no connection was made.
    pub mx_host: Option<Rc<str>>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// When the job was handed out, or when the failure became known.
    pub started: Instant,
    /// When its outcome was known.
    pub finished: Instant,
    /// Whether the host offers DSN (RFC 3461), and so reports on what it has taken.
    pub reports: bool,
    /// Whether the host offers DELIVERBY (RFC 2852), and so sees to the time of what it has taken.
    pub sees_to_time: bool,
    /// What TLS the connection had; `None` in plain text, and when there was no transaction.
    pub tls: Option<ClientTlsInfo>,
}

impl Attempt {
    /// One that came to no connection.
    pub(crate) fn unmade(site: Rc<str>, at: Instant) -> Self {
        Self {
            site,
            mx_host: None,
            address: None,
            started: at,
            finished: at,
            reports: false,
            sees_to_time: false,
            tls: None,
        }
    }
}

/// The outcome of one recipient.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Which recipient of the message.
    pub index: RecipientIndex,
    /// Attempts made, this one included.
    pub attempts: u16,
    /// What the queue stores. Deferred recipients wait in the engine already.
    pub disposition: Disposition,
    /// Why. When the disposition is `Expired`, why the last attempt failed.
    pub reason: Rc<Reason>,
    /// Whether the originator is to be told of the delay, in the same commit. Only with `Deferred`,
    /// and once for each recipient.
    pub warns: bool,
    /// When it is given up; milliseconds since 1970.
    pub expiry_unix_ms: u64,
}

/// Outcomes of recipients of one message, for one commit.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The message.
    pub id: MessageId,
    /// The attempt that they come from.
    pub attempt: Attempt,
    /// Whether the attempt was made for these recipients, and counts for them. Not so when they
    /// waited for a site that is down and their time was over, or when a warning was due: then it
    /// is the last attempt that the site has seen.
    pub is_attempt: bool,
    /// At least one recipient, each once.
    pub recipients: Vec<Settled>,
}
