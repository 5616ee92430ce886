//! Mail that is to be delivered by a time (DELIVERBY, RFC 2852).

use anyhow::{Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Delivery, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

/// What puts off every message that is no report, until it is told otherwise.
fn sink(offers: bool, puts_off: bool) -> Result<Sink> {
    let mut options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    options.keywords.extend(offers.then(|| "DELIVERBY".to_owned()));
    Sink::with(ports::reserve()?, options, move |step| match step {
        Step::Mail(from) if puts_off && !from.starts_with("FROM:<>") => {
            Answer::reply("451 4.3.0 not now")
        }
        _ => Answer::Accept,
    })
}

fn server(sink: &Sink) -> Result<Server> {
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("listener.main", "deliver_by", "true")
        .set("listener.main", "deliver_by_min", "\"1s\"")
        .set("delivery", "retry", "[\"1h\"]");
    server.start()?;
    Ok(server)
}

fn send(server: &Server, parameters: &str, id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO client.test", 250)?;
    ensure!(hello.text.contains("DELIVERBY 1"), "{hello:?}");
    let from = format!("<author@a.test>{parameters}");
    let reply = client.message(&from, &["<b@b.test>"], &message::build(id, 800))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

/// The reports that have come to the author.
fn reports(sink: &Sink) -> Vec<String> {
    let accepted = sink.accepted().into_iter();
    let reports = accepted.filter(|one| one.reverse_path.starts_with("<>"));
    reports.map(|one| String::from_utf8_lossy(&one.content).into_owned()).collect()
}

fn messages(sink: &Sink) -> Vec<Delivery> {
    let accepted = sink.accepted().into_iter();
    accepted.filter(|one| one.reverse_path.starts_with("<author@")).collect()
}

fn wait_report(sink: &Sink) -> Result<String> {
    wait_until("a report", SOON * 2, || Ok(!reports(sink).is_empty()))?;
    let mut all = reports(sink);
    ensure!(all.len() == 1, "{all:?}");
    Ok(all.remove(0))
}

fn check(report: &str, words: &[&str]) {
    for words in words {
        assert!(report.contains(words), "{words:?} is not in:\n{report}");
    }
}

/// What is left goes on to a host that sees to it, and nobody is told.
#[test]
fn what_is_left_of_the_time_goes_on() -> Result<()> {
    let sink = sink(true, false)?;
    let server = server(&sink)?;
    for (parameter, mode) in [(" BY=600;R", ";R"), (" BY=600;N", ";N"), (" BY=-600;N", ";N")] {
        let before = messages(&sink).len();
        send(&server, parameter, "passed-on")?;
        wait_until("a message", SOON * 2, || Ok(messages(&sink).len() > before))?;
        let last = messages(&sink).pop().map(|one| one.reverse_path).unwrap_or_default();
        let value = last.split(" BY=").nth(1).unwrap_or_default();
        let seconds: i32 = value.strip_suffix(mode).unwrap_or_default().parse()?;
        if parameter.contains('-') {
            assert!((-700..=-600).contains(&seconds), "{last}");
        } else {
            assert!((500..600).contains(&seconds), "whole seconds that are left: {last}");
        }
    }
    let received = server.wait_events("received", 3)?;
    let modes = received.iter().filter(|one| one.kind == "received");
    let modes: Vec<_> = modes.map(|one| one.fields["deliver_by_mode"].clone()).collect();
    assert_eq!(modes, ["return", "notify", "notify"]);
    assert_eq!(server.metrics()?.count("ringpost_messages_deliver_by_total"), 3);
    server.wait_drained(SOON)?;
    assert_eq!(reports(&sink), NONE);
    Ok(())
}

/// A host without it gets nothing that is to be returned in time; of the rest the author is told.
#[test]
fn a_host_that_does_not_see_to_it_gets_what_may_be_late() -> Result<()> {
    for (mode, action, status) in [("R", "failed", "5.3.3"), ("N", "relayed", "2.")] {
        let sink = sink(false, false)?;
        let server = server(&sink)?;
        send(&server, &format!(" BY=600;{mode}"), "not-seen-to")?;
        let report = wait_report(&sink)?;
        check(&report, &[&format!("Action: {action}\r\n"), &format!("Status: {status}")]);
        check(&report, &["Deliver-By-Date: "]);
        let taken = messages(&sink);
        assert_eq!(taken.len(), usize::from(mode == "N"), "{taken:?}");
        assert!(taken.iter().all(|one| !one.reverse_path.contains("BY=")), "{taken:?}");
        server.wait_drained(SOON)?;
    }
    Ok(())
}

/// The next attempt is an hour away, and by then the host would take it: but the time ends before. The server
/// may have been killed meanwhile.
#[test]
fn what_is_not_delivered_in_time_comes_back() -> Result<()> {
    for kills in [true, false] {
        let sink = sink(true, true)?;
        let mut server = server(&sink)?;
        send(&server, " BY=2;R", "too-late")?;
        server.wait_events("deferred", 1)?;
        if kills {
            server.kill()?;
            sink.accept_all();
            server.start()?;
        }
        let report = wait_report(&sink)?;
        check(&report, &["Action: failed\r\n", "Status: 5.4.7\r\n", "Deliver-By-Date: "]);
        assert_eq!(messages(&sink).len(), 0);
        server.wait_drained(SOON)?;
    }
    Ok(())
}

#[test]
fn the_author_is_told_once_that_it_is_late_and_it_is_delivered_all_the_same() -> Result<()> {
    let sink = sink(true, true)?;
    let mut server = server(&sink)?;
    send(&server, " BY=2;N", "late")?;
    let report = wait_report(&sink)?;
    check(&report, &["Action: delayed\r\n", "Status: 4.4.7\r\n", "Will-Retry-Until: "]);
    // It is remembered over a kill, and the next host is told. Not before it is known that the report has
    // arrived, which would come again.
    server.wait_events("delivered", 1)?;
    server.kill()?;
    sink.accept_all();
    server.config.set("delivery", "retry", "[\"1s\"]");
    server.start()?;
    wait_until("the message", SOON * 2, || Ok(!messages(&sink).is_empty()))?;
    let mail = messages(&sink).remove(0).reverse_path;
    assert!(mail.contains(" BY=-") && mail.ends_with(";N"), "{mail}");
    server.wait_drained(SOON)?;
    assert_eq!(reports(&sink).len(), 1);
    Ok(())
}

/// The twin: a listener that does not offer it does not take it.
#[test]
fn where_it_is_not_offered_it_is_not_taken() -> Result<()> {
    let sink = sink(true, false)?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO client.test", 250)?;
    assert!(!hello.text.contains("DELIVERBY"), "{hello:?}");
    client.expect("MAIL FROM:<a@a.test> BY=5;N", 555)?;
    Ok(())
}
