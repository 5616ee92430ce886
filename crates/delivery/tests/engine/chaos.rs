//! Random hosts, mail and events: nothing leaks, nobody is forgotten.

use std::time::Duration;

use proptest::prelude::*;
use ringpost_delivery::{ConnectFailure, DeliveryConfig, RetryDelays, RetrySchedule};
use ringpost_session::client::Stage;

use crate::world::{Connect, Server, Transaction, World, config};

fn connect() -> impl Strategy<Value = Connect> {
    prop_oneof![
        4 => Just(Connect::Ready),
        1 => Just(Connect::Hang),
        1 => Just(Connect::Fail(ConnectFailure::Refused)),
        1 => Just(Connect::Fail(ConnectFailure::LocalResource)),
        1 => Just(Connect::Greet("421 4.3.2 not now")),
        1 => Just(Connect::Greet("554 5.3.2 never")),
    ]
}

fn transaction() -> impl Strategy<Value = Transaction> {
    let stage = prop_oneof![
        Just(Stage::Idle),
        Just(Stage::Mail),
        Just(Stage::Rcpt),
        Just(Stage::Data),
        Just(Stage::Content),
        Just(Stage::FinalReply),
    ];
    let replies = proptest::collection::vec(
        prop_oneof![
            Just((Stage::FinalReply, "250 2.0.0 ok")),
            Just((Stage::Rcpt, "450 4.2.0 later")),
            Just((Stage::Rcpt, "452 4.5.3 too many")),
            Just((Stage::Rcpt, "550 5.1.1 nobody")),
            Just((Stage::Mail, "451 4.3.0 later")),
        ],
        1..4,
    );
    prop_oneof![
        4 => replies.prop_map(Transaction::Replies),
        1 => Just(Transaction::Dead),
        1 => Just(Transaction::Abort),
        1 => Just(Transaction::Drop),
        1 => Just(Transaction::Unreadable),
        1 => Just(Transaction::Part("421 4.3.2 bye")),
        1 => stage.clone().prop_map(Transaction::Break),
        1 => stage.prop_map(Transaction::CloseOnly),
    ]
}

fn server() -> impl Strategy<Value = Server> {
    (
        connect(),
        proptest::collection::vec(transaction(), 0..12),
        1..6_usize,
        1..8_usize,
        1..10_usize,
        1..900_u64,
    )
        .prop_map(|(connect, script, connections, recipients, transactions, latency)| Server {
            connect,
            script,
            connections_max: connections,
            recipients_max: recipients,
            transactions_max: transactions,
            latency: Duration::from_millis(latency),
            ..Server::default()
        })
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    Run(u16),
    Change(u8, Connect),
    Break(u8),
    Cut(usize),
    Reconfigure,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(0..10_u8, 1..12).prop_map(Step::Send),
        4 => (0..3000_u16).prop_map(Step::Run),
        1 => (1..6_u8, connect()).prop_map(|(n, connect)| Step::Change(n, connect)),
        1 => (0..10_u8).prop_map(Step::Break),
        2 => (0..20_usize).prop_map(Step::Cut),
        1 => Just(Step::Reconfigure),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// The world checks after each event that slots are the driver's connections, that limits
    /// hold, and that each recipient is in one transaction and settled once for each attempt.
    /// In the end all are settled and nothing is open.
    #[test]
    fn every_recipient_is_settled_and_no_slot_leaks(
        seed: u64,
        servers in proptest::collection::vec(server(), 5),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let config = DeliveryConfig {
            connections_per_site_max: 4,
            transactions_per_connection_max: 7,
            recipients_per_transaction_max: 5,
            retry: RetrySchedule {
                delays: RetryDelays::List(vec![Duration::from_secs(2), Duration::from_secs(30)]),
                jitter_percent: 10,
            },
            backoff_max: Duration::from_secs(40),
            ..config()
        };
        let mut world = World::new(config.clone(), seed);
        for (n, server) in (1..).zip(servers) {
            world.add_host(&format!("mx{n}.test"), [192, 0, 2, n], server);
        }
        // Ten domains: each has two hosts; some share a set; the last has none.
        for n in 0..9_u8 {
            world.add_mx(&format!("d{n}.test"), 10, &format!("mx{}.test", n % 5 + 1));
            world.add_mx(&format!("d{n}.test"), 20, &format!("mx{}.test", (n + 1) % 5 + 1));
        }
        for step in steps {
            match step {
                Step::Send(domains) => {
                    let hosts: Vec<String> =
                        domains.iter().map(|n| format!("d{n}.test")).collect();
                    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
                    world.send_expiring(&hosts, Duration::from_mins(10));
                }
                Step::Run(ms) => world.run(Duration::from_millis(ms.into())),
                Step::Change(n, connect) => world.server([192, 0, 2, n]).connect = connect,
                Step::Break(n) => {
                    let name = format!("d{n}.test");
                    if !world.broken.remove(&name) {
                        world.broken.insert(name);
                    }
                }
                Step::Cut(place) => world.cut(place),
                Step::Reconfigure => world.reconfigure(config.clone()),
            }
        }
        // In the end we can connect again; whatever else is wrong, mail expires.
        for server in world.servers.values_mut() {
            if matches!(server.connect, Connect::Fail(ConnectFailure::LocalResource)) {
                server.connect = Connect::Ready;
            }
        }
        world.run_until_settled(Duration::from_mins(50));
        world.run(Duration::from_mins(5));
        let stats = world.engine.stats();
        prop_assert_eq!(world.open_connections(), 0);
        prop_assert_eq!((stats.ready, stats.waiting), (0, 0));
        prop_assert_eq!((stats.destinations, stats.sites), (0, 0));
    }
}
