//! A client and a server, joined by pipes that may cut their octets anywhere.

#![expect(clippy::panic, clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use ringpost_session::client::ClientConfig;
use ringpost_session::server::ServerConfig;
use support::{Client, Message, Server, TRUSTED};

/// How the octets of one direction come out of the pipe.
#[derive(Debug, Clone, Copy)]
enum Pipe {
    /// In pieces of at most so many octets.
    Pieces(usize),
    /// As they went in, but with one more cut behind so many octets of the whole stream.
    CutAt(usize),
}

impl Pipe {
    /// Cuts octets that follow on `sent` others.
    fn cut(self, octets: &[u8], sent: usize) -> Vec<&[u8]> {
        match self {
            Self::Pieces(size) => octets.chunks(size).collect(),
            Self::CutAt(at) if (sent + 1..sent + octets.len()).contains(&at) => {
                let (before, behind) = octets.split_at(at - sent);
                vec![before, behind]
            }
            Self::CutAt(_) => vec![octets],
        }
    }
}

struct Pair {
    client: Client,
    server: Server,
    pipe: Pipe,
    to_server: usize,
    to_client: usize,
}

impl Pair {
    fn new(pipelining: bool, pipe: Pipe) -> Self {
        let client = ClientConfig { helo_name: "client.test".into(), ..ClientConfig::default() };
        let server =
            ServerConfig { size_max: 300_000, binary_mime: true, ..ServerConfig::default() };
        let mut server = Server::new(server, TRUSTED);
        server.flush();
        Self {
            client: Client::new(client).with_dialect(support::pipelining(pipelining)),
            server,
            pipe,
            to_server: 0,
            to_client: 0,
        }
    }

    /// Moves octets until nothing moves.
    fn run(&mut self) {
        for _ in 0..1000 {
            let from_server = std::mem::take(&mut self.server.said);
            let from_client = std::mem::take(&mut self.client.said);
            if from_server.is_empty() && from_client.is_empty() {
                return;
            }
            for piece in self.pipe.cut(&from_client, self.to_server) {
                self.server.send(piece);
            }
            for piece in self.pipe.cut(&from_server, self.to_client) {
                self.client.hear(piece);
            }
            self.to_server += from_client.len();
            self.to_client += from_server.len();
        }
        panic!("the two never come to rest");
    }
}

fn messages() -> Vec<Message> {
    let large = b"0123456789.\r\n..\r\n.\r\n\r\n".repeat(10_000);
    vec![
        Message::new("<a@a.test>", &["<b@b.test>"], b"Subject: x\r\n\r\nhello\r\n"),
        Message::new(
            "<>",
            &["<b@b.test>", "<\"c d\"@c.test>", "<x@[192.0.2.9]>"],
            b".\r\n..\r\nx.\r\n",
        ),
        Message::new("<a@a.test>", &["<x@[192.0.2.9]>", "<y@[192.0.2.9]>"], b"nobody gets it\r\n"),
        Message::new("<a@a.test>", &["<b@b.test>"], b"\xc3\xbc without a line end"),
        Message::new("<a@a.test>", &["<b@b.test>"], b""),
        Message::new("<a@a.test>", &["<b@b.test>"], &large),
        Message::new("<a@a.test>", &["<b@b.test>"], &large.repeat(2)),
        Message::new("<a@a.test>", &["<b@b.test>"], b"NUL \0 here\r\n"),
        Message::new(
            "<a@a.test>",
            &["<b@b.test>"],
            b"A: b\r\n\r\n\n.\n\r.\r\0\xff QUIT\r\n.\r\n\r",
        )
        .binary(),
        Message::new("<>", &["<b@b.test>", "<x@[192.0.2.9]>"], b"").binary(),
        Message::new("<a@a.test>", &["<x@[192.0.2.9]>"], b"\r\nnobody gets it\r\n").binary(),
        Message::new("<a@a.test>", &["<b@b.test>"], b"\r\n.\r\nafter a refusal").binary(),
        Message::new("<a@a.test>", &["<b@b.test>"], b"a header that is no text\n").binary(),
        Message::new("<a@a.test>", &["<b@b.test>"], &[b"\r\n", &large[..]].concat()).binary(),
        Message::new("<a@a.test>", &["<b@b.test>"], &large.repeat(2)).binary(),
        Message::new("<a@a.test>", &["<b@b.test>"], b"after all that\r\n"),
    ]
}

