//! Faults that can be switched on: what fails, where, when, and how.

use std::time::Duration;

use fuser::Errno;

use super::cut::Survival;

/// What can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A write to a file.
    Write,
    /// A sync of a file, by itself or as part of an `O_DSYNC` write, which asks for one.
    Sync,
    /// A sync of a directory.
    SyncDirectory,
    /// A read of a file.
    Read,
    /// Making, removing or renaming a file, or changing its size.
    Change,
    /// Anything else: looking, opening, closing.
    Look,
}

/// How it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// With this error, and without having been done. A failed sync also forgets the data, as Linux
    /// does: a further one succeeds and the data is gone.
    Fail(Errno),
    /// A write takes so many octets only. The kernel tries the rest again, so that a program only
    /// sees it when that fails: combine it with [`Effect::Fail`] for the next write.
    Short(usize),
    /// It is done after a while.
    Delay(Duration),
    /// It is never done. It is answered with an error when the file system is thawed or cut.
    Hang,
    /// It is said to be done and is not.
    Lie,
    /// The power is cut: after a write has come, before a sync is done. See
    /// [`FaultFs::cut_at`](super::FaultFs::cut_at).
    Cut(Survival),
}

/// A fault: an operation, where and when, and an effect.
#[derive(Debug, Clone)]
pub struct Fault {
    /// What fails; `None`: everything.
    pub operation: Option<Operation>,
    /// Only files whose path contains this.
    pub path: String,
    /// Only from the so many-th match on, from 1.
    pub from: u64,
    /// Only so many times.
    pub times: u64,
    /// How.
    pub effect: Effect,
    seen: u64,
}

impl Fault {
    /// `effect` at every `operation`.
    pub fn every(operation: Operation, effect: Effect) -> Self {
        Self {
            operation: Some(operation),
            path: String::new(),
            from: 1,
            times: u64::MAX,
            effect,
            seen: 0,
        }
    }

    /// `effect` at whatever is done.
    pub fn anything(effect: Effect) -> Self {
        Self { operation: None, ..Self::every(Operation::Look, effect) }
    }

    /// `effect` at one `operation`, the `nth` from now on.
    pub fn nth(operation: Operation, nth: u64, effect: Effect) -> Self {
        Self { from: nth, times: 1, ..Self::every(operation, effect) }
    }

    /// The same from the `nth` on.
    #[must_use]
    pub fn from(mut self, nth: u64) -> Self {
        self.from = nth;
        self
    }

    /// The same only where the path contains `path`.
    #[must_use]
    pub fn at(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Counts an operation, and says whether the fault strikes.
    pub(super) fn strikes(&mut self, operation: Operation, path: &str) -> bool {
        if self.operation.is_some_and(|own| own != operation) || !path.contains(&self.path) {
            return false;
        }
        self.seen += 1;
        self.seen >= self.from && self.seen - self.from < self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_nth_in_the_right_place_is_struck() {
        let mut fault = Fault::nth(Operation::Write, 2, Effect::Lie).at("shard-000");
        let mut strikes = |operation, path| fault.strikes(operation, path);
        assert!(!strikes(Operation::Write, "q/shard-000/a"));
        assert!(!strikes(Operation::Write, "q/shard-001/a"));
        assert!(!strikes(Operation::Sync, "q/shard-000/a"));
        assert!(strikes(Operation::Write, "q/shard-000/b"));
        assert!(!strikes(Operation::Write, "q/shard-000/b"));
        let mut fault = Fault::anything(Effect::Hang).from(2);
        assert!(!fault.strikes(Operation::Look, ""));
        assert!(fault.strikes(Operation::Read, "") && fault.strikes(Operation::Sync, "x"));
    }
}
