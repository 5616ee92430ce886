//! What TLS is asked for, and what its failures lead to.

use std::time::Duration;

use ringpost_delivery::config::{Route, RoutePattern};
use ringpost_delivery::{ConnectFailure, DeliveryConfig, TlsLevel, TlsPolicy, TlsProfile};
use ringpost_session::client::{ClientTls, Stage};

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, Transaction, World, config};

pub(crate) fn policy(level: TlsLevel) -> TlsPolicy {
    TlsPolicy { level, ..TlsPolicy::default() }
}

fn route(domain: &str, tls: TlsPolicy) -> Route {
    Route {
        pattern: RoutePattern::Exact(domain.into()),
        smarthost: None,
        retry: None,
        lifetime: None,
        delay_warning: None,
        tls: Some(tls),
        login: None,
        dialect: None,
    }
}

/// One host for `a.test` and `b.test`, with a level for all and another for `b.test`.
pub(crate) fn world(connect: Connect, level: TlsLevel, of_b: Option<TlsLevel>) -> World {
    let routes = of_b.map(|level| route("b.test", policy(level))).into_iter().collect();
    let config = DeliveryConfig { tls: policy(level), routes, retry: retry(&[300]), ..config() };
    let mut world = World::new(config, 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server { connect, ..Server::default() });
    world.add_mx("a.test", 10, "mx.test");
    world.add_mx("b.test", 10, "mx.test");
    world
}

#[test]
fn each_level_asks_for_what_it_says() {
    for (level, expected) in [
        (TlsLevel::Off, ClientTls::Off),
        (TlsLevel::Opportunistic, ClientTls::Opportunistic),
        (TlsLevel::Encrypt, ClientTls::Required),
        (TlsLevel::Verify, ClientTls::Required),
    ] {
        let mut world = world(Connect::Ready, level, None);
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.tls_of_connects, [expected]);
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
}

#[test]
fn opportunistic_mail_goes_in_plain_text_at_once_when_tls_fails_and_this_is_remembered() {
    for stage in [Stage::StartTls, Stage::Handshake] {
        let mut world = world(Connect::FailTls(stage), TlsLevel::Opportunistic, None);
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0", "without a wait, and no attempt counted");
        assert_eq!(world.tls_of_connects, [ClientTls::Opportunistic, ClientTls::Off]);
        // Within the time there is no further try, after it there is.
        world.run(MINUTE);
        world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.tls_of_connects[2..], [ClientTls::Off]);
        let stats = world.engine.stats();
        assert_eq!((stats.tls_fallbacks, stats.tls_passed_over, stats.tls_broken), (1, 1, 1));
        world.run(10 * MINUTE);
        assert_eq!(world.engine.stats().tls_broken, 0);
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.tls_of_connects[3..], [ClientTls::Opportunistic, ClientTls::Off]);
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
}

