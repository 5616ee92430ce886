//! What a client on the other end of a terminal sees.

use anyhow::{Result, ensure};
use ringpost_e2e::injector::{Client, Reply};
use ringpost_e2e::message;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::Sink;
use ringpost_e2e::wait::{SOON, wait_until};

/// Sends one marked message and waits for it: whatever came before it has then gone through, too.
fn send_last(server: &Server, sink: &Sink, id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message("<a@a.test>", &["<b@b.test>"], &message::build(id, 500))?;
    ensure!(reply.code == 250, "{reply:?}");
    wait_until("the last message", SOON, || {
        Ok(sink.accepted().iter().any(|one| one.mark.id() == Some(id)))
    })
}

#[test]
fn a_telnet_user_sends_a_message() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    assert_eq!(client.greeting.code, 220);
    assert!(client.greeting.text.starts_with("relay.test"), "{:?}", client.greeting);
    client.expect("HELO telnet.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    client.expect("RCPT TO:<b@b.test>", 250)?;
    client.expect("DATA", 354)?;
    client.send(&message::stuff(&message::build("telnet", 800)))?;
    let queued = client.expect_reply(250)?;
    assert!(queued.text.contains("queued as"), "{queued:?}");
    client.expect("QUIT", 221)?;
    assert!(client.is_closed_by_peer());
    wait_until("the message", SOON, || Ok(sink.accepted_count() == 1))?;
    let taken = &sink.accepted()[0];
    assert_eq!(taken.mark, message::Mark::Intact("telnet".into()));
    assert_eq!(taken.reverse_path.split(' ').next(), Some("<a@a.test>"));
    assert_eq!(taken.forward_paths, ["<b@b.test>"]);
    assert_eq!(sink.violations(), [""; 0]);
    Ok(())
}

#[test]
fn verbs_are_case_insensitive_and_help_is_there() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let mut client = Client::connect(server.smtp())?;
    let hello = client.expect("ehlo telnet.test", 250)?;
    for keyword in ["PIPELINING", "8BITMIME", "SIZE ", "LIMITS MAILMAX=1000 RCPTMAX=1000"] {
        assert!(hello.text.contains(keyword), "{keyword} in {hello:?}");
    }
    client.expect("mail from:<>", 250)?;
    client.expect("rSeT", 250)?;
    client.expect("noop", 250)?;
    let help = client.expect("HELP", 214)?;
    assert!(help.text.contains("MAIL RCPT DATA"), "{help:?}");
    assert!(client.expect("help data", 214)?.text.contains("on disk"));
    client.expect("HELP BURL", 504)?;
    client.expect("VRFY someone", 252)?;
    client.expect("EXPN list", 502)?;
    client.expect("TURN", 502).or_else(|_| client.expect("TURN", 500))?;
    client.expect("quit", 221)?;
    Ok(())
}

#[test]
fn wrong_sequences_are_refused_and_change_nothing() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    // What was said before, the command, its reply.
    let table: &[(&[&str], &str, u16)] = &[
        (&[], "MAIL FROM:<a@a.test>", 503),
        (&[], "RCPT TO:<b@b.test>", 503),
        (&[], "DATA", 503),
        (&["EHLO c.test"], "RCPT TO:<b@b.test>", 503),
        (&["EHLO c.test"], "DATA", 503),
        (&["EHLO c.test", "MAIL FROM:<a@a.test>"], "MAIL FROM:<a@a.test>", 503),
        (&["EHLO c.test", "MAIL FROM:<a@a.test>", "RSET"], "RCPT TO:<b@b.test>", 503),
        (&["EHLO c.test", "MAIL FROM:<a@a.test>", "EHLO c.test"], "RCPT TO:<b@b.test>", 503),
    ];
    for (before, command, code) in table {
        let mut client = Client::connect(server.smtp())?;
        for line in *before {
            client.expect(line, 250)?;
        }
        client.expect(command, *code)?;
        client.expect("NOOP", 250)?;
    }
    // DATA without an accepted recipient: nothing may follow that could be taken for content.
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    let refused = client.command("RCPT TO:<not an address>")?;
    assert!((500..560).contains(&refused.code), "{refused:?}");
    let reply = client.command("DATA")?;
    assert!(reply.code == 554 || reply.code == 503, "{reply:?}");
    client.expect("NOOP", 250)?;
    send_last(&server, &sink, "last")?;
    assert_eq!(sink.deliveries().len(), 1);
    Ok(())
}

