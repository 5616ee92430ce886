//! What a server session counts: refusals by reason, limits by name.

mod support;

use std::time::Duration;

use ringpost_protocol::priority::Priority;
use ringpost_session::server::{
    Admission, Refusal, ServerConfig, ServerLimit as Limit, ServerStats, TransactionRefusal as Why,
};
use support::{STRANGER, Server, TRUSTED};

const ENVELOPE: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n";
const DATA: &str = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";

/// Every limit is small, so that it can be reached by hand.
fn config() -> ServerConfig {
    ServerConfig {
        size_max: 1000,
        recipients_max: 2,
        errors_max: 5,
        junk_commands_max: 6,
        transactions_max: 3,
        received_fields_max: 2,
        ..ServerConfig::default()
    }
}

fn server() -> Server {
    Server::introduced(config(), TRUSTED)
}

fn send(server: &mut Server, segments: &[&str]) {
    for segment in segments {
        server.send(segment.as_bytes());
    }
}

/// Everything that is not zero: errors and refused recipients, reasons, limits.
type Counts = (u32, u32, Vec<(Why, u32)>, Vec<(Limit, u32)>);

fn counts(stats: &ServerStats) -> Counts {
    let refused = Why::ALL.map(|why| (why, stats.transactions_refused(why)));
    let hits = Limit::ALL.map(|limit| (limit, stats.limit_hits(limit)));
    (
        stats.command_errors,
        stats.recipients_refused,
        refused.into_iter().filter(|(_, count)| *count > 0).collect(),
        hits.into_iter().filter(|(_, count)| *count > 0).collect(),
    )
}

#[track_caller]
fn check(server: &Server, errors: u32, recipients: u32, why: &[(Why, u32)], hit: &[(Limit, u32)]) {
    let expected = (errors, recipients, why.to_vec(), hit.to_vec());
    assert_eq!(counts(server.session.stats()), expected, "{:?}", server.replies());
}

#[test]
fn good_mail_counts_nothing() {
    let mut server = server();
    send(&mut server, &[DATA, "text\r\n.\r\n", DATA, ".\r\n", "QUIT\r\n"]);
    assert_eq!(server.queued.len(), 2);
    check(&server, 0, 0, &[], &[]);
}

#[test]
fn commands_and_recipients_that_are_refused() {
    let mut server = server();
    send(&mut server, &["RCPT TO:<b@b.test>\r\n", "WHAT\r\n", "NOOP\r\n", "rcpt to:<b>\r\n"]);
    check(&server, 3, 2, &[], &[]);
    send(&mut server, &["RCPTX TO:<b@b.test>\r\n"]);
    check(&server, 4, 2, &[], &[]);
}

#[test]
fn recipients_max() {
    let mut server = server();
    send(&mut server, &[ENVELOPE, "RCPT TO:<c@c.test>\r\n", "RCPT TO:<d@d.test>\r\n"]);
    send(&mut server, &["RCPT TO:<e@e.test>\r\n", "DATA\r\n", ".\r\n"]);
    assert_eq!(server.queued.len(), 1, "it goes to those that were taken");
    check(&server, 2, 2, &[], &[(Limit::Recipients, 2)]);
}

#[test]
fn message_size_max() {
    let lines = |count: usize| "0123456789abcdef\r\n".repeat(count);
    let mut server = server();
    send(&mut server, &["MAIL FROM:<> SIZE=1001\r\n"]);
    check(&server, 1, 0, &[(Why::Size, 1)], &[(Limit::MessageSize, 1)]);
    send(&mut server, &[DATA, &lines(60), ".\r\n"]);
    check(&server, 1, 0, &[(Why::Size, 2)], &[(Limit::MessageSize, 2)]);
    send(&mut server, &[DATA, &lines(150)]);
    assert!(server.closed.is_some());
    check(&server, 1, 0, &[(Why::Size, 3)], &[(Limit::MessageSize, 3)]);
}

#[test]
fn errors_max() {
    let mut server = server();
    send(&mut server, &[ENVELOPE]);
    send(&mut server, &["WHAT\r\n"; 5]);
    assert!(server.closed.is_some());
    check(&server, 5, 0, &[(Why::Aborted, 1)], &[(Limit::Errors, 1)]);
}

#[test]
fn junk_commands_max() {
    let mut server = server();
    // EHLO was the first.
    send(&mut server, &["NOOP\r\n"; 6]);
    assert!(server.closed.is_some());
    check(&server, 1, 0, &[], &[(Limit::JunkCommands, 1)]);
}

#[test]
fn transactions_max() {
    let mut server = server();
    for _ in 0..3 {
        send(&mut server, &[DATA, ".\r\n"]);
    }
    send(&mut server, &["MAIL FROM:<>\r\n"]);
    assert!(server.closed.is_some());
    check(&server, 1, 0, &[], &[(Limit::Transactions, 1)]);
}

