//! The deny and allow lists.

use serde_json::json;
use tidegate::api_key::Digest;

use super::client::Request;
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, limit, policy};

#[tokio::test]
async fn denied_clients_are_refused_and_allowed_ones_meet_no_limits() {
    let mut policy = policy([limit("api", "/**", &["address"], 2)]);
    let many = (0..9_998).map(|n| format!("10.{}.{}.0/25", n / 256, n % 256));
    let networks: Vec<_> = many.chain(["203.0.113.0/24", "2001:db8::/32"].map(str::to_owned)).collect();
    let hash = |key: &str| Digest::of(key.as_bytes()).unwrap().to_string();
    policy["client"]["api_key"] = json!({ "header": "X-Secret" });
    policy["deny"] = json!({
        "addresses": networks, "headers": { "x-api-key": ["stolen"] }, "api_keys": [hash("leaked"), hash("lost")],
    });
    policy["allow"] = json!({
        "addresses": ["198.51.100.7"], "headers": { "x-api-key": ["trusted"] }, "api_keys": [hash("partner")],
    });
    let stage = Stage::with(&policy, |bootstrap| bootstrap.downstream_protocol_upstream().unwrap()).await;
    let mut connection = http2::Connection::open(stage.http).await;
    let key = |address: &str, key: &str| Request::get("/").from(address).with("x-api-key", key);
    for (request, statuses) in [
        (Request::get("/").from("192.0.2.1"), [200, 200, 429]),
        (Request::get("/").from("203.0.113.9"), [403; 3]),
        (Request::get("/").from("10.3.4.5"), [403; 3]),
        (Request::get("/").from("10.3.4.200"), [200, 200, 429]),
        (Request::get("/").from("2001:db8:1::7"), [403; 3]),
        (Request::get("/").from("198.51.100.7"), [200; 3]),
        (key("192.0.2.2", "trusted"), [200; 3]),
        (key("192.0.2.2", "stolen"), [403; 3]),
        (key("198.51.100.7", "stolen"), [403; 3]),
        // A client must gain nothing by adding a value, in a list or in a repeated header.
        (key("192.0.2.3", "trusted, stolen"), [403; 3]),
        (key("192.0.2.3", "trusted").with("x-api-key", "stolen"), [403; 3]),
        (key("192.0.2.4", "trusted").with("x-api-key", "other"), [200, 200, 429]),
        (Request::get("/").from("192.0.2.5").with("x-secret", "partner"), [200; 3]),
        (Request::get("/").from("192.0.2.5").with("x-secret", "lost"), [403; 3]),
        (Request::get("/").from("192.0.2.6").with("x-secret", "partner").with("x-secret", "lost"), [403; 3]),
        (Request::get("/").from("192.0.2.6").with("x-secret", "partner").with("x-secret", "other"), [200, 200, 429]),
    ] {
        for status in statuses {
            let answer = connection.send(&request).await;
            assert_eq!(answer.status, status, "{request:?} {answer:?}");
            if status == 403 {
                assert_eq!(answer.json(), json!({ "error": "Forbidden" }));
                assert_eq!((answer.header("retry-after"), answer.header("ratelimit")), (String::new(), String::new()));
            }
        }
    }
    let call = connection.call(&Request::get("/service/Method").from("203.0.113.9")).await;
    assert_eq!((call.trailers_only, &call.headers["grpc-status"]), (true, &"7".parse().unwrap()));
    assert!(stage.envoy.access_logged("GET / 403 tidegate_denied").await, "{}", stage.envoy.access_log());
    assert_shows(&stage, "tidegate_denied_total", &[], 9 * 3 + 1).await;
    assert_shows(&stage, "tidegate_allowed_total", &[], 3 * 3).await;
    stage.end().await;
}
