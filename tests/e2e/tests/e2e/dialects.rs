//! What is spoken with next hops: LMTP, extensions left out, and limits that a receiver tells of.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, SmtpSink};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

fn send(server: &Server, to: &[&str], id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<a@a.test>", to, &message::build(id, 1_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

/// The recipients of all records of a kind.
fn paths(events: &[Event], kind: &str) -> Vec<String> {
    let of_kind = events.iter().filter(|event| event.kind == kind);
    let mut paths: Vec<_> = of_kind.filter_map(|event| event.forward_path.clone()).collect();
    paths.sort();
    paths
}

fn route(server: &mut Server, domain: &str, sink: &Sink, keys: &str) {
    server.config.append(&format!(
        "[[route]]\ndomain = \"{domain}\"\nsmarthost = \"{}\"\n{keys}\n",
        sink.address()
    ));
}

fn offering(keywords: &[&str]) -> SinkOptions {
    let keywords = keywords.iter().map(|keyword| (*keyword).to_owned()).collect();
    SinkOptions { keywords, ..SinkOptions::default() }
}

/// Postfix's sink speaks LMTP, and answers for each recipient behind the dot.
#[test]
fn mail_goes_to_a_foreign_lmtp_server() -> Result<()> {
    if peers::program("smtp-sink").is_none() {
        return peers::skip("smtp-sink is not installed");
    }
    let directory = tempfile::tempdir()?;
    let lmtp = SmtpSink::with(directory.path(), ports::reserve()?, &["-L"])?;
    let mut server = Server::prepare()?;
    server.config.append(&format!(
        "[[route]]\ndomain = \"*\"\nsmarthost = \"{}\"\nprotocol = \"lmtp\"\nretry = [\"1s\"]\n",
        lmtp.address()
    ));
    server.start()?;
    for number in 0..20 {
        send(&server, &["<b@b.test>", "<c@b.test>", "<d@d.test>"], &format!("lmtp-{number}"))?;
    }
    server.wait_drained(SOON)?;
    let events = server.wait_events("delivered", 60)?;
    assert_eq!(paths(&events, "delivered").len(), 60);
    wait_until("the messages at smtp-sink", SOON, || Ok(lmtp.count()? >= 20))?;
    Ok(())
}

#[test]
fn each_recipient_has_its_own_outcome_by_lmtp() -> Result<()> {
    let greeted = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&greeted);
    let sink = Sink::scripted(move |step| match step {
        Step::Ehlo(name) => {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push((*name).to_owned());
            Answer::Accept
        }
        Step::Rcpt(to) if to.contains("nobody") => Answer::reply("550 5.1.1 nobody here"),
        Step::Content(delivery) => {
            let replies = delivery.forward_paths.iter().map(|path| match path.as_str() {
                "<full@b.test>" => "552 5.2.2 mailbox full",
                "<later@b.test>" if delivery.forward_paths.len() > 1 => "451 4.2.0 locked",
                _ => "250 2.0.0 stored",
            });
            Answer::reply(&replies.collect::<Vec<_>>().join("\r\n"))
        }
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    route(&mut server, "*", &sink, "protocol = \"lmtp\"\nretry = [\"1s\"]");
    server.start()?;
    let to = ["<b@b.test>", "<nobody@b.test>", "<full@b.test>", "<later@b.test>"];
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<>", &to, &message::build("each", 1_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    server.wait_drained(SOON)?;
    server.wait_events("delivered", 2)?;
    server.wait_events("deferred", 1)?;
    let events = server.wait_events("bounced", 2)?;
    assert_eq!(paths(&events, "delivered"), ["b@b.test", "later@b.test"]);
    assert_eq!(paths(&events, "bounced"), ["full@b.test", "nobody@b.test"]);
    assert_eq!(paths(&events, "deferred"), ["later@b.test"]);
    // Who has it does not get it again.
    let taken: Vec<_> = sink.deliveries().into_iter().map(|one| one.forward_paths).collect();
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert_eq!(taken[1], ["<later@b.test>"]);
    assert_eq!(sink.violations(), Vec::<String>::new());
    Ok(())
}

/// A receiver that cannot cope with what it offers, and one that can, behind two routes.
#[test]
fn what_a_route_leaves_out_is_not_used_there() -> Result<()> {
    let mails = Arc::new(Mutex::new(Vec::<String>::new()));
    let sink = {
        let mails = Arc::clone(&mails);
        Sink::with(
            ports::reserve()?,
            offering(&["SIZE 52428800", "8BITMIME", "DSN"]),
            move |step| {
                if let Step::Mail(text) | Step::Rcpt(text) = step {
                    mails.lock().unwrap_or_else(PoisonError::into_inner).push((*text).to_owned());
                }
                Answer::Accept
            },
        )?
    };
    let mut server = Server::prepare()?;
    server.config.set("delivery", "extensions_off", "[\"SIZE\"]");
    route(&mut server, "plain.test", &sink, "extensions_off = [\"size\", \"DSN\"]");
    route(&mut server, "full.test", &sink, "extensions_off = []");
    route(&mut server, "*", &sink, "");
    server.start()?;
    for (domain, size, dsn) in
        [("plain.test", false, false), ("full.test", true, true), ("other.test", false, true)]
    {
        mails.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO client.test", 250)?;
        client.expect("MAIL FROM:<a@a.test> RET=HDRS ENVID=x", 250)?;
        client.expect(&format!("RCPT TO:<b@{domain}> NOTIFY=FAILURE"), 250)?;
        client.expect("DATA", 354)?;
        client.send(&message::stuff(&message::build(domain, 1_000)))?;
        client.expect_reply(250)?;
        server.wait_drained(SOON)?;
        let said = mails.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
        assert_eq!(said.contains("SIZE="), size, "{domain}: {said}");
        assert_eq!(said.contains("ENVID=x"), dsn, "{domain}: {said}");
        assert_eq!(said.contains("NOTIFY=FAILURE"), dsn, "{domain}: {said}");
    }
    assert_eq!(sink.violations(), Vec::<String>::new());
    Ok(())
}

/// RFC 9422: a receiver that says what it takes is never asked for more.
#[test]
fn limits_that_a_receiver_tells_of_are_kept() -> Result<()> {
    let sink = Sink::with(
        ports::reserve()?,
        offering(&["PIPELINING", "LIMITS MAILMAX=2 RCPTMAX=3"]),
        |_| Answer::Accept,
    )?;
    let server = Server::relaying_to(sink.address())?;
    let to: Vec<_> = (0..10).map(|number| format!("<r{number}@b.test>")).collect();
    let to: Vec<_> = to.iter().map(String::as_str).collect();
    send(&server, &to, "limits")?;
    server.wait_drained(SOON)?;
    let taken = sink.accepted();
    let sizes: Vec<_> = taken.iter().map(|one| one.forward_paths.len()).collect();
    assert_eq!(sizes.iter().sum::<usize>(), 10, "{sizes:?}");
    assert_eq!(sizes.iter().max(), Some(&3), "{sizes:?}");
    for connection in taken.iter().map(|one| one.connection) {
        let count = taken.iter().filter(|one| one.connection == connection).count();
        assert!(count <= 2, "{count} transactions over connection {connection}");
    }
    let events = server.wait_events("delivered", 10)?;
    assert_eq!(paths(&events, "delivered").len(), 10);
    assert!(paths(&events, "deferred").is_empty(), "nobody has to wait for it");
    Ok(())
}
