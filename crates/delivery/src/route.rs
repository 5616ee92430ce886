//! Where the mail for a domain goes, and how long it is tried.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringpost_protocol::address::Host;
use ringpost_session::client::Dialect;

use crate::clock::Stamp;
use crate::config::{DeliveryConfig, Route, RoutePattern, Smarthost};
use crate::login::LoginProfile;
use crate::retry::RetrySchedule;
use crate::tls::TlsPolicy;
use crate::work::{Recipient, Work};

/// The way to take for a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextHop {
    /// To a configured host.
    Smarthost(Smarthost),
    /// To the address that the recipient names (RFC 5321 §4.1.3).
    Literal(IpAddr),
    /// To the hosts that the domain's MX records name.
    Mx,
}

/// One of the routes, or that there is none for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteId(u32);

/// The routes of a configuration, ready for look-up.
#[derive(Debug, Clone)]
pub struct Routes {
    exact: HashMap<Box<str>, RouteId>,
    any: RouteId,
    /// By id; the first is that of destinations without a route.
    entries: Vec<(Option<Smarthost>, Policy)>,
}

/// How mail on one route is tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// When deferred recipients are tried again.
    pub retry: RetrySchedule,
    /// How long a recipient is tried, if not shorter by the message's own expiry.
    pub lifetime: Duration,
    /// After which time the originator is told of a delay; zero: never.
    pub delay_warning: Duration,
    /// What TLS is asked for.
    pub tls: Arc<TlsPolicy>,
    /// The same for messages whose senders ask that they go on without TLS rather than not at all.
    pub waived_tls: Arc<TlsPolicy>,
    /// With what to log in at its smarthost.
    pub login: Option<LoginProfile>,
    /// What is spoken.
    pub dialect: Dialect,
}

impl Policy {
    /// What TLS is asked for on behalf of a message.
    pub(crate) fn tls(&self, tls_optional: bool) -> Arc<TlsPolicy> {
        Arc::clone(if tls_optional { &self.waived_tls } else { &self.tls })
    }

    /// When a recipient is given up.
    pub(crate) fn expiry(&self, work: &Work) -> Stamp {
        work.expiry.min(work.since.after(self.lifetime))
    }

    /// When the originator is to be told of the delay, if it is to be: when it has asked for that, or when the
    /// policy says so.
    pub(crate) fn warns_at(&self, work: &Work, recipient: Recipient) -> Option<Stamp> {
        if let Some(at) = work.by.notify_at(work.since) {
            return (!recipient.is_warned()).then_some(at);
        }
        let wanted = !self.delay_warning.is_zero() && !recipient.is_warned();
        wanted.then(|| work.since.after(self.delay_warning))
    }
}

impl Routes {
    /// Indexes the routes of `config`; of two for the same pattern the first counts.
    pub fn new(config: &DeliveryConfig) -> Self {
        let general = Policy {
            retry: config.retry.clone(),
            lifetime: Duration::MAX,
            delay_warning: config.delay_warning,
            tls: Arc::new(config.tls.clone()),
            waived_tls: Arc::new(config.tls.waived()),
            login: None,
            dialect: config.dialect,
        };
        let mut routes = Self {
            exact: HashMap::new(),
            any: RouteId::default(),
            entries: vec![(None, general.clone())],
        };
        for (route, number) in config.routes.iter().zip(1..) {
            let Route { pattern, smarthost, retry, lifetime, delay_warning, tls, login, dialect } =
                route;
            let tls = tls.clone().map_or_else(|| Arc::clone(&general.tls), Arc::new);
            // Nobody who sends mail may have a password shown to who is not known by its certificate.
            let waived_tls =
                if login.is_some() { Arc::clone(&tls) } else { Arc::new(tls.waived()) };
            let policy = Policy {
                retry: retry.clone().unwrap_or_else(|| general.retry.clone()),
                lifetime: lifetime.unwrap_or(general.lifetime),
                delay_warning: delay_warning.unwrap_or(general.delay_warning),
                waived_tls,
                tls,
                login: *login,
                dialect: dialect.unwrap_or(general.dialect),
            };
            routes.entries.push((smarthost.clone(), policy));
            match pattern {
                RoutePattern::Exact(domain) => {
                    let domain = domain.to_ascii_lowercase().into_boxed_str();
                    routes.exact.entry(domain).or_insert(RouteId(number));
                }
                RoutePattern::Any if routes.any == RouteId::default() => {
                    routes.any = RouteId(number);
                }
                RoutePattern::Any => {}
            }
        }
        routes
    }

