//! TLS towards next hops: with openssl, Postfix and Exim on the other side, good and broken ones.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ringpost_e2e::authority::{ClientAuthority, NOW, has_expired, in_seconds};
use ringpost_e2e::events::Event;
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::{Server, Signal};
use ringpost_e2e::sink::Sink;
use ringpost_e2e::tls::{Authority, Certificate};
use ringpost_e2e::tls_sink::{TlsSink, TlsSinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

/// A server that is not started, an authority that it trusts, and that one's certificate for `mx.test`.
pub(crate) struct World {
    pub(crate) server: Server,
    authority: Authority,
    pub(crate) good: Certificate,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let mut server = Server::prepare()?;
        let authority = Authority::make(server.directory(), "ca")?;
        let good = authority.issue(server.directory(), "good", &["mx.test"], 2)?;
        server
            .config
            .set("delivery", "tls_ca_file", &format!("\"{}\"", authority.file().display()))
            // What is remembered, each core remembers for itself.
            .set("queue", "shards", "1")
            // Each message finds out anew, and what fails is tried again soon.
            .set("delivery", "tls_broken_time", "\"0s\"")
            .set("delivery", "tls_handshake_timeout", "\"2s\"")
            .set("log", "level", "\"debug\"");
        Ok(Self { server, authority, good })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// A sink that the mail of a domain goes to, with further keys of the route.
    pub(crate) fn sink(
        &mut self,
        domain: &str,
        certificate: &Certificate,
        options: TlsSinkOptions<'_>,
        keys: &str,
    ) -> Result<TlsSink> {
        let sink = TlsSink::start(self.directory(), certificate, options)?;
        self.route(domain, &sink.address().to_string(), keys);
        Ok(sink)
    }

    pub(crate) fn route(&mut self, domain: &str, to: &str, keys: &str) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "[[route]]\ndomain = \"{domain}\"\nsmarthost = \"{to}\"\n{keys}\n");
        self.server.config.append(&text);
    }

    pub(crate) fn send(&self, to: &str, size: usize) -> Result<()> {
        let mut client = Client::connect(self.server.smtp())?;
        client.expect("EHLO client.test", 250)?;
        client.expect("MAIL FROM:<a@a.test>", 250)?;
        client.expect(&format!("RCPT TO:<{to}>"), 250)?;
        client.expect("DATA", 354)?;
        client.send(&message::stuff(&message::build("tls-out", size)))?;
        client.expect_reply(250)?;
        client.expect("QUIT", 221)?;
        Ok(())
    }

    /// The first event of a kind about a recipient.
    pub(crate) fn event(&self, kind: &str, to: &str) -> Result<Event> {
        self.event_of(&[kind], to)
    }

    /// The first event of some kinds about a recipient.
    pub(crate) fn event_of(&self, kinds: &[&str], to: &str) -> Result<Event> {
        let mut found = None;
        let what = format!("{kinds:?} {to}");
        wait_until(&what, SOON * 2, || {
            let mut events = self.server.events()?.into_iter();
            let is_meant = |event: &Event| kinds.contains(&event.kind.as_str());
            found = events.find(|event| is_meant(event) && event.fields["forward_path"] == to);
            Ok(found.is_some())
        })?;
        found.context("no event")
    }

    fn failures(&self, reason: &str) -> Result<u64> {
        let label = format!("reason=\"{reason}\"");
        Ok(self.server.metrics()?.count_where("ringpost_remote_tls_failures_total", &label))
    }
}

fn refused(event: &Event) -> (String, String) {
    let reply = &event.fields["reply"];
    (reply["enhanced"].as_str().unwrap_or("").into(), reply["text"].as_str().unwrap_or("").into())
}

fn skip() -> Result<bool> {
    match TlsSink::missing() {
        Some(reason) => peers::skip(reason).map(|()| true),
        None => Ok(false),
    }
}

