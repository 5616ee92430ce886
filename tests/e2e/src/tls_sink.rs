//! A receiver that speaks TLS by openssl, in Python, or fails at it in a way of choice.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::peers::{self, Running};
use crate::ports;
use crate::tls::Certificate;
use crate::wait::{SOON, wait_until};

/// How a receiver is.
#[derive(Debug, Clone, Copy)]
pub struct TlsSinkOptions<'a> {
    /// `good`; `requiretls`, which offers that; `scram`, which lets in who has the password `secret`; `impostor`
    /// and `yes-man`, which offer that and do not know it; `implicit`, TLS from the first octet; `none`, without STARTTLS; `refuse`, with 454; `ahead`,
    /// with octets behind 220 in the same write; or what it does behind 220: `garbage`, `cut`, `hang`, `alert`,
    /// `close`.
    pub how: &'a str,
    /// The lowest and highest version, as Python names them.
    pub versions: (&'a str, &'a str),
    /// Whose certificates it wants to see of clients.
    pub clients: Option<&'a Path>,
}

impl Default for TlsSinkOptions<'_> {
    fn default() -> Self {
        Self { how: "good", versions: ("TLSv1_2", "TLSv1_3"), clients: None }
    }
}

/// A running receiver, on a loopback port.
#[derive(Debug)]
pub struct TlsSink {
    address: SocketAddr,
    log: PathBuf,
    _running: Running,
}

impl TlsSink {
    /// Why there can be none, if so.
    pub fn missing() -> Option<&'static str> {
        peers::program("python3").is_none().then_some("python3 is not installed")
    }

    /// Starts one; its account of what happens is a file in `directory`.
    ///
    /// # Errors
    ///
    /// Fails when it does not come to listen.
    pub fn start(
        directory: &Path,
        certificate: &Certificate,
        options: TlsSinkOptions<'_>,
    ) -> Result<Self> {
        let address = ports::reserve()?;
        let log = directory.join(format!("tls-sink-{}.log", address.port()));
        let python = peers::program("python3").context("no python3")?;
        let running = Running::start(
            Command::new(python)
                .args(["-c", include_str!("tls_sink.py")])
                .args([&address.ip().to_string(), &address.port().to_string(), options.how])
                .args([&certificate.chain, &certificate.key])
                .args([options.versions.0, options.versions.1])
                .arg(options.clients.unwrap_or(Path::new(""))),
            &log,
        )?;
        let sink = Self { address, log, _running: running };
        wait_until("a sink with TLS", SOON, || Ok(sink.count("listening") == 1))?;
        Ok(sink)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has happened so far.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How many lines begin so.
    pub fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }

    /// Waits until so many lines begin so.
    ///
    /// # Errors
    ///
    /// Fails when they do not in time.
    pub fn wait(&self, start: &str, count: usize) -> Result<()> {
        wait_until(start, SOON * 2, || Ok(self.count(start) >= count))
            .with_context(|| format!("{:?}", self.lines()))
    }
}
