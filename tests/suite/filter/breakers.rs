//! Breakers in the real Envoy: over all workers, across policies, under load.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::chain::{route, stage};
use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good};
use super::metrics::assert_shows;
use super::stage::{Stage, eventually, policy, shipped};

/// A policy with one route, along the upstream `fickle`, whose breaker opens after ten failures, and a static answer.
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

/// How the breaker stands, as an answer tells.
fn state(told: &str) -> &str {
    told.split("fickle:").nth(1).unwrap_or_else(|| panic!("{told:?}"))
}

/// So many connections, so that each worker has some.
async fn connections(stage: &Stage, count: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..count {
        connections.push(Connection::open(stage.http).await.unwrap());
    }
    connections
}

/// Fails so many requests that the breaker opens, and gives all workers the time to learn of it.
async fn open(stage: &Stage, fickle: &Upstream) {
    fickle.set(busy());
    let mut connection = Connection::open(stage.http).await.unwrap();
    let mut last = String::new();
    for _ in 0..10 {
        last = connection.send(&request()).await.unwrap().header("x-tidegate");
    }
    assert_eq!(state(&last), "open");
    tokio::time::sleep(Duration::from_millis(250)).await;
}

#[tokio::test]
async fn breaker_opens_for_all_workers_and_one_set_of_probes_closes_it() {
    let fickle = Upstream::start(good("well")).await;
    let stage = stage(&breaking(json!({})), &[("fickle", fickle.address)]).await;
    let mut connections = connections(&stage, 16).await;
    for connection in &mut connections {
        assert_eq!(connection.send(&request()).await.unwrap().text(), "well");
    }
    open(&stage, &fickle).await;
    let before = fickle.requests();
    for connection in &mut connections {
        let refused = connection.send(&request()).await.unwrap();
        assert_eq!((refused.status, refused.text().as_str()), (503, "static"), "{refused:?}");
        assert_eq!(refused.header("x-tidegate"), "step=static; breakers=fickle:open");
    }
    assert_eq!(fickle.requests(), before, "an open breaker asks nobody");
    assert_shows(&stage, "tidegate_breaker_state", &[("breaker", "fickle")], 3).await;

    // That is how long it is open.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    fickle.set(Does::AnswersAfter(Duration::from_millis(400), answer(200, "", "well")));
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
    tokio::time::sleep(Duration::from_millis(250)).await;
    for mut connection in self::connections(&stage, 16).await {
        let answer = connection.send(&request()).await.unwrap();
        assert_eq!(answer.header("x-tidegate"), "upstream=fickle; step=first; breakers=fickle:closed");
    }
    for (name, value) in [("opened", 1), ("probes", 3), ("failures", 10), ("rejected", 29)] {
        assert_shows(&stage, &format!("tidegate_breaker_{name}_total"), &[("breaker", "fickle")], value).await;
    }
    assert_shows(&stage, "tidegate_breaker_state", &[("breaker", "fickle")], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn ramp_admits_a_share_that_grows_in_a_straight_line() {
    let fickle = Upstream::start(good("well")).await;
    let over = 4.0;
    let fields = json!({
        "half_open": { "probes": 1 }, "ramp": { "from_percent": 10, "over": "4s" },
        "open": { "initial": "200ms", "jitter_percent": 0 },
    });
    let stage = stage(&breaking(fields), &[("fickle", fickle.address)]).await;
    open(&stage, &fickle).await;
    fickle.set(good("well"));
    let mut connections = connections(&stage, 8).await;
    assert_eq!(connections[0].send(&request()).await.unwrap().text(), "well", "the probe");
    let closed = Instant::now();
    tokio::time::sleep(Duration::from_millis(250)).await;
    // For each eighth of the ramp: how many were admitted, how many should have been, and the variance of that.
    let mut eighths = [(0.0, 0.0, 0.0); 8];
    while closed.elapsed() < Duration::from_millis(3_900) {
        for connection in &mut connections {
            let place = closed.elapsed().as_secs_f64() / over;
            let share = 0.1 + 0.9 * place;
            let admitted = connection.send(&request()).await.unwrap().text() == "well";
            if let Some((count, expected, variance)) = eighths.get_mut((place * 8.0) as usize) {
                *count += f64::from(u8::from(admitted));
                *expected += share;
                *variance += share * (1.0 - share);
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for (place, (count, expected, variance)) in eighths.into_iter().enumerate() {
        // A machine may be as slow as 20 ms to take the time: half a percent of the line.
        let off: f64 = (count - expected).abs() - 0.005 * 500.0;
        assert!(off <= 3.0 * variance.sqrt(), "in eighth {place}: {count}, and not {expected}");
        assert!(expected > 10.0, "too few requests to tell: {eighths:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn breaker_that_opens_under_load_loses_no_request() {
    let fickle = Upstream::start(good("well")).await;
    let stage = stage(&breaking(json!({ "open": { "initial": "30s" } })), &[("fickle", fickle.address)]).await;
    let to = stage.http;
    let clients: Vec<_> = (0..16)
        .map(|_| {
            tokio::spawn(async move {
                let mut connection = Connection::open(to).await.unwrap();
                let (began, mut well, mut refused) = (Instant::now(), 0_u32, 0_u32);
                while began.elapsed() < Duration::from_secs(2) {
                    // One that is lost fails here.
                    match connection.send(&request()).await.unwrap() {
                        answer if answer.status == 200 => well += 1,
                        answer => {
                            assert_eq!((answer.status, answer.text().as_str()), (503, "static"));
                            refused += 1;
                        }
                    }
                }
                (well, refused)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(800)).await;
    let asked_well = fickle.requests();
    fickle.set(busy());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let asked = fickle.requests();
    let (mut well, mut refused) = (0, 0);
    for client in clients {
        let (one, other) = client.await.unwrap();
        (well, refused) = (well + one, refused + other);
    }
    assert!(well > 100 && refused > 100, "{well} and {refused}");
    assert_eq!(fickle.requests(), asked, "an open breaker asks nobody, whichever the worker");
    println!(
        "{well} were served, {refused} got the static answer, {} of them after they had been sent",
        asked - asked_well
    );
    stage.end().await;
}

#[tokio::test]
async fn new_policy_finds_each_breaker_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let fickle = Upstream::start(good("well")).await;
    let fields = json!({
        "open": { "initial": "3s", "jitter_percent": 0 }, "half_open": { "probes": 2 },
        "ramp": { "from_percent": 50, "over": "60s" },
    });
    let mut policy = breaking(fields);
    let stage = {
        let bootstrap = |bootstrap: crate::bootstrap::Bootstrap| {
            bootstrap.with_cluster("fickle", fickle.address).unwrap().filter_from(&file).unwrap()
        };
        Stage::with(&policy, bootstrap).await
    };
    let mut revision = 0;
    let mut reload = async || {
        revision += 1;
        let mark = format!("marked-{revision}");
        policy["tiers"] = json!([mark]);
        shipped(&policy).publish_filter(&file).unwrap();
        let in_force = "tidegate: policy in force";
        let before = stage.envoy.log().matches(in_force).count();
        // On the main thread and on both workers.
        eventually("the policy is in force", || async { stage.envoy.log().matches(in_force).count() >= before + 3 })
            .await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let told = async || stage.ask(&request()).await.header("x-tidegate");

    assert_eq!(state(&told().await), "closed");
    reload().await;
    assert_eq!(state(&told().await), "closed");
    open(&stage, &fickle).await;
    let opened = Instant::now();
    reload().await;
    assert_eq!(state(&told().await), "open");
    tokio::time::sleep(Duration::from_millis(3_100).saturating_sub(opened.elapsed())).await;

    fickle.set(good("well"));
    assert_eq!(state(&told().await), "half-open", "the first of two probes");
    reload().await;
    assert_eq!(state(&told().await), "ramping", "the second, which a new policy knows to be the last");
    reload().await;
    assert_eq!(state(&told().await), "ramping");
    stage.assert_no_vm_failed().await;
}
