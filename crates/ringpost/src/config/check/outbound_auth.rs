//! Contradictions of credentials at smarthosts.

use ringpost_protocol::limits::AUTH_NAME_MAX;
use ringpost_protocol::sasl::Mechanism;

use super::Findings;
use crate::config::schema::{Config, RouteAuth};

pub(super) fn check_outbound_auth(found: &mut Findings, config: &Config) {
    for (index, route) in config.route.iter().enumerate() {
        let Some(auth) = &route.auth else { continue };
        let number = index.to_string();
        let at = |key| ["route", &number, "auth", key];
        if route.smarthost.is_none() {
            let reason = "only a smarthost is told who we are: set smarthost";
            found.add(&["route", &number, "auth"], reason);
        }
        let is_name = (1..=AUTH_NAME_MAX).contains(&auth.user.len())
            && !auth.user.chars().any(char::is_control);
        if !is_name {
            let reason =
                format!("must have 1 to {AUTH_NAME_MAX} octets, and no control characters");
            found.add(&at("user"), reason);
        }
        if !auth.password_file.is_absolute() {
            found.add(&at("password_file"), "must be an absolute path");
        }
        let mechanisms = auth.mechanisms();
        if mechanisms.is_empty() {
            found.add(&at("mechanisms"), "there is none to log in by");
        }
        let is_known = |mechanism: &Mechanism| RouteAuth::KNOWN.contains(mechanism);
        if let Some(other) = mechanisms.iter().find(|mechanism| !is_known(mechanism)) {
            let known = RouteAuth::KNOWN.map(Mechanism::name).join(", ");
            let reason = format!("nobody logs in by {} here ({known})", other.name());
            found.add(&at("mechanisms"), reason);
        }
        let has_tls = route.always_has_tls(&config.delivery);
        if auth.shows_password() && !has_tls && auth.without_tls_to.is_empty() {
            let reason = "PLAIN and LOGIN show the password to all on the way: set tls to encrypt or \
                          verify, mechanisms to SCRAM-SHA-256 alone, or without_tls_to";
            found.add(&["route", &number, "auth"], reason);
        }
        if has_tls && !auth.without_tls_to.is_empty() {
            found.add(&at("without_tls_to"), "there is always TLS: leave it out");
        }
    }
}
