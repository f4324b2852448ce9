//! One client's behaviour must not harm others: bodies that never come or come slowly, and methods that the service
//! does not implement.

use std::time::Duration;

use serde_json::json;

use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good};
use super::metrics::assert_shows;
use super::stage::{Stage, eventually};

/// A service that is shed, and whose breaker opens, if calls take longer than a moment.
fn impatient() -> serde_json::Value {
    json!({
        "version": 1,
        "upstreams": { "origin": { "cluster": "origin", "breaker": "default" } },
        "breakers": { "default": {
            "window": { "time": "30s" }, "min_calls": 5, "slow_call": "200ms", "slow_rate_percent": 20,
            "open": { "initial": "5m" },
        } },
        "routes": [{ "name": "all", "upstreams": ["origin"] }],
        "health": { "latency": { "degraded": "100ms", "critical": "200ms" }, "min_calls": 5 },
        "shedding": { "critical": { "low_percent": 100, "medium_percent": 100 }, "rise": "100ms" },
    })
}

#[tokio::test]
async fn clients_that_do_not_send_their_bodies_or_do_it_slowly_open_no_breaker_and_have_nobody_shed() {
    for (what, framing, rest) in [
        ("leaves", "content-length: 10", &b""[..]),
        ("leaves in the middle", "transfer-encoding: chunked", b""),
        ("sends the rest late", "content-length: 10", b"123456789"),
    ] {
        let stage = Stage::of_workers(1, &impatient(), |bootstrap| bootstrap).await;
        assert_eq!(stage.ask(&Request::get("/")).await.status, 200);
        let mut slow = Vec::new();
        for _ in 0..20 {
            let mut connection = Connection::open(stage.http).await.unwrap();
            let piece = if framing.starts_with("transfer") { "1\r\n0\r\n" } else { "0" };
            let head = format!("POST / HTTP/1.1\r\nhost: suite.example\r\n{framing}\r\n\r\n{piece}");
            connection.write(head.as_bytes()).await.unwrap();
            slow.push(connection);
        }
        eventually("all have begun", async || stage.envoy.stats().await.unwrap()[ACTIVE] >= 20).await;
        // This is not a wait for a state: the requests last this long, which is longer than the thresholds allow.
        tokio::time::sleep(Duration::from_millis(400)).await;
        if !rest.is_empty() {
            for connection in &mut slow {
                connection.write(rest).await.unwrap();
                assert_eq!(connection.answer("POST").await.unwrap().status, 200, "{what}");
            }
        }
        drop(slow);
        eventually("all are over", async || stage.envoy.stats().await.unwrap()[ACTIVE] == 0).await;
        for _ in 0..20 {
            // Together these pauses exceed the 100 ms in which counts are shared and take effect.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let answer = stage.ask(&Request::get("/")).await;
            assert_eq!(answer.status, 200, "a client that {what}: {answer:?}");
        }
        assert_shows(&stage, "tidegate_health", &[], 0).await;
        assert_shows(&stage, "tidegate_breaker_state", &[("breaker", "origin")], 0).await;
        stage.end().await;
    }
}

#[tokio::test]
async fn a_client_with_methods_that_the_service_does_not_know_opens_no_breaker_and_has_nobody_shed() {
    let upstream = Upstream::start(Does::Answers(answer(501, "", "not implemented"))).await;
    let stage = Stage::with(&impatient(), |bootstrap| bootstrap.upstream(upstream.address).unwrap()).await;
    for method in ["PATCH", "TRACE", "PROPFIND", "LINK"].repeat(10) {
        assert_eq!(stage.ask(&Request::get("/").method(method)).await.status, 501, "{method}");
    }
    upstream.set(good("served"));
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(stage.ask(&Request::get("/")).await.text(), "served");
    }
    assert_shows(&stage, "tidegate_health", &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn a_breaker_closes_though_clients_that_do_not_send_their_bodies_come_before_all_others() {
    let mut policy = impatient();
    policy["breakers"]["default"] = json!({
        "window": { "time": "30s" }, "consecutive_failures": 3, "open": { "initial": "500ms", "max": "500ms" },
        "half_open": { "probes": 2, "max_wait": "500ms" },
    });
    policy.as_object_mut().unwrap().retain(|name, _| name != "health" && name != "shedding");
    let upstream = Upstream::start(Does::Answers(answer(500, "", "down"))).await;
    let stage = Stage::of_workers(1, &policy, |bootstrap| bootstrap.upstream(upstream.address).unwrap()).await;
    for _ in 0..3 {
        assert_eq!(stage.ask(&Request::get("/")).await.status, 500);
    }
    upstream.set(good("served"));
    let http = stage.http;
    let crowd = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        loop {
            let mut connection = Connection::open(http).await.unwrap();
            // If the request is refused, the connection may be closed before all is written.
            let _ = connection.write(b"POST / HTTP/1.1\r\nhost: suite.example\r\ncontent-length: 10\r\n\r\n0").await;
            held.push_back(connection);
            if held.len() > 300 {
                held.pop_front();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    // A single one may pass as a probe.
    let mut passed = 0;
    eventually("the breaker is closed", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        passed = if stage.ask(&Request::get("/")).await.text() == "served" { passed + 1 } else { 0 };
        passed == 10
    })
    .await;
    assert_shows(&stage, "tidegate_breaker_state", &[("breaker", "origin")], 0).await;
    crowd.abort();
    // If all requests have bodies, those whose bodies arrive close it.
    upstream.set(Does::Answers(answer(500, "", "down")));
    eventually("the breaker is open", async || stage.ask(&Request::post("/", b"x".to_vec())).await.status == 503).await;
    upstream.set(good("served"));
    eventually("the breaker is closed again", async || {
        stage.ask(&Request::post("/", b"x".to_vec())).await.text() == "served"
    })
    .await;
    stage.end().await;
}

const ACTIVE: &str = "cluster.origin.upstream_rq_active";
