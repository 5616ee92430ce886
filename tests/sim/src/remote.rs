//! Remote hosts that take mail, or do not.
//!
//! A small SMTP server of the test's own, so that what the product cannot say it cannot hear either. At
//! each step a host may do what its [`Habits`] allow; what it takes, and what it answers, goes into
//! the ledger. It also looks at how it is spoken to: nothing ahead of a reply where that is not
//! offered, and nothing at all between the final dot and its reply.

mod body;
mod chunk;
mod mended;
mod moves;
mod offers;
mod receipt;
mod tls;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use ringpost::runtime::{Containment, Listener, Runtime};
use ringpost_protocol::notify::Notify;

use self::body::Body;
pub use self::moves::{Habits, Move, Phase};
use self::receipt::Transaction;
pub use self::tls::TlsHabits;
use crate::ledger::{Hearing, Party, SharedLedger, Taking};
use crate::random::Random;
use crate::tls::Identity;
use crate::wire::{Gone, Wire};

/// Longest pause within a slow reply.
const SLOW_PAUSE_MAX: Duration = Duration::from_secs(3);

/// Codes of refusals for good. 552 counts as one only with an enhanced code.
const PERMANENT: [&str; 6] = [
    "550 5.1.1 no such user",
    "551 not local",
    "552 5.2.2 mailbox full",
    "553 5.1.3 bad name",
    "554 5.7.1 no",
    "571 nobody",
];

/// Codes of refusals for now.
const TEMPORARY: [&str; 5] = [
    "450 4.2.0 busy",
    "451 4.3.0 later",
    "452 4.2.2 no room",
    "455 no parameters now",
    "432 4.3.0 not yet",
];

/// A remote host.
#[derive(Debug)]
pub struct RemoteHost {
    /// Its name.
    pub name: String,
    /// How it is.
    pub habits: Habits,
    /// Where it writes down what it did.
    pub ledger: SharedLedger,
    /// Whether everybody behaves.
    pub calm: Rc<Cell<bool>>,
    /// Who it is under TLS, if it speaks that.
    pub identity: Option<Identity>,
    /// How long what was sent to it may be on its way.
    pub slack: Duration,
    greylist: RefCell<BTreeMap<String, Instant>>,
}

impl RemoteHost {
    /// A host that nobody has called yet.
    pub fn new(
        name: &str,
        habits: Habits,
        ledger: SharedLedger,
        calm: Rc<Cell<bool>>,
        identity: Option<Identity>,
        slack: Duration,
    ) -> Rc<Self> {
        let (name, greylist) = (name.to_owned(), RefCell::default());
        Rc::new(Self { name, habits, ledger, calm, identity, slack, greylist })
    }
}

/// Serves the connections of a listener for as long as its tasks live; with TLS first, if `is_tls_first`.
pub fn serve<R: Runtime>(
    runtime: &R,
    mut listener: R::Listener,
    host: &Rc<RemoteHost>,
    random: &Random,
    is_tls_first: bool,
) {
    let (runtime, host, random) = (runtime.clone(), Rc::clone(host), random.clone());
    runtime.clone().spawn(Containment::Process, async move {
        for call in 0.. {
            let Ok(stream) = listener.accept().await else {
                runtime.sleep(Duration::from_millis(10)).await;
                continue;
            };
            let session = Session {
                wire: Wire::new(runtime.clone(), stream, host.habits.patience),
                runtime: runtime.clone(),
                host: Rc::clone(&host),
                random: random.fork_number("call", call),
                transaction: None,
                answered: None,
                may_pipeline: false,
                takes_binary: false,
                reports: false,
                takes_utf8: false,
                takes_priority: false,
                takes_eight_bit: false,
                takes_requiretls: false,
                offers_tls: false,
                is_private: false,
                is_confused: false,
                messages: 0,
            };
            runtime.spawn(Containment::Session, session.run(is_tls_first));
        }
    });
}

/// Why a session is over.
enum Over {
    /// Closed in good order.
    Close,
    /// Dropped.
    Break,
}

impl From<Gone> for Over {
    fn from(gone: Gone) -> Self {
        match gone {
            Gone::Closed | Gone::TimedOut => Self::Close,
            Gone::Broken => Self::Break,
        }
    }
}

