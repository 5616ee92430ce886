//! One inbound connection: bytes between a client and its `ServerSession`.
//!
//! The session decides; this file reads, writes, streams content into the log, and waits for the
//! commit. All replies that one read gives rise to go out in one write.

mod auth;
mod buffers;
mod counts;
mod flush;
mod proxy;
mod tls;

use std::{io, net::IpAddr, rc::Rc, sync::Arc, time::Instant};

use ringpost_metrics::{
    event::{Event, EventRecord, Reception},
    label::SessionEnd,
};
use ringpost_protocol::{address::Domain, envelope::Envelope, path::ForwardPath, trace::Received};
use ringpost_queue::{AppendError, BatchNumber, Committed, MessageId, NewMessage};
use ringpost_session::server::{
    CloseReason, Peer, Refusal, ServerEvent, ServerSession, ServerStats, TransactionRefusal,
};

use self::buffers::Buffers;
use super::{
    OpenCount, Shard,
    activity::Heard,
    cache::CachedMessage,
    commit::{StorageLost, fresh_message},
    events::event_labels,
    listener::{Admitted, ListenerContext},
};
use crate::{
    auth::{Account, Users},
    runtime::{Read, Runtime, Stream},
    tls::{ClientIdentity, Transport},
};

/// Bytes we still read after the last reply, so that a reset does not destroy it on its way.
const LINGER_SIZE_MAX: usize = 256 * 1024;

/// How long we wait for the client to close after our last reply.
const LINGER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Serves a connection to its end.
pub(super) async fn serve<R: Runtime>(
    shard: Rc<Shard<R>>,
    mut admitted: Admitted,
    mut stream: R::Stream,
) {
    let _open = OpenCount::new(&shard.sessions_open);
    let mut buffers = Buffers::new();
    let proxy = admitted.is_proxied().then_some(admitted.peer);
    if proxy.is_some()
        && !proxy::admit(&shard, &mut admitted, &mut stream, &mut buffers.input).await
    {
        return;
    }
    admitted.listener.metrics().sessions_accepted.increment(1);
    let peer = Peer { ip: admitted.client, may_relay: admitted.may_relay };
    let now = shard.runtime.now();
    let mut session = ServerSession::new(now, admitted.listener.server_config(), peer);
    session.set_stress(now, shard.stress.is_crowded());
    session.set_names_clients(admitted.names_clients());
    session.set_may_flush(admitted.may_flush());
    let lifetime = admitted.listener.lifetime();
    let mut inbound = Inbound {
        session,
        tells_tls: admitted.listener.tells_tls(),
        stream: Transport::new(stream),
        buffers,
        proxy,
        receiving: None,
        lifetime,
        transaction: None,
        account: None,
        users: None,
        scram: None,
        identity: None,
        heard: Heard::default(),
        published: ServerStats::default(),
        listener: Rc::clone(&admitted.listener),
        admitted,
        shard: Rc::clone(&shard),
    };
    let end = inbound.serve().await;
    drop(inbound);
    shard.metrics.sessions_closed.increment(end);
}

/// A message whose content is coming in.
struct Receiving {
    id: MessageId,
    /// How it comes, for the trace field and the event.
    protocol: &'static str,
    received_unix_ms: u64,
    /// Octets of content in the log already, as chunks.
    streamed_size: u64,
    /// The chunks, kept for the first delivery attempt while they are few.
    kept: Vec<Vec<u8>>,
    /// The batch of the last chunk: the next one waits for it, so that memory stays bounded.
    last_batch: Option<BatchNumber>,
    /// When it may be sent at the earliest, if the client wants that later than now.
    hold_until_unix_ms: Option<u64>,
    /// Why the message cannot be taken; its content is read to the end and dropped.
    refusal: Option<Refusal>,
}

