//! One outbound connection: bytes between an MX host and our `ClientSession`.
//!
//! One task opens the connection, makes one transaction after the other for as long as the engine has
//! jobs for it, waits idle for more, and ends. The session says what to send, the engine what to do
//! next; what a transaction came to goes to `settle` and is committed there.

mod auth;
pub(super) mod tls;

use std::{
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::{Duration, Instant},
};

use futures_lite::future::yield_now;
use ringpost_delivery::{ConnectFailure, ConnectionId, Job, Next, Settlement};
use ringpost_metrics::label::{ConnectFailure as ConnectFailureLabel, RemoteTlsFailure};
use ringpost_protocol::data::stuff::{StuffState, needs_stuffing, stuff_into, terminator};
use ringpost_protocol::path::ForwardPath;
use ringpost_queue::RecipientIndex;
use ringpost_session::client::{
    ClientEvent, ClientSession, Dialect, SessionFailure, Stage, TransactionDsn, TransactionRequest,
};

use self::tls::TlsTarget;
use super::{OpenCount, Shard, cache::CachedMessage};
use crate::{
    auth::Login,
    runtime::{Read, Runtime, Stream},
    tls::Transport,
};

/// Read buffer of a connection: replies are short.
const REPLY_BLOCK_SIZE: usize = 4096;

/// Content handed to the socket at a time, so that a slow receiver is seen to make progress.
const CONTENT_WRITE_SIZE: usize = 256 * 1024;

/// How long the last reply of a connection that broke is waited for; it is there, or it is not.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// Blocks of it that are read.
const LAST_WORDS_BLOCKS_MAX: usize = 16;

/// Where a connection goes.
pub(super) struct Target {
    pub(super) connection: ConnectionId,
    pub(super) address: SocketAddr,
    pub(super) mx_host: Rc<str>,
    pub(super) site: Rc<str>,
    pub(super) source: Option<IpAddr>,
    pub(super) tls: TlsTarget,
    /// Until we are logged in, if we are to.
    pub(super) login: Option<Box<Login>>,
    pub(super) dialect: Dialect,
}

/// Opens the connection and serves it to its end.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>, target: Target) {
    let ending = Ending { shard: Rc::clone(&shard), connection: target.connection, told: false };
    if target.tls.is_outdated() {
        tracing::debug!(site = %target.site, "what a policy takes to shake hands is gone");
        return ending.cannot_begin();
    }
    if target.login.as_ref().is_some_and(|login| login.credentials().is_none()) {
        tracing::debug!(site = %target.site, "the credentials of a site are gone");
        return ending.cannot_begin();
    }
    let timeout = shard.config().config().delivery.connect_timeout;
    let connected = shard.runtime.connect(target.address, target.source, timeout).await;
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => return ending.connect_failed(&target, &error),
    };
    // Counted from here on: a host that does not answer must not hold up a shutdown.
    let _open = OpenCount::new(&shard.outbound_open);
    shard.connections.borrow_mut().insert(target.connection, Rc::clone(stream.watch()));
    let config = Rc::clone(&shard).client_config.borrow().clone();
    let tls = target.tls.policy.session();
    let mut session =
        ClientSession::with_tls(shard.runtime.now(), config, tls).with_dialect(target.dialect);
    if let Some(login) = &target.login {
        session = session.with_auth(login.session(target.address.ip()));
    }
    let outbound = Outbound {
        session,
        stream: Transport::new(stream),
        block: vec![0; REPLY_BLOCK_SIZE],
        in_hand: None,
        idle_until: None,
        target,
        shard,
    };
    outbound.serve(ending).await;
}

/// Tells the engine that a connection is over, even when its task ends by a panic.
struct Ending<R: Runtime> {
    shard: Rc<Shard<R>>,
    connection: ConnectionId,
    told: bool,
}

