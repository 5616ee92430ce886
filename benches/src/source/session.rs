//! One session of the source: takes messages until there are none left.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringpost::runtime::Runtime;

use super::connection::{Connection, ConnectionError};
use super::{CoreResult, Shared, lock};
use crate::account::RecipientSet;

/// Pause before a further attempt, times the attempts made, up to ten times.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A session and the buffers it keeps from message to message.
pub(super) struct Session<R: Runtime> {
    runtime: R,
    shared: Arc<Shared>,
    result: Arc<Mutex<CoreResult>>,
    to: SocketAddr,
    connection: Option<Connection<R>>,
    has_pipelining: bool,
    has_size: bool,
    commands: Vec<u8>,
    message: Vec<u8>,
}

/// A message that was taken.
struct Acceptance {
    recipients: RecipientSet,
    recipients_refused: u64,
    /// From the end of the write of the final dot to its reply.
    reply: Duration,
}

/// Why a message was not taken, by what is to be done.
enum Failure {
    /// Not taken, and another attempt is harmless and may help.
    Passing(String),
    /// Refused for good.
    Final(String),
    /// Perhaps taken: the final dot was sent and not answered.
    Unknown(String),
}

impl Failure {
    /// A failure before the final dot was sent.
    fn before_dot(error: &ConnectionError) -> Self {
        Self::Passing(error.to_string())
    }

    /// A negative reply.
    fn reply(step: &str, code: u16, text: &str) -> Self {
        let text = format!("{step}: {text}");
        if code >= 500 { Self::Final(text) } else { Self::Passing(text) }
    }
}

impl<R: Runtime> Session<R> {
    pub(super) fn new(
        runtime: R,
        shared: Arc<Shared>,
        result: Arc<Mutex<CoreResult>>,
        to: SocketAddr,
    ) -> Self {
        Self {
            runtime,
            shared,
            result,
            to,
            connection: None,
            has_pipelining: false,
            has_size: false,
            commands: Vec::new(),
            message: Vec::new(),
        }
    }

    /// Sends until all messages are taken or the source is stopped.
    pub(super) async fn run(mut self) {
        while let Some((sequence, due)) = self.shared.next() {
            let mut begun = self.runtime.now();
            if let Some(due) = due {
                if due > begun {
                    self.runtime.sleep(due - begun).await;
                }
                // Counted from when it was due, so that a stall of the server is not hidden by
                // the messages that were not sent meanwhile.
                begun = due;
            }
            self.send(sequence, begun).await;
        }
        self.quit().await;
    }

    /// Sends one message, in as many attempts as it takes, and counts what came of it.
    async fn send(&mut self, sequence: u32, begun: Instant) {
        self.message.clear();
        self.shared.template.write(sequence, &mut self.message);
        let attempts = self.shared.options.attempts;
        for attempt in 1..=attempts {
            match self.attempt(sequence).await {
                Ok(acceptance) => {
                    self.count_acceptance(sequence, begun, &acceptance);
                    if !self.shared.options.keep {
                        self.quit().await;
                    }
                    return;
                }
                Err(failure) => {
                    // Whatever state the connection is in, a new one is in a known state.
                    self.connection = None;
                    let mut result = lock(&self.result);
                    match failure {
                        Failure::Passing(text) if attempt < attempts => {
                            result.counts.retried += 1;
                            result.describe(text);
                        }
                        Failure::Passing(text) => {
                            result.counts.given_up += 1;
                            result.describe(text);
                        }
                        Failure::Final(text) => {
                            result.counts.refused += 1;
                            result.describe(text);
                            return;
                        }
                        Failure::Unknown(text) => {
                            result.counts.unknown += 1;
                            result.describe(text);
                            return;
                        }
                    }
                }
            }
            if attempt < attempts {
                self.runtime.sleep(RETRY_PAUSE * attempt.min(10)).await;
            }
        }
    }

    fn count_acceptance(&self, sequence: u32, begun: Instant, acceptance: &Acceptance) {
        let id = self.shared.template.id(sequence);
        let transaction = self.runtime.now().saturating_duration_since(begun);
        let mut failure = None;
        if let Some(mut acked) = self.shared.acked.as_ref()
            && let Err(error) = acked.write_all(format!("{id}\n").as_bytes())
        {
            failure = Some(format!("cannot write the file of acknowledged messages: {error}"));
        }
        let mut result = lock(&self.result);
        result.counts.accepted += 1;
        result.counts.recipients_refused += acceptance.recipients_refused;
        result.latencies.record(acceptance.reply, transaction);
        result.ledger.insert(id, acceptance.recipients);
        if let Some(failure) = failure {
            result.describe(failure);
        }
        drop(result);
        self.shared.accepted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    async fn attempt(&mut self, sequence: u32) -> Result<Acceptance, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let acceptance = self.transact(&mut connection, sequence).await?;
        self.connection = Some(connection);
        Ok(acceptance)
    }

