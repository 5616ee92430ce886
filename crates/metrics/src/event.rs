//! Event records: what happened to a message and to each of its recipients.
//!
//! One record is one JSON object on one line. The fields borrow from whatever the driver has at hand and
//! are encoded straight into a buffer that it keeps, so that a record costs no allocation.
//! Every record has a `time`, a `type`, an `id` and a `record`. After a crash a record may come twice, but
//! none is missing: a reader drops those of which it has seen the `record` before. It is the queue id
//! for what happened to a message as a whole; with `.` and the number of the recipient, from 0, for what
//! became of that in the end; and with `.` and the number of the attempt behind that for a deferral, or
//! with `.delayed` for a warning.

use std::fmt::{self, Display};

use crate::json::JsonObject;

/// Something that can be displayed, borrowed for as long as the record lives.
pub type Text<'a> = &'a dyn Display;

/// One event, with the time at which it was appended to the queue's log.
#[derive(Clone, Copy)]
pub struct EventRecord<'a> {
    /// Milliseconds since 1970.
    pub time_unix_ms: u64,
    /// What happened.
    pub event: Event<'a>,
}

/// What happened.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A message entered the queue: from now on we are responsible for it.
    Received(Reception<'a>),
    /// A recipient was delivered.
    Delivered {
        /// The attempt and its outcome.
        settlement: Settlement<'a>,
        /// Queue id of the DSN, when the client has asked for one and the remote does not send it.
        dsn_id: Option<Text<'a>>,
    },
    /// A recipient was deferred.
    Deferred {
        /// The attempt and its outcome.
        settlement: Settlement<'a>,
        /// When it is tried again, in milliseconds since 1970.
        due_unix_ms: u64,
    },
    /// The originator was told that a recipient is late; it is still being tried.
    Delayed {
        /// The last attempt that was made for it, or that its site has seen.
        settlement: Settlement<'a>,
        /// Queue id of the DSN.
        dsn_id: Option<Text<'a>>,
    },
    /// A recipient failed for good.
    Bounced {
        /// The attempt and its outcome.
        settlement: Settlement<'a>,
        /// Queue id of the DSN, or `None` when none is due (null reverse-path, or NOTIFY without
        /// FAILURE).
        dsn_id: Option<Text<'a>>,
    },
    /// A recipient was still undelivered at the end of its lifetime.
    Expired {
        /// The last attempt and its outcome.
        settlement: Settlement<'a>,
        /// Queue id of the DSN, or `None` when none is due, as above.
        dsn_id: Option<Text<'a>>,
    },
    /// An operator removed recipients from the queue.
    Purged(Removal<'a>),
}

/// What an operator removed from the queue of one shard.
#[derive(Clone, Copy)]
pub struct Removal<'a> {
    /// A queue id of its own; no message has it.
    pub id: Text<'a>,
    /// The user who ordered it, by number, if the system told.
    pub user: Option<u32>,
    /// The host that the recipients were at; `None` for any.
    pub host: Option<Text<'a>>,
    /// Only messages received before, in milliseconds since 1970; `None` for all.
    pub received_before_unix_ms: Option<u64>,
    /// Recipients removed.
    pub recipients: u64,
    /// Messages that left the queue with them.
    pub messages: u64,
}

/// How a message came in.
#[derive(Clone, Copy)]
pub struct Reception<'a> {
    /// Queue id.
    pub id: Text<'a>,
    /// Argument of MAIL without brackets; empty when null.
    pub reverse_path: Text<'a>,
    /// Number of accepted recipients.
    pub recipients: u64,
    /// Octets of content, our `Received` field included.
    pub size: u64,
    /// Address of the client.
    pub client: Text<'a>,
    /// Address of the proxy or gateway that has told of the client, if one has.
    pub proxy: Option<Text<'a>>,
    /// As whom the client has authenticated itself with a gateway that speaks for it.
    pub login: Option<Text<'a>>,
    /// Argument of EHLO or HELO.
    pub helo: Text<'a>,
    /// `ESMTP` or `SMTP`, or `internal` for messages of our own.
    pub protocol: &'a str,
    /// The user that the client has shown to be.
    pub user: Option<&'a str>,
    /// What the message is known by.
    pub labels: EventLabels<'a>,
    /// The listener it came in by; `None` for messages of our own.
    pub listener: Option<&'a str>,
    /// Version and cipher suite, if it came over TLS.
    pub tls: Option<(&'a str, &'a str)>,
    /// When its delivery begins, if the client wants that later, in milliseconds since 1970.
    pub hold_until_unix_ms: Option<u64>,
    /// How urgent it is, −9 to 9; told unless it is 0.
    pub priority: i8,
    /// Whether its sender asks that it goes on without TLS rather than not at all; told if so.
    pub tls_optional: bool,
    /// By when it is to be delivered, in milliseconds since 1970, and `return` or `notify` for what then; if the
    /// client has said so.
    pub deliver_by: Option<(u64, &'a str)>,
}

