//! Messages whose senders ask that they go on without TLS rather than not at all (RFC 8689 §3).

use ringpost_delivery::{DeliveryConfig, TlsLevel, TlsPolicy};
use ringpost_queue::MessageId;
use ringpost_session::client::{ClientTls, Stage};

use crate::scenarios::{MINUTE, SECOND};
use crate::tls::{policy, world};
use crate::world::{Connect, World};

/// Hands over a message whose sender asks that it goes on without TLS rather than not at all.
fn send_optional(world: &mut World, host: &str) -> MessageId {
    let mut message = world.message(&[host], 100 * MINUTE);
    message.tls_optional = true;
    world.hand_over(&message);
    message.id
}

/// RFC 8689 §3, as far as the operator lets senders decide.
#[test]
fn senders_waive_tls_where_the_operator_lets_them_and_nowhere_else() {
    for level in [TlsLevel::Encrypt, TlsLevel::Verify] {
        for waivable in [true, false] {
            let connect = Connect::FailTls(Stage::Handshake);
            let mut world = world(connect, TlsLevel::Off, None);
            let of_all = TlsPolicy { waivable, ..policy(level) };
            let config = DeliveryConfig { tls: of_all, ..(*world.config).clone() };
            world.reconfigure(config);
            // Both at once: they wait for one answer of the DNS.
            let (usual, optional) = (world.send(&["a.test"]), send_optional(&mut world, "a.test"));
            world.run(SECOND);
            assert_eq!(world.story(usual, 0), "deferred 4.7.5");
            // What is not let through waits beside the other.
            let expected = if waivable { "delivered 2.0.0" } else { "" };
            assert_eq!(world.story(optional, 0), expected, "{level:?}");
            let mut asked = world.tls_of_connects.clone();
            asked.sort_by_key(|tls| format!("{tls:?}"));
            let [off, some, all] = [ClientTls::Off, ClientTls::Opportunistic, ClientTls::Required];
            assert_eq!(asked, if waivable { vec![off, some, all] } else { vec![all; 2] });
        }
    }
}

#[test]
fn what_senders_may_waive_can_be_changed_while_their_mail_waits() {
    let mut world = world(Connect::WithoutTls, TlsLevel::Verify, None);
    let (usual, optional) = (world.send(&["a.test"]), send_optional(&mut world, "a.test"));
    world.run(SECOND);
    assert_eq!(
        (world.story(usual, 0).as_str(), world.story(optional, 0).as_str()),
        ("deferred 4.7.4", "")
    );
    let tls = TlsPolicy { waivable: true, ..policy(TlsLevel::Verify) };
    world.reconfigure(DeliveryConfig { tls, ..(*world.config).clone() });
    world.run(20 * MINUTE);
    assert!(world.story(optional, 0).ends_with("delivered 2.0.0"), "{}", world.story(optional, 0));
    assert!(!world.story(usual, 0).contains("delivered"), "{}", world.story(usual, 0));
}

#[test]
fn mail_that_waives_what_nobody_asks_for_shares_connections_with_other_mail() {
    let mut world = world(Connect::Ready, TlsLevel::Opportunistic, None);
    let usual = world.send(&["a.test"]);
    world.run(SECOND);
    let optional = send_optional(&mut world, "a.test");
    world.run(SECOND);
    for id in [usual, optional] {
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
    assert_eq!(world.tls_of_connects, [ClientTls::Opportunistic]);
}
