//! Connections of the control side: few, and each with a deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Open connections of one listener; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 100;
/// A connection is closed when for so long no part of a response could be sent: no request came, it came
/// too slowly, or the response is not read.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that accepts.
pub(super) trait Accept: Send + 'static {
    /// What it accepts.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// What is known about the other end.
    type Peer: Clone + Send + Sync + 'static;

    /// Waits for a connection.
    fn accept_one(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;

    /// What the other end would know about us.
    fn local(&self) -> io::Result<Self::Peer>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept_one(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept().await
    }

    fn local(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

/// The user at the other end of a Unix socket, as the kernel says; `None` when it does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct PeerUser(pub(super) Option<u32>);

impl Accept for UnixListener {
    type Stream = UnixStream;
    type Peer = PeerUser;

    async fn accept_one(&self) -> io::Result<(UnixStream, PeerUser)> {
        let (stream, _) = self.accept().await?;
        let user = stream.peer_cred().ok().map(|credentials| credentials.uid());
        Ok((stream, PeerUser(user)))
    }

    fn local(&self) -> io::Result<PeerUser> {
        Ok(PeerUser(None))
    }
}

impl Connected<IncomingStream<'_, Limited<UnixListener>>> for PeerUser {
    fn connect_info(stream: IncomingStream<'_, Limited<UnixListener>>) -> Self {
        *stream.remote_addr()
    }
}

/// A listener with at most [`CONNECTIONS_MAX`] connections, each with a deadline.
pub(super) struct Limited<L> {
    listener: L,
    free: Arc<Semaphore>,
}

impl<L> Limited<L> {
    pub(super) fn new(listener: L) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl<L: Accept + Sync> axum::serve::Listener for Limited<L> {
    type Io = Connection<L::Stream>;
    type Addr = L::Peer;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            // The semaphore is never closed; if it were, no connection would be the right answer.
            let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else {
                std::future::pending::<()>().await;
                continue;
            };
            match self.listener.accept_one().await {
                Ok((stream, peer)) => return (Connection::new(stream, permit), peer),
                Err(error) => {
                    tracing::warn!("the control listener cannot accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local()
    }
}

/// A connection that ends when it makes no progress.
pub(super) struct Connection<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    fn new(stream: S, permit: OwnedSemaphorePermit) -> Self {
        let deadline = Box::pin(tokio::time::sleep(PROGRESS_TIMEOUT));
        Self { stream, deadline, _permit: permit }
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_deadline(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_deadline(context)?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        let deadline = tokio::time::Instant::now() + PROGRESS_TIMEOUT;
        self.deadline.as_mut().reset(deadline);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
