//! What one shard counts.

use metrics::{Counter, Gauge, Histogram, Label};

use crate::catalog::Scope;
use crate::family::Family;
use crate::label::{
    ConnectFailure, Limit, OutboundAuth, Outcome, QueueState, Refusal, RemoteTlsFailure,
    ReportAction, RuleAction, SessionEnd, StressCause, TlsVersion,
};
use crate::table::metric_table;

metric_table! {
    /// The handles of one shard, registered once and owned by it.
    ///
    /// Every series carries the label `core`. Counters that a pure machine keeps itself (queue,
    /// delivery engine) are published with `Counter::absolute`, the others incremented in place.
    pub struct ShardMetrics, SHARD_ROWS, Scope::Core;

    sessions_open: Gauge = "ringpost_sessions_open", Count,
        "Inbound sessions open now.";
    sessions_closed: Family<SessionEnd, Counter> = "ringpost_sessions_closed_total", Count,
        "Inbound sessions that ended, by reason.";
    auth_waiting: Gauge = "ringpost_auth_waiting", Count,
        "Sessions that wait for their password to be compared.";
    accept_errors: Counter = "ringpost_accept_errors_total", Count,
        "Failed accepts of a connection, such as no free descriptors.";
    command_errors: Counter = "ringpost_command_errors_total", Count,
        "Commands answered with a 4xx or 5xx reply.";
    messages_held: Counter = "ringpost_messages_held_total", Count,
        "Acknowledged messages whose delivery is to begin at a time that the client has given.";
    recipients_held: Counter = "ringpost_recipients_held_total", Count,
        "Recipients of those messages.";
    messages_prioritized: Counter = "ringpost_messages_prioritized_total", Count,
        "Acknowledged messages with another priority than 0.";
    messages_refused: Family<Refusal, Counter> = "ringpost_messages_refused_total", Count,
        "Transactions that came to no message, by reason; those a client gave up itself are not counted.";
    recipients_refused: Counter = "ringpost_recipients_refused_total", Count,
        "RCPT commands answered with a 4xx or 5xx reply.";
    acknowledgement_duration: Histogram = "ringpost_acknowledgement_duration_seconds", Seconds,
        "From the end of data to its 250 reply, which includes the sync.";

    commit_batches: Counter = "ringpost_commit_batches_total", Count,
        "Batches written to the log.";
    commit_bytes: Counter = "ringpost_commit_bytes_total", Bytes,
        "Bytes written to the log, padding included.";
    commit_syncs: Counter = "ringpost_commit_syncs_total", Count,
        "Durable writes of the log that were waited for.";
    commit_failures: Counter = "ringpost_commit_failures_total", Count,
        "Writes or syncs of the log that failed. The first one poisons the shard.";
    commit_records: Histogram = "ringpost_commit_records", Count,
        "Records that shared one batch.";
    commit_duration: Histogram = "ringpost_commit_duration_seconds", Seconds,
        "From the start of a batch's write to its durability.";

    queue_messages: Gauge = "ringpost_queue_messages", Count,
        "Messages with at least one unsettled recipient.";
    queue_recipients: Gauge = "ringpost_queue_recipients", Count,
        "Recipients that are not settled.";
    queue_segments: Gauge = "ringpost_queue_segments", Count,
        "Segments of the log that hold records.";
    queue_bytes: Gauge = "ringpost_queue_bytes", Bytes,
        "Space that the log and its checkpoints take.";
    queue_bytes_max: Gauge = "ringpost_queue_bytes_max", Bytes,
        "Space the log may use.";
    queue_live_bytes: Gauge = "ringpost_queue_live_bytes", Bytes,
        "Space of the log that records of queued messages take.";
    queue_pending_bytes: Gauge = "ringpost_queue_pending_bytes", Bytes,
        "Bytes gathered for the log that are not durable yet.";
    queue_state: Family<QueueState, Gauge> = "ringpost_queue_state", Count,
        "1 for the state that the shard's queue is in, 0 for the others.";
    queue_rewrites: Counter = "ringpost_queue_rewrites_total", Count,
        "Messages copied to the end of the log so that their segment could be freed.";
    queue_corrupt_records: Counter = "ringpost_queue_corrupt_records_total", Count,
        "Records that could not be read back as they were written.";
    queue_segment_failures: Counter = "ringpost_queue_segment_failures_total", Count,
        "Segments that could not be created, recycled or deleted.";
    queue_replay_bytes: Gauge = "ringpost_queue_replay_bytes", Bytes,
        "Log that a restart would have to read, beside the checkpoint.";
    queue_checkpoint_bytes: Gauge = "ringpost_queue_checkpoint_bytes", Bytes,
        "Size of the newest checkpoint; 0 if there is none.";
    queue_checkpoints: Counter = "ringpost_queue_checkpoints_total", Count,
        "Checkpoints of the index that were completed.";
    queue_checkpoint_failures: Counter = "ringpost_queue_checkpoint_failures_total", Count,
        "Checkpoints given up because they could not be written. Nothing is lost by that.";
    checkpoints_damaged: Counter = "ringpost_queue_checkpoints_damaged_total", Count,
        "Checkpoints that a start could not use because they were damaged.";
    messages_recovered: Counter = "ringpost_messages_recovered_total", Count,
        "Messages found in the log at start.";
    log_tail_truncated_bytes: Counter = "ringpost_log_tail_truncated_bytes_total", Bytes,
        "Unacknowledged bytes cut from the end of the log at start, after a crash.";
    recovery_duration: Gauge = "ringpost_recovery_duration_seconds", Seconds,
        "How long reading the log took at the last start.";

    outcomes: Family<Outcome, Counter> = "ringpost_outcomes_total", Count,
        "Outcomes of attempts, counted for each recipient.";
    outcomes_unknown: Counter = "ringpost_outcomes_unknown_total", Count,
        "Attempts that ended after the final dot without a reply: deferred, may be delivered twice.";
    dsns: Family<ReportAction, Counter> = "ringpost_dsns_total", Count,
        "Delivery status notifications put into the queue, by the gravest thing that they tell.";
    delay_warnings: Counter = "ringpost_delay_warnings_total", Count,
        "Recipients of whose delay the originator was told.";
    recipients_flushed: Counter = "ringpost_recipients_flushed_total", Count,
        "Recipients that were tried before their time, because a client or an operator wanted it.";
    recipients_purged: Counter = "ringpost_recipients_purged_total", Count,
        "Recipients that an operator removed from the queue.";
    attempts: Counter = "ringpost_attempts_total", Count,
        "Attempts, counted for each recipient.";
    delivered_bytes: Counter = "ringpost_delivered_bytes_total", Bytes,
        "Content sent in transactions that delivered to at least one recipient.";
    delivery_duration: Histogram = "ringpost_delivery_duration_seconds", Seconds,
        "From the 250 we gave to the 250 we got, for each delivered recipient.";
    transactions: Counter = "ringpost_transactions_total", Count,
        "Outbound transactions that ended.";
    transactions_converted: Counter = "ringpost_transactions_converted_total", Count,
        "Outbound transactions with content that was made 7-bit for a host without 8BITMIME.";
    transaction_duration: Histogram = "ringpost_transaction_duration_seconds", Seconds,
        "From MAIL to the last reply of an outbound transaction.";
    remote_tls_handshakes: Family<TlsVersion, Counter> = "ringpost_remote_tls_handshakes_total", Count,
        "TLS handshakes with next hops that were completed, by version.";
    remote_tls_failures: Family<RemoteTlsFailure, Counter> = "ringpost_remote_tls_failures_total", Count,
        "TLS handshakes with next hops that failed or were refused, by reason.";
    remote_tls_handshake_duration: Histogram = "ringpost_remote_tls_handshake_duration_seconds", Seconds,
        "How long completed TLS handshakes with next hops took.";
    remote_tls_verified: Counter = "ringpost_remote_tls_verified_total", Count,
        "Completed TLS handshakes with next hops whose certificate is from a trusted authority and has the right name.";
    remote_tls_resumed: Counter = "ringpost_remote_tls_resumed_total", Count,
        "Completed TLS handshakes with next hops that went on with an earlier TLS session.";
    remote_tls_fallbacks: Counter = "ringpost_remote_tls_fallbacks_total", Count,
        "Connections made again in plain text because opportunistic TLS had failed.";
    remote_tls_passed_over: Counter = "ringpost_remote_tls_passed_over_total", Count,
        "Connections made in plain text because opportunistic TLS had failed at the address before.";
    remote_tls_broken: Gauge = "ringpost_remote_tls_broken", Count,
        "Addresses at which opportunistic TLS has failed a short while ago.";
    outbound_auth: Family<OutboundAuth, Counter> = "ringpost_outbound_auth_total", Count,
        "Logins at smarthosts, by what came of them.";
    reply_rules: Family<RuleAction, Counter> = "ringpost_reply_rules_total", Count,
        "Times that rules on replies (delivery.rules) have applied, by what followed.";
    connections_opening: Gauge = "ringpost_connections_opening", Count,
        "Outbound connections not yet ready for a transaction.";
    connections_open: Gauge = "ringpost_connections_open", Count,
        "Outbound connections that are ready, idle ones included.";
    connections_idle: Gauge = "ringpost_connections_idle", Count,
        "Outbound connections kept open without work.";
    connections_opened: Counter = "ringpost_connections_opened_total", Count,
        "Outbound connections that became ready.";
    connect_failures: Family<ConnectFailure, Counter> = "ringpost_connect_failures_total", Count,
        "Outbound connections that never became ready, by reason.";
    sites_waiting: Gauge = "ringpost_sites_waiting", Count,
        "Sites that could use a connection more and have to wait, as all that the server may have are taken or on their way.";
    leases_granted: Counter = "ringpost_leases_granted_total", Count,
        "Slots for connections that the shard was given by the owners of limits.";
    leases_recalled: Counter = "ringpost_leases_recalled_total", Count,
        "Times that the shard had to close connections because other shards lacked their slots.";
    lease_messages: Counter = "ringpost_lease_messages_total", Count,
        "Messages about limits that the shard sent to other shards.";
    leases_out: Gauge = "ringpost_leases_out", Count,
        "Slots that all shards have of the limits that the shard owns.";
    transactions_ready: Gauge = "ringpost_transactions_ready", Count,
        "Transactions that could start and wait for a connection.";
    transactions_returned: Counter = "ringpost_transactions_returned_total", Count,
        "Transactions that went back untried because a kept connection was gone.";
    recipients_waiting: Gauge = "ringpost_recipients_waiting", Count,
        "Recipients that wait for their due time: deferred, or not to be sent before it.";
    recipients_parked: Gauge = "ringpost_recipients_parked", Count,
        "Recipients that wait for a site that is down, or for the DNS after a failure.";
    sites_throttled: Gauge = "ringpost_sites_throttled", Count,
        "Sites with work that waits because every host failed.";
    destinations_parked: Gauge = "ringpost_destinations_parked", Count,
        "Destinations with work that waits because the DNS did not tell where it goes.";
    sites: Gauge = "ringpost_sites", Count,
        "Sites known to the shard.";
    destinations: Gauge = "ringpost_destinations", Count,
        "Destinations known to the shard.";

    dns_lookups: Counter = "ringpost_dns_lookups_total", Count,
        "Lookups of names, answered from the cache or not.";
    dns_cache_hits: Counter = "ringpost_dns_cache_hits_total", Count,
        "Lookups answered from the shard's cache.";
    dns_queries: Counter = "ringpost_dns_queries_total", Count,
        "Questions sent to a name server, repeats included.";
    dns_timeouts: Counter = "ringpost_dns_timeouts_total", Count,
        "Questions that no name server answered in time.";
    dns_failures: Counter = "ringpost_dns_failures_total", Count,
        "Lookups that ended without an answer.";
    dns_foreign_datagrams: Counter = "ringpost_dns_foreign_datagrams_total", Count,
        "Datagrams ignored because they answer nothing that was asked; many may be an attack.";

    content_cache_bytes: Gauge = "ringpost_content_cache_bytes", Bytes,
        "Content of fresh messages kept in memory for their first delivery.";
    content_cache_hits: Counter = "ringpost_content_cache_hits_total", Count,
        "Transactions whose content was still in memory.";
    content_cache_misses: Counter = "ringpost_content_cache_misses_total", Count,
        "Transactions whose content was read back from the log.";

    event_records_lost: Counter = "ringpost_event_records_lost_total", Count,
        "Event records given up because the event log could not be written for too long, at most: some may be in it.";
    event_records_read_back: Counter = "ringpost_event_records_read_back_total", Count,
        "Event records read back from the queue: after a restart, or when the event log could not be written.";
    stress: Family<StressCause, Gauge> = "ringpost_stress", Count,
        "1 for what the core is short of, 0 for the rest; see the section on stress in the configuration.";
    stress_entered: Family<StressCause, Counter> = "ringpost_stress_entered_total", Count,
        "Times that the core has come under stress, by what it was short of.";
    limit_hits: Family<Limit, Counter> = "ringpost_limit_hits_total", Count,
        "Times a limit held something back, by limit.";
    panics_contained: Counter = "ringpost_panics_contained_total", Count,
        "Panics that ended one session or one connection. Any value above 0 is a bug.";
    tick_lag: Histogram = "ringpost_tick_lag_seconds", Seconds,
        "How late the shard's ticker ran: how long the core was busy without a pause.";
}

impl ShardMetrics {
    /// Registers the handles of one core with the current recorder.
    ///
    /// To be called once for each shard, at start; it allocates and takes locks.
    pub fn register(core: usize) -> Self {
        Self::register_with(&[Label::new("core", core.to_string())])
    }
}
