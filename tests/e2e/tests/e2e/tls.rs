//! STARTTLS and TLS from the first octet, with the clients of others.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::metrics::Metrics;
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::ports;
use ringpost_e2e::process::{Server, Signal};
use ringpost_e2e::sink::{Answer, Sink, SinkOptions};
use ringpost_e2e::tls::{Certificate, s_client};
use ringpost_e2e::wait::{SOON, wait_until};

use crate::{NONE, once_each};

/// A server with STARTTLS on its first listener and TLS from the first octet on a second.
struct Secure {
    server: Server,
    implicit: SocketAddr,
    certificate: Certificate,
}

impl Secure {
    fn start(sink: SocketAddr) -> Result<Self> {
        let mut server = Server::prepare()?;
        let implicit = ports::reserve()?;
        let certificate = Certificate::make(server.directory(), "a", &["a.test", "127.0.0.1"])?;
        let list = format!("[{}]", certificate.toml());
        server.config.route("*", sink);
        server
            .config
            .set("listener.main", "certificates", &list)
            .set("listener.tls", "addresses", &format!("[\"{implicit}\"]"))
            .set("listener.tls", "role", "\"submissions\"")
            .set("listener.tls", "certificates", &list);
        server.start()?;
        Ok(Self { server, implicit, certificate })
    }

    /// Both ways in, with what openssl needs to be told.
    fn ways(&self) -> [(SocketAddr, &'static [&'static str]); 2] {
        [(self.server.smtp(), &["-starttls", "smtp"]), (self.implicit, &[])]
    }

    fn failures(&self, reason: &str) -> Result<u64> {
        let label = format!("reason=\"{reason}\"");
        Ok(self.server.metrics()?.count_where("ringpost_tls_handshake_failures_total", &label))
    }
}

