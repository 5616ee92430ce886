//! What a seed makes of a run: who lives in the world, what they do, and what goes wrong.
//!
//! Each seed turns on a random subset of features and faults ("swarm"): a run with all of them on would
//! hardly ever come to the states that need most of them off.

use std::fmt::Write as _;
use std::time::Duration;

use super::tls::OutboundTls;
use crate::disk::DiskFaults;
use crate::dns::DnsHabits;
use crate::injector::{PRIORITY_MAX, TENANT_FIELD, Ways};
use crate::ledger::Rules;
use crate::net::Link;
use crate::random::Random;
use crate::remote::{Habits, TlsHabits};
use crate::tls;

/// The configuration, as far as it is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own")]
pub struct Settings {
    /// Octets in one segment.
    pub segment_size: u64,
    /// Segments of each log.
    pub segments: u64,
    /// Octets of log after which a checkpoint is written.
    pub checkpoint_interval: u64,
    /// Octets of content kept in memory.
    pub cache_size: u64,
    /// Largest message.
    pub message_size_max: u64,
    /// Recipients of one message.
    pub recipients_max: u64,
    /// Messages in one session.
    pub transactions_max: u64,
    /// The delays between attempts, in seconds.
    pub retry: Vec<u64>,
    /// How long mail is tried.
    pub lifetime: Duration,
    /// How long reports are tried.
    pub bounce_lifetime: Duration,
    /// When originators are told of a delay; zero is never.
    pub delay_warning: Duration,
    /// Connections to one site from one shard.
    pub connections_max: u64,
    /// Recipients in one transaction.
    pub recipients_per_transaction: u64,
    /// Transactions over one connection.
    pub transactions_per_connection: u64,
    /// How long replies are waited for.
    pub timeout: Duration,
    /// Whether commands go out in groups.
    pub pipelining: bool,
    /// Whether all mail goes to one host.
    pub smarthost: bool,
    /// Whether it has a certificate.
    pub tls: bool,
    /// Whether it adds fields that are missing, and takes out the one that names a tenant.
    pub mends: bool,
    /// Whether it takes content that is no lines.
    pub binary: bool,
    /// What is said of TLS towards remote hosts; nothing where these have none.
    pub outbound_tls: Option<OutboundTls>,
    /// Whether 8-bit content is made 7-bit for hosts without 8BITMIME; otherwise it is bounced.
    pub converts: bool,
}

impl Settings {
    fn draw(random: &mut Random) -> Self {
        let segments = random.within(4..=24);
        let retry_first = random.within(1..=20);
        Self {
            segment_size: 1 << 20,
            segments,
            checkpoint_interval: random.within(1..=64) << 18,
            cache_size: if random.percent(20) { 0 } else { random.within(1..=4096) << 10 },
            message_size_max: size_max(&mut random.fork("size"), segments),
            recipients_max: random.within(1..=60),
            transactions_max: if random.percent(20) { random.within(1..=5) } else { 1000 },
            retry: vec![retry_first, retry_first * 2, retry_first * random.within(1..=4)],
            lifetime: Duration::from_secs(random.within(30..=400)),
            bounce_lifetime: Duration::from_secs(random.within(20..=300)),
            delay_warning: Duration::from_secs(if random.percent(30) {
                random.within(5..=60)
            } else {
                0
            }),
            connections_max: random.within(1..=20),
            recipients_per_transaction: random.within(1..=50),
            transactions_per_connection: if random.coin() { random.within(1..=5) } else { 1000 },
            timeout: Duration::from_secs(random.within(2..=60)),
            pipelining: !random.percent(20),
            smarthost: random.percent(10),
            tls: random.fork("tls").percent(70),
            mends: random.fork("mends").percent(40),
            binary: random.fork("binary").percent(70),
            converts: random.fork("converts").percent(70),
            // Drawn with the domains.
            outbound_tls: None,
        }
    }

