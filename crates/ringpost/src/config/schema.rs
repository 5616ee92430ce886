//! The keys of the file, with their types and defaults.
//!
//! Every section is a struct whose `Default` is what an absent key means; `deploy/ringpost.toml` says the
//! same to operators, and tests compare the two. Unknown keys are errors.

mod listener;
mod outbound_auth;
mod outbound_tls;
mod stress;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ringpost_protocol::address::Host;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::limits::DSN_RETURN_SIZE_MAX;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

pub use self::listener::{ListenerSection, Role, TlsMode};
use self::listener::{extension_list, optional_extension_list};
pub use self::outbound_auth::RouteAuth;
pub use self::outbound_tls::{OutboundTls, TlsVersionMin};
pub use self::stress::StressSection;
pub use super::aliases::AliasTable;
use super::auth::AuthSection;
use super::retry::Retry;
use super::smarthost::SmarthostAddress;
use super::units::{self, Parsed};
use crate::tls::material::CertificateFiles;

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The process.
    pub server: ServerSection,
    /// Where mail comes in, by a name of the operator's choice. At least one.
    pub listener: BTreeMap<String, ListenerSection>,
    /// Names of ours and addresses that stand for others. Default: none.
    pub aliases: AliasTable,
    /// The log.
    pub queue: QueueSection,
    /// How mail goes out.
    pub delivery: DeliverySection,
    /// Ways and times by domain. Default: none; all mail goes by MX.
    pub route: Vec<RouteSection>,
    /// What counts as stress, and what holds then.
    pub stress: StressSection,
    /// Users, and how they show who they are.
    pub auth: AuthSection,
    /// How names are looked up.
    pub dns: DnsSection,
    /// The control thread's HTTP listener.
    pub control: ControlSection,
    /// The event log.
    pub events: EventsSection,
    /// What the process says about itself.
    pub log: LogSection,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerSection {
    /// Our name in greetings, EHLO, `Received` and DSNs. Default: the system's host name.
    pub hostname: Option<String>,
    /// The CPU cores that carry mail. Default: all that the process may use.
    pub cores: Cores,
    /// The scheduling class of the mail threads. Default: batch.
    pub scheduling: Scheduling,
    /// What the mail threads run on. Default: uring.
    pub runtime: Backend,
    /// How long a stop waits for sessions and transactions. Default: 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub shutdown_timeout: Duration,
    /// Bytes of memory for the process. Default: the limit of its control group, or four fifths of
    /// the machine's memory.
    #[serde(deserialize_with = "units::optional_size")]
    pub memory_max: Option<u64>,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            hostname: None,
            cores: Cores::All,
            scheduling: Scheduling::Batch,
            runtime: Backend::Uring,
            shutdown_timeout: Duration::from_secs(10),
            memory_max: None,
        }
    }
}

/// Which CPU cores carry mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cores {
    /// Every core that the process may use.
    All,
    /// The first so many of them.
    Count(usize),
    /// These.
    List(Vec<usize>),
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CoresVisitor;

        impl<'de> Visitor<'de> for CoresVisitor {
            type Value = Cores;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("\"all\", a number of cores, or a list of core numbers")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Cores, E> {
                if text == "all" {
                    return Ok(Cores::All);
                }
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Cores, E> {
                usize::try_from(count)
                    .map(Cores::Count)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(count), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Cores, A::Error> {
                let mut cores = Vec::new();
                while let Some(core) = list.next_element()? {
                    cores.push(core);
                }
                Ok(Cores::List(cores))
            }
        }

        deserializer.deserialize_any(CoresVisitor)
    }
}

/// The scheduling class of the mail threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduling {
    /// `SCHED_BATCH`: no wake-up preemption, so that a wake-up carries more work.
    Batch,
    /// The kernel's default.
    Normal,
}

/// What the mail threads run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// The lean executor of this project, on `io_uring` alone.
    Uring,
    /// The executor of the glommio library.
    Glommio,
}

