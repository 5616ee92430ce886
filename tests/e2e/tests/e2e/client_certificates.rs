//! Clients with certificates: who they are, what they gain by it, and which ones gain nothing.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use ringpost_e2e::account::Account;
use ringpost_e2e::authority::{ClientAuthority, FUTURE, NOW, PAST, fingerprint, in_seconds};
use ringpost_e2e::injector::Load;
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::{Server, Signal};
use ringpost_e2e::sink::Sink;
use ringpost_e2e::tls::{Certificate, s_client};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::auth::{Submission, user};
use crate::{NONE, once_each};

/// A server that asks for certificates, with users that are known by theirs.
struct Vouched {
    submission: Submission,
    authority: ClientAuthority,
}

impl Vouched {
    /// `robot` is known as `robot@a.test`; `mode` is for both listeners.
    fn start(sink: SocketAddr, mode: &str, more: impl FnOnce(&mut Server)) -> Result<Self> {
        let mut prepared = None;
        let submission = Submission::start(sink, |server| {
            prepared = Some(prepare(server, mode));
            more(server);
        })?;
        Ok(Self { submission, authority: prepared.context("not prepared")?? })
    }

    fn robot(&self) -> Result<Certificate> {
        self.authority.issue("robot", "email:robot@a.test", NOW)
    }

    fn shown(&self, result: &str) -> Result<u64> {
        let label = format!("result=\"{result}\"");
        let metrics = self.submission.server.metrics()?;
        Ok(metrics.count_where("ringpost_tls_client_certificates_total", &label))
    }

    /// Speaks the lines over TLS from the first octet; what was said.
    fn dialogue(
        &self,
        certificate: Option<&Certificate>,
        version: &str,
        lines: &str,
    ) -> Result<String> {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", version]);
        command.args(["-connect", &self.submission.implicit.to_string()]);
        if let Some(certificate) = certificate {
            command.arg("-cert").arg(&certificate.chain).arg("-key").arg(&certificate.key);
        }
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // It may not get that far.
            drop(input.write_all(lines.replace('|', "\r\n").as_bytes()));
            let output = child.wait_with_output()?;
            drop(input);
            return Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into());
        }
        Ok(String::new())
    }
}

/// Has clients asked for certificates, and adds the user that is known by one.
fn prepare(server: &mut Server, mode: &str) -> Result<ClientAuthority> {
    let made = ClientAuthority::make(server.directory(), "clients")?;
    for listener in ["listener.main", "listener.tls"] {
        // Openssl waits for no reply.
        server.config.set(listener, "lenient", "true");
        let section = format!("{listener}.client_certificates");
        server.config.set(&section, "mode", &format!("\"{mode}\"")).set(
            &section,
            "ca",
            &format!("\"{}\"", made.ca().display()),
        );
    }
    let users = server.directory().join("users.toml");
    let rule = ["--no-password", "--certificate", "email:robot@a.test", "--tenant", "t2"];
    user(&users, &[&["add", "robot"], &rule[..]].concat(), "")?;
    Ok(made)
}

const AUTH: &str = "EHLO c.test|AUTH EXTERNAL =|QUIT|";

