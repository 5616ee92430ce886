//! The ticker of a shard: messages from outside, the engine's time, what is published.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ringpost_delivery::DeliveryConfig;
use ringpost_metrics::label::{Limit, QueueState, RuleAction};
use ringpost_queue::Admission;

use super::{Shard, ShardInbox, commit::is_quiet};
use crate::{config::ConfigSnapshot, control::Level, runtime::Runtime};

/// How often a shard looks at its inbox and its clock; also how long an outcome waits at most until
/// it is written, which bounds what a crash can make us deliver twice.
const TICK: Duration = Duration::from_millis(20);

/// How often gauges are published.
const PUBLISH_PERIOD: Duration = Duration::from_millis(200);

/// How long a shard that has done everything else waits until its event records are in the event log.
const EVENTS_PATIENCE: Duration = Duration::from_secs(2);

/// Times that the engine is told of the time in one tick; each does a bounded amount of work.
const TIMEOUTS_PER_TICK: usize = 16;

/// Ticks until the shard has stopped.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>, inbox: ShardInbox) {
    let mut ticked = shard.runtime.now();
    let mut published = ticked;
    let mut stop_at: Option<Instant> = None;
    let mut drained_at: Option<Instant> = None;
    shard.publish();
    loop {
        shard.runtime.sleep(TICK).await;
        let now = shard.runtime.now();
        shard.metrics.tick_lag.record((now - ticked).saturating_sub(TICK));
        ticked = now;
        shard.activity.tick();
        if let Some(health) = &shard.health {
            health.tick(now);
        }
        let orders = inbox.take_orders();
        if let Some(config) = orders.reload {
            shard.reload(config);
        }
        if orders.stop {
            stop_at.get_or_insert_with(|| now + shard.begin_stop());
        }
        for (from, message) in inbox.take_lease_messages() {
            shard.with_engine(|engine, now| engine.handle_lease_message(now, from, message));
        }
        if !shard.may_deliver() {
            shard.with_engine(ringpost_delivery::Engine::halt);
        }
        while let Some(request) = inbox.poll_request() {
            shard.answer(request);
        }
        for _ in 0..TIMEOUTS_PER_TICK {
            let timeout = shard.engine.borrow().poll_timeout();
            if timeout.is_none_or(|at| at > now) {
                break;
            }
            shard.with_engine(ringpost_delivery::Engine::handle_timeout);
            shard.runtime.turn().await;
        }
        shard.look_at_queue();
        shard.look_at_stress(now);
        shard.commits.forget_latency();
        shard.commits.check_stall(now, shard.queue.borrow().is_starved());
        shard.commits.look_after(now, TICK);
        shard.look_at_events();
        if now - published >= PUBLISH_PERIOD {
            published = now;
            shard.publish();
            shard.with_queue(ringpost_queue::Queue::retry_segments);
            shard.segment_work.set();
            shard.checkpoint_work.set();
        }
        let Some(stop_at) = stop_at else { continue };
        if shard.is_drained() {
            // An event log that cannot be written does not hold up the end.
            let patience = *drained_at.get_or_insert(now) + EVENTS_PATIENCE;
            if shard.finish_events() || patience <= now {
                shard.publish();
                return;
            }
        }
        if stop_at <= now {
            shard.finish_events();
            shard.publish();
            return;
        }
    }
}

impl<R: Runtime> Shard<R> {
    /// Begins to stop; how long the shard may take for it.
    fn begin_stop(&self) -> Duration {
        self.draining.set(true);
        // The next start is spared what can be spared.
        self.queue.borrow_mut().request_checkpoint();
        self.checkpoint_work.set();
        self.runtime.notify_streams();
        self.intake.wake();
        // The rest of the time is for the process to end in.
        self.config().config().server.shutdown_timeout.mul_f32(0.8)
    }

    fn is_drained(&self) -> bool {
        self.sessions_open.get() == 0
            && self.outbound_open.get() == 0
            && self.settlements.is_empty()
            && is_quiet(&self.queue.borrow())
            && !self.queue.borrow().has_checkpoint_work()
    }

    fn reload(self: &Rc<Self>, config: Arc<ConfigSnapshot>) {
        for listener in &*self.listeners.borrow() {
            if let Some(section) = config.config().listener.get(listener.name()) {
                let server_config = Arc::new(config.server_config(section));
                listener.reconfigure(section.clone(), server_config);
                listener.set_acceptor(config.acceptor(listener.name()).cloned());
            }
        }
        *self.client_config.borrow_mut() = Arc::new(config.client_config());
        *self.connectors.borrow_mut() = config.connectors();
        let cache_size = config.config().queue.content_cache_size_max;
        let cache_size = usize::try_from(cache_size).unwrap_or(usize::MAX);
        self.cache.borrow_mut().set_memory_size_max(cache_size);
        let delivery: Arc<DeliveryConfig> = Arc::new(config.delivery_config());
        *self.own_host.borrow_mut() = super::own_host(&config);
        *self.config.borrow_mut() = config;
        self.with_engine(|engine, now| engine.reconfigure(now, delivery));
    }

