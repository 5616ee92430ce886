//! Drivers without I/O for both ends of a session, in virtual time.

#![expect(dead_code, reason = "each test binary uses some of it")]
#![expect(clippy::unwrap_used, reason = "tests may be blunt")]
#![expect(clippy::option_option, reason = "not closed, closed in good order, closed by a failure")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_protocol::address::{Domain, Mailbox};
use ringpost_protocol::data::edit::MissingFields;
use ringpost_protocol::data::stuff::{StuffState, stuff_into, terminator};
use ringpost_protocol::envelope::{BodyType, Envelope, Utf8};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::notify::DsnParameters;
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::priority::Priority;
use ringpost_protocol::reply::ReplyDecoder;
use ringpost_protocol::sasl::Mechanism;
use ringpost_session::client::{
    AuthPrompt, ClientAuth, ClientConfig, ClientEvent, ClientSession, ClientTls, Dialect,
    SessionFailure, TransactionDsn, TransactionReport, TransactionRequest,
};
use ringpost_session::server::{
    Alias, Aliases, AuthQuestion, AuthRefusal, CloseReason, FlushOutcome, Peer, Refusal,
    ReversePaths, ServerConfig, ServerEvent, ServerSession, User,
};

/// A relaying client on a documentation address.
pub(crate) const TRUSTED: Peer =
    Peer { ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), may_relay: true };

/// A client of which another one speaks, and which has too many sessions.
pub(crate) const CROWDED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// What the wall clock shows when a message comes in: 2023-11-14T22:13:20Z.
pub(crate) const UNIX_MS: u64 = 1_700_000_000_000;

/// `[aliases]` at relay.test: what stands for what.
pub(crate) fn aliases(table: &[(&str, &[&str])]) -> Arc<Aliases> {
    let mailbox = |text: &&str| Mailbox::parse(text).unwrap();
    let entries = table.iter().map(|(address, members)| {
        Alias::new(&mailbox(address), members.iter().map(mailbox).collect())
    });
    Arc::new(Aliases::new(&Domain::parse("relay.test").unwrap(), entries.collect()))
}

/// A postmaster at this mailbox.
pub(crate) fn postmaster(mailbox: &str) -> Arc<Aliases> {
    aliases(&[("postmaster@relay.test", &[mailbox])])
}

/// SMTP without PIPELINING, or with it.
pub(crate) fn pipelining(is_used: bool) -> Dialect {
    let all = ExtensionSet::ALL;
    let extensions = if is_used { all } else { all.without(Extension::Pipelining) };
    Dialect { extensions, ..Dialect::default() }
}

/// A client that may not relay.
pub(crate) const STRANGER: Peer = Peer { may_relay: false, ..TRUSTED };

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) envelope: Envelope,
    pub(crate) content: Vec<u8>,
    pub(crate) received_fields: usize,
    pub(crate) hold_until: Option<u64>,
    pub(crate) added: MissingFields,
}

/// A server session with a driver that queues in memory.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is set by the tests that need it")]
pub(crate) struct Server {
    pub(crate) session: ServerSession,
    pub(crate) now: Instant,
    /// Everything the session has said.
    pub(crate) said: Vec<u8>,
    pub(crate) queued: Vec<Queued>,
    pub(crate) closed: Option<CloseReason>,
    /// What the driver answers for messages, unless it accepts them.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) aborted: usize,
    /// Whether the driver answers for messages at once.
    pub(crate) answers: bool,
    content: Vec<u8>,
    in_content: bool,
    /// Whether the session waits for a TLS handshake.
    pub(crate) starts_tls: bool,
    /// What the session has asked about users.
    pub(crate) questions: Vec<AuthQuestion>,
    /// Whether the driver answers that at once: `user` has the password `secret`.
    pub(crate) answers_auth: bool,
    /// What that user may give as reverse-path.
    pub(crate) reverse_paths: ReversePaths,
}

impl Server {
    pub(crate) fn new(config: ServerConfig, peer: Peer) -> Self {
        let now = Instant::now();
        let mut session = ServerSession::new(now, Arc::new(config), peer);
        session.set_unix_ms(UNIX_MS);
        Self {
            session,
            now,
            said: Vec::new(),
            queued: Vec::new(),
            closed: None,
            refusal: None,
            aborted: 0,
            answers: true,
            content: Vec::new(),
            in_content: false,
            starts_tls: false,
            questions: Vec::new(),
            answers_auth: true,
            reverse_paths: ReversePaths::Any,
        }
    }

    /// A server that has sent its greeting and heard EHLO.
    pub(crate) fn introduced(config: ServerConfig, peer: Peer) -> Self {
        let mut server = Self::new(config, peer);
        server.flush();
        server.send(b"EHLO client.test\r\n");
        server.said.clear();
        server
    }

