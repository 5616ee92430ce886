//! Recipients that leave the queue while the engine knows of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_delivery::config::{Route, RoutePattern};
use ringpost_delivery::{
    Action, ConnectFailure, DeliveryConfig, Engine, Next, Now, QueuedMessage, QueuedRecipient,
    Smarthost,
};
use ringpost_protocol::address::Host;
use ringpost_protocol::priority::Priority;
use ringpost_queue::{MessageId, RecipientIndex, ShardId};
use ringpost_session::client::Stage;

use crate::scenarios::{MINUTE, SECOND, retry, to_smarthost};
use crate::world::{Connect, Server, Transaction, World, config};

#[test]
fn a_job_without_the_recipients_that_were_removed() {
    let now = Now { monotonic: Instant::now(), unix_ms: 1_000_000 };
    let mut engine = Engine::new(Arc::new(to_smarthost("192.0.2.1")), 1, now);
    for sequence in [1, 2] {
        let recipient = |index| QueuedRecipient {
            index: RecipientIndex(index),
            host: Host::parse("a.test").unwrap(),
            attempts: 0,
            due_unix_ms: None,
            warned: false,
        };
        let message = QueuedMessage {
            id: MessageId::new(ShardId(0), sequence),
            received_unix_ms: now.unix_ms,
            expiry_unix_ms: now.unix_ms + 1_000_000,
            priority: Priority::NORMAL,
            tls_optional: false,
            deliver_by: None,
            recipients: (0..3).map(recipient).collect(),
        };
        engine.handle_message(now, &message);
    }
    let connection = loop {
        if let Action::Connect { connection, .. } = engine.poll_action().unwrap() {
            break connection;
        }
    };
    engine.handle_ready(now, connection);
    let Next::Deliver(first) = engine.next_job(now, connection) else { panic!("no job") };
    assert_eq!(first.recipients.len(), 3);
    let left = engine.narrow_job(now, connection, |index| index.0 != 1);
    assert_eq!(left, [RecipientIndex(0), RecipientIndex(2)]);
    // It is the job of the connection still, and fails as a whole.
    let failed = engine.handle_job_failed(now, connection).unwrap();
    let failed: Vec<_> = failed.recipients.iter().map(|settled| settled.index).collect();
    assert_eq!(failed, left);
    // A job of which nothing is left is over, and never comes back.
    let Next::Deliver(second) = engine.next_job(now, connection) else { panic!("no job") };
    assert_ne!(second.id, first.id);
    assert_eq!(engine.narrow_job(now, connection, |_| false), []);
    assert!(engine.handle_job_failed(now, connection).is_none());
    assert!(matches!(engine.next_job(now, connection), Next::Idle { .. }));
}

/// A world in which mail waits in all places: for a site, for the DNS, for its time.
fn waiting_everywhere(config: DeliveryConfig) -> World {
    let mut world = World::new(config, 1);
    let down = Server { connect: Connect::Fail(ConnectFailure::Refused), ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], down);
    world.add_mx("dead.test", 10, "mx.test");
    let later = Transaction::Replies(vec![(Stage::Rcpt, "450 4.2.0 later")]);
    world.add_host(
        "mx2.test",
        [192, 0, 2, 2],
        Server { otherwise: later, connections_max: 50, ..Server::default() },
    );
    world.add_mx("grey.test", 10, "mx2.test");
    world.add_mx("broken.test", 10, "mx2.test");
    world.broken.insert("broken.test".into());
    world
}

const PLACES: [&str; 3] = ["dead.test", "grey.test", "broken.test"];

/// What the engine has of recipients that wait.
fn waiting(world: &World) -> usize {
    let stats = world.engine.stats();
    let ready: usize = world.engine.site_views().map(|view| view.recipients).sum();
    assert!(stats.parked >= ready, "all sites are down or without work");
    stats.waiting + stats.parked
}

