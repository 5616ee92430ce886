//! Urgent mail (RFC 6710) goes first, also after a restart, and its priority goes on with it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions, Step};

fn sink(keyword: Option<&str>) -> Result<Sink> {
    let mut options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    options.keywords.extend(keyword.map(str::to_owned));
    Sink::with(ports::reserve()?, options, |_| Answer::Accept)
}

/// A server that delivers to `sink` over one connection, and takes priorities if it is told to.
fn server(sink: &Sink, offers: bool) -> Result<Server> {
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("delivery", "connections_per_site_max", "1")
        .set("listener.main", "future_release_max", "\"8s\"")
        .set("listener.main", "mt_priority", if offers { "true" } else { "false" })
        .set("listener.main", "mt_priority_max", "5");
    server.start()?;
    Ok(server)
}

/// Sends messages of these priorities, all to be let go at the same time.
fn send_held(server: &Server, levels: &[Option<i8>]) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO client.test", 250)?;
    let until = hello.text.split_whitespace().skip_while(|word| *word != "8").nth(1);
    let until = until.with_context(|| format!("{hello:?}"))?;
    for (number, level) in levels.iter().enumerate() {
        let level = level.map_or(String::new(), |level| format!(" MT-PRIORITY={level}"));
        let reverse_path = format!("<a@a.test> HOLDUNTIL={until}{level}");
        let content = message::build(&format!("m{number}"), 1_000);
        let reply = client.message(&reverse_path, &["<b@b.test>"], &content)?;
        ensure!(reply.code == 250, "{reply:?}");
    }
    Ok(())
}

/// The numbers of the messages in the order in which they came, and the priorities they came with.
fn arrivals(sink: &Sink) -> Vec<(String, String)> {
    let told = |path: &str| path.split_once(" MT-PRIORITY=").map(|(_, level)| level.to_owned());
    let accepted = sink.accepted().into_iter();
    accepted
        .map(|one| (format!("{:?}", one.mark), told(&one.reverse_path).unwrap_or_default()))
        .collect()
}

fn intact(number: usize) -> String {
    format!("{:?}", message::Mark::Intact(format!("m{number}")))
}

#[test]
fn it_goes_first_whatever_happens_in_between() -> Result<()> {
    let levels = [None, Some(-4), Some(0), Some(5), Some(2), Some(5)];
    for offers_on in [true, false] {
        let sink = sink(offers_on.then_some("MT-PRIORITY"))?;
        let mut server = server(&sink, true)?;
        send_held(&server, &levels)?;
        if offers_on {
            server.kill()?;
        } else {
            server.terminate()?;
        }
        server.start()?;
        let events = server.wait_events("delivered", levels.len())?;
        let expected = [(3, "5"), (5, "5"), (4, "2"), (0, ""), (2, ""), (1, "-4")];
        let expected = expected.map(|(number, level)| {
            (intact(number), if offers_on { level.to_owned() } else { String::new() })
        });
        assert_eq!(arrivals(&sink), expected);
        let received = events.iter().filter(|event| event.kind == "received");
        // After a crash a record may come twice.
        let told: BTreeMap<_, _> =
            received.map(|event| (&event.id, event.fields["priority"].as_i64())).collect();
        let told: Vec<_> = told.into_values().collect();
        assert_eq!(told, [None, Some(-4), None, Some(5), Some(2), Some(5)]);
        let of =
            |number: usize| String::from_utf8_lossy(&sink.accepted()[number].content).into_owned();
        assert!(of(0).contains("\tpriority 5;\r\n"), "{}", of(0));
        assert!(!of(3).contains("\tpriority"), "nothing was said of it: {}", of(3));
        assert!(of(4).contains("\tpriority 0;\r\n"), "{}", of(4));
        assert_eq!(sink.violations(), crate::NONE);
    }
    Ok(())
}

/// The twin: where priorities are not taken, mail goes as it came.
#[test]
fn without_them_mail_goes_as_it_came() -> Result<()> {
    let sink = sink(Some("MT-PRIORITY"))?;
    let server = server(&sink, false)?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO client.test", 250)?;
    assert!(!hello.text.contains("MT-PRIORITY"), "{hello:?}");
    client.expect("MAIL FROM:<a@a.test> MT-PRIORITY=1", 555)?;
    drop(client);
    send_held(&server, &[None; 6])?;
    server.wait_events("delivered", 6)?;
    let expected: Vec<_> = (0..6).map(|number| (intact(number), String::new())).collect();
    assert_eq!(arrivals(&sink), expected);
    Ok(())
}

#[test]
fn what_is_too_urgent_is_said_to_be_less_so() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(to) if to.contains("nobody@") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Accept,
    })?;
    let server = server(&sink, true)?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO client.test", 250)?;
    assert!(hello.text.contains("MT-PRIORITY"), "{hello:?}");
    client.expect("MAIL FROM:<a@a.test> MT-PRIORITY=10", 501)?;
    let reply = client.expect("MAIL FROM:<a@a.test> MT-PRIORITY=9", 250)?;
    assert!(reply.text.starts_with("2.3.6 5 ") || reply.text.starts_with("5 "), "{reply:?}");
    client.expect("RSET", 250)?;
    // A report is as urgent as what it tells of.
    let content = message::build("lost", 500);
    let reply = client.message("<a@a.test> MT-PRIORITY=3", &["<nobody@b.test>"], &content)?;
    ensure!(reply.code == 250, "{reply:?}");
    let events = server.wait_events("delivered", 1)?;
    let reports = events.iter().filter(|event| event.fields["protocol"] == "internal");
    let told: Vec<_> = reports.map(|event| event.fields["priority"].as_i64()).collect();
    assert_eq!(told, [Some(3)]);
    let metrics = server.metrics()?;
    assert_eq!(metrics.count("ringpost_messages_prioritized_total"), 1);
    let hits = metrics.count_where("ringpost_limit_hits_total", "limit=\"mt_priority_max\"");
    assert_eq!(hits, 1);
    Ok(())
}
