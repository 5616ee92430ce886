//! Reports to originators (DSNs): whom a settlement has to be told, what of the message that needs, and the
//! report on its way into the queue. It is committed with the outcomes that it tells of, in `settle`.

use std::{borrow::Cow, rc::Rc};

use ringpost_delivery::{
    Settlement,
    bounce::{BounceContext, report, returns_all, told},
};
use ringpost_metrics::label::{Limit, ReportAction};
use ringpost_protocol::{dsn::Action, envelope::Envelope};
use ringpost_queue::{Disposition, MessageId, Ticket};

use super::{
    Shard,
    cache::CachedMessage,
    commit::fresh_message,
    stored::{MessageError, Part},
};
use crate::runtime::Runtime;

/// Bytes of the original content that a report may quote the header from.
const HEADER_SIZE_MAX: usize = 64 * 1024;

/// A report to an originator, about to be queued.
pub(super) struct Report {
    pub(super) id: MessageId,
    pub(super) envelope: Envelope,
    pub(super) content: Vec<u8>,
    /// The gravest thing that it tells.
    action: ReportAction,
    /// Recipients of whose delay it tells.
    delayed: u64,
}

/// Whether the originator may have to hear of a settlement, as far as that can be known without the
/// message.
fn may_have_report(settlement: &Settlement) -> bool {
    settlement.recipients.iter().any(|settled| {
        settled.warns || !matches!(settled.disposition, Disposition::Deferred { .. })
    })
}

impl<R: Runtime> Shard<R> {
    /// What of a message is needed to settle it.
    pub(super) async fn message_to_settle(
        &self,
        settlement: &Settlement,
    ) -> Result<Rc<CachedMessage>, MessageError> {
        let part = if may_have_report(settlement) { Part::Header } else { Part::Envelope };
        let message = self.message_part(settlement.id, part).await?;
        let is_wanted = returns_all(&message.envelope, settlement);
        if is_wanted && self.returns_size(settlement.id) && !self.is_whole(settlement, &message) {
            return self.message(settlement.id).await;
        }
        Ok(message)
    }

    /// Whether a message is small enough to be returned as a whole.
    fn returns_size(&self, id: MessageId) -> bool {
        let size_max = self.config().return_size_max();
        self.queue.borrow().message(id).is_some_and(|view| view.size <= size_max)
    }

    fn is_whole(&self, settlement: &Settlement, message: &CachedMessage) -> bool {
        let queue = self.queue.borrow();
        queue.message(settlement.id).is_some_and(|view| view.size == message.content_size())
    }

    /// The report on a settlement, if there is anybody and anything to tell.
    pub(super) fn report(
        &self,
        settlement: &Settlement,
        message: &CachedMessage,
        received_unix_ms: u64,
    ) -> Option<Report> {
        let of_one = |one| told(&message.envelope, &settlement.attempt, one);
        let actions = || settlement.recipients.iter().filter_map(of_one);
        let action = actions().map(label).min_by_key(|label| *label as usize)?;
        let delayed = actions().filter(|action| *action == Action::Delayed).count() as u64;
        let id = self.with_queue_lazily(ringpost_queue::Queue::next_id);
        let first = message.content.first().map(Vec::as_slice).unwrap_or_default();
        let config = self.config();
        let original = self.returned(settlement, message);
        let context = BounceContext {
            hostname: config.hostname(),
            report_id: id,
            now_unix_ms: self.runtime.unix_ms(),
            received_unix_ms,
            envelope: &message.envelope,
            original_header: first.get(..HEADER_SIZE_MAX).unwrap_or(first),
            original: original.as_deref(),
        };
        let (envelope, content) = report(&context, settlement)?;
        Some(Report { id, envelope, content, action, delayed })
    }

    /// The whole content, if it is to be returned, is at hand, and is small enough.
    fn returned<'m>(
        &self,
        settlement: &Settlement,
        message: &'m CachedMessage,
    ) -> Option<Cow<'m, [u8]>> {
        if !returns_all(&message.envelope, settlement) {
            return None;
        }
        if !self.returns_size(settlement.id) {
            self.metrics.limit_hits.with(Limit::ReturnSize).increment(1);
            return None;
        }
        self.is_whole(settlement, message).then(|| match message.content.as_slice() {
            [only] => Cow::Borrowed(only.as_slice()),
            parts => Cow::Owned(parts.concat()),
        })
    }

    /// Sends a report on its way, once it is durable.
    pub(super) fn send_report(
        &self,
        ticket: &Ticket,
        report: Report,
        now_unix_ms: u64,
        expiry_unix_ms: u64,
    ) {
        self.metrics.dsns.with(report.action).increment(1);
        self.metrics.delay_warnings.increment(report.delayed);
        let own_host = self.own_host.borrow();
        let fresh =
            fresh_message(report.id, now_unix_ms, expiry_unix_ms, &report.envelope, &own_host);
        self.commits.schedule_after(ticket, fresh);
        let content = vec![report.content];
        let cached = CachedMessage { envelope: report.envelope, content };
        self.cache.borrow_mut().insert(report.id, cached);
    }
}

/// The gravest is the least.
fn label(action: Action) -> ReportAction {
    match action {
        Action::Delayed => ReportAction::Delayed,
        Action::Relayed => ReportAction::Relayed,
        // Others are made in no other place.
        Action::Failed | _ => ReportAction::Failed,
    }
}
