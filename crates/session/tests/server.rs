//! Dialogues, deadlines and orders of the server session.

mod support;

use std::time::Duration;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_session::server::{
    Admission, CloseReason, Refusal, ServerConfig, ServerEvent, ServerLimit, ServerSession,
};
use support::{Server, TRUSTED};

const ENVELOPE_AND_DATA: &[u8] = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";

fn config() -> ServerConfig {
    ServerConfig { hostname: "mx.test".into(), ..ServerConfig::default() }
}

fn introduced() -> Server {
    Server::introduced(config(), TRUSTED)
}

/// What a person with telnet sees.
#[test]
fn a_person_sends_a_mail() {
    let mut server = Server::new(config(), TRUSTED);
    server.flush();
    for line in [
        "HELO client.test",
        "MAIL FROM:<a@a.test>",
        "RCPT TO:<b@b.test>",
        "DATA",
        "Subject: hello",
        "",
        "Hello!",
        ".",
        "QUIT",
    ] {
        server.send(format!("{line}\r\n").as_bytes());
    }
    let said = String::from_utf8(server.said.clone()).unwrap();
    assert_eq!(
        said,
        "220 mx.test ESMTP\r\n\
         250 mx.test\r\n\
         250 2.1.0 Ok\r\n\
         250 2.1.5 Ok\r\n\
         354 End data with <CR><LF>.<CR><LF>\r\n\
         250 2.0.0 Ok: queued as q1\r\n\
         221 2.0.0 Bye\r\n"
    );
    assert_eq!(server.closed, Some(CloseReason::Quit));
    assert_eq!(server.queued[0].content, b"Subject: hello\r\n\r\nHello!\r\n");
}

#[test]
fn the_offer_is_complete() {
    let mut server = Server::new(config(), TRUSTED);
    server.flush();
    server.said.clear();
    server.send(b"EHLO client.test\r\n");
    let said = String::from_utf8(server.said).unwrap();
    assert_eq!(
        said,
        "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-SMTPUTF8\r\n250-DSN\r\n\
         250-FUTURERELEASE 604800 2023-11-21T22:13:20Z\r\n250-LIMITS MAILMAX=1000 RCPTMAX=1000\r\n250 ENHANCEDSTATUSCODES\r\n"
    );
}

#[test]
fn what_is_switched_off_is_refused() {
    for (off, mail) in [
        (Extension::Size, "MAIL FROM:<a@a.test> SIZE=1\r\n"),
        (Extension::EightBitMime, "MAIL FROM:<a@a.test> BODY=8BITMIME\r\n"),
        (Extension::FutureRelease, "MAIL FROM:<a@a.test> HOLDFOR=9\r\n"),
    ] {
        let mut all = introduced();
        all.send(mail.as_bytes());
        assert_eq!(all.replies(), ["250 2.1.0 Ok"], "{mail}");
        let mut without = Server::new(
            ServerConfig { extensions: ExtensionSet::ALL.without(off), ..config() },
            TRUSTED,
        );
        without.flush();
        without.send(b"EHLO client.test\r\n");
        assert!(!String::from_utf8_lossy(&without.said).contains(off.keyword()));
        without.said.clear();
        without.send(mail.as_bytes());
        assert_eq!(without.replies(), ["555 5.5.4 Parameter not recognized"], "{mail}");
        without.said.clear();
        without.send(b"MAIL FROM:<a@a.test>\r\n");
        assert_eq!(without.replies(), ["250 2.1.0 Ok"]);
    }
}

#[test]
fn a_message_without_its_verdict_holds_the_session() {
    let mut server = introduced();
    server.answers = false;
    server.send(ENVELOPE_AND_DATA);
    let mut segment: &[u8] = b"text\r\n.\r\nNOOP\r\nQUIT\r\n";
    server.send_some(&mut segment);
    assert_eq!(segment, b"NOOP\r\nQUIT\r\n", "what follows waits");
    assert_eq!(server.replies().len(), 3, "no 250 before the verdict");
    assert_eq!(server.session.poll_timeout(), None, "it is our turn, there is no deadline");
    server.answer(0);
    server.send(segment);
    let replies = server.replies();
    assert_eq!(replies[3..], ["250 2.0.0 Ok: queued as q1", "250 2.0.0 Ok", "221 2.0.0 Bye"]);
}

