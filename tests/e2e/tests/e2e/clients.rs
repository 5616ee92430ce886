//! Programs that people send mail with: plain, by STARTTLS, and over TLS from the first octet.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringpost_e2e::message::{self, Mark};
use ringpost_e2e::peers;
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::tls::Certificate;
use ringpost_e2e::wait::{SOON, wait_until};

/// What a client is told about the way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    StartTls,
    Implicit,
}

impl Way {
    const ALL: [Self; 3] = [Self::Plain, Self::StartTls, Self::Implicit];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::StartTls => "starttls",
            Self::Implicit => "implicit",
        }
    }
}

/// Lets a client send a message each way: `command` makes it, for a port, the certificate and a file.
fn each_way(
    client: &str,
    command: impl Fn(Way, SocketAddr, &Path, &Path) -> Result<Command>,
) -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    let implicit = ports::reserve()?;
    let certificate = Certificate::make(server.directory(), "a", &["localhost", "a.test"])?;
    let certificates = format!("[{}]", certificate.toml());
    server
        .config
        .route("*", sink.address())
        .set("listener.main", "certificates", &certificates)
        .set("listener.implicit", "addresses", &format!("[\"{implicit}\"]"))
        .set("listener.implicit", "role", "\"submissions\"")
        .set("listener.implicit", "certificates", &certificates);
    server.start()?;
    let file = server.directory().join("message");
    let mut expected = Vec::new();
    for way in Way::ALL {
        let id = format!("{client}-{}", way.name());
        fs::write(&file, message::build(&id, 20_000))?;
        let address = if way == Way::Implicit { implicit } else { server.smtp() };
        let mut command = command(way, address, &certificate.chain, &file)?;
        peers::run(&mut command).context(id.clone())?;
        expected.push(Mark::Intact(id));
    }
    wait_until("three messages", SOON, || Ok(sink.accepted_count() == 3))?;
    let mut marks: Vec<_> = sink.accepted().into_iter().map(|one| one.mark).collect();
    marks.sort_by_key(|mark| mark.id().map(str::to_owned));
    expected.sort_by_key(|mark| mark.id().map(str::to_owned));
    ensure!(marks == expected, "{marks:?}");
    let received = server.wait_events("received", 3)?;
    let over_tls = received.iter().filter(|event| event.fields["protocol"] == "ESMTPS").count();
    ensure!(over_tls == 2, "{received:?}");
    Ok(())
}

#[test]
fn msmtp_sends_to_us() -> Result<()> {
    let Some(msmtp) = peers::program("msmtp") else {
        return peers::skip("msmtp is not installed");
    };
    // It reads standard input, with the line ends of the system.
    let script = "tr -d '\\r' < \"$1\" | (shift; exec \"$@\")";
    each_way("msmtp", |way, address, certificate, file| {
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .arg(file)
            .arg(&msmtp)
            .args(["--file=/dev/null", "--host=localhost", "--from=a@a.test", "--timeout=60"])
            .args(["--set-from-header=off", "--set-date-header=off", "--remove-bcc-headers=off"])
            .args(["--domain=msmtp.test", &format!("--port={}", address.port())]);
        if way != Way::Plain {
            let starttls = if way == Way::StartTls { "on" } else { "off" };
            command
                .args(["--tls=on", &format!("--tls-starttls={starttls}")])
                .arg(format!("--tls-trust-file={}", certificate.display()));
        }
        command.arg("b@b.test");
        Ok(command)
    })
}

#[test]
fn curl_sends_to_us() -> Result<()> {
    let Some(curl) = peers::program("curl") else {
        return peers::skip("curl is not installed");
    };
    each_way("curl", |way, address, certificate, file| {
        let mut command = Command::new(&curl);
        let scheme = if way == Way::Implicit { "smtps" } else { "smtp" };
        command.args(["--silent", "--show-error", "--max-time", "60"]);
        command.args(["--mail-from", "a@a.test", "--mail-rcpt", "b@b.test", "--upload-file"]);
        command.arg(file).arg("--cacert").arg(certificate);
        if way != Way::Plain {
            command.arg("--ssl-reqd");
        }
        command.arg(format!("{scheme}://localhost:{}/curl.test", address.port()));
        Ok(command)
    })
}

#[test]
fn aiosmtplib_sends_to_us() -> Result<()> {
    // The package of the distribution is for its own interpreter.
    let python = Path::new("/usr/bin/python3");
    let has = Command::new(python).args(["-c", "import aiosmtplib"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        return peers::skip("aiosmtplib is not installed");
    }
    let script = "\
import asyncio, sys, aiosmtplib
way, port, certificate, file = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
tls = dict(use_tls=way == 'implicit', start_tls=way == 'starttls')
if way != 'plain':
    tls['cert_bundle'] = certificate
errors, text = asyncio.run(aiosmtplib.send(
    open(file, 'rb').read(), sender='a@a.test', recipients=['b@b.test'], hostname='localhost',
    port=port, timeout=60, local_hostname='aiosmtplib.test', **tls))
assert not errors and 'queued' in text, (errors, text)
";
    each_way("aiosmtplib", |way, address, certificate, file| {
        let mut command = Command::new(python);
        command.args(["-c", script, way.name(), &address.port().to_string()]);
        command.arg(certificate).arg(file);
        Ok(command)
    })
}

#[test]
fn nodemailer_sends_to_us() -> Result<()> {
    /// Where the distribution has its packages for node.
    const MODULES: &str = "/usr/share/nodejs";
    let node = peers::program("node");
    let (Some(node), true) = (node, Path::new(MODULES).join("nodemailer").exists()) else {
        return peers::skip("nodemailer is not installed");
    };
    let script = "\
const [way, port, certificate, file] = process.argv.slice(1);
const fs = require('fs');
const transport = require('nodemailer').createTransport({
    host: 'localhost', port: Number(port), name: 'node.test', secure: way === 'implicit',
    requireTLS: way === 'starttls', ignoreTLS: way === 'plain', tls: { ca: fs.readFileSync(certificate) },
});
transport.sendMail({ envelope: { from: 'a@a.test', to: ['b@b.test'] }, raw: fs.readFileSync(file) })
    .then(info => { if (info.rejected.length > 0) throw new Error(info.response); })
    .catch(error => { console.error(error); process.exit(1); });
";
    each_way("nodemailer", |way, address, certificate, file| {
        let mut command = Command::new(&node);
        command.env("NODE_PATH", MODULES);
        command.args(["-e", script, way.name(), &address.port().to_string()]);
        command.arg(certificate).arg(file);
        Ok(command)
    })
}
