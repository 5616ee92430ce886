//! `[listener.NAME]`: where mail comes in, and what is made of it there.

use std::net::SocketAddr;
use std::time::Duration;

use ringpost_protocol::extension::Extension;
use ringpost_protocol::priority::Priority;
use ringpost_session::server::TlsPolicy;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use crate::config::auth::ListenerAuthSection;
use crate::config::client_certificates::ClientCertificatesSection;
use crate::config::header::HeaderSection;
use crate::config::units::{self, Network, Parsed};
use crate::tls::material::CertificateFiles;

/// `[listener.NAME]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct ListenerSection {
    /// Addresses and ports; no default.
    pub addresses: Vec<SocketAddr>,
    /// What it is for. Default: relay.
    pub role: Role,
    /// What is made of STARTTLS. Default: by the role.
    pub tls: Option<TlsMode>,
    /// Certificates; the first is for clients that ask for no name that another has. Default: none.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients are asked for certificates.
    pub client_certificates: ClientCertificatesSection,
    /// How long a TLS handshake may take. Default: 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub tls_handshake_timeout: Duration,
    /// TLS handshakes at once on one core. Default: 1000.
    pub tls_handshakes_per_core_max: usize,
    /// Whether `Received` fields say which cipher suite was used. Default: yes.
    pub received_tls: bool,
    /// What is made of AUTH.
    pub auth: ListenerAuthSection,
    /// What becomes of the header section of messages.
    pub header: HeaderSection,
    /// Clients that may relay. Default: loopback.
    pub relay_networks: Vec<Network>,
    /// Proxies, which have to say by the PROXY protocol whom they speak for. Default: none.
    pub proxy_protocol_from: Vec<Network>,
    /// How long a proxy may take to say it. Default: 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub proxy_timeout: Duration,
    /// Gateways that may say by XCLIENT for whom they speak. Default: none.
    pub xclient_from: Vec<Network>,
    /// Clients that may have mail tried now, by ETRN. Default: none.
    pub etrn_from: Vec<Network>,
    /// Extensions that are not offered. Default: none.
    #[serde(deserialize_with = "extension_list")]
    pub extensions_off: Vec<Extension>,
    /// Octets of content in one message. Default: 50 MiB.
    #[serde(deserialize_with = "units::size")]
    pub message_size_max: u64,
    /// Recipients in one transaction. Default: 1000.
    pub recipients_max: usize,
    /// Transactions in one session. Default: 1000.
    pub transactions_max: u32,
    /// Commands answered with an error in one session. Default: 20.
    pub errors_max: u32,
    /// Commands without effect (NOOP, RSET, …) in one session. Default: 100.
    pub junk_commands_max: u32,
    /// `Received` fields above which a message is taken for a loop. Default: 50.
    pub received_fields_max: usize,
    /// Octets in the header section of a message. Default: 64 KiB.
    #[serde(deserialize_with = "units::small_size")]
    pub header_size_max: u32,
    /// Fields in the header section of a message. Default: 1000.
    pub header_fields_max: usize,
    /// How long a session may last, content not cut off. Default: 1 d; 0 for any time.
    #[serde(deserialize_with = "units::duration")]
    pub session_time_max: Duration,
    /// How long a client may think before a command. Default: 5 min (RFC 5321 §4.5.3.2.7).
    #[serde(deserialize_with = "units::duration")]
    pub command_timeout: Duration,
    /// How long a client may pause within the content. Default: 3 min (RFC 5321 §4.5.3.2.5).
    #[serde(deserialize_with = "units::duration")]
    pub data_block_timeout: Duration,
    /// Slowest content transfer, in bytes a second, after `data_rate_grace`. Default: 500 B.
    #[serde(deserialize_with = "units::small_size")]
    pub data_rate_min: u32,
    /// How long content may come slower than that. Default: 1 min.
    #[serde(deserialize_with = "units::duration")]
    pub data_rate_grace: Duration,
    /// How long a client may leave replies unread. Default: 1 min.
    #[serde(deserialize_with = "units::duration")]
    pub output_timeout: Duration,
    /// Open sessions on one core. Default: 10,000.
    pub connections_per_core_max: usize,
    /// Open sessions of one client on one core, for clients that may not relay. Default: 50.
    pub connections_per_client_per_core_max: usize,
    /// New connections of one client in a minute on one core, for clients that may not relay.
    /// Default: 600; 0 for any number.
    pub new_connections_per_client_per_core_max: u32,
    /// How long clients that may relay can have a message held (FUTURERELEASE, RFC 4865), in whole
    /// seconds. Default: 7 d; 0 does not offer it.
    #[serde(deserialize_with = "units::duration")]
    pub future_release_max: Duration,
    /// Whether clients may say how urgent a message is (MT-PRIORITY, RFC 6710). Default: no.
    pub mt_priority: bool,
    /// The highest priority that a message of a client that may relay gets, −9 to 9; others not above 0.
    /// Default: 9.
    #[serde(deserialize_with = "priority")]
    pub mt_priority_max: Priority,
    /// Whether clients may say by when a message is to be delivered (DELIVERBY, RFC 2852). Default: no.
    pub deliver_by: bool,
    /// The shortest time, in whole seconds, for messages that are to be returned when it is over. Default: 0,
    /// any.
    #[serde(deserialize_with = "units::duration")]
    pub deliver_by_min: Duration,
    /// Whether content that comes by BDAT may be binary (BINARYMIME, RFC 3030). Default: no.
    pub binary_mime: bool,
    /// The header field by which clients that may relay can have a message held. Default: none.
    pub not_before_header: String,
    /// How long delivery of its messages is tried. Default: `queue.lifetime`.
    #[serde(deserialize_with = "units::optional_duration")]
    pub lifetime: Option<Duration>,
    /// Whether VRFY tells clients that may relay what RCPT would say. Default: no.
    pub vrfy: bool,
    /// Whether EXPN tells clients that may relay for whom an alias stands. Default: no.
    pub expn: bool,
    /// Whether recipients at address literals are taken. Default: no.
    pub address_literals: bool,
    /// Whether common deviations from the grammar are accepted. Default: no.
    pub lenient: bool,
}

