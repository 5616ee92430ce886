//! UDP sockets, for the resolver.

use std::{future::poll_fn, io, net::SocketAddr, os::fd::AsRawFd, task::Poll};

use std::net::UdpSocket;

use super::{
    executor::Core,
    ring::{Interest, Side},
};
use crate::runtime::{Datagram, sockets};

/// A UDP socket of this executor.
#[derive(Debug)]
pub struct UringDatagram {
    /// Before the socket, so that it is dropped first.
    interest: Interest,
    socket: UdpSocket,
}

impl UringDatagram {
    pub(super) fn bind(core: &Core, family_of: SocketAddr) -> io::Result<Self> {
        let socket = sockets::datagram(family_of)?.into();
        Ok(Self { interest: Interest::new(&core.ring), socket })
    }

    /// Calls `act` until it does not have to wait any more.
    async fn when_ready<T>(
        &self,
        side: Side,
        mut act: impl FnMut(&UdpSocket) -> io::Result<T>,
    ) -> io::Result<T> {
        poll_fn(|context| {
            while self.interest.is_ready(side) {
                match act(&self.socket) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.interest.exhaust(side);
                        break;
                    }
                    done => return Poll::Ready(done),
                }
            }
            match self.interest.wait(self.socket.as_raw_fd(), side, context.waker()) {
                Ok(()) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }
}

impl Datagram for UringDatagram {
    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.when_ready(Side::Write, |socket| socket.send_to(bytes, to).map(drop)).await
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.when_ready(Side::Read, |socket| socket.recv_from(buffer)).await
    }
}
