//! ETRN: a client has the mail for a place tried now (RFC 1985).

use std::fmt;

use crate::address::{Domain, Host};

/// Whose mail ETRN is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Node {
    /// One domain without its subdomains, or one address literal.
    Host(Host),
    /// `@`: a domain and all below it.
    Subdomains(Domain),
    /// `#`: a queue that has a name; printable ASCII without white space.
    Queue(Box<str>),
}

impl Node {
    /// Reads the argument of ETRN; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(domain) = text.strip_prefix('@') {
            return Domain::parse(domain).ok().map(Self::Subdomains);
        }
        if let Some(name) = text.strip_prefix('#') {
            let is_name = !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_graphic());
            return is_name.then(|| Self::Queue(name.into()));
        }
        Host::parse(text).ok().map(Self::Host)
    }
}

/// As it stands behind `ETRN`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Subdomains(domain) => write!(f, "@{domain}"),
            Self::Queue(name) => write!(f, "#{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_character_says_what_is_meant() {
        let shown = |text: &str| Node::parse(text).map(|node| format!("{node:?}"));
        for (text, start) in [
            ("A.test", "Host(Domain"),
            ("[192.0.2.1]", "Host(Literal"),
            ("@a.test", "Subdomains("),
            ("#nightly", "Queue(\"nightly\""),
        ] {
            assert!(shown(text).unwrap().starts_with(start), "{text}");
        }
        for text in [
            "",
            "@",
            "#",
            "a b",
            "@[192.0.2.1]",
            "@@a.test",
            "# a",
            "a..b",
            "#\u{fc}",
            "\u{fc}.test",
        ] {
            assert_eq!(shown(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(text in "[@#]?[a-z.]{0,12}") {
            if let Some(node) = Node::parse(&text) {
                prop_assert_eq!(Node::parse(&node.to_string()), Some(node));
            }
        }
    }
}
