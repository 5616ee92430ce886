//! Mail is put off before its content when room is short, deliveries go on, and mail is taken again
//! as soon as there is room, without a restart.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::{Client, Reply};
use ringpost_e2e::metrics;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};
use ringpost_e2e::{message, peers};
use tempfile::TempDir;

/// A file system of its own for a queue, of 64 MiB; unmounted in the end.
struct Volume(TempDir);

impl Volume {
    /// `None` where nothing can be mounted.
    fn mount(inodes: u32) -> Result<Option<Self>> {
        if !peers::is_root() {
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("ringpost-volume-").tempdir()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size=64m,nr_inodes={inodes}"), "tmpfs"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .status()?;
        Ok(mounted.success().then_some(Self(directory)))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a server that is being killed may still hold a file for a moment.
        let umount = Command::new("umount").arg("-l").arg(self.path()).status();
        drop(umount);
    }
}

/// A server with its queue on a volume.
fn on_volume(volume: &Volume, sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    let queue = format!("\"{}/queue\"", volume.path().display());
    server.config.route("*", sink.address()).set("queue", "directory", &queue);
    for key in ["free_space_slow_percent", "free_space_min_percent"] {
        server.config.remove("queue", key);
    }
    server.config.set("queue", "segment_size", "\"1MiB\"").set("queue", "size_max", "\"32MiB\"");
    server.config.set("listener.main", "message_size_max", "\"1MiB\"");
    server.config.set("listener.main", "recipients_max", "100");
    server.config.set("queue", "shards", "1");
    server.start()?;
    Ok(server)
}

/// What MAIL is answered with now.
fn mail(server: &Server) -> Result<Reply> {
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.command("MAIL FROM:<a@a.test>")
}

fn send(server: &Server, id: &str, size: usize) -> Result<Reply> {
    let mut client = Client::connect(server.smtp())?;
    client.message("<a@a.test>", &["<b@b.test>"], &message::build(id, size))
}

/// Waits until MAIL is put off, and checks how it is told and counted.
fn expect_full(server: &Server, limit: &str) -> Result<()> {
    wait_until("MAIL to be put off", SOON, || {
        let reply = mail(server)?;
        ensure!(reply.code == 250 || reply.text.starts_with("4.3.1"), "{reply:?}");
        Ok(reply.code == 452)
    })?;
    wait_until("the state and the limit in the metrics", SOON, || {
        let metrics = server.metrics()?;
        Ok(metrics.count_where("ringpost_queue_state", "state=\"full\"") >= 1
            && metrics.count_where("ringpost_limit_hits_total", limit) >= 1)
    })?;
    wait_until("a red /health", SOON, || {
        let (status, health) = metrics::fetch(server.control(), "/health")?;
        Ok(status == 503 && health.contains("is full"))
    })
}

/// Waits until mail is taken again; says how long that was.
fn expect_open(server: &Server) -> Result<()> {
    let freed = Instant::now();
    wait_until("MAIL to be taken again", SOON, || Ok(mail(server)?.code == 250))?;
    peers::tell(&format!("watermarks: taken again after {:?}", freed.elapsed()));
    wait_until("a healthy server", SOON, || {
        Ok(metrics::fetch(server.control(), "/health")?.0 == 200)
    })
}

/// Leaves about `left` octets free in a volume.
fn fill(volume: &Volume, left: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(volume.path())?;
    let filler = File::create(volume.path().join("filler"))?;
    let size = (stat.f_bavail * stat.f_frsize).checked_sub(left).context("too full already")?;
    rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), 0, size)?;
    Ok(())
}

