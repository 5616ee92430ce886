//! What a server must survive: octets in, replies out, whole and cut at every octet.

#[path = "support/rows.rs"]
mod rows;
mod support;

use std::sync::Arc;

use ringpost_session::server::ServerConfig;
use rows::{Row, rows};
use support::{STRANGER, Server, TRUSTED, postmaster};

const ENVELOPE: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";

fn config() -> ServerConfig {
    ServerConfig { size_max: 2000, ..ServerConfig::default() }
}

fn run(row: &Row, pieces: &[&[u8]], manner: &str) -> Server {
    let config = ServerConfig {
        size_max: row.size_max,
        lenient: row.is_lenient,
        aliases: if row.has_postmaster { postmaster("root@a.test") } else { Arc::default() },
        ..ServerConfig::default()
    };
    let peer = if row.is_stranger { STRANGER } else { TRUSTED };
    let mut server = if row.is_early || row.is_unintroduced {
        Server::new(config, peer)
    } else {
        Server::introduced(config, peer)
    };
    if row.is_unintroduced {
        server.flush();
        server.said.clear();
    }
    for piece in pieces {
        if server.closed.is_none() {
            server.send(piece);
        }
    }
    let name = &row.name;
    let replies = server.replies();
    let expected: Vec<&str> =
        row.steps.iter().flat_map(|step| &step.replies).map(String::as_str).collect();
    let fits = replies.len() == expected.len()
        && replies.iter().zip(&expected).all(|(reply, start)| reply.starts_with(start));
    assert!(fits, "{name}, {manner}: {replies:#?} instead of {expected:#?}");
    assert_eq!(server.queued.len(), row.queued, "{name}, {manner}");
    assert_eq!(server.closed.is_some(), row.is_closed, "{name}, {manner}");
    if !row.is_closed {
        server.said.clear();
        server.send(b"NOOP\r\n");
        assert!(server.replies() == ["250 2.0.0 Ok"], "{name}, {manner}: NOOP afterwards");
    }
    server
}

#[test]
fn every_row_whole_and_cut_at_every_octet() {
    for row in rows() {
        let whole: Vec<&[u8]> = row.steps.iter().map(|step| &*step.input).collect();
        let server = run(&row, &whole, "whole");
        if row.is_uncut {
            continue;
        }
        for size in [1, 2, 1000] {
            let pieces: Vec<_> = whole.iter().flat_map(|input| input.chunks(size)).collect();
            let split = run(&row, &pieces, "in pieces");
            assert_eq!(split.queued, server.queued, "{}", row.name);
        }
        for (index, input) in whole.iter().enumerate().filter(|(_, input)| input.len() <= 400) {
            for at in 1..input.len() {
                let (before, after) = input.split_at(at);
                let mut pieces = whole.clone();
                pieces.splice(index..=index, [before, after]);
                let split = run(&row, &pieces, &format!("step {index} cut at {at}"));
                assert_eq!(split.queued, server.queued, "{}", row.name);
            }
        }
    }
}

/// The table of the documentation has every kind once, and each that it says is among the rows is there.
#[test]
fn the_table_is_complete() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/TESTING.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, table) = page.split_once("## Bad input, row by row").unwrap();
    let table = table.split("\n## ").next().unwrap();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| row"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let listed: Vec<&str> = lines.iter().map(|cells| cells[0]).collect();
    let kinds = [("L", 14), ("D", 19), ("B", 16), ("C", 19), ("A", 25), ("T", 10)];
    let expected: Vec<String> = kinds
        .iter()
        .flat_map(|(kind, count)| (1..=*count).map(move |number| format!("{kind}{number}")))
        .collect();
    assert_eq!((listed.len(), listed), (103, expected.iter().map(String::as_str).collect()));
    let rows = rows();
    let has_row = |id: &str| rows.iter().any(|row| row.name.split(' ').next() == Some(id));
    for cells in &lines {
        assert_eq!(cells[2].starts_with("rows"), has_row(cells[0]), "{cells:?}");
    }
}

#[test]
fn c1_mail_before_ehlo() {
    let mut server = Server::new(config(), TRUSTED);
    server.flush();
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    server.send(b"HELO client.test\r\n");
    server.send(b"MAIL FROM:<a@a.test>\r\n");
    let replies = server.replies();
    let starts = ["220 localhost ESMTP", "503 5.5.1", "250 localhost", "250 2.1.0"];
    assert!(
        replies.iter().zip(starts).all(|(reply, start)| reply.starts_with(start)),
        "{replies:?}"
    );
    assert_eq!((server.session.helo(), server.session.protocol()), (Some("client.test"), "SMTP"));
}

#[test]
fn c4_ehlo_resets() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(ENVELOPE.as_bytes());
    server.send(b"EHLO other.test\r\n");
    server.send(b"RCPT TO:<b@b.test>\r\n");
    assert!(server.replies().last().unwrap().starts_with("503"));
    assert_eq!((server.session.helo(), server.session.protocol()), (Some("other.test"), "ESMTP"));
}

#[test]
fn c12_the_transaction_arrives_as_it_was_sent() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(b"MAIL FROM:<a@a.test> SIZE=10 BODY=8BITMIME\r\n");
    assert_eq!(server.session.declared_size(), Some(10));
    server.send(b"RCPT TO:<b@b.test>\r\nRCPT TO:<\"c d\"@c.test>\r\nDATA\r\n");
    server.send(b"Received: x\r\n\r\n..dots\r\n.\r\n");
    let queued = &server.queued[0];
    assert_eq!(queued.content, b"Received: x\r\n\r\n.dots\r\n");
    assert_eq!(queued.received_fields, 1);
    assert_eq!(queued.envelope.reverse_path.to_string(), "<a@a.test>");
    let paths: Vec<String> =
        queued.envelope.forward_paths.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["<b@b.test>", "<\"c d\"@c.test>"]);
    assert_eq!(queued.envelope.body.keyword(), "7BIT", "the content is 7-bit after all");
}

#[test]
fn c16_repeated_recipients_are_kept_once() {
    let mut server = Server::introduced(config(), TRUSTED);
    server.send(b"MAIL FROM:<>\r\nRCPT TO:<z@b.test>\r\n");
    server.send("RCPT TO:<b@B.test>\r\nRCPT TO:<B@b.test>\r\n".repeat(499).as_bytes());
    server.send(b"DATA\r\n");
    server.send(b".\r\n");
    let paths = &server.queued[0].envelope.forward_paths;
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    assert_eq!(paths, ["<z@b.test>", "<b@b.test>", "<B@b.test>"], "a local-part has its case");
}

#[test]
fn a12_postmaster_has_a_route() {
    let config = ServerConfig { aliases: postmaster("root@a.test"), ..config() };
    let mut server = Server::introduced(config, STRANGER);
    server.send(b"MAIL FROM:<>\r\nRCPT TO:<Postmaster>\r\nDATA\r\n");
    server.send(b".\r\n");
    assert_eq!(server.queued[0].envelope.forward_paths[0].to_string(), "<root@a.test>");
}
