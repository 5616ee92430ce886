//! What replies and failures mean: the only place that turns them into dispositions.
//!
//! Four scopes can fail. The smallest one that explains the event is chosen:
//!
//! | scope | what happened | recipients | connection | next address | site |
//! |---|---|---|---|---|---|
//! | recipient | 4xx, 5xx to RCPT | that one: deferred, bounced | kept | – | – |
//! | message | 4xx, 5xx to MAIL, DATA or the final dot | all: deferred, bounced | kept | – | – |
//! | message | 421, whenever | all open ones: deferred | closed | – | – |
//! | session | lost, timed out or senseless within a transaction | all: deferred | gone | – | – |
//! | session | dead before a reused one was answered | untouched: tried again at once | gone | – | – |
//! | address | TLS failed, and was wanted where it can be had | untouched | gone | – (the same, in plain text) | – |
//! | address | we could not log in, for whatever reason or code | untouched | gone | tried | when the last one failed |
//! | address | no connection, or session refused before it was ready | untouched | gone | tried | when the last one failed |
//! | site | every address failed | the first: deferred; the others wait | – | – | throttled |
//! | site | every address refused the session with 5xx, but not our credentials | all waiting: bounced (by switch) | – | – | throttled |
//! | destination | its owner's DNS says that there is no way | all waiting: bounced | – | – | – |
//! | destination | DNS does not answer, or not sensibly | the first: deferred; the others wait | – | – | – |
//!
//! Then the operator's [rules](crate::rules) are asked about what was not delivered.
//!
//! Without a rule that says so, nothing temporary bounces, and what a stranger can forge or break by accident is temporary:
//! a 421, a broken dialogue, a failing name server. A deferred recipient whose message is past
//! its expiry is expired instead; that is decided where it would be stored.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ringpost_protocol::reply::Reply;
use ringpost_protocol::status::EnhancedStatusCode;
use ringpost_session::client::{
    self as session, AuthProblem, LocalRefusal, RecipientReport, SessionFailure, Stage, TlsProblem,
    TransactionReport,
};

use crate::attempt::Reason;
use crate::dns::DnsFailure;
use crate::pool::{ConnectFailure, OpenFailure};
use crate::rules::{ReplyRule, ReplyRules, RuleFate, Seen};

/// What an attempt meant for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// The remote has taken responsibility.
    Delivered,
    /// To be tried again.
    Deferred,
    /// Never to be tried again.
    Bounced,
}

/// What an attempt meant for a recipient, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What it meant.
    pub meaning: Meaning,
    /// Why.
    pub reason: Rc<Reason>,
    /// When a deferred recipient is tried again, if not as its schedule says.
    pub retry_after: Option<Duration>,
}

/// Why a destination has no way, as its owner's DNS has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unroutable {
    /// The domain does not exist.
    NoName,
    /// The domain takes no mail (RFC 7505).
    NullMx,
    /// No MX host is better than we are.
    Loop,
    /// The MX records name no host.
    NoUsableHost,
    /// No host has an address.
    NoAddress,
    /// All addresses are of kinds that are not connected to.
    AddressRefused,
    /// The smarthost has no address: a mistake of ours, not of the domain's.
    SmarthostUnknown,
}

impl Verdict {
    fn new(meaning: Meaning, reason: Reason) -> Self {
        Self { meaning, reason: Rc::new(reason), retry_after: None }
    }

    fn local(meaning: Meaning, subject: u16, detail: u16, text: Cow<'static, str>) -> Self {
        let status = code(meaning, subject, detail);
        let reason =
            Reason { status, stage: None, reply: None, text, outcome_unknown: false, rule: None };
        Self::new(meaning, reason)
    }

    /// Tells whether the remote takes no more recipients in this transaction.
    pub(crate) fn is_recipient_limit(&self) -> bool {
        let reason = &*self.reason;
        let too_many = EnhancedStatusCode::new(4, 5, 3);
        self.meaning == Meaning::Deferred
            && reason.stage == Some(Stage::Rcpt)
            && reason.reply.as_ref().is_some_and(|reply| {
                // RFC 5321 §4.5.3.1.10: 452, or 552 from old servers.
                matches!(reply.code.as_u16(), 452 | 552)
                    && (reply.code.class() == 5 || reply.enhanced.is_none_or(|e| e == too_many))
            })
    }
}