#[test]
fn a_message_is_ours_after_its_dot() {
    // D18: the client goes away before, in and after the terminator.
    for (content, queued) in
        [("text", 0), ("text\r\n", 0), ("text\r\n.", 0), ("text\r\n.\r", 0), ("text\r\n.\r\n", 1)]
    {
        let mut server = introduced();
        server.answers = false;
        server.send(ENVELOPE_AND_DATA);
        server.send(content.as_bytes());
        server.eof();
        if server.session.envelope().is_some() {
            assert_eq!(server.closed, None, "the verdict is still to come");
            server.answer(0);
            server.handle_events();
        }
        assert_eq!(server.queued.len(), queued, "{content:?}");
        assert_eq!(server.closed, Some(CloseReason::PeerClosed), "{content:?}");
        assert_eq!(server.aborted, 1 - queued, "{content:?}");
    }
}

/// Each event about content that the driver has heard of has its counterpart, and no other has.
#[test]
fn content_that_nobody_heard_of_is_not_aborted() {
    let mut server = introduced();
    let mut content = Vec::new();
    server.session.handle_input(server.now, ENVELOPE_AND_DATA, &mut content);
    server.session.handle_eof(server.now);
    let closed = ServerEvent::Closed(CloseReason::PeerClosed);
    assert_eq!(server.session.poll_event(), Some(closed));
    assert_eq!(server.session.poll_event(), None);
}

#[test]
fn refused_messages_leave_the_session_open() {
    for (refusal, reply) in [
        (Refusal::Unavailable, "451 4.3.0"),
        (Refusal::Full, "452 4.3.1"),
        (Refusal::Rejected, "554 5.0.0"),
    ] {
        let mut server = introduced();
        server.refusal = Some(refusal);
        server.send(ENVELOPE_AND_DATA);
        server.send(b"text\r\n.\r\n");
        assert!(server.replies()[3].starts_with(reply), "{:?}", server.replies());
        server.refusal = None;
        server.send(ENVELOPE_AND_DATA);
        server.send(b"text\r\n.\r\n");
        assert_eq!(server.queued.len(), 1);
        assert_eq!(server.session.transactions(), 2);
    }
}

#[test]
fn admission_is_asked_at_mail() {
    for (admission, reply) in [
        (Admission::Full, "452 4.3.1"),
        (Admission::Unavailable, "451 4.3.0"),
        (Admission::Recovering, "451 4.3.0 Still reading"),
        (Admission::ShuttingDown, "421 4.3.2"),
        (Admission::Elsewhere, "421 4.3.0"),
    ] {
        let mut server = introduced();
        server.session.set_admission(admission);
        server.send(b"NOOP\r\nMAIL FROM:<a@a.test>\r\n");
        assert!(server.replies()[1].starts_with(reply), "{:?}", server.replies());
        assert_eq!(server.closed.is_some(), reply.starts_with("421"));
    }
    for (admission, reply, reason) in [
        (Admission::ShuttingDown, "421 4.3.2", CloseReason::ShuttingDown),
        (Admission::Elsewhere, "421 4.3.0", CloseReason::Elsewhere),
    ] {
        let mut server = Server::new(config(), TRUSTED);
        server.session.set_admission(admission);
        server.handle_events();
        server.flush();
        assert!(server.replies()[0].starts_with(reply) && server.replies().len() == 1);
        assert_eq!(server.closed, Some(reason));
    }
}

