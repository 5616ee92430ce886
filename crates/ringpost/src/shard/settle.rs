//! Settlements: what attempts came to, committed with the reports that they cause.
//!
//! Outcomes and their DSN are appended together and become durable together, so neither can be there
//! without the other. Nobody waits for that commit: a crash before it means that the attempt is made
//! again, never that mail is lost. Events go out when it is durable.

use std::{cell::RefCell, collections::VecDeque, io, rc::Rc, time::Duration};

use futures_lite::future::yield_now;
use ringpost_delivery::{
    Settled, Settlement,
    bounce::{BounceContext, failure_report},
};
use ringpost_metrics::{
    event::{Event, EventRecord, EventReply, Reception, Settlement as SettlementEvent},
    label::Outcome as OutcomeLabel,
};
use ringpost_protocol::envelope::Envelope;
use ringpost_queue::{AppendError, Disposition, MessageId, NewMessage, Outcome, ReadError};
use ringpost_session::client::Stage;
use thiserror::Error;

use super::{Shard, cache::CachedMessage, commit::fresh_message, signal::Signal};
use crate::runtime::Runtime;

/// Bytes of the original content that a report may quote the header from.
const HEADER_SIZE_MAX: usize = 64 * 1024;

/// How often a message that is moved while it is being read is looked for again.
const READS_MAX: usize = 5;

