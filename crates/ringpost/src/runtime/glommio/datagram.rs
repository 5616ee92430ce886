//! UDP sockets, for the resolver.

use std::{io, net::SocketAddr};

use glommio::net::UdpSocket;

use super::io_error;
use crate::runtime::{Datagram, sockets};

/// A UDP socket of this executor.
#[derive(Debug)]
pub struct GlommioDatagram {
    inner: UdpSocket,
}

impl GlommioDatagram {
    /// Binds to the unspecified address of `family_of`'s family, at a port the kernel draws.
    ///
    /// The library's own `bind` shares ports between sockets, and then two resolvers get each
    /// other's answers; this socket shares its port with nobody.
    pub(super) fn bind(family_of: SocketAddr) -> io::Result<Self> {
        let socket = sockets::datagram(family_of)?;
        Ok(Self { inner: UdpSocket::from(socket) })
    }
}

impl Datagram for GlommioDatagram {
    async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.inner.send_to(bytes, to).await.map(drop).map_err(io_error)
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.inner.recv_from(buffer).await.map_err(io_error)
    }
}
