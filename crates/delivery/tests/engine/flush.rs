//! Mail that is to be tried now, because somebody knows that its place is there again.

use ringpost_delivery::{
    ConnectFailure, DeliveryConfig, Flush, FlushScope, QueuedMessage, SiteState,
};
use ringpost_protocol::address::{Domain, Host};
use ringpost_queue::MessageId;
use ringpost_session::client::Stage;

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, Transaction, World, config};

const HOST: [u8; 4] = [192, 0, 2, 1];

/// A world with a host that puts all mail off, for these domains.
fn putting_off(domains: &[&str], connections_max: usize) -> World {
    let config = DeliveryConfig {
        retry: retry(&[36_000]),
        connections_per_site_max: connections_max,
        ..config()
    };
    let mut world = World::new(config, 1);
    let later = Transaction::Replies(vec![(Stage::Rcpt, "450 4.2.0 later")]);
    world.add_host("mx.test", HOST, Server { otherwise: later, ..Server::default() });
    for domain in domains {
        world.add_mx(domain, 10, "mx.test");
    }
    world
}

fn accept_all(world: &mut World) {
    world.server(HOST).otherwise = Server::default().otherwise;
}

/// Makes a whole pass, without a moment for anything else; what it has brought forward.
fn flush(world: &mut World, scope: FlushScope) -> u64 {
    let mut flush = Flush::new(scope);
    while world.engine.flush_some(world.now, &mut flush) {}
    flush.recipients()
}

fn host(text: &str) -> FlushScope {
    FlushScope::Host(Host::parse(text).unwrap())
}

fn told(world: &World, ids: &[MessageId], story: &str) -> usize {
    ids.iter().filter(|id| world.story(**id, 0) == story).count()
}

#[test]
fn deferred_mail_of_a_domain_is_tried_now_and_no_other() {
    let mut world = putting_off(&["a.test", "sub.a.test", "b.test"], 10);
    let [a, sub, b] = ["a.test", "sub.a.test", "b.test"]
        .map(|domain| (0..300).map(|_| world.send(&[domain])).collect::<Vec<_>>());
    // One message for two domains is split.
    let both = world.send(&["a.test", "b.test"]);
    world.run(MINUTE);
    assert_eq!(world.engine.stats().waiting, 902);
    accept_all(&mut world);
    // The twin: without a flush nothing happens for hours.
    world.run(60 * MINUTE);
    assert_eq!(world.engine.stats().waiting, 902);

    assert_eq!(flush(&mut world, host("nobody.test")), 0);
    assert_eq!(flush(&mut world, host("a.test")), 301);
    world.run(MINUTE);
    let twice = "deferred 4.2.0, delivered 2.0.0";
    assert_eq!(told(&world, &a, twice), 300);
    assert_eq!(
        (world.story(both, 0), world.story(both, 1)),
        (twice.into(), "deferred 4.2.0".into())
    );
    assert_eq!(
        (told(&world, &sub, "deferred 4.2.0"), told(&world, &b, "deferred 4.2.0")),
        (300, 300)
    );

    let below = FlushScope::Subdomains(Domain::parse("a.test").unwrap());
    assert_eq!(flush(&mut world, below), 300);
    world.run(MINUTE);
    assert_eq!(told(&world, &sub, twice), 300);
    assert_eq!(flush(&mut world, FlushScope::All), 301);
    world.run(MINUTE);
    assert_eq!(told(&world, &b, twice), 300);
    world.run_until_settled(SECOND);
}

/// What is brought forward takes its way as other mail does: no more connections, each transaction once.
#[test]
fn a_flush_is_no_stampede() {
    let mut world = putting_off(&["a.test"], 3);
    let ids: Vec<_> = (0..2000).map(|_| world.send(&["a.test"])).collect();
    world.run(5 * MINUTE);
    assert_eq!(world.engine.stats().waiting, 2000);
    assert_eq!(flush(&mut world, host("a.test")), 2000);
    let mut most = 0;
    for _ in 0..400 {
        world.run(SECOND / 4);
        most = most.max(world.open_connections());
    }
    assert!((1..=3).contains(&most), "{most} connections");
    // It was put off again, once, and waits for its usual time.
    assert_eq!(told(&world, &ids, "deferred 4.2.0, deferred 4.2.0"), 2000);
    assert_eq!(world.engine.stats().waiting, 2000);
}

