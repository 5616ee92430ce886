//! A shard whose storage fails stops alone: its clients hear so, new ones are led to the others.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringpost_crash::bench::{Bench, DISK_SIZE, take_slowly};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::{Effect, Errno, Fault, Operation};
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::wait::{SOON, wait_until};
use ringpost_e2e::{message, metrics, peers};

use crate::scale;

/// Sends a message on an open connection; the code of the last reply.
fn send(client: &mut Client, id: &str) -> Result<u16> {
    Ok(client.message("<a@a.test>", &["<b@b.test>"], &message::build(id, 300))?.code)
}

#[test]
fn a_failed_write_stops_one_shard_and_leads_clients_to_the_other() -> Result<()> {
    if let Some(reason) = Layer::File.missing() {
        return peers::skip(reason);
    }
    let mut bench = Bench::new(Layer::File, DISK_SIZE, 1)?;
    bench.server.config.set("queue", "shards", "2");
    bench.start()?;
    let mut clients = Vec::new();
    for number in 0..32 {
        let mut client = Client::connect(bench.server.smtp())?;
        ensure!(send(&mut client, &format!("before-{number}"))? == 250);
        clients.push(client);
    }
    // The write that fails is to be that of a message, and not of an outcome.
    bench.server.wait_drained(SOON)?;
    bench
        .disk
        .faults
        .fault(Fault::every(Operation::Write, Effect::Fail(Errno::EIO)).at("shard-001"));
    // Those of the failed shard are told, in their open sessions, and the others are served: the first
    // one in the middle of its message, the others between two of theirs.
    let (mut refused, mut sent_away) = (0, 0);
    for (number, client) in clients.iter_mut().enumerate() {
        match send(client, &format!("during-{number}"))? {
            250 => {}
            451 => refused += 1,
            421 => sent_away += 1,
            code => anyhow::bail!("{number}: {code}"),
        }
        if refused == 1 && sent_away == 0 {
            // The others are told at once.
            wait_until("a shard without clients", SOON, || {
                let metrics = bench.server.metrics()?;
                Ok(metrics.count_where("ringpost_sessions_open", "core=\"1\"") == 0)
            })?;
        }
    }
    ensure!(refused == 1 && sent_away > 0, "{refused} refused, {sent_away} sent away");
    let closed = "core=\"1\",reason=\"storage\"";
    let ended = bench.server.metrics()?.count_where("ringpost_sessions_closed_total", closed);
    ensure!(ended == refused + sent_away, "{ended} sessions ended for want of storage");
    wait_until("a poisoned and an open shard", SOON, || {
        let metrics = bench.server.metrics()?;
        let state = |name: &str| metrics.count_where("ringpost_queue_state", name);
        Ok(state("core=\"1\",state=\"poisoned\"") == 1 && state("core=\"0\",state=\"open\"") == 1)
    })?;
    let (status, health) = metrics::fetch(bench.server.control(), "/health")?;
    ensure!(
        status == 503 && health.contains("shard 1 is poisoned: cannot write to the log"),
        "{health}"
    );
    let log = bench.server.log();
    log.lines().find(|line| line.contains("until a restart")).context("nothing in the log")?;
    // Whoever comes now is served, whatever port it comes from.
    for number in 0..64 {
        let mut client = Client::connect(bench.server.smtp())?;
        let code = send(&mut client, &format!("after-{number}"))?;
        ensure!(code == 250, "{number}: {code}");
    }
    // The last shard stays, and says why.
    bench
        .disk
        .faults
        .fault(Fault::every(Operation::Write, Effect::Fail(Errno::EIO)).at("shard-000"));
    wait_until("a last shard that refuses", SOON, || {
        let mut client = Client::connect(bench.server.smtp())?;
        Ok(send(&mut client, "late")? == 451)
    })?;
    let mut client = Client::connect(bench.server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    let reply = client.expect("MAIL FROM:<a@a.test>", 451)?;
    ensure!(reply.text.starts_with("4.3.0"), "{reply:?}");
    Ok(())
}

/// What the other shard took in a second before the failure and after it, and what all took before.
struct Rates {
    other_before: f64,
    all_before: f64,
    other_after: f64,
}

/// How long each rate is measured.
const WINDOW: Duration = Duration::from_secs(2);

fn rates(per_second: Option<u32>) -> Result<Rates> {
    let mut bench = Bench::new(Layer::File, DISK_SIZE, 1)?;
    bench.server.config.set("queue", "shards", "2");
    bench.start()?;
    take_slowly(&bench.sink);
    let mut load = Load::new(bench.server.smtp(), "rate", 8, None);
    load.per_second = per_second;
    // Connections that are kept for long do not come to the other shard by themselves.
    load.kept = 1_000;
    let load = load.start();
    let taken = || -> Result<[f64; 2]> {
        let metrics = bench.server.metrics()?;
        let of = |core: &str| metrics.count_where("ringpost_messages_received_total", core) as f64;
        Ok([of("core=\"0\""), of("core=\"1\"")])
    };
    let window = || -> Result<[f64; 2]> {
        let (before, began) = (taken()?, Instant::now());
        thread::sleep(WINDOW);
        let (after, took) = (taken()?, began.elapsed().as_secs_f64());
        Ok([0, 1].map(|core: usize| (after[core] - before[core]) / took))
    };
    wait_until("mail on both shards", SOON, || Ok(taken()?.iter().all(|count| *count > 20.0)))?;
    let before = window()?;
    let sync = Fault::every(Operation::Sync, Effect::Fail(Errno::EIO)).at("shard-000");
    bench.disk.faults.fault(sync);
    wait_until("a failed shard", SOON, || {
        Ok(bench.server.metrics()?.count("ringpost_commit_failures_total") > 0)
    })?;
    let after = window()?;
    load.stop();
    load.finish()?;
    ensure!(after[0] == 0.0 && after[1] > 0.0, "{after:?}");
    Ok(Rates { other_before: before[1], all_before: before[0] + before[1], other_after: after[1] })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn the_rate_of_the_other_shard() -> Result<()> {
    // Figures to look at: how fast a machine is decides nothing.
    if let Some(reason) = Layer::File.missing() {
        return peers::skip(reason);
    }
    let windows = scale("RINGPOST_WINDOWS", 1);
    for (load, per_second) in [("300 messages a second", Some(300)), ("all there is", None)] {
        let all: Vec<_> = (0..windows).map(|_| rates(per_second)).collect::<Result<_>>()?;
        let of = |rate: fn(&Rates) -> f64| median(all.iter().map(rate).collect());
        peers::tell(&format!(
            "the other shard, load: {load}, {windows} times: {:.0} acknowledged a second before a failed \
             sync (both shards {:.0}), {:.0} after: {:.2} of its own before, {:.2} of both",
            of(|it| it.other_before),
            of(|it| it.all_before),
            of(|it| it.other_after),
            of(|it| it.other_after / it.other_before),
            of(|it| it.other_after / it.all_before),
        ));
    }
    Ok(())
}
