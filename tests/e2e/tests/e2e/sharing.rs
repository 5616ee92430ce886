//! Limits that hold for the whole server: its shards share them, and are measured at the receiver.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};

/// Clients, each with a connection of its own, which the kernel spreads over the shards.
const CLIENTS: usize = 64;
/// What each of them sends.
const MESSAGES: usize = 5;

/// Connections at the sink, from its greeting until it has heard QUIT: a server may open another one as soon
/// as that is answered.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
    /// Whether content is taken.
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gauge {
    fn answer(&self, step: &Step<'_>) -> Answer {
        match step {
            Step::Greeting => {
                let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
                self.most.fetch_max(now, Ordering::SeqCst);
            }
            Step::Quit => drop(self.now.fetch_sub(1, Ordering::SeqCst)),
            Step::Content(_) => {
                let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
                drop(self.opened.wait_while(is_open, |is_open| !*is_open));
                return Answer::Delay(Duration::from_millis(5));
            }
            _ => {}
        }
        Answer::Accept
    }

    fn open(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }
}

/// Delivers mail that waits in all of `shards` shards; the most connections that the sink had at once.
fn most_connections(shards: u16, max: usize) -> Result<usize> {
    let gauge = Arc::new(Gauge::default());
    let script = Arc::clone(&gauge);
    let sink = Sink::scripted(move |step| script.answer(step))?;
    let mut server = Server::with_shards(shards, sink.address())?;
    server.config.set("delivery", "connections_per_site_max", &max.to_string());
    server.start()?;
    for client in 0..CLIENTS {
        let mut connection = Client::connect(server.smtp())?;
        connection.expect("EHLO client.test", 250)?;
        for number in 0..MESSAGES {
            let content = message::build(&format!("{client}-{number}"), 300);
            let reply = connection.message("<s@s.test>", &["<u@d.test>"], &content)?;
            ensure!(reply.code == 250, "{reply:?}");
        }
    }
    let all = CLIENTS * MESSAGES;
    // The shards that came first have all connections by now, and the others none.
    wait_until("the connections", SOON, || Ok(gauge.now.load(Ordering::SeqCst) >= max.min(10)))?;
    let out = server.metrics()?.count("ringpost_leases_out");
    ensure!(out <= max as u64, "{out} slots are out");
    gauge.open();
    wait_until("all mail", SOON, || Ok(sink.accepted_count() == all))?;
    server.wait_drained(SOON)?;
    ensure!(sink.accepted_ids(0).len() == all, "each message once");
    let metrics = server.metrics()?;
    ensure!(metrics.count("ringpost_lease_messages_total") > 0, "the shards have not talked");
    server.terminate()?;
    Ok(gauge.most.load(Ordering::SeqCst))
}

#[test]
fn connections_to_a_site_are_limited_over_all_shards() -> Result<()> {
    for shards in [2, 4, 8] {
        let most = most_connections(shards, 10)?;
        ensure!(most == 10, "{most} connections of at most 10, from {shards} shards");
    }
    // Nothing but the limit keeps them down.
    let most = most_connections(4, 40)?;
    ensure!((11..=40).contains(&most), "{most} connections of at most 40");
    Ok(())
}

#[test]
fn one_connection_is_enough_for_all_shards() -> Result<()> {
    let most = most_connections(4, 1)?;
    ensure!(most == 1, "{most} connections of at most 1");
    Ok(())
}
