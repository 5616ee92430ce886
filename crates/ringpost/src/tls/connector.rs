//! What is needed to speak TLS with next hops: authorities, a certificate of our own, versions.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ClientSessionMemoryCache, ClientSessionStore as _, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use thiserror::Error;

use super::material::{CertificateFiles, read};
use crate::config::schema::TlsVersionMin;

/// Where systems keep the authorities that they trust, in one file.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a [`Connector`] is made from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectorSettings {
    /// The authorities to trust, in PEM; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate to show to servers that ask for one.
    pub certificate: Option<CertificateFiles>,
    /// The lowest version to speak.
    pub version_min: TlsVersionMin,
}

/// Why a [`Connector`] cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectorError {
    /// The authorities cannot be read.
    #[error("{}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The certificate or its key cannot be used.
    #[error("{}: {reason}", path.display())]
    Certificate {
        /// Whether it is the file of the key.
        is_key: bool,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// TLS cannot be set up at all.
    #[error("TLS cannot be set up: {0}")]
    General(String),
}

/// Authorities that are trusted, and a number that is the same for the same ones.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    fingerprint: u64,
}

impl Roots {
    /// Those of the system; none when it has no bundle of them.
    pub fn of_system() -> Self {
        SYSTEM_BUNDLES
            .iter()
            .find_map(|path| Self::load(Path::new(path)).ok())
            .unwrap_or_else(|| Self { store: Arc::new(RootCertStore::empty()), fingerprint: 0 })
    }

    fn load(path: &Path) -> Result<Self, String> {
        let pem = read(path).map_err(|error| error.to_string())?;
        let mut store = RootCertStore::empty();
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?;
        // One that is odd does not spoil the others.
        let (added, _) = store.add_parsable_certificates(certificates);
        if added == 0 {
            return Err("no certificate of an authority in PEM in it".to_owned());
        }
        let mut hasher = DefaultHasher::new();
        pem.hash(&mut hasher);
        Ok(Self { store: Arc::new(store), fingerprint: hasher.finish() })
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Roots").field("len", &self.store.len()).finish_non_exhaustive()
    }
}

/// What is needed to shake hands with next hops. Clones share it, and what is remembered of sessions.
#[derive(Clone)]
pub struct Connector {
    /// For those whose certificate may be anything.
    any: Arc<ClientConfig>,
    /// For those whose certificate has to be right, if there are authorities.
    strict: Option<Arc<ClientConfig>>,
    verifier: Option<Arc<WebPkiServerVerifier>>,
    /// What is remembered of sessions with those whose certificate has to be right.
    sessions: Option<Arc<ClientSessionMemoryCache>>,
    fingerprint: u64,
}

