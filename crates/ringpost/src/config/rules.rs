//! The file of rules on replies (`delivery.rules`).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ringpost_delivery::rules::{
    BackOff, CodePattern, EnhancedPattern, NamePattern, ReplyRule, ReplyRules, RuleAction,
    RuleFate, RuleStage, TextPattern,
};
use serde::Deserialize;
use serde::de::Deserializer;

use super::{Problem, line_at, units};

/// Rules in one file.
const RULES_MAX: usize = 1000;
/// Octets of a file of rules.
const FILE_SIZE_MAX: u64 = 1 << 20;
/// The longest time that a rule may ask for: a mistake in a rule is not to hold mail for longer.
const TIME_MAX: Duration = Duration::from_hours(24);
/// Anything shorter would be a busy loop.
const TIME_MIN: Duration = Duration::from_secs(1);

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RulesFile {
    rule: Vec<toml::Spanned<RuleSection>>,
}

/// `[[rule]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleSection {
    name: String,
    #[serde(default, deserialize_with = "list")]
    stage: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    code: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    enhanced: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    text: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    host: Vec<String>,
    #[serde(default, deserialize_with = "list")]
    domain: Vec<String>,
    action: Option<ActionName>,
    #[serde(default, deserialize_with = "units::optional_duration")]
    retry_after: Option<Duration>,
    back_off: Option<BackOffSection>,
    #[serde(default, deserialize_with = "units::optional_duration")]
    skip_host: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionName {
    Defer,
    Bounce,
    EndSession,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackOffSection {
    connections_max: usize,
    #[serde(deserialize_with = "units::duration")]
    time: Duration,
    deliveries: Option<u32>,
}

/// Reads one word, or a list of them.
fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text, or a list of texts")]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }

    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}

/// Reads a file of rules.
///
/// # Errors
///
/// What is wrong with it, each with its line; line 0 when it cannot be read.
pub fn load_rules(path: &Path) -> Result<ReplyRules, Vec<Problem>> {
    let unreadable = |reason: String| vec![Problem { line: 0, reason }];
    let size = std::fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if size > FILE_SIZE_MAX {
        return Err(unreadable(format!("larger than {}", units::display_size(FILE_SIZE_MAX))));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    parse_rules(&text)
}

/// Reads the text of a file of rules.
///
/// # Errors
///
/// What is wrong with it, each with its line; never empty.
pub fn parse_rules(text: &str) -> Result<ReplyRules, Vec<Problem>> {
    let file: RulesFile = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        vec![Problem { line, reason: error.message().replace('\n', " ") }]
    })?;
    let mut problems = Vec::new();
    let mut rules: Vec<ReplyRule> = Vec::new();
    if file.rule.len() > RULES_MAX {
        problems.push(Problem { line: 1, reason: format!("more than {RULES_MAX} rules") });
    }
    for section in file.rule {
        let line = line_at(text, section.span().start);
        let mut wrong = Vec::new();
        let rule = section.into_inner().rule(&mut wrong);
        if rules.iter().any(|before| before.name == rule.name) {
            wrong.push("a second rule of this name".to_owned());
        }
        let problem = |reason| Problem { line, reason: format!("rule {:?}: {reason}", rule.name) };
        problems.extend(wrong.into_iter().map(problem));
        rules.push(rule);
    }
    if problems.is_empty() { Ok(ReplyRules { rules }) } else { Err(problems) }
}

impl RuleSection {
    fn rule(self, wrong: &mut Vec<String>) -> ReplyRule {
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            wrong.push("name: must not be empty, and have no control characters".to_owned());
        }
        let action = self.action(wrong);
        let stages = RuleStage::ALL.map(RuleStage::as_str).join(", ");
        let rule = ReplyRule {
            name: Arc::from(&*self.name),
            stages: each(wrong, "stage", &self.stage, &stages, RuleStage::from_name),
            codes: each(wrong, "code", &self.code, "\"421\", \"4xx\", \"55x\"", CodePattern::parse),
            enhanced: each(
                wrong,
                "enhanced",
                &self.enhanced,
                "\"4.7.1\", \"4.7.x\"",
                EnhancedPattern::parse,
            ),
            texts: each(
                wrong,
                "text",
                &self.text,
                "words, with * between them",
                TextPattern::parse,
            ),
            hosts: each(wrong, "host", &self.host, "\"mx.a.example\", \"*.a.example\"", |name| {
                NamePattern::parse(name)
            }),
            domains: each(
                wrong,
                "domain",
                &self.domain,
                "\"a.example\", \"*.a.example\"",
                NamePattern::parse,
            ),
            action,
        };
        let is_about_all = [&self.stage, &self.code, &self.enhanced, &self.text]
            .iter()
            .all(|list| list.is_empty());
        if is_about_all {
            wrong.push(
                "says nothing of stage, code, enhanced or text: it is for everything".to_owned(),
            );
        }
        if rule.action.fate == Some(RuleFate::Bounce) {
            if [&self.code, &self.enhanced, &self.text].iter().all(|list| list.is_empty()) {
                wrong.push("bounces whatever is said: name a code, enhanced or text".to_owned());
            }
            if let Some(stage) = rule.stages.iter().find(|stage| !stage.may_bounce()) {
                let reason = format!("nothing bounces for what happens at {}", stage.as_str());
                wrong.push(reason);
            }
        }
        rule
    }

    fn action(&self, wrong: &mut Vec<String>) -> RuleAction {
        let mut within = |key: &str, time: Duration| {
            if !(TIME_MIN..=TIME_MAX).contains(&time) {
                wrong.push(format!("{key}: must be from 1s to 1d"));
            }
        };
        if let Some(time) = self.retry_after {
            within("retry_after", time);
        }
        if let Some(time) = self.skip_host {
            within("skip_host", time);
        }
        if let Some(back_off) = self.back_off {
            within("back_off.time", back_off.time);
            if back_off.deliveries == Some(0) {
                wrong.push("back_off.deliveries: must not be zero".to_owned());
            }
            if back_off.connections_max == 0 && back_off.deliveries.is_some() {
                wrong.push("back_off.deliveries: there are none without a connection".to_owned());
            }
        }
        let fate = self.action.map(|action| match action {
            ActionName::Defer => RuleFate::Defer,
            ActionName::Bounce => RuleFate::Bounce,
            ActionName::EndSession => RuleFate::EndSession,
        });
        if fate == Some(RuleFate::Bounce) && self.retry_after.is_some() {
            wrong.push("retry_after: what bounces is not tried again".to_owned());
        }
        let back_off = self.back_off.map(|section| {
            let BackOffSection { connections_max, time, deliveries } = section;
            BackOff { connections_max, time, deliveries }
        });
        let action =
            RuleAction { fate, retry_after: self.retry_after, back_off, skip_host: self.skip_host };
        if action == RuleAction::default() {
            let known = "action, retry_after, back_off or skip_host";
            wrong.push(format!("nothing follows from it: name {known}"));
        }
        action
    }
}

fn each<T>(
    wrong: &mut Vec<String>,
    key: &str,
    texts: &[String],
    examples: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for text in texts {
        match parse(text) {
            Some(pattern) => found.push(pattern),
            None => wrong.push(format!("{key}: {text:?} is not one (such as {examples})")),
        }
    }
    found
}
