//! Aliases on a running server: mail for them goes to whom they stand for, and EXPN says to whom.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

fn server(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server
        .config
        .set("aliases", "postmaster", "[\"ops\", \"boss@b.test\"]")
        .set("aliases", "ops", "[\"o1@b.test\", \"o2@b.test\"]")
        .set("aliases", "\"info@a.test\"", "[\"i@c.test\"]")
        .set("listener.main", "expn", "true")
        .set("listener.main", "vrfy", "true");
    server.start()?;
    Ok(server)
}

#[test]
fn mail_for_an_alias_goes_to_all_that_it_stands_for() -> Result<()> {
    let sink = Sink::start()?;
    let server = server(&sink)?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO c.test", 250)?;
    ensure!(hello.text.contains("EXPN"), "{hello:?}");
    let said = client.expect("EXPN postmaster", 250)?.text;
    for mailbox in ["<o1@b.test>", "<o2@b.test>", "<boss@b.test>"] {
        ensure!(said.contains(mailbox), "{said}");
    }
    ensure!(client.expect("VRFY info@a.test", 250)?.text.contains("<i@c.test>"));
    client.expect("EXPN nobody", 550)?;
    let reply = client.message(
        "<s@s.test>",
        &["<Postmaster>", "<INFO@A.test>", "<o1@b.test>"],
        &message::build("alias", 500),
    )?;
    ensure!(reply.code == 250, "{reply:?}");
    wait_until("four recipients", SOON, || {
        let deliveries = sink.accepted();
        Ok(deliveries.iter().map(|delivery| delivery.forward_paths.len()).sum::<usize>() == 4)
    })?;
    let mut to: Vec<String> =
        sink.accepted().iter().flat_map(|delivery| delivery.forward_paths.clone()).collect();
    to.sort();
    assert_eq!(to, ["<boss@b.test>", "<i@c.test>", "<o1@b.test>", "<o2@b.test>"]);
    let metrics = server.metrics()?;
    assert_eq!(metrics.count("ringpost_aliases_expanded_total"), 2);
    assert_eq!(metrics.count("ringpost_recipients_received_total"), 4);
    ensure!(sink.violations().is_empty(), "{:?}", sink.violations());
    Ok(())
}

/// The twin of what trusted clients may: strangers write to the postmaster, and see nothing.
#[test]
fn strangers_reach_the_postmaster_and_nobody_else() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = server(&sink)?;
    server.config.set("listener.main", "relay_networks", "[\"192.0.2.0/24\"]");
    server.terminate()?;
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO c.test", 250)?;
    ensure!(!hello.text.contains("EXPN"), "{hello:?}");
    client.expect("EXPN postmaster", 502)?;
    client.expect("MAIL FROM:<s@s.test>", 250)?;
    client.expect("RCPT TO:<ops@relay.test>", 550)?;
    client.expect("RCPT TO:<info@a.test>", 550)?;
    client.expect("RCPT TO:<postmaster@relay.test>", 250)?;
    client.expect("RCPT TO:<postmaster>", 250)?;
    Ok(())
}

/// Python's client has a method for each.
#[test]
fn smtplib_asks_by_expn_and_vrfy() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = Sink::start()?;
    let server = server(&sink)?;
    let script = "import smtplib, sys\n\
        client = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n\
        client.ehlo('c.test')\n\
        assert client.has_extn('expn')\n\
        print(client.expn('ops'))\n\
        print(client.vrfy('info@a.test'))\n\
        client.quit()\n";
    let port = server.smtp().port().to_string();
    let output = Command::new(python).args(["-c", script, &port]).output().context("python3")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.contains("(250, b'2.1.5 <o1@b.test>\\n2.1.5 <o2@b.test>')"), "{text}");
    ensure!(text.contains("(250, b'2.1.5 <i@c.test>')"), "{text}");
    Ok(())
}
