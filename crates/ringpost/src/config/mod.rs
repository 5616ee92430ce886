//! The configuration: one TOML file, read whole or not at all.
//!
//! [`load`] parses the file ([`schema`]), looks for contradictions and returns an immutable
//! [`ConfigSnapshot`] that the shards share. What the machine decides and the file does not (host name,
//! cores, name servers) comes in as [`SystemFacts`]. Nothing here has an effect on the system.

mod aliases;
pub mod auth;
mod check;
pub mod client_certificates;
mod convert;
pub mod header;
mod locate;
mod outbound_auth;
mod outbound_tls;
mod retry;
pub mod rules;
pub mod schema;
mod smarthost;
mod snapshot;
mod system;
pub mod units;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use locate::line_at;
pub use retry::{Exponential, Retry};
pub use schema::{AddressFamily, Backend, Config, Cores, LogFormat, Scheduling};
pub use smarthost::{SmarthostAddress, SmarthostError};
pub use snapshot::ConfigSnapshot;
pub use system::SystemFacts;
pub use units::Network;

/// Why a configuration cannot be used. Displayed as `file:line: reason`, one line for each problem.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the file: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has errors. Never empty.
    #[error("{}", Lines(.path, .problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of lines.
        problems: Vec<Problem>,
    },
}

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong, without a full stop.
    pub reason: String,
}

struct Lines<'a>(&'a Path, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.1.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{}:{}: {}", self.0.display(), problem.line, problem.reason)?;
        }
        Ok(())
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
///
/// [`ConfigError`]: unreadable, not TOML, unknown keys, bad values, contradictions.
pub fn load(path: &Path, facts: &SystemFacts) -> Result<Arc<ConfigSnapshot>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
    parse(&text, facts)
        .map(Arc::new)
        .map_err(|problems| ConfigError::Invalid { path: path.to_path_buf(), problems })
}

/// Reads and checks a configuration file, and the certificates and users in the files that it names.
///
/// # Errors
///
/// As [`load`]; and files that cannot be used, with the line that names them.
pub fn load_with_files(
    path: &Path,
    facts: &SystemFacts,
) -> Result<Arc<ConfigSnapshot>, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_path_buf(), source })?;
    parse_with_files(&text, facts)
        .map(Arc::new)
        .map_err(|problems| ConfigError::Invalid { path: path.to_path_buf(), problems })
}

/// Checks the text of a configuration file, and reads the certificates and users in the files that it
/// names.
///
/// # Errors
///
/// As [`parse`]; and files that cannot be used.
pub fn parse_with_files(text: &str, facts: &SystemFacts) -> Result<ConfigSnapshot, Vec<Problem>> {
    let mut snapshot = parse(text, facts)?;
    snapshot.load_files().map_err(|found| located(text, found))?;
    Ok(snapshot)
}

/// Checks the text of a configuration file.
///
/// # Errors
///
/// What is wrong, sorted by line; never empty.
pub fn parse(text: &str, facts: &SystemFacts) -> Result<ConfigSnapshot, Vec<Problem>> {
    let config: Config = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        vec![Problem { line, reason: error.message().replace('\n', " ") }]
    })?;
    let contradictions = check::contradictions(&config, facts);
    if contradictions.is_empty() {
        return Ok(ConfigSnapshot::new(config, facts));
    }
    Err(located(text, contradictions))
}

/// Says where in the file things are wrong, in the order of lines.
fn located(text: &str, found: Vec<check::Contradiction>) -> Vec<Problem> {
    let mut problems: Vec<Problem> = found
        .into_iter()
        .map(|found| Problem {
            line: locate::line_of(text, &found.place),
            reason: format!("{}: {}", found.place.join("."), found.reason),
        })
        .collect();
    problems.sort_by_key(|problem| problem.line);
    problems
}
