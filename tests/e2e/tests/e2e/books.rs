//! The server's own books: `/metrics`, `/health` and the event log agree with each other and with
//! what was really received and sent.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result};
use ringpost_e2e::events;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::metrics::{self, Metrics};
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_for, wait_until};

fn outcomes(metrics: &Metrics, outcome: &str) -> u64 {
    metrics.count_where("ringpost_outcomes_total", &format!("outcome=\"{outcome}\""))
}

#[test]
fn what_came_in_went_out_or_is_still_there() -> Result<()> {
    // A tenth of the recipients is refused for good, a tenth is put off for ever.
    let digit = |to: &str| to.split_once('@').and_then(|(local, _)| local.chars().last());
    let sink = Sink::scripted(move |step| match step {
        Step::Rcpt(to) if digit(to) == Some('3') => Answer::reply("550 5.1.1 nobody"),
        Step::Rcpt(to) if digit(to) == Some('7') => Answer::reply("450 4.2.0 later"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("delivery", "retry", "[\"1h\"]");
    server.start()?;
    let messages = 400;
    let mut load = Load::new(server.smtp(), "books", 10, Some(messages));
    load.recipients = 2;
    let book = load.run()?;
    assert_eq!(book.len() as u64, messages);
    // Every message of the load has two recipients with the same last digit.
    let tenth = messages / 10 * 2;
    let count = usize::try_from(tenth)?;
    server.wait_events("bounced", count)?;
    server.wait_events("deferred", count)?;
    // The gauge is some time older than the counters.
    let metrics = wait_for("the rest of the mail", SOON, || {
        let metrics = server.metrics()?;
        let ends = outcomes(&metrics, "delivered") + outcomes(&metrics, "bounced");
        let came = metrics.count("ringpost_recipients_received_total")
            + metrics.count("ringpost_dsns_total");
        let queued = metrics.count("ringpost_queue_recipients");
        Ok((queued == tenth && came == ends + queued).then_some(metrics))
    })?;
    let dsns = metrics.count("ringpost_dsns_total");
    let received = metrics.count("ringpost_recipients_received_total");
    assert_eq!(metrics.count("ringpost_messages_received_total"), messages);
    assert_eq!(received, messages * 2);
    assert_eq!(outcomes(&metrics, "bounced"), tenth);
    assert_eq!(outcomes(&metrics, "deferred"), tenth);
    assert_eq!(outcomes(&metrics, "expired"), 0);
    assert!(dsns > 0);
    // A DSN has one recipient, and is delivered like everything else.
    let queued = metrics.count("ringpost_queue_recipients");
    assert_eq!(
        received + dsns,
        outcomes(&metrics, "delivered") + outcomes(&metrics, "bounced") + queued,
        "received + DSNs = delivered + bounced + queued"
    );
    assert_eq!(sink.accepted_count() as u64, messages * 8 / 10 + dsns);
    // The event log says the same.
    let records =
        server.wait_events("delivered", usize::try_from(outcomes(&metrics, "delivered"))?)?;
    assert_eq!(events::distinct(&records, "bounced"), count);
    assert_eq!(events::distinct(&records, "deferred"), count);
    assert_eq!(events::distinct(&records, "delivered") as u64, outcomes(&metrics, "delivered"));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut received_ids = HashSet::new();
    for record in &records {
        *kinds.entry(record.kind.as_str()).or_default() += 1;
        if record.kind == "received" {
            received_ids.insert(record.id.clone());
        }
    }
    assert_eq!(received_ids.len() as u64, messages + dsns, "{kinds:?}");
    for record in &records {
        assert!(received_ids.contains(&record.id), "an event without a reception: {record:?}");
    }
    assert_eq!(metrics.count("ringpost_event_records_lost_total"), 0);
    assert_eq!(metrics.count("ringpost_panics_contained_total"), 0);
    Ok(())
}

#[test]
fn the_books_survive_a_restart() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Mail(_) => Answer::reply("450 4.2.0 later"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("delivery", "retry", "[\"1h\"]");
    server.start()?;
    Load::new(server.smtp(), "restart", 4, Some(60)).run()?;
    server.wait_events("deferred", 60)?;
    server.terminate()?;
    server.start()?;
    wait_until("the queue as it was", SOON, || {
        let metrics = server.metrics()?;
        Ok(metrics.count("ringpost_queue_messages") == 60
            && metrics.count("ringpost_messages_recovered_total") == 60)
    })?;
    let records = server.events()?;
    assert_eq!(events::distinct(&records, "received"), 60);
    assert_eq!(sink.accepted_count(), 0, "what is not due is not tried");
    Ok(())
}

#[test]
fn an_event_says_what_the_remote_said() -> Result<()> {
    let sink = Sink::scripted(|step| match step {
        Step::Rcpt(_) => Answer::reply("550-5.7.1 no \"mail\" from\r\n550 5.7.1 you \\ \u{1}bell"),
        _ => Answer::Accept,
    })?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<>", &["<b@b.test>"], &message::build("said", 500))?;
    assert_eq!(reply.code, 250);
    let records = server.wait_events("bounced", 1)?;
    let fields =
        &records.iter().find(|one| one.kind == "bounced").context("no such record")?.fields;
    assert_eq!(fields["forward_path"], "b@b.test");
    assert_eq!(fields["reverse_path"], "");
    assert_eq!(fields["stage"], "rcpt");
    assert_eq!(fields["remote"], sink.address().to_string());
    assert_eq!(fields["reply"]["code"], 550);
    assert_eq!(fields["reply"]["enhanced"], "5.7.1");
    let text = fields["reply"]["text"].as_str().context("no text")?;
    assert!(text.contains("no \"mail\" from") && text.contains("you \\"), "{text:?}");
    assert!(fields.get("dsn_id").is_none(), "no DSN to a null reverse-path");
    Ok(())
}

#[test]
fn the_control_address_answers() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let (status, body) = metrics::fetch(server.control(), "/health")?;
    assert_eq!(status, 200, "{body}");
    let (status, page) = metrics::fetch(server.control(), "/metrics")?;
    assert_eq!(status, 200);
    for name in ["ringpost_messages_received_total", "ringpost_commit_syncs_total"] {
        assert!(page.contains(&format!("# HELP {name} ")), "{name} is explained");
        assert!(page.contains(&format!("# TYPE {name} counter")), "{name} has a type");
    }
    let (status, _) = metrics::fetch(server.control(), "/nothing-here")?;
    assert_eq!(status, 404);
    Ok(())
}
