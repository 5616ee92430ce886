//! What operators know of the replies of certain receivers, as rules.
//!
//! Rules are an input of [`outcome`](crate::outcome): what was not delivered is shown to them, and the first
//! that matches may change what becomes of it. None is asked about what was delivered, and none can make
//! a failure a delivery.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use ringpost_protocol::reply::Reply;
use ringpost_protocol::status::EnhancedStatusCode;
use ringpost_session::client::Stage;

use crate::attempt::Reason;

/// The rules of a configuration, in order: the first that matches decides. Default: none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReplyRules {
    /// In order.
    pub rules: Vec<ReplyRule>,
}

/// A rule. Of each list one has to match; an empty one matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyRule {
    /// For records and logs.
    pub name: Arc<str>,
    /// Where in the session.
    pub stages: Vec<RuleStage>,
    /// Codes of replies. With any, failures without a reply do not match.
    pub codes: Vec<CodePattern>,
    /// Enhanced codes that the reply itself has.
    pub enhanced: Vec<EnhancedPattern>,
    /// Text of the reply; of failures without one, our words.
    pub texts: Vec<TextPattern>,
    /// Hosts spoken to.
    pub hosts: Vec<NamePattern>,
    /// Domains of recipients. With any, what is about no recipient does not match.
    pub domains: Vec<NamePattern>,
    /// What follows.
    pub action: RuleAction,
}

/// What follows from a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleAction {
    /// What becomes of the recipients; `None` leaves it as it is.
    pub fate: Option<RuleFate>,
    /// When deferred recipients are tried again, in place of their schedule; before a transaction, when the
    /// site is.
    pub retry_after: Option<Duration>,
    /// How the site is spared for a while.
    pub back_off: Option<BackOff>,
    /// How long no connection is made to the host.
    pub skip_host: Option<Duration>,
}

/// What becomes of recipients by a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleFate {
    /// They are tried again, even after 5xx.
    Defer,
    /// They are given up, even after 4xx. Only replies can do that, and 421 only where a rule names it.
    Bounce,
    /// The session is over and its mail goes on over another one, at once and without an attempt counted, if
    /// the session has served us before. A fresh one that says this refuses.
    EndSession,
}

/// How a site is spared for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackOff {
    /// Connections from one shard meanwhile; 0: none, all mail waits.
    pub connections_max: usize,
    /// How long at most.
    pub time: Duration,
    /// Messages that the site has to take for it to end earlier; `None`: it does not.
    pub deliveries: Option<u32>,
}

/// A place in a session, as rules name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleStage {
    /// Making the connection.
    Connect,
    /// The greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Ehlo,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL, and between transactions.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, and the content.
    Data,
    /// Behind the final dot.
    Final,
}

impl RuleStage {
    /// Every stage, in their order.
    pub const ALL: [Self; 9] = [
        Self::Connect,
        Self::Greeting,
        Self::Ehlo,
        Self::Tls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Final,
    ];

    /// The name in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Final => "final",
        }
    }

    /// The stage of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.as_str() == name)
    }

    /// The first of the stages of a session that it stands for.
    pub fn stage(self) -> Stage {
        match self {
            Self::Connect => Stage::Connect,
            Self::Greeting => Stage::Greeting,
            Self::Ehlo => Stage::Ehlo,
            Self::Tls => Stage::StartTls,
            Self::Auth => Stage::Auth,
            Self::Mail => Stage::Mail,
            Self::Rcpt => Stage::Rcpt,
            Self::Data => Stage::Data,
            Self::Final => Stage::FinalReply,
        }
    }

    fn of(stage: Stage) -> Option<Self> {
        Some(match stage {
            Stage::Connect => Self::Connect,
            Stage::Greeting => Self::Greeting,
            Stage::Ehlo => Self::Ehlo,
            Stage::StartTls | Stage::Handshake => Self::Tls,
            Stage::Auth => Self::Auth,
            Stage::Idle | Stage::Mail => Self::Mail,
            Stage::Rcpt => Self::Rcpt,
            Stage::Data | Stage::Content => Self::Data,
            Stage::FinalReply => Self::Final,
            Stage::Quit => return None,
        })
    }

    /// Whether what a host says here can be about mail. What it makes of our TLS and of our credentials never
    /// is, and before it has said anything it has refused nothing.
    pub fn may_bounce(self) -> bool {
        !matches!(self, Self::Connect | Self::Tls | Self::Auth)
    }
}

/// A code, or several: a digit or `x` at each place, as in `421`, `4xx`, `55x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodePattern([Option<u8>; 3]);

impl CodePattern {
    /// Reads one; the first digit is 4 or 5.
    pub fn parse(text: &str) -> Option<Self> {
        let &[class @ (b'4' | b'5'), second, third] = text.as_bytes() else { return None };
        let digit = |octet: u8| match octet {
            b'0'..=b'9' => Some(Some(octet - b'0')),
            b'x' => Some(None),
            _ => None,
        };
        Some(Self([Some(class - b'0'), digit(second)?, digit(third)?]))
    }

    fn matches(self, code: u16) -> bool {
        let digits = [code / 100, code / 10 % 10, code % 10];
        self.0
            .iter()
            .zip(digits)
            .all(|(wanted, digit)| wanted.is_none_or(|it| u16::from(it) == digit))
    }

    fn is_exactly(self, code: u16) -> bool {
        self.0.iter().all(Option::is_some) && self.matches(code)
    }
}

/// An enhanced code, or several: numbers, or `x`, as in `4.7.1`, `4.7.x`, `5.x.x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedPattern {
    class: u8,
    subject: Option<u16>,
    detail: Option<u16>,
}

