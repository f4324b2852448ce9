//! Breakers that real Envoys share through a real Redis: all learn what one of them sees, and one of them probes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::policy::Protocol;

use super::proxy::Does as Network;
use super::stage::{Setup, Sharing};
use crate::filter::chain::route;
use crate::filter::client::{Answer, Connection, Request};
use crate::filter::failing::{Does, Upstream, answer, good};
use crate::filter::metrics::sample;
use crate::filter::stage::{Stage, eventually, policy};

pub const FAILURES: u64 = 10;
pub const PROBES: u64 = 3;

/// A route along the upstream `fickle`, with a breaker that opens after ten failures.
pub fn breaking(initial: &str, max_wait: &str) -> Value {
    json!({
        "breakers": { "pattern": {
            "scope": "global", "window": { "time": "60s" }, "min_calls": 1000, "consecutive_failures": FAILURES,
            "open": { "initial": initial, "jitter_percent": 0 }, "half_open": { "probes": PROBES, "max_wait": max_wait },
        } },
        "upstreams": { "fickle": { "cluster": "fickle", "breaker": "pattern" } },
        "routes": [route("only", &["fickle"])],
        "response": { "x_tidegate": true },
    })
}

async fn started(protocol: Protocol, fickle: &Upstream, more: Value) -> Sharing {
    let clusters = vec![("fickle", fickle.address)];
    let stage = Sharing::start(&Setup { protocol, envoys: 3, workers: 2, more, clusters, ..Setup::of([]) }).await;
    // Each has called the upstream, and received an answer of the store.
    for envoy in &stage.envoys {
        assert_eq!(ask(envoy).await, "closed");
        eventually("the store has been asked", async || counter(envoy, "tidegate_breaker_rounds_total").await > 0)
            .await;
    }
    stage
}

pub fn busy() -> Does {
    Does::Answers(answer(503, "", "busy"))
}

/// Sends a request; returns the breaker's state.
async fn ask(envoy: &Stage) -> String {
    stood(&envoy.ask(&Request::get("/only/")).await)
}

/// The breaker's state, from a response.
pub fn stood(answer: &Answer) -> String {
    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
    let told = answer.header("x-tidegate");
    told.split("fickle:").nth(1).unwrap_or_else(|| panic!("{told:?}")).to_owned()
}

async fn counter(envoy: &Stage, name: &str) -> u64 {
    envoy.envoy.stats().await.unwrap().get(&format!("wasmcustom.{name}")).copied().unwrap_or(0)
}

/// The breaker's state, from its Envoy's metrics: 0 closed, 1 ramping, 2 half-open, 3 open.
async fn gauge(envoy: &Stage) -> Option<u64> {
    let text = envoy.envoy.admin_get("/stats/prometheus").await.unwrap();
    sample(&text, "tidegate_breaker_state", &[("breaker", "fickle")])
}

/// Makes enough requests of this Envoy fail to open its breaker.
async fn open(envoy: &Stage, fickle: &Upstream) {
    fickle.set(busy());
    let mut connection = Connection::open(envoy.http).await.unwrap();
    for _ in 0..FAILURES {
        connection.send(&Request::get("/only/")).await.unwrap();
    }
    eventually("the breaker opens", async || ask(envoy).await == "open").await;
}

#[tokio::test]
async fn a_breaker_that_opens_in_one_envoy_opens_in_all_and_one_set_of_probes_closes_it_in_all() {
    for protocol in [Protocol::Webdis, Protocol::Upstash] {
        let fickle = Upstream::start(good("well")).await;
        let stage = started(protocol, &fickle, breaking("3s", "10s")).await;
        open(&stage.envoys[0], &fickle).await;
        let began = Instant::now();
        // The others learn it without calling the upstream.
        eventually("all know that it is open", async || {
            let mut open = 0;
            for envoy in &stage.envoys {
                open += u64::from(gauge(envoy).await == Some(3));
            }
            open == 3
        })
        .await;
        let took = began.elapsed();
        println!("{protocol:?}: all have shown within {took:?} that it is open");
        fickle.set(good("well"));
        let failed = fickle.requests();
        for envoy in &stage.envoys {
            assert!(matches!(ask(envoy).await.as_str(), "open" | "half-open"));
        }
        // All Envoys get requests, so each may probe as soon as the time open is over.
        let mut closed = 0;
        let mut after = 0;
        while closed < 3 {
            assert!(began.elapsed() < Duration::from_secs(25), "only {closed} have closed");
            closed = 0;
            let mut passed = 0;
            for envoy in &stage.envoys {
                let asked = fickle.requests();
                closed += usize::from(ask(envoy).await == "closed");
                passed += fickle.requests() - asked;
            }
            after += if closed > 0 { passed } else { 0 };
        }
        // Requests after the first Envoy had closed the breaker were calls, and not probes.
        let probes = fickle.requests() - failed - after;
        assert!(probes <= PROBES, "{probes} requests before it closed");
        // Counts are exported once per second.
        let mut probed = 0;
        eventually("three probes are told of", async || {
            probed = 0;
            for envoy in &stage.envoys {
                let text = envoy.envoy.admin_get("/stats/prometheus").await.unwrap();
                probed += sample(&text, "tidegate_breaker_probes_total", &[("breaker", "fickle")]).unwrap_or(0);
            }
            probed >= PROBES
        })
        .await;
        assert_eq!(probed, PROBES, "one set of probes over all Envoys");
        let learnt = async || stage.metric("tidegate_breakers_learnt_total").await;
        eventually("two have learnt that it opened, and two that it closed", async || learnt().await >= 4).await;
        stage.end().await;
    }
}

