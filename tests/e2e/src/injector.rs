//! SMTP clients: one by hand, many as load.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::message;
use crate::wait;

/// How long a client waits for a reply before it gives up.
pub const REPLY_DEADLINE: Duration = Duration::from_mins(2);

/// A reply of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text of all lines, joined with line feeds.
    pub text: String,
}

/// One SMTP connection, driven by hand. The greeting has been read.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    /// The greeting.
    pub greeting: Reply,
    said_hello: bool,
}

impl Client {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    ///
    /// Fails when nothing listens there or no greeting comes.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::connect_with(address, &[])
    }

    /// Connects, sends `pieces` one by one, and reads the greeting.
    ///
    /// # Errors
    ///
    /// As [`Client::connect`].
    pub fn connect_with(address: SocketAddr, pieces: &[&[u8]]) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, wait::SOON)
            .with_context(|| format!("no connection to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_DEADLINE))?;
        stream.set_write_timeout(Some(REPLY_DEADLINE))?;
        let mut writer = stream.try_clone()?;
        for piece in pieces {
            writer.write_all(piece)?;
        }
        let mut client = Self {
            reader: BufReader::new(stream),
            writer,
            greeting: Reply { code: 0, text: String::new() },
            said_hello: false,
        };
        client.greeting = client.reply().context("no greeting")?;
        Ok(client)
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    ///
    /// Fails when the connection is gone.
    pub fn send(&mut self, octets: &[u8]) -> Result<()> {
        Ok(self.writer.write_all(octets)?)
    }

    /// Reads one reply, of one or several lines.
    ///
    /// # Errors
    ///
    /// Fails when the connection ends first, or on what is not a reply.
    pub fn reply(&mut self) -> Result<Reply> {
        let mut text = String::new();
        loop {
            let mut line = Vec::new();
            ensure!(self.reader.read_until(b'\n', &mut line)? > 0, "the connection has ended");
            let line = String::from_utf8(line)?;
            let Some(line) = line.strip_suffix("\r\n") else { bail!("not a line: {line:?}") };
            ensure!(line.len() >= 3 && line.is_char_boundary(3), "not a reply: {line:?}");
            let (code, rest) = line.split_at(3);
            let code: u16 = code.parse().with_context(|| format!("not a reply: {line:?}"))?;
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(rest.get(1..).unwrap_or(""));
            if !rest.starts_with('-') {
                return Ok(Reply { code, text });
            }
        }
    }

    /// Sends a line and reads the reply.
    ///
    /// # Errors
    ///
    /// Fails when the connection ends first.
    pub fn command(&mut self, line: &str) -> Result<Reply> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.reply().with_context(|| format!("no reply to {line:?}"))
    }

    /// Sends a line and expects a reply with `code`.
    ///
    /// # Errors
    ///
    /// Fails on any other reply.
    pub fn expect(&mut self, line: &str, code: u16) -> Result<Reply> {
        let reply = self.command(line)?;
        ensure!(reply.code == code, "{line:?} should be answered with {code}, was with {reply:?}");
        Ok(reply)
    }

    /// Reads a reply that must have `code`.
    ///
    /// # Errors
    ///
    /// Fails on any other reply.
    pub fn expect_reply(&mut self, code: u16) -> Result<Reply> {
        let reply = self.reply()?;
        ensure!(reply.code == code, "expected {code}, got {reply:?}");
        Ok(reply)
    }

    /// Whether the server has closed the connection, waiting for it if need be.
    pub fn is_closed_by_peer(&mut self) -> bool {
        // A reset counts as closed: the server may not have read all that was sent.
        let mut rest = Vec::new();
        match self.reader.read_until(b'\n', &mut rest) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// Runs a whole transaction and returns the last reply: to the final dot, or the refusal.
    ///
    /// `reverse_path` and `forward_paths` are in brackets. Content is in CRLF form, not stuffed.
    ///
    /// # Errors
    ///
    /// Fails when the connection ends before the last reply.
    pub fn message(
        &mut self,
        reverse_path: &str,
        forward_paths: &[&str],
        content: &[u8],
    ) -> Result<Reply> {
        if let Some(refusal) = self.open(reverse_path, forward_paths)? {
            return Ok(refusal);
        }
        self.send(&message::stuff(content))?;
        self.reply().context("no reply to the final dot")
    }

    /// Goes as far as the 354. `Some` is a refusal on the way, with the transaction reset.
    fn open(&mut self, reverse_path: &str, forward_paths: &[&str]) -> Result<Option<Reply>> {
        if !self.said_hello {
            self.expect("EHLO client.test", 250)?;
            self.said_hello = true;
        }
        let mut lines = vec![format!("MAIL FROM:{reverse_path}")];
        lines.extend(forward_paths.iter().map(|path| format!("RCPT TO:{path}")));
        lines.push("DATA".to_owned());
        for line in lines {
            let reply = self.command(&line)?;
            // 421 is the end of the connection.
            if reply.code == 421 {
                return Ok(Some(reply));
            }
            if reply.code >= 400 {
                self.command("RSET")?;
                return Ok(Some(reply));
            }
        }
        Ok(None)
    }
}

/// What became of one message of a [`Load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The final dot was answered with 250.
    Acked,
    /// The message was refused, at any command.
    Refused(Reply),
    /// The connection was lost with the message under way: taken or not, nobody knows.
    Unknown,
}

