//! Contradictions of what is spoken with next hops.

use ringpost_protocol::extension::Extension;

use super::Findings;
use crate::config::schema::{Config, RouteProtocol, RouteSection};

/// The port of SMTP.
const SMTP_PORT: u16 = 25;

/// Extensions that can be left out towards next hops. The others are matters of keys of their own, or of
/// servers only.
const OPTIONAL: [Extension; 10] = [
    Extension::Pipelining,
    Extension::Size,
    Extension::EightBitMime,
    Extension::Chunking,
    Extension::BinaryMime,
    Extension::SmtpUtf8,
    Extension::Dsn,
    Extension::MtPriority,
    Extension::DeliverBy,
    Extension::Limits,
];

impl RouteSection {
    /// Whether it says anything of what is spoken, so that what holds for all does not hold for it.
    pub(in crate::config) fn has_dialect(&self) -> bool {
        self.protocol != RouteProtocol::Smtp || self.extensions_off.is_some()
    }
}

pub(super) fn check_dialects(found: &mut Findings, config: &Config) {
    if config.delivery.rules.as_ref().is_some_and(|path| !path.is_absolute()) {
        found.add(&["delivery", "rules"], "must be an absolute path");
    }
    check_extensions(found, &["delivery", "extensions_off"], &config.delivery.extensions_off);
    for (index, route) in config.route.iter().enumerate() {
        let number = index.to_string();
        let off = route.extensions_off.as_deref().unwrap_or_default();
        check_extensions(found, &["route", &number, "extensions_off"], off);
        if route.protocol == RouteProtocol::Lmtp {
            let place = ["route", &number, "protocol"];
            match &route.smarthost {
                None => found.add(&place, "hosts found by MX speak SMTP: name a smarthost"),
                // RFC 2033 §5.
                Some(to) if to.port == SMTP_PORT => {
                    found.add(&place, "port 25 is for SMTP: LMTP must have another one");
                }
                Some(_) => {}
            }
        }
    }
}

fn check_extensions(found: &mut Findings, place: &[&str], off: &[Extension]) {
    for extension in off.iter().filter(|extension| !OPTIONAL.contains(extension)) {
        let known = OPTIONAL.map(Extension::keyword).join(", ");
        let reason = format!("{} cannot be left out here ({known})", extension.keyword());
        found.add(place, reason);
    }
}
