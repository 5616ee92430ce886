//! One client connection: whole writes, whole replies, a deadline on each.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ringpost::runtime::{Read, Runtime, Stream};

use super::reply::{self, Parsed};

/// Octets read at once; replies are short.
const BUFFER_SIZE: usize = 2048;
/// Octets of a reply that an error keeps.
const TEXT_LENGTH_MAX: usize = 120;

/// Why a connection is of no more use.
#[derive(Debug)]
pub(crate) enum ConnectionError {
    /// The socket failed.
    Io(io::Error),
    /// The peer closed it.
    Closed,
    /// A reply did not come in time.
    TimedOut,
    /// What came is not SMTP, or there was more of it than asked for.
    Malformed(String),
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl std::fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection failed: {error}"),
            Self::Closed => f.write_str("connection closed by the peer"),
            Self::TimedOut => f.write_str("no reply in time"),
            Self::Malformed(text) => write!(f, "not an SMTP reply: {text}"),
        }
    }
}

/// A connection with what was read from it and not yet asked for.
pub(crate) struct Connection<R: Runtime> {
    runtime: R,
    stream: R::Stream,
    timeout: Duration,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The last reply, within the buffer.
    last: std::ops::Range<usize>,
}

impl<R: Runtime> Connection<R> {
    /// Connects; each later step has `timeout`, too.
    pub(crate) async fn open(
        runtime: &R,
        address: SocketAddr,
        timeout: Duration,
    ) -> Result<Self, ConnectionError> {
        let stream = runtime.connect(address, None, timeout).await?;
        let buffer = vec![0; BUFFER_SIZE];
        let runtime = runtime.clone();
        Ok(Self { runtime, stream, timeout, buffer, start: 0, end: 0, last: 0..0 })
    }

    /// Writes all of `octets`.
    pub(crate) async fn write(&mut self, octets: &[u8]) -> Result<(), ConnectionError> {
        self.stream.watch().set_deadline(Some(self.runtime.now() + self.timeout));
        match self.stream.write_all(octets).await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(ConnectionError::TimedOut),
            written => Ok(written?),
        }
    }

    /// Reads the next reply; its code.
    pub(crate) async fn reply(&mut self) -> Result<u16, ConnectionError> {
        loop {
            match reply::parse(&self.buffer[self.start..self.end]) {
                Parsed::Reply { code, length } => {
                    self.last = self.start..self.start + length;
                    self.start += length;
                    return Ok(code);
                }
                Parsed::Malformed => {
                    return Err(ConnectionError::Malformed(readable(
                        &self.buffer[self.start..self.end],
                    )));
                }
                Parsed::Incomplete => self.fill().await?,
            }
        }
    }

    /// Writes a command, and reads the reply to it.
    pub(crate) async fn ask(&mut self, command: &[u8]) -> Result<u16, ConnectionError> {
        self.write(command).await?;
        self.reply().await
    }

    /// The text of the last reply, for a report.
    pub(crate) fn last_reply(&self) -> String {
        readable(&self.buffer[self.last.clone()])
    }

    /// Whether the last reply, taken as one to EHLO, offers `keyword`.
    pub(crate) fn offers(&self, keyword: &str) -> bool {
        reply::offers(&self.buffer[self.last.clone()], keyword)
    }

    async fn fill(&mut self) -> Result<(), ConnectionError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            self.last = 0..0;
        }
        if self.end == self.buffer.len() {
            // Bounded by what a reply may have.
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        self.stream.watch().set_deadline(Some(self.runtime.now() + self.timeout));
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            Read::Data(count) => {
                self.end += count;
                Ok(())
            }
            Read::TimedOut => Err(ConnectionError::TimedOut),
            Read::End | Read::Notified => Err(ConnectionError::Closed),
        }
    }
}

/// The start of what a peer sent, with everything unprintable escaped.
fn readable(octets: &[u8]) -> String {
    octets[..octets.len().min(TEXT_LENGTH_MAX)].trim_ascii().escape_ascii().to_string()
}
