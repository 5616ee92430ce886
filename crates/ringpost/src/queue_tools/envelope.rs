//! The open format of exported mail: a JSON envelope beside each message.

use anyhow::{Context, Result, bail, ensure};
use ringpost_protocol::{
    envelope::{BodyType, Envelope},
    path::{ForwardPath, ReversePath},
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

impl Sheet {
    /// The envelope of a message in the queue.
    pub(super) fn new(view: &ringpost_queue::MessageView<'_>, envelope: &Envelope) -> Self {
        let waiting = view.recipients.iter().filter(|one| !one.status.is_settled());
        let due = waiting.map(|one| one.due_unix_ms).min().unwrap_or(0);
        let recipient = |(path, one): (&ForwardPath, &RecipientEntry)| Recipient {
            forward_path: path.to_string(),
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
            size: view.size,
            received_unix_ms: view.received_unix_ms,
            expiry_unix_ms: view.expiry_unix_ms,
            due_unix_ms: due,
            recipients: envelope.forward_paths.iter().zip(view.recipients).map(recipient).collect(),
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
    /// What is wrong with it: the size of the content or the ends of its lines, a path or the body type
    /// that is none, or more than `recipients_max` recipients.
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
        check_lines(content)?;
        let reverse_path = ReversePath::parse(&self.reverse_path)
            .with_context(|| format!("reverse_path {:?}", self.reverse_path))?;
        let mut body = BodyType::from_keyword(&self.body)
            .with_context(|| format!("body {:?} is not known", self.body))?;
        if !content.is_ascii() {
            body = BodyType::EightBitMime;
        }
        let (mut paths, mut states) = (Vec::new(), Vec::new());
        for recipient in &self.recipients {
            let path = ForwardPath::parse(&recipient.forward_path)
                .with_context(|| format!("forward_path {:?}", recipient.forward_path))?;
            if recipient.state == State::Queued {
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
        let envelope = Envelope::new(reverse_path, paths, body);
        Ok((count > 0).then_some((envelope, states)))
    }
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
    fn eight_bit_content_is_declared_as_such() {
        let sheet = Sheet::read(SHEET.as_bytes()).unwrap();
        let (envelope, _) = sheet.to_queue(b"ab\xE4\r\n", 9).unwrap().unwrap();
        assert_eq!(envelope.body, BodyType::EightBitMime);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table: [(&str, &str, &[u8], &str); 10] = [
            ("\"version\": 1", "\"version\": 2", b"abc\r\n", "it has version 2"),
            ("\"version\": 1,", "", b"abc\r\n", "it has no version"),
            ("{", "", b"abc\r\n", "it is not JSON"),
            ("\"body\"", "\"bodi\"", b"abc\r\n", "unknown field `bodi`"),
            ("7BIT", "9BIT", b"abc\r\n", "body \"9BIT\" is not known"),
            ("<a@one.test>", "a@one.test", b"abc\r\n", "reverse_path \"a@one.test\""),
            ("<c@two.test>", "<>", b"abc\r\n", "forward_path \"<>\""),
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
