//! A response from a further upstream, or a kept one, is as correct as one from the first upstream.

use std::time::Duration;

use serde_json::json;

use super::chain::{chains, route, stage};
use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good};
use super::metrics::assert_shows;

fn busy() -> Does {
    Does::Answers(answer(503, "", "busy"))
}

#[tokio::test]
async fn further_answer_keeps_its_status_its_lines_and_its_bytes() {
    let (first, second) = (Upstream::start(busy()).await, Upstream::start(good("")).await);
    let stage = stage(&chains(&["busy"]), &[("busy", first.address), ("good", second.address)]).await;
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let tagged = "etag: \"v1\"\r\nlast-modified: Fri, 20 Nov 2026 10:00:00 GMT\r\n";
    let cases = [
        (answer(200, "content-type: video/mp4\r\n", &large), Request::get("/busy/")),
        (
            answer(206, &format!("content-range: bytes 2-5/9\r\ncontent-type: text/plain\r\n{tagged}"), "cdef"),
            Request::get("/busy/").with("range", "bytes=2-5").with("if-range", "\"v1\""),
        ),
        (format!("HTTP/1.1 304 Not Modified\r\n{tagged}\r\n").into_bytes(), Request::get("/busy/").with("if-none-match", "\"v1\"")),
        (answer(416, "content-range: bytes */9\r\n", ""), Request::get("/busy/").with("range", "bytes=20-")),
        (answer(404, "content-type: text/html\r\n", "<p>none</p>"), Request::get("/busy/")),
        (b"HTTP/1.1 204 No Content\r\nx-own: 1\r\n\r\n".to_vec(), Request::get("/busy/")),
        (answer(301, "location: /other\r\n", ""), Request::get("/busy/")),
        (
            answer(200, "content-encoding: gzip\r\nvary: accept-encoding\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n", b"\x1f\x8b\x08\x00no\xff"),
            Request::get("/busy/").with("accept-encoding", "gzip"),
        ),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec(), Request::get("/busy/")),
    ];
    for (bytes, request) in cases {
        second.set(Does::Answers(bytes.clone()));
        let direct = Connection::open(second.address).await.unwrap().send(&request).await;
        let answer = stage.ask(&request).await;
        let Ok(direct) = direct else {
            // The direct response is in chunks, which this client does not read.
            assert_eq!((answer.text().as_str(), answer.header("x-hop")), ("abc", String::new()));
            continue;
        };
        assert_eq!((answer.status, answer.body == direct.body), (direct.status, true), "{:?}", answer.headers);
        for (name, value) in &direct.headers {
            // A response without a body needs no length or type.
            if !direct.body.is_empty() || !name.as_str().starts_with("content-l") {
                assert!(
                    answer.headers.get_all(name).iter().any(|other| other == value),
                    "{name}: {:?}",
                    answer.headers
                );
            }
        }
        assert_eq!(answer.header("set-cookie"), direct.header("set-cookie"));
        for line in
            request.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", String::from_utf8_lossy(value)))
        {
            assert!(second.last().contains(&line), "{line}{}", second.last());
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn what_a_call_cannot_hold_or_loses_leaves_the_first_failure() {
    let (first, second) = (Upstream::start(busy()).await, Upstream::start(good("")).await);
    let mut policy = chains(&["busy"]);
    policy["upstreams"]["good"] = json!({ "cluster": "good", "timeout": "10s", "breaker": "watch" });
    policy["breakers"] = json!({ "watch": { "window": { "count": 10 }, "consecutive_failures": 1 } });
    let stage = stage(&policy, &[("busy", first.address), ("good", second.address)]).await;
    let large = answer(200, "", vec![b'x'; 32 * 1_048_576 + 1]);
    for does in
        [Does::Answers(large), Does::AnswersAndCuts(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec())]
    {
        second.set(does);
        let answer = stage.ask(&Request::get("/busy/")).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "busy"));
        assert_eq!(answer.header("x-tidegate"), "step=failure; breakers=good:closed", "nobody knows that it failed");
    }
    second.set(good("well"));
    assert_eq!(stage.ask(&Request::get("/busy/")).await.text(), "well");
    stage.end().await;
}

#[tokio::test]
async fn after_an_answer_that_a_call_loses_comes_the_next_upstream_or_what_was_kept() {
    let kept = Does::Answers(answer(200, "cache-control: max-age=60\r\n", "kept"));
    let (first, last) = (Upstream::start(kept).await, Upstream::start(good("served")).await);
    let half = Does::AnswersAndCuts(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec());
    let second = Upstream::start(half).await;
    let mut policy = chains(&[]);
    for name in ["first", "half"] {
        policy["upstreams"][name] = json!({ "cluster": name });
    }
    let mut stale = route("stale", &["first", "half"]);
    stale["fallback"]["stale"] = json!("1h");
    policy["routes"] = json!([route("next", &["first", "half", "good"]), stale]);
    let stage = stage(&policy, &[("first", first.address), ("half", second.address), ("good", last.address)]).await;
    assert_eq!(stage.ask(&Request::get("/stale/")).await.text(), "kept");
    assert_shows(&stage, "tidegate_kept_total", &[], 1).await;
    first.set(busy());
    let answer = stage.ask(&Request::get("/next/")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "served"), "{answer:?}");
    assert_eq!(answer.header("x-tidegate"), "upstream=good; step=fallback");
    let answer = stage.ask(&Request::get("/stale/")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "kept"), "{answer:?}");
    assert_eq!(answer.header("x-tidegate"), "step=stale");
    assert_eq!((second.requests(), last.requests()), (2, 1));
    stage.end().await;
}

