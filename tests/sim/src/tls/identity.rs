//! Whom a remote host claims to be.

use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use rustls::version::{TLS12, TLS13};

/// Hosts that there are certificates for.
pub const HOSTS_MAX: usize = 8;

/// Which certificate a host shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// One for it, from the authority that the server trusts.
    Good,
    /// One whose time is over.
    Expired,
    /// One for another host.
    OtherName,
    /// One that nobody vouches for.
    SelfSigned,
}

impl Shown {
    /// Those that are not good.
    pub const BAD: [Self; 3] = [Self::Expired, Self::OtherName, Self::SelfSigned];

    fn pem(self) -> &'static str {
        match self {
            Self::Good => include_str!("../../tls/good.pem"),
            Self::Expired => include_str!("../../tls/expired.pem"),
            Self::OtherName => include_str!("../../tls/other-name.pem"),
            Self::SelfSigned => include_str!("../../tls/self-signed.pem"),
        }
    }
}

/// What a host needs to speak TLS.
#[derive(Debug, Clone)]
pub struct Identity(Arc<ServerConfig>);

impl Identity {
    /// That of a host by number; `is_old` if it knows TLS 1.2 only.
    ///
    /// # Errors
    ///
    /// When there is no certificate for it.
    pub fn new(host: usize, shown: Shown, is_old: bool) -> anyhow::Result<Self> {
        let at = if shown == Shown::Good { host } else { 0 };
        let chain = CertificateDer::pem_slice_iter(shown.pem().as_bytes()).nth(at);
        let chain = chain.context("no certificate for the host")??;
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../../tls/host-key.pem"))?;
        let versions = if is_old { &[&TLS12][..] } else { &[&TLS12, &TLS13] };
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)?
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)?;
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier as _};
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// Whether the authority vouches for a host by the name that its mail is sent by.
    fn is_taken(shown: Shown, at: usize, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(crate::tls::AUTHORITY).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let chain = CertificateDer::pem_slice_iter(shown.pem().as_bytes()).nth(at).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let verifier = verifier.build().unwrap();
        verifier.verify_server_cert(&chain.unwrap(), &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[test]
    fn only_the_good_ones_are_taken_and_by_their_own_names() {
        for at in 0..HOSTS_MAX {
            for name in [format!("mx{at}.test"), "d0.test".into(), format!("10.0.1.{}", at + 1)] {
                assert!(is_taken(Shown::Good, at, &name), "{name}");
            }
            assert!(!is_taken(Shown::Good, at, &format!("mx{}.test", (at + 1) % HOSTS_MAX)));
            assert!(Identity::new(at, Shown::Good, at == 0).is_ok());
        }
        for shown in Shown::BAD {
            assert!(!is_taken(shown, 0, "mx0.test"), "{shown:?}");
            assert!(Identity::new(7, shown, false).is_ok());
        }
        assert!(Identity::new(HOSTS_MAX, Shown::Good, false).is_err());
    }
}
