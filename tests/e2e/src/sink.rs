//! A scriptable SMTP receiver that records what it took.
//!
//! One thread per connection. A message is recorded, with the verdict about its content, *before*
//! its reply is written, so nothing can be acknowledged and forgotten. The sink also keeps watch
//! over the wire: bare CR or LF, a line that was not dot-stuffed, or anything sent behind the
//! final dot before its reply is noted in [`Sink::violations`].

use std::collections::HashSet;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::message::{self, Mark};
use crate::ports;

/// More than these say nothing new.
const VIOLATIONS_MAX: usize = 10;

/// A point in the dialogue at which the script may answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// The connection was made; the answer is the greeting.
    Greeting,
    /// EHLO, HELO or LHLO with its argument.
    Ehlo(&'a str),
    /// MAIL with all that follows the verb.
    Mail(&'a str),
    /// RCPT with all that follows the verb.
    Rcpt(&'a str),
    /// DATA.
    Data,
    /// The final dot has come. The message is recorded already.
    Content(&'a Delivery),
    /// RSET.
    Rset,
    /// QUIT.
    Quit,
}

/// What the sink does at a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The usual positive reply.
    Accept,
    /// This reply instead, one or several lines without the last CRLF.
    Reply(String),
    /// This reply, and the end of the connection.
    ReplyAndClose(String),
    /// The end of the connection, without a word.
    Close,
    /// The usual positive reply, after a while.
    Delay(Duration),
}

impl Answer {
    /// Shorthand for [`Answer::Reply`].
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.to_owned())
    }
}

/// Decides the answers of a sink.
pub type Script = dyn Fn(&Step<'_>) -> Answer + Send + Sync;

/// One message whose final dot has come.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// What its marker says.
    pub mark: Mark,
    /// The argument of MAIL, with its parameters.
    pub reverse_path: String,
    /// The accepted arguments of RCPT.
    pub forward_paths: Vec<String>,
    /// When the final dot had been read.
    pub dot_at: Instant,
    /// The number of the connection, from 0.
    pub connection: u64,
    /// Whether the sink answered, or meant to answer, with a positive reply.
    pub accepted: bool,
    /// The content, dots removed; only where [`SinkOptions::keep_content`] says so.
    pub content: Vec<u8>,
}

/// How a sink behaves beside its script.
#[derive(Debug, Clone)]
pub struct SinkOptions {
    /// The EHLO keywords.
    pub keywords: Vec<String>,
    /// Whether contents are kept.
    pub keep_content: bool,
}

impl Default for SinkOptions {
    fn default() -> Self {
        Self {
            keywords: ["PIPELINING", "SIZE 52428800", "8BITMIME", "ENHANCEDSTATUSCODES"]
                .map(str::to_owned)
                .to_vec(),
            keep_content: false,
        }
    }
}

/// A running receiver. Dropping it closes its listener and all its connections.
pub struct Sink {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Shared {
    options: SinkOptions,
    script: RwLock<Arc<Script>>,
    record: Mutex<Record>,
    stopping: AtomicBool,
    connections: AtomicU64,
    transactions: AtomicU64,
}

#[derive(Default)]
struct Record {
    deliveries: Vec<Delivery>,
    violations: Vec<String>,
    open: Vec<(u64, TcpStream)>,
    open_most: usize,
}

impl Sink {
    /// Starts a sink that accepts everything, on a free loopback port.
    ///
    /// # Errors
    ///
    /// Fails when it cannot listen.
    pub fn start() -> Result<Self> {
        Self::with(ports::reserve()?, SinkOptions::default(), |_| Answer::Accept)
    }

    /// Starts a scripted sink on a free loopback port.
    ///
    /// # Errors
    ///
    /// Fails when it cannot listen.
    pub fn scripted(script: impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static) -> Result<Self> {
        Self::with(ports::reserve()?, SinkOptions::default(), script)
    }

    /// Starts a sink that puts all mail off, until [`Sink::accept_all`].
    ///
    /// # Errors
    ///
    /// Fails when it cannot listen.
    pub fn deferring() -> Result<Self> {
        Self::scripted(|step| match step {
            Step::Mail(_) => Answer::reply("451 4.3.0 not yet"),
            _ => Answer::Accept,
        })
    }

    /// Starts a sink that greets nobody until the gate is set, and accepts everything then.
    ///
    /// # Errors
    ///
    /// Fails when it cannot listen.
    pub fn gated() -> Result<(Self, Arc<AtomicBool>)> {
        let is_open = Arc::new(AtomicBool::new(false));
        let gate = Arc::clone(&is_open);
        let sink = Self::scripted(move |step| {
            while matches!(step, Step::Greeting) && !gate.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            Answer::Accept
        })?;
        Ok((sink, is_open))
    }

