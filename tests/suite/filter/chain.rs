//! The upstreams of a route: every kind of failure leads to the next upstream, and after the last to the fallbacks.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Connection, Request};
use super::failing::{Does, Upstream, answer, good, refusing};
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, policy};

/// A policy with these upstreams, each with a cluster of the same name, and a route `/NAME/**` from each of them to
/// `good`.
pub fn chains(names: &[&str]) -> Value {
    let mut policy = policy([]);
    policy["upstreams"] = names.iter().map(|name| ((*name).to_owned(), json!({ "cluster": name }))).collect();
    policy["upstreams"]["good"] = json!({ "cluster": "good" });
    policy["routes"] = names.iter().map(|name| route(name, &[name, "good"])).collect();
    policy["response"] = json!({ "x_tidegate": true });
    policy
}

/// A route `/NAME/**` along these upstreams.
pub fn route(name: &str, upstreams: &[&str]) -> Value {
    json!({
        "name": name, "match": { "path": format!("/{name}/**") }, "upstreams": upstreams,
        "fallback": {
            "on": ["connect", "timeout", "reset", "5xx", "429"], "budget_percent": 100,
            "backoff": { "initial": "1ms", "max": "1ms" },
        },
    })
}

/// Envoy with this policy and these clusters.
pub async fn stage(policy: &Value, clusters: &[(&str, SocketAddr)]) -> Stage {
    Stage::with(policy, |bootstrap| {
        clusters.iter().fold(bootstrap, |bootstrap, (name, address)| bootstrap.with_cluster(name, *address).unwrap())
    })
    .await
}

#[tokio::test]
async fn each_way_of_failing_leads_to_the_next_upstream() {
    let long = vec![b'x'; 100_000];
    let failing = [
        ("cut", Does::Cuts),
        ("hangs", Does::Hangs),
        ("busy", Does::Answers(answer(503, "", "busy"))),
        ("silent", Does::Answers(answer(500, "", ""))),
        ("large", Does::Answers(answer(502, "", &long))),
        ("limited", Does::Answers(answer(429, "retry-after: 7\r\n", "later"))),
        ("half", Does::AnswersAndCuts(b"HTTP/1.1 200 O".to_vec())),
    ];
    let served = Upstream::start(good("served")).await;
    let mut clusters = vec![("refused", refusing()), ("good", served.address)];
    for (name, does) in failing {
        clusters.push((name, Upstream::start(does).await.address));
    }
    let names: Vec<&str> = clusters.iter().map(|(name, _)| *name).filter(|name| *name != "good").collect();
    let mut policy = chains(&[&names[..], &["nowhere"]].concat());
    policy["upstreams"]["hangs"]["timeout"] = json!("200ms");
    let stage = stage(&policy, &clusters).await;
    let mut http2 = http2::Connection::open(stage.http).await;
    for name in names.into_iter().chain(["nowhere"]) {
        let get = Request::get(format!("/{name}/a?b=c")).with("x-own", "1");
        for request in [get.clone(), get.clone().method("HEAD"), get.method("OPTIONS")] {
            let is_head = request.method == "HEAD";
            for answer in [stage.ask(&request).await, http2.send(&request).await] {
                let body = if is_head { "" } else { "served" };
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (200, body),
                    "{name}: {answer:?}\n{}",
                    stage.envoy.log()
                );
                assert_eq!(
                    (answer.header("content-length"), answer.header("content-type")),
                    ("6".into(), "text/plain".into())
                );
                assert_eq!(answer.header("x-tidegate"), "upstream=good; step=fallback");
                let last = served.last();
                assert!(last.starts_with(&format!("{} /{name}/a?b=c HTTP/1.1\r\n", request.method)), "{last}");
                for line in ["x-own: 1\r\n", "x-forwarded-for: ", "x-request-id: ", "x-forwarded-proto: http\r\n"] {
                    assert!(last.contains(line), "{line}: {last}");
                }
                assert!(!last.contains("x-tidegate-upstream") && !last.contains("per-try"), "{last}");
            }
        }
    }
    assert_shows(&stage, "tidegate_served_total", &[("route", "busy"), ("by", "good")], 6).await;
    stage.end().await;
}