/// A message could not be had.
#[derive(Debug, Error)]
pub(super) enum MessageError {
    #[error("the log could not be read")]
    Io(#[from] io::Error),
    #[error("the stored message cannot be used")]
    Stored(#[from] ReadError),
    #[error("the message is not in the queue")]
    Unknown,
}

/// Settlements whose message has to be read first.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    /// The first one stays until it is settled.
    waiting: RefCell<VecDeque<Rc<Settlement>>>,
    work: Signal,
}

impl Settlements {
    /// Takes a settlement for which no message is at hand.
    pub(super) fn push(&self, settlement: Settlement) {
        self.waiting.borrow_mut().push_back(Rc::new(settlement));
        self.work.set();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}

/// Pause after a message could not be read for a reason that may pass.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// How often it is tried to read a message to settle it, before it stays until the next start.
const READ_ATTEMPTS_MAX: u32 = 60;

/// Settlements after which other tasks get a turn.
const SETTLEMENTS_PER_TURN: u32 = 32;

/// Reads the messages of waiting settlements, one after the other, and settles them.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    let mut turn = 0_u32;
    loop {
        shard.settlements.work.wait().await;
        loop {
            let next = shard.settlements.waiting.borrow().front().map(Rc::clone);
            let Some(settlement) = next else { break };
            read_and_settle(&shard, &settlement).await;
            shard.settlements.waiting.borrow_mut().pop_front();
            turn += 1;
            if turn.is_multiple_of(SETTLEMENTS_PER_TURN) {
                yield_now().await;
            }
        }
    }
}

async fn read_and_settle<R: Runtime>(shard: &Rc<Shard<R>>, settlement: &Settlement) {
    if shard.without_purged(settlement).is_some_and(|left| left.recipients.is_empty()) {
        return;
    }
    for attempt in 1..=READ_ATTEMPTS_MAX {
        match shard.message(settlement.id).await {
            Ok(message) => return shard.settle(settlement, &message, None),
            Err(MessageError::Io(error)) if attempt < READ_ATTEMPTS_MAX => {
                tracing::warn!(id = %settlement.id, %error, "cannot read a queued message yet");
                shard.runtime.sleep(READ_PAUSE).await;
            }
            Err(error) => {
                // Without its envelope nobody can be told of it: it stays for the operator.
                tracing::error!(
                    id = %settlement.id, %error,
                    "cannot read a queued message to settle it; it stays in the queue"
                );
                return;
            }
        }
    }
}

impl<R: Runtime> Shard<R> {
    /// The message, from memory or from the log.
    pub(super) async fn message(&self, id: MessageId) -> Result<Rc<CachedMessage>, MessageError> {
        if let Some(message) = self.cache.borrow().get(id) {
            self.metrics.content_cache_hits.increment(1);
            return Ok(message);
        }
        self.metrics.content_cache_misses.increment(1);
        'plan: for _ in 0..READS_MAX {
            let plans = self.queue.borrow().plan_read(id).ok_or(MessageError::Unknown)?;
            let mut parts = Vec::with_capacity(plans.len());
            for plan in &plans {
                match self.read(plan).await {
                    Ok(part) => parts.push(part),
                    // Moved meanwhile, and its old segment is gone.
                    Err(_) if !self.queue.borrow().is_current(plan) => continue 'plan,
                    Err(error) => return Err(error.into()),
                }
            }
            match self.queue.borrow().decode_message(id, &plans, parts) {
                Ok(stored) => {
                    let (envelope, content) = (stored.envelope, stored.content);
                    return Ok(Rc::new(CachedMessage { envelope, content }));
                }
                Err(ReadError::Moved(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(MessageError::Unknown)
    }

    /// Commits what an attempt came to: outcomes, the report they cause, events.
    ///
    /// `transaction` is how long the transaction took, if there was one.
    pub(super) fn settle(
        self: &Rc<Self>,
        settlement: &Settlement,
        message: &CachedMessage,
        transaction: Option<Duration>,
    ) {
        if let Some(left) = self.without_purged(settlement) {
            if left.recipients.is_empty() {
                return self.cache.borrow_mut().remove(settlement.id);
            }
            return self.settle(&left, message, transaction);
        }
        // A fresh message is kept in memory for one attempt at each of its recipients.
        let received_unix_ms = {
            let queue = self.queue.borrow();
            queue.message(settlement.id).map_or(0, |view| view.received_unix_ms)
        };
        let outcome = Outcome {
            id: settlement.id,
            recipients: settlement
                .recipients
                .iter()
                .map(|settled| (settled.index, settled.disposition))
                .collect(),
        };
        let report = self.report(settlement, message, received_unix_ms);
        let now_unix_ms = self.runtime.unix_ms();
        let expiry_unix_ms = now_unix_ms + self.lifetime_ms();
        let dsn = report.as_ref().map(|report| NewMessage {
            id: report.id,
            received_unix_ms: now_unix_ms,
            expiry_unix_ms,
            due_unix_ms: now_unix_ms,
            envelope: &report.envelope,
            content: &report.content,
            size: report.content.len() as u64,
        });
        let appended = self.with_queue_lazily(|queue| queue.append_outcome(&outcome, dsn));
        let ticket = match appended {
            Ok(ticket) => ticket,
            Err(AppendError::Poisoned) => return,
            Err(AppendError::TooLarge { .. }) if settlement.recipients.len() > 1 => {
                // Too many words for one commit: half of the recipients at a time.
                let (first, second) =
                    settlement.recipients.split_at(settlement.recipients.len() / 2);
                for half in [first, second] {
                    let recipients = half.to_vec();
                    let half = Settlement { recipients, ..settlement.clone() };
                    self.settle(&half, message, transaction);
                }
                return;
            }
            Err(error) => {
                tracing::error!(id = %settlement.id, %error, "cannot store an outcome");
                return;
            }
        };
        self.count(settlement, message, received_unix_ms, now_unix_ms);
        for settled in &settlement.recipients {
            let facts = EventFacts {
                settlement,
                settled,
                message,
                queued_ms: now_unix_ms.saturating_sub(received_unix_ms),
                transaction,
                dsn_id: report.as_ref().map(|report| report.id),
            };
            facts.with_event(|event| {
                self.events.emit_after(&ticket, &EventRecord { time_unix_ms: now_unix_ms, event });
            });
        }
        if let Some(report) = report {
            self.metrics.dsns.increment(1);
            let reception = Reception {
                id: &report.id,
                reverse_path: &report.envelope.reverse_path.bare(),
                recipients: report.envelope.forward_paths.len() as u64,
                size: report.content.len() as u64,
                client: &"",
                helo: &"",
                protocol: "internal",
                hold_until_unix_ms: None,
                commit_ms: 0,
            };
            let event = Event::Received(reception);
            self.events.emit_after(&ticket, &EventRecord { time_unix_ms: now_unix_ms, event });
            let own_host = self.own_host.borrow();
            let fresh =
                fresh_message(report.id, now_unix_ms, expiry_unix_ms, &report.envelope, &own_host);
            self.commits.schedule_after(&ticket, fresh);
            let content = vec![report.content];
            let cached = CachedMessage { envelope: report.envelope, content };
            self.cache.borrow_mut().insert(report.id, cached);
        }
        // Until it is durable the message counts as queued; what is left of it is due later.
        let unsettled = {
            let queue = self.queue.borrow();
            queue.message(settlement.id).is_some_and(|view| {
                view.recipients
                    .iter()
                    .any(|state| !state.status.is_settled() && state.attempts == 0)
            })
        };
        if !unsettled {
            self.cache.borrow_mut().remove(settlement.id);
        }
    }

    fn report(
        &self,
        settlement: &Settlement,
        message: &CachedMessage,
        received_unix_ms: u64,
    ) -> Option<Report> {
        let fails = |settled: &Settled| {
            matches!(settled.disposition, Disposition::Bounced | Disposition::Expired)
        };
        if message.envelope.reverse_path.is_null() || !settlement.recipients.iter().any(fails) {
            return None;
        }
        let id = self.with_queue_lazily(ringpost_queue::Queue::next_id);
        let first = message.content.first().map(Vec::as_slice).unwrap_or_default();
        let config = self.config();
        let context = BounceContext {
            hostname: config.hostname(),
            report_id: id,
            now_unix_ms: self.runtime.unix_ms(),
            received_unix_ms,
            envelope: &message.envelope,
            original_header: first.get(..HEADER_SIZE_MAX).unwrap_or(first),
        };
        let (envelope, content) = failure_report(&context, settlement)?;
        Some(Report { id, envelope, content })
    }

    fn count(
        &self,
        settlement: &Settlement,
        message: &CachedMessage,
        received_unix_ms: u64,
        now_unix_ms: u64,
    ) {
        let metrics = &self.metrics;
        let mut has_delivered = false;
        for settled in &settlement.recipients {
            metrics.attempts.increment(1);
            let label = match settled.disposition {
                Disposition::Delivered => {
                    has_delivered = true;
                    let queued =
                        Duration::from_millis(now_unix_ms.saturating_sub(received_unix_ms));
                    metrics.delivery_duration.record(queued);
                    OutcomeLabel::Delivered
                }
                Disposition::Deferred { .. } => OutcomeLabel::Deferred,
                Disposition::Bounced => OutcomeLabel::Bounced,
                Disposition::Expired => OutcomeLabel::Expired,
            };
            metrics.outcomes.increment(label);
            if settled.reason.outcome_unknown {
                metrics.outcomes_unknown.increment(1);
            }
        }
        if has_delivered {
            metrics.delivered_bytes.increment(message.content_size());
        }
    }
}

/// A report to an originator, about to be queued.
struct Report {
    id: MessageId,
    envelope: Envelope,
    content: Vec<u8>,
}

struct EventFacts<'a> {
    settlement: &'a Settlement,
    settled: &'a Settled,
    message: &'a CachedMessage,
    queued_ms: u64,
    transaction: Option<Duration>,
    dsn_id: Option<MessageId>,
}

impl EventFacts<'_> {
    /// Calls `emit` with the event, which borrows from here.
    fn with_event(&self, emit: impl FnOnce(Event<'_>)) {
        let Some(path) = self.message.envelope.forward_paths.get(usize::from(self.settled.index.0))
        else {
            return;
        };
        let reverse_path = self.message.envelope.reverse_path.bare();
        let forward_path = path.bare();
        let reason = &*self.settled.reason;
        let attempt = &self.settlement.attempt;
        let site = &attempt.site;
        let settlement = SettlementEvent {
            id: &self.settlement.id,
            reverse_path: &reverse_path,
            forward_path: &forward_path,
            size: self.message.content_size(),
            site: Some(site),
            mx_host: attempt.mx_host.as_ref().map(|host| host as _),
            remote: attempt.address.as_ref().map(|address| address as _),
            stage: stage_name(reason.stage, attempt.address.is_some()),
            reply: Some(match &reason.reply {
                Some(reply) => EventReply {
                    code: Some(reply.code.as_u16()),
                    enhanced: Some(&reason.status),
                    text: &reply.text,
                },
                None => {
                    EventReply { code: None, enhanced: Some(&reason.status), text: &reason.text }
                }
            }),
            attempts: u64::from(self.settled.attempts),
            queued_ms: self.queued_ms,
            transaction_ms: self
                .transaction
                .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        };
        let dsn_id = self.dsn_id.as_ref().map(|id| id as _);
        emit(match self.settled.disposition {
            Disposition::Delivered => Event::Delivered(settlement),
            Disposition::Deferred { due_unix_ms, .. } => {
                Event::Deferred { settlement, due_unix_ms }
            }
            Disposition::Bounced => Event::Bounced { settlement, dsn_id },
            Disposition::Expired => Event::Expired { settlement, dsn_id },
        });
    }
}

fn stage_name(stage: Option<Stage>, has_address: bool) -> &'static str {
    match stage {
        Some(Stage::FinalReply) => "final_reply",
        Some(stage) => stage.as_str(),
        None if has_address => "connect",
        None => "route",
    }
}
