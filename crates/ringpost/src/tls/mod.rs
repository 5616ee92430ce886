//! TLS by rustls: certificates, and the filter between socket and session.
//!
//! [`material`] reads certificates and keys and makes an [`Acceptor`] of them for clients, [`connector`] a
//! [`Connector`] for next hops; [`transport`] is a connection that may come to speak TLS, [`failure`] says
//! why a handshake failed, [`certificate`] what a certificate says, and [`clients`] what one of a client is
//! worth. When a handshake begins, and what it means for the mail, is decided by
//! `ringpost_session`.

pub mod certificate;
pub mod clients;
pub mod connector;
mod der;
pub mod failure;
pub mod material;
pub mod transport;

pub use clients::ClientIdentity;
pub use connector::Connector;
pub use material::{Acceptor, MaterialError};
pub(crate) use transport::Transport;
