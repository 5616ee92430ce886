//! `[aliases]`: names of ours and addresses that stand for others.
//!
//! They are expanded here, once, so that a session finds the mailboxes at once, and whatever is wrong is
//! found before any mail comes.

use std::collections::{BTreeMap, BTreeSet};

use ringpost_protocol::address::{Domain, Mailbox};
use ringpost_protocol::limits::{ALIAS_DEPTH_MAX, ALIAS_MEMBERS_MAX, ALIASES_MAX};
use ringpost_session::server::{Alias, Aliases};

/// The table as the file has it: a name or an address, and what it stands for.
pub type AliasTable = BTreeMap<String, Vec<String>>;

/// What is wrong with an entry: its name, the place of the member if it is about one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AliasProblem {
    pub(super) name: String,
    pub(super) member: Option<usize>,
    pub(super) reason: String,
}

/// Expands a table; `own_domain` is where names without a domain are.
pub(super) fn expand(
    table: &AliasTable,
    own_domain: &Domain,
) -> Result<Aliases, Vec<AliasProblem>> {
    let mut found = Vec::new();
    let mut read = Read { own_domain, entries: BTreeMap::new(), done: BTreeMap::new() };
    for (name, members) in table {
        if let Err(problem) = read.take(name, members) {
            found.push(problem);
        }
    }
    if table.len() > ALIASES_MAX {
        let name = table.keys().nth(ALIASES_MAX).cloned().unwrap_or_default();
        found.push(AliasProblem { name, member: None, reason: format!("more than {ALIASES_MAX}") });
    }
    // Without all of them the names among the members would seem unknown.
    if !found.is_empty() {
        return Err(found);
    }
    let keys: Vec<Key> = read.entries.keys().cloned().collect();
    for key in &keys {
        if let Err(problem) = read.expand(key, &mut Vec::new()) {
            // What leads to a bad one is bad for the same reason, which is told once.
            if !found.contains(&problem) {
                found.push(problem);
            }
        }
    }
    if !found.is_empty() {
        return Err(found);
    }
    let Read { entries, mut done, .. } = read;
    let aliases = entries.into_iter().map(|(key, entry)| {
        let members = done.remove(&key).map(|expanded| expanded.members).unwrap_or_default();
        Alias::new(&entry.address, members)
    });
    Ok(Aliases::new(own_domain, aliases.collect()))
}

/// An address as aliases are compared: without its case.
type Key = String;

struct Entry<'t> {
    name: &'t str,
    address: Mailbox,
    /// Each, and whether it was a name without a domain.
    members: Vec<(Mailbox, bool)>,
}

#[derive(Clone)]
struct Expanded {
    members: Vec<Mailbox>,
    /// Aliases in a row, this one included.
    depth: usize,
}

struct Read<'t> {
    own_domain: &'t Domain,
    entries: BTreeMap<Key, Entry<'t>>,
    done: BTreeMap<Key, Expanded>,
}

impl<'t> Read<'t> {
    /// Reads an entry without looking at others.
    fn take(&mut self, name: &'t str, members: &[String]) -> Result<(), AliasProblem> {
        let problem = |member, reason| AliasProblem { name: name.to_owned(), member, reason };
        let address = self.mailbox(name).map_err(|reason| problem(None, reason))?;
        if members.is_empty() {
            return Err(problem(None, "stands for nobody".to_owned()));
        }
        let mut mailboxes = Vec::new();
        for (index, member) in members.iter().enumerate() {
            let mailbox = self.mailbox(member).map_err(|reason| problem(Some(index), reason))?;
            if !mailbox.is_ascii() {
                // Nobody could tell senders without SMTPUTF8 that they cannot write to the alias.
                let reason =
                    format!("{member:?} is outside of ASCII: most mail could not go there");
                return Err(problem(Some(index), reason));
            }
            mailboxes.push((mailbox, !member.contains('@')));
        }
        let entry = Entry { name, address, members: mailboxes };
        let key = key(&entry.address);
        if let Some(other) = self.entries.insert(key, entry) {
            return Err(problem(None, format!("the same as {:?}", other.name)));
        }
        Ok(())
    }

    fn mailbox(&self, text: &str) -> Result<Mailbox, String> {
        let whole = if text.contains('@') {
            text.to_owned()
        } else {
            format!("{text}@{}", self.own_domain)
        };
        Mailbox::parse(&whole).map_err(|error| format!("{text:?}: {error}"))
    }

