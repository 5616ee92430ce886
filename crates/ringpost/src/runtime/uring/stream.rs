//! TCP connections with a deadline and a notification.

use std::{
    future::poll_fn,
    io::{self, IoSlice, Read as _},
    net::{IpAddr, Shutdown, SocketAddr},
    os::fd::AsRawFd,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use futures_lite::future;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    executor::{Core, timed_out},
    ring::{Interest, Side},
};
use crate::runtime::{Read, Stream, Watch};

/// A TCP connection on this executor.
#[derive(Debug)]
pub struct UringStream {
    /// Before the socket, so that it is dropped first.
    interest: Interest,
    socket: Socket,
    peer: SocketAddr,
    watch: Rc<Watch>,
}

impl UringStream {
    pub(super) fn new(core: &Core, socket: Socket, peer: SocketAddr) -> Self {
        let interest = Interest::new(&core.ring);
        // Hardly anybody speaks first.
        interest.exhaust(Side::Read);
        Self { interest, socket, peer, watch: core.deadlines.watch() }
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<Read>> {
        if self.watch.take_notified() {
            return Poll::Ready(Ok(Read::Notified));
        }
        while self.interest.is_ready(Side::Read) {
            match (&self.socket).read(buffer) {
                Ok(0) => return Poll::Ready(Ok(Read::End)),
                Ok(count) => {
                    if count < buffer.len() {
                        self.interest.exhaust(Side::Read);
                    }
                    return Poll::Ready(Ok(Read::Data(count)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.interest.exhaust(Side::Read);
                    break;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.watch.is_expired() {
            return Poll::Ready(Ok(Read::TimedOut));
        }
        self.watch.register(context.waker());
        match self.interest.wait(self.socket.as_raw_fd(), Side::Read, context.waker()) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while self.interest.is_ready(Side::Write) {
            let written = match parts {
                [part] => self.socket.send(part),
                parts => self.socket.send_vectored(parts),
            };
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.interest.exhaust(Side::Write);
                    break;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.watch.is_expired() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.watch.register(context.waker());
        match self.interest.wait(self.socket.as_raw_fd(), Side::Write, context.waker()) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Stream for UringStream {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<Read> {
        poll_fn(|context| self.poll_read(context, buffer)).await
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = [IoSlice::new(rest)];
            let count = poll_fn(|context| self.poll_write(context, &part)).await?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    async fn write_all_vectored(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let count = poll_fn(|context| self.poll_write(context, rest)).await?;
            IoSlice::advance_slices(&mut rest, count);
        }
        Ok(())
    }

    fn watch(&self) -> &Rc<Watch> {
        &self.watch
    }

    fn peer_address(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }

    async fn shut_down_write(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }
}

pub(super) async fn connect(
    core: &Core,
    address: SocketAddr,
    source: Option<IpAddr>,
    timeout: Duration,
) -> io::Result<UringStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => Ok(UringStream::new(core, socket, address)),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            let stream = UringStream::new(core, socket, address);
            let timed_out = async { Err(timed_out(core, timeout).await) };
            future::or(connected(&stream), timed_out).await?;
            Ok(stream)
        }
        Err(error) => Err(error),
    }
}

/// Waits until a connection under way is made or has failed.
async fn connected(stream: &UringStream) -> io::Result<()> {
    stream.interest.exhaust(Side::Write);
    poll_fn(|context| {
        if stream.interest.is_ready(Side::Write) {
            return Poll::Ready(Ok(()));
        }
        let descriptor = stream.socket.as_raw_fd();
        match stream.interest.wait(descriptor, Side::Write, context.waker()) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    })
    .await?;
    match stream.socket.take_error()? {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
