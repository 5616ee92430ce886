//! The delivering end: [`ClientSession`] and whatever a server says.
//!
//! The first octet chooses how the client is set up, the second into which pieces the rest is cut (0:
//! into lines), and the third the number of recipients. The rest is what the server says.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ringpost_protocol::data::stuff::{StuffState, stuff_into, terminator};
use ringpost_protocol::envelope::BodyType;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::path::{ForwardPath, ReversePath};
use ringpost_protocol::sasl::Mechanism;
use ringpost_session::client::{
    AuthProblem, AuthPrompt, ClientAuth, ClientConfig, ClientEvent, ClientSession, Dialect,
    RecipientReport, Stage, TransactionReport, TransactionRequest, Verdict as Said,
};

use super::{is_plain, reply, seed};
use crate::input::{Input, pieces};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "client",
    check,
    seeds,
    words: &[
        "220 mx.test\r\n",
        "250-mx.test\r\n250 PIPELINING\r\n",
        "250 8BITMIME\r\n",
        "250-CHUNKING\r\n250 BINARYMIME\r\n",
        "250-SIZE 1\r\n",
        "250 ok\r\n",
        "250\r\n",
        "250-",
        "251 ok\r\n",
        "354 go\r\n",
        "250 AUTH PLAIN\r\n",
        "250-AUTH LOGIN SCRAM-SHA-256\r\n",
        "235 in\r\n",
        "334 cj0=\r\n",
        "334 dj0=\r\n",
        "334 \r\n",
        "535 out\r\n",
        "421 bye\r\n",
        "450 no\r\n",
        "550 5.1.1 no\r\n",
        "554 no\r\n",
        "221 bye\r\n",
        "\r\n",
        "\n",
    ],
    size_max: 600,
    cost: 1,
};

const PIPELINING: u8 = 1;
const EIGHT_BIT: u8 = 2;
const QUITS: u8 = 4;
const BINARY: u8 = 8;
const AUTH: u8 = 16;

/// What the driver answers to every question, `secret`, in base64.
const SECRET: &str = "c2VjcmV0";

/// Transactions that are started at most.
const TRANSACTIONS_MAX: usize = 4;

fn seeds() -> Vec<Vec<u8>> {
    let hello = "220 mx.test\r\n250-mx.test\r\n250-8BITMIME\r\n250-SIZE 1000\r\n250 PIPELINING\r\n";
    let texts = [
        format!("{hello}250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 ok\r\n221 bye\r\n"),
        format!(
            "{hello}250 ok\r\n550 5.1.1 no\r\n251 ok\r\n354 go\r\n452 4.3.1 full\r\n250 ok\r\n250 ok\r\n"
        ),
        format!(
            "{hello}450 no\r\n503 no\r\n503 no\r\n503 no\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n"
        ),
        format!("{hello}250 ok\r\n550 no\r\n550 no\r\n354 go\r\n554 none\r\n250 ok\r\n"),
        format!(
            "{hello}250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250-a\r\n250-b\r\n250 c\r\n421 bye\r\n"
        ),
        format!("{hello}250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n250 too many\r\n"),
        "554 go away\r\n".to_owned(),
        "220 a\r\n502 what\r\n250 mx.test\r\n250 ok\r\n250 ok\r\n354 go\r\n250 ok\r\n".to_owned(),
        "220 a\r\n250-a\r\n250 SIZE 1\r\n".to_owned(),
    ];
    let binary = hello.replace("8BITMIME", "CHUNKING\r\n250-BINARYMIME");
    let texts = texts.into_iter().chain([
        format!("{binary}250 ok\r\n250 ok\r\n250 ok\r\n250 2.0.0 ok\r\n221 bye\r\n"),
        format!("{binary}250 ok\r\n550 no\r\n550 no\r\n250 reset\r\n250 ok\r\n250 ok\r\n250 ok\r\n552 no\r\n"),
    ]);
    let login = |mechanism: &str, replies: &str| {
        let rest = "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 ok\r\n";
        format!("220 a\r\n250-a\r\n250 AUTH {mechanism}\r\n{replies}{rest}")
    };
    let texts = texts.chain([
        login("PLAIN", "235 in\r\n"),
        login("PLAIN", "535 out\r\n"),
        login("LOGIN", "334 VXNlcm5hbWU6\r\n334 UGFzc3dvcmQ6\r\n235 in\r\n"),
        login("SCRAM-SHA-256", "334 cj0=\r\n334 dj0=\r\n235 in\r\n"),
        login("SCRAM-SHA-256", "334 cj0=\r\n334 ZT0=\r\n235 in\r\n"),
        login("SCRAM-SHA-256", "235 in\r\n"),
    ]);
    let choices = [
        [AUTH, 0, 2],
        [AUTH | PIPELINING, 1, 1],
        [0, 0, 2],
        [PIPELINING, 0, 2],
        [PIPELINING | EIGHT_BIT, 1, 2],
        [QUITS, 0, 1],
        [BINARY, 0, 1],
        [BINARY | PIPELINING, 0, 2],
    ];
    texts.flat_map(|text| choices.map(|choice| seed(&choice, &text))).collect()
}

