//! A new policy in a running Envoy: no request is lost, and counts stay.
//!
//! There are two ways. ECDS (`config_discovery` in place of the filter's `typed_config`) replaces only the filter: no
//! connection notices, and a request in flight ends under its old policy. LDS replaces the listener's filter chain:
//! Envoy asks every client to reconnect (`connection: close`; 16 clients that did lost none of 500,000 requests over
//! four updates), and after `--drain-time-s` it resets what is still in flight. We therefore recommend ECDS.
//!
//! ECDS needs a `default_config`: the policy of the bootstrap itself. Without it, Envoy starts whatever the file
//! contains, `--mode validate` finds nothing wrong, and while the file is bad every request gets 500. With it, a bad
//! policy in the bootstrap keeps Envoy from starting, and a bad one in the file leaves that of the bootstrap in force.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::bad_policy::{assert_says_all, bad};
use super::client::{Connection, Request};
use super::metrics::assert_shows;
use super::stage::{Stage, eventually, limit, policy, shipped};
use crate::envoy::Envoy;

/// Clients that send requests without a pause until they are stopped, and their results.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Tally>>,
}

/// The results of one client.
#[derive(Debug, Default)]
struct Tally {
    answered: usize,
    /// Responses that are neither an admission nor a refusal by a limit.
    lost: Vec<String>,
    /// How often Envoy asked the client to reconnect.
    moved: usize,
}

impl Load {
    fn start(stage: &Stage) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..16).map(|_| tokio::spawn(client(stage.http, Arc::clone(&stop)))).collect();
        Self { stop, clients }
    }

    async fn end(self) -> Tally {
        self.stop.store(true, Relaxed);
        let mut sum = Tally::default();
        for client in self.clients {
            let tally = client.await.unwrap();
            sum.answered += tally.answered;
            sum.moved += tally.moved;
            sum.lost.extend(tally.lost);
        }
        sum
    }
}

async fn client(to: std::net::SocketAddr, stop: Arc<AtomicBool>) -> Tally {
    let mut tally = Tally::default();
    let mut connection = Connection::open(to).await.unwrap();
    while !stop.load(Relaxed) {
        let moved = match connection.send(&Request::get("/load").from("192.0.2.99")).await {
            Ok(answer) if matches!(answer.status, 200 | 429) => {
                tally.answered += 1;
                answer.header("connection") == "close"
            }
            Ok(answer) => {
                tally.lost.push(format!("{answer:?}"));
                false
            }
            Err(error) => {
                tally.lost.push(error.to_string());
                true
            }
        };
        if moved {
            tally.moved += 1;
            connection = Connection::open(to).await.unwrap();
        }
    }
    tally
}

/// A policy with this many permits for `/load`, which identify it, and three for `/api`.
pub fn version(permits: u32) -> Value {
    policy([limit("load", "/load", &["address"], permits), limit("api", "/api", &["address"], 3)])
}

/// An Envoy that reads its filter from this file.
pub async fn stage_from(file: &Path, policy: &Value) -> Stage {
    Stage::with(policy, |bootstrap| bootstrap.filter_from(file).unwrap()).await
}

/// Waits until every worker has the policy with this many permits for `/load`.
pub async fn in_force(stage: &Stage, permits: u32) {
    eventually(&format!("the version with {permits}"), || async {
        let quota = format!("\"load\";q={permits};");
        // The kernel distributes connections over the two workers at random: that all 16 go to the same one has a
        // probability of less than 1 in 30,000.
        for _ in 0..16 {
            let answer = stage.ask(&Request::get("/load").from("192.0.2.98")).await;
            if !answer.header("ratelimit-policy").starts_with(&quota) {
                return false;
            }
        }
        true
    })
    .await;
}

async fn put_in_force(stage: &Stage, file: &Path, permits: u32) {
    shipped(&version(permits)).publish_filter(file).unwrap();
    in_force(stage, permits).await;
}

