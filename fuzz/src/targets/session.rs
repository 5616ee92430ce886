//! The accepting end: [`ServerSession`] and whatever a client sends.
//!
//! The first octet chooses how the session is set up, the second into which pieces the rest is cut, and
//! the third what the driver answers for messages and transactions. In the rest runs are expanded.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ringpost_protocol::address::{Domain, Mailbox};
use ringpost_protocol::envelope::Envelope;
use ringpost_protocol::limits::REPLY_OUTPUT_MAX;
use ringpost_protocol::sasl::{Mechanism, MechanismSet};
use ringpost_session::server::{
    Admission, Alias, Aliases, AuthPolicy, AuthQuestion, AuthRefusal, CloseReason, FlushOutcome,
    Peer, Refusal, ReversePaths, ServerConfig, ServerEvent, ServerSession, TlsInfo, TlsPolicy,
    TlsVersion, User,
};

use super::{is_plain, seed};
use crate::input::{Input, expanded, pieces};
use crate::{Target, Verdict, must};

/// The target.
pub const TARGET: Target = Target {
    name: "session",
    check,
    seeds,
    words: &[
        "EHLO c.test\r\n",
        "HELO c.test\r\n",
        "MAIL FROM:<a@a.test>\r\n",
        "MAIL FROM:<>\r\n",
        "RCPT TO:<b@b.test>\r\n",
        "RCPT TO:<postmaster>\r\n",
        "RCPT TO:<list@mx.test>\r\n",
        "EXPN list\r\n",
        "ETRN @b.test\r\n",
        "ETRN #b\r\n",
        "VRFY list\r\n",
        "RCPT TO:<a@[192.0.2.1]>\r\n",
        "AUTH PLAIN AHUAcA==\r\n",
        "AUTH PLAIN AHgAcA==\r\n",
        "AUTH LOGIN\r\n",
        "AUTH SCRAM-SHA-256 =\r\n",
        "dQ==\r\n",
        "cA==\r\n",
        "*\r\n",
        " AUTH=<>",
        "STARTTLS\r\n",
        "DATA\r\n",
        "BDAT 20\r\n",
        "BDAT 5 LAST\r\n",
        "BDAT 0 LAST\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "QUIT\r\n",
        "\r\n.\r\n",
        ".\r\n",
        "..",
        "\r\n",
        "X-Not-Before: 1700000001\r\n",
        " SIZE=1000",
        " HOLDFOR=60",
        " BODY=8BITMIME",
        "Received: a\r\n",
        "\x16",
        "GET / ",
    ],
    size_max: 800,
    cost: 1,
};

/// What the wall clock shows: 2023-11-14T22:13:20Z.
const UNIX_MS: u64 = 1_700_000_000_000;

const LENIENT: u8 = 1;
const STRANGER: u8 = 2;
const NOT_BEFORE: u8 = 4;
const SMALL: u8 = 8;
const PENDING: u8 = 16;
const DEAF: u8 = 32;
const AUTH: u8 = 64;

/// A message that the driver has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Accepted {
    envelope: Envelope,
    content: Vec<u8>,
    hold_until: Option<u64>,
    is_user: bool,
}

/// All that came of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Trace {
    said: Vec<u8>,
    accepted: Vec<Accepted>,
    refused: usize,
    closed: Option<CloseReason>,
    /// The most octets that waited to be written, and that were handed out beyond the limit on size.
    output_max: usize,
    content_max: usize,
}

