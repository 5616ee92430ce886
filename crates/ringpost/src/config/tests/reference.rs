//! The reference file and the documentation against the schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{accepted, facts};
use crate::config::schema::{Config, ListenerSection};
use crate::config::{SystemFacts, load};

fn repository(path: &str) -> PathBuf {
    // The package lies two directories below the root of the repository.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn reference() -> String {
    std::fs::read_to_string(repository("deploy/ringpost.toml")).unwrap()
}

/// A line of the reference file that is a key or a section when its `#` is removed.
fn uncommented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('#').unwrap_or(line);
    let is_key = rest.starts_with(|c: char| c.is_ascii_lowercase()) && rest.contains(" = ");
    (is_key || rest.starts_with('[')).then_some(rest)
}

fn keys_of_reference(examples: bool) -> String {
    let text = reference();
    let lines = text.lines().filter_map(uncommented);
    let kept: Vec<&str> = lines.filter(|line| examples || !line.ends_with("# example")).collect();
    kept.join("\n")
}

fn defaults() -> Config {
    let main = ListenerSection {
        addresses: vec!["127.0.0.1:2525".parse().unwrap()],
        ..ListenerSection::default()
    };
    Config { listener: BTreeMap::from([(String::from("main"), main)]), ..Config::default() }
}

#[test]
fn the_reference_file_is_accepted_as_it_is() {
    let snapshot = load(&repository("deploy/ringpost.toml"), &facts()).unwrap();
    assert_eq!(snapshot.config(), &defaults());
}

#[test]
fn the_keys_shown_in_the_reference_file_are_the_defaults() {
    let snapshot = accepted(&keys_of_reference(false));
    assert_eq!(snapshot.config(), &defaults());
}

#[test]
fn the_examples_in_the_reference_file_are_accepted_and_are_no_defaults() {
    let text = keys_of_reference(true);
    let none = SystemFacts { name_servers: Vec::new(), ..facts() };
    let snapshot = crate::config::parse(&text, &none).unwrap();
    assert_eq!(snapshot.config().route.len(), 1);
    assert_ne!(snapshot.config(), &defaults());
}

/// Section and key of everything in a file, listeners under the name `NAME`.
fn keys(text: &str) -> BTreeSet<(String, String)> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        if let Some(header) = line.strip_prefix('[') {
            let name = header.trim_start_matches('[').split(']').next().unwrap();
            section = name.replace("listener.main", "listener.NAME");
        } else if let Some((key, _)) = line.split_once(" = ") {
            keys.insert((section.clone(), key.to_owned()));
        }
    }
    keys
}

/// The keys that a section knows, from the error about one that it does not.
fn keys_of_schema() -> BTreeSet<(String, String)> {
    let mut known = BTreeSet::new();
    let sections = [
        "server",
        "listener.NAME",
        "listener.NAME.auth",
        "listener.NAME.header",
        "listener.NAME.client_certificates",
        "queue",
        "delivery",
        "stress",
        "auth",
        "dns",
        "control",
        "events",
        "log",
    ];
    let headers = sections.iter().map(|name| (*name, format!("[{name}]\n")));
    for (section, header) in headers.chain([("route", String::from("[[route]]\n"))]) {
        let error = toml::from_str::<Config>(&format!("{header}no_such_key = 1\n")).unwrap_err();
        let message = error.message();
        let list = message.split_once("expected").unwrap().1;
        for key in list.split('`').skip(1).step_by(2) {
            // Those of a section within a section stand in their own.
            let nested = ["auth", "header", "client_certificates"];
            if section != "listener.NAME" || !nested.contains(&key) {
                known.insert((section.to_owned(), key.to_owned()));
            }
        }
    }
    // These are names of the operator's choice; the example is one.
    known.insert(("aliases".to_owned(), "postmaster".to_owned()));
    known
}

#[test]
fn the_reference_file_shows_every_key_of_the_schema() {
    assert_eq!(keys(&keys_of_reference(true)), keys_of_schema());
}

#[test]
fn the_schema_has_no_other_sections() {
    let error = toml::from_str::<Config>("no_such_section = 1\n").unwrap_err();
    let known: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
    let sections = [
        "server", "listener", "aliases", "queue", "delivery", "route", "stress", "auth", "dns",
        "control", "events", "log",
    ];
    assert_eq!(known, sections);
}

/// The documentation page, made from the reference file.
fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    let text = reference();
    // What stands above the first section explains the file itself.
    let (_, body) = text.split_once("\n\n").unwrap();
    let mut prose: Vec<&str> = Vec::new();
    for raw in body.lines() {
        if let Some(words) = raw.strip_prefix("# ") {
            prose.push(words);
            continue;
        }
        let Some(line) = uncommented(raw) else { continue };
        if line.starts_with('[') {
            let header = line.trim_end_matches(" # example").replace("main", "NAME");
            let _ = write!(page, "\n## `{header}`\n\n");
            if !prose.is_empty() {
                let _ = writeln!(page, "{}\n", prose.join("\n"));
            }
            prose.clear();
            continue;
        }
        let (key, value) = line.split_once(" = ").unwrap();
        let _ = match value.strip_suffix(" # example") {
            Some(example) => writeln!(page, "- `{key}`, for example `{example}`."),
            None if raw.starts_with('#') => writeln!(page, "- `{key}`, default `{value}`."),
            None => writeln!(page, "- `{key}`, required, for example `{value}`."),
        };
        for words in &prose {
            let _ = writeln!(page, "  {words}");
        }
        prose.clear();
    }
    page
}

const INTRODUCTION: &str = "# Configuration

One TOML file, `/etc/ringpost/ringpost.toml` unless `--config` names another. This page is written
from the reference file, `deploy/ringpost.toml`, by the tests of the server
(`RINGPOST_BLESS=1 cargo test -p ringpost config`); do not edit it by hand.

Durations are strings with units (`ms`, `s`, `m`, `h`, `d`: `\"90s\"`, `\"1h30m\"`), sizes too (`B`,
`KiB`, `MiB`, `GiB`, `TiB`). Unknown keys are errors. A file with an error is refused as a whole:
`ringpost check-config FILE` prints every problem as `file:line: reason` and exits with 1, or prints
one line about what it read and exits with 0.
";

#[test]
fn the_configuration_page_is_the_reference_file() {
    let path = repository("docs/CONFIG.md");
    let generated = page();
    if std::env::var_os("RINGPOST_BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == generated,
        "docs/CONFIG.md is out of date: RINGPOST_BLESS=1 cargo test -p ringpost config"
    );
    for (_, key) in keys_of_schema() {
        assert!(generated.contains(&format!("- `{key}`, ")), "{key}");
    }
}
