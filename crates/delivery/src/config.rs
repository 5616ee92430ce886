//! What an operator decides about delivery.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ringpost_session::client::Dialect;

use crate::dns::DnsConfig;
use crate::login::LoginProfile;
use crate::retry::RetrySchedule;
use crate::rules::ReplyRules;
use crate::tls::TlsPolicy;

/// Settings of an [`Engine`](crate::engine::Engine). All fields have usable defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryConfig {
    /// Our own host name, lower case. An MX set that names it ends at us (RFC 5321 §5.1), so
    /// hosts at and behind it are left out. Default: empty, which matches nothing.
    pub hostname: Box<str>,
    /// Ways and times by domain; the first route that matches decides, exact domains before `*`.
    /// Default: none; everything goes by MX.
    pub routes: Vec<Route>,
    /// Port of the hosts that MX records and address literals name. Default: 25.
    pub port: u16,
    /// Connections to one site from all shards together, at most. Default: 20; at least 1 is used.
    pub connections_per_site_max: usize,
    /// Transactions over one connection before it is closed. Default: 1000; at least 1.
    pub transactions_per_connection_max: u32,
    /// Recipients in one transaction. Default: 100; at least 1.
    pub recipients_per_transaction_max: usize,
    /// How long an idle connection is kept for more work. Default: 10 s.
    pub idle_timeout: Duration,
    /// How long the driver waits for a connection. Default: 30 s.
    pub connect_timeout: Duration,
    /// When deferred recipients are tried again, if their route does not say otherwise.
    pub retry: RetrySchedule,
    /// After which time the originator of a message is told that it is delayed (RFC 3464 §2.3.3),
    /// if the route does not say otherwise. Default: zero, never.
    pub delay_warning: Duration,
    /// What TLS is asked for, if the route does not say otherwise. Default: opportunistic.
    pub tls: TlsPolicy,
    /// What operators know of replies. Default: nothing.
    pub rules: Arc<ReplyRules>,
    /// What is spoken with next hops, if the route does not say otherwise. Default: SMTP, with all
    /// extensions that they offer.
    pub dialect: Dialect,
    /// How long mail goes in plain text to an address at which opportunistic TLS has failed. Zero: each
    /// connection tries anew. Default: 10 min.
    pub tls_broken_time: Duration,
    /// Addresses for which that is remembered, at most. Default: 4096.
    pub tls_broken_max: usize,
    /// First wait after all hosts of a site failed, or one address did; doubles with each
    /// further failure. Default: 5 s.
    pub backoff_min: Duration,
    /// Longest such wait. Default: 5 min.
    pub backoff_max: Duration,
    /// Addresses tried in a row before the site counts as failed. Default: 5; at least 1.
    pub addresses_tried_max: usize,
    /// What all hosts refusing us with 5xx before a transaction means. Default: bounce.
    pub session_refusal: SessionRefusal,
    /// Which addresses found by MX may be connected to.
    pub address_policy: AddressPolicy,
    /// Which IP versions are used. Default: both.
    pub address_family: AddressFamily,
    /// How names are looked up.
    pub dns: DnsConfig,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            hostname: "".into(),
            routes: Vec::new(),
            port: 25,
            connections_per_site_max: 20,
            transactions_per_connection_max: 1000,
            recipients_per_transaction_max: 100,
            idle_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(30),
            retry: RetrySchedule::default(),
            delay_warning: Duration::ZERO,
            tls: TlsPolicy::default(),
            rules: Arc::default(),
            dialect: Dialect::default(),
            tls_broken_time: Duration::from_mins(10),
            tls_broken_max: 4096,
            backoff_min: Duration::from_secs(5),
            backoff_max: Duration::from_mins(5),
            addresses_tried_max: 5,
            session_refusal: SessionRefusal::Bounce,
            address_policy: AddressPolicy::default(),
            address_family: AddressFamily::Any,
            dns: DnsConfig::default(),
        }
    }
}

