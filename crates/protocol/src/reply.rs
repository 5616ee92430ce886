//! Replies: what a server says to a command (RFC 5321 §4.2).

use std::fmt;
use std::mem;

use crate::error::ReplyError;
use crate::limits::{REPLY_LINE_MAX, REPLY_LINES_MAX, REPLY_SIZE_MAX, REPLY_TEXT_MAX};
use crate::status::EnhancedStatusCode;

#[cfg(test)]
mod tests;

/// The three digits of a reply, 200 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyCode(u16);

impl ReplyCode {
    /// Makes a code; `None` outside of 200 to 599.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 200 && code <= 599 { Some(Self(code)) } else { None }
    }

    /// The number.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// The first digit: 2 done, 3 go on, 4 failed for now, 5 failed for good.
    pub const fn class(self) -> u8 {
        (self.0 / 100) as u8
    }

    fn from_digits(digits: &[u8]) -> Option<Self> {
        let mut code = 0;
        for &digit in digits {
            code = code * 10 + u16::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        }
        Self::new(code)
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}", self.0)
    }
}

/// A reply that was received, all its lines taken together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply {
    /// The code, the same on all lines.
    pub code: ReplyCode,
    /// The enhanced status code in front of the text, if there is one of the code's class.
    pub enhanced: Option<EnhancedStatusCode>,
    /// The text without codes, lines joined by `\n`, at most
    /// [`REPLY_TEXT_MAX`] octets.
    ///
    /// Control characters are written as `\xNN` and octets that are not UTF-8 as U+FFFD, so that the
    /// text can go to a log or a report as it is.
    pub text: String,
}

impl Reply {
    /// Makes a reply, for tests and for verdicts of our own. The text is escaped like a peer's.
    pub fn new(code: ReplyCode, enhanced: Option<EnhancedStatusCode>, text: &str) -> Self {
        let mut escaped = String::new();
        for (index, line) in text.split('\n').enumerate() {
            push_line(&mut escaped, index == 0, line.as_bytes());
        }
        Self { code, enhanced, text: escaped }
    }

    /// 2xx: done.
    pub fn is_positive_completion(&self) -> bool {
        self.code.class() == 2
    }

    /// 3xx: go on.
    pub fn is_intermediate(&self) -> bool {
        self.code.class() == 3
    }

    /// 4xx: failed, may be tried again.
    pub fn is_transient_negative(&self) -> bool {
        self.code.class() == 4
    }

    /// 5xx: failed for good.
    pub fn is_permanent_negative(&self) -> bool {
        self.code.class() == 5
    }
}

/// On one line, as in `550 5.1.1 no such mailbox`; the lines of the text are joined by spaces.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.code.fmt(f)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, " {enhanced}")?;
        }
        for line in self.text.split('\n').filter(|line| !line.is_empty()) {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

/// A reply of ours, one line of fixed text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FixedReply(&'static str);

impl FixedReply {
    /// Makes a reply of a line without its CRLF, as in `501 5.5.4 Syntax: DATA`.
    #[must_use]
    pub const fn new(line: &'static str) -> Self {
        assert!(line.len() >= 3 && line.is_ascii(), "a reply begins with its code");
        Self(line)
    }

    /// The line without its CRLF.
    pub const fn line(self) -> &'static str {
        self.0
    }

    /// Appends the line and its CRLF.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

impl fmt::Display for FixedReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Puts replies together out of octets that come in any pieces.
///
/// A line may end with LF alone, which some servers do; a CR anywhere else is an error. After an
/// error the decoder must not be used again: the peer is out of step.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    code: Option<ReplyCode>,
    enhanced: Option<EnhancedStatusCode>,
    text: String,
    lines: usize,
    size: usize,
}

impl ReplyDecoder {
    /// Makes a decoder that waits for the first octet of a reply.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a part of a reply has come.
    pub fn is_inside_reply(&self) -> bool {
        self.code.is_some() || !self.partial.is_empty()
    }

