//! What a remote host may do at each step of a session, and how often.

use std::time::Duration;

use super::tls::TlsHabits;
use crate::random::Random;

/// A step of a session at which a host may misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The greeting.
    Greeting,
    /// The reply to EHLO or HELO.
    Hello,
    /// The reply to MAIL.
    Mail,
    /// The reply to one RCPT.
    Rcpt,
    /// The reply to DATA.
    Data,
    /// While the content comes.
    Content,
    /// The reply to the final dot.
    Dot,
    /// The reply to STARTTLS.
    StartTls,
    /// The TLS handshake.
    Handshake,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Greeting,
        Self::Hello,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Content,
        Self::Dot,
        Self::StartTls,
        Self::Handshake,
    ];

    /// Those of them that have to do with TLS, which come last.
    const OF_TLS: usize = 2;
}

/// What a host does instead of what is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// What is expected.
    Good,
    /// A reply of class 4.
    Temporary,
    /// A reply of class 5.
    Permanent,
    /// 421, and the connection is closed.
    Closing,
    /// The connection is closed without a word.
    Close,
    /// The connection breaks.
    Break,
    /// A reply of a class that the step does not have.
    WrongClass,
    /// Octets that are no reply.
    Garbage,
    /// A reply line that is too long.
    Overlong,
    /// A reply of more lines than anybody reads.
    ManyLines,
    /// A good reply of several lines.
    Multiline,
    /// A good reply that is nothing but its code.
    CodeOnly,
    /// A good reply with an unusual code.
    Odd,
    /// The good reply, and once more.
    Twice,
    /// The good reply, in pieces and after a while.
    Slow,
    /// No reply ever.
    Silence,
}

impl Move {
    /// All but the good one.
    pub const BAD: [Self; 15] = [
        Self::Temporary,
        Self::Permanent,
        Self::Closing,
        Self::Close,
        Self::Break,
        Self::WrongClass,
        Self::Garbage,
        Self::Overlong,
        Self::ManyLines,
        Self::Multiline,
        Self::CodeOnly,
        Self::Odd,
        Self::Twice,
        Self::Slow,
        Self::Silence,
    ];
}

/// How a host is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each extension is offered or not")]
pub struct Habits {
    /// How often it misbehaves at each step, in percent, in the order of [`Phase::ALL`].
    pub rates: [u8; Phase::ALL.len()],
    /// What it does then, each as often.
    pub moves: Vec<Move>,
    /// Whether it knows EHLO.
    pub knows_ehlo: bool,
    /// Whether it offers PIPELINING.
    pub pipelining: bool,
    /// Whether it offers 8BITMIME.
    pub eight_bit: bool,
    /// Whether it offers CHUNKING and BINARYMIME.
    pub binary: bool,
    /// Whether it offers SMTPUTF8.
    pub utf8: bool,
    /// Whether it offers DSN.
    pub dsn: bool,
    /// Whether it offers MT-PRIORITY.
    pub priority: bool,
    /// The SIZE that it offers.
    pub size: Option<usize>,
    /// How it speaks TLS, if it does.
    pub tls: Option<TlsHabits>,
    /// Recipients it takes in one transaction; others are put off with 452.
    pub recipients_max: usize,
    /// Messages it takes in one session; then it ends it.
    pub messages_max: u32,
    /// How long it wants a recipient to wait the first time.
    pub greylisting: Duration,
    /// How long it thinks before each reply, at most.
    pub thinking: Duration,
    /// How long a client may be silent.
    pub patience: Duration,
}

impl Default for Habits {
    /// A host without fault.
    fn default() -> Self {
        Self {
            rates: [0; Phase::ALL.len()],
            moves: Vec::new(),
            knows_ehlo: true,
            pipelining: true,
            eight_bit: true,
            binary: true,
            utf8: true,
            dsn: false,
            priority: false,
            size: None,
            tls: None,
            recipients_max: 1000,
            messages_max: u32::MAX,
            greylisting: Duration::ZERO,
            thinking: Duration::from_millis(5),
            patience: Duration::from_mins(5),
        }
    }
}

impl Habits {
    /// Draws the habits of a host that misbehaves at some steps, up to so many percent of the times.
    pub fn draw(random: &mut Random, percent_max: u8) -> Self {
        let mut habits = Self::default();
        let (rates, of_tls) = habits.rates.split_at_mut(Phase::ALL.len() - Phase::OF_TLS);
        for rate in rates {
            if random.percent(40) {
                *rate = random.within(1..=u64::from(percent_max.max(1))) as u8;
            }
        }
        let mut tls = random.fork("tls");
        for rate in of_tls {
            if tls.percent(40) {
                *rate = tls.within(1..=u64::from(percent_max.max(1))) as u8;
            }
        }
        habits.moves = Move::BAD.iter().copied().filter(|_| random.percent(40)).collect();
        habits.knows_ehlo = !random.percent(5);
        habits.pipelining = !random.percent(30);
        habits.eight_bit = !random.percent(25);
        habits.size = random.percent(20).then(|| random.within(20_000..=2_000_000) as usize);
        if random.percent(20) {
            habits.recipients_max = random.within(1..=5) as usize;
        }
        if random.percent(20) {
            habits.messages_max = random.within(1..=10) as u32;
        }
        if random.percent(10) {
            habits.greylisting = Duration::from_secs(random.within(5..=40));
        }
        if random.percent(20) {
            habits.thinking = Duration::from_millis(random.within(20..=2000));
        }
        if random.percent(20) {
            habits.patience = Duration::from_secs(random.within(1..=20));
        }
        habits.dsn = random.percent(30);
        habits.utf8 = !random.percent(20);
        habits.priority = random.fork("priority").percent(50);
        // Behind BDAT nothing shows that replies are out of step, so those who send more than one do not offer it.
        let is_in_step = !habits.moves.contains(&Move::Twice);
        habits.binary = is_in_step && !random.fork("binary").percent(30);
        habits
    }

    /// What the host does at a step.
    pub fn choose(&self, phase: Phase, random: &mut Random) -> Move {
        let rate = self.rates.get(phase as usize).copied().unwrap_or_default();
        if random.percent(rate) {
            return random.pick(&self.moves).copied().unwrap_or(Move::Good);
        }
        Move::Good
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_does_what_its_habits_allow() {
        let mut random = Random::new(1);
        let mut habits = Habits { moves: vec![Move::Silence, Move::Twice], ..Habits::default() };
        let mut chosen = |habits: &Habits, phase| -> Vec<Move> {
            (0..400).map(|_| habits.choose(phase, &mut random)).collect()
        };
        assert!(chosen(&habits, Phase::Dot).iter().all(|chosen| *chosen == Move::Good));
        habits.rates[Phase::Dot as usize] = 50;
        assert!(chosen(&habits, Phase::Rcpt).iter().all(|chosen| *chosen == Move::Good));
        let at_dot = chosen(&habits, Phase::Dot);
        for (wanted, least) in [(Move::Good, 150), (Move::Silence, 60), (Move::Twice, 60)] {
            let count = at_dot.iter().filter(|chosen| **chosen == wanted).count();
            assert!(count > least, "{wanted:?}: {count}");
        }
    }

    #[test]
    fn phases_are_in_the_order_of_the_list() {
        for (index, phase) in Phase::ALL.iter().enumerate() {
            assert_eq!(*phase as usize, index);
        }
    }
}
