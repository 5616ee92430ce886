//! The handshake of an outbound connection.

use std::{net::IpAddr, sync::Arc};

use ringpost_delivery::{TlsLevel, TlsPolicy};
use ringpost_metrics::label::{RemoteTlsFailure, TlsFailure, TlsVersion as VersionLabel};
use ringpost_session::{
    client::{ClientTls, ClientTlsInfo, TlsProblem},
    server::TlsVersion,
};
use rustls::pki_types::ServerName;

use super::Outbound;
use crate::{
    runtime::Runtime,
    tls::{Connector, failure::HandshakeError},
};

/// With what a connection comes to speak TLS.
#[derive(Debug, Clone)]
pub(in crate::shard) struct TlsTarget {
    pub(in crate::shard) policy: Arc<TlsPolicy>,
    /// `None` in plain text.
    pub(in crate::shard) connector: Option<Connector>,
}

impl TlsTarget {
    /// Whether what the policy asks for is not in the configuration any more. A connection by it must not
    /// be opened: that it cannot shake hands would count as a failure of the host, and lead to plain text.
    pub(super) fn is_outdated(&self) -> bool {
        self.connector.is_none() && self.policy.session() != ClientTls::Off
    }

    /// The name to ask for, and to look for in the certificate.
    fn name(&self, mx_host: &str, ip: IpAddr) -> ServerName<'static> {
        let name = self.policy.name.as_deref().unwrap_or(mx_host);
        // What is no name is in no certificate: the address is asked for nowhere, and fails where it
        // has to be in one.
        ServerName::try_from(name.to_owned()).unwrap_or(ServerName::IpAddress(ip.into()))
    }

    fn verifies(&self) -> bool {
        self.policy.level >= TlsLevel::Verify
    }
}

impl<R: Runtime> Outbound<R> {
    /// Shakes hands, and tells the session how that went.
    pub(super) async fn start_tls(&mut self) {
        let began = self.shard.runtime.now();
        let Some(connector) = self.target.tls.connector.clone() else {
            // Never for a target that is up to date. It is no fault of the host.
            return self.session.abort();
        };
        let shaken = self.shake_hands(&connector).await;
        let now = self.shard.runtime.now();
        let metrics = &self.shard.metrics;
        let error = match shaken {
            Ok(info) => {
                metrics.remote_tls_handshakes.increment(match info.version {
                    TlsVersion::V1_2 => VersionLabel::V1_2,
                    TlsVersion::V1_3 => VersionLabel::V1_3,
                });
                metrics.remote_tls_verified.increment(u64::from(info.verified));
                metrics.remote_tls_handshake_duration.record(now - began);
                return self.session.handle_tls(now, info);
            }
            Err(error) => error,
        };
        if error.reason == TlsFailure::Shutdown {
            return self.session.abort();
        }
        tracing::debug!(
            site = %self.target.site, mx_host = %self.target.mx_host,
            address = %self.target.address, detail = error.detail, "a TLS handshake failed"
        );
        metrics.remote_tls_failures.increment(label(&error));
        if error.reason == TlsFailure::Timeout {
            self.session.handle_timeout(now);
        }
        let detail = error.detail.into();
        self.session.handle_tls_failure(if error.is_certificate {
            TlsProblem::Certificate(detail)
        } else {
            TlsProblem::Handshake(detail)
        });
    }

    async fn shake_hands(
        &mut self,
        connector: &Connector,
    ) -> Result<ClientTlsInfo, HandshakeError> {
        self.flush().await?;
        let target = self.target.tls.clone();
        let Some(config) = connector.config(target.verifies()) else {
            return Err(HandshakeError::certificate("there are no authorities to verify it by"));
        };
        let name = target.name(&self.target.mx_host, self.target.address.ip());
        self.stream.watch().set_deadline(self.session.poll_timeout());
        let shard = &self.shard;
        let done = self.stream.connect_tls(config, name.clone(), || !shard.may_deliver()).await?;
        shard.metrics.remote_tls_resumed.increment(u64::from(done.is_resumed));
        let unix_ms = shard.runtime.unix_ms();
        // The handshake has looked at it itself where it has to be right, unless it has resumed a session: the
        // certificate was good then.
        let verified = (target.verifies() && !done.is_resumed)
            || connector.is_trusted(self.stream.peer_chain(), &name, unix_ms);
        if target.verifies() && !verified {
            connector.forget(&name);
            let detail = "the certificate of a resumed session is not good any more";
            return Err(HandshakeError::certificate(detail));
        }
        Ok(ClientTlsInfo { version: done.version, cipher: done.cipher, verified })
    }

    /// Says that nothing more follows, as far as anybody listens.
    pub(super) async fn say_goodbye(&mut self) {
        let until = self.shard.runtime.now() + super::LAST_WORDS_TIMEOUT;
        self.stream.watch().set_deadline(Some(until));
        // The connection ends, heard or not.
        let _ = self.stream.close_notify().await;
    }
}

fn label(error: &HandshakeError) -> RemoteTlsFailure {
    match error.reason {
        _ if error.is_certificate => RemoteTlsFailure::Certificate,
        TlsFailure::NotTls => RemoteTlsFailure::NotTls,
        TlsFailure::Version => RemoteTlsFailure::Version,
        TlsFailure::Parameters => RemoteTlsFailure::Parameters,
        TlsFailure::CertificateRejected => RemoteTlsFailure::OwnCertificate,
        TlsFailure::Alert => RemoteTlsFailure::Alert,
        TlsFailure::Closed => RemoteTlsFailure::Closed,
        TlsFailure::Network => RemoteTlsFailure::Network,
        TlsFailure::Timeout => RemoteTlsFailure::Timeout,
        TlsFailure::ClientCertificate
        | TlsFailure::Protocol
        | TlsFailure::Limit
        | TlsFailure::Shutdown => RemoteTlsFailure::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_without_what_it_takes_is_outdated_unless_it_takes_nothing() {
        for level in [TlsLevel::Off, TlsLevel::Opportunistic, TlsLevel::Encrypt, TlsLevel::Verify] {
            let policy = Arc::new(TlsPolicy { level, ..TlsPolicy::default() });
            let target = TlsTarget { policy, connector: None };
            assert_eq!(target.is_outdated(), level != TlsLevel::Off, "{level:?}");
        }
    }
}
