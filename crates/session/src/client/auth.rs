//! AUTH of a client session (RFC 4954): which mechanism, its lines, and what the replies mean.
//!
//! Names, passwords and proofs are the driver's: the session says what it needs, and is given the octets.
//! Whatever goes wrong ends the session before it is ready, so that nothing of a message was said.

use std::fmt;
use std::time::Instant;

use ringpost_protocol::reply::Reply;
use ringpost_protocol::sasl::{Mechanism, MechanismSet, decode_base64, write_response};

use super::report::{ProtocolViolation, SessionFailure, Stage};
use super::session::{ClientEvent, ClientSession, State};
use crate::timer::Timer;

/// Octets of a command line, its CRLF included (RFC 5321 §4.5.3.1.4). RFC 4954 §4: an initial response that
/// does not fit is sent when the server asks for it.
const AUTH_COMMAND_MAX: usize = 512;

/// How a session is to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAuth {
    /// The mechanisms that may be used. Of those that the server offers too, the best is: SCRAM-SHA-256,
    /// PLAIN, LOGIN. Others are never used.
    pub mechanisms: MechanismSet,
    /// Whether PLAIN and LOGIN may be used without TLS. Default: no.
    pub without_tls: bool,
}

/// What the server wants to hear next.
#[derive(Clone, PartialEq, Eq)]
pub enum AuthPrompt {
    /// The one message of PLAIN (RFC 4616).
    Plain,
    /// The name, for LOGIN.
    LoginName,
    /// The password, for LOGIN.
    LoginPassword,
    /// The first message of SCRAM-SHA-256 (RFC 5802 §5).
    ScramFirst,
    /// The proof; this is the server's first message.
    ScramProof(Box<[u8]>),
    /// Nothing, but only if this last message of the server shows that it knows the password, too: the driver
    /// gives no octets, or says that it does not.
    ScramVerify(Box<[u8]>),
}

impl fmt::Debug for AuthPrompt {
    /// Without what the server has said: a salt can be in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::LoginName => "LoginName",
            Self::LoginPassword => "LoginPassword",
            Self::ScramFirst => "ScramFirst",
            Self::ScramProof(_) => "ScramProof",
            Self::ScramVerify(_) => "ScramVerify",
        })
    }
}

/// Why we could not log in, if no reply says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthProblem {
    /// The server does not offer AUTH.
    NotOffered,
    /// The server offers AUTH, and none of the mechanisms that may be used.
    NoMechanism,
    /// The server offers only mechanisms that would show the password to everybody on the way, as there is no
    /// TLS.
    NeedsTls,
    /// What the server has asked does not belong to the mechanism, or is malformed.
    Challenge,
    /// The server asks for more work than may be asked for, or too little to be safe; how many rounds.
    Iterations(u32),
    /// The server has refused us within the exchange, with this word.
    Refused(Box<str>),
    /// The server has not shown that it knows the password: it may be somebody else.
    NotProven,
    /// A reason of our own: too much to do, or no credentials.
    Unavailable,
}

impl fmt::Display for AuthProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOffered => f.write_str("there are credentials, and AUTH is not offered"),
            Self::NoMechanism => f.write_str("AUTH is offered by no mechanism that may be used"),
            Self::NeedsTls => {
                f.write_str("AUTH is offered by mechanisms only that need TLS, and there is none")
            }
            Self::Challenge => f.write_str("what the server asks does not belong to AUTH"),
            Self::Iterations(count) => {
                write!(f, "the server asks for {count} iterations of SCRAM")
            }
            Self::Refused(word) => write!(f, "the server refuses the credentials: {word}"),
            Self::NotProven => f.write_str("the server does not show that it knows the password"),
            Self::Unavailable => f.write_str("the credentials cannot be used at the moment"),
        }
    }
}

/// How far a login has come; gone when it is done.
#[derive(Debug)]
pub(super) struct AuthState {
    auth: ClientAuth,
    mechanism: Mechanism,
    /// What the driver has been asked for and has not answered.
    awaited: Option<Awaited>,
    /// An initial response in base64 that did not fit the command.
    held_back: Vec<u8>,
    /// Answers given.
    given: u8,
}

/// Where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Behind AUTH.
    Initial,
    /// On a line of its own.
    Line,
}

