//! Passwords are compared, and keys made of them, on a thread of its own: it takes tens of milliseconds and tens of MiB, by
//! intention, and mail must not wait for it.

use std::{io, sync::Arc, thread};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ringpost_session::server::Password;
use tokio::sync::oneshot;

use super::credentials::Credentials;
use super::scram_client::ScramSalt;
use super::users::Candidate;
use super::verifier::ScramKeys;

/// The name of the thread.
const THREAD_NAME: &str = "passwords";

/// A question to the thread.
#[derive(Debug)]
enum Question {
    /// Whether this is the password of a user.
    Compare { candidate: Candidate, password: Password, answer: oneshot::Sender<bool> },
    /// What a password of our own comes to with a salt.
    Derive {
        credentials: Arc<Credentials>,
        salt: ScramSalt,
        answer: oneshot::Sender<Arc<ScramKeys>>,
    },
}

/// Whom to ask about passwords. Clones share it.
///
/// One thread compares one password after the other, so that a flood of them takes one core at most and
/// the memory of one comparison. A bounded number waits.
#[derive(Debug, Clone)]
pub struct PasswordChecker {
    /// `None` compares at once, where it is asked.
    questions: Option<Arc<Sender<Question>>>,
}

/// Too many wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl PasswordChecker {
    /// Starts the thread; it ends with the last clone. `queue_max` questions may wait, at least one.
    ///
    /// # Errors
    ///
    /// The system has no room for a thread.
    pub fn start(queue_max: usize) -> io::Result<Self> {
        let (sender, questions) = bounded(queue_max.max(1));
        thread::Builder::new().name(THREAD_NAME.into()).spawn(move || run(&questions))?;
        Ok(Self { questions: Some(Arc::new(sender)) })
    }

    /// One that compares at once, on the thread that asks: for simulations.
    pub fn inline() -> Self {
        Self { questions: None }
    }

    /// Asks; the answer comes later.
    ///
    /// # Errors
    ///
    /// [`Busy`] when too many wait.
    pub fn ask(
        &self,
        candidate: Candidate,
        password: Password,
    ) -> Result<oneshot::Receiver<bool>, Busy> {
        let (answer, answered) = oneshot::channel();
        self.put(Question::Compare { candidate, password, answer })?;
        Ok(answered)
    }

    /// Asks what the password of some credentials comes to; the answer comes later.
    ///
    /// # Errors
    ///
    /// [`Busy`] when too many wait.
    pub(crate) fn derive(
        &self,
        credentials: Arc<Credentials>,
        salt: ScramSalt,
    ) -> Result<oneshot::Receiver<Arc<ScramKeys>>, Busy> {
        let (answer, answered) = oneshot::channel();
        self.put(Question::Derive { credentials, salt, answer })?;
        Ok(answered)
    }

    fn put(&self, question: Question) -> Result<(), Busy> {
        match &self.questions {
            None => question.answer(),
            Some(questions) => match questions.try_send(question) {
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Busy),
            },
        }
        Ok(())
    }
}

impl Question {
    fn answer(self) {
        // Whoever has asked may be gone; then nothing needs to be done.
        match self {
            Self::Compare { candidate, password, answer } if !answer.is_closed() => {
                let _ = answer.send(candidate.is_password(&password));
            }
            Self::Derive { credentials, salt, answer } if !answer.is_closed() => {
                let _ = answer.send(credentials.derive(&salt));
            }
            Self::Compare { .. } | Self::Derive { .. } => {}
        }
    }
}

fn run(questions: &Receiver<Question>) {
    for question in questions {
        question.answer();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Users;

    fn candidate(name: &str) -> Candidate {
        let verifier = crate::auth::ScramVerifier::new(b"secret").unwrap();
        let text = format!("[user.u]\nscram_sha_256 = \"{verifier}\"\n");
        Users::parse(&text).unwrap().candidate(name)
    }

    #[test]
    fn the_thread_answers() {
        for checker in [PasswordChecker::start(3).unwrap(), PasswordChecker::inline()] {
            let ask =
                |name, password| checker.ask(candidate(name), Password::new(password)).unwrap();
            let answers = [ask("u", "secret"), ask("u", "wrong"), ask("x", "secret")];
            let answers = answers.map(|answer| answer.blocking_recv().unwrap());
            assert_eq!(answers, [true, false, false]);
        }
    }

    #[test]
    fn no_more_wait_than_may() {
        let (sender, questions) = bounded(2);
        let checker = PasswordChecker { questions: Some(Arc::new(sender)) };
        let ask = || checker.ask(candidate("u"), Password::new("secret"));
        let (first, second) = (ask().unwrap(), ask().unwrap());
        assert_eq!(ask().map(drop), Err(Busy));
        // One that nobody waits for any more makes room at once.
        drop(first);
        questions.recv().unwrap().answer();
        let third = ask().unwrap();
        drop(checker);
        run(&questions);
        assert_eq!((second.blocking_recv(), third.blocking_recv()), (Ok(true), Ok(true)));
    }
}