#[test]
fn future_release_max() {
    let later = ServerConfig { not_before_header: Some("X".into()), ..config() };
    let mut server = Server::introduced(later, TRUSTED);
    send(&mut server, &["MAIL FROM:<> HOLDFOR=604801\r\n"]);
    check(&server, 1, 0, &[(Why::Hold, 1)], &[(Limit::FutureRelease, 1)]);
    send(&mut server, &[DATA, "X: 2038-01-19T03:14:08Z\r\n\r\n.\r\n"]);
    check(&server, 1, 0, &[(Why::Hold, 2)], &[(Limit::FutureRelease, 2)]);
    send(&mut server, &[DATA, "X: soon\r\n\r\n.\r\n"]);
    check(&server, 1, 0, &[(Why::Hold, 3)], &[(Limit::FutureRelease, 2)]);
}

#[test]
fn mt_priority_max() {
    let some = ServerConfig { priority_max: Priority::new(3), ..config() };
    let mut server = Server::introduced(some, TRUSTED);
    send(&mut server, &["MAIL FROM:<> MT-PRIORITY=3\r\nRSET\r\n"]);
    check(&server, 0, 0, &[], &[]);
    send(&mut server, &["MAIL FROM:<> MT-PRIORITY=4\r\n"]);
    check(&server, 0, 0, &[], &[(Limit::MtPriority, 1)]);
}

#[test]
fn deliver_by_min() {
    let some = ServerConfig { deliver_by_min: Some(60), ..config() };
    let mut server = Server::introduced(some, TRUSTED);
    send(&mut server, &["MAIL FROM:<> BY=60;R\r\nRSET\r\nMAIL FROM:<> BY=1;N\r\nRSET\r\n"]);
    check(&server, 0, 0, &[], &[]);
    send(&mut server, &["MAIL FROM:<> BY=59;R\r\n"]);
    check(&server, 1, 0, &[(Why::DeliverBy, 1)], &[(Limit::DeliverBy, 1)]);
}

#[test]
fn labels_that_cannot_be_read() {
    let labels = ServerConfig { tenant_header: Some("X".into()), ..config() };
    let mut server = Server::introduced(labels, TRUSTED);
    send(&mut server, &[DATA, "X: a\r\n\r\n.\r\n"]);
    check(&server, 0, 0, &[], &[]);
    send(&mut server, &[DATA, "X: a b\r\n\r\n.\r\n", DATA, "X: a\r\nX: a\r\n.\r\n"]);
    check(&server, 0, 0, &[(Why::Label, 2)], &[]);
}

#[test]
fn dsn_parameters_size_max() {
    let mut server =
        Server::introduced(ServerConfig { dsn_parameters_size_max: 5, ..config() }, TRUSTED);
    send(&mut server, &["MAIL FROM:<a@a.test>\r\n", "RCPT TO:<b@b.test> NOTIFY=NEVER\r\n"]);
    send(&mut server, &["RCPT TO:<c@b.test> NOTIFY=NEVER\r\n", "RCPT TO:<c@b.test>\r\n"]);
    check(&server, 1, 1, &[], &[(Limit::DsnParameters, 1)]);
}

#[test]
fn timeouts_and_the_lowest_rate() {
    let rate = ServerConfig { data_block_timeout: Duration::from_mins(2), ..config() };
    let block = ServerConfig { data_rate_min: 0, ..config() };
    for (config, segments, aborted, limit) in [
        (config(), ["NOO", ""], 0, Limit::CommandTimeout),
        (config(), [ENVELOPE, "NOO"], 1, Limit::CommandTimeout),
        (rate, [DATA, "text"], 1, Limit::DataRate),
        (block, [DATA, "text"], 1, Limit::DataBlockTimeout),
    ] {
        let mut server = Server::introduced(config, TRUSTED);
        send(&mut server, &segments);
        server.wait(Duration::from_mins(10));
        assert!(server.closed.is_some());
        check(&server, 0, 0, &[(Why::Aborted, 1)][..aborted], &[(limit, 1)]);
    }
}

#[test]
fn replies_that_nobody_reads() {
    let patient = ServerConfig { junk_commands_max: u32::MAX, ..config() };
    let mut server = Server::introduced(patient, TRUSTED);
    let input = b"NOOP\r\n".repeat(10_000);
    let mut content = Vec::new();
    for _ in 0..3 {
        server.session.handle_input(server.now, &input, &mut content);
    }
    check(&server, 0, 0, &[], &[(Limit::ReplyOutput, 1)]);
    let deadline = server.session.poll_timeout().unwrap();
    server.session.handle_timeout(deadline);
    check(&server, 0, 0, &[], &[(Limit::OutputTimeout, 1), (Limit::ReplyOutput, 1)]);
}

#[test]
fn command_lines() {
    let long = format!("RCPT TO:<{}@b.test>\r\n", "a".repeat(2048));
    let mut server = server();
    send(&mut server, &[&long, "NOOP\r\n", &long]);
    check(&server, 2, 0, &[], &[(Limit::CommandLine, 2)]);
    server.send(&b"a".repeat(70_000));
    assert!(server.closed.is_some());
    check(&server, 3, 0, &[], &[(Limit::CommandLine, 3)]);
}

