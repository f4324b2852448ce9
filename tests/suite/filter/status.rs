//! The pages of status, and that they are nobody else's.

use serde_json::json;

use super::client::{Connection, Request};
use super::stage::{Stage, limit, policy};

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
    // For all others they are paths like any other: the upstream answers, and the limits hold.
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
