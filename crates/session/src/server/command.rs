//! What a server session does with each command.

use std::time::Instant;

use ringpost_protocol::address::{Host, Mailbox};
use ringpost_protocol::command::{Command, CommandError};
use ringpost_protocol::envelope::{BodyType, Envelope, Utf8};
use ringpost_protocol::extension::{Extension, Offer, SessionLimits, write_ehlo_reply};
use ringpost_protocol::notify::RecipientDsn;
use ringpost_protocol::parameter::{MailParameters, RcptParameters};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::reply::FixedReply;

use super::event::{Admission, CloseReason};
use super::replies;
use super::session::{Helo, ServerSession};
use super::stats::{ServerLimit, TransactionRefusal};
use super::transaction::Transaction;

impl ServerSession {
    /// Takes a command line; `is_last` when nothing has come behind it.
    pub(super) fn handle_command(&mut self, now: Instant, line: &[u8], is_last: bool) {
        let command = match Command::parse_with(line, self.config.syntax()) {
            Ok(command) => command,
            Err(error) => {
                if let Some(transaction) = &mut self.transaction
                    && is_rcpt(line)
                {
                    transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
                }
                if error.closes_session() {
                    return self.close_with(now, error.reply(), CloseReason::BadLine);
                }
                return self.refuse(now, error.reply());
            }
        };
        if self.needs_tls(&command) {
            return self.refuse(now, replies::TLS_REQUIRED);
        }
        match command {
            Command::Mail { path, parameters } => self.handle_mail(now, path, parameters),
            Command::Rcpt { path, parameters } => self.handle_rcpt(now, path, parameters),
            Command::Data => self.handle_data(now, is_last),
            Command::Bdat(chunk) => self.handle_bdat(now, chunk),
            Command::Ehlo(name) => self.handle_helo(now, name, true, is_last),
            Command::Helo(name) => self.handle_helo(now, name, false, is_last),
            Command::StartTls => self.handle_starttls(now, is_last),
            Command::Auth(command) => self.handle_auth(now, command),
            Command::Rset => {
                if self.count_junk(now) {
                    self.reset();
                    self.push(replies::OK);
                }
            }
            Command::Quit => self.close_with(now, replies::BYE, CloseReason::Quit),
            Command::Noop => self.push_junk(now, replies::OK),
            Command::Help(topic) => self.handle_help(now, topic),
            Command::Vrfy(text) => self.handle_vrfy(now, text),
            Command::Xclient(attributes) => self.handle_xclient(now, attributes, is_last),
            Command::Privileged => self.refuse(now, replies::NOT_AUTHORIZED),
            Command::Foreign => self.close_with(now, replies::FOREIGN, CloseReason::Foreign),
            Command::Etrn(text) => self.handle_etrn(now, text),
            Command::Expn(text) => self.handle_expn(now, text),
            // Commands that the grammar may come to know before this machine does.
            Command::NotImplemented | _ => {
                self.refuse(now, replies::NOT_IMPLEMENTED);
            }
        }
    }

    /// Forgets the transaction, as RSET does.
    pub(super) fn reset(&mut self) {
        self.drop_transaction(None);
        self.chunks_failed = false;
    }

    pub(super) fn push_junk(&mut self, now: Instant, reply: FixedReply) {
        if self.count_junk(now) {
            self.push(reply);
        }
    }

    fn handle_helo(&mut self, now: Instant, name: &str, extended: bool, is_last: bool) {
        if !self.count_junk(now) {
            return;
        }
        // RFC 2920 §3.1: the client has to wait for what EHLO offers before it sends more.
        if !is_last && !self.config.lenient {
            return self.close_with(now, replies::EARLY_INPUT, CloseReason::EarlyInput);
        }
        // RFC 5321 §4.1.4: a second EHLO resets, as RSET does.
        self.reset();
        self.helo = Some(Helo { name: name.into(), extended });
        let config = std::sync::Arc::clone(&self.config);
        if extended {
            let offer = self.offer();
            write_ehlo_reply(&config.hostname, &offer, self.output());
        } else {
            for part in ["250 ", &config.hostname, "\r\n"] {
                self.output().extend_from_slice(part.as_bytes());
            }
        }
    }