    /// Returns the route of a destination, given its text form.
    pub fn find(&self, name: &str) -> RouteId {
        self.exact.get(name).copied().unwrap_or(self.any)
    }

    /// Returns the way for `host`, which has this route.
    pub fn next_hop(&self, route: RouteId, host: &Host) -> NextHop {
        match (self.entries.get(route.0 as usize), host) {
            (Some((Some(smarthost), _)), _) => NextHop::Smarthost(smarthost.clone()),
            (_, Host::Literal(literal)) => NextHop::Literal(literal.ip()),
            (_, Host::Domain(_)) => NextHop::Mx,
        }
    }

    /// Returns how mail on a route is tried.
    pub fn policy(&self, route: RouteId) -> &Policy {
        // There is always the first.
        let (_, policy) = self.entries.get(route.0 as usize).unwrap_or(&self.entries[0]);
        policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::TlsLevel;

    fn smarthost(host: &str) -> Smarthost {
        Smarthost { host: host.into(), port: 25 }
    }

    fn routes(list: &[(RoutePattern, &str)]) -> Routes {
        let routes = list.iter().map(|(pattern, host)| Route::to(pattern.clone(), smarthost(host)));
        Routes::new(&DeliveryConfig { routes: routes.collect(), ..DeliveryConfig::default() })
    }

    fn next_hop(routes: &Routes, host: &str) -> NextHop {
        let parsed = Host::parse(host).unwrap();
        routes.next_hop(routes.find(&parsed.to_string()), &parsed)
    }

    #[test]
    fn exact_domains_come_before_the_rest_and_the_first_route_counts() {
        let routes = routes(&[
            (RoutePattern::Any, "all"),
            (RoutePattern::Exact("A.example".into()), "first"),
            (RoutePattern::Exact("a.example".into()), "second"),
            (RoutePattern::Any, "late"),
        ]);
        assert_eq!(next_hop(&routes, "a.example"), NextHop::Smarthost(smarthost("first")));
        assert_eq!(next_hop(&routes, "sub.a.example"), NextHop::Smarthost(smarthost("all")));
        assert_eq!(next_hop(&routes, "[192.0.2.1]"), NextHop::Smarthost(smarthost("all")));
    }

    #[test]
    fn without_a_route_domains_go_by_mx_and_literals_to_the_address() {
        let routes = routes(&[(RoutePattern::Exact("a.example".into()), "a")]);
        assert_eq!(next_hop(&routes, "b.example"), NextHop::Mx);
        let address = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(next_hop(&routes, "[192.0.2.1]"), NextHop::Literal(address));
    }

    #[test]
    fn a_route_without_smarthost_has_its_own_times_and_goes_by_mx() {
        let own = RetrySchedule { jitter_percent: 7, ..RetrySchedule::default() };
        let hour = Duration::from_hours(1);
        let of_a = Route {
            pattern: RoutePattern::Exact("a.example".into()),
            smarthost: None,
            retry: Some(own.clone()),
            lifetime: Some(hour),
            delay_warning: None,
            tls: Some(TlsPolicy { level: TlsLevel::Verify, ..TlsPolicy::default() }),
            login: None,
            dialect: None,
        };
        let config = DeliveryConfig {
            routes: vec![Route::to(RoutePattern::Any, smarthost("all")), of_a],
            delay_warning: 2 * hour,
            ..DeliveryConfig::default()
        };
        let routes = Routes::new(&config);
        assert_eq!(next_hop(&routes, "a.example"), NextHop::Mx);
        assert_eq!(
            routes.policy(routes.find("a.example")),
            &Policy {
                retry: own,
                lifetime: hour,
                delay_warning: 2 * hour,
                tls: Arc::new(TlsPolicy { level: TlsLevel::Verify, ..TlsPolicy::default() }),
                waived_tls: Arc::new(TlsPolicy { level: TlsLevel::Verify, ..TlsPolicy::default() }),
                login: None,
                dialect: Dialect::default(),
            }
        );
        let other = routes.policy(routes.find("b.example"));
        assert_eq!((&other.retry, other.lifetime), (&config.retry, Duration::MAX));
        assert_eq!(*other.tls, config.tls);
    }
}
