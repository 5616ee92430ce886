//! Mail that waits is tried now, because a client says by ETRN that its host is there, or an operator does.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, Step};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::NONE;

/// A sink that puts off what is for `*.later.test`, on a server with two shards that tries again in an hour.
fn server(sink: &Sink, from: &str) -> Result<Server> {
    let mut server = Server::with_shards(2, sink.address())?;
    server
        .config
        .set("delivery", "retry", "[\"1h\"]")
        .set("delivery", "connections_per_site_max", "3")
        .set("listener.main", "etrn_from", from);
    server.start()?;
    Ok(server)
}

fn put_off(step: &Step<'_>) -> Answer {
    match step {
        Step::Rcpt(path) if path.contains("later.test>") => Answer::reply("450 4.2.0 later"),
        _ => Answer::Accept,
    }
}

/// Sends `count` messages to each domain, and waits until all of them are deferred.
fn defer(server: &Server, domains: &[&str], count: usize) -> Result<()> {
    for domain in domains {
        for number in 0..count {
            // A connection for each, so that both shards have some.
            let mut client = Client::connect(server.smtp())?;
            let content = message::build(&format!("{domain}-{number}"), 300);
            let path = format!("<u@{domain}>");
            ensure!(client.message("<s@s.test>", &[&path], &content)?.code == 250);
        }
    }
    let all = (domains.len() * count) as u64;
    wait_until("all deferred", SOON, || {
        Ok(server.metrics()?.count("ringpost_recipients_waiting") == all)
    })
}

#[test]
fn etrn_has_a_domain_tried_now_in_all_shards() -> Result<()> {
    let sink = Sink::scripted(put_off)?;
    let server = server(&sink, "[\"127.0.0.0/8\"]")?;
    let domains = ["later.test", "sub.later.test", "other-later.test"];
    defer(&server, &domains, 20)?;
    assert_eq!(sink.accepted_ids(0).into_iter().collect::<Vec<_>>(), NONE);
    sink.accept_all();
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO c.test", 250)?;
    ensure!(hello.text.contains("ETRN"), "{hello:?}");
    client.expect("ETRN #queue", 459)?;
    client.expect("ETRN a b", 501)?;
    client.expect("ETRN nobody.test", 251)?;
    let reply = client.expect("ETRN Later.test", 253)?;
    ensure!(reply.text.contains("20 pending messages for node later.test started"), "{reply:?}");
    wait_until("the domain", SOON, || Ok(sink.accepted_count() == 20))?;
    ensure!(sink.accepted().iter().all(|one| one.forward_paths == ["<u@later.test>"]));
    client.expect("ETRN later.test", 251)?;
    let reply = client.expect("ETRN @later.test", 253)?;
    ensure!(reply.text.contains("20 pending"), "{reply:?}");
    wait_until("the domain below", SOON, || Ok(sink.accepted_count() == 40))?;
    let metrics = server.metrics()?;
    assert_eq!(metrics.count("ringpost_flushes_total"), 4);
    assert_eq!(metrics.count("ringpost_recipients_flushed_total"), 40);
    // The twin: what nobody asked for waits.
    assert_eq!(metrics.count("ringpost_recipients_waiting"), 20);
    ensure!(sink.violations().is_empty(), "{:?}", sink.violations());
    Ok(())
}

#[test]
fn clients_that_may_not_hear_that_there_is_no_etrn() -> Result<()> {
    let sink = Sink::scripted(put_off)?;
    let server = server(&sink, "[\"192.0.2.0/24\"]")?;
    defer(&server, &["later.test"], 1)?;
    sink.accept_all();
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("EHLO c.test", 250)?;
    ensure!(!hello.text.contains("ETRN"), "{hello:?}");
    client.expect("ETRN later.test", 502)?;
    client.expect("HELP ETRN", 504)?;
    assert_eq!(server.metrics()?.count("ringpost_recipients_flushed_total"), 0);
    Ok(())
}

