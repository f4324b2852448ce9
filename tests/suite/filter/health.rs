//! A service that fails, is slow or reports load: how the filter rates it, and which requests it sheds.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Connection, Request};
use super::http2;
use super::metrics::{assert_shows, sample};
use super::stage::{Stage, eventually, limit, policy};
use crate::origin::Settings;

/// The address of the client that may see the status pages.
const OPERATOR: &str = "10.0.0.1";

fn watching(health: Value) -> Value {
    let priority = |name: &str, priority: &str| {
        let mut limit = limit(name, &format!("/{name}/**"), &["address"], 10_000);
        limit["priority"] = json!(priority);
        limit
    };
    let mut policy = policy([priority("bulk", "low"), priority("pay", "critical")]);
    policy["health"] = health;
    policy["shedding"] = json!({ "rise": "100ms", "fall": "2s", "retry_after": "4s" });
    policy["status"] = json!({ "addresses": [OPERATOR] });
    policy
}

async fn page(connection: &mut Connection, name: &str) -> (u16, Value) {
    let request = Request::get(format!("/tidegate/{name}")).from(OPERATOR);
    let answer = connection.send(&request).await.unwrap();
    (answer.status, answer.json())
}

/// Sends high-priority requests until the service is in this state.
///
/// Returns the connection to the worker that has found the state.
async fn until(stage: &Stage, state: &str) -> Connection {
    let mut connection = Connection::open(stage.http).await.unwrap();
    eventually(&format!("the service is {state}"), async || {
        for _ in 0..10 {
            let answer = connection.send(&Request::get("/pay/1").from("192.0.2.1")).await.unwrap();
            assert!(answer.header("x-shed").is_empty() && answer.status != 503, "never shed: {answer:?}");
        }
        page(&mut connection, "health").await.1["health"] == state
    })
    .await;
    connection
}

async fn shed_of(stage: &Stage, priority: &str) -> Option<u64> {
    let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
    sample(&text, "tidegate_shed_total", &[("priority", priority)])
}

#[tokio::test]
async fn a_failing_service_is_spared_of_what_matters_least_until_it_is_well() {
    let health = json!({ "window": "2s", "min_calls": 10, "recovery": { "calm": "1s" } });
    let stage = Stage::with(&watching(health), |bootstrap| bootstrap.downstream_protocol_upstream().unwrap()).await;
    until(&stage, "healthy").await;
    let bulk = Request::get("/bulk/1").from("192.0.2.2");
    assert_eq!(stage.ask(&bulk).await.status, 200);

    stage.origin.set(Settings { failure_basis_points: 10_000, ..stage.origin.settings() });
    until(&stage, "critical").await;
    let mut connection = http2::Connection::open(stage.http).await;
    eventually("all bulk requests are shed", async || {
        let mut shed = 0;
        for _ in 0..20 {
            connection.send(&Request::get("/pay/1").from("192.0.2.1")).await;
            shed += usize::from(connection.send(&bulk).await.status == 503);
        }
        shed == 20
    })
    .await;
    let answer = connection.send(&bulk).await;
    assert_eq!((answer.status, answer.header("ratelimit")), (503, String::new()), "{answer:?}");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((2..=6).contains(&wait), "{wait}");
    assert_eq!(answer.json(), json!({ "error": "the service is overloaded", "retryAfter": wait }));
    let call = connection.call(&bulk).await;
    assert_eq!((call.trailers_only, &call.headers["grpc-status"]), (true, &"14".parse().unwrap()));
    assert!(stage.envoy.access_logged("GET /bulk/1 503 tidegate_shed").await, "{}", stage.envoy.access_log());
    assert_eq!(connection.send(&Request::get("/pay/1").from("192.0.2.1")).await.status, 500, "never shed");
    assert_shows(&stage, "tidegate_health", &[], 2).await;
    eventually("what was shed is counted", async || shed_of(&stage, "low").await > Some(1)).await;

    stage.origin.set(Settings { failure_basis_points: 0, ..stage.origin.settings() });
    until(&stage, "healthy").await;
    eventually("bulk requests are let through again", async || {
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(connection.send(&bulk).await.status);
        }
        statuses.iter().all(|status| *status == 200)
    })
    .await;
    assert_shows(&stage, "tidegate_health", &[], 0).await;
    assert_eq!(shed_of(&stage, "high").await, Some(0));
    stage.end().await;
}