#[tokio::test]
async fn without_the_store_breakers_decide_alone_and_later_agree_without_a_flap() {
    let fickle = Upstream::start(good("well")).await;
    let mut stage = started(Protocol::Webdis, &fickle, breaking("1s", "10s")).await;
    stage.redis.kill();
    eventually("rounds fail", async || stage.metric("tidegate_breaker_round_failures_total").await >= 15).await;
    open(&stage.envoys[0], &fickle).await;
    let (before, others) = (fickle.requests(), &stage.envoys[1]);
    assert_eq!(ask(others).await, "closed", "it cannot have heard of that");
    assert_eq!(fickle.requests(), before + 1);
    // It also probes by itself, without success.
    eventually("it probes", async || {
        ask(&stage.envoys[0]).await;
        fickle.requests() > before + 1
    })
    .await;
    open(&stage.envoys[0], &fickle).await;
    stage.redis.restart();
    // An Envoy reports its open breaker to the store, and the others learn of it: none of those closes it.
    eventually("the others open", async || ask(&stage.envoys[1]).await == "open").await;
    fickle.set(good("well"));
    for place in 0..3 {
        eventually("all close", async || ask(&stage.envoys[place]).await == "closed").await;
    }
    stage.end().await;
}

#[tokio::test]
async fn an_envoy_that_is_elected_and_killed_leaves_the_election_to_another() {
    let fickle = Upstream::start(good("well")).await;
    let mut stage = started(Protocol::Upstash, &fickle, breaking("1s", "3s")).await;
    open(&stage.envoys[0], &fickle).await;
    for envoy in &stage.envoys {
        eventually("all know that it is open", async || gauge(envoy).await.is_some_and(|state| state > 0)).await;
    }
    fickle.set(Does::Hangs);
    // The first Envoy is killed with a probe in flight that gets no response.
    let probed = fickle.requests();
    let address = stage.envoys[0].http;
    let asking = tokio::spawn(async move {
        loop {
            let mut connection = Connection::open(address).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(300), connection.send(&Request::get("/only/"))).await.is_err()
            {
                // The call is still in flight after the timeout here, because the connection stays open.
                return connection;
            }
        }
    });
    let connection = asking.await.unwrap();
    assert_eq!(fickle.requests(), probed + 1);
    let killed = Instant::now();
    drop(stage.envoys.remove(0));
    drop(connection);
    fickle.set(good("well"));
    assert_ne!(ask(&stage.envoys[0]).await, "closed");
    for envoy in &stage.envoys {
        eventually("it closes", async || ask(envoy).await == "closed").await;
    }
    let took = killed.elapsed();
    println!("another was elected, and all had closed it, within {took:?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    stage.end().await;
}

#[tokio::test]
async fn a_store_that_answers_garbage_does_no_harm() {
    let fickle = Upstream::start(good("well")).await;
    let stage = started(Protocol::Upstash, &fickle, breaking("1s", "10s")).await;
    for does in
        [Network::AnswersGarbage, Network::AnswersHalf, Network::Answers500, Network::IsLate(Duration::from_secs(2))]
    {
        stage.proxy.set(does);
        let before = stage.metric("tidegate_breaker_round_failures_total").await;
        eventually("rounds fail", async || stage.metric("tidegate_breaker_round_failures_total").await >= before + 3)
            .await;
        assert_eq!(ask(&stage.envoys[0]).await, "closed");
    }
    assert!(stage.envoys[0].envoy.logged("the store of ").await);
    stage.end().await;
}

#[tokio::test]
async fn without_a_store_that_is_a_cluster_a_policy_with_a_shared_breaker_is_refused() {
    let mut policy = policy([]);
    for (part, value) in breaking("1s", "10s").as_object().unwrap() {
        policy[part] = value.clone();
    }
    let bootstrap = crate::filter::stage::shipped(&policy);
    let error = crate::envoy::Envoy::start(crate::envoy::Options::new(bootstrap.text())).await.unwrap_err().to_string();
    assert!(error.contains("/breakers/pattern/scope: Envoys share a breaker through a store"), "{error}");
}