fn seeds() -> Vec<Vec<u8>> {
    let mail = "MAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nRCPT TO:<c@c.test>\r\n";
    let texts = [
        format!("EHLO c.test\r\n{mail}DATA\r\nSubject: a\r\n\r\n..\r\n.\r\nQUIT\r\n"),
        format!("HELO c.test\r\n{mail}DATA\r\n.\r\n{mail}RSET\r\nNOOP\r\nHELP\r\nVRFY a\r\nQUIT\r\n"),
        "EHLO c.test\r\nMAIL FROM:<> SIZE=10 BODY=8BITMIME HOLDFOR=60\r\nRCPT TO:<postmaster>\r\nDATA\r\n\
         X-Not-Before: 1700000060\r\n\r\n\u{fc}\r\n.\r\nQUIT\r\n"
            .to_owned(),
        format!("EHLO c.test\r\n{mail}DATA\r\nReceived: a\r\nReceived: b\r\nReceived: c\r\n\r\n.\r\n"),
        format!("EHLO c.test\r\n{mail}DATA\r\na\n.\r\nQUIT\r\n"),
        format!("EHLO c.test\r\n{mail}DATA\r\na\x1a\x40\r\n.\r\nNOOP\r\n"),
        format!("EHLO c.test\r\n{mail}BDAT 8\r\na\r\n.\r\nbBDAT 2 LAST\r\ncdBDAT 5\r\nQUIT\nNOOP\r\nQUIT\r\n"),
        format!("EHLO c.test\r\n{mail}BDAT 3\r\na\nbBDAT 5\r\nQUIT\nBDAT 0 LAST\r\nRSET\r\nBDAT x\r\n"),
        "EHLO c.test\r\nNOOP a\x1a\x7fa\x1a\x7fa\x1a\x7f\r\nNOOP\nQUIT\r\n".to_owned(),
        "GET / HTTP/1.1\r\n".to_owned(),
        format!("EHLO c.test\r\n{mail}RSET\r\nSTARTTLS\r\n{mail}EHLO d.test\r\n{mail}QUIT\r\n"),
        "\x16\x03\x01".to_owned(),
        format!("EHLO c.test\r\nAUTH PLAIN AHUAcA==\r\n{mail}DATA\r\n.\r\nQUIT\r\n"),
        format!("EHLO c.test\r\nAUTH LOGIN\r\ndQ==\r\ncQ==\r\nAUTH LOGIN dQ==\r\n*\r\n{mail}QUIT\r\n"),
        format!("EHLO c.test\r\nAUTH PLAIN\r\nAHUAcA==\r\nSTARTTLS\r\nEHLO c.test\r\n{mail}QUIT\r\n"),
        format!("EHLO c.test\r\nEXPN list\r\nVRFY postmaster\r\nETRN @b.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<list@mx.test>\r\n{mail}DATA\r\n.\r\nQUIT\r\n"),
        "EHLO c.test\r\nRCPT TO:<a@b.test>\r\nDATA\r\nMAIL FROM:<x>\r\nX\r\nY\r\nZ\r\nX\r\nY\r\n".to_owned(),
    ];
    let choices = [
        [0, 1, 0],
        [1, 0, 0],
        [1 | NOT_BEFORE, 7, 2],
        [SMALL, 1, 0],
        [1 | PENDING, 3, 5],
        [AUTH | STRANGER | SMALL, 1, 0],
    ];
    texts.iter().flat_map(|text| choices.map(|choice| seed(&choice, text))).collect()
}

/// Says whether the session keeps its promises, and whether the pieces do not matter.
pub fn check(octets: &[u8]) -> Verdict {
    let mut input = Input::new(octets);
    let (flags, way, answers) = (input.octet(), input.octet(), input.octet());
    let wire = expanded(input.rest());
    let split = run(flags, way, answers, &wire)?;
    judge(&split, flags, &wire)?;
    // Without the rules on what may come together, the pieces have no meaning.
    if flags & (LENIENT | DEAF) == LENIENT && way != 0 {
        let whole = run(flags, 0, answers, &wire)?;
        judge(&whole, flags, &wire)?;
        // What comes together with a DATA that is refused is refused by lenient listeners, too.
        if whole.closed != Some(CloseReason::EarlyInput) {
            compare(&whole, &split)?;
        }
    }
    Ok(())
}

