//! The `ringpost` binary.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use ringpost::{
    admin, bootstrap,
    cli::{Cli, Command, QueueCommand, RulesCommand, UserCommand},
    queue_tools, rules_tool, user_tools,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run { config } => bootstrap::run(&config),
        Command::Queue { command: QueueCommand::Status { config, json } } => {
            show(admin::status(&config, json))
        }
        Command::Queue { command: QueueCommand::Purge { config, what } } => {
            show(admin::purge(&config, &what))
        }
        Command::Queue { command: QueueCommand::Flush { config, what } } => {
            show(admin::flush(&config, &what))
        }
        Command::Queue { command: QueueCommand::Check { config, shard, json } } => {
            queue_tools::check(&config, shard, json)
        }
        Command::Queue { command: QueueCommand::Repair { config, shard, dry_run } } => {
            queue_tools::repair(&config, shard, dry_run)
        }
        Command::Queue { command: QueueCommand::Export { config, to, shard, id } } => {
            queue_tools::export(&config, &to, shard, id)
        }
        Command::Queue { command: QueueCommand::Import { config, from } } => {
            queue_tools::import(&config, &from)
        }
        Command::Rules {
            command: RulesCommand::Test { config, rules, stage, host, domain, reply },
        } => {
            let domain = domain.as_deref();
            let question =
                rules_tool::Question { stage: &stage, host: &host, domain, reply: &reply };
            show(rules_tool::test(&config, rules.as_ref(), question))
        }
        Command::User { command } => show(match command {
            UserCommand::Add { file, user } => user_tools::add(&file, &user),
            UserCommand::Remove { file, name } => user_tools::remove(&file, &name),
            UserCommand::List { file } => user_tools::list(&file),
            UserCommand::Check { file, name } => user_tools::check(&file, &name),
        }),
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

/// Prints what a command has found, or why it has not.
fn show(found: anyhow::Result<String>) -> ExitCode {
    match found {
        Ok(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}
