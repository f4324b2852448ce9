//! Every way in which an upstream can fail to respond well, and the next upstream's response: the client gets that as
//! if it had asked there.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::chain::{chains, route, stage};
use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good, refusing};
use super::http2;
use super::metrics::assert_shows;
use super::reload::in_force;
use super::stage::{Stage, eventually, limit, shipped};
use crate::bootstrap::Bootstrap;
use crate::origin::{Origin, Settings};

/// Adds a cluster without any host, behind `others` further ones.
fn with_empty_cluster(bootstrap: Bootstrap, name: &str, others: usize) -> Bootstrap {
    let bootstrap = bootstrap.with_cluster(name, SocketAddr::from(([127, 0, 0, 1], 9))).unwrap();
    let hosts = format!("/static_resources/clusters/{others}/load_assignment/endpoints/0/lb_endpoints");
    bootstrap.set(&hosts, json!([])).unwrap()
}

fn busy() -> Does {
    Does::Answers(answer(503, "", "busy"))
}

/// What the next upstream does, how the request is changed for that, and the status and body that the client gets.
type Case<'a> = (&'static str, Does, fn(Request) -> Request, u16, &'a [u8]);

#[tokio::test]
async fn after_each_way_of_failing_parts_large_and_slow_answers_and_304_are_as_the_next_one_sends_them() {
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let tagged = "etag: \"v1\"\r\n";
    let slow = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nslow".to_vec();
    let get = |name: &str| Request::get(format!("/{name}/"));
    let answers: [Case<'_>; 5] = [
        (
            "a part",
            Does::Answers(answer(206, &format!("content-range: bytes 2-5/9\r\n{tagged}"), "cdef")),
            |request| request.with("range", "bytes=2-5"),
            206,
            b"cdef",
        ),
        (
            "nothing new",
            Does::Answers(format!("HTTP/1.1 304 Not Modified\r\n{tagged}\r\n").into_bytes()),
            |request| request.with("if-none-match", "\"v1\""),
            304,
            b"",
        ),
        ("a head", Does::Answers(answer(200, tagged, "head")), |request| request.method("HEAD"), 200, b""),
        ("5 MB", Does::Answers(answer(200, tagged, &large)), |request| request, 200, &large),
        (
            "a slow body",
            Does::AnswersInTwo(slow, Duration::from_millis(60), b"body".to_vec()),
            |request| request,
            200,
            b"slowbody",
        ),
    ];
    let second = Upstream::start(good("")).await;
    let mut clusters = vec![("refused", refusing()), ("good", second.address)];
    for (name, does) in [
        ("cut", Does::Cuts),
        ("hangs", Does::Hangs),
        ("busy", busy()),
        ("silent", Does::Answers(answer(500, "", ""))),
        ("half", Does::AnswersAndCuts(b"HTTP/1.1 200 O".to_vec())),
    ] {
        clusters.push((name, Upstream::start(does).await.address));
    }
    let mut names: Vec<&str> = clusters.iter().map(|(name, _)| *name).filter(|name| *name != "good").collect();
    names.push("empty");
    let mut policy = chains(&names);
    policy["upstreams"]["hangs"]["timeout"] = json!("100ms");
    let stage = Stage::with(&policy, |bootstrap| {
        let all = clusters.iter().fold(bootstrap, |all, (name, to)| all.with_cluster(name, *to).unwrap());
        with_empty_cluster(all, "empty", clusters.len() + 1)
    })
    .await;
    let mut http2 = http2::Connection::open(stage.http).await;
    for (what, does, change, status, body) in answers {
        second.set(does);
        for name in &names {
            let request = change(get(name));
            for answer in [stage.ask(&request).await, http2.send(&request).await] {
                assert_eq!((answer.status, answer.body == body), (status, true), "{what} after {name}: {answer:?}");
                assert_eq!(answer.header("x-tidegate"), "upstream=good; step=fallback", "{what} after {name}");
                if what == "a part" {
                    assert_eq!(answer.header("content-range"), "bytes 2-5/9");
                }
                if what == "a head" {
                    assert_eq!(answer.header("content-length"), "4");
                }
                assert!(what == "a slow body" || answer.header("etag") == "\"v1\"", "{what} after {name}: {answer:?}");
            }
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn upstreams_that_speak_http2_fail_in_their_own_ways_and_the_next_is_asked() {
    let failing = Origin::start(Settings { failure_basis_points: 10_000, ..Settings::default() }).unwrap();
    let good = Origin::start(Settings { echo: true, ..Settings::default() }).unwrap();
    let mut clusters = vec![("failing", failing.addr), ("refused", refusing()), ("good", good.addr)];
    for (name, does) in
        [("cut", Does::Cuts), ("hangs", Does::Hangs), ("other", Does::Answers(answer(200, "", "HTTP/1.1")))]
    {
        clusters.push((name, Upstream::start(does).await.address));
    }
    let names: Vec<&str> = clusters.iter().map(|(name, _)| *name).filter(|name| *name != "good").collect();
    let mut policy = chains(&names);
    policy["upstreams"]["hangs"]["timeout"] = json!("100ms");
    let stage = Stage::with(&policy, |bootstrap| {
        let bootstrap = bootstrap.downstream_protocol_upstream().unwrap();
        clusters.iter().fold(bootstrap, |all, (name, to)| all.with_cluster(name, *to).unwrap())
    })
    .await;
    let mut client = http2::Connection::open(stage.http).await;
    for name in names {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let answer = client.send(&Request::get(format!("/{name}/")).method(method)).await;
            assert_eq!(
                (answer.status, answer.header("x-tidegate").as_str()),
                (200, "upstream=good; step=fallback"),
                "{name}: {answer:?}"
            );
            if method == "HEAD" {
                assert_eq!(answer.text(), "", "{name}");
            } else {
                assert_eq!(answer.json()["method"], method);
            }
        }
    }
    assert!(failing.stats().failed > 0);
    stage.end().await;
}

#[tokio::test]
async fn cluster_without_a_healthy_host_fails_as_one_that_refuses_and_opens_its_breaker() {
    let mut policy = chains(&[]);
    policy["breakers"] = json!({ "pattern": {
        "window": { "time": "60s" }, "min_calls": 1000, "consecutive_failures": 3, "open": { "initial": "5m" },
    } });
    policy["upstreams"]["empty"] = json!({ "cluster": "empty", "breaker": "pattern" });
    let mut last = route("last", &["good", "empty"]);
    last["fallback"]["static"] = json!({ "status": 503, "body": "static" });
    policy["routes"] = json!([route("first", &["empty", "good"]), last]);
    let origin = Upstream::start(good("served")).await;
    let stage = Stage::with(&policy, |bootstrap| {
        with_empty_cluster(bootstrap.with_cluster("good", origin.address).unwrap(), "empty", 2)
    })
    .await;
    // On one connection, so that one worker handles all of it.
    let mut connection = Connection::open(stage.http).await.unwrap();
    let mut ask = async |path: &str| connection.send(&Request::get(path)).await.unwrap();
    // Once as the first upstream, by Envoy's router, and twice as a further one, by a call.
    let answer = ask("/first/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "served"));
    assert_eq!(answer.header("x-tidegate"), "upstream=good; step=fallback; breakers=empty:closed");
    origin.set(busy());
    for stands in ["closed", "open"] {
        let answer = ask("/last/").await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "static"));
        assert_eq!(answer.header("x-tidegate"), format!("step=static; breakers=empty:{stands}"));
    }
    origin.set(good("served"));
    let answer = ask("/first/").await;
    assert_eq!(answer.header("x-tidegate"), "upstream=good; step=fallback; breakers=empty:open");
    assert_shows(&stage, "tidegate_breaker_failures_total", &[("breaker", "empty")], 3).await;
    stage.end().await;
}

#[tokio::test]
async fn answer_of_a_further_upstream_is_kept_and_served_when_that_one_fails_too() {
    let first = Upstream::start(busy()).await;
    let second = Upstream::start(Does::Answers(answer(200, "content-type: text/plain\r\n", "by a call"))).await;
    let mut policy = chains(&[]);
    policy["upstreams"]["busy"] = json!({ "cluster": "busy" });
    let mut only = route("only", &["busy", "good"]);
    only["fallback"]["stale"] = json!("1h");
    only["cache"] = json!({ "ttl": "1d" });
    policy["routes"] = json!([only]);
    let stage = stage(&policy, &[("busy", first.address), ("good", second.address)]).await;
    let answer = stage.ask(&Request::get("/only/a")).await;
    assert_eq!((answer.text().as_str(), answer.header("cache-control").as_str()), ("by a call", "max-age=86400"));
    assert_eq!(answer.header("x-tidegate"), "upstream=good; step=fallback");
    assert_shows(&stage, "tidegate_kept_total", &[], 1).await;
    second.set(Does::Cuts);
    // Each on a new connection, so that both workers get some.
    for _ in 0..8 {
        let answer = stage.ask(&Request::get("/only/a")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "by a call"), "{answer:?}");
        assert_eq!(answer.header("x-tidegate"), "step=stale");
        assert_eq!(answer.header("content-type"), "text/plain");
    }
    assert_eq!(stage.ask(&Request::get("/only/b")).await.status, 503, "nothing was kept for this one");
    stage.end().await;
}