/// The postmaster is one; the list has no room in a transaction where limits are small.
fn aliases() -> Arc<Aliases> {
    let mailbox = |text: &str| Mailbox::parse(text).ok();
    let alias = |address: &str, members: &[&str]| {
        let members = members.iter().filter_map(|member| mailbox(member)).collect();
        mailbox(address).map(|address| Alias::new(&address, members))
    };
    let entries = [
        alias("postmaster@mx.test", &["p@mx.test"]),
        alias("list@mx.test", &["p@mx.test", "q@b.test", "r@b.test"]),
    ];
    let own_domain = Domain::parse("mx.test");
    let entries = entries.into_iter().flatten().collect();
    Arc::new(own_domain.map_or_else(|_| Aliases::default(), |own| Aliases::new(&own, entries)))
}

fn config(flags: u8) -> ServerConfig {
    let mut config = ServerConfig {
        hostname: "mx.test".into(),
        lenient: flags & LENIENT != 0,
        aliases: aliases(),
        expn: true,
        vrfy: true,
        ..ServerConfig::default()
    };
    if flags & NOT_BEFORE != 0 {
        config.not_before_header = Some("X-Not-Before".into());
    }
    if flags & AUTH != 0 {
        let mechanisms = MechanismSet::from_iter(Mechanism::ALL);
        config.auth = AuthPolicy { mechanisms, without_tls: true, ..AuthPolicy::default() };
    }
    // What comes together with STARTTLS is refused by lenient listeners, too.
    if flags & (SMALL | LENIENT) == SMALL {
        config.tls = TlsPolicy::Optional;
    }
    if flags & SMALL != 0 {
        config.size_max = 100;
        config.recipients_max = 2;
        config.errors_max = 4;
        config.junk_commands_max = 5;
        config.transactions_max = 2;
        config.received_fields_max = 2;
    }
    config
}

/// Plays the client and the driver, until nothing is left but the passing of time.
fn run(flags: u8, way: u8, answers: u8, wire: &[u8]) -> Result<Trace, String> {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    let peer = Peer { ip, may_relay: flags & STRANGER == 0 };
    let size_max = config(flags).size_max;
    let mut driver = Driver {
        session: ServerSession::new(start, Arc::new(config(flags)), peer),
        now: start,
        trace: Trace::default(),
        content: Vec::new(),
        in_content: false,
        is_deaf: flags & DEAF != 0,
        is_user: false,
        answers,
    };
    driver.session.set_unix_ms(UNIX_MS);
    driver.session.set_may_flush(flags & STRANGER == 0);
    if flags & PENDING != 0 {
        driver.session.set_admission(Admission::Pending);
    }
    driver.flush();
    for piece in pieces(wire, way) {
        driver.hear(piece)?;
        let over = driver.content.len().saturating_sub(size_max as usize + piece.len());
        driver.trace.content_max = driver.trace.content_max.max(over);
        if driver.trace.closed.is_some() {
            break;
        }
    }
    driver.wait()?;
    Ok(driver.trace)
}

struct Driver {
    session: ServerSession,
    now: Instant,
    trace: Trace,
    content: Vec<u8>,
    in_content: bool,
    is_deaf: bool,
    /// Whether the client has shown to be one.
    is_user: bool,
    answers: u8,
}

impl Driver {
    fn hear(&mut self, mut piece: &[u8]) -> Verdict {
        loop {
            let taken = self.session.handle_input(self.now, piece, &mut self.content);
            must!(taken <= piece.len(), "{taken} octets taken of {}", piece.len());
            piece = &piece[taken..];
            let progress = self.events()? || taken > 0;
            self.flush();
            let is_stuck = !progress && !piece.is_empty() && self.trace.closed.is_none();
            must!(!is_stuck || self.is_deaf, "{} octets are never taken", piece.len());
            if piece.is_empty() || !progress || self.trace.closed.is_some() {
                return Ok(());
            }
        }
    }

