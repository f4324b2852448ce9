//! One list of scenarios, `tests/scenarios/*.json`, and three hosts that must give the same responses, byte for byte:
//! the core alone and the real Envoy, both here; and the real workerd, in `cloudflare/test/scenarios.test.mjs`.

mod document;
mod envoy;
mod memory;
mod native;
mod origin;
mod random;
mod seen;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::filter::test_build::WITH_TEST_CLOCK;

/// Fails with all complaints together.
fn assert_none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<String> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "{} scenarios differ:{}", complaints.len(), complaints.concat());
}

#[test]
fn scenarios_pass_in_the_core_alone() {
    assert_none(document::all().iter().filter_map(native::run));
}

#[tokio::test]
async fn scenarios_pass_in_the_real_envoy() {
    let scenarios: Vec<_> = document::all().into_iter().map(Arc::new).collect();
    assert_none(envoy::run(&scenarios).await);
}

/// A valid scenario with the values at these JSON pointers replaced.
fn changed(changes: &[(&str, Value)]) -> String {
    let mut scenario = json!({
        "shows": "This is a scenario.",
        "policy": { "version": 1, "limits": [{ "name": "api", "quota": { "permits": 1, "window": "60s" } }], "response": { "ratelimit": false } },
        "steps": [
            { "at": "1s", "send": "GET /", "expect": { "decision": "admitted", "status": 200 } },
            { "at": "2s", "send": "GET /", "expect": {
                "decision": "refused", "status": 429, "reason": "tidegate_limit_api", "fields": { "retry-after": "118" },
                "body": "{\"error\":\"rate limit exceeded\",\"retryAfter\":118}",
            } },
        ],
    });
    for (pointer, value) in changes {
        let (object, field) = pointer.rsplit_once('/').unwrap();
        scenario.pointer_mut(object).unwrap()[field] = value.clone();
    }
    scenario.to_string()
}

#[test]
fn invalid_scenarios_are_refused() {
    for (pointer, value, problem) in [
        ("/stops", json!([]), "unknown field `stops`"),
        ("/steps/0/tymes", json!(3), "unknown field `tymes`"),
        ("/steps/0/expect/ratelimit", json!("a"), "unknown field `ratelimit`"),
        ("/steps/0/expect/fields", json!({ "x-other": "a" }), "step 1: x-other is none of"),
        ("/always", json!({ "date": "a" }), "date is none of"),
        ("/steps/0/at", json!("3s"), "step 2: it comes after what is later"),
        ("/steps/0/at", json!("3"), "\"3\" is no time; write one like \"90s\" or \"250ms\""),
        ("/steps/0/send", json!("/"), "step 1: `send` is a method"),
        ("/steps/0/send", json!(null), "step 1: what is sent has to be expected"),
        ("/steps/0/ends", json!("a"), "step 1: it ends what nobody holds"),
        ("/steps/0/upstreams", json!({ "other": {} }), "step 1: upstreams are"),
        ("/steps/0/upstreams", json!({ "cdn": { "stats": 1 } }), "unknown field `stats`"),
        ("/steps/0/expect/decision", json!("refused"), "step 1: there is a `reason` if and only if"),
        ("/steps/0/expect/decision", json!("delayed"), "step 1: a request that is delayed goes on `after`"),
        ("/differs", json!({ "nginx": { "why": "a" } }), "nginx is none of"),
        ("/differs", json!({ "envoy": { "steps": {} } }), "missing field `why`"),
        ("/shows", json!("limits"), "`shows` is a sentence"),
    ] {
        let found = document::parse(&changed(&[(pointer, value)]), "changed".to_owned()).unwrap_err();
        assert!(found.contains(problem), "{pointer}: {found}");
    }
    document::parse(&changed(&[]), "good".to_owned()).unwrap();
}