/// `[queue]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueueSection {
    /// Where the logs of all shards are. Default: `/var/spool/ringpost`.
    pub directory: PathBuf,
    /// Number of shards, fixed when the directory is created. Default: the number of cores then.
    pub shards: Option<u16>,
    /// Bytes in one segment of a log. Default: 64 MiB.
    #[serde(deserialize_with = "units::size")]
    pub segment_size: u64,
    /// Bytes in the log of one shard and its checkpoints. Default: 16 GiB.
    #[serde(deserialize_with = "units::size")]
    pub size_max: u64,
    /// Percent of the file system that stay free, at least two segments. Default: 5; at most 90.
    pub free_space_min_percent: u8,
    /// Percent of free space below which intake is slow. Default: 10; at most 90.
    pub free_space_slow_percent: u8,
    /// Inodes of the file system that stay free. Default: 1000.
    pub free_inodes_min: u64,
    /// Messages queued on one core. Default: 10,000,000.
    pub messages_per_core_max: u64,
    /// Recipients queued on one core. Default: 20,000,000.
    pub recipients_per_core_max: u64,
    /// How long the reply to MAIL is held back when a limit is near. Default: 100 ms; at most 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub slow_delay: Duration,
    /// Bytes of a log that a restart may have to read before a checkpoint of the index is written.
    /// Default: 256 MiB.
    #[serde(deserialize_with = "units::size")]
    pub checkpoint_interval: u64,
    /// How long delivery is tried. Default: 5 d.
    #[serde(deserialize_with = "units::duration")]
    pub lifetime: Duration,
    /// How long the delivery of reports is tried, that is of messages with the null reverse-path.
    /// Default: 5 d.
    #[serde(deserialize_with = "units::duration")]
    pub bounce_lifetime: Duration,
    /// After which time the originator is told that a message is delayed. Default: 0, never.
    #[serde(deserialize_with = "units::duration")]
    pub delay_warning: Duration,
    /// Octets of a message that a report of failure returns as a whole, where the client has asked for
    /// that (`RET=FULL`). Default: 256 KiB; never more than an eighth of a
    /// segment.
    #[serde(deserialize_with = "units::size")]
    pub return_size_max: u64,
    /// Content kept in memory on one core for the first delivery. Default: 64 MiB.
    #[serde(deserialize_with = "units::size")]
    pub content_cache_size_max: u64,
}

impl Default for QueueSection {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("/var/spool/ringpost"),
            shards: None,
            segment_size: 64 << 20,
            size_max: 16 << 30,
            free_space_min_percent: 5,
            free_space_slow_percent: 10,
            free_inodes_min: 1000,
            messages_per_core_max: 10_000_000,
            recipients_per_core_max: 20_000_000,
            slow_delay: Duration::from_millis(100),
            checkpoint_interval: 256 << 20,
            lifetime: Duration::from_hours(5 * 24),
            bounce_lifetime: Duration::from_hours(5 * 24),
            delay_warning: Duration::ZERO,
            return_size_max: DSN_RETURN_SIZE_MAX,
            content_cache_size_max: 64 << 20,
        }
    }
}

