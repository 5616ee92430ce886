//! What messages consist of.

use crate::random::Random;

/// Octets that contents are cut from: drawing each one would take longer than sending it.
const POOL_SIZE: usize = 64 * 1024;

/// Longest line that is made, without its CRLF.
const LINE_MAX: u64 = 900;

/// How many of the large contents consist of dots.
const DOTTED_PERCENT: u8 = 30;

/// The field that most contents begin with.
const HEADER: &[u8] = b"Subject: simulated\r\n\r\n";

/// The same outside of ASCII, for messages with SMTPUTF8.
const UTF8_HEADER: &str = "Subject: grüße\r\n\r\n";

/// Whether content has a header section outside of ASCII.
pub(super) fn has_utf8_header(content: &[u8]) -> bool {
    crate::wire::find(content, UTF8_HEADER.as_bytes(), 0).is_some()
}

/// A stock of octets to make contents of.
#[derive(Debug)]
pub(super) struct Words {
    pool: Vec<u8>,
}

impl Words {
    /// Draws a stock.
    pub(super) fn new(random: &mut Random) -> Self {
        const ALPHABET: &[u8; 64] =
            b"abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.";
        let mut pool = Vec::with_capacity(POOL_SIZE);
        while pool.len() < POOL_SIZE {
            let draw = random.next_u64();
            for part in 0..10 {
                pool.push(ALPHABET[(draw >> (part * 6)) as usize & 63]);
            }
        }
        Self { pool }
    }

    /// A content of at most `size_max` octets: from a lone line to many, some of which begin with dots.
    pub(super) fn content(
        &self,
        random: &mut Random,
        size_max: u64,
        is_eight_bit: bool,
    ) -> Vec<u8> {
        let size = match random.below(100) {
            0..30 => random.within(0..=100),
            30..90 => random.within(200..=4000),
            90..97 => random.within(4000..=size_max.max(4000)),
            _ => random.within(size_max / 2..=size_max),
        };
        let size = size.min(size_max.saturating_sub(64)) as usize;
        let mut content = Vec::with_capacity(size + 64);
        if size > 40 {
            let is_utf8 = is_eight_bit && random.coin();
            content.extend_from_slice(if is_utf8 { UTF8_HEADER.as_bytes() } else { HEADER });
        }
        // However such a content is cut up, there is a border to get wrong.
        if size > 20_000 && random.percent(DOTTED_PERCENT) {
            let line: &[u8] = if random.coin() { b".\r\n" } else { b"..\r\n" };
            while content.len() + line.len() <= size {
                content.extend_from_slice(line);
            }
        }
        let line_max = if size > 20_000 { LINE_MAX } else { 78 };
        while content.len() + 2 < size {
            let room = (size - content.len() - 2) as u64;
            let len = random.within(0..=line_max).min(room) as usize;
            if random.percent(5) {
                content
                    .extend_from_slice(b"...".get(..=random.index(3).min(len)).unwrap_or_default());
            }
            let from = random.index(self.pool.len() - len);
            content.extend_from_slice(self.pool.get(from..from + len).unwrap_or_default());
            content.extend_from_slice(b"\r\n");
        }
        if is_eight_bit {
            content.extend_from_slice("grüße\r\n".as_bytes());
        }
        if content.is_empty() {
            content.extend_from_slice(b"\r\n");
        }
        // As a header section it would begin with a continuation, which the server refuses.
        if let Some(first @ b' ') = content.first_mut() {
            *first = b'x';
        }
        content
    }
}

/// Makes lines into octets that are none: CR and LF alone, NUL, no line end at the end; not one octet more.
pub(super) fn make_binary(content: &mut [u8]) {
    let body = content.windows(4).position(|octets| octets == b"\r\n\r\n");
    let from = body.map_or(content.len(), |at| at + 4);
    let Some(body) = content.get_mut(from..) else { return };
    for (octet, number) in body.iter_mut().zip(0_usize..) {
        match (*octet, number % 7) {
            (b'\r', 0) => *octet = 0,
            (b'\n', 1) => *octet = b'\r',
            (b'a', _) => *octet = 255,
            _ => {}
        }
    }
    if let Some(last) = body.last_mut() {
        *last = b'.';
    }
}

/// Content with dots stuffed, as it goes out.
pub(super) fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(content.len() + 16);
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_good_and_of_all_sizes() {
        let mut random = Random::new(1);
        let words = Words::new(&mut random);
        let sizes: Vec<usize> = (0..2000)
            .map(|number| {
                let content = words.content(&mut random, 100_000, number % 2 == 0);
                assert!(content.len() <= 100_000 && content.ends_with(b"\r\n"));
                assert!(!content.starts_with(b" "));
                assert_eq!(content.is_ascii(), number % 2 == 1);
                assert!(content.split(|octet| *octet == b'\n').all(|line| line.len() < 999));
                content.len()
            })
            .collect();
        assert!(sizes.iter().any(|size| *size < 10) && sizes.iter().any(|size| *size > 90_000));
    }

    #[test]
    fn a_size_that_leaves_room_for_nothing_is_kept() {
        let mut random = Random::new(1);
        let words = Words::new(&mut random);
        assert!((0..100).all(|_| words.content(&mut random, 100, true).len() <= 100));
    }

    #[test]
    fn binary_content_has_no_lines() {
        let mut content = b"Subject: x\r\n\r\nabc\r\n1\r\n23\r\n\r\n".to_vec();
        let len = content.len();
        make_binary(&mut content);
        assert!(content.starts_with(b"Subject: x\r\n\r\n\xff") && content.ends_with(b"."));
        assert_eq!(content.len(), len);
        let mut lone = b"lone\r\n".to_vec();
        make_binary(&mut lone);
        assert_eq!(lone, b"lone\r\n");
    }

    #[test]
    fn dots_at_the_start_of_lines_are_doubled() {
        assert_eq!(stuffed(b".\r\na.\r\n..b\r\n"), b"..\r\na.\r\n...b\r\n");
    }
}