struct Inbound<R: Runtime> {
    shard: Rc<Shard<R>>,
    listener: Rc<ListenerContext>,
    admitted: Admitted,
    session: ServerSession,
    stream: Transport<R::Stream>,
    /// Whether `Received` fields say how the session is encrypted.
    tells_tls: bool,
    buffers: Buffers,
    /// The proxy that has told of the client, if one has.
    proxy: Option<IpAddr>,
    receiving: Option<Receiving>,
    /// How long its listener lets messages be tried, if it says so.
    lifetime: Option<std::time::Duration>,
    /// Counts the transaction among those that may share a commit.
    transaction: Option<OpenCount>,
    /// Who the client is, if it has shown to be a user.
    account: Option<Arc<Account>>,
    /// The users among which it was, or has been found again.
    users: Option<Arc<Users>>,
    scram: Option<auth::ScramStep>,
    /// Who the client is by its certificate, if it has shown a good one.
    identity: Option<Box<ClientIdentity>>,
    heard: Heard,
    /// What of the session's counts is in the metrics.
    published: ServerStats,
}

impl<R: Runtime> Drop for Inbound<R> {
    /// Gives up what a session that failed was receiving, or its chunks would pin the log.
    fn drop(&mut self) {
        if let (Some(receiving), Ok(mut queue)) =
            (self.receiving.take(), self.shard.queue.try_borrow_mut())
        {
            queue.abandon(receiving.id);
        }
    }
}

impl<R: Runtime> Inbound<R> {
    // By reference, here and in `close`: each move would be one more copy of all that in the task.
    async fn serve(&mut self) -> SessionEnd {
        loop {
            if !self.buffers.input.is_empty() {
                self.shard.intake_turn().await;
            }
            let mut has_progressed = self.take_input();
            if self.session.awaits_admission() {
                self.await_admission().await;
                has_progressed = true;
            }
            self.count_transaction();
            while let Some(event) = self.session.poll_event() {
                has_progressed = true;
                match event {
                    ServerEvent::DataStarted => self.start_message(),
                    ServerEvent::MessageReceived { .. } => self.finish_message().await,
                    ServerEvent::TransactionAborted => self.abort_message(),
                    ServerEvent::StartTls => self.start_tls().await,
                    ServerEvent::ClientNamed { ip } => self.name_client(ip),
                    ServerEvent::Flush => self.flush_queue().await,
                    ServerEvent::Authenticate => self.authenticate().await,
                    ServerEvent::Closed(reason) => {
                        self.close(reason).await;
                        return session_end(reason);
                    }
                }
            }
            self.count_transaction();
            self.publish();
            if self.buffers.content.len() >= self.shard.queue.borrow().config().chunk_size {
                self.stream_chunk().await;
            }
            if has_progressed && !self.buffers.input.is_empty() {
                continue;
            }
            let moved = match self.flush().await {
                // The session has had no room for replies, and has now.
                Ok(true) if !self.buffers.input.is_empty() => Ok(()),
                Ok(_) => self.read().await,
                Err(error) => Err(error),
            };
            if let Err(error) = moved {
                self.fail(&error);
                return network_end(&error);
            }
        }
    }

    /// Lets a MAIL go on when it is known whether it may.
    async fn await_admission(&mut self) {
        let admission = self.shard.decide_admission().await;
        self.session.set_admission(admission);
        self.session.resume(self.shard.runtime.now());
    }

    /// Takes the client that the other end speaks for.
    fn name_client(&mut self, client: IpAddr) {
        let now = self.shard.runtime.now();
        self.listener.metrics().clients_named.increment(1);
        self.identity = None;
        let peer = match self.admitted.name_client(now, Some(client)) {
            Ok(()) => {
                self.proxy = Some(self.admitted.peer);
                Some(Peer { ip: client, may_relay: self.admitted.may_relay })
            }
            Err(limit) => {
                self.listener.metrics().sessions_refused.increment(1);
                self.shard.metrics.limit_hits.increment(limit);
                None
            }
        };
        self.session.handle_client(now, peer);
        self.session.set_may_flush(self.admitted.may_flush());
    }

