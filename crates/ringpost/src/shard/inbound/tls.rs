//! The handshake of an inbound connection.

use ringpost_metrics::label::{ClientCertificate, Limit, TlsFailure, TlsVersion as VersionLabel};
use ringpost_session::server::{CertificateRights, TlsInfo, TlsPolicy, TlsVersion};

use super::Inbound;
use crate::{
    runtime::Runtime,
    tls::{Acceptor, ClientIdentity, failure::HandshakeError},
};

/// Who a client is by the certificate that it has shown, if it has.
type Shown = Option<Result<ClientIdentity, rustls::Error>>;

impl<R: Runtime> Inbound<R> {
    /// Shakes hands, and tells the session how that went.
    pub(super) async fn start_tls(&mut self) {
        let began = self.shard.runtime.now();
        let shaken = self.shake_hands().await;
        let now = self.shard.runtime.now();
        let counts = self.listener.metrics();
        match shaken {
            Ok((info, shown)) => {
                counts.tls_handshakes.increment(match info.version {
                    TlsVersion::V1_2 => VersionLabel::V1_2,
                    TlsVersion::V1_3 => VersionLabel::V1_3,
                });
                counts.tls_handshake_duration.record(now - began);
                self.session.set_admission(self.shard.session_admission());
                self.session.handle_tls(now, info);
                self.look_at_certificate(shown);
            }
            Err(error) => {
                let client = self.session.peer().ip;
                let (listener, detail) = (self.listener.name(), &error.detail);
                if error.reason == TlsFailure::ClientCertificate {
                    tracing::info!(%client, listener, detail, "a client has no certificate to get in by");
                }
                tracing::debug!(%client, listener, detail, "a TLS handshake failed");
                counts.tls_handshake_failures.increment(error.reason);
                if error.reason == TlsFailure::Timeout {
                    self.session.handle_timeout(now);
                }
                self.session.handle_tls_failure(now);
            }
        }
    }

    /// Tells the session what the client gains by its certificate.
    fn look_at_certificate(&mut self, shown: Shown) {
        let Some(clients) = self.stream.acceptor().and_then(Acceptor::clients) else { return };
        let counts = &self.listener.metrics().tls_client_certificates;
        match shown {
            Some(Ok(identity)) => {
                counts.increment(ClientCertificate::Good);
                let config = self.shard.config();
                let users = config.users();
                let is_user =
                    users.is_some_and(|it| !it.by_certificate(&identity.rules()).is_empty());
                let may_relay = clients.may_relay(&identity);
                self.session.set_certificate_rights(CertificateRights { is_user, may_relay });
                self.identity = Some(Box::new(identity));
            }
            Some(Err(error)) => {
                counts.increment(ClientCertificate::Bad);
                let (client, listener) = (self.session.peer().ip, self.listener.name());
                tracing::info!(%client, listener, %error, "the certificate of a client is not good");
            }
            None => counts.increment(ClientCertificate::Absent),
        }
    }

    async fn shake_hands(&mut self) -> Result<(TlsInfo, Shown), HandshakeError> {
        // What tells the client to begin.
        self.flush().await?;
        // The session has taken no STARTTLS with anything behind it; and were there something, it would
        // not be taken for a part of what follows. Where TLS comes first, a proxy's header may have come
        // together with what the client has begun with.
        let is_first = self.session.tls_policy() == TlsPolicy::Implicit;
        if !is_first && !self.buffers.input.is_empty() {
            return Err(HandshakeError::new(TlsFailure::Protocol, &"input ahead of the handshake"));
        }
        let acceptor = self.listener.acceptor().filter(|_| self.listener.has_room_for_handshake());
        let Some(acceptor) = acceptor else {
            self.shard.metrics.limit_hits.increment(Limit::TlsHandshakes);
            return Err(HandshakeError::new(TlsFailure::Limit, &"too many handshakes"));
        };
        let _open = self.listener.begin_handshake();
        self.stream.watch().set_deadline(self.session.poll_timeout());
        let shard = &self.shard;
        let ahead = self.buffers.input.bytes().to_vec();
        self.buffers.input.consume(ahead.len());
        let info = self.stream.accept_tls(&acceptor, ahead, || shard.is_draining()).await?;
        let Some(clients) = acceptor.clients() else { return Ok((info, None)) };
        let shown = clients.identify(self.stream.peer_chain(), shard.runtime.unix_ms());
        if clients.admits(shown.as_ref()) {
            return Ok((info, shown));
        }
        let error = shown.and_then(Result::err).unwrap_or(rustls::Error::NoCertificatesPresented);
        Err(HandshakeError::from(error))
    }
}
