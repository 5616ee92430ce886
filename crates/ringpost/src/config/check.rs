//! Contradictions: values that are each valid and do not go together, or cannot work.

mod aliases;
mod dialect;
mod listener;
mod outbound_auth;
mod outbound_tls;
mod stress;

use std::net::SocketAddr;
use std::time::Duration;

use ringpost_protocol::address::Domain;
use tracing_subscriber::EnvFilter;

use super::auth::check_auth;
use super::client_certificates::check_client_certificates;
use super::retry::{Exponential, Retry};
use super::schema::{Config, Cores, RouteDomain, RouteSection};
use super::smarthost::SmarthostAddress;
use super::system::SystemFacts;
use super::units::display_size;

/// Smallest and largest segment.
const SEGMENT_SIZE_MIN: u64 = 1 << 20;
const SEGMENT_SIZE_MAX: u64 = 1 << 30;
/// Frames begin at multiples of this, so a segment is one too.
const SEGMENT_ALIGNMENT: u64 = 4096;
/// A log needs a segment to write, one in preparation, one to free and one to copy into.
const SEGMENTS_MIN: u64 = 4;
/// More shards than this are a mistake in the file, not a machine.
const SHARDS_MAX: u16 = 1024;
/// Anything shorter would be a busy loop.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
/// A larger factor is a list of two delays.
const RETRY_FACTOR_MAX: f64 = 100.0;
/// A wider spread would make the schedule meaningless.
const RETRY_JITTER_PERCENT_MAX: u8 = 50;

/// A larger share of a file system cannot be meant to stay free.
const FREE_SPACE_PERCENT_MAX: u8 = 90;
/// Clients would take a longer silence for a fault.
const SLOW_DELAY_MAX: Duration = Duration::from_secs(10);
/// Less memory is taken by rings and buffers alone.
const MEMORY_MIN: u64 = 64 << 20;

/// One contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// Path of the key; array positions are numbers.
    pub(super) place: Vec<String>,
    /// Why it cannot be, without a full stop.
    pub(super) reason: String,
}

/// Finds everything that is wrong, not only the first.
pub(super) fn contradictions(config: &Config, facts: &SystemFacts) -> Vec<Contradiction> {
    let mut found = Findings::default();
    check_server(&mut found, config, facts);
    listener::check_listeners(&mut found, config);
    aliases::check_aliases(&mut found, config, facts);
    check_queue(&mut found, config);
    check_delivery(&mut found, config);
    check_routes(&mut found, config);
    outbound_tls::check_outbound_tls(&mut found, config);
    outbound_auth::check_outbound_auth(&mut found, config);
    dialect::check_dialects(&mut found, config);
    stress::check_stress(&mut found, &config.stress);
    check_dns(&mut found, config, facts);
    check_control(&mut found, config);
    check_auth(&mut found, config);
    check_client_certificates(&mut found, config);
    found.list
}

#[derive(Default)]
pub(super) struct Findings {
    list: Vec<Contradiction>,
}

impl Findings {
    pub(super) fn add(&mut self, place: &[&str], reason: impl Into<String>) {
        self.add_at(place.iter().map(|part| (*part).to_owned()).collect(), reason);
    }

    fn add_at(&mut self, place: Vec<String>, reason: impl Into<String>) {
        self.list.push(Contradiction { place, reason: reason.into() });
    }

    fn domain(&mut self, place: &[&str], name: &str) {
        if let Err(error) = Domain::parse(name) {
            self.add(place, format!("{name:?} is not a domain name: {error}"));
        }
    }

    pub(super) fn not_zero(&mut self, section: &[&str], values: &[(&str, bool)]) {
        for (key, is_zero) in values {
            if *is_zero {
                let place: Vec<&str> = section.iter().copied().chain([*key]).collect();
                self.add(&place, "must not be zero");
            }
        }
    }
}

fn check_server(found: &mut Findings, config: &Config, facts: &SystemFacts) {
    let place = ["server", "hostname"];
    match &config.server.hostname {
        Some(name) => found.domain(&place, name),
        None if Domain::parse(&facts.hostname).is_err() => {
            let name = &facts.hostname;
            found.add(&place, format!("not set, and the system's {name:?} is not a domain name"));
        }
        None => {}
    }
    check_cores(found, config, facts);
    if config.server.memory_max.is_some_and(|memory| memory < MEMORY_MIN) {
        let reason = format!("less than {}", display_size(MEMORY_MIN));
        found.add(&["server", "memory_max"], reason);
    }
    found.not_zero(&["server"], &[("shutdown_timeout", config.server.shutdown_timeout.is_zero())]);
}

