//! Header fields by their names.

use crate::limits::TAKEN_FIELD_SIZE_MAX;

/// What has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenField<'a> {
    /// There was no such field.
    Absent,
    /// There was one, with this value: folded as it came, without white space around it.
    Value(&'a [u8]),
    /// There was one with more than [`TAKEN_FIELD_SIZE_MAX`] octets behind its colon.
    TooLong,
    /// There were several.
    Repeated,
}

/// A field that is taken out, and what has been seen of it.
#[derive(Debug)]
pub(super) struct Taking {
    name: Box<str>,
    value: Vec<u8>,
    value_size: usize,
    fields: usize,
}

impl Taking {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.into(), value: Vec::new(), value_size: 0, fields: 0 }
    }

    pub(super) fn is_named(&self, name: &[u8]) -> bool {
        self.name.as_bytes().eq_ignore_ascii_case(name)
    }

    /// One more field of this name begins.
    pub(super) fn begin(&mut self) {
        self.fields += 1;
        self.value.clear();
        self.value_size = 0;
    }

    /// Takes a piece of what stands behind the colon.
    pub(super) fn take(&mut self, piece: &[u8]) {
        self.value_size = self.value_size.saturating_add(piece.len());
        let room = TAKEN_FIELD_SIZE_MAX.saturating_sub(self.value.len());
        self.value.extend(piece.iter().take(room));
    }

    pub(super) fn field(&self) -> TakenField<'_> {
        match self.fields {
            0 => TakenField::Absent,
            1 if self.value_size > TAKEN_FIELD_SIZE_MAX => TakenField::TooLong,
            1 => TakenField::Value(self.value.trim_ascii()),
            _ => TakenField::Repeated,
        }
    }
}

/// Whether a text can be the name of a header field: 1 to 64 printable octets without a colon
/// (RFC 5322 §2.2; its length is our limit).
pub fn is_field_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields() {
        for (text, expected) in [
            ("X-Not-Before", true),
            ("a", true),
            ("", false),
            ("a b", false),
            ("a:", false),
            ("a\r\nb", false),
            ("\u{fc}", false),
        ] {
            assert_eq!(is_field_name(text), expected, "{text:?}");
        }
        assert!(is_field_name(&"a".repeat(64)) && !is_field_name(&"a".repeat(65)));
    }
}
