//! How much TLS the mail for each domain has to have, and when: what copies and records are held against.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Key, Ledger};

/// How much TLS there has to be. The greater asks for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// None.
    Off,
    /// What can be had.
    #[default]
    Opportunistic,
    /// With anybody.
    Encrypt,
    /// With who is shown to be the host.
    Verify,
}

/// What an operator has said of the mail for a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Rule {
    /// How much there has to be.
    pub level: Level,
    /// Whether that gives way to who sends the mail.
    pub is_waivable: bool,
}

impl Rule {
    /// What is left of it for mail whose sender wants it to go on rather than not, or for other mail.
    fn level(self, is_optional: bool) -> Level {
        if is_optional && self.is_waivable {
            self.level.min(Level::Opportunistic)
        } else {
            self.level
        }
    }
}

/// What an operator has said, from some time on.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Of all domains but the following.
    pub general: Rule,
    /// Of some.
    pub of_domains: BTreeMap<String, Rule>,
}

impl Rules {
    fn of(&self, domain: &str) -> Rule {
        self.of_domains.get(domain).copied().unwrap_or(self.general)
    }
}

/// A transaction as it was heard, for what is said of TLS.
#[derive(Debug, Clone, Copy)]
pub struct Hearing {
    /// When MAIL was heard.
    pub at: Instant,
    /// How long what was decided before may have been on its way.
    pub slack: Duration,
    /// Whether there was TLS, and then whether the certificate was right for the host.
    pub tls: Option<bool>,
    /// Whether REQUIRETLS was said.
    pub is_required: bool,
    /// Whether it was offered.
    pub offers_requiretls: bool,
}

impl Ledger {
    /// Notes what an operator says from now on; before the server is told.
    pub fn demand(&mut self, now: Instant, rules: Rules) {
        self.rules.push((now, rules));
    }

    /// The least and the most that was demanded of mail for a domain at any time between these.
    fn levels(
        &self,
        domain: &str,
        is_optional: bool,
        from: Instant,
        until: Instant,
    ) -> (Level, Level) {
        let ends = self.rules.iter().skip(1).map(|(at, _)| Some(*at)).chain([None]);
        let levels = self.rules.iter().zip(ends).filter_map(|((began, rules), ended)| {
            let is_within = *began <= until && ended.is_none_or(|ended| ended >= from);
            is_within.then(|| rules.of(domain).level(is_optional))
        });
        levels.fold((Level::Verify, Level::Off), |(least, most), level| {
            (least.min(level), most.max(level))
        })
    }

    /// Holds what a host takes for somebody against what was demanded when it was sent.
    pub fn check_tls(&mut self, address: &str, key: Key, heard: Hearing) {
        let Some(message) = self.message(key.message) else { return };
        let (is_required, is_optional) = (message.requires_tls, message.is_tls_optional);
        let domain = address.split_once('@').map_or("", |(_, domain)| domain);
        let from = heard.at.checked_sub(heard.slack).unwrap_or(heard.at);
        let (least, most) = self.levels(domain, is_optional, from, heard.at);
        let is_good = heard.tls == Some(true);
        let rule = match heard.tls {
            None if least >= Level::Encrypt => "in plain text where TLS has to be",
            Some(false) if least == Level::Verify => "to a host with a bad certificate",
            Some(_) if most == Level::Off => "over TLS where there is to be none",
            _ if is_required && !(is_good && heard.is_required && heard.offers_requiretls) => {
                "sent on without the TLS that it requires"
            }
            _ if heard.is_required && !is_required => "REQUIRETLS that nobody asked for",
            _ => return,
        };
        let text = format!(
            "{address}: TLS with a right certificate: {:?}, REQUIRETLS: {}; demanded are {least:?} to {most:?}",
            heard.tls, heard.is_required
        );
        self.violate(rule, heard.at, text);
    }

    /// Whether mail for a domain was never to be deferred or bounced for want of TLS so far.
    pub(crate) fn goes_without_tls(&self, key: Key) -> bool {
        let Some(message) = self.message(key.message) else { return false };
        let Some(recipient) = self.recipient(key) else { return false };
        let of_all = self
            .rules
            .iter()
            .map(|(_, rules)| rules.of(recipient.domain()).level(message.is_tls_optional));
        of_all.max().unwrap_or_default() <= Level::Opportunistic
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { message: 0, recipient: 0 };

    fn rules(level: Level, is_waivable: bool) -> Rules {
        let of_domains = [("b.test".to_owned(), Rule { level, is_waivable })].into();
        Rules { general: Rule::default(), of_domains }
    }

    /// What is wrong with a copy, heard so many seconds after the second of two sets of rules.
    fn wrong(
        domain: &str,
        levels: [Level; 2],
        seconds: u64,
        tls: Option<bool>,
        change: fn(&mut Ledger),
    ) -> Vec<&'static str> {
        let mut ledger = Ledger::new(Instant::now());
        let start = ledger.start;
        ledger.begin(Some("home.test"), &[domain]);
        let [before, after] = levels;
        ledger.demand(start, rules(before, true));
        ledger.demand(start + Duration::from_secs(100), rules(after, true));
        change(&mut ledger);
        let is_required = ledger.messages[0].requires_tls;
        let heard = Hearing {
            at: start + Duration::from_secs(100 + seconds),
            slack: Duration::from_secs(10),
            tls,
            is_required,
            offers_requiretls: tls.is_some(),
        };
        ledger.check_tls(&format!("m0.0@{domain}"), KEY, heard);
        ledger.violations().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn each_copy_is_held_against_the_rules_of_its_time() {
        let [off, some, all, verified] =
            [Level::Off, Level::Opportunistic, Level::Encrypt, Level::Verify];
        let plain = "in plain text where TLS has to be";
        let bad = "to a host with a bad certificate";
        let over = "over TLS where there is to be none";
        for (levels, seconds, tls, expected) in [
            ([all, all], 20, None, Some(plain)),
            ([some, all], 20, None, Some(plain)),
            // What was on its way is by the old rules.
            ([some, all], 5, None, None),
            ([all, some], 5, None, None),
            ([verified, all], 5, None, Some(plain)),
            ([all, all], 20, Some(false), None),
            ([verified, verified], 20, Some(false), Some(bad)),
            ([verified, verified], 20, Some(true), None),
            ([off, off], 20, Some(true), Some(over)),
            ([some, off], 5, Some(true), None),
        ] {
            let found = wrong("b.test", levels, seconds, tls, |_| ());
            assert_eq!(found, Vec::from_iter(expected), "{levels:?} {seconds} {tls:?}");
            assert!(wrong("a.test", levels, seconds, tls, |_| ()).is_empty());
        }
        let optional: fn(&mut Ledger) = |ledger| ledger.messages[0].is_tls_optional = true;
        assert!(wrong("b.test", [verified; 2], 20, None, optional).is_empty());
    }

    #[test]
    fn what_requires_tls_has_to_have_all_of_it() {
        let required: fn(&mut Ledger) = |ledger| ledger.messages[0].requires_tls = true;
        for (tls, is_wrong) in [(None, true), (Some(false), true), (Some(true), false)] {
            let found = wrong("a.test", [Level::Off; 2], 20, tls, required);
            assert_eq!(!found.is_empty(), is_wrong, "{tls:?}");
        }
    }
}
