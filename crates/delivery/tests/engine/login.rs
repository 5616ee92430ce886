//! Credentials of routes: who logs in, with whose name mail goes, and what a refusal comes to.

use ringpost_delivery::config::{DeliveryConfig, Route, RoutePattern, SessionRefusal, Smarthost};
use ringpost_delivery::{LoginProfile, SiteState, TlsLevel, TlsPolicy};
use ringpost_session::client::ClientTls;

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, World, config};

fn route(domain: &str, login: Option<u64>) -> Route {
    let to = Smarthost { host: "192.0.2.1".into(), port: 25 };
    let pattern = RoutePattern::Exact(domain.into());
    Route { login: login.map(LoginProfile), ..Route::to(pattern, to) }
}

/// One smarthost for all.
fn world(connect: Connect, refusal: SessionRefusal) -> World {
    let routes = vec![
        route("a.test", Some(1)),
        route("b.test", Some(2)),
        route("c.test", None),
        route("aa.test", Some(1)),
    ];
    let config =
        DeliveryConfig { routes, retry: retry(&[300]), session_refusal: refusal, ..config() };
    let mut world = World::new(config, 1);
    let server = Server { connect, ..Server::default() };
    world.add_host("unused", [192, 0, 2, 1], server);
    world
}

#[test]
fn mail_of_different_credentials_shares_no_connection() {
    let mut world = world(Connect::Ready, SessionRefusal::Bounce);
    for (domain, login) in
        [("a.test", Some(1)), ("b.test", Some(2)), ("c.test", None), ("a.test", None)]
    {
        let id = world.send(&[domain]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
        if domain == "a.test" && login.is_none() {
            break;
        }
        assert_eq!(world.logins.last().copied().unwrap(), login.map(LoginProfile), "{domain}");
    }
    // Each has made its own, and who has the same has used what was there.
    let id = world.send(&["aa.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
    assert_eq!(world.logins.len(), 3, "{:?}", world.logins);
}

/// Whatever the code: mail cannot help it, and goes when the operator has seen to it.
#[test]
fn a_refusal_of_the_credentials_bounces_nothing() {
    for (text, expected) in [
        ("535 5.7.8 no", "deferred 4.7.8"),
        ("554 5.7.1 go away", "deferred 4.7.1"),
        ("504 5.5.4 what", "deferred 4.5.4"),
        ("454 4.7.0 not now", "deferred 4.7.0"),
    ] {
        let mut world = world(Connect::RefuseLogin(text), SessionRefusal::Bounce);
        let ids = [world.send(&["a.test"]), world.send(&["a.test"])];
        world.run(20 * MINUTE);
        let story = world.story(ids[0], 0);
        assert!(story.starts_with(expected), "{text}: {story}");
        assert!(!story.contains("bounced") && !world.story(ids[1], 0).contains("bounced"));
        assert_eq!(world.transactions, 0);
        assert!(world.logins.len() > 1, "it is tried again");
        let view = world.engine.site_views().find(|view| view.name.starts_with("192.0.2.1"));
        assert_ne!(view.unwrap().state, SiteState::Ready);
        let reasons = world.changes.iter().filter(|change| change.reason.is_some()).count();
        assert_eq!(reasons, 1, "it is told once, not at each attempt");
        world.server([192, 0, 2, 1]).connect = Connect::Ready;
        world.run(20 * MINUTE);
        for id in ids {
            assert!(world.story(id, 0).ends_with("delivered 2.0.0"), "{}", world.story(id, 0));
        }
    }
    // The twin: the same words in the greeting are a refusal of the mail.
    let mut world = world(Connect::Greet("554 5.7.1 go away"), SessionRefusal::Bounce);
    let id = world.send(&["a.test"]);
    world.run(20 * MINUTE);
    assert_eq!(world.story(id, 0), "bounced 5.7.1");
}

/// A sender may waive TLS for its mail, and not for our password.
#[test]
fn no_sender_waives_tls_where_somebody_logs_in() {
    for (login, expected) in [(Some(1), ClientTls::Required), (None, ClientTls::Opportunistic)] {
        let waivable =
            TlsPolicy { level: TlsLevel::Verify, waivable: true, ..TlsPolicy::default() };
        let of_a = Route { tls: Some(waivable), ..route("a.test", login) };
        let config = DeliveryConfig { routes: vec![of_a], ..config() };
        let mut world = World::new(config, 1);
        world.add_host("unused", [192, 0, 2, 1], Server::default());
        let mut message = world.message(&["a.test"], 20 * MINUTE);
        message.tls_optional = true;
        world.hand_over(&message);
        world.run(SECOND);
        assert_eq!(world.tls_of_connects, [expected]);
    }
}

/// A new password is a new site, which owes nothing to the failures of the old one.
#[test]
fn new_credentials_are_tried_at_once() {
    let mut world = world(Connect::RefuseLogin("535 no"), SessionRefusal::Bounce);
    let first = world.send(&["a.test"]);
    world.run(SECOND);
    assert!(world.story(first, 0).starts_with("deferred 4.7.8"));
    let parked = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(parked, 0), "");
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    let mut routes = world.config.routes.clone();
    routes[0].login = Some(LoginProfile(3));
    let config = DeliveryConfig { routes, ..(*world.config).clone() };
    world.reconfigure(config);
    world.run(SECOND);
    assert_eq!(world.story(parked, 0), "delivered 2.0.0", "it waits for no time");
    assert_eq!(world.logins.last(), Some(&Some(LoginProfile(3))));
    assert_eq!(format!("{:?}", LoginProfile(3)), "LoginProfile", "its number is not shown");
}
