//! What cannot be with listeners.

use std::net::SocketAddr;
use std::time::Duration;

use ringpost_protocol::extension::Extension;
use ringpost_session::server::TlsPolicy;

use super::Findings;
use crate::config::header::check_header;
use crate::config::schema::{Config, ListenerSection, Role, TlsMode};
use crate::config::units::display_size;

/// Bytes that one recipient takes in a record, at most: a forward-path (RFC 5321 §4.5.3.1.3) and its
/// state. An envelope has an eighth of a segment.
const RECIPIENT_SIZE_MAX: u64 = 320;
pub(super) fn check_listeners(found: &mut Findings, config: &Config) {
    if config.listener.is_empty() {
        found.add(&["listener"], "no listener: nothing could ever come in");
    }
    let mut taken: Vec<SocketAddr> = Vec::new();
    for (name, listener) in &config.listener {
        let section = ["listener", name.as_str()];
        if listener.addresses.is_empty() {
            found.add(&section, "no addresses");
        }
        for (index, address) in listener.addresses.iter().enumerate() {
            // Port 0 is a free port of the system's choice, and a different one each time.
            if address.port() != 0 && taken.contains(address) {
                let place = [section[0], section[1], "addresses", &index.to_string()];
                found.add(&place, format!("{address} is used twice"));
            }
            taken.push(*address);
        }
        check_listener(found, &section, listener, config);
    }
}

fn check_listener(
    found: &mut Findings,
    section: &[&str; 2],
    listener: &ListenerSection,
    config: &Config,
) {
    for (index, network) in listener.relay_networks.iter().enumerate() {
        if network.is_everything() {
            let place = [section[0], section[1], "relay_networks", &index.to_string()];
            found.add(&place, format!("{network} would let anyone relay"));
        }
    }
    for (key, networks) in [
        ("proxy_protocol_from", &listener.proxy_protocol_from),
        ("xclient_from", &listener.xclient_from),
    ] {
        for (index, network) in networks.iter().enumerate().filter(|(_, it)| it.is_everything()) {
            let place = [section[0], section[1], key, &index.to_string()];
            found.add(&place, format!("{network} would let anyone say that he is somebody else"));
        }
    }
    let envelope_room = config.queue.segment_size / 8 / RECIPIENT_SIZE_MAX;
    if listener.recipients_max as u64 > envelope_room {
        let reason = format!("queue.segment_size has room for {envelope_room} in one record");
        found.add(&[section[0], section[1], "recipients_max"], reason);
    }
    let room = config.queue.size_max / 2;
    if listener.message_size_max > room {
        let reason = format!("more than half of queue.size_max allows ({})", display_size(room));
        found.add(&[section[0], section[1], "message_size_max"], reason);
    }
    let future_release_max = listener.future_release_max;
    if future_release_max.subsec_nanos() != 0 {
        let place = [section[0], section[1], "future_release_max"];
        found.add(&place, "not in whole seconds, as RFC 4865 counts them");
    }
    if !listener.not_before_header.is_empty() && future_release_max.is_zero() {
        let place = [section[0], section[1], "not_before_header"];
        found.add(&place, "future_release_max holds no message");
    }
    check_header(found, section, listener);
    check_tls(found, section, listener);
    if listener.binary_mime && listener.extensions_off.contains(&Extension::Chunking) {
        let place = [section[0], section[1], "binary_mime"];
        found.add(&place, "comes by BDAT only, and extensions_off has CHUNKING");
    }
    if listener.connections_per_client_per_core_max > listener.connections_per_core_max {
        let place = [section[0], section[1], "connections_per_client_per_core_max"];
        found.add(&place, "more than connections_per_core_max");
    }
    found.not_zero(
        section,
        &[
            ("message_size_max", listener.message_size_max == 0),
            ("lifetime", listener.lifetime == Some(Duration::ZERO)),
            ("recipients_max", listener.recipients_max == 0),
            ("transactions_max", listener.transactions_max == 0),
            ("errors_max", listener.errors_max == 0),
            ("junk_commands_max", listener.junk_commands_max == 0),
            ("command_timeout", listener.command_timeout.is_zero()),
            ("tls_handshake_timeout", listener.tls_handshake_timeout.is_zero()),
            ("tls_handshakes_per_core_max", listener.tls_handshakes_per_core_max == 0),
            ("received_fields_max", listener.received_fields_max == 0),
            ("header_size_max", listener.header_size_max == 0),
            ("header_fields_max", listener.header_fields_max == 0),
            ("output_timeout", listener.output_timeout.is_zero()),
            ("proxy_timeout", listener.proxy_timeout.is_zero()),
            ("data_block_timeout", listener.data_block_timeout.is_zero()),
            ("connections_per_core_max", listener.connections_per_core_max == 0),
            (
                "connections_per_client_per_core_max",
                listener.connections_per_client_per_core_max == 0,
            ),
        ],
    );
}

fn check_tls(found: &mut Findings, section: &[&str; 2], listener: &ListenerSection) {
    let policy = listener.tls_policy();
    let place = [section[0], section[1], if listener.tls.is_some() { "tls" } else { "role" }];
    if policy != TlsPolicy::Off && listener.certificates.is_empty() {
        found.add(&place, "needs TLS, and certificates has none");
    }
    if listener.role == Role::Submissions
        && listener.tls.is_some_and(|tls| tls != TlsMode::Required)
    {
        found.add(&place, "with the role submissions there is nothing without TLS: leave it out");
    }
    if policy == TlsPolicy::Required && listener.extensions_off.contains(&Extension::StartTls) {
        let place = [section[0], section[1], "extensions_off"];
        found.add(&place, "STARTTLS is required, so it has to be offered");
    }
}
