//! AUTH, with the clients of others: who has the password gets in, and who has not does not.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::{Server, Signal, binary};
use ringpost_e2e::sink::{Answer, Sink, SinkOptions};
use ringpost_e2e::tls::Certificate;
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{NONE, once_each};

/// `\0user\0secret`
const GOOD: &str = "AHVzZXIAc2VjcmV0";

/// `\0user\0wrong`
const BAD: &str = "AHVzZXIAd3Jvbmc=";

/// Runs `ringpost user`, with a password on its standard input.
pub(crate) fn user(users: &Path, arguments: &[&str], password: &str) -> Result<String> {
    let (command, rest) = arguments.split_first().context("no command")?;
    let mut child = Command::new(binary()?)
        .args(["user", command, "--file"])
        .arg(users)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    // It may not want to know.
    drop(std::io::Write::write_all(&mut input, format!("{password}\n").as_bytes()));
    drop(input);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{text}");
    Ok(text)
}

/// A server whose listener is for submission, and a second one with TLS from the first octet.
pub(crate) struct Submission {
    pub(crate) server: Server,
    pub(crate) implicit: SocketAddr,
    users: PathBuf,
    pub(crate) certificate: Certificate,
}

impl Submission {
    /// `user` has the password `secret`; nobody may relay without.
    pub(crate) fn start(sink: SocketAddr, more: impl FnOnce(&mut Server)) -> Result<Self> {
        let mut server = Server::prepare()?;
        let implicit = ports::reserve()?;
        let users = server.directory().join("users.toml");
        user(&users, &["add", "user", "--argon2id", "--tenant", "t1"], "secret")?;
        let certificate = Certificate::make(server.directory(), "a", &["a.test", "127.0.0.1"])?;
        let list = format!("[{}]", certificate.toml());
        server.config.route("*", sink);
        server.config.set("auth", "users", &format!("\"{}\"", users.display()));
        server.config.set("auth", "failure_delay", "\"50ms\"");
        for listener in ["listener.main", "listener.tls"] {
            server.config.set(listener, "certificates", &list);
            server.config.set(listener, "relay_networks", "[]");
        }
        server
            .config
            .set("listener.main", "role", "\"submission\"")
            .set("listener.tls", "addresses", &format!("[\"{implicit}\"]"))
            .set("listener.tls", "role", "\"submissions\"");
        more(&mut server);
        server.start()?;
        Ok(Self { server, implicit, users, certificate })
    }

    /// One in plain text, for tests of our own dialogues.
    fn plain(sink: SocketAddr, more: impl FnOnce(&mut Server)) -> Result<Self> {
        Self::start(sink, |server| {
            server
                .config
                .set("listener.main", "role", "\"relay\"")
                .set("listener.main.auth", "mechanisms", "[\"PLAIN\", \"LOGIN\"]")
                .set("listener.main.auth", "without_tls", "true");
            more(server);
        })
    }

    pub(crate) fn count(&self, name: &str, mechanism: &str) -> Result<u64> {
        let label = format!("mechanism=\"{mechanism}\"");
        Ok(self.server.metrics()?.count_where(name, &label))
    }

    fn hits(&self, limit: &str) -> Result<u64> {
        let label = format!("limit=\"{limit}\"");
        Ok(self.server.metrics()?.count_where("ringpost_limit_hits_total", &label))
    }
}

fn greeted(address: SocketAddr) -> Result<Client> {
    let mut client = Client::connect(address)?;
    client.expect("EHLO c.test", 250)?;
    Ok(client)
}

