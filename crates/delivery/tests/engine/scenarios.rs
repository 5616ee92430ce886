//! One story each.

use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::rr::rdata::{A, MX};
use hickory_proto::rr::{RData, RecordType};
use ringpost_delivery::config::{AddressPolicy, Route, RoutePattern, SessionRefusal, Smarthost};
use ringpost_delivery::{ConnectFailure, DeliveryConfig, RetryDelays, RetrySchedule, SiteState};
use ringpost_session::client::Stage;

use crate::world::{Connect, Server, Transaction, World, config, name};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);

pub(crate) fn to_smarthost(host: &str) -> DeliveryConfig {
    let smarthost = Smarthost { host: host.into(), port: 25 };
    DeliveryConfig { routes: vec![Route::to(RoutePattern::Any, smarthost)], ..config() }
}

pub(crate) fn retry(seconds: &[u64]) -> RetrySchedule {
    let delays = seconds.iter().copied().map(Duration::from_secs).collect();
    RetrySchedule { delays: RetryDelays::List(delays), jitter_percent: 0 }
}

#[test]
fn mail_goes_to_the_smarthost_over_kept_connections() {
    let mut world = World::new(to_smarthost("192.0.2.1"), 1);
    world.add_host("unused", [192, 0, 2, 1], Server::default());
    let mut ids = Vec::new();
    for n in 0..100 {
        ids.push(world.send(&[&format!("d{n}.test")]));
        world.run(Duration::from_millis(50));
    }
    world.run(SECOND);
    for id in ids {
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
    assert!(world.queries.is_empty(), "an address needs no DNS");
    assert_eq!(world.connects.len(), 1, "a trickle needs one connection");
    world.run(Duration::from_secs(20));
    assert_eq!(world.open_connections(), 0, "idle connections go");
}

#[test]
fn a_burst_gets_connections_up_to_the_limit() {
    let mut world = World::new(to_smarthost("192.0.2.1"), 1);
    world.add_host("unused", [192, 0, 2, 1], Server::default());
    for _ in 0..2000 {
        world.send(&["a.test"]);
    }
    world.run_until_settled(MINUTE);
    assert_eq!(world.connects.len(), 20);
    assert_eq!(world.transactions, 2000);
}

#[test]
fn a_host_that_lets_everybody_in_and_out_again_is_left_alone() {
    let config = DeliveryConfig { retry: retry(&[30]), ..to_smarthost("192.0.2.1") };
    let mut world = World::new(config, 1);
    let server = Server { connect: Connect::LetInAndOut, ..Server::default() };
    world.add_host("unused", [192, 0, 2, 1], server);
    let ids: Vec<_> = (0..50).map(|_| world.send(&["a.test"])).collect();
    world.run(10 * SECOND);
    assert!(world.connects.len() <= 6, "{} connections in 10 s", world.connects.len());
    assert!(world.story(ids[0], 0).starts_with("deferred"), "{}", world.story(ids[0], 0));
    assert_eq!(world.story(ids[49], 0), "", "it waits");
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.run_until_settled(2 * MINUTE);
    for id in ids {
        assert!(world.story(id, 0).ends_with("delivered 2.0.0"), "{}", world.story(id, 0));
    }
}

#[test]
fn connections_are_renewed_after_their_transactions() {
    let config =
        DeliveryConfig { transactions_per_connection_max: 10, ..to_smarthost("192.0.2.1") };
    let mut world = World::new(config, 1);
    world.add_host("unused", [192, 0, 2, 1], Server::default());
    for _ in 0..1000 {
        world.send(&["a.test"]);
    }
    world.run_until_settled(MINUTE);
    assert!((100..=120).contains(&world.connects.len()), "{}", world.connects.len());
}

#[test]
fn domains_with_the_same_mx_set_share_a_site() {
    let mut world = World::new(config(), 1);
    for site in 0..20_u8 {
        world.add_host(&format!("mx{site}.test"), [192, 0, 2, site], Server::default());
    }
    let domains: Vec<String> = (0..200).map(|n| format!("d{n}.test")).collect();
    for (n, domain) in domains.iter().enumerate() {
        world.add_mx(domain, 10, &format!("mx{}.test", n % 20));
    }
    for _ in 0..5 {
        for domain in &domains {
            world.send(&[domain]);
        }
    }
    world.run_until_settled(MINUTE);
    assert_eq!(world.engine.stats().sites, 20);
    assert!(world.queries.values().all(|count| *count == 1), "{:?}", world.queries);
    assert_eq!(world.queries.len(), 200 + 2 * 20);
    assert!(world.connects.len() <= 20 * 20);
    // Without recipients and connections nothing is remembered.
    world.run(5 * MINUTE);
    let stats = world.engine.stats();
    assert_eq!((stats.sites, stats.destinations, world.engine.poll_timeout()), (0, 0, None));
}

#[test]
fn recipients_of_one_message_at_one_site_share_transactions() {
    let mut world = World::new(config(), 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    for domain in ["a.test", "b.test", "c.test"] {
        world.add_mx(domain, 10, "mx.test");
    }
    // Make the ways known, so that the recipients arrive together.
    world.send(&["a.test", "b.test", "c.test"]);
    world.run_until_settled(MINUTE);
    let before = world.jobs.len();
    let hosts: Vec<&str> = (0..250).map(|n| ["a.test", "b.test", "c.test"][n % 3]).collect();
    world.send(&hosts);
    world.run_until_settled(MINUTE);
    let sizes: Vec<usize> = world.jobs[before..].iter().map(|job| job.recipients.len()).collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn a_site_that_is_down_defers_and_delays_nobody_else() {
    let mut world = World::new(DeliveryConfig { retry: retry(&[60]), ..config() }, 1);
    let down = Server { connect: Connect::Hang, ..Server::default() };
    world.add_host("mx1.test", [192, 0, 2, 1], down);
    world.add_host("mx2.test", [192, 0, 2, 2], Server::default());
    world.add_mx("down.test", 10, "mx1.test");
    world.add_mx("up.test", 10, "mx2.test");
    let waiting: Vec<_> = (0..50).map(|_| world.send(&["down.test"])).collect();
    let through = world.send(&["up.test"]);
    world.run(SECOND);
    assert_eq!(world.story(through, 0), "delivered 2.0.0");
    world.run(35 * SECOND);
    assert_eq!(world.story(waiting[0], 0), "deferred 4.4.1");
    assert_eq!(world.connects.len(), 1 + 2 + 1, "few slots for a site that does not answer");
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.run_until_settled(3 * MINUTE);
    assert_eq!(world.story(waiting[0], 0), "deferred 4.4.1, delivered 2.0.0");
    for id in waiting.into_iter().skip(2) {
        assert_eq!(world.story(id, 0), "delivered 2.0.0", "it waited, and was not tried in vain");
    }
}

#[test]
fn a_throttled_site_is_probed_by_one_connection_and_holds_new_mail() {
    let mut world = World::new(DeliveryConfig { retry: retry(&[600]), ..config() }, 1);
    let down = Server { connect: Connect::Fail(ConnectFailure::Refused), ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], down);
    world.add_mx("a.test", 10, "mx.test");
    world.send(&["a.test"]);
    world.run(SECOND);
    let view = world.engine.site_views().next().unwrap();
    assert!(matches!(view.state, SiteState::Throttled { .. }), "{view:?}");
    let before = world.connects.len();
    let late: Vec<_> = (0..30).map(|_| world.send(&["a.test"])).collect();
    world.run(2 * SECOND);
    assert_eq!(world.connects.len(), before, "nothing is opened while throttled");
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.run(10 * SECOND);
    for id in late {
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
}

#[test]
fn a_probe_that_fails_waits_longer_each_time() {
    let mut world = World::new(config(), 1);
    let down = Server { connect: Connect::Fail(ConnectFailure::Refused), ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], down);
    world.add_mx("a.test", 10, "mx.test");
    for _ in 0..3600 {
        world.send(&["a.test"]);
        world.run(SECOND);
    }
    // 5, 10, 20, … 300 s: some twenty probes in an hour, not thousands.
    assert!((10..30).contains(&world.connects.len()), "{}", world.connects.len());
}

#[test]
fn what_the_dns_says_about_a_domain() {
    let rows: &[(&str, &str)] = &[
        ("missing.test", "bounced 5.1.2"),
        ("null.test", "bounced 5.1.10"),
        ("us.test", "bounced 5.4.6"),
        ("mail.us.test", "bounced 5.4.6"),
        ("ip-text.test", "bounced 5.4.4"),
        ("no-address.test", "bounced 5.4.4"),
        ("mx-no-address.test", "bounced 5.4.4"),
        ("loopback.test", "bounced 5.4.4"),
        ("[127.0.0.1]", "bounced 5.4.4"),
        ("broken.test", "deferred 4.4.3"),
        ("mx-broken.test", "deferred 4.4.3"),
        ("silent.test", "deferred 4.4.3"),
        ("implicit.test", "delivered 2.0.0"),
        ("[192.0.2.1]", "delivered 2.0.0"),
        ("plain.test", "delivered 2.0.0"),
    ];
    let mut world = World::new(DeliveryConfig { hostname: "mail.us.test".into(), ..config() }, 1);
    world.add_host("implicit.test", [192, 0, 2, 1], Server::default());
    world.add_host("local.test", [127, 0, 0, 1], Server::default());
    world.add_mx("null.test", 0, ".");
    world.add_mx("us.test", 10, "mail.us.test");
    world.add_mx("us.test", 20, "implicit.test");
    world.zone.insert(("mail.us.test".into(), RecordType::A), vec![RData::A(A::new(9, 9, 9, 9))]);
    world.add_mx("ip-text.test", 10, "192.0.2.1");
    world.zone.insert(("no-address.test".into(), RecordType::TXT), Vec::new());
    world.add_mx("mx-no-address.test", 10, "no-address.test");
    world.add_mx("mx-no-address.test", 20, "missing.test");
    world.add_mx("loopback.test", 10, "local.test");
    world.add_mx("mx-broken.test", 10, "no-address.test");
    world.add_mx("mx-broken.test", 20, "broken.test");
    world.add_mx("plain.test", 10, "implicit.test");
    world.broken.insert("broken.test".into());
    for (domain, expected) in rows {
        let id = world.send(&[domain]);
        world.run(30 * SECOND);
        assert_eq!(world.story(id, 0), *expected, "{domain}");
    }
}

#[test]
fn loopback_is_connected_to_when_allowed_or_configured() {
    let policy = AddressPolicy { allow_loopback: true, allow_private: true };
    let mut world = World::new(DeliveryConfig { address_policy: policy, ..config() }, 1);
    world.add_host("local.test", [127, 0, 0, 1], Server::default());
    world.add_mx("a.test", 10, "local.test");
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");

    let mut world = World::new(to_smarthost("localhost"), 1);
    world.add_host("unused", [127, 0, 0, 1], Server::default());
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
    assert!(world.queries.is_empty());
}

#[test]
fn a_smarthost_without_address_never_bounces() {
    let mut world = World::new(to_smarthost("typo.test"), 1);
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "deferred 4.4.4");
}

#[test]
fn the_next_host_is_tried_within_the_attempt() {
    let rows = [
        Connect::Fail(ConnectFailure::Refused),
        Connect::Hang,
        Connect::Greet("554 5.7.1 no"),
        Connect::Greet("421 4.3.2 not now"),
    ];
    for connect in rows {
        let mut world = World::new(config(), 1);
        let label = format!("{connect:?}");
        world.add_host("mx1.test", [192, 0, 2, 1], Server { connect, ..Server::default() });
        world.add_host("mx2.test", [192, 0, 2, 2], Server::default());
        world.add_mx("a.test", 10, "mx1.test");
        world.add_mx("a.test", 20, "mx2.test");
        let id = world.send(&["a.test"]);
        world.run(40 * SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0", "{label}");
        assert_eq!(world.connects.len(), 2, "{label}");
    }
}

#[test]
fn hosts_are_tried_by_preference_and_equals_share_the_load() {
    let mut world = World::new(config(), 1);
    for n in 1..=3 {
        let server = Server { transactions_max: 1, ..Server::default() };
        world.add_host(&format!("mx{n}.test"), [192, 0, 2, n], server);
    }
    world.add_mx("a.test", 5, "mx2.test");
    world.add_mx("a.test", 5, "mx1.test");
    world.add_mx("a.test", 7, "mx3.test");
    for _ in 0..100 {
        world.send(&["a.test"]);
        world.run(11 * SECOND);
    }
    let count_to =
        |ip: [u8; 4]| world.connects.iter().filter(|to| to.ip() == IpAddr::from(ip)).count();
    assert_eq!(count_to([192, 0, 2, 3]), 0);
    assert!((30..=70).contains(&count_to([192, 0, 2, 1])), "{:?}", world.connects);
}

#[test]
fn all_hosts_refusing_the_session_for_good_bounces_by_switch() {
    let rows = [
        ("554 5.7.1 no", "554 no", SessionRefusal::Bounce, "bounced 5.0.0"),
        ("554 5.7.1 no", "554 5.7.1 no", SessionRefusal::Defer, "deferred 4.7.1"),
        ("554 5.7.1 no", "421 4.3.2 later", SessionRefusal::Bounce, "deferred 4.3.2"),
        ("421 4.3.2 later", "554 5.7.1 no", SessionRefusal::Bounce, "deferred 4.7.1"),
    ];
    for (first, second, session_refusal, expected) in rows {
        let mut world = World::new(DeliveryConfig { session_refusal, ..config() }, 1);
        for (n, text) in [(1, first), (2, second)] {
            let server = Server { connect: Connect::Greet(text), ..Server::default() };
            world.add_host(&format!("mx{n}.test"), [192, 0, 2, n], server);
            world.add_mx("a.test", u16::from(n), &format!("mx{n}.test"));
        }
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), expected, "{first} {second} {session_refusal:?}");
    }
}

