//! Messages that may only travel under TLS (RFC 8689), from Python's client to a sink with openssl.

use std::process::Command;

use anyhow::{Context, Result};
use ringpost_e2e::events::Event;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::tls::{Authority, Certificate};
use ringpost_e2e::tls_sink::{TlsSink, TlsSinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

/// Sends one message to each recipient, with REQUIRETLS; before TLS it is neither offered nor taken.
const SEND: &str = "\
import smtplib, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='p.test', timeout=60) as client:
    client._host = 'relay.test'
    client.ehlo()
    assert not client.has_extn('requiretls')
    code, text = client.docmd('MAIL FROM:<a@back.test> REQUIRETLS')
    assert code == 555, (code, text)
    client.starttls(context=context)
    client.ehlo()
    assert client.has_extn('requiretls')
    for to in sys.argv[3:]:
        content = b'Subject: x\\r\\n\\r\\nX-Content: secret\\r\\n'
        client.sendmail('a@back.test', [to], content, ['REQUIRETLS', 'RET=FULL'])
";

fn event(server: &Server, kind: &str, to: &str) -> Result<Event> {
    let mut found = None;
    wait_until(&format!("{kind} {to}"), SOON * 2, || {
        let mut events = server.events()?.into_iter();
        found = events.find(|event| event.kind == kind && event.fields["forward_path"] == to);
        Ok(found.is_some())
    })?;
    found.context("no event")
}

fn code(event: &Event) -> &str {
    event.fields["reply"]["enhanced"].as_str().unwrap_or("")
}

#[test]
fn what_requires_tls_goes_where_it_is_kept_or_comes_back_or_waits() -> Result<()> {
    if let Some(reason) = TlsSink::missing() {
        return peers::skip(reason);
    }
    let mut server = Server::prepare()?;
    let directory = server.directory().to_owned();
    let authority = Authority::make(&directory, "ca")?;
    let good = authority.issue(&directory, "good", &["mx.test"], 2)?;
    let ours = authority.issue(&directory, "ours", &["relay.test"], 2)?;
    let own = Certificate::make(&directory, "own", &["mx.test"])?;
    server
        .config
        .set("delivery", "tls_ca_file", &format!("\"{}\"", authority.file().display()))
        .set("listener.main", "certificates", &format!("[{}]", ours.toml()));
    let start = |certificate: &Certificate, how: &'static str| {
        TlsSink::start(&directory, certificate, TlsSinkOptions { how, ..Default::default() })
    };
    // Domain, certificate, how the host is, what the route says beside the name.
    let sinks = [
        ("yes.test", start(&good, "requiretls")?, "tls_name = \"mx.test\"\ntls = \"verify\""),
        ("back.test", start(&good, "requiretls")?, "tls_name = \"mx.test\"\ntls = \"verify\""),
        ("lacks.test", start(&good, "good")?, "tls_name = \"mx.test\"\ntls = \"verify\""),
        ("stranger.test", start(&own, "requiretls")?, "tls = \"encrypt\""),
        ("open.test", start(&good, "requiretls")?, "tls = \"off\""),
        ("plain.test", start(&good, "none")?, ""),
        ("broken.test", start(&good, "garbage")?, ""),
    ];
    for (domain, sink, keys) in &sinks {
        let to = sink.address();
        server
            .config
            .append(&format!("[[route]]\ndomain = \"{domain}\"\nsmarthost = \"{to}\"\n{keys}\n"));
    }
    server.start()?;
    let python = peers::program("python3").context("no python3")?;
    let recipients = sinks.iter().filter(|(domain, ..)| *domain != "back.test");
    peers::run(
        Command::new(python)
            .args(["-c", SEND, &server.smtp().port().to_string()])
            .arg(authority.file())
            .args(recipients.map(|(domain, ..)| format!("b@{domain}"))),
    )?;

    let sink = |domain: &str| {
        let found = sinks.iter().find(|(of, ..)| *of == domain);
        found.map(|(_, sink, _)| sink).context("no sink")
    };
    let taken = event(&server, "delivered", "b@yes.test")?;
    assert_eq!(taken.fields["tls_verified"], true);
    let lines = sink("yes.test")?.lines();
    let mail = lines.iter().find(|line| line.starts_with("mail")).context("no MAIL")?;
    assert!(mail.ends_with(" REQUIRETLS"), "{mail}");
    assert_eq!(sink("yes.test")?.count("content"), 1);

    // Who is verified and lacks it: the message comes back, under TLS, and without its content.
    assert_eq!(code(&event(&server, "bounced", "b@lacks.test")?), "5.7.30");
    event(&server, "delivered", "a@back.test")?;
    let back = sink("back.test")?;
    let mail = back.lines().into_iter().find(|line| line.starts_with("mail"));
    let mail = mail.context("no MAIL")?;
    assert!(mail.starts_with("mail MAIL FROM:<>") && mail.ends_with(" REQUIRETLS"), "{mail}");
    assert_eq!((back.count("message tls"), back.count("content")), (1, 0), "{:?}", back.lines());

    let waiting = ["stranger.test", "open.test", "plain.test", "broken.test"];
    for domain in waiting {
        let deferred = event(&server, "deferred", &format!("b@{domain}"))?;
        assert_eq!(code(&deferred), "4.7.10", "{domain}");
    }
    // It is remembered over a kill.
    server.kill()?;
    let before: Vec<usize> = sinks.iter().map(|(_, sink, _)| sink.count("connection")).collect();
    server.start()?;
    for (at, (domain, sink, _)) in sinks.iter().enumerate() {
        if waiting.contains(domain) {
            sink.wait("connection", before[at] + 1)?;
        }
    }
    let attempts = |event: &Event| event.fields["attempts"].as_u64().unwrap_or(0);
    for domain in waiting {
        let to = format!("b@{domain}");
        wait_until("a further attempt", SOON * 2, || {
            let events = server.events()?;
            let of_one = events.iter().filter(|event| event.fields["forward_path"] == *to);
            Ok(of_one.map(attempts).max() > Some(1))
        })?;
        let sink = sink(domain)?;
        assert_eq!((sink.count("mail"), sink.count("message")), (0, 0), "{:?}", sink.lines());
    }
    Ok(())
}
