//! Gauges while policies are replaced, and with several policies side by side: every policy with a gauge sets it.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Request;
use super::concurrency::{Gate, in_flight, patient, sent};
use super::metrics::{assert_shows, sample};
use super::reload::{in_force, stage_from, version};
use super::stage::{Stage, eventually, limit, policy, shipped};

/// Waits until the metric has this value for three seconds, in which each policy sets it twice.
async fn assert_goes_on_showing(stage: &Stage, name: &str, labels: &[(&str, &str)], value: u64) {
    eventually(&format!("{name}{labels:?} goes on being {value}"), || async {
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
            if sample(&text, name, labels) != Some(value) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    })
    .await;
}

#[tokio::test]
async fn gauges_of_what_a_new_policy_has_not_fall_to_nothing_and_those_of_what_it_has_stay() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let mut policy = version(100);
    policy["breakers"] = json!({ "of-all": {
        "window": { "count": 10 }, "consecutive_failures": 1, "open": { "initial": "1h", "max": "1h" },
    } });
    // Envoy has none of these clusters.
    let upstream = |name: &str| json!({ "cluster": name, "breaker": "of-all" });
    let route = |name: &str| json!({ "name": name, "match": { "path": format!("/{name}") }, "upstreams": [name] });
    policy["upstreams"] =
        json!({ "stays": upstream("stays"), "goes": upstream("goes"), "fails": { "cluster": "fails" } });
    policy["routes"] = json!([route("stays"), route("fails"), route("goes")]);
    policy["health"] = json!({ "min_calls": 10, "error_rate_percent": { "degraded": 10, "critical": 20 } });
    policy["stores"] = json!({ "redis": { "cluster": "redis", "token": "t" } });
    let limits = policy["limits"].as_array_mut().unwrap();
    let quota = json!({ "permits": 10, "window": "1m" });
    limits.push(json!({ "name": "shared", "match": { "path": "/shared" }, "scope": "global", "quota": quota }));
    for name in ["goes", "stays"] {
        limits.push(json!({ "name": name, "key": [], "algorithm": "concurrency", "quota": { "permits": 20 } }));
    }
    let stage = stage_from(&file, &policy).await;
    for path in ["/goes", "/stays", "/fails"].repeat(50) {
        stage.ask(&Request::get(path)).await;
    }
    let shows = async |metric: &str, label: Option<(&str, &str)>, value: u64| {
        assert_shows(&stage, metric, label.as_slice(), value).await;
    };
    let both = [("goes", 3), ("stays", 3)];
    for (name, state) in both {
        shows("tidegate_breaker_state", Some(("breaker", name)), state).await;
        shows("tidegate_concurrency_limit", Some(("limit", name)), 20).await;
    }
    shows("tidegate_health", None, 2).await;
    eventually("a worker leaves the store alone", || async {
        stage.ask(&Request::get("/shared")).await;
        let stats = stage.envoy.stats().await.unwrap();
        stats.get("wasmcustom.tidegate_store_breakers_open").is_some_and(|open| *open > 0)
    })
    .await;

    for name in ["health", "stores"] {
        policy.as_object_mut().unwrap().remove(name);
    }
    policy["upstreams"].as_object_mut().unwrap().remove("goes");
    policy["routes"].as_array_mut().unwrap().pop();
    policy["limits"][0]["quota"]["permits"] = json!(200);
    policy["limits"]
        .as_array_mut()
        .unwrap()
        .retain(|limit| !["shared", "goes"].iter().any(|name| limit["name"] == *name));
    shipped(&policy).publish_filter(&file).unwrap();
    in_force(&stage, 200).await;
    for (name, state) in [("goes", 0), ("stays", 3)] {
        shows("tidegate_breaker_state", Some(("breaker", name)), state).await;
        shows("tidegate_concurrency_limit", Some(("limit", name)), if name == "goes" { 0 } else { 20 }).await;
    }
    shows("tidegate_breaker_since_seconds", Some(("breaker", "goes")), 0).await;
    shows("tidegate_health", None, 0).await;
    shows("tidegate_store_breakers_open", None, 0).await;
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn gauges_show_what_the_new_policy_says_also_while_a_stream_goes_on_under_the_old_one() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let gate = Gate::start().await;
    let mut policy = version(100);
    policy["limits"].as_array_mut().unwrap().push(in_flight("/slow", 20));
    let stage = Stage::with(&policy, |bootstrap| {
        patient(bootstrap.upstream(gate.address).unwrap()).filter_from(&file).unwrap()
    })
    .await;
    let _stream = sent(stage.http, "/slow").await;
    assert_shows(&stage, "tidegate_concurrency_in_flight", &[("limit", "slots")], 1).await;
    policy["limits"][2]["quota"]["permits"] = json!(30);
    policy["state"] = json!({ "max_keys": 5_000 });
    shipped(&policy).publish_filter(&file).unwrap();
    let gauges =
        [("tidegate_concurrency_limit", Some(("limit", "slots")), 30), ("tidegate_table_max_keys", None, 5_000)];
    for (metric, label, value) in gauges {
        assert_goes_on_showing(&stage, metric, label.as_slice(), value).await;
    }
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn metrics_of_another_vm_id_have_that_as_a_label() {
    let mut shop = policy([limit("api", "/api", &["address"], 2)]);
    shop["state"] = json!({ "max_keys": 5_000 });
    let stage = Stage::with(&policy([limit("api", "/api", &["address"], 3)]), |bootstrap| {
        let filters = "/filter_chains/0/filters/0/typed_config/http_filters";
        let mut all = bootstrap.listener().unwrap().pointer(filters).unwrap().clone();
        let mut other = all[0].clone();
        other["typed_config"]["config"]["vm_config"]["vm_id"] = json!("shop.example");
        other["typed_config"]["config"]["configuration"]["value"] = json!(shop.to_string());
        all.as_array_mut().unwrap().insert(1, other);
        bootstrap.set(&format!("/static_resources/listeners/0{filters}"), all).unwrap()
    })
    .await;
    assert_eq!(stage.admitted(&Request::get("/api").from("192.0.2.1"), 5).await, 2);
    let other = ("vm_id", "shop_example");
    for (decision, first, second) in [("admitted", 3, 2), ("refused", 2, 1)] {
        let labels = [("limit", "api"), ("decision", decision), ("tier", "default"), other];
        assert_shows(&stage, "tidegate_requests_total", &labels[..3], first).await;
        assert_shows(&stage, "tidegate_requests_total", &labels, second).await;
    }
    assert_goes_on_showing(&stage, "tidegate_table_max_keys", &[], 100_000).await;
    assert_goes_on_showing(&stage, "tidegate_table_max_keys", &[other], 5_000).await;
    stage.end().await;
}

#[tokio::test]
async fn health_by_policies_that_ask_in_different_ways_is_the_worst_and_not_one_after_the_other() {
    // Envoy has no such cluster.
    let mut failing = policy([]);
    failing["upstreams"] = json!({ "nowhere": { "cluster": "nowhere" } });
    failing["routes"] = json!([{ "name": "all", "upstreams": ["nowhere"] }]);
    failing["health"] = json!({ "min_calls": 10 });
    let mut other = policy([]);
    other["health"] = json!({ "min_calls": 11 });
    let stage = Stage::with(&failing, |bootstrap| {
        let first = bootstrap.listener().unwrap();
        let mut second = first.clone();
        second["name"] = json!("second");
        let policy = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/config/configuration/value";
        *second.pointer_mut(policy).unwrap() = json!(other.to_string());
        bootstrap.set("/static_resources/listeners", json!([first, second])).unwrap()
    })
    .await;
    for _ in 0..40 {
        assert_eq!(stage.ask(&Request::get("/")).await.status, 503);
    }
    assert_goes_on_showing(&stage, "tidegate_health", &[], 2).await;
    stage.end().await;
}
