//! STARTTLS and implicit TLS as a client: when it begins, what it keeps, what its failures mean.

#![expect(clippy::panic, reason = "tests may be blunt")]

mod support;

use std::time::Duration;

use ringpost_session::client::{
    ClientConfig, ClientTls, ClientTlsInfo, SessionFailure, Stage, TlsProblem,
};
use ringpost_session::server::TlsVersion;
use support::{Client, Message};

const GREETING: &[u8] = b"220 mx.test ESMTP\r\n";
/// What is offered in plain text: more than under TLS, so that what is kept shows.
const PLAIN: &[u8] =
    b"250-mx.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 9\r\n250 STARTTLS\r\n";
const WITHOUT: &[u8] = b"250-mx.test\r\n250 PIPELINING\r\n";
const UNDER_TLS: &[u8] = b"250-mx.test\r\n250 SIZE 1000\r\n";
const GO: &[u8] = b"220 2.0.0 go ahead\r\n";

fn client(tls: ClientTls) -> Client {
    let config = ClientConfig { helo_name: "client.test".into(), ..ClientConfig::default() };
    Client::with_tls(config, tls)
}

fn info() -> ClientTlsInfo {
    ClientTlsInfo { version: TlsVersion::V1_3, cipher: "TLS_AES_128_GCM_SHA256", verified: true }
}

fn shake(client: &mut Client) {
    client.session.handle_tls(client.now, info());
    client.drive();
}

/// A client that has been told to go ahead with TLS.
fn handshaking(tls: ClientTls) -> Client {
    let mut client = client(tls);
    client.hear(GREETING);
    client.hear(PLAIN);
    client.hear(GO);
    assert_eq!(client.take_said(), "EHLO client.test\r\nSTARTTLS\r\n");
    assert_eq!((client.handshakes, client.session.stage()), (1, Stage::Handshake));
    client
}

