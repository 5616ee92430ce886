//! What the octets of an input are taken for.

/// Takes choices off the front of an input; when it has ended, every choice is 0.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// Reads from the front of `octets`.
    pub fn new(octets: &'a [u8]) -> Self {
        Self { rest: octets }
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether all has been taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// One octet.
    pub fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number of four octets, the low one first.
    pub fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.octet(), self.octet(), self.octet(), self.octet()])
    }

    /// Up to `len` octets.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// What stands before the next NUL, or all that is left.
    pub fn until_nul(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|&b| b == 0).unwrap_or(self.rest.len());
        let taken = self.take(end);
        self.octet();
        taken
    }

    /// The text before the next NUL, or all that is left, with U+FFFD for what is no UTF-8.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.until_nul()).into_owned()
    }
}

/// Cuts octets into pieces: 0 not at all, 1 into single octets, and any other number its own way.
///
/// The pieces are never empty, and together they are `octets`.
pub fn pieces(octets: &[u8], way: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = octets;
    let mut random = Random::new(u64::from(way));
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = match way {
            0 => rest.len(),
            1 => 1,
            // Mostly short ones: it is the borders that matter.
            2..128 => 1 + random.below(9),
            _ if random.below(4) > 0 => 1 + random.below(5),
            _ => 1 + random.below(200),
        };
        let (piece, behind) = rest.split_at(len.min(rest.len()));
        rest = behind;
        Some(piece)
    })
}

/// Octet that stands for a run in [`expanded`].
pub const RUN: u8 = 0x1A;

/// Octets that [`expanded`] gives at most.
pub const EXPANDED_MAX: usize = 8192;

/// Makes long texts out of short inputs: [`RUN`] and a number repeat the octet before them so many
/// times eight.
pub fn expanded(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    let mut input = Input::new(octets);
    while !input.is_empty() && out.len() < EXPANDED_MAX {
        match (input.octet(), out.last().copied()) {
            (RUN, Some(last)) => {
                let run = usize::from(input.octet()) * 8;
                out.resize((out.len() + run).min(EXPANDED_MAX), last);
            }
            (octet, _) => out.push(octet),
        }
    }
    out
}

/// A deterministic source of choices (`xorshift64*`).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The choices of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole() {
        let octets: Vec<u8> = (0..=255).cycle().take(1000).collect();
        for way in 0..=255 {
            let found: Vec<&[u8]> = pieces(&octets, way).collect();
            assert!(found.iter().all(|piece| !piece.is_empty()));
            assert_eq!(found.concat(), octets, "{way}");
        }
        assert_eq!(pieces(&octets, 0).count(), 1);
        assert_eq!(pieces(&octets, 1).count(), 1000);
        assert_ne!(pieces(&octets, 2).count(), pieces(&octets, 3).count());
        assert_eq!(pieces(b"", 7).count(), 0);
    }

    #[test]
    fn runs_are_expanded_up_to_a_bound() {
        assert_eq!(expanded(b"ab\x1a\x02c"), [b"a", &[b'b'; 17][..], b"c"].concat());
        assert_eq!(expanded(b"\x1a\x02"), b"\x1a\x02");
        assert_eq!(expanded(&b"a\x1a\xff".repeat(100)).len(), EXPANDED_MAX);
    }

    #[test]
    fn an_input_ends_in_zeros() {
        let mut input = Input::new(b"\x01ab\0c\x02\0");
        assert_eq!((input.octet(), input.text().as_str(), input.take(1)), (1, "ab", &b"c"[..]));
        assert_eq!((input.number(), input.is_empty()), (2, true));
        assert_eq!((input.octet(), input.text().as_str(), input.take(9)), (0, "", &b""[..]));
    }
}
