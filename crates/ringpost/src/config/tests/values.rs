//! Values with units, and what a snapshot makes of a file.

use std::time::Duration;

use super::{MINIMAL, accepted, facts};
use crate::config::units::{Network, UnitError, display_size, parse_duration, parse_size};
use crate::config::{SmarthostAddress, parse};

#[test]
fn durations_have_units() {
    let seconds = |n| Ok(Duration::from_secs(n));
    let table = [
        ("250ms", Ok(Duration::from_millis(250))),
        ("0s", seconds(0)),
        ("90s", seconds(90)),
        ("5m", seconds(300)),
        ("1h30m", seconds(5400)),
        ("5d", seconds(432_000)),
        ("10000d", seconds(864_000_000)),
        ("10001d", Err(UnitError::TooLarge)),
        ("99999999999999999d", Err(UnitError::TooLarge)),
        ("99999999999999999999999s", Err(UnitError::Duration)),
        ("", Err(UnitError::Duration)),
        ("5", Err(UnitError::Duration)),
        ("m", Err(UnitError::Duration)),
        ("5 m", Err(UnitError::Duration)),
        ("5min", Err(UnitError::Duration)),
        ("-5m", Err(UnitError::Duration)),
        ("1.5h", Err(UnitError::Duration)),
        ("5m3", Err(UnitError::Duration)),
    ];
    for (text, expected) in table {
        assert_eq!(parse_duration(text), expected, "{text:?}");
    }
}

#[test]
fn sizes_have_units() {
    let table = [
        ("0B", Ok(0)),
        ("512B", Ok(512)),
        ("64KiB", Ok(64 << 10)),
        ("50MiB", Ok(50 << 20)),
        ("1GiB", Ok(1 << 30)),
        ("2TiB", Ok(2 << 40)),
        ("99999999TiB", Err(UnitError::TooLarge)),
        ("", Err(UnitError::Size)),
        ("64", Err(UnitError::Size)),
        ("64MB", Err(UnitError::Size)),
        ("64mib", Err(UnitError::Size)),
        ("1GiB512MiB", Err(UnitError::Size)),
        ("-1B", Err(UnitError::Size)),
    ];
    for (text, expected) in table {
        assert_eq!(parse_size(text), expected, "{text:?}");
    }
    for text in ["0B", "513B", "64KiB", "50MiB", "1GiB", "2TiB", "1025MiB"] {
        assert_eq!(display_size(parse_size(text).unwrap()), text);
    }
}

#[test]
fn networks_contain_their_addresses() {
    let table = [
        ("127.0.0.0/8", "127.255.0.1", true),
        ("127.0.0.0/8", "128.0.0.1", false),
        ("127.0.0.0/8", "::ffff:127.0.0.1", true),
        ("127.0.0.0/8", "::1", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("192.0.2.0/31", "192.0.2.1", true),
        ("0.0.0.0/0", "255.255.255.255", true),
        ("0.0.0.0/0", "::", false),
        ("::/0", "2001:db8::1", true),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::1/128", "::1", true),
        ("::1/128", "::2", false),
    ];
    for (network, address, expected) in table {
        let network: Network = network.parse().unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
    }
    for (text, error) in [
        ("10.0.0.1/8", UnitError::HostBits),
        ("2001:db8::1/64", UnitError::HostBits),
        ("10.0.0.0/33", UnitError::Network),
        ("::/129", UnitError::Network),
        ("10.0.0.0/", UnitError::Network),
        ("10.0.0/8", UnitError::Network),
        ("localhost", UnitError::Network),
    ] {
        assert_eq!(text.parse::<Network>(), Err(error), "{text}");
    }
}

#[test]
fn smarthosts_are_hosts_with_ports() {
    for (text, host, port) in [
        ("Smart.Example.net:25", "smart.example.net", 25),
        ("192.0.2.1:587", "192.0.2.1", 587),
        ("[2001:db8::1]:25", "2001:db8::1", 25),
        ("localhost:2526", "localhost", 2526),
    ] {
        let address: SmarthostAddress = text.parse().unwrap();
        assert_eq!((&*address.host, address.port), (host, port));
        assert_eq!(address.to_string(), text.to_ascii_lowercase());
    }
    for text in
        ["", "host", "host:", "host:0", "host:70000", ":25", "2001:db8::1:25", "[192.0.2.1]:25"]
    {
        assert!(text.parse::<SmarthostAddress>().is_err(), "{text}");
    }
}

#[test]
fn the_machine_fills_in_what_the_file_leaves_out() {
    let snapshot = accepted(MINIMAL);
    assert_eq!(snapshot.hostname(), "relay.example.com");
    assert_eq!(snapshot.helo_name(), "relay.example.com");
    assert_eq!(snapshot.cores(), [0, 1, 2, 3]);
    assert_eq!(snapshot.shards(), 4);
    assert_eq!(snapshot.name_servers(), facts().name_servers);
}

#[test]
fn the_file_comes_before_the_machine() {
    let snapshot = accepted(
        "server = { hostname = 'A.example', cores = [3, 1] }\n\
         queue.shards = 8\n\
         dns.servers = ['2001:db8::53', '127.0.0.1:5353']\n\
         delivery.helo_name = 'B.example'\n\
         listener.main.addresses = ['127.0.0.1:0', '[::1]:0']\n",
    );
    assert_eq!(snapshot.hostname(), "a.example");
    assert_eq!(snapshot.helo_name(), "b.example");
    assert_eq!(snapshot.cores(), [3, 1]);
    assert_eq!(snapshot.shards(), 8);
    let servers: Vec<String> = snapshot.name_servers().iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["[2001:db8::53]:53", "127.0.0.1:5353"]);
}

#[test]
fn a_number_of_cores_takes_the_first_ones() {
    let text = format!("server.cores = 2\n{MINIMAL}");
    assert_eq!(accepted(&text).cores(), [0, 1]);
}

#[test]
fn name_servers_are_not_needed_when_all_mail_goes_to_addresses() {
    let none = super::SystemFacts { name_servers: Vec::new(), ..facts() };
    let route =
        |smarthost: &str| format!("{MINIMAL}[[route]]\ndomain = '*'\nsmarthost = '{smarthost}'\n");
    assert!(parse(&route("192.0.2.1:25"), &none).is_ok());
    assert!(parse(&route("smart.example:25"), &none).is_err());
    assert!(parse(MINIMAL, &none).is_err());
}

#[test]
fn the_relay_networks_decide_who_may_relay() {
    let snapshot = accepted(MINIMAL);
    let listener = &snapshot.config().listener["main"];
    for (client, expected) in [("127.0.0.1", true), ("::1", true), ("192.0.2.1", false)] {
        assert_eq!(listener.may_relay(client.parse().unwrap()), expected, "{client}");
    }
}

#[test]
fn the_summary_is_one_line() {
    let summary = accepted(MINIMAL).summary();
    assert_eq!(
        summary,
        "relay.example.com: 4 core(s), 4 shard(s) in /var/spool/ringpost of at most 16GiB each, \
         0 route(s), listening on 127.0.0.1:2525"
    );
}
