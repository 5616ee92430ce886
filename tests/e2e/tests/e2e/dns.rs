//! Real name resolution, by a real name server, in a network name space of its own.
//!
//! Receivers listen on port 25 of their own loopback addresses, as many as a test needs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use ringpost_e2e::dns::{NameServer, Zone};
use ringpost_e2e::events;
use ringpost_e2e::injector::{Client, Load};
use ringpost_e2e::message;
use ringpost_e2e::netns::Namespace;
use ringpost_e2e::peers;
use ringpost_e2e::process::Server;
use ringpost_e2e::sink::{Answer, Sink, SinkOptions};
use ringpost_e2e::wait::{SOON, wait_until};

/// Everything a test of this module has around it. Lives on a thread in the name space.
struct World {
    directory: tempfile::TempDir,
    zone: Zone,
}

impl World {
    /// Runs `test` in a new name space, or says why it cannot.
    fn enter(test: impl FnOnce(Self) -> Result<()> + Send) -> Result<()> {
        if let Some(reason) = Namespace::missing().or_else(NameServer::missing) {
            return peers::skip(reason);
        }
        let namespace = Namespace::create()?;
        namespace.run(|| test(Self { directory: tempfile::tempdir()?, zone: Zone::new() }))
    }

    fn name_server(&self) -> Result<NameServer> {
        NameServer::start(self.directory.path(), "127.0.0.53:53".parse()?, &self.zone)
    }
}

/// A server that resolves by `names`, may connect to loopback, and tries again soon.
fn server(names: &NameServer) -> Result<Server> {
    let mut server = Server::prepare_at("127.0.0.1:25".parse()?, "127.0.0.1:9925".parse()?)?;
    server.config.set("dns", "servers", &format!("[\"{}\"]", names.address())).set(
        "delivery",
        "allow_loopback",
        "true",
    );
    server.start()?;
    Ok(server)
}

fn receiver(address: &str) -> Result<Sink> {
    let ip: IpAddr = address.parse()?;
    let options = SinkOptions { keep_content: true, ..SinkOptions::default() };
    Sink::with(SocketAddr::new(ip, 25), options, |_| Answer::Accept)
}

fn site_address(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, site)
}

fn send(server: &Server, from: &str, to: &str, id: &str) -> Result<()> {
    let mut client = Client::connect(server.smtp())?;
    let reply = client.message(from, &[to], &message::build(id, 1_000))?;
    ensure!(reply.code == 250, "{reply:?}");
    Ok(())
}

fn domains_at(sink: &Sink) -> BTreeSet<String> {
    sink.accepted()
        .iter()
        .flat_map(|one| one.forward_paths.iter())
        .filter_map(|path| Some(path.trim_end_matches('>').split_once('@')?.1.to_owned()))
        .collect()
}

