//! What the file says about TLS towards next hops.

use ringpost_delivery::TlsLevel;
use serde::Deserialize;

use super::RouteSection;

/// How much TLS there has to be towards next hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboundTls {
    /// None.
    Off,
    /// Where it can be had, whatever the certificate.
    Opportunistic,
    /// Always, whatever the certificate.
    Encrypt,
    /// Always, with a certificate that is verified.
    Verify,
}

impl From<OutboundTls> for TlsLevel {
    fn from(tls: OutboundTls) -> Self {
        match tls {
            OutboundTls::Off => Self::Off,
            OutboundTls::Opportunistic => Self::Opportunistic,
            OutboundTls::Encrypt => Self::Encrypt,
            OutboundTls::Verify => Self::Verify,
        }
    }
}

impl RouteSection {
    /// Whether it says anything of TLS, so that what holds for all does not hold for it.
    pub(in crate::config) fn has_tls(&self) -> bool {
        self.tls.is_some()
            || self.tls_waivable.is_some()
            || self.tls_implicit
            || self.tls_name.is_some()
            || self.tls_version_min.is_some()
            || self.tls_ca_file.is_some()
            || self.tls_certificate.is_some()
    }
}

/// The lowest version of TLS that is spoken with next hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum TlsVersionMin {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}
