//! Lets time pass, does what a plan says, and looks whether all is well.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use ringpost_protocol::address::Host;
use ringpost_queue::{MessageId, Purge, storage::memory::Survival};

use super::build::{self, Inhabitants, SERVER};
use super::limits::Limits;
use super::plan::{self, Act, Plan};
use super::{Figures, OutboundTls, Report};
use crate::checks::{self, Terms, View};
use crate::disk::DiskFaults;
use crate::executor::Group;
use crate::ledger::{Ledger, LifeEnd, SharedLedger};
use crate::random::Random;
use crate::records::Expected;
use crate::server::{EventLogFaults, Server};
use crate::world::World;

/// How much time passes between two looks.
const STEP: Duration = Duration::from_millis(500);

/// How much time passes between two looks at a queue that drains: it takes long to read all metrics.
const DRAINING_STEP: Duration = Duration::from_secs(5);

/// How much time the applications may take; then the rest of the mail is not sent.
const SENDING_MAX: Duration = Duration::from_hours(1);

/// How long applications may take to end once nothing goes wrong any more.
const ENDING_MAX: Duration = Duration::from_mins(20);

/// The counter of writes to the log that have failed.
const FAILURES: &str = "ringpost_commit_failures_total";

/// How long the shards wait at a stop for what is under way: less than `server.shutdown_timeout`.
const DRAINING_MAX: Duration = Duration::from_millis(7900);

/// How long a stop may take.
const STOPPING_MAX: Duration = Duration::from_mins(1);

/// How long event records may take to the event log.
const RECORDING: Duration = Duration::from_secs(5);

/// Crashes after which the logs are read from end to end.
const INSPECTED_PERCENT: u8 = 20;

/// Crashes after which a bit is flipped in a copy of each log.
const FLIPPED_PERCENT: u8 = 20;

/// Queued messages that are named when there should be none.
const LEFTOVERS_MAX: usize = 3;

/// A run under way.
pub(super) struct Drive<'a> {
    plan: &'a Plan,
    world: World,
    server: Server,
    ledger: SharedLedger,
    inhabitants: Inhabitants,
    random: Random,
    /// For what is only looked at.
    inspecting: Random,
    acts: Vec<(Duration, String)>,
    looks: u64,
    flips: u64,
    /// Whether the last stop ended before its time was up.
    has_drained: bool,
    /// The server's figures when it was last seen to be up.
    figures: BTreeMap<String, f64>,
    settings: plan::Settings,
    limits: RefCell<Limits>,
}

impl<'a> Drive<'a> {
    /// Makes the world.
    pub(super) fn new(plan: &'a Plan) -> anyhow::Result<Self> {
        let world = World::new(plan.seed);
        let ledger = Ledger::shared(world.clock().now());
        {
            let mut ledger = ledger.borrow_mut();
            ledger.has_steady_clock = !plan.has_wall_steps();
            ledger.look_period = plan.look_period;
            ledger.mends = plan.settings.mends;
            ledger.begin_life(world.clock().now());
            ledger.demand(world.clock().now(), plan.settings.rules());
        }
        let server = Server::start(&world, &[SERVER], &build::config(plan), plan.shards)?;
        server.disk().set_faults(plan.disk);
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let expected = if plan.has_wall_steps() {
            Expected::default()
        } else {
            Expected {
                lifetime_ms: millis(plan.settings.lifetime),
                bounce_lifetime_ms: millis(plan.settings.bounce_lifetime),
            }
        };
        let (clock, book) = (world.clock().clone(), Rc::clone(&ledger));
        server.observe_events(Box::new(move |line| {
            book.borrow_mut().event_lines(line.as_bytes(), clock.now(), &expected);
        }));
        let inhabitants = build::build(&world, plan, &ledger)?;
        Ok(Self {
            random: world.random("drive"),
            inspecting: world.random("inspect"),
            settings: plan.settings.clone(),
            limits: RefCell::new(Limits::new(plan)),
            plan,
            world,
            server,
            ledger,
            inhabitants,
            acts: Vec::new(),
            looks: 0,
            flips: 0,
            has_drained: true,
            figures: BTreeMap::new(),
        })
    }

    /// Runs it to its end, or to the first violation.
    pub(super) fn run(mut self) -> Report {
        self.send();
        if self.is_sound() {
            self.drain();
        }
        if self.is_sound() {
            self.rest();
        }
        self.report()
    }

