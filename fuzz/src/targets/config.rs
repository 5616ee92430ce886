//! The configuration file: [`parse`], and what is made of what it accepts.

use std::net::SocketAddr;

use ringpost::config::{ConfigSnapshot, Problem, SystemFacts, parse};

use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "config",
    check,
    seeds,
    words: &[
        "[server]\n",
        "[listener.in]\n",
        "[queue]\n",
        "[delivery]\n",
        "[[route]]\n",
        "[dns]\n",
        "[control]\n",
        "[events]\n",
        "[log]\n",
        "addresses = [\"127.0.0.1:2525\"]\n",
        "hostname = \"mx.test\"\n",
        "cores = ",
        "relay_networks = [\"0.0.0.0/0\"]\n",
        "message_size_max = ",
        "segment_size = ",
        "size_max = ",
        "shards = ",
        "lifetime = ",
        "retry = [",
        "retry = { first = \"1m\", factor = 2, max = \"1h\" }\n",
        "smarthost = \"192.0.2.1:25\"\n",
        "domain = \"*\"\n",
        "\"1GiB\"",
        "\"5d\"",
        "\"500ms\"",
        "\"off\"",
        "0",
        "18446744073709551615",
        "true",
        "checkpoint_interval = ",
        "delay_warning = ",
        "port = ",
        "[aliases]\npostmaster = [\"a@b.test\"]\n",
        "[aliases]\na = [\"b\"]\nb = [\"a\"]\n",
        "not_before_header = \"X-A\"\n",
        "future_release_max = ",
    ],
    size_max: 1500,
    cost: 1,
};

type Parse = fn(&str, &SystemFacts) -> Result<ConfigSnapshot, Vec<Problem>>;

fn seeds() -> Vec<Vec<u8>> {
    let in_and = |more: &str| format!("[listener.in]\naddresses = [\"127.0.0.1:2525\"]\n{more}");
    let texts = [
        in_and(""),
        in_and(
            "relay_networks = [\"10.0.0.0/8\", \"::1\"]\nmessage_size_max = \"1MiB\"\nlenient = true\n\
             expn = true\nlifetime = \"2d\"\nfuture_release_max = \"7d\"\n\
             [server]\nhostname = \"MX.test\"\ncores = [0, 1]\nshutdown_timeout = \"5s\"\nmemory_max = \"1GiB\"\n",
        ),
        in_and(
            "recipients_max = 400\n[queue]\ndirectory = \"/q\"\nsegment_size = \"1MiB\"\nsize_max = \"1GiB\"\nshards = 2\n\
             checkpoint_interval = \"8MiB\"\ndelay_warning = \"4h\"\n[events]\nheld_segments_max = 4\n",
        ),
        in_and(
            "[delivery]\nport = 2526\nretry = [\"1m\", \"10m\"]\nidle_timeout = \"5s\"\nallow_private = true\n\
             [[route]]\ndomain = \"a.test\"\nsmarthost = \"192.0.2.1:25\"\n\
             retry = { first = \"30s\", factor = 3, max = \"4h\" }\nlifetime = \"1d\"\n\
             [[route]]\ndomain = \"*\"\nsmarthost = \"mx.test:587\"\n[dns]\nservers = [\"192.0.2.53\"]\n",
        ),
        in_and("cores = 1\n"),
        in_and("[queue]\nsegment_size = \"3KiB\"\nsize_max = \"1KiB\"\n"),
        "[listener\n".to_owned(),
        "x = 1\n".to_owned(),
        String::new(),
    ];
    texts.map(String::into_bytes).to_vec()
}

fn facts() -> SystemFacts {
    SystemFacts {
        hostname: "mx.test".to_owned(),
        cores: vec![0, 1],
        name_servers: vec![SocketAddr::from(([192, 0, 2, 53], 53))],
        memory: Some(1 << 30),
    }
}

/// Says whether what is wrong is named, and whether what is accepted can be used.
pub fn check(octets: &[u8]) -> Verdict {
    check_with(octets, parse)
}

fn check_with(octets: &[u8], parse: Parse) -> Verdict {
    let Ok(text) = std::str::from_utf8(octets) else { return Ok(()) };
    // Comments and empty lines say nothing, and push the rest down.
    let moved = parse(&format!("# a comment\n\n{text}\n# the end"), &facts());
    match (parse(text, &facts()), moved) {
        (Ok(snapshot), Ok(moved)) => {
            must!(snapshot == moved, "a comment makes it another");
            check_snapshot(&snapshot)
        }
        (Err(problems), Err(moved)) => check_problems(text, &problems, &moved),
        // An end of file in the middle of something can only be seen there.
        (one, other) => {
            must!(!text.ends_with('\n'), "{:?}, and with comments {:?}", one.err(), other.err());
            Ok(())
        }
    }
}

