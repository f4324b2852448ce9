//! Limits on certain responses: they stop brute force, and leave successful logins alone.

use serde_json::json;

use super::client::Request;
use super::stage::{Stage, limit, policy};

#[tokio::test]
async fn failed_logins_are_counted_over_all_workers_and_then_refused_before_they_are_tried() {
    let mut logins = limit("logins", "/login/**", &["address"], 5);
    logins["only_on"] = json!(["401", "403"]);
    // Envoy itself answers a wrong password, as an upstream would.
    let routes = json!([
        { "match": { "prefix": "/login/wrong" }, "direct_response": { "status": 401 } },
        { "match": { "prefix": "/" }, "route": { "cluster": "origin" } },
    ]);
    let stage = Stage::with(&policy([logins]), |bootstrap| {
        let hosts = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts";
        bootstrap.set(&format!("{hosts}/0/routes"), routes).unwrap()
    })
    .await;
    let right = Request::get("/login").from("192.0.2.1");
    let wrong = Request::get("/login/wrong").from("192.0.2.1");
    assert_eq!(stage.admitted(&right, 30).await, 30);
    for _ in 0..5 {
        // Each on a new connection, so that both workers get some.
        assert_eq!(stage.ask(&wrong).await.status, 401);
    }
    let refused = stage.ask(&wrong).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert_eq!(stage.ask(&right).await.status, 429);
    assert_eq!(stage.ask(&Request::get("/login/wrong").from("192.0.2.2")).await.status, 401);
    stage.end().await;
}