/// A policy whose revision is visible to [`in_force`], with one route whose further upstream responds slowly, and one
/// with a wait before the further attempt.
fn revised(revision: u32) -> Value {
    let mut policy = chains(&[]);
    for name in ["busy", "slow"] {
        policy["upstreams"][name] = json!({ "cluster": name });
    }
    let mut waits = route("waits", &["busy", "good"]);
    waits["fallback"]["backoff"] = json!({ "initial": "5s", "max": "5s" });
    policy["routes"] = json!([route("asks", &["busy", "slow"]), waits]);
    policy["limits"] = json!([limit("load", "/load", &["address"], revision)]);
    policy
}

#[tokio::test]
async fn new_policy_loses_no_request_that_waits_for_a_further_answer_or_try() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("filter.json");
    let slow = Upstream::start(Does::AnswersAfter(Duration::from_secs(4), answer(200, "", "slow"))).await;
    let (first, last) = (Upstream::start(busy()).await, Upstream::start(good("served")).await);
    let stage = Stage::with(&revised(100), |bootstrap| {
        let clusters = [("busy", first.address), ("slow", slow.address), ("good", last.address)];
        let all = clusters.iter().fold(bootstrap, |all, (name, to)| all.with_cluster(name, *to).unwrap());
        all.filter_from(&file).unwrap()
    })
    .await;
    let mut waiting = Vec::new();
    for path in ["/asks/", "/waits/", "/waits/"].repeat(4) {
        let mut connection = Connection::open(stage.http).await.unwrap();
        connection.write(&Request::get(path).bytes()).await.unwrap();
        waiting.push((path, connection));
    }
    eventually("all are on their way", || async { first.requests() == 12 && slow.requests() == 4 }).await;
    for revision in [200, 300] {
        shipped(&revised(revision)).publish_filter(&file).unwrap();
        in_force(&stage, revision).await;
        // Each wait is random, but some of the eight are still waiting when the first policy changes.
        assert!(last.requests() < 8 || revision > 200, "none waited while the policy changed");
    }
    for (path, mut connection) in waiting {
        let answer = connection.answer("GET").await.unwrap();
        let text = if path == "/asks/" { "slow" } else { "served" };
        assert_eq!((answer.status, answer.text().as_str()), (200, text), "{path}: {answer:?}");
    }
    assert_eq!((slow.requests(), last.requests()), (4, 8));
    stage.assert_no_vm_failed().await;
}