    /// Hands in what has come in one read, and everything that follows from it.
    pub(crate) fn send(&mut self, mut segment: &[u8]) {
        self.send_some(&mut segment);
        assert!(segment.is_empty() || self.closed.is_some(), "{} octets left", segment.len());
    }

    /// As [`send`](Self::send), but leaves what the session does not take.
    pub(crate) fn send_some(&mut self, segment: &mut &[u8]) {
        loop {
            let consumed = self.session.handle_input(self.now, segment, &mut self.content);
            *segment = &segment[consumed..];
            let progress = self.handle_events() || consumed > 0;
            self.flush();
            if segment.is_empty() || !progress || self.closed.is_some() {
                return;
            }
        }
    }

    pub(crate) fn eof(&mut self) {
        self.session.handle_eof(self.now);
        self.handle_events();
        self.flush();
    }

    /// Lets time pass, timer by timer.
    pub(crate) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.session.poll_timeout().filter(|&at| at <= end) {
            self.now = deadline.max(self.now);
            self.session.handle_timeout(self.now);
            self.handle_events();
            self.flush();
        }
        self.now = end;
    }

    /// Polls all events; says whether there were any.
    pub(crate) fn handle_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.session.poll_event() {
            any = true;
            assert!(self.closed.is_none(), "{event:?} after the end");
            match event {
                ServerEvent::DataStarted => {
                    assert!(!self.in_content);
                    self.in_content = true;
                    self.content.clear();
                    self.session.set_origin(UNIX_MS / 1000, "00a1", &mut self.content);
                }
                ServerEvent::MessageReceived { size, received_fields, eight_bit } => {
                    assert!(self.in_content);
                    self.in_content = false;
                    assert_eq!(size, self.content.len() as u64);
                    assert_eq!(eight_bit, !self.content.is_ascii());
                    if self.answers {
                        self.answer(received_fields);
                    }
                }
                ServerEvent::TransactionAborted => {
                    assert!(self.in_content);
                    self.in_content = false;
                    self.aborted += 1;
                    self.content.clear();
                }
                ServerEvent::StartTls => self.starts_tls = true,
                // As a driver with one client that may relay, and one that has too many sessions.
                ServerEvent::ClientNamed { ip } => {
                    let peer = Peer { ip, may_relay: ip == TRUSTED.ip };
                    let peer = Some(peer).filter(|_| ip != CROWDED);
                    self.session.handle_client(self.now, peer);
                }
                ServerEvent::Authenticate => {
                    let question = self.session.take_auth_question().unwrap();
                    assert_eq!(self.session.take_auth_question(), None);
                    if self.answers_auth {
                        self.answer_auth(&question);
                    }
                    self.questions.push(question);
                }
                // A queue in which three wait for everybody.
                ServerEvent::Flush => {
                    let outcome = FlushOutcome::Done { recipients: 3 };
                    self.session.handle_flush(self.now, outcome);
                }
                ServerEvent::Closed(reason) => self.closed = Some(reason),
            }
        }
        any
    }

    pub(crate) fn answer_auth(&mut self, question: &AuthQuestion) {
        let AuthQuestion::Password { authorization, name, password, .. } = question else {
            return self.answer_scram(question);
        };
        let refusal = match (&**name, password.expose()) {
            ("user", b"secret") if authorization.is_none() => {
                let reverse_paths = self.reverse_paths.clone();
                let user = User { name: name.clone(), tenant: None, reverse_paths };
                return self.session.auth_accepted(self.now, Arc::new(user));
            }
            ("down", _) => AuthRefusal::Unavailable,
            ("busy", _) => AuthRefusal::Busy,
            _ => AuthRefusal::Credentials,
        };
        self.session.auth_refused(self.now, refusal);
    }

    /// The certificate is that of `user`.
    fn answer_external(&mut self, authorization: Option<&str>) {
        if authorization.is_some_and(|name| name != "user") {
            return self.session.auth_refused(self.now, AuthRefusal::Credentials);
        }
        let reverse_paths = self.reverse_paths.clone();
        let user = User { name: "user".into(), tenant: None, reverse_paths };
        self.session.auth_accepted(self.now, Arc::new(user));
    }

    /// An exchange of the shape that SCRAM has: `first`, `last` and an empty response.
    fn answer_scram(&mut self, question: &AuthQuestion) {
        let (is_first, message) = match question {
            AuthQuestion::Response { is_first, message, .. } => (is_first, message),
            AuthQuestion::External { authorization } => {
                return self.answer_external(authorization.as_deref());
            }
            AuthQuestion::Password { .. } => return,
        };
        match (is_first, &**message) {
            (true, b"first") => self.session.auth_challenge(self.now, b"server-first"),
            (false, b"last") => self.session.auth_challenge(self.now, b"server-last"),
            (false, b"") => {
                let reverse_paths = self.reverse_paths.clone();
                let user = User { name: "user".into(), tenant: None, reverse_paths };
                self.session.auth_accepted(self.now, Arc::new(user));
            }
            (false, b"bound") => self.session.auth_refused(self.now, AuthRefusal::Binding),
            (false, b"wrong") => self.session.auth_refused(self.now, AuthRefusal::Credentials),
            _ => self.session.auth_refused(self.now, AuthRefusal::Malformed),
        }
    }

    pub(crate) fn answer(&mut self, received_fields: usize) {
        let hold_until = self.session.hold_until(UNIX_MS);
        let added = self.session.added_fields();
        let envelope = self.session.take_envelope().unwrap();
        if let Some(refusal) = self.refusal {
            return self.session.message_refused(self.now, refusal);
        }
        let content = std::mem::take(&mut self.content);
        self.queued.push(Queued { envelope, content, received_fields, hold_until, added });
        let id = format!("q{}", self.queued.len());
        self.session.message_accepted(self.now, &id);
    }

    /// Lets the client read everything.
    pub(crate) fn flush(&mut self) {
        let output = self.session.transmit().to_vec();
        if !output.is_empty() {
            self.said.extend_from_slice(&output);
            self.session.transmitted(output.len());
        }
    }

    /// What the session has said, one line for each reply.
    pub(crate) fn replies(&self) -> Vec<String> {
        replies(&self.said)
    }
}

