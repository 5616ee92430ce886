//! XCLIENT: a gateway speaks for its clients, and gains nothing by it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

/// A server with a gateway at 127.0.0.1, where 127.0.0.2 may relay.
fn start(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("server", "cores", "1")
        .set("listener.main", "xclient_from", "[\"127.0.0.1\"]")
        .set("listener.main", "relay_networks", "[\"127.0.0.2\"]")
        .set("listener.main", "connections_per_client_per_core_max", "2");
    server.start()?;
    Ok(server)
}

#[test]
fn swaks_speaks_for_a_client() -> Result<()> {
    let Some(swaks) = peers::program("swaks") else {
        return peers::skip("swaks is not installed");
    };
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    let sink = Sink::with(ports::reserve()?, options, |_| Answer::Accept)?;
    let mut server = start(&sink)?;
    let file = server.directory().join("message");
    fs::write(&file, message::stuff(&message::build("xclient", 5_000)))?;
    let send = |address: &str| {
        Command::new(&swaks)
            .args(["--server", "127.0.0.1", "--port", &server.smtp().port().to_string()])
            .args(["--from", "a@a.test", "--to", "b@b.test", "--ehlo", "swaks.test"])
            .args(["--xclient-addr", address, "--xclient-name", "host.test"])
            .args(["--xclient-helo", "other.test", "--xclient-login", "some one"])
            .args(["--xclient-port", "4321", "--xclient-proto", "ESMTP"])
            .args(["--no-data-fixup", "--suppress-data", "--data"])
            .arg(format!("@{}", file.display()))
            .output()
    };
    let output = send("127.0.0.2")?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    // Another one may not relay, and the gateway itself may not either.
    let output = send("192.0.2.7")?;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("550 5.7.1"));
    wait_until("a message", SOON, || Ok(sink.accepted_count() == 1))?;
    let content = String::from_utf8(sink.accepted().remove(0).content)?;
    let first = content.lines().next().context("no line")?;
    assert_eq!(first, "Received: from swaks.test (host.test [127.0.0.2])");
    assert_eq!(server.metrics()?.count("ringpost_clients_named_total"), 2);
    server.terminate()?;
    let events = server.events()?;
    let received = events.iter().find(|event| event.kind == "received").context("no event")?;
    for (field, value) in [
        ("client", "127.0.0.2"),
        ("proxy", "127.0.0.1"),
        ("login", "some one"),
        ("helo", "swaks.test"),
    ] {
        assert_eq!(received.fields[field], value, "{field}");
    }
    Ok(())
}

#[test]
fn clients_that_are_named_have_their_limits() -> Result<()> {
    let sink = Sink::start()?;
    let server = start(&sink)?;
    let connect = || -> Result<Client> {
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO g.test", 250)?;
        Ok(client)
    };
    let (mut one, mut two) = (connect()?, connect()?);
    one.expect("XCLIENT ADDR=192.0.2.7", 220)?;
    two.expect("XCLIENT ADDR=192.0.2.7", 220)?;
    // The gateway's own are counted no more, and the client's are too many.
    let mut three = connect()?;
    three.expect("XCLIENT ADDR=192.0.2.7", 421)?;
    assert!(three.is_closed_by_peer());
    two.expect("XCLIENT ADDR=192.0.2.8", 220)?;
    connect()?.expect("XCLIENT ADDR=192.0.2.7", 220)?;
    let label = "limit=\"connections_per_client_per_core_max\"";
    assert_eq!(server.metrics()?.count_where("ringpost_limit_hits_total", label), 1);
    Ok(())
}