#[test]
fn a_certificate_is_a_user_and_a_bad_one_is_nobody() -> Result<()> {
    let sink = Sink::start()?;
    let vouched = Vouched::start(sink.address(), "request", |_| {})?;
    let authority = &vouched.authority;
    let other = ClientAuthority::make(vouched.submission.server.directory(), "others")?;
    let robot = "email:robot@a.test";
    let good = vouched.robot()?;
    let nobody = authority.issue("nobody", "email:nobody@a.test", NOW)?;
    let bad = [
        authority.issue("late", robot, PAST)?,
        authority.issue("early", robot, FUTURE)?,
        other.issue("robot", robot, NOW)?,
        // One of which not even the key can be read, by us.
        authority.issue("odd", &format!("{robot}\n1.2.3.4 = critical,ASN1:UTF8String:odd"), NOW)?,
    ];
    for version in ["-tls1_2", "-tls1_3"] {
        let text = vouched.dialogue(Some(&good), version, AUTH)?;
        assert!(text.contains("AUTH EXTERNAL ") && text.contains("235 2.7.0"), "{text}");
        for certificate in bad.iter().chain([&nobody]).map(Some).chain([None]) {
            let text = vouched.dialogue(certificate, version, AUTH)?;
            // There is TLS all the same, and the other ways to get in.
            assert!(text.contains("AUTH ") && text.contains("PLAIN"), "{certificate:?}: {text}");
            assert!(!text.contains("EXTERNAL "), "{certificate:?}: {text}");
            assert!(text.contains("504 5.5.4"), "{certificate:?}: {text}");
        }
    }
    assert_eq!(
        [vouched.shown("good")?, vouched.shown("bad")?, vouched.shown("absent")?],
        [4, 8, 2]
    );
    let log = vouched.submission.server.log();
    for reason in ["expired", "not valid yet", "UnknownIssuer"] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
    assert_eq!(vouched.submission.count("ringpost_auth_succeeded_total", "external")?, 2);
    Ok(())
}

#[test]
fn where_a_certificate_is_required_nobody_gets_in_without() -> Result<()> {
    let sink = Sink::start()?;
    let vouched = Vouched::start(sink.address(), "require", |_| {})?;
    let good = vouched.robot()?;
    let late = vouched.authority.issue("late", "email:robot@a.test", PAST)?;
    for version in ["-tls1_2", "-tls1_3"] {
        let text = vouched.dialogue(Some(&good), version, AUTH)?;
        assert!(text.contains("235 2.7.0"), "{text}");
        for (certificate, alert) in [(None, "certificate required"), (Some(&late), "expired")] {
            let text = vouched.dialogue(certificate, version, AUTH)?;
            assert!(!text.contains("250-"), "{text}");
            assert!(text.contains(alert), "{version} {alert}: {text}");
        }
    }
    let metrics = vouched.submission.server.metrics()?;
    let reason = "reason=\"client_certificate\"";
    assert_eq!(metrics.count_where("ringpost_tls_handshake_failures_total", reason), 4);
    let log = vouched.submission.server.log();
    assert!(log.contains("a client has no certificate to get in by"), "{log}");
    // By STARTTLS as well.
    let text = s_client(vouched.submission.server.smtp(), &["-starttls", "smtp", "-tls1_2"])?;
    assert!(!text.status.success());
    Ok(())
}

/// A session that is resumed brings the certificate that was good when it began, and no more than that.
#[test]
fn who_resumes_a_session_has_to_have_a_certificate_that_is_good_still() -> Result<()> {
    let sink = Sink::start()?;
    let vouched = Vouched::start(sink.address(), "require", |_| {})?;
    let until = in_seconds(20)?;
    let brief = vouched.authority.issue("brief", "email:robot@a.test", (NOW.0, &until))?;
    let session = vouched.submission.server.directory().join("session.pem");
    let begin = |more: &str| -> Result<String> {
        let port = vouched.submission.implicit.to_string();
        let mut child = Command::new("openssl")
            .args(["s_client", "-tls1_2", "-ign_eof", "-connect", &port, more])
            .arg(&session)
            .arg("-cert")
            .arg(&brief.chain)
            .arg("-key")
            .arg(&brief.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input = child.stdin.take().context("no input")?;
        // It may not get that far.
        drop(input.write_all(AUTH.replace('|', "\r\n").as_bytes()));
        let output = child.wait_with_output()?;
        drop(input);
        Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into())
    };
    let first = begin("-sess_out")?;
    assert!(first.contains("235 2.7.0") && session.exists(), "{first}");
    // The twin: as long as it is good it does.
    let again = begin("-sess_in")?;
    assert!(again.contains("Reused, TLSv1.2") && again.contains("235 2.7.0"), "{again}");
    wait_until("the end of its time", SOON, || {
        Ok(!vouched.dialogue(Some(&brief), "-tls1_2", AUTH)?.contains("235 2.7.0"))
    })?;
    let late = begin("-sess_in")?;
    assert!(late.contains("Reused, TLSv1.2"), "{late}");
    // Not "250" alone: dumps of what is in a session have any number.
    assert!(!late.contains("250-") && !late.contains("235 2.7.0"), "{late}");
    Ok(())
}

