//! TLS as an application and a remote host speak it, and the certificate of the server.
//!
//! The library takes its randomness from the machine, not from the seed. That does not show: the key
//! and the signatures are of a kind (Ed25519, X25519) that always has the same length, so that each
//! flight is as long in every run; and of what is encrypted only the length goes into the trace.

mod identity;

use std::io::{self, BufReader, Read as _, Write as _};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection};

pub use self::identity::{HOSTS_MAX, Identity, Shown};

/// Where remote hosts listen for those who begin with TLS.
pub const TLS_PORT: u16 = 465;

/// The name in the certificate.
const NAME: &str = "mta.test";

/// The certificate, for the configuration of the server.
pub const CHAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/chain.pem");

/// Its key.
pub const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/key.pem");

/// The authority that the server is to trust.
pub const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tls/ca.pem");

/// What is needed to speak TLS with the server.
#[derive(Debug, Clone)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// Trusts the certificate of the server, and nobody else.
    ///
    /// # Errors
    ///
    /// When the certificate cannot be used.
    pub fn new() -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(CHAIN)? {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }
}

/// TLS on a connection, without the connection.
#[derive(Debug)]
pub struct Tls {
    connection: Connection,
}

impl Tls {
    /// Begins a handshake with the server.
    ///
    /// # Errors
    ///
    /// What the library says.
    pub fn connect(trust: &Trust) -> anyhow::Result<Self> {
        let name = ServerName::try_from(NAME)?;
        Ok(Self::with(ClientConnection::new(Arc::clone(&trust.0), name)?.into()))
    }

    /// Waits for the server to begin one, as the host with this identity.
    ///
    /// # Errors
    ///
    /// What the library says.
    pub fn accept(identity: &Identity) -> anyhow::Result<Self> {
        Ok(Self::with(ServerConnection::new(identity.config())?.into()))
    }

    fn with(mut connection: Connection) -> Self {
        connection.set_buffer_limit(None);
        Self { connection }
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Takes what has come from the other side, and appends what it says to `plain`. Whether it may say
    /// more.
    ///
    /// # Errors
    ///
    /// When that is not TLS, or not as it should be.
    pub fn take(&mut self, mut octets: &[u8], plain: &mut Vec<u8>) -> io::Result<bool> {
        while !octets.is_empty() {
            self.connection.read_tls(&mut octets)?;
            self.connection.process_new_packets().map_err(io::Error::other)?;
            match BufReader::new(self.connection.reader()).read_to_end(plain) {
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Gives `plain` as it goes to the other side, with what else has to go there.
    ///
    /// # Errors
    ///
    /// What the library says.
    pub fn give(&mut self, plain: &[u8]) -> io::Result<Vec<u8>> {
        self.connection.writer().write_all(plain)?;
        let mut octets = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut octets)?;
        }
        Ok(octets)
    }

    /// Lets the other side know that nothing more follows.
    pub fn end(&mut self) {
        self.connection.send_close_notify();
    }
}
