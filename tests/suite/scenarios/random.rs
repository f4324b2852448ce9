//! Random scenarios: a random policy from all that the document allows, and random requests. The results must satisfy
//! invariants that are true of any policy, and every host must give the same results as the core.
//!
//! A scenario is generated from one number. The first number is fixed, so runs are reproducible;
//! `TIDEGATE_SCENARIO_SEED` overrides it, and `TIDEGATE_SCENARIO_CASES` sets how many numbers from there on are tried.
//! A failure prints its number and leaves the scenario in `target/random-scenarios`.

mod fitting;
mod growth;
mod invariants;
mod linking;
mod places;
mod policy;
mod recording;
mod shrinking;
mod traffic;
mod upstreams;
mod words;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::envoy;
use crate::fuzz::dice::Dice;
pub use fitting::shares;
use policy::SCHEMA;
use recording::{Caller, Recorded, record};

/// The scenario of this number, recorded for this host.
fn scenario(seed: u64, on: Caller) -> Recorded {
    let told = Told(seed);
    let (name, mut dice, mut why) = (format!("random-{seed}"), Dice::new(seed), String::new());
    for _ in 0..MOST_TRIES {
        let Some(policy) = policy(&mut dice) else { continue };
        match record(&name, &traffic::scenario(&name, policy, &mut dice), on) {
            Ok(recorded) => {
                std::mem::forget(told);
                return recorded;
            }
            Err(problem) => why = problem,
        }
    }
    panic!("there is no scenario within {MOST_TRIES} tries: {why}");
}

/// A policy that scenarios can show; `None` if this one cannot be changed into one.
fn policy(dice: &mut Dice) -> Option<Value> {
    let mut policy = policy::policy(dice);
    // Fitting may remove what other parts need, and what replaces it has to fit again.
    for _ in 0..MOST_FITS {
        let before = policy.clone();
        fitting::fit(&mut policy, dice);
        if !policy::mended(&mut policy, dice) {
            return None;
        }
        if policy == before {
            return Some(policy);
        }
    }
    None
}

/// The numbers of the scenarios to try: `usual` many, unless the environment overrides it.
fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number("TIDEGATE_SCENARIO_SEED").unwrap_or(FIRST_SEED);
    (0..number("TIDEGATE_SCENARIO_CASES").unwrap_or(usual)).map(move |case| first.wrapping_add(case))
}

/// Prints the number of the scenario if its test panics.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("the scenario of TIDEGATE_SCENARIO_SEED={} TIDEGATE_SCENARIO_CASES=1 failed", self.0);
    }
}

#[test]
fn whatever_the_policy_the_core_does_with_it_what_is_always_true() {
    let mut sent = 0;
    for seed in seeds(1_000) {
        let recorded = scenario(seed, if seed % 2 == 0 { Caller::Envoy } else { Caller::Worker });
        let told = Told(seed);
        let violated = invariants::violated(&recorded);
        assert!(violated.is_none(), "{}\n{}", violated.unwrap_or_default(), recorded.document);
        std::mem::forget(told);
        sent += recorded.scenario.steps.iter().filter(|step| step.send.is_some()).count();
    }
    assert!(sent > 0, "nothing was tried");
}

#[test]
fn random_policies_say_all_that_a_policy_can_say() {
    let (mut sayable, mut said) = (BTreeSet::new(), BTreeSet::new());
    places::sayable(&SCHEMA, "", &mut sayable);
    let mut dice = Dice::new(FIRST_SEED);
    for policy in (0..3_000).filter_map(|_| policy(&mut dice)) {
        places::said(&SCHEMA, &policy, "", &mut said);
    }
    let missing: BTreeSet<&str> = sayable.difference(&said).map(String::as_str).collect();
    let elsewhere: BTreeSet<&str> = places::ELSEWHERE.iter().map(|(place, _)| *place).collect();
    assert_eq!(missing, elsewhere, "what random policies never say, and what they are known not to say");
}

#[tokio::test]
async fn random_scenarios_come_out_in_the_real_envoy_as_in_the_core() {
    let all: Vec<Recorded> = seeds(96).map(|seed| scenario(seed, Caller::Envoy)).collect();
    let scenarios: Vec<_> = all.iter().map(|recorded| Arc::clone(&recorded.scenario)).collect();
    let failed = envoy::failing(&scenarios).await;
    let Some((name, _)) = failed.first() else { return };
    eprintln!("{}", failed.iter().map(|(_, complaint)| complaint.as_str()).collect::<String>());
    let recorded = all.iter().find(|recorded| recorded.scenario.name == *name).expect("it was played");
    let names: Vec<&str> = failed.iter().map(|(name, _)| name.as_str()).collect();
    let small = shrinking::shrink(recorded, async |candidates| {
        let scenarios: Vec<_> = candidates.iter().map(|recorded| Arc::clone(&recorded.scenario)).collect();
        envoy::failing(&scenarios).await.into_iter().map(|(name, _)| name).collect()
    });
    let small = small.await;
    let file = keep("failed", &small);
    let again = format!(
        "TIDEGATE_SCENARIO_SEED={} TIDEGATE_SCENARIO_CASES=1 cargo test --features cli --test suite -- random_scenarios_come_out",
        name.strip_prefix("random-").unwrap_or_default()
    );
    panic!(
        "{} differ: {names:?}\nwhat is left of the first: {}\nthe first again: {again}",
        failed.len(),
        file.display()
    );
}

/// The Worker's tests run them in the real workerd. For one that fails there, named by its file in
/// `TIDEGATE_SCENARIO_SMALLER`, this writes smaller scenarios with a part removed.
#[test]
fn random_scenarios_are_written_for_the_worker() {
    let failed = std::env::var_os("TIDEGATE_SCENARIO_SMALLER").map(PathBuf::from);
    let (of, scenarios) = match &failed {
        Some(file) => ("smaller", shrinking::smaller(&kept(file))),
        None => ("worker", seeds(96).map(|seed| scenario(seed, Caller::Worker)).collect()),
    };
    let directory = directory(of);
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    scenarios.iter().for_each(|scenario| drop(keep(of, scenario)));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), scenarios.len());
    assert!(failed.is_some() || !scenarios.is_empty());
}

/// The scenario in this file, as recorded for the Worker.
fn kept(file: &Path) -> Recorded {
    let name = file.file_stem().unwrap().to_string_lossy();
    let document = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    record(&name, &document, Caller::Worker).unwrap()
}

fn directory(of: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/random-scenarios").join(of)
}

/// Writes the scenario to the directory of this kind.
fn keep(of: &str, recorded: &Recorded) -> PathBuf {
    let directory = directory(of);
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{}.json", recorded.scenario.name));
    let text = serde_json::to_string_pretty(&recorded.document).expect("it is JSON");
    fs::write(&file, text + "\n").unwrap();
    file
}

const FIRST_SEED: u64 = 20_260_701;

/// Not every policy can be shown.
const MOST_TRIES: usize = 200;
const MOST_FITS: usize = 20;