/// `[delivery]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliverySection {
    /// Our name in EHLO. Default: `server.hostname`.
    pub helo_name: Option<String>,
    /// Port of hosts found by MX. Default: 25.
    pub port: u16,
    /// Connections to one site from the whole server. Default: 20.
    pub connections_per_site_max: usize,
    /// Transactions on one connection. Default: 1000.
    pub transactions_per_connection_max: u32,
    /// Recipients in one transaction. Default: 100.
    pub recipients_per_transaction_max: usize,
    /// How long a connection without work is kept. Default: 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub idle_timeout: Duration,
    /// How long a connection may take to open. Default: 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// Wait for the greeting. Default: 5 min (RFC 5321 §4.5.3.2.1).
    #[serde(deserialize_with = "units::duration")]
    pub greeting_timeout: Duration,
    /// Wait for the reply to EHLO or HELO. Default: 5 min.
    #[serde(deserialize_with = "units::duration")]
    pub ehlo_timeout: Duration,
    /// Wait for the reply to MAIL. Default: 5 min (RFC 5321 §4.5.3.2.2).
    #[serde(deserialize_with = "units::duration")]
    pub mail_timeout: Duration,
    /// Wait for the reply to RCPT. Default: 5 min (RFC 5321 §4.5.3.2.3).
    #[serde(deserialize_with = "units::duration")]
    pub rcpt_timeout: Duration,
    /// Wait for the reply to DATA. Default: 2 min (RFC 5321 §4.5.3.2.4).
    #[serde(deserialize_with = "units::duration")]
    pub data_timeout: Duration,
    /// How long a block of content may take to send. Default: 3 min (RFC 5321 §4.5.3.2.5).
    #[serde(deserialize_with = "units::duration")]
    pub data_block_timeout: Duration,
    /// Wait for the reply to the final dot. Default: 10 min (RFC 5321 §4.5.3.2.6).
    #[serde(deserialize_with = "units::duration")]
    pub final_reply_timeout: Duration,
    /// Extensions that are not used, though next hops offer them. Default: none.
    #[serde(deserialize_with = "extension_list")]
    pub extensions_off: Vec<Extension>,
    /// Delays after the first, second, … attempt; the last one repeats. Or a rule for them.
    pub retry: Retry,
    /// Random spread of each delay, in percent either way. Default: 10; at most 50.
    pub retry_jitter_percent: u8,
    /// What is done with 8-bit content for a host without 8BITMIME. Default: convert.
    pub eight_bit: EightBit,
    /// What is known of the replies of certain receivers, in a file of rules. Default: none.
    pub rules: Option<PathBuf>,
    /// How much TLS there has to be. Default: opportunistic.
    pub tls: OutboundTls,
    /// Whether that gives way to senders who ask for it (`TLS-Required: No`, RFC 8689). Default: no.
    pub tls_waivable: bool,
    /// The lowest version of TLS that is spoken. Default: 1.2.
    pub tls_version_min: TlsVersionMin,
    /// Authorities to verify certificates by, in PEM. Default: those of the system.
    pub tls_ca_file: Option<PathBuf>,
    /// The certificate to show to hosts that ask for one. Default: none.
    pub tls_certificate: Option<CertificateFiles>,
    /// How long a TLS handshake may take. Default: 1 min.
    #[serde(deserialize_with = "units::duration")]
    pub tls_handshake_timeout: Duration,
    /// How long mail goes in plain text to an address at which opportunistic TLS has failed; 0 is not
    /// longer than once. Default: 10 min.
    #[serde(deserialize_with = "units::duration")]
    pub tls_broken_time: Duration,
    /// Such addresses that one core remembers. Default: 4096.
    pub tls_broken_per_core_max: usize,
    /// Hosts whose TLS sessions one core can resume; 0 resumes none. Default: 256.
    pub tls_sessions_per_core_max: usize,
    /// IP versions to deliver over. Default: any.
    pub address_family: AddressFamily,
    /// Whether hosts found by MX may have loopback or link-local addresses. Default: no.
    pub allow_loopback: bool,
    /// Whether hosts found by MX may have private addresses. Default: yes.
    pub allow_private: bool,
}

impl Default for DeliverySection {
    fn default() -> Self {
        Self {
            helo_name: None,
            port: 25,
            connections_per_site_max: 20,
            transactions_per_connection_max: 1000,
            recipients_per_transaction_max: 100,
            idle_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(30),
            greeting_timeout: Duration::from_mins(5),
            ehlo_timeout: Duration::from_mins(5),
            mail_timeout: Duration::from_mins(5),
            rcpt_timeout: Duration::from_mins(5),
            data_timeout: Duration::from_mins(2),
            data_block_timeout: Duration::from_mins(3),
            final_reply_timeout: Duration::from_mins(10),
            extensions_off: Vec::new(),
            retry: Retry::default(),
            retry_jitter_percent: 10,
            eight_bit: EightBit::Convert,
            rules: None,
            tls: OutboundTls::Opportunistic,
            tls_waivable: false,
            tls_version_min: TlsVersionMin::V1_2,
            tls_ca_file: None,
            tls_certificate: None,
            tls_handshake_timeout: Duration::from_mins(1),
            tls_broken_time: Duration::from_mins(10),
            tls_broken_per_core_max: 4096,
            tls_sessions_per_core_max: 256,
            address_family: AddressFamily::Any,
            allow_loopback: false,
            allow_private: true,
        }
    }
}

/// What is done with 8-bit content for a host without 8BITMIME (RFC 6152 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EightBit {
    /// It is made 7-bit; what cannot be is bounced.
    Convert,
    /// It is bounced.
    Bounce,
    /// It is sent as it is, which no host has to understand.
    SendAnyway,
}

