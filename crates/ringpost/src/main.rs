//! The `ringpost` binary.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use ringpost::{
    bootstrap,
    cli::{Cli, Command},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => bootstrap::run(&config),
        Command::CheckConfig { file } => match bootstrap::check_config(&file) {
            Ok(summary) => {
                let _ = writeln!(std::io::stdout(), "{}: ok: {summary}", file.display());
                ExitCode::SUCCESS
            }
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "{error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
