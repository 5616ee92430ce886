//! Out of memory, out of descriptors: mail that was acknowledged is still delivered.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::{Account, Outage};
use ringpost_e2e::cgroup::MemoryGroup;
use ringpost_e2e::events;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

/// What the server may take beyond what it had at its start: less than its cache of contents.
const MEMORY_LEFT: u64 = 24 << 20;

#[test]
fn nothing_acknowledged_is_lost_when_the_kernel_takes_the_memory_back() -> Result<()> {
    if let Some(reason) = MemoryGroup::missing() {
        return peers::skip(reason);
    }
    // Slower than mail comes in, so that it piles up.
    let slow = |step: &Step<'_>| match step {
        Step::Content(_) => Answer::Delay(Duration::from_millis(300)),
        _ => Answer::Accept,
    };
    let sink = Sink::scripted(slow)?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("delivery", "connections_per_site_max", "3");
    let mut load = Load::new(server.smtp(), "oom", 8, None);
    load.size = 60_000;
    let mut load = Some(load);
    let mut running = None;
    let mut outages = Vec::new();
    for round in 0..3 {
        let group = MemoryGroup::create()?;
        let prefix = group.prefix();
        server.spawn(&prefix.each_ref().map(String::as_str))?;
        server.wait_healthy()?;
        group.limit(group.usage()? + MEMORY_LEFT)?;
        if let Some(load) = load.take() {
            running = Some(load.start());
        }
        let status = server.wait_exit(SOON).with_context(|| format!("round {round}"))?;
        assert_eq!(status.signal(), Some(9), "not by the kernel: {status}\n{}", server.log());
        assert_eq!(group.kills()?, 1);
        wait_until("the last octets at the sink", SOON, || Ok(sink.open_connections() == 0))?;
        let delivered = events::delivered_test_ids(&server.events()?);
        outages.push(Outage { at: Instant::now(), delivered });
    }
    let running = running.context("no load")?;
    running.stop();
    sink.accept_all();
    server.start()?;
    let book = running.finish()?;
    server.wait_drained(Duration::from_mins(3))?;
    let account = Account::of(&book, &sink.accepted());
    peers::tell(&format!("resources: {} kills for want of memory: {account}", outages.len()));
    assert!(account.acked() > 100, "too little load to say anything: {account}");
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(account.invented(), NONE, "{account}");
    assert_eq!(account.unexplained(&outages), NONE, "{account}");
    Ok(())
}

/// Descriptors of the server, and connections that are made to it.
const DESCRIPTORS: &str = "--nofile=256:256";
const CONNECTIONS: usize = 1_000;

/// What became of a connection.
enum Held {
    /// It was greeted, or waits for it.
    Open(TcpStream),
    /// It was told to come later, and closed.
    Refused,
}

fn hold(address: SocketAddr) -> Result<Held> {
    let mut stream = TcpStream::connect_timeout(&address, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut code = [0; 3];
    stream.read_exact(&mut code)?;
    match &code {
        b"220" => Ok(Held::Open(stream)),
        b"421" => Ok(Held::Refused),
        other => anyhow::bail!("greeted with {:?}", String::from_utf8_lossy(other)),
    }
}

/// Seconds of CPU that a process has used, by the kernel's ticks.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").context("no stat")?.1;
    let fields: Vec<_> = fields.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    Ok(number(11).context("utime")? + number(12).context("stime")?)
}

#[test]
fn a_thousand_connections_leave_deliveries_their_descriptors() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("server", "cores", "1");
    server.spawn(&["prlimit", DESCRIPTORS])?;
    server.wait_healthy()?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..CONNECTIONS {
        match hold(server.smtp())? {
            Held::Open(stream) => open.push(stream),
            Held::Refused => refused += 1,
        }
    }
    assert!(open.len() >= 64, "a quarter is for clients at least: {}", open.len());
    assert!(refused >= CONNECTIONS - 128, "half of them are kept: {refused} refused");
    // Mail goes in and out beside those who are in.
    for number in 0..50 {
        let reply = client.message(
            "<a@a.test>",
            &["<b@b.test>"],
            &message::build(&format!("flood-{number}"), 2_000),
        )?;
        ensure!(reply.code == 250, "{reply:?}");
    }
    wait_until("the mail", SOON, || Ok(sink.accepted_count() == 50))?;
    // Nobody spins while they are silent and more come and are refused.
    let looks = |server: &Server| -> Result<(u64, u64)> {
        let metrics = server.metrics()?;
        let ticks = metrics.count("ringpost_tick_lag_seconds_count");
        Ok((ticks, metrics.count("ringpost_accept_errors_total")))
    };
    let (ticks, errors) = looks(&server)?;
    let (cpu, began) = (cpu_ticks(server.pid()?)?, Instant::now());
    wait_until("a hundred ticks", SOON, || Ok(looks(&server)?.0 >= ticks + 100))?;
    let elapsed = began.elapsed();
    let used = Duration::from_millis((cpu_ticks(server.pid()?)? - cpu) * 10);
    assert!(used < elapsed / 2, "{used:?} of CPU in {elapsed:?}, with nothing to do");
    assert!(looks(&server)?.1 - errors <= 100, "accepts fail again and again");
    // Who goes makes room.
    for mut stream in open {
        drop(stream.write_all(b"QUIT\r\n"));
        drop(stream.shutdown(Shutdown::Both));
    }
    wait_until("room for others", SOON, || Ok(matches!(hold(server.smtp())?, Held::Open(_))))?;
    let metrics = server.metrics()?;
    assert!(metrics.count_where("ringpost_limit_hits_total", "limit=\"descriptors\"") > 0);
    server.terminate()
}
