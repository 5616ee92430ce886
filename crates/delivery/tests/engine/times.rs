//! Clocks that jump, mail that is held back, and times by route.

use std::time::Duration;

use ringpost_delivery::config::{Route, RoutePattern};
use ringpost_delivery::{
    ConnectFailure, DeliveryConfig, QueuedMessage, RetryDelays, RetrySchedule,
};

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, World, config};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

fn refusing() -> Server {
    Server { connect: Connect::Fail(ConnectFailure::Refused), ..Server::default() }
}

fn with_host(config: DeliveryConfig, server: Server) -> World {
    let mut world = World::new(config, 1);
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    world
}

#[test]
fn a_jump_of_the_wall_clock_brings_nothing_forward_and_puts_nothing_off() {
    for jump in [HOUR_MS, -HOUR_MS, DAY_MS, -DAY_MS] {
        let mut world = with_host(DeliveryConfig { retry: retry(&[600]), ..config() }, refusing());
        let deferred = world.send_expiring(&["a.test"], 40 * MINUTE);
        let parked = world.send_expiring(&["a.test"], 40 * MINUTE);
        let mut held = world.message(&["a.test"], 60 * MINUTE);
        held.recipients[0].due_unix_ms = Some(held.received_unix_ms + 1_800_000);
        let held_id = held.id;
        world.hand_over(&held);
        world.run(5 * SECOND);
        assert_eq!(world.story(deferred, 0), "deferred 4.4.1", "{jump}");
        let connects = world.connects.len();

        world.step_clock(jump);
        world.run(4 * SECOND);
        // Nothing has happened because of it, but for the probe that was due.
        assert!(world.connects.len() <= connects + 1, "{jump}");
        world.run(29 * MINUTE);
        assert!(!world.story(deferred, 0).contains("expired"), "{jump}");
        assert!(!world.story(parked, 0).contains("expired"), "{jump}");
        assert_eq!(world.story(held_id, 0), "", "{jump}");
        world.run(12 * MINUTE);
        assert!(world.story(deferred, 0).ends_with("expired 4.4.1"), "{jump}");
        assert!(world.story(parked, 0).ends_with("expired 4.4.1"), "{jump}");
        world.server([192, 0, 2, 1]).connect = Connect::Ready;
        world.run(10 * MINUTE);
        assert!(world.story(held_id, 0).ends_with("delivered 2.0.0"), "{jump}");
    }
}

/// A recipient as a restart finds it.
fn found(world: &mut World, attempts: u16, due_ms: i64, age_ms: i64) -> QueuedMessage {
    let mut message = world.message(&["a.test"], 5 * 24 * 60 * MINUTE);
    let now = world.now.unix_ms;
    message.received_unix_ms = now.saturating_add_signed(-age_ms);
    message.expiry_unix_ms = message.received_unix_ms.saturating_add_signed(5 * DAY_MS);
    message.recipients[0].attempts = attempts;
    message.recipients[0].due_unix_ms = Some(now.saturating_add_signed(due_ms));
    message
}

#[test]
fn mail_that_seems_expired_after_a_restart_gets_one_more_attempt() {
    // The clock was set right, or wrong, by far while the server was down.
    for age in [6 * DAY_MS, 20_000 * DAY_MS] {
        let mut world = with_host(config(), Server::default());
        let message = found(&mut world, 3, -HOUR_MS, age);
        let id = message.id;
        world.hand_over(&message);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0");

        let mut world = with_host(config(), refusing());
        let message = found(&mut world, 3, -HOUR_MS, age);
        let id = message.id;
        world.hand_over(&message);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), "expired 4.4.1");
        assert_eq!(world.connects.len(), 1);
    }
}

#[test]
fn a_clock_that_was_ahead_does_not_put_mail_off_after_a_restart() {
    let mut world = with_host(DeliveryConfig { retry: retry(&[600]), ..config() }, refusing());
    // Received and deferred a day from now.
    let message = found(&mut world, 1, DAY_MS, -DAY_MS);
    let id = message.id;
    world.hand_over(&message);
    world.run(9 * MINUTE);
    assert_eq!(world.story(id, 0), "");
    world.run(2 * MINUTE);
    assert_eq!(world.story(id, 0), "deferred 4.4.1", "as late as its schedule allows");
    // And it does not live longer than five days from now.
    world.run_until_settled(5 * 24 * 60 * MINUTE + 10 * MINUTE);
    assert!(world.story(id, 0).ends_with("expired 4.4.1"));
}

