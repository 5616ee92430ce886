//! What the file says about credentials at smarthosts.

use std::path::PathBuf;

use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use serde::Deserialize;

use super::{DeliverySection, OutboundTls, RouteSection};
use crate::config::auth::mechanisms;
use crate::config::units::Network;

/// `auth` of a `[[route]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteAuth {
    /// The user name. 1 to 255 octets.
    pub user: String,
    /// The file with the password.
    pub password_file: PathBuf,
    /// The mechanisms that may be used. Default: SCRAM-SHA-256, PLAIN and LOGIN.
    #[serde(default, deserialize_with = "mechanisms")]
    pub mechanisms: Option<MechanismSet>,
    /// Where PLAIN and LOGIN may go without TLS. Default: nowhere.
    #[serde(default)]
    pub without_tls_to: Vec<Network>,
}

impl RouteAuth {
    /// The mechanisms that we log in by.
    pub(in crate::config) const KNOWN: [Mechanism; 3] =
        [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

    /// The mechanisms that may be used.
    pub fn mechanisms(&self) -> MechanismSet {
        self.mechanisms.unwrap_or_else(|| Self::KNOWN.into_iter().collect())
    }

    /// Whether the password itself may be sent.
    pub(in crate::config) fn shows_password(&self) -> bool {
        let mechanisms = self.mechanisms();
        mechanisms.contains(Mechanism::Plain) || mechanisms.contains(Mechanism::Login)
    }
}

impl RouteSection {
    /// Whether its mail goes over TLS or not at all.
    pub(in crate::config) fn always_has_tls(&self, delivery: &DeliverySection) -> bool {
        matches!(self.tls.unwrap_or(delivery.tls), OutboundTls::Encrypt | OutboundTls::Verify)
    }
}
