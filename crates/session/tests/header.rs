//! What becomes of the header section: missing fields are added (RFC 6409 §8).

mod support;

use ringpost_protocol::data::edit::MissingFields;
use ringpost_session::server::{Peer, ServerConfig};
use support::{STRANGER, Server, TRUSTED, postmaster};

const DATE: &str = "Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n";
const MESSAGE_ID: &str = "Message-ID: <00a1.1700000000@mx.test>\r\n";

fn config() -> ServerConfig {
    ServerConfig {
        hostname: "mx.test".into(),
        add_missing_fields: true,
        not_before_header: Some("X-Later".into()),
        binary_mime: true,
        aliases: postmaster("p@b.test"),
        ..ServerConfig::default()
    }
}

fn introduced(config: ServerConfig, peer: Peer) -> Server {
    let mut server = Server::introduced(config, peer);
    server.send(b"MAIL FROM:<a@a.test>\r\nRCPT TO:<Postmaster>\r\n");
    server
}

/// Content by DATA.
fn by_data(content: &str) -> Vec<u8> {
    let dots = content.replace("\r\n.", "\r\n..");
    format!("{dots}.\r\n").into_bytes()
}

/// Content by BDAT, in chunks of this size.
fn by_chunks(content: &str, size: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in content.as_bytes().chunks(size) {
        wire.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire.extend_from_slice(b"BDAT 0 LAST\r\n");
    wire
}

/// Content, and what is queued.
fn table() -> [(&'static str, String); 8] {
    [
        ("A: b\r\n\r\n.text\r\n", format!("A: b\r\n{DATE}{MESSAGE_ID}\r\n.text\r\n")),
        ("Date: x\r\n\r\ntext\r\n", format!("Date: x\r\n{MESSAGE_ID}\r\ntext\r\n")),
        ("message-id: x\r\n\r\ntext\r\n", format!("message-id: x\r\n{DATE}\r\ntext\r\n")),
        ("Message-ID: <1@a>\r\nDate: x\r\n\r\n", "Message-ID: <1@a>\r\nDate: x\r\n\r\n".to_owned()),
        ("text\r\nDate: x\r\n", format!("{DATE}{MESSAGE_ID}\r\ntext\r\nDate: x\r\n")),
        ("\r\ntext\r\n", format!("{DATE}{MESSAGE_ID}\r\ntext\r\n")),
        ("A: b\r\nX-Later: 1\r\n", format!("A: b\r\n{DATE}{MESSAGE_ID}")),
        ("", format!("{DATE}{MESSAGE_ID}")),
    ]
}

#[test]
fn missing_fields_are_added_however_the_content_comes() {
    for (content, expected) in table() {
        let data = by_data(content);
        for size in 1..=data.len() {
            let mut server = introduced(config(), TRUSTED);
            server.send(b"DATA\r\n");
            data.chunks(size).for_each(|piece| server.send(piece));
            assert_eq!(String::from_utf8_lossy(&server.queued[0].content), expected);
            let added = MissingFields {
                date: expected.contains(DATE),
                message_id: expected.contains(MESSAGE_ID),
            };
            assert_eq!(server.queued[0].added, added, "{content:?}");
        }
        for size in 1..=content.len() + 1 {
            let chunks = by_chunks(content, size);
            for read in [1, 2, 7, chunks.len()] {
                let mut server = introduced(config(), TRUSTED);
                chunks.chunks(read).for_each(|piece| server.send(piece));
                assert_eq!(String::from_utf8_lossy(&server.queued[0].content), expected);
            }
        }
    }
}

/// A binary body is as it came, and nothing is added to its end.
#[test]
fn binary_content_gets_its_fields_too() {
    let body = b"\x00\r\n\n\r.\r\nDate: x";
    let content = [&b"A: b\r\n\r\n"[..], body].concat();
    let expected = [format!("A: b\r\n{DATE}{MESSAGE_ID}\r\n").as_bytes(), body].concat();
    for size in 1..=content.len() {
        let mut server = Server::introduced(config(), TRUSTED);
        server.send(b"MAIL FROM:<a@a.test> BODY=BINARYMIME\r\nRCPT TO:<b@b.test>\r\n");
        for chunk in content.chunks(size) {
            server.send(format!("BDAT {}\r\n", chunk.len()).as_bytes());
            server.send(chunk);
        }
        server.send(b"BDAT 0 LAST\r\n");
        assert_eq!(server.queued[0].content, expected);
    }
}

/// Where it is off, and for those that may not relay, all octets are as they came.
#[test]
fn elsewhere_nothing_is_added() {
    let off = ServerConfig { add_missing_fields: false, not_before_header: None, ..config() };
    for (config, peer) in [(off, TRUSTED), (config(), STRANGER)] {
        for (content, _) in table() {
            let mut server = introduced(config.clone(), peer);
            server.send(b"DATA\r\n");
            server.send(&by_data(content));
            assert_eq!(String::from_utf8_lossy(&server.queued[0].content), content);
            assert_eq!(server.queued[0].added, MissingFields::default());
        }
    }
}

/// Each message gets what it lacks, not what one before it did.
#[test]
fn messages_of_a_session_are_mended_apart() {
    let mut server = introduced(config(), TRUSTED);
    let wire = "DATA\r\n|A: b\r\n\r\n.\r\n|MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n|Date: x\r\n\
                Message-ID: y\r\n\r\n.\r\n|MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nBDAT 0 LAST\r\n";
    wire.split('|').for_each(|part| server.send(part.as_bytes()));
    let queued: Vec<_> =
        server.queued.iter().map(|one| String::from_utf8_lossy(&one.content)).collect();
    let expected = [
        format!("A: b\r\n{DATE}{MESSAGE_ID}\r\n"),
        "Date: x\r\nMessage-ID: y\r\n\r\n".to_owned(),
        format!("{DATE}{MESSAGE_ID}"),
    ];
    assert_eq!(queued, expected);
}

/// What is refused is refused, and with it what had been added.
#[test]
fn refused_content_stays_refused() {
    for content in ["a\rb\r\n.\r\n", "a\nb\r\n.\r\n", " a\r\n.\r\n", "a\0\r\n.\r\n"] {
        let mut server = introduced(config(), TRUSTED);
        server.send(b"DATA\r\n");
        let mut rest = content.as_bytes();
        server.send_some(&mut rest);
        assert_eq!((server.queued.len(), server.aborted), (0, 1), "{content:?}");
    }
}
