//! Lines and blocks on a stream, for the peers.

use std::io;
use std::time::{Duration, Instant};

use ringpost::runtime::{Read, Runtime, Stream};

use crate::tls::{Identity, Tls, Trust};

/// Octets that are read at a time.
const BLOCK_SIZE: usize = 16 * 1024;

/// Octets that may wait to be read as one line, or one block; more is a peer out of its mind.
const BUFFER_MAX: usize = 64 << 20;

/// Why there is nothing to read any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The other side has closed in good order.
    Closed,
    /// It took too long.
    TimedOut,
    /// The connection broke.
    Broken,
}

/// A stream with what was read of it and not used yet.
#[derive(Debug)]
pub struct Wire<R: Runtime> {
    runtime: R,
    stream: R::Stream,
    tls: Option<Box<Tls>>,
    buffer: Vec<u8>,
    /// Used octets at the front of the buffer.
    used: usize,
    patience: Duration,
}

impl<R: Runtime> Wire<R> {
    /// Wraps a stream; each wait for the other side may take as long as `patience`.
    pub fn new(runtime: R, stream: R::Stream, patience: Duration) -> Self {
        Self { runtime, stream, tls: None, buffer: Vec::new(), used: 0, patience }
    }

    /// Speaks TLS from here on, as a client.
    ///
    /// # Errors
    ///
    /// [`Gone`] before the handshake was over.
    pub async fn connect_tls(&mut self, trust: &Trust) -> Result<(), Gone> {
        let tls = Tls::connect(trust).map_err(|_| Gone::Broken)?;
        self.shake_hands(tls).await
    }

    /// Speaks TLS from here on, as a server.
    ///
    /// # Errors
    ///
    /// [`Gone`] before the handshake was over.
    pub async fn accept_tls(&mut self, identity: &Identity) -> Result<(), Gone> {
        let tls = Tls::accept(identity).map_err(|_| Gone::Broken)?;
        self.shake_hands(tls).await
    }

    async fn shake_hands(&mut self, tls: Tls) -> Result<(), Gone> {
        self.tls = Some(Box::new(tls));
        self.write(&[]).await.map_err(|_| Gone::Broken)?;
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.more().await?;
            self.write(&[]).await.map_err(|_| Gone::Broken)?;
        }
        Ok(())
    }

    /// What has been read and not used.
    pub fn pending(&self) -> &[u8] {
        self.buffer.get(self.used..).unwrap_or_default()
    }

    /// Waits for more than is pending.
    ///
    /// # Errors
    ///
    /// [`Gone`], with what is pending left as it is.
    pub async fn more(&mut self) -> Result<(), Gone> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let deadline = self.runtime.now() + self.patience;
        self.stream.watch().set_deadline(Some(deadline));
        if self.buffer.len() > BUFFER_MAX {
            return Err(Gone::Broken);
        }
        if let Some(mut tls) = self.tls.take() {
            let more = self.more_tls(&mut tls).await;
            self.tls = Some(tls);
            return more;
        }
        self.read().await
    }

    /// Reads some TLS, of which there may be nothing to take yet.
    async fn more_tls(&mut self, tls: &mut Tls) -> Result<(), Gone> {
        let plain = std::mem::take(&mut self.buffer);
        let read = self.read().await;
        let octets = std::mem::replace(&mut self.buffer, plain);
        read?;
        match tls.take(&octets, &mut self.buffer) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Gone::Closed),
            Err(_) => Err(Gone::Broken),
        }
    }

    /// Reads from the stream.
    async fn read(&mut self) -> Result<(), Gone> {
        let len = self.buffer.len();
        self.buffer.resize(len + BLOCK_SIZE, 0);
        let result = loop {
            let block = self.buffer.get_mut(len..).unwrap_or_default();
            match self.stream.read(block).await {
                Ok(Read::Data(count)) => break Ok(count),
                Ok(Read::End) => break Err(Gone::Closed),
                Ok(Read::TimedOut) => break Err(Gone::TimedOut),
                Ok(Read::Notified) => {}
                Err(_) => break Err(Gone::Broken),
            }
        };
        self.buffer.truncate(len + result.unwrap_or(0));
        result.map(|_| ())
    }

    /// Takes `count` of the pending octets.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.pending().get(..count).unwrap_or_default().to_vec();
        self.used += taken.len();
        taken
    }

    /// The next line, without its CRLF.
    ///
    /// # Errors
    ///
    /// [`Gone`] before a whole line had come.
    pub async fn line(&mut self) -> Result<String, Gone> {
        let mut searched = 0;
        loop {
            let pending = self.pending();
            let found = memchr::memchr(b'\n', pending.get(searched..).unwrap_or_default());
            if let Some(found) = found {
                let line = self.take(searched + found + 1);
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
            searched = pending.len();
            self.more().await?;
        }
    }

    /// All up to the final dot of a content, which is used up and left out; dots stay stuffed.
    ///
    /// # Errors
    ///
    /// [`Gone`] before the dot had come.
    pub async fn content(&mut self) -> Result<Vec<u8>, Gone> {
        if self.pending().is_empty() {
            self.more().await?;
        }
        let mut from = 0;
        loop {
            let pending = self.pending();
            // An empty content: nothing but the dot.
            if from == 0 && pending.starts_with(b".\r\n") {
                self.used += 3;
                return Ok(Vec::new());
            }
            if let Some(at) = find(pending, b"\r\n.\r\n", from) {
                let content = self.take(at + 2);
                self.used += 3;
                return Ok(content);
            }
            from = pending.len().saturating_sub(4);
            self.more().await?;
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    ///
    /// As the stream's.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let deadline = self.runtime.now() + self.patience;
        self.stream.watch().set_deadline(Some(deadline));
        match &mut self.tls {
            Some(tls) => self.stream.write_all(&tls.give(bytes)?).await,
            None => self.stream.write_all(bytes).await,
        }
    }

    /// When the other side has to have said something.
    pub fn deadline(&self) -> Instant {
        self.runtime.now() + self.patience
    }

    /// Changes the patience.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Closes our side, and waits until the other one has closed too.
    pub async fn close(mut self) {
        if let Some(tls) = &mut self.tls {
            tls.end();
            let _ = self.write(&[]).await;
        }
        let _ = self.stream.shut_down_write().await;
        while self.more().await.is_ok() {
            self.used = self.buffer.len();
        }
    }
}

/// Where `needle` begins in `haystack`, from `from` on.
pub fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let rest = haystack.get(from..)?;
    memchr::memmem::find(rest, needle).map(|at| from + at)
}
