//! Thousands of hostile requests over raw TCP: whatever the responses, the workers' VMs survive.

use serde_json::json;
use tidegate::api_key::Digest;

use super::client::{Connection, Request};
use super::stage::{Stage, limit, policy, raw_paths};
use crate::fuzz::cases;
use crate::fuzz::dice::Dice;

const HEADERS: [&str; 12] = [
    "x-forwarded-for",
    "x-jwt-payload",
    "x-api-key",
    "x-cost",
    "x-plan",
    "x-key",
    "cookie",
    "accept",
    "content-type",
    "x-tidegate-upstream",
    "user-agent",
    "referer",
];
const VALUES: [&str; 18] = [
    "192.0.2.7",
    "2001:db8::1, 192.0.2.8",
    "[::1]:80",
    "fe80::1%eth0",
    "sid=1",
    "sid=\"1\"; sid=2",
    "eyJzdWIiOiJ1MSJ9",
    "eyJzdWIiOiJ1MSIsInN1YiI6MX0=",
    "99999999999999999999",
    "-1",
    "0",
    "stolen",
    "application/problem+json;q=0.5",
    "application/grpc",
    "premium",
    "",
    ",,,,",
    "\u{e9}",
];
const TARGETS: [&str; 12] = [
    "/",
    "/a/b?q=1",
    "/a//../b?q=%31&q=2",
    "/a/%2e%2e/%2F",
    "/?",
    "/?&&&===",
    "/?q=%",
    "/%ff%00",
    "*",
    "http://h/a?q=1",
    "//h/a",
    "/a;b=c?q=1;q=2",
];

/// A hostile value: any bytes that do not end the line, sometimes very long.
fn value(dice: &mut Dice) -> Vec<u8> {
    let mut value = dice.pick(&VALUES).as_bytes().to_vec();
    dice.mutate(&mut value, &VALUES);
    match dice.below(12) {
        0 => value = dice.bytes(200),
        1 => value = value.repeat(1 + dice.below(4_000)),
        2 => value = [b"a,".repeat(dice.below(8_000)), value].concat(),
        3 => value = [b"[{".repeat(dice.below(4_000)), value].concat(),
        _ => {}
    }
    value.truncate(30_000);
    value.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    value
}

fn request(dice: &mut Dice) -> Request {
    let mut target = dice.pick(&TARGETS).as_bytes().to_vec();
    dice.mutate(&mut target, &["/", "..", "%2e", "?", "&", "q=", "%", "#", "+", "\u{e9}"]);
    if dice.one_in(20) {
        target.extend(b"/..%2f".repeat(dice.below(2_000)));
    }
    // Sometimes the request may have bytes that Envoy refuses. Otherwise it has any bytes but these, so that it reaches
    // the filter.
    let is_raw = dice.one_in(8);
    let refused = |byte: &u8, plain: bool| match byte {
        b'\r' | b'\n' => true,
        _ => !is_raw && (*byte < b' ' || *byte == 0x7f || (plain && (*byte > 0x7f || *byte == b' ' || *byte == b'#'))),
    };
    target.retain(|byte| !refused(byte, true));
    if !is_raw && !target.starts_with(b"/") && !target.starts_with(b"http://") {
        target.insert(0, b'/');
    }
    let address = format!("198.18.{}.{}", dice.below(4), dice.below(64));
    let request = (0..dice.below(10)).fold(Request::get(target), |request, _| {
        let mut value = value(dice);
        value.retain(|byte| !refused(byte, false));
        request.with(HEADERS[dice.below(HEADERS.len())], value)
    });
    // The proxy in front of Envoy appends the address after whatever the client writes.
    request.from(address)
}

#[tokio::test]
async fn thousands_of_hostile_requests_leave_the_vm_as_it_was() {
    let mut every = limit("every", "/**", &["address", "tier"], 5);
    every["cost"] = json!({ "request_header": "x-cost", "max": 3 });
    every["ban"] = json!({ "after": 3, "within": "1m", "for": "1s" });
    every["penalty"] = json!({ "max": 2 });
    let keys = ["header:x-key", "cookie:sid", "query:q", "claim:sub", "path", "host"];
    let mut policy = policy([every].into_iter().chain(keys.map(|key| {
        let name = key.replace(':', "-");
        limit(&name, "/**", &["address", key], 9)
    })));
    let hash = Digest::of(b"stolen").unwrap().to_string();
    policy["tiers"] = json!(["free", "premium"]);
    policy["client"]["api_key"] = json!({ "header": "x-api-key" });
    policy["client"]["tier"] = json!({ "api_keys": { (Digest::of(b"premium").unwrap().to_string()): "premium" } });
    policy["deny"] = json!({ "api_keys": [hash], "headers": { "x-key": ["stolen"] }, "addresses": ["192.0.2.8"] });
    let stage = Stage::with(&policy, raw_paths).await;

    let mut requests = Vec::new();
    cases("hostile requests", |dice| requests.push(request(dice)));
    requests.truncate(REQUESTS);
    let mut connection = Connection::open(stage.http).await.unwrap();
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    for request in &requests {
        let answer = match connection.send(request).await {
            Ok(answer) => Some(answer),
            // Envoy closes the connection if it cannot tell where the next request begins.
            Err(error) => {
                assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{request:?}");
                None
            }
        };
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        // Every refusal has a legitimate reason: none comes from a failed VM or a missing upstream.
        assert!(matches!(status, 0 | 200 | 400 | 403 | 404 | 413 | 414 | 426 | 429 | 431), "{status}: {request:?}");
        *statuses.entry(status).or_default() += 1;
        let goes_on = answer.is_some_and(|answer| answer.header("connection") != "close");
        if !goes_on {
            connection = Connection::open(stage.http).await.unwrap();
        }
    }
    eprintln!("statuses: {statuses:?}");
    // All of the filter's responses have occurred, and an honest client is still served.
    for status in [200, 403, 429] {
        assert!(statuses.get(&status).is_some_and(|count| *count > 50), "{statuses:?}");
    }
    assert_eq!(stage.admitted(&Request::get("/honest").from("198.51.100.1"), 7).await, 5);
    stage.end().await;
}

const REQUESTS: usize = 5_000;
