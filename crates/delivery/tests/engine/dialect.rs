//! What is spoken with next hops: who shares a connection, and who goes in a further transaction.

use ringpost_delivery::config::{DeliveryConfig, Route, RoutePattern, Smarthost};
use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::client::{ClientProtocol, Dialect, Stage};

use crate::scenarios::SECOND;
use crate::world::{Server, Transaction, World, config};

const LMTP: Dialect = Dialect { protocol: ClientProtocol::Lmtp, extensions: ExtensionSet::ALL };

fn without(off: Extension) -> Dialect {
    Dialect { extensions: ExtensionSet::ALL.without(off), ..Dialect::default() }
}

#[test]
fn mail_of_different_dialects_shares_no_connection() {
    let route = |domain: &str, dialect| {
        let to = Smarthost { host: "192.0.2.1".into(), port: 25 };
        Route { dialect, ..Route::to(RoutePattern::Exact(domain.into()), to) }
    };
    let routes = vec![
        route("a.test", None),
        route("b.test", Some(LMTP)),
        route("c.test", Some(without(Extension::Pipelining))),
        route("d.test", Some(without(Extension::Size))),
        route("e.test", Some(LMTP)),
    ];
    let mut world = World::new(DeliveryConfig { routes, ..config() }, 1);
    world.add_host("unused", [192, 0, 2, 1], Server::default());
    for domain in ["a.test", "b.test", "c.test", "d.test", "e.test", "a.test"] {
        let id = world.send(&[domain]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0", "{domain}");
    }
    let spoken =
        [Dialect::default(), LMTP, without(Extension::Pipelining), without(Extension::Size)];
    assert_eq!(world.dialects, spoken, "who speaks the same has used what was there");
}

#[test]
fn what_holds_for_all_holds_without_a_route_too() {
    let dialect = without(Extension::SmtpUtf8);
    let mut world = World::new(DeliveryConfig { dialect, ..config() }, 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    world.add_mx("a.test", 10, "mx.test");
    world.send(&["a.test"]);
    world.send(&["[192.0.2.1]"]);
    world.run(SECOND);
    assert_eq!(world.dialects, [dialect, dialect]);
}

/// RFC 9422: the rest goes in further transactions at once, even if nobody was taken in the first.
#[test]
fn those_over_the_limit_of_a_host_go_in_further_transactions() {
    let mut world = World::new(config(), 1);
    let refused = Transaction::Replies(vec![(Stage::Rcpt, "550 5.1.1 no")]);
    let server =
        Server { told_recipients_max: Some(2), script: vec![refused], ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    let id = world.send(&["a.test"; 5]);
    world.run(SECOND);
    let stories: Vec<_> = (0..5).map(|index| world.story(id, index)).collect();
    let (bounced, delivered) = ("bounced 5.1.1", "delivered 2.0.0");
    assert_eq!(stories, [bounced, bounced, delivered, delivered, delivered]);
    assert_eq!((world.transactions, world.connects.len()), (3, 1));
}