/// Decodes replies, which have to be complete and well formed.
pub(crate) fn replies(mut octets: &[u8]) -> Vec<String> {
    let mut decoder = ReplyDecoder::new();
    let mut replies = Vec::new();
    while !octets.is_empty() {
        let (consumed, reply) = decoder.decode(octets).unwrap();
        octets = &octets[consumed..];
        replies.extend(reply.map(|reply| reply.to_string()));
    }
    assert!(!decoder.is_inside_reply());
    replies
}

/// A message to be sent by a client.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) reverse_path: ReversePath,
    pub(crate) forward_paths: Vec<ForwardPath>,
    pub(crate) content: Vec<u8>,
    pub(crate) dsn: DsnParameters,
    /// How the content is encoded; `None` for what text is.
    pub(crate) body: Option<BodyType>,
    pub(crate) utf8: Utf8,
    pub(crate) priority: Priority,
    pub(crate) require_tls: bool,
    pub(crate) by: Option<ringpost_protocol::deliver_by::ByValue>,
}

impl Message {
    pub(crate) fn new(from: &str, to: &[&str], content: &[u8]) -> Self {
        Self {
            reverse_path: ReversePath::parse(from).unwrap(),
            forward_paths: to.iter().map(|path| ForwardPath::parse(path).unwrap()).collect(),
            content: content.to_vec(),
            dsn: DsnParameters::default(),
            body: None,
            utf8: Utf8::Unmarked,
            priority: Priority::NORMAL,
            by: None,
            require_tls: false,
        }
    }

    pub(crate) fn binary(self) -> Self {
        Self { body: Some(BodyType::BinaryMime), ..self }
    }
}

