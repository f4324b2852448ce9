//! What the service is asked, and the effects of its answers.

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit,
};
use serde_json::json;

use super::service::{Does, Service, answer, entries, header, status};
use super::stage::{counted, stage, with_service};
use crate::filter::client::Request;
use crate::filter::metrics::assert_shows;
use crate::filter::stage::limit;

fn user(path: &str, user: impl AsRef<[u8]>) -> Request {
    Request::get(path).with("x-user", user).from("192.0.2.1")
}

#[tokio::test]
async fn a_call_names_the_limit_and_the_parts_of_its_key() {
    let service = Service::start(Does::Counts(3)).await;
    let mut many = counted("many", "/many");
    many["key"] = json!(["address", "header:x-user", "path", "method", "query:q", "cookie:c"]);
    let stage = stage(&with_service([counted("api", "/api"), many]), service.addr).await;
    assert_eq!(stage.admitted(&user("/api", "ann"), 5).await, 3);
    assert_eq!(stage.admitted(&user("/api", "bob"), 5).await, 3);
    assert_eq!(stage.ask(&user("/elsewhere", "ann")).await.status, 200);
    let asked = service.asked();
    assert_eq!(asked.len(), 10);
    assert_eq!((asked[0].domain.as_str(), asked[0].hits_addend, asked[0].descriptors.len()), ("shop", 1, 1));
    assert_eq!(entries(&asked[0].descriptors[0]), [("generic_key", "api"), ("header:x-user", "ann")]);
    stage.ask(&user("/many?q=1%202", "ann").with("cookie", "c=d")).await;
    // For a request without all parts of the key, the address is used.
    stage.ask(&user("/many", "ann")).await;
    let asked = service.asked();
    let all = [
        ("generic_key", "many"),
        ("remote_address", "192.0.2.1"),
        ("header:x-user", "ann"),
        ("path", "/many"),
        ("method", "GET"),
        ("query:q", "1 2"),
        ("cookie:c", "d"),
    ];
    assert_eq!(entries(&asked[10].descriptors[0]), all);
    assert_eq!(entries(&asked[11].descriptors[0]), all[..2]);
    assert_shows(&stage, "tidegate_store_asks_total", &[], 12).await;
    let refused = [("limit", "api"), ("decision", "refused"), ("tier", "default")];
    assert_shows(&stage, "tidegate_requests_total", &refused, 4).await;
    stage.end().await;
}

#[tokio::test]
async fn the_cost_is_sent_as_hits_and_free_requests_are_not_asked_for() {
    let service = Service::start(Does::Counts(10)).await;
    let mut dear = counted("dear", "/**");
    dear["cost"] = json!({ "request_header": "x-cost", "min": 0 });
    dear["quota"]["permits"] = json!(100);
    let stage = stage(&with_service([dear, counted("plain", "/both")]), service.addr).await;
    let costs = |path, cost| user(path, "ann").with("x-cost", cost);
    assert_eq!(stage.ask(&costs("/", "0")).await.status, 200);
    assert_eq!(service.asked(), []);
    assert_eq!(stage.ask(&costs("/", "4")).await.status, 200);
    assert_eq!(service.asked()[0].hits_addend, 4);
    // Six hits of one limit, and one of the other.
    assert_eq!(stage.ask(&costs("/both", "6")).await.status, 200);
    let both = &service.asked()[1];
    let hits: Vec<_> =
        both.descriptors.iter().map(|it| it.hits_addend.map_or(both.hits_addend.into(), |it| it.value)).collect();
    assert_eq!(hits, [6, 1]);
    assert_eq!(stage.ask(&costs("/", "1")).await.status, 429);
    assert_eq!(stage.ask(&costs("/both", "0")).await.status, 200);
    assert_eq!(entries(&service.asked()[3].descriptors[0])[0], ("generic_key", "plain"));
    stage.end().await;
}

