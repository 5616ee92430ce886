//! Each limit holds, says so to the peer, and is counted.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Fate, Load};
use ringpost_e2e::message;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

fn limited(sink: &Sink, key: &str, value: &str) -> Result<Server> {
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("listener.main", key, value);
    server.start()?;
    Ok(server)
}

fn wait_counted(server: &Server, name: &str, label: &str) -> Result<()> {
    wait_until(&format!("{name} with {label}"), SOON, || {
        Ok(server.metrics()?.count_where(name, label) > 0)
    })
}

#[test]
fn recipients_beyond_the_limit_are_put_off() -> Result<()> {
    let sink = Sink::start()?;
    let server = limited(&sink, "recipients_max", "3")?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    for number in 0..3 {
        client.expect(&format!("RCPT TO:<r{number}@b.test>"), 250)?;
    }
    let reply = client.expect("RCPT TO:<r3@b.test>", 452)?;
    assert!(reply.text.starts_with("4.5.3"), "{reply:?}");
    wait_counted(&server, "ringpost_limit_hits_total", "limit=\"recipients_max\"")?;
    // The message goes to those who had been accepted.
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&message::build("three", 300)))?;
    client.expect_reply(250)?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    assert_eq!(sink.accepted()[0].forward_paths.len(), 3);
    Ok(())
}

#[test]
fn a_client_that_only_errs_is_shown_the_door() -> Result<()> {
    let sink = Sink::start()?;
    // Key, what is said again and again, and how often it is suffered at most.
    for (key, line) in [("errors_max", "RCPT TO:<b@b.test>"), ("junk_commands_max", "NOOP")] {
        let server = limited(&sink, key, "5")?;
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        let mut suffered = 0;
        let last = loop {
            let reply = client.command(line)?;
            if reply.code == 421 {
                break reply;
            }
            suffered += 1;
            ensure!(suffered <= 6, "{key}: {suffered} times {line}");
        };
        assert!(last.text.starts_with("4.7.0"), "{last:?}");
        assert!(client.is_closed_by_peer(), "{key}");
        assert!(suffered >= 4, "{key}: only {suffered}");
        wait_counted(&server, "ringpost_sessions_closed_total", "reason=\"limit\"")?;
        wait_counted(&server, "ringpost_limit_hits_total", &format!("limit=\"{key}\""))?;
    }
    Ok(())
}

#[test]
fn a_client_that_says_nothing_is_not_waited_for() -> Result<()> {
    let sink = Sink::start()?;
    let server = limited(&sink, "command_timeout", "\"3s\"")?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    let reply = client.expect_reply(421)?;
    assert!(reply.text.starts_with("4.4.2"), "{reply:?}");
    assert!(client.is_closed_by_peer());
    wait_counted(&server, "ringpost_sessions_closed_total", "reason=\"timeout\"")
}

#[test]
fn connections_beyond_the_limit_are_told_to_come_later() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server.config.set("server", "cores", "1");
    server.config.set("listener.main", "connections_per_core_max", "5");
    server.config.set("listener.main", "connections_per_client_per_core_max", "5");
    server.start()?;
    // Those of the start have to be gone first.
    let mut open = Vec::new();
    wait_until("five connections", SOON, || {
        while open.len() < 5 {
            let client = Client::connect(server.smtp())?;
            if client.greeting.code != 220 {
                return Ok(false);
            }
            open.push(client);
        }
        Ok(true)
    })?;
    let mut refused = Client::connect(server.smtp())?;
    assert_eq!(refused.greeting.code, 421, "{:?}", refused.greeting);
    assert!(refused.is_closed_by_peer());
    drop(open.pop());
    wait_until("a free place", SOON, || Ok(Client::connect(server.smtp())?.greeting.code == 220))?;
    wait_counted(&server, "ringpost_limit_hits_total", "limit=\"connections_per_core_max\"")
}

/// Each limit that comes before the greeting has a text of its own, and 127.0.0.1 is a stranger here.
#[test]
fn clients_that_may_not_relay_have_limits_of_their_own() -> Result<()> {
    let sink = Sink::start()?;
    for (key, value, text) in [
        (
            "connections_per_client_per_core_max",
            2,
            "4.7.0 Too many connections from your address, try again later",
        ),
        (
            "new_connections_per_client_per_core_max",
            4,
            "4.7.0 Too many new connections from your address in a minute, try again later",
        ),
    ] {
        for may_relay in [false, true] {
            let mut server = Server::prepare()?;
            let networks = if may_relay { "[\"127.0.0.0/8\"]" } else { "[\"192.0.2.0/24\"]" };
            server.config.route("*", sink.address()).set("server", "cores", "1");
            server.config.set("listener.main", key, &value.to_string());
            server.config.set("listener.main", "relay_networks", networks);
            server.start()?;
            let open =
                (0..10).map(|_| Client::connect(server.smtp())).collect::<Result<Vec<_>>>()?;
            let refused: Vec<_> =
                open.iter().filter(|client| client.greeting.code == 421).collect();
            if may_relay {
                ensure!(refused.is_empty(), "{key}: {:?}", refused[0].greeting);
                continue;
            }
            let most = 10 - value;
            // One connection of the start may be among those that count.
            ensure!(most <= refused.len() && refused.len() <= most + 1, "{key}: {}", refused.len());
            for client in refused {
                ensure!(client.greeting.text == text, "{:?}", client.greeting);
            }
            wait_counted(&server, "ringpost_limit_hits_total", &format!("limit=\"{key}\""))?;
        }
    }
    Ok(())
}

