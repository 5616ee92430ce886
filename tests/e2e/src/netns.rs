//! Network namespaces of our own, with nothing in them but loopback.
//!
//! Inside, every port and every address of 127.0.0.0/8 is free, port 25 and port 53 included, and
//! nothing can get out. A thread enters; the sockets it opens, the threads it starts and the
//! processes it starts are inside as well.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::peers;

const PREFIX: &str = "ringpost-e2e-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace; dropping it removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Why there can be no namespace here, if so.
    pub fn missing() -> Option<&'static str> {
        if !peers::is_root() {
            return Some("network namespaces need root");
        }
        if peers::program("ip").is_none() {
            return Some("the program ip (iproute2) is not installed");
        }
        None
    }

    /// Makes a namespace with loopback up.
    ///
    /// # Errors
    ///
    /// Fails when `ip` does.
    pub fn create() -> Result<Self> {
        remove_stale();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", process::id());
        peers::run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        peers::run(Command::new("ip").args(["-n", &namespace.name, "link", "set", "lo", "up"]))?;
        Ok(namespace)
    }

    /// Runs `inside` on a thread in the namespace.
    ///
    /// # Errors
    ///
    /// Fails when the namespace cannot be entered, and with the error of `inside`.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(Path::new("/run/netns").join(&self.name))
            .with_context(|| format!("no namespace {}", self.name))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .with_context(|| format!("cannot enter {}", self.name))?;
                inside()
            });
            match thread.join() {
                Ok(result) => result,
                Err(panic) => match panic.downcast::<String>() {
                    Ok(text) => bail!("{text}"),
                    Err(other) => std::panic::resume_unwind(other),
                },
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(peers::run(Command::new("ip").args(["netns", "del", &self.name])));
    }
}

/// Removes what killed runs of these tests have left.
fn remove_stale() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(peers::run(Command::new("ip").args(["netns", "del", &name])));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_namespace_has_its_own_ports() {
        if let Some(reason) = Namespace::missing() {
            return peers::skip(reason).unwrap();
        }
        let namespace = Namespace::create().unwrap();
        let outside = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = outside.local_addr().unwrap();
        assert!(TcpListener::bind(address).is_err(), "taken outside");
        namespace.run(|| Ok(TcpListener::bind(address)?)).expect("free inside");
        namespace.run(|| Ok(TcpListener::bind("[::1]:25")?)).expect("IPv6 loopback inside");
    }
}