#[test]
fn every_difference_from_a_scenario_is_reported() {
    let run =
        |changes: &[(&str, Value)]| native::run(&document::parse(&changed(changes), "changed".to_owned()).unwrap());
    assert_eq!(run(&[]), None);
    for (pointer, value, problem) in [
        (
            "/steps/0/expect/status",
            json!(201),
            "step 1 (at 1000 ms, GET /) on native:\n      status: expected 201, got 200",
        ),
        ("/steps/0/expect/asked", json!(["cdn"]), "asked: expected [\"cdn\"], got [\"origin\"]"),
        ("/steps/0/times", json!(2), "decision: expected Admitted, got Refused"),
        ("/steps/1/times", json!(2), ""),
        ("/steps/0/expect/after", json!("1s"), "after: expected 1000 ms, got 0 ms"),
        ("/steps/1/expect/body", json!("{}"), "body: expected \"{}\", got \"{\\\"error\\\""),
        ("/steps/1/expect/reason", json!("tidegate_ban_api"), "reason: expected Some(\"tidegate_ban_api\")"),
        ("/steps/1/expect/fields", json!({}), "retry-after: expected none, got \"118\""),
        ("/always", json!({ "vary": "a" }), "vary: expected \"a\", got none"),
        ("/policy/version", json!(2), "version"),
        ("/differs", json!({ "native": { "why": "a" } }), "native is said to differ, and comes through all of it"),
    ] {
        let found = run(&[(pointer, value)]).unwrap_or_default();
        assert!(found.contains(problem) && found.is_empty() == problem.is_empty(), "{pointer}: {found}");
    }
    let other = json!({ "native": { "why": "a", "steps": { "1": { "decision": "admitted", "status": 203 } } } });
    assert!(run(&[("/differs", other)]).unwrap().contains("expected 203"), "what a host says for itself counts there");
}

#[test]
fn readme_lists_exactly_the_differences_of_the_scenarios() {
    let said: BTreeSet<String> = document::all()
        .iter()
        .flat_map(|scenario| &scenario.differs)
        .map(|(host, difference)| format!("- `{host}`: {}.", difference.why))
        .collect();
    let readme = include_str!("../../README.md");
    let section = readme.split("\n### Where hosts differ\n").nth(1).expect("README has the section");
    let section = section.split("\n#").next().unwrap().replace("\n  ", " ");
    let told = section.lines().filter(|line| line.starts_with("- ")).map(str::to_owned).collect();
    assert_eq!(said, told);
}

#[test]
fn scenarios_use_every_field_of_a_policy() {
    let mut shown = BTreeSet::new();
    document::all().iter().for_each(|scenario| fields(&scenario.policy, &mut shown));
    let everything = include_str!("../policies/good/everything.json");
    let mut sayable = BTreeSet::new();
    fields(&serde_json::from_str(everything).unwrap(), &mut sayable);
    let elsewhere = [
        // Settings of the document, or without an effect on the response of a single host.
        "$schema",
        "max_keys",
        // Failures of a store, an instance or a host, which have their own tests for each host.
        "on_store_failure",
        "on_failure",
        // Cloudflare's image service, which is not available in a local workerd.
        "cf_image",
    ];
    let missing: Vec<&String> = sayable.difference(&shown).filter(|it| !elsewhere.contains(&it.as_str())).collect();
    assert!(missing.is_empty(), "no scenario says {missing:?}");
}

/// The names of a document's fields, without those that its author chose.
fn fields(value: &Value, names: &mut BTreeSet<String>) {
    const CHOSEN: [&str; 6] = ["by_tier", "priorities", "upstreams", "breakers", "headers", "api_keys"];
    match value {
        Value::Array(items) => items.iter().for_each(|item| fields(item, names)),
        Value::Object(object) => {
            for (name, value) in object {
                names.insert(name.clone());
                match value {
                    Value::Object(chosen) if CHOSEN.contains(&name.as_str()) => {
                        chosen.values().for_each(|value| fields(value, names));
                    }
                    value => fields(value, names),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn the_shipped_filter_lacks_the_test_clock() {
    let holds = |wasm: &Path| {
        let bytes = std::fs::read(wasm).unwrap_or_else(|error| panic!("{}: {error}", wasm.display()));
        bytes.windows(HEADER.len()).any(|window| window == HEADER.as_bytes())
    };
    const HEADER: &str = "x-tidegate-test";
    assert!(holds(&WITH_TEST_CLOCK), "the test build lacks what the test looks for");
    assert!(!holds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/envoy/tidegate.wasm")));
}
