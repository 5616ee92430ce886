//! What a client session is told once.

use std::time::Duration;

use ringpost_protocol::extension::ExtensionSet;

/// How long to wait for the server at each step (RFC 5321 §4.5.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTimeouts {
    /// Until the greeting is complete. Default 5 min.
    pub greeting: Duration,
    /// Until the reply to EHLO or HELO is complete. Default 5 min.
    pub ehlo: Duration,
    /// Until the reply to STARTTLS is complete. Default 5 min.
    pub starttls: Duration,
    /// Until the TLS handshake is over. Default 1 min.
    pub tls_handshake: Duration,
    /// Until each reply to AUTH, and to what belongs to it, is complete. Default 5 min.
    pub auth: Duration,
    /// Until the reply to MAIL, or to RSET in front of it, is complete. Default 5 min.
    pub mail: Duration,
    /// Until the reply to RCPT is complete. Default 5 min.
    pub rcpt: Duration,
    /// Until the reply to DATA is complete. Default 2 min.
    pub data: Duration,
    /// Until a block of content has been written. Default 3 min.
    pub content_block: Duration,
    /// Until the reply to the final dot is complete. Shorter than the default of 10 min means more
    /// messages delivered twice.
    pub final_reply: Duration,
    /// Until the reply to QUIT has come. Default 10 s: nothing depends on it.
    pub quit: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        Self {
            greeting: Duration::from_mins(5),
            ehlo: Duration::from_mins(5),
            starttls: Duration::from_mins(5),
            tls_handshake: Duration::from_mins(1),
            auth: Duration::from_mins(5),
            mail: Duration::from_mins(5),
            rcpt: Duration::from_mins(5),
            data: Duration::from_mins(2),
            content_block: Duration::from_mins(3),
            final_reply: Duration::from_mins(10),
            quit: Duration::from_secs(10),
        }
    }
}

/// What the sessions of a source have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The name for EHLO and HELO: a domain name or an address literal.
    pub helo_name: Box<str>,
    /// How long to wait.
    pub timeouts: ClientTimeouts,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self { helo_name: "localhost".into(), timeouts: ClientTimeouts::default() }
    }
}

/// The protocol that a next hop speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientProtocol {
    /// SMTP (RFC 5321).
    #[default]
    Smtp,
    /// LMTP (RFC 2033): LHLO, and behind the final dot a reply for each recipient.
    Lmtp,
}

/// What is spoken with a next hop. Default: SMTP, with every extension that it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dialect {
    /// The protocol.
    pub protocol: ClientProtocol,
    /// The extensions that are used where they are offered; the others are as if they were not
    /// ([`Extensions::within`](ringpost_protocol::extension::Extensions::within)).
    pub extensions: ExtensionSet,
}