#[tokio::test]
async fn an_answer_with_more_header_lines_than_the_filter_can_hand_on_is_none_and_never_comes_without_them() {
    let busy = Upstream::start(Does::Answers(answer(503, "", "busy"))).await;
    let served = Upstream::start(good("served")).await;
    // A possible configuration: Envoy's own limit is a hundred lines.
    let many = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": { "max_headers_count": 9_999, "max_response_headers_kb": 8_192 },
        "explicit_http_config": { "http_protocol_options": {} },
    } });
    let stage = Stage::with(&chains(&["busy"]), |bootstrap| {
        let bootstrap = bootstrap.with_cluster("busy", busy.address).unwrap();
        let bootstrap = bootstrap.with_cluster("good", served.address).unwrap();
        bootstrap.insert("/static_resources/clusters/2", "typed_extension_protocol_options", many).unwrap()
    })
    .await;
    let long = format!("x-a: {}\r\n", "a".repeat(1_100_000));
    for (lines, text) in [("x-a: 1\r\n".repeat(900), "served"), ("x-a: 1\r\n".repeat(1_100), "busy"), (long, "busy")] {
        served.set(Does::Answers(answer(200, &format!("cache-control: private\r\n{lines}"), "served")));
        let answer = stage.ask(&Request::get("/busy/")).await;
        assert_eq!(answer.text(), text, "{} bytes of header", lines.len());
        let expected = if text == "served" { ("private", 900) } else { ("", 0) };
        assert_eq!((&*answer.header("cache-control"), answer.headers.get_all("x-a").iter().count()), expected);
    }
    stage.end().await;
}

#[tokio::test]
async fn a_further_upstream_that_changes_protocols_unasked_gives_no_answer_and_ends_no_connection() {
    let busy = Upstream::start(Does::Answers(answer(503, "", "busy"))).await;
    let switching = b"HTTP/1.1 101 Switching\r\nupgrade: other\r\nconnection: upgrade\r\n\r\n";
    let odd = Upstream::start(Does::Answers(switching.to_vec())).await;
    let stage = stage(&chains(&["busy"]), &[("busy", busy.address), ("good", odd.address)]).await;
    let mut connection = http2::Connection::open(stage.http).await;
    for _ in 0..2 {
        assert_eq!(connection.send(&Request::get("/busy/")).await.text(), "busy");
        assert_eq!(stage.ask(&Request::get("/busy/")).await.text(), "busy");
    }
    assert!(odd.requests() > 0);
    stage.end().await;
}

#[tokio::test]
async fn cluster_that_envoy_lacks_is_told_in_the_log_and_not_with_each_request() {
    let busy = Upstream::start(Does::Answers(answer(503, "", "busy"))).await;
    let mut policy = chains(&["busy", "mistyped-first"]);
    policy["upstreams"]["good"]["cluster"] = json!("mistyped-next");
    let stage = Stage::of_workers(1, &policy, |bootstrap| bootstrap.with_cluster("busy", busy.address).unwrap()).await;
    for _ in 0..5 {
        assert_eq!(stage.ask(&Request::get("/busy/")).await.text(), "busy");
        assert_eq!(stage.ask(&Request::get("/mistyped-first/")).await.status, 503);
    }
    for (upstream, cluster) in [("mistyped-first", "mistyped-first"), ("good", "mistyped-next")] {
        let told = format!("tidegate: /upstreams/{upstream}/cluster: Envoy has no cluster {cluster}, ");
        assert!(stage.envoy.logged(&told).await, "{}", stage.envoy.log());
        assert_eq!(stage.envoy.log().matches(&told).count(), 1, "{}", stage.envoy.log());
    }
    assert!(!stage.envoy.log().contains("no cluster busy"));
    stage.end().await;
}

