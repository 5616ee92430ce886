//! Listening sockets, one per core on a shared address.

use std::{
    future::poll_fn,
    io,
    net::{Shutdown, SocketAddr},
    os::fd::AsRawFd,
    rc::Rc,
    task::{Context, Poll},
};

use socket2::Socket;

use super::{
    executor::Core,
    ring::{Interest, Side},
    stream::UringStream,
};
use crate::runtime::{Closer, Listener, sockets};

/// A listening socket of one core.
#[derive(Debug)]
pub struct UringListener {
    /// Before the socket, so that it is dropped first.
    interest: Interest,
    socket: Rc<Socket>,
    core: Rc<Core>,
}

impl UringListener {
    pub(super) fn bind(address: SocketAddr, core: &Rc<Core>) -> io::Result<Self> {
        let socket = Rc::new(sockets::listener(address)?);
        Ok(Self { interest: Interest::new(&core.ring), socket, core: Rc::clone(core) })
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<UringStream>> {
        while self.interest.is_ready(Side::Read) {
            match sockets::accept(&self.socket) {
                Ok((socket, peer)) => {
                    return Poll::Ready(Ok(UringStream::new(&self.core, socket, peer)));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.interest.exhaust(Side::Read);
                    break;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        match self.interest.wait(self.socket.as_raw_fd(), Side::Read, context.waker()) {
            Ok(()) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl Listener for UringListener {
    type Stream = UringStream;

    async fn accept(&mut self) -> io::Result<UringStream> {
        poll_fn(|context| self.poll_accept(context)).await
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn closer(&self) -> Closer {
        let socket = Rc::clone(&self.socket);
        Closer::new(move || {
            // Takes the socket out of those that share the address, and wakes the accept.
            if let Err(error) = socket.shutdown(Shutdown::Read) {
                tracing::warn!(%error, "cannot close a listener");
            }
        })
    }
}
