//! Putting the dots into content that is sent.

use memchr::memmem;

/// Where in a line the next octet of content will stand; carried from chunk to chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StuffState {
    /// At the start of a line, as the first octet of the content is.
    #[default]
    LineStart,
    /// Within a line.
    Middle,
    /// Behind a CR.
    CarriageReturn,
}

impl StuffState {
    /// The state behind a chunk that is sent as it is.
    #[must_use]
    pub fn after(self, chunk: &[u8]) -> Self {
        match (self, chunk) {
            (_, []) => self,
            (Self::CarriageReturn, [b'\n']) | (_, [.., b'\r', b'\n']) => Self::LineStart,
            (_, [.., b'\r']) => Self::CarriageReturn,
            _ => Self::Middle,
        }
    }
}

/// Whether a chunk has a line that begins with a dot, so that it cannot be sent as it is.
pub fn needs_stuffing(chunk: &[u8], state: StuffState) -> bool {
    begins_with_dot(chunk, state) || memmem::find(chunk, b"\r\n.").is_some()
}

fn begins_with_dot(chunk: &[u8], state: StuffState) -> bool {
    match state {
        StuffState::LineStart => chunk.first() == Some(&b'.'),
        StuffState::CarriageReturn => chunk.starts_with(b"\n."),
        StuffState::Middle => false,
    }
}

/// Appends a chunk with a dot more in front of each line that begins with one.
pub fn stuff_into(chunk: &[u8], state: &mut StuffState, out: &mut Vec<u8>) {
    let mut copied = 0;
    if begins_with_dot(chunk, *state) {
        copied = usize::from(*state == StuffState::CarriageReturn);
        out.extend_from_slice(chunk.get(..copied).unwrap_or_default());
        out.push(b'.');
    }
    for at in memmem::find_iter(chunk, b"\r\n.") {
        let dot = at + 2;
        out.extend_from_slice(chunk.get(copied..dot).unwrap_or_default());
        out.push(b'.');
        copied = dot;
    }
    out.extend_from_slice(chunk.get(copied..).unwrap_or_default());
    *state = state.after(chunk);
}

/// What ends the content, given the state behind its last chunk.
///
/// Content that does not end with CRLF gets one.
pub fn terminator(state: StuffState) -> &'static [u8] {
    match state {
        StuffState::LineStart => b".\r\n",
        StuffState::Middle => b"\r\n.\r\n",
        StuffState::CarriageReturn => b"\n.\r\n",
    }
}
