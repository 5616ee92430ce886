//! The end of a session that delivers mail.

mod auth;
mod config;
mod report;
mod session;
mod tls;
mod transaction;

pub use auth::{AuthProblem, AuthPrompt, ClientAuth};
pub use config::{ClientConfig, ClientProtocol, ClientTimeouts, Dialect};
pub use report::{
    LocalRefusal, ProtocolViolation, RecipientReport, SessionFailure, Stage, TransactionReport,
    Verdict,
};
pub use session::{ClientEvent, ClientSession, NotReady};
pub use tls::{ClientTls, ClientTlsInfo, TlsProblem};
pub use transaction::{TransactionDsn, TransactionRequest};
