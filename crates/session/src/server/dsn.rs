//! What the client wants to be told of its message: the DSN extension (RFC 3461).

use ringpost_protocol::extension::Extension;
use ringpost_protocol::notify::{OriginalRecipient, RecipientDsn};
use ringpost_protocol::parameter::RcptParameters;
use ringpost_protocol::path::ForwardPath;

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
    /// Whether there is room for the parameters of another recipient; makes it.
    pub(super) fn has_dsn_room(&mut self, parameters: &RcptParameters, size_max: usize) -> bool {
        let original = parameters.original.as_ref().map_or(0, |original| original.as_str().len());
        let size = self.dsn_size + RECIPIENT_OVERHEAD + original;
        let has_room = size <= size_max;
        if has_room {
            self.dsn_size = size;
        }
        has_room
    }

    /// Notes the parameters of the recipient that comes next; `named` is what RCPT had, if we have put
    /// another address in its place.
    pub(super) fn note_dsn(&mut self, parameters: RcptParameters, named: Option<&ForwardPath>) {
        let RcptParameters { notify, mut original, .. } = parameters;
        if let (Some(_), Some(named)) = (notify, named) {
            // RFC 3461 §5.2.1 d: what a later host reports on is what the client has written to.
            original.get_or_insert_with(|| OriginalRecipient::of(named));
        }
        let at = self.envelope.forward_paths.len();
        self.envelope.dsn.set_recipient(at, RecipientDsn::new(notify, original));
    }
}
