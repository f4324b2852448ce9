//! The adaptive limit in the real Envoy: the filter finds how many requests in flight the origin can carry.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Connection, Request};
use super::metrics::sample;
use super::stage::{Stage, policy};
use crate::origin::Settings;

/// Clients that send more than the origin can carry, and soon retry when they are refused.
async fn press(to: SocketAddr, clients: usize) -> Vec<tokio::task::JoinHandle<()>> {
    let client = || async move {
        let mut connection = Connection::open(to).await.unwrap();
        loop {
            let answer = connection.send(&Request::get("/")).await.unwrap();
            if answer.status == 429 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    (0..clients).map(|_| tokio::spawn(client())).collect()
}

/// The limit that the filter exports.
async fn found(stage: &Stage) -> f64 {
    let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
    sample(&text, "tidegate_concurrency_limit", &[("limit", "origin")]).unwrap_or_default() as f64
}

/// Waits until the limit is within a fifth of the origin's capacity, on average over five seconds.
async fn assert_finds(stage: &Stage, capacity: usize) {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut seen = Vec::new();
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        seen.push(found(stage).await);
        let last = &seen[seen.len().saturating_sub(10)..];
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        if last.len() == 10 && !last.contains(&0.0) && (mean / capacity as f64 - 1.0).abs() <= 0.2 {
            println!("{capacity}: {seen:?}");
            return;
        }
        assert!(Instant::now() < deadline, "{capacity} is not found: {seen:?}");
    }
}

/// From now on the origin works on this many requests at once, and queues others.
fn carries(stage: &Stage, capacity: usize) {
    let (latency, queue_timeout) = (Duration::from_millis(40), Duration::from_secs(10));
    stage.origin.set(Settings { capacity, latency, queue: 1_000, queue_timeout, ..stage.origin.settings() });
}

#[tokio::test]
async fn what_the_origin_can_carry_is_found_and_followed() {
    let limit = json!({
        "name": "origin", "key": [], "algorithm": "concurrency", "quota": { "adaptive": { "min": 2, "max": 200 } },
    });
    let stage = Stage::start(&policy([limit])).await;
    carries(&stage, 32);
    let clients = press(stage.http, 80).await;
    assert_finds(&stage, 32).await;
    carries(&stage, 12);
    assert_finds(&stage, 12).await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    stage.end().await;
}

#[tokio::test]
async fn what_the_origin_can_carry_is_found_while_nobody_is_held_back() {
    let limit = json!({
        "name": "origin", "key": [], "algorithm": "concurrency", "on_exceed": "observe",
        "quota": { "adaptive": { "min": 2, "max": 200 } },
    });
    let stage = Stage::start(&policy([limit])).await;
    carries(&stage, 32);
    // Stands for some hours of low load, which show the latency without a queue.
    let mut clients = press(stage.http, 8).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    clients.extend(press(stage.http, 72).await);
    assert_finds(&stage, 32).await;
    carries(&stage, 12);
    assert_finds(&stage, 12).await;
    let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
    let in_flight = sample(&text, "tidegate_concurrency_in_flight", &[("limit", "origin")]).unwrap_or_default();
    assert!((60..=80).contains(&in_flight), "all that the origin has are counted: {in_flight}");
    let refused = sample(&text, "tidegate_requests_total", &[("limit", "origin"), ("decision", "refused")]);
    assert_eq!(refused.unwrap_or_default(), 0, "nobody is refused");
    clients.iter().for_each(tokio::task::JoinHandle::abort);
    stage.end().await;
}

#[tokio::test]
async fn requests_with_a_body_are_timed_from_its_end() {
    let limit = json!({
        "name": "origin", "key": [], "algorithm": "concurrency", "quota": { "adaptive": { "min": 2, "max": 30 } },
    });
    let stage = Stage::start(&policy([limit])).await;
    stage.origin.set(Settings { latency: Duration::from_millis(20), ..stage.origin.settings() });
    let clients = (0..16).map(|_| {
        let to = stage.http;
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            let request = Request::post("/", b"body".to_vec()).bytes();
            // The head first, the body later: the client is responsible for the time between them.
            let (head, body) = request.split_at(request.len() - 4);
            for _ in 0..40 {
                connection.write(head).await.unwrap();
                tokio::time::sleep(Duration::from_millis(30)).await;
                connection.write(body).await.unwrap();
                assert_eq!(connection.answer("POST").await.unwrap().status, 200);
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    // Without upstream times there would be no samples, and the limit would stay at its initial 20.
    super::stage::eventually("the limit has grown", || async { found(&stage).await == 30.0 }).await;
    stage.end().await;
}
