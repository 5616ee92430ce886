//! The fields that content is searched for as it comes in, and what one of them says.

/// A field whose name is followed, in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// RFC 5321 §4.4: as many as servers that a message has come by.
    Received,
    /// RFC 8689 §3.
    TlsRequired,
}

impl Known {
    /// In lower case.
    fn name(self) -> &'static [u8] {
        match self {
            Self::Received => b"received",
            Self::TlsRequired => b"tls-required",
        }
    }
}

/// A name of which the octets so far are those of a known one, and how many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    known: Known,
    octets: u8,
}

impl Prefix {
    /// What begins with this octet; no two names begin alike.
    pub(super) fn begin(b: u8) -> Option<Self> {
        let known = match b {
            b'r' | b'R' => Known::Received,
            b't' | b'T' => Known::TlsRequired,
            _ => return None,
        };
        Some(Self { known, octets: 1 })
    }

    /// The same with one octet more.
    pub(super) fn advance(self, b: u8) -> Option<Self> {
        let next = self.known.name().get(usize::from(self.octets));
        (next == Some(&b.to_ascii_lowercase())).then_some(Self { octets: self.octets + 1, ..self })
    }

    /// The field whose whole name it is.
    pub(super) fn whole(self) -> Option<Known> {
        (usize::from(self.octets) == self.known.name().len()).then_some(self.known)
    }
}

/// What `TLS-Required` fields say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TlsRequired {
    value: Value,
    has_many: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Value {
    /// There is no such field.
    #[default]
    Absent,
    /// Nothing but white space so far.
    Blank,
    /// `N`
    Begun,
    /// `No`, and white space behind it.
    No,
    Other,
}

impl TlsRequired {
    /// A field begins, behind its colon.
    pub(super) fn begin(&mut self) {
        self.has_many |= self.value != Value::Absent;
        self.value = Value::Blank;
    }

    /// Takes an octet of its value; folds leave nothing but their white space.
    pub(super) fn take(&mut self, b: u8) {
        self.value = match (self.value, b) {
            (Value::Blank | Value::No, b' ' | b'\t') => self.value,
            (Value::Blank, b'n' | b'N') => Value::Begun,
            (Value::Begun, b'o' | b'O') => Value::No,
            _ => Value::Other,
        };
    }

    /// Whether there is one field, and it says `No`. Nothing else is defined.
    pub(super) fn is_no(self) -> bool {
        self.value == Value::No && !self.has_many
    }
}

#[cfg(test)]
mod tests {
    use crate::data::{ContentDecoder, ContentLimits, Framing};

    fn is_tls_optional(content: &str, piece: usize) -> bool {
        let mut decoder = ContentDecoder::new(ContentLimits::default(), Framing::Chunks);
        let mut out = Vec::new();
        for piece in content.as_bytes().chunks(piece) {
            decoder.decode(piece, &mut out);
        }
        decoder.finish(&mut out).unwrap();
        assert_eq!(out.get(..content.len()), Some(content.as_bytes()), "the field stays");
        decoder.is_tls_optional()
    }

    #[test]
    fn one_field_that_says_no_counts_and_nothing_else() {
        let rows = [
            ("TLS-Required: No\r\n\r\nx\r\n", true),
            ("TLS-Required: No\r\n", true),
            ("TLS-Required: No", true),
            ("a: b\r\nTLS-Required: No\r\nc: d\r\n e\r\n\r\nx\r\n", true),
            ("tls-required:nO\r\n\r\n", true),
            ("TLS-REQUIRED \t:  NO\t \r\n\r\n", true),
            ("TLS-Required:\r\n No\r\n \r\n\r\n", true),
            ("TLS-Required: No\r\nTLS-Requiredx: Yes\r\n\r\n", true),
            ("TLS-Require: No\r\n\r\n", false),
            ("TLS-Requiredx: No\r\n\r\n", false),
            ("xTLS-Required: No\r\n\r\n", false),
            ("Reply: x\r\n TLS-Required: No\r\n\r\n", false),
            ("TLS-Required\r\n: No\r\n\r\n", false),
            ("a: b\r\n\r\nTLS-Required: No\r\n", false),
            ("text\r\nTLS-Required: No\r\n", false),
            ("TLS-Required:\r\n\r\n", false),
            ("TLS-Required: \r\nx: No\r\n\r\n", false),
            ("TLS-Required: Yes\r\n\r\n", false),
            ("TLS-Required: N\r\n\r\n", false),
            ("TLS-Required: Nor\r\n\r\n", false),
            ("TLS-Required: N o\r\n\r\n", false),
            ("TLS-Required: N\r\n o\r\n\r\n", false),
            ("TLS-Required: No No\r\n\r\n", false),
            ("TLS-Required: No\r\n x\r\n\r\n", false),
            ("TLS-Required: \"No\"\r\n\r\n", false),
            ("TLS-Required: (perhaps) No\r\n\r\n", false),
            ("TLS-Required: No; x\r\n\r\n", false),
            ("TLS-Required: No\r\nTLS-Required: No\r\n\r\n", false),
            ("TLS-Required: Yes\r\nx: y\r\nTLS-Required: No\r\n\r\n", false),
            ("TLS-Required: No\r\nx: y\r\nTLS-Required:\r\n\r\n", false),
        ];
        for (content, expected) in rows {
            for piece in [1, 2, 3, usize::MAX] {
                assert_eq!(is_tls_optional(content, piece), expected, "{content:?} by {piece}");
            }
        }
    }
}
