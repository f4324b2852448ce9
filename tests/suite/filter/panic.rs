//! A VM that dies loses its streams and nothing else: counts survive, and its permits expire with their lease.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::client::{Connection, Request};
use super::concurrency::{Gate, in_flight, sent};
use super::stage::{eventually, limit, policy, shipped};
use super::test_build::WITH_PANIC;
use crate::envoy::{Envoy, Options};

const TRIGGER: &str = "x-tidegate-panic";

fn holds(wasm: &Path, text: &str) -> bool {
    let bytes = std::fs::read(wasm).unwrap_or_else(|error| panic!("{}: {error}", wasm.display()));
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn counts_survive_a_vm_that_panics_and_permits_come_back_by_their_lease() {
    let wasm = tokio::task::spawn_blocking(|| WITH_PANIC.as_path()).await.unwrap();
    let shipped_wasm = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/envoy/tidegate.wasm");
    assert!(holds(wasm, TRIGGER) && holds(&shipped_wasm, "x-tidegate-upstream"));
    assert!(!holds(&shipped_wasm, TRIGGER), "what is shipped can be taken down");

    let mut slots = in_flight("/slow", 2);
    slots["lease"] = json!("10s");
    let gate = Gate::start().await;
    let bootstrap = shipped(&policy([slots, limit("api", "/quick", &[], 1_000)]));
    let bootstrap = bootstrap.upstream(gate.address).unwrap().wasm(wasm).unwrap();
    // A single worker, so that the VM that crashes is the one that has the streams.
    let options = Options { concurrency: 1, ..Options::new(bootstrap.text()) };
    let envoy = Envoy::start(options).await.unwrap_or_else(|error| panic!("{error}"));
    let to = envoy.listener("http").unwrap();
    let ask = async |request: Request| Connection::open(to).await.unwrap().send(&request).await;
    let left = |answer: &super::client::Answer| {
        let text = answer.header("ratelimit");
        text.split(";r=").nth(1).and_then(|rest| rest.split(';').next()?.parse::<u32>().ok())
    };

    let taken = Instant::now();
    let lost = [sent(to, "/slow").await, sent(to, "/slow").await];
    eventually("both are in flight", || async {
        ask(Request::get("/slow")).await.is_ok_and(|answer| answer.status == 429)
    })
    .await;
    for expected in [999, 998, 997] {
        assert_eq!(left(&ask(Request::get("/quick")).await.unwrap()), Some(expected));
    }

    let panicked = ask(Request::get("/quick").with(TRIGGER, "now")).await;
    assert!(panicked.as_ref().map_or(true, |answer| answer.status >= 500), "{panicked:?}");
    assert!(envoy.logged("as the request asked").await, "{}", envoy.log());
    eventually("there is a VM again", || async {
        ask(Request::get("/quick")).await.is_ok_and(|answer| answer.status == 200 && left(&answer) == Some(996))
    })
    .await;
    let stats = envoy.stats().await.unwrap();
    assert!(stats.iter().any(|(name, count)| name.contains("vm_reload_success") && *count > 0), "{stats:?}");

    // The streams of the dead VM end, but their permits are not returned.
    drop(lost);
    assert_eq!(ask(Request::get("/slow")).await.unwrap().status, 429, "after {:?}", taken.elapsed());
    gate.let_go();
    eventually("the permits are back", || async {
        let status = ask(Request::get("/slow")).await.unwrap().status;
        assert!(status == 429 || taken.elapsed() >= Duration::from_secs(5), "{status} after {:?}", taken.elapsed());
        status == 200
    })
    .await;
    assert!(taken.elapsed() < Duration::from_secs(12), "{:?}", taken.elapsed());
}