/// What a message is known by.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventLabels<'a> {
    /// On whose behalf it is sent: the tenant of the user, or the one that its header had.
    pub tenant: Option<&'a str>,
    /// The campaign that its header had.
    pub campaign: Option<&'a str>,
}

/// What an attempt meant for one recipient.
#[derive(Clone, Copy)]
pub struct Settlement<'a> {
    /// Queue id.
    pub id: Text<'a>,
    /// What the message is known by.
    pub labels: EventLabels<'a>,
    /// Argument of MAIL without brackets; empty when null.
    pub reverse_path: Text<'a>,
    /// Argument of RCPT without brackets.
    pub forward_path: Text<'a>,
    /// Octets of content.
    pub size: u64,
    /// Name of the site, if the destination was resolved.
    pub site: Option<Text<'a>>,
    /// Name of the MX host or smarthost, if one was tried.
    pub mx_host: Option<Text<'a>>,
    /// Address and port of the remote, if one was tried.
    pub remote: Option<Text<'a>>,
    /// The step that decided, in lower case (`connect`, `rcpt`, `final_reply`, `dns`, …).
    pub stage: &'a str,
    /// The remote's reply, or our own reason in the same shape.
    pub reply: Option<EventReply<'a>>,
    /// The rule that has decided, if one has.
    pub rule: Option<&'a str>,
    /// Number of the recipient within the message, from 0.
    pub recipient: u64,
    /// Attempts made for this recipient, this one included.
    pub attempts: u64,
    /// From reception to now, in milliseconds.
    pub queued_ms: u64,
    /// From MAIL to the deciding reply, in milliseconds, if there was a transaction.
    pub transaction_ms: Option<u64>,
    /// Version and cipher suite of the connection, and whether the certificate was verified; `None`
    /// in plain text, and without a transaction.
    pub tls: Option<(&'a str, &'a str, bool)>,
}

/// A reply as events carry it.
#[derive(Clone, Copy)]
pub struct EventReply<'a> {
    /// Reply code; `None` when we decided without a reply.
    pub code: Option<u16>,
    /// Enhanced status code.
    pub enhanced: Option<Text<'a>>,
    /// Text of the reply, lines joined with a line feed.
    pub text: Text<'a>,
}

impl EventRecord<'_> {
    /// Appends the record as one line of JSON, ending in a line feed.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut object = JsonObject::open(out);
        object.time("time", self.time_unix_ms);
        object.string("type", &self.event.type_name());
        match &self.event {
            Event::Received(reception) => reception.encode(&mut object),
            Event::Deferred { settlement, due_unix_ms } => {
                settlement.encode(&mut object, &format_args!(".{}", settlement.attempts));
                object.time("due", *due_unix_ms);
            }
            Event::Delayed { settlement, dsn_id } => {
                settlement.encode(&mut object, &".delayed");
                optional(&mut object, "dsn_id", *dsn_id);
            }
            Event::Delivered { settlement, dsn_id }
            | Event::Bounced { settlement, dsn_id }
            | Event::Expired { settlement, dsn_id } => {
                settlement.encode(&mut object, &"");
                optional(&mut object, "dsn_id", *dsn_id);
            }
            Event::Purged(removal) => removal.encode(&mut object),
        }
        object.close();
        out.push(b'\n');
    }
}

impl Event<'_> {
    /// The value of the `type` field.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Received(_) => "received",
            Self::Delivered { .. } => "delivered",
            Self::Deferred { .. } => "deferred",
            Self::Delayed { .. } => "delayed",
            Self::Bounced { .. } => "bounced",
            Self::Expired { .. } => "expired",
            Self::Purged(_) => "purged",
        }
    }
}