    fn quiet() -> Self {
        Self {
            segment_size: 1 << 20,
            segments: 16,
            checkpoint_interval: 1 << 20,
            cache_size: 1 << 20,
            message_size_max: 1 << 20,
            recipients_max: 50,
            transactions_max: 1000,
            retry: vec![5, 10],
            lifetime: Duration::from_mins(5),
            bounce_lifetime: Duration::from_mins(5),
            delay_warning: Duration::ZERO,
            connections_max: 20,
            recipients_per_transaction: 50,
            transactions_per_connection: 1000,
            timeout: Duration::from_mins(1),
            pipelining: true,
            smarthost: false,
            tls: true,
            mends: false,
            binary: true,
            converts: true,
            outbound_tls: None,
        }
    }

    /// What is demanded of TLS towards remote hosts.
    pub fn rules(&self) -> Rules {
        self.outbound_tls.as_ref().map(OutboundTls::rules).unwrap_or_default()
    }

    /// The text of the configuration file.
    pub fn text(
        &self,
        listeners: &[String; 2],
        name_servers: &[String],
        smarthost: &str,
    ) -> String {
        let seconds = |duration: Duration| format!("{}s", duration.as_secs());
        let mut text = String::new();
        let certificates = if self.tls {
            format!("{{ chain = \"{}\", key = \"{}\" }}", tls::CHAIN, tls::KEY)
        } else {
            String::new()
        };
        text.push_str("[server]\nhostname = \"mta.test\"\n");
        let [main, proxied] = listeners;
        // Whoever is no remote host speaks for others where he may.
        for (name, listener, whom) in
            [("main", main, "xclient_from"), ("proxied", proxied, "proxy_protocol_from")]
        {
            let _ = write!(
                text,
                "[listener.{name}]\naddresses = [\"{listener}\"]\nrelay_networks = [\"10.0.0.0/8\"]\n\
                 {whom} = [\"10.0.2.0/24\"]\nmessage_size_max = \"{}B\"\nrecipients_max = {}\n\
                 transactions_max = {}\ncertificates = [{certificates}]\nbinary_mime = {}\n\
                 mt_priority = true\nmt_priority_max = {PRIORITY_MAX}\nheader = {{ add_missing = {}, tenant = \"{}\" }}\n",
                self.message_size_max,
                self.recipients_max,
                self.transactions_max,
                self.binary,
                self.mends,
                if self.mends { TENANT_FIELD } else { "" },
            );
        }
        let _ = write!(
            text,
            "[queue]\nsegment_size = \"{}B\"\nsize_max = \"{}B\"\ncheckpoint_interval = \"{}B\"\n\
             content_cache_size_max = \"{}B\"\nlifetime = \"{}\"\nbounce_lifetime = \"{}\"\n\
             delay_warning = \"{}\"\n",
            self.segment_size,
            self.segment_size * self.segments,
            self.checkpoint_interval,
            self.cache_size,
            seconds(self.lifetime),
            seconds(self.bounce_lifetime),
            seconds(self.delay_warning),
        );
        let retry: Vec<String> = self.retry.iter().map(|delay| format!("\"{delay}s\"")).collect();
        let timeout = seconds(self.timeout);
        let _ = write!(
            text,
            "[delivery]\neight_bit = \"{}\"\nretry = [{}]\nextensions_off = [{}]\nconnections_per_site_max = {}\n\
             recipients_per_transaction_max = {}\ntransactions_per_connection_max = {}\n",
            if self.converts { "convert" } else { "bounce" },
            retry.join(", "),
            if self.pipelining { "" } else { "\"PIPELINING\"" },
            self.connections_max,
            self.recipients_per_transaction,
            self.transactions_per_connection,
        );
        for step in
            ["connect", "greeting", "ehlo", "mail", "rcpt", "data", "data_block", "final_reply"]
        {
            let _ = writeln!(text, "{step}_timeout = \"{timeout}\"");
        }
        let tls = self.outbound_tls.as_ref();
        if let Some(tls) = tls {
            text.push_str(&tls.section(&timeout));
            text.push_str(&tls.routes());
        }
        if self.smarthost {
            let is_first = tls.is_some_and(OutboundTls::comes_first);
            let _ = write!(
                text,
                "[[route]]\ndomain = \"*\"\nsmarthost = \"{smarthost}\"\ntls_implicit = {is_first}\n"
            );
        }
        let servers: Vec<String> =
            name_servers.iter().map(|server| format!("\"{server}\"")).collect();
        let _ = write!(text, "[dns]\nservers = [{}]\ntimeout = \"2s\"\n", servers.join(", "));
        text
    }
}

