//! The records of a frame that is damaged.

use crate::codec::{Fields, put};
use crate::id::MessageId;
use crate::record::{self, KIND_CHUNK, KIND_MESSAGE, RECORD_HEADER_SIZE, RecordError};

/// Octets that are verified at most to find where the records go on behind a damaged one.
const SEARCH_MAX: usize = 64 << 20;

/// A record that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadRecord {
    /// Where it begins in the payload.
    pub(super) at: usize,
    pub(super) error: RecordError,
    /// The message it is about, as far as that can be read.
    pub(super) id: Option<MessageId>,
    /// Whether it was the record of a message, as far as that can be read.
    pub(super) is_message: bool,
    /// The same for a chunk.
    pub(super) is_chunk: bool,
}

/// What can be read of a frame.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// Place and length of those that are intact, in order.
    pub(super) intact: Vec<(usize, usize)>,
    pub(super) bad: Vec<BadRecord>,
    /// How many more there were.
    pub(super) lost: u32,
}

/// Finds the intact records of a payload; `count` is how many there were, if that is known.
///
/// Behind a damaged record others count only if it is the only one, and the numbers agree: the records end
/// just where the payload ends, and are as many as the header of the frame says. So the content
/// of a message, which anybody may have written, does not pass for records.
pub(super) fn find(payload: &[u8], count: Option<u32>) -> Records {
    let mut records = Records::default();
    if let Some(places) = count.and_then(|count| by_length(payload, count as usize)) {
        for (at, len) in places {
            match payload.get(at..at + len).map(record::decode) {
                Some(Ok(_)) => records.intact.push((at, len)),
                Some(Err(error)) => records.bad.push(bad(payload, at, error)),
                None => {}
            }
        }
        if records.bad.len() <= 1 {
            return records;
        }
        records = Records::default();
    }
    let mut at = 0;
    while let Some(rest) = payload.get(at..).filter(|rest| !rest.is_empty()) {
        match record::decode(rest) {
            Ok((_, len)) => {
                records.intact.push((at, len));
                at += len;
            }
            Err(error) => {
                // What follows the records of a frame of unknown length is zeros.
                if count.is_some() || rest.iter().any(|octet| *octet != 0) {
                    records.bad.push(bad(payload, at, error));
                }
                break;
            }
        }
    }
    let Some(count) = count else { return records };
    let left = (count as usize).saturating_sub(records.intact.len() + 1);
    match search(payload, at, left) {
        Some(rest) => records.intact.extend(rest),
        None => records.lost = left as u32,
    }
    records
}

/// Follows the lengths of the records.
fn by_length(payload: &[u8], count: usize) -> Option<Vec<(usize, usize)>> {
    let mut places = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let mut fields = Fields::new(payload.get(at..)?.get(4..)?);
        let len = RECORD_HEADER_SIZE + fields.u32()? as usize;
        if places.len() == count || payload.len() - at < len {
            return None;
        }
        places.push((at, len));
        at += len;
    }
    (places.len() == count).then_some(places)
}

/// Looks for the place behind a record with a damaged header from which on just `count` intact ones
/// follow.
fn search(payload: &[u8], after: usize, count: usize) -> Option<Vec<(usize, usize)>> {
    if count == 0 {
        return None;
    }
    let mut budget = SEARCH_MAX;
    for from in after + RECORD_HEADER_SIZE..payload.len() {
        if let Some(found) = chain(payload, from, count, &mut budget)
            && is_one_record(payload.get(after..from)?)
        {
            return Some(found);
        }
        if budget == 0 {
            break;
        }
    }
    None
}

/// Whether these octets are one record, were its kind and length as they should be.
fn is_one_record(record: &[u8]) -> bool {
    let Some(body_len) = record.len().checked_sub(RECORD_HEADER_SIZE) else { return false };
    (1..=record::KIND_MAX).any(|kind| {
        let mut mended = record.to_vec();
        put(&mut mended, 0, [kind, 0, 0, 0]);
        put(&mut mended, 4, (body_len as u32).to_le_bytes());
        record::decode(&mended).is_ok()
    })
}