    fn count_transaction(&mut self) {
        let is_open = self.session.envelope().is_some();
        if is_open != self.transaction.is_some() {
            self.transaction = is_open.then(|| OpenCount::new(&self.shard.transactions_open));
        }
    }

    /// Publishes what the session has refused since the last time.
    fn publish(&mut self) {
        let refusal = TransactionRefusal::QueueFull;
        let stats = self.session.stats();
        let full =
            stats.transactions_refused(refusal) - self.published.transactions_refused(refusal);
        if full > 0 {
            let limit = self.shard.pressure().limit;
            self.shard.metrics.limit_hits.with(limit).increment(full.into());
        }
        let aliases = stats.aliases_expanded - self.published.aliases_expanded;
        self.listener.metrics().aliases_expanded.increment(aliases.into());
        counts::publish(&self.shard.metrics, &mut self.published, self.session.stats());
    }

    /// Ends a session whose connection cannot be used any more.
    fn fail(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidData {
            self.listener.metrics().tls_breaks.increment(1);
        }
        let now = self.shard.runtime.now();
        if error.kind() == io::ErrorKind::TimedOut {
            self.session.handle_timeout(now);
        }
        self.session.handle_eof(now);
        self.abort_message();
        self.publish();
    }

    /// Hands the session what was read; whether it took any of it.
    fn take_input(&mut self) -> bool {
        if self.buffers.input.is_empty() {
            return false;
        }
        self.shard.activity.note(&mut self.heard);
        self.session.set_admission(self.shard.session_admission());
        if self.receiving.is_none() {
            self.session.set_unix_ms(self.shard.runtime.unix_ms());
        }
        if self.session.offers_starttls() {
            self.session.set_tls_available(self.listener.has_room_for_handshake());
        }
        self.look_at_user();
        let Buffers { input, content } = &mut self.buffers;
        let now = self.shard.runtime.now();
        self.session.set_stress(now, self.shard.stress.is_crowded());
        let taken = self.session.handle_input(now, input.bytes(), content);
        input.consume(taken);
        taken > 0
    }

    /// Writes all replies that wait, in one write; whether there were any.
    async fn flush(&mut self) -> io::Result<bool> {
        let has_replies = !self.session.transmit().is_empty();
        while !self.session.transmit().is_empty() {
            self.stream.watch().set_deadline(self.session.poll_timeout());
            let output = self.session.transmit();
            self.stream.write_all(output).await?;
            let count = output.len();
            self.session.transmitted(count);
        }
        Ok(has_replies)
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.receiving.is_none() {
            // Commands that came in with content may have kept its buffer until now.
            self.buffers.expect_commands();
        }
        self.stream.watch().set_deadline(self.session.poll_timeout());
        let read = self.stream.read(self.buffers.input.space()).await?;
        match read {
            Read::Data(count) => self.buffers.input.filled(count),
            Read::End => {
                if self.stream.is_truncated() {
                    self.listener.metrics().tls_breaks.increment(1);
                }
                self.session.handle_eof(self.shard.runtime.now());
            }
            Read::TimedOut => self.session.handle_timeout(self.shard.runtime.now()),
            Read::Notified if self.shard.is_draining() => {
                self.session.shut_down(self.shard.runtime.now());
            }
            Read::Notified if self.shard.intake.has_left() => {
                self.session.lead_elsewhere(self.shard.runtime.now());
            }
            Read::Notified => {
                let is_crowded = self.shard.stress.is_crowded();
                self.session.set_stress(self.shard.runtime.now(), is_crowded);
            }
        }
        Ok(())
    }

