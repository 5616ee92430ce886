//! What must hold after each crash and at rest.
//!
//! What can be seen to be wrong when it happens is found by the [`ledger`](crate::ledger) and the
//! [`records`](crate::records); here the ledger is held against what a queue holds, and against what the
//! server has counted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringpost_queue::{MessageId, Queue};

use crate::ledger::{Fate, FateKind, Fingerprint, Key, Ledger, Message, Origin};
use crate::server::Look;

/// What the queues of all shards hold: for each queue id whether each recipient is still queued.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    messages: BTreeMap<String, Vec<bool>>,
}

impl View {
    /// Adds what the queue of one shard holds.
    pub fn add(&mut self, queue: &Queue) {
        for message in queue.messages_from(MessageId::from_u64(0)) {
            let recipients =
                message.recipients.iter().map(|recipient| !recipient.status.is_settled()).collect();
            self.messages.insert(message.id.to_string(), recipients);
        }
    }

    /// Messages with a recipient that is queued.
    pub fn messages(&self) -> usize {
        self.messages.values().filter(|recipients| recipients.contains(&true)).count()
    }

    /// Recipients that are queued.
    pub fn recipients(&self) -> usize {
        self.messages.values().flatten().filter(|is_queued| **is_queued).count()
    }

    /// Whether a recipient of a message is queued, by its number among those that were accepted.
    fn is_queued(&self, message: &Message, rank: usize) -> bool {
        let id = message.queue_id.as_deref().unwrap_or_default();
        self.messages.get(id).is_some_and(|recipients| recipients.get(rank) == Some(&true))
    }
}

/// What the checks must know of the run.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The shortest lifetime of a message.
    pub lifetime_min: Duration,
    /// Event records that the server has given up.
    pub records_lost: u64,
}

/// Holds the ledger against what would be left if the power failed now: nothing that was acknowledged
/// may be missing without a reason that the ledger knows.
pub fn durable(ledger: &mut Ledger, view: &View, now: Instant, terms: &Terms) {
    for (key, rank) in accepted(ledger) {
        let Some(message) = ledger.message(key.message) else { continue };
        if message.acked.is_some()
            && !view.is_queued(message, rank)
            && !is_explained(ledger, key, now, terms)
        {
            let text = format!("{key}, queue id {}", id(message));
            ledger.violate("acknowledged and not durable", now, text);
        }
    }
}

/// Holds the ledger against what a crash has left, and notes what is settled for ever.
///
/// `worst` is what the worst power cut at that moment would have left, `actual` what is there. To be
/// called once for each crash, before the server is started again.
pub fn after_crash(ledger: &mut Ledger, worst: &View, actual: &View, now: Instant, terms: &Terms) {
    durable(ledger, worst, now, terms);
    durable(ledger, actual, now, terms);
    for (key, rank) in accepted(ledger) {
        let Some(message) = ledger.message(key.message) else { continue };
        if message.queue_id.is_none() {
            continue;
        }
        let is_queued = actual.is_queued(message, rank) || worst.is_queued(message, rank);
        let has_been_ours = message.is_ours();
        let Some(recipient) = ledger.recipient_mut(key) else { continue };
        if is_queued && (recipient.fate.is_some() || recipient.settled.is_some()) {
            let text = format!("{key}: {:?}", recipient.fate);
            ledger.violate("settled mail is queued again", now, text);
        } else if !is_queued && has_been_ours {
            recipient.settled.get_or_insert(now);
        }
    }
}

/// Holds a log in which a bit was flipped against what it was: each message is as it was, or cannot be read;
/// none is missing unless recovery has said that it cut the tail off.
///
/// # Errors
///
/// What is wrong.
pub fn flipped(sound: &Look, flipped: &Look) -> Result<(), String> {
    if flipped.recovered.tail_truncated_bytes > sound.recovered.tail_truncated_bytes {
        return Ok(());
    }
    let (ids, found) = (sound.ids(), flipped.ids());
    if ids != found {
        return Err(format!("{} messages were there, and now {}", ids.len(), found.len()));
    }
    for id in ids {
        let (Ok(before), Ok(after)) = (sound.message(id), flipped.message(id)) else { continue };
        if before != after {
            return Err(format!("message {id} is another one"));
        }
    }
    Ok(())
}