#[tokio::test]
async fn a_slow_service_is_degraded_and_one_that_nobody_waits_for_as_well() {
    let latency = json!({ "quantile_percent": 50, "degraded": "100ms", "critical": "20s" });
    let stage = Stage::start(&watching(json!({ "window": "2s", "min_calls": 5, "latency": latency }))).await;
    let mut operator = until(&stage, "healthy").await;
    assert_eq!(page(&mut operator, "health").await, (200, json!({ "health": "healthy" })));
    stage.origin.set(Settings { latency: Duration::from_millis(150), ..stage.origin.settings() });
    let mut operator = until(&stage, "degraded").await;
    let (_, status) = page(&mut operator, "status").await;
    let p50 = status["health"]["latency_ms"]["p50"].as_u64().unwrap();
    assert!((140..5_000).contains(&p50), "{status}");

    // The origin no longer responds, and clients go away.
    stage.origin.set(Settings { latency: Duration::ZERO, ..stage.origin.settings() });
    until(&stage, "healthy").await;
    stage.origin.set(Settings { latency: Duration::from_secs(60), ..stage.origin.settings() });
    eventually("the service is degraded by those who gave up", async || {
        let mut gone = Vec::new();
        for _ in 0..10 {
            let mut connection = Connection::open(stage.http).await.unwrap();
            connection.write(&Request::get("/pay/1").from("192.0.2.1").bytes()).await.unwrap();
            gone.push(connection);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(gone);
        page(&mut operator, "health").await.1["health"] == "degraded"
    })
    .await;
    stage.end().await;
}

#[tokio::test]
async fn load_that_the_service_reports_counts_and_broken_reports_do_not() {
    let reports = |path: &str, report: &str| {
        json!({ "match": { "prefix": path }, "route": { "cluster": "origin" },
                "response_headers_to_add": [{ "header": { "key": "endpoint-load-metrics", "value": report } }] })
    };
    let routes = json!([
        reports("/broken", "JSON {\"cpu_utilization\": 9, "),
        reports("/", "TEXT cpu_utilization=0.97,mem_utilization=0.5,rps_fractional=10"),
    ]);
    let orca = json!({ "cpu_percent": { "degraded": 80, "critical": 95 } });
    let policy = watching(json!({ "window": "2s", "min_calls": 10, "orca": orca }));
    let stage = Stage::with(&policy, |bootstrap| {
        let hosts = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts";
        bootstrap.set(&format!("{hosts}/0/routes"), routes).unwrap()
    })
    .await;
    let mut operator = Connection::open(stage.http).await.unwrap();
    eventually("broken reports have come to the status page", async || {
        for _ in 0..20 {
            operator.send(&Request::get("/broken").from("192.0.2.1")).await.unwrap();
        }
        page(&mut operator, "status").await.1["health"]["calls"].as_u64() > Some(20)
    })
    .await;
    let (_, status) = page(&mut operator, "status").await;
    assert_eq!((&status["health"]["state"], &status["health"]["load_millionths"]), (&json!("healthy"), &json!({})));
    let mut operator = until(&stage, "critical").await;
    let (_, status) = page(&mut operator, "status").await;
    assert_eq!(status["health"]["load_millionths"], json!({ "cpu_utilization": 970_000, "mem_utilization": 500_000 }));
    stage.end().await;
}

#[tokio::test]
async fn workers_agree_within_a_tick() {
    let stage = Stage::start(&watching(json!({ "window": "10s", "min_calls": 10 }))).await;
    // Enough connections that both workers get some.
    let mut operators = Vec::new();
    for _ in 0..12 {
        operators.push(Connection::open(stage.http).await.unwrap());
    }
    stage.origin.set(Settings { failure_basis_points: 10_000, ..stage.origin.settings() });
    // One worker sees all failures.
    let mut connection = Connection::open(stage.http).await.unwrap();
    for _ in 0..40 {
        connection.send(&Request::get("/pay/1").from("192.0.2.1")).await.unwrap();
    }
    let (mut first, mut apart) = (None, Duration::ZERO);
    eventually("all workers find the service critical", async || {
        let mut critical = 0;
        for operator in &mut operators {
            let (status, _) = page(operator, "health").await;
            critical += usize::from(status == 503);
        }
        if critical > 0 {
            apart = first.get_or_insert_with(Instant::now).elapsed();
        }
        critical == operators.len()
    })
    .await;
    // A tick is one second; the other second is for a busy machine.
    assert!(apart < Duration::from_secs(2), "{apart:?}");
    stage.end().await;
}
