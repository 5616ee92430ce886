//! Mail that is to be tried now: what a shard does about an order, and how a session gives one to all.

use std::{rc::Rc, time::Duration};

use futures_lite::future;
use ringpost_delivery::{Flush, FlushScope};
use ringpost_metrics::label::Limit;
use ringpost_session::server::FlushOutcome;
use tokio::sync::oneshot;

use super::{OpenCount, RequestRefusal, Shard};
use crate::{
    control::{
        AdminRequest,
        flush::{FlushRefusal, FlushReply, FlushRequest},
    },
    runtime::Runtime,
};

/// Orders that a shard is about at a time, and that its sessions may have given and wait for.
const FLUSHES_MAX: usize = 4;

/// How long a client waits for what the shards have found.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl<R: Runtime> Shard<R> {
    /// Carries an order out, a little at a time beside the live mail, and answers when all is on its way.
    pub(super) async fn flush(self: Rc<Self>, request: FlushRequest) {
        let FlushRequest { scope, reply } = request;
        let answer = self.flush_engine(scope).await;
        // Who asked may have gone; it is done all the same.
        let _: Result<(), FlushReply> = reply.send(answer);
    }

    async fn flush_engine(self: &Rc<Self>, scope: FlushScope) -> FlushReply {
        if !self.may_deliver() || self.intake.is_lost() {
            return Err(FlushRefusal::Unavailable);
        }
        if self.intake.is_beginning() {
            return Err(FlushRefusal::Beginning);
        }
        if self.flushes.get() >= FLUSHES_MAX {
            self.metrics.limit_hits.with(Limit::Flushes).increment(1);
            return Err(FlushRefusal::Busy);
        }
        let _open = OpenCount::new(&self.flushes);
        let mut flush = Flush::new(scope);
        while self.with_engine(|engine, now| engine.flush_some(now, &mut flush)) {
            self.runtime.turn().await;
        }
        self.metrics.recipients_flushed.increment(flush.recipients());
        self.publish();
        Ok(flush.recipients())
    }

    /// Has all shards try mail now; what came of it, as far as that is known in time.
    pub(super) async fn flush_everywhere(&self, scope: &FlushScope) -> FlushOutcome {
        // Not for the shards to refuse: their inboxes are for others as well.
        if self.flushes_ordered.get() >= FLUSHES_MAX {
            self.metrics.limit_hits.with(Limit::Flushes).increment(1);
            return FlushOutcome::Unavailable;
        }
        let _open = OpenCount::new(&self.flushes_ordered);
        let asked: Vec<_> = self
            .shards
            .iter()
            .map(|shard| {
                let (reply, answer) = oneshot::channel();
                let request = FlushRequest { scope: scope.clone(), reply };
                shard.ask(AdminRequest::Flush(request)).map(|()| answer)
            })
            .collect();
        let deadline = self.runtime.now() + ANSWER_TIMEOUT;
        let mut replies = Vec::with_capacity(asked.len());
        for answer in asked {
            let left = deadline.saturating_duration_since(self.runtime.now());
            let answer = async {
                match answer {
                    Ok(answer) => answer.await.unwrap_or(Err(FlushRefusal::Unavailable)),
                    Err(RequestRefusal::Full) => Err(FlushRefusal::Busy),
                    Err(RequestRefusal::Ended) => Err(FlushRefusal::Unavailable),
                }
            };
            let late = async {
                self.runtime.sleep(left).await;
                None
            };
            replies.push(future::or(async { Some(answer.await) }, late).await);
        }
        outcome(&replies)
    }
}

/// What the replies of all shards come to; `None` is one that was not in time.
fn outcome(replies: &[Option<FlushReply>]) -> FlushOutcome {
    let recipients = replies.iter().flatten().flatten().sum();
    // Then some of the mail may not have been looked through, and never is.
    let is_left_out = replies
        .iter()
        .flatten()
        .any(|reply| matches!(reply, Err(FlushRefusal::Busy | FlushRefusal::Beginning)));
    let is_done = replies.iter().any(|reply| matches!(reply, Some(Ok(_))));
    if is_left_out {
        FlushOutcome::Unavailable
    } else if replies.contains(&None) {
        FlushOutcome::Begun { found: recipients > 0 }
    } else if is_done {
        // A shard that cannot deliver has nothing that could be tried.
        FlushOutcome::Done { recipients }
    } else {
        FlushOutcome::Unavailable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_come_to_one_answer() {
        let busy = Some(Err(FlushRefusal::Busy));
        let beginning = Some(Err(FlushRefusal::Beginning));
        let lost = Some(Err(FlushRefusal::Unavailable));
        for (replies, expected) in [
            (vec![Some(Ok(2)), Some(Ok(3))], FlushOutcome::Done { recipients: 5 }),
            (vec![Some(Ok(0)), Some(Ok(0))], FlushOutcome::Done { recipients: 0 }),
            (vec![Some(Ok(2)), lost], FlushOutcome::Done { recipients: 2 }),
            (vec![Some(Ok(2)), None], FlushOutcome::Begun { found: true }),
            (vec![Some(Ok(0)), None], FlushOutcome::Begun { found: false }),
            (vec![Some(Ok(2)), busy], FlushOutcome::Unavailable),
            (vec![Some(Ok(2)), beginning], FlushOutcome::Unavailable),
            (vec![None, beginning], FlushOutcome::Unavailable),
            (vec![lost, lost], FlushOutcome::Unavailable),
        ] {
            assert_eq!(outcome(&replies), expected, "{replies:?}");
        }
    }
}
