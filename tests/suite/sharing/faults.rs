//! Faults between Envoys and their store, with real processes: the quota is not exceeded beyond what the policy allows
//! in that case, no request waits longer than the deadline, no VM fails, and afterwards everything works again.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::policy::Protocol;

use super::proxy::Does;
use super::stage::{Setup, Sharing, shared};
use crate::filter::client::{Connection, Request};
use crate::filter::stage::{Stage, eventually, policy};
use crate::redis::process::Webdis;
use crate::redis::stage::token;

const QUOTA: usize = 300;
/// The deadline plus the time of a request on a busy machine. Less than a call to the store may take.
const WITHIN: Duration = Duration::from_millis(1_000);

/// Two Envoys with a deadline of 300 ms for their store, which have each used one permit of a quota of 300.
async fn started(protocol: Protocol, limit: Value) -> Sharing {
    let stores = json!({ "deadline": "300ms" });
    let stage = Sharing::start(&Setup { protocol, stores, ..Setup::of([limit]) }).await;
    eventually("the first are admitted", async || stage.admitted_or_failed(1).await.iter().all(|it| *it == 1)).await;
    stage
}

impl Sharing {
    /// How many of `each` requests every Envoy admitted while its store may fail. None takes much longer than the
    /// deadline.
    async fn admitted_or_failed(&self, each: usize) -> Vec<usize> {
        let mut admitted = vec![0; self.envoys.len()];
        for (envoy, admitted) in self.envoys.iter().zip(&mut admitted) {
            let mut connection = Connection::open(envoy.http).await.unwrap();
            for _ in 0..each {
                let began = Instant::now();
                let answer = connection.send(&Request::get("/")).await.unwrap();
                let took = began.elapsed();
                assert!(took < WITHIN, "{took:?} for {}", answer.status);
                assert!(matches!(answer.status, 200 | 429 | 503), "{answer:?}");
                *admitted += usize::from(answer.status == 200);
            }
        }
        admitted
    }

