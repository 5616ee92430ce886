//! AUTH (RFC 4954): the dialogue. Who is right is found out by the driver.
//!
//! The session takes the client's lines, knows when AUTH is out of place, and asks the driver one
//! question at a time. Nothing of an authentication outlives its connection, or STARTTLS.

mod user;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use ringpost_protocol::error::LineError;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::limits::{
    AUTH_FAILURES_MAX, AUTH_LINE_MAX, AUTH_NAME_MAX, AUTH_PASSWORD_MAX,
};
use ringpost_protocol::path::ReversePath;
use ringpost_protocol::reply::FixedReply;
use ringpost_protocol::sasl::{
    AuthCommand, Mechanism, MechanismSet, PlainMessage, decode_base64, decode_initial_response,
    write_challenge,
};

use super::event::{CloseReason, ServerEvent};
use super::replies;
use super::session::{Helo, ServerSession, State};
use super::stats::{ServerLimit, TransactionRefusal};
use super::tls::{CertificateRights, TlsVersion};
use crate::timer::Timer;

pub use user::{ReversePathRule, ReversePaths, User};

/// What a listener makes of AUTH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthPolicy {
    /// The mechanisms that are offered. Default none, and then there is no AUTH.
    pub mechanisms: MechanismSet,
    /// Whether they are offered without TLS, too. Default no.
    pub without_tls: bool,
    /// Whether MAIL needs it. Default no.
    pub required: bool,
    /// Authentications that fail before the session is closed. Default 3.
    pub failures_max: u32,
}

impl Default for AuthPolicy {
    fn default() -> Self {
        Self {
            mechanisms: MechanismSet::NONE,
            without_tls: false,
            required: false,
            failures_max: AUTH_FAILURES_MAX,
        }
    }
}

/// A password as the client has sent it. 1 to `AUTH_PASSWORD_MAX` octets; it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<str>);

impl Password {
    /// Takes a text for a password.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The octets, to be compared and not to be kept.
    pub fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// What a session wants to know from its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthQuestion {
    /// Whether this is the password of that user; PLAIN or LOGIN.
    Password {
        /// By which of them it came.
        mechanism: Mechanism,
        /// As whom the client wants to act, if not as that user.
        authorization: Option<Box<str>>,
        /// The user. 1 to `AUTH_NAME_MAX` octets of UTF-8, whatever they are.
        name: Box<str>,
        /// The password.
        password: Password,
    },
    /// What is to be made of a message of SCRAM.
    Response {
        /// Which mechanism it belongs to.
        mechanism: Mechanism,
        /// Whether it is the first of an exchange; others that were begun are over.
        is_first: bool,
        /// Whether the client could have bound itself to the channel: then it must not say that it
        /// cannot (RFC 5802 §6).
        offers_binding: bool,
        /// The message.
        message: Vec<u8>,
    },
    /// Whether the client's certificate is that of a user; EXTERNAL.
    External {
        /// As whom the client wants to act, if it says so. 1 to `AUTH_NAME_MAX` octets of UTF-8.
        authorization: Option<Box<str>>,
    },
}

impl AuthQuestion {
    /// The mechanism that it comes from.
    pub fn mechanism(&self) -> Mechanism {
        match self {
            Self::Password { mechanism, .. } | Self::Response { mechanism, .. } => *mechanism,
            Self::External { .. } => Mechanism::External,
        }
    }
}

/// Why an authentication has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthRefusal {
    /// There is no such user, or it has not shown to be that: 535. This and the next count as failures of
    /// the client.
    Credentials,
    /// It is bound to another channel than this one, or somebody has hidden from it that it could be: 535.
    Binding,
    /// What it has said is no message of the mechanism: 501.
    Malformed,
    /// It cannot be found out now: 454.
    Unavailable,
    /// Too many wait for it to be found out: 454.
    Busy,
}

/// What a session keeps about AUTH, once there was one.
#[derive(Debug, Default)]
pub(super) struct AuthState {
    pub(super) user: Option<Arc<User>>,
    failures: u32,
    question: Option<AuthQuestion>,
    /// The driver says that the user has sent enough for now.
    is_user_over_rate: bool,
    /// What the client gains by its certificate.
    pub(super) certificate_rights: CertificateRights,
}

