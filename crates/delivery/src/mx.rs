//! Chooses the hosts of a domain from its MX records.

use std::net::IpAddr;
use std::rc::Rc;

use crate::dns::MxRecord;

/// Most hosts of one MX set that are used, the preferred ones first.
pub const HOSTS_MAX: usize = 10;

/// A host of an MX set, with its place in the order of trying.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RankedHost {
    /// 0 for the best preference, 1 for the next, …; hosts of one rank are equal.
    pub rank: u8,
    /// Lower-case host name.
    pub name: Rc<str>,
}

/// What MX records say about where mail goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// To these hosts, at least one, sorted by rank and name.
    Hosts(Vec<RankedHost>),
    /// Nowhere: the domain takes no mail (RFC 7505).
    NullMx,
    /// To ourselves: no host is better than we are (RFC 5321 §5.1).
    Loop,
    /// No record names a host.
    NoUsableHost,
}

/// Selects hosts from `records`; `hostname` is our own name, lower case.
pub fn select(records: &[MxRecord], hostname: &str) -> Selection {
    // RFC 7505 §3: a null MX is the only record; beside others it is noise.
    if let [only] = records
        && only.exchange.is_empty()
    {
        return Selection::NullMx;
    }
    let mut hosts: Vec<(u16, &Rc<str>)> = records
        .iter()
        .filter(|record| is_host_name(&record.exchange))
        .map(|record| (record.preference, &record.exchange))
        .collect();
    if hosts.is_empty() {
        return Selection::NoUsableHost;
    }
    hosts.sort_unstable();
    // RFC 5321 §5.1: at and behind our own preference, mail would come back to us.
    let own =
        hosts.iter().find(|(_, name)| &***name == hostname).map(|(preference, _)| *preference);
    if let Some(own) = own {
        hosts.retain(|(preference, _)| *preference < own);
        if hosts.is_empty() {
            return Selection::Loop;
        }
    }
    let mut selected: Vec<RankedHost> = Vec::new();
    let mut rank = 0;
    let mut preference_before = None;
    for (preference, name) in hosts {
        if selected.len() == HOSTS_MAX {
            break;
        }
        if selected.iter().any(|host| host.name == *name) {
            continue;
        }
        if preference_before.is_some_and(|before| before != preference) {
            rank += 1;
        }
        preference_before = Some(preference);
        selected.push(RankedHost { rank, name: Rc::clone(name) });
    }
    Selection::Hosts(selected)
}

/// An address where a name belongs is a mistake that some resolvers would hide; it is refused.
fn is_host_name(name: &str) -> bool {
    let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !name.is_empty() && name.bytes().all(sane) && name.parse::<IpAddr>().is_err()
}

/// Names the site of an MX set: equal hosts joined by `|` in the order of their names, ranks by
/// `,`. Domains with the same hosts in the same order have the same name.
pub fn site_name(hosts: &[RankedHost]) -> Rc<str> {
    let mut name = String::new();
    let mut rank_before = None;
    for host in hosts {
        match rank_before {
            None => {}
            Some(before) if before == host.rank => name.push('|'),
            Some(_) => name.push(','),
        }
        rank_before = Some(host.rank);
        name.push_str(&host.name);
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(list: &[(u16, &str)]) -> Vec<MxRecord> {
        list.iter()
            .map(|(preference, exchange)| MxRecord {
                preference: *preference,
                exchange: (*exchange).into(),
            })
            .collect()
    }

    #[test]
    fn selection_table() {
        // Label, records, selection as the site's name or a word.
        type Row = (&'static str, &'static [(u16, &'static str)], &'static str);
        let rows: &[Row] = &[
            ("one", &[(10, "a")], "a"),
            ("by preference", &[(20, "a"), (10, "b")], "b,a"),
            ("equals by name", &[(10, "b"), (10, "a"), (20, "c")], "a|b,c"),
            ("preferences are relative", &[(0, "b"), (0, "a"), (65535, "c")], "a|b,c"),
            ("a name twice counts once", &[(10, "a"), (20, "a"), (30, "b")], "a,b"),
            ("null", &[(0, "")], "null"),
            ("null with any preference", &[(10, "")], "null"),
            ("null beside another", &[(0, ""), (10, "a")], "a"),
            ("only addresses", &[(10, "192.0.2.1"), (20, "2001:db8::1")], "none"),
            ("address beside a name", &[(10, "192.0.2.1"), (20, "a")], "a"),
            ("not a name", &[(10, "a b")], "none"),
            ("no records", &[], "none"),
            ("only us", &[(10, "me.example")], "loop"),
            ("we are best", &[(10, "me.example"), (20, "a")], "loop"),
            ("we are equal", &[(10, "me.example"), (10, "a")], "loop"),
            ("behind us", &[(10, "a"), (20, "me.example"), (30, "b")], "a"),
        ];
        for (label, list, expected) in rows {
            let found = match select(&records(list), "me.example") {
                Selection::Hosts(hosts) => site_name(&hosts).to_string(),
                Selection::NullMx => "null".into(),
                Selection::Loop => "loop".into(),
                Selection::NoUsableHost => "none".into(),
            };
            assert_eq!(found, *expected, "{label}");
        }
    }

    #[test]
    fn many_hosts_are_cut_and_the_cut_does_not_depend_on_the_order() {
        let mut many: Vec<MxRecord> = (0..300_u16)
            .map(|n| MxRecord { preference: n % 4, exchange: format!("mx{n}").into() })
            .collect();
        let one = select(&many, "");
        many.reverse();
        assert_eq!(one, select(&many, ""));
        let Selection::Hosts(hosts) = one else { panic!("{one:?}") };
        assert_eq!(hosts.len(), HOSTS_MAX);
        assert!(hosts.iter().all(|host| host.rank == 0));
    }
}