impl<R: Runtime> Ending<R> {
    /// Says that it is for us that nothing comes of it: nothing is learned about the host.
    fn cannot_begin(self) {
        self.give_up(ConnectFailure::LocalResource, ConnectFailureLabel::Local);
    }

    fn connect_failed(self, target: &Target, error: &io::Error) {
        let (failure, label) = classify(error);
        tracing::debug!(
            site = %target.site, mx_host = %target.mx_host, address = %target.address, %error,
            "cannot connect"
        );
        self.give_up(failure, label);
    }

    fn give_up(mut self, failure: ConnectFailure, label: ConnectFailureLabel) {
        self.shard.metrics.connect_failures.increment(label);
        self.told = true;
        self.shard.with_engine(|engine, now| {
            engine.handle_connect_failed(now, self.connection, failure);
        });
    }

    fn closed(mut self, failure: Option<&SessionFailure>) -> Option<Settlement> {
        self.told = true;
        self.shard.connections.borrow_mut().remove(&self.connection);
        self.shard.with_engine(|engine, now| engine.handle_closed(now, self.connection, failure))
    }
}

impl<R: Runtime> Drop for Ending<R> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        self.shard.connections.borrow_mut().remove(&self.connection);
        let shard = Rc::clone(&self.shard);
        let now = shard.now();
        // Not through `with_engine`: this may run while a panic unwinds, which is not the engine's.
        // The job goes back untried; the engine bounds how often.
        let settlement = shard.engine.borrow_mut().handle_closed(now, self.connection, None);
        shard.carry_out_actions();
        if let Some(settlement) = settlement {
            shard.settlements.push(settlement);
        }
    }
}

fn classify(error: &io::Error) -> (ConnectFailure, ConnectFailureLabel) {
    match error.kind() {
        io::ErrorKind::TimedOut => (ConnectFailure::TimedOut, ConnectFailureLabel::TimedOut),
        io::ErrorKind::ConnectionRefused => (ConnectFailure::Refused, ConnectFailureLabel::Refused),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            (ConnectFailure::Unreachable, ConnectFailureLabel::Unreachable)
        }
        io::ErrorKind::ConnectionReset => (ConnectFailure::Failed, ConnectFailureLabel::Reset),
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => {
            (ConnectFailure::LocalResource, ConnectFailureLabel::Local)
        }
        _ => match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS) => {
                (ConnectFailure::LocalResource, ConnectFailureLabel::Local)
            }
            _ => (ConnectFailure::Failed, ConnectFailureLabel::Other),
        },
    }
}

/// A job being carried out.
struct InHand {
    message: Rc<CachedMessage>,
    /// The message as the remote can take it, which is sent.
    fitted: Rc<CachedMessage>,
    started: Instant,
}

struct Outbound<R: Runtime> {
    shard: Rc<Shard<R>>,
    target: Target,
    session: ClientSession,
    stream: Transport<R::Stream>,
    block: Vec<u8>,
    in_hand: Option<InHand>,
    /// Until when to wait for work; `None` while there is some.
    idle_until: Option<Instant>,
}

