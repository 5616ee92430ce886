//! AUTH: who gets in, who does not, what is out of place, and that nothing of it outlives STARTTLS.

mod support;

use std::time::Duration;

use ringpost_protocol::extension::{Extension, ExtensionSet};
use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use ringpost_session::server::{
    AuthPolicy, AuthQuestion, AuthRefusal, CloseReason, Password, ReversePathRule, ReversePaths,
    ServerConfig, ServerLimit, TlsInfo, TlsPolicy, TlsVersion, TransactionRefusal,
};
use support::{STRANGER, Server, TRUSTED};

/// `\0user\0secret`, as a client says it.
const GOOD: &str = "AHVzZXIAc2VjcmV0";

/// `\0user\0wrong`.
const BAD: &str = "AHVzZXIAd3Jvbmc=";

const MAIL: &[u8] = b"MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n";

fn config() -> ServerConfig {
    let mechanisms = MechanismSet::from_iter(Mechanism::ALL);
    let auth = AuthPolicy { mechanisms, without_tls: true, ..AuthPolicy::default() };
    ServerConfig { hostname: "mx.test".into(), auth, ..ServerConfig::default() }
}

fn introduced() -> Server {
    Server::introduced(config(), STRANGER)
}

fn required() -> ServerConfig {
    let mut config = config();
    config.auth.required = true;
    config
}

fn shake_hands(server: &mut Server) {
    assert!(std::mem::take(&mut server.starts_tls), "no handshake was asked for");
    let info =
        TlsInfo { version: TlsVersion::V1_3, cipher: "TLS_AES_256_GCM_SHA384", server_name: None };
    server.session.handle_tls(server.now, info);
    server.flush();
}

/// How each line is answered.
fn codes(server: &mut Server, lines: &[&str]) -> Vec<String> {
    server.said.clear();
    for line in lines {
        server.send(format!("{line}\r\n").as_bytes());
    }
    server.replies().iter().map(|reply| reply.chars().take(9).collect()).collect()
}

fn auth(line: &str) -> String {
    format!("AUTH {line}")
}

#[test]
fn whoever_shows_to_be_a_user_may_relay() {
    let mut server = introduced();
    assert_eq!(codes(&mut server, &[&auth(&format!("PLAIN {GOOD}"))]), ["235 2.7.0"]);
    assert_eq!(server.session.user().map(|user| &*user.name), Some("user"));
    assert_eq!(server.session.protocol(), "ESMTPA");
    server.send(MAIL);
    server.send(b"Subject: x\r\n\r\nx\r\n.\r\n");
    assert_eq!(server.queued.len(), 1);
    // The twins: without, with a wrong password, and with the right one for another.
    for line in ["NOOP", &auth(&format!("PLAIN {BAD}")), "AUTH PLAIN AG90aGVyAHNlY3JldA=="] {
        let mut server = introduced();
        codes(&mut server, &[line]);
        assert!(server.session.user().is_none(), "{line}");
        let replies = codes(&mut server, &["MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>"]);
        assert_eq!(replies[1], "550 5.7.1", "{line}");
    }
}

