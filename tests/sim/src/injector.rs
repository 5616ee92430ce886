//! Applications that send mail to the server.
//!
//! Each has some sessions, one after the other, with some messages each. What it sends, and what it is told, goes
//! into the ledger: from when the final dot may have been sent the message may come, and from when the whole of a
//! 250 has come it must. An application may also give up at any point, or be slow, or pause.

mod chunks;
mod content;
mod excess;
mod head;
mod speaking;
mod tls;

use std::cell::Cell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ringpost::runtime::Runtime;
use ringpost_protocol::notify::Notify;

use self::content::Words;
pub use self::head::TENANT_FIELD;
use self::speaking::Spoken;
use crate::ledger::{Key, SharedLedger};
use crate::random::Random;
use crate::tls::Trust;
use crate::wire::{Gone, Wire};

/// How long it waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits before it tries again, after the server was not there or did not want the message.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// How an application is. Percents are of the messages, if nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ways {
    /// Whether it says EHLO.
    pub is_extended: bool,
    /// Whether it sends commands in groups, where that is offered.
    pub pipelining: bool,
    /// Messages in one session, at most.
    pub messages_max: u64,
    /// Recipients of one message, at most.
    pub recipients_max: u64,
    /// Octets of content, at most; most messages are much smaller.
    pub size_max: u64,
    /// Messages with the null reverse-path.
    pub null_percent: u8,
    /// Messages with octets above 127.
    pub eight_bit_percent: u8,
    /// Messages whose content it sends by BDAT, where that is offered.
    pub chunk_percent: u8,
    /// Messages of octets that are no lines, where that is offered.
    pub binary_percent: u8,
    /// Sessions in which it speaks for somebody else, by the PROXY protocol or by XCLIENT.
    pub speaking_percent: u8,
    /// Sessions that it goes on with over TLS, where that is offered.
    pub tls_percent: u8,
    /// Messages that are to be held for some seconds.
    pub hold_percent: u8,
    /// Messages of which it says how urgent they are.
    pub priority_percent: u8,
    /// Messages that must not go on without TLS, where that is offered.
    pub requiretls_percent: u8,
    /// Messages that may.
    pub waiver_percent: u8,
    /// Recipients of whom it asks to be told one thing or another, or nothing.
    pub notify_percent: u8,
    /// Messages at which it goes away: before, in or right after the content.
    pub drop_percent: u8,
    /// Messages that it takes back by RSET before the content.
    pub reset_percent: u8,
    /// Messages that are larger than the server has said it takes.
    pub excess_percent: u8,
    /// Messages whose content it sends in pieces, with pauses.
    pub slow_percent: u8,
    /// The longest such pause.
    pub pause_max: Duration,
    /// The longest time between two messages.
    pub gap_max: Duration,
}

impl Default for Ways {
    /// An application that does nothing unusual.
    fn default() -> Self {
        Self {
            is_extended: true,
            pipelining: true,
            messages_max: 20,
            recipients_max: 3,
            size_max: 20_000,
            null_percent: 0,
            eight_bit_percent: 0,
            chunk_percent: 0,
            binary_percent: 0,
            speaking_percent: 0,
            tls_percent: 0,
            hold_percent: 0,
            priority_percent: 0,
            requiretls_percent: 0,
            waiver_percent: 0,
            notify_percent: 0,
            drop_percent: 0,
            reset_percent: 0,
            excess_percent: 0,
            slow_percent: 0,
            pause_max: Duration::from_secs(2),
            gap_max: Duration::from_millis(50),
        }
    }
}

impl Ways {
    /// Draws the ways of an application.
    pub fn draw(random: &mut Random, size_max: u64) -> Self {
        let some = |random: &mut Random, share: u8, most: u64| {
            if random.percent(share) { random.within(1..=most) as u8 } else { 0 }
        };
        Self {
            is_extended: !random.percent(10),
            pipelining: !random.percent(30),
            messages_max: random.within(1..=50),
            recipients_max: if random.percent(10) { 40 } else { random.within(1..=4) },
            size_max: if random.percent(30) { size_max } else { size_max.min(10_000) },
            null_percent: some(random, 40, 50),
            eight_bit_percent: some(random, 40, 50),
            hold_percent: some(random, 20, 20),
            drop_percent: some(random, 40, 15),
            reset_percent: some(random, 30, 10),
            slow_percent: some(random, 30, 20),
            pause_max: Duration::from_millis(random.within(1..=10_000)),
            gap_max: Duration::from_millis(random.within(0..=2000)),
            // Last, so that what was drawn before is what it was without it.
            notify_percent: some(random, 40, 100),
            chunk_percent: some(random, 40, 100),
            tls_percent: some(&mut random.fork("tls"), 40, 100),
            priority_percent: some(&mut random.fork("priority"), 40, 100),
            excess_percent: some(&mut random.fork("excess"), 30, 20),
            binary_percent: some(&mut random.fork("binary"), 40, 50),
            speaking_percent: some(&mut random.fork("speaking"), 40, 100),
            requiretls_percent: some(&mut random.fork("requiretls"), 50, 50),
            waiver_percent: some(&mut random.fork("waiver"), 50, 50),
        }
    }
}

