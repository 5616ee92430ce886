//! The keys about users and authentication, with their checks.

use std::path::PathBuf;
use std::time::Duration;

use ringpost_protocol::extension::Extension;
use ringpost_protocol::limits::AUTH_FAILURES_MAX;
use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use ringpost_session::server::{AuthPolicy, TlsPolicy};
use serde::Deserialize;
use serde::de::Deserializer;

use super::check::Findings;
use super::client_certificates::CertificateMode;
use super::schema::{Config, ListenerSection, Role};
use super::units::{self, Parsed};

/// Clients would take a longer silence for a fault.
const FAILURE_DELAY_MAX: Duration = Duration::from_secs(10);

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSection {
    /// The file of users. Default: none.
    pub users: PathBuf,
    /// Passwords that may wait to be compared. Default: 100; at least 1.
    pub password_queue_max: usize,
    /// How long the reply to a failed authentication is held back. Default: 1 s; at most 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub failure_delay: Duration,
}

impl Default for AuthSection {
    fn default() -> Self {
        Self {
            users: PathBuf::new(),
            password_queue_max: 100,
            failure_delay: Duration::from_secs(1),
        }
    }
}

impl AuthSection {
    /// The file, or `None` when there are no users.
    pub fn users_file(&self) -> Option<&PathBuf> {
        (!self.users.as_os_str().is_empty()).then_some(&self.users)
    }
}

/// `[listener.NAME.auth]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenerAuthSection {
    /// The mechanisms that are offered. Default: all that all users can use, where the role is for
    /// submission and there are users.
    #[serde(deserialize_with = "mechanisms")]
    pub mechanisms: Option<MechanismSet>,
    /// Whether MAIL needs it. Default: where the role is for submission and there are mechanisms.
    pub required: Option<bool>,
    /// Whether it is offered without TLS, too. Default: no.
    pub without_tls: bool,
    /// Authentications that may fail in one session. Default: 3; at least 1.
    pub failures_max: u32,
}

impl Default for ListenerAuthSection {
    fn default() -> Self {
        Self {
            mechanisms: None,
            required: None,
            without_tls: false,
            failures_max: AUTH_FAILURES_MAX,
        }
    }
}

/// Reads a list of names of mechanisms.
pub(super) fn mechanisms<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<MechanismSet>, D::Error> {
    struct Name(Mechanism);

    impl<'de> Deserialize<'de> for Name {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let parse = |name: &str| {
                Mechanism::from_name(name).ok_or_else(|| {
                    let known = Mechanism::ALL.map(Mechanism::name).join(", ");
                    format!("not a mechanism that could be offered ({known})")
                })
            };
            deserializer.deserialize_str(Parsed { expecting: "a mechanism", parse }).map(Self)
        }
    }

    let names = Vec::<Name>::deserialize(deserializer)?;
    Ok(Some(names.into_iter().map(|Name(mechanism)| mechanism).collect()))
}

impl Config {
    /// What the sessions of a listener make of AUTH.
    pub fn auth_policy(&self, listener: &ListenerSection) -> AuthPolicy {
        let section = &listener.auth;
        let is_submission = listener.role != Role::Relay;
        let has_users = self.auth.users_file().is_some();
        let mechanisms = section.mechanisms.unwrap_or_else(|| {
            if is_submission && has_users {
                Mechanism::ALL.into_iter().collect()
            } else {
                MechanismSet::NONE
            }
        });
        let mechanisms = match listener.client_certificates.mode {
            CertificateMode::Off => mechanisms.without(Mechanism::External),
            CertificateMode::Request | CertificateMode::Require => mechanisms,
        };
        let is_usual = is_submission && !mechanisms.is_empty();
        AuthPolicy {
            mechanisms,
            without_tls: section.without_tls,
            required: section.required.unwrap_or(is_usual),
            failures_max: section.failures_max,
        }
    }
}

pub(super) fn check_auth(found: &mut Findings, config: &Config) {
    let auth = &config.auth;
    if auth.users_file().is_some_and(|path| !path.is_absolute()) {
        found.add(&["auth", "users"], "must be an absolute path, or empty for no users");
    }
    if auth.failure_delay > FAILURE_DELAY_MAX {
        let reason = format!("more than {} s", FAILURE_DELAY_MAX.as_secs());
        found.add(&["auth", "failure_delay"], reason);
    }
    found.not_zero(&["auth"], &[("password_queue_max", auth.password_queue_max == 0)]);
    for (name, listener) in &config.listener {
        let at = |key| ["listener", name.as_str(), "auth", key];
        let policy = config.auth_policy(listener);
        let is_on = !policy.mechanisms.is_empty();
        if is_on && auth.users_file().is_none() {
            found.add(&at("mechanisms"), "for whom? auth.users names no file of users");
        }
        if is_on && !policy.without_tls && listener.tls_policy() == TlsPolicy::Off {
            let reason = "only over TLS, which there is none of: set without_tls if you mean it";
            found.add(&at("mechanisms"), reason);
        }
        if policy.required && !is_on {
            found.add(&at("required"), "there is no mechanism to do it by");
        }
        if is_on && listener.extensions_off.contains(&Extension::Auth) {
            found.add(&at("mechanisms"), "extensions_off has AUTH");
        }
        found.not_zero(
            &["listener", name.as_str(), "auth"],
            &[("failures_max", policy.failures_max == 0)],
        );
    }
}