/// What was known when a report came.
#[derive(Debug, Clone)]
struct Told {
    report: TransactionReport,
    /// Octets that had been heard when the final dot was out, if it was.
    dot_at: Option<usize>,
    /// Octets that had been heard when the report came.
    came_at: usize,
}

/// All that came of a session.
#[derive(Debug, Clone, Default)]
struct Trace {
    heard: Vec<u8>,
    commands: Vec<u8>,
    started: usize,
    told: Vec<Told>,
    is_closed: bool,
}

/// Says whether the client was deceived.
pub fn check(octets: &[u8]) -> Verdict {
    let mut input = Input::new(octets);
    let (flags, way, recipients) = (input.octet(), input.octet(), input.octet() % 5 + 1);
    let trace = run(flags, way, usize::from(recipients), input.rest())?;
    judge(&trace, usize::from(recipients))
}

/// Plays the server and the driver.
fn run(flags: u8, way: u8, recipients: usize, wire: &[u8]) -> Result<Trace, String> {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let mut dialect = Dialect::default();
    if flags & PIPELINING == 0 {
        dialect.extensions = dialect.extensions.without(Extension::Pipelining);
    }
    let config = Arc::new(ClientConfig::default());
    let mut session = ClientSession::new(start, config).with_dialect(dialect);
    if flags & AUTH != 0 {
        let mechanisms = Mechanism::ALL.into_iter().collect();
        session = session.with_auth(ClientAuth { mechanisms, without_tls: true });
    }
    let mut driver = Driver {
        session,
        now: start,
        trace: Trace::default(),
        flags,
        paths: (0..recipients)
            .filter_map(|n| ForwardPath::parse(&format!("<r{n}@b.test>")).ok())
            .collect(),
        dot_at: None,
        is_proven: false,
        is_logged_in: false,
    };
    if way == 0 {
        for line in wire.split_inclusive(|&b| b == b'\n') {
            driver.hear(line)?;
        }
    } else {
        for piece in pieces(wire, way) {
            driver.hear(piece)?;
        }
    }
    driver.end()?;
    Ok(driver.trace)
}

struct Driver {
    session: ClientSession,
    now: Instant,
    trace: Trace,
    flags: u8,
    paths: Vec<ForwardPath>,
    dot_at: Option<usize>,
    is_proven: bool,
    is_logged_in: bool,
}

impl Driver {
    fn hear(&mut self, piece: &[u8]) -> Verdict {
        if self.trace.is_closed {
            return Ok(());
        }
        self.trace.heard.extend_from_slice(piece);
        self.session.handle_input(self.now, piece);
        self.drive()?;
        if self.session.is_ready() && !self.trace.is_closed {
            if self.trace.started < TRANSACTIONS_MAX {
                self.start()?;
            } else if self.flags & QUITS != 0 {
                self.session.quit(self.now);
                self.drive()?;
            }
        }
        Ok(())
    }

