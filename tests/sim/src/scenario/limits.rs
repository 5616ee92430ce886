//! What must hold at every moment: limits are kept, and what is durable only grows.

use std::collections::{BTreeMap, BTreeSet};

use ringpost_queue::Lsn;

use super::build::{self, SERVER};
use super::plan::{Act, DomainKind, Plan};
use crate::ledger::{Level, Rule};
use crate::world::World;

/// Looks between two at the metrics, which take longer.
const METRICS_PERIOD: u64 = 16;

/// Octets that may be gathered for a log, with what an operator's order and outcomes may add.
const PENDING_MAX: f64 = (64 << 20) as f64;

/// What is watched over in a run.
#[derive(Debug)]
pub(super) struct Limits {
    /// Sites that each remote host has served; `None` if domains may go elsewhere while mail is on its way.
    sites: Option<Vec<BTreeSet<Site>>>,
    /// The most connections to one site from all shards that were allowed so far.
    connections_max: u64,
    cache_size: f64,
    /// The last durable frame of each shard.
    durable: BTreeMap<u16, Lsn>,
    looks: u64,
}

impl Limits {
    pub(super) fn new(plan: &Plan) -> Self {
        let sites = (!plan.acts.contains(&Act::Zone)).then(|| sites(plan));
        Self {
            sites,
            connections_max: plan.settings.connections_max,
            cache_size: plan.settings.cache_size as f64,
            durable: BTreeMap::new(),
            looks: 0,
        }
    }

    /// Takes what a new configuration allows; connections of the old one may be there for a while.
    pub(super) fn allow(&mut self, plan: &Plan) {
        self.connections_max = self.connections_max.max(plan.settings.connections_max);
        let of_host = self.sites.iter_mut().flatten();
        of_host.zip(sites(plan)).for_each(|(known, new)| known.extend(new));
    }

    /// Looks at the connections that the server has, and now and then at its buffers.
    pub(super) fn look(&mut self, world: &World, metrics: impl FnOnce() -> BTreeMap<String, f64>) {
        for (number, sites) in self.sites.iter().flatten().enumerate() {
            let sites = sites.len() as u64;
            let open = world.net().held(SERVER, build::host_address(number)) as u64;
            let allowed = sites * self.connections_max;
            if open > allowed {
                world.violate(format!(
                    "more connections than allowed: {open} to host {number}, which serves {sites} \
                     sites; allowed are {} for each of them",
                    self.connections_max
                ));
            }
        }
        self.looks += 1;
        if self.looks.is_multiple_of(METRICS_PERIOD) {
            self.look_at_buffers(world, &metrics());
        }
    }

    fn look_at_buffers(&self, world: &World, metrics: &BTreeMap<String, f64>) {
        let bounds = [
            ("ringpost_content_cache_bytes{", self.cache_size),
            ("ringpost_queue_pending_bytes{", PENDING_MAX),
        ];
        for (name, bound) in bounds {
            for (series, value) in metrics.range(name.to_owned()..) {
                if !series.starts_with(name) {
                    break;
                }
                if *value > bound {
                    world.violate(format!("buffer beyond its bound: {series} is {value}"));
                }
            }
        }
    }

    /// Takes the last frame that a power cut would leave of a shard.
    pub(super) fn durable(&mut self, world: &World, shard: u16, lsn: Lsn) {
        let before = self.durable.insert(shard, lsn);
        if before.is_some_and(|before| lsn < before) {
            world.violate(format!(
                "what is durable became less: shard {shard} from {before:?} to {lsn:?}"
            ));
        }
    }
}

/// A site, by its hosts with what is said to them, and by what is said of TLS: mail that differs in this shares no
/// connections.
type Site = (String, Option<Rule>);

