//! The machine of a server session: input, deadlines and output.

use std::sync::Arc;
use std::time::Instant;

use ringpost_protocol::envelope::Envelope;
use ringpost_protocol::error::LineError;
use ringpost_protocol::etrn::Node;
use ringpost_protocol::limits::{LONG_LINES_MAX, REPLY_OUTPUT_MAX};
use ringpost_protocol::line::LineDecoder;
use ringpost_protocol::reply::FixedReply;
use ringpost_protocol::sasl::Mechanism;
use ringpost_protocol::xclient::ClientAttributes;

use super::admission::HeldMail;
use super::auth::{AuthState, Exchange};
use super::chunk::ChunkInput;
use super::command::is_rcpt;
use super::config::{Peer, ServerConfig};
use super::content::Content;
use super::event::{Admission, CloseReason, Refusal, ServerEvent};
use super::replies;
use super::stats::{ServerLimit, ServerStats};
use super::tls::{TlsInfo, TlsPolicy};
use super::transaction::Transaction;
use super::utf8;
use super::xclient::NamedClient;
use crate::timer::{Timer, TimerTable};

/// Capacity of an output buffer that an idle session may keep.
const OUTPUT_KEPT_MAX: usize = 1024;

/// The first octet of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// What the session waits for.
#[derive(Debug)]
pub(super) enum State {
    /// The greeting has not been written as a whole.
    Greeting,
    /// A command.
    Command,
    /// The end of a TLS handshake.
    StartingTls,
    /// What the client may do that another one speaks for.
    NamingClient(Box<ClientAttributes>),
    /// What the driver makes of an order to try mail.
    Flushing(Box<Node>),
    /// Whether MAIL may go on.
    AwaitingAdmission(Box<HeldMail>),
    /// The client's next line in an authentication.
    AuthResponse(Box<Exchange>),
    /// Whether the client is who it says.
    AwaitingAuth(Mechanism),
    /// The rest of the content that follows DATA.
    Content(Content),
    /// The rest of a chunk.
    Chunk(ChunkInput),
    /// What the driver makes of a message.
    AwaitingVerdict,
    /// Nothing: the session is over.
    Closed,
}

/// Who the client says it is.
#[derive(Debug)]
pub(super) struct Helo {
    pub(super) name: Box<str>,
    pub(super) extended: bool,
}

