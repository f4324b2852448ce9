//! Envoys and Workers that share a Redis.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::policy::Protocol;

use super::breaking::{FAILURES, PROBES, breaking, busy, stood};
use super::stage::{Setup, Sharing, shared};
use crate::filter::client::{Connection, Request};
use crate::filter::failing::{Upstream, good};
use crate::filter::stage::{eventually, policy};
use crate::locations::Locations;
use crate::redis::stage::token;

/// Two locations of a Worker with this policy, which use the Envoys' Redis.
fn workers(stage: &Sharing, protocol: Protocol, mut policy: Value) -> Locations {
    let word = if protocol == Protocol::Upstash { "upstash" } else { "webdis" };
    policy["stores"] = json!({
        "deadline": "5s",
        "redis": { "protocol": word, "url": url(stage.proxy.addr), "token": token(protocol) },
    });
    Locations::start(Path::new("dist/cloudflare"), &policy.to_string()).unwrap()
}

fn url(addr: SocketAddr) -> Value {
    json!(format!("http://{addr}"))
}

/// The addresses of the two Envoys and the two locations.
fn places(stage: &Sharing, workers: &Locations) -> [SocketAddr; 4] {
    [stage.envoys[0].http, stage.envoys[1].http, workers.addrs[0], workers.addrs[1]]
}

/// Sends a request along the route with the breaker; returns the breaker's state.
async fn state(place: SocketAddr) -> String {
    stood(&Connection::open(place).await.unwrap().send(&Request::get("/only/")).await.unwrap())
}

#[tokio::test]
async fn envoys_and_workers_have_one_quota_together() {
    for protocol in [Protocol::Upstash, Protocol::Webdis] {
        let stage = Sharing::start(&Setup { protocol, ..Setup::of([shared(120)]) }).await;
        let mut policy = policy([shared(120)]);
        policy["upstreams"] = json!({ "origin": { "url": url(stage.envoys[0].origin.addr) } });
        policy["routes"] = json!([{ "name": "all", "upstreams": ["origin"] }]);
        let workers = workers(&stage, protocol, policy);
        let places = places(&stage, &workers);
        let mut admitted = [0; 4];
        let ask = async |admitted: &mut [usize; 4]| {
            for (place, admitted) in places.iter().zip(admitted) {
                let mut connection = Connection::open(*place).await.unwrap();
                for _ in 0..5 {
                    let answer = connection.send(&Request::get("/")).await.unwrap();
                    assert!(matches!(answer.status, 200 | 429), "{answer:?}");
                    *admitted += usize::from(answer.status == 200);
                }
            }
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        // Unused permits are returned, so that all of them are used in the end.
        while admitted.iter().sum::<usize>() < 120 {
            assert!(Instant::now() < deadline, "{admitted:?} were admitted, and no more");
            ask(&mut admitted).await;
        }
        ask(&mut admitted).await;
        assert_eq!(admitted.iter().sum::<usize>(), 120, "{admitted:?}");
        assert!(admitted.iter().all(|admitted| *admitted > 0), "{admitted:?}");
        stage.end().await;
    }
}

#[tokio::test]
async fn a_breaker_that_opens_in_an_envoy_or_a_worker_opens_in_all_and_one_set_of_probes_closes_it_in_all() {
    for (protocol, first) in [(Protocol::Upstash, 0), (Protocol::Webdis, 2)] {
        let fickle = Upstream::start(good("well")).await;
        let more = breaking("8s", "10s");
        let clusters = vec![("fickle", fickle.address)];
        let stage = Sharing::start(&Setup { protocol, more: more.clone(), clusters, ..Setup::of([]) }).await;
        let mut policy = policy([]);
        for (part, value) in more.as_object().unwrap() {
            policy[part] = value.clone();
        }
        policy["upstreams"] = json!({ "fickle": { "url": url(fickle.address), "breaker": "pattern" } });
        let workers = workers(&stage, protocol, policy);
        let places = places(&stage, &workers);
        for place in places {
            assert_eq!(state(place).await, "closed");
        }
        fickle.set(busy());
        for _ in 0..FAILURES {
            state(places[first]).await;
        }
        eventually("it opens", async || state(places[first]).await == "open").await;
        // The others see no failure themselves, so they can only have learned of the opening.
        fickle.set(good("well"));
        for place in places {
            eventually("all know that it is open", async || state(place).await == "open").await;
        }
        let before = fickle.requests();
        let mut probes = None;
        let mut closed = 0;
        eventually("all have closed it", async || {
            closed = 0;
            for place in places {
                let asked = fickle.requests() - before;
                if state(place).await == "closed" {
                    closed += 1;
                    probes.get_or_insert(asked);
                }
            }
            closed == places.len()
        })
        .await;
        // The last probe may be the one whose response reports the closed breaker.
        let probes = probes.unwrap();
        assert!(probes == PROBES || probes == PROBES - 1, "{probes} requests until the first had closed it");
        stage.end().await;
    }
}
