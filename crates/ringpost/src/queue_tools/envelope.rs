//! The open format of exported mail: a JSON envelope beside each message.

use anyhow::{Context, Result, bail, ensure};
use ringpost_protocol::{
    deliver_by::{ByMode, DeliverBy},
    envelope::{BodyType, Envelope, Utf8},
    label::{LabelText, Labels},
    notify::{DsnParameters, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Return},
    path::{ForwardPath, ReversePath},
    priority::Priority,
};
use ringpost_queue::{RecipientEntry, RecipientState, RecipientStatus};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the format that is written, and the only one that is read.
const VERSION: u64 = 1;

/// Octets of an envelope that are read: room for 65,535 long recipients.
pub(super) const ENVELOPE_SIZE_MAX: u64 = 32 << 20;

/// The content of `ID.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// The version of the format.
    pub version: u64,
    /// The queue id that the message had.
    pub id: String,
    /// Where reports of failure go, in brackets.
    pub reverse_path: String,
    /// The keyword of the body type.
    pub body: String,
    /// Whether it came by SMTPUTF8. Default no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub smtputf8: bool,
    /// How urgent it is, −9 to 9. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// Whether it may only travel under TLS (`REQUIRETLS`). Default no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub requiretls: bool,
    /// Whether its sender asks that it goes on without TLS rather than not at all (`TLS-Required: No`); not
    /// with `requiretls`. Default no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub tls_optional: bool,
    /// By when it is to be delivered (`BY=`). Default: at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_by: Option<Time>,
    /// On whose behalf it is sent. Default: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The campaign that it is part of. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign: Option<String>,
    /// What `RET=` has asked for, `FULL` or `HDRS`. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<String>,
    /// What `ENVID=` has called it, in xtext. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope_id: Option<String>,
    /// Octets of content.
    pub size: u64,
    /// When it was received, in milliseconds of Unix time.
    pub received_unix_ms: u64,
    /// When it is given up, in milliseconds of Unix time.
    pub expiry_unix_ms: u64,
    /// When the first recipient is due, in milliseconds of Unix time. Default 0: at once.
    #[serde(default)]
    pub due_unix_ms: u64,
    /// The recipients.
    pub recipients: Vec<Recipient>,
}

/// A recipient in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipient {
    /// Its path, in brackets.
    pub forward_path: String,
    /// What `NOTIFY=` has asked for. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<String>,
    /// What `ORCPT=` has said: a type, `;`, and an address in xtext. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original_recipient: Option<String>,
    /// How it stands.
    pub state: State,
    /// Attempts made. Default 0.
    #[serde(default)]
    pub attempts: u16,
    /// When it is due, in milliseconds of Unix time. Default that of the message.
    #[serde(default)]
    pub due_unix_ms: Option<u64>,
    /// Whether the originator has been told of the delay. Default no.
    #[serde(default)]
    pub warned: bool,
}

/// How a recipient stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits for its delivery.
    Queued,
    /// It was delivered.
    Delivered,
    /// It was refused for good.
    Bounced,
    /// It was given up.
    Expired,
    /// An operator has removed it.
    Removed,
}

impl From<RecipientStatus> for State {
    fn from(status: RecipientStatus) -> Self {
        match status {
            RecipientStatus::Queued => Self::Queued,
            RecipientStatus::Delivered => Self::Delivered,
            RecipientStatus::Bounced => Self::Bounced,
            RecipientStatus::Expired => Self::Expired,
            RecipientStatus::Removed => Self::Removed,
        }
    }
}

/// By when a message is to be delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// The time, in milliseconds of Unix time. With mode `return` the expiry is not after it.
    pub by_unix_ms: u64,
    /// What then: `return` or `notify`.
    pub mode: String,
    /// Whether the originator is told of each host that takes the message. Default no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trace: bool,
    /// Whether the time was over when the message came, and the originator was told. Default no.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_told: bool,
}

impl Time {
    fn new(by: DeliverBy) -> Self {
        let DeliverBy { by_unix_ms, mode, trace, is_told } = by;
        Self { by_unix_ms, mode: mode.as_str().to_owned(), trace, is_told }
    }

    fn read(&self) -> Result<DeliverBy> {
        let modes = [ByMode::Return, ByMode::Notify];
        let mode = modes
            .into_iter()
            .find(|mode| mode.as_str() == self.mode)
            .with_context(|| format!("deliver_by.mode {:?} is not known", self.mode))?;
        let Self { by_unix_ms, trace, is_told, .. } = *self;
        Ok(DeliverBy { by_unix_ms, mode, trace, is_told })
    }
}