/// A server session without I/O.
///
/// # Contract
///
/// - Getters: [`state_name`](Self::state_name), [`helo`](Self::helo),
///   [`protocol`](Self::protocol), [`peer`](Self::peer), [`envelope`](Self::envelope),
///   [`declared_size`](Self::declared_size), [`hold_until`](Self::hold_until), [`added_fields`](Self::added_fields), [`priority_given`](Self::priority_given),
///   [`transactions`](Self::transactions), [`is_closing`](Self::is_closing), [`awaits_admission`](Self::awaits_admission),
///   [`named_client`](Self::named_client), [`flush_node`](Self::flush_node), [`tls`](Self::tls), [`tls_policy`](Self::tls_policy), [`user`](Self::user), [`stats`](Self::stats).
/// - The driver reports facts: [`handle_input`](Self::handle_input),
///   [`handle_eof`](Self::handle_eof), [`handle_timeout`](Self::handle_timeout),
///   [`handle_tls`](Self::handle_tls), [`handle_tls_failure`](Self::handle_tls_failure),
///   [`handle_client`](Self::handle_client), [`handle_flush`](Self::handle_flush).
/// - The driver gives orders: [`set_admission`](Self::set_admission), [`resume`](Self::resume),
///   [`take_auth_question`](Self::take_auth_question), [`auth_challenge`](Self::auth_challenge), [`auth_accepted`](Self::auth_accepted),
///   [`auth_refused`](Self::auth_refused), [`change_user`](Self::change_user), [`set_user_may_send`](Self::set_user_may_send),
///   [`set_tls_available`](Self::set_tls_available), [`set_certificate_rights`](Self::set_certificate_rights), [`set_names_clients`](Self::set_names_clients), [`set_may_flush`](Self::set_may_flush), [`set_stress`](Self::set_stress), [`set_unix_ms`](Self::set_unix_ms), [`set_origin`](Self::set_origin), [`take_envelope`](Self::take_envelope), [`message_accepted`](Self::message_accepted),
///   [`message_refused`](Self::message_refused), [`shut_down`](Self::shut_down).
/// - The driver polls: [`poll_event`](Self::poll_event) and [`transmit`](Self::transmit) after every
///   call of the two groups above, [`poll_timeout`](Self::poll_timeout) before it waits. What it has
///   written it reports by [`transmitted`](Self::transmitted) before it hands in what it has read.
///
/// ```text
/// Greeting -> Command -> Content -> AwaitingVerdict -> Command
///                |  |       \-> Command, when the content is refused
///                |   \-> Chunk -> Command, or AwaitingVerdict behind the last one
///                 \-> AwaitingAdmission -> Command, while MAIL waits for the driver
/// Command -> AuthResponse -> AwaitingAuth -> Command, by AUTH; the client's lines and the driver's
///     answers may take turns
/// Command -> StartingTls -> Command, by STARTTLS
/// Command -> NamingClient -> Command, by XCLIENT
/// Command -> Flushing -> Command, by ETRN
/// StartingTls -> Greeting, on a listener with TLS from the first octet
/// any state -> Closed
/// ```
///
/// Every [`ServerEvent::DataStarted`] is followed by one of [`ServerEvent::MessageReceived`] and
/// [`ServerEvent::TransactionAborted`]; [`ServerEvent::Closed`] is the last event.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts beside the state, independent of each other"
)]
pub struct ServerSession {
    pub(super) config: Arc<ServerConfig>,
    pub(super) peer: Peer,
    pub(super) state: State,
    pub(super) lines: LineDecoder,
    pub(super) timers: TimerTable,
    /// When the session is to end, were it to last so long.
    ends_at: Option<Instant>,
    pub(super) output: Vec<u8>,
    transmitted: usize,
    pub(super) helo: Option<Helo>,
    pub(super) transaction: Option<Transaction>,
    pub(super) admission: Admission,
    /// The driver is short of something.
    pub(super) is_stressed: bool,
    pub(super) tls: Option<Box<TlsInfo>>,
    pub(super) auth: Option<Box<AuthState>>,
    pub(super) tls_available: bool,
    /// The client may say for whom it speaks.
    pub(super) names_clients: bool,
    /// Whether the client may have mail tried, by ETRN.
    pub(super) may_flush: bool,
    pub(super) named_client: Option<Box<NamedClient>>,
    /// What the driver last said the wall clock shows.
    pub(super) unix_ms: u64,
    /// A message failed by one of its chunks, and others may be in the pipeline.
    pub(super) chunks_failed: bool,
    /// Octets of chunks that were thrown away since the last MAIL.
    pub(super) skipped: u64,
    pub(super) transactions: u32,
    errors: u32,
    junk_commands: u32,
    long_lines: u32,
    /// The client has closed its side while a message waits for its verdict.
    peer_closed: bool,
    /// Events in the order they are polled.
    pub(super) aborted: bool,
    pub(super) event: Option<ServerEvent>,
    pub(super) next_event: Option<ServerEvent>,
    closed: Option<CloseReason>,
    pub(super) stats: ServerStats,
}

