//! The end of a session that accepts mail.

mod admission;
mod aliases;
mod auth;
mod chunk;
mod command;
mod config;
mod content;
mod deliver_by;
mod dsn;
mod etrn;
mod event;
mod header;
mod help;
mod hold;
mod priority;
mod replies;
mod requiretls;
mod session;
mod stats;
mod stress;
mod tls;
mod transaction;
mod utf8;
mod vrfy;
mod xclient;

pub use aliases::{Alias, Aliases};
pub use auth::{
    AuthPolicy, AuthQuestion, AuthRefusal, Password, ReversePathRule, ReversePaths, User,
};
pub use config::{Peer, ServerConfig};
pub use etrn::FlushOutcome;
pub use event::{Admission, CloseReason, Refusal, ServerEvent};
pub use session::ServerSession;
pub use stats::{ServerLimit, ServerStats, TransactionRefusal};
pub use stress::StressLimits;
pub use tls::{CertificateRights, TlsInfo, TlsPolicy, TlsVersion};
pub use xclient::NamedClient;
