//! Requests that wait in the real Envoy: for their turn, or because their client is slowed down.
//!
//! No request is released early; the tests check that to the millisecond. How late it is depends on the machine, so
//! that bound is wide.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::assets::route;
use super::client::{Answer, Connection, Request};
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, eventually, policy, shipped};

/// A limit of one request per window; others wait for their turn.
fn one_in(window: &str, max_delay: &str) -> Value {
    json!({
        "name": "api", "match": { "path": "/api/**" }, "algorithm": "token-bucket",
        "quota": { "permits": 1, "window": window }, "on_exceed": "delay", "max_delay": max_delay,
    })
}

/// A policy with this single limit and tiers of every priority.
fn with_tiers(limit: Value) -> Value {
    let mut policy = policy([limit]);
    policy["tiers"] = json!(["plain", "gold", "bulk"]);
    policy["priorities"] = json!({ "gold": "high", "bulk": "low" });
    policy["client"]["tier"] = json!({ "header": "x-plan" });
    policy
}

fn api() -> Request {
    Request::get("/api/x").from("192.0.2.1")
}

fn of_tier(tier: &str) -> Request {
    api().with("x-plan", tier)
}

/// A single worker, so that all wait in the same room.
async fn one_worker(policy: &Value) -> Stage {
    Stage::of_workers(1, policy, |bootstrap| bootstrap).await
}

/// A request in flight: its response, and when that arrived.
struct Sent(JoinHandle<(Answer, Instant)>);

impl Sent {
    fn now(stage: &Stage, request: &Request) -> Self {
        let (to, request) = (stage.http, request.clone());
        Self(tokio::spawn(async move {
            let answer = Connection::open(to).await.unwrap().send(&request).await.unwrap();
            (answer, Instant::now())
        }))
    }

    async fn answer(self) -> (Answer, Instant) {
        self.0.await.unwrap()
    }

    /// The response, which must be from the upstream, and how long after `since` it arrived.
    async fn passed_after(self, since: Instant) -> Duration {
        let (answer, at) = self.answer().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        at - since
    }
}

/// Sends a request and waits until Envoy has `under_way` requests in flight.
async fn send_as(stage: &Stage, request: &Request, under_way: u64) -> Sent {
    let sent = Sent::now(stage, request);
    until_under_way(stage, under_way).await;
    sent
}

async fn until_under_way(stage: &Stage, count: u64) {
    eventually(&format!("{count} requests under way"), || async {
        stage.envoy.stats().await.unwrap()["http.http.downstream_rq_active"] == count
    })
    .await;
}

