//! Decides whom the originator is told of, and writes the report: about recipients that will not be
//! delivered to, are late, or went to a host that does not report (RFC 3461 §5.2).

use std::fmt::Write as _;

use ringpost_protocol::deliver_by::ByMode;
use ringpost_protocol::dsn::{Action, DeliveryReport, DsnRecipient, Returned};
use ringpost_protocol::envelope::{BodyType, Envelope, Utf8};
use ringpost_protocol::notify::{Notify, Return};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::status::EnhancedStatusCode;
use ringpost_queue::{Disposition, MessageId};

use crate::attempt::{Attempt, Settled, Settlement};

/// What a report needs to know beside the settlement.
#[derive(Debug, Clone, Copy)]
pub struct BounceContext<'a> {
    /// Our own host name.
    pub hostname: &'a str,
    /// The queue id that the report will have.
    pub report_id: MessageId,
    /// When it is written; milliseconds since 1970.
    pub now_unix_ms: u64,
    /// When the message was received; milliseconds since 1970.
    pub received_unix_ms: u64,
    /// The message's envelope.
    pub envelope: &'a Envelope,
    /// The start of its content: at least the header section, or as much as there is room for.
    pub original_header: &'a [u8],
    /// All of its content, if it is small enough to be returned; only asked for when
    /// [`returns_all`] says so.
    pub original: Option<&'a [u8]>,
}

/// What the originator is told of a recipient, if anything.
///
/// Nothing of a message that is itself a report (RFC 5321 §4.5.5: null reverse-path), and nothing that
/// NOTIFY does not ask for. Of success only when the host that has taken the message does not report
/// itself.
pub fn told(envelope: &Envelope, attempt: &Attempt, settled: &Settled) -> Option<Action> {
    let index = usize::from(settled.index.0);
    if envelope.reverse_path.is_null() || index >= envelope.forward_paths.len() {
        return None;
    }
    let notify = envelope.dsn.notify(index);
    match settled.disposition {
        Disposition::Bounced | Disposition::Expired => notify.failure.then_some(Action::Failed),
        Disposition::Deferred { .. } => (settled.warns && notify.delay).then_some(Action::Delayed),
        Disposition::Delivered => {
            let is_told_of_time = is_told_of_time(envelope, attempt, notify);
            (is_told_of_time || (notify.success && !attempt.reports)).then_some(Action::Relayed)
        }
    }
}

/// Whether the originator is told that a host has taken the message, because of the time that it has given
/// for its delivery (RFC 2852): that nobody sees to it any more, or where the message went, if it was to be
/// traced. As for delays, not when NOTIFY asks for neither delays nor success.
fn is_told_of_time(envelope: &Envelope, attempt: &Attempt, notify: Notify) -> bool {
    let Some(by) = envelope.deliver_by else { return false };
    (by.trace || (by.mode == ByMode::Notify && !attempt.sees_to_time))
        && (notify.delay || notify.success)
}

/// Whether the report on a settlement returns the whole message, if that is small enough: when RET asks
/// for it, and a recipient has failed (RFC 3461 §4.3).
pub fn returns_all(envelope: &Envelope, settlement: &Settlement) -> bool {
    envelope.dsn.ret() == Some(Return::Full)
        // RFC 8689 §5: what may only travel under TLS is not returned, whatever RET says.
        && !envelope.require_tls
        // Others cannot be a part of a message that is none of them.
        && matches!(envelope.body, BodyType::SevenBit | BodyType::EightBitMime)
        && settlement
            .recipients
            .iter()
            .any(|one| told(envelope, &settlement.attempt, one) == Some(Action::Failed))
}