impl ServerSession {
    /// Makes a session on a connection that has just been accepted. Its greeting is to be transmitted,
    /// or, on a listener with TLS from the first octet, the event polled that starts the handshake.
    pub fn new(now: Instant, config: Arc<ServerConfig>, peer: Peer) -> Self {
        let lasts = Some(config.session_time_max).filter(|time| !time.is_zero());
        let mut session = Self {
            config,
            peer,
            state: State::Greeting,
            lines: LineDecoder::new(),
            timers: TimerTable::default(),
            ends_at: lasts.and_then(|time| now.checked_add(time)),
            output: Vec::with_capacity(128),
            transmitted: 0,
            helo: None,
            transaction: None,
            admission: Admission::Open,
            is_stressed: false,
            tls: None,
            auth: None,
            tls_available: true,
            names_clients: false,
            may_flush: false,
            named_client: None,
            unix_ms: 0,
            chunks_failed: false,
            skipped: 0,
            transactions: 0,
            errors: 0,
            junk_commands: 0,
            long_lines: 0,
            peer_closed: false,
            aborted: false,
            event: None,
            next_event: None,
            closed: None,
            stats: ServerStats::default(),
        };
        if session.config.tls == TlsPolicy::Implicit {
            session.start_tls(now);
        } else {
            session.greet(now);
        }
        session
    }

    /// Says who we are.
    pub(super) fn greet(&mut self, now: Instant) {
        self.timers.set(Timer::Command, now + self.command_timeout());
        self.timers.set(Timer::Output, now + self.config.output_timeout);
        self.write_greeting();
        self.state = State::Greeting;
        self.set_admission(self.admission);
    }

