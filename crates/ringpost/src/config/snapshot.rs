//! The configuration as the server uses it: checked, complete, immutable.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ringpost_delivery::rules::ReplyRules;
use ringpost_delivery::{LoginProfile, TlsPolicy, TlsProfile};
use ringpost_protocol::address::Domain;
use ringpost_session::server::Aliases;

use super::aliases;
use super::check::Contradiction;
use super::outbound_auth::Logins;
use super::outbound_tls::Connectors;
use super::rules::load_rules;
use super::schema::{Config, Cores, ListenerSection, RouteSection};
use super::system::SystemFacts;
use super::units::display_size;
use crate::auth::{Credentials, Users};
use crate::tls::{Acceptor, Connector};

/// A configuration without contradictions, with what the file left to the machine filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigSnapshot {
    config: Config,
    hostname: Box<str>,
    helo_name: Box<str>,
    cores: Vec<usize>,
    name_servers: Vec<SocketAddr>,
    memory_max: u64,
    /// What accepts TLS, by listener.
    acceptors: BTreeMap<String, Acceptor>,
    /// What shakes hands with next hops.
    connectors: Connectors,
    /// What we log in with at smarthosts.
    logins: Logins,
    /// What is known of replies.
    rules: Arc<ReplyRules>,
    /// What `[aliases]` comes to.
    aliases: Arc<Aliases>,
    /// The users, if there is a file of them and it was read.
    users: Option<LoadedUsers>,
}

/// Users, as equal as they are the same.
#[derive(Debug, Clone)]
struct LoadedUsers(Arc<Users>);

impl PartialEq for LoadedUsers {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ConfigSnapshot {
    /// Fills in the facts. `config` has passed the checks.
    pub(super) fn new(config: Config, facts: &SystemFacts) -> Self {
        let hostname = lower_case(config.server.hostname.as_deref().unwrap_or(&facts.hostname));
        let helo_name = config.delivery.helo_name.as_deref();
        let helo_name = helo_name.map_or_else(|| hostname.clone(), lower_case);
        let cores = match &config.server.cores {
            Cores::All => facts.cores.clone(),
            Cores::Count(count) => facts.cores.iter().copied().take(*count).collect(),
            Cores::List(list) => list.clone(),
        };
        let name_servers = if config.dns.servers.is_empty() {
            facts.name_servers.clone()
        } else {
            config.dns.servers.clone()
        };
        let memory_max = config.server.memory_max.or(facts.memory).unwrap_or(u64::MAX);
        let acceptors = BTreeMap::new();
        // The checks have found that it can be expanded.
        let aliases = Domain::parse(&hostname).ok().and_then(|own_domain| {
            aliases::expand(&config.aliases, &own_domain).ok().map(Arc::new)
        });
        let aliases = aliases.unwrap_or_default();
        Self {
            config,
            hostname,
            helo_name,
            cores,
            name_servers,
            memory_max,
            acceptors,
            connectors: Connectors::default(),
            logins: Logins::default(),
            rules: Arc::default(),
            aliases,
            users: None,
        }
    }

    /// Reads the certificates of all listeners and routes, the users, and the passwords of routes.
    pub(super) fn load_files(&mut self) -> Result<(), Vec<Contradiction>> {
        let mut found = Vec::new();
        if let Some(path) = self.config.auth.users_file() {
            match Users::load(path) {
                Ok(users) => self.users = Some(LoadedUsers(Arc::new(users))),
                Err(error) => found.push(Contradiction {
                    place: vec!["auth".to_owned(), "users".to_owned()],
                    reason: format!("{}: {error}", path.display()),
                }),
            }
        }
        for (name, listener) in &self.config.listener {
            if listener.certificates.is_empty() {
                continue;
            }
            match Acceptor::load(&listener.certificates, &listener.client_certificates) {
                Ok(acceptor) => drop(self.acceptors.insert(name.clone(), acceptor)),
                Err(error) => {
                    let mut place = vec!["listener".to_owned(), name.clone()];
                    place.extend(error.place());
                    found.push(Contradiction { place, reason: error.to_string() });
                }
            }
        }
        if let Some(path) = &self.config.delivery.rules {
            match load_rules(path) {
                Ok(rules) => self.rules = Arc::new(rules),
                Err(problems) => found.extend(problems.into_iter().map(|problem| Contradiction {
                    place: vec!["delivery".to_owned(), "rules".to_owned()],
                    reason: match problem.line {
                        0 => format!("{}: {}", path.display(), problem.reason),
                        line => format!("{}:{line}: {}", path.display(), problem.reason),
                    },
                })),
            }
        }
        match Connectors::load(&self.config) {
            Ok(connectors) => self.connectors = connectors,
            Err(wrong) => found.extend(wrong),
        }
        match Logins::load(&self.config) {
            Ok(logins) => self.logins = logins,
            Err(wrong) => found.extend(wrong),
        }
        if found.is_empty() { Ok(()) } else { Err(found) }
    }