#[test]
fn content_that_is_refused() {
    let large = ServerConfig { size_max: 1 << 20, ..config() };
    let header = "a: b\r\n".repeat(1001);
    let text_line = "x".repeat(999);
    let hops = "Received: x\r\n".repeat(3);
    for (content, why, limit, closes) in [
        ("a\0b\r\n.\r\n", Why::Content, None, false),
        (" a\r\n.\r\n", Why::Content, None, false),
        ("a\rb\r\n.\r\n", Why::Content, None, true),
        ("a\nb\r\n.\r\n", Why::Content, None, true),
        (&format!("{text_line}\r\n.\r\n"), Why::Content, Some(Limit::TextLine), false),
        (&format!("{header}\r\n.\r\n"), Why::Content, Some(Limit::Header), false),
        (&format!("{hops}\r\n.\r\n"), Why::Loop, Some(Limit::ReceivedFields), false),
    ] {
        let limits: Vec<_> = limit.map(|limit| (limit, 1)).into_iter().collect();
        let mut server = Server::introduced(large.clone(), TRUSTED);
        send(&mut server, &[DATA]);
        server.send(content.as_bytes());
        assert_eq!((server.closed.is_some(), server.aborted), (closes, 1));
        check(&server, 0, 0, &[(why, 1)], &limits);
        server.eof();
        check(&server, 0, 0, &[(why, 1)], &limits);
    }
}

/// A transaction without a recipient is counted when it ends, however it does.
#[test]
fn transactions_without_a_recipient() {
    let ends: [&str; 4] = ["RSET\r\n", "EHLO c.test\r\n", "QUIT\r\n", "\n"];
    for (peer, path, why) in [
        (STRANGER, "<b@b.test>", Why::Relay),
        (TRUSTED, "<b@[192.0.2.9]>", Why::NoRecipient),
        (TRUSTED, "<postmaster>", Why::NoRecipient),
        (TRUSTED, "<b@b..test>", Why::NoRecipient),
        (TRUSTED, "<b@b.test> FOO=bar", Why::NoRecipient),
    ] {
        for end in ends {
            let mut server = Server::introduced(config(), peer);
            server.send(format!("MAIL FROM:<>\r\nRCPT TO:{path}\r\nDATA\r\n").as_bytes());
            check(&server, 2, 1, &[], &[]);
            assert!(server.replies()[2].starts_with("554 5.5.1"), "{:?}", server.replies());
            send(&mut server, &[end]);
            let errors = 2 + u32::from(end == "\n");
            check(&server, errors, 1, &[(why, 1)], &[]);
        }
    }
    // One taken recipient is enough.
    let mut server = server();
    send(&mut server, &[ENVELOPE, "RCPT TO:<b>\r\n", "RSET\r\n"]);
    check(&server, 1, 1, &[], &[]);
    // Relaying stands out among the reasons.
    let mut server = Server::introduced(config(), STRANGER);
    send(&mut server, &["MAIL FROM:<>\r\nRCPT TO:<b>\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<b>\r\n"]);
    server.eof();
    check(&server, 3, 3, &[(Why::Relay, 1)], &[]);
}

#[test]
fn connections_that_end_early() {
    for (segments, why) in [
        (&["MAIL FROM:<>\r\n"][..], Some(Why::Aborted)),
        (&[ENVELOPE][..], Some(Why::Aborted)),
        (&[DATA][..], Some(Why::Aborted)),
        (&[DATA, "text"][..], Some(Why::Aborted)),
        (&[DATA, "text\r\n.\r\n"][..], None),
        (&[ENVELOPE, "RSET\r\n"][..], None),
        (&[ENVELOPE, "QUIT\r\n"][..], None),
        (&["NOOP\r\n"][..], None),
    ] {
        let mut server = server();
        send(&mut server, segments);
        server.eof();
        let why: Vec<_> = why.map(|why| (why, 1)).into_iter().collect();
        check(&server, 0, 0, &why, &[]);
    }
}

#[test]
fn what_the_driver_refuses() {
    for (refusal, why) in [
        (Refusal::Unavailable, Why::Unavailable),
        (Refusal::Full, Why::QueueFull),
        (Refusal::Rejected, Why::Content),
    ] {
        let mut server = server();
        server.refusal = Some(refusal);
        send(&mut server, &[DATA, ".\r\n"]);
        server.eof();
        check(&server, 0, 0, &[(why, 1)], &[]);
    }
    for (admission, why) in [
        (Admission::Full, Why::QueueFull),
        (Admission::Unavailable, Why::Unavailable),
        (Admission::ShuttingDown, Why::Shutdown),
        (Admission::Elsewhere, Why::Unavailable),
    ] {
        let mut server = server();
        server.session.set_admission(admission);
        send(&mut server, &["MAIL FROM:<>\r\n"]);
        check(&server, 1, 0, &[(why, 1)], &[]);
    }
    let mut server = server();
    send(&mut server, &[DATA, "text"]);
    server.session.shut_down(server.now);
    check(&server, 0, 0, &[(Why::Shutdown, 1)], &[]);
}

#[test]
fn input_before_the_greeting() {
    let mut server = Server::new(config(), TRUSTED);
    server.send(b"EHLO c.test\r\n");
    check(&server, 1, 0, &[], &[]);
}
