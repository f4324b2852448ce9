//! What routes configure for responses, in the real Envoy: cache headers, image variants, preload headers, and which
//! responses are kept.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::client::{Answer, Connection, Request};
use super::http2;
use super::metrics::assert_shows;
use super::stage::{Stage, policy};

/// An upstream that sends its response to each target in pieces, one after the other. An empty last piece closes the
/// connection.
async fn upstream(answer: fn(&str) -> Vec<Vec<u8>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let (mut line, mut target) = (String::new(), String::new());
                while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                    if line.ends_with(" HTTP/1.1\r\n") {
                        target = line.split(' ').nth(1).unwrap().to_owned();
                    }
                    if line == "\r\n" {
                        for piece in answer(&target) {
                            if piece.is_empty() || stream.write_all(&piece).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    address
}

/// A response with these header lines and this body, in one piece.
fn whole(status: &str, lines: &str, body: &[u8]) -> Vec<Vec<u8>> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{lines}\r\n", body.len());
    vec![[head.as_bytes(), body].concat()]
}

/// A response in chunks, each a piece.
fn chunked(lines: &str, body: &[u8], chunk: usize) -> Vec<Vec<u8>> {
    let mut pieces = vec![format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n{lines}\r\n").into_bytes()];
    for piece in body.chunks(chunk) {
        pieces.push([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    pieces.push(b"0\r\n\r\n".to_vec());
    pieces
}

fn body(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

/// A policy with a single route, of these fields, for every request.
pub fn route(fields: Value) -> Value {
    let mut policy = policy([]);
    policy["upstreams"] = json!({ "origin": { "cluster": "origin" } });
    policy["routes"] = json!([{ "name": "all", "upstreams": ["origin"] }]);
    for (name, value) in fields.as_object().unwrap() {
        policy["routes"][0][name] = value.clone();
    }
    policy
}

async fn stage(policy: &Value, answer: fn(&str) -> Vec<Vec<u8>>) -> Stage {
    let upstream = upstream(answer).await;
    Stage::with(policy, |bootstrap| bootstrap.upstream(upstream).unwrap()).await
}

fn keeping() -> Value {
    route(json!({ "fallback": { "on": ["5xx"], "stale": "1h" } }))
}

const KEPT: &str = "tidegate_kept_total";
const NOT_KEPT: &str = "tidegate_not_kept_total";

#[tokio::test]
async fn good_answers_that_are_for_all_are_kept_and_no_others() {
    let stage = stage(&keeping(), |target| match target {
        "/cookie" => whole("200 OK", "set-cookie: a=b\r\n", b"mine"),
        "/private" => whole("200 OK", "cache-control: private\r\n", b"mine"),
        "/vary" => whole("200 OK", "vary: cookie\r\n", b"mine"),
        "/missing" => whole("404 Not Found", "", b"none"),
        "/part" => whole("206 Partial Content", "content-range: bytes 0-3/9\r\n", b"part"),
        "/same" => vec![b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".to_vec()],
        "/moved" => whole("301 Moved Permanently", "location: /a\r\n", b""),
        "/gzip" => whole("200 OK", "content-encoding: gzip\r\nvary: accept-encoding\r\n", b"\x1f\x8b..."),
        "/until-close" => vec![b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall?".to_vec(), Vec::new()],
        "/chunked" => chunked("", &body(10_000), 1_000),
        _ => whole("200 OK", "", b"for all"),
    })
    .await;
    let mut client = http2::Connection::open(stage.http).await;
    for path in ["/cookie", "/private", "/vary", "/missing", "/part", "/same", "/until-close"] {
        client.send(&Request::get(path)).await;
    }
    client.send(&Request::get("/a").with("authorization", "Basic x")).await;
    client.send(&Request::get("/a").with("cookie", "sid=1")).await;
    client.send(&Request::get("/a").with("cache-control", "no-store")).await;
    client.send(&Request::get("/a").method("POST")).await;
    // Only responses from here on are kept: the counter below shows that none of the earlier ones was.
    assert_eq!(client.send(&Request::get("/moved")).await.status, 301);
    assert_eq!(client.send(&Request::get("/gzip").with("accept-encoding", "gzip")).await.body, b"\x1f\x8b...");
    assert_eq!(client.send(&Request::get("/chunked")).await.body, body(10_000));
    for _ in 0..5 {
        assert_eq!(client.send(&Request::get("/a")).await.text(), "for all");
    }
    // Each on a new connection, so that every worker gets some: the response was kept for all of them.
    for _ in 0..8 {
        assert_eq!(stage.ask(&Request::get("/a").with("accept-encoding", "")).await.status, 200);
    }
    assert_shows(&stage, KEPT, &[], 5).await;
    assert_shows(&stage, NOT_KEPT, &[], 0).await;
    stage.end().await;
}

#[tokio::test]
async fn answers_that_are_too_large_or_cut_short_reach_the_client_as_ever_and_are_not_kept() {
    let stage = stage(&keeping(), |target| match target {
        "/large" => whole("200 OK", "", &body(5_000_000)),
        "/large-chunks" => chunked("", &body(5_000_000), 100_000),
        "/just" => whole("200 OK", "", &body(65_000)),
        "/cut" => vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut".to_vec(), Vec::new()],
        "/slow" => chunked("", &body(400), 4),
        _ => unreachable!("{target}"),
    })
    .await;
    let mut client = http2::Connection::open(stage.http).await;
    for path in ["/large", "/large-chunks"] {
        assert_eq!(client.send(&Request::get(path)).await.body, body(5_000_000), "{path}");
    }
    assert_shows(&stage, NOT_KEPT, &[], 2).await;
    assert!(Connection::open(stage.http).await.unwrap().send(&Request::get("/cut")).await.is_err());
    assert_shows(&stage, NOT_KEPT, &[], 3).await;

    let mut gone = Connection::open(stage.http).await.unwrap();
    gone.write(&Request::get("/slow").bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(gone);
    assert_shows(&stage, NOT_KEPT, &[], 4).await;
    assert_shows(&stage, KEPT, &[], 0).await;

    assert_eq!(client.send(&Request::get("/slow")).await.body, body(400));
    assert_eq!(client.send(&Request::get("/just")).await.body, body(65_000));
    assert_shows(&stage, KEPT, &[], 2).await;
    assert_shows(&stage, NOT_KEPT, &[], 4).await;
    stage.end().await;
}

#[tokio::test]
async fn answers_that_never_end_do_not_keep_others_from_being_kept() {
    let upstream = upstream(|target| match target {
        "/good" => whole("200 OK", "", b"good"),
        _ => chunked("", b"begun", 5)[..2].to_vec(),
    });
    let upstream = upstream.await;
    let stage = Stage::of_workers(1, &keeping(), |bootstrap| bootstrap.upstream(upstream).unwrap()).await;
    let mut endless = Vec::new();
    for n in 0..100 {
        endless.push(Connection::open(stage.http).await.unwrap());
        endless[n].write(&Request::get(format!("/{n}")).bytes()).await.unwrap();
    }
    // The responses that were given up to make room.
    assert_shows(&stage, NOT_KEPT, &[], 100 - 64).await;
    assert_eq!(stage.ask(&Request::get("/good")).await.text(), "good");
    assert_shows(&stage, KEPT, &[], 1).await;
    drop(endless);
    assert_shows(&stage, NOT_KEPT, &[], 100).await;
    stage.end().await;
}

#[tokio::test]
async fn a_flood_of_addresses_drives_out_kept_answers_and_takes_no_more_room() {
    let mut policy = keeping();
    policy["state"] = json!({ "kept": { "max_object": 1_024, "max_bytes": 32_768 } });
    let stage = stage(&policy, |_| whole("200 OK", "", &body(600))).await;
    let mut connection = Connection::open(stage.http).await.unwrap();
    for n in 0..200 {
        let answer = connection.send(&Request::get(format!("/?n={n}"))).await.unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, 600));
    }
    assert_shows(&stage, KEPT, &[], 200).await;
    assert_shows(&stage, NOT_KEPT, &[], 0).await;
    let text = stage.envoy.admin_get("/stats/prometheus").await.unwrap();
    let evictions = text.lines().find_map(|line| line.strip_prefix("tidegate_kept_evictions_total{} ")?.parse().ok());
    // Each of the 32 pages has room for one.
    assert!(evictions.is_some_and(|evictions: u64| (168..200).contains(&evictions)), "{evictions:?}");
    stage.end().await;
}

fn told(answer: &Answer) -> [String; 3] {
    ["cache-control", "link", "vary"].map(|name| answer.header(name))
}

#[tokio::test]
async fn caches_are_told_the_rule_and_pages_what_they_will_need() {
    let policy = route(json!({
        "cache": { "ttl": "1d", "stale_while_revalidate": "60s", "immutable": true },
        "preload": [{ "path": "/app.css", "as": "style" }],
    }));
    let stage = stage(&policy, |target| match target {
        "/page" => whole("200 OK", "content-type: text/html\r\ncache-control: max-age=0\r\nlink: </own>\r\n", b"page"),
        "/private" => whole("200 OK", "content-type: text/html\r\ncache-control: private\r\n", b"page"),
        "/same" => vec![b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".to_vec()],
        "/down" => whole("503 Service Unavailable", "content-type: text/html\r\n", b"down"),
        // A response to HEAD: a length, and no body.
        "/head" => vec![b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\ncontent-type: text/html\r\n\r\n".to_vec()],
        _ => whole("200 OK", "content-type: text/css\r\ncontent-encoding: gzip\r\n", b"\x1f\x8b..."),
    })
    .await;
    let (rule, link) = ("max-age=86400, stale-while-revalidate=60, immutable", "</app.css>; rel=preload; as=style");
    let own = format!("</own>, {link}");
    for (method, path, status, expected) in [
        ("GET", "/page", 200, [rule, own.as_str(), ""]),
        ("GET", "/private", 200, ["private", link, ""]),
        ("GET", "/same", 304, [rule, "", ""]),
        ("GET", "/down", 503, ["", "", ""]),
        ("HEAD", "/head", 200, [rule, link, ""]),
        ("GET", "/app.css", 200, [rule, "", ""]),
        ("POST", "/app.css", 200, ["", "", ""]),
    ] {
        let answer = stage.ask(&Request::get(path).method(method)).await;
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(told(&answer), expected, "{path}");
    }
    assert_eq!(stage.ask(&Request::get("/app.css")).await.header("content-encoding"), "gzip");
    stage.end().await;
}

#[tokio::test]
async fn images_are_asked_for_in_the_format_and_width_of_the_client() {
    let policy = route(json!({ "variants": {
        "formats": ["avif", "webp"], "widths": [320, 640],
        "rewrite": "/cdn-cgi/image/format={format},width={width}{path}",
    } }));
    // An origin that echoes the path of each request.
    let stage = Stage::start(&policy).await;
    for (target, accept, asked) in [
        ("/img/a.jpg?w=300", "image/avif,*/*", "/cdn-cgi/image/format=avif,width=320/img/a.jpg"),
        ("/img/a.jpg?v=1", "image/webp", "/cdn-cgi/image/format=webp,width=640/img/a.jpg?v=1"),
        ("/img/a.jpg?w=300", "*/*", "/img/a.jpg?w=300"),
        ("/img/a.svg?w=300", "image/avif", "/img/a.svg?w=300"),
    ] {
        let answer = stage.ask(&Request::get(target).with("accept", accept)).await;
        assert_eq!(answer.json()["path"], asked, "{answer:?}");
        let varies = if target.contains(".svg") { "" } else { "accept, sec-ch-width" };
        assert_eq!(answer.header("vary"), varies, "{target}");
    }
    let posted = stage.ask(&Request::post("/img/a.jpg?w=1", b"x".to_vec()).with("accept", "image/avif")).await;
    assert_eq!(posted.json()["path"], "/img/a.jpg?w=1");
    stage.end().await;
}