#[test]
fn lack_of_our_own_resources_blames_nobody() {
    let mut world = World::new(config(), 1);
    let failing =
        Server { connect: Connect::Fail(ConnectFailure::LocalResource), ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], failing);
    world.add_mx("a.test", 10, "mx.test");
    let id = world.send(&["a.test"]);
    world.run(MINUTE);
    assert_eq!(world.story(id, 0), "", "it waits");
    assert!(world.connects.len() < 20, "{} attempts", world.connects.len());
    world.server([192, 0, 2, 1]).connect = Connect::Ready;
    world.run(10 * SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
}

#[test]
fn a_remote_limit_on_connections_is_found_and_kept_to() {
    let mut world = World::new(config(), 1);
    let server = Server { connections_max: 3, ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    let ids: Vec<_> = (0..1000).map(|_| world.send(&["a.test"])).collect();
    world.run_until_settled(2 * MINUTE);
    for id in ids {
        assert_eq!(world.story(id, 0), "delivered 2.0.0");
    }
    let refused = world.connects.len() - 3;
    assert!(refused < 100, "{refused} refused connections for 1000 messages");
}

#[test]
fn a_kept_connection_that_died_costs_no_attempt() {
    let rows = [
        ("dead", Transaction::Dead),
        ("421 to MAIL", Transaction::Part("421 4.7.0 enough")),
        ("only its end is told", Transaction::CloseOnly(Stage::Idle)),
    ];
    for (label, behaviour) in rows {
        let mut world = World::new(config(), 1);
        world.add_host("mx.test", [192, 0, 2, 1], Server::default());
        world.add_mx("a.test", 10, "mx.test");
        world.send(&["a.test"]);
        world.run(5 * SECOND);
        world.server([192, 0, 2, 1]).script = vec![behaviour];
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), "delivered 2.0.0", "{label}");
        assert_eq!(world.engine.stats().jobs_returned, 1, "{label}");
    }
}

