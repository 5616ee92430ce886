//! What a client makes of servers, good and bad.

#![expect(clippy::panic, reason = "tests may be blunt")]

mod support;

use std::time::Duration;

use ringpost_protocol::envelope::{BodyType, Utf8};
use ringpost_protocol::priority::Priority;
use ringpost_session::client::{
    ClientConfig, ClientEvent, ClientTimeouts, LocalRefusal, ProtocolViolation, RecipientReport,
    SessionFailure, Stage, TransactionRequest, Verdict,
};
use support::{Client, Message};

const GREETING: &[u8] = b"220 mx.test\r\n";
const PIPELINING: &[u8] = b"250-mx.test\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";
const PLAIN: &[u8] = b"250 mx.test\r\n";

fn config() -> ClientConfig {
    ClientConfig { helo_name: "client.test".into(), ..ClientConfig::default() }
}

fn ready(ehlo_reply: &[u8]) -> Client {
    let mut client = Client::new(config());
    client.hear(GREETING);
    assert_eq!(client.take_said(), "EHLO client.test\r\n");
    client.hear(ehlo_reply);
    assert_eq!((client.ready, client.session.is_ready()), (1, true));
    client
}

fn message() -> Message {
    Message::new("<a@a.test>", &["<b@b.test>", "<c@b.test>"], b"hello\r\n.\r\n")
}