#[test]
fn tls_is_used_where_it_is_offered_and_told_of() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    let own = Certificate::make(world.directory(), "own", &["mx.test"])?;
    let good = world.good.clone();
    let name = "tls_name = \"mx.test\"";
    let verify = format!("tls = \"verify\"\n{name}");
    let only = |version| TlsSinkOptions { versions: (version, version), ..Default::default() };
    let implicit = TlsSinkOptions { how: "implicit", ..Default::default() };
    let any = world.sink("any.test", &own, TlsSinkOptions::default(), "")?;
    let old = world.sink("old.test", &own, only("TLSv1_2"), "tls = \"encrypt\"")?;
    let new = world.sink("new.test", &good, only("TLSv1_3"), &verify)?;
    let keys = format!("tls_implicit = true\n{verify}");
    let first = world.sink("first.test", &good, implicit, &keys)?;
    let off = world.sink("off.test", &good, TlsSinkOptions::default(), "tls = \"off\"")?;
    world.server.start()?;
    // What is large goes in many records, what is small in one.
    for (domain, sink, version, verified) in [
        ("any.test", &any, Some("1.3"), false),
        ("old.test", &old, Some("1.2"), false),
        ("new.test", &new, Some("1.3"), true),
        ("first.test", &first, Some("1.3"), true),
        ("off.test", &off, None, false),
    ] {
        for size in [1_000, 3_000_000] {
            let to = format!("s{size}@{domain}");
            world.send(&to, size)?;
            let event = world.event("delivered", &to)?;
            let Some(version) = version else {
                assert!(event.fields.get("tls_version").is_none());
                continue;
            };
            assert_eq!(event.fields["tls_version"], version, "{domain}");
            assert_eq!(event.fields["tls_verified"], verified, "{domain}");
            let cipher = event.fields["tls_cipher"].as_str().context("no cipher")?;
            assert!(cipher.starts_with("TLS_"), "{cipher}");
        }
        let expected = if version.is_some() { "message tls" } else { "message plain" };
        assert_eq!(sink.count(expected), 2, "{domain}: {:?}", sink.lines());
        assert_eq!(sink.count("failed"), 0, "{domain}: {:?}", sink.lines());
    }
    assert_eq!(new.count("handshake TLSv1.3 mx.test full -"), 1, "{:?}", new.lines());
    // A smarthost that is an address is asked for by no name.
    assert_eq!(any.count("handshake TLSv1.3 None full -"), 1, "{:?}", any.lines());
    let metrics = world.server.metrics()?;
    let of = |version| {
        let label = format!("version=\"{version}\"");
        metrics.count_where("ringpost_remote_tls_handshakes_total", &label)
    };
    assert_eq!((of("1.2"), of("1.3")), (1, 3));
    assert_eq!(metrics.count("ringpost_remote_tls_verified_total"), 2);
    assert_eq!(metrics.count("ringpost_remote_tls_fallbacks_total"), 0);
    // Connections end in good order, and say so before.
    world.server.terminate()?;
    for sink in [any, old, new, first] {
        assert_eq!(sink.count("truncated"), 0, "{:?}", sink.lines());
    }
    Ok(())
}

#[test]
fn a_certificate_that_is_not_right_is_refused_where_it_matters() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    let directory = world.directory().to_owned();
    let stranger = Authority::make(&directory, "stranger")?;
    let certificates = [
        ("self", Certificate::make(&directory, "own", &["mx.test"])?),
        ("stranger", stranger.issue(&directory, "strange", &["mx.test"], 2)?),
        ("name", world.authority.issue(&directory, "name", &["other.test"], 2)?),
        ("expired", world.authority.issue(&directory, "expired", &["mx.test"], 0)?),
    ];
    // The last is good to the end of the second in which it was made.
    let made = in_seconds(0)?;
    wait_until("the next second", SOON, || Ok(in_seconds(0)? > made))?;
    let mut sinks = Vec::new();
    for (what, certificate) in &certificates {
        let verify = "tls = \"verify\"\ntls_name = \"mx.test\"";
        let options = TlsSinkOptions::default();
        sinks.push((what, world.sink(&format!("{what}.test"), certificate, options, verify)?));
        // The twin without the demand takes all of them.
        let keys = "tls = \"encrypt\"";
        let domain = format!("{what}.any.test");
        sinks.push((what, world.sink(&domain, certificate, options, keys)?));
    }
    world.server.start()?;
    for (what, _) in &certificates {
        world.send(&format!("b@{what}.test"), 1_000)?;
        world.send(&format!("b@{what}.any.test"), 1_000)?;
    }
    for (what, _) in &certificates {
        let (code, text) = refused(&world.event("deferred", &format!("b@{what}.test"))?);
        assert_eq!(code, "4.7.5", "{what}: {text}");
        assert!(text.contains("server certificate not verified"), "{what}: {text}");
        let event = world.event("delivered", &format!("b@{what}.any.test"))?;
        assert_eq!(event.fields["tls_verified"], false, "{what}");
    }
    for (index, (what, sink)) in sinks.iter().enumerate() {
        let expected = index % 2;
        assert_eq!(sink.count("message"), expected, "{what}: {:?}", sink.lines());
        assert_eq!(sink.count("message plain"), 0, "{what}: {:?}", sink.lines());
    }
    assert!(world.failures("certificate")? >= 4);
    assert_eq!(world.server.metrics()?.count("ringpost_remote_tls_fallbacks_total"), 0);
    Ok(())
}

