//! What a session has counted, as metrics.

use ringpost_metrics::{
    ListenerMetrics, ShardMetrics,
    label::{AddedField, Limit, MessageLabel, Refusal},
};
use ringpost_protocol::{data::edit::MissingFields, label::Labels};
use ringpost_session::server::{ServerLimit, ServerStats, TransactionRefusal};

/// Publishes what has been counted since `published`, and makes that `stats`.
///
/// To be called after each input: when nothing was refused it is one comparison.
pub(super) fn publish(metrics: &ShardMetrics, published: &mut ServerStats, stats: &ServerStats) {
    if stats == published {
        return;
    }
    let change = stats.since(published);
    *published = *stats;
    metrics.command_errors.increment(change.command_errors.into());
    metrics.recipients_refused.increment(change.recipients_refused.into());
    for refusal in TransactionRefusal::ALL {
        let count = change.transactions_refused(refusal);
        metrics.messages_refused.with(refusal_label(refusal)).increment(count.into());
    }
    for limit in ServerLimit::ALL {
        let count = change.limit_hits(limit);
        metrics.limit_hits.with(limit_label(limit)).increment(count.into());
    }
}

/// Counts what was added to the header section of a message.
pub(super) fn count_added(metrics: &ListenerMetrics, added: MissingFields) {
    if added.date {
        metrics.fields_added.increment(AddedField::Date);
    }
    if added.message_id {
        metrics.fields_added.increment(AddedField::MessageId);
    }
}

/// Counts what a message is known by.
pub(super) fn count_labels(metrics: &ListenerMetrics, labels: &Labels) {
    if labels.tenant.is_some() {
        metrics.messages_labelled.increment(MessageLabel::Tenant);
    }
    if labels.campaign.is_some() {
        metrics.messages_labelled.increment(MessageLabel::Campaign);
    }
}

fn refusal_label(refusal: TransactionRefusal) -> Refusal {
    match refusal {
        TransactionRefusal::Relay => Refusal::Relay,
        TransactionRefusal::NoRecipient => Refusal::NoRecipient,
        TransactionRefusal::Size => Refusal::Size,
        TransactionRefusal::Content => Refusal::Content,
        TransactionRefusal::Loop => Refusal::Loop,
        TransactionRefusal::Hold => Refusal::Hold,
        TransactionRefusal::DeliverBy => Refusal::DeliverBy,
        TransactionRefusal::Label => Refusal::Label,
        TransactionRefusal::ReversePath => Refusal::ReversePath,
        TransactionRefusal::UserRate => Refusal::UserRate,
        TransactionRefusal::QueueFull => Refusal::QueueFull,
        TransactionRefusal::Unavailable => Refusal::Unavailable,
        TransactionRefusal::Aborted => Refusal::Aborted,
        TransactionRefusal::Shutdown => Refusal::Shutdown,
    }
}

fn limit_label(limit: ServerLimit) -> Limit {
    match limit {
        ServerLimit::Recipients => Limit::Recipients,
        ServerLimit::MessageSize => Limit::MessageSize,
        ServerLimit::Errors => Limit::Errors,
        ServerLimit::JunkCommands => Limit::JunkCommands,
        ServerLimit::Transactions => Limit::Transactions,
        ServerLimit::SessionTime => Limit::SessionTime,
        ServerLimit::CommandTimeout => Limit::CommandTimeout,
        ServerLimit::TlsHandshakes => Limit::TlsHandshakes,
        ServerLimit::TlsHandshakeTimeout => Limit::TlsHandshakeTimeout,
        ServerLimit::AuthFailures => Limit::AuthFailures,
        ServerLimit::AuthLine => Limit::AuthLine,
        ServerLimit::PasswordQueue => Limit::PasswordQueue,
        ServerLimit::UserRate => Limit::UserRate,
        ServerLimit::DataBlockTimeout => Limit::DataBlockTimeout,
        ServerLimit::DataRate => Limit::DataRate,
        ServerLimit::OutputTimeout => Limit::OutputTimeout,
        ServerLimit::CommandLine => Limit::CommandLine,
        ServerLimit::TextLine => Limit::TextLine,
        ServerLimit::Header => Limit::Header,
        ServerLimit::ReceivedFields => Limit::ReceivedFields,
        ServerLimit::FutureRelease => Limit::FutureRelease,
        ServerLimit::MtPriority => Limit::MtPriority,
        ServerLimit::DeliverBy => Limit::DeliverBy,
        ServerLimit::DsnParameters => Limit::DsnParameters,
        ServerLimit::ReplyOutput => Limit::ReplyOutput,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, time::Instant};

    use ringpost_metrics::{MetricsRecorder, label::ClosedLabel, with_local_recorder};
    use ringpost_session::server::{Peer, ServerConfig, ServerSession};

    use super::*;

    /// The metrics of a shard that are not zero, without the label of the core.
    fn shown(page: &str) -> HashMap<String, u64> {
        let series = page.lines().filter_map(|line| line.rsplit_once(' '));
        let counts = series.filter_map(|(name, value)| Some((name, value.parse().ok()?)));
        let counts = counts.filter(|(_, value)| *value > 0);
        counts.map(|(name, value)| (name.replace("core=\"0\"", ""), value)).collect()
    }

    #[test]
    fn what_a_session_counts_is_published_once() {
        let (recorder, exposition) = MetricsRecorder::new();
        let metrics = with_local_recorder(&recorder, || ShardMetrics::register(0));
        let config = Arc::new(ServerConfig { recipients_max: 1, ..ServerConfig::default() });
        let peer = Peer { ip: [192, 0, 2, 1].into(), may_relay: true };
        let now = Instant::now();
        let mut session = ServerSession::new(now, config, peer);
        session.transmitted(session.transmit().len());
        let mut published = ServerStats::default();
        let mut content = Vec::new();
        let mut send = |line: &str| {
            let consumed = session.handle_input(now, line.as_bytes(), &mut content);
            assert_eq!(consumed, line.len());
            while session.poll_event().is_some() {}
            publish(&metrics, &mut published, session.stats());
        };
        send("EHLO c.test\r\n");
        send("MAIL FROM:<>\r\nRCPT TO:<a@a.test>\r\n");
        assert_eq!(shown(&exposition.render()), HashMap::new());
        send("RCPT TO:<b@a.test>\r\n");
        send("RCPT TO:<c@a.test>\r\nWHAT\r\nDATA\r\n");
        send(" a\r\n.\r\n");
        send("NOOP\r\n");
        let expected = [
            ("ringpost_command_errors_total{}", 3),
            ("ringpost_recipients_refused_total{}", 2),
            ("ringpost_messages_refused_total{,reason=\"content\"}", 1),
            ("ringpost_limit_hits_total{,limit=\"recipients_max\"}", 2),
        ];
        let expected = expected.map(|(name, count)| (name.to_owned(), count));
        assert_eq!(shown(&exposition.render()), expected.into());
    }

    /// The sets are written down twice, with the same words.
    #[test]
    fn labels_are_those_of_the_session() {
        for limit in ServerLimit::ALL {
            assert_eq!(format!("{limit:?}"), format!("{:?}", limit_label(limit)));
        }
        for refusal in TransactionRefusal::ALL {
            assert_eq!(format!("{refusal:?}"), format!("{:?}", refusal_label(refusal)));
        }
        assert_eq!(TransactionRefusal::ALL.len(), Refusal::VALUES.len());
    }
}
