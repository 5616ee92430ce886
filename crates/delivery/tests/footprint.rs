//! What a million messages cost the engine: memory and time of each, deferred and parked.
#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "it says what it has measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringpost_delivery::{
    Action, ConnectFailure, DeliveryConfig, Engine, Now, QueuedMessage, QueuedRecipient, Route,
    RoutePattern, Smarthost,
};
use ringpost_protocol::address::Host;
use ringpost_protocol::priority::Priority;
use ringpost_queue::{MessageId, RecipientIndex};

const MESSAGES: u64 = 1_000_000;

/// Octets in memory that belong to this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn message(id: u64, host: &Host, now: Now, due_unix_ms: Option<u64>) -> QueuedMessage {
    QueuedMessage {
        id: MessageId::from_u64(id),
        received_unix_ms: now.unix_ms,
        expiry_unix_ms: now.unix_ms + 432_000_000,
        priority: Priority::new(i8::try_from(id % 19).unwrap() - 9).unwrap(),
        tls_optional: id.is_multiple_of(100),
        deliver_by: None,
        recipients: vec![QueuedRecipient {
            index: RecipientIndex(0),
            host: host.clone(),
            attempts: 1,
            due_unix_ms,
            warned: false,
        }],
    }
}

fn engine(now: Now) -> Engine {
    let smarthost = Smarthost { host: "192.0.2.1".into(), port: 25 };
    let config = DeliveryConfig {
        routes: vec![Route::to(RoutePattern::Any, smarthost)],
        ..DeliveryConfig::default()
    };
    Engine::new(Arc::new(config), 1, now)
}

/// Gives the engine so many messages, and returns octets and nanoseconds for each.
fn fill(engine: &mut Engine, now: Now, due: impl Fn(u64) -> Option<u64>) -> (u64, u64) {
    let host = Host::parse("dead.test").unwrap();
    let (before, began) = (resident(), Instant::now());
    let mut slowest = Duration::ZERO;
    for id in 0..MESSAGES {
        let message = message(id, &host, now, due(id));
        let start = Instant::now();
        engine.handle_message(now, &message);
        slowest = slowest.max(start.elapsed());
        while engine.poll_action().is_some() {}
    }
    let took = began.elapsed().as_nanos() as u64 / MESSAGES;
    let octets = resident().saturating_sub(before) / MESSAGES;
    println!("{octets} octets, {took} ns each, slowest call {slowest:?}");
    (octets, took)
}

#[test]
fn a_waiting_message_is_small() {
    let now = Now { monotonic: Instant::now(), unix_ms: 1_700_000_000_000 };

    // Deferred: spread over four hours.
    let mut deferred = engine(now);
    let due = |id| Some(now.unix_ms + 1000 + id * 14_400_000 / MESSAGES);
    let (octets, _) = fill(&mut deferred, now, due);
    assert_eq!(deferred.stats().waiting as u64, MESSAGES);
    assert!(octets <= 60, "a deferred message takes {octets} octets");

    // Waiting at a site that is down.
    let mut parked = engine(now);
    let host = Host::parse("dead.test").unwrap();
    parked.handle_message(now, &message(MESSAGES, &host, now, None));
    while let Some(action) = parked.poll_action() {
        if let Action::Connect { connection, .. } = action {
            parked.handle_connect_failed(now, connection, ConnectFailure::Refused);
        }
    }
    let (octets, _) = fill(&mut parked, now, |_| None);
    assert_eq!(parked.stats().parked as u64, MESSAGES);
    assert!(octets <= 60, "a parked message takes {octets} octets");
    assert_eq!(deferred.stats().waiting as u64, MESSAGES);
}