#[test]
fn without_a_memory_every_connection_tries_tls() {
    let mut world = world(Connect::FailTls(Stage::Handshake), TlsLevel::Opportunistic, None);
    let config = DeliveryConfig { tls_broken_time: Duration::ZERO, ..(*world.config).clone() };
    world.engine.reconfigure(world.now, std::sync::Arc::new(config));
    for _ in 0..2 {
        let id = world.send(&["a.test"]);
        world.run(MINUTE);
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
    let round = [ClientTls::Opportunistic, ClientTls::Off];
    assert_eq!(world.tls_of_connects, [round, round].concat());
}

#[test]
fn where_tls_has_to_be_mail_waits_and_never_goes_in_plain_text() {
    for level in [TlsLevel::Encrypt, TlsLevel::Verify] {
        for (connect, expected) in [
            (Connect::WithoutTls, "deferred 4.7.4"),
            (Connect::FailTls(Stage::StartTls), "deferred 4.4.2"),
            (Connect::FailTls(Stage::Handshake), "deferred 4.7.5"),
        ] {
            let mut world = world(connect.clone(), level, None);
            let id = world.send(&["a.test"]);
            world.run(20 * MINUTE);
            assert!(
                world.story(id, 0).starts_with(expected),
                "{connect:?}: {}",
                world.story(id, 0)
            );
            assert!(world.tls_of_connects.len() > 1, "it is tried again");
            assert!(world.tls_of_connects.iter().all(|tls| *tls == ClientTls::Required));
            assert_eq!((world.transactions, world.engine.stats().tls_fallbacks), (0, 0));
            world.server([192, 0, 2, 1]).connect = Connect::Ready;
            world.run(20 * MINUTE);
            assert!(world.story(id, 0).ends_with("delivered 2.0.0"));
        }
    }
}

#[test]
fn what_has_failed_for_one_does_not_let_another_go_in_plain_text() {
    let connect = Connect::FailTls(Stage::Handshake);
    let mut world = world(connect, TlsLevel::Opportunistic, Some(TlsLevel::Encrypt));
    let weak = world.send(&["a.test"]);
    world.run(SECOND);
    let strong = world.send(&["b.test"]);
    world.run(SECOND);
    assert_eq!(world.story(weak, 0), "delivered 2.0.0");
    assert_eq!(world.story(strong, 0), "deferred 4.7.5");
    assert_eq!(
        world.tls_of_connects,
        [ClientTls::Opportunistic, ClientTls::Off, ClientTls::Required]
    );
}

#[test]
fn mail_under_different_policies_shares_no_connection() {
    let weaker = [TlsLevel::Off, TlsLevel::Opportunistic, TlsLevel::Encrypt];
    for level in weaker {
        let mut world = world(Connect::Ready, level, Some(TlsLevel::Verify));
        world.send(&["a.test"]);
        world.run(SECOND);
        // There is an idle connection now.
        assert_eq!((world.connects.len(), world.open_connections()), (1, 1));
        let id = world.send(&["b.test"]);
        world.run(SECOND);
        assert_eq!(world.connects.len(), 2, "{level:?}");
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
    // The same policy by two ways is one.
    let mut world = world(Connect::Ready, TlsLevel::Verify, Some(TlsLevel::Verify));
    world.send(&["a.test"]);
    world.run(SECOND);
    world.send(&["b.test"]);
    world.run(SECOND);
    assert_eq!(world.connects.len(), 1);
    // Other authorities, or another name, are another policy.
    let other = TlsPolicy { profile: TlsProfile(7), ..policy(TlsLevel::Verify) };
    let config = DeliveryConfig { routes: vec![route("b.test", other)], ..(*world.config).clone() };
    world.engine.reconfigure(world.now, std::sync::Arc::new(config));
    world.send(&["b.test"]);
    world.run(SECOND);
    assert_eq!(world.connects.len(), 2);
}

#[test]
fn a_message_to_two_policies_goes_in_two_transactions() {
    let mut world = world(Connect::Ready, TlsLevel::Opportunistic, Some(TlsLevel::Verify));
    let id = world.send(&["a.test", "b.test"]);
    world.run(SECOND);
    assert_eq!((world.connects.len(), world.transactions), (2, 2));
    assert_eq!(
        (world.story(id, 0), world.story(id, 1)),
        ("delivered 2.0.0".into(), "delivered 2.0.0".into())
    );
}

#[test]
fn a_refusal_of_starttls_by_all_hosts_is_no_bounce() {
    let mut world = world(Connect::WithoutTls, TlsLevel::Verify, None);
    world.add_mx("a.test", 20, "mx2.test");
    let server = Server { connect: Connect::WithoutTls, ..Server::default() };
    world.add_host("mx2.test", [192, 0, 2, 2], server);
    let id = world.send(&["a.test"]);
    world.run(MINUTE);
    assert!(world.story(id, 0).starts_with("deferred 4.7.4"), "{}", world.story(id, 0));
    assert_eq!(world.connects[..2].len(), 2);
}

/// Changes the policy of all mail.
fn reload(world: &mut World, tls: TlsPolicy) {
    let config = DeliveryConfig { tls, ..(*world.config).clone() };
    world.reconfigure(config);
}

/// Runs until so many connections have been begun.
fn run_until_connects(world: &mut World, count: usize) {
    for _ in 0..1000 {
        if world.connects.len() >= count {
            return;
        }
        world.run(Duration::from_millis(1));
    }
    panic!("{} connections", world.connects.len());
}

#[test]
fn a_walk_that_a_reload_overtakes_goes_no_further() {
    let strong = TlsPolicy { profile: TlsProfile(7), ..policy(TlsLevel::Verify) };
    let failures = [Connect::Fail(ConnectFailure::Refused), Connect::FailTls(Stage::Handshake)];
    for connect in failures {
        let mut world = world(connect.clone(), TlsLevel::Opportunistic, None);
        world.add_mx("a.test", 20, "mx2.test");
        world.add_host("mx2.test", [192, 0, 2, 2], Server::default());
        let id = world.send(&["a.test"]);
        run_until_connects(&mut world, 1);
        reload(&mut world, strong.clone());
        world.run(MINUTE);
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
        // The first one was under way; nothing weaker is begun any more, to any address.
        let since = &world.policies_of_connects[1..];
        assert!(!since.is_empty() && since.iter().all(|one| **one == strong), "{since:?}");
        assert_eq!(world.engine.stats().tls_fallbacks, 0, "{connect:?}");
    }
}

#[test]
fn what_comes_back_after_a_reload_goes_by_the_new_policy() {
    let strong = TlsPolicy { profile: TlsProfile(7), ..policy(TlsLevel::Verify) };
    let mut world = world(Connect::Ready, TlsLevel::Opportunistic, None);
    world.server([192, 0, 2, 1]).script = vec![Transaction::Drop];
    let id = world.send(&["a.test", "b.test"]);
    for _ in 0..1000 {
        if !world.jobs.is_empty() {
            break;
        }
        world.run(Duration::from_millis(1));
    }
    assert_eq!(
        (world.jobs.len(), world.transactions),
        (1, 0),
        "it is in the hands of a connection"
    );
    let before = world.connects.len();
    reload(&mut world, strong.clone());
    world.run(MINUTE);
    for index in 0..2 {
        assert_eq!(world.story(id, index), "delivered 2.0.0");
    }
    let since = &world.policies_of_connects[before..];
    assert!(!since.is_empty() && since.iter().all(|one| **one == strong), "{since:?}");
    let last = world.jobs.last().unwrap();
    assert!(last.recipients.len() == 2, "they stay together: {last:?}");
}

#[test]
fn what_has_failed_with_other_settings_is_tried_anew() {
    let mut world = world(Connect::FailTls(Stage::Handshake), TlsLevel::Opportunistic, None);
    world.send(&["a.test"]);
    world.run(MINUTE);
    assert_eq!(world.tls_of_connects, [ClientTls::Opportunistic, ClientTls::Off]);
    // It was our certificate, say.
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    let other = TlsPolicy { profile: TlsProfile(7), ..policy(TlsLevel::Opportunistic) };
    reload(&mut world, other);
    let id = world.send(&["a.test"]);
    world.run(MINUTE);
    assert_eq!(world.tls_of_connects[2..], [ClientTls::Opportunistic]);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
}
