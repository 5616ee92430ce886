//! Users of the server, and what it is itself at others: who they are, how they show it, and what they may do.
//!
//! [`users`] reads the file, [`verifier`] holds what is known of a password instead of it, [`worker`]
//! compares passwords on a thread of its own, as that is made to take long, [`scram`] does without
//! passwords, bound to a [`channel`] if the client can, [`certificate`] does by what the client has shown to TLS, [`rate`] counts what a user sends. [`credentials`] are our own at smarthosts, and [`scram_client`] the other end of SCRAM. When somebody is to be asked, and what it means, is decided by `ringpost_session::server`.

pub mod certificate;
pub mod channel;
pub mod credentials;
pub mod rate;
pub mod scram;
pub mod scram_client;
pub mod users;
pub mod verifier;
pub mod worker;

pub use channel::Channel;
pub use credentials::{Credentials, Login};
pub use rate::{Rate, RateMeter};
pub use scram::ScramExchange;
pub use users::{Account, Users, UsersError};
pub use verifier::{ScramVerifier, Verifiers};
pub use worker::PasswordChecker;
