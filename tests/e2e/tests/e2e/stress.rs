//! A core that is short of connections: who is put off, who is not, and that it ends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

/// Connections that one core takes on the listener for strangers.
const CONNECTIONS_MAX: usize = 20;

/// Connections at which it is under stress.
const CROWD: usize = 16;

/// A server with a listener for those who may relay, and one of few connections for those who may not.
fn server(sink: &Sink, enter_percent: u8) -> Result<(Server, SocketAddr)> {
    let public = ports::reserve()?;
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("server", "cores", "1")
        .set("listener.public", "addresses", &format!("[\"{public}\"]"))
        .set("listener.public", "relay_networks", "[\"192.0.2.0/24\"]")
        .set("listener.public", "connections_per_core_max", &CONNECTIONS_MAX.to_string())
        .set("listener.public", "connections_per_client_per_core_max", &CONNECTIONS_MAX.to_string())
        .set("stress", "enter_percent", &enter_percent.to_string())
        .set("stress", "timeout", "\"2s\"");
    server.start()?;
    Ok((server, public))
}

fn crowd(address: SocketAddr) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..CROWD {
        let mut client = Client::connect(address)?;
        client.expect("EHLO c.test", 250)?;
        clients.push(client);
    }
    Ok(clients)
}

fn is_stressed(server: &Server) -> Result<bool> {
    Ok(server.metrics()?.count_where("ringpost_stress", "cause=\"connections\"") == 1)
}

#[test]
fn strangers_are_put_off_while_connections_are_short_and_others_are_not() -> Result<()> {
    let sink = Sink::start()?;
    let (server, public) = server(&sink, 80)?;
    let mut clients = crowd(public)?;
    wait_until("stress", SOON, || is_stressed(&server))?;
    let refused = Client::connect(public)?.greeting;
    ensure!(refused.code == 421, "{refused:?}");
    ensure!(refused.text == "4.3.2 Overloaded, try again later", "{refused:?}");
    // Those who may relay are served meanwhile, on the same core.
    let mut ours = Client::connect(server.smtp())?;
    ours.expect("EHLO c.test", 250)?;
    let reply = ours.message("<a@a.test>", &["<b@b.test>"], &message::build("crowded", 500))?;
    ensure!(reply.code == 250, "{reply:?}");
    // The silent ones are sent away long before their five minutes are over, and so it ends.
    for client in &mut clients {
        let reply = client.expect_reply(421)?;
        ensure!(reply.text == "4.4.2 Timed out, closing", "{reply:?}");
    }
    wait_until("calm", SOON, || Ok(!is_stressed(&server)?))?;
    wait_until("a stranger to be greeted", SOON, || {
        Ok(Client::connect(public)?.greeting.code == 220)
    })?;
    let metrics = server.metrics()?;
    let entered = metrics.count_where("ringpost_stress_entered_total", "cause=\"connections\"");
    ensure!(entered == 1, "entered {entered} times");
    ensure!(
        metrics.count_where("ringpost_limit_hits_total", "limit=\"stress\"") > 0,
        "not counted"
    );
    for said in [": under stress", "no longer under stress"] {
        ensure!(server.log().contains(said), "{said}: {}", server.log());
    }
    wait_until("the mail", SOON, || Ok(sink.accepted_count() == 1))
}

/// Many clients send as fast as they can, and what they send goes out meanwhile.
#[test]
fn deliveries_go_on_while_many_clients_send() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("server", "cores", "1");
    server.start()?;
    let load = Load::new(server.smtp(), "full", 300, Some(4_000));
    let sent = load.run()?;
    let (acked, delivered) = (sent.len(), sink.accepted_count());
    peers::tell(&format!(
        "stress: {delivered} of {acked} messages were delivered as the last came in"
    ));
    // They keep up; what is asked of them here bears any noise of the machine.
    ensure!(delivered >= acked / 10, "{delivered} of {acked}");
    let waited =
        server.metrics()?.count_where("ringpost_limit_hits_total", "limit=\"intake_turns\"");
    ensure!(waited > 0, "no session has ever waited for its turn");
    server.wait_drained(SOON)?;
    let account = Account::of(&sent, &sink.accepted());
    ensure!(account.lost() == NONE && account.damaged() == NONE, "{account}");
    Ok(())
}

/// The same crowd where only a full listener is stress: nobody is put off, nobody sent away.
#[test]
fn without_stress_the_same_crowd_stays() -> Result<()> {
    let sink = Sink::start()?;
    let (server, public) = server(&sink, 100)?;
    let mut clients = crowd(public)?;
    std::thread::sleep(Duration::from_secs(4));
    ensure!(!is_stressed(&server)?, "stress");
    let mut another = Client::connect(public)?;
    ensure!(another.greeting.code == 220, "{:?}", another.greeting);
    for client in clients.iter_mut().chain([&mut another]) {
        client.expect("NOOP", 250)?;
    }
    Ok(())
}
