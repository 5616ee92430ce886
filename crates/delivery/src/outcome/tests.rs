//! The policy as tables: what happened, what it means.

use ringpost_protocol::reply::ReplyCode;
use ringpost_session::client::{AuthProblem, ProtocolViolation, Verdict as Said};

use super::*;

/// A reply from `550 5.1.1 text`, `550 text` or `550`.
fn said(text: &str) -> Reply {
    let code = ReplyCode::new(text[..3].parse().unwrap()).unwrap();
    let rest = text[3..].trim_start();
    let (first, others) = rest.split_once(' ').unwrap_or((rest, ""));
    match EnhancedStatusCode::parse(first) {
        Ok(enhanced) => Reply::new(code, Some(enhanced), others),
        Err(_) => Reply::new(code, None, rest),
    }
}

fn words(verdict: &Verdict) -> String {
    let meaning = match verdict.meaning {
        Meaning::Delivered => "delivered",
        Meaning::Deferred => "deferred",
        Meaning::Bounced => "bounced",
    };
    let unknown = if verdict.reason.outcome_unknown { " unknown" } else { "" };
    format!("{meaning} {}{unknown}", verdict.reason.status)
}

#[test]
fn replies() {
    use Stage::{Content, Data, Ehlo, FinalReply, Greeting, Idle, Mail, Rcpt, StartTls};
    let rows = [
        // A host may have TLS another time.
        (StartTls, "454 4.7.0 not now", "deferred 4.7.0"),
        (StartTls, "454 not now", "deferred 4.7.0"),
        (StartTls, "502 what?", "deferred 4.7.4"),
        (StartTls, "554 5.7.1 no", "deferred 4.7.4"),
        (StartTls, "421 4.3.2 bye", "deferred 4.3.2"),
        (FinalReply, "250", "delivered 2.0.0"),
        (FinalReply, "250 2.6.0 queued", "delivered 2.6.0"),
        (FinalReply, "251 will forward", "delivered 2.0.0"),
        (FinalReply, "299 odd but positive", "delivered 2.0.0"),
        // R4, R5: the remote's word on a recipient or a message.
        (Rcpt, "550 5.1.1 nobody", "bounced 5.1.1"),
        (Rcpt, "550 nobody", "bounced 5.1.1"),
        (Rcpt, "553 bad name", "bounced 5.0.0"),
        (Rcpt, "450 4.2.0 greylisted", "deferred 4.2.0"),
        (Rcpt, "450 busy", "deferred 4.1.1"),
        (Rcpt, "452 4.5.3 too many", "deferred 4.5.3"),
        (Mail, "550 5.7.1 not you", "bounced 5.7.1"),
        (Mail, "451 4.3.0 later", "deferred 4.3.0"),
        (Mail, "552 too big", "bounced 5.3.4"),
        (Mail, "503 sequence", "bounced 5.5.0"),
        (Data, "554 no valid recipients", "bounced 5.0.0"),
        (Data, "451 later", "deferred 4.0.0"),
        (Content, "554 5.6.0 no", "bounced 5.6.0"),
        (FinalReply, "554 5.7.1 spam", "bounced 5.7.1"),
        (FinalReply, "451 4.7.1 try again", "deferred 4.7.1"),
        // R2: never a bounce.
        (Mail, "421 4.3.2 closing", "deferred 4.3.2"),
        (Rcpt, "421", "deferred 4.3.2"),
        (FinalReply, "421 closing", "deferred 4.3.2"),
        // An enhanced code of another class than the reply's does not count.
        (Rcpt, "550 4.1.1 confused", "bounced 5.1.1"),
        (Rcpt, "450 5.1.1 confused", "deferred 4.1.1"),
        (FinalReply, "250 5.0.0 confused", "delivered 2.0.0"),
        // RFC 5321 section 4.5.3.1.10.
        (Rcpt, "552 too many recipients", "deferred 4.5.3"),
        (Rcpt, "552 5.5.3 too many recipients", "deferred 4.5.3"),
        (Rcpt, "552 5.2.2 mailbox full", "bounced 5.2.2"),
        // R3: a refused session is decided over all hosts, not here.
        (Greeting, "554 5.7.1 no", "deferred 4.0.0"),
        (Ehlo, "550 5.7.1 no", "deferred 4.0.0"),
        (Idle, "500 RSET?", "deferred 4.5.0"),
        // Success where none can be.
        (Rcpt, "250 ok", "deferred 4.5.0"),
        (Mail, "250 ok", "deferred 4.5.0"),
        (Data, "354 go", "deferred 4.5.0"),
        (FinalReply, "354 go", "deferred 4.5.0 unknown"),
    ];
    for (stage, text, expected) in rows {
        assert_eq!(words(&reply(stage, &said(text))), expected, "{text} at {stage}");
    }
}