#[test]
fn a_user_may_relay_and_others_may_not() -> Result<()> {
    let keeping = SinkOptions { keep_content: true, ..SinkOptions::default() };
    let sink = Sink::with(ports::reserve()?, keeping, |_| Answer::Accept)?;
    let submission = Submission::plain(sink.address(), |_| {})?;
    let smtp = submission.server.smtp();
    for line in ["NOOP".to_owned(), format!("AUTH PLAIN {BAD}"), "AUTH PLAIN AHgAeA==".to_owned()] {
        let mut client = greeted(smtp)?;
        let code = client.command(&line)?.code;
        assert!(code == 250 || code == 535, "{line}");
        client.expect("MAIL FROM:<a@a.test>", 250)?;
        let reply = client.expect("RCPT TO:<b@b.test>", 550)?;
        assert!(reply.text.starts_with("5.7.1"), "{reply:?}");
    }
    let mut client = greeted(smtp)?;
    client.expect(&format!("AUTH PLAIN {GOOD}"), 235)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&message::build("one", 2_000)))?;
    client.expect_reply(250)?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    let content = String::from_utf8_lossy(&sink.accepted()[0].content).into_owned();
    assert!(content.contains(" with ESMTPA id "), "{content}");
    let events = submission.server.wait_events("received", 1)?;
    let received = events.iter().find(|event| event.kind == "received").context("no event")?;
    assert_eq!(
        (&received.fields["user"], &received.fields["tenant"]),
        (&"user".into(), &"t1".into())
    );
    assert_eq!(submission.count("ringpost_auth_succeeded_total", "plain")?, 1);
    assert_eq!(submission.count("ringpost_auth_failed_total", "plain")?, 2);
    let log = submission.server.log();
    assert!(log.contains("an authentication has failed"), "{log}");
    assert!(!log.contains("secret") && !log.contains("wrong") && !log.contains(BAD), "{log}");
    Ok(())
}

#[test]
fn passwords_are_for_encrypted_sessions() -> Result<()> {
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |server| {
        // On the listener where TLS is not required.
        server.config.set("listener.main", "role", "\"relay\"");
        server.config.set("listener.main.auth", "mechanisms", "[\"PLAIN\"]");
    })?;
    let mut client = Client::connect(submission.server.smtp())?;
    let offer = client.expect("EHLO c.test", 250)?.text;
    assert!(!offer.contains("AUTH"), "{offer}");
    let reply = client.expect(&format!("AUTH PLAIN {GOOD}"), 538)?;
    assert!(reply.text.starts_with("5.7.11"), "{reply:?}");
    Ok(())
}

#[test]
fn failures_are_answered_late_and_come_to_an_end() -> Result<()> {
    let sink = Sink::start()?;
    let submission = Submission::plain(sink.address(), |_| {})?;
    let mut client = greeted(submission.server.smtp())?;
    for _ in 0..3 {
        client.expect(&format!("AUTH PLAIN {BAD}"), 535)?;
    }
    client.expect_reply(421)?;
    assert!(client.is_closed_by_peer());
    wait_until("the limit", SOON, || Ok(submission.hits("auth_failures_max")? == 1))?;
    Ok(())
}

/// More passwords at once than may wait: some are put off, and mail goes on meanwhile.
#[test]
fn too_many_passwords_are_put_off() -> Result<()> {
    let sink = Sink::start()?;
    let submission = Submission::plain(sink.address(), |server| {
        server.config.set("auth", "password_queue_max", "1").set("server", "cores", "1");
    })?;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(greeted(submission.server.smtp())?);
    }
    for client in &mut clients {
        client.send(format!("AUTH PLAIN {GOOD}\r\n").as_bytes())?;
    }
    let (mut taken, mut put_off) = (0, 0);
    for client in &mut clients {
        match client.reply()?.code {
            235 => taken += 1,
            454 => put_off += 1,
            code => ensure!(false, "{code}"),
        }
    }
    assert!(taken >= 1 && put_off >= 1, "{taken} taken, {put_off} put off");
    assert_eq!(submission.count("ringpost_auth_put_off_total", "plain")?, put_off);
    assert_eq!(submission.hits("password_queue_max")?, put_off);
    Ok(())
}

