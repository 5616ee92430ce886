//! What an inbound session wants to know about users.

use std::sync::Arc;

use ringpost_metrics::label::AuthMechanism;
use ringpost_protocol::sasl::Mechanism;
use ringpost_session::server::{AuthQuestion, AuthRefusal, Password};

use super::{Inbound, OpenCount};
use crate::{
    auth::{Account, ScramExchange, Users, scram::Binding, users::Candidate},
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
        let known_among = users.clone();
        let found = match (question, users) {
            // They were there when the session began.
            (_, None) => Found::Refused(AuthRefusal::Unavailable, None),
            (AuthQuestion::Password { authorization, name, password, .. }, Some(users)) => {
                let candidate = users.candidate(&name);
                let is_itself = authorization.is_none();
                let candidate = if is_itself { candidate } else { candidate.refused() };
                self.compare(candidate, password).await
            }
            (AuthQuestion::External { authorization }, Some(users)) => {
                self.know_by_certificate(&users, authorization.as_deref())
            }
            (
                AuthQuestion::Response { mechanism, is_first, offers_binding, message },
                Some(users),
            ) => {
                let step = self.scram.take().filter(|_| !is_first);
                let binding = || match mechanism {
                    Mechanism::ScramSha256Plus => Binding::To(self.stream.channel()),
                    _ if offers_binding => Binding::Declined,
                    _ => Binding::Unavailable,
                };
                let binding = if step.is_none() { binding() } else { Binding::Unavailable };
                self.hear_scram(step, &users, &binding, &message)
            }
        };
        let now = self.shard.runtime.now();
        match found {
            Found::User(account) => {
                self.listener.metrics().auth_succeeded.increment(mechanism);
                self.session.auth_accepted(now, Arc::clone(&account.user));
                self.account = Some(account);
                self.users = known_among;
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

    /// RFC 4422 appendix A: a client may act as any user whose certificate it has. When it does not say
    /// as whom, there has to be one alone.
    fn know_by_certificate(&self, users: &Users, authorization: Option<&str>) -> Found {
        let Some(identity) = &self.identity else {
            return Found::Refused(AuthRefusal::Credentials, None);
        };
        let names = users.by_certificate(&identity.rules());
        let name = match authorization {
            Some(name) => names.get(name),
            None => names.first().filter(|_| names.len() == 1),
        };
        match name.and_then(|name| users.account(name)) {
            Some(account) => Found::User(Arc::clone(account)),
            None => Found::Refused(AuthRefusal::Credentials, None),
        }
    }

    fn hear_scram(
        &mut self,
        step: Option<ScramStep>,
        users: &Users,
        binding: &Binding,
        message: &[u8],
    ) -> Found {
        let (step, answer) = match step {
            None => match ScramExchange::begin(users, message, binding) {
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
            AuthRefusal::Credentials | AuthRefusal::Binding => {
                counts.auth_failed.increment(mechanism);
                let why = (refusal == AuthRefusal::Binding).then_some("channel binding");
                tracing::info!(%client, listener, user, ?mechanism, why, "an authentication has failed");
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

    /// Tells the session what has become of its user, and whether it may send now.
    pub(super) fn look_at_user(&mut self) {
        if self.account.is_some() && self.session.envelope().is_none() {
            self.look_for_user();
        }
        if let Some(account) = &self.account {
            let may_send = account.may_send(self.shard.runtime.unix_ms());
            self.session.set_user_may_send(may_send);
        }
    }
}

impl<R: Runtime> Inbound<R> {
    /// Finds the user again when the file was read anew. Who was removed, or has another password or other
    /// certificates, has to show again who he is; what else was changed holds from now on.
    fn look_for_user(&mut self) {
        let config = self.shard.config();
        let users = config.users();
        let is_same = match (users, &self.users) {
            (Some(users), Some(known)) => Arc::ptr_eq(users, known),
            (users, known) => users.is_none() && known.is_none(),
        };
        let Some(account) = self.account.as_ref().filter(|_| !is_same) else { return };
        let found = users.and_then(|users| users.account(&account.user.name));
        let found = found.filter(|found| found.is_shown_like(account)).cloned();
        if found.is_none() && self.session.user().is_some() {
            let (client, listener) = (self.session.peer().ip, self.listener.name());
            let user = &*account.user.name;
            tracing::info!(%client, listener, user, "a session has lost its user by a reload");
        }
        self.session.change_user(found.as_ref().map(|account| Arc::clone(&account.user)));
        self.account = found;
        self.users = users.cloned();
    }
}

/// A user by name, if there is one: people type passwords where names belong.
fn user_shown(account: Option<&Account>) -> &str {
    account.map_or("(unknown)", |account| &account.user.name)
}

fn label(mechanism: Mechanism) -> AuthMechanism {
    match mechanism {
        Mechanism::External => AuthMechanism::External,
        Mechanism::ScramSha256Plus => AuthMechanism::ScramSha256Plus,
        Mechanism::ScramSha256 => AuthMechanism::ScramSha256,
        Mechanism::Plain => AuthMechanism::Plain,
        Mechanism::Login => AuthMechanism::Login,
    }
}
