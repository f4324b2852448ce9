//! The status pages, and that only operators can see them.

use serde_json::json;

use super::chain::{self, route};
use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good};
use super::metrics::assert_shows;
use super::stage::{Stage, eventually, limit, policy};

const OPERATOR: &str = "10.0.0.1";
/// The SHA-256 of `open sesame`.
const TOKEN: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

#[tokio::test]
async fn pages_are_answered_for_an_address_or_a_token_and_count_nowhere() {
    let mut policy = policy([limit("api", "/**", &["address"], 2)]);
    policy["health"] = json!({});
    policy["status"] = json!({ "path": "/ops", "addresses": [OPERATOR], "token_sha256": TOKEN });
    let stage = Stage::start(&policy).await;
    let mut connection = Connection::open(stage.http).await.unwrap();
    let health = Request::get("/ops/health");
    for (request, seen) in [
        (health.clone().from(OPERATOR), true),
        (health.clone().from("192.0.2.1").with("authorization", "Bearer open sesame"), true),
        (Request::get("/%6fps//health?verbose").from(OPERATOR), true),
    ] {
        for _ in 0..3 {
            let answer = connection.send(&request).await.unwrap();
            assert_eq!((answer.status, answer.json()["health"].is_string()), (200, seen), "{request:?} {answer:?}");
            assert_eq!(answer.header("cache-control"), "no-store");
            assert_eq!(
                (answer.header("content-type").as_str(), answer.header("ratelimit")),
                ("application/json", String::new())
            );
        }
    }
    assert_eq!(stage.origin.stats().received, 0);
    let head = connection.send(&health.clone().from(OPERATOR).method("HEAD")).await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0), "{head:?}");
    let ready = connection.send(&Request::get("/ops/ready").from(OPERATOR)).await.unwrap();
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &json!(true)));
    let status = connection.send(&Request::get("/ops/status").from(OPERATOR)).await.unwrap().json();
    assert_eq!((&status["limits"][0]["name"], &status["health"]["calls"]), (&json!("api"), &json!(0)), "{status}");
    assert_eq!(status["policy"], ready.json()["policy"]);
    // For all other clients these are ordinary paths: the upstream responds, and the limits apply.
    for (address, more) in [
        ("192.0.2.2", None),
        ("192.0.2.3", Some("Bearer close sesame")),
        ("192.0.2.4", Some("Bearer ")),
        ("192.0.2.5", Some("Basic open sesame")),
    ] {
        for status in [200, 200, 429] {
            let request = health.clone().from(address);
            let request = more.map_or(request.clone(), |more| request.with("authorization", more));
            let answer = connection.send(&request).await.unwrap();
            assert_eq!(answer.status, status, "{request:?} {answer:?}");
            assert!(status == 429 || answer.json()["path"] == "/ops/health", "{answer:?}");
        }
    }
    let posted = connection.send(&Request::post("/ops/health", vec![1; 9]).from(OPERATOR)).await.unwrap();
    assert_eq!(posted.json()["method"], "POST");
    assert!(stage.envoy.access_logged("GET /ops/status 200 tidegate_status").await, "{}", stage.envoy.access_log());
    stage.end().await;
}

#[tokio::test]
async fn pages_are_answered_under_maintenance_and_are_off_unless_named() {
    let mut policy = policy([limit("api", "/**", &["address"], 2)]);
    policy["mode"] = json!("maintenance");
    policy["deny"] = json!({ "addresses": ["10.0.0.0/8"] });
    policy["status"] = json!({ "addresses": [OPERATOR] });
    let stage = Stage::start(&policy).await;
    let request = |path: &str| Request::get(path).from(OPERATOR);
    let status = stage.ask(&request("/tidegate/status")).await.json();
    assert_eq!((&status["mode"], &status["health"]), (&json!("maintenance"), &json!(null)));
    assert_eq!(stage.ask(&request("/tidegate/health")).await.json(), json!({ "health": null }));
    assert_eq!(stage.ask(&request("/tidegate")).await.status, 503);
    assert_eq!(stage.ask(&Request::get("/tidegate/status").from("192.0.2.1")).await.status, 503);
    stage.end().await;

    policy["mode"] = json!("enforce");
    policy.as_object_mut().unwrap().remove("status");
    policy.as_object_mut().unwrap().remove("deny");
    let stage = Stage::start(&policy).await;
    assert_eq!(stage.ask(&request("/tidegate/status")).await.json()["path"], "/tidegate/status");
    stage.end().await;
}