/// All dialogues, whole and cut at every octet: each leads to the same replies, and the same user.
#[test]
fn dialogues_whole_and_cut_at_every_octet() {
    let table: [(&str, &[&str], bool); 28] = [
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", &["235 2.7.0"], true),
        ("auth plain AHVzZXIAc2VjcmV0 ", &["235 2.7.0"], true),
        ("AUTH PLAIN|AHVzZXIAc2VjcmV0", &["334 ", "235 2.7.0"], true),
        (
            "AUTH LOGIN|dXNlcg==|c2VjcmV0",
            &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 2.7.0"],
            true,
        ),
        ("AUTH LOGIN dXNlcg==|c2VjcmV0", &["334 UGFzc3dvcmQ6", "235 2.7.0"], true),
        ("AUTH PLAIN AHVzZXIAd3Jvbmc=", &["535 5.7.8"], false),
        ("AUTH LOGIN|dXNlcg==|d3Jvbmc=", &["334 V", "334 U", "535 5.7.8"], false),
        // As another: `boss\0user\0secret`. As itself.
        ("AUTH PLAIN Ym9zcwB1c2VyAHNlY3JldA==", &["535 5.7.8"], false),
        ("AUTH PLAIN dXNlcgB1c2VyAHNlY3JldA==", &["235 2.7.0"], true),
        ("AUTH PLAIN|*", &["334 ", "501 5.7.0"], false),
        ("AUTH LOGIN|dXNlcg==|*", &["334 V", "334 U", "501 5.7.0"], false),
        ("AUTH PLAIN *", &["501 5.5.2"], false),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0=", &["501 5.5.2"], false),
        ("AUTH PLAIN|AHVz ZXIAc2VjcmV0", &["334 ", "501 5.5.2"], false),
        ("AUTH PLAIN|", &["334 ", "501 5.5.2"], false),
        ("AUTH PLAIN =", &["501 5.5.2"], false),
        ("AUTH PLAIN|=", &["334 ", "501 5.5.2"], false),
        ("AUTH LOGIN =", &["501 5.5.2"], false),
        ("AUTH LOGIN|dXNlcg==|", &["334 V", "334 U", "501 5.5.2"], false),
        // NUL in a password of LOGIN; octets that are no UTF-8.
        ("AUTH LOGIN|dXNlcg==|c2VjAHJldA==", &["334 V", "334 U", "501 5.5.2"], false),
        ("AUTH PLAIN AHVzZXIA//8=", &["501 5.5.2"], false),
        ("AUTH CRAM-MD5", &["504 5.5.4"], false),
        // `first`, `last`, and an empty response to the server's proof.
        ("AUTH SCRAM-SHA-256 Zmlyc3Q=|bGFzdA==|", &["334 c2V", "334 c2V", "235 2.7.0"], true),
        (
            "AUTH SCRAM-SHA-256|Zmlyc3Q=|bGFzdA==|",
            &["334 ", "334 c2V", "334 c2V", "235 2.7.0"],
            true,
        ),
        ("AUTH SCRAM-SHA-256 Zmlyc3Q=|d3Jvbmc=", &["334 c2V", "535 5.7.8"], false),
        ("AUTH SCRAM-SHA-256 Zmlyc3Q=|*", &["334 c2V", "501 5.7.0"], false),
        ("AUTH SCRAM-SHA-256 bGFzdA==", &["501 5.5.2"], false),
        ("AUTH SCRAM-SHA-256 Zmlyc3Q=|bGFzdA==|*", &["334 c2V", "334 c2V", "501 5.7.0"], false),
    ];
    for (dialogue, expected, is_user) in table {
        let octets = format!("{}\r\n", dialogue.replace('|', "\r\n")).into_bytes();
        for cut in 0..octets.len() {
            let mut server = introduced();
            let (first, rest) = octets.split_at(cut);
            for piece in [first, rest] {
                server.send(piece);
            }
            let replies = server.replies();
            let fits = replies.len() == expected.len()
                && replies
                    .iter()
                    .zip(expected)
                    .all(|(reply, start)| reply.starts_with(start.trim()));
            assert!(fits, "{dialogue} cut at {cut}: {replies:?}");
            assert_eq!(server.session.user().is_some(), is_user, "{dialogue} cut at {cut}");
            assert_eq!(codes(&mut server, &["NOOP"]), ["250 2.0.0"], "{dialogue} cut at {cut}");
        }
        let mut server = introduced();
        for octet in octets {
            server.send(&[octet]);
        }
        assert_eq!(server.session.user().is_some(), is_user, "{dialogue} octet by octet");
    }
}

#[test]
fn a_question_says_what_the_client_has_said() {
    let mut server = introduced();
    server.answers_auth = false;
    server.send(b"AUTH PLAIN Ym9zcwB1c2VyAHNlY3JldA==\r\n");
    let question = AuthQuestion::Password {
        mechanism: Mechanism::Plain,
        authorization: Some("boss".into()),
        name: "user".into(),
        password: Password::new("secret"),
    };
    assert_eq!(server.questions, [question]);
    assert!(!format!("{:?}{:?}", server.questions, server.session).contains("secret"));
}

/// What comes behind AUTH waits for the answer, and is obeyed by it.
#[test]
fn nothing_is_taken_while_the_answer_is_awaited() {
    for (is_right, expected) in [(true, "250 2.1.5"), (false, "550 5.7.1")] {
        let mut server = introduced();
        server.answers_auth = false;
        let sent = format!("AUTH PLAIN {GOOD}\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n");
        let mut segment = sent.as_bytes();
        server.send_some(&mut segment);
        assert!(segment.starts_with(b"MAIL") && server.said.is_empty());
        // However long the driver takes, the client is not to blame.
        server.wait(Duration::from_hours(1));
        assert_eq!((server.closed, server.session.state_name()), (None, "auth"));
        if is_right {
            let question = server.questions.remove(0);
            server.answer_auth(&question);
        } else {
            server.session.auth_refused(server.now, AuthRefusal::Credentials);
        }
        let mut rest = segment;
        server.send_some(&mut rest);
        let replies = server.replies();
        assert!(rest.is_empty() && replies.len() == 3, "{replies:?}");
        assert!(replies[2].starts_with(expected), "{replies:?}");
        // The command timeout runs again.
        server.wait(Duration::from_mins(6));
        assert_eq!(server.closed, Some(CloseReason::TimedOut));
    }
}