fn check_cores(found: &mut Findings, config: &Config, facts: &SystemFacts) {
    let place = ["server", "cores"];
    let available = facts.cores.len();
    match &config.server.cores {
        Cores::All if available == 0 => {
            found.add(&place, "the system does not tell which cores there are: list them");
        }
        Cores::Count(0) => found.add(&place, "must not be zero"),
        Cores::Count(count) if *count > available => {
            found.add(&place, format!("{count} cores wanted, the process may use {available}"));
        }
        Cores::List(list) if list.is_empty() => found.add(&place, "the list is empty"),
        Cores::List(list) => {
            for (index, core) in list.iter().enumerate() {
                if list.iter().take(index).any(|earlier| earlier == core) {
                    found.add(&place, format!("core {core} is listed twice"));
                }
                if available > 0 && !facts.cores.contains(core) {
                    found.add(&place, format!("the process may not use core {core}"));
                }
            }
        }
        Cores::All | Cores::Count(_) => {}
    }
}

fn check_queue(found: &mut Findings, config: &Config) {
    let queue = &config.queue;
    if !queue.directory.is_absolute() {
        found.add(&["queue", "directory"], "must be an absolute path");
    }
    match queue.shards {
        Some(0) => found.add(&["queue", "shards"], "must not be zero"),
        Some(shards) if shards > SHARDS_MAX => {
            found.add(&["queue", "shards"], format!("more than {SHARDS_MAX}"));
        }
        _ => {}
    }
    if !(SEGMENT_SIZE_MIN..=SEGMENT_SIZE_MAX).contains(&queue.segment_size) {
        let (min, max) = (display_size(SEGMENT_SIZE_MIN), display_size(SEGMENT_SIZE_MAX));
        found.add(&["queue", "segment_size"], format!("must be from {min} to {max}"));
    }
    if !queue.segment_size.is_multiple_of(SEGMENT_ALIGNMENT) {
        let alignment = display_size(SEGMENT_ALIGNMENT);
        found.add(&["queue", "segment_size"], format!("must be a multiple of {alignment}"));
    }
    if queue.size_max < queue.segment_size.saturating_mul(SEGMENTS_MIN) {
        let reason = format!("less than {SEGMENTS_MIN} segments (queue.segment_size)");
        found.add(&["queue", "size_max"], reason);
    }
    for (key, percent) in [
        ("free_space_min_percent", queue.free_space_min_percent),
        ("free_space_slow_percent", queue.free_space_slow_percent),
    ] {
        if percent > FREE_SPACE_PERCENT_MAX {
            found.add(&["queue", key], format!("more than {FREE_SPACE_PERCENT_MAX}"));
        }
    }
    if queue.slow_delay > SLOW_DELAY_MAX {
        let reason = format!("more than {} s", SLOW_DELAY_MAX.as_secs());
        found.add(&["queue", "slow_delay"], reason);
    }
    found.not_zero(
        &["queue"],
        &[
            ("lifetime", queue.lifetime.is_zero()),
            ("messages_per_core_max", queue.messages_per_core_max == 0),
            ("recipients_per_core_max", queue.recipients_per_core_max == 0),
            ("bounce_lifetime", queue.bounce_lifetime.is_zero()),
        ],
    );
}

fn check_delivery(found: &mut Findings, config: &Config) {
    let delivery = &config.delivery;
    if let Some(name) = &delivery.helo_name {
        found.domain(&["delivery", "helo_name"], name);
    }
    let lifetime = (config.queue.lifetime, "queue.lifetime");
    check_retry(found, &["delivery", "retry"], &delivery.retry, lifetime);
    if delivery.retry_jitter_percent > RETRY_JITTER_PERCENT_MAX {
        let reason = format!("more than {RETRY_JITTER_PERCENT_MAX}");
        found.add(&["delivery", "retry_jitter_percent"], reason);
    }
    found.not_zero(
        &["delivery"],
        &[
            ("port", delivery.port == 0),
            ("connections_per_site_max", delivery.connections_per_site_max == 0),
            ("transactions_per_connection_max", delivery.transactions_per_connection_max == 0),
            ("recipients_per_transaction_max", delivery.recipients_per_transaction_max == 0),
            ("idle_timeout", delivery.idle_timeout.is_zero()),
            ("connect_timeout", delivery.connect_timeout.is_zero()),
            ("greeting_timeout", delivery.greeting_timeout.is_zero()),
            ("ehlo_timeout", delivery.ehlo_timeout.is_zero()),
            ("mail_timeout", delivery.mail_timeout.is_zero()),
            ("rcpt_timeout", delivery.rcpt_timeout.is_zero()),
            ("data_timeout", delivery.data_timeout.is_zero()),
            ("data_block_timeout", delivery.data_block_timeout.is_zero()),
            ("final_reply_timeout", delivery.final_reply_timeout.is_zero()),
        ],
    );
}