#[tokio::test]
async fn first_answer_streams_and_slow_clients_do_not_make_slow_upstreams() {
    let origin = Upstream::start(good("well")).await;
    let mut policy = chains(&[]);
    policy["upstreams"]["good"] = json!({ "cluster": "good", "timeout": "500ms", "breaker": "watch" });
    policy["breakers"] = json!({
        "watch": { "window": { "count": 4 }, "min_calls": 2, "slow_call": "400ms", "slow_rate_percent": 50 },
    });
    policy["routes"] = json!([route("only", &["good"])]);
    let stage = stage(&policy, &[("good", origin.address)]).await;
    for _ in 0..3 {
        let mut connection = Connection::open(stage.http).await.unwrap();
        let upload = Request::post("/only/", vec![7; 2_000]).bytes();
        let (first, rest) = upload.split_at(1_000);
        connection.write(first).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        connection.write(rest).await.unwrap();
        let answer = connection.answer("POST").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "well"));
        assert_eq!(answer.header("x-tidegate"), "upstream=good; step=first; breakers=good:closed");
    }
    assert_shows(&stage, "tidegate_breaker_slow_total", &[("breaker", "good")], 0).await;

    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nslow".to_vec();
    origin.set(Does::AnswersInTwo(head, Duration::from_millis(700), b"body".to_vec()));
    assert_eq!(stage.ask(&Request::get("/only/")).await.text(), "slowbody");
    assert_shows(&stage, "tidegate_breaker_calls_total", &[("breaker", "good")], 4).await;
    stage.end().await;
}

#[tokio::test]
async fn slow_body_of_a_further_answer_is_no_slow_call() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nslow".to_vec();
    let slow = Does::AnswersInTwo(head, Duration::from_millis(600), b"body".to_vec());
    let (first, second) = (Upstream::start(busy()).await, Upstream::start(slow).await);
    let mut policy = chains(&["busy"]);
    policy["upstreams"]["good"] = json!({ "cluster": "good", "breaker": "watch" });
    policy["breakers"] = json!({ "watch": { "window": { "count": 4 }, "min_calls": 2, "slow_call": "400ms" } });
    let stage = stage(&policy, &[("busy", first.address), ("good", second.address)]).await;
    for _ in 0..4 {
        let answer = stage.ask(&Request::get("/busy/")).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "slowbody"), "{answer:?}");
    }
    second.set(Does::AnswersAfter(Duration::from_millis(600), answer(200, "", "late")));
    assert_eq!(stage.ask(&Request::get("/busy/")).await.text(), "late");
    assert_shows(&stage, "tidegate_breaker_calls_total", &[("breaker", "good")], 5).await;
    assert_shows(&stage, "tidegate_breaker_slow_total", &[("breaker", "good")], 1).await;
    stage.end().await;
}

#[tokio::test]
async fn what_was_kept_is_served_when_all_have_failed_in_the_way_that_the_client_asks() {
    let origin = Upstream::start(Does::Answers(answer(
        200,
        "content-type: text/plain\r\netag: \"v1\"\r\ncache-control: max-age=1\r\n",
        "kept and well",
    )))
    .await;
    let mut policy = chains(&[]);
    policy["upstreams"]["origin"] = json!({ "cluster": "fickle" });
    let mut only = route("only", &["origin"]);
    only["fallback"]["stale"] = json!("1h");
    only["fallback"]["static"] = json!({ "status": 503, "body": "static" });
    policy["routes"] = json!([only]);
    let stage = stage(&policy, &[("fickle", origin.address), ("good", origin.address)]).await;
    assert_eq!(stage.ask(&Request::get("/only/a")).await.text(), "kept and well");
    assert_shows(&stage, "tidegate_kept_total", &[], 1).await;
    for (does, why) in [(busy(), "fwd-status=503"), (Does::Cuts, "detail=unanswered")] {
        origin.set(does);
        let get = Request::get("/only/a");
        let answer = stage.ask(&get).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "kept and well"), "{answer:?}");
        assert_eq!((answer.header("etag"), answer.header("x-tidegate")), ("\"v1\"".into(), "step=stale".into()));
        let status = answer.header("cache-status");
        assert!(status.starts_with("tidegate; fwd=") && status.contains(why), "{answer:?}");
        assert_eq!(status.contains("fwd-status"), why != "detail=unanswered", "Envoy's own status is no upstream's");
        let head = stage.ask(&get.clone().method("HEAD")).await;
        assert_eq!((head.status, head.header("content-length")), (200, "13".into()));
        let part = stage.ask(&get.clone().with("range", "bytes=0-3")).await;
        assert_eq!(
            (part.status, part.text(), part.header("content-range")),
            (206, "kept".into(), "bytes 0-3/13".into())
        );
        let same = stage.ask(&get.clone().with("if-none-match", "\"v1\"")).await;
        assert_eq!((same.status, same.text()), (304, String::new()));
        assert_eq!(stage.ask(&Request::get("/only/b")).await.text(), "static", "nothing was kept for this one");
        // A response for a single client is not kept, and such a request gets no kept response.
        assert_eq!(stage.ask(&get.with("authorization", "x")).await.text(), "static");
    }
    assert_shows(&stage, "tidegate_served_total", &[("route", "only"), ("by", "stale")], 8).await;
    assert_shows(&stage, "tidegate_served_total", &[("route", "only"), ("by", "static")], 4).await;
    stage.end().await;
}
