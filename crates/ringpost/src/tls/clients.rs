//! Certificates of clients: asked for, checked, and what they say.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject as _,
};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::certificate::{CertificateFacts, fingerprint};
use super::connector::verify_if_readable;
use super::material::{MaterialError, read};
use crate::auth::certificate::CertificateRule;
use crate::config::client_certificates::{CertificateMode, ClientCertificatesSection};

/// Who a client is by its certificate, which has been found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The SHA-256 of the certificate, in lower case and without colons.
    pub fingerprint: String,
    /// What it says.
    pub facts: CertificateFacts,
}

impl ClientIdentity {
    /// All that users can be told by, each once.
    pub fn rules(&self) -> BTreeSet<CertificateRule> {
        let facts = &self.facts;
        let fingerprint = CertificateRule::Fingerprint(self.fingerprint.clone());
        let subject = facts.subject.iter().map(|it| CertificateRule::Subject(it.clone()));
        let mailboxes = facts.mailboxes.iter().filter_map(|it| CertificateRule::mailbox(it));
        let hosts = facts.host_names.iter().map(|it| CertificateRule::Host(it.clone()));
        subject.chain(mailboxes).chain(hosts).chain([fingerprint]).collect()
    }
}

/// Asks clients for certificates, and says what they are worth.
pub(crate) struct ClientChecker {
    verifier: Arc<dyn ClientCertVerifier>,
    is_required: bool,
    relay_fingerprints: BTreeSet<String>,
}

impl fmt::Debug for ClientChecker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientChecker").finish_non_exhaustive()
    }
}

impl ClientChecker {
    /// Reads who vouches for clients, and what has been revoked; `None` when none are asked for.
    pub(super) fn load(
        section: &ClientCertificatesSection,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<Self>>, MaterialError> {
        if section.mode == CertificateMode::Off {
            return Ok(None);
        }
        let bad = |index: Option<usize>, reason: String| {
            let path = index.and_then(|index| section.crls.get(index));
            let path = path.unwrap_or(&section.ca).clone();
            MaterialError::Clients { crl: index, path, reason }
        };
        let pem = read(&section.ca).map_err(|error| bad(None, error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| bad(None, error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(None, error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad(None, "no certificate in PEM in it".to_owned()));
        }
        let mut lists = Vec::new();
        for (index, path) in section.crls.iter().enumerate() {
            let pem = read(path).map_err(|error| bad(Some(index), error.to_string()))?;
            let before = lists.len();
            for list in CertificateRevocationListDer::pem_slice_iter(&pem) {
                lists.push(list.map_err(|error| bad(Some(index), error.to_string()))?);
            }
            if lists.len() == before {
                return Err(bad(Some(index), "no revocation list in PEM in it".to_owned()));
            }
        }
        let roots = Arc::new(roots);
        let last = (!section.crls.is_empty()).then(|| section.crls.len() - 1);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider))
            .with_crls(lists)
            .build()
            .map_err(|error| bad(last, error.to_string()))?;
        Ok(Some(Arc::new(Self {
            verifier,
            is_required: section.mode == CertificateMode::Require,
            relay_fingerprints: section.relay_fingerprints.iter().cloned().collect(),
        })))
    }

    /// Who a client is that has shown this chain, its own certificate first, and the key to it; `None`
    /// when it has shown none.
    ///
    /// It is looked at after every handshake: a session that is resumed brings what was good when it
    /// began.
    pub(crate) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        unix_ms: u64,
    ) -> Option<Result<ClientIdentity, Error>> {
        let (own, others) = chain.split_first()?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(unix_ms));
        let identity = self.verifier.verify_client_cert(own, others, now).and_then(|_| {
            let facts = CertificateFacts::parse(own);
            let facts = facts.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
            Ok(ClientIdentity { fingerprint: fingerprint(own), facts })
        });
        Some(identity)
    }

    /// Whether a client gets in at all, of whom that is known. A handshake that resumes a session does not ask
    /// for what has become of its certificate since.
    pub(crate) fn admits(&self, shown: Option<&Result<ClientIdentity, Error>>) -> bool {
        !self.is_required || shown.is_some_and(Result::is_ok)
    }

    /// Whether a client may relay by its certificate alone.
    pub(crate) fn may_relay(&self, identity: &ClientIdentity) -> bool {
        self.relay_fingerprints.contains(&identity.fingerprint)
    }
}

impl ClientCertVerifier for ClientChecker {
    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.is_required {
            return self.verifier.verify_client_cert(end_entity, intermediates, now);
        }
        // Servers send certificates of their own wherever they are asked. Mail is not turned away for
        // them: who shows one that is not good is nobody, as without.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verify = || self.verifier.verify_tls12_signature(message, certificate, signed);
        // What cannot be read is nobody's, and turned away where a certificate is required.
        if self.is_required { verify() } else { verify_if_readable(certificate, verify) }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verify = || self.verifier.verify_tls13_signature(message, certificate, signed);
        // What cannot be read is nobody's, and turned away where a certificate is required.
        if self.is_required { verify() } else { verify_if_readable(certificate, verify) }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
