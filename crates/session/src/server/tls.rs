//! STARTTLS (RFC 3207), and TLS from the first octet (RFC 8314).
//!
//! The octets of TLS are the driver's: the session says when it begins and is told how it went.

use std::time::Instant;

use super::event::{CloseReason, ServerEvent};
use super::replies;
use super::session::{ServerSession, State};
use super::stats::ServerLimit;
use crate::timer::Timer;
use ringpost_protocol::command::Command;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::line::LineDecoder;

/// What a listener makes of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TlsPolicy {
    /// There is none.
    #[default]
    Off,
    /// STARTTLS is offered.
    Optional,
    /// STARTTLS is offered, and nothing of mail is done before it.
    Required,
    /// TLS comes before the greeting.
    Implicit,
}

/// The version of TLS. Older ones are not spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

impl TlsVersion {
    /// The number, `1.2` or `1.3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// What a handshake came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// The version agreed on.
    pub version: TlsVersion,
    /// The cipher suite by its registered name, such as `TLS_AES_256_GCM_SHA384`; letters, digits
    /// and underscores.
    pub cipher: &'static str,
    /// The host that the client asked for (SNI), if it did.
    pub server_name: Option<Box<str>>,
}

/// What a client gains by the certificate that it has shown. Default: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CertificateRights {
    /// It belongs to a user, so that EXTERNAL can be offered.
    pub is_user: bool,
    /// Whoever has it may send to any recipient, without AUTH.
    pub may_relay: bool,
}

impl ServerSession {
    /// Sets what the client gains by its certificate; after [`handle_tls`](Self::handle_tls), and before
    /// more input. With another handshake, and with another client (XCLIENT), it is forgotten; a client that
    /// was named before gains nothing by the certificate of who has named it.
    pub fn set_certificate_rights(&mut self, rights: CertificateRights) {
        let is_its_own = self.tls.is_some() && self.named_client.is_none();
        if is_its_own && rights != self.certificate_rights() {
            self.auth_mut().certificate_rights = rights;
        }
    }

    /// The TLS that the session runs over, if it does.
    pub fn tls(&self) -> Option<&TlsInfo> {
        self.tls.as_deref()
    }

    /// What is made of TLS.
    pub fn tls_policy(&self) -> TlsPolicy {
        self.config.tls
    }

    /// Sets whether STARTTLS can be taken now; if not, it is put off with 454. True at first.
    pub fn set_tls_available(&mut self, is_available: bool) {
        self.tls_available = is_available;
    }

    /// Takes the fact that the handshake is complete, which [`ServerEvent::StartTls`] has asked for.
    ///
    /// RFC 3207 §4.2: all that the client has said before is forgotten.
    pub fn handle_tls(&mut self, now: Instant, info: TlsInfo) {
        if !matches!(self.state, State::StartingTls) {
            return;
        }
        self.reset();
        self.helo = None;
        self.forget_user();
        self.lines = LineDecoder::new();
        self.tls = Some(Box::new(info));
        self.timers.set(Timer::Command, now + self.command_timeout());
        self.state = State::Command;
        if self.config.tls == TlsPolicy::Implicit {
            self.greet(now);
        }
    }

    /// Takes the fact that the handshake has failed. Nothing more can be said.
    pub fn handle_tls_failure(&mut self, _now: Instant) {
        if matches!(self.state, State::StartingTls) {
            self.close(CloseReason::TlsFailed);
        }
    }

    /// Whether the reply to EHLO offers STARTTLS: not twice (RFC 3207 §4.2).
    pub fn offers_starttls(&self) -> bool {
        let policy = matches!(self.config.tls, TlsPolicy::Optional | TlsPolicy::Required);
        policy && self.tls.is_none() && self.config.extensions.contains(Extension::StartTls)
    }

    /// Whether a command has to wait for STARTTLS. RFC 3207 §4 lets the server refuse all but NOOP,
    /// EHLO, STARTTLS and QUIT; what we do not know is refused for that.
    pub(super) fn needs_tls(&self, command: &Command<'_>) -> bool {
        let is_exempt = matches!(
            command,
            Command::Noop
                | Command::Ehlo(_)
                | Command::StartTls
                | Command::Quit
                | Command::Foreign
                | Command::NotImplemented
        );
        self.config.tls == TlsPolicy::Required && self.tls.is_none() && !is_exempt
    }

    pub(super) fn handle_starttls(&mut self, now: Instant, is_last: bool) {
        if self.tls.is_some() {
            return self.refuse(now, replies::TLS_IS_ACTIVE);
        }
        if !self.offers_starttls() {
            return self.refuse(now, replies::NOT_IMPLEMENTED);
        }
        // What lies behind it was not sent under TLS, whoever has sent it: taken afterwards it would be
        // obeyed as if it had been. No listener is lenient about that.
        if !is_last {
            return self.close_with(now, replies::EARLY_INPUT, CloseReason::EarlyInput);
        }
        if self.transaction.is_some() {
            return self.refuse(now, replies::TLS_IN_TRANSACTION);
        }
        if !self.count_junk(now) {
            return;
        }
        if !self.tls_available {
            self.stats.count_limit(ServerLimit::TlsHandshakes);
            return self.push(replies::TLS_UNAVAILABLE);
        }
        self.push(replies::READY_FOR_TLS);
        self.start_tls(now);
    }

    /// Waits for the handshake.
    pub(super) fn start_tls(&mut self, now: Instant) {
        self.state = State::StartingTls;
        self.timers.set(Timer::Command, now + self.patience(self.config.tls_handshake_timeout));
        self.event = Some(ServerEvent::StartTls);
    }
}
