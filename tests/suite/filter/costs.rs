//! Costs from a request header or a response header, in the real Envoy.

use std::time::Duration;

use serde_json::{Value, json};

use super::client::{Connection, Request};
use super::stage::{Stage, eventually, limit, policy};

fn costing(permits: u32, cost: Value) -> Value {
    let mut limit = limit("api", "/**", &["address"], permits);
    limit["cost"] = cost;
    policy([limit])
}

#[tokio::test]
async fn a_request_is_charged_what_its_header_says_over_all_workers() {
    let policy = costing(20, json!({ "request_header": "x-cost", "default": 2, "max": 50 }));
    let stage = Stage::start(&policy).await;
    let request = || Request::get("/").from("192.0.2.1");
    for (value, left) in [("5", 15), ("0", 14), ("many", 12), ("\u{fc}", 10), ("8", 2)] {
        let answer = stage.ask(&request().with("x-cost", value)).await;
        assert_eq!(answer.status, 200, "{value}: {answer:?}");
        assert!(answer.header("ratelimit").contains(&format!("r={left};")), "{value}: {answer:?}");
    }
    let refused = stage.ask(&request().with("x-cost", "3")).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(!refused.header("retry-after").is_empty(), "{refused:?}");
    let never = stage.ask(&request().with("x-cost", "21")).await;
    assert_eq!((never.status, never.header("retry-after").as_str()), (429, ""), "{never:?}");
    // A repeated header has no readable value.
    assert_eq!(stage.ask(&request().with("x-cost", "1").with("x-cost", "1")).await.status, 200);
    assert_eq!(stage.ask(&request()).await.status, 429);
    stage.end().await;
}

#[tokio::test]
async fn an_answer_is_charged_what_its_header_says_and_a_client_that_went_away_the_default() {
    let policy = costing(20, json!({ "response_header": "x-cost", "default": 4, "max": 50 }));
    let says = |cost: &str| json!([{ "header": { "key": "x-cost", "value": cost } }]);
    let routes = json!([
        { "match": { "prefix": "/nine" }, "direct_response": { "status": 200 }, "response_headers_to_add": says("9") },
        { "match": { "prefix": "/huge" }, "route": { "cluster": "origin" }, "response_headers_to_add": says("999") },
        { "match": { "prefix": "/" }, "route": { "cluster": "origin" } },
    ]);
    let stage = Stage::with(&policy, |bootstrap| {
        let hosts = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts";
        bootstrap.set(&format!("{hosts}/0/routes"), routes).unwrap()
    })
    .await;
    let get = |path: &str| Request::get(path).from("192.0.2.1");
    let left = async |path: &str| {
        let answer = stage.ask(&get(path)).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.header("ratelimit").split(';').find_map(|part| part.strip_prefix("r=")?.parse::<u32>().ok()).unwrap()
    };
    // The fields show the client's standing before the response was charged.
    assert_eq!(left("/nine").await, 20);
    assert_eq!(left("/").await, 11);

    stage.origin.set(crate::origin::Settings { latency: Duration::from_secs(60), ..stage.origin.settings() });
    let mut gone = Connection::open(stage.http).await.unwrap();
    gone.write(&get("/slow").bytes()).await.unwrap();
    eventually("the request is at the origin", async || stage.origin.stats().in_flight == 1).await;
    drop(gone);
    eventually("its client is gone", async || stage.origin.stats().in_flight == 0).await;
    stage.origin.set(crate::origin::Settings { latency: Duration::ZERO, ..stage.origin.settings() });

    // 20, less 9, less the default twice.
    assert_eq!(left("/huge").await, 3);
    assert_eq!(stage.ask(&get("/")).await.status, 429);
    stage.end().await;
}