fn violation(client: &Client) -> &ProtocolViolation {
    match &client.closed {
        Some(Some(SessionFailure::Protocol { violation, .. })) => violation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_group_when_pipelining() {
    let mut client = ready(PIPELINING);
    client.start(&message());
    assert_eq!(
        client.take_said(),
        "MAIL FROM:<a@a.test> SIZE=10\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<c@b.test>\r\nDATA\r\n"
    );
    client.hear(b"250 ok\r\n250 ok\r\n251 forwarded\r\n354 go\r\n");
    assert_eq!(client.take_said(), "hello\r\n..\r\n.\r\n");
    assert_eq!(client.session.stage(), Stage::FinalReply);
    client.hear(b"250 2.0.0 done\r\n");
    assert_eq!(client.last_report(), ["final reply 250"; 2]);
    let report = &client.reports[0];
    assert!(report.session_usable && report.is_answered);
    assert!(report.recipients.iter().all(RecipientReport::is_delivered));
    // The session is kept, and needs no RSET.
    client.start(&message());
    assert!(client.take_said().starts_with("MAIL "));
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    client.hear(b"250 ok\r\n");
    client.take_said();
    client.quit();
    assert_eq!(client.take_said(), "QUIT\r\n");
    client.hear(b"221 bye\r\n");
    assert_eq!(client.closed, Some(None));
    assert_eq!(client.session.transactions(), 2);
}

#[test]
fn step_by_step_without_pipelining() {
    let mut client = ready(PLAIN);
    client.start(&message());
    for (said, reply) in [
        ("MAIL FROM:<a@a.test>\r\n", "250 ok\r\n"),
        ("RCPT TO:<b@b.test>\r\n", "250 ok\r\n"),
        ("RCPT TO:<c@b.test>\r\n", "550 5.1.1 no\r\n"),
        ("DATA\r\n", "354 go\r\n"),
        ("hello\r\n..\r\n.\r\n", "250 ok\r\n"),
    ] {
        assert_eq!(client.take_said(), said);
        client.hear(reply.as_bytes());
    }
    assert_eq!(client.last_report(), ["final reply 250", "rcpt 550"]);
    assert_eq!(client.take_said(), "");
}

/// A reply is an answer only if all of it came after the question.
#[test]
fn a_reply_that_began_too_early_is_none() {
    // Before the final dot.
    let mut client = ready(PLAIN);
    client.start(&message());
    for reply in ["250 ok\r\n", "250 ok\r\n", "250 ok\r\n"] {
        client.hear(reply.as_bytes());
    }
    client.hear(b"354 go\r\n25");
    assert_eq!(client.contents_sent, 1);
    client.hear(b"0 taken\r\n");
    assert_eq!(client.last_report(), ["final reply violation"; 2]);
    assert!(matches!(client.closed, Some(Some(SessionFailure::Protocol { .. }))));
    // Before a command.
    let mut client = ready(PLAIN);
    client.start(&message());
    client.hear(b"250 ok\r\n5");
    client.hear(b"50 no\r\n");
    assert!(matches!(client.closed, Some(Some(SessionFailure::Protocol { .. }))));
    // Before the transaction. But 421 is never too early.
    for (reply, is_wrong) in [("50 no\r\n", true), ("21 bye\r\n", false)] {
        let mut client = ready(PIPELINING);
        client.hear(if is_wrong { b"5" } else { b"4" });
        client.start(&message());
        client.hear(reply.as_bytes());
        let Some(Some(failure)) = &client.closed else { panic!("{reply:?} is let pass") };
        assert_eq!(matches!(failure, SessionFailure::Protocol { .. }), is_wrong, "{failure:?}");
    }
    // A server that gives up while content is sent may take its time to say so.
    let mut client = ready(PIPELINING);
    client.sends_content = false;
    client.start(&message());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n452 ");
    client.hear(b"full\r\n");
    assert_eq!(client.last_report(), ["content 452"; 2]);
}

#[test]
fn no_content_goes_to_who_has_ended_the_session() {
    let mut client = ready(PIPELINING);
    client.start(&message());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n421 bye\r\n");
    assert_eq!((client.contents_sent, client.closed.is_some()), (0, true));
    assert_eq!(client.last_report(), ["content ended by 421"; 2]);
}

#[test]
fn nothing_is_sent_to_nobody() {
    // MAIL refused, without pipelining: no RCPT.
    let mut client = ready(PLAIN);
    client.start(&message());
    client.take_said();
    client.hear(b"550 no\r\n");
    assert_eq!((client.take_said().as_str(), client.session.is_ready()), ("", true));
    assert_eq!(client.last_report(), ["mail 550"; 2]);
    // After a failure RSET comes first.
    client.start(&message());
    assert_eq!(client.take_said(), "RSET\r\n");
    client.hear(b"250 ok\r\n");
    assert!(client.take_said().starts_with("MAIL"));
    // All RCPT refused: no DATA.
    client.hear(b"250 ok\r\n");
    client.hear(b"450 later\r\n");
    client.take_said();
    client.hear(b"550 no\r\n");
    assert_eq!(client.take_said(), "");
    assert_eq!(client.last_report(), ["rcpt 450", "rcpt 550"]);
}

#[test]
fn a_whole_group_is_read_before_the_verdict() {
    // R4: (replies, what the client says then, report)
    let table: [(&str, &str, [&str; 2]); 6] = [
        ("550 no\r\n503 no\r\n503 no\r\n503 no\r\n", "", ["mail 550"; 2]),
        ("250 ok\r\n550 no\r\n450 no\r\n554 no\r\n", "", ["rcpt 550", "rcpt 450"]),
        ("250 ok\r\n550 no\r\n550 no\r\n354 go\r\n", ".\r\n", ["rcpt 550"; 2]),
        ("550 no\r\n250 ok\r\n250 ok\r\n354 go\r\n", ".\r\n", ["mail 550"; 2]),
        ("250 ok\r\n250 ok\r\n550 no\r\n451 no\r\n", "", ["data 451", "rcpt 550"]),
        ("250 ok\r\n250\r\n250\r\n552 no\r\n", "", ["data 552"; 2]),
    ];
    for (replies, said, report) in table {
        for size in [1, 3, 1000] {
            let mut client = ready(PIPELINING);
            client.start(&message());
            client.take_said();
            for piece in replies.as_bytes().chunks(size) {
                client.hear(piece);
            }
            assert_eq!(client.take_said(), said, "{replies:?}");
            if said == ".\r\n" {
                assert!(client.reports.is_empty());
                client.hear(b"250 ok, an empty message\r\n");
            }
            assert_eq!(client.last_report(), report, "{replies:?}");
            assert!(!client.reports[0].recipients.iter().any(RecipientReport::is_delivered));
            assert_eq!(client.contents_sent, 0);
            client.start(&message());
            assert!(client.take_said().starts_with("RSET\r\nMAIL FROM"), "one group with RSET");
            client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
            client.hear(b"250 ok\r\n");
            assert_eq!(client.last_report(), ["final reply 250"; 2]);
        }
    }
}

#[test]
fn a_refused_message_keeps_the_session() {
    // R5
    let mut client = ready(PIPELINING);
    client.start(&message());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    client.hear(b"554 5.7.1 spam\r\n");
    assert_eq!(client.last_report(), ["final reply 554"; 2]);
    assert!(client.session.is_ready() && client.reports[0].session_usable);
    client.take_said();
    client.start(&message());
    assert!(client.take_said().starts_with("RSET\r\n"));
}

#[test]
fn helo_is_for_servers_without_ehlo() {
    // R19
    let mut client = Client::new(config());
    client.hear(GREETING);
    client.take_said();
    client.hear(b"502 what?\r\n");
    assert_eq!(client.take_said(), "HELO client.test\r\n");
    client.hear(b"250-mx.test\r\n250 PIPELINING\r\n");
    assert!(client.session.is_ready());
    assert!(!client.session.extensions().pipelining, "only EHLO offers");

    let mut client = Client::new(config());
    client.hear(GREETING);
    client.hear(b"502 what?\r\n");
    client.hear(b"502 what?\r\n");
    assert!(matches!(&client.closed, Some(Some(SessionFailure::Reply { stage: Stage::Ehlo, .. }))));
}

#[test]
fn messages_that_a_server_cannot_take_are_not_offered() {
    // R20
    let large = Message::new("<>", &["<b@b.test>"], &b"0123456789\r\n".repeat(84));
    let eight_bit = Message::new("<>", &["<b@b.test>"], b"\xc3\xbc\r\n");
    let mut client = ready(PIPELINING);
    client.start(&large);
    assert_eq!(client.take_said(), "");
    let report = client.reports.pop().unwrap();
    assert_eq!(report.recipients[0].verdict, Verdict::Refused(LocalRefusal::TooLarge));
    assert!(report.session_usable && !report.is_answered);
    let mut client = ready(PIPELINING);
    client.start(&eight_bit);
    assert!(client.take_said().starts_with("MAIL FROM:<> SIZE=4 BODY=8BITMIME\r\n"));
    let mut client = ready(PLAIN);
    client.start(&eight_bit);
    assert_eq!(client.last_report(), ["idle 5.6.3"]);
    client.start(&large);
    assert_eq!(client.take_said(), "MAIL FROM:<>\r\n");
}

#[test]
fn extra_replies_end_the_session() {
    // R7: the earlier result stands.
    let mut client = ready(PIPELINING);
    client.start(&message());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    client.hear(b"250 ok\r\n250 again\r\n");
    assert_eq!(client.last_report(), ["final reply 250"; 2]);
    assert!(!client.reports[0].session_usable);
    assert!(matches!(violation(&client), ProtocolViolation::UnexpectedReply(_)));

    // Two replies to MAIL put everything one off: 250 for DATA fits nothing.
    let mut client = ready(PIPELINING);
    client.start(&message());
    client.hear(b"250 ok\r\n250 again\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    assert_eq!(client.last_report(), ["data violation"; 2]);
    assert!(matches!(violation(&client), ProtocolViolation::UnexpectedCode(_)));
    assert_eq!(client.contents_sent, 0);

    // A reply to a command that has not been sent.
    for early in [&b"220 mx.test\r\n250 mx.test\r\n"[..], b"220 mx.test\r\n220 mx.test\r\n"] {
        let mut client = Client::new(config());
        client.hear(early);
        assert!(matches!(violation(&client), ProtocolViolation::UnexpectedReply(_)));
    }
    let mut client = ready(PLAIN);
    client.start(&message());
    client.hear(b"250 ok\r\n250 too early\r\n");
    assert_eq!(client.last_report(), ["rcpt violation"; 2]);

    // A reply while nothing is going on.
    let mut client = ready(PLAIN);
    client.hear(b"250 hello?\r\n");
    assert!(matches!(violation(&client), ProtocolViolation::UnexpectedReply(_)));
    let mut client = ready(PLAIN);
    client.hear(b"421 4.4.2 idle for too long\r\n");
    assert!(matches!(&client.closed, Some(Some(SessionFailure::Reply { stage: Stage::Idle, .. }))));
}

#[test]
fn replies_while_the_content_is_sent() {
    // R11
    let start = |reply: &[u8]| {
        let mut client = ready(PIPELINING);
        client.sends_content = false;
        client.start(&message());
        client.hear(b"250 ok\r\n250 ok\r\n450 no\r\n354 go\r\n");
        assert_eq!(client.session.stage(), Stage::Content);
        client.hear(reply);
        assert!(client.closed.is_some(), "out of step");
        client
    };
    assert_eq!(start(b"550 enough\r\n").last_report(), ["content 550", "rcpt 450"]);
    assert_eq!(start(b"421 enough\r\n").last_report(), ["content ended by 421", "rcpt 450"]);
    // "250" before the dot is no delivery.
    assert_eq!(start(b"250 ok\r\n").last_report(), ["content violation", "rcpt 450"]);
}

#[test]
fn a_kept_session_that_died_has_answered_nothing() {
    // R16
    let deaths: [fn(&mut Client); 3] = [
        Client::eof,
        |client| client.hear(b"421 4.4.2 idle for too long\r\n"),
        |client| client.wait(Duration::from_mins(5)),
    ];
    for die in deaths {
        let mut client = ready(PIPELINING);
        client.start(&message());
        client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
        client.hear(b"250 ok\r\n");
        client.start(&message());
        die(&mut client);
        let report = client.reports.last().unwrap();
        assert!(!report.is_answered && !report.session_usable);
        assert_eq!(report.recipients[0].stage, Stage::Mail);

        let mut client = ready(PIPELINING);
        client.start(&message());
        client.hear(b"250 ok\r\n");
        die(&mut client);
        assert!(client.reports.last().unwrap().is_answered);
    }
}

#[test]
fn a_reply_to_rset_answers_nothing() {
    let mut client = ready(PLAIN);
    client.start(&message());
    client.hear(b"550 no\r\n");
    client.start(&message());
    client.hear(b"250 reset\r\n");
    client.eof();
    assert_eq!(client.last_report(), ["mail closed"; 2]);
    assert!(!client.reports[1].is_answered);
}

#[test]
fn a_reply_that_was_on_its_way_is_not_for_the_next_command() {
    let mut client = ready(PIPELINING);
    let mail = message();
    let paths: Vec<_> = mail.forward_paths.iter().collect();
    let request = TransactionRequest {
        by: None,
        reverse_path: &mail.reverse_path,
        forward_paths: &paths,
        size: 10,
        body: BodyType::SevenBit,
        utf8: Utf8::Unmarked,
        priority: Priority::NORMAL,
        require_tls: false,
        dsn: None,
    };
    client.session.start_transaction(client.now, &request).unwrap();
    client.session.handle_input(client.now, b"250 late\r\n");
    let Some(ClientEvent::TransactionDone(report)) = client.session.poll_event() else {
        panic!("the session goes on");
    };
    assert!(!report.session_usable && !report.recipients[0].is_delivered());
}

/// A server that goes on to behave badly at some step.
struct Step {
    name: &'static str,
    stage: Stage,
    replies: &'static [&'static str],
    timeout: u64,
    wrong: &'static str,
}

const STEPS: [Step; 7] = [
    Step {
        name: "greeting",
        stage: Stage::Greeting,
        replies: &[],
        timeout: 300,
        wrong: "354 x\r\n",
    },
    Step {
        name: "EHLO",
        stage: Stage::Ehlo,
        replies: &["220 x\r\n"],
        timeout: 300,
        wrong: "354 x\r\n",
    },
    Step {
        name: "MAIL",
        stage: Stage::Mail,
        replies: &["220 x\r\n", "250 x\r\n"],
        timeout: 300,
        wrong: "354 x\r\n",
    },
    Step {
        name: "RCPT",
        stage: Stage::Rcpt,
        replies: &["220 x\r\n", "250 x\r\n", "250 x\r\n"],
        timeout: 300,
        wrong: "354 x\r\n",
    },
    Step {
        name: "second RCPT",
        stage: Stage::Rcpt,
        replies: &["220 x\r\n", "250 x\r\n", "250 x\r\n", "550 x\r\n"],
        timeout: 300,
        wrong: "354 x\r\n",
    },
    Step {
        name: "DATA",
        stage: Stage::Data,
        replies: &["220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n"],
        timeout: 120,
        wrong: "250 x\r\n",
    },
    Step {
        name: "final reply",
        stage: Stage::FinalReply,
        replies: &["220 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", "250 x\r\n", "354 x\r\n"],
        timeout: 600,
        wrong: "354 x\r\n",
    },
];

/// Brings a session to a step.
fn at(step: &Step) -> Client {
    let mut client = Client::new(config());
    for reply in step.replies {
        client.hear(reply.as_bytes());
        if client.session.is_ready() {
            client.start(&message());
        }
    }
    assert_eq!(client.session.stage(), step.stage, "{}", step.name);
    client
}

#[test]
fn bad_servers_at_every_step() {
    let long_line = format!("250 {}", "x".repeat(1 << 20));
    let many_lines = "250-x\r\n".repeat(10_000);
    let endings: [(&str, &str); 10] = [
        ("421", "421 4.3.2 closing\r\n"),
        ("garbage", "hello\r\n"),
        ("TLS", "\x15\x03\x01\x00\x02\x02\n"),
        ("no digits", "2x0 ok\r\n"),
        ("long line", &long_line),
        ("many lines", &many_lines),
        ("mixed codes", "250-x\r\n550 x\r\n"),
        ("bare CR", "250 x\rx\r\n"),
        ("empty line", "\r\n"),
        ("wrong kind", ""),
    ];
    for step in &STEPS {
        for (name, octets) in endings {
            let octets = if name == "wrong kind" { step.wrong } else { octets };
            let mut client = at(step);
            client.hear(octets.as_bytes());
            let failure = client.closed.clone().flatten();
            let name = format!("{name} at {}", step.name);
            let failure = failure.unwrap_or_else(|| panic!("{name}: the session goes on"));
            assert_eq!(failure.stage(), step.stage, "{name}");
            assert_eq!(failure.reply().is_some(), octets.starts_with("421"), "{name}");
            check_failed(&client, step, &name);
        }
        let mut client = at(step);
        client.hear(b"250-half a reply\r\n25");
        client.eof();
        assert_eq!(client.closed, Some(Some(SessionFailure::Closed { stage: step.stage })));
        check_failed(&client, step, "close");

        let mut client = at(step);
        client.session.abort();
        client.drive();
        assert_eq!(client.closed, Some(Some(SessionFailure::Aborted { stage: step.stage })));
        check_failed(&client, step, "abort");
    }
}

/// R1, R9, R17: the whole reply has to come in time, however many octets of it do.
#[test]
fn slow_servers_at_every_step() {
    for step in &STEPS {
        let mut client = at(step);
        let long_reply = "250-tarpit\r\n".repeat(100);
        for octet in long_reply.as_bytes().iter().take(step.timeout as usize - 1) {
            client.wait(Duration::from_secs(1));
            client.hear(&[*octet]);
        }
        assert_eq!(client.closed, None, "{}", step.name);
        client.wait(Duration::from_secs(1));
        assert_eq!(client.closed, Some(Some(SessionFailure::TimedOut { stage: step.stage })));
        check_failed(&client, step, "slow");
    }
    let mut client = at(&STEPS[6]);
    client.wait(Duration::from_secs(599));
    client.hear(b"250 at last\r\n");
    assert_eq!(client.last_report(), ["final reply 250", "final reply 250"]);
}

/// Recipients that were refused stay refused, the others share the failure, and none is delivered.
fn check_failed(client: &Client, step: &Step, name: &str) {
    let Some(report) = client.reports.last() else {
        assert!(step.stage < Stage::Mail, "{name} at {}: no report", step.name);
        return;
    };
    assert!(!report.session_usable, "{name} at {}", step.name);
    assert_eq!(report.recipients.len(), 2);
    for (index, recipient) in report.recipients.iter().enumerate() {
        let refused = step.name == "second RCPT" && index == 0;
        let failed = matches!(recipient.verdict, Verdict::Failed(_));
        assert_eq!(failed, !refused, "{name} at {}", step.name);
        assert!(!recipient.is_delivered(), "{name} at {}", step.name);
    }
}

#[test]
fn content_has_a_deadline_for_each_block() {
    let mut client = ready(PIPELINING);
    client.sends_content = false;
    client.start(&message());
    client.hear(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n");
    for _ in 0..10 {
        client.wait(Duration::from_secs(179));
        client.session.content_progressed(client.now);
    }
    client.wait(Duration::from_mins(3));
    assert_eq!(client.last_report(), ["content timed out"; 2]);
}

#[test]
fn quit_waits_for_its_moment() {
    let mut client = ready(PIPELINING);
    client.quit();
    client.wait(ClientTimeouts::default().quit);
    assert_eq!(client.closed, Some(None), "a server that does not answer QUIT does no harm");
    let mut client = ready(PIPELINING);
    client.quit();
    client.hear(b"421 closing\r\n");
    assert_eq!(client.closed, Some(None));

    let mut client = at(&STEPS[6]);
    client.take_said();
    client.quit();
    assert_eq!(client.take_said(), "", "nothing is sent behind the final dot");
    assert_eq!(client.last_report(), ["final reply aborted"; 2]);
}