#[test]
fn a_session_ends_when_it_has_lasted_too_long() -> Result<()> {
    let sink = Sink::start()?;
    let server = limited(&sink, "session_time_max", "\"6s\"")?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("DATA", 354)?;
    client.send(b"x\r\n")?;
    // Its time is over when the rest comes; which is taken all the same.
    std::thread::sleep(Duration::from_millis(6200));
    client.send(b".\r\n")?;
    client.expect_reply(250)?;
    let reply = client.expect_reply(421)?;
    ensure!(reply.text == "4.7.0 This session has lasted too long, closing", "{reply:?}");
    ensure!(client.is_closed_by_peer(), "the connection is still open");
    wait_counted(&server, "ringpost_limit_hits_total", "limit=\"session_time_max\"")?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))
}

#[test]
fn headers_have_limits_of_their_own() -> Result<()> {
    let sink = Sink::start()?;
    let hops = "Received: by x.test\r\n".repeat(3);
    for (key, value, header, reply) in [
        (
            "header_fields_max",
            "2",
            "a: b\r\n".repeat(4),
            "552 5.3.4 Header section too large at line",
        ),
        (
            "header_size_max",
            "\"20B\"",
            "a: b\r\n".repeat(4),
            "552 5.3.4 Header section too large at line",
        ),
        ("received_fields_max", "2", hops, "554 5.4.6 Too many hops, this message is looping"),
    ] {
        let server = limited(&sink, key, value)?;
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        for (header, reply) in [(&*header, reply), ("a: b\r\n", "250 2.0.0 Ok")] {
            client.expect("MAIL FROM:<a@a.test>", 250)?;
            client.expect("RCPT TO:<b@b.test>", 250)?;
            client.expect("DATA", 354)?;
            client.send(format!("{header}\r\nbody\r\n.\r\n").as_bytes())?;
            let said = client.reply()?;
            let said = format!("{} {}", said.code, said.text);
            ensure!(said.starts_with(reply), "{key}: {said}");
        }
        let label = if key.starts_with("header") { "header" } else { key };
        wait_counted(&server, "ringpost_limit_hits_total", &format!("limit=\"{label}\""))?;
    }
    Ok(())
}

#[test]
fn clients_cannot_take_the_descriptors_of_deliveries_and_log() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    // Half of them are for clients, on all cores together.
    server.spawn(&["prlimit", "--nofile=400:400"])?;
    server.wait_healthy()?;
    let (mut served, mut refused) = (Vec::new(), 0);
    for _ in 0..300 {
        let client = Client::connect(server.smtp())?;
        match client.greeting.code {
            220 => served.push(client),
            421 => refused += 1,
            code => anyhow::bail!("greeted with {code}"),
        }
    }
    assert!(refused >= 100, "{refused} of 300 refused");
    wait_counted(&server, "ringpost_limit_hits_total", "limit=\"descriptors\"")?;
    // Those who are in are served to the end.
    let client = served.first_mut().context("nobody was served")?;
    client.expect("EHLO c.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&message::build("in-time", 300)))?;
    client.expect_reply(250)?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    Ok(())
}

#[test]
fn a_full_queue_refuses_before_the_content_and_recovers_by_itself() -> Result<()> {
    let sink = Sink::deferring()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("server", "cores", "1");
    server.config.set("listener.main", "message_size_max", "\"1MiB\"");
    server.config.set("listener.main", "recipients_max", "100");
    server.config.set("queue", "segment_size", "\"1MiB\"").set("queue", "size_max", "\"8MiB\"");
    server.start()?;
    // Twice as much as fits.
    let mut load = Load::new(server.smtp(), "full", 2, Some(160));
    load.size = 100_000;
    load.kept = 1_000;
    let mut book = load.run()?;
    let refused: Vec<_> = book
        .iter()
        .filter_map(|sent| match &sent.fate {
            Fate::Refused(reply) => Some(reply.clone()),
            _ => None,
        })
        .collect();
    let last = refused.last().context("8 MiB have taken 16")?;
    assert_eq!(last.code, 452, "{last:?}");
    assert!(last.text.starts_with("4.3.1"), "{last:?}");
    assert!(refused.len() < 150, "almost nothing fits: {} refused", refused.len());
    wait_until("the state in the metrics", SOON, || {
        Ok(server.metrics()?.count_where("ringpost_queue_state", "state=\"full\"") == 1)
    })?;
    // Outcomes still fit, and make room.
    sink.accept_all();
    server.wait_drained(Duration::from_mins(2))?;
    let mut load = Load::new(server.smtp(), "after", 2, Some(20));
    load.size = 100_000;
    let after = load.run()?;
    assert!(after.iter().all(|sent| sent.fate == Fate::Acked), "{after:?}");
    book.extend(after);
    server.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.repeated(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    Ok(())
}