#[test]
fn two_hundred_domains_share_twenty_sites_and_one_is_down() -> Result<()> {
    World::enter(|mut world| {
        const SITES: u8 = 20;
        const DOWN: u8 = 20;
        let mut domains = Vec::new();
        for number in 0..200_u16 {
            let site = number % u16::from(SITES) + 1;
            let domain = format!("d{number}.test");
            world.zone.mx(&domain, 10, &format!("mx.site{site}.test"));
            domains.push(domain);
        }
        for site in 1..=SITES {
            world.zone.a(&format!("mx.site{site}.test"), &site_address(site).to_string());
        }
        let names = world.name_server()?;
        let mut sinks: Vec<_> = (1..DOWN)
            .map(|site| receiver(&site_address(site).to_string()))
            .collect::<Result<_>>()?;
        let server = server(&names)?;
        let mut load = Load::new(server.smtp(), "sites", 10, Some(1_000));
        load.domains = domains.clone();
        load.run()?;
        // All that can be delivered is, and only the site that is down is not.
        wait_until("the mail for the other sites", SOON, || {
            Ok(sinks.iter().map(Sink::accepted_count).sum::<usize>() == 950)
        })?;
        server.wait_events("deferred", 1)?;
        server.wait_queued(50)?;
        assert!(server.events()?.iter().all(|event| event.kind != "bounced"));
        // Ten domains on one site share its connections.
        let busiest = sinks.iter().map(Sink::connections).max().unwrap_or(0);
        assert!(busiest < 40, "{busiest} connections for 50 messages to one site");
        // The site comes back, and the retry finds it.
        sinks.push(receiver(&site_address(DOWN).to_string())?);
        server.wait_drained(SOON)?;
        for (sink, site) in sinks.iter().zip(1_u16..) {
            assert_eq!(sink.accepted_count(), 50, "site {site}");
            let expected: BTreeSet<_> = (0..200_u16)
                .filter(|number| number % u16::from(SITES) + 1 == site)
                .map(|number| format!("d{number}.test"))
                .collect();
            assert_eq!(domains_at(sink), expected, "site {site}");
            assert_eq!(sink.violations(), [""; 0]);
        }
        assert_eq!(events::distinct(&server.wait_events("delivered", 1_000)?, "delivered"), 1_000);
        Ok(())
    })
}

#[test]
fn a_domain_that_does_not_exist_bounces_to_the_site_of_the_author() -> Result<()> {
    World::enter(|mut world| {
        world.zone.mx("author.test", 10, "mx.author.test").a("mx.author.test", "127.0.1.1");
        let names = world.name_server()?;
        let author = receiver("127.0.1.1")?;
        let server = server(&names)?;
        send(&server, "<me@author.test>", "<you@no-such-domain.test>", "nowhere")?;
        wait_until("the DSN", SOON, || Ok(author.accepted_count() == 1))?;
        let dsn = &author.accepted()[0];
        assert_eq!(dsn.reverse_path.split(' ').next(), Some("<>"));
        assert_eq!(dsn.forward_paths, ["<me@author.test>"]);
        let text = String::from_utf8(dsn.content.clone())?;
        for needle in ["multipart/report", "you@no-such-domain.test", "Status: 5.1.2"] {
            assert!(text.contains(needle), "{needle} in:\n{text}");
        }
        server.wait_drained(SOON)?;
        let bounced = server.wait_events("bounced", 1)?;
        let event = bounced.iter().find(|one| one.kind == "bounced").context("no event")?;
        assert_eq!(event.fields["reply"]["enhanced"], "5.1.2");
        Ok(())
    })
}

#[test]
fn each_kind_of_record_leads_where_it_should() -> Result<()> {
    World::enter(|mut world| {
        world
            .zone
            // Preference: the lowest number that is up.
            .mx("preferred.test", 10, "one.hosts.test")
            .mx("preferred.test", 20, "two.hosts.test")
            .mx("second.test", 10, "down.hosts.test")
            .mx("second.test", 20, "two.hosts.test")
            // An alias for a domain with an MX, and an MX that is an alias.
            .record("alias.test", "CNAME", "preferred.test.")
            .mx("mxalias.test", 10, "alias.hosts.test")
            .record("alias.hosts.test", "CNAME", "one.hosts.test.")
            // No MX: the address itself.
            .a("bare.test", "127.0.1.3")
            // Only IPv6.
            .mx("six.test", 10, "six.hosts.test")
            .aaaa("six.hosts.test", "::1")
            // An MX without any address, beside one with.
            .mx("half.test", 10, "empty.hosts.test")
            .mx("half.test", 20, "two.hosts.test")
            .record("empty.hosts.test", "TXT", "\"nothing\"")
            .a("one.hosts.test", "127.0.1.1")
            .a("two.hosts.test", "127.0.1.2")
            .a("down.hosts.test", "127.0.1.99");
        let names = world.name_server()?;
        let (one, two, bare, six) = (
            receiver("127.0.1.1")?,
            receiver("127.0.1.2")?,
            receiver("127.0.1.3")?,
            receiver("::1")?,
        );
        let server = server(&names)?;
        let all = ["preferred", "second", "alias", "mxalias", "bare", "six", "half"];
        for name in all {
            send(&server, "<a@a.test>", &format!("<b@{name}.test>"), name)?;
        }
        let events = server.wait_events("delivered", all.len()).with_context(|| {
            format!(
                "arrived: {:?} {:?} {:?} {:?}",
                domains_at(&one),
                domains_at(&two),
                domains_at(&bare),
                domains_at(&six)
            )
        })?;
        let at = |sink: &Sink| domains_at(sink).into_iter().collect::<Vec<_>>();
        assert_eq!(at(&one), ["alias.test", "mxalias.test", "preferred.test"]);
        assert_eq!(at(&two), ["half.test", "second.test"]);
        assert_eq!(at(&bare), ["bare.test"]);
        assert_eq!(at(&six), ["six.test"]);
        // The second host was tried within the same attempt.
        assert_eq!(events::distinct(&events, "deferred"), 0);
        Ok(())
    })
}

