//! Settlements: what attempts came to, committed with the reports that they cause.
//!
//! Outcomes and their DSN are appended together and become durable together, so neither can be there
//! without the other. Nobody waits for that commit: a crash before it means that the attempt is made
//! again, never that mail is lost. Event records are committed with it, and go out when it is durable.
//!
//! Outcomes of attempts come with their message. Those of mail that never got to a transaction do not:
//! the engine keeps them, and they are taken from it one by one, as fast as the log takes them. Of
//! their messages only what is needed is read: the envelope, and for a report the header section.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_lite::future;
use ringpost_delivery::{Settled, Settlement, bounce::told};
use ringpost_metrics::{
    event::{
        Event, EventLabels, EventRecord, EventReply, Reception, Settlement as SettlementEvent,
    },
    label::Outcome as OutcomeLabel,
};
use ringpost_queue::{AppendError, Disposition, MessageId, NewMessage, Outcome, RecipientIndex};
use ringpost_session::client::Stage;

use super::{
    Shard,
    cache::CachedMessage,
    events::{Lines, event_labels},
    report::Report,
    signal::Signal,
    stored::MessageError,
};
use crate::runtime::Runtime;

/// Settlements whose message has to be read first.
#[derive(Debug, Default)]
pub(super) struct Settlements {
    /// The first one stays until it is settled, or put off.
    waiting: RefCell<VecDeque<Rc<Settlement>>>,
    /// Those whose message could not be read, and how often that was tried. They wait apart, so that
    /// one bad place on the disk holds up nothing else.
    put_off: RefCell<VecDeque<PutOff>>,
    work: Signal,
}

/// A settlement whose message could not be read.
#[derive(Debug)]
struct PutOff {
    settlement: Rc<Settlement>,
    /// Reads that failed.
    attempts: u32,
    /// When the next one may be tried.
    due: Instant,
}

impl Settlements {
    /// Puts one off whose message could not be read, after so many attempts.
    fn put_off(&self, settlement: Rc<Settlement>, attempts: u32, now: Instant) {
        let due = now + READ_PAUSE;
        self.put_off.borrow_mut().push_back(PutOff { settlement, attempts, due });
    }

    /// Whether so many are put off that no other is begun: in the engine and on the disk they wait in
    /// less memory.
    fn is_full(&self) -> bool {
        self.put_off.borrow().len() >= PUT_OFF_MAX
    }

    /// Takes a settlement for which no message is at hand.
    pub(super) fn push(&self, settlement: Settlement) {
        self.waiting.borrow_mut().push_back(Rc::new(settlement));
        self.work.set();
    }

    /// The next one whose time has come, and how often its message could not be read.
    fn take_due(&self, now: Instant) -> Option<PutOff> {
        let mut put_off = self.put_off.borrow_mut();
        put_off.front().is_some_and(|first| first.due <= now).then(|| put_off.pop_front())?
    }

    /// When one that was put off is to be tried again.
    fn next_due(&self) -> Option<Instant> {
        self.put_off.borrow().front().map(|first| first.due)
    }

    /// Lets the settling task look for what is to be settled.
    pub(super) fn look(&self) {
        self.work.set();
    }

    /// Whether nothing waits that could be settled now; what cannot be read is left for the next start.
    pub(super) fn is_empty(&self) -> bool {
        self.is_full() || self.waiting.borrow().is_empty()
    }
}

/// Pause after a message could not be read for a reason that may pass.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// Settlements that are put off at a time, in a shard.
const PUT_OFF_MAX: usize = 1_000;

/// How often it is tried to read a message to settle it, before it stays until the next start.
const READ_ATTEMPTS_MAX: u32 = 60;

/// Settlements after which other tasks get a turn.
const SETTLEMENTS_PER_TURN: u32 = 32;

/// Bytes that wait for the log, from which on nothing is settled that can wait.
const PENDING_SIZE_MAX: u64 = 4 << 20;

/// Pause until there may be fewer.
const PENDING_PAUSE: Duration = Duration::from_millis(10);