    /// Connects, and gets past EHLO.
    async fn open(&mut self) -> Result<Connection<R>, Failure> {
        let options = &self.shared.options;
        let failed = |error: ConnectionError| Failure::before_dot(&error);
        let mut connection =
            Connection::open(&self.runtime, self.to, options.timeout).await.map_err(failed)?;
        let code = connection.reply().await.map_err(failed)?;
        if code != 220 {
            return Err(Failure::reply("greeting", code, &connection.last_reply()));
        }
        self.commands.clear();
        // Writing to a vector does not fail.
        let _ = write!(self.commands, "EHLO {}\r\n", options.helo_name);
        let code = connection.ask(&self.commands).await.map_err(failed)?;
        if code != 250 {
            return Err(Failure::reply("EHLO", code, &connection.last_reply()));
        }
        self.has_pipelining = options.pipeline && connection.offers("PIPELINING");
        self.has_size = connection.offers("SIZE");
        lock(&self.result).counts.connections += 1;
        Ok(connection)
    }

    async fn transact(
        &mut self,
        connection: &mut Connection<R>,
        sequence: u32,
    ) -> Result<Acceptance, Failure> {
        let failed = |error: ConnectionError| Failure::before_dot(&error);
        self.write_envelope(sequence);
        let mut recipients: RecipientSet = 0;
        let mut recipients_refused = 0;
        let mut refusal = None;
        let last = self.shared.options.recipients + 1;
        if self.has_pipelining {
            connection.write(&self.commands).await.map_err(failed)?;
        }
        let mut lines = self.commands.split_inclusive(|octet| *octet == b'\n');
        for number in 0..=last {
            let command = lines.next().unwrap_or_default();
            if !self.has_pipelining {
                if number == last && recipients == 0 {
                    break;
                }
                connection.write(command).await.map_err(failed)?;
            }
            let code = connection.reply().await.map_err(failed)?;
            match (number, code) {
                (0, 250) => {}
                (0, _) => return Err(Failure::reply("MAIL", code, &connection.last_reply())),
                (_, 354) if number == last => {}
                (_, _) if number == last => {
                    // With no recipient, the refusal of the recipients is the reason.
                    let own = Failure::reply("DATA", code, &connection.last_reply());
                    return Err(refusal.unwrap_or(own));
                }
                (_, 250 | 251) => recipients |= 1 << (number - 1),
                (_, _) => {
                    recipients_refused += 1;
                    let failure = Failure::reply("RCPT", code, &connection.last_reply());
                    // One that may pass makes another attempt worth while.
                    if refusal.is_none() || matches!(failure, Failure::Passing(_)) {
                        refusal = Some(failure);
                    }
                }
            }
        }
        if recipients == 0 {
            return Err(refusal.unwrap_or_else(|| Failure::Passing("no recipient".to_owned())));
        }
        let unknown = |error: ConnectionError| Failure::Unknown(format!("final dot: {error}"));
        connection.write(&self.message).await.map_err(unknown)?;
        let sent = self.runtime.now();
        let code = connection.reply().await.map_err(unknown)?;
        let reply = self.runtime.now().saturating_duration_since(sent);
        if code != 250 {
            return Err(Failure::reply("final dot", code, &connection.last_reply()));
        }
        Ok(Acceptance { recipients, recipients_refused, reply })
    }

    /// Puts MAIL, all RCPT and DATA into `commands`, a line each.
    fn write_envelope(&mut self, sequence: u32) {
        let options = &self.shared.options;
        let out = &mut self.commands;
        out.clear();
        // Writing to a vector does not fail.
        let _ = write!(out, "MAIL FROM:<{}>", options.reverse_path);
        let _ = if self.has_size {
            write!(out, " SIZE={}\r\n", self.message.len())
        } else {
            write!(out, "\r\n")
        };
        for number in 0..options.recipients {
            let turn = sequence as usize * options.recipients + number;
            let domain = &options.domains[turn % options.domains.len()];
            let _ = write!(out, "RCPT TO:<load-{number}@{domain}>\r\n");
        }
        out.extend_from_slice(b"DATA\r\n");
    }

    /// Ends the session politely; a server that does not answer is left.
    async fn quit(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            let _ = connection.ask(b"QUIT\r\n").await;
        }
    }
}