/// Decides about the mail for a domain, or for all.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The domain that it is for.
    pub pattern: RoutePattern,
    /// Where its mail goes; `None` means by MX.
    pub smarthost: Option<Smarthost>,
    /// When its deferred recipients are tried again; `None` means as [`DeliveryConfig::retry`] says.
    pub retry: Option<RetrySchedule>,
    /// How long its recipients are tried, from reception on. It only ever shortens the lifetime that
    /// the message came with, which `None` leaves alone.
    pub lifetime: Option<Duration>,
    /// As [`DeliveryConfig::delay_warning`], which `None` means.
    pub delay_warning: Option<Duration>,
    /// As [`DeliveryConfig::tls`], which `None` means.
    pub tls: Option<TlsPolicy>,
    /// With what to log in at its smarthost; `None`: without. Nobody logs in at hosts found by MX.
    pub login: Option<LoginProfile>,
    /// As [`DeliveryConfig::dialect`], which `None` means. LMTP is for smarthosts.
    pub dialect: Option<Dialect>,
}

impl Route {
    /// Makes a route to a smarthost, with the times of all mail.
    pub fn to(pattern: RoutePattern, smarthost: Smarthost) -> Self {
        let smarthost = Some(smarthost);
        Self {
            pattern,
            smarthost,
            retry: None,
            lifetime: None,
            delay_warning: None,
            tls: None,
            login: None,
            dialect: None,
        }
    }
}

/// Which domains a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutePattern {
    /// This domain, lower case, without its subdomains; an address literal as `[192.0.2.1]`.
    Exact(Box<str>),
    /// Every domain, written `*`.
    Any,
}

/// A configured next hop. No MX lookup is made for it, and [`AddressPolicy`] does not apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smarthost {
    /// Lower-case host name, or an IP address without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

/// What it means that every host of a site refuses the session with 5xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRefusal {
    /// Mail waiting for the site bounces.
    Bounce,
    /// Mail waiting for the site is deferred.
    Defer,
}

/// Which IP versions are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressFamily {
    /// Both.
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl AddressFamily {
    /// Tells whether `address` may be used.
    pub fn admits(self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// Which addresses a stranger's DNS may make us connect to.
///
/// Without it, whoever can send mail through us could aim our connections at services on this
/// machine or in its network. Unspecified, multicast and broadcast addresses are never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Whether loopback and link-local addresses may be used. Default: no.
    pub allow_loopback: bool,
    /// Whether private addresses (RFC 1918, RFC 4193, RFC 6598) may be used. Default: yes.
    pub allow_private: bool,
}

impl Default for AddressPolicy {
    fn default() -> Self {
        Self { allow_loopback: false, allow_private: true }
    }
}

impl AddressPolicy {
    /// Tells whether `address` may be connected to.
    pub fn admits(self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [first, second, ..] = v4.octets();
                let shared = first == 100 && second & 0xc0 == 64;
                let local = v4.is_loopback() || v4.is_link_local();
                // 0.0.0.0/8 is "this host on this network", and reaches the loopback.
                !(first == 0 || v4.is_multicast() || v4.is_broadcast())
                    && (self.allow_loopback || !local)
                    && (self.allow_private || !(v4.is_private() || shared))
            }
            IpAddr::V6(v6) => {
                let local = v6.is_loopback() || v6.is_unicast_link_local();
                !(v6.is_unspecified() || v6.is_multicast())
                    && (self.allow_loopback || !local)
                    && (self.allow_private || !v6.is_unique_local())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_policy_table() {
        let default = AddressPolicy::default();
        let strict = AddressPolicy { allow_private: false, ..default };
        let test = AddressPolicy { allow_loopback: true, ..default };
        // (address, by default, without private ones, with loopback)
        let rows = [
            ("192.0.2.1", true, true, true),
            ("127.0.0.1", false, false, true),
            ("127.9.9.9", false, false, true),
            ("::1", false, false, true),
            ("::ffff:127.0.0.1", false, false, true),
            ("169.254.1.1", false, false, true),
            ("fe80::1", false, false, true),
            ("0.0.0.0", false, false, false),
            ("0.1.2.3", false, false, false),
            ("::", false, false, false),
            ("224.0.0.1", false, false, false),
            ("ff02::1", false, false, false),
            ("255.255.255.255", false, false, false),
            ("10.1.2.3", true, false, true),
            ("192.168.0.1", true, false, true),
            ("100.64.0.1", true, false, true),
            ("fd00::1", true, false, true),
            ("2001:db8::1", true, true, true),
        ];
        for (address, by_default, by_strict, by_test) in rows {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!(default.admits(ip), by_default, "{address} by default");
            assert_eq!(strict.admits(ip), by_strict, "{address} without private ones");
            assert_eq!(test.admits(ip), by_test, "{address} with loopback");
        }
    }
}