impl Sheet {
    /// The envelope of a message in the queue.
    pub(super) fn new(view: &ringpost_queue::MessageView<'_>, envelope: &Envelope) -> Self {
        let waiting = view.recipients.iter().filter(|one| !one.status.is_settled());
        let due = waiting.map(|one| one.due_unix_ms).min().unwrap_or(0);
        let dsn = &envelope.dsn;
        let recipient = |(at, (path, one)): (usize, (&ForwardPath, &RecipientEntry))| Recipient {
            forward_path: path.to_string(),
            notify: dsn.recipient(at).and_then(|one| Some(one.notify?.to_string())),
            original_recipient: dsn
                .recipient(at)
                .and_then(|one| Some(one.original.as_ref()?.to_string())),
            state: one.status.into(),
            attempts: one.attempts,
            due_unix_ms: Some(one.due_unix_ms),
            warned: one.warned,
        };
        Self {
            version: VERSION,
            id: view.id.to_string(),
            reverse_path: envelope.reverse_path.to_string(),
            body: envelope.body.keyword().to_owned(),
            smtputf8: envelope.utf8.is_marked(),
            priority: envelope.priority.level(),
            requiretls: envelope.require_tls,
            tls_optional: envelope.tls_optional,
            deliver_by: envelope.deliver_by.map(Time::new),
            tenant: envelope.labels.tenant.as_ref().map(ToString::to_string),
            campaign: envelope.labels.campaign.as_ref().map(ToString::to_string),
            ret: dsn.ret().map(|ret| ret.to_string()),
            envelope_id: dsn.envelope_id().map(ToString::to_string),
            size: view.size,
            received_unix_ms: view.received_unix_ms,
            expiry_unix_ms: view.expiry_unix_ms,
            due_unix_ms: due,
            recipients: envelope
                .forward_paths
                .iter()
                .zip(view.recipients)
                .enumerate()
                .map(recipient)
                .collect(),
        }
    }

