//! What clients ask to be told (RFC 3461): passed on where the next hop reports, done by us where it does not.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Delivery, Sink, SinkOptions, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

/// Parameters of MAIL, and as many recipients with theirs as there are kinds.
const MAIL: &str = "MAIL FROM:<author@a.test> RET=FULL ENVID=QQ+2B314";
const RCPT: [&str; 3] = [
    "RCPT TO:<plain@b.test>",
    "RCPT TO:<never@b.test> NOTIFY=NEVER",
    "RCPT TO:<all@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Alias@a.test",
];

/// Sends a message by hand.
fn send(to: std::net::SocketAddr, mail: &str, rcpt: &[&str], id: &str) -> Result<()> {
    let mut client = Client::connect(to)?;
    client.expect("EHLO client.test", 250)?;
    client.expect(mail, 250)?;
    for line in rcpt {
        client.expect(line, 250)?;
    }
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&message::build(id, 800)))?;
    client.expect_reply(250)?;
    client.expect("QUIT", 221)?;
    Ok(())
}

fn options(dsn: bool) -> SinkOptions {
    let mut options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    options.keywords.extend(dsn.then(|| "DSN".to_owned()));
    options
}

/// A receiver that keeps what it gets, and refuses recipients whose name begins so.
fn sink(dsn: bool, refused: &'static str) -> Result<Sink> {
    Sink::with(ports::reserve()?, options(dsn), move |step| match step {
        Step::Rcpt(to) if !refused.is_empty() && to.contains(refused) => {
            Answer::reply("550 5.1.1 no such mailbox here")
        }
        _ => Answer::Accept,
    })
}

/// The message with a mark, and the reports, once there are so many of them.
fn taken(sink: &Sink, id: &str, reports: usize) -> Result<(Vec<Delivery>, Vec<String>)> {
    let split = || -> (Vec<Delivery>, Vec<Delivery>) {
        sink.accepted().into_iter().partition(|one| one.mark.id() == Some(id))
    };
    wait_until("the message and the reports", SOON * 2, || {
        let (messages, found) = split();
        Ok(!messages.is_empty() && found.len() >= reports)
    })?;
    let (messages, found) = split();
    for report in &found {
        ensure!(report.reverse_path.split(' ').next() == Some("<>"), "{report:?}");
        ensure!(report.forward_paths == ["<author@a.test>"], "{report:?}");
    }
    let text = |one: &Delivery| String::from_utf8_lossy(&one.content).into_owned();
    Ok((messages, found.iter().map(text).collect()))
}

fn check(report: &str, with: &[&str], without: &[&str]) {
    for words in with {
        assert!(report.contains(words), "{words:?} is not in:\n{report}");
    }
    for words in without {
        assert!(!report.contains(words), "{words:?} is in:\n{report}");
    }
}

