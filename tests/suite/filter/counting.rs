//! One limit over all workers: over 64 connections and two workers, exactly the quota is admitted.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::client::{Connection, Request};
use super::stage::{Stage, limit, policy};

/// The results of a storm of requests.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    admitted: usize,
    refused: usize,
}

/// Sends `each` requests on each of 64 connections, all connections at once.
async fn storm(stage: &Stage, request: &Request, each: usize) -> Outcome {
    let clients = (0..CONNECTIONS).map(|_| {
        let (to, requests) = (stage.http, vec![request.clone(); each]);
        tokio::spawn(async move {
            let mut connection = Connection::open(to).await.unwrap();
            let mut answers = Vec::new();
            for request in &requests {
                answers.push(connection.send(request).await.unwrap());
            }
            answers
        })
    });
    let mut outcome = Outcome { admitted: 0, refused: 0 };
    for client in clients.collect::<Vec<_>>() {
        for answer in client.await.unwrap() {
            match answer.status {
                200 => outcome.admitted += 1,
                429 => outcome.refused += 1,
                _ => panic!("{answer:?}"),
            }
        }
    }
    assert_both_workers_served(stage).await;
    outcome
}

/// Otherwise the counts below would not show that workers count together.
async fn assert_both_workers_served(stage: &Stage) {
    let stats = stage.envoy.stats().await.unwrap();
    let served = |(name, connections): (&String, &u64)| {
        (name.contains(".worker_") && name.ends_with(".downstream_cx_total")).then_some(*connections)
    };
    let served: Vec<u64> = stats.iter().filter_map(served).collect();
    assert!(served.len() == 2 && served.iter().all(|connections| *connections > 0), "{served:?}");
}

/// A limit with a window of a day; waits if the day would end during the test.
async fn daily(algorithm: &str, permits: usize) -> Value {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % DAY.as_secs();
    let left = DAY - Duration::from_secs(today);
    if left < Duration::from_secs(60) {
        tokio::time::sleep(left).await;
    }
    json!({
        "name": "all", "key": ["address"], "algorithm": algorithm, "quota": { "permits": permits, "window": "1d" },
    })
}

#[tokio::test]
async fn token_bucket_admits_exactly_its_burst_over_all_workers() {
    let stage = Stage::start(&policy([limit("all", "/**", &["address"], N as u32)])).await;
    let request = Request::get("/").from("192.0.2.1");
    assert_eq!(storm(&stage, &request, EACH).await, Outcome { admitted: N, refused: CONNECTIONS * EACH - N });
    // Another client is not affected.
    assert_eq!(stage.admitted(&Request::get("/").from("192.0.2.2"), 3).await, 3);
    assert_eq!(stage.origin.stats().received, N as u64 + 3, "the origin is spared what was refused");
    stage.end().await;
}

#[tokio::test]
async fn fixed_and_sliding_window_admit_exactly_their_quota_over_all_workers() {
    for algorithm in ["fixed-window", "sliding-window"] {
        let stage = Stage::start(&policy([daily(algorithm, N).await])).await;
        let outcome = storm(&stage, &Request::get("/").from("192.0.2.1"), EACH).await;
        assert_eq!(outcome, Outcome { admitted: N, refused: CONNECTIONS * EACH - N }, "{algorithm}");
        stage.end().await;
    }
}

#[tokio::test]
async fn of_two_limits_neither_is_charged_for_what_the_other_refuses_over_all_workers() {
    let stage = Stage::start(&policy([
        limit("wide", "/**", &["address"], N as u32),
        limit("narrow", "/narrow", &["address"], 500),
    ]))
    .await;
    let narrow = storm(&stage, &Request::get("/narrow").from("192.0.2.1"), EACH).await;
    assert_eq!(narrow.admitted, 500);
    // Requests that the narrow limit refused were not charged to the wide one.
    let wide = storm(&stage, &Request::get("/other").from("192.0.2.1"), EACH).await;
    assert_eq!(wide.admitted, N - 500);
    stage.end().await;
}

#[tokio::test]
async fn what_a_worker_holds_for_a_busy_client_comes_back_when_it_is_not_used() {
    let stage = Stage::start(&policy([daily("sliding-window", N).await])).await;
    let request = Request::get("/").from("192.0.2.1");
    let mut left = N - stage.admitted(&request, 300).await;
    assert_eq!(left, N - 300);
    // Both workers get requests, slowly enough that neither draws permits ahead.
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(Connection::open(stage.http).await.unwrap());
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut exact = true;
        for connection in &mut connections {
            let answer = connection.send(&request).await.unwrap();
            left -= 1;
            exact &= answer.header("ratelimit").contains(&format!(";r={left};"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if exact {
            break;
        }
        assert!(Instant::now() < deadline, "permits are missing");
    }
    assert_both_workers_served(&stage).await;
    stage.end().await;
}

const CONNECTIONS: usize = 64;
const EACH: usize = 50;
/// Enough requests that workers sometimes conflict at the page: only then could a permit be granted twice.
const N: usize = 2_000;
