//! What recovery makes of the place where the frames of a segment end.

/// What stands behind the last intact frame of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The end of the file: no room for a frame.
    End,
    /// Zeros, or bytes of an earlier life of the segment.
    Unwritten,
    /// A frame of this life that is not whole, or bytes that are neither.
    Torn,
}

/// What stands in the segment after that place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// No frame of this life.
    Nothing,
    /// A frame of this life.
    Frames,
}

/// What stands in later segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Later {
    /// No frame.
    Nothing,
    /// Frames, of which the first continues the log or takes the place of its last frame.
    Continues,
    /// Frames, of which the first does neither.
    Breaks,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The log goes on in a later segment.
    GoesOn,
    /// The log ends here, cleanly.
    Ends,
    /// The log ends here; what was being written when the end came is cut off, and counted.
    CutTail,
    /// The log is damaged: stop, and change nothing.
    Corrupt,
}

/// The table.
///
/// A frame is begun only when the one before it is durable. So a crash can damage one frame only, and
/// no frame that was begun later can be there. If one is, the damaged frame had been acknowledged.
/// Recovery begins a new segment and leaves a torn frame where it is: behind it, the chain proves
/// that nothing is missing.
pub(crate) const TABLE: [(Place, Beyond, Later, Verdict); 18] = {
    use Beyond::{Frames, Nothing};
    use Later::{Breaks, Continues};
    use Place::{End, Torn, Unwritten};
    use Verdict::{Corrupt, CutTail, Ends, GoesOn};
    [
        (End, Nothing, Later::Nothing, Ends),
        (End, Nothing, Continues, GoesOn),
        (End, Nothing, Breaks, Corrupt),
        (Unwritten, Nothing, Later::Nothing, Ends),
        (Unwritten, Nothing, Continues, GoesOn),
        (Unwritten, Nothing, Breaks, Corrupt),
        (Torn, Nothing, Later::Nothing, CutTail),
        (Torn, Nothing, Continues, GoesOn),
        (Torn, Nothing, Breaks, Corrupt),
        (End, Frames, Later::Nothing, Corrupt),
        (End, Frames, Continues, Corrupt),
        (End, Frames, Breaks, Corrupt),
        (Unwritten, Frames, Later::Nothing, Corrupt),
        (Unwritten, Frames, Continues, Corrupt),
        (Unwritten, Frames, Breaks, Corrupt),
        (Torn, Frames, Later::Nothing, Corrupt),
        (Torn, Frames, Continues, Corrupt),
        (Torn, Frames, Breaks, Corrupt),
    ]
};

/// Looks the case up in [`TABLE`].
pub(crate) fn decide(place: Place, beyond: Beyond, later: Later) -> Verdict {
    let row = TABLE.iter().find(|row| (row.0, row.1, row.2) == (place, beyond, later));
    row.map_or(Verdict::Corrupt, |row| row.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_is_in_the_table_once() {
        for (at, row) in TABLE.iter().enumerate() {
            let key = (row.0, row.1, row.2);
            assert!(TABLE[..at].iter().all(|other| (other.0, other.1, other.2) != key), "{row:?}");
            assert_eq!(decide(row.0, row.1, row.2), row.3);
        }
    }

    #[test]
    fn only_a_torn_frame_with_nothing_after_it_is_cut() {
        let cut: Vec<_> = TABLE.iter().filter(|row| row.3 == Verdict::CutTail).collect();
        assert_eq!(cut, [&(Place::Torn, Beyond::Nothing, Later::Nothing, Verdict::CutTail)]);
        for row in TABLE {
            let broken = row.1 == Beyond::Frames || row.2 == Later::Breaks;
            assert_eq!(row.3 == Verdict::Corrupt, broken, "{row:?}");
        }
    }
}
