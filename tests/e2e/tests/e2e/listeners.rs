//! Several listeners, each by its own rules and under its own name.

use anyhow::{Context, Result};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;

#[test]
fn each_listener_has_its_rules_and_its_name() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    let other = ports::reserve()?;
    server.config.route("*", sink.address());
    server
        .config
        .set("listener.other", "addresses", &format!("[\"{other}\"]"))
        .set("listener.other", "extensions_off", "[\"SIZE\", \"futurerelease\"]")
        .set("listener.other", "recipients_max", "1");
    server.start()?;

    let mut main = Client::connect(server.smtp())?;
    let offer = main.expect("EHLO c.test", 250)?.text;
    assert!(offer.contains("SIZE") && offer.contains("FUTURERELEASE"), "{offer}");
    let mut client = Client::connect(other)?;
    let offer = client.expect("EHLO c.test", 250)?.text;
    assert!(offer.contains("PIPELINING") && offer.contains("8BITMIME"), "{offer}");
    assert!(!offer.contains("SIZE") && !offer.contains("FUTURERELEASE"), "{offer}");
    client.expect("MAIL FROM:<a@a.test> SIZE=5", 555)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("RCPT TO:<c@b.test>", 452)?;
    client.expect("RSET", 250)?;

    let send = |client: &mut Client, id: &str| -> Result<()> {
        let reply = client.message("<a@a.test>", &["<b@b.test>"], &message::build(id, 500))?;
        assert_eq!(reply.code, 250, "{reply:?}");
        Ok(())
    };
    send(&mut main, "m1")?;
    send(&mut main, "m2")?;
    send(&mut client, "o1")?;
    let metrics = server.metrics()?;
    for (listener, messages) in [("main", 2), ("other", 1)] {
        let label = format!("listener=\"{listener}\"");
        let count = |name: &str| metrics.count_where(name, &label);
        assert_eq!(count("ringpost_messages_received_total"), messages, "{listener}");
        assert!(count("ringpost_sessions_accepted_total") >= 1, "{listener}");
    }
    server.terminate()?;
    let mut received: Vec<String> = server
        .events()?
        .iter()
        .filter(|event| event.kind == "received")
        .map(|event| event.fields["listener"].as_str().context("no listener").map(str::to_owned))
        .collect::<Result<_>>()?;
    // Each core tells of its own sessions.
    received.sort_unstable();
    assert_eq!(received, ["main", "main", "other"]);
    Ok(())
}

#[test]
fn a_listener_lets_its_clients_ask_by_vrfy() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    let other = ports::reserve()?;
    server.config.route("*", sink.address());
    server.config.set("listener.main", "vrfy", "true").set(
        "listener.other",
        "addresses",
        &format!("[\"{other}\"]"),
    );
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    assert!(client.expect("VRFY <b@b.test>", 252)?.text.contains("<b@b.test>"));
    client.expect("VRFY b..c@b.test", 553)?;
    client.expect("VRFY someone", 550)?;
    // The twin: a listener that does not tell.
    let mut client = Client::connect(other)?;
    client.expect("EHLO c.test", 250)?;
    for text in ["<b@b.test>", "b..c@b.test", "someone"] {
        client.expect(&format!("VRFY {text}"), 252)?;
    }
    Ok(())
}