#[test]
fn an_idle_connection_that_dies_as_it_is_woken_is_replaced() {
    let mut world = World::new(config(), 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    world.add_mx("a.test", 10, "mx.test");
    world.send(&["a.test"]);
    world.run(5 * SECOND);
    let id = world.send(&["a.test"]);
    assert_eq!(world.engine.stats().connections.woken, 1);
    world.cut(0);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
    assert_eq!(world.connects.len(), 2);
}

#[test]
fn a_fresh_connection_that_dies_is_an_attempt() {
    let rows = [
        (Transaction::Dead, "deferred 4.4.2"),
        (Transaction::Part("421 4.7.0 go away"), "deferred 4.7.0"),
        (Transaction::Break(Stage::Content), "deferred 4.4.2"),
        (Transaction::CloseOnly(Stage::Rcpt), "deferred 4.4.2"),
        (Transaction::Unreadable, "deferred 4.3.0"),
    ];
    for (behaviour, expected) in rows {
        let mut world = World::new(config(), 1);
        let label = format!("{behaviour:?}");
        let server = Server { script: vec![behaviour], ..Server::default() };
        world.add_host("mx.test", [192, 0, 2, 1], server);
        world.add_mx("a.test", 10, "mx.test");
        let id = world.send(&["a.test"]);
        world.run(SECOND);
        assert_eq!(world.story(id, 0), expected, "{label}");
    }
}

#[test]
fn a_job_goes_back_a_limited_number_of_times() {
    let rows = [(Transaction::Abort, "deferred 4.3.2"), (Transaction::Drop, "deferred 4.3.0")];
    for (otherwise, expected) in rows {
        let mut world = World::new(config(), 1);
        world.add_host("mx.test", [192, 0, 2, 1], Server { otherwise, ..Server::default() });
        world.add_mx("a.test", 10, "mx.test");
        let id = world.send(&["a.test"]);
        world.run(MINUTE);
        assert_eq!(world.story(id, 0), expected);
        assert_eq!(world.transactions, 3);
    }
}

#[test]
fn a_connection_lost_after_the_dot_leaves_the_outcome_unknown() {
    let mut world = World::new(config(), 1);
    let server =
        Server { script: vec![Transaction::Break(Stage::FinalReply)], ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "deferred 4.4.2");
    assert_eq!(world.engine.stats().outcome_unknown, 1);
    world.run_until_settled(10 * MINUTE);
    assert_eq!(world.story(id, 0), "deferred 4.4.2, delivered 2.0.0");
}

#[test]
fn recipients_have_their_own_outcomes() {
    let mut world = World::new(config(), 1);
    let replies = vec![
        (Stage::FinalReply, "250 ok"),
        (Stage::Rcpt, "550 5.1.1 nobody"),
        (Stage::Rcpt, "450 4.2.0 greylisted"),
    ];
    let server = Server { script: vec![Transaction::Replies(replies)], ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    let id = world.send(&["a.test", "a.test", "a.test"]);
    world.run_until_settled(10 * MINUTE);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
    assert_eq!(world.story(id, 1), "bounced 5.1.1");
    assert_eq!(world.story(id, 2), "deferred 4.2.0, delivered 2.0.0");
    assert_eq!(world.transactions, 2);
}

#[test]
fn recipients_over_the_remotes_limit_follow_at_once() {
    let mut world = World::new(config(), 1);
    let server = Server { recipients_max: 10, ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], server);
    world.add_mx("a.test", 10, "mx.test");
    let id = world.send(&["a.test"; 35]);
    world.run(SECOND);
    for index in 0..35 {
        assert_eq!(world.story(id, index), "delivered 2.0.0");
    }
    assert_eq!(world.transactions, 4);
}

#[test]
fn messages_expire_when_they_would_be_deferred_past_their_time() {
    let mut world = World::new(DeliveryConfig { retry: retry(&[100]), ..config() }, 1);
    let down = Server { connect: Connect::Fail(ConnectFailure::Refused), ..Server::default() };
    world.add_host("mx.test", [192, 0, 2, 1], down);
    world.add_mx("a.test", 10, "mx.test");
    let id = world.send_expiring(&["a.test"], 150 * SECOND);
    world.run_until_settled(10 * MINUTE);
    assert_eq!(world.story(id, 0), "deferred 4.4.1, deferred 4.4.1, expired 4.4.1");
}

#[test]
fn a_new_route_takes_waiting_mail_along() {
    let mut world = World::new(to_smarthost("192.0.2.1"), 1);
    let down = Server { connect: Connect::Hang, ..Server::default() };
    world.add_host("one", [192, 0, 2, 1], down);
    world.add_host("two", [192, 0, 2, 2], Server::default());
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    world.reconfigure(to_smarthost("192.0.2.2"));
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
    world.run(MINUTE);
    assert_eq!(world.open_connections(), 0);
}

#[test]
fn recovered_recipients_keep_their_due_time_and_attempts() {
    use ringpost_delivery::{QueuedMessage, QueuedRecipient};
    use ringpost_protocol::address::Host;
    use ringpost_protocol::priority::Priority;
    use ringpost_queue::{MessageId, RecipientIndex};
    let mut world = World::new(config(), 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    world.add_mx("a.test", 10, "mx.test");
    let id = MessageId::from_u64(99);
    let now = world.now;
    let recipient = QueuedRecipient {
        index: RecipientIndex(4),
        host: Host::parse("a.test").unwrap(),
        attempts: 6,
        due_unix_ms: Some(now.unix_ms + 60_000),
        warned: false,
    };
    world.hand_over(&QueuedMessage {
        id,
        received_unix_ms: now.unix_ms,
        expiry_unix_ms: now.unix_ms + 1_000_000,
        priority: Priority::NORMAL,
        tls_optional: false,
        deliver_by: None,
        recipients: vec![recipient],
    });
    assert_eq!(world.engine.stats().waiting, 1);
    world.run(59 * SECOND);
    assert_eq!(world.story(id, 4), "");
    world.run(2 * SECOND);
    assert_eq!(world.story(id, 4), "delivered 2.0.0", "settled with 7 attempts");
}

#[test]
fn a_slow_name_server_of_a_lesser_host_delays_nothing() {
    let mut world = World::new(config(), 1);
    world.add_host("mx.test", [192, 0, 2, 1], Server::default());
    world.add_mx("a.test", 10, "mx.test");
    let lesser = RData::MX(MX::new(20, name("silent.test")));
    world.zone.get_mut(&("a.test".into(), RecordType::MX)).unwrap().push(lesser);
    let id = world.send(&["a.test"]);
    world.run(SECOND);
    assert_eq!(world.story(id, 0), "delivered 2.0.0");
}

#[test]
fn the_same_seed_makes_the_same_decisions() {
    let story = |seed| {
        let mut world = World::new(config(), seed);
        for n in 1..=4 {
            world.add_host(&format!("mx{n}.test"), [192, 0, 2, n], Server::default());
            world.add_mx("a.test", 10, &format!("mx{n}.test"));
        }
        for _ in 0..20 {
            world.send(&["a.test"]);
        }
        world.run(SECOND);
        world.connects.clone()
    };
    assert_eq!(story(5), story(5));
    assert!((0..20).any(|seed| story(seed) != story(5)), "and another seed others");
}
