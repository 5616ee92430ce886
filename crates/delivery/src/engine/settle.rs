//! Turns verdicts into outcomes, and puts deferred recipients into the due wheel.

use std::collections::VecDeque;
use std::rc::Rc;

use ringpost_queue::Disposition;

use super::Engine;
use crate::attempt::{Attempt, Settled, Settlement};
use crate::outcome::{Meaning, Verdict};
use crate::work::{Recipient, Work};

/// Work that shares one verdict; settled bit by bit as the driver polls.
#[derive(Debug)]
pub(super) struct Doomed {
    attempt: Attempt,
    verdict: Verdict,
    works: VecDeque<Work>,
}

impl Engine {
    /// Gives all of `works` the verdict, without a connection.
    pub(super) fn doom(&mut self, name: Rc<str>, works: VecDeque<Work>, verdict: &Verdict) {
        let now = self.now.monotonic;
        let attempt =
            Attempt { site: name, mx_host: None, address: None, started: now, finished: now };
        self.doom_with(attempt, works, verdict.clone());
    }

    pub(super) fn doom_with(&mut self, attempt: Attempt, works: VecDeque<Work>, verdict: Verdict) {
        if !works.is_empty() {
            self.doomed.push_back(Doomed { attempt, verdict, works });
        }
    }

    /// Settles one piece of doomed work.
    pub(super) fn settle_doomed(&mut self) -> Option<Settlement> {
        loop {
            let doomed = self.doomed.front_mut()?;
            let Some(work) = doomed.works.pop_front() else {
                self.doomed.pop_front();
                continue;
            };
            let (attempt, verdict) = (doomed.attempt.clone(), doomed.verdict.clone());
            let Work { message, expiry_unix_ms, recipients, .. } = work;
            let verdicts = recipients.into_iter().map(|recipient| (recipient, verdict.clone()));
            let settlement = self.settle(message, expiry_unix_ms, attempt, verdicts);
            if settlement.is_some() {
                return settlement;
            }
        }
    }

    /// Settles recipients of one message; `None` when there are none.
    pub(super) fn settle(
        &mut self,
        message: ringpost_queue::MessageId,
        expiry_unix_ms: u64,
        attempt: Attempt,
        verdicts: impl IntoIterator<Item = (Recipient, Verdict)>,
    ) -> Option<Settlement> {
        // One draw: recipients deferred together stay together for their next transaction.
        let random = self.random.next_u64();
        let mut recipients = Vec::new();
        let mut deferred: Vec<(u64, Recipient)> = Vec::new();
        for (recipient, verdict) in verdicts {
            let attempts = recipient.attempts.saturating_add(1);
            let disposition = match verdict.meaning {
                Meaning::Delivered => Disposition::Delivered,
                Meaning::Bounced => Disposition::Bounced,
                Meaning::Deferred => {
                    let now = self.now.unix_ms;
                    match self.config.retry.due_unix_ms(attempts, now, expiry_unix_ms, random) {
                        Some(due_unix_ms) => {
                            Disposition::Deferred { attempts, due_unix_ms, warned: false }
                        }
                        None => Disposition::Expired,
                    }
                }
            };
            let counter = match disposition {
                Disposition::Delivered => &mut self.stats.delivered,
                Disposition::Bounced => &mut self.stats.bounced,
                Disposition::Expired => &mut self.stats.expired,
                Disposition::Deferred { .. } => &mut self.stats.deferred,
            };
            *counter += 1;
            if verdict.reason.outcome_unknown {
                self.stats.outcome_unknown += 1;
            }
            if let Disposition::Deferred { due_unix_ms, .. } = disposition {
                deferred.push((due_unix_ms, Recipient { attempts, ..recipient }));
            } else {
                self.destinations.remove_recipient(recipient.destination);
            }
            let reason = verdict.reason;
            recipients.push(Settled { index: recipient.index, attempts, disposition, reason });
        }
        deferred.sort_by_key(|(due, recipient)| (*due, recipient.index));
        for group in deferred.chunk_by(|(due, _), (next, _)| due == next) {
            let recipients: Vec<Recipient> = group.iter().map(|(_, one)| *one).collect();
            let due = group.first().map_or(0, |(due, _)| *due);
            self.wait(due, Work { message, expiry_unix_ms, returns: 0, recipients });
        }
        (!recipients.is_empty()).then_some(Settlement { id: message, attempt, recipients })
    }
}
