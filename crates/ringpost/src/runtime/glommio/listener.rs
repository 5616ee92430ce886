//! Listening sockets, one per core on a shared address.

#![expect(
    unsafe_code,
    reason = "the library offers a listener from a socket of ours only by descriptor"
)]

use std::{
    fmt, io,
    net::{Shutdown, SocketAddr},
    os::fd::{FromRawFd, IntoRawFd},
    rc::Rc,
};

use glommio::net::TcpListener;
use socket2::Socket;

use super::{Shared, io_error, stream::GlommioStream};
use crate::runtime::{Closer, Listener, sockets};

/// A listening socket of one core.
pub struct GlommioListener {
    inner: TcpListener,
    /// The same socket once more, for closing it while an accept waits.
    socket: Rc<Socket>,
    shared: Rc<Shared>,
}

impl GlommioListener {
    pub(super) fn bind(address: SocketAddr, shared: Rc<Shared>) -> io::Result<Self> {
        let socket = sockets::listener(address)?;
        let twin = Rc::new(socket.try_clone()?);
        // SAFETY: the descriptor comes from `socket`, which gives it up here, so the listener
        // is its only owner.
        let inner = unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) };
        Ok(Self { inner, socket: twin, shared })
    }
}

impl Listener for GlommioListener {
    type Stream = GlommioStream;

    async fn accept(&mut self) -> io::Result<GlommioStream> {
        let stream = self.inner.accept().await.map_err(io_error)?;
        Ok(GlommioStream::new(stream, self.shared.deadlines.watch()))
    }

    fn local_address(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr().map_err(io_error)
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

impl fmt::Debug for GlommioListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GlommioListener").field("inner", &self.inner).finish_non_exhaustive()
    }
}