/// The highest priority that the server gives.
pub const PRIORITY_MAX: i8 = 5;

/// How many messages are still to be sent, by all applications together.
#[derive(Debug, Default)]
pub struct Quota {
    left: Cell<u64>,
    running: Cell<u64>,
}

impl Quota {
    /// So many messages.
    pub fn new(messages: u64) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(messages), running: Cell::default() })
    }

    /// Whether all messages are sent, and all applications done.
    pub fn is_done(&self) -> bool {
        self.left.get() == 0 && self.running.get() == 0
    }

    /// Lets no more messages begin.
    pub fn stop(&self) {
        self.left.set(0);
    }

    fn take(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}

/// An application.
#[derive(Debug, Clone)]
pub struct Application {
    /// Where the server listens.
    pub servers: Vec<SocketAddr>,
    /// Where it listens for those who speak for others by the PROXY protocol.
    pub proxied: Vec<SocketAddr>,
    /// Domains of recipients.
    pub domains: Rc<[String]>,
    /// Domains of originators: they get the reports.
    pub homes: Rc<[String]>,
    /// How it is.
    pub ways: Ways,
    /// Where it writes down what it did.
    pub ledger: SharedLedger,
    /// How long the server and the network may take for a reply. One that takes longer is owed.
    pub patience: Duration,
    /// How much longer they may take for a greeting, as the server may not be open yet. `None`: it may never
    /// be; then no greeting is owed.
    pub opening: Option<Duration>,
    /// Whether everybody behaves.
    pub calm: Rc<Cell<bool>>,
    /// Whom it speaks TLS with.
    pub trust: Trust,
    /// What is left to do.
    pub quota: Rc<Quota>,
}

/// Sends mail until the quota is used up.
pub async fn run<R: Runtime>(runtime: R, application: Application, random: Random) {
    let quota = Rc::clone(&application.quota);
    quota.running.set(quota.running.get() + 1);
    let words = Words::new(&mut random.fork("words"));
    for number in 0.. {
        if quota.left.get() == 0 {
            break;
        }
        let mut random = random.fork_number("session", number);
        let spoken = Spoken::draw(&random, &application);
        let servers = if spoken.by_proxy { &application.proxied } else { &application.servers };
        let Some(server) = random.pick(servers).copied() else { break };
        let life = application.ledger.borrow().life();
        let connected = runtime.connect(server, None, CONNECT_TIMEOUT).await;
        let pause = random.duration(RETRY_PAUSE.0, RETRY_PAUSE.1);
        if let Ok(stream) = connected {
            let mut session = Session {
                wire: Wire::new(runtime.clone(), stream, application.patience),
                runtime: runtime.clone(),
                application: &application,
                words: &words,
                random,
                offers: Offers::default(),
                life,
                said: String::new(),
                transactions: 0,
                is_excessive: false,
                spoken,
            };
            if session.talk().await.is_ok() {
                session.wire.close().await;
                continue;
            }
        }
        runtime.sleep(pause).await;
    }
    quota.running.set(quota.running.get() - 1);
}

/// What the server has offered.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each extension is offered or not")]
struct Offers {
    pipelining: bool,
    eight_bit: bool,
    utf8: bool,
    chunking: bool,
    binary: bool,
    xclient: bool,
    hold: bool,
    priority: bool,
    requiretls: bool,
    dsn: bool,
    starttls: bool,
    size: Option<u64>,
    /// MAILMAX.
    transactions_max: Option<u64>,
    /// RCPTMAX.
    recipients_max: Option<u64>,
}

/// The session is over, and not in good order.
struct Over;

impl From<Gone> for Over {
    fn from(_: Gone) -> Self {
        Self
    }
}

struct Reply {
    code: u16,
    text: String,
}