#[tokio::test]
async fn requests_over_the_limit_go_evenly_over_all_workers() {
    let stage = Stage::start(&policy([one_in("250ms", "10s")])).await;
    let start = Instant::now();
    let sent: Vec<_> = (0..10).map(|_| Sent::now(&stage, &api())).collect();
    let mut waits = Vec::new();
    for sent in sent {
        waits.push(sent.passed_after(start).await);
    }
    waits.sort_unstable();
    for (turn, wait) in (0..).zip(&waits) {
        assert!(*wait >= Duration::from_millis(250) * turn, "turn {turn}: {waits:?}");
    }
    assert!(waits[9] < Duration::from_secs(9), "{waits:?}");
    let name = "tidegate_requests_total";
    for (decision, count) in [("admitted", 1), ("delayed", 9)] {
        assert_shows(&stage, name, &[("limit", "api"), ("decision", decision), ("tier", "default")], count).await;
    }
    assert_shows(&stage, "tidegate_waiting", &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn a_request_whose_turn_would_come_too_late_is_refused_at_once_and_told_when_to_come_back() {
    let stage = Stage::start(&policy([one_in("1s", "2s")])).await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    let start = Instant::now();
    let waiting = [Sent::now(&stage, &api()), Sent::now(&stage, &api())];
    until_under_way(&stage, 2).await;
    let refused = stage.ask(&api()).await;
    assert_eq!((refused.status, refused.header("retry-after").as_str()), (429, "1"), "{refused:?}");
    assert_eq!(refused.json()["error"], "rate limit exceeded");
    assert!(start.elapsed() < Duration::from_secs(1), "at once");
    assert!(stage.envoy.access_logged("GET /api/x 429 tidegate_limit_api").await);
    for waiting in waiting {
        let (answer, _) = waiting.answer().await;
        assert_eq!(answer.status, 200);
        // The standing at the time of the response: no permits are left, and turns promised to others are counted.
        assert!(answer.header("ratelimit").starts_with("\"api\";r=0;t="), "{answer:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn what_has_waited_is_served_as_its_route_says() {
    let mut policy = route(json!({ "variants": { "formats": ["avif"], "rewrite": "/{format}{path}" } }));
    policy["limits"] = json!([one_in("500ms", "9s")]);
    policy["limits"][0]["match"] = json!({ "path": "/img/**" });
    let stage = Stage::start(&policy).await;
    let image = Request::get("/img/a.jpg").with("accept", "image/avif");
    let sent: Vec<_> = (0..3).map(|_| Sent::now(&stage, &image)).collect();
    for sent in sent {
        let (answer, _) = sent.answer().await;
        assert_eq!(answer.json()["path"], "/avif/img/a.jpg", "{answer:?}");
    }
    assert_shows(&stage, "tidegate_waiting", &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn no_more_wait_than_may_and_what_they_sent_arrives_whole() {
    let mut limit = one_in("3s", "60s");
    limit["max_waiting"] = json!(2);
    let stage = one_worker(&policy([limit])).await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    let start = Instant::now();
    let body = vec![b'x'; 3_000_000];
    let large = send_as(&stage, &Request::post("/api/x", body).from("192.0.2.1"), 1).await;
    let small = send_as(&stage, &api(), 2).await;
    let refused = stage.ask(&api()).await;
    assert_eq!(refused.status, 429);
    let retry_after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((6..=9).contains(&retry_after), "behind both: {retry_after}");
    assert_shows(&stage, "tidegate_waits_refused_total", &[("kind", "full")], 1).await;
    let (answer, _) = large.answer().await;
    assert_eq!((answer.status, &answer.json()["body_bytes"]), (200, &3_000_000.into()));
    assert_shows(&stage, "tidegate_waiting", &[], 1).await;
    assert!(small.passed_after(start).await >= Duration::from_secs(5));
    stage.end().await;
}

#[tokio::test]
async fn the_important_go_first_and_those_as_important_in_their_order() {
    let stage = one_worker(&with_tiers(one_in("1500ms", "30s"))).await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    let mut sent = Vec::new();
    for (place, tier) in (1..).zip(["bulk", "plain", "bulk", "gold", "plain"]) {
        sent.push(send_as(&stage, &of_tier(tier), place).await);
        assert!(place < 3 || stage.origin.stats().received == 1, "the machine is too slow for this test");
    }
    let mut order = Vec::new();
    for (place, sent) in (1..).zip(sent) {
        order.push((sent.answer().await.1, place));
    }
    order.sort_unstable();
    let order: Vec<_> = order.into_iter().map(|(_, place)| place).collect();
    assert_eq!(order, [4, 2, 5, 1, 3]);
    stage.end().await;
}

#[tokio::test]
async fn an_important_request_takes_the_turn_of_one_less_important() {
    let stage = one_worker(&with_tiers(one_in("2s", "4s"))).await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    let first = send_as(&stage, &of_tier("bulk"), 1).await;
    let last = send_as(&stage, &of_tier("bulk").with("accept", "application/problem+json"), 2).await;
    let start = Instant::now();
    let gold = Sent::now(&stage, &of_tier("gold"));
    // The last request of the lowest priority is refused now, in the format that it accepts.
    let (refused, at) = last.answer().await;
    assert_eq!((refused.status, refused.header("content-type").as_str()), (429, "application/problem+json"));
    assert!(at - start < Duration::from_millis(1_500), "{:?}", at - start);
    assert!(stage.envoy.access_logged("GET /api/x 429 tidegate_limit_api").await);
    assert_eq!(stage.ask(&of_tier("bulk")).await.status, 429, "he can take nobody's turn");
    let ((gold, gold_at), (first, first_at)) = (gold.answer().await, first.answer().await);
    assert_eq!((gold.status, first.status), (200, 200));
    assert!(gold_at < first_at);
    assert_shows(&stage, "tidegate_waits_refused_total", &[("kind", "displaced")], 1).await;
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_turn_back() {
    let stage = one_worker(&policy([one_in("2s", "30s")])).await;
    let start = Instant::now();
    assert_eq!(stage.ask(&api()).await.status, 200);
    let next = send_as(&stage, &api(), 1).await;
    let mut gone = Connection::open(stage.http).await.unwrap();
    gone.write(&api().bytes()).await.unwrap();
    until_under_way(&stage, 2).await;
    let last = send_as(&stage, &api(), 3).await;
    drop(gone);
    until_under_way(&stage, 2).await;
    assert_shows(&stage, "tidegate_waits_abandoned_total", &[], 1).await;
    // The last turn of all is available to the next request.
    let late = send_as(&stage, &api(), 3).await;
    next.passed_after(start).await;
    let last = last.passed_after(start).await;
    assert!(last >= Duration::from_secs(4) && last < Duration::from_secs(6), "it moved up: {last:?}");
    let late = late.passed_after(start).await;
    assert!(late >= Duration::from_secs(6) && late < Duration::from_secs(8), "{late:?}");
    assert_shows(&stage, "tidegate_refunds_lost_total", &[], 0).await;
    assert_shows(&stage, "tidegate_waiting", &[], 0).await;
    stage.end().await;
}

/// A limit under which every request but the first waits this long.
fn all_wait(max_delay: &str) -> Value {
    json!({
        "name": "api", "match": { "path": "/api/**" }, "key": [], "quota": { "permits": 10_000, "window": "1d" },
        "slow_down": { "slow_after": 1, "step": max_delay, "max_delay": max_delay }, "max_waiting": 1_000,
    })
}

#[tokio::test]
async fn hundreds_that_are_due_at_once_are_all_released() {
    // Envoy responds by itself: each response is sent before the next request is released, in nested calls.
    let routes =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    let answered = json!([{ "match": { "prefix": "/" }, "direct_response": { "status": 204 } }]);
    let stage =
        Stage::of_workers(1, &policy([all_wait("4s")]), |bootstrap| bootstrap.set(routes, answered).unwrap()).await;
    assert_eq!(stage.ask(&api()).await.status, 204);
    let mut streams = Vec::new();
    for _ in 0..6 {
        let connection = http2::Connection::open(stage.http).await;
        streams.extend((0..100).map(|_| {
            let mut connection = connection.clone();
            tokio::spawn(async move { connection.send(&api()).await.status })
        }));
    }
    until_under_way(&stage, 600).await;
    // Envoy gets no time; when it resumes, all requests are due.
    for (signal, pause) in [("-STOP", Duration::from_secs(5)), ("-CONT", Duration::ZERO)] {
        assert!(Command::new("kill").args([signal, &stage.envoy.pid().to_string()]).status().unwrap().success());
        tokio::time::sleep(pause).await;
    }
    for stream in streams {
        assert_eq!(stream.await.unwrap(), 204);
    }
    stage.end().await;
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nobody_waiting() {
    let stage = one_worker(&policy([all_wait("2s")])).await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    for round in 0..5 {
        let mut gone = Vec::new();
        for _ in 0..60 {
            let mut connection = Connection::open(stage.http).await.unwrap();
            connection.write(&api().bytes()).await.unwrap();
            gone.push(connection);
        }
        if round % 2 == 0 {
            until_under_way(&stage, 60).await;
        }
    }
    let start = Instant::now();
    let stays = Sent::now(&stage, &api());
    assert!(stays.passed_after(start).await >= Duration::from_secs(2));
    until_under_way(&stage, 0).await;
    assert_shows(&stage, "tidegate_waiting", &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn a_client_near_to_its_limit_is_slowed_down_step_by_step() {
    let limit = json!({
        "name": "api", "quota": { "permits": 5, "window": "1d" }, "algorithm": "fixed-window",
        "slow_down": { "slow_after": 2, "step": "400ms", "max_delay": "800ms" },
    });
    let stage = Stage::start(&policy([limit])).await;
    for wait_ms in [0, 0, 400, 800, 800] {
        let start = Instant::now();
        assert_eq!(stage.ask(&api()).await.status, 200);
        let (waited, wait) = (start.elapsed(), Duration::from_millis(wait_ms));
        assert!(waited >= wait && waited < wait + Duration::from_secs(1), "{waited:?} for {wait:?}");
    }
    assert_eq!(stage.ask(&api()).await.status, 429);
    stage.end().await;
}

#[tokio::test]
async fn a_grpc_call_that_is_displaced_gets_its_own_status() {
    let stage = one_worker(&with_tiers(one_in("3s", "3s"))).await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    let mut connection = http2::Connection::open(stage.http).await;
    let call = tokio::spawn(async move { connection.call(&of_tier("bulk")).await });
    until_under_way(&stage, 1).await;
    let gold = Sent::now(&stage, &of_tier("gold"));
    let call = call.await.unwrap();
    assert!(call.trailers_only && call.headers["grpc-status"] == "8", "{call:?}");
    assert_eq!(gold.answer().await.0.status, 200);
    stage.end().await;
}

#[tokio::test]
async fn those_who_wait_under_an_old_policy_end_as_it_said() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let stage =
        Stage::of_workers(1, &policy([one_in("2s", "30s")]), |bootstrap| bootstrap.filter_from(&file).unwrap()).await;
    let start = Instant::now();
    assert_eq!(stage.ask(&api()).await.status, 200);
    let (next, last) = (send_as(&stage, &api(), 1).await, send_as(&stage, &api(), 2).await);
    shipped(&policy([])).publish_filter(&file).unwrap();
    eventually("the policy without limits", || async {
        stage.ask(&Request::get("/api/x").from("192.0.2.1")).await.header("ratelimit-policy").is_empty()
    })
    .await;
    assert!(next.passed_after(start).await >= Duration::from_secs(2));
    assert!(last.passed_after(start).await >= Duration::from_secs(4));
    assert_shows(&stage, "tidegate_waiting", &[], 0).await;
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn those_who_wait_at_a_listener_that_goes_are_released_or_cut_off_and_nobody_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("listeners.json");
    let stage =
        Stage::of_workers(1, &policy([one_in("2s", "60s")]), |bootstrap| bootstrap.listeners_from(&file).unwrap())
            .await;
    assert_eq!(stage.ask(&api()).await.status, 200);
    let mut waiting = Vec::new();
    for count in 1..=8 {
        let mut connection = Connection::open(stage.http).await.unwrap();
        connection.write(&api().bytes()).await.unwrap();
        waiting.push(connection);
        until_under_way(&stage, count).await;
    }
    shipped(&policy([])).upstream(stage.origin.addr).unwrap().publish_listeners(&file).unwrap();
    let mut passed = 0;
    for mut waiting in waiting {
        match waiting.answer("GET").await {
            Ok(answer) => {
                assert_eq!(answer.status, 200, "{answer:?}");
                passed += 1;
            }
            // When the listener has drained, here for five seconds, Envoy resets the remaining streams.
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut),
        }
    }
    assert!((1..8).contains(&passed), "{passed} of those with two seconds between them");
    assert_eq!(stage.ask(&api()).await.status, 200);
    assert_shows(&stage, "tidegate_waiting", &[], 0).await;
    stage.assert_no_vm_failed().await;
}
