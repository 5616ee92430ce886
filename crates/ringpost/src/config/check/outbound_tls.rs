//! Contradictions of TLS towards next hops.

use ringpost_protocol::address::Domain;

use super::Findings;
use crate::config::schema::{Config, OutboundTls};

pub(super) fn check_outbound_tls(found: &mut Findings, config: &Config) {
    let delivery = &config.delivery;
    found.not_zero(
        &["delivery"],
        &[
            ("tls_handshake_timeout", delivery.tls_handshake_timeout.is_zero()),
            ("tls_broken_per_core_max", delivery.tls_broken_per_core_max == 0),
        ],
    );
    for (index, route) in config.route.iter().enumerate() {
        let number = index.to_string();
        let level = route.tls.unwrap_or(delivery.tls);
        if route.tls_implicit {
            let place = ["route", &number, "tls_implicit"];
            if route.smarthost.is_none() {
                found.add(&place, "only a smarthost can take TLS from the first octet");
            }
            if !matches!(level, OutboundTls::Encrypt | OutboundTls::Verify) {
                found.add(&place, "there is nothing without TLS: set tls to encrypt or verify");
            }
        }
        if let Some(name) = &route.tls_name {
            let place = ["route", &number, "tls_name"];
            if level != OutboundTls::Verify {
                found.add(&place, "is looked at with tls = \"verify\" only");
            }
            if let Err(error) = Domain::parse(name) {
                found.add(&place, format!("{name:?} is not a domain name: {error}"));
            }
        }
    }
}
