//! The account: what became of each recipient of each message.
//!
//! Three parties write into it, each only what it knows itself: injectors what they sent and what they
//! were told, remote hosts what they took and what they answered, and the event records what the
//! server says of it. What contradicts what is already there becomes a [`Violation`] at once; what is
//! missing is found by [`checks`](crate::checks) when the server is at rest.
//!
//! Addresses join the parties: recipient `r` of message `n` is `m<n>.<r>@…`, its originator `s<n>@…`.
//! So no recipient is that of two messages, and a report is known by whom it goes to.

mod entry;
mod tls;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringpost_protocol::notify::Notify;

pub use self::entry::{
    Causes, Fate, FateKind, Fingerprint, Key, Life, LifeEnd, Message, Origin, Party, Purge,
    Recipient, Taking, Violation,
};
pub use self::tls::{Hearing, Level, Rule, Rules};

/// The ledger, as all tasks of a world share it.
pub type SharedLedger = Rc<RefCell<Ledger>>;

/// Violations that are kept; a broken server would give one for each message.
const VIOLATIONS_MAX: usize = 100;

/// How much earlier than asked for a held message may go out.
const HOLD_SLACK: Duration = Duration::from_secs(1);

/// The account of a whole run.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) start: Instant,
    pub(crate) messages: Vec<Message>,
    pub(crate) by_queue_id: BTreeMap<String, u32>,
    pub(crate) takings: Vec<Taking>,
    pub(crate) lives: Vec<Life>,
    pub(crate) purges: Vec<Purge>,
    /// What was demanded of TLS, and since when.
    pub(crate) rules: Vec<(Instant, Rules)>,
    /// Recipients that event records say were removed.
    pub(crate) purged_recipients: u64,
    /// Recipients of messages whose event record does not say which they are.
    pub(crate) strangers: BTreeMap<String, u64>,
    /// Checksum of each event record seen, by its `record`.
    pub(crate) records: BTreeMap<String, u64>,
    /// Event records by type, each counted once.
    pub(crate) counts: BTreeMap<String, u64>,
    /// Why mail may bounce that no reply was given for.
    pub(crate) causes: Causes,
    acks: u64,
    /// At each so-manieth acknowledgement [`wants_look`](Self::wants_look) is set. Default: never.
    pub look_period: u64,
    /// Whether the disk is to be looked at before time goes on.
    pub wants_look: bool,
    /// Whether the wall clock of the run goes as the other one does.
    pub has_steady_clock: bool,
    /// Whether the server adds a `Date` and a `Message-ID` to messages that have none, and takes out the
    /// field that names a tenant.
    pub mends: bool,
    violations: Vec<Violation>,
}