fn said(output: &Output) -> String {
    let both = [&*output.stdout, &*output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn handshakes(metrics: &Metrics, version: &str) -> u64 {
    metrics.count_where("ringpost_tls_handshakes_total", &format!("version=\"{version}\""))
}

#[test]
fn openssl_gets_tls_1_2_and_1_3_and_no_older() -> Result<()> {
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    for (address, starttls) in secure.ways() {
        for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let output = s_client(address, &[starttls, &[option]].concat())?;
            let text = said(&output);
            assert!(output.status.success() && text.contains(version), "{option}: {text}");
            assert!(text.contains("CN = a.test"), "{text}");
        }
        let before = secure.failures("version")?;
        for option in ["-tls1", "-tls1_1"] {
            // Openssl itself has to be talked into it.
            let weak: &[&str] = &[option, "-cipher", "DEFAULT:@SECLEVEL=0"];
            let output = s_client(address, &[starttls, weak].concat())?;
            let text = said(&output);
            assert!(!output.status.success(), "{option}: {text}");
            assert!(text.contains("SSL alert number"), "{option}: {text}");
        }
        assert_eq!(secure.failures("version")?, before + 2);
    }
    let metrics = secure.server.metrics()?;
    assert_eq!((handshakes(&metrics, "1.2"), handshakes(&metrics, "1.3")), (2, 2));
    Ok(())
}

#[test]
fn the_certificate_is_chosen_by_name_and_replaced_without_a_restart() -> Result<()> {
    let sink = Sink::start()?;
    let mut secure = Secure::start(sink.address())?;
    let directory = secure.server.directory().to_owned();
    let other = Certificate::make(&directory, "b", &["b.test", "*.w.test"])?;
    let list = format!("[{}, {}]", secure.certificate.toml(), other.toml());
    secure.server.config.set("listener.main", "certificates", &list);
    secure.server.write_config()?;
    secure.server.signal(Signal::HUP)?;
    let smtp = secure.server.smtp();
    let shown = |name: &str| -> Result<String> {
        let name: &[&str] =
            if name.is_empty() { &["-noservername"] } else { &["-servername", name] };
        Ok(said(&s_client(smtp, &[&["-starttls", "smtp"], name].concat())?))
    };
    wait_until("the second certificate", SOON, || Ok(shown("b.test")?.contains("CN = b.test")))?;
    for (name, subject) in [
        ("a.test", "a.test"),
        ("B.TEST", "b.test"),
        ("x.w.test", "b.test"),
        ("x.y.w.test", "a.test"),
        ("c.test", "a.test"),
        ("", "a.test"),
    ] {
        let said = format!("CN = {subject}");
        // The other core may take the configuration a moment later.
        wait_until(name, SOON, || Ok(shown(name)?.contains(&said)))?;
    }

    // A renewed certificate in the same files.
    Certificate::make(&directory, "b", &["renewed.test", "b.test"])?;
    secure.server.signal(Signal::HUP)?;
    wait_until("the renewed certificate", SOON, || Ok(shown("b.test")?.contains("renewed.test")))?;

    // One that does not fit its key: the old ones stay, and the log says which file is at fault.
    fs::copy(&secure.certificate.key, &other.key)?;
    secure.server.signal(Signal::HUP)?;
    wait_until("a complaint in the log", SOON, || {
        Ok(secure.server.log().contains("not the key of"))
    })?;
    let log = secure.server.log();
    assert!(log.contains("listener.main.certificates.1.key"), "{log}");
    wait_until("it still", SOON, || Ok(shown("b.test")?.contains("renewed.test")))?;
    secure.server.terminate()?;
    // At a start it is an error.
    let checked = Command::new(ringpost_e2e::process::binary()?)
        .arg("check-config")
        .arg(secure.server.config_path())
        .output()?;
    assert!(!checked.status.success() && said(&checked).contains("not the key of"));
    Ok(())
}

#[test]
fn nothing_sent_ahead_of_the_handshake_is_obeyed() -> Result<()> {
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    let injected = "MAIL FROM:<evil@a.test>\r\nRCPT TO:<b@b.test>\r\n";
    for behind in ["RSET\r\n", injected, "x"] {
        let mut client = Client::connect(secure.server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        client.send(format!("STARTTLS\r\n{behind}").as_bytes())?;
        let reply = client.expect_reply(554)?;
        assert!(reply.text.starts_with("5.5.0"), "{reply:?}");
        assert!(client.is_closed_by_peer(), "{behind:?}");
    }
    // What comes where the handshake should: the connection ends without another word.
    let mut client = Client::connect(secure.server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.expect("STARTTLS", 220)?;
    client.send(injected.as_bytes())?;
    assert!(client.is_closed_by_peer());
    let mut stream = TcpStream::connect(secure.implicit)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"EHLO c.test\r\nMAIL FROM:<evil@a.test>\r\n")?;
    let mut heard = Vec::new();
    // A reset is an end, too.
    drop(stream.read_to_end(&mut heard));
    assert_eq!(heard, b"", "a listener for TLS has answered without it");
    wait_until("the failures", SOON, || Ok(secure.failures("not_tls")? == 2))?;
    assert_eq!(secure.server.metrics()?.count("ringpost_messages_received_total"), 0);
    Ok(())
}

#[test]
fn a_silent_handshake_is_cut_off() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    let certificate = Certificate::make(server.directory(), "a", &["a.test"])?;
    server.config.route("*", sink.address());
    server
        .config
        .set("listener.main", "certificates", &format!("[{}]", certificate.toml()))
        .set("listener.main", "tls_handshake_timeout", "\"300ms\"")
        .set("listener.main", "tls_handshakes_per_core_max", "1")
        .set("server", "cores", "1");
    server.start()?;
    let mut silent = Client::connect(server.smtp())?;
    silent.expect("STARTTLS", 220)?;
    let mut second = Client::connect(server.smtp())?;
    // While the first is at it, if it still is: then there is no room for another.
    let reply = second.command("STARTTLS")?;
    ensure!(reply.code == 454 || reply.code == 220, "{reply:?}");
    assert!(silent.is_closed_by_peer());
    let hits = |limit: &str| -> Result<u64> {
        let label = format!("limit=\"{limit}\"");
        Ok(server.metrics()?.count_where("ringpost_limit_hits_total", &label))
    };
    wait_until("the timeout", SOON, || Ok(hits("tls_handshake_timeout")? >= 1))?;
    assert_eq!(hits("tls_handshakes_per_core_max")? > 0, reply.code == 454);
    Ok(())
}

#[test]
fn where_tls_is_required_mail_is_refused_without() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    let certificate = Certificate::make(server.directory(), "a", &["a.test"])?;
    server.config.route("*", sink.address());
    server.config.set("listener.main", "certificates", &format!("[{}]", certificate.toml())).set(
        "listener.main",
        "role",
        "\"submission\"",
    );
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    let offer = client.expect("EHLO c.test", 250)?.text;
    assert!(offer.contains("STARTTLS"), "{offer}");
    let refused = client.expect("MAIL FROM:<a@a.test>", 530)?;
    assert!(refused.text.starts_with("5.7.0"), "{refused:?}");
    client.expect("NOOP", 250)?;
    client.expect("QUIT", 221)?;
    Ok(())
}