fn check_problems(text: &str, problems: &[Problem], moved: &[Problem]) -> Verdict {
    must!(!problems.is_empty(), "refused, and nothing is wrong");
    must!(problems.is_sorted_by_key(|one| one.line), "not in the order of lines: {problems:?}");
    let lines = text.split('\n').count();
    for problem in problems {
        must!((1..=lines).contains(&problem.line), "{problem:?} in {lines} lines");
        let reason = &problem.reason;
        must!(!reason.is_empty() && !reason.contains(['\n', '\r']), "{reason:?} is not one line");
    }
    let is_moved = problems.len() == moved.len() || !text.ends_with('\n');
    must!(is_moved, "{problems:?}, and with comments {moved:?}");
    Ok(())
}

/// Everything that the server makes of a configuration can be made, and holds what it promises.
fn check_snapshot(snapshot: &ConfigSnapshot) -> Verdict {
    let queue = snapshot.queue_config();
    must!(queue.check() == Ok(()), "the queue refuses {queue:?}");
    must!(!snapshot.config().listener.is_empty(), "no mail comes in");
    must!((1..=1024).contains(&snapshot.shards()), "{} shards", snapshot.shards());
    must!(!snapshot.cores().is_empty(), "no core");
    for name in [snapshot.hostname(), snapshot.helo_name()] {
        let is_domain = ringpost_protocol::address::Domain::parse(name).is_ok();
        must!(is_domain, "{name:?} is our name");
    }
    for listener in snapshot.config().listener.values() {
        must!(!listener.addresses.is_empty(), "a listener without an address");
        let server = snapshot.server_config(listener);
        must!(server.size_max > 0 && server.recipients_max > 0, "{server:?} takes no mail");
        let is_kept = server.recipients_max <= 65_535;
        must!(is_kept, "{} recipients cannot be stored", server.recipients_max);
        for name in [&server.not_before_header, &server.tenant_header, &server.campaign_header] {
            let is_name = ringpost_protocol::data::field::is_field_name;
            must!(name.as_deref().is_none_or(is_name), "{name:?}");
        }
    }
    let delivery = snapshot.delivery_config();
    must!(delivery.connections_per_site_max > 0, "no connection may be made");
    let (client, limits) = (snapshot.client_config(), snapshot.thresholds());
    must!(!client.timeouts.greeting.is_zero(), "no time for a greeting");
    must!(limits.memory_max > 0, "no memory");
    must!(!snapshot.summary().contains('\n'), "the summary is not one line");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(wrong: Parse) -> bool {
        seeds().iter().any(|octets| check_with(octets, wrong).is_err())
    }

    fn changed(
        text: &str,
        facts: &SystemFacts,
        change: fn(&mut Vec<Problem>),
    ) -> Result<ConfigSnapshot, Vec<Problem>> {
        parse(text, facts).map_err(|mut problems| {
            change(&mut problems);
            problems
        })
    }

    #[test]
    fn wrong_readers_are_found() {
        assert!(!is_found(parse));
        let refused: Vec<_> = seeds()
            .into_iter()
            .take(4)
            .filter_map(|text| parse(str::from_utf8(&text).unwrap(), &facts()).err())
            .collect();
        assert_eq!(refused, Vec::<Vec<Problem>>::new());
        assert!(is_found(|text, facts| changed(text, facts, Vec::clear)));
        assert!(is_found(|text, facts| changed(text, facts, |all| all[0].line = 0)));
        assert!(is_found(|text, facts| changed(text, facts, |all| all[0].line = 999)));
        assert!(is_found(|text, facts| changed(text, facts, |all| all[0].reason.push('\n'))));
        assert!(is_found(|text, facts| changed(text, facts, |all| all.reverse())));
        // A comment counts.
        assert!(is_found(|text, facts| parse(
            text.trim_start_matches("# a comment\n\n[listener"),
            facts
        )));
        // Facts that make no configuration.
        assert!(is_found(|text, facts| parse(
            text,
            &SystemFacts { cores: vec![0; 2000], ..facts.clone() }
        )));
    }
}