impl<R: Runtime> Outbound<R> {
    async fn serve(mut self, ending: Ending<R>) {
        loop {
            while let Some(event) = self.session.poll_event() {
                match event {
                    ClientEvent::StartTls => self.start_tls().await,
                    ClientEvent::TlsRefused(reply) => {
                        tracing::debug!(
                            site = %self.target.site, mx_host = %self.target.mx_host,
                            address = %self.target.address, %reply, "STARTTLS is refused"
                        );
                        let failures = &self.shard.metrics.remote_tls_failures;
                        failures.increment(RemoteTlsFailure::Refused);
                    }
                    ClientEvent::Auth(prompt) => self.answer_auth(prompt).await,
                    ClientEvent::LoggedIn(mechanism) => self.note_login(mechanism),
                    ClientEvent::Ready { .. } => {
                        self.shard.metrics.connections_opened.increment(1);
                        let connection = self.target.connection;
                        self.shard.with_engine(|engine, now| engine.handle_ready(now, connection));
                        self.begin_next().await;
                    }
                    // Nothing is taken by the remote yet, and what it took could not be noted.
                    ClientEvent::SendContent | ClientEvent::SendChunk
                        if self.shard.is_poisoned() =>
                    {
                        self.session.abort();
                    }
                    ClientEvent::SendContent => {
                        if let Err(error) = self.send_content().await {
                            self.break_off(&error).await;
                        }
                    }
                    ClientEvent::SendChunk => {
                        if let Err(error) = self.send_chunk().await {
                            self.break_off(&error).await;
                        }
                    }
                    ClientEvent::TransactionDone(report) => {
                        self.finish(&report);
                        if report.session_usable {
                            self.begin_next().await;
                        }
                    }
                    ClientEvent::Closed(failure) => {
                        match &failure {
                            Some(failure) => self.note_failure(failure),
                            None => self.say_goodbye().await,
                        }
                        let settlement = ending.closed(failure.as_ref());
                        if let Some(settlement) = settlement {
                            match self.in_hand.take() {
                                Some(job) => self.shard.settle(&settlement, &job.message, None),
                                None => self.shard.settlements.push(settlement),
                            }
                        }
                        return;
                    }
                }
            }
            if let Err(error) = self.flush().await {
                self.break_off(&error).await;
                continue;
            }
            self.await_input().await;
        }
    }

    fn note_failure(&self, failure: &SessionFailure) {
        if matches!(failure.stage(), Stage::Greeting | Stage::Ehlo) {
            self.shard.metrics.connect_failures.increment(ConnectFailureLabel::Greeting);
        }
        self.note_login_failure(failure);
        tracing::debug!(
            site = %self.target.site, mx_host = %self.target.mx_host,
            address = %self.target.address, %failure, "session ended"
        );
    }

    async fn await_input(&mut self) {
        let deadline = self.idle_until.or_else(|| self.session.poll_timeout());
        self.stream.watch().set_deadline(deadline);
        let read = self.stream.read(&mut self.block).await;
        let now = self.shard.runtime.now();
        match read {
            Ok(Read::Data(count)) => {
                self.session.handle_input(now, self.block.get(..count).unwrap_or_default());
            }
            Ok(Read::End) | Err(_) => self.session.handle_eof(now),
            Ok(Read::TimedOut | Read::Notified) if self.idle_until.is_some() => {
                self.begin_next().await;
            }
            Ok(Read::TimedOut) => self.session.handle_timeout(now),
            Ok(Read::Notified) if self.in_hand.is_none() && !self.shard.may_deliver() => {
                self.session.abort();
            }
            // Busy: what the notification is about is looked at after the transaction.
            Ok(Read::Notified) => {}
        }
    }

    /// Takes that a write failed, after reading what the remote said before it went: a server that
    /// refuses content while it comes answers, and closes.
    async fn break_off(&mut self, error: &io::Error) {
        let now = self.shard.runtime.now();
        if error.kind() == io::ErrorKind::TimedOut {
            self.session.handle_timeout(now);
            return self.session.handle_eof(now);
        }
        self.stream.watch().set_deadline(Some(now + LAST_WORDS_TIMEOUT));
        for _ in 0..LAST_WORDS_BLOCKS_MAX {
            match self.stream.read(&mut self.block).await {
                Ok(Read::Data(count)) => {
                    let words = self.block.get(..count).unwrap_or_default();
                    self.session.handle_input(self.shard.runtime.now(), words);
                }
                Ok(Read::Notified) => {}
                Ok(Read::End | Read::TimedOut) | Err(_) => break,
            }
        }
        self.session.handle_eof(self.shard.runtime.now());
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.session.transmit().is_empty() {
            self.stream.watch().set_deadline(self.session.poll_timeout());
            let output = self.session.transmit();
            self.stream.write_all(output).await?;
            let count = output.len();
            self.session.transmitted(count);
        }
        Ok(())
    }

