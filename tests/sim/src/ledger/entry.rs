//! What the ledger has entries of.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ringpost_protocol::notify::Notify;

/// Which recipient of which message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Number of the message, from 0, in the order of [`begin`](super::Ledger::begin).
    pub message: u32,
    /// Number of the recipient, from 0, in the order of RCPT.
    pub recipient: u16,
}

/// Who an address of the world is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// A recipient.
    Recipient(Key),
    /// The originator of a message.
    Originator(u32),
}

impl Party {
    /// Reads an address, with or without brackets.
    pub fn read(address: &str) -> Option<Self> {
        let address = address.trim_start_matches('<').trim_end_matches('>');
        let (local, _) = address.split_once('@')?;
        if let Some(number) = local.strip_prefix('s') {
            return number.parse().ok().map(Self::Originator);
        }
        let (message, recipient) = local.strip_prefix('m')?.split_once('.')?;
        let key = Key { message: message.parse().ok()?, recipient: recipient.parse().ok()? };
        Some(Self::Recipient(key))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}.{}", self.message, self.recipient)
    }
}

/// What tells one content from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint {
    /// Octets.
    pub len: usize,
    /// Checksum of all of them.
    pub sum: u64,
}

impl Fingerprint {
    /// Of a whole content.
    pub fn of(content: &[u8]) -> Self {
        // FNV-1a, eight octets at a time: nobody forges anything here.
        let mut sum = 0xcbf2_9ce4_8422_2325_u64;
        let mut step =
            |word: u64| sum = (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        let (words, rest) = content.as_chunks::<8>();
        for word in words {
            step(u64::from_le_bytes(*word));
        }
        for octet in rest {
            step(u64::from(*octet));
        }
        Self { len: content.len(), sum }
    }
}

/// What a run promised and did not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule, in a few words that stay the same.
    pub rule: &'static str,
    /// What exactly happened.
    pub text: String,
    /// When, since the start of the run.
    pub at: Duration,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:.3} s] {}: {}", self.at.as_secs_f64(), self.rule, self.text)
    }
}

/// How a life of the server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifeEnd {
    /// It stopped as it was told, with all shards able to write.
    Clean,
    /// It crashed, or could not write to the end.
    Crash,
}

/// From a start of the server to its end.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// When it began.
    pub began: Instant,
    /// When and how it ended.
    pub ended: Option<(Instant, LifeEnd)>,
}

/// One transaction that a remote host took responsibility for.
#[derive(Debug, Clone)]
pub struct Taking {
    /// Of which message.
    pub message: u32,
    /// Whom it is for.
    pub recipients: Vec<u16>,
    /// The life of the server when its content was asked for.
    pub life: u32,
    /// When the host asked for the content: no client that has given up sends any after that.
    pub begun: Instant,
    /// When it was taken.
    pub at: Instant,
    /// The code it was answered with, if that was a reply.
    pub told: Option<u16>,
    /// When the client was seen to know the answer, because it said something after it.
    pub confirmed: Option<Instant>,
    /// Whether the host had offered DSN, and so reports itself.
    pub reports: bool,
    /// Whether it came over TLS, and then whether the certificate was right for the host.
    pub tls: Option<bool>,
}

impl Taking {
    /// In words, with times since the start of the run.
    pub(super) fn describe(&self, start: Instant) -> String {
        let since = |at: Instant| at.saturating_duration_since(start).as_secs_f64();
        format!(
            "life {}, begun {:.3}, taken {:.3}, told {:?}, known {:.3?}",
            self.life,
            since(self.begun),
            since(self.at),
            self.told,
            self.confirmed.map(since)
        )
    }

    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.is_some() && self.told.is_some_and(|code| code / 100 == 2)
    }
}

/// What became of a recipient in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FateKind {
    /// A remote host has it.
    Delivered,
    /// It failed for good.
    Bounced,
    /// Its time was over.
    Expired,
    /// An operator removed it.
    Removed,
}

/// What became of a recipient in the end, as the event records have it.
#[derive(Debug, Clone, Copy)]
pub struct Fate {
    /// Which end.
    pub kind: FateKind,
    /// When the record of it came.
    pub at: Instant,
}

/// One recipient of one message.
#[derive(Debug, Clone, Default)]
pub struct Recipient {
    /// The address, without brackets.
    pub address: String,
    /// Whether the server said yes to it at RCPT.
    pub accepted: bool,
    /// Of what RCPT has asked to be told, if it did.
    pub notify: Option<Notify>,
    /// Numbers of the takings it is in.
    pub takings: Vec<usize>,
    /// Codes of the replies that remote hosts refused it with for good.
    pub refusals: Vec<u16>,
    /// Whether a host has sent replies that could be taken for others.
    pub confused: bool,
    /// What the event records say became of it.
    pub fate: Option<Fate>,
    /// Since when a durable image has it settled.
    pub settled: Option<Instant>,
}