#[test]
fn users_come_and_go_without_a_restart() -> Result<()> {
    let sink = Sink::start()?;
    let submission = Submission::plain(sink.address(), |_| {})?;
    let smtp = submission.server.smtp();
    // `\0new\0secret`
    let line = "AUTH PLAIN AG5ldwBzZWNyZXQ=";
    let code = || -> Result<u16> { Ok(greeted(smtp)?.command(line)?.code) };
    assert_eq!(code()?, 535);
    user(&submission.users, &["add", "new", "--scram"], "secret")?;
    assert_eq!(code()?, 535);
    submission.server.signal(Signal::HUP)?;
    wait_until("the new user", SOON, || Ok(code()? == 235))?;
    assert!(user(&submission.users, &["check", "new"], "secret")?.contains("is the password"));
    assert!(user(&submission.users, &["check", "new"], "wrong").is_err());
    assert!(user(&submission.users, &["list"], "")?.contains("new\tscram-sha-256"));
    user(&submission.users, &["remove", "new"], "")?;
    submission.server.signal(Signal::HUP)?;
    wait_until("the end of the user", SOON, || Ok(code()? == 535))?;

    // A file for everybody to read: the old users stay, and the log says why.
    peers::run(Command::new("chmod").arg("644").arg(&submission.users))?;
    submission.server.signal(Signal::HUP)?;
    wait_until("a complaint", SOON, || Ok(submission.server.log().contains("chmod o=")))?;
    greeted(smtp)?.expect(&format!("AUTH PLAIN {GOOD}"), 235)?;
    let mut check = Command::new(binary()?);
    let checked = check.arg("check-config").arg(submission.server.config_path()).output()?;
    assert!(!checked.status.success());
    assert!(String::from_utf8_lossy(&checked.stderr).contains("auth.users"));
    Ok(())
}