fn failure(client: &Client) -> &SessionFailure {
    match &client.closed {
        Some(Some(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

fn problem(client: &Client) -> &TlsProblem {
    match failure(client) {
        SessionFailure::Tls { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn tls_comes_before_anything_of_mail_and_nothing_is_kept_from_before() {
    for tls in [ClientTls::Opportunistic, ClientTls::Required] {
        let mut client = handshaking(tls);
        assert_eq!(client.ready, 0, "not ready before TLS");
        shake(&mut client);
        assert_eq!(client.take_said(), "EHLO client.test\r\n");
        client.hear(UNDER_TLS);
        assert_eq!((client.ready, client.session.tls()), (1, Some(info())));
        let offers = client.session.extensions();
        assert!(!offers.pipelining && !offers.eight_bit_mime, "{offers:?}");
        let message = Message::new("<a@a.test>", &["<b@b.test>"], b"more than nine octets\r\n");
        client.start(&message);
        assert_eq!(client.take_said(), "MAIL FROM:<a@a.test> SIZE=23\r\n", "a command at a time");
        client.hear(b"250 ok\r\n");
        client.hear(b"550 no\r\n");
        assert_eq!(client.reports[0].tls, Some(info()));
    }
}

#[test]
fn after_tls_helo_will_do_and_starttls_is_not_said_again() {
    let mut client = handshaking(ClientTls::Required);
    shake(&mut client);
    client.take_said();
    client.hear(b"502 5.5.1 what?\r\n");
    assert_eq!(client.take_said(), "HELO client.test\r\n");
    client.hear(b"250 mx.test\r\n");
    assert_eq!(client.ready, 1);

    let mut client = handshaking(ClientTls::Required);
    shake(&mut client);
    client.take_said();
    client.hear(PLAIN);
    assert_eq!((client.ready, client.take_said().as_str()), (1, ""));
}

#[test]
fn without_a_wish_for_tls_it_is_not_used() {
    let mut client = client(ClientTls::Off);
    client.hear(GREETING);
    client.hear(PLAIN);
    assert_eq!((client.ready, client.take_said().as_str()), (1, "EHLO client.test\r\n"));
    client.start(&Message::new("<a@a.test>", &["<b@b.test>"], b"1\r\n"));
    client.hear(b"550 no\r\n550 no\r\n503 no\r\n");
    assert_eq!(client.reports[0].tls, None);
}

#[test]
fn where_starttls_is_not_to_be_had_only_the_opportunistic_go_on() {
    let no_ehlo: &[u8] = b"502 5.5.1 what?\r\n";
    for (replies, refused) in [
        (vec![WITHOUT], 0),
        (vec![no_ehlo, b"250 mx.test\r\n"], 0),
        (vec![PLAIN, b"454 4.7.0 not now\r\n"], 1),
        (vec![PLAIN, b"502 5.5.1 what?\r\n"], 1),
        (vec![PLAIN, b"554 5.7.1 no\r\n"], 1),
    ] {
        for tls in [ClientTls::Opportunistic, ClientTls::Required] {
            let mut client = client(tls);
            client.hear(GREETING);
            for reply in &replies {
                client.hear(reply);
            }
            if tls == ClientTls::Opportunistic {
                assert_eq!((client.ready, client.tls_refused), (1, refused));
                assert!(client.session.extensions().starttls == (refused == 1));
                continue;
            }
            assert_eq!(client.ready, 0, "{replies:?}");
            assert_eq!(failure(&client).stage(), Stage::StartTls);
            assert!(failure(&client).is_on_the_way_to_tls());
            let said = client.take_said();
            assert!(!said.contains("MAIL") && !said.contains("RSET"), "{said}");
            if refused == 0 {
                assert_eq!(problem(&client), &TlsProblem::NotOffered);
            } else {
                assert!(failure(&client).reply().is_some());
            }
        }
    }
}

/// What can go wrong at a step.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    Closes,
    Hangs,
    SaysNonsense,
    SaysOtherCode,
    Leaves,
    SaysMore,
    FailsHandshake,
    HasBadCertificate,
}

#[test]
fn every_failure_on_the_way_to_tls_is_known_for_one() {
    let to_starttls =
        [Wrong::Closes, Wrong::Hangs, Wrong::SaysNonsense, Wrong::SaysOtherCode, Wrong::Leaves];
    let to_handshake = [
        Wrong::Closes,
        Wrong::Hangs,
        Wrong::SaysMore,
        Wrong::FailsHandshake,
        Wrong::HasBadCertificate,
    ];
    let rows = to_starttls
        .map(|wrong| (Stage::StartTls, wrong))
        .into_iter()
        .chain(to_handshake.map(|wrong| (Stage::Handshake, wrong)));
    for (stage, wrong) in rows {
        for tls in [ClientTls::Opportunistic, ClientTls::Required] {
            let mut client = client(tls);
            client.hear(GREETING);
            client.hear(PLAIN);
            if stage == Stage::Handshake {
                client.hear(GO);
            }
            client.take_said();
            match wrong {
                Wrong::Closes => client.eof(),
                Wrong::Hangs => client.wait(Duration::from_mins(6)),
                Wrong::SaysNonsense => client.hear(b"\x15\x03\x01\x00\x02\x02\x28\r\n"),
                Wrong::SaysOtherCode => client.hear(b"250 ok\r\n"),
                Wrong::Leaves => client.hear(b"421 4.3.2 bye\r\n"),
                Wrong::SaysMore => client.hear(b"250 more\r\n"),
                Wrong::FailsHandshake | Wrong::HasBadCertificate => {
                    let problem = if matches!(wrong, Wrong::FailsHandshake) {
                        TlsProblem::Handshake("alert".into())
                    } else {
                        TlsProblem::Certificate("expired".into())
                    };
                    client.session.handle_tls_failure(problem);
                    client.drive();
                }
            }
            let failure = failure(&client);
            assert!(failure.is_on_the_way_to_tls(), "{stage} {wrong:?}: {failure:?}");
            assert_eq!(failure.stage(), stage, "{wrong:?}");
            assert_eq!((client.ready, client.take_said().as_str()), (0, ""), "{stage} {wrong:?}");
        }
    }
}

#[test]
fn nothing_that_comes_ahead_of_the_handshake_is_taken() {
    // In the same read as 220, and in one of its own.
    let ahead = [GO, b"250 ok\r\n"].concat();
    let mut client = client(ClientTls::Opportunistic);
    client.hear(GREETING);
    client.hear(PLAIN);
    client.hear(&ahead);
    assert_eq!(problem(&client), &TlsProblem::InputAhead);
    assert_eq!(client.handshakes, 0, "nobody would end one that hangs");
    let mut client = handshaking(ClientTls::Opportunistic);
    client.hear(b"2");
    assert_eq!(problem(&client), &TlsProblem::InputAhead);
    assert_eq!(client.ready, 0);
}

#[test]
fn a_server_that_goes_behind_the_handshake_has_failed_at_tls() {
    let mut client = handshaking(ClientTls::Opportunistic);
    shake(&mut client);
    client.eof();
    assert!(failure(&client).is_on_the_way_to_tls());
    // What comes later is a failure like any other.
    let mut client = handshaking(ClientTls::Opportunistic);
    shake(&mut client);
    client.hear(UNDER_TLS);
    client.eof();
    assert!(!failure(&client).is_on_the_way_to_tls());
}

#[test]
fn giving_up_is_no_failure_of_tls() {
    let mut client = handshaking(ClientTls::Opportunistic);
    client.session.abort();
    client.drive();
    assert!(!failure(&client).is_on_the_way_to_tls());
}

#[test]
fn the_handshake_has_a_deadline_of_its_own() {
    let mut client = handshaking(ClientTls::Required);
    client.wait(Duration::from_secs(59));
    assert!(client.closed.is_none());
    client.wait(Duration::from_secs(1));
    assert_eq!(failure(&client), &SessionFailure::TimedOut { stage: Stage::Handshake });
    // What comes late changes nothing.
    shake(&mut client);
    assert_eq!(client.session.tls(), None);
}

#[test]
fn implicit_tls_comes_before_the_greeting() {
    let mut client = client(ClientTls::Implicit);
    client.drive();
    assert_eq!((client.handshakes, client.take_said().as_str()), (1, ""));
    shake(&mut client);
    assert_eq!(client.session.stage(), Stage::Greeting);
    client.hear(GREETING);
    assert_eq!(client.take_said(), "EHLO client.test\r\n");
    client.hear(PLAIN);
    assert_eq!((client.ready, client.take_said().as_str()), (1, ""), "TLS is there");

    // A greeting in plain text.
    let mut client = self::client(ClientTls::Implicit);
    client.hear(GREETING);
    assert_eq!(problem(&client), &TlsProblem::InputAhead);
}

#[test]
fn replies_may_be_cut_anywhere() {
    let steps: [&[u8]; 4] = [GREETING, PLAIN, GO, UNDER_TLS];
    for step in 0..steps.len() {
        for cut in 1..steps[step].len() {
            let mut client = client(ClientTls::Required);
            for (at, said) in steps.iter().enumerate() {
                if at == 3 {
                    shake(&mut client);
                }
                if at == step {
                    client.hear(&said[..cut]);
                    client.hear(&said[cut..]);
                } else {
                    client.hear(said);
                }
            }
            assert_eq!(client.ready, 1, "{step} cut at {cut}");
            assert_eq!(
                client.take_said(),
                "EHLO client.test\r\nSTARTTLS\r\nEHLO client.test\r\n",
                "{step} cut at {cut}"
            );
        }
    }
}

#[test]
fn words_on_problems_say_what_is_wrong() {
    for (problem, expected) in [
        (TlsProblem::NotOffered, "TLS is required, and STARTTLS is not offered"),
        (TlsProblem::InputAhead, "octets ahead of the TLS handshake"),
        (TlsProblem::Handshake("alert".into()), "TLS handshake failed: alert"),
        (TlsProblem::Certificate("expired".into()), "server certificate not verified: expired"),
    ] {
        let failure = SessionFailure::Tls { stage: Stage::Handshake, problem };
        assert_eq!(failure.to_string(), expected);
    }
}
