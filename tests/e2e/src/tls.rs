//! Certificates made by openssl, and openssl as a client.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result};

use crate::peers;

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, which vouches for itself.
    pub chain: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in `directory` for `names`; the first is its subject.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn make(directory: &Path, file: &str, names: &[&str]) -> Result<Self> {
        let (chain, key) =
            (directory.join(format!("{file}.pem")), directory.join(format!("{file}.key")));
        let subject = format!("/CN={}", names.first().context("no name")?);
        let alternatives: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        peers::run(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(["-nodes", "-days", "2", "-subj", &subject, "-addext"])
                .arg(format!("subjectAltName={}", alternatives.join(",")))
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&chain),
        )?;
        Ok(Self { chain, key })
    }

    /// The element of `certificates` in the configuration.
    pub fn toml(&self) -> String {
        format!("{{ chain = \"{}\", key = \"{}\" }}", self.chain.display(), self.key.display())
    }
}

/// Connects with `openssl s_client`, says nothing, and returns what it tells of the handshake.
///
/// # Errors
///
/// Fails when there is no openssl; whether there was a handshake is in its status.
pub fn s_client(address: SocketAddr, arguments: &[&str]) -> Result<Output> {
    Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("cannot run openssl")
}
