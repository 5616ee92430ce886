//! The PROXY protocol: the client is the one in the header, from named proxies and from nobody else.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use ringpost_e2e::injector::Client;
use ringpost_e2e::message;
use ringpost_e2e::peers::{self, Running};
use ringpost_e2e::ports;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::tls::Certificate;
use ringpost_e2e::wait::{SOON, wait_until};

/// The start of a header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A server with a listener behind proxies on 127.0.0.1, whose client 127.0.0.2 may relay, and one with
/// TLS from the first octet.
struct Proxied {
    server: Server,
    plain: SocketAddr,
    implicit: SocketAddr,
}

impl Proxied {
    fn start(sink: SocketAddr, per_client_max: u32) -> Result<Self> {
        let mut server = Server::prepare()?;
        let (plain, implicit) = (ports::reserve()?, ports::reserve()?);
        let certificate = Certificate::make(server.directory(), "a", &["a.test"])?;
        // The limits are for each core.
        server.config.route("*", sink).set("server", "cores", "1");
        for (section, address) in [("listener.plain", plain), ("listener.tls", implicit)] {
            server
                .config
                .set(section, "addresses", &format!("[\"{address}\"]"))
                .set(section, "proxy_protocol_from", "[\"127.0.0.1\"]")
                .set(section, "proxy_timeout", "\"1s\"")
                .set(section, "relay_networks", "[\"127.0.0.2\", \"2001:db8::/32\"]")
                .set(section, "connections_per_client_per_core_max", &per_client_max.to_string());
        }
        server.config.set("listener.tls", "role", "\"submissions\"").set(
            "listener.tls",
            "certificates",
            &format!("[{}]", certificate.toml()),
        );
        server.start()?;
        Ok(Self { server, plain, implicit })
    }

    fn headers(&self, result: &str) -> Result<u64> {
        let label = format!("result=\"{result}\"");
        Ok(self.server.metrics()?.count_where("ringpost_proxy_headers_total", &label))
    }

    /// The clients of the messages taken so far, in order, with their proxies.
    fn clients(&self) -> Result<Vec<(String, Option<String>)>> {
        let events = self.server.events()?;
        let received = events.iter().filter(|event| event.kind == "received");
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        received
            .map(|event| {
                let proxy = event.fields.get("proxy").and_then(text);
                Ok((text(&event.fields["client"]).context("no client")?, proxy))
            })
            .collect()
    }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Result<Vec<u8>> {
    Ok([SIGNATURE, &[command, family, 0, u8::try_from(body.len())?], body].concat())
}

#[test]
fn the_client_is_the_one_in_the_header() -> Result<()> {
    let sink = Sink::start()?;
    let mut proxied = Proxied::start(sink.address(), 50)?;
    let six = [&b"\x20\x01\x0d\xb8"[..], &[0; 11], &[7], &[0; 16], &[0, 1, 0, 2]].concat();
    let headers: [(Vec<u8>, u16, &str); 5] = [
        (b"PROXY TCP4 127.0.0.2 127.0.0.1 4321 25\r\n".to_vec(), 250, "127.0.0.2"),
        (b"PROXY TCP4 192.0.2.7 127.0.0.1 4321 25\r\n".to_vec(), 550, ""),
        (v2(0x21, 0x11, b"\x7f\0\0\x02\x7f\0\0\x01\x10\xe1\0\x19\x04\0\x01\0")?, 250, "127.0.0.2"),
        (v2(0x21, 0x21, &six)?, 250, "2001:db8::7"),
        // The proxy itself, which is no client that may relay.
        (v2(0x20, 0, &[])?, 550, ""),
    ];
    let mut expected = Vec::new();
    for (header, code, client) in &headers {
        // Whole, octet by octet, and with what the client may not send yet.
        let octets: Vec<&[u8]> = header.chunks(1).collect();
        for pieces in [vec![&header[..]], octets] {
            let mut connection = Client::connect_with(proxied.plain, &pieces)?;
            assert_eq!(connection.greeting.code, 220);
            let id = format!("proxy-{}", expected.len());
            let reply =
                connection.message("<a@a.test>", &["<b@b.test>"], &message::build(&id, 500))?;
            assert_eq!(reply.code, *code, "{header:?}: {reply:?}");
            connection.expect("QUIT", 221)?;
            assert!(connection.is_closed_by_peer());
            if *code == 250 {
                expected.push(((*client).to_owned(), Some("127.0.0.1".to_owned())));
            }
        }
        let early = [&header[..], b"EHLO early.test\r\n"].concat();
        assert_eq!(Client::connect_with(proxied.plain, &[&early])?.greeting.code, 554);
    }
    proxied.server.wait_drained(SOON)?;
    assert_eq!(proxied.headers("client")?, 12);
    assert_eq!(proxied.headers("own")?, 3);
    proxied.server.terminate()?;
    assert_eq!(proxied.clients()?, expected);
    Ok(())
}

/// The control of the test above: without the key the same dialogue is refused.
#[test]
fn headers_count_from_named_proxies_only() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server
        .config
        .route("*", sink.address())
        .set("listener.main", "proxy_protocol_from", "[\"127.0.0.9\"]")
        .set("listener.main", "lenient", "true")
        .set("listener.main", "relay_networks", "[\"127.0.0.2\"]");
    server.start()?;
    let header = b"PROXY TCP4 127.0.0.2 127.0.0.1 4321 25\r\n";
    let mut client = Client::connect_with(server.smtp(), &[header])?;
    assert_eq!((client.greeting.code, client.reply()?.code), (220, 500));
    let reply = client.message("<a@a.test>", &["<b@b.test>"], &message::build("x", 500))?;
    assert_eq!(reply.code, 550, "{reply:?}");
    Ok(())
}

