//! How a remote host goes on over TLS, or does not.

use std::time::Duration;

use ringpost::runtime::Runtime;

use super::{Move, Over, Phase, Session};
use crate::random::Random;
use crate::tls::Shown;

/// Longest pause before a slow handshake.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// How a host that speaks TLS is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit of its own")]
pub struct TlsHabits {
    /// What it shows.
    pub shown: Shown,
    /// Whether it knows TLS 1.2 only.
    pub is_old: bool,
    /// Whether it offers STARTTLS; otherwise it speaks TLS only where that comes first.
    pub starttls: bool,
    /// Whether it offers less in plain text, and other things under TLS.
    pub is_shy: bool,
    /// Whether it offers STARTTLS under TLS again.
    pub again: bool,
    /// Whether it offers REQUIRETLS under TLS.
    pub requiretls: bool,
}

impl TlsHabits {
    /// Draws how a host speaks TLS, if it does.
    pub fn draw(random: &mut Random) -> Option<Self> {
        let habits = Self {
            shown: match Shown::BAD.get(random.index(10)) {
                Some(bad) => *bad,
                None => Shown::Good,
            },
            is_old: random.percent(30),
            starttls: !random.percent(10),
            is_shy: random.percent(30),
            again: random.percent(10),
            requiretls: random.percent(60),
        };
        (!random.percent(15)).then_some(habits)
    }
}

impl<R: Runtime> Session<R> {
    /// Whether TLS, if there is any, is with a host that is who it claims to be.
    pub(super) fn is_known(&self) -> Option<bool> {
        let shown = self.host.habits.tls.as_ref().map(|tls| tls.shown);
        self.is_private.then_some(shown == Some(Shown::Good))
    }

    /// Answers STARTTLS.
    pub(super) async fn start_tls(&mut self, line: &str) -> Result<(), Over> {
        if self.is_private || !self.offers_tls {
            self.violate("extension used that was not offered", line);
            return self.write("503 5.5.1 no\r\n").await;
        }
        if self.transaction.is_some() {
            self.violate("STARTTLS within a transaction", line);
        }
        if !self.wire.pending().is_empty() {
            self.violate("something sent ahead of TLS", line);
        }
        let chosen = self.choose(Phase::StartTls);
        let told = self.reply(Phase::StartTls, chosen, "220 2.0.0 go on").await?;
        if told != Some(220) {
            return Ok(());
        }
        self.shake_hands().await?;
        if chosen == Move::Twice {
            // Said too loudly to be taken for a confusion.
            let now = self.runtime.now();
            let text = self.host.name.clone();
            let mut ledger = self.host.ledger.borrow_mut();
            ledger.violate("what came ahead of TLS is passed over", now, text);
        }
        Ok(())
    }

    /// Shakes hands, and forgets what was said before.
    pub(super) async fn shake_hands(&mut self) -> Result<(), Over> {
        let Some(identity) = self.host.identity.clone() else { return Err(Over::Close) };
        match self.choose(Phase::Handshake) {
            Move::Close => return Err(Over::Close),
            Move::Break => return Err(Over::Break),
            Move::Silence => {
                while self.wire.more().await.is_ok() {}
                return Err(Over::Break);
            }
            Move::Slow => {
                let pause = self.random.duration(Duration::ZERO, PAUSE_MAX);
                self.runtime.sleep(pause).await;
            }
            Move::Temporary
            | Move::Permanent
            | Move::Closing
            | Move::WrongClass
            | Move::Garbage => {
                self.write("454 4.7.0 not today\r\n").await?;
                return Err(Over::Close);
            }
            _ => {}
        }
        self.wire.accept_tls(&identity).await?;
        self.is_private = true;
        self.transaction = None;
        self.forget_offers();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_differ() {
        let mut random = Random::new(1);
        let drawn: Vec<_> = (0..500).map(|_| TlsHabits::draw(&mut random)).collect();
        let count = |is_it: fn(&TlsHabits) -> bool| {
            drawn.iter().flatten().filter(|habits| is_it(habits)).count()
        };
        assert!(drawn.iter().any(Option::is_none));
        for shown in Shown::BAD {
            assert!(drawn.iter().flatten().any(|habits| habits.shown == shown));
        }
        assert!(count(|habits| habits.shown == Shown::Good) > 200);
        assert!(count(|habits| habits.starttls) > 300 && count(|habits| habits.requiretls) > 150);
    }
}