/// An answer that nobody waits for changes nothing.
#[test]
fn an_answer_without_a_question_is_none() {
    let mut server = introduced();
    server.session.auth_refused(server.now, AuthRefusal::Credentials);
    let question = AuthQuestion::Password {
        mechanism: Mechanism::Plain,
        authorization: None,
        name: "user".into(),
        password: Password::new("secret"),
    };
    server.answer_auth(&question);
    assert!(server.session.user().is_none());
    assert_eq!(codes(&mut server, &["NOOP"]), ["250 2.0.0"]);
    // The session has ended while the driver was looking.
    server.answers_auth = false;
    server.send(format!("AUTH PLAIN {GOOD}\r\n").as_bytes());
    server.session.shut_down(server.now);
    server.answer_auth(&question);
    assert!(server.session.user().is_none() && server.session.is_closing());
}

/// RFC 3207 §4.2, RFC 4954 §4: who the client was before TLS does not count after it.
#[test]
fn nothing_of_auth_survives_starttls() {
    let config = ServerConfig { tls: TlsPolicy::Optional, ..config() };
    let mut server = Server::introduced(config.clone(), STRANGER);
    assert_eq!(codes(&mut server, &[&auth(&format!("PLAIN {GOOD}"))]), ["235 2.7.0"]);
    assert_eq!(codes(&mut server, &["STARTTLS"]), ["220 2.0.0"]);
    shake_hands(&mut server);
    assert!(server.session.user().is_none());
    server.send(b"EHLO c.test\r\n");
    assert_eq!(server.session.protocol(), "ESMTPS");
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>"])[1], "550 5.7.1");
    // It can be done again.
    assert_eq!(codes(&mut server, &["RSET", &auth(&format!("PLAIN {GOOD}"))])[1], "235 2.7.0");
    assert_eq!(server.session.protocol(), "ESMTPSA");

    // An exchange that was begun before does not go on, and failures stay counted.
    let mut server = Server::introduced(config, STRANGER);
    assert_eq!(codes(&mut server, &[&auth(&format!("PLAIN {BAD}"))]), ["535 5.7.8"]);
    assert_eq!(codes(&mut server, &["AUTH LOGIN dXNlcg==", "*", "STARTTLS"])[2], "220 2.0.0");
    shake_hands(&mut server);
    assert_eq!(codes(&mut server, &["c2VjcmV0", "EHLO c.test"])[0], "500 5.5.2");
    assert!(server.session.user().is_none());
    let line = auth(&format!("PLAIN {BAD}"));
    assert_eq!(codes(&mut server, &[&line, &line]), ["535 5.7.8", "535 5.7.8", "421 4.7.0"]);
    assert_eq!(server.closed, Some(CloseReason::TooManyErrors));
}