    /// Starts a sink.
    ///
    /// # Errors
    ///
    /// Fails when it cannot listen on `address`.
    pub fn with(
        address: SocketAddr,
        options: SinkOptions,
        script: impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = ports::listen(address).context("no sink")?;
        let shared = Arc::new(Shared {
            options,
            script: RwLock::new(Arc::new(script)),
            record: Mutex::default(),
            stopping: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the script, for the steps from now on.
    pub fn set_script(&self, script: impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static) {
        *self.shared.script.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Accepts everything from now on.
    pub fn accept_all(&self) {
        self.set_script(|_| Answer::Accept);
    }

    /// All messages so far, refused ones included, in the order of their final dots.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.shared.record().deliveries.clone()
    }

    /// The messages that were answered with a positive reply.
    pub fn accepted(&self) -> Vec<Delivery> {
        self.shared.record().deliveries.iter().filter(|one| one.accepted).cloned().collect()
    }

    /// The ids of the messages that were answered so, behind the first `from` ones of all.
    pub fn accepted_ids(&self, from: usize) -> HashSet<String> {
        let record = self.shared.record();
        let taken = record.deliveries.iter().skip(from).filter(|one| one.accepted);
        taken.filter_map(|one| one.mark.id().map(str::to_owned)).collect()
    }

    /// Number of messages so far, refused ones included.
    pub fn deliveries_count(&self) -> usize {
        self.shared.record().deliveries.len()
    }

    /// Number of messages answered with a positive reply.
    pub fn accepted_count(&self) -> usize {
        self.shared.record().deliveries.iter().filter(|one| one.accepted).count()
    }

    /// Number of connections so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Number of connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.record().open.len()
    }

    /// Number of connections that were open at once.
    pub fn open_connections_most(&self) -> usize {
        self.shared.record().open_most
    }

    /// Number of MAIL commands so far.
    pub fn transactions(&self) -> u64 {
        self.shared.transactions.load(Ordering::Relaxed)
    }

    /// What was wrong on the wire so far, at most ten of it. Empty for a correct client.
    pub fn violations(&self) -> Vec<String> {
        self.shared.record().violations.clone()
    }
}

impl Record {
    fn opened(&mut self, number: u64, stream: TcpStream) {
        self.open.push((number, stream));
        self.open_most = self.open_most.max(self.open.len());
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect_timeout(&self.address, Duration::from_secs(5)));
        for (_, stream) in &self.shared.record().open {
            drop(stream.shutdown(Shutdown::Both));
        }
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, step: &Step<'_>) -> Answer {
        let script = Arc::clone(&self.script.read().unwrap_or_else(PoisonError::into_inner));
        script(step)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        let Ok(registered) = stream.try_clone() else { continue };
        shared.record().opened(number, registered);
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // An error is the end of the connection, from whichever side.
            drop(Connection::new(&shared, number, stream).map(|mut connection| connection.serve()));
            shared.record().open.retain(|(open, _)| *open != number);
        });
    }
}

struct Connection<'a> {
    shared: &'a Shared,
    number: u64,
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    replies: Vec<u8>,
    reverse_path: Option<String>,
    forward_paths: Vec<String>,
}

impl<'a> Connection<'a> {
    fn new(shared: &'a Shared, number: u64, stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        let writer = stream.try_clone()?;
        Ok(Self {
            shared,
            number,
            reader: BufReader::with_capacity(64 * 1024, stream),
            writer,
            replies: Vec::new(),
            reverse_path: None,
            forward_paths: Vec::new(),
        })
    }

    fn serve(&mut self) -> Result<()> {
        if self.respond(&Step::Greeting, "220 sink.test ESMTP")?.is_none() {
            return Ok(());
        }
        let mut line = Vec::new();
        loop {
            if self.reader.buffer().is_empty() {
                self.flush()?;
            }
            line.clear();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let Some(command) = self.command_text(&line) else { continue };
            if !self.command(&command)? {
                return Ok(());
            }
        }
    }

    /// The line without its end. Wrong ends are noted.
    fn command_text(&mut self, line: &[u8]) -> Option<String> {
        let body = line.strip_suffix(b"\r\n").unwrap_or_else(|| {
            self.violation("a command without CRLF");
            line
        });
        if body.contains(&b'\r') {
            self.violation("a bare CR in a command");
        }
        let text = String::from_utf8(body.to_vec()).ok();
        if text.is_none() {
            self.violation("a command that is not UTF-8");
        }
        text
    }