    /// What is offered to this client now.
    pub(super) fn offer(&self) -> Offer {
        Offer {
            extensions: self.config.extensions,
            size_max: self.config.size_max,
            hold: self.hold_offer(),
            starttls: self.offers_starttls(),
            requiretls: self.offers_requiretls(),
            xclient: self.offers_xclient(),
            mechanisms: self.offered_mechanisms(),
            limits: Some(SessionLimits {
                transactions_max: self.config.transactions_max,
                recipients_max: self.config.recipients_max.try_into().unwrap_or(u32::MAX),
            }),
            mt_priority: self.offers_priority(),
            deliver_by: self.deliver_by_min(),
            binary_mime: self.config.binary_mime,
            expn: self.offers_expn(),
            etrn: self.offers_etrn(),
        }
    }

    fn handle_mail(&mut self, now: Instant, path: ReversePath, parameters: MailParameters) {
        if self.helo.is_none() {
            return self.refuse(now, replies::SEND_HELO);
        }
        if self.transaction.is_some() {
            return self.refuse(now, replies::NESTED_MAIL);
        }
        if self.has_unoffered(&parameters) || (parameters.smtputf8 && !self.offers_utf8()) {
            return self.refuse(now, CommandError::UnknownParameter.reply());
        }
        if !self.is_sender_allowed(now, &path) {
            return;
        }
        if self.admission == Admission::Pending {
            return self.hold_mail(path, parameters);
        }
        self.admit_mail(now, path, parameters);
    }

    /// Whether MAIL has parameters of extensions that this listener does not offer (RFC 5321
    /// §4.1.1.11). Those of FUTURERELEASE are looked at with their values.
    fn has_unoffered(&self, parameters: &MailParameters) -> bool {
        let is_off = |extension| !self.config.extensions.contains(extension);
        (parameters.size.is_some() && is_off(Extension::Size))
            || (parameters.auth.is_some() && !self.has_auth())
            || (parameters.priority.is_some() && !self.offers_priority())
            || (parameters.by.is_some() && self.deliver_by_min().is_none())
            || (parameters.requiretls && !self.offers_requiretls())
            || parameters.body.is_some_and(|body| match body {
                BodyType::BinaryMime => !self.offer().has(Extension::BinaryMime),
                _ => is_off(Extension::EightBitMime),
            })
    }

    /// Begins a transaction, if the driver and the limits let it in.
    pub(super) fn admit_mail(
        &mut self,
        now: Instant,
        path: ReversePath,
        parameters: MailParameters,
    ) {
        if !self.is_admitted(now) {
            return;
        }
        if self.transactions >= self.config.transactions_max {
            let reason = CloseReason::TooManyTransactions;
            self.stats.count_limit(ServerLimit::Transactions);
            return self.close_with(now, replies::TOO_MANY_TRANSACTIONS, reason);
        }
        // RFC 1870 §6.1.
        if parameters.size.is_some_and(|size| size > self.config.size_max) {
            self.stats.count_limit(ServerLimit::MessageSize);
            self.stats.count_refusal(TransactionRefusal::Size);
            return self.refuse(now, replies::TOO_LARGE);
        }
        if parameters.has_dsn() && !self.offers_dsn() {
            return self.refuse(now, CommandError::UnknownParameter.reply());
        }
        if let Some(Err(reply)) = parameters.hold.map(|hold| self.check_hold(hold)) {
            return self.refuse(now, reply);
        }
        if let Some(Err(reply)) = parameters.by.map(|by| self.check_by(by, parameters.hold)) {
            return self.refuse(now, reply);
        }
        self.transactions += 1;
        let mut envelope = Envelope::new(path, Vec::new(), parameters.body.unwrap_or_default());
        envelope.dsn.set_message(parameters.ret, parameters.envelope_id);
        envelope.require_tls = parameters.requiretls;
        envelope.utf8 = if parameters.smtputf8 { Utf8::Marked } else { Utf8::Unmarked };
        let wanted = parameters.priority;
        if let Some(wanted) = wanted {
            envelope.priority = self.grant_priority(wanted);
        }
        self.transaction = Some(Transaction {
            envelope,
            has_priority: wanted.is_some(),
            declared_size: parameters.size,
            hold: parameters.hold,
            by: parameters.by.map(|by| (by, now)),
            not_before: None,
            dsn_size: 0,
            accepted: 0,
            refused: None,
            chunks: None,
            edits: None,
        });
        self.chunks_failed = false;
        self.skipped = 0;
        self.reply_to_mail(wanted);
    }

