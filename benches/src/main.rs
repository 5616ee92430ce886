//! `ringpost-load`: the load tools that come with Ringpost.
//!
//! `source` and `sink` stand on either side of a server and keep account of every message by a
//! unique id and a checksum; `demo` puts a Ringpost server between them; `commits` measures the log
//! alone. docs/BENCHMARKING.md says what they measure.

mod account;
mod cli;
mod commits;
mod demo;
mod message;
mod report;
mod signals;
mod sink;
mod source;
mod verify;

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::process::ExitCode;

use clap::Parser as _;
use mimalloc::MiMalloc;
use ringpost_protocol::time::write_rfc5322;

use crate::cli::{Cli, Tool};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let outcome = match &Cli::parse().tool {
        Tool::Source(arguments) => source::run(arguments),
        Tool::Sink(arguments) => sink::run(arguments),
        Tool::Demo(arguments) => demo::run(arguments),
        Tool::Commits(arguments) => commits::run(arguments),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::note(&format!("ringpost-load: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// A number for a run that no other run has had, as far as chance allows.
fn draw_run() -> u32 {
    // The standard library seeds its hashers from the system's random source.
    RandomState::new().build_hasher().finish() as u32
}

/// The present time as the value of a Date field.
fn date_now() -> String {
    let mut date = Vec::new();
    write_rfc5322(ringpost::runtime::system_unix_ms() / 1000, &mut date);
    String::from_utf8_lossy(&date).into_owned()
}
