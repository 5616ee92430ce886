//! The defaults of the file are the defaults of the crates, and keys reach them.

use std::time::Duration;

use ringpost_delivery::dns::DnsConfig;
use ringpost_delivery::{AddressFamily, DeliveryConfig, Route, RoutePattern, Smarthost};
use ringpost_queue::QueueConfig;
use ringpost_session::client::ClientConfig;
use ringpost_session::server::ServerConfig;

use super::{MINIMAL, accepted, facts};

#[test]
fn an_empty_section_means_the_defaults_of_its_crate() {
    let snapshot = accepted(MINIMAL);
    let name = || Box::from("relay.example.com");
    let listener = &snapshot.config().listener["main"];
    assert_eq!(
        snapshot.server_config(listener),
        ServerConfig { hostname: name(), ..ServerConfig::default() }
    );
    assert_eq!(
        snapshot.client_config(),
        ClientConfig { helo_name: name(), ..ClientConfig::default() }
    );
    assert_eq!(snapshot.queue_config(), QueueConfig::default());
    assert_eq!(
        snapshot.delivery_config(),
        DeliveryConfig {
            hostname: name(),
            dns: DnsConfig { servers: facts().name_servers, ..DnsConfig::default() },
            ..DeliveryConfig::default()
        }
    );
}

#[test]
fn keys_reach_the_crates() {
    let snapshot = accepted(
        "delivery = { port = 2526, address_family = 'ipv6', data_timeout = '7s', retry = ['3s'] }\n\
         route = [{ domain = 'A.example', smarthost = '[::1]:26' }, { domain = '*', smarthost = 'B:25' }]\n\
         dns.attempts = 9\n\
         [listener.main]\n\
         addresses = ['127.0.0.1:2525']\n\
         postmaster = 'p@a.example'\n\
         future_release_max = '90s'\n\
         not_before_header = 'X-Later'\n\
         lenient = true\n",
    );
    let server = snapshot.server_config(&snapshot.config().listener["main"]);
    assert!(server.lenient);
    assert_eq!(server.future_release_max, Duration::from_secs(90));
    assert_eq!(server.not_before_header.as_deref(), Some("X-Later"));
    assert_eq!(server.postmaster.map(|mailbox| mailbox.to_string()).unwrap(), "p@a.example");
    assert_eq!(snapshot.client_config().timeouts.data, Duration::from_secs(7));
    let delivery = snapshot.delivery_config();
    assert_eq!(delivery.port, 2526);
    assert_eq!(delivery.address_family, AddressFamily::V6);
    assert_eq!(delivery.retry.delays, [Duration::from_secs(3)]);
    assert_eq!(delivery.dns.attempts, 9);
    let route = |pattern, host: &str, port| Route {
        pattern,
        smarthost: Smarthost { host: host.into(), port },
    };
    let expected = [
        route(RoutePattern::Exact("a.example".into()), "::1", 26),
        route(RoutePattern::Any, "b", 25),
    ];
    assert_eq!(delivery.routes, expected);
}

#[test]
fn every_accepted_segment_size_makes_a_log_that_its_crate_accepts() {
    for segment_size in ["1MiB", "2MiB", "4MiB", "64MiB", "1GiB"] {
        let snapshot = accepted(&format!(
            "queue = {{ segment_size = '{segment_size}' }}\n\
             [listener.main]\naddresses = ['127.0.0.1:2525']\nrecipients_max = 400\n"
        ));
        let config = snapshot.queue_config();
        assert_eq!(config.check(), Ok(()), "{segment_size}: {config:?}");
    }
}