fn code(meaning: Meaning, subject: u16, detail: u16) -> EnhancedStatusCode {
    let class = match meaning {
        Meaning::Delivered => 2,
        Meaning::Deferred => 4,
        Meaning::Bounced => 5,
    };
    EnhancedStatusCode::new(class, subject, detail)
}

/// Returns what a reply that ended a recipient's part in a transaction means.
pub fn reply(stage: Stage, reply: &Reply) -> Verdict {
    let number = reply.code.as_u16();
    let meaning = match (stage, reply.code.class()) {
        (Stage::FinalReply, 2) => Meaning::Delivered,
        (Stage::Rcpt, 5) if is_old_recipient_limit(reply) => Meaning::Deferred,
        (Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Content | Stage::FinalReply, 5) => {
            Meaning::Bounced
        }
        // Not now (R2: a closing server says nothing about the message); or, with 5xx, not this
        // session, which is not the message's fault either.
        (_, 4 | 5) => Meaning::Deferred,
        // 2xx or 3xx where it cannot stand: the remote has lost the thread.
        _ => {
            let status = code(Meaning::Deferred, 5, 0);
            let text = "unexpected reply".into();
            return Verdict::new(
                Meaning::Deferred,
                Reason {
                    status,
                    stage: Some(stage),
                    reply: Some(reply.clone()),
                    text,
                    outcome_unknown: stage == Stage::FinalReply,
                    rule: None,
                },
            );
        }
    };
    let status = reply
        .enhanced
        .filter(|enhanced| enhanced.class() == code(meaning, 0, 0).class())
        .unwrap_or_else(|| {
            let (subject, detail) = default_code(stage, number, meaning);
            code(meaning, subject, detail)
        });
    Verdict::new(
        meaning,
        Reason {
            status,
            stage: Some(stage),
            reply: Some(reply.clone()),
            text: Cow::Borrowed(""),
            outcome_unknown: false,
            rule: None,
        },
    )
}

/// RFC 5321 §4.5.3.1.10: old servers say 552 for "too many recipients". With an enhanced code that
/// says something else it is meant as it stands.
fn is_old_recipient_limit(reply: &Reply) -> bool {
    let too_many = EnhancedStatusCode::new(5, 5, 3);
    reply.code.as_u16() == 552 && reply.enhanced.is_none_or(|enhanced| enhanced == too_many)
}

/// Subject and detail for a reply without an enhanced code of its class (RFC 3463 §3).
fn default_code(stage: Stage, number: u16, meaning: Meaning) -> (u16, u16) {
    match (stage, number) {
        _ if meaning == Meaning::Delivered => (0, 0),
        // RFC 4954 §6. What mail cannot help is no fault of its own: the class is that of a deferral.
        (Stage::StartTls, 454) | (Stage::Auth, 430..=459) => (7, 0),
        (Stage::StartTls, 500..=599) | (Stage::Auth, 500..=504) => (7, 4),
        (Stage::Auth, 534) => (7, 9),
        (Stage::Auth, 538) => (7, 11),
        (Stage::Auth, 505..=599) => (7, 8),
        // Closing, or shutting down.
        (_, 421) => (3, 2),
        (_, 450 | 550) if stage == Stage::Rcpt => (1, 1),
        (_, 452 | 552) if stage == Stage::Rcpt => (5, 3),
        (_, 452 | 552) => (3, 4),
        (_, 500..=504) => (5, 0),
        _ => (0, 0),
    }
}

/// Returns what a session that broke within a transaction means for its recipients.
pub fn session_failure(failure: &SessionFailure) -> Verdict {
    let (subject, detail) = match failure {
        SessionFailure::Reply { stage, reply: said } => return reply(*stage, said),
        // R6, R7: what is out of step may mean anything, so it means nothing.
        SessionFailure::Protocol { .. } => (5, 0),
        // RFC 3463 §3.8: not supported; cryptographic failure.
        SessionFailure::Tls { problem: TlsProblem::NotOffered, .. } => (7, 4),
        SessionFailure::Tls { .. } => (7, 5),
        SessionFailure::Auth { problem } => match problem {
            AuthProblem::Refused(_) => (7, 8),
            AuthProblem::NeedsTls => (7, 11),
            AuthProblem::NotOffered | AuthProblem::NoMechanism => (7, 4),
            AuthProblem::Unavailable => (3, 0),
            _ => (7, 0),
        },
        SessionFailure::Aborted { .. } => (3, 2),
        _ => (4, 2),
    };
    let stage = failure.stage();
    let reason = Reason {
        status: code(Meaning::Deferred, subject, detail),
        stage: Some(stage),
        reply: None,
        text: failure.to_string().into(),
        // R8: after the final dot nobody but the remote knows.
        outcome_unknown: stage == Stage::FinalReply,
        rule: None,
    };
    Verdict::new(Meaning::Deferred, reason)
}