#[test]
fn proxies_have_to_send_a_header_in_time_and_within_limits() -> Result<()> {
    let sink = Sink::start()?;
    let proxied = Proxied::start(sink.address(), 1)?;
    let long = [&b"PROXY TCP4 "[..], &[b'1'; 120]].concat();
    let longer = [SIGNATURE, &[0x21, 0x11, 0x10, 0]].concat();
    for (input, result) in [
        (&b"EHLO c.test\r\n"[..], "absent"),
        (b"PROXY TCP4 127.0.0.2\r\n", "malformed"),
        (&long, "too_long"),
        (&longer, "too_long"),
        (&v2(0x21, 0x31, &[])?, "not_tcp"),
        (b"PROXY TCP4 127.0.0.2 ", "timeout"),
        (b"", "timeout"),
    ] {
        let before = proxied.headers(result)?;
        let mut client = Client::connect_with(proxied.plain, &[input])?;
        assert_eq!(client.greeting.code, 421, "{result}");
        assert!(client.is_closed_by_peer());
        assert_eq!(proxied.headers(result)?, before + 1, "{result}");
    }
    let limits = proxied.server.metrics()?;
    for (limit, count) in [("proxy_header", 2), ("proxy_timeout", 2)] {
        let label = format!("limit=\"{limit}\"");
        assert_eq!(limits.count_where("ringpost_limit_hits_total", &label), count, "{limit}");
    }
    // One connection of a client that may not relay, whoever connects for it.
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 1 2\r\n").into_bytes();
    let connect = |client: &str| Client::connect_with(proxied.plain, &[&header(client)]);
    let held: Vec<Client> =
        ["192.0.2.1", "192.0.2.2"].iter().map(|client| connect(client)).collect::<Result<_>>()?;
    assert!(held.iter().all(|client| client.greeting.code == 220));
    assert_eq!(connect("192.0.2.1")?.greeting.code, 421);
    drop(held);
    wait_until("room", SOON, || Ok(connect("192.0.2.1")?.greeting.code == 220))?;
    Ok(())
}

