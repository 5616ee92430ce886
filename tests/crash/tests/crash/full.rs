//! A disk that fills up: refused before a body is read, taken again when there is room, nothing lost.

use std::fs;
use std::time::Instant;

use anyhow::{Result, ensure};
use ringpost_crash::bench::{Bench, take_nothing, take_slowly};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::Survival;
use ringpost_e2e::injector::{Client, Fate, Load, Sent};
use ringpost_e2e::peers;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{none, sound};

/// Size of the file system.
const SIZE: u64 = 64 << 20;
/// Connections that must all be refused, or all be served: more than chance sends to one shard.
const CONNECTIONS: usize = 12;

/// A server on a small disk that holds back all mail.
fn small(layer: Layer) -> Result<Bench> {
    let mut bench = Bench::new(layer, SIZE, 1)?;
    let config = &mut bench.server.config;
    // The disk is the limit, not the configuration.
    config.set("queue", "size_max", "\"1GiB\"").set("queue", "segment_size", "\"4MiB\"");
    config.set("queue", "shards", "2");
    take_nothing(&bench.sink);
    Ok(bench)
}

/// Sends until every shard refuses.
fn fill(bench: &Bench, run: &str) -> Result<Vec<Sent>> {
    let mut load = Load::new(bench.server.smtp(), run, 8, None);
    load.size = 64 << 10;
    let load = load.start();
    wait_until("a full disk", SOON, || all_answer(bench, 452))?;
    load.stop();
    let book = load.finish()?;
    let acked = book.iter().filter(|sent| sent.fate == Fate::Acked).count();
    ensure!(acked > 100, "{acked} messages of 64 KiB do not fill a disk of {SIZE} octets");
    for sent in &book {
        if let Fate::Refused(reply) = &sent.fate {
            ensure!(reply.code == 452 && reply.text.starts_with("4.3.1"), "{reply:?}");
        }
    }
    Ok(book)
}

/// Whether every connection gets this answer to MAIL, before any body.
fn all_answer(bench: &Bench, code: u16) -> Result<bool> {
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(bench.server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        let reply = client.command("MAIL FROM:<a@a.test>")?;
        ensure!(reply.code == 250 || reply.code == 452, "{reply:?}");
        if reply.code != code {
            return Ok(false);
        }
        if code == 452 {
            ensure!(reply.text.starts_with("4.3.1"), "{reply:?}");
        }
    }
    Ok(true)
}

/// Waits until mail is taken again, and tells how long that took.
fn wait_taken(bench: &Bench, name: &str, since: Instant) -> Result<()> {
    wait_until("mail to be taken again", SOON, || all_answer(bench, 250))?;
    let took = since.elapsed().as_secs_f64();
    peers::tell(&format!("{name}: all shards take mail again {took:.2} s after space was freed"));
    Ok(())
}

/// Lets everything go and expects all of it to arrive.
fn settle(bench: &mut Bench, name: &str, book: &[Sent]) -> Result<()> {
    take_slowly(&bench.sink);
    let account = bench.account(book)?;
    peers::tell(&format!("{name}: {account}"));
    sound(&account)?;
    none("sent again without need", &account.unexplained(&bench.outages), &account)
}

#[test]
fn space_freed_by_others_is_used() -> Result<()> {
    for (name, layer) in [("full-file", Layer::File), ("full-block", Layer::Block)] {
        if let Some(reason) = layer.missing() {
            peers::skip(reason)?;
            continue;
        }
        let mut bench = small(layer)?;
        let ballast = bench.disk.path().join("ballast");
        fs::write(&ballast, vec![1; 16 << 20])?;
        fs::File::open(&ballast)?.sync_all()?;
        bench.start()?;
        let mut book = fill(&bench, name)?;
        let freed = Instant::now();
        fs::remove_file(&ballast)?;
        wait_taken(&bench, name, freed)?;
        book.extend(Load::new(bench.server.smtp(), &format!("{name}-b"), 4, Some(40)).run()?);
        settle(&mut bench, name, &book)?;
    }
    Ok(())
}

#[test]
fn deliveries_free_a_full_disk() -> Result<()> {
    if let Some(reason) = Layer::File.missing() {
        return peers::skip(reason);
    }
    let mut bench = small(Layer::File)?;
    bench.start()?;
    let mut book = fill(&bench, "full-drain")?;
    let segments =
        || -> Result<u64> { Ok(bench.server.metrics()?.count("ringpost_queue_segments")) };
    let full = segments()?;
    take_slowly(&bench.sink);
    // Deliveries are retries, spread over seconds: space is free when the log needs less of it.
    wait_until("a free segment", SOON, || Ok(segments()? < full))?;
    wait_taken(&bench, "full-drain", Instant::now())?;
    book.extend(Load::new(bench.server.smtp(), "full-drain-b", 4, Some(40)).run()?);
    settle(&mut bench, "full-drain", &book)
}

#[test]
fn a_full_disk_survives_a_power_cut() -> Result<()> {
    if let Some(reason) = Layer::File.missing() {
        return peers::skip(reason);
    }
    let mut bench = small(Layer::File)?;
    bench.start()?;
    let book = fill(&bench, "full-cut")?;
    bench.cut(Survival::Nothing)?;
    bench.disk.power_up()?;
    take_slowly(&bench.sink);
    // It may say that it is full: it has to deliver all the same.
    bench.server.spawn(&[])?;
    wait_until("a greeting", SOON, || Ok(Client::connect(bench.server.smtp()).is_ok()))?;
    settle(&mut bench, "full-cut", &book)
}