/// Where the mail of a domain goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainKind {
    /// To these hosts, by preference; some may be equal.
    Hosts(Vec<usize>),
    /// To a host that has the domain's own name, without an MX record.
    Bare(usize),
    /// As for another domain, whose alias it is.
    Alias(usize),
    /// Nowhere: it takes no mail.
    NullMx,
    /// Nowhere: there is no such name.
    Absent,
    /// To a host that has no address.
    Lame,
    /// To an address at which nobody listens.
    Closed,
    /// To an address that swallows everything.
    Hole,
}

/// What happens to the server and its surroundings in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The process dies.
    Kill,
    /// The power fails.
    PowerCut,
    /// It is stopped in good order, and started again.
    Restart,
    /// An operator removes the mail for a domain, or all of it.
    Purge,
    /// It gets a new configuration.
    Reload,
    /// The wall clock jumps.
    WallStep,
    /// The disk becomes slow, fails, fills up, or is well again.
    Disk,
    /// A domain goes elsewhere.
    Zone,
    /// A host vanishes from the network, or comes back.
    HostDown,
    /// The event log fails, or works again.
    EventLog,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Kill,
        Self::PowerCut,
        Self::Restart,
        Self::Purge,
        Self::Reload,
        Self::WallStep,
        Self::Disk,
        Self::Zone,
        Self::HostDown,
        Self::EventLog,
    ];
}

/// A run, before it begins.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What everything is drawn from.
    pub seed: u64,
    /// Messages to be sent.
    pub messages: u64,
    /// Shards of the server.
    pub shards: u16,
    /// Its configuration.
    pub settings: Settings,
    /// Remote hosts.
    pub hosts: Vec<(Habits, Link)>,
    /// Domains.
    pub domains: Vec<DomainKind>,
    /// How many of them are domains of originators.
    pub homes: usize,
    /// Name servers.
    pub name_servers: Vec<(DnsHabits, Link)>,
    /// Seconds that answers of the DNS hold.
    pub ttl: u32,
    /// Applications.
    pub applications: Vec<Ways>,
    /// The network between them and the server.
    pub local: Link,
    /// The disk at first.
    pub disk: DiskFaults,
    /// What may happen.
    pub acts: Vec<Act>,
    /// The longest time between two of these.
    pub act_gap_max: Duration,
    /// At each so-manieth acknowledgement the disk is looked at.
    pub look_period: u64,
}

impl Plan {
    /// A run in which nothing goes wrong.
    pub fn quiet(seed: u64, messages: u64) -> Self {
        let host = || (Habits::default(), Link::default());
        Self {
            seed,
            messages,
            shards: 2,
            settings: Settings::quiet(),
            hosts: (0..3).map(|_| host()).collect(),
            domains: vec![
                DomainKind::Hosts(vec![0]),
                DomainKind::Hosts(vec![1, 2]),
                DomainKind::Bare(2),
                DomainKind::Alias(0),
            ],
            homes: 1,
            name_servers: vec![(DnsHabits::default(), Link::default())],
            ttl: 60,
            applications: vec![Ways::default(); 3],
            local: instant(),
            disk: DiskFaults::default(),
            acts: Vec::new(),
            act_gap_max: Duration::from_secs(10),
            look_period: 50,
        }
    }

