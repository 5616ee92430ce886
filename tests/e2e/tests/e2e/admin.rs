//! `ringpost queue` asks the running server, and says so when there is none.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

/// Runs `ringpost queue`; whether it succeeded, and what it said.
fn queue(server: &Server, arguments: &[&str]) -> Result<(bool, String)> {
    let output = server.queue_command(arguments)?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[test]
fn the_status_of_the_queue_is_shown() -> Result<()> {
    let sink = Sink::deferring()?;
    let mut server = Server::with_shards(2, sink.address())?;
    server.write_config()?;
    let (success, text) = queue(&server, &["status"])?;
    assert!(!success && text.contains("no server answers"), "{text}");
    server.start()?;
    Load::new(server.smtp(), "held", 4, Some(30)).run()?;
    let (success, text) = queue(&server, &["status"])?;
    ensure!(success, "{text}");
    let sum = text.lines().find(|line| line.trim_start().starts_with("all")).context("no sum")?;
    let numbers: Vec<_> = sum.split_whitespace().skip(1).take(2).collect();
    assert_eq!(numbers, ["30", "30"], "{text}");
    let open = text.lines().filter(|line| line.contains(" open ")).count();
    assert_eq!(open, 2, "{text}");
    let (success, json) = queue(&server, &["status", "--json"])?;
    ensure!(success && json.starts_with("{\"shards\":["), "{json}");
    let mode = std::fs::metadata(server.queue().join("control.sock"))?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "for its owner alone");
    // A kill leaves the socket behind, in nobody's way.
    server.kill()?;
    let (success, text) = queue(&server, &["status"])?;
    assert!(!success && text.contains("no server answers"), "{text}");
    server.start()?;
    let (success, text) = queue(&server, &["status"])?;
    ensure!(success, "{text}");
    Ok(())
}

#[test]
fn purged_mail_is_gone_and_stays_gone() -> Result<()> {
    let sink = Sink::deferring()?;
    let mut server = Server::with_shards(2, sink.address())?;
    server.start()?;
    for number in 0..20 {
        let mut client = Client::connect(server.smtp())?;
        let paths = ["<a@gone.test>", "<b@kept.test>", "<c@gone.test>"];
        let content = message::build(&format!("both-{number}"), 300);
        ensure!(client.message("<s@s.test>", &paths, &content)?.code == 250);
        let content = message::build(&format!("gone-{number}"), 300);
        ensure!(client.message("<s@s.test>", &["<d@GONE.test>"], &content)?.code == 250);
    }
    // Nothing is removed by mistake.
    for wrong in [&["purge"][..], &["purge", "--domain", "not a domain"]] {
        let (success, text) = queue(&server, wrong)?;
        assert!(!success, "{text}");
    }
    let (success, text) = queue(&server, &["purge", "--older-than", "1d"])?;
    ensure!(success && text.contains("removed 0 recipient(s), and 0 message(s)"), "{text}");
    let (success, text) = queue(&server, &["purge", "--domain", "gone.test"])?;
    ensure!(success && text.contains("removed 60 recipient(s), and 20 message(s)"), "{text}");
    // At once, and for good: the process is killed before it could do any more about it.
    server.kill()?;
    server.start()?;
    sink.accept_all();
    server.wait_drained(SOON)?;
    let mut arrived: Vec<_> =
        sink.accepted().into_iter().flat_map(|message| message.forward_paths).collect();
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived, ["<b@kept.test>"]);
    assert_eq!(sink.accepted_count(), 20);
    Ok(())
}

#[test]
fn what_the_engine_knows_of_is_not_sent_after_a_purge() -> Result<()> {
    // The sink takes no connection until the purge is done: fresh mail waits with its content.
    let (sink, is_open) = Sink::gated()?;
    let server = Server::relaying_to(sink.address())?;
    for number in 0..50 {
        let mut client = Client::connect(server.smtp())?;
        let paths = ["<a@gone.test>", "<b@kept.test>"];
        let content = message::build(&format!("live-{number}"), 300);
        ensure!(client.message("<s@s.test>", &paths, &content)?.code == 250);
    }
    let (success, text) = queue(&server, &["purge", "--domain", "gone.test"])?;
    ensure!(success && text.contains("removed 50 recipient(s), and 0 message(s)"), "{text}");
    is_open.store(true, Ordering::Relaxed);
    server.wait_drained(SOON)?;
    let accepted = sink.accepted();
    assert_eq!(accepted.len(), 50);
    assert!(accepted.iter().all(|message| message.forward_paths == ["<b@kept.test>"]));
    let metrics = server.metrics()?;
    assert_eq!(metrics.count("ringpost_recipients_purged_total"), 50);
    assert_eq!(metrics.count("ringpost_recipients_waiting"), 0);
    let user = rustix::process::geteuid().as_raw();
    let purged: Vec<_> =
        server.events()?.into_iter().filter(|event| event.kind == "purged").collect();
    let removed: u64 = purged.iter().filter_map(|event| event.fields["recipients"].as_u64()).sum();
    assert_eq!(removed, 50);
    assert!(purged.iter().all(|event| event.fields["user"] == user), "{purged:?}");
    assert!(purged.iter().all(|event| event.fields["host"] == "gone.test"), "{purged:?}");
    // New mail for the same domain is no business of the purge.
    let mut client = Client::connect(server.smtp())?;
    let content = message::build("later", 300);
    ensure!(client.message("<s@s.test>", &["<a@gone.test>"], &content)?.code == 250);
    wait_until("new mail", SOON, || Ok(sink.accepted_count() == 51))?;
    let (success, text) = queue(&server, &["purge", "--all"])?;
    ensure!(success, "{text}");
    Ok(())
}

#[test]
fn purged_mail_that_is_parked_leaves_the_memory_while_other_mail_flows() -> Result<()> {
    const PARKED: u64 = 20_000;
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("down.test", ports::reserve()?).route("*", sink.address());
    server.config.set("queue", "shards", "2");
    server.start()?;
    let mut dead = Load::new(server.smtp(), "dead", 16, Some(PARKED));
    dead.domains = vec!["down.test".to_owned()];
    dead.size = 200;
    dead.run()?;
    // One message pays for each round in vain, and waits for its own time.
    let held = || -> Result<(u64, u64)> {
        let metrics = server.metrics()?;
        let waiting = metrics.count("ringpost_recipients_waiting");
        Ok((metrics.count("ringpost_recipients_parked"), waiting))
    };
    wait_until("parked mail", SOON, || {
        let (parked, waiting) = held()?;
        Ok(parked + waiting == PARKED && parked > PARKED - 100)
    })?;
    let live = Load::new(server.smtp(), "live", 4, None).start();
    let before = sink.accepted_count();
    let (success, text) = queue(&server, &["purge", "--domain", "down.test"])?;
    ensure!(success && text.contains(&format!("removed {PARKED} recipient(s)")), "{text}");
    wait_until("their memory", SOON, || Ok(held()? == (0, 0)))?;
    wait_until("live mail", SOON, || Ok(sink.accepted_count() > before + 20))?;
    live.stop();
    let sent = live.finish()?;
    server.wait_drained(SOON)?;
    assert!(sink.accepted_count() >= sent.len(), "live mail is none of the purge's business");
    Ok(())
}
