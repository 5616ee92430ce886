//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use ringpost_queue::MessageId;

use crate::config::units::parse_duration;

/// Where the configuration is when the command line does not say.
pub const CONFIG_PATH: &str = "/etc/ringpost/ringpost.toml";

/// Exit status of a command that refuses its configuration, apart from the 1 of `check-config`.
///
/// The sysexits value, so that a supervisor can tell "do not restart me" from a crash.
pub const EXIT_CONFIG: u8 = 78;

/// A durable outbound SMTP relay, one executor per core.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "ringpost", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Runs the server until it is told to stop (TERM or INT).
    Run {
        /// The configuration file.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
    },
    /// Checks a configuration file: prints each problem with its line, and exits with 1.
    CheckConfig {
        /// The configuration file.
        #[arg(value_name = "FILE", default_value = CONFIG_PATH)]
        file: PathBuf,
    },
    /// Looks at the queue, and mends it.
    Queue {
        /// What to do with it.
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// Looks at rules on replies (delivery.rules).
    Rules {
        /// What to do with them.
        #[command(subcommand)]
        command: RulesCommand,
    },
    /// Keeps the file of users (auth.users).
    User {
        /// What to do with it.
        #[command(subcommand)]
        command: UserCommand,
    },
}

/// What to do with rules on replies.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum RulesCommand {
    /// Says which rule a reply matches, and what follows; exits with 1 when the rules cannot be read.
    Test {
        /// The configuration file that names the rules.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// The rules themselves, instead of a configuration file.
        #[arg(long, value_name = "FILE", conflicts_with = "config")]
        rules: Option<PathBuf>,
        /// Where it is said: connect, greeting, ehlo, tls, auth, mail, rcpt, data or final.
        #[arg(long)]
        stage: String,
        /// The host that says it.
        #[arg(long, value_name = "NAME", default_value = "")]
        host: String,
        /// The domain of the recipient.
        #[arg(long, value_name = "NAME")]
        domain: Option<String>,
        /// The reply, as in "451 4.7.1 greylisted".
        reply: String,
    },
}

/// What to do with the file of users.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum UserCommand {
    /// Adds a user; the password is a line of standard input, or typed.
    Add {
        /// The file of users. It is made when it is not there.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// The user.
        #[command(flatten)]
        user: NewUser,
    },
    /// Removes a user.
    Remove {
        /// The file of users.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Its name.
        name: String,
    },
    /// Lists the users.
    List {
        /// The file of users.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Says whether a line of standard input is a user's password; exits with 1 when it is not.
    Check {
        /// The file of users.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// Its name.
        name: String,
    },
}

/// A user to be added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct NewUser {
    /// Its name, without white space.
    pub name: String,
    /// Keeps an argon2id hash of the password, which serves for PLAIN and LOGIN only, and is harder to guess
    /// from by whoever has the file.
    #[arg(long)]
    pub argon2id: bool,
    /// Keeps a verifier for SCRAM, which serves for PLAIN and LOGIN, too. The default.
    #[arg(long, conflicts_with = "argon2id")]
    pub scram: bool,
    /// No password: the user is known by its certificates alone.
    #[arg(long, conflicts_with_all = ["argon2id", "scram"], requires = "certificate")]
    pub no_password: bool,
    /// A certificate that it is known by: "sha256:…", "email:…", "dns:…" or "subject:…"; can be given more
    /// than once.
    #[arg(long, value_name = "RULE")]
    pub certificate: Vec<String>,
    /// On whose behalf it sends, for event records.
    #[arg(long, value_name = "NAME")]
    pub tenant: Option<String>,
    /// A mailbox or domain that it may give as reverse-path; can be given more than once. Default: any.
    #[arg(long, value_name = "PATH")]
    pub reverse_path: Vec<String>,
    /// How much it may send, such as "1000/1h". Default: no limit.
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,
    /// Gives a user that there is another password, and changes what else is given.
    #[arg(long)]
    pub replace: bool,
}

/// What is kept of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifierKind {
    /// An argon2id hash.
    Argon2id,
    /// A verifier for SCRAM-SHA-256.
    Scram,
}

impl NewUser {
    /// What is to be kept of its password.
    pub fn kind(&self) -> VerifierKind {
        if self.argon2id { VerifierKind::Argon2id } else { VerifierKind::Scram }
    }
}

