//! The policy document: what is accepted, and what is refused with which errors, by the parser, by the JSON Schema and
//! on the command line.

mod command;
mod mutation;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidegate::policy::Policy;

#[test]
fn good_policies_are_accepted() {
    for policy in policies("good") {
        if let Err(errors) = Policy::parse(&policy.text) {
            panic!("{}:\n{errors}", policy.name);
        }
    }
}

/// The file beside each bad policy lists the expected errors in document order, each after its line number: `3:
/// /tiers/0: "Free" is not a name; ...`. The command line's tests check the line numbers.
#[test]
fn bad_policies_are_refused_with_all_their_errors() {
    for policy in policies("bad") {
        let errors = Policy::parse(&policy.text).expect_err(&policy.name);
        let found: BTreeSet<_> = errors.iter().map(ToString::to_string).collect();
        let expected = policy.expected();
        let expected: BTreeSet<_> = expected.iter().map(|(_, error)| error.clone()).collect();
        assert_eq!(found, expected, "{}", policy.name);
    }
}

#[test]
fn the_schema_is_a_valid_schema() {
    jsonschema::draft202012::meta::validate(&schema()).expect("a valid schema");
}

#[test]
fn the_schema_accepts_good_policies() {
    let validator = jsonschema::draft202012::new(&schema()).expect("a schema");
    for policy in policies("good") {
        let problems: Vec<_> = validator.iter_errors(&policy.value()).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{}: {problems:?}", policy.name);
    }
}

/// The schema finds each error at the parser's path, or at the object or list that contains it. It finds none of the
/// errors that no schema can express.
#[test]
fn the_schema_refuses_bad_policies() {
    let validator = jsonschema::draft202012::new(&schema()).expect("a schema");
    let beyond = |name: &str| BEYOND_A_SCHEMA.contains(&name);
    for policy in policies("bad").iter().filter(|policy| !NO_VALUE.contains(&policy.name.as_str())) {
        let value = policy.value();
        let places: BTreeSet<_> =
            validator.iter_errors(&value).map(|error| error.instance_path().to_string()).collect();
        if beyond(&policy.name) {
            assert!(places.is_empty(), "{}: a schema can find this: {places:?}", policy.name);
            continue;
        }
        for error in Policy::parse(&policy.text).expect_err(&policy.name) {
            let holder = error.path.rsplit_once('/').map_or("", |(holder, _)| holder);
            let found = places.contains(&error.path) || places.contains(holder);
            assert!(found || policy.name == MIXED, "{}: the schema misses {error}\n{places:?}", policy.name);
        }
        assert!(!places.is_empty(), "{}", policy.name);
    }
    let names: BTreeSet<_> = policies("bad").into_iter().map(|policy| policy.name).collect();
    for name in BEYOND_A_SCHEMA.iter().chain(&NO_VALUE) {
        assert!(names.contains(*name), "there is no bad policy {name}");
    }
}

#[test]
fn a_text_without_a_json_value_is_refused_as_such() {
    for policy in policies("bad") {
        let is_json = serde_json::from_str::<Value>(&policy.text).is_ok();
        assert_eq!(is_json, !NO_VALUE.contains(&policy.name.as_str()) || policy.name == "nested-too-deep");
    }
}

/// Bad policies with errors that a JSON Schema cannot express.
const BEYOND_A_SCHEMA: [&str; 30] = [
    // Duplicate fields: JSON parsers keep one of them.
    "duplicate-fields",
    // The number of decimals: `multipleOf` in a schema depends on binary fractions.
    "too-many-decimals",
    // The length of a span, written as number and unit.
    "spans-out-of-range",
    // What is a valid address, and which of its bits must be zero.
    "networks",
    // Names that differ only in case.
    "twice-but-for-case",
    // Unique names across items, and references.
    "names-taken",
    "references",
    "references-to-nothing",
    "unknown-tiers",
    "no-tiers",
    "claim-without-claims",
    // Fields whose meaning depends on other fields.
    "assets-together",
    "quotas",
    "quotas-of-one-window",
    "costs-together",
    "store-url",
    "stores-together",
    "rls-together",
    "concurrency",
    "delays-together",
    "refusals-together",
    "retries-together",
    "untrusted",
    "tiers-of-clients",
    "hops-without-header",
    "header-without-hops",
    "upstream-to-nowhere",
    "breaker-fields-together",
    "health-together",
    "shedding-without-health",
];

/// Bad policies that cannot be passed to a validator, because there is no JSON value.
const NO_VALUE: [&str; 4] = ["syntax", "empty", "two-documents", "nested-too-deep"];

/// The bad policy with both kinds of errors.
const MIXED: &str = "all-at-once";

/// A document of `tests/policies`.
struct Sample {
    /// The file name without its extension.
    name: String,
    path: PathBuf,
    text: String,
}

impl Sample {
    fn value(&self) -> Value {
        serde_json::from_str(&self.text).expect(&self.name)
    }

    /// The expected errors of a bad policy, with their line numbers.
    fn expected(&self) -> Vec<(usize, String)> {
        let path = self.path.with_extension("errors");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let split = |line: &str| {
            let (line, error) = line.split_once(": ").expect("a line and an error");
            (line.parse().expect("a line"), error.to_owned())
        };
        text.lines().map(split).collect()
    }
}

/// All good or all bad policies, in order of their names; at least one.
fn policies(kind: &str) -> Vec<Sample> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies").join(kind);
    let files = fs::read_dir(&directory).expect("the policies").map(|entry| entry.expect("an entry").path());
    let mut samples: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .map(|path| Sample {
            name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
            text: fs::read_to_string(&path).expect("a text"),
            path,
        })
        .collect();
    samples.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!samples.is_empty());
    samples
}

fn schema() -> Value {
    serde_json::from_str(&Policy::json_schema()).expect("the schema is JSON")
}
