//! What the header section of a message or a part says of its content (RFC 2045 §5, §6).

/// How the content is encoded, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Declared {
    /// Nothing, or `7bit`.
    #[default]
    SevenBit,
    /// `8bit` or `binary`.
    EightBit,
    /// Anything else.
    Encoded,
}

/// What the content is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Content {
    /// No parts.
    #[default]
    Leaf,
    /// Parts, with the boundary between them.
    Multipart { boundary: Vec<u8>, is_signed: bool, is_digest: bool },
    /// Parts, and nobody knows where they begin.
    Unbounded,
    /// A message.
    Message,
}

/// A header section, read.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) content: Content,
    declared: Declared,
    has_version: bool,
    has_type: bool,
    /// It may not be changed, whatever it says.
    is_sealed: bool,
}

const ENCODING: &[u8] = b"content-transfer-encoding";

impl Head {
    /// Reads whole lines of fields. In a digest parts are messages (RFC 2046 §5.1.5); what is sealed stays
    /// as it is.
    pub(super) fn read(raw: &[u8], in_digest: bool, is_sealed: bool) -> Self {
        let mut head = Self { is_sealed, ..Self::default() };
        if in_digest {
            head.content = Content::Message;
        }
        for field in fields(raw) {
            let Some((name, value)) = split(field) else { continue };
            if name.eq_ignore_ascii_case(b"mime-version") {
                head.has_version = true;
            } else if name.eq_ignore_ascii_case(b"content-type") && !head.has_type {
                head.has_type = true;
                head.content = content(value);
            } else if name.eq_ignore_ascii_case(ENCODING) {
                let is_one = |names: &[&str]| {
                    names.iter().any(|name| value.eq_ignore_ascii_case(name.as_bytes()))
                };
                head.declared = match () {
                    () if is_one(&["7bit"]) => Declared::SevenBit,
                    () if is_one(&["8bit", "binary"]) => Declared::EightBit,
                    () => Declared::Encoded,
                };
            }
        }
        head
    }

    pub(super) fn has_version(&self) -> bool {
        self.has_version
    }

    pub(super) fn has_type(&self) -> bool {
        self.has_type
    }

    pub(super) fn is_encoded(&self) -> bool {
        self.declared == Declared::Encoded
    }

    pub(super) fn is_eight_bit(&self) -> bool {
        self.declared == Declared::EightBit
    }

    /// Whether there are parts that may be changed.
    pub(super) fn is_open_multipart(&self) -> bool {
        let is_open = matches!(self.content, Content::Multipart { is_signed: false, .. });
        is_open && !self.is_sealed
    }

    /// Appends the section without its fields about encoding.
    #[expect(clippy::unused_self, reason = "the section is this one's")]
    pub(super) fn write_without_encoding(&self, raw: &[u8], out: &mut Vec<u8>) {
        for field in fields(raw) {
            if split(field).is_none_or(|(name, _)| !name.eq_ignore_ascii_case(ENCODING)) {
                out.extend_from_slice(field);
            }
        }
    }
}

/// Whole fields, folded as they are, each with its line ends.
fn fields(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let mut end = 0;
        loop {
            let line = rest.get(end..)?;
            let len = memchr::memchr(b'\n', line).map_or(line.len(), |at| at + 1);
            if len == 0 {
                break;
            }
            end += len;
            if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (field, behind) = rest.split_at_checked(end)?;
        rest = behind;
        (!field.is_empty()).then_some(field)
    })
}

/// The name of a field, and what stands behind its colon.
fn split(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', field)?;
    let (name, value) = field.split_at_checked(colon)?;
    Some((name.trim_ascii_end(), value.get(1..)?.trim_ascii()))
}

fn content(value: &[u8]) -> Content {
    let kind_end = value.iter().position(|&b| b == b';').unwrap_or(value.len());
    let kind = value.get(..kind_end).unwrap_or_default().trim_ascii().to_ascii_lowercase();
    if kind.starts_with(b"message/") {
        return Content::Message;
    }
    let Some(subtype) = kind.strip_prefix(b"multipart/") else { return Content::Leaf };
    let parameters = value.get(kind_end..).unwrap_or_default();
    match parameter(parameters, b"boundary") {
        Some(boundary) if (1..=70).contains(&boundary.len()) => Content::Multipart {
            boundary,
            is_signed: matches!(subtype, b"signed" | b"encrypted"),
            is_digest: subtype == b"digest",
        },
        _ => Content::Unbounded,
    }
}

/// Finds a parameter in `; name=value; name="value"`, comments left aside.
fn parameter(mut rest: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    while let Some(behind) = rest.strip_prefix(b";") {
        rest = behind.trim_ascii_start();
        let name_end = rest.iter().position(|&b| b == b'=')?;
        let (name, behind) = rest.split_at_checked(name_end)?;
        let is_wanted = name.trim_ascii().eq_ignore_ascii_case(wanted);
        let (value, behind) = value(behind.get(1..)?.trim_ascii_start())?;
        if is_wanted {
            return Some(value);
        }
        let next = memchr::memchr(b';', behind)?;
        rest = behind.get(next..)?;
    }
    None
}

/// Reads a token or a quoted string; gives what is behind it, too.
fn value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let is_end = |b: &u8| b.is_ascii_whitespace() || matches!(b, b';' | b'(');
        let end = text.iter().position(is_end).unwrap_or(text.len());
        let (token, behind) = text.split_at_checked(end)?;
        return Some((token.to_vec(), behind));
    };
    let mut value = Vec::new();
    let mut octets = quoted.iter().enumerate();
    while let Some((at, &b)) = octets.next() {
        match b {
            b'"' => return Some((value, quoted.get(at + 1..)?)),
            b'\\' => value.push(*octets.next()?.1),
            b'\r' | b'\n' => {}
            _ => value.push(b),
        }
    }
    None
}
