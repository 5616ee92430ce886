//! Who a client is, and what it may do.

use ringpost_protocol::address::{Domain, Host, Mailbox};
use ringpost_protocol::path::ReversePath;

/// A user, as a session knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its name; free of control characters.
    pub name: Box<str>,
    /// On whose behalf it sends; a text that `LabelText::new` takes.
    pub tenant: Option<Box<str>>,
    /// What it may give as reverse-path.
    pub reverse_paths: ReversePaths,
}

/// What a user may give as reverse-path. The null one is always allowed: reports on what was read have
/// it (RFC 8098 §2.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ReversePaths {
    /// Anything.
    #[default]
    Any,
    /// What one of the rules allows.
    Listed(Vec<ReversePathRule>),
}

/// What a rule allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReversePathRule {
    /// One mailbox. Its local-part is compared to the letter.
    Mailbox(Mailbox),
    /// All mailboxes of a domain, without those of its subdomains.
    Domain(Domain),
}

impl ReversePathRule {
    /// Reads `a@b.test` or `b.test`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains('@') {
            Mailbox::parse(text).ok().map(Self::Mailbox)
        } else {
            Domain::parse(text).ok().map(Self::Domain)
        }
    }

    fn allows(&self, mailbox: &Mailbox) -> bool {
        match self {
            Self::Mailbox(allowed) => allowed == mailbox,
            Self::Domain(domain) => {
                matches!(mailbox.host(), Host::Domain(found) if found == domain)
            }
        }
    }
}

impl ReversePaths {
    /// Whether a reverse-path is allowed.
    pub fn allow(&self, path: &ReversePath) -> bool {
        match (self, path) {
            (Self::Any, _) | (_, ReversePath::Null) => true,
            (Self::Listed(rules), ReversePath::Mailbox(mailbox)) => {
                rules.iter().any(|rule| rule.allows(mailbox))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_allow_mailboxes_and_domains() {
        let rules = ["a@one.test", "two.test"].map(|text| ReversePathRule::parse(text).unwrap());
        let listed = ReversePaths::Listed(rules.to_vec());
        for (path, expected) in [
            ("<>", true),
            ("<a@one.test>", true),
            ("<a@ONE.test>", true),
            ("<A@one.test>", false),
            ("<b@one.test>", false),
            ("<b@two.test>", true),
            ("<b@x.two.test>", false),
            ("<b@xtwo.test>", false),
            ("<two.test@three.test>", false),
            ("<b@[192.0.2.1]>", false),
        ] {
            let path = ReversePath::parse(path).unwrap();
            assert_eq!(listed.allow(&path), expected, "{path}");
            assert!(ReversePaths::Any.allow(&path));
            let none = ReversePaths::Listed(Vec::new());
            assert_eq!(none.allow(&path), path.is_null());
        }
        for bad in ["", "a@", "@b.test", "*", "a b.test", ".test"] {
            assert_eq!(ReversePathRule::parse(bad), None, "{bad}");
        }
    }
}