#[test]
fn a_file_system_that_fills_up_puts_mail_off_and_takes_it_again() -> Result<()> {
    let Some(volume) = Volume::mount(10_000)? else {
        return peers::skip("a file system cannot be mounted here");
    };
    let sink = Sink::deferring()?;
    let server = on_volume(&volume, &sink)?;
    for number in 0..10 {
        let reply = send(&server, &format!("held-{number}"), 10_000)?;
        ensure!(reply.code == 250, "{reply:?}");
    }
    // Two and a half of 64 MiB are less than five percent.
    fill(&volume, 5 << 19)?;
    expect_full(&server, "limit=\"free_space_min_percent\"")?;
    let (_, health) = metrics::fetch(server.control(), "/health")?;
    assert!(health.contains("little free space"), "{health}");
    let log = server.log();
    assert!(log.contains("little free space: no new mail is taken"), "{log}");
    // What is in the queue goes out meanwhile.
    sink.accept_all();
    server.wait_drained(SOON)?;
    assert_eq!(sink.accepted_count(), 10);
    assert_eq!(mail(&server)?.code, 452, "still");
    fs::remove_file(volume.path().join("filler"))?;
    expect_open(&server)?;
    let reply = send(&server, "after", 10_000)?;
    ensure!(reply.code == 250, "{reply:?}");
    server.wait_drained(SOON)
}

/// What deliveries free is of use to new mail, though nobody else frees anything.
#[test]
fn a_file_system_that_the_queue_has_filled_is_freed_by_deliveries() -> Result<()> {
    let Some(volume) = Volume::mount(10_000)? else {
        return peers::skip("a file system cannot be mounted here");
    };
    let sink = Sink::deferring()?;
    let server = on_volume(&volume, &sink)?;
    // Room for five segments of 1 MiB: as many as are kept for later while there is space.
    fill(&volume, 7 << 20)?;
    let mut held = 0;
    while mail(&server)?.code == 250 {
        ensure!(held < 200, "a volume of 7 MiB takes more than 20");
        held += usize::from(send(&server, &format!("held-{held}"), 100_000)?.code == 250);
    }
    expect_full(&server, "limit=\"free_space_min_percent\"")?;
    sink.accept_all();
    server.wait_drained(SOON)?;
    assert_eq!(sink.accepted_count(), held);
    expect_open(&server)
}

#[test]
fn little_space_slows_mail_down_before_none_stops_it() -> Result<()> {
    let Some(volume) = Volume::mount(10_000)? else {
        return peers::skip("a file system cannot be mounted here");
    };
    let sink = Sink::start()?;
    let server = on_volume(&volume, &sink)?;
    let slowed = |server: &Server| -> Result<u64> {
        Ok(server.metrics()?.count_where("ringpost_limit_hits_total", "limit=\"slow_delay\""))
    };
    assert_eq!(mail(&server)?.code, 250);
    assert_eq!(slowed(&server)?, 0);
    // Between five and ten percent of 64 MiB.
    fill(&volume, 5 << 20)?;
    wait_until("a slow reply", SOON, || {
        let reply = mail(&server)?;
        ensure!(reply.code == 250, "{reply:?}");
        Ok(slowed(&server)? > 0)
    })?;
    let reply = send(&server, "slow", 10_000)?;
    ensure!(reply.code == 250, "{reply:?}");
    let (status, health) = metrics::fetch(server.control(), "/health")?;
    assert_eq!(status, 200, "slow is well: {health}");
    Ok(())
}

#[test]
fn a_file_system_without_inodes_puts_mail_off() -> Result<()> {
    let Some(volume) = Volume::mount(1_500)? else {
        return peers::skip("a file system cannot be mounted here");
    };
    let sink = Sink::start()?;
    let server = on_volume(&volume, &sink)?;
    let files = volume.path().join("files");
    fs::create_dir(&files)?;
    for number in 0..600 {
        File::create(files.join(number.to_string()))?;
    }
    expect_full(&server, "limit=\"free_inodes_min\"")?;
    fs::remove_dir_all(&files)?;
    expect_open(&server)
}

