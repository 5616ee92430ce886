//! A driver in virtual time: a name server, hosts, and an account of every recipient.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, MX};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ringpost_delivery::config::DeliveryConfig;
use ringpost_delivery::dns::DnsConfig;
use ringpost_delivery::{
    Action, ConnectFailure, ConnectionId, Engine, Job, LoginProfile, Next, Now, QueuedMessage,
    QueuedRecipient, Reason, Settlement, SiteChange, TlsPolicy,
};
use ringpost_protocol::address::Host;
use ringpost_protocol::priority::Priority;
use ringpost_protocol::reply::{Reply, ReplyCode};
use ringpost_protocol::status::EnhancedStatusCode;
use ringpost_queue::{Disposition, MessageId, RecipientIndex};
use ringpost_session::client::{
    ClientTls, Dialect, LocalRefusal, RecipientReport, SessionFailure, Stage, TlsProblem,
    TransactionReport, Verdict,
};

pub(crate) const NAME_SERVER: &str = "192.0.2.53:53";
pub(crate) const START_UNIX_MS: u64 = 1_700_000_000_000;

pub(crate) fn config() -> DeliveryConfig {
    let servers = vec![NAME_SERVER.parse().unwrap()];
    DeliveryConfig {
        dns: DnsConfig { servers, ..DnsConfig::default() },
        ..DeliveryConfig::default()
    }
}

pub(crate) fn reply(text: &str) -> Reply {
    let code = ReplyCode::new(text[..3].parse().unwrap()).unwrap();
    let text = text[3..].trim_start();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    match EnhancedStatusCode::parse(first) {
        Ok(enhanced) => Reply::new(code, Some(enhanced), rest),
        Err(_) => Reply::new(code, None, text),
    }
}

