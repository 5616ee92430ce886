//! Addresses and headers outside of ASCII (RFC 6531): in, out, and where the next hop takes none.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::dns::{NameServer, Zone};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::netns::Namespace;
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

const FROM: &str = "<ävsändare@bücher.test>";
const TO: &str = "<用户@例え.test>";

fn sink_at(address: SocketAddr, utf8: bool) -> Result<Sink> {
    let mut options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    options.keywords.extend(utf8.then(|| "SMTPUTF8".to_owned()));
    Sink::with(address, options, |_| Answer::Accept)
}

fn sink(utf8: bool) -> Result<Sink> {
    sink_at(ports::reserve()?, utf8)
}

/// Sends a message by hand, with a subject of its own.
fn send(to: SocketAddr, mail: &str, rcpt: &[&str], subject: &str) -> Result<()> {
    let mut client = Client::connect(to)?;
    let reply = client.expect("EHLO client.test", 250)?;
    ensure!(format!("{reply:?}").contains("SMTPUTF8"), "{reply:?}");
    client.expect(mail, 250)?;
    for path in rcpt {
        client.expect(&format!("RCPT TO:{path}"), 250)?;
    }
    client.expect("DATA", 354)?;
    let content = format!("Subject: {subject}\r\n\r\ntext\r\n");
    client.send(&message::stuff(content.as_bytes()))?;
    client.expect_reply(250)?;
    client.expect("QUIT", 221)?;
    Ok(())
}

#[test]
fn it_goes_on_as_it_came_and_survives_a_crash() -> Result<()> {
    let mut server = Server::prepare()?;
    let later = ports::reserve()?;
    server.config.route("*", later);
    server.start()?;
    send(server.smtp(), &format!("MAIL FROM:{FROM} SMTPUTF8"), &[TO], "grüße")?;
    server.kill()?;
    let sink = sink_at(later, true)?;
    server.start()?;
    wait_until("the message", SOON * 2, || Ok(sink.accepted_count() == 1))?;
    let taken = &sink.accepted()[0];
    assert!(taken.reverse_path.starts_with(FROM), "{}", taken.reverse_path);
    assert!(taken.reverse_path.ends_with(" SMTPUTF8"), "{}", taken.reverse_path);
    assert_eq!(taken.forward_paths, [TO]);
    let content = String::from_utf8(taken.content.clone())?;
    assert!(content.contains("Subject: grüße\r\n"), "{content}");
    assert!(content.contains(" with UTF8SMTP id "), "{content}");
    assert!(content.contains(&format!("\tfor {TO}")), "{content}");
    assert_eq!(sink.violations(), crate::NONE);
    Ok(())
}

/// RFC 6531 §3.2: what needs it is not sent to a host without it, and its author is told; the rest is.
#[test]
fn a_host_without_it_gets_what_is_in_ascii() -> Result<()> {
    let sink = sink(false)?;
    let server = Server::relaying_to(sink.address())?;
    let marked = "MAIL FROM:<author@a.test> SMTPUTF8";
    send(server.smtp(), marked, &["<one@b.test>"], "plain")?;
    send(server.smtp(), marked, &["<two@b.test>", "<ü@b.test>"], "both")?;
    send(server.smtp(), marked, &["<three@b.test>"], "grüße")?;
    wait_until("all of it", SOON * 2, || Ok(sink.accepted_count() == 4))?;
    server.wait_drained(SOON)?;
    let (reports, messages): (Vec<_>, Vec<_>) =
        sink.accepted().into_iter().partition(|one| one.reverse_path.starts_with("<> "));
    let mut paths: Vec<_> = messages.iter().flat_map(|one| one.forward_paths.clone()).collect();
    paths.sort();
    assert_eq!(paths, ["<one@b.test>", "<two@b.test>"]);
    assert!(messages.iter().all(|one| !one.reverse_path.contains("SMTPUTF8")));
    let mut reports: Vec<_> =
        reports.iter().map(|one| String::from_utf8_lossy(&one.content).into_owned()).collect();
    reports.sort_by_key(|report| report.contains("5.6.9"));
    let [address, header] = &reports[..] else { anyhow::bail!("{reports:?}") };
    for words in [
        "\r\nContent-Type: message/global-delivery-status\r\n",
        "\r\nFinal-Recipient: utf-8; ü@b.test\r\nAction: failed\r\nStatus: 5.6.7\r\n",
    ] {
        assert!(address.contains(words), "{words}\n{address}");
    }
    assert!(!address.contains("two@b.test"), "{address}");
    for words in [
        "\r\nContent-Type: message/delivery-status\r\n",
        "\r\nFinal-Recipient: rfc822; three@b.test\r\nAction: failed\r\nStatus: 5.6.9\r\n",
        "\r\nContent-Type: message/global-headers\r\n",
        "\r\nSubject: grüße\r\n",
    ] {
        assert!(header.contains(words), "{words}\n{header}");
    }
    Ok(())
}

#[test]
fn a_listener_can_do_without() -> Result<()> {
    let sink = sink(true)?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server.config.set("listener.main", "extensions_off", "[\"SMTPUTF8\"]");
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    let reply = client.expect("EHLO client.test", 250)?;
    ensure!(!format!("{reply:?}").contains("SMTPUTF8"), "{reply:?}");
    client.expect(&format!("MAIL FROM:{FROM} SMTPUTF8"), 555)?;
    client.expect(&format!("MAIL FROM:{FROM}"), 550)?;
    client.expect("MAIL FROM:<>", 250)?;
    client.expect(&format!("RCPT TO:{TO}"), 553)?;
    Ok(())
}