/// IP versions to deliver over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressFamily {
    /// Both.
    Any,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// `[[route]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSection {
    /// The domain that it is for.
    pub domain: RouteDomain,
    /// Where its mail goes. Default: to the MX hosts of the domain.
    pub smarthost: Option<SmarthostAddress>,
    /// When its deferred recipients are tried again. Default: `delivery.retry`.
    pub retry: Option<Retry>,
    /// How long its recipients are tried; can only shorten what else holds. Default: no shorter.
    #[serde(default, deserialize_with = "units::optional_duration")]
    pub lifetime: Option<Duration>,
    /// After which time originators are told of a delay; 0 is never. Default: `queue.delay_warning`.
    #[serde(default, deserialize_with = "units::optional_duration")]
    pub delay_warning: Option<Duration>,
    /// How much TLS there has to be. Default: `delivery.tls`.
    pub tls: Option<OutboundTls>,
    /// Whether that gives way to senders who ask for it. Default: `delivery.tls_waivable`.
    pub tls_waivable: Option<bool>,
    /// Whether TLS comes before the greeting. Default: no.
    #[serde(default)]
    pub tls_implicit: bool,
    /// The name that certificates have to have. Default: that of the host.
    pub tls_name: Option<String>,
    /// The lowest version of TLS. Default: `delivery.tls_version_min`.
    pub tls_version_min: Option<TlsVersionMin>,
    /// Authorities to verify certificates by. Default: `delivery.tls_ca_file`.
    pub tls_ca_file: Option<PathBuf>,
    /// The certificate to show. Default: `delivery.tls_certificate`.
    pub tls_certificate: Option<CertificateFiles>,
    /// What the smarthost speaks. Default: SMTP.
    #[serde(default)]
    pub protocol: RouteProtocol,
    /// Extensions that are not used there. Default: `delivery.extensions_off`.
    #[serde(default, deserialize_with = "optional_extension_list")]
    pub extensions_off: Option<Vec<Extension>>,
    /// With what to log in at the smarthost. Default: nobody logs in.
    pub auth: Option<RouteAuth>,
}

/// What a smarthost speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteProtocol {
    /// SMTP.
    #[default]
    Smtp,
    /// LMTP (RFC 2033).
    Lmtp,
}

/// What a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteDomain {
    /// All that no other route is for, written `*`.
    Any,
    /// One domain without its subdomains, or one address literal.
    Exact(Host),
}

impl fmt::Display for RouteDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("*"),
            Self::Exact(host) => host.fmt(formatter),
        }
    }
}

impl<'de> Deserialize<'de> for RouteDomain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed {
            expecting: "a domain or \"*\"",
            parse: |text: &str| match text {
                "*" => Ok(Self::Any),
                host => Host::parse(host).map(Self::Exact),
            },
        })
    }
}

/// `[dns]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSection {
    /// Name servers; port 53 where none is given. Default: those of `/etc/resolv.conf`.
    #[serde(deserialize_with = "units::name_servers")]
    pub servers: Vec<SocketAddr>,
    /// Wait for one answer. Default: 5 s.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// How often a question is asked, over all servers. Default: 3.
    pub attempts: u8,
}

impl Default for DnsSection {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(5), attempts: 3 }
    }
}

/// `[control]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlSection {
    /// Address of `/metrics` and `/health`. Default: `127.0.0.1:9925`.
    pub listen: SocketAddr,
    /// Whether `listen` may be an address other than loopback. Default: no.
    pub allow_remote: bool,
}

impl Default for ControlSection {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9925)), allow_remote: false }
    }
}

/// `[events]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsSection {
    /// The event log, in JSON lines. Default: `/var/log/ringpost/events.jsonl`; empty: none.
    pub path: PathBuf,
    /// Segments of a queue's log that may be kept for records the event log does not have yet.
    /// Default: 4; at least 1.
    pub held_segments_max: usize,
}

impl Default for EventsSection {
    fn default() -> Self {
        Self { path: PathBuf::from("/var/log/ringpost/events.jsonl"), held_segments_max: 4 }
    }
}

impl EventsSection {
    /// The file, or `None` when there is no event log.
    pub fn file(&self) -> Option<&PathBuf> {
        (!self.path.as_os_str().is_empty()).then_some(&self.path)
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// Level, or level by module. Default: `info`.
    pub level: String,
    /// How lines look. Default: text.
    pub format: LogFormat,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: String::from("info"), format: LogFormat::Text }
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// With time; for files and terminals.
    Text,
    /// Without time and colour, with a priority in front; for the systemd journal.
    Journal,
}
