//! Power cuts and faults of the disk under the real binary.
//!
//! Each module is one kind of fault. `docs/TESTING.md` says how to run one of them and what is
//! skipped when.

mod compare;
mod cut;
mod flips;
mod full;
mod hang;
mod isolation;
mod nth;

use std::env;

use anyhow::{Result, ensure};
use ringpost_e2e::account::Account;

/// A number from the environment, for longer or shorter runs by hand.
fn scale(name: &str, usual: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// Expects no ids, and shows a few of those that are there.
fn none<T: AsRef<str>>(what: &str, ids: &[T], account: &Account) -> Result<()> {
    let few: Vec<_> = ids.iter().take(10).map(AsRef::as_ref).collect();
    ensure!(ids.is_empty(), "{} {what}, such as {few:?}: {account}", ids.len());
    Ok(())
}

/// Expects that nothing is lost, damaged or invented.
fn sound(account: &Account) -> Result<()> {
    none("lost", &account.lost(), account)?;
    none("damaged", account.damaged(), account)?;
    none("invented", &account.invented(), account)
}
