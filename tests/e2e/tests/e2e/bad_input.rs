//! The rows of bad input that the session is tested with, on a running server: by wire, in one piece
//! and octet by octet; and over TLS, after STARTTLS and from the first octet.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions};
use ringpost_e2e::tls::Certificate;
use ringpost_e2e::tunnel::Tunnel;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::rows::{Row, rows};

/// What a row asks of its listener.
type Setup = (u64, bool, bool);

fn setup(row: &Row) -> Setup {
    (row.size_max, row.is_lenient, row.is_stranger)
}

/// Plays a row, in pieces of so many octets.
fn play(row: &Row, address: SocketAddr, piece: usize) -> Result<()> {
    let mut client = Client::connect(address)?;
    if !row.is_unintroduced {
        client.expect("EHLO client.test", 250)?;
    }
    for step in &row.steps {
        for octets in step.input.chunks(piece) {
            if client.send(octets).is_err() {
                // The server may end the session with octets still on their way.
                ensure!(row.is_closed, "the connection has ended");
                break;
            }
        }
        for start in &step.replies {
            let reply = client.reply().with_context(|| format!("instead of {start:?}"))?;
            let said = format!("{} {}", reply.code, reply.text);
            ensure!(said.starts_with(start), "{said:?} instead of {start:?}");
        }
    }
    if row.is_closed {
        ensure!(client.is_closed_by_peer(), "the connection is still open");
    } else {
        client.expect("NOOP", 250)?;
    }
    Ok(())
}

/// Rows about what is offered, or is not, without TLS only.
const NOT_OVER_TLS: [&str; 2] = ["T2 STARTTLS that is not offered", "A7 REQUIRETLS"];

/// What is between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    StartTls,
    Implicit,
}

#[test]
fn every_row_gets_its_replies_on_the_wire() -> Result<()> {
    every_row(Way::Plain)
}

#[test]
fn every_row_gets_its_replies_after_starttls() -> Result<()> {
    every_row(Way::StartTls)
}

#[test]
fn every_row_gets_its_replies_over_implicit_tls() -> Result<()> {
    every_row(Way::Implicit)
}

fn every_row(way: Way) -> Result<()> {
    // Aliases are those of all listeners.
    every_row_of(way, false)?;
    every_row_of(way, true)
}

fn every_row_of(way: Way, has_postmaster: bool) -> Result<()> {
    let mut options = SinkOptions::default();
    options.keywords.push("SMTPUTF8".to_owned());
    let sink = Sink::with(ports::reserve()?, options, |_| Answer::Accept)?;
    let mut server = Server::prepare()?;
    let certificate = Certificate::make(server.directory(), "a", &["a.test"])?;
    server.config.route("*", sink.address());
    if has_postmaster {
        server.config.set("aliases", "postmaster", "[\"root@a.test\"]");
    }
    // Begun before the greeting is out: on a real wire nobody knows who is first.
    let rows: Vec<_> = rows()
        .into_iter()
        .filter(|row| row.has_postmaster == has_postmaster)
        .filter(|row| {
            !row.is_early && (way == Way::Plain || !NOT_OVER_TLS.contains(&row.name.as_str()))
        })
        .collect();
    let mut listeners: BTreeMap<Setup, SocketAddr> = BTreeMap::new();
    for row in &rows {
        let (size_max, is_lenient, is_stranger) = setup(row);
        if listeners.contains_key(&setup(row)) {
            continue;
        }
        let address = ports::reserve()?;
        let section = format!("listener.rows{}", listeners.len());
        server
            .config
            .set(&section, "addresses", &format!("[\"{address}\"]"))
            .set(&section, "message_size_max", &format!("\"{size_max}B\""))
            .set(&section, "lenient", &is_lenient.to_string());
        if way == Way::StartTls {
            // The tunnel has said EHLO and STARTTLS.
            server.config.set(&section, "junk_commands_max", "102");
        }
        if way != Way::Plain {
            let role = if way == Way::Implicit { "\"submissions\"" } else { "\"submission\"" };
            let certificates = format!("[{}]", certificate.toml());
            server.config.set(&section, "role", role).set(&section, "certificates", &certificates);
        }
        if is_stranger {
            server.config.set(&section, "relay_networks", "[\"192.0.2.0/24\"]");
        }
        listeners.insert(setup(row), address);
    }
    server.start()?;
    for address in listeners.values_mut() {
        *address = match way {
            Way::Plain => *address,
            Way::StartTls => Tunnel::starttls(*address)?.address(),
            Way::Implicit => Tunnel::implicit(*address)?.address(),
        };
    }
    let mut queued = 0;
    for row in &rows {
        let address = listeners[&setup(row)];
        // How records may be cut has tests of its own.
        let is_whole = row.is_uncut || way != Way::Plain;
        let pieces = if is_whole { vec![usize::MAX] } else { vec![usize::MAX, 1] };
        for piece in pieces {
            // Octet by octet takes a system call each: not for those that only are long.
            if piece == 1 && row.steps.iter().any(|step| step.input.len() > 5_000) {
                continue;
            }
            play(row, address, piece)
                .with_context(|| format!("{}, in pieces of {piece}", row.name))?;
            queued += row.queued as u64;
        }
    }
    // What was to be queued has been, and nothing else.
    server.wait_drained(SOON)?;
    let received = server.metrics()?.count("ringpost_messages_received_total");
    ensure!(received == queued, "{received} messages were taken instead of {queued}");
    wait_until("what was taken at the sink", SOON, || Ok(sink.accepted_count() as u64 == queued))?;
    ensure!(sink.violations().is_empty(), "{:?}", sink.violations());
    Ok(())
}