/// What a host does when a connection is made to it.
#[derive(Debug, Clone)]
pub(crate) enum Connect {
    Ready,
    Fail(ConnectFailure),
    /// The driver gives up after its own time-out.
    Hang,
    Greet(&'static str),
    /// STARTTLS is not offered; mail is taken in plain text.
    WithoutTls,
    /// Takes mail in plain text, and fails at this stage when TLS is begun.
    FailTls(Stage),
    /// Refuses whoever logs in, with this reply.
    RefuseLogin(&'static str),
    /// Introduces itself, and ends the session before the first transaction.
    LetInAndOut,
}

/// What a host does with a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Transaction {
    /// One reply at a stage for each recipient; the last one repeats.
    Replies(Vec<(Stage, &'static str)>),
    /// The connection is gone before anything was answered.
    Dead,
    /// The connection breaks at a stage, in the middle of the transaction.
    Break(Stage),
    /// The connection breaks, and the driver reports only its end.
    CloseOnly(Stage),
    /// Our side drops the connection without a word.
    Drop,
    /// Our side gives up.
    Abort,
    /// Our side cannot read the message.
    Unreadable,
    Part(&'static str),
}

/// A host at an address.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) connect: Connect,
    /// Behaviour of the transactions to come; afterwards all succeed.
    pub(crate) script: Vec<Transaction>,
    /// How the later transactions go.
    pub(crate) otherwise: Transaction,
    /// Connections served at once; further ones get 421.
    pub(crate) connections_max: usize,
    /// Recipients taken in a transaction; further ones get 452.
    pub(crate) recipients_max: usize,
    /// Recipients in a transaction, as told by LIMITS; further ones are not named.
    pub(crate) told_recipients_max: Option<usize>,
    /// Transactions before the connection is found dead.
    pub(crate) transactions_max: usize,
    pub(crate) latency: Duration,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            connect: Connect::Ready,
            script: Vec::new(),
            otherwise: Transaction::Replies(vec![(Stage::FinalReply, "250 2.0.0 ok")]),
            connections_max: usize::MAX,
            recipients_max: usize::MAX,
            told_recipients_max: None,
            transactions_max: usize::MAX,
            latency: Duration::from_millis(20),
        }
    }
}

#[derive(Debug)]
enum Event {
    Connected(ConnectionId),
    Ask(ConnectionId),
    Transacted(ConnectionId, Job),
    Closed(ConnectionId),
    ShownOut(ConnectionId),
    Dns(Vec<u8>),
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    tls: ClientTls,
    is_ready: bool,
    /// The recipients of the job that is out.
    job: Option<Job>,
    transactions: usize,
}

/// What became of one recipient, in order.
pub(crate) type History = Vec<(Disposition, Reason)>;

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    pub(crate) zone: BTreeMap<(String, RecordType), Vec<RData>>,
    /// Names whose lookups fail.
    pub(crate) broken: BTreeSet<String>,
    /// Whether no name server answers.
    pub(crate) dns_is_down: bool,
    pub(crate) servers: BTreeMap<SocketAddr, Server>,
    pub(crate) hosts_of: BTreeMap<MessageId, Vec<Host>>,
    pub(crate) outstanding: BTreeMap<(MessageId, RecipientIndex), u16>,
    pub(crate) history: BTreeMap<(MessageId, RecipientIndex), History>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) transactions: usize,
    pub(crate) connects: Vec<SocketAddr>,
    /// What each of them was to make of TLS.
    pub(crate) tls_of_connects: Vec<ClientTls>,
    /// By which policy.
    pub(crate) policies_of_connects: Vec<Arc<TlsPolicy>>,
    /// With what each of them was to log in.
    pub(crate) logins: Vec<Option<LoginProfile>>,
    /// What was spoken over each of them.
    pub(crate) dialects: Vec<Dialect>,
    pub(crate) queries: BTreeMap<(String, RecordType), usize>,
    pub(crate) peak: BTreeMap<IpAddr, usize>,
    /// Messages of which the engine said that they will wait.
    pub(crate) parked: BTreeSet<MessageId>,
    pub(crate) changes: Vec<SiteChange>,
    /// Recipients whose originator was told that they are late.
    pub(crate) warned: Vec<(MessageId, RecipientIndex)>,
    /// Recipients that were removed from the queue.
    pub(crate) purged: BTreeSet<(MessageId, RecipientIndex)>,
    /// Whether the driver takes settlements.
    pub(crate) settles: bool,
    pub(crate) config: Arc<DeliveryConfig>,
    in_transaction: BTreeSet<(MessageId, RecipientIndex)>,
    links: BTreeMap<ConnectionId, Link>,
    events: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    next_message: u64,
}

impl World {
    pub(crate) fn new(config: DeliveryConfig, seed: u64) -> Self {
        let now = Now { monotonic: Instant::now(), unix_ms: START_UNIX_MS };
        let config = Arc::new(config);
        Self {
            engine: Engine::new(Arc::clone(&config), seed, now),
            now,
            zone: BTreeMap::new(),
            broken: BTreeSet::new(),
            dns_is_down: false,
            servers: BTreeMap::new(),
            hosts_of: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            history: BTreeMap::new(),
            jobs: Vec::new(),
            transactions: 0,
            connects: Vec::new(),
            tls_of_connects: Vec::new(),
            policies_of_connects: Vec::new(),
            logins: Vec::new(),
            dialects: Vec::new(),
            queries: BTreeMap::new(),
            peak: BTreeMap::new(),
            parked: BTreeSet::new(),
            changes: Vec::new(),
            warned: Vec::new(),
            purged: BTreeSet::new(),
            settles: true,
            config,
            in_transaction: BTreeSet::new(),
            links: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            next_message: 0,
        }
    }

    pub(crate) fn reconfigure(&mut self, config: DeliveryConfig) {
        self.config = Arc::new(config);
        self.engine.reconfigure(self.now, Arc::clone(&self.config));
        self.act();
    }