    /// Finds out for which mailboxes an alias stands; `path` is how it was come by.
    fn expand(&mut self, key: &Key, path: &mut Vec<Key>) -> Result<Expanded, AliasProblem> {
        if let Some(done) = self.done.get(key) {
            return Ok(done.clone());
        }
        let Some(entry) = self.entries.get(key) else {
            return Ok(Expanded { members: Vec::new(), depth: 0 });
        };
        let name = entry.name.to_owned();
        let problem = |member, reason| AliasProblem { name: name.clone(), member, reason };
        path.push(key.clone());
        let (mut members, mut seen, mut depth) = (Vec::new(), BTreeSet::new(), 1);
        for (index, (mailbox, is_name)) in entry.members.clone().into_iter().enumerate() {
            let inner = self::key(&mailbox);
            let of_member = if path.contains(&inner) {
                let reason = format!("{mailbox} leads back to itself");
                return Err(problem(Some(index), reason));
            } else if self.entries.contains_key(&inner) {
                if path.len() >= ALIAS_DEPTH_MAX {
                    let reason = format!("more than {ALIAS_DEPTH_MAX} aliases in a row");
                    return Err(problem(Some(index), reason));
                }
                let inner = self.expand(&inner, path)?;
                depth = depth.max(inner.depth + 1);
                inner.members
            } else if is_name {
                let reason = format!("there is no alias {mailbox}");
                return Err(problem(Some(index), reason));
            } else {
                vec![mailbox]
            };
            for member in of_member {
                if seen.insert(member.clone()) {
                    members.push(member);
                }
            }
            if members.len() > ALIAS_MEMBERS_MAX {
                let reason = format!("stands for more than {ALIAS_MEMBERS_MAX} mailboxes");
                return Err(problem(None, reason));
            }
        }
        path.pop();
        if depth > ALIAS_DEPTH_MAX {
            return Err(problem(None, format!("more than {ALIAS_DEPTH_MAX} aliases in a row")));
        }
        let expanded = Expanded { members, depth };
        self.done.insert(key.clone(), expanded.clone());
        Ok(expanded)
    }
}

fn key(address: &Mailbox) -> Key {
    format!("{}@{}", address.local_part().to_ascii_lowercase(), address.host())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use ringpost_protocol::path::ForwardPath;

    use super::*;

    fn table(text: &str) -> AliasTable {
        toml::from_str(text).unwrap()
    }

    fn expanded(text: &str) -> Result<Aliases, Vec<String>> {
        let own_domain = Domain::parse("relay.test").unwrap();
        expand(&table(text), &own_domain).map_err(|found| {
            let line = |one: AliasProblem| match one.member {
                Some(member) => format!("{}.{member}: {}", one.name, one.reason),
                None => format!("{}: {}", one.name, one.reason),
            };
            found.into_iter().map(line).collect()
        })
    }

    #[test]
    fn names_and_addresses_are_followed_to_mailboxes() {
        let text = "postmaster = ['ops', 'boss@b.test']\n\
            Ops = ['a@b.test', 'boss@b.test']\n\
            'info@A.test' = ['Postmaster@RELAY.test', 'i@[192.0.2.1]']";
        let aliases = expanded(text).unwrap();
        let members = |path: &str| -> Vec<String> {
            let path = ForwardPath::parse(path).unwrap();
            aliases.find(&path).unwrap().members().iter().map(ToString::to_string).collect()
        };
        assert_eq!(members("<postmaster>"), ["a@b.test", "boss@b.test"]);
        assert_eq!(members("<ops@relay.test>"), ["a@b.test", "boss@b.test"]);
        assert_eq!(members("<info@a.test>"), ["a@b.test", "boss@b.test", "i@[192.0.2.1]"]);
        assert_eq!(expanded("").unwrap(), Aliases::default());
    }

    #[test]
    fn what_cannot_be_is_told_with_its_place() {
        for (text, expected) in [
            ("a = []", "a: stands for nobody"),
            ("'a b' = ['a@b.test']", "a b: \"a b\": "),
            ("'' = ['a@b.test']", ": \"\": "),
            ("a = ['x@b.test', 'c@']", "a.1: \"c@\": "),
            ("a = ['\u{fc}@b.test']", "a.0: \"\u{fc}@b.test\" is outside of ASCII"),
            ("a = ['x@b.test']\n'A@relay.TEST' = ['x@b.test']", "a: the same as \"A@relay.TEST\""),
            ("a = ['a']", "a.0: a@relay.test leads back to itself"),
            ("a = ['b']\nb = ['c']\nc = ['B']", "c.0: B@relay.test leads back to itself"),
            ("a = ['nobody']", "a.0: there is no alias nobody@relay.test"),
        ] {
            let found = expanded(text).unwrap_err();
            assert!(found[0].starts_with(expected), "{text}: {found:?}");
        }
    }

    #[test]
    fn members_and_depth_are_limited() {
        let many = |count: usize| {
            let members: Vec<String> =
                (0..count).map(|number| format!("'u{number}@b.test'")).collect();
            format!("all = [{}]", members.join(", "))
        };
        assert!(expanded(&many(ALIAS_MEMBERS_MAX)).is_ok());
        let found = expanded(&many(ALIAS_MEMBERS_MAX + 1)).unwrap_err();
        assert_eq!(found, ["all: stands for more than 100 mailboxes"]);
        let mut text = String::from("n0 = ['a@b.test']\n");
        for number in 1..ALIAS_DEPTH_MAX {
            let _ = writeln!(text, "n{number} = ['n{}']", number - 1);
        }
        assert!(expanded(&text).is_ok());
        // Whichever way they are come by: by the deepest first, or last.
        for name in ["z", "a"] {
            let text = format!("{text}{name} = ['n{}']\n", ALIAS_DEPTH_MAX - 1);
            let found = expanded(&text).unwrap_err();
            assert!(found[0].contains("more than 10 aliases in a row"), "{found:?}");
        }
    }
}
