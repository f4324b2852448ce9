//! Penalties and bans, over both workers of an Envoy.

use std::time::{Duration, Instant};

use serde_json::json;

use super::client::Request;
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, eventually, limit, policy};

#[tokio::test]
async fn a_client_that_is_refused_too_often_is_banned_over_all_workers_until_its_ban_is_over() {
    let mut api = limit("api", "/**", &["address"], 2);
    // The bucket is soon full again: later refusals come from the ban.
    api["quota"] = json!({ "permits": 100, "window": "100ms" });
    api["cost"] = json!({ "request_header": "x-cost" });
    api["ban"] = json!({ "after": 3, "within": "10m", "for": "4s" });
    let stage = Stage::with(&policy([api, limit("wide", "/**", &["address"], 10)]), |bootstrap| {
        bootstrap.downstream_protocol_upstream().unwrap()
    })
    .await;
    let (one, other) = (|| Request::get("/").from("192.0.2.1"), Request::get("/").from("192.0.2.2"));
    assert_eq!(stage.ask(&one()).await.status, 200);
    for _ in 0..2 {
        // More than the whole quota: refused at any time.
        let answer = stage.ask(&one().with("x-cost", "101")).await;
        assert_eq!((answer.status, answer.json()["retryAfter"].is_null()), (429, true), "{answer:?}");
    }
    let begun = Instant::now();
    assert_eq!(stage.ask(&one().with("x-cost", "101")).await.status, 429);
    for _ in 0..8 {
        // Each on a new connection, so that both workers get some.
        let answer = stage.ask(&one()).await;
        assert_eq!(answer.status, 429, "{answer:?}");
        assert_eq!(answer.json()["error"], "too many refused requests");
        assert!((1..=4).contains(&answer.json()["retryAfter"].as_u64().unwrap()), "{answer:?}");
        assert_eq!(answer.header("retry-after"), answer.json()["retryAfter"].to_string());
        let told = answer.header("ratelimit");
        assert!(told.starts_with("\"api\";r=0;t="), "{told}");
    }
    let problem = stage.ask(&one().with("accept", "application/problem+json")).await.json();
    assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#abnormal-usage-detected");
    let call = http2::Connection::open(stage.http).await.call(&Request::get("/service/Method").from("192.0.2.1")).await;
    assert_eq!(call.headers["grpc-status"], "8");
    assert_eq!(stage.ask(&other).await.status, 200);
    assert!(begun.elapsed() < Duration::from_secs(4), "the machine was too slow to see a ban of four seconds");
    eventually("the ban is over", || async { stage.ask(&one()).await.status == 200 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(3_990), "{:?}", begun.elapsed());
    // Nothing was charged during the ban: of ten permits, the first request has used one, and the one that found the
    // ban over another.
    assert_eq!(stage.admitted(&one(), 20).await, 8);
    assert!(stage.envoy.access_logged("GET / 429 tidegate_ban_api").await, "{}", stage.envoy.access_log());
    assert_shows(&stage, "tidegate_bans_total", &[], 1).await;
    let refused = [("limit", "api"), ("decision", "refused"), ("tier", "default")];
    assert_shows(&stage, "tidegate_requests_total", &refused, 3).await;
    stage.end().await;
}

#[tokio::test]
async fn penalties_are_charged_within_their_bound() {
    let mut api = limit("api", "/**", &["address"], 10);
    api["cost"] = json!({ "request_header": "x-cost", "max": 20 });
    api["penalty"] = json!({ "cost": 2, "max": 5 });
    let stage = Stage::start(&policy([api])).await;
    let one = || Request::get("/").from("192.0.2.1");
    for left in [8, 6, 6, 6] {
        let answer = stage.ask(&one().with("x-cost", "11")).await;
        assert_eq!((answer.status, answer.header("ratelimit").split(';').nth(1)), (429, Some(&*format!("r={left}"))));
    }
    assert_eq!(stage.admitted(&one(), 8).await, 6);
    assert_shows(&stage, "tidegate_penalty_permits_total", &[], 4).await;
    stage.end().await;
}