/// Reads the messages of waiting settlements, one after the other, and settles them.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>) {
    let mut turn = 0_u32;
    let settlements = &shard.settlements;
    loop {
        let next_due = settlements.next_due();
        let work = settlements.work.wait();
        match next_due.map(|due| due.saturating_duration_since(shard.runtime.now())) {
            Some(pause) => future::or(work, shard.runtime.sleep(pause)).await,
            None => work.await,
        }
        loop {
            if let Some(PutOff { settlement, attempts, .. }) =
                settlements.take_due(shard.runtime.now())
            {
                shard.read_and_settle(settlement, attempts).await;
            } else if shard.next_settlement() {
                let next = settlements.waiting.borrow().front().map(Rc::clone);
                let Some(settlement) = next else { break };
                shard.read_and_settle(settlement, 0).await;
                settlements.waiting.borrow_mut().pop_front();
            } else {
                break;
            }
            turn += 1;
            while shard.queue.borrow().stats().pending_bytes > PENDING_SIZE_MAX
                && !shard.is_poisoned()
            {
                shard.commits.look();
                shard.runtime.sleep(PENDING_PAUSE).await;
            }
            if turn.is_multiple_of(SETTLEMENTS_PER_TURN) {
                shard.runtime.turn().await;
            }
        }
    }
}

/// What of a settlement holds, by how recipients are now: whether each is settled, and its attempts;
/// `None` when there is no such recipient.
fn holding(
    settlement: &Settlement,
    now: impl Fn(RecipientIndex) -> Option<(bool, u16)>,
) -> Option<Settlement> {
    let mut settlement = settlement.clone();
    settlement.recipients.retain(|settled| {
        now(settled.index)
            .is_some_and(|(is_settled, attempts)| !is_settled && attempts == settled.attempts)
    });
    (!settlement.recipients.is_empty()).then_some(settlement)
}

impl<R: Runtime> Shard<R> {
    /// Whether there is something to settle; takes it from the engine if need be.
    fn next_settlement(self: &Rc<Self>) -> bool {
        if self.settlements.is_full() {
            return false;
        }
        if self.settlements.is_empty() && !self.is_poisoned() {
            let next = self.with_engine(ringpost_delivery::Engine::poll_settlement);
            if let Some(settlement) = next {
                self.settlements.push(settlement);
            }
        }
        !self.settlements.is_empty()
    }

    /// Settles, or puts off what cannot be read now; `attempts` is how often it could not be before.
    async fn read_and_settle(self: &Rc<Self>, settlement: Rc<Settlement>, attempts: u32) {
        if self.without_purged(&settlement).is_some_and(|left| left.recipients.is_empty()) {
            return;
        }
        // What does not hold any more is not worth a read.
        if !settlement.is_attempt && self.still_holds(&settlement).is_none() {
            return;
        }
        let read = self.message_to_settle(&settlement).await;
        // Those of its recipients that were parked may have been settled since this was decided.
        let current = if settlement.is_attempt {
            Rc::clone(&settlement)
        } else {
            let Some(holds) = self.still_holds(&settlement) else { return };
            Rc::new(holds)
        };
        match read {
            Ok(message) => self.settle(&current, &message, None),
            Err(MessageError::Io(error)) if attempts + 1 < READ_ATTEMPTS_MAX => {
                tracing::warn!(id = %settlement.id, %error, "cannot read a queued message yet");
                self.settlements.put_off(current, attempts + 1, self.runtime.now());
            }
            Err(error) => {
                // Without its envelope nobody can be told of it: it stays for the operator.
                tracing::error!(
                    id = %settlement.id, %error,
                    "cannot read a queued message to settle it; it stays in the queue"
                );
            }
        }
    }