    /// Polls all events, and says whether there were any.
    fn events(&mut self) -> Result<bool, String> {
        let mut any = false;
        while let Some(event) = self.session.poll_event() {
            any = true;
            must!(self.trace.closed.is_none(), "{event:?} after the end");
            match event {
                ServerEvent::DataStarted => {
                    must!(!self.in_content, "content within content");
                    must!(self.session.envelope().is_some(), "content without an envelope");
                    self.in_content = true;
                    self.content.clear();
                }
                ServerEvent::MessageReceived { size, eight_bit, .. } => {
                    must!(std::mem::take(&mut self.in_content), "a message without content");
                    must!(size == self.content.len() as u64, "size {size}");
                    must!(eight_bit != self.content.is_ascii(), "8-bit: {eight_bit}");
                    self.answer()?;
                }
                ServerEvent::TransactionAborted => {
                    must!(std::mem::take(&mut self.in_content), "nothing to abort");
                    self.content.clear();
                }
                ServerEvent::StartTls => {
                    let cipher = "TLS_AES_128_GCM_SHA256";
                    let info = TlsInfo { version: TlsVersion::V1_3, cipher, server_name: None };
                    self.session.handle_tls(self.now, info);
                    must!(self.session.helo().is_none(), "a name from before TLS");
                    must!(self.session.envelope().is_none(), "a transaction from before TLS");
                    must!(self.session.user().is_none(), "a user from before TLS");
                    self.is_user = false;
                }
                ServerEvent::Flush => {
                    let recipients = self.session.flush_node().map_or(0, |_| 2);
                    self.session.handle_flush(self.now, FlushOutcome::Done { recipients });
                }
                ServerEvent::ClientNamed { .. } => return Err("it may name no client".into()),
                ServerEvent::Authenticate => self.authenticate()?,
                ServerEvent::Closed(reason) => self.trace.closed = Some(reason),
            }
        }
        if self.session.awaits_admission() {
            any = true;
            let admission = [Admission::Open, Admission::Full, Admission::ShuttingDown];
            self.session.set_admission(admission[usize::from(self.answers) % 3]);
            self.session.resume(self.now);
            must!(!self.session.awaits_admission(), "MAIL goes on waiting");
            self.session.set_admission(Admission::Pending);
            any |= self.events()?;
        }
        Ok(any)
    }

    /// The user `u` has the password `p`.
    fn authenticate(&mut self) -> Verdict {
        must!(self.session.user().is_none(), "a user authenticates again");
        must!(self.session.envelope().is_none(), "AUTH within a transaction");
        let question = self.session.take_auth_question().ok_or("a question that is none")?;
        let (name, password) = match &question {
            AuthQuestion::Password { name, password, .. } => (name, password),
            // The fuzzer shows no certificate.
            AuthQuestion::External { .. } => return Err("EXTERNAL without a certificate".into()),
            // An exchange of three messages, of which the second is its end if it is `p`.
            AuthQuestion::Response { is_first, message, .. } => {
                if *is_first {
                    self.session.auth_challenge(self.now, message);
                } else if message == b"p" {
                    let user =
                        User { name: "u".into(), tenant: None, reverse_paths: ReversePaths::Any };
                    self.session.auth_accepted(self.now, Arc::new(user));
                    self.is_user = true;
                } else {
                    self.session.auth_refused(self.now, AuthRefusal::Malformed);
                }
                must!(self.session.user().is_some() == self.is_user, "who is a user?");
                return Ok(());
            }
        };
        must!(!name.is_empty() && !password.expose().is_empty(), "an empty name or password");
        if (&**name, password.expose()) == ("u", b"p") {
            let user = User { name: "u".into(), tenant: None, reverse_paths: ReversePaths::Any };
            self.session.auth_accepted(self.now, Arc::new(user));
            self.is_user = true;
        } else {
            self.session.auth_refused(self.now, AuthRefusal::Credentials);
        }
        must!(self.session.user().is_some() == self.is_user, "who is a user?");
        Ok(())
    }