/// An authentication that is under way.
#[derive(Debug)]
pub(super) struct Exchange {
    mechanism: Mechanism,
    /// Whether the client has said nothing yet.
    is_first: bool,
    /// The name that LOGIN has brought.
    login_name: Option<Box<str>>,
}

impl ServerSession {
    /// The user that the client has shown to be, if it has.
    pub fn user(&self) -> Option<&Arc<User>> {
        self.auth.as_ref()?.user.as_ref()
    }

    /// Takes the question that [`ServerEvent::Authenticate`] has announced. It is there once.
    pub fn take_auth_question(&mut self) -> Option<AuthQuestion> {
        self.auth.as_mut()?.question.take()
    }

    /// Sets whether the user may send another message now; if not, MAIL is put off with 451. True at
    /// first, and without a user nothing.
    pub fn set_user_may_send(&mut self, may_send: bool) {
        if let Some(auth) = &mut self.auth {
            auth.is_user_over_rate = !may_send;
        }
    }

    /// Takes what has become of the user: what it may do now, or `None` when it is one no more, and MAIL is
    /// answered as without AUTH. Without a user, and within a transaction, it has no effect.
    pub fn change_user(&mut self, user: Option<Arc<User>>) {
        if self.user().is_none() || self.transaction.is_some() {
            return;
        }
        let auth = self.auth_mut();
        auth.is_user_over_rate &= user.is_some();
        auth.user = user;
    }

    /// Answers a question: the client is to hear this, and answer to it.
    pub fn auth_challenge(&mut self, now: Instant, challenge: &[u8]) {
        if let State::AwaitingAuth(mechanism) = self.state {
            let exchange = Exchange { mechanism, is_first: false, login_name: None };
            self.challenge(now, Box::new(exchange), challenge);
            self.start_output_timer(now);
        }
    }

    /// Answers a question: the client is this user.
    pub fn auth_accepted(&mut self, now: Instant, user: Arc<User>) {
        if self.end_exchange(now) {
            self.auth_mut().user = Some(user);
            self.push(replies::AUTHENTICATED);
            self.start_output_timer(now);
        }
    }

    /// Answers a question: the client has not shown to be the user.
    pub fn auth_refused(&mut self, now: Instant, refusal: AuthRefusal) {
        if !self.end_exchange(now) {
            return;
        }
        self.stats.count_command_error(false);
        match refusal {
            AuthRefusal::Credentials => self.count_auth_failure(now, replies::AUTH_FAILED),
            AuthRefusal::Binding => self.count_auth_failure(now, replies::BINDING_FAILED),
            AuthRefusal::Malformed => self.refuse(now, replies::BAD_RESPONSE),
            AuthRefusal::Unavailable => self.push(replies::AUTH_UNAVAILABLE),
            AuthRefusal::Busy => {
                self.stats.count_limit(ServerLimit::PasswordQueue);
                self.push(replies::AUTH_UNAVAILABLE);
            }
        }
        self.start_output_timer(now);
    }

    /// Ends what waits for the driver; whether anything did.
    fn end_exchange(&mut self, now: Instant) -> bool {
        if !matches!(self.state, State::AwaitingAuth(_)) {
            return false;
        }
        self.timers.set(Timer::Command, now + self.config.command_timeout);
        self.state = State::Command;
        true
    }

    fn count_auth_failure(&mut self, now: Instant, reply: FixedReply) {
        self.push(reply);
        let auth = self.auth_mut();
        auth.failures += 1;
        if auth.failures >= self.config.auth.failures_max {
            self.stats.count_limit(ServerLimit::AuthFailures);
            self.close_with(now, replies::TOO_MANY_AUTH_FAILURES, CloseReason::TooManyErrors);
        }
    }

    /// What the client gains by its certificate.
    pub(super) fn certificate_rights(&self) -> CertificateRights {
        self.auth.as_ref().map(|auth| auth.certificate_rights).unwrap_or_default()
    }

