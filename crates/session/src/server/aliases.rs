//! Aliases: names of ours that stand for mailboxes, and EXPN, which tells which (RFC 5321 §3.5, §3.9.1).

use std::cmp::Ordering;
use std::time::Instant;

use ringpost_protocol::address::{Domain, Host, Mailbox};
use ringpost_protocol::extension::Extension;
use ringpost_protocol::notify::{OriginalRecipient, RecipientDsn};
use ringpost_protocol::parameter::RcptParameters;
use ringpost_protocol::path::ForwardPath;

use super::replies;
use super::session::ServerSession;
use super::stats::{ServerLimit, TransactionRefusal};

/// The local-part that everybody may write to (RFC 5321 §4.5.1).
const POSTMASTER: &str = "postmaster";

/// What stands for other mailboxes, at RCPT, VRFY and EXPN.
///
/// Shape: a sorted table that never changes. Local-parts of aliases are the same in any case, whoever
/// owns them decides that (RFC 5321 §2.4). Default: none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Aliases {
    /// Where names without a domain are; `None` while there are no aliases.
    own_host: Option<Host>,
    /// In the order of `Alias::cmp_to`.
    entries: Box<[Alias]>,
}

/// An address that stands for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alias {
    /// In lower case, as far as it is ASCII.
    local_part: Box<str>,
    host: Host,
    members: Box<[Mailbox]>,
}

impl Alias {
    /// Makes an alias of `address`, for at least one mailbox. `members` are final: none of them is an
    /// alias.
    pub fn new(address: &Mailbox, members: Vec<Mailbox>) -> Self {
        let local_part = address.local_part().to_ascii_lowercase().into();
        Self { local_part, host: address.host().clone(), members: members.into() }
    }

    /// The mailboxes that it stands for, each once.
    pub fn members(&self) -> &[Mailbox] {
        &self.members
    }

    /// How it stands to an address in the order of the table.
    fn cmp_to(&self, local_part: &str, host: &Host) -> Ordering {
        let lower = local_part.bytes().map(|octet| octet.to_ascii_lowercase());
        self.local_part.bytes().cmp(lower).then_with(|| self.host.cmp(host))
    }
}

impl Aliases {
    /// Makes the table. Of two aliases of the same address the first counts.
    ///
    /// `own_domain` is where names without a domain are, `<Postmaster>` among them.
    pub fn new(own_domain: &Domain, mut entries: Vec<Alias>) -> Self {
        entries.sort_by(|one, other| one.cmp_to(&other.local_part, &other.host));
        entries.dedup_by(|one, other| one.cmp_to(&other.local_part, &other.host).is_eq());
        let own_host = (!entries.is_empty()).then(|| Host::Domain(own_domain.clone()));
        Self { own_host, entries: entries.into() }
    }

    /// What a forward-path stands for, if it is an alias. Allocates nothing.
    pub fn find(&self, path: &ForwardPath) -> Option<&Alias> {
        match path {
            _ if self.entries.is_empty() => None,
            ForwardPath::Mailbox(mailbox) => self.at(mailbox.local_part(), mailbox.host()),
            ForwardPath::Postmaster => self.find_name(POSTMASTER),
        }
    }

    /// The alias of a name without a domain.
    pub fn find_name(&self, name: &str) -> Option<&Alias> {
        self.at(name, self.own_host.as_ref()?)
    }

    /// Mailboxes that the largest alias stands for; 0 without aliases.
    pub fn members_most(&self) -> usize {
        self.entries.iter().map(|alias| alias.members.len()).max().unwrap_or(0)
    }

    /// Whether an alias is that of the postmaster, to whom everybody may write.
    fn is_postmaster(&self, alias: &Alias) -> bool {
        &*alias.local_part == POSTMASTER && self.own_host.as_ref() == Some(&alias.host)
    }

    fn at(&self, local_part: &str, host: &Host) -> Option<&Alias> {
        let found = self.entries.binary_search_by(|alias| alias.cmp_to(local_part, host));
        found.ok().and_then(|at| self.entries.get(at))
    }
}

/// What VRFY and EXPN ask about.
pub(super) enum Asked {
    /// An address, or the postmaster.
    Path(ForwardPath),
    /// A word that could be a name of ours, and is no address.
    Name,
    /// Something else with an `@`.
    Nonsense,
}

impl ServerSession {
    /// Whether EXPN is taken from this client.
    pub(super) fn offers_expn(&self) -> bool {
        self.config.expn && self.may_relay() && self.config.extensions.contains(Extension::Expn)
    }