/// The records from `at` to the end, if they are intact and `count`.
fn chain(
    payload: &[u8],
    mut at: usize,
    count: usize,
    budget: &mut usize,
) -> Option<Vec<(usize, usize)>> {
    let mut found = Vec::new();
    while found.len() < count {
        let rest = payload.get(at..)?;
        let mut fields = Fields::new(rest);
        let (kind, zeros) = (fields.u8()?, fields.bytes(3)?);
        let len = RECORD_HEADER_SIZE.checked_add(fields.u32()? as usize)?;
        // Cheap, and nearly always enough.
        if kind == 0 || kind > record::KIND_MAX || zeros != [0; 3] || len > rest.len() {
            return None;
        }
        *budget = budget.saturating_sub(len);
        record::decode(rest).ok()?;
        found.push((at, len));
        at += len;
    }
    (at == payload.len()).then_some(found)
}

fn bad(payload: &[u8], at: usize, error: RecordError) -> BadRecord {
    let record = payload.get(at..).unwrap_or_default();
    let kind = record.first().copied().unwrap_or_default();
    let body = record.get(RECORD_HEADER_SIZE..).unwrap_or_default();
    // A purge has no id.
    let has_id = (1..record::KIND_PURGE).contains(&kind);
    let id = Fields::new(body).u64().filter(|_| has_id).map(MessageId::from_u64);
    BadRecord { at, error, id, is_message: kind == KIND_MESSAGE, is_chunk: kind == KIND_CHUNK }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ChunkRecord, encode_chunk};

    fn payload(contents: &[&[u8]]) -> (Vec<u8>, Vec<(usize, usize)>) {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for (content, index) in contents.iter().zip(0..) {
            let at = bytes.len();
            let id = MessageId::from_u64(u64::from(index) + 70);
            encode_chunk(&mut bytes, &ChunkRecord { id, index, content });
            places.push((at, bytes.len() - at));
        }
        (bytes, places)
    }

    #[test]
    fn any_one_flipped_octet_costs_one_record() {
        let (good, places) = payload(&[b"one", &[9; 300], b"", b"four"]);
        let whole = find(&good, Some(4));
        assert_eq!((whole.intact.as_slice(), whole.bad.len(), whole.lost), (&places[..], 0, 0));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                let hit = places.iter().rposition(|(start, _)| *start <= at).unwrap();
                let mut left = places.clone();
                left.remove(hit);
                let found = find(&bytes, Some(4));
                assert_eq!((found.intact, found.lost), (left, 0), "octet {at}, bit {bit}");
                assert_eq!(found.bad.len(), 1);
                assert_eq!(found.bad[0].at, places[hit].0);
            }
        }
    }

    #[test]
    fn the_record_that_is_lost_is_named_as_far_as_it_can_be() {
        let (mut bytes, places) = payload(&[b"one", b"the second"]);
        bytes[places[1].0 + 30] ^= 1;
        let found = find(&bytes, Some(2));
        assert_eq!(found.bad[0].id, Some(MessageId::from_u64(71)));
        assert!(found.bad[0].is_chunk && !found.bad[0].is_message);
    }

    /// Somebody sends a message, the content of which is records; damage must not make them real.
    #[test]
    fn records_within_content_never_count() {
        let (inner, _) = payload(&[b"forged", b"forged too"]);
        let (good, places) = payload(&[b"one", &inner, b"three"]);
        for at in places[1].0..places[1].0 + places[1].1 {
            let mut bytes = good.clone();
            bytes[at] ^= 0xFF;
            let found = find(&bytes, Some(3));
            assert_eq!((found.bad.len(), found.lost), (1, 0));
            assert_eq!(find(&bytes, Some(3)).intact, [places[0], places[2]], "octet {at}");
        }
        // A whole block is gone, the front of the second record with it: nothing shows where the
        // third begins, but for what may be forged.
        let mut bytes = good.clone();
        bytes[places[0].0..places[1].0 + 20].fill(0);
        let found = find(&bytes, Some(3));
        assert_eq!((found.intact.len(), found.lost), (0, 2));
    }

    #[test]
    fn without_a_count_only_what_comes_before_the_damage_counts() {
        let (mut bytes, places) = payload(&[b"one", b"two", b"three"]);
        bytes.resize(4096, 0);
        let found = find(&bytes, None);
        assert_eq!((found.intact.as_slice(), found.bad.len()), (&places[..], 0));
        bytes[places[1].0 + 20] ^= 1;
        let found = find(&bytes, None);
        assert_eq!((found.intact.as_slice(), found.bad.len()), (&places[..1], 1));
    }
}