    fn content(&self) -> &'static [u8] {
        match (self.flags & BINARY, self.flags & EIGHT_BIT) {
            (0, 0) => b"a: b\r\n\r\n.\r\nQUIT\r\n",
            (0, _) => b"\r\n\xff\r\n",
            _ => b"\r\n\n\0.\r\n.\r\nQUIT\n",
        }
    }

    fn start(&mut self) -> Verdict {
        let paths: Vec<&ForwardPath> = self.paths.iter().collect();
        let request = TransactionRequest {
            by: None,
            reverse_path: &ReversePath::Null,
            forward_paths: &paths,
            size: self.content().len() as u64,
            body: match self.content().is_ascii() {
                _ if self.flags & BINARY != 0 => BodyType::BinaryMime,
                true => BodyType::SevenBit,
                false => BodyType::EightBitMime,
            },
            utf8: ringpost_protocol::envelope::Utf8::Unmarked,
            priority: ringpost_protocol::priority::Priority::NORMAL,
            require_tls: false,
            dsn: None,
        };
        self.dot_at = None;
        self.trace.started += 1;
        let started = self.session.start_transaction(self.now, &request);
        must!(started.is_ok(), "ready, and not ready");
        self.drive()
    }

    fn drive(&mut self) -> Verdict {
        while let Some(event) = self.session.poll_event() {
            must!(!self.trace.is_closed, "{event:?} after the end");
            match event {
                ClientEvent::TlsRefused(_) => {}
                ClientEvent::Ready { .. } => {
                    let must = self.flags & AUTH != 0;
                    must!(must == self.is_logged_in, "logged in: {}", self.is_logged_in);
                }
                ClientEvent::Auth(prompt) => self.answer(&prompt)?,
                ClientEvent::LoggedIn(mechanism) => {
                    let is_proven = mechanism != Mechanism::ScramSha256 || self.is_proven;
                    must!(is_proven, "in, by a server that has shown nothing");
                    self.is_logged_in = true;
                }
                ClientEvent::StartTls => {
                    return Err("TLS is begun, and was not to be".to_owned());
                }
                ClientEvent::SendContent => self.send_content()?,
                ClientEvent::SendChunk => self.send_chunk()?,
                ClientEvent::TransactionDone(report) => {
                    let came_at = self.trace.heard.len();
                    self.trace.told.push(Told { report, dot_at: self.dot_at, came_at });
                }
                ClientEvent::Closed(_) => self.trace.is_closed = true,
            }
        }
        let open = self.trace.started - self.trace.told.len();
        let is_idle = self.trace.is_closed || self.session.is_ready();
        must!(open <= 1 && !(is_idle && open == 1), "{open} transactions without a report");
        self.flush();
        Ok(())
    }

    /// A server has shown who it is by a `v=`.
    fn answer(&mut self, prompt: &AuthPrompt) -> Verdict {
        must!(self.flags & AUTH != 0 && !self.is_logged_in, "{prompt:?}, and nobody is to log in");
        if let AuthPrompt::ScramVerify(shown) = prompt {
            if !shown.starts_with(b"v=") {
                self.session.auth_failed(AuthProblem::NotProven);
                return Ok(());
            }
            self.is_proven = true;
        }
        self.session.auth_response(self.now, b"secret");
        Ok(())
    }

    fn send_content(&mut self) -> Verdict {
        must!(self.session.transmit().is_empty(), "content before a command");
        must!(self.dot_at.is_none(), "content for the second time");
        let (mut state, mut out) = (StuffState::default(), Vec::new());
        stuff_into(self.content(), &mut state, &mut out);
        out.extend_from_slice(terminator(state));
        self.dot_at = Some(self.trace.heard.len());
        self.session.content_sent(self.now);
        Ok(())
    }

    /// The octets of the content are those that were counted.
    fn send_chunk(&mut self) -> Verdict {
        must!(self.flags & BINARY != 0, "text goes by BDAT");
        must!(self.dot_at.is_none(), "content for the second time");
        let command = format!("BDAT {} LAST\r\n", self.content().len());
        must!(self.session.transmit() == command.as_bytes(), "other octets are counted");
        self.flush();
        self.dot_at = Some(self.trace.heard.len());
        self.session.content_sent(self.now);
        Ok(())
    }

    fn flush(&mut self) {
        let output = self.session.transmit();
        self.trace.commands.extend_from_slice(output);
        let len = output.len();
        self.session.transmitted(len);
    }

    fn end(&mut self) -> Verdict {
        for _ in 0..20 {
            let Some(deadline) = self.session.poll_timeout() else { break };
            self.now = self.now.max(deadline);
            self.session.handle_timeout(self.now);
            self.drive()?;
        }
        self.session.handle_eof(self.now);
        self.drive()?;
        must!(self.trace.is_closed, "the session never ends");
        Ok(())
    }
}

