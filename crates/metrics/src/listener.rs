//! What one listener counts on one shard.

use metrics::{Counter, Gauge, Histogram, Label};

use crate::catalog::Scope;
use crate::family::Family;
use crate::label::{
    AddedField, AuthMechanism, ClientCertificate, MessageLabel, ProxyHeader, TlsFailure, TlsVersion,
};
use crate::table::metric_table;

metric_table! {
    /// The handles of one listener on one shard, registered once and owned by it.
    ///
    /// Every series carries the labels `core` and `listener`; the names of listeners come from the
    /// configuration, so there are no more of them than it has.
    pub struct ListenerMetrics, LISTENER_ROWS, Scope::Listener;

    sessions_accepted: Counter = "ringpost_sessions_accepted_total", Count,
        "Inbound sessions that were begun.";
    sessions_refused: Counter = "ringpost_sessions_refused_total", Count,
        "Inbound connections closed before a greeting because of a limit.";
    messages_received: Counter = "ringpost_messages_received_total", Count,
        "Messages acknowledged with 250: durable and ours to deliver.";
    recipients_received: Counter = "ringpost_recipients_received_total", Count,
        "Recipients of acknowledged messages.";
    received_bytes: Counter = "ringpost_received_bytes_total", Bytes,
        "Content of acknowledged messages.";
    fields_added: Family<AddedField, Counter> = "ringpost_header_fields_added_total", Count,
        "Header fields added to acknowledged messages that had none of the name, by field.";
    messages_labelled: Family<MessageLabel, Counter> = "ringpost_messages_labelled_total", Count,
        "Acknowledged messages whose tenant, or whose campaign, is known.";
    messages_deliver_by: Counter = "ringpost_messages_deliver_by_total", Count,
        "Acknowledged messages for which the client has said by when they are to be delivered.";
    messages_tls_optional: Counter = "ringpost_messages_tls_optional_total", Count,
        "Acknowledged messages whose senders ask that they go on without TLS rather than not at all.";

    aliases_expanded: Counter = "ringpost_aliases_expanded_total", Count,
        "Recipients that were aliases, and were replaced by what these stand for.";
    flushes: Counter = "ringpost_flushes_total", Count,
        "ETRN commands by which a client had mail tried.";
    proxy_headers: Family<ProxyHeader, Counter> = "ringpost_proxy_headers_total", Count,
        "Connections of proxies, by what came of the PROXY protocol header that they had to send.";
    clients_named: Counter = "ringpost_clients_named_total", Count,
        "XCLIENT commands by which a gateway said for whom it speaks.";
    tls_handshakes: Family<TlsVersion, Counter> = "ringpost_tls_handshakes_total", Count,
        "TLS handshakes of clients that were completed, by version.";
    tls_handshake_failures: Family<TlsFailure, Counter> = "ringpost_tls_handshake_failures_total", Count,
        "TLS handshakes of clients that failed, by reason.";
    tls_handshake_duration: Histogram = "ringpost_tls_handshake_duration_seconds", Seconds,
        "How long completed TLS handshakes took, waits for the client included.";
    tls_client_certificates: Family<ClientCertificate, Counter> = "ringpost_tls_client_certificates_total", Count,
        "TLS handshakes that were completed with clients that were asked for a certificate, by what they showed.";
    tls_certificate_expiry: Gauge = "ringpost_tls_certificate_expiry_seconds", Seconds,
        "When the first of the certificates that clients are shown expires, in seconds since 1970; 0 without any.";
    tls_breaks: Counter = "ringpost_tls_breaks_total", Count,
        "Sessions over TLS that ended by a bad record, or by an end without the alert that should announce it.";

    auth_succeeded: Family<AuthMechanism, Counter> = "ringpost_auth_succeeded_total", Count,
        "Authentications of clients that succeeded, by mechanism.";
    auth_failed: Family<AuthMechanism, Counter> = "ringpost_auth_failed_total", Count,
        "Authentications of clients that failed: an unknown user, or a wrong password.";
    auth_put_off: Family<AuthMechanism, Counter> = "ringpost_auth_put_off_total", Count,
        "Authentications of clients that were put off, because nobody could find out about them.";
}

impl ListenerMetrics {
    /// Registers the handles of one listener on one core with the current recorder.
    ///
    /// To be called once for each listener of each shard, at start; it allocates and takes locks.
    pub fn register(core: usize, listener: &str) -> Self {
        let listener = Label::new("listener", listener.to_owned());
        Self::register_with(&[Label::new("core", core.to_string()), listener])
    }
}
