//! Urgent mail goes first, over the connections that there are.

use std::sync::Arc;
use std::time::Instant;

use ringpost_delivery::{Action, Engine, Next, Now, QueuedMessage, QueuedRecipient};
use ringpost_protocol::address::Host;
use ringpost_protocol::priority::Priority;
use ringpost_queue::{MessageId, RecipientIndex};

use crate::scenarios::to_smarthost;

fn message(now: Now, number: u64, level: i8) -> QueuedMessage {
    QueuedMessage {
        id: MessageId::from_u64(number),
        received_unix_ms: now.unix_ms,
        expiry_unix_ms: now.unix_ms + 1_000_000,
        priority: Priority::new(level).unwrap(),
        tls_optional: false,
        deliver_by: None,
        recipients: vec![QueuedRecipient {
            index: RecipientIndex(0),
            host: Host::parse("a.test").unwrap(),
            attempts: 0,
            due_unix_ms: None,
            warned: false,
        }],
    }
}

#[test]
fn urgent_mail_goes_before_what_waits_longer() {
    let now = Now { monotonic: Instant::now(), unix_ms: 1_000_000 };
    let mut engine = Engine::new(Arc::new(to_smarthost("192.0.2.1")), 1, now);
    for (level, number) in [0, -4, 0, 7, 2, 7].into_iter().zip(1..) {
        engine.handle_message(now, &message(now, number, level));
    }
    let connection = loop {
        if let Action::Connect { connection, .. } = engine.poll_action().unwrap() {
            break connection;
        }
    };
    engine.handle_ready(now, connection);
    let mut order = Vec::new();
    while let Next::Deliver(job) = engine.next_job(now, connection) {
        order.push(job.id.to_u64());
        if order.len() == 1 {
            // What is more urgent yet is the next one.
            engine.handle_message(now, &message(now, 7, 9));
        }
        assert!(engine.narrow_job(now, connection, |_| false).is_empty());
    }
    assert_eq!(order, [4, 7, 6, 5, 1, 3, 2]);
}