/// One line in the book of a [`Load`].
#[derive(Debug, Clone)]
pub struct Sent {
    /// The id in the marker.
    pub id: String,
    /// What became of it.
    pub fate: Fate,
    /// When that was known.
    pub at: Instant,
}

/// A description of load.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to send it.
    pub address: SocketAddr,
    /// Prefix of all ids; must differ between loads of one test.
    pub run: String,
    /// Parallel connections.
    pub sessions: usize,
    /// How many messages to hand out; `None`: until [`Injection::stop`].
    pub messages: Option<u64>,
    /// Octets per message.
    pub size: usize,
    /// Messages per connection.
    pub kept: u64,
    /// The domains of the recipients, taken in turn.
    pub domains: Vec<String>,
    /// Recipients per message, all in the domain of the message.
    pub recipients: usize,
    /// Messages begun in a second, over all connections, at most; `None`: as many as can be.
    pub per_second: Option<u32>,
}

impl Load {
    /// 2 KiB messages to one recipient in `example.test`, 20 to a connection, from `sessions`.
    pub fn new(address: SocketAddr, run: &str, sessions: usize, messages: Option<u64>) -> Self {
        Self {
            address,
            run: run.to_owned(),
            sessions,
            messages,
            size: 2_048,
            kept: 20,
            domains: vec!["example.test".to_owned()],
            recipients: 1,
            per_second: None,
        }
    }

    /// Starts it.
    pub fn start(self) -> Injection {
        let shared = Arc::new(Progress {
            next: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            slot: Mutex::new(Instant::now()),
            book: Mutex::default(),
        });
        let load = Arc::new(self);
        let threads = (0..load.sessions)
            .map(|_| {
                let (load, shared) = (Arc::clone(&load), Arc::clone(&shared));
                thread::spawn(move || load.run_session(&shared))
            })
            .collect();
        Injection { shared, threads }
    }

    /// Runs it to its end and returns the book.
    ///
    /// # Errors
    ///
    /// Fails when a session had to give up, see [`Injection::finish`].
    pub fn run(self) -> Result<Vec<Sent>> {
        ensure!(self.messages.is_some(), "a load without end");
        self.start().finish()
    }

