//! BDAT: content in pieces whose octets are counted (RFC 3030 §2).

use crate::limits::CHUNK_SIZE_MAX;

/// The argument of BDAT: which octets follow the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    /// Octets of content right behind the CRLF of the command, up to [`CHUNK_SIZE_MAX`].
    pub size: u64,
    /// Whether the content ends with them.
    pub is_last: bool,
}

impl Chunk {
    /// Reads `chunk-size [SP "LAST"]`.
    ///
    /// The number is written as one writes numbers: no sign, no zeros in front, no more than
    /// [`CHUNK_SIZE_MAX`]. Who reads it otherwise than we do would take content for commands, or
    /// commands for content. Spaces at the end are tolerated (RFC 5321 §4.1.1). `None` if it is
    /// anything else: nobody knows then where the next command begins.
    pub fn parse(argument: &[u8]) -> Option<Self> {
        let end = argument.iter().rposition(|&b| b != b' ').map_or(0, |at| at + 1);
        let argument = argument.get(..end)?;
        let digits = argument.iter().take_while(|b| b.is_ascii_digit()).count();
        let (number, rest) = argument.split_at_checked(digits)?;
        if number.len() > 1 && number.starts_with(b"0") {
            return None;
        }
        let size = std::str::from_utf8(number).ok()?.parse().ok()?;
        let is_last = match rest {
            b"" => false,
            _ if rest.eq_ignore_ascii_case(b" LAST") => true,
            _ => return None,
        };
        (size <= CHUNK_SIZE_MAX).then_some(Self { size, is_last })
    }
}

/// Counts the octets of a chunk off what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkCounter {
    left: u64,
}

impl ChunkCounter {
    /// Makes a counter that stands before the first of so many octets.
    pub fn new(size: u64) -> Self {
        Self { left: size }
    }

    /// Octets that have not come.
    pub fn left(self) -> u64 {
        self.left
    }

    /// Takes what belongs to the chunk from the front of `input`; what is behind it is a command.
    pub fn take<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        // What does not fit is more than there can be in memory.
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let piece = input.get(..left).unwrap_or(input);
        self.left -= piece.len() as u64;
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn arguments_are_read_to_the_letter() {
        let chunk = |size, is_last| Some(Chunk { size, is_last });
        for (text, expected) in [
            ("0", chunk(0, false)),
            ("5", chunk(5, false)),
            ("5  ", chunk(5, false)),
            ("0 LAST", chunk(0, true)),
            ("86 last", chunk(86, true)),
            ("86 LaSt ", chunk(86, true)),
            ("4294967295 LAST", chunk(CHUNK_SIZE_MAX, true)),
            ("4294967296 LAST", None),
            ("9223372036854775808", None),
            ("18446744073709551615", None),
            ("18446744073709551616 LAST", None),
            ("100000000000000000000000000000", None),
            ("", None),
            (" ", None),
            (" 5", None),
            ("-1", None),
            ("+5", None),
            ("00", None),
            ("05", None),
            ("0x5", None),
            ("5.0", None),
            ("5,0", None),
            ("x", None),
            ("LAST", None),
            ("4 FOO", None),
            ("4 LAST x", None),
            ("4 LAST LAST", None),
            ("4  LAST", None),
            ("4LAST", None),
            ("4 5", None),
            ("\u{0665}", None),
        ] {
            assert_eq!(Chunk::parse(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(Chunk::parse(b"5\xff"), None);
    }

    proptest! {
        /// What is read is what was meant, and what is not a number is never one.
        #[test]
        fn only_what_was_written_is_read(size: u64, is_last: bool, noise in "[0-9 +\\-LASTx]{0,8}") {
            let written = |size: u64| format!("{size}{}", if is_last { " LAST" } else { "" });
            let read = Chunk::parse(written(size).as_bytes());
            prop_assert_eq!(read, (size <= CHUNK_SIZE_MAX).then_some(Chunk { size, is_last }));
            if let Some(chunk) = Chunk::parse(noise.as_bytes()) {
                let again = format!("{}{}", chunk.size, if chunk.is_last { " LAST" } else { "" });
                prop_assert_eq!(noise.trim_end(), again);
            }
        }

        /// However the input is cut, the chunk is its first octets, and all of them.
        #[test]
        fn the_counter_takes_what_is_due(
            input in prop::collection::vec(any::<u8>(), 0..50),
            cuts in prop::collection::vec(0..9_usize, 0..20),
            size in 0..60_u64,
        ) {
            let mut counter = ChunkCounter::new(size);
            let (mut taken, mut rest) = (Vec::new(), &input[..]);
            for cut in cuts.into_iter().chain([input.len()]) {
                let (piece, behind) = rest.split_at(cut.min(rest.len()));
                let chunk = counter.take(piece);
                prop_assert!(piece.starts_with(chunk));
                taken.extend_from_slice(chunk);
                if chunk.len() < piece.len() {
                    prop_assert_eq!(counter.left(), 0);
                    break;
                }
                rest = behind;
            }
            let due = input.len().min(usize::try_from(size).unwrap());
            prop_assert_eq!(&taken[..], &input[..due]);
            prop_assert_eq!(counter.left(), size - due as u64);
        }
    }
}