/// Runs a script of Python with arguments.
fn python(script: &str, arguments: &[&str]) -> Result<String> {
    let python = peers::program("python3").context("python3 is not installed")?;
    peers::run(Command::new(python).args(["-c", script]).args(arguments))
}

#[test]
fn python_sends_over_tls_and_the_trace_says_so() -> Result<()> {
    if peers::program("python3").is_none() {
        return peers::skip("python3 is not installed");
    }
    let keeping = SinkOptions { keep_content: true, ..SinkOptions::default() };
    let sink = Sink::with(ports::reserve()?, keeping, |_| Answer::Accept)?;
    let secure = Secure::start(sink.address())?;
    let file = secure.server.directory().join("message");
    fs::write(&file, message::build("python", 300_000))?;
    let script = "\
import smtplib, ssl, sys
starttls, implicit, ca, content = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], open(sys.argv[4], 'rb').read()
context = ssl.create_default_context(cafile=ca)
with smtplib.SMTP('127.0.0.1', starttls, local_hostname='p.test', timeout=60) as client:
    client._host = 'a.test'
    client.ehlo()
    assert client.has_extn('starttls')
    client.starttls(context=context)
    code, text = client.docmd('MAIL FROM:<a@a.test>')
    assert code == 503, (code, text)
    client.ehlo()
    assert not client.has_extn('starttls')
    code, text = client.docmd('STARTTLS')
    assert code == 554, (code, text)
    for _ in range(2):
        client.sendmail('a@a.test', ['b@b.test'], content, ['BODY=8BITMIME'])
context.check_hostname = False
with smtplib.SMTP_SSL('127.0.0.1', implicit, local_hostname='p.test', timeout=60, context=context) as client:
    client.sendmail('a@a.test', ['b@b.test'], content, ['BODY=8BITMIME'])
";
    let ports = [secure.server.smtp().port().to_string(), secure.implicit.port().to_string()];
    let ca = secure.certificate.chain.display().to_string();
    python(script, &[&ports[0], &ports[1], &ca, &file.display().to_string()])?;
    wait_until("three messages", SOON, || Ok(sink.accepted_count() == 3))?;
    for taken in sink.accepted() {
        assert_eq!(taken.mark, message::Mark::Intact("python".into()));
        let head = String::from_utf8_lossy(&taken.content[..400]).into_owned();
        assert!(head.contains("with ESMTPS id ") && head.contains("\r\n\ttls TLS_"), "{head}");
    }
    let received = secure.server.wait_events("received", 3)?;
    for event in received.iter().filter(|event| event.kind == "received") {
        assert_eq!(event.fields["protocol"], "ESMTPS");
        assert_eq!(event.fields["tls_version"], "1.3");
        let cipher = event.fields["tls_cipher"].as_str().context("no cipher")?;
        assert!(cipher.starts_with("TLS_"), "{cipher}");
    }
    // They all said QUIT and heard the end: nothing was cut off.
    assert_eq!(secure.server.metrics()?.count("ringpost_tls_breaks_total"), 0);
    Ok(())
}

