//! The oracles, one module a reader.

use crate::Target;

pub mod addr;
pub mod bdat;
pub mod client;
pub mod cmd;
pub mod config;
pub mod data;
pub mod dns;
pub mod dsn;
pub mod head;
pub mod http;
pub mod import;
pub mod log;
pub mod proxy;
pub mod reply;
pub mod session;

/// All targets.
pub static ALL: [Target; 15] = [
    cmd::TARGET,
    session::TARGET,
    data::TARGET,
    bdat::TARGET,
    reply::TARGET,
    client::TARGET,
    addr::TARGET,
    head::TARGET,
    dsn::TARGET,
    log::TARGET,
    dns::TARGET,
    http::TARGET,
    config::TARGET,
    import::TARGET,
    proxy::TARGET,
];

/// Puts choices in front of a text: how seeds are made.
pub(crate) fn seed(choices: &[u8], text: impl AsRef<[u8]>) -> Vec<u8> {
    [choices, text.as_ref()].concat()
}

/// Whether a text can go to a wire or a log as it is: printable ASCII without control characters.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// Whether an address can: UTF-8 without what ends a line, or controls a terminal.
pub(crate) fn is_text(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_target_has_a_name_of_its_own_and_seeds_that_pass() {
        let names: HashSet<&str> = ALL.iter().map(|target| target.name).collect();
        assert_eq!(names.len(), ALL.len());
        for target in &ALL {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            for (number, seed) in seeds.iter().enumerate() {
                assert!(seed.len() <= target.size_max, "{} {number}", target.name);
                assert_eq!((target.check)(seed), Ok(()), "{} {number}", target.name);
            }
            assert_eq!((target.check)(b""), Ok(()), "{}", target.name);
        }
    }
}
