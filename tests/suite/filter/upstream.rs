//! Between the filter and the upstream: what must not reach the upstream, and what must come back from it unchanged.

use std::net::SocketAddr;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::client::Request;
use super::stage::{Stage, limit, policy};

/// An upstream that answers every request with these bytes, on one connection after another.
async fn upstream_answering(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if line == "\r\n" && stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_a_client_sends_as_the_choice_of_upstream_never_reaches_it() {
    let stage = Stage::start(&policy([limit("api", "/api/**", &["address"], 100)])).await;
    // With and without a limit; once, twice, in upper and lower case.
    for path in ["/api/x", "/"] {
        let request = Request::get(path).from("192.0.2.1");
        for forged in [
            request.clone().with("x-tidegate-upstream", "origin"),
            request.clone().with("X-Tidegate-Upstream", "a").with("x-tidegate-upstream", "b"),
            request.clone().with("x-tidegate-upstream", b"\xff"),
            request.clone().with("x-tidegate-upstream", ""),
        ] {
            let answer = stage.ask(&forged.with("x-other", "kept")).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.upstream_saw("x-tidegate-upstream"), Vec::<String>::new(), "{path}");
            assert_eq!(answer.upstream_saw("x-other"), ["kept"]);
        }
    }
    stage.end().await;
}

#[tokio::test]
async fn what_a_client_sends_as_the_choice_of_upstream_chooses_none() {
    let routes =
        "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes";
    let by_header = json!([{ "match": { "prefix": "/" }, "route": { "cluster_header": "x-tidegate-upstream" } }]);
    let stage = Stage::with(&policy([]), |bootstrap| bootstrap.set(routes, by_header).unwrap()).await;
    let answer = stage.ask(&Request::get("/").with("x-tidegate-upstream", "origin")).await;
    assert_eq!((answer.status, stage.origin.stats().received), (503, 0), "{answer:?}");
    stage.end().await;
}

#[tokio::test]
async fn upstream_keeps_its_own_headers_and_its_own_word_on_limits() {
    let upstream = upstream_answering(concat!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 4\r\ncontent-type: text/teapot\r\n",
        "ratelimit: \"own\";r=5;t=6\r\nratelimit-policy: \"own\";q=7;w=8\r\nretry-after: 9\r\n",
        "x-ratelimit-limit: 7\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-raw: caf\u{e9}\r\n\r\nfull",
    ))
    .await;
    let mut policy = policy([limit("api", "/**", &["address"], 1)]);
    policy["response"] = json!({ "x_ratelimit": true });
    let stage = Stage::with(&policy, |bootstrap| bootstrap.upstream(upstream).unwrap()).await;
    let answer = stage.ask(&Request::get("/").from("192.0.2.1")).await;
    assert_eq!((answer.status, answer.text().as_str()), (429, "full"));
    for (name, value) in [
        ("content-type", "text/teapot"),
        ("retry-after", "9"),
        ("set-cookie", "a=1, b=2"),
        ("x-raw", "caf\u{e9}"),
        // Only one value of this header can be right: that of the filter's limit.
        ("x-ratelimit-limit", "1"),
    ] {
        assert_eq!(answer.header(name), value);
    }
    let (policies, standings) = (answer.header("ratelimit-policy"), answer.header("ratelimit"));
    assert!(policies.starts_with("\"own\";q=7;w=8, \"api\";q=1;"), "{policies}");
    assert!(standings.starts_with("\"own\";r=5;t=6, \"api\";r=0;"), "{standings}");
    assert!(
        stage.envoy.access_logged("GET / 429 via_upstream").await,
        "the upstream's own refusal is not the filter's"
    );

    let refused = stage.ask(&Request::get("/").from("192.0.2.1")).await;
    assert_eq!(refused.json()["error"], "rate limit exceeded");
    assert_eq!(refused.header("set-cookie"), "");
    stage.end().await;
}