#[test]
fn a_client_is_led_elsewhere_between_its_messages() {
    let lead = |server: &mut Server| {
        server.session.lead_elsewhere(server.now);
        server.handle_events();
        server.flush();
    };
    let mut server = introduced();
    lead(&mut server);
    assert!(server.replies()[0].starts_with("421 4.3.0"));
    assert_eq!(server.closed, Some(CloseReason::Elsewhere));

    // A message that is on its way gets its own reply first, at once or when its content is complete.
    for content in [&b"text"[..], b"text\r\n.\r\n"] {
        let mut server = introduced();
        server.answers = false;
        server.send(ENVELOPE_AND_DATA);
        server.send(content);
        lead(&mut server);
        assert_eq!((server.closed, server.aborted), (None, 0));
        if content == b"text" {
            server.send(b"\r\n.\r\n");
        }
        server.session.message_refused(server.now, Refusal::Unavailable);
        server.handle_events();
        server.flush();
        let replies = server.replies();
        assert!(replies[3].starts_with("451") && replies[4].starts_with("421"), "{replies:?}");
        assert_eq!(server.closed, Some(CloseReason::Elsewhere));
    }
}

#[test]
fn mail_waits_for_an_admission_that_is_pending() {
    let pending = || {
        let mut server = introduced();
        server.session.set_admission(Admission::Pending);
        let mut rest = &b"NOOP\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n"[..];
        server.send_some(&mut rest);
        assert!(server.session.awaits_admission());
        // What comes before it is answered, what comes behind it waits too.
        assert_eq!(rest, b"RCPT TO:<b@b.test>\r\n");
        assert_eq!(server.replies().len(), 1);
        server
    };
    for (admission, replies) in [
        (Admission::Open, &["250 2.0.0", "250 2.1.0", "250 2.1.5"][..]),
        (Admission::Full, &["250 2.0.0", "452 4.3.1", "503 5.5.1"]),
        (Admission::Recovering, &["250 2.0.0", "451 4.3.0", "503 5.5.1"]),
        (Admission::ShuttingDown, &["250 2.0.0", "421 4.3.2"]),
        (Admission::Elsewhere, &["250 2.0.0", "421 4.3.0"]),
    ] {
        let mut server = pending();
        // The client is not to blame for the time that this takes.
        server.wait(Duration::from_hours(1));
        server.session.resume(server.now);
        assert!(server.session.awaits_admission(), "still pending");
        server.session.set_admission(admission);
        server.session.resume(server.now);
        assert!(!server.session.awaits_admission());
        server.send(b"RCPT TO:<b@b.test>\r\n");
        let got = server.replies();
        assert_eq!(got.len(), replies.len(), "{admission:?}: {got:?}");
        assert!(got.iter().zip(replies).all(|(got, reply)| got.starts_with(reply)), "{got:?}");
        let refused = u32::from(admission != Admission::Open);
        assert!(server.session.stats().command_errors >= refused, "counted");
    }
    let mut server = pending();
    server.eof();
    assert_eq!(server.closed, Some(CloseReason::PeerClosed));
    let mut server = pending();
    server.session.shut_down(server.now);
    server.handle_events();
    assert_eq!(server.closed, Some(CloseReason::ShuttingDown));
}

#[test]
fn shutting_down_waits_for_a_message_at_its_dot_only() {
    let shut_down = |server: &mut Server| {
        server.session.shut_down(server.now);
        server.handle_events();
        server.flush();
    };
    let mut server = introduced();
    shut_down(&mut server);
    assert!(server.replies()[0].starts_with("421 4.3.2"));
    assert_eq!(server.closed, Some(CloseReason::ShuttingDown));

    let mut server = introduced();
    server.send(ENVELOPE_AND_DATA);
    server.send(b"text");
    shut_down(&mut server);
    assert_eq!((server.closed, server.aborted), (Some(CloseReason::ShuttingDown), 1));

    let mut server = introduced();
    server.answers = false;
    server.send(ENVELOPE_AND_DATA);
    server.send(b"text\r\n.\r\n");
    shut_down(&mut server);
    assert_eq!(server.closed, None);
    server.answer(0);
    server.handle_events();
    server.flush();
    let replies = server.replies();
    assert!(replies[3].starts_with("250") && replies[4].starts_with("421 4.3.2"), "{replies:?}");
    assert_eq!((server.closed, server.queued.len()), (Some(CloseReason::ShuttingDown), 1));
}

