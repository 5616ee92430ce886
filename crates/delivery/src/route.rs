//! Where the mail for a domain goes: to a smarthost, an address, or by MX.

use std::collections::HashMap;
use std::net::IpAddr;

use ringpost_protocol::address::Host;

use crate::config::{DeliveryConfig, RoutePattern, Smarthost};

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

/// The routes of a configuration, ready for look-up.
#[derive(Debug, Clone, Default)]
pub struct Routes {
    exact: HashMap<Box<str>, Smarthost>,
    any: Option<Smarthost>,
}

impl Routes {
    /// Indexes the routes of `config`; of two for the same pattern the first counts.
    pub fn new(config: &DeliveryConfig) -> Self {
        let mut routes = Self::default();
        for route in &config.routes {
            match &route.pattern {
                RoutePattern::Exact(domain) => {
                    let domain = domain.to_ascii_lowercase().into_boxed_str();
                    routes.exact.entry(domain).or_insert_with(|| route.smarthost.clone());
                }
                RoutePattern::Any => {
                    routes.any.get_or_insert_with(|| route.smarthost.clone());
                }
            }
        }
        routes
    }

    /// Returns the way for `host`, whose text form is `name`.
    pub fn next_hop(&self, host: &Host, name: &str) -> NextHop {
        match (self.exact.get(name).or(self.any.as_ref()), host) {
            (Some(smarthost), _) => NextHop::Smarthost(smarthost.clone()),
            (None, Host::Literal(literal)) => NextHop::Literal(literal.ip()),
            (None, Host::Domain(_)) => NextHop::Mx,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Route;

    fn smarthost(host: &str) -> Smarthost {
        Smarthost { host: host.into(), port: 25 }
    }

    fn routes(list: &[(RoutePattern, &str)]) -> Routes {
        let routes = list
            .iter()
            .map(|(pattern, host)| Route { pattern: pattern.clone(), smarthost: smarthost(host) });
        Routes::new(&DeliveryConfig { routes: routes.collect(), ..DeliveryConfig::default() })
    }

    fn next_hop(routes: &Routes, host: &str) -> NextHop {
        let parsed = Host::parse(host).unwrap();
        routes.next_hop(&parsed, &parsed.to_string())
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
}