/// A site that is down is probed by one connection, whatever waits there; it is not waited for its time.
#[test]
fn a_place_that_is_down_is_looked_at_now() {
    let mut world = putting_off(&["a.test", "b.test", "broken.test"], 10);
    world.server(HOST).connect = Connect::Fail(ConnectFailure::Refused);
    world.broken.insert("broken.test".into());
    for domain in ["a.test", "b.test", "broken.test"] {
        for _ in 0..100 {
            world.send(&[domain]);
        }
    }
    // Down for long enough to be left alone for minutes.
    world.run(60 * MINUTE);
    let failed = world.engine.stats().sites_failed;
    let connects = world.engine.stats().connects;
    let parked = world.engine.stats().parked;
    assert!(parked > 200, "{parked}");
    assert_eq!(flush(&mut world, host("a.test")), 100, "parked or deferred");
    world.run(SECOND);
    assert_eq!(world.engine.stats().sites_failed, failed + 1);
    assert_eq!(world.engine.stats().connects, connects + 1, "one probe");

    accept_all(&mut world);
    world.server(HOST).connect = Connect::Ready;
    world.broken.clear();
    flush(&mut world, FlushScope::All);
    world.run(10 * SECOND);
    assert_eq!(world.engine.stats().parked, 0);
    assert_eq!(world.engine.site_views().next().unwrap().state, SiteState::Ready);
    world.run_until_settled(SECOND);
}

/// What is held until a time that its sender has named is nobody else's to let go.
#[test]
fn held_mail_is_left_alone() {
    let mut world = putting_off(&["a.test"], 10);
    accept_all(&mut world);
    let fresh = world.message(&["a.test"], 10_000 * MINUTE);
    let held: Vec<_> = fresh
        .recipients
        .into_iter()
        .map(|mut recipient| {
            recipient.due_unix_ms = Some(fresh.received_unix_ms + 3_600_000);
            recipient
        })
        .collect();
    let held = QueuedMessage { recipients: held, ..fresh };
    world.hand_over(&held);
    assert_eq!(flush(&mut world, FlushScope::All), 0);
    world.run(30 * MINUTE);
    assert_eq!(world.story(held.id, 0), "");
    world.run(31 * MINUTE);
    assert_eq!(world.story(held.id, 0), "delivered 2.0.0");
}

/// No call does more than a bounded amount of work, and mail that lives meanwhile goes on.
#[test]
fn a_pass_is_made_a_little_at_a_time() {
    let mut world = putting_off(&["a.test"], 10);
    for _ in 0..5000 {
        world.send(&["a.test"]);
    }
    world.run(10 * MINUTE);
    accept_all(&mut world);
    let mut pass = Flush::new(FlushScope::All);
    let (mut steps, mut before) = (0, 0);
    while world.engine.flush_some(world.now, &mut pass) {
        assert!(pass.recipients() - before <= 512, "{} in one step", pass.recipients() - before);
        before = pass.recipients();
        steps += 1;
        world.run(SECOND / 50);
    }
    assert!(steps > 10, "{steps} steps");
    assert_eq!(pass.recipients(), 5000);
    world.run_until_settled(10 * MINUTE);
}

/// That the DNS did not tell a moment ago is no answer to who knows that it does now.
#[test]
fn what_the_dns_did_not_tell_a_moment_ago_is_asked_anew() {
    let mut world = putting_off(&["a.test", "b.test"], 10);
    accept_all(&mut world);
    world.add_mx("b.test", 20, "other.test");
    // The domain itself, and the host of another.
    for broken in ["a.test", "mx.test", "other.test"] {
        world.broken.insert(broken.into());
    }
    let ids = ["a.test", "a.test", "b.test", "b.test"].map(|domain| world.send(&[domain]));
    world.run(SECOND);
    assert_eq!(world.engine.stats().parked, 2, "one of each has paid for the failure");
    let asked = |world: &World| world.queries.values().sum::<usize>();
    // Within the time for which failures are remembered.
    let before = asked(&world);
    assert_eq!(flush(&mut world, FlushScope::All), 4);
    world.run(SECOND / 2);
    assert!(asked(&world) > before, "nobody was asked");
    world.broken.clear();
    flush(&mut world, FlushScope::All);
    world.run(SECOND);
    for id in ids {
        assert!(world.story(id, 0).ends_with("delivered 2.0.0"), "{}", world.story(id, 0));
    }
}