    pub(super) fn auth_mut(&mut self) -> &mut AuthState {
        self.auth.get_or_insert_default()
    }

    /// RFC 3207 §4.2: what was known from before TLS is not known any more, and one client is not the other,
    /// nor is its certificate that of the other.
    /// Failures stay counted.
    pub(super) fn forget_user(&mut self) {
        if let Some(auth) = &mut self.auth {
            **auth = AuthState { failures: auth.failures, ..AuthState::default() };
        }
    }

    /// Whether the client may send to any recipient.
    pub(super) fn may_relay(&self) -> bool {
        self.peer.may_relay || self.certificate_rights().may_relay || self.user().is_some()
    }

    /// Whether there is AUTH on this listener at all.
    pub(super) fn has_auth(&self) -> bool {
        !self.config.auth.mechanisms.is_empty() && self.config.extensions.contains(Extension::Auth)
    }

    /// The mechanisms that the client can use now; none once it has.
    pub(super) fn offered_mechanisms(&self) -> MechanismSet {
        let policy = &self.config.auth;
        let is_on = self.has_auth() && (policy.without_tls || self.tls.is_some());
        if !is_on || self.user().is_some() {
            return MechanismSet::NONE;
        }
        let mut mechanisms = policy.mechanisms;
        if !self.is_channel_unique() {
            mechanisms = mechanisms.without(Mechanism::ScramSha256Plus);
        }
        if !self.certificate_rights().is_user {
            mechanisms = mechanisms.without(Mechanism::External);
        }
        mechanisms
    }