    fn start_message(&mut self) {
        let shard = &self.shard;
        let id = shard.with_queue_lazily(ringpost_queue::Queue::next_id);
        let received_unix_ms = shard.runtime.unix_ms();
        self.buffers.expect_content(self.session.declared_size().unwrap_or(0));
        let recipient = self.session.envelope().and_then(only_recipient).map(ToString::to_string);
        let protocol = self.session.protocol();
        let config = shard.config();
        let id_text = id.to_string();
        Received {
            from_helo: self.session.helo().unwrap_or_default(),
            peer_name: self
                .session
                .named_client()
                .and_then(|named| named.name.as_ref())
                .map(Domain::as_str),
            peer: self.session.peer().ip,
            by: config.hostname(),
            protocol,
            id: &id_text,
            recipient: recipient.as_deref(),
            tls_cipher: self.session.tls().filter(|_| self.tells_tls).map(|tls| tls.cipher),
            priority: self.session.priority_given(),
            unix_seconds: received_unix_ms / 1000,
        }
        .write(&mut self.buffers.content);
        let content = &mut self.buffers.content;
        self.session.set_origin(received_unix_ms / 1000, &id_text, content);
        self.receiving = Some(Receiving {
            id,
            protocol,
            received_unix_ms,
            streamed_size: 0,
            kept: Vec::new(),
            last_batch: None,
            hold_until_unix_ms: None,
            refusal: None,
        });
    }

    /// Moves the content so far into the log, once the chunk before it is written.
    async fn stream_chunk(&mut self) {
        let Some(receiving) = &mut self.receiving else { return };
        let content = &mut self.buffers.content;
        if receiving.refusal.is_none() {
            let appended = match receiving.last_batch.take() {
                Some(batch) => self.shard.written(batch).await.map_err(|_| Refusal::Unavailable),
                None => Ok(()),
            };
            let appended = appended.and_then(|()| {
                let append =
                    |queue: &mut ringpost_queue::Queue| queue.append_chunk(receiving.id, content);
                self.shard.with_queue(append).map_err(refusal)
            });
            match appended {
                Ok(batch) => receiving.last_batch = Some(batch),
                Err(refusal) => receiving.refusal = Some(refusal),
            }
        }
        if receiving.refusal.is_some() {
            content.clear();
            return;
        }
        receiving.streamed_size += content.len() as u64;
        if receiving.kept.len() < self.shard.chunks_kept_max() {
            let capacity = content.len();
            let chunk = std::mem::replace(content, Vec::with_capacity(capacity));
            receiving.kept.push(chunk);
        } else {
            // Too large to be kept: its delivery reads the log.
            receiving.kept.clear();
            content.clear();
        }
    }

    /// Commits a complete message and answers for it.
    async fn finish_message(&mut self) {
        let ended = self.shard.runtime.now();
        let content = std::mem::take(&mut self.buffers.content);
        self.buffers.expect_commands();
        let Some(mut receiving) = self.receiving.take() else {
            return self.session.message_refused(ended, Refusal::Unavailable);
        };
        receiving.hold_until_unix_ms = self.session.hold_until(receiving.received_unix_ms);
        let added = self.session.added_fields();
        let deliver_by = self.session.deliver_by(ended, self.shard.runtime.unix_ms());
        let Some(mut envelope) = self.session.take_envelope() else {
            return self.session.message_refused(ended, Refusal::Unavailable);
        };
        envelope.deliver_by = deliver_by;
        let id = receiving.id;
        let committed = match receiving.refusal {
            Some(refusal) => Err(refusal),
            None if !self.count_user_message() => Err(Refusal::UserRate),
            None => self.commit(receiving, envelope, content, ended).await,
        };
        let now = self.shard.runtime.now();
        match committed {
            Ok(committed) => {
                counts::count_added(self.listener.metrics(), added);
                acknowledge(&mut self.session, now, &committed);
            }
            Err(refusal) => {
                self.shard.with_queue_lazily(|queue| queue.abandon(id));
                // The session may have to end behind this.
                self.session.set_admission(self.shard.session_admission());
                self.session.message_refused(now, refusal);
            }
        }
    }

