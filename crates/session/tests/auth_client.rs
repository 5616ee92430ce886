//! AUTH as a client: what is said, what is asked of the driver, and what each reply means.

#![expect(clippy::panic, clippy::unwrap_used, reason = "tests may be blunt")]

mod support;

use std::time::Duration;

use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use ringpost_session::client::{
    AuthProblem, AuthPrompt, ClientAuth, ClientConfig, ClientSession, ClientTls, ClientTlsInfo,
    SessionFailure, Stage,
};
use ringpost_session::server::TlsVersion;
use support::{Client, Message};

const HELLO: &str = "220 mx.test ESMTP\r\n";

fn config() -> ClientConfig {
    ClientConfig { helo_name: "client.test".into(), ..ClientConfig::default() }
}

/// A client that logs in by one of these.
fn client(tls: ClientTls, mechanisms: &[Mechanism], without_tls: bool) -> Client {
    let mechanisms: MechanismSet = mechanisms.iter().copied().collect();
    Client::with_tls(config(), tls).with_auth(ClientAuth { mechanisms, without_tls })
}

/// One that trusts the net.
fn trusting(mechanism: Mechanism) -> Client {
    client(ClientTls::Off, &[mechanism], true)
}

/// Hands in what the server says at once, but for the greeting, behind which nothing may be said unasked.
fn hear(client: &mut Client, text: &str) {
    let rest = text.strip_prefix(HELLO);
    if rest.is_some() {
        client.hear(HELLO.as_bytes());
    }
    client.hear(rest.unwrap_or(text).as_bytes());
}

fn offer(mechanisms: &str) -> String {
    format!("{HELLO}250-mx.test\r\n250-PIPELINING\r\n250 AUTH {mechanisms}\r\n")
}

fn answer(client: &mut Client, response: &[u8]) {
    client.session.auth_response(client.now, response);
    client.drive();
}

