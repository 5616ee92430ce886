//! The encodings of RFC 2045 §6.7 and §6.8.

/// Octets in a line of encoded text.
const LINE_MAX: usize = 76;

/// Appends a line as quoted-printable, its CRLF as it is.
pub(super) fn quoted_printable(line: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let (text, end) = match line.strip_suffix(b"\r\n") {
        Some(text) => (text, &b"\r\n"[..]),
        None => (line, &b""[..]),
    };
    let mut width = 0;
    for (at, &b) in text.iter().enumerate() {
        let is_last = at + 1 == text.len();
        let mut is_plain = match b {
            b'=' => false,
            // Blanks at the end of a line do not survive every transport.
            b' ' | b'\t' => !is_last,
            _ => b.is_ascii_graphic(),
        };
        // The last place of a line is for the `=` of a soft break.
        let room = if is_last { LINE_MAX } else { LINE_MAX - 1 };
        if width + if is_plain { 1 } else { 3 } > room {
            out.extend_from_slice(b"=\r\n");
            width = 0;
            // What is at the start of a line now must not look like a delimiter.
            is_plain = is_plain && b != b'-';
        }
        if is_plain {
            out.push(b);
            width += 1;
        } else {
            let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
            out.extend_from_slice(&[b'=', digit(b >> 4), digit(b & 15)]);
            width += 3;
        }
    }
    out.extend_from_slice(end);
}

/// A part on its way into base64.
#[derive(Debug, Default)]
pub(super) struct Base64 {
    /// Octets that do not make a group of three yet.
    group: Vec<u8>,
    width: usize,
    /// The CRLF of the last line, which may belong to a delimiter.
    holds_line_end: bool,
}

impl Base64 {
    /// Takes a line with its CRLF.
    pub(super) fn write_line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        if std::mem::take(&mut self.holds_line_end) {
            self.write(b"\r\n", out);
        }
        match line.strip_suffix(b"\r\n") {
            Some(text) => {
                self.write(text, out);
                self.holds_line_end = true;
            }
            None => self.write(line, out),
        }
    }

    /// Takes the end of the part; the CRLF in front of a delimiter is none of its own (RFC 2046 §5.1.1).
    pub(super) fn finish(&mut self, is_delimited: bool, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.holds_line_end) && !is_delimited {
            self.write(b"\r\n", out);
        }
        if !self.group.is_empty() {
            self.put(out);
        }
        if std::mem::take(&mut self.width) > 0 {
            out.extend_from_slice(b"\r\n");
        }
    }

    fn write(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        for &b in octets {
            self.group.push(b);
            if self.group.len() == 3 {
                self.put(out);
            }
        }
    }

    /// Appends the group, padded.
    fn put(&mut self, out: &mut Vec<u8>) {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let octet = |at: usize| u32::from(self.group.get(at).copied().unwrap_or(0));
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        for digit in 0..4_usize {
            let index = (bits >> (18 - 6 * digit)) & 63;
            let symbol = ALPHABET.get(index as usize).copied().unwrap_or(b'=');
            out.push(if digit > self.group.len() { b'=' } else { symbol });
        }
        self.group.clear();
        self.width += 4;
        if self.width == LINE_MAX {
            out.extend_from_slice(b"\r\n");
            self.width = 0;
        }
    }
}
