//! Tests of the configuration.

mod checks;
mod convert;
mod logins;
mod reference;
mod rules;
mod values;

use super::{ConfigSnapshot, Problem, SystemFacts, parse};

/// A machine with four cores, a name and a name server.
fn facts() -> SystemFacts {
    SystemFacts {
        hostname: String::from("Relay.Example.com"),
        cores: vec![0, 1, 2, 3],
        name_servers: vec!["192.0.2.53:53".parse().unwrap()],
        memory: None,
    }
}

/// The shortest file that works.
const MINIMAL: &str = "[listener.main]\naddresses = [\"127.0.0.1:2525\"]\n";

fn accepted(text: &str) -> ConfigSnapshot {
    parse(text, &facts()).unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

fn refused(text: &str) -> Vec<Problem> {
    match parse(text, &facts()) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(problems) => problems,
    }
}