/// Returns envelope and content of the report on `settlement`, about the recipients of whom the
/// originator is [`told`].
///
/// `None` when there is nobody to tell, or nothing.
pub fn report(context: &BounceContext<'_>, settlement: &Settlement) -> Option<(Envelope, Vec<u8>)> {
    let ReversePath::Mailbox(originator) = &context.envelope.reverse_path else { return None };
    let texts: Vec<(&ForwardPath, &Settled, Told)> = settlement
        .recipients
        .iter()
        .filter_map(|settled| {
            let index = usize::from(settled.index.0);
            let action = told(context.envelope, &settlement.attempt, settled)?;
            Some((
                context.envelope.forward_paths.get(index)?,
                settled,
                words(context.envelope, action, settled),
            ))
        })
        .collect();
    if texts.is_empty() {
        return None;
    }
    let recipients: Vec<DsnRecipient<'_>> = texts
        .iter()
        .map(|(path, settled, told)| DsnRecipient {
            forward_path: path,
            original: context
                .envelope
                .dsn
                .recipient(settled.index.0.into())
                .and_then(|one| one.original.as_ref()),
            action: told.action,
            status: told.status,
            remote_mta: settlement.attempt.mx_host.as_deref(),
            diagnostic: settled.reason.reply.as_ref(),
            reason: &told.text,
            // Without an attempt now, one was made before, but nobody remembers when.
            last_attempt_unix_seconds: settlement.is_attempt.then_some(context.now_unix_ms / 1000),
            will_retry_until_unix_seconds: (told.action == Action::Delayed)
                .then_some(settled.expiry_unix_ms / 1000),
        })
        .collect();
    let returned = match context.original {
        Some(content) if returns_all(context.envelope, settlement) => Returned::Message(content),
        _ => Returned::Header(context.original_header),
    };
    let mut content = Vec::new();
    DeliveryReport {
        reporting_mta: context.hostname,
        queue_id: &settlement.id.to_string(),
        report_id: &context.report_id.to_string(),
        unix_seconds: context.now_unix_ms / 1000,
        arrival_unix_seconds: context.received_unix_ms / 1000,
        deliver_by_unix_seconds: context.envelope.deliver_by.map(|by| by.by_unix_ms / 1000),
        reverse_path: &context.envelope.reverse_path,
        envelope_id: context.envelope.dsn.envelope_id(),
        recipients: &recipients,
        returned,
        smtputf8: context.envelope.utf8.is_marked(),
    }
    .write(&mut content);
    let body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let to = ForwardPath::Mailbox(originator.clone());
    let mut envelope = Envelope::new(ReversePath::Null, vec![to], body);
    // As urgent as what it tells of.
    envelope.priority = context.envelope.priority;
    // RFC 8689 §5.
    envelope.require_tls = context.envelope.require_tls;
    if !originator.is_ascii() {
        // The field that names them is the one of the header that is not ASCII.
        envelope.utf8 = Utf8::Header;
    }
    Some((envelope, content))
}

/// What the originator is told about a recipient.
struct Told {
    action: Action,
    status: EnhancedStatusCode,
    text: String,
}