    /// Takes octets up to the end of one reply; returns how many, and the reply once it is whole.
    ///
    /// Without a reply all of `input` has been taken.
    ///
    /// # Errors
    ///
    /// [`ReplyError`] when the octets are not a reply, or one above the limits.
    pub fn decode(&mut self, input: &[u8]) -> Result<(usize, Option<Reply>), ReplyError> {
        let mut consumed = 0;
        while let Some(rest) = input.get(consumed..).filter(|rest| !rest.is_empty()) {
            let Some(line_feed) = memchr::memchr(b'\n', rest) else {
                self.partial.extend_from_slice(rest);
                self.check_partial()?;
                return Ok((input.len(), None));
            };
            let (line, _) = rest.split_at(line_feed);
            consumed += line_feed + 1;
            let is_last = if self.partial.is_empty() {
                self.take_line(line)?
            } else {
                let mut whole = mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.take_line(&whole)?
            };
            if is_last {
                return Ok((consumed, self.finish()));
            }
        }
        Ok((consumed, None))
    }

    /// Refuses early what can no longer become a line.
    fn check_partial(&self) -> Result<(), ReplyError> {
        if self.partial.len() >= REPLY_LINE_MAX {
            return Err(ReplyError::LineTooLong);
        }
        let before_last = self.partial.split_last().map_or(&[][..], |(_, before)| before);
        if memchr::memchr(b'\r', before_last).is_some() {
            return Err(ReplyError::BareCarriageReturn);
        }
        Ok(())
    }

    /// Takes one line without its LF; says whether it is the last one of the reply.
    fn take_line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        if line.len() >= REPLY_LINE_MAX {
            return Err(ReplyError::LineTooLong);
        }
        self.lines += 1;
        self.size += line.len() + 1;
        if self.lines > REPLY_LINES_MAX || self.size > REPLY_SIZE_MAX {
            return Err(ReplyError::TooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if memchr::memchr(b'\r', line).is_some() {
            return Err(ReplyError::BareCarriageReturn);
        }
        let (digits, rest) = line.split_at_checked(3).ok_or(ReplyError::Code)?;
        let code = ReplyCode::from_digits(digits).ok_or(ReplyError::Code)?;
        // RFC 5321 §4.2: a code with nothing behind it has to be understood.
        let (is_last, text) = match rest.split_first() {
            None => (true, rest),
            Some((b' ', text)) => (true, text),
            Some((b'-', text)) => (false, text),
            Some(_) => return Err(ReplyError::Code),
        };
        if *self.code.get_or_insert(code) != code {
            return Err(ReplyError::MixedCodes);
        }
        let (enhanced, text) = split_enhanced(code, text);
        let is_first = self.lines == 1;
        if is_first {
            self.enhanced = enhanced;
        }
        push_line(&mut self.text, is_first, text);
        Ok(is_last)
    }

    fn finish(&mut self) -> Option<Reply> {
        let finished = mem::take(self);
        let code = finished.code?;
        Some(Reply { code, enhanced: finished.enhanced, text: finished.text })
    }
}

/// Splits `5.1.1 no such mailbox`; RFC 2034 §4: the class has to be the code's.
fn split_enhanced(code: ReplyCode, text: &[u8]) -> (Option<EnhancedStatusCode>, &[u8]) {
    let end = memchr::memchr(b' ', text).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let enhanced = std::str::from_utf8(word)
        .ok()
        .and_then(|word| EnhancedStatusCode::parse(word).ok())
        .filter(|enhanced| enhanced.class() == code.class());
    match enhanced {
        Some(_) => (enhanced, rest.strip_prefix(b" ").unwrap_or(rest)),
        None => (None, text),
    }
}

/// Appends a line of reply text, escaped, as long as there is room.
fn push_line(text: &mut String, is_first: bool, line: &[u8]) {
    if !is_first && text.len() < REPLY_TEXT_MAX {
        text.push('\n');
    }
    for chunk in line.utf8_chunks() {
        for c in chunk.valid().chars() {
            let escaped = if c.is_control() { 4 } else { c.len_utf8() };
            if text.len() + escaped > REPLY_TEXT_MAX {
                return;
            }
            match u8::try_from(c) {
                Ok(b) if c.is_control() => push_escaped(text, b),
                _ => text.push(c),
            }
        }
        if !chunk.invalid().is_empty() {
            if text.len() + char::REPLACEMENT_CHARACTER.len_utf8() > REPLY_TEXT_MAX {
                return;
            }
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Control characters are all below U+00A0, so two digits do.
fn push_escaped(text: &mut String, b: u8) {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    text.extend(['\\', 'x', digit(b >> 4), digit(b & 15)]);
}
