//! Event records outlive crashes, and an event log that cannot be written.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::Result;
use ringpost_e2e::events;
use ringpost_e2e::injector::Load;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};
use rustix::process::Signal;

use crate::NONE;

/// Messages that go through while the event log takes nothing.
const MESSAGES: u64 = 50;

/// A server that has relayed some mail, with an event log that is always full.
fn with_full_event_log(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    symlink("/dev/full", server.directory().join("events.jsonl"))?;
    server.start()?;
    Load::new(server.smtp(), "full", 4, Some(MESSAGES)).run()?;
    server.wait_drained(SOON)?;
    wait_until("a failed write", SOON, || {
        Ok(server.metrics()?.count("ringpost_event_write_failures_total") > 0)
    })?;
    Ok(server)
}

fn expect_all(server: &Server) -> Result<()> {
    server.wait_events("delivered", usize::try_from(MESSAGES)?)?;
    let records = server.wait_events("received", usize::try_from(MESSAGES)?)?;
    assert_eq!(events::misnamed(&records), NONE);
    Ok(())
}

#[test]
fn what_the_event_log_never_got_comes_after_a_kill() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = with_full_event_log(&sink)?;
    server.kill()?;
    fs::remove_file(server.directory().join("events.jsonl"))?;
    server.start()?;
    expect_all(&server)?;
    assert!(server.metrics()?.count("ringpost_event_records_read_back_total") >= 2 * MESSAGES);
    // Once is enough.
    let count = server.events()?.len();
    server.terminate()?;
    server.start()?;
    server.terminate()?;
    assert_eq!(server.events()?.len(), count, "a clean stop leaves nothing to be told again");
    Ok(())
}

#[test]
fn without_records_in_the_queue_nothing_comes() -> Result<()> {
    // The twin that must find nothing: the first run has no event log at all.
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("events", "path", "\"\"");
    server.start()?;
    Load::new(server.smtp(), "none", 4, Some(MESSAGES)).run()?;
    server.wait_drained(SOON)?;
    server.kill()?;
    let path = format!("\"{}\"", server.directory().join("events.jsonl").display());
    server.config.set("events", "path", &path);
    server.start()?;
    Load::new(server.smtp(), "later", 1, Some(1)).run()?;
    let records = server.wait_events("delivered", 1)?;
    assert_eq!(events::distinct(&records, "delivered"), 1);
    assert_eq!(events::distinct(&records, "received"), 1);
    Ok(())
}

#[test]
fn an_event_log_that_can_be_written_again_catches_up_without_a_restart() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = with_full_event_log(&sink)?;
    fs::remove_file(server.directory().join("events.jsonl"))?;
    server.signal(Signal::HUP)?;
    expect_all(&server)?;
    assert_eq!(server.metrics()?.count("ringpost_event_records_lost_total"), 0);
    server.terminate()
}

#[test]
fn a_line_that_was_cut_short_is_skipped_and_comes_again() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::relaying_to(sink.address())?;
    Load::new(server.smtp(), "torn", 4, Some(MESSAGES)).run()?;
    server.wait_drained(SOON)?;
    server.kill()?;
    // As if the last write had been cut off in the middle of a line.
    let path = server.directory().join("events.jsonl");
    let mut log = fs::read(&path)?;
    log.extend_from_slice(b"{\"time\":\"2026-");
    fs::write(&path, &log)?;
    server.start()?;
    expect_all(&server)?;
    server.terminate()
}
