//! Makes the world that a plan speaks of.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use ringpost::runtime::{Containment, Runtime};

use super::plan::{DomainKind, Plan};
use super::tls::OutboundTls;
use crate::dns::{self, Data, DnsWorld, SharedZone, Zone};
use crate::injector::{self, Application, Quota};
use crate::ledger::SharedLedger;
use crate::net::Link;
use crate::remote::{self, RemoteHost};
use crate::tls::{Identity, TLS_PORT, Trust};
use crate::world::World;

/// Where the server listens.
pub(super) const SERVER: IpAddr = address(0, 1);

/// Where it listens for proxies.
const PROXIED_PORT: u16 = 26;

/// An address at which nobody listens.
const CLOSED: IpAddr = address(3, 1);

/// An address that swallows everything.
const HOLE: IpAddr = address(3, 2);

/// How long a transaction may take to be sent, beside the network.
const SENDING_TIME: Duration = Duration::from_secs(30);

const fn address(net: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, net, host))
}

fn numbered(net: u8, number: usize) -> IpAddr {
    address(net, u8::try_from(number + 1).unwrap_or(u8::MAX))
}

/// The address of a remote host.
pub(super) fn host_address(number: usize) -> IpAddr {
    numbered(1, number)
}

/// The name of a domain.
pub(super) fn domain_name(number: usize) -> String {
    format!("d{number}.test")
}

/// All that lives in a world, beside the server.
pub(super) struct Inhabitants {
    pub(super) zone: SharedZone,
    pub(super) quota: Rc<Quota>,
    /// Set once nobody is to misbehave any more.
    pub(super) calm: Rc<Cell<bool>>,
    links: Vec<IpAddr>,
}

/// The configuration file of the server.
pub(super) fn config(plan: &Plan) -> String {
    let servers: Vec<String> =
        (0..plan.name_servers.len()).map(|number| numbered(5, number).to_string()).collect();
    let is_tls_first = plan.settings.outbound_tls.as_ref().is_some_and(OutboundTls::comes_first);
    let port = if is_tls_first { TLS_PORT } else { 25 };
    let smarthost = SocketAddr::new(host_address(0), port).to_string();
    let listeners = [25, PROXIED_PORT].map(|port| SocketAddr::new(SERVER, port).to_string());
    plan.settings.text(&listeners, &servers, &smarthost)
}