/// Returns what a message means that was not offered, because the host lacks what it needs.
pub fn refusal(refusal: LocalRefusal) -> Verdict {
    let reason = Reason {
        status: refusal.status(),
        stage: Some(Stage::Mail),
        reply: None,
        text: refusal.as_str().into(),
        outcome_unknown: false,
        rule: None,
    };
    let is_temporary = reason.status.class() == 4;
    Verdict::new(if is_temporary { Meaning::Deferred } else { Meaning::Bounced }, reason)
}

/// Returns what the report about one recipient means.
pub fn recipient(report: &RecipientReport) -> Verdict {
    match &report.verdict {
        session::Verdict::Reply(said) => reply(report.stage, said),
        session::Verdict::Failed(failure) => session_failure(failure),
        session::Verdict::Refused(why) => refusal(*why),
    }
}

/// Returns the verdicts of a report, one for each of `recipients` recipients.
///
/// Recipients with the same report, as all have that wait for the final reply, share one verdict.
pub(crate) fn transaction(report: &TransactionReport, recipients: usize) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(recipients);
    let mut before: Option<&RecipientReport> = None;
    for of_one in report.recipients.iter().take(recipients) {
        let verdict = match (before, verdicts.last()) {
            (Some(same), Some(verdict)) if same == of_one => verdict.clone(),
            _ => recipient(of_one),
        };
        verdicts.push(verdict);
        before = Some(of_one);
    }
    // A report that is too short would be a mistake of ours; those left out are tried again.
    verdicts.resize_with(recipients, job_failure);
    verdicts
}

/// Returns what a connection that could not be made says.
pub(crate) fn connect_failure(failure: ConnectFailure) -> OpenFailure {
    let text = match failure {
        ConnectFailure::TimedOut => "connection timed out",
        ConnectFailure::Refused => "connection refused",
        ConnectFailure::Unreachable => "network or host unreachable",
        ConnectFailure::Failed => "connection failed",
        ConnectFailure::LocalResource => return local_failure(),
    };
    let verdict = Verdict::local(Meaning::Deferred, 4, 1, text.into());
    OpenFailure {
        reason: with_stage(&verdict.reason, Stage::Connect),
        refused: false,
        local: false,
    }
}

/// Returns what an opening says that ended for a reason of our own.
pub(crate) fn local_failure() -> OpenFailure {
    let text = "out of local resources for connections";
    let verdict = Verdict::local(Meaning::Deferred, 3, 0, text.into());
    OpenFailure { reason: verdict.reason, refused: false, local: true }
}

/// Returns what a session that ended before it was ready says.
pub(crate) fn opening_failure(failure: &SessionFailure) -> OpenFailure {
    let refused = match failure {
        // A host that has no TLS today may have it tomorrow.
        // And whom it does not know today, when the operator has seen to it.
        SessionFailure::Reply { stage: Stage::StartTls | Stage::Auth, .. } => false,
        SessionFailure::Reply { reply, .. } => reply.is_permanent_negative(),
        _ => false,
    };
    // Nothing is learned about a host from what we are short of.
    let local = matches!(failure, SessionFailure::Auth { problem: AuthProblem::Unavailable });
    OpenFailure { reason: session_failure(failure).reason, refused, local }
}

/// Returns `reason` with a status of the class that fits `meaning`.
pub(crate) fn with_class_of(meaning: Meaning, reason: &Rc<Reason>) -> Rc<Reason> {
    let status = reason.reply.as_ref().and_then(|reply| reply.enhanced).unwrap_or(reason.status);
    let status = code(meaning, status.subject(), status.detail());
    if status == reason.status {
        return Rc::clone(reason);
    }
    Rc::new(Reason { status, ..(**reason).clone() })
}