fn words(envelope: &Envelope, action: Action, settled: &Settled) -> Told {
    let reason = &settled.reason;
    let text = reason.text.to_string();
    if action == Action::Delayed && envelope.deliver_by.is_some() {
        let status = EnhancedStatusCode::new(4, 4, 7);
        let words = format!("not delivered in the time that was given for it; {text}");
        return Told { action, status, text: words };
    }
    if settled.disposition == Disposition::Expired {
        let mut words = String::from("delivery time expired");
        // That there was no time is no failure.
        if !text.is_empty() && reason.status.detail() != 7 {
            let _ = write!(words, "; last failure: {text}");
        }
        // RFC 3463 §3.5: 4.7 is delivery time expired; failed for good by now.
        let status = EnhancedStatusCode::new(5, 4, 7);
        return Told { action, status, text: words };
    }
    Told { action, status: reason.status, text }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use ringpost_protocol::deliver_by::DeliverBy;
    use ringpost_protocol::dsn::DeliveryStatus;
    use ringpost_protocol::notify::{EnvelopeId, Notify, OriginalRecipient, RecipientDsn};
    use ringpost_protocol::reply::{Reply, ReplyCode};
    use ringpost_queue::RecipientIndex;

    use super::*;
    use crate::attempt::{Attempt, Reason};

    fn settled(index: u16, disposition: Disposition, said: Option<&str>) -> Settled {
        let reply = said.map(|text| {
            let code = ReplyCode::new(550).unwrap();
            Reply::new(code, Some(EnhancedStatusCode::new(5, 1, 1)), text)
        });
        let reason = Reason {
            status: EnhancedStatusCode::new(if said.is_some() { 5 } else { 4 }, 1, 1),
            stage: None,
            text: if reply.is_some() { "".into() } else { "connection refused".into() },
            reply,
            outcome_unknown: false,
            rule: None,
        };
        let index = RecipientIndex(index);
        Settled {
            index,
            attempts: 1,
            disposition,
            reason: Rc::new(reason),
            warns: false,
            expiry_unix_ms: 1_700_400_000_000,
        }
    }

    fn settlement(recipients: Vec<Settled>) -> Settlement {
        let now = Instant::now();
        let attempt = Attempt {
            site: "mx.b.test".into(),
            mx_host: Some("mx.b.test".into()),
            address: None,
            started: now,
            finished: now,
            reports: false,
            sees_to_time: false,
            tls: None,
        };
        Settlement { id: MessageId::from_u64(1), attempt, is_attempt: true, recipients }
    }

    fn envelope(reverse_path: &str) -> Envelope {
        let paths = ["<a@b.test>", "<b@b.test>", "<c@b.test>", "<d@b.test>"];
        let paths = paths.map(|path| ForwardPath::parse(path).unwrap()).to_vec();
        Envelope::new(ReversePath::parse(reverse_path).unwrap(), paths, BodyType::SevenBit)
    }

    fn written(envelope: &Envelope, recipients: Vec<Settled>) -> Option<(Envelope, String)> {
        written_with(envelope, recipients, false)
    }

    const CONTENT: &[u8] = b"Subject: hello\r\n\r\nthe rest\r\n";

    fn written_with(
        envelope: &Envelope,
        recipients: Vec<Settled>,
        reports: bool,
    ) -> Option<(Envelope, String)> {
        let mut settlement = settlement(recipients);
        settlement.attempt.reports = reports;
        let context = BounceContext {
            hostname: "relay.test",
            report_id: MessageId::from_u64(2),
            now_unix_ms: 1_700_000_000_000,
            received_unix_ms: 1_699_999_000_000,
            envelope,
            original_header: CONTENT,
            original: returns_all(envelope, &settlement).then_some(CONTENT),
        };
        let (envelope, content) = report(&context, &settlement)?;
        Some((envelope, String::from_utf8(content).unwrap()))
    }

    fn all_dispositions() -> Vec<Settled> {
        vec![
            settled(0, Disposition::Delivered, None),
            settled(1, Disposition::Bounced, Some("nobody here")),
            settled(2, Disposition::Expired, None),
            settled(3, Disposition::Deferred { attempts: 1, due_unix_ms: 1, warned: false }, None),
            settled(9, Disposition::Bounced, Some("not in the envelope")),
        ]
    }

    #[test]
    fn the_originator_is_told_about_bounced_and_expired_recipients() {
        let (envelope, content) =
            written(&envelope("<me@origin.test>"), all_dispositions()).unwrap();
        assert!(envelope.reverse_path.is_null());
        let to: Vec<String> = envelope.forward_paths.iter().map(ToString::to_string).collect();
        assert_eq!(to, ["<me@origin.test>"]);
        let status = DeliveryStatus::parse(content.as_bytes()).unwrap();
        let told: Vec<String> = status
            .recipients
            .iter()
            .map(|one| format!("{} {} {}", one.final_recipient, one.action, one.status.unwrap()))
            .collect();
        assert_eq!(told, ["b@b.test failed 5.1.1", "c@b.test failed 5.4.7"]);
        assert!(content.contains("nobody here"));
        assert!(content.contains("delivery time expired; last failure: connection refused"));
        assert!(content.contains("Subject: hello"));
        assert!(!content.contains("the rest"));
    }

    /// RFC 8689 §5.
    #[test]
    fn what_requires_tls_is_reported_under_tls_and_without_its_content() {
        let bounced = || vec![settled(1, Disposition::Bounced, Some("nobody here"))];
        for require_tls in [false, true] {
            let mut original = envelope("<me@origin.test>");
            original.dsn.set_message(Some(Return::Full), None);
            original.require_tls = require_tls;
            let (envelope, content) = written(&original, bounced()).unwrap();
            assert_eq!(envelope.require_tls, require_tls);
            assert!(content.contains("Subject: hello"));
            assert_eq!(content.contains("the rest"), !require_tls);
        }
    }

    #[test]
    fn the_originator_is_told_about_late_recipients_when_it_is_time() {
        let due = Disposition::Deferred { attempts: 1, due_unix_ms: 1, warned: true };
        let late = Settled { warns: true, ..settled(0, due, None) };
        let told_before = settled(1, due, None);
        let (_, content) = written(&envelope("<me@origin.test>"), vec![late, told_before]).unwrap();
        let status = DeliveryStatus::parse(content.as_bytes()).unwrap();
        let [one] = &*status.recipients else { panic!("{status:?}") };
        assert_eq!((&*one.final_recipient, &*one.action), ("a@b.test", "delayed"));
        assert_eq!(one.status, Some(EnhancedStatusCode::new(4, 1, 1)));
        assert_eq!(one.will_retry_until.as_deref(), Some("Sun, 19 Nov 2023 13:20:00 +0000"));
    }

    /// What a report says, a line for each recipient.
    fn said(envelope: &Envelope, recipients: Vec<Settled>, reports: bool) -> Vec<String> {
        let Some((_, content)) = written_with(envelope, recipients, reports) else {
            return Vec::new();
        };
        let status = DeliveryStatus::parse(content.as_bytes()).unwrap();
        let line = |one: &ringpost_protocol::dsn::RecipientStatus| {
            let original = one.original_recipient.as_deref().unwrap_or("-");
            format!("{} {original} {}", one.final_recipient, one.action)
        };
        status.recipients.iter().map(line).collect()
    }

    fn asks(envelope: &mut Envelope, at: usize, notify: &str, original: Option<&str>) {
        let original = original.and_then(OriginalRecipient::parse);
        envelope.dsn.set_recipient(at, RecipientDsn::new(Notify::parse(notify), original));
    }

    /// RFC 3461 §5.2: each kind of end, for each thing that can be asked for.
    #[test]
    fn each_recipient_gets_the_reports_that_were_asked_for() {
        let late = || {
            let due = Disposition::Deferred { attempts: 1, due_unix_ms: 1, warned: true };
            Settled { warns: true, ..settled(0, due, None) }
        };
        let ends = [
            ("delivered", settled(0, Disposition::Delivered, None)),
            ("bounced", settled(0, Disposition::Bounced, Some("no"))),
            ("expired", settled(0, Disposition::Expired, None)),
            ("late", late()),
        ];
        for (notify, expected) in [
            ("", ["", "failed", "failed", "delayed"]),
            ("NEVER", ["", "", "", ""]),
            ("SUCCESS", ["relayed", "", "", ""]),
            ("FAILURE", ["", "failed", "failed", ""]),
            ("DELAY", ["", "", "", "delayed"]),
            ("SUCCESS,FAILURE,DELAY", ["relayed", "failed", "failed", "delayed"]),
        ] {
            for ((end, settled), expected) in ends.iter().zip(expected) {
                for reports in [false, true] {
                    let mut envelope = envelope("<me@origin.test>");
                    asks(&mut envelope, 0, notify, None);
                    // A host that reports does so on what it has taken.
                    let taken_over = reports && expected == "relayed";
                    let expected: Vec<String> = (!expected.is_empty() && !taken_over)
                        .then(|| format!("a@b.test - {expected}"))
                        .into_iter()
                        .collect();
                    let lines = said(&envelope, vec![settled.clone()], reports);
                    assert_eq!(lines, expected, "{end} {notify} {reports}");
                    envelope.reverse_path = ReversePath::Null;
                    assert!(said(&envelope, vec![settled.clone()], false).is_empty());
                }
            }
        }
    }

    /// RFC 2852: who asked for a time is told when nobody sees to it any more, or of each host.
    #[test]
    fn the_originator_is_told_where_a_message_with_a_time_went() {
        let (notify, returns) = (ByMode::Notify, ByMode::Return);
        for (mode, trace, sees_to_time, asked, expected) in [
            (notify, false, false, "", true),
            (notify, false, false, "SUCCESS", true),
            (notify, false, false, "DELAY", true),
            (notify, false, false, "FAILURE", false),
            (notify, false, false, "NEVER", false),
            (notify, false, true, "", false),
            (notify, true, true, "", true),
            (returns, false, true, "", false),
            (returns, true, true, "", true),
            (returns, true, true, "NEVER", false),
        ] {
            let mut envelope = envelope("<me@origin.test>");
            asks(&mut envelope, 0, asked, None);
            let by_unix_ms = 1_700_000_100_000;
            envelope.deliver_by = Some(DeliverBy { by_unix_ms, mode, trace, is_told: false });
            let settled = settled(0, Disposition::Delivered, None);
            // A host that offers DSN knows nothing of the time.
            let attempt = Attempt {
                reports: true,
                sees_to_time,
                ..settlement(vec![settled.clone()]).attempt
            };
            let action = expected.then_some(Action::Relayed);
            assert_eq!(told(&envelope, &attempt, &settled), action, "{mode:?} {trace} {asked}");
        }
    }

    #[test]
    fn a_report_says_by_when_the_message_was_to_be_delivered() {
        let mut envelope = envelope("<me@origin.test>");
        let by_unix_ms = 1_700_000_000_000;
        let mode = ByMode::Notify;
        envelope.deliver_by = Some(DeliverBy { by_unix_ms, mode, trace: false, is_told: false });
        let due = Disposition::Deferred { attempts: 1, due_unix_ms: 1, warned: true };
        let late = Settled { warns: true, ..settled(0, due, None) };
        let (_, content) = written(&envelope, vec![late]).unwrap();
        let date = "\r\nDeliver-By-Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n";
        assert!(content.contains(date), "{content}");
        let status = DeliveryStatus::parse(content.as_bytes()).unwrap();
        let one = &status.recipients[0];
        let code = one.status.unwrap().to_string();
        assert_eq!((&*one.action, &*code), ("delayed", "4.4.7"));
        // And what is returned without an attempt has no failure to name.
        let mut over = settled(0, Disposition::Expired, None);
        over.reason = Rc::clone(&crate::outcome::time_over().reason);
        let (_, content) = written(&envelope, vec![over]).unwrap();
        assert!(content.contains("delivery time expired") && content.contains("5.4.7"));
        assert!(!content.contains("last failure"), "{content}");
    }

    #[test]
    fn a_report_names_what_the_client_has_named() {
        let mut envelope = envelope("<me@origin.test>");
        envelope.dsn.set_message(None, EnvelopeId::parse("QQ+2B1"));
        asks(&mut envelope, 1, "", Some("rfc822;alias+20x@origin.test"));
        asks(&mut envelope, 2, "NEVER", None);
        let expected = ["b@b.test alias x@origin.test failed"];
        assert_eq!(said(&envelope, all_dispositions(), false), expected);
        let (_, content) = written(&envelope, all_dispositions()).unwrap();
        assert!(content.contains("\r\nOriginal-Envelope-Id: QQ+1\r\n"), "{content}");
    }

    #[test]
    fn the_whole_message_is_returned_when_it_failed_and_ret_asks_for_it() {
        for (ret, body, end, whole) in [
            (Some(Return::Full), BodyType::SevenBit, Disposition::Bounced, true),
            (Some(Return::Full), BodyType::EightBitMime, Disposition::Expired, true),
            (Some(Return::Full), BodyType::SevenBit, Disposition::Delivered, false),
            (Some(Return::Full), BodyType::BinaryMime, Disposition::Bounced, false),
            (Some(Return::Headers), BodyType::SevenBit, Disposition::Bounced, false),
            (None, BodyType::SevenBit, Disposition::Bounced, false),
        ] {
            let mut envelope = envelope("<me@origin.test>");
            envelope.body = body;
            envelope.dsn.set_message(ret, None);
            asks(&mut envelope, 0, "SUCCESS,FAILURE", None);
            let (_, content) = written(&envelope, vec![settled(0, end, None)]).unwrap();
            assert_eq!(content.contains("the rest"), whole, "{content}");
            let part = if whole { "message/rfc822" } else { "text/rfc822-headers" };
            assert!(
                content.contains(&format!("\r\nContent-Type: {part}\r\n\r\nSubject: hello\r\n"))
            );
        }
    }

    /// RFC 6531 §3.2: what is written to an address outside of ASCII needs SMTPUTF8, and nothing else does.
    #[test]
    fn a_report_needs_smtputf8_when_its_reader_does() {
        for (from, expected) in
            [("<me@origin.test>", Utf8::Unmarked), ("<mé@origin.test>", Utf8::Header)]
        {
            let mut envelope = envelope(from);
            envelope.forward_paths[1] = ForwardPath::parse("<ü@b.test>").unwrap();
            envelope.utf8 = Utf8::Marked;
            let (report, content) = written(&envelope, all_dispositions()).unwrap();
            assert_eq!((report.utf8, report.body), (expected, BodyType::EightBitMime));
            let status = DeliveryStatus::parse(content.as_bytes()).unwrap();
            assert_eq!(status.recipients[0].final_recipient, "ü@b.test");
        }
    }

    #[test]
    fn nobody_is_told_about_a_report_or_about_nothing() {
        assert!(written(&envelope("<>"), all_dispositions()).is_none());
        let delivered = vec![settled(0, Disposition::Delivered, None)];
        assert!(written(&envelope("<me@origin.test>"), delivered).is_none());
    }
}