impl EnhancedPattern {
    /// Reads one; the class is 4 or 5.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let class = match parts.next()? {
            "4" => 4,
            "5" => 5,
            _ => return None,
        };
        let number = |part: &str| match part {
            "x" => Some(None),
            _ if !part.bytes().all(|octet| octet.is_ascii_digit()) => None,
            _ => part.parse().ok().filter(|number: &u16| *number < 1000).map(Some),
        };
        let (subject, detail) = (number(parts.next()?)?, number(parts.next()?)?);
        parts.next().is_none().then_some(Self { class, subject, detail })
    }

    fn matches(self, code: EnhancedStatusCode) -> bool {
        code.class() == self.class
            && self.subject.is_none_or(|subject| subject == code.subject())
            && self.detail.is_none_or(|detail| detail == code.detail())
    }
}

/// Words that have to be in a text, in this order, whatever their case: `*` stands for anything between them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TextPattern(Vec<Box<str>>);

impl TextPattern {
    /// Reads one; `None` if there is nothing in it.
    pub fn parse(text: &str) -> Option<Self> {
        let parts = text.split('*').filter(|part| !part.is_empty());
        let parts: Vec<_> = parts.map(|part| part.to_ascii_lowercase().into()).collect();
        (!parts.is_empty()).then_some(Self(parts))
    }

    /// `text` is in lower case.
    fn matches(&self, text: &str) -> bool {
        // The first place of each part leaves the most room for the next: nothing is looked at twice.
        let mut rest = text;
        self.0.iter().all(|part| match rest.split_once(&**part) {
            Some((_, behind)) => {
                rest = behind;
                true
            }
            None => false,
        })
    }
}

/// A name; or, with `*.` in front, all below it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamePattern {
    name: Box<str>,
    below: bool,
}

impl NamePattern {
    /// Reads one; `None` if there is no name.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let is_name = !name.is_empty()
            && !name.starts_with('.')
            && !name.bytes().any(|octet| octet == b'*' || octet.is_ascii_whitespace());
        is_name.then(|| Self { name: name.to_ascii_lowercase().into(), below })
    }

    /// `name` is in lower case.
    fn matches(&self, name: &str) -> bool {
        if !self.below {
            return *name == *self.name;
        }
        name.strip_suffix(&*self.name).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
    }
}

/// Whom a failure is about, as far as that is known. Names in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen<'a> {
    /// The host spoken to.
    pub mx_host: &'a str,
    /// The domain of the recipient; `None` before a transaction.
    pub domain: Option<&'a str>,
}

impl ReplyRules {
    /// Whether there are none, so that nothing need be shown to them.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The first rule that matches a failure.
    pub fn find(&self, seen: &Seen<'_>, reason: &Reason) -> Option<&ReplyRule> {
        let stage = RuleStage::of(reason.stage?)?;
        // A reply that cannot stand where it does is no word about anything.
        let reply = reason.reply.as_ref().filter(|reply| is_negative(reply));
        if self.is_empty() || reason.reply.is_some() != reply.is_some() {
            return None;
        }
        let text = reply.map_or(&*reason.text, |reply| &*reply.text).to_ascii_lowercase();
        self.rules.iter().find(|rule| rule.matches(seen, stage, reply, &text))
    }
}

fn is_negative(reply: &Reply) -> bool {
    reply.is_transient_negative() || reply.is_permanent_negative()
}

impl ReplyRule {
    fn matches(
        &self,
        seen: &Seen<'_>,
        stage: RuleStage,
        reply: Option<&Reply>,
        text: &str,
    ) -> bool {
        let code = reply.map(|reply| reply.code.as_u16());
        let enhanced = reply.and_then(|reply| reply.enhanced);
        any(&self.stages, |wanted| *wanted == stage)
            && any(&self.codes, |wanted| code.is_some_and(|code| wanted.matches(code)))
            && any(&self.enhanced, |wanted| enhanced.is_some_and(|code| wanted.matches(code)))
            && any(&self.hosts, |wanted| wanted.matches(seen.mx_host))
            && any(&self.domains, |wanted| seen.domain.is_some_and(|it| wanted.matches(it)))
            && any(&self.texts, |wanted| wanted.matches(text))
            && (self.action.fate != Some(RuleFate::Bounce) || self.may_bounce(stage, code))
    }

    /// Only a host's own word makes mail bounce; and as 421 is what every host says that is about to go, it
    /// does so where it is meant, not where all of 4xx is.
    fn may_bounce(&self, stage: RuleStage, code: Option<u16>) -> bool {
        let is_meant =
            |code: u16| code != 421 || self.codes.iter().any(|wanted| wanted.is_exactly(421));
        stage.may_bounce() && code.is_some_and(is_meant)
    }
}

/// How often rules have applied, by what followed. One rule counts once for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleStats {
    /// Recipients were deferred by a rule.
    pub defers: u64,
    /// They were given up.
    pub bounces: u64,
    /// The session was ended.
    pub ends: u64,
    /// They were given another time.
    pub retries: u64,
    /// The site was spared.
    pub back_offs: u64,
    /// The host was skipped.
    pub skips: u64,
}

impl RuleStats {
    pub(crate) fn note(&mut self, action: &RuleAction) {
        let RuleAction { fate, retry_after, back_off, skip_host } = action;
        self.defers += u64::from(*fate == Some(RuleFate::Defer));
        self.bounces += u64::from(*fate == Some(RuleFate::Bounce));
        self.ends += u64::from(*fate == Some(RuleFate::EndSession));
        self.retries += u64::from(retry_after.is_some());
        self.back_offs += u64::from(back_off.is_some());
        self.skips += u64::from(skip_host.is_some());
    }
}

/// Whether one of them matches, or there is none.
fn any<T>(list: &[T], matches: impl FnMut(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}
