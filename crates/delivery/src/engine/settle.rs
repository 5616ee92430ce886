//! Turns verdicts into outcomes, and puts deferred recipients into the due wheel.

use std::rc::Rc;

use ringpost_queue::{BlockQueue, Disposition};

use super::Engine;
use crate::attempt::{Attempt, Now, Settled, Settlement};
use crate::clock::Stamp;
use crate::outcome::{self, Meaning, Verdict};
use crate::site::LastFailure;
use crate::work::{Recipient, Work};

/// What is to become of work without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The attempt was made for it, as far as it came.
    Attempted,
    /// Its time was over while it waited for a place that is down.
    Expired,
    /// It waits on, and its originator is told. The work here is a copy.
    Warned,
}

/// Work that shares one fate; settled bit by bit, as the driver polls.
#[derive(Debug)]
pub(super) struct Doomed {
    failure: LastFailure,
    fate: Fate,
    works: BlockQueue<Work>,
}

impl Engine {
    /// Gives all of `works` the same fate.
    pub(super) fn doom(&mut self, failure: LastFailure, fate: Fate, works: BlockQueue<Work>) {
        if !works.is_empty() {
            self.unsettled += works.len();
            self.doomed.push_back(Doomed { failure, fate, works });
        }
    }

    /// Gives up work that may not be tried any more, as its time is over.
    pub(super) fn doom_over(&mut self, place: Rc<str>, work: Work) {
        let attempt = Attempt::unmade(place, self.now.monotonic);
        let mut works = BlockQueue::new();
        works.push_back(work, 0);
        let failure = LastFailure { attempt, verdict: outcome::time_over() };
        self.doom(failure, Fate::Expired, works);
    }

    /// Returns the outcome of some work that was decided about without a transaction. Where nothing
    /// is left `None`, until the next event.
    ///
    /// What is not polled waits here in little memory, so the driver polls when it can commit.
    pub fn poll_settlement(&mut self, now: Now) -> Option<Settlement> {
        self.now = now;
        loop {
            let mut doomed = self.doomed.pop_front()?;
            let Some(work) = doomed.works.pop_front() else { continue };
            self.unsettled = self.unsettled.saturating_sub(1);
            let (failure, fate) = (doomed.failure.clone(), doomed.fate);
            // All in turn: a few do not wait for the end of very many.
            self.doomed.push_back(doomed);
            let LastFailure { attempt, verdict } = failure;
            let settlement = match fate {
                Fate::Attempted => {
                    let recipients = work.recipients.as_slice().to_vec();
                    let verdicts = recipients.into_iter().map(|one| (one, verdict.clone()));
                    self.settle(&work, attempt, verdicts)
                }
                Fate::Expired => Some(self.settle_expired(&work, attempt, &verdict)),
                Fate::Warned => Some(self.settle_warned(&work, attempt, &verdict)),
            };
            if settlement.is_some() {
                return settlement;
            }
        }
    }

    /// Tells whether [`poll_settlement`](Self::poll_settlement) has something.
    pub fn has_settlements(&self) -> bool {
        self.unsettled > 0
    }

