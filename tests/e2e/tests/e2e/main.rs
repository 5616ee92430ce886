//! End-to-end tests of the real binary.
//!
//! Each module is one promise, seen from outside. `docs/TESTING.md` says how to run one of them
//! and what is skipped when.

mod admin;
mod aliases;
mod auth;
mod auth_out;
mod auth_tls;
mod bad_input;
mod books;
mod bulk;
mod chunking;
mod client_certificates;
mod clients;
mod deliver_by;
mod delivery;
mod dialects;
mod dialogue;
mod dns;
mod dsn;
mod eight_bit;
mod flush;
mod headers;
mod hold;
mod isolation;
mod kill;
mod limits;
mod listeners;
mod peers;
mod priority;
mod proxy;
mod records;
mod requiretls;
mod resources;
#[path = "../../../../crates/session/tests/support/rows.rs"]
mod rows;
mod rules;
mod self_check;
mod sharing;
mod signals;
mod stress;
mod syncs;
mod times;
mod tls;
mod tls_optional;
mod tls_out;
mod tools;
mod utf8;
mod watermarks;
mod xclient;

use std::env;

use ringpost_e2e::account::Account;

/// A number from the environment, for longer or shorter runs by hand.
fn scale(name: &str, usual: u64) -> u64 {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// No ids; reads better in an assertion.
const NONE: [&str; 0] = [];

/// Expects that everything acknowledged has come whole, and once.
fn once_each(account: &Account) {
    assert_eq!(account.lost(), NONE, "{account}");
    assert_eq!(account.damaged(), NONE, "{account}");
    assert_eq!(account.repeated(), NONE, "{account}");
}
