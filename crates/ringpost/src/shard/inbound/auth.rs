//! What an inbound session wants to know about users.

use std::sync::Arc;

use ringpost_metrics::label::AuthMechanism;
use ringpost_protocol::sasl::Mechanism;
use ringpost_session::server::{AuthQuestion, AuthRefusal, Password};

use super::{Inbound, OpenCount};
use crate::{
    auth::{Account, ScramExchange, Users, users::Candidate},
    runtime::Runtime,
};

/// What is known after a question.
enum Found {
    /// Who the client is.
    User(Arc<Account>),
    /// What it is to hear next.
    Challenge(String),
    /// Why nobody is sure of it, and who it says it is, if there is such a user.
    Refused(AuthRefusal, Option<Arc<Account>>),
}

/// A SCRAM exchange between two messages of the client.
pub(super) enum ScramStep {
    /// The client has to prove who it is.
    Begun(Box<ScramExchange>),
    /// It has, and has to take note of our proof.
    Proven(Arc<Account>),
}

impl<R: Runtime> Inbound<R> {
    /// Finds out what the session has asked, and tells it.
    pub(super) async fn authenticate(&mut self) {
        let Some(question) = self.session.take_auth_question() else { return };
        let mechanism = label(question.mechanism());
        let users = self.shard.config().users().cloned();
        let found = match (question, users) {
            // They were there when the session began.
            (_, None) => Found::Refused(AuthRefusal::Unavailable, None),
            (AuthQuestion::Password { authorization, name, password, .. }, Some(users)) => {
                let candidate = users.candidate(&name);
                let is_itself = authorization.is_none();
                let candidate = if is_itself { candidate } else { candidate.refused() };
                self.compare(candidate, password).await
            }
            (AuthQuestion::Response { is_first, message, .. }, Some(users)) => {
                let step = self.scram.take().filter(|_| !is_first);
                self.hear_scram(step, &users, &message)
            }
        };
        let now = self.shard.runtime.now();
        match found {
            Found::User(account) => {
                self.listener.metrics().auth_succeeded.increment(mechanism);
                self.session.auth_accepted(now, Arc::clone(&account.user));
                self.account = Some(account);
            }
            Found::Challenge(challenge) => self.session.auth_challenge(now, challenge.as_bytes()),
            Found::Refused(refusal, account) => {
                self.refuse_user(mechanism, refusal, account.as_deref()).await;
            }
        }
    }

    async fn compare(&self, candidate: Candidate, password: Password) -> Found {
        let account = candidate.account().cloned();
        let Ok(answer) = self.shard.passwords.ask(candidate, password) else {
            return Found::Refused(AuthRefusal::Busy, account);
        };
        let _waiting = OpenCount::new(&self.shard.passwords_waiting);
        match (answer.await, account) {
            (Ok(true), Some(account)) => Found::User(account),
            (Ok(_), account) => Found::Refused(AuthRefusal::Credentials, account),
            (Err(_), account) => Found::Refused(AuthRefusal::Unavailable, account),
        }
    }

    fn hear_scram(&mut self, step: Option<ScramStep>, users: &Users, message: &[u8]) -> Found {
        let (step, answer) = match step {
            None => match ScramExchange::begin(users, message) {
                Ok((exchange, answer)) => (ScramStep::Begun(Box::new(exchange)), answer),
                Err(refusal) => return Found::Refused(refusal, None),
            },
            Some(ScramStep::Begun(exchange)) => match exchange.finish(message) {
                Ok((account, answer)) => (ScramStep::Proven(account), answer),
                Err((refusal, account)) => return Found::Refused(refusal, account),
            },
            // RFC 4954 §4: our proof was a challenge, and the answer to it is empty.
            Some(ScramStep::Proven(account)) if message.is_empty() => return Found::User(account),
            Some(ScramStep::Proven(account)) => {
                return Found::Refused(AuthRefusal::Malformed, Some(account));
            }
        };
        self.scram = Some(step);
        Found::Challenge(answer)
    }

    async fn refuse_user(
        &mut self,
        mechanism: AuthMechanism,
        refusal: AuthRefusal,
        account: Option<&Account>,
    ) {
        let counts = self.listener.metrics();
        let client = self.session.peer().ip;
        let (user, listener) = (user_shown(account), self.listener.name());
        match refusal {
            AuthRefusal::Credentials => {
                counts.auth_failed.increment(mechanism);
                tracing::info!(%client, listener, user, ?mechanism, "an authentication has failed");
                let delay = self.shard.config().config().auth.failure_delay;
                self.shard.runtime.sleep(delay).await;
            }
            AuthRefusal::Malformed => {}
            AuthRefusal::Unavailable | AuthRefusal::Busy => {
                counts.auth_put_off.increment(mechanism);
                tracing::warn!(%client, listener, user, ?refusal, "an authentication is put off");
            }
        }
        self.session.auth_refused(self.shard.runtime.now(), refusal);
    }

    /// Whether the user, if there is one, may send one more message; counts it.
    pub(super) fn count_user_message(&self) -> bool {
        let Some(account) = &self.account else { return true };
        // Who was forgotten with STARTTLS is no user.
        self.session.user().is_none() || account.count_message(self.shard.runtime.unix_ms())
    }

    /// Tells the session whether its user may send now.
    pub(super) fn look_at_user_rate(&mut self) {
        if let Some(account) = &self.account {
            let may_send = account.may_send(self.shard.runtime.unix_ms());
            self.session.set_user_may_send(may_send);
        }
    }
}

/// A user by name, if there is one: people type passwords where names belong.
fn user_shown(account: Option<&Account>) -> &str {
    account.map_or("(unknown)", |account| &account.user.name)
}

fn label(mechanism: Mechanism) -> AuthMechanism {
    match mechanism {
        Mechanism::ScramSha256 => AuthMechanism::ScramSha256,
        Mechanism::Plain => AuthMechanism::Plain,
        Mechanism::Login => AuthMechanism::Login,
    }
}
