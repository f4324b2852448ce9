//! Responses that one client provokes must not be served to another one when all upstreams fail.

use serde_json::json;

use super::assets::route;
use super::client::Request;
use super::failing::{Does, Upstream, answer, good};
use super::stage::Stage;
use crate::bootstrap::Bootstrap;

#[tokio::test]
async fn what_was_kept_for_one_client_is_served_to_nobody_who_asks_otherwise() {
    let mut policy = route(json!({ "fallback": { "on": ["5xx"], "stale": "1h" } }));
    policy["client"]["api_key"] = json!({ "header": "x-api-key" });
    policy["client"]["tier"] = json!({ "header": "x-plan" });
    policy["tiers"] = json!(["free", "premium"]);
    let upstream = Upstream::start(good("")).await;
    let stage = Stage::with(&policy, |bootstrap| bootstrap.upstream(upstream.address).unwrap()).await;
    // The first client's request, and whether the second client gets the same response.
    type Asks = fn(Request) -> Request;
    let cases: [(&str, Asks, bool); 11] = [
        ("plainly", |request| request, true),
        ("with another header", |request| request.with("x-other", "1"), true),
        // A service may write the host into its links and redirects.
        ("of another port", |request| Request { host: Some("suite.example:8080".to_owned()), ..request }, false),
        ("of another spelling", |request| Request { host: Some("suite.example.".to_owned()), ..request }, false),
        ("as of another host", |request| request.with("x-forwarded-host", "other.example"), false),
        ("as of another target", |request| request.with("x-original-url", "/other"), false),
        // A service may respond by the body, which the other client does not send.
        ("with a body", |request| Request { body: b"q=1".to_vec(), ..request }, false),
        ("of a better tier", |request| request.with("x-plan", "premium"), false),
        ("with an API key", |request| request.with("x-api-key", "k1"), false),
        // At this point `jwt_authn` has removed the token that these claims come from.
        ("with claims", |request| request.with("x-jwt-payload", "e30"), false),
        ("with a token", |request| request.with("authorization", "Bearer x"), false),
    ];
    for (at, (what, asks, is_served)) in cases.into_iter().enumerate() {
        let plain = Request::get(format!("/{at}"));
        upstream.set(good(what));
        assert_eq!(stage.ask(&asks(plain.clone())).await.status, 200, "{what}");
        upstream.set(Does::Answers(answer(503, "", "down")));
        let other = stage.ask(&plain).await;
        assert_eq!(other.status == 200, is_served, "{what}: {other:?}");
        assert_eq!(other.text() == what, is_served, "{what}: {other:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn no_cache_in_front_is_told_to_keep_what_a_page_becomes_for_a_client_that_says_it_speaks_grpc() {
    let mut policy = route(json!({ "upstreams": ["origin", "other"], "fallback": { "on": ["5xx"], "stale": "1h" } }));
    policy["upstreams"]["other"] = json!({ "cluster": "other" });
    let upstream = Upstream::start(Does::Answers(answer(503, "", "down"))).await;
    let other = Upstream::start(Does::Answers(answer(200, "cache-control: public, max-age=60\r\n", "page"))).await;
    let change = |bootstrap: Bootstrap| {
        bootstrap.upstream(upstream.address).unwrap().with_cluster("other", other.address).unwrap()
    };
    policy["routes"][0]["fallback"]["budget_percent"] = json!(100);
    let stage = Stage::with(&policy, change).await;
    let plain = Request::get("/");
    for what in ["of a further upstream", "kept"] {
        let page = stage.ask(&plain).await;
        assert_eq!(
            (page.text().as_str(), page.header("cache-control").as_str()),
            ("page", "public, max-age=60"),
            "{what}"
        );
        let empty = stage.ask(&plain.clone().with("content-type", "application/grpc")).await;
        assert_eq!((empty.text().as_str(), empty.header("cache-control").as_str()), ("", "no-store"), "{what}");
        other.set(Does::Answers(answer(503, "", "down")));
    }
    // All of it would be in one line of the header.
    other.set(good(vec![b'x'; 100_000]));
    let empty = stage.ask(&Request::get("/large").with("content-type", "application/grpc")).await;
    assert_eq!((empty.header("grpc-status").as_str(), empty.header("grpc-message").as_str()), ("14", ""));
    stage.end().await;
}
