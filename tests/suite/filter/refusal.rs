//! What a client learns when it is refused or admitted, and what the operator's log shows.

use serde_json::json;

use super::client::{Answer, Request};
use super::stage::{Stage, limit, policy};

/// The parameter of an item of a `RateLimit` or `RateLimit-Policy` field.
fn parameter(field: &str, item: &str, name: &str) -> Option<u64> {
    let item = field.split(", ").find_map(|each| each.strip_prefix(&format!("\"{item}\";")))?;
    item.split(';').find_map(|each| each.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn assert_tells(answer: &Answer, limit: &str, permits: u64, left: u64) {
    let (policy, standing) = (answer.header("ratelimit-policy"), answer.header("ratelimit"));
    assert_eq!(parameter(&policy, limit, "q"), Some(permits), "{answer:?}");
    assert_eq!(parameter(&policy, limit, "w"), Some(31 * 86_400), "{answer:?}");
    assert_eq!(parameter(&standing, limit, "r"), Some(left), "{answer:?}");
    assert!(parameter(&standing, limit, "t").is_some_and(|reset| (1..=31 * 86_400).contains(&reset)), "{answer:?}");
    assert!(standing.contains(";pk=:"), "{answer:?}");
}

#[tokio::test]
async fn refused_client_is_told_why_and_when_to_come_back() {
    let stage = Stage::start(&policy([limit("api", "/api/**", &["address"], 2)])).await;
    let request = Request::get("/api/x").from("192.0.2.1");
    assert_tells(&stage.ask(&request).await, "api", 2, 1);
    assert_tells(&stage.ask(&request).await, "api", 2, 0);
    let refused = stage.ask(&request).await;
    assert_eq!(refused.status, 429);
    assert_tells(&refused, "api", 2, 0);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    // One of two permits comes back in half the window.
    assert!((31 * 43_200 - 600..=31 * 43_200).contains(&wait), "{wait}");
    assert_eq!(refused.header("content-type"), "application/json");
    assert_eq!(refused.header("cache-control"), "no-store");
    assert_eq!(refused.text(), format!(r#"{{"error":"rate limit exceeded","retryAfter":{wait}}}"#));
    assert!(stage.envoy.access_logged("GET /api/x 429 tidegate_limit_api").await, "{}", stage.envoy.access_log());
    assert!(stage.envoy.access_logged("GET /api/x 200 via_upstream").await);

    // The partition key is the same for the same client and differs for others. Without a limit there is no field.
    let key = |answer: Answer| answer.header("ratelimit").split_once("pk=").unwrap().1.to_owned();
    let own = key(refused);
    assert_eq!(key(stage.ask(&request).await), own);
    assert_ne!(key(stage.ask(&Request::get("/api/x").from("192.0.2.2")).await), own);
    let unlimited = stage.ask(&Request::get("/").from("192.0.2.1")).await;
    assert_eq!((unlimited.status, unlimited.header("ratelimit").as_str()), (200, ""));
    assert_eq!(unlimited.header("ratelimit-policy"), "");
    stage.end().await;
}

#[tokio::test]
async fn refused_client_that_accepts_it_gets_problem_details() {
    let stage = Stage::start(&policy([limit("api", "/**", &["address"], 1)])).await;
    let request = Request::get("/").from("192.0.2.1");
    assert_eq!(stage.ask(&request).await.status, 200);
    for accept in ["application/problem+json", "text/html, application/problem+json;q=0.9", "Application/Problem+JSON"]
    {
        let refused = stage.ask(&request.clone().with("accept", accept)).await;
        assert_eq!((refused.status, refused.header("content-type").as_str()), (429, "application/problem+json"));
        let problem = refused.json();
        assert_eq!(problem["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
        assert_eq!((&problem["status"], &problem["violated-policies"]), (&429.into(), &json!(["api"])));
    }
    for accept in ["*/*", "application/json", "application/problem+json;q=0", ""] {
        let refused = stage.ask(&request.clone().with("accept", accept)).await;
        assert_eq!((refused.status, refused.header("content-type").as_str()), (429, "application/json"), "{accept}");
    }
    stage.end().await;
}

#[tokio::test]
async fn client_under_several_limits_is_told_of_each_and_refused_by_the_one_that_keeps_it_waiting_longest() {
    let mut policy = policy([
        limit("wide", "/**", &["address"], 3),
        limit("narrow", "/api/**", &["address"], 1),
        limit("watched", "/**", &["address"], 1),
    ]);
    policy["limits"][2]["on_exceed"] = json!("observe");
    policy["response"] = json!({ "x_ratelimit": true });
    let stage = Stage::start(&policy).await;
    let request = Request::get("/api/x").from("192.0.2.1");
    let admitted = stage.ask(&request).await;
    assert_tells(&admitted, "wide", 3, 2);
    assert_tells(&admitted, "narrow", 1, 0);
    assert!(!admitted.header("ratelimit").contains("watched"), "what is only watched is nobody's business");
    assert_eq!(
        (admitted.header("x-ratelimit-limit"), admitted.header("x-ratelimit-remaining")),
        ("1".into(), "0".into())
    );

    let refused = stage.ask(&request).await;
    assert_eq!(refused.status, 429);
    // The refused request was not charged to the wide limit.
    assert_tells(&refused, "wide", 3, 2);
    assert!(stage.envoy.access_logged("GET /api/x 429 tidegate_limit_narrow").await, "{}", stage.envoy.access_log());
    // The watched limit only observes, so requests over it go on.
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.1"), 3).await, 2);
    stage.end().await;
}

#[tokio::test]
async fn answers_say_nothing_of_limits_where_the_policy_wants_it_so() {
    let mut policy = policy([limit("api", "/**", &["address"], 1)]);
    policy["response"] = json!({ "ratelimit": false });
    let stage = Stage::start(&policy).await;
    for status in [200, 429] {
        let answer = stage.ask(&Request::get("/").from("192.0.2.1")).await;
        assert_eq!(
            (answer.status, answer.header("ratelimit"), answer.header("ratelimit-policy")),
            (status, String::new(), String::new())
        );
        assert_eq!(answer.header("retry-after").is_empty(), status == 200);
    }
    stage.end().await;
}
