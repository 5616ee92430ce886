//! Reading the machine part of a delivery status notification.

use crate::status::EnhancedStatusCode;

/// The fields of a `message/delivery-status` part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliveryStatus {
    /// The host that wrote the report, without its type.
    pub reporting_mta: Option<String>,
    /// What the client called the message.
    pub original_envelope_id: Option<String>,
    /// The recipients it tells of.
    pub recipients: Vec<RecipientStatus>,
}

/// The fields of one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecipientStatus {
    /// The recipient, without its type.
    pub final_recipient: String,
    /// Whom the originator has written to, without its type.
    pub original_recipient: Option<String>,
    /// `failed`, `delayed`, `delivered`, `relayed` or `expanded`, in lower case.
    pub action: String,
    /// Why, as a code.
    pub status: Option<EnhancedStatusCode>,
    /// The host that refused, without its type.
    pub remote_mta: Option<String>,
    /// What it said, without its type.
    pub diagnostic_code: Option<String>,
    /// Until when it will be tried again, as it is written.
    pub will_retry_until: Option<String>,
}

impl DeliveryStatus {
    /// Finds and reads the `message/delivery-status` part in the content of a report, or the
    /// `message/global-delivery-status` part (RFC 6533).
    ///
    /// `None` when there is no such part. Only the first is read, and only reports whose part
    /// headers have the type on one line.
    pub fn parse(content: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(content);
        let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
        lines.find(|line| {
            let line = line.to_ascii_lowercase();
            line.strip_prefix("content-type:")
                .and_then(|value| value.trim_start().strip_prefix("message/"))
                .map(|value| value.strip_prefix("global-").unwrap_or(value))
                .is_some_and(|value| value.starts_with("delivery-status"))
        })?;
        // The rest of the part's header section.
        lines.find(|line| line.is_empty())?;
        let part = lines.take_while(|line| !line.starts_with("--"));
        let mut status = Self::default();
        for group in groups(part) {
            let value = |name: &str| {
                let found = group.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_str())
            };
            if let Some(host) = value("Reporting-MTA") {
                status.reporting_mta = Some(without_type(host));
            }
            if let Some(id) = value("Original-Envelope-Id") {
                status.original_envelope_id = Some(id.to_owned());
            }
            if let Some(recipient) = value("Final-Recipient") {
                status.recipients.push(RecipientStatus {
                    final_recipient: without_type(recipient),
                    original_recipient: value("Original-Recipient").map(without_type),
                    action: value("Action").unwrap_or_default().to_ascii_lowercase(),
                    status: value("Status").and_then(|code| EnhancedStatusCode::parse(code).ok()),
                    remote_mta: value("Remote-MTA").map(without_type),
                    diagnostic_code: value("Diagnostic-Code").map(without_type),
                    will_retry_until: value("Will-Retry-Until").map(str::to_owned),
                });
            }
        }
        Some(status)
    }
}

type Group = Vec<(String, String)>;

/// Collects unfolded fields into groups, which empty lines separate.
fn groups<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Group> {
    let mut groups = vec![Group::new()];
    for line in lines {
        if line.is_empty() {
            groups.push(Group::new());
        } else if let Some(group) = groups.last_mut() {
            if line.starts_with([' ', '\t']) {
                if let Some((_, value)) = group.last_mut() {
                    value.push(' ');
                    value.push_str(line.trim());
                }
            } else if let Some((name, value)) = line.split_once(':') {
                group.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
    }
    groups
}

fn without_type(value: &str) -> String {
    value.split_once(';').map_or(value, |(_, rest)| rest).trim().to_owned()
}