/// A gateway that authenticates and then speaks for a client: that one is nobody yet.
#[test]
fn nothing_of_auth_passes_to_another_client() {
    let mut server = introduced();
    server.session.set_names_clients(true);
    assert_eq!(codes(&mut server, &[&auth(&format!("PLAIN {GOOD}"))]), ["235 2.7.0"]);
    assert_eq!(codes(&mut server, &["XCLIENT ADDR=192.0.2.77 LOGIN=user"]).len(), 1);
    assert!(server.session.user().is_none());
    let lines = ["EHLO c.test", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>"];
    assert_eq!(codes(&mut server, &lines)[2], "550 5.7.1");
}

#[test]
fn auth_is_offered_where_it_can_be_used() {
    let offer = |server: &mut Server| {
        server.said.clear();
        server.send(b"EHLO c.test\r\n");
        let said = String::from_utf8_lossy(&server.said).into_owned();
        said.lines().find(|line| line.contains("AUTH")).map(str::to_owned)
    };
    let mut server = introduced();
    assert_eq!(offer(&mut server).as_deref(), Some("250-AUTH SCRAM-SHA-256 PLAIN LOGIN"));
    let line = auth(&format!("PLAIN {GOOD}"));
    assert_eq!(codes(&mut server, &[&line, &line]), ["235 2.7.0", "503 5.5.1"]);
    assert_eq!(offer(&mut server), None, "once is enough");
    assert!(server.session.user().is_some(), "EHLO forgets nobody");

    // Only over TLS, unless the listener says otherwise.
    let mut safe = ServerConfig { tls: TlsPolicy::Optional, ..config() };
    safe.auth.without_tls = false;
    let mut server = Server::introduced(safe.clone(), STRANGER);
    assert_eq!(offer(&mut server), None);
    assert_eq!(codes(&mut server, &[&line, "AUTH WHAT"]), ["538 5.7.11"; 2].map(|it| &it[..9]));
    assert!(server.questions.is_empty(), "nobody is to be asked about that password");
    server.send(b"STARTTLS\r\n");
    shake_hands(&mut server);
    assert_eq!(
        offer(&mut server).as_deref(),
        Some("250-AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN")
    );
    assert_eq!(codes(&mut server, &[&line]), ["235 2.7.0"]);
    // RFC 3207 §4 comes first where TLS is required.
    safe.tls = TlsPolicy::Required;
    assert_eq!(codes(&mut Server::introduced(safe, STRANGER), &[&line]), ["530 5.7.0"]);

    // Not at all.
    let extensions = ExtensionSet::ALL.without(Extension::Auth);
    for config in [ServerConfig { extensions, ..config() }, ServerConfig::default()] {
        let mut server = Server::introduced(config, STRANGER);
        assert_eq!(offer(&mut server), None);
        let lines = [&*line, "MAIL FROM:<a@a.test> AUTH=<>", "HELP AUTH"];
        assert_eq!(codes(&mut server, &lines), ["502 5.5.1", "555 5.5.4", "504 5.5.4"]);
    }
}

#[test]
fn auth_out_of_place_is_refused() {
    let line = auth(&format!("PLAIN {GOOD}"));
    let mut server = introduced();
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>", &line])[1], "503 5.5.1");
    assert_eq!(codes(&mut server, &["RSET", &line])[1], "235 2.7.0");
    let mut server = Server::new(config(), STRANGER);
    server.flush();
    assert_eq!(codes(&mut server, &[&line, "HELO c.test", &line])[2], "503 5.5.1");
    assert!(server.questions.is_empty());
    let lines = ["AUTH", "AUTH PLAIN a b"];
    assert_eq!(codes(&mut introduced(), &lines), ["501 5.5.4"; 2]);
}

#[test]
fn where_auth_is_required_there_is_no_mail_without() {
    let mut server = Server::introduced(required(), TRUSTED);
    let lines = ["MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "VRFY a", "NOOP"];
    let expected = ["530 5.7.0", "503 5.5.1", "252 2.5.2", "250 2.0.0"];
    assert_eq!(codes(&mut server, &lines), expected);
    let line = auth(&format!("PLAIN {GOOD}"));
    assert_eq!(codes(&mut server, &[&line, "MAIL FROM:<a@a.test>"])[1], "250 2.1.0");
}

#[test]
fn failures_are_counted_and_come_to_an_end() {
    let mut server = introduced();
    let (good, bad) = (auth(&format!("PLAIN {GOOD}")), auth(&format!("PLAIN {BAD}")));
    // What is not the client's fault, or no answer, is no failure.
    let others = ["AUTH PLAIN AGJ1c3kAeA==", "AUTH PLAIN AGRvd24AeA==", "AUTH LOGIN", "*"];
    let expected = ["454 4.7.0", "454 4.7.0", "334 VXNlc", "501 5.7.0"];
    assert_eq!(codes(&mut server, &others), expected);
    assert_eq!(
        codes(&mut server, &[&bad, &bad, &bad]),
        ["535 5.7.8", "535 5.7.8", "535 5.7.8", "421 4.7.0"]
    );
    assert_eq!(server.closed, Some(CloseReason::TooManyErrors));
    let stats = server.session.stats();
    assert_eq!(stats.limit_hits(ServerLimit::AuthFailures), 1);
    assert_eq!(stats.limit_hits(ServerLimit::PasswordQueue), 1);
    assert_eq!(stats.command_errors, 6);
    let mut server = introduced();
    assert_eq!(codes(&mut server, &[&bad, &bad, &good])[2], "235 2.7.0");
}

/// RFC 4954 §4: lines of 12,288 octets are taken, and longer ones are no end of the session.
#[test]
fn long_lines_are_taken_up_to_the_limit() {
    // Text without NUL: not a response of PLAIN, but base64.
    let line = |octets: usize| format!("{}\r\n", "QUFB".repeat((octets - 2) / 4));
    for (octets, expected) in [(12_286, "501 5.5.2"), (12_290, "500 5.5.6")] {
        for cut in [1, 4096, octets - 1] {
            let mut server = introduced();
            assert_eq!(codes(&mut server, &["AUTH PLAIN"]), ["334"]);
            server.said.clear();
            let line = line(octets);
            let (first, rest) = line.as_bytes().split_at(cut);
            server.send(first);
            server.send(rest);
            assert!(server.replies()[0].starts_with(expected), "{octets}: {:?}", server.replies());
            assert_eq!(codes(&mut server, &["NOOP"]), ["250 2.0.0"]);
            let hits = server.session.stats().limit_hits(ServerLimit::AuthLine);
            assert_eq!(hits, u32::from(octets > 12_288));
        }
    }
    // The command itself is a command line.
    let mut server = introduced();
    let long = format!("AUTH PLAIN {}", "QUFB".repeat(600));
    assert_eq!(codes(&mut server, &[&long]), ["500 5.5.6"]);
    // Bare LF ends no line here either.
    server.send(b"AUTH PLAIN\r\n");
    server.said.clear();
    server.send(b"AHVz\n");
    assert!(server.replies()[0].starts_with("500 5.5.2"));
    assert_eq!(server.closed, Some(CloseReason::BadLine));
}

#[test]
fn a_silent_client_is_cut_off_in_the_middle() {
    let mut server = introduced();
    server.send(b"AUTH LOGIN\r\n");
    server.wait(Duration::from_mins(5));
    assert_eq!(server.closed, Some(CloseReason::TimedOut));
    let mut server = introduced();
    server.send(b"AUTH LOGIN\r\ndXN");
    server.eof();
    assert_eq!(server.closed, Some(CloseReason::PeerClosed));
}

/// RFC 4954 §5: the parameter is read where AUTH is offered, and believed by nobody.
#[test]
fn the_auth_parameter_is_read() {
    for (value, expected) in [
        ("AUTH=<>", "250 2.1.0"),
        ("AUTH=e+3Dmc2@example.com", "250 2.1.0"),
        ("auth=a@b.test SIZE=1", "250 2.1.0"),
        ("AUTH=", "501 5.5.4"),
        ("AUTH", "501 5.5.4"),
        ("AUTH=a=b", "501 5.5.4"),
        ("AUTH=a+0Ab", "501 5.5.4"),
        ("AUTH=<> AUTH=<>", "501 5.5.4"),
    ] {
        let mut server = introduced();
        let lines = [format!("MAIL FROM:<a@a.test> {value}"), "RCPT TO:<b@b.test>".into()];
        let replies = codes(&mut server, &[&lines[0], &lines[1]]);
        assert_eq!(replies[0], expected, "{value}");
        assert_ne!(replies[1], "250 2.1.5", "{value}");
    }
    let long = format!("MAIL FROM:<a@a.test> AUTH={}", "a".repeat(501));
    assert_eq!(codes(&mut introduced(), &[&long]), ["501 5.5.4"]);
}

#[test]
fn a_user_gives_only_reverse_paths_of_its_own() {
    let rules = ["a@a.test", "b.test"].map(|text| ReversePathRule::parse(text).unwrap());
    let mut server = introduced();
    server.reverse_paths = ReversePaths::Listed(rules.to_vec());
    codes(&mut server, &[&auth(&format!("PLAIN {GOOD}"))]);
    for (path, expected) in [
        ("<a@a.test>", "250 2.1.0"),
        ("<any@b.test>", "250 2.1.0"),
        ("<>", "250 2.1.0"),
        ("<b@a.test>", "553 5.7.1"),
        ("<a@c.test>", "553 5.7.1"),
    ] {
        let mail = format!("MAIL FROM:{path}");
        assert_eq!(codes(&mut server, &[&mail, "RSET"])[0], expected, "{path}");
    }
    let refusals = server.session.stats().transactions_refused(TransactionRefusal::ReversePath);
    assert_eq!(refusals, 2);
}

#[test]
fn a_user_that_has_sent_enough_is_put_off() {
    let mut server = introduced();
    server.session.set_user_may_send(false);
    codes(&mut server, &[&auth(&format!("PLAIN {GOOD}"))]);
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>", "RSET"])[0], "250 2.1.0");
    server.session.set_user_may_send(false);
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>"]), ["451 4.7.1"]);
    server.session.set_user_may_send(true);
    assert_eq!(codes(&mut server, &["MAIL FROM:<a@a.test>"]), ["250 2.1.0"]);
    let stats = server.session.stats();
    assert_eq!(stats.limit_hits(ServerLimit::UserRate), 1);
    assert_eq!(stats.transactions_refused(TransactionRefusal::UserRate), 1);
}