/// A balancer that leads four ports to a server, by both versions of the protocol.
struct Haproxy {
    _running: Running,
    ways: Vec<(SocketAddr, bool)>,
}

impl Haproxy {
    fn start(program: &Path, proxied: &Proxied) -> Result<Self> {
        let mut config = "defaults\n mode tcp\n timeout connect 10s\n timeout client 30s\n \
                          timeout server 30s\n"
            .to_owned();
        let mut ways = Vec::new();
        for (address, is_tls) in [(proxied.plain, false), (proxied.implicit, true)] {
            for version in ["send-proxy", "send-proxy-v2"] {
                let way = ports::reserve()?;
                let number = ways.len();
                let server = format!("server ringpost {address} {version}");
                writeln!(config, "listen way{number}\n bind {way}\n {server}")?;
                ways.push((way, is_tls));
            }
        }
        let directory = proxied.server.directory();
        let file = directory.join("haproxy.cfg");
        fs::write(&file, config)?;
        let running = Running::start(
            Command::new(program).arg("-db").arg("-f").arg(&file),
            &directory.join("haproxy.log"),
        )?;
        for (way, _) in &ways {
            peers::wait_listening(*way)?;
        }
        Ok(Self { _running: running, ways })
    }
}

fn swaks(program: &Path, to: SocketAddr, id: &str, more: &[&str]) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("message");
    fs::write(&file, message::stuff(&message::build(id, 5_000)))?;
    peers::run(
        Command::new(program)
            .args(["--server", "127.0.0.1", "--port", &to.port().to_string()])
            .args(["--from", "a@a.test", "--to", "b@b.test", "--ehlo", "swaks.test"])
            .args(more)
            .args(["--no-data-fixup", "--suppress-data", "--data"])
            .arg(format!("@{}", file.display())),
    )
}

#[test]
fn swaks_and_haproxy_speak_for_a_client() -> Result<()> {
    let (Some(swaks_program), Some(haproxy)) = (peers::program("swaks"), peers::program("haproxy"))
    else {
        return peers::skip("swaks or HAProxy is not installed");
    };
    let sink = Sink::start()?;
    let mut proxied = Proxied::start(sink.address(), 50)?;
    let mut expected = Vec::new();
    let known = Some("127.0.0.1".to_owned());
    let of = ["--proxy-source", "127.0.0.2", "--proxy-source-port", "4321"];
    let to = ["--proxy-dest", "127.0.0.1", "--proxy-dest-port", "25", "--proxy-family"];
    for (number, version) in
        [&["TCP4", "--proxy-version", "1"][..], &["AF_INET", "--proxy-version", "2"]]
            .into_iter()
            .enumerate()
    {
        for (address, tls) in [(proxied.plain, &[][..]), (proxied.implicit, &["--tlsc"])] {
            let id = format!("swaks-{number}-{}", tls.len());
            swaks(&swaks_program, address, &id, &[&of[..], &to, version, tls].concat())?;
            expected.push(("127.0.0.2".to_owned(), known.clone()));
        }
    }
    let balancer = Haproxy::start(&haproxy, &proxied)?;
    for (number, (way, is_tls)) in balancer.ways.iter().enumerate() {
        let tls: &[&str] = if *is_tls { &["--tlsc"] } else { &[] };
        let id = format!("haproxy-{number}");
        // The client has an address of its own.
        swaks(&swaks_program, *way, &id, &[&["--local-interface", "127.0.0.2"], tls].concat())?;
        expected.push(("127.0.0.2".to_owned(), known.clone()));
    }
    wait_until("all messages", SOON, || Ok(sink.accepted_count() == expected.len()))?;
    assert!(sink.violations().is_empty(), "{:?}", sink.violations());
    proxied.server.terminate()?;
    assert_eq!(proxied.clients()?, expected);
    Ok(())
}