impl Connector {
    /// Reads the files. `system` gives the authorities of the system, where no others are named.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn load(
        settings: &ConnectorSettings,
        system: impl FnOnce() -> Roots,
    ) -> Result<Self, ConnectorError> {
        let roots = match &settings.ca_file {
            None => system(),
            Some(path) => Roots::load(path)
                .map_err(|reason| ConnectorError::Authorities { path: path.clone(), reason })?,
        };
        let mut hasher = DefaultHasher::new();
        (settings, roots.fingerprint).hash(&mut hasher);
        let certificate = settings.certificate.as_ref().map(read_certificate).transpose()?;
        if let Some((chain, key)) = &certificate {
            for one in chain {
                one.as_ref().hash(&mut hasher);
            }
            key.secret_der().hash(&mut hasher);
        }
        let provider = Arc::new(ring::default_provider());
        let general = |error: &dyn fmt::Display| ConnectorError::General(error.to_string());
        let verifier = if roots.store.is_empty() {
            None
        } else {
            let builder =
                WebPkiServerVerifier::builder_with_provider(roots.store, Arc::clone(&provider));
            Some(builder.build().map_err(|error| general(&error))?)
        };
        let make = |verifier: Arc<dyn ServerCertVerifier>| {
            let versions = match settings.version_min {
                TlsVersionMin::V1_2 => &[&TLS13, &TLS12][..],
                TlsVersionMin::V1_3 => &[&TLS13],
            };
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(versions)
                .map_err(|error| general(&error))?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            let config = match &certificate {
                None => builder.with_no_client_auth(),
                Some((chain, key)) => {
                    let files = settings.certificate.as_ref();
                    builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(
                        |error| ConnectorError::Certificate {
                            is_key: true,
                            path: files.map(|files| files.key.clone()).unwrap_or_default(),
                            reason: error.to_string(),
                        },
                    )?
                }
            };
            Ok(Arc::new(config))
        };
        let any = make(Arc::new(AnyCertificate(Arc::clone(&provider))))?;
        let strict = verifier.clone().map(|verifier| make(verifier)).transpose()?;
        Ok(Self { any, strict, verifier, sessions: None, fingerprint: hasher.finish() })
    }

    /// A number that is the same for the same settings and the same content of the files.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether there are authorities to verify certificates by.
    pub fn can_verify(&self) -> bool {
        self.strict.is_some()
    }

    /// The same with a memory of its own for up to `hosts` hosts whose sessions can be resumed, so that
    /// cores share none.
    pub(crate) fn with_own_sessions(&self, hosts: usize) -> Self {
        let memory = || (hosts > 0).then(|| Arc::new(ClientSessionMemoryCache::new(hosts)));
        let with = |config: &Arc<ClientConfig>, memory: Option<Arc<ClientSessionMemoryCache>>| {
            let mut config = ClientConfig::clone(config);
            config.resumption = match memory {
                Some(memory) => Resumption::store(memory),
                None => Resumption::disabled(),
            };
            Arc::new(config)
        };
        let sessions = memory();
        let strict = self.strict.as_ref().map(|strict| with(strict, sessions.clone()));
        Self { any: with(&self.any, memory()), strict, sessions, ..self.clone() }
    }

    /// Forgets the sessions with a host whose certificate has to be right: the next handshake begins one.
    pub(crate) fn forget(&self, name: &ServerName<'static>) {
        let Some(sessions) = &self.sessions else { return };
        sessions.remove_tls12_session(name);
        // There are few of them, and each is given once.
        while sessions.take_tls13_ticket(name).is_some() {}
    }

    /// What to shake hands by; `None` when certificates are to be verified and there are no authorities.
    pub(crate) fn config(&self, verifies: bool) -> Option<Arc<ClientConfig>> {
        if verifies { self.strict.clone() } else { Some(Arc::clone(&self.any)) }
    }

    /// Whether a chain is one that we would trust for a name. To be asked after a handshake that took
    /// any certificate.
    pub(crate) fn is_trusted(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        unix_ms: u64,
    ) -> bool {
        let (Some(verifier), Some((own, rest))) = (&self.verifier, chain.split_first()) else {
            return false;
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_millis(unix_ms));
        verifier.verify_server_cert(own, rest, name, &[], now).is_ok()
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = format_args!("{:016x}", self.fingerprint);
        formatter.debug_tuple("Connector").field(&number).finish()
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

type Certificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_certificate(files: &CertificateFiles) -> Result<Certificate, ConnectorError> {
    let bad = |is_key: bool, reason: String| {
        let path = if is_key { files.key.clone() } else { files.chain.clone() };
        ConnectorError::Certificate { is_key, path, reason }
    };
    let pem = read(&files.chain).map_err(|error| bad(false, error.to_string()))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| bad(false, error.to_string()))?;
    if chain.is_empty() {
        return Err(bad(false, "no certificate in PEM in it".to_owned()));
    }
    let pem = read(&files.key).map_err(|error| bad(true, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| bad(true, "no private key in PEM in it".to_owned()))?;
    Ok((chain, key))
}

/// Takes any certificate (RFC 7435): who it is that we speak to is not known then.
///
/// That it is who has the key is looked at all the same, where the certificate can be read, so that what
/// [`Connector::is_trusted`] says afterwards is about the other end and not about what it has copied.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

/// Looks at a signature by `verify`, where the certificate that it is by can be read. Where it cannot it is
/// nobody's, whoever has signed.
pub(super) fn verify_if_readable(
    certificate: &CertificateDer<'_>,
    verify: impl FnOnce() -> Result<HandshakeSignatureValid, rustls::Error>,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    if webpki::EndEntityCert::try_from(certificate).is_err() {
        return Ok(HandshakeSignatureValid::assertion());
    }
    verify()
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_if_readable(certificate, || {
            verify_tls12_signature(message, certificate, signed, algorithms)
        })
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_if_readable(certificate, || {
            verify_tls13_signature(message, certificate, signed, algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
