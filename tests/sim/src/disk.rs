//! Disks that are slow, fail, fill up and lose what was not synced.