impl Recipient {
    /// Of what the originator is to be told.
    pub fn asked(&self) -> Notify {
        self.notify.unwrap_or(Notify::DEFAULT)
    }

    /// The domain of the address.
    pub fn domain(&self) -> &str {
        self.address.split_once('@').map_or("", |(_, domain)| domain)
    }
}

/// Where a message comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An injector sent it.
    Injector,
    /// The server reports on another message.
    Report {
        /// Which.
        about: u32,
        /// Which recipients of it, as the event records have it; `true` when it failed for good.
        expects: BTreeMap<u16, bool>,
        /// The same, as the report itself says.
        says: Option<BTreeMap<u16, bool>>,
    },
}

/// A message: an injector's, or a report of the server.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Message {
    /// Where it comes from.
    pub origin: Origin,
    /// The originator's address; empty when null.
    pub reverse_path: String,
    /// Whom it is for, in the order of RCPT.
    pub recipients: Vec<Recipient>,
    /// What it consists of; `None` for a report until one is seen.
    pub content: Option<Fingerprint>,
    /// What a report was made into for hosts without 8BITMIME, where it has octets above 127; `None` until
    /// one is seen.
    pub seven_bit: Option<Fingerprint>,
    /// Whether it has octets above 127.
    pub eight_bit: bool,
    /// Whether it is octets that are no lines.
    pub binary: bool,
    /// The client it is sent for, if that is not who sends it.
    pub client: Option<IpAddr>,
    /// Whether it came by SMTPUTF8 with a header section outside of ASCII.
    pub utf8: bool,
    /// Whether it has REQUIRETLS.
    pub requires_tls: bool,
    /// Whether it says that it may go on without TLS.
    pub is_tls_optional: bool,
    /// How urgent it is.
    pub priority: i8,
    /// When the injector began with MAIL: its lifetime begins no earlier.
    pub begun: Option<Instant>,
    /// When the injector began to send the final dot.
    pub sent: Option<Instant>,
    /// Before when it must not be delivered.
    pub not_before: Option<Instant>,
    /// On whose behalf it is sent, if that was said.
    pub tenant: Option<String>,
    /// When the injector had the whole of a 250.
    pub acked: Option<Instant>,
    /// The queue id, if it is known.
    pub queue_id: Option<String>,
    /// When the event record came that says it was received.
    pub received: Option<Instant>,
    /// The life of the server that took it, or may have.
    pub life: u32,
}

impl Message {
    /// Whether the server has said that it has the message, in one way or another.
    pub fn is_ours(&self) -> bool {
        self.acked.is_some() || self.received.is_some()
    }

    /// Whether it is a report of the server.
    pub fn is_report(&self) -> bool {
        self.origin != Origin::Injector
    }

    /// The numbers of the recipients as the server counts them: only those that it accepted.
    pub fn accepted(&self) -> impl Iterator<Item = (u16, &Recipient)> {
        (0..).zip(&self.recipients).filter(|(_, recipient)| recipient.accepted)
    }
}

/// What an operator had removed.
#[derive(Debug, Clone)]
pub struct Purge {
    /// The domain; `None` for all.
    pub domain: Option<String>,
    /// When it was ordered.
    pub at: Instant,
}

/// What was told to the server that may make it bounce mail, beside replies to recipients.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Causes {
    /// Names of which a name server has said that no mail can go there, or that they do not exist.
    pub no_way: BTreeSet<String>,
    /// Hosts that a name server has named as exchangers, by domain.
    pub exchangers: BTreeMap<String, BTreeSet<String>>,
    /// Codes of greetings and replies to EHLO, HELO and `MAIL FROM:<>` that refused for good.
    pub sessions: BTreeSet<u16>,
    /// Replies to EHLO that a confused client takes for those to a MAIL which the host has not read.
    pub out_of_step: BTreeSet<u16>,
    /// Codes with which reports on messages were refused, or none if replies were confused.
    pub reports: BTreeSet<(u32, Option<u16>)>,
    /// Whether a host did not offer 8BITMIME.
    pub lacks_eight_bit: bool,
    /// Whether a host did not offer BINARYMIME.
    pub lacks_binary: bool,
    /// Whether a host did not offer SMTPUTF8.
    pub lacks_utf8: bool,
    /// Whether a host that is who it claims to be did not offer REQUIRETLS.
    pub lacks_requiretls: bool,
    /// The least SIZE that a host has offered.
    pub size_min: Option<usize>,
}

impl Causes {
    /// Notes that mail for `name` was said to have no way.
    pub fn no_way(&mut self, name: &str) {
        if !self.no_way.contains(name) {
            self.no_way.insert(name.to_owned());
        }
    }

    /// Whether the name servers have ever said that `domain` has no way.
    pub fn has_no_way(&self, domain: &str) -> bool {
        self.no_way.contains(domain)
            || self.exchangers.get(domain).is_some_and(|hosts| {
                hosts.iter().any(|host| host.is_empty() || self.no_way.contains(host))
            })
    }
}
