//! UDP sockets, for the resolver.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use glommio::net::UdpSocket;
use socket2::{Domain, Protocol, Socket, Type};

use super::io_error;
use crate::runtime::Datagram;

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
        let (domain, any): (_, IpAddr) = match family_of {
            SocketAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(any, 0).into())?;
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
