//! Every input in git passes its oracle, and so do seeded mutations of them.
//!
//! `RINGPOST_FUZZ_MUTATIONS` says how many for each target (2000), `RINGPOST_SEED` which ones.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may be blunt")]

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use ringpost_fuzz::input::Random;
use ringpost_fuzz::mutate::mutate;
use ringpost_fuzz::{Target, Verdict, find, targets};

/// Octets that all inputs in git may have together.
const CORPUS_SIZE_MAX: usize = 2 << 20;

fn directory(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)
}

/// The inputs of a target in one of its directories, in the order of their names.
fn inputs(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(directory(kind).join(target)) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// The oracle's word, with a panic as one more objection.
fn verdict(target: &Target, octets: &[u8]) -> Verdict {
    let check = target.check;
    let octets = octets.to_vec();
    catch_unwind(move || check(&octets)).unwrap_or_else(|_| Err("it panics".to_owned()))
}

fn run(name: &str) {
    let target = find(name).unwrap();
    let mut known = (target.seeds)();
    for kind in ["corpus", "regressions"] {
        for (file, octets) in inputs(kind, name) {
            assert_eq!(verdict(target, &octets), Ok(()), "{}", file.display());
            known.push(octets);
        }
    }
    let number = |name: &str, usual| {
        std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}")))
    };
    let mut random = Random::new(number("RINGPOST_SEED", 1));
    for _ in 0..number("RINGPOST_FUZZ_MUTATIONS", 2000) / u64::from(target.cost) {
        let from = &known[random.below(known.len())];
        let other = &known[random.below(known.len())];
        let octets = mutate(target, from, other, &mut random);
        let verdict = verdict(target, &octets);
        if verdict.is_err() {
            let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("found-{name}"));
            fs::write(&file, &octets).unwrap();
            panic!("{name}: {verdict:?}, with {}: {}", file.display(), octets.escape_ascii());
        }
    }
}

macro_rules! each {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn none_is_left_out() {
            let names: Vec<&str> = targets::ALL.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

each! { cmd session data bdat reply client addr head dsn log dns http config import proxy }

#[test]
fn the_corpus_is_small_and_has_an_owner() {
    let mut size = 0;
    for kind in ["corpus", "regressions"] {
        for entry in fs::read_dir(directory(kind)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.starts_with('.') || find(&name).is_some(), "{kind}/{name} has no target");
            size += inputs(kind, &name).iter().map(|(_, octets)| octets.len()).sum::<usize>();
        }
    }
    assert!(size <= CORPUS_SIZE_MAX, "{size} octets of corpus: run `fuzz/run --minimise`");
}
