//! TLS of a client session: STARTTLS (RFC 3207), or TLS from the first octet (RFC 8314 §3.3).
//!
//! The octets of TLS are the driver's: the session says when it begins and is told how it went. It
//! keeps nothing of what it was told before, and makes no transaction in plain text where TLS is
//! required.

use std::fmt;
use std::time::Instant;

use ringpost_protocol::extension::Extensions;
use ringpost_protocol::reply::{Reply, ReplyDecoder};

use super::report::{ProtocolViolation, SessionFailure, Stage};
use super::session::{ClientEvent, ClientSession, State};
use crate::server::TlsVersion;
use crate::timer::Timer;

/// What a session makes of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ClientTls {
    /// It stays in plain text.
    #[default]
    Off,
    /// STARTTLS where it is offered; in plain text where it is not, or refused.
    Opportunistic,
    /// STARTTLS; without TLS there is no transaction.
    Required,
    /// TLS comes before the greeting.
    Implicit,
}

impl ClientTls {
    /// Whether there is no transaction without TLS.
    pub fn is_required(self) -> bool {
        matches!(self, Self::Required | Self::Implicit)
    }
}

/// What a handshake came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientTlsInfo {
    /// The version agreed on.
    pub version: TlsVersion,
    /// The cipher suite by its registered name, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
    /// Whether the certificate is from an authority that we trust, and has the name of the host.
    pub verified: bool,
}

/// Why there is no TLS on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsProblem {
    /// The server does not offer STARTTLS, and TLS is required.
    NotOffered,
    /// The server sent something behind its reply to STARTTLS: whoever is in between may have put it
    /// there (RFC 3207 §6).
    InputAhead,
    /// The handshake failed; with what there is to say about it.
    Handshake(Box<str>),
    /// The certificate is not one that we take; with what there is to say about it.
    Certificate(Box<str>),
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("TLS is required, and STARTTLS is not offered"),
            Self::InputAhead => f.write_str("octets ahead of the TLS handshake"),
            Self::Handshake(detail) => write!(f, "TLS handshake failed: {detail}"),
            Self::Certificate(detail) => write!(f, "server certificate not verified: {detail}"),
        }
    }
}

impl ClientSession {
    /// What TLS has come to; `None` in plain text.
    pub fn tls(&self) -> Option<ClientTlsInfo> {
        self.tls
    }

    /// Takes that the handshake asked for by [`ClientEvent::StartTls`] has gone well.
    pub fn handle_tls(&mut self, now: Instant, info: ClientTlsInfo) {
        if !matches!(self.state, State::Handshaking) {
            return;
        }
        self.tls = Some(info);
        // RFC 3207 §4.2: what was said before may have been put there by others.
        self.extensions = Extensions::default();
        self.decoder = ReplyDecoder::new();
        if self.tls_mode == ClientTls::Implicit {
            self.timers.set(Timer::Reply, now + self.config.timeouts.greeting);
            self.state = State::ExpectGreeting;
        } else {
            self.say_hello(now);
        }
    }

    /// Takes that the handshake asked for by [`ClientEvent::StartTls`] has failed; the session is over.
    pub fn handle_tls_failure(&mut self, problem: TlsProblem) {
        if matches!(self.state, State::Handshaking) {
            self.fail_tls(Stage::Handshake, problem);
        }
    }

    /// Begins STARTTLS if that is to be done and can be; `false` if the session goes on as it is.
    pub(super) fn start_tls(&mut self, now: Instant) -> bool {
        let is_wanted = self.tls_mode != ClientTls::Off && self.tls.is_none();
        if !(is_wanted && self.extensions.starttls) {
            return false;
        }
        self.output.extend_from_slice(b"STARTTLS\r\n");
        self.is_unsent = true;
        self.timers.set(Timer::Reply, now + self.config.timeouts.starttls);
        self.state = State::ExpectStartTls;
        true
    }

    pub(super) fn handle_starttls_reply(&mut self, now: Instant, reply: Reply) {
        self.state = State::ExpectStartTls;
        if reply.code.as_u16() == 220 {
            self.begin_handshake(now);
        } else if !(reply.is_transient_negative() || reply.is_permanent_negative()) {
            self.fail_protocol(ProtocolViolation::UnexpectedCode(reply));
        } else if self.tls_mode.is_required() {
            self.close(Some(SessionFailure::Reply { stage: Stage::StartTls, reply }));
        } else {
            // RFC 3207 §4: whether to go on is for the client to decide.
            self.events.push_back(ClientEvent::TlsRefused(reply));
            self.become_ready(now);
        }
    }

    pub(super) fn begin_handshake(&mut self, now: Instant) {
        self.timers.set(Timer::Reply, now + self.config.timeouts.tls_handshake);
        self.state = State::Handshaking;
        self.events.push_back(ClientEvent::StartTls);
    }

    pub(super) fn fail_tls(&mut self, stage: Stage, problem: TlsProblem) {
        self.close(Some(SessionFailure::Tls { stage, problem }));
    }
}
