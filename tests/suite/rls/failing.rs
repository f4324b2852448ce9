//! A service that fails: no request waits longer than the deadline, and the limit's `on_store_failure` decides.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderValue};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;

use super::service::{Does, Service, answer};
use super::stage::{counted, stage, with_service};
use crate::filter::client::Request;
use crate::filter::failing::{Does as Upstream, Upstream as Raw, refusing};
use crate::filter::flood::Memory;
use crate::filter::metrics::assert_shows;
use crate::filter::stage::{Stage, eventually};

/// A service that answers every call with these bytes as its message.
async fn service_answering(message: &'static [u8]) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = hyper::service::service_fn(move |_| async move {
                let size = u32::try_from(message.len()).unwrap().to_be_bytes();
                let frame = [&[0], &size[..], message].concat();
                let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
                let body = Full::<Bytes>::from(frame).with_trailers(async move { Some(Ok(trailers)) });
                hyper::Response::builder().header("content-type", "application/grpc").body(body)
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    addr
}

/// Three limits that the service counts, one for each value of `on_store_failure`.
async fn three_ways(addr: SocketAddr, deadline: &str) -> Stage {
    let limits = ["local", "allow", "deny"].map(|word| {
        let mut limit = counted(word, &format!("/{word}"));
        limit["on_store_failure"] = json!(word);
        limit
    });
    let mut policy = with_service(limits);
    policy["stores"]["rls"]["deadline"] = json!(deadline);
    policy["status"] = json!({ "addresses": ["10.0.0.1"] });
    stage(&policy, addr).await
}

/// Checks all three values: the instance's own quota of two, everything, nothing.
async fn assert_does_without(stage: &Stage) {
    let ask = |path| Request::get(path).with("x-user", "ann");
    let mut statuses = Vec::new();
    for path in ["/local", "/allow", "/deny"] {
        for _ in 0..4 {
            statuses.push(stage.ask(&ask(path)).await.status);
        }
    }
    assert_eq!(statuses, [200, 200, 429, 429, 200, 200, 200, 200, 503, 503, 503, 503], "{}", stage.envoy.log());
}

#[tokio::test]
async fn whichever_way_a_service_fails_the_policy_decides() {
    let none = refusing();
    let no_http2 =
        Raw::start(Upstream::Answers(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec())).await.address;
    let cuts = Raw::start(Upstream::Cuts).await.address;
    let status = Service::start(Does::Fails(tonic::Code::Internal)).await.addr;
    let unknown = Service::start(Does::Answers(answer(Code::Unknown))).await.addr;
    let garbage = service_answering(b"\xff\xff no message").await;
    let empty = service_answering(b"").await;
    for (name, addr, says) in [
        ("none", none, "cannot be reached"),
        ("no HTTP/2", no_http2, "gRPC status"),
        ("cut", cuts, "gRPC status"),
        ("status", status, "failed with gRPC status 13"),
        ("unknown", unknown, "the code UNKNOWN"),
        ("garbage", garbage, "bytes that are no RateLimitResponse"),
        ("empty", empty, "the code UNKNOWN"),
    ] {
        let stage = three_ways(addr, "10s").await;
        assert_does_without(&stage).await;
        let line = "tidegate: the rate-limit service, cluster rls: ";
        assert!(stage.envoy.logged(line).await, "{name}");
        assert!(
            stage.envoy.log().lines().any(|of| of.contains(line) && of.contains(says)),
            "{name}: {}",
            stage.envoy.log()
        );
        assert_shows(&stage, "tidegate_store_failures_total", &[], 12).await;
        stage.end().await;
    }
}

#[tokio::test]
async fn waits_for_a_dead_service_end_at_the_deadline_and_an_open_breaker_avoids_them() {
    let service = Service::start(Does::Holds).await;
    let stage = three_ways(service.addr, "100ms").await;
    let ask = Request::get("/deny").with("x-user", "ann");
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(stage.ask(&ask).await.status, 503);
        let took = began.elapsed();
        // Measured by Envoy's timers, which may fire a little early.
        assert!(took >= Duration::from_millis(90), "{took:?}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // Without the breaker these would wait for ten seconds.
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(stage.ask(&ask).await.status, 503);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(service.asked().len() < 30, "{}", service.asked().len());
    assert!(stage.envoy.logged("did not answer within the deadline").await, "{}", stage.envoy.log());
    let page = async || stage.ask(&Request::get("/tidegate/status").from("10.0.0.1")).await.json();
    let told = page().await["rate_limit_service"].clone();
    let number = |name: &str| told[name].as_u64().unwrap_or_default();
    assert_eq!((number("deadline_ms"), number("decided_without")), (100, 103), "{told}");
    assert!(number("failures") >= 3 && number("asks") >= number("failures") && number("asks") < 30, "{told}");
    assert!(told["breaker"] != "closed", "{told}");
    service.set(Does::Counts(1_000));
    eventually("the service is asked again", async || stage.ask(&ask).await.status == 200).await;
    assert_eq!(page().await["rate_limit_service"]["breaker"], "closed");
    stage.end().await;
}

#[tokio::test]
async fn a_service_that_answers_with_a_hundred_megabytes_leaves_the_vm_its_memory() {
    let large = RateLimitResponse { raw_body: vec![b'x'; 100 << 20], ..answer(Code::Ok) };
    let service = Service::start(Does::Answers(answer(Code::Ok))).await;
    let stage = three_ways(service.addr, "10s").await;
    let ask = Request::get("/deny").with("x-user", "ann");
    assert_eq!(stage.ask(&ask).await.status, 200);
    let before = Memory::of(&stage).await;
    service.set(Does::Answers(large));
    assert_eq!(stage.ask(&ask).await.status, 503);
    let after = Memory::of(&stage).await;
    assert!(after.of_vms < before.of_vms + (40 << 20), "before {before:?}, after {after:?}");
    assert!(stage.envoy.logged("with more than a RateLimitResponse has room for").await, "{}", stage.envoy.log());
    stage.end().await;
}

#[tokio::test]
async fn a_missing_cluster_counts_as_a_failed_service() {
    let service = Service::start(Does::Counts(9)).await;
    let mut limit = counted("api", "/**");
    limit["on_store_failure"] = json!("allow");
    let mut policy = with_service([limit]);
    policy["stores"]["rls"]["cluster"] = json!("nowhere");
    let stage = stage(&policy, service.addr).await;
    assert_eq!(stage.ask(&Request::get("/")).await.status, 200);
    assert!(stage.envoy.logged("the rate-limit service, cluster nowhere: cannot be reached").await);
    assert_eq!(service.asked(), []);
    stage.end().await;
}
