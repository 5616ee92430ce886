//! The handshake of an inbound connection.

use ringpost_metrics::label::{Limit, TlsFailure, TlsVersion as VersionLabel};
use ringpost_session::server::{TlsInfo, TlsPolicy, TlsVersion};

use super::Inbound;
use crate::{runtime::Runtime, tls::failure::HandshakeError};

impl<R: Runtime> Inbound<R> {
    /// Shakes hands, and tells the session how that went.
    pub(super) async fn start_tls(&mut self) {
        let began = self.shard.runtime.now();
        let shaken = self.shake_hands().await;
        let now = self.shard.runtime.now();
        let counts = self.listener.metrics();
        match shaken {
            Ok(info) => {
                counts.tls_handshakes.increment(match info.version {
                    TlsVersion::V1_2 => VersionLabel::V1_2,
                    TlsVersion::V1_3 => VersionLabel::V1_3,
                });
                counts.tls_handshake_duration.record(now - began);
                self.session.set_admission(self.shard.session_admission());
                self.session.handle_tls(now, info);
            }
            Err(error) => {
                let client = self.session.peer().ip;
                let (listener, detail) = (self.listener.name(), &error.detail);
                tracing::debug!(%client, listener, detail, "a TLS handshake failed");
                counts.tls_handshake_failures.increment(error.reason);
                if error.reason == TlsFailure::Timeout {
                    self.session.handle_timeout(now);
                }
                self.session.handle_tls_failure(now);
            }
        }
    }

    async fn shake_hands(&mut self) -> Result<TlsInfo, HandshakeError> {
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
        self.stream.accept_tls(&acceptor, ahead, || shard.is_draining()).await
    }
}
