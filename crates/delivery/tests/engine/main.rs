//! The engine in scenarios, in virtual time, with an account of every recipient and slot.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the world of the tests fails loudly"
)]

mod chaos;
mod deliver_by;
mod dialect;
mod flush;
mod login;
mod parked;
mod priority;
mod purge;
mod rules;
mod scenarios;
mod silence;
mod times;
mod tls;
mod tls_optional;
mod world;