    /// What accepts TLS on a listener; `None` where it has no certificates, or when they were not read.
    pub fn acceptor(&self, listener: &str) -> Option<&Acceptor> {
        self.acceptors.get(listener)
    }

    /// What TLS the mail of a route asks for, or that of no route.
    pub(super) fn tls_policy(&self, route: Option<&RouteSection>) -> TlsPolicy {
        self.connectors.policy(&self.config.delivery, route)
    }

    /// What shakes hands with next hops, by profile; with a memory for sessions of its own.
    pub(crate) fn connectors(&self) -> HashMap<TlsProfile, Connector> {
        let sessions = self.config.delivery.tls_sessions_per_core_max;
        let all = self.connectors.all().iter();
        all.map(|(profile, one)| (*profile, one.with_own_sessions(sessions))).collect()
    }

    /// With what the mail of a route is logged in.
    pub(super) fn login_profile(&self, route: &RouteSection) -> Option<LoginProfile> {
        self.logins.profile(route)
    }

    /// The credentials of a profile; `None` when a reload has taken them away.
    pub(crate) fn credentials(&self, profile: LoginProfile) -> Option<&Arc<Credentials>> {
        self.logins.get(profile)
    }

    /// What is known of the replies of certain receivers; nothing when the file was not read.
    pub fn reply_rules(&self) -> &Arc<ReplyRules> {
        &self.rules
    }

    /// What stands for other addresses.
    pub fn aliases(&self) -> &Arc<Aliases> {
        &self.aliases
    }

    /// The users; `None` when the configuration names no file of them, or when it was not read.
    pub fn users(&self) -> Option<&Arc<Users>> {
        self.users.as_ref().map(|LoadedUsers(users)| users)
    }

    /// Goes on with what the users of an older configuration have sent, and with what is known of
    /// smarthosts.
    pub(crate) fn adopt(&mut self, old: &Self) {
        if let (Some(LoadedUsers(users)), Some(old)) = (&mut self.users, old.users())
            // Nobody else has them yet.
            && let Some(users) = Arc::get_mut(users)
        {
            users.adopt_rates(old);
        }
        self.logins.adopt(&old.logins);
    }

    /// The file's keys, with defaults for the absent ones.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Our name: a valid domain in lower case.
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    /// Our name in EHLO: a valid domain in lower case.
    pub fn helo_name(&self) -> &str {
        &self.helo_name
    }

    /// Numbers of the cores that carry mail; never empty.
    pub fn cores(&self) -> &[usize] {
        &self.cores
    }

    /// Number of shards of a queue directory that does not exist yet.
    pub fn shards(&self) -> u16 {
        let by_cores = u16::try_from(self.cores.len()).unwrap_or(u16::MAX);
        self.config.queue.shards.unwrap_or(by_cores)
    }

    /// Name servers to ask; empty only when every route leads to an address.
    pub fn name_servers(&self) -> &[SocketAddr] {
        &self.name_servers
    }

    /// Octets of memory that the process may use; `u64::MAX` when nobody knows.
    pub fn memory_max(&self) -> u64 {
        self.memory_max
    }

    /// One line for the operator.
    pub fn summary(&self) -> String {
        let addresses: Vec<String> = self
            .config
            .listener
            .values()
            .flat_map(|listener| &listener.addresses)
            .map(SocketAddr::to_string)
            .collect();
        format!(
            "{}: {} core(s), {} shard(s) in {} of at most {} each, {} route(s), listening on {}",
            self.hostname,
            self.cores.len(),
            self.shards(),
            self.config.queue.directory.display(),
            display_size(self.config.queue.size_max),
            self.config.route.len(),
            addresses.join(", "),
        )
    }
}

impl ListenerSection {
    /// Tells whether a client may relay.
    pub fn may_relay(&self, client: IpAddr) -> bool {
        // What has no address is nobody.
        !client.is_unspecified()
            && self.relay_networks.iter().any(|network| network.contains(client))
    }

    /// Tells whether a client may say for whom it speaks, by XCLIENT.
    pub fn names_clients(&self, client: IpAddr) -> bool {
        self.xclient_from.iter().any(|network| network.contains(client))
    }

    /// Tells whether a client may have mail tried, by ETRN.
    pub fn may_flush(&self, client: IpAddr) -> bool {
        !client.is_unspecified() && self.etrn_from.iter().any(|network| network.contains(client))
    }

    /// Tells whether a peer has to say by the PROXY protocol whom it speaks for.
    pub fn is_proxy(&self, peer: IpAddr) -> bool {
        self.proxy_protocol_from.iter().any(|network| network.contains(peer))
    }
}

fn lower_case(name: &str) -> Box<str> {
    // The checks have read the name already; a name they let pass is kept as it is.
    Domain::parse(name).map_or_else(|_| name.into(), |domain| domain.as_str().into())
}