    fn answer(&mut self) -> Verdict {
        must!(self.session.user().is_some() == self.is_user, "who is a user?");
        let hold_until = self.session.hold_until(UNIX_MS);
        let envelope = self.session.take_envelope().ok_or("a message without an envelope")?;
        must!(!envelope.forward_paths.is_empty(), "a message without a recipient");
        if self.answers & (1 << (self.trace.accepted.len() % 8)) != 0 && self.trace.refused < 3 {
            self.trace.refused += 1;
            self.session.message_refused(self.now, Refusal::Full);
        } else {
            let content = std::mem::take(&mut self.content);
            let is_user = self.is_user;
            self.trace.accepted.push(Accepted { envelope, content, hold_until, is_user });
            let id = format!("q{}", self.trace.accepted.len());
            self.session.message_accepted(self.now, &id);
        }
        Ok(())
    }

    fn flush(&mut self) {
        let output = self.session.transmit();
        self.trace.output_max = self.trace.output_max.max(output.len());
        if !self.is_deaf {
            self.trace.said.extend_from_slice(output);
            let len = output.len();
            self.session.transmitted(len);
        }
    }

    /// Lets time pass until the session is over.
    fn wait(&mut self) -> Verdict {
        for _ in 0..10 {
            let Some(deadline) = self.session.poll_timeout() else { break };
            self.now = self.now.max(deadline);
            self.session.handle_timeout(self.now);
            self.events()?;
            self.flush();
        }
        must!(self.trace.closed.is_some(), "the session never ends");
        must!(!self.in_content, "content without an end");
        Ok(())
    }
}

fn judge(trace: &Trace, flags: u8, wire: &[u8]) -> Verdict {
    must!(trace.output_max < REPLY_OUTPUT_MAX + 1024, "{} octets wait", trace.output_max);
    must!(trace.content_max == 0, "{} octets of content too many", trace.content_max);
    if flags & DEAF == 0 {
        let replies = replies(&trace.said)?;
        must!(replies.first().is_some_and(|code| [220, 421, 554].contains(code)), "no greeting");
    }
    let queued = trace.said.windows(14).filter(|text| text == b"Ok: queued as ").count();
    must!(queued == trace.accepted.len() || flags & DEAF != 0, "{queued} messages are ours");
    for accepted in &trace.accepted {
        check_message(accepted, flags, wire)?;
    }
    Ok(())
}

/// What was taken for a message stands in what was sent.
fn check_message(accepted: &Accepted, flags: u8, wire: &[u8]) -> Verdict {
    let Accepted { envelope, content, hold_until, is_user } = accepted;
    must!(content.is_empty() || content.ends_with(b"\r\n"), "the last line is open");
    let stands = |text: &[u8]| text.is_empty() || wire.windows(text.len()).any(|part| part == text);
    // What comes in chunks is looked at by the target of these.
    let is_chunked = wire.to_ascii_uppercase().windows(4).any(|part| part == b"BDAT");
    if flags & NOT_BEFORE == 0 && !is_chunked {
        let mut lines = content.split_inclusive(|&b| b == b'\n').flat_map(|line| {
            let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
            [dot, line]
        });
        let stuffed: Vec<u8> = lines.by_ref().flatten().chain(b".\r\n").copied().collect();
        // A line that needs no dot may have come with one.
        must!(stands(&stuffed) || has_needless_dots(wire), "{content:?} was never sent");
    }
    must!(hold_until.is_none_or(|until| until > UNIX_MS), "held until {hold_until:?}");
    for path in &envelope.forward_paths {
        let is_postmaster = path.bare().to_string() == "p@mx.test";
        let may_relay = flags & STRANGER == 0 || *is_user;
        must!(may_relay || is_postmaster, "relayed for a stranger: {path}");
        let Some(mailbox) = path.mailbox() else {
            return Err("a postmaster without a host".into());
        };
        let is_ours = is_postmaster || ["q@b.test", "r@b.test"].contains(&&*mailbox.to_string());
        must!(is_ours || stands(mailbox.local_part().as_bytes()), "{path} was never named");
    }
    let mut paths: Vec<String> = envelope.forward_paths.iter().map(ToString::to_string).collect();
    paths.sort();
    paths.dedup();
    must!(paths.len() == envelope.forward_paths.len(), "a recipient is there twice");
    Ok(())
}