/// Sends all messages over one session; returns the octets that each side has sent.
fn dialogue(messages: &[Message], pipelining: bool, pipe: Pipe) -> (usize, usize) {
    let mut pair = Pair::new(pipelining, pipe);
    pair.run();
    for message in messages {
        pair.client.start(message);
        pair.run();
    }
    pair.client.quit();
    pair.run();
    let context = format!("pipelining {pipelining}, {pipe:?}");
    assert_eq!(pair.client.closed, Some(None), "{context}");
    assert_eq!(pair.client.reports.len(), messages.len(), "{context}");

    let mut queued = pair.server.queued.iter();
    for (message, report) in messages.iter().zip(&pair.client.reports) {
        assert_eq!(report.recipients.len(), message.forward_paths.len(), "{context}");
        let delivered: Vec<_> = message
            .forward_paths
            .iter()
            .zip(&report.recipients)
            .filter(|(_, recipient)| recipient.is_delivered())
            .map(|(path, _)| path.clone())
            .collect();
        if delivered.is_empty() {
            continue;
        }
        let queued = queued.next().unwrap();
        assert_eq!(queued.envelope.reverse_path, message.reverse_path, "{context}");
        assert_eq!(queued.envelope.forward_paths, delivered, "{context}");
        let mut content = message.content.clone();
        let is_text = message.body.is_none();
        if is_text && !content.is_empty() && !content.ends_with(b"\r\n") {
            content.extend_from_slice(b"\r\n");
        }
        assert!(queued.content == content, "{context}");
    }
    assert!(queued.next().is_none(), "nothing is queued that was not reported as delivered");
    (pair.to_server, pair.to_client)
}

#[test]
fn whatever_the_pieces() {
    for pipelining in [true, false] {
        for size in [1, 2, 3, 7, 100, 4096, usize::MAX] {
            dialogue(&messages(), pipelining, Pipe::Pieces(size));
        }
    }
}

#[test]
fn cut_at_every_octet() {
    let messages: Vec<Message> =
        messages().into_iter().filter(|message| message.content.len() < 1000).collect();
    for pipelining in [true, false] {
        let whole = dialogue(&messages, pipelining, Pipe::Pieces(usize::MAX));
        for at in 1..whole.0.max(whole.1) {
            assert_eq!(dialogue(&messages, pipelining, Pipe::CutAt(at)), whole);
        }
    }
}

#[test]
fn the_verdicts_are_as_expected() {
    let mut pair = Pair::new(true, Pipe::Pieces(usize::MAX));
    pair.run();
    let expected: [&[&str]; 16] = [
        &["final reply 250"],
        &["final reply 250", "final reply 250", "rcpt 550"],
        &["rcpt 550", "rcpt 550"],
        &["final reply 250"],
        &["final reply 250"],
        &["final reply 250"],
        &["idle 5.3.4"],
        &["final reply 550"],
        &["final reply 250"],
        &["final reply 250", "rcpt 550"],
        &["rcpt 550"],
        &["final reply 250"],
        &["final reply 550"],
        &["final reply 250"],
        &["idle 5.3.4"],
        &["final reply 250"],
    ];
    for (message, expected) in messages().iter().zip(expected) {
        pair.client.start(message);
        pair.run();
        assert_eq!(pair.client.last_report(), expected);
    }
    assert_eq!(pair.server.queued.len(), 10);
}

#[test]
fn a_hundred_recipients_go_in_one_group() {
    let paths: Vec<String> = (0..100).map(|n| format!("<u{n}@b.test>")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let message = Message::new("<a@a.test>", &paths, b"hello\r\n");
    dialogue(&[message], true, Pipe::Pieces(usize::MAX));
}