    /// Tells of event records that the queue has given up, of which it counts so many.
    ///
    /// At once, not with the next tick: a process that ended before it would have lost them in silence.
    pub(super) fn tell_given_up(&self, total: u64) {
        let known = self.events_given_up.replace(total);
        if known < total {
            let records = total - known;
            tracing::warn!(shard = self.number, records, "event records are given up, untold");
            self.metrics.limit_hits.increment(Limit::HeldSegmentsMax);
            self.metrics.event_records_lost.absolute(total);
        }
    }

    /// Publishes what the state machines count.
    pub(super) fn publish(&self) {
        let metrics = &self.metrics;
        let queue = self.queue.borrow();
        let stats = queue.stats();
        metrics.queue_messages.set(stats.messages as f64);
        metrics.queue_recipients.set(stats.recipients as f64);
        metrics.queue_segments.set(stats.segments as f64);
        metrics.queue_bytes.set(stats.disk_bytes as f64);
        metrics.queue_live_bytes.set(stats.live_bytes as f64);
        metrics.queue_pending_bytes.set(stats.pending_bytes as f64);
        metrics.queue_rewrites.absolute(stats.rewritten_records_total);
        metrics.queue_corrupt_records.absolute(stats.corrupt_records_total);
        metrics.queue_segment_failures.absolute(stats.segment_failures_total);
        metrics.queue_replay_bytes.set(stats.replay_bytes as f64);
        metrics.queue_checkpoint_bytes.set(stats.checkpoint_bytes as f64);
        metrics.queue_checkpoints.absolute(stats.checkpoints_total);
        metrics.queue_checkpoint_failures.absolute(stats.checkpoint_failures_total);
        self.tell_given_up(stats.event_records_given_up_total);
        metrics.queue_bytes_max.set(queue.config().disk_size_max as f64);
        let state = match queue.admission() {
            // Told like this, because operators have to do the same about it.
            _ if self.commits.is_stalled() => QueueState::Poisoned,
            Admission::Recovering if self.intake.is_lost() => QueueState::Damaged,
            Admission::Recovering => QueueState::Recovering,
            Admission::Open | Admission::Full if !self.intake.is_open() => QueueState::Recovering,
            Admission::Open if self.pressure().level == Level::Stop => QueueState::Full,
            Admission::Open => QueueState::Open,
            Admission::Full => QueueState::Full,
            Admission::Poisoned => QueueState::Poisoned,
        };
        drop(queue);
        metrics.queue_state.set_only(state);
        if let Some(health) = &self.health {
            health.set_state(state);
        }
        metrics.sessions_open.set(self.sessions_open.get() as f64);
        metrics.auth_waiting.set(self.passwords_waiting.get() as f64);
        metrics.content_cache_bytes.set(self.cache.borrow().memory_size() as f64);
        metrics.panics_contained.absolute(self.runtime.panics_contained());

        let stats = self.engine.borrow().stats();
        metrics.connections_opening.set(stats.connections.opening as f64);
        metrics.connections_open.set(stats.connections.established() as f64);
        metrics.connections_idle.set(stats.connections.idle as f64);
        metrics.sites.set(stats.sites as f64);
        metrics.destinations.set(stats.destinations as f64);
        metrics.transactions_ready.set(stats.ready as f64);
        metrics.transactions_returned.absolute(stats.jobs_returned);
        metrics.recipients_waiting.set(stats.waiting as f64);
        metrics.sites_throttled.set(stats.sites_throttled as f64);
        metrics.recipients_parked.set(stats.parked as f64);
        metrics.destinations_parked.set(stats.destinations_parked as f64);
        metrics.remote_tls_fallbacks.absolute(stats.tls_fallbacks);
        metrics.remote_tls_passed_over.absolute(stats.tls_passed_over);
        metrics.remote_tls_broken.set(stats.tls_broken as f64);
        for (action, count) in [
            (RuleAction::Defer, stats.rules.defers),
            (RuleAction::Bounce, stats.rules.bounces),
            (RuleAction::EndSession, stats.rules.ends),
            (RuleAction::RetryAfter, stats.rules.retries),
            (RuleAction::BackOff, stats.rules.back_offs),
            (RuleAction::SkipHost, stats.rules.skips),
        ] {
            metrics.reply_rules.with(action).absolute(count);
        }
        let overflows = stats.tls_broken_overflows;
        let new = overflows - self.tls_overflows.replace(overflows);
        metrics.limit_hits.with(Limit::TlsBrokenMax).increment(new);
        let waits = stats.leases.waits;
        let new = waits - self.slot_waits.replace(waits);
        metrics.limit_hits.with(Limit::ConnectionsPerSite).increment(new);
        metrics.sites_waiting.set(stats.leases.waiting as f64);
        metrics.leases_granted.absolute(stats.leases.granted);
        metrics.leases_recalled.absolute(stats.leases.recalled);
        metrics.lease_messages.absolute(stats.leases.messages);
        metrics.leases_out.set(stats.leases.out as f64);
        metrics.dns_lookups.absolute(stats.dns.lookups);
        metrics.dns_timeouts.absolute(stats.dns.timeouts);
        metrics.dns_foreign_datagrams.absolute(stats.dns.foreign_datagrams);
        metrics.dns_queries.absolute(stats.dns.datagrams_sent + stats.dns.tcp_queries);
        metrics.dns_cache_hits.absolute(stats.dns.cache_hits);
        metrics.dns_failures.absolute(stats.dns.failures);
    }
}