fn has_needless_dots(wire: &[u8]) -> bool {
    let mut lines = wire.split(|&b| b == b'\n');
    lines.any(|line| line.len() > 2 && line[0] == b'.' && !matches!(line[1], b'.' | b'\r'))
}

fn compare(whole: &Trace, split: &Trace) -> Verdict {
    must!(
        whole.closed == split.closed,
        "ends by {:?}, in pieces by {:?}",
        whole.closed,
        split.closed
    );
    must!(whole.accepted == split.accepted, "in pieces, other messages are taken");
    must!(whole.said == split.said, "in pieces, the replies are others");
    Ok(())
}

/// The codes of replies that have to be complete and well formed.
fn replies(said: &[u8]) -> Result<Vec<u16>, String> {
    let text = std::str::from_utf8(said).map_err(|_| "a reply is no text")?;
    let (mut codes, mut open) = (Vec::new(), None);
    must!(text.is_empty() || text.ends_with("\r\n"), "the last reply is open");
    for line in text.split_terminator("\r\n") {
        must!(is_plain(line) && line.len() <= 510, "{line:?} is no line of a reply");
        let (code, rest) = line.split_at_checked(3).ok_or("a reply without a code")?;
        let code: u16 = code.parse().map_err(|_| format!("{line:?} has no code"))?;
        must!((200..=599).contains(&code), "{line:?} has an impossible code");
        must!(open.is_none_or(|open| open == code), "{line:?} continues another reply");
        match rest.as_bytes().first() {
            Some(b'-') => open = Some(code),
            Some(b' ') => {
                codes.push(code);
                open = None;
            }
            _ => return Err(format!("{line:?} has nothing behind its code")),
        }
    }
    must!(open.is_none(), "the last reply goes on");
    Ok(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_traces_are_found() {
        let wire = b"EHLO c.test\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\nx\r\n..\r\n.\r\nQUIT\r\n";
        let good = run(LENIENT, 1, 0, wire).unwrap();
        assert_eq!(judge(&good, LENIENT, wire), Ok(()));
        assert_eq!((good.accepted.len(), good.closed), (1, Some(CloseReason::Quit)));
        let wrong = |change: fn(&mut Trace)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert_ne!(bad, good);
            (judge(&bad, LENIENT, wire).is_err(), compare(&good, &bad).is_err())
        };
        assert_eq!(wrong(|bad| drop(bad.accepted.pop())), (true, true));
        assert_eq!(wrong(|bad| bad.said.truncate(9)), (true, true));
        assert_eq!(wrong(|bad| bad.said.drain(..20).for_each(drop)), (true, true));
        assert_eq!(wrong(|bad| bad.said.extend_from_slice(b"250-more\r\n")), (true, true));
        assert_eq!(wrong(|bad| bad.said.extend_from_slice(b"250 more\r\n")), (false, true));
        assert_eq!(wrong(|bad| bad.accepted[0].content = b"y\r\n".to_vec()), (true, true));
        assert_eq!(wrong(|bad| bad.accepted[0].content = b"x\r\n.\r\nQUIT".to_vec()), (true, true));
        assert_eq!(wrong(|bad| bad.accepted[0].envelope.forward_paths.clear()), (false, true));
        assert_eq!(wrong(|bad| bad.output_max = 1 << 20), (true, false));
        assert_eq!(wrong(|bad| bad.content_max = 1), (true, false));
        assert_eq!(wrong(|bad| bad.closed = Some(CloseReason::BadLine)), (false, true));
        assert!(judge(&good, LENIENT | STRANGER, wire).is_err(), "an open relay");
        assert!(judge(&good, LENIENT, b"QUIT\r\n").is_err(), "a message out of nothing");
    }
}