impl Reply {
    fn is_good(&self) -> bool {
        self.code / 100 == 2
    }
}

/// Where an application goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drop {
    Never,
    BeforeContent,
    InContent,
    AfterDot,
}

struct Session<'a, R: Runtime> {
    runtime: R,
    wire: Wire<R>,
    application: &'a Application,
    words: &'a Words,
    random: Random,
    offers: Offers,
    /// The life of the server in which the connection was opened.
    life: u32,
    /// The last line that was sent; empty before the first.
    said: String,
    /// Transactions that the server has let begin.
    transactions: u64,
    /// Whether the message is larger than the server takes.
    is_excessive: bool,
    /// Whom it speaks for.
    spoken: Spoken,
}

impl<R: Runtime> Session<'_, R> {
    async fn talk(&mut self) -> Result<(), Over> {
        let patience = self.application.patience;
        self.wire.set_patience(patience + self.application.opening.unwrap_or_default());
        self.say_proxy_header().await?;
        self.expect_good().await?;
        self.wire.set_patience(patience);
        if self.application.ways.is_extended {
            self.hello().await?;
            self.say_xclient().await?;
            let is_private = self.random.fork("tls").percent(self.application.ways.tls_percent);
            if is_private && self.offers.starttls {
                self.start_tls().await?;
            }
        } else {
            self.spoken.without_extensions();
            self.write("HELO app.test\r\n").await?;
            self.expect_good().await?;
        }
        let messages = self.random.within(1..=self.application.ways.messages_max);
        for _ in 0..messages {
            if !self.application.quota.take() {
                break;
            }
            self.message().await?;
            let gap = self.random.duration(Duration::ZERO, self.application.ways.gap_max);
            if !gap.is_zero() {
                self.runtime.sleep(gap).await;
            }
        }
        self.write("QUIT\r\n").await?;
        self.expect_good().await?;
        Ok(())
    }

    async fn hello(&mut self) -> Result<(), Over> {
        self.write("EHLO app.test\r\n").await?;
        let reply = self.expect_good().await?;
        self.offers = Offers::read(&reply.text);
        Ok(())
    }

    async fn message(&mut self) -> Result<(), Over> {
        let ways = self.application.ways.clone();
        let is_binary = self.is_binary(&ways);
        let mut content = self.content(&ways);
        let is_waiver = !is_binary && self.waives(&ways, &mut content);
        if is_binary {
            content::make_binary(&mut content);
        }
        let (number, mail, rcpts) = self.envelope(&ways, &content, is_binary);
        if is_waiver && !mail.contains(" REQUIRETLS") {
            self.application.ledger.borrow_mut().waive_tls(number);
        }
        let content = self.labelled(number, &ways, content);
        let is_grouped = ways.pipelining && self.offers.pipelining;
        let is_chunked =
            self.offers.chunking && (self.random.percent(ways.chunk_percent) || is_binary);
        let mut accepted = 0_u64;
        if is_grouped {
            let data = if is_chunked { "" } else { "DATA\r\n" };
            self.write(&format!("{mail}{}{data}", rcpts.concat())).await?;
        } else {
            self.write(&mail).await?;
        }
        let mail_reply = self.reply().await?;
        if !mail_reply.is_good() && !is_grouped {
            return self.refused(&mail_reply);
        }
        if mail_reply.is_good() {
            self.begins();
        }
        for (rcpt, recipient) in rcpts.iter().zip(0..) {
            if !is_grouped {
                self.write(rcpt).await?;
            }
            let reply = self.reply().await?;
            if reply.is_good() {
                accepted += 1;
                self.accepts(accepted);
                self.is_let_relay();
                let key = Key { message: number, recipient };
                self.application.ledger.borrow_mut().accepted(key);
            } else if reply.code == 421 {
                return Err(Over);
            }
        }
        let leaves = self.leaves(&ways);
        if leaves == Drop::BeforeContent {
            return Err(Over);
        }
        let may_go_back = is_chunked || !is_grouped;
        if may_go_back && (accepted == 0 || self.random.percent(ways.reset_percent)) {
            self.write("RSET\r\n").await?;
            self.expect_good().await?;
            return Ok(());
        }
        if is_chunked {
            return self.send_chunks(number, &ways, &content, leaves).await;
        }
        if !is_grouped {
            self.write("DATA\r\n").await?;
        }
        let data_reply = self.reply().await?;
        if data_reply.code != 354 {
            return self.refused(&data_reply);
        }
        self.send_content(number, &ways, &content, leaves == Drop::InContent).await?;
        if leaves == Drop::AfterDot {
            return Err(Over);
        }
        let reply = self.reply().await?;
        self.told(number, &reply)
    }

    /// Takes the reply to a whole message.
    fn told(&mut self, number: u32, reply: &Reply) -> Result<(), Over> {
        if !reply.is_good() {
            return self.refused(reply);
        }
        self.takes();
        let id = reply.text.trim_end().rsplit(' ').next().unwrap_or_default();
        let now = self.runtime.now();
        self.application.ledger.borrow_mut().ack(number, now, id);
        Ok(())
    }

    /// After a message that the server did not want: on with the next, unless it closes.
    fn refused(&mut self, reply: &Reply) -> Result<(), Over> {
        // Also after 5xx: the server may be about to end the session.
        if reply.code == 421 || self.random.percent(20) { Err(Over) } else { Ok(()) }
    }

    /// Whether the next message is no lines.
    fn is_binary(&self, ways: &Ways) -> bool {
        let mut random = self.random.fork_number("binary", self.transactions);
        self.offers.binary && self.offers.chunking && random.percent(ways.binary_percent)
    }

    fn content(&mut self, ways: &Ways) -> Vec<u8> {
        let size_max = self.offers.size.map_or(ways.size_max, |size| size.min(ways.size_max));
        let is_eight_bit = self.offers.eight_bit && self.random.percent(ways.eight_bit_percent);
        let content = self.words.content(&mut self.random, size_max, is_eight_bit);
        let content = head::with_fields(content, &mut self.random.fork("head"), size_max);
        self.exceed(ways, content)
    }

    /// Has some messages say that they may go on without TLS; whether this one does.
    fn waives(&self, ways: &Ways, content: &mut Vec<u8>) -> bool {
        let Some(with) = head::with_waiver(content) else { return false };
        let size_max = self.offers.size.map_or(ways.size_max, |size| size.min(ways.size_max));
        let is_waiver = self.random.fork("waiver").percent(ways.waiver_percent);
        if !is_waiver || self.is_excessive || with.len() as u64 > size_max {
            return false;
        }
        *content = with;
        true
    }

    /// Has some messages name a tenant, where the server takes that out.
    fn labelled(&mut self, number: u32, ways: &Ways, content: Vec<u8>) -> Vec<u8> {
        let mut ledger = self.application.ledger.borrow_mut();
        let tenant = format!("t{number}");
        let labelled = head::with_tenant(&content, &tenant);
        let is_labelled = ledger.mends && self.random.fork("tenant").percent(50);
        if !is_labelled || labelled.len() as u64 > ways.size_max {
            return content;
        }
        ledger.label(number, &tenant);
        labelled
    }

    /// Enters a message into the ledger; its number, MAIL, and each RCPT.
    fn envelope(
        &mut self,
        ways: &Ways,
        content: &[u8],
        is_binary: bool,
    ) -> (u32, String, Vec<String>) {
        let application = self.application;
        let recipients = self.random.within(1..=ways.recipients_max);
        let domains: Vec<&str> = (0..recipients)
            .filter_map(|_| self.random.pick(&application.domains).map(String::as_str))
            .collect();
        let is_null = self.random.percent(ways.null_percent);
        let home = self.random.pick(&application.homes).map(String::as_str).filter(|_| !is_null);
        let mut ledger = application.ledger.borrow_mut();
        let number = ledger.begin(home, &domains);
        ledger.set_content(number, content);
        ledger.mail(number, self.runtime.now());
        if let Some(client) = self.spoken.client {
            ledger.speak_for(number, client);
        }
        if is_binary {
            ledger.mark_binary(number);
        }
        let Some(message) = ledger.message(number) else { return Default::default() };
        // What is marked and in ASCII has to reach hosts without it, too.
        let utf8 = self.offers.utf8 && self.random.percent(ways.eight_bit_percent);
        let mut mail = format!("MAIL FROM:<{}>", message.reverse_path);
        mail.push_str(match (is_binary, message.eight_bit) {
            (true, _) => " BODY=BINARYMIME",
            (false, true) => " BODY=8BITMIME",
            (false, false) => "",
        });
        mail.push_str(if utf8 { " SMTPUTF8" } else { "" });
        if self.offers.size.is_some() && self.random.coin() {
            let _ = write!(mail, " SIZE={}", content.len());
        }
        let addresses: Vec<String> =
            message.recipients.iter().map(|to| to.address.clone()).collect();
        let mut rcpts = Vec::with_capacity(addresses.len());
        for (address, recipient) in addresses.into_iter().zip(0..) {
            let mut rcpt = format!("RCPT TO:<{address}>");
            if self.offers.dsn && self.random.percent(ways.notify_percent) {
                let bits = self.random.within(0..=7) as u8;
                if let Some(notify) = Notify::from_bits(bits) {
                    let _ = write!(rcpt, " NOTIFY={notify}");
                    ledger.ask(Key { message: number, recipient }, notify);
                }
            }
            rcpt.push_str("\r\n");
            rcpts.push(rcpt);
        }
        if self.offers.dsn && self.random.percent(ways.notify_percent) {
            mail.push_str(if self.random.coin() { " RET=FULL ENVID=s" } else { " RET=HDRS" });
        }
        if self.offers.hold && self.random.percent(ways.hold_percent) {
            let seconds = self.random.within(1..=60);
            let _ = write!(mail, " HOLDFOR={seconds}");
            ledger.hold(number, self.runtime.now() + Duration::from_secs(seconds));
        }
        if self.offers.priority && self.random.percent(ways.priority_percent) {
            let level = self.random.within(0..=18) as i8 - 9;
            let _ = write!(mail, " MT-PRIORITY={level}");
            ledger.prioritize(number, level.min(PRIORITY_MAX));
        }
        let mut requiring = self.random.fork("requiretls");
        if self.offers.requiretls && requiring.percent(ways.requiretls_percent) {
            mail.push_str(" REQUIRETLS");
            ledger.require_tls(number);
        }
        if utf8 && content::has_utf8_header(content) {
            ledger.mark_utf8(number);
        }
        mail.push_str("\r\n");
        (number, mail, rcpts)
    }

    fn leaves(&mut self, ways: &Ways) -> Drop {
        if self.application.calm.get() || !self.random.percent(ways.drop_percent) {
            return Drop::Never;
        }
        let ways = [Drop::BeforeContent, Drop::InContent, Drop::AfterDot];
        self.random.pick(&ways).copied().unwrap_or(Drop::Never)
    }

    async fn send_content(
        &mut self,
        number: u32,
        ways: &Ways,
        content: &[u8],
        leaves: bool,
    ) -> Result<(), Over> {
        let wire = content::stuffed(content);
        let mut rest = wire.as_slice();
        if self.random.percent(ways.slow_percent) {
            for _ in 0..self.random.within(1..=4) {
                let (piece, after) = rest.split_at(self.random.index(rest.len()));
                self.wire.write(piece).await.map_err(|_| Over)?;
                rest = after;
                let pause = self.random.duration(Duration::ZERO, ways.pause_max);
                self.runtime.sleep(pause).await;
            }
        }
        if leaves {
            let piece = rest.get(..self.random.index(rest.len())).unwrap_or_default();
            let _ = self.wire.write(piece).await;
            return Err(Over);
        }
        self.application.ledger.borrow_mut().sent(number, self.runtime.now());
        ".".clone_into(&mut self.said);
        self.wire.write(&[rest, b".\r\n"].concat()).await.map_err(|_| Over)
    }

    async fn expect_good(&mut self) -> Result<Reply, Over> {
        let reply = self.reply().await?;
        if reply.is_good() { Ok(reply) } else { Err(Over) }
    }

    async fn reply(&mut self) -> Result<Reply, Over> {
        let mut text = String::new();
        loop {
            let line = match self.wire.line().await {
                Ok(line) => line,
                Err(gone) => {
                    if gone == Gone::TimedOut {
                        self.is_owed_a_reply();
                    }
                    return Err(Over);
                }
            };
            let code = line.get(..3).and_then(|code| code.parse().ok());
            let Some(code) = code else {
                let now = self.runtime.now();
                let mut ledger = self.application.ledger.borrow_mut();
                ledger.violate("reply without a code", now, line);
                return Err(Over);
            };
            text.push_str(line.get(4..).unwrap_or_default());
            text.push('\n');
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, text });
            }
        }
    }

    /// Notes that a reply has not come in time.
    fn is_owed_a_reply(&self) {
        if self.said.is_empty() && self.application.opening.is_none() {
            return;
        }
        let now = self.runtime.now();
        self.application.ledger.borrow_mut().owed(self.life, &self.said, now);
    }

    async fn write(&mut self, text: &str) -> Result<(), Over> {
        text.trim_end().rsplit('\n').next().unwrap_or_default().clone_into(&mut self.said);
        self.wire.write(text.as_bytes()).await.map_err(|_| Over)
    }
}