/// A client session with a driver that has its messages in memory.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) session: ClientSession,
    pub(crate) now: Instant,
    /// What is to be read by the server.
    pub(crate) said: Vec<u8>,
    pub(crate) reports: Vec<TransactionReport>,
    pub(crate) closed: Option<Option<SessionFailure>>,
    pub(crate) ready: usize,
    /// Handshakes asked for; they are up to the test.
    pub(crate) handshakes: usize,
    /// Times that STARTTLS was refused.
    pub(crate) tls_refused: usize,
    /// What was asked for to log in; the answers are up to the test.
    pub(crate) prompts: Vec<AuthPrompt>,
    /// By which mechanism that went well.
    pub(crate) logged_in: Option<Mechanism>,
    /// Whether the driver sends content when it is asked to.
    pub(crate) sends_content: bool,
    /// Times that the whole content has been sent.
    pub(crate) contents_sent: usize,
    /// Where the recipients of a message are among its own, if not at the same places.
    pub(crate) places: Option<Vec<usize>>,
    content: Vec<u8>,
    started: usize,
}

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self::with_tls(config, ClientTls::Off)
    }

    pub(crate) fn with_tls(config: ClientConfig, tls: ClientTls) -> Self {
        let now = Instant::now();
        Self {
            session: ClientSession::with_tls(now, Arc::new(config), tls),
            now,
            said: Vec::new(),
            reports: Vec::new(),
            closed: None,
            ready: 0,
            handshakes: 0,
            tls_refused: 0,
            prompts: Vec::new(),
            logged_in: None,
            sends_content: true,
            contents_sent: 0,
            places: None,
            content: Vec::new(),
            started: 0,
        }
    }

    pub(crate) fn with_dialect(mut self, dialect: Dialect) -> Self {
        self.session = self.session.with_dialect(dialect);
        self
    }

    pub(crate) fn with_auth(mut self, auth: ClientAuth) -> Self {
        self.session = self.session.with_auth(auth);
        self
    }

    pub(crate) fn start(&mut self, message: &Message) {
        let forward_paths: Vec<&ForwardPath> = message.forward_paths.iter().collect();
        let ascii = message.content.is_ascii();
        let same: Vec<usize> = (0..forward_paths.len()).collect();
        let places = self.places.as_deref().unwrap_or(&same);
        let dsn = TransactionDsn { parameters: &message.dsn, places };
        let text = if ascii { BodyType::SevenBit } else { BodyType::EightBitMime };
        let request = TransactionRequest {
            by: message.by,
            reverse_path: &message.reverse_path,
            forward_paths: &forward_paths,
            size: message.content.len() as u64,
            body: message.body.unwrap_or(text),
            utf8: message.utf8,
            priority: message.priority,
            require_tls: message.require_tls,
            dsn: (!message.dsn.is_empty()).then_some(dsn),
        };
        self.content.clone_from(&message.content);
        self.started += 1;
        self.session.start_transaction(self.now, &request).unwrap();
        self.drive();
    }

    /// Hands in what the server said in one read.
    pub(crate) fn hear(&mut self, octets: &[u8]) {
        self.session.handle_input(self.now, octets);
        self.drive();
    }

    pub(crate) fn eof(&mut self) {
        self.session.handle_eof(self.now);
        self.drive();
    }

    pub(crate) fn quit(&mut self) {
        self.session.quit(self.now);
        self.drive();
    }

    pub(crate) fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(deadline) = self.session.poll_timeout().filter(|&at| at <= end) {
            self.now = deadline.max(self.now);
            self.session.handle_timeout(self.now);
            self.drive();
        }
        self.now = end;
    }

    pub(crate) fn drive(&mut self) {
        while let Some(event) = self.session.poll_event() {
            assert!(self.closed.is_none(), "{event:?} after the end");
            match event {
                ClientEvent::Ready { .. } => self.ready += 1,
                ClientEvent::StartTls => self.handshakes += 1,
                ClientEvent::TlsRefused(_) => self.tls_refused += 1,
                ClientEvent::Auth(prompt) => self.prompts.push(prompt),
                ClientEvent::LoggedIn(mechanism) => self.logged_in = Some(mechanism),
                ClientEvent::SendContent if self.sends_content => self.send_content(),
                ClientEvent::SendChunk if self.sends_content => self.send_chunk(),
                ClientEvent::SendContent | ClientEvent::SendChunk => {}
                ClientEvent::TransactionDone(report) => self.reports.push(report),
                ClientEvent::Closed(failure) => self.closed = Some(failure),
            }
        }
        assert!(self.reports.len() <= self.started, "one report for each transaction");
        if self.closed.is_some() || self.session.is_ready() {
            assert_eq!(self.reports.len(), self.started, "a report for each transaction");
        }
        self.flush();
    }

    pub(crate) fn send_content(&mut self) {
        self.flush();
        let mut state = StuffState::default();
        let content = std::mem::take(&mut self.content);
        stuff_into(&content, &mut state, &mut self.said);
        self.said.extend_from_slice(terminator(state));
        self.contents_sent += 1;
        self.session.content_sent(self.now);
    }

    pub(crate) fn send_chunk(&mut self) {
        self.flush();
        self.said.append(&mut self.content);
        self.contents_sent += 1;
        self.session.content_sent(self.now);
    }

    fn flush(&mut self) {
        let output = self.session.transmit().to_vec();
        self.said.extend_from_slice(&output);
        self.session.transmitted(output.len());
    }

    /// Takes what the client has said since the last call.
    pub(crate) fn take_said(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.said)).unwrap()
    }

    /// The last report, in short: one word for each recipient.
    pub(crate) fn last_report(&self) -> Vec<String> {
        use ringpost_session::client::Verdict;

        let report = self.reports.last().unwrap();
        let word = |verdict: &Verdict| match verdict {
            Verdict::Reply(reply) => reply.code.to_string(),
            Verdict::Refused(refusal) => refusal.status().to_string(),
            Verdict::Failed(SessionFailure::Reply { reply, .. }) => {
                format!("ended by {}", reply.code)
            }
            Verdict::Failed(SessionFailure::Closed { .. }) => "closed".to_owned(),
            Verdict::Failed(SessionFailure::TimedOut { .. }) => "timed out".to_owned(),
            Verdict::Failed(SessionFailure::Protocol { .. }) => "violation".to_owned(),
            Verdict::Failed(_) => "aborted".to_owned(),
        };
        let recipients = report.recipients.iter();
        recipients.map(|found| format!("{} {}", found.stage, word(&found.verdict))).collect()
    }
}
