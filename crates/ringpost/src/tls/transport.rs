//! A connection that may come to speak TLS: a filter of octets between the socket and the session.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    rc::Rc,
    sync::Arc,
};

use ringpost_metrics::label::TlsFailure;
use ringpost_session::server::{TlsInfo, TlsVersion};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, Connection, HandshakeKind, ProtocolVersion,
    ServerConnection,
    pki_types::{CertificateDer, ServerName},
};

use super::{Acceptor, failure::HandshakeError};
use crate::auth::channel::{Channel, EXPORTER_SIZE};
use crate::runtime::{Read, Stream, Watch};

/// Octets of TLS read at once while little is expected.
const BLOCK_SIZE_MIN: usize = 4096;

/// Octets of TLS read at once at most: a record, whatever it is wrapped in.
const BLOCK_SIZE_MAX: usize = 16 * 1024 + 256;

/// Plaintext that may wait inside the library before more is decrypted; it refuses input at 16 KiB.
const PLAINTEXT_WAITING_MAX: usize = 8 * 1024;

/// What the secret is exported for (RFC 9266 §4.1).
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A connection, in plain text at first.
pub(crate) struct Transport<S> {
    socket: S,
    tls: Option<Box<Tls>>,
    /// What TLS was accepted by, as a server.
    acceptor: Option<Acceptor>,
}

/// What both ends have agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agreement {
    pub(crate) version: TlsVersion,
    pub(crate) cipher: &'static str,
    /// Whether an earlier session went on.
    pub(crate) is_resumed: bool,
}

/// TLS on a connection.
struct Tls {
    connection: Connection,
    /// What was read from the socket and is not decrypted yet: `block[start..end]`.
    block: Vec<u8>,
    start: usize,
    end: usize,
    /// What goes to the socket next.
    outgoing: Vec<u8>,
    /// The socket has come to its end.
    is_ended: bool,
    /// The socket's end came without `close_notify`.
    is_truncated: bool,
}