    /// The state, named by what it waits for, for logs.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Greeting => "greeting",
            State::Command => "command",
            State::StartingTls => "tls",
            State::NamingClient(_) => "client",
            State::Flushing(_) => "flush",
            State::AwaitingAdmission(_) => "admission",
            State::AuthResponse(_) | State::AwaitingAuth(_) => "auth",
            State::Content(_) => "content",
            State::Chunk(_) => "chunk",
            State::AwaitingVerdict => "verdict",
            State::Closed => "closed",
        }
    }

    /// What the client called itself.
    pub fn helo(&self) -> Option<&str> {
        self.helo.as_ref().map(|helo| &*helo.name)
    }

    /// `ESMTP` after EHLO, with `S` behind it over TLS and `A` after AUTH, else `SMTP`, as the trace field
    /// wants it (RFC 3848); with `UTF8SMTP` in place of `ESMTP` in a transaction with SMTPUTF8 (RFC 6531
    /// §4.3).
    pub fn protocol(&self) -> &'static str {
        let plain = match (&self.helo, self.tls.is_some(), self.user().is_some()) {
            (Some(Helo { extended: true, .. }), true, true) => "ESMTPSA",
            (Some(Helo { extended: true, .. }), true, false) => "ESMTPS",
            (Some(Helo { extended: true, .. }), false, true) => "ESMTPA",
            (Some(Helo { extended: true, .. }), false, false) => "ESMTP",
            _ => "SMTP",
        };
        utf8::protocol(plain, self.envelope())
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// The envelope of the transaction so far. From [`ServerEvent::DataStarted`] on it is complete,
    /// but for [`Envelope::body`] and [`Envelope::utf8`], which are settled with the content.
    pub fn envelope(&self) -> Option<&Envelope> {
        self.transaction.as_ref().map(|transaction| &transaction.envelope)
    }

    /// The size that MAIL has declared; no more than a hint.
    pub fn declared_size(&self) -> Option<u64> {
        self.transaction.as_ref().and_then(|transaction| transaction.declared_size)
    }

    /// Transactions that have been started.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// Whether the session is over, and only output is left.
    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// What has been refused, and which limits were hit, from the start of the session.
    pub fn stats(&self) -> &ServerStats {
        &self.stats
    }

    /// Takes what the client sent, and returns how many octets of it.
    ///
    /// Every complete command is taken. Less than all of `input` is taken when an event has to be
    /// polled first, when MAIL waits for its admission or a message for its verdict, or when too much
    /// output waits; the rest is to be handed in again. Content is appended to `content`, which the
    /// driver may empty at will.
    pub fn handle_input(&mut self, now: Instant, input: &[u8], content: &mut Vec<u8>) -> usize {
        let mut consumed = 0;
        while self.takes_input()
            && let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty())
        {
            consumed += match self.state {
                State::Greeting => self.handle_early_input(),
                State::Command => {
                    let taken = self.handle_line(now, rest);
                    self.end_empty_chunk(now, content);
                    taken
                }
                State::Content(_) => self.handle_content(now, rest, content),
                State::Chunk(_) => self.handle_chunk(now, rest, content),
                State::AuthResponse(_) => self.handle_auth_line(now, rest),
                State::AwaitingAdmission(_)
                | State::AwaitingAuth(_)
                | State::StartingTls
                | State::NamingClient(_)
                | State::Flushing(_)
                | State::AwaitingVerdict
                | State::Closed => break,
            };
        }
        if consumed > 0 && consumed < input.len() && self.transmit().len() >= REPLY_OUTPUT_MAX {
            self.stats.count_limit(ServerLimit::ReplyOutput);
        }
        self.start_output_timer(now);
        consumed
    }

    /// Takes the fact that the client has closed the connection, or that it broke.
    pub fn handle_eof(&mut self, _now: Instant) {
        match self.state {
            // RFC 5321 §4.1.1.4: after the final dot the message is ours, whatever the client does.
            State::AwaitingVerdict => self.peer_closed = true,
            State::Closed => {}
            _ => self.close(CloseReason::PeerClosed),
        }
    }

    /// Takes the passing of time; to be called when [`poll_timeout`](Self::poll_timeout) is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let Some(timer) = self.timers.expire(now) else {
            self.end_when_too_long(now);
            return;
        };
        self.stats.count_limit(match timer {
            Timer::ContentBlock => ServerLimit::DataBlockTimeout,
            Timer::ContentRate => ServerLimit::DataRate,
            Timer::Output => ServerLimit::OutputTimeout,
            _ if matches!(self.state, State::StartingTls) => ServerLimit::TlsHandshakeTimeout,
            Timer::Command | Timer::Reply => ServerLimit::CommandTimeout,
        });
        if timer == Timer::Output {
            // The client does not read: what waits for it will not be read either.
            self.output = Vec::new();
            self.transmitted = 0;
            if !matches!(self.state, State::AwaitingVerdict) {
                self.close(CloseReason::TimedOut);
            }
            self.peer_closed = true;
            return;
        }
        self.close_with(now, replies::TIMED_OUT, CloseReason::TimedOut);
    }

    /// Sets whether new transactions are let in.
    pub fn set_admission(&mut self, admission: Admission) {
        self.admission = admission;
        let unheard = matches!(self.state, State::Greeting) && self.transmitted == 0;
        if let (Some((reply, reason)), true) = (admission.ends_with(), unheard) {
            self.output.clear();
            reply.write(&mut self.output);
            self.close(reason);
        }
    }

    /// Takes the envelope of the message received. `None` at any other time.
    pub fn take_envelope(&mut self) -> Option<Envelope> {
        if !matches!(self.state, State::AwaitingVerdict) {
            return None;
        }
        self.transaction.take().map(|transaction| transaction.envelope)
    }

    /// Answers for a message: it is durable, and ours from now on.
    pub fn message_accepted(&mut self, now: Instant, queue_id: &str) {
        if matches!(self.state, State::AwaitingVerdict) {
            for part in ["250 2.0.0 Ok: queued as ", queue_id, "\r\n"] {
                self.output.extend_from_slice(part.as_bytes());
            }
            self.finish_message(now);
        }
    }

    /// Answers for a message: it is not taken.
    pub fn message_refused(&mut self, now: Instant, refusal: Refusal) {
        if matches!(self.state, State::AwaitingVerdict) {
            refusal.reply().write(&mut self.output);
            self.stats.count_refusal(refusal.counted_as());
            self.finish_message(now);
        }
    }

    /// Ends the session with 421; if a message waits for its verdict, behind its reply.
    pub fn shut_down(&mut self, now: Instant) {
        self.set_admission(Admission::ShuttingDown);
        match self.state {
            State::AwaitingVerdict | State::Closed => {}
            _ => self.close_with(now, replies::SHUTTING_DOWN, CloseReason::ShuttingDown),
        }
    }

    /// Ends the session with 421 if no transaction is under way, so that the client makes a new
    /// connection; otherwise behind the reply to the message.
    pub fn lead_elsewhere(&mut self, now: Instant) {
        self.set_admission(Admission::Elsewhere);
        if matches!(self.state, State::Command) && self.transaction.is_none() {
            self.close_with(now, replies::ELSEWHERE, CloseReason::Elsewhere);
        }
    }

    /// The next thing the driver has to know.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        if std::mem::take(&mut self.aborted) {
            return Some(ServerEvent::TransactionAborted);
        }
        let event = self.event.take();
        self.event = self.next_event.take();
        event.or_else(|| self.closed.take().map(ServerEvent::Closed))
    }

    /// Octets to be written, all replies together.
    pub fn transmit(&self) -> &[u8] {
        self.output.get(self.transmitted..).unwrap_or_default()
    }

    /// Takes the fact that so many octets of [`transmit`](Self::transmit) have been written.
    pub fn transmitted(&mut self, count: usize) {
        self.transmitted = self.transmitted.saturating_add(count);
        if self.transmitted < self.output.len() {
            return;
        }
        self.transmitted = 0;
        self.output.clear();
        self.output.shrink_to(OUTPUT_KEPT_MAX);
        self.timers.stop(Timer::Output);
        if matches!(self.state, State::Greeting) {
            self.state = State::Command;
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let deadline = self.timers.next();
        // Replies are not to be lost for it, nor content.
        let may_end = matches!(self.state, State::Command) && self.transmit().is_empty();
        match self.ends_at.filter(|_| may_end) {
            Some(end) => Some(deadline.map_or(end, |deadline| deadline.min(end))),
            None => deadline,
        }
    }

    /// Ends a session that waits for a command, if it has lasted too long; whether it did.
    fn end_when_too_long(&mut self, now: Instant) -> bool {
        let is_over = self.ends_at.is_some_and(|end| end <= now);
        if !is_over || !matches!(self.state, State::Command) {
            return false;
        }
        self.stats.count_limit(ServerLimit::SessionTime);
        self.close_with(now, replies::SESSION_TOO_LONG, CloseReason::SessionTooLong);
        true
    }

    fn takes_input(&self) -> bool {
        let silent = !self.aborted && self.event.is_none() && self.closed.is_none();
        silent && self.transmit().len() < REPLY_OUTPUT_MAX
    }

    fn handle_early_input(&mut self) -> usize {
        self.state = State::Command;
        if !self.config.lenient {
            // RFC 5321 §3.1: the greeting may be a refusal, if none of it has been sent.
            if self.transmitted == 0 {
                self.output.clear();
            }
            self.push(replies::EARLY_INPUT);
            self.stats.count_command_error(false);
            self.close(CloseReason::EarlyInput);
        }
        0
    }

    fn handle_line(&mut self, now: Instant, input: &[u8]) -> usize {
        let replies_start = self.output.len();
        if !self.lines.is_inside_line() && input.first() == Some(&TLS_HANDSHAKE) {
            self.close_with(now, replies::BINARY, CloseReason::Foreign);
            self.count_reply(replies_start, &[]);
            return 0;
        }
        let (consumed, line) = self.lines.decode(input);
        match line {
            None => {}
            Some(_) if self.end_when_too_long(now) => {}
            Some(Ok(line)) => {
                let is_last = consumed == input.len();
                self.timers.set(Timer::Command, now + self.command_timeout());
                self.handle_command(now, line.as_bytes(), is_last);
                self.count_reply(replies_start, line.as_bytes());
            }
            Some(Err(error)) => {
                self.handle_line_error(now, error);
                self.count_reply(replies_start, &[]);
            }
        }
        consumed
    }

    pub(super) fn handle_line_error(&mut self, now: Instant, error: LineError) {
        match error {
            LineError::TooLong => {
                self.stats.count_limit(ServerLimit::CommandLine);
                self.timers.set(Timer::Command, now + self.command_timeout());
                self.long_lines += 1;
                if self.long_lines < LONG_LINES_MAX {
                    self.refuse(now, replies::LINE_TOO_LONG);
                } else {
                    self.close_with(now, replies::LINE_TOO_LONG, CloseReason::BadLine);
                }
            }
            LineError::Endless => {
                self.stats.count_limit(ServerLimit::CommandLine);
                self.close_with(now, replies::LINE_TOO_LONG, CloseReason::BadLine);
            }
            _ => self.close_with(now, replies::BAD_LINE_END, CloseReason::BadLine),
        }
    }

    /// Counts the reply to a line, if it is a refusal; all commands pass by here.
    pub(super) fn count_reply(&mut self, replies_start: usize, line: &[u8]) {
        if matches!(self.output.get(replies_start), Some(b'4' | b'5')) {
            self.stats.count_command_error(is_rcpt(line));
        }
    }

    /// A message has got its reply.
    fn finish_message(&mut self, now: Instant) {
        self.junk_commands = 0;
        self.expect_command(now);
        if self.peer_closed {
            self.close(CloseReason::PeerClosed);
        } else if let Some((reply, reason)) = self.admission.ends_with() {
            self.close_with(now, reply, reason);
        }
        self.start_output_timer(now);
    }

    /// Ends the transaction, and waits for a command.
    pub(super) fn expect_command(&mut self, now: Instant) {
        self.transaction = None;
        self.timers.stop(Timer::ContentBlock);
        self.timers.stop(Timer::ContentRate);
        self.timers.set(Timer::Command, now + self.command_timeout());
        self.state = State::Command;
    }

    pub(super) fn push(&mut self, reply: FixedReply) {
        reply.write(&mut self.output);
    }

    pub(super) fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Replies to a command that is refused through the client's fault.
    pub(super) fn refuse(&mut self, now: Instant, reply: FixedReply) {
        self.refuse_with(now, |out| reply.write(out));
    }

    /// As [`refuse`](Self::refuse), with a reply that is written.
    pub(super) fn refuse_with(&mut self, now: Instant, write: impl FnOnce(&mut Vec<u8>)) {
        if self.errors + 1 < self.errors_max() {
            write(&mut self.output);
        }
        self.count_error(now);
    }

    pub(super) fn count_error(&mut self, now: Instant) {
        self.errors += 1;
        if self.errors >= self.errors_max() {
            self.stats.count_limit(ServerLimit::Errors);
            self.close_with(now, replies::TOO_MANY_ERRORS, CloseReason::TooManyErrors);
        }
    }

    /// Counts a command that does not help a message along; says whether the session goes on.
    pub(super) fn count_junk(&mut self, now: Instant) -> bool {
        self.junk_commands += 1;
        let is_over = self.junk_commands > self.junk_commands_max();
        if is_over {
            let reason = CloseReason::TooManyJunkCommands;
            self.stats.count_limit(ServerLimit::JunkCommands);
            self.close_with(now, replies::TOO_MANY_JUNK_COMMANDS, reason);
        }
        !is_over
    }

    pub(super) fn close_with(&mut self, now: Instant, reply: FixedReply, reason: CloseReason) {
        if !self.is_closing() {
            // What is said in the middle of a handshake would be no part of it.
            if !matches!(self.state, State::StartingTls) {
                self.push(reply);
            }
            self.close(reason);
            self.start_output_timer(now);
        }
    }

    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.is_closing() {
            return;
        }
        // Content that the driver has not yet been told of needs no word about its end.
        if matches!(self.state, State::Content(_)) {
            self.aborted = self.event.take().is_none();
        }
        for timer in [Timer::Command, Timer::ContentBlock, Timer::ContentRate] {
            self.timers.stop(timer);
        }
        self.drop_transaction(Some(reason));
        self.state = State::Closed;
        self.closed = Some(reason);
    }

    pub(super) fn start_output_timer(&mut self, now: Instant) {
        if !self.transmit().is_empty() {
            self.timers.start(Timer::Output, now + self.config.output_timeout);
        }
    }
}
