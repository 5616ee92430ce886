//! The defaults of the file are the defaults of the crates, and keys reach them.

use std::time::Duration;

use ringpost_delivery::dns::DnsConfig;
use ringpost_delivery::{
    AddressFamily, DeliveryConfig, RetryDelays, Route, RoutePattern, Smarthost,
};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::path::ForwardPath;
use ringpost_protocol::priority::Priority;
use ringpost_queue::QueueConfig;
use ringpost_session::client::{ClientConfig, ClientProtocol, Dialect};
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
         aliases.postmaster = ['p@a.example']\n\
         [listener.main]\n\
         addresses = ['127.0.0.1:2525']\n\
         expn = true\n\
         extensions_off = ['size', '8BITMIME']\n\
         future_release_max = '90s'\n\
         not_before_header = 'X-Later'\n\
         mt_priority = true\n\
         mt_priority_max = -2\n\
         header = { tenant = 'X-T', campaign = 'X-C', tls_required = false }\n\
         binary_mime = true\n\
         lenient = true\n",
    );
    let server = snapshot.server_config(&snapshot.config().listener["main"]);
    assert!(server.lenient && server.binary_mime);
    let offered = [Extension::Size, Extension::EightBitMime, Extension::Pipelining]
        .map(|extension| server.extensions.contains(extension));
    assert_eq!(offered, [false, false, true]);
    // With segments of 64 MiB the default is the least.
    assert_eq!(server.dsn_parameters_size_max, 1 << 20);
    assert_eq!(snapshot.return_size_max(), 256 << 10);
    assert_eq!(server.future_release_max, Duration::from_secs(90));
    assert_eq!(server.priority_max, Priority::new(-2));
    assert_eq!(server.not_before_header.as_deref(), Some("X-Later"));
    assert_eq!(server.tenant_header.as_deref(), Some("X-T"));
    assert_eq!(server.campaign_header.as_deref(), Some("X-C"));
    assert!(!server.tls_required_field);
    let alias = server.aliases.find(&ForwardPath::Postmaster).unwrap();
    assert_eq!(alias.members()[0].to_string(), "p@a.example");
    assert!(server.expn);
    assert_eq!(snapshot.client_config().timeouts.data, Duration::from_secs(7));
    let delivery = snapshot.delivery_config();
    assert_eq!(delivery.port, 2526);
    assert_eq!(delivery.address_family, AddressFamily::V6);
    assert_eq!(delivery.retry.delays, RetryDelays::List(vec![Duration::from_secs(3)]));
    assert_eq!(delivery.dns.attempts, 9);
    let route =
        |pattern, host: &str, port| Route::to(pattern, Smarthost { host: host.into(), port });
    let expected = [
        route(RoutePattern::Exact("a.example".into()), "::1", 26),
        route(RoutePattern::Any, "b", 25),
    ];
    assert_eq!(delivery.routes, expected);
}

#[test]
fn the_role_says_what_is_made_of_tls() {
    use ringpost_session::server::TlsPolicy;
    let with = "certificates = [{ chain = '/c', key = '/k' }]";
    for (keys, policy) in [
        ("", TlsPolicy::Off),
        (with, TlsPolicy::Optional),
        ("tls = 'off'", TlsPolicy::Off),
        (&*format!("{with}\ntls = 'off'"), TlsPolicy::Off),
        (&*format!("{with}\ntls = 'required'"), TlsPolicy::Required),
        (&*format!("{with}\nrole = 'submission'"), TlsPolicy::Required),
        (&*format!("{with}\nrole = 'submission'\ntls = 'optional'"), TlsPolicy::Optional),
        (&*format!("{with}\nrole = 'submissions'"), TlsPolicy::Implicit),
    ] {
        let text = format!("[listener.main]\naddresses = ['127.0.0.1:2525']\n{keys}\n");
        let snapshot = accepted(&text);
        let server = snapshot.server_config(&snapshot.config().listener["main"]);
        assert_eq!(server.tls, policy, "{keys}");
    }
}