impl Removal<'_> {
    fn encode(&self, object: &mut JsonObject<'_>) {
        object.string("id", self.id).string("record", self.id);
        if let Some(user) = self.user {
            object.number("user", u64::from(user));
        }
        optional(object, "host", self.host);
        if let Some(before) = self.received_before_unix_ms {
            object.time("received_before", before);
        }
        object.number("recipients", self.recipients).number("messages", self.messages);
    }
}

impl fmt::Debug for Removal<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Removal({} recipients)", self.recipients)
    }
}

impl Reception<'_> {
    fn encode(&self, object: &mut JsonObject<'_>) {
        object
            .string("id", self.id)
            .string("record", self.id)
            .string("reverse_path", self.reverse_path)
            .number("recipients", self.recipients)
            .number("size", self.size)
            .string("client", self.client)
            .string("helo", self.helo)
            .string("protocol", &self.protocol);
        optional(object, "proxy", self.proxy);
        optional(object, "login", self.login);
        if let Some(listener) = self.listener {
            object.string("listener", &listener);
        }
        if let Some(user) = self.user {
            object.string("user", &user);
        }
        self.labels.encode(object);
        if let Some((version, cipher)) = self.tls {
            object.string("tls_version", &version).string("tls_cipher", &cipher);
        }
        if let Some(hold_until_unix_ms) = self.hold_until_unix_ms {
            object.time("hold_until", hold_until_unix_ms);
        }
        if self.priority != 0 {
            object.signed("priority", self.priority.into());
        }
        if self.tls_optional {
            object.bool("tls_optional", true);
        }
        if let Some((unix_ms, mode)) = self.deliver_by {
            object.time("deliver_by", unix_ms).string("deliver_by_mode", &mode);
        }
    }
}

impl EventLabels<'_> {
    fn encode(&self, object: &mut JsonObject<'_>) {
        if let Some(tenant) = self.tenant {
            object.string("tenant", &tenant);
        }
        if let Some(campaign) = self.campaign {
            object.string("campaign", &campaign);
        }
    }
}

impl Settlement<'_> {
    /// Adds the fields; `suffix` tells apart what can be said more than once of a recipient.
    fn encode(&self, object: &mut JsonObject<'_>, suffix: &dyn Display) {
        let (id, recipient) = (self.id, self.recipient);
        object.string("id", id).string("record", &format_args!("{id}.{recipient}{suffix}"));
        object
            .string("reverse_path", self.reverse_path)
            .string("forward_path", self.forward_path)
            .number("size", self.size);
        self.labels.encode(object);
        optional(object, "site", self.site);
        optional(object, "mx_host", self.mx_host);
        optional(object, "remote", self.remote);
        object.string("stage", &self.stage);
        if let Some(reply) = &self.reply {
            object.object("reply", |inner| reply.encode(inner));
        }
        if let Some(rule) = self.rule {
            object.string("rule", &rule);
        }
        object.number("attempts", self.attempts).number("queued_ms", self.queued_ms);
        if let Some(transaction_ms) = self.transaction_ms {
            object.number("transaction_ms", transaction_ms);
        }
        if let Some((version, cipher, verified)) = self.tls {
            object.string("tls_version", &version).string("tls_cipher", &cipher);
            object.bool("tls_verified", verified);
        }
    }
}

impl EventReply<'_> {
    fn encode(&self, object: &mut JsonObject<'_>) {
        if let Some(code) = self.code {
            object.number("code", u64::from(code));
        }
        optional(object, "enhanced", self.enhanced);
        object.string("text", self.text);
    }
}

fn optional(object: &mut JsonObject<'_>, key: &str, value: Option<Text<'_>>) {
    if let Some(value) = value {
        object.string(key, value);
    }
}

impl fmt::Debug for EventRecord<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = Vec::new();
        self.encode(&mut line);
        formatter.write_str(String::from_utf8_lossy(&line).trim_end())
    }
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        EventRecord { time_unix_ms: 0, event: *self }.fmt(formatter)
    }
}

impl fmt::Debug for Reception<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Reception({})", self.id)
    }
}

impl fmt::Debug for Settlement<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Settlement({}, {})", self.id, self.forward_path)
    }
}

impl fmt::Debug for EventReply<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "EventReply({:?}, {})", self.code, self.text)
    }
}
