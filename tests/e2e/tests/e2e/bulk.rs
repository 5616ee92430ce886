//! Many messages, with the load tools of another mail system on both ends.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ringpost_e2e::peers::{self, SmtpSink};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::wait::wait_until;
use ringpost_e2e::{events, injector, sink};

use crate::{NONE, scale};

const DEADLINE: Duration = Duration::from_mins(5);

#[test]
fn every_message_of_smtp_source_reaches_smtp_sink_once() -> Result<()> {
    let Some(source) = peers::program("smtp-source") else {
        return peers::skip("smtp-source (Postfix) is not installed");
    };
    let messages = scale("RINGPOST_BULK_MESSAGES", 20_000);
    let directory = tempfile::tempdir()?;
    let sink = SmtpSink::start(directory.path(), ports::reserve()?)?;
    let server = Server::relaying_to(sink.address())?;
    let start = Instant::now();
    peers::run(
        Command::new(source)
            .args(["-s", "50", "-l", "5120", "-m", &messages.to_string()])
            .args(["-f", "source@source.test", "-t", "sink@example.test"])
            .arg(server.smtp().to_string()),
    )?;
    let accepted = start.elapsed();
    wait_until("all messages at smtp-sink", DEADLINE, || Ok(sink.count()? >= messages))?;
    let arrived = start.elapsed();
    server.wait_drained(DEADLINE)?;
    // The queue is empty, so nothing can come any more: the count is final.
    assert_eq!(sink.count()?, messages, "each message once");
    let metrics = server.metrics()?;
    peers::tell(&format!(
        "bulk: {messages} messages of 5 KiB over 50 sessions, accepted in {accepted:.1?}, \
         all delivered after {arrived:.1?}, with {} commits",
        metrics.count("ringpost_commit_batches_total")
    ));
    assert_eq!(metrics.count("ringpost_messages_received_total"), messages);
    let delivered = metrics.count_where("ringpost_outcomes_total", "outcome=\"delivered\"");
    assert_eq!(delivered, messages);
    let count = usize::try_from(messages)?;
    let records = server.wait_events("delivered", count).context("the event log")?;
    assert_eq!(events::distinct(&records, "delivered"), count);
    assert_eq!(events::distinct(&records, "received"), count);
    Ok(())
}

#[test]
fn every_message_arrives_whole_over_kept_connections() -> Result<()> {
    let messages = scale("RINGPOST_BULK_MESSAGES", 20_000) / 4;
    let sink = sink::Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let mut load = injector::Load::new(server.smtp(), "kept", 20, Some(messages));
    load.size = 5_120;
    load.kept = 500;
    let book = load.run()?;
    server.wait_drained(DEADLINE)?;
    let account = ringpost_e2e::account::Account::of(&book, &sink.accepted());
    assert_eq!(account.acked() as u64, messages, "{account}");
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.repeated(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(sink.violations(), NONE);
    let per_connection = messages / sink.connections().max(1);
    assert!(per_connection >= 5, "connections are kept: {per_connection} messages on each");
    Ok(())
}

#[test]
fn a_message_larger_than_a_segment_arrives_whole() -> Result<()> {
    let sink = sink::Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let mut load = injector::Load::new(server.smtp(), "large", 2, Some(4));
    load.size = 20_000_000;
    let book = load.run()?;
    server.wait_drained(DEADLINE)?;
    let account = ringpost_e2e::account::Account::of(&book, &sink.accepted());
    assert_eq!(account.acked(), 4, "{account}");
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    Ok(())
}
