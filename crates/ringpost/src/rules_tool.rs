//! `ringpost rules`: which rule a reply matches.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use ringpost_delivery::outcome::{self, Meaning};
use ringpost_delivery::rules::{ReplyRules, RuleFate, RuleStage, Seen};
use ringpost_protocol::reply::{Reply, ReplyDecoder};

use crate::config::{self, SystemFacts, rules::load_rules};

/// A reply that somebody wants to know about.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name of its stage.
    pub stage: &'a str,
    /// The host that says it.
    pub host: &'a str,
    /// The domain of the recipient.
    pub domain: Option<&'a str>,
    /// The reply, in one line.
    pub reply: &'a str,
}

/// Says which rule a reply matches, and what follows.
///
/// # Errors
///
/// The rules cannot be read, or the question makes no sense.
pub fn test(config: &Path, rules: Option<&PathBuf>, question: Question<'_>) -> Result<String> {
    let rules = if let Some(path) = rules {
        load_rules(path).map_err(|problems| {
            let lines = problems
                .iter()
                .map(|problem| format!("{}:{}: {}", path.display(), problem.line, problem.reason));
            anyhow::anyhow!(lines.collect::<Vec<_>>().join("\n"))
        })?
    } else {
        let snapshot = config::load_with_files(config, &SystemFacts::read())?;
        ReplyRules::clone(snapshot.reply_rules())
    };
    answer(&rules, question)
}

/// What the rules say.
fn answer(rules: &ReplyRules, question: Question<'_>) -> Result<String> {
    let stage = RuleStage::from_name(question.stage).with_context(|| {
        let known = RuleStage::ALL.map(RuleStage::as_str).join(", ");
        format!("{:?} is no stage ({known})", question.stage)
    })?;
    let reply = parse(question.reply)?;
    let mut verdict = outcome::reply(stage.stage(), &reply);
    let host = question.host.to_ascii_lowercase();
    let domain = question.domain.map(str::to_ascii_lowercase);
    let seen = Seen { mx_host: &host, domain: domain.as_deref() };
    let before = verdict.meaning;
    let rule = outcome::apply_rules(rules, &seen, &mut verdict);
    let mut out = String::new();
    let words = |meaning| match meaning {
        Meaning::Delivered => "delivered",
        Meaning::Deferred => "deferred",
        Meaning::Bounced => "bounced",
    };
    // Writing to a string cannot fail.
    let Some(rule) = rule else {
        let _ = writeln!(out, "rule: none\noutcome: {} {}", words(before), verdict.reason.status);
        return Ok(out);
    };
    let _ = writeln!(out, "rule: {}", rule.name);
    let _ = writeln!(out, "outcome: {} {}", words(verdict.meaning), verdict.reason.status);
    if rule.action.fate == Some(RuleFate::EndSession) {
        out.push_str("session: over; a session that has served us costs no attempt\n");
    }
    if let Some(time) = verdict.retry_after {
        let _ = writeln!(out, "retry after: {} s", time.as_secs());
    }
    if let Some(back_off) = rule.action.back_off {
        let seconds = back_off.time.as_secs();
        let _ = write!(out, "back off: {} connections for {seconds} s", back_off.connections_max);
        match back_off.deliveries {
            Some(count) => {
                let _ = writeln!(out, ", or {count} deliveries");
            }
            None => out.push('\n'),
        }
    }
    if let Some(time) = rule.action.skip_host {
        let _ = writeln!(out, "skip host: {} s", time.as_secs());
    }
    Ok(out)
}

fn parse(text: &str) -> Result<Reply> {
    let line = format!("{}\r\n", text.trim());
    match ReplyDecoder::new().decode(line.as_bytes()) {
        Ok((_, Some(reply))) => Ok(reply),
        _ => bail!("{text:?} is not a reply in one line, such as \"451 4.7.1 greylisted\""),
    }
}