    /// Until all mail is sent.
    fn send(&mut self) {
        let mut next_act = self.draw_gap();
        while self.is_sound() && !self.inhabitants.quota.is_done() {
            let now = self.world.clock().elapsed();
            if now > SENDING_MAX {
                self.inhabitants.quota.stop();
                break;
            }
            if now >= next_act {
                self.act();
                next_act = self.world.clock().elapsed() + self.draw_gap();
                continue;
            }
            self.pass(next_act.saturating_sub(now).min(STEP));
        }
    }

    /// Lets some time pass, with a look at the disk at each acknowledgement that asks for one.
    fn pass(&mut self, time: Duration) {
        let until = self.world.clock().elapsed() + time;
        loop {
            let left = until.saturating_sub(self.world.clock().elapsed());
            let (ledger, quota) = (Rc::clone(&self.ledger), Rc::clone(&self.inhabitants.quota));
            let was_done = quota.is_done();
            self.world
                .run_for(left, || ledger.borrow().wants_look || (quota.is_done() && !was_done));
            self.limits.borrow_mut().look(&self.world, || self.server.metrics());
            if !self.ledger.borrow().wants_look {
                return;
            }
            self.ledger.borrow_mut().wants_look = false;
            self.look_at_disk();
            if !self.is_sound() {
                return;
            }
        }
    }

    fn draw_gap(&mut self) -> Duration {
        if self.plan.acts.is_empty() {
            return SENDING_MAX * 2;
        }
        self.random.duration(Duration::from_millis(20), self.plan.act_gap_max)
    }

    /// What the disks of all shards would leave.
    fn view(&self, survival: Survival) -> View {
        let mut view = View::default();
        for shard in 0..self.server.shards() {
            match self.server.look(shard, survival) {
                Ok(look) => {
                    view.add(&look.queue);
                    if survival == Survival::Nothing {
                        let lsn = look.queue.durable_lsn();
                        self.limits.borrow_mut().durable(&self.world, shard, lsn);
                    }
                }
                Err(error) => {
                    let text = format!("shard {shard} after {survival:?}: {error}");
                    let now = self.world.clock().now();
                    self.ledger.borrow_mut().violate("log that cannot be opened", now, text);
                }
            }
        }
        view
    }

    /// Reads the logs from end to end, with their checkpoints and without: both must give the same.
    fn inspect(&self) {
        for shard in 0..self.server.shards() {
            match self.server.inspect(shard) {
                Ok(inspection) if inspection.damages.is_empty() => {}
                Ok(inspection) => self.world.violate(format!(
                    "a log that is not as it was written: shard {shard}: {:?}",
                    inspection.damages
                )),
                Err(error) => self.world.violate(format!("shard {shard} cannot be read: {error}")),
            }
        }
    }

    /// Flips a bit in a copy of each log: it is found, or makes no difference.
    fn flip(&mut self) {
        for shard in 0..self.server.shards() {
            let image =
                || self.server.disk().image(&self.server.directory(shard), Survival::ProcessOnly);
            let (sound, flipped) = (image(), image());
            let Some(place) = flipped.flip(&mut self.inspecting) else { continue };
            let Ok(sound) = self.server.look_at(shard, sound) else { continue };
            self.flips += 1;
            if let Err(difference) = self
                .server
                .look_at(shard, flipped)
                .map_or(Ok(()), |flipped| checks::flipped(&sound, &flipped))
            {
                self.world.violate(format!(
                    "a flipped bit that was not found: shard {shard}, {place:?}: {difference}"
                ));
            }
        }
    }

    /// Holds what was acknowledged against what is durable.
    fn look_at_disk(&mut self) {
        self.looks += 1;
        let view = self.view(Survival::Nothing);
        let now = self.world.clock().now();
        checks::durable(&mut self.ledger.borrow_mut(), &view, now, &self.terms());
    }

    fn terms(&self) -> Terms {
        let settings = &self.plan.settings;
        let lifetime_min = if self.plan.has_wall_steps() {
            Duration::ZERO
        } else {
            settings.lifetime.min(settings.bounce_lifetime)
        };
        let lost = self.server.counter("ringpost_event_records_lost_total");
        Terms { lifetime_min, records_lost: lost }
    }

