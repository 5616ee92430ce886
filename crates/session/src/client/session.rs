//! The machine of a client session.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_protocol::extension::Extensions;
use ringpost_protocol::reply::{Reply, ReplyDecoder};
use ringpost_protocol::sasl::Mechanism;
use ringpost_protocol::time::decimal;
use thiserror::Error;

use super::auth::{AuthPrompt, AuthState, ClientAuth};
use super::config::{ClientConfig, ClientProtocol, Dialect};
use super::report::{ProtocolViolation, SessionFailure, Stage, TransactionReport};
use super::tls::{ClientTls, ClientTlsInfo, TlsProblem};
use super::transaction::{Expect, Step, Transaction, TransactionRequest};
use crate::timer::{Timer, TimerTable};

/// A transaction cannot be started: the session is not ready for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the session is not ready for a transaction")]
pub struct NotReady;

/// Capacity of an output buffer that an idle session may keep.
const OUTPUT_KEPT_MAX: usize = 4096;

/// What a client session tells its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The driver writes what is left of [`ClientSession::transmit`], shakes hands as a TLS client, then
    /// calls [`ClientSession::handle_tls`] or [`ClientSession::handle_tls_failure`]. What it has read and
    /// not handed in belongs to the handshake.
    StartTls,
    /// The server offers STARTTLS and has refused it; the session goes on in plain text.
    TlsRefused(Reply),
    /// The server asks who we are: the driver calls [`ClientSession::auth_response`] or
    /// [`ClientSession::auth_failed`].
    Auth(AuthPrompt),
    /// We are logged in, by this mechanism.
    LoggedIn(Mechanism),
    /// The server has introduced itself, and knows us where that was asked for; transactions can be
    /// started.
    Ready {
        /// What it offers.
        extensions: Extensions,
    },
    /// The server waits for the content: the driver writes it with dots stuffed, then the terminator,
    /// then calls [`ClientSession::content_sent`].
    SendContent,
    /// The server takes the content as it is: the driver writes what is left of
    /// [`ClientSession::transmit`], then just so many octets as the request has said, and nothing behind
    /// them, then calls [`ClientSession::content_sent`].
    SendChunk,
    /// The transaction is over.
    TransactionDone(TransactionReport),
    /// The session is over: `None` after QUIT, else why. Nothing comes after this.
    Closed(Option<SessionFailure>),
}

#[derive(Debug)]
pub(super) enum State {
    ExpectGreeting,
    ExpectEhlo,
    ExpectHelo,
    ExpectStartTls,
    Handshaking,
    ExpectAuth,
    Ready,
    InTransaction(Transaction),
    ExpectQuit,
    Closed,
}

/// A client session without I/O, for a connection that may carry many transactions.
///
/// # Contract
///
/// - Getters: [`stage`](Self::stage), [`is_ready`](Self::is_ready),
///   [`extensions`](Self::extensions), [`tls`](Self::tls), [`transactions`](Self::transactions).
/// - The driver reports facts: [`handle_input`](Self::handle_input),
///   [`handle_eof`](Self::handle_eof), [`handle_timeout`](Self::handle_timeout),
///   [`handle_tls`](Self::handle_tls), [`handle_tls_failure`](Self::handle_tls_failure),
///   [`auth_response`](Self::auth_response), [`auth_failed`](Self::auth_failed).
/// - The driver gives orders: [`start_transaction`](Self::start_transaction),
///   [`content_progressed`](Self::content_progressed), [`content_sent`](Self::content_sent),
///   [`quit`](Self::quit), [`abort`](Self::abort).
/// - The driver polls: [`poll_event`](Self::poll_event) and [`transmit`](Self::transmit) after every
///   call of the two groups above, [`poll_timeout`](Self::poll_timeout) before it waits. What it has
///   written it reports by [`transmitted`](Self::transmitted) before it hands in what it has read.
///
/// ```text
/// ExpectGreeting -> ExpectEhlo -> (ExpectHelo ->) Ready <-> InTransaction
///                                                   \-> ExpectQuit -> Closed
/// ExpectEhlo -> ExpectAuth -> Ready                             with credentials, behind TLS
/// ExpectEhlo -> ExpectStartTls -> Handshaking -> ExpectEhlo     before anything is Ready
/// Handshaking -> ExpectGreeting                                 with implicit TLS
/// any state -> Closed on failure
///
/// InTransaction: (Reset ->) Mail -> Rcpt.. -> Data -> Content -> FinalReply
///                                         |       \-> LoneDot
///                                          \-> Content, by BDAT -> FinalReply
/// ```
///
/// Each started transaction gives exactly one [`ClientEvent::TransactionDone`], before
/// [`ClientEvent::Closed`] if the session fails in it. Nothing is sent after the final dot before its
/// reply has come, not even QUIT: a reply to QUIT could be taken for the reply to the dot.
#[derive(Debug)]
pub struct ClientSession {
    pub(super) config: Arc<ClientConfig>,
    dialect: Dialect,
    pub(super) state: State,
    pub(super) decoder: ReplyDecoder,
    pub(super) timers: TimerTable,
    pub(super) events: VecDeque<ClientEvent>,
    pub(super) extensions: Extensions,
    pub(super) tls_mode: ClientTls,
    pub(super) tls: Option<ClientTlsInfo>,
    /// Until we are logged in, if we are to.
    pub(super) auth: Option<Box<AuthState>>,
    pub(super) output: Vec<u8>,
    transmitted: usize,
    /// Commands that wait for the reply to the one before, when not pipelining.
    script: Vec<u8>,
    scripted: usize,
    /// The server may still hold state of a transaction that failed.
    needs_reset: bool,
    /// Nothing of the command that is waited for has been sent, so that no reply can be meant for it.
    pub(super) is_unsent: bool,
    /// The reply that is coming began when nothing was waited for.
    is_unasked: bool,
    transactions: u32,
    /// MAIL commands: transactions that the server has been told of.
    mails: u32,
}