impl Ledger {
    /// An empty account of a run that starts now.
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            messages: Vec::new(),
            by_queue_id: BTreeMap::new(),
            takings: Vec::new(),
            lives: Vec::new(),
            purges: Vec::new(),
            rules: Vec::new(),
            purged_recipients: 0,
            strangers: BTreeMap::new(),
            records: BTreeMap::new(),
            counts: BTreeMap::new(),
            causes: Causes::default(),
            acks: 0,
            look_period: u64::MAX,
            wants_look: false,
            has_steady_clock: true,
            mends: false,
            violations: Vec::new(),
        }
    }

    /// The same, to be shared.
    pub fn shared(start: Instant) -> SharedLedger {
        Rc::new(RefCell::new(Self::new(start)))
    }

    /// What was found wrong so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Notes that something is wrong.
    pub fn violate(&mut self, rule: &'static str, at: Instant, text: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            let at = at.saturating_duration_since(self.start);
            self.violations.push(Violation { rule, text, at });
        }
    }

    /// Notes that the server was started.
    pub fn begin_life(&mut self, now: Instant) {
        self.lives.push(Life { began: now, ended: None });
    }

    /// Notes that the server has ended.
    pub fn end_life(&mut self, now: Instant, how: LifeEnd) {
        if let Some(life) = self.lives.last_mut() {
            life.ended.get_or_insert((now, how));
        }
    }

    /// The number of the server's life, from 1; 0 before the first.
    pub fn life(&self) -> u32 {
        u32::try_from(self.lives.len()).unwrap_or(u32::MAX)
    }

    /// Notes that an operator removes mail; before the server is told to.
    pub fn purge(&mut self, now: Instant, domain: Option<&str>) {
        self.purges.push(Purge { domain: domain.map(str::to_owned), at: now });
    }

    /// The messages, reports included.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The messages that injectors were told are taken.
    pub fn acked(&self) -> usize {
        self.messages.iter().filter(|message| message.acked.is_some()).count()
    }

    /// What has been told that may make the server bounce mail.
    pub fn causes(&mut self) -> &mut Causes {
        &mut self.causes
    }

    /// Enters a message that an injector is about to send; its number.
    ///
    /// `originator` is a domain, or none for the null reverse-path.
    pub fn begin(&mut self, originator: Option<&str>, domains: &[&str]) -> u32 {
        let number = self.next_number();
        let recipients = domains
            .iter()
            .zip(0..)
            .map(|(domain, recipient)| Recipient {
                address: format!("{}@{domain}", Key { message: number, recipient }),
                ..Recipient::default()
            })
            .collect();
        let reverse_path =
            originator.map_or_else(String::new, |domain| format!("s{number}@{domain}"));
        self.messages.push(Message {
            origin: Origin::Injector,
            reverse_path,
            recipients,
            content: None,
            seven_bit: None,
            eight_bit: false,
            binary: false,
            utf8: false,
            requires_tls: false,
            is_tls_optional: false,
            priority: 0,
            client: None,
            begun: None,
            sent: None,
            not_before: None,
            tenant: None,
            acked: None,
            queue_id: None,
            received: None,
            life: self.life(),
        });
        number
    }

    /// Enters what a message consists of.
    pub fn set_content(&mut self, number: u32, content: &[u8]) {
        if let Some(message) = self.message_mut(number) {
            message.content = Some(Fingerprint::of(content));
            message.eight_bit = !content.is_ascii();
        }
    }

    /// Notes that a message has SMTPUTF8, and needs it.
    pub fn mark_utf8(&mut self, number: u32) {
        if let Some(message) = self.message_mut(number) {
            message.utf8 = true;
        }
    }

    /// Notes that a message must not go on without TLS.
    pub fn require_tls(&mut self, number: u32) {
        if let Some(message) = self.message_mut(number) {
            message.requires_tls = true;
        }
    }

    /// Notes that the sender of a message wants it to go on without TLS rather than not at all.
    pub fn waive_tls(&mut self, number: u32) {
        if let Some(message) = self.message_mut(number) {
            message.is_tls_optional = true;
        }
    }

    /// Notes how urgent a message is to be.
    pub fn prioritize(&mut self, number: u32, level: i8) {
        if let Some(message) = self.message_mut(number) {
            message.priority = level;
        }
    }

    /// Notes that a message is octets that are no lines.
    pub fn mark_binary(&mut self, number: u32) {
        if let Some(message) = self.message_mut(number) {
            message.binary = true;
        }
    }

    /// Notes that a message is sent in the name of a client.
    pub fn speak_for(&mut self, number: u32, client: IpAddr) {
        if let Some(message) = self.message_mut(number) {
            message.client = Some(client);
        }
    }

    /// Notes on whose behalf a message is sent.
    pub fn label(&mut self, number: u32, tenant: &str) {
        if let Some(message) = self.message_mut(number) {
            message.tenant = Some(tenant.to_owned());
        }
    }

    /// Notes that the server has been asked to hold a message.
    pub fn hold(&mut self, number: u32, until: Instant) {
        if let Some(message) = self.message_mut(number) {
            message.not_before = Some(until);
        }
    }

    /// Notes that the server has said yes to a recipient.
    pub fn accepted(&mut self, key: Key) {
        if let Some(recipient) = self.recipient_mut(key) {
            recipient.accepted = true;
        }
    }

    /// Notes of what RCPT is about to ask to be told.
    pub fn ask(&mut self, key: Key, notify: Notify) {
        if let Some(recipient) = self.recipient_mut(key) {
            recipient.notify = Some(notify);
        }
    }

    /// Notes that MAIL is about to be sent.
    pub fn mail(&mut self, number: u32, now: Instant) {
        if let Some(message) = self.message_mut(number) {
            message.begun = Some(now);
        }
    }

    /// Notes that the final dot is about to be sent.
    pub fn sent(&mut self, number: u32, now: Instant) {
        let life = self.life();
        if let Some(message) = self.message_mut(number) {
            message.sent = Some(now);
            message.life = life;
        }
    }

    /// Notes that a whole 250 has come, with the queue id in it.
    pub fn ack(&mut self, number: u32, now: Instant, queue_id: &str) {
        self.name(number, queue_id, now);
        if let Some(message) = self.message_mut(number) {
            message.acked = Some(now);
        }
        self.acks += 1;
        self.wants_look |= self.acks.is_multiple_of(self.look_period.max(1));
    }

    /// Notes that an application has waited for the reply to a line, or for the greeting if that is empty, for as
    /// long as it may take. It is owed, unless the server has ended since the connection was opened in `life`:
    /// a machine without power says nothing.
    pub fn owed(&mut self, life: u32, line: &str, now: Instant) {
        let has_ended = self.lives.last().is_none_or(|life| life.ended.is_some());
        if life == self.life() && !has_ended {
            self.violate("a reply is owed", now, format!("to {line:?}"));
        }
    }

    /// Joins a message and a queue id.
    pub(crate) fn name(&mut self, number: u32, queue_id: &str, now: Instant) {
        let is_received = self.strangers.remove(queue_id).is_some();
        let Some(message) = self.message_mut(number) else { return };
        if is_received {
            message.received = Some(now);
        }
        let known = message.queue_id.get_or_insert_with(|| queue_id.to_owned()).clone();
        if known != queue_id {
            let text = format!("message {number} is called {known} and {queue_id}");
            self.violate("one message, two queue ids", now, text);
        }
        let other = *self.by_queue_id.entry(queue_id.to_owned()).or_insert(number);
        if other != number {
            let text = format!("{queue_id} is given to the messages {other} and {number}");
            self.violate("one queue id, two messages", now, text);
        }
    }

    /// The report with a queue id, which is entered if it is new.
    pub(crate) fn report(&mut self, queue_id: &str, about: u32, now: Instant) -> u32 {
        if let Some(&number) = self.by_queue_id.get(queue_id) {
            return number;
        }
        let address =
            self.message(about).map(|about| about.reverse_path.clone()).unwrap_or_default();
        // A report is as urgent as what it tells of.
        let priority = self.message(about).map_or(0, |about| about.priority);
        // RFC 8689 section 5.
        let requires_tls = self.message(about).is_some_and(|about| about.requires_tls);
        let number = self.next_number();
        let origin = Origin::Report { about, expects: BTreeMap::new(), says: None };
        self.messages.push(Message {
            origin,
            reverse_path: String::new(),
            recipients: vec![Recipient { address, accepted: true, ..Recipient::default() }],
            content: None,
            seven_bit: None,
            eight_bit: false,
            binary: false,
            utf8: false,
            requires_tls,
            is_tls_optional: false,
            priority,
            client: None,
            begun: None,
            sent: Some(now),
            not_before: None,
            tenant: None,
            acked: None,
            queue_id: None,
            received: None,
            life: self.life(),
        });
        self.name(number, queue_id, now);
        number
    }

    /// Notes that a remote host has refused a recipient for good.
    pub fn refuse(&mut self, party: Party, code: u16) {
        match party {
            Party::Recipient(key) => {
                if let Some(recipient) = self.recipient_mut(key)
                    && !recipient.refusals.contains(&code)
                {
                    recipient.refusals.push(code);
                }
            }
            // Which report it was is known only with its content.
            Party::Originator(about) => _ = self.causes.reports.insert((about, Some(code))),
        }
    }

    /// Notes that a remote host has refused the originator of a message for good.
    pub fn refuse_sender(&mut self, reverse_path: &str, code: u16) {
        let Some(Party::Originator(number)) = Party::read(reverse_path) else {
            self.causes.sessions.insert(code);
            return;
        };
        let recipients = self.message(number).map_or(0, |message| message.recipients.len());
        for recipient in (0..).take(recipients) {
            self.refuse(Party::Recipient(Key { message: number, recipient }), code);
        }
    }

    /// Notes that a remote host has sent more replies than were asked for.
    pub fn confuse(&mut self, party: Party) {
        match party {
            Party::Recipient(key) => {
                if let Some(recipient) = self.recipient_mut(key) {
                    recipient.confused = true;
                }
            }
            Party::Originator(about) => _ = self.causes.reports.insert((about, None)),
        }
    }

    /// Notes that a remote host has taken a message; returns the number of the taking.
    pub fn take(&mut self, taking: Taking) -> usize {
        let number = self.takings.len();
        let held = self.message(taking.message).and_then(|message| message.not_before);
        // The wall clock that holds are measured by has milliseconds, and deadlines a scan.
        if self.has_steady_clock && held.is_some_and(|until| taking.begun + HOLD_SLACK < until) {
            let text = format!("message {}", taking.message);
            self.violate("delivered before its time", taking.at, text);
        }
        let keys: Vec<Key> = keys_of(&taking).collect();
        self.takings.push(taking);
        for key in keys {
            if let Some(recipient) = self.recipient_mut(key) {
                recipient.takings.push(number);
            }
            self.check_repeat(key, number);
        }
        number
    }

    /// Notes that the client has been seen to know the answer to what was taken.
    pub fn confirm(&mut self, taking: usize, now: Instant) {
        let Some(known) = self.takings.get_mut(taking) else { return };
        if known.confirmed.is_none() {
            known.confirmed = Some(now);
            for key in keys_of(&self.takings[taking]).collect::<Vec<_>>() {
                self.check_repeat(key, taking);
            }
        }
    }

    /// Holds a taking of a recipient against the others, and against what is known to be settled.
    fn check_repeat(&mut self, key: Key, number: usize) {
        let Some(recipient) = self.recipient(key) else { return };
        let Some(taking) = self.takings.get(number) else { return };
        let now = taking.confirmed.unwrap_or(taking.at);
        let mut wrong = Vec::new();
        if recipient.fate.is_some_and(|fate| fate.at < taking.begun) {
            wrong.push(("sent again after its end", "the event records have its end before"));
        }
        if recipient.settled.is_some_and(|at| at < taking.begun) {
            wrong.push(("sent again after its end", "the log had it settled at a crash before"));
        }
        for other in recipient.takings.iter().filter(|other| **other != number) {
            let Some(other) = self.takings.get(*other) else { continue };
            let (first, second) =
                if other.at <= taking.at { (other, taking) } else { (taking, other) };
            if !first.is_confirmed() {
                continue;
            }
            if first.life == second.life && second.is_confirmed() {
                wrong.push(("delivered twice", "in one life, and both replies were read"));
            } else if first.life == second.life
                && first.confirmed.is_some_and(|confirmed| confirmed < second.begun)
            {
                wrong.push(("delivered twice", "in one life, after the first reply had been read"));
            } else if first.life < second.life && self.ended_well_after(first) {
                wrong.push(("delivered twice", "across a clean stop"));
            }
        }
        let told: Vec<String> = recipient
            .takings
            .iter()
            .filter_map(|taking| self.takings.get(*taking))
            .map(|taking| taking.describe(self.start))
            .collect();
        let told = told.join("; ");
        for (rule, why) in wrong {
            self.violate(rule, now, format!("{key}: {why}; {told}"));
        }
    }

    /// Whether the life in which something was taken ended well, and after the answer was known.
    fn ended_well_after(&self, taking: &Taking) -> bool {
        let life = self.lives.get((taking.life as usize).wrapping_sub(1));
        let Some((ended, LifeEnd::Clean)) = life.and_then(|life| life.ended) else { return false };
        taking.confirmed.is_some_and(|confirmed| confirmed < ended)
    }

    /// A message by number.
    pub fn message(&self, number: u32) -> Option<&Message> {
        self.messages.get(number as usize)
    }

    pub(crate) fn message_mut(&mut self, number: u32) -> Option<&mut Message> {
        self.messages.get_mut(number as usize)
    }

    /// A recipient by key.
    pub fn recipient(&self, key: Key) -> Option<&Recipient> {
        self.message(key.message)?.recipients.get(usize::from(key.recipient))
    }

    pub(crate) fn recipient_mut(&mut self, key: Key) -> Option<&mut Recipient> {
        self.message_mut(key.message)?.recipients.get_mut(usize::from(key.recipient))
    }

    /// The number of a message, by a queue id.
    pub fn number_of(&self, queue_id: &str) -> Option<u32> {
        self.by_queue_id.get(queue_id).copied()
    }

    fn next_number(&self) -> u32 {
        u32::try_from(self.messages.len()).unwrap_or(u32::MAX)
    }
}

fn keys_of(taking: &Taking) -> impl Iterator<Item = Key> + use<'_> {
    taking.recipients.iter().map(|&recipient| Key { message: taking.message, recipient })
}

#[cfg(test)]
mod tests;