#[test]
fn a_user_keeps_to_its_reverse_paths_and_its_rate() -> Result<()> {
    let sink = Sink::start()?;
    let submission = Submission::plain(sink.address(), |_| {})?;
    let users = &submission.users;
    let arguments = ["add", "user", "--replace", "--rate", "2/1h", "--reverse-path", "a.test"];
    user(users, &arguments, "secret")?;
    submission.server.signal(Signal::HUP)?;
    let mut client = greeted(submission.server.smtp())?;
    // Each core takes them at a moment of its own, and so many connections meet all cores.
    wait_until("the rules", SOON, || {
        for _ in 0..16 {
            client = greeted(submission.server.smtp())?;
            client.expect(&format!("AUTH PLAIN {GOOD}"), 235)?;
            if client.command("MAIL FROM:<x@b.test>")?.code != 553 {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    client.expect("MAIL FROM:<>", 250)?;
    client.expect("RSET", 250)?;
    for id in ["one", "two"] {
        client.expect("MAIL FROM:<x@a.test>", 250)?;
        client.expect("RCPT TO:<b@b.test>", 250)?;
        client.expect("DATA", 354)?;
        client.send(&message::stuff(&message::build(id, 1_000)))?;
        client.expect_reply(250)?;
    }
    let reply = client.expect("MAIL FROM:<x@a.test>", 451)?;
    assert!(reply.text.starts_with("4.7.1"), "{reply:?}");
    // On another connection, perhaps of another core, and after a reload too.
    submission.server.signal(Signal::HUP)?;
    for _ in 0..4 {
        let mut other = greeted(submission.server.smtp())?;
        other.expect(&format!("AUTH LOGIN {}", "dXNlcg=="), 334)?;
        other.expect("c2VjcmV0", 235)?;
        other.expect("MAIL FROM:<x@a.test>", 451)?;
    }
    assert!(submission.hits("user_rate")? >= 5);
    Ok(())
}

/// Who is removed or gets another password has to show again who he is, on the connections that he has.
#[test]
fn sessions_of_a_user_that_has_changed_send_no_more() -> Result<()> {
    let sink = Sink::start()?;
    let submission = Submission::plain(sink.address(), |server| {
        server.config.set("listener.main.auth", "required", "true");
        // Each core takes the users anew at a moment of its own.
        server.config.set("queue", "shards", "1");
    })?;
    let (users, smtp) = (&submission.users, submission.server.smtp());
    user(users, &["add", "other"], "secret")?;
    submission.server.signal(Signal::HUP)?;
    // `\0other\0secret`
    let other = "AUTH PLAIN AG90aGVyAHNlY3JldA==";
    wait_until("the other user", SOON, || Ok(greeted(smtp)?.command(other)?.code == 235))?;
    let session = |line: &str| -> Result<Client> {
        let mut client = greeted(smtp)?;
        client.expect(line, 235)?;
        client.expect("MAIL FROM:<a@a.test>", 250)?;
        client.expect("RSET", 250)?;
        Ok(client)
    };
    let (mut staying, mut changed) = (session(other)?, session(&format!("AUTH PLAIN {GOOD}"))?);
    // One in the middle of a transaction comes to its end.
    let mut within = session(&format!("AUTH PLAIN {GOOD}"))?;
    within.expect("MAIL FROM:<a@a.test>", 250)?;
    user(users, &["add", "user", "--replace"], "changed")?;
    // A rule that is new holds for sessions that are there.
    let text = fs::read_to_string(users)?;
    fs::write(
        users,
        text.replace("[user.other]\n", "[user.other]\nreverse_paths = [\"b.test\"]\n"),
    )?;
    submission.server.signal(Signal::HUP)?;
    wait_until("the end of the session's rights", SOON, || {
        let code = changed.command("MAIL FROM:<a@a.test>")?.code;
        if code == 250 {
            changed.expect("RSET", 250)?;
        }
        Ok(code == 530)
    })?;
    within.expect("RCPT TO:<b@b.test>", 250)?;
    within.expect("RSET", 250)?;
    within.expect("MAIL FROM:<a@a.test>", 530)?;
    // `\0user\0changed`: on the same connection.
    changed.expect("AUTH PLAIN AHVzZXIAY2hhbmdlZA==", 235)?;
    changed.expect("MAIL FROM:<a@a.test>", 250)?;
    staying.expect("MAIL FROM:<a@a.test>", 553)?;
    user(users, &["remove", "other"], "")?;
    submission.server.signal(Signal::HUP)?;
    wait_until("the end of the other", SOON, || {
        let code = staying.command("MAIL FROM:<a@b.test>")?.code;
        if code == 250 {
            staying.expect("RSET", 250)?;
        }
        Ok(code == 530)
    })?;
    assert!(submission.server.log().contains("a session has lost its user by a reload"));
    Ok(())
}

/// Whoever gives up at the prompt has a terminal that shows what is typed.
#[test]
fn a_prompt_that_is_given_up_leaves_the_terminal_as_it_was() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let script = "\
import os, pty, select, subprocess, sys, termios
ours, theirs = pty.openpty()
def echoes():
    return bool(termios.tcgetattr(theirs)[3] & termios.ECHO)
def run(keys):
    assert echoes()
    child = subprocess.Popen(sys.argv[1:], stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = b''
    for key in keys:
        while not said.endswith(b': '):
            said += child.stderr.read(1)
        said = b''
        assert not echoes()
        os.write(ours, key)
    status = child.wait(60)
    assert echoes()
    return status
assert run([b'sec\\x03']) != 0
assert run([b'secret\\r', b'secrets\\x03']) != 0
assert run([b'secret\\r', b'secrat\\x7f\\x7fet\\r']) == 0
";
    let directory = tempfile::tempdir()?;
    let users = directory.path().join("users.toml");
    peers::run(
        Command::new(python)
            .args(["-c", script])
            .arg(binary()?)
            .args(["user", "add", "app", "--file"])
            .arg(&users),
    )?;
    assert!(user(&users, &["check", "app"], "secret")?.contains("is the password"));
    // What is made serves for SCRAM.
    assert!(user(&users, &["list"], "")?.contains("app\tscram-sha-256"));
    Ok(())
}

/// Runs swaks; what it has said, and whether it has succeeded.
fn swaks(
    swaks: &Path,
    address: SocketAddr,
    arguments: &[&str],
    file: &Path,
) -> Result<(bool, String)> {
    let output = Command::new(swaks)
        .args(["--server", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--from", "a@a.test", "--to", "b@b.test", "--ehlo", "swaks.test"])
        .args(arguments)
        .args(["--no-data-fixup", "--suppress-data", "--data"])
        .arg(format!("@{}", file.display()))
        .output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.success(), text))
}

#[test]
fn swaks_authenticates_by_each_mechanism() -> Result<()> {
    let Some(program) = peers::program("swaks") else {
        return peers::skip("swaks is not installed");
    };
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |_| {})?;
    let file = submission.server.directory().join("message");
    let ways = [(submission.server.smtp(), "--tls"), (submission.implicit, "--tlsc")];
    let mut sent = 0;
    for (address, tls) in ways {
        for mechanism in ["PLAIN", "LOGIN"] {
            fs::write(&file, message::stuff(&message::build(&format!("swaks-{sent}"), 3_000)))?;
            let run = |password: &str| {
                let arguments =
                    [tls, "--auth", mechanism, "--auth-user", "user", "--auth-password", password];
                swaks(&program, address, &arguments, &file)
            };
            let (is_sent, text) = run("secret")?;
            assert!(is_sent && text.contains(" 235 2.7.0"), "{mechanism}: {text}");
            sent += 1;
            let (is_sent, text) = run("wrong")?;
            assert!(!is_sent && text.contains(" 535 5.7.8"), "{mechanism}: {text}");
        }
        // What is not offered is not spoken: it gives up.
        let weak = ["--auth", "CRAM-MD5", "--auth-user", "user", "--auth-password", "secret"];
        let (is_sent, text) = swaks(&program, address, &[&[tls], &weak[..]].concat(), &file)?;
        assert!(!is_sent, "{text}");
        // And without, there is no mail.
        let (is_sent, text) = swaks(&program, address, &[tls], &file)?;
        assert!(!is_sent && text.contains("530 5.7.0"), "{text}");
    }
    wait_until("the messages", SOON, || Ok(sink.accepted_count() == sent))?;
    assert_eq!(submission.count("ringpost_auth_succeeded_total", "login")?, 2);
    assert_eq!(submission.count("ringpost_auth_failed_total", "login")?, 2);
    for event in submission.server.wait_events("received", sent)? {
        if event.kind == "received" {
            assert_eq!(event.fields["protocol"], "ESMTPSA", "{event:?}");
        }
    }
    Ok(())
}

#[test]
fn curl_and_python_authenticate() -> Result<()> {
    let (Some(curl), Some(python)) = (peers::program("curl"), peers::program("python3")) else {
        return peers::skip("curl or python3 is not installed");
    };
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |_| {})?;
    let file = submission.server.directory().join("message");
    fs::write(&file, message::build("curl", 3_000))?;
    let ca = &submission.certificate.chain;
    let port = submission.implicit.port();
    for mechanism in ["PLAIN", "LOGIN"] {
        for (password, is_right) in [("secret", true), ("wrong", false)] {
            let output = Command::new(&curl)
                .args(["--silent", "--show-error", "--max-time", "60", "--cacert"])
                .arg(ca)
                .args(["--connect-to", &format!("a.test:{port}:127.0.0.1:{port}")])
                .args(["--user", &format!("user:{password}")])
                .args(["--login-options", &format!("AUTH={mechanism}")])
                .arg(format!("smtps://a.test:{port}/curl.test"))
                .args(["--mail-from", "a@a.test", "--mail-rcpt", "b@b.test", "--upload-file"])
                .arg(&file)
                .output()?;
            assert_eq!(output.status.success(), is_right, "{mechanism} {password}: {output:?}");
        }
    }
    let script = "\
import smtplib, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
for mechanism in ('PLAIN', 'LOGIN'):
    for initial in (True, False):
        for password, right in (('secret', True), ('wrong', False)):
            with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='p.test', timeout=60) as client:
                client.starttls(context=context)
                client.ehlo()
                assert mechanism in client.esmtp_features['auth'].split(), client.esmtp_features
                client.user, client.password = 'user', password
                how = getattr(client, 'auth_' + mechanism.lower())
                try:
                    client.auth(mechanism, how, initial_response_ok=initial)
                    assert right, (mechanism, initial)
                    client.sendmail('a@a.test', ['b@b.test'], open(sys.argv[3], 'rb').read())
                except smtplib.SMTPAuthenticationError as error:
                    assert not right and error.smtp_code == 535, (mechanism, initial, error)
";
    peers::run(
        Command::new(python)
            .args(["-c", script, &submission.server.smtp().port().to_string()])
            .arg(ca)
            .arg(&file),
    )?;
    wait_until("the messages", SOON, || Ok(sink.accepted_count() == 6))
}

/// A client of SCRAM in terms of Python's own library: it proves that it has the password, and has us
/// prove that we know it.
#[test]
fn python_authenticates_by_scram() -> Result<()> {
    let Some(python) = peers::program("python3") else {
        return peers::skip("python3 is not installed");
    };
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |_| {})?;
    let port = submission.server.smtp().port().to_string();
    let ca = submission.certificate.chain.display().to_string();
    let script = "\
import base64, hashlib, hmac, os, smtplib, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
def digest(key, text):
    return hmac.new(key, text, 'sha256').digest()
def run(name, password, header='n,,', spoil=None):
    with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='p.test', timeout=60) as client:
        client.starttls(context=context)
        client.ehlo()
        offered = client.esmtp_features['auth'].split()
        if sys.argv[3] == 'absent':
            assert 'SCRAM-SHA-256' not in offered, offered
            return
        assert offered[:2] == ['SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256'], offered
        nonce = base64.b64encode(os.urandom(12)).decode()
        bare = 'n=%s,r=%s' % (name, nonce)
        def say(text):
            code, answer = client.docmd(base64.b64encode(text.encode()).decode())
            return code, base64.b64decode(answer).decode() if code == 334 else answer
        code, _ = client.docmd('AUTH SCRAM-SHA-256')
        assert code == 334, code
        code, first = say(header + bare)
        if code == 535:
            return False
        assert code == 334, (code, first)
        values = dict(part.split('=', 1) for part in first.split(','))
        assert values['r'].startswith(nonce) and len(values['r']) > len(nonce) + 20, first
        assert int(values['i']) >= 4096, first
        salted = hashlib.pbkdf2_hmac('sha256', password.encode(), base64.b64decode(values['s']), int(values['i']))
        last = 'c=%s,r=%s' % (base64.b64encode((spoil or header).encode()).decode(), values['r'])
        signed = ','.join((bare, first, last)).encode()
        key = digest(salted, b'Client Key')
        signature = digest(hashlib.sha256(key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(key, signature))
        code, final = say('%s,p=%s' % (last, base64.b64encode(proof).decode()))
        if code == 535:
            return False
        assert code == 334, (code, final)
        expected = digest(digest(salted, b'Server Key'), signed)
        assert final == 'v=' + base64.b64encode(expected).decode(), final
        code, text = client.docmd('')
        assert code == 235, (code, text)
        client.sendmail('a@a.test', ['b@b.test'], b'Subject: x\\r\\n\\r\\nx\\r\\n')
        return True
if sys.argv[3] == 'absent':
    run('user', 'secret')
else:
    assert run('user', 'secret') is True
    assert run('user', 'secret', header='n,,') is True
    assert run('user', 'secret', header='y,,') is False
    assert run('user', 'wrong') is False
    assert run('nobody', 'secret') is False
    assert run('user', 'secret', header='n,a=boss,') is False
    assert run('user', 'secret', spoil='y,,') is False
";
    let run = |mode: &str| peers::run(Command::new(&python).args(["-c", script, &port, &ca, mode]));
    // While some user has an argon2id hash only, a client that takes the best would be locked out.
    run("absent")?;
    user(&submission.users, &["add", "user", "--replace", "--scram"], "secret")?;
    submission.server.signal(Signal::HUP)?;
    let mut offer = String::new();
    wait_until("the offer", SOON, || {
        offer = peers::run(Command::new(&python).args(["-c", OFFER, &port, &ca]))?;
        Ok(offer.contains("SCRAM"))
    })?;
    run("present")?;
    wait_until("the messages", SOON, || Ok(sink.accepted_count() == 2))?;
    assert_eq!(submission.count("ringpost_auth_succeeded_total", "scram-sha-256")?, 2);
    assert_eq!(submission.count("ringpost_auth_failed_total", "scram-sha-256")?, 5);
    Ok(())
}