impl ClientSession {
    /// Makes a session in plain text on a connection that has just been made; it waits for the greeting.
    pub fn new(now: Instant, config: Arc<ClientConfig>) -> Self {
        Self::with_tls(now, config, ClientTls::Off)
    }

    /// Makes a session on a connection that has just been made; it waits for the greeting, or for the
    /// handshake.
    pub fn with_tls(now: Instant, config: Arc<ClientConfig>, tls: ClientTls) -> Self {
        let mut timers = TimerTable::default();
        timers.set(Timer::Reply, now + config.timeouts.greeting);
        let mut session = Self {
            config,
            dialect: Dialect::default(),
            state: State::ExpectGreeting,
            decoder: ReplyDecoder::new(),
            timers,
            events: VecDeque::new(),
            extensions: Extensions::default(),
            tls_mode: tls,
            tls: None,
            auth: None,
            output: Vec::new(),
            transmitted: 0,
            script: Vec::new(),
            scripted: 0,
            needs_reset: false,
            is_unsent: false,
            is_unasked: false,
            transactions: 0,
            mails: 0,
        };
        if tls == ClientTls::Implicit {
            session.begin_handshake(now);
        }
        session
    }

    /// Says what is spoken with the server. To be called before anything else.
    #[must_use]
    pub fn with_dialect(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// Has the session log in before it is ready. To be called before anything else.
    #[must_use]
    pub fn with_auth(self, auth: ClientAuth) -> Self {
        Self { auth: Some(Box::new(AuthState::new(auth))), ..self }
    }

    /// The step the session is at.
    pub fn stage(&self) -> Stage {
        match &self.state {
            State::ExpectGreeting => Stage::Greeting,
            State::ExpectEhlo | State::ExpectHelo => Stage::Ehlo,
            State::ExpectStartTls => Stage::StartTls,
            State::Handshaking => Stage::Handshake,
            State::ExpectAuth => Stage::Auth,
            State::Ready => Stage::Idle,
            State::InTransaction(transaction) => transaction.expect.stage(),
            State::ExpectQuit | State::Closed => Stage::Quit,
        }
    }

    /// Whether a transaction can be started.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Whether the session is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What the server offers; nothing before [`ClientEvent::Ready`] and after HELO.
    pub fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Transactions that have been started.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// Takes what the server sent.
    pub fn handle_input(&mut self, now: Instant, input: &[u8]) {
        self.is_unsent = self.transmitted == 0 && !self.output.is_empty();
        let mut rest = input;
        while !rest.is_empty() && !self.is_closed() {
            if matches!(self.state, State::Handshaking) {
                return self.fail_tls(Stage::Handshake, TlsProblem::InputAhead);
            }
            if !self.decoder.is_inside_reply() {
                self.is_unasked = self.is_unsent
                    || self.is_ready()
                    || self.sends_content()
                    || self.awaits_auth_response();
            }
            let (consumed, reply) = match self.decoder.decode(rest) {
                Ok(decoded) => decoded,
                Err(error) => return self.fail_protocol(ProtocolViolation::Reply(error)),
            };
            rest = rest.get(consumed..).unwrap_or_default();
            if let Some(reply) = reply {
                self.handle_reply(now, reply);
            }
        }
    }

    /// Takes the fact that the server has closed the connection, or that it broke.
    pub fn handle_eof(&mut self, _now: Instant) {
        match self.state {
            State::Closed => {}
            State::ExpectQuit => self.close(None),
            // Some servers find out only behind the handshake that it is not to their liking.
            State::ExpectEhlo if self.tls.is_some() && self.tls_mode != ClientTls::Implicit => {
                let detail = "closed behind the handshake".into();
                self.fail_tls(Stage::Handshake, TlsProblem::Handshake(detail));
            }
            State::ExpectGreeting
            | State::ExpectEhlo
            | State::ExpectHelo
            | State::ExpectStartTls
            | State::Handshaking
            | State::ExpectAuth
            | State::Ready
            | State::InTransaction(_) => {
                let stage = self.stage();
                self.close(Some(SessionFailure::Closed { stage }));
            }
        }
    }

    /// Takes the passing of time; to be called when [`poll_timeout`](Self::poll_timeout) is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_closed() || self.timers.expire(now).is_none() {
            return;
        }
        let stage = self.stage();
        let quitting = matches!(self.state, State::ExpectQuit);
        self.close((!quitting).then_some(SessionFailure::TimedOut { stage }));
    }

    /// Starts a transaction.
    ///
    /// A message that the server cannot take is not offered: the report follows at once.
    ///
    /// # Errors
    ///
    /// [`NotReady`] unless [`is_ready`](Self::is_ready); nothing has happened then.
    pub fn start_transaction(
        &mut self,
        now: Instant,
        request: &TransactionRequest<'_>,
    ) -> Result<(), NotReady> {
        if !self.is_ready() {
            return Err(NotReady);
        }
        self.transactions = self.transactions.saturating_add(1);
        let recipients = request.forward_paths.len();
        if let Some(refusal) = request.refusal(&self.extensions, self.tls) {
            let report = Transaction::refused(recipients, refusal);
            self.push_report(report);
            return Ok(());
        }
        let pipelined = self.extensions.pipelining;
        let protocol = self.dialect.protocol;
        let transaction =
            Transaction::new(request, &self.extensions, protocol, pipelined, self.needs_reset);
        if !transaction.is_open() {
            self.push_report(transaction.into_report());
            return Ok(());
        }
        self.mails = self.mails.saturating_add(1);
        let out = if pipelined { &mut self.output } else { &mut self.script };
        if self.needs_reset {
            out.extend_from_slice(b"RSET\r\n");
        }
        request.write_commands(&self.extensions, out);
        if !pipelined {
            self.send_scripted();
        }
        self.timers.set(Timer::Reply, now + self.reply_timeout(transaction.expect));
        self.state = State::InTransaction(transaction);
        Ok(())
    }

    /// Takes the fact that some of the content has been written: the server is alive.
    pub fn content_progressed(&mut self, now: Instant) {
        if self.stage() == Stage::Content {
            self.timers.set(Timer::ContentBlock, now + self.config.timeouts.content_block);
        }
    }

    /// Takes the fact that the content and its terminator have been written.
    pub fn content_sent(&mut self, now: Instant) {
        if let State::InTransaction(transaction) = &mut self.state
            && transaction.expect == Expect::Content
        {
            transaction.expect = Expect::FinalReply;
            self.timers.stop(Timer::ContentBlock);
            self.timers.set(Timer::Reply, now + self.config.timeouts.final_reply);
        }
    }

    /// Ends the session in good order: with QUIT when it is ready, else as [`abort`](Self::abort).
    pub fn quit(&mut self, now: Instant) {
        if !self.is_ready() {
            return self.abort();
        }
        self.output.extend_from_slice(b"QUIT\r\n");
        self.timers.set(Timer::Reply, now + self.config.timeouts.quit);
        self.state = State::ExpectQuit;
    }

    /// Ends the session at once; a transaction that is under way fails.
    pub fn abort(&mut self) {
        if self.is_closed() {
            return;
        }
        let stage = self.stage();
        let quitting = matches!(self.state, State::ExpectQuit);
        self.close((!quitting).then_some(SessionFailure::Aborted { stage }));
    }

    /// The next thing the driver has to know.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Octets to be written.
    pub fn transmit(&self) -> &[u8] {
        self.output.get(self.transmitted..).unwrap_or_default()
    }

    /// Takes the fact that so many octets of [`transmit`](Self::transmit) have been written.
    pub fn transmitted(&mut self, count: usize) {
        self.transmitted = self.transmitted.saturating_add(count);
        if self.transmitted >= self.output.len() {
            self.transmitted = 0;
            if self.auth.is_some() {
                // There may be a password in it.
                self.output.fill(0);
            }
            self.output.clear();
            self.output.shrink_to(OUTPUT_KEPT_MAX);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    fn handle_reply(&mut self, now: Instant, reply: Reply) {
        if matches!(self.state, State::ExpectQuit) {
            return self.close(None);
        }
        // RFC 5321 §3.8: 421 may come at any time, and the server closes.
        if reply.code.as_u16() == 421 {
            let stage = self.stage();
            return self.close(Some(SessionFailure::Reply { stage, reply }));
        }
        // What a server begins to say before it was asked is no answer, even if it ends after. While
        // content is sent it may give up.
        if self.is_unasked && !self.sends_content() {
            return self.fail_protocol(ProtocolViolation::UnexpectedReply(reply));
        }
        match mem::replace(&mut self.state, State::Closed) {
            State::ExpectGreeting => self.handle_greeting(now, reply),
            State::ExpectEhlo => self.handle_ehlo_reply(now, reply),
            State::ExpectHelo => self.handle_helo_reply(now, reply),
            State::ExpectAuth => self.handle_auth_reply(now, &reply),
            State::ExpectStartTls => self.handle_starttls_reply(now, reply),
            State::InTransaction(transaction) => {
                self.handle_transaction_reply(now, transaction, reply);
            }
            State::Ready | State::Handshaking | State::ExpectQuit | State::Closed => {}
        }
    }

    /// Whether the driver is sending the content.
    fn sends_content(&self) -> bool {
        matches!(&self.state, State::InTransaction(transaction) if transaction.expect == Expect::Content)
    }

    fn handle_greeting(&mut self, now: Instant, reply: Reply) {
        if !reply.is_positive_completion() {
            return self.fail_introduction(State::ExpectGreeting, reply);
        }
        self.say_hello(now);
    }

    /// Introduces us, and asks what the server offers.
    pub(super) fn say_hello(&mut self, now: Instant) {
        let verb = match self.dialect.protocol {
            ClientProtocol::Smtp => "EHLO ",
            ClientProtocol::Lmtp => "LHLO ",
        };
        self.introduce(now, verb, State::ExpectEhlo);
    }

    fn handle_ehlo_reply(&mut self, now: Instant, reply: Reply) {
        if reply.is_positive_completion() {
            self.extensions = Extensions::from_ehlo_reply(&reply).within(self.dialect.extensions);
            if !self.start_tls(now) {
                self.become_ready(now);
            }
        } else if reply.is_permanent_negative() && self.dialect.protocol == ClientProtocol::Lmtp {
            // Not what it was taken for: our mistake, so no reason to give up any mail.
            self.state = State::ExpectEhlo;
            self.fail_protocol(ProtocolViolation::UnexpectedCode(reply));
        } else if reply.is_permanent_negative() {
            // RFC 5321 §3.2: a server that does not know EHLO may know HELO.
            self.introduce(now, "HELO ", State::ExpectHelo);
        } else {
            self.fail_introduction(State::ExpectEhlo, reply);
        }
    }

    fn handle_helo_reply(&mut self, now: Instant, reply: Reply) {
        if !reply.is_positive_completion() {
            return self.fail_introduction(State::ExpectHelo, reply);
        }
        self.become_ready(now);
    }

    pub(super) fn introduce(&mut self, now: Instant, verb: &str, next: State) {
        self.output.extend_from_slice(verb.as_bytes());
        self.output.extend_from_slice(self.config.helo_name.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        self.is_unsent = true;
        self.timers.set(Timer::Reply, now + self.config.timeouts.ehlo);
        self.state = next;
    }

    /// Ready, but for who must log in first.
    pub(super) fn become_ready(&mut self, now: Instant) {
        if self.tls_mode.is_required() && self.tls.is_none() {
            return self.fail_tls(Stage::StartTls, TlsProblem::NotOffered);
        }
        if self.auth.is_some() {
            return self.begin_auth(now);
        }
        self.be_ready();
    }

    pub(super) fn be_ready(&mut self) {
        self.timers.stop(Timer::Reply);
        self.state = State::Ready;
        self.events.push_back(ClientEvent::Ready { extensions: self.extensions });
    }

    /// The server refuses the session before it has begun, or answers nonsense.
    fn fail_introduction(&mut self, state: State, reply: Reply) {
        self.state = state;
        if reply.is_intermediate() {
            return self.fail_protocol(ProtocolViolation::UnexpectedCode(reply));
        }
        let stage = self.stage();
        self.close(Some(SessionFailure::Reply { stage, reply }));
    }

    fn handle_transaction_reply(
        &mut self,
        now: Instant,
        mut transaction: Transaction,
        reply: Reply,
    ) {
        let step = match transaction.handle_reply(reply) {
            Ok(step) => step,
            Err(violation) => {
                self.state = State::InTransaction(transaction);
                return self.fail_protocol(violation);
            }
        };
        match step {
            Step::Continue => self.send_scripted(),
            Step::SendLoneDot => {
                self.output.extend_from_slice(b".\r\n");
                self.is_unsent = true;
            }
            Step::SendContent => self.events.push_back(ClientEvent::SendContent),
            Step::SendChunk(size) => {
                let mut digits = [0; 20];
                for part in [b"BDAT ", decimal(size, &mut digits), b" LAST\r\n"] {
                    self.output.extend_from_slice(part);
                }
                self.events.push_back(ClientEvent::SendChunk);
            }
            Step::Done => return self.finish_transaction(now, transaction),
        }
        if transaction.expect == Expect::Content {
            self.timers.stop(Timer::Reply);
            self.timers.set(Timer::ContentBlock, now + self.config.timeouts.content_block);
        } else {
            self.timers.set(Timer::Reply, now + self.reply_timeout(transaction.expect));
        }
        self.state = State::InTransaction(transaction);
    }

    fn finish_transaction(&mut self, now: Instant, transaction: Transaction) {
        self.needs_reset = !transaction.is_complete();
        self.script = Vec::new();
        self.scripted = 0;
        self.timers.stop(Timer::Reply);
        self.state = State::Ready;
        // RFC 9422 §4.1: the next one would be refused.
        let is_over = self.extensions.transactions_max.is_some_and(|max| self.mails >= max);
        self.push_report(TransactionReport {
            session_usable: !is_over,
            ..transaction.into_report()
        });
        if is_over {
            self.quit(now);
        }
    }

    fn push_report(&mut self, report: TransactionReport) {
        let report = TransactionReport { tls: self.tls, ..report };
        self.events.push_back(ClientEvent::TransactionDone(report));
    }

    /// Sends the next command of the script, if there is one.
    fn send_scripted(&mut self) {
        let rest = self.script.get(self.scripted..).unwrap_or_default();
        let Some(line_feed) = memchr::memchr(b'\n', rest) else {
            return;
        };
        self.output.extend_from_slice(rest.get(..=line_feed).unwrap_or_default());
        self.scripted += line_feed + 1;
        self.is_unsent = true;
    }

    fn reply_timeout(&self, expect: Expect) -> Duration {
        let timeouts = &self.config.timeouts;
        match expect {
            Expect::Reset | Expect::Mail => timeouts.mail,
            Expect::Rcpt(_) => timeouts.rcpt,
            Expect::Data => timeouts.data,
            Expect::Content => timeouts.content_block,
            Expect::FinalReply | Expect::LoneDot => timeouts.final_reply,
        }
    }

    pub(super) fn fail_protocol(&mut self, violation: ProtocolViolation) {
        let stage = self.stage();
        self.close(Some(SessionFailure::Protocol { stage, violation }));
    }

    pub(super) fn close(&mut self, failure: Option<SessionFailure>) {
        self.timers.stop_all();
        self.auth = None;
        self.output = Vec::new();
        self.transmitted = 0;
        self.script = Vec::new();
        // What the driver has not begun to do it is not to begin: no timer runs for it any more.
        self.events.retain(|event| {
            use ClientEvent::{Auth, SendChunk, SendContent, StartTls};
            !matches!(event, StartTls | Auth(_) | SendContent | SendChunk)
        });
        for event in &mut self.events {
            if let ClientEvent::TransactionDone(report) = event {
                report.session_usable = false;
            }
        }
        if let (State::InTransaction(transaction), Some(failure)) =
            (mem::replace(&mut self.state, State::Closed), &failure)
        {
            let report = transaction.into_failed_report(failure);
            self.push_report(report);
        }
        self.events.push_back(ClientEvent::Closed(failure));
    }
}
