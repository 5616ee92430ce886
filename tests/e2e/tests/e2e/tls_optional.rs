//! Messages that go on without TLS rather than not at all (`TLS-Required: No`, RFC 8689), to sinks whose TLS
//! is not what the operator asks for.

use anyhow::{Context, Result, ensure};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::tls::{Authority, Certificate};
use ringpost_e2e::tls_sink::{TlsSink, TlsSinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

const OPTIONAL: &str = "TLS-Required: No\r\n";

/// Where TLS is not good: by a certificate of an authority that is none, by none at all, and by what comes in
/// its place.
const SINKS: [(&str, &str); 3] =
    [("stranger.test", "good"), ("plain.test", "none"), ("broken.test", "garbage")];

/// A server that has to verify, a domain for each sink, and one more for the first where senders waive nothing.
fn prepare() -> Result<(Server, Vec<TlsSink>)> {
    let mut server = Server::prepare()?;
    let directory = server.directory().to_owned();
    let authority = Authority::make(&directory, "ca")?;
    let own = Certificate::make(&directory, "own", &["mx.test"])?;
    server.config.set("delivery", "tls", "\"verify\"").set(
        "delivery",
        "tls_ca_file",
        &format!("\"{}\"", authority.file().display()),
    );
    let mut sinks = Vec::new();
    for (domain, how) in SINKS {
        let options = TlsSinkOptions { how, ..TlsSinkOptions::default() };
        let sink = TlsSink::start(&directory, &own, options)?;
        server.config.route(domain, sink.address());
        sinks.push(sink);
    }
    let first = sinks.first().context("no sink")?.address();
    server.config.append(&format!(
        "[[route]]\ndomain = \"strict.test\"\nsmarthost = \"{first}\"\ntls_waivable = false\n"
    ));
    Ok((server, sinks))
}

fn send(server: &Server, to: &str, fields: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let content = format!("Subject: x\r\n{fields}\r\ntext\r\n");
    let reply = client.message("<a@a.test>", &[&format!("<{to}>")], content.as_bytes())?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

fn is_told(server: &Server, kind: &str, to: &str) -> Result<bool> {
    let is_it = |event: &Event| event.kind == kind && event.fields["forward_path"] == to;
    Ok(server.events()?.iter().any(is_it))
}

fn wait(server: &Server, kind: &str, to: &str) -> Result<()> {
    wait_until(&format!("{kind} {to}"), SOON * 2, || is_told(server, kind, to))
}

/// How often a recipient was tried without success.
fn deferrals(server: &Server, to: &str) -> Result<u64> {
    let events = server.events()?;
    let of_one = events.iter().filter(|event| event.fields["forward_path"] == to);
    let of_one = of_one.filter(|event| event.kind == "deferred");
    Ok(of_one.filter_map(|event| event.fields["attempts"].as_u64()).max().unwrap_or(0))
}

#[test]
fn what_may_go_without_tls_does_where_the_operator_lets_it_and_nothing_else() -> Result<()> {
    if let Some(reason) = TlsSink::missing() {
        return peers::skip(reason);
    }
    let (mut server, sinks) = prepare()?;
    server.start()?;
    for (domain, _) in SINKS {
        send(&server, &format!("optional@{domain}"), OPTIONAL)?;
        send(&server, &format!("usual@{domain}"), "TLS-Required: Yes\r\n")?;
    }
    send(&server, "optional@strict.test", OPTIONAL)?;
    // By default the operator's word stays.
    let mut all = vec!["optional@strict.test".to_owned()];
    for (domain, _) in SINKS {
        all.extend(["optional", "usual"].map(|name| format!("{name}@{domain}")));
    }
    wait_until("attempts", SOON * 2, || {
        // What waits at a place that is down is tried in turn.
        let tried = all.iter().map(|to| Ok(deferrals(&server, to)? > 0));
        Ok(tried.collect::<Result<Vec<bool>>>()?.into_iter().all(|one| one))
    })?;
    for sink in &sinks {
        assert_eq!(sink.count("message"), 0, "{:?}", sink.lines());
    }
    let received = server.wait_events("received", all.len())?;
    let noted = received.iter().filter(|event| event.fields["tls_optional"] == true);
    assert_eq!(noted.count(), SINKS.len() + 1);
    let metrics = server.metrics()?;
    assert_eq!(metrics.count("ringpost_messages_tls_optional_total"), SINKS.len() as u64 + 1);

    // What the messages have asked for is remembered over a kill, and the operator lets them.
    server.kill()?;
    server.config.set("delivery", "tls_waivable", "true");
    server.start()?;
    for (domain, _) in SINKS {
        wait(&server, "delivered", &format!("optional@{domain}"))?;
    }
    let kept = ["usual@stranger.test", "optional@strict.test"];
    for to in kept {
        let before = deferrals(&server, to)?;
        wait_until("a further attempt", SOON * 2, || Ok(deferrals(&server, to)? > before))?;
    }
    let events = server.events()?;
    for event in events.iter().filter(|event| event.kind == "delivered") {
        let to = event.fields["forward_path"].as_str().unwrap_or("");
        assert!(to.starts_with("optional@") && !to.ends_with("strict.test"), "{to}");
        let verified = &event.fields["tls_verified"];
        let expected = if to.ends_with("stranger.test") { Some(false) } else { None };
        assert_eq!(verified.as_bool(), expected, "{to}: TLS where it can be had");
    }
    let ways = ["message tls", "message plain", "message plain"];
    for (sink, way) in sinks.iter().zip(ways) {
        assert_eq!((sink.count("message"), sink.count(way)), (1, 1), "{:?}", sink.lines());
    }
    Ok(())
}

#[test]
fn where_the_listener_does_not_look_for_the_field_it_changes_nothing() -> Result<()> {
    if let Some(reason) = TlsSink::missing() {
        return peers::skip(reason);
    }
    let (mut server, sinks) = prepare()?;
    server.config.set("delivery", "tls_waivable", "true");
    server.config.set("listener.main.header", "tls_required", "false");
    server.start()?;
    send(&server, "optional@stranger.test", OPTIONAL)?;
    wait(&server, "deferred", "optional@stranger.test")?;
    let received = server.wait_events("received", 1)?;
    assert!(received.iter().all(|event| event.fields.get("tls_optional").is_none()));
    assert_eq!(server.metrics()?.count("ringpost_messages_tls_optional_total"), 0);
    assert!(sinks.iter().all(|sink| sink.count("message") == 0));
    Ok(())
}