#[test]
fn what_routes_say_of_tls_reaches_the_engine() {
    use ringpost_delivery::{TlsLevel, TlsPolicy};
    let snapshot = accepted(
        "delivery = { tls = 'encrypt', tls_waivable = true, tls_broken_time = '3s', tls_broken_per_core_max = 5 }\n\
         route = [{ domain = 'a.example', lifetime = '1h' },\n\
         { domain = 'b.example', smarthost = 'b:465', tls_implicit = true },\n\
         { domain = 'c.example', tls = 'verify', tls_name = 'Mail.c.example' },\n\
         { domain = 'd.example', tls = 'off' },\n\
         { domain = 'e.example', tls_waivable = false }]\n\
         [listener.main]\naddresses = ['127.0.0.1:2525']\n",
    );
    let delivery = snapshot.delivery_config();
    let policy = |level| TlsPolicy { level, waivable: true, ..TlsPolicy::default() };
    assert_eq!(delivery.tls, policy(TlsLevel::Encrypt));
    assert_eq!((delivery.tls_broken_time, delivery.tls_broken_max), (Duration::from_secs(3), 5));
    let of_routes: Vec<_> = delivery.routes.into_iter().map(|route| route.tls).collect();
    let name = Some("mail.c.example".into());
    assert_eq!(
        of_routes,
        [
            None,
            Some(TlsPolicy { implicit: true, ..policy(TlsLevel::Encrypt) }),
            Some(TlsPolicy { name, ..policy(TlsLevel::Verify) }),
            Some(policy(TlsLevel::Off)),
            Some(TlsPolicy { waivable: false, ..policy(TlsLevel::Encrypt) }),
        ]
    );
}

#[test]
fn the_role_says_whether_missing_fields_are_added() {
    for (keys, expected) in [
        ("", false),
        ("header.add_missing = true", true),
        ("role = 'submission'\ntls = 'off'", true),
        ("role = 'submission'\ntls = 'off'\nheader.add_missing = false", false),
        ("role = 'submissions'\ncertificates = [{ chain = '/c', key = '/k' }]", true),
    ] {
        let text = format!("[listener.main]\naddresses = ['127.0.0.1:2525']\n{keys}\n");
        let snapshot = accepted(&text);
        let server = snapshot.server_config(&snapshot.config().listener["main"]);
        assert_eq!(server.add_missing_fields, expected, "{keys}");
    }
}

#[test]
fn the_times_of_routes_reach_the_engine() {
    let snapshot = accepted(
        "delivery = { retry = { first = '3s', max = '1m' }, retry_jitter_percent = 7 }\n\
         queue = { delay_warning = '4h', bounce_lifetime = '1d' }\n\
         route = [{ domain = 'a.example', retry = ['9s'], lifetime = '1h', delay_warning = '0s' }]\n\
         [listener.main]\n\
         addresses = ['127.0.0.1:2525']\n\
         lifetime = '2d'\n",
    );
    let delivery = snapshot.delivery_config();
    let exponential = RetryDelays::Exponential {
        first: Duration::from_secs(3),
        factor: 2.0,
        max: Duration::from_mins(1),
    };
    assert_eq!((delivery.retry.delays, delivery.retry.jitter_percent), (exponential, 7));
    assert_eq!(delivery.delay_warning, Duration::from_hours(4));
    let [route] = &*delivery.routes else { panic!("{:?}", delivery.routes) };
    assert_eq!(route.smarthost, None);
    let retry = route.retry.as_ref().unwrap();
    assert_eq!(retry.delays, RetryDelays::List(vec![Duration::from_secs(9)]));
    assert_eq!(retry.jitter_percent, 7);
    assert_eq!(route.lifetime, Some(Duration::from_hours(1)));
    assert_eq!(route.delay_warning, Some(Duration::ZERO));
    let listener = &snapshot.config().listener["main"];
    assert_eq!(listener.lifetime, Some(Duration::from_hours(48)));
    assert_eq!(snapshot.config().queue.bounce_lifetime, Duration::from_hours(24));
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

#[test]
fn a_route_says_what_is_spoken_or_what_holds_for_all_does() {
    let text = "[listener.a]\naddresses = ['127.0.0.1:2525']\n\
                [delivery]\nextensions_off = ['SIZE']\n\
                [[route]]\ndomain = 'a.test'\n\
                [[route]]\ndomain = 'b.test'\nsmarthost = 'lmtp.test:24'\nprotocol = 'lmtp'\n\
                [[route]]\ndomain = 'c.test'\nextensions_off = ['dsn', 'PIPELINING']\n\
                [[route]]\ndomain = 'd.test'\nextensions_off = []\n";
    let delivery = accepted(text).delivery_config();
    let off = |list: &[Extension]| {
        list.iter().fold(ExtensionSet::ALL, |used, extension| used.without(*extension))
    };
    let smtp = |list| Dialect { protocol: ClientProtocol::Smtp, extensions: off(list) };
    assert_eq!(delivery.dialect, smtp(&[Extension::Size]));
    let of_routes: Vec<_> = delivery.routes.iter().map(|route| route.dialect).collect();
    let lmtp = Dialect { protocol: ClientProtocol::Lmtp, ..smtp(&[Extension::Size]) };
    let expected =
        [None, Some(lmtp), Some(smtp(&[Extension::Dsn, Extension::Pipelining])), Some(smtp(&[]))];
    assert_eq!(of_routes, expected);
}
