//! Responses that one client provokes must not be served to another one when all upstreams fail.

use serde_json::json;

use super::assets::route;
use super::client::Request;
use super::failing::{Does, Upstream, answer, good};
use super::stage::Stage;

#[tokio::test]
async fn what_was_kept_for_one_client_is_served_to_nobody_who_asks_otherwise() {
    let mut policy = route(json!({ "fallback": { "on": ["5xx"], "stale": "1h" } }));
    policy["client"]["api_key"] = json!({ "header": "x-api-key" });
    let upstream = Upstream::start(good("")).await;
    let stage = Stage::with(&policy, |bootstrap| bootstrap.upstream(upstream.address).unwrap()).await;
    // The first client's request, and whether the second client gets the same response.
    type Asks = fn(Request) -> Request;
    let cases: [(&str, Asks, bool); 8] = [
        ("plainly", |request| request, true),
        ("with another header", |request| request.with("x-other", "1"), true),
        // A service may write the host into its links and redirects.
        ("of another port", |request| Request { host: Some("suite.example:8080".to_owned()), ..request }, false),
        ("of another spelling", |request| Request { host: Some("suite.example.".to_owned()), ..request }, false),
        // A service may respond by the body, which the other client does not send.
        ("with a body", |request| Request { body: b"q=1".to_vec(), ..request }, false),
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
