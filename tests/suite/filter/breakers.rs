//! Breakers in the real Envoy: over all workers, across policies, under load.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chain::{route, stage};
use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good};
use super::metrics::{assert_shows, sample};
use super::reload::in_force;
use super::stage::{Stage, eventually, limit, policy, shipped};

/// A policy with one route, along the upstream `fickle`, whose breaker opens after ten failures, and a static response.
fn breaking(fields: Value) -> Value {
    let mut policy = policy([]);
    let mut pattern = json!({
        "window": { "time": "60s" }, "min_calls": 1000, "consecutive_failures": 10,
        "open": { "initial": "1s", "jitter_percent": 0 }, "half_open": { "probes": 3 },
    });
    for (name, value) in fields.as_object().unwrap() {
        pattern[name] = value.clone();
    }
    policy["breakers"] = json!({ "pattern": pattern });
    policy["upstreams"] = json!({ "fickle": { "cluster": "fickle", "breaker": "pattern" } });
    let mut only = route("only", &["fickle"]);
    only["fallback"]["static"] = json!({ "status": 503, "body": "static" });
    policy["routes"] = json!([only]);
    policy["response"] = json!({ "x_tidegate": true });
    policy
}

fn busy() -> Does {
    Does::Answers(answer(503, "", "busy"))
}

fn request() -> Request {
    Request::get("/only/")
}

/// The breaker's state, as the response reports it.
fn state(told: &str) -> &str {
    told.split("fickle:").nth(1).unwrap_or_else(|| panic!("{told:?}"))
}

/// This many connections, so that each worker gets some.
async fn connections(stage: &Stage, count: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(Connection::open(stage.http).await.unwrap());
    }
    connections
}

/// The responses that clients have got.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    well: u64,
    /// The static response, because the upstream has failed or was not asked.
    fixed: u64,
}

impl Seen {
    /// Sends a request; returns the breaker's state at that time.
    async fn ask(&mut self, connection: &mut Connection) -> String {
        let answer = connection.send(&request()).await.unwrap();
        match (answer.status, answer.text().as_str()) {
            (200, "well") => self.well += 1,
            (503, "static") => self.fixed += 1,
            _ => panic!("{answer:?}"),
        }
        state(&answer.header("x-tidegate")).to_owned()
    }
}

/// Makes enough requests fail to open the breaker, and waits until all workers know.
async fn open(connections: &mut [Connection], fickle: &Upstream) -> Seen {
    fickle.set(busy());
    let mut seen = Seen::default();
    // One after the other: a worker with a late tick may merge an earlier success, or not know of the opening.
    for connection in connections {
        eventually("the breaker is open", async || seen.ask(connection).await == "open").await;
    }
    seen
}

