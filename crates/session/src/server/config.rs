//! What a server session is told once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringpost_protocol::address::Syntax;
use ringpost_protocol::data::ContentLimits;
use ringpost_protocol::extension::ExtensionSet;
use ringpost_protocol::limits::{
    DSN_PARAMETERS_SIZE_MAX, ERRORS_MAX, HEADER_FIELDS_MAX, HEADER_SIZE_MAX, JUNK_COMMANDS_MAX,
    MESSAGE_SIZE_MAX, RECEIVED_FIELDS_MAX, RECIPIENTS_MAX, TRANSACTIONS_MAX,
};
use ringpost_protocol::priority::Priority;

use super::aliases::Aliases;
use super::auth::AuthPolicy;
use super::stress::StressLimits;
use super::tls::TlsPolicy;

/// What the sessions of a listener have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct ServerConfig {
    /// Our name in the greeting and the reply to EHLO.
    pub hostname: Box<str>,
    /// The extensions to be offered; the parameters of others are refused. Default all.
    pub extensions: ExtensionSet,
    /// Octets in a message, offered as SIZE. Default 50 MiB.
    pub size_max: u64,
    /// Recipients in a transaction; more are put off with 452. Default 1000.
    pub recipients_max: usize,
    /// Refused commands at which the session is closed. Default 20.
    pub errors_max: u32,
    /// Commands without a message among them, above which the session is closed. Default 100.
    pub junk_commands_max: u32,
    /// Transactions above which the session is closed. Default 1000.
    pub transactions_max: u32,
    /// `Received` fields above which a message is taken for a loop. Default 50.
    pub received_fields_max: usize,
    /// Octets in the header section of a message. Default 64 KiB.
    pub header_size_max: usize,
    /// Fields in the header section of a message. Default 1000.
    pub header_fields_max: usize,
    /// How long a session may last; it ends before the next command then, never within content. Default
    /// 1 day; 0 for any time.
    pub session_time_max: Duration,
    /// How long a whole command may take to come, from the end of the one before. Default 5 min.
    pub command_timeout: Duration,
    /// What is made of TLS. Default off.
    pub tls: TlsPolicy,
    /// How long a TLS handshake may take. Default 30 s.
    pub tls_handshake_timeout: Duration,
    /// What is made of AUTH. Default off.
    pub auth: AuthPolicy,
    /// How long a piece of content may take to come. Default 3 min.
    pub data_block_timeout: Duration,
    /// Octets a second that content has to come with, taken from its start. Default 500; 0 for none.
    pub data_rate_min: u32,
    /// How long content may come slower than that. Default 1 min.
    pub data_rate_grace: Duration,
    /// How long the client may leave our replies unread. Default 1 min.
    pub output_timeout: Duration,
    /// How long a message may be held for clients that may relay (RFC 4865), in whole seconds up to
    /// `HOLD_SECONDS_MAX`; 0 does not offer it. Default 7 days.
    pub future_release_max: Duration,
    /// The header field by which clients that may relay can say until when a message is to be held;
    /// it is taken out. One that `data::field::is_field_name` lets pass. Default none.
    pub not_before_header: Option<Box<str>>,
    /// The header field by which clients that may relay name the tenant on whose behalf they send; it is taken
    /// out, and counts for users without a tenant. As above. Default none.
    pub tenant_header: Option<Box<str>>,
    /// The header field by which they name the campaign that a message is part of; it is taken out. As above.
    /// Default none.
    pub campaign_header: Option<Box<str>>,
    /// Whether `TLS-Required: No` in a header section counts (RFC 8689 §3). Default yes.
    pub tls_required_field: bool,
    /// Whether messages of clients that may relay get a `Date` and a `Message-ID` if they have none
    /// (RFC 6409 §8); see `data::edit`. Default no.
    pub add_missing_fields: bool,
    /// The highest priority that a message of a client that may relay gets (RFC 6710), others not above 0;
    /// without one MT-PRIORITY is not offered. Default none.
    pub priority_max: Option<Priority>,
    /// Whether DELIVERBY (RFC 2852) is offered, and the shortest time in seconds that it takes with mode `R`,
    /// 0 for none. Default: not.
    pub deliver_by_min: Option<u32>,
    /// Octets of what the RCPT commands of a transaction ask for by DSN (RFC 3461); a recipient beyond is
    /// put off with 452. Default 1 MiB.
    pub dsn_parameters_size_max: usize,
    /// Whether BINARYMIME is offered with CHUNKING (RFC 3030 §3). Few servers take such messages, and
    /// to others they cannot be delivered. Default no.
    pub binary_mime: bool,
    /// Addresses that stand for others. To that of the postmaster anyone may write, and `<Postmaster>`
    /// without a domain is refused when there is none. Default none.
    pub aliases: Arc<Aliases>,
    /// Whether EXPN tells clients that may relay for which mailboxes an alias stands. Default no.
    pub expn: bool,
    /// Whether VRFY tells clients that may relay what RCPT would say (RFC 5321 §3.5); to others it
    /// confirms nothing. Default no.
    pub vrfy: bool,
    /// Whether recipients at address literals are taken. Default no.
    pub address_literals: bool,
    /// What holds while the server is short of something.
    pub stress: StressLimits,
    /// Whether to let pass what sloppy injectors send: see [`Syntax::Lenient`], lines of any length,
    /// input before the greeting, and commands sent ahead where RFC 2920 forbids it. Bare CR and LF
    /// are refused all the same. Default no.
    pub lenient: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            extensions: ExtensionSet::ALL,
            size_max: MESSAGE_SIZE_MAX,
            recipients_max: RECIPIENTS_MAX,
            errors_max: ERRORS_MAX,
            junk_commands_max: JUNK_COMMANDS_MAX,
            transactions_max: TRANSACTIONS_MAX,
            received_fields_max: RECEIVED_FIELDS_MAX,
            header_size_max: HEADER_SIZE_MAX,
            header_fields_max: HEADER_FIELDS_MAX,
            session_time_max: Duration::from_hours(24),
            command_timeout: Duration::from_mins(5),
            tls: TlsPolicy::Off,
            tls_handshake_timeout: Duration::from_secs(30),
            auth: AuthPolicy::default(),
            data_block_timeout: Duration::from_mins(3),
            data_rate_min: 500,
            data_rate_grace: Duration::from_mins(1),
            output_timeout: Duration::from_mins(1),
            future_release_max: Duration::from_hours(7 * 24),
            not_before_header: None,
            tenant_header: None,
            campaign_header: None,
            tls_required_field: true,
            add_missing_fields: false,
            priority_max: None,
            deliver_by_min: None,
            dsn_parameters_size_max: DSN_PARAMETERS_SIZE_MAX,
            binary_mime: false,
            aliases: Arc::default(),
            expn: false,
            vrfy: false,
            address_literals: false,
            stress: StressLimits::default(),
            lenient: false,
        }
    }
}

impl ServerConfig {
    pub(super) fn syntax(&self) -> Syntax {
        if self.lenient { Syntax::Lenient } else { Syntax::Strict }
    }

    pub(super) fn content_limits(&self) -> ContentLimits {
        let mut limits = ContentLimits {
            size_max: self.size_max,
            header_size_max: self.header_size_max,
            header_fields_max: self.header_fields_max,
            ..ContentLimits::default()
        };
        if self.lenient {
            limits.line_size_max = usize::MAX;
        }
        limits
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub ip: IpAddr,
    /// Whether it may send to any recipient, without AUTH. Others may send to none but the postmaster.
    pub may_relay: bool,
}