    /// The run of a seed.
    pub fn draw(seed: u64, messages: u64) -> Self {
        let mut random = Random::new(seed).fork("plan");
        let random = &mut random;
        let mut settings = Settings::draw(random);
        let has_bad_hosts = random.percent(80);
        let has_bad_network = random.percent(60);
        let has_bad_names = random.percent(50);
        let percent_max = random.within(2..=40) as u8;
        let mut hosts = (0..random.within(1..=8))
            .map(|_| {
                let is_bad = has_bad_hosts && random.percent(70);
                let habits =
                    if is_bad { Habits::draw(random, percent_max) } else { Habits::default() };
                (habits, link(random, has_bad_network))
            })
            .collect::<Vec<_>>();
        let domains: Vec<DomainKind> = (0..random.within(2..=12))
            .map(|number| domain(random, hosts.len(), number as usize))
            .collect();
        let mut tls = random.fork("tls");
        if tls.percent(OUTBOUND_TLS_PERCENT) {
            settings.outbound_tls = Some(OutboundTls::draw(&mut tls, domains.len()));
            for (habits, _) in hosts.iter_mut().filter(|(habits, _)| habits.knows_ehlo) {
                habits.tls = TlsHabits::draw(&mut tls);
            }
        }
        let name_servers = (0..random.within(1..=3))
            .map(|_| {
                let is_bad = has_bad_names && random.percent(70);
                let habits = if is_bad { names(random) } else { DnsHabits::default() };
                (habits, link(random, has_bad_network))
            })
            .collect();
        let size_max = settings.message_size_max;
        let applications =
            (0..random.within(1..=10)).map(|_| Ways::draw(random, size_max)).collect();
        let local = if random.coin() { instant() } else { link(random, has_bad_network) };
        let disk = if random.percent(50) { disk(random, false) } else { DiskFaults::default() };
        let acts = Act::ALL.iter().copied().filter(|_| random.percent(35)).collect();
        Self {
            seed,
            messages,
            shards: random.within(1..=3) as u16,
            homes: random.within(1..=domains.len() as u64) as usize,
            settings,
            hosts,
            domains,
            name_servers,
            ttl: random.within(0..=120) as u32,
            applications,
            local,
            disk,
            acts,
            act_gap_max: Duration::from_millis(random.within(200..=20_000)),
            look_period: random.within(20..=300),
        }
    }

    /// Whether the disk may fail in this run.
    pub fn has_disk_faults(&self) -> bool {
        self.acts.contains(&Act::Disk)
    }

    /// Whether the wall clock may jump in this run.
    pub fn has_wall_steps(&self) -> bool {
        self.acts.contains(&Act::WallStep)
    }

    /// How long an application may have to wait for a reply, from when the server's host has taken the octets: the
    /// network may hold up both directions, and the disk what the reply stands for.
    pub fn reply_bound(&self) -> Duration {
        let slow = |disk: &DiskFaults| {
            disk.latency.1 + if disk.slow_ppm > 0 { disk.slow } else { Duration::ZERO }
        };
        let slowest = if self.has_disk_faults() { DISK_SLOWEST } else { slow(&self.disk) };
        let link = &self.local;
        let network = (link.latency.1 + link.stall) * 2;
        network + slowest * REPLY_OPERATIONS + LOG_WAITS + REPLY_TIME
    }

    /// How long a start may take; `None` if the disk may see to it that it never ends.
    pub fn opening_bound(&self) -> Option<Duration> {
        (!self.has_disk_faults()).then_some(OPENING_MAX)
    }

    /// How long the queue may take until it is empty once nothing goes wrong any more: mail that cannot be
    /// delivered expires, then its report does; and a site that was down is looked at within 5 minutes.
    pub fn drain_bound(&self) -> Duration {
        let settings = &self.settings;
        // As the engine has it: the longest wait for a site, with its spread.
        let site = Duration::from_secs(330);
        let hold = Duration::from_mins(1);
        settings.lifetime + settings.bounce_lifetime + settings.timeout * 12 + site + hold
    }
}

/// Seeds with TLS towards remote hosts, in percent: handshakes take time.
const OUTBOUND_TLS_PERCENT: u8 = 35;

/// The largest message that is taken: what always has room in the log, or much less.
fn size_max(random: &mut Random, segments: u64) -> u64 {
    let most = (segments << 19).min(1 << 20);
    if random.percent(30) { random.within(1_000..=50_000).min(most) } else { most }
}

/// How long a shard may wait for room in its log, and then for a write of it, before it says 451.
const LOG_WAITS: Duration = Duration::from_secs(25 + 25);