#[tokio::test]
async fn breaker_opens_for_all_workers_and_one_set_of_probes_closes_it() {
    let fickle = Upstream::start(good("well")).await;
    let fields = json!({ "open": { "initial": "5s", "jitter_percent": 0 } });
    let stage = stage(&breaking(fields), &[("fickle", fickle.address)]).await;
    let mut connections = connections(&stage, 16).await;
    for connection in &mut connections {
        assert_eq!(connection.send(&request()).await.unwrap().text(), "well");
    }
    let seen = open(&mut connections, &fickle).await;
    let opened = Instant::now();
    let before = fickle.requests();
    let failed = before - 16;
    assert!(seen.well == 0 && (10..=seen.fixed).contains(&failed), "{failed} {seen:?}");
    for connection in &mut connections {
        let refused = connection.send(&request()).await.unwrap();
        assert_eq!((refused.status, refused.text().as_str()), (503, "static"), "{refused:?}");
        assert_eq!(refused.header("x-tidegate"), "step=static; breakers=fickle:open");
    }
    assert_eq!(fickle.requests(), before, "an open breaker asks nobody");
    assert_shows(&stage, "tidegate_breaker_state", &[("breaker", "fickle")], 3).await;

    tokio::time::sleep(Duration::from_millis(5_100).saturating_sub(opened.elapsed())).await;
    // Longer than it takes until all have asked.
    fickle.set(Does::AnswersAfter(Duration::from_secs(2), answer(200, "", "well")));
    let asked: Vec<_> = connections
        .into_iter()
        .map(|mut connection| tokio::spawn(async move { connection.send(&request()).await.unwrap().text() }))
        .collect();
    let mut texts = Vec::new();
    for asked in asked {
        texts.push(asked.await.unwrap());
    }
    let probes = texts.iter().filter(|text| *text == "well").count();
    assert_eq!((probes, fickle.requests() - before), (3, 3), "{texts:?}");

    fickle.set(good("well"));
    let closed = "upstream=fickle; step=first; breakers=fickle:closed";
    let mut rejected = seen.fixed - failed + 16 + 13;
    for mut connection in self::connections(&stage, 16).await {
        eventually("the worker knows that it is closed", async || {
            let told = connection.send(&request()).await.unwrap().header("x-tidegate");
            rejected += u64::from(told.starts_with("step=static"));
            told == closed
        })
        .await;
    }
    for (name, value) in [("opened", 1), ("probes", 3), ("rejected", rejected)] {
        assert_shows(&stage, &format!("tidegate_breaker_{name}_total"), &[("breaker", "fickle")], value).await;
    }
    assert_shows(&stage, "tidegate_breaker_state", &[("breaker", "fickle")], 0).await;
    // Calls that were in flight when their worker learned of the opening do not count.
    let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
    let failures = sample(&text, "tidegate_breaker_failures_total", &[("breaker", "fickle")]);
    assert!(failures.is_some_and(|failures| (10..=failed).contains(&failures)), "{failures:?} of {failed}");
    stage.end().await;
}

