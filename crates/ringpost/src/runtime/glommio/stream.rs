//! TCP connections with a deadline and a notification.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::{IpAddr, Shutdown, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::{
    future,
    io::{AsyncRead, AsyncWrite},
};
use glommio::{io::PollableFd, net::TcpStream};
use socket2::{Domain, Protocol, Socket, Type};

use super::io_error;
use crate::runtime::{DeadlineTable, Read, Stream, Watch};

/// A TCP connection on this executor.
#[derive(Debug)]
pub struct GlommioStream {
    inner: TcpStream,
    watch: Rc<Watch>,
}

impl GlommioStream {
    pub(super) fn new(inner: TcpStream, watch: Rc<Watch>) -> Self {
        Self { inner, watch }
    }

    fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match parts {
            [part] => Pin::new(&mut self.inner).poll_write(context, part),
            parts => Pin::new(&mut self.inner).poll_write_vectored(context, parts),
        };
        match written {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(written) => Poll::Ready(written),
            Poll::Pending if self.watch.is_expired() => {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => {
                self.watch.register(context.waker());
                Poll::Pending
            }
        }
    }
}

impl Stream for GlommioStream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        poll_fn(|context| {
            if self.watch.take_notified() {
                return Poll::Ready(Ok(Read::Notified));
            }
            match Pin::new(&mut self.inner).poll_read(context, buffer) {
                Poll::Ready(Ok(0)) => Poll::Ready(Ok(Read::End)),
                Poll::Ready(Ok(count)) => Poll::Ready(Ok(Read::Data(count))),
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending if self.watch.is_expired() => Poll::Ready(Ok(Read::TimedOut)),
                Poll::Pending => {
                    self.watch.register(context.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = [IoSlice::new(rest)];
            let count = poll_fn(|context| self.poll_write_vectored(context, &part)).await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    async fn write_all_vectored(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = poll_fn(|context| self.poll_write_vectored(context, rest)).await?;
            IoSlice::advance_slices(&mut rest, count);
        }
        Ok(())
    }

    fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    fn peer_address(&self) -> io::Result<SocketAddr> {
        self.inner.peer_addr().map_err(io_error)
    }

    async fn shut_down_write(&mut self) -> io::Result<()> {
        self.inner.shutdown(Shutdown::Write).await.map_err(io_error)
    }
}

pub(super) async fn connect(
    deadlines: &DeadlineTable,
    address: SocketAddr,
    source: Option<IpAddr>,
    timeout: Duration,
) -> io::Result<GlommioStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let socket = match socket.connect(&address.into()) {
        Ok(()) => socket,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            connected_within(socket, timeout).await?
        }
        Err(error) => return Err(error),
    };
    Ok(GlommioStream::new(TcpStream::from(socket), deadlines.watch()))
}

/// Waits until a connection under way is made or has failed.
async fn connected_within(socket: Socket, timeout: Duration) -> io::Result<Socket> {
    let socket = PollableFd::new(socket).map_err(io_error)?;
    let connected = async { socket.writable().await.map_err(io_error) };
    let timed_out = async {
        glommio::timer::sleep(timeout).await;
        Err(io::Error::from(io::ErrorKind::TimedOut))
    };
    future::or(connected, timed_out).await?;
    match socket.get_ref().take_error()? {
        Some(error) => Err(error),
        None => Ok(socket.into_inner()),
    }
}
