//! SIGTERM and SIGHUP.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};
use rustix::process::Signal;

use crate::NONE;

/// The promise is an end within the shutdown timeout, 10 s; the rest is for a busy machine.
const END: Duration = Duration::from_secs(20);

#[test]
fn term_under_load_ends_with_status_0_and_repeats_nothing() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Content(_) => Answer::Delay(Duration::from_millis(20)),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    let load = Load::new(server.smtp(), "term", 8, None).start();
    for round in 1..=3 {
        let goal = load.acked() + 100;
        wait_until("load", SOON, || Ok(load.acked() >= goal))?;
        server.signal(Signal::TERM)?;
        let status = server.wait_exit(END)?;
        assert!(status.success(), "round {round}: {status}\n{}", server.log());
        server.start()?;
    }
    load.stop();
    let book = load.finish()?;
    server.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    peers::tell(&format!("term: {account}"));
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.repeated(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(account.invented(), NONE, "{account}");
    Ok(())
}

#[test]
fn term_says_421_and_ends_although_a_client_stays() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::relaying_to(sink.address())?;
    let mut idle = Client::connect(server.smtp())?;
    idle.expect("EHLO c.test", 250)?;
    server.signal(Signal::TERM)?;
    idle.expect_reply(421)?;
    assert!(idle.is_closed_by_peer());
    assert!(server.wait_exit(END)?.success());
    Ok(())
}

#[test]
fn interrupt_ends_it_as_well() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::relaying_to(sink.address())?;
    server.signal(Signal::INT)?;
    assert!(server.wait_exit(END)?.success());
    Ok(())
}

/// Sends probes until one of them arrives at `sink`.
fn wait_routed(server: &Server, sink: &Sink) -> Result<()> {
    let mut number = 0;
    wait_until("the new route", SOON, || {
        number += 1;
        let mut client = Client::connect(server.smtp())?;
        let content = message::build(&format!("probe-{number}"), 300);
        ensure!(client.message("<a@a.test>", &["<b@b.test>"], &content)?.code == 250);
        Ok(sink.accepted_count() > 0)
    })
}

#[test]
fn hup_takes_a_new_route() -> Result<()> {
    let (old, new) = (Sink::start()?, Sink::start()?);
    let mut server = Server::relaying_to(old.address())?;
    wait_routed(&server, &old)?;
    assert_eq!(new.connections(), 0);
    server.config.route("*", new.address());
    server.write_config()?;
    server.signal(Signal::HUP)?;
    wait_routed(&server, &new)?;
    server.wait_drained(SOON)
}

/// The reply to RCPT in a session of its own.
fn rcpt_code(server: &Server) -> Result<u16> {
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    Ok(client.command("RCPT TO:<b@b.test>")?.code)
}

#[test]
fn hup_takes_new_relay_networks_for_new_sessions() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::relaying_to(sink.address())?;
    let mut old = Client::connect(server.smtp())?;
    old.expect("EHLO c.test", 250)?;
    server.config.set("listener.main", "relay_networks", "[\"192.0.2.0/24\"]");
    server.write_config()?;
    server.signal(Signal::HUP)?;
    wait_until("the new networks", SOON, || Ok(rcpt_code(&server)? == 550))?;
    old.expect("MAIL FROM:<a@a.test>", 250)?;
    old.expect("RCPT TO:<b@b.test>", 250)?;
    Ok(())
}

#[test]
fn hup_with_a_broken_file_keeps_the_old_one_and_says_so() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::relaying_to(sink.address())?;
    let good = server.config.clone();
    server.config.append("\n[server.surprise]\nunheard_of = 1\n");
    server.config.set("listener.main", "relay_networks", "[\"192.0.2.0/24\"]");
    server.write_config()?;
    server.signal(Signal::HUP)?;
    wait_until("a complaint in the log", SOON, || {
        let log = server.log();
        Ok(log.contains("surprise") || log.contains("unheard_of"))
    })?;
    assert_eq!(rcpt_code(&server)?, 250, "nothing of the broken file is in force");
    // And it has not stopped listening to the signal.
    server.config = good;
    server.config.set("listener.main", "relay_networks", "[\"192.0.2.0/24\"]");
    server.write_config()?;
    server.signal(Signal::HUP)?;
    wait_until("the mended file", SOON, || Ok(rcpt_code(&server)? == 550))
}