/// Has the rules decide about what was not delivered; returns the one that has.
///
/// They are asked last, about failures only: nothing that was taken can be refused by them, and only what a
/// host has refused itself can bounce.
pub fn apply_rules<'a>(
    rules: &'a ReplyRules,
    seen: &Seen<'_>,
    verdict: &mut Verdict,
) -> Option<&'a ReplyRule> {
    if verdict.meaning == Meaning::Delivered {
        return None;
    }
    let rule = rules.find(seen, &verdict.reason)?;
    match rule.action.fate {
        Some(RuleFate::Bounce) => verdict.meaning = Meaning::Bounced,
        Some(RuleFate::Defer | RuleFate::EndSession) => verdict.meaning = Meaning::Deferred,
        None => {}
    }
    if verdict.meaning == Meaning::Deferred {
        verdict.retry_after = rule.action.retry_after;
    }
    verdict.reason = with_rule(&with_class_of(verdict.meaning, &verdict.reason), &rule.name);
    Some(rule)
}

/// Returns `reason` with the rule that has decided.
pub(crate) fn with_rule(reason: &Rc<Reason>, rule: &Arc<str>) -> Rc<Reason> {
    Rc::new(Reason { rule: Some(Arc::clone(rule)), ..(**reason).clone() })
}

fn with_stage(reason: &Rc<Reason>, stage: Stage) -> Rc<Reason> {
    Rc::new(Reason { stage: Some(stage), ..(**reason).clone() })
}

/// Returns what missing DNS answers mean: never a bounce.
pub fn dns_failure(failure: DnsFailure) -> Verdict {
    Verdict::local(Meaning::Deferred, 4, 3, failure.to_string().into())
}

/// Returns what the owner's DNS means when it names no way.
pub fn unroutable(why: Unroutable) -> Verdict {
    let (meaning, subject, detail, text) = match why {
        Unroutable::NoName => (Meaning::Bounced, 1, 2, "domain does not exist"),
        Unroutable::NullMx => (Meaning::Bounced, 1, 10, "domain takes no mail (null MX)"),
        Unroutable::Loop => (Meaning::Bounced, 4, 6, "mail for the domain loops back to us"),
        Unroutable::NoUsableHost => (Meaning::Bounced, 4, 4, "MX records name no host"),
        Unroutable::NoAddress => (Meaning::Bounced, 4, 4, "no mail host has an address"),
        Unroutable::AddressRefused => {
            (Meaning::Bounced, 4, 4, "mail hosts have only addresses that are not connected to")
        }
        Unroutable::SmarthostUnknown => (Meaning::Deferred, 4, 4, "smarthost has no address"),
    };
    Verdict::local(meaning, subject, detail, text.into())
}

/// Returns what it means that a message may not be tried any more, as its time is over.
pub(crate) fn time_over() -> Verdict {
    let text = "not delivered in the time that was given for it";
    Verdict::local(Meaning::Deferred, 4, 7, text.into())
}

/// Returns what it means that we could not send a message that we have.
pub(crate) fn job_failure() -> Verdict {
    Verdict::local(Meaning::Deferred, 3, 0, "message could not be sent".into())
}

/// Tells whether a session that broke with a job in its hands, before a report, cannot have
/// taken any part of it (R16).
pub(crate) fn is_untried(failure: &SessionFailure) -> bool {
    match failure {
        SessionFailure::Closed { stage } | SessionFailure::TimedOut { stage } => {
            matches!(stage, Stage::Idle)
        }
        SessionFailure::Aborted { stage } => *stage != Stage::FinalReply,
        failure => is_parting(failure),
    }
}

/// Tells whether a recipient can be tried again at once, over another connection, because the
/// remote had not begun with the message: a kept connection turned out dead (R16), or was ended
/// instead of a transaction, or we gave up.
pub(crate) fn may_go_back(
    report: &TransactionReport,
    of_one: &RecipientReport,
    session_was_used: bool,
) -> bool {
    let session::Verdict::Failed(failure) = &of_one.verdict else { return false };
    match failure {
        SessionFailure::Aborted { stage } => *stage != Stage::FinalReply,
        failure => session_was_used && (!report.is_answered || is_parting(failure)),
    }
}

/// Tells whether a recipient was not named, because the remote has said how many it takes in a transaction
/// (RFC 9422): it goes in a further one at once.
pub(crate) fn is_put_off(of_one: &RecipientReport) -> bool {
    of_one.verdict == session::Verdict::Refused(LocalRefusal::TooManyRecipients)
}

/// Servers that end a session for its age or its use say 421 to the next MAIL or RSET.
fn is_parting(failure: &SessionFailure) -> bool {
    matches!(failure.stage(), Stage::Idle | Stage::Mail)
        && failure.reply().is_some_and(|reply| reply.code.as_u16() == 421)
}