/// All of a large queue at once: what is brought forward takes its way as other mail does.
#[test]
fn an_operator_has_all_mail_tried_without_a_stampede() -> Result<()> {
    let sink = Sink::scripted(put_off)?;
    let mut server = server(&sink, "[]")?;
    defer(&server, &["later.test", "x.later.test"], 50)?;
    sink.accept_all();
    let flush = |server: &Server, arguments: &[&str]| -> Result<(bool, String)> {
        let output = server.queue_command(arguments)?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    };
    let (success, text) = flush(&server, &["flush", "--domain", "x.later.test"])?;
    ensure!(success && text == "trying 50 recipient(s) now\n", "{text}");
    wait_until("the domain", SOON, || Ok(sink.accepted_count() == 50))?;
    let (success, text) = flush(&server, &["flush", "--domain", "test", "--subdomains"])?;
    ensure!(success && text == "trying 50 recipient(s) now\n", "{text}");
    wait_until("the rest", SOON, || Ok(sink.accepted_count() == 100))?;
    let (success, text) = flush(&server, &["flush", "--all"])?;
    ensure!(success && text == "trying 0 recipient(s) now\n", "{text}");
    // Three connections of each shard's at a time, as the configuration says.
    let most = sink.open_connections_most();
    ensure!((1..=6).contains(&most), "{most} connections");
    let (success, text) = flush(&server, &["flush", "--domain", "a b"])?;
    ensure!(!success && text.contains("not a domain"), "{text}");
    server.terminate()?;
    let (success, text) = flush(&server, &["flush", "--all"])?;
    ensure!(!success && text.contains("no server answers"), "{text}");
    Ok(())
}

#[test]
fn smtplib_asks_by_etrn() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = Sink::scripted(put_off)?;
    let server = server(&sink, "[\"127.0.0.1\"]")?;
    defer(&server, &["later.test"], 2)?;
    sink.accept_all();
    let script = "import smtplib, sys\n\
        client = smtplib.SMTP('127.0.0.1', int(sys.argv[1]))\n\
        client.ehlo('c.test')\n\
        assert client.has_extn('etrn')\n\
        print(client.docmd('ETRN', 'later.test'))\n\
        client.quit()\n";
    let port = server.smtp().port().to_string();
    let output = Command::new(python).args(["-c", script, &port]).output().context("python3")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(
        text.contains("(253, b'2.0.0 OK, 2 pending messages for node later.test started')"),
        "{text}"
    );
    wait_until("both", SOON, || Ok(sink.accepted_count() == 2))
}

/// So many orders at a time as may be, and no more: the shards have others to listen to.
#[test]
fn orders_beyond_the_limit_are_put_off_and_hold_up_nobody() -> Result<()> {
    let sink = Sink::scripted(put_off)?;
    let mut server = server(&sink, "[\"127.0.0.0/8\"]")?;
    let mut clients: Vec<_> =
        (0..60).map(|_| Client::connect(server.smtp())).collect::<Result<_>>()?;
    for client in &mut clients {
        client.expect("EHLO c.test", 250)?;
    }
    // Before all shards know what is in their logs they refuse for another reason.
    for client in &mut clients {
        wait_until("orders are taken", SOON, || {
            Ok(client.command("ETRN nobody.test")?.code == 251)
        })?;
    }
    let (mut done, mut put_off) = (0, 0);
    // A tick of a shard may come between any two of them, but hardly between all.
    for _ in 0..50 {
        for client in &mut clients {
            client.send(b"ETRN nobody.test\r\n")?;
        }
        for client in &mut clients {
            match client.reply()?.code {
                251 => done += 1,
                458 => put_off += 1,
                code => anyhow::bail!("{code}"),
            }
        }
        if put_off > 0 {
            break;
        }
    }
    ensure!(done > 0 && put_off > 0, "{done} done, {put_off} put off");
    wait_until("the limit in the metrics", SOON, || {
        let hits = server.metrics()?;
        Ok(hits.count_where("ringpost_limit_hits_total", "limit=\"flushes_max\"") == put_off)
    })?;
    // Now it has room again, and heeds what it is told.
    for client in &mut clients {
        client.send(b"ETRN nobody.test\r\n")?;
    }
    server.terminate()
}
