//! Why a handshake failed, as metrics tell it.

use std::{fmt::Display, io};

use ringpost_metrics::label::TlsFailure;
use rustls::{AlertDescription, Error, PeerIncompatible};

/// A handshake that failed.
#[derive(Debug)]
pub(crate) struct HandshakeError {
    /// What to count it as.
    pub(crate) reason: TlsFailure,
    /// What there is to say about it, for the log.
    pub(crate) detail: String,
    /// Whether the other end's certificate is not one that we take.
    pub(crate) is_certificate: bool,
}

impl HandshakeError {
    pub(crate) fn new(reason: TlsFailure, detail: &dyn Display) -> Self {
        Self { reason, detail: detail.to_string(), is_certificate: false }
    }

    /// Of a certificate that we do not take.
    pub(crate) fn certificate(detail: &str) -> Self {
        let failure = Self::new(TlsFailure::Protocol, &detail);
        Self { is_certificate: true, ..failure }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        let is_certificate =
            matches!(error, Error::InvalidCertificate(_) | Error::NoCertificatesPresented);
        Self { is_certificate, ..Self::new(reason(&error), &error) }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::TimedOut => TlsFailure::Timeout,
            _ => TlsFailure::Network,
        };
        Self::new(reason, &error)
    }
}

fn reason(error: &Error) -> TlsFailure {
    match error {
        Error::InvalidMessage(_) => TlsFailure::NotTls,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            // There is none before TLS 1.2, and this is looked at before the version.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => TlsFailure::Version,
        Error::NoCertificatesPresented | Error::InvalidCertificate(_) => {
            TlsFailure::ClientCertificate
        }
        Error::PeerIncompatible(_) => TlsFailure::Parameters,
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => TlsFailure::CertificateRejected,
        Error::AlertReceived(_) => TlsFailure::Alert,
        _ => TlsFailure::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_their_kind() {
        for (error, expected) in [
            (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), TlsFailure::NotTls),
            (Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered), TlsFailure::Version),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                TlsFailure::Parameters,
            ),
            (Error::AlertReceived(AlertDescription::UnknownCA), TlsFailure::CertificateRejected),
            (Error::AlertReceived(AlertDescription::InternalError), TlsFailure::Alert),
            (Error::NoCertificatesPresented, TlsFailure::ClientCertificate),
            (Error::DecryptError, TlsFailure::Protocol),
        ] {
            assert_eq!(HandshakeError::from(error.clone()).reason, expected, "{error:?}");
        }
        let late = HandshakeError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(late.reason, TlsFailure::Timeout);
    }
}