#[test]
fn failures_of_the_dns_defer_and_statements_of_it_bounce() -> Result<()> {
    World::enter(|mut world| {
        world
            .zone
            // RFC 7505: a domain that takes no mail.
            .record("null.test", "MX", "0 .")
            .a("null.test", "127.0.1.1")
            // Exists, and has neither MX nor address.
            .record("empty.test", "TXT", "\"nothing\"")
            // Its name server does not exist.
            .broken("broken.test")
            // Points back to us.
            .mx("loop.test", 10, "relay.test")
            .a("relay.test", "127.0.0.1");
        let names = world.name_server()?;
        let trap = receiver("127.0.1.1")?;
        let server = server(&names)?;
        // Label, enhanced status code.
        let bounces =
            [("null", "5.1.10"), ("empty", "5.4.4"), ("loop", "5.4.6"), ("gone", "5.1.2")];
        for (name, _) in bounces {
            send(&server, "<>", &format!("<b@{name}.test>"), name)?;
        }
        send(&server, "<>", "<b@broken.test>", "broken")?;
        server.wait_events("bounced", bounces.len())?;
        let events = server.wait_events("deferred", 1)?;
        for (name, status) in bounces {
            let path = format!("b@{name}.test");
            let event = events
                .iter()
                .find(|one| one.kind == "bounced" && one.forward_path.as_deref() == Some(&path))
                .with_context(|| format!("{name} has not bounced"))?;
            assert_eq!(event.fields["reply"]["enhanced"], status, "{name}");
        }
        let deferred = events.iter().find(|one| one.kind == "deferred").context("no event")?;
        assert_eq!(deferred.forward_path.as_deref(), Some("b@broken.test"));
        assert_eq!(deferred.fields["reply"]["enhanced"], "4.4.3");
        assert_eq!(trap.connections(), 0, "a null MX has no fallback to an address");
        Ok(())
    })
}

#[test]
fn an_mx_on_loopback_is_refused_unless_allowed() -> Result<()> {
    World::enter(|mut world| {
        world.zone.mx("inward.test", 10, "mx.inward.test").a("mx.inward.test", "127.0.1.1");
        let names = world.name_server()?;
        let trap = receiver("127.0.1.1")?;
        let mut server = Server::prepare_at("127.0.0.1:25".parse()?, "127.0.0.1:9925".parse()?)?;
        server.config.set("dns", "servers", &format!("[\"{}\"]", names.address()));
        server.start()?;
        send(&server, "<>", "<b@inward.test>", "inward")?;
        wait_until("an outcome", SOON, || {
            Ok(server.events()?.iter().any(|one| one.kind == "deferred" || one.kind == "bounced"))
        })?;
        assert_eq!(trap.connections(), 0);
        Ok(())
    })
}
