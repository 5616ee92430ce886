//! What counts as stress, and what holds then.

use std::time::Duration;

use ringpost_session::server::StressLimits;
use serde::Deserialize;

use crate::config::units;

/// `[stress]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StressSection {
    /// Percent of the connections of a listener, or of the descriptors for clients, at which a core is
    /// under stress. Default: 80; from 1 to 100.
    pub enter_percent: u8,
    /// Percent below which it is not any more. Default: 60; below `enter_percent`.
    pub leave_percent: u8,
    /// How long a durable write takes at which a core is under stress. Default: 1 s.
    #[serde(deserialize_with = "units::duration")]
    pub commit_latency: Duration,
    /// How long clients may take then for whatever they are waited for. Default: 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// Errors in one session then, of clients that may not relay. Default: 2.
    pub errors_max: u32,
    /// Commands without effect in one session then, of clients that may not relay. Default: 10.
    pub junk_commands_max: u32,
}

impl Default for StressSection {
    fn default() -> Self {
        let StressLimits { timeout, errors_max, junk_commands_max } = StressLimits::default();
        Self {
            enter_percent: 80,
            leave_percent: 60,
            commit_latency: Duration::from_secs(1),
            timeout,
            errors_max,
            junk_commands_max,
        }
    }
}

impl StressSection {
    /// What it means for a session.
    pub fn limits(&self) -> StressLimits {
        let Self { timeout, errors_max, junk_commands_max, .. } = *self;
        StressLimits { timeout, errors_max, junk_commands_max }
    }
}
