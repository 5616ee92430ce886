//! Mail for places that are down: it waits in peace, is watched over, and costs nobody anything.

use std::time::Duration;

use ringpost_delivery::config::{Route, RoutePattern};
use ringpost_delivery::{ConnectFailure, DeliveryConfig, SiteState};

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, Transaction, World, config};

/// A world with a site that refuses all connections.
fn with_dead_site(config: DeliveryConfig) -> World {
    let mut world = World::new(config, 1);
    let down = Server { connect: Connect::Fail(ConnectFailure::Refused), ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], down);
    world.add_mx("dead.test", 10, "mx.test");
    world
}

#[test]
fn each_round_in_vain_defers_one_message_and_leaves_the_others_alone() {
    let mut world = with_dead_site(DeliveryConfig { retry: retry(&[36_000]), ..config() });
    let ids: Vec<_> = (0..1000).map(|_| world.send(&["dead.test"])).collect();
    world.run(3600 * SECOND);
    let rounds = world.engine.stats().sites_failed;
    assert!((10..30).contains(&rounds), "{rounds} rounds in an hour");
    let tried: Vec<_> = ids.iter().filter(|id| !world.story(**id, 0).is_empty()).collect();
    assert_eq!(tried.len() as u64, rounds);
    // The oldest first.
    assert!(tried.iter().eq(&ids.iter().take(tried.len()).collect::<Vec<_>>()));
    let view = world.engine.site_views().next().unwrap();
    assert_eq!(view.recipients, 1000 - tried.len());
    assert_eq!(u64::from(view.failures), rounds);
    assert_eq!(view.last_failure.unwrap().text, "connection refused");
    assert_eq!(world.engine.stats().parked, view.recipients);
    // One line when it went down, not one each round.
    assert_eq!(world.changes.len(), 1);
    assert!(world.changes[0].reason.is_some());

    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.run(6 * MINUTE);
    assert_eq!(world.engine.stats().parked, 0);
    assert_eq!(world.story(ids[999], 0), "delivered 2.0.0");
    assert_eq!((world.changes.len(), world.changes[1].reason.is_none()), (2, true));
    world.run_until_settled(12 * 3600 * SECOND);
}

#[test]
fn the_content_of_parked_mail_need_not_be_kept() {
    let mut world = with_dead_site(config());
    world.add_host("mx2.test", [192, 0, 2, 2], Server::default());
    world.add_mx("up.test", 10, "mx2.test");
    world.send(&["dead.test"]);
    world.run(SECOND);
    let parked = world.send(&["dead.test"]);
    let live = world.send(&["up.test"]);
    assert!(world.parked.contains(&parked) && !world.parked.contains(&live));
}

#[test]
fn parked_mail_expires_on_time_with_the_sites_failure() {
    let mut world = with_dead_site(config());
    let brief: Vec<_> =
        (0..2000).map(|_| world.send_expiring(&["dead.test"], 150 * SECOND)).collect();
    let long = world.send(&["dead.test"]);
    world.run(148 * SECOND);
    assert!(!world.story(brief[1000], 0).contains("expired"));
    world.run(10 * SECOND);
    for id in &brief[20..] {
        assert_eq!(world.story(*id, 0), "expired 4.4.1");
    }
    assert_eq!(world.story(long, 0), "");
    assert_eq!(world.engine.stats().parked, 1);
    // None of them was attempted.
    assert!(world.connects.len() < 10);
}

#[test]
fn expiring_by_the_hundred_thousand_takes_small_steps() {
    let mut world = with_dead_site(config());
    world.settles = false;
    for _ in 0..100_000 {
        world.send_expiring(&["dead.test"], 100 * SECOND);
    }
    let mut most = 0;
    for _ in 0..2000 {
        let before = world.engine.stats().parked;
        world.run(Duration::from_millis(100));
        let stats = world.engine.stats();
        most = most.max(stats.unsettled);
        let taken = before.saturating_sub(stats.parked);
        assert!(taken <= 2048, "{taken} at once");
    }
    // The driver takes nothing: it is waited for, in little memory.
    assert!((1000..2048).contains(&most), "{most}");
    world.settles = true;
    world.run_until_settled(10 * MINUTE);
    assert_eq!(world.engine.stats().expired, 100_000);
}