impl AuthState {
    pub(super) fn new(auth: ClientAuth) -> Self {
        let mechanism = Mechanism::Login;
        Self { auth, mechanism, awaited: None, held_back: Vec::new(), given: 0 }
    }

    /// Chooses by what is offered.
    fn choose(
        &self,
        offered: Option<MechanismSet>,
        has_tls: bool,
    ) -> Result<Mechanism, AuthProblem> {
        let offered = offered.ok_or(AuthProblem::NotOffered)?.and(self.auth.mechanisms);
        let may_show_password = has_tls || self.auth.without_tls;
        let can = |mechanism: &Mechanism| offered.contains(*mechanism);
        if can(&Mechanism::ScramSha256) {
            return Ok(Mechanism::ScramSha256);
        }
        let found = [Mechanism::Plain, Mechanism::Login].into_iter().find(can);
        match found {
            Some(mechanism) if may_show_password => Ok(mechanism),
            Some(_) => Err(AuthProblem::NeedsTls),
            None => Err(AuthProblem::NoMechanism),
        }
    }

    /// What is to be answered to a challenge.
    fn prompt(&self, challenge: Vec<u8>) -> Option<AuthPrompt> {
        let challenge = challenge.into_boxed_slice();
        match (self.mechanism, self.given) {
            // What servers say here is for people: some ask for a "User Name".
            (Mechanism::Login, 0) => Some(AuthPrompt::LoginName),
            (Mechanism::Login, 1) => Some(AuthPrompt::LoginPassword),
            (Mechanism::ScramSha256, 1) => Some(AuthPrompt::ScramProof(challenge)),
            (Mechanism::ScramSha256, 2) => Some(AuthPrompt::ScramVerify(challenge)),
            _ => None,
        }
    }

    /// Whether a server may say by now that all is well.
    fn is_complete(&self) -> bool {
        // Without its signature it could be anybody.
        self.mechanism != Mechanism::ScramSha256 || self.given == 3
    }
}

impl ClientSession {
    /// Answers [`ClientEvent::Auth`]; does nothing when nothing was asked.
    pub fn auth_response(&mut self, now: Instant, response: &[u8]) {
        let Some(auth) = self.auth.as_deref_mut() else { return };
        let Some(awaited) = auth.awaited.take() else { return };
        auth.given += 1;
        match awaited {
            Awaited::Initial => {
                let start = self.output.len();
                for part in ["AUTH ", auth.mechanism.name(), " "] {
                    self.output.extend_from_slice(part.as_bytes());
                }
                let command = self.output.len() - 1;
                write_response(response, &mut self.output);
                if response.is_empty() {
                    // RFC 4954 §4: that it is there, and empty.
                    self.output.push(b'=');
                }
                if self.output.len() + 2 - start > AUTH_COMMAND_MAX {
                    auth.held_back = self.output.split_off(command + 1);
                    self.output.truncate(command);
                }
            }
            Awaited::Line => write_response(response, &mut self.output),
        }
        self.say_auth_line(now);
    }

    /// Says instead of [`auth_response`](Self::auth_response) that there is no answer; the session is over.
    pub fn auth_failed(&mut self, problem: AuthProblem) {
        if self.awaits_auth_response() {
            self.fail_auth(problem);
        }
    }

