//! What rules on replies do to mail, connections, hosts and sites.

use std::sync::Arc;
use std::time::Duration;

use ringpost_delivery::rules::{
    BackOff, CodePattern, NamePattern, ReplyRule, ReplyRules, RuleAction, RuleFate,
};
use ringpost_delivery::{DeliveryConfig, SiteState};
use ringpost_session::client::Stage;

use crate::scenarios::{MINUTE, SECOND, retry};
use crate::world::{Connect, Server, Transaction, World, config};

fn rule(code: &str, action: RuleAction) -> ReplyRule {
    ReplyRule {
        name: "known".into(),
        stages: Vec::new(),
        codes: vec![CodePattern::parse(code).unwrap()],
        enhanced: Vec::new(),
        texts: Vec::new(),
        hosts: Vec::new(),
        domains: Vec::new(),
        action,
    }
}

fn fate(fate: RuleFate) -> RuleAction {
    RuleAction { fate: Some(fate), ..RuleAction::default() }
}

/// One host for `a.test`, and these rules, or none for the twin that shows what they are for.
fn world(rules: &[ReplyRule], server: Server) -> World {
    let rules = Arc::new(ReplyRules { rules: rules.to_vec() });
    let config = DeliveryConfig { rules, retry: retry(&[300]), ..config() };
    let mut world = World::new(config, 1);
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    world.add_mx("b.test", 10, "mx.test");
    world
}

fn replying(replies: &[(Stage, &'static str)]) -> Server {
    Server { script: vec![Transaction::Replies(replies.to_vec())], ..Server::default() }
}

#[test]
fn rules_change_what_becomes_of_recipients() {
    let table = [
        ("550", fate(RuleFate::Defer), "550 5.7.1 listed", "deferred 4.7.1", "bounced 5.7.1"),
        ("45x", fate(RuleFate::Bounce), "450 4.1.1 gone", "bounced 5.1.1", "deferred 4.1.1"),
        ("550", fate(RuleFate::Defer), "551 5.7.1 x", "bounced 5.7.1", "bounced 5.7.1"),
    ];
    for (code, action, reply, with, without) in table {
        for (rules, expected) in [(vec![rule(code, action.clone())], with), (vec![], without)] {
            let mut world = world(&rules, replying(&[(Stage::Rcpt, reply)]));
            let id = world.send(&["a.test"]);
            world.run(SECOND);
            assert_eq!(world.story(id, 0), expected, "{reply}");
        }
    }
}

#[test]
fn only_recipients_of_the_domain_are_ruled_on() {
    let only_b = ReplyRule {
        domains: vec![NamePattern::parse("b.test").unwrap()],
        ..rule("450", fate(RuleFate::Bounce))
    };
    let mut world = world(&[only_b], replying(&[(Stage::FinalReply, "450 4.2.0 no")]));
    let id = world.send(&["a.test", "b.test"]);
    world.run(SECOND);
    assert_eq!(
        (world.story(id, 0), world.story(id, 1)),
        ("deferred 4.2.0".into(), "bounced 5.2.0".into())
    );
    let rule_of = |index| {
        let (_, reason) = &world.history[&(id, ringpost_queue::RecipientIndex(index))][0];
        reason.rule.clone()
    };
    assert_eq!((rule_of(0), rule_of(1).as_deref()), (None, Some("known")));
    assert_eq!(world.engine.stats().rules.bounces, 1);
}

#[test]
fn recipients_are_tried_again_when_the_rule_says() {
    let action = RuleAction { retry_after: Some(20 * MINUTE), ..RuleAction::default() };
    for (rules, early) in [(vec![rule("451", action)], 0), (vec![], 1)] {
        let mut world = world(&rules, replying(&[(Stage::Rcpt, "451 4.7.1 greylisted")]));
        let id = world.send(&["a.test"]);
        world.run(17 * MINUTE);
        assert_eq!(world.story(id, 0).matches("delivered").count(), early);
        world.run(6 * MINUTE);
        assert_eq!(world.story(id, 0), "deferred 4.7.1, delivered 2.0.0");
    }
}

#[test]
fn the_end_of_a_session_costs_nobody_an_attempt() {
    let rules = [rule("450", fate(RuleFate::EndSession))];
    let enough = Transaction::Replies(vec![(Stage::Rcpt, "450 4.7.0 too many messages")]);
    let well = Transaction::Replies(vec![(Stage::FinalReply, "250 2.0.0 ok")]);
    for (rules, expected, connections) in
        [(&rules[..], "delivered 2.0.0", 2), (&[][..], "deferred 4.7.0", 1)]
    {
        let script = vec![well.clone(), enough.clone()];
        let mut world = world(rules, Server { script, ..Server::default() });
        world.send(&["a.test"]);
        world.run(SECOND);
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), expected);
        assert_eq!(world.connects.len(), connections);
    }
    // Who says it to a fresh session refuses: this is no loop.
    let never = Server { otherwise: enough, ..Server::default() };
    let mut world = world(&rules, never);
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "deferred 4.7.0");
    assert_eq!(world.transactions, 1);
}

