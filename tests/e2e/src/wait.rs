//! Waits for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition that should come soon may take on a loaded two-core machine.
///
/// Only a hang reaches it: no test passes or fails by how fast something was.
pub const SOON: Duration = Duration::from_mins(1);

const STEP: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Errors
///
/// Fails when `deadline` has passed first, naming `what`, or when the condition itself fails.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_for(what, deadline, || Ok(condition()?.then_some(())))
}

/// Waits until `probe` yields a value.
///
/// # Errors
///
/// Fails when `deadline` has passed first, naming `what`, or when the probe itself fails.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if start.elapsed() > deadline {
            bail!("waited {deadline:?} in vain for: {what}");
        }
        thread::sleep(STEP);
    }
}

/// Looks again and again, many times in a millisecond, until `condition` holds; whether it did.
///
/// For what has to be met in the act.
///
/// # Errors
///
/// Fails when the condition itself fails.
pub fn watch(deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = Instant::now();
    loop {
        if condition()? {
            return Ok(true);
        }
        if start.elapsed() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_micros(100));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_an_error_that_names_it() {
        let error = wait_until("the moon", Duration::from_millis(30), || Ok(false)).unwrap_err();
        assert!(error.to_string().contains("the moon"));
    }

    #[test]
    fn a_watch_says_whether_it_saw_anything() {
        let mut looks = 0;
        let seen = watch(SOON, || {
            looks += 1;
            Ok(looks == 3)
        });
        assert!(seen.unwrap());
        assert!(!watch(Duration::from_millis(5), || Ok(false)).unwrap());
    }

    #[test]
    fn a_value_ends_the_wait() {
        let mut left = 3;
        let value = wait_for("three", SOON, || {
            left -= 1;
            Ok((left == 0).then_some("here"))
        });
        assert_eq!(value.unwrap(), "here");
    }
}
