//! Policies in observe mode, in strict mode and under maintenance.

use serde_json::json;

use super::client::Request;
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, limit, policy};

#[tokio::test]
async fn policy_that_observes_lets_all_pass_and_tells_nobody_but_the_statistics() {
    let mut policy = policy([limit("api", "/**", &["address"], 3)]);
    policy["mode"] = json!("observe");
    let stage = Stage::start(&policy).await;
    let request = Request::get("/").from("192.0.2.1");
    for _ in 0..5 {
        let answer = stage.ask(&request).await;
        assert_eq!(
            (answer.status, answer.header("ratelimit"), answer.header("ratelimit-policy")),
            (200, String::new(), String::new())
        );
    }
    let labels = |decision| [("limit", "api"), ("decision", decision), ("tier", "default")];
    assert_shows(&stage, "tidegate_requests_total", &labels("admitted"), 3).await;
    assert_shows(&stage, "tidegate_requests_total", &labels("observed"), 2).await;
    stage.end().await;
}

#[tokio::test]
async fn what_is_observed_is_logged_whether_the_whole_policy_observes_or_one_limit() {
    let (mut whole, mut one) =
        (policy([limit("api", "/**", &["address"], 1)]), policy([limit("api", "/**", &["address"], 1)]));
    whole["mode"] = json!("observe");
    one["limits"][0]["on_exceed"] = json!("observe");
    for policy in [whole, one] {
        let stage = Stage::start(&policy).await;
        stage.envoy.admin_post("/logging?wasm=debug").await.unwrap();
        let request = Request::get("/").from("192.0.2.1");
        let line = "tidegate: observed: tidegate_limit_api";
        assert_eq!(stage.ask(&request).await.status, 200);
        assert!(!stage.envoy.log().contains(line), "{}", stage.envoy.log());
        assert_eq!(stage.ask(&request).await.status, 200);
        assert!(stage.envoy.logged(line).await, "{}", stage.envoy.log());
        stage.end().await;
    }
}

#[tokio::test]
async fn strict_policy_lowers_every_quota_and_says_so_to_clients() {
    let mut policy = policy([limit("api", "/**", &["address"], 9)]);
    policy["mode"] = json!("strict");
    policy["strict"] = json!({ "factor_percent": 50 });
    let stage = Stage::start(&policy).await;
    let request = Request::get("/").from("192.0.2.1");
    let first = stage.ask(&request).await;
    assert!(first.header("ratelimit-policy").contains("q=4;"), "{first:?}");
    assert_eq!(stage.admitted(&request, 6).await, 3);
    stage.end().await;
}

#[tokio::test]
async fn maintenance_shows_its_page_to_all_but_those_let_in() {
    let mut policy = policy([limit("api", "/**", &["address"], 2)]);
    policy["mode"] = json!("maintenance");
    policy["maintenance"] = json!({
        "retry_after": "2m", "body": "<h1>Back soon</h1>", "allow_paths": ["/health/**"], "allow_addresses": ["10.0.0.0/8"],
    });
    let stage = Stage::with(&policy, |bootstrap| bootstrap.downstream_protocol_upstream().unwrap()).await;
    let mut connection = http2::Connection::open(stage.http).await;
    let page = connection.send(&Request::get("/shop").from("192.0.2.1")).await;
    assert_eq!((page.status, page.text().as_ref()), (503, "<h1>Back soon</h1>"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!((page.header("retry-after").as_str(), page.header("cache-control").as_str()), ("120", "no-store"));
    assert!(stage.envoy.access_logged("GET /shop 503 tidegate_maintenance").await, "{}", stage.envoy.access_log());
    let call = connection.call(&Request::get("/service/Method").from("192.0.2.1")).await;
    assert!(call.trailers_only, "{call:?}");
    assert_eq!(
        (&call.headers["grpc-status"], &call.headers["retry-after"]),
        (&"14".parse().unwrap(), &"120".parse().unwrap())
    );
    // These are let in, and limited as usual.
    for request in [Request::get("/health/live").from("192.0.2.1"), Request::get("/shop").from("10.1.2.3")] {
        for status in [200, 200, 429] {
            assert_eq!(connection.send(&request).await.status, status, "{request:?}");
        }
    }
    assert_shows(&stage, "tidegate_maintenance_total", &[], 2).await;
    stage.end().await;
}