impl Default for ListenerSection {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            role: Role::Relay,
            tls: None,
            certificates: Vec::new(),
            client_certificates: ClientCertificatesSection::default(),
            tls_handshake_timeout: Duration::from_secs(30),
            tls_handshakes_per_core_max: 1000,
            received_tls: true,
            auth: ListenerAuthSection::default(),
            header: HeaderSection::default(),
            relay_networks: units::loopback(),
            proxy_protocol_from: Vec::new(),
            proxy_timeout: Duration::from_secs(10),
            xclient_from: Vec::new(),
            etrn_from: Vec::new(),
            extensions_off: Vec::new(),
            message_size_max: 50 << 20,
            recipients_max: 1000,
            transactions_max: 1000,
            errors_max: 20,
            junk_commands_max: 100,
            received_fields_max: 50,
            header_size_max: 64 << 10,
            header_fields_max: 1000,
            session_time_max: Duration::from_hours(24),
            command_timeout: Duration::from_mins(5),
            data_block_timeout: Duration::from_mins(3),
            data_rate_min: 500,
            data_rate_grace: Duration::from_mins(1),
            output_timeout: Duration::from_mins(1),
            connections_per_core_max: 10_000,
            connections_per_client_per_core_max: 50,
            new_connections_per_client_per_core_max: 600,
            future_release_max: Duration::from_hours(7 * 24),
            mt_priority: false,
            mt_priority_max: Priority::MAX,
            deliver_by: false,
            deliver_by_min: Duration::ZERO,
            binary_mime: false,
            not_before_header: String::new(),
            lifetime: None,
            vrfy: false,
            expn: false,
            address_literals: false,
            lenient: false,
        }
    }
}

fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Priority, D::Error> {
    let level = i64::deserialize(deserializer)?;
    let priority = i8::try_from(level).ok().and_then(Priority::new);
    priority.ok_or_else(|| D::Error::custom("a priority is a number from -9 to 9"))
}

/// What a listener is for, which says what is made of TLS there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Other servers and programs of ours: STARTTLS is offered when there is a certificate.
    Relay,
    /// People's mail programs, by STARTTLS: it is required (RFC 6409, RFC 8314).
    Submission,
    /// The same with TLS from the first octet (RFC 8314 §3.3).
    Submissions,
}

/// What is made of STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// It is not offered.
    Off,
    /// It is offered.
    Optional,
    /// It is needed before any mail.
    Required,
}

impl ListenerSection {
    /// What its sessions make of TLS.
    pub fn tls_policy(&self) -> TlsPolicy {
        match (self.role, self.tls) {
            (Role::Submissions, _) => TlsPolicy::Implicit,
            (_, Some(TlsMode::Required)) | (Role::Submission, None) => TlsPolicy::Required,
            (_, Some(TlsMode::Off)) => TlsPolicy::Off,
            (Role::Relay, None) if self.certificates.is_empty() => TlsPolicy::Off,
            (_, Some(TlsMode::Optional)) | (Role::Relay, None) => TlsPolicy::Optional,
        }
    }
}

/// Reads a list of keywords of extensions.
pub(super) fn extension_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Extension>, D::Error> {
    struct Keyword(Extension);

    impl<'de> Deserialize<'de> for Keyword {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let parse = |keyword: &str| {
                Extension::from_keyword(keyword).ok_or_else(|| {
                    let known = Extension::ALL.map(Extension::keyword).join(", ");
                    format!("not an extension that could be offered ({known})")
                })
            };
            deserializer.deserialize_str(Parsed { expecting: "a keyword", parse }).map(Self)
        }
    }

    let keywords = Vec::<Keyword>::deserialize(deserializer)?;
    Ok(keywords.into_iter().map(|Keyword(extension)| extension).collect())
}

/// The same for a list that may be absent.
pub(super) fn optional_extension_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Extension>>, D::Error> {
    extension_list(deserializer).map(Some)
}
