//! What tells one TLS connection from all others (RFC 5056).

use std::fmt;

/// Octets of what TLS exports for it (RFC 9266 §4.2).
pub const EXPORTER_SIZE: usize = 32;

/// What SCRAM can be bound to. Default: nothing.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Channel {
    /// `tls-exporter` (RFC 9266): a secret of this connection and no other.
    pub exporter: Option<[u8; EXPORTER_SIZE]>,
    /// `tls-server-end-point` (RFC 5929 §4): the hash of our certificate.
    pub end_point: Option<Box<[u8]>>,
}

impl Channel {
    /// What a name of a binding stands for here; `None` for one that we do not know.
    pub fn binding(&self, name: &str) -> Option<&[u8]> {
        match name {
            "tls-exporter" => self.exporter.as_ref().map(AsRef::as_ref),
            "tls-server-end-point" => self.end_point.as_deref(),
            _ => None,
        }
    }
}

impl fmt::Debug for Channel {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}
