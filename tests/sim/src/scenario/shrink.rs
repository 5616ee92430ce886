//! From a run that fails to a shorter one that fails in the same way.

use super::plan::{DomainKind, Plan};
use super::{Report, run};
use crate::disk::DiskFaults;
use crate::dns::DnsHabits;
use crate::injector::Ways;
use crate::net::Link;
use crate::remote::Habits;

/// Fewest messages of a shrunk run.
const MESSAGES_MIN: u64 = 1;

/// Makes a plan simpler bit by bit, for as long as the run goes wrong in the same way, with at most `runs_max`
/// runs. Gives the simplest plan found, its report, and how many runs that took.
///
/// `None` if the plan does not fail.
pub fn shrink(plan: &Plan, runs_max: u32) -> Option<(Plan, Report, u32)> {
    shrink_with(plan, runs_max, run)
}

fn shrink_with(
    plan: &Plan,
    runs_max: u32,
    mut run: impl FnMut(&Plan) -> Report,
) -> Option<(Plan, Report, u32)> {
    let (mut plan, mut report) = (plan.clone(), run(plan));
    let wanted = kind(&report)?;
    let mut runs = 1;
    'simpler: loop {
        for simpler in simplifications(&plan) {
            if runs >= runs_max {
                break 'simpler;
            }
            let found = run(&simpler);
            runs += 1;
            if kind(&found).as_ref() == Some(&wanted) {
                (plan, report) = (simpler, found);
                continue 'simpler;
            }
        }
        break;
    }
    Some((plan, report, runs))
}

/// What is wrong, without when and with what.
fn kind(report: &Report) -> Option<String> {
    let first = report.violations.first()?;
    // "[12.345 s] what is wrong: with what", or "at 12.345 s: what is wrong: with what".
    let what = first.split_once("] ").map_or(first.as_str(), |(_, what)| what);
    let what =
        what.strip_prefix("at ").and_then(|at| at.split_once(": ")).map_or(what, |(_, what)| what);
    let what = what.split(':').next().unwrap_or_default();
    Some(what.chars().filter(|char| !char.is_ascii_digit()).collect())
}

/// Plans that are simpler by one thing, those first that save most.
fn simplifications(plan: &Plan) -> Vec<Plan> {
    let mut found = Vec::new();
    let mut add = |change: &dyn Fn(&mut Plan)| {
        let mut simpler = plan.clone();
        change(&mut simpler);
        found.push(simpler);
    };
    let quiet = Plan::quiet(plan.seed, plan.messages);
    for messages in [plan.messages / 8, plan.messages / 2, plan.messages * 7 / 8] {
        if (MESSAGES_MIN..plan.messages).contains(&messages) {
            add(&|plan| plan.messages = messages);
        }
    }
    for at in 0..plan.acts.len() {
        add(&|plan| {
            plan.acts.remove(at);
        });
    }
    if plan.shards > 1 {
        add(&|plan| plan.shards = 1);
    }
    if plan.settings != quiet.settings {
        add(&|plan| plan.settings = quiet.settings.clone());
    }
    if plan.disk != DiskFaults::default() {
        add(&|plan| plan.disk = DiskFaults::default());
    }
    if plan.local != quiet.local {
        add(&|plan| plan.local = quiet.local.clone());
    }
    if plan.applications.len() > 1 {
        add(&|plan| {
            plan.applications.pop();
        });
    }
    for at in 0..plan.applications.len() {
        if plan.applications[at] != Ways::default() {
            add(&|plan| plan.applications[at] = Ways::default());
        }
    }
    for at in 0..plan.hosts.len() {
        let (habits, link) = &plan.hosts[at];
        if *habits != Habits::default() {
            add(&|plan| plan.hosts[at].0 = Habits::default());
        }
        if *link != Link::default() {
            add(&|plan| plan.hosts[at].1 = Link::default());
        }
    }
    if plan.name_servers.len() > 1 {
        add(&|plan| plan.name_servers.truncate(1));
    }
    for at in 0..plan.name_servers.len() {
        if plan.name_servers[at] != (DnsHabits::default(), Link::default()) {
            add(&|plan| plan.name_servers[at] = (DnsHabits::default(), Link::default()));
        }
    }
    for at in 0..plan.domains.len() {
        let simple = DomainKind::Hosts(vec![0]);
        if plan.domains[at] != simple {
            add(&|plan| plan.domains[at] = simple.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Act, Figures};
    use super::*;

    fn report(plan: &Plan, violation: Option<&str>) -> Report {
        Report {
            seed: plan.seed,
            violations: violation.map(str::to_owned).into_iter().collect(),
            trace: 0,
            simulated: Duration::ZERO,
            figures: Figures::default(),
            acts: Vec::new(),
        }
    }

    #[test]
    fn what_has_no_part_in_it_is_left_out() {
        // It takes a purge, a domain that is an alias or worse in the second place, and 17 messages.
        let mut plan = Plan::draw(3, 1000);
        plan.acts = Act::ALL.to_vec();
        plan.domains = vec![DomainKind::NullMx, DomainKind::Lame, DomainKind::Hole];
        let (simple, last, runs) = shrink_with(&plan, 1000, |plan| {
            let fails = plan.acts.contains(&Act::Purge)
                && plan.domains[1] == DomainKind::Lame
                && plan.messages >= 17;
            // Another failure is not the one that is looked for.
            let other = plan.acts.len() == 3 && plan.shards == 1;
            let text = format!("[{}.5 s] mail is gone: m{}", plan.messages, plan.messages);
            let other = other.then_some("[1 s] something else");
            report(plan, if fails { Some(&text) } else { other })
        })
        .unwrap();
        assert_eq!(simple.acts, [Act::Purge]);
        let plain = DomainKind::Hosts(vec![0]);
        assert_eq!(simple.domains, [plain.clone(), DomainKind::Lame, plain]);
        assert_eq!((simple.messages, simple.shards, simple.applications.len()), (17, 1, 1));
        assert_eq!(simple.applications[0], Ways::default());
        assert_eq!(last.violations, ["[17.5 s] mail is gone: m17"]);
        assert!(runs > 10, "{runs}");
    }

    #[test]
    fn a_sound_plan_is_not_shrunk_and_runs_are_bounded() {
        let plan = Plan::draw(4, 1000);
        assert!(shrink_with(&plan, 100, |plan| report(plan, None)).is_none());
        let (_, _, runs) = shrink_with(&plan, 5, |plan| report(plan, Some("always"))).unwrap();
        assert_eq!(runs, 5);
    }

    #[test]
    fn the_kind_of_a_violation_is_what_is_wrong() {
        let kind = |text: &str| kind(&report(&Plan::quiet(1, 1), Some(text))).unwrap();
        assert_eq!(
            kind("[9.194 s] log that cannot be opened: shard 0"),
            "log that cannot be opened"
        );
        assert_eq!(
            kind("at 6.33 s: more connections than allowed: 4"),
            "more connections than allowed"
        );
    }
}