    /// Takes a recipient that is an alias, if it is one that the client may write to: its members stand
    /// in its place. Says whether it did anything, that is whether it has replied.
    pub(super) fn accept_alias(&mut self, path: &ForwardPath, parameters: &RcptParameters) -> bool {
        let config = std::sync::Arc::clone(&self.config);
        let Some(alias) = config.aliases.find(path) else { return false };
        if !self.may_relay() && !config.aliases.is_postmaster(alias) {
            return false;
        }
        let Some(transaction) = &mut self.transaction else { return false };
        let count = alias.members.len();
        // All of them or none: the client hears of one recipient only.
        if transaction.accepted.saturating_add(count) > config.recipients_max {
            transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
            self.stats.count_limit(ServerLimit::Recipients);
            self.push(replies::TOO_MANY_RECIPIENTS);
            return true;
        }
        let (notify, mut original) = (parameters.notify, parameters.original.clone());
        if notify.is_some() {
            // RFC 3461 §5.2.1 d: what a later host reports on is what the client has written to.
            original.get_or_insert_with(|| OriginalRecipient::of(path));
        }
        let dsn = RecipientDsn::new(notify, original);
        if !dsn.is_empty() {
            if !transaction.has_dsn_room(&dsn, count, config.dsn_parameters_size_max) {
                transaction.refused.get_or_insert(TransactionRefusal::NoRecipient);
                self.stats.count_limit(ServerLimit::DsnParameters);
                self.push(replies::TOO_MANY_RECIPIENTS);
                return true;
            }
            let first = transaction.envelope.forward_paths.len();
            for at in first..first + count {
                transaction.envelope.dsn.set_recipient(at, dsn.clone());
            }
        }
        transaction.accepted += count;
        let members = alias.members.iter().cloned().map(ForwardPath::Mailbox);
        transaction.envelope.forward_paths.extend(members);
        self.stats.count_alias();
        self.push(replies::RCPT_OK);
        true
    }

    /// Says for which mailboxes an alias stands, to clients that may know; else there is no such
    /// command (RFC 5321 §3.5.2).
    pub(super) fn handle_expn(&mut self, now: Instant, text: &str) {
        if !self.offers_expn() {
            return self.refuse(now, replies::NOT_IMPLEMENTED);
        }
        let (text, _) = self.without_utf8_word(text);
        let config = std::sync::Arc::clone(&self.config);
        let alias = match self.asked(text) {
            Asked::Path(path) => config.aliases.find(&path),
            Asked::Name => config.aliases.find_name(text),
            Asked::Nonsense => return self.refuse(now, replies::NOT_A_MAILBOX),
        };
        let Some(alias) = alias else { return self.refuse(now, replies::NOT_A_LIST) };
        if !self.count_junk(now) {
            return;
        }
        for (at, member) in alias.members.iter().enumerate() {
            let mark = if at + 1 < alias.members.len() { '-' } else { ' ' };
            let line = format!("250{mark}2.1.5 <{member}>\r\n");
            self.output().extend_from_slice(line.as_bytes());
        }
    }

    /// Takes the word off that says that the reply may have UTF-8 (RFC 6531 §3.7.4.2); whether it was
    /// there.
    pub(super) fn without_utf8_word<'a>(&self, text: &'a str) -> (&'a str, bool) {
        match text.rsplit_once(' ') {
            Some((text, word)) if word.eq_ignore_ascii_case("SMTPUTF8") && self.offers_utf8() => {
                (text.trim_ascii_end(), true)
            }
            _ => (text, false),
        }
    }

    /// Reads what VRFY or EXPN asks about.
    pub(super) fn asked(&self, text: &str) -> Asked {
        let path = if text.starts_with('<') {
            ForwardPath::parse(text).ok()
        } else if text.eq_ignore_ascii_case(POSTMASTER) {
            Some(ForwardPath::Postmaster)
        } else {
            Mailbox::parse_with(text, self.config.syntax()).ok().map(ForwardPath::Mailbox)
        };
        match path {
            Some(path) => Asked::Path(path),
            None if text.contains('@') => Asked::Nonsense,
            None => Asked::Name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    #[test]
    fn an_alias_is_found_in_any_case_and_at_its_own_domain_only() {
        let own = Domain::parse("relay.test").unwrap();
        let alias =
            |address: &str, member: &str| Alias::new(&mailbox(address), vec![mailbox(member)]);
        let table = Aliases::new(
            &own,
            vec![
                alias("postmaster@relay.test", "p@b.test"),
                alias("Info@a.test", "i@b.test"),
                alias("info@c.test", "j@b.test"),
                alias("info@C.test", "never@b.test"),
            ],
        );
        let found = |path: &str| {
            let alias = table.find(&ForwardPath::parse(path).unwrap());
            alias.map(|alias| alias.members()[0].to_string())
        };
        for (path, expected) in [
            ("<Postmaster>", Some("p@b.test")),
            ("<POSTMASTER@Relay.test>", Some("p@b.test")),
            ("<postmaster@a.test>", None),
            ("<iNFO@A.test>", Some("i@b.test")),
            ("<info@c.test>", Some("j@b.test")),
            ("<info@relay.test>", None),
            ("<inf@a.test>", None),
            ("<infoo@a.test>", None),
        ] {
            assert_eq!(found(path).as_deref(), expected, "{path}");
        }
        assert!(table.find_name("pOstmaster").is_some() && table.find_name("info").is_none());
        let none = Aliases::default();
        assert!(none.find(&ForwardPath::Postmaster).is_none() && none.find_name("a").is_none());
    }
}