/// Makes name servers and remote hosts, and applications that begin at once.
pub(super) fn build(
    world: &World,
    plan: &Plan,
    ledger: &SharedLedger,
) -> std::io::Result<Inhabitants> {
    let calm = Rc::new(Cell::new(false));
    let mut links = Vec::new();
    let mut set_link = |address: IpAddr, link: &Link| {
        world.net().set_link(address, link.clone());
        links.push(address);
    };
    let zone = Zone::shared(plan.ttl);
    let dns_world =
        Rc::new(DnsWorld { zone: Rc::clone(&zone), ledger: ledger.clone(), calm: calm.clone() });
    for (number, (habits, link)) in plan.name_servers.iter().enumerate() {
        let ip = numbered(5, number);
        set_link(ip, link);
        let runtime = world.host(&[ip]);
        let at = SocketAddr::new(ip, 53);
        let (socket, listener) = (runtime.bind_datagram_at(at)?, runtime.listen(at)?);
        let random = world.random("dns").fork_number("server", number as u64);
        dns::serve(&runtime, socket, listener, &dns_world, *habits, &random);
    }
    for (number, (habits, link)) in plan.hosts.iter().enumerate() {
        let ip = host_address(number);
        set_link(ip, link);
        let runtime = world.host(&[ip]);
        let listener = runtime.listen(SocketAddr::new(ip, 25))?;
        let name = format!("mx{number}.test");
        let tls = habits.tls.as_ref();
        let identity = tls.map(|tls| Identity::new(number, tls.shown, tls.is_old)).transpose();
        let identity = identity.map_err(std::io::Error::other)?;
        let (slack, is_private) = (on_its_way(link), identity.is_some());
        let host =
            RemoteHost::new(&name, habits.clone(), ledger.clone(), calm.clone(), identity, slack);
        zone.borrow_mut().set(&name, vec![Data::Address(ip)]);
        let random = world.random("remote").fork_number("host", number as u64);
        remote::serve(&runtime, listener, &host, &random, false);
        if is_private {
            let listener = runtime.listen(SocketAddr::new(ip, TLS_PORT))?;
            remote::serve(&runtime, listener, &host, &random.fork("tls first"), true);
        }
    }
    world.net().set_down(HOLE, true);
    zone.borrow_mut().set("closed.test", vec![Data::Address(CLOSED)]);
    zone.borrow_mut().set("hole.test", vec![Data::Address(HOLE)]);
    zone.borrow_mut().set("lame.test", Vec::new());
    for (number, kind) in plan.domains.iter().enumerate() {
        set_domain(&zone, number, kind);
    }
    let trust = Trust::new().map_err(std::io::Error::other)?;
    let quota = Quota::new(plan.messages);
    let domains: Vec<String> = (0..plan.domains.len()).map(domain_name).collect();
    for (number, ways) in plan.applications.iter().enumerate() {
        let ip = numbered(2, number);
        // Both directions are as the application's link says, as nothing is said of the server.
        set_link(ip, &plan.local);
        let runtime = world.host(&[ip]);
        let application = Application {
            servers: vec![SocketAddr::new(SERVER, 25)],
            proxied: vec![SocketAddr::new(SERVER, PROXIED_PORT)],
            domains: domains.clone().into(),
            homes: domains.get(..plan.homes).unwrap_or_default().into(),
            ways: ways.clone(),
            ledger: ledger.clone(),
            patience: plan.reply_bound(),
            opening: plan.opening_bound(),
            calm: calm.clone(),
            trust: trust.clone(),
            quota: Rc::clone(&quota),
        };
        let random = world.random("injector").fork_number("application", number as u64);
        let sending = injector::run(runtime.clone(), application, random);
        runtime.spawn(Containment::Process, sending);
    }
    Ok(Inhabitants { zone, quota, calm, links })
}

/// How long what the server has decided to send may take until a host has read it: it is read from a disk that may be
/// slow, and written to a network that may stall.
fn on_its_way(link: &Link) -> Duration {
    (link.stall + link.latency.1) * 3 + SENDING_TIME
}

/// Hosts with their preferences, the best first: each once, and of a list the first two are equal.
pub(super) fn ranked(hosts: &[usize]) -> Vec<(u16, usize)> {
    let mut ranked: Vec<(u16, usize)> = Vec::new();
    for (at, host) in hosts.iter().enumerate() {
        if !hosts.get(..at).unwrap_or_default().contains(host) {
            ranked.push((10 * u16::try_from(at / 2 + 1).unwrap_or(u16::MAX), *host));
        }
    }
    ranked.sort_unstable();
    ranked
}

/// Lets a domain go where it is said.
pub(super) fn set_domain(zone: &SharedZone, number: usize, kind: &DomainKind) {
    let name = domain_name(number);
    let mx = |host: &str| vec![Data::Mx(10, host.to_owned())];
    let data = match kind {
        DomainKind::Hosts(hosts) => {
            let host =
                |(preference, host): &(u16, usize)| Data::Mx(*preference, format!("mx{host}.test"));
            ranked(hosts).iter().map(host).collect()
        }
        DomainKind::Bare(host) => vec![Data::Address(host_address(*host))],
        DomainKind::Alias(of) => vec![Data::Alias(domain_name(*of))],
        DomainKind::NullMx => mx(""),
        DomainKind::Absent => return zone.borrow_mut().remove(&name),
        DomainKind::Lame => mx("lame.test"),
        DomainKind::Closed => mx("closed.test"),
        DomainKind::Hole => mx("hole.test"),
    };
    zone.borrow_mut().set(&name, data);
}

impl Inhabitants {
    /// Lets everything outside of the server go well from now on.
    pub(super) fn calm_down(&self, world: &World, hosts: usize) {
        self.calm.set(true);
        for &address in &self.links {
            world.net().set_link(address, Link::default());
        }
        for number in 0..hosts {
            world.net().set_down(host_address(number), false);
        }
    }
}