#[test]
fn transactions_have_a_limit() {
    let config = ServerConfig { transactions_max: 2, ..config() };
    let mut server = Server::introduced(config, TRUSTED);
    for _ in 0..2 {
        server.send(ENVELOPE_AND_DATA);
        server.send(b".\r\n");
    }
    server.send(b"MAIL FROM:<>\r\n");
    assert!(server.replies().last().unwrap().starts_with("421 4.7.0"));
    assert_eq!(server.closed, Some(CloseReason::TooManyTransactions));
}

#[test]
fn a_message_forgives_junk_commands() {
    let mut server = introduced();
    for _ in 0..5 {
        server.send(&b"NOOP\r\n".repeat(90));
        server.send(ENVELOPE_AND_DATA);
        server.send(b".\r\n");
    }
    assert_eq!((server.closed, server.queued.len()), (None, 5));
}

#[test]
fn silence_is_cut_off_in_every_state() {
    // C17: (what has come, how long the session waits then)
    let table: [(&[&[u8]], u64); 6] = [
        (&[], 300),
        (&[b"NOO"], 300),
        (&[b"MAIL FROM:<a@a.test>\r\n"], 300),
        (&[b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n"], 300),
        (&[ENVELOPE_AND_DATA], 60),
        (&[ENVELOPE_AND_DATA, b"0123456789"], 60),
    ];
    for (segments, seconds) in table {
        let mut server = introduced();
        for segment in segments {
            server.send(segment);
        }
        server.wait(Duration::from_millis(seconds * 1000 - 1));
        assert_eq!(server.closed, None, "{segments:?}");
        server.wait(Duration::from_millis(1));
        assert_eq!(server.closed, Some(CloseReason::TimedOut), "{segments:?}");
        assert!(server.replies().last().unwrap().starts_with("421 4.4.2"));
        assert_eq!(server.session.poll_timeout(), None);
    }
}

/// A session ends when it has lasted too long: between commands, and not within content.
#[test]
fn a_session_does_not_last_for_ever() {
    let lasting = |hours| ServerConfig {
        session_time_max: Duration::from_hours(hours),
        data_rate_min: 0,
        ..ServerConfig::default()
    };
    // Who says NOOP every four minutes gets no further than that, with room for more of them.
    let config = ServerConfig { junk_commands_max: 1000, ..lasting(1) };
    let mut server = Server::introduced(config, TRUSTED);
    for _ in 0..15 {
        assert_eq!(server.closed, None);
        server.send(b"NOOP\r\n");
        server.wait(Duration::from_mins(4));
    }
    assert_eq!(server.closed, Some(CloseReason::SessionTooLong));
    let last = server.replies().pop().unwrap();
    assert_eq!(last, "421 4.7.0 This session has lasted too long, closing");
    assert_eq!(server.session.stats().limit_hits(ServerLimit::SessionTime), 1);
    assert_eq!(server.session.poll_timeout(), None);
    // Content comes to its end first, however slow it is, and has its reply.
    let mut server = Server::introduced(lasting(1), TRUSTED);
    server.send(ENVELOPE_AND_DATA);
    for _ in 0..65 {
        server.send(b"x");
        server.wait(Duration::from_mins(1));
    }
    server.send(b"\r\n.\r\n");
    server.send(b"NOOP\r\n");
    assert_eq!((server.queued.len(), server.closed), (1, Some(CloseReason::SessionTooLong)));
    let replies = server.replies();
    let [.., taken, end] = &*replies else { panic!("{replies:?}") };
    assert!(
        taken.starts_with("250 2.0.0 Ok: queued") && end.starts_with("421 4.7.0"),
        "{replies:?}"
    );
    // Without the limit nothing ends.
    let mut server = Server::introduced(lasting(0), TRUSTED);
    for _ in 0..90 {
        server.send(b"NOOP\r\n");
        server.wait(Duration::from_mins(4));
    }
    assert_eq!(server.closed, None);
}

#[test]
fn slow_octets_are_cut_off() {
    // C18: a command has 300 s as a whole, however many octets come.
    let mut server = introduced();
    for seconds in (0..).step_by(10) {
        if server.closed.is_some() {
            assert_eq!(seconds, 300);
            break;
        }
        server.send(b"x");
        server.wait(Duration::from_secs(10));
    }
    // Content at 450 octets a second falls behind 500 when the grace is used up.
    let mut server = introduced();
    server.send(ENVELOPE_AND_DATA);
    let piece = [b"x".repeat(448), b"\r\n".to_vec()].concat();
    let mut seconds = 0;
    while server.closed.is_none() && seconds < 2000 {
        server.send(&piece);
        server.wait(Duration::from_secs(1));
        seconds += 1;
    }
    assert_eq!(server.closed, Some(CloseReason::TimedOut));
    assert!((590..=610).contains(&seconds), "{seconds}");
    // At 550 it does not.
    let mut server = introduced();
    server.send(ENVELOPE_AND_DATA);
    let piece = [b"x".repeat(548), b"\r\n".to_vec()].concat();
    for _ in 0..2000 {
        server.send(&piece);
        server.wait(Duration::from_secs(1));
    }
    assert_eq!(server.closed, None);
    // A block may take 180 s when content has come fast enough before.
    let mut server = introduced();
    server.send(ENVELOPE_AND_DATA);
    server.send(&b"0123456789\r\n".repeat(20_000));
    server.wait(Duration::from_secs(179));
    assert_eq!(server.closed, None);
    server.wait(Duration::from_secs(1));
    assert_eq!(server.closed, Some(CloseReason::TimedOut));
}

/// C19: output is bounded, and a client that does not read is cut off.
#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let patient = ServerConfig { errors_max: u32::MAX, junk_commands_max: u32::MAX, ..config() };
    let mut server = Server::introduced(patient, TRUSTED);
    let now = server.now;
    let input = b"NOOP\r\n".repeat(100_000);
    let mut content = Vec::new();
    let consumed = server.session.handle_input(now, &input, &mut content);
    assert!(consumed < input.len());
    let waiting = server.session.transmit().len();
    assert!((64 * 1024..66 * 1024).contains(&waiting), "{waiting}");
    assert_eq!(server.session.handle_input(now, &input, &mut content), 0);
    let deadline = server.session.poll_timeout().unwrap();
    assert_eq!(deadline, now + Duration::from_mins(1));
    server.session.handle_timeout(deadline);
    assert_eq!(server.session.poll_event(), Some(ServerEvent::Closed(CloseReason::TimedOut)));
    assert!(server.session.transmit().is_empty());

    // A client that reads in time goes on.
    let patient = ServerConfig { junk_commands_max: u32::MAX, ..config() };
    let mut server = Server::introduced(patient, TRUSTED);
    server.send(&input);
    assert_eq!(server.replies().len(), 100_000);
}

#[test]
fn an_idle_session_is_small() {
    let size = size_of::<ServerSession>();
    assert!(size <= 920, "{size}");
}

#[test]
fn eof_between_commands_is_no_event_but_the_end() {
    let mut server = introduced();
    server.send(b"MAIL FROM:<a@a.test>\r\nRCPT");
    server.eof();
    assert_eq!((server.closed, server.aborted), (Some(CloseReason::PeerClosed), 0));
    server.eof();
    server.session.shut_down(server.now);
    server.session.message_accepted(server.now, "x");
    assert!(!server.handle_events(), "nothing happens after the end");
}