/// The DNS is asked for A-labels, and a domain has one site however it is spelled.
#[test]
fn domains_are_looked_up_by_their_a_labels() -> Result<()> {
    if let Some(reason) = Namespace::missing().or_else(NameServer::missing) {
        return peers::skip(reason);
    }
    Namespace::create()?.run(|| {
        let directory = tempfile::tempdir()?;
        let mut zone = Zone::new();
        zone.mx("xn--bcher-kva.test", 10, "mx.test").a("mx.test", "127.0.2.1");
        let names = NameServer::start(directory.path(), "127.0.0.53:53".parse()?, &zone)?;
        let sink = sink_at("127.0.2.1:25".parse()?, true)?;
        let mut server = Server::prepare_at("127.0.0.1:25".parse()?, "127.0.0.1:9925".parse()?)?;
        server.config.set("dns", "servers", &format!("[\"{}\"]", names.address())).set(
            "delivery",
            "allow_loopback",
            "true",
        );
        server.start()?;
        let paths = ["<a@bücher.test>", "<b@xn--bcher-kva.test>", "<c@BÜCHER.test>"];
        send(server.smtp(), "MAIL FROM:<> SMTPUTF8", &paths, "x")?;
        wait_until("the message", SOON * 2, || Ok(sink.accepted_count() == 1))?;
        server.wait_drained(SOON)?;
        let mut taken = sink.accepted()[0].forward_paths.clone();
        taken.sort();
        assert_eq!(taken, paths);
        Ok(())
    })
}

#[test]
fn python_sends_what_is_not_in_ascii() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = sink(true)?;
    let server = Server::relaying_to(sink.address())?;
    let script = "\
import email.message, email.policy, smtplib, sys
message = email.message.EmailMessage(policy=email.policy.SMTPUTF8)
message['From'], message['To'], message['Subject'] = 'ä@a.test', 'ü@b.test', 'grüße'
message.set_content('text')
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='python.test', timeout=60) as client:
    client.send_message(message)
";
    let port = server.smtp().port().to_string();
    peers::run(Command::new(python).args(["-c", script, &port]).env("PYTHONUTF8", "1"))?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    let taken = &sink.accepted()[0];
    assert!(taken.reverse_path.contains(" SMTPUTF8"), "{}", taken.reverse_path);
    assert_eq!(taken.forward_paths, ["<ü@b.test>"]);
    assert!(String::from_utf8(taken.content.clone())?.contains("Subject: grüße\r\n"));
    Ok(())
}

/// What comes out behind another relay and us, in whatever order.
fn has_arrived(sink: &Sink) -> Result<()> {
    wait_until("the message", SOON * 2, || Ok(sink.accepted_count() == 1))?;
    let taken = &sink.accepted()[0];
    let content = String::from_utf8(taken.content.clone())?;
    assert!(taken.reverse_path.starts_with(FROM), "{} {content}", taken.reverse_path);
    assert!(taken.reverse_path.contains(" SMTPUTF8"), "{}", taken.reverse_path);
    assert_eq!(taken.forward_paths, [TO]);
    assert!(content.contains("Subject: grüße\r\n") && content.contains(" with UTF8SMTP id "));
    Ok(())
}

fn open_directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    peers::run(Command::new("chmod").arg("755").arg(directory.path()))?;
    Ok(directory)
}

#[test]
fn postfix_in_front_of_us() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = sink(true)?;
    let server = Server::relaying_to(sink.address())?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let settings =
        format!("smtputf8_enable = yes\nrelayhost = [127.0.0.1]:{}\n", server.smtp().port());
    let postfix = Postfix::start(directory.path(), listen, &settings)?;
    send(listen, &format!("MAIL FROM:{FROM} SMTPUTF8"), &[TO], "grüße")?;
    has_arrived(&sink).with_context(|| postfix.log())
}

#[test]
fn postfix_behind_us() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = sink(true)?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let settings =
        format!("smtputf8_enable = yes\nrelayhost = [127.0.0.1]:{}\n", sink.address().port());
    let postfix = Postfix::start(directory.path(), listen, &settings)?;
    let server = Server::relaying_to(listen)?;
    send(server.smtp(), &format!("MAIL FROM:{FROM} SMTPUTF8"), &[TO], "grüße")?;
    has_arrived(&sink).with_context(|| postfix.log())
}

#[test]
fn exim_behind_us() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = sink(true)?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let exim = Exim::start(directory.path(), listen, sink.address())?;
    let server = Server::relaying_to(listen)?;
    // Exim sends domains by their A-labels.
    send(server.smtp(), "MAIL FROM:<ä@a.test> SMTPUTF8", &["<ü@b.test>"], "grüße")?;
    let arrived = wait_until("the message", SOON * 2, || Ok(sink.accepted_count() == 1));
    arrived.with_context(|| exim.log())?;
    let taken = &sink.accepted()[0];
    assert!(taken.reverse_path.contains("SMTPUTF8"), "{}", taken.reverse_path);
    assert_eq!(taken.forward_paths, ["<ü@b.test>"]);
    Ok(())
}

#[test]
fn exim_in_front_of_us() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = sink(true)?;
    let server = Server::relaying_to(sink.address())?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let exim = Exim::start(directory.path(), listen, server.smtp())?;
    send(listen, "MAIL FROM:<ä@a.test> SMTPUTF8", &["<ü@b.test>"], "grüße")?;
    let arrived = wait_until("the message", SOON * 2, || Ok(sink.accepted_count() == 1));
    arrived.with_context(|| exim.log())?;
    let taken = &sink.accepted()[0];
    assert!(taken.reverse_path.contains("SMTPUTF8"), "{}", taken.reverse_path);
    assert_eq!(taken.forward_paths, ["<ü@b.test>"]);
    Ok(())
}
