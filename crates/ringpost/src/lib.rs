//! Ringpost: a thread-per-core mail transfer agent.
//!
//! The decisions live in the pure crates `ringpost-session`, `ringpost-queue` and
//! `ringpost-delivery`; this crate does their I/O, one shard a core.

pub mod admin;
pub mod auth;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod control;
pub mod queue_tools;
pub mod rules_tool;
pub mod runtime;
pub mod shard;
pub mod tls;
pub mod user_tools;