/// The sites that each remote host serves.
fn sites(plan: &Plan) -> Vec<BTreeSet<Site>> {
    let mut of_host = vec![BTreeSet::new(); plan.hosts.len()];
    for (number, kind) in plan.domains.iter().enumerate() {
        let tls = plan.settings.outbound_tls.as_ref();
        let of_domain = tls.and_then(|tls| tls.of_domains.get(&number));
        let (name, hosts) = if plan.settings.smarthost && of_domain.is_none() {
            ("smarthost".to_owned(), &[0][..])
        } else {
            let Some(site) = site(plan, number, kind) else { continue };
            site
        };
        // What is said to a host is a part of it, too.
        let name = format!("{name}, pipelining: {}", plan.settings.pipelining);
        let rule = of_domain.copied().or(tls.map(|tls| tls.general));
        let waived = rule.filter(|rule| rule.is_waivable && rule.level > Level::Opportunistic);
        let waived = waived.map(|_| Some(Rule::default()));
        for host in hosts {
            if let Some(sites) = of_host.get_mut(*host) {
                sites.extend(std::iter::once(rule).chain(waived).map(|rule| (name.clone(), rule)));
            }
        }
    }
    of_host
}

/// Where the mail of a domain goes by its exchangers: the name of the site, and its hosts.
fn site<'a>(plan: &'a Plan, number: usize, kind: &'a DomainKind) -> Option<(String, &'a [usize])> {
    match kind {
        DomainKind::Hosts(hosts) => Some((format!("{:?}", build::ranked(hosts)), hosts)),
        DomainKind::Bare(host) => Some((build::domain_name(number), std::slice::from_ref(host))),
        // An alias is a site by its own name if what it stands for has no exchangers.
        DomainKind::Alias(of) => match plan.domains.get(*of) {
            Some(stands_for @ DomainKind::Hosts(_)) => site(plan, *of, stands_for),
            _ => Some((build::domain_name(number), behind(plan, *of))),
        },
        _ => None,
    }
}

/// The hosts behind a domain, through its aliases: each leads to an earlier domain.
fn behind(plan: &Plan, domain: usize) -> &[usize] {
    match plan.domains.get(domain) {
        Some(DomainKind::Hosts(hosts)) => hosts,
        Some(DomainKind::Bare(host)) => std::slice::from_ref(host),
        Some(DomainKind::Alias(of)) if *of < domain => behind(plan, *of),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::super::OutboundTls;
    use super::*;

    #[test]
    fn hosts_serve_sites_and_not_domains() {
        let mut plan = Plan::quiet(1, 1);
        plan.domains = vec![
            DomainKind::Hosts(vec![0, 1]),
            DomainKind::Hosts(vec![1, 0]),
            DomainKind::Alias(0),
            DomainKind::Bare(2),
            DomainKind::Alias(3),
            DomainKind::NullMx,
        ];
        // The first two hosts of a list are equal, so the order does not matter.
        let count = |plan: &Plan| sites(plan).iter().map(BTreeSet::len).collect::<Vec<_>>();
        assert_eq!(count(&plan), [1, 1, 2]);
        plan.settings.smarthost = true;
        assert_eq!(count(&plan), [1, 0, 0]);
        // A domain with a rule of its own goes by its exchangers, and those who may waive it are beside it.
        let general = Rule::default();
        let rule = Rule { level: Level::Verify, is_waivable: true };
        let mut tls = OutboundTls::draw(&mut crate::random::Random::new(1), 1);
        (tls.general, tls.of_domains) = (general, [(3, rule)].into());
        plan.settings.outbound_tls = Some(tls);
        assert_eq!(count(&plan), [1, 0, 2]);
    }

    #[test]
    fn what_is_durable_never_becomes_less() {
        let (plan, world) = (Plan::quiet(1, 1), World::new(1));
        let mut limits = Limits::new(&plan);
        for lsn in [3, 3, 4] {
            limits.durable(&world, 0, Lsn(lsn));
        }
        limits.durable(&world, 1, Lsn(1));
        assert!(world.is_sound());
        limits.durable(&world, 0, Lsn(3));
        assert!(!world.is_sound());
    }

    #[test]
    fn buffers_have_bounds() {
        let (plan, world) = (Plan::quiet(1, 1), World::new(1));
        let limits = Limits::new(&plan);
        let series = "ringpost_content_cache_bytes{core=\"0\"}".to_owned();
        limits.look_at_buffers(&world, &[(series.clone(), limits.cache_size)].into());
        assert!(world.is_sound());
        limits.look_at_buffers(&world, &[(series, limits.cache_size + 1.0)].into());
        assert!(!world.is_sound());
    }
}
