//! What `/health` knows: the state of every shard, and when it last ran.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ringpost_metrics::json::JsonObject;
use ringpost_metrics::label::{ClosedLabel, QueueState};

use super::watermarks::{Level, SharedRoom, Watermarks};

/// A shard that has not ticked for so long is stalled. Its ticker runs many times a second.
const TICK_AGE_MAX: Duration = Duration::from_secs(5);

/// The health of the process: written by the shards, read by the control thread.
#[derive(Debug)]
pub struct HealthState {
    shards: Box<[Arc<ShardHealth>]>,
    watermarks: Arc<Watermarks>,
    stopping: AtomicBool,
}

/// The part of one shard. Aligned so that no two cores write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct ShardHealth {
    base: Instant,
    /// Index into [`QueueState::ALL`].
    state: AtomicU8,
    /// Milliseconds from `base` to the last tick.
    tick_ms: AtomicU64,
    /// Why its storage cannot be used.
    reason: OnceLock<String>,
}

/// What `/health` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// State of each shard.
    pub shards: Vec<QueueState>,
    /// What is wrong; empty when nothing is.
    pub reasons: Vec<String>,
}

impl HealthState {
    /// A state for so many shards, all recovering, last ticked `now`.
    pub fn new(shards: usize, now: Instant) -> Self {
        let recovering = u8::try_from(QueueState::Recovering.index()).unwrap_or(u8::MAX);
        let shard = || {
            Arc::new(ShardHealth {
                base: now,
                state: AtomicU8::new(recovering),
                tick_ms: AtomicU64::new(0),
                reason: OnceLock::new(),
            })
        };
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            watermarks: Arc::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// The part of one shard, counted from 0; `None` when there are not so many.
    pub fn shard(&self, index: usize) -> Option<Arc<ShardHealth>> {
        self.shards.get(index).cloned()
    }

    /// The levels of what the process shares with others.
    pub fn watermarks(&self) -> &Arc<Watermarks> {
        &self.watermarks
    }

    /// Says that the process is stopping, so that a load balancer looks elsewhere.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Says how the process is.
    pub fn report(&self, now: Instant) -> HealthReport {
        let mut reasons = Vec::new();
        if self.stopping.load(Ordering::Relaxed) {
            reasons.push(String::from("stopping"));
        }
        for room in SharedRoom::ALL {
            if self.watermarks.level(room) == Level::Stop {
                reasons.push(room.reason().to_owned());
            }
        }
        let mut shards = Vec::with_capacity(self.shards.len());
        for (index, shard) in self.shards.iter().enumerate() {
            let state = shard.state();
            if state != QueueState::Open {
                let reason = shard.reason().map(|reason| format!(": {reason}"));
                let reason = reason.unwrap_or_default();
                reasons.push(format!("shard {index} is {}{reason}", state.value()));
            }
            let age = shard.tick_age(now);
            if age > TICK_AGE_MAX {
                reasons.push(format!("shard {index} has not run for {} s", age.as_secs()));
            }
            shards.push(state);
        }
        HealthReport { shards, reasons }
    }
}

impl ShardHealth {
    /// Publishes what the shard's queue can do.
    pub fn set_state(&self, state: QueueState) {
        self.state.store(u8::try_from(state.index()).unwrap_or(u8::MAX), Ordering::Relaxed);
    }

    /// Says why the shard's storage cannot be used, until the next start; the first reason stays.
    pub fn set_reason(&self, reason: &str) {
        let _ = self.reason.set(reason.to_owned());
    }

    /// Why the shard's storage cannot be used, if it cannot.
    pub fn reason(&self) -> Option<&str> {
        self.reason.get().map(String::as_str)
    }

    /// Says that the shard runs.
    pub fn tick(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_millis();
        self.tick_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn state(&self) -> QueueState {
        let index = usize::from(self.state.load(Ordering::Relaxed));
        QueueState::ALL.get(index).copied().unwrap_or(QueueState::Poisoned)
    }

    fn tick_age(&self, now: Instant) -> Duration {
        let last = Duration::from_millis(self.tick_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.base).saturating_sub(last)
    }
}

impl HealthReport {
    /// Whether mail is accepted and delivered by every shard.
    pub fn is_healthy(&self) -> bool {
        self.reasons.is_empty()
    }

    /// The report as JSON: `status`, `reasons`, and the state of each shard.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut object = JsonObject::open(&mut out);
        object.string("status", if self.is_healthy() { &"ok" } else { &"unhealthy" });
        object.strings("reasons", self.reasons.iter().map(String::as_str));
        object.strings("shards", self.shards.iter().map(|state| state.value()));
        object.close();
        out.push(b'\n');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(shards: usize, now: Instant) -> HealthState {
        let health = HealthState::new(shards, now);
        (0..shards).for_each(|index| health.shard(index).unwrap().set_state(QueueState::Open));
        health
    }

    #[test]
    fn all_shards_open_and_running_is_healthy() {
        let base = Instant::now();
        let health = open(2, base);
        let report = health.report(base + TICK_AGE_MAX);
        assert!(report.is_healthy());
        assert_eq!(
            report.to_json(),
            b"{\"status\":\"ok\",\"reasons\":[],\"shards\":[\"open\",\"open\"]}\n"
        );
    }

    #[test]
    fn every_other_state_is_a_reason() {
        let base = Instant::now();
        for state in [QueueState::Full, QueueState::Poisoned, QueueState::Recovering] {
            let health = open(2, base);
            health.shard(1).unwrap().set_state(state);
            let expected = format!("shard 1 is {}", state.value());
            assert_eq!(health.report(base).reasons, [expected]);
        }
        assert_eq!(HealthState::new(1, base).report(base).reasons, ["shard 0 is recovering"]);
    }

    #[test]
    fn lost_storage_is_explained_by_its_first_reason() {
        let base = Instant::now();
        let health = open(2, base);
        let shard = health.shard(1).unwrap();
        shard.set_state(QueueState::Damaged);
        shard.set_reason("segment 7 is damaged at 4096");
        shard.set_reason("and then some");
        let expected = "shard 1 is damaged: segment 7 is damaged at 4096";
        assert_eq!(health.report(base).reasons, [expected]);
    }

    #[test]
    fn a_shard_that_does_not_tick_is_a_reason() {
        let base = Instant::now();
        let health = open(2, base);
        let later = base + TICK_AGE_MAX + Duration::from_secs(2);
        health.shard(0).unwrap().tick(later);
        assert_eq!(health.report(later).reasons, ["shard 1 has not run for 7 s"]);
    }

    #[test]
    fn shared_room_at_its_limit_is_a_reason() {
        let base = Instant::now();
        let health = open(1, base);
        health.watermarks().set(SharedRoom::Space, Level::Slow);
        assert!(health.report(base).is_healthy());
        health.watermarks().set(SharedRoom::Memory, Level::Stop);
        assert_eq!(health.report(base).reasons, [SharedRoom::Memory.reason()]);
    }

    #[test]
    fn stopping_is_a_reason() {
        let base = Instant::now();
        let health = open(1, base);
        health.set_stopping();
        assert_eq!(health.report(base).reasons, ["stopping"]);
    }

    #[test]
    fn there_is_no_shard_behind_the_last() {
        assert!(HealthState::new(2, Instant::now()).shard(2).is_none());
    }
}