#[expect(clippy::struct_excessive_bools, reason = "what has been offered, and what has happened")]
struct Session<R: Runtime> {
    runtime: R,
    wire: Wire<R>,
    host: Rc<RemoteHost>,
    random: Random,
    /// Between MAIL and the reply to its content.
    transaction: Option<Transaction>,
    /// What was taken last, until the client is seen to know the answer.
    answered: Option<usize>,
    may_pipeline: bool,
    /// Whether it has offered CHUNKING and BINARYMIME.
    takes_binary: bool,
    /// Whether DSN was offered.
    reports: bool,
    /// Whether it has offered SMTPUTF8.
    takes_utf8: bool,
    /// Whether it has offered MT-PRIORITY.
    takes_priority: bool,
    /// Whether it has offered 8BITMIME.
    takes_eight_bit: bool,
    /// Whether it has offered REQUIRETLS.
    takes_requiretls: bool,
    /// Whether it has offered STARTTLS.
    offers_tls: bool,
    /// Whether it is under TLS.
    is_private: bool,
    /// Whether there were more replies than commands, so that any may be taken for another.
    is_confused: bool,
    messages: u32,
}

impl<R: Runtime> Session<R> {
    async fn run(mut self, is_tls_first: bool) {
        match self.talk(is_tls_first).await {
            Ok(()) | Err(Over::Close) => self.wire.close().await,
            Err(Over::Break) => {}
        }
    }