    fn handle_rcpt(&mut self, now: Instant, path: ForwardPath, parameters: RcptParameters) {
        let is_offered = !parameters.has_dsn() || self.offers_dsn();
        let may_relay = self.may_relay();
        let Some(transaction) = &mut self.transaction else {
            return self.refuse(now, replies::NEED_MAIL);
        };
        if transaction.chunks.is_some() {
            return self.refuse(now, replies::RCPT_AFTER_BDAT);
        }
        if !is_offered {
            transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
            return self.refuse(now, CommandError::UnknownParameter.reply());
        }
        if let Err(reply) = transaction.check_utf8(&path, &parameters) {
            transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
            return self.refuse(now, reply);
        }
        if self.accept_alias(&path, &parameters) {
            return;
        }
        let Some(transaction) = &mut self.transaction else { return };
        let (reply, refusal) = match path {
            ForwardPath::Mailbox(mailbox) => {
                if !may_relay {
                    (replies::RELAY_DENIED, TransactionRefusal::Relay)
                } else if is_literal(&mailbox) && !self.config.address_literals {
                    (replies::LITERAL_DENIED, TransactionRefusal::NoRecipient)
                } else {
                    return self.accept_recipient(mailbox, parameters);
                }
            }
            ForwardPath::Postmaster => (replies::NO_POSTMASTER, TransactionRefusal::NoRecipient),
        };
        if refusal == TransactionRefusal::Relay {
            transaction.refused = Some(refusal);
        } else {
            transaction.refused.get_or_insert(refusal);
        }
        self.refuse(now, reply);
    }

    fn accept_recipient(&mut self, mailbox: Mailbox, parameters: RcptParameters) {
        let Some(transaction) = &mut self.transaction else {
            return;
        };
        // RFC 5321 §4.5.3.1.10: the client sends the rest in another transaction.
        if transaction.accepted >= self.config.recipients_max {
            transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
            self.stats.count_limit(ServerLimit::Recipients);
            return self.push(replies::TOO_MANY_RECIPIENTS);
        }
        if parameters.has_dsn() {
            let RcptParameters { notify, original, .. } = parameters;
            let dsn = RecipientDsn::new(notify, original);
            if !transaction.has_dsn_room(&dsn, 1, self.config.dsn_parameters_size_max) {
                transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
                self.stats.count_limit(ServerLimit::DsnParameters);
                return self.push(replies::TOO_MANY_RECIPIENTS);
            }
            let at = transaction.envelope.forward_paths.len();
            transaction.envelope.dsn.set_recipient(at, dsn);
        }
        transaction.accepted += 1;
        transaction.envelope.forward_paths.push(ForwardPath::Mailbox(mailbox));
        self.push(replies::RCPT_OK);
    }

    fn handle_data(&mut self, now: Instant, is_last: bool) {
        let refusal = match &mut self.transaction {
            None => Some(replies::NEED_MAIL),
            // RFC 3030 §2: a message comes by the one or by the other. What the client means is in doubt
            // now; but its octets are counted, so that none of them is taken for a command.
            Some(transaction) if transaction.chunks.is_some() => {
                self.drop_transaction(None);
                return self.refuse(now, replies::DATA_AFTER_BDAT);
            }
            Some(transaction) if transaction.envelope.body == BodyType::BinaryMime => {
                return self.refuse(now, replies::BINARY_NEEDS_BDAT);
            }
            Some(transaction) => transaction.make_ready().err(),
        };
        // RFC 2920 §3.1: DATA is the last command of a group. Content that comes ahead of 354 may be
        // meant for another server's idea of where the message begins; and behind a DATA that is refused
        // it would be taken for commands, on lenient listeners too.
        if !is_last && (refusal.is_some() || !self.config.lenient) {
            return self.close_with(now, replies::EARLY_INPUT, CloseReason::EarlyInput);
        }
        match refusal {
            Some(reply) => self.refuse(now, reply),
            None => self.start_content(now),
        }
    }
}

/// Whether a line is an RCPT command, well formed or not.
pub(super) fn is_rcpt(line: &[u8]) -> bool {
    let verb = line.split(u8::is_ascii_whitespace).next();
    verb.is_some_and(|verb| verb.eq_ignore_ascii_case(b"RCPT"))
}

fn is_literal(mailbox: &Mailbox) -> bool {
    matches!(mailbox.host(), Host::Literal(_))
}