#[test]
fn parameters_go_on_to_a_host_that_offers_dsn_and_nothing_is_reported_here() -> Result<()> {
    let sink = sink(true, "")?;
    let server = Server::relaying_to(sink.address())?;
    send(server.smtp(), MAIL, &RCPT, "passed-on")?;
    server.wait_drained(SOON)?;
    let (messages, reports) = taken(&sink, "passed-on", 0)?;
    assert_eq!(reports, NONE);
    let [one] = &messages[..] else { anyhow::bail!("{messages:?}") };
    assert!(one.reverse_path.ends_with(" RET=FULL ENVID=QQ+2B314"), "{}", one.reverse_path);
    assert_eq!(
        one.forward_paths,
        [
            "<plain@b.test>",
            "<never@b.test> NOTIFY=NEVER ORCPT=rfc822;never@b.test",
            "<all@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;Alias@a.test",
        ]
    );
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

#[test]
fn success_is_reported_where_the_next_hop_does_not() -> Result<()> {
    let sink = sink(false, "")?;
    let server = Server::relaying_to(sink.address())?;
    send(server.smtp(), MAIL, &RCPT, "relayed")?;
    server.wait_drained(SOON)?;
    let (messages, reports) = taken(&sink, "relayed", 1)?;
    assert_eq!(messages[0].forward_paths, ["<plain@b.test>", "<never@b.test>", "<all@b.test>"]);
    let [report] = &reports[..] else { anyhow::bail!("{reports:?}") };
    check(
        report,
        &[
            "\r\nOriginal-Envelope-Id: QQ+314\r\n",
            "\r\nOriginal-Recipient: rfc822; Alias@a.test\r\nFinal-Recipient: rfc822; all@b.test\r\n\
             Action: relayed\r\nStatus: 2.",
            "\r\nContent-Type: text/rfc822-headers\r\n",
        ],
        &["plain@b.test", "never@b.test"],
    );
    let metrics = server.metrics()?;
    assert_eq!(metrics.count_where("ringpost_dsns_total", "action=\"relayed\""), 1);
    assert_eq!(metrics.count("ringpost_dsns_total"), 1);
    let events = server.wait_events("delivered", 4)?;
    let with_report = events.iter().filter(|event| event.fields.get("dsn_id").is_some());
    let paths: Vec<_> = with_report.filter_map(|event| event.forward_path.as_deref()).collect();
    assert_eq!(paths, ["all@b.test"]);
    Ok(())
}

#[test]
fn failures_are_reported_to_whom_they_matter_with_the_whole_message_if_asked() -> Result<()> {
    let sink = sink(false, "@b.test")?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address()).set("queue", "return_size_max", "\"2KiB\"");
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO client.test", 250)?;
    for (mail, size) in [(MAIL, 800), (MAIL, 4000), ("MAIL FROM:<author@a.test> RET=HDRS", 800)] {
        client.expect(mail, 250)?;
        for rcpt in RCPT {
            client.expect(rcpt, 250)?;
        }
        client.expect("DATA", 354)?;
        client.send(&message::stuff(&message::build("refused", size)))?;
        client.expect_reply(250)?;
    }
    wait_until("the reports", SOON * 2, || Ok(sink.accepted_count() == 3))?;
    server.wait_drained(SOON)?;
    let reports = sink.accepted();
    assert_eq!(reports.len(), 3);
    let mut whole = 0;
    for report in &reports {
        assert_eq!(report.forward_paths, ["<author@a.test>"]);
        let report = String::from_utf8_lossy(&report.content);
        check(&report, &["all@b.test", "plain@b.test", "Action: failed"], &["never@b.test"]);
        let is_whole = report.contains("\r\nContent-Type: message/rfc822\r\n");
        whole += usize::from(is_whole);
        assert_ne!(is_whole, report.contains("\r\nContent-Type: text/rfc822-headers\r\n"));
    }
    assert_eq!(whole, 1, "one asked for the whole of a small message");
    let metrics = server.metrics()?;
    let limit = "limit=\"return_size_max\"";
    assert_eq!(metrics.count_where("ringpost_limit_hits_total", limit), 1);
    assert_eq!(metrics.count_where("ringpost_dsns_total", "action=\"failed\""), 3);
    Ok(())
}

#[test]
fn what_was_asked_for_survives_a_crash() -> Result<()> {
    let sink = Sink::with(ports::reserve()?, options(false), |step| match step {
        Step::Rcpt(to) if to.contains("@b.test") => Answer::reply("451 4.2.0 later"),
        _ => Answer::Accept,
    })?;
    let mut server = Server::relaying_to(sink.address())?;
    send(server.smtp(), MAIL, &RCPT, "crash")?;
    server.wait_events("deferred", 3)?;
    server.kill()?;
    sink.set_script(|step| match step {
        Step::Rcpt(to) if to.contains("@b.test") && !to.contains("all@") => {
            Answer::reply("550 5.1.1 no such mailbox here")
        }
        _ => Answer::Accept,
    });
    server.start()?;
    let (_, reports) = taken(&sink, "crash", 1)?;
    server.wait_drained(SOON)?;
    let [report] = &reports[..] else { anyhow::bail!("{reports:?}") };
    check(
        report,
        &[
            "\r\nOriginal-Envelope-Id: QQ+314\r\n",
            "\r\nFinal-Recipient: rfc822; plain@b.test\r\nAction: failed\r\n",
            "\r\nOriginal-Recipient: rfc822; Alias@a.test\r\n",
            "\r\nAction: relayed\r\n",
            "\r\nContent-Type: message/rfc822\r\n",
        ],
        &["never@b.test"],
    );
    Ok(())
}