#[tokio::test]
async fn new_policies_under_load_lose_no_request_no_connection_and_no_count() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let stage = stage_from(&file, &version(100)).await;
    let greedy = Request::get("/api").from("192.0.2.1");
    assert_eq!(stage.admitted(&greedy, 4).await, 3);
    let mut idle = Connection::open(stage.http).await.unwrap();
    assert_eq!(idle.send(&Request::get("/")).await.unwrap().status, 200);
    // A request of which only half has arrived when the policies change.
    let mut slow = Connection::open(stage.http).await.unwrap();
    let upload = Request::post("/upload", vec![7; 100_000]).bytes();
    let (first, rest) = upload.split_at(50_000);
    slow.write(first).await.unwrap();

    let load = Load::start(&stage);
    for permits in [200, 300, 400, 500] {
        put_in_force(&stage, &file, permits).await;
        assert_eq!(stage.admitted(&greedy, 4).await, 0, "used up before is used up after");
    }
    let tally = load.end().await;
    assert_eq!((tally.lost, tally.moved), (Vec::<String>::new(), 0));
    assert!(tally.answered > 100, "{}", tally.answered);
    assert_eq!(idle.send(&Request::get("/")).await.unwrap().status, 200);
    slow.write(rest).await.unwrap();
    assert_eq!(slow.answer("POST").await.unwrap().json()["body_bytes"], 100_000);
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn new_quota_counts_what_was_used_under_the_old_one_and_a_new_name_key_or_algorithm_starts_afresh() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let mut policy = version(100);
    policy["limits"][1]["algorithm"] = json!("fixed-window");
    let stage = stage_from(&file, &policy).await;
    let client = Request::get("/api").from("192.0.2.1");
    assert_eq!(stage.admitted(&client, 5).await, 3);

    // How the limit changes, and how many requests then pass.
    let changes = [
        ("quota", json!({ "permits": 5, "window": "31d" }), 2),
        ("name", json!("api-2"), 5),
        ("key", json!(["address", "path"]), 5),
        ("algorithm", json!("sliding-window"), 5),
    ];
    for ((field, value, left), permits) in changes.into_iter().zip([200, 300, 400, 500]) {
        policy["limits"][1][field] = value;
        policy["limits"][0]["quota"]["permits"] = json!(permits);
        shipped(&policy).publish_filter(&file).unwrap();
        in_force(&stage, permits).await;
        assert_eq!(stage.admitted(&client, 6).await, left, "{policy}");
    }
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn new_policy_loses_nothing_that_was_to_be_shown_in_statistics() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let stage = stage_from(&file, &version(100)).await;
    let client = Request::get("/api").from("192.0.2.1");
    for permits in [200, 300, 400] {
        // The next policy most likely comes before these counts are exported, which happens once per second.
        stage.admitted(&client, 4).await;
        put_in_force(&stage, &file, permits).await;
    }
    for (decision, count) in [("admitted", 3), ("refused", 9)] {
        let labels = [("limit", "api"), ("decision", decision), ("tier", "default")];
        assert_shows(&stage, "tidegate_requests_total", &labels, count).await;
    }
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn bad_policy_under_load_changes_nothing_and_the_log_says_every_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let stage = stage_from(&file, &version(100)).await;
    let greedy = Request::get("/api").from("192.0.2.1");
    assert_eq!(stage.admitted(&greedy, 4).await, 3);
    put_in_force(&stage, &file, 200).await;
    let load = Load::start(&stage);
    let (bad, places) = bad();
    shipped(&bad).publish_filter(&file).unwrap();
    assert!(stage.envoy.logged("tidegate: policy error: /limits/3/quota").await, "{}", stage.envoy.log());
    assert_says_all(&stage.envoy.log(), &places);
    assert_eq!(stage.admitted(&greedy, 4).await, 0);
    // The last good policy, and not the one that Envoy started with.
    in_force(&stage, 200).await;
    put_in_force(&stage, &file, 300).await;
    let tally = load.end().await;
    assert_eq!((tally.lost, tally.moved), (Vec::<String>::new(), 0));
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn new_policy_with_a_new_listener_keeps_the_counts_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("listeners.json");
    let stage = Stage::with(&version(100), |bootstrap| bootstrap.listeners_from(&file).unwrap()).await;
    let greedy = Request::get("/api").from("192.0.2.1");
    assert_eq!(stage.admitted(&greedy, 4).await, 3);
    shipped(&version(200)).upstream(stage.origin.addr).unwrap().publish_listeners(&file).unwrap();
    in_force(&stage, 200).await;
    assert_eq!(stage.admitted(&greedy, 4).await, 0);
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn bad_policy_in_the_file_at_start_leaves_the_one_of_the_bootstrap_in_force_which_must_be_good() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let (bad, places) = bad();
    let stage = Stage::with(&version(100), |bootstrap| {
        let bootstrap = bootstrap.filter_from(&file).unwrap();
        shipped(&bad).publish_filter(&file).unwrap();
        bootstrap
    })
    .await;
    in_force(&stage, 100).await;
    assert_says_all(&stage.envoy.log(), &places);
    put_in_force(&stage, &file, 200).await;

    let bootstrap = shipped(&bad).filter_from(&file).unwrap();
    shipped(&version(100)).publish_filter(&file).unwrap();
    let error = Envoy::validate(&bootstrap.text()).await.unwrap_err();
    assert_says_all(&error.to_string(), &places);
}
