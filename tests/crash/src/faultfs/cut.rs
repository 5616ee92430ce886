//! What a power cut leaves of the changes that were not synced.

use std::fmt;

use crate::rng::Rng;

/// What a power cut leaves of what was not synced.
///
/// A disk may do any of these. A program that relies on one of them is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing.
    Nothing,
    /// The first of them, in the order in which they were made; the last of those as a whole.
    Prefix,
    /// Any of them, and of each write any of its sectors.
    Sectors,
    /// The same, with some of the sectors turned into noise.
    Damaged,
    /// Everything: the cut of a disk that had just finished.
    Everything,
}

impl Survival {
    /// All of them, for a test that takes them in turn.
    pub const ALL: [Self; 5] =
        [Self::Nothing, Self::Prefix, Self::Sectors, Self::Damaged, Self::Everything];

    /// Which of so many pending changes survive, at least in part.
    pub(super) fn choose(self, pending: usize, rng: &mut Rng) -> Vec<bool> {
        let end = match self {
            Self::Prefix => usize::try_from(rng.within(0..pending as u64 + 1)).unwrap_or(0),
            _ => 0,
        };
        (0..pending)
            .map(|at| match self {
                Self::Nothing => false,
                Self::Prefix => at < end,
                Self::Sectors | Self::Damaged => rng.one_in(2),
                Self::Everything => true,
            })
            .collect()
    }
}

impl fmt::Display for Survival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Prefix => "a prefix",
            Self::Sectors => "some sectors",
            Self::Damaged => "some sectors, some damaged",
            Self::Everything => "everything",
        })
    }
}
