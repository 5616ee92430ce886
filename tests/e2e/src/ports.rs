//! Finds addresses nobody else uses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// First port handed out. Below it live the services of the machine.
const LOWEST: u32 = 10_000;

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
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port between {LOWEST} and {first_ephemeral}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_address_is_given_twice() {
        let given: Vec<_> = (0..50).map(|_| reserve().unwrap()).collect();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), given.len());
    }
}
