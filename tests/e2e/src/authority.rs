//! Somebody who vouches for clients, by openssl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::peers;
use crate::tls::Certificate;

/// From when to when a certificate holds, as openssl wants to have it.
pub type Validity<'a> = (&'a str, &'a str);

/// Of this time, whenever that is.
pub const NOW: Validity<'static> = ("20200101000000Z", "20990101000000Z");

/// Over long ago.
pub const PAST: Validity<'static> = ("20200101000000Z", "20210101000000Z");

/// Not yet begun.
pub const FUTURE: Validity<'static> = ("20980101000000Z", "20990101000000Z");

/// An authority with its files.
#[derive(Debug)]
pub struct ClientAuthority {
    directory: PathBuf,
    own: Certificate,
}

impl ClientAuthority {
    /// Makes one called `name` in a directory of its own within `directory`.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn make(directory: &Path, name: &str) -> Result<Self> {
        let directory = directory.join(name);
        fs::create_dir(&directory)?;
        let d = directory.display();
        fs::write(directory.join("index.txt"), "")?;
        fs::write(directory.join("serial"), "01\n")?;
        fs::write(directory.join("crlnumber"), "01\n")?;
        let text = format!(
            "[ca]\ndefault_ca = here\n[here]\ndatabase = {d}/index.txt\nnew_certs_dir = {d}\n\
             serial = {d}/serial\ncrlnumber = {d}/crlnumber\ndefault_md = sha256\n\
             default_crl_days = 30\nunique_subject = no\npolicy = any\n\
             [any]\ncommonName = supplied\n"
        );
        fs::write(directory.join("ca.cnf"), text)?;
        let own = Certificate { chain: directory.join("ca.pem"), key: directory.join("ca.key") };
        peers::run(
            Command::new("openssl")
                .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
                .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout"])
                .arg(&own.key)
                .arg("-out")
                .arg(&own.chain),
        )?;
        Ok(Self { directory, own })
    }

    /// Its own certificate, for those who trust it.
    pub fn ca(&self) -> &Path {
        &self.own.chain
    }

    fn openssl_ca(&self) -> Command {
        let mut command = Command::new("openssl");
        command.args(["ca", "-batch", "-config"]).arg(self.directory.join("ca.cnf"));
        command.arg("-cert").arg(&self.own.chain).arg("-keyfile").arg(&self.own.key);
        command
    }

    /// Vouches for a client: `names` are its names in `subjectAltName`, such as `email:a@b.test`.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn issue(&self, name: &str, names: &str, validity: Validity<'_>) -> Result<Certificate> {
        let file = |end: &str| self.directory.join(format!("{name}.{end}"));
        let issued = Certificate { chain: file("pem"), key: file("key") };
        peers::run(
            Command::new("openssl")
                .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
                .args(["-nodes", "-subj", &format!("/CN={name}"), "-keyout"])
                .arg(&issued.key)
                .arg("-out")
                .arg(file("csr")),
        )?;
        let extensions = format!(
            "basicConstraints = CA:FALSE\nextendedKeyUsage = clientAuth\n\
             subjectAltName = {names}\n"
        );
        fs::write(file("ext"), extensions)?;
        peers::run(
            self.openssl_ca()
                .args(["-notext", "-startdate", validity.0, "-enddate", validity.1])
                .arg("-extfile")
                .arg(file("ext"))
                .arg("-in")
                .arg(file("csr"))
                .arg("-out")
                .arg(&issued.chain),
        )?;
        Ok(issued)
    }

    /// Takes its word back; the list of all for which it has, in a file.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn revoke(&self, certificate: &Certificate) -> Result<PathBuf> {
        peers::run(self.openssl_ca().arg("-revoke").arg(&certificate.chain))?;
        self.list()
    }

    /// The list of those for which it has taken its word back.
    ///
    /// # Errors
    ///
    /// Fails when openssl does.
    pub fn list(&self) -> Result<PathBuf> {
        let list = self.directory.join("crl.pem");
        peers::run(self.openssl_ca().arg("-gencrl").arg("-out").arg(&list))?;
        Ok(list)
    }
}

/// The time in so many seconds, as in a [`Validity`].
///
/// # Errors
///
/// Fails when `date` does.
pub fn in_seconds(seconds: u32) -> Result<String> {
    let at = format!("{seconds} seconds");
    let text = peers::run(Command::new("date").args(["-u", "-d", &at, "+%Y%m%d%H%M%SZ"]))?;
    Ok(text.trim().to_owned())
}

/// Whether the time of a certificate is over.
///
/// # Errors
///
/// Fails when openssl cannot be run.
pub fn has_expired(certificate: &Certificate) -> Result<bool> {
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-checkend", "0", "-in"])
        .arg(&certificate.chain)
        .output()?;
    Ok(!output.status.success())
}

/// The SHA-256 of a certificate as openssl prints it, with colons.
///
/// # Errors
///
/// Fails when openssl does.
pub fn fingerprint(certificate: &Certificate) -> Result<String> {
    let text = peers::run(
        Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(&certificate.chain),
    )?;
    Ok(text.trim().rsplit('=').next().unwrap_or_default().to_owned())
}