/// `lifetime` is how long such mail is tried, and the key that says so.
fn check_retry(found: &mut Findings, key: &[&str], retry: &Retry, lifetime: (Duration, &str)) {
    let within = |part: &str| {
        let mut place: Vec<String> = key.iter().map(|part| (*part).to_owned()).collect();
        place.push(part.to_owned());
        place
    };
    let first_key = match retry {
        Retry::List(delays) => {
            if delays.is_empty() {
                found.add(key, "no delay: nothing deferred would ever be tried again");
            }
            for (index, delay) in delays.iter().enumerate() {
                if *delay < RETRY_DELAY_MIN {
                    found.add_at(within(&index.to_string()), "less than a second");
                }
            }
            "0"
        }
        Retry::Exponential(Exponential { first, factor, max }) => {
            if *first < RETRY_DELAY_MIN {
                found.add_at(within("first"), "less than a second");
            }
            if max < first {
                found.add_at(within("max"), "less than the first delay");
            }
            if !(1.0..=RETRY_FACTOR_MAX).contains(factor) {
                found.add_at(within("factor"), format!("must be from 1 to {RETRY_FACTOR_MAX}"));
            }
            "first"
        }
    };
    let (lifetime, lifetime_key) = lifetime;
    if retry.first().is_some_and(|first| first >= lifetime) {
        let reason = format!("not shorter than {lifetime_key}: no second attempt");
        found.add_at(within(first_key), reason);
    }
}

fn check_routes(found: &mut Findings, config: &Config) {
    for (index, route) in config.route.iter().enumerate() {
        let number = index.to_string();
        if config.route.iter().take(index).any(|earlier| earlier.domain == route.domain) {
            let reason = format!("a second route for {}", route.domain);
            found.add(&["route", &number, "domain"], reason);
        }
        let mut ours = config.listener.values().flat_map(|listener| &listener.addresses);
        if let Some(smarthost) = &route.smarthost
            && let Some(ip) = smarthost.ip()
            && ours.any(|address| *address == SocketAddr::new(ip, smarthost.port))
        {
            let reason = format!("{smarthost} is a listener of ours: mail would loop");
            found.add(&["route", &number, "smarthost"], reason);
        }
        found
            .not_zero(&["route", &number], &[("lifetime", route.lifetime == Some(Duration::ZERO))]);
        let general = &config.delivery.retry;
        match (&route.retry, route.lifetime) {
            (Some(retry), lifetime) => {
                let lifetime = lifetime.map_or((config.queue.lifetime, "queue.lifetime"), |own| {
                    (own, "the lifetime of the route")
                });
                check_retry(found, &["route", &number, "retry"], retry, lifetime);
            }
            (None, Some(lifetime)) if general.first().is_some_and(|first| first >= lifetime) => {
                let reason = "not longer than the first delay of delivery.retry: no second attempt";
                found.add(&["route", &number, "lifetime"], reason);
            }
            (None, _) => {}
        }
    }
}

fn check_dns(found: &mut Findings, config: &Config, facts: &SystemFacts) {
    let any = config.route.iter().any(|route| route.domain == RouteDomain::Any);
    let ip = |route: &RouteSection| route.smarthost.as_ref().and_then(SmarthostAddress::ip);
    let named = config.route.iter().any(|route| ip(route).is_none());
    let needed = !any || named;
    if needed && config.dns.servers.is_empty() && facts.name_servers.is_empty() {
        found.add(&["dns", "servers"], "not set, and /etc/resolv.conf names no server");
    }
    found.not_zero(
        &["dns"],
        &[("timeout", config.dns.timeout.is_zero()), ("attempts", config.dns.attempts == 0)],
    );
}

fn check_control(found: &mut Findings, config: &Config) {
    let listen = config.control.listen;
    if !listen.ip().is_loopback() && !config.control.allow_remote {
        let reason = format!("{listen} is not loopback: set control.allow_remote if you mean it");
        found.add(&["control", "listen"], reason);
    }
    let mut ours = config.listener.values().flat_map(|listener| &listener.addresses);
    if listen.port() != 0 && ours.any(|address| *address == listen) {
        found.add(&["control", "listen"], format!("{listen} is a mail listener too"));
    }
    if config.events.file().is_some_and(|path| !path.is_absolute()) {
        found.add(&["events", "path"], "must be an absolute path, or empty for no event log");
    }
    found.not_zero(&["events"], &[("held_segments_max", config.events.held_segments_max == 0)]);
    if let Err(error) = EnvFilter::try_new(&config.log.level) {
        found.add(&["log", "level"], format!("{:?}: {error}", config.log.level));
    }
}
