//! What a plan says of TLS towards remote hosts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::build::domain_name;
use crate::ledger::{Level, Rule, Rules};
use crate::random::Random;
use crate::tls::AUTHORITY;

/// The configuration of TLS towards remote hosts, as far as it is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundTls {
    /// What is said of all mail.
    pub general: Rule,
    /// What is said of the mail for some domains, by number.
    pub of_domains: BTreeMap<usize, Rule>,
    /// Whether TLS comes first at the smarthost, where it has to be.
    pub is_implicit: bool,
    /// How long hosts are remembered at which it has failed.
    pub broken_time: Duration,
    /// Hosts whose sessions are remembered.
    pub sessions_max: u64,
}

impl OutboundTls {
    /// Draws it for so many domains.
    pub fn draw(random: &mut Random, domains: usize) -> Self {
        let general = rule(random);
        let of_domains = (0..domains)
            .filter(|_| random.percent(40))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|domain| (domain, rule(random)))
            .collect();
        Self {
            general,
            of_domains,
            is_implicit: random.coin(),
            broken_time: Duration::from_secs(if random.percent(20) {
                0
            } else {
                random.within(1..=300)
            }),
            sessions_max: if random.percent(30) { 0 } else { random.within(1..=256) },
        }
    }

    /// Whether the smarthost is asked for TLS from the first octet.
    pub fn comes_first(&self) -> bool {
        self.is_implicit && self.general.level >= Level::Encrypt
    }

    /// What belongs into the section `delivery`.
    pub(super) fn section(&self, timeout: &str) -> String {
        format!(
            "tls = \"{}\"\ntls_waivable = {}\ntls_ca_file = \"{AUTHORITY}\"\ntls_handshake_timeout = \"{timeout}\"\n\
             tls_broken_time = \"{}s\"\ntls_sessions_per_core_max = {}\n",
            name(self.general.level),
            self.general.is_waivable,
            self.broken_time.as_secs(),
            self.sessions_max,
        )
    }

    /// The routes of domains that have something said of them.
    pub(super) fn routes(&self) -> String {
        let mut text = String::new();
        for (domain, rule) in &self.of_domains {
            let _ = write!(
                text,
                "[[route]]\ndomain = \"{}\"\ntls = \"{}\"\ntls_waivable = {}\n",
                domain_name(*domain),
                name(rule.level),
                rule.is_waivable,
            );
        }
        text
    }

    /// The same, as the ledger has it.
    pub fn rules(&self) -> Rules {
        let of_domains = self.of_domains.iter().map(|(domain, rule)| (domain_name(*domain), *rule));
        Rules { general: self.general, of_domains: of_domains.collect() }
    }
}

fn rule(random: &mut Random) -> Rule {
    let level = match random.below(10) {
        0 => Level::Off,
        1..5 => Level::Opportunistic,
        5..7 => Level::Encrypt,
        _ => Level::Verify,
    };
    Rule { level, is_waivable: random.coin() }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Off => "off",
        Level::Opportunistic => "opportunistic",
        Level::Encrypt => "encrypt",
        Level::Verify => "verify",
    }
}