    /// Appends the message to the log and waits until it is durable.
    async fn commit(
        &self,
        receiving: Receiving,
        envelope: Envelope,
        content: Vec<u8>,
        ended: Instant,
    ) -> Result<Committed, Refusal> {
        let shard = &self.shard;
        let id = receiving.id;
        let received_unix_ms = receiving.received_unix_ms;
        let due_unix_ms = receiving.hold_until_unix_ms.unwrap_or(received_unix_ms);
        let expiry_unix_ms =
            due_unix_ms.saturating_add(shard.lifetime_ms(&envelope, self.lifetime));
        let expiry_unix_ms = expiry_unix_ms.min(envelope.returned_unix_ms());
        let size = receiving.streamed_size + content.len() as u64;
        let message = NewMessage {
            id,
            received_unix_ms,
            expiry_unix_ms,
            due_unix_ms,
            envelope: &envelope,
            content: &content,
            size,
        };
        let mut lines = shard.events.lines();
        lines.push(&EventRecord {
            time_unix_ms: shard.runtime.unix_ms(),
            event: Event::Received(Reception {
                id: &id,
                reverse_path: &envelope.reverse_path.bare(),
                recipients: envelope.forward_paths.len() as u64,
                size,
                client: &self.session.peer().ip,
                proxy: self.proxy.as_ref().map(|proxy| proxy as _),
                helo: &self.session.helo().unwrap_or_default(),
                protocol: receiving.protocol,
                login: self
                    .session
                    .named_client()
                    .and_then(|named| named.login.as_ref())
                    .map(|login| login as _),
                user: self.session.user().map(|user| &*user.name),
                labels: event_labels(&envelope),
                listener: Some(self.listener.name()),
                tls: self.session.tls().map(|tls| (tls.version.as_str(), tls.cipher)),
                hold_until_unix_ms: receiving.hold_until_unix_ms,
                priority: envelope.priority.level(),
                tls_optional: envelope.tls_optional,
                deliver_by: envelope.deliver_by.map(|by| (by.by_unix_ms, by.mode.as_str())),
            }),
        });
        let ticket = shard
            .with_queue(|queue| queue.append_message(message, lines.records()))
            .map_err(refusal)?;
        shard.events.keep(&ticket, lines);
        // From here on the message will be delivered, whatever becomes of this session.
        let mut fresh = fresh_message(
            id,
            received_unix_ms,
            expiry_unix_ms,
            &envelope,
            &shard.own_host.borrow(),
        );
        for recipient in &mut fresh.recipients {
            recipient.due_unix_ms = receiving.hold_until_unix_ms;
        }
        shard.commits.schedule_after(&ticket, fresh);
        let recipients = envelope.forward_paths.len() as u64;
        let is_normal = envelope.priority.is_normal();
        let labels = envelope.labels.clone();
        let is_tls_optional = envelope.tls_optional;
        let has_time = envelope.deliver_by.is_some();
        let kept_size: u64 = receiving.kept.iter().map(|chunk| chunk.len() as u64).sum();
        // What is held is read from the log in its time: memory is for what goes out now.
        let is_held = receiving.hold_until_unix_ms.is_some();
        if kept_size == receiving.streamed_size && !is_held {
            let mut parts = receiving.kept;
            parts.push(content);
            let message = CachedMessage { envelope, content: parts };
            shard.cache.borrow_mut().insert(id, message);
        }
        let committed =
            shard.committed(ticket).await.map_err(|StorageLost| Refusal::Unavailable)?;
        let waited = shard.runtime.now() - ended;
        shard.metrics.acknowledgement_duration.record(waited);
        let counts = self.listener.metrics();
        counts.messages_received.increment(1);
        counts.recipients_received.increment(recipients);
        counts.received_bytes.increment(size);
        if !is_normal {
            shard.metrics.messages_prioritized.increment(1);
        }
        counts::count_labels(counts, &labels);
        if is_tls_optional {
            counts.messages_tls_optional.increment(1);
        }
        if has_time {
            counts.messages_deliver_by.increment(1);
        }
        if is_held {
            shard.metrics.messages_held.increment(1);
            shard.metrics.recipients_held.increment(recipients);
        }
        Ok(committed)
    }