#[tokio::test]
async fn upstream_that_says_until_when_by_a_date_gets_no_further_tries() {
    let later = "date: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:50:17 GMT\r\n";
    let busy = Upstream::start(Does::Answers(answer(503, later, "busy"))).await;
    let mut policy = chains(&[]);
    policy["upstreams"]["busy"] = json!({ "cluster": "busy" });
    policy["upstreams"]["gone"] = json!({ "cluster": "gone" });
    policy["routes"] = json!([route("only", &["gone", "busy"])]);
    let stage = stage(&policy, &[("busy", busy.address), ("gone", refusing()), ("good", refusing())]).await;
    // On one connection, so that one worker gets all of it.
    let mut connection = Connection::open(stage.http).await.unwrap();
    assert_eq!(connection.send(&Request::get("/only/")).await.unwrap().text(), "busy");
    let answer = connection.send(&Request::get("/only/")).await.unwrap();
    let told = answer.json()["retryAfter"].as_u64();
    // By the upstream's own clock it is forty seconds, less the time that this test has taken.
    assert!(told.is_some_and(|secs| (10..=40).contains(&secs)), "{answer:?}");
    assert_eq!(busy.requests(), 1);
    stage.end().await;
}

#[tokio::test]
async fn failure_that_breaks_off_while_the_next_is_asked_ends_as_envoys_own_and_leaves_nothing_behind() {
    let half = b"HTTP/1.1 503 Any\r\ncontent-length: 9\r\n\r\nhalf".to_vec();
    let first = Upstream::start(Does::AnswersAndCuts(half)).await;
    let second = Upstream::start(Does::AnswersAfter(Duration::from_millis(300), answer(200, "", "served"))).await;
    let stage = stage(&chains(&["half"]), &[("half", first.address), ("good", second.address)]).await;
    // Once a response has begun, Envoy does not let the filter replace it when it breaks off.
    let mut connection = Connection::open(stage.http).await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.send(&Request::get("/half/")).await.unwrap().status, 502);
        assert_eq!(http2::Connection::open(stage.http).await.send(&Request::get("/half/")).await.status, 502);
    }
    eventually("no stream is left", || async {
        stage.envoy.stats().await.unwrap()["http.http.downstream_rq_active"] == 0
    })
    .await;
    first.set(busy());
    assert_eq!(connection.send(&Request::get("/half/")).await.unwrap().text(), "served");
    stage.end().await;
}
