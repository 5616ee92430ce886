//! A shard whose log cannot be used is stopped alone, and says what to do.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::metrics;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::once_each;

/// A server of two shards with mail in both, stopped; and a sink that takes none yet.
pub(crate) fn two_shards(
    prefix: &str,
) -> Result<(Server, Sink, Vec<ringpost_e2e::injector::Sent>)> {
    let sink = Sink::deferring()?;
    let mut server = Server::with_shards(2, sink.address())?;
    server.start()?;
    // Many connections, so that both shards get some; many batches, so that frames follow frames.
    let mut book = Vec::new();
    for round in 0..8 {
        let load = Load::new(server.smtp(), &format!("{prefix}{round}"), 8, Some(40));
        book.extend(load.run()?);
    }
    wait_until("mail in both shards", SOON, || {
        let metrics = server.metrics()?;
        let held = metrics.each("ringpost_queue_messages");
        Ok(held.len() == 2 && held.values().all(|held| *held > 0.0))
    })?;
    server.terminate()?;
    Ok((server, sink, book))
}

/// The oldest segment of a shard.
fn segment(server: &Server, shard: u16) -> Result<PathBuf> {
    let directory = server.queue().join(format!("shard-{shard:03}"));
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory)? {
        names.push(entry?.path());
    }
    names.sort();
    names.into_iter().next().context("no segment")
}

/// Flips a bit in the first frame of a shard, behind which there are others.
pub(crate) fn damage(server: &Server, shard: u16) -> Result<PathBuf> {
    let path = segment(server, shard)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let place = 4096 + 100;
    let mut octet = [0];
    file.read_exact_at(&mut octet, place)?;
    file.write_all_at(&[octet[0] ^ 1], place)?;
    Ok(path)
}

#[test]
fn a_damaged_shard_is_stopped_alone_and_named() -> Result<()> {
    let (mut server, sink, book) = two_shards("damaged")?;
    let path = damage(&server, 1)?;
    let before = fs::read(&path)?;
    sink.accept_all();
    server.spawn(&[])?;
    wait_until("a damaged and an open shard", SOON, || {
        let Ok(metrics) = server.metrics() else { return Ok(false) };
        let state = |name: &str| metrics.count_where("ringpost_queue_state", name);
        Ok(state("core=\"1\",state=\"damaged\"") == 1 && state("core=\"0\",state=\"open\"") == 1)
    })
    .with_context(|| server.log())?;
    let (status, health) = metrics::fetch(server.control(), "/health")?;
    assert_eq!(status, 503);
    assert!(health.contains("shard 1 is damaged: segment 0000000000000001"), "{health}");
    let log = server.log();
    let error = log.lines().find(|line| line.contains("ERROR")).context("no error in the log")?;
    for part in [
        "shard=1",
        "segment 0000000000000001 is damaged at 4096",
        "a frame is damaged",
        "ringpost queue check --config",
        "ringpost queue repair --config",
        &server.config_path().display().to_string(),
    ] {
        assert!(error.contains(part), "{part:?} in: {error}");
    }
    // Whoever comes is served, by the other shard.
    for number in 0..40 {
        let mut client = Client::connect(server.smtp())?;
        let content = message::build(&format!("since-{number}"), 300);
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &content)?;
        ensure!(reply.code == 250, "{number}: {reply:?}");
    }
    // What is in the other shard is delivered; what is in this one waits, untouched.
    wait_until("the mail of the other shard", SOON, || {
        let metrics = server.metrics()?;
        Ok(metrics.count_where("ringpost_queue_messages", "core=\"0\"") == 0
            && sink.accepted_count() > 40)
    })?;
    assert_eq!(fs::read(&path)?, before, "left as it was");
    let account = Account::of(&book, &sink.accepted());
    assert!(!account.lost().is_empty(), "half of it waits: {account}");
    server.terminate()?;
    // With the bit as it was everything comes, and nothing twice.
    damage(&server, 1)?;
    server.start()?;
    server.wait_drained(SOON)?;
    let account = Account::of(&book, &sink.accepted());
    once_each(&account);
    Ok(())
}

#[test]
fn a_server_without_any_shard_ends_and_says_so() -> Result<()> {
    let (mut server, _sink, _) = two_shards("none-left")?;
    damage(&server, 0)?;
    damage(&server, 1)?;
    server.spawn(&[])?;
    let status = server.wait_exit(SOON)?;
    assert!(!status.success() && status.code().is_some(), "{status}");
    let log = server.log();
    assert!(log.contains("no shard has a log that can be opened"), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}
