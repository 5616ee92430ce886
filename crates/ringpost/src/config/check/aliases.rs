//! What cannot be with aliases.

use ringpost_protocol::address::Domain;

use super::Findings;
use crate::config::aliases::expand;
use crate::config::schema::Config;
use crate::config::system::SystemFacts;

pub(super) fn check_aliases(found: &mut Findings, config: &Config, facts: &SystemFacts) {
    let hostname = config.server.hostname.as_deref().unwrap_or(&facts.hostname);
    // A bad name of ours is told where it stands.
    let Ok(own_domain) = Domain::parse(hostname) else { return };
    let problems = match expand(&config.aliases, &own_domain) {
        Ok(aliases) => return check_room(found, config, aliases.members_most()),
        Err(problems) => problems,
    };
    for problem in problems {
        let mut place = vec!["aliases".to_owned(), problem.name];
        place.extend(problem.member.map(|member| member.to_string()));
        found.add_at(place, problem.reason);
    }
}

/// An alias that no transaction has room for would be put off for ever.
fn check_room(found: &mut Findings, config: &Config, members: usize) {
    for (name, listener) in &config.listener {
        if listener.recipients_max != 0 && listener.recipients_max < members {
            let reason = format!("one of the aliases stands for {members} mailboxes");
            found.add(&["listener", name, "recipients_max"], reason);
        }
    }
}