/// Holds the event log against what the server has handed over for it: nothing may be missing.
pub fn event_log(ledger: &mut Ledger, lines: &BTreeSet<&str>, now: Instant) {
    let written: BTreeSet<u64> =
        lines.iter().map(|line| Fingerprint::of(line.as_bytes()).sum).collect();
    let missing: Vec<String> = ledger
        .records
        .iter()
        .filter(|(_, sum)| !written.contains(sum))
        .map(|(name, _)| name.clone())
        .collect();
    for name in missing {
        ledger.violate("event record that is not in the event log", now, name);
    }
}

/// Holds the ledger against what the queue holds when the server is at rest: each recipient of each
/// message has exactly one end, or is queued.
pub fn at_rest(ledger: &mut Ledger, view: &View, now: Instant, terms: &Terms) {
    let mut removed = 0;
    for (key, rank) in accepted(ledger) {
        let Some(message) = ledger.message(key.message) else { continue };
        if !message.is_ours() {
            continue;
        }
        let is_queued = view.is_queued(message, rank);
        let fate = ledger.recipient(key).and_then(|recipient| recipient.fate);
        match (is_queued, fate) {
            (true, Some(fate)) => {
                let text = format!("{key}: {:?}", fate.kind);
                ledger.violate("settled mail is queued", now, text);
            }
            (false, None) if is_purged(ledger, key) => {
                removed += 1;
                if let Some(recipient) = ledger.recipient_mut(key) {
                    recipient.fate = Some(Fate { kind: FateKind::Removed, at: now });
                }
            }
            (false, None) if terms.records_lost == 0 => {
                let text = format!("{key}, queue id {}", id(message));
                ledger.violate("neither queued nor settled", now, text);
            }
            (true, None) | (false, _) => {}
        }
    }
    if terms.records_lost == 0 {
        let strangers: u64 = ledger.strangers.values().sum();
        let recorded = ledger.purged_recipients;
        if !(removed..=removed + strangers).contains(&recorded) {
            let text = format!("{removed} are gone, {recorded} recorded, {strangers} unknown");
            ledger.violate("removed recipients do not add up", now, text);
        }
        check_records(ledger, now);
    }
}