fn failure(client: &Client) -> &SessionFailure {
    match &client.closed {
        Some(Some(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn problem(client: &Client) -> &AuthProblem {
    match failure(client) {
        SessionFailure::Auth { problem } => problem,
        other => panic!("{other:?}"),
    }
}

/// What the server says, what the driver is asked, and what it answers.
type Dialogue = &'static [(&'static str, &'static [AuthPromptKind], &'static [u8])];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AuthPromptKind {
    Plain,
    LoginName,
    LoginPassword,
    ScramFirst,
    ScramProof,
    ScramVerify,
}

fn kind(prompt: &AuthPrompt) -> AuthPromptKind {
    match prompt {
        AuthPrompt::Plain => AuthPromptKind::Plain,
        AuthPrompt::LoginName => AuthPromptKind::LoginName,
        AuthPrompt::LoginPassword => AuthPromptKind::LoginPassword,
        AuthPrompt::ScramFirst => AuthPromptKind::ScramFirst,
        AuthPrompt::ScramProof(_) => AuthPromptKind::ScramProof,
        AuthPrompt::ScramVerify(_) => AuthPromptKind::ScramVerify,
    }
}

/// Each mechanism from end to end: what it is, how it goes, and what the client says in all.
const DIALOGUES: [(Mechanism, Dialogue, &str); 4] = [
    (
        Mechanism::Plain,
        &[("AUTH PLAIN", &[AuthPromptKind::Plain], b"\0user\0secret"), ("235 2.7.0 in", &[], b"")],
        "AUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    ),
    (
        Mechanism::Login,
        &[
            ("AUTH LOGIN", &[], b""),
            ("334 VXNlcm5hbWU6", &[AuthPromptKind::LoginName], b"user"),
            ("334 UGFzc3dvcmQ6", &[AuthPromptKind::LoginPassword], b"secret"),
            ("235 in", &[], b""),
        ],
        "AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\n",
    ),
    // As some servers speak it.
    (
        Mechanism::Login,
        &[
            ("AUTH=X login", &[], b""),
            ("334 User Name", &[AuthPromptKind::LoginName], b"user"),
            ("334", &[AuthPromptKind::LoginPassword], b"secret"),
            ("235 in", &[], b""),
        ],
        "AUTH LOGIN\r\ndXNlcg==\r\nc2VjcmV0\r\n",
    ),
    (
        Mechanism::ScramSha256,
        &[
            ("AUTH SCRAM-SHA-256", &[AuthPromptKind::ScramFirst], b"n,,n=user,r=x"),
            ("334 cj14eQ==", &[AuthPromptKind::ScramProof], b"c=biws,r=xy,p=AA=="),
            ("334 dj1BQT09", &[AuthPromptKind::ScramVerify], b""),
            ("235 in", &[], b""),
        ],
        "AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9eA==\r\nYz1iaXdzLHI9eHkscD1BQT09\r\n\r\n",
    ),
];

/// Plays a dialogue with the server's words cut before the octet at `cut` of all that it says.
fn play(mechanism: Mechanism, dialogue: Dialogue, cut: usize) -> Client {
    let mut client = trusting(mechanism);
    let mut heard = 0;
    let mut say = |client: &mut Client, text: &str| {
        let at = cut.saturating_sub(heard).min(text.len());
        heard += text.len();
        client.hear(text.get(..at).unwrap().as_bytes());
        client.hear(text.get(at..).unwrap().as_bytes());
    };
    let mut asked = 0;
    for (at, (line, prompts, response)) in dialogue.iter().enumerate() {
        assert_eq!(client.ready, 0, "{line}");
        if at == 0 {
            say(&mut client, HELLO);
            let offer = line.split_once(' ').unwrap().1;
            say(&mut client, &format!("250-mx.test\r\n250-AUTH {offer}\r\n250 DSN\r\n"));
        } else {
            say(&mut client, &format!("{line}\r\n"));
        }
        let kinds: Vec<_> = client.prompts.iter().skip(asked).map(kind).collect();
        assert_eq!(kinds, *prompts, "{line}");
        asked = client.prompts.len();
        if !prompts.is_empty() {
            answer(&mut client, response);
        }
    }
    client
}

#[test]
fn each_mechanism_is_spoken_however_the_octets_are_cut() {
    for (mechanism, dialogue, expected) in DIALOGUES {
        for cut in 0..250 {
            let mut client = play(mechanism, dialogue, cut);
            assert_eq!((client.ready, client.logged_in), (1, Some(mechanism)), "{cut}");
            let said = client.take_said();
            assert_eq!(said, format!("EHLO client.test\r\n{expected}"), "{cut}");
            assert!(client.session.extensions().dsn, "what is offered stays");
            client.start(&Message::new("<a@a.test>", &["<b@b.test>"], b"1\r\n"));
            let said = client.take_said();
            // RFC 4954 §5: who the originator is was not shown to us, and we do not say that it was.
            assert_eq!(said, "MAIL FROM:<a@a.test>\r\n");
            assert_eq!(client.prompts.len(), dialogue.iter().filter(|it| !it.1.is_empty()).count());
        }
    }
}

/// RFC 3207 §4.2: what was offered in plain text counts for nothing.
#[test]
fn behind_starttls_the_offer_is_read_anew() {
    let own = [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];
    let info = ClientTlsInfo { version: TlsVersion::V1_3, cipher: "C", verified: true };
    for (offered, said) in [
        ("250-AUTH PLAIN\r\n", "AUTH PLAIN eA==\r\n"),
        ("250-AUTH LOGIN SCRAM-SHA-256\r\n", "AUTH SCRAM-SHA-256 eA==\r\n"),
        ("", ""),
    ] {
        let mut client = client(ClientTls::Required, &own, false);
        hear(&mut client, HELLO);
        hear(&mut client, "250-mx\r\n250-AUTH LOGIN\r\n250 STARTTLS\r\n");
        hear(&mut client, "220 go\r\n");
        assert_eq!(client.take_said(), "EHLO client.test\r\nSTARTTLS\r\n");
        client.session.handle_tls(client.now, info);
        client.drive();
        hear(&mut client, &format!("250-mx\r\n{offered}250 DSN\r\n"));
        answer(&mut client, b"x");
        assert_eq!(client.take_said(), format!("EHLO client.test\r\n{said}"));
        if said.is_empty() {
            assert_eq!(problem(&client), &AuthProblem::NotOffered);
        }
    }
}

/// A password goes in plain text only where that was allowed; a proof may.
#[test]
fn without_tls_no_password_is_shown() {
    for tls in [ClientTls::Off, ClientTls::Opportunistic] {
        for (offered, expected) in
            [("PLAIN", Err(AuthProblem::NeedsTls)), ("PLAIN SCRAM-SHA-256", Ok(()))]
        {
            let own = [Mechanism::ScramSha256, Mechanism::Plain];
            let mut strict = client(tls, &own, false);
            hear(&mut strict, &offer(offered));
            answer(&mut strict, b"x");
            let mut lax = client(tls, &own, true);
            hear(&mut lax, &offer(offered));
            answer(&mut lax, b"x");
            assert!(lax.closed.is_none() && lax.take_said().contains("AUTH"), "{offered}");
            let said = strict.take_said();
            match expected {
                Ok(()) => assert!(said.contains("AUTH SCRAM-SHA-256 "), "{said}"),
                Err(expected) => {
                    assert_eq!(problem(&strict), &expected);
                    assert!(!said.contains("AUTH"), "{said}");
                }
            }
        }
    }
}

/// No transaction without having logged in, whatever the server lacks.
#[test]
fn where_nobody_can_log_in_nothing_is_sent() {
    for (replies, expected) in [
        ("250 mx\r\n", AuthProblem::NotOffered),
        ("502 what\r\n250 mx\r\n", AuthProblem::NotOffered),
        ("250-mx\r\n250 AUTH\r\n", AuthProblem::NoMechanism),
        ("250-mx\r\n250 AUTH CRAM-MD5 EXTERNAL\r\n", AuthProblem::NoMechanism),
    ] {
        let mut client = client(ClientTls::Off, &[Mechanism::Plain, Mechanism::Login], true);
        hear(&mut client, HELLO);
        for reply in replies.split_inclusive("\r\n") {
            hear(&mut client, reply);
        }
        assert_eq!(problem(&client), &expected, "{replies}");
        assert_eq!((client.ready, failure(&client).stage()), (0, Stage::Auth));
        assert!(!failure(&client).is_on_the_way_to_tls() && failure(&client).reply().is_none());
        assert!(!client.take_said().contains("MAIL"));
    }
}

/// What can come instead of what should, at each step of each mechanism.
#[test]
fn whatever_goes_wrong_ends_the_session_before_mail() {
    for (mechanism, dialogue, _) in DIALOGUES {
        for step in 1..dialogue.len() {
            for wrong in
                ["454 4.7.0 not now", "535 5.7.8 no", "250 ok", "354 go", "421 bye", "x", "220 a"]
            {
                let mut client = play(mechanism, dialogue.get(..step).unwrap(), 0);
                hear(&mut client, &format!("{wrong}\r\n"));
                let failure = failure(&client).clone();
                let code = wrong.get(..3).unwrap_or(wrong);
                match (&failure, code) {
                    (SessionFailure::Reply { reply, .. }, "454" | "535" | "421") => {
                        assert_eq!(reply.code.to_string(), code);
                    }
                    (SessionFailure::Protocol { .. }, "250" | "354" | "220" | "x") => {}
                    _ => panic!("{mechanism:?} {step} {wrong}: {failure:?}"),
                }
                assert_eq!((failure.stage(), client.ready), (Stage::Auth, 0));
                assert!(!client.take_said().contains("MAIL"));
            }
            let mut client = play(mechanism, dialogue.get(..step).unwrap(), 0);
            client.eof();
            assert_eq!(failure(&client), &SessionFailure::Closed { stage: Stage::Auth });
            let mut client = play(mechanism, dialogue.get(..step).unwrap(), 0);
            client.wait(Duration::from_mins(5) - Duration::from_secs(1));
            assert!(client.closed.is_none());
            client.wait(Duration::from_secs(1));
            assert_eq!(failure(&client), &SessionFailure::TimedOut { stage: Stage::Auth });
        }
    }
}

/// Who says yes before having shown its signature may be anybody, and who shows a wrong one is.
#[test]
fn a_server_that_does_not_prove_itself_is_not_believed() {
    let (mechanism, dialogue, _) = DIALOGUES[3];
    for step in 1..dialogue.len() - 1 {
        let mut client = play(mechanism, dialogue.get(..step).unwrap(), 0);
        hear(&mut client, "235 in\r\n");
        assert_eq!(problem(&client), &AuthProblem::NotProven, "{step}");
        assert_eq!((client.ready, client.logged_in), (0, None));
    }
    for problem_said in [AuthProblem::NotProven, AuthProblem::Refused("invalid-proof".into())] {
        let mut client = play(mechanism, dialogue.get(..2).unwrap(), 0);
        hear(&mut client, "334 dj1BQT09\r\n");
        assert_eq!(client.prompts.last(), Some(&AuthPrompt::ScramVerify((*b"v=AA==").into())));
        client.take_said();
        client.session.auth_failed(problem_said.clone());
        client.drive();
        assert_eq!(problem(&client), &problem_said);
        hear(&mut client, "235 in\r\n");
        assert_eq!((client.ready, client.take_said().as_str()), (0, ""));
    }
    // The twin: the right one gets the mail.
    assert_eq!(play(mechanism, dialogue, 0).ready, 1);
}

#[test]
fn questions_beyond_the_mechanism_are_not_answered() {
    for (mechanism, dialogue, _) in DIALOGUES {
        let mut client = play(mechanism, dialogue.get(..dialogue.len() - 1).unwrap(), 0);
        let asked = client.prompts.len();
        hear(&mut client, "334 bW9yZQ==\r\n");
        assert_eq!(problem(&client), &AuthProblem::Challenge, "{mechanism:?}");
        assert_eq!(client.prompts.len(), asked);
    }
    // A question that is no base64, on two lines, or two at once.
    for (challenge, is_protocol) in [
        ("334 no base64\r\n", false),
        ("334-cj14\r\n334 eQ==\r\n", false),
        ("334 cj14eQ==\r\n334 dj1BQT09\r\n", true),
        ("334 cj14eQ==\r\n235 in\r\n", true),
    ] {
        let mut client = play(Mechanism::ScramSha256, DIALOGUES[3].1.get(..1).unwrap(), 0);
        hear(&mut client, challenge);
        match failure(&client) {
            SessionFailure::Auth { problem: AuthProblem::Challenge } if !is_protocol => {}
            SessionFailure::Protocol { .. } if is_protocol => {}
            other => panic!("{challenge}: {other:?}"),
        }
    }
}

/// Nothing counts that was said before the driver has answered.
#[test]
fn what_comes_before_the_answer_is_not_for_it() {
    let mut client = trusting(Mechanism::Plain);
    hear(&mut client, &offer("PLAIN"));
    assert_eq!(client.take_said(), "EHLO client.test\r\n");
    hear(&mut client, "235 in\r\n");
    let failed = failure(&client);
    assert!(matches!(failed, SessionFailure::Protocol { stage: Stage::Auth, .. }), "{failed:?}");
    assert!(client.logged_in.is_none());
    // And the driver's answer is for nobody then.
    answer(&mut client, b"x");
    assert!(!client.take_said().contains("AUTH"));
}

/// RFC 4954 §4: the command line has 512 octets, its CRLF included.
#[test]
fn a_long_first_response_waits_to_be_asked_for() {
    // AUTH PLAIN and a space are 11 octets, base64 comes in fours: 496 of them, and CRLF.
    let fits = vec![b'x'; 372];
    let mut client = trusting(Mechanism::Plain);
    hear(&mut client, &offer("PLAIN"));
    client.take_said();
    answer(&mut client, &fits);
    let said = client.take_said();
    assert!(said.starts_with("AUTH PLAIN eHh4") && said.len() == 509, "{}", said.len());

    let long = vec![b'x'; 373];
    for (mechanism, name) in
        [(Mechanism::Plain, "PLAIN"), (Mechanism::ScramSha256, "SCRAM-SHA-256")]
    {
        let mut client = trusting(mechanism);
        hear(&mut client, &offer(name));
        client.take_said();
        answer(&mut client, &long);
        assert_eq!(client.take_said(), format!("AUTH {name}\r\n"));
        hear(&mut client, "334 \r\n");
        let said = client.take_said();
        assert!(said.starts_with("eHh4") && said.ends_with("\r\n") && said.len() == 502, "{said}");
        if mechanism == Mechanism::Plain {
            hear(&mut client, "235 in\r\n");
            assert_eq!(client.ready, 1);
        } else {
            hear(&mut client, "334 cj14eQ==\r\n");
            assert!(matches!(client.prompts.last(), Some(AuthPrompt::ScramProof(_))));
        }
    }
    // An empty one is said to be there (RFC 4954 §4).
    let mut client = trusting(Mechanism::Plain);
    hear(&mut client, &offer("PLAIN"));
    client.take_said();
    answer(&mut client, b"");
    assert_eq!(client.take_said(), "AUTH PLAIN =\r\n");
}

#[test]
fn nothing_of_a_password_is_shown() {
    let mut client = trusting(Mechanism::Plain);
    hear(&mut client, &offer("PLAIN"));
    let prompt = AuthPrompt::ScramProof((*b"r=x,s=c2FsdA==,i=4096").into());
    assert_eq!(format!("{prompt:?}"), "ScramProof");
    answer(&mut client, b"\0user\0secret");
    hear(&mut client, "535 5.7.8 no\r\n");
    let shown = failure(&client).to_string();
    assert_eq!(shown, "session ended at auth: 535 5.7.8 no");
}

/// What few sessions need takes no room in the others.
#[test]
fn a_session_is_not_larger_for_it() {
    assert!(size_of::<ClientSession>() <= SIZE_MAX, "{}", size_of::<ClientSession>());
}

/// Octets of an idle session.
const SIZE_MAX: usize = 512;