#[tokio::test]
async fn routes_of_envoy_that_lead_elsewhere_are_told_in_the_log_and_those_that_are_right_are_not() {
    let (first, good) = (Upstream::start(good("first")).await, Upstream::start(good("")).await);
    let clusters = [("first", first.address), ("good", good.address)];
    let routes =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    let without_header = json!([{ "match": { "prefix": "/" }, "route": { "cluster": "good" } }]);
    for (is_wrong, times) in [(true, 1), (false, 0)] {
        let stage = Stage::of_workers(1, &chains(&["first"]), |bootstrap| {
            let bootstrap = clusters.iter().fold(bootstrap, |it, (name, at)| it.with_cluster(name, *at).unwrap());
            if is_wrong { bootstrap.set(routes, without_header.clone()).unwrap() } else { bootstrap }
        })
        .await;
        for _ in 0..5 {
            assert_eq!(stage.ask(&Request::get("/first/")).await.status, 200);
        }
        let told = "tidegate: /upstreams/first/cluster: a request for cluster first went to good, ";
        assert_eq!(stage.envoy.logged(told).await, is_wrong, "{}", stage.envoy.log());
        assert_eq!(stage.envoy.log().matches("went to").count(), times, "{}", stage.envoy.log());
        stage.end().await;
    }
}

#[tokio::test]
async fn what_must_not_be_sent_again_is_not_and_gets_the_failure_itself() {
    let (busy, served) =
        (Upstream::start(Does::Answers(answer(503, "x-own: 1\r\n", "busy"))).await, Upstream::start(good("")).await);
    let stage = stage(&chains(&["busy"]), &[("busy", busy.address), ("good", served.address)]).await;
    for request in [
        Request::get("/busy/").method("DELETE"),
        Request::post("/busy/", b"body".to_vec()),
        Request { body: b"body".to_vec(), ..Request::get("/busy/") },
    ] {
        let answer = stage.ask(&request).await;
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.header("x-own").as_str()),
            (503, "busy", "1"),
            "{request:?}"
        );
        assert_eq!(answer.header("x-tidegate"), "step=failure");
    }
    assert_eq!((busy.requests(), served.requests()), (3, 0));
    assert_shows(&stage, "tidegate_served_total", &[("route", "busy"), ("by", "failure")], 3).await;
    stage.end().await;
}

#[tokio::test]
async fn when_all_have_failed_comes_the_static_answer_or_the_last_failure_or_503() {
    let busy = Upstream::start(Does::Answers(answer(503, "retry-after: 9\r\n", "busy"))).await;
    let mut policy = chains(&[]);
    policy["upstreams"]["busy"] = json!({ "cluster": "busy" });
    policy["upstreams"]["gone"] = json!({ "cluster": "gone" });
    let mut fixed = route("fixed", &["gone", "busy"]);
    fixed["fallback"]["static"] = json!({
        "status": 502, "content_type": "text/html", "body": "<p>Back soon.</p>", "headers": { "X-Reason": "down" },
    });
    policy["routes"] = json!([fixed, route("words", &["gone", "busy"]), route("none", &["gone"])]);
    let stage = stage(&policy, &[("busy", busy.address), ("gone", refusing())]).await;

    // On one connection, so that one worker gets both requests.
    let mut connection = Connection::open(stage.http).await.unwrap();
    let answer = connection.send(&Request::get("/words/")).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str(), answer.header("retry-after").as_str()), (503, "busy", "9"));
    // The upstream has asked for a pause, at least from further attempts.
    let answer = connection.send(&Request::get("/words/")).await.unwrap();
    assert_eq!((answer.status, answer.json()["retryAfter"].as_u64().is_some_and(|secs| secs <= 9)), (503, true));
    assert_eq!((answer.header("x-tidegate").as_str(), busy.requests()), ("step=unavailable", 1));

    let answer = stage.ask(&Request::get("/fixed/")).await;
    assert_eq!((answer.status, answer.text().as_str()), (502, "<p>Back soon.</p>"));
    assert_eq!((answer.header("content-type"), answer.header("x-reason")), ("text/html".into(), "down".into()));
    assert_eq!(answer.header("x-tidegate"), "step=static");
    let head = stage.ask(&Request::get("/fixed/").method("HEAD")).await;
    assert_eq!((head.status, head.header("content-length")), (502, "17".into()));

    let answer = stage.ask(&Request::get("/none/")).await;
    assert_eq!((answer.status, &answer.json()["error"]), (503, &json!("the service is unavailable")), "{answer:?}");
    assert_eq!(answer.header("retry-after"), "5", "nobody knows, and that is said too");
    assert!(stage.envoy.access_logged("GET /none/ 503 tidegate_unavailable").await, "{}", stage.envoy.access_log());
    let call = http2::Connection::open(stage.http).await.call(&Request::get("/none/Method")).await;
    assert_eq!(call.headers["grpc-status"], "14", "{call:?}");
    stage.end().await;
}