    /// Adds a host: an address in DNS, and a server there.
    pub(crate) fn add_host(&mut self, name: &str, ip: [u8; 4], server: Server) {
        let data = RData::A(A::from(std::net::Ipv4Addr::from(ip)));
        self.zone.entry((name.into(), RecordType::A)).or_default().push(data);
        self.servers.insert(SocketAddr::from((ip, self.config.port)), server);
    }

    pub(crate) fn add_mx(&mut self, domain: &str, preference: u16, host: &str) {
        let data = RData::MX(MX::new(preference, name(host)));
        self.zone.entry((domain.into(), RecordType::MX)).or_default().push(data);
    }

    pub(crate) fn server(&mut self, ip: [u8; 4]) -> &mut Server {
        self.servers.get_mut(&SocketAddr::from((ip, self.config.port))).unwrap()
    }

    /// Sends a message to recipients at `hosts`; it expires after five days.
    pub(crate) fn send(&mut self, hosts: &[&str]) -> MessageId {
        self.send_expiring(hosts, Duration::from_hours(5 * 24))
    }

    pub(crate) fn send_expiring(&mut self, hosts: &[&str], lifetime: Duration) -> MessageId {
        let message = self.message(hosts, lifetime);
        let id = message.id;
        self.hand_over(&message);
        id
    }

    /// Makes a fresh message.
    pub(crate) fn message(&mut self, hosts: &[&str], lifetime: Duration) -> QueuedMessage {
        let id = MessageId::from_u64(self.next_message);
        self.next_message += 1;
        let hosts: Vec<Host> = hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
        let recipients = (0..).zip(&hosts).map(|(index, host)| QueuedRecipient {
            index: RecipientIndex(index),
            host: host.clone(),
            attempts: 0,
            due_unix_ms: None,
            warned: false,
        });
        let message = QueuedMessage {
            id,
            received_unix_ms: self.now.unix_ms,
            expiry_unix_ms: self.now.unix_ms + u64::try_from(lifetime.as_millis()).unwrap(),
            priority: Priority::NORMAL,
            tls_optional: false,
            deliver_by: None,
            recipients: recipients.collect(),
        };
        self.hosts_of.insert(id, hosts);
        message
    }

    /// Sends a message as it is.
    pub(crate) fn hand_over(&mut self, message: &QueuedMessage) {
        for recipient in &message.recipients {
            let key = (message.id, recipient.index);
            self.outstanding.insert(key, recipient.attempts);
            if recipient.warned {
                self.warned.push(key);
            }
        }
        self.engine.handle_message(self.now, message);
        self.act();
    }