#[test]
fn broken_tls_costs_opportunistic_mail_nothing_and_other_mail_waits() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    let good = world.good.clone();
    // How it fails, what the mail with a demand is told, and how the failure is counted.
    let rows = [
        ("none", "4.7.4", ""),
        ("refuse", "4.7.0", "refused"),
        ("garbage", "4.7.5", "not_tls"),
        ("cut", "4.7.5", "closed"),
        ("hang", "4.4.2", "timeout"),
        ("alert", "4.7.5", "alert"),
        ("close", "4.7.5", "closed"),
        ("ahead", "4.7.5", ""),
    ];
    let mut sinks = Vec::new();
    for (how, _, _) in rows {
        let options = TlsSinkOptions { how, ..Default::default() };
        let free = world.sink(&format!("{how}.test"), &good, options, "")?;
        let keys = "tls = \"encrypt\"";
        sinks.push((free, world.sink(&format!("{how}.must.test"), &good, options, keys)?));
    }
    world.server.start()?;
    for (how, _, _) in rows {
        world.send(&format!("b@{how}.test"), 1_000)?;
        world.send(&format!("b@{how}.must.test"), 1_000)?;
    }
    for ((how, code, reason), (free, must)) in rows.iter().zip(&sinks) {
        let event = world.event("delivered", &format!("b@{how}.test"))?;
        assert_eq!(event.fields["attempts"], 1, "{how}: a failure of TLS is no attempt");
        assert!(event.fields.get("tls_version").is_none(), "{how}");
        let (said, text) = refused(&world.event("deferred", &format!("b@{how}.must.test"))?);
        assert_eq!(said, *code, "{how}: {text}");
        assert_eq!(free.count("message plain"), 1, "{how}: {:?}", free.lines());
        assert_eq!(must.count("message"), 0, "{how}: {:?}", must.lines());
        let retried = usize::from(!matches!(*how, "none" | "refuse"));
        assert_eq!(free.count("connection"), 1 + retried, "{how}: {:?}", free.lines());
        if !reason.is_empty() {
            assert!(world.failures(reason)? >= 1, "{how}: {reason}");
        }
    }
    // All but those that go on in the same session.
    wait_until("six connections in plain text", SOON, || {
        Ok(world.server.metrics()?.count("ringpost_remote_tls_fallbacks_total") == 6)
    })
}

#[test]
fn what_has_failed_is_remembered_for_a_time_that_can_be_set() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    world.server.config.set("delivery", "tls_broken_time", "\"1h\"");
    world.server.config.set("delivery", "idle_timeout", "\"1ms\"");
    let good = world.good.clone();
    let options = TlsSinkOptions { how: "garbage", ..Default::default() };
    let sink = world.sink("b.test", &good, options, "")?;
    world.server.start()?;
    for number in 0..3 {
        let to = format!("b{number}@b.test");
        world.send(&to, 1_000)?;
        world.event("delivered", &to)?;
        sink.wait("quit", number + 1)?;
    }
    assert_eq!(sink.count("message plain"), 3, "{:?}", sink.lines());
    wait_until("what was passed over", SOON, || {
        let metrics = world.server.metrics()?;
        Ok(metrics.count("ringpost_remote_tls_passed_over_total") == 2)
    })?;
    let metrics = world.server.metrics()?;
    assert_eq!(metrics.count("ringpost_remote_tls_fallbacks_total"), 1);
    assert_eq!(metrics.count("ringpost_remote_tls_broken"), 1);
    assert_eq!(sink.count("connection"), 4, "{:?}", sink.lines());
    Ok(())
}

