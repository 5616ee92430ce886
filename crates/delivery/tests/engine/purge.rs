//! Recipients that leave the queue while the engine knows of them.

use std::sync::Arc;
use std::time::Instant;

use ringpost_delivery::{Action, Engine, Next, Now, QueuedMessage, QueuedRecipient};
use ringpost_protocol::address::Host;
use ringpost_queue::{MessageId, RecipientIndex, ShardId};

use crate::scenarios::to_smarthost;

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
