//! The lean filter: all but kept answers, and Envoy shows it the body of no answer.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;

use super::assets::route;
use super::client::Request;
use super::stage::{Stage, limit, policy, shipped};
use crate::envoy::Envoy;

const LEAN: &str = "dist/envoy/tidegate-lean.wasm";

fn exports(wasm: &str) -> BTreeSet<String> {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(wasm)).unwrap();
    let mut names = BTreeSet::new();
    for payload in wasmparser::Parser::new(0).parse_all(&bytes) {
        if let wasmparser::Payload::ExportSection(section) = payload.unwrap() {
            names.extend(section.into_iter().map(|export| export.unwrap().name.to_owned()));
        }
    }
    names
}

#[test]
fn the_lean_filter_exports_all_that_the_whole_one_does_but_what_sees_bodies_of_answers() {
    let (whole, lean) = (exports("dist/envoy/tidegate.wasm"), exports(LEAN));
    let missing: Vec<&String> = whole.difference(&lean).collect();
    assert_eq!(missing, ["proxy_on_response_body"]);
    assert!(lean.is_subset(&whole), "{lean:?}");
}

#[tokio::test]
async fn the_lean_filter_refuses_a_policy_that_keeps_answers_and_says_where_and_what_to_do() {
    let mut policy = route(json!({ "fallback": { "on": ["5xx"] } }));
    let lean = |policy: &serde_json::Value| shipped(policy).wasm(Path::new(LEAN)).unwrap().text();
    Envoy::validate(&lean(&policy)).await.unwrap();
    policy["routes"][0]["fallback"]["stale"] = json!("1h");
    let error = Envoy::validate(&lean(&policy)).await.unwrap_err().to_string();
    assert!(error.contains("tidegate: policy error: /routes/0/fallback/stale: "), "{error}");
    assert!(error.contains("load tidegate.wasm, or remove \"stale\""), "{error}");
    Envoy::validate(&shipped(&policy).text()).await.unwrap();
}

#[tokio::test]
async fn the_lean_filter_limits_and_routes_as_the_whole_one() {
    let mut document = route(json!({ "fallback": { "on": ["5xx"] }, "cache": { "ttl": "1h" } }));
    document["limits"] = policy([limit("api", "/**", &["address"], 3)])["limits"].clone();
    let stage = Stage::with(&document, |bootstrap| bootstrap.wasm(Path::new(LEAN)).unwrap()).await;
    let request = Request::get("/a");
    let answer = stage.ask(&request).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, "max-age=3600".into()));
    assert!(answer.header("ratelimit").starts_with("\"api\";r=2;"), "{answer:?}");
    assert!(answer.text().contains("/a"), "{answer:?}");
    assert_eq!(stage.admitted(&request, 5).await, 2);
    stage.end().await;
}
