//! Content by BDAT (RFC 3030), in and out.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::account::Account;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message::{self, Mark};
use ringpost_e2e::peers::{self, Exim, Postfix};
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Sink, SinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};
use ringpost_e2e::{ports, sink};

use crate::{NONE, once_each};

/// Says an envelope and sends the content in chunks of so many octets, all of it in one go.
fn send_chunks(client: &mut Client, mail: &str, content: &[u8], size: usize) -> Result<()> {
    client.expect(mail, 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    let mut wire = Vec::new();
    let mut chunks = content.chunks(size).peekable();
    let mut count = 0;
    while let Some(chunk) = chunks.next() {
        let last = if chunks.peek().is_none() { " LAST" } else { "" };
        wire.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        count += 1;
    }
    client.send(&wire)?;
    for _ in 1..count {
        let reply = client.expect_reply(250)?;
        ensure!(reply.text.contains(&format!("{size} octets")), "{reply:?}");
    }
    let reply = client.expect_reply(250)?;
    ensure!(reply.text.contains("queued as"), "{reply:?}");
    Ok(())
}

fn introduced(server: &Server) -> Result<Client> {
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    Ok(client)
}

/// What stands behind the field that a relay has put in front.
fn behind_trace(content: &[u8]) -> &[u8] {
    let mut at = 0;
    for line in content.split_inclusive(|&b| b == b'\n') {
        if at > 0 && !line.starts_with(b"\t") && !line.starts_with(b" ") {
            break;
        }
        at += line.len();
    }
    content.get(at..).unwrap_or_default()
}

#[test]
fn chunks_of_any_size_come_out_as_they_went_in() -> Result<()> {
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    let sink = Sink::with(ports::reserve()?, options, |_| sink::Answer::Accept)?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = introduced(&server)?;
    // The largest is stored in many pieces, and its chunks are larger than these.
    let messages = [
        ("b1", 2_000, 512),
        ("b2", 2_000, 4096),
        ("b3", 400_000, 1000),
        ("b4", 5_000_000, 700_001),
    ]
    .map(|(id, size, chunk)| (message::build(id, size), chunk));
    for (content, chunk) in &messages {
        send_chunks(&mut client, "MAIL FROM:<a@a.test>", content, *chunk)?;
    }
    // The same by DATA, over the same session.
    let by_data = message::build("d1", 2_000);
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&by_data))?;
    client.expect_reply(250)?;
    wait_until("five messages", SOON, || Ok(sink.accepted_count() == 5))?;
    let taken = sink.accepted();
    let contents = messages.iter().map(|(content, _)| content).chain([&by_data]);
    for (content, id) in contents.zip(["b1", "b2", "b3", "b4", "d1"]) {
        let mark = Mark::Intact(id.to_owned());
        let delivery = taken.iter().find(|one| one.mark == mark).context(id)?;
        assert!(behind_trace(&delivery.content) == content, "{id}: other octets");
    }
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

#[test]
fn the_session_stays_in_step_whatever_a_chunk_has() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = introduced(&server)?;
    let smuggled = "\r\n.\r\nMAIL FROM:<smuggled@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";
    let bdat = |octets: &str, last: &str| format!("BDAT {}{last}\r\n{octets}", octets.len());
    // Without a transaction, with bare line feeds, and behind a chunk that has failed.
    client.send(bdat(smuggled, " LAST").as_bytes())?;
    client.expect_reply(503)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    let group = [bdat("a\nb\n", ""), bdat(smuggled, ""), bdat(smuggled, " LAST")].concat();
    client.send(group.as_bytes())?;
    client.expect_reply(550)?;
    client.expect_reply(503)?;
    client.expect_reply(503)?;
    client.expect("NOOP", 250)?;
    // As content it is content.
    let content = [message::build("inside", 600), smuggled.as_bytes().to_vec()].concat();
    send_chunks(&mut client, "MAIL FROM:<a@a.test>", &content, 100)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    let reply = client.command("BDAT 18446744073709551616 LAST")?;
    assert_eq!(reply.code, 501, "{reply:?}");
    assert!(client.is_closed_by_peer());
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    server.wait_drained(SOON)?;
    assert_eq!(sink.deliveries().len(), 1);
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

#[test]
fn what_was_acknowledged_behind_the_last_chunk_outlives_a_kill() -> Result<()> {
    let sink = Sink::deferring()?;
    let mut server = Server::relaying_to(sink.address())?;
    let mut client = introduced(&server)?;
    let content = message::build("kept", 3_000_000);
    send_chunks(&mut client, "MAIL FROM:<a@a.test>", &content, 500_000)?;
    // Begun, and not ended: this one is nobody's.
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    let open = message::build("open", 2_000_000);
    client.send(format!("BDAT {}\r\n", open.len()).as_bytes())?;
    client.send(&open)?;
    client.expect_reply(250)?;
    server.kill()?;
    sink.accept_all();
    server.start()?;
    wait_until("the message", SOON * 2, || Ok(sink.accepted_count() == 1))?;
    server.wait_drained(SOON)?;
    let marks: Vec<_> = sink.accepted().into_iter().map(|one| one.mark).collect();
    assert_eq!(marks, [Mark::Intact("kept".to_owned())]);
    Ok(())
}

/// The commands that a host has heard, and the content of its message.
type Heard = (Vec<String>, Vec<u8>);

