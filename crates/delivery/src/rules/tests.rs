use std::borrow::Cow;

use proptest::prelude::*;
use ringpost_protocol::reply::{Reply, ReplyCode};

use super::*;
use crate::outcome::{self, Meaning};

fn said(text: &str) -> Reply {
    let code = ReplyCode::new(text[..3].parse().unwrap()).unwrap();
    let text = text[3..].trim_start();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    match EnhancedStatusCode::parse(first) {
        Ok(enhanced) => Reply::new(code, Some(enhanced), rest),
        Err(_) => Reply::new(code, None, text),
    }
}

fn rule(name: &str) -> ReplyRule {
    ReplyRule {
        name: name.into(),
        stages: Vec::new(),
        codes: Vec::new(),
        enhanced: Vec::new(),
        texts: Vec::new(),
        hosts: Vec::new(),
        domains: Vec::new(),
        action: RuleAction { fate: Some(RuleFate::Defer), ..RuleAction::default() },
    }
}

fn codes(list: &[&str]) -> Vec<CodePattern> {
    list.iter().map(|text| CodePattern::parse(text).unwrap()).collect()
}

fn found(rule: &ReplyRule, stage: Stage, reply: &str, host: &str, domain: Option<&str>) -> bool {
    let rules = ReplyRules { rules: vec![rule.clone()] };
    let verdict = outcome::reply(stage, &said(reply));
    rules.find(&Seen { mx_host: host, domain }, &verdict.reason).is_some()
}

#[test]
fn patterns_match_what_they_say() {
    for (pattern, yes, no) in [
        ("421", &[421][..], &[420, 521, 450][..]),
        ("4xx", &[400, 421, 499], &[550, 250, 354]),
        ("55x", &[550, 559], &[540, 450]),
        ("5x4", &[504, 554], &[550]),
    ] {
        let parsed = CodePattern::parse(pattern).unwrap();
        assert!(yes.iter().all(|code| parsed.matches(*code)), "{pattern}");
        assert!(!no.iter().any(|code| parsed.matches(*code)), "{pattern}");
    }
    for bad in ["", "2xx", "250", "xxx", "42", "4211", "4yx", "354"] {
        assert_eq!(CodePattern::parse(bad), None, "{bad}");
    }
    let code = |text: &str| EnhancedStatusCode::parse(text).unwrap();
    for (pattern, yes, no) in
        [("4.7.1", "4.7.1", "4.7.10"), ("4.7.x", "4.7.650", "5.7.1"), ("5.x.x", "5.1.1", "4.1.1")]
    {
        let parsed = EnhancedPattern::parse(pattern).unwrap();
        assert!(parsed.matches(code(yes)) && !parsed.matches(code(no)), "{pattern}");
    }
    for bad in ["", "4", "4.7", "2.0.0", "x.7.1", "4.7.1.1", "4.7.1000", "4.+7.1", "4..1"] {
        assert_eq!(EnhancedPattern::parse(bad), None, "{bad}");
    }
    for (pattern, yes, no) in [
        ("Rate Limit", "too fast: rate limit exceeded", "rate  limit"),
        ("too*messages", "too many messages", "messages too"),
        ("ab*ab", "xabab", "xab"),
        ("*x*", "ax", "a"),
    ] {
        let parsed = TextPattern::parse(pattern).unwrap();
        assert!(parsed.matches(yes) && !parsed.matches(no), "{pattern}");
    }
    assert!(TextPattern::parse("").is_none() && TextPattern::parse("**").is_none());
    for (pattern, yes, no) in [
        ("MX.a.test", "mx.a.test", "x.mx.a.test"),
        ("*.a.test", "mx.a.test", "a.test"),
        ("*.a.test", "x.y.a.test", "ba.test"),
    ] {
        let parsed = NamePattern::parse(pattern).unwrap();
        assert!(parsed.matches(yes) && !parsed.matches(no), "{pattern}");
    }
    for bad in ["", "*", "*.", "a*b", "a b", ".a"] {
        assert_eq!(NamePattern::parse(bad), None, "{bad}");
    }
}