#[tokio::test]
async fn every_worker_tells_how_the_breakers_stand_and_what_all_have_counted() {
    let fickle = Upstream::start(Does::Answers(answer(503, "", "busy"))).await;
    let mut policy = policy([]);
    policy["status"] = json!({ "addresses": [OPERATOR] });
    policy["breakers"] = json!({ "pattern": {
        "window": { "time": "60s" }, "min_calls": 1000, "consecutive_failures": 10, "open": { "initial": "1m" },
    } });
    policy["upstreams"] = json!({
        "fickle": { "cluster": "fickle", "breaker": "pattern" }, "idle": { "cluster": "fickle", "breaker": "pattern" },
    });
    let mut only = route("only", &["fickle"]);
    only["fallback"]["stale"] = json!("1h");
    policy["routes"] = json!([only, route("never", &["idle"])]);
    let stage = chain::stage(&policy, &[("fickle", fickle.address)]).await;
    // On one connection, so that one worker has handled all requests when it opens the breaker.
    let mut connection = Connection::open(stage.http).await.unwrap();
    for _ in 0..10 {
        connection.send(&Request::get("/only/")).await.unwrap();
    }
    fickle.set(good("well"));
    // Each on a new connection, so that both workers refuse some.
    eventually("both workers know that it is open", || async {
        let mut refused = 0;
        for _ in 0..8 {
            refused += usize::from(stage.ask(&Request::get("/only/")).await.status == 503);
        }
        refused == 8
    })
    .await;
    let sent = fickle.requests();
    let status = Request::get("/tidegate/status").from(OPERATOR);
    for _ in 0..8 {
        let mut told = json!(null);
        // The other worker's counts are included once it has exported them, once per second.
        eventually("all is counted", async || {
            told = stage.ask(&status).await.json();
            let number = |page: &str, name: &str| told.pointer(page).unwrap()[name].as_u64().unwrap();
            let rejected = number("/breakers/0", "rejected");
            rejected >= 8 && number("/served", "kept_misses") == rejected + 10
        })
        .await;
        let breaker = &told["breakers"][0];
        let numbers = ["calls", "failures", "slow", "observed", "probes", "opened"].map(|name| breaker[name].as_u64());
        assert_eq!(numbers, [10, 10, 0, 0, 0, 1].map(Some), "{told}");
        assert_eq!((&breaker["name"], &breaker["state"]), (&json!("fickle"), &json!("open")));
        assert!(breaker["for_ms"].as_u64().is_some_and(|ms| ms < 60_000), "{breaker}");
        assert_eq!((&told["breakers"][1]["name"], &told["breakers"][1]["state"]), (&json!("idle"), &json!("closed")));
        assert_eq!((&told["served"]["failure"], &told["served"]["upstreams"]), (&json!(10), &json!(0)), "{told}");
        assert_eq!(told["served"]["kept_hit_rate_percent"], json!(0.0));
    }
    assert_eq!(fickle.requests(), sent, "an open breaker asks nobody");
    let told = stage.ask(&status).await.json();
    let [failed, misses] = ["failed", "kept_misses"].map(|name| told["served"][name].as_u64().unwrap());
    assert_shows(&stage, "tidegate_failed_total", &[("route", "only")], failed).await;
    assert_shows(&stage, "tidegate_kept_misses_total", &[("route", "only")], misses).await;
    stage.end().await;
}