#[test]
fn python_asks_for_reports() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = sink(true, "")?;
    let server = Server::relaying_to(sink.address())?;
    let script = "\
import smtplib, sys
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='python.test', timeout=60) as client:
    client.ehlo()
    assert client.has_extn('dsn'), client.esmtp_features
    client.sendmail('author@a.test', ['b@b.test'], 'Subject: x\\r\\n\\r\\ntext\\r\\n',
                    ['RET=HDRS', 'ENVID=py'], ['NOTIFY=SUCCESS,DELAY', 'ORCPT=rfc822;o@a.test'])
";
    peers::run(Command::new(python).args(["-c", script, &server.smtp().port().to_string()]))?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    let taken = &sink.accepted()[0];
    assert!(taken.reverse_path.ends_with(" RET=HDRS ENVID=py"), "{}", taken.reverse_path);
    assert_eq!(taken.forward_paths, ["<b@b.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;o@a.test"]);
    Ok(())
}

/// A directory that daemons which are not root can walk into.
fn open_directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    peers::run(Command::new("chmod").arg("755").arg(directory.path()))?;
    Ok(directory)
}

/// What of parameters comes out behind another relay and us, in whatever order.
fn has_all_parameters(sink: &Sink, id: &str) -> Result<()> {
    let (messages, reports) = taken(sink, id, 0)?;
    assert_eq!(reports, NONE);
    let mail = &messages[0].reverse_path;
    assert!(mail.contains(" RET=FULL") && mail.contains(" ENVID=QQ314"), "{mail}");
    let paths: Vec<&String> = messages.iter().flat_map(|one| &one.forward_paths).collect();
    let of = |name: &str| paths.iter().find(|path| path.starts_with(name));
    let never = of("<never@b.test>").context("no such recipient")?;
    assert!(never.contains(" NOTIFY=NEVER"), "{never}");
    let all = of("<all@b.test>").context("no such recipient")?;
    assert!(all.contains(" NOTIFY=SUCCESS,FAILURE"), "{all}");
    assert!(all.contains(" ORCPT=rfc822;Alias@a.test"), "{all}");
    Ok(())
}

const PEER_MAIL: &str = "MAIL FROM:<author@a.test> RET=FULL ENVID=QQ314";

#[test]
fn postfix_passes_parameters_on_to_us() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = sink(true, "")?;
    let server = Server::relaying_to(sink.address())?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let settings = format!("relayhost = [127.0.0.1]:{}\n", server.smtp().port());
    let _postfix = Postfix::start(directory.path(), listen, &settings)?;
    send(listen, PEER_MAIL, &RCPT, "postfix-dsn")?;
    has_all_parameters(&sink, "postfix-dsn")
}

/// Postfix gets the parameters from us, and as its own next hop does not report, it does.
#[test]
fn postfix_reports_for_us() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = sink(false, "")?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let settings = format!("relayhost = [127.0.0.1]:{}\n", sink.address().port());
    let postfix = Postfix::start(directory.path(), listen, &settings)?;
    let server = Server::relaying_to(listen)?;
    send(server.smtp(), PEER_MAIL, &RCPT, "postfix-reports")?;
    let (_, reports) = taken(&sink, "postfix-reports", 1).with_context(|| postfix.log())?;
    server.wait_drained(SOON)?;
    assert_eq!(server.metrics()?.count("ringpost_dsns_total"), 0, "it is not for us to report");
    let [report] = &reports[..] else { anyhow::bail!("{reports:?}") };
    check(
        report,
        &["Original-Envelope-Id: QQ314", "Alias@a.test", "all@b.test", "Action: relayed"],
        &["never@b.test", "plain@b.test", "relay.test said"],
    );
    Ok(())
}

#[test]
fn exim_passes_parameters_on_from_us() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = sink(true, "")?;
    let (directory, listen) = (open_directory()?, ports::reserve()?);
    let exim = Exim::start(directory.path(), listen, sink.address())?;
    let server = Server::relaying_to(listen)?;
    send(server.smtp(), PEER_MAIL, &RCPT, "exim-dsn")?;
    has_all_parameters(&sink, "exim-dsn").with_context(|| exim.log())
}