#[test]
fn each_stage_is_matched_where_it_is() {
    let stages = [
        (RuleStage::Connect, &[Stage::Connect][..]),
        (RuleStage::Greeting, &[Stage::Greeting]),
        (RuleStage::Ehlo, &[Stage::Ehlo]),
        (RuleStage::Tls, &[Stage::StartTls, Stage::Handshake]),
        (RuleStage::Auth, &[Stage::Auth]),
        (RuleStage::Mail, &[Stage::Mail, Stage::Idle]),
        (RuleStage::Rcpt, &[Stage::Rcpt]),
        (RuleStage::Data, &[Stage::Data, Stage::Content]),
        (RuleStage::Final, &[Stage::FinalReply]),
    ];
    for (wanted, own) in stages {
        let rule = ReplyRule { stages: vec![wanted], ..rule("r") };
        for (other, theirs) in stages {
            for stage in theirs {
                let is_found = found(&rule, *stage, "450 4.2.0 later", "mx.test", None);
                assert_eq!(is_found, own.contains(stage), "{wanted:?} at {other:?}");
            }
        }
        assert_eq!(RuleStage::from_name(wanted.as_str()), Some(wanted));
        assert!(own.contains(&wanted.stage()));
    }
}

#[test]
fn every_part_of_a_rule_has_to_match() {
    let whole = ReplyRule {
        stages: vec![RuleStage::Rcpt, RuleStage::Mail],
        codes: codes(&["421", "45x"]),
        enhanced: vec![EnhancedPattern::parse("4.7.x").unwrap()],
        texts: vec![TextPattern::parse("rate").unwrap()],
        hosts: vec![NamePattern::parse("*.a.test").unwrap()],
        domains: vec![NamePattern::parse("b.test").unwrap()],
        ..rule("r")
    };
    let reply = "450 4.7.28 Unusual RATE";
    assert!(found(&whole, Stage::Rcpt, reply, "mx.a.test", Some("b.test")));
    for (stage, reply, host, domain) in [
        (Stage::Data, reply, "mx.a.test", Some("b.test")),
        (Stage::Rcpt, "430 4.7.28 rate", "mx.a.test", Some("b.test")),
        (Stage::Rcpt, "450 4.2.1 rate", "mx.a.test", Some("b.test")),
        (Stage::Rcpt, "450 rate", "mx.a.test", Some("b.test")),
        (Stage::Rcpt, "450 4.7.28 speed", "mx.a.test", Some("b.test")),
        (Stage::Rcpt, reply, "mx.c.test", Some("b.test")),
        (Stage::Rcpt, reply, "mx.a.test", Some("c.test")),
        (Stage::Rcpt, reply, "mx.a.test", None),
    ] {
        assert!(!found(&whole, stage, reply, host, domain), "{stage} {reply} {host} {domain:?}");
    }
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = ReplyRules {
        rules: vec![
            ReplyRule { codes: codes(&["421"]), ..rule("first") },
            ReplyRule { codes: codes(&["4xx"]), ..rule("second") },
            ReplyRule { codes: codes(&["4xx"]), ..rule("third") },
        ],
    };
    let name = |reply: &str| {
        let verdict = outcome::reply(Stage::Rcpt, &said(reply));
        rules.find(&Seen::default(), &verdict.reason).map(|rule| rule.name.to_string())
    };
    assert_eq!(name("421 4.3.2 x").as_deref(), Some("first"));
    assert_eq!(name("450 4.2.0 x").as_deref(), Some("second"));
    assert_eq!(name("550 5.1.1 x"), None);
}