    fn act(&mut self) {
        let Some(&act) = self.random.pick(&self.plan.acts) else { return };
        let random = &mut self.random;
        let said = match act {
            Act::Kill => self.crash(Survival::ProcessOnly),
            Act::PowerCut => {
                let survival = match random.below(4) {
                    0 => Survival::All,
                    1 => Survival::Nothing,
                    2 => Survival::Prefix(random.within(0..=100_000)),
                    _ => Survival::Subset(random.next_u64()),
                };
                self.crash(survival)
            }
            Act::Restart => self.stop_and_start(),
            Act::Purge => self.purge(),
            Act::Reload => self.reload(),
            Act::WallStep => {
                let most = if random.coin() { 3_600_000 } else { 86_400_000 };
                let step = random.within(0..=2 * most).cast_signed() - most.cast_signed();
                self.world.clock().step_wall_clock(step);
                format!("wall clock {step} ms")
            }
            Act::Disk => {
                let faults = if random.coin() { plan::disk(random, true) } else { self.plan.disk };
                self.server.disk().set_faults(faults);
                format!("{faults:?}")
            }
            Act::Zone => {
                let number = random.index(self.plan.domains.len());
                let kind = plan::domain(random, self.plan.hosts.len(), number);
                build::set_domain(&self.inhabitants.zone, number, &kind);
                format!("domain {number} is {kind:?}")
            }
            Act::HostDown => {
                let address = build::host_address(random.index(self.plan.hosts.len()));
                let is_down = random.coin();
                self.world.net().set_down(address, is_down);
                format!("{address} down: {is_down}")
            }
            Act::EventLog => {
                let faults = EventLogFaults {
                    sync_error_percent: if random.coin() { 50 } else { 0 },
                    is_stuck: random.percent(30),
                };
                self.server.set_event_log_faults(faults);
                format!("{faults:?}")
            }
        };
        self.acts.push((self.world.clock().elapsed(), said));
    }

    /// Ends a life of the server at once, looks at what it has left, and starts it again.
    fn crash(&mut self, survival: Survival) -> String {
        let worst = self.view(Survival::Nothing);
        let now = self.world.clock().now();
        self.ledger.borrow_mut().end_life(now, LifeEnd::Crash);
        self.server.crash(survival);
        if self.inspecting.percent(INSPECTED_PERCENT) {
            self.inspect();
        }
        if self.inspecting.percent(FLIPPED_PERCENT) {
            self.flip();
        }
        let is_worst = survival == Survival::Nothing;
        let actual = if is_worst { worst.clone() } else { self.view(Survival::ProcessOnly) };
        let terms = self.terms();
        checks::after_crash(&mut self.ledger.borrow_mut(), &worst, &actual, now, &terms);
        let pause = self.random.duration(Duration::ZERO, Duration::from_secs(3));
        self.pass(pause);
        self.begin_life();
        format!("crash, {survival:?}")
    }

    fn begin_life(&mut self) {
        self.ledger.borrow_mut().begin_life(self.world.clock().now());
        if let Err(error) = self.server.restart() {
            self.world.violate(format!("the server cannot be started: {error:#}"));
        }
    }

    /// Whether this life has kept its word so far: no shard has failed to write or to open.
    fn is_well(&self) -> bool {
        let failures = sum(&self.server.metrics(), FAILURES, None);
        let disk = self.server.disk();
        failures == 0 && disk.stats().hung == 0 && self.server.is_open()
    }

    fn stop_and_start(&mut self) -> String {
        let how = self.stop();
        let pause = self.random.duration(Duration::ZERO, Duration::from_secs(3));
        self.pass(pause);
        self.begin_life();
        format!("stop, {how:?}")
    }

    fn stop(&mut self) -> LifeEnd {
        let is_well = self.is_well();
        let failures = self.server.counter(FAILURES);
        let began = self.world.clock().now();
        let server = self.server.clone();
        let stopped = self.complete(async move { server.stop().await }, STOPPING_MAX);
        let now = self.world.clock().now();
        // What is under way when a stop begins may find a disk that fails, no room, or one that is too slow
        // for the time that a stop may take.
        self.has_drained = now - began < DRAINING_MAX;
        let is_well = is_well && self.server.counter(FAILURES) == failures && self.has_drained;
        if stopped.is_none() && self.is_sound() {
            self.world.violate("a stop does not end");
        }
        let how = if is_well && stopped == Some(true) { LifeEnd::Clean } else { LifeEnd::Crash };
        self.ledger.borrow_mut().end_life(now, how);
        how
    }

