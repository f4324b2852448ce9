//! What Envoys that share a Redis admit together.

use serde_json::json;
use tidegate::policy::Protocol;

use super::stage::{Setup, Sharing, shared};
use crate::envoy::Envoy;
use crate::filter::stage::{eventually, policy, shipped};

#[tokio::test]
async fn envoys_that_share_a_store_admit_the_quota_together_and_no_more() {
    for protocol in [Protocol::Upstash, Protocol::Webdis] {
        for sharing in ["lease", "exact"] {
            let mut limit = shared(120);
            limit["sharing"] = json!(sharing);
            let stage = Sharing::start(&Setup { protocol, envoys: 3, workers: 2, ..Setup::of([limit]) }).await;
            // Unused permits are returned, so that all of them are used in the end.
            stage.use_up(120).await;
            assert_eq!(stage.admitted(10).await, [0; 3], "{protocol:?} {sharing}");
            if sharing == "exact" {
                assert!(stage.proxy.requests() >= 120, "{} requests to the store", stage.proxy.requests());
            } else {
                assert!(stage.proxy.requests() < 100, "{} requests to the store", stage.proxy.requests());
            }
            stage.end().await;
        }
    }
}

#[tokio::test]
async fn a_token_in_the_environment_makes_the_same_keys_as_one_in_the_policy() {
    let setup = Setup { token_in_environment: true, ..Setup::of([shared(40)]) };
    let stage = Sharing::start(&setup).await;
    stage.use_up(40).await;
    assert_eq!(stage.admitted(10).await, [0; 2]);
    stage.end().await;
}

#[tokio::test]
async fn asks_are_counted_and_shown() {
    let mut setup = Setup::of([shared(1_000)]);
    setup.envoys = 1;
    let stage = Sharing::start(&setup).await;
    let admitted = stage.admitted(50).await;
    assert_eq!(admitted, [50]);
    eventually("the counters", async || {
        stage.metric("tidegate_store_asks_total").await > 0 && stage.metric("tidegate_store_waits_total").await > 0
    })
    .await;
    assert_eq!(stage.metric("tidegate_store_ask_failures_total").await, 0);
    assert_eq!(stage.metric("tidegate_store_breakers_open").await, 0);
    stage.end().await;
}

#[tokio::test]
async fn a_policy_with_an_unusable_store_for_shared_limits_is_refused() {
    let with = |stores: serde_json::Value| {
        let mut policy = policy([shared(10)]);
        if !stores.is_null() {
            policy["stores"] = stores;
        }
        shipped(&policy)
    };
    for (stores, problem) in [
        (json!(null), "/limits/0/scope: Envoys share a limit through a store"),
        (
            json!({ "redis": { "url": "https://redis.example" } }),
            "/limits/0/scope: Envoys share a limit through a store",
        ),
        (
            json!({ "redis": { "cluster": "redis", "token_env": "NO_SUCH" } }),
            "/stores/redis/token_env: the filter's VM has no environment variable NO_SUCH",
        ),
    ] {
        let error = Envoy::validate(&with(stores).text()).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let mut bad = policy([shared(10)]);
    bad["stores"] = json!({ "redis": { "cluster": "redis", "token_env": "STORE_TOKEN" } });
    let bad = shipped(&bad).environment(json!({ "key_values": { "STORE_TOKEN": "two wo-rds" } })).unwrap();
    let error = Envoy::validate(&bad.text()).await.unwrap_err().to_string();
    assert!(error.contains("/stores/redis/token_env: the store's token"), "{error}");
    assert!(!error.contains("tidegate: policy error: two") && !error.contains("(two wo-rds)"), "{error}");
}