impl<S: Stream> Transport<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, tls: None, acceptor: None }
    }

    pub(crate) fn watch(&self) -> &Rc<Watch> {
        self.socket.watch()
    }

    /// Shakes hands as a server, by the deadline of the watch. `ahead` is what the client has begun
    /// with, as far as it has been read; `is_over` says whether a notification means to give up.
    ///
    /// # Cancel safety
    ///
    /// Not safe: close the connection.
    pub(crate) async fn accept_tls(
        &mut self,
        acceptor: &Acceptor,
        ahead: Vec<u8>,
        is_over: impl Fn() -> bool,
    ) -> Result<TlsInfo, HandshakeError> {
        let connection = ServerConnection::new(acceptor.config())?;
        self.acceptor = Some(acceptor.clone());
        self.shake_hands(connection.into(), ahead, is_over).await?.info()
    }

    /// Shakes hands as a client, by the deadline of the watch; as [`accept_tls`](Self::accept_tls).
    /// `name` is asked for.
    pub(crate) async fn connect_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        is_over: impl Fn() -> bool,
    ) -> Result<Agreement, HandshakeError> {
        let connection = ClientConnection::new(config, name)?;
        self.shake_hands(connection.into(), Vec::new(), is_over).await?.agreement()
    }

    /// What TLS was accepted by; `None` without it, and as a client.
    pub(crate) fn acceptor(&self) -> Option<&Acceptor> {
        self.acceptor.as_ref()
    }

    /// What tells this connection from others; nothing without TLS, before its handshake, and as a client.
    pub(crate) fn channel(&self) -> Channel {
        let connection = self.tls.as_ref().map(|tls| &tls.connection);
        let (Some(Connection::Server(connection)), Some(acceptor)) = (connection, &self.acceptor)
        else {
            return Channel::default();
        };
        // In TLS 1.2 it would not be a secret of this connection alone without RFC 7627 (RFC 9266 §4.2).
        let is_unique = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let exporter = is_unique.then(|| {
            let secret = [0; EXPORTER_SIZE];
            connection.export_keying_material(secret, EXPORTER_LABEL, Some(&[])).ok()
        });
        let end_point = acceptor.end_point(connection.server_name());
        Channel { exporter: exporter.flatten(), end_point }
    }

    /// What the other end has shown of certificates, its own first.
    pub(crate) fn peer_chain(&self) -> &[CertificateDer<'static>] {
        let tls = self.tls.as_ref();
        tls.and_then(|tls| tls.connection.peer_certificates()).unwrap_or_default()
    }

    async fn shake_hands(
        &mut self,
        connection: Connection,
        ahead: Vec<u8>,
        is_over: impl Fn() -> bool,
    ) -> Result<&Tls, HandshakeError> {
        let tls = self.tls.insert(Box::new(Tls::new(connection, ahead)));
        while tls.connection.is_handshaking() {
            if let Err(error) = tls.process() {
                let error = HandshakeError::from(error);
                // Whoever does not speak TLS would not understand the alert.
                if error.reason != TlsFailure::NotTls {
                    // The connection ends, heard or not.
                    let _ = tls.flush(&mut self.socket).await;
                }
                return Err(error);
            }
            tls.flush(&mut self.socket).await?;
            if !tls.connection.is_handshaking() {
                break;
            }
            match tls.fill(&mut self.socket, BLOCK_SIZE_MIN).await? {
                Read::End => return Err(HandshakeError::new(TlsFailure::Closed, &"closed")),
                Read::TimedOut => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                Read::Notified if is_over() => {
                    return Err(HandshakeError::new(TlsFailure::Shutdown, &"shutting down"));
                }
                Read::Data(_) | Read::Notified => {}
            }
        }
        Ok(tls)
    }

    /// Reads what the client says; as [`Stream::read`].
    ///
    /// An end without `close_notify` is an end too: what it may have cut off is not complete then, and
    /// only what is complete counts. See [`is_truncated`](Self::is_truncated).
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        let Some(tls) = &mut self.tls else { return self.socket.read(buffer).await };
        loop {
            if let Err(error) = tls.process() {
                // The alert says what is wrong, if anybody listens.
                let _ = tls.flush(&mut self.socket).await;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            if tls.connection.wants_write() {
                tls.flush(&mut self.socket).await?;
            }
            match tls.connection.reader().read(buffer) {
                Ok(0) => return Ok(Read::End),
                Ok(count) => return Ok(Read::Data(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if tls.is_ended {
                tls.is_truncated = true;
                return Ok(Read::End);
            }
            match tls.fill(&mut self.socket, buffer.len()).await? {
                Read::Data(_) | Read::End => {}
                interrupted => return Ok(interrupted),
            }
        }
    }

    /// Whether the end came without `close_notify`.
    pub(crate) fn is_truncated(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_truncated)
    }

    /// Writes all of `bytes`, in one write if they are not many; as [`Stream::write_all`].
    pub(crate) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.socket.write_all(bytes).await };
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = tls.connection.writer().write(rest)?;
            rest = rest.get(count..).unwrap_or_default();
            tls.flush(&mut self.socket).await?;
        }
        Ok(())
    }

    /// Writes all of `parts`; as [`Stream::write_all_vectored`]. Over TLS they share their records.
    pub(crate) async fn write_all_vectored(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.socket.write_all_vectored(parts).await };
        for part in parts {
            let mut rest = &**part;
            while !rest.is_empty() {
                let count = tls.connection.writer().write(rest)?;
                rest = rest.get(count..).unwrap_or_default();
                if !rest.is_empty() {
                    tls.flush(&mut self.socket).await?;
                }
            }
        }
        tls.flush(&mut self.socket).await
    }

    /// Says over TLS that nothing more follows (RFC 8446 §6.1), once there is TLS.
    pub(crate) async fn close_notify(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        if tls.connection.is_handshaking() {
            return Ok(());
        }
        tls.connection.send_close_notify();
        tls.flush(&mut self.socket).await
    }

    /// The socket, for what is left to do when nothing more is said.
    pub(crate) fn socket(&mut self) -> &mut S {
        &mut self.socket
    }
}

