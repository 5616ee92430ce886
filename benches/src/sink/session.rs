//! The receiving side of an SMTP session, for a sink: no clock, no socket.
//!
//! Kept lean and apart from the server's own session on purpose: a mistake shared by both ends
//! would hide itself.

use memchr::{memchr, memmem::Finder};

use crate::account::{RECIPIENTS_MAX, RecipientSet};
use crate::message::next_random;

/// The longest command line, with its end. RFC 5321 §4.5.3.1.4 asks for 512.
const COMMAND_LENGTH_MAX: usize = 4096;

/// How a sink misbehaves, and what it takes.
#[derive(Debug, Clone)]
pub(crate) struct Behaviour {
    /// Recipients refused with a 450, of a thousand.
    pub(crate) rcpt_4xx_permille: u32,
    /// Recipients refused with a 550, of a thousand.
    pub(crate) rcpt_5xx_permille: u32,
    /// Messages after whose final dot the connection is closed without a reply, of a thousand.
    pub(crate) close_after_dot_permille: u32,
    /// Messages a connection may bring before the next MAIL gets a 421.
    pub(crate) messages_per_connection: Option<u32>,
    /// Octets of content, as received, above which the connection is closed with a 552.
    pub(crate) size_max: usize,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            rcpt_4xx_permille: 0,
            rcpt_5xx_permille: 0,
            close_after_dot_permille: 0,
            messages_per_connection: None,
            size_max: 128 << 20,
        }
    }
}

/// What [`SinkSession::handle_input`] stopped for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All complete input is consumed; more is needed.
    NeedsInput,
    /// Content is complete: this part of the input, without the final dot line. To be answered
    /// by [`SinkSession::accept_message`] or by closing.
    Message {
        /// Where the content starts in the input.
        start: usize,
        /// Where it ends.
        end: usize,
        /// The recipients that were accepted.
        recipients: RecipientSet,
        /// Whether to close instead of answering.
        closes: bool,
    },
    /// Send what there is to send, then close.
    Close,
}

/// What a session counted; added up by the driver.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusals {
    /// Recipients answered with a 450.
    pub(crate) recipients_4xx: u64,
    /// Recipients answered with a 550.
    pub(crate) recipients_5xx: u64,
    /// Commands out of order, unknown, or malformed.
    pub(crate) errors: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Waits for EHLO or HELO.
    ExpectHello,
    /// Waits for MAIL.
    ExpectMail,
    /// Between MAIL and DATA.
    ExpectRecipient,
    /// Between DATA and the final dot.
    ExpectContent,
    /// The content is complete and not yet answered.
    AwaitingVerdict,
}

/// One session of the sink.
///
/// * getters: [`refusals`](Self::refusals)
/// * input: [`handle_input`](Self::handle_input)
/// * commands: [`accept_message`](Self::accept_message)
/// * output goes to the vector that each call is given
#[derive(Debug)]
pub(crate) struct SinkSession {
    state: State,
    recipients: RecipientSet,
    /// Octets of unfinished content that hold no final dot.
    scanned: usize,
    messages: u32,
    random: u64,
    refusals: Refusals,
    end_of_content: Finder<'static>,
}

impl SinkSession {
    /// Starts a session, putting its greeting into `out`. `seed` decides who is refused.
    pub(crate) fn new(seed: u64, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(b"220 sink.ringpost-load.invalid ESMTP\r\n");
        Self {
            state: State::ExpectHello,
            recipients: 0,
            scanned: 0,
            messages: 0,
            random: seed,
            refusals: Refusals::default(),
            end_of_content: Finder::new(b"\r\n.\r\n"),
        }
    }

    /// What was refused since the start of the session.
    pub(crate) fn refusals(&self) -> Refusals {
        self.refusals
    }

    /// Handles all complete commands in `input`, or one message; how much it consumed, and why
    /// it stopped. Unfinished content is not consumed: the next call must start with it.
    pub(crate) fn handle_input(
        &mut self,
        behaviour: &Behaviour,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> (usize, Step) {
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            if self.state == State::ExpectContent {
                let Some(length) = self.find_end(rest) else {
                    if rest.len() > behaviour.size_max {
                        out.extend_from_slice(b"552 5.3.4 Content is too long\r\n");
                        return (consumed, Step::Close);
                    }
                    return (consumed, Step::NeedsInput);
                };
                self.state = State::AwaitingVerdict;
                self.messages += 1;
                let step = Step::Message {
                    start: consumed,
                    end: consumed + length,
                    recipients: self.recipients,
                    closes: self.draw(behaviour.close_after_dot_permille),
                };
                return (consumed + length + b".\r\n".len(), step);
            }
            let Some(length) = memchr(b'\n', rest) else {
                if rest.len() > COMMAND_LENGTH_MAX {
                    return (consumed, self.fail(out, b"500 5.5.2 Line is too long\r\n"));
                }
                return (consumed, Step::NeedsInput);
            };
            consumed += length + 1;
            let Some(line) = rest[..length].strip_suffix(b"\r") else {
                return (consumed, self.fail(out, b"500 5.5.2 Bare line feed\r\n"));
            };
            if let Some(step) = self.handle_command(behaviour, line, out) {
                return (consumed, step);
            }
        }
    }

    /// Answers the message that [`Step::Message`] announced with a 250.
    pub(crate) fn accept_message(&mut self, out: &mut Vec<u8>) {
        self.state = State::ExpectMail;
        out.extend_from_slice(b"250 2.0.0 Ok\r\n");
    }