impl Offers {
    fn read(text: &str) -> Self {
        let has = |keyword| text.lines().any(|line| line.split(' ').next() == Some(keyword));
        let size = text.lines().find_map(|line| line.strip_prefix("SIZE ")?.trim().parse().ok());
        let limits = text.lines().find_map(|line| line.strip_prefix("LIMITS ")).unwrap_or_default();
        let limit = |name: &str| {
            let value = limits.split(' ').find_map(|limit| limit.strip_prefix(name));
            value.and_then(|value| value.strip_prefix('=')?.trim().parse().ok())
        };
        Self {
            pipelining: has("PIPELINING"),
            eight_bit: has("8BITMIME"),
            utf8: has("SMTPUTF8"),
            chunking: has("CHUNKING"),
            binary: has("BINARYMIME"),
            xclient: has("XCLIENT"),
            hold: has("FUTURERELEASE"),
            priority: has("MT-PRIORITY"),
            requiretls: has("REQUIRETLS"),
            dsn: has("DSN"),
            starttls: has("STARTTLS"),
            size,
            transactions_max: limit("MAILMAX"),
            recipients_max: limit("RCPTMAX"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ringpost::runtime::{Containment, Listener as _, Stream as _};

    use super::*;
    use crate::ledger::Ledger;
    use crate::world::World;

    /// What is found wrong with a host that says this when it is called, and nothing more.
    fn wrong_with(greeting: &'static str, opening: Option<Duration>) -> Vec<String> {
        let world = World::new(1);
        let ledger = Ledger::shared(world.clock().now());
        ledger.borrow_mut().begin_life(world.clock().now());
        let address = |host| IpAddr::from([10, 0, 0, host]);
        let server = world.host(&[address(1)]);
        let at = SocketAddr::new(address(1), 25);
        let mut listener = server.listen(at).unwrap();
        server.spawn(Containment::Process, async move {
            let mut streams = Vec::new();
            while let Ok(mut stream) = listener.accept().await {
                stream.write_all(greeting.as_bytes()).await.unwrap();
                streams.push(stream);
            }
        });
        let application = Application {
            servers: vec![at],
            proxied: Vec::new(),
            domains: Rc::new(["a.test".to_owned()]),
            homes: Rc::new(["b.test".to_owned()]),
            ways: Ways::default(),
            ledger: ledger.clone(),
            patience: Duration::from_secs(10),
            opening,
            calm: Rc::default(),
            trust: Trust::new().unwrap(),
            quota: Quota::new(1),
        };
        let runtime = world.host(&[address(2)]);
        let sending = run(runtime.clone(), application, world.random("injector"));
        runtime.spawn(Containment::Process, sending);
        world.run_for(Duration::from_secs(15), || false);
        ledger.borrow().violations().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_does_not_answer_owes_a_reply() {
        let second = Some(Duration::from_secs(1));
        let found = wrong_with("220 mute.test\r\n", second);
        assert!(
            found.len() == 1 && found[0].ends_with("a reply is owed: to \"EHLO app.test\""),
            "{found:?}"
        );
        let found = wrong_with("", second);
        assert!(found.len() == 1 && found[0].ends_with("a reply is owed: to \"\""), "{found:?}");
        assert_eq!(wrong_with("", Some(Duration::from_secs(10))), [""; 0]);
        assert_eq!(wrong_with("", None), [""; 0]);
        assert_eq!(wrong_with("220 mute.test\r\n421 bye\r\n", second), [""; 0]);
    }

    #[test]
    fn offers_are_read_from_the_reply() {
        let offers = Offers::read(
            "mta.test\nPIPELINING\nSIZE 1000\nCHUNKING\nFUTURERELEASE 60 2030\nLIMITS MAILMAX=7 RCPTMAX=50\n",
        );
        assert!(offers.pipelining && offers.hold && offers.chunking && !offers.eight_bit);
        assert_eq!(offers.size, Some(1000));
        assert_eq!((offers.transactions_max, offers.recipients_max), (Some(7), Some(50)));
        assert!(!Offers::read("PIPELININGS\n").pipelining);
    }

    #[test]
    fn a_quota_is_used_once() {
        let quota = Quota::new(2);
        assert!(quota.take() && quota.take() && !quota.take());
        assert!(quota.is_done());
        let quota = Quota::new(2);
        quota.stop();
        assert!(!quota.take());
    }
}
