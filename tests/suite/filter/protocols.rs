//! HTTP/2, HEAD, gRPC and large bodies: the same decision in the terms of each protocol.

use super::client::{Connection, Request};
use super::http2;
use super::stage::{Stage, limit, policy};

#[tokio::test]
async fn http2_is_limited_as_http1_is_and_together_with_it() {
    let stage = Stage::start(&policy([limit("all", "/**", &["address"], 3)])).await;
    let request = Request::get("/").from("192.0.2.1");
    let mut connection = http2::Connection::open(stage.http).await;
    let admitted = connection.send(&request).await;
    assert_eq!((admitted.status, &admitted.json()["method"]), (200, &"GET".into()));
    assert!(admitted.header("ratelimit").starts_with("\"all\";r=2;"), "{admitted:?}");
    assert_eq!(stage.admitted(&request, 2).await, 2);
    let refused = connection.send(&request).await;
    assert_eq!((refused.status, refused.header("content-type").as_str()), (429, "application/json"));
    assert_eq!(refused.json()["error"], "rate limit exceeded");
    // The connection stays open, and its next request is from another client.
    assert_eq!(connection.send(&Request::get("/").from("192.0.2.2")).await.status, 200);
    stage.end().await;
}

#[tokio::test]
async fn head_is_refused_with_the_headers_of_a_refusal_and_no_body() {
    let stage = Stage::start(&policy([limit("all", "/**", &["address"], 1)])).await;
    let request = Request::get("/").from("192.0.2.1").method("HEAD");
    let mut one = Connection::open(stage.http).await.unwrap();
    assert_eq!(one.send(&request).await.unwrap().status, 200);
    // A body after these headers would be read as the next response.
    for _ in 0..2 {
        let refused = one.send(&request).await.unwrap();
        assert_eq!((refused.status, refused.header("content-type").as_str()), (429, "application/json"));
        assert!(!refused.header("retry-after").is_empty() && !refused.header("ratelimit").is_empty(), "{refused:?}");
    }
    let mut two = http2::Connection::open(stage.http).await;
    let refused = two.send(&request).await;
    assert_eq!((refused.status, refused.body.len()), (429, 0));
    stage.end().await;
}

#[tokio::test]
async fn refused_grpc_call_has_status_resource_exhausted_in_trailers_alone() {
    let policy = policy([limit("calls", "/service/**", &["address"], 2)]);
    let stage = Stage::with(&policy, |bootstrap| bootstrap.downstream_protocol_upstream().unwrap()).await;
    let call = Request::get("/service/Method").from("192.0.2.1");
    let mut connection = http2::Connection::open(stage.http).await;
    for _ in 0..2 {
        let admitted = connection.call(&call).await;
        assert_eq!(admitted.trailers["grpc-status"], "0", "{admitted:?}");
        assert!(admitted.headers.contains_key("ratelimit"), "{admitted:?}");
    }
    for _ in 0..2 {
        let refused = connection.call(&call).await;
        assert!(refused.trailers_only && refused.trailers.is_empty(), "{refused:?}");
        assert_eq!(refused.headers["grpc-status"], "8", "{refused:?}");
        assert_eq!(refused.headers["content-type"], "application/grpc", "{refused:?}");
        assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    }
    assert_eq!(connection.call(&call.clone().from("192.0.2.2")).await.trailers["grpc-status"], "0");
    assert!(
        stage.envoy.access_logged("POST /service/Method 200 tidegate_limit_calls").await,
        "{}",
        stage.envoy.access_log()
    );
    stage.end().await;
}

#[tokio::test]
async fn five_megabytes_go_through_or_are_refused_before_they_are_sent() {
    let stage = Stage::start(&policy([limit("all", "/**", &["address"], 2)])).await;
    let post = Request::post("/", vec![7; 5_000_000]).from("192.0.2.1");
    let admitted = stage.ask(&post).await;
    assert_eq!((admitted.status, &admitted.json()["body_bytes"]), (200, &5_000_000.into()));
    let mut h2 = http2::Connection::open(stage.http).await;
    let admitted = h2.send(&post).await;
    assert_eq!((admitted.status, &admitted.json()["body_bytes"]), (200, &5_000_000.into()));

    let mut h1 = Connection::open(stage.http).await.unwrap();
    let refused = h1.send(&post).await.unwrap();
    assert_eq!((refused.status, &refused.json()["error"]), (429, &"rate limit exceeded".into()));
    // The unread body cannot be told from a next request: Envoy announces that it closes the connection.
    assert_eq!(refused.header("connection"), "close");
    assert!(h1.is_closed().await);
    assert_eq!(h2.send(&post).await.status, 429);
    assert_eq!(h2.send(&Request::get("/").from("192.0.2.2")).await.status, 200);
    assert_eq!(stage.origin.stats().received, 3);
    stage.end().await;
}