#[test]
fn a_limit_on_what_is_queued_holds_until_something_is_delivered() -> Result<()> {
    for (key, recipients) in [("messages_per_core_max", 1), ("recipients_per_core_max", 5)] {
        let sink = Sink::deferring()?;
        let mut server = Server::with_shards(1, sink.address())?;
        server.config.set("queue", key, "20");
        server.start()?;
        let paths: Vec<_> = (0..recipients).map(|number| format!("<r{number}@b.test>")).collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let mut taken = 0;
        wait_until("a refusal", SOON, || {
            let mut client = Client::connect(server.smtp())?;
            let content = message::build(&format!("{key}-{taken}"), 300);
            let reply = client.message("<a@a.test>", &paths, &content)?;
            ensure!(reply.code == 250 || reply.text.starts_with("4.3.1"), "{reply:?}");
            taken += usize::from(reply.code == 250);
            Ok(reply.code == 452)
        })?;
        assert!(taken * recipients >= 20, "{key}: {taken} taken");
        expect_full(&server, &format!("limit=\"{key}\""))?;
        sink.accept_all();
        server.wait_drained(SOON)?;
        expect_open(&server)?;
    }
    Ok(())
}

#[test]
fn short_memory_refuses_connections_and_mail_until_it_is_free() -> Result<()> {
    // Nothing is delivered, nor deferred: the content of fresh messages stays in memory.
    let (sink, is_open) = Sink::gated()?;
    let mut server = Server::with_shards(1, sink.address())?;
    server.config.set("server", "memory_max", "\"96MiB\"");
    server.config.set("queue", "content_cache_size_max", "\"256MiB\"");
    // The session that waits is not to be sent away for its silence.
    server.config.set("stress", "timeout", "\"2m\"");
    server.start()?;
    // A session that is open already is told at MAIL, a new one before it begins.
    let mut early = Client::connect(server.smtp())?;
    early.expect("EHLO c.test", 250)?;
    let mut taken = 0;
    let mut send = || -> Result<bool> {
        let mut client = Client::connect(server.smtp())?;
        if client.greeting.code == 421 {
            ensure!(client.greeting.text.starts_with("4.3.2"), "{:?}", client.greeting);
            return Ok(true);
        }
        let content = message::build(&format!("large-{taken}"), 1_000_000);
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &content)?;
        ensure!(reply.code == 250 || reply.code == 452, "{reply:?}");
        taken += usize::from(reply.code == 250);
        Ok(false)
    };
    // Memory comes and goes with what is under way: more is sent until all three are seen.
    wait_until("a refused connection, MAIL put off, and a red /health", SOON, || {
        if !send()? {
            return Ok(false);
        }
        let reply = early.command("MAIL FROM:<a@a.test>")?;
        if reply.code == 250 {
            early.expect("RSET", 250)?;
            return Ok(false);
        }
        ensure!(reply.code == 452, "{reply:?}");
        let (status, health) = metrics::fetch(server.control(), "/health")?;
        Ok(status == 503 && health.contains("server.memory_max"))
    })?;
    wait_until("the limit in the metrics", SOON, || {
        let hits =
            server.metrics()?.count_where("ringpost_limit_hits_total", "limit=\"memory_max\"");
        Ok(hits >= 2)
    })?;
    is_open.store(true, Ordering::Relaxed);
    server.wait_drained(SOON)?;
    assert_eq!(sink.accepted_count(), taken);
    wait_until("connections to be taken again", SOON, || {
        Ok(Client::connect(server.smtp())?.greeting.code == 220)
    })
}

#[test]
fn a_limit_on_the_size_of_files_is_a_full_disk_and_no_end() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::with_shards(1, sink.address())?;
    // A segment does not fit; the signal that comes with that ends an unprepared process.
    server.spawn(&["prlimit", "--fsize=4194304:unlimited"])?;
    wait_until("a greeting", SOON, || Ok(Client::connect(server.smtp()).is_ok()))?;
    expect_full(&server, "limit=\"size_max\"")?;
    let pid = server.pid()?.to_string();
    let raised = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status()?;
    ensure!(raised.success(), "prlimit: {raised}");
    expect_open(&server)?;
    let reply = send(&server, "after", 10_000)?;
    ensure!(reply.code == 250, "{reply:?}");
    server.wait_drained(SOON)
}
