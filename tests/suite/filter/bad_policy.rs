//! A policy with errors is never put in force, and the log lists all of its errors.

use serde_json::{Value, json};

use super::client::Request;
use super::stage::{Stage, limit, policy, shipped};
use crate::envoy::{Envoy, Options};

/// A policy with an error of each kind, and the paths of these errors.
pub fn bad() -> (Value, [&'static str; 6]) {
    let policy = json!({
        "version": 1,
        "client": { "adress": {} },
        "limits": [
            { "name": "Bad Name", "quota": { "permits": 0, "window": "60s" } },
            { "name": "b", "quota": { "permits": 1, "window": "60" } },
            { "name": "c", "key": ["adress"], "quota": { "permits": 1, "window": "60s" } },
            { "name": "d" },
        ],
    });
    let places = [
        "/client/adress: ",
        "/limits/0/name: ",
        "/limits/0/quota/permits: ",
        "/limits/1/quota/window: ",
        "/limits/2/key/0: ",
        "/limits/3/quota: ",
    ];
    (policy, places)
}

/// Checks that the log has a line for each error, with more than its path.
pub fn assert_says_all(log: &str, places: &[&str]) {
    for place in places {
        let error = log.lines().find_map(|line| line.split_once(&format!("tidegate: policy error: {place}")));
        assert!(error.is_some_and(|(_, text)| text.len() > 20), "nothing of {place} in\n{log}");
    }
}

#[tokio::test]
async fn envoy_does_not_start_with_a_bad_policy_and_says_every_error() {
    let (bad, places) = bad();
    let bootstrap = shipped(&bad).text();
    let error = Envoy::start(Options::new(bootstrap.as_str())).await.map(drop).unwrap_err();
    assert!(matches!(error, crate::envoy::Error::Exited { .. }), "{error}");
    assert_says_all(&error.to_string(), &places);
    let error = Envoy::validate(&bootstrap).await.unwrap_err();
    assert!(matches!(error, crate::envoy::Error::Exited { .. }), "{error}");
    assert_says_all(&error.to_string(), &places);
}

#[tokio::test]
async fn what_is_no_policy_at_all_is_refused_in_plain_words() {
    for (text, says) in [
        ("", "there is no policy"),
        ("{", "policy error: line 1, column "),
        ("[]", "policy error: "),
        ("{\"version\": 2}", "policy error: /version: "),
    ] {
        let bootstrap = crate::bootstrap::Bootstrap::shipped().unwrap().policy(text).unwrap().text();
        let error = Envoy::validate(&bootstrap).await.unwrap_err().to_string();
        assert!(error.contains("tidegate: ") && error.contains(says), "{text}: {error}");
    }
}

#[tokio::test]
async fn policy_can_be_written_as_yaml_too() {
    // A `Struct` in place of a text: Envoy then passes JSON in which every number is a double.
    let mut policy = policy([limit("api", "/**", &["address"], 2)]);
    policy["response"] = json!({ "x_ratelimit": true });
    policy["limits"][0]["match"]["headers"] = json!({ "x-staff": null, "x-say": "\"\\\u{e9}\"*" });
    let structure = json!({ "@type": "type.googleapis.com/google.protobuf.Struct", "value": policy });
    let configuration = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/configuration";
    Envoy::validate(&shipped(&policy).set(configuration, structure.clone()).unwrap().text()).await.unwrap();
    let stage = Stage::with(&policy, |bootstrap| bootstrap.set(configuration, structure).unwrap()).await;
    let request = Request::get("/").from("192.0.2.1").with("x-say", "\"\\\u{e9}\", and more");
    assert_eq!(stage.ask(&request).await.header("x-ratelimit-remaining"), "1");
    assert_eq!(stage.admitted(&request, 3).await, 1);
    assert_eq!(stage.admitted(&request.with("x-staff", "yes"), 3).await, 3);
    stage.end().await;
}
