//! One sync serves many messages, and a lone message still waits for no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::metrics::Metrics;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::trace::SyncTrace;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::scale;

/// The segments are opened with `O_DSYNC`, and some writes go through io_uring, where `strace` sees
/// nothing: the server's own counter is held against the kernel's trace points.
///
/// On one core, so that all fifty sessions can share, and with deliveries held back at first:
/// there is no artificial delay, so a batch holds what came in during one write, and how much
/// that is depends on the disk when outcomes come in between.
#[test]
fn fifty_sessions_share_their_syncs() -> Result<()> {
    let messages = scale("RINGPOST_SYNC_MESSAGES", 5_000);
    let open = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&open);
    let sink = Sink::scripted(move |step| {
        if matches!(step, Step::Greeting) {
            // The deadline is not reached: the load is over long before.
            drop(wait_until("the end of the load", SOON, || Ok(gate.load(Ordering::Relaxed))));
        }
        Answer::Accept
    })?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("server", "cores", "1");
    server.start()?;
    let trace = match SyncTrace::missing() {
        None => Some(SyncTrace::start(server.pid()?)?),
        Some(reason) => {
            peers::skip(reason)?;
            None
        }
    };
    let before = server.metrics()?;
    let mut load = Load::new(server.smtp(), "syncs", 50, Some(messages));
    load.kept = 100;
    load.size = 5_120;
    load.run()?;
    let accepted = server.metrics()?;
    let traced = trace.as_ref().map(SyncTrace::count).transpose()?;
    open.store(true, Ordering::Relaxed);
    server.wait_drained(SOON)?;
    let drained = server.metrics()?;
    let grown = |to: &Metrics, name: &str| to.count(name) - before.count(name);
    let syncs = grown(&accepted, "ringpost_commit_syncs_total");
    let all_syncs = grown(&drained, "ringpost_commit_syncs_total");
    peers::tell(&format!(
        "syncs: {messages} messages over 50 sessions, {syncs} commits to accept them ({:.1} \
         messages each), {all_syncs} until all were delivered; {traced:?} durable writes traced \
         in the first part, those of new segments included",
        messages as f64 / syncs as f64
    ));
    assert_eq!(grown(&accepted, "ringpost_messages_received_total"), messages);
    assert_eq!(sink.accepted_count() as u64, messages);
    assert!(syncs > 0);
    assert!(syncs * 10 < messages, "{syncs} syncs for {messages} messages");
    if let Some(traced) = traced {
        assert!(traced >= syncs, "{syncs} claimed, {traced} seen by the kernel");
        // A segment is born with 32 writes of zeros, a header and two syncs, and holds 8 MiB.
        let births = grown(&accepted, "ringpost_commit_bytes_total") / (8 << 20) + 2;
        let commits = traced.saturating_sub(births * 40);
        assert!(commits * 10 < messages, "{commits} durable writes for {messages} messages");
    }
    Ok(())
}

/// The twin: without company, each acknowledged message has cost a sync of its own.
#[test]
fn a_lone_message_has_a_sync_of_its_own() -> Result<()> {
    if let Some(reason) = SyncTrace::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let trace = SyncTrace::start(server.pid()?)?;
    let mut client = Client::connect(server.smtp())?;
    for number in 0..20 {
        let before = trace.count()?;
        let content = message::build(&format!("lone-{number}"), 1_000);
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &content)?;
        assert_eq!(reply.code, 250);
        let syncs = trace.count()? - before;
        assert!(syncs >= 1, "message {number} was acknowledged without a sync");
    }
    Ok(())
}
