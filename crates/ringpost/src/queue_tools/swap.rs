//! Putting a new log in the place of a damaged one, so that a crash leaves one of the two.
//!
//! ```text
//! shard-000.repaired   is written, and synced with everything in it
//! shard-000            is renamed to shard-000.damaged-20260102T030405Z
//! shard-000.repaired   is renamed to shard-000
//! ```
//!
//! Between the two renames there is no `shard-000`. The new log is complete then, so whoever opens the queue
//! next does the second rename ([`finish`]) before anything else.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ringpost_protocol::time;
use ringpost_queue::{ShardId, layout::shard_directory};

use super::storage::sync_directory;

/// Damaged directories of one shard with the same time in their names.
const SAME_NAME_MAX: u32 = 1000;

/// Where the new log of a shard is written.
pub(crate) fn repaired(queue: &Path, shard: ShardId) -> PathBuf {
    queue.join(format!("{}.repaired", shard_directory(shard)))
}

/// Where the log of a shard is: in its own place, or still beside it, when a repair was interrupted.
pub(crate) fn current(queue: &Path, shard: ShardId) -> PathBuf {
    let path = queue.join(shard_directory(shard));
    let new = repaired(queue, shard);
    if !path.exists() && new.exists() { new } else { path }
}

/// Ends a swap that was interrupted; whether there was one.
///
/// # Errors
///
/// When that fails, or a damaged log was put aside and there is no other: an empty one must not take its
/// place.
pub(crate) fn finish(queue: &Path, shard: ShardId) -> io::Result<bool> {
    let name = shard_directory(shard);
    let (path, new) = (queue.join(&name), repaired(queue, shard));
    if path.exists() {
        return Ok(false);
    }
    if new.exists() {
        fs::rename(&new, &path)?;
        sync_directory(queue)?;
        return Ok(true);
    }
    let prefix = format!("{name}.damaged-");
    for entry in fs::read_dir(queue)? {
        let aside = entry?.file_name().to_string_lossy().into_owned();
        if aside.starts_with(&prefix) {
            let text = format!("{name} is missing, but {aside} is there: rename it to {name}");
            return Err(io::Error::new(io::ErrorKind::NotFound, text));
        }
    }
    Ok(false)
}

/// Puts the new log of a shard, complete and synced, in the place of the old one; gives the name that that
/// one has now. `step` is called before each step that changes something.
pub(super) fn swap(
    queue: &Path,
    shard: ShardId,
    unix_ms: u64,
    step: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<String> {
    let name = shard_directory(shard);
    let aside = aside(queue, &name, unix_ms)?;
    step()?;
    // Its name, before that of the old one is gone.
    sync_directory(queue)?;
    step()?;
    fs::rename(queue.join(&name), queue.join(&aside))?;
    step()?;
    sync_directory(queue)?;
    step()?;
    finish(queue, shard)?;
    step()?;
    Ok(aside)
}

/// A name for the damaged directory that is still free.
fn aside(queue: &Path, name: &str, unix_ms: u64) -> io::Result<String> {
    let mut date = Vec::new();
    time::write_rfc3339_seconds(unix_ms / 1000, &mut date);
    date.retain(|octet| !matches!(octet, b'-' | b':'));
    let base = format!("{name}.damaged-{}", String::from_utf8_lossy(&date));
    let names = (2..SAME_NAME_MAX).map(|number| format!("{base}-{number}"));
    std::iter::once(base.clone())
        .chain(names)
        .find(|name| !queue.join(name).exists())
        .ok_or_else(|| io::Error::new(io::ErrorKind::AlreadyExists, base))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn queue() -> tempfile::TempDir {
        let queue = tempfile::tempdir().unwrap();
        for (name, text) in [("shard-000", "old"), ("shard-000.repaired", "new")] {
            fs::create_dir(queue.path().join(name)).unwrap();
            fs::write(queue.path().join(name).join("log"), text).unwrap();
        }
        queue
    }

    fn log(queue: &Path) -> String {
        fs::read_to_string(current(queue, SHARD).join("log")).unwrap()
    }

    #[test]
    fn the_old_log_is_kept_under_a_name_of_its_own() {
        let queue = queue();
        let aside = swap(queue.path(), SHARD, 1_767_323_045_000, &mut || Ok(())).unwrap();
        assert_eq!(aside, "shard-000.damaged-20260102T030405Z");
        assert_eq!(log(queue.path()), "new");
        assert_eq!(fs::read_to_string(queue.path().join(&aside).join("log")).unwrap(), "old");
        // Once more within the same second.
        fs::create_dir(repaired(queue.path(), SHARD)).unwrap();
        let again = swap(queue.path(), SHARD, 1_767_323_045_999, &mut || Ok(())).unwrap();
        assert_eq!(again, "shard-000.damaged-20260102T030405Z-2");
    }

    #[test]
    fn whichever_step_is_the_last_there_is_one_log_and_it_is_whole() {
        let mut seen = Vec::new();
        for last in 0.. {
            let queue = queue();
            let mut steps = 0;
            let swapped = swap(queue.path(), SHARD, 0, &mut || {
                steps += 1;
                if steps > last { Err(io::Error::other("cut off")) } else { Ok(()) }
            });
            let before = log(queue.path());
            let _ = finish(queue.path(), SHARD).unwrap();
            assert!(queue.path().join("shard-000").exists(), "after step {last}");
            assert_eq!(log(queue.path()), before, "after step {last}");
            seen.push(before);
            if swapped.is_ok() {
                break;
            }
        }
        assert_eq!(seen, ["old", "old", "new", "new", "new", "new"]);
    }

    #[test]
    fn a_damaged_log_that_was_put_aside_is_not_replaced_by_nothing() {
        let queue = tempfile::tempdir().unwrap();
        assert!(!finish(queue.path(), SHARD).unwrap());
        fs::create_dir(queue.path().join("shard-000.damaged-20260102T030405Z")).unwrap();
        let error = finish(queue.path(), SHARD).unwrap_err();
        assert!(error.to_string().contains("rename it to shard-000"), "{error}");
    }
}
