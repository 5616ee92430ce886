//! When something that failed is tried again, without a clock.

/// Calls between two tries at most. The driver calls five times a second: what works again is
/// noticed within about a second.
const DELAY_MAX: u32 = 5;

/// Counts calls until the next try: 1 after the first failure, then 2, 4, and 5.
#[derive(Debug, Default)]
pub(super) struct Retry {
    delay: u32,
    wait: u32,
}

impl Retry {
    /// Whether the last try failed.
    pub(super) fn is_failing(&self) -> bool {
        self.delay > 0
    }

    /// Whether a try is due.
    pub(super) fn is_due(&self) -> bool {
        self.wait == 0
    }

    pub(super) fn fail(&mut self) {
        self.delay = (self.delay * 2).clamp(1, DELAY_MAX);
        self.wait = self.delay;
    }

    pub(super) fn succeed(&mut self) {
        *self = Self::default();
    }

    /// Counts a call.
    pub(super) fn call(&mut self) {
        self.wait = self.wait.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rarer_but_never_rare() {
        let mut retry = Retry::default();
        assert!(retry.is_due() && !retry.is_failing());
        for calls in [1, 2, 4, 5, 5] {
            retry.fail();
            for _ in 0..calls {
                assert!(!retry.is_due());
                retry.call();
                // Due, but still failing until something succeeds.
                assert!(retry.is_failing());
            }
            assert!(retry.is_due());
        }
        retry.succeed();
        assert!(retry.is_due() && !retry.is_failing());
        retry.fail();
        retry.call();
        assert!(retry.is_due());
    }
}