    /// Removes recipients from the queue, as far as they are in it.
    pub(crate) fn purge(&mut self, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            let keys = (id, RecipientIndex(0))..=(id, RecipientIndex(u16::MAX));
            let gone: Vec<_> = self.outstanding.range(keys).map(|(key, _)| *key).collect();
            for key in gone {
                self.outstanding.remove(&key);
                self.purged.insert(key);
            }
        }
        self.engine.begin_forgetting();
    }

    /// Lets the engine forget some of it; whether there is more, and how often it asked.
    pub(crate) fn forget_some(&mut self) -> (bool, usize) {
        let mut asked = 0;
        let purged = &self.purged;
        let more = self.engine.forget_some(|id, index| {
            asked += 1;
            !purged.contains(&(id, index))
        });
        self.act();
        (more, asked)
    }

    /// Sets the wall clock.
    pub(crate) fn step_clock(&mut self, by_ms: i64) {
        self.now.unix_ms = self.now.unix_ms.saturating_add_signed(by_ms);
    }

    /// Runs until nothing is left to do but wait for the end of idle connections and sweeps, or
    /// until `time` has passed.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        for _ in 0..1_000_000 {
            let event = self.events.keys().next().map(|(at, _)| *at);
            let timeout = self.engine.poll_timeout();
            let Some(next) = event.into_iter().chain(timeout).min().filter(|next| *next <= end)
            else {
                self.pass_until(end);
                return;
            };
            self.pass_until(next);
            if event == Some(next)
                && let Some((_, event)) = self.events.pop_first()
            {
                self.handle(event);
            } else {
                self.engine.handle_timeout(self.now);
            }
            self.act();
        }
        panic!("does not come to rest");
    }

    /// Runs until all recipients are settled for good.
    pub(crate) fn run_until_settled(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while !self.outstanding.is_empty() && self.now.monotonic < end {
            self.run(Duration::from_secs(1).min(end - self.now.monotonic));
        }
        assert!(self.outstanding.is_empty(), "not settled: {:?}", self.outstanding);
    }

    fn pass_until(&mut self, at: Instant) {
        let passed = at.saturating_duration_since(self.now.monotonic);
        // Whole milliseconds, rounded up, as a driver's timer would.
        let passed = u64::try_from(passed.as_nanos().div_ceil(1_000_000)).unwrap();
        self.now.monotonic += Duration::from_millis(passed);
        self.now.unix_ms += passed;
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now.monotonic + after, self.sequence), event);
    }

    fn act(&mut self) {
        while let Some(action) = self.engine.poll_action() {
            match action {
                Action::SendDatagram { server, bytes } => {
                    assert_eq!(server, NAME_SERVER.parse().unwrap());
                    if let Some(response) = self.look_up(&bytes) {
                        self.schedule(Duration::from_millis(5), Event::Dns(response));
                    }
                }
                Action::QueryTcp { token, .. } => {
                    self.engine.handle_dns_tcp(self.now, token, Err(()));
                }
                Action::Connect { connection, address, tls, login, dialect, .. } => {
                    self.connects.push(address);
                    self.logins.push(login);
                    self.dialects.push(dialect);
                    self.tls_of_connects.push(tls.session());
                    self.policies_of_connects.push(Arc::clone(&tls));
                    let tls = tls.session();
                    let link = Link { address, tls, is_ready: false, job: None, transactions: 0 };
                    assert!(self.links.insert(connection, link).is_none(), "id used twice");
                    let open = self.open_at(address.ip());
                    let peak = self.peak.entry(address.ip()).or_default();
                    *peak = open.max(*peak);
                    let server = self.servers.get(&address).cloned().unwrap_or_default();
                    let after = match server.connect {
                        Connect::Hang => self.config.connect_timeout,
                        _ => server.latency,
                    };
                    self.schedule(after, Event::Connected(connection));
                }
                Action::Wake(connection) => {
                    self.schedule(Duration::ZERO, Event::Ask(connection));
                }
                Action::Parked(id) => drop(self.parked.insert(id)),
                Action::SiteChanged(change) => self.changes.push(change),
            }
        }
        while self.settles
            && let Some(settlement) = self.engine.poll_settlement(self.now)
        {
            self.settle(&settlement);
        }
        self.check();
    }

    fn open_at(&self, ip: IpAddr) -> usize {
        self.links.values().filter(|link| link.address.ip() == ip).count()
    }

    pub(crate) fn open_connections(&self) -> usize {
        self.links.len()
    }

    /// The engine's slots are the driver's connections.
    fn check(&self) {
        let stats = self.engine.stats();
        assert_eq!(stats.connections.total(), self.links.len(), "slots");
        let busy = self.links.values().filter(|link| link.job.is_some()).count();
        assert_eq!(stats.connections.busy, busy, "busy");
        for view in self.engine.site_views() {
            assert!(view.connections.total() <= self.config.connections_per_site_max, "{view:?}");
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Dns(bytes) => {
                self.engine.handle_datagram(self.now, NAME_SERVER.parse().unwrap(), &bytes);
            }
            // Late events of connections that were cut.
            Event::Connected(id) | Event::Transacted(id, _) | Event::Closed(id)
                if !self.links.contains_key(&id) => {}
            Event::Connected(id) => self.connected(id),
            Event::Ask(id) => {
                if self.links.get(&id).is_some_and(|link| link.is_ready && link.job.is_none()) {
                    self.ask(id);
                }
            }
            Event::Transacted(id, job) => self.transacted(id, &job),
            Event::Closed(id) => self.closed(id, None),
            Event::ShownOut(id) => {
                let reply = reply("421 4.3.2 too busy");
                self.closed(id, Some(&SessionFailure::Reply { stage: Stage::Idle, reply }));
            }
        }
    }

    fn connected(&mut self, id: ConnectionId) {
        let address = self.links[&id].address;
        let server = self.servers.get(&address).cloned();
        let ready = self.links.values().filter(|l| l.address == address && l.is_ready).count();
        let connections_max = server.as_ref().map_or(0, |server| server.connections_max);
        let failure = match (server.as_ref().map(|server| &server.connect), self.links[&id].tls) {
            (Some(Connect::WithoutTls), tls) if tls.is_required() => {
                let problem = TlsProblem::NotOffered;
                Some(SessionFailure::Tls { stage: Stage::StartTls, problem })
            }
            (Some(Connect::FailTls(Stage::StartTls)), tls) if tls != ClientTls::Off => {
                Some(SessionFailure::Closed { stage: Stage::StartTls })
            }
            (Some(Connect::FailTls(stage)), tls) if tls != ClientTls::Off => {
                let problem = TlsProblem::Handshake("no".into());
                Some(SessionFailure::Tls { stage: *stage, problem })
            }
            _ => None,
        };
        if let Some(failure) = failure {
            return self.closed(id, Some(&failure));
        }
        if let Some(Connect::RefuseLogin(text)) = server.as_ref().map(|server| &server.connect) {
            let failure = SessionFailure::Reply { stage: Stage::Auth, reply: reply(text) };
            return self.closed(id, Some(&failure));
        }
        let refusal = match server.map(|server| server.connect) {
            None => Err(ConnectFailure::Refused),
            Some(Connect::Hang) => Err(ConnectFailure::TimedOut),
            Some(Connect::Fail(failure)) => Err(failure),
            Some(Connect::Greet(text)) => Ok(Some(text)),
            Some(Connect::Ready) if ready >= connections_max => {
                Ok(Some("421 4.7.0 too many connections"))
            }
            Some(Connect::LetInAndOut) => {
                self.links.get_mut(&id).unwrap().is_ready = true;
                self.engine.handle_ready(self.now, id);
                return self.schedule(Duration::from_millis(1), Event::ShownOut(id));
            }
            Some(
                Connect::Ready
                | Connect::WithoutTls
                | Connect::FailTls(_)
                | Connect::RefuseLogin(_),
            ) => Ok(None),
        };
        match refusal {
            Err(failure) => {
                self.links.remove(&id);
                self.engine.handle_connect_failed(self.now, id, failure);
            }
            Ok(Some(text)) => {
                let failure = SessionFailure::Reply { stage: Stage::Greeting, reply: reply(text) };
                self.closed(id, Some(&failure));
            }
            Ok(None) => {
                self.links.get_mut(&id).unwrap().is_ready = true;
                self.engine.handle_ready(self.now, id);
                self.ask(id);
            }
        }
    }

    /// Breaks one of the connections, whatever it is doing.
    pub(crate) fn cut(&mut self, place: usize) {
        let place = place % self.links.len().max(1);
        let Some(id) = self.links.keys().nth(place).copied() else { return };
        let link = &self.links[&id];
        let stage = match (&link.job, link.is_ready) {
            (Some(_), _) => Stage::Content,
            (None, true) => Stage::Idle,
            (None, false) => Stage::Greeting,
        };
        self.closed(id, Some(&SessionFailure::Closed { stage }));
        self.act();
    }

    fn closed(&mut self, id: ConnectionId, failure: Option<&SessionFailure>) {
        if let Some(Link { job: Some(job), .. }) = self.links.remove(&id) {
            for index in &job.recipients {
                self.in_transaction.remove(&(job.id, *index));
            }
        }
        if let Some(settlement) = self.engine.handle_closed(self.now, id, failure) {
            self.settle(&settlement);
        }
        // A second report of the same end changes nothing.
        assert!(self.engine.handle_closed(self.now, id, None).is_none());
    }

    fn ask(&mut self, id: ConnectionId) {
        match self.engine.next_job(self.now, id) {
            Next::Deliver(mut job) => {
                let purged = &self.purged;
                if job.recipients.iter().any(|index| purged.contains(&(job.id, *index))) {
                    let stays = |index| !purged.contains(&(job.id, index));
                    job.recipients = self.engine.narrow_job(self.now, id, stays);
                    if job.recipients.is_empty() {
                        return self.ask(id);
                    }
                }
                self.links.get_mut(&id).unwrap().job = Some(job.clone());
                for index in &job.recipients {
                    let key = (job.id, *index);
                    assert!(self.outstanding.contains_key(&key), "{key:?} is settled");
                    assert!(self.in_transaction.insert(key), "{key:?} is in two transactions");
                }
                assert!(job.recipients.len() <= self.config.recipients_per_transaction_max);
                self.jobs.push(job.clone());
                let latency = self.servers[&self.links[&id].address].latency;
                self.schedule(latency, Event::Transacted(id, job));
            }
            Next::Idle { until } => {
                let after = until.saturating_duration_since(self.now.monotonic);
                self.schedule(after, Event::Ask(id));
            }
            Next::Close => self.schedule(Duration::from_millis(1), Event::Closed(id)),
        }
    }

    fn transacted(&mut self, id: ConnectionId, job: &Job) {
        for index in &job.recipients {
            self.in_transaction.remove(&(job.id, *index));
        }
        self.transactions += 1;
        let link = self.links.get_mut(&id).unwrap();
        link.job = None;
        link.transactions += 1;
        let server = self.servers.get_mut(&link.address).unwrap();
        let behaviour = if link.transactions > server.transactions_max {
            Transaction::Dead
        } else if server.script.is_empty() {
            server.otherwise.clone()
        } else {
            server.script.remove(0)
        };
        let limit = server.recipients_max;
        let told = server.told_recipients_max.unwrap_or(usize::MAX);
        let fail_all = |failure: &SessionFailure, is_answered| {
            let of_one = RecipientReport {
                stage: failure.stage(),
                verdict: Verdict::Failed(failure.clone()),
            };
            let recipients = vec![of_one; job.recipients.len()];
            TransactionReport {
                recipients,
                is_answered,
                session_usable: false,
                dsn_offered: false,
                deliver_by_offered: false,
                tls: None,
            }
        };
        let (report, end) = match behaviour {
            Transaction::Replies(replies) => {
                let last = replies.last().unwrap();
                let recipients = (0..job.recipients.len()).map(|place| {
                    if place >= told {
                        let verdict = Verdict::Refused(LocalRefusal::TooManyRecipients);
                        return RecipientReport { stage: Stage::Idle, verdict };
                    }
                    let (stage, text) = match replies.get(place).unwrap_or(last) {
                        _ if place >= limit => (Stage::Rcpt, "452 4.5.3 too many"),
                        (stage, text) => (*stage, *text),
                    };
                    RecipientReport { stage, verdict: Verdict::Reply(reply(text)) }
                });
                let recipients = recipients.collect();
                (
                    TransactionReport {
                        recipients,
                        is_answered: true,
                        session_usable: true,
                        dsn_offered: false,
                        deliver_by_offered: false,
                        tls: None,
                    },
                    None,
                )
            }
            Transaction::Dead => {
                let failure = SessionFailure::Closed { stage: Stage::Mail };
                (fail_all(&failure, false), Some(failure))
            }
            Transaction::Break(stage) => {
                let failure = SessionFailure::Closed { stage };
                (fail_all(&failure, true), Some(failure))
            }
            Transaction::Abort => {
                let failure = SessionFailure::Aborted { stage: Stage::Content };
                (fail_all(&failure, true), Some(failure))
            }
            Transaction::Part(text) => {
                let failure = SessionFailure::Reply { stage: Stage::Mail, reply: reply(text) };
                (fail_all(&failure, true), Some(failure))
            }
            Transaction::Drop => return self.closed(id, None),
            Transaction::CloseOnly(stage) => {
                return self.closed(id, Some(&SessionFailure::Closed { stage }));
            }
            Transaction::Unreadable => {
                let settlement = self.engine.handle_job_failed(self.now, id).unwrap();
                self.settle(&settlement);
                return self.ask(id);
            }
        };
        if let Some(settlement) = self.engine.handle_report(self.now, id, &report) {
            self.settle(&settlement);
        }
        match end {
            Some(failure) => self.closed(id, Some(&failure)),
            None => self.ask(id),
        }
    }

    fn settle(&mut self, settlement: &Settlement) {
        assert!(!settlement.recipients.is_empty());
        for settled in &settlement.recipients {
            let key = (settlement.id, settled.index);
            assert!(!self.in_transaction.contains(&key), "{key:?} is still in a transaction");
            if self.purged.contains(&key) {
                if matches!(settled.disposition, Disposition::Deferred { .. }) {
                    self.engine.begin_forgetting();
                }
                continue;
            }
            let attempts = self.outstanding.get_mut(&key).expect("settled for good already");
            *attempts += u16::from(settlement.is_attempt);
            assert_eq!(*attempts, settled.attempts, "{key:?}");
            if settled.warns {
                assert!(!self.warned.contains(&key), "{key:?} is warned of twice");
                self.warned.push(key);
            }
            match settled.disposition {
                Disposition::Deferred { attempts, due_unix_ms, warned } => {
                    assert_eq!(attempts, settled.attempts);
                    assert_eq!(warned, settled.warns, "{key:?}: said with the report only");
                    assert_eq!(due_unix_ms > self.now.unix_ms, settlement.is_attempt);
                }
                _ => drop(self.outstanding.remove(&key)),
            }
            if !settlement.is_attempt && settled.warns {
                continue;
            }
            let entry = (settled.disposition, (*settled.reason).clone());
            self.history.entry(key).or_default().push(entry);
        }
    }

    fn look_up(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).unwrap();
        let question = query.queries[0].clone();
        let text = question.name.to_ascii().trim_end_matches('.').to_owned();
        let key = (text.clone(), question.query_type);
        *self.queries.entry(key.clone()).or_default() += 1;
        let mut response = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        response.add_query(question.clone());
        if text.starts_with("silent") || self.dns_is_down {
            return None;
        }
        if self.broken.contains(&text) {
            response.metadata.response_code = ResponseCode::ServFail;
        } else if let Some(records) = self.zone.get(&key) {
            for data in records {
                response.add_answer(Record::from_rdata(question.name.clone(), 3600, data.clone()));
            }
        } else if !self.zone.keys().any(|(name, _)| *name == text) {
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        Some(response.to_vec().unwrap())
    }

    /// The words of a recipient's outcomes in order, as in `deferred 4.4.1, delivered 2.0.0`.
    pub(crate) fn story(&self, id: MessageId, index: u16) -> String {
        let history = self.history.get(&(id, RecipientIndex(index)));
        let words = history.into_iter().flatten().map(|(disposition, reason)| {
            let word = match disposition {
                Disposition::Delivered => "delivered",
                Disposition::Deferred { .. } => "deferred",
                Disposition::Bounced => "bounced",
                Disposition::Expired => "expired",
            };
            format!("{word} {}", reason.status)
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

pub(crate) fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}
