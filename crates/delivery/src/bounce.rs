//! Writes the report to the originator about recipients that will not be delivered to, or are late.

use std::fmt::Write as _;

use ringpost_protocol::dsn::{Action, DeliveryReport, DsnRecipient};
use ringpost_protocol::envelope::{BodyType, Envelope};
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::status::EnhancedStatusCode;
use ringpost_queue::{Disposition, MessageId};

use crate::attempt::{Settled, Settlement};

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
}

/// Returns envelope and content of the report about the bounced, expired and late recipients of
/// `settlement`.
///
/// `None` when there is nobody to tell: no such recipient, or a message that is itself a report
/// (RFC 5321 §4.5.5: null reverse-path).
pub fn report(context: &BounceContext<'_>, settlement: &Settlement) -> Option<(Envelope, Vec<u8>)> {
    let ReversePath::Mailbox(originator) = &context.envelope.reverse_path else { return None };
    let texts: Vec<(&ForwardPath, &Settled, Told)> = settlement
        .recipients
        .iter()
        .filter_map(|settled| {
            let index = usize::from(settled.index.0);
            Some((context.envelope.forward_paths.get(index)?, settled, told(settled)?))
        })
        .collect();
    if texts.is_empty() {
        return None;
    }
    let recipients: Vec<DsnRecipient<'_>> = texts
        .iter()
        .map(|(path, settled, told)| DsnRecipient {
            forward_path: path,
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
    let mut content = Vec::new();
    DeliveryReport {
        reporting_mta: context.hostname,
        queue_id: &settlement.id.to_string(),
        report_id: &context.report_id.to_string(),
        unix_seconds: context.now_unix_ms / 1000,
        arrival_unix_seconds: context.received_unix_ms / 1000,
        reverse_path: &context.envelope.reverse_path,
        recipients: &recipients,
        original_header: context.original_header,
    }
    .write(&mut content);
    let body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
    let to = ForwardPath::Mailbox(originator.clone());
    Some((Envelope::new(ReversePath::Null, vec![to], body), content))
}

/// What the originator is told about a recipient.
struct Told {
    action: Action,
    status: EnhancedStatusCode,
    text: String,
}

/// `None` when there is nothing to tell.
fn told(settled: &Settled) -> Option<Told> {
    let reason = &settled.reason;
    let text = reason.text.to_string();
    match settled.disposition {
        Disposition::Bounced => Some(Told { action: Action::Failed, status: reason.status, text }),
        Disposition::Expired => {
            let mut words = String::from("delivery time expired");
            if !text.is_empty() {
                let _ = write!(words, "; last failure: {text}");
            }
            // RFC 3463 §3.5: 4.7 is delivery time expired; failed for good by now.
            let status = EnhancedStatusCode::new(5, 4, 7);
            Some(Told { action: Action::Failed, status, text: words })
        }
        Disposition::Deferred { .. } if settled.warns => {
            Some(Told { action: Action::Delayed, status: reason.status, text })
        }
        Disposition::Delivered | Disposition::Deferred { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Instant;

    use ringpost_protocol::dsn::DeliveryStatus;
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
        };
        Settlement { id: MessageId::from_u64(1), attempt, is_attempt: true, recipients }
    }

    fn envelope(reverse_path: &str) -> Envelope {
        let paths = ["<a@b.test>", "<b@b.test>", "<c@b.test>", "<d@b.test>"];
        let paths = paths.map(|path| ForwardPath::parse(path).unwrap()).to_vec();
        Envelope::new(ReversePath::parse(reverse_path).unwrap(), paths, BodyType::SevenBit)
    }

    fn written(envelope: &Envelope, recipients: Vec<Settled>) -> Option<(Envelope, String)> {
        let context = BounceContext {
            hostname: "relay.test",
            report_id: MessageId::from_u64(2),
            now_unix_ms: 1_700_000_000_000,
            received_unix_ms: 1_699_999_000_000,
            envelope,
            original_header: b"Subject: hello\r\n\r\nthe rest\r\n",
        };
        let (envelope, content) = report(&context, &settlement(recipients))?;
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

    #[test]
    fn nobody_is_told_about_a_report_or_about_nothing() {
        assert!(written(&envelope("<>"), all_dispositions()).is_none());
        let delivered = vec![settled(0, Disposition::Delivered, None)];
        assert!(written(&envelope("<me@origin.test>"), delivered).is_none());
    }
}
