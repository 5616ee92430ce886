//! What the record of a message says of its other parameters: a part that most records do not have.
//!
//! Each option is a number, the length of its value, and the value; numbers rise.

use ringpost_protocol::envelope::{Envelope, Utf8};

use crate::codec::Fields;

const UTF8: u8 = 1;

/// Encodes the options of an envelope; empty when there are none.
pub(crate) fn encode(envelope: &Envelope) -> Vec<u8> {
    let mut out = Vec::new();
    match envelope.utf8 {
        Utf8::Unmarked => {}
        Utf8::Marked => put(&mut out, UTF8, &[0]),
        Utf8::Header => put(&mut out, UTF8, &[1]),
    }
    out
}

fn put(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    // No value is as long.
    out.extend_from_slice(&[number, value.len() as u8]);
    out.extend_from_slice(value);
}

/// Reads what [`encode`] gave into an envelope; `None` for what it cannot have given.
pub(crate) fn decode(octets: &[u8], envelope: &mut Envelope) -> Option<()> {
    let mut fields = Fields::new(octets);
    let mut before = 0;
    while let Some(number) = fields.u8() {
        let len = usize::from(fields.u8()?);
        let value = fields.bytes(len)?;
        if number <= before {
            return None;
        }
        before = number;
        match (number, value) {
            (UTF8, [0]) => envelope.utf8 = Utf8::Marked,
            (UTF8, [1]) => envelope.utf8 = Utf8::Header,
            _ => return None,
        }
    }
    Some(())
}
