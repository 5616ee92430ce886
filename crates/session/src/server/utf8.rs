//! Addresses and headers outside of ASCII: the SMTPUTF8 extension (RFC 6531).

use ringpost_protocol::command::CommandError;
use ringpost_protocol::envelope::{Envelope, Utf8};
use ringpost_protocol::error::AddressError;
use ringpost_protocol::extension::Extension;
use ringpost_protocol::notify::OriginalRecipient;
use ringpost_protocol::parameter::RcptParameters;
use ringpost_protocol::path::ForwardPath;
use ringpost_protocol::reply::FixedReply;

use super::session::{Helo, ServerSession};
use super::transaction::Transaction;

impl ServerSession {
    /// Whether the parameter may be given in this session.
    pub(super) fn offers_utf8(&self) -> bool {
        matches!(self.helo, Some(Helo { extended: true, .. }))
            && self.offer().has(Extension::SmtpUtf8)
    }
}

impl Transaction {
    /// Says why RCPT may not have UTF-8, if it has some (RFC 6531 §3.5).
    pub(super) fn check_utf8(
        &self,
        path: &ForwardPath,
        parameters: &RcptParameters,
    ) -> Result<(), FixedReply> {
        if self.envelope.utf8.is_marked() {
            return Ok(());
        }
        if !path.is_ascii() {
            return Err(CommandError::ForwardPath(AddressError::NonAscii).reply());
        }
        // RFC 6533 §3: without SMTPUTF8 the parameter is in ASCII.
        let is_ascii = parameters.original.as_ref().is_none_or(OriginalRecipient::is_ascii);
        if is_ascii { Ok(()) } else { Err(CommandError::ParameterSyntax.reply()) }
    }

    /// Takes whether the header section has octets above 127.
    pub(super) fn settle_utf8(&mut self, header_eight_bit: bool) {
        if self.envelope.utf8.is_marked() && header_eight_bit {
            self.envelope.utf8 = Utf8::Header;
        }
    }
}

/// The keyword of the trace field, for a message with SMTPUTF8 another one (RFC 6531 §4.3).
pub(super) fn protocol(plain: &'static str, envelope: Option<&Envelope>) -> &'static str {
    match plain {
        _ if envelope.is_none_or(|envelope| !envelope.utf8.is_marked()) => plain,
        "ESMTP" => "UTF8SMTP",
        "ESMTPS" => "UTF8SMTPS",
        "ESMTPA" => "UTF8SMTPA",
        "ESMTPSA" => "UTF8SMTPSA",
        other => other,
    }
}