/// What to do with the queue.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum QueueCommand {
    /// Shows what is in the queue of the running server.
    Status {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// Prints the server's answer as it is, in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Removes mail from the queue of the running server. Nobody is told, it is gone for good.
    Purge {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// What to remove.
        #[command(flatten)]
        what: PurgeFilter,
    },
    /// Has the mail of the running server that waits for another attempt tried now. Limits on connections
    /// hold; mail that its sender wants to wait goes on waiting.
    Flush {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// Whose mail.
        #[command(flatten)]
        what: FlushFilter,
    },
    /// Checks the queue of a stopped server from end to end, and changes nothing. Exits with 1 when
    /// something is damaged.
    Check {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// Checks this shard only.
        #[arg(long, value_name = "N")]
        shard: Option<u16>,
        /// Prints the report in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Repairs the damaged shards of a stopped server: what is whole goes into a new log, the old one is
    /// kept beside it.
    Repair {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// Repairs this shard only.
        #[arg(long, value_name = "N")]
        shard: Option<u16>,
        /// Says what would be kept and what would be lost, and changes nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Writes the mail of a stopped server to files in an open format. The queue is not changed.
    Export {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// The directory for the files. It is made when it is not there.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// Exports this shard only.
        #[arg(long, value_name = "N")]
        shard: Option<u16>,
        /// Exports this message only.
        #[arg(long, value_name = "ID")]
        id: Option<MessageId>,
    },
    /// Takes mail that was exported into the queue of a stopped server.
    Import {
        /// The configuration file of the server.
        #[arg(long, value_name = "FILE", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// The directory with the files. What has been imported is moved to "imported" in it.
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
    },
}

/// What a purge removes: what matches all that is given.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[group(required = true, multiple = true)]
pub struct PurgeFilter {
    /// Everything.
    #[arg(long, conflicts_with_all = ["domain", "older_than"])]
    pub all: bool,
    /// Recipients at this domain or address literal.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// Messages that were received longer ago than this, such as "2d" or "36h".
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
}

/// What a flush tries.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct FlushFilter {
    /// Everything.
    #[arg(long, conflicts_with_all = ["domain", "subdomains"], required_unless_present = "domain")]
    pub all: bool,
    /// Recipients at this domain or address literal.
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    /// And at the domains below it.
    #[arg(long, requires = "domain")]
    pub subdomains: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn command_lines_are_read() {
        let run = |path: &str| Command::Run { config: path.into() };
        let check = |path: &str| Command::CheckConfig { file: path.into() };
        let status = |json| {
            let config = "c.toml".into();
            Command::Queue { command: QueueCommand::Status { config, json } }
        };
        let purge = |all, domain: Option<&str>, hours: Option<u64>| {
            let what = PurgeFilter {
                all,
                domain: domain.map(str::to_owned),
                older_than: hours.map(Duration::from_hours),
            };
            Command::Queue { command: QueueCommand::Purge { config: CONFIG_PATH.into(), what } }
        };
        let repair = |shard, dry_run| {
            let config = CONFIG_PATH.into();
            Command::Queue { command: QueueCommand::Repair { config, shard, dry_run } }
        };
        let look = |shard, json| {
            let config = CONFIG_PATH.into();
            Command::Queue { command: QueueCommand::Check { config, shard, json } }
        };
        let flush = |all, domain: Option<&str>, subdomains| {
            let what = FlushFilter { all, domain: domain.map(str::to_owned), subdomains };
            Command::Queue { command: QueueCommand::Flush { config: CONFIG_PATH.into(), what } }
        };
        let table: [(&[&str], Option<Command>); 33] = [
            (&["queue", "flush", "--all"], Some(flush(true, None, false))),
            (&["queue", "flush", "--domain", "a.b"], Some(flush(false, Some("a.b"), false))),
            (
                &["queue", "flush", "--domain", "a.b", "--subdomains"],
                Some(flush(false, Some("a.b"), true)),
            ),
            (&["queue", "flush"], None),
            (&["queue", "flush", "--all", "--subdomains"], None),
            (
                &["queue", "import", "--from", "d"],
                Some(Command::Queue {
                    command: QueueCommand::Import { config: CONFIG_PATH.into(), from: "d".into() },
                }),
            ),
            (
                &["user", "list", "--file", "u"],
                Some(Command::User { command: UserCommand::List { file: "u".into() } }),
            ),
            (
                &["user", "add", "--file", "u", "a", "--scram", "--reverse-path", "b.test"],
                Some(Command::User {
                    command: UserCommand::Add {
                        file: "u".into(),
                        user: NewUser {
                            name: "a".into(),
                            scram: true,
                            reverse_path: vec!["b.test".into()],
                            ..NewUser::default()
                        },
                    },
                }),
            ),
            (&["user", "add", "--file", "u", "a", "--scram", "--argon2id"], None),
            (&["user", "add", "--file", "u", "a", "--no-password"], None),
            (&["user", "remove", "a"], None),
            (&["queue", "export"], None),
            (&["queue", "export", "--to", "d", "--id", "?"], None),
            (&["queue", "check"], Some(look(None, false))),
            (&["queue", "check", "--shard", "3", "--json"], Some(look(Some(3), true))),
            (&["queue", "check", "--shard", "all"], None),
            (&["queue", "repair", "--shard", "1", "--dry-run"], Some(repair(Some(1), true))),
            (&["queue", "purge", "--all"], Some(purge(true, None, None))),
            (
                &["queue", "purge", "--domain", "a.b", "--older-than", "2d"],
                Some(purge(false, Some("a.b"), Some(48))),
            ),
            (&["queue", "purge"], None),
            (&["queue", "purge", "--all", "--domain", "a.b"], None),
            (&["queue", "purge", "--older-than", "soon"], None),
            (&["queue", "status", "--config", "c.toml"], Some(status(false))),
            (&["queue", "status", "--json", "--config", "c.toml"], Some(status(true))),
            (&["queue"], None),
            (&["run"], Some(run(CONFIG_PATH))),
            (&["run", "--config", "a.toml"], Some(run("a.toml"))),
            (&["check-config", "b.toml"], Some(check("b.toml"))),
            (&["check-config"], Some(check(CONFIG_PATH))),
            (&[], None),
            (&["run", "a.toml"], None),
            (&["--version"], None),
            (&["frobnicate"], None),
        ];
        for (arguments, expected) in table {
            let parsed = Cli::try_parse_from([&["ringpost"], arguments].concat());
            assert_eq!(parsed.ok().map(|cli| cli.command), expected, "{arguments:?}");
        }
    }
}