#[test]
fn a_stranger_may_not_relay() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server.config.set("listener.main", "relay_networks", "[\"192.0.2.0/24\"]");
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    client.expect("MAIL FROM:<a@a.test>", 250)?;
    let refusal = client.expect("RCPT TO:<b@b.test>", 550)?;
    assert!(refusal.text.starts_with("5.7.1"), "{refusal:?}");
    let reply = client.command("DATA")?;
    assert!(reply.code == 554 || reply.code == 503, "{reply:?}");
    assert_eq!(sink.connections(), 0);
    Ok(())
}

#[test]
fn nothing_but_the_true_terminator_ends_a_message() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let smuggled = "MAIL FROM:<evil@a.test>\r\nRCPT TO:<evil@b.test>\r\nDATA\r\n\
                    Subject: smuggled\r\n\r\nsmuggled\r\n.\r\n";
    let endings = [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\n",
        "\n.\r",
        "\r\n.\r\r\n",
        "\r.\r\n",
    ];
    for ending in endings {
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        client.expect("MAIL FROM:<a@a.test>", 250)?;
        client.expect("RCPT TO:<b@b.test>", 250)?;
        client.expect("DATA", 354)?;
        client.send(format!("Subject: x\r\n\r\nx{ending}{smuggled}").as_bytes())?;
        let reply = client.expect_reply(550)?;
        assert!(reply.text.starts_with("5.5.2"), "{ending:?}: {reply:?}");
        assert!(client.is_closed_by_peer(), "{ending:?}: still open");
    }
    send_last(&server, &sink, "last")?;
    assert_eq!(sink.deliveries().len(), 1, "only the last message was queued");
    assert_eq!(server.metrics()?.count("ringpost_messages_received_total"), 1);
    Ok(())
}

#[test]
fn content_cut_off_is_not_a_message() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let whole = message::stuff(&message::build("cut", 600));
    for length in [0, 1, 300, whole.len() - 5, whole.len() - 3, whole.len() - 2, whole.len() - 1] {
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        client.expect("MAIL FROM:<a@a.test>", 250)?;
        client.expect("RCPT TO:<b@b.test>", 250)?;
        client.expect("DATA", 354)?;
        client.send(&whole[..length])?;
        drop(client);
    }
    send_last(&server, &sink, "last")?;
    assert_eq!(sink.deliveries().len(), 1);
    Ok(())
}

#[test]
fn splitting_and_pipelining_change_no_reply() -> Result<()> {
    let sink = Sink::start()?;
    let server = Server::relaying_to(sink.address())?;
    let envelope = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<bad\r\nDATA\r\n";
    let content = message::stuff(&message::build("split", 300));
    let rest = b"NOOP\r\nQUIT\r\n";
    let run = |pieces: usize| -> Result<Vec<u16>> {
        let mut client = Client::connect(server.smtp())?;
        client.expect("EHLO c.test", 250)?;
        let mut codes = Vec::new();
        for (octets, replies) in [(envelope.as_slice(), 4), (&content, 1), (rest.as_slice(), 2)] {
            for piece in octets.chunks(pieces) {
                client.send(piece)?;
            }
            for _ in 0..replies {
                codes.push(client.reply()?.code);
            }
        }
        Ok(codes)
    };
    let at_once = run(usize::MAX)?;
    assert_eq!(at_once[4..], [250, 250, 221], "{at_once:?}");
    assert_eq!(at_once[3], 354);
    for pieces in [1, 2, 3, 7] {
        assert_eq!(run(pieces)?, at_once, "in pieces of {pieces}");
    }
    wait_until("all five", SOON, || Ok(sink.accepted_count() == 5))?;
    Ok(())
}

#[test]
fn size_limits_hold_declared_or_not() -> Result<()> {
    let sink = Sink::start()?;
    let mut server = Server::prepare()?;
    server.config.route("*", sink.address());
    server.config.set("listener.main", "message_size_max", "\"64KiB\"");
    server.start()?;
    let mut client = Client::connect(server.smtp())?;
    client.expect("EHLO c.test", 250)?;
    let declared = client.expect("MAIL FROM:<a@a.test> SIZE=70000", 552)?;
    assert!(declared.text.starts_with("5.3.4"), "{declared:?}");
    let undeclared: Reply =
        client.message("<a@a.test>", &["<b@b.test>"], &message::build("large", 80_000))?;
    assert_eq!(undeclared.code, 552, "{undeclared:?}");
    let fits = client.message("<a@a.test>", &["<b@b.test>"], &message::build("fits", 50_000))?;
    assert_eq!(fits.code, 250, "{fits:?}");
    wait_until("the one that fits", SOON, || Ok(sink.accepted_count() == 1))?;
    assert_eq!(sink.accepted()[0].mark.id(), Some("fits"));
    Ok(())
}
