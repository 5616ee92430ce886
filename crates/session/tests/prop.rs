//! Arbitrary octets cannot break either machine.

mod support;

use std::time::Duration;

use proptest::prelude::*;
use ringpost_session::client::{
    ClientConfig, ClientProtocol, Dialect, RecipientReport, Stage, Verdict,
};
use ringpost_session::server::{CloseReason, ServerConfig, TransactionRefusal};
use support::{Client, Message, Server, TRUSTED, replies};

/// Pieces of a dialogue that get far into a server, and pieces that do not.
fn client_octets() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "EHLO c.test\r\n",
        "HELO c.test\r\n",
        "MAIL FROM:<a@a.test>\r\n",
        "MAIL FROM:<> SIZE=10\r\n",
        "RCPT TO:<b@b.test>\r\n",
        "RCPT TO:<c@c.test>\r\n",
        "RCPT TO:<x>\r\n",
        "DATA\r\n",
        "BDAT 6\r\n",
        "BDAT 6 LAST\r\ntext\r\n",
        "BDAT 0 LAST\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "QUIT\r\n",
        "a: b\r\n\r\n",
        "text\r\n",
        "..\r\n",
        ".\r\n",
        "\r\n.\r\n",
        "\r\n",
        "\n",
        "\r",
        ".",
    ]);
    let piece = prop_oneof![
        20 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..10),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn server_octets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let known = prop::sample::select(vec![
        "220 mx.test\r\n",
        "250-mx.test\r\n250 PIPELINING\r\n",
        "250 ok\r\n",
        "250 ok\r\n",
        "250\r\n",
        "251 ok\r\n",
        "250-",
        "354 go\r\n",
        "354 go\r\n",
        "450 no\r\n",
        "550 no\r\n",
        "421 bye\r\n",
        "\r\n",
    ]);
    let piece = prop_oneof![
        30 => known.prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..10),
    ];
    prop::collection::vec(piece, 0..30)
}

fn run_server(lenient: bool, octets: &[u8], size: usize) -> Server {
    let config = ServerConfig { lenient, errors_max: 1000, ..ServerConfig::default() };
    let mut server = Server::new(config, TRUSTED);
    server.flush();
    for piece in octets.chunks(size) {
        if server.closed.is_none() {
            server.send(piece);
        }
    }
    server
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_server_answers_and_lives(octets in client_octets(), size in 1usize..200) {
        let mut server = run_server(false, &octets, size);
        server.wait(Duration::from_secs(1000));
        prop_assert!(server.closed.is_some(), "every session ends");
        replies(&server.said);
    }

    /// Without the rules on what may come together, pieces have no meaning. One of them holds always:
    /// nothing may come together with a DATA that is refused.
    #[test]
    fn pieces_do_not_matter_to_a_server(octets in client_octets(), size in 1usize..50) {
        let whole = run_server(true, &octets, usize::MAX);
        if whole.closed == Some(CloseReason::EarlyInput) {
            return Ok(());
        }
        let split = run_server(true, &octets, size);
        prop_assert_eq!(whole.replies(), split.replies());
        prop_assert_eq!(whole.queued, split.queued);
        prop_assert_eq!(whole.closed, split.closed);
        prop_assert_eq!(whole.session.stats(), split.session.stats());
    }

    /// Each refusal that was said is counted, once.
    #[test]
    fn a_server_counts_what_it_says(octets in client_octets(), size in 1usize..200) {
        let server = run_server(false, &octets, size);
        let replies = server.replies();
        let said = replies.iter().filter(|reply| reply.starts_with(['4', '5'])).count();
        let stats = server.session.stats();
        let content = stats.transactions_refused(TransactionRefusal::Content);
        prop_assert_eq!(said, (stats.command_errors + content) as usize);
        let recipients = replies.iter().filter(|reply| reply.starts_with("501 5.1.3")).count();
        prop_assert!(recipients <= stats.recipients_refused as usize);
    }

    /// Whatever a server says: a full report, and no delivery without a 2xx behind the dot.
    #[test]
    fn a_client_is_never_deceived(
        pieces in server_octets(), pipelining: bool, lmtp: bool, introduced: bool,
    ) {
        let message = Message::new("<a@a.test>", &["<b@b.test>", "<c@c.test>"], b"x\r\n");
        let protocol = if lmtp { ClientProtocol::Lmtp } else { ClientProtocol::Smtp };
        let dialect = Dialect { protocol, ..support::pipelining(pipelining) };
        let mut client = Client::new(ClientConfig::default()).with_dialect(dialect);
        if introduced {
            client.hear(b"220 mx.test\r\n");
            client.hear(b"250-mx.test\r\n250 PIPELINING\r\n");
        }
        let mut started = 0;
        for piece in &pieces {
            if client.session.is_ready() && client.closed.is_none() {
                client.start(&message);
                started += 1;
            }
            if client.closed.is_none() {
                client.hear(piece);
            }
        }
        client.wait(Duration::from_secs(2000));
        client.eof();
        prop_assert!(client.closed.is_some(), "every session ends");
        prop_assert_eq!(client.reports.len(), started);
        let delivered = client
            .reports
            .iter()
            .filter(|report| report.recipients.iter().any(RecipientReport::is_delivered))
            .count();
        prop_assert!(delivered <= client.contents_sent);
        for report in &client.reports {
            prop_assert_eq!(report.recipients.len(), 2);
            for recipient in &report.recipients {
                if let Verdict::Reply(reply) = &recipient.verdict {
                    let delivers = recipient.stage == Stage::FinalReply;
                    prop_assert!(delivers || !reply.is_positive_completion());
                }
            }
        }
    }
}