    /// Asks the engine what to do next, and begins it.
    async fn begin_next(&mut self) {
        self.idle_until = None;
        loop {
            // The remote may have ended the session in the same breath: `Closed` comes next then,
            // and no job may be spent on it.
            if !self.session.is_ready() {
                return;
            }
            if !self.shard.may_deliver() {
                return self.session.quit(self.shard.runtime.now());
            }
            let connection = self.target.connection;
            match self.shard.with_engine(|engine, now| engine.next_job(now, connection)) {
                Next::Deliver(job) => {
                    if self.begin(&job).await {
                        return;
                    }
                }
                Next::Idle { until } => {
                    self.idle_until = Some(until);
                    return;
                }
                Next::Close => return self.session.quit(self.shard.runtime.now()),
            }
        }
    }

    /// Starts the transaction of `job`; if its message cannot be had the job is deferred.
    async fn begin(&mut self, job: &Job) -> bool {
        let narrowed;
        let job = match self.narrow(job) {
            None => job,
            Some(left) if left.recipients.is_empty() => {
                self.shard.cache.borrow_mut().remove(left.id);
                // There may be very many of them.
                yield_now().await;
                return false;
            }
            Some(left) => {
                narrowed = left;
                &narrowed
            }
        };
        match self.shard.message(job.id).await {
            // Reading took its time: begin nothing of which the outcome could not be kept.
            Ok(_) if !self.shard.may_deliver() => {
                self.session.quit(self.shard.runtime.now());
                true
            }
            Ok(message) => {
                let fitted = self.shard.fitted(&message, self.session.extensions()).await;
                self.start(job, message, fitted)
            }
            Err(error) => {
                tracing::error!(id = %job.id, %error, "cannot read a queued message");
                self.fail_job();
                false
            }
        }
    }

    /// The job without the recipients that were purged; `None` when none was.
    fn narrow(&self, job: &Job) -> Option<Job> {
        let shard = &self.shard;
        if !shard.has_purged.get()
            || job.recipients.iter().all(|index| shard.is_queued(job.id, *index))
        {
            return None;
        }
        let connection = self.target.connection;
        let stays = |index| shard.is_queued(job.id, index);
        let recipients = shard.with_engine(|engine, now| engine.narrow_job(now, connection, stays));
        Some(Job { recipients, ..job.clone() })
    }

    fn start(&mut self, job: &Job, message: Rc<CachedMessage>, fitted: Rc<CachedMessage>) -> bool {
        let now = self.shard.runtime.now();
        let paths: Vec<&ForwardPath> = job
            .recipients
            .iter()
            .filter_map(|index| message.envelope.forward_paths.get(usize::from(index.0)))
            .collect();
        let parameters = &message.envelope.dsn;
        let places: Vec<usize> = if parameters.is_empty() {
            Vec::new()
        } else {
            job.recipients.iter().map(|index| usize::from(index.0)).collect()
        };
        let dsn = TransactionDsn { parameters, places: &places };
        let by = message.envelope.deliver_by.map(|by| {
            // When one was not told, the next hop has to do so.
            let is_told = self.is_warned(job);
            by.value(self.shard.runtime.unix_ms(), is_told)
        });
        let request = TransactionRequest {
            by,
            reverse_path: &message.envelope.reverse_path,
            forward_paths: &paths,
            size: fitted.content_size(),
            body: fitted.envelope.body,
            utf8: message.envelope.utf8,
            priority: message.envelope.priority,
            require_tls: message.envelope.require_tls,
            dsn: (!parameters.is_empty()).then_some(dsn),
        };
        let is_started = paths.len() == job.recipients.len()
            && self.session.start_transaction(now, &request).is_ok();
        drop(paths);
        if is_started {
            self.in_hand = Some(InHand { message, fitted, started: now });
        } else {
            tracing::error!(id = %job.id, "a job does not fit its message or its session");
            self.fail_job();
        }
        is_started
    }