    /// Length of the content at the front of `rest`, once its final dot line is there.
    fn find_end(&mut self, rest: &[u8]) -> Option<usize> {
        if self.scanned == 0 && rest.starts_with(b".\r\n") {
            return Some(0);
        }
        // The terminator may have begun in what was scanned before.
        let from = self.scanned.saturating_sub(4);
        let found = self.end_of_content.find(&rest[from..]).map(|at| from + at + 2);
        self.scanned = if found.is_some() { 0 } else { rest.len() };
        if found.is_none() && rest.len() < 3 {
            // The first line may still turn out to be the final dot.
            self.scanned = 0;
        }
        found
    }

    fn handle_command(
        &mut self,
        behaviour: &Behaviour,
        line: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        let verb_length = memchr(b' ', line).unwrap_or(line.len());
        let (verb, argument) = line.split_at(verb_length);
        let mut upper = [0_u8; 4];
        if verb.len() == 4 {
            upper.copy_from_slice(verb);
            upper.make_ascii_uppercase();
        }
        match &upper {
            b"EHLO" => {
                self.state = State::ExpectMail;
                out.extend_from_slice(
                    b"250-sink.ringpost-load.invalid\r\n250-PIPELINING\r\n250-SIZE 0\r\n\
                      250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n",
                );
            }
            b"HELO" => {
                self.state = State::ExpectMail;
                out.extend_from_slice(b"250 sink.ringpost-load.invalid\r\n");
            }
            b"MAIL" => return self.handle_mail(behaviour, argument, out),
            b"RCPT" => self.handle_rcpt(behaviour, argument, out),
            b"DATA" if argument.is_empty() => match self.state {
                State::ExpectRecipient if self.recipients != 0 => {
                    self.state = State::ExpectContent;
                    self.scanned = 0;
                    out.extend_from_slice(b"354 End with <CRLF>.<CRLF>\r\n");
                }
                State::ExpectRecipient => {
                    self.refuse(out, b"554 5.5.1 No valid recipients\r\n");
                }
                _ => self.refuse(out, b"503 5.5.1 No transaction\r\n"),
            },
            b"RSET" => {
                if self.state != State::ExpectHello {
                    self.state = State::ExpectMail;
                }
                out.extend_from_slice(b"250 2.0.0 Ok\r\n");
            }
            b"NOOP" => out.extend_from_slice(b"250 2.0.0 Ok\r\n"),
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 Bye\r\n");
                return Some(Step::Close);
            }
            _ => self.refuse(out, b"500 5.5.2 Command not recognized\r\n"),
        }
        None
    }

    fn handle_mail(
        &mut self,
        behaviour: &Behaviour,
        argument: &[u8],
        out: &mut Vec<u8>,
    ) -> Option<Step> {
        if self.state != State::ExpectMail {
            self.refuse(out, b"503 5.5.1 Not now\r\n");
        } else if path(argument, b" FROM:<").is_none() {
            self.refuse(out, b"501 5.5.4 Syntax: MAIL FROM:<address>\r\n");
        } else if behaviour.messages_per_connection.is_some_and(|most| self.messages >= most) {
            out.extend_from_slice(b"421 4.7.0 Enough messages on this connection\r\n");
            return Some(Step::Close);
        } else {
            self.state = State::ExpectRecipient;
            self.recipients = 0;
            out.extend_from_slice(b"250 2.1.0 Ok\r\n");
        }
        None
    }

    fn handle_rcpt(&mut self, behaviour: &Behaviour, argument: &[u8], out: &mut Vec<u8>) {
        if self.state != State::ExpectRecipient {
            return self.refuse(out, b"503 5.5.1 No transaction\r\n");
        }
        let Some(path) = path(argument, b" TO:<") else {
            return self.refuse(out, b"501 5.5.4 Syntax: RCPT TO:<address>\r\n");
        };
        if self.draw(behaviour.rcpt_4xx_permille) {
            self.refusals.recipients_4xx += 1;
            out.extend_from_slice(b"450 4.2.1 Try again later\r\n");
        } else if self.draw(behaviour.rcpt_5xx_permille) {
            self.refusals.recipients_5xx += 1;
            out.extend_from_slice(b"550 5.1.1 No such mailbox\r\n");
        } else {
            self.recipients |= 1 << recipient_number(path);
            out.extend_from_slice(b"250 2.1.5 Ok\r\n");
        }
    }

    fn refuse(&mut self, out: &mut Vec<u8>, reply: &[u8]) {
        self.refusals.errors += 1;
        out.extend_from_slice(reply);
    }

    fn fail(&mut self, out: &mut Vec<u8>, reply: &[u8]) -> Step {
        self.refuse(out, reply);
        Step::Close
    }

    fn draw(&mut self, permille: u32) -> bool {
        permille != 0 && next_random(&mut self.random) % 1000 < u64::from(permille)
    }
}

/// What stands between `start` (in any case) and the closing bracket.
fn path<'a>(argument: &'a [u8], start: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = argument.split_at_checked(start.len())?;
    if !head.eq_ignore_ascii_case(start) {
        return None;
    }
    memchr(b'>', rest).map(|end| &rest[..end])
}

/// The number in `load-<number>@…`; 0 for the recipients of others.
fn recipient_number(path: &[u8]) -> u32 {
    let digits = path.strip_prefix(b"load-").and_then(|rest| Some(&rest[..memchr(b'@', rest)?]));
    digits
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .filter(|number| (*number as usize) < RECIPIENTS_MAX)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
