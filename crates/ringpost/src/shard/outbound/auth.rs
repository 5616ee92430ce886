//! The login of an outbound connection.

use ringpost_metrics::label::OutboundAuth;
use ringpost_protocol::sasl::Mechanism;
use ringpost_session::client::{AuthProblem, AuthPrompt, SessionFailure, Stage};

use super::Outbound;
use crate::runtime::Runtime;

impl<R: Runtime> Outbound<R> {
    /// Answers what the server asks, and tells the session.
    pub(super) async fn answer_auth(&mut self, prompt: AuthPrompt) {
        let answer = match &mut self.target.login {
            Some(login) => login.answer(prompt, &self.shard.passwords).await,
            None => Err(AuthProblem::Unavailable),
        };
        match answer {
            Ok(answer) => self.session.auth_response(self.shard.runtime.now(), &answer),
            Err(problem) => self.session.auth_failed(problem),
        }
    }

    /// Notes that we are in; the credentials are needed no more.
    pub(super) fn note_login(&mut self, mechanism: Mechanism) {
        self.shard.metrics.outbound_auth.increment(OutboundAuth::Success);
        let Some(login) = self.target.login.take() else { return };
        let Some(credentials) = login.credentials() else { return };
        let address = self.target.address;
        tracing::debug!(
            site = %self.target.site, %address, mechanism = mechanism.name(), "logged in"
        );
        if credentials.is_news(address, OutboundAuth::Success) {
            let (site, user) = (&self.target.site, credentials.name());
            tracing::info!(%site, %address, user, "a smarthost lets us in again");
        }
    }

    /// Notes that we are not. What it comes to is deferral, whatever the code, so that an operator has to be
    /// told: once, until it changes.
    pub(super) fn note_login_failure(&self, failure: &SessionFailure) {
        let Some(result) = label(failure) else { return };
        self.shard.metrics.outbound_auth.increment(result);
        let credentials = self.target.login.as_ref().and_then(|login| login.credentials());
        let Some(credentials) = credentials else { return };
        let address = self.target.address;
        if credentials.is_news(address, result) {
            let (site, mx_host) = (&self.target.site, &self.target.mx_host);
            let user = credentials.name();
            tracing::error!(
                %site, %mx_host, %address, user, %failure,
                "cannot log in at a smarthost: mail for it waits"
            );
        }
    }
}

/// What a failure counts as; `None` if it is none of the login.
fn label(failure: &SessionFailure) -> Option<OutboundAuth> {
    if failure.stage() != Stage::Auth {
        return None;
    }
    Some(match failure {
        SessionFailure::Reply { reply, .. } if reply.is_permanent_negative() => {
            OutboundAuth::Refused
        }
        SessionFailure::Reply { .. } => OutboundAuth::Temporary,
        SessionFailure::Closed { .. } | SessionFailure::TimedOut { .. } => OutboundAuth::Connection,
        SessionFailure::Auth { problem } => match problem {
            AuthProblem::NotOffered => OutboundAuth::NotOffered,
            AuthProblem::NoMechanism | AuthProblem::NeedsTls => OutboundAuth::NoMechanism,
            AuthProblem::Refused(_) => OutboundAuth::Refused,
            AuthProblem::NotProven => OutboundAuth::NotProven,
            AuthProblem::Unavailable => OutboundAuth::Unavailable,
            _ => OutboundAuth::Protocol,
        },
        // Because the server stops.
        SessionFailure::Aborted { .. } => return None,
        _ => OutboundAuth::Protocol,
    })
}

#[cfg(test)]
mod tests {
    use ringpost_protocol::reply::{Reply, ReplyCode};

    use super::*;

    #[test]
    fn each_failure_counts_as_one_thing() {
        let reply = |stage, code| SessionFailure::Reply {
            stage,
            reply: Reply::new(ReplyCode::new(code).unwrap(), None, "x"),
        };
        let problem = |problem| SessionFailure::Auth { problem };
        for (failure, expected) in [
            (reply(Stage::Auth, 535), Some(OutboundAuth::Refused)),
            (reply(Stage::Auth, 504), Some(OutboundAuth::Refused)),
            (reply(Stage::Auth, 454), Some(OutboundAuth::Temporary)),
            (reply(Stage::Auth, 421), Some(OutboundAuth::Temporary)),
            (reply(Stage::Greeting, 535), None),
            (SessionFailure::Closed { stage: Stage::Auth }, Some(OutboundAuth::Connection)),
            (SessionFailure::TimedOut { stage: Stage::Auth }, Some(OutboundAuth::Connection)),
            (SessionFailure::Closed { stage: Stage::Ehlo }, None),
            (SessionFailure::Aborted { stage: Stage::Auth }, None),
            (problem(AuthProblem::NotOffered), Some(OutboundAuth::NotOffered)),
            (problem(AuthProblem::NeedsTls), Some(OutboundAuth::NoMechanism)),
            (problem(AuthProblem::NoMechanism), Some(OutboundAuth::NoMechanism)),
            (problem(AuthProblem::NotProven), Some(OutboundAuth::NotProven)),
            (problem(AuthProblem::Refused("x".into())), Some(OutboundAuth::Refused)),
            (problem(AuthProblem::Iterations(1)), Some(OutboundAuth::Protocol)),
            (problem(AuthProblem::Challenge), Some(OutboundAuth::Protocol)),
            (problem(AuthProblem::Unavailable), Some(OutboundAuth::Unavailable)),
        ] {
            assert_eq!(label(&failure), expected, "{failure:?}");
        }
    }
}
