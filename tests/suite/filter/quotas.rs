//! Several quotas in one limit, over all workers of the real Envoy.

use serde_json::json;

use super::client::Request;
use super::metrics::assert_shows;
use super::stage::{Stage, limit, policy};

#[tokio::test]
async fn a_request_is_within_all_quotas_and_charged_to_all_or_none() {
    let mut api = limit("api", "/**", &["address"], 1);
    let object = api.as_object_mut().unwrap();
    object.remove("quota");
    // Neither returns a permit while the test runs.
    object.insert(
        "quotas".to_owned(),
        json!([
            { "permits": 50, "window": "30d" },
            { "permits": 20, "window": "31d" },
        ]),
    );
    object.insert("cost".to_owned(), json!({ "request_header": "x-cost" }));
    let stage = Stage::start(&policy([api])).await;
    let request = || Request::get("/").from("192.0.2.1");
    let answer = stage.ask(&request()).await;
    assert_eq!(answer.header("ratelimit-policy"), r#""api/30d";q=50;w=2592000, "api/31d";q=20;w=2678400"#);
    assert!(answer.header("ratelimit").starts_with(r#""api/30d";r=49;"#), "{answer:?}");
    assert!(answer.header("ratelimit").contains(r#", "api/31d";r=19;"#), "{answer:?}");

    // Each on a new connection and many at a time, so that both workers get some.
    let mut admitted = 0;
    let plain = request();
    let ask = || stage.ask(&plain);
    for _ in 0..10 {
        let answers: [_; 4] = tokio::join!(ask(), ask(), ask(), ask()).into();
        admitted += answers.iter().filter(|answer| answer.status == 200).count();
    }
    assert_eq!(admitted, 19);
    let refused = stage.ask(&request().with("accept", "application/problem+json")).await;
    assert_eq!(refused.json()["violated-policies"], json!(["api/31d"]), "{refused:?}");
    assert!(refused.header("ratelimit").starts_with(r#""api/30d";r=30;"#), "{refused:?}");

    let name = "tidegate_requests_total";
    assert_shows(&stage, name, &[("limit", "api"), ("decision", "admitted"), ("tier", "default")], 20).await;
    assert_shows(&stage, name, &[("limit", "api"), ("decision", "refused"), ("tier", "default")], 22).await;
    assert_shows(&stage, "tidegate_refunds_lost_total", &[], 0).await;
    stage.end().await;
}
