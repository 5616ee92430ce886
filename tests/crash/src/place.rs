//! Directories of the bench, and the clearing away of what a killed run has left mounted.

use std::fs;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Once;

use anyhow::Result;
use tempfile::TempDir;

const PREFIX: &str = "ringpost-crash-";

/// A directory for mounts, which carries the id of this process in its name.
///
/// What processes that are gone have left mounted is unmounted first, once.
///
/// # Errors
///
/// Fails when it cannot be made.
pub fn directory() -> Result<TempDir> {
    static CLEARED: Once = Once::new();
    CLEARED.call_once(clear);
    let prefix = format!("{PREFIX}{}-", process::id());
    Ok(tempfile::Builder::new().prefix(&prefix).tempdir()?)
}

/// Unmounts and detaches what belongs to processes that are gone.
fn clear() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    // What was mounted last comes last and has to go first.
    for line in mounts.lines().rev() {
        let mut words = line.split(' ');
        let (Some(device), Some(mountpoint)) = (words.next(), words.next()) else { continue };
        if is_stale(mountpoint) {
            // It may be gone by itself meanwhile.
            drop(Command::new("umount").arg(mountpoint).output());
            if device.starts_with("/dev/loop") {
                drop(Command::new("losetup").args(["--detach", device]).output());
            }
        }
    }
}

/// Whether it is of this bench, and of a process that is gone.
fn is_stale(mountpoint: &str) -> bool {
    mountpoint
        .split('/')
        .find_map(|part| part.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok())
        .is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_dead_have_left_is_stale() {
        assert!(!is_stale(&format!("/tmp/{PREFIX}{}-x/disk", process::id())));
        // Above the largest process id that Linux gives.
        assert!(is_stale(&format!("/tmp/{PREFIX}99999999-x/disk")));
        assert!(!is_stale("/tmp/other-99999999-x") && !is_stale("/"));
    }
}