    async fn talk(&mut self, is_tls_first: bool) -> Result<(), Over> {
        if is_tls_first {
            self.shake_hands().await?;
        }
        let greeting = format!("220 {} ESMTP", self.host.name);
        self.answer(Phase::Greeting, &greeting).await?;
        loop {
            let line = self.wire.line().await?;
            if let Some(taking) = self.answered.take() {
                let now = self.runtime.now();
                self.host.ledger.borrow_mut().confirm(taking, now);
            }
            // A chunk goes with its BDAT.
            let is_chunk = line.starts_with("BDAT ");
            if !self.may_pipeline && !is_chunk && !self.wire.pending().is_empty() {
                self.violate("commands sent ahead without leave", &line);
            }
            let verb = line.get(..4).unwrap_or(&line).to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.hello(true).await?,
                "HELO" => self.hello(false).await?,
                "MAIL" => self.mail(&line).await?,
                "RCPT" => self.rcpt(&line).await?,
                "DATA" => self.data().await?,
                "BDAT" => self.bdat(&line).await?,
                "STAR" => self.start_tls(&line).await?,
                "RSET" => {
                    self.transaction = None;
                    self.write("250 2.0.0 ok\r\n").await?;
                }
                "QUIT" => {
                    self.write("221 2.0.0 bye\r\n").await?;
                    return Ok(());
                }
                _ => {
                    self.violate("unknown command sent", &line);
                    self.write("500 5.5.1 what?\r\n").await?;
                }
            }
        }
    }

    async fn mail(&mut self, line: &str) -> Result<(), Over> {
        if self.transaction.is_some() {
            self.violate("MAIL within a transaction", line);
        }
        if self.messages >= self.host.habits.messages_max {
            self.write("421 4.3.2 that is enough\r\n").await?;
            return Err(Over::Close);
        }
        let (reverse_path, heard) = (path(line), self.runtime.now());
        let utf8 = line.contains(" SMTPUTF8");
        let has_dsn = line.contains(" RET=") || line.contains(" ENVID=");
        let body = Body::read(line);
        let is_required = line.contains(" REQUIRETLS");
        if (!self.takes_eight_bit && body == Body::EightBit)
            || (!self.takes_requiretls && is_required)
            || (!self.takes_binary && body == Body::Binary)
            || (!self.reports && has_dsn)
            || (!self.takes_utf8 && utf8)
            || (!self.takes_priority && line.contains(" MT-PRIORITY="))
        {
            self.violate("extension used that was not offered", line);
        }
        let told = self.answer(Phase::Mail, "250 2.1.0 go on").await?;
        if let Some(code) = told.filter(|code| code / 100 == 5) {
            let mut ledger = self.host.ledger.borrow_mut();
            ledger.refuse_sender(&reverse_path, code);
        }
        if told.is_some_and(|code| code / 100 == 2) {
            let told = line.split(" MT-PRIORITY=").nth(1).and_then(|rest| rest.split(' ').next());
            let level = told.map_or(0, |level| level.trim().parse().unwrap_or(i8::MIN));
            let priority = self.takes_priority.then_some(level);
            let hearing = Hearing {
                at: heard,
                slack: self.host.slack,
                tls: self.is_known(),
                is_required,
                offers_requiretls: self.takes_requiretls,
            };
            self.transaction = Some(Transaction {
                reverse_path,
                utf8,
                priority,
                body,
                hearing: Some(hearing),
                ..Transaction::default()
            });
        }
        Ok(())
    }

    async fn rcpt(&mut self, line: &str) -> Result<(), Over> {
        let address = path(line);
        let Some(party) = Party::read(&address) else {
            self.violate("mail to a stranger", line);
            return self.write("550 5.1.1 who?\r\n").await;
        };
        if self.is_confused {
            self.host.ledger.borrow_mut().confuse(party);
        }
        self.look_at_notify(party, line);
        let Some(transaction) = &self.transaction else {
            return self.write("503 5.5.1 MAIL first\r\n").await;
        };
        let habits = &self.host.habits;
        if transaction.parties.len() >= habits.recipients_max {
            return self.write("452 4.5.3 too many\r\n").await;
        }
        if !habits.greylisting.is_zero() {
            let now = self.runtime.now();
            let first = *self.host.greylist.borrow_mut().entry(address.clone()).or_insert(now);
            if now - first < habits.greylisting {
                return self.write("450 4.7.1 come back later\r\n").await;
            }
        }
        let told = self.answer(Phase::Rcpt, "250 2.1.5 ok").await?;
        if self.is_confused {
            self.host.ledger.borrow_mut().confuse(party);
        }
        match told {
            Some(code) if code / 100 == 5 => {
                self.host.ledger.borrow_mut().refuse(party, code);
            }
            Some(code) if code / 100 == 2 => {
                let begun = (self.runtime.now(), self.host.ledger.borrow().life());
                if let Some(transaction) = &mut self.transaction {
                    // From here on the content may be on its way, if it goes by BDAT.
                    transaction.begun = Some(begun);
                    transaction.parties.push((party, address));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What RCPT asks for must be what the injector has asked for, and only where that was offered.
    fn look_at_notify(&self, party: Party, line: &str) {
        let said = line.split_once(" NOTIFY=").map(|(_, rest)| rest.split(' ').next());
        let said = said.flatten().and_then(Notify::parse);
        if !self.reports {
            if line.contains(" NOTIFY=") || line.contains(" ORCPT=") {
                self.violate("extension used that was not offered", line);
            }
            return;
        }
        let asked = match party {
            Party::Recipient(key) => {
                let ledger = self.host.ledger.borrow();
                ledger.recipient(key).and_then(|recipient| recipient.notify)
            }
            Party::Originator(_) => None,
        };
        if said != asked {
            self.violate("NOTIFY is not what was asked for", line);
        }
    }

    async fn data(&mut self) -> Result<(), Over> {
        let nobody =
            self.transaction.as_ref().is_none_or(|transaction| transaction.parties.is_empty());
        if nobody {
            self.transaction = None;
            if self.random.coin() {
                return self.write("554 5.5.1 nobody to send to\r\n").await;
            }
            // RFC 2920 §3.1: a server may ask for content all the same.
            self.write("354 go on\r\n").await?;
            let content = self.wire.content().await?;
            if !content.is_empty() {
                self.violate("content sent though nobody is to get it", "");
            }
            return self.write("554 5.5.1 nobody to send to\r\n").await;
        }
        let told = self.answer(Phase::Data, "354 go on").await?;
        if told.is_none_or(|code| code / 100 != 3) {
            self.refuse_all(told);
            self.transaction = None;
            return Ok(());
        }
        let Some(mut transaction) = self.transaction.take() else { return Ok(()) };
        transaction.begun = Some((self.runtime.now(), self.host.ledger.borrow().life()));
        self.transaction = Some(transaction);
        self.while_content_comes().await?;
        let content = self.wire.content().await?;
        self.examine(&content, false).await
    }

    /// What may happen before the content has come.
    async fn while_content_comes(&mut self) -> Result<(), Over> {
        let chosen = self.choose(Phase::Content);
        match chosen {
            Move::Temporary | Move::Permanent | Move::Closing => {
                let told = self.reply(Phase::Content, chosen, "").await?;
                self.refuse_all(told);
                Err(Over::Close)
            }
            Move::Close => Err(Over::Close),
            Move::Break => {
                let _ = self.wire.more().await;
                Err(Over::Break)
            }
            Move::Slow => {
                let pause = self.random.duration(Duration::ZERO, Duration::from_secs(20));
                self.runtime.sleep(pause).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Takes a whole content, or does not; `is_chunk` if it came as it is, without a dot.
    async fn examine(&mut self, content: &[u8], is_chunk: bool) -> Result<(), Over> {
        if !self.wire.pending().is_empty() {
            self.violate("something sent between the dot and its reply", "");
        }
        let Some(transaction) = self.transaction.clone() else { return Ok(()) };
        let now = self.runtime.now();
        let receipt = {
            let mut ledger = self.host.ledger.borrow_mut();
            transaction.examine(&mut ledger, content, is_chunk, now)
        };
        let chosen = self.choose(Phase::Dot);
        let is_taken = match chosen {
            Move::Temporary | Move::Permanent | Move::Closing => false,
            // What the client makes of these it cannot know.
            Move::Close
            | Move::Break
            | Move::WrongClass
            | Move::Garbage
            | Move::Overlong
            | Move::ManyLines
            | Move::Silence => self.random.coin(),
            _ => true,
        };
        let told = match chosen {
            Move::Good | Move::Multiline | Move::CodeOnly | Move::Twice | Move::Slow => Some(250),
            Move::Odd => Some(252),
            _ => None,
        };
        if let Some(receipt) = receipt.filter(|_| is_taken) {
            let mut ledger = self.host.ledger.borrow_mut();
            let (begun, life) = transaction.begun.unwrap_or((now, ledger.life()));
            let taking = Taking {
                message: receipt.message,
                recipients: receipt.recipients,
                life,
                begun,
                at: now,
                told,
                confirmed: None,
                reports: self.reports,
                tls: self.is_known(),
            };
            self.answered = Some(ledger.take(taking));
        }
        self.messages += 1;
        // Known before the reply is: the client may hear of it before this task runs again.
        let told = self.reply(Phase::Dot, chosen, "250 2.0.0 taken").await;
        if let Ok(told) = &told {
            self.refuse_all(*told);
        }
        self.transaction = None;
        told.map(|_| ())
    }

    /// Notes that all recipients of the transaction are refused, if that is what was told.
    fn refuse_all(&self, told: Option<u16>) {
        let Some(code) = told.filter(|code| code / 100 == 5) else { return };
        let Some(transaction) = &self.transaction else { return };
        let mut ledger = self.host.ledger.borrow_mut();
        for (party, _) in &transaction.parties {
            ledger.refuse(*party, code);
        }
    }

    fn choose(&mut self, phase: Phase) -> Move {
        if self.host.calm.get() {
            return Move::Good;
        }
        self.host.habits.choose(phase, &mut self.random)
    }

    /// Answers at a step as the host likes; the code of what it told, if that was a reply.
    async fn answer(&mut self, phase: Phase, good: &str) -> Result<Option<u16>, Over> {
        let chosen = self.choose(phase);
        self.reply(phase, chosen, good).await
    }

    async fn reply(&mut self, phase: Phase, chosen: Move, good: &str) -> Result<Option<u16>, Over> {
        let thinking = self.random.duration(Duration::ZERO, self.host.habits.thinking);
        if !thinking.is_zero() && !self.host.calm.get() {
            self.runtime.sleep(thinking).await;
        }
        let code: u16 = good.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
        match chosen {
            Move::Temporary => {
                let reply = self.random.pick(&TEMPORARY).copied().unwrap_or_default();
                self.refusal(phase, reply).await
            }
            Move::Permanent => {
                let reply = self.random.pick(&PERMANENT).copied().unwrap_or_default();
                self.refusal(phase, reply).await
            }
            Move::Closing => {
                self.write("421 4.3.2 closing\r\n").await?;
                Err(Over::Close)
            }
            Move::Close => Err(Over::Close),
            Move::Break => Err(Over::Break),
            Move::WrongClass => {
                let wrong = if phase == Phase::Data { "250 fine" } else { "354 go on" };
                self.write_reply(wrong).await?;
                Ok(None)
            }
            Move::Garbage => {
                self.write("\u{7}hello, world\r\n").await?;
                Ok(None)
            }
            Move::Overlong => {
                self.write_reply(&format!("{code} {}", "x".repeat(5000))).await?;
                Ok(None)
            }
            Move::ManyLines => {
                let lines = format!("{code}-more\r\n").repeat(300);
                self.write(&format!("{lines}{code} at last\r\n")).await?;
                Ok(None)
            }
            Move::Multiline if phase != Phase::Hello => {
                self.write_reply(&format!("{code}-well\n{code}-let me see\n{good}")).await?;
                Ok(Some(code))
            }
            Move::CodeOnly if phase != Phase::Hello => {
                self.write_reply(&code.to_string()).await?;
                Ok(Some(code))
            }
            Move::Odd if !matches!(phase, Phase::Hello | Phase::Greeting) => {
                let odd =
                    if phase == Phase::Data { 350 } else { code + 1 + self.random.below(2) as u16 };
                self.write_reply(&format!("{odd} odd")).await?;
                Ok(Some(odd))
            }
            Move::Twice => {
                self.confuse();
                self.write_reply(&format!("{good}\n{good}")).await?;
                Ok(Some(code))
            }
            Move::Slow => {
                let whole = format!("{}\r\n", good.replace('\n', "\r\n"));
                let (first, second) = whole.split_at(self.random.index(whole.len()));
                self.write(first).await?;
                let pause = self.random.duration(Duration::ZERO, SLOW_PAUSE_MAX);
                self.runtime.sleep(pause).await;
                self.write(second).await?;
                Ok(Some(code))
            }
            Move::Silence => {
                while self.wire.more().await.is_ok() {}
                Err(Over::Break)
            }
            Move::Good | Move::Multiline | Move::CodeOnly | Move::Odd => {
                self.write_reply(good).await?;
                Ok(Some(code))
            }
        }
    }

    /// Refuses; the code is known to the ledger before the client can know it.
    async fn refusal(&mut self, phase: Phase, reply: &str) -> Result<Option<u16>, Over> {
        let code: u16 = reply.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default();
        if code / 100 == 5 {
            if matches!(phase, Phase::Greeting | Phase::Hello) {
                self.host.ledger.borrow_mut().causes().sessions.insert(code);
            }
            self.refuse_all(Some(code));
        }
        self.write_reply(reply).await?;
        if phase == Phase::Greeting { Err(Over::Close) } else { Ok(Some(code)) }
    }

    /// Notes that replies may be taken for others from now on.
    fn confuse(&mut self) {
        self.is_confused = true;
        let mut ledger = self.host.ledger.borrow_mut();
        for (party, _) in self.transaction.iter().flat_map(|transaction| &transaction.parties) {
            ledger.confuse(*party);
        }
    }

    /// Writes a reply whose lines are separated by line feeds.
    async fn write_reply(&mut self, reply: &str) -> Result<(), Over> {
        let reply = format!("{}\r\n", reply.replace('\n', "\r\n"));
        self.write(&reply).await
    }

    async fn write(&mut self, text: &str) -> Result<(), Over> {
        self.wire.write(text.as_bytes()).await.map_err(|_| Over::Break)
    }

    fn violate(&self, rule: &'static str, text: &str) {
        // A client that takes one reply for another says what does not fit, and is not to blame.
        if self.is_confused {
            return;
        }
        let text = format!("{}: {text}", self.host.name);
        self.host.ledger.borrow_mut().violate(rule, self.runtime.now(), text);
    }
}

/// The path in a command, without its brackets.
fn path(line: &str) -> String {
    let after = line.split_once('<').map_or("", |(_, after)| after);
    after.split_once('>').map_or("", |(path, _)| path).to_owned()
}