/// What was good is not when it has been revoked; resumed sessions included.
#[test]
fn a_certificate_that_was_revoked_is_nobody() -> Result<()> {
    let sink = Sink::start()?;
    let mut vouched = Vouched::start(sink.address(), "request", |_| {})?;
    let (robot, other) =
        (vouched.robot()?, vouched.authority.issue("b", "email:robot@a.test", NOW)?);
    let is_in = |vouched: &Vouched, certificate| -> Result<bool> {
        Ok(vouched.dialogue(Some(certificate), "-tls1_3", AUTH)?.contains("235 2.7.0"))
    };
    assert!(is_in(&vouched, &robot)? && is_in(&vouched, &other)?);
    let list = vouched.authority.revoke(&robot)?;
    let section = "listener.tls.client_certificates";
    vouched.submission.server.config.set(section, "crls", &format!("[\"{}\"]", list.display()));
    vouched.submission.server.write_config()?;
    vouched.submission.server.signal(Signal::HUP)?;
    wait_until("the revocation", SOON, || Ok(!is_in(&vouched, &robot)?))?;
    assert!(is_in(&vouched, &other)?, "the twin that was not revoked");
    // The list is read again, too.
    vouched.authority.revoke(&other)?;
    vouched.submission.server.signal(Signal::HUP)?;
    wait_until("the second revocation", SOON, || Ok(!is_in(&vouched, &other)?))?;
    // One that is none: the old one stays, and the log says which file is at fault.
    fs::write(&list, "no list\n")?;
    vouched.submission.server.signal(Signal::HUP)?;
    wait_until("a complaint", SOON, || {
        Ok(vouched.submission.server.log().contains("client_certificates.crls.0"))
    })?;
    wait_until("the list from before", SOON, || Ok(!is_in(&vouched, &other)?))?;
    Ok(())
}

#[test]
fn curl_and_gsasl_get_in_by_a_certificate() -> Result<()> {
    let (Some(curl), Some(gsasl)) = (peers::program("curl"), peers::program("gsasl")) else {
        return peers::skip("curl or gsasl is not installed");
    };
    let sink = Sink::start()?;
    let vouched = Vouched::start(sink.address(), "request", |_| {})?;
    let robot = vouched.robot()?;
    let submission = &vouched.submission;
    let file = submission.server.directory().join("message");
    let ca = &submission.certificate.chain;
    let port = submission.implicit.port();
    fs::write(&file, message::build("curl", 3_000))?;
    // As whom it says; who it is not it does not become.
    for (name, is_right) in [("robot", true), ("user", false)] {
        let output = Command::new(&curl)
            .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
            .arg(ca)
            .arg("--cert")
            .arg(&robot.chain)
            .arg("--key")
            .arg(&robot.key)
            .args(["--connect-to", &format!("a.test:{port}:127.0.0.1:{port}")])
            .args(["--user", &format!("{name}:"), "--login-options", "AUTH=EXTERNAL"])
            .arg(format!("smtps://a.test:{port}/curl.test"))
            .args(["--mail-from", "a@a.test", "--mail-rcpt", "b@b.test", "--upload-file"])
            .arg(&file)
            .output()?;
        assert_eq!(output.status.success(), is_right, "{name}: {output:?}");
    }
    let output = Command::new(gsasl)
        .args(["--smtp", "--starttls", "--mechanism", "EXTERNAL", "--authorization-id", "robot"])
        .arg(format!("--connect={}", submission.server.smtp()))
        .arg(format!("--x509-ca-file={}", ca.display()))
        .arg(format!("--x509-cert-file={}", robot.chain.display()))
        .arg(format!("--x509-key-file={}", robot.key.display()))
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\n235 2.7.0"), "{output:?}");
    wait_until("the messages", SOON, || Ok(sink.accepted_count() == 1))?;
    for event in submission.server.wait_events("received", 1)? {
        if event.kind == "received" {
            assert_eq!(event.fields["protocol"], "ESMTPSA", "{event:?}");
            assert_eq!(event.fields["user"], "robot", "{event:?}");
            assert_eq!(event.fields["tenant"], "t2", "{event:?}");
        }
    }
    assert_eq!(submission.count("ringpost_auth_succeeded_total", "external")?, 2);
    assert_eq!(submission.count("ringpost_auth_failed_total", "external")?, 1);
    Ok(())
}

