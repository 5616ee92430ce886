//! The keys about the header section of messages that come in, with their checks.

use ringpost_protocol::data::field::is_field_name;
use serde::Deserialize;

use super::check::Findings;
use super::schema::{ListenerSection, Role};

/// Fields that mail cannot do without.
const TAKEN_FIELDS_NOT: [&str; 12] = [
    "Bcc",
    "Cc",
    "Content-Type",
    "Date",
    "From",
    "Message-ID",
    "MIME-Version",
    "Received",
    "Reply-To",
    "Sender",
    "Subject",
    "To",
];

/// `[listener.NAME.header]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderSection {
    /// Whether a missing `Date` or `Message-ID` is added for clients that may relay. Default: where the
    /// role is for submission.
    pub add_missing: Option<bool>,
    /// The field by which clients that may relay name the tenant; it is taken out. Default: none.
    pub tenant: String,
    /// The field by which they name the campaign; it is taken out. Default: none.
    pub campaign: String,
    /// Whether `TLS-Required: No` counts (RFC 8689), whoever sends it. Default: yes.
    pub tls_required: bool,
}

impl Default for HeaderSection {
    fn default() -> Self {
        Self {
            add_missing: None,
            tenant: String::new(),
            campaign: String::new(),
            tls_required: true,
        }
    }
}

impl ListenerSection {
    /// Whether messages get a `Date` and a `Message-ID` if they have none.
    pub fn adds_missing_fields(&self) -> bool {
        self.header.add_missing.unwrap_or(self.role != Role::Relay)
    }
}

/// The name of a field, if there is one.
pub(super) fn field_name(name: &str) -> Option<Box<str>> {
    (!name.is_empty()).then(|| name.into())
}

/// Finds fields that cannot be taken out, or for two purposes.
pub(super) fn check_header(found: &mut Findings, section: &[&str; 2], listener: &ListenerSection) {
    let header = &listener.header;
    let fields: [(&[&str], &str); 3] = [
        (&["not_before_header"], &listener.not_before_header),
        (&["header", "tenant"], &header.tenant),
        (&["header", "campaign"], &header.campaign),
    ];
    let mut taken: Vec<&str> = Vec::new();
    for (key, name) in fields.into_iter().filter(|(_, name)| !name.is_empty()) {
        let place = [&section[..], key].concat();
        let is_same = |other: &&str| other.eq_ignore_ascii_case(name);
        if !is_field_name(name) {
            found.add(&place, format!("{name:?} is not the name of a header field"));
        } else if TAKEN_FIELDS_NOT.iter().any(is_same) {
            found.add(&place, format!("{name} says something else, and would be taken out"));
        } else if taken.iter().any(is_same) {
            found.add(&place, format!("{name} is taken out for something else"));
        }
        taken.push(name);
    }
}