    /// The requests admitted while the store fails, until its breakers are open; and those admitted after it works
    /// again, until no permits are left. Both are sums over all Envoys.
    async fn admitted_through_failure(
        &mut self,
        breaks: impl AsyncFnOnce(&mut Self),
        mends: impl AsyncFnOnce(&mut Self),
    ) -> [usize; 2] {
        breaks(self).await;
        let mut during = 0;
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.metric("tidegate_store_breakers_open").await < self.envoys.len() as u64 {
            assert!(Instant::now() < deadline, "the breakers around the store do not open");
            during += self.admitted_or_failed(10).await.iter().sum::<usize>();
        }
        mends(self).await;
        let mut after = 0;
        let mut refused_rounds = 0;
        let deadline = Instant::now() + Duration::from_secs(40);
        // Refusals must last longer than idle Envoys take to return permits.
        while refused_rounds < 8 {
            assert!(Instant::now() < deadline, "{after} were admitted, and there is no end");
            let admitted = self.admitted_or_failed(20).await.iter().sum::<usize>();
            let fails = self.metric("tidegate_store_breakers_open").await > 0;
            refused_rounds = if admitted > 0 || fails { 0 } else { refused_rounds + 1 };
            after += admitted;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        [during, after]
    }
}

#[tokio::test]
async fn under_any_fault_of_network_and_front_no_more_than_the_quota_is_admitted() {
    for does in [
        Does::AnswersGarbage,
        Does::AnswersNoHttp,
        Does::Answers500,
        Does::AnswersHalf,
        Does::IsLate(Duration::from_secs(2)),
        Does::ClosesConnections,
    ] {
        let mut stage = started(Protocol::Upstash, shared(QUOTA as u32)).await;
        let breaks = async |stage: &mut Sharing| stage.proxy.set(does);
        let mends = async |stage: &mut Sharing| stage.proxy.set(Does::PassesOn);
        let [during, after] = stage.admitted_through_failure(breaks, mends).await;
        println!("{does:?}: 2, then {during}, then {after}");
        assert!(2 + during + after <= QUOTA, "{does:?}: 2, then {during}, then {after}");
        assert!(after > QUOTA / 2, "{does:?}: only {after} were admitted when all was well again");
        stage.end().await;
    }
}

#[tokio::test]
async fn a_suspended_redis_admits_no_more_than_the_quota() {
    let mut stage = started(Protocol::Upstash, shared(QUOTA as u32)).await;
    let breaks = async |stage: &mut Sharing| stage.paused = Some(stage.redis.pause());
    let mends = async |stage: &mut Sharing| stage.paused = None;
    let [during, after] = stage.admitted_through_failure(breaks, mends).await;
    assert!(2 + during + after <= QUOTA, "2, then {during}, then {after}");
    assert!(after > QUOTA / 2, "only {after} were admitted when all was well again");
    stage.end().await;
}

#[tokio::test]
async fn a_redis_out_of_memory_admits_no_more_than_the_quota() {
    let memory = |stage: &Sharing, bytes: &str| {
        let mut connection = stage.redis.connect();
        let () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query(&mut connection).unwrap();
    };
    let mut stage = started(Protocol::Upstash, shared(QUOTA as u32)).await;
    let breaks = async |stage: &mut Sharing| memory(stage, "1");
    let mends = async |stage: &mut Sharing| memory(stage, "0");
    let [during, after] = stage.admitted_through_failure(breaks, mends).await;
    assert!(2 + during + after <= QUOTA, "2, then {during}, then {after}");
    assert!(after > QUOTA / 2, "only {after} were admitted when all was well again");
    assert!(stage.envoys[0].envoy.logged("the store of shared limits, cluster redis: ").await);
    stage.end().await;
}

#[tokio::test]
async fn a_redis_that_was_killed_and_starts_empty_admits_one_more_quota_at_most() {
    let mut stage = started(Protocol::Upstash, shared(QUOTA as u32)).await;
    let breaks = async |stage: &mut Sharing| stage.redis.kill();
    let mends = async |stage: &mut Sharing| stage.redis.restart();
    let [during, after] = stage.admitted_through_failure(breaks, mends).await;
    assert!(2 + during <= QUOTA, "2, then {during}");
    assert!((QUOTA / 2..=QUOTA).contains(&after), "{after} when Redis had forgotten all");
    stage.end().await;
}

#[tokio::test]
async fn a_webdis_that_is_gone_and_comes_back_admits_no_more_than_the_quota() {
    let mut stage = started(Protocol::Webdis, shared(QUOTA as u32)).await;
    let breaks = async |stage: &mut Sharing| stage.webdis = None;
    let mends = async |stage: &mut Sharing| {
        let webdis = Webdis::start(stage.redis.addr(), Some(token(Protocol::Webdis))).unwrap();
        stage.proxy.lead_to(webdis.addr());
        stage.webdis = Some(webdis);
    };
    let [during, after] = stage.admitted_through_failure(breaks, mends).await;
    assert!(2 + during + after <= QUOTA, "2, then {during}, then {after}");
    assert!(after > QUOTA / 2, "only {after} were admitted when all was well again");
    stage.end().await;
}

#[tokio::test]
async fn while_the_store_fails_the_policy_decides_what_passes() {
    for (word, passes) in [("local", 30), ("allow", 60), ("deny", 0)] {
        let mut limit = shared(QUOTA as u32);
        limit["on_store_failure"] = json!(word);
        let stores = json!({ "deadline": "300ms", "local_share_percent": 10 });
        let mut stage = Sharing::start(&Setup { stores, ..Setup::of([limit]) }).await;
        // The store fails from the beginning, so no Envoy knows its share of the quota.
        stage.redis.kill();
        assert_eq!(stage.admitted_or_failed(60).await, [passes; 2], "{word}");
        stage.redis.restart();
        if word == "local" {
            let [_, after] = stage
                .admitted_through_failure(async |stage| stage.redis.kill(), async |stage| stage.redis.restart())
                .await;
            // What passed during the failure is charged to permits drawn ahead.
            println!("local: {after} after twice 30");
            assert!(after <= QUOTA - 30, "{after} when Redis was there again");
        }
        stage.end().await;
    }
}

#[tokio::test]
async fn an_envoy_that_is_killed_takes_its_leases_with_it_and_no_more() {
    let mut limit = shared(QUOTA as u32);
    limit["algorithm"] = json!("fixed-window");
    let mut stage = Sharing::start(&Setup::of([limit])).await;
    let first = stage.admitted(40).await;
    assert_eq!(first, [40, 40]);
    // Killed, without a chance to return its permits.
    drop(stage.envoys.remove(0));
    let mut rest = 0;
    let mut refused_rounds = 0;
    while refused_rounds < 3 {
        let admitted = stage.admitted(50).await[0];
        refused_rounds = if admitted == 0 { refused_rounds + 1 } else { 0 };
        rest += admitted;
    }
    println!("80, then {rest} of {QUOTA}");
    assert!(80 + rest <= QUOTA, "80, then {rest}");
    // A lease is at most a quarter of the permits that are left.
    assert!(80 + rest >= QUOTA * 3 / 4 - 20, "80, then {rest}");
    stage.end().await;
}

#[tokio::test]
async fn a_store_whose_cluster_is_missing_fails_at_once_and_is_reported() {
    let mut policy = policy([shared(10)]);
    policy["stores"] = json!({ "deadline": "10s", "redis": { "cluster": "nowhere" } });
    let stage = Stage::start(&policy).await;
    let began = Instant::now();
    for _ in 0..10 {
        assert_eq!(stage.ask(&Request::get("/")).await.status, 503);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(stage.envoy.logged("the store of shared limits, cluster nowhere: ").await, "{}", stage.envoy.log());
    stage.end().await;
}

#[tokio::test]
async fn many_new_clients_do_not_make_the_store_fail() {
    let mut limit = shared(1);
    limit["key"] = json!(["address"]);
    for protocol in [Protocol::Upstash, Protocol::Webdis] {
        let setup = Setup { protocol, envoys: 1, ..Setup::of([limit.clone()]) };
        let stage = Sharing::start(&setup).await;
        let to = stage.envoys[0].http;
        let clients = (0..20).map(|client| {
            tokio::spawn(async move {
                let mut connection = Connection::open(to).await.unwrap();
                for number in 0..100 {
                    let request = Request::get("/").from(format!("10.{client}.0.{number}"));
                    // A request of a new client needs an ask. Its quota is one.
                    assert_eq!(connection.send(&request).await.unwrap().status, 200);
                    assert_eq!(connection.send(&request).await.unwrap().status, 429);
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        assert!(stage.proxy.requests() >= 2_000 / 16, "{} requests to the store", stage.proxy.requests());
        assert_eq!(stage.metric("tidegate_store_ask_failures_total").await, 0, "{protocol:?}");
        stage.end().await;
    }
}
