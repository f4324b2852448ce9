//! Unusual requests: each gets a correct response, and the worker's VM survives.

use super::client::{Connection, Request};
use super::http2;
use super::stage::{Stage, limit, policy, raw_paths};

fn every_key(permits: u32) -> serde_json::Value {
    policy([
        limit("address", "/**", &["address"], 1_000),
        limit("header", "/header/**", &["header:x-key"], permits),
        limit("cookie", "/cookie/**", &["cookie:sid"], permits),
        limit("query", "/query/**", &["query:q"], permits),
        limit("path", "/path/**", &["path"], permits),
        limit("claim", "/claim/**", &["claim:sub"], permits),
    ])
}

#[tokio::test]
async fn values_that_are_not_utf8_are_clients_like_any_other() {
    let stage = Stage::start(&every_key(2)).await;
    let key = |value: &[u8]| Request::get("/header/").with("x-key", value).from("192.0.2.1");
    for (one, other) in [(&b"\xff"[..], &b"\xfe"[..]), (b"caf\xe9", b"caf\xe8"), (b"\xc3\x28", b"\xed\xa0\x80")] {
        assert_eq!(stage.admitted(&key(one), 3).await, 2, "{one:?}");
        assert_eq!(stage.admitted(&key(other), 3).await, 2, "{other:?}");
    }
    let cookie = |value: &[u8]| Request::get("/cookie/").with("cookie", value).from("192.0.2.1");
    assert_eq!(stage.admitted(&cookie(b"a=\x80; sid=\xff"), 3).await, 2);
    assert_eq!(stage.admitted(&cookie(b"sid=\xfe"), 3).await, 2);
    // HTTP/2 carries the same bytes.
    let mut connection = http2::Connection::open(stage.http).await;
    assert_eq!(connection.send(&key(b"\xff")).await.status, 429);
    assert_eq!(connection.send(&key(b"\xfd")).await.status, 200);
    // Headers that are read for the tier, as an address or for matching.
    for name in ["accept", "content-type", "user-agent", "x-jwt-payload", "x-plan", "x-forwarded-for", "referer"] {
        let answer = stage.ask(&Request::get("/claim/").with(name, b"\xff\xfe\x80")).await;
        assert!(matches!(answer.status, 200 | 429), "{name}: {answer:?}");
    }
    stage.end().await;
}

#[tokio::test]
async fn path_that_is_not_utf8_is_counted_unless_envoy_refuses_it_before() {
    let shipped = Stage::start(&every_key(2)).await;
    let raw = Stage::with(&every_key(2), raw_paths).await;
    let (counted, refused) = ([200, 200, 429], [400, 400, 400]);
    for (target, by_shipped, by_raw) in [
        (&b"/path/\xff"[..], refused, refused),
        (b"/path/%ff", counted, counted),
        (b"/path/%c3%28", counted, counted),
        (b"/path/%00", refused, counted),
        (b"/path/%", counted, counted),
        (b"/path/%zz", counted, counted),
        (b"/query/?q=\xff", refused, refused),
        (b"/query/?q=%ff", counted, counted),
    ] {
        for (stage, expected) in [(&shipped, by_shipped), (&raw, by_raw)] {
            let mut statuses = Vec::new();
            for _ in 0..3 {
                statuses.push(stage.ask(&Request::get(target).from("192.0.2.1")).await.status);
            }
            assert_eq!(statuses, expected, "{}", target.escape_ascii());
        }
    }
    shipped.end().await;
    raw.end().await;
}

#[tokio::test]
async fn eight_kilobytes_of_header_and_a_thousand_cookies_are_read_to_their_end() {
    let stage = Stage::start(&every_key(2)).await;
    let long = |last: &str| Request::get("/header/").with("x-key", "k".repeat(8 * 1024) + last).from("192.0.2.1");
    assert_eq!(stage.admitted(&long("a"), 3).await, 2);
    assert_eq!(stage.admitted(&long("b"), 3).await, 2);

    let many: String = (0..1_000).map(|n| format!("c{n}=v{n}; ")).collect();
    let cookies = |sid: &str| Request::get("/cookie/").with("cookie", format!("{many}sid={sid}")).from("192.0.2.1");
    assert_eq!(stage.admitted(&cookies("a"), 3).await, 2);
    assert_eq!(stage.admitted(&cookies("b"), 3).await, 2);

    // A thousand lines are more headers than Envoy accepts.
    let lines = (0..1_000).fold(Request::get("/cookie/"), |request, n| request.with("cookie", format!("c{n}=v{n}")));
    assert_eq!(stage.ask(&lines).await.status, 431);

    let query = |q: &str| Request::get(format!("/query/?{}q={q}", "a=b&".repeat(2_000))).from("192.0.2.1");
    assert_eq!(stage.admitted(&query("a"), 3).await, 2);
    assert_eq!(stage.admitted(&query("b"), 3).await, 2);

    for target in ["/".repeat(8 * 1024), "/a".repeat(4 * 1024), "/..".repeat(2 * 1024), "/%2e".repeat(2 * 1024)] {
        let answer = stage.ask(&Request::get(&target).from("192.0.2.1")).await;
        assert!(matches!(answer.status, 200 | 400), "{}...: {answer:?}", &target[..8]);
    }
    stage.end().await;
}

#[tokio::test]
async fn request_without_what_others_have_is_answered() {
    let stage = Stage::start(&every_key(100)).await;
    for path in ["/", "/header/", "/cookie/", "/query/", "/query/?", "/claim/", "/path/?"] {
        for forwarded in [None, Some(""), Some(" "), Some(",")] {
            let request = forwarded.iter().fold(Request::get(path), Request::from);
            let request = ["cookie", "x-key", "accept", "x-jwt-payload"]
                .iter()
                .fold(request, |request, name| request.with(name, ""));
            assert_eq!(stage.ask(&request).await.status, 200, "{request:?}");
        }
    }
    // An absolute URL as sent to a proxy; an asterisk; no host.
    let mut connection = Connection::open(stage.http).await.unwrap();
    let absolute = Request::get("http://suite.example/header/x?y").from("192.0.2.1");
    assert_eq!(connection.send(&absolute).await.unwrap().status, 200);
    let asterisk = connection.send(&Request::get("*").method("OPTIONS").from("192.0.2.1")).await;
    assert!(asterisk.is_ok_and(|answer| answer.status < 500));
    stage.end().await;
}