#[test]
fn broken_sessions() {
    let protocol = |stage| SessionFailure::Protocol {
        stage,
        violation: ProtocolViolation::UnexpectedReply(said("250 twice")),
    };
    let tls = |problem| SessionFailure::Tls { stage: Stage::Handshake, problem };
    let auth = |problem| SessionFailure::Auth { problem };
    let login = |text| SessionFailure::Reply { stage: Stage::Auth, reply: said(text) };
    let rows = [
        (tls(TlsProblem::NotOffered), "deferred 4.7.4"),
        (tls(TlsProblem::InputAhead), "deferred 4.7.5"),
        (tls(TlsProblem::Handshake("alert".into())), "deferred 4.7.5"),
        (tls(TlsProblem::Certificate("expired".into())), "deferred 4.7.5"),
        (auth(AuthProblem::NotOffered), "deferred 4.7.4"),
        (auth(AuthProblem::NoMechanism), "deferred 4.7.4"),
        (auth(AuthProblem::NeedsTls), "deferred 4.7.11"),
        (auth(AuthProblem::Challenge), "deferred 4.7.0"),
        (auth(AuthProblem::Iterations(1)), "deferred 4.7.0"),
        (auth(AuthProblem::NotProven), "deferred 4.7.0"),
        (auth(AuthProblem::Refused("invalid-proof".into())), "deferred 4.7.8"),
        (auth(AuthProblem::Unavailable), "deferred 4.3.0"),
        (login("535 5.7.8 no"), "deferred 4.7.8"),
        (login("535 no"), "deferred 4.7.8"),
        (login("534 5.7.9 too weak"), "deferred 4.7.9"),
        (login("538 5.7.11 not without TLS"), "deferred 4.7.11"),
        (login("550 5.7.1 no"), "deferred 4.7.8"),
        (login("504 5.5.4 no such mechanism"), "deferred 4.7.4"),
        (login("500 what"), "deferred 4.7.4"),
        (login("454 4.7.0 not now"), "deferred 4.7.0"),
        (login("432 4.7.12 password transition"), "deferred 4.7.12"),
        (login("421 4.3.2 bye"), "deferred 4.3.2"),
        (login("450 no"), "deferred 4.7.0"),
        (SessionFailure::TimedOut { stage: Stage::Auth }, "deferred 4.4.2"),
        (protocol(Stage::Auth), "deferred 4.5.0"),
        (SessionFailure::Closed { stage: Stage::Mail }, "deferred 4.4.2"),
        (SessionFailure::Closed { stage: Stage::Content }, "deferred 4.4.2"),
        (SessionFailure::Closed { stage: Stage::FinalReply }, "deferred 4.4.2 unknown"),
        (SessionFailure::TimedOut { stage: Stage::Rcpt }, "deferred 4.4.2"),
        (SessionFailure::TimedOut { stage: Stage::FinalReply }, "deferred 4.4.2 unknown"),
        (protocol(Stage::Rcpt), "deferred 4.5.0"),
        (protocol(Stage::FinalReply), "deferred 4.5.0 unknown"),
        (SessionFailure::Aborted { stage: Stage::Content }, "deferred 4.3.2"),
        (SessionFailure::Aborted { stage: Stage::FinalReply }, "deferred 4.3.2 unknown"),
        (
            SessionFailure::Reply { stage: Stage::FinalReply, reply: said("421 4.3.2 bye") },
            "deferred 4.3.2",
        ),
    ];
    for (failure, expected) in rows {
        assert_eq!(words(&session_failure(&failure)), expected, "{failure}");
    }
}

#[test]
fn missing_ways_and_answers() {
    let rows = [
        (unroutable(Unroutable::NoName), "bounced 5.1.2"),
        (unroutable(Unroutable::NullMx), "bounced 5.1.10"),
        (unroutable(Unroutable::Loop), "bounced 5.4.6"),
        (unroutable(Unroutable::NoUsableHost), "bounced 5.4.4"),
        (unroutable(Unroutable::NoAddress), "bounced 5.4.4"),
        (unroutable(Unroutable::AddressRefused), "bounced 5.4.4"),
        (unroutable(Unroutable::SmarthostUnknown), "deferred 4.4.4"),
        (dns_failure(DnsFailure::TimedOut), "deferred 4.4.3"),
        (dns_failure(DnsFailure::ServerFailure), "deferred 4.4.3"),
        (dns_failure(DnsFailure::Refused), "deferred 4.4.3"),
        (dns_failure(DnsFailure::Malformed), "deferred 4.4.3"),
        (dns_failure(DnsFailure::AliasLoop), "deferred 4.4.3"),
        (dns_failure(DnsFailure::NoServer), "deferred 4.4.3"),
        (refusal(LocalRefusal::TooLarge), "bounced 5.3.4"),
        (refusal(LocalRefusal::NeedsEightBitMime), "bounced 5.6.3"),
        // Who is verified is believed; what is not verified may be otherwise another time.
        (refusal(LocalRefusal::NeedsRequireTls), "bounced 5.7.30"),
        (refusal(LocalRefusal::TooManyRecipients), "deferred 4.5.3"),
        (refusal(LocalRefusal::NeedsTls), "deferred 4.7.10"),
        (job_failure(), "deferred 4.3.0"),
    ];
    for (verdict, expected) in rows {
        assert_eq!(words(&verdict), expected, "{}", verdict.reason);
        assert!(!verdict.reason.text.is_empty());
    }
}

