//! The fault bench: the real binary on disks that lose power, fail, fill up, hang, and lie.
//!
//! | module | one responsibility |
//! |---|---|
//! | [`mod@bench`] | load, server, disk and sink together, and the account |
//! | [`disk`] | what the queue lies on: the fault file system, or an ext4 on it |
//! | [`faultfs`] | a file system that fails as it is told to and forgets what was not synced |
//! | [`place`] | directories, and clearing away what a killed run left |
//! | [`rng`] | seeded choices |
//! | [`senders`] | clients by hand, which know the shards of their messages |
//! | [`watchdog`] | where everybody waits when a bench hangs |
//!
//! Servers, load, sinks and accounts are those of the end-to-end tests. `docs/TESTING.md` says how to
//! run it, and what is skipped when.

pub mod bench;
pub mod disk;
pub mod faultfs;
pub mod place;
pub mod rng;
pub mod senders;
pub mod watchdog;
