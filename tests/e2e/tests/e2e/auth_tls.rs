//! AUTH by means of TLS, with the clients of others: bound to the connection, and by certificates.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use ringpost_e2e::peers::{self, Running};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::tls::Certificate;

use crate::auth::{Submission, user};

/// Lets the password of `user` be used by SCRAM.
fn scram(server: &Server) {
    let users = server.directory().join("users.toml");
    assert!(user(&users, &["add", "user", "--replace", "--scram"], "secret").is_ok());
}

/// Runs the client of GNU SASL, which checks the server's proof, too; whether it is in, and what was said.
fn gsasl(
    program: &Path,
    address: SocketAddr,
    ca: &Path,
    arguments: &[&str],
) -> Result<(bool, String)> {
    let output = Command::new(program)
        .args(["--smtp", "--starttls", "--authentication-id", "user"])
        .arg(format!("--connect={address}"))
        .arg(format!("--x509-ca-file={}", ca.display()))
        .args(arguments)
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((text.contains("\n235 2.7.0"), text))
}

#[test]
fn gsasl_binds_itself_to_the_connection() -> Result<()> {
    let Some(program) = peers::program("gsasl") else {
        return peers::skip("gsasl is not installed");
    };
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |server| scram(server))?;
    let ca = &submission.certificate.chain;
    let run = |arguments: &[&str]| gsasl(&program, submission.server.smtp(), ca, arguments);
    let plus = ["--mechanism", "SCRAM-SHA-256-PLUS"];
    let (is_in, text) = run(&[&plus[..], &["--password", "secret"]].concat())?;
    assert!(is_in && text.contains("server trusted"), "{text}");
    // `p=tls-exporter,`
    assert!(text.contains("\ncD10bHMtZXhwb3J0ZXIs"), "{text}");
    let (is_in, text) = run(&[&plus[..], &["--password", "wrong"]].concat())?;
    assert!(!is_in && text.contains("\n535 5.7.8 "), "{text}");
    // TLS 1.2 has nothing to be bound to.
    let old = ["--password", "secret", "--priority=NORMAL:-VERS-TLS1.3"];
    let (is_in, text) = run(&[&plus[..], &old].concat())?;
    assert!(!is_in && text.contains("\n504 5.5.4 "), "{text}");
    assert!(text.contains("AUTH SCRAM-SHA-256 PLAIN LOGIN"), "{text}");
    assert_eq!(submission.count("ringpost_auth_succeeded_total", "scram-sha-256-plus")?, 1);
    assert_eq!(submission.count("ringpost_auth_failed_total", "scram-sha-256-plus")?, 1);
    Ok(())
}

/// Somebody between client and server, whom the client takes for the server: takes connections, one after
/// the other, ends each with TLS of its own, and passes on what both say.
const BETWEEN: &str = "\
import socket, ssl, sys
port, upstream = int(sys.argv[1]), int(sys.argv[2])
listener = socket.create_server(('127.0.0.1', port))
ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
ours.load_cert_chain(sys.argv[3], sys.argv[4])
theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
def reply(stream):
    lines = b''
    while True:
        line = stream.readline(65536)
        lines += line
        if not line or line[3:4] != b'-':
            return lines
def serve(client):
    client.settimeout(30)
    client.sendall(b'220 between.test\\r\\n')
    plain = client.makefile('rb')
    while not plain.readline(65536).startswith(b'STARTTLS'):
        client.sendall(b'250-between.test\\r\\n250 STARTTLS\\r\\n')
    client.sendall(b'220 go\\r\\n')
    client = ours.wrap_socket(client, server_side=True)
    server = theirs.wrap_socket(socket.create_connection(('127.0.0.1', upstream), timeout=30))
    said, answered = client.makefile('rb'), server.makefile('rb')
    reply(answered)
    while True:
        line = said.readline(65536)
        if not line:
            return
        server.sendall(line)
        client.sendall(reply(answered))
for _ in range(9):
    client, _ = listener.accept()
    try:
        serve(client)
    except OSError:
        pass
";

#[test]
fn somebody_in_between_is_found_out() -> Result<()> {
    let (Some(program), Some(python)) = (peers::program("gsasl"), peers::program("python3")) else {
        return peers::skip("gsasl or python3 is not installed");
    };
    let sink = Sink::start()?;
    let submission = Submission::start(sink.address(), |server| scram(server))?;
    let port = ports::reserve()?;
    let forged = Certificate::make(submission.server.directory(), "forged", &["127.0.0.1"])?;
    let _between = Running::start(
        Command::new(python)
            .args(["-c", BETWEEN, &port.port().to_string()])
            .arg(submission.implicit.port().to_string())
            .args([&forged.chain, &forged.key]),
        &submission.server.directory().join("between.log"),
    )?;
    peers::wait_listening(port)?;
    let run = |arguments: &[&str]| gsasl(&program, port, &forged.chain, arguments);
    // The twin: without binding nobody notices.
    let unbound = ["--mechanism", "SCRAM-SHA-256", "--password", "secret", "--no-cb"];
    let (is_in, text) = run(&unbound)?;
    assert!(is_in, "{text}");
    let (is_in, text) = run(&["--mechanism", "SCRAM-SHA-256-PLUS", "--password", "secret"])?;
    assert!(!is_in && text.contains("\n535 5.7.8 Authentication failed, channel"), "{text}");
    let log = submission.server.log();
    assert!(log.contains("why=\"channel binding\""), "{log}");
    Ok(())
}
