//! Certificates and keys: read from files, checked, chosen by the name that a client asks for.

use std::{
    collections::HashMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use thiserror::Error;

use super::certificate::CertificateFacts;
use super::clients::ClientChecker;
use crate::config::client_certificates::ClientCertificatesSection;

/// A larger file is not a certificate or a key.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The certificate and those that vouch for it, in PEM, its own first.
    pub chain: PathBuf,
    /// The private key, in PEM.
    pub key: PathBuf,
}

/// What is needed to accept TLS on a listener. Clones share it.
#[derive(Clone)]
pub struct Acceptor(Arc<Material>);

struct Material {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
    clients: Option<Arc<ClientChecker>>,
}

impl Acceptor {
    /// Reads certificates, and who vouches for those of clients. The first is for clients that ask for no name, or for one that none has.
    ///
    /// TLS 1.2 and 1.3 are spoken; sessions are resumed by tickets, whose keys live in memory only and
    /// are changed every six hours.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn load(
        certificates: &[CertificateFiles],
        clients: &ClientCertificatesSection,
    ) -> Result<Self, MaterialError> {
        let provider = ring::default_provider();
        let mut store = Certificates::default();
        for (index, files) in certificates.iter().enumerate() {
            store.add(index, files, &provider)?;
        }
        let general = |error: rustls::Error| MaterialError::General(error.to_string());
        let certificates = Arc::new(store);
        let provider = Arc::new(provider);
        let clients = ClientChecker::load(clients, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(general)?
            .with_client_cert_verifier(match &clients {
                Some(clients) => Arc::clone(clients) as _,
                None => WebPkiClientVerifier::no_client_auth(),
            })
            .with_cert_resolver(Arc::clone(&certificates) as _);
        config.ignore_client_order = true;
        config.ticketer = ring::Ticketer::new().map_err(general)?;
        config.send_tls13_tickets = 1;
        // Tickets need no memory on our side, and no lock between the cores.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(Material { config: Arc::new(config), certificates, clients })))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.config)
    }

    /// When the first of our certificates expires, in seconds since 1970; `None` without certificates.
    pub fn expires_unix(&self) -> Option<i64> {
        self.0.certificates.expires_unix
    }

    /// What is made of certificates of clients, if they are asked for.
    pub(crate) fn clients(&self) -> Option<&ClientChecker> {
        self.0.clients.as_deref()
    }

    /// What `tls-server-end-point` stands for (RFC 5929 §4) on a connection whose client has asked for a
    /// name, or for none.
    pub(crate) fn end_point(&self, name: Option<&str>) -> Option<Box<[u8]>> {
        // The same that the handshake has taken: none changes while the acceptor lives, and tickets, which
        // leave it out, are for the name that they were given for.
        let certified = self.0.certificates.choose(name)?;
        let own = certified.cert.first()?;
        CertificateFacts::parse(own)?.end_point(own)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl PartialEq for Acceptor {
    /// Whether both are the same, not whether they are alike.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Why certificates cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// A file cannot be read, or not used.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which of the certificates, from 0.
        index: usize,
        /// Whether it is the file of the key.
        is_key: bool,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// What is needed to check clients cannot be read, or not used.
    #[error("{}: {reason}", path.display())]
    Clients {
        /// Which of the lists of what was revoked, from 0; `None` for those who vouch.
        crl: Option<usize>,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up: {0}")]
    General(String),
}

impl MaterialError {
    /// The key of the listener that is at fault.
    pub(crate) fn place(&self) -> Vec<String> {
        let owned = |place: &[&str]| place.iter().map(|&part| part.to_owned()).collect();
        match self {
            Self::File { index, is_key, .. } => {
                let key = if *is_key { "key" } else { "chain" };
                owned(&["certificates", &index.to_string(), key])
            }
            Self::Clients { crl: None, .. } => owned(&["client_certificates", "ca"]),
            Self::Clients { crl: Some(index), .. } => {
                owned(&["client_certificates", "crls", &index.to_string()])
            }
            Self::General(_) => owned(&["certificates"]),
        }
    }
}

/// Certificates by the names that they are for.
#[derive(Debug, Default)]
struct Certificates {
    first: Option<Arc<CertifiedKey>>,
    expires_unix: Option<i64>,
    /// In lower case; those for all names of a domain begin with `*.`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    fn add(
        &mut self,
        index: usize,
        files: &CertificateFiles,
        provider: &CryptoProvider,
    ) -> Result<(), MaterialError> {
        let bad_chain = |reason: String| {
            let path = files.chain.clone();
            MaterialError::File { index, is_key: false, path, reason }
        };
        let bad_key = |reason: String| {
            let path = files.key.clone();
            MaterialError::File { index, is_key: true, path, reason }
        };
        let pem = read(&files.chain).map_err(|error| bad_chain(error.to_string()))?;
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| bad_chain(error.to_string()))?;
        let Some(own) = chain.first().cloned() else {
            return Err(bad_chain("no certificate in PEM in it".to_owned()));
        };
        let pem = read(&files.key).map_err(|error| bad_key(error.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| bad_key("no private key in PEM in it".to_owned()))?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            let mismatch = matches!(error, rustls::Error::InconsistentKeys(_));
            let of = files.chain.display();
            let what = if mismatch { format!("not the key of {of}") } else { error.to_string() };
            bad_key(what)
        })?;
        let certified = Arc::new(certified);
        let parsed = webpki::EndEntityCert::try_from(&own)
            .map_err(|error| bad_chain(format!("not a certificate for a server: {error:?}")))?;
        for name in parsed.valid_dns_names() {
            let name = name.to_ascii_lowercase();
            self.by_name.entry(name).or_insert_with(|| Arc::clone(&certified));
        }
        if let Some(facts) = CertificateFacts::parse(&own) {
            let expires = facts.not_after_unix;
            self.expires_unix = Some(self.expires_unix.map_or(expires, |it| it.min(expires)));
        }
        self.first.get_or_insert(certified);
        Ok(())
    }

    /// The certificate for a name, or the first.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            // RFC 6125 §6.4.3: a wildcard is for one label.
            let wildcard = || self.by_name.get(&format!("*.{}", name.split_once('.')?.1));
            self.by_name.get(&name).or_else(wildcard)
        });
        named.or(self.first.as_ref()).map(Arc::clone)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

/// Reads a file that is one, and not too large for what it should be.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(io::Error::other("too large"));
    }
    Ok(bytes)
}
