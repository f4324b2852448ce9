//! The demo, played for a second an act: it runs through, and its numbers are those of a filter at work.

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["demo", "--plain"]).args(arguments).output().unwrap()
}

#[test]
fn demo_plays_three_acts_and_sums_them_up() {
    let output = demo(&["--act-seconds", "1"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Refused are column 3; the rows of the greedy client are those of the two spikes.
    let greedy: Vec<u64> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("greedy (free)"))
        .map(|row| row.split_whitespace().nth(2).unwrap().parse().unwrap())
        .collect();
    assert!(matches!(greedy[..], [with, 0] if with > 300), "refused of the greedy: {greedy:?}\n{text}");
    assert!(text.contains("per-address refused"), "{text}");
}

#[test]
fn demo_without_a_filter_says_what_to_run() {
    let output = demo(&["--wasm", "no/such.wasm"]);
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(problem.contains("no/such.wasm") && problem.contains("make setup build"), "{problem}");
}