    fn run_session(&self, progress: &Progress) -> Result<()> {
        'connections: while let Some(mut number) = self.take(progress) {
            let Some(mut client) = self.connect(progress)? else { return Ok(()) };
            for left in (0..self.kept).rev() {
                let id = format!("{}-{number}", self.run);
                let fate = self.send(&mut client, &id, number);
                let lost = fate == Fate::Unknown;
                progress.note(id, fate);
                if lost {
                    continue 'connections;
                }
                if left > 0 {
                    match self.take(progress) {
                        Some(next) => number = next,
                        None => break,
                    }
                }
            }
            // The reply does not matter: every message has had its own.
            drop(client.command("QUIT"));
        }
        Ok(())
    }

    fn take(&self, progress: &Progress) -> Option<u64> {
        if let Some(rate) = self.per_second {
            progress.pace(Duration::from_secs(1) / rate.max(1));
        }
        if progress.stopping.load(Ordering::Relaxed) {
            return None;
        }
        let number = progress.next.fetch_add(1, Ordering::Relaxed);
        (self.messages.is_none_or(|limit| number < limit)).then_some(number)
    }

    /// Connects, again and again while the server is away. `None`: stopped meanwhile.
    fn connect(&self, progress: &Progress) -> Result<Option<Client>> {
        wait::wait_for("a server that takes connections", REPLY_DEADLINE, || match Client::connect(
            self.address,
        ) {
            Ok(client) if client.greeting.code == 220 => Ok(Some(Some(client))),
            _ if progress.stopping.load(Ordering::Relaxed) => Ok(Some(None)),
            _ => Ok(None),
        })
    }

    fn send(&self, client: &mut Client, id: &str, number: u64) -> Fate {
        let domain = &self.domains[(number % self.domains.len() as u64) as usize];
        let paths: Vec<_> =
            (0..self.recipients).map(|at| format!("<r{at}.{id}@{domain}>")).collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let content = message::build(id, self.size);
        match client.message("<source@source.test>", &paths, &content) {
            Ok(reply) if reply.code == 250 => Fate::Acked,
            // A server that is shutting down says so and closes.
            Ok(reply) if reply.code == 421 => Fate::Unknown,
            Ok(reply) => Fate::Refused(reply),
            Err(_) => Fate::Unknown,
        }
    }
}

struct Progress {
    next: AtomicU64,
    acked: AtomicU64,
    stopping: AtomicBool,
    /// When the next message may begin, where that is limited.
    slot: Mutex<Instant>,
    book: Mutex<Vec<Sent>>,
}

impl Progress {
    /// Waits for the next slot. Slots that nobody took, for want of a server, are not made up for.
    fn pace(&self, step: Duration) {
        let now = Instant::now();
        let slot = {
            let mut next = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = (*next).max(now);
            *next = slot + step;
            slot
        };
        thread::sleep(slot - now);
    }

    fn note(&self, id: String, fate: Fate) {
        let acked = fate == Fate::Acked;
        let entry = Sent { id, fate, at: Instant::now() };
        self.book.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
        if acked {
            self.acked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A load under way.
pub struct Injection {
    shared: Arc<Progress>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl std::fmt::Debug for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Injection").field("sessions", &self.threads.len()).finish_non_exhaustive()
    }
}

impl Injection {
    /// Number of messages acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Lets every session end after the message it is at.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for the end and returns the book.
    ///
    /// # Errors
    ///
    /// Fails when a session could not connect within its deadline.
    pub fn finish(self) -> Result<Vec<Sent>> {
        for thread in self.threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a session has panicked"),
            }
        }
        Ok(std::mem::take(&mut *self.shared.book.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::{Answer, Sink, Step};

    #[test]
    fn a_load_sends_each_message_once() {
        let sink = Sink::start().unwrap();
        let book = Load::new(sink.address(), "t", 4, Some(100)).run().unwrap();
        assert_eq!(book.len(), 100);
        assert!(book.iter().all(|sent| sent.fate == Fate::Acked));
        let mut ids: Vec<_> = book.into_iter().map(|sent| sent.id).collect();
        ids.sort();
        let mut taken: Vec<_> =
            sink.accepted().iter().filter_map(|one| one.mark.id().map(str::to_owned)).collect();
        taken.sort();
        assert_eq!(ids, taken);
    }

    #[test]
    fn a_paced_load_begins_no_faster_than_it_is_told() {
        let sink = Sink::start().unwrap();
        let mut load = Load::new(sink.address(), "t", 4, Some(11));
        load.per_second = Some(100);
        let began = Instant::now();
        assert_eq!(load.run().unwrap().len(), 11);
        assert!(began.elapsed() >= Duration::from_millis(100));
    }

    #[test]
    fn a_lost_connection_leaves_the_fate_unknown_and_the_load_goes_on() {
        let sink = Sink::scripted(|step| match step {
            Step::Content(delivery) if delivery.mark.id() == Some("t-3") => Answer::Close,
            _ => Answer::Accept,
        })
        .unwrap();
        let book = Load::new(sink.address(), "t", 2, Some(10)).run().unwrap();
        let unknown: Vec<_> = book.iter().filter(|sent| sent.fate == Fate::Unknown).collect();
        assert_eq!(unknown.len(), 1);
        assert_eq!(unknown[0].id, "t-3");
        assert_eq!(book.iter().filter(|sent| sent.fate == Fate::Acked).count(), 9);
    }
}
