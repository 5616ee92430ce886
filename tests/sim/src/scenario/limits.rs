//! What must hold at every moment: limits are kept, and what is durable only grows.

use std::collections::{BTreeMap, BTreeSet};

use ringpost_queue::Lsn;

use super::build::{self, SERVER};
use super::plan::{Act, DomainKind, Plan};
use crate::world::World;

/// Looks between two at the metrics, which take longer.
const METRICS_PERIOD: u64 = 16;

/// Octets that may be gathered for a log, with what an operator's order and outcomes may add.
const PENDING_MAX: f64 = (64 << 20) as f64;

/// What is watched over in a run.
#[derive(Debug)]
pub(super) struct Limits {
    /// Sites that each remote host serves; `None` if domains may go elsewhere while mail is on its way.
    sites: Option<Vec<u64>>,
    /// The most connections to one site from one shard that were allowed so far.
    connections_max: u64,
    shards: u64,
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
            shards: u64::from(plan.shards),
            cache_size: plan.settings.cache_size as f64,
            durable: BTreeMap::new(),
            looks: 0,
        }
    }

    /// Takes what a new configuration allows; connections of the old one may be there for a while.
    pub(super) fn allow(&mut self, connections_max: u64) {
        self.connections_max = self.connections_max.max(connections_max);
    }

    /// Looks at the connections that the server has, and now and then at its buffers.
    pub(super) fn look(&mut self, world: &World, metrics: impl FnOnce() -> BTreeMap<String, f64>) {
        for (number, sites) in self.sites.iter().flatten().enumerate() {
            let open = world.net().held(SERVER, build::host_address(number)) as u64;
            let allowed = sites * self.connections_max * self.shards;
            if open > allowed {
                world.violate(format!(
                    "more connections than allowed: {open} to host {number}, which serves {sites} \
                     sites; allowed are {} for each of {} shards",
                    self.connections_max, self.shards
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

/// How many sites each remote host serves.
fn sites(plan: &Plan) -> Vec<u64> {
    if plan.settings.smarthost {
        return (0..plan.hosts.len()).map(|number| u64::from(number == 0)).collect();
    }
    let mut of_host = vec![BTreeSet::new(); plan.hosts.len()];
    for (number, kind) in plan.domains.iter().enumerate() {
        let (name, hosts) = match kind {
            DomainKind::Hosts(hosts) => (format!("{:?}", build::ranked(hosts)), hosts.as_slice()),
            DomainKind::Bare(host) => (build::domain_name(number), std::slice::from_ref(host)),
            // An alias is a site by its own name if what it stands for has no exchangers.
            DomainKind::Alias(of) => match plan.domains.get(*of) {
                Some(DomainKind::Hosts(_)) => continue,
                _ => (build::domain_name(number), behind(plan, *of)),
            },
            _ => continue,
        };
        for host in hosts {
            if let Some(sites) = of_host.get_mut(*host) {
                sites.insert(name.clone());
            }
        }
    }
    of_host.iter().map(|sites| sites.len() as u64).collect()
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
        assert_eq!(sites(&plan), [1, 1, 2]);
        plan.settings.smarthost = true;
        assert_eq!(sites(&plan), [1, 0, 0]);
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