#[test]
fn the_originator_is_told_of_a_delay_once_wherever_the_mail_waits() {
    let mut world = with_dead_site(DeliveryConfig {
        delay_warning: 10 * MINUTE,
        retry: retry(&[300]),
        ..config()
    });
    let later = Server {
        otherwise: Transaction::Replies(vec![(
            ringpost_session::client::Stage::Rcpt,
            "450 4.2.0 later",
        )]),
        ..Server::default()
    };
    world.add_host("mx2.test", [192, 0, 2, 2], later);
    world.add_mx("grey.test", 10, "mx2.test");
    let ids: Vec<_> = (0..300).map(|_| world.send(&["dead.test", "grey.test"])).collect();
    world.run(9 * MINUTE);
    assert!(world.warned.is_empty());
    world.run(6 * MINUTE + 10 * SECOND);
    // The world makes sure that nobody is told twice.
    assert_eq!(world.warned.len(), 600);
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.server([192, 0, 2, 2]).otherwise = Server::default().otherwise;
    world.run_until_settled(20 * MINUTE);
    for id in ids {
        assert!(world.story(id, 0).ends_with("delivered 2.0.0"));
    }
    assert_eq!(world.warned.len(), 600);
}

#[test]
fn nobody_is_told_of_delays_unless_asked_for() {
    let of_grey = Route {
        pattern: RoutePattern::Exact("grey.test".into()),
        smarthost: None,
        retry: None,
        lifetime: None,
        delay_warning: Some(10 * MINUTE),
        tls: None,
        login: None,
        dialect: None,
    };
    let mut world = with_dead_site(DeliveryConfig { routes: vec![of_grey], ..config() });
    world.add_mx("grey.test", 10, "mx.test");
    for _ in 0..10 {
        world.send(&["dead.test"]);
        world.send(&["grey.test"]);
    }
    world.run(60 * MINUTE);
    let of_grey = world.warned.iter().filter(|(id, _)| id.to_u64() % 2 == 1).count();
    assert_eq!((world.warned.len(), of_grey), (10, 10));
}

#[test]
fn a_domain_the_dns_does_not_tell_about_is_parked_as_a_whole() {
    let mut world = World::new(DeliveryConfig { retry: retry(&[36_000]), ..config() }, 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    world.add_mx("a.test", 10, "mx.test");
    world.broken.insert("a.test".into());
    let ids: Vec<_> = (0..500).map(|_| world.send(&["a.test"])).collect();
    world.run(10 * MINUTE);
    let tried = ids.iter().filter(|id| !world.story(**id, 0).is_empty()).count();
    assert!((5..20).contains(&tried), "{tried}");
    assert_eq!(world.story(ids[0], 0), "deferred 4.4.3");
    let stats = world.engine.stats();
    assert_eq!((stats.parked, stats.destinations_parked), (500 - tried, 1));
    // Three servers asked for each round, not for each message.
    let queries: usize = world.queries.values().sum();
    assert!(queries < 60, "{queries} queries");
    world.broken.clear();
    world.run(MINUTE + 10 * SECOND);
    assert_eq!(world.story(ids[499], 0), "delivered 2.0.0");
    assert_eq!(world.engine.stats().parked, 0);
}

#[test]
fn mail_for_a_broken_domain_expires_too() {
    let mut world = World::new(config(), 1);
    world.broken.insert("a.test".into());
    let ids: Vec<_> = (0..100).map(|_| world.send_expiring(&["a.test"], 90 * SECOND)).collect();
    world.run(95 * SECOND);
    assert_eq!(world.story(ids[99], 0), "expired 4.4.3");
}

#[test]
fn a_change_of_the_configuration_moves_very_much_mail_bit_by_bit() {
    let mut world = with_dead_site(config());
    for _ in 0..50_000 {
        world.send(&["dead.test"]);
    }
    world.run(SECOND);
    assert!(world.engine.stats().parked > 49_000);
    let to = ringpost_delivery::Smarthost { host: "192.0.2.9".into(), port: 25 };
    world.add_host("other.test", [192, 0, 2, 9], Server::default());
    let routes = vec![Route::to(RoutePattern::Any, to)];
    world.reconfigure(DeliveryConfig { routes, ..config() });
    // One bit has gone its way; the next ones follow as the driver finds the time.
    let elsewhere: usize = world.engine.site_views().map(|view| view.ready).sum();
    assert!(elsewhere <= 256, "{elsewhere} in one call");
    world.run_until_settled(10 * MINUTE);
    assert!(
        world.engine.site_views().all(|view| view.state == SiteState::Ready || view.ready == 0)
    );
}