    /// Reads an envelope.
    ///
    /// # Errors
    ///
    /// What is wrong with it: it is not JSON, of another version, or not of this form.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(bytes).context("it is not JSON")?;
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(other) => bail!("it has version {other}, this program reads version {VERSION}"),
            None => bail!("it has no version"),
        }
        serde_json::from_value(value).context("it is not an envelope")
    }

    /// What is left to deliver of it, with the content that belongs to it: `None` if nothing is.
    ///
    /// # Errors
    ///
    /// What is wrong with it: the size of the content or the ends of its lines, a path, the body type or a
    /// DSN parameter that is none, or more than `recipients_max` recipients.
    pub fn to_queue(
        &self,
        content: &[u8],
        recipients_max: usize,
    ) -> Result<Option<(Envelope, Vec<RecipientState>)>> {
        ensure!(
            self.size == content.len() as u64,
            "the content has {} octets, not {}",
            content.len(),
            self.size
        );
        let reverse_path = ReversePath::parse(&self.reverse_path)
            .with_context(|| format!("reverse_path {:?}", self.reverse_path))?;
        let mut body = BodyType::from_keyword(&self.body)
            .with_context(|| format!("body {:?} is not known", self.body))?;
        if body == BodyType::BinaryMime {
            // Its header section is text, as reports repeat it.
            check_lines(header_section(content))?;
        } else {
            check_lines(content)?;
            if !content.is_ascii() {
                body = BodyType::EightBitMime;
            }
        }
        let (mut paths, mut states) = (Vec::new(), Vec::new());
        let mut dsn = DsnParameters::default();
        let ret = read("ret", self.ret.as_deref(), Return::from_keyword)?;
        dsn.set_message(ret, read("envelope_id", self.envelope_id.as_deref(), EnvelopeId::parse)?);
        for recipient in &self.recipients {
            let path = ForwardPath::parse(&recipient.forward_path)
                .with_context(|| format!("forward_path {:?}", recipient.forward_path))?;
            let notify = read("notify", recipient.notify.as_deref(), Notify::parse)?;
            let original = recipient.original_recipient.as_deref();
            let original = read("original_recipient", original, OriginalRecipient::parse)?;
            if recipient.state == State::Queued {
                dsn.set_recipient(paths.len(), RecipientDsn::new(notify, original));
                paths.push(path);
                states.push(RecipientState {
                    due_unix_ms: recipient.due_unix_ms.unwrap_or(self.due_unix_ms),
                    attempts: recipient.attempts,
                    status: RecipientStatus::Queued,
                    warned: recipient.warned,
                });
            }
        }
        let count = paths.len();
        ensure!(
            count <= recipients_max,
            "it has {count} recipients, recipients_max is {recipients_max}"
        );
        let mut envelope = Envelope::new(reverse_path, paths, body);
        envelope.dsn = dsn;
        envelope.priority = Priority::new(self.priority)
            .with_context(|| format!("priority {} is none", self.priority))?;
        envelope.require_tls = self.requiretls;
        ensure!(!(self.requiretls && self.tls_optional), "it has requiretls and tls_optional");
        envelope.tls_optional = self.tls_optional;
        envelope.deliver_by = self.deliver_by.as_ref().map(Time::read).transpose()?;
        envelope.labels = Labels {
            tenant: read("tenant", self.tenant.as_deref(), LabelText::new)?,
            campaign: read("campaign", self.campaign.as_deref(), LabelText::new)?,
        };
        if self.smtputf8 {
            let is_ascii = header_section(content).is_ascii();
            envelope.utf8 = if is_ascii { Utf8::Marked } else { Utf8::Header };
        }
        Ok((count > 0).then_some((envelope, states)))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_zero(level: &i8) -> bool {
    *level == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Reads a DSN parameter or a label, if there is one.
fn read<T>(key: &str, text: Option<&str>, parse: fn(&str) -> Option<T>) -> Result<Option<T>> {
    text.map(|text| parse(text).with_context(|| format!("{key} {text:?} is none"))).transpose()
}

/// The content up to its first empty line.
fn header_section(content: &[u8]) -> &[u8] {
    let end = if content.starts_with(b"\r\n") {
        Some(2)
    } else {
        memchr::memmem::find(content, b"\r\n\r\n").map(|at| at + 4)
    };
    end.and_then(|end| content.get(..end)).unwrap_or(content)
}

/// Content goes out as it is, so its lines must end as lines do in SMTP (RFC 5321 §2.3.8).
fn check_lines(content: &[u8]) -> Result<()> {
    let mut before = b'\n';
    for (at, octet) in content.iter().enumerate() {
        ensure!(
            (*octet == b'\n') == (before == b'\r'),
            "octet {at} of the content: CR and LF belong together"
        );
        before = *octet;
    }
    ensure!(content.is_empty() || content.ends_with(b"\r\n"), "the content does not end with CRLF");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHEET: &str = r#"{
        "version": 1, "id": "000R00000000A", "reverse_path": "<a@one.test>", "body": "7BIT",
        "size": 5, "received_unix_ms": 10, "expiry_unix_ms": 20, "due_unix_ms": 15,
        "recipients": [
            {"forward_path": "<b@two.test>", "state": "queued", "attempts": 2, "warned": true},
            {"forward_path": "<c@two.test>", "state": "delivered"},
            {"forward_path": "<d@two.test>", "state": "queued", "due_unix_ms": 17}
        ]
    }"#;

    #[test]
    fn what_is_settled_is_not_queued_again() {
        let sheet = Sheet::read(SHEET.as_bytes()).unwrap();
        let (envelope, states) = sheet.to_queue(b"abc\r\n", 2).unwrap().unwrap();
        let paths: Vec<_> = envelope.forward_paths.iter().map(ToString::to_string).collect();
        assert_eq!(paths, ["<b@two.test>", "<d@two.test>"]);
        assert_eq!((states[0].attempts, states[0].due_unix_ms, states[0].warned), (2, 15, true));
        assert_eq!((states[1].attempts, states[1].due_unix_ms, states[1].warned), (0, 17, false));
        let done = SHEET.replace("queued", "expired");
        let sheet = Sheet::read(done.as_bytes()).unwrap();
        assert_eq!(sheet.to_queue(b"abc\r\n", 2).unwrap(), None);
    }

    #[test]
    fn what_is_to_be_told_goes_with_its_recipient() {
        let sheet = SHEET
            .replacen("\"size\"", "\"ret\": \"HDRS\", \"envelope_id\": \"Q+2B\", \"size\"", 1)
            .replacen("<c@two.test>\"", "<c@two.test>\", \"notify\": \"NEVER\"", 1)
            .replacen(
                "<d@two.test>\"",
                "<d@two.test>\", \"notify\": \"SUCCESS,DELAY\", \"original_recipient\": \"x;y\"",
                1,
            );
        let sheet = Sheet::read(sheet.as_bytes()).unwrap();
        let (envelope, _) = sheet.to_queue(b"abc\r\n", 9).unwrap().unwrap();
        let dsn = &envelope.dsn;
        assert_eq!((dsn.ret(), dsn.notify(0)), (Some(Return::Headers), Notify::DEFAULT));
        assert_eq!(dsn.envelope_id().unwrap().decoded(), "Q+");
        let (at, of_last) = dsn.recipients().next().unwrap();
        assert_eq!((at, of_last.notify.unwrap().to_string().as_str()), (1, "SUCCESS,DELAY"));
        assert_eq!(of_last.original.as_ref().unwrap().as_str(), "x;y");
        // Without them the sheet is what it was before there were any.
        let text = serde_json::to_string(&Sheet::read(SHEET.as_bytes()).unwrap()).unwrap();
        for key in ["ret", "envelope_id", "notify", "original_recipient"] {
            assert!(!text.contains(&format!("\"{key}\"")), "{text}");
        }
    }

    #[test]
    fn what_a_message_is_known_by_goes_with_it() {
        let labelled =
            SHEET.replacen("\"size\"", "\"tenant\": \"acme\", \"campaign\": \"may\", \"size\"", 1);
        let sheet = Sheet::read(labelled.as_bytes()).unwrap();
        let (envelope, _) = sheet.to_queue(b"abc\r\n", 9).unwrap().unwrap();
        let labels = envelope.labels;
        assert_eq!(labels.tenant.unwrap().as_str(), "acme");
        assert_eq!(labels.campaign.unwrap().as_str(), "may");
        let bad = labelled.replacen("acme", "a b", 1);
        assert!(Sheet::read(bad.as_bytes()).unwrap().to_queue(b"abc\r\n", 9).is_err());
        let text = serde_json::to_string(&Sheet::read(SHEET.as_bytes()).unwrap()).unwrap();
        assert!(!text.contains("tenant") && !text.contains("campaign"), "{text}");
    }

    #[test]
    fn what_came_by_smtputf8_is_marked_with_what_it_needs() {
        for (content, expected) in
            [(&b"a:b\r\n"[..], Utf8::Marked), (b"a:\xC3\xBC\r\n", Utf8::Header)]
        {
            let sheet = SHEET.replacen("\"size\": 5", "\"smtputf8\": true, \"size\": ", 1);
            let sheet = sheet.replacen("\"size\": ", &format!("\"size\": {}", content.len()), 1);
            let sheet = sheet.replace("<b@two.test>", "<ü@zwei.test>");
            let sheet = Sheet::read(sheet.as_bytes()).unwrap();
            let (envelope, _) = sheet.to_queue(content, 9).unwrap().unwrap();
            assert_eq!(envelope.utf8, expected);
            assert_eq!(envelope.forward_paths[0].to_string(), "<ü@zwei.test>");
        }
        let text = serde_json::to_string(&Sheet::read(SHEET.as_bytes()).unwrap()).unwrap();
        assert!(!text.contains("smtputf8"), "{text}");
    }

    #[test]
    fn how_urgent_it_is_goes_with_it() {
        let text = SHEET.replacen("\"size\"", "\"priority\": -7, \"size\"", 1);
        let sheet = Sheet::read(text.as_bytes()).unwrap();
        let (envelope, _) = sheet.to_queue(b"abc\r\n", 9).unwrap().unwrap();
        assert_eq!(envelope.priority.level(), -7);
        assert!(serde_json::to_string(&sheet).unwrap().contains("\"priority\":-7"));
        let text = serde_json::to_string(&Sheet::read(SHEET.as_bytes()).unwrap()).unwrap();
        assert!(!text.contains("priority"), "{text}");
    }

    #[test]
    fn what_requires_tls_still_does() {
        let sheet = SHEET.replacen("\"size\"", "\"requiretls\": true, \"size\"", 1);
        let sheet = Sheet::read(sheet.as_bytes()).unwrap();
        let (envelope, _) = sheet.to_queue(b"abc\r\n", 9).unwrap().unwrap();
        assert!(envelope.require_tls);
        assert!(serde_json::to_string(&sheet).unwrap().contains("\"requiretls\":true"));
        let text = serde_json::to_string(&Sheet::read(SHEET.as_bytes()).unwrap()).unwrap();
        assert!(!text.contains("requiretls"), "{text}");
    }

    #[test]
    fn what_may_go_without_tls_still_may() {
        let with = |keys: &str| {
            let sheet = SHEET.replacen("\"size\"", &format!("{keys}, \"size\""), 1);
            Sheet::read(sheet.as_bytes()).unwrap()
        };
        let sheet = with("\"tls_optional\": true");
        let (envelope, _) = sheet.to_queue(b"abc\r\n", 9).unwrap().unwrap();
        assert!(envelope.tls_optional);
        assert!(serde_json::to_string(&sheet).unwrap().contains("\"tls_optional\":true"));
        let text = serde_json::to_string(&Sheet::read(SHEET.as_bytes()).unwrap()).unwrap();
        assert!(!text.contains("tls_optional"), "{text}");
        for (mode, is_known) in [("return", true), ("notify", true), ("Return", false)] {
            let time = format!("{{\"by_unix_ms\": 7, \"mode\": \"{mode}\", \"is_told\": true}}");
            let sheet = with(&format!("\"deliver_by\": {time}"));
            let Ok(Some((envelope, _))) = sheet.to_queue(b"abc\r\n", 9) else {
                assert!(!is_known, "{mode}");
                continue;
            };
            let by = envelope.deliver_by.unwrap();
            assert_eq!((by.by_unix_ms, by.mode.as_str(), by.is_told), (7, mode, true));
            let text = serde_json::to_string(&sheet).unwrap();
            assert!(text.contains(&time.replace(": ", ":").replace(", ", ",")), "{text}");
        }
        let both = with("\"tls_optional\": true, \"requiretls\": true");
        let error = both.to_queue(b"abc\r\n", 9).unwrap_err();
        assert_eq!(error.to_string(), "it has requiretls and tls_optional");
    }

    #[test]
    fn eight_bit_content_is_declared_as_such() {
        let sheet = Sheet::read(SHEET.as_bytes()).unwrap();
        let (envelope, _) = sheet.to_queue(b"ab\xE4\r\n", 9).unwrap().unwrap();
        assert_eq!(envelope.body, BodyType::EightBitMime);
    }

    #[test]
    fn binary_content_has_a_header_of_lines() {
        let read = |content: &[u8]| {
            let text = SHEET.replace("7BIT", "BINARYMIME");
            let text = text.replace("\"size\": 5", &format!("\"size\": {}", content.len()));
            let found = Sheet::read(text.as_bytes()).unwrap().to_queue(content, 9);
            found.map(|found| found.unwrap().0.body)
        };
        for good in [&b"A: b\r\n\r\n\n\xE4\r\0"[..], b"\r\n\n", b"\r\n", b"", b"A: b\r\n"] {
            assert_eq!(read(good).unwrap(), BodyType::BinaryMime, "{good:?}");
        }
        for bad in [&b"A: b\n\r\n\r\n"[..], b"\n", b"A: b", b"A: b\r"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table: [(&str, &str, &[u8], &str); 14] = [
            ("\"version\": 1", "\"version\": 2", b"abc\r\n", "it has version 2"),
            ("\"version\": 1,", "", b"abc\r\n", "it has no version"),
            ("{", "", b"abc\r\n", "it is not JSON"),
            ("\"body\"", "\"bodi\"", b"abc\r\n", "unknown field `bodi`"),
            ("7BIT", "9BIT", b"abc\r\n", "body \"9BIT\" is not known"),
            ("<a@one.test>", "a@one.test", b"abc\r\n", "reverse_path \"a@one.test\""),
            ("<c@two.test>", "<>", b"abc\r\n", "forward_path \"<>\""),
            ("\"size\"", "\"ret\": \"ALL\", \"size\"", b"abc\r\n", "ret \"ALL\" is none"),
            ("\"size\"", "\"envelope_id\": \"\", \"size\"", b"abc\r\n", "envelope_id \"\""),
            ("\"attempts\"", "\"notify\": \"SO\", \"attempts\"", b"abc\r\n", "notify \"SO\""),
            ("\"size\"", "\"priority\": 10, \"size\"", b"abc\r\n", "priority 10 is none"),
            ("\"size\": 5", "\"size\": 6", b"abc\r\n", "the content has 5 octets, not 6"),
            ("", "", b"a\nb\r\n", "octet 1 of the content"),
            ("", "", b"abcde", "does not end with CRLF"),
        ];
        for (old, new, content, expected) in table {
            let text = if old.is_empty() { SHEET.to_owned() } else { SHEET.replacen(old, new, 1) };
            let error = Sheet::read(text.as_bytes())
                .and_then(|sheet| sheet.to_queue(content, 9))
                .unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{expected:?} in {error:#}");
        }
        let sheet = Sheet::read(SHEET.as_bytes()).unwrap();
        assert!(sheet.to_queue(b"abc\r\n", 1).unwrap_err().to_string().contains("recipients_max"));
    }

    #[test]
    fn lines_end_with_both() {
        for good in [&b""[..], b"\r\n", b"a\r\n\r\nb\r\n"] {
            assert!(check_lines(good).is_ok(), "{good:?}");
        }
        for bad in [&b"\n"[..], b"\r", b"a\rb\r\n", b"\n\r\n", b"a\r\r\n", b"a\r\n\n", b"a\r\n\r"] {
            assert!(check_lines(bad).is_err(), "{bad:?}");
        }
    }
}
