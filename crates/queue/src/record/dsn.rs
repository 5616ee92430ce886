//! What the record of a message says of reports on it (RFC 3461): a part that most records do not have.

use ringpost_protocol::notify::{
    DsnParameters, EnvelopeId, Notify, OriginalRecipient, RecipientDsn, Return,
};

use crate::codec::Fields;

/// Set in the notify octet of a recipient that has a NOTIFY.
const HAS_NOTIFY: u8 = 0x80;

/// Encodes parameters; `None` when there are none, or when they do not fit.
pub(crate) fn encode(dsn: &DsnParameters) -> Option<Vec<u8>> {
    if dsn.is_empty() {
        return None;
    }
    let mut out = Vec::with_capacity(64);
    out.push(match dsn.ret() {
        None => 0,
        Some(Return::Full) => 1,
        Some(Return::Headers) => 2,
    });
    let id = dsn.envelope_id().map_or("", EnvelopeId::as_str);
    out.push(u8::try_from(id.len()).ok()?);
    out.extend_from_slice(id.as_bytes());
    for (at, recipient) in dsn.recipients() {
        out.extend_from_slice(&u16::try_from(at).ok()?.to_le_bytes());
        out.push(recipient.notify.map_or(0, |notify| HAS_NOTIFY | notify.to_bits()));
        let original = recipient.original.as_ref().map_or("", OriginalRecipient::as_str);
        out.extend_from_slice(&u16::try_from(original.len()).ok()?.to_le_bytes());
        out.extend_from_slice(original.as_bytes());
    }
    Some(out)
}

/// Reads what [`encode`] gave, for a message of so many recipients.
pub(crate) fn decode(octets: &[u8], recipients: usize) -> Option<DsnParameters> {
    let mut dsn = DsnParameters::default();
    if octets.is_empty() {
        return Some(dsn);
    }
    let mut fields = Fields::new(octets);
    let ret = match fields.u8()? {
        0 => None,
        1 => Some(Return::Full),
        2 => Some(Return::Headers),
        _ => return None,
    };
    let id_len = usize::from(fields.u8()?);
    let id = fields.text(id_len)?;
    let id = if id.is_empty() { None } else { Some(EnvelopeId::parse(id)?) };
    dsn.set_message(ret, id);
    while let Some(at) = fields.u16() {
        let notify = match fields.u8()? {
            0 => None,
            octet => Some(Notify::from_bits(octet.checked_sub(HAS_NOTIFY)?)?),
        };
        let original_len = usize::from(fields.u16()?);
        let original = fields.text(original_len)?;
        let original =
            if original.is_empty() { None } else { Some(OriginalRecipient::parse(original)?) };
        let at = usize::from(at);
        if at >= recipients || dsn.recipient(at).is_some() {
            return None;
        }
        dsn.set_recipient(at, RecipientDsn::new(notify, original));
    }
    fields.rest().is_empty().then_some(dsn)
}