    fn purge(&mut self) -> String {
        let number = self.random.index(self.plan.domains.len() * 4);
        let domain = Some(build::domain_name(number)).filter(|_| number < self.plan.domains.len());
        let now = self.world.clock().now();
        self.ledger.borrow_mut().purge(now, domain.as_deref());
        let host = domain.as_deref().and_then(|domain| Host::parse(domain).ok());
        let purge = Purge { host, received_before_unix_ms: u64::MAX };
        let server = self.server.clone();
        let given = self.complete(async move { server.purge(&purge).await }, STEP * 4);
        format!("purge of {domain:?}: {given:?}")
    }

    /// Changes what may change while mail is on its way.
    fn reload(&mut self) -> String {
        let random = &mut self.random;
        self.settings.connections_max = random.within(1..=20);
        self.settings.recipients_per_transaction = random.within(1..=50);
        self.settings.transactions_per_connection = random.within(1..=100);
        self.settings.pipelining = random.coin();
        let retry = random.within(1..=20);
        self.settings.retry = vec![retry, retry * 2];
        let domains = self.plan.domains.len();
        let mut tls = random.fork("tls");
        if let Some(outbound) = &mut self.settings.outbound_tls
            && tls.coin()
        {
            *outbound = OutboundTls::draw(&mut tls, domains);
        }
        let now = self.world.clock().now();
        self.ledger.borrow_mut().demand(now, self.settings.rules());
        let plan = Plan { settings: self.settings.clone(), ..self.plan.clone() };
        self.limits.borrow_mut().allow(&plan);
        if let Err(error) = self.server.reload(&build::config(&plan)) {
            self.world.violate(format!("a configuration is refused: {error:#}"));
        }
        "reload".to_owned()
    }