    /// Whether there is something that tells this channel from all others (RFC 9266). TLS 1.2 has it where
    /// both ends take part in RFC 7627, and what most clients would want there (`tls-unique`) it is not.
    fn is_channel_unique(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.version == TlsVersion::V1_3)
    }

    /// Checks what AUTH has to do with MAIL; replies if it may not go on.
    pub(super) fn is_sender_allowed(&mut self, now: Instant, path: &ReversePath) -> bool {
        let Some(user) = self.user() else {
            if self.config.auth.required {
                self.refuse(now, replies::AUTH_REQUIRED);
            }
            return !self.config.auth.required;
        };
        if !user.reverse_paths.allow(path) {
            self.stats.count_refusal(TransactionRefusal::ReversePath);
            self.refuse(now, replies::REVERSE_PATH_DENIED);
            return false;
        }
        if self.auth.as_ref().is_some_and(|auth| auth.is_user_over_rate) {
            self.stats.count_limit(ServerLimit::UserRate);
            self.stats.count_refusal(TransactionRefusal::UserRate);
            self.push(replies::USER_OVER_RATE);
            return false;
        }
        true
    }

    /// Begins an authentication, where there can be one (RFC 4954 §4).
    pub(super) fn handle_auth(&mut self, now: Instant, command: AuthCommand<'_>) {
        if !self.has_auth() {
            return self.refuse(now, replies::NOT_IMPLEMENTED);
        }
        if self.user().is_some() {
            return self.refuse(now, replies::AUTH_IS_DONE);
        }
        if self.offered_mechanisms().is_empty() {
            return self.refuse(now, replies::AUTH_NEEDS_TLS);
        }
        if !matches!(self.helo, Some(Helo { extended: true, .. })) {
            return self.refuse(now, replies::SEND_EHLO);
        }
        if self.transaction.is_some() {
            return self.refuse(now, replies::AUTH_IN_TRANSACTION);
        }
        let offered = self.offered_mechanisms();
        let Some(mechanism) = command.mechanism.filter(|it| offered.contains(*it)) else {
            return self.refuse(now, replies::NO_SUCH_MECHANISM);
        };
        if !self.count_junk(now) {
            return;
        }
        let exchange = Box::new(Exchange { mechanism, is_first: true, login_name: None });
        match command.initial_response {
            None if mechanism == Mechanism::Login => self.challenge(now, exchange, b"Username:"),
            None => self.challenge(now, exchange, b""),
            Some(text) => match decode_initial_response(text) {
                Some(response) => self.handle_response(now, exchange, &response),
                None => self.refuse(now, replies::BAD_BASE64),
            },
        }
    }

    /// Waits for the client's next line.
    fn challenge(&mut self, now: Instant, exchange: Box<Exchange>, challenge: &[u8]) {
        write_challenge(challenge, self.output());
        self.timers.set(Timer::Command, now + self.config.command_timeout);
        self.state = State::AuthResponse(exchange);
    }

    /// Takes a line of an authentication; returns how many octets of `input` were taken.
    pub(super) fn handle_auth_line(&mut self, now: Instant, input: &[u8]) -> usize {
        let replies_start = self.output.len();
        let (consumed, line) = self.lines.decode_within(input, AUTH_LINE_MAX);
        let Some(line) = line else { return consumed };
        let State::AuthResponse(exchange) = std::mem::replace(&mut self.state, State::Command)
        else {
            return consumed;
        };
        self.timers.set(Timer::Command, now + self.config.command_timeout);
        match line {
            Ok(line) if line.as_bytes() == b"*" => self.refuse(now, replies::AUTH_CANCELLED),
            Ok(line) => match decode_base64(line.as_bytes()) {
                Some(response) => self.handle_response(now, exchange, &response),
                None => self.refuse(now, replies::BAD_BASE64),
            },
            Err(LineError::TooLong) => {
                self.stats.count_limit(ServerLimit::AuthLine);
                self.refuse(now, replies::AUTH_LINE_TOO_LONG);
            }
            Err(error) => self.handle_line_error(now, error),
        }
        self.count_reply(replies_start, &[]);
        consumed
    }

    /// Takes what a mechanism's client says.
    fn handle_response(&mut self, now: Instant, mut exchange: Box<Exchange>, response: &[u8]) {
        let mechanism = exchange.mechanism;
        let question = match mechanism {
            Mechanism::Plain => PlainMessage::parse(response).map(|message| {
                let (authorization, name) = (message.authorization, message.name);
                let authorization = (!authorization.is_empty() && authorization != name)
                    .then(|| authorization.into());
                let password = Password::new(message.password);
                AuthQuestion::Password { mechanism, authorization, name: name.into(), password }
            }),
            Mechanism::External => match response {
                [] => Some(AuthQuestion::External { authorization: None }),
                _ => login_text(response, AUTH_NAME_MAX).map(|name| {
                    let authorization = Some(name.into());
                    AuthQuestion::External { authorization }
                }),
            },
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => {
                let (is_first, message) = (exchange.is_first, response.to_vec());
                let offers_binding = self.offered_mechanisms().contains(Mechanism::ScramSha256Plus);
                Some(AuthQuestion::Response { mechanism, is_first, offers_binding, message })
            }
            Mechanism::Login => match exchange.login_name.take() {
                None => {
                    let Some(name) = login_text(response, AUTH_NAME_MAX) else {
                        return self.refuse(now, replies::BAD_RESPONSE);
                    };
                    exchange.login_name = Some(name.into());
                    return self.challenge(now, exchange, b"Password:");
                }
                Some(name) => login_text(response, AUTH_PASSWORD_MAX).map(|password| {
                    let password = Password::new(password);
                    AuthQuestion::Password { mechanism, authorization: None, name, password }
                }),
            },
        };
        match question {
            Some(question) => self.ask(question),
            None => self.refuse(now, replies::BAD_RESPONSE),
        }
    }

    /// Waits for the driver. The client cannot be late meanwhile.
    fn ask(&mut self, question: AuthQuestion) {
        self.timers.stop(Timer::Command);
        self.state = State::AwaitingAuth(question.mechanism());
        self.auth_mut().question = Some(question);
        self.event = Some(ServerEvent::Authenticate);
    }
}

/// A response of LOGIN or EXTERNAL: text without NUL, not empty, not too long.
fn login_text(response: &[u8], size_max: usize) -> Option<&str> {
    let text = std::str::from_utf8(response).ok()?;
    let is_good = (1..=size_max).contains(&text.len()) && !text.contains('\0');
    is_good.then_some(text)
}
