//! The responses of upstreams in random scenarios.

use serde_json::{Map, Value, json};

use super::fitting::{entries, is_routed};
use super::traffic::{Line, lines};
use crate::fuzz::dice::Dice;

/// What upstreams can do in a scenario with the same result on every host.
pub struct Manners {
    /// Whether they may report the request that they received: hosts may spell a path differently.
    tells: bool,
    /// Whether they can reset the connection.
    resets: bool,
    /// Those that may leave a request without a response: the timeout follows the host's own clock.
    times_out: Vec<String>,
}

impl Manners {
    pub fn under(policy: &Value, holds: bool, tells: bool) -> Self {
        let is_routed = is_routed(policy);
        let timed = entries(policy, "upstreams").filter(|(_, upstream)| upstream.get("timeout").is_some());
        let times_out = if is_routed && !holds { timed.map(|(name, _)| name.clone()).collect() } else { Vec::new() };
        Self { tells, resets: is_routed, times_out }
    }
}

/// What some of the upstreams do from now on.
pub fn answers(manners: &Manners, dice: &mut Dice) -> Value {
    let mut does = Map::new();
    for name in ["origin", "cdn", "spare"] {
        if dice.chance(60) {
            does.insert(name.to_owned(), answer(name, manners, dice));
        }
    }
    does.into()
}

fn answer(upstream: &str, manners: &Manners, dice: &mut Dice) -> Value {
    let mut does = Map::new();
    match dice.below(20) {
        0..8 => drop(does.insert("status".to_owned(), json!(*dice.any(&STATUSES)))),
        8..10 if manners.resets => drop(does.insert("fails".to_owned(), json!("reset"))),
        10..11 if manners.times_out.iter().any(|it| it == upstream) => {
            does.insert("fails".to_owned(), json!("timeout"));
        }
        _ => {}
    }
    let headers = lines(&HEADERS, dice);
    if !headers.is_empty() {
        does.insert("headers".to_owned(), headers.into());
    }
    let is_empty = does.get("status").is_some_and(|status| *status == 204 || *status == 304);
    match dice.below(20) {
        _ if is_empty => drop(does.insert("body".to_owned(), json!(""))),
        0..8 if manners.tells => drop(does.insert("tells".to_owned(), json!(true))),
        8..10 => drop(does.insert("body".to_owned(), json!(dice.any(&["", "short"])))),
        10 => drop(does.insert("body".to_owned(), json!("x".repeat(3_000)))),
        _ => {}
    }
    does.into()
}

const STATUSES: [u16; 18] = [200, 200, 200, 401, 403, 404, 410, 429, 500, 500, 501, 502, 503, 301, 308, 204, 206, 304];

const HEADERS: [Line; 18] = [
    (
        50,
        "cache-control",
        &[
            "max-age=60",
            "max-age=60",
            "max-age=60",
            "max-age=600",
            "max-age=5, must-revalidate",
            "no-store",
            "private",
            "no-cache",
            "public, max-age=10",
            "s-maxage=30",
            "max-age=60, stale-if-error=20",
            "Max-Age=\"60\"",
            "max-age=abc",
            "public,max-age=600,immutable",
            "must-understand, no-store",
            "max-age=0",
        ],
    ),
    (20, "vary", &["accept-encoding", "accept-language", "*", "Accept-Language, x-account", "cookie", "accept"]),
    (5, "set-cookie", &["a=b"]),
    (15, "retry-after", &["5", "0", "100", "abc", "Fri, 15 Jan 2027 12:00:10 GMT"]),
    (15, "etag", &["\"v1\"", "W/\"v1\""]),
    (10, "last-modified", &["Fri, 15 Jan 2027 11:00:00 GMT", "junk"]),
    (
        35,
        "content-type",
        &[
            "text/html",
            "text/html; charset=utf-8",
            "image/jpeg",
            "application/json",
            "TEXT/HTML",
            "application/xhtml+xml",
        ],
    ),
    (25, "x-cost", &["0", "2", "7", "abc", "-1", "99999999999", "2.5", "+2", "3"]),
    (
        10,
        "endpoint-load-metrics",
        &[
            "TEXT cpu_utilization=0.97,eps=3",
            "JSON {\"cpu_utilization\": 0.85, \"mem_utilization\": 0.9}",
            "TEXT cpu_utilization=2,application_utilization=0.1",
            "BIN abc",
        ],
    ),
    (7, "age", &["3", "100", "x"]),
    (7, "date", &["Fri, 15 Jan 2027 12:00:00 GMT", "Fri, 15 Jan 2027 11:59:50 GMT", "junk"]),
    (5, "expires", &["Fri, 15 Jan 2027 12:01:00 GMT", "0"]),
    (5, "link", &["</x.css>; rel=preload; as=style"]),
    (5, "location", &["/elsewhere"]),
    (5, "x-tidegate", &["forged"]),
    (5, "x-ratelimit-limit", &["77"]),
    (5, "ratelimit", &["\"other\";r=1"]),
    (5, "cache-status", &["cdn; hit"]),
];
