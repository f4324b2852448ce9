//! The test servers themselves: the origin behaves as it is configured, and Envoy starts, serves and stops.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::bootstrap::Bootstrap;
use crate::envoy::{Envoy, Error, Options};
use crate::origin::{Origin, Settings};

async fn post(to: SocketAddr, path: &str, body: Vec<u8>) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(path).header("host", "rig").header("x-twice", "a").header("x-twice", "b").body(Full::<
        Bytes,
    >::from(
        body
    ));
    let response = sender.send_request(request.unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

async fn grpc(to: SocketAddr) -> String {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{to}/service/Method");
    let request = Request::post(uri).header("content-type", "application/grpc").header("te", "trailers");
    let response = sender.send_request(request.body(Full::<Bytes>::from(vec![0; 5])).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    body.trailers().unwrap()["grpc-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn origin_works_on_no_more_than_its_capacity_and_refuses_beyond_its_queue() {
    let latency = Duration::from_millis(200);
    let origin = Origin::start(Settings { capacity: 2, queue: 3, latency, ..Settings::default() }).unwrap();
    let began = Instant::now();
    let requests = (0..10).map(|_| tokio::spawn(post(origin.addr, "/", Vec::new())));
    let mut statuses = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        statuses.push(request.await.unwrap().0);
    }
    assert!(began.elapsed() >= latency * 3, "five requests, two at a time");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "{statuses:?}");
    let stats = origin.stats();
    assert_eq!((stats.served, stats.overloaded, stats.peak_in_flight, stats.peak_queue), (5, 5, 2, 3), "{stats:?}");
    assert_eq!((stats.in_flight, stats.queue, stats.abandoned), (0, 0, 0), "{stats:?}");
}

#[tokio::test]
async fn origin_settings_can_change_while_it_runs() {
    let origin = Origin::start(Settings { failure_basis_points: 2_500, ..Settings::default() }).unwrap();
    for _ in 0..8 {
        post(origin.addr, "/", Vec::new()).await;
    }
    assert_eq!((origin.stats().served, origin.stats().failed), (6, 2));
    origin.set(Settings { capacity: 0, queue: 0, ..origin.settings() });
    assert_eq!(post(origin.addr, "/", Vec::new()).await.0, 503);
    origin.set(Settings { capacity: 1, failure_basis_points: 0, ..origin.settings() });
    assert_eq!(post(origin.addr, "/", Vec::new()).await.0, 200);
}

#[tokio::test]
async fn origin_echoes_takes_large_bodies_and_speaks_grpc() {
    let origin = Origin::start(Settings::default()).unwrap();
    let (status, text) = post(origin.addr, "/echo/a?b=c", vec![7; 5_000_000]).await;
    let echo: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200);
    assert_eq!((&echo["method"], &echo["path"]), (&"POST".into(), &"/echo/a?b=c".into()));
    assert_eq!(echo["headers"]["x-twice"], serde_json::json!(["a", "b"]));
    assert_eq!(echo["body_bytes"], 5_000_000);
    assert_eq!(grpc(origin.addr).await, "0");
}

#[tokio::test]
async fn envoy_carries_requests_to_the_origin_and_grpc_too() {
    let origin = Origin::start(Settings { echo: true, ..Settings::default() }).unwrap();
    let bootstrap = Bootstrap::shipped().unwrap().upstream(origin.addr).unwrap().without_filter().unwrap();
    let bootstrap = bootstrap.downstream_protocol_upstream().unwrap().with_bypass_listener().unwrap();
    let envoy = Envoy::start(Options::new(bootstrap.text())).await.unwrap();
    let http = envoy.listener("http").unwrap();
    let (status, text) = post(http, "/a", vec![7; 5_000_000]).await;
    let echo: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &echo["body_bytes"]), (200, &5_000_000.into()));
    // One entry, but not 127.0.0.1: for a connection over the loopback Envoy adds the machine's own address.
    let forwarded = echo["headers"]["x-forwarded-for"].as_array().unwrap();
    assert!(matches!(&forwarded[..], [entry] if entry.as_str().unwrap().parse::<IpAddr>().is_ok()), "{forwarded:?}");
    assert_eq!(grpc(http).await, "0");
    assert_eq!(post(envoy.listener("bypass").unwrap(), "/b", Vec::new()).await.0, 200);
    assert!(matches!(envoy.listener("other"), Err(Error::NoListener(_))));
    assert_eq!(envoy.stats().await.unwrap()["cluster.origin.upstream_rq_completed"], 3);
    assert!(envoy.logged("starting main dispatch loop").await, "{}", envoy.log());
    assert!(envoy.access_logged("POST /b 200 via_upstream").await);
}

#[tokio::test]
async fn envoy_loads_listeners_from_a_file_and_keeps_their_port() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("listeners.json");
    let origin = Origin::start(Settings::default()).unwrap();
    let plain = Bootstrap::shipped().unwrap().upstream(origin.addr).unwrap().without_filter().unwrap();
    let dynamic = plain.clone().listeners_from(&file).unwrap();
    let mut envoy = Envoy::start(Options::new(dynamic.text())).await.unwrap();
    let http = envoy.listener("http").unwrap();
    assert_eq!(post(http, "/", Vec::new()).await.0, 200);

    let route = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0";
    let teapot = serde_json::json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 418 } }]);
    plain.set(&format!("{route}/routes"), teapot).unwrap().publish_listeners(&file).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while post(http, "/", Vec::new()).await.0 != 418 {
        assert!(Instant::now() < deadline, "{}", envoy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    envoy.refresh_listeners().await.unwrap();
    assert_eq!(envoy.listener("http").unwrap(), http);
}

#[tokio::test]
async fn envoy_that_cannot_start_says_why_and_leaves_nothing_behind() {
    let bootstrap = Bootstrap::shipped().unwrap().wasm(std::path::Path::new("no/such.wasm")).unwrap().text();
    for error in [
        Envoy::start(Options::new(bootstrap.as_str())).await.map(drop).unwrap_err(),
        Envoy::validate(&bootstrap).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("no/such.wasm"), "{error}");
    }
    let good = Bootstrap::shipped().unwrap().without_filter().unwrap().text();
    Envoy::validate(&good).await.unwrap();
    let envoy = Envoy::start(Options::new(good)).await.unwrap();
    let process = format!("/proc/{}", envoy.pid());
    drop(envoy);
    assert!(!std::path::Path::new(&process).exists());
}