impl Tls {
    fn new(connection: Connection, ahead: Vec<u8>) -> Self {
        Self {
            connection,
            start: 0,
            end: ahead.len(),
            block: ahead,
            outgoing: Vec::new(),
            is_ended: false,
            is_truncated: false,
        }
    }

    /// Reads from the socket; `wanted` is how much plaintext there is room for.
    async fn fill<S: Stream>(&mut self, socket: &mut S, wanted: usize) -> io::Result<Read> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            let size = wanted.clamp(BLOCK_SIZE_MIN, BLOCK_SIZE_MAX);
            if self.block.len() < size {
                self.block.resize(size, 0);
            } else if size == BLOCK_SIZE_MIN && self.block.len() > size {
                // Between messages: an idle connection keeps little.
                self.block.truncate(size);
                self.block.shrink_to_fit();
            }
        }
        let space = self.block.get_mut(self.end..).unwrap_or_default();
        if space.is_empty() {
            // All that was read could have been taken by now.
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = socket.read(space).await?;
        match read {
            Read::Data(count) => self.end += count,
            Read::End => self.is_ended = true,
            Read::TimedOut | Read::Notified => {}
        }
        Ok(read)
    }

    /// Decrypts what was read, as much as there is room for.
    fn process(&mut self) -> Result<(), rustls::Error> {
        loop {
            let state = self.connection.process_new_packets()?;
            let input = self.block.get(self.start..self.end).unwrap_or_default();
            let is_full = state.plaintext_bytes_to_read() >= PLAINTEXT_WAITING_MAX;
            if input.is_empty() || is_full || state.peer_has_closed() {
                return Ok(());
            }
            // It takes a few KiB at a time. Reading from memory it fails only when it has no room.
            let taken = self.connection.read_tls(&mut &*input).unwrap_or(0);
            if taken == 0 {
                return Ok(());
            }
            self.start += taken;
        }
    }

    /// Writes what waits, in one write.
    async fn flush<S: Stream>(&mut self, socket: &mut S) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.outgoing)?;
        }
        if self.outgoing.is_empty() {
            return Ok(());
        }
        let written = socket.write_all(&self.outgoing).await;
        self.outgoing = Vec::new();
        written
    }

    /// What was agreed on with a client.
    fn info(&self) -> Result<TlsInfo, HandshakeError> {
        let Agreement { version, cipher, .. } = self.agreement()?;
        let server_name = match &self.connection {
            Connection::Server(server) => server.server_name().map(Into::into),
            Connection::Client(_) => None,
        };
        Ok(TlsInfo { version, cipher, server_name })
    }

    /// What was agreed on.
    fn agreement(&self) -> Result<Agreement, HandshakeError> {
        let version = match self.connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::V1_2,
            Some(ProtocolVersion::TLSv1_3) => TlsVersion::V1_3,
            other => {
                return Err(HandshakeError::new(TlsFailure::Version, &format_args!("{other:?}")));
            }
        };
        let suite = self.connection.negotiated_cipher_suite().map(|suite| suite.suite());
        Ok(Agreement {
            version,
            cipher: suite.map_or("TLS_NULL_WITH_NULL_NULL", cipher_name),
            is_resumed: self.connection.handshake_kind() == Some(HandshakeKind::Resumed),
        })
    }
}

/// The registered name of a cipher suite; the library writes some in its own way.
fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("TLS_UNKNOWN"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_has_its_registered_name() {
        for suite in rustls::crypto::ring::ALL_CIPHER_SUITES {
            let name = cipher_name(suite.suite());
            assert!(name.starts_with("TLS_") && name != "TLS_UNKNOWN", "{name}");
        }
    }
}
