//! What a session is held to while its server is short of something.

use std::time::{Duration, Instant};

use super::session::{ServerSession, State};
use crate::timer::Timer;

/// Limits that hold instead of the usual ones, where they are lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StressLimits {
    /// How long a client may take for whatever it is waited for: a whole command, a piece of content, a
    /// TLS handshake; and how long content may come slower than `data_rate_min`. Default 10 s.
    pub timeout: Duration,
    /// Refused commands at which the session is closed, of clients that may not relay. Default 2: the
    /// first refusal can still be read by its client.
    pub errors_max: u32,
    /// Commands without a message among them above which the session is closed, of clients that may not
    /// relay. Default 10.
    pub junk_commands_max: u32,
}

impl Default for StressLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), errors_max: 2, junk_commands_max: 10 }
    }
}

impl ServerSession {
    /// Sets whether the server is short of something. Deadlines that run are shortened at once; what was
    /// shortened stays so until the client has done what it is waited for.
    pub fn set_stress(&mut self, now: Instant, is_stressed: bool) {
        if self.is_stressed == is_stressed {
            return;
        }
        self.is_stressed = is_stressed;
        if !is_stressed {
            return;
        }
        let latest = now + self.config.stress.timeout;
        self.timers.shorten(Timer::Command, latest);
        match &self.state {
            State::Content(content) => {
                let pace = content.pace;
                self.timers.shorten(Timer::ContentBlock, latest);
                self.set_rate_timer(pace);
            }
            State::Chunk(_) => self.timers.shorten(Timer::ContentBlock, latest),
            _ => {}
        }
    }

    /// A time to wait, which is shorter under stress.
    pub(super) fn patience(&self, usual: Duration) -> Duration {
        if self.is_stressed { usual.min(self.config.stress.timeout) } else { usual }
    }

    /// How long a whole command may take to come.
    pub(super) fn command_timeout(&self) -> Duration {
        self.patience(self.config.command_timeout)
    }

    /// Refused commands at which the session is closed.
    pub(super) fn errors_max(&self) -> u32 {
        self.lower_for_strangers(self.config.errors_max, self.config.stress.errors_max)
    }

    /// Commands without a message above which the session is closed.
    pub(super) fn junk_commands_max(&self) -> u32 {
        let stressed = self.config.stress.junk_commands_max;
        self.lower_for_strangers(self.config.junk_commands_max, stressed)
    }

    fn lower_for_strangers(&self, usual: u32, stressed: u32) -> u32 {
        if self.is_stressed && !self.may_relay() { usual.min(stressed) } else { usual }
    }
}
