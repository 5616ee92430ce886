//! Messages that are to be delivered by a time (RFC 2852).

use std::time::Duration;

use ringpost_delivery::{ConnectFailure, DeliveryConfig};
use ringpost_protocol::deliver_by::{ByMode, DeliverBy};
use ringpost_queue::{MessageId, RecipientIndex};

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, Transaction, World, config};

fn world(connect: Connect, text: &'static str) -> World {
    let config = DeliveryConfig { retry: retry(&[3600]), ..config() };
    let mut world = World::new(config, 1);
    let stage = ringpost_session::client::Stage::Rcpt;
    let otherwise = Transaction::Replies(vec![(stage, text)]);
    world.add_host("mx.test", [192, 0, 2, 1], Server { connect, otherwise, ..Server::default() });
    world.add_mx("a.test", 10, "mx.test");
    world
}

/// A host that puts everything off, one that cannot be reached.
fn worlds() -> [World; 2] {
    let down = Connect::Fail(ConnectFailure::Refused);
    [world(Connect::Ready, "450 4.2.0 later"), world(down, "")]
}

fn send(world: &mut World, mode: ByMode, after: Duration, is_told: bool) -> MessageId {
    let mut message = world.message(&["a.test"], 48 * 60 * MINUTE);
    let by_unix_ms = message.received_unix_ms + u64::try_from(after.as_millis()).unwrap();
    message.deliver_by = Some(DeliverBy { by_unix_ms, mode, trace: false, is_told });
    if mode == ByMode::Return {
        message.expiry_unix_ms = by_unix_ms;
    }
    world.hand_over(&message);
    message.id
}

#[test]
fn what_is_to_be_returned_is_at_its_time_and_not_tried_any_more() {
    for mut world in worlds() {
        let id = send(&mut world, ByMode::Return, 10 * MINUTE, false);
        let other = send(&mut world, ByMode::Return, 10 * MINUTE, false);
        world.run(599 * SECOND);
        assert!(!world.story(id, 0).contains("expired"), "{}", world.story(id, 0));
        let tried = world.transactions;
        world.run(3 * SECOND);
        for id in [id, other] {
            assert!(world.story(id, 0).contains("expired"), "{}", world.story(id, 0));
        }
        assert_eq!(world.transactions, tried);
    }
}

/// Other mail is tried once more, as it may be the clock that is wrong.
#[test]
fn what_is_found_after_its_time_is_not_tried() {
    for is_strict in [true, false] {
        let mut world = world(Connect::Ready, "250 2.0.0 ok");
        let mut message = world.message(&["a.test"], Duration::ZERO);
        message.expiry_unix_ms = message.received_unix_ms - 1;
        let by_unix_ms = message.expiry_unix_ms;
        let mode = ByMode::Return;
        let by = DeliverBy { by_unix_ms, mode, trace: false, is_told: false };
        message.deliver_by = is_strict.then_some(by);
        world.hand_over(&message);
        world.run(SECOND);
        assert_eq!(world.transactions, usize::from(!is_strict));
        if is_strict {
            assert_eq!(world.story(message.id, 0), "expired 4.4.7");
        }
    }
}

#[test]
fn the_originator_is_told_at_the_time_and_delivery_goes_on() {
    for (mut world, at_host) in worlds().into_iter().zip([true, false]) {
        let id = send(&mut world, ByMode::Notify, 10 * MINUTE, false);
        world.run(599 * SECOND);
        assert_eq!(world.warned.len(), 0);
        world.run(3 * SECOND);
        assert_eq!(world.warned, [(id, RecipientIndex(0))]);
        if at_host {
            assert_eq!(world.story(id, 0), "deferred 4.2.0, deferred 4.2.0", "tried at the time");
        }
        // And not again when others would be.
        world.run(24 * 60 * MINUTE);
        assert_eq!(world.warned.len(), 1);
        assert!(!world.story(id, 0).contains("expired"));
        assert_eq!(world.engine.stats().expired, 0);
    }
}

/// The twin: its time was over when it came, and another host has told. What took longer to come in than it had
/// looks the same but for that.
#[test]
fn only_what_was_told_is_not_told_again() {
    for is_told in [true, false] {
        for mut world in worlds() {
            send(&mut world, ByMode::Notify, Duration::ZERO, is_told);
            world.run(24 * 60 * MINUTE);
            assert_eq!(world.warned.len(), usize::from(!is_told));
        }
    }
}

#[test]
fn held_mail_is_told_of_when_it_is_let_go_late() {
    let mut world = world(Connect::Ready, "450 4.2.0 later");
    let mut message = world.message(&["a.test"], 48 * 60 * MINUTE);
    let by_unix_ms = message.received_unix_ms + 60_000;
    let mode = ByMode::Notify;
    message.deliver_by = Some(DeliverBy { by_unix_ms, mode, trace: false, is_told: false });
    message.recipients[0].due_unix_ms = Some(message.received_unix_ms + 600_000);
    world.hand_over(&message);
    world.run(599 * SECOND);
    assert_eq!(world.warned.len(), 0);
    world.run(3 * SECOND);
    assert_eq!(world.warned.len(), 1);
}
