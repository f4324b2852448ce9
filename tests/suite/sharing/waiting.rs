//! Requests that wait for the store.

use std::time::{Duration, Instant};

use serde_json::json;

use super::proxy::Does;
use super::stage::{Setup, Sharing, shared};
use crate::filter::client::{Connection, Request};
use crate::filter::stage::eventually;

#[tokio::test]
async fn many_waiting_requests_are_decided_with_few_calls() {
    let mut setup = Setup::of([shared(200)]);
    setup.envoys = 1;
    setup.stores = json!({ "deadline": "10s" });
    let stage = Sharing::start(&setup).await;
    stage.proxy.set(Does::IsLate(Duration::from_millis(1_500)));
    let to = stage.envoys[0].http;
    let requests = (0..500).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            connection.send(&Request::get("/")).await.unwrap().status
        })
    });
    let requests: Vec<_> = requests.collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.proxy.set(Does::PassesOn);
    let mut admitted = 0;
    for request in requests {
        let status = request.await.unwrap();
        assert!(matches!(status, 200 | 429), "{status}");
        admitted += usize::from(status == 200);
    }
    assert!(admitted <= 200, "{admitted} admitted");
    stage.use_up(200 - admitted).await;
    assert!(stage.proxy.requests() < 100, "{} requests to the store", stage.proxy.requests());
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_costs_nothing_and_harms_nobody() {
    let mut setup = Setup::of([shared(10)]);
    setup.envoys = 1;
    let stage = Sharing::start(&setup).await;
    stage.proxy.set(Does::IsLate(Duration::from_millis(500)));
    for _ in 0..20 {
        let mut connection = Connection::open(stage.envoys[0].http).await.unwrap();
        connection.write(&Request::get("/").bytes()).await.unwrap();
    }
    let name = "http.http.downstream_cx_active";
    eventually("all have gone", async || stage.envoys[0].envoy.stats().await.unwrap()[name] == 0).await;
    stage.proxy.set(Does::PassesOn);
    // Permits drawn for them are available to other requests.
    stage.use_up(10).await;
    stage.end().await;
}

#[tokio::test]
async fn a_request_waits_for_the_store_and_then_for_its_turn() {
    let turns = json!({
        "name": "turns", "match": { "path": "/**" }, "key": [], "algorithm": "token-bucket",
        "quota": { "permits": 10, "window": "1s", "burst": 1 }, "on_exceed": "delay", "max_delay": "10s",
    });
    let mut setup = Setup::of([shared(1_000), turns]);
    setup.envoys = 1;
    let stage = Sharing::start(&setup).await;
    let began = Instant::now();
    assert_eq!(stage.admitted(6).await, [6]);
    assert!(began.elapsed() >= Duration::from_millis(480), "{:?}", began.elapsed());
    stage.end().await;
}

#[tokio::test]
async fn a_body_that_comes_while_its_request_waits_arrives_whole() {
    let mut setup = Setup::of([shared(1_000)]);
    setup.envoys = 1;
    let stage = Sharing::start(&setup).await;
    stage.proxy.set(Does::IsLate(Duration::from_millis(200)));
    let answer = stage.envoys[0].ask(&Request::post("/", vec![b'a'; 300_000])).await;
    assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &json!(300_000)));
    stage.end().await;
}

#[tokio::test]
async fn under_overload_an_empty_bucket_refuses_without_long_waits() {
    let mut limit = shared(1);
    limit["algorithm"] = json!("token-bucket");
    limit["quota"] = json!({ "permits": 200, "window": "1s", "burst": 20 });
    let mut setup = Setup::of([limit]);
    setup.envoys = 1;
    let stage = Sharing::start(&setup).await;
    let (to, began) = (stage.envoys[0].http, Instant::now());
    let clients = (0..30).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            let (mut sent, mut admitted, mut longest) = (0, 0, Duration::ZERO);
            while began.elapsed() < Duration::from_secs(3) {
                let asked = Instant::now();
                let status = connection.send(&Request::get("/")).await.unwrap().status;
                assert!(matches!(status, 200 | 429), "{status}");
                longest = longest.max(asked.elapsed());
                (sent, admitted) = (sent + 1, admitted + u64::from(status == 200));
                // As many requests as a crowd sends, but slower than Envoy can refuse them.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            (sent, admitted, longest)
        })
    });
    let (mut sent, mut admitted, mut longest) = (0, 0, Duration::ZERO);
    for client in clients.collect::<Vec<_>>() {
        let (more, of_them, its_longest) = client.await.unwrap();
        (sent, admitted, longest) = (sent + more, admitted + of_them, longest.max(its_longest));
    }
    let took = began.elapsed().as_secs_f64();
    let most = (200.0 * took) as u64 + 20;
    println!(
        "{admitted} of at most {most} admitted, of {sent}; the longest took {longest:?}, {} calls",
        stage.proxy.requests()
    );
    assert!(admitted <= most && admitted > most / 2, "{admitted} of at most {most} admitted, of {sent}");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    stage.end().await;
}
