//! A shard whose storage fails stops alone: its clients hear so, new ones are led to the others.

use anyhow::{Context, Result, ensure};
use ringpost_crash::bench::{Bench, DISK_SIZE};
use ringpost_crash::disk::Layer;
use ringpost_crash::faultfs::{Effect, Errno, Fault, Operation};
use ringpost_e2e::injector::Client;
use ringpost_e2e::wait::{SOON, wait_until};
use ringpost_e2e::{message, metrics, peers};

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
    bench
        .disk
        .faults
        .fault(Fault::every(Operation::Write, Effect::Fail(Errno::EIO)).at("shard-001"));
    // Those of the failed shard are told, in their open sessions, and the others are served.
    let mut refused = 0;
    for (number, client) in clients.iter_mut().enumerate() {
        match send(client, &format!("during-{number}"))? {
            250 => {}
            451 => refused += 1,
            code => anyhow::bail!("{number}: {code}"),
        }
    }
    ensure!((1..32).contains(&refused), "{refused} of 32 refused");
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