/// By its fingerprint alone, without AUTH, and none but that one.
#[test]
fn postfix_relays_by_its_certificate() -> Result<()> {
    const MESSAGES: u64 = 20;

    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let mut vouched = Vouched::start(sink.address(), "request", |server| {
        server.config.set("listener.main", "role", "\"relay\"");
    })?;
    let trusted = vouched.authority.issue("mx", "DNS:mx.test", NOW)?;
    let list = format!("[\"{}\"]", fingerprint(&trusted)?);
    let section = "listener.main.client_certificates";
    let smtp = vouched.submission.server.smtp();
    vouched.submission.server.config.set(section, "relay_fingerprints", &list);
    vouched.submission.server.write_config()?;
    vouched.submission.server.signal(Signal::HUP)?;
    let may_relay = |certificate: &Certificate| relays(smtp, certificate);
    wait_until("the fingerprint", SOON, || may_relay(&trusted))?;
    assert!(!may_relay(&vouched.robot()?)?, "the twin, which the same authority vouches for");
    let directory = vouched.submission.server.directory().join("postfix");
    fs::create_dir(&directory)?;
    for path in [vouched.submission.server.directory(), &directory as &Path] {
        peers::run(Command::new("chmod").arg("755").arg(path))?;
    }
    let (chain, key) = (directory.join("client.pem"), directory.join("client.key"));
    fs::copy(&trusted.chain, &chain)?;
    fs::copy(&trusted.key, &key)?;
    let listen = ports::reserve()?;
    let settings = format!(
        "relayhost = [127.0.0.1]:{}\nsmtp_tls_security_level = encrypt\n\
         smtp_tls_cert_file = {}\nsmtp_tls_key_file = {}\n",
        smtp.port(),
        chain.display(),
        key.display()
    );
    let postfix = Postfix::start(&directory, listen, &settings)?;
    let mut load = Load::new(listen, "postfix-certificate", 3, Some(MESSAGES));
    load.size = 5_000;
    let book = load.run()?;
    let all = usize::try_from(MESSAGES)?;
    let sent = wait_until("all messages", 3 * SOON, || Ok(sink.accepted_count() >= all));
    sent.map_err(|error| error.context(postfix.log()))?;
    once_each(&Account::of(&book, &sink.accepted()));
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

/// Whether a recipient is taken from a client with a certificate, without AUTH.
fn relays(address: SocketAddr, certificate: &Certificate) -> Result<bool> {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-starttls", "smtp"])
        .args(["-connect", &address.to_string()])
        .arg("-cert")
        .arg(&certificate.chain)
        .arg("-key")
        .arg(&certificate.key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let input = child.stdin.take();
    if let Some(mut input) = input.as_ref() {
        use std::io::Write as _;

        let lines = "EHLO c.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nQUIT\r\n";
        drop(input.write_all(lines.as_bytes()));
    }
    let output = child.wait_with_output()?;
    drop(input);
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.contains("250 2.1.5"))
}