/// Records in pieces of one octet, and a close in good order at the end.
#[test]
fn records_may_be_cut_at_every_octet() -> Result<()> {
    if peers::program("python3").is_none() {
        return peers::skip("python3 is not installed");
    }
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    let file = secure.server.directory().join("message");
    fs::write(&file, message::stuff(&message::build("cut", 1_000)))?;
    let script = "\
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[2])
raw = socket.create_connection(('127.0.0.1', int(sys.argv[1])), timeout=60)
raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname='a.test')
def flush():
    for octet in outgoing.read():
        raw.send(bytes([octet]))
def do(what):
    while True:
        try:
            result = what()
            flush()
            return result
        except ssl.SSLWantReadError:
            flush()
            octets = raw.recv(1)
            incoming.write(octets) if octets else incoming.write_eof()
def expect(code):
    line = b''
    while not (line.endswith(b'\\r\\n') and line.split(b'\\r\\n')[-2][3:4] == b' '):
        line += do(lambda: tls.read(1))
    assert line.startswith(code), line
do(tls.do_handshake)
expect(b'220')
for line, code in ((b'EHLO c.test', b'250'), (b'MAIL FROM:<a@a.test>', b'250'),
                   (b'RCPT TO:<b@b.test>', b'250'), (b'DATA', b'354')):
    do(lambda: tls.write(line + b'\\r\\n'))
    expect(code)
do(lambda: tls.write(open(sys.argv[3], 'rb').read()))
expect(b'250')
do(lambda: tls.write(b'QUIT\\r\\n'))
expect(b'221')
try:
    rest = do(lambda: tls.read(1))
    assert rest == b'', rest
except ssl.SSLZeroReturnError:
    pass
";
    let port = secure.implicit.port().to_string();
    let ca = secure.certificate.chain.display().to_string();
    python(script, &[&port, &ca, &file.display().to_string()])?;
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    assert_eq!(sink.accepted()[0].mark, message::Mark::Intact("cut".into()));
    assert_eq!(secure.server.metrics()?.count("ringpost_tls_breaks_total"), 0);
    Ok(())
}

/// A client that is killed before the final dot: the end of the connection is not the end of the message.
#[test]
fn a_message_that_is_cut_off_under_tls_is_none() -> Result<()> {
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &secure.implicit.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = client.stdin.take().context("no input")?;
    let mut output = std::io::BufReader::new(client.stdout.take().context("no output")?);
    let mut expect = |code: &str| -> Result<()> {
        loop {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut output, &mut line)?;
            ensure!(line.starts_with(code), "{code}: {line:?}");
            if line.as_bytes().get(3) == Some(&b' ') {
                return Ok(());
            }
        }
    };
    expect("220")?;
    let lines =
        [("EHLO c.test", "250"), ("MAIL FROM:<a@a.test>", "250"), ("RCPT TO:<b@b.test>", "250")];
    for (line, code) in lines.into_iter().chain([("DATA", "354")]) {
        input.write_all(format!("{line}\r\n").as_bytes())?;
        expect(code)?;
    }
    input.write_all(b"Subject: x\r\n\r\nall there is\r\n.\r")?;
    wait_until("the content on its way", SOON, || {
        Ok(secure.server.metrics()?.count("ringpost_sessions_open") >= 1)
    })?;
    client.kill()?;
    client.wait()?;
    let refused = "ringpost_messages_refused_total";
    wait_until("the end of the transaction", SOON, || {
        Ok(secure.server.metrics()?.count_where(refused, "reason=\"aborted\"") == 1)
    })?;
    let metrics = secure.server.metrics()?;
    assert_eq!(metrics.count("ringpost_messages_received_total"), 0);
    assert_eq!(metrics.count("ringpost_tls_breaks_total"), 1);
    Ok(())
}