/// Operations of the disk that one reply may have to wait for: writes of the content that was on its way, a
/// segment, and the commit.
const REPLY_OPERATIONS: u32 = 16;

/// How long a start may take on a disk that does not fail.
pub(super) const OPENING_MAX: Duration = Duration::from_mins(1);

/// How long a reply may take beside: the server's own pauses.
const REPLY_TIME: Duration = Duration::from_secs(5);

/// A network in which what is written is there at once, so that nothing hides behind a latency.
fn instant() -> Link {
    Link { latency: (Duration::ZERO, Duration::ZERO), ..Link::default() }
}

fn link(random: &mut Random, may_be_bad: bool) -> Link {
    let slowest = random.within(1..=100);
    let mut link = Link {
        latency: (Duration::from_micros(50), Duration::from_millis(slowest)),
        ..Link::default()
    };
    if !may_be_bad || random.percent(40) {
        return link;
    }
    let mut some = |most: u64| if random.coin() { random.within(0..=most) } else { 0 };
    link.split_percent = some(100) as u8;
    link.refuse_percent = some(30) as u8;
    link.black_hole_percent = some(20) as u8;
    link.reset_ppm = some(20_000) as u32;
    link.stall_ppm = some(10_000) as u32;
    link.stall = Duration::from_millis(some(90_000));
    link.loss_percent = some(40) as u8;
    link.duplicate_percent = some(20) as u8;
    link.late_percent = some(20) as u8;
    if some(1) == 1 {
        link.buffer_size = some(4096).max(64) as usize;
    }
    link
}

/// The longest time that an operation takes on a disk that is drawn here, unless it never ends.
const DISK_SLOWEST: Duration = Duration::from_millis(50 + 1 + 5_000);

/// A disk that has something; one that fails only if it may.
pub(super) fn disk(random: &mut Random, may_fail: bool) -> DiskFaults {
    let slowest = random.within(1..=50_000);
    let mut faults = DiskFaults {
        latency: (Duration::from_micros(20), Duration::from_micros(20 + slowest)),
        ..DiskFaults::default()
    };
    if random.percent(30) {
        faults.slow_ppm = random.within(1..=50_000) as u32;
        faults.slow = Duration::from_millis(random.within(1..=5_000));
    }
    if !may_fail {
        return faults;
    }
    let mut some = |most: u64| if random.percent(25) { random.within(1..=most) as u32 } else { 0 };
    faults.write_error_ppm = some(5_000);
    faults.short_write_ppm = some(5_000);
    faults.sync_error_ppm = some(5_000);
    faults.name_error_ppm = some(50_000);
    faults.read_error_ppm = some(2_000);
    faults.hang_ppm = some(2_000);
    if some(1) == 1 {
        faults.capacity = Some(u64::from(some(1)) + random.within(2..=24) * (1 << 20));
    }
    faults
}

fn names(random: &mut Random) -> DnsHabits {
    let mut some = || if random.percent(40) { random.within(1..=40) as u8 } else { 0 };
    DnsHabits {
        silent: some(),
        failure: some(),
        refused: some(),
        truncated: some(),
        wrong_id: some(),
        wrong_question: some(),
        malformed: some(),
        no_edns: some(),
        slow: some(),
        tcp_closed: some(),
    }
}

/// Draws where the mail of a domain goes; the first one goes somewhere.
pub(super) fn domain(random: &mut Random, hosts: usize, number: usize) -> DomainKind {
    match random.below(100) {
        80..85 => DomainKind::Bare(random.index(hosts)),
        85..90 if number > 0 => DomainKind::Alias(random.index(number)),
        90..92 if number > 0 => DomainKind::NullMx,
        92..94 if number > 0 => DomainKind::Absent,
        94..96 if number > 0 => DomainKind::Lame,
        96..98 if number > 0 => DomainKind::Closed,
        98..100 if number > 0 => DomainKind::Hole,
        _ => {
            let count = random.within(1..=3);
            DomainKind::Hosts((0..count).map(|_| random.index(hosts)).collect())
        }
    }
}