    /// Settles recipients of one message; `None` when there are none.
    pub(super) fn settle(
        &mut self,
        work: &Work,
        attempt: Attempt,
        verdicts: impl IntoIterator<Item = (Recipient, Verdict)>,
    ) -> Option<Settlement> {
        // One draw: recipients deferred together stay together for their next transaction.
        let random = self.random.next_u64();
        let now = self.stamp();
        let mut recipients = Vec::new();
        let mut deferred: Vec<(Stamp, Recipient)> = Vec::new();
        for (recipient, verdict) in verdicts {
            let attempts = recipient.attempts.saturating_add(1);
            let policy = self.policy(recipient);
            let expiry = policy.expiry(work);
            let mut warns = false;
            let disposition = match verdict.meaning {
                Meaning::Delivered => Disposition::Delivered,
                Meaning::Bounced => Disposition::Bounced,
                Meaning::Deferred => match policy.retry.due_or_after(
                    verdict.retry_after,
                    attempts,
                    now,
                    expiry,
                    random,
                ) {
                    Some(due) => {
                        warns = policy.warns_at(work, recipient).is_some_and(|at| at <= now);
                        let warned = warns || recipient.is_warned();
                        // Tried once more, and told of, when the time is over that the client has named.
                        let at = work.by.notify_at(work.since).filter(|_| !warned);
                        let due = at.map_or(due, |at| due.min(at));
                        deferred.push((due, recipient.with(attempts, warned)));
                        let due_unix_ms = self.clock.tell(self.now, due);
                        // Only with the report itself: what was decided before may have come to
                        // nothing, and the log remembers what did not.
                        Disposition::Deferred { attempts, due_unix_ms, warned: warns }
                    }
                    None => Disposition::Expired,
                },
            };
            if verdict.reason.outcome_unknown {
                self.stats.outcome_unknown += 1;
            }
            self.count(recipient, disposition);
            let settled = Settled {
                index: recipient.index,
                attempts,
                disposition,
                reason: verdict.reason,
                warns,
                expiry_unix_ms: self.clock.tell(self.now, expiry),
            };
            recipients.push(settled);
        }
        deferred.sort_by_key(|(due, recipient)| (*due, recipient.index));
        for group in deferred.chunk_by(|(due, _), (next, _)| due == next) {
            let due = group.first().map_or(now, |(due, _)| *due);
            let next = work.with(group.iter().map(|(_, one)| *one).collect());
            self.wait(due, Work { returns: 0, ..next });
        }
        let settlement = Settlement { id: work.message, attempt, is_attempt: true, recipients };
        (!settlement.recipients.is_empty()).then_some(settlement)
    }

    /// Settles recipients whose time was over while they waited.
    fn settle_expired(&mut self, work: &Work, attempt: Attempt, last: &Verdict) -> Settlement {
        self.settle_waiting(work, attempt, |recipient, expiry_unix_ms| Settled {
            index: recipient.index,
            attempts: recipient.attempts,
            disposition: Disposition::Expired,
            reason: Rc::clone(&last.reason),
            warns: false,
            expiry_unix_ms,
        })
    }

    /// Reports recipients that are late, and wait on.
    fn settle_warned(&mut self, work: &Work, attempt: Attempt, last: &Verdict) -> Settlement {
        let due_unix_ms = self.now.unix_ms;
        self.settle_waiting(work, attempt, |recipient, expiry_unix_ms| {
            let attempts = recipient.attempts;
            Settled {
                index: recipient.index,
                attempts,
                disposition: Disposition::Deferred { attempts, due_unix_ms, warned: true },
                reason: Rc::clone(&last.reason),
                warns: true,
                expiry_unix_ms,
            }
        })
    }

    fn settle_waiting(
        &mut self,
        work: &Work,
        attempt: Attempt,
        settled: impl Fn(Recipient, u64) -> Settled,
    ) -> Settlement {
        let mut recipients = Vec::new();
        for &recipient in work.recipients.as_slice() {
            let expiry = self.policy(recipient).expiry(work);
            let settled = settled(recipient, self.clock.tell(self.now, expiry));
            if !settled.warns {
                self.count(recipient, settled.disposition);
            }
            recipients.push(settled);
        }
        Settlement { id: work.message, attempt, is_attempt: false, recipients }
    }

    /// Counts an outcome; a recipient that is settled for good is gone.
    fn count(&mut self, recipient: Recipient, disposition: Disposition) {
        let counter = match disposition {
            Disposition::Delivered => &mut self.stats.delivered,
            Disposition::Bounced => &mut self.stats.bounced,
            Disposition::Expired => &mut self.stats.expired,
            Disposition::Deferred { .. } => &mut self.stats.deferred,
        };
        *counter += 1;
        if !matches!(disposition, Disposition::Deferred { .. }) {
            self.destinations.remove_recipient(recipient.destination());
        }
    }
}