#[test]
fn only_words_of_a_host_bounce_and_421_only_where_it_is_meant() {
    let bounce = |list: &[&str]| ReplyRule {
        codes: codes(list),
        action: RuleAction { fate: Some(RuleFate::Bounce), ..RuleAction::default() },
        ..rule("bounce")
    };
    let found = |rule: &ReplyRule, stage, reply: &str| found(rule, stage, reply, "mx.test", None);
    assert!(found(&bounce(&["4xx"]), Stage::Rcpt, "450 4.2.0 x"));
    assert!(!found(&bounce(&["4xx"]), Stage::Rcpt, "421 4.3.2 x"));
    assert!(!found(&bounce(&["42x"]), Stage::Rcpt, "421 4.3.2 x"));
    assert!(!found(&bounce(&[]), Stage::Rcpt, "421 4.3.2 x"));
    assert!(found(&bounce(&["421"]), Stage::Rcpt, "421 4.3.2 x"));
    for stage in [Stage::Connect, Stage::StartTls, Stage::Handshake, Stage::Auth] {
        assert!(!found(&bounce(&["4xx"]), stage, "450 4.2.0 x"), "{stage}");
    }
    // Without a reply there is only our word.
    let rules = ReplyRules {
        rules: vec![ReplyRule {
            texts: vec![TextPattern::parse("closed").unwrap()],
            ..bounce(&[])
        }],
    };
    let failure = ringpost_session::client::SessionFailure::Closed { stage: Stage::Rcpt };
    let verdict = outcome::session_failure(&failure);
    assert!(rules.find(&Seen::default(), &verdict.reason).is_none());
    let defers = ReplyRules {
        rules: vec![ReplyRule { texts: vec![TextPattern::parse("closed").unwrap()], ..rule("d") }],
    };
    assert!(defers.find(&Seen::default(), &verdict.reason).is_some());
}

fn any_rule() -> impl Strategy<Value = ReplyRule> {
    let fate = proptest::option::of(prop_oneof![
        Just(RuleFate::Defer),
        Just(RuleFate::Bounce),
        Just(RuleFate::EndSession)
    ]);
    let seconds = proptest::option::of(1_u64..100_000);
    let code = proptest::option::of(prop_oneof![
        Just("421"),
        Just("4xx"),
        Just("5xx"),
        Just("45x"),
        Just("550")
    ]);
    (fate, seconds, code).prop_map(|(fate, seconds, code)| ReplyRule {
        codes: code.into_iter().filter_map(CodePattern::parse).collect(),
        action: RuleAction {
            fate,
            retry_after: seconds.map(Duration::from_secs),
            ..RuleAction::default()
        },
        ..rule("any")
    })
}

proptest! {
    /// Whatever rules say: what was delivered is delivered, what is unknown is tried again, and what they
    /// give up a host has refused.
    #[test]
    fn no_rule_loses_mail(
        list in proptest::collection::vec(any_rule(), 0..5),
        code in 200_u16..600,
        place in 0_usize..9,
    ) {
        let rules = ReplyRules { rules: list };
        let stage = RuleStage::ALL[place].stage();
        let Some(code) = ReplyCode::new(code) else { return Ok(()) };
        let before = outcome::reply(stage, &Reply::new(code, None, "x"));
        let mut after = before.clone();
        let rule = outcome::apply_rules(&rules, &Seen::default(), &mut after);
        let is_negative = matches!(code.as_u16(), 400..600);
        if !is_negative {
            prop_assert!(rule.is_none());
            prop_assert_eq!(&before, &after);
        }
        if before.meaning == Meaning::Delivered {
            prop_assert_eq!(after.meaning, Meaning::Delivered);
        } else {
            prop_assert_ne!(after.meaning, Meaning::Delivered);
        }
        if after.meaning == Meaning::Bounced {
            prop_assert!(is_negative && !after.reason.outcome_unknown);
            prop_assert_eq!(after.reason.status.class(), 5);
            prop_assert_eq!(after.retry_after, None);
        } else if rule.is_some() {
            prop_assert_eq!(after.reason.status.class(), 4);
        }
        prop_assert_eq!(rule.map(|rule| &rule.name), after.reason.rule.as_ref());
    }
}

#[test]
fn our_own_words_are_matched_where_there_is_no_reply() {
    let reason = Reason {
        status: EnhancedStatusCode::new(4, 4, 1),
        stage: Some(Stage::Connect),
        reply: None,
        text: Cow::Borrowed("connection refused"),
        outcome_unknown: false,
        rule: None,
    };
    let of = |rule| ReplyRules { rules: vec![rule] };
    let texts = vec![TextPattern::parse("Refused").unwrap()];
    let wanted = ReplyRule { texts, stages: vec![RuleStage::Connect], ..rule("r") };
    assert!(of(wanted.clone()).find(&Seen::default(), &reason).is_some());
    let with_code = ReplyRule { codes: codes(&["4xx"]), ..wanted };
    assert!(of(with_code).find(&Seen::default(), &reason).is_none());
    let nowhere = Reason { stage: None, ..reason };
    assert!(of(rule("r")).find(&Seen::default(), &nowhere).is_none(), "no host had a part in it");
}