#[test]
fn swaks_and_curl_send_over_tls() -> Result<()> {
    let (Some(swaks), Some(curl)) = (peers::program("swaks"), peers::program("curl")) else {
        return peers::skip("swaks or curl is not installed");
    };
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    let file = secure.server.directory().join("message");
    let swaks = |address: SocketAddr, option: &str, id: &str| -> Result<String> {
        fs::write(&file, message::stuff(&message::build(id, 5_000)))?;
        peers::run(
            Command::new(&swaks)
                .args(["--server", "127.0.0.1", "--port", &address.port().to_string(), option])
                .args(["--from", "a@a.test", "--to", "b@b.test", "--ehlo", "swaks.test"])
                .args(["--no-data-fixup", "--suppress-data", "--data"])
                .arg(format!("@{}", file.display())),
        )
    };
    assert!(swaks(secure.server.smtp(), "--tls", "swaks-1")?.contains("TLS started"));
    assert!(swaks(secure.implicit, "--tlsc", "swaks-2")?.contains("TLS started"));
    for (scheme, address, id) in
        [("smtp", secure.server.smtp(), "curl-1"), ("smtps", secure.implicit, "curl-2")]
    {
        fs::write(&file, message::build(id, 50_000))?;
        peers::run(
            Command::new(&curl)
                .args(["--silent", "--show-error", "--ssl-reqd", "--max-time", "60"])
                .args(["--connect-to", &format!("a.test:{0}:127.0.0.1:{0}", address.port())])
                .arg("--cacert")
                .arg(&secure.certificate.chain)
                .arg(format!("{scheme}://a.test:{}/curl.test", address.port()))
                .args(["--mail-from", "a@a.test", "--mail-rcpt", "b@b.test", "--upload-file"])
                .arg(&file),
        )?;
    }
    wait_until("four messages", SOON, || Ok(sink.accepted_count() == 4))?;
    let mut ids: Vec<_> =
        sink.accepted().iter().filter_map(|one| one.mark.id().map(str::to_owned)).collect();
    ids.sort();
    assert_eq!(ids, ["curl-1", "curl-2", "swaks-1", "swaks-2"]);
    let metrics = secure.server.metrics()?;
    assert_eq!(handshakes(&metrics, "1.2") + handshakes(&metrics, "1.3"), 4);
    Ok(())
}

/// Sends mail through a mail server, and expects all of it at the sink, over TLS.
fn relayed(secure: &Secure, sink: &Sink, first: SocketAddr, run: &str) -> Result<()> {
    const MESSAGES: u64 = 30;
    let mut load = Load::new(first, run, 3, Some(MESSAGES));
    load.size = 20_000;
    let book = load.run()?;
    let all = usize::try_from(MESSAGES)?;
    wait_until("all messages", 3 * SOON, || Ok(sink.accepted_count() >= all))?;
    once_each(&Account::of(&book, &sink.accepted()));
    assert_eq!(sink.violations(), NONE);
    let events = secure.server.wait_events("received", all)?;
    for event in events.iter().filter(|event| event.kind == "received") {
        assert_eq!(event.fields["protocol"], "ESMTPS", "{event:?}");
    }
    Ok(())
}

/// A directory that other users can enter.
fn open_directory(server: &Server, name: &str) -> Result<std::path::PathBuf> {
    let path = server.directory().join(name);
    fs::create_dir(&path)?;
    for directory in [server.directory(), &path as &Path] {
        peers::run(Command::new("chmod").arg("755").arg(directory))?;
    }
    Ok(path)
}

#[test]
fn postfix_sends_to_us_over_tls() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    let directory = open_directory(&secure.server, "postfix")?;
    let (listen, next) = (ports::reserve()?, secure.server.smtp().port());
    // It checks the certificate against the file and the name that it is told.
    let ca = directory.join("ca.pem");
    fs::copy(&secure.certificate.chain, &ca)?;
    let settings = format!(
        "relayhost = [127.0.0.1]:{next}\nsmtp_tls_security_level = verify\n\
         smtp_tls_verify_cert_match = a.test\nsmtp_tls_CAfile = {}\n",
        ca.display()
    );
    let postfix = Postfix::start(&directory, listen, &settings)?;
    relayed(&secure, &sink, listen, "postfix-tls").with_context(|| postfix.log())
}

#[test]
fn exim_sends_to_us_over_tls() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let secure = Secure::start(sink.address())?;
    let directory = open_directory(&secure.server, "exim")?;
    let listen = ports::reserve()?;
    let options = "  hosts_require_tls = *\n";
    let _exim = Exim::start_with(&directory, listen, secure.server.smtp(), options)?;
    relayed(&secure, &sink, listen, "exim-tls")
}
