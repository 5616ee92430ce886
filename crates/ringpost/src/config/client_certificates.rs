//! The keys about certificates of clients, with their checks.

use std::path::PathBuf;

use ringpost_protocol::sasl::Mechanism;
use ringpost_session::server::TlsPolicy;
use serde::Deserialize;
use serde::de::Deserializer;

use super::check::Findings;
use super::schema::Config;
use super::units::Parsed;
use crate::auth::certificate::parse_fingerprint;

/// Whether clients are asked for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateMode {
    /// They are not.
    #[default]
    Off,
    /// They are; who has none, or none that is good, is served as without.
    Request,
    /// They are, and there is no TLS without a good one.
    Require,
}

/// `[listener.NAME.client_certificates]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientCertificatesSection {
    /// Whether they are asked for. Default: off.
    pub mode: CertificateMode,
    /// The file of certificates that vouch for those of clients, in PEM. Default: none.
    pub ca: PathBuf,
    /// Files of what has been revoked, in PEM. Default: none, and nothing has been.
    pub crls: Vec<PathBuf>,
    /// SHA-256 of certificates whose clients may relay without AUTH. Default: none.
    #[serde(deserialize_with = "fingerprints")]
    pub relay_fingerprints: Vec<String>,
}

fn fingerprints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Fingerprint(String);

    impl<'de> Deserialize<'de> for Fingerprint {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let parse = |text: &str| {
                parse_fingerprint(text).ok_or("a SHA-256 fingerprint has 64 hexadecimal digits")
            };
            deserializer.deserialize_str(Parsed { expecting: "a fingerprint", parse }).map(Self)
        }
    }

    let list = Vec::<Fingerprint>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|Fingerprint(text)| text).collect())
}

pub(super) fn check_client_certificates(found: &mut Findings, config: &Config) {
    for (name, listener) in &config.listener {
        let section = &listener.client_certificates;
        let at = |key| ["listener", name.as_str(), "client_certificates", key];
        let is_on = section.mode != CertificateMode::Off;
        if is_on && listener.tls_policy() == TlsPolicy::Off {
            found.add(&at("mode"), "shown over TLS only, which there is none of");
        }
        if is_on && !section.ca.is_absolute() {
            found.add(&at("ca"), "who is to vouch for clients? It must be an absolute path");
        }
        if section.crls.iter().any(|path| !path.is_absolute()) {
            found.add(&at("crls"), "must be absolute paths");
        }
        if !is_on && !section.relay_fingerprints.is_empty() {
            found.add(&at("relay_fingerprints"), "mode is \"off\": nobody is asked");
        }
        let mechanisms = listener.auth.mechanisms;
        if !is_on && mechanisms.is_some_and(|it| it.contains(Mechanism::External)) {
            let place = ["listener", name, "auth", "mechanisms"];
            found.add(&place, "EXTERNAL: client_certificates.mode is \"off\", so nobody can");
        }
    }
}
