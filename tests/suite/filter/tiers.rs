//! Tiers that no client can give itself.

use serde_json::{Value, json};
use tidegate::api_key::Digest;

use super::client::Request;
use super::stage::{Stage, limit, policy};

/// One permit for anybody, three for `free`, five for `premium`.
fn tiered(tier: Value) -> Value {
    let mut limit = limit("api", "/**", &["address"], 1);
    limit["by_tier"] = json!({
        "free": { "permits": 3, "window": "31d" },
        "premium": { "permits": 5, "window": "31d" },
    });
    let mut policy = policy([limit]);
    policy["tiers"] = json!(["anonymous", "free", "premium"]);
    policy["client"]["tier"] = tier;
    policy
}

#[tokio::test]
async fn api_key_has_its_tier_and_whoever_has_none_of_ten_thousand_has_the_default() {
    let tier = |n: u32| if n.is_multiple_of(2) { "free" } else { "premium" };
    let hash = |n: u32| Digest::of(format!("secret-{n}").as_bytes()).unwrap().to_string();
    let keys: serde_json::Map<_, _> = (0..10_000).map(|n| (hash(n), json!(tier(n)))).collect();
    let mut policy = tiered(json!({ "api_keys": keys }));
    policy["client"]["api_key"] = json!({ "header": "x-api-key" });
    let stage = Stage::start(&policy).await;
    let request = |address: &str, key: &str| Request::get("/").from(address).with("x-api-key", key);
    for (address, key, admitted) in [
        ("192.0.2.1", "secret-0", 3),
        ("192.0.2.2", " secret-9999 ", 5),
        ("192.0.2.3", "secret-10000", 1),
        ("192.0.2.4", "Secret-1", 1),
        ("192.0.2.5", "premium", 1),
        // The hash is no key: who has read the policy has won nothing.
        ("192.0.2.6", hash(1).as_str(), 1),
        ("192.0.2.7", "secret-1, secret-1", 1),
        ("192.0.2.8", "", 1),
    ] {
        assert_eq!(stage.admitted(&request(address, key), 7).await, admitted, "{key}");
    }
    let twice = request("192.0.2.9", "secret-1").with("x-api-key", "secret-1");
    assert_eq!(stage.admitted(&twice, 7).await, 1);
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.10").with("x-plan", "premium"), 7).await, 1);
    stage.end().await;
}

#[tokio::test]
async fn claim_says_the_tier() {
    let stage = Stage::start(&tiered(json!({ "claim": "org.plan", "default": "free" }))).await;
    for (address, payload, admitted) in [
        // {"org":{"plan":"premium"}}
        ("192.0.2.1", "eyJvcmciOnsicGxhbiI6InByZW1pdW0ifX0", 5),
        // {"org":{"plan":"anonymous"}}
        ("192.0.2.2", "eyJvcmciOnsicGxhbiI6ImFub255bW91cyJ9fQ", 1),
        // {"org":{"plan":"premium","plan":"premium"}}
        ("192.0.2.3", "eyJvcmciOnsicGxhbiI6InByZW1pdW0iLCJwbGFuIjoicHJlbWl1bSJ9fQ", 3),
        // {"org":{"plan":2}}
        ("192.0.2.4", "eyJvcmciOnsicGxhbiI6Mn19", 3),
        ("192.0.2.5", "premium", 3),
    ] {
        let request = Request::get("/").from(address).with("x-jwt-payload", payload);
        assert_eq!(stage.admitted(&request, 7).await, admitted, "{payload}");
    }
    stage.end().await;
}

#[tokio::test]
async fn policy_that_would_believe_a_client_never_gets_into_force() {
    let mut policy = tiered(json!({ "header": "x-plan" }));
    policy["client"]["trusted_headers"] = json!(["x-jwt-payload"]);
    let bootstrap = super::stage::shipped(&policy).text();
    let error = crate::envoy::Envoy::validate(&bootstrap).await.unwrap_err().to_string();
    assert!(error.contains("/client/tier/header: the header \"x-plan\" is whatever the client sends"), "{error}");
}