    /// Whether the originator was told that delivery to all recipients of a job is late.
    fn is_warned(&self, job: &Job) -> bool {
        let queue = self.shard.queue.borrow();
        let Some(view) = queue.message(job.id) else { return false };
        let state = |index: &RecipientIndex| view.recipients.get(usize::from(index.0));
        job.recipients.iter().all(|index| state(index).is_some_and(|state| state.warned))
    }

    fn fail_job(&self) {
        let connection = self.target.connection;
        let settlement =
            self.shard.with_engine(|engine, now| engine.handle_job_failed(now, connection));
        if let Some(settlement) = settlement {
            self.shard.settlements.push(settlement);
        }
    }

    fn finish(&mut self, report: &ringpost_session::client::TransactionReport) {
        let connection = self.target.connection;
        let settlement =
            self.shard.with_engine(|engine, now| engine.handle_report(now, connection, report));
        let Some(job) = self.in_hand.take() else { return };
        self.shard.metrics.transactions.increment(1);
        let duration = self.shard.runtime.now() - job.started;
        self.shard.metrics.transaction_duration.record(duration);
        if let Some(settlement) = settlement {
            self.shard.settle(&settlement, &job.message, Some(duration));
        }
    }

    /// Writes the content with its dots stuffed, and the terminator, in as few writes as possible.
    async fn send_content(&mut self) -> io::Result<()> {
        self.flush().await?;
        let Some(job) = &self.in_hand else { return Ok(()) };
        let message = Rc::clone(&job.fitted);
        let mut state = StuffState::default();
        let mut stuffed = Vec::new();
        let mut parts = message.content.iter().filter(|part| !part.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let is_plain = !needs_stuffing(part, state);
            if is_plain {
                state = state.after(part);
            } else {
                stuffed.clear();
                stuff_into(part, &mut state, &mut stuffed);
            }
            let bytes = if is_plain { part.as_slice() } else { stuffed.as_slice() };
            let end: &[u8] = if parts.peek().is_none() { terminator(state) } else { &[] };
            self.send_part(bytes, end).await?;
        }
        if message.content.iter().all(Vec::is_empty) {
            self.send_part(&[], terminator(state)).await?;
        }
        self.session.content_sent(self.shard.runtime.now());
        Ok(())
    }

    /// Writes the content as it is: its octets have been counted.
    async fn send_chunk(&mut self) -> io::Result<()> {
        self.flush().await?;
        let Some(job) = &self.in_hand else { return Ok(()) };
        let message = Rc::clone(&job.fitted);
        for part in message.content.iter().filter(|part| !part.is_empty()) {
            self.send_part(part, &[]).await?;
        }
        self.session.content_sent(self.shard.runtime.now());
        Ok(())
    }

    async fn send_part(&mut self, bytes: &[u8], end: &[u8]) -> io::Result<()> {
        let (last, all_but_last) = match bytes.len().checked_sub(1) {
            Some(len) => {
                let split = len / CONTENT_WRITE_SIZE * CONTENT_WRITE_SIZE;
                let (head, tail) = bytes.split_at(split);
                (tail, head)
            }
            None => (bytes, &[][..]),
        };
        for block in all_but_last.chunks(CONTENT_WRITE_SIZE) {
            self.stream.watch().set_deadline(self.session.poll_timeout());
            self.stream.write_all(block).await?;
            self.session.content_progressed(self.shard.runtime.now());
        }
        self.stream.watch().set_deadline(self.session.poll_timeout());
        let mut parts = [IoSlice::new(last), IoSlice::new(end)];
        self.stream.write_all_vectored(&mut parts).await?;
        self.session.content_progressed(self.shard.runtime.now());
        Ok(())
    }
}
