//! Messages that may only travel under TLS: the REQUIRETLS extension (RFC 8689).

use ringpost_protocol::extension::Extension;

use super::session::{Helo, ServerSession};

impl ServerSession {
    /// Whether the parameter may be given in this session. RFC 8689 §2: not before there is TLS.
    pub(super) fn offers_requiretls(&self) -> bool {
        self.tls.is_some()
            && self.config.extensions.contains(Extension::RequireTls)
            && matches!(self.helo, Some(Helo { extended: true, .. }))
    }
}