#[test]
fn a_host_is_skipped_for_as_long_as_the_rule_says() {
    let action = RuleAction { skip_host: Some(30 * MINUTE), ..RuleAction::default() };
    for (rules, first) in [(vec![rule("450", action)], 1), (vec![], 2)] {
        let refused = Transaction::Replies(vec![(Stage::Mail, "450 4.7.0 not you")]);
        let mut world = world(&rules, Server { script: vec![refused], ..Server::default() });
        world.add_host("mx2.test", [192, 0, 2, 2], Server::default());
        world.add_mx("a.test", 20, "mx2.test");
        let id = world.send(&["a.test"]);
        world.run(10 * MINUTE);
        assert_eq!(world.story(id, 0), "deferred 4.7.0, delivered 2.0.0");
        let to_first = world.connects.iter().filter(|to| to.ip().to_string() == "192.0.2.1");
        assert_eq!(to_first.count(), first, "{:?}", world.connects);
    }
}

fn back_off(connections_max: usize, minutes: u32, deliveries: Option<u32>) -> RuleAction {
    let back_off = BackOff { connections_max, time: minutes * MINUTE, deliveries };
    RuleAction { back_off: Some(back_off), ..RuleAction::default() }
}

#[test]
fn a_site_is_spared_and_taken_up_slowly() {
    for (rules, spared) in [(vec![rule("421", back_off(1, 10, Some(60)))], true), (vec![], false)] {
        let slow = Server { latency: Duration::from_millis(200), ..Server::default() };
        let mut world = world(&rules, slow);
        for _ in 0..200 {
            world.send(&["a.test"]);
        }
        world.run(2 * SECOND);
        assert!(world.open_connections() > 4, "{}", world.open_connections());
        let refused = Transaction::Replies(vec![(Stage::FinalReply, "421 4.7.28 rate")]);
        world.server([192, 0, 2, 1]).script = vec![refused];
        world.run(2 * SECOND);
        for _ in 0..100 {
            world.send(&["a.test"]);
        }
        world.run(SECOND);
        assert_eq!(world.open_connections() <= 1, spared, "{}", world.open_connections());
        world.run_until_settled(15 * MINUTE);
        assert_eq!(world.engine.stats().rules.back_offs, u64::from(spared));
    }
}

#[test]
fn nothing_goes_to_a_site_that_is_to_have_none() {
    let mut world =
        world(&[rule("421", back_off(0, 10, None))], replying(&[(Stage::Mail, "421 4.7.0 stop")]));
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    let connects = world.connects.len();
    let later = world.send(&["a.test"]);
    world.run(9 * MINUTE);
    assert_eq!(world.connects.len(), connects, "nobody is bothered");
    assert_eq!((world.story(later, 0), world.open_connections()), (String::new(), 0));
    let view = world.engine.site_views().next().unwrap();
    assert!(matches!(view.state, SiteState::Throttled { .. }) && view.last_failure.is_some());
    world.run(5 * MINUTE);
    assert_eq!(world.story(id, 0), "deferred 4.7.0, delivered 2.0.0");
    assert_eq!(
        world.story(later, 0),
        "delivered 2.0.0",
        "it has waited, and no attempt is counted"
    );
}

#[test]
fn what_a_greeting_means_can_be_changed() {
    let defer = rule("554", fate(RuleFate::Defer));
    for (rules, expected) in [(vec![defer], "deferred 4.7.1"), (vec![], "bounced 5.7.1")] {
        let server = Server { connect: Connect::Greet("554 5.7.1 blocked"), ..Server::default() };
        let mut world = world(&rules, server);
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), expected);
    }
    // Another time for the site is another time for all its mail.
    let action = RuleAction { retry_after: Some(30 * MINUTE), ..RuleAction::default() };
    let server = Server { connect: Connect::Greet("450 4.7.1 later"), ..Server::default() };
    let mut world = world(&[rule("450", action)], server);
    world.send(&["a.test"]);
    world.run(20 * MINUTE);
    assert_eq!(world.connects.len(), 1);
}