#[test]
fn a_clock_that_was_ahead_does_not_put_off_mail_that_was_never_tried() {
    // Received a day from now, to be let go at once, or ten minutes later.
    for held in [Duration::ZERO, 10 * MINUTE] {
        let mut world = with_host(config(), Server::default());
        let held_ms = i64::try_from(held.as_millis()).unwrap();
        let message = found(&mut world, 0, DAY_MS + held_ms, -DAY_MS);
        let id = message.id;
        world.hand_over(&message);
        if !held.is_zero() {
            world.run(9 * MINUTE + 59 * SECOND);
            assert_eq!(world.story(id, 0), "", "held");
        }
        world.run(2 * SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0", "held for {held:?}");
    }
    // Waited for a site that was down until its originator was told, by a clock that was ahead by then.
    let mut world = with_host(config(), Server::default());
    let mut message = found(&mut world, 0, DAY_MS, HOUR_MS);
    message.recipients[0].warned = true;
    let id = message.id;
    world.hand_over(&message);
    world.run(2 * SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
}

#[test]
fn mail_that_is_held_back_goes_when_its_time_has_come_and_has_all_its_time_then() {
    let hour = 60 * MINUTE;
    let of_a = Route {
        pattern: RoutePattern::Exact("a.test".into()),
        smarthost: None,
        retry: None,
        lifetime: Some(hour),
        delay_warning: Some(30 * MINUTE),
        tls: None,
        login: None,
        dialect: None,
    };
    let config = DeliveryConfig { routes: vec![of_a], retry: retry(&[600]), ..config() };
    let mut world = with_host(config, refusing());
    let mut message = world.message(&["a.test"], 48 * hour);
    message.recipients[0].due_unix_ms = Some(message.received_unix_ms + 86_400_000);
    let id = message.id;
    world.hand_over(&message);
    world.run(Duration::from_secs(24 * 3600 - 1));
    assert_eq!((world.connects.len(), world.engine.stats().waiting), (0, 1));
    world.run(2 * SECOND);
    assert_eq!(world.story(id, 0), "deferred 4.4.1");
    world.run(59 * MINUTE);
    assert!(!world.story(id, 0).contains("expired"));
    assert_eq!(world.warned.len(), 1);
    world.run(2 * MINUTE);
    assert!(world.story(id, 0).ends_with("expired 4.4.1"));
}

#[test]
fn a_route_has_its_own_schedule_and_lifetime() {
    let first = 10 * SECOND;
    let schedule = RetrySchedule {
        delays: RetryDelays::Exponential { first, factor: 2.0, max: MINUTE },
        jitter_percent: 0,
    };
    let of_a = Route {
        pattern: RoutePattern::Exact("a.test".into()),
        smarthost: None,
        retry: Some(schedule),
        lifetime: Some(3 * MINUTE),
        delay_warning: None,
        tls: None,
        login: None,
        dialect: None,
    };
    let config = DeliveryConfig {
        routes: vec![of_a],
        retry: retry(&[600]),
        // Out of the way.
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(10),
        ..config()
    };
    let mut world = with_host(config, refusing());
    world.add_mx("b.test", 10, "mx.test");
    let (short, long) = (world.send(&["a.test"]), world.send(&["b.test"]));
    let mut seen = Vec::new();
    let mut count = 0;
    for second in 0..400 {
        world.run(SECOND);
        let attempts = world.history.values().next().map_or(0, Vec::len);
        if attempts > count {
            count = attempts;
            seen.push(second);
        }
    }
    // 10, 20, 40, 60 s apart, and the last one at the end of the route's three minutes.
    for (seen, expected) in seen.iter().zip([0_i32, 10, 30, 70, 130, 180]) {
        assert!((seen - expected).abs() <= 4, "{seen} for {expected}");
    }
    assert_eq!(seen.len(), 6);
    assert!(world.story(short, 0).ends_with("expired 4.4.1"));
    assert_eq!(world.story(long, 0), "deferred 4.4.1");
}
