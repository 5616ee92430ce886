//! Sockets as the mail path wants them, for every backend on the real kernel.

#![expect(unsafe_code, reason = "no safe call accepts a socket that does not block")]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections the kernel may hold for us before we accept them.
const BACKLOG: i32 = 4096;

/// A listening socket that does not block.
pub(super) fn listener(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Every core binds the same address, and the kernel spreads connections over them.
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Inherited by accepted sockets, which saves a system call on each.
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// The next connection, as a socket that does not block, and the other end.
pub(super) fn accept(listener: &Socket) -> io::Result<(Socket, SocketAddr)> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let accept = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
        // SAFETY: both pointers are of a live address storage and of its length.
        let descriptor = unsafe { libc::accept4(listener.as_raw_fd(), storage.cast(), len, flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel made it a moment ago, and nobody else knows of it.
        Ok(unsafe { Socket::from_raw_fd(descriptor) })
    };
    // SAFETY: the kernel fills the storage with an address, and its length in, when it succeeds.
    let (socket, address) = unsafe { SockAddr::try_init(accept) }?;
    // One that has reset the connection already may have none.
    let peer = address.as_socket().ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((socket, peer))
}

/// A UDP socket that does not block, bound to the unspecified address of `family_of`'s family at a port
/// that the kernel draws and that no other socket shares.
pub(super) fn datagram(family_of: SocketAddr) -> io::Result<Socket> {
    let (domain, any): (_, IpAddr) = match family_of {
        SocketAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        SocketAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(socket)
}
