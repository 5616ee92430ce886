//! What TLS a way asks for, and which addresses are known to fail at it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ringpost_session::client::ClientTls;

use crate::random::{Random, SeededMap, SeededState};

/// How much TLS there has to be. Of several demands the greatest applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum TlsLevel {
    /// None: STARTTLS is not used.
    Off,
    /// STARTTLS where it is offered, whatever the certificate (RFC 7435). When it cannot be had the mail
    /// goes in plain text.
    #[default]
    Opportunistic,
    /// TLS, whatever the certificate. Without it mail is deferred.
    Encrypt,
    /// TLS with a certificate from an authority that we trust, for the name of the host. Without it
    /// mail is deferred.
    Verify,
}

/// Names what the driver needs to shake hands: authorities, a certificate of our own, versions. Equal
/// for what is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TlsProfile(pub u64);

/// What TLS a way asks for.
///
/// Sites with different policies share no connections, so none that was made under a weaker one carries
/// mail under a stronger one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsPolicy {
    /// How much.
    pub level: TlsLevel,
    /// Whether TLS comes before the greeting (RFC 8314 §3.3), instead of by STARTTLS. Not with a level
    /// below [`TlsLevel::Encrypt`], where it counts as that.
    pub implicit: bool,
    /// The name that certificates have to have; `None`: that of the host.
    pub name: Option<Box<str>>,
    /// With what to shake hands.
    pub profile: TlsProfile,
    /// Whether the level gives way to senders who ask for that (`TLS-Required: No`, RFC 8689). The level
    /// is the word of the operator, so by default it does not.
    pub waivable: bool,
}

impl TlsPolicy {
    /// What hosts that are known to fail at TLS are spoken to with.
    pub(crate) fn plain() -> Self {
        Self { level: TlsLevel::Off, ..Self::default() }
    }

    /// What is left of it for messages whose senders ask that they go on without TLS rather than not at
    /// all (RFC 8689 §3): TLS where it can be had. The one place that knows what they can override.
    pub(crate) fn waived(&self) -> Self {
        if self.waivable && self.level > TlsLevel::Opportunistic {
            Self { level: TlsLevel::Opportunistic, waivable: false, ..self.clone() }
        } else {
            self.clone()
        }
    }

    /// What a session makes of it.
    pub fn session(&self) -> ClientTls {
        match self.level {
            _ if self.implicit => ClientTls::Implicit,
            TlsLevel::Off => ClientTls::Off,
            TlsLevel::Opportunistic => ClientTls::Opportunistic,
            TlsLevel::Encrypt | TlsLevel::Verify => ClientTls::Required,
        }
    }

    /// Whether mail goes in plain text when TLS fails.
    pub(crate) fn may_fall_back(&self) -> bool {
        self.session() == ClientTls::Opportunistic
    }
}

/// An address, and with what hands were shaken there.
pub(crate) type TlsAttempt = (SocketAddr, TlsProfile);

/// Addresses at which TLS has failed a short while ago, so that mail goes there in plain text at once.
///
/// With what it was tried belongs to it: it may have failed by our certificate or our versions, and with
/// others it is tried anew.
#[derive(Debug)]
pub(crate) struct BrokenTls {
    until: SeededMap<TlsAttempt, Instant>,
    /// Times that an address was not noted, because there were too many.
    overflows: u64,
}

impl BrokenTls {
    pub(crate) fn new(random: &mut Random) -> Self {
        let until = SeededMap::with_hasher(SeededState::new(random));
        Self { until, overflows: 0 }
    }

    /// Whether TLS has failed there.
    pub(crate) fn knows(&self, attempt: TlsAttempt, now: Instant) -> bool {
        self.until.get(&attempt).is_some_and(|until| *until > now)
    }

