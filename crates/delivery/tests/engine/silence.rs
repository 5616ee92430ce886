//! Name servers that are silent, and come back.

use ringpost_delivery::config::{Route, RoutePattern};
use ringpost_delivery::{DeliveryConfig, Smarthost};

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Server, World, config};

/// A world with very many domains and one host. Mail that paid for a round comes back in an hour.
fn of_domains(domains: usize) -> World {
    let config = DeliveryConfig { retry: retry(&[3600]), ..config() };
    let mut world = World::new(config, 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    for number in 0..domains {
        world.add_mx(&format!("d{number}.test"), 10, "mx.test");
    }
    world
}

#[test]
fn all_domains_are_taken_up_soon_after_an_outage() {
    let mut world = of_domains(1000);
    world.dns_is_down = true;
    for _ in 0..20 {
        for number in 0..1000 {
            world.send(&[&format!("d{number}.test")]);
        }
    }
    world.run(10 * MINUTE);
    // They are asked for in waves, as far as queries may be in flight; between them all are parked.
    for _ in 0..60 {
        if world.engine.stats().destinations_parked > 700 {
            break;
        }
        world.run(SECOND);
    }
    let parked = world.engine.stats().destinations_parked;
    assert!(parked > 700, "{parked} are parked");
    // About once a minute for each name, three tries each.
    let queries: usize = world.queries.values().sum();
    assert!(queries < 1000 * 3 * 15, "{queries} queries");
    world.queries.clear();
    world.dns_is_down = false;
    world.run(10 * SECOND);
    let stats = world.engine.stats();
    assert_eq!((stats.destinations_parked, stats.parked), (0, 0));
    world.run(5 * SECOND);
    let stats = world.engine.stats();
    assert_eq!(stats.delivered + stats.waiting as u64, 20_000);
    let most = world.queries.values().max().copied();
    assert!(most <= Some(3), "{most:?} queries for a name");
}

#[test]
fn a_single_domain_need_not_wait_for_its_time() {
    for minutes in [11, 12, 13, 14] {
        let mut world = of_domains(1);
        world.dns_is_down = true;
        for _ in 0..100 {
            world.send(&["d0.test"]);
        }
        world.run(minutes * MINUTE);
        let paid = world.history.len();
        assert!(paid < 30, "{paid} pieces have paid for questions");
        world.dns_is_down = false;
        world.run(10 * SECOND);
        assert_eq!(world.engine.stats().delivered as usize, 100 - paid, "after {minutes} minutes");
    }
}

#[test]
fn a_smarthost_without_an_address_is_looked_up_soon_after_an_outage() {
    let to = Smarthost { host: "relay.test".into(), port: 25 };
    let routes = vec![Route::to(RoutePattern::Any, to)];
    let mut world = World::new(DeliveryConfig { routes, retry: retry(&[3600]), ..config() }, 1);
    world.add_host("relay.test", [192, 0, 2, 1], Server::default());
    world.dns_is_down = true;
    for _ in 0..100 {
        world.send(&["a.test"]);
    }
    // By now the site is tried every five minutes.
    world.run(42 * MINUTE);
    let paid = world.history.len();
    world.dns_is_down = false;
    world.run(10 * SECOND);
    assert_eq!(world.engine.stats().delivered as usize, 100 - paid);
}

#[test]
fn one_domain_that_nobody_tells_about_is_not_asked_for_more_often() {
    let mut world = of_domains(3600);
    for _ in 0..10 {
        world.send(&["silent.test"]);
    }
    for number in 0..3600 {
        world.send(&[&format!("d{number}.test")]);
        world.run(SECOND);
    }
    let queries: usize = world
        .queries
        .iter()
        .filter(|((name, _), _)| name == "silent.test")
        .map(|(_, count)| count)
        .sum();
    assert!((100..220).contains(&queries), "{queries} queries");
}

#[test]
fn a_second_outage_stops_what_the_end_of_the_first_began() {
    let mut world = of_domains(3000);
    world.dns_is_down = true;
    for number in 0..3000 {
        world.send(&[&format!("d{number}.test")]);
        world.send(&[&format!("d{number}.test")]);
    }
    world.run(20 * MINUTE);
    for _ in 0..5 {
        world.dns_is_down = false;
        world.run(SECOND / 10);
        world.dns_is_down = true;
        world.run(5 * MINUTE);
    }
    world.dns_is_down = false;
    world.run(10 * SECOND);
    let stats = world.engine.stats();
    assert_eq!((stats.destinations_parked, stats.parked), (0, 0));
    world.run_until_settled(120 * MINUTE);
}