    /// Runs something of the world's to its end.
    fn complete<T: 'static>(
        &self,
        future: impl Future<Output = T> + 'static,
        time: Duration,
    ) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let filled = Rc::clone(&slot);
        self.world.executor().spawn(Group::WORLD, async move {
            let value = future.await;
            *filled.borrow_mut() = Some(value);
        });
        self.world.run_for(time, || slot.borrow().is_some());
        slot.take()
    }

    /// Lets nothing go wrong any more, and waits until the queue is empty.
    fn drain(&mut self) {
        self.server.disk().set_faults(DiskFaults::default());
        self.server.set_event_log_faults(EventLogFaults::default());
        self.inhabitants.calm_down(&self.world, self.plan.hosts.len());
        if self.plan.has_disk_faults() {
            // A shard that could not write needs a restart to take mail again.
            let how = self.stop();
            self.begin_life();
            self.acts.push((self.world.clock().elapsed(), format!("calm after {how:?}")));
        }
        let quota = Rc::clone(&self.inhabitants.quota);
        self.wait("applications did not end", ENDING_MAX, STEP, |_| quota.is_done());
        self.wait("the server did not open", plan::OPENING_MAX, STEP, |drive| {
            drive.server.is_open()
        });
        let bound = self.plan.drain_bound();
        // What an application sent last may come in when the queue has been empty for a while: it must
        // stay empty while the last records are written, for the gauges speak of the last tick.
        self.wait("the queue did not drain", bound, DRAINING_STEP, |drive| {
            drive.queued() == 0 && {
                drive.pass(RECORDING);
                drive.queued() == 0
            }
        });
    }

    fn queued(&mut self) -> u64 {
        self.figures = self.server.metrics();
        sum(&self.figures, "ringpost_queue_messages", None)
    }

    fn wait(
        &mut self,
        what: &'static str,
        bound: Duration,
        step: Duration,
        mut is_done: impl FnMut(&mut Self) -> bool,
    ) {
        let end = self.world.clock().elapsed() + bound;
        while self.is_sound() && !is_done(self) {
            if self.world.clock().elapsed() >= end {
                let text = format!("{what} within {} s; {}", bound.as_secs(), self.leftovers());
                return self.world.violate(text);
            }
            self.pass(step);
        }
    }

    /// What is still queued, in a few words.
    fn leftovers(&self) -> String {
        let unix_ms = self.world.clock().unix_ms().cast_signed();
        let mut text = String::new();
        let told =
            ["transactions_", "recipients_waiting", "recipients_parked", "sites_", "connections_"];
        for (series, value) in self.server.metrics() {
            let name = series.strip_prefix("ringpost_").unwrap_or(&series);
            if value > 0.0 && told.iter().any(|told| name.starts_with(told)) {
                let _ = write!(text, "{name} {value}, ");
            }
        }
        let _ = write!(text, "at {unix_ms} ms of Unix time are left:");
        for shard in 0..self.server.shards() {
            let Ok(look) = self.server.look(shard, Survival::ProcessOnly) else { continue };
            for message in look.queue.messages_from(MessageId::from_u64(0)).take(LEFTOVERS_MAX) {
                let _ = write!(
                    text,
                    " {} received {} ms ago, expires in {} ms, {:?};",
                    message.id,
                    unix_ms - message.received_unix_ms.cast_signed(),
                    message.expiry_unix_ms.cast_signed() - unix_ms,
                    message.recipients,
                );
            }
        }
        text
    }

    /// Stops the server for good and holds everything against everything.
    fn rest(&mut self) {
        self.figures = self.server.metrics();
        // A host may be slow with mail that was purged meanwhile.
        if self.stop() != LifeEnd::Clean && self.has_drained && !self.plan.has_disk_faults() {
            self.world.violate("the last stop was not a clean one");
        }
        self.inspect();
        let view = self.view(Survival::Nothing);
        let (now, terms) = (self.world.clock().now(), self.terms());
        let mut ledger = self.ledger.borrow_mut();
        checks::at_rest(&mut ledger, &view, now, &terms);
        if terms.records_lost == 0 {
            let lines = self.server.events();
            let recorded: BTreeSet<&str> = lines.iter().map(|line| line.text.as_str()).collect();
            checks::event_log(&mut ledger, &recorded, now);
        }
        if self.server.lives() == 1 && terms.records_lost == 0 {
            let figures = &self.figures;
            checks::books(&mut ledger, &view, now, |name, label| sum(figures, name, label));
        }
    }

    fn is_sound(&self) -> bool {
        self.world.is_sound() && self.ledger.borrow().violations().is_empty()
    }

    fn report(self) -> Report {
        let ledger = self.ledger.borrow();
        let count = |kind: &str| ledger.counts.get(kind).copied().unwrap_or_default();
        let own = ledger.messages().iter().filter(|message| message.content.is_some());
        let reports = ledger.messages().iter().filter(|message| message.is_report()).count();
        let figures = Figures {
            sent: own.filter(|message| message.sent.is_some() && !message.is_report()).count()
                as u64,
            acked: ledger.acked() as u64,
            taken: ledger.takings.len() as u64,
            outcomes: ["delivered", "deferred", "bounced", "expired"].map(count),
            removed: ledger.purged_recipients,
            reports: reports as u64,
            lives: u64::from(ledger.life()),
            looks: self.looks,
            flips: self.flips,
            handshakes: self.server.counter("ringpost_tls_handshakes_total"),
            remote_handshakes: self.server.counter("ringpost_remote_tls_handshakes_total"),
            polls: self.world.executor().polls(),
        };
        let of_world = self.world.violations().into_iter().map(|violation| violation.to_string());
        let of_ledger = ledger.violations().iter().map(ToString::to_string);
        Report {
            seed: self.plan.seed,
            violations: of_world.chain(of_ledger).collect(),
            trace: self.world.trace().hash(),
            simulated: self.world.clock().elapsed(),
            figures,
            acts: self.acts,
        }
    }
}

/// A metric summed over all cores, by name and label value.
#[expect(clippy::cast_sign_loss, reason = "what is summed are counts")]
fn sum(figures: &BTreeMap<String, f64>, name: &str, label: Option<&str>) -> u64 {
    let rest = figures.range(name.to_owned()..);
    let of_name = rest.take_while(|(series, _)| series.starts_with(name));
    let wanted = label.map(|label| format!("=\"{label}\""));
    of_name
        .filter(|(series, _)| series.as_bytes().get(name.len()) == Some(&b'{'))
        .filter(|(series, _)| wanted.as_ref().is_none_or(|wanted| series.contains(wanted)))
        .map(|(_, value)| *value as u64)
        .sum()
}