#[tokio::test]
async fn ramp_admits_a_share_that_grows_in_a_straight_line() {
    let fickle = Upstream::start(good("well")).await;
    let over = 4.0;
    let fields = json!({
        "half_open": { "probes": 1 }, "ramp": { "from_percent": 10, "over": "4s" },
        "open": { "initial": "500ms", "jitter_percent": 0 },
    });
    let stage = stage(&breaking(fields), &[("fickle", fickle.address)]).await;
    let mut connections = connections(&stage, 8).await;
    open(&mut connections[..1], &fickle).await;
    fickle.set(good("well"));
    let mut seen = Seen::default();
    eventually("the probe has closed it", async || seen.ask(&mut connections[0]).await == "ramping").await;
    let closed = Instant::now();
    assert_eq!(seen.well, 1);
    // For each eighth of the ramp: the admitted requests, their expected number, its variance, and all requests.
    let mut eighths = [(0.0, 0.0, 0.0, 0.0); 8];
    while closed.elapsed() < Duration::from_millis(3_900) {
        for connection in &mut connections {
            let place = closed.elapsed().as_secs_f64() / over;
            let share = 0.1 + 0.9 * place;
            let admitted = connection.send(&request()).await.unwrap().text() == "well";
            if let Some((count, expected, variance, requests)) = eighths.get_mut((place * 8.0) as usize) {
                *count += f64::from(u8::from(admitted));
                *expected += share;
                *variance += share * (1.0 - share);
                *requests += 1.0;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut sum = (0.0, 0.0, 0.0);
    // Reading the time may be late by up to 20 ms on a slow machine: half a percent of the ramp.
    let late = |requests: f64| 0.005 * requests;
    let mut sent = 0.0;
    for (place, (count, expected, variance, requests)) in eighths.into_iter().enumerate() {
        // One of the eight is off by more than three standard deviations in one of fifty runs.
        let off: f64 = (count - expected).abs() - late(requests);
        assert!(off <= 4.0 * variance.sqrt(), "in eighth {place}: {count}, and not {expected}");
        assert!(expected > 10.0, "too few requests to tell: {eighths:?}");
        sum = (sum.0 + count, sum.1 + expected, sum.2 + variance);
        sent += requests;
    }
    let (count, expected, variance) = sum;
    assert!((count - expected).abs() - late(sent) <= 3.0 * variance.sqrt(), "{count}, and not {expected}");
    stage.end().await;
}

#[tokio::test]
async fn breaker_that_opens_under_two_thousand_requests_a_second_loses_none() {
    let fickle = Upstream::start(good("well")).await;
    let stage = stage(&breaking(json!({ "open": { "initial": "1m" } })), &[("fickle", fickle.address)]).await;
    let to = stage.http;
    let began = Instant::now();
    // Forty clients that send one request per 20 ms each, whatever the response. A late client sends the next one at
    // once.
    let clients: Vec<_> = (0..40_u32)
        .map(|client| {
            tokio::spawn(async move {
                let mut connection = Connection::open(to).await.unwrap();
                let mut seen = Seen::default();
                for turn in 0..150 {
                    let due = Duration::from_micros(u64::from(client) * 500) + Duration::from_millis(20) * turn;
                    tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
                    // A lost request, or any response but the three expected ones, fails here.
                    seen.ask(&mut connection).await;
                }
                seen
            })
        })
        .collect();
    eventually("a thousand are served", || async { fickle.requests() > 1_000 }).await;
    fickle.set(busy());
    let mut sum = Seen::default();
    for client in clients {
        let Seen { well, fixed } = client.await.unwrap();
        sum = Seen { well: sum.well + well, fixed: sum.fixed + fixed };
    }
    let took = began.elapsed();
    assert_eq!(sum.well + sum.fixed, 6_000, "{sum:?}");
    // What two workers admit until both know of the opening: ten failures, and what arrives within 200 ms, with room
    // for late ticks on a busy machine. No request is sent twice.
    let failed = fickle.requests() - sum.well;
    assert!((10..1_500).contains(&failed) && sum.fixed > failed + 1_000, "{failed} {sum:?}");
    assert!(took < Duration::from_secs(6), "the load was far below 2,000 a second: {took:?}");
    assert_shows(&stage, "tidegate_breaker_rejected_total", &[("breaker", "fickle")], sum.fixed - failed).await;
    stage.end().await;
}

#[tokio::test]
async fn new_policy_finds_each_breaker_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let fickle = Upstream::start(good("well")).await;
    let fields = |open: &str| {
        json!({
            "open": { "initial": open, "max": open, "jitter_percent": 0 }, "half_open": { "probes": 2 },
            "ramp": { "from_percent": 50, "over": "1h" },
        })
    };
    let policy = |open: &str, revision: u32| {
        let mut policy = breaking(fields(open));
        policy["limits"] = json!([limit("load", "/load", &["address"], revision)]);
        policy
    };
    let bootstrap = |bootstrap: crate::bootstrap::Bootstrap| {
        bootstrap.with_cluster("fickle", fickle.address).unwrap().filter_from(&file).unwrap()
    };
    let stage = Stage::with(&policy("1h", 100), bootstrap).await;
    let mut revision = 100;
    let mut reload = async |open: &str| {
        revision += 1;
        shipped(&policy(open, revision)).publish_filter(&file).unwrap();
        in_force(&stage, revision).await;
    };
    let told = async || state(&stage.ask(&request()).await.header("x-tidegate")).to_owned();

    assert_eq!(told().await, "closed");
    reload("1h").await;
    assert_eq!(told().await, "closed");
    open(&mut connections(&stage, 8).await, &fickle).await;
    fickle.set(good("well"));
    reload("1h").await;
    // Each on a new connection, so that both workers get some.
    for _ in 0..8 {
        assert_eq!(told().await, "open");
    }
    // This policy keeps breakers open for less, also one that is already open.
    reload("100ms").await;
    eventually("the first of two probes has succeeded", async || match told().await.as_str() {
        "open" => false,
        state => {
            assert_eq!(state, "half-open");
            true
        }
    })
    .await;
    reload("100ms").await;
    assert_eq!(told().await, "ramping", "the second, which a new policy knows to be the last");
    reload("100ms").await;
    for _ in 0..8 {
        assert_eq!(told().await, "ramping");
    }
    stage.assert_no_vm_failed().await;
}