/// What is recorded of one message, and of its reports, must be complete.
fn check_records(ledger: &mut Ledger, now: Instant) {
    let mut wrong = Vec::new();
    for (number, message) in (0..).zip(&ledger.messages) {
        if message.acked.is_some() && message.received.is_none() && !message.reverse_path.is_empty()
        {
            wrong.push(("acknowledged without a record of it", number));
        }
        let Origin::Report { expects, says, .. } = &message.origin else { continue };
        if expects.is_empty() {
            wrong.push(("report without an outcome", number));
        }
        if message.received.is_none() {
            wrong.push(("outcome whose report was never queued", number));
        }
        if says.as_ref().is_some_and(|says| says != expects) {
            wrong.push(("report on other recipients than those recorded", number));
        }
    }
    let numbers: Vec<(&'static str, u32)> = wrong;
    for (rule, number) in numbers {
        let text = ledger.message(number).map(|message| {
            format!("message {number}, queue id {}: {:?}", id(message), message.origin)
        });
        ledger.violate(rule, now, text.unwrap_or_default());
    }
}

/// Holds what the server has counted against the account, in a run of one life.
///
/// `figure` gives the sum of a metric over all cores, by name and label value.
pub fn books(
    ledger: &mut Ledger,
    view: &View,
    now: Instant,
    figure: impl Fn(&str, Option<&str>) -> u64,
) {
    let count = |kind: &str| ledger.counts.get(kind).copied().unwrap_or_default();
    let reports = ledger.messages.iter().filter(|message| message.origin != Origin::Injector);
    let reports = reports.count() as u64;
    let outcomes = "ringpost_outcomes_total";
    let rows = [
        ("messages received", count("received"), {
            figure("ringpost_messages_received_total", None) + figure("ringpost_dsns_total", None)
        }),
        ("reports", reports, figure("ringpost_dsns_total", None)),
        ("delivered", count("delivered"), figure(outcomes, Some("delivered"))),
        ("deferred", count("deferred"), figure(outcomes, Some("deferred"))),
        ("bounced", count("bounced"), figure(outcomes, Some("bounced"))),
        ("expired", count("expired"), figure(outcomes, Some("expired"))),
        ("removed", ledger.purged_recipients, figure("ringpost_recipients_purged_total", None)),
        ("queued", view.messages() as u64, figure("ringpost_queue_messages", None)),
        ("queued recipients", view.recipients() as u64, figure("ringpost_queue_recipients", None)),
    ];
    for (what, recorded, counted) in rows {
        if recorded != counted {
            let text = format!("{what}: {recorded} by the records, {counted} by the metrics");
            ledger.violate("the books do not agree", now, text);
        }
    }
}

/// All accepted recipients, each with its number among those of its message.
fn accepted(ledger: &Ledger) -> Vec<(Key, usize)> {
    let mut keys = Vec::new();
    for (number, message) in (0..).zip(&ledger.messages) {
        for (rank, (recipient, _)) in message.accepted().enumerate() {
            keys.push((Key { message: number, recipient }, rank));
        }
    }
    keys
}

/// Whether an operator may have removed a recipient.
fn is_purged(ledger: &Ledger, key: Key) -> bool {
    let Some(message) = ledger.message(key.message) else { return false };
    let Some(recipient) = ledger.recipient(key) else { return false };
    ledger.purges.iter().any(|purge| {
        // What comes in while the server is being told may be before it or behind it. When a report was
        // made is not known: its record may be late.
        let is_before =
            message.is_report() || message.sent.is_some_and(|sent| sent <= purge.at + PURGE_TIME);
        is_before && purge.domain.as_deref().is_none_or(|domain| domain == recipient.domain())
    })
}

/// How long the server may take to carry a purge out.
const PURGE_TIME: Duration = Duration::from_secs(30);

/// Whether the ledger knows a reason why a recipient need not be queued any more, though no record
/// of its end has come yet.
fn is_explained(ledger: &Ledger, key: Key, now: Instant, terms: &Terms) -> bool {
    let Some(message) = ledger.message(key.message) else { return false };
    let Some(recipient) = ledger.recipient(key) else { return false };
    let causes = &ledger.causes;
    let has_been_refused = match message.origin {
        Origin::Injector => !recipient.refusals.is_empty() || !causes.sessions.is_empty(),
        Origin::Report { about, .. } => {
            causes.reports.range((about, None)..=(about, Some(u16::MAX))).next().is_some()
        }
    };
    recipient.fate.is_some()
        || recipient.settled.is_some()
        || recipient.confused
        || !recipient.takings.is_empty()
        || has_been_refused
        || causes.has_no_way(recipient.domain())
        || (message.eight_bit && causes.lacks_eight_bit)
        || (message.binary && causes.lacks_binary)
        || (message.utf8 && causes.lacks_utf8)
        || (message.requires_tls && causes.lacks_requiretls)
        || causes.size_min.is_some_and(|least| {
            // What the server puts in front is less than this.
            message.content.or(message.seven_bit).is_none_or(|content| content.len + 1000 > least)
        })
        // The server counts from DATA on, and the content may take its time.
        || message.begun.is_some_and(|begun| now - begun >= terms.lifetime_min)
        || is_purged(ledger, key)
}

fn id(message: &Message) -> &str {
    message.queue_id.as_deref().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Party, Taking};

    const KEY: Key = Key { message: 0, recipient: 0 };
    const TERMS: Terms = Terms { lifetime_min: Duration::from_secs(100), records_lost: 0 };

    fn acked() -> Ledger {
        let mut ledger = Ledger::new(Instant::now());
        let now = ledger.start;
        ledger.begin_life(now);
        ledger.begin(None, &["a.test", "b.test"]);
        ledger.accepted(KEY);
        ledger.sent(0, now);
        ledger.ack(0, now, "Q1");
        ledger
    }

    fn view(queued: &[bool]) -> View {
        View { messages: [("Q1".to_owned(), queued.to_vec())].into() }
    }

    fn taking(ledger: &Ledger) -> Taking {
        Taking {
            message: 0,
            recipients: vec![0],
            life: 1,
            begun: ledger.start,
            at: ledger.start,
            told: Some(250),
            confirmed: None,
            reports: false,
            tls: None,
        }
    }

    fn rules(ledger: &Ledger) -> Vec<&'static str> {
        ledger.violations().iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn what_was_acknowledged_is_durable_or_has_a_reason_not_to_be() {
        let mut ledger = acked();
        let now = ledger.start;
        durable(&mut ledger, &view(&[true]), now, &TERMS);
        assert_eq!(rules(&ledger), [""; 0]);
        durable(&mut ledger, &View::default(), now, &TERMS);
        assert_eq!(rules(&ledger), ["acknowledged and not durable"]);
        let reasons: [fn(&mut Ledger); 4] = [
            |ledger| _ = ledger.take(taking(ledger)),
            |ledger| ledger.refuse(Party::Recipient(KEY), 550),
            |ledger| ledger.causes().no_way("a.test"),
            |ledger| ledger.purge(ledger.start, Some("a.test")),
        ];
        for reason in reasons {
            let mut ledger = acked();
            reason(&mut ledger);
            durable(&mut ledger, &View::default(), now, &TERMS);
            assert_eq!(rules(&ledger), [""; 0]);
        }
        let mut ledger = acked();
        ledger.purge(now, Some("b.test"));
        durable(&mut ledger, &View::default(), now, &TERMS);
        assert_eq!(rules(&ledger), ["acknowledged and not durable"]);
    }

    #[test]
    fn what_a_crash_has_left_settled_stays_so() {
        let mut ledger = acked();
        let now = ledger.start;
        ledger.take(taking(&ledger));
        let (gone, queued) = (View::default(), view(&[true]));
        // Not durable yet: a power cut may bring it back.
        after_crash(&mut ledger, &queued, &gone, now, &TERMS);
        after_crash(&mut ledger, &gone, &gone, now, &TERMS);
        assert_eq!(rules(&ledger), [""; 0]);
        after_crash(&mut ledger, &queued, &queued, now, &TERMS);
        assert_eq!(rules(&ledger), ["settled mail is queued again"]);
    }

    #[test]
    fn the_event_log_has_all_that_was_handed_over() {
        let mut ledger = acked();
        let now = ledger.start;
        let lines =
            ["{\"type\":\"purged\",\"record\":\"1\"}", "{\"type\":\"purged\",\"record\":\"2\"}"];
        let expected = crate::records::Expected::default();
        ledger.event_lines(lines.join("\n").as_bytes(), now, &expected);
        event_log(&mut ledger, &lines.into(), now);
        assert_eq!(rules(&ledger), [""; 0]);
        event_log(&mut ledger, &lines[1..].iter().copied().collect(), now);
        assert_eq!(rules(&ledger), ["event record that is not in the event log"]);
    }

    #[test]
    fn at_rest_everybody_is_queued_or_has_an_end() {
        let rest = |ledger: &mut Ledger, view: &View| {
            let now = ledger.start;
            at_rest(ledger, view, now, &TERMS);
            rules(ledger)
        };
        assert_eq!(rest(&mut acked(), &view(&[true])), [""; 0]);
        assert_eq!(rest(&mut acked(), &View::default()), ["neither queued nor settled"]);
        assert_eq!(rest(&mut acked(), &view(&[false])), ["neither queued nor settled"]);
        let mut ended = acked();
        let end = Fate { kind: FateKind::Delivered, at: ended.start };
        ended.recipient_mut(KEY).unwrap().fate = Some(end);
        assert_eq!(rest(&mut ended, &View::default()), [""; 0]);
        assert_eq!(rest(&mut ended, &view(&[true])), ["settled mail is queued"]);
        let mut purged = acked();
        purged.purge(purged.start, None);
        assert_eq!(rest(&mut purged, &View::default()), ["removed recipients do not add up"]);
        let mut purged = acked();
        purged.purge(purged.start, None);
        purged.purged_recipients = 1;
        assert_eq!(rest(&mut purged, &View::default()), [""; 0]);
    }

    #[test]
    fn reports_and_records_have_to_be_complete() {
        let mut ledger = Ledger::new(Instant::now());
        let now = ledger.start;
        ledger.begin(Some("home.test"), &["a.test"]);
        ledger.accepted(KEY);
        ledger.ack(0, now, "Q1");
        ledger.report("Q2", 0, now);
        at_rest(&mut ledger, &view(&[true]), now, &TERMS);
        assert_eq!(
            rules(&ledger),
            [
                "acknowledged without a record of it",
                "report without an outcome",
                "outcome whose report was never queued"
            ]
        );
    }

    #[test]
    fn the_books_have_to_agree() {
        let mut ledger = acked();
        let now = ledger.start;
        ledger.counts.insert("delivered".to_owned(), 2);
        let figure = |name: &str, label: Option<&str>| match (name, label) {
            ("ringpost_outcomes_total", Some("delivered")) => 2,
            ("ringpost_queue_messages" | "ringpost_queue_recipients", None) => 1,
            _ => 0,
        };
        books(&mut ledger, &view(&[true]), now, figure);
        assert_eq!(rules(&ledger), [""; 0]);
        books(&mut ledger, &View::default(), now, figure);
        assert_eq!(rules(&ledger), ["the books do not agree"; 2]);
    }
}