    /// Answers one command. `false` ends the connection.
    fn command(&mut self, line: &str) -> Result<bool> {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let going_on = match verb.to_ascii_uppercase().as_str() {
            "EHLO" | "LHLO" => {
                let mut reply = String::from("250-sink.test");
                for keyword in &self.shared.options.keywords {
                    reply.push_str("\r\n250-");
                    reply.push_str(keyword);
                }
                if let Some(at) = reply.rfind("250-") {
                    reply.replace_range(at + 3..=at + 3, " ");
                }
                self.respond(&Step::Ehlo(argument), &reply)?
            }
            "HELO" => self.respond(&Step::Ehlo(argument), "250 sink.test")?,
            "MAIL" => {
                self.shared.transactions.fetch_add(1, Ordering::Relaxed);
                let given = self.respond(&Step::Mail(argument), "250 2.1.0 Ok")?;
                if given == Some(true) {
                    self.reverse_path = Some(path(argument));
                    self.forward_paths.clear();
                }
                given
            }
            "RCPT" | "DATA" if self.reverse_path.is_none() => Some(self.put("503 5.5.1 no MAIL")),
            "RCPT" => {
                let given = self.respond(&Step::Rcpt(argument), "250 2.1.5 Ok")?;
                if given == Some(true) {
                    self.forward_paths.push(path(argument));
                }
                given
            }
            "DATA" if self.forward_paths.is_empty() => Some(self.put("554 5.5.1 no recipients")),
            "DATA" => match self.respond(&Step::Data, "354 go on")? {
                Some(true) => {
                    self.flush()?;
                    self.content()?
                }
                other => other,
            },
            "RSET" => {
                self.reverse_path = None;
                self.respond(&Step::Rset, "250 2.0.0 Ok")?
            }
            "NOOP" => Some(self.put("250 2.0.0 Ok")),
            "QUIT" => {
                self.respond(&Step::Quit, "221 2.0.0 Bye")?;
                self.flush()?;
                None
            }
            _ => {
                self.violation(&format!("an unknown command: {line:?}"));
                Some(self.put("500 5.5.2 unknown"))
            }
        };
        Ok(going_on.is_some())
    }

    fn content(&mut self) -> Result<Option<bool>> {
        let mut content = Vec::new();
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            if line == b".\r\n" {
                break;
            }
            let Some(body) = line.strip_suffix(b"\r\n") else {
                self.violation("a bare LF in content");
                content.extend_from_slice(&line);
                continue;
            };
            if body.contains(&b'\r') {
                self.violation("a bare CR in content");
            }
            match line.strip_prefix(b".") {
                Some(unstuffed) if line.starts_with(b"..") => content.extend_from_slice(unstuffed),
                Some(unstuffed) => {
                    self.violation("a line with one leading dot");
                    content.extend_from_slice(unstuffed);
                }
                None => content.extend_from_slice(&line),
            }
        }
        let dot_at = Instant::now();
        if !self.reader.buffer().is_empty() {
            self.violation("octets behind the final dot before its reply");
        }
        let mut delivery = Delivery {
            mark: message::verify(&content),
            reverse_path: self.reverse_path.take().unwrap_or_default(),
            forward_paths: std::mem::take(&mut self.forward_paths),
            dot_at,
            connection: self.number,
            accepted: false,
            content: Vec::new(),
        };
        if self.shared.options.keep_content {
            delivery.content = content;
        }
        let answer = self.shared.answer(&Step::Content(&delivery));
        delivery.accepted = match &answer {
            Answer::Accept | Answer::Delay(_) => true,
            Answer::Reply(text) | Answer::ReplyAndClose(text) => text.starts_with('2'),
            Answer::Close => false,
        };
        self.shared.record().deliveries.push(delivery);
        let going_on = self.carry_out(answer, "250 2.0.0 taken")?;
        if going_on.is_some() {
            self.flush()?;
        }
        Ok(going_on)
    }

    /// Answers a step: `None` when the connection ends, else whether the reply is positive.
    fn respond(&mut self, step: &Step<'_>, usual: &str) -> Result<Option<bool>> {
        let answer = self.shared.answer(step);
        self.carry_out(answer, usual)
    }

    fn carry_out(&mut self, answer: Answer, usual: &str) -> Result<Option<bool>> {
        match answer {
            Answer::Accept => Ok(Some(self.put(usual))),
            Answer::Delay(pause) => {
                self.flush()?;
                thread::sleep(pause);
                Ok(Some(self.put(usual)))
            }
            Answer::Reply(text) => Ok(Some(self.put(&text))),
            Answer::ReplyAndClose(text) => {
                self.put(&text);
                self.flush()?;
                self.writer.shutdown(Shutdown::Both)?;
                Ok(None)
            }
            Answer::Close => {
                self.writer.shutdown(Shutdown::Both)?;
                Ok(None)
            }
        }
    }

    /// Queues a reply; says whether it is positive.
    fn put(&mut self, reply: &str) -> bool {
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
        reply.starts_with('2') || reply.starts_with('3')
    }

    fn flush(&mut self) -> Result<()> {
        if !self.replies.is_empty() {
            self.writer.write_all(&self.replies)?;
            self.replies.clear();
        }
        Ok(())
    }

    fn violation(&self, what: &str) {
        let mut record = self.shared.record();
        if record.violations.len() < VIOLATIONS_MAX {
            record.violations.push(format!("connection {}: {what}", self.number));
        }
    }
}

/// `FROM:<a@b> SIZE=1` or `TO:<a@b>` without the keyword.
fn path(argument: &str) -> String {
    argument.split_once(':').map_or(argument, |(_, path)| path).trim().to_owned()
}

#[cfg(test)]
mod tests;
