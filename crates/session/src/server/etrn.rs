//! ETRN: a client has the mail for a place tried now (RFC 1985).
//!
//! The queue is the driver's: the session asks, and says how it went.

use std::fmt::Display;
use std::time::Instant;

use ringpost_protocol::command::CommandError;
use ringpost_protocol::etrn::Node;
use ringpost_protocol::extension::Extension;

use super::event::ServerEvent;
use super::replies;
use super::session::{ServerSession, State};
use crate::timer::Timer;

/// What came of a [`ServerEvent::Flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushOutcome {
    /// All mail for the node has been looked through, and so many recipients are on their way.
    Done {
        /// Recipients that would have waited.
        recipients: u64,
    },
    /// The driver goes on with it; `found` when it has found mail already.
    Begun {
        /// Whether any mail was found so far.
        found: bool,
    },
    /// The queue cannot be used now, or too many do so already.
    Unavailable,
}

impl ServerSession {
    /// Sets whether the client may have mail tried, by ETRN. No at first, and for each client that a gateway
    /// names.
    pub fn set_may_flush(&mut self, may_flush: bool) {
        self.may_flush = may_flush;
    }

    /// Whether ETRN is taken.
    pub(super) fn offers_etrn(&self) -> bool {
        self.may_flush && self.config.extensions.contains(Extension::Etrn)
    }

    /// Whose mail [`ServerEvent::Flush`] is about.
    pub fn flush_node(&self) -> Option<&Node> {
        match &self.state {
            State::Flushing(node) => Some(node),
            _ => None,
        }
    }

    pub(super) fn handle_etrn(&mut self, now: Instant, text: &str) {
        if !self.offers_etrn() {
            return self.refuse(now, replies::NOT_IMPLEMENTED);
        }
        // RFC 1985 §5.
        if self.transaction.is_some() {
            return self.refuse(now, replies::ETRN_IN_TRANSACTION);
        }
        match Node::parse(text) {
            None => self.refuse(now, CommandError::Argument.reply()),
            Some(node @ Node::Queue(_)) => {
                let (start, end) = ("459 4.5.4 Node ", " not allowed: no queue has a name");
                self.refuse_with(now, |out| write_node(out, start, &node, end));
            }
            Some(node) => {
                if self.count_junk(now) {
                    // The client cannot be late meanwhile.
                    self.timers.stop(Timer::Command);
                    self.state = State::Flushing(Box::new(node));
                    self.event = Some(ServerEvent::Flush);
                }
            }
        }
    }

    /// Takes what came of [`ServerEvent::Flush`].
    pub fn handle_flush(&mut self, now: Instant, outcome: FlushOutcome) {
        if !matches!(self.state, State::Flushing(_)) {
            return;
        }
        let State::Flushing(node) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        self.timers.set(Timer::Command, now + self.command_timeout());
        let out = self.output();
        match outcome {
            FlushOutcome::Done { recipients: 0 } => {
                write_node(out, "251 2.0.0 OK, no messages waiting for node ", &node, "");
            }
            FlushOutcome::Done { recipients } => {
                let start = format!("253 2.0.0 OK, {recipients} pending messages for node ");
                write_node(out, &start, &node, " started");
            }
            FlushOutcome::Begun { found: true } => {
                write_node(out, "252 2.0.0 OK, pending messages for node ", &node, " started");
            }
            FlushOutcome::Begun { found: false } => {
                write_node(out, "250 2.0.0 OK, queuing for node ", &node, " started");
            }
            FlushOutcome::Unavailable => {
                write_node(out, "458 4.3.0 Unable to queue messages for node ", &node, "");
                self.stats.count_command_error(false);
            }
        }
        if let Some((reply, reason)) = self.admission.ends_with() {
            self.close_with(now, reply, reason);
        }
        self.start_output_timer(now);
    }
}

fn write_node(out: &mut Vec<u8>, start: &str, node: &dyn Display, end: &str) {
    out.extend_from_slice(format!("{start}{node}{end}\r\n").as_bytes());
}