    /// Whether the driver has something to answer.
    pub(super) fn awaits_auth_response(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.awaited.is_some())
    }

    /// Begins to log in, as the server offers it now.
    pub(super) fn begin_auth(&mut self, now: Instant) {
        let (offered, has_tls) = (self.extensions.auth, self.tls.is_some());
        let Some(auth) = self.auth.as_deref_mut() else { return };
        self.state = State::ExpectAuth;
        auth.mechanism = match auth.choose(offered, has_tls) {
            Ok(mechanism) => mechanism,
            Err(problem) => return self.fail_auth(problem),
        };
        let prompt = match auth.mechanism {
            Mechanism::Plain => AuthPrompt::Plain,
            Mechanism::ScramSha256 => AuthPrompt::ScramFirst,
            // The server has to ask for the name.
            _ => {
                self.output.extend_from_slice(b"AUTH LOGIN");
                return self.say_auth_line(now);
            }
        };
        auth.awaited = Some(Awaited::Initial);
        self.timers.set(Timer::Reply, now + self.config.timeouts.auth);
        self.events.push_back(ClientEvent::Auth(prompt));
    }

    pub(super) fn handle_auth_reply(&mut self, now: Instant, reply: &Reply) {
        self.state = State::ExpectAuth;
        let Some(auth) = self.auth.as_deref_mut() else { return };
        match reply.code.as_u16() {
            235 if auth.is_complete() => {
                let mechanism = auth.mechanism;
                self.auth = None;
                self.events.push_back(ClientEvent::LoggedIn(mechanism));
                self.be_ready();
            }
            235 => self.fail_auth(AuthProblem::NotProven),
            334 => self.handle_challenge(now, reply),
            _ if reply.is_transient_negative() || reply.is_permanent_negative() => {
                let reply = reply.clone();
                self.close(Some(SessionFailure::Reply { stage: Stage::Auth, reply }));
            }
            _ => self.fail_protocol(ProtocolViolation::UnexpectedCode(reply.clone())),
        }
    }

    fn handle_challenge(&mut self, now: Instant, reply: &Reply) {
        let Some(auth) = self.auth.as_deref_mut() else { return };
        if !auth.held_back.is_empty() {
            // Whatever it says: it asks for the initial response.
            self.output.append(&mut auth.held_back);
            return self.say_auth_line(now);
        }
        let challenge = decode_base64(reply.text.as_bytes());
        // The words of LOGIN are in no standard, and not always in base64.
        let challenge = challenge.or((auth.mechanism == Mechanism::Login).then(Vec::new));
        let Some(prompt) = challenge.and_then(|challenge| auth.prompt(challenge)) else {
            return self.fail_auth(AuthProblem::Challenge);
        };
        auth.awaited = Some(Awaited::Line);
        self.timers.set(Timer::Reply, now + self.config.timeouts.auth);
        self.events.push_back(ClientEvent::Auth(prompt));
    }

    fn say_auth_line(&mut self, now: Instant) {
        self.output.extend_from_slice(b"\r\n");
        self.is_unsent = true;
        self.timers.set(Timer::Reply, now + self.config.timeouts.auth);
    }

    fn fail_auth(&mut self, problem: AuthProblem) {
        self.close(Some(SessionFailure::Auth { problem }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(mechanisms: &[Mechanism]) -> MechanismSet {
        mechanisms.iter().copied().collect()
    }

    #[test]
    fn the_best_that_both_know_is_chosen_and_passwords_are_shown_under_tls_only() {
        use AuthProblem::{NeedsTls, NoMechanism, NotOffered};
        use Mechanism::{External, Login, Plain, ScramSha256, ScramSha256Plus};

        let all = set(&Mechanism::ALL);
        let own = set(&[ScramSha256, Plain, Login]);
        // Ours, theirs, what is chosen under TLS, and without.
        let table = [
            (own, None, Err(NotOffered), Err(NotOffered)),
            (own, Some(set(&[])), Err(NoMechanism), Err(NoMechanism)),
            (own, Some(all), Ok(ScramSha256), Ok(ScramSha256)),
            (own, Some(set(&[Login, Plain])), Ok(Plain), Err(NeedsTls)),
            (own, Some(set(&[Login])), Ok(Login), Err(NeedsTls)),
            (own, Some(set(&[External, ScramSha256Plus])), Err(NoMechanism), Err(NoMechanism)),
            (set(&[Login]), Some(all), Ok(Login), Err(NeedsTls)),
            (set(&[ScramSha256]), Some(set(&[Plain, Login])), Err(NoMechanism), Err(NoMechanism)),
            (set(&[]), Some(all), Err(NoMechanism), Err(NoMechanism)),
            (all, Some(set(&[External])), Err(NoMechanism), Err(NoMechanism)),
        ];
        for (mechanisms, offered, with, without) in table {
            let strict = AuthState::new(ClientAuth { mechanisms, without_tls: false });
            assert_eq!(strict.choose(offered, true), with, "{mechanisms:?} {offered:?}");
            assert_eq!(strict.choose(offered, false), without, "{mechanisms:?} {offered:?}");
            let lax = AuthState::new(ClientAuth { mechanisms, without_tls: true });
            assert_eq!(lax.choose(offered, false), with, "{mechanisms:?} {offered:?}");
        }
    }
}
