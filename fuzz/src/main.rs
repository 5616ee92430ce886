//! Feeds one target with what the fuzzing engine thinks up; `fuzz/run` says how.
//!
//! The target is named by the environment variable `RINGPOST_FUZZ_TARGET`, so that one program does for
//! all of them: it takes longer to link one than to compile them all. With `RINGPOST_FUZZ_PREPARE` it
//! first writes what the engine is to know of the target into that directory: its seeds into `seeds`,
//! its words into `words`, the size of inputs into `size_max`.

#![no_main]

use std::path::Path;
use std::sync::LazyLock;
use std::{fs, io};

use libfuzzer_sys::fuzz_target;
use ringpost_fuzz::{Target, find};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("RINGPOST_FUZZ_TARGET").unwrap_or_default();
    #[expect(clippy::panic, reason = "the engine knows no other way to be told")]
    let target = find(&name).unwrap_or_else(|| panic!("RINGPOST_FUZZ_TARGET={name:?}"));
    if let Some(directory) = std::env::var_os("RINGPOST_FUZZ_PREPARE") {
        #[expect(clippy::panic, reason = "as above")]
        prepare(target, Path::new(&directory)).unwrap_or_else(|error| panic!("{error}"));
    }
    target
});

fn prepare(target: &Target, directory: &Path) -> io::Result<()> {
    let seeds = directory.join("seeds");
    fs::create_dir_all(&seeds)?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        fs::write(seeds.join(number.to_string()), seed)?;
    }
    let word = |word: &&str| {
        let octets: String = word.bytes().map(|b| format!("\\x{b:02x}")).collect();
        format!("\"{octets}\"\n")
    };
    fs::write(directory.join("words"), target.words.iter().map(word).collect::<String>())?;
    fs::write(directory.join("size_max"), target.size_max.to_string())
}

fuzz_target!(|octets: &[u8]| {
    if let Err(wrong) = (TARGET.check)(octets) {
        #[expect(clippy::panic, reason = "this is how a finding is reported")]
        {
            panic!("{}: {wrong}", TARGET.name);
        }
    }
});