    /// What of a settlement without an attempt still holds: mail that was parked when it was decided may
    /// have been sent since.
    fn still_holds(&self, settlement: &Settlement) -> Option<Settlement> {
        let queue = self.queue.borrow();
        let view = queue.message(settlement.id)?;
        let now = |index: RecipientIndex| {
            let state = view.recipients.get(usize::from(index.0))?;
            Some((state.status.is_settled(), state.attempts))
        };
        holding(settlement, now)
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
        let (received_unix_ms, size) = {
            let queue = self.queue.borrow();
            queue.message(settlement.id).map_or((0, 0), |view| (view.received_unix_ms, view.size))
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
        let lifetime_ms =
            report.as_ref().map_or(0, |report| self.lifetime_ms(&report.envelope, None));
        let expiry_unix_ms = now_unix_ms.saturating_add(lifetime_ms);
        let dsn = report.as_ref().map(|report| NewMessage {
            id: report.id,
            received_unix_ms: now_unix_ms,
            expiry_unix_ms,
            due_unix_ms: now_unix_ms,
            envelope: &report.envelope,
            content: &report.content,
            size: report.content.len() as u64,
        });
        let lines = self.lines(settlement, message, report.as_ref(), transaction);
        let appended =
            self.with_queue_lazily(|queue| queue.append_outcome(&outcome, dsn, lines.records()));
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
        self.events.keep(&ticket, lines);
        self.count(settlement, size, received_unix_ms, now_unix_ms);
        if let Some(report) = report {
            self.send_report(&ticket, report, now_unix_ms, expiry_unix_ms);
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

    /// What the event log is to say of a settlement and its report.
    fn lines(
        &self,
        settlement: &Settlement,
        message: &CachedMessage,
        report: Option<&Report>,
        transaction: Option<Duration>,
    ) -> Lines {
        let time_unix_ms = self.runtime.unix_ms();
        let (received_unix_ms, size) = {
            let queue = self.queue.borrow();
            queue.message(settlement.id).map_or((0, 0), |view| (view.received_unix_ms, view.size))
        };
        let mut lines = self.events.lines();
        for settled in &settlement.recipients {
            let told_of =
                |_: &&Report| told(&message.envelope, &settlement.attempt, settled).is_some();
            let facts = EventFacts {
                settlement,
                settled,
                message,
                size,
                queued_ms: time_unix_ms.saturating_sub(received_unix_ms),
                transaction,
                dsn_id: report.filter(told_of).map(|report| report.id),
            };
            facts.with_events(|event| lines.push(&EventRecord { time_unix_ms, event }));
        }
        if let Some(report) = report {
            let reception = Reception {
                id: &report.id,
                reverse_path: &report.envelope.reverse_path.bare(),
                recipients: report.envelope.forward_paths.len() as u64,
                size: report.content.len() as u64,
                client: &"",
                proxy: None,
                login: None,
                helo: &"",
                protocol: "internal",
                user: None,
                labels: EventLabels::default(),
                listener: None,
                tls: None,
                hold_until_unix_ms: None,
                priority: report.envelope.priority.level(),
                tls_optional: report.envelope.tls_optional,
                deliver_by: None,
            };
            lines.push(&EventRecord { time_unix_ms, event: Event::Received(reception) });
        }
        lines
    }

    fn count(&self, settlement: &Settlement, size: u64, received_unix_ms: u64, now_unix_ms: u64) {
        let metrics = &self.metrics;
        let mut has_delivered = false;
        for settled in &settlement.recipients {
            metrics.attempts.increment(u64::from(settlement.is_attempt));
            if settled.warns && !settlement.is_attempt {
                continue;
            }
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
            metrics.delivered_bytes.increment(size);
        }
    }
}

struct EventFacts<'a> {
    settlement: &'a Settlement,
    settled: &'a Settled,
    message: &'a CachedMessage,
    size: u64,
    queued_ms: u64,
    transaction: Option<Duration>,
    dsn_id: Option<MessageId>,
}

impl EventFacts<'_> {
    /// Calls `emit` with each event, which borrows from here.
    fn with_events(&self, mut emit: impl FnMut(Event<'_>)) {
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
            labels: event_labels(&self.message.envelope),
            reverse_path: &reverse_path,
            forward_path: &forward_path,
            size: self.size,
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
            rule: reason.rule.as_deref(),
            recipient: u64::from(self.settled.index.0),
            attempts: u64::from(self.settled.attempts),
            queued_ms: self.queued_ms,
            tls: attempt.tls.map(|tls| (tls.version.as_str(), tls.cipher, tls.verified)),
            transaction_ms: self
                .transaction
                .map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        };
        let dsn_id = self.dsn_id.as_ref().map(|id| id as _);
        match self.settled.disposition {
            Disposition::Delivered => emit(Event::Delivered { settlement, dsn_id }),
            Disposition::Bounced => emit(Event::Bounced { settlement, dsn_id }),
            Disposition::Expired => emit(Event::Expired { settlement, dsn_id }),
            Disposition::Deferred { due_unix_ms, .. } => {
                if self.settlement.is_attempt {
                    emit(Event::Deferred { settlement, due_unix_ms });
                }
                if self.settled.warns && dsn_id.is_some() {
                    emit(Event::Delayed { settlement, dsn_id });
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use ringpost_delivery::{Attempt, Reason};
    use ringpost_protocol::status::EnhancedStatusCode;

    use super::*;

    /// A warning for recipients 0 to 3, after two attempts at each.
    fn warning() -> Settlement {
        let now = Instant::now();
        let attempt = Attempt {
            site: "site".into(),
            mx_host: None,
            address: None,
            started: now,
            finished: now,
            reports: false,
            sees_to_time: false,
            tls: None,
        };
        let reason = Rc::new(Reason {
            status: EnhancedStatusCode::new(4, 4, 1),
            stage: None,
            reply: None,
            text: Cow::Borrowed("down"),
            outcome_unknown: false,
            rule: None,
        });
        let settled = |index| Settled {
            index: RecipientIndex(index),
            attempts: 2,
            disposition: Disposition::Deferred { attempts: 2, due_unix_ms: 1, warned: true },
            reason: Rc::clone(&reason),
            warns: true,
            expiry_unix_ms: 2,
        };
        let recipients = (0..4).map(settled).collect();
        Settlement { id: MessageId::from_u64(1), attempt, is_attempt: false, recipients }
    }

    #[test]
    fn what_cannot_be_read_waits_in_turn_and_not_without_bound() {
        let settlements = Settlements::default();
        let start = Instant::now();
        let one = Rc::new(warning());
        assert!(settlements.take_due(start).is_none() && settlements.next_due().is_none());
        settlements.put_off(Rc::clone(&one), 1, start);
        settlements.put_off(Rc::clone(&one), 2, start + READ_PAUSE / 2);
        assert!(settlements.take_due(start).is_none(), "not before its time");
        assert_eq!(settlements.next_due(), Some(start + READ_PAUSE));
        assert_eq!(settlements.take_due(start + READ_PAUSE).unwrap().attempts, 1);
        assert!(settlements.take_due(start + READ_PAUSE).is_none(), "the second one is later");
        settlements.push(warning());
        assert!(!settlements.is_empty());
        for _ in 1..PUT_OFF_MAX {
            assert!(!settlements.is_full());
            settlements.put_off(Rc::clone(&one), 1, start + READ_PAUSE);
        }
        assert!(settlements.is_full());
        assert!(settlements.is_empty(), "nothing is begun now, so nothing holds up the end");
        assert_eq!(settlements.take_due(start + READ_PAUSE * 2).unwrap().attempts, 2);
        assert!(!settlements.is_full() && !settlements.is_empty());
    }

    #[test]
    fn of_what_was_decided_before_a_read_only_what_still_holds_is_settled() {
        // Recipient 0 is as it was; 1 is delivered, 2 has been tried again, 3 is not there any more.
        let now = |index: RecipientIndex| match index.0 {
            0 => Some((false, 2)),
            1 => Some((true, 2)),
            2 => Some((false, 3)),
            _ => None,
        };
        let left = holding(&warning(), now).unwrap();
        let left: Vec<_> = left.recipients.iter().map(|settled| settled.index.0).collect();
        assert_eq!(left, [0]);
        assert!(holding(&warning(), |_| Some((true, 2))).is_none());
        assert_eq!(holding(&warning(), |_| Some((false, 2))).unwrap().recipients.len(), 4);
    }
}
