//! The demo, with one second per act or phase: it completes, and its numbers are those of a working filter.

use std::process::{Command, Output};

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["demo", "--plain"]).args(arguments).output().unwrap()
}

/// The output of a successful run.
fn played(arguments: &[&str]) -> String {
    let output = demo(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The number of the greedy client's requests that were refused, column 3, in each of the two spikes.
fn refused_of_the_greedy(text: &str) -> Vec<u64> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("greedy (free)"))
        .map(|row| row.split_whitespace().nth(2).unwrap().parse().unwrap())
        .collect()
}

#[test]
fn demo_plays_three_acts_and_sums_them_up() {
    let text = played(&["--act", "spike", "--act-seconds", "1"]);
    let greedy = refused_of_the_greedy(&text);
    assert!(matches!(greedy[..], [with, 0] if with > 300), "refused of the greedy: {greedy:?}\n{text}");
    assert!(text.contains("per-address refused"), "{text}");
}

#[test]
fn demo_plays_the_spike_against_two_locations_of_the_worker() {
    let text = played(&["--cloudflare", "--act", "spike", "--act-seconds", "2"]);
    let greedy = refused_of_the_greedy(&text);
    // Of 2,000 requests, 50 in 5 s pass in all locations together; the act may overlap two windows.
    assert!(matches!(greedy[..], [with, 0] if with > 1_850), "refused of the greedy: {greedy:?}\n{text}");
}

/// One row of the outage's summary: requests, those served by the CDN, by the origin, with a kept response and with the
/// static response, failures, and failures without the filter.
fn row(text: &str, phase: &str) -> [u64; 7] {
    let row = text.lines().find_map(|line| {
        let numbers: Vec<u64> =
            line.trim().strip_prefix(phase)?.split_whitespace().filter_map(|cell| cell.parse().ok()).collect();
        // The column of the slowest request has a unit. It stands before the last.
        let [requests, cdn, origin, stale, fixed, failed, _slowest, without] = numbers[..] else { return None };
        Some([requests, cdn, origin, stale, fixed, failed, without])
    });
    row.unwrap_or_else(|| panic!("no row of {phase:?}\n{text}"))
}

#[test]
fn demo_plays_an_outage_in_which_nothing_fails_and_the_cdn_serves_again() {
    plays_an_outage(&["--act", "outage", "--phase-seconds", "1"]);
}

#[test]
fn demo_plays_the_outage_against_two_locations_of_the_worker() {
    plays_an_outage(&["--cloudflare", "--act", "outage", "--phase-seconds", "1"]);
}

fn plays_an_outage(arguments: &[&str]) {
    let text = played(arguments);
    for phase in ["the CDN answers 500", "the CDN refuses connections", "the CDN takes 3 s"] {
        let [requests, cdn, origin, .., failed, without] = row(&text, phase);
        assert!(origin * 2 > requests && cdn == 0 && failed == 0, "{phase}: the origin serves\n{text}");
        assert_eq!(without, requests, "{phase}: without the filter all fail\n{text}");
    }
    // Requests in flight when both came back may have got their responses.
    let [requests, _, _, stale, fixed, failed, _] = row(&text, "the origin is gone as well");
    let kept = stale > fixed && (stale + fixed) * 10 > requests * 9;
    assert!(kept && failed == 0, "what was kept is served\n{text}");
    let [_, cdn, origin, .., failed, _] = row(&text, "both are back");
    assert!(cdn > 0 && origin > 0 && failed == 0, "while the CDN ramps, the origin serves the rest\n{text}");
    let [requests, cdn, .., failed, _] = row(&text, "all is well again");
    assert!(cdn * 10 > requests * 9 && failed == 0, "the CDN serves all again\n{text}");
    let states = |phase: &str| {
        // The later table lists the breakers.
        let row = text.lines().rev().find_map(|line| line.trim().strip_prefix(phase));
        row.unwrap().to_owned()
    };
    for (phase, state) in
        [("the CDN answers 500", "open"), ("both are back", "half-open"), ("both are back", "ramping")]
    {
        assert!(states(phase).contains(state), "{phase}: {state}\n{text}");
    }
    assert_eq!(states("all is well again").split_whitespace().next(), Some("closed"), "{text}");
}

#[test]
fn demo_of_a_shared_quota_admits_the_quota_over_all_envoys() {
    let text = played(&["--act", "global", "--phase-seconds", "3"]);
    for phase in ["80, 15 and 5 percent of the load", "it turns over: 5, 15 and 80 percent"] {
        // The later line with this title is in the summary.
        let row = text.lines().rev().find_map(|line| line.trim().strip_prefix(phase)).unwrap();
        let numbers: Vec<u64> = row.split_whitespace().filter_map(|cell| cell.parse().ok()).collect();
        let [one, two, three, together, ..] = numbers[..] else { panic!("{row}") };
        // The authority may have charged up to one window more than the measured period.
        assert!((700..=1_340).contains(&together) && one + two + three <= together + 2, "{phase}: {row}\n{text}");
    }
}

#[test]
fn demo_without_a_filter_says_what_to_run() {
    let output = demo(&["--wasm", "no/such.wasm"]);
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(problem.contains("no/such.wasm") && problem.contains("make setup build"), "{problem}");
}