#[test]
fn failed_openings() {
    let auth = |problem| SessionFailure::Auth { problem };
    // Failure, status, whether it is a refusal for good, whether it is our own.
    let rows = [
        (connect_failure(ConnectFailure::TimedOut), "4.4.1", false, false),
        (connect_failure(ConnectFailure::Refused), "4.4.1", false, false),
        (connect_failure(ConnectFailure::Unreachable), "4.4.1", false, false),
        (connect_failure(ConnectFailure::Failed), "4.4.1", false, false),
        (connect_failure(ConnectFailure::LocalResource), "4.3.0", false, true),
        (
            opening_failure(&SessionFailure::Reply {
                stage: Stage::Greeting,
                reply: said("554 5.7.1 no"),
            }),
            "4.0.0",
            true,
            false,
        ),
        (
            opening_failure(&SessionFailure::Reply {
                stage: Stage::Greeting,
                reply: said("421 4.7.0 busy"),
            }),
            "4.7.0",
            false,
            false,
        ),
        (opening_failure(&SessionFailure::Closed { stage: Stage::Ehlo }), "4.4.2", false, false),
        (
            opening_failure(&SessionFailure::Reply {
                stage: Stage::Auth,
                reply: said("535 5.7.8 no"),
            }),
            "4.7.8",
            false,
            false,
        ),
        (opening_failure(&auth(AuthProblem::NotProven)), "4.7.0", false, false),
        (opening_failure(&auth(AuthProblem::Unavailable)), "4.3.0", false, true),
    ];
    for (failure, status, refused, local) in rows {
        let found = (failure.reason.status.to_string(), failure.refused, failure.local);
        assert_eq!(found, (status.to_owned(), refused, local), "{}", failure.reason);
    }
}

#[test]
fn the_class_of_a_status_follows_the_meaning() {
    let refused = SessionFailure::Reply { stage: Stage::Greeting, reply: said("554 5.7.1 no") };
    let reason = opening_failure(&refused).reason;
    assert_eq!(with_class_of(Meaning::Bounced, &reason).status.to_string(), "5.7.1");
    assert_eq!(with_class_of(Meaning::Deferred, &reason).status.to_string(), "4.7.1");
}

#[test]
fn what_may_go_back_untried() {
    let closed = |stage| SessionFailure::Closed { stage };
    let replied = |stage, text| SessionFailure::Reply { stage, reply: said(text) };
    let aborted = |stage| SessionFailure::Aborted { stage };
    // Failure, was anything answered, was the session used before, may it go back.
    let rows = [
        (closed(Stage::Mail), false, true, true),
        (closed(Stage::Mail), false, false, false),
        (closed(Stage::Mail), true, true, false),
        (closed(Stage::Rcpt), true, true, false),
        (closed(Stage::FinalReply), true, true, false),
        (replied(Stage::Mail, "421 4.7.0 enough"), true, true, true),
        (replied(Stage::Mail, "421 4.7.0 enough"), true, false, false),
        (replied(Stage::Rcpt, "421 4.7.0 enough"), true, true, false),
        (replied(Stage::FinalReply, "421 4.7.0 enough"), true, true, false),
        (aborted(Stage::Content), true, false, true),
        (aborted(Stage::FinalReply), true, true, false),
    ];
    for (failure, is_answered, was_used, expected) in rows {
        let of_one =
            RecipientReport { stage: failure.stage(), verdict: Said::Failed(failure.clone()) };
        let report = TransactionReport {
            recipients: vec![of_one.clone()],
            is_answered,
            session_usable: false,
            dsn_offered: false,
            deliver_by_offered: false,
            tls: None,
        };
        let found = may_go_back(&report, &of_one, was_used);
        assert_eq!(found, expected, "{failure}, answered {is_answered}, used {was_used}");
    }
    let refused =
        RecipientReport { stage: Stage::Rcpt, verdict: Said::Reply(said("550 5.1.1 nobody")) };
    let report = TransactionReport {
        recipients: vec![refused.clone()],
        is_answered: false,
        session_usable: false,
        dsn_offered: false,
        deliver_by_offered: false,
        tls: None,
    };
    assert!(!may_go_back(&report, &refused, true), "a reply is a reply");
}

#[test]
fn a_report_that_is_too_short_defers_the_rest() {
    let of_one = RecipientReport { stage: Stage::FinalReply, verdict: Said::Reply(said("250")) };
    let report = TransactionReport {
        recipients: vec![of_one.clone(), of_one],
        is_answered: true,
        session_usable: true,
        dsn_offered: false,
        deliver_by_offered: false,
        tls: None,
    };
    let found: Vec<String> = transaction(&report, 3).iter().map(words).collect();
    assert_eq!(found, ["delivered 2.0.0", "delivered 2.0.0", "deferred 4.3.0"]);
    assert_eq!(transaction(&report, 1).len(), 1);
}
