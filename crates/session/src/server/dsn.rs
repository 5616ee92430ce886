//! What the client wants to be told of its message: the DSN extension (RFC 3461).

use ringpost_protocol::extension::Extension;
use ringpost_protocol::notify::RecipientDsn;

use super::session::{Helo, ServerSession};
use super::transaction::Transaction;

/// Octets that a recipient with parameters takes beside the text of ORCPT.
const RECIPIENT_OVERHEAD: usize = 5;

impl ServerSession {
    /// Whether parameters of the extension may be given in this session.
    pub(super) fn offers_dsn(&self) -> bool {
        self.config.extensions.contains(Extension::Dsn)
            && matches!(self.helo, Some(Helo { extended: true, .. }))
    }
}

impl Transaction {
    /// Whether there is room for the parameters of so many further recipients; makes it.
    pub(super) fn has_dsn_room(
        &mut self,
        dsn: &RecipientDsn,
        count: usize,
        size_max: usize,
    ) -> bool {
        let original = dsn.original.as_ref().map_or(0, |original| original.as_str().len());
        let size = self.dsn_size + (RECIPIENT_OVERHEAD + original) * count;
        let has_room = size <= size_max;
        if has_room {
            self.dsn_size = size;
        }
        has_room
    }
}
