//! BDAT held against DATA.

mod support;

use proptest::prelude::*;
use ringpost_protocol::data::stuff::{StuffState, stuff_into, terminator};
use ringpost_session::server::ServerConfig;
use support::{Server, TRUSTED};

const ENVELOPE: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";

/// What a message is, and how it is cut into chunks.
fn chunked() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    let line = "(Received: |A: |\\.{0,2}|)[ab\u{fc}]{0,12}(\r\n|\r\n|\r\n|\r\n|\n|)";
    let content = prop::collection::vec(line, 0..8).prop_map(|lines| lines.concat().into_bytes());
    (content, prop::collection::vec(0..20_usize, 0..12))
}

/// The content by BDAT, in chunks of these sizes and one with the rest.
fn by_bdat(content: &[u8], sizes: &[usize]) -> Vec<u8> {
    let (mut wire, mut rest) = (ENVELOPE.as_bytes().to_vec(), content);
    for size in sizes {
        let (chunk, behind) = rest.split_at((*size).min(rest.len()));
        wire.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        rest = behind;
    }
    wire.extend_from_slice(format!("BDAT {} LAST\r\n", rest.len()).as_bytes());
    [&wire, rest].concat()
}

fn by_data(content: &[u8]) -> Vec<u8> {
    let (mut wire, mut state) = (Vec::new(), StuffState::default());
    stuff_into(content, &mut state, &mut wire);
    wire.extend_from_slice(terminator(state));
    wire
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The same octets give the same message by DATA and by BDAT, in whatever chunks, however they
    /// come in; and behind them the session is where it should be.
    #[test]
    fn bdat_brings_what_data_brings((content, sizes) in chunked(), piece in 1..40_usize) {
        let mut by_bdat_server = Server::introduced(ServerConfig::default(), TRUSTED);
        for piece in by_bdat(&content, &sizes).chunks(piece) {
            by_bdat_server.send(piece);
        }
        prop_assert_eq!(by_bdat_server.closed, None);
        by_bdat_server.said.clear();
        by_bdat_server.send(b"NOOP\r\n");
        prop_assert_eq!(by_bdat_server.replies(), ["250 2.0.0 Ok"]);

        let mut by_data_server = Server::introduced(ServerConfig::default(), TRUSTED);
        by_data_server.send(format!("{ENVELOPE}DATA\r\n").as_bytes());
        by_data_server.send(&by_data(&content));
        prop_assert_eq!(by_bdat_server.queued, by_data_server.queued);
    }
}
