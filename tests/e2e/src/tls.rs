//! Certificates made by openssl, and openssl as a client.

use std::net::{IpAddr, SocketAddr};
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
        let alternatives: Vec<String> = names.iter().map(|name| alternative(name)).collect();
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

/// A certificate authority of the test's own.
#[derive(Debug, Clone)]
pub struct Authority(Certificate);

impl Authority {
    /// Makes one in `directory`.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn make(directory: &Path, file: &str) -> Result<Self> {
        Ok(Self(Certificate::make(directory, file, &["authority.test"])?))
    }

    /// Its own certificate.
    pub fn file(&self) -> &Path {
        &self.0.chain
    }

    /// Makes a certificate in `directory` for `names`, good from now on for `days`; of no days it is out of
    /// date in the next second.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn issue(
        &self,
        directory: &Path,
        file: &str,
        names: &[&str],
        days: u32,
    ) -> Result<Certificate> {
        let path = |end: &str| directory.join(format!("{file}.{end}"));
        let (chain, key, request) = (path("pem"), path("key"), path("csr"));
        let subject = format!("/CN={}", names.first().context("no name")?);
        let alternatives: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        peers::run(
            Command::new("openssl")
                .args(["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
                .args(["-subj", &subject, "-addext", "basicConstraints=CA:FALSE", "-addext"])
                .arg(format!("subjectAltName={}", alternatives.join(",")))
                .args([Path::new("-keyout"), &key, Path::new("-out"), &request]),
        )?;
        peers::run(
            Command::new("openssl")
                .args(["x509", "-req", "-copy_extensions", "copy", "-days", &days.to_string()])
                .args([Path::new("-in"), &request, Path::new("-out"), &chain])
                .args([Path::new("-CA"), &self.0.chain, Path::new("-CAkey"), &self.0.key])
                .args(["-set_serial", &format!("{}", file.len() + 1000)]),
        )?;
        Ok(Certificate { chain, key })
    }
}

/// A name for `subjectAltName`; some clients want to have an address as one, and some as a name.
fn alternative(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => format!("DNS:{name},IP:{address}"),
        Err(_) => format!("DNS:{name}"),
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