#[test]
fn sessions_are_resumed_and_certificates_shown() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    world.server.config.set("delivery", "idle_timeout", "\"1ms\"");
    let good = world.good.clone();
    let own = world.authority.issue(world.directory(), "own", &["relay.test"], 2)?;
    let authorities = world.authority.file().to_owned();
    let options = TlsSinkOptions { clients: Some(&authorities), ..TlsSinkOptions::default() };
    let with =
        format!("tls = \"verify\"\ntls_name = \"mx.test\"\ntls_certificate = {}", own.toml());
    let shown = world.sink("shown.test", &good, options, &with)?;
    let hidden = world.sink("hidden.test", &good, options, "tls = \"encrypt\"")?;
    world.server.start()?;
    for number in 0..3 {
        let to = format!("b{number}@shown.test");
        world.send(&to, 1_000)?;
        world.event("delivered", &to)?;
        // Not over the same connection: that it is idle is looked at from time to time.
        shown.wait("quit", number + 1)?;
    }
    assert_eq!(shown.count("message tls"), 3, "{:?}", shown.lines());
    assert_eq!(shown.count("handshake TLSv1.3 mx.test full relay.test"), 1, "{:?}", shown.lines());
    assert_eq!(shown.count("handshake TLSv1.3 mx.test resumed"), 2, "{:?}", shown.lines());
    let metrics = world.server.metrics()?;
    assert_eq!(metrics.count("ringpost_remote_tls_resumed_total"), 2);
    assert_eq!(metrics.count("ringpost_remote_tls_verified_total"), 3);
    // Without a certificate there is none to show.
    world.send("b@hidden.test", 1_000)?;
    let (code, text) = refused(&world.event("deferred", "b@hidden.test")?);
    assert_eq!(code, "4.7.5", "{text}");
    assert_eq!(hidden.count("message"), 0, "{:?}", hidden.lines());
    Ok(())
}

/// What was good when a session began is looked at again when it is resumed.
#[test]
fn a_certificate_has_to_be_good_still_when_a_session_is_resumed() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    let authority = ClientAuthority::make(world.directory(), "brief")?;
    world.server.config.set("delivery", "idle_timeout", "\"1ms\"").set(
        "delivery",
        "tls_ca_file",
        &format!("\"{}\"", authority.ca().display()),
    );
    // Sessions are remembered by name.
    let names = "DNS:old.test,DNS:new.test\nextendedKeyUsage = serverAuth";
    let until = in_seconds(20)?;
    let brief = authority.issue("mx", names, (NOW.0, &until))?;
    let keys = |name| format!("tls = \"verify\"\ntls_name = \"{name}\"");
    let only = |version| TlsSinkOptions { versions: (version, version), ..Default::default() };
    let old = world.sink("old.test", &brief, only("TLSv1_2"), &keys("old.test"))?;
    let new = world.sink("new.test", &brief, only("TLSv1_3"), &keys("new.test"))?;
    world.server.start()?;
    for (sink, domain) in [(&old, "old.test"), (&new, "new.test")] {
        for number in 1..=2 {
            let to = format!("b{number}@{domain}");
            world.send(&to, 1_000)?;
            world.event("delivered", &to)?;
            sink.wait("quit", number)?;
        }
        // The twin: as long as it is good.
        assert_eq!(sink.count("handshake") - count_of(sink, "full"), 1, "{:?}", sink.lines());
    }
    wait_until("the end of its time", SOON, || has_expired(&brief))?;
    for (sink, domain) in [(&old, "old.test"), (&new, "new.test")] {
        let resumed = sink.count("handshake") - count_of(sink, "full");
        // The second in which it ends is counted in by some, and not by others.
        let mut late = None;
        for number in 0..20 {
            let to = format!("late{number}@{domain}");
            world.send(&to, 1_000)?;
            let event = world.event_of(&["delivered", "deferred"], &to)?;
            if event.kind == "deferred" {
                late = Some(event);
                break;
            }
            sink.wait("quit", 3 + number)?;
        }
        let (code, text) = refused(&late.with_context(|| format!("{:?}", sink.lines()))?);
        assert_eq!(code, "4.7.5", "{text}");
        assert!(text.contains("resumed session"), "{text}");
        wait_until("word of the handshake that was refused", SOON, || {
            Ok(sink.count("handshake") - count_of(sink, "full") > resumed)
        })?;
    }
    Ok(())
}