    /// Notes that TLS has failed there, for `time`. Of more than `max` addresses none is added.
    pub(crate) fn note(&mut self, attempt: TlsAttempt, now: Instant, time: Duration, max: usize) {
        if time.is_zero() {
            return;
        }
        if self.until.len() >= max && !self.until.contains_key(&attempt) {
            self.forget_old(now);
        }
        if self.until.len() >= max && !self.until.contains_key(&attempt) {
            self.overflows += 1;
            return;
        }
        self.until.insert(attempt, now + time);
    }

    /// Forgets addresses whose time is over.
    pub(crate) fn forget_old(&mut self, now: Instant) {
        self.until.retain(|_, until| *until > now);
    }

    pub(crate) fn len(&self) -> usize {
        self.until.len()
    }

    pub(crate) fn overflows(&self) -> u64 {
        self.overflows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_order_and_each_has_its_session() {
        let levels = [TlsLevel::Off, TlsLevel::Opportunistic, TlsLevel::Encrypt, TlsLevel::Verify];
        assert!(levels.is_sorted());
        let sessions = levels.map(|level| TlsPolicy { level, ..TlsPolicy::default() }.session());
        assert_eq!(
            sessions,
            [ClientTls::Off, ClientTls::Opportunistic, ClientTls::Required, ClientTls::Required]
        );
        for level in levels {
            let implicit = TlsPolicy { level, implicit: true, ..TlsPolicy::default() };
            assert_eq!(implicit.session(), ClientTls::Implicit);
            assert!(!implicit.may_fall_back(), "what is implicit is not left");
            let policy = TlsPolicy { level, ..TlsPolicy::default() };
            assert_eq!(policy.may_fall_back(), level == TlsLevel::Opportunistic);
        }
    }

    #[test]
    fn senders_can_waive_what_the_operator_lets_them() {
        let levels = [TlsLevel::Off, TlsLevel::Opportunistic, TlsLevel::Encrypt, TlsLevel::Verify];
        for level in levels {
            for waivable in [false, true] {
                let profile = TlsProfile(7);
                let policy = TlsPolicy { level, profile, waivable, ..TlsPolicy::default() };
                let expected = match level {
                    TlsLevel::Encrypt | TlsLevel::Verify if waivable => {
                        TlsPolicy { profile, ..TlsPolicy::default() }
                    }
                    // Equal, and so with the same connections as other mail.
                    _ => policy.clone(),
                };
                assert_eq!(policy.waived(), expected);
            }
        }
        let implicit =
            TlsPolicy { level: TlsLevel::Verify, implicit: true, ..TlsPolicy::default() };
        let waived = TlsPolicy { waivable: true, ..implicit }.waived();
        assert_eq!(waived.session(), ClientTls::Implicit, "there is nothing without TLS");
    }

    #[test]
    fn the_memory_of_failures_ends_and_is_bounded() {
        let mut broken = BrokenTls::new(&mut Random::new(1));
        let start = Instant::now();
        let minute = Duration::from_mins(1);
        let address = |last| (SocketAddr::from(([192, 0, 2, last], 25)), TlsProfile(1));
        broken.note(address(1), start, Duration::ZERO, 2);
        assert!(!broken.knows(address(1), start), "nothing is noted for no time");
        broken.note(address(1), start, minute, 2);
        broken.note(address(2), start + minute / 2, minute, 2);
        broken.note(address(3), start + minute / 2, minute, 2);
        assert!(broken.knows(address(1), start) && broken.knows(address(2), start));
        assert!(!broken.knows(address(3), start), "there is no room");
        assert_eq!((broken.len(), broken.overflows()), (2, 1));
        assert!(!broken.knows(address(1), start + minute), "its time is over");
        broken.note(address(3), start + minute, minute, 2);
        assert!(broken.knows(address(3), start + minute), "what is over makes room");
        assert_eq!((broken.len(), broken.overflows()), (2, 1));
        let elsewhere = (SocketAddr::from(([192, 0, 2, 3], 587)), TlsProfile(1));
        assert!(!broken.knows(elsewhere, start + minute), "another port is another server");
        let otherwise = (address(3).0, TlsProfile(2));
        assert!(!broken.knows(otherwise, start + minute), "it may be our certificate that failed");
    }
}