fn judge(trace: &Trace, recipients: usize) -> Verdict {
    must!(trace.told.len() == trace.started, "{} of {} reports", trace.told.len(), trace.started);
    for told in &trace.told {
        let report = &told.report;
        must!(report.recipients.len() == recipients, "{} recipients", report.recipients.len());
        for recipient in &report.recipients {
            let Said::Reply(reply) = &recipient.verdict else { continue };
            let is_final = recipient.stage == Stage::FinalReply;
            must!(is_final || !reply.is_positive_completion(), "{recipient:?} is no failure");
        }
        if report.recipients.iter().any(RecipientReport::is_delivered) {
            check_delivered(trace, told)?;
        }
    }
    let commands = std::str::from_utf8(&trace.commands).map_err(|_| "a command is no text")?;
    for line in commands.split_terminator("\r\n") {
        must!(is_plain(line) && line.len() <= 510, "{line:?} is no command");
        let verb = line.get(..4).unwrap_or(line);
        let verbs = ["EHLO", "HELO", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "QUIT", "."];
        must!(verbs.contains(&verb) || line == SECRET, "{line:?} is no command");
    }
    Ok(())
}

/// Nothing is delivered but by a whole 2xx that came all of it after the dot.
fn check_delivered(trace: &Trace, told: &Told) -> Verdict {
    let dot_at = told.dot_at.ok_or("delivered, and no dot was sent")?;
    let (before, after) = trace.heard[..told.came_at].split_at(dot_at);
    must!(!reply::is_open(before), "delivered by a reply that began before the dot");
    let code = reply::first_code(after).ok_or("delivered, and there was no reply to the dot")?;
    must!((200..300).contains(&code), "delivered by a {code}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_traces_are_found() {
        let seed = &seeds()[0][3..];
        let good = run(PIPELINING, 0, 2, seed).unwrap();
        assert_eq!(judge(&good, 2), Ok(()));
        assert!(good.told[0].report.recipients[0].is_delivered());
        let is_found = |change: fn(&mut Trace)| {
            let mut bad = good.clone();
            change(&mut bad);
            judge(&bad, 2).is_err()
        };
        assert!(is_found(|bad| drop(bad.told.pop())));
        assert!(is_found(|bad| drop(bad.told[0].report.recipients.pop())));
        assert!(is_found(|bad| bad.told[0].dot_at = None));
        assert!(is_found(|bad| bad.told[0].came_at = bad.told[0].dot_at.unwrap()));
        assert!(is_found(|bad| bad.told[0].dot_at = bad.told[0].dot_at.map(|at| at + 2)));
        assert!(is_found(|bad| bad.told[0].dot_at = bad.told[0].dot_at.map(|at| at - 8)));
        assert!(is_found(|bad| {
            let at = bad.told[0].dot_at.unwrap();
            bad.heard[at] = b'4';
        }));
        assert!(is_found(|bad| bad.told[0].report.recipients[0].stage = Stage::Rcpt));
        assert!(is_found(|bad| bad.commands.extend_from_slice(b"250 ok\r\n")));
    }
}