/// Handshakes of a kind.
fn count_of(sink: &TlsSink, kind: &str) -> usize {
    sink.lines().iter().filter(|it| it.starts_with("handshake") && it.contains(kind)).count()
}

#[test]
fn a_connection_from_before_a_stricter_configuration_is_not_used_after_it() -> Result<()> {
    if skip()? {
        return Ok(());
    }
    let mut world = World::new()?;
    world.server.config.set("delivery", "idle_timeout", "\"1m\"");
    let own = Certificate::make(world.directory(), "own", &["mx.test"])?;
    let sink = TlsSink::start(world.directory(), &own, TlsSinkOptions::default())?;
    let to = sink.address();
    world.server.config.route("b.test", to);
    world.server.start()?;
    world.send("one@b.test", 1_000)?;
    world.event("delivered", "one@b.test")?;
    world.server.config.set("delivery", "tls", "\"verify\"");
    world.server.write_config()?;
    world.server.signal(Signal::HUP)?;
    wait_until("the new configuration", SOON, || {
        Ok(world.server.log().contains("configuration reloaded"))
    })?;
    // The shards take it a moment after it is said to be there.
    for number in 2..100 {
        let to = format!("b{number}@b.test");
        world.send(&to, 1_000)?;
        let event = world.event_of(&["delivered", "deferred"], &to)?;
        if event.kind == "deferred" {
            let (code, text) = refused(&event);
            assert_eq!(code, "4.7.5", "{text}");
            assert_eq!(sink.count("message tls"), number - 1, "{:?}", sink.lines());
            return Ok(());
        }
    }
    bail!("the new configuration counts for nothing: {:?}", sink.lines());
}

#[test]
fn postfix_takes_mail_over_tls() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let mut world = World::new()?;
    let sink = Sink::start()?;
    let listen = ports::reserve()?;
    let directory = tempfile::tempdir()?;
    let _postfix = Postfix::start(
        directory.path(),
        listen,
        &format!(
            "relayhost = [127.0.0.1]:{}\nsmtpd_tls_security_level = encrypt\n\
             smtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\nsmtpd_tls_received_header = yes\n\
             smtpd_tls_loglevel = 1",
            sink.address().port(),
            world.good.chain.display(),
            world.good.key.display(),
        ),
    )?;
    world.route("b.test", &listen.to_string(), "tls = \"verify\"\ntls_name = \"mx.test\"");
    world.server.start()?;
    for number in 0..5 {
        world.send(&format!("b{number}@b.test"), 50_000)?;
        let event = world.event("delivered", &format!("b{number}@b.test"))?;
        assert_eq!(event.fields["tls_verified"], true);
    }
    wait_until("five messages", SOON * 2, || Ok(sink.accepted_count() == 5))?;
    assert!(sink.accepted().iter().all(|one| matches!(one.mark, message::Mark::Intact(_))));
    Ok(())
}

#[test]
fn exim_takes_mail_over_tls() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let mut world = World::new()?;
    let sink = Sink::start()?;
    let listen = ports::reserve()?;
    let directory = tempfile::tempdir()?;
    let main = format!(
        "tls_advertise_hosts = *\ntls_certificate = {}\ntls_privatekey = {}\n",
        world.good.chain.display(),
        world.good.key.display(),
    );
    peers::run(std::process::Command::new("chmod").arg("644").arg(&world.good.key))?;
    peers::run(std::process::Command::new("chmod").arg("755").arg(world.directory()))?;
    let exim = Exim::start_as(directory.path(), listen, sink.address(), &main, "")?;
    world.route("b.test", &listen.to_string(), "tls = \"verify\"\ntls_name = \"mx.test\"");
    world.server.start()?;
    for number in 0..5 {
        world.send(&format!("b{number}@b.test"), 50_000)?;
        let event = world.event("delivered", &format!("b{number}@b.test"))?;
        assert_eq!(event.fields["tls_verified"], true, "{}", exim.log());
    }
    wait_until("five messages", SOON * 2, || Ok(sink.accepted_count() == 5))?;
    assert!(sink.accepted().iter().all(|one| matches!(one.mark, message::Mark::Intact(_))));
    Ok(())
}