#[tokio::test]
async fn answer_that_has_begun_is_never_cut_by_the_timeout_and_clients_cannot_set_one() {
    let slow = Upstream::start(Does::AnswersInTwo(
        b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nslow".to_vec(),
        Duration::from_millis(700),
        b"body".to_vec(),
    ))
    .await;
    let mut policy = chains(&["slow"]);
    policy["upstreams"]["slow"]["timeout"] = json!("300ms");
    let stage = stage(&policy, &[("slow", slow.address), ("good", refusing())]).await;
    let answer = stage.ask(&Request::get("/slow/").with("x-envoy-upstream-rq-timeout-ms", "1")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "slowbody"));
    assert_eq!(answer.header("x-tidegate"), "upstream=slow; step=first");
    stage.end().await;
}

#[tokio::test]
async fn client_that_goes_away_in_the_middle_leaves_nothing_behind() {
    let (hangs, busy) = (Upstream::start(Does::Hangs).await, Upstream::start(Does::Answers(answer(503, "", ""))).await);
    let mut policy = chains(&["busy"]);
    policy["upstreams"]["hangs"] = json!({ "cluster": "hangs", "timeout": "20s" });
    policy["routes"] = json!([route("busy", &["busy", "hangs"])]);
    let stage = stage(&policy, &[("busy", busy.address), ("hangs", hangs.address)]).await;
    for _ in 0..5 {
        let mut connection = Connection::open(stage.http).await.unwrap();
        connection.write(&Request::get("/busy/").bytes()).await.unwrap();
        let before = hangs.requests();
        super::stage::eventually("the second is asked", || async { hangs.requests() > before }).await;
    }
    let name = "http.http.downstream_rq_active";
    super::stage::eventually("no stream is left", || async { stage.envoy.stats().await.unwrap()[name] == 0 }).await;
    hangs.set(good("again"));
    let began = Instant::now();
    assert_eq!(stage.ask(&Request::get("/busy/")).await.text(), "again");
    assert!(began.elapsed() < Duration::from_secs(5));
    stage.end().await;
}

#[tokio::test]
async fn upstream_without_a_cluster_is_an_error_of_the_policy() {
    let mut policy = chains(&["elsewhere"]);
    policy["upstreams"]["elsewhere"] = json!({ "url": "https://elsewhere.example.com" });
    let error = crate::envoy::Envoy::validate(&super::stage::shipped(&policy).text()).await.unwrap_err().to_string();
    assert!(error.contains("policy error: /upstreams/elsewhere/cluster: a route leads to this upstream"), "{error}");
}

#[tokio::test]
async fn request_that_has_waited_goes_along_its_route_and_its_further_tries_are_within_the_budget() {
    let (busy, good) =
        (Upstream::start(Does::Answers(answer(503, "", "busy"))).await, Upstream::start(good("served")).await);
    let mut policy = chains(&["busy"]);
    policy["routes"][0]["fallback"]["budget_percent"] = json!(0);
    policy["routes"][0]["fallback"]["backoff"] = json!({ "initial": "40ms", "max": "40ms" });
    policy["limits"] = json!([{
        "name": "turns", "algorithm": "token-bucket", "quota": { "permits": 20, "window": "1s", "burst": 1 },
        "on_exceed": "delay", "max_delay": "10s",
    }]);
    let stage = stage(&policy, &[("busy", busy.address), ("good", good.address)]).await;
    let mut connection = Connection::open(stage.http).await.unwrap();
    let mut statuses = Vec::new();
    let began = Instant::now();
    for _ in 0..20 {
        let answer = connection.send(&Request::get("/busy/").from("192.0.2.1")).await.unwrap();
        assert!(!answer.header("ratelimit").is_empty(), "{answer:?}");
        statuses.push(answer.status);
    }
    assert!(began.elapsed() >= Duration::from_millis(900), "the requests did not wait");
    let seconds = began.elapsed().as_secs() + 2;
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!((3..=3 * seconds as usize).contains(&served), "{statuses:?}");
    assert_eq!((busy.requests(), good.requests()), (20, served as u64));
    stage.end().await;
}