/// A host that takes one binary message, to the letter of RFC 3030.
fn binary_host(address: SocketAddr) -> Result<JoinHandle<Result<Heard>>> {
    let listener = ports::listen(address)?;
    Ok(thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(SOON))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        stream.write_all(b"220 binary.test\r\n")?;
        let (mut commands, mut content) = (Vec::new(), Vec::new());
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            ensure!(line.ends_with("\r\n"), "{line:?}");
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let reply = match words.as_slice() {
                ["EHLO", _] => {
                    "250-binary.test\r\n250-BINARYMIME\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
                }
                ["BDAT", size, rest @ ..] => {
                    let mut chunk = vec![0; size.parse()?];
                    reader.read_exact(&mut chunk)?;
                    content.append(&mut chunk);
                    ensure!(rest.is_empty() || rest == ["LAST"], "{line:?}");
                    "250 taken\r\n"
                }
                ["QUIT"] | [] => return Ok((commands, content)),
                _ => "250 ok\r\n",
            };
            commands.push(line.trim_end().to_owned());
            stream.write_all(reply.as_bytes())?;
            if line.contains("LAST") {
                return Ok((commands, content));
            }
        }
    }))
}

/// Every octet there is, in an order in which CR, LF and dots stand where they please.
fn binary_content(id: &str) -> Vec<u8> {
    let header = format!(
        "X-Id: {id}\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: binary\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let body = (0..300_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8);
    let ends = b"\r\n.\r\nQUIT\r\n\n.\n\r.\r\0\r".iter().copied();
    header.into_bytes().into_iter().chain(body).chain(ends).collect()
}

#[test]
fn binary_mail_goes_on_octet_by_octet() -> Result<()> {
    let address = ports::reserve()?;
    let host = binary_host(address)?;
    let mut server = Server::prepare()?;
    server.config.route("*", address);
    server.config.set("listener.main", "binary_mime", "true");
    server.start()?;
    let mut client = introduced(&server)?;
    let content = binary_content("on");
    let mail = "MAIL FROM:<a@a.test> BODY=BINARYMIME";
    send_chunks(&mut client, mail, &content, 70_000)?;
    let (commands, taken) = host.join().map_err(|_| anyhow::anyhow!("the host panicked"))??;
    assert!(commands[1].ends_with(" BODY=BINARYMIME"), "{commands:?}");
    assert!(commands[3].starts_with("BDAT ") && commands[3].ends_with(" LAST"), "{commands:?}");
    assert_eq!(commands.len(), 4, "{commands:?}");
    assert!(behind_trace(&taken) == content, "other octets");
    server.wait_drained(SOON)
}

#[test]
fn binary_mail_for_a_host_that_cannot_take_it_comes_back() -> Result<()> {
    let mut keywords = SinkOptions::default().keywords;
    keywords.push("CHUNKING".to_owned());
    let options = SinkOptions { keep_content: true, keywords };
    let sink = Sink::with(ports::reserve()?, options, |_| sink::Answer::Accept)?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server.config.set("listener.main", "binary_mime", "true");
    server.start()?;
    let mut client = introduced(&server)?;
    let mail = "MAIL FROM:<a@a.test> BODY=BINARYMIME";
    send_chunks(&mut client, mail, &binary_content("back"), 70_000)?;
    wait_until("the report", SOON, || Ok(sink.accepted_count() == 1))?;
    let report = &sink.accepted()[0];
    assert_eq!(report.reverse_path.split(' ').next(), Some("<>"));
    assert_eq!(report.forward_paths, ["<a@a.test>"]);
    let text = String::from_utf8(report.content.clone())?;
    assert!(text.contains("\r\nStatus: 5.6.3\r\n") && text.contains("X-Id: back"), "{text}");
    let records = server.wait_events("bounced", 1)?;
    assert!(records.iter().any(|one| one.kind == "bounced"));
    assert_eq!(sink.violations(), NONE, "no octet of the body went out");
    Ok(())
}

#[test]
fn exim_sends_to_us_by_bdat() -> Result<()> {
    if let Some(reason) = Exim::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let directory = tempfile::tempdir()?;
    peers::run(Command::new("chmod").arg("755").arg(directory.path()))?;
    let listen = ports::reserve()?;
    let exim = Exim::start(directory.path(), listen, server.smtp())?;
    let mut load = Load::new(listen, "exim-bdat", 4, Some(100));
    load.size = 20_000;
    let book = load.run()?;
    wait_until("the messages", SOON * 2, || Ok(sink.accepted_count() >= 100))?;
    let account = Account::of(&book, &sink.accepted());
    assert_eq!(account.acked(), 100, "{account}");
    once_each(&account);
    // Exim marks deliveries by BDAT with a K.
    let log = exim.log();
    let sent = log.lines().filter(|line| line.contains(" => ")).collect::<Vec<_>>();
    assert!(!sent.is_empty() && sent.iter().all(|line| line.contains(" K ")), "{sent:#?}");
    assert_eq!(sink.violations(), NONE);
    Ok(())
}

/// How a message came in does not matter to whoever gets it.
#[test]
fn text_that_came_by_bdat_goes_to_postfix_by_data() -> Result<()> {
    if let Some(reason) = Postfix::missing() {
        return peers::skip(reason);
    }
    let sink = Sink::start()?;
    let directory = tempfile::tempdir()?;
    peers::run(Command::new("chmod").arg("755").arg(directory.path()))?;
    let listen = ports::reserve()?;
    let settings = format!("relayhost = [127.0.0.1]:{}\n", sink.address().port());
    let _postfix = Postfix::start(directory.path(), listen, &settings)?;
    let server = Server::relaying_to(listen)?;
    let mut client = introduced(&server)?;
    for number in 0..20 {
        let content = message::build(&format!("p{number}"), 5_000);
        send_chunks(&mut client, "MAIL FROM:<a@a.test>", &content, 777)?;
    }
    wait_until("the messages", SOON * 2, || Ok(sink.accepted_count() == 20))?;
    let whole = sink.accepted().iter().filter(|one| matches!(one.mark, Mark::Intact(_))).count();
    assert_eq!(whole, 20);
    Ok(())
}
