//! The keys about the header section of messages that come in, with their checks.

use serde::Deserialize;

use super::schema::{ListenerSection, Role};

/// `[listener.NAME.header]`
#[derive(Debug, Clone, PartialEq, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderSection {
    /// Whether a missing `Date` or `Message-ID` is added for clients that may relay. Default: where the
    /// role is for submission.
    pub add_missing: Option<bool>,
}

impl ListenerSection {
    /// Whether messages get a `Date` and a `Message-ID` if they have none.
    pub fn adds_missing_fields(&self) -> bool {
        self.header.add_missing.unwrap_or(self.role != Role::Relay)
    }
}