#[test]
fn what_was_removed_is_forgotten_wherever_it_waits_and_nothing_else() {
    let mut world = waiting_everywhere(DeliveryConfig { retry: retry(&[3600]), ..config() });
    let ids: Vec<_> = (0..3000).map(|number| world.send(&[PLACES[number % 3]])).collect();
    let mixed: Vec<_> = (0..300).map(|_| world.send(&PLACES)).collect();
    world.run(10 * MINUTE);
    assert_eq!(waiting(&world), 3900);
    // Half of each place, and one recipient of each of the others.
    world.purge(ids.iter().skip(500).step_by(2).copied());
    for id in &mixed {
        let key = (*id, RecipientIndex(1));
        assert!(world.outstanding.remove(&key).is_some() && world.purged.insert(key));
    }
    let (mut steps, mut most) = (0, 0);
    loop {
        let (more, asked) = world.forget_some();
        most = most.max(asked);
        steps += 1;
        if !more {
            break;
        }
    }
    // Who is not there any more is asked about twice.
    assert!(steps > 10 && most <= 2 * (256 + 2 * 64), "{steps} steps of {most}");
    assert_eq!(world.outstanding.len(), 3900 - 1250 - 300);
    assert_eq!(waiting(&world), world.outstanding.len());
    // Without an order nothing is forgotten.
    assert_eq!(world.forget_some(), (false, 0));
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.server([192, 0, 2, 2]).otherwise = Server::default().otherwise;
    world.broken.clear();
    world.run_until_settled(120 * MINUTE);
    world.run(2 * MINUTE);
    let stats = world.engine.stats();
    assert_eq!(stats.delivered, 3900 - 1550);
    assert_eq!((stats.waiting, stats.parked, stats.destinations), (0, 0, 0));
}

#[test]
fn a_place_of_which_all_was_removed_is_forgotten_as_well() {
    let mut world = waiting_everywhere(DeliveryConfig { retry: retry(&[3600]), ..config() });
    let ids: Vec<_> = (0..900).map(|number| world.send(&[PLACES[number % 3]])).collect();
    world.run(MINUTE);
    world.purge(ids);
    while world.forget_some().0 {}
    assert_eq!(waiting(&world), 0);
    let connects = world.connects.len();
    world.run(20 * MINUTE);
    let stats = world.engine.stats();
    assert_eq!((stats.destinations, stats.sites), (0, 0));
    assert_eq!(world.connects.len(), connects, "nobody is called on for nothing");
}

#[test]
fn mail_that_moves_while_the_engine_forgets_is_found() {
    let brief = DeliveryConfig { retry: retry(&[20]), ..config() };
    let mut world = waiting_everywhere(brief.clone());
    let mut ids: Vec<_> = (0..6000).map(|number| world.send(&[PLACES[number % 3]])).collect();
    world.run(MINUTE);
    for round in 0..8 {
        world.purge(ids.iter().skip(round).step_by(9).copied());
        for step in 0..100 {
            world.forget_some();
            world.run(Duration::from_millis(300));
            ids.push(world.send(&[PLACES[step % 3]]));
            match (round, step) {
                (3, 2) | (5, 4) => {
                    let to = Smarthost { host: "192.0.2.1".into(), port: 25 };
                    let all = vec![Route::to(RoutePattern::Any, to)];
                    let routes = if round == 3 { all } else { Vec::new() };
                    world.reconfigure(DeliveryConfig { routes, ..brief.clone() });
                }
                (6, 3) => drop(world.broken.pop_first()),
                (_, 50) => world.cut(step),
                _ => {}
            }
        }
    }
    // What was out comes back within a round, and is found then.
    world.run(30 * SECOND);
    while world.forget_some().0 {}
    let stats = world.engine.stats();
    let kept = stats.waiting + stats.parked + stats.ready;
    let wanted = world.outstanding.len();
    assert!(kept <= wanted && kept + stats.connections.busy >= wanted, "{kept} of {wanted}");
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.server([192, 0, 2, 2]).otherwise = Server::default().otherwise;
    world.broken.clear();
    world.run_until_settled(120 * MINUTE);
    assert!(world.jobs.iter().all(|job| !job.recipients.is_empty()));
}
