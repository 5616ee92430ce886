//! Fuzzing: for each reader of octets that others send or leave on a disk, an oracle that says whether
//! it did as it must.
//!
//! An oracle is a function of some octets. It is used three times: by the fuzzing engine (`fuzz/run`),
//! by a replay of the corpus in git, and by a run of seeded mutations of that corpus; the last two are
//! tests on stable Rust. What the octets mean is each target's own business; the first few of them are
//! mostly choices, such as into which pieces the rest is cut.
//!
//! # Ideas
//!
//! - **An oracle is more than "no panic".** It holds the reader against a slow reference, against
//!   itself with the input cut otherwise, or against what it writes when it is asked to.
//! - **An oracle can fail.** Each has a test in which the reader is replaced by a wrong one, or what it
//!   did by something wrong, and which passes only when the oracle objects.
//! - **A target is a list of seeds.** They are valid inputs, written out in code: so the engine begins
//!   deep inside, and the corpus can be made anew at any time.

#![forbid(unsafe_code)]

pub mod input;
pub mod mutate;
pub mod targets;

/// What an oracle says: all is as it must be, or what is not.
pub type Verdict = Result<(), String>;

/// One reader with its oracle.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its directories below `fuzz/corpus` and `fuzz/regressions`.
    pub name: &'static str,
    /// The oracle.
    pub check: fn(&[u8]) -> Verdict,
    /// Valid inputs to begin with; at least one.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the language that is read, for the engine to put in.
    pub words: &'static [&'static str],
    /// Octets that an input may have; more show nothing new and cost time.
    pub size_max: usize,
    /// How much longer it takes than others, roughly: it gets fewer mutations in the tests.
    pub cost: u32,
}

/// The target of a name.
pub fn find(name: &str) -> Option<&'static Target> {
    targets::ALL.iter().find(|target| target.name == name)
}

/// Leaves an oracle with what is wrong, unless a condition holds.
macro_rules! must {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use must;
