//! TLS towards next hops: with what to shake hands, by route.

use std::collections::HashMap;

use ringpost_delivery::{TlsPolicy, TlsProfile};

use super::check::Contradiction;
use super::schema::{Config, DeliverySection, OutboundTls, RouteSection};
use crate::tls::connector::{Connector, ConnectorError, ConnectorSettings, Roots};

/// What shakes hands with next hops.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Connectors {
    /// By profile.
    connectors: HashMap<TlsProfile, Connector>,
    /// The profile of each setting that was read.
    profiles: Vec<(ConnectorSettings, TlsProfile)>,
}

impl Connectors {
    /// Reads the authorities and certificates of the default and of all routes.
    pub(super) fn load(config: &Config) -> Result<Self, Vec<Contradiction>> {
        let mut loaded = Self::default();
        let mut found = Vec::new();
        let mut system = None;
        let general = (None, settings(&config.delivery, None), config.delivery.tls);
        let routes = config.route.iter().enumerate().map(|(index, route)| {
            let level = route.tls.unwrap_or(config.delivery.tls);
            (Some(index), settings(&config.delivery, Some(route)), level)
        });
        for (route, settings, level) in std::iter::once(general).chain(routes) {
            let profile = loaded.profile(&settings);
            if let Some(connector) = loaded.connectors.get(&profile) {
                if level == OutboundTls::Verify && !connector.can_verify() {
                    found.push(no_authorities(route));
                }
                continue;
            }
            match Connector::load(&settings, || system.get_or_insert_with(Roots::of_system).clone())
            {
                Ok(connector) => {
                    if level == OutboundTls::Verify && !connector.can_verify() {
                        found.push(no_authorities(route));
                    }
                    let profile = TlsProfile(connector.fingerprint());
                    loaded.connectors.insert(profile, connector);
                    loaded.profiles.push((settings, profile));
                }
                Err(error) => found.push(contradiction(route, &error, config)),
            }
        }
        if found.is_empty() { Ok(loaded) } else { Err(found) }
    }

    /// The profile of settings; that of none before the files are read.
    fn profile(&self, settings: &ConnectorSettings) -> TlsProfile {
        let read = self.profiles.iter().find(|(read, _)| read == settings);
        read.map_or_else(TlsProfile::default, |(_, profile)| *profile)
    }

    /// What the mail of a route, or of none, asks for.
    pub(super) fn policy(
        &self,
        delivery: &DeliverySection,
        route: Option<&RouteSection>,
    ) -> TlsPolicy {
        TlsPolicy {
            level: route.and_then(|route| route.tls).unwrap_or(delivery.tls).into(),
            implicit: route.is_some_and(|route| route.tls_implicit),
            name: route
                .and_then(|route| route.tls_name.as_deref())
                .map(|name| name.to_ascii_lowercase().into()),
            profile: self.profile(&settings(delivery, route)),
            waivable: route.and_then(|route| route.tls_waivable).unwrap_or(delivery.tls_waivable),
        }
    }

    /// What shakes hands, by profile.
    pub(super) fn all(&self) -> &HashMap<TlsProfile, Connector> {
        &self.connectors
    }
}

fn settings(delivery: &DeliverySection, route: Option<&RouteSection>) -> ConnectorSettings {
    let ca_file = route.and_then(|route| route.tls_ca_file.as_ref());
    let certificate = route.and_then(|route| route.tls_certificate.as_ref());
    ConnectorSettings {
        ca_file: ca_file.or(delivery.tls_ca_file.as_ref()).cloned(),
        certificate: certificate.or(delivery.tls_certificate.as_ref()).cloned(),
        version_min: route
            .and_then(|route| route.tls_version_min)
            .unwrap_or(delivery.tls_version_min),
    }
}

/// The place of a key in the file, of a route or of the section for all.
fn place(route: Option<usize>, key: &str) -> Vec<String> {
    let mut place = match route {
        Some(index) => vec!["route".to_owned(), index.to_string()],
        None => vec!["delivery".to_owned()],
    };
    place.push(key.to_owned());
    place
}

fn no_authorities(route: Option<usize>) -> Contradiction {
    let reason = "needs certificate authorities, and the system has none: set tls_ca_file";
    Contradiction { place: place(route, "tls"), reason: reason.to_owned() }
}

fn contradiction(route: Option<usize>, error: &ConnectorError, config: &Config) -> Contradiction {
    let of_route = route.and_then(|index| config.route.get(index));
    let (key, part, is_own) = match error {
        ConnectorError::Authorities { .. } => {
            ("tls_ca_file", None, of_route.is_some_and(|route| route.tls_ca_file.is_some()))
        }
        ConnectorError::Certificate { is_key, .. } => (
            "tls_certificate",
            Some(if *is_key { "key" } else { "chain" }),
            of_route.is_some_and(|route| route.tls_certificate.is_some()),
        ),
        ConnectorError::General(_) => ("tls", None, false),
    };
    let mut place = place(route.filter(|_| is_own), key);
    place.extend(part.map(str::to_owned));
    Contradiction { place, reason: error.to_string() }
}