/// Prints the mechanisms that are offered over TLS.
const OFFER: &str = "\
import smtplib, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
context.check_hostname = False
with smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='p.test', timeout=60) as client:
    client.starttls(context=context)
    client.ehlo()
    print(client.esmtp_features['auth'])
";

/// A directory that other users can enter.
fn open_directory(server: &Server, name: &str) -> Result<PathBuf> {
    let path = server.directory().join(name);
    fs::create_dir(&path)?;
    for directory in [server.directory(), &path as &Path] {
        peers::run(Command::new("chmod").arg("755").arg(directory))?;
    }
    Ok(path)
}

/// Sends mail through a mail server that has the password, and expects all of it at the sink.
fn relayed(submission: &Submission, sink: &Sink, first: SocketAddr, run: &str) -> Result<()> {
    const MESSAGES: u64 = 20;
    let mut load = Load::new(first, run, 3, Some(MESSAGES));
    load.size = 5_000;
    let book = load.run()?;
    let all = usize::try_from(MESSAGES)?;
    wait_until("all messages", 3 * SOON, || Ok(sink.accepted_count() >= all))?;
    once_each(&Account::of(&book, &sink.accepted()));
    assert_eq!(sink.violations(), NONE);
    for event in submission.server.wait_events("received", all)? {
        if event.kind == "received" {
            assert_eq!(event.fields["protocol"], "ESMTPSA", "{event:?}");
            assert_eq!(event.fields["user"], "user", "{event:?}");
        }
    }
    Ok(())
}

