//! Finds addresses nobody else uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, process, thread};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

/// First port handed out. Below it live the services of the machine.
const LOWEST: u32 = 10_000;

/// How long [`listen`] waits for an address.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(20);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Picks a free loopback address.
///
/// The port lies below the range from which the kernel takes ports for outgoing connections. A
/// server that is killed and restarted on its port would now and then find an ephemeral port of
/// that number in use, if it came from the kernel's own range (as a bind to port 0 would).
///
/// # Errors
///
/// Fails when no port is free.
pub fn reserve() -> Result<SocketAddr> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .context("no range of ephemeral ports")?;
    let first_ephemeral: u32 = range
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok())
        .context("unreadable range of ephemeral ports")?;
    let span = first_ephemeral.saturating_sub(LOWEST).max(1_000);
    // Test processes running side by side have neighbouring ids: each begins in its own stretch.
    let start = process::id().wrapping_mul(64);
    for _ in 0..span {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = LOWEST + start.wrapping_add(step) % span;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(port)?));
        if is_free(address) {
            return Ok(address);
        }
    }
    bail!("no free port between {LOWEST} and {first_ephemeral}")
}

/// Whether somebody could listen on `address` now.
///
/// The socket that asks never listens itself. Another test that starts a program at this moment
/// gives it a copy of every socket here until it begins to run: a copy of a socket that listens
/// would keep the address from whom it was reserved for, a copy of one that is merely bound does
/// not (with `SO_REUSEADDR` on both sides, as all servers have it).
fn is_free(address: SocketAddr) -> bool {
    let bind = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    bind().is_ok()
}

/// Listens on `address`, as soon as nobody else does.
///
/// Whoever listened there before may have closed his socket, and a program that another test is
/// about to start still has its copy: that passes by itself (see [`reserve`]).
///
/// # Errors
///
/// Fails when it cannot listen, or the address stays in use for 20 s.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            other => return other.with_context(|| format!("cannot listen on {address}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn an_address_in_use_is_not_free() {
        let listener = listen(reserve().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        assert!(!is_free(address));
        drop(listener);
        drop(listen(address).unwrap());
    }

    #[test]
    fn programs_that_start_meanwhile_take_no_address() {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            // A probe that listens fails here, five times in a thousand.
            let taken: Vec<_> =
                (0..2_000).filter_map(|_| TcpListener::bind(reserve().unwrap()).err()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(taken.is_empty(), "{taken:?}");
        });
    }

    #[test]
    fn no_address_is_given_twice() {
        let given: Vec<_> = (0..50).map(|_| reserve().unwrap()).collect();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
    }
}