    /// Drops what has come of a message that will not be complete.
    fn abort_message(&mut self) {
        if let Some(receiving) = self.receiving.take() {
            self.shard.with_queue_lazily(|queue| queue.abandon(receiving.id));
        }
        self.buffers.expect_commands();
    }

    /// Writes the last reply and closes, without a reset that could overtake it.
    async fn close(&mut self, reason: CloseReason) {
        self.abort_message();
        self.publish();
        if let Err(error) = self.flush().await {
            return self.fail(&error);
        }
        if self.session.tls().is_some() {
            let deadline = self.shard.runtime.now() + LINGER_TIMEOUT;
            self.stream.watch().set_deadline(Some(deadline));
            if self.stream.close_notify().await.is_err() {
                return;
            }
        }
        if reason == CloseReason::PeerClosed {
            return;
        }
        if reason == CloseReason::Quit && self.buffers.input.is_empty() {
            // RFC 5321 §4.1.1.10: the client has had its 221, and has nothing more to say.
            return;
        }
        if self.stream.socket().shut_down_write().await.is_err() {
            return;
        }
        let deadline = self.shard.runtime.now() + LINGER_TIMEOUT;
        let mut unread = 0;
        while unread < LINGER_SIZE_MAX && self.shard.runtime.now() < deadline {
            self.stream.watch().set_deadline(Some(deadline));
            match self.stream.socket().read(self.buffers.input.scratch()).await {
                Ok(Read::Data(count)) => unread += count,
                Ok(Read::End | Read::TimedOut | Read::Notified) | Err(_) => return,
            }
        }
    }
}

/// Answers `250`: the one place where Ringpost takes responsibility for a message.
///
/// The token can only be had for a message that is on stable storage.
fn acknowledge(session: &mut ServerSession, now: Instant, committed: &Committed) {
    session.message_accepted(now, &committed.id().to_string());
}

impl<R: Runtime> Shard<R> {
    /// Chunks of one message that may be kept in memory: a sixteenth of the cache.
    fn chunks_kept_max(&self) -> usize {
        let cache_size = self.config().config().queue.content_cache_size_max;
        let chunk_size = self.queue.borrow().config().chunk_size as u64;
        usize::try_from(cache_size / 16 / chunk_size.max(1)).unwrap_or(usize::MAX)
    }
}

fn refusal(error: AppendError) -> Refusal {
    match error {
        AppendError::Full | AppendError::Busy => Refusal::Full,
        AppendError::Recovering | AppendError::Poisoned => Refusal::Unavailable,
        error => {
            tracing::error!(%error, "a message could not be stored");
            Refusal::Unavailable
        }
    }
}

/// The recipient that the trace field may name: the only one, so as not to tell recipients of each other
/// (RFC 5321 §7.2). One outside of ASCII is for messages that came by SMTPUTF8 (RFC 6531 §3.7.3).
fn only_recipient(envelope: &Envelope) -> Option<&ForwardPath> {
    match &*envelope.forward_paths {
        [path] if path.is_ascii() || envelope.utf8.is_marked() => Some(path),
        _ => None,
    }
}

fn session_end(reason: CloseReason) -> SessionEnd {
    match reason {
        CloseReason::Quit => SessionEnd::Quit,
        CloseReason::PeerClosed => SessionEnd::Eof,
        CloseReason::TimedOut => SessionEnd::Timeout,
        CloseReason::TooManyErrors
        | CloseReason::TooManyConnections
        | CloseReason::TooManyJunkCommands
        | CloseReason::TooManyTransactions
        | CloseReason::SessionTooLong
        | CloseReason::TooLarge => SessionEnd::Limit,
        CloseReason::ShuttingDown => SessionEnd::Shutdown,
        CloseReason::Elsewhere => SessionEnd::Storage,
        _ => SessionEnd::Protocol,
    }
}

fn network_end(error: &io::Error) -> SessionEnd {
    if error.kind() == io::ErrorKind::TimedOut { SessionEnd::Timeout } else { SessionEnd::Network }
}
