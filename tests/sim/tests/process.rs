//! The command line of the simulator, in processes of their own.

#![expect(clippy::unwrap_used, reason = "a test may be blunt")]

use std::process::Command;

/// What the simulator prints for these arguments, and whether all was well.
fn simulate(arguments: &str) -> (String, bool) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringpost-sim"));
    let output = command.args(arguments.split_whitespace()).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.success())
}

/// The hash at the end of a report.
fn trace(printed: &str) -> String {
    let (_, rest) = printed.split_once("trace ").unwrap();
    rest.chars().take(16).collect()
}

#[test]
fn one_seed_is_one_run_in_every_process() {
    let run = |seed: u32| {
        let (printed, is_well) = simulate(&format!("--seed {seed} --messages 50 --verbose"));
        assert!(is_well, "{printed}");
        trace(&printed)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn the_first_thing_said_is_the_seed() {
    let (printed, _) = simulate("--seed 12345 --seeds 2 --messages 5 --quiet");
    assert!(printed.lines().next().unwrap().contains("12345"), "{printed}");
}
