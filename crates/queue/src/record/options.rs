//! What the record of a message says of its other parameters: a part that most records do not have.
//!
//! Each option is a number, the length of its value, and the value; numbers rise.

use ringpost_protocol::deliver_by::{ByMode, DeliverBy};
use ringpost_protocol::envelope::{Envelope, Utf8};
use ringpost_protocol::label::LabelText;
use ringpost_protocol::priority::Priority;

use crate::codec::Fields;

const UTF8: u8 = 1;
const PRIORITY: u8 = 2;
const REQUIRE_TLS: u8 = 4;
const TENANT: u8 = 8;
const CAMPAIGN: u8 = 9;
const TLS_OPTIONAL: u8 = 10;
const DELIVER_BY: u8 = 11;

/// Bits of the octet behind the time of [`DELIVER_BY`].
const BY_RETURN: u8 = 1;
const BY_TRACE: u8 = 2;
const BY_TOLD: u8 = 4;

/// The options that the index has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct IndexOptions {
    pub(crate) priority: Priority,
    pub(crate) tls_optional: bool,
    pub(crate) deliver_by: Option<DeliverBy>,
}

/// Encodes the options of an envelope; empty when there are none.
pub(crate) fn encode(envelope: &Envelope) -> Vec<u8> {
    let mut out = Vec::new();
    match envelope.utf8 {
        Utf8::Unmarked => {}
        Utf8::Marked => put(&mut out, UTF8, &[0]),
        Utf8::Header => put(&mut out, UTF8, &[1]),
    }
    put_priority(&mut out, envelope.priority);
    if envelope.require_tls {
        put(&mut out, REQUIRE_TLS, &[]);
    }
    for (number, text) in [(TENANT, &envelope.labels.tenant), (CAMPAIGN, &envelope.labels.campaign)]
    {
        if let Some(text) = text {
            put(&mut out, number, text.as_str().as_bytes());
        }
    }
    put_tls_optional(&mut out, envelope.tls_optional);
    put_deliver_by(&mut out, envelope.deliver_by);
    out
}

impl IndexOptions {
    /// Appends them; nothing when there are none.
    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_priority(out, self.priority);
        put_tls_optional(out, self.tls_optional);
        put_deliver_by(out, self.deliver_by);
    }

    fn take(&mut self, number: u8, value: &[u8]) -> Option<()> {
        match (number, value) {
            (PRIORITY, [level]) => {
                let priority = Priority::new(level.cast_signed());
                self.priority = priority.filter(|priority| !priority.is_normal())?;
            }
            (TLS_OPTIONAL, []) => self.tls_optional = true,
            (DELIVER_BY, value) => self.deliver_by = Some(deliver_by(value)?),
            _ => return None,
        }
        Some(())
    }
}

fn put_priority(out: &mut Vec<u8>, priority: Priority) {
    if !priority.is_normal() {
        put(out, PRIORITY, &[priority.level().cast_unsigned()]);
    }
}

fn put_tls_optional(out: &mut Vec<u8>, tls_optional: bool) {
    if tls_optional {
        put(out, TLS_OPTIONAL, &[]);
    }
}

fn put_deliver_by(out: &mut Vec<u8>, deliver_by: Option<DeliverBy>) {
    let Some(DeliverBy { by_unix_ms, mode, trace, is_told }) = deliver_by else { return };
    let bits = [(mode == ByMode::Return, BY_RETURN), (trace, BY_TRACE), (is_told, BY_TOLD)];
    let bits = bits.into_iter().filter(|(is_set, _)| *is_set).fold(0, |all, (_, bit)| all | bit);
    let mut value = [bits; 9];
    value[..8].copy_from_slice(&by_unix_ms.to_le_bytes());
    put(out, DELIVER_BY, &value);
}

fn deliver_by(value: &[u8]) -> Option<DeliverBy> {
    let (time, bits) = value.split_first_chunk::<8>()?;
    let &[bits @ 0..=7] = bits else { return None };
    Some(DeliverBy {
        by_unix_ms: u64::from_le_bytes(*time),
        mode: if bits & BY_RETURN != 0 { ByMode::Return } else { ByMode::Notify },
        trace: bits & BY_TRACE != 0,
        is_told: bits & BY_TOLD != 0,
    })
}

fn put(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    // No value is as long.
    out.extend_from_slice(&[number, value.len() as u8]);
    out.extend_from_slice(value);
}

/// Reads what [`encode`] gave into an envelope; `None` for what it cannot have given.
pub(crate) fn decode(octets: &[u8], envelope: &mut Envelope) -> Option<()> {
    let mut known = IndexOptions::default();
    each(octets, |number, value| {
        match (number, value) {
            (UTF8, [0]) => envelope.utf8 = Utf8::Marked,
            (UTF8, [1]) => envelope.utf8 = Utf8::Header,
            (REQUIRE_TLS, []) => envelope.require_tls = true,
            (TENANT, text) => envelope.labels.tenant = Some(label(text)?),
            (CAMPAIGN, text) => envelope.labels.campaign = Some(label(text)?),
            _ => known.take(number, value)?,
        }
        Some(())
    })?;
    let IndexOptions { priority, tls_optional, deliver_by } = known;
    (envelope.priority, envelope.tls_optional) = (priority, tls_optional);
    envelope.deliver_by = deliver_by;
    Some(())
}

/// The options of the index among all of them; `None` for what cannot have been written.
pub(crate) fn decode_index(octets: &[u8]) -> Option<IndexOptions> {
    let mut known = IndexOptions::default();
    each(octets, |number, value| match number {
        PRIORITY | TLS_OPTIONAL | DELIVER_BY => known.take(number, value),
        _ => Some(()),
    })?;
    Some(known)
}

/// Shows each option to `take`, as long as that takes them.
fn each(octets: &[u8], mut take: impl FnMut(u8, &[u8]) -> Option<()>) -> Option<()> {
    let mut fields = Fields::new(octets);
    let mut before = 0;
    while let Some(number) = fields.u8() {
        let len = usize::from(fields.u8()?);
        let value = fields.bytes(len)?;
        if number <= before {
            return None;
        }
        before = number;
        take(number, value)?;
    }
    Some(())
}

fn label(octets: &[u8]) -> Option<LabelText> {
    LabelText::new(std::str::from_utf8(octets).ok()?)
}
