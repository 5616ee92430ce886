//! One sync serves many messages, and a lone message still waits for no other.

use anyhow::Result;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::trace::SyncTrace;
use ringpost_e2e::wait::SOON;

use crate::scale;

/// The syncs go through io_uring, where `strace` does not see them. The server's own counter is
/// compared with the kernel's trace points, which see every sync that is asked for.
#[test]
fn fifty_sessions_share_their_syncs() -> Result<()> {
    let messages = scale("RINGPOST_SYNC_MESSAGES", 5_000);
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
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
    server.wait_drained(SOON)?;
    let metrics = server.metrics()?;
    let grown = |name: &str| metrics.count(name) - before.count(name);
    assert_eq!(grown("ringpost_messages_received_total"), messages);
    let counted = grown("ringpost_commit_syncs_total");
    let traced = trace.as_ref().map(SyncTrace::count).transpose()?;
    peers::tell(&format!(
        "syncs: {messages} messages over 50 sessions, {counted} commits counted, {traced:?} syncs \
         traced: {:.1} messages to a sync",
        messages as f64 / traced.unwrap_or(counted) as f64
    ));
    assert!(counted > 0);
    assert!(counted * 10 < messages, "{counted} syncs for {messages} messages");
    if let Some(traced) = traced {
        assert!(traced > 0, "the trace sees the syncs");
        assert!(traced * 10 < messages, "{traced} syncs for {messages} messages");
        assert!(traced >= counted, "{counted} claimed, {traced} seen by the kernel");
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