#[tokio::test]
async fn headers_of_the_service_reach_client_and_upstream() {
    let service = Service::start(Does::Counts(0)).await;
    let stage = stage(&with_service([counted("api", "/**")]), service.addr).await;
    let headers = RateLimitResponse {
        response_headers_to_add: vec![header("X-Plan", "gold"), header("content-length", "3")],
        request_headers_to_add: vec![header("x-quota-left", "9")],
        ..answer(Code::Ok)
    };
    service.set(Does::Answers(headers.clone()));
    let admitted = stage.ask(&user("/", "ann")).await;
    assert_eq!((admitted.status, admitted.header("x-plan").as_str()), (200, "gold"));
    assert_eq!(admitted.upstream_saw("x-quota-left"), ["9"]);

    let over = RateLimitResponse {
        overall_code: Code::OverLimit as i32,
        statuses: vec![status(Code::OverLimit, Some(42))],
        ..headers.clone()
    };
    service.set(Does::Answers(over.clone()));
    let refused = stage.ask(&user("/", "ann")).await;
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, "42"));
    assert_eq!((refused.header("x-plan").as_str(), refused.header("ratelimit").as_str()), ("gold", ""));
    assert_eq!(refused.json(), json!({ "error": "rate limit exceeded", "retryAfter": 42 }));
    assert!(stage.envoy.access_logged("GET / 429 tidegate_limit_api").await);

    let spoken = RateLimitResponse {
        raw_body: b"<p>Later.</p>".to_vec(),
        response_headers_to_add: vec![header("content-type", "text/html"), header("retry-after", "9")],
        ..over
    };
    service.set(Does::Answers(spoken));
    let refused = stage.ask(&user("/", "ann")).await;
    let said = ["content-type", "retry-after"].map(|name| refused.header(name));
    assert_eq!(
        (refused.status, refused.text().as_str(), said),
        (429, "<p>Later.</p>", ["text/html".into(), "9".into()])
    );
    stage.end().await;
}

#[tokio::test]
async fn client_is_told_to_wait_only_where_the_service_says_how_long() {
    let service = Service::start(Does::Answers(answer(Code::OverLimit))).await;
    let stage = stage(&with_service([counted("api", "/**")]), service.addr).await;
    let refused = stage.ask(&user("/", "ann")).await;
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, ""));
    assert_eq!(refused.json(), json!({ "error": "rate limit exceeded" }));
    let current_limit =
        RateLimit { requests_per_unit: 5, unit: rate_limit::Unit::Minute as i32, ..RateLimit::default() };
    let status = DescriptorStatus { current_limit: Some(current_limit), ..status(Code::OverLimit, None) };
    service.set(Does::Answers(RateLimitResponse { statuses: vec![status], ..answer(Code::OverLimit) }));
    assert_eq!(stage.ask(&user("/", "ann")).await.header("retry-after"), "60");
    stage.end().await;
}

#[tokio::test]
async fn service_is_asked_last_and_what_it_refuses_is_charged_nowhere_else() {
    let service = Service::start(Does::Answers(answer(Code::OverLimit))).await;
    let stage =
        stage(&with_service([limit("own", "/**", &["address"], 2), counted("api", "/api")]), service.addr).await;
    for _ in 0..3 {
        assert_eq!(stage.ask(&user("/api", "ann")).await.status, 429);
    }
    service.set(Does::Answers(answer(Code::Ok)));
    assert_eq!(stage.admitted(&user("/api", "ann"), 4).await, 2);
    assert_eq!(service.asked().len(), 5, "not about what the filter's own limit refuses");
    stage.end().await;
}

#[tokio::test]
async fn limit_that_only_observes_admits_what_its_service_refuses() {
    let service = Service::start(Does::Answers(answer(Code::OverLimit))).await;
    let mut observes = counted("api", "/**");
    observes["on_exceed"] = json!("observe");
    let stage = stage(&with_service([observes]), service.addr).await;
    assert_eq!(stage.ask(&user("/", "ann")).await.status, 200);
    let observed = [("limit", "api"), ("decision", "observed"), ("tier", "default")];
    assert_shows(&stage, "tidegate_requests_total", &observed, 1).await;
    stage.end().await;
}

#[tokio::test]
async fn values_unsuitable_for_the_service_still_distinguish_clients() {
    let service = Service::start(Does::Counts(1)).await;
    let stage = stage(&with_service([counted("api", "/**")]), service.addr).await;
    for user_of in [&b"\xff"[..], b"\xfe", b"\xc3\xa9", &[b'a'; 5_000], &[b'a'; 5_001]] {
        assert_eq!(stage.admitted(&user("/", user_of), 2).await, 1, "{user_of:?}");
    }
    assert!(service.asked().iter().all(|asked| asked.descriptors[0].entries[1].value.len() < 256));
    stage.end().await;
}