#[test]
fn postfix_authenticates_to_us() -> Result<()> {
    postfix("plain, login", "postfix-auth")
}

/// By the library of Cyrus, which checks our proof, too.
#[test]
fn postfix_authenticates_to_us_by_scram() -> Result<()> {
    let directories = ["/usr/lib/x86_64-linux-gnu/sasl2", "/usr/lib/aarch64-linux-gnu/sasl2"];
    if !directories.iter().any(|directory| Path::new(directory).join("libscram.so").exists()) {
        return peers::skip("the SASL library of Cyrus has no SCRAM");
    }
    postfix("scram-sha-256", "postfix-scram")
}

fn postfix(mechanisms: &str, run: &str) -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |server| {
        let users = server.directory().join("users.toml");
        let arguments = ["add", "user", "--replace", "--scram"];
        assert!(user(&users, &arguments, "secret").is_ok());
    })?;
    let directory = open_directory(&submission.server, "postfix")?;
    let (listen, next) = (ports::reserve()?, submission.server.smtp().port());
    let settings = format!(
        "relayhost = [127.0.0.1]:{next}\nsmtp_tls_security_level = encrypt\n\
         smtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n\
         smtp_sasl_mechanism_filter = {mechanisms}\n\
         smtp_sasl_password_maps = inline:{{ {{ [127.0.0.1]:{next} = user:secret }} }}\n"
    );
    let postfix = Postfix::start(&directory, listen, &settings)?;
    relayed(&submission, &sink, listen, run).with_context(|| postfix.log())
}

#[test]
fn exim_authenticates_to_us() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |_| {})?;
    let directory = open_directory(&submission.server, "exim")?;
    let listen = ports::reserve()?;
    let options = "  hosts_require_tls = *\n  hosts_require_auth = *\n\
                   begin authenticators\nplain:\n  driver = plaintext\n  public_name = PLAIN\n  \
                   client_send = ^user^secret\n";
    let exim = Exim::start_with(&directory, listen, submission.server.smtp(), options)?;
    relayed(&submission, &sink, listen, "exim-auth").with_context(|| exim.log())
}
